"""Months of a backfill that broke at its very end are started again; whatever else broke is left to Dagster."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import dagster as dg
import pytest
from connectors.demo import Demo
from dagster._core.execution.backfill import BulkActionStatus, PartitionBackfill

from import_pipeline.definitions import build_defs
from import_pipeline.defs.sensors import retry_months
from import_pipeline.defs.sensors.retry_months import find_left_behind


@pytest.fixture
def instance() -> Any:
    with dg.instance_for_test(overrides={"run_retries": {"enabled": True}}) as instance:
        yield instance


def backfill(instance: dg.DagsterInstance, status: BulkActionStatus) -> str:
    key = uuid4().hex[:8]
    instance.add_backfill(
        PartitionBackfill(
            backfill_id=key,
            status=status,
            from_failure=False,
            tags={},
            backfill_timestamp=datetime.now(UTC).timestamp(),
        )
    )
    return key


def break_run(instance: dg.DagsterInstance, backfill_id: str, **tags: str) -> str:
    """Have a run of a month that broke; the instance decides as always whether it is to be tried again."""
    run = dg.DagsterRun(
        job_name="import_demo",
        run_id=str(uuid4()),
        status=dg.DagsterRunStatus.STARTED,
        tags={"dagster/backfill": backfill_id, "dagster/partition": "2024-03-01", "dagster/max_retries": "2"} | tags,
    )
    instance.add_run(run)
    instance.report_run_failed(run)
    return run.run_id


def left_behind(instance: dg.DagsterInstance, *, after: timedelta = timedelta(minutes=2)) -> list[str]:
    return [run.run_id for run in find_left_behind(instance, datetime.now(UTC) + after)]


def test_the_month_that_broke_last_is_started_again_once_with_the_tags_of_a_backfill(
    instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retry_months, "_LEAVES_TO_DAGSTER", timedelta(0))
    broken = break_run(instance, backfill(instance, BulkActionStatus.COMPLETED_FAILED))
    defs = build_defs(connectors={"demo": Demo()})
    sensor = defs.resolve_sensor_def("retry_months")
    keys = set()
    for _ in range(2):
        found = sensor.evaluate_tick(dg.build_sensor_context(instance, definitions=defs))
        (request,) = found.run_requests or []
        assert (request.job_name, request.partition_key) == ("import_demo", "2024-03-01")
        assert (request.tags["lane"], request.tags["backfill"]) == ("history", "demo")
        assert "dagster/backfill" not in request.tags  # else Dagster would not try the new run again either
        keys.add(request.run_key)
    assert keys == {f"again/{broken}"}


def test_what_dagster_tries_again_itself_or_nobody_wants_is_left_alone(instance: dg.DagsterInstance) -> None:
    ended = backfill(instance, BulkActionStatus.COMPLETED_FAILED)
    break_run(instance, backfill(instance, BulkActionStatus.REQUESTED))
    break_run(instance, backfill(instance, BulkActionStatus.CANCELED))
    break_run(instance, ended, **{"dagster/max_retries": "0"})
    break_run(instance, ended, **{"dagster/auto_retry_run_id": str(uuid4())})
    assert left_behind(instance) == []
    broken = break_run(instance, ended)
    assert left_behind(instance, after=timedelta(seconds=5)) == []  # Dagster may be just about to
    assert left_behind(instance) == [broken]
