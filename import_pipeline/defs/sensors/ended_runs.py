"""Closing what runs leave open that end without their report: cancelled, killed, or broken in the middle.

A run that comes to its end closes its own rows in `report`. The sensor here looks for the others and closes their
`sync_jobs` rows from what the ledger holds, so that nothing keeps showing as working. Not here: trying again, which
is done by Dagster's run retries and by the sensors of the sources.
"""

from __future__ import annotations

import logging
from typing import Any

import dagster as dg
import psycopg
from psycopg.rows import class_row

from import_pipeline.database.errors import describe_database_error, is_trouble
from import_pipeline.database.sql import query
from import_pipeline.database.tenancy import acting_as, database_time
from import_pipeline.library.due import pause_poll
from import_pipeline.library.leases import is_process_gone
from import_pipeline.library.sync_jobs import OpenSyncJob, close_broken_run
from import_pipeline.records import Account
from import_pipeline.stages.postgres import PostgresResource
from import_pipeline.stages.run import PARTITION_TAG, is_run_over, runs_of

_logger = logging.getLogger(__name__)

INTERVAL_SECONDS = 15
"""With the silence that ends a lease this keeps a row from showing a dead run for more than two minutes."""
_ROWS_PER_TICK = 500
_ALL_ROWS = 1_000_000


@dg.sensor(
    name="settle_runs",
    minimum_interval_seconds=INTERVAL_SECONDS,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Closes the progress rows (sync_jobs) of runs that were cancelled or killed. Leave it on.",
)
def watch_ended_runs(context: dg.SensorEvaluationContext, postgres: PostgresResource) -> dg.SkipReason:
    """Look once; there is never a run to request."""
    with postgres.connection() as conn:
        closed = close_ended_runs(conn, context.instance)
    if closed:
        return dg.SkipReason(f"Closed {len(closed)} runs that had ended without a report: {', '.join(closed[:5])}.")
    return dg.SkipReason("Every run that says it is working is working.")


def close_ended_runs(conn: psycopg.Connection[Any], instance: dg.DagsterInstance) -> list[str]:
    """Close the rows of runs that are over, and tell Dagster of runs whose process is gone.

    Args:
        conn: An idle connection.
        instance: Where Dagster keeps its runs.

    Returns:
        The root runs of which rows were closed.
    """
    closed = []
    for row in _find_open(conn, _ROWS_PER_TICK):
        runs = runs_of(instance, row.run_id)
        is_gone = row.holder_process is not None and is_process_gone(row.holder_process)
        if not runs:  # of another instance, or deleted
            is_over = row.is_silent or is_gone
        elif is_gone and _report_ended(instance, runs):
            continue  # now Dagster may try it again; if it does not, the next look finds the run over
        else:
            is_over = is_run_over(instance, row.run_id)
        if is_over:
            is_cancelled = bool(runs) and runs[-1].status == dg.DagsterRunStatus.CANCELED
            try:
                if runs and PARTITION_TAG not in runs[0].tags:
                    pause_poll(conn, row.account_id)
                _close(conn, row, cancelled=is_cancelled)
            except psycopg.Error as error:
                if is_trouble(error) and not isinstance(error, psycopg.errors.LockNotAvailable):
                    raise
                # Users may write such rows, and lock them: one that cannot be closed keeps no other from it.
                _logger.warning("Row %s of sync_jobs stays open: %s.", row.id, describe_database_error(error))
            else:
                closed.append(row.run_id)
    return list(dict.fromkeys(closed))


def close_run(conn: psycopg.Connection[Any], run_id: str, *, cancelled: bool) -> None:
    """Close the rows of a run of which it is certain that it has ended, given its root run."""
    for row in _find_open(conn, _ALL_ROWS):
        if row.run_id == run_id:
            _close(conn, row, cancelled=cancelled)


def _find_open(conn: psycopg.Connection[Any], limit: int) -> list[OpenSyncJob]:
    with acting_as(conn, None), conn.cursor(row_factory=class_row(OpenSyncJob)) as cursor:
        return cursor.execute(query("find_silent_sync_jobs"), {"limit": limit}).fetchall()


def _close(conn: psycopg.Connection[Any], row: OpenSyncJob, *, cancelled: bool) -> None:
    account = Account(
        id=row.account_id,
        user_id=row.user_id,
        source_app=row.source_app,
        label="",
        opened_at=database_time(conn),
        sync_job_id=row.id,
    )
    close_broken_run(conn, account, row.run_id, cancelled=cancelled)


def _report_ended(instance: dg.DagsterInstance, runs: list[dg.DagsterRun]) -> bool:
    """Tell Dagster that the process of a run is gone, which it cannot always see; say whether it did not know."""
    working = [run for run in runs if run.status in (dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.CANCELING)]
    for run in working:
        # Of what was launched it sees for itself, and resumes it; of a command that runs a job itself it never knows.
        if instance.run_launcher.supports_check_run_worker_health and run.job_code_origin is not None:
            continue
        if run.status == dg.DagsterRunStatus.CANCELING:
            instance.report_run_canceled(run, message="The process of this run has ended.")
        else:
            instance.report_run_failed(run, message="The process of this run was killed.")
    return bool(working)
