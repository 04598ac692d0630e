"""Telling the text layouts apart: which one do the first lines of a file have."""

from __future__ import annotations

import re
from collections import Counter
from typing import Literal

from import_pipeline.errors import TranscriptError
from import_pipeline.transcripts.cues import TIMING
from import_pipeline.transcripts.meet import is_meet
from import_pipeline.transcripts.paragraphs import CLOCK, LONGEST_HEADER, nonblank
from import_pipeline.transcripts.speakers import looks_like_a_name, split_prefix

Layout = Literal["cues", "teams-old", "meet", "fathom", "headed", "clocked", "generic"]

LOOKED_AT = 4_000

NAMED_HEADER = re.compile(rf"\s*(\S.*?)[ \t\xa0]{{2,}}({CLOCK})\s*$")
"""Otter and the newer Teams document: name, two or three spaces, time."""

FATHOM_HEADER = re.compile(rf"\s*@?({CLOCK})\s+[-–]\s+([^(\n]+?)(?:\s*\(([^)\n]+)\))?\s*$")
CLOCK_LINE = re.compile(rf"\s*({CLOCK})\s*$")
_CHAT = re.compile(
    r"[0-9]{1,2}:[0-9]{2}:[0-9]{2}(?: [AP]M)?[ \t]+From[ \t]+\S.{0,150}?(?:[ \t]+to[ \t]+.{1,150}?)?:", re.IGNORECASE
)


def layout_of(head: str) -> Layout:
    """The layout of a text file or of the text of a document.

    Args:
        head: The beginning of the text.

    Raises:
        TranscriptError: It is a chat, which is no transcript.
    """
    lines = nonblank(head.split("\n"), LOOKED_AT)
    seen: Counter[str] = Counter()
    timings: list[int] = []
    headers: dict[str, list[int]] = {"fathom": [], "named": []}
    for number, line in enumerate(lines):
        if len(line) > LONGEST_HEADER:
            continue
        if "-->" in line and TIMING.match(line):
            timings.append(number)
        elif _CHAT.match(line):
            seen["chat"] += 1
        elif CLOCK_LINE.match(line):
            seen["clock"] += 1
        elif FATHOM_HEADER.match(line):
            headers["fathom"].append(number)
        elif NAMED_HEADER.match(line):
            headers["named"].append(number)
        elif split_prefix(line)[0]:
            seen["prefix"] += 1
    if seen["chat"] and seen["chat"] >= 0.8 * (sum(seen.values()) + sum(map(len, headers.values()))):
        raise TranscriptError("is a chat log of a meeting, not a transcript of what was said")
    if timings:
        names = sum(1 for number in timings if number + 2 < len(lines) and _is_name_line(lines[number + 1]))
        followed = sum(1 for number in timings if number + 2 < len(lines) and "-->" not in lines[number + 2])
        return "teams-old" if names and names >= 0.8 * len(timings) - 1 and followed >= names - 1 else "cues"
    if is_meet(lines):
        return "meet"
    fathom, named = headers["fathom"], headers["named"]
    if _is_structure(fathom, lines, FATHOM_HEADER) and (len(fathom) >= len(named) or "fathom.video/" in head):
        return "fathom"
    if _is_structure(named, lines, NAMED_HEADER):
        return "headed"
    enough = 1 if len(lines) <= 12 else 2
    if seen["clock"] >= enough and seen["clock"] >= 0.04 * len(lines):
        return "clocked"
    return "generic"


def _is_structure(headers: list[int], lines: list[str], expression: re.Pattern[str]) -> bool:
    """Whether these lines are headers of turns: frequent, with text below, and names that come again.

    An agenda and a table of contents have lines of the same shape.
    """
    if len(headers) < (1 if len(lines) <= 12 else 2) or len(headers) < 0.04 * len(lines):
        return False
    marked = set(headers)
    followed = sum(1 for number in headers if number + 1 < len(lines) and number + 1 not in marked)
    if followed < 0.7 * len(headers):
        return False
    groups = [match.groups() for number in headers if (match := expression.match(lines[number]))]
    names = {next(group for group in match if group and not group[0].isdigit()) for match in groups if _named(match)}
    return len(names) < len(headers) if len(headers) > 6 else all(looks_like_a_name(name) for name in names)


def _named(groups: tuple[str | None, ...]) -> bool:
    return any(group and not group[0].isdigit() for group in groups)


def _is_name_line(line: str) -> bool:
    return len(line) < 80 and line[-1] not in ".?!,;:" and looks_like_a_name(line)
