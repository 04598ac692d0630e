"""The one place that finds and reads `.sql` files.

A wheel carries the folder inside the package, a checkout has it beside the package. What the statements mean, and
running them, is the business of the modules that ask for them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from psycopg import sql

_PACKAGE = Path(__file__).resolve().parents[1]


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
def query(name: str) -> str:
    """Return the text of `sql/queries/<name>.sql`, read once per process."""
    return (folder() / "queries" / f"{name}.sql").read_text(encoding="utf-8")


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
