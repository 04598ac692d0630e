"""What a newcomer types on a machine that has nothing of ours: the embedded database, the samples, every listing."""

from __future__ import annotations

from collections.abc import Iterator

import dagster as dg
import psycopg
import pytest
from commands import SAMPLES, CommandLine, Outcome

from import_pipeline.database.embedded import open_server
from import_pipeline.instance.preparing import with_psycopg2

KINDS = ("listed", "inserted", "skipped", "waiting", "failed")


@pytest.fixture(scope="module")
def command_line(tmp_path_factory: pytest.TempPathFactory) -> CommandLine:
    return CommandLine(tmp_path_factory.mktemp("home") / "with a space")


@pytest.fixture(scope="module")
def first(command_line: CommandLine) -> Outcome:
    return command_line.run("upload", SAMPLES)


@pytest.fixture(scope="module")
def second(command_line: CommandLine, first: Outcome) -> Outcome:
    return command_line.run("upload", SAMPLES)


@pytest.fixture
def library(command_line: CommandLine, second: Outcome) -> Iterator[psycopg.Connection]:
    with open_server(command_line.home) as server, psycopg.connect(server.url()) as conn:
        yield conn


def test_the_first_command_imports_every_sample_and_ends_with_a_table(first: Outcome) -> None:
    assert first.code == 0, first.stderr
    lines = first.stdout.split("\n")
    headings = next(line for line in lines if "Listed" in line).split()
    figures = next(line for line in lines if "file-upload" in line).split()
    assert headings == ["Source", "Listed", "Imported", "Already", "there", "Waiting", "Failed"]
    assert figures == ["file-upload", "20", "20", "0", "0", "0"]


def test_the_second_run_says_that_everything_is_already_there(second: Outcome) -> None:
    assert second.code == 0, second.stderr
    assert "Everything is already there." in second.stderr
    assert next(line for line in second.stdout.split("\n") if "file-upload" in line).split()[1:] == list(
        ("20", "0", "20", "0", "0")
    )


@pytest.mark.long
def test_upload_json_ends_with_one_object_of_counts(command_line: CommandLine, second: Outcome) -> None:
    outcome = command_line.run("upload", SAMPLES, "--json")
    assert {kind: outcome.json[kind] for kind in KINDS} == dict(zip(KINDS, (20, 0, 20, 0, 0), strict=True))
    assert outcome.json["status"] == "completed"


def test_counts_json_is_an_object_of_source_and_number(command_line: CommandLine, second: Outcome) -> None:
    assert command_line.run("counts", "--json").json == {"file-upload": 20}


def test_status_shows_the_account_of_the_person_at_the_keyboard(command_line: CommandLine, second: Outcome) -> None:
    (account,) = command_line.run("status", "--json").json
    assert account["source_app"] == "file-upload"
    assert account["account_email"].endswith("@localhost")
    assert (account["imported"], account["waiting"], account["failed"]) == (20, 0, 0)
    assert account["last_run_status"] == "completed"
    assert account["last_sync_at"] is not None


def test_every_sample_is_a_recording_in_a_vault_with_turns_and_a_duration_where_it_has_times(
    library: psycopg.Connection, second: Outcome
) -> None:
    rows = library.execute(
        "select title, full_transcript, source_metadata ->> 'format', duration, recording_start_time, global_tags, "
        "(select count(*) from public.vault_entries where recording_id = recordings.id) from public.recordings"
    ).fetchall()
    assert len(rows) == 20
    for title, transcript, file_format, duration, start, tags, entries in rows:
        assert title
        assert transcript.strip()
        assert start is not None
        assert tags == []
        assert entries == 1
        if file_format.startswith(("vtt", "srt")):
            assert transcript.startswith("[00:00:"), title
            assert duration, title


def test_why_knows_a_file_by_its_path_and_by_its_external_id(command_line: CommandLine, second: Outcome) -> None:
    path = sorted(SAMPLES.glob("*.vtt"))[0]
    (row,) = command_line.run("why", path, "--json").json
    assert row["status"] == "imported"
    (again,) = command_line.run("why", row["external_id"], "--json").json
    assert again["recording_id"] == row["recording_id"]
    told = command_line.run("why", path)
    assert path.stem in told.stdout
    assert row["recording_id"] in told.stdout


def test_why_says_that_it_has_never_heard_of_an_item(command_line: CommandLine, second: Outcome) -> None:
    outcome = command_line.run("why", "no-such-id")
    assert outcome.code == 1
    assert "ever listed" in outcome.stderr


def test_sources_lists_file_upload_without_credentials(command_line: CommandLine) -> None:
    rows = {row["source"]: row for row in command_line.run("sources", "--json").json}
    assert rows["file-upload"]["credentials"] == []


def test_what_the_command_line_ran_is_seen_in_the_instance_of_the_ui(
    command_line: CommandLine, second: Outcome, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_server(command_line.home) as server:
        monkeypatch.setenv("IMPORT_PIPELINE_DAGSTER_URL", with_psycopg2(server.url("dagster")))
        with dg.DagsterInstance.from_config(str(command_line.home / "dagster")) as instance:
            runs = instance.get_runs()
    assert {run.job_name for run in runs} == {"import_file_upload"}
    assert {run.status for run in runs} == {dg.DagsterRunStatus.SUCCESS}


def test_dagster_keeps_its_runs_in_the_embedded_server_and_no_transcript_among_them(
    command_line: CommandLine, second: Outcome
) -> None:
    said = "Hello"
    with open_server(command_line.home) as server, psycopg.connect(server.url()) as library:
        transcripts = [row[0] for row in library.execute("select full_transcript from public.recordings")]
        words = {line.split("] ", 1)[-1] for text in transcripts for line in text.splitlines() if len(line) > 60}
        assert words, said
        with psycopg.connect(server.url("dagster")) as storage:
            events = "\n".join(row[0] for row in storage.execute("select event from event_logs"))
    assert events
    assert not [line for line in words if line in events]


def test_nothing_readable_is_left_staged(command_line: CommandLine, second: Outcome) -> None:
    staged = [path for path in (command_line.home / "staging").rglob("*") if path.is_file()]
    assert not [path for path in staged if "transform" in str(path) or "dedup" in str(path)]
    assert all(path.stat().st_mode & 0o077 == 0 for path in (command_line.home / "staging").rglob("*"))


@pytest.mark.long
def test_a_mistyped_user_is_told_and_not_created(command_line: CommandLine, library: psycopg.Connection) -> None:
    for arguments in (["counts"], ["status"], ["failures"], ["retry"], ["why", "x"]):
        outcome = command_line.run(*arguments, "--user", "nobody@example.com")
        assert outcome.code == 2
        assert "nobody@example.com" in outcome.stderr
    assert command_line.run("upload", SAMPLES, "--user", "nobody").code == 2
    assert library.execute("select count(*) from auth.users").fetchone() == (1,)


def test_psql_opens_the_embedded_library(command_line: CommandLine, second: Outcome) -> None:
    outcome = command_line.run("psql", "-tAc", "select count(*) from recordings")
    assert outcome.code == 0, outcome.stderr
    assert outcome.stdout.strip() == "20"
