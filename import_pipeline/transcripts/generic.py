"""Lines that name a speaker, a time, or both, in any of the ways people and programs write them; or just prose."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from import_pipeline.transcripts.dates import find_date
from import_pipeline.transcripts.paragraphs import CLOCK, LONGEST_HEADER, Paragraphs, clock_ms, nonblank
from import_pipeline.transcripts.speakers import looks_like_a_name, split_prefix
from import_pipeline.transcripts.turns import Turns

_BRACKETED_CLOCK = re.compile(rf"\s*(?:\[({CLOCK})(?:\s*-+>?\s*{CLOCK})?\]|\(({CLOCK})\))\s*[-–:]?\s*")
_BARE_CLOCK = re.compile(rf"\s*({CLOCK})\s+(?:[-–]\s+)?(?=\S)")
_NAME_THEN_CLOCK = re.compile(rf"\s*([^\s\[\](){{}}<>:][^\[\]{{}}<>:\n]{{0,79}}?)\s*[\[(]({CLOCK})[\])]\s*:?\s*")
_NAME_THEN_BARE = re.compile(rf"\s*([^\s\[\](){{}}<>:0-9][^\[\]{{}}<>:\n]{{0,79}}?)\s+({CLOCK})(?:\s+|:\s+|$)")
_EARLY_MS = 300_000
_ABOUT = re.compile(r"(title|date|attendees|participants|duration|recorded)\s*:\s*(\S.*)", re.IGNORECASE)


def read_generic(lines: Iterable[str], head: str, into: Turns, about: dict[str, Any], notes: dict[str, Any]) -> str:
    """Read `[00:00:03] Name: text`, `Name (0:03) text`, `Name 0:03 text`, `0:03 Name: text`, `Name: text`, or prose.

    Args:
        lines: The lines of the text.
        head: Its beginning, by which the way of writing times is chosen.
        into: Takes the turns, speakers guessed unless a time stands beside them.
        about: Filled with title and date, if the text begins with such lines.
        notes: Given `attendees`.
    """
    style = _style_of(head)
    paragraphs = Paragraphs(into, orphans=True)
    preamble = True
    for line in lines:
        if not line or line.isspace():
            paragraphs.line("")
            continue
        start, speaker, text = _split(line, style)
        if preamble and start is None:
            if _take_about(line.strip(), about, notes):
                continue
            preamble = False
        if start is None and (speaker is None or paragraphs.is_only_header):
            paragraphs.line(line)
        else:
            paragraphs.begin(speaker, start, text)
    paragraphs.close()
    return "generic"


def _style_of(head: str) -> str:
    lines = nonblank(head.split("\n"), 2_000)
    times: dict[str, list[int]] = {"bracketed": [], "name-clock": [], "bare": [], "name-bare": []}
    named = spoken = 0
    for line in lines:
        short = line[:LONGEST_HEADER]
        if match := _BRACKETED_CLOCK.match(short):
            times["bracketed"].append(clock_ms(match[1] or match[2]) or 0)
        elif (match := _NAME_THEN_CLOCK.match(short)) and looks_like_a_name(match[1]):
            times["name-clock"].append(clock_ms(match[2]) or 0)
        elif match := _BARE_CLOCK.match(short):
            times["bare"].append(clock_ms(match[1]) or 0)
            named += split_prefix(short[match.end() :])[0] is not None
        elif (match := _NAME_THEN_BARE.match(short)) and looks_like_a_name(match[1]):
            times["name-bare"].append(clock_ms(match[2]) or 0)
            spoken += match.end() < len(short)
    style = max(times, key=lambda style: len(times[style]))
    found = times[style]
    if not found:
        return "untimed"
    if style in ("bare", "name-bare"):  # "Lunch 12:30 as usual" and "10:30 works for me" are prose
        if len(found) < 0.4 * len(lines) or len(found) < 2 or found != sorted(found):
            return "untimed"
        if style == "name-bare" and spoken + len(lines) - len(found) < 0.5 * len(found):
            return "untimed"
        if style == "bare" and named < 0.5 * len(found) and (found[0] > _EARLY_MS or len(found) < 3):
            return "untimed"
    return style


def _split(line: str, style: str) -> tuple[int | None, str | None, str]:
    """Time, speaker and text; the speaker is a guess unless the time stands beside the name."""
    short = line[:LONGEST_HEADER]
    if style in ("name-clock", "name-bare"):
        match = (_NAME_THEN_CLOCK if style == "name-clock" else _NAME_THEN_BARE).match(short)
        if match and looks_like_a_name(match[1].strip("* ")):
            return clock_ms(match[2]), match[1].strip("* "), line[match.end() :].strip()
        return None, None, line
    start = None
    at = 0
    if style in ("bracketed", "bare"):
        match = (_BRACKETED_CLOCK if style == "bracketed" else _BARE_CLOCK).match(short)
        if match:
            start, at = clock_ms(match[match.lastindex or 1]), match.end()
    rest = line[at:].strip()
    if rest[:2] == "**":
        rest = rest.replace("**", "", 2)
    speaker, text = split_prefix(rest)
    return start, speaker, text


def _take_about(line: str, about: dict[str, Any], notes: dict[str, Any]) -> bool:
    match = _ABOUT.match(line) if len(line) <= 2_000 else None
    if match is None:
        return False
    key, value = match[1].lower(), match[2].strip()
    if key == "title":
        about["title"] = value
    elif key in ("date", "recorded"):
        found = find_date(value)
        if found:
            about["start"] = found
        notes["date"] = value
    elif key in ("attendees", "participants"):
        notes["attendees"] = [name.strip() for name in value.split(",") if name.strip()][:500]
    return True
