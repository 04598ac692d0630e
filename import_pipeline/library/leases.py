"""One run per account and lane at a time: a row in `import_pipeline.leases` that its holder renews while it works.

An account has one lease for what is new and one for history, so a live run never waits for a month. What the two runs
do at the same time the database keeps apart: see `insert_recordings.sql` and `record_outcomes.sql`.

The holder is the root run, so that a re-execution continues under the same lease. A lease ends by being given back, by
silence, or at once when its holder is provably gone: its process on this machine has ended, or its run is over.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import suppress
from types import TracebackType
from typing import Any, TypeVar
from uuid import UUID

import psutil
import psycopg
from psycopg.rows import tuple_row

from import_pipeline.database.connections import Connect
from import_pipeline.database.sql import query
from import_pipeline.database.tenancy import ACCOUNT_LOCK_SECONDS, acting_as
from import_pipeline.errors import AccountLockedError, DatabaseUnavailableError, ImportPipelineError
from import_pipeline.records import Lane

LEASE_SECONDS = 90.0
"""Silence after which a lease may be taken over."""
WAIT_SECONDS = 100.0
"""How long a run waits for another one: longer than the silence, so that a crashed holder never fails its successor."""

LOCKED = "another session has locked its row"
"""What `LeaseKeeper.take` says of an account whose row somebody keeps locked."""

_PAUSE_SECONDS = 0.5

ItemT = TypeVar("ItemT")


class LeaseLostError(ImportPipelineError):
    """Another run works on this account now."""


class LeaseKeeper:
    """Takes the leases of one run and renews all of them, from a thread of its own, until the run ends.

    In a thread, because a single item may wait for minutes until its provider allows the next request.

    Args:
        connect: Lends an idle connection.
        holder: Root run id.
        lane: Whether the run imports what is new or a month of history.
        is_run_over: Says of a root run whether it has ended for certain.
    """

    def __init__(self, connect: Connect, holder: str, lane: Lane, is_run_over: Callable[[str], bool]) -> None:
        self.holder = holder
        self._connect = connect
        self._lane = lane
        self._is_run_over = is_run_over
        self._renewed_at: dict[UUID, float] = {}
        self._over = threading.Event()

    def __enter__(self) -> LeaseKeeper:
        """Begin to renew whatever the run holds."""
        threading.Thread(target=self._keep, name="leases", daemon=True).start()
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc_value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Stop renewing; the leases stay the run's until they run out or are given back."""
        self._over.set()

    def take(self, account_ids: Iterable[UUID], wait_seconds: float) -> dict[UUID, str]:
        """Take the leases of some accounts: at once what is free, then the others as they become so.

        Args:
            account_ids: The accounts.
            wait_seconds: How long to wait at most, for all of them together.

        Returns:
            For each account that could not be taken, a sentence that says which run has it; `LOCKED`, for which nothing
            is waited, if the account's row is kept from us.
        """
        ends_at = time.monotonic() + wait_seconds
        refused = dict.fromkeys(account_ids, "")
        locked: dict[UUID, str] = {}
        while True:
            with self._connect() as conn:
                for account_id in list(refused):
                    now = time.monotonic()
                    try:
                        refusal = acquire_lease(
                            conn, account_id, self.holder, lane=self._lane, is_run_over=self._is_run_over
                        )
                    except AccountLockedError:
                        locked[account_id] = LOCKED
                        del refused[account_id]
                        continue
                    if refusal is None:
                        self._renewed_at[account_id] = now
                        del refused[account_id]
                    else:
                        refused[account_id] = refusal
            if not refused or time.monotonic() >= ends_at:
                return refused | locked
            time.sleep(_PAUSE_SECONDS)

    def hold(self, account_id: UUID, items: Iterable[ItemT]) -> Generator[ItemT, None, None]:
        """Yield the items as long as the account's lease is this run's.

        Raises:
            LeaseLostError: The lease had run out and another run has taken it.
        """
        self._take_again(account_id)
        for item in items:
            self.require(account_id)  # the lease may have been lost while the item came into being
            yield item
            del item  # it may be large, and the next one is read before this name would be given up
        self.require(account_id)

    def require(self, account_id: UUID) -> None:
        """Return if the lease of an account is the run's; ask the database only if it was not renewed for too long.

        Raises:
            LeaseLostError: Another run has it.
            DatabaseUnavailableError, psycopg.Error: It was not renewed for too long, and the database is away.
        """
        renewed_at = self._renewed_at.get(account_id)
        if renewed_at is None or time.monotonic() - renewed_at > LEASE_SECONDS:
            self._take_again(account_id)

    def release(self) -> None:
        """Give back at once what was taken, if the database can be reached; otherwise it runs out."""
        with suppress(DatabaseUnavailableError, psycopg.Error), self._connect() as conn:
            while self._renewed_at:
                release_lease(conn, self._renewed_at.popitem()[0], self.holder)

    def _take_again(self, account_id: UUID) -> None:
        refused = self.take([account_id], 0)
        if refused:
            raise LeaseLostError(
                f"This run lost its account: {refused[account_id]}. What it had not committed is done by the next run."
            )

    def _keep(self) -> None:
        while not self._over.wait(LEASE_SECONDS / 3):
            now = time.monotonic()
            with suppress(DatabaseUnavailableError, psycopg.Error), self._connect() as conn:
                # A lease that is taken at this very moment may be missing here: `require` then asks the database.
                self._renewed_at = dict.fromkeys(renew_leases(conn, self.holder), now)


def acquire_lease(
    conn: psycopg.Connection[Any],
    account_id: UUID,
    holder: str,
    *,
    lane: Lane = "live",
    is_run_over: Callable[[str], bool],
) -> str | None:
    """Take or renew the lease of an account if it is free, its holder's, or its present holder is gone.

    Args:
        conn: An idle connection.
        account_id: The account.
        holder: Root run id of the run that asks.
        lane: Whether it imports what is new or history.
        is_run_over: Says of a root run whether it has ended for certain.

    Returns:
        None when the lease is ours, otherwise a sentence that says which run has it.

    Raises:
        AccountLockedError: Somebody has locked the account's row, to which the lease refers.
    """
    abandoned_by: str | None = None
    asks = {
        "account_id": account_id,
        "holder": holder,
        "holder_process": this_process(),
        "lane": lane,
        "seconds": LEASE_SECONDS,
    }
    while True:
        try:
            with (
                acting_as(conn, None, writes=(), lock_seconds=ACCOUNT_LOCK_SECONDS),
                conn.cursor(row_factory=tuple_row) as cursor,
            ):
                cursor.execute(query("acquire_lease"), asks | {"abandoned_by": abandoned_by})
                if cursor.fetchone():
                    return None
                held = cursor.execute(query("find_lease"), {"account_id": account_id, "lane": lane}).fetchone()
        except psycopg.errors.LockNotAvailable:
            raise AccountLockedError from None
        if held is None:
            continue
        other, process, heartbeat_at = held
        if not is_process_gone(process) and not is_run_over(other):
            return f"run {other} is working on this account (last sign of life {heartbeat_at:%H:%M:%S} UTC)"
        abandoned_by = other


def renew_leases(conn: psycopg.Connection[Any], holder: str) -> set[UUID]:
    """Renew every lease that a run holds, and return their accounts."""
    with acting_as(conn, None, writes=()), conn.cursor(row_factory=tuple_row) as cursor:
        cursor.execute(query("renew_leases"), {"holder": holder, "seconds": LEASE_SECONDS})
        return {account_id for (account_id,) in cursor}


def release_lease(conn: psycopg.Connection[Any], account_id: UUID, holder: str) -> None:
    """Give a lease back; nothing happens when another run has it by now."""
    with acting_as(conn, None, writes=()):
        conn.execute(query("release_lease"), {"account_id": account_id, "holder": holder})


def find_holders(conn: psycopg.Connection[Any], run_ids: Sequence[str]) -> set[str]:
    """Return those of some root runs that hold an account, whichever, and whose process may be alive."""
    with acting_as(conn, None), conn.cursor(row_factory=tuple_row) as cursor:
        cursor.execute(query("find_holders"), {"run_ids": list(run_ids)})
        return {holder for holder, process in cursor if not is_process_gone(process)}


def this_process() -> str:
    """Name this process so that another one on the same machine can tell whether it still lives."""
    return f"{_machine()}/{os.getpid()}/{psutil.Process().create_time():.2f}"


def is_process_gone(process: str) -> bool:
    """Say whether a process named by `this_process` has ended for certain; one of another machine never has."""
    machine, pid, created = process.rsplit("/", 2)
    if machine != _machine():
        return False
    try:
        found = psutil.Process(int(pid))
        # A zombie has ended; without an init process, as in many containers, it stays in the table.
        return abs(found.create_time() - float(created)) > 1 or found.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def _machine() -> str:
    # A container has its own host name and process numbers, so two of them never judge each other's processes.
    try:
        numbers = os.readlink("/proc/self/ns/pid")
    except OSError:  # not Linux
        numbers = ""
    return f"{socket.gethostname()}/{psutil.boot_time():.0f}/{numbers}"
