"""Starting again the months of a backfill that Dagster leaves behind.

Dagster polls for failed runs every few seconds and skips runs whose backfill has already ended. So the last run of a
backfill is not retried. Everything else about trying again is done by Dagster's run retries.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta

import dagster as dg
from dagster._core.execution.backfill import BulkActionStatus

from import_pipeline.stages.run import PARTITION_TAG

INTERVAL_SECONDS = 30
_BACKFILL_TAG = "dagster/backfill"
_WILL_RETRY_TAG = "dagster/will_retry"
_RETRIED_BY_TAG = "dagster/auto_retry_run_id"
_ENDED = (BulkActionStatus.COMPLETED, BulkActionStatus.COMPLETED_SUCCESS, BulkActionStatus.COMPLETED_FAILED)
"""A backfill that was cancelled is not gone on with."""
_LOOKS_BACK = timedelta(days=1)
_LEAVES_TO_DAGSTER = timedelta(minutes=1)
_MOST_RUNS = 100


def build_retry_sensor(jobs: Sequence[dg.JobDefinition]) -> dg.SensorDefinition:
    """Return the sensor `retry_months` for the jobs of all sources."""

    @dg.sensor(
        name="retry_months",
        jobs=jobs,
        minimum_interval_seconds=INTERVAL_SECONDS,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Starts again a month whose run broke as the last one of its backfill, which Dagster does not do. "
        "Leave it on.",
    )
    def retry_months(context: dg.SensorEvaluationContext) -> list[dg.RunRequest] | dg.SkipReason:
        requests = [
            dg.RunRequest(
                # Once for each broken run, however often it is looked at.
                run_key=f"again/{run.run_id}",
                job_name=run.job_name,
                run_config=run.run_config,
                partition_key=run.tags[PARTITION_TAG],
            )
            for run in find_left_behind(context.instance, datetime.now(UTC))
        ]
        return requests or dg.SkipReason("No month was left broken by a backfill that has ended.")

    return retry_months


def find_left_behind(instance: dg.DagsterInstance, now: datetime) -> Iterator[dg.DagsterRun]:
    """Yield the runs that broke, were to be tried again, and never will be because their backfill has ended.

    Args:
        instance: Where Dagster keeps its runs.
        now: The time, aware.
    """
    broken = dg.RunsFilter(
        statuses=[dg.DagsterRunStatus.FAILURE],
        tags={_WILL_RETRY_TAG: "true"},
        updated_after=now - _LOOKS_BACK,
    )
    for record in instance.get_run_records(broken, limit=_MOST_RUNS):
        run = record.dagster_run
        if _RETRIED_BY_TAG in run.tags or PARTITION_TAG not in run.tags or _BACKFILL_TAG not in run.tags:
            continue
        if record.end_time is None or now.timestamp() - record.end_time < _LEAVES_TO_DAGSTER.total_seconds():
            continue
        backfill = instance.get_backfill(run.tags[_BACKFILL_TAG])
        if backfill is not None and backfill.status in _ENDED:
            yield run
