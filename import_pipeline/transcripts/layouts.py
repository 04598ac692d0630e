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
            seen["fathom"] += 1
        elif NAMED_HEADER.match(line):
            seen["named"] += 1
        elif split_prefix(line)[0]:
            seen["prefix"] += 1
    if seen["chat"] and seen["chat"] >= 0.8 * (sum(seen.values())):
        raise TranscriptError("is a chat log of a meeting, not a transcript of what was said")
    if timings:
        names = sum(1 for number in timings if number + 2 < len(lines) and _is_name_line(lines[number + 1]))
        followed = sum(1 for number in timings if number + 2 < len(lines) and "-->" not in lines[number + 2])
        return "teams-old" if names and names >= 0.8 * len(timings) - 1 and followed >= names - 1 else "cues"
    if is_meet(lines):
        return "meet"
    enough = 1 if len(lines) <= 12 else 2
    structured = max(seen["fathom"], seen["named"])
    if structured >= enough and structured >= 0.04 * len(lines):
        return "fathom" if seen["fathom"] >= seen["named"] else "headed"
    if seen["clock"] >= enough and seen["clock"] >= 0.04 * len(lines):
        return "clocked"
    return "generic"


def _is_name_line(line: str) -> bool:
    return len(line) < 80 and line[-1] not in ".?!,;:" and looks_like_a_name(line)
