"""How soon work begins: an import without news against jobs that do nothing, and a command against loading Dagster.

    uv run python -m benchmarks.job [--json] [--rounds 9] [--calls 10]

**The job.** All sides run in this process, on one instance of Dagster whose runs and events are in the embedded
server, as those of the command line are. The empty ops do nothing at all: no database, no provider, no files; what
they hand over stays in memory. Ours is all that `sync fathom` does once it has loaded: it finds the account, takes its
lease, decrypts and checks its credential, asks a fake Fathom over HTTP for what it lists (ten calls are one page),
stages that in files, finds each call in the ledger, closes the account, records the asset, and tells its progress
meanwhile. The second empty job has the same shape as ours, with its dynamic batch and its report.

**The command.** `import-pipeline counts` and `python -c "import dagster"`, each a process of its own. `counts` answers
from a running server, named by `DATABASE_URL`; from the embedded one while another process uses it; and from the
embedded one that it has to start and stop itself. The library is there already, and all files are in the cache.
"""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any
from uuid import UUID

import dagster as dg

from benchmarks.measuring import Claim, Side, parse_arguments, report, take_turns

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

import servers
from commands import CommandLine
from fakes import FathomServer, make_calls
from fakes.fathom import API_KEY

from import_pipeline.cli.run_job import Execution, find_run, open_instance
from import_pipeline.connectors.base import get_connector
from import_pipeline.database.embedded import open_server
from import_pipeline.database.opening import open_database
from import_pipeline.library.accounts import create_user

USER = "ana@example.com"
ONE_HOUR_IN_MONTHS = 1 / 24 / 30.44
SYNC, IN_A_ROW, SAME_SHAPE = "sync without news", "five empty ops in a row", "empty ops of the same shape"
DAGSTER = "import dagster"


@dg.op
def begin() -> int:
    """Return anything."""
    return 0


@dg.op
def go_on(given: int) -> int:
    """Return what was given."""
    return given


@dg.op(out={"batches": dg.DynamicOut(int), "listings": dg.Out(int)})
def split(given: int) -> Any:
    """Return one batch and a listing."""
    yield dg.DynamicOutput(given, mapping_key="0", output_name="batches")
    yield dg.Output(given, "listings")


@dg.op
def end(listings: int, summaries: list[int]) -> int:
    """Return what was given."""
    return listings + sum(summaries)


@dg.job(executor_def=dg.in_process_executor)
def five_in_a_row() -> None:
    """Five ops, each of which waits for the one before."""
    go_on(go_on(go_on(go_on(begin()))))


@dg.job(executor_def=dg.in_process_executor)
def same_shape() -> None:
    """The five stages and the report."""
    listed = split(begin())
    end(listed.listings, listed.batches.map(lambda batch: go_on(go_on(go_on(batch)))).collect())


def run_empty(job: dg.JobDefinition, instance: dg.DagsterInstance) -> None:
    """Execute a job in this process, as quietly as ours."""
    quiet = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}
    assert job.execute_in_process(quiet, instance=instance).success


def run_ours(execution: Execution, user_id: UUID) -> str:
    """Import what is new, and return the run's id."""
    ended = execution.run({"users": [str(user_id)], "options": {}, "full": False}, [user_id])
    assert ended.success, ended.causes
    return ended.run_id


def measure_job(home: Path, calls: int, rounds: int) -> list[Claim]:
    """Compare an import of one account that lists so many calls, all of them imported before, with empty jobs."""
    with FathomServer(calls=make_calls(calls, months=ONE_HOUR_IN_MONTHS)) as fathom:
        settings = fathom.environment | {
            "IMPORT_PIPELINE_HOME": str(home),
            "IMPORT_PIPELINE_USER": USER,
            "IMPORT_PIPELINE_FATHOM_API_KEY": API_KEY,
            "IMPORT_PIPELINE_FATHOM_RATE_LIMITS": "none",
        }
        os.environ.update(settings)
        with open_database() as database, database.connect() as conn, open_instance(database) as instance:
            with database.connect_as_owner() as owner:
                user_id = create_user(owner, USER)
            connected = CommandLine(home, settings).run("connect", "fathom")
            assert connected.code == 0, connected.stderr
            execution = Execution(database, get_connector("fathom"), instance)

            def require(kind: str) -> None:
                run = find_run(conn, user_id, run_ours(execution, user_id)) or {}
                assert run["counts"][kind] == calls, run

            require("inserted")
            seconds = take_turns(
                [
                    Side(SYNC, partial(run_ours, execution, user_id)),
                    Side(IN_A_ROW, partial(run_empty, five_in_a_row, instance)),
                    Side(SAME_SHAPE, partial(run_empty, same_shape, instance)),
                ],
                rounds,
            )
            require("skipped")
    return [
        Claim(f"{SYNC} / {name}", seconds[SYNC] / seconds[name], 1.5, at_least=False, seconds=seconds)
        for name in (IN_A_ROW, SAME_SHAPE)
    ]


def measure_command(home: Path, rounds: int) -> list[Claim]:
    """Compare `counts` on the library of a home with loading Dagster."""
    guests = ExitStack()  # other processes, as it were; while one of them uses the embedded server it runs on

    def receive_guest() -> None:
        guests.enter_context(open_server(home))

    def count(**settings: str) -> None:
        outcome = CommandLine(home, {"DATABASE_URL": "", "IMPORT_PIPELINE_USER": USER} | settings).run("counts")
        assert outcome.code == 0, outcome.stderr

    with open_server(home) as server:
        url = server.url()
    sides = [
        Side(DAGSTER, partial(subprocess.run, [sys.executable, "-c", DAGSTER], check=True), guests.close),
        Side("running", partial(count, DATABASE_URL=url), receive_guest),
        Side("embedded, in use", count, receive_guest),
        Side("embedded", count, guests.close),
    ]
    with guests:
        seconds = take_turns(sides, rounds)
    return [
        Claim(
            f"counts on {text} / {DAGSTER}", seconds[name] / seconds[DAGSTER], target, at_least=False, seconds=seconds
        )
        for name, text, target in (
            ("running", "a running server", 0.5),
            ("embedded, in use", "the embedded server in use", 1),
            ("embedded", "the embedded server, started for it", 1),
        )
    ]


def main() -> None:
    """Measure and print."""
    arguments = parse_arguments(__doc__, rounds=(9, "turns of each side"), calls=(10, "calls that the provider lists"))
    with servers.scratch_folder() as folder:
        claims = measure_job(folder / "home", arguments.calls, arguments.rounds)
        claims += measure_command(folder / "home", arguments.rounds)
    report(claims, as_json=arguments.json)


if __name__ == "__main__":
    main()
