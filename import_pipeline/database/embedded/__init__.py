"""The embedded PostgreSQL: what runs when no `DATABASE_URL` is given.

Here is the face: where everything lies (`home`), and handles on the one server of a home (`open_server`). Processes
share that server; the last one to give its handle back stops it. Beneath: `cluster` (join, start, prove, stop),
`installation` (binaries, system account, new data directory), `locks` (who uses the server), `watchdog` (stops a server
whose users were all killed). Nothing here knows the schema of a database, and nothing imports Dagster.
"""

from __future__ import annotations

import atexit
import os
import sys
import threading
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

import platformdirs

from import_pipeline.errors import ConfigurationError, EmbeddedServerError

if TYPE_CHECKING:
    from import_pipeline.database.embedded.cluster import Cluster

__all__ = ["EmbeddedServer", "home", "open_server"]


def home() -> Path:
    """Return the folder under which everything of this installation lies, created for its owner only if missing.

    Returns:
        `IMPORT_PIPELINE_HOME` with `~` expanded, or the platform's folder for user data; absolute.

    Raises:
        ConfigurationError: The folder is missing and cannot be created.
    """
    chosen = os.environ.get("IMPORT_PIPELINE_HOME", "").strip()
    folder = Path(chosen) if chosen else platformdirs.user_data_path("import-pipeline", appauthor=False)
    try:
        folder = Path(os.path.abspath(folder.expanduser()))
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except (OSError, RuntimeError, ValueError) as error:
        raise ConfigurationError(
            f"The folder {folder} cannot be used: {error}. Set IMPORT_PIPELINE_HOME to a folder you may write to."
        ) from error
    return folder


class EmbeddedServer:
    """A handle of this process on the embedded server of one home; a context manager that gives the handle back.

    A handle carried into a forked child still tells the address there, but giving it back is the parent's business.

    Args:
        cluster: The server, already joined for this handle.
    """

    home: Path

    def __init__(self, cluster: Cluster) -> None:
        self.home = cluster.home
        self._cluster = cluster
        self._owner = os.getpid()
        self._closed = False

    def url(self, database: str = "import_pipeline", *, login: str = "postgres") -> str:
        """Return the address of a database on this server.

        Args:
            database: Its name; `import_pipeline` always exists.
            login: The owner of everything, or a role that was created.

        Returns:
            A `postgresql://` URL over the server's socket, for libpq, psycopg and SQLAlchemy alike.

        Raises:
            EmbeddedServerError: The handle was given back.
        """
        self._require_open()
        return self._cluster.url(database, login)

    def ensure_database(self, name: str) -> None:
        """Create a database if it is missing; any number of processes may ask at the same time.

        Args:
            name: Its name, taken as it is.

        Raises:
            EmbeddedServerError: The handle was given back, or the server refused.
        """
        self._require_open()
        self._cluster.ensure_database(name)

    def ensure_running(self) -> None:
        """Prove with a query that the server answers; if it does not, clear what is left of it and start it again.

        The address stays the same.

        Raises:
            EmbeddedServerError: The handle was given back, or the server cannot be started.
        """
        self._require_open()
        self._cluster.ensure_running()

    def close(self) -> None:
        """Give the handle back; when no process has one left, the server is stopped. A second call does nothing."""
        if self._closed or self._owner != os.getpid():
            return
        with _registry_lock:
            if self._closed:
                return
            self._closed = True
            _leave(self._cluster)

    def _require_open(self) -> None:
        if self._closed:
            raise EmbeddedServerError("This handle on the embedded server was given back; open the server again.")

    def __enter__(self) -> EmbeddedServer:
        """Return the handle itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Give the handle back."""
        self.close()


def open_server(home: Path | None = None) -> EmbeddedServer:
    """Join the embedded server of a home, starting it (and creating its data) if need be.

    Args:
        home: The folder; by default what `home()` says.

    Returns:
        A handle on a server that has just answered a query and has the database `import_pipeline`.

    Raises:
        EmbeddedServerError: It cannot be started here; the message says why and what to do.
    """
    if sys.platform == "win32":
        raise EmbeddedServerError(
            "The embedded PostgreSQL runs on Linux and macOS only. Set DATABASE_URL to a PostgreSQL server, or use WSL."
        )
    from import_pipeline.database.embedded.cluster import (
        Cluster,  # it loads psycopg, which most importers of `home` do not need
    )

    try:
        folder = _default_home() if home is None else Path(home).expanduser()
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder = folder.resolve(strict=True)
    except ConfigurationError as error:
        raise EmbeddedServerError(f"{error} DATABASE_URL names a server of yours instead.") from error
    except (OSError, RuntimeError, ValueError) as error:
        raise EmbeddedServerError(
            f"The folder for the embedded PostgreSQL cannot be used: {error}. Set IMPORT_PIPELINE_HOME to a folder "
            "you may write to, or DATABASE_URL to a server of yours."
        ) from error
    with _registry_lock:
        cluster, handles = _joined.get(folder, (Cluster(folder), 0))
        if handles:
            cluster.ensure_running()
        else:
            cluster.join()
        _joined[folder] = (cluster, handles + 1)
    return EmbeddedServer(cluster)


_default_home = home  # `open_server` has a parameter of that name

_registry_lock = threading.RLock()
_joined: dict[Path, tuple[Cluster, int]] = {}
"""The servers this process uses and how many handles it has on each."""


def _leave(cluster: Cluster) -> None:
    _, handles = _joined.get(cluster.home, (cluster, 0))
    if handles > 1:
        _joined[cluster.home] = (cluster, handles - 1)
    elif handles == 1:
        del _joined[cluster.home]
        cluster.leave()


def _leave_all() -> None:
    with _registry_lock:
        for cluster, _ in list(_joined.values()):
            del _joined[cluster.home]
            cluster.leave()


def _forget_in_child() -> None:
    # The parent goes on using the server and gives it back; a lock that another thread of it held stays locked here.
    global _registry_lock
    _registry_lock = threading.RLock()
    _joined.clear()


atexit.register(_leave_all)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_in_child)
