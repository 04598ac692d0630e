"""Running an import from the command line: the Dagster job in this process, its progress, and its outcome.

Progress and outcome are read from `sync_jobs`, where every other UI reads them too.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any
from uuid import UUID, uuid4

import dagster as dg
import psycopg
from psycopg.rows import dict_row

from import_pipeline.cli.output import complain, print_json, print_table, say
from import_pipeline.connectors.base import Connector
from import_pipeline.database import Database
from import_pipeline.errors import (
    ConfigurationError,
    DatabaseUnavailableError,
    SourceUnavailableError,
    UnknownSourceError,
    UnknownUserError,
)
from import_pipeline.instance import prepare_instance
from import_pipeline.jobs import build_import_job
from import_pipeline.ledger import list_failures
from import_pipeline.postgres import PostgresResource
from import_pipeline.records import JsonObject
from import_pipeline.sql import query
from import_pipeline.staging import STAGED_FOR, StreamIOManager, remove_old
from import_pipeline.sync_jobs import settle_broken_run
from import_pipeline.tenancy import acting_as

KINDS = ("listed", "inserted", "skipped", "waiting", "failed", "ignored")
# By this tag the UI counts a run among those of the job, on its page and in the timeline.
_SEEN_BY_THE_UI = {".dagster/repository": "__repository__@import_pipeline.definitions"}
# Whoever ran the command repeats it; a daemon that happens to be open must not.
_NOT_TRIED_AGAIN = {"dagster/max_retries": "0"}
_LOOK_SECONDS = 0.25
_LINE_SECONDS = 5.0
_SAME_LINE_SECONDS = 30.0
_SHOWN_FAILURES = 10
_INTERRUPTIONS = ("DagsterExecutionInterruptedError", "KeyboardInterrupt")
_CONFIGURATION = (ConfigurationError.__name__, UnknownUserError.__name__, UnknownSourceError.__name__)
_UNREACHABLE = (
    DatabaseUnavailableError.__name__,
    SourceUnavailableError.__name__,
    *("OperationalError", "AdminShutdown", "CannotConnectNow", "ConnectionTimeout", "PoolTimeout"),
)


def run_import(
    database: Database,
    connector: Connector,
    user_id: UUID,
    options: JsonObject,
    *,
    as_json: bool,
    full: bool = False,
) -> int:
    """Run the job of a connector for one user and tell what it did.

    Args:
        database: Where the recordings go.
        connector: The source.
        user_id: The user.
        options: See `Connector.check_options`.
        as_json: Print JSON for programs.
        full: List the whole history again.

    Returns:
        The exit code.

    Raises:
        KeyboardInterrupt: The person interrupted it; its rows are settled as cancelled.
        ConfigurationError: Dagster's instance cannot be opened as it is set up.
        DatabaseUnavailableError: The database, or the one that keeps Dagster's runs, went away.
    """
    prepare_instance(database)
    run_id = str(uuid4())
    staging = StreamIOManager()
    remove_old(staging.resolve_base(), STAGED_FOR)  # the nightly `clean_up` needs a daemon, which not everybody runs
    job = build_import_job(connector, postgres=PostgresResource(), io_manager=staging)
    config = {
        "ops": {"connect": {"config": {"users": [str(user_id)], "options": options, "full": full}}},
        # The same events are in the instance; here they would drown the progress.
        "loggers": {"console": {"config": {"log_level": "CRITICAL"}}},
    }
    with _open_instance() as instance, _progress(database, user_id, run_id):
        try:
            result = job.execute_in_process(
                config, instance=instance, run_id=run_id, raise_on_error=False, tags=_SEEN_BY_THE_UI | _NOT_TRIED_AGAIN
            )
        except (KeyboardInterrupt, dg.DagsterExecutionInterruptedError):
            _settle(database, staging, run_id, cancelled=True)
            raise KeyboardInterrupt from None
        except Exception as error:  # what Dagster raises when the storage of its events is gone has no class in common
            _settle(database, staging, run_id)
            raise DatabaseUnavailableError(
                f"The run broke off because Dagster could not keep its events ({type(error).__name__}). What was "
                "imported stays; the same command goes on from there."
            ) from error
    # Dagster reports an interrupt within a step as the step's failure, and one between two steps as the run's.
    failures = [event for event in result.all_events if event.is_step_failure or event.is_run_failure]
    causes = [cause for event in failures for cause in _causes(event)]
    if any(name in _INTERRUPTIONS for name, _ in causes):
        _settle(database, staging, run_id, cancelled=True)
        raise KeyboardInterrupt
    if not result.success:  # a step that broke leaves the rows open
        _settle(database, staging, run_id)
    # A connection of its own: the one from before the run may not have outlived it.
    with database.connect() as conn:
        return _tell(conn, connector, user_id, run_id, result.success, causes, as_json=as_json)


@contextmanager
def _open_instance() -> Iterator[dg.DagsterInstance]:
    try:
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


def _tell(
    conn: psycopg.Connection[Any],
    connector: Connector,
    user_id: UUID,
    run_id: str,
    success: bool,
    causes: list[tuple[str, str]],
    *,
    as_json: bool,
) -> int:
    row = find_run(conn, user_id, run_id) or {}
    counts = {kind: (row.get("counts") or {}).get(kind, 0) for kind in KINDS}
    unreachable = not success and any(name in _UNREACHABLE for name, _ in causes)
    status = row.get("status") or "failed"
    if as_json:
        print_json(counts | {"status": status, "error": row.get("error"), "run_id": run_id})
    elif row:
        _tell_person(conn, connector, user_id, run_id, row, counts)
    if success:
        return 0
    if status != "completed_with_errors":
        complain(row.get("error") or (causes[-1][1] if causes else "The run failed; Dagster's log says why."))
    # A listing that broke off is no failed step, so its class is in the database only.
    error_class = row.get("error_class")
    if error_class == "auth" or any(name in _CONFIGURATION for name, _ in causes):
        return ConfigurationError.exit_code
    return SourceUnavailableError.exit_code if unreachable or error_class in ("rate", "transient") else 1


def _tell_person(
    conn: psycopg.Connection[Any],
    connector: Connector,
    user_id: UUID,
    run_id: str,
    row: dict[str, Any],
    counts: dict[str, int],
) -> None:
    are_files = connector.options_are_personal
    headings = [kind for kind in KINDS if kind != "ignored" or counts[kind]]
    print_table(
        ["Source", *(kind.capitalize() for kind in headings)],
        [(row.get("source_app", ""), *(counts[kind] for kind in headings))],
    )
    if counts["listed"] and counts["skipped"] == counts["listed"]:
        say("Everything is already there.")
    elif not counts["listed"] and row.get("status") == "completed":
        say("Nothing was found to import.")
    if counts["ignored"]:
        why = "deleted in the library before" if are_files else "deleted in the library before, or not to be imported"
        say(f"{counts['ignored']} ignored: {why}. `import-pipeline why {'PATH' if are_files else 'ID'}` tells more.")
    if counts["waiting"]:
        why = (
            "not complete yet. The same command imports them once they are."
            if are_files
            else "the transcript is not there yet; the next sync asks again."
        )
        say(f"{counts['waiting']} waiting: {why}")
    if row.get("warning"):
        say(f"Look at this: {row['warning']}.")
    if row.get("without_vault_entry"):
        say(f"{row['without_vault_entry']} recordings have no vault entry yet; the next run tries again.")
    if counts["failed"]:
        with acting_as(conn, user_id):
            failed = list_failures(conn, user_id, limit=_SHOWN_FAILURES, run_id=run_id)
        say(f"{counts['failed']} failed:")
        for each in failed:
            say(f"  {each['location'] or each['title'] or each['external_id']}: {each['error_message']}")
        more = counts["failed"] - len(failed)
        if more > 0:
            say(f"  … and {more} more; `import-pipeline failures` lists them all.")
        if are_files:
            say("Mend them and run the same command again, or `import-pipeline retry`.")
        else:
            say("What passes by itself is tried again by a later sync; `import-pipeline retry` tries all of it now.")


def find_run(conn: psycopg.Connection[Any], user_id: UUID, run_id: str) -> dict[str, Any] | None:
    """Return the `sync_jobs` row of a user's run, or None before it is opened."""
    with acting_as(conn, user_id), conn.cursor(row_factory=dict_row) as cursor:
        return cursor.execute(query("find_run"), {"user_id": user_id, "run_id": run_id}).fetchone()


def _settle(database: Database, staging: StreamIOManager, run_id: str, *, cancelled: bool = False) -> None:
    """Close the rows of a run that ended early, if the database can be reached; else the next run closes them."""
    accounts = staging.read_accounts(run_id)
    if not accounts:
        return
    with suppress(DatabaseUnavailableError, psycopg.Error):
        if database.server is not None:
            database.server.ensure_running()
        with database.connect() as conn:
            settle_broken_run(conn, accounts, run_id, cancelled=cancelled)


def _causes(event: Any) -> Iterator[tuple[str, str]]:
    """Yield class and first line of a step's or run's error and of what caused it, outermost first."""
    error = event.event_specific_data.error if event.is_step_failure else event.job_failure_data.error
    while error is not None:
        lines = error.message.strip().splitlines() or [""]
        yield error.cls_name or "", lines[0].partition(": ")[2] or lines[0]
        error = error.cause


@contextmanager
def _progress(database: Database, user_id: UUID, run_id: str) -> Iterator[None]:
    """Show how far the run is while it works: a bar on a terminal, a line now and then elsewhere."""
    over = threading.Event()
    watch = _watch_with_bar if sys.stderr.isatty() else _watch_with_lines
    watcher = threading.Thread(target=watch, args=(database, user_id, run_id, over), daemon=True)
    watcher.start()
    try:
        yield
    finally:
        over.set()
        watcher.join(timeout=5)


def _look(database: Database, user_id: UUID, run_id: str, over: threading.Event) -> Iterator[tuple[int, int]]:
    try:
        with database.connect() as conn:
            while not over.wait(_LOOK_SECONDS):
                row = find_run(conn, user_id, run_id)
                if row is not None:
                    yield row["progress_current"] or 0, row["progress_total"] or 0
            row = find_run(conn, user_id, run_id)
            if row is not None:
                yield row["progress_current"] or 0, row["progress_total"] or 0
    except (psycopg.Error, DatabaseUnavailableError):
        return  # the run itself will say what is wrong with the database


def _watch_with_bar(database: Database, user_id: UUID, run_id: str, over: threading.Event) -> None:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task("Importing", total=None)
        for current, total in _look(database, user_id, run_id, over):
            progress.update(task, completed=current, total=total or None)


def _watch_with_lines(database: Database, user_id: UUID, run_id: str, over: threading.Event) -> None:
    said_at, said = time.monotonic(), ""
    for current, total in _look(database, user_id, run_id, over):
        line = f"{current} of {total} done" if total else "Still listing …"
        # A provider's limit may hold a batch up for minutes; saying so once in a while is enough.
        if time.monotonic() - said_at >= (_LINE_SECONDS if line != said else _SAME_LINE_SECONDS):
            said_at, said = time.monotonic(), line
            say(line)
