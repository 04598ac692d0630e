"""Whether the duplicate check stays fast as the library grows: 500 ids against ever more recordings of one owner.

    uv run python -m benchmarks.dedup [--json] [--rounds 7] [--largest 1000000] [--batches 10]

Half of the ids are known, drawn anew for every batch. Asked as `import_worker` through the product's own functions: the
question to `recordings` alone, and the stage, which asks the ledger first. Once on tables that were just loaded and of
which PostgreSQL has no statistics, once after `analyze`. `--largest 10000000` takes ten minutes and 10 GB of disk.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import psycopg

from benchmarks.insert import Connection, Library
from benchmarks.measuring import Claim, Side, parse_arguments, report, take_turns

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

import servers

from import_pipeline import check_duplicates
from import_pipeline.database.embedded import open_server
from import_pipeline.database.sql import query
from import_pipeline.database.tenancy import acting_as
from import_pipeline.records import ListedItem
from import_pipeline.stages.dedup import leave_out_known

IDS = 500
SIZES = (1_000, 100_000, 1_000_000, 10_000_000)
TABLES = ("public.recordings", "public.import_items")

# Foreign keys are not checked row by row here: what they refer to is there.
LOAD = """
set session_replication_role = replica;
set synchronous_commit = off;
alter table public.recordings set (autovacuum_enabled = false);
alter table public.import_items set (autovacuum_enabled = false);
insert into public.recordings
    (id, bank_id, owner_user_id, title, full_transcript, source_app, source_metadata, duration, recording_start_time)
select
    lpad(to_hex(n), 32, '0')::uuid, '{bank_id}', '{user_id}', 'Call ' || n, '[00:00:01] Dana: This is call ' || n,
    '{source_app}', jsonb_build_object('external_id', 'call-' || lpad(n::text, 9, '0'), 'host', 'dana@example.com'),
    1800, now() - make_interval(mins => n)
from generate_series(1, {number}) as n;
insert into public.import_items
    (user_id, source_app, external_id, status, recording_id, title, started_at, attempts, run_id)
select
    '{user_id}', '{source_app}', 'call-' || lpad(n::text, 9, '0'), 'imported', lpad(to_hex(n), 32, '0')::uuid,
    'Call ' || n, now() - make_interval(mins => n), 1, 'run'
from generate_series(1, {number}) as n;
checkpoint;
"""


class Loaded:
    """A library with so many recordings of one owner, all in the ledger, and a connection that asks for them."""

    def __init__(self, url: str, number: int) -> None:
        self.number = number
        self.library = Library(url)
        account, user = self.library.account, self.library.user
        statement = LOAD.format(
            bank_id=user.bank_id, user_id=user.id, source_app=account.source_app, number=self.number
        )
        with psycopg.connect(url, autocommit=True) as conn:
            conn.execute(statement)
        self.conn: Connection = self.library.connect()
        self.batches: list[list[str]] = []
        self._chance = random.Random(number)  # noqa: S311 - the same ids each time

    def draw(self, number: int) -> None:
        """Draw the ids of so many batches."""
        self.batches = [
            [f"call-{each:09}" for each in self._chance.sample(range(1, self.number + 1), IDS // 2)]
            + [f"new-{self._chance.randrange(10**9):09}" for _ in range(IDS // 2)]
            for _ in range(number)
        ]
        for batch in self.batches:
            self._chance.shuffle(batch)

    def ask(self) -> None:
        """Ask which of them are in `recordings`."""
        account = self.library.account
        for batch in self.batches:
            answers = check_duplicates(self.conn, account.user_id, account.source_app, batch)
            assert sum(answer.is_duplicate for answer in answers.values()) == IDS // 2

    def leave_out(self) -> None:
        """Do what the stage does."""
        for batch in self.batches:
            items = [ListedItem(external_id) for external_id in batch]
            counts, new = leave_out_known(self.conn, self.library.account, items, always_attempt=False)
            assert (counts.skipped, len(new)) == (IDS // 2, IDS // 2)

    def plans(self) -> Iterator[str]:
        """Return how PostgreSQL answers the two questions of the stage."""
        account = self.library.account
        parameters = {"user_id": account.user_id, "source_app": account.source_app, "external_ids": self.batches[0]}
        for name in ("find_recordings", "find_items"):
            with acting_as(self.conn, account.user_id):
                plan = self.conn.execute(f"explain {query(name)}", parameters).fetchall()
            yield "\n".join(line for (line,) in plan)

    def count_statistics(self) -> int:
        """Return how many columns of the two tables PostgreSQL has statistics of."""
        with psycopg.connect(self.library.url) as conn:
            found = conn.execute(
                "select count(*) from pg_statistic where starelid = any(%s::regclass[])", [list(TABLES)]
            ).fetchone()
        assert found is not None
        return int(found[0])

    def analyse(self) -> None:
        """Let PostgreSQL gather statistics."""
        with psycopg.connect(self.library.url, autocommit=True) as conn:
            conn.execute(f"analyze {', '.join(TABLES)}")


def measure(libraries: Sequence[Loaded], when: str, rounds: int, batches: int) -> Iterator[Claim]:
    """Compare each library with the smallest, and count the plans that read a whole table."""
    for what, ask in (("recordings", Loaded.ask), ("ledger and recordings", Loaded.leave_out)):
        sides = [Side(f"{each.number:,}", partial(ask, each), partial(each.draw, batches)) for each in libraries]
        seconds = {name: taken / batches for name, taken in take_turns(sides, rounds).items()}
        smallest, *others = seconds
        for name in others:
            yield Claim(
                f"{when}, {what}: time at {name} / at {smallest}", seconds[name] / seconds[smallest], 4, at_least=False,
                seconds={smallest: seconds[smallest], name: seconds[name]}, per=f"a batch of {IDS}",
            )  # fmt: skip
    # With statistics PostgreSQL knows that it is cheaper to read a table whole of which half is asked for.
    plans = [plan for each in libraries if each.number > 10 * IDS for plan in each.plans()]
    assert all("Index Scan" in plan or "Seq Scan" in plan for plan in plans), plans
    scans = sum("Seq Scan" in plan for plan in plans)
    text = f"{when}: sequential scans in {len(plans)} plans, of libraries above {10 * IDS:,}"
    yield Claim(text, scans, 0, at_least=False, unit="scans")


def main() -> None:
    """Measure and print."""
    arguments = parse_arguments(
        __doc__, rounds=(7, "turns of each side"),
        largest=(1_000_000, "recordings in the largest library, at least 500"), batches=(10, "batches in a turn"),
    )  # fmt: skip
    sizes = [size for size in SIZES if size < arguments.largest] + [arguments.largest]
    with ExitStack() as stack:
        folder = stack.enter_context(servers.scratch_folder(in_memory=False))
        server = stack.enter_context(open_server(folder / "home"))
        libraries = [Loaded(servers.create_database(server.url()), size) for size in sizes]
        for each in libraries:
            stack.enter_context(each.conn)
            assert each.count_statistics() == 0
        claims = [*measure(libraries, "just loaded", arguments.rounds, arguments.batches)]
        assert sum(each.count_statistics() for each in libraries) == 0
        for each in libraries:
            each.analyse()
        claims += measure(libraries, "analysed", arguments.rounds, arguments.batches)
        report(claims, as_json=arguments.json)


if __name__ == "__main__":
    main()
