"""SIGKILL at numbered points of stages 4 and 5: one more run takes over, and everything is there, once (F11, F85)."""

from __future__ import annotations

import os
import signal
from multiprocessing.process import BaseProcess
from pathlib import Path

import psycopg
import pytest
import servers
from faults.conftest import OpenLibrary
from faults.killing import Killable
from faults.library import FEW, SMALL_BATCH, Library
from faults.transactions import Point, Transactions, turns
from proxy import Action, Proxy

from import_pipeline.connectors.file_upload import FileUpload

KILLED = -signal.SIGKILL
STRIDE = int(os.environ.get("FAULT_STRIDE", "3"))
"""Of how many points one is tried; 1 tries all."""
SAID = "nothing: it was killed"


@pytest.fixture(scope="module")
def killable() -> Killable:
    return Killable()


def check(library: Library, fault: str, moment: str, files: Path) -> None:
    """Check what one more run makes of it, and that the killed one is told as failed."""
    library.check(fault, moment, SAID, FileUpload(is_of_command=True), FEW, paths=[str(files)])
    with psycopg.connect(library.owner_url) as conn:
        statuses = [status for (status,) in conn.execute("select status from public.sync_jobs order by created_at")]
    assert statuses[-1] == "completed"
    assert set(statuses[:-1]) <= {"failed", "completed"}


def number_points(killable: Killable, library: Library, files: Path) -> list[str]:
    """Run without being killed, and return the points."""
    library.connect("file-upload")
    code, points = killable.run(library.world.url, library.world.staging, files, SMALL_BATCH)
    assert code == 0
    return points


def kill_at(killable: Killable, library: Library, files: Path, points: list[str], number: int) -> None:
    library.connect("file-upload")
    code, _ = killable.run(library.world.url, library.world.staging, files, SMALL_BATCH, kill_at=number)
    assert code == KILLED, "it did not come to that point"
    check(library, f"SIGKILL at point {number:03} of {len(points)}", points[number - 1], files)


def test_a_run_that_is_killed_between_its_two_writes_is_taken_over(
    killable: Killable, open_library: OpenLibrary, few_files: Path
) -> None:
    points = number_points(killable, open_library(), few_files)
    for point in ("call of library/ledger.py send_outcomes", "return of stages/insert.py _write_chunk"):
        kill_at(killable, open_library(), few_files, points, points.index(point) + 1)


@pytest.mark.long
def test_a_run_may_be_killed_at_every_call_and_return_of_transform_and_insert(
    killable: Killable, open_library: OpenLibrary, few_files: Path
) -> None:
    points = number_points(killable, open_library(), few_files)
    assert len(points) > 100
    for number in range(1, len(points) + 1, STRIDE):
        kill_at(killable, open_library(), few_files, points, number)


@pytest.mark.long
@pytest.mark.parametrize("sender", ["client", "server"], ids=["before it is sent", "before its answer"])
def test_a_run_may_be_killed_at_every_turn_of_its_talk_with_the_database(
    sender: str, server: servers.Server, killable: Killable, open_library: OpenLibrary, few_files: Path
) -> None:
    with Proxy.before(server.url) as proxy:

        def run(act: object, watched: int, begun: object) -> tuple[int | None, Transactions, Library]:
            library = open_library()
            library.connect("file-upload")
            rule = Transactions(watched, act)  # type: ignore[arg-type]
            proxy.rules[:] = [rule]
            url = proxy.through(library.world.url)
            code, _ = killable.run(url, library.world.staging, few_files, SMALL_BATCH, begun=begun)  # type: ignore[arg-type]
            proxy.rules.clear()
            return code, rule, library

        code, rule, _ = run(lambda _: None, 0, lambda _: None)
        assert code == 0
        number, points = rule.find_insert(2)
        chosen = [point for point in turns(points) if point.sender == sender]
        missed = 0
        for point in [*chosen[:-1:STRIDE], chosen[-1]]:
            running: list[BaseProcess] = []

            def kill(each: Point, point: Point = point, running: list[BaseProcess] = running) -> Action | None:
                if not each.is_same(point):
                    return None
                running[0].kill()
                return "cut"

            code, _, library = run(kill, number, running.append)
            if code == 0:  # in a pipeline there may be a message less
                missed += 1
                continue
            assert code == KILLED
            check(library, f"SIGKILL before {sender}'s message", str(point), few_files)
        assert missed <= 2, "the messages are not those of the run that was watched"
