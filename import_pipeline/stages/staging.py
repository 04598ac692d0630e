"""Where op outputs wait for the next op: sealed JSON Lines under a `UPath`, written and read one line at a time.

The I/O manager knows the types of `records.py` and nothing of their meaning. Staged files hold transcripts, and what
they say is done: each is sealed (`sealing.py`) for its run, step and output, and read only once all of it is genuine.
Folders are 0700, files 0600, in a folder that is ours alone; `insert` removes those of its batch after its commit,
`remove_old` what crashes left behind.
"""

from __future__ import annotations

import io
import itertools
import logging
import os
import re
import shutil
import time
from collections.abc import Collection, Generator, Iterable, Iterator
from contextlib import suppress
from datetime import timedelta
from pathlib import Path, PurePosixPath
from typing import IO, Annotated, Any
from uuid import UUID

import dagster as dg
import zstandard
from pydantic import Field, TypeAdapter, ValidationError
from upath import UPath

from import_pipeline.database.embedded import home
from import_pipeline.errors import ErasureError, StagedFileError
from import_pipeline.records import (
    Account,
    Batch,
    BatchSummary,
    Failed,
    Ignored,
    ImportSummary,
    Known,
    ListedItem,
    Listing,
    NewItem,
    Ready,
    Stream,
    Waiting,
)
from import_pipeline.stages.private_folders import require_private
from import_pipeline.stages.sealing import SealedReader, SealedWriter, sealing_keys

_logger = logging.getLogger(__name__)

STAGED_FOR = timedelta(days=3)
"""How long what a broken run staged is kept for a re-execution."""

_PARTIAL = ".partial"
_STREAM, _VALUE = b"stream\n", b"value\n"
_batch = TypeAdapter(Batch)
_item: TypeAdapter[Any] = TypeAdapter(
    Annotated[ListedItem | NewItem | Known | Ready | Waiting | Failed | Ignored, Field(discriminator="kind")]
)
_value: TypeAdapter[Any] = TypeAdapter(list[Account] | list[Listing] | BatchSummary | ImportSummary)


class StreamIOManager(dg.ConfigurableIOManager):
    """Writes each op's output as one file `base/<run>/<step>/<output>.sealed`, whole or not at all.

    Args:
        base: A folder or any address `universal_pathlib` knows (`s3://…`), private to the importer. Empty means
            `IMPORT_PIPELINE_STAGING` at the time of the run or, without it, a folder below `IMPORT_PIPELINE_HOME`.
    """

    base: str = ""

    def handle_output(self, context: dg.OutputContext, obj: Any) -> None:
        """Write a stream line by line, any other value as one line."""
        write_output(self._path(context.get_identifier()), obj)

    def load_input(self, context: dg.InputContext) -> Any:
        """Read what the upstream op wrote; a stream's items are read while they are consumed."""
        return read_output(self._path(context.get_identifier()))

    def remove_batch(self, run_id: str, mapping_key: str) -> None:
        """Remove the staged files of one batch, after its commit.

        The batch as `fetch` listed it stays until it is too old: it holds no transcript, and a re-execution from an
        earlier step needs it.
        """
        for step in (f"dedup[{mapping_key}]", f"transform[{mapping_key}]"):
            _try_to_remove(UPath(self.resolve_base()) / _file_name(run_id) / _file_name(step))

    def remove_run(self, run_id: str, account_id: UUID) -> None:
        """Remove all that a run staged; only once nobody will go on with it.

        Args:
            run_id: The run, as named in a row that its user may have written.
            account_id: An account that the run must have opened; otherwise it is another user's and stays.
        """
        folder = UPath(self.private_base()) / _file_name(run_id)
        if _is_about(folder, [account_id]):
            _try_to_remove(folder)

    def remove_runs_of(self, account_ids: Collection[UUID], run_ids: Collection[str] = ()) -> int:
        """Remove all that the given runs staged, and what any other run staged for one of the accounts.

        Returns:
            The number of runs of which there was something.

        Raises:
            ErasureError: Something is there still, or nobody knows.
        """
        base = UPath(self.resolve_base())
        names = {_file_name(run_id) for run_id in run_ids}
        try:
            if not _is_local(base):
                base.fs.invalidate_cache()
            folders = list(base.iterdir()) if base.exists() else []
            found = [folder for folder in folders if folder.name in names or _is_about(folder, account_ids)]
            for folder in found:
                _remove_tree(folder)
        except Exception as error:  # each store has errors of its own
            raise ErasureError(f"What runs left at {base} could not be removed ({type(error).__name__}).") from error
        return len(found)

    def resolve_base(self) -> str:
        """Return where the files are, at the time of the run."""
        return self.base or os.environ.get("IMPORT_PIPELINE_STAGING") or str(home() / "staging")

    def private_base(self) -> str:
        """Return where the files are, made if it is missing.

        Raises:
            ConfigurationError: It is a folder of this machine, and others may write there or put another in its place.
        """
        base = UPath(self.resolve_base())
        if _is_local(base):
            _make_private_folder(base)
            require_private(Path(base.path))
        return self.resolve_base()

    def _path(self, identifier: Iterable[str]) -> UPath:
        run_id, step, *output = [_file_name(part) for part in identifier]
        return UPath(self.private_base()) / run_id / step / f"{'.'.join(output)}.sealed"


def write_output(path: UPath, obj: Any) -> None:
    """Write one op output; a failure half-way leaves nothing behind."""
    _make_private_folder(path.parent)
    partial = path.with_name(path.name + _PARTIAL)
    try:
        with _open_private(partial) as raw:
            sealed = SealedWriter(raw, _place(path), sealing_keys())
            with zstandard.ZstdCompressor(level=1).stream_writer(sealed, closefd=False) as out:  # type: ignore[arg-type]
                if isinstance(obj, Stream):
                    out.write(_STREAM + _batch.dump_json(obj.batch) + b"\n")
                    for item in obj.items:
                        out.write(_item.dump_json(item))
                        out.write(b"\n")
                        del item  # before the next one comes into being: each may be large
                else:
                    out.write(_VALUE + _value.dump_json(obj) + b"\n")
            sealed.finish()
    except BaseException:
        if isinstance(obj, Stream) and isinstance(obj.items, Generator):
            obj.items.close()  # otherwise its threads go on for as long as somebody keeps the error
        with suppress(OSError):
            partial.unlink()
        raise
    if _is_local(path):
        partial.rename(path)
    else:  # `rename` takes both names for patterns
        path.fs.cp_file(partial.path, path.path)
        path.fs.rm_file(partial.path)


def read_output(path: UPath) -> Any:
    """Read one op output. The items of a stream are read, and its file stays open, while they are consumed.

    Raises:
        StagedFileError: It is not as it was written here, for this place, with our keys; nothing of it is used.
    """
    with path.open("rb") as raw:
        SealedReader(raw, _place(path), sealing_keys()).verify()
    lines = _read_lines(path)
    if next(lines) == _STREAM:
        return Stream(_parse(_batch, next(lines)), (_parse(_item, line) for line in lines))
    return _parse(_value, next(lines))


def _parse(adapter: TypeAdapter[Any], line: bytes) -> Any:
    """Read one line; what is wrong with it is not told by pydantic, whose messages quote the line.

    Raises:
        StagedFileError: It is not what this version writes.
    """
    try:
        return adapter.validate_json(line)
    except ValidationError:
        raise StagedFileError from None


def remove_old(base: str, older_than: timedelta) -> int:
    """Remove the staged runs that nobody has written to for that long, and say how many.

    Only for folders on this machine: an object store has life-cycle rules for this.
    """
    folder = Path(base)
    if "://" in base or not folder.is_dir():
        return 0
    limit = time.time() - older_than.total_seconds()
    old = []
    with os.scandir(folder) as entries:
        for entry in entries:
            with suppress(FileNotFoundError):  # another process removes old ones too
                # A run's folder is as old as its last step at least, so for most runs one look is enough.
                if entry.is_dir() and entry.stat().st_mtime < limit and _last_write(Path(entry)) < limit:
                    old.append(entry)
    for run in old:
        shutil.rmtree(run, ignore_errors=True)
    return len(old)


def _is_about(run: UPath, account_ids: Collection[UUID]) -> bool:
    """Say whether one of the accounts is named at the head of anything that a run staged."""
    for path in _files(run):
        with suppress(FileNotFoundError, StopIteration, StagedFileError, zstandard.ZstdError):  # removed, or cut off
            lines = _read_lines(path)
            if next(lines) == _STREAM:
                accounts = [_batch.validate_json(next(lines)).account.id]
            else:
                value = _parse(_value, next(lines))
                each = value if isinstance(value, list) else getattr(value, "accounts", [value])
                accounts = [getattr(one, "account_id", None) or one.id for one in each]
            if not set(account_ids).isdisjoint(accounts):
                return True
    return False


def _last_write(run: Path) -> float:
    newest = 0.0
    for path in (run, *run.iterdir()):
        with suppress(FileNotFoundError):
            newest = max(newest, path.stat().st_mtime)
    return newest


def _read_lines(path: UPath) -> Iterator[bytes]:
    with path.open("rb") as raw:
        sealed: Any = SealedReader(raw, _place(path), sealing_keys())
        with zstandard.ZstdDecompressor().stream_reader(sealed) as reader:
            yield from io.BufferedReader(reader, buffer_size=1 << 20)


def _place(path: UPath) -> str:
    """Return what a file is sealed for: its run, step and output, wherever the base may be."""
    return "/".join(path.parts[-3:]).removesuffix(_PARTIAL)


def _file_name(part: str) -> str:
    return re.sub(r"[^\w.\[\]-]|^\.+", "_", part)  # no name may lead out of the folder


def _make_private_folder(folder: UPath) -> None:
    if not _is_local(folder):
        folder.mkdir(parents=True, exist_ok=True)
        return
    # mkdir(mode=…) applies to the last folder only, and parents would follow the umask.
    missing = list(itertools.takewhile(lambda each: not each.exists(), (folder, *folder.parents)))
    for each in reversed(missing):
        each.mkdir(mode=0o700, exist_ok=True)


def _open_private(path: UPath) -> IO[bytes]:
    if not _is_local(path):
        return path.open("wb")
    with suppress(FileNotFoundError):
        os.unlink(str(path))  # what a crash left
    return os.fdopen(os.open(str(path), os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600), "wb")


def _try_to_remove(folder: UPath) -> None:
    """Remove what the caller no longer needs, whose own work is done: a store that refuses is told of."""
    try:
        _remove_tree(folder)
    except Exception as error:  # noqa: BLE001 - each store has errors of its own
        _logger.warning("%s could not be removed (%s); transcripts are in it.", folder, type(error).__name__)


def _remove_tree(folder: UPath) -> None:
    if _is_local(folder):
        with suppress(FileNotFoundError):
            shutil.rmtree(str(folder))
        return
    for path in _files(folder):
        with suppress(FileNotFoundError):
            folder.fs.rm_file(path.path)


def _files(folder: UPath) -> Iterator[UPath]:
    """Return every file below a folder. A store is asked without patterns, which a folder's own name may hold."""
    if _is_local(folder):
        yield from (path for path in folder.rglob("*") if path.is_file())
        return
    folder.fs.invalidate_cache()  # other processes wrote there
    for name in folder.fs.find(folder.path):
        yield folder / PurePosixPath(name).relative_to(folder.path).as_posix()


def _is_local(path: UPath) -> bool:
    return path.protocol in ("", "file", "local")
