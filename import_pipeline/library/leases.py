"""One run per account at a time: a row in `import_pipeline.leases` that its holder renews while it works.

The holder is the root run, so that a re-execution continues under the same lease. A lease ends by being given back, by
silence, or at once when its holder is provably gone: its process on this machine has ended, or its run is over.

A run over history gives way: it lends a lease to the live run that waits for it, and gets it back when that one is
done. Directly from hand to hand, so that no third run comes in between.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from types import TracebackType
from typing import Any
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
HISTORY_WAIT_SECONDS = 600.0
"""How long a run over history waits at its start: nobody hurries, and a live run may be long."""
RETURN_WAIT_SECONDS = 3600.0
"""How long a run over history waits in the middle of its work for what it lent."""
LOOK_SECONDS = 1.0
"""How often a run over history looks whether somebody waits for it."""

LOCKED = "another session has locked its row"
"""What `LeaseKeeper.take` says of an account whose row somebody keeps locked."""

_PAUSE_SECONDS = 0.5
_ASKED_WITHIN_SECONDS = 5.0
_FETCHED_WITHIN_SECONDS = 15.0


class LeaseLostError(ImportPipelineError):
    """Another run works on this account now."""


class LeaseKeeper:
    """Takes the leases of one run and keeps them while it works, from a thread of its own.

    Renews all of them at once, whichever account is in hand. In the history lane it lends them to live runs that wait.

    Args:
        connect: Lends an idle connection.
        holder: Root run id.
        lane: Whether the run imports what is new or a month of history.
        is_run_over: Says of a root run whether it has ended for certain.
    """

    def __init__(self, connect: Connect, holder: str, lane: Lane, is_run_over: Callable[[str], bool]) -> None:
        self._connect = connect
        self._holder = holder
        self._lane = lane
        self._is_run_over = is_run_over
        self._held: set[UUID] = set()
        self._lock = threading.Lock()  # what is in the database and what is in `_held` change together
        self._over = threading.Event()
        self._trouble: Exception | None = None

    def __enter__(self) -> LeaseKeeper:
        """Begin to keep whatever the run holds."""
        threading.Thread(target=self._keep, name="leases", daemon=True).start()
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc_value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Stop keeping; the leases stay the run's until they run out or are given back."""
        self._over.set()

    def take(self, account_ids: Iterable[UUID], wait_seconds: float) -> dict[UUID, str]:
        """Take the leases of some accounts: at once what is free, then the others as they become so.

        Args:
            account_ids: The accounts.
            wait_seconds: How long to wait at most, for all of them together.

        Returns:
            For each account that could not be taken, a sentence that says who has it; `LOCKED`, for which nothing is
            waited, if the account's row is kept from us.
        """
        ends_at = time.monotonic() + wait_seconds
        refused = dict.fromkeys(account_ids, "")
        locked: dict[UUID, str] = {}
        while True:
            with self._connect() as conn:
                for account_id in list(refused):
                    with self._lock:
                        try:
                            refusal = acquire_lease(
                                conn, account_id, self._holder, lane=self._lane, is_run_over=self._is_run_over
                            )
                        except AccountLockedError:
                            refusal = LOCKED
                        if refusal is None:
                            self._held.add(account_id)
                    if refusal is None:
                        del refused[account_id]
                    elif refusal is LOCKED:
                        del refused[account_id]
                        locked[account_id] = refusal
                    else:
                        refused[account_id] = refusal
            if not refused or time.monotonic() >= ends_at:
                return refused | locked
            time.sleep(_PAUSE_SECONDS)

    def require(self, account_id: UUID) -> None:
        """Return when the lease of an account is the run's; a run over history waits for what it lent.

        Raises:
            LeaseLostError: Another run has it.
            DatabaseUnavailableError, psycopg.Error: It could not be renewed for longer than it lasts.
        """
        if self._trouble is not None:
            raise self._trouble
        if account_id in self._held:
            return
        refused = self.take([account_id], RETURN_WAIT_SECONDS if self._lane == "history" else 0)
        if refused:
            raise LeaseLostError(
                f"This run lost its account: {refused[account_id]}. What it had not committed is done by the next run."
            )

    def release(self) -> None:
        """Give back at once what was taken, if the database can be reached; else it runs out."""
        self._over.set()
        with suppress(DatabaseUnavailableError, psycopg.Error), self._connect() as conn, self._lock:
            while self._held:
                release_lease(conn, self._held.pop(), self._holder)

    def _keep(self) -> None:
        renewed_at = time.monotonic()
        pause = LEASE_SECONDS / 3
        while not self._over.wait(min(pause, LOOK_SECONDS) if self._lane == "history" else pause):
            now = time.monotonic()
            try:
                with self._connect() as conn, self._lock:
                    if self._lane == "history":
                        self._held -= lend_leases(conn, self._holder)
                    if now - renewed_at >= pause:
                        self._held &= renew_leases(conn, self._holder)
                        renewed_at = now
            except (DatabaseUnavailableError, psycopg.Error) as error:
                if now - renewed_at > LEASE_SECONDS:
                    self._trouble = error
                    return


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
        lane: Whether it imports what is new or history; for a live run, a holder in the history lane is asked to lend.
        is_run_over: Says of a root run whether it has ended for certain.

    Returns:
        None when the lease is ours, else a sentence that says who has it.

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
                acting_as(conn, None, lock_seconds=ACCOUNT_LOCK_SECONDS),
                conn.cursor(row_factory=tuple_row) as cursor,
            ):
                cursor.execute(query("acquire_lease"), asks | {"abandoned_by": abandoned_by})
                if cursor.fetchone():
                    return None
                held = cursor.execute(query("find_lease"), {"account_id": account_id}).fetchone()
                if lane == "live":
                    cursor.execute(query("want_lease"), asks)
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
    with acting_as(conn, None), conn.cursor(row_factory=tuple_row) as cursor:
        cursor.execute(query("renew_leases"), {"holder": holder, "seconds": LEASE_SECONDS})
        return {account_id for (account_id,) in cursor}


def lend_leases(conn: psycopg.Connection[Any], holder: str) -> set[UUID]:
    """Hand what a run over history holds to the live runs that wait for it, and return the accounts."""
    times = {"seconds": _FETCHED_WITHIN_SECONDS, "asked_within_seconds": _ASKED_WITHIN_SECONDS}
    with acting_as(conn, None), conn.cursor(row_factory=tuple_row) as cursor:
        cursor.execute(query("lend_leases"), {"holder": holder} | times)
        return {account_id for (account_id,) in cursor}


def release_lease(conn: psycopg.Connection[Any], account_id: UUID, holder: str) -> None:
    """Give a lease back, to the run that lent it or to nobody; nothing happens when somebody else has it by now."""
    with acting_as(conn, None):
        conn.execute(query("release_lease"), {"account_id": account_id, "holder": holder, "seconds": LEASE_SECONDS})


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
        # A zombie has ended; without an init process, as in many containers, it stays in the table for ever.
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
