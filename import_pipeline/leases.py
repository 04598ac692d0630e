"""One run per account at a time: a row in `import_pipeline.leases` that its holder renews while it works.

The holder is the root run, so that a re-execution continues under the same lease. A lease ends by being given back, by
silence, or at once when its holder is provably gone: its process on this machine has ended, or its run is over.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable
from typing import Any
from uuid import UUID

import psutil
import psycopg
from psycopg.rows import tuple_row

from import_pipeline.sql import query
from import_pipeline.tenancy import acting_as

LEASE_SECONDS = 90
"""Silence after which a lease may be taken over; the holder renews it between items."""
WAIT_SECONDS = 100
"""How long a run waits for another one: longer than the silence, so that a crashed holder never fails its successor."""

_PAUSE_SECONDS = 0.5


def acquire_lease(
    conn: psycopg.Connection[Any],
    account_id: UUID,
    holder: str,
    *,
    is_run_over: Callable[[str], bool],
    wait_seconds: float = WAIT_SECONDS,
) -> str | None:
    """Take or renew the lease of an account, waiting for its present holder for a bounded time.

    Args:
        conn: An idle connection; nothing is held open while waiting.
        account_id: The account.
        holder: Root run id of the run that asks.
        is_run_over: Says of a root run whether it has ended for certain.
        wait_seconds: How long to wait at most.

    Returns:
        None when the lease is ours, else a sentence that says who has it.
    """
    deadline = time.monotonic() + wait_seconds
    abandoned_by: str | None = None
    while True:
        with acting_as(conn, None), conn.cursor(row_factory=tuple_row) as cursor:
            cursor.execute(
                query("acquire_lease"),
                {
                    "account_id": account_id,
                    "holder": holder,
                    "holder_process": this_process(),
                    "seconds": LEASE_SECONDS,
                    "abandoned_by": abandoned_by,
                },
            )
            if cursor.fetchone():
                return None
            held = cursor.execute(query("find_lease"), {"account_id": account_id}).fetchone()
        if held is None:
            continue
        other, process, heartbeat_at = held
        if is_process_gone(process) or is_run_over(other):
            abandoned_by = other
            continue
        if time.monotonic() >= deadline:
            return f"run {other} is working on this account (last sign of life {heartbeat_at:%H:%M:%S} UTC)"
        time.sleep(_PAUSE_SECONDS)


def release_lease(conn: psycopg.Connection[Any], account_id: UUID, holder: str) -> None:
    """Give a lease back; nothing happens when somebody else has it by now."""
    with acting_as(conn, None):
        conn.execute(query("release_lease"), {"account_id": account_id, "holder": holder})


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
