"""Finds and merges calls that a bank holds more than once, because an older importer stored them so.

Only for the owner of the tables, and only when asked: migrations stop at duplicates and name the command. A call that a
user has in several banks is a copy of theirs and no duplicate. The unique index keeps our imports from coming twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import psycopg
from psycopg import pq, sql
from psycopg.rows import scalar_row, tuple_row

from import_pipeline.database.connections import set_locally, without_limit
from import_pipeline.database.planted import lock_for_writing, require_nothing_planted
from import_pipeline.database.sql import query, template
from import_pipeline.database.tenancy import shut_path
from import_pipeline.errors import MigrationError

Connection = psycopg.Connection[Any]

_KEPT_AS_IT_IS = {
    "id", "owner_user_id", "bank_id", "source_app", "source_metadata", "legacy_recording_id", "created_at", "updated_at"
}  # fmt: skip


@dataclass(frozen=True)
class DuplicateGroup:
    """Rows of `recordings` that are one call of one user in one bank; the oldest comes first and is the one to keep."""

    user_id: UUID
    source_app: str
    external_id: str
    recording_ids: tuple[UUID, ...]
    titles: tuple[str, ...]


@dataclass(frozen=True)
class MergeSummary:
    """What a merge did."""

    merged_groups: int = 0
    deleted_recordings: int = 0
    dropped_entries: int = 0
    """Vault entries that stood beside another one of the same call in the same vault."""
    moved_references: dict[str, int] = field(default_factory=dict)
    """Rows that now refer to the row kept, by table."""


def find_duplicates(conn: Connection) -> list[DuplicateGroup]:
    """Return all groups, largest first; none on a database without recordings.

    Raises:
        MigrationError: Row-level security hides recordings from this connection.
    """
    with conn.transaction():
        if not _has_recordings(conn):
            return []
        with conn.cursor(row_factory=tuple_row) as cursor:
            return [
                DuplicateGroup(user_id, source_app, external_id, tuple(ids), tuple(titles))
                for user_id, source_app, external_id, ids, titles in cursor.execute(query("find_duplicate_recordings"))
            ]


def merge_duplicates(conn: Connection, *, lock_timeout_seconds: float = 10) -> MergeSummary:
    """Merge every group into its oldest row, in one transaction; afterwards nothing refers to a deleted row.

    What the oldest row lacks, an empty transcript for instance, it gets from the next oldest that has it. Vault entries
    and all other references by foreign key move to it, those of tables that import_pipeline knows nothing of as well.

    Args:
        conn: A connection of the owner of the tables, without open transaction.
        lock_timeout_seconds: How long to wait for those who are writing recordings.

    Raises:
        PlantedTriggerError: A trigger would run code of a stranger with this login; nothing was changed.
        MigrationError: Something refers to a recording in a way that cannot be moved; nothing was changed.
    """
    if conn.info.transaction_status != pq.TransactionStatus.IDLE:
        raise MigrationError("Merging needs a connection without open transaction: commit or roll back first.")
    try:
        with without_limit(conn), conn.transaction():
            conn.execute(query("read_committed"))
            set_locally(conn, lock_timeout=f"{lock_timeout_seconds}s", statement_timeout="0")
            if not _has_recordings(conn):
                return MergeSummary()
            # Writers wait, readers do not; nobody adds another copy or refers to one.
            conn.execute(query("lock_recordings"))
            return _merge(conn, find_duplicates(conn))
    except psycopg.errors.LockNotAvailable as error:
        raise MigrationError(
            "Nothing was merged: somebody else is writing recordings. Stop imports and the application, then try again."
        ) from error


def _merge(conn: Connection, groups: Sequence[DuplicateGroup]) -> MergeSummary:
    pairs = [(copy, group.recording_ids[0]) for group in groups for copy in group.recording_ids[1:]]
    if not pairs:
        return MergeSummary()
    with conn.cursor(row_factory=tuple_row) as cursor:
        references = cursor.execute(query("find_recording_references")).fetchall()
    written = sorted({f"{schema}.{table}" for _, schema, table, _, _ in references})
    lock_for_writing(conn, written)
    require_nothing_planted(conn, written)
    values = {"copy_ids": [copy for copy, _ in pairs], "kept_ids": [kept for _, kept in pairs]}
    _fill_gaps(conn, groups)
    conn.execute(query("fold_duplicate_entries"), values)
    dropped = conn.execute(query("drop_duplicate_entries"), values).rowcount
    moved = _move_references(conn, references, values)
    deleted = conn.execute(query("delete_copies"), values).rowcount
    return MergeSummary(len(groups), deleted, dropped, moved)


def _fill_gaps(conn: Connection, groups: Sequence[DuplicateGroup]) -> None:
    """Give rows to keep what only their copies have, whatever columns the owner's table has."""
    with conn.cursor(row_factory=tuple_row) as cursor:
        columns = cursor.execute(query("find_recording_columns")).fetchall()
    assignments = [
        template("fill_gap").format(
            column=sql.Identifier(name),
            kept_knows=_is_known("m", name, is_text, is_array),
            copy_knows=_is_known("c", name, is_text, is_array),
        )
        for name, is_text, is_array in columns
        if name not in _KEPT_AS_IT_IS
    ]
    statement = template("fill_gaps").format(sql.SQL(", ").join(assignments))
    for group in groups:
        conn.execute(statement, {"ids": list(group.recording_ids), "kept": group.recording_ids[0]})


def _is_known(row: str, column: str, is_text: bool, is_array: bool) -> sql.Composed:
    value = sql.Identifier(row, column)
    if is_text:
        return sql.SQL("{} <> ''").format(value)
    if is_array:
        return sql.SQL("cardinality({}) > 0").format(value)
    return sql.SQL("{} is not null").format(value)


def _move_references(
    conn: Connection, references: Sequence[tuple[Any, ...]], values: dict[str, list[UUID]]
) -> dict[str, int]:
    columns = {("public", "vault_entries", "recording_id"): 1}
    columns |= {(schema, table, column): width for _, schema, table, column, width in references}
    moved: dict[str, int] = {}
    for (schema, table, column), width in columns.items():
        target = sql.Identifier(schema, table)
        name = f"{schema}.{table}"
        if width > 1:
            raise MigrationError(f"{name} refers to recordings by several columns at once, which cannot be moved.")
        try:
            with conn.transaction():
                count = conn.execute(
                    template("move_references").format(table=target, column=sql.Identifier(column)), values
                ).rowcount
        except psycopg.Error as error:
            raise MigrationError(
                f"Rows of {name} that refer to a copy cannot be moved to the recording that stays: "
                f"{error.diag.message_primary}. Settle them by hand; nothing was merged."
            ) from error
        if count:
            moved[name] = moved.get(name, 0) + count
    return moved


def _has_recordings(conn: Connection) -> bool:
    """Return whether the table exists, and make sure that all of it is seen, by nothing that a stranger planted."""
    shut_path(conn)
    with conn.cursor(row_factory=scalar_row) as cursor:
        if cursor.execute(query("find_recordings_table")).fetchone() is None:
            return False
        if cursor.execute(query("hides_recordings")).fetchone():
            raise MigrationError(
                "Row-level security hides recordings from this login: use the one that owns the tables, with "
                "IMPORT_PIPELINE_MIGRATION_URL."
            )
    return True
