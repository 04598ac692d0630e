"""Coverage: what a source lists for an account and a month, against the ledger and the library, item by item.

It asks the source for its listing only, writes nothing, and needs no lease. How the result is shown is the business of
`defs/assets/coverage_check.py` and of the command line.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal, get_args

import psycopg
from psycopg.rows import tuple_row

from import_pipeline.connectors.base import Connector
from import_pipeline.database.errors import without_own_words
from import_pipeline.database.sql import query
from import_pipeline.database.tenancy import acting_as, database_time
from import_pipeline.errors import ConfigurationError
from import_pipeline.library.accounts import FoundAccount
from import_pipeline.library.clients import Storage, open_client
from import_pipeline.library.ledger import DELETED, LedgerRow, find_items, ledger_key
from import_pipeline.providers.credentials import find_options
from import_pipeline.providers.http import HttpClient
from import_pipeline.records import Account, ListedItem, Window
from import_pipeline.stages.listing import list_items
from import_pipeline.stages.windows import span_of

Verdict = Literal[
    "imported", "new", "waiting", "failed", "ignored", "deleted", "missing", "no longer listed"
]  # fmt: skip
VERDICTS: tuple[Verdict, ...] = get_args(Verdict)
_CHUNK = 500


@dataclass(frozen=True, slots=True)
class Explained:
    """What became of one item, and why it is not in the library if it is not.

    Args:
        external_id: Its id at the source.
        title: What it is called.
        started_at: When the call began, if that is known.
        verdict: `new`: it came after the last complete sync, so the next one imports it. `deleted`: by somebody in the
            library. `missing`: nothing explains why it is not there. `no longer listed`: known here, but not listed.
        reason: A sentence.
    """

    external_id: str
    title: str | None
    started_at: datetime | None
    verdict: Verdict
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Coverage:
    """The comparison of one account and month.

    Args:
        label: Whose account.
        month: 'YYYY-MM'.
        items: Every item that the source lists or that is known here, oldest first.
    """

    label: str
    month: str
    items: Sequence[Explained]

    @property
    def counts(self) -> Counter[Verdict]:
        """How many items there are of each verdict."""
        return Counter(item.verdict for item in self.items)

    @property
    def listed(self) -> int:
        """How many items the source lists."""
        return len(self.items) - self.counts["no longer listed"]

    @property
    def differences(self) -> list[Explained]:
        """All items that are not both listed and imported."""
        return [item for item in self.items if item.verdict != "imported"]

    @property
    def is_complete(self) -> bool:
        """Whether nothing is missing and nothing has failed."""
        return not self.counts["missing"] and not self.counts["failed"]


def parse_month(text: str, now: datetime) -> Window:
    """Return the month that a text names ('2024-05'); an empty one names the present month.

    Raises:
        ConfigurationError: It names none.
    """
    try:
        month = datetime.strptime(text.strip(), "%Y-%m").replace(tzinfo=UTC) if text.strip() else now.astimezone(UTC)
        return span_of(month)
    except (ValueError, OverflowError):  # the second: there is no month after it
        raise ConfigurationError(f"{text!r} is not a month; write it like 2024-05.") from None


def read_account(conn: psycopg.Connection[Any], found: FoundAccount) -> Account:
    """Return an account as a connector needs it to list, opened by no run."""
    return Account(
        id=found.id,
        user_id=found.user_id,
        source_app=found.source_app,
        label=found.label,
        opened_at=database_time(conn),
        last_sync_at=found.last_sync_at,
        options=find_options(conn, found.id, found.user_id) or {},
    )


def compare_account(
    conn: psycopg.Connection[Any], connector: Connector, found: FoundAccount, month: Window, storage: Storage
) -> Coverage:
    """Ask the source for an account and month, in the lane of history, and compare; see `compare_month`.

    Raises:
        ImportPipelineError: The account is not connected, or its listing could not be read to its end.
    """
    account = read_account(conn, found)
    with open_client(connector, account, storage, "history") as http:
        return compare_month(conn, connector, account, month, http)


def compare_month(
    conn: psycopg.Connection[Any], connector: Connector, account: Account, month: Window, http: HttpClient
) -> Coverage:
    """Compare what a source lists for an account and a month with what is known of it here.

    The listing is asked for with a margin, because sources file calls that lie near the edge of a month in either one.

    Args:
        conn: An idle connection.
        connector: Lists the items.
        account: Whose items; see `read_account`.
        month: See `parse_month`.
        http: Asks the source for this account.

    Raises:
        ImportPipelineError: The listing could not be read to its end.
    """
    margin = connector.look_back
    listed: dict[str, ListedItem] = {}
    for item in list_items(connector, account, http, Window(month.start - margin, month.end + margin)):
        listed.setdefault(ledger_key(item.external_id), item)
    in_month = {key: item for key, item in listed.items() if item.started_at is None or _is_in(item.started_at, month)}
    ledger = _ask_ledger(conn, account, {*in_month, *(ledger_key(item.ledger_id) for item in in_month.values())})
    recordings = _find_recordings(conn, account, list(in_month))
    items = [_explain(account, connector, key, item, ledger, recordings) for key, item in in_month.items()]
    items += _find_unlisted(conn, account, month, {*listed, *(ledger_key(item.ledger_id) for item in listed.values())})
    items.sort(key=lambda item: (item.started_at is not None, item.started_at, item.external_id))
    return Coverage(account.label, f"{month.start:%Y-%m}", items)


def _is_in(moment: datetime, window: Window) -> bool:
    return window.start <= moment < window.end


def _explain(
    account: Account,
    connector: Connector,
    key: str,
    item: ListedItem,
    ledger: dict[str, LedgerRow],
    recordings: set[str],
) -> Explained:
    own, provisional = ledger.get(key), ledger.get(ledger_key(item.ledger_id))
    row = own or provisional

    def explained(verdict: Verdict, reason: str = "") -> Explained:
        return Explained(item.external_id, item.title, item.started_at, verdict, reason)

    if key in recordings:
        return explained("imported")
    if own is not None and own.status == "imported":
        return explained("imported") if own.recording_id is not None else explained("deleted", DELETED)
    if row is not None and row.status == "waiting":
        return explained("waiting", f"{row.error_message or ''} Asked for again from {_moment(row.retry_at)} on.")
    if row is not None and row.status == "failed":
        again = f" Tried again from {_moment(row.retry_at)} on." if row.retry_at else ""
        return explained("failed", f"{without_own_words(row.error_message or '')}{again}")
    if row is not None:
        return explained("ignored", row.error_message or "")
    read_until = account.last_sync_at and account.last_sync_at - connector.look_back
    if read_until is None:
        return explained("new", "The account was never read to its end; the next sync imports it.")
    if item.started_at is not None and item.started_at >= read_until:
        return explained("new", f"Came after the sync of {_moment(account.last_sync_at)}; the next one imports it.")
    command = f"import-pipeline sync {account.source_app} --full"
    return explained("missing", f"No run ever listed it. A backfill of this month imports it, or `{command}`.")


def _moment(value: datetime | None) -> str:
    return "never" if value is None else f"{value.astimezone(UTC):%-d %b %Y %H:%M} UTC"


def _ask_ledger(conn: psycopg.Connection[Any], account: Account, keys: Iterable[str]) -> dict[str, LedgerRow]:
    found: dict[str, LedgerRow] = {}
    for chunk in _chunks(list(keys)):
        with acting_as(conn, account.user_id):
            found |= find_items(conn, account, chunk)
    return found


def _find_recordings(conn: psycopg.Connection[Any], account: Account, external_ids: list[str]) -> set[str]:
    found: set[str] = set()
    for chunk in _chunks(external_ids):
        parameters = {"user_id": account.user_id, "source_app": account.source_app, "external_ids": chunk}
        with acting_as(conn, account.user_id), conn.cursor(row_factory=tuple_row) as cursor:
            found |= {external_id for external_id, _ in cursor.execute(query("find_recordings"), parameters)}
    return found


def _find_unlisted(
    conn: psycopg.Connection[Any], account: Account, month: Window, listed: set[str]
) -> Iterable[Explained]:
    parameters = {"user_id": account.user_id, "source_app": account.source_app, "start": month.start, "end": month.end}
    with acting_as(conn, account.user_id), conn.cursor(row_factory=tuple_row) as cursor:
        rows = cursor.execute(query("find_month"), parameters).fetchall()
    for status, external_id, title, started_at, reason in rows:
        if external_id not in listed:
            told = "It is in the library." if status is None else f"It is {status} here: {reason or 'no reason given'}"
            yield Explained(external_id, title, started_at, "no longer listed", told)


def _chunks(values: list[str]) -> Iterable[list[str]]:
    return (values[start : start + _CHUNK] for start in range(0, len(values), _CHUNK))
