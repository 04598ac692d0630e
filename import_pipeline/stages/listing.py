"""What a source lists for an account, whole and as it can be staged; nothing of batches, accounts or what is due."""

from collections.abc import Iterator
from dataclasses import replace

from import_pipeline.connectors.base import Connector
from import_pipeline.errors import InvalidRecordError
from import_pipeline.library.ledger import ledger_key
from import_pipeline.library.normalise import normalise_item, parse_external_id
from import_pipeline.providers.http import HttpClient
from import_pipeline.records import INVALID, Account, ListedItem, Window
from import_pipeline.stages.windows import plan_windows

MAX_LISTINGS = 5
"""How often one window is listed at most because something new turned up in it."""


def list_items(
    connector: Connector, account: Account, http: HttpClient, partition: Window | None = None
) -> Iterator[ListedItem]:
    """Yield everything the source lists for an account, newest window first, cleaned for storage."""
    for window in plan_windows(connector, account, partition):
        for item in _list_until_stable(connector, account, window, http):
            try:
                parse_external_id(item.external_id)
                yield normalise_item(item)
            except InvalidRecordError as error:
                yield _reduce(item, str(error))


def _list_until_stable(
    connector: Connector, account: Account, window: Window, http: HttpClient
) -> Iterator[ListedItem]:
    """List a window, and if it took several pages again, until nothing new turns up.

    When a call is deleted while pages are read, those behind it move up, and one slips from the next page to the last.
    """
    seen: set[str] = set()
    for listing in range(MAX_LISTINGS):
        pages_before, found = http.pages_read, len(seen)
        for item in connector.list_items(account, window, http):
            key = f"{item.external_id!r} {item.provisional_id!r}"  # of any type, until they are checked
            if listing == 0 or key not in seen:
                yield item
            seen.add(key)
        if http.pages_read - pages_before <= 1 or len(seen) == found:
            return


def _reduce(item: ListedItem, reason: str) -> ListedItem:
    """Return as much of an item that cannot be staged as can be, to fail as one item of its own."""
    has_id = isinstance(item.external_id, str) and item.external_id.strip()
    # Items without an id are told apart by what else is known of them: two of them are two failures.
    key = ledger_key(item.external_id if has_id else (item.external_id, item.title, item.started_at, item.location))
    reduced = ListedItem(key, details={INVALID: reason})
    try:
        return normalise_item(replace(reduced, title=item.title, started_at=item.started_at, location=item.location))
    except InvalidRecordError:
        return reduced
