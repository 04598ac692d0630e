"""The three processes behind the UI, each kept running: code server, webserver, daemon.

What they need to find each other is made here: a private folder with the socket of the code server, and a workspace
that names it, so that no other user of the machine reaches our code. When one of them ends by itself, or somebody kills
it, it alone is started again; runs are processes of their own (`run_launcher`) and go on. Which database they
use, who may enter, and how long they are wanted belongs to `serving`.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil

from import_pipeline.cli.dev.address import Address
from import_pipeline.cli.output import say
from import_pipeline.errors import ImportPipelineError

LOCATION = "import_pipeline.definitions"
"""What the UI calls our code; the commands tag their runs with it."""

# Dagster's own warnings, such as the advice to use another command, mean nothing to people who run this one.
_PYTHON = (sys.executable, "-W", "ignore", "-m")
_PR_SET_PDEATHSIG = 1
_LOOK_SECONDS = 0.2
_CONNECT_SECONDS = 2.0
_START_SECONDS = 180.0
_STOP_SECONDS = 30.0
_SETTLED_SECONDS = 60.0
"""A service that ran that long is started again at once; one that keeps ending waits longer each time."""
_LONGEST_PAUSE_SECONDS = 30.0


class Service:
    """A process that is started again when it ends.

    Args:
        name: What people call it.
        command: What to run.
        is_ready: Says whether it does its work by now.
        is_well: Says of the process, once it was ready, whether it still can.
        settings: Added to its environment.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        is_ready: Callable[[], bool] = lambda: True,
        is_well: Callable[[psutil.Process], bool] = lambda _: True,
        settings: Mapping[str, str] | None = None,
    ) -> None:
        self.name = name
        self._command = command
        self._settings = settings or {}
        self._is_ready, self._is_well = is_ready, is_well
        self._process: subprocess.Popen[bytes] | None = None
        self._was_ready = False
        self._started_at = self._not_before = self._pause = 0.0

    @property
    def process(self) -> psutil.Process | None:
        """The running process, or None when it has ended."""
        if self._process is None or self._process.poll() is not None:
            return None
        with suppress(psutil.NoSuchProcess):
            return psutil.Process(self._process.pid)
        return None

    def start(self) -> None:
        """Start it, in a session of its own: Ctrl-C in the terminal reaches it through us, once."""
        self._process = subprocess.Popen(  # noqa: S603 - our own interpreter and constant arguments
            self._command,
            env={**os.environ, **self._settings},
            start_new_session=True,
            stdin=subprocess.DEVNULL,
            preexec_fn=_end_with_parent if sys.platform == "linux" else None,
        )
        self._started_at, self._not_before, self._was_ready = time.monotonic(), 0.0, False

    def start_and_wait(self) -> None:
        """Start it and wait until it does its work.

        Raises:
            ImportPipelineError: It ends, or takes too long.
        """
        self.start()
        while not self._is_ready():
            if self.process is None:
                raise ImportPipelineError(f"The {self.name} {self._ending()}; its output above says why.")
            if time.monotonic() - self._started_at > _START_SECONDS:
                raise ImportPipelineError(f"The {self.name} was not ready within {_START_SECONDS:.0f} seconds.")
            time.sleep(_LOOK_SECONDS)

    def keep_running(self) -> None:
        """Start it again if it has ended."""
        process = self.process
        if process is not None:
            self._was_ready = self._was_ready or self._is_ready()
            if not self._was_ready or self._is_well(process):
                return
            end(self.stop())
        now = time.monotonic()
        if not self._not_before:
            keeps_ending = now - self._started_at < _SETTLED_SECONDS
            self._pause = min(2 * self._pause + 1, _LONGEST_PAUSE_SECONDS) if keeps_ending else 0.0
            self._not_before = now + self._pause
            said = "does not work any more" if process is not None else self._ending()
            say(f"The {self.name} {said}. It is started again; runs go on.")
        if now >= self._not_before:
            self.start()

    def stop(self) -> list[psutil.Process]:
        """Ask it to end, as Ctrl-C does.

        Returns:
            It and whatever it has started for itself, for `end`; runs have sessions of their own.
        """
        process = self.process
        if process is None:
            return []
        with suppress(psutil.NoSuchProcess):
            started = process.children(recursive=True)
            process.send_signal(signal.SIGINT)
            return [process, *(child for child in started if _session_of(child) == process.pid)]
        return []

    def _ending(self) -> str:
        code = self._process.returncode if self._process is not None else 0
        return f"was killed by signal {-code}" if code < 0 else f"ended by itself with exit code {code}"


class Services:
    """What makes up the UI.

    Args:
        folder: A private folder with a short path.
        address: Where the webserver listens.
        desk: The folder of `sign_in`.
        everybody: The role of people who did not sign in, if they may enter.
    """

    def __init__(self, folder: Path, address: Address, desk: Path, everybody: str | None) -> None:
        code, workspace = folder / "code.sock", folder / "workspace.yaml"
        # YAML is a superset of JSON.
        server = {"host": "localhost", "socket": str(code), "location_name": LOCATION}
        workspace.write_text(json.dumps({"load_from": [{"grpc_server": server}]}), encoding="utf-8")
        known = ("--workspace", str(workspace))
        place = ("--host", address.host, "--port", str(address.port))
        door = ("--sign-in", str(desk), *(("--everybody", everybody) if everybody else ()))
        quiet = ("--log-level", "error")
        self._code_server = Service(
            "code server",
            [*_PYTHON, "dagster", "code-server", "start", "--socket", str(code), "--module-name", LOCATION, *quiet],
            lambda: _accepts(socket.AF_UNIX, str(code)),
            _has_loaded_code,
            # The process that it starts to load the code listens on a socket of its own, among its temporary files.
            {"TMPDIR": str(folder)},
        )
        self._webserver = Service(
            "webserver",
            [*_PYTHON, "import_pipeline.cli.dev.webserver", *place, *known, *door],
            lambda: _accepts(*address.reached_at),
        )
        self._daemon = Service("daemon", [*_PYTHON, "dagster._daemon", "run", *known, *quiet])

    def start(self) -> None:
        """Start all and wait until the UI answers.

        Raises:
            ImportPipelineError: One of them does not start.
        """
        # Both others would look for the code in vain, and the daemon again only after a minute.
        self._code_server.start_and_wait()
        self._daemon.start()
        self._webserver.start_and_wait()

    def keep_running(self) -> None:
        """Start again what has ended."""
        for service in (self._code_server, self._webserver, self._daemon):
            service.keep_running()

    def stop(self) -> None:
        """End all; the daemon first, so that nothing new begins."""
        end(self._daemon.stop())
        end(self._webserver.stop() + self._code_server.stop())


@contextmanager
def running_services(address: Address, desk: Path, everybody: str | None) -> Iterator[Services]:
    """Run the services, and end them with the context; for what they are told see `Services`.

    Raises:
        ImportPipelineError: One of them does not start.
    """
    # Not in the home: the path of a socket has 107 bytes at most. The folder is open to nobody else.
    with tempfile.TemporaryDirectory(prefix="import-pipeline-", ignore_cleanup_errors=True) as folder:
        services = Services(Path(folder), address, desk, everybody)
        try:
            services.start()
            yield services
        finally:
            services.stop()


def end(processes: Sequence[psutil.Process]) -> None:
    """Wait for the end of processes that were asked to, and kill what has not ended after a while."""
    _, alive = psutil.wait_procs(processes, timeout=_STOP_SECONDS)
    for process in alive:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(alive, timeout=_STOP_SECONDS)


def _end_with_parent() -> None:
    """Ask the kernel to end this process when its parent is killed and cannot do it."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _has_loaded_code(server: psutil.Process) -> bool:
    """Say whether the process that has loaded the code lives; the code server itself only hands on what it is asked."""
    try:
        return any("grpc" in child.cmdline() for child in server.children())
    except psutil.Error:
        return True  # it is ending, which is seen soon enough


def _session_of(process: psutil.Process) -> int | None:
    try:
        return os.getsid(process.pid)
    except ProcessLookupError:
        return None


def _accepts(family: socket.AddressFamily, place: Any) -> bool:
    """Say whether somebody listens there; a webserver does when its application is complete."""
    with socket.socket(family) as client:
        client.settimeout(_CONNECT_SECONDS)
        try:
            client.connect(place)
        except OSError:
            return False
    return True
