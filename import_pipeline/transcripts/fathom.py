"""What Fathom's "copy transcript" button puts on the clipboard."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from import_pipeline.transcripts.layouts import FATHOM_HEADER
from import_pipeline.transcripts.paragraphs import LONGEST_HEADER, Paragraphs, clock_ms
from import_pipeline.transcripts.turns import Turns

_RECORDING = re.compile(
    r"\s*VIEW RECORDING\s*-\s*(?:([0-9]{1,3})\s*hours?\s*)?(?:([0-9]{1,4})\s*min)?[^:]*(?::\s*(https?://\S+))?"
)
_INSERT = re.compile(
    r"(ACTION ITEM|SCREEN SHARING|HIGHLIGHT|BOOKMARK|QUESTION): ([^\n]{0,600}?(?:\n[^\n]{0,600}?)??)"
    r"\s{1,9}-\s{1,9}WATCH:\s{1,9}(https?://\S{1,2000})[ \t]{0,9}"
)
_TIMESTAMP = re.compile(r"[?&]timestamp=([0-9]{1,7}(?:\.[0-9]{1,9})?)")
_RULE = re.compile(r"\s*-{3,}\s*$")
_TITLE_DATE = re.compile(
    r"\s+-\s+(?:January|February|March|April|May|June|July|August|September|October|November|December) [0-9]{1,2}$"
)


def read_fathom(lines: Iterable[str], into: Turns, about: dict[str, Any], notes: dict[str, Any]) -> str:
    """Read `0:08 - Name (Company)` headers with indented text below them.

    Args:
        lines: The lines of the text.
        into: Takes the turns.
        about: Filled with title and length.
        notes: Given `action_items` and `screen_sharing`, which stand in the middle of the speech, and the link.
    """
    inserts: dict[str, list[dict[str, Any]]] = {}

    def take_out(match: re.Match[str]) -> str:
        insert: dict[str, Any] = {"text": " ".join(match[2].split())}
        if at := _TIMESTAMP.search(match[3]):
            insert["seconds"] = float(at[1])
        inserts.setdefault(match[1], []).append(insert)
        return ""

    companies: dict[str, str] = {}
    paragraphs = _FathomParagraphs(into, take_out)
    for line in lines:
        if line and len(line) <= LONGEST_HEADER:
            if header := FATHOM_HEADER.match(line):
                name = " ".join(header[2].split())
                if header[3] and len(companies) < 200:
                    companies[name] = header[3].strip()
                paragraphs.begin(name, clock_ms(header[1]))
                continue
            if _RULE.match(line):
                continue
        paragraphs.line(line)
    paragraphs.close()
    for kind, key in (
        ("ACTION ITEM", "action_items"),
        ("SCREEN SHARING", "screen_sharing"),
        ("HIGHLIGHT", "highlights"),
    ):
        if kind in inserts:
            notes[key] = inserts[kind][:1_000]
    if companies:
        notes["companies"] = companies
    for number, line in enumerate(paragraphs.preamble[:10]):
        if recording := _RECORDING.match(line):
            if recording[1] or recording[2]:
                about["duration"] = int(recording[1] or 0) * 3600 + int(recording[2] or 0) * 60
            if recording[3]:
                notes["link"] = recording[3]
        elif number == 0:
            about["title"] = _TITLE_DATE.sub("", line)
    return "fathom"


class _FathomParagraphs(Paragraphs):
    """Paragraphs whose text has inserts in it."""

    def __init__(self, into: Turns, take_out: Any) -> None:
        super().__init__(into)
        self._take_out = take_out

    def line(self, line: str) -> None:
        """Add a line; Fathom puts two spaces between sentences."""
        super().line(" ".join(line.split()))

    def close(self) -> None:
        """Take the inserts out before the turn is handed over."""
        if self._open and not self._handed:
            text = "\n".join(self._lines)
            if "WATCH:" in text:
                self._lines = [line for line in _INSERT.sub(self._take_out, text).split("\n")]
        super().close()
