"""`import-pipeline dev`: Dagster's webserver and daemon on this library, and the database they need.

The two are started and watched by `dagster dev`; here it gets its instance and definitions, and the embedded server is
brought back if somebody kills it. Everything ends with this process.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType

import psutil

from import_pipeline.cli.output import say
from import_pipeline.database import Database, open_database
from import_pipeline.embedded import home
from import_pipeline.errors import ConfigurationError, EmbeddedServerError, ImportPipelineError
from import_pipeline.instance import prepare_instance

HOST = "127.0.0.1"
# Dagster's own warnings, such as the advice to use another command, say nothing to who runs this one.
_DAGSTER_DEV = (sys.executable, "-W", "ignore", "-m", "dagster", "dev", "--log-level", "error")
_PR_SET_PDEATHSIG = 1
_START_SECONDS = 120.0
_STOP_SECONDS = 30.0
_LOOK_SECONDS = 0.5
_PROVE_SECONDS = 5.0


def serve(port: int) -> None:
    """Run until interrupted or terminated.

    Raises:
        ConfigurationError: The port is taken.
        ImportPipelineError: Dagster could not be started or ended by itself.
    """
    _require_free(port)
    with _terminated_like_interrupted(), open_database() as database, _alone():
        folder = prepare_instance(database)
        say(f"Starting Dagster with {folder} …")
        # In a session of its own, so that Ctrl-C in the terminal reaches it through us, once.
        process = subprocess.Popen(  # noqa: S603 - our own interpreter and constant arguments
            [*_DAGSTER_DEV, "--host", HOST, "--port", str(port), *_workspace()],
            start_new_session=True,
            stdin=subprocess.DEVNULL,
            preexec_fn=_end_with_parent if sys.platform == "linux" else None,
        )
        try:
            _announce(process, port)
            _watch(process, database)
        except KeyboardInterrupt:
            say("Stopping …")
        finally:
            _stop(process)
    say("Stopped.")


def _end_with_parent() -> None:
    """Ask the kernel to end this process when its parent is killed and cannot do it."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _workspace() -> list[str]:
    """Return what to load: the checkout's `workspace.yaml`, or the module where there is none, as in a wheel."""
    if Path("workspace.yaml").is_file():
        return ["--workspace", "workspace.yaml"]
    return ["--module-name", "import_pipeline.definitions"]


def _announce(process: subprocess.Popen[bytes], port: int) -> None:
    address = f"http://{HOST}:{port}"
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline:
        _require_alive(process)
        try:
            with urllib.request.urlopen(f"{address}/server_info", timeout=2):  # noqa: S310 - our own address
                say(f"The UI is at {address} — press Ctrl-C to stop.")
                return
        except (urllib.error.URLError, OSError):
            time.sleep(_LOOK_SECONDS)
    raise ImportPipelineError(f"Dagster did not answer at {address} within {_START_SECONDS:.0f} s.")


def _watch(process: subprocess.Popen[bytes], database: Database) -> None:
    proved_at = time.monotonic()
    while True:
        _require_alive(process)
        if database.server is not None and time.monotonic() - proved_at > _PROVE_SECONDS:
            try:
                database.server.ensure_running()
            except EmbeddedServerError as error:
                say(f"The embedded PostgreSQL does not come back yet: {error}")
            proved_at = time.monotonic()
        time.sleep(_LOOK_SECONDS)


def _require_alive(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is not None:
        raise ImportPipelineError(f"Dagster ended by itself with exit code {process.returncode}; its output says why.")


def _stop(process: subprocess.Popen[bytes]) -> None:
    """End Dagster as Ctrl-C does and, after a while, whatever of it is left."""
    with suppress(psutil.NoSuchProcess):
        family = psutil.Process(process.pid).children(recursive=True)
        with suppress(ProcessLookupError):
            process.send_signal(signal.SIGINT)
        try:
            process.wait(timeout=_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
        _, alive = psutil.wait_procs(family, timeout=_STOP_SECONDS)
        for child in alive:
            with suppress(psutil.NoSuchProcess):
                child.kill()


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
