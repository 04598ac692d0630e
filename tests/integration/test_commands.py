"""The commands on a database of the owner's: users, failures, retries, interruptions, exit codes."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import dagster as dg
import psycopg
import pytest
from commands import CommandLine

from import_pipeline.connectors.file_upload import FileUpload
from import_pipeline.defs.jobs import build_import_job
from import_pipeline.stages.postgres import PostgresResource
from import_pipeline.stages.staging import StreamIOManager

EMAIL = "ana@example.com"


@pytest.mark.long
def test_broken_files_fail_with_reasons_and_the_others_are_imported(command_line: CommandLine, calls: Path) -> None:
    (calls / "empty.vtt").touch()
    (calls / "empty too.vtt").touch()
    (calls / "picture.txt").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(64))
    (calls / "notes.pages").write_text("Dana: hello")
    outcome = command_line.run("upload", calls, "--json")
    assert outcome.code == 1
    assert (outcome.json["listed"], outcome.json["inserted"], outcome.json["failed"]) == (7, 3, 4)

    failures = {Path(row["location"]).name: row for row in command_line.run("failures", "--json").json}
    assert set(failures) == {"empty.vtt", "empty too.vtt", "picture.txt", "notes.pages"}
    assert all(row["error_class"] == "data" and row["error_message"] for row in failures.values())
    assert "empty" in failures["empty.vtt"]["error_message"]
    assert ".pages" in failures["notes.pages"]["error_message"]

    again = command_line.run("upload", calls)
    assert again.code == 1, "trying broken files again fails again"
    assert "notes.pages" in again.stderr
    told = command_line.run("why", calls / "empty.vtt")
    assert "failed" in told.stdout
    assert "empty" in told.stdout


@pytest.mark.long
def test_single_files_and_folders_can_be_mixed_and_overlap(command_line: CommandLine, calls: Path) -> None:
    shutil.copy(calls / "call 0000.vtt", calls / "a renamed copy.vtt")
    outcome = command_line.run("upload", calls / "call 0000.vtt", calls, "--json")
    assert (outcome.json["listed"], outcome.json["inserted"], outcome.json["skipped"]) == (5, 3, 2)


@pytest.mark.long
def test_titles_cannot_steer_the_terminal(command_line: CommandLine, calls: Path) -> None:
    (calls / "evil \x1b]0;owned\x07\x1b[31m.vtt").touch()
    (calls / "fine [bold]not markup.vtt").touch()
    outcome = command_line.run("upload", calls)
    listed = command_line.run("failures")
    assert "\x1b" not in outcome.stderr + listed.stdout
    assert "[bold]not markup" in listed.stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["upload"], "Missing argument"),
        (["upload", "/no/such/folder"], "does not exist"),
        (["upload", ".", "--user", "nobody@example.com"], "nobody@example.com"),
        (["counts", "--nonsense"], "No such option"),
        (["nonsense"], "No such command"),
        (["failures", "--limit", "many"], "not a valid integer"),
    ],
    ids=["nothing named", "no such path", "unknown user", "unknown option", "unknown command", "not a number"],
)
def test_wrong_usage_exits_with_2_and_says_what_is_wrong(
    command_line: CommandLine, arguments: list[str], said: str
) -> None:
    outcome = command_line.run(*arguments)
    assert outcome.code == 2
    assert said in outcome.stderr
    assert "Traceback" not in outcome.stderr


def test_without_a_user_the_owners_database_asks_for_one(command_line: CommandLine) -> None:
    anonymous = CommandLine(command_line.home, {"DATABASE_URL": command_line.settings["DATABASE_URL"]})
    outcome = anonymous.run("counts")
    assert outcome.code == 2
    assert "--user" in outcome.stderr


def test_an_unreachable_database_exits_with_3(tmp_path: Path) -> None:
    nowhere = CommandLine(
        tmp_path / "home", {"DATABASE_URL": "postgresql://u:s3cr3t-canary@127.0.0.1:9/x", "IMPORT_PIPELINE_USER": EMAIL}
    )
    for arguments in (["counts"], ["upload", str(tmp_path)], ["migrate", "--check"]):
        outcome = nowhere.run(*arguments)
        assert outcome.code == 3, outcome.stderr
        assert "could not be reached" in outcome.stderr
        assert "s3cr3t-canary" not in outcome.stderr + outcome.stdout


def test_a_database_without_migrations_is_not_touched_until_somebody_migrates(
    tmp_path: Path, empty_database_url: str, calls: Path
) -> None:
    command_line = CommandLine(tmp_path / "home", {"DATABASE_URL": empty_database_url, "IMPORT_PIPELINE_USER": EMAIL})
    outcome = command_line.run("upload", calls)
    assert outcome.code == 2
    assert "import-pipeline migrate" in outcome.stderr
    pending = command_line.run("migrate", "--check", "--json")
    assert pending.code == 1
    assert pending.json["pending"]
    applied = command_line.run("migrate", "--json")
    assert applied.code == 0
    assert applied.json["applied"] == pending.json["pending"]
    assert command_line.run("migrate", "--check").code == 0
    exported = command_line.run("migrate", "--export", tmp_path / "sql")
    assert exported.code == 0
    assert sorted(path.name for path in (tmp_path / "sql").iterdir()) == sorted(applied.json["applied"])


@pytest.mark.long
def test_two_users_of_one_database_have_libraries_of_their_own(
    command_line: CommandLine, calls: Path, conn: psycopg.Connection[Any], make_user: Any
) -> None:
    make_user(conn, "ben@example.com")
    command_line.run("upload", calls)
    outcome = command_line.run("upload", calls, "--user", "BEN@example.com", "--json")
    assert outcome.json["inserted"] == 3
    assert command_line.run("counts", "--user", "ben@example.com", "--json").json == {"file-upload": 3}
    assert conn.execute("select count(distinct owner_user_id), count(*) from public.recordings").fetchone() == (2, 6)


READING = """
import contextlib, io, json, sys
from import_pipeline import cli

loaded = {}
for command in json.loads(sys.argv[1]):
    sys.argv = ["import-pipeline", *command.split()]
    with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):
        cli.main()
    loaded[command] = [name for name in ("dagster", "pandas", "sqlalchemy", "requests") if name in sys.modules]
print(json.dumps(loaded))
"""


def test_commands_that_only_read_load_neither_dagster_nor_pandas(command_line: CommandLine) -> None:
    """Loading Dagster takes a second or two, in which a question to the database is long answered."""
    commands = ["counts", "status", "failures", "failures fathom", "why nothing", "sources", "migrate --check", "audit"]
    done = subprocess.run(
        [sys.executable, "-c", READING, json.dumps([*commands, "duplicates", "counts --json", "--help"])],
        env=command_line.environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert "Error" not in done.stderr
    assert {command: names for command, names in json.loads(done.stdout).items() if names} == {}


def test_every_command_and_every_option_has_help(command_line: CommandLine) -> None:
    from import_pipeline.cli import cli

    for name, command in cli.commands.items():
        assert command.help, name
        for option in command.params:
            assert option.param_type_name == "argument" or option.help, (name, option.name)
    assert "upload" in command_line.run("--help").stdout


@pytest.mark.long
def test_an_external_id_of_a_list_of_records_is_the_record_and_not_the_file(
    command_line: CommandLine, calls: Path
) -> None:
    def record(number: int) -> dict[str, Any]:
        return {
            "external_id": f"old-{number}",
            "source_app": "elsewhere",
            "title": f"Exported {number}",
            "full_transcript": f"[00:00:01] Dana: number {number}",
            "recording_start_time": "2026-01-02T03:04:05+02:00",
            "duration": 60,
        }

    (calls / "export.json").write_text(json.dumps([record(1), record(2)]))
    assert command_line.run("upload", calls, "--json").json["inserted"] == 5
    (calls / "export.json").write_text(json.dumps([record(1), record(2), record(3)]))
    assert command_line.run("upload", calls, "--json").json["inserted"] == 1


LIBRARY_OF_AN_OLDER_IMPORTER = """
create schema auth;
create table auth.users (id uuid primary key, email text);
create table public.banks (id uuid primary key default gen_random_uuid(), name text, type text not null);
create table public.recordings (
    id uuid primary key default gen_random_uuid(), legacy_recording_id bigint,
    bank_id uuid not null references public.banks, owner_user_id uuid references auth.users,
    title text not null, audio_url text, video_url text, full_transcript text, summary text,
    global_tags text[] default '{}', source_app text, source_metadata jsonb default '{}', duration integer,
    recording_start_time timestamptz, recording_end_time timestamptz, created_at timestamptz default now(),
    synced_at timestamptz, updated_at timestamptz default now(), unique (bank_id, legacy_recording_id)
);
create table public.vaults (
    id uuid primary key default gen_random_uuid(), bank_id uuid not null references public.banks, name text,
    vault_type text not null
);
create table public.vault_entries (
    id uuid primary key default gen_random_uuid(), vault_id uuid not null references public.vaults,
    recording_id uuid not null references public.recordings on delete cascade, folder_id uuid, local_tags text[],
    scores jsonb, notes text, created_at timestamptz default now(), updated_at timestamptz default now(),
    unique (vault_id, recording_id)
);
insert into auth.users values ('00000000-0000-4000-8000-00000000000a', 'ana@example.com');
insert into public.banks values ('10000000-0000-4000-8000-00000000000a', 'Ana', 'personal');
insert into public.recordings (bank_id, owner_user_id, title, source_app, source_metadata)
select '10000000-0000-4000-8000-00000000000a', '00000000-0000-4000-8000-00000000000a', title, 'zoom',
    '{"external_id": "same"}'
from unnest(array['First', 'Second']) as title;
"""


@pytest.mark.long
def test_duplicates_of_an_older_importer_stop_the_migration_until_they_are_merged(
    tmp_path: Path, empty_database_url: str
) -> None:
    command_line = CommandLine(tmp_path / "home", {"DATABASE_URL": empty_database_url})
    with psycopg.connect(empty_database_url) as conn:
        conn.execute(LIBRARY_OF_AN_OLDER_IMPORTER)
    outcome = command_line.run("migrate", "--yes")
    assert outcome.code == 2
    assert "import-pipeline duplicates" in outcome.stderr
    (group,) = command_line.run("duplicates", "--json").json
    assert (group["external_id"], len(group["recording_ids"])) == ("same", 2)
    assert command_line.run("duplicates", "--merge").code == 130, "without a person there is nobody to confirm"
    merged = command_line.run("duplicates", "--merge", "--yes", "--json")
    assert (merged.json["merged_groups"], merged.json["deleted_recordings"]) == (1, 1)
    assert command_line.run("migrate").code == 2, "nor to agree to what is done to a library that is there"
    assert command_line.run("migrate", "--yes").code == 0
    assert command_line.run("duplicates").stderr.strip() == "No call is stored more than once."


@pytest.mark.long
def test_a_login_that_is_only_a_member_of_import_worker_imports(
    command_line: CommandLine, calls: Path, conn: psycopg.Connection[Any]
) -> None:
    conn.execute("drop role if exists least_privilege_login")
    conn.execute("create role least_privilege_login login in role import_worker")
    conn.commit()
    try:
        url = command_line.settings["DATABASE_URL"].replace("//postgres@", "//least_privilege_login@")
        least = CommandLine(command_line.home, {**command_line.settings, "DATABASE_URL": url})
        outcome = least.run("upload", calls, "--json")
        assert outcome.code == 0, outcome.stderr
        assert outcome.json["inserted"] == 3
        assert least.run("counts", "--json").json == {"file-upload": 3}
        assert least.run("migrate").code != 0, "it may import and nothing else"
    finally:
        conn.execute("drop role least_privilege_login")
        conn.commit()


@pytest.mark.parametrize("arguments", [["failures", "zoomm"], ["retry", "zoomm"], ["sync", "zoomm"]], ids=" ".join)
def test_a_mistyped_source_is_told(command_line: CommandLine, arguments: list[str]) -> None:
    outcome = command_line.run(*arguments)
    assert outcome.code == 2
    assert "zoomm" in outcome.stderr
    assert "file-upload" in outcome.stderr


def test_file_upload_has_nothing_to_sync(command_line: CommandLine) -> None:
    outcome = command_line.run("sync", "file-upload")
    assert outcome.code == 2
    assert "upload" in outcome.stderr


@pytest.mark.long
@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"IMPORT_PIPELINE_MAX_FILE_MB": "abc"}, "IMPORT_PIPELINE_MAX_FILE_MB"),
        ({"IMPORT_PIPELINE_SETTLE_SECONDS": "-1"}, "IMPORT_PIPELINE_SETTLE_SECONDS"),
        ({"DATABASE_URL": "mysql://u:s3cr3t-canary@host/x"}, "DATABASE_URL"),
    ],
    ids=["size limit", "settling", "another database"],
)
def test_a_wrong_setting_is_told_without_repeating_a_secret(
    command_line: CommandLine, calls: Path, settings: dict[str, str], said: str
) -> None:
    wrong = CommandLine(command_line.home, {**command_line.settings, **settings})
    outcome = wrong.run("upload", calls)
    assert outcome.code == 2, outcome.stderr
    assert said in outcome.stderr
    assert "s3cr3t-canary" not in outcome.stderr
    assert "Traceback" not in outcome.stderr


@pytest.mark.long
def test_a_run_for_everybody_cannot_carry_the_files_of_one(
    command_line: CommandLine, calls: Path, conn: psycopg.Connection[Any], make_user: Any, tmp_path: Path
) -> None:
    command_line.run("upload", calls)
    make_user(conn, "ben@example.com")
    with dg.DagsterInstance.ephemeral() as instance:
        job = build_import_job(
            FileUpload(is_of_command=True),
            postgres=PostgresResource(url=command_line.settings["DATABASE_URL"]),
            io_manager=StreamIOManager(base=str(tmp_path / "staged")),
        )
        config = {"ops": {"connect": {"config": {"options": {"paths": [str(calls)]}}}}}
        result = job.execute_in_process(config, instance=instance, raise_on_error=False)
    (failure,) = [event for event in result.all_events if event.is_step_failure]
    assert "exactly one user" in str(failure.event_specific_data.error)
