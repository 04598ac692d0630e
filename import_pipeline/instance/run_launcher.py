"""Every run of `import-pipeline dev` is a process of its own, which anybody on this machine finds again by its run.

Dagster's default launcher leaves runs to the code server, which knows only the processes that it started itself, and
stops looking after them when the database was away for a moment; then a killed run keeps showing as working. Here a
process carries its run in its command line, so anybody finds it or knows that it is gone, also after the daemon or
everything else was killed. Dagster's run monitoring asks, and resumes a run whose process is gone in a new one:
the same run goes through its stages again, and what it had imported is passed over.

Not here: commands that run a job in their own process; `defs/sensors/ended_runs.py` looks after those.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any

import dagster as dg
import psutil
from dagster._core.launcher import CheckRunHealthResult, LaunchRunContext, ResumeRunContext, RunLauncher, WorkerStatus
from dagster._grpc.types import ExecuteRunArgs, ResumeRunArgs
from dagster._serdes import ConfigurableClass, serialize_value
from dagster._serdes.config_class import ConfigurableClassData

_COMMANDS = (["api", "execute_run"], ["api", "resume_run"])


class ProcessRunLauncher(RunLauncher[dg.DagsterInstance], ConfigurableClass):
    """Launches runs as processes on this machine, tells whether they live, resumes and interrupts them."""

    def __init__(self, inst_data: ConfigurableClassData | None = None) -> None:
        self._inst_data = inst_data
        self._started: list[subprocess.Popen[bytes]] = []
        super().__init__()  # type: ignore[no-untyped-call]

    @property
    def inst_data(self) -> ConfigurableClassData | None:
        """What Dagster was configured with."""
        return self._inst_data

    @classmethod
    def config_type(cls) -> dict[str, Any]:
        """Nothing can be configured."""
        return {}

    @classmethod
    def from_config_value(cls, inst_data: ConfigurableClassData, config_value: Mapping[str, Any]) -> ProcessRunLauncher:
        """Make one as Dagster does from `dagster.yaml`."""
        return cls(inst_data=inst_data)

    def launch_run(self, context: LaunchRunContext) -> None:
        """Start the process of a run."""
        origin = context.job_code_origin
        if origin is None:
            raise dg.DagsterInvariantViolationError("The run does not say where its code is.")
        self._start("execute_run", ExecuteRunArgs(origin, context.dagster_run.run_id, None))

    @property
    def supports_resume_run(self) -> bool:
        """A run may be gone through again, because what it has imported is passed over."""
        return True

    def resume_run(self, context: ResumeRunContext) -> None:
        """Start another process for a run whose process is gone."""
        origin = context.job_code_origin
        if origin is None:
            raise dg.DagsterInvariantViolationError("The run does not say where its code is.")
        self._start("resume_run", ResumeRunArgs(origin, context.dagster_run.run_id, None))

    @property
    def supports_check_run_worker_health(self) -> bool:
        """Whether a run lives can be told."""
        return True

    def check_run_worker_health(self, run: dg.DagsterRun) -> CheckRunHealthResult:
        """Say whether the process of a run lives; of one that a command runs itself, nothing is known here."""
        self._reap()
        if run.job_code_origin is None or find_worker(run.run_id) is not None:
            return CheckRunHealthResult(WorkerStatus.RUNNING)
        return CheckRunHealthResult(WorkerStatus.NOT_FOUND, "its process is gone")

    def terminate(self, run_id: str) -> bool:
        """Interrupt a run as Ctrl-C does; what it has imported stays.

        Returns:
            Whether it has ended or will.
        """
        run = self._instance.get_run_by_id(run_id)
        if run is None or run.is_finished:
            return False
        self._instance.report_run_canceling(run)
        worker = find_worker(run_id)
        if worker is not None:
            with suppress(psutil.NoSuchProcess):
                worker.send_signal(signal.SIGINT)
            return True
        if run.job_code_origin is None:  # a command runs it in its own process
            return False
        self._instance.report_run_canceled(run, message="The process of this run had ended before.")
        return True

    def _start(self, command: str, arguments: ExecuteRunArgs | ResumeRunArgs) -> None:
        self._reap()
        # A session of its own: it outlives this process. The instance is known from the environment; on the command
        # line, where every user of the machine can read, its settings do not belong.
        program = [sys.executable, "-W", "ignore", "-m", "import_pipeline.instance.run_process"]
        self._started.append(
            subprocess.Popen(  # noqa: S603 - our own interpreter
                [*program, "api", command, serialize_value(arguments)],
                start_new_session=True,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
            )
        )

    def _reap(self) -> None:
        """Let go of processes that have ended, which otherwise stay in the system's table."""
        self._started = [process for process in self._started if process.poll() is None]


def find_worker(run_id: str) -> psutil.Process | None:
    """Return the process of a run on this machine, or None if there is none."""
    return next((worker for worker, arguments in _workers() if f'"{run_id}"' in arguments), None)


def find_workers(dagster_home: str) -> list[psutil.Process]:
    """Return the processes of all runs of an instance on this machine."""
    found = []
    for worker, _ in _workers():
        with suppress(psutil.Error):
            if os.path.abspath(worker.environ().get("DAGSTER_HOME", "")) == os.path.abspath(dagster_home):
                found.append(worker)
    return found


def _workers() -> Iterator[tuple[psutil.Process, str]]:
    for process in psutil.process_iter(["cmdline"]):
        command = process.info["cmdline"] or []  # of a process that has ended but was not reaped it is empty
        if command[-3:-1] in _COMMANDS:
            yield process, command[-1]
