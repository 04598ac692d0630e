"""What a migration says: the database's errors with the file, the line and what to do, and its warnings in the log."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg

from import_pipeline.database.migrations.files import Migration
from import_pipeline.errors import DatabaseUnavailableError, DuplicateRecordingsError, MigrationError

logger = logging.getLogger(__name__)

IMPORT_KEY = "recordings_import_key"
"""The unique index that makes "exactly once" true."""


@contextmanager
def translated(current: list[Migration] | None = None) -> Iterator[None]:
    """Turn an error of the database into one that says which file and what to do."""
    try:
        yield
    except psycopg.Error as error:
        if isinstance(error, psycopg.OperationalError) and (error.sqlstate or "08").startswith(("08", "57P")):
            reason = str(error).strip().partition("\n")[0]
            raise DatabaseUnavailableError(f"The connection broke, the last step changed nothing: {reason}") from error
        diagnostics = error.diag
        if diagnostics.constraint_name == IMPORT_KEY:
            parts = (diagnostics.message_primary, diagnostics.message_detail, diagnostics.message_hint)
            raise DuplicateRecordingsError("\n".join(part for part in parts if part)) from error
        raise MigrationError(_explain(error, current[0] if current else None)) from error


def _explain(error: psycopg.Error, migration: Migration | None) -> str:
    diagnostics = error.diag
    where = "The migration history cannot be read" if migration is None else migration.filename
    if migration is not None and diagnostics.statement_position:
        line = migration.sql.count("\n", 0, int(diagnostics.statement_position) - 1) + 1
        where = f"{where}, line {line}"
    hint = diagnostics.message_hint
    if isinstance(error, psycopg.errors.LockNotAvailable):
        hint = (
            "Another session holds a lock on the table: wait for it, or end it"
            " (`select pid, state, query from pg_stat_activity where xact_start is not null`), and migrate again."
        )
    if migration is None and isinstance(error, psycopg.errors.InsufficientPrivilege):
        hint = "Set IMPORT_PIPELINE_MIGRATION_URL to the address of the login that owns the tables."
    lines = [
        f"{where}: {diagnostics.message_primary} (SQLSTATE {error.sqlstate})",
        diagnostics.message_detail,
        hint,
    ]
    return "\n".join(line for line in lines if line)


@contextmanager
def warnings_logged(conn: psycopg.Connection[Any]) -> Iterator[None]:
    """Log what migrations warn about; their other notices are of no interest."""

    def handle(diagnostics: psycopg.errors.Diagnostic) -> None:
        if diagnostics.severity_nonlocalized == "WARNING":
            logger.warning(" ".join(filter(None, (diagnostics.message_primary, diagnostics.message_hint))))

    conn.add_notice_handler(handle)
    try:
        yield
    finally:
        conn.remove_notice_handler(handle)
