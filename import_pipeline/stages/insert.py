"""Stage 5, insert: recordings, vault entries and ledger rows, in one transaction per bounded chunk.

The only stage that writes the ledger. A bad record becomes a failure of its own, and so does one that a trigger or
constraint of the owner's refuses, whatever it raises; a lost connection fails the batch, of which nothing uncommitted
remains, and a repetition finds what was committed and counts it the same way.
"""

import logging
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from datetime import datetime
from typing import Any

import dagster as dg
import psycopg

from import_pipeline.database.errors import classify, describe_database_error, explain_refusal, is_about_every_row
from import_pipeline.database.sql import query
from import_pipeline.database.tenancy import acting_as
from import_pipeline.errors import AccountLockedError
from import_pipeline.library.destinations import Destinations
from import_pipeline.library.leases import LeaseKeeper
from import_pipeline.library.ledger import Written, next_attempt_at, record_outcomes
from import_pipeline.library.sync_jobs import progress_of
from import_pipeline.pipeline import add_missing_vault_entries, write_recordings
from import_pipeline.records import Account, BatchSummary, Counts, Failed, InsertResult, Known, Outcome, Ready, Stream
from import_pipeline.stages.chunk import CHUNK_TABLES, advance, hold_account
from import_pipeline.stages.new_calls import write_new
from import_pipeline.stages.postgres import PostgresResource
from import_pipeline.stages.run import Outcomes, lineage, root_run_id
from import_pipeline.stages.staging import StreamIOManager

_logger = logging.getLogger(__name__)

CHUNK_ROWS = 250
CHUNK_CHARACTERS = 8_000_000
_ATTEMPTS = 3
_TRY_AGAIN = (psycopg.errors.DeadlockDetected, psycopg.errors.SerializationFailure, AccountLockedError)


@dg.op(
    ins={"batch": dg.In(Outcomes)},
    out=dg.Out(BatchSummary),
    tags={"dagster/priority": "3"},
    description="Writes recordings, vault entries and the ledger, each chunk in one transaction.",
)
def insert(
    context: dg.OpExecutionContext,
    batch: Stream[Outcome],
    postgres: PostgresResource,
    leases: dg.ResourceParam[LeaseKeeper],
    io_manager: dg.ResourceParam[StreamIOManager],
) -> BatchSummary:
    """Return what became of the batch, counted from the ledger."""
    account, run_id = batch.batch.account, root_run_id(context)
    counts, without_vault_entry, problem = batch.batch.counts, 0, None
    with closing(leases.hold(account.id, batch.items)) as outcomes:
        counted: set[str] = set()
        for chunk in cut_chunks(outcomes):
            with postgres.connection() as conn:
                try:
                    written, unvaulted = write_outcomes(conn, account, run_id, chunk, counted)
                except AccountLockedError as error:
                    problem = f"{error} The next run does the rest."
                    break
            counts += written
            without_vault_entry += unvaulted
            del chunk  # before the next one is read
        # Last, so that a repetition of this step does not count once more what was decided before it.
        _advance_by_decided(postgres, account, batch.batch.counts)
    mapping_key = context.get_mapping_key()
    if mapping_key is not None:
        for staged_by in lineage(context):
            io_manager.remove_batch(staged_by, mapping_key)
    return BatchSummary(account.id, batch.batch.number, counts, without_vault_entry, problem)


def cut_chunks(outcomes: Iterable[Outcome]) -> Iterator[list[Outcome]]:
    """Cut outcomes into lists that end with `CHUNK_ROWS` or with the outcome that fills `CHUNK_CHARACTERS` of text.

    Nothing is read ahead, and a chunk that was handed over is let go: of the largest texts only one is in memory.
    """
    chunk: list[Outcome] = []
    size = 0
    for outcome in outcomes:
        chunk.append(outcome)
        size += len(outcome.record.full_transcript) if isinstance(outcome, Ready) else 0
        del outcome
        if len(chunk) >= CHUNK_ROWS or size >= CHUNK_CHARACTERS:
            full, chunk, size = chunk, [], 0
            yield full
            del full
    if chunk:
        yield chunk


def write_outcomes(
    conn: psycopg.Connection[Any],
    account: Account,
    run_id: str,
    outcomes: Sequence[Outcome],
    counted: set[str] | None = None,
) -> tuple[Counts, int]:
    """Write what became of some items of one account, all of it or nothing.

    Args:
        conn: An idle connection.
        account: Whose items these are.
        run_id: Root run id.
        outcomes: What became of them.
        counted: See `record_outcomes`.

    Returns:
        Counts from the ledger, and how many stored recordings have no vault entry yet.

    Raises:
        psycopg.OperationalError: The database is gone; nothing of this chunk is written.
        AccountLockedError: Somebody has locked the account's row; nothing of this chunk is written.
    """
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            counted_now = set(counted or ())
            result = _write_chunk(conn, account, run_id, outcomes, counted_now)
        except _TRY_AGAIN:
            if attempt == _ATTEMPTS:
                raise
            _logger.info("Another transaction was in the way; the chunk is written again.")
            time.sleep(0.1 * attempt)
        else:
            if counted is not None:
                counted |= counted_now
            return result
    raise AssertionError("unreachable")


def _write_chunk(
    conn: psycopg.Connection[Any], account: Account, run_id: str, outcomes: Sequence[Outcome], counted: set[str]
) -> tuple[Counts, int]:
    new = write_new(conn, account, run_id, outcomes, counted)
    if new is not None:
        return new, 0
    with acting_as(conn, account.user_id, writes=CHUNK_TABLES):
        now = hold_account(conn, account)
        counts, unvaulted = _write_with_care(conn, account, run_id, outcomes, counted, now)
        with progress_of(account, conn):
            advance(conn, account, len(outcomes), counts.skipped)
    return counts, unvaulted


def _write_with_care(
    conn: psycopg.Connection[Any],
    account: Account,
    run_id: str,
    outcomes: Sequence[Outcome],
    counted: set[str],
    now: datetime,
) -> tuple[Counts, int]:
    """Write outcomes so that what cannot be written harms nothing else.

    Where the ledger or a deferred trigger refuses them, each is written by itself, to fail alone.
    """
    counted_now = set(counted)
    try:
        with conn.transaction():
            written = _write_together(conn, account, outcomes, now)
            counts = record_outcomes(conn, account, run_id, written, counted_now)
            # What the owner put off until the commit is judged now, while it can still be told whose fault it is.
            conn.execute(query("judge_constraints"))
            conn.execute(query("defer_constraints"))
        counted |= counted_now
        return counts, sum(1 for one in written if one.vault_error)
    except psycopg.Error as error:
        if conn.broken or is_about_every_row(error):
            raise
        reason, error_class, words = explain_refusal(error), classify(error), describe_database_error(error)
    if len(outcomes) > 1:
        parts = [_write_with_care(conn, account, run_id, [outcome], counted, now) for outcome in outcomes]
        return sum((counts for counts, _ in parts), Counts()), sum(unvaulted for _, unvaulted in parts)
    (outcome,) = outcomes
    if isinstance(outcome, Failed):  # not even that can be written down
        _logger.error("%s: the ledger keeps nothing of %a: %s.", account.label, outcome.item.external_id, words)
        return Counts(failed=1), 0
    failed = Failed(outcome.item, error_class, reason, next_attempt_at(now, error_class, 0))
    return _write_with_care(conn, account, run_id, [failed], counted, now)


def _write_together(
    conn: psycopg.Connection[Any], account: Account, outcomes: Sequence[Outcome], now: datetime
) -> list[Written]:
    """Write the recordings among outcomes, each once, and say what became of each."""
    ready = [outcome.record for outcome in outcomes if isinstance(outcome, Ready)]
    results = iter(write_recordings(conn, Destinations(conn, account.user_id), ready))
    unvaulted = [
        outcome.recording_id for outcome in outcomes if isinstance(outcome, Known) and outcome.needs_vault_entry
    ]
    vault_errors = add_missing_vault_entries(conn, account.user_id, unvaulted)
    written = []
    for outcome in outcomes:
        if isinstance(outcome, Ready):
            written.append(_judge(outcome, next(results), now))
        elif isinstance(outcome, Known):
            written.append(Written(outcome, outcome.recording_id, vault_errors.get(outcome.recording_id)))
        else:
            written.append(Written(outcome))
    return written


def _judge(outcome: Ready, result: InsertResult, now: datetime) -> Written:
    if result.recording_id is None:
        error_class = result.error_class or "bug"
        reason = result.error or "The record was lost."
        return Written(Failed(outcome.item, error_class, reason, next_attempt_at(now, error_class, 0)))
    if not result.is_new:
        return Written(Known(outcome.item, result.recording_id), result.recording_id)
    return Written(outcome, result.recording_id, result.vault_error)


def _advance_by_decided(postgres: PostgresResource, account: Account, counts: Counts) -> None:
    done = counts.skipped + counts.waiting + counts.ignored
    if done:
        with (
            postgres.connection() as conn,
            acting_as(conn, account.user_id, writes=("sync_jobs",)),
            progress_of(account, conn),
        ):
            advance(conn, account, done, counts.skipped)
