"""JSON files that hold whole records in our own fields instead of a transcript."""

from __future__ import annotations

import re
from typing import Any

from import_pipeline.errors import TranscriptError
from import_pipeline.transcripts.bounded_json import parse
from import_pipeline.transcripts.text import TextFile

FIELDS = frozenset(
    {
        "external_id", "source_app", "title", "full_transcript", "recording_start_time", "recording_end_time",
        "duration", "source_metadata", "summary", "audio_url", "video_url",
    }
)  # fmt: skip
_TELLING = ("external_id", "source_app", "full_transcript", "recording_start_time", "source_metadata")
_ANY_TELLING = re.compile('"(?:' + "|".join(_TELLING) + r')"\s*:')
MAX_OBJECTS = 300_000


def read_records(data: bytes) -> list[dict[str, Any]] | None:
    """Read a file of records.

    Args:
        data: The file; its name says nothing about what is in it.

    Returns:
        The objects as they are in the file, unchecked but for their shape: one, or one per element of a list. None if
        the file is no JSON or JSON of something else.

    Raises:
        TranscriptError: It is such a file, but damaged.
    """
    file = TextFile(data)
    start = file.head(65_536).lstrip("\ufeff \t\r\n")
    if start[:1] not in ("{", "[") or not _names_our_fields(file, data):
        return None
    count = 0

    def keep(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        nonlocal count
        count += 1
        if count > MAX_OBJECTS:
            raise TranscriptError(f"is JSON of more than {MAX_OBJECTS:,} objects")
        return dict(pairs)

    content = parse(file, keep)
    if isinstance(content, dict):
        return [content] if _is_record(content) else None
    if not isinstance(content, list) or not any(isinstance(entry, dict) and _is_record(entry) for entry in content):
        return None
    for number, entry in enumerate(content, 1):
        if not isinstance(entry, dict):
            raise TranscriptError(f"is a list of records, but its entry {number} is not an object")
    return content


def _names_our_fields(file: TextFile, data: bytes) -> bool:
    """A cheap look that spares parsing a large file of speech recognition as objects."""
    if file.encoding in ("utf-8", "cp1252"):
        return any(f'"{field}"'.encode() in data for field in _TELLING)
    return _ANY_TELLING.search(file.head(1 << 20)) is not None


def _is_record(entry: dict[str, Any]) -> bool:
    return isinstance(entry.get("full_transcript"), str) or sum(field in entry for field in _TELLING) >= 2
