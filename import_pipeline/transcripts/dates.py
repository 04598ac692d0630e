"""Dates that transcripts name: aware if they say their zone, else naive and marked as such."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta, timezone

# Abbreviations with one meaning. "CST", "IST" and "BST" have several, so they count as no zone.
_ZONES = {
    "UTC": 0, "GMT": 0, "Z": 0, "WET": 0, "WEST": 60, "CET": 60, "CEST": 120, "EET": 120, "EEST": 180, "EST": -300,
    "EDT": -240, "CDT": -300, "MST": -420, "MDT": -360, "PST": -480, "PDT": -420, "JST": 540, "AEST": 600, "AEDT": 660,
}  # fmt: skip
_OFFSET = re.compile(r"(?:GMT|UTC)?\s*([+\-−–])\s*([0-9]{1,2})(?::?([0-9]{2}))?$", re.IGNORECASE)
_ISO_LIKE = re.compile(
    r"([0-9]{4})[-/]([0-9]{2})[-/]([0-9]{2})(?:\s+at\s+|,?\s+|T)([0-9]{1,2}):([0-9]{2})(?::[0-9]{2})?"
    r"(?:\s*([A-Za-z]{1,5}(?:[+\-−–][0-9]{1,2}(?::?[0-9]{2})?)?|[+\-−–][0-9]{1,2}(?::?[0-9]{2})?))?"
)
_COMPACT = re.compile(r"-([0-9]{8})_([0-9]{6})(UTC)?-")


def zone_of(text: str) -> timezone | None:
    """The zone in `GMT+1`, `+01:00`, `CET` or `UTC`; None if it is unknown or ambiguous."""
    text = text.strip()
    if text.upper() in _ZONES:
        return timezone(timedelta(minutes=_ZONES[text.upper()]))
    match = _OFFSET.fullmatch(text)
    if not match or int(match[2]) > 14 or int(match[3] or 0) > 59:
        return None
    offset = timedelta(hours=int(match[2]), minutes=int(match[3] or 0))
    return timezone(offset if match[1] == "+" else -offset)


def find_date(text: str) -> datetime | None:
    """A date with a time of day in one line.

    Args:
        text: Such as `Weekly sync (2026-03-02 at 10:02 GMT+1) - Transcript` or
            `Weekly sync-20260302_100000-Meeting Transcript`.

    Returns:
        An aware datetime if the zone is given, a naive one if not, None if there is no date.
    """
    text = text[:300]
    try:
        if match := _ISO_LIKE.search(text):
            year, month, day, hour, minute = (int(part) for part in match.groups()[:5])
            zone = zone_of(match[6]) if match[6] else None
            return datetime(year, month, day, hour, minute, tzinfo=zone)
        if match := _COMPACT.search(text):
            found = datetime.strptime(match[1] + match[2], "%Y%m%d%H%M%S")  # noqa: DTZ007 - zone follows, if any
            return found.replace(tzinfo=UTC) if match[3] else found
    except ValueError:  # the 31st of February
        return None
    return None
