"""One run per account at a time: taking, renewing, taking over, and waiting for a lease."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from threading import Thread
from typing import Any
from uuid import UUID

import psycopg
import pytest
import tenants

from import_pipeline.accounts import ensure_account
from import_pipeline.leases import acquire_lease, is_process_gone, release_lease, this_process

Connection = psycopg.Connection[Any]

HOLD = """
import sys, psycopg
from import_pipeline.leases import acquire_lease, this_process
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


def take(conn: Connection, account_id: UUID, holder: str, *, over: bool = False) -> str | None:
    """Ask without waiting."""
    return acquire_lease(conn, account_id, holder, is_run_over=lambda _: over, wait_seconds=0)


def holder(conn: Connection) -> list[tuple[Any, ...]]:
    return conn.execute("select holder from import_pipeline.leases").fetchall()


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
    conn: Connection, database_url: str, account_id: UUID
) -> None:
    take(conn, account_id, "run-1")
    results: list[str | None] = []

    def wait() -> None:
        with psycopg.connect(database_url, autocommit=True) as mine:
            results.append(acquire_lease(mine, account_id, "run-2", is_run_over=asked, wait_seconds=30))

    released: list[str] = []

    def asked(other: str) -> bool:
        if not released:  # the second run has seen that it must wait
            with psycopg.connect(database_url, autocommit=True) as theirs:
                release_lease(theirs, account_id, "run-1")
            released.append(other)
        return False

    thread = Thread(target=wait)
    thread.start()
    thread.join(timeout=20)
    assert results == [None]
    assert released == ["run-1"]
    assert holder(conn) == [("run-2",)]


def test_waiting_is_bounded(conn: Connection, account_id: UUID) -> None:
    take(conn, account_id, "run-1")
    asked: list[str] = []
    refusal = acquire_lease(
        conn, account_id, "run-2", is_run_over=lambda run: asked.append(run) is not None, wait_seconds=0.6
    )
    assert refusal is not None
    assert len(asked) >= 2


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
