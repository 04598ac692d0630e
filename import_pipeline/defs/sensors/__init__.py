"""The sensors of the sources, `watch_<source>`: they ask for runs of the accounts that are due.

A tick keeps nothing in memory or in a cursor: whom a run is under way for it reads from Dagster's runs, who is due and
what was asked for from the database (`library/due.py`). So a run that is cancelled, lost or never started frees its
accounts.
Not here: the folder of files, which is watched by a sensor of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import dagster as dg
import psycopg
from dagster._core.storage.dagster_run import NOT_FINISHED_STATUSES

from import_pipeline.connectors.base import Connector
from import_pipeline.database.errors import describe_database_error
from import_pipeline.errors import ImportPipelineError, UnknownUserError
from import_pipeline.library.accounts import find_user
from import_pipeline.library.due import DueCounts, request_runs
from import_pipeline.library.leases import find_holders
from import_pipeline.stages.postgres import PostgresResource
from import_pipeline.stages.run import PARTITION_TAG

INTERVAL_SECONDS = 30
RUNS_PER_TICK = 20
"""How many runs a tick asks for at most: Dagster creates them one by one, and a tick must end within a minute."""
OUTSTANDING_RUNS = 25
"""How many runs of a source may be queued or under way before a sensor asks for more."""
FIRST_IMPORT_TAG = "first_import"
"""On runs that read whole histories, with the source: the queue keeps a place for what is new beside them."""

_LOOKED_AT = 1000
_SILENT_AFTER = timedelta(minutes=10)
_CLOSED_AFTER = timedelta(minutes=1)
_BROKEN = [dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED]


def build_source_sensor(connector: Connector) -> dg.SensorDefinition:
    """Return the sensor `watch_<source>` of a connector whose runs need to know nothing but the accounts."""

    @dg.sensor(
        name=f"watch_{connector.dagster_name}",
        job_name=connector.job_name,
        minimum_interval_seconds=INTERVAL_SECONDS,
        default_status=dg.DefaultSensorStatus.STOPPED,
        description=(
            f"Imports what is new at {connector.title}: asks for runs of the accounts that are due. Each is due "
            f"{describe_interval(connector.polling_interval)}, sooner when a call is to be tried again, and at once "
            f"after it was connected. Switch on either this or the schedule sync_{connector.dagster_name}."
        ),
    )
    def watch(context: dg.SensorEvaluationContext, postgres: PostgresResource) -> list[dg.RunRequest] | dg.SkipReason:
        return ask_for_runs(context.instance, postgres, connector, outstanding=OUTSTANDING_RUNS, per_tick=RUNS_PER_TICK)

    return watch


def ask_for_runs(
    instance: dg.DagsterInstance,
    postgres: PostgresResource,
    connector: Connector,
    *,
    outstanding: int,
    per_tick: int,
    slack: timedelta = timedelta(0),
) -> list[dg.RunRequest] | dg.SkipReason:
    """Return requests for runs of the accounts that are due, or say why there is nothing to request.

    Args:
        instance: Where Dagster keeps its runs.
        postgres: The database.
        connector: The source.
        outstanding: How many of its runs may be queued or under way, with those that are asked for now.
        per_tick: How many runs to ask for at most.
        slack: What will be due within this time counts as due.

    Raises:
        dg.DagsterError: The database cannot be reached or is not migrated; one sentence says so in the UI.
    """
    try:
        with postgres.connection() as conn:
            runs = find_outstanding_runs(instance, conn, connector)
            busy = find_busy_users(conn, [*runs, *find_ended_runs(instance, connector)])
            if busy is None:
                return dg.SkipReason(
                    f"A run for every account of {connector.title} is queued or under way; nothing is asked for until "
                    "it ends."
                )
            most = max(0, min(per_tick, outstanding - len(runs)))
            requests, counts = request_runs(conn, connector.source_app, busy, most=most, slack=slack)
    except ImportPipelineError as error:
        raise dg.DagsterError(str(error)) from None
    except psycopg.Error as error:
        told = describe_database_error(error)
        raise dg.DagsterError(f"The database did not do what was asked: {told}.") from None
    if not requests:
        return dg.SkipReason(_explain(connector, counts, len(runs) if most == 0 else None))
    return [
        dg.RunRequest(
            run_key=request.key,
            run_config={"ops": {"connect": {"config": {"users": [str(user_id) for user_id in request.user_ids]}}}},
            tags={"lane": "live"} | ({FIRST_IMPORT_TAG: connector.source_app} if request.is_first else {}),
        )
        for request in requests
    ]


def find_outstanding_runs(
    instance: dg.DagsterInstance, conn: psycopg.Connection[Any], connector: Connector
) -> list[dg.DagsterRun]:
    """Return the runs of a source that are queued or under way, without those of a month of history.

    Nor those that say they are under way but have been silent for ten minutes and hold no account: their process is
    gone, and what they were to do is to be asked for again.
    """
    records = _find_runs(instance, connector, NOT_FINISHED_STATUSES)
    silent_since = datetime.now(UTC) - _SILENT_AFTER
    silent = [
        record.dagster_run
        for record in records
        if record.dagster_run.status != dg.DagsterRunStatus.QUEUED and record.update_timestamp < silent_since
    ]
    holders = find_holders(conn, [_root(run) for run in silent])
    gone = {run.run_id for run in silent if _root(run) not in holders}
    return [record.dagster_run for record in records if record.dagster_run.run_id not in gone]


def find_ended_runs(instance: dg.DagsterInstance, connector: Connector) -> list[dg.DagsterRun]:
    """Return the runs that broke off and that Dagster will try again, or whose rows are about to be closed."""
    now = datetime.now(UTC)
    return [
        record.dagster_run
        for record in _find_runs(instance, connector, _BROKEN, updated_after=now - _SILENT_AFTER)
        if record.dagster_run.is_complete_and_waiting_to_retry or record.update_timestamp > now - _CLOSED_AFTER
    ]


def find_busy_users(conn: psycopg.Connection[Any], runs: Sequence[dg.DagsterRun]) -> set[UUID] | None:
    """Return the users for whom these runs work; None means everybody."""
    busy = set()
    for run in runs:
        users: Any = run.run_config
        for key in ("ops", "connect", "config", "users"):
            users = (users or {}).get(key)
        if not users:
            return None
        for user in users:
            try:
                busy.add(find_user(conn, user))
            except UnknownUserError:
                continue  # a person mistyped the address; that run will say so
    return busy


def describe_interval(interval: timedelta) -> str:
    """Say how often, in words: `every 15 minutes`."""
    minutes = round(interval.total_seconds() / 60)
    if minutes % 60 or not minutes:
        return f"every {minutes} minutes"
    return "every hour" if minutes == 60 else f"every {minutes // 60} hours"


def _find_runs(
    instance: dg.DagsterInstance, connector: Connector, statuses: list[dg.DagsterRunStatus], **filters: Any
) -> list[dg.RunRecord]:
    found = instance.get_run_records(
        dg.RunsFilter(job_name=connector.job_name, statuses=statuses, **filters), limit=_LOOKED_AT
    )
    return [record for record in found if PARTITION_TAG not in record.dagster_run.tags]


def _root(run: dg.DagsterRun) -> str:
    return run.root_run_id or run.run_id


def _explain(connector: Connector, counts: DueCounts, outstanding: int | None) -> str:
    """Say why no run is requested; `outstanding` is the number of runs if they are too many."""
    if outstanding is not None:
        return (
            f"{outstanding} runs of {connector.title} are queued or under way, which is enough for now; accounts that "
            f"are due and wait for the next ones: {counts.due}."
        )
    if counts.accounts == 0:
        command = "connect" if connector.authenticates_by else "sync"
        return (
            f"Nobody has an account at {connector.title} yet; `import-pipeline {command} {connector.source_app}` opens "
            "one."
        )
    parts = [f"No account of {connector.title} is due. Accounts: {counts.accounts}"]
    if counts.busy:
        parts.append(f"being imported now: {counts.busy}")
    if counts.next_at is not None:
        parts.append(f"the next is due at {counts.next_at.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC")
    return ", ".join(parts) + "."
