"""Many processes import the same calls at the same time: each call once, and no error that anybody sees."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from typing import Any

import psycopg
import tenants

from import_pipeline import ConnectorRecord, insert_recordings, run_pipeline
from import_pipeline.library.accounts import ensure_account

Connection = psycopg.Connection[Any]

_START = """
import json, random, sys
from datetime import UTC, datetime
from uuid import UUID
import psycopg
from import_pipeline import ConnectorRecord, run_pipeline

url, user_id, count, seed = sys.argv[1], UUID(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
order = list(range(count))
random.Random(seed).shuffle(order)

def record(number):
    return ConnectorRecord(f"call-{number:04d}", "demo", "t", "Ana: Hello.", datetime(2024, 1, 1, tzinfo=UTC))

def say(text):
    sys.stdout.write(text + "\\n")
    sys.stdout.flush()

conn = psycopg.connect(url, autocommit=True)
say("ready")
sys.stdin.readline()
"""

ONE_BY_ONE = (
    _START
    + """
if seed % 2 == 0:
    order.sort()  # half of them come upon every record at the same moment
results = [run_pipeline(conn, user_id, record(number)) for number in order]
say(json.dumps([["imported" if r.success else "skipped" if r.skipped else r.error, str(r.recording_id)]
                for r in results]))
"""
)

IN_BATCHES = (
    _START
    + """
from import_pipeline.records import Account, ListedItem, Ready, Failed
from import_pipeline.stages.insert import write_outcomes

account = Account(UUID(sys.argv[5]), user_id, "demo", "ana", datetime(2024, 1, 1, tzinfo=UTC))
results = []
for begin in range(0, count, 50):
    outcomes = []
    for number in order[begin:begin + 50]:
        item = ListedItem(f"call-{number:04d}")
        if number % 5 == 0:
            outcomes.append(Failed(ListedItem(f"broken-{number:04d}"), "data", "It is broken."))
        else:
            outcomes.append(Ready(item, record(number)))
    counts, without = write_outcomes(conn, account, f"run-{seed}", outcomes)
    results.append([counts.inserted, counts.skipped, counts.failed, without])
say(json.dumps(results))
"""
)


def run_at_once(program: str, processes: int, *arguments: object) -> list[Any]:
    """Start processes, let them go at the same moment, and return what each says."""
    running = [
        subprocess.Popen(
            [sys.executable, "-c", program, *map(str, arguments[:3]), str(seed), *map(str, arguments[3:])],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for seed in range(processes)
    ]
    try:
        for each in running:
            assert each.stdout is not None
            assert each.stdout.readline() == "ready\n"
        for each in running:
            assert each.stdin is not None
            each.stdin.write("go\n")
            each.stdin.flush()
        return [json.loads(each.communicate()[0]) for each in running]
    finally:
        for each in running:
            each.kill()


def counts(conn: Connection) -> tuple[int, int, int]:
    """Recordings, distinct external ids among them, vault entries."""
    row = conn.execute(
        "select count(*), count(distinct source_metadata ->> 'external_id'), (select count(*) from vault_entries)"
        " from recordings"
    ).fetchone()
    assert row is not None
    return tuple(row)  # type: ignore[return-value]


def test_processes_that_import_the_same_calls_at_once_import_each_once(
    conn: Connection, database_url: str, ana: tenants.User
) -> None:
    """F1: check-then-insert has a gap, and the unique index closes it."""
    processes, calls = 16, 1000
    results = run_at_once(ONE_BY_ONE, processes, database_url, ana.id, calls)
    told = Counter(result for each in results for result, _ in each)
    assert told == {"imported": calls, "skipped": calls * (processes - 1)}
    assert len({recording_id for each in results for _, recording_id in each}) == calls
    assert counts(conn) == (calls, calls, calls)


def test_batches_in_different_orders_neither_collide_nor_count_twice(
    conn: Connection, database_url: str, ana: tenants.User
) -> None:
    """F1: two transactions that take the same rows in different orders would wait for each other."""
    account_id = ensure_account(conn, ana.id, "demo", None)
    results = run_at_once(IN_BATCHES, 4, database_url, ana.id, 400, account_id)
    inserted, skipped, failed, without = (sum(part[index] for each in results for part in each) for index in range(4))
    assert (inserted, skipped, failed, without) == (320, 960, 320, 0)
    assert counts(conn) == (320, 320, 320)
    assert conn.execute("select status, count(*) from import_items group by 1 order by 1").fetchall() == [
        ("failed", 80),
        ("imported", 320),
    ]
    deadlocks = conn.execute("select deadlocks from pg_stat_database where datname = current_database()").fetchone()
    assert deadlocks == (0,)


def test_with_a_broken_check_the_same_calls_imported_twice_are_still_there_once(
    conn: Connection, ana: tenants.User
) -> None:
    """F2: the check saves work, it is not what keeps duplicates out."""
    records = [
        ConnectorRecord(f"call-{number}", "demo", "t", "Ana: Hello.", "2024-01-01T00:00:00Z") for number in range(1000)
    ]
    break_every_look_up_before_an_insert(conn)
    first = [*insert_recordings(conn, ana.id, records[:900]), *(run_pipeline(conn, ana.id, r) for r in records[900:])]
    second = [*(run_pipeline(conn, ana.id, r) for r in records[:100]), *insert_recordings(conn, ana.id, records[100:])]
    assert all(getattr(result, "is_new", False) or getattr(result, "success", False) for result in first)
    assert not any(getattr(result, "is_new", False) or getattr(result, "success", False) for result in second)
    assert all(result.error is None for result in [*first, *second])
    assert [result.recording_id for result in second] == [result.recording_id for result in first]
    assert counts(conn) == (1000, 1000, 1000)


def break_every_look_up_before_an_insert(conn: Connection) -> None:
    """Let the duplicate check fail, but not the reading back of a row that was there before."""
    for statement in (
        "create function public.note_insert() returns trigger language plpgsql as"
        " $$ begin perform set_config('test.inserting', 'on', true); return null; end $$",
        "create trigger note_insert before insert on public.recordings for each statement"
        " execute function public.note_insert()",
        "create function public.fail_unless_inserting() returns boolean language plpgsql volatile as $$ begin"
        " if coalesce(current_setting('test.inserting', true), '') <> 'on' then raise 'broken'; end if;"
        " return true; end $$",
        "create policy broken on public.recordings as restrictive for select to import_worker"
        " using (public.fail_unless_inserting())",
    ):
        conn.execute(statement)
