"""Building turns from text layouts, where a turn is a header and the lines below it."""

from __future__ import annotations

import re
from collections.abc import Iterable

from import_pipeline.transcripts.turns import LATEST, Turns

CLOCK = r"(?:[0-9]{1,4}:)?[0-9]{1,3}:[0-5]?[0-9](?:[.,][0-9]{1,3})?"
"""A time as people write it: `0:03`, `1:02:15`, `00:00:03.120`."""

LONGEST_HEADER = 200
"""Headers are looked for in no more of a line than this, which also keeps every expression linear."""

_JOINED_AT_ONCE = 1_000


def clock_ms(clock: str) -> int | None:
    """`1:02:15` or `0:03.5` as milliseconds; None if it is beyond any recording."""
    seconds = 0.0
    for part in clock.replace(",", ".").split(":"):
        seconds = seconds * 60 + float(part)
    milliseconds = round(seconds * 1000)
    return milliseconds if milliseconds < LATEST else None


class Paragraphs:
    """Collects lines into the turn that was begun last.

    Args:
        into: Takes the finished turns.
        orphans: Whether lines before the first header are speech of nobody; otherwise they are kept as `preamble`.
    """

    def __init__(self, into: Turns, *, orphans: bool = False) -> None:
        self.into = into
        self.preamble: list[str] = []
        self._orphans = orphans
        self._open = False
        self._speaker: str | None = None
        self._start: int | None = None
        self._end: int | None = None
        self._lines: list[str] = []
        self._handed = False

    @property
    def is_open(self) -> bool:
        """Whether a turn was begun."""
        return self._open

    @property
    def is_only_header(self) -> bool:
        """Whether a turn was begun and nothing said in it yet."""
        return self._open and not self._handed and not any(self._lines)

    def begin(self, speaker: str | None, start: int | None, text: str = "", end: int | None = None) -> None:
        """Begin a turn with what stands behind its header."""
        self.close()
        self._open = True
        self._speaker, self._start, self._end = speaker, start, end
        if text:
            self._lines.append(text)

    def line(self, line: str) -> None:
        """Add a line to the turn; a blank one divides paragraphs."""
        if not self._open:
            if not self._orphans:
                if len(self.preamble) < _JOINED_AT_ONCE and line.strip():
                    self.preamble.append(line.strip()[:LONGEST_HEADER])
                return
            if not line.strip():
                return
            self._open = True
        self._lines.append(line.strip())
        if len(self._lines) > _JOINED_AT_ONCE:  # a list of short lines would take many times their size
            self._hand_over(last=False)

    def close(self) -> None:
        """Hand the turn over."""
        if self._open:
            self._hand_over(last=True)
        self._open = self._handed = False
        self._speaker = self._start = self._end = None
        self._lines = []

    def _hand_over(self, *, last: bool) -> None:
        text = "\n".join(self._lines)
        self._lines = []
        if "\n\n\n" in text:
            text = _BLANKS.sub("\n\n", text)
        if self._handed:
            self.into.extend_encoded(b"\n" + text.encode())
            return
        if last:
            # One newline stays if a blank line followed: a wrong guess that is glued back continues there.
            text = text.strip() + ("\n" if text[-1:] == "\n" else "")
        if last and (not text or text.isspace()):
            return
        self.into.add(self._speaker, text, self._start, self._end)
        self._handed = True


_BLANKS = re.compile(r"\n{3,}")


def nonblank(lines: Iterable[str], limit: int) -> list[str]:
    """The first lines that hold something, stripped."""
    found: list[str] = []
    for line in lines:
        if line := line.strip():
            found.append(line)
            if len(found) >= limit:
                break
    return found
