"""The closing op, report: what the run did, per account; the only place where a run turns green or red.

Moves the cursors, closes the `sync_jobs` rows and gives the leases back; then fails the run if an item it attempted
failed or an account could not be worked on to its end. When a step broke, report does not run: the sensor of
`defs/sensors/ended_runs.py` closes the rows instead.
"""

import logging
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import dagster as dg
import psycopg
from psycopg.rows import tuple_row

from import_pipeline.connectors.base import Connector
from import_pipeline.database.errors import without_own_words
from import_pipeline.database.sql import query
from import_pipeline.database.tenancy import acting_as
from import_pipeline.errors import ADVICE, AccountLockedError, ErrorClass, class_of
from import_pipeline.library.accounts import move_cursor
from import_pipeline.library.due import note_run_ended
from import_pipeline.library.leases import release_lease
from import_pipeline.library.ledger import count_imported_between, list_failures
from import_pipeline.library.sync_jobs import close_sync_job
from import_pipeline.records import (
    Account,
    AccountSummary,
    BatchSummary,
    Counts,
    ImportSummary,
    Listing,
)
from import_pipeline.stages.postgres import PostgresResource
from import_pipeline.stages.run import root_run_id

_logger = logging.getLogger(__name__)

RETRY_TAG = "dagster/retry_on_asset_or_op_failure"
"""Says of a run whether Dagster tries it again after a step failed; `defs/jobs.py` turns it on for every import."""
_SHOWN_FAILURES = 20
_SHOWN_PROBLEMS = 5


@dg.op(
    tags={"dagster/priority": "4"},
    out=dg.Out(ImportSummary, is_required=False),
    description="Moves the cursors, closes sync_jobs, records the asset, and fails the run if an item failed.",
)
def report(
    context: dg.OpExecutionContext,
    listings: list[Listing],
    summaries: list[BatchSummary],
    postgres: PostgresResource,
    connector: dg.ResourceParam[Connector],
) -> Any:
    """Return the summary of a run in which everything went well; raise it as a failure otherwise."""
    if _repeats_a_result(context):
        raise dg.Failure(
            description="This repeats only the report of the run before, and asks the source for nothing. Choose "
            "'Re-execute all': what was imported is passed over, and what failed is tried again.",
            allow_retries=False,
        )
    with postgres.connection() as conn:
        summary = close_accounts(
            conn,
            connector.source_app,
            root_run_id(context),
            listings,
            summaries,
            moves_cursor=not context.has_partition_key,
            polling_interval=connector.polling_interval if connector.is_polled else None,
            gives_up_after=connector.transcript_deadline if connector.partitioned else None,
            warns_of_silence=connector.is_polled,
        )
        # What failed comes first: the UI shows no more than the beginning until somebody asks for it.
        metadata = describe_failures(conn, summary) | describe(summary)
    counts = summary.counts
    for account in summary.accounts:
        if account.without_vault_entry:
            context.log.warning(
                f"{account.label}: {account.without_vault_entry} recordings have no vault entry yet; the next run "
                "tries again. The ledger says why."
            )
        if account.warning:
            context.log.warning(f"{account.label}: {account.warning}")
    problems = [f"{account.label}: {account.problem}" for account in summary.accounts if account.problem]
    for account in summary.accounts:
        if account.counts.failed:
            problems.append(
                f"{account.label}: {account.counts.failed} failed; 'failed items' says which and why, and so does "
                f"`import-pipeline failures --user {account.label}`"
            )
    more = f"; and {len(problems) - _SHOWN_PROBLEMS} more accounts" if len(problems) > _SHOWN_PROBLEMS else ""
    told = "; ".join(problems[:_SHOWN_PROBLEMS]) + more
    yield dg.AssetMaterialization(
        asset_key=["recordings", connector.source_app],
        description=f"{told}. {counts.in_words()}" if problems else counts.in_words(),
        metadata=metadata,
        partition=context.partition_key if context.has_partition_key else None,
    )
    if problems:
        # Trying again is for what broke on the way. This is the result: repeating the run at once would not change it.
        context.instance.add_run_tags(context.run_id, {RETRY_TAG: "false"})
        raise dg.Failure(description=told, metadata=metadata, allow_retries=False)
    yield dg.Output(summary, metadata=metadata)


def _repeats_a_result(context: dg.OpExecutionContext) -> bool:
    """Say whether nothing but this op is executed again, after a run whose report has told its result already."""
    if context.run.parent_run_id is None or set(context.run.step_keys_to_execute or ()) != {"report"}:
        return False
    parent = context.instance.get_run_by_id(context.run.parent_run_id)
    return parent is not None and parent.tags.get(RETRY_TAG) == "false"


def close_accounts(
    conn: psycopg.Connection[Any],
    source_app: str,
    run_id: str,
    listings: Sequence[Listing],
    summaries: Sequence[BatchSummary],
    *,
    moves_cursor: bool = True,
    polling_interval: timedelta | None = None,
    gives_up_after: timedelta | None = None,
    warns_of_silence: bool = True,
) -> ImportSummary:
    """Close every account of a run and say what was done for it.

    The cursor of an account moves only when its listing was read to the end; by now everything in it is in the ledger.
    Such a listing reaches back to whatever is still open. What it does not bring any more, `gives_up_after` that long,
    is failed for good. Otherwise every later run would reach back to it.

    With a `polling_interval` it is noted when the account is due again; None for a run of history, and where a person
    says each time what to import.

    With `warns_of_silence` an account that lists nothing at all, though calls of that very span were imported before,
    says so: a right may have been taken away, and the source does not call that an error.
    """
    closed = []
    for listing in listings:
        account = listing.account
        own = [summary for summary in summaries if summary.account_id == account.id]
        counts = sum((summary.counts for summary in own), Counts())
        problem, error_class = _problem_of(listing, own)
        warning = _warn_of_silence(conn, listing) if warns_of_silence and problem is None else None
        if moves_cursor and problem is None and gives_up_after is not None:
            _close_unlisted(conn, account, gives_up_after)
        try:
            to = account.opened_at if moves_cursor and problem is None else None
            move_cursor(conn, account.id, account.user_id, to, problem)
        except AccountLockedError as error:
            problem, error_class = problem or str(error), error_class or class_of(error)
        without_vault_entry = sum(summary.without_vault_entry for summary in own)
        status = close_sync_job(
            conn,
            account,
            run_id,
            counts,
            problem,
            without_vault_entry=without_vault_entry,
            error_class=error_class,
            warning=warning,
        )
        release_lease(conn, account.id, run_id)  # of an account that another run has, this gives nothing back
        if moves_cursor and polling_interval is not None:
            note_run_ended(conn, account, polling_interval, problem, error_class)
        closed.append(
            AccountSummary(
                account_id=account.id,
                user_id=account.user_id,
                label=account.label,
                status=status,
                counts=counts,
                without_vault_entry=without_vault_entry,
                problem=problem,
                error_class=error_class,
                warning=warning,
            )
        )
    return ImportSummary(source_app, run_id, closed)


def _problem_of(listing: Listing, summaries: Sequence[BatchSummary]) -> tuple[str | None, ErrorClass | None]:
    """Return what kept an account from being worked on to its end, with what to do about it, and its class."""
    problem, error_class = listing.problem, listing.error_class
    if problem is None:
        problem = next((summary.problem for summary in summaries if summary.problem), None)
        error_class = None if problem is None else "transient"
    command = f"import-pipeline connect {listing.account.source_app}"
    if problem is not None and error_class == "auth" and command not in problem:
        problem = f"{problem} Mend what it says, then `{command}`."
    return problem, error_class


def _warn_of_silence(conn: psycopg.Connection[Any], listing: Listing) -> str | None:
    if listing.listed or not listing.complete:
        return None
    with acting_as(conn, listing.account.user_id):
        before = count_imported_between(conn, listing.account, listing.since, listing.until)
    if not before:
        return None
    return (
        f"the source lists nothing any more, though {before} calls of this time were imported before; see whether the "
        "credential may still read them"
    )


def _close_unlisted(conn: psycopg.Connection[Any], account: Account, gives_up_after: timedelta) -> None:
    with acting_as(conn, account.user_id, writes=("import_items",)), conn.cursor(row_factory=tuple_row) as cursor:
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


def describe(summary: ImportSummary) -> dict[str, Any]:
    """Return the run's figures as Dagster shows them: counts, and a table of the accounts."""
    counts = summary.counts
    return {
        "listed": counts.listed,
        "imported": counts.inserted,
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
                        "imported": account.counts.inserted,
                        "already there": account.counts.skipped,
                        "waiting": account.counts.waiting,
                        "failed": account.counts.failed,
                        "problem": account.problem or account.warning or "",
                        "what to do": ADVICE[account.error_class] if account.error_class else "",
                    }
                )
                for account in summary.accounts[:100]
            ]
        )
        if summary.accounts
        else dg.MetadataValue.text("none"),
    }


def describe_failures(conn: psycopg.Connection[Any], summary: ImportSummary) -> dict[str, Any]:
    """Return a table of the first failed items, with their reasons, for people who look at the run in the UI."""
    rows: list[dict[str, Any]] = []
    for account in summary.accounts:
        if account.counts.failed and len(rows) < _SHOWN_FAILURES:
            with acting_as(conn, account.user_id):
                rows += list_failures(conn, account.user_id, limit=_SHOWN_FAILURES - len(rows), run_id=summary.run_id)
    if not rows:
        return {}
    # A column in which nothing stands would only take the room of the reasons.
    columns = {"HTTP status": "http_status", "request id": "request_id", "where": "location"}
    told = {name: column for name, column in columns.items() if any(row[column] is not None for row in rows)}
    return {
        "failed items": dg.MetadataValue.table(
            [
                dg.TableRecord(
                    {
                        "item": row["title"] or row["external_id"],
                        "reason": without_own_words(row["error_message"] or ""),
                        "what to do": ADVICE.get(row["error_class"], ""),
                        "class": row["error_class"] or "",
                        **{name: "" if row[column] is None else str(row[column]) for name, column in told.items()},
                    }
                )
                for row in rows
            ]
        )
    }
