"""Reading a provider's JSON: what is missing or null is None, unknown fields are normal, a changed type is an error.

The error names the field and fails one item with the class `data`; it never quotes the value.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

from import_pipeline.errors import ItemError
from import_pipeline.json_bounds import has_too_many_values
from import_pipeline.records import JsonObject

DEEPEST = 200
"""Levels of nesting; an item with half of them is refused, see `library/normalise.py`."""
_LONGEST_NUMBER = 4_300
"""Digits; Python reads no more as a whole number."""
_BRACKET_OR_TEXT = re.compile(r'"(?:[^"\\]++|\\.?)*+"?|[\[\]{}]', re.DOTALL)


def parse_json(content: bytes) -> Any:
    """Parse a provider's JSON; what Python cannot hold is replaced, for one odd item must not cost its whole page.

    Bytes that are no text become U+FFFD, numbers of thousands of digits infinite, what is nested beyond `DEEPEST` null.

    Raises:
        ValueError: It is no JSON, or too much of it for the memory.
    """
    text = content.decode(json.detect_encoding(content), "replace")
    if has_too_many_values(text):
        raise ValueError("It holds too many values.")
    try:
        return json.loads(text, parse_int=_parse_whole)
    except RecursionError:
        return json.loads("".join(_cut_nesting(text)), parse_int=_parse_whole)


def get_text(value: Any, path: str) -> str | None:
    """Return the text at a dotted path, None where it is missing or blank."""
    found = _get(value, path, str, "text")
    return found if found is None or found.strip() else None


def get_number(value: Any, path: str) -> float | None:
    """Return the number at a dotted path; numbers in text are taken too."""
    found = _get(value, path, int | float | str, "a number")
    try:
        return None if found is None or found == "" else float(found)
    except (ValueError, OverflowError):
        raise ItemError(f"The field {path!r} is not a number.") from None


def get_instant(value: Any, path: str) -> datetime | None:
    """Return the instant at a dotted path, ISO 8601 with an offset (RFC 3339)."""
    text = get_text(value, path)
    if text is None:
        return None
    try:
        instant = datetime.fromisoformat(text.strip())
        if instant.utcoffset() is not None:
            return instant.astimezone(UTC)
    except (ValueError, OverflowError):
        raise ItemError(f"The field {path!r} is not a time.") from None
    raise ItemError(f"The field {path!r} is a time without a zone.")


def get_list(value: Any, path: str) -> list[Any]:
    """Return the list at a dotted path; empty where it is missing."""
    return _get(value, path, list, "a list") or []


def get_object(value: Any, path: str) -> JsonObject:
    """Return the object at a dotted path; empty where it is missing."""
    return _get(value, path, dict, "an object") or {}


def peek(value: Any, path: str) -> Any:
    """Return whatever is at a dotted path, or None. For listings: one odd item must not break a page."""
    for key in path.split("."):
        value = value.get(key) if isinstance(value, dict) else None
    return value


def get_id(value: Any, path: str) -> str:
    """Return the id at a dotted path as text; empty where there is none, which fails the item."""
    try:
        found = _get(value, path, int | str, "an id")
    except ItemError:
        return ""
    return "" if found is None else str(found)


def clock_seconds(text: str | None) -> float | None:
    """Return the seconds of a clock time such as `01:02:03`, `02:03` or `00:02:03.5`."""
    match = re.fullmatch(r"(?:(\d{1,9}):)?(\d{1,9}):(\d{1,9}(?:\.\d{1,99})?)", (text or "").strip())
    if match is None:
        return None
    hours, minutes, seconds = match.groups()
    return int(hours or 0) * 3600 + int(minutes) * 60 + float(seconds)


def iso_duration_seconds(text: str | None) -> float | None:
    """Return the seconds of an ISO 8601 duration of days and less, such as `P1DT2H3M4S`; None where it is none."""
    match = re.fullmatch(r"P(?:(\d+)W)?(?:(\d+)D)?(?:T(?:(\d+)H)?(?:(\d+)M)?(?:(\d+(?:\.\d+)?)S)?)?", text or "")
    if match is None:
        return None
    weeks, days, hours, minutes, seconds = (float(part or 0) for part in match.groups())
    return (((weeks * 7 + days) * 24 + hours) * 60 + minutes) * 60 + seconds


def _parse_whole(digits: str) -> int | float:
    return int(digits) if len(digits) <= _LONGEST_NUMBER else float(digits)


def _cut_nesting(text: str) -> Iterator[str]:
    depth = start = 0
    for match in _BRACKET_OR_TEXT.finditer(text):
        if match[0] in ("[", "{"):
            depth += 1
            if depth == DEEPEST + 1:
                yield text[start : match.start()]
        elif match[0] in ("]", "}"):
            if depth == DEEPEST + 1:
                yield "null"
                start = match.end()
            depth -= 1
    yield text[start:] if depth <= DEEPEST else ""


def _get(value: Any, path: str, expected: Any, name: str) -> Any:
    for key in path.split("."):
        if value is None:
            return None
        if not isinstance(value, dict):
            raise ItemError(f"The field {path!r} does not hold {name}.")
        value = value.get(key)
    if value is None:
        return None
    if not isinstance(value, expected) or isinstance(value, bool):
        raise ItemError(f"The field {path!r} does not hold {name}.")
    return value
