"""Finding the messages of the transaction that inserts a batch, as they pass the proxy.

The transactions of a run come in the same order every time: a first run counts them, and in a later one the same
transaction is recognised at its first message.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from proxy import Action, Event, Side

_INSERT = b"insert into public.recordings"
_COMMIT = b"COMMIT\x00"
_BEGINNINGS = {("Q", b"BEGIN\x00"), ("P", b"\x00BEGIN\x00\x00\x00")}  # alone, and in a pipeline
_COMMITS = {_COMMIT, b"\x00COMMIT\x00\x00\x00"}


@dataclass(frozen=True)
class Point:
    """A message of a transaction: the how manieth of its sender, from 1, and what it is.

    In a pipeline the driver sends what it has, so that there may be a message more or less in another run. COMMIT and
    the answer to it are known by what they say.
    """

    sender: Side
    position: int
    kind: str
    is_commit: bool

    def is_same(self, other: Point) -> bool:
        """Say whether this is the same message in another run."""
        if self.is_commit or other.is_commit:
            return self.is_commit and other.is_commit and self.sender == other.sender
        return (self.sender, self.position) == (other.sender, other.position)

    def __str__(self) -> str:
        names = {"Q": "a statement", "P": "a statement", "Z": "the end of an answer", "C": "a result"}
        return f"{self.sender}'s message {self.position} ({names.get(self.kind, self.kind)})"


@dataclass
class Transactions:
    """A rule for the proxy that numbers transactions, and in one of them the messages of each side.

    Attributes:
        watched: Number of the transaction to act in; 0 acts in none.
        act: Is asked about each of its messages.
    """

    watched: int = 0
    act: Callable[[Point], Action | None] = lambda _: None
    found: list[tuple[list[Point], list[bytes]]] = field(default_factory=list)
    _open: dict[int, int] = field(default_factory=dict)

    def __call__(self, event: Event) -> Action | None:
        if event.sender == "client" and (event.kind, event.data[5:]) in _BEGINNINGS:
            self.found.append(([], []))
            self._open[event.connection] = len(self.found)
        number = self._open.get(event.connection)
        if number is None:
            return None
        points, texts = self.found[number - 1]
        position = 1 + sum(each.sender == event.sender for each in points)
        point = Point(event.sender, position, event.kind, is_commit=event.data[5:] in _COMMITS)
        points.append(point)
        texts.append(event.data)
        is_over = event.sender == "server" and event.kind == "Z" and any(_COMMIT in text for text in texts)
        if is_over:
            del self._open[event.connection]
        return self.act(point) if number == self.watched else None

    def find_insert(self, batch: int) -> tuple[int, list[Point]]:
        """Return number and messages of the transaction that inserted a batch, counted from 1."""
        inserts = [n for n, (_, texts) in enumerate(self.found, 1) if any(_INSERT in text for text in texts)]
        return inserts[batch - 1], self.found[inserts[batch - 1] - 1][0]


def turns(points: list[Point]) -> list[Point]:
    """Return the first and last message of each turn: what one side sends before the other one answers."""
    ends = [
        point
        for before, point, after in zip([None, *points], points, [*points[1:], None], strict=False)
        if before is None or after is None or before.sender != point.sender or after.sender != point.sender
    ]
    return sorted(ends, key=lambda point: (point.sender, point.position))
