"""What every format is read into: who said what, when.

A file of 50 MB can hold a million cues. As objects they would take ten times the size of the file, so `Turns` keeps
them in five flat arrays and makes a `Turn` only when one is looked at.
"""

from __future__ import annotations

import re
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import overload

from import_pipeline.errors import TranscriptError
from import_pipeline.transcripts.text import clean_text

MAX_TURNS = 2_000_000
"""More than two days of one word each 100 ms: nothing that people said."""

TOO_MANY = f"holds more than {MAX_TURNS:,} turns, which no call has"

MAX_SPEAKERS = 20_000

UNKNOWN = 0xFFFF_FFFF
"""The time of a turn without one, in the arrays."""

LATEST = 1_000 * 3_600_000
"""Times are milliseconds; from 1,000 hours on they are taken for damaged and dropped."""

_SPOKEN = re.compile(r"[^\W_]")


@dataclass(frozen=True, slots=True)
class Turn:
    """What one person said in one go.

    Attributes:
        speaker: The name as the source gives it; None if nobody is named.
        text: What was said, without markup.
        start_seconds: Seconds since the beginning of the recording; None if the source has no times.
        end_seconds: The same for the end; None if the source does not say.
    """

    speaker: str | None
    text: str
    start_seconds: float | None
    end_seconds: float | None = None


class Turns(Sequence[Turn]):
    """A sequence of turns that takes 16 bytes each beyond their text."""

    __slots__ = ("_ids", "blob", "damaged", "ends", "merged", "names", "offsets", "speakers", "spoken", "starts")

    def __init__(self) -> None:
        self.names: list[str | None] = [None]
        """The speakers in order of appearance; a name that is only guessed ends with its separator, as in `Ann: `."""
        self._ids: dict[str | None, int] = {None: 0}
        self.speakers = array("I")
        self.starts = array("I")
        self.ends = array("I")
        self.offsets = array("Q", [0])
        self.blob = bytearray()
        self.spoken = False
        """Whether there is any letter or digit in all of the text."""
        self.damaged = 0
        """How many characters were replaced."""
        self.merged = False
        """Whether these are the result of merging already."""

    def add(self, speaker: str | None, text: str, start: int | None = None, end: int | None = None) -> None:
        """Append a turn.

        Args:
            speaker: The speaker's name; None if unknown.
            text: What was said.
            start: Milliseconds.
            end: Milliseconds.
        """
        if not self.spoken:
            self.spoken = _SPOKEN.search(text) is not None
        if "\0" in text:
            text, count = clean_text(text)
            self.damaged += count
        try:
            encoded = text.encode()
        except UnicodeEncodeError:
            text, count = clean_text(text)
            self.damaged += count
            encoded = text.encode()
        number = self._ids.get(speaker)
        if number is None:
            number = self._new_speaker(speaker)
            if number == 0:  # too many names to be names
                encoded = f"{clean_text(speaker or '')[0]}".encode() + encoded
        if len(self.speakers) >= MAX_TURNS:
            raise TranscriptError(TOO_MANY)
        self.speakers.append(number)
        self.starts.append(UNKNOWN if start is None else start)
        self.ends.append(UNKNOWN if end is None else end)
        self.blob += encoded
        self.offsets.append(len(self.blob))

    def add_encoded(self, number: int, text: bytes | bytearray | memoryview, start: int, end: int) -> None:
        """Append a turn whose speaker has a number already and whose text is clean UTF-8."""
        if len(self.speakers) >= MAX_TURNS:
            raise TranscriptError(TOO_MANY)
        self.speakers.append(number)
        self.starts.append(start)
        self.ends.append(end)
        self.blob += text
        self.offsets.append(len(self.blob))

    def extend_last(self, text: str, end: int | None) -> None:
        """Continue the last turn."""
        clean, count = clean_text(text)
        self.damaged += count
        self.extend_encoded(b" " + clean.encode())
        self.ends[-1] = UNKNOWN if end is None else max(end, self.starts[-1])

    def extend_encoded(self, text: bytes) -> None:
        """Lengthen the text of the last turn by clean UTF-8."""
        self.blob += text
        self.offsets[-1] = len(self.blob)

    def speaker_number(self, speaker: str | None) -> int:
        """The number of a speaker, for `add_encoded`."""
        number = self._ids.get(speaker)
        return self._new_speaker(speaker) if number is None else number

    def _new_speaker(self, speaker: str | None) -> int:
        if speaker is None:
            return 0
        clean, count = clean_text(speaker)
        if count:
            self.damaged += count
        number = self._ids.get(clean)
        if number is None:
            if len(self.names) >= MAX_SPEAKERS:
                if speaker[-1:] == " ":
                    return 0
                raise TranscriptError(f"names more than {MAX_SPEAKERS:,} speakers")
            number = len(self.names)
            self.names.append(clean)
            self._ids[clean] = number
        if count and len(self._ids) < 2 * MAX_SPEAKERS:
            self._ids[speaker] = number
        return number

    def text_of(self, index: int) -> str:
        """The text of one turn."""
        return self.blob[self.offsets[index] : self.offsets[index + 1]].decode()

    def last_ms(self) -> int | None:
        """The latest time that occurs, in milliseconds."""
        latest = max((time for times in (self.starts, self.ends) for time in times if time != UNKNOWN), default=None)
        return latest

    def __len__(self) -> int:
        return len(self.speakers)

    def _turn(self, index: int) -> Turn:
        start, end = self.starts[index], self.ends[index]
        return Turn(
            self.names[self.speakers[index]],
            self.text_of(index),
            None if start == UNKNOWN else start / 1000,
            None if end == UNKNOWN else end / 1000,
        )

    @overload
    def __getitem__(self, index: int) -> Turn: ...
    @overload
    def __getitem__(self, index: slice) -> list[Turn]: ...
    def __getitem__(self, index: int | slice) -> Turn | list[Turn]:
        if isinstance(index, slice):
            return [self._turn(number) for number in range(*index.indices(len(self)))]
        return self._turn(range(len(self))[index])

    def __iter__(self) -> Iterator[Turn]:
        return map(self._turn, range(len(self)))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence) or isinstance(other, str):
            return NotImplemented
        return len(self) == len(other) and all(mine == theirs for mine, theirs in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment]  # it can grow

    def __repr__(self) -> str:
        return f"<{len(self)} turns>"  # never the content: this may end up in a log


def collect(turns: Iterable[Turn]) -> Turns:
    """Turns of any kind as `Turns`; unchanged if they are."""
    if isinstance(turns, Turns):
        return turns
    compact = Turns()
    for turn in turns:
        compact.add(
            (turn.speaker or "").strip() or None,
            turn.text.strip(),
            milliseconds(turn.start_seconds),
            milliseconds(turn.end_seconds),
        )
    return compact


def fill_ends(turns: Turns) -> None:
    """A missing end is the next start: who gives only starts begins a segment where the one before ends."""
    for index in range(len(turns) - 1):
        start, following = turns.starts[index], turns.starts[index + 1]
        if turns.ends[index] == UNKNOWN and start != UNKNOWN and following != UNKNOWN:
            turns.ends[index] = max(start, following)
    if len(turns) and turns.ends[-1] == UNKNOWN:
        turns.ends[-1] = turns.starts[-1]


def join(segments: Iterable[tuple[datetime | None, Iterable[Turn]]]) -> list[Turn]:
    """Turns of a recording in several segments, each moved to where it begins after the first.

    Args:
        segments: When each began, in order, and its turns. One that does not tell begins where the last one ended.
    """
    joined: list[Turn] = []
    begin: datetime | None = None
    end = 0.0
    for start, turns in segments:
        if start is not None and begin is None:
            begin = start - timedelta(seconds=end)
        offset = end if start is None or begin is None else (start - begin).total_seconds()
        for turn in turns:
            times = [None if time is None else time + offset for time in (turn.start_seconds, turn.end_seconds)]
            end = max([end, *(time for time in times if time is not None)])
            joined.append(Turn(turn.speaker, turn.text, *times))
    return joined


def milliseconds(seconds: object) -> int | None:
    """A number of seconds from anywhere as milliseconds; None for what is no time of a recording."""
    if isinstance(seconds, bool) or not isinstance(seconds, int | float):
        return None
    if not 0 <= seconds < LATEST // 1000:  # false for NaN, too
        return 0 if -3600 < seconds < 0 else None
    return round(seconds * 1000)
