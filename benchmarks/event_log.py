"""How much Dagster's database grows: events and bytes of a run without news, and of a thousand imported calls.

    uv run python -m benchmarks.event_log [--json] [--calls 1000] [--runs 10]

Opens `import-pipeline dev` on a home of its own, beside a fake Fathom, and launches runs as the UI does: through the
queue, each in a process of its own. Bytes are those on disk, with indexes, of so many copies that a page more or less
does not count.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import dagster as dg
import psycopg

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

import servers
from commands import CommandLine
from dev import Dev, running_dev, wait_until
from fakes import FathomServer, make_calls
from fakes.fathom import API_KEY

from import_pipeline.database.embedded import open_server
from import_pipeline.definitions import defs

COPIES = 200


def measure(calls: int, runs: int) -> dict[str, dict[str, int]]:
    """Run imports and count what they left in Dagster's database.

    Args:
        calls: How many calls there are to import at first.
        runs: How many runs follow that find nothing new.
    """
    with FathomServer(calls=make_calls(calls, months=1)) as fathom, servers.scratch_folder() as folder:
        settings = fathom.environment | {
            "IMPORT_PIPELINE_USER": "ana@example.com",
            "IMPORT_PIPELINE_FATHOM_API_KEY": API_KEY,
            "IMPORT_PIPELINE_FATHOM_RATE_LIMITS": "none",
        }
        command_line = CommandLine(folder / "home", settings)
        connected = command_line.run("connect", "fathom")
        assert connected.code == 0, connected.stderr
        with running_dev(command_line) as dev, open_server(command_line.home) as server:
            first = launch(dev)
            imported = command_line.run("counts", "--json").json["fathom"]
            assert imported == calls, f"{imported} of {calls} were imported"
            others = [launch(dev) for _ in range(runs)]
            refreshes = wait_until(lambda: refreshes_of(dev), "waited for the assets to be refreshed", 300)
            with psycopg.connect(server.url("dagster"), autocommit=True) as conn:
                return {
                    "run without news": growth(conn, others),
                    f"run that imports {calls} calls": growth(conn, [first]),
                    "refresh of the assets": growth(conn, refreshes),
                    "ticks of a day": ticks_of_a_day(conn),
                }


def launch(dev: Dev) -> str:
    """Import what is new, and return the run's id."""
    run_id = dev.launch("import_fathom")
    status = dev.wait_for_run(run_id, timeout=600)["status"]
    assert status == "SUCCESS", f"run {run_id} ended as {status}"
    return run_id


def refreshes_of(dev: Dev) -> list[str]:
    """Return the runs that have refreshed the assets so far."""
    return [run["runId"] for run in dev.runs(statuses=["SUCCESS"]) if run["jobName"].startswith("__")]


def growth(conn: psycopg.Connection[Any], runs: list[str]) -> dict[str, int]:
    """Return how many events and bytes one of these runs left, on average."""
    found = conn.execute("select count(*) from event_logs where run_id = any(%s)", [runs]).fetchone()
    assert found is not None
    size = sum(size_of(conn, table, runs) for table in ("event_logs", "runs", "run_tags"))
    return {"events": round(found[0] / len(runs)), "bytes": round(size / len(runs))}


def ticks_of_a_day(conn: psycopg.Connection[Any]) -> dict[str, int]:
    """Return how many ticks the sensors leave in a day that nobody has to switch on, and how many bytes."""
    sensors = [each for each in defs.sensors or [] if isinstance(each, dg.SensorDefinition)]
    always = [each for each in sensors if each.default_status == dg.DefaultSensorStatus.RUNNING]
    ticks = sum(86_400 / (each.minimum_interval_seconds or 30) for each in always)
    found = conn.execute("select count(*) from job_ticks").fetchone()
    assert found is not None
    return {"ticks": round(ticks), "bytes": round(size_of(conn, "job_ticks") / found[0] * ticks)}


def size_of(conn: psycopg.Connection[Any], table: str, runs: list[str] | None = None) -> float:
    """Return the bytes on disk of a table's rows, or of those of some runs, as if they were many."""
    listed = conn.execute(
        "select column_name from information_schema.columns where table_name = %s and column_name <> 'id'", [table]
    ).fetchall()
    columns = [name for (name,) in listed]
    # The ids of the copies differ, else the indexes would keep equal ones once.
    values = ["md5(run_id || copy)::uuid::text" if name == "run_id" else name for name in columns]
    with conn.transaction(force_rollback=True):
        conn.execute(f"create table many (like {table} including all)")
        conn.execute(
            f"insert into many ({', '.join(columns)}) select {', '.join(values)}"
            f" from {table}, generate_series(1, {COPIES}) as copy"
            + ("" if runs is None else " where run_id = any(%(runs)s)"),
            {"runs": runs},
        )
        found = conn.execute("select pg_total_relation_size('many')").fetchone()
    assert found is not None
    return float(found[0]) / COPIES


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--json", action="store_true", help="print JSON for programs")
    parser.add_argument("--calls", type=int, default=1000, help="how many calls to import")
    parser.add_argument("--runs", type=int, default=10, help="how many runs without news")
    arguments = parser.parse_args()
    figures = measure(arguments.calls, arguments.runs)
    if arguments.json:
        print(json.dumps(figures))
        return
    for what, figure in figures.items():
        (unit, number), (_, size) = figure.items()
        print(f"{what:<32} {number:,} {unit}, {size:,} bytes")


if __name__ == "__main__":
    main()
