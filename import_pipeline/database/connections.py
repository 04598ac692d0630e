"""How a connection to PostgreSQL is opened, and how long it waits for an answer.

A server that is gone is noticed by the operating system within a minute. One that is there and says nothing, a pooler
that was stopped for instance, is given up after `LONGEST_STATEMENT_SECONDS`, so that no run hangs. Which
database it is, and lending connections, is in `opening.py` and `stages/postgres.py`.
"""

from __future__ import annotations

import os
import selectors
import socket
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, TypeVar

import psycopg
from psycopg.pq.abc import PGconn
from psycopg.waiting import Ready, Wait

from import_pipeline.database.sql import query

CONNECT_TIMEOUT_SECONDS = 15
LONGEST_STATEMENT_SECONDS = 300.0
"""How long the importer waits for a statement."""
LONGEST_LOCK_SECONDS = 60.0
"""How long the importer waits for a lock that somebody else holds."""
IDLE_IN_TRANSACTION_SECONDS = 120
"""How long the server lets a transaction of ours wait for us: one whose importer is cut off would keep its locks, and
with them the ids of its calls from the next run."""

_ONLY_ON_REQUEST = 1 << 62
_GONE_SECONDS = 60
_TRUSTED_SECONDS = 5.0

T = TypeVar("T")
Connect = Callable[[], AbstractContextManager[psycopg.Connection[Any]]]


class SilentServerError(psycopg.OperationalError):
    """The server is there and has not answered in time."""


class BoundedConnection(psycopg.Connection[Any]):
    """A connection that gives up a statement which is not over in time, and with it itself.

    Attributes:
        longest_statement_seconds: None means no limit.
    """

    longest_statement_seconds: float | None = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.longest_statement_seconds = LONGEST_STATEMENT_SECONDS
        self._answered_at = time.monotonic()

    def require_alive(self) -> None:
        """Prove that the server still answers, with a question only where that is in doubt.

        A run borrows a connection dozens of times, and each question is a round trip. None is needed if the server
        answered just now and the socket has nothing to read: a closed connection would show as readable.

        Raises:
            psycopg.OperationalError: It does not.
        """
        with selectors.DefaultSelector() as selector:
            selector.register(self.fileno(), selectors.EVENT_READ)
            has_said_something = bool(selector.select(timeout=0))
        if has_said_something or time.monotonic() - self._answered_at > _TRUSTED_SECONDS:
            self.execute("")

    def prepare_if_alone(self, backend_pid: int, client_port: int | None) -> None:
        """Have statements prepared that ask for it, if nobody stands between the server and us.

        A pooler gives each transaction another session of the server, which would not know them. It shows in that the
        server speaks of another client than we are, or we of another session. Only writing asks for it: a question
        that is prepared fails once after the type of a column was changed.

        Args:
            backend_pid: The server's process, by its own word.
            client_port: The port of its client; None if it is a socket in the file system.
        """
        with socket.socket(fileno=os.dup(self.fileno())) as ours:
            port = None if ours.family == socket.AF_UNIX else ours.getsockname()[1]
        if backend_pid == self.info.backend_pid and client_port == port:
            self.prepare_threshold = _ONLY_ON_REQUEST

    def wait(self, gen: Generator[Any, Any, T], *args: Any, **kwargs: Any) -> T:
        """Consume a generator of the driver's, which it wakes ten times a second while nothing comes.

        Raises:
            SilentServerError: The time is over; the connection is closed.
        """
        if self.longest_statement_seconds is not None:
            gen = self._bounded(gen, self.longest_statement_seconds)
        result = super().wait(gen, *args, **kwargs)
        self._answered_at = time.monotonic()
        return result

    def _bounded(self, gen: Generator[Any, Any, T], seconds: float) -> Generator[Any, Any, T]:
        ends_at = time.monotonic() + seconds
        try:
            awaited = next(gen)
            while True:
                ready = yield awaited
                if time.monotonic() > ends_at:
                    self.pgconn.finish()
                    raise SilentServerError(f"it has not answered for {seconds:g} seconds")
                awaited = gen.send(ready)
        except StopIteration as end:
            result: T = end.value
            return result


@contextmanager
def pipeline_of(conn: psycopg.Connection[Any]) -> Iterator[psycopg.Pipeline]:
    """Do what `conn.pipeline()` does, but for what it makes of errors and interrupts.

    An error in the block is raised when the pipeline is left; the driver would log what it did to the statements behind
    it. What interrupts the wait for the end is raised as it is, and the connection closed, instead of the complaint
    that the pipeline cannot be left.
    """
    first: psycopg.Error | None = None
    try:
        with conn.pipeline() as pending:
            try:
                yield pending
            except psycopg.Error as error:
                first = error
    except psycopg.Error as error:
        interrupt = error.__context__
        if isinstance(interrupt, BaseException) and not isinstance(interrupt, Exception):
            conn.close()
            raise interrupt from None
        if first is None:
            raise
    if first is not None:
        raise first


def sync(conn: psycopg.Connection[Any], pending: psycopg.Pipeline | None) -> None:
    """Wait for the answers to all that was executed within `pipeline_of`.

    The end of the block waits as well, but with a message after which the server's timeout for idle transactions does
    not apply. `Pipeline.sync` alone does not send the rest of a large statement, for which the server waits.
    """
    if pending is not None:
        conn.wait(_send(conn.pgconn))
        pending.sync()


def _send(connection: PGconn) -> Generator[Wait, Ready | int, None]:
    while connection.flush():
        if (yield Wait.RW) & Ready.R:
            connection.consume_input()


def prepares(conn: psycopg.Connection[Any]) -> bool | None:
    """Return what to give as `prepare` to have a statement prepared where `prepare_if_alone` found that it may be.

    Of connections that others opened the driver decides: whether there is a pooler is not known.
    """
    return True if isinstance(conn, BoundedConnection) else None


@contextmanager
def without_limit(conn: psycopg.Connection[Any]) -> Iterator[None]:
    """Let statements take as long as they take: migrations and repairs of a large library."""
    if not isinstance(conn, BoundedConnection):
        yield
        return
    limit, conn.longest_statement_seconds = conn.longest_statement_seconds, None
    try:
        yield
    finally:
        conn.longest_statement_seconds = limit


def set_locally(conn: psycopg.Connection[Any], **settings: str) -> None:
    """Change settings of the session until the end of the transaction."""
    conn.execute(query("set_locally"), {"names": list(settings), "values": list(settings.values())})


def connection_settings() -> dict[str, Any]:
    """Return what every connection of ours is opened with.

    Nothing is prepared until it is known that there is no pooler (`BoundedConnection.prepare_if_alone`).
    """
    return {
        "autocommit": True,
        "prepare_threshold": None,
        "connect_timeout": CONNECT_TIMEOUT_SECONDS,
        "application_name": "import-pipeline",
        "client_encoding": "UTF8",
        # A server or network that is gone is noticed, also where no answer is due and while a long statement runs.
        "keepalives": 1,
        "keepalives_idle": _GONE_SECONDS // 2,
        "keepalives_interval": _GONE_SECONDS // 6,
        "keepalives_count": 3,
        "tcp_user_timeout": _GONE_SECONDS * 1000,
    }
