"""What flows through the pipeline: accounts, listed items, outcomes, records, results and summaries.

Plain frozen dataclasses without behaviour, so that every stage, the staged files and the library face speak of the
same things. No database, no Dagster, no parsing here. Instants are aware and in UTC; durations are whole seconds.
Their `repr` leaves out what was said and what may quote it: it ends up in logs and tracebacks.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Generic, Literal, TypeVar
from uuid import UUID

from import_pipeline.errors import ErrorClass

JsonObject = dict[str, Any]
Lane = Literal["live", "history"]
"""Whether a run imports what is new, or history."""
INVALID = "import_pipeline.invalid"
"""Key in an item's details under which `fetch` says why it cannot become a record."""

EXTERNAL_ID_LIMIT_BYTES = 512
"""Of UTF-8: ids stand in indexes."""


# --- the library face ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ConnectorRecord:
    """One call, normalised: what a connector delivers and `insert_recording` writes.

    Args:
        external_id: The source's own, globally unique id of the call; not empty, at most 512 UTF-8 bytes.
        source_app: Identifier of the source, for instance `zoom` or `file-upload`.
        title: What the source calls it.
        full_transcript: Speaker turns, `[HH:MM:SS] Speaker: text`, separated by blank lines; never empty.
        recording_start_time: Aware datetime, or ISO 8601 text with an offset; stored in UTC.
        duration: Seconds, 0 to 48 hours; anything else is stored as null and noted in the metadata.
        source_metadata: Whatever else the source tells; must be JSON. `external_id` is put in front of it.
        bank_id: The tenant; None means the owner's personal bank.
        vault_id: The vault; None means the bank's personal vault.
        summary: The source's summary, if it has one.
        audio_url: Where the audio can be played.
        video_url: Where the video can be played.
        recording_end_time: Like the start; derived from start and duration where it is missing.
    """

    external_id: str
    source_app: str
    title: str
    full_transcript: str = field(repr=False)
    recording_start_time: datetime | str
    duration: int | float | None = None
    source_metadata: JsonObject = field(default_factory=dict, repr=False)
    bank_id: UUID | str | None = None
    vault_id: UUID | str | None = None
    summary: str | None = field(default=None, repr=False)
    audio_url: str | None = None
    video_url: str | None = None
    recording_end_time: datetime | str | None = None


@dataclass(frozen=True, slots=True)
class StorableRecord(ConnectorRecord):
    """A record as `normalise.normalise_record` returns it, and nobody else makes one: it is written as it stands."""

    recording_start_time: datetime
    duration: int | None = None
    bank_id: UUID | None = None
    vault_id: UUID | None = None
    recording_end_time: datetime | None = None


@dataclass(frozen=True, slots=True)
class PipelineResult:
    """What became of one record.

    Imported: `success` with `recording_id`. Already there: not `success`, `skipped`, with the existing `recording_id`.
    Otherwise not `success`, with `error`: a sentence for a person, without secrets or transcript.
    """

    success: bool
    recording_id: UUID | None = None
    skipped: bool = False
    error: str | None = None


@dataclass(frozen=True, slots=True)
class DuplicateCheck:
    """Whether a call is already in `recordings`, and as which row."""

    is_duplicate: bool
    existing_recording_id: UUID | None = None


@dataclass(frozen=True, slots=True)
class InsertResult:
    """What became of one record of a batch.

    `recording_id` is the new row or, when `is_new` is False, the row that was there before; None with an `error`.
    `vault_error` says why a stored recording has no vault entry yet; the next run tries again.
    """

    recording_id: UUID | None = None
    is_new: bool = False
    error: str | None = None
    error_class: ErrorClass | None = None
    vault_error: str | None = None


# --- from connect to report ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SharedFolder:
    """A folder that other people fill: the drop folder, or one from which the UI may upload."""

    path: str
    is_dropped: bool


@dataclass(frozen=True, slots=True)
class Account:
    """One user's connection to a source, opened by one run. Holds references only, never a secret.

    `opened_at` is the database's time when the run took the account: the cursor moves to it at the end. An account
    with a `problem` is not worked on; the run reports it. `problem_class` is None where another run has the account.
    `shared_folders` are folders of this machine that other people fill, as far as the database knows of them.
    """

    id: UUID
    user_id: UUID
    source_app: str
    label: str
    opened_at: datetime
    last_sync_at: datetime | None = None
    oldest_open_at: datetime | None = None
    sync_job_id: UUID | None = None
    options: JsonObject = field(default_factory=dict)
    problem: str | None = None
    problem_class: ErrorClass | None = None
    shared_folders: tuple[SharedFolder, ...] = ()


@dataclass(frozen=True, slots=True)
class Access:
    """What a source says of a credential: whose it is, and sentences on what it may not do."""

    email: str | None = None
    problems: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Window:
    """A span of time that is asked of a source, `start` inclusive, `end` exclusive, both aware."""

    start: datetime
    end: datetime


@dataclass(frozen=True, slots=True)
class ListedItem:
    """Something a source lists.

    Args:
        external_id: See `ConnectorRecord`.
        title: What the source calls it, for the ledger.
        started_at: When the call began, if the listing tells.
        location: Where the source keeps it: a path or a link that a person can open.
        provisional_id: Key in the ledger while the item has not been imported, for sources whose external id is
            derived from content: two broken files with the same content are two failures. None means `external_id`.
        details: Whatever the connector needs to turn it into a record; JSON.
        size_bytes: Length of its transcript, if the listing tells; at least that of what is listed here. Batches are
            bounded by it.
    """

    external_id: str
    title: str | None = None
    started_at: datetime | None = None
    location: str | None = None
    provisional_id: str | None = None
    details: JsonObject = field(default_factory=dict, repr=False)
    size_bytes: int = 0
    kind: Literal["listed"] = "listed"

    @property
    def ledger_id(self) -> str:
        """Key in the ledger until the item is imported."""
        return self.provisional_id or self.external_id


@dataclass(frozen=True, slots=True)
class NewItem:
    """A listed item that `dedup` lets through, with what the ledger knows of earlier attempts."""

    item: ListedItem
    attempts: int = 0
    first_seen_at: datetime | None = None
    kind: Literal["new"] = "new"


@dataclass(frozen=True, slots=True)
class Known:
    """An item that is in `recordings` already and that `insert` must note in the ledger or give its vault entry."""

    item: ListedItem
    recording_id: UUID
    needs_vault_entry: bool = False
    kind: Literal["known"] = "known"


@dataclass(frozen=True, slots=True)
class Ready:
    """An item that became a record."""

    item: ListedItem
    record: StorableRecord
    kind: Literal["ready"] = "ready"


@dataclass(frozen=True, slots=True)
class Waiting:
    """An item whose transcript is not there yet; it is asked for again from `retry_at` on."""

    item: ListedItem
    reason: str
    retry_at: datetime
    kind: Literal["waiting"] = "waiting"


@dataclass(frozen=True, slots=True)
class Failed:
    """An item that was attempted and could not be imported; with what the source answered, if that was the reason."""

    item: ListedItem
    error_class: ErrorClass
    reason: str
    retry_at: datetime | None = None
    http_status: int | None = None
    request_id: str | None = None
    kind: Literal["failed"] = "failed"


@dataclass(frozen=True, slots=True)
class Ignored:
    """An item that is deliberately not imported."""

    item: ListedItem
    reason: str
    kind: Literal["ignored"] = "ignored"


Outcome = Ready | Waiting | Failed | Ignored | Known


@dataclass(frozen=True, slots=True)
class Counts:
    """Items by what became of them. `listed` is the sum of the others once everything is done."""

    listed: int = 0
    inserted: int = 0
    skipped: int = 0
    waiting: int = 0
    failed: int = 0
    ignored: int = 0

    def in_words(self) -> str:
        """Say what became of the items."""
        told = (
            f"{self.listed} listed, {self.inserted} imported, {self.skipped} already there, {self.waiting} waiting, "
            f"{self.failed} failed"
        )
        return f"{told}, {self.ignored} ignored" if self.ignored else told

    def __add__(self, other: Counts) -> Counts:
        """Add kind by kind."""
        return Counts(
            self.listed + other.listed,
            self.inserted + other.inserted,
            self.skipped + other.skipped,
            self.waiting + other.waiting,
            self.failed + other.failed,
            self.ignored + other.ignored,
        )


@dataclass(frozen=True, slots=True)
class Batch:
    """The head of a stream: at most 250 items of one account, and what `dedup` has counted of them."""

    account: Account
    number: int
    counts: Counts = field(default_factory=Counts)


ItemT = TypeVar("ItemT")


@dataclass(frozen=True, slots=True)
class Stream(Generic[ItemT]):
    """A batch on its way between two ops: a head, and items that are read once and lazily.

    An op must not return a generator, so it returns this; the I/O manager writes and reads it line by line.
    """

    batch: Batch
    items: Iterable[ItemT]


@dataclass(frozen=True, slots=True)
class Listing:
    """How far the listing of one account came. The cursor moves only after a `complete` one.

    `since` and `until` are the ends of the span that was asked for; None where no window was.
    """

    account: Account
    listed: int
    complete: bool
    problem: str | None = None
    error_class: ErrorClass | None = None
    since: datetime | None = None
    until: datetime | None = None

    @property
    def account_id(self) -> UUID:
        """Id of the account."""
        return self.account.id


@dataclass(frozen=True, slots=True)
class BatchSummary:
    """What became of one batch, counted from the ledger after its commit; the problem is what kept a part from it."""

    account_id: UUID
    number: int
    counts: Counts
    without_vault_entry: int = 0
    problem: str | None = None


@dataclass(frozen=True, slots=True)
class AccountSummary:
    """What one run did for one account. A `warning` is no failure and should be looked at all the same."""

    account_id: UUID
    user_id: UUID
    label: str
    status: str
    counts: Counts
    without_vault_entry: int = 0
    problem: str | None = None
    error_class: ErrorClass | None = None
    warning: str | None = None


@dataclass(frozen=True, slots=True)
class ImportSummary:
    """What one run did."""

    source_app: str
    run_id: str
    accounts: list[AccountSummary]

    @property
    def counts(self) -> Counts:
        """Sum over all accounts."""
        return sum((account.counts for account in self.accounts), Counts())
