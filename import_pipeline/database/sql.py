"""The one place that finds and reads `.sql` files.

A wheel carries the folder inside the package, a checkout has it beside the package. What the statements mean, and
running them, is the business of the modules that ask for them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from psycopg import sql

_PACKAGE = Path(__file__).resolve().parents[1]
_NAMED = re.compile(r"-- ([a-z_]+): ")


@cache
def folder() -> Path:
    """Return the folder that holds `queries/` and `migrations/`.

    Raises:
        FileNotFoundError: The installation is incomplete.
    """
    for candidate in (_PACKAGE / "sql", _PACKAGE.parent / "sql"):
        if (candidate / "migrations").is_dir():
            return candidate
    raise FileNotFoundError(f"No folder sql/ in or beside {_PACKAGE}: reinstall import-pipeline.")


@cache
def queries() -> Mapping[str, str]:
    """Return every statement of `sql/queries/` by its name: paragraphs that begin with `-- name: what it does`.

    Raises:
        ValueError: A statement has no name, or that of another.
    """
    found: dict[str, str] = {}
    for path in sorted((folder() / "queries").glob("*.sql")):
        for statement in path.read_text(encoding="utf-8").strip().split("\n\n"):
            named = _NAMED.match(statement)
            if named is None or named[1] in found:
                raise ValueError(f"{path.name}: a statement has no name of its own:\n{statement[:200]}")
            found[named[1]] = statement
    return found


def query(name: str) -> str:
    """Return the statement with this name."""
    return queries()[name]


def template(name: str) -> sql.SQL:
    """Return a query whose `{}` stand for names, which `format` fills in."""
    return sql.SQL(query(name))  # nosemgrep: statement-put-together - a file of ours


def columns(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """Turn rows into columns, for a statement that unnests one array for each, at least one of them without nulls.

    A column of nulls becomes an empty one, which `unnest` fills up with them again: most columns of most batches.
    """
    values = {name: [row[name] for row in rows] for name in rows[0]}
    return {name: column if any(value is not None for value in column) else [] for name, column in values.items()}


def migration_files() -> list[Path]:
    """Return the migration files, oldest first."""
    return sorted((folder() / "migrations").glob("*.sql"))
