"""Cancelling what was launched from the UI: it stops asking, says so, leaves the account free, and can go on later."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest
import servers
from commands import CommandLine
from dev import Dev, running_dev, wait_until
from fakes import ZoomServer, make_calls
from fakes.zoom import ACCOUNT_ID, CLIENT_ID, CLIENT_SECRET

from import_pipeline.database.embedded import open_server

pytestmark = [pytest.mark.long, pytest.mark.timeout(600)]

CALLS = 150


@pytest.fixture(scope="module")
def zoom() -> Iterator[ZoomServer]:
    """Zoom, of which several requests are made at a time, with calls of two months."""
    with ZoomServer(calls=make_calls(CALLS, months=2)) as server:
        yield server


@pytest.fixture(scope="module")
def command_line(zoom: ZoomServer) -> Iterator[CommandLine]:
    with servers.scratch_folder() as folder:
        settings = zoom.environment | {
            "IMPORT_PIPELINE_USER": "ana@example.com",
            "IMPORT_PIPELINE_ZOOM_ACCOUNT_ID": ACCOUNT_ID,
            "IMPORT_PIPELINE_ZOOM_CLIENT_ID": CLIENT_ID,
            "IMPORT_PIPELINE_ZOOM_CLIENT_SECRET": CLIENT_SECRET,
            "IMPORT_PIPELINE_ZOOM_RATE_LIMITS": "none",
        }
        command_line = CommandLine(folder / "home", settings)
        assert command_line.run("connect", "zoom").code == 0
        yield command_line


@pytest.fixture(scope="module")
def dev(command_line: CommandLine) -> Iterator[Dev]:
    with running_dev(command_line) as dev:
        yield dev


@pytest.fixture
def rows(dev: Dev, command_line: CommandLine) -> Iterator[Callable[..., list[tuple[Any, ...]]]]:
    """Asks the library, in which nothing has been imported yet."""
    with open_server(command_line.home) as server, psycopg.connect(server.url(), autocommit=True) as conn:
        for table in ("public.recordings", "public.import_items", "public.sync_jobs", "import_pipeline.rate_budgets"):
            conn.execute(f"delete from {table}")
        conn.execute("update public.import_sources set last_sync_at = null")
        yield lambda statement: conn.execute(statement).fetchall()


@contextmanager
def stuck(zoom: ZoomServer, rows: Callable[..., list[tuple[Any, ...]]]) -> Iterator[None]:
    """Let every download of the rest ask for four minutes of silence, once a third is imported."""
    zoom.latency = 0.02
    zoom.faults.retry_after_seconds = 250
    try:
        wait_until(lambda: rows("select count(*) from recordings")[0][0] >= 50, "waited for a third of the calls")
        zoom.faults.always = {"(?i)download|rec": "429-retry-after"}
        asked = len(zoom.requests)
        wait_until(lambda: [each for each in zoom.requests[asked:] if each.fault], "waited for a refusal")
        yield
    finally:
        zoom.faults.always = {}
        zoom.latency = 0


def assert_stopped(zoom: ZoomServer) -> None:
    asked = len(zoom.requests)
    time.sleep(3)
    assert len(zoom.requests) == asked, "nothing is asked for any more"


def assert_settled(rows: Callable[..., list[tuple[Any, ...]]]) -> None:
    wait_until(
        lambda: not rows("select from sync_jobs where status = 'processing'"), "waited for the rows to be settled"
    )
    assert {status for (status,) in rows("select status from sync_jobs")} <= {"cancelled", "completed"}
    assert rows("select count(*) from import_pipeline.leases") == [(0,)]


def assert_resumable(
    dev: Dev, command_line: CommandLine, zoom: ZoomServer, rows: Callable[..., list[tuple[Any, ...]]]
) -> None:
    """What was imported is not asked for again, and the rest is imported."""
    rows("update import_pipeline.rate_budgets set blocked_until = null returning name")
    ((before,),) = rows("select count(*) from recordings")
    outcome = command_line.run("sync", "zoom", "--json")
    assert outcome.code == 0, outcome.stderr
    assert (outcome.json["inserted"], outcome.json["failed"]) == (CALLS - before, 0)
    different = "count(*), count(distinct source_metadata ->> 'external_id')"
    assert rows(f"select {different} from recordings") == [(CALLS, CALLS)]


def test_a_cancelled_run_stops_asking_and_the_next_one_does_the_rest(
    dev: Dev, command_line: CommandLine, zoom: ZoomServer, rows: Callable[..., list[tuple[Any, ...]]]
) -> None:
    """F60: eight threads wait for minutes until Zoom may be asked again."""
    run_id = dev.launch("import_zoom")
    with stuck(zoom, rows):
        assert dev.terminate(run_id) == "TerminateRunSuccess"
        assert dev.wait_for_run(run_id, timeout=45)["status"] == "CANCELED"
        assert_stopped(zoom)
    assert_settled(rows)
    assert rows("select status from sync_jobs") == [("cancelled",)]
    assert_resumable(dev, command_line, zoom, rows)


def test_a_cancelled_backfill_stops_all_its_months_and_can_be_launched_again(
    dev: Dev, command_line: CommandLine, zoom: ZoomServer, rows: Callable[..., list[tuple[Any, ...]]]
) -> None:
    """F60."""
    months = sorted({f"{call.started_at:%Y-%m-01}" for call in zoom.calls})
    backfill_id = dev.launch_backfill("import_zoom", months)
    with stuck(zoom, rows):
        assert dev.cancel_backfill(backfill_id) == "CancelBackfillSuccess"
        wait_until(lambda: dev.backfills()[backfill_id] == "CANCELED", "waited for the backfill to end", timeout=60)
        assert {run["status"] for run in dev.runs(tags=[{"key": "dagster/backfill", "value": backfill_id}])} <= {
            *("CANCELED", "SUCCESS")
        }
        assert_stopped(zoom)
    assert_settled(rows)
    assert ("cancelled",) in rows("select status from sync_jobs")
    rows("update import_pipeline.rate_budgets set blocked_until = null returning name")
    again = dev.launch_backfill("import_zoom", months)
    wait_until(lambda: dev.backfills()[again].startswith("COMPLETED"), "waited for the backfill")
    assert dev.backfills()[again] == "COMPLETED_SUCCESS"
    assert_resumable(dev, command_line, zoom, rows)


@pytest.mark.parametrize("after", ["at once", "STARTING", "STARTED"])
def test_a_run_that_is_cancelled_as_soon_as_it_was_launched_ends_and_leaves_nothing_behind(
    dev: Dev, command_line: CommandLine, zoom: ZoomServer, rows: Callable[..., list[tuple[Any, ...]]], after: str
) -> None:
    """F66."""
    zoom.latency = 0.05
    run_id = dev.launch("import_zoom")
    if after != "at once":
        order = ["QUEUED", "STARTING", "STARTED", "SUCCESS"]
        ends_at = time.monotonic() + 150
        while order.index(dev.runs(runIds=[run_id])[0]["status"]) < order.index(after):
            assert time.monotonic() < ends_at
    # While its process is being started Dagster refuses to cancel a run, unless it is forced.
    assert dev.terminate(run_id, is_forced=after == "STARTING") == "TerminateRunSuccess"
    assert dev.wait_for_run(run_id, timeout=180)["status"] == "CANCELED"
    zoom.latency = 0
    assert_stopped(zoom)
    assert_settled(rows)
    assert_resumable(dev, command_line, zoom, rows)
