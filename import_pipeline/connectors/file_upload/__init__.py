"""File upload: transcripts in files and folders, by path. Needs no credentials; formats are read by `transcripts/`.

Each file is one item, known by the SHA-256 of its content: a renamed copy is a duplicate, a changed file is not. A
JSON list of records is one item per record. What fails is known by its path, so that two broken files are two failures.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

from import_pipeline.connectors.base import Connector
from import_pipeline.connectors.file_upload.fences import (
    UPLOAD_FOLDERS,
    Fence,
    NotPermittedError,
    Reach,
    is_address,
    names_of_user,
    own_fences,
)
from import_pipeline.connectors.file_upload.files import (
    SETTLE_SECONDS,
    FoundFile,
    describe_os_error,
    display_path,
    find_files,
    inspect_file,
    path_as_text,
    path_to_uri,
    read_file,
    to_path,
    uri_to_path,
)
from import_pipeline.errors import ConfigurationError, ItemError, NotReadyError, TranscriptError
from import_pipeline.providers.http import HttpClient
from import_pipeline.providers.source_settings import number_setting
from import_pipeline.records import EXTERNAL_ID_LIMIT_BYTES, Account, ConnectorRecord, JsonObject, ListedItem, Window
from import_pipeline.transcripts import read_records, read_transcript

_SUFFIXES = (".vtt", ".srt", ".txt", ".json", ".docx")
_KNOWN = ", ".join(_SUFFIXES)
_LISTS = ("paths", "dropped", "again")
_DESTINATION = ("bank_id", "vault_id")
_RECORD_FIELDS = {field.name for field in fields(ConnectorRecord)} - {
    "external_id", "source_app", "source_metadata", *_DESTINATION,
}  # fmt: skip


class FileUpload(Connector):
    """Transcripts in files and folders.

    Args:
        is_of_command: Whether a command reads, which may read what its user may; the UI only what is allowed.
    """

    source_app = "file-upload"
    title = "File upload"
    description = "Transcripts in files and folders: .vtt, .srt, .txt, .json and .docx of the usual programs."
    documentation_url = "https://www.w3.org/TR/webvtt1/"
    partitioned = False
    reads_files = True
    is_polled = False

    def __init__(self, *, is_of_command: bool = False) -> None:
        self._is_of_command = is_of_command

    def for_command(self) -> "FileUpload":
        """Return one that reads what the user of this process may read."""
        return FileUpload(is_of_command=True)

    def check_options(self, options: JsonObject) -> JsonObject:
        """Accept lists of absolute paths.

        `paths` are what somebody asks for. `dropped` are files that lay in the drop folder: one that is gone from there
        is no failure. `again` are files that an earlier run has listed: not what a person names now, so that even a
        command reads them in the folders of others only as they are read there.
        """
        options.pop("folder", None)  # runs of earlier versions said where dropped files lay
        lists: JsonObject = {name: options.pop(name) for name in _LISTS if name in options}
        super().check_options(options)
        for paths in lists.values():
            if not isinstance(paths, list) or not all(isinstance(path, str) for path in paths):
                raise ConfigurationError("The options 'paths', 'dropped' and 'again' are lists of files and folders.")
        named = [path for paths in lists.values() for path in paths]
        if not named:
            raise ConfigurationError("File upload needs the option 'paths': a list of files and folders.")
        for path in named:
            if not path.startswith(("/", "file:///")):
                raise ConfigurationError(f"The path {path!r} is not absolute; the run may start in another folder.")
        number_setting("IMPORT_PIPELINE_MAX_FILE_MB", 50)
        number_setting("IMPORT_PIPELINE_SETTLE_SECONDS", SETTLE_SECONDS)
        self._require_permission(named)
        return lists

    def options_for_retry(self, items: Mapping[str, str | None]) -> JsonObject:
        """List these files again, each once."""
        uris = {key.partition("#")[0] for key in items if key.startswith("file://")}
        return {"again": sorted(uris | {path for key, path in items.items() if path and not key.startswith("file://")})}

    def list_items(self, account: Account, window: Window, http: HttpClient) -> Iterator[ListedItem]:
        """Yield every file below the paths; files have no dates one could ask for, so the window does not matter."""
        limit = int(number_setting("IMPORT_PIPELINE_MAX_FILE_MB", 50) * 1_000_000)
        settle = number_setting("IMPORT_PIPELINE_SETTLE_SECONDS", SETTLE_SECONDS)
        listed: set[Path] = set()
        for name in _LISTS:
            is_again = name == "again"
            reach = self._reach(account, is_again=is_again)
            paths = [path for path in map(to_path, account.options.get(name, [])) if path not in listed]
            listed.update(paths)
            for found in find_files(dict.fromkeys(paths), reach, leaves_out_missing=name == "dropped"):
                file = inspect_file(found, size_limit_bytes=limit, settle_seconds=settle, reach=reach)
                records = _read_list(file, reach)
                if records is None:
                    yield _item(file, file.sha256, is_again)
                else:
                    for position, record in enumerate(records):
                        yield _item(file, _hash(record), is_again, position)

    def _require_permission(self, paths: Iterable[str]) -> None:
        """Refuse paths before anything is written about them: what stands in the ledger is tried again by commands.

        Raises:
            ConfigurationError: This process may not read at one of them.
        """
        if self._is_of_command:
            return
        fences = tuple(own_fences())
        if not fences:
            raise ConfigurationError(
                f"This process takes no paths, because {UPLOAD_FOLDERS} names no folder that uploads may be read from. "
                "Set it where the UI is started, or use `import-pipeline upload`."
            )
        reach = Reach(fences)
        for path in paths:
            if not reach.permits(to_path(path)):
                raise ConfigurationError(str(NotPermittedError(to_path(path))))

    def _reach(self, account: Account, *, is_again: bool) -> Reach:
        """Return what may be read for an account: it depends on this process, and on nothing that a run says."""
        with_uploads = is_again or not self._is_of_command
        known = (
            Fence(to_path(shared.path), is_dropped=shared.is_dropped)
            for shared in account.shared_folders
            if shared.is_dropped or with_uploads
        )
        # A label is made for people: where it is not the address as it is, it is no address either.
        names = names_of_user(*filter(is_address, [account.label]), str(account.user_id))
        return Reach((*own_fences(with_uploads=with_uploads), *known), names, self._is_of_command)

    def fetch_record(self, account: Account, item: ListedItem, http: HttpClient) -> ConnectorRecord:
        """Read one file, or one record of a list."""
        details = item.details
        if details["waiting"]:
            raise NotReadyError(f"The file was left alone: {details['waiting']}. Upload it again once it is complete.")
        path, reach = uri_to_path(details["uri"]), self._reach(account, is_again=details["again"])
        if details["problem"]:
            raise ItemError(f"The file {details['problem']}.")
        if path.suffix.lower() not in _SUFFIXES:
            raise ItemError(f"The file is of an unknown kind ({path.suffix or 'no suffix'}); {_KNOWN} are read.")
        modified_at = datetime.fromtimestamp(details["modified_at"], UTC)
        metadata: JsonObject = {"file_name": path.name, "file_size_bytes": details["size_bytes"]}
        try:
            if details["position"] is not None:
                listed = _records_of(path, details["sha256"], details["size_bytes"], reach)
                return _own_record(item, listed[details["position"]], path, modified_at, metadata)
            _records_of.cache_clear()
            data = _read(path, details["sha256"], details["size_bytes"], reach)
            records = read_records(data) if path.suffix.lower() == ".json" else None
            if records is not None:
                return _own_record(item, records[0], path, modified_at, metadata)
            transcript = read_transcript(data, name=path.name)
        except OSError as error:
            raise ItemError(f"The file {describe_os_error(error)}.") from error
        except TranscriptError as error:
            raise TranscriptError(f"The file {error}.") from error
        del data  # of the largest files only one copy at a time fits into the bounds of memory
        started_at, source = (modified_at, "file modification time")
        if transcript.started_at is not None:
            started_at, source = transcript.started_at, "content"
        elif transcript.started_at_local is not None:
            started_at = transcript.started_at_local.astimezone()
            source = "content, taken for the time zone of the importing machine"
        return ConnectorRecord(
            external_id=item.external_id,
            source_app=self.source_app,
            title=path.stem,
            full_transcript=transcript.to_text(),
            recording_start_time=started_at,
            duration=transcript.duration_seconds,
            source_metadata=metadata
            | {"format": transcript.format, "start_time_from": source}
            | ({"title_in_file": transcript.title} if transcript.title else {})
            | ({"transcript_notes": dict(transcript.notes)} if transcript.notes else {}),
        )


def _read_list(file: FoundFile, reach: Reach) -> list[JsonObject] | None:
    """Return the records of a JSON list; None for any other file, and for one that is reported as broken later."""
    if file.sha256 is None or file.path.suffix.lower() != ".json":
        return None
    try:
        data = read_file(file.path, file.sha256, file.size_bytes, reach)
        if data is None or not data[:64].lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"["):
            return None
        return read_records(data)
    except (TranscriptError, OSError):
        return None


@lru_cache(maxsize=1)
def _records_of(path: Path, sha256: str, size_bytes: int, reach: Reach) -> list[JsonObject]:
    """Return the records of a list; kept while its records come one after the other, or each would parse the file."""
    return read_records(_read(path, sha256, size_bytes, reach)) or []


def _read(path: Path, sha256: str, size_bytes: int, reach: Reach) -> bytes:
    data = read_file(path, sha256, size_bytes, reach)
    if data is None:
        raise NotReadyError("The file changed while it was being imported. Upload it again once it is complete.")
    return data


def _hash(record: JsonObject) -> str | None:
    try:
        return hashlib.sha256(json.dumps(record, sort_keys=True, ensure_ascii=True).encode()).hexdigest()
    except RecursionError:  # nested just less deeply than can be read; it fails by itself, known by its place
        return None


def _item(file: FoundFile, external_id: str | None, is_again: bool, position: int | None = None) -> ListedItem:
    uri = path_to_uri(file.path) + ("" if position is None else f"#{position}")
    if len(uri) > EXTERNAL_ID_LIMIT_BYTES:  # a long path in another script; as the ledger writes it
        uri = f"sha256:{hashlib.sha256(uri.encode()).hexdigest()}"
    return ListedItem(
        external_id=external_id or uri,
        title=display_path(Path(file.path.stem)),
        location=path_as_text(file.path),
        provisional_id=uri,
        details={
            "uri": path_to_uri(file.path),
            "again": is_again,
            "position": position,
            "sha256": file.sha256,
            "size_bytes": file.size_bytes,
            "modified_at": file.modified_at,
            "waiting": file.waiting,
            "problem": file.problem,
        },
        size_bytes=file.size_bytes if position is None else 0,
    )


def _own_record(
    item: ListedItem, record: JsonObject, path: Path, modified_at: datetime, metadata: JsonObject
) -> ConnectorRecord:
    """Take over a record in our own words; what it calls its id and source is kept beside ours.

    The author of the file need not be its importer, so the file does not choose where the record goes. What it
    says of that is kept in the metadata: the owner's personal vault, into which it goes instead, nobody else can see.
    """
    own: dict[str, Any] = {key: value for key, value in record.items() if key in _RECORD_FIELDS and value is not None}
    given = record.get("source_metadata") or {}
    if not isinstance(given, dict):
        raise ItemError("The record's source_metadata is not a JSON object.")
    start = own.pop("recording_start_time", None)
    destination = {name: record[name] for name in _DESTINATION if record.get(name) is not None}
    return ConnectorRecord(
        external_id=item.external_id,
        source_app=FileUpload.source_app,
        title=own.pop("title", path.stem),
        full_transcript=own.pop("full_transcript", ""),
        recording_start_time=modified_at if start is None else start,
        source_metadata=given
        | metadata
        | {
            "format": "record-json",
            "start_time_from": "file modification time" if start is None else "content",
            "original_external_id": record.get("external_id"),
            "original_source_app": record.get("source_app"),
        }
        | ({"destination_in_file": destination} if destination else {}),
        **own,
    )
