"""Figures about everybody: recordings by user and source, by month and source, and how the accounts are.

The assets and their checks show them. Read across all users, in nobody's name; no Dagster, and nothing is judged here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any
from uuid import UUID

import psycopg
from psycopg.rows import tuple_row

from import_pipeline.database.sql import query
from import_pipeline.database.tenancy import acting_as
from import_pipeline.errors import one_line

if TYPE_CHECKING:
    import pandas as pd

_Connection = psycopg.Connection[Any]

NO_SOURCE = "no source"
"""The column of recordings that name no source."""
OTHER_SOURCES = "other sources"
"""The column of what lies beyond `_MOST_SOURCES`: people who may write recordings may name any source."""
_MOST_SOURCES = 20


@dataclass(frozen=True, slots=True)
class Health:
    """How the accounts are.

    Args:
        sources: One row of figures per source.
        accounts: Columns of `import_pipeline.account_health`; those with problems first, bounded.
    """

    sources: list[dict[str, Any]]
    accounts: list[dict[str, Any]]


def read_import_counts(conn: _Connection) -> pd.DataFrame:
    """Count the recordings of all users: ids of users × identifiers of sources, whole numbers."""
    with acting_as(conn, None), conn.cursor(row_factory=tuple_row) as cursor:
        rows = cursor.execute(query("count_recordings_by_user")).fetchall()
    return _tabulate(rows, "user")


def read_months(conn: _Connection, since: datetime) -> tuple[pd.DataFrame, int]:
    """Count recordings by month and source.

    Args:
        conn: An idle connection.
        since: The beginning of the first month, aware.

    Returns:
        Months ('YYYY-MM', ascending, without gaps) × sources, whole numbers; and how many recordings are older or have
        no time.
    """
    import pandas as pd

    with acting_as(conn, None), conn.cursor(row_factory=tuple_row) as cursor:
        rows = cursor.execute(query("count_recordings_by_month"), {"since": since}).fetchall()
    others = sum(number for _, month, number in rows if month is None)
    frame = _tabulate([(month, source, number) for source, month, number in rows if month is not None], "month")
    if not frame.empty:
        months = pd.period_range(frame.index.min(), frame.index.max(), freq="M").strftime("%Y-%m")
        frame = frame.reindex(months, fill_value=0)
    return frame, others


def read_health(conn: _Connection, limit: int) -> Health:
    """Say how all accounts are: figures per source, and at most `limit` accounts, those with problems first."""
    with acting_as(conn, None), conn.cursor(row_factory=tuple_row) as cursor:
        sources, accounts = cursor.execute(query("describe_health"), {"limit": limit}).fetchone()  # type: ignore[misc]
    return Health([_with_times(row) for row in sources], [_with_times(row) for row in accounts])


def name_users(conn: _Connection, user_ids: list[UUID]) -> dict[UUID, str]:
    """Return what people call these users: their e-mail addresses, or their ids where there is none."""
    with acting_as(conn, None), conn.cursor(row_factory=tuple_row) as cursor:
        cursor.execute(query("name_users"), {"user_ids": user_ids})
        found: dict[UUID, str] = dict(cursor.fetchall())
    return {user_id: found.get(user_id, str(user_id)) for user_id in user_ids}


def _tabulate(rows: Sequence[tuple[Any, str | None, int]], of: str) -> pd.DataFrame:
    """Return whole numbers: users or months × sources; the smaller ones of very many sources are counted as one."""
    import pandas as pd  # slow to import, and needed only here

    named = [(row, one_line(source or "") or NO_SOURCE, number) for row, source, number in rows]
    counted = pd.DataFrame(named, columns=[of, "source", "recordings"])
    largest = counted.groupby("source")["recordings"].sum().sort_values(ascending=False).head(_MOST_SOURCES)
    counted["source"] = counted["source"].where(counted["source"].isin(largest.index), OTHER_SOURCES)
    frame = counted.pivot_table(index=of, columns="source", values="recordings", aggfunc="sum", fill_value=0)
    return frame.astype("int64")


def _with_times(row: dict[str, Any]) -> dict[str, Any]:
    """Turn the times of a JSON row back into times."""
    return {
        name: datetime.fromisoformat(value) if name.endswith("_at") and value is not None else value
        for name, value in row.items()
    }
