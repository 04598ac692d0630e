"""For whom a transaction works: the role `import_worker`, and the owner whose rows it may touch.

Everything the importer reads or writes happens inside `acting_as` or `acting_at_once`, so that the database itself
refuses rows of others. Nothing here survives the transaction: that is what a pooler in transaction mode asks for.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID
from weakref import WeakKeyDictionary

import psycopg
from psycopg.pq import PipelineStatus, TransactionStatus
from psycopg.rows import dict_row, tuple_row

from import_pipeline.database.connections import (
    IDLE_IN_TRANSACTION_SECONDS,
    LONGEST_LOCK_SECONDS,
    BoundedConnection,
    pipeline_of,
    prepares,
)
from import_pipeline.database.planted import (
    find_planted_triggers,
    lock_for_writing,
    refuse_planted,
    require_nothing_planted,
    send_refusal,
)
from import_pipeline.database.sql import query
from import_pipeline.errors import ConfigurationError


class _Session(NamedTuple):
    """What stays the same for a connection: whether strangers may steer names, and its own limit for locks, if any."""

    path_is_open: bool
    lock_milliseconds: int


WORKER_ROLE = "import_worker"
ACCOUNT_LOCK_SECONDS = 1.0
"""How long to wait for rows that users may lock for any time: that of their account, and their progress."""


_sessions: WeakKeyDictionary[psycopg.Connection[Any], _Session] = WeakKeyDictionary()


@contextmanager
def acting_as(
    conn: psycopg.Connection[Any],
    user_id: UUID | str | None,
    *,
    writes: Collection[str] | None = None,
    lock_seconds: float = LONGEST_LOCK_SECONDS,
) -> Iterator[None]:
    """Run a transaction as `import_worker` in the name of one user (None: in nobody's name).

    Inside a transaction of the caller's it is a savepoint, and the caller's role and claims are put back at the end.
    Where strangers may create objects in a schema of the search_path, that path is empty in the block.

    Args:
        conn: A connection.
        user_id: In whose name.
        writes: The tables of the schema `public` that are written in the block, besides those of `import_pipeline`.
            Before the block nobody can plant a trigger on them any more, and none is there. None: nothing is written,
            and the database refuses it.
        lock_seconds: How long to wait for what another session has locked, then `psycopg.errors.LockNotAvailable` is
            raised: see `ACCOUNT_LOCK_SECONDS`. In a transaction of the caller's, the caller decides.

    Raises:
        ConfigurationError: The connection's login may not become `import_worker`, or the role does not exist.
        PlantedTriggerError: A trigger would run code of a stranger in the transaction; nothing was written.
    """
    if conn.info.transaction_status != TransactionStatus.IDLE or conn.info.pipeline_status != PipelineStatus.OFF:
        with _acting_within(conn, user_id, writes):
            yield
        return
    with ExitStack() as stack:
        with _explaining_refusals(conn), pipeline_of(conn) as pending:
            # Not `conn.transaction()`, which waits for its beginning.
            stack.enter_context(psycopg.Transaction(conn))
            if not conn.autocommit:
                pending.sync()  # else the driver does not know yet, and begins once more
            _act(conn, _settings(conn, user_id, lock_seconds) | _reading(writes))
            if writes:
                lock_for_writing(conn, _names(writes))
                asked = find_planted_triggers(stack.enter_context(conn.cursor(row_factory=tuple_row)))
        if writes:
            refuse_planted(asked)
        yield


@contextmanager
def _acting_within(
    conn: psycopg.Connection[Any], user_id: UUID | str | None, writes: Collection[str] | None
) -> Iterator[None]:
    """Do what `acting_as` does within a transaction or a pipeline of the caller's."""
    with conn.transaction():
        with conn.cursor(row_factory=dict_row) as cursor:
            before = cursor.execute(query("find_actor")).fetchone()
        with _explaining_refusals(conn):
            # In a transaction of the caller's own, the caller decides how long the server waits.
            _act(conn, _settings(conn, user_id) | _AS_IT_IS).fetchone()
        if writes:
            lock_for_writing(conn, _names(writes))
            require_nothing_planted(conn)
        yield
        # After an error the savepoint's rollback restores all of it by itself.
        if before is not None:
            _act(conn, {**before, **_AS_IT_IS})


@contextmanager
def acting_at_once(
    conn: psycopg.Connection[Any], user_id: UUID | str | None, *, writes: Collection[str] | None = None
) -> Iterator[psycopg.Pipeline | None]:
    """Do what `acting_as` does, but send all of it at once and wait for its end once.

    Only if the connection is idle and in autocommit; else it is `acting_as`. For a statement or two: over a slow line
    each turn would cost as much as the question, and others wait for the locks of a transaction until our word to
    commit arrives. Results are read after the block, or in it after `connections.sync` with what it yields.

    Raises:
        ConfigurationError: As `acting_as`.
        PlantedTriggerError: As `acting_as`; the server passed over what was sent.
    """
    if conn.info.transaction_status != TransactionStatus.IDLE or not conn.autocommit:
        with acting_as(conn, user_id, writes=writes):
            yield None
        return
    settings = _settings(conn, user_id)
    try:
        with pipeline_of(conn) as pending:
            conn.execute("BEGIN")
            _act(conn, settings | _reading(writes))
            if writes:
                lock_for_writing(conn, _names(writes))
                send_refusal(conn)
            yield pending
            conn.execute("COMMIT")
    except (
        psycopg.errors.InsufficientPrivilege,
        psycopg.errors.InvalidParameterValue,
        psycopg.errors.InvalidTextRepresentation,
    ):
        _roll_back(conn)
        with acting_as(conn, user_id, writes=writes):  # which says so if it was not the statement
            pass
        raise
    finally:
        _roll_back(conn)


def _roll_back(conn: psycopg.Connection[Any]) -> None:
    if not conn.closed and conn.info.transaction_status != TransactionStatus.IDLE:
        conn.rollback()  # after an error the server has passed over the commit


def _act(conn: psycopg.Connection[Any], settings: dict[str, Any]) -> psycopg.Cursor[Any]:
    return conn.execute(query("act_as"), settings, prepare=prepares(conn))


@contextmanager
def _explaining_refusals(conn: psycopg.Connection[Any]) -> Iterator[None]:
    try:
        yield
    except (psycopg.errors.InsufficientPrivilege, psycopg.errors.InvalidParameterValue) as error:
        raise ConfigurationError(
            f"The login {conn.info.user!r} may not work as {WORKER_ROLE!r}: run `import-pipeline migrate` with the "
            f"owner of the database, then `grant {WORKER_ROLE} to {conn.info.user}`."
        ) from error


_AS_IT_IS = {"idle_timeout": None, "lock_timeout": None, "read_only": None}


def _reading(writes: Collection[str] | None) -> dict[str, str | None]:
    return {"read_only": "on" if writes is None else None}


def _names(writes: Collection[str]) -> list[str]:
    return [f"public.{table}" for table in writes]


def _settings(
    conn: psycopg.Connection[Any], user_id: UUID | str | None, lock_seconds: float = LONGEST_LOCK_SECONDS
) -> dict[str, Any]:
    """Return the parameters of `act_as`."""
    session = _describe_session(conn)
    milliseconds = round(lock_seconds * 1000)
    return {
        "role": WORKER_ROLE,
        "claims": "" if user_id is None else json.dumps({"sub": str(user_id), "role": "authenticated"}),
        "claim": "",
        "claim_sub": "",
        "claim_role": "",
        "path": "" if session.path_is_open else None,
        "idle_timeout": f"{IDLE_IN_TRANSACTION_SECONDS}s",
        "lock_timeout": f"{min(milliseconds, session.lock_milliseconds or milliseconds)}ms",
    }


def is_path_open(conn: psycopg.Connection[Any]) -> bool:
    """Say whether strangers may steer what names mean."""
    return _describe_session(conn).path_is_open


def _describe_session(conn: psycopg.Connection[Any]) -> _Session:
    """Ask once per connection, since it takes half a millisecond."""
    if conn not in _sessions:
        with conn.cursor(row_factory=tuple_row) as cursor:
            ((is_open, lock_milliseconds, backend_pid, client_port),) = cursor.execute(
                query("describe_session")
            ).fetchall()
        _sessions[conn] = _Session(is_open, lock_milliseconds)
        if isinstance(conn, BoundedConnection):
            conn.prepare_if_alone(backend_pid, client_port)
    return _sessions[conn]


def shut_path(conn: psycopg.Connection[Any]) -> None:
    """For the rest of the transaction, let names mean nothing that a stranger may have planted.

    For statements with rights that nobody else has: of the owner of the tables, outside `acting_as`.
    """
    if is_path_open(conn):
        conn.execute("set local search_path = ''")


def database_time(conn: psycopg.Connection[Any]) -> datetime:
    """Return the database's time: clocks of workers differ, and cursors and pauses must not."""
    with conn.cursor(row_factory=tuple_row) as cursor:
        return cursor.execute("select clock_timestamp()").fetchone()[0]  # type: ignore[index,no-any-return]
