"""Stage 3, dedup: leaves out what is already imported, deliberately ignored, or not yet due again.

One question to the ledger and one to `recordings` per batch. Both fail open: the unique index decides in the end, and
a failing check must not block an import. It stands before transform because transcripts are the expensive part.
"""

import logging
from collections.abc import Iterable
from dataclasses import replace
from datetime import datetime
from typing import Any, Literal

import dagster as dg
import psycopg

from import_pipeline.connectors.base import Connector
from import_pipeline.database.errors import describe_database_error
from import_pipeline.library.leases import LeaseKeeper
from import_pipeline.library.ledger import DELETED, NO_VAULT_ENTRY, LedgerRow, find_items, ledger_key
from import_pipeline.pipeline import check_duplicates
from import_pipeline.records import Account, Counts, DuplicateCheck, Ignored, Known, ListedItem, NewItem, Stream
from import_pipeline.stages.postgres import PostgresResource
from import_pipeline.stages.run import ListedItems, NewItems

_logger = logging.getLogger(__name__)

Decision = Literal["skipped", "waiting", "ignored"] | NewItem | Known | Ignored


@dg.op(
    ins={"batch": dg.In(ListedItems)},
    out=dg.Out(NewItems),
    tags={"dagster/priority": "1"},
    description="Leaves out what is already imported, deliberately ignored, or not yet due again.",
)
def dedup(
    context: dg.OpExecutionContext,
    batch: Stream[ListedItem],
    postgres: PostgresResource,
    leases: dg.ResourceParam[LeaseKeeper],
    connector: dg.ResourceParam[Connector],
) -> Any:
    """Return the batch without what needs no work, which is counted in its head."""
    items = list(leases.hold(batch.batch.account.id, batch.items))
    with postgres.connection() as conn:
        counts, remaining = leave_out_known(conn, batch.batch.account, items, always_attempt=not connector.is_polled)
    return Stream(replace(batch.batch, counts=counts), iter(remaining))


def leave_out_known(
    conn: psycopg.Connection[Any], account: Account, items: list[ListedItem], *, always_attempt: bool
) -> tuple[Counts, list[NewItem | Known | Ignored]]:
    """Decide for each listed item whether it needs work.

    Args:
        conn: An idle connection.
        account: Whose items these are; what is due is judged by the time it was opened.
        items: What the source lists; of items listed twice the first counts, the others are skipped.
        always_attempt: Try failed and waiting items even before their time.

    Returns:
        Counts of the items that need no work (`listed` is the whole batch), and the others in their order.
    """
    distinct = list({(item.external_id, item.provisional_id): item for item in items}.values())
    keys = [ledger_key(item.external_id) for item in distinct]
    provisional = (ledger_key(item.provisional_id) for item in distinct if item.provisional_id)
    ledger = _ask_ledger(conn, account, {*keys, *provisional})
    rows = [_find_rows(ledger, item, key) for item, key in zip(distinct, keys, strict=True)]
    unknown = [
        item.external_id
        for item, key, (own, _) in zip(distinct, keys, rows, strict=True)
        # An id that no recording can have has another key; it would break the question about the others.
        if key == item.external_id and not _is_linked(own)
    ]
    recordings = check_duplicates(conn, account.user_id, account.source_app, unknown) if unknown else {}

    skipped, waiting, ignored = len(items) - len(distinct), 0, 0
    remaining: list[NewItem | Known | Ignored] = []
    for item, (own, earlier) in zip(distinct, rows, strict=True):
        found = recordings.get(item.external_id)
        match _decide(item, own, earlier, found, account.opened_at, always_attempt):
            case "skipped":
                skipped += 1
            case "waiting":
                waiting += 1
            case "ignored":
                ignored += 1
            case work:
                remaining.append(work)
    return Counts(listed=len(items), skipped=skipped, waiting=waiting, ignored=ignored), remaining


def _decide(
    item: ListedItem,
    row: LedgerRow | None,
    earlier: LedgerRow | None,
    found: DuplicateCheck | None,
    now: datetime,
    always_attempt: bool,
) -> Decision:
    if row is not None and row.recording_id is not None and row.status == "imported":
        if (row.error_message or "").startswith(NO_VAULT_ENTRY):
            return Known(item, row.recording_id, needs_vault_entry=True)
        return "skipped"
    if found is not None and found.existing_recording_id is not None:
        return Known(item, found.existing_recording_id)
    if row is not None and row.status == "imported":
        return Ignored(item, DELETED)
    if row is not None and row.status == "ignored":
        return "ignored"
    if earlier is None:
        return NewItem(item)
    if not always_attempt and earlier.retry_at is not None and earlier.retry_at > now:
        return "waiting"
    return NewItem(item, earlier.attempts, earlier.first_seen_at)


def _is_linked(row: LedgerRow | None) -> bool:
    """Say whether the ledger knows the item's recording; a tombstone may have been overtaken by an explicit import."""
    return row is not None and row.status == "imported" and row.recording_id is not None


def _find_rows(ledger: dict[str, LedgerRow], item: ListedItem, key: str) -> tuple[LedgerRow | None, LedgerRow | None]:
    """Return the row under the item's own id, and the one under the key that it has until it is imported."""
    if not item.provisional_id:
        return ledger.get(key), ledger.get(key)
    # As long as it has no id of its own, nothing can be imported under it.
    own = None if item.external_id == item.provisional_id else ledger.get(key)
    return own, ledger.get(ledger_key(item.provisional_id))


def _ask_ledger(conn: psycopg.Connection[Any], account: Account, keys: Iterable[str]) -> dict[str, LedgerRow]:
    try:
        return find_items(conn, account, keys)
    except psycopg.Error as error:
        _logger.warning("The ledger could not be asked (%s); the unique index decides.", describe_database_error(error))
        return {}
