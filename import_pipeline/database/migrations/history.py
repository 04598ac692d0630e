"""Which migrations a database has: our own history, that of the Supabase CLI, and how both compare with the files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import psycopg
from psycopg.rows import scalar_row, tuple_row
from psycopg.types.json import Jsonb

from import_pipeline.database.migrations import objects, superseded
from import_pipeline.database.migrations.files import Migration, checksum, squeeze
from import_pipeline.database.migrations.objects import Drift
from import_pipeline.database.planted import identify, list_triggers
from import_pipeline.database.sql import query

Connection = psycopg.Connection[Any]


@dataclass(frozen=True)
class AppliedMigration:
    """One row of the history."""

    version: str
    name: str
    checksum: str
    applied_at: datetime | None
    """None for a version that our own history does not know yet."""


@dataclass(frozen=True)
class MigrationStatus:
    """How far a database is from the schema of this version."""

    applied: list[AppliedMigration]
    pending: list[Migration]
    drifted: list[Drift]
    is_superseded: bool = False
    """Whether the files of before 2026-12-01 made it. Where they did and nothing has drifted, it can be adopted."""

    @property
    def is_current(self) -> bool:
        """Whether nothing is pending and nothing has drifted."""
        return not self.pending and not self.drifted


def read(conn: Connection) -> dict[str, AppliedMigration]:
    """Return our own history by version; empty where there is none."""
    with conn.cursor(row_factory=scalar_row) as cursor:
        if cursor.execute("select to_regclass('import_pipeline.schema_migrations')").fetchone() is None:
            return {}
    with conn.cursor(row_factory=tuple_row) as cursor:
        rows = cursor.execute(
            "select version, name, checksum, applied_at from import_pipeline.schema_migrations order by version"
        )
        return {row[0]: AppliedMigration(*row) for row in rows}


def _read_supabase(conn: Connection, versions: list[str]) -> dict[str, str]:
    """Return version and squeezed SQL of those of the versions that the Supabase CLI applied."""
    with conn.cursor(row_factory=scalar_row) as cursor:
        readable = cursor.execute(
            "select has_table_privilege(c.oid, 'select') and has_schema_privilege(c.relnamespace, 'usage')"
            " from pg_catalog.pg_class as c join pg_catalog.pg_namespace as n on n.oid = c.relnamespace"
            " where n.nspname = 'supabase_migrations' and c.relname = 'schema_migrations'"
        ).fetchone()
    if not readable:
        return {}
    with conn.cursor(row_factory=tuple_row) as cursor:
        rows = cursor.execute(
            "select version, array_to_string(statements, ';') from supabase_migrations.schema_migrations"
            " where version = any(%s)",
            [versions],
        )
        return {version: squeeze(statements or "") for version, statements in rows}


def compare(
    conn: Connection, history: Mapping[str, AppliedMigration], migrations: Sequence[Migration]
) -> MigrationStatus:
    """Compare the histories of a database with the files; its objects are not looked at.

    Args:
        conn: A connection that may read them.
        history: Our own.
        migrations: The files.
    """
    missing = [migration.version for migration in migrations if migration.version not in history]
    by_cli = _read_supabase(conn, [*missing, *superseded.FILES]) if missing else {}
    if len(missing) == len(migrations) and by_cli.keys().isdisjoint(missing):
        old = {version: checksum(text) for version, text in by_cli.items()}
        old |= {version: row.checksum for version, row in history.items()}
        if not superseded.FILES.keys().isdisjoint(old):
            return _take_over(old, migrations)
    applied = list(history.values())
    pending: list[Migration] = []
    drifted: list[Drift] = []
    for migration in migrations:
        row = history.get(migration.version)
        if row is not None:
            if row.checksum != migration.checksum:
                drifted.append(
                    Drift("edited", migration.filename, "was edited after it was applied; write a new one instead.")
                )
        elif migration.version in by_cli:
            if by_cli[migration.version] == squeeze(migration.sql):
                applied.append(_not_recorded(migration))
            else:
                drifted.append(
                    Drift("edited", migration.filename, "was applied by the Supabase CLI with other statements.")
                )
        else:
            pending.append(migration)
    known = {migration.version for migration in migrations}
    drifted += [
        Drift("unknown", f"{row.version}_{row.name}", "was applied by a newer import_pipeline; upgrade this one.")
        for row in history.values()
        if row.version not in known
    ]
    applied.sort(key=lambda row: row.version)
    return MigrationStatus(applied, pending, drifted)


def _take_over(old: Mapping[str, str], migrations: Sequence[Migration]) -> MigrationStatus:
    drifted = superseded.compare(old)
    if drifted:
        return MigrationStatus([], list(migrations), drifted, is_superseded=True)
    return MigrationStatus(
        [_not_recorded(migration) for migration in migrations if migration.version <= superseded.LAST_ADOPTED],
        [migration for migration in migrations if migration.version > superseded.LAST_ADOPTED],
        [],
        is_superseded=True,
    )


def _not_recorded(migration: Migration) -> AppliedMigration:
    return AppliedMigration(migration.version, migration.name, migration.checksum, None)


def adopt(conn: Connection, status: MigrationStatus, history: Mapping[str, AppliedMigration]) -> None:
    """Take over into our history what counts as applied without being in it."""
    adopted = [row for row in status.applied if row.applied_at is None]
    if not adopted:
        return
    left = objects.recorded(conn) if status.is_superseded and history else objects.describe(conn)
    if status.is_superseded:
        conn.execute("delete from import_pipeline.schema_migrations")
    for row in adopted:
        record(conn, row, left)


def record(conn: Connection, migration: Migration | AppliedMigration, definitions: Mapping[str, str]) -> None:
    """Write a migration into our history, with the definitions that it left."""
    conn.execute(
        "insert into import_pipeline.schema_migrations (version, name, checksum, objects) values (%s, %s, %s, %s)",
        [
            migration.version,
            migration.name,
            migration.checksum,
            Jsonb({"server": objects.server_major(conn), "definitions": dict(definitions)}),
        ],
    )


def note_triggers(conn: Connection) -> None:
    """Take the triggers that are on the library's tables for known from now on."""
    known = [identify(trigger, function) for trigger, function in list_triggers(conn).items()]
    conn.execute(query("note_triggers"), {"triggers": Jsonb(known)})
