"""One run per account and lane at a time: taking, renewing, taking over, and waiting for a lease."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from threading import Event, Thread
from typing import Any
from uuid import UUID

import psycopg
import pytest
import tenants

from import_pipeline.database.connections import Connect
from import_pipeline.library.accounts import ensure_account
from import_pipeline.library.leases import (
    LeaseKeeper,
    LeaseLostError,
    acquire_lease,
    is_process_gone,
    release_lease,
    this_process,
)
from import_pipeline.records import Lane

Connection = psycopg.Connection[Any]

HOLD = """
import sys, psycopg
from import_pipeline.library.leases import acquire_lease, this_process
with psycopg.connect(sys.argv[1], autocommit=True) as conn:
    problem = acquire_lease(conn, sys.argv[2], "holder", is_run_over=lambda _: False)
sys.stdout.write((problem or this_process()) + "\\n")
sys.stdout.flush()
sys.stdin.read()
"""


@pytest.fixture
def account_id(conn: Connection) -> UUID:
    conn.autocommit = True
    return ensure_account(conn, tenants.make_user(conn).id, "demo", None)


@pytest.fixture
def process(database_url: str, account_id: UUID) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A process of its own that holds the lease, and its name."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, database_url, str(account_id)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as running:
        assert running.stdout is not None
        name = running.stdout.readline().strip()
        yield running, name
        running.kill()


@pytest.fixture
def connect(database_url: str) -> Connect:
    @contextmanager
    def lend() -> Iterator[Connection]:
        with psycopg.connect(database_url, autocommit=True) as lent:
            yield lent

    return lend


def never(run_id: str) -> bool:
    """No run is over."""
    return False


def take(conn: Connection, account_id: UUID, holder: str, *, lane: Lane = "live", over: bool = False) -> str | None:
    """Ask without waiting."""
    return acquire_lease(conn, account_id, holder, lane=lane, is_run_over=lambda _: over)


def holder(conn: Connection) -> list[tuple[Any, ...]]:
    return conn.execute("select holder from import_pipeline.leases").fetchall()


def expiries(conn: Connection) -> list[datetime]:
    rows = conn.execute("select expires_at from import_pipeline.leases order by account_id").fetchall()
    return [expires_at for (expires_at,) in rows]


def wait_until(condition: Callable[[], bool]) -> None:
    ends_at = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < ends_at, "it never came to that"
        time.sleep(0.02)


def test_a_lease_is_exclusive_and_the_refusal_says_who_has_it(conn: Connection, account_id: UUID) -> None:
    assert take(conn, account_id, "run-1") is None
    refusal = take(conn, account_id, "run-2")
    assert "run run-1 is working on this account" in (refusal or "")
    assert "last sign of life" in (refusal or "")
    assert holder(conn) == [("run-1",)]


def test_accounts_are_independent(conn: Connection, account_id: UUID) -> None:
    other = ensure_account(conn, tenants.make_user(conn, "ben@example.com").id, "demo", None)
    assert take(conn, account_id, "run-1") is None
    assert take(conn, other, "run-2") is None


def test_the_holder_renews_its_lease(conn: Connection, account_id: UUID) -> None:
    take(conn, account_id, "run-1")
    conn.execute("update import_pipeline.leases set expires_at = now() - interval '1 second'")
    columns = "select acquired_at, heartbeat_at, expires_at > now() from import_pipeline.leases"
    ((acquired, heartbeat, _),) = conn.execute(columns).fetchall()
    assert take(conn, account_id, "run-1") is None
    ((acquired_now, heartbeat_now, is_valid),) = conn.execute(columns).fetchall()
    assert acquired_now == acquired
    assert heartbeat_now > heartbeat
    assert is_valid


def test_a_silent_holder_is_taken_over_from(conn: Connection, account_id: UUID) -> None:
    take(conn, account_id, "run-1")
    conn.execute("update import_pipeline.leases set expires_at = clock_timestamp() - interval '1 second'")
    assert take(conn, account_id, "run-2") is None
    assert holder(conn) == [("run-2",)]
    assert "run-2" in (take(conn, account_id, "run-1") or "")


def test_a_run_that_is_over_is_taken_over_from_at_once(conn: Connection, account_id: UUID) -> None:
    take(conn, account_id, "run-1")
    assert take(conn, account_id, "run-2") is not None
    assert take(conn, account_id, "run-2", over=True) is None


def test_a_living_process_keeps_its_lease_and_a_killed_one_loses_it_at_once(
    conn: Connection, account_id: UUID, process: tuple[subprocess.Popen[str], str]
) -> None:
    """F85: nobody waits for the lease of a crashed process to run out."""
    running, name = process
    assert not is_process_gone(name)
    assert "run holder is working" in (take(conn, account_id, "run-2") or "")
    running.kill()
    running.wait()
    assert is_process_gone(name)
    assert take(conn, account_id, "run-2") is None


def test_a_killed_process_that_nobody_has_waited_for_is_gone_too(
    conn: Connection, account_id: UUID, process: tuple[subprocess.Popen[str], str]
) -> None:
    """In a container without an init process such remains stay for ever."""
    running, name = process
    running.kill()
    assert running.stdout is not None
    assert running.stdout.read() == ""  # its end, but its entry in the process table is still there
    while not is_process_gone(name):
        pass
    assert running.returncode is None
    assert take(conn, account_id, "run-2") is None


def test_of_another_machine_and_of_a_recycled_number_the_right_thing_is_thought() -> None:
    machine, pid, created = this_process().rsplit("/", 2)
    assert not is_process_gone(this_process())
    assert is_process_gone(f"{machine}/{pid}/{float(created) - 100:.2f}")
    assert not is_process_gone(f"elsewhere/1/{pid}/{float(created) - 100:.2f}")


def test_waiting_ends_when_the_holder_gives_the_lease_back(
    conn: Connection, connect: Connect, account_id: UUID
) -> None:
    take(conn, account_id, "run-1")
    released: list[str] = []

    def asked(other: str) -> bool:
        if not released:  # the second run has seen that it must wait
            with connect() as theirs:
                release_lease(theirs, account_id, "run-1")
            released.append(other)
        return False

    assert LeaseKeeper(connect, "run-2", "live", asked).take([account_id], wait_seconds=30) == {}
    assert released == ["run-1"]
    assert holder(conn) == [("run-2",)]


def test_waiting_is_bounded(conn: Connection, connect: Connect, account_id: UUID) -> None:
    take(conn, account_id, "run-1")
    asked: list[str] = []
    keeper = LeaseKeeper(connect, "run-2", "live", lambda run: asked.append(run) is not None)
    assert "run run-1" in keeper.take([account_id], wait_seconds=0.6)[account_id]
    assert len(asked) >= 2


def test_what_is_free_is_taken_before_anything_is_waited_for_and_all_waits_end_together(
    conn: Connection, connect: Connect, account_id: UUID
) -> None:
    """Ten busy accounts must not be waited for one after the other, while those in hand run out."""
    others = [ensure_account(conn, tenants.make_user(conn, f"{n}@example.com").id, "demo", None) for n in range(4)]
    for busy in (account_id, others[1]):
        take(conn, busy, "run-1")
    seen: list[set[UUID]] = []

    def look(other: str) -> bool:
        rows = conn.execute("select account_id from import_pipeline.leases where holder = 'run-2'").fetchall()
        seen.append({each for (each,) in rows})
        return False

    keeper = LeaseKeeper(connect, "run-2", "live", look)
    refused = keeper.take([account_id, *others], wait_seconds=0.6)
    assert set(refused) == {account_id, others[1]}
    assert seen[-1] == {others[0], others[2], others[3]}
    assert len(seen) <= 8, "every look asks for both"


def test_a_run_renews_all_its_leases_whichever_account_is_in_hand(
    conn: Connection, connect: Connect, account_id: UUID, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the first of ten accounts is listed, the others must not run out."""
    other = ensure_account(conn, tenants.make_user(conn, "ben@example.com").id, "demo", None)
    monkeypatch.setattr("import_pipeline.library.leases.LEASE_SECONDS", 0.3)
    with LeaseKeeper(connect, "run-1", "live", never) as keeper:
        keeper.take([account_id, other], 0)
        first = expiries(conn)
        wait_until(lambda: all(now > before for now, before in zip(expiries(conn), first, strict=True)))
        keeper.require(account_id)
        keeper.require(other)


def test_a_database_that_is_away_for_a_moment_does_not_cost_the_lease(
    connect: Connect, account_id: UUID, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("import_pipeline.library.leases.LEASE_SECONDS", 2)
    is_away = Event()

    @contextmanager
    def shaky() -> Iterator[Connection]:
        if is_away.is_set():
            raise psycopg.OperationalError("gone")
        with connect() as lent:
            yield lent

    with LeaseKeeper(shaky, "run-1", "live", never) as keeper:
        keeper.take([account_id], 0)
        is_away.set()
        time.sleep(0.8)
        keeper.require(account_id)
        is_away.clear()
        time.sleep(0.8)
        is_away.set()

        def fails() -> bool:
            try:
                keeper.require(account_id)
            except psycopg.OperationalError:
                return True
            return False

        wait_until(fails)


# Two lanes


def test_an_account_has_one_lease_for_what_is_new_and_one_for_history(conn: Connection, account_id: UUID) -> None:
    """F46."""
    assert take(conn, account_id, "backfill", lane="history") is None
    assert take(conn, account_id, "sync") is None
    for lane, holder_of_lane in (("live", "sync"), ("history", "backfill")):
        assert f"run {holder_of_lane} is working" in (take(conn, account_id, "another", lane=lane) or "")
    release_lease(conn, account_id, "sync")
    assert holder(conn) == [("backfill",)]
    assert take(conn, account_id, "another sync") is None


def test_a_run_that_is_taken_over_from_loses_its_own_lane_only(conn: Connection, account_id: UUID) -> None:
    take(conn, account_id, "backfill", lane="history")
    take(conn, account_id, "sync")
    assert take(conn, account_id, "another sync", over=True) is None
    assert sorted(holder(conn)) == [("another sync",), ("backfill",)]


# Losing it


def test_a_run_whose_account_another_one_has_taken_ends(conn: Connection, connect: Connect, account_id: UUID) -> None:
    keeper = LeaseKeeper(connect, "run-1", "live", never)
    keeper.take([account_id], 0)
    conn.execute("update import_pipeline.leases set holder = 'thief'")
    with pytest.raises(LeaseLostError, match="thief"):
        next(keeper.hold(account_id, ["item"]))


@pytest.mark.parametrize("number", [1, 2], ids=["at the end", "in the middle"])
def test_a_run_that_could_renew_nothing_for_as_long_as_a_lease_lasts_asks_whether_it_still_has_it(
    conn: Connection, connect: Connect, account_id: UUID, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """Its process was frozen, and another run has taken the account meanwhile."""
    keeper = LeaseKeeper(connect, "run-1", "live", never)  # nothing renews in the background
    keeper.take([account_id], 0)
    items = keeper.hold(account_id, ["item"] * number)
    assert next(items) == "item"
    conn.execute("update import_pipeline.leases set holder = 'thief'")
    monkeypatch.setattr("import_pipeline.library.leases.LEASE_SECONDS", 0)
    with pytest.raises(LeaseLostError, match="thief"):
        next(items, None)


# Who may have it


def test_only_the_holder_can_give_a_lease_back(conn: Connection, account_id: UUID) -> None:
    take(conn, account_id, "run-1")
    release_lease(conn, account_id, "run-2")
    assert holder(conn) == [("run-1",)]
    release_lease(conn, account_id, "run-1")
    release_lease(conn, account_id, "run-1")
    assert holder(conn) == []


def test_of_many_runs_that_ask_at_once_one_gets_it(conn: Connection, database_url: str, account_id: UUID) -> None:
    answers: list[str | None] = []

    def ask(number: int) -> None:
        with psycopg.connect(database_url, autocommit=True) as mine:
            answers.append(take(mine, account_id, f"run-{number}"))

    threads = [Thread(target=ask, args=[number]) for number in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=20)
    assert len(answers) == 12
    assert answers.count(None) == 1
