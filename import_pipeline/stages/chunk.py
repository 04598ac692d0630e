"""What the transaction that writes a chunk does around it, in whichever way the chunk is written."""

from datetime import datetime
from typing import Any

import psycopg
from psycopg.rows import tuple_row

from import_pipeline.database.connections import prepares, sync
from import_pipeline.database.sql import query
from import_pipeline.errors import AccountLockedError
from import_pipeline.library.leases import LeaseLostError
from import_pipeline.records import Account

CHUNK_TABLES = ("recordings", "vault_entries", "import_items", "sync_jobs")
"""What the transaction writes."""


def hold_account(conn: psycopg.Connection[Any], account: Account, pending: psycopg.Pipeline | None = None) -> datetime:
    """Keep the account from being removed until the end of the transaction, and return the database's time.

    Args:
        conn: In a transaction in the owner's name.
        account: The account.
        pending: Of the connection, within `acting_at_once`.

    Raises:
        LeaseLostError: The account was removed, and with it, perhaps, everything of its user: nothing may be written
            again.
        AccountLockedError: Somebody has locked its row, perhaps to remove it.
    """
    parameters = {"id": account.id, "user_id": account.user_id}
    with conn.cursor(row_factory=tuple_row) as cursor:
        cursor.execute(query("hold_account"), parameters, prepare=prepares(conn))
        sync(conn, pending)
        row = cursor.fetchone()
    if row is None:
        raise LeaseLostError(
            "This account was removed while a run worked on it; what the run had not committed is lost."
        )
    if row[0] is None:
        raise AccountLockedError
    now: datetime = row[0]
    return now


def advance(conn: psycopg.Connection[Any], account: Account, done: int, skipped: int) -> None:
    """Move the progress of the account's run forward."""
    conn.execute(
        query("advance_sync_job"),
        {"id": account.sync_job_id, "user_id": account.user_id, "done": done, "skipped": skipped},
        prepare=prepares(conn),
    )
