"""Rate budgets: what all processes of an account together may ask of its provider, by the database's clock."""

from __future__ import annotations

import bisect
import json
import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import psycopg
import pytest
import tenants
from commands import start_together
from fakes import FakeServer
from fakes.limits import Limiter
from fakes.server import Request, Response
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from proxy import Event, Proxy

from import_pipeline.database.connections import Connect
from import_pipeline.errors import RateLimitedError, ReconnectError, StoppedError
from import_pipeline.library.accounts import ensure_account
from import_pipeline.providers import rate_budgets
from import_pipeline.providers.http import HttpClient
from import_pipeline.providers.rate_budgets import RateBudget, RateLimit
from import_pipeline.providers.timeouts import Patience

Connection = psycopg.Connection[Any]

HOUR = RateLimit("requests", 10, timedelta(hours=1))
MINUTE = RateLimit("requests", 10, timedelta(minutes=1))
HEAVY = RateLimit("heavy", 2, timedelta(minutes=1))


def rows(conn: Connection) -> dict[str, int]:
    """Return how many requests each budget counts."""
    statement = (
        "select name, coalesce((select sum(n) from unnest(counts) as n), 0)::int from import_pipeline.rate_budgets"
    )
    return dict(conn.execute(statement).fetchall())


def take(budget: RateBudget, number: int, *names: str) -> None:
    for _ in range(number):
        budget.take(names or ("requests",))


def refusal(budget: RateBudget, *names: str) -> RateLimitedError:
    with pytest.raises(RateLimitedError) as caught:
        budget.take(names or ("requests",))
    return caught.value


class Slept(Exception):
    """Instead of a wait."""


def no_sleep(seconds: float) -> None:
    raise Slept(seconds)


# Room


def test_a_limit_holds_for_everybody_who_shares_the_account(connect: Connect, account_id: UUID) -> None:
    one, another = (RateBudget(account_id, [HOUR], connect) for _ in range(2))
    take(one, 6)
    take(another, 4)
    for budget in (one, another):
        error = refusal(budget)
        assert error.error_class == "rate"
        assert error.retry_at is not None
        assert timedelta(minutes=59) < error.retry_at - datetime.now(UTC) < timedelta(minutes=61)


def test_accounts_do_not_share_a_limit(conn: Connection, connect: Connect, account_id: UUID) -> None:
    other = ensure_account(conn, tenants.make_user(conn, "ben@example.com").id, "demo", None)
    take(RateBudget(account_id, [HOUR], connect), 10)
    take(RateBudget(other, [HOUR], connect), 10)


def test_a_short_wait_is_waited(connect: Connect, account_id: UUID) -> None:
    waits: list[float] = []

    def sleep(seconds: float) -> None:
        waits.append(seconds)
        time.sleep(seconds)

    budget = RateBudget(account_id, [RateLimit("requests", 3, timedelta(seconds=0.3))], connect, sleep=sleep)
    permits = [budget.take(["requests"]) for _ in range(7)]
    taken = [permit.taken_at for permit in permits]
    assert all(later - earlier >= 0.3 for earlier, later in zip(taken, taken[3:], strict=False))
    assert waits
    assert max(waits) <= 0.31
    assert permits[0].has_room
    assert not permits[2].has_room


def test_two_limits_are_taken_together_or_not_at_all(conn: Connection, connect: Connect, account_id: UUID) -> None:
    budget = RateBudget(account_id, [MINUTE, HEAVY], connect, sleep=no_sleep)
    take(budget, 2, "heavy", "requests")
    take(budget, 3)
    with pytest.raises(Slept):
        budget.take(["requests", "heavy"])
    assert rows(conn) == {"requests": 5, "heavy": 2}
    take(budget, 5)
    with pytest.raises(Slept):
        budget.take(["requests"])
    assert rows(conn) == {"requests": 10, "heavy": 2}


def test_history_leaves_a_reserve_of_a_long_limit_to_live_runs(connect: Connect, account_id: UUID) -> None:
    """F46."""
    live, history = (RateBudget(account_id, [HOUR], connect, lane, no_sleep) for lane in ("live", "history"))
    take(history, 8)
    refusal(history)
    take(live, 2)
    refusal(live)


def test_history_may_use_all_of_a_short_limit(connect: Connect, account_id: UUID) -> None:
    take(RateBudget(account_id, [MINUTE], connect, "history", no_sleep), 10)


def test_where_a_live_run_waits_the_next_place_is_its_own(connect: Connect, account_id: UUID) -> None:
    """F46."""
    limit = RateLimit("requests", 2, timedelta(seconds=1.5))
    live, history = (RateBudget(account_id, [limit, HEAVY], connect, lane, no_sleep) for lane in ("live", "history"))
    take(history, 2)
    with pytest.raises(Slept):
        live.take(["requests"])
    time.sleep(1.55)
    with pytest.raises(Slept):
        history.take(["requests"])
    history.take(["heavy"])  # for that one nobody waits
    live.take(["requests"])
    RateBudget(account_id, [limit], connect, "history").take(["requests"])  # once no live run asks any more


def test_where_nobody_waits_history_is_not_held_up(connect: Connect, account_id: UUID) -> None:
    live, history = (RateBudget(account_id, [MINUTE], connect, lane, no_sleep) for lane in ("live", "history"))
    take(live, 5)
    take(history, 5)


def test_who_waits_for_a_limit_wakes_up_when_the_run_is_stopped(connect: Connect, account_id: UUID) -> None:
    """F60."""
    patience = Patience()
    budget = RateBudget(account_id, [replace(MINUTE, requests=1)], connect, sleep=patience.sleep)
    take(budget, 1)
    with ThreadPoolExecutor(1) as executor:
        waiting = executor.submit(budget.take, ["requests"])
        patience.end()
        assert isinstance(waiting.exception(timeout=20), StoppedError)


def test_a_limit_of_one_is_open_to_history_too(connect: Connect, account_id: UUID) -> None:
    """F46."""
    budget = RateBudget(account_id, [replace(HOUR, requests=1)], connect, "history")
    take(budget, 1)
    refusal(budget)


def test_requests_that_name_no_limit_draw_from_the_first(conn: Connection, connect: Connect, account_id: UUID) -> None:
    take(RateBudget(account_id, [MINUTE, HEAVY], connect), 1, "unheard-of")
    assert rows(conn) == {"requests": 1}


def test_threads_never_take_more_than_there_is(conn: Connection, connect: Connect, account_id: UUID) -> None:
    budget = RateBudget(
        account_id, [replace(MINUTE, requests=25), replace(HEAVY, requests=20)], connect, sleep=no_sleep
    )

    def attempt(number: int) -> bool:
        try:
            budget.take(["requests", "heavy"] if number % 2 else ["heavy", "requests"])
        except Slept:
            return False
        return True

    with ThreadPoolExecutor(8) as executor:
        assert sum(executor.map(attempt, range(60))) == 20
    assert rows(conn) == {"requests": 20, "heavy": 20}


def test_the_clock_of_the_client_does_not_matter(
    connect: Connect, account_id: UUID, monkeypatch: pytest.MonkeyPatch
) -> None:
    take(RateBudget(account_id, [HOUR], connect), 10)
    tomorrow = time.time() + 86400
    monkeypatch.setattr(time, "time", lambda: tomorrow)
    refusal(RateBudget(account_id, [HOUR], connect))


# Silence


def test_silence_holds_for_the_budgets_that_the_request_drew_on(connect: Connect, account_id: UUID) -> None:
    """F45."""
    limits = [MINUTE, HEAVY]
    one, another = (RateBudget(account_id, limits, connect, sleep=no_sleep) for _ in range(2))
    one.block(3600, ["requests"])
    one.block(5, ["requests"])  # a shorter one does not end it
    assert another.take(["heavy"])
    for names in (["requests"], ["requests", "heavy"]):
        error = refusal(another, *names)
        assert "asked for silence" in str(error)
        assert error.retry_at is not None
        assert timedelta(minutes=59) < error.retry_at - datetime.now(UTC) < timedelta(minutes=61)
    one.block(7200, ["requests", "heavy"])
    for name in ("requests", "heavy"):
        retry_at = refusal(another, name).retry_at
        assert retry_at is not None
        assert retry_at - datetime.now(UTC) > timedelta(minutes=119)


def test_a_short_silence_is_waited_for(connect: Connect, account_id: UUID) -> None:
    """F45."""
    budget = RateBudget(account_id, [], connect)  # there is silence without limits too
    began_at = time.monotonic()
    budget.block(0.7, ["requests"])
    budget.take(["requests"])
    assert time.monotonic() - began_at > 0.69


def test_a_demand_for_silence_holds_for_other_clients_of_the_account(
    conn: Connection, connect: Connect, account_id: UUID
) -> None:
    """F45."""
    with FakeServer() as site:
        site.identify = lambda request: setattr(request, "credential", "us")  # type: ignore[method-assign]
        site.answer = lambda *_: Response.json({})  # type: ignore[method-assign]
        clients = [HttpClient("Demo", site.url, None, RateBudget(account_id, [], connect)) for _ in range(2)]
        clients[1].get_json("/before")
        site.faults.next_faults = ["429-retry-after"]
        site.faults.retry_after_seconds, site.faults.fractional_retry_after = 0.5, True
        with ThreadPoolExecutor(1) as executor:
            refused = executor.submit(clients[0].get_json, "/refused")
            statement = "select 1 from import_pipeline.rate_budgets where blocked_until is not null"
            while not conn.execute(statement).fetchone():
                time.sleep(0.001)
            clients[1].get_json("/after")
            refused.result()
        assert site.early_requests == []
        assert len(site.requests) == 4


def test_nobody_waits_for_a_slow_line_of_somebody_else(database_url: str, account_id: UUID) -> None:
    """A budget is locked while a place is taken: to the database that is one word, and not one more to commit."""
    turns: list[str] = []
    with Proxy.before(database_url) as proxy, psycopg.connect(proxy.through(database_url), autocommit=True) as slow:

        def count(event: Event) -> None:
            if event.sender == "server" and event.kind == "Z":  # ready for the next turn of the conversation
                turns.append(event.kind)

        @contextmanager
        def lend() -> Iterator[Connection]:
            yield slow

        budget = RateBudget(account_id, [HOUR], lend)
        budget.take(["requests"])  # whose connection learns what it needs
        proxy.rules.append(count)
        budget.take(["requests"])
    assert len(turns) == 1


# What is counted, and for how long


@pytest.mark.parametrize("seconds", [0.03, 0.5])
def test_a_request_counts_from_its_answer(conn: Connection, connect: Connect, account_id: UUID, seconds: float) -> None:
    """The provider counted it somewhere in between."""
    limit = RateLimit("requests", 1, timedelta(seconds=0.4))
    budget = RateBudget(account_id, [limit], connect)
    permit = budget.take(["requests"])
    time.sleep(seconds)
    answered_at = conn.execute("select extract(epoch from clock_timestamp())::float8").fetchone()
    budget.note_answered(permit)
    assert rows(conn) == {"requests": 1}
    assert answered_at is not None
    assert budget.take(["requests"]).taken_at >= answered_at[0] + 0.4


def test_what_every_answer_takes_at_least_does_not_count(
    conn: Connection, connect: Connect, account_id: UUID, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of 300 ms that an answer takes, 200 ms are the way there and back of every request, the next one included."""
    monkeypatch.setattr(rate_budgets, "_ANSWERS_UNTIL_LEARNT", 1)
    limit = RateLimit("requests", 5, timedelta(seconds=1))
    for seconds in (0.2, 0.3):
        budget = RateBudget(account_id, [limit], connect)  # each batch of calls has one of its own
        permit = budget.take(["requests"])
        time.sleep(seconds)
        budget.note_answered(permit)
    counted = conn.execute(
        "select max(at), extract(epoch from clock_timestamp())::float8"
        " from import_pipeline.rate_budgets, unnest(counted_at) as at"
    ).fetchone()
    assert counted is not None
    last, now = counted
    assert permit.taken_at <= last <= now - 0.2 + 0.01  # grains are a hundredth of the span
    assert rows(conn) == {"requests": 2}


def test_a_quick_answer_costs_no_further_statement(connect: Connect, account_id: UUID) -> None:
    lent = 0

    @contextmanager
    def counting() -> Iterator[Connection]:
        nonlocal lent
        lent += 1
        with connect() as conn:
            yield conn

    budget = RateBudget(account_id, [replace(HOUR, per=timedelta(days=1))], counting)
    for _ in range(3):
        budget.note_answered(budget.take(["requests"]))
    assert lent in (3, 4)  # the end of a grain may fall in between


@dataclass
class Row:
    """A budget's log relative to the present, in seconds, as the model of the function reads it."""

    grains: list[tuple[int, int]] = field(default_factory=list)

    def wait(self, allowed: int, span: int) -> int:
        counted = [(at, n) for at, n in self.grains if -span < at < span]
        for wait in sorted({0, *(at + span for at, _ in counted)}):
            if sum(n for at, n in counted if at + span > wait) < allowed:
                return max(wait, 0)
        raise AssertionError


BUDGET = st.tuples(
    st.lists(st.tuples(st.integers(-1100, 1100), st.integers(1, 5)), max_size=12, unique_by=lambda grain: grain[0]),
    st.integers(1, 12),
    st.one_of(st.none(), st.integers(-500, 500)),
)


def test_taking_agrees_with_a_simple_model(conn: Connection, account_id: UUID) -> None:
    span = 1000
    conn.execute("set role import_worker")

    @settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    @given(st.lists(BUDGET, min_size=1, max_size=3))
    def check(budgets: list[tuple[list[tuple[int, int]], int, int | None]]) -> None:
        conn.execute("delete from import_pipeline.rate_budgets")
        names = [f"b{number}" for number in range(len(budgets))]
        for name, (grains, _, blocked) in zip(names, budgets, strict=True):
            conn.execute(
                "insert into import_pipeline.rate_budgets (account_id, name, counted_at, counts, blocked_until)"
                " select %s, %s, array(select extract(epoch from clock_timestamp()) + at + 0.5"
                " from unnest(%s::int[]) as at), %s::int[], clock_timestamp() + make_interval(secs => %s::int + 0.5)",
                [account_id, name, [at for at, _ in grains], [n for _, n in grains], blocked],
            )
        allowed = [each[1] for each in budgets]
        answer = conn.execute(
            "select wait_seconds, blocked, used from"
            " import_pipeline.take_rate_budgets(%s, %s, %s::integer[], %s::float8[])",
            [account_id, names, allowed, [float(span)] * len(names)],
        ).fetchone()
        assert answer is not None
        waits = [Row([(at, n) for at, n in grains]).wait(limit, span) for grains, limit, _ in budgets]
        silences = [blocked + 1 for _, _, blocked in budgets if blocked is not None and blocked >= 0]
        assert answer[0] == pytest.approx(max([*waits, *silences]), abs=1)
        assert (answer[0] == 0) == (not any([*waits, *silences]))
        assert answer[1] == bool(silences)
        before = [sum(n for at, n in grains if -span <= at < span) for grains, _, _ in budgets]
        assert answer[2] == before
        total = sum(rows(conn).values())
        if answer[0] == 0:
            assert total == sum(before) + len(names)

    check()


def test_the_log_stays_small(conn: Connection, connect: Connect, account_id: UUID) -> None:
    limit = RateLimit("requests", 1_000_000, timedelta(seconds=1))
    with connect() as lent:

        @contextmanager
        def lend() -> Iterator[Connection]:
            yield lent

        budget = RateBudget(account_id, [limit], lend)
        started_at = time.monotonic()
        number = 0
        while number < 1000 or time.monotonic() - started_at < 1.2:
            budget.note_answered(budget.take(["requests"]))
            number += 1
    grains, size = conn.execute(
        "select cardinality(counts), pg_relation_size('import_pipeline.rate_budgets') from import_pipeline.rate_budgets"
    ).fetchone() or (None, None)
    assert grains <= 102
    assert size < 1_000_000  # of two thousand versions, 1.3 kB each, those that are not pruned yet


def test_a_clock_that_was_set_back_blocks_nobody_for_long(conn: Connection, connect: Connect, account_id: UUID) -> None:
    conn.execute(
        "insert into import_pipeline.rate_budgets (account_id, name, counted_at, counts)"
        " values (%s, 'requests', array[extract(epoch from clock_timestamp()) + 100000], array[10])",
        [account_id],
    )
    take(RateBudget(account_id, [HOUR], connect), 10)
    assert rows(conn) == {"requests": 10}


# Who, and what if the account goes


def test_an_account_that_was_deleted_meanwhile_is_an_error_of_its_own(
    conn: Connection, connect: Connect, account_id: UUID
) -> None:
    budget = RateBudget(account_id, [MINUTE], connect)
    permit = budget.take(["requests"])
    conn.execute("delete from public.import_sources")
    assert rows(conn) == {}
    for ask in (lambda: budget.take(["requests"]), lambda: budget.block(5, ["requests"])):
        with pytest.raises(ReconnectError, match="deleted"):
            ask()
    budget.note_answered(replace(permit, asked_at=permit.asked_at - 3600))


def test_an_account_that_is_deleted_while_somebody_waits_for_its_budget_is_one_too(
    conn: Connection, connect: Connect, account_id: UUID
) -> None:
    def wait_for_waiting(number: int) -> None:
        while len(conn.execute("select from pg_locks where not granted").fetchall()) < number:
            time.sleep(0.01)

    def delete() -> None:
        with connect() as deleting:
            deleting.execute("delete from public.import_sources")

    budget = RateBudget(account_id, [MINUTE], connect)
    take(budget, 1)
    with ThreadPoolExecutor(2) as executor:
        with conn.transaction():
            conn.execute("select from import_pipeline.rate_budgets for update")
            deleted = executor.submit(delete)
            wait_for_waiting(1)
            waiting = executor.submit(budget.take, ["requests"])
            wait_for_waiting(2)
        deleted.result()
        with pytest.raises(ReconnectError, match="deleted"):
            waiting.result()


def test_nobody_but_the_importer_touches_budgets(conn: Connection, account_id: UUID) -> None:
    statement = "select * from import_pipeline.take_rate_budgets(%s, '{a}', '{1}', '{1}')"
    for role in ("authenticated", "anon"):
        with tenants.as_role(conn, role), pytest.raises(psycopg.errors.InsufficientPrivilege), conn.transaction():
            conn.execute(statement, [account_id])


# Against a provider that counts


@dataclass(kw_only=True, eq=False)
class Counting(FakeServer):
    """Allows 60 requests per second, and notes when it let each in and refused each."""

    fixed: bool = False
    admitted: list[float] = field(default_factory=list)
    refused: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        self.limiter = Limiter("60/1s", self.fixed)

    def answer(self, request: Request, *_: Any) -> Response:
        with self.lock:
            now = time.monotonic()
            if self.limiter.room("us", now).remaining < 1:
                self.refused += 1
                return Response.json({}, 429, Retry_After="0")
            self.limiter.take("us", now)
            self.admitted.append(now)
        return Response.json({})


WORKER = """
import json, sys, threading, time
from datetime import timedelta
from uuid import UUID
from psycopg_pool import ConnectionPool
from import_pipeline.database.connections import connection_settings
from import_pipeline.providers.http import HttpClient
from import_pipeline.providers.rate_budgets import RateBudget, RateLimit

url, account_id, site, threads, seconds, batch, pause = sys.argv[1:]
waits = []

class Watched(RateBudget):
    def take(self, names):
        began_at = time.monotonic()
        permit = super().take(names)
        waits.append((began_at, time.monotonic()))
        return permit

def work(requests):
    for _ in range(requests):
        http.get_json("/")

limits = [RateLimit("requests", 60, timedelta(seconds=1))]
with (
    ConnectionPool(url, kwargs=connection_settings(), min_size=1, max_size=4, open=True) as pool,
    HttpClient("Demo", site, None, Watched(UUID(account_id), limits, pool.connection)) as http,
):
    sys.stdout.write("ready\\n")
    sys.stdout.flush()
    sys.stdin.readline()
    until = time.monotonic() + float(seconds)
    while time.monotonic() < until:
        running = [threading.Thread(target=work, args=(int(batch) // int(threads),)) for _ in range(int(threads))]
        for each in running:
            each.start()
        for each in running:
            each.join()
        time.sleep(float(pause))
sys.stdout.write(json.dumps(waits))
"""


def ask_together(
    url: str, account_id: UUID, site: Counting, shape: tuple[int, int, int, float], seconds: float
) -> float:
    """Let processes ask as fast as they may; return how full the provider's limit was while one of them waited."""
    processes, threads, batch, pause = shape
    arguments = [url, str(account_id), site.url, *map(str, (threads, seconds, batch, pause))]
    running = start_together(WORKER, arguments, processes)
    waits: list[tuple[float, float]] = sorted(wait for each in running for wait in json.loads(each.communicate()[0]))
    assert all(each.returncode == 0 for each in running)
    full = ticks = 0
    until = 0.0
    for began_at, ended_at in waits:
        tick = max(began_at + 0.01, until)
        while tick < ended_at - 0.01:
            ticks += 1
            full += bisect.bisect(site.admitted, tick) - bisect.bisect(site.admitted, tick - 1)
            tick += 0.002
        until = max(until, ended_at)
    return full / ticks / 60 if ticks else 1.0


def test_a_provider_that_counts_refuses_nothing(database_url: str, account_id: UUID) -> None:
    with Counting() as site:
        ask_together(database_url, account_id, site, (2, 2, 40, 0.0), 1.0)
        assert len(site.admitted) >= 80
        assert site.refused == 0


SHAPES: Sequence[tuple[int, int, int, float]] = [
    (1, 1, 100, 0.0),
    (1, 4, 100, 0.0),
    (4, 1, 50, 0.0),
    (1, 1, 100, 0.5),
    (1, 4, 100, 0.5),
    (4, 1, 25, 0.5),
]


@pytest.mark.long
@pytest.mark.parametrize("shape", SHAPES, ids="{0[0]} processes, {0[1]} threads, {0[2]} a batch, {0[3]} s pause".format)
@pytest.mark.parametrize("fixed", [False, True], ids=["sliding", "fixed"])
def test_nothing_is_refused_however_the_limit_is_used(
    database_url: str,
    account_id: UUID,
    fixed: bool,
    shape: tuple[int, int, int, float],
    record_property: Callable[[str, object], None],
) -> None:
    """How much of it is used depends on what else the machine does; `benchmarks.provider` measures that."""
    with Counting(fixed=fixed) as site:
        use = ask_together(database_url, account_id, site, shape, 10.0)
        assert site.refused == 0
    record_property("use", f"{use:.1%}")


@pytest.mark.parametrize("counted", ["at once", "in between", "in the end"])
def test_limits_are_kept_when_the_server_answers_late(
    database_url: str, account_id: UUID, connect: Connect, counted: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever in the time of its answer, which differs, the server counts a request."""
    monkeypatch.setattr(rate_budgets, "_ANSWERS_UNTIL_LEARNT", 8)
    chance = random.Random(counted)  # noqa: S311 - the same delays each time
    share = {"at once": 0.0, "in between": 0.5, "in the end": 1.0}[counted]
    limit = RateLimit("requests", 5, timedelta(seconds=0.3))

    class Late(Counting):
        def answer(self, request: Request, *rest: Any) -> Response:
            seconds = 0.05 + 0.1 * chance.random()
            time.sleep(seconds * share)
            response = super().answer(request, *rest)
            time.sleep(seconds * (1 - share))
            return response

    with Late() as site:
        site.limiter = Limiter("5/0.3s")
        with HttpClient("Demo", site.url, None, RateBudget(account_id, [limit], connect)) as client:
            running = [threading.Thread(target=lambda: [client.get_json("/") for _ in range(8)]) for _ in range(4)]
            for each in running:
                each.start()
            for each in running:
                each.join()
        assert (len(site.admitted), site.refused) == (32, 0)
