"""A month of history and an import of what is new work on the same account side by side."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import psycopg
import pytest
import tenants
from commands import CommandLine
from connectors.demo import START, Call, Demo
from cryptography.fernet import Fernet
from dev import wait_until
from fakes import FathomServer, make_calls
from fakes.fathom import API_KEY
from world import World

from import_pipeline.errors import ItemError, NotReadyError
from import_pipeline.library import leases
from import_pipeline.providers.http import HttpClient
from import_pipeline.records import Account, ConnectorRecord, Counts, ListedItem, Window

MONTH = "2024-03-01"
LONG = 30.0


class Slow(Demo):
    """A history that stops at its third call until it is told to go on."""

    def __init__(self, calls: list[Call]) -> None:
        super().__init__(calls)
        self.reached = threading.Event()
        self.go_on = threading.Event()

    def fetch_record(self, account: Account, item: ListedItem, http: HttpClient) -> ConnectorRecord:
        if len(self.asked) == 2:
            self.reached.set()
            assert self.go_on.wait(LONG)
        return super().fetch_record(account, item, http)


@pytest.fixture
def old_calls() -> list[Call]:
    return [Call(f"old-{number}", START + timedelta(minutes=number)) for number in range(8)]


@contextmanager
def a_month_under_way(world: World, connector: Slow) -> Iterator[list[dg.ExecuteInProcessResult]]:
    """Run a month beside the block, in which it stands at its third call; its result is there afterwards."""
    results: list[dg.ExecuteInProcessResult] = []
    thread = threading.Thread(target=lambda: results.append(world.run(connector, month=MONTH)))
    thread.start()
    try:
        assert connector.reached.wait(LONG)
        yield results
        assert results == [], "the month is under way still"
    finally:
        connector.go_on.set()
        thread.join(LONG)


def counts_of(result: dg.ExecuteInProcessResult) -> Counts:
    counts: Counts = result.output_for_node("report").counts
    return counts


def test_a_live_run_imports_what_is_new_while_a_month_of_history_is_under_way(
    world: World, old_calls: list[Call]
) -> None:
    """F46."""
    ana = world.account("ana@example.com")
    history = Slow(old_calls)
    with a_month_under_way(world, history) as results:
        live = world.run(Demo([Call("new", datetime.now(UTC) - timedelta(hours=1))]))
        assert live.success
        assert counts_of(live) == Counts(listed=1, inserted=1)
        assert world.recordings() == ["new"]
        cursor = world.cursor(ana)
        assert cursor is not None
        assert [(job["status"], job["error"]) for job in world.jobs()] == [("processing", None), ("completed", None)]
        assert world.rows("select lane from import_pipeline.leases") == [("history",)]
    assert results[0].success
    assert counts_of(results[0]) == Counts(listed=8, inserted=8)
    assert sorted(world.recordings()) == ["new", *(f"old-{number}" for number in range(8))]
    assert world.cursor(ana) == cursor, "only live runs move it"
    assert [(job["status"], job["error"]) for job in world.jobs()] == [("completed", None)] * 2
    assert world.rows("select count(*) from import_pipeline.leases") == [(0,)]
    runs = [world.instance.get_run_by_id(run.run_id) for run in (results[0], live)]
    assert [(run.tags["lane"], run.tags.get("backfill")) for run in runs if run] == [
        ("history", "demo"),
        ("live", None),
    ]


def test_what_both_runs_have_in_hand_at_once_comes_once_and_is_counted_once(
    world: World, old_calls: list[Call]
) -> None:
    world.account("ana@example.com")
    with a_month_under_way(world, Slow(old_calls)) as results:
        live = world.run(Demo(old_calls))
        assert counts_of(live) == Counts(listed=8, inserted=8)
    assert results[0].success
    assert counts_of(results[0]) == Counts(listed=8, skipped=8)
    assert world.recordings() == [f"old-{number}" for number in range(8)]
    assert world.rows("select count(*) from vault_entries") == [(8,)]
    assert world.rows("select status, run_id, count(*) from import_items group by 1, 2") == [
        ("imported", live.run_id, 8)
    ]


def test_what_fails_in_a_month_stays_imported_if_the_live_run_had_it(world: World, old_calls: list[Call]) -> None:
    world.account("ana@example.com")
    history = Slow([replace(call, error=ItemError("It is damaged.")) for call in old_calls])
    with a_month_under_way(world, history) as results:
        assert world.run(Demo(old_calls)).success
    assert counts_of(results[0]) == Counts(listed=8, skipped=8)
    assert set(world.statuses().values()) == {"imported"}


def test_what_the_live_run_gives_up_a_month_that_has_it_in_hand_still_imports(
    world: World, old_calls: list[Call]
) -> None:
    """The source has stopped listing it in between: it is failed for good, unless its transcript is here already."""
    world.account("ana@example.com")
    late = [replace(call, error=NotReadyError("It is being transcribed.")) for call in old_calls]
    world.run(Demo(late))
    world.due_now()
    with a_month_under_way(world, Slow(old_calls)) as results:
        world.run(Demo([]))
        assert {status for status, _, message in world.ledger().values() if "no longer lists" in (message or "")} == {
            "failed"
        }
    assert counts_of(results[0]) == Counts(listed=8, inserted=8)
    assert set(world.statuses().values()) == {"imported"}


@pytest.mark.long
def test_a_listing_that_loses_its_account_is_a_problem_of_that_account_alone(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    ana, ben = world.account("ana@example.com"), world.account("ben@example.com")
    renew, renewals = leases.renew_leases, 0

    def count(*arguments: Any) -> set[Any]:
        nonlocal renewals
        renewed = renew(*arguments)
        renewals += 1
        return renewed

    class Robbed(Demo):
        def list_items(self, account: Account, window: Window, http: HttpClient) -> Iterator[ListedItem]:
            if account.user_id != ana.id:
                yield from super().list_items(account, window, http)
                return
            world.do(
                "update import_pipeline.leases set holder = 'thief', expires_at = now() + interval '1 hour'"
                " where account_id = %s",
                account.id,
            )
            before = renewals
            while renewals < before + 2:
                threading.Event().wait(0.01)
            yield from super().list_items(account, window, http)

    monkeypatch.setattr("import_pipeline.library.leases.LEASE_SECONDS", 0.3)
    monkeypatch.setattr("import_pipeline.library.leases.renew_leases", count)
    result = world.run(Robbed([Call("call")]))
    assert not result.success
    assert world.rows("select owner_user_id from recordings") == [(ben.id,)]
    jobs = {job["user_id"]: job for job in world.jobs()}
    assert jobs[ben.id]["status"] == "completed"
    assert "run thief" in jobs[ana.id]["error"]
    assert jobs[ana.id]["metadata"]["error_class"] == "transient"


@pytest.mark.long
def test_a_sync_beside_a_backfill_of_the_same_account_is_done_before_it(
    conn: psycopg.Connection[Any], database_url: str, tmp_path: Path
) -> None:
    """F46: as two commands, under a limit that makes the month last for a minute."""
    conn.autocommit = True
    ana = tenants.make_user(conn, "ana@example.com")
    calls = make_calls(400, months=1, until=datetime(2025, 9, 1, tzinfo=UTC))
    with FathomServer(calls=[call for call in calls if call.created_at.month == 8], rate_limit="2/1s") as fathom:
        number = len(fathom.calls)
        settings = {
            "DATABASE_URL": database_url,
            "IMPORT_PIPELINE_SECRET_KEY": Fernet.generate_key().decode(),
            "IMPORT_PIPELINE_FATHOM_API_KEY": API_KEY,
            "IMPORT_PIPELINE_FATHOM_RATE_LIMITS": "2/1s",
        }
        command_line = CommandLine(tmp_path / "home", settings | fathom.environment)
        assert command_line.run("connect", "fathom", "--user", ana.email).code == 0
        conn.execute("update import_sources set last_sync_at = now() - interval '1 hour'")
        months = ("--from", "2025-08", "--to", "2025-08", "--yes", "--json")
        backfill = command_line.start("backfill", "fathom", *months)
        held = "select count(*) from import_pipeline.leases where lane = 'history'"
        wait_until(lambda: conn.execute(held).fetchone() == (1,), "waited for the month to begin")
        fathom.add()
        sync = command_line.run("sync", "fathom", "--user", ana.email, "--json")
        assert sync.code == 0, sync.stderr
        assert (sync.json["inserted"], sync.json["listed"]) == (1, 1)
        assert backfill.poll() is None, "the month is not done yet"
        stdout, stderr = backfill.communicate(timeout=200)
        assert backfill.returncode == 0, stderr
        assert json.loads(stdout)["inserted"] == number
        assert fathom.early_requests == []
    assert conn.execute("select count(*) from recordings").fetchone() == (number + 1,)
    assert {status for (status,) in conn.execute("select status from sync_jobs")} == {"completed"}
