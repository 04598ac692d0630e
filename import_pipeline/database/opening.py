"""Which database is ours: the one `DATABASE_URL` names, or the embedded server.

Opening, connecting and the question whether it is migrated; no queries about calls, no Dagster.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from types import TracebackType

import psycopg
from psycopg.conninfo import conninfo_to_dict

from import_pipeline.database import migrations
from import_pipeline.database.connections import BoundedConnection, connection_settings
from import_pipeline.database.embedded import EmbeddedServer, open_server
from import_pipeline.errors import ConfigurationError, DatabaseUnavailableError, PendingMigrationsError

LOGIN_ROLE = "import_login"
"""The importer's login, which can do nothing but become `import_worker`; see `sql/migrations/`."""
OWNER_URL = "IMPORT_PIPELINE_MIGRATION_URL"
_NO_ADDRESS = "{} is not the address of a PostgreSQL; it looks like postgresql://user@host:5432/database."
_HISTORY_READABLE = """
select has_table_privilege(pg_class.oid, 'select')
from pg_catalog.pg_class
join pg_catalog.pg_namespace on pg_namespace.oid = relnamespace
where nspname = 'import_pipeline' and relname = 'schema_migrations'
"""


class Database(AbstractContextManager["Database"]):
    """A handle on the database; as long as it is open, an embedded server keeps running.

    It has two addresses. With the one of the importer's login everything is imported and read; only what takes the
    owner's rights, as migrating, merging, erasing and creating users, is done with the owner's.

    Args:
        url: Address of the server, or None for the embedded one, which is started and migrated.

    Attributes:
        url: The importer's address.
        owner_url: The owner's: on a server of the owner's what `IMPORT_PIPELINE_MIGRATION_URL` names, or the same.
    """

    def __init__(self, url: str | None = None) -> None:
        self.server: EmbeddedServer | None = None
        if url is None:
            self.server = open_server()
            self.url, self.owner_url = self.server.url(login=LOGIN_ROLE), self.server.url()
        else:
            self.url, self.owner_url = url, url
            if url == os.environ.get("DATABASE_URL"):
                self.owner_url = _address(OWNER_URL) or url

    @property
    def is_embedded(self) -> bool:
        """Whether the server is ours."""
        return self.server is not None

    def connect(self) -> BoundedConnection:
        """Open a connection of the importer's, in autocommit mode, without prepared statements or session state.

        Raises:
            DatabaseUnavailableError: Nobody answers at the address, or it refuses the login.
        """
        return _connect(self.url, "DATABASE_URL")

    def connect_as_owner(self) -> BoundedConnection:
        """Open a connection of the owner's; otherwise like `connect`."""
        return _connect(self.owner_url, "DATABASE_URL" if self.owner_url == self.url else OWNER_URL)

    def require_migrated(self) -> None:
        """Bring the embedded database up to date; refuse to work on any other that is not.

        Raises:
            PendingMigrationsError: A database of the owner's lacks migrations; only the owner decides when they run.
            MigrationError: The embedded one could not be migrated.
        """
        with self.connect_as_owner() if self.is_embedded else self.connect() as conn:
            # A login that is only a member of import_worker may not read the history: it imports, others migrate.
            readable = conn.execute(_HISTORY_READABLE).fetchone()
            if not self.is_embedded and readable is not None and not readable[0]:
                return
            pending = migrations.find_pending(conn)
            if not pending:
                return
            if self.is_embedded:
                migrations.apply(conn)
                return
        raise PendingMigrationsError(
            f"The database lacks {len(pending)} migrations of this version; run `import-pipeline migrate`."
        )

    def close(self) -> None:
        """Give the handle back; the last one stops an embedded server."""
        if self.server is not None:
            self.server.close()
            self.server = None

    def __exit__(
        self, exc_type: type[BaseException] | None, exc_value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Close it."""
        self.close()


@contextmanager
def open_database(url: str | None = None) -> Iterator[Database]:
    """Open the database of `DATABASE_URL` (or `url`), or the embedded one, ready to be worked with.

    Raises:
        DatabaseUnavailableError: It could not be reached or started.
        MigrationError: It is not migrated.
    """
    with Database(url or database_url()) as database:
        database.require_migrated()
        yield database


def database_url() -> str | None:
    """Return the address the environment names; None means the embedded server.

    Raises:
        ConfigurationError: It is not the address of a PostgreSQL.
    """
    return _address("DATABASE_URL")


def _address(variable: str) -> str | None:
    url = os.environ.get(variable) or None
    try:
        conninfo_to_dict(url or "")
    except psycopg.ProgrammingError:
        # The driver's own words quote the address, and with it the password.
        raise ConfigurationError(_NO_ADDRESS.format(variable)) from None
    return url


def _connect(url: str, variable: str) -> BoundedConnection:
    try:
        return BoundedConnection.connect(url, **connection_settings())
    except psycopg.ProgrammingError:
        raise ConfigurationError(_NO_ADDRESS.format(variable)) from None  # the driver quotes it, with its password
    except psycopg.Error as error:
        raise DatabaseUnavailableError(
            f"The database could not be reached: {_first_line(error)}. Check {variable}, that the server runs, "
            "and that it has connections free."
        ) from error


def _first_line(error: psycopg.Error) -> str:
    text = str(error).strip()
    with suppress(IndexError):
        return text.splitlines()[0].rstrip(".")
    return type(error).__name__
