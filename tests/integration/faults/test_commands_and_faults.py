"""What a person sees when PostgreSQL goes wrong during a command: exit code 3, what happened, no traceback."""

from __future__ import annotations

import re
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest
import servers
from commands import CommandLine, Outcome, write_calls
from faults.library import EMAIL, Library, check_settled

pytestmark = pytest.mark.long

MANY = 400
PASSWORD = "s3cr3t-password"


@pytest.fixture
def command_line(library: Library, tmp_path: Path) -> CommandLine:
    url = library.world.url.replace("importer@", f"importer:{PASSWORD}@")
    return CommandLine(tmp_path / "home", {"DATABASE_URL": url, "IMPORT_PIPELINE_USER": EMAIL})


def interrupt(command_line: CommandLine, library: Library, folder: Path, fault: Callable[[], object]) -> Outcome:
    """Begin an upload, let a fault come after its first commit, and return how it ended."""
    process = command_line.start("upload", folder)
    with psycopg.connect(library.owner_url, autocommit=True) as conn:
        deadline = time.monotonic() + 120
        while conn.execute("select count(*) from public.import_items").fetchone() == (0,):
            assert process.poll() is None, process.communicate()[1]
            assert time.monotonic() < deadline, "the import never began"
            time.sleep(0.02)
    fault()
    try:
        stdout, stderr = process.communicate(timeout=180)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGKILL)
        raise
    return Outcome(process.returncode, stdout, stderr)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("stopped", "could not be reached|connection to the database was lost"),
        ("read only", "read only at present.*DATABASE_URL must lead to the server that takes writes"),
    ],
)
def test_an_upload_that_meets_a_fault_says_what_it_was_and_the_same_command_goes_on(
    name: str, words: str, command_line: CommandLine, library: Library, server: servers.Server, tmp_path: Path
) -> None:
    folder = tmp_path / "many"
    write_calls(folder, MANY)
    database = library.owner_url.rpartition("/")[2].partition("?")[0]

    def set_read_only(value: str) -> None:
        with psycopg.connect(server.url, autocommit=True) as conn:
            conn.execute(f"alter database {database} set default_transaction_read_only = {value}")
            conn.execute(
                "select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'import-pipeline'"
            )

    def begin() -> None:
        if name == "read only":
            set_read_only("on")
        else:
            server.stop("immediate")

    broken = interrupt(command_line, library, folder, begin)
    if name == "read only":
        set_read_only("off")
    elif not server.is_running:
        server.start()
    said = broken.stderr.strip().splitlines()[-1]
    assert broken.code == 3, broken.stderr
    assert re.search(words, broken.stderr), broken.stderr
    assert "Traceback" not in broken.stderr
    assert PASSWORD not in broken.stdout + broken.stderr
    assert broken.stderr.count("Is the server running") == 0, "the driver's own words are for its log"

    began_at = time.monotonic()
    rest = command_line.run("upload", folder, "--json")
    assert rest.code == 0, rest.stderr
    assert 0 < rest.json["inserted"] < MANY
    numbers = check_settled(library.owner_url, MANY)
    library.write(
        f"{name} (command)", "after its first commit", f"exit code 3: {said}", numbers, time.monotonic() - began_at
    )
