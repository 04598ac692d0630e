"""Closing the `sync_jobs` rows of a run: the status, counts and ids that UIs outside Dagster show.

The stages open them and move their progress; here is how they end: with the run's report or, when it never came to
that, from what the ledger holds. That a run is over is found out in `defs/sensors/ended_runs.py`, and by the
next run that takes the account.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import Any
from uuid import UUID

import psycopg
from psycopg import sql
from psycopg.rows import tuple_row
from psycopg.types.json import Jsonb

from import_pipeline.database.errors import describe_database_error, is_about_every_row
from import_pipeline.database.sql import query
from import_pipeline.database.tenancy import acting_as
from import_pipeline.errors import ErrorClass
from import_pipeline.library.leases import find_holders, release_lease
from import_pipeline.library.ledger import count_run, judge_run
from import_pipeline.records import Account, Counts

_logger = logging.getLogger(__name__)

_LARGEST_INTEGER = 2**31 - 1
CANCELLED = "cancelled; what was committed stays, the next run does the rest"
BROKEN_OFF = "the run broke off; what it had committed stays, the next run does the rest"


@dataclass(frozen=True, slots=True)
class OpenSyncJob:
    """A row that says a run is working, and what is known of that run.

    Attributes:
        id: Of the row.
        user_id: Whose it is.
        account_id: The account.
        source_app: Its source.
        run_id: Root run id.
        holder_process: The process that has the account's lease for this run, see `leases.this_process`.
        is_silent: Whether the run has given no sign of life for as long as a lease lasts.
    """

    id: UUID
    user_id: UUID
    account_id: UUID
    source_app: str
    run_id: str
    holder_process: str | None
    is_silent: bool


@contextmanager
def progress_of(account: Account, conn: psycopg.Connection[Any]) -> Iterator[None]:
    """Let an import go on where a trigger or constraint of the owner's refuses what is written of its progress.

    Args:
        account: Whose row of `sync_jobs` is written in the block.
        conn: In a transaction in the owner's name.
    """
    try:
        with conn.transaction():
            yield
    except psycopg.Error as error:
        if conn.broken or is_about_every_row(error):
            raise
        _logger.warning("%s: sync_jobs does not show this run: %s.", account.label, describe_database_error(error))


def close_sync_job(
    conn: psycopg.Connection[Any],
    account: Account,
    run_id: str,
    counts: Counts,
    problem: str | None = None,
    *,
    status: str | None = None,
    without_vault_entry: int = 0,
    error_class: ErrorClass | None = None,
    warning: str | None = None,
) -> str:
    """Close the row of an account's run.

    Args:
        conn: An idle connection.
        account: Whose row.
        run_id: Root run id.
        counts: What became of the items.
        problem: What kept the account from being worked on to its end.
        status: See below.
        without_vault_entry: How many stored recordings have none yet.
        error_class: The class of the problem.
        warning: What is no failure and should be looked at all the same.

    Returns:
        The status written: `status` if given, else what `judge_run` says.
    """
    status = status or judge_run(counts, problem)
    with acting_as(conn, account.user_id, writes=("sync_jobs",)), progress_of(account, conn):
        conn.execute(
            query("close_sync_job"),
            {
                "id": account.sync_job_id,
                "user_id": account.user_id,
                "status": status,
                "error": problem or (f"{counts.failed} failed" if counts.failed else None),
                "skipped": counts.skipped,
                "done": counts.inserted + counts.skipped + counts.waiting + counts.failed + counts.ignored,
                "listed": counts.listed,
                "counts": Jsonb(asdict(counts)),
                "without_vault_entry": without_vault_entry,
                "error_class": error_class,
                "warning": warning,
            },
        )
        _set_ids(conn, account, run_id)
    return status


def close_broken_run(conn: psycopg.Connection[Any], account: Account, run_id: str, *, cancelled: bool = False) -> None:
    """Close the row that a run left open because it broke off or was cancelled, counted from the ledger."""
    if account.sync_job_id is None:
        return
    with acting_as(conn, account.user_id), conn.cursor(row_factory=tuple_row) as cursor:
        cursor.execute(query("find_sync_job"), {"id": account.sync_job_id, "user_id": account.user_id})
        status, listed, skipped = cursor.fetchone() or (None, 0, 0)
        counts = count_run(conn, account.user_id, account.source_app, run_id)
        counts += Counts(listed=listed or 0, skipped=skipped or 0)
    if status == "processing":
        close_sync_job(
            conn,
            account,
            run_id,
            counts,
            account.problem or (CANCELLED if cancelled else BROKEN_OFF),
            status="cancelled" if cancelled else None,
            error_class=account.problem_class,
        )
    release_lease(conn, account.id, run_id)


def close_abandoned_runs(conn: psycopg.Connection[Any], account: Account, run_id: str) -> list[str]:
    """Close the rows that crashed runs of an account left open: of runs that hold no account any more, in any lane.

    Args:
        conn: An idle connection.
        account: The account, whose lease a run has just taken.
        run_id: That run.

    Returns:
        The crashed runs.
    """
    asked = {"user_id": account.user_id, "account_id": str(account.id), "run_id": run_id}
    with acting_as(conn, account.user_id), conn.cursor(row_factory=tuple_row) as cursor:
        rows: list[tuple[UUID, str]] = cursor.execute(query("find_open_sync_jobs"), asked).fetchall()
    working = find_holders(conn, [run for _, run in rows]) if rows else set()
    abandoned = [(job_id, run) for job_id, run in rows if run not in working]
    for job_id, run in abandoned:
        close_broken_run(conn, replace(account, sync_job_id=job_id), run)
    return [run for _, run in abandoned]


def _set_ids(conn: psycopg.Connection[Any], account: Account, run_id: str) -> None:
    """Fill the id arrays as far as the ids fit their type; the ledger has them all."""
    with conn.cursor(row_factory=tuple_row) as cursor:
        types: dict[str, str] = dict(cursor.execute(query("find_sync_job_array_types")).fetchall())
        cursor.execute(
            query("list_run_ids"), {"user_id": account.user_id, "source_app": account.source_app, "run_id": run_id}
        )
        ids = cursor.fetchall()
        fitting = {
            "recording_ids": [key for key, _ in ids],
            "synced_ids": [key for key, status in ids if status == "imported"],
            "failed_ids": [key for key, status in ids if status == "failed"],
        }
        statement = sql.SQL(query("set_sync_job_ids")).format(
            **{name: sql.SQL(types.get(name, "text[]")) for name in fitting}
        )
        cursor.execute(
            statement,
            {"id": account.sync_job_id, "user_id": account.user_id}
            | {name: _fit(keys, types.get(name, "text[]")) for name, keys in fitting.items()},
        )


def _fit(keys: list[str], array_type: str) -> list[str]:
    if array_type not in ("integer[]", "bigint[]"):
        return keys
    limit = _LARGEST_INTEGER if array_type == "integer[]" else 2**63 - 1
    return [key for key in keys if key.isascii() and key.isdigit() and len(key) < 20 and int(key) <= limit]
