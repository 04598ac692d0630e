"""Runs that end without a report: their rows are settled, truthfully, and only theirs."""

from __future__ import annotations

import subprocess
import sys
from typing import Any
from uuid import uuid4

import dagster as dg
import psycopg
import pytest
from connectors.demo import Demo
from world import World, calls

from import_pipeline.definitions import build_defs
from import_pipeline.library.clients import Storage
from import_pipeline.library.leases import LeaseKeeper
from import_pipeline.records import Account
from import_pipeline.stages.connect import open_accounts
from import_pipeline.stages.postgres import PostgresResource
from import_pipeline.stages.run import is_run_over


@pytest.fixture(scope="module")
def dead_process() -> str:
    """A process that has ended for certain, as a lease names it."""
    code = "import sys, import_pipeline.library.leases as l; sys.stdout.write(l.this_process())"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout


def begin(world: World, status: dg.DagsterRunStatus | None = dg.DagsterRunStatus.STARTED, **tags: str) -> Account:
    """Open the one account for a run that Dagster knows in this status (None: does not know), and work no further."""
    run_id = str(uuid4())
    if status is not None:
        world.instance.add_run(dg.DagsterRun(job_name="import_demo", run_id=run_id, status=status, tags=tags))
    storage = Storage(PostgresResource(url=world.url).connection, is_embedded=False)
    (account,) = open_accounts(
        Demo(), storage, [], {}, LeaseKeeper(storage.connect, run_id, "live", lambda _: False), 0
    )
    assert account.problem is None
    world.do("update import_pipeline.leases set holder = %s", run_id)
    return account


def status_of(world: World) -> tuple[str, str | None]:
    (row,) = world.jobs()
    return row["status"], row["error"]


def run_of(world: World) -> dg.DagsterRun:
    (run,) = world.instance.get_runs()
    return run


def test_f85_a_run_whose_process_was_killed_fails_in_dagster_and_then_in_its_row(
    world: World, dead_process: str
) -> None:
    world.account("ana@example.com")
    begin(world)
    world.do("update import_pipeline.leases set holder_process = %s", dead_process)
    assert world.settle() == []  # first Dagster is told: it may try the run again
    assert run_of(world).status == dg.DagsterRunStatus.FAILURE
    assert status_of(world) == ("processing", None)
    assert world.settle() == [run_of(world).run_id]
    assert status_of(world)[0] == "failed"
    assert "broke off" in (status_of(world)[1] or "")
    assert world.rows("select count(*) from import_pipeline.leases") == [(0,)]


def test_a_run_that_is_cancelled_shows_as_cancelled(world: World) -> None:
    world.account("ana@example.com")
    begin(world, dg.DagsterRunStatus.CANCELED)
    assert len(world.settle()) == 1
    assert status_of(world)[0] == "cancelled"


def test_a_run_that_is_being_cancelled_when_its_process_goes_ends_as_cancelled(world: World, dead_process: str) -> None:
    world.account("ana@example.com")
    begin(world, dg.DagsterRunStatus.CANCELING)
    world.do("update import_pipeline.leases set holder_process = %s", dead_process)
    world.settle()
    world.settle()
    assert run_of(world).status == dg.DagsterRunStatus.CANCELED
    assert status_of(world)[0] == "cancelled"


@pytest.mark.parametrize("silent", [False, True], ids=["with signs of life", "silent"])
def test_a_run_that_dagster_says_is_working_is_left_alone(world: World, silent: bool) -> None:
    """Whether its process lives is for Dagster's monitoring to say."""
    world.account("ana@example.com")
    begin(world)
    if silent:
        world.do("delete from import_pipeline.leases")
        world.do("update sync_jobs set updated_at = now() - interval '1 hour'")
    assert world.settle() == []
    assert status_of(world) == ("processing", None)
    assert run_of(world).status == dg.DagsterRunStatus.STARTED


def test_a_run_that_dagster_does_not_know_is_settled_once_it_is_silent(world: World) -> None:
    """It belongs to another instance, or its record was cleaned up."""
    world.account("ana@example.com")
    begin(world, None)
    assert world.settle() == []
    world.do("update import_pipeline.leases set expires_at = now() - interval '1 second'")
    assert len(world.settle()) == 1
    assert status_of(world)[0] == "failed"


def test_a_broken_run_that_dagster_is_about_to_try_again_is_not_over(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.account("ana@example.com")
    begin(world, **{"dagster/will_retry": "true"})
    world.instance.report_run_failed(run_of(world))
    assert world.settle() == []
    assert not is_run_over(world.instance, run_of(world).run_id)
    monkeypatch.setattr("import_pipeline.stages.run._RETRY_SECONDS", 0)  # the daemon never came
    assert len(world.settle()) == 1


def test_a_broken_run_is_settled_by_how_its_last_attempt_ended(world: World) -> None:
    world.account("ana@example.com")
    begin(world)
    first = run_of(world)
    world.instance.report_run_failed(first)
    tags = {"dagster/root_run_id": first.run_id, "dagster/parent_run_id": first.run_id}
    again = dg.DagsterRun(job_name="import_demo", run_id=str(uuid4()), status=dg.DagsterRunStatus.STARTED, tags=tags)
    world.instance.add_run(again)
    assert world.settle() == []
    world.instance.report_run_canceling(again)
    world.instance.report_run_canceled(again)
    assert world.settle() == [first.run_id]
    assert status_of(world)[0] == "cancelled"


def test_what_was_committed_before_is_counted_and_rows_of_other_programs_are_left_alone(world: World) -> None:
    ana = world.account("ana@example.com")
    world.do(
        "insert into sync_jobs (user_id, status, metadata) values (%s, 'processing', '{\"by\": \"the app\"}')", ana.id
    )
    source = Demo(calls(60))
    source.is_down = {"call-005"}
    result = world.run(source)
    assert not result.success
    assert world.settle() == [result.run_id]
    other, ours = world.jobs()
    assert other["status"] == "processing"
    assert (ours["status"], ours["progress_current"], ours["progress_total"]) == ("failed", 50, 60)


@pytest.mark.parametrize("found_by", ["the sensor", "the next run"])
def test_a_broken_run_is_told_with_the_same_counts_whoever_finds_it_first(world: World, found_by: str) -> None:
    world.account("ana@example.com")
    source = Demo(calls(60))
    source.is_down = {"call-005"}
    assert not world.run(source).success
    if found_by == "the sensor":
        assert world.settle() == [world.runs[0].run_id]
    else:
        source.is_down = set()
        assert world.run(source).success
    broken = world.jobs()[0]
    assert (broken["status"], broken["progress_current"], broken["progress_total"]) == ("failed", 50, 60)
    assert "broke off" in broken["error"]
    assert broken["metadata"]["counts"]["inserted"] == len(broken["synced_ids"]) == 50


def test_the_sensor_is_on_from_the_start_and_settles(world: World) -> None:
    world.account("ana@example.com")
    begin(world, dg.DagsterRunStatus.CANCELED)
    sensor = build_defs().resolve_sensor_def("settle_runs")
    assert sensor.default_status == dg.DefaultSensorStatus.RUNNING
    resources: dict[str, Any] = {"postgres": PostgresResource(url=world.url)}
    with dg.build_sensor_context(instance=world.instance, resources=resources) as context:
        said = sensor(context)
        assert isinstance(said, dg.SkipReason)
        assert "Closed 1 run" in str(said.skip_message)
        assert status_of(world)[0] == "cancelled"
        said = sensor(context)
        assert isinstance(said, dg.SkipReason)
        assert "Every run" in str(said.skip_message)


def test_a_thousand_rows_of_dead_runs_are_settled_a_bounded_part_at_a_time(world: World) -> None:
    """F57: the tick stays short however much is left over."""
    ana = world.account("ana@example.com")
    world.do(
        "insert into sync_jobs (user_id, status, updated_at, metadata)"
        " select %s, 'processing', now() - interval '1 day',"
        " jsonb_build_object('run_id', 'run-' || n, 'account_id', s.id)"
        " from import_sources as s, generate_series(1, 700) as n",
        ana.id,
    )
    assert len(world.settle()) == 500
    assert len(world.settle()) == 200
    assert {job["status"] for job in world.jobs()} == {"failed"}


def test_the_importer_sees_rows_of_all_users_only_through_the_function(conn: psycopg.Connection[Any]) -> None:
    for role in ("anon", "authenticated", "service_role"):
        allowed = conn.execute(
            "select has_function_privilege(%s, 'import_pipeline.silent_sync_jobs(integer)', 'execute')", [role]
        ).fetchone()
        assert allowed == (False,), role
