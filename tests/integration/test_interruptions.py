"""Commands that are interrupted, killed, repeated or badly set up: what stays, and how the next one goes on."""

from __future__ import annotations

import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import psycopg
import pytest
from commands import COMMAND, VTT, CommandLine, end, write_calls

pytestmark = pytest.mark.long

EMAIL = "ana@example.com"


def test_a_file_that_was_mended_is_imported_and_no_longer_a_failure(command_line: CommandLine, calls: Path) -> None:
    broken = calls / "late.vtt"
    broken.touch()
    assert command_line.run("upload", calls, "--json").json["failed"] == 1
    broken.write_text(VTT.format(text="Now it is complete."))
    outcome = command_line.run("retry", "--json")
    assert outcome.code == 0
    assert (outcome.json["listed"], outcome.json["inserted"]) == (1, 1)
    assert command_line.run("failures", "--json").json == []
    assert command_line.run("retry").stderr.strip() == "There is nothing to retry."


def test_a_call_that_was_deleted_in_the_library_stays_deleted_until_it_is_asked_for(
    command_line: CommandLine, calls: Path, conn: psycopg.Connection[Any]
) -> None:
    command_line.run("upload", calls)
    (external_id,) = conn.execute(
        "delete from public.recordings where title = 'call 0001' returning source_metadata ->> 'external_id'"
    ).fetchone() or [None]
    conn.commit()
    outcome = command_line.run("upload", calls, "--json")
    assert outcome.code == 0
    assert (outcome.json["inserted"], outcome.json["skipped"], outcome.json["ignored"]) == (0, 2, 1)
    assert "deleted" in command_line.run("why", calls / "call 0001.vtt").stdout
    outcome = command_line.run("retry", "--id", external_id, "--json")
    assert outcome.json["inserted"] == 1
    assert command_line.run("counts", "--json").json == {"file-upload": 3}


def test_interrupting_settles_the_run_and_the_same_command_goes_on(
    command_line: CommandLine, tmp_path: Path, conn: psycopg.Connection[Any]
) -> None:
    folder = tmp_path / "many"
    write_calls(folder, 2500)
    process = command_line.start("upload", folder, "--json")
    deadline = time.monotonic() + 60
    while conn.execute("select count(*) from public.import_items").fetchone() == (0,):
        conn.rollback()
        assert time.monotonic() < deadline, "the import never began"
        time.sleep(0.05)
    outcome = end(process, signal.SIGINT)
    assert outcome.code == 130, outcome.stderr
    assert "goes on from there" in outcome.stderr
    conn.rollback()
    statuses = conn.execute("select status, error from public.sync_jobs").fetchall()
    assert [status for status, _ in statuses] == ["cancelled"]
    assert conn.execute("select count(*) from import_pipeline.leases").fetchone() == (0,)
    (imported,) = conn.execute("select count(*) from public.recordings").fetchone() or (0,)
    assert 0 < imported < 2500
    conn.rollback()

    rest = command_line.run("upload", folder, "--json")
    assert (rest.json["inserted"], rest.json["skipped"]) == (2500 - imported, imported)
    assert conn.execute(
        "select count(*), (select count(*) from public.vault_entries) from public.recordings"
    ).fetchone() == (2500, 2500)


def test_a_killed_import_is_taken_over_at_once_and_completed(
    command_line: CommandLine, tmp_path: Path, conn: psycopg.Connection[Any]
) -> None:
    folder = tmp_path / "many"
    write_calls(folder, 1500)
    process = command_line.start("upload", folder)
    while conn.execute("select count(*) from public.import_items").fetchone() == (0,):
        conn.rollback()
        time.sleep(0.05)
    end(process, signal.SIGKILL)
    outcome = command_line.run("upload", folder, "--json", timeout=60)
    assert outcome.code == 0
    assert outcome.json["inserted"] + outcome.json["skipped"] == 1500
    statuses = conn.execute("select status, error from public.sync_jobs order by created_at").fetchall()
    assert [status for status, _ in statuses] == ["failed", "completed"]
    assert "broke off" in statuses[0][1]


def test_an_item_is_named_for_a_retry_by_its_path_or_its_id(command_line: CommandLine, calls: Path) -> None:
    broken = calls / "empty.vtt"
    broken.touch()
    command_line.run("upload", calls)
    broken.write_text(VTT.format(text="Now it is there."))
    assert command_line.run("retry", "--id", broken, "--json").json["inserted"] == 1
    unknown = command_line.run("retry", "--id", "no-such-item")
    assert unknown.code == 2
    assert "no-such-item" in unknown.stderr


@pytest.mark.long
def test_the_streams_a_command_was_started_without_do_no_harm(command_line: CommandLine, calls: Path) -> None:
    for closed in (">&-", "<&- >&- 2>&-"):
        done = subprocess.run(
            ["bash", "-c", f'"{COMMAND}" upload "{calls}" {closed}'],
            env=command_line.environment,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert "Traceback" not in done.stderr
    assert command_line.run("counts", "--json").json == {"file-upload": 3}


@pytest.mark.parametrize(
    "settings",
    [
        {"DAGSTER_HOME": "/no/such/folder"},
        pytest.param({"DAGSTER_HOME": "relative"}, marks=pytest.mark.long),
        pytest.param(
            {"IMPORT_PIPELINE_DAGSTER_URL": "postgresql://u:s3cr3t-canary@127.0.0.1:9/x"}, marks=pytest.mark.long
        ),
    ],
    ids=["missing home", "relative home", "unreachable storage"],
)
def test_an_instance_that_cannot_be_opened_is_told_with_the_settings_that_name_it(
    command_line: CommandLine, calls: Path, settings: dict[str, str]
) -> None:
    outcome = CommandLine(command_line.home, {**command_line.settings, **settings}).run("upload", calls)
    assert outcome.code == 2, outcome.stderr
    assert "DAGSTER_HOME" in outcome.stderr
    assert "Traceback" not in outcome.stderr
    assert "s3cr3t-canary" not in outcome.stderr


@pytest.mark.long
def test_what_a_killed_import_had_staged_is_removed_by_the_next_one(
    command_line: CommandLine, tmp_path: Path, conn: psycopg.Connection[Any]
) -> None:
    """F88: it holds transcripts."""
    folder = tmp_path / "many"
    write_calls(folder, 900)
    process = command_line.start("upload", folder)
    while conn.execute("select count(*) from public.import_items").fetchone() == (0,):
        conn.rollback()
        time.sleep(0.02)
    end(process, signal.SIGKILL)
    assert command_line.run("upload", folder, "--json").code == 0
    staged = [path for path in (command_line.home / "staging").rglob("*") if path.is_file()]
    assert not [path for path in staged if "transform" in str(path) or "dedup" in str(path)]
