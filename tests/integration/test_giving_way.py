"""A run over history gives way to one for what is new, in the middle of its month, and goes on afterwards."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
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


class News(Demo):
    """What is new; while it is asked for, history must not be."""

    def __init__(self, history: Slow) -> None:
        super().__init__([Call("new", datetime.now(UTC) - timedelta(hours=1))])
        self.history = history
        self.asked_of_history: list[int] = []

    def list_items(self, account: Account, window: Window, http: HttpClient) -> Iterator[ListedItem]:
        self.history.go_on.set()  # what was on its way may end
        while len(self.history.asked) < 3:
            threading.Event().wait(0.01)
        yield from super().list_items(account, window, http)

    def fetch_record(self, account: Account, item: ListedItem, http: HttpClient) -> ConnectorRecord:
        threading.Event().wait(0.3)
        self.asked_of_history.append(len(self.history.asked))
        return super().fetch_record(account, item, http)


@pytest.fixture
def history() -> Slow:
    return Slow([Call(f"old-{number}", START + timedelta(minutes=number)) for number in range(8)])


def start(world: World, connector: Demo, **options: Any) -> tuple[threading.Thread, list[dg.ExecuteInProcessResult]]:
    """Run a job beside the test."""
    results: list[dg.ExecuteInProcessResult] = []
    thread = threading.Thread(target=lambda: results.append(world.run(connector, **options)))
    thread.start()
    return thread, results


def test_a_live_run_gets_its_account_in_the_middle_of_a_month_and_the_month_goes_on(
    world: World, history: Slow
) -> None:
    """F46."""
    ana = world.account("ana@example.com")
    thread, results = start(world, history, month=MONTH)
    assert history.reached.wait(LONG)
    news = News(history)
    live = world.run(news)
    assert live.success
    assert live.output_for_node("report").counts == Counts(listed=1, inserted=1)
    assert news.asked_of_history == [3], "history asks for nothing while the live run has the account"
    assert world.cursor(ana) is not None
    thread.join(LONG)
    assert results[0].success
    assert results[0].output_for_node("report").counts == Counts(listed=8, inserted=8)
    assert sorted(world.recordings()) == ["new", *(f"old-{number}" for number in range(8))]
    assert [(job["status"], job["error"]) for job in world.jobs()] == [("completed", None)] * 2
    assert world.rows("select count(*) from import_pipeline.leases") == [(0,)]
    runs = [world.instance.get_run_by_id(run.run_id) for run in (results[0], live)]
    assert [(run.tags["lane"], run.tags.get("backfill")) for run in runs if run] == [
        ("history", "demo"),
        ("live", None),
    ]


def test_a_month_that_waits_too_long_for_what_it_lent_fails_and_is_resumed(
    world: World, history: Slow, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.account("ana@example.com")
    monkeypatch.setattr("import_pipeline.library.leases.RETURN_WAIT_SECONDS", 0)
    thread, results = start(world, history, month=MONTH)
    assert history.reached.wait(LONG)
    assert world.run(News(history)).success
    thread.join(LONG)
    assert not results[0].success
    again = world.run(history, month=MONTH)
    assert again.success
    assert len(world.recordings()) == len(set(world.recordings())) == 9


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
