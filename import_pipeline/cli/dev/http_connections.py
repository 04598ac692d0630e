"""How long and how many of the webserver's connections may stay without a session.

uvicorn waits for a request's head for as long as the client likes, and takes connections until the process has no file
left to open, which ends it. Its `limit_concurrency` refuses requests, the operator's too, and no connection.
"""

from __future__ import annotations

import asyncio
import resource

from uvicorn.protocols.http.h11_impl import H11Protocol

from import_pipeline.cli.dev.guard import ROLE

SECONDS = 10.0
"""How long a connection may stay that asks nothing the guard lets through."""
MOST = 500
"""Of more connections the one that has waited longest goes."""
_FILES = 8192


class Connection(H11Protocol):
    """A connection that is closed unless somebody with a role is answered on it, or soon.

    It is uvicorn's `h11` one: the other takes a request's head of any length.
    """

    most = MOST
    seconds = SECONDS

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait; the oldest that waits makes room."""
        super().connection_made(transport)
        self._since = self.loop.time()
        self._timer = self.loop.call_later(self.seconds, self._look)
        if len(self.connections) > self.most:
            waiting = [each for each in self.connections if isinstance(each, Connection) and each._is_waiting]
            min(waiting, key=lambda each: each._since).transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait no longer."""
        self._timer.cancel()
        super().connection_lost(exc)

    def on_response_complete(self) -> None:
        """Wait for the next request."""
        self._since = self.loop.time()
        super().on_response_complete()

    @property
    def _is_served(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete and ROLE in self.cycle.scope

    @property
    def _is_waiting(self) -> bool:
        return not self._is_served and not self.transport.is_closing()

    def _look(self) -> None:
        if self not in self.connections:  # it is a websocket now
            return
        if self._is_served:
            self._since = self.loop.time()
        left = self._since + self.seconds - self.loop.time()
        if left <= 0:
            self.transport.abort()
        else:
            self._timer = self.loop.call_later(left, self._look)


def bounded() -> type[Connection]:
    """Return the class for uvicorn's setting `http`, after this process may open more files, where the system lets it.

    Files are for the database, the code server and pages too, so connections take a quarter of them at most.
    """
    files, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if files != resource.RLIM_INFINITY and files < _FILES:
        files = min(_FILES, most) if most != resource.RLIM_INFINITY else _FILES
        resource.setrlimit(resource.RLIMIT_NOFILE, (files, most))
    Connection.most = MOST if files == resource.RLIM_INFINITY else min(MOST, files // 4)
    return Connection
