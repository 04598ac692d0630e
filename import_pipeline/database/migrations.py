"""Brings a database to the schema of this version, and says how far it is from it.

The SQL lives in `sql/migrations/`, in the naming of the Supabase CLI, and everything that can be said in SQL is said
there: what a database must bring along, the objects, the warnings. Here is only the running: order, history, one
transaction each, one process at a time, errors that name the file. No Dagster, no settings, no connecting.
"""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any, Literal

import psycopg
from psycopg import pq
from psycopg.rows import scalar_row, tuple_row
from psycopg.types.json import Jsonb

from import_pipeline.database.connections import without_limit
from import_pipeline.database.sql import migration_files, query
from import_pipeline.errors import (
    DatabaseUnavailableError,
    DuplicateRecordingsError,
    MigrationDriftError,
    MigrationError,
)

logger = logging.getLogger(__name__)

IMPORT_KEY = "recordings_import_key"
"""The unique index that makes "exactly once" true."""

_OWN_PATH = "set local search_path = '', pg_temp"
"""Nothing that somebody planted is asked. Temporary types, which a pooled session may have from another client, come
last: otherwise the names of PostgreSQL's own types would be spelt differently."""
_LOCK_KEY = 0x696D706F7274  # "import", so that it can be recognised in pg_locks
_INDEX = re.compile(r"^create (?:unique )?index [^;]*", re.MULTILINE)
_WAIT_FOR_OTHERS = "15min"  # another process may be building an index over years of calls

Connection = psycopg.Connection[Any]


@dataclass(frozen=True)
class Migration:
    """One file of `sql/migrations/`."""

    version: str
    name: str
    sql: str = field(repr=False)
    checksum: str
    earlier: frozenset[str] = frozenset()
    """Checksums of texts that were corrected after their release: a database that ran one of them has run this."""

    @property
    def filename(self) -> str:
        """The name of the file."""
        return f"{self.version}_{self.name}.sql"


@dataclass(frozen=True)
class AppliedMigration:
    """One row of the history."""

    version: str
    name: str
    checksum: str
    applied_at: datetime | None
    """None for a version that only the history of the Supabase CLI knows."""


@dataclass(frozen=True)
class Drift:
    """One way in which a database is not what this software left or expects.

    `edited`: an applied file has changed. `unknown`: the database has a version that this software has no file for, so
    it was migrated by a newer one. `schema`: an object of ours was changed or removed by hand.
    """

    kind: Literal["edited", "unknown", "schema"]
    subject: str
    detail: str

    def __str__(self) -> str:
        """Return it as a line for people."""
        return f"{self.subject}: {self.detail}"


@dataclass(frozen=True)
class MigrationStatus:
    """How far a database is from the schema of this version."""

    applied: list[AppliedMigration]
    pending: list[Migration]
    drifted: list[Drift]

    @property
    def is_current(self) -> bool:
        """Whether nothing is pending and nothing has drifted."""
        return not self.pending and not self.drifted


@cache
def load() -> tuple[Migration, ...]:
    """Return the migrations of this version, oldest first."""
    migrations = []
    for path in migration_files():
        version, _, name = path.stem.partition("_")
        # Checkouts differ in line ends; the checksum must not.
        text = path.read_bytes().decode("utf-8").replace("\r\n", "\n")
        earlier = frozenset(re.findall(r"^-- earlier ([0-9a-f]{64})$", text, re.MULTILINE))
        migrations.append(Migration(version, name, text, _checksum(text), earlier))
    return tuple(migrations)


def check(conn: Connection, migrations: Sequence[Migration] | None = None) -> MigrationStatus:
    """Compare a database with this version, changing nothing.

    Args:
        conn: A connection that may read schema `import_pipeline`, such as the owner's.
        migrations: Other migrations than those of this version.

    Raises:
        MigrationError: The history cannot be read with this connection.
    """
    with reading(conn):
        return _status(conn, _read_history(conn), load() if migrations is None else migrations)


def find_pending(conn: Connection) -> list[Migration]:
    """Return what a database lacks; whether somebody changed it by hand is not looked at, which takes much longer.

    Args:
        conn: As for `check`.

    Raises:
        MigrationError: The history cannot be read with this connection.
    """
    with reading(conn):
        return _compare_history(conn, _read_history(conn), load()).pending


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
    if _compare_history(conn, _read_history(conn), load()).pending:
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


def export(directory: Path) -> list[Path]:
    """Write the migration files for those who deploy with the Supabase CLI.

    Args:
        directory: Usually `supabase/migrations` of the owner's repository; created if missing.

    Returns:
        The paths of all files, written now or there already.

    Raises:
        MigrationDriftError: A file of that name has other content; nothing was written.
    """
    targets = {directory / migration.filename: migration for migration in load()}
    for path, migration in targets.items():
        if path.exists() and not _is_squeezed(migration, _squeeze(path.read_text(encoding="utf-8"))):
            raise MigrationDriftError(f"{path} exists with other content. Migrations are never edited: remove it.")
    directory.mkdir(parents=True, exist_ok=True)
    for path, migration in targets.items():
        if not path.exists():
            path.write_text(migration.sql, encoding="utf-8", newline="\n")
    return list(targets)


def _apply_next(
    conn: Connection, migrations: Sequence[Migration], lock_timeout_seconds: float, *, is_rehearsal: bool = False
) -> Migration | None:
    """Apply the oldest pending migration in one transaction; None: there is none."""
    current: list[Migration] = []
    with _translated(current), nullcontext() if is_rehearsal else _warnings_logged(conn), conn.transaction():
        # A snapshot taken before the lock was granted would not show what the others did.
        conn.execute("set transaction isolation level read committed")
        conn.execute("set local statement_timeout = 0")
        conn.execute("select set_config('lock_timeout', %s, true)", [_WAIT_FOR_OTHERS])
        conn.execute("select pg_advisory_xact_lock(%s)", [_LOCK_KEY])
        conn.execute("select set_config('lock_timeout', %s, true)", [f"{lock_timeout_seconds}s"])
        conn.execute(_OWN_PATH)

        history = _read_history(conn)
        status = _status(conn, history, migrations)
        contradictions = [drift for drift in status.drifted if drift.kind != "schema"]
        if contradictions:
            raise MigrationDriftError("\n".join(map(str, contradictions)))
        _adopt(conn, status, history, migrations)
        if not status.pending:
            return None

        migration = status.pending[0]
        current.append(migration)
        _require_own_objects(conn)
        before = _describe(conn) if history else {}
        conn.execute(_INDEX.sub(_leave_empty, migration.sql) if is_rehearsal else migration.sql)
        expected = _expected_after(_recorded_objects(conn) if history else {}, before, _describe(conn))
        _record(conn, migration, expected)
        return migration


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
    with _translated(), conn.transaction(force_rollback=True):
        conn.execute("set local statement_timeout = 0")
        conn.execute(_OWN_PATH)  # undone at the end
        yield


# -- History ----------------------------------------------------------------------------------------------------------


def _leave_empty(index: re.Match[str]) -> str:
    return f"{index[0]} {'and' if ' where ' in index[0] else 'where'} false"


def _read_history(conn: Connection) -> dict[str, AppliedMigration]:
    with conn.cursor(row_factory=scalar_row) as cursor:
        if cursor.execute("select to_regclass('import_pipeline.schema_migrations')").fetchone() is None:
            return {}
    with conn.cursor(row_factory=tuple_row) as cursor:
        rows = cursor.execute(
            "select version, name, checksum, applied_at from import_pipeline.schema_migrations order by version"
        )
        return {row[0]: AppliedMigration(*row) for row in rows}


def _read_supabase_history(conn: Connection, versions: list[str]) -> dict[str, str]:
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
        return {version: _squeeze(statements or "") for version, statements in rows}


def _status(
    conn: Connection, history: Mapping[str, AppliedMigration], migrations: Sequence[Migration]
) -> MigrationStatus:
    status = _compare_history(conn, history, migrations)
    if history:
        status.drifted.extend(_compare(_recorded_objects(conn), _describe(conn)))
    return status


def _compare_history(
    conn: Connection, history: Mapping[str, AppliedMigration], migrations: Sequence[Migration]
) -> MigrationStatus:
    missing = [migration.version for migration in migrations if migration.version not in history]
    by_cli = _read_supabase_history(conn, missing) if missing else {}
    applied = list(history.values())
    pending: list[Migration] = []
    drifted: list[Drift] = []
    for migration in migrations:
        row = history.get(migration.version)
        if row is not None:
            if row.checksum not in {migration.checksum, *migration.earlier}:
                drifted.append(
                    Drift("edited", migration.filename, "was edited after it was applied; write a new one instead.")
                )
        elif migration.version in by_cli:
            if _is_squeezed(migration, by_cli[migration.version]):
                applied.append(AppliedMigration(migration.version, migration.name, migration.checksum, None))
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


def _adopt(
    conn: Connection,
    status: MigrationStatus,
    history: Mapping[str, AppliedMigration],
    migrations: Sequence[Migration],
) -> None:
    """Take over into our history what the Supabase CLI applied."""
    applied = {row.version for row in status.applied}
    for migration in migrations:
        if migration.version in applied and migration.version not in history:
            _record(conn, migration, _describe(conn))


def _record(conn: Connection, migration: Migration, objects: Mapping[str, str]) -> None:
    conn.execute(
        "insert into import_pipeline.schema_migrations (version, name, checksum, objects) values (%s, %s, %s, %s)",
        [
            migration.version,
            migration.name,
            migration.checksum,
            Jsonb({"server": _server_major(conn), "definitions": dict(objects)}),
        ],
    )


def _squeeze(statements: str) -> str:
    """Return SQL without what a tool that splits it into statements drops or adds."""
    return "".join(character for character in statements if not character.isspace() and character != ";")


def _is_squeezed(migration: Migration, squeezed: str) -> bool:
    """Say whether this is the SQL of a migration, or an earlier text of it, after `_squeeze`."""
    return squeezed == _squeeze(migration.sql) or _checksum(squeezed) in migration.earlier


def _checksum(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


# -- Changes made by hand ---------------------------------------------------------------------------------------------


def _describe(conn: Connection) -> dict[str, str]:
    """Return our objects in the catalogue with their definitions."""
    with conn.transaction(), conn.cursor(row_factory=tuple_row) as cursor:
        [search_path] = cursor.execute("select current_setting('search_path')").fetchone() or [""]
        cursor.execute(_OWN_PATH)
        rows = cursor.execute(query("describe_schema")).fetchall()
        cursor.execute("select set_config('search_path', %s, true)", [search_path])
    return dict(rows)


def _recorded_objects(conn: Connection) -> dict[str, str]:
    """Return the definitions that the newest migration left; empty texts where they cannot be compared."""
    with conn.cursor(row_factory=scalar_row) as cursor:
        recorded = cursor.execute(
            "select objects from import_pipeline.schema_migrations order by applied_at desc, version desc limit 1"
        ).fetchone()
    if not recorded:
        return {}
    definitions: dict[str, str] = recorded["definitions"]
    if recorded["server"] != _server_major(conn):
        # Another major version may spell the same definition otherwise; that it is there can still be seen.
        return dict.fromkeys(definitions, "")
    return definitions


def _compare(expected: Mapping[str, str], actual: Mapping[str, str]) -> list[Drift]:
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


def _expected_after(
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


def _server_major(conn: Connection) -> int:
    return conn.info.server_version // 10000


# -- Errors and warnings ----------------------------------------------------------------------------------------------


@contextmanager
def _translated(current: list[Migration] | None = None) -> Iterator[None]:
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
    lines = [
        f"{where}: {diagnostics.message_primary} (SQLSTATE {error.sqlstate})",
        diagnostics.message_detail,
        hint,
    ]
    return "\n".join(line for line in lines if line)


@contextmanager
def _warnings_logged(conn: Connection) -> Iterator[None]:
    """Log what migrations warn about; their other notices are of no interest."""

    def handle(diagnostics: psycopg.errors.Diagnostic) -> None:
        if diagnostics.severity_nonlocalized == "WARNING":
            logger.warning(" ".join(filter(None, (diagnostics.message_primary, diagnostics.message_hint))))

    conn.add_notice_handler(handle)
    try:
        yield
    finally:
        conn.remove_notice_handler(handle)
