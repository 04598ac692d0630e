"""Stage 4, transform: each new item becomes a record, or waits, fails or is ignored, with its reason.

Fetches transcripts through the connector, within its concurrency, and checks what comes back. One broken item is an
outcome; a source that is down fails the batch. An empty transcript is never invented. An item that is slow is set
aside: it goes on until its time is up, while others take its place.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field, replace
from datetime import datetime
from itertools import chain
from typing import Any

import dagster as dg
import psycopg

from import_pipeline.connectors.base import Connector
from import_pipeline.database.tenancy import database_time
from import_pipeline.errors import (
    ADVICE,
    ConfigurationError,
    DatabaseUnavailableError,
    ErrorClass,
    HttpError,
    IgnoredItemError,
    ItemError,
    NotReadyError,
    SourceUnavailableError,
    describe_bug,
    describe_problem,
)
from import_pipeline.library.leases import LeaseKeeper
from import_pipeline.library.ledger import next_attempt_at, next_look_at
from import_pipeline.library.normalise import normalise_record
from import_pipeline.providers.http import HttpClient
from import_pipeline.providers.timeouts import Allowance
from import_pipeline.records import INVALID, Account, Failed, Ignored, Known, NewItem, Outcome, Ready, Stream, Waiting
from import_pipeline.stages.postgres import PostgresResource
from import_pipeline.stages.run import NewItems, Outcomes, open_http

_AHEAD = 4
MAX_ASIDE = 8
"""So many slow items at most go on beside those that a source is asked for at the same time."""
_LOOK_SECONDS = 0.5
_END: Any = object()


@dg.op(
    ins={"batch": dg.In(NewItems)},
    out=dg.Out(Outcomes),
    tags={"dagster/priority": "2"},
    description="Turns each new item into a record, or says why it waits, fails or is ignored.",
)
def transform(
    context: dg.OpExecutionContext,
    batch: Stream[Any],
    postgres: PostgresResource,
    leases: dg.ResourceParam[LeaseKeeper],
    connector: dg.ResourceParam[Connector],
) -> Any:
    """Return the outcomes of the batch; they come into being while the I/O manager writes them."""
    account = batch.batch.account

    def outcomes() -> Iterator[Outcome]:
        # Opened with the first item, of which there is none where nothing is new, and closed with the last: they are
        # consumed after this op has returned.
        items = iter(batch.items)
        for first in items:
            with postgres.connection() as conn:
                now = database_time(conn)
            with open_http(context, postgres, connector, account) as http:
                yield from transform_items(connector, account, chain([first], items), http, now, context.log.warning)

    return Stream(batch.batch, leases.hold(account.id, outcomes()))


def transform_items(
    connector: Connector,
    account: Account,
    items: Iterable[NewItem | Known | Ignored],
    http: HttpClient,
    now: datetime,
    tell: Callable[[str], object] = lambda _: None,
) -> Iterator[Outcome]:
    """Yield the outcome of every item, in their order; of those that are slow, when it is known.

    Args:
        connector: Turns items into records, `connector.concurrency` of them at a time.
        account: Whose items these are.
        items: What `dedup` let through; what needs no record is passed on.
        http: Asks the source for this account.
        now: The database's time.
        tell: Tells a person what is being waited for.

    Raises:
        SourceUnavailableError: The source is down; the batch is tried again as a whole.
    """

    def outcome_of(item: NewItem | Known | Ignored) -> Outcome:
        return transform_item(connector, account, item, http, now) if isinstance(item, NewItem) else item

    if connector.concurrency == 1 and not connector.base_url:  # nobody is asked who could be slow
        return map(outcome_of, items)
    return _map_in_order(outcome_of, items, connector.concurrency, http, tell)


def transform_item(connector: Connector, account: Account, new: NewItem, http: HttpClient, now: datetime) -> Outcome:
    """Return what became of one item.

    Raises:
        SourceUnavailableError: The source is down.
        DatabaseUnavailableError, psycopg.Error: The database that keeps credentials and budgets is gone.
        ConfigurationError: The credential cannot be read.
    """
    item = new.item
    try:
        if INVALID in item.details:
            raise ItemError(item.details[INVALID])
        with http.one_item():
            fetched = connector.fetch_record(account, item, http)
        record = normalise_record(fetched)
    except NotReadyError as error:
        age = now - (item.started_at or new.first_seen_at or now)
        if age > connector.transcript_deadline:
            reason = f"{describe_problem(error)} (still so {age.days} days after the call; the limit is "
            return _fail(new, "permanent", f"{reason}{connector.transcript_deadline.days})", now)
        return Waiting(item, describe_problem(error), next_look_at(now, new.attempts))
    except IgnoredItemError as error:
        return Ignored(item, describe_problem(error))
    except ItemError as error:
        error_class = error.error_class if error.error_class in ADVICE else "bug"
        failed = _fail(new, error_class, describe_problem(error), now)
        if isinstance(error, HttpError):
            failed = replace(failed, http_status=error.status, request_id=error.request_id)
        return replace(failed, retry_at=error.retry_at) if error.retry_at else failed
    except (SourceUnavailableError, DatabaseUnavailableError, ConfigurationError, psycopg.Error):
        raise  # what is wrong is not the item
    except Exception as error:  # noqa: BLE001 - whatever a connector does to one item must not reach its neighbours
        return _fail(new, "bug", describe_bug(error), now)
    if (record.external_id, record.source_app) != (item.external_id, connector.source_app):
        return _fail(new, "bug", "The connector returned the record of another item; please report it.", now)
    return Ready(item, record)


def _fail(new: NewItem, error_class: ErrorClass, reason: str, now: datetime) -> Failed:
    return Failed(new.item, error_class, reason, next_attempt_at(now, error_class, new.attempts))


@dataclass(slots=True, eq=False)
class _Attempt:
    """An item on its way, and the time that it has, once it has begun."""

    outcome: Future[Outcome] = field(init=False)
    allowance: Allowance | None = None

    @property
    def is_over(self) -> bool:
        return self.outcome.done()

    @property
    def spent(self) -> float:
        return self.allowance.spent if self.allowance else 0.0


def _map_in_order(
    function: Callable[[Any], Outcome],
    items: Iterable[Any],
    concurrency: int,
    http: HttpClient,
    tell: Callable[[str], object],
) -> Iterator[Outcome]:
    """Apply a function in at most `concurrency` threads, yielding in order and running `_AHEAD` times as far ahead.

    So that one item which is asked for again and again does not keep the other threads idle. Nor does one that is slow
    keep others waiting: it is set aside, and is yielded when it has ended. When all this ends early, because the run is
    cancelled or the source is down, it ends what the threads are waiting for.
    """
    left = iter(items)
    in_order: deque[_Attempt] = deque()
    aside: list[_Attempt] = []
    is_told = False

    def work(attempt: _Attempt, item: Any) -> Outcome:
        with http.one_item() as attempt.allowance:
            return function(item)

    def running() -> list[_Attempt]:
        return [attempt for attempt in in_order if not attempt.is_over]

    with ThreadPoolExecutor(concurrency + MAX_ASIDE, thread_name_prefix="transform") as executor:
        try:
            while True:
                while len(in_order) < _AHEAD * concurrency and len(running()) < concurrency:
                    if (item := next(left, _END)) is _END:
                        break
                    attempt = _Attempt()
                    attempt.outcome = executor.submit(work, attempt, item)
                    in_order.append(attempt)
                if in_order and in_order[0].is_over:
                    yield in_order.popleft().outcome.result()
                    continue
                if not in_order and not aside:
                    return
                wait([each.outcome for each in (*running(), *aside)], _LOOK_SECONDS, FIRST_COMPLETED)
                for attempt in [each for each in aside if each.is_over]:
                    aside.remove(attempt)
                    yield attempt.outcome.result()
                for attempt in running():
                    if len(aside) < MAX_ASIDE and attempt.spent > http.slow_seconds:
                        in_order.remove(attempt)
                        aside.append(attempt)
                        if not is_told:
                            tell(
                                f"Calls that take longer than {http.slow_seconds:g} seconds are waited for at the end."
                            )
                        is_told = True
        except BaseException:
            http.stop()
            executor.shutdown(wait=False, cancel_futures=True)
            raise
