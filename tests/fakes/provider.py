"""What the fakes of providers have in common: the calls behind them, and the switches that hold for all of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

from . import mutations
from .calls import Call, make_calls
from .limits import Limits
from .server import FakeServer


@dataclass(kw_only=True, eq=False)
class Provider(FakeServer):
    """A provider of calls. Fields may be changed while it runs, rate limits only through `limits.set(name, limit)`.

    What says how calls are made up counts only at the start.

    Args:
        calls: How many to make up, or the calls themselves, whose numbers must differ; afterwards the list of them.
            Change it through `add` and `remove`.
        months: Over how many months made-up calls are spread.
        seed: Of made-up calls; other seeds are other calls with other ids.
        hosts: Over how many people made-up calls are spread.
        until: When made-up calls end; by default now.
        fixed_window: Rate limits count in fixed windows instead of over the last span.
        late_transcripts: So many of the newest calls have no transcript when they are first asked for.
        adds_unknown_fields: Every object has fields, and every enumeration values, that are not documented.
        mutate: External id → dotted path → value, or `ABSENT`: fields that are not as documented.
        shift_between_pages: Before every page but a first one, a call appears at the front of the list, or the one at
            the front, which was delivered already, disappears: what pages by offset slips.
        shift_times: How often at most; None: always.
        shifted: The calls that appeared or disappeared that way.
    """

    calls: Any = 20
    months: float = 13
    seed: int = 1
    hosts: int = 1
    until: datetime | None = None
    fixed_window: bool = False
    late_transcripts: int = 0
    adds_unknown_fields: bool = False
    mutate: dict[str, dict[str, Any]] = field(default_factory=dict)
    shift_between_pages: Literal["insert", "remove"] | None = None
    shift_times: int | None = None
    shifted: list[Call] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.calls, int):
            self.calls = make_calls(self.calls, self.months, self.seed, self.hosts, self.until)
        self.calls: list[Call] = list(self.calls)
        for call in self.calls[: self.late_transcripts]:
            call.transcript_ready_after = 1
        self.limits = Limits(self.fixed_window)
        self._asks: Counter[bytes] = Counter()
        self._index: dict[str, Call] = {}

    # What a provider says

    def external_id(self, call: Call) -> str:
        """Return the id by which the provider knows a call."""
        raise NotImplementedError

    @property
    def environment(self) -> dict[str, str]:
        """The variables that make the importer ask this server."""
        raise NotImplementedError

    @property
    def credentials(self) -> dict[str, str]:
        """The made-up credentials that it accepts."""
        raise NotImplementedError

    # Calls

    @property
    def external_ids(self) -> set[str]:
        """The ids of all calls."""
        return {self.external_id(call) for call in self.calls}

    def find(self, external_id: str) -> Call | None:
        """Return the call with an id."""
        with self.lock:
            if len(self._index) != len(self.calls):
                self._index = {self.external_id(call): call for call in self.calls}
            return self._index.get(str(external_id))

    def add(self, call: Call | None = None, **changes: Any) -> Call:
        """Add a call, or make one up that ended just now; the changes are fields of `Call`."""
        with self.lock:
            if call is None:
                number = max((each.number for each in self.calls), default=-1) + 1
                now = datetime.now(UTC).replace(microsecond=0)
                times = {} if "started_at" in changes else {"started_at": now - timedelta(minutes=40)}
                made_up: dict[str, Any] = {"number": number, "seed": self.seed, "title": f"Added call {number}"} | times
                call = Call(**made_up | changes)
            self.calls.insert(0, call)
            self._index.clear()
            return call

    def remove(self, call: Call) -> None:
        """Take a call away."""
        with self.lock:
            self.calls.remove(call)
            self._index.clear()

    def mutate_field(self, external_id: str, path: str, to: str = "null") -> None:
        """Give one field of one call a value of another type: a name of `mutations.WRONG_VALUES`."""
        self.mutate.setdefault(str(external_id), {})[path] = mutations.WRONG_VALUES[to]

    def mutated(self, call: Call, document: dict[str, Any]) -> dict[str, Any]:
        """Apply to a document what the switches say about its call."""
        if self.adds_unknown_fields:
            mutations.add_unknown_fields(document)
        if self.mutate and (changes := self.mutate.get(self.external_id(call))):
            mutations.apply(document, changes)
        return document

    def enveloped(self, document: dict[str, Any]) -> dict[str, Any]:
        """Add what nobody knows to what is around a list, where that is switched on."""
        return document | mutations.UNKNOWN_FIELDS if self.adds_unknown_fields else document

    def value(self, documented: str, call: Call) -> str:
        """Return an enumeration's value, or for every third call one nobody knows where that is switched on."""
        return mutations.UNKNOWN_VALUE if self.adds_unknown_fields and call.number % 3 == 0 else documented

    # Transcripts

    def transcript_is_ready(self, call: Call) -> bool:
        """Count an ask for a transcript, and say whether there is one by now."""
        if not call.has_transcript:
            return False
        if call.transcript_ready_at and datetime.now(UTC) < call.transcript_ready_at:
            return False
        if not call.transcript_ready_after:
            return True
        with self.lock:
            self._asks[call.key] += 1
            return self._asks[call.key] > call.transcript_ready_after

    # Lists

    def listing(
        self, matches: Callable[[Call], bool], when: Callable[[Call], datetime], offset: int = 0
    ) -> Sequence[Call]:
        """Return the calls that match, newest first; shift them before a page that is not a first one."""
        with self.lock:
            found = sorted((call for call in self.calls if matches(call)), key=when, reverse=True)
            if offset and found and self.shift_between_pages and self.shift_times != 0:
                if self.shift_times:
                    self.shift_times -= 1
                found = self._shift(found)
            return found

    def _shift(self, found: list[Call]) -> list[Call]:
        front = found[0]
        if self.shift_between_pages == "remove":
            self.remove(front)
            self.shifted.append(front)
            return found[1:]
        number = max(call.number for call in self.calls) + 1
        second = timedelta(seconds=1)
        call = replace(
            front,
            number=number,
            title=f"Shifted in {number}",
            started_at=front.started_at + second,
            created_at=front.created_at + second,
            series=None,
            _segments=None,
        )
        self.shifted.append(self.add(call))
        return [call, *found]


def environment(provider: str, addresses: Mapping[str, str]) -> dict[str, str]:
    """Return the importer's variables for some addresses of a provider."""
    return {f"IMPORT_PIPELINE_{provider}_{name}": address for name, address in addresses.items()}
