"""A fake Fathom with as many calls as one likes: each is made up when it is asked for, and forgotten.

For benchmarks whose calls would not fit into memory; what a Fathom says otherwise is in `tests/fakes/fathom.py`.
"""

from __future__ import annotations

import math
import random
import sys
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cached_property
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from fakes import Call, FathomServer, Segment
from fakes.calls import HOSTS, SENTENCES
from fakes.fathom import _cursor, _instant, _offset
from fakes.server import Request, Response, route

VARIANTS = 50


@dataclass(kw_only=True, eq=False)
class EndlessFathom(FathomServer):
    """Fathom with calls that are evenly spread over the last 360 days.

    Args:
        number: How many there are.
        characters: About how long each transcript is, as it is stored.
        newest: When the newest was created.
    """

    calls: object = ()
    number: int = 1000
    characters: int = 20_000
    newest: datetime = field(default_factory=lambda: datetime.now(UTC).replace(microsecond=0) - timedelta(hours=1))

    @cached_property
    def step(self) -> timedelta:
        """The time between two calls."""
        return timedelta(days=360) / self.number

    @cached_property
    def transcripts(self) -> list[list[Segment]]:
        """What is said in the calls, of which every fiftieth is like another but for its first words."""
        chance = random.Random(self.characters)  # noqa: S311 - the same calls each time
        variants = []
        for _ in range(VARIANTS):
            segments: list[Segment] = []
            length = 0
            while length < self.characters:
                speaker, text = HOSTS[len(segments) % 2], " ".join(chance.choices(SENTENCES, k=4))
                segments.append(Segment(speaker, 7.0 * len(segments), 7.0 * len(segments) + 6, text))
                length += len(text) + len(speaker.name) + 16
            variants.append(segments)
        return variants

    def call(self, number: int) -> Call:
        """Make up a call; 0 is the newest."""
        created_at = (self.newest - self.step * number).replace(microsecond=0)
        began = Segment(HOSTS[0], 0.0, 1.0, f"Welcome to call {number}.")
        return Call(
            number=number,
            seed=self.seed,
            title=f"Call {number}",
            started_at=created_at - timedelta(minutes=35),
            created_at=created_at,
            _segments=[began, *self.transcripts[number % VARIANTS]],
        )

    @route("GET", "/external/v1/meetings", "list")
    def _meetings(self, request: Request) -> Response:
        query = request.query
        includes = {name for name, values in query.items() if name.startswith("include_") and values[-1] == "true"}
        after, before = _instant(query, "created_after"), _instant(query, "created_before")
        first = 0 if before is None else max(0, math.floor((self.newest - before) / self.step) + 1)
        last = self.number if after is None else min(self.number, math.ceil((self.newest - after) / self.step))
        begin = first + _offset(query.get("cursor", [""])[-1])
        end = min(begin + self.page_size, last)
        return Response.json(
            {
                "limit": self.page_size,
                "next_cursor": _cursor(end - first) if end < last else None,
                "items": [self._meeting(self.call(number), includes) for number in range(begin, end)],
            }
        )
