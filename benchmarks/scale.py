"""How much more several processes import than one, each for another account, and that they are in nobody's way.

    uv run python -m benchmarks.scale [--json] [--rounds 5] [--calls 300] [--characters 20000] [--most 8]

Each process runs the real import of its account, from a fake Fathom that answers after 50 ms, into the same embedded
PostgreSQL. What is measured begins when all of them have loaded their code. Two cores carry the processes, PostgreSQL
and the fake together, so no ratio is promised; that nobody waits for the locks of anybody else is.
"""

from __future__ import annotations

import os
import statistics
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psycopg

from benchmarks.endless_fathom import EndlessFathom
from benchmarks.measuring import Claim, parse_arguments, report

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

import servers
import tenants
from commands import start_together

from import_pipeline.database import migrations
from import_pipeline.database.embedded import EmbeddedServer, open_server
from import_pipeline.library.accounts import ensure_account
from import_pipeline.providers.credentials import store_credential
from import_pipeline.providers.keys import Secrets, open_key_ring

WORKER = """
import sys, time
from import_pipeline.cli.run_job import Execution, open_instance
from import_pipeline.connectors.base import get_connector
from import_pipeline.database.opening import open_database

with open_database() as database, open_instance(database) as instance:
    execution = Execution(database, get_connector("fathom"), instance)
    print("ready", flush=True)
    number = int(sys.stdin.readline())
    ended = execution.run({"users": [f"user-{number}@example.com"]}, [])
    print(time.monotonic() if ended.success else ended.causes, flush=True)
"""

FOUND = """
select
    (select count(*) from public.recordings),
    (select count(*) from (
        select distinct owner_user_id, source_metadata ->> 'external_id' from public.recordings
    ) as calls),
    (select count(*) from public.vault_entries),
    (select count(*) from public.import_items where status = 'imported' and recording_id is not null)
"""


@dataclass
class Locks:
    """Who waited for a lock of somebody else.

    Attributes:
        waits: How many statements were seen waiting, with what for.
        deadlocks: How many the server has counted.
    """

    waits: dict[tuple[int, str], str] = field(default_factory=dict)
    deadlocks: int = 0


class Library:
    """Users with an account each, in one database.

    Args:
        server: The embedded server.
        number: How many users.
    """

    def __init__(self, server: EmbeddedServer, number: int) -> None:
        self.conn = psycopg.connect(server.url(), autocommit=True)
        migrations.apply(self.conn)
        self.keys = [f"key-{each}" for each in range(number)]
        ring = open_key_ring(is_embedded=True)
        for each, key in enumerate(self.keys):
            user = tenants.make_user(self.conn, f"user-{each}@example.com")
            account_id = ensure_account(self.conn, user.id, "fathom", user.email)
            store_credential(self.conn, ring, account_id, user.id, Secrets("api-key", {"api_key": key}), {})

    def empty(self) -> None:
        """Take everything out again."""
        self.conn.execute("truncate public.recordings, public.vault_entries, public.import_items, public.sync_jobs")
        self.conn.execute("update public.import_sources set last_sync_at = null")
        self.conn.execute("checkpoint")

    def require(self, number: int) -> None:
        """Make sure that everything is there once."""
        found = self.conn.execute(FOUND).fetchone()
        assert found == (number,) * 4, found

    @contextmanager
    def watch(self, locks: Locks) -> Iterator[None]:
        """Note meanwhile who waits for a lock."""
        over = threading.Event()
        watcher = threading.Thread(target=self._look, args=(locks, over))
        before = self._count_deadlocks()
        watcher.start()
        try:
            yield
        finally:
            over.set()
            watcher.join()
            locks.deadlocks += self._count_deadlocks() - before

    def _look(self, locks: Locks, over: threading.Event) -> None:
        with psycopg.connect(self.conn.info.dsn, autocommit=True) as conn:
            while not over.wait(0.02):
                waiting = conn.execute(
                    "select pid, query_start::text, wait_event || ': ' || query from pg_stat_activity"
                    # A file that grows is one's own for an instant, whoever writes the table.
                    " where wait_event_type = 'Lock' and wait_event <> 'extend' and datname = current_database()"
                )
                locks.waits |= {(pid, began): what for pid, began, what in waiting}

    def _count_deadlocks(self) -> int:
        time.sleep(1.1)  # backends tell their counts once a second at most
        found = self.conn.execute("select sum(deadlocks) from pg_stat_database").fetchone()
        assert found is not None
        return int(found[0])


def import_together(processes: int) -> float:
    """Let so many processes import, each its account; return the seconds until the last was done."""
    running = start_together(WORKER, [], processes)
    begun = time.monotonic()
    told = [each.communicate()[0].strip() for each in running]
    assert all(each.returncode == 0 for each in running), told
    return max(float(each) for each in told) - begun


def measure(library: Library, numbers: list[int], calls: int, rounds: int) -> Iterator[Claim]:
    """Compare the calls per second of so many processes with those of one."""
    locks = Locks()
    taken: dict[int, list[float]] = {number: [] for number in numbers}
    for turn in range(rounds + (rounds > 1)):
        for number in numbers:
            library.empty()
            with library.watch(locks):
                seconds = import_together(number)
            library.require(number * calls)
            if turn or rounds == 1:  # else the first warms up
                taken[number].append(seconds)
    rates = {number: number * calls / statistics.median(each) for number, each in taken.items()}
    for number in numbers[1:]:
        rate = rates[number] / rates[1]
        yield Claim(
            f"{number} processes / 1: calls per second ({rate / number:.0%} each)", rate, None,
            seconds={f"{each}": statistics.median(taken[each]) for each in (1, number)},
        )  # fmt: skip
    yield Claim(
        "waits for a lock of another process, looked for every 20 ms", len(locks.waits), 0, at_least=False, unit="waits"
    )
    yield Claim("deadlocks", locks.deadlocks, 0, at_least=False, unit="deadlocks")
    for what in sorted(set(locks.waits.values())):
        print(what, file=sys.stderr)


def main() -> None:
    """Measure and print."""
    arguments = parse_arguments(
        __doc__, rounds=(5, "imports with each number of processes"), calls=(300, "calls of each account"),
        characters=(20_000, "characters of each transcript"), most=(8, "processes at most"),
    )  # fmt: skip
    numbers = [number for number in (1, 2, 4, 8) if number <= arguments.most]
    with servers.scratch_folder() as folder:
        os.environ["IMPORT_PIPELINE_HOME"] = str(folder / "home")
        with open_server() as server:
            library = Library(server, arguments.most)
            fathom = EndlessFathom(
                number=arguments.calls,
                characters=arguments.characters,
                latency=0.05,
                api_keys=dict.fromkeys(library.keys),
            )
            with library.conn, fathom:
                os.environ |= fathom.environment | {
                    "IMPORT_PIPELINE_FATHOM_RATE_LIMITS": "none",
                    "IMPORT_PIPELINE_FATHOM_HISTORY_START": f"{fathom.call(arguments.calls).started_at:%Y-%m-%d}",
                }
                claims = list(measure(library, numbers, arguments.calls, arguments.rounds))
        report(claims, as_json=arguments.json)


if __name__ == "__main__":
    main()
