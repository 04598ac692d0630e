"""From what a connector delivers to what Postgres can store: checks, cleaning and units of one record.

Pure functions on values. Whatever is changed is counted or noted in the record's metadata under `import_notes`;
whatever is missing is an `InvalidRecordError`. Reading transcripts out of files belongs to `transcripts/`.
"""

from __future__ import annotations

import math
import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID

from import_pipeline.errors import InvalidRecordError
from import_pipeline.records import EXTERNAL_ID_LIMIT_BYTES, ConnectorRecord, JsonObject, ListedItem, StorableRecord
from import_pipeline.transcripts.text import clean_text

LONGEST_TITLE = 1_000
"""Characters; more are cut off, and noted where it is imported. Titles stand in indexes, tables and messages."""
LONGEST_LOCATION = 16_000
"""Characters; a longer one is left out, for half an address leads nowhere. The longest path takes 12,288."""
LONGEST_DURATION = timedelta(hours=48)
DEEPEST_METADATA = 100
"""Levels of nesting. JSON readers give up at some depth (that of the staged files at 200), and then for the batch."""
LARGEST_NUMBER_BITS = 10_000
"""Python refuses to write numbers of more than 4,300 digits."""
NOTES_KEY = "import_notes"
NO_LINK = "not an http or https address, left out"
_LINK_KEY = re.compile(r"(?:(?:^|[\W_])(?:url|uri|link|href)|[a-z](?:Ur[li]|UR[LI]|Link|Href))s?$", re.ASCII)
"""Names of fields of the metadata that somebody's page shows as links: `share_link`, `meeting_url`, `joinUrl`."""

# A path or an address of a file is a location too; anything else that a browser would execute is none.
_OTHER_SCHEME = re.compile(r"[\x00-\x20]*(?!(?:https?|file):)[a-z][a-z0-9+.\x00-\x20-]*:", re.IGNORECASE)


def normalise_record(record: ConnectorRecord) -> StorableRecord:
    """Check a record and return it as it will be stored; one that was checked already is returned as it is.

    Raises:
        InvalidRecordError: Something that an import needs is missing or of a wrong type.
    """
    if isinstance(record, StorableRecord):
        return record
    if not isinstance(record, ConnectorRecord):
        raise InvalidRecordError(
            f"A ConnectorRecord is needed, not {type(record).__name__}; please report it.", error_class="bug"
        )
    external_id = parse_external_id(record.external_id)
    notes: JsonObject = {}
    cleaner = _Cleaner(checks_links=True)
    if not isinstance(record.source_app, str) or not record.source_app.strip():
        raise InvalidRecordError("The record names no source.")
    if not _is_storable(record.source_app):
        raise InvalidRecordError("The record's source holds characters that cannot be stored.")
    transcript = _require_text(record.full_transcript, "transcript", cleaner)
    title = _optional_text(record.title, "title", cleaner)
    start = _parse_instant(record.recording_start_time, "start time")
    if start is None:
        raise InvalidRecordError("The record has no start time.")
    duration = _parse_duration(record.duration, notes)
    end = _parse_instant(record.recording_end_time, "end time")
    if end is not None and end < start:
        notes["recording_end_time"] = "before the start, left out"
        end = None
    if end is None and duration is not None:
        try:
            end = start + timedelta(seconds=duration)
        except OverflowError:
            notes["recording_end_time"] = "outside the calendar, left out"

    if not isinstance(record.source_metadata, dict):
        raise InvalidRecordError("The record's source_metadata is not a JSON object.")
    metadata = cleaner.clean_json(record.source_metadata)
    metadata.pop("external_id", None)
    summary = _optional_text(record.summary, "summary", cleaner)
    audio_url = _parse_link(_optional_text(record.audio_url, "audio address", cleaner), "audio_url", notes)
    video_url = _parse_link(_optional_text(record.video_url, "video address", cleaner), "video_url", notes)
    if cleaner.replaced:
        notes["replaced_characters"] = cleaner.replaced
    if cleaner.no_links:
        notes["no_links"] = f"{cleaner.no_links} in the metadata {NO_LINK}"
    title = _cut_title(title, notes)
    earlier = metadata.pop(NOTES_KEY, None)
    if isinstance(earlier, dict):
        notes = {**earlier, **notes}
    return StorableRecord(
        external_id=external_id,
        source_app=record.source_app,
        title=title or "Untitled",
        full_transcript=transcript,
        recording_start_time=start,
        recording_end_time=end,
        duration=duration,
        source_metadata={"external_id": external_id, **metadata, **({NOTES_KEY: notes} if notes else {})},
        bank_id=_parse_uuid(record.bank_id, "bank"),
        vault_id=_parse_uuid(record.vault_id, "vault"),
        summary=summary,
        audio_url=audio_url,
        video_url=video_url,
    )


def parse_external_id(value: object) -> str:
    """Check an external id.

    Raises:
        InvalidRecordError: It is missing, empty, too long, or holds what PostgreSQL cannot store. It is never altered:
            two different ids must not become the same.
    """
    if not isinstance(value, str) or not value.strip():
        raise InvalidRecordError("The record has no external id.")
    if len(value) <= EXTERNAL_ID_LIMIT_BYTES and value.isascii() and value.isprintable():  # as nearly all are
        return value
    if not _is_storable(value):
        raise InvalidRecordError("The external id holds characters that cannot be stored.")
    size = len(value.encode())
    if size > EXTERNAL_ID_LIMIT_BYTES:
        raise InvalidRecordError(
            f"The external id is {size:,} bytes long; at most {EXTERNAL_ID_LIMIT_BYTES} are accepted."
        )
    return value


def normalise_item(item: ListedItem) -> ListedItem:
    """Return a listed item as it can be staged and kept in the ledger; its ids are left alone.

    Raises:
        InvalidRecordError: Something in it is of a wrong type, or its details are not JSON.
    """
    cleaner = _Cleaner()
    if item.provisional_id is not None and not (isinstance(item.provisional_id, str) and item.provisional_id):
        raise InvalidRecordError("The item's provisional id is not text.")
    if item.provisional_id is not None and not _is_storable(item.provisional_id):
        raise InvalidRecordError("The item's provisional id holds characters that cannot be stored.")
    if not isinstance(item.details, dict):
        raise InvalidRecordError("The item's details are not a JSON object.")
    if not isinstance(item.size_bytes, int):
        raise InvalidRecordError("The item's size is not a number of bytes.")
    title = _optional_text(item.title, "title", cleaner)
    location = _optional_text(item.location, "location", cleaner)
    if location and (len(location) > LONGEST_LOCATION or _OTHER_SCHEME.match(location)):
        location = None
    started_at = _parse_instant(item.started_at, "start time")
    details = cleaner.clean_json(item.details)
    return replace(
        item,
        title=title and title[:LONGEST_TITLE],
        location=location or None,
        started_at=started_at,
        details=details,
        size_bytes=max(item.size_bytes, cleaner.characters),
    )


class _Cleaner:
    """Replaces what PostgreSQL cannot store, leaves out links that are none where asked to, and counts how often."""

    def __init__(self, *, checks_links: bool = False) -> None:
        self.replaced = 0
        self.characters = 0
        self.no_links = 0
        self._checks_links = checks_links

    def clean(self, text: str) -> str:
        if text.isascii() and "\0" not in text:  # as nearly all are
            self.characters += len(text)
            return text
        cleaned, replaced = clean_text(text)
        self.characters += len(cleaned)
        self.replaced += replaced
        return cleaned

    def clean_json(self, value: JsonObject) -> JsonObject:
        cleaned: JsonObject = self._clean_value(value, DEEPEST_METADATA)
        return cleaned

    def _clean_value(self, value: Any, depth: int, *, is_link: bool = False) -> Any:
        if isinstance(value, str):
            text = self.clean(value)
            if self._checks_links and is_link and text and not is_link_text(text.strip()):
                self.no_links += 1
                return None
            return text
        if value is None or isinstance(value, bool):
            return value
        if isinstance(value, int):
            if value.bit_length() > LARGEST_NUMBER_BITS:
                raise InvalidRecordError("The metadata holds a number that is too large.")
            return value
        if isinstance(value, float):
            return value if math.isfinite(value) else None  # JSON knows no NaN and no infinity
        if isinstance(value, dict | list | tuple | set | frozenset) and depth == 0:
            raise InvalidRecordError("The metadata is nested too deeply.")
        if isinstance(value, dict):
            named = ((self.clean(str(self._clean_value(key, 0))), item) for key, item in value.items())
            return {
                name: self._clean_value(item, depth - 1, is_link=_LINK_KEY.search(name) is not None)
                for name, item in named
            }
        if isinstance(value, list | tuple | set | frozenset):
            return [self._clean_value(item, depth - 1, is_link=is_link) for item in value]
        if isinstance(value, datetime):
            return value.isoformat()
        if isinstance(value, UUID):
            return str(value)
        raise InvalidRecordError(f"The metadata holds a {type(value).__name__}, which is not JSON.")


def is_link_text(text: str) -> bool:
    """Say whether a text is an address that a browser opens as a page: no script, no file, nothing relative."""
    # A browser passes over control characters and takes a backslash for a slash.
    if not text.isprintable() or re.search(r"[\s\\]", text) or not re.match("https?://", text, re.IGNORECASE):
        return False
    try:
        parts = urlsplit(text)
        return bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        return False


def _parse_link(value: str | None, name: str, notes: JsonObject) -> str | None:
    text = (value or "").strip()
    if not text or is_link_text(text):
        return text or None
    notes[name] = NO_LINK
    return None


def _is_storable(text: str) -> bool:
    return clean_text(text)[1] == 0


def _require_text(value: object, name: str, cleaner: _Cleaner) -> str:
    text = _optional_text(value, name, cleaner)
    if text is None or not any(char.isprintable() and not char.isspace() for char in text):  # nobody would see any
        raise InvalidRecordError(f"The record has no {name}.")
    return text


def _optional_text(value: object, name: str, cleaner: _Cleaner) -> str | None:
    if value is None:
        return None
    if not isinstance(value, str):
        raise InvalidRecordError(f"The record's {name} is not text but {type(value).__name__}.")
    return cleaner.clean(value)


def _cut_title(title: str | None, notes: JsonObject) -> str:
    title = " ".join((title or "").split())
    if len(title) > LONGEST_TITLE:
        notes["title"] = f"cut off after {LONGEST_TITLE:,} characters"
    return title[:LONGEST_TITLE].rstrip()


def _parse_instant(value: object, name: str) -> datetime | None:
    if value is None:
        return None
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value)
        except ValueError as error:
            raise InvalidRecordError(f"The {name} is not an ISO 8601 time.") from error
    if not isinstance(value, datetime):
        raise InvalidRecordError(f"The {name} is not a time but {type(value).__name__}.")
    if value.tzinfo is None or value.utcoffset() is None:
        raise InvalidRecordError(f"The {name} has no time zone.")
    try:
        return value.astimezone(UTC)
    except OverflowError as error:
        raise InvalidRecordError(f"The {name} is outside the calendar.") from error


def _parse_duration(value: object, notes: JsonObject) -> int | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or value != value:
        notes["duration"] = "not a number of seconds, left out"
        return None
    if not 0 <= value <= LONGEST_DURATION.total_seconds():
        notes["duration"] = "not between 0 and 48 hours, left out"
        return None
    return round(value)


def _parse_uuid(value: object, name: str) -> UUID | None:
    if value is None or isinstance(value, UUID):
        return value
    if isinstance(value, str) and re.fullmatch(r"[0-9a-fA-F-]{32,36}", value):
        try:
            return UUID(value)
        except ValueError:
            pass
    raise InvalidRecordError(f"The {name} is not named by a UUID.")
