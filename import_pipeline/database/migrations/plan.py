"""What migrating would add to, change or take away from a database that is not only ours: told before it is done.

Found by doing it: the pending migrations run in a transaction that is rolled back, and the owner's objects are
compared. So no list has to be kept beside the files, and what keeps them from running is known before anything changes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import psycopg
from psycopg.rows import scalar_row, tuple_row

from import_pipeline.database.migrations.files import Migration
from import_pipeline.database.migrations.running import reading, rehearsed
from import_pipeline.database.sql import query

Connection = psycopg.Connection[Any]


@dataclass(frozen=True, slots=True)
class Change:
    """An object of the owner's, or one beside them, that migrating would touch.

    Args:
        kind: What would be done.
        subject: The object, with its kind and schema.
        detail: What it would be, as far as that is not in its name.
    """

    kind: Literal["adds", "changes", "removes"]
    subject: str
    detail: str = ""

    def __str__(self) -> str:
        """Return it as a line for people."""
        return f"{self.kind:<7}  {self.subject}" + (f": {self.detail}" if self.detail else "")


def find_changes(
    conn: Connection, planned: Sequence[Migration] | None = None, *, lock_timeout_seconds: float = 10
) -> list[Change]:
    """Return what applying the pending migrations would do to what was here before us; nothing where all is ours.

    Tables of the owner's are locked for a moment, as by the migrations themselves; no index is built.

    Args:
        conn: As for `migrations.apply`.
        planned: Other migrations than those of this version.
        lock_timeout_seconds: As for `migrations.apply`.

    Raises:
        MigrationError: As `migrations.apply`: it would not succeed.
    """
    with reading(conn), conn.cursor(row_factory=scalar_row) as cursor:
        tables = cursor.execute(query("find_owners_tables")).fetchall()
        before = _describe(conn, tables)
    if not tables:
        return []
    with rehearsed(conn, planned, lock_timeout_seconds=lock_timeout_seconds):
        after = _describe(conn, tables)
    added = [Change("adds", name, _told(name, after)) for name in sorted(after.keys() - before.keys())]
    changed = [
        Change("changes", name, _told(name, after))
        for name in sorted(before.keys() & after.keys())
        if before[name] != after[name]
    ]
    return [*(Change("removes", name) for name in sorted(before.keys() - after.keys())), *changed, *added]


def _describe(conn: Connection, tables: list[int]) -> dict[str, str]:
    with conn.cursor(row_factory=tuple_row) as cursor:
        return dict(cursor.execute(query("describe_owners_objects"), {"tables": tables}).fetchall())


def _told(name: str, definitions: Mapping[str, str]) -> str:
    """Return a definition where it says more than the name; that of an index is not its own in a rehearsal."""
    return "" if name.startswith(("index", "table")) else definitions[name]
