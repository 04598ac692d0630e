"""Everything that works during a backfill is killed once, and in the end everything is imported, once.

Twelve months of three sources, three accounts each, launched as the UI launches them. Two of the sources are those that
come along; the third is installed by another package, as anybody's may be.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil
import psycopg
import pytest
import servers
from commands import CommandLine
from dev import FINISHED, Dev, running_dev, wait_until
from fakes import FathomServer, ZoomServer, make_calls
from fakes.fathom import API_KEY
from fakes.zoom import ACCOUNT_ID, CLIENT_ID, CLIENT_SECRET

from import_pipeline.connectors.base import ENTRY_POINT_GROUP
from import_pipeline.database.embedded import open_server
from import_pipeline.instance.run_launcher import find_workers

USERS = ("ana@example.com", "ben@example.com", "cleo@example.com")
SOURCES = ("fathom", "zoom", "fathom-eu")
CALLS = 30
ANOTHER_PACKAGE = """
from import_pipeline.connectors.fathom import Fathom


class FathomEurope(Fathom):
    source_app = "fathom-eu"
    title = "Fathom Europe"
"""


def last_months(number: int = 12) -> list[str]:
    """Return the partitions of the last months, the present one included, the oldest first."""
    now = datetime.now(UTC)
    counted = [now.year * 12 + now.month - 1 - back for back in range(number)]
    return [f"{month // 12}-{month % 12 + 1:02}-01" for month in reversed(counted)]


def install(folder: Path) -> None:
    """Write a package that brings a connector."""
    metadata = folder / "fathom_europe-1.0.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: fathom-europe\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(f"[{ENTRY_POINT_GROUP}]\nfathom-eu = fathom_europe:FathomEurope\n")
    (folder / "fathom_europe.py").write_text(ANOTHER_PACKAGE)


@pytest.fixture
def providers() -> Iterator[dict[str, FathomServer | ZoomServer]]:
    with ExitStack() as stack:
        calls = [make_calls(CALLS, months=10.5, seed=seed) for seed in (1, 2, 3)]
        yield {
            "fathom": stack.enter_context(FathomServer(calls=calls[0], latency=0.3)),
            "zoom": stack.enter_context(ZoomServer(calls=calls[1], latency=0.3)),
            "fathom-eu": stack.enter_context(FathomServer(calls=calls[2], latency=0.3)),
        }


@pytest.fixture
def command_line(providers: dict[str, FathomServer | ZoomServer]) -> Iterator[CommandLine]:
    """A library in which three people have connected each of the three sources."""
    with servers.scratch_folder() as folder:
        install(folder / "packages")
        settings = providers["fathom"].environment | providers["zoom"].environment
        settings |= {
            "PYTHONPATH": os.pathsep.join([str(folder / "packages"), *filter(None, [os.environ.get("PYTHONPATH")])]),
            "IMPORT_PIPELINE_FATHOM_EU_URL": providers["fathom-eu"].url,
            "IMPORT_PIPELINE_FATHOM_API_KEY": API_KEY,
            "IMPORT_PIPELINE_FATHOM_EU_API_KEY": API_KEY,
            "IMPORT_PIPELINE_ZOOM_ACCOUNT_ID": ACCOUNT_ID,
            "IMPORT_PIPELINE_ZOOM_CLIENT_ID": CLIENT_ID,
            "IMPORT_PIPELINE_ZOOM_CLIENT_SECRET": CLIENT_SECRET,
        }
        settings |= {f"IMPORT_PIPELINE_{name}_RATE_LIMITS": "none" for name in ("FATHOM", "ZOOM", "FATHOM_EU")}
        command_line = CommandLine(folder / "home", settings)
        with open_server(command_line.home):  # started once, not for every command
            for user in USERS:
                for source in SOURCES:
                    kind = ["--kind", "server-to-server"] if source == "zoom" else []
                    outcome = command_line.run("connect", source, "--user", user, *kind)
                    assert outcome.code == 0, outcome.stderr
        yield command_line


def service(dev: Dev, words: str) -> psutil.Process:
    """Return one of the UI's processes by what its command line says."""
    family = {child.pid for child in psutil.Process(dev.process.pid).children(recursive=True)}
    return next(
        process
        for process in psutil.process_iter(["cmdline"])
        if process.pid in family and words in (process.info["cmdline"] or [])
    )


def working(dev: Dev) -> psutil.Process | None:
    """Return the process of a run that has begun to work."""
    begun = {run["runId"] for run in dev.runs(statuses=["STARTED"])}
    workers = find_workers(str(dev.command_line.home / "dagster"))
    return next((each for each in workers if begun & set(re.findall(r"[0-9a-f-]{36}", each.cmdline()[-1]))), None)


@pytest.mark.long
@pytest.mark.timeout(1500)
def test_whatever_is_killed_during_a_backfill_everything_is_imported_once_and_told_truly_f85(
    command_line: CommandLine, providers: dict[str, FathomServer | ZoomServer]
) -> None:
    months = last_months()
    with running_dev(command_line) as dev:
        backfills = {dev.launch_backfill(f"import_{source.replace('-', '_')}", months): source for source in SOURCES}

        def wait_for_ends(number: int) -> None:
            wait_until(lambda: len(dev.runs(statuses=list(FINISHED))) >= number, f"waited for {number} runs", 600)

        wait_for_ends(2)
        wait_until(lambda: working(dev), "waited for a run that works").kill()
        wait_for_ends(7)
        service(dev, "dagster._daemon").kill()
        wait_for_ends(12)
        service(dev, "import_pipeline.cli.dev.webserver").kill()
        wait_for_ends(17)
        dev.postmasters()[0].kill()
        wait_for_ends(22)
        service(dev, "code-server").kill()
        wait_for_ends(27)
        assert dev.said.count("It is started again") == 3, dev.said
        dev.process.kill()
        dev.process.wait()
        dev.start()

        # A month that broke at the very end of its backfill is started again a minute after that.
        months_of = dict.fromkeys(SOURCES, dict.fromkeys(months, "SUCCESS"))
        wait_until(
            lambda: (
                all(dev.backfills()[each].startswith("COMPLETED") for each in backfills)
                and {source: last_status(dev, source) for source in SOURCES} == months_of
                and not unfinished(dev)
            ),
            "waited for the backfills",
            600,
            lambda: f"{[run for run in dev.runs() if run['status'] != 'SUCCESS']}\n{dev.said}",
        )
        check_library(command_line, providers)


def last_status(dev: Dev, source: str) -> dict[str, str]:
    """Return how the last run of each month of a source ended or stands."""
    runs = [run for run in dev.runs() if run["tags"].get("source") == source and "dagster/partition" in run["tags"]]
    return {run["tags"]["dagster/partition"]: run["status"] for run in reversed(runs)}


def unfinished(dev: Dev) -> list[Any]:
    return dev.runs(statuses=["QUEUED", "NOT_STARTED", "STARTING", "STARTED", "CANCELING"])


def check_library(command_line: CommandLine, providers: dict[str, FathomServer | ZoomServer]) -> None:
    with open_server(command_line.home) as server, psycopg.connect(server.url()) as conn:
        for source, provider in providers.items():
            for user in USERS:
                stored = [
                    external_id
                    for (external_id,) in conn.execute(
                        "select source_metadata ->> 'external_id' from public.recordings join auth.users on users.id ="
                        " owner_user_id where source_app = %s and email = %s",
                        [source, user],
                    )
                ]
                assert len(stored) == len(set(stored)), "nothing twice"
                assert set(stored) == provider.external_ids
        total = CALLS * len(USERS) * len(SOURCES)
        counted = conn.execute(
            "select (select count(*) from public.recordings), (select count(*) from public.vault_entries),"
            " (select count(*) from public.import_items where status = 'imported'),"
            " (select count(*) from public.import_items)"
        ).fetchone()
        assert counted == (total,) * 4
        assert conn.execute("select count(*) from public.sync_jobs where status = 'processing'").fetchone() == (0,)
        assert conn.execute("select count(*) from import_pipeline.leases").fetchone() == (0,)
