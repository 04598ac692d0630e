"""Made-up calls: the same ones for the same seed, of every kind that providers have trouble with.

No provider's shapes here. Names, addresses and sentences are invented; all addresses end in `example.com`.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cached_property


@dataclass(frozen=True, slots=True)
class Person:
    """Somebody in a call; an address may be unknown."""

    name: str
    email: str | None
    is_external: bool = False

    @property
    def domain(self) -> str | None:
        """The part behind the `@`."""
        return self.email.partition("@")[2] if self.email else None


@dataclass(frozen=True, slots=True)
class Segment:
    """Something said, in seconds from the start of the recording."""

    speaker: Person
    start: float
    end: float
    text: str


HOSTS = (
    Person("Dana Reyes", "dana@example.com"),
    Person("Omar Lindqvist", "omar@example.com"),
    Person("Zoë O’Neill", "zoe@example.com"),
    Person("Mika Ōta", "mika@example.com"),
    Person("Ines Duarte", "ines@example.com"),
)
GUESTS = (
    Person("Ravi Menon", "ravi@client.example.com", is_external=True),
    Person("李 娜", "li.na@client.example.com", is_external=True),
    Person("Åsa Berg", "asa@partner.example.com", is_external=True),
    Person("Yusuf Demir", None, is_external=True),
    Person("Lena Vogt", "lena@example.com"),
    Person("Tomás Rivera", "tomas@example.com"),
    Person("Noor Haddad", "noor@prospect.example.com", is_external=True),
)
TITLES = (
    "Weekly sync",
    "Quarterly business review",
    "Discovery call: Example Corp",
    "Kick-off 🚀 new rollout",
    "Retro: what went well?",
    "Onboarding “Nordlicht” GmbH",
    "製品デモ – 第2回",
    "Планирование квартала",
    "مراجعة العقد",
    "1:1 Dana / Omar",
    "Pricing & packaging <draft>",
    "Roadmap\tand   priorities",
    "Café chat ☕️👩🏽‍💻",
    "Incident review #4711",
)
SERIES = ("Weekly sync", "Stand-up 🧍", "Pipeline review")
SENTENCES = (
    "Thanks for joining, everyone.",
    "Let us begin with the numbers of last month.",
    "I think we should move the date by a week.",
    "Can you share your screen, please?",
    "The customer asked for a second offer.",
    "That is exactly what we saw in the trial.",
    "We have not heard back from legal yet.",
    "Who takes care of the follow-up?",
    "It went up by 12 % – more than we hoped for.",
    "Sorry, I was on mute.",
    "Let me repeat: nothing is decided before Friday.",
    "There are two options, and both cost about the same.",
    "Das klären wir am besten direkt nach dem Termin.",
    "はい、わかりました。",
    "She said \"ship it\", so we shipped it & told nobody.",
    "I'll send the notes around this afternoon.",
    "What happens if the import is interrupted?",
    "Then it goes on where it stopped.",
    "Great, that is all from my side 🎉.",
    "See you next week.",
)  # fmt: skip

_UNSET = datetime.min.replace(tzinfo=UTC)


@dataclass(kw_only=True, eq=False)
class Call:
    """One recorded call.

    Args:
        number: From 0 for the newest; unique within a seed.
        seed: Calls of different seeds are different calls.
        title: What the provider calls it.
        started_at: When recording began, in UTC.
        seconds: How long it was recorded.
        host: Who recorded it.
        guests: Who else was there.
        created_at: When the provider had it; by default some minutes after its end.
        is_impromptu: Nothing in a calendar.
        series: Calls of the same series are instances of one recurring meeting.
        parts: Recording was stopped and started again, so that there are several files.
        language: Of what was said.
        transcript_ready_after: How often the provider says at first that there is no transcript yet.
        transcript_ready_at: Or until when.
        has_transcript: Whether there ever is one.
    """

    number: int
    seed: int = 1
    title: str = "Made-up call"
    started_at: datetime = datetime(2026, 3, 2, 10, tzinfo=UTC)
    seconds: int = 1800
    host: Person = HOSTS[0]
    guests: Sequence[Person] = (GUESTS[0],)
    created_at: datetime = _UNSET
    is_impromptu: bool = False
    series: int | None = None
    parts: int = 1
    language: str = "en"
    transcript_ready_after: int = 0
    transcript_ready_at: datetime | None = None
    has_transcript: bool = True
    _segments: list[Segment] | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if self.created_at == _UNSET:
            self.created_at = self.ended_at + timedelta(minutes=2 + self.number % 9)

    @property
    def ended_at(self) -> datetime:
        """When recording ended."""
        return self.started_at + timedelta(seconds=self.seconds)

    @property
    def people(self) -> list[Person]:
        """Everybody, the host first."""
        return [self.host, *self.guests]

    @cached_property
    def key(self) -> bytes:
        """32 bytes that are this call's alone, for ids."""
        return hashlib.sha256(f"{self.seed}:{self.number}".encode()).digest()

    @property
    def segments(self) -> list[Segment]:
        """What was said: 10 to 40 segments, the first of which names the call's number."""
        if self._segments is None:
            self._segments = self._make_segments()
        return self._segments

    @property
    def text(self) -> str:
        """All that was said, for comparisons."""
        return "\n".join(segment.text for segment in self.segments)

    @property
    def summary(self) -> str | None:
        """Markdown; every ninth call has none."""
        if self.number % 9 == 4:
            return None
        return f"## Summary\n\n- {self.title} (call {self.number})\n- {SENTENCES[self.number % len(SENTENCES)]}\n"

    def _make_segments(self) -> list[Segment]:
        chance = random.Random(self.key)  # noqa: S311
        count = chance.randint(10, 40)
        step = self.seconds / count
        segments, speaker = [], self.host
        for index in range(count):
            if index and chance.random() < 0.7:
                speaker = chance.choice(self.people)
            start = round(index * step + 0.31, 2)
            end = round(start + step * chance.uniform(0.5, 0.9), 2)
            text = f"Welcome to call {self.number}." if not index else chance.choice(SENTENCES)
            segments.append(Segment(speaker, start, end, text))
        return segments


def make_calls(
    count: int, months: float = 13, seed: int = 1, hosts: int = 1, until: datetime | None = None
) -> list[Call]:
    """Make calls up to now, newest first.

    Args:
        count: How many.
        months: Over how many months of 30.44 days they are spread.
        seed: The same seed gives the same calls, apart from the date up to which they reach.
        hosts: Over how many people they are spread, at most five.
        until: The end of the last call's day of creation at the latest; by default now.
    """
    until = (until or datetime.now(UTC)).replace(microsecond=0)
    chance = random.Random(f"calls {seed}")  # noqa: S311
    span = timedelta(days=30.44 * months) / max(1, count)
    calls = []
    for number in range(count):
        seconds = chance.choice((61, 600, 930, 1800, 1865, 3600, 5430))
        created_at = until - timedelta(minutes=1) - span * (number + chance.random() * 0.9)
        started_at = created_at - timedelta(minutes=2 + number % 9, seconds=seconds)
        series = number // 4 % len(SERIES) if number % 4 == 1 else None
        calls.append(
            Call(
                number=number,
                seed=seed,
                title=SERIES[series] if series is not None else TITLES[number % len(TITLES)],
                started_at=started_at.replace(microsecond=0),
                seconds=seconds,
                host=HOSTS[number % min(hosts, len(HOSTS))],
                guests=() if number % 7 == 3 else chance.sample(GUESTS, chance.randint(1, 3)),
                is_impromptu=number % 7 == 3,
                series=series,
                parts=2 if number % 10 == 5 else 1,
                language="de" if number % 13 == 6 else "en",
            )
        )
    return calls
