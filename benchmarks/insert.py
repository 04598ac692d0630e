"""How fast calls get into the database: our stages against COPY without any question, one by one, and against dlt.

    uv run --group benchmarks python -m benchmarks.insert [--json] [--rounds 5] [--rows 2000] [--disk]

All sides write the same calls, already fetched and transformed, into the same embedded server. Ours are the stages
dedup and insert: they ask for duplicates and write recordings, vault entries and the ledger as `import_worker`, bound
by row-level security. COPY fills the same three tables with the same indexes, keys and constraints in one
transaction, as their owner, and asks nothing. One by one is `check_duplicate` and `insert_recording` for each call,
without a ledger. dlt loads one table of its own, whose key is the call's id, after a first load that made it; the
last of its sides does not compress the files that dlt writes on the way, which takes most of its time. All but dlt
work on a connection that stays open, as a run keeps it in its pool.

The server's files are in memory where there is room, so that no disk disturbs the comparison; `--disk` keeps them on
disk, where each commit waits for it. Takes ten minutes, without dlt (`--group benchmarks`) three. Fewer than five
rounds or 2,000 rows say little.
"""

from __future__ import annotations

import os
import random
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import psycopg
from psycopg.types.json import Jsonb

from benchmarks.measuring import Claim, Side, parse_arguments, report, take_turns

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

import servers
import tenants
from proxy import Proxy

from import_pipeline import ConnectorRecord, check_duplicate, insert_recording
from import_pipeline.database import migrations
from import_pipeline.database.connections import BoundedConnection, connection_settings
from import_pipeline.database.embedded import open_server
from import_pipeline.library.accounts import ensure_account
from import_pipeline.library.normalise import normalise_record
from import_pipeline.pipeline import new_recording_id
from import_pipeline.records import Account, ListedItem, Ready
from import_pipeline.stages.dedup import leave_out_known
from import_pipeline.stages.insert import cut_chunks, write_outcomes

Connection = psycopg.Connection[Any]
ROUND_TRIP_SECONDS = 0.02
BEGAN = datetime(2024, 3, 1, 9, tzinfo=UTC)
WORDS = [word.strip(".,") for word in (__doc__ or "").split()] + [f"word{number}" for number in range(3000)]


def make_records(number: int, characters: int) -> list[ConnectorRecord]:
    """Return so many calls whose transcripts are about that long and do not compress better than speech."""
    chance = random.Random(characters)  # noqa: S311 - the same calls each time
    records = []
    for position in range(number):
        turns, length, second = [], 0, 0
        while length < characters:
            text = f"[00:{second // 60 % 60:02}:{second % 60:02}] Dana: {' '.join(chance.choices(WORDS, k=20))}"
            turns.append(text)
            length += len(text) + 2
            second += 7
        records.append(
            ConnectorRecord(
                external_id=f"call-{position:06}",
                source_app="benchmark",
                title=f"Call {position}",
                full_transcript="\n\n".join(turns),
                recording_start_time=BEGAN + timedelta(hours=position),
                duration=1800,
                source_metadata={"host": "dana@example.com", "participants": ["Dana", "Omar"], "number": position},
            )
        )
    return records


class Library:
    """A migrated database with one user, who has an account at the source."""

    def __init__(self, url: str) -> None:
        self.url = url
        with psycopg.connect(url) as conn:
            migrations.apply(conn)
            self.user = tenants.make_user(conn)
        with self.connect() as conn:
            account_id = ensure_account(conn, self.user.id, "benchmark")
        self.account = Account(account_id, self.user.id, "benchmark", self.user.email, BEGAN)
        self._open: dict[str, Connection] = {}

    @contextmanager
    def reached_by(self, proxy: Proxy) -> Iterator[None]:
        """Connect by way of a proxy meanwhile."""
        direct, self.url = self.url, proxy.through(self.url)
        try:
            yield
        finally:
            self._open.pop(self.url).close()
            self.url = direct

    def connect(self) -> Connection:
        """Open a connection as every other of ours is."""
        return BoundedConnection.connect(self.url, **connection_settings())

    @contextmanager
    def borrow(self) -> Iterator[Connection]:
        """Lend a connection, always the same one, as a run borrows it from its pool."""
        if self.url not in self._open:
            self._open[self.url] = self.connect()
        yield self._open[self.url]

    def close(self) -> None:
        """Close what was lent."""
        for conn in self._open.values():
            conn.close()

    def empty(self) -> None:
        """Take everything out again, and let no earlier write be caught up with while the next is measured."""
        with self.connect() as conn:
            conn.execute("truncate public.recordings, public.vault_entries, public.import_items")
            conn.execute("checkpoint")

    def require(self, number: int) -> None:
        """Make sure that everything is there."""
        with self.connect() as conn:
            found = conn.execute(
                "select (select count(*) from public.recordings), (select count(*) from public.vault_entries),"
                " (select count(*) from public.import_items)"
            ).fetchone()
        assert found == (number,) * 3, found


def insert_ours(library: Library, records: Sequence[ConnectorRecord]) -> None:
    """Do what the stages do in the database, batch by batch, with what `transform` hands over."""
    with library.borrow() as conn:
        for batch in cut(records, 250):
            items = [ListedItem(record.external_id, record.title) for record in batch]
            of = {item.external_id: record for item, record in zip(items, batch, strict=True)}
            _, remaining = leave_out_known(conn, library.account, items, always_attempt=False)
            for chunk in cut_chunks(Ready(new.item, of[new.item.external_id]) for new in remaining):
                write_outcomes(conn, library.account, "run", chunk)


def insert_one_by_one(library: Library, records: Sequence[ConnectorRecord]) -> None:
    """Check and insert each by itself, with the flat functions."""
    with library.borrow() as conn:
        for record in records:
            if not check_duplicate(conn, library.user.id, record.source_app, record.external_id).is_duplicate:
                insert_recording(conn, library.user.id, record)


def copy(library: Library, records: Sequence[ConnectorRecord]) -> None:
    """Write the same rows by binary COPY as the owner of the tables, without asking for anything."""
    ids = [new_recording_id() for _ in records]
    user, now = library.user, datetime.now(UTC)
    with library.borrow() as conn, conn.transaction(), conn.cursor() as cursor:
        rows: Iterator[tuple[Any, ...]] = (
            (
                recording_id, user.bank_id, user.id, record.title, record.full_transcript, record.source_app,
                Jsonb({"external_id": record.external_id, **record.source_metadata}), record.duration,
                record.recording_start_time, record.recording_start_time, now,
            )
            for recording_id, record in zip(ids, records, strict=True)
        )  # fmt: skip
        write(
            cursor,
            "public.recordings (id, bank_id, owner_user_id, title, full_transcript, source_app, source_metadata,"
            " duration, recording_start_time, recording_end_time, synced_at)",
            ["uuid", "uuid", "uuid", "text", "text", "text", "jsonb", "int4", *["timestamptz"] * 3],
            rows,
        )
        write(
            cursor,
            "public.vault_entries (vault_id, recording_id)",
            ["uuid", "uuid"],
            ((user.vault_id, recording_id) for recording_id in ids),
        )
        write(
            cursor,
            "public.import_items (user_id, source_app, external_id, status, recording_id, title, started_at, attempts,"
            " run_id)",
            ["uuid", "text", "text", "text", "uuid", "text", "timestamptz", "int4", "text"],
            (
                (user.id, record.source_app, record.external_id, "imported", recording_id, record.title,
                 record.recording_start_time, 1, "run")
                for recording_id, record in zip(ids, records, strict=True)
            ),
        )  # fmt: skip


class Dlt:
    """dlt's pipeline into PostgreSQL, whose tables are there already.

    Args:
        library: Whose server to load into.
        folder: Where it keeps its working files.
        strategy: Of merging: `delete-insert`, its usual one, or `insert-only`.
        compresses: Whether it compresses its working files, as it does by itself.
    """

    def __init__(self, library: Library, folder: Path, strategy: str, *, compresses: bool) -> None:
        import dlt

        self.library = library
        self.strategy = strategy
        self.compresses = compresses
        self.name = f"dlt_{strategy.replace('-', '_')}" + ("" if compresses else "_plain")
        self.pipeline = dlt.pipeline(
            self.name,
            pipelines_dir=str(folder / "dlt"),
            # It insists on a host and a password; the socket in the query is what counts.
            destination=dlt.destinations.postgres(library.url.replace("@/", ":unused@localhost/", 1)),
            dataset_name=self.name,
        )

    def insert(self, records: Sequence[ConnectorRecord]) -> None:
        """Load records."""
        os.environ["DATA_WRITER__DISABLE_COMPRESSION"] = str(not self.compresses).lower()
        self.pipeline.run(
            [
                {
                    "external_id": record.external_id,
                    "source_app": record.source_app,
                    "title": record.title,
                    "full_transcript": record.full_transcript,
                    "recording_start_time": record.recording_start_time,
                    "recording_end_time": record.recording_end_time,
                    "duration": record.duration,
                    "source_metadata": record.source_metadata,
                }
                for record in records
            ],
            table_name="recordings",
            columns={"source_metadata": {"data_type": "json"}},
            primary_key="external_id",
            write_disposition={"disposition": "merge", "strategy": self.strategy},
        ).raise_on_failed_jobs()

    def empty(self) -> None:
        """Take everything out again."""
        with self.library.connect() as conn:
            conn.execute(f"truncate {self.name}.recordings")
            conn.execute("checkpoint")


def write(cursor: psycopg.Cursor[Any], target: str, types: list[str], rows: Iterator[tuple[Any, ...]]) -> None:
    """Copy rows into a table."""
    with cursor.copy(f"copy {target} from stdin (format binary)") as sink:
        sink.set_types(types)
        for row in rows:
            sink.write_row(row)


def cut(records: Sequence[ConnectorRecord], size: int) -> Iterator[Sequence[ConnectorRecord]]:
    """Cut into batches."""
    for start in range(0, len(records), size):
        yield records[start : start + size]


def per_row(sides: Sequence[Side], numbers: Sequence[int], rounds: int) -> dict[str, float]:
    """Take turns, and return the median seconds per call of each side, which writes so many."""
    seconds = take_turns(sides, rounds)
    return {side.name: seconds[side.name] / number for side, number in zip(sides, numbers, strict=True)}


def measure(library: Library, characters: int, number: int, rounds: int, folder: Path) -> list[Claim]:
    """Compare all sides with transcripts of about so many characters."""
    records = [normalise_record(record) for record in make_records(number, characters)]
    size = f"{characters // 1000} kB"

    def side(name: str, function: Callable[[Library, Sequence[ConnectorRecord]], None], number: int) -> Side:
        return Side(name, lambda: function(library, records[:number]), library.empty)

    seconds = per_row([side("COPY", copy, number), side("ours", insert_ours, number)], [number] * 2, rounds)
    library.require(number)
    rate = seconds["COPY"] / seconds["ours"]
    claims = [
        Claim(f"{size}: rate of ours / COPY", rate, 0.85 if characters > 9000 else 0.6, seconds=seconds, per="a call")
    ]

    some = min(number, 500)
    ours, one_by_one = side("ours", insert_ours, some), side("one by one", insert_one_by_one, some)
    seconds = per_row([ours, one_by_one], [some] * 2, rounds)
    claims.append(
        Claim(f"{size}: one by one / ours", seconds["one by one"] / seconds["ours"], 5, seconds=seconds, per="a call")
    )

    with Proxy.before(library.url) as proxy, library.reached_by(proxy):
        proxy.delay = ROUND_TRIP_SECONDS / 2
        few = min(number, 10)
        sides = [side("ours", insert_ours, some), side("one by one", insert_one_by_one, few)]
        seconds = per_row(sides, [some, few], rounds)
    text = f"{size}, {ROUND_TRIP_SECONDS * 1000:.0f} ms round trip: one by one / ours"
    claims.append(Claim(text, seconds["one by one"] / seconds["ours"], 50, seconds=seconds, per="a call"))

    if find_spec("dlt"):
        sides = [side("ours", insert_ours, number)]
        ways = {"delete-insert": True, "insert-only": True, "insert-only, files not compressed": False}
        for name, compresses in ways.items():
            loader = Dlt(library, folder, name.partition(",")[0], compresses=compresses)
            loader.insert(records[:1])
            sides.append(Side(name, partial(loader.insert, records), loader.empty))
        seconds = per_row(sides, [number] * len(sides), rounds)
        for name, compresses in ways.items():
            ratio, measured = seconds[name] / seconds["ours"], {each: seconds[each] for each in ("ours", name)}
            target = 8 if compresses else None
            claims.append(Claim(f"{size}: dlt merge, {name} / ours", ratio, target, seconds=measured, per="a call"))
    return claims


def main() -> None:
    """Measure and print."""
    arguments = parse_arguments(
        __doc__,
        rounds=(5, "turns of each side"),
        rows=(2000, "calls that a side writes in its turn"),
        disk=(False, "keep the server's files on disk"),
    )
    if not find_spec("dlt"):
        print("dlt is not installed (`uv run --group benchmarks`): it is left out.", file=sys.stderr)
    os.environ["RUNTIME__DLTHUB_TELEMETRY"] = "false"
    with (
        servers.scratch_folder(in_memory=not arguments.disk) as folder,
        open_server(folder / "home") as server,
        closing(Library(server.url())) as library,
    ):
        claims = [
            claim
            for characters in (2_000, 20_000)
            for claim in measure(library, characters, arguments.rows, arguments.rounds, folder)
        ]
        report(claims, as_json=arguments.json)


if __name__ == "__main__":
    main()
