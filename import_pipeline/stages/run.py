"""What every op asks of its own run: its root, its leases, its client, the time, and types for the UI.

Not here: anything about items.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

import dagster as dg

from import_pipeline.connectors.base import Connector
from import_pipeline.library.clients import Storage, open_client
from import_pipeline.library.leases import LeaseKeeper
from import_pipeline.providers.http import HttpClient
from import_pipeline.records import Account, Lane, Stream
from import_pipeline.stages.postgres import PostgresResource

_RETRY_SECONDS = 300.0
_CANCELLATIONS = {dg.DagsterEventType.PIPELINE_CANCELING, dg.DagsterEventType.PIPELINE_CANCELED}

ListedItems = dg.DagsterType(
    lambda _, value: isinstance(value, Stream), "ListedItems", description="A batch of what the source lists."
)
NewItems = dg.DagsterType(
    lambda _, value: isinstance(value, Stream), "NewItems", description="The batch without what is already imported."
)
Outcomes = dg.DagsterType(
    lambda _, value: isinstance(value, Stream), "Outcomes", description="What became of each item of the batch."
)

PARTITION_TAG = "dagster/partition"
"""Only runs of history have it: its value is the month."""


def root_run_id(context: dg.OpExecutionContext) -> str:
    """Return the id of the run that a chain of re-executions began with: the ledger and the lease know only that."""
    return context.run.root_run_id or context.run_id


def lineage(context: dg.OpExecutionContext) -> Iterator[str]:
    """Yield the id of this run, of the run it re-executes, and so on back to the first."""
    yield context.run_id
    parent_id = context.run.parent_run_id
    while parent_id is not None:
        yield parent_id
        parent = context.instance.get_run_by_id(parent_id)
        parent_id = parent.parent_run_id if parent else None


def runs_of(instance: dg.DagsterInstance, run_id: str) -> list[dg.DagsterRun]:
    """Return a root run and its re-executions, oldest first; nothing if the instance does not know it."""
    root = instance.get_run_by_id(run_id)
    if root is None:
        return []
    return [root, *reversed(instance.get_runs(filters=dg.RunsFilter(tags={"dagster/root_run_id": run_id})))]


def is_run_over(instance: dg.DagsterInstance, run_id: str) -> bool:
    """Say whether a root run and all its re-executions have ended for certain; of unknown runs nothing is certain."""
    runs = runs_of(instance, run_id)
    return bool(runs) and all(run.is_finished for run in runs) and not _is_tried_again(instance, runs[-1])


def _is_tried_again(instance: dg.DagsterInstance, run: dg.DagsterRun) -> bool:
    """Say whether Dagster is about to launch a retry of a run; if it does not do so soon, it will not any more."""
    if run.tags.get("dagster/will_retry") != "true":
        return False
    record = instance.get_run_record_by_id(run.run_id)
    return record is not None and time.time() - (record.end_time or 0) < _RETRY_SECONDS


def heed_cancellation(context: dg.OpExecutionContext) -> None:
    """End a run that somebody cancelled while its process was being started.

    Dagster then finds no process to interrupt, and the run's state is overwritten when it starts. The log of events
    still has the request: that of this run or, if it ended before it could say so, of the one that it retries. A run
    that does not say where its code is was made by the very process that executes it.

    Raises:
        dg.DagsterExecutionInterruptedError: Somebody did.
    """
    if context.run.job_code_origin is None:
        return
    run_ids = [context.run_id]
    if context.run.parent_run_id and "dagster/retry_number" in context.run.tags:  # not again because a person asked
        run_ids.append(context.run.parent_run_id)
    if any(context.instance.all_logs(run_id, of_type=_CANCELLATIONS) for run_id in run_ids):
        context.instance.report_run_canceling(context.run)
        raise dg.DagsterExecutionInterruptedError


def is_repeated_by_a_person(context: dg.OpExecutionContext) -> bool:
    """Say whether somebody asked for this run to be executed once more; Dagster's own retries carry a number."""
    return context.run.parent_run_id is not None and "dagster/retry_number" not in context.run.tags


def lane_of(run: dg.DagsterRun) -> Lane:
    """Say whether a run imports what is new or, having a partition, a month of history."""
    return "history" if PARTITION_TAG in run.tags else "live"


@dg.resource(required_resource_keys={"postgres"}, description="Keeps the leases of a run's accounts while it works.")
def lease_keeper(context: dg.InitResourceContext) -> Iterator[LeaseKeeper]:
    """Keep whatever leases the run takes until it ends."""
    run, instance = context.run, context.instance
    if run is None or instance is None:
        raise dg.DagsterInvariantViolationError("Leases are kept only within a run.")
    with LeaseKeeper(
        context.resources.postgres.connection,
        run.root_run_id or run.run_id,
        lane_of(run),
        lambda run_id: is_run_over(instance, run_id),
    ) as keeper:
        yield keeper


def open_http(
    context: dg.OpExecutionContext, postgres: PostgresResource, connector: Connector, account: Account
) -> HttpClient:
    """Return the client by which this run asks for an account; backfills and first runs leave a reserve to others."""
    storage = Storage(postgres.connection, postgres.is_embedded)
    lane: Lane = "history" if account.last_sync_at is None else lane_of(context.run)
    return open_client(connector, account, storage, lane)
