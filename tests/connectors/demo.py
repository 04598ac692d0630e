"""A source in memory with every fault a source can have, each behind a switch, for tests of the stages."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any, ClassVar
from uuid import UUID, uuid4

import dagster as dg

from import_pipeline.connectors.base import Connector
from import_pipeline.errors import SourceUnavailableError
from import_pipeline.providers.http import HttpClient
from import_pipeline.records import Account, ConnectorRecord, JsonObject, ListedItem, Window

START = datetime(2024, 3, 1, 9, tzinfo=UTC)

CIRCULAR: dict[str, Any] = {}
CIRCULAR["itself"] = CIRCULAR


def reconstructable(job: dg.JobDefinition) -> Any:
    """Give a job a function that returns it: a re-execution asks for the job by the name of one."""

    def current_job() -> dg.JobDefinition:
        return job

    current_job.__name__ = current_job.__qualname__ = f"job_{uuid4().hex}"
    globals()[current_job.__name__] = current_job
    return dg.reconstructable(current_job)


@cache
def no_http() -> HttpClient:
    """Return a client for sources that ask nobody; making one costs 20 ms."""
    return HttpClient("Demo", "")


@dataclass
class Call:
    """A call at the source.

    Attributes:
        external_id: Its id there.
        started_at: When it began.
        transcript: What was said; None while there is none yet.
        error: What asking for it raises instead of an answer.
        answer: What asking for it returns instead of its record.
        values: Fields of the listed item that differ.
        fields: Fields of the record that differ.
    """

    external_id: Any
    started_at: datetime = START
    transcript: str = "[00:00:00] Ana: Hello."
    error: BaseException | None = None
    answer: Any = None
    values: dict[str, Any] = field(default_factory=dict)
    fields: dict[str, Any] = field(default_factory=dict)


class Demo(Connector):
    """Calls in memory, each user's own; listed by window, newest first.

    Attributes:
        calls: What each user has, by user id; under None what all have.
        breaks_after: User → after so many more items the listing breaks off; `listing_error` says how.
        is_down: Whether fetching any record finds the source down.
        shuffle: Applied to what a window lists: pages that shift repeat and reorder items.
        asked: The ids of the records that were asked for, in order.
        windows: The windows that were listed, with their account's user.
        busy: How many records were being fetched at most at the same time.
    """

    source_app = "demo"
    title = "Demo"
    description = "Calls that exist in memory only."
    documentation_url = "https://example.com/demo"
    history_start = START - timedelta(days=60)
    look_back = timedelta(days=2)
    longest_window: ClassVar[timedelta | None] = timedelta(days=30)

    def __init__(self, calls: Iterable[Call] = ()) -> None:
        self.calls: dict[UUID | None, list[Call]] = {None: list(calls)}
        self.breaks_after: dict[UUID, int] = {}
        self.listing_error: BaseException = SourceUnavailableError("The demo source answered 503 to page 2.")
        self.is_down: set[Any] = set()
        self.shuffle: Any = list
        self.asked: list[Any] = []
        self.windows: list[tuple[UUID, Window]] = []
        self.busy = 0
        self.meet: threading.Barrier | None = None
        self._lock = threading.Lock()
        self._running = 0

    def check_options(self, options: JsonObject) -> JsonObject:
        """Accept anything under `note`."""
        return {"note": options["note"]} if set(options) == {"note"} else super().check_options(options)

    def list_items(self, account: Account, window: Window, http: HttpClient) -> Iterator[ListedItem]:
        """Yield the calls that began in the window, newest first."""
        self.windows.append((account.user_id, window))
        own = self._of(account)
        if self.partitioned:
            own = [call for call in own if window.start <= call.started_at < window.end]
        own.sort(key=lambda call: call.started_at, reverse=True)
        for position, call in enumerate(self.shuffle(own)):
            if account.user_id in self.breaks_after:
                if self.breaks_after[account.user_id] == 0:
                    raise self.listing_error
                self.breaks_after[account.user_id] -= 1
            values = {"title": f"Call {call.external_id}", "started_at": call.started_at, "details": {"n": position}}
            yield ListedItem(call.external_id, **(values | call.values))

    def fetch_record(self, account: Account, item: ListedItem, http: HttpClient) -> ConnectorRecord:
        """Return the record of a call, or do what its switches say."""
        with self._lock:
            self.asked.append(item.external_id)
            self._running += 1
            self.busy = max(self.busy, self._running)
        try:
            if self.meet is not None:
                self.meet.wait(timeout=20)
            if item.external_id in self.is_down:
                raise SourceUnavailableError("The demo source is down (503).")
            call = next(call for call in self._of(account) if call.external_id == item.external_id)
            if call.error is not None:
                raise call.error
            if call.answer is not None:
                answer: ConnectorRecord = call.answer
                return answer
            values: dict[str, Any] = {
                "external_id": call.external_id,
                "source_app": self.source_app,
                "title": f"Call {call.external_id}",
                "full_transcript": call.transcript,
                "recording_start_time": call.started_at,
                "duration": 60,
            }
            return ConnectorRecord(**(values | call.fields))
        finally:
            with self._lock:
                self._running -= 1

    def _of(self, account: Account) -> list[Call]:
        return self.calls[None] + self.calls.get(account.user_id, [])


class OtherDemo(Demo):
    """The same under another name."""

    source_app = "demo-other"
    title = "Other demo"


class UnpartitionedDemo(Demo):
    """A source that cannot be asked for a window, so it lists everything."""

    partitioned = False


class ConcurrentDemo(Demo):
    """A source that allows four requests at a time."""

    concurrency = 4
