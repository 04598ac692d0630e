"""Importing for one person from the command line, and telling what came of it; how it runs is in `run_job.py`."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any
from uuid import UUID

import psycopg

from import_pipeline.cli.output import complain, print_json, print_table, say
from import_pipeline.cli.run_job import Ended, Execution, find_run, open_instance
from import_pipeline.connectors.base import Connector
from import_pipeline.database.opening import Database
from import_pipeline.database.tenancy import acting_as
from import_pipeline.errors import by_name
from import_pipeline.library.ledger import count_run, list_failures
from import_pipeline.records import JsonObject

KINDS = {
    "listed": "Listed", "inserted": "Imported", "skipped": "Already there", "waiting": "Waiting", "failed": "Failed",
    "ignored": "Ignored",
}  # fmt: skip
"""The counts of a run by their keys in JSON, and what people read."""
_SHOWN_FAILURES = 10


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
        KeyboardInterrupt: The person interrupted it; its rows are closed as cancelled.
        ConfigurationError: Dagster's instance cannot be opened as it is set up.
        DatabaseUnavailableError: The database, or the one that keeps Dagster's runs, went away.
    """
    config = {"users": [str(user_id)], "options": options, "full": full}
    with open_instance(database) as instance:
        ended = Execution(database, connector, instance).run(config, [user_id])
    # A connection of its own: the one from before the run may not have outlived it.
    with database.connect() as conn:
        return _tell(conn, connector, user_id, ended, as_json=as_json)


def _tell(
    conn: psycopg.Connection[Any],
    connector: Connector,
    user_id: UUID,
    ended: Ended,
    *,
    as_json: bool,
) -> int:
    row = find_run(conn, user_id, ended.run_id) or _count(conn, connector, user_id, ended)
    counts = {kind: (row.get("counts") or {}).get(kind, 0) for kind in KINDS}
    status = row.get("status") or "failed"
    if as_json:
        print_json(counts | {"status": status, "error": row.get("error"), "run_id": ended.run_id})
    elif row:
        _tell_person(conn, connector, user_id, ended.run_id, row, counts)
    if not ended.success and status != "completed_with_errors":
        complain(_explain(ended, row.get("error")))
    # A listing that broke off is no failed step, so its class is in the database only.
    return ended.exit_code(row.get("error_class"))


def _count(conn: psycopg.Connection[Any], connector: Connector, user_id: UUID, ended: Ended) -> dict[str, Any]:
    """Return what the ledger knows of a run that `sync_jobs` does not show; nothing if it came to nothing."""
    with acting_as(conn, user_id):
        counts = count_run(conn, user_id, connector.source_app, ended.run_id)
    settled = counts.inserted + counts.waiting + counts.failed + counts.ignored
    if not settled and not ended.success:
        return {}
    say("The database refused the row in sync_jobs that shows this run; these counts leave out what was there before.")
    status = "completed" if ended.success else "completed_with_errors" if counts.failed else "failed"
    return {"source_app": connector.source_app, "status": status, "counts": asdict(replace(counts, listed=settled))}


def _explain(ended: Ended, problem: str | None) -> str:
    """Say why a run was not green: what broke it, in our own words if there are any, and what the row says."""
    ours = next((text for name, text in ended.causes if by_name(name)), None)
    if ours is not None:
        return f"{ours} {problem[:1].upper()}{problem[1:]}." if problem else ours
    return problem or (ended.causes[-1][1] if ended.causes else "The run failed; Dagster's log says why.")


def _tell_person(
    conn: psycopg.Connection[Any],
    connector: Connector,
    user_id: UUID,
    run_id: str,
    row: dict[str, Any],
    counts: dict[str, int],
) -> None:
    are_files = not connector.is_polled
    headings = [kind for kind in KINDS if kind != "ignored" or counts[kind]]
    print_table(
        ["Source", *(KINDS[kind] for kind in headings)],
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
