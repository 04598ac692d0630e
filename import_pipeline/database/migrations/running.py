"""Brings a database to the schema of this version, and says how far it is from it.

Everything that can be said in SQL is said in the files: what a database must bring along, the objects, the warnings.
Here is only the running: order, one transaction each, one process at a time. No Dagster, no settings, no connecting.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import psycopg
from psycopg import pq
from psycopg.rows import scalar_row, tuple_row

from import_pipeline.database.connections import without_limit
from import_pipeline.database.migrations import history, objects, superseded
from import_pipeline.database.migrations.explaining import translated, warnings_logged
from import_pipeline.database.migrations.files import Migration, load
from import_pipeline.database.migrations.history import AppliedMigration, MigrationStatus
from import_pipeline.database.sql import query
from import_pipeline.database.tenancy import acting_as
from import_pipeline.errors import ConfigurationError, MigrationDriftError, MigrationError, one_line

logger = logging.getLogger(__name__)

_LOCK_KEY = 0x696D706F7274  # "import", so that it can be recognised in pg_locks
_INDEX = re.compile(r"^create (?:unique )?index [^;]*", re.MULTILINE)
_SOON = "5s"
"""After so long it is told who has the lock: another process that migrates, or anybody who took it."""
_WAIT_FOR_OTHERS = "15min"  # another process may be building an index over years of calls

Connection = psycopg.Connection[Any]


def check(conn: Connection, migrations: Sequence[Migration] | None = None) -> MigrationStatus:
    """Compare a database with this version, changing nothing.

    Args:
        conn: A connection that may read schema `import_pipeline`, such as the owner's.
        migrations: Other migrations than those of this version.

    Raises:
        MigrationError: The history cannot be read with this connection.
    """
    with reading(conn):
        return _compare(conn, history.read(conn), load() if migrations is None else migrations)


def find_pending(conn: Connection) -> list[Migration]:
    """Return what a database lacks; whether somebody changed it by hand is not looked at, which takes much longer.

    Args:
        conn: As for `check`.

    Raises:
        MigrationError: The history cannot be read with this connection.
    """
    with reading(conn):
        return history.compare(conn, history.read(conn), load()).pending


def apply(
    conn: Connection, migrations: Sequence[Migration] | None = None, *, lock_timeout_seconds: float = 10
) -> list[Migration]:
    """Apply what is pending, one transaction each; several processes may do so at once.

    Every step reads the history anew under an advisory lock of its own transaction, since a lock of the session would
    not hold behind a transaction pooler.

    Args:
        conn: A connection without open transaction.
        migrations: Other migrations than those of this version.
        lock_timeout_seconds: How long a statement waits for a table that somebody else has locked. All later
            statements on that table wait behind it.

    Returns:
        The migrations that this call applied, oldest first.

    Raises:
        DuplicateRecordingsError: The database holds recordings more than once; nothing was changed.
        MigrationDriftError: The history and the files contradict each other; nothing was changed.
        MigrationError: The database refused; the message names the file and the reason. That file changed nothing.
            Or it gave less than it was asked for, without an error: the message names the right and who can give it.
        DatabaseUnavailableError: The connection broke; run it again.
    """
    _require_idle(conn)
    applied: list[Migration] = []
    migrations = load() if migrations is None else migrations
    with without_limit(conn):
        while (migration := _apply_next(conn, migrations, lock_timeout_seconds)) is not None:
            applied.append(migration)
        with translated(), conn.transaction():
            history.note_triggers(conn)
        with reading(conn):
            _require_grants(conn)
    return applied


@contextmanager
def rehearsed(
    conn: Connection, migrations: Sequence[Migration] | None = None, *, lock_timeout_seconds: float = 10
) -> Iterator[None]:
    """Apply what is pending, in one transaction that is rolled back after the block; the indexes it makes are empty.

    Raises:
        As `apply`.
    """
    _require_idle(conn)
    migrations = load() if migrations is None else migrations
    with without_limit(conn), conn.transaction(force_rollback=True):
        conn.execute("set transaction isolation level read committed")
        while _apply_next(conn, migrations, lock_timeout_seconds, is_rehearsal=True) is not None:
            pass
        _require_grants(conn)
        conn.execute("set local search_path = ''")
        yield


def _require_idle(conn: Connection) -> None:
    if conn.info.transaction_status != pq.TransactionStatus.IDLE:
        raise MigrationError("Migrations need a connection without open transaction: commit or roll back first.")


def _require_grants(conn: Connection) -> None:
    """Make sure that the importer has what it was granted: a role without grant option gets but a warning."""
    if history.compare(conn, history.read(conn), load()).pending:
        return
    with conn.cursor(row_factory=tuple_row) as cursor:
        cursor.execute(query("audit_worker_privileges"))
        lacking = [(named, remedy) for _, named, _, remedy in cursor if remedy.startswith("grant")]
    if lacking:
        raise MigrationError(
            f"The role import_worker did not get its rights on {', '.join(named for named, _ in lacking)}: "
            f"{conn.info.user} may not grant them. Let the owner of each run, then migrate again:\n"
            + "\n".join(remedy for _, remedy in lacking)
        )


def _apply_next(
    conn: Connection, migrations: Sequence[Migration], lock_timeout_seconds: float, *, is_rehearsal: bool = False
) -> Migration | None:
    """Apply the oldest pending migration in one transaction; None: there is none."""
    current: list[Migration] = []
    with translated(current), nullcontext() if is_rehearsal else warnings_logged(conn), conn.transaction():
        # A snapshot taken before the lock was granted would not show what the others did.
        conn.execute("set transaction isolation level read committed")
        conn.execute("set local statement_timeout = 0")
        _take_lock(conn)
        conn.execute("select set_config('lock_timeout', %s, true)", [f"{lock_timeout_seconds}s"])
        conn.execute(objects.OWN_PATH)

        known = history.read(conn)
        status = _compare(conn, known, migrations)
        _require_agreement(status)
        history.adopt(conn, status, known)
        if status.is_superseded and not is_rehearsal:
            logger.warning("The files of before 2026-12-01 made this database. It was taken over as it is.")
        if not status.pending:
            return None

        migration = status.pending[0]
        current.append(migration)
        _require_own_objects(conn)
        before = objects.describe(conn) if known else {}
        conn.execute(_INDEX.sub(_leave_empty, migration.sql) if is_rehearsal else migration.sql)
        left = objects.expected_after(objects.recorded(conn) if known else {}, before, objects.describe(conn))
        history.record(conn, migration, left)
        return migration


def _take_lock(conn: Connection) -> None:
    """Wait until nobody else migrates.

    Raises:
        MigrationError: It takes too long; the message says who holds the lock.
    """
    try:
        _lock_within(conn, _SOON)
        return
    except psycopg.errors.LockNotAvailable:
        logger.warning("Waiting for the lock of migrate, which %s.", _describe_holder(conn))
    try:
        _lock_within(conn, _WAIT_FOR_OTHERS)
    except psycopg.errors.LockNotAvailable:
        raise MigrationError(
            f"Nothing was changed. The lock of migrate is one that {_describe_holder(conn)}: end that, or try later."
        ) from None


def _lock_within(conn: Connection, time: str) -> None:
    with conn.transaction():
        conn.execute("select set_config('lock_timeout', %s, true)", [time])
        conn.execute("select pg_advisory_xact_lock(%s)", [_LOCK_KEY])


def _describe_holder(conn: Connection) -> str:
    with conn.cursor(row_factory=tuple_row) as cursor:
        row = cursor.execute(query("find_lock_holder"), {"key": _LOCK_KEY}).fetchone()
    if row is None:
        return "another session held until now"
    pid, login, program, since = row
    told = f"process {pid} of the login {one_line(login or '?')} holds ({one_line(program or 'a program without name')}"
    return f"{told}, connected since {since:%Y-%m-%d %H:%M:%S %Z})" if since else f"{told})"


def find_working_runs(conn: Connection) -> list[str]:
    """Return the runs that work on accounts now; where one is of an earlier version, its calls fail after migrating."""
    try:
        with reading(conn), acting_as(conn, None), conn.cursor(row_factory=scalar_row) as cursor:
            return [one_line(run) for run in cursor.execute(query("find_working_runs"))]
    except (MigrationError, ConfigurationError):  # nothing of ours is there yet
        return []


def _compare(
    conn: Connection, known: Mapping[str, AppliedMigration], migrations: Sequence[Migration]
) -> MigrationStatus:
    status = history.compare(conn, known, migrations)
    if known:
        status.drifted.extend(objects.compare(objects.recorded(conn), objects.describe(conn)))
    return status


def _require_agreement(status: MigrationStatus) -> None:
    """Refuse a database whose history contradicts the files; changes made by hand stop only a take-over.

    Raises:
        MigrationDriftError: It does.
    """
    contradictions = [drift for drift in status.drifted if drift.kind != "schema" or status.is_superseded]
    if not contradictions:
        return
    lines = [str(drift) for drift in contradictions]
    if status.is_superseded:
        lines.append(
            "The files of before 2026-12-01 made this database, and it is not as the last of them left it. Nothing was "
            "changed. Put back what was changed by hand, or migrate it with the last commit of import_pipeline that "
            f"has {superseded.LAST_FILE}; then migrate it with this one."
        )
    raise MigrationDriftError("\n".join(lines))


def _require_own_objects(conn: Connection) -> None:
    """Refuse a database in which others own what our policies trust; asked before the first file as before any other.

    Raises:
        MigrationError: They do.
    """
    with conn.cursor(row_factory=tuple_row) as cursor:
        found = cursor.execute(query("audit_foreign_owners"), {"migrates": True}).fetchall()
    if found:
        problems = "\n".join(f"{name}: {problem}" for _, name, problem, _ in found)
        raise MigrationError(
            f"Nothing was changed, because what policies trust must not belong to others:\n{problems}\nLook at what is "
            "there, then make it belong to the role that migrates, or migrate as the role that it belongs to."
        )


@contextmanager
def reading(conn: Connection) -> Iterator[None]:
    """Ask about a database in a transaction that changes nothing."""
    with translated(), conn.transaction(force_rollback=True):
        conn.execute("set local statement_timeout = 0")
        conn.execute(objects.OWN_PATH)  # undone at the end
        yield


def _leave_empty(index: re.Match[str]) -> str:
    return f"{index[0]} {'and' if ' where ' in index[0] else 'where'} false"
