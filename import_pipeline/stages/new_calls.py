"""A chunk of calls that are all good and new, as nearly always: its statements are sent without waiting for answers.

The server writes one part while the next is put together here, which is a fifth of the time for short transcripts.
What stands against it is found out by `insert.py`, which writes the chunk with care then.
"""

from collections.abc import Sequence
from typing import Any
from uuid import UUID

import psycopg

from import_pipeline.database.connections import prepares, set_locally, sync
from import_pipeline.database.errors import is_about_every_row
from import_pipeline.database.sql import columns, query
from import_pipeline.database.tenancy import acting_at_once
from import_pipeline.errors import ItemError
from import_pipeline.library.destinations import Destinations
from import_pipeline.library.ledger import Written, send_outcomes
from import_pipeline.library.normalise import normalise_record
from import_pipeline.pipeline import columns_of, cut_parts, recording_row
from import_pipeline.records import Account, Counts, Known, Outcome, Ready
from import_pipeline.stages.chunk import CHUNK_TABLES, advance, hold_account


def write_new(
    conn: psycopg.Connection[Any], account: Account, run_id: str, outcomes: Sequence[Outcome], counted: set[str]
) -> Counts | None:
    """Write a chunk as if every record in it were good and new.

    If one is not, it is not written, and the ledger's reference to it makes the database refuse the chunk.

    Args:
        conn: An idle connection.
        account: Whose items these are.
        run_id: Root run id.
        outcomes: What became of them.
        counted: See `record_outcomes`.

    Returns:
        Counts from the ledger; None if something stood against it: then nothing is written.
    """
    if any(isinstance(outcome, Known) for outcome in outcomes):
        return None
    counted_now = set(counted)
    try:
        with acting_at_once(conn, account.user_id, writes=CHUNK_TABLES) as pending:
            rows = _rows_of(Destinations(conn, account.user_id), outcomes)
            hold_account(conn, account, pending)
            written = [
                Written(outcome, rows[position]["id"] if position in rows else None)
                for position, outcome in enumerate(outcomes)
            ]
            # Otherwise each statement would be planned for its own arrays, and all texts copied once more for that.
            set_locally(conn, plan_cache_mode="force_generic_plan")
            _send_rows(conn, pending, list(rows.values()))
            count = send_outcomes(conn, account, run_id, written)
            sync(conn, pending)
            counts = count(counted_now)
            advance(conn, account, len(outcomes), counts.skipped)
            sync(conn, pending)  # a client that is cut off before its COMMIT must keep no locks
    except (psycopg.Error, UnicodeEncodeError) as error:
        if conn.broken or is_about_every_row(error):
            raise
        return None
    except ItemError:
        return None
    counted |= counted_now
    return counts


def _rows_of(destinations: Destinations, outcomes: Sequence[Outcome]) -> dict[int, dict[str, Any]]:
    """Return position → row of each record.

    Raises:
        ItemError: A record is not good, or has no vault.
    """
    rows = {}
    for position, outcome in enumerate(outcomes):
        if isinstance(outcome, Ready):
            record = normalise_record(outcome.record)  # it is what puts the key in its place
            bank_id, vault_id = destinations.resolve(record)
            if vault_id is None:
                raise ItemError("It has no vault.")
            rows[position] = recording_row(destinations.user_id, bank_id, record) | {"vault_id": vault_id}
    return rows


def _send_rows(conn: psycopg.Connection[Any], pending: psycopg.Pipeline | None, rows: list[dict[str, Any]]) -> None:
    if not rows:
        return
    rows.sort(key=lambda row: (row["source_app"], row["external_id"]))  # as `write_recordings`, for the same reason
    for number, part in enumerate(cut_parts(rows)):
        if number:  # a server that waits for long for the next part must be able to end the transaction
            sync(conn, pending)
        conn.execute(query("insert_recordings"), columns_of(part), prepare=prepares(conn))
    entries: list[dict[str, UUID]] = [{"vault_id": row["vault_id"], "recording_id": row["id"]} for row in rows]
    conn.execute(query("insert_vault_entries"), columns(entries), prepare=prepares(conn))
