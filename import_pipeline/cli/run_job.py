"""Running the job of a source in this process, with its progress, and what its end means for the exit code.

Progress is read from `sync_jobs`, where every other UI reads it too. What is told of a run is in `run_import.py` and
`backfilling.py`.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID, uuid4

import dagster as dg
import psycopg
from psycopg.rows import dict_row

from import_pipeline.cli.output import say
from import_pipeline.connectors.base import Connector
from import_pipeline.database.opening import Database
from import_pipeline.database.sql import query
from import_pipeline.database.tenancy import acting_as
from import_pipeline.defs.jobs import build_import_job
from import_pipeline.defs.sensors.ended_runs import close_run
from import_pipeline.errors import ConfigurationError, DatabaseUnavailableError, SourceUnavailableError, by_name, passes
from import_pipeline.instance.loading import loading
from import_pipeline.instance.preparing import prepare_instance
from import_pipeline.records import JsonObject
from import_pipeline.stages.postgres import PostgresResource
from import_pipeline.stages.staging import STAGED_FOR, StreamIOManager, remove_old

# By the first tag the UI counts a run among those of the job, on its page and in the timeline. By the second it is
# not tried again by a daemon that happens to be open: the person who ran the command repeats it.
_TAGS = {".dagster/repository": "__repository__@import_pipeline.definitions", "dagster/max_retries": "0"}
_LOOK_SECONDS = 0.25
_LINE_SECONDS = 5.0
_SAME_LINE_SECONDS = 30.0
_INTERRUPTIONS = ("DagsterExecutionInterruptedError", "KeyboardInterrupt")
_UNREACHABLE = ("OperationalError", "AdminShutdown", "CannotConnectNow", "ConnectionTimeout", "PoolTimeout")


@dataclass(frozen=True)
class Ended:
    """How a run ended.

    Attributes:
        run_id: The run.
        success: Whether it is green.
        causes: Class and first line of every error that broke it, outermost first.
    """

    run_id: str
    success: bool
    causes: list[tuple[str, str]] = field(default_factory=list)

    def exit_code(self, error_class: str | None) -> int:
        """Return the exit code, given the class of the problem that an account's listing had, if any."""
        if self.success:
            return 0
        codes = {kind.exit_code for name, _ in self.causes if (kind := by_name(name))}
        if error_class == "auth" or ConfigurationError.exit_code in codes:
            return ConfigurationError.exit_code
        is_unreachable = any(name in _UNREACHABLE for name, _ in self.causes) or passes(error_class)
        return SourceUnavailableError.exit_code if is_unreachable else max(codes, default=1)


class Execution:
    """Runs the job of a connector, once or for one month after the other.

    Args:
        database: Where the recordings go, ready to be worked with.
        connector: The source.
        instance: See `open_instance`.
    """

    def __init__(self, database: Database, connector: Connector, instance: dg.DagsterInstance) -> None:
        self._database = database
        self._instance = instance
        staging = StreamIOManager()
        remove_old(staging.private_base(), STAGED_FOR)  # `clean_up` needs a daemon, which not everybody runs
        postgres = PostgresResource(checks_migrations=False)  # checked when the database was opened
        self._job = build_import_job(connector.for_command(), postgres=postgres, io_manager=staging)

    def run(
        self, config: JsonObject, watched: Sequence[UUID], *, label: str = "Importing", month: str | None = None
    ) -> Ended:
        """Run it.

        Args:
            config: Of the op `connect`.
            watched: The users whose progress is shown.
            label: What the progress is called.
            month: The partition; None means what is new.

        Raises:
            KeyboardInterrupt: The person interrupted it; its rows are closed as cancelled.
            DatabaseUnavailableError: The database that keeps Dagster's runs went away.
        """
        run_id = str(uuid4())
        run_config = {
            "ops": {"connect": {"config": config}},
            # The same events are in the instance; here they would drown the progress.
            "loggers": {"console": {"config": {"log_level": "CRITICAL"}}},
        }
        with _progress(self._database, watched, run_id, label):
            try:
                result = self._job.execute_in_process(
                    run_config,
                    instance=self._instance,
                    partition_key=month,
                    run_id=run_id,
                    raise_on_error=False,
                    tags=_TAGS,
                )
            except (KeyboardInterrupt, dg.DagsterExecutionInterruptedError):
                self._cancel(run_id)
                raise KeyboardInterrupt from None
            except Exception as error:  # what Dagster raises when its storage is gone has no class in common
                self._close_rows(run_id)
                raise DatabaseUnavailableError(
                    f"The run broke off because Dagster could not keep its events ({type(error).__name__}). What was "
                    "imported stays; the same command goes on from there."
                ) from error
        # Dagster reports an interrupt within a step as the step's failure, and one between two steps as the run's.
        failures = [event for event in result.all_events if event.is_step_failure or event.is_run_failure]
        causes = [cause for event in failures for cause in _causes(event)]
        if any(name in _INTERRUPTIONS for name, _ in causes):
            self._cancel(run_id)
            raise KeyboardInterrupt
        if not result.success:  # a step that broke leaves the rows open
            self._close_rows(run_id)
        return Ended(run_id, result.success, causes)

    def _cancel(self, run_id: str) -> None:
        """Close an interrupted run, also for Dagster, which takes an interrupt by anybody but itself for a failure."""
        self._close_rows(run_id, cancelled=True)
        run = self._instance.get_run_by_id(run_id)
        if run is not None and run.status != dg.DagsterRunStatus.CANCELED:
            self._instance.report_run_canceled(run, "Cancelled by Ctrl-C on the command line.")

    def _close_rows(self, run_id: str, *, cancelled: bool = False) -> None:
        """Close the rows of a run that ended early, if the database can be reached; else the next run closes them."""
        with suppress(DatabaseUnavailableError, psycopg.Error):
            if self._database.server is not None:
                self._database.server.ensure_running()
            with self._database.connect() as conn:
                close_run(conn, run_id, cancelled=cancelled)


@contextmanager
def open_instance(database: Database) -> Iterator[dg.DagsterInstance]:
    """Open Dagster's instance.

    Raises:
        ConfigurationError: It cannot be opened as it is set up.
    """
    prepare_instance(database)
    try:
        with loading():  # what its storage needs
            instance = dg.DagsterInstance.get()
    except Exception as error:  # a missing folder, broken YAML, an unreachable storage: whatever its libraries raise
        reason = (str(error).strip().splitlines() or [""])[0]
        if "://" in reason:  # it may quote an address with its password
            reason = type(error).__name__
        raise ConfigurationError(
            f"Dagster's instance in {os.environ.get('DAGSTER_HOME')} cannot be opened: {reason}. "
            "DAGSTER_HOME and IMPORT_PIPELINE_DAGSTER_URL say where it is and where it keeps its runs."
        ) from error
    with instance:
        yield instance


def find_run(conn: psycopg.Connection[Any], user_id: UUID, run_id: str) -> dict[str, Any] | None:
    """Return the `sync_jobs` row of a user's run, or None before it is opened."""
    with acting_as(conn, user_id), conn.cursor(row_factory=dict_row) as cursor:
        return cursor.execute(query("find_run"), {"user_id": user_id, "run_id": run_id}).fetchone()


def _causes(event: Any) -> Iterator[tuple[str, str]]:
    """Yield class and first line of a step's or run's error and of what caused it, outermost first."""
    error = event.event_specific_data.error if event.is_step_failure else event.job_failure_data.error
    while error is not None:
        lines = error.message.strip().splitlines() or [""]
        yield error.cls_name or "", lines[0].partition(": ")[2] or lines[0]
        error = error.cause


@contextmanager
def _progress(database: Database, user_ids: Sequence[UUID], run_id: str, label: str) -> Iterator[None]:
    """Show how far the run is while it works: a bar on a terminal, a line now and then elsewhere."""
    over = threading.Event()

    def watch() -> None:
        has_terminal = sys.stderr.isatty()
        if not has_terminal and over.wait(_LINE_SECONDS):
            return  # there is nothing to tell of a short run
        looks = _look(database, user_ids, run_id, over)
        (_watch_with_bar if has_terminal else _watch_with_lines)(looks, label)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        over.set()
        watcher.join(timeout=5)


def _look(
    database: Database, user_ids: Sequence[UUID], run_id: str, over: threading.Event
) -> Iterator[tuple[int, int]]:
    """Yield how many items are done and how many are listed, of all users together."""
    try:
        with database.connect() as conn:
            is_over, pause = False, _LOOK_SECONDS
            while not is_over:
                is_over = over.wait(pause)
                began_at = time.monotonic()
                rows = [row for user_id in user_ids if (row := find_run(conn, user_id, run_id))]
                if rows:
                    yield _sum(rows, "progress_current"), _sum(rows, "progress_total")
                # Each user is asked for apart, and many of them must not keep the database busy.
                pause = max(_LOOK_SECONDS, 20 * (time.monotonic() - began_at))
    except (psycopg.Error, DatabaseUnavailableError):
        return  # the run itself will say what is wrong with the database


def _sum(rows: Iterable[dict[str, Any]], name: str) -> int:
    return sum(row[name] or 0 for row in rows)


def _watch_with_bar(looks: Iterator[tuple[int, int]], label: str) -> None:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task(label, total=None)
        for current, total in looks:
            progress.update(task, completed=current, total=total or None)


def _watch_with_lines(looks: Iterator[tuple[int, int]], label: str) -> None:
    prefix = "" if label == "Importing" else f"{label}: "
    said_at, said = time.monotonic() - _LINE_SECONDS, ""
    for current, total in looks:
        line = f"{current} of {total} done" if total else "Still listing …"
        # A provider's limit may hold a batch up for minutes; saying so once in a while is enough.
        if time.monotonic() - said_at >= (_LINE_SECONDS if line != said else _SAME_LINE_SECONDS):
            said_at, said = time.monotonic(), line
            say(prefix + line)
