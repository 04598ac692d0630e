"""The commands on a database shaped like Supabase's, beside a library that was there before, from migrate to erase."""

from __future__ import annotations

import os
import pty
import select
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import commands
import psycopg
import pytest
import servers
from test_existing_database import ACME, ACMES_VAULT, ANA, KICK_OFF, catalogue, owner_as_admin, scalar

from import_pipeline.connectors.base import discover_connectors
from import_pipeline.database import migrations
from import_pipeline.database.migrations import find_changes
from import_pipeline.defs.assets.checks import check_duplicates
from import_pipeline.defs.repairs import repair_vault_entries
from import_pipeline.errors import MigrationError
from import_pipeline.library.due import request_runs

pytestmark = pytest.mark.long

Connection = psycopg.Connection[Any]
USER = ("--user", "ana@example.com")


@pytest.fixture
def owner(installed: str) -> Iterator[Connection]:
    with psycopg.connect(installed, autocommit=True) as conn:
        yield conn


@pytest.fixture
def line(installed: str, tmp_path: Path) -> commands.CommandLine:
    return commands.CommandLine(tmp_path / "home", {"DATABASE_URL": installed})


def calls_in(conn: Connection, bank_id: Any = None) -> int:
    number: int = scalar(
        conn,
        "select count(*) from public.recordings where source_app = 'file-upload' and bank_id = coalesce(%s, bank_id)",
        bank_id,
    )
    return number


def copy_all(installed: str, *recording_ids: Any) -> None:
    """As the application would for Ana: every call of hers that was uploaded, or these, into the bank of Acme."""
    with psycopg.connect(installed) as conn, conn.transaction():
        conn.execute("select set_config('request.jwt.claims', %s, true)", [f'{{"sub": "{ANA}"}}'])
        ids = recording_ids or [
            each for (each,) in conn.execute("select id from public.recordings where source_app = 'file-upload'")
        ]
        for each in ids:
            conn.execute("select public.copy_recording_to_organization(%s, %s, %s)", [each, ACME, ACMES_VAULT])


def test_the_installation_has_what_supabase_gives_and_no_more(owner: Connection) -> None:
    assert owner.execute(
        "select rolsuper, rolcreaterole, rolbypassrls, has_schema_privilege('auth', 'usage'),"
        " has_schema_privilege('auth', 'usage with grant option'), has_table_privilege('auth.users', 'references')"
        " from pg_roles where rolname = current_user"
    ).fetchone() == (False, True, True, True, False, True)


def test_every_command_works_there_and_the_importer_needs_nothing_of_auth(
    owner: Connection, installed: str, line: commands.CommandLine, tmp_path: Path
) -> None:
    assert line.run("migrate", "--yes").code == 0
    assert scalar(owner, "select has_schema_privilege('import_worker', 'auth', 'usage')") is False
    assert line.run("migrate", "--check").code == 0

    folder = tmp_path / "calls"
    commands.write_calls(folder, 4)
    (folder / "broken.vtt").write_text("not a transcript")
    uploaded = line.run("upload", folder, *USER, "--json")
    assert uploaded.code == 1
    assert (uploaded.json["inserted"], uploaded.json["failed"]) == (4, 1)
    assert line.run("upload", folder / "call 0000.vtt", *USER, "--json").json["skipped"] == 1
    status = line.run("status", *USER)
    assert status.code == 0, status.stderr
    assert "file-upload" in status.stdout
    assert line.run("counts", *USER, "--json").json == {"fathom": 3, "file-upload": 4, "null": 1}
    assert "broken" in line.run("failures", *USER).stdout
    assert line.run("retry", *USER).code == 1
    assert "imported" in line.run("why", folder / "call 0001.vtt", *USER).stdout
    assert line.run("sources").code == 0
    assert line.run("sync", "fathom", *USER).code == 2  # nothing is connected, and it says so
    assert "No call is stored more than once." in line.run("duplicates").stderr

    copy_all(installed)
    assert calls_in(owner) == 8
    again = line.run("upload", folder, *USER, "--json")
    assert (again.json["inserted"], again.json["skipped"]) == (0, 4)
    assert calls_in(owner) == 8
    assert "No call is stored more than once." in line.run("duplicates", "--merge", "--yes").stderr
    worker = [finding for finding in line.run("audit", "--json").json if finding["rule"] == "worker-privileges"]
    assert worker == []

    exported = tmp_path / "ana.jsonl"
    assert line.run("export", *USER, "--output", exported).code == 0
    assert exported.read_text().count("This is call number 3.") == 2  # the copy is hers as well

    assert repair_vault_entries(owner, ["file-upload"]).still_missing == {}
    assert request_runs(owner, "file-upload", [], most=10)[0] != []
    upload = discover_connectors()["file-upload"]
    assert all(check.passed for check in check_duplicates(owner, [upload]))

    assert line.run("erase", *USER, "--yes").code == 0
    assert scalar(owner, "select count(*) from public.recordings where owner_user_id = %s", ANA) == 0


def test_copies_made_before_migrating_stay_and_what_was_there_is_not_imported_again(
    owner: Connection, installed: str, line: commands.CommandLine, tmp_path: Path
) -> None:
    copy_all(installed, KICK_OFF)
    migrated = line.run("migrate", "--yes")
    assert migrated.code == 0, migrated.stderr
    assert scalar(owner, "select count(*) from public.recordings where source_metadata ->> 'external_id' = '101'") == 2
    copy_all(installed, KICK_OFF)
    assert scalar(owner, "select count(*) from public.recordings where source_metadata ->> 'external_id' = '101'") == 3


# --- asking -------------------------------------------------------------------------------------------------------


def test_without_a_terminal_nothing_is_changed_until_somebody_agrees(
    owner: Connection, line: commands.CommandLine
) -> None:
    before = catalogue(owner)
    for arguments in (("migrate",), ("migrate", "--json")):
        refused = line.run(*arguments)
        assert refused.code == 2
        assert "import-pipeline migrate --yes" in refused.stderr
        for told in (
            "adds     index public.recordings_import_key on public.recordings",
            "adds     column public.sync_jobs.skipped_count: integer default 0",
            'adds     policy "Import worker adds recordings" on public.recordings: permissive for insert',
            "adds     rights of import_worker on public.recordings: insert, select",
        ):
            assert told in refused.stderr
        assert "get_import_counts" not in refused.stderr
        assert catalogue(owner) == before
    assert scalar(owner, "select to_regnamespace('import_pipeline')::text") is None


@pytest.mark.parametrize(("typed", "code", "made"), [("y\n", 0, True), ("n\n", 2, False), ("\n", 2, False)])
def test_on_a_terminal_it_asks(
    owner: Connection, line: commands.CommandLine, typed: str, code: int, made: bool
) -> None:
    mine, theirs = pty.openpty()
    process = subprocess.Popen(
        [commands.COMMAND, "migrate"], env=line.environment, stdin=theirs, stdout=theirs, stderr=theirs
    )
    os.close(theirs)
    said = b""
    while b"Go on?" not in said:
        assert select.select([mine], [], [], 120)[0], said
        said += os.read(mine, 4096)
    os.write(mine, typed.encode())
    while process.poll() is None or select.select([mine], [], [], 0)[0]:
        try:
            said += os.read(mine, 4096)
        except OSError:  # the other end is closed
            break
    assert process.wait(60) == code
    os.close(mine)
    assert (scalar(owner, "select to_regnamespace('import_pipeline')::text") is not None) is made


def test_where_all_is_ours_there_is_nothing_to_ask(empty_database_url: str, tmp_path: Path, server_url: str) -> None:
    line = commands.CommandLine(tmp_path / "home", {"DATABASE_URL": empty_database_url})
    assert line.run("migrate").code == 0
    later = servers.create_database(server_url)
    try:
        with psycopg.connect(later) as conn:
            migrations.apply(conn, migrations.load()[:-1])
        assert commands.CommandLine(tmp_path / "other", {"DATABASE_URL": later}).run("migrate").code == 0
    finally:
        servers.drop_database(server_url, later)


# --- rights that are not given ------------------------------------------------------------------------------------


def test_a_right_that_is_not_given_is_no_success_and_the_one_who_can_give_it_is_told_how(
    owner: Connection, line: commands.CommandLine
) -> None:
    """The server only warns: no privileges were granted."""
    with owner_as_admin(owner) as admin:
        admin.execute("alter schema public owner to supabase_admin")
        admin.execute("revoke all on schema public from public")
        admin.execute(f"grant usage, create on schema public to {owner.info.user}")
        admin.commit()
    before = catalogue(owner)
    with pytest.raises(MigrationError, match="grant usage on schema public to import_worker;"):
        find_changes(owner)
    refused = line.run("migrate", "--yes")
    assert refused.code == 2
    assert "grant usage on schema public to import_worker;" in refused.stderr
    assert catalogue(owner) == before
    assert scalar(owner, "select to_regnamespace('import_pipeline')::text") is None
    with owner_as_admin(owner) as admin:
        admin.execute("grant usage on schema public to import_worker")
        admin.commit()
    assert line.run("migrate", "--yes").code == 0


# --- drift --------------------------------------------------------------------------------------------------------


def test_migrate_and_check_say_the_same_of_what_was_changed_by_hand(
    owner: Connection, line: commands.CommandLine
) -> None:
    assert line.run("migrate", "--yes").code == 0
    owner.execute("alter table public.recordings rename to old_recordings")
    owner.execute("alter table public.vault_entries rename to old_vault_entries")
    checked, migrated = line.run("migrate", "--check", "--json"), line.run("migrate", "--json")
    assert (checked.code, migrated.code) == (1, 1)
    assert len(checked.json["drifted"]) > 5
    assert migrated.json["drifted"] == checked.json["drifted"]
    assert migrated.json["applied"] == []
    told = line.run("migrate")
    assert told.code == 1
    assert "up to date" not in told.stderr
    assert "nothing repairs it by itself" in told.stderr
    owner.execute("alter table public.old_recordings rename to recordings")
    owner.execute("alter table public.old_vault_entries rename to vault_entries")
    assert line.run("migrate").code == 0


# --- triggers -----------------------------------------------------------------------------------------------------


def test_an_upload_that_an_owners_trigger_refuses_says_why_of_every_file(
    owner: Connection, line: commands.CommandLine, tmp_path: Path
) -> None:
    assert line.run("migrate", "--yes").code == 0
    owner.execute(
        "create function public.index_it() returns trigger language plpgsql as"
        " $$ begin new.search_text := new.title; return new; end $$"
    )
    owner.execute(
        "create trigger index_it before insert on public.recordings for each row execute function public.index_it()"
    )
    commands.write_calls(tmp_path / "calls", 20)
    refused = line.run("upload", tmp_path / "calls", *USER, "--json")
    assert refused.code == 1
    assert (refused.json["listed"], refused.json["failed"]) == (20, 20)
    failures = line.run("failures", *USER, "--json").json
    assert len(failures) == 20
    for each in failures:
        assert 'record "new" has no field "search_text"' in each["error_message"]
    owner.execute("drop trigger index_it on public.recordings")
    assert line.run("retry", *USER).code == 0
    assert calls_in(owner) == 20
