"""The flat functions at the heart: check for a duplicate, insert a recording, both in one go, and their batch forms.

They know `recordings`, `vault_entries` and the tenancy tables, and nothing of ledger, connectors or Dagster: an
explicit call imports a deleted call again. Every function works on any psycopg connection, as `import_worker` in the
name of the owner (`database/tenancy.py`), in a transaction of its own or as a savepoint of the caller's.

Exactly once is the database's doing. Of what is imported here, the unique index `recordings_import_key` lets one row in
per owner, source and external id, into whatever bank and however many try at once; it knows imports by their ids
(`new_recording_id`). It stands in nobody's way: a user's copies of a call in other banks, and what older importers
left, have other ids. A call that is there as one of those is not imported either: the statement that inserts looks.
"""

from __future__ import annotations

import logging
import math
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar
from uuid import UUID

import psycopg
from psycopg.rows import tuple_row
from psycopg.types.json import Jsonb

from import_pipeline.database.errors import (
    classify,
    describe_database_error,
    explain_refusal,
    is_about_every_row,
    is_likely_to_recur,
    without_own_words,
)
from import_pipeline.database.sql import columns, query
from import_pipeline.database.tenancy import acting_as, acting_at_once
from import_pipeline.errors import ImportPipelineError, ItemError
from import_pipeline.library.destinations import Destinations
from import_pipeline.library.normalise import normalise_record, parse_external_id
from import_pipeline.records import ConnectorRecord, DuplicateCheck, InsertResult, PipelineResult, StorableRecord

if sys.version_info >= (3, 14):
    from uuid import uuid7
else:
    from uuid_utils import uuid7

_logger = logging.getLogger(__name__)

_PART_CHARACTERS = 500_000
_MARK = 0x8 << 76 | 0x696D7074
_UNMARKED = ~(0xF << 76 | 0xFFFF_FFFF)

_T = TypeVar("_T")
_Connection = psycopg.Connection[Any]


# --- one record ---------------------------------------------------------------------------------------------------


def check_duplicate(conn: _Connection, user_id: UUID | str, source_app: str, external_id: str) -> DuplicateCheck:
    """Say whether the user already has this call of this source, and as which recording.

    Fails open: if the query breaks, the answer is "no" and a warning is logged, because the unique index and not this
    check decides; an import is never blocked by it.
    """
    return check_duplicates(conn, user_id, source_app, [external_id])[external_id]


def insert_recording(conn: _Connection, user_id: UUID | str, record: ConnectorRecord) -> UUID:
    """Write one recording and its vault entry, once.

    Returns:
        Id of the new recording, or of the one that was already there.

    Raises:
        InvalidRecordError: The record does not hold what a recording needs.
        BankError: No bank is given and the user has none or several personal ones, or the user is not a member of the
            given one, or the given vault is not in it.
        ItemError: The database refused this record.
    """
    with acting_as(conn, user_id, writes=("recordings", "vault_entries")):
        clean, destinations = normalise_record(record), Destinations(conn, user_id)
        destinations.resolve(clean)
        (result,) = write_recordings(conn, destinations, [clean])
    if result.recording_id is None:
        raise ItemError(result.error, error_class=result.error_class)
    return result.recording_id


def run_pipeline(conn: _Connection, user_id: UUID | str, record: ConnectorRecord) -> PipelineResult:
    """Import one record unless it is there already: check, insert, tell.

    Returns:
        Success with the new id; skipped with the existing id; or the error. Never raises for a bad record.
    """
    try:
        if not isinstance(record, ConnectorRecord):
            normalise_record(record)  # says what is wrong with it
        existing = check_duplicate(conn, user_id, record.source_app, parse_external_id(record.external_id))
        if existing.is_duplicate:
            return PipelineResult(success=False, skipped=True, recording_id=existing.existing_recording_id)
        result = insert_recordings(conn, user_id, [record])[0]
    except (ImportPipelineError, psycopg.Error, UnicodeEncodeError) as error:
        return PipelineResult(success=False, error=explain_refusal(error))
    if result.error is not None:
        return PipelineResult(success=False, error=result.error)
    return PipelineResult(success=result.is_new, skipped=not result.is_new, recording_id=result.recording_id)


# --- many records of one user -------------------------------------------------------------------------------------


def check_duplicates(
    conn: _Connection, user_id: UUID | str, source_app: str, external_ids: Iterable[str]
) -> dict[str, DuplicateCheck]:
    """Answer `check_duplicate` for many ids with one query; fails open for all of them together.

    Returns:
        An answer for every id that was asked.
    """
    asked = list(dict.fromkeys(external_ids))
    existing: dict[str, UUID] = {}
    try:
        with conn.cursor(row_factory=tuple_row) as cursor:
            with acting_at_once(conn, user_id):
                _ask_for_recordings(cursor, user_id, source_app, asked)
            existing = dict(cursor.fetchall())
    except (psycopg.Error, UnicodeEncodeError) as error:
        _logger.warning(
            "The duplicate check for %d ids of %a failed (%s); the unique index decides.",
            len(asked),
            source_app,
            describe_database_error(error),
        )
    return {external_id: DuplicateCheck(external_id in existing, existing.get(external_id)) for external_id in asked}


def insert_recordings(conn: _Connection, user_id: UUID | str, records: Sequence[ConnectorRecord]) -> list[InsertResult]:
    """Write many recordings and their vault entries in one transaction, each once.

    A record that is invalid, or that the database refuses, gets its error; its neighbours are written. The caller
    bounds the batch: all its texts are in memory at once.

    Returns:
        One result per record, in their order.

    Raises:
        psycopg.OperationalError: The database is gone; nothing of this batch is written.
    """
    with acting_as(conn, user_id, writes=("recordings", "vault_entries")):
        return write_recordings(conn, Destinations(conn, user_id), records)


def write_recordings(
    conn: _Connection, destinations: Destinations, records: Sequence[ConnectorRecord]
) -> list[InsertResult]:
    """Do what `insert_recordings` does, in a transaction in the owner's name (`tenancy.acting_as`)."""
    results: list[InsertResult | None] = [None] * len(records)
    rows: list[dict[str, Any]] = []
    for position, record in enumerate(records):
        try:
            clean = normalise_record(record)
            bank_id, vault_id = destinations.resolve(clean)
        except ItemError as error:
            results[position] = InsertResult(error=str(error), error_class=error.error_class)
        except psycopg.Error:
            raise
        except Exception as error:  # noqa: BLE001 - a value that raises when it is looked at is one record's fault
            results[position] = InsertResult(error=describe_database_error(error), error_class="bug")
        else:
            rows.append(
                recording_row(destinations.user_id, bank_id, clean) | {"position": position, "vault_id": vault_id}
            )
    # Every batch takes the index entries in the same order: two of them cannot wait for each other.
    rows.sort(key=lambda row: (row["source_app"], row["external_id"]))
    written = _try_together(conn, rows, lambda batch: _insert_rows(conn, batch))
    entries: list[tuple[int, UUID, UUID | None]] = []
    for row, result in zip(rows, written, strict=True):
        results[row["position"]] = result
        if result.recording_id is not None and result.is_new:
            entries.append((row["position"], result.recording_id, row["vault_id"]))

    errors = write_vault_entries(conn, [(recording, vault) for _, recording, vault in entries])
    for position, recording_id, _ in entries:
        if recording_id in errors:
            results[position] = InsertResult(recording_id, is_new=True, vault_error=errors[recording_id])
    return [result or InsertResult(error="The record was lost.", error_class="bug") for result in results]


def add_vault_entries(
    conn: _Connection, user_id: UUID | str, entries: Sequence[tuple[UUID, UUID | None]]
) -> dict[UUID, str]:
    """Put recordings of the user into vaults; an entry that is there already is left as it is.

    Args:
        conn: Any connection; inside a transaction the failure of an entry does not harm what came before.
        user_id: The owner of the recordings.
        entries: Recording and vault each; without a vault, the entry fails.

    Returns:
        Recording → why it has no entry now, for those that failed. Each is logged as well.
    """
    with acting_as(conn, user_id, writes=("vault_entries",)):
        return write_vault_entries(conn, entries)


def write_vault_entries(conn: _Connection, entries: Sequence[tuple[UUID, UUID | None]]) -> dict[UUID, str]:
    """Do what `add_vault_entries` does, in a transaction in the owner's name."""
    errors = {
        recording_id: "its bank has no personal vault that its owner may write to; create one or name a vault, "
        "and see whether `import-pipeline audit --rule vault-roles` names a role of theirs"
        for recording_id, vault_id in entries
        if vault_id is None
    }
    rows = [{"recording_id": recording_id, "vault_id": vault_id} for recording_id, vault_id in entries if vault_id]
    written = _try_together(conn, rows, lambda batch: _insert_entries(conn, batch))
    errors.update(
        {row["recording_id"]: result.error for row, result in zip(rows, written, strict=True) if result.error}
    )
    for recording_id, error in errors.items():
        _logger.warning("Recording %s has no vault entry: %s.", recording_id, without_own_words(error))
    return errors


def add_missing_vault_entries(conn: _Connection, user_id: UUID | str, recording_ids: Sequence[UUID]) -> dict[UUID, str]:
    """Give those of the recordings that are in no vault at all an entry in their bank's personal vault.

    Returns:
        As `add_vault_entries`.
    """
    if not recording_ids:
        return {}
    with acting_as(conn, user_id, writes=("vault_entries",)), conn.cursor(row_factory=tuple_row) as cursor:
        cursor.execute(query("find_recordings_without_vault_entry"), {"recording_ids": list(recording_ids)})
        return write_vault_entries(conn, cursor.fetchall())


def new_recording_id() -> UUID:
    """Return an id for a recording that is imported: by its last four bytes the unique index knows it.

    Ordered by time: entries of random ids would lie all over the indexes of a large library, and each of them would
    cost a page, which is also written to the log whole. Of version 8, "custom": version 7 but for those bytes.
    """
    return UUID(int=uuid7().int & _UNMARKED | _MARK)


# --- inside -------------------------------------------------------------------------------------------------------


_DELETED_MEANWHILE = InsertResult(
    error="it was deleted while it was being imported; the next run decides", error_class="transient"
)


def _ask_for_recordings(
    cursor: psycopg.Cursor[Any], user_id: UUID | str, source_app: str, external_ids: list[str]
) -> psycopg.Cursor[Any]:
    parameters = {"user_id": user_id, "source_app": source_app, "external_ids": external_ids}
    return cursor.execute(query("find_recordings"), parameters)


def recording_row(user_id: UUID | str, bank_id: UUID, record: StorableRecord) -> dict[str, Any]:
    """Return a row for `insert_recordings.sql`."""
    return {
        "id": new_recording_id(),
        "bank_id": bank_id,
        "owner_user_id": user_id,
        "title": record.title,
        "audio_url": record.audio_url,
        "video_url": record.video_url,
        "full_transcript": record.full_transcript,
        "summary": record.summary,
        "source_app": record.source_app,
        "external_id": record.external_id,
        "source_metadata": Jsonb(record.source_metadata),
        "duration": record.duration,
        "recording_start_time": record.recording_start_time,
        "recording_end_time": record.recording_end_time,
    }


def _insert_rows(conn: _Connection, rows: Sequence[dict[str, Any]]) -> list[InsertResult]:
    """Insert in one statement; a row without an id lost to one that was there before, or earlier among these."""
    new: dict[tuple[str, str], UUID] = {}  # the id may be another than ours: a trigger of the owner's decides
    with conn.cursor(row_factory=tuple_row) as cursor:
        for part in cut_parts(rows):
            cursor.execute(query("insert_recordings"), columns_of(part))
            new |= {(source_app, external_id): recording_id for recording_id, source_app, external_id in cursor}
    results = [
        InsertResult(new.pop(key), is_new=True) if (key := (row["source_app"], row["external_id"])) in new else None
        for row in rows
    ]
    lost: dict[str, list[int]] = {}
    for position, result in enumerate(results):
        if result is None:
            lost.setdefault(rows[position]["source_app"], []).append(position)
    for source_app, positions in lost.items():
        asked = [rows[position]["external_id"] for position in positions]
        with conn.cursor(row_factory=tuple_row) as cursor:
            existing = dict(_ask_for_recordings(cursor, rows[0]["owner_user_id"], source_app, asked).fetchall())
        for position in positions:
            found = existing.get(rows[position]["external_id"])
            results[position] = InsertResult(found) if found else _DELETED_MEANWHILE
    return [result or _DELETED_MEANWHILE for result in results]


def cut_parts(rows: Sequence[dict[str, Any]]) -> Iterator[Sequence[dict[str, Any]]]:
    """Cut rows of recordings into parts with as much text each, at most `_PART_CHARACTERS` and one more row."""
    total = sum(len(row["full_transcript"]) for row in rows)
    full = total / max(1, math.ceil(total / _PART_CHARACTERS))
    begin, size = 0, 0
    for end, row in enumerate(rows, start=1):
        size += len(row["full_transcript"])
        if size >= full or end == len(rows):
            yield rows[begin:end]
            begin, size = end, 0


def columns_of(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the parameters of `insert_recordings.sql`."""
    return columns(rows) | {"owner_user_id": rows[0]["owner_user_id"]}


def _insert_entries(conn: _Connection, rows: Sequence[dict[str, Any]]) -> list[InsertResult]:
    with conn.cursor() as cursor:
        cursor.execute(query("insert_vault_entries"), columns(rows))
    return [InsertResult()] * len(rows)


def _try_together(
    conn: _Connection,
    rows: Sequence[_T],
    write: Callable[[Sequence[_T]], list[InsertResult]],
) -> list[InsertResult]:
    """Write all rows at once or, if that fails, each half by itself: the bad ones remain alone with their error.

    Where most rows will meet the same error each is tried by itself at once: the same few turns more for the good ones,
    and no text is sent more than twice.
    """
    if not rows:
        return []
    try:
        with conn.transaction():
            return write(rows)
    except (psycopg.Error, UnicodeEncodeError) as error:
        if conn.broken or is_about_every_row(error):
            raise
        if len(rows) == 1:
            return [InsertResult(error=explain_refusal(error), error_class=classify(error))]
        size = 1 if is_likely_to_recur(error) else (len(rows) + 1) // 2
    return [
        result
        for start in range(0, len(rows), size)
        for result in _try_together(conn, rows[start : start + size], write)
    ]
