"""The closing op, report: what the run did, per account; the only place where a run turns green or red.

Moves the cursors, closes the `sync_jobs` rows and gives the leases back; then fails the run if an item it attempted
failed or an account could not be worked on to its end. When a step broke, report does not run: `settle_run`, a failure
hook, settles the rows instead.
"""

import logging
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import dagster as dg
import psycopg
from psycopg.rows import tuple_row

from import_pipeline.accounts import move_cursor
from import_pipeline.connectors.base import Connector
from import_pipeline.errors import ErrorClass
from import_pipeline.leases import release_lease
from import_pipeline.ledger import list_failures
from import_pipeline.postgres import PostgresResource
from import_pipeline.records import (
    Account,
    AccountSummary,
    BatchSummary,
    Counts,
    ImportSummary,
    Listing,
)
from import_pipeline.sql import query
from import_pipeline.stages.run import lineage, root_run_id
from import_pipeline.staging import StreamIOManager
from import_pipeline.sync_jobs import close_sync_job, settle_broken_run
from import_pipeline.tenancy import acting_as

_logger = logging.getLogger(__name__)

_SHOWN_FAILURES = 20


@dg.op(
    tags={"dagster/priority": "4"},
    out=dg.Out(ImportSummary, is_required=False),
    description="Moves the cursors, closes sync_jobs, records the asset, and fails the run if an item failed.",
)
def report(
    context: dg.OpExecutionContext,
    accounts: list[Account],
    listings: list[Listing],
    summaries: list[BatchSummary],
    postgres: PostgresResource,
    connector: dg.ResourceParam[Connector],
) -> Any:
    """Return the summary of a run in which everything went well; raise it as a failure otherwise."""
    with postgres.connection() as conn:
        summary = close_accounts(
            conn,
            connector.source_app,
            root_run_id(context),
            accounts,
            listings,
            summaries,
            moves_cursor=not context.has_partition_key,
            gives_up_after=connector.transcript_deadline if connector.partitioned else None,
        )
        metadata = describe(summary) | describe_failures(conn, summary)
    counts = summary.counts
    for account in summary.accounts:
        if account.without_vault_entry:
            context.log.warning(
                f"{account.label}: {account.without_vault_entry} recordings have no vault entry yet; the next run "
                "tries again. The ledger says why."
            )
    yield dg.AssetMaterialization(
        asset_key=["recordings", connector.source_app],
        description=sentence(counts),
        metadata=metadata,
        partition=context.partition_key if context.has_partition_key else None,
    )
    problems = [f"{account.label}: {account.problem}" for account in summary.accounts if account.problem]
    if counts.failed:
        problems.append(f"{counts.failed} failed; `import-pipeline failures` lists which and why")
    if problems:
        raise dg.Failure(description="; ".join(problems), metadata=metadata, allow_retries=False)
    yield dg.Output(summary, metadata=metadata)


def close_accounts(
    conn: psycopg.Connection[Any],
    source_app: str,
    run_id: str,
    accounts: Sequence[Account],
    listings: Sequence[Listing],
    summaries: Sequence[BatchSummary],
    *,
    moves_cursor: bool = True,
    gives_up_after: timedelta | None = None,
) -> ImportSummary:
    """Settle every account of a run and say what was done for it.

    The cursor of an account moves only when its listing was read to the end; by now everything in it is in the ledger.
    Such a listing reaches back to whatever is still open. What it does not bring any more, `gives_up_after` that long,
    is failed for good: else every run would reach back to it for ever.
    """
    listing_of = {listing.account_id: listing for listing in listings}
    settled = []
    for account in accounts:
        own = [summary for summary in summaries if summary.account_id == account.id]
        counts = sum((summary.counts for summary in own), Counts())
        problem, error_class = _problem_of(account, listing_of.get(account.id))
        without_vault_entry = sum(summary.without_vault_entry for summary in own)
        status = close_sync_job(
            conn,
            account,
            run_id,
            counts,
            problem,
            without_vault_entry=without_vault_entry,
            error_class=error_class,
        )
        release_lease(conn, account.id, run_id)  # of an account that another run has, this gives nothing back
        if moves_cursor and problem is None and gives_up_after is not None:
            _close_unlisted(conn, account, gives_up_after)
        move_cursor(
            conn,
            account.id,
            account.user_id,
            account.opened_at if moves_cursor and problem is None else None,
            problem,
        )
        settled.append(
            AccountSummary(
                account_id=account.id,
                user_id=account.user_id,
                label=account.label,
                status=status,
                counts=counts,
                without_vault_entry=without_vault_entry,
                problem=problem,
                error_class=error_class,
            )
        )
    return ImportSummary(source_app, run_id, settled)


def _problem_of(account: Account, listing: Listing | None) -> tuple[str | None, ErrorClass | None]:
    """Return what kept an account from being worked on to its end, and its class."""
    if account.problem:
        return account.problem, account.problem_class
    if listing is None:
        return "it was never listed", "bug"
    return listing.problem, listing.error_class


def _close_unlisted(conn: psycopg.Connection[Any], account: Account, gives_up_after: timedelta) -> None:
    with acting_as(conn, account.user_id), conn.cursor(row_factory=tuple_row) as cursor:
        cursor.execute(
            query("close_unlisted_items"),
            {
                "user_id": account.user_id,
                "source_app": account.source_app,
                "opened_at": account.opened_at,
                "deadline_seconds": gives_up_after.total_seconds(),
            },
        )
        (closed,) = cursor.fetchone()  # type: ignore[misc]
    if closed:
        _logger.warning("%s: %s open items are no longer listed; `failures` shows them.", account.label, closed)


def sentence(counts: Counts) -> str:
    """Say in words what became of the items."""
    parts = [
        f"{counts.listed} listed",
        f"{counts.inserted} inserted",
        f"{counts.skipped} already there",
        f"{counts.waiting} waiting",
        f"{counts.failed} failed",
    ]
    if counts.ignored:
        parts.append(f"{counts.ignored} ignored")
    return ", ".join(parts)


def describe(summary: ImportSummary) -> dict[str, Any]:
    """Return the run's figures as Dagster shows them: counts, and a table of the accounts."""
    counts = summary.counts
    return {
        "listed": counts.listed,
        "inserted": counts.inserted,
        "already there": counts.skipped,
        "waiting": counts.waiting,
        "failed": counts.failed,
        "ignored": counts.ignored,
        "accounts": dg.MetadataValue.table(
            [
                dg.TableRecord(
                    {
                        "account": account.label,
                        "status": account.status,
                        "inserted": account.counts.inserted,
                        "already there": account.counts.skipped,
                        "waiting": account.counts.waiting,
                        "failed": account.counts.failed,
                        "problem": account.problem or "",
                    }
                )
                for account in summary.accounts[:100]
            ]
        )
        if summary.accounts
        else dg.MetadataValue.text("none"),
    }


def describe_failures(conn: psycopg.Connection[Any], summary: ImportSummary) -> dict[str, Any]:
    """Return a table of the first failed items, with their reasons, for who looks at the run in the UI."""
    rows: list[dict[str, Any]] = []
    for account in summary.accounts:
        if account.counts.failed and len(rows) < _SHOWN_FAILURES:
            with acting_as(conn, account.user_id):
                rows += list_failures(conn, account.user_id, limit=_SHOWN_FAILURES - len(rows), run_id=summary.run_id)
    if not rows:
        return {}
    return {
        "failed items": dg.MetadataValue.table(
            [
                dg.TableRecord(
                    {
                        "item": row["location"] or row["title"] or row["external_id"],
                        "reason": row["error_message"] or "",
                        "class": row["error_class"] or "",
                    }
                )
                for row in rows
            ]
        )
    }


@dg.failure_hook(required_resource_keys={"postgres", "io_manager"})
def settle_run(context: dg.HookContext) -> None:
    """Close the `sync_jobs` rows of a run in which a step broke, so that nothing shows as running for ever."""
    postgres: PostgresResource = context.resources.postgres
    staging: StreamIOManager = context.resources.io_manager
    accounts: list[Account] | None = None
    for run_id in lineage(context):
        accounts = accounts or staging.read_accounts(run_id)
    if accounts:
        with postgres.connection() as conn:
            settle_broken_run(conn, accounts, root_run_id(context))
