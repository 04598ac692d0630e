"""`import-pipeline dev`: the UI on this library, for as long as somebody wants it.

Opens the database and the instance, keeps the embedded server and the three services (`services`) running, and ends
everything with this process. Runs that were working go on when it is opened again.
"""

from __future__ import annotations

import fcntl
import os
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

import psutil

from import_pipeline.cli.output import plural, say
from import_pipeline.cli.services import HOST, Services, end, running_services
from import_pipeline.database import Database, open_database
from import_pipeline.embedded import home
from import_pipeline.errors import ConfigurationError, EmbeddedServerError
from import_pipeline.instance import prepare_instance

_LOOK_SECONDS = 0.5
_PROVE_SECONDS = 2.0


def serve(port: int) -> None:
    """Run until interrupted or terminated.

    Raises:
        ConfigurationError: The port is taken.
        ImportPipelineError: Dagster could not be started.
    """
    _require_free(port)
    with _terminated_like_interrupted(), open_database() as database, _alone():
        folder = prepare_instance(database)
        say(f"Starting Dagster with {folder} …")
        try:
            with running_services(port) as services:
                say(f"The UI is at {services.url} — press Ctrl-C to stop.")
                _watch(services, database)
        except KeyboardInterrupt:
            _interrupt_runs(str(folder))
    say("Stopped.")


def _watch(services: Services, database: Database) -> None:
    proved_at = 0.0
    while True:
        if database.server is not None and time.monotonic() - proved_at > _PROVE_SECONDS:
            try:
                database.server.ensure_running()
            except EmbeddedServerError as error:
                say(f"The embedded PostgreSQL does not come back yet: {error}")
            proved_at = time.monotonic()
        services.keep_running()
        time.sleep(_LOOK_SECONDS)


def _interrupt_runs(dagster_home: str) -> None:
    """Interrupt the runs that are working; they go on when the UI is opened again."""
    from import_pipeline.run_launcher import find_workers  # it loads Dagster, which nothing needed before

    workers = find_workers(dagster_home)
    if workers:
        say(f"Interrupting {plural(len(workers), 'run')}, to go on when the UI is opened again …")
        for worker in workers:
            with suppress(psutil.NoSuchProcess):
                worker.send_signal(signal.SIGINT)
        end(workers)


@contextmanager
def _alone() -> Iterator[None]:
    """Hold the home for this process: two daemons on one instance would do everything twice.

    Raises:
        ConfigurationError: Another one is open.
    """
    with (home() / "dev.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise ConfigurationError(
                f"The UI of {home()} is open already, in another terminal; stop it first."
            ) from None
        yield


def _require_free(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            raise ConfigurationError(
                f"Port {port} cannot be used ({os.strerror(error.errno or 0)}); name another one with --port."
            ) from error


@contextmanager
def _terminated_like_interrupted() -> Iterator[None]:
    """Let a service manager's SIGTERM end everything as cleanly as Ctrl-C."""

    def interrupt(_signal: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
