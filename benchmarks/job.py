"""What an import costs beside Dagster itself, where nothing is new: against jobs of as many ops that do nothing.

    uv run python -m benchmarks.job [--json] [--rounds 9] [--calls 10]

All sides run in this process, on one instance of Dagster whose runs and events are in the embedded server, as those of
the command line are. The empty jobs do nothing at all: neither database, nor provider, nor files. Ours is all that
`sync fathom` does once it has loaded: it finds the account, takes its lease, decrypts and checks its credential, asks
a fake Fathom over HTTP for what it lists, stages it in files, finds each call in the ledger, closes the account and
tells its progress meanwhile. One batch has all the calls; the second empty job has the same shape, its dynamic batch
and its report, with Dagster's own hand-over in memory.
"""

from __future__ import annotations

import os
import sys
from datetime import UTC, datetime
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

from import_pipeline.accounts import create_user
from import_pipeline.cli.execution import Execution, find_run, open_instance
from import_pipeline.connectors.base import get_connector
from import_pipeline.database import open_database

USER = "ana@example.com"
ONE_HOUR_IN_MONTHS = 1 / 24 / 30.44


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
def end(accounts: int, listings: int, summaries: list[int]) -> int:
    """Return what was given."""
    return accounts + listings + sum(summaries)


@dg.job(executor_def=dg.in_process_executor)
def five_in_a_row() -> None:
    """Five ops, each of which waits for the one before."""
    go_on(go_on(go_on(go_on(begin()))))


@dg.job(executor_def=dg.in_process_executor)
def same_shape() -> None:
    """The five stages and the report."""
    accounts = begin()
    listed = split(accounts)
    end(accounts, listed.listings, listed.batches.map(lambda batch: go_on(go_on(go_on(batch)))).collect())


def run_empty(job: dg.JobDefinition, instance: dg.DagsterInstance) -> None:
    """Execute a job in this process, as quietly as ours."""
    quiet = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}
    assert job.execute_in_process(quiet, instance=instance).success


def run_ours(execution: Execution, user_id: UUID) -> str:
    """Import what is new, and return the run's id."""
    ended = execution.run({"users": [str(user_id)], "options": {}, "full": False}, [user_id])
    assert ended.success, ended.causes
    return ended.run_id


def measure(folder: Path, calls: int, rounds: int) -> list[Claim]:
    """Compare a sync of one account that lists so many calls, all of them imported before, with empty jobs."""
    with FathomServer(calls=make_calls(calls, months=ONE_HOUR_IN_MONTHS, until=datetime.now(UTC))) as fathom:
        settings = fathom.environment | {
            "IMPORT_PIPELINE_HOME": str(folder / "home"),
            "IMPORT_PIPELINE_USER": USER,
            "IMPORT_PIPELINE_FATHOM_API_KEY": API_KEY,
            "IMPORT_PIPELINE_FATHOM_RATE_LIMITS": "none",
        }
        os.environ.update(settings)
        with open_database() as database, database.connect() as conn:
            user_id = create_user(conn, USER)
            connected = CommandLine(folder / "home", settings).run("connect", "fathom")
            assert connected.code == 0, connected.stderr
            with open_instance(database) as instance:
                execution = Execution(database, get_connector("fathom"), instance)
                first = find_run(conn, user_id, run_ours(execution, user_id))
                assert first and first["counts"]["inserted"] == calls, first
                seconds = take_turns(
                    [
                        Side("sync without news", partial(run_ours, execution, user_id)),
                        Side("five empty ops in a row", partial(run_empty, five_in_a_row, instance)),
                        Side("empty ops of the same shape", partial(run_empty, same_shape, instance)),
                    ],
                    rounds,
                )
                last = find_run(conn, user_id, run_ours(execution, user_id))
                assert last and last["counts"]["skipped"] == calls, last
    return [
        Claim(f"sync without news / {name}", seconds["sync without news"] / taken, 1.5, at_least=False, seconds=seconds)
        for name, taken in seconds.items()
        if name != "sync without news"
    ]


def main() -> None:
    """Measure and print."""
    arguments = parse_arguments(__doc__, rounds=9, calls=10)
    with servers.scratch_folder() as folder:
        report(measure(folder, arguments.calls, arguments.rounds), as_json=arguments.json)


if __name__ == "__main__":
    main()
