"""What our objects in the catalogue look like, and how that differs from what migrations left: changes made by hand."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import psycopg
from psycopg.rows import scalar_row, tuple_row

from import_pipeline.database.sql import query

OWN_PATH = "set local search_path = '', pg_temp"
"""Nothing that somebody planted is asked. Temporary types, which a pooled session may have from another client, come
last: otherwise the names of PostgreSQL's own types would be spelt differently."""

Connection = psycopg.Connection[Any]


@dataclass(frozen=True)
class Drift:
    """One way in which a database is not what this software left or expects.

    `edited`: an applied file has changed. `unknown`: the database has a version that this software has no file for, so
    it was migrated by a newer one. `older`: it was migrated by an older one that this software cannot take over from.
    `schema`: an object of ours was changed or removed by hand.
    """

    kind: Literal["edited", "unknown", "older", "schema"]
    subject: str
    detail: str

    def __str__(self) -> str:
        """Return it as a line for people."""
        return f"{self.subject}: {self.detail}"


def describe(conn: Connection) -> dict[str, str]:
    """Return our objects in the catalogue with their definitions."""
    with conn.transaction(), conn.cursor(row_factory=tuple_row) as cursor:
        [search_path] = cursor.execute("select current_setting('search_path')").fetchone() or [""]
        cursor.execute(OWN_PATH)
        rows = cursor.execute(query("describe_schema")).fetchall()
        cursor.execute("select set_config('search_path', %s, true)", [search_path])
    return dict(rows)


def recorded(conn: Connection) -> dict[str, str]:
    """Return the definitions that the newest migration left; empty texts where they cannot be compared."""
    with conn.cursor(row_factory=scalar_row) as cursor:
        objects = cursor.execute(
            "select objects from import_pipeline.schema_migrations order by applied_at desc, version desc limit 1"
        ).fetchone()
    if not objects:
        return {}
    definitions: dict[str, str] = objects["definitions"]
    if objects["server"] != server_major(conn):
        # Another major version may spell the same definition otherwise; that it is there can still be seen.
        return dict.fromkeys(definitions, "")
    return definitions


def compare(expected: Mapping[str, str], actual: Mapping[str, str]) -> list[Drift]:
    """Return what was changed by hand, by name."""
    drifted = []
    for name in sorted(expected.keys() | actual.keys()):
        if name not in actual:
            drifted.append(Drift("schema", name, "is missing"))
        elif name not in expected and name.startswith(("policy", "grant")):
            # Who may see what is ours to decide; an index or a column more does no harm.
            drifted.append(Drift("schema", name, f"was added by hand ({actual[name]})"))
        elif expected.get(name) and expected[name] != actual[name]:
            drifted.append(Drift("schema", name, f"is {actual[name]}, should be {expected[name]}"))
    return drifted


def expected_after(
    expected_before: Mapping[str, str], before: Mapping[str, str], after: Mapping[str, str]
) -> dict[str, str]:
    """Return what to expect from now on: what a migration left, without making a change by hand look intended."""
    expected = dict(after)
    for name in expected_before.keys() | before.keys():
        untouched = before.get(name) == after.get(name)
        if untouched and name in expected_before:
            expected[name] = expected_before[name] or after.get(name, "")
        elif untouched:
            expected.pop(name, None)
    return expected


def server_major(conn: Connection) -> int:
    """Return the major version of the server."""
    return conn.info.server_version // 10000
