"""Triggers that run code of strangers where the importer writes: one judgement for imports, the owner and `audit`.

Who may put a trigger on a table, as every user by the default privileges of Supabase, has their code run in the
transactions of others who write there, with the rights of these. Nothing here connects; what is done about a finding is
told in the message.
"""

from __future__ import annotations

from collections.abc import Collection
from functools import cache
from typing import Any, NamedTuple

import psycopg
from psycopg import sql
from psycopg.rows import tuple_row

from import_pipeline.database.connections import prepares
from import_pipeline.database.sql import query, template
from import_pipeline.errors import PlantedTriggerError, one_line

TENANCY_TABLES = ("public.banks", "public.bank_memberships", "public.vaults", "public.vault_memberships")
"""What the owner's policies go by; the importer reads it only."""
IMPORTED_TABLES = (
    "public.recordings", "public.vault_entries", "public.import_sources", "public.sync_jobs", "public.import_items"
)  # fmt: skip
"""What imports write in the owner's schema; the query knows them too."""
LIBRARY_TABLES = (*TENANCY_TABLES, *IMPORTED_TABLES)


class PlantedTrigger(NamedTuple):
    """A trigger with code of a stranger, as a finding of the audit: see `audit.Finding`."""

    severity: str
    object: str
    problem: str
    remedy: str


def find_planted_triggers(
    cursor: psycopg.Cursor[tuple[Any, ...]], tables: Collection[str] = ()
) -> psycopg.Cursor[tuple[Any, ...]]:
    """Ask for planted triggers, each a `PlantedTrigger`.

    Args:
        cursor: Of any login: the catalogue is open to all.
        tables: Tables that are written besides those that imports write, as `schema.table`.
    """
    return cursor.execute(query("find_planted_triggers"), {"tables": list(tables)}, prepare=prepares(cursor.connection))


def list_triggers(conn: psycopg.Connection[Any]) -> dict[str, str]:
    """Return the triggers on the library's tables, whosever they are: trigger and table → function."""
    with conn.cursor(row_factory=tuple_row) as cursor:
        return dict(cursor.execute(query("list_triggers"), {"tables": list(LIBRARY_TABLES)}))


def identify(trigger: str, function: str) -> str:
    """Return the text under which a trigger is known in the history of migrations."""
    return f"{trigger} running {function}"


def lock_for_writing(conn: psycopg.Connection[Any], tables: Collection[str]) -> None:
    """Keep others from making a trigger on tables until the end of the transaction; writers are not held up."""
    if tables:
        conn.execute(_lock(tuple(tables)))


@cache
def _lock(tables: tuple[str, ...]) -> bytes:
    names = sql.SQL(", ").join(sql.Identifier(*table.split(".", 1)) for table in tables)
    return template("lock_for_writing").format(tables=names).as_bytes()


def require_nothing_planted(conn: psycopg.Connection[Any], tables: Collection[str] = ()) -> None:
    """Refuse to write where code of a stranger would run; asked after `lock_for_writing`, in the same transaction.

    Raises:
        PlantedTriggerError: A trigger would run it.
    """
    with conn.cursor(row_factory=tuple_row) as cursor:
        refuse_planted(find_planted_triggers(cursor, tables))


def refuse_planted(asked: psycopg.Cursor[tuple[Any, ...]]) -> None:
    """Do what `require_nothing_planted` does, after the question was sent.

    Raises:
        PlantedTriggerError: A trigger would run code of a stranger.
    """
    row = asked.fetchone()
    if row is not None:
        planted = PlantedTrigger(*row)
        raise PlantedTriggerError(
            f"Nothing is written while the {one_line(planted.object)} is there. {one_line(planted.problem)} "
            "`import-pipeline audit --rule foreign-triggers` tells how to remove it, and how to keep others from "
            "making one."
        )


def send_refusal(conn: psycopg.Connection[Any]) -> None:
    """Have the server refuse all that is sent behind this in a transaction, if a trigger would run code of a stranger.

    For a pipeline, which does not wait for answers: the error is a `psycopg.errors.InvalidTextRepresentation`.
    """
    conn.execute(_refusal(), {"tables": []}, prepare=prepares(conn))


@cache
def _refusal() -> bytes:
    return template("refuse_planted_triggers").format(planted=template("find_planted_triggers")).as_bytes()
