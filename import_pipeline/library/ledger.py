"""The ledger `import_items`: what became of every item, and everything that is said about it.

Progress, failures, retries, completeness and the status of a run are counted from here, by one function each. Only the
`insert` stage writes outcomes. Callers hold a transaction in the name of the owner (`tenancy.acting_as`).
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal
from uuid import UUID

import psycopg
from psycopg.rows import dict_row, tuple_row

from import_pipeline.database.connections import prepares
from import_pipeline.database.sql import columns, query
from import_pipeline.database.tenancy import acting_at_once
from import_pipeline.errors import ErrorClass, InvalidRecordError
from import_pipeline.library.normalise import parse_external_id
from import_pipeline.records import Account, Counts, Failed, Ignored, Known, ListedItem, Outcome, Ready, Waiting

DELETED = "deleted in the library; `import-pipeline retry` with its id imports it again"
"""Why a call is not imported again."""

RunStatus = Literal["completed", "completed_with_errors", "failed"]
_Connection = psycopg.Connection[Any]
_FIRST_PAUSE: dict[ErrorClass, timedelta] = {
    "rate": timedelta(minutes=15),
    "transient": timedelta(minutes=5),
    "auth": timedelta(hours=1),
    "data": timedelta(days=1),
    "permanent": timedelta(days=1),
    "bug": timedelta(days=1),
}
_LONGEST_PAUSE = timedelta(days=30)
_WAITING_PAUSE = timedelta(minutes=5)
_LONGEST_WAITING_PAUSE = timedelta(hours=6)


@dataclass(frozen=True, slots=True)
class LedgerRow:
    """What the ledger knows of one item before this run."""

    status: Literal["imported", "waiting", "failed", "ignored"]
    recording_id: UUID | None
    attempts: int
    first_seen_at: datetime
    retry_at: datetime | None
    error_message: str | None


@dataclass(frozen=True, slots=True)
class Written:
    """An outcome together with what the pipeline functions made of it."""

    outcome: Outcome
    recording_id: UUID | None = None
    vault_error: str | None = None


def judge_run(counts: Counts, problem: str | None) -> RunStatus:
    """Say how a run of one account ended: the only place where that is decided.

    Failed: the account could not be worked on to its end. With errors: it could, but an item it attempted failed. An
    item that merely waits is not a failure.
    """
    if problem is not None:
        return "failed"
    return "completed_with_errors" if counts.failed else "completed"


def ledger_key(external_id: object) -> str:
    """Return the key under which the ledger keeps an external id, whatever a source delivers as one."""
    try:
        return parse_external_id(external_id)
    except InvalidRecordError:
        digest = hashlib.sha256(str(external_id).encode("utf-8", "surrogatepass")).hexdigest()
        return f"sha256:{digest}"


def find_items(conn: _Connection, account: Account, keys: Iterable[str]) -> dict[str, LedgerRow]:
    """Return what the ledger knows of these keys of an account; in the owner's name by itself."""
    parameters = {"user_id": account.user_id, "source_app": account.source_app, "external_ids": list(keys)}
    with conn.cursor(row_factory=tuple_row) as cursor:
        with acting_at_once(conn, account.user_id):
            cursor.execute(query("find_items"), parameters)
        return {key: LedgerRow(*values) for key, *values in cursor}


def record_outcomes(
    conn: _Connection, account: Account, run_id: str, written: Sequence[Written], counted: set[str] | None = None
) -> Counts:
    """Write what became of items and count them by what the ledger says afterwards.

    Doing it twice with the same run changes no count: an item counts as inserted when this run imported it.

    Args:
        conn: In a transaction in the owner's name.
        account: Whose items these are.
        run_id: Root run id.
        written: What became of them.
        counted: Keys that an earlier part of the same batch has counted as inserted, to which this call adds its own;
            a copy of one of them counts as skipped.
    """
    return send_outcomes(conn, account, run_id, written)(set() if counted is None else counted)


def send_outcomes(
    conn: _Connection, account: Account, run_id: str, written: Sequence[Written]
) -> Callable[[set[str]], Counts]:
    """Do what `record_outcomes` does, and return what counts; within `pipeline_of` nothing is waited for."""
    replaced = [
        one.outcome.item.provisional_id
        for one in written
        if isinstance(one.outcome, Ready | Known) and one.outcome.item.provisional_id
    ]
    rows: dict[str, dict[str, Any]] = {}
    for one in written:  # of copies in one batch the first speaks for all, the others count as skipped
        row_values = _ledger_row(account, run_id, one)
        rows.setdefault(row_values["external_id"], row_values)
    rows = dict(sorted(rows.items()))  # always in the same order: two transactions cannot wait for each other
    account_of = {"user_id": account.user_id, "source_app": account.source_app}
    cursor = conn.cursor(row_factory=tuple_row)
    if rows:
        cursor.execute(query("record_outcomes"), columns(list(rows.values())) | account_of, prepare=prepares(conn))
    if replaced:
        conn.execute(query("settle_provisional_items"), account_of | {"run_id": run_id, "provisional_ids": replaced})

    def count(counted: set[str]) -> Counts:
        # No row: it is imported already, and this attempt failed or waits.
        now: dict[str, tuple[str, str | None]] = dict.fromkeys(rows, ("imported", None))
        now |= {key: (status, run) for key, status, run in (cursor if rows else ())}
        statuses = Counter(status for status, _ in now.values())
        inserted = {key for key, (status, run) in now.items() if status == "imported" and run == run_id} - counted
        counted |= inserted
        return Counts(
            inserted=len(inserted),
            skipped=statuses["imported"] - len(inserted) + len(written) - len(rows),
            waiting=statuses["waiting"],
            failed=statuses["failed"],
            ignored=statuses["ignored"],
        )

    return count


def count_run(conn: _Connection, user_id: UUID, source_app: str, run_id: str) -> Counts:
    """Count what a run did for an account, without what it skipped."""
    with conn.cursor(row_factory=tuple_row) as cursor:
        cursor.execute(query("count_run_items"), {"user_id": user_id, "source_app": source_app, "run_id": run_id})
        found: dict[str, int] = dict(cursor.fetchall())
    return Counts(
        inserted=found.get("imported", 0),
        waiting=found.get("waiting", 0),
        failed=found.get("failed", 0),
        ignored=found.get("ignored", 0),
    )


def count_imported_between(conn: _Connection, account: Account, since: datetime | None, until: datetime | None) -> int:
    """Count the imported calls of an account that began within a span; None leaves that end open."""
    with conn.cursor(row_factory=tuple_row) as cursor:
        cursor.execute(
            query("count_imported_between"),
            {"user_id": account.user_id, "source_app": account.source_app, "since": since, "until": until},
        )
        return cursor.fetchone()[0]  # type: ignore[index,no-any-return]


def list_failures(
    conn: _Connection, user_id: UUID, source_app: str | None = None, limit: int = 1000, run_id: str | None = None
) -> list[dict[str, Any]]:
    """Return the failed items of a user, newest first, at most `limit`; with `run_id`, those of one run."""
    return _fetch(conn, "list_failures", user_id=user_id, source_app=source_app, limit=limit, run_id=run_id)


def explain_item(conn: _Connection, user_id: UUID, ids: Sequence[str]) -> list[dict[str, Any]]:
    """Return all the ledger knows of the items with one of these ids or at one of these places."""
    return _fetch(conn, "explain_item", user_id=user_id, ids=list(ids))


def explain_recording(conn: _Connection, user_id: UUID, ids: Sequence[str]) -> list[dict[str, Any]]:
    """Return the user's recordings with one of these external ids, for calls the ledger does not know."""
    return _fetch(conn, "explain_recording", user_id=user_id, ids=list(ids))


def summarise_accounts(conn: _Connection, user_id: UUID) -> list[dict[str, Any]]:
    """Return one row per account of a user: cursor, items by status, how the last run ended."""
    return _fetch(conn, "summarise_accounts", user_id=user_id)


def request_retry(
    conn: _Connection, user_id: UUID, source_app: str | None = None, external_ids: Sequence[str] | None = None
) -> list[dict[str, Any]]:
    """Make failed items due at once; named ones also when they wait, are ignored, or were deleted in the library."""
    return _fetch(
        conn,
        "request_retry",
        user_id=user_id,
        source_app=source_app,
        external_ids=None if external_ids is None else list(external_ids),
    )


def retry_failures(conn: _Connection, user_id: UUID, source_app: str, run_id: str) -> None:
    """Make due at once what failed in one run."""
    conn.execute(query("retry_failures"), {"user_id": user_id, "source_app": source_app, "run_id": run_id})


def count_recordings(conn: _Connection, user_id: UUID) -> dict[str, int]:
    """Return source → number of the user's recordings."""
    with conn.cursor(row_factory=tuple_row) as cursor:
        return dict(cursor.execute(query("count_recordings"), {"user_id": user_id}).fetchall())


def _fetch(conn: _Connection, name: str, **parameters: Any) -> list[dict[str, Any]]:
    with conn.cursor(row_factory=dict_row) as cursor:
        return cursor.execute(query(name), parameters).fetchall()


def _ledger_row(account: Account, run_id: str, written: Written) -> dict[str, Any]:
    outcome = written.outcome
    item: ListedItem = outcome.item
    row: dict[str, Any] = {
        "user_id": account.user_id,
        "source_app": account.source_app,
        "external_id": ledger_key(item.external_id),
        "recording_id": None,
        "title": item.title,
        "location": item.location,
        "started_at": item.started_at,
        "attempts": 1,
        "error_class": None,
        "error_message": None,
        "retry_at": None,
        "http_status": None,
        "request_id": None,
        "run_id": run_id,
    }
    match outcome:
        case Ready() if written.recording_id is not None:
            row |= {
                "status": "imported",
                "recording_id": written.recording_id,
                "title": outcome.record.title,
                "started_at": outcome.record.recording_start_time,
            }
        case Known():
            row |= {"status": "imported", "recording_id": outcome.recording_id, "attempts": 0, "run_id": None}
        case Waiting():
            row |= {"status": "waiting", "error_message": outcome.reason, "retry_at": outcome.retry_at}
        case Failed():
            row |= {
                "status": "failed",
                "error_class": outcome.error_class,
                "error_message": outcome.reason,
                "retry_at": outcome.retry_at,
                "http_status": outcome.http_status,
                "request_id": outcome.request_id,
            }
        case Ignored():
            row |= {"status": "ignored", "error_message": outcome.reason, "attempts": 0}
        case Ready():
            raise ValueError("A record without a recording must be handed over as Failed.")
    if isinstance(outcome, Waiting | Failed):
        row["external_id"] = ledger_key(item.ledger_id)
    if written.vault_error:
        row |= {"error_class": "transient", "error_message": f"{NO_VAULT_ENTRY}: {written.vault_error}"}
    return row


NO_VAULT_ENTRY = "stored without a vault entry"
"""How the ledger's message on an imported item begins when its vault entry is still to be made."""


def next_attempt_at(now: datetime, error_class: ErrorClass, attempts: int) -> datetime:
    """Return when a failed item is tried again: after a pause that doubles with every attempt."""
    return now + min(_FIRST_PAUSE[error_class] * (1 << min(attempts, 16)), _LONGEST_PAUSE)


def next_look_at(now: datetime, attempts: int) -> datetime:
    """Return when to ask again for a transcript that is not there yet: after a pause that grows up to six hours."""
    return now + min(_WAITING_PAUSE * (1 << min(attempts, 16)), _LONGEST_WAITING_PAUSE)
