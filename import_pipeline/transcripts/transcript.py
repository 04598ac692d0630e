"""A transcript that was read, and the one text that is stored of it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from import_pipeline.transcripts.finishing import merge
from import_pipeline.transcripts.turns import UNKNOWN, Turn, Turns, collect

_PIECE = 1 << 20


@dataclass(frozen=True, slots=True)
class Transcript:
    """A transcript that was read.

    Attributes:
        turns: The turns in order of time; at least one.
        format: The dialect, such as `vtt-zoom` or `otter`.
        title: The title that the content names; never the file name.
        started_at: When the call began, aware; None unless the content gives date, time and zone.
        started_at_local: The same if the content gives no zone: naive, and not to be stored as it is.
        duration_seconds: The length that the content states, or else the time of the last turn.
        notes: What was odd, as JSON: skipped or repaired cues, the encoding, the precision of times, action items.
    """

    turns: Sequence[Turn]
    format: str
    title: str | None = None
    started_at: datetime | None = None
    started_at_local: datetime | None = None
    duration_seconds: int | None = None
    notes: dict[str, Any] = field(default_factory=dict)

    def to_text(self) -> str:
        """The text that is stored: see `render`."""
        return render(self.turns)


def render(turns: Iterable[Turn]) -> str:
    """The one text that every source is stored as.

    Args:
        turns: Turns in order. Consecutive short ones of one speaker are put together, if their ends are known.

    Returns:
        ``[HH:MM:SS] Speaker: text`` for each turn, separated by blank lines; without time or speaker that part is
        left out. Hours may have three digits.
    """
    merged = collect(turns)
    if not merged.merged:
        merged = merge(merged)
    text = ""
    for piece in _pieces(merged):
        text += piece  # grows where it is: decoding or joining the whole at once would double the memory
    return text


def _pieces(turns: Turns) -> Iterator[str]:
    """The text of `render` in pieces of about a megabyte."""
    names = [f"{name}: ".encode() if name else b"" for name in turns.names]
    piece = bytearray()
    offsets = turns.offsets
    with memoryview(turns.blob) as blob:
        for index, (speaker, start) in enumerate(zip(turns.speakers, turns.starts, strict=True)):
            if index:
                piece += b"\n\n"
            if start != UNKNOWN:
                minutes, seconds = divmod(start // 1000, 60)
                piece += b"[%02d:%02d:%02d] " % (minutes // 60, minutes % 60, seconds)
            piece += names[speaker]
            piece += blob[offsets[index] : offsets[index + 1]]
            if len(piece) > _PIECE:
                yield piece.decode()
                piece.clear()
    yield piece.decode()
