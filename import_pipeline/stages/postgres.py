"""The Dagster resource that provides dedup and insert to the ops.

It lends pooled connections and delegates to the functions of the same names; there is no logic of its own here.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any
from uuid import UUID

import dagster as dg
import psycopg
from psycopg_pool import ConnectionPool, PoolTimeout
from pydantic import PrivateAttr

from import_pipeline import pipeline
from import_pipeline.database.connections import BoundedConnection, connection_settings
from import_pipeline.database.errors import describe_database_error, is_trouble
from import_pipeline.database.opening import Database, database_url, open_database
from import_pipeline.errors import DatabaseUnavailableError
from import_pipeline.records import ConnectorRecord, DuplicateCheck, InsertResult, PipelineResult

_POOL_SIZE = 4
_POOL_TIMEOUT_SECONDS = 30.0


class PostgresResource(dg.ConfigurableResource):  # type: ignore[type-arg]
    """Lends connections to the database and does dedup and insert on them.

    Args:
        url: Address of the server. Empty means `DATABASE_URL` at the time of the run or, without it, the embedded
            server. An address with a password belongs in the environment (`dg.EnvVar`), never in run config.
        checks_migrations: Whether a run begins by looking whether the database is migrated; false where its process
            has just done so.
    """

    url: str = ""
    checks_migrations: bool = True
    _database: Database | None = PrivateAttr(default=None)
    _pool: ConnectionPool[BoundedConnection] | None = PrivateAttr(default=None)
    _is_migrated: bool = PrivateAttr(default=False)
    _is_gone: bool = PrivateAttr(default=False)

    @contextmanager
    def yield_for_execution(self, context: dg.InitResourceContext) -> Iterator[PostgresResource]:
        """Keep the database and a small pool open for one run."""
        with (
            Database(self.url or database_url()) as database,
            ConnectionPool(
                database.url,
                connection_class=BoundedConnection,
                kwargs=connection_settings(),
                min_size=0,
                max_size=_POOL_SIZE,
                timeout=_POOL_TIMEOUT_SECONDS,
                check=BoundedConnection.require_alive,
                open=True,
            ) as pool,
        ):
            self._database, self._pool = database, pool
            try:
                yield self
            finally:
                self._database = self._pool = None
                self._is_migrated = self._is_gone = False

    @property
    def is_embedded(self) -> bool:
        """Whether the database is the embedded one."""
        return not (self.url or database_url())

    @contextmanager
    def connection(self) -> Iterator[psycopg.Connection[Any]]:
        """Lend a connection in autocommit mode; outside of a run, open one.

        Raises:
            DatabaseUnavailableError: The database cannot be reached, or got into trouble while it was asked.
            PendingMigrationsError: It is not migrated.
        """
        if self._database is not None and self.checks_migrations and not self._is_migrated:
            self._database.require_migrated()
            self._is_migrated = True
        if self._pool is None:
            with open_database(self.url or None) as database, database.connect() as conn:
                yield conn
            return
        if self._is_gone:  # one wait is enough: else every batch of a long run would wait, one after the other
            raise DatabaseUnavailableError("The database went away during this run.")
        try:
            with self._pool.connection() as conn:
                yield conn
        except PoolTimeout as error:
            self._is_gone = True
            self._explain_absence()
            raise DatabaseUnavailableError(
                f"The database gave no connection within {_POOL_TIMEOUT_SECONDS:.0f} s."
            ) from error
        except psycopg.Error as error:
            # In words of ours and not chained: Dagster keeps all of it, and the server's words may quote rows.
            told = describe_database_error(error)
            if is_trouble(error):
                raise DatabaseUnavailableError(f"The database failed: {told}.") from None
            raise type(error)(told) from None

    @contextmanager
    def connection_as_owner(self) -> Iterator[psycopg.Connection[Any]]:
        """Open a connection of the owner's, to a database that may lack migrations: for what the importer may not."""
        with ExitStack() as stack:
            database = self._database or stack.enter_context(Database(self.url or database_url()))
            yield stack.enter_context(database.connect_as_owner())

    def _explain_absence(self) -> None:
        """Raise why no connection can be opened, which the pool keeps to itself, if one still cannot be."""
        if self._database is not None:
            self._database.connect().close()

    def check_duplicate(self, user_id: UUID, source_app: str, external_id: str) -> DuplicateCheck:
        """See `pipeline.check_duplicate`."""
        with self.connection() as conn:
            return pipeline.check_duplicate(conn, user_id, source_app, external_id)

    def check_duplicates(
        self, user_id: UUID, source_app: str, external_ids: Iterable[str]
    ) -> dict[str, DuplicateCheck]:
        """See `pipeline.check_duplicates`."""
        with self.connection() as conn:
            return pipeline.check_duplicates(conn, user_id, source_app, external_ids)

    def insert_recording(self, user_id: UUID, record: ConnectorRecord) -> UUID:
        """See `pipeline.insert_recording`."""
        with self.connection() as conn:
            return pipeline.insert_recording(conn, user_id, record)

    def insert_recordings(self, user_id: UUID, records: Sequence[ConnectorRecord]) -> list[InsertResult]:
        """See `pipeline.insert_recordings`."""
        with self.connection() as conn:
            return pipeline.insert_recordings(conn, user_id, records)

    def run_pipeline(self, user_id: UUID, record: ConnectorRecord) -> PipelineResult:
        """See `pipeline.run_pipeline`."""
        with self.connection() as conn:
            return pipeline.run_pipeline(conn, user_id, record)
