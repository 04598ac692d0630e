"""Which accounts are due for a run, asking for one, and noting what came of it: the table `import_pipeline.polls`.

An account is due when its source's interval has passed since its last good run, when an item of it that waits or failed
is to be tried again, or when it was connected just now. Every request for a run is noted here first, so that a run that
fails, crashes or never starts is asked for again after a pause that grows. Times are the database's. No Dagster here.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import psycopg
from psycopg.rows import scalar_row, tuple_row

from import_pipeline.database.sql import query
from import_pipeline.database.tenancy import ACCOUNT_LOCK_SECONDS, acting_as
from import_pipeline.errors import ErrorClass
from import_pipeline.providers.source_settings import number_setting
from import_pipeline.records import Account

_logger = logging.getLogger(__name__)

FIRST_PAUSE = timedelta(minutes=5)
"""How long after asking for a run it is asked for again, if nothing came of it; it doubles every time."""
LONGEST_PAUSE = timedelta(hours=6)
AUTH_PAUSE = timedelta(days=1)
"""How long an account is left alone at least that only a person can connect again."""


@dataclass(frozen=True, slots=True)
class DueAccount:
    """An account to ask a run for.

    Args:
        id: The account.
        user_id: Its owner.
        attempts: Runs that were asked for since the last one that went well.
        is_unanswered: Whether the last of them never came to its end.
        is_new: Whether it was never imported to the end, so that a run reads its whole history.
    """

    id: UUID
    user_id: UUID
    attempts: int = 0
    is_unanswered: bool = False
    is_new: bool = False


@dataclass(frozen=True, slots=True)
class Request:
    """A run that is asked for: `key` is never used twice; `is_first` says that it reads whole histories."""

    key: str
    user_ids: list[UUID]
    is_first: bool = False


@dataclass(frozen=True, slots=True)
class DueCounts:
    """How the active accounts of a source stand: all, in work, due, and when the next of the others will be."""

    accounts: int
    busy: int
    due: int
    next_at: datetime | None


def accounts_per_run() -> int:
    """Return how many accounts one run works on at most."""
    return int(number_setting("IMPORT_PIPELINE_ACCOUNTS_PER_RUN", 10, at_least=1))


def request_runs(
    conn: psycopg.Connection[Any],
    source_app: str,
    busy: Iterable[UUID],
    *,
    most: int,
    slack: timedelta = timedelta(0),
) -> tuple[list[Request], DueCounts]:
    """Ask for runs of the accounts that are due, longest due first, and note that they were asked for.

    Two that ask at once get different accounts. One whose row somebody has locked is left to the next time.

    Args:
        conn: An idle connection.
        source_app: The source.
        busy: Users for whom a run is queued or under way.
        most: How many runs to ask for at most; with 0 this only counts.
        slack: What will be due within this time counts as due.

    Returns:
        At most `most` requests of at most `accounts_per_run` accounts each, and how the accounts stood before.
    """
    size = accounts_per_run()
    parameters = {
        "source_app": source_app,
        "busy": list(busy),
        "slack_seconds": slack.total_seconds(),
        "limit": most * size,
    }
    with acting_as(conn, None, writes=()), conn.cursor(row_factory=tuple_row) as cursor:
        # Nobody who has no right to this table can hold the lock, and runs that end need not wait for it.
        cursor.execute(query("lock_polls"))
        rows = cursor.execute(query("find_due_accounts"), parameters).fetchall()
        counts = DueCounts(*rows[0][:4])
        groups = group_accounts([DueAccount(*row[4:]) for row in rows if row[4]], size)[:most]
        noted = note_requests(conn, [account.id for group in groups for account in group])
        groups = [kept for group in groups if (kept := [account for account in group if account.id in noted])]
        (now,) = cursor.execute(query("find_transaction_time")).fetchone()  # type: ignore[misc]
    requests = [
        Request(_key(source_app, now, group), [account.user_id for account in group], group[0].is_new)
        for group in groups
    ]
    return requests, counts


def note_requests(conn: psycopg.Connection[Any], account_ids: Sequence[UUID]) -> set[UUID]:
    """Note that runs are asked for; until each comes to its end it is asked for again only after a growing pause.

    Args:
        conn: In a transaction of `acting_as`.
        account_ids: The accounts.

    Returns:
        Those of them of which it is noted: all but what somebody else has locked.
    """
    with conn.cursor(row_factory=scalar_row) as cursor:
        return set(cursor.execute(query("request_polls"), {"account_ids": list(account_ids)} | _PAUSES))


def group_accounts(accounts: Sequence[DueAccount], size: int) -> list[list[DueAccount]]:
    """Put accounts into groups of at most `size`, keeping their order: each starts with its longest due account.

    Those that were never imported stay among themselves, because their histories take long; so do those that had a
    problem, so that the runs of the others are green. Those whose run broke off come in groups that halve every time,
    until the one that breaks it is alone.
    """
    groups: list[list[DueAccount]] = []
    open_groups: dict[tuple[int, bool, bool], list[DueAccount]] = {}
    for account in accounts:
        largest = max(1, size >> account.attempts) if account.is_unanswered else size
        kind = (largest, account.attempts > 0, account.is_new)
        group = open_groups.get(kind)
        if group is None or len(group) == largest:
            group = open_groups[kind] = []
            groups.append(group)
        group.append(account)
    return groups


def note_run_ended(
    conn: psycopg.Connection[Any],
    account: Account,
    interval: timedelta,
    problem: str | None,
    error_class: ErrorClass | None,
) -> None:
    """Note how a run of an account ended, and with it when the account is due again.

    Args:
        conn: A connection.
        account: The account as the run opened it.
        interval: How often its source is asked for something new.
        problem: What kept the account from being worked on to its end; None: nothing.
        error_class: The class of the problem; None means that another run has the account, which will tell.
    """
    name: str
    parameters: dict[str, Any] = {"account_id": account.id}
    if problem is None:
        name = "settle_poll"
        parameters |= {"opened_at": account.opened_at, "interval_seconds": interval.total_seconds()}
    elif error_class is not None:
        name = "postpone_poll"
        shortest = AUTH_PAUSE if error_class == "auth" else FIRST_PAUSE
        parameters |= {"shortest_pause": shortest.total_seconds()} | _PAUSES
    else:
        return
    try:
        with acting_as(conn, account.user_id, writes=(), lock_seconds=ACCOUNT_LOCK_SECONDS):
            conn.execute(query(name), parameters)
    except psycopg.errors.LockNotAvailable:
        _logger.warning("%s: another session has locked the account, which is due again at once.", account.label)


def pause_poll(conn: psycopg.Connection[Any], account_id: UUID) -> None:
    """Note that a run of an account broke off; if it was asked for here, the pause before the next counts from now."""
    with acting_as(conn, None, writes=()):
        conn.execute(query("pause_poll"), {"account_id": account_id} | _PAUSES)


def _key(source_app: str, now: datetime, group: Sequence[DueAccount]) -> str:
    asked = ",".join(f"{account.id}:{account.attempts + 1}" for account in group)
    return f"{source_app}/{now.astimezone(UTC):%Y-%m-%dT%H:%M:%S.%fZ}/{hashlib.sha256(asked.encode()).hexdigest()[:12]}"


_PAUSES = {"first_pause": FIRST_PAUSE.total_seconds(), "longest_pause": LONGEST_PAUSE.total_seconds()}
