"""Layouts in which a line of its own says who speaks or when: Otter, both Teams documents, YouTube's panel."""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import datetime
from typing import Any

from import_pipeline.transcripts.cues import TIMING
from import_pipeline.transcripts.dates import find_date
from import_pipeline.transcripts.layouts import CLOCK_LINE, NAMED_HEADER
from import_pipeline.transcripts.paragraphs import LONGEST_HEADER, Paragraphs, clock_ms
from import_pipeline.transcripts.turns import Turns, fill_ends

_OTTER_FOOTER = re.compile(r"\s*transcribed by\s+(?:https?://)?otter\.ai\S*\s*$", re.IGNORECASE)
_STARTED = re.compile(r"(.{1,100}?)\s+(started|stopped) transcription\s*$", re.IGNORECASE)
_LENGTH = re.compile(r"(?:([0-9]{1,3})h)?\s*+(?:([0-9]{1,4})m(?:in)?)?\s*+(?:([0-9]{1,2})s)?\s*+$")
_SPOKEN_CLOCK = re.compile(r"(?:[0-9]+ (?:hours?|minutes?|seconds?)(?:, | and )?){1,3}\s*$")
_TEAMS_TITLE = re.compile(r"(.{1,200}?)-[0-9]{8}_[0-9]{6}(?:UTC)?-Meeting (?:Transcript|Recording)", re.IGNORECASE)


def read_headed(
    lines: Iterable[str], into: Turns, about: dict[str, Any], notes: dict[str, Any], *, clocks_only: bool
) -> str:
    """Read `Name  0:03` headers with text below them, or bare times if there are no names.

    Args:
        lines: The lines of the text.
        into: Takes the turns.
        about: Filled with title, start and length, where the text gives them.
        notes: Told how many lines before the first turn were not understood.
        clocks_only: Whether a line with nothing but a time begins a turn.

    Returns:
        The format.
    """
    paragraphs = Paragraphs(into)
    form = "youtube-paste" if clocks_only else "otter"
    fresh = False
    for line in lines:
        if len(line) <= LONGEST_HEADER and line:
            if (header := NAMED_HEADER.match(line)) and not clocks_only:
                start = clock_ms(header[2])
                paragraphs.begin(" ".join(header[1].split()), start)
                continue
            if clocks_only and (header := CLOCK_LINE.match(line)):
                paragraphs.begin(None, clock_ms(header[1]))
                fresh = True
                continue
            if fresh and _SPOKEN_CLOCK.match(line):  # YouTube writes the time again for screen readers
                continue
            if _OTTER_FOOTER.match(line):
                form = "otter"
                continue
            if _STARTED.match(line):
                form = "teams-docx"
                continue
        fresh = fresh and not line.strip()
        paragraphs.line(line)
    paragraphs.close()
    form = _read_preamble(paragraphs.preamble, about, notes, form)
    if form == "youtube-paste":
        fill_ends(into)  # captions are put together to sentences
    return form


def _read_preamble(preamble: list[str], about: dict[str, Any], notes: dict[str, Any], form: str) -> str:
    """Title line, local date line and length line of a Teams document."""
    for line in preamble:
        if title := _TEAMS_TITLE.match(line):
            about["title"] = title[1]
            about["start"] = find_date(line)
            form = "teams-docx"
        elif (length := _LENGTH.match(line)) and any(length.groups()):
            hours, minutes, seconds = (int(part or 0) for part in length.groups())
            about["duration"] = hours * 3600 + minutes * 60 + seconds
        elif local := _local_date(line):
            about["start"] = about.get("start") or local
        elif "title" not in about and len(preamble) <= 3:
            about["title"] = line
        else:
            notes["skipped_lines"] = notes.get("skipped_lines", 0) + 1
    return form


def _local_date(line: str) -> datetime | None:
    """`2 March 2026, 10:00am` or `March 2, 2026, 10:00AM`: English, and without a zone."""
    line = " ".join(line.replace("\u202f", " ").split()).replace(" AM", "AM").replace(" PM", "PM")
    for layout in ("%d %B %Y, %I:%M%p", "%B %d, %Y, %I:%M%p", "%d %B %Y, %H:%M", "%B %d, %Y, %H:%M"):
        try:
            return datetime.strptime(line, layout)  # noqa: DTZ007 - the document does not say the zone
        except ValueError:
            continue
    return None


def read_teams_old(lines: Iterable[str], into: Turns, about: dict[str, Any], notes: dict[str, Any]) -> str:
    """Read the older Teams document: a line with start and end, a line with the name, lines of text."""
    paragraphs = Paragraphs(into)
    times: tuple[int | None, int | None] | None = None
    for line in lines:
        match = TIMING.match(line) if "-->" in line else None
        if match:
            first, last = match[0].split("-->")  # not of the line: behind them may stand anything
            times = clock_ms(first.strip(" \t-")), clock_ms(last.strip(" \t-"))
        elif times is not None and line.strip():
            start, end = times
            if start is not None and end is not None and end < start:
                end = start
            paragraphs.begin(" ".join(line.split())[:LONGEST_HEADER], start, end=end)
            times = None
        else:
            paragraphs.line(line)
    paragraphs.close()
    _read_preamble(paragraphs.preamble, about, notes, "teams-docx")
    return "teams-docx-old"
