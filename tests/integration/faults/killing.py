"""Runs of an import in processes of their own that are killed at a numbered point; the product has no hooks for that.

A server process imports everything once and forks a child per run, which opens its connections after the fork. In the
child the interpreter's profiler sees every call and return of the functions of stages 4 and 5 and of what they stand
on; each distinct one is a point, numbered in the order in which the second of three batches comes upon it.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from collections.abc import Callable
from importlib import import_module
from multiprocessing import forkserver
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import FrameType
from typing import Any

import dagster as dg

from import_pipeline.connectors.file_upload import FileUpload
from import_pipeline.defs.jobs import build_import_job
from import_pipeline.stages.postgres import PostgresResource
from import_pipeline.stages.staging import StreamIOManager

EMAIL = "ana@example.com"
_WATCHED = (
    "stages/transform.py",
    "stages/insert.py",
    "stages/new_calls.py",
    "stages/staging.py",
    "pipeline.py",
    "library/ledger.py",
    "library/sync_jobs.py",
)
_PACKAGE = str(Path(import_module("import_pipeline").__file__ or "").parent) + os.sep

with dg.DagsterInstance.ephemeral():
    """What Dagster imports only now is imported before the forks."""


class Tracer:
    """Numbers the points of a run.

    Args:
        kill_at: The number of the point at which this process kills itself; 0 means never.
    """

    def __init__(self, kill_at: int) -> None:
        self._kill_at = kill_at
        self._batches = 0
        self._names: dict[Any, str | None] = {}
        self.points: dict[str, int] = {}

    def begin_with_second_batch(self, transform_items: Callable[..., Any]) -> Callable[..., Any]:
        """Return the function that begins a batch, changed so that with the second one the points begin.

        Before that nothing is traced: to call something at every call of the whole run takes seconds.
        """

        def transform_traced_items(*args: Any, **kwargs: Any) -> Any:
            self._batches += 1
            if self._batches == 2:
                sys.setprofile(self)
            return transform_items(*args, **kwargs)

        return transform_traced_items

    def __call__(self, frame: FrameType, event: str, _: Any) -> None:
        if event not in ("call", "return"):
            return
        code = frame.f_code
        if code not in self._names:
            self._names[code] = self._name(code)
        name = self._names[code]
        if name is None:
            return
        point = f"{event} of {name}"
        if point not in self.points:
            self.points[point] = len(self.points) + 1
            if len(self.points) == self._kill_at:
                os.kill(os.getpid(), signal.SIGKILL)

    def _name(self, code: Any) -> str | None:
        file = code.co_filename.removeprefix(_PACKAGE)
        return (
            f"{file} {code.co_qualname if hasattr(code, 'co_qualname') else code.co_name}" if file in _WATCHED else None
        )


def import_files(url: str, staging: str, folder: str, key: str, batch: int, kill_at: int, result: Any) -> None:
    """Run the import in this process, and send the points it came upon."""
    os.environ["IMPORT_PIPELINE_SECRET_KEY"] = key  # the server that forks is older than that of the test
    fetch = import_module("import_pipeline.stages.fetch")
    fetch.FIRST_BATCH_SIZE = fetch.BATCH_SIZE = batch  # type: ignore[attr-defined]
    files = FileUpload(is_of_command=True)
    job = build_import_job(files, postgres=PostgresResource(url=url), io_manager=StreamIOManager(base=staging))
    config = {"users": [EMAIL], "options": {"paths": [folder]}}
    tracer = Tracer(kill_at)
    transform = import_module("import_pipeline.stages.transform")
    transform.transform_items = tracer.begin_with_second_batch(transform.transform_items)  # type: ignore[attr-defined]
    with dg.DagsterInstance.ephemeral() as instance:
        try:
            done = job.execute_in_process(
                {
                    "ops": {"connect": {"config": config}},
                    "loggers": {"console": {"config": {"log_level": "CRITICAL"}}},
                },
                instance=instance,
                raise_on_error=False,
            )
        finally:
            sys.setprofile(None)
    result.send((done.success, list(tracer.points)))


class Killable:
    """Starts such runs."""

    def __init__(self) -> None:
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload([__name__])
        before = os.environ.get("PYTHONPATH")
        os.environ["PYTHONPATH"] = os.pathsep.join(sys.path)  # by which it finds this module
        try:
            forkserver.ensure_running()
        finally:
            if before is None:
                del os.environ["PYTHONPATH"]
            else:
                os.environ["PYTHONPATH"] = before

    def run(
        self,
        url: str,
        staging: Path,
        folder: Path,
        batch: int,
        *,
        kill_at: int = 0,
        begun: Callable[[BaseProcess], None] = lambda _: None,
    ) -> tuple[int | None, list[str]]:
        """Run it to its end, be it by a signal.

        Returns:
            The exit code, and the points it came upon if it lived to tell.
        """
        receiver, sender = self._context.Pipe(duplex=False)
        key = os.environ["IMPORT_PIPELINE_SECRET_KEY"]
        arguments = (url, str(staging), str(folder), key, batch, kill_at, sender)
        process = self._context.Process(target=import_files, args=arguments, daemon=True)
        process.start()
        sender.close()
        begun(process)
        process.join(timeout=120)
        assert process.exitcode is not None, "the run hangs"
        points: list[str] = []
        if process.exitcode == 0:
            _, points = receiver.recv()
        return process.exitcode, points
