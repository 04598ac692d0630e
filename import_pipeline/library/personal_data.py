"""Everything the database holds about one user: counted, written out, or erased.

One list of tables serves all three, so that what is written out is what is erased. Not here: staged files
(`stages/staging.py`) and Dagster's runs (`defs/retention.py`), which the command `erase` removes with the rows.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import psycopg
from psycopg import sql
from psycopg.rows import scalar_row, tuple_row

from import_pipeline.database.connections import set_locally
from import_pipeline.database.planted import TENANCY_TABLES, lock_for_writing, require_nothing_planted
from import_pipeline.database.sql import query, template
from import_pipeline.database.tenancy import acting_as, shut_path
from import_pipeline.errors import ErasureError, UnknownUserError
from import_pipeline.library.leases import is_process_gone

_Connection = psycopg.Connection[Any]
_ROWS_AT_ONCE = 20  # a transcript may have tens of megabytes


@dataclass(frozen=True, slots=True)
class _Kept:
    """A table with rows about users.

    Attributes:
        schema: Of the table.
        name: Of the table.
        condition: The query that says which rows are about the user.
        hidden: Columns that are not written out.
    """

    schema: str
    name: str
    condition: str
    hidden: tuple[str, ...] = ()


# In the order in which they are erased: a run that still worked would meet the lack of its account first.
_TABLES = (
    _Kept("import_pipeline", "credentials", "of_accounts", hidden=("secret",)),
    _Kept("import_pipeline", "leases", "of_accounts"),
    _Kept("import_pipeline", "rate_budgets", "of_accounts"),
    _Kept("import_pipeline", "polls", "of_accounts"),
    _Kept("import_pipeline", "dropped_files", "of_accounts"),
    _Kept("public", "import_sources", "of_user"),
    _Kept("public", "sync_jobs", "of_user"),
    _Kept("public", "import_items", "of_user"),
    _Kept("public", "vault_entries", "of_recordings"),
    _Kept("public", "recordings", "of_owner"),
)


@dataclass(frozen=True, slots=True)
class Erased:
    """What was erased from the database.

    Attributes:
        rows: Table → number of rows.
        account_ids: The accounts the user had.
        run_ids: Root runs that worked for one of them.
        is_user_gone: Whether the user and their personal bank are erased too.
    """

    rows: dict[str, int] = field(default_factory=dict)
    account_ids: frozenset[UUID] = frozenset()
    run_ids: frozenset[str] = frozenset()
    is_user_gone: bool = False


def count_rows(conn: _Connection, user_id: UUID) -> dict[str, int]:
    """Count what there is about a user: table → number of rows, as the importer sees them."""
    counts = {}
    with acting_as(conn, user_id), conn.cursor(row_factory=scalar_row) as cursor:
        for table in _TABLES:
            cursor.execute(_statement("count_rows", table), {"user_id": user_id})
            counts[table.name] = cursor.fetchone() or 0
    return counts


def export_rows(conn: _Connection, user_id: UUID) -> Iterator[tuple[str, str]]:
    """Yield every row about a user as it stands at one moment, recordings with their transcripts.

    Reads as the importer in the user's name, so that the database itself shows no row of anybody else.

    Args:
        conn: An idle connection; it is in a transaction until the last row was read.
        user_id: The user.

    Yields:
        Table, and one JSON object without line breaks: `{"table": …, "row": {column: value, …}}`. The first is the
        user: `{"table": "users", "row": {"id": …, "email": …}}`. Of a credential there is everything but the secret.

    Raises:
        UnknownUserError: There is no such user.
    """
    with conn.transaction():
        conn.execute(query("read_one_moment"))
        set_locally(conn, timezone="UTC")
        with acting_as(conn, user_id):
            with conn.cursor(row_factory=scalar_row) as cursor:
                user = cursor.execute(query("export_user"), {"user_id": user_id}).fetchone()
            if user is None:
                raise UnknownUserError(f"There is no user {user_id} in this database.")
            yield "users", user
            for table in reversed(_TABLES):
                with closing(conn.cursor("export", row_factory=scalar_row)) as rows:
                    rows.itersize = _ROWS_AT_ONCE
                    rows.execute(_export_statement(conn, table), {"user_id": user_id, "table": table.name})
                    for row in rows:
                        yield table.name, row


def erase_rows(conn: _Connection, user_id: UUID, *, with_user: bool = False) -> Erased:
    """Delete every row about a user, in the caller's transaction.

    Args:
        conn: A connection, within a transaction, of a login that may delete recordings and is not bound by policies.
        user_id: The user.
        with_user: Also delete the user and the banks of which they were the only member; not for users of
            the owner's application.

    Raises:
        PlantedTriggerError: A trigger would run code of a stranger with this login. Nothing was erased.
        ErasureError: An import is running for the user, the login may not, or a table that import_pipeline knows
            nothing of refers to the recordings. Nothing must be committed then.
    """
    values = {"user_id": user_id}
    try:
        with conn.transaction(), conn.cursor(row_factory=tuple_row) as cursor:
            set_locally(conn, statement_timeout="0", lock_timeout="10s")
            shut_path(conn)
            _require_sight(conn)
            written = [f"{table.schema}.{table.name}" for table in _TABLES]
            written += ["auth.users", *TENANCY_TABLES] if with_user else []
            lock_for_writing(conn, written)
            require_nothing_planted(conn, written)
            # From here on no run can take one of these accounts, and what `insert` has in hand is waited for.
            accounts = cursor.execute(query("lock_accounts_of_user"), values).fetchall()
            for holder, process, is_alive in cursor.execute(query("find_leases_of_user"), values):
                if is_alive and not is_process_gone(process):
                    raise ErasureError(
                        f"Run {holder} is importing calls of this user. Cancel it or wait for its end. "
                        "Nothing was erased."
                    )
            runs = cursor.execute(query("find_runs_of_user"), values).fetchall()
            banks = cursor.execute(query("find_banks_of_user"), values).fetchall()
            rows = {table.name: cursor.execute(_statement("delete_rows", table), values).rowcount for table in _TABLES}
            if with_user:
                cursor.execute(query("delete_user"), values)
                cursor.execute(query("delete_deserted_banks"), {"bank_ids": [bank for (bank,) in banks]})
    except psycopg.errors.ForeignKeyViolation as error:
        raise ErasureError(
            f"Rows of the table {error.diag.table_name} refer to what belongs to this user; settle them first. "
            "Nothing was erased."
        ) from error
    except psycopg.errors.InsufficientPrivilege as error:
        raise ErasureError(
            f"The login {conn.info.user!r} may not erase: {error.diag.message_primary}. Use the one that owns the "
            "tables; nothing was erased."
        ) from error
    except psycopg.errors.LockNotAvailable as error:
        raise ErasureError(
            "Somebody else is writing what belongs to this user; try again. Nothing was erased."
        ) from error
    return Erased(
        rows, frozenset(account for (account,) in accounts), frozenset(run for (run,) in runs), is_user_gone=with_user
    )


def _statement(name: str, table: _Kept, **parts: sql.Composable) -> sql.Composed:
    """Complete a statement about the rows of a table that are about the user."""
    return template(name).format(
        table=sql.Identifier(table.schema, table.name), condition=template(table.condition), **parts
    )


def _export_statement(conn: _Connection, table: _Kept) -> sql.Composed:
    """Select the rows of a table as JSON, whatever columns the owner's table has."""
    with conn.cursor(row_factory=scalar_row) as cursor:
        columns = cursor.execute(query("list_columns"), {"schema": table.schema, "name": table.name}).fetchall()
    chosen = sql.SQL(", ").join(sql.Identifier(column) for column in columns if column not in table.hidden)
    return _statement("export_rows", table, columns=chosen)


def _require_sight(conn: _Connection) -> None:
    """Make sure that no policy hides rows: what is hidden would stay.

    Raises:
        ErasureError: One does.
    """
    names = [f"{table.schema}.{table.name}" for table in _TABLES]
    with conn.cursor(row_factory=scalar_row) as cursor:
        hidden = cursor.execute(query("find_hidden_tables"), {"names": names}).fetchall()
    if hidden:
        raise ErasureError(
            f"Row-level security hides rows of {', '.join(hidden)} from the login {conn.info.user!r}: use the one that "
            "owns the tables, with IMPORT_PIPELINE_MIGRATION_URL. Nothing was erased."
        )
