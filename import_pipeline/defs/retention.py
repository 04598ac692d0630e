"""Keeping what we write from growing without end: the job `clean_up` and its daily schedule.

Removes old runs of Dagster with their events, and staged files. Never touches what was imported, nor the ledger. Old
ticks of sensors and schedules are removed by Dagster itself, as `dagster.yaml` says.
"""

import os
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import dagster as dg
import sqlalchemy as sa
from dagster._core.storage.dagster_run import FINISHED_STATUSES, NOT_FINISHED_STATUSES
from dagster._core.storage.event_log import SqlEventLogStorage
from dagster._core.storage.event_log.schema import AssetCheckExecutionsTable
from dagster._core.storage.event_log.sqlite.sqlite_event_log import SqliteEventLogStorage

from import_pipeline.providers.source_settings import number_setting
from import_pipeline.stages.staging import STAGED_FOR, StreamIOManager, remove_old

KEEP_RUNS_DAYS = 30
"""How long finished runs are kept; `IMPORT_PIPELINE_KEEP_RUNS_DAYS`."""
RUNS_AT_ONCE = 20_000
"""What one clean-up removes at most; the next one goes on."""
_CHUNK = 100


@dataclass(frozen=True, slots=True)
class RemovedRuns:
    """What became of the runs that are old enough to be removed.

    Attributes:
        removed: How many are gone, with their events.
        kept: How many are still needed, for what they show or because another run goes on with them.
        left: How many the next clean-up will find.
    """

    removed: int = 0
    kept: int = 0
    left: int = 0


@dg.op(pool="clean_up", description="Removes old runs with their events, and what broken runs have left behind.")
def remove_what_is_old(context: dg.OpExecutionContext, staging: dg.ResourceParam[StreamIOManager]) -> None:
    """Remove, and say how much."""
    days = number_setting("IMPORT_PIPELINE_KEEP_RUNS_DAYS", KEEP_RUNS_DAYS, at_least=1)
    staged = remove_old(staging.resolve_base(), STAGED_FOR)
    runs = remove_old_runs(context.instance, datetime.now(UTC) - timedelta(days=days))
    context.add_output_metadata(
        {
            "runs removed": runs.removed,
            "old runs kept": dg.MetadataValue.text(
                f"{runs.kept}: the last of an asset or of a month, or another run goes on with it"
            ),
            "left for the next time": runs.left,
            "runs are kept for days": days,
            "folders of staged files removed": staged,
        }
    )


def remove_old_runs(instance: dg.DagsterInstance, before: datetime, *, at_most: int = RUNS_AT_ONCE) -> RemovedRuns:
    """Remove finished runs with all their events, the oldest first.

    Kept are the run that materialised an asset last, the last good run of each month of a source (the UI shows by it
    that the month is imported), and whatever a run that is not finished began with.

    Args:
        instance: Where the runs are.
        before: Runs that changed later than this (aware) stay.
        at_most: How many to remove at most.
    """
    filters = dg.RunsFilter(statuses=FINISHED_STATUSES, updated_before=before)
    old = list(reversed(instance.run_storage.get_run_ids(filters)))
    needed = _find_needed(instance)
    removed = kept = 0
    for start in range(0, len(old), _CHUNK):
        chunk = old[start : start + _CHUNK]
        runs = {run.run_id: run for run in instance.get_runs(dg.RunsFilter(run_ids=chunk))}
        superseded = [run_id for run_id in chunk if run_id in runs and not _is_needed(instance, runs[run_id], needed)]
        kept += len(chunk) - len(superseded)
        remove_runs(instance, superseded[: at_most - removed])
        removed += len(superseded[: at_most - removed])
        if removed >= at_most:
            break
    return RemovedRuns(removed, kept, len(old) - kept - removed)


def _find_needed(instance: dg.DagsterInstance) -> set[str]:
    """Return the runs that an asset shows as its last, or that an unfinished run goes on with."""
    records = (record.asset_entry.last_materialization_record for record in instance.get_asset_records())
    needed = {record.run_id for record in records if record is not None}
    for run in instance.get_runs(dg.RunsFilter(statuses=NOT_FINISHED_STATUSES)):
        needed |= {parent for parent in (run.root_run_id, run.parent_run_id) if parent is not None}
    return needed


def _is_needed(instance: dg.DagsterInstance, run: dg.DagsterRun, needed: set[str]) -> bool:
    if run.run_id in needed:
        return True
    partition = run.tags.get("dagster/partition")
    if partition is None or run.status != dg.DagsterRunStatus.SUCCESS:
        return False
    filters = dg.RunsFilter(
        job_name=run.job_name, statuses=[dg.DagsterRunStatus.SUCCESS], tags={"dagster/partition": partition}
    )
    return any(last.run_id == run.run_id for last in instance.get_runs(filters, limit=1))


def remove_runs(instance: dg.DagsterInstance, run_ids: list[str]) -> None:
    """Remove runs and what Dagster itself leaves of them: the file of the events, and results of asset checks."""
    if not run_ids:
        return
    storage = instance.event_log_storage
    for run_id in run_ids:
        instance.delete_run(run_id)
        if isinstance(storage, SqliteEventLogStorage):
            with suppress(FileNotFoundError):
                os.unlink(storage.path_for_shard(run_id))
    if isinstance(storage, SqlEventLogStorage):
        results = AssetCheckExecutionsTable
        last = sa.select(sa.func.max(results.c.id)).group_by(results.c.asset_key, results.c.check_name)
        with storage.index_connection() as conn:
            conn.execute(results.delete().where(results.c.run_id.in_(run_ids), results.c.id.not_in(last)))


def build_clean_up(staging: StreamIOManager) -> tuple[dg.JobDefinition, dg.ScheduleDefinition]:
    """Return the job and the schedule that runs it every night.

    Args:
        staging: Where batches wait between the ops.
    """

    @dg.job(
        description="Removes old runs of Dagster with their events, and staged files that broken runs have left. "
        "Recordings and what is known of each item stay.",
        executor_def=dg.in_process_executor,
        resource_defs={"staging": dg.ResourceDefinition.hardcoded_resource(staging)},
    )
    def clean_up() -> None:
        remove_what_is_old()

    schedule = dg.ScheduleDefinition(
        name="clean_up_every_night",
        job=clean_up,
        cron_schedule="17 3 * * *",
        execution_timezone="UTC",
        default_status=dg.DefaultScheduleStatus.RUNNING,
        description="Keeps Dagster's database from growing without end. Leave it on.",
    )
    return clean_up, schedule
