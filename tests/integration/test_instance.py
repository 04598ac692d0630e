"""The Dagster instance: settings that Dagster accepts, a queue in which live runs find a place, runs that end."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import dagster as dg
import pytest
import yaml
from commands import REPOSITORY
from dagster._core.events import DagsterEvent, DagsterEventType, RunFailureReason
from dagster._core.execution.retries import auto_reexecution_should_retry_run
from dagster._core.instance.config import PoolGranularity
from dagster._core.remote_origin import RegisteredCodeLocationOrigin, RemoteJobOrigin, RemoteRepositoryOrigin
from dagster._core.scheduler.instigation import InstigatorType, TickStatus
from dagster._core.test_utils import create_run_for_test, freeze_time
from dagster._daemon.monitoring.run_monitoring import execute_run_monitoring_iteration
from dagster._daemon.run_coordinator.queued_run_coordinator_daemon import QueuedRunCoordinatorDaemon
from dagster._time import get_current_datetime

from import_pipeline.database.opening import Database
from import_pipeline.definitions import defs
from import_pipeline.instance.preparing import prepare_instance, settings, with_psycopg2

ORIGIN = RemoteJobOrigin(
    RemoteRepositoryOrigin(
        RegisteredCodeLocationOrigin("import_pipeline.definitions"), repository_name="__repository__"
    ),
    job_name="import_demo",
)
LOGGER = logging.getLogger(__name__)


@pytest.fixture
def instance(
    tmp_path: Path, database_url: str, empty_database_url: str, monkeypatch: pytest.MonkeyPatch
) -> Iterator[dg.DagsterInstance]:
    """The instance as the commands prepare it, with its storage in a database of its own."""
    monkeypatch.setenv("IMPORT_PIPELINE_HOME", str(tmp_path))
    monkeypatch.setenv("IMPORT_PIPELINE_DAGSTER_URL", empty_database_url)
    monkeypatch.setenv("DAGSTER_HOME", "")
    with Database(database_url) as database:
        prepare_instance(database)
    with dg.DagsterInstance.get() as opened:
        yield opened


def run_of(instance: dg.DagsterInstance, status: dg.DagsterRunStatus, **tags: str) -> dg.DagsterRun:
    return create_run_for_test(
        instance,
        job_name="import_demo",
        status=status,
        tags=tags,
        remote_job_origin=ORIGIN,
    )


def report(instance: dg.DagsterInstance, run: dg.DagsterRun, event_type: DagsterEventType) -> None:
    """Let a run get on."""
    instance.report_dagster_event(DagsterEvent(event_type.value, job_name=run.job_name), run_id=run.run_id)


def next_runs(instance: dg.DagsterInstance) -> list[dg.DagsterRun]:
    """Which of the waiting runs the queue would launch now."""
    daemon = QueuedRunCoordinatorDaemon(interval_seconds=5)
    return daemon._get_runs_to_dequeue(instance, instance.get_concurrency_config(), fixed_iteration_time=None)


def monitor(instance: dg.DagsterInstance) -> None:
    """Look at every run as the daemon does."""
    context = SimpleNamespace(instance=instance, create_request_context=lambda: None)
    assert not any(execute_run_monitoring_iteration(cast(Any, context), LOGGER))


def test_the_prepared_instance_has_our_settings(instance: dg.DagsterInstance) -> None:
    assert not instance.telemetry_enabled
    assert type(instance.run_storage).__name__ == "PostgresRunStorage"
    assert type(instance.event_log_storage).__name__ == "PostgresEventLogStorage"
    assert type(instance.schedule_storage).__name__ == "PostgresScheduleStorage"
    queue = instance.get_concurrency_config().run_queue_config
    assert queue is not None
    assert queue.max_concurrent_runs == 5
    assert {limit["key"]: limit["limit"] for limit in queue.tag_concurrency_limits} == {
        "source": 4,
        "first_import": 2,
        "backfill": 1,
        "lane": 3,
    }
    pools = instance.get_concurrency_config().pool_config
    assert (pools.default_pool_limit, pools.pool_granularity) == (1, PoolGranularity.RUN)
    assert instance.run_retries_enabled
    assert instance.run_retries_max_retries == 2
    assert instance.run_monitoring_enabled
    assert instance.run_monitoring_max_runtime_seconds == timedelta(days=2).total_seconds()
    assert instance.get_sensor_settings()["use_threads"]
    kept = instance.get_tick_retention_settings(InstigatorType.SENSOR)
    assert kept[TickStatus.SKIPPED] == 1
    assert all(days > 0 for kind in InstigatorType for days in instance.get_tick_retention_settings(kind).values())


@pytest.mark.parametrize("is_one_machine", [True, False])
def test_an_instance_of_your_own_is_our_file_with_the_storage_that_the_page_shows(
    is_one_machine: bool, tmp_path: Path, empty_database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = (REPOSITORY / "docs" / "operating.md").read_text(encoding="utf-8")
    (storage,) = re.findall(r"```yaml\n(storage:.*?)```", page, re.DOTALL)
    ours = yaml.safe_load(settings() + storage)
    if not is_one_machine:
        # Only a launcher that tells whether a run lives may promise that an interrupted run is resumed.
        assert ours.pop("run_launcher")["class"] == "ProcessRunLauncher"
        assert ours["run_monitoring"].pop("max_resume_run_attempts") > 0
    monkeypatch.setenv("IMPORT_PIPELINE_DAGSTER_URL", with_psycopg2(empty_database_url))
    (tmp_path / "dagster.yaml").write_text(yaml.safe_dump(ours), encoding="utf-8")
    with dg.DagsterInstance.from_config(str(tmp_path)) as instance:
        assert instance.get_runs() == []
        assert type(instance.run_storage).__name__ == "PostgresRunStorage"
        assert instance.run_launcher.supports_resume_run == is_one_machine


def test_history_takes_three_places_with_one_month_of_each_source_and_a_live_run_finds_another(
    instance: dg.DagsterInstance,
) -> None:
    for months_ago in (3, 2, 1):
        for source in ("fathom", "zoom", "youtube", "demo"):
            lane = {"lane": "history", "backfill": source, "dagster/priority": str(-months_ago)}
            run_of(instance, dg.DagsterRunStatus.QUEUED, source=source, month=str(months_ago), **lane)
    first = next_runs(instance)
    assert {run.tags["month"] for run in first} == {"1"}, "the newest month comes first"
    assert len({run.tags["source"] for run in first}) == len(first) == 3

    for run in first:
        report(instance, run, DagsterEventType.RUN_START)
    live = run_of(instance, dg.DagsterRunStatus.QUEUED, source="fathom", lane="live")
    assert [run.run_id for run in next_runs(instance)] == [live.run_id]


def test_beside_first_imports_and_a_month_of_history_what_is_new_at_the_source_is_imported(
    instance: dg.DagsterInstance,
) -> None:
    for _ in range(3):
        run_of(instance, dg.DagsterRunStatus.QUEUED, source="fathom", lane="live", first_import="fathom")
    run_of(instance, dg.DagsterRunStatus.QUEUED, source="fathom", lane="history", backfill="fathom")
    live = run_of(instance, dg.DagsterRunStatus.QUEUED, source="fathom", lane="live")
    chosen = next_runs(instance)
    assert len([run for run in chosen if "first_import" in run.tags]) == 2
    assert len(chosen) == 4
    assert live.run_id in {run.run_id for run in chosen}


def get_job_tags(name: str) -> dict[str, str]:
    return dict(defs.resolve_job_def(name).tags)


def test_one_clean_up_works_at_a_time(instance: dg.DagsterInstance) -> None:
    job = defs.resolve_job_def("clean_up")
    for _ in range(2):
        instance.create_run_for_job(job, status=dg.DagsterRunStatus.QUEUED, remote_job_origin=ORIGIN)
    next_runs(instance)  # the first look ever makes the pool known
    (first,) = next_runs(instance)
    report(instance, first, DagsterEventType.RUN_START)
    assert next_runs(instance) == []
    report(instance, first, DagsterEventType.RUN_SUCCESS)
    assert len(next_runs(instance)) == 1


def test_a_run_that_broke_is_tried_again_and_one_that_its_report_turned_red_is_not(
    instance: dg.DagsterInstance,
) -> None:
    tags = get_job_tags("import_fathom")
    broken = run_of(instance, dg.DagsterRunStatus.FAILURE, **tags)
    told = run_of(instance, dg.DagsterRunStatus.FAILURE, **tags | {"dagster/retry_on_asset_or_op_failure": "false"})
    for reason in (RunFailureReason.STEP_FAILURE, RunFailureReason.UNEXPECTED_TERMINATION):
        assert auto_reexecution_should_retry_run(instance, broken, reason)
    assert not auto_reexecution_should_retry_run(instance, told, RunFailureReason.STEP_FAILURE)
    refused = run_of(instance, dg.DagsterRunStatus.FAILURE, **get_job_tags("migrate"))
    assert not auto_reexecution_should_retry_run(instance, refused, RunFailureReason.STEP_FAILURE)


def test_a_run_that_never_starts_and_one_that_never_ends_are_failed_f62(instance: dg.DagsterInstance) -> None:
    never_starts = run_of(instance, dg.DagsterRunStatus.NOT_STARTED)
    report(instance, never_starts, DagsterEventType.RUN_STARTING)
    never_ends = run_of(instance, dg.DagsterRunStatus.NOT_STARTED)
    report(instance, never_ends, DagsterEventType.RUN_START)

    def statuses() -> list[str]:
        found = [instance.get_run_by_id(run.run_id) for run in (never_starts, never_ends)]
        return [run.status.value for run in found if run is not None]

    monitor(instance)
    assert statuses() == ["STARTING", "STARTED"]
    with freeze_time(get_current_datetime() + timedelta(minutes=4)):
        monitor(instance)
    assert statuses() == ["FAILURE", "STARTED"]
    with freeze_time(get_current_datetime() + timedelta(days=2, minutes=1)):
        monitor(instance)
    assert statuses() == ["FAILURE", "FAILURE"]
