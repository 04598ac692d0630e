"""Running migrations: on every kind of server and role, again, at once, and what happens when something is wrong."""

from __future__ import annotations

import hashlib
import logging
import re
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psycopg
import pytest
import servers
import tenants
from commands import Shell
from psycopg.types.json import Jsonb

from import_pipeline.database import migrations
from import_pipeline.database.embedded import open_server
from import_pipeline.database.migrations import Migration, objects, running, superseded
from import_pipeline.database.sql import migration_files
from import_pipeline.errors import DatabaseUnavailableError, MigrationDriftError, MigrationError

ROLES = ("anon", "authenticated", "service_role", "import_worker")


def made_up(version: str, name: str, sql: str) -> Migration:
    return Migration(version, name, sql, hashlib.sha256(sql.encode()).hexdigest())


def snapshot(conn: psycopg.Connection[Any]) -> list[tuple[Any, ...]]:
    """Everything that a migration could leave behind, as names."""
    rows = conn.execute(
        "select 'schema', nspname::text from pg_namespace where nspname !~ '^pg_(toast_)?temp'"
        " union all select 'relation', c.oid::regclass::text from pg_class as c"
        " join pg_namespace as n on n.oid = relnamespace where nspname in ('public', 'auth', 'import_pipeline')"
        " union all select 'function', p.oid::regprocedure::text from pg_proc as p"
        " join pg_namespace as n on n.oid = pronamespace where nspname in ('public', 'auth', 'import_pipeline')"
        " union all select 'policy', polname::text from pg_policy"
        " union all select 'role', rolname::text from pg_roles order by 1, 2"
    ).fetchall()
    conn.rollback()
    return rows


@pytest.fixture(scope="module")
def other_server() -> Iterator[str]:
    """A server of the newest version on which the roles do not exist until a test makes them."""
    with servers.scratch_folder() as home, open_server(home) as server:
        servers.forget_durability(server.url())
        yield server.url()


@pytest.fixture(params=["18", "15"])
def fresh_server(request: pytest.FixtureRequest) -> Iterator[str]:
    """A server without any of our roles, of the newest and of the oldest version."""
    url: str = request.getfixturevalue("other_server" if request.param == "18" else "postgres15")
    forget_everything(url)
    yield url
    forget_everything(url)


def forget_everything(server_url: str) -> None:
    with psycopg.connect(server_url, autocommit=True) as conn:
        for [name] in conn.execute("select datname from pg_database where datname like 'import_pipeline_test_%'"):
            conn.execute(f'drop database "{name}" with (force)')
        for role in (*ROLES, "plain", "other"):
            conn.execute(f"drop role if exists {role}")


def login(url: str, role: str) -> str:
    """The same address for another login role."""
    return re.sub(r"//[^@/]*@", f"//{role}@", url) if "@" in url else url.replace("//", f"//{role}@", 1)


# -- On every server and as every role --------------------------------------------------------------------------------


@pytest.mark.parametrize("role", ["superuser", "plain"])
def test_an_empty_database_gets_the_whole_schema(fresh_server: str, role: str) -> None:
    if role == "plain":
        with psycopg.connect(fresh_server, autocommit=True) as admin:
            admin.execute("create role plain login createrole nosuperuser")
    url = servers.create_database(fresh_server, owner="plain" if role == "plain" else None)
    with psycopg.connect(login(url, "plain") if role == "plain" else url) as conn:
        assert conn.execute("select rolsuper from pg_roles where rolname = current_user").fetchone() == (
            role == "superuser",
        )
        conn.rollback()
        applied = migrations.apply(conn)
        assert [migration.version for migration in applied] == [path.stem[:14] for path in migration_files()]
        status = migrations.check(conn)
        assert status.is_current
        assert [row.version for row in status.applied] == [migration.version for migration in applied]
        # Whoever migrated can work as the importer at once.
        conn.execute("set local role import_worker")
        assert conn.execute("select count(*) from public.recordings").fetchone() == (0,)


def test_the_importers_role_has_no_power_of_its_own(conn: psycopg.Connection[Any]) -> None:
    assert conn.execute(
        "select rolsuper, rolbypassrls, rolcanlogin, rolcreaterole, rolcreatedb, rolreplication, rolinherit"
        " from pg_roles where rolname = 'import_worker'"
    ).fetchone() == (False, False, False, False, False, False, False)


def test_a_plain_role_does_not_inherit_what_the_importer_may_do(other_server: str) -> None:
    forget_everything(other_server)
    with psycopg.connect(other_server, autocommit=True) as admin:
        admin.execute("create role plain login createrole")
    url = servers.create_database(other_server, owner="plain")
    with psycopg.connect(login(url, "plain")) as conn:
        migrations.apply(conn)
        assert conn.execute(
            "select pg_has_role('plain', 'import_worker', 'set'), pg_has_role('plain', 'import_worker', 'usage')"
        ).fetchone() == (True, False)
    forget_everything(other_server)


def test_running_twice_applies_nothing_the_second_time(empty_database_url: str) -> None:
    with psycopg.connect(empty_database_url) as conn:
        assert len(migrations.apply(conn)) == len(migrations.load())
        before = conn.execute("select * from import_pipeline.schema_migrations order by version").fetchall()
        conn.rollback()
        assert migrations.apply(conn) == []
        assert conn.execute("select * from import_pipeline.schema_migrations order by version").fetchall() == before


def test_a_database_migrated_by_a_plain_role_can_be_migrated_again_by_a_superuser(fresh_server: str) -> None:
    with psycopg.connect(fresh_server, autocommit=True) as admin:
        admin.execute("create role plain login createrole")
    url = servers.create_database(fresh_server, owner="plain")
    with psycopg.connect(login(url, "plain")) as conn:
        migrations.apply(conn)
    with psycopg.connect(url) as conn:
        assert migrations.apply(conn) == []
        assert migrations.check(conn).is_current


# -- Several at once --------------------------------------------------------------------------------------------------


def test_processes_that_migrate_at_once_apply_each_file_once(empty_database_url: str) -> None:
    start = threading.Barrier(6)

    def migrate(_: int) -> list[str]:
        with psycopg.connect(empty_database_url) as conn:
            start.wait()
            return [migration.version for migration in migrations.apply(conn)]

    with ThreadPoolExecutor(6) as pool:
        applied = [version for versions in pool.map(migrate, range(6)) for version in versions]
    assert sorted(applied) == [migration.version for migration in migrations.load()]


def test_processes_at_a_stricter_isolation_level_do_not_apply_twice(empty_database_url: str) -> None:
    start = threading.Barrier(3)

    def migrate(_: int) -> int:
        with psycopg.connect(empty_database_url) as conn:
            conn.isolation_level = psycopg.IsolationLevel.SERIALIZABLE
            start.wait()
            return len(migrations.apply(conn))

    with ThreadPoolExecutor(3) as pool:
        assert sum(pool.map(migrate, range(3))) == len(migrations.load())


def test_databases_of_one_server_can_be_migrated_at_once_though_they_share_roles(fresh_server: str) -> None:
    with psycopg.connect(fresh_server, autocommit=True) as admin:
        admin.execute("create role plain login createrole")
    urls = [servers.create_database(fresh_server, owner="plain") for _ in range(4)]
    start = threading.Barrier(len(urls))

    def migrate(url: str) -> int:
        with psycopg.connect(login(url, "plain")) as conn:
            start.wait()
            return len(migrations.apply(conn))

    with ThreadPoolExecutor(len(urls)) as pool:
        assert list(pool.map(migrate, urls)) == [len(migrations.load())] * len(urls)


# -- What a database or a role may lack -------------------------------------------------------------------------------


def test_a_second_role_of_a_server_is_told_what_a_superuser_must_run(other_server: str) -> None:
    forget_everything(other_server)
    with psycopg.connect(other_server, autocommit=True) as admin:
        admin.execute("create role plain login createrole")
        admin.execute("create role other login createrole")
    first, second = (servers.create_database(other_server, owner=owner) for owner in ("plain", "other"))
    with psycopg.connect(login(first, "plain")) as conn:
        migrations.apply(conn)
    with psycopg.connect(login(second, "other")) as conn:
        before = snapshot(conn)
        with pytest.raises(MigrationError, match="grant import_worker to other;"):
            migrations.apply(conn)
        assert snapshot(conn) == before
    with psycopg.connect(other_server, autocommit=True) as admin:
        admin.execute("grant import_worker to other")
    with psycopg.connect(login(second, "other")) as conn:
        assert len(migrations.apply(conn)) == len(migrations.load())
    forget_everything(other_server)


def test_an_importer_that_could_see_everything_is_refused(fresh_server: str) -> None:
    with psycopg.connect(fresh_server, autocommit=True) as admin:
        admin.execute("create role import_worker bypassrls")
    with psycopg.connect(servers.create_database(fresh_server)) as conn:
        before = snapshot(conn)
        with pytest.raises(MigrationError, match="alter role import_worker nosuperuser nobypassrls"):
            migrations.apply(conn)
        assert snapshot(conn) == before


@pytest.mark.parametrize(
    ("options", "hint"),
    [
        ("nocreaterole", "alter role plain createrole;"),
        ("createrole", "grant create on database"),
    ],
    ids=["may not create roles", "may not create schemas"],
)
def test_a_role_without_the_rights_is_told_which_are_missing(fresh_server: str, options: str, hint: str) -> None:
    with psycopg.connect(fresh_server, autocommit=True) as admin:
        admin.execute(f"create role plain login {options}")
    url = servers.create_database(fresh_server, owner="plain" if options == "nocreaterole" else None)
    with psycopg.connect(login(url, "plain")) as conn:
        before = snapshot(conn)
        with pytest.raises(MigrationError, match=hint):
            migrations.apply(conn)
        assert snapshot(conn) == before


def test_a_connection_within_a_transaction_is_refused(empty_database_url: str) -> None:
    with psycopg.connect(empty_database_url) as conn:
        conn.execute("select 1")
        with pytest.raises(MigrationError, match="without open transaction"):
            migrations.apply(conn)


def test_a_role_that_may_not_read_the_history_is_told_so(conn: psycopg.Connection[Any]) -> None:
    conn.execute("set role authenticated")
    with pytest.raises(MigrationError, match="history cannot be read: permission denied") as refusal:
        migrations.check(conn)
    assert "Set IMPORT_PIPELINE_MIGRATION_URL" in str(refusal.value)


def test_an_export_follows_no_link_that_others_laid_in_its_way(tmp_path: Path) -> None:
    folder, elsewhere = tmp_path / "migrations", tmp_path / "elsewhere"
    folder.mkdir()
    (folder / migrations.load()[0].filename).symlink_to(elsewhere)
    with pytest.raises(FileExistsError):
        migrations.export(folder)
    assert not elsewhere.exists()


def test_who_waits_for_another_session_to_migrate_is_told_which(
    conn: psycopg.Connection[Any], database_url: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(running, "_SOON", "100ms")
    monkeypatch.setattr(running, "_WAIT_FOR_OTHERS", "100ms")
    with psycopg.connect(database_url, application_name="nightly") as other:
        other.execute("select pg_advisory_lock(%s)", [running._LOCK_KEY])
        holder = f"process {other.info.backend_pid} of the login {other.info.user} holds (nightly, connected since 20"
        with pytest.raises(MigrationError) as refusal:
            migrations.apply(conn)
        assert f"Waiting for the lock of migrate, which {holder}" in caplog.text
        assert f"Nothing was changed. The lock of migrate is one that {holder}" in str(refusal.value)
    assert migrations.apply(conn) == []


def test_runs_that_work_while_somebody_migrates_are_named_first(
    conn: psycopg.Connection[Any], database_url: str, shell: Shell
) -> None:
    """Of an earlier version each of their calls would fail from then on."""
    ana = tenants.make_user(conn)
    account_id = conn.execute(
        "insert into import_sources (user_id, source_app) values (%s, 'demo') returning id", [ana.id]
    ).fetchone()
    conn.execute(
        "insert into import_pipeline.leases (account_id, lane, holder, holder_process, expires_at)"
        " values (%s, 'live', 'run-of-before', 'x', now() + interval '1 minute')",
        account_id,
    )
    conn.commit()
    shell.set(DATABASE_URL=database_url)
    assert "run-of-before" not in shell.run("migrate").stderr, "nothing is pending"
    (last,) = conn.execute("select max(version) from import_pipeline.schema_migrations").fetchall()[0]
    conn.execute("delete from import_pipeline.schema_migrations where version = %s", [last])
    conn.commit()
    told = shell.run("migrate").stderr
    assert "Run run-of-before is working. End it first" in told


# -- Files ------------------------------------------------------------------------------------------------------------


def test_file_names_follow_the_rule_and_versions_are_unique() -> None:
    names = [path.name for path in migration_files()]
    assert names
    assert [name for name in names if not re.fullmatch(r"\d{14}_[a-z]+(_[a-z]+)+\.sql", name)] == []
    assert len({name[:14] for name in names}) == len(names)


@pytest.mark.parametrize("path", migration_files(), ids=lambda path: path.stem)
def test_a_file_leaves_transactions_and_names_to_nobody_else(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    # `begin` alone on a line belongs to a function; a statement would end with a semicolon.
    assert not re.search(r"^\s*(begin|commit|rollback)\s*;", text, re.MULTILINE)
    assert not re.search(r"(create|alter) table (if not exists )?(?!public\.|auth\.|import_pipeline\.)\w", text)
    assert not re.search(r"drop table|truncate|force row level security", text)
    assert max(map(len, text.splitlines())) <= 120


def test_an_edited_file_that_was_applied_is_an_error(conn: psycopg.Connection[Any]) -> None:
    files = list(migrations.load())
    files[3] = made_up(files[3].version, files[3].name, files[3].sql + "\n-- one more word")
    files.append(made_up("20990101000000", "add_more", "create table public.more (id integer);"))
    assert [(drift.kind, drift.subject) for drift in migrations.check(conn, files).drifted] == [
        ("edited", files[3].filename)
    ]
    with pytest.raises(MigrationDriftError, match=f"{files[3].filename}: was edited"):
        migrations.apply(conn, files)
    assert conn.execute("select to_regclass('public.more')").fetchone() == (None,)


def test_other_line_ends_are_no_edit() -> None:
    for migration in migrations.load():
        assert "\r" not in migration.sql
        assert migration.checksum == hashlib.sha256(migration.sql.replace("\r\n", "\n").encode()).hexdigest()


def test_a_database_of_a_newer_version_is_recognised(conn: psycopg.Connection[Any]) -> None:
    older = migrations.load()[:-1]
    assert [(drift.kind, drift.subject) for drift in migrations.check(conn, older).drifted] == [
        ("unknown", migrations.load()[-1].filename.removesuffix(".sql"))
    ]
    with pytest.raises(MigrationDriftError, match="applied by a newer import_pipeline"):
        migrations.apply(conn, older)


def test_a_failing_file_leaves_nothing_and_the_message_says_where_it_failed(conn: psycopg.Connection[Any]) -> None:
    good = made_up("20990101000000", "add_good", "create table public.good (id integer);")
    bad = made_up("20990101000001", "add_bad", "create table public.bad (id integer);\n\nselect nothing_such;")
    never = made_up("20990101000002", "add_never", "create table public.never (id integer);")
    with pytest.raises(MigrationError) as caught:
        migrations.apply(conn, [*migrations.load(), good, bad, never])
    assert str(caught.value).splitlines()[0] == (
        '20990101000001_add_bad.sql, line 3: column "nothing_such" does not exist (SQLSTATE 42703)'
    )
    assert conn.execute(
        "select to_regclass('public.good')::text, to_regclass('public.bad')::text, to_regclass('public.never')::text"
    ).fetchone() == ("good", None, None)
    conn.rollback()
    assert [migration.version for migration in migrations.check(conn, [*migrations.load(), good, bad]).pending] == [
        bad.version
    ]


def test_what_is_pending_is_found_however_many_were_applied(empty_database_url: str) -> None:
    files = list(migrations.load())
    with psycopg.connect(empty_database_url) as conn:
        assert migrations.find_pending(conn) == files
        migrations.apply(conn, files[:-2])
        assert migrations.find_pending(conn) == files[-2:]
        migrations.apply(conn)
        assert migrations.find_pending(conn) == []


def test_a_locked_table_makes_a_clear_error_and_not_a_queue(conn: psycopg.Connection[Any], database_url: str) -> None:
    more = made_up("20990101000000", "add_more", "alter table public.recordings add column more text;")
    with psycopg.connect(database_url) as busy:
        busy.execute("lock table public.recordings in access share mode")
        with pytest.raises(MigrationError, match=r"20990101000000_add_more\.sql(?s:.)*Another session holds a lock"):
            migrations.apply(conn, [*migrations.load(), more], lock_timeout_seconds=0.2)
    assert migrations.apply(conn, [*migrations.load(), more]) == [more]


def test_settings_of_the_connection_do_not_disturb_and_are_not_changed(empty_database_url: str) -> None:
    slow = made_up("20990101000000", "build_slowly", "select pg_catalog.pg_sleep(1);")
    with psycopg.connect(empty_database_url, options="-c statement_timeout=700 -c search_path=nowhere") as conn:
        assert migrations.apply(conn, [*migrations.load(), slow])[-1] == slow
        conn.execute("set statement_timeout = 0")
        conn.commit()
        assert migrations.check(conn, [*migrations.load(), slow]).is_current
        assert conn.execute("show search_path").fetchone() == ("nowhere",)
        assert conn.execute("show lock_timeout").fetchone() == ("0",)


def test_what_a_migration_warns_about_is_logged(
    conn: psycopg.Connection[Any], caplog: pytest.LogCaptureFixture
) -> None:
    noisy = made_up(
        "20990101000000",
        "warn_reader",
        "do $$ begin raise warning 'Mind the gap.'; raise notice 'Mind nothing.'; end $$;",
    )
    with caplog.at_level(logging.INFO, logger="import_pipeline"):
        migrations.apply(conn, [*migrations.load(), noisy])
    assert [record.message for record in caplog.records] == ["Mind the gap."]


def test_a_connection_that_breaks_is_no_fault_of_the_migration(empty_database_url: str, server_url: str) -> None:
    with psycopg.connect(empty_database_url) as conn, psycopg.connect(server_url, autocommit=True) as admin:
        admin.execute("select pg_terminate_backend(%s, 5000)", [conn.info.backend_pid])
        with pytest.raises(DatabaseUnavailableError, match="connection broke"):
            migrations.apply(conn)
    with psycopg.connect(empty_database_url) as conn:
        assert len(migrations.apply(conn)) == len(migrations.load())


# -- The Supabase CLI -------------------------------------------------------------------------------------------------


def run_as_supabase_cli(conn: psycopg.Connection[Any], files: list[Path]) -> None:
    """Do what `supabase db push` does: run each file and keep its statements, split and trimmed."""
    conn.execute("create schema supabase_migrations")
    conn.execute(
        "create table supabase_migrations.schema_migrations (version text primary key, statements text[], name text)"
    )
    conn.commit()
    for path in files:
        text = path.read_text(encoding="utf-8")
        conn.execute(text)
        statements = [part.strip().rstrip(";") for part in re.split(r";\n\n", text)]
        conn.execute(
            "insert into supabase_migrations.schema_migrations values (%s, %s, %s)",
            [path.stem[:14], statements, path.stem[15:]],
        )
        conn.commit()


def test_exported_files_deployed_by_the_supabase_cli_count_as_applied(empty_database_url: str, tmp_path: Path) -> None:
    files = migrations.export(tmp_path / "supabase" / "migrations")
    assert [path.name for path in files] == [path.name for path in migration_files()]
    with psycopg.connect(empty_database_url) as conn:
        run_as_supabase_cli(conn, files)
        status = migrations.check(conn)
        assert (status.pending, status.drifted, len(status.applied)) == ([], [], len(files))
        assert migrations.apply(conn) == []
        # From now on our own history knows them too, and changes by hand are noticed.
        assert conn.execute("select count(*) from import_pipeline.schema_migrations").fetchone() == (len(files),)
        conn.execute("drop index public.recordings_import_key")
        conn.commit()
        assert [drift.subject for drift in migrations.check(conn).drifted] == ["index public.recordings_import_key"]


def test_files_that_the_supabase_cli_has_not_run_yet_are_applied(empty_database_url: str, tmp_path: Path) -> None:
    files = migrations.export(tmp_path)
    with psycopg.connect(empty_database_url) as conn:
        run_as_supabase_cli(conn, files[:4])
        assert [migration.version for migration in migrations.apply(conn)] == [path.stem[:14] for path in files[4:]]
        assert migrations.check(conn).is_current


def test_another_text_under_our_version_in_the_history_of_the_supabase_cli_is_an_error(
    empty_database_url: str, tmp_path: Path
) -> None:
    files = migrations.export(tmp_path)
    files[0].write_text("select 1;", encoding="utf-8")
    with psycopg.connect(empty_database_url) as conn:
        run_as_supabase_cli(conn, files[:1])
        with pytest.raises(MigrationDriftError, match=f"{files[0].name}: was applied by the Supabase CLI with other"):
            migrations.apply(conn)


def test_the_history_of_the_supabase_cli_is_never_written(empty_database_url: str, tmp_path: Path) -> None:
    with psycopg.connect(empty_database_url) as conn:
        run_as_supabase_cli(conn, [])
        migrations.apply(conn)
        assert conn.execute("select count(*) from supabase_migrations.schema_migrations").fetchone() == (0,)


def test_exporting_again_changes_nothing_and_never_overwrites(tmp_path: Path) -> None:
    first = migrations.export(tmp_path)
    assert migrations.export(tmp_path) == first
    assert [path.read_text(encoding="utf-8") for path in first] == [migration.sql for migration in migrations.load()]
    first[2].write_text("select 1;", encoding="utf-8")
    first[4].unlink()
    with pytest.raises(MigrationDriftError, match=first[2].name):
        migrations.export(tmp_path)
    assert not first[4].exists()


# -- Databases of before 2026-12-01 -----------------------------------------------------------------------------------


def make_superseded(conn: psycopg.Connection[Any], *, by_cli: bool = False) -> None:
    """Turn an empty database into one that the files of before 2026-12-01 made, with what they left otherwise."""
    migrations.apply(conn, [each for each in migrations.load() if each.version <= superseded.LAST_ADOPTED])
    conn.execute("delete from import_pipeline.schema_migrations")
    conn.execute("alter table import_pipeline.polls add column polled_at timestamptz")
    conn.execute(
        "create function import_pipeline.overdue_items(p_source_app text, p_before timestamptz, p_limit integer)"
        " returns bigint language sql return 0"
    )
    if by_cli:
        conn.execute("create schema supabase_migrations")
        conn.execute("create table supabase_migrations.schema_migrations (version text, statements text[], name text)")
    statement = (
        "insert into supabase_migrations.schema_migrations values (%s, array['select', %s])"
        if by_cli
        else "insert into import_pipeline.schema_migrations (version, name, checksum, objects) values (%s, '', %s, %s)"
    )
    left = Jsonb({"server": conn.info.server_version // 10000, "definitions": objects.describe(conn)})
    for version, (_, *accepted) in superseded.FILES.items():
        checksum = f"{accepted[0]} and more"
        conn.execute(statement, [version, version] if by_cli else [version, checksum, left])
    conn.commit()


@pytest.mark.parametrize("by_cli", [False, True], ids=["by migrate", "by the Supabase CLI"])
def test_a_database_that_the_files_of_before_made_is_taken_over_and_only_what_is_new_is_run(
    conn: psycopg.Connection[Any],
    empty_database_url: str,
    by_cli: bool,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fresh = objects.describe(conn)
    new = [each for each in migrations.load() if each.version > superseded.LAST_ADOPTED]
    if by_cli:  # their texts are gone, so others stand for them
        for version, (name, *_) in superseded.FILES.items():
            checksum = hashlib.sha256(f"select{version}".encode()).hexdigest()
            monkeypatch.setitem(superseded.FILES, version, [name, checksum[:12]])
    with psycopg.connect(empty_database_url) as old:
        make_superseded(old, by_cli=by_cli)
        old.execute("insert into auth.users (email) values ('ana@example.com')")
        old.commit()
        with pytest.raises(psycopg.errors.DuplicateTable) as refused:
            old.execute(migrations.load()[0].sql)
        assert "supabase migration repair" in str(refused.value.diag.message_hint)
        old.rollback()
        status = migrations.check(old)
        assert (status.pending, status.drifted) == (new, [])
        assert migrations.find_pending(old) == new

        assert migrations.apply(old) == new
        assert [record.message for record in caplog.records] == [
            "The files of before 2026-12-01 made this database. It was taken over as it is."
        ]
        assert migrations.check(old).is_current
        assert objects.describe(old) == fresh
        assert old.execute("select count(*) from auth.users").fetchone() == (1,)
        rows = old.execute("select version from import_pipeline.schema_migrations order by version").fetchall()
        assert rows == [(each.version,) for each in migrations.load()]
        old.rollback()
        assert migrations.apply(old) == []


@pytest.mark.parametrize(
    ("statement", "told"),
    [
        (
            "delete from import_pipeline.schema_migrations where version > '20261130000021'",
            "20261130000031_remember_shared_folders.sql: was never applied.",
        ),
        (
            "update import_pipeline.schema_migrations set checksum = 'x' where version = '20261101000003'",
            "20261101000003_create_auth.sql: was applied with another text.",
        ),
        (
            "update import_pipeline.schema_migrations set version = '20261130000099' where version = '20261130000031'",
            "20261130000099: is not known here.",
        ),
        ("drop index public.recordings_import_key", "index public.recordings_import_key: is missing"),
    ],
    ids=["older", "other text", "newer", "by hand"],
)
def test_a_database_that_they_left_otherwise_is_told_what_differs_and_stays_as_it_is(
    empty_database_url: str, statement: str, told: str
) -> None:
    with psycopg.connect(empty_database_url) as conn:
        make_superseded(conn)
        conn.execute(statement)
        conn.commit()
        refuse_superseded(conn, told)


def refuse_superseded(conn: psycopg.Connection[Any], told: str) -> None:
    history = "select * from import_pipeline.schema_migrations order by version"
    before, described = conn.execute(history).fetchall(), objects.describe(conn)
    conn.rollback()
    assert told in [str(drift) for drift in migrations.check(conn).drifted]
    with pytest.raises(MigrationDriftError) as refused:
        migrations.apply(conn)
    assert told in str(refused.value)
    assert f"with the last commit of import_pipeline that has {superseded.LAST_FILE}" in str(refused.value)
    assert (conn.execute(history).fetchall(), objects.describe(conn)) == (before, described)


# -- Changes made by hand ---------------------------------------------------------------------------------------------

BY_HAND = {
    "drop index public.recordings_import_key": ["index public.recordings_import_key"],
    'drop policy "Import worker adds only to the claimed user\'s banks" on public.recordings': [
        'policy "Import worker adds only to the claimed user\'s banks" on public.recordings'
    ],
    'alter policy "Users see their sources" on public.import_sources using (true)': [
        'policy "Users see their sources" on public.import_sources'
    ],
    "create policy more on public.import_items to anon using (true)": ['policy "more" on public.import_items'],
    "create policy more on public.recordings for delete to import_worker using (true)": [
        'policy "more" on public.recordings'
    ],
    "alter table public.import_items disable row level security": ["table public.import_items"],
    "alter table public.import_items drop column retry_at cascade": [
        "column public.import_items.retry_at",
        "index public.import_items_unfinished_idx",
    ],
    "alter table public.import_items alter column status drop not null": ["column public.import_items.status"],
    "alter table public.import_items drop constraint import_items_external_id_check": [
        "constraint import_items_external_id_check on public.import_items"
    ],
    "alter table public.sync_jobs drop column skipped_count": ["column public.sync_jobs.skipped_count"],
    "alter function public.get_import_counts(uuid) reset search_path": ["function public.get_import_counts(uuid)"],
    "grant execute on function public.get_import_counts(uuid) to public": [
        "grant on public.get_import_counts(uuid) to public"
    ],
    "grant insert on public.import_items to authenticated": ["grant on public.import_items to authenticated"],
    "grant select on import_pipeline.credentials to anon": ["grant on import_pipeline.credentials to anon"],
    "grant update on public.recordings to import_worker": ["grant on public.recordings to import_worker"],
    "revoke insert on public.vault_entries from import_worker": ["grant on public.vault_entries to import_worker"],
    "drop table import_pipeline.rate_budgets cascade": [
        "column import_pipeline.rate_budgets.account_id",
        "column import_pipeline.rate_budgets.blocked_until",
        "column import_pipeline.rate_budgets.counted_at",
        "column import_pipeline.rate_budgets.counts",
        "column import_pipeline.rate_budgets.live_waits_until",
        "column import_pipeline.rate_budgets.name",
        "column import_pipeline.rate_budgets.updated_at",
        "constraint rate_budgets_account_id_fkey on import_pipeline.rate_budgets",
        "constraint rate_budgets_counts_check on import_pipeline.rate_budgets",
        "constraint rate_budgets_pkey on import_pipeline.rate_budgets",
        "grant on import_pipeline.rate_budgets to import_worker",
        "index import_pipeline.rate_budgets_pkey",
        'policy "Import worker keeps rate budgets" on import_pipeline.rate_budgets',
        "table import_pipeline.rate_budgets",
    ],
}


@pytest.mark.parametrize(("statement", "subjects"), BY_HAND.items(), ids=BY_HAND)
def test_a_change_made_by_hand_is_named(conn: psycopg.Connection[Any], statement: str, subjects: list[str]) -> None:
    conn.execute(statement)
    status = migrations.check(conn)
    assert [(drift.kind, drift.subject) for drift in status.drifted] == [("schema", subject) for subject in subjects]
    assert not status.is_current


@pytest.mark.parametrize(
    "statement",
    [
        "alter table public.recordings add column mood text; alter table public.recordings drop column summary",
        "create index on public.recordings using gin (to_tsvector('english', full_transcript))",
        'create policy "Everybody sees banks" on public.banks for select using (true)',
        'drop policy "Members see their bank\'s recordings" on public.recordings',
        "alter table public.banks disable row level security",
        "create role reader; grant select on public.import_items, public.recordings to reader;"
        " create policy reading on public.import_items for select to reader using (true)",
        "create index on public.import_items (title)",
        "create table public.folders (id uuid primary key references public.recordings)",
        "comment on table public.import_items is 'theirs'",
        "create role another_owner; alter table public.recordings owner to another_owner;"
        " alter table public.import_items owner to another_owner",
    ],
    ids=lambda statement: statement[:60],
)
def test_what_the_owner_changes_of_his_own_is_no_drift(conn: psycopg.Connection[Any], statement: str) -> None:
    conn.execute(statement)
    assert migrations.check(conn).drifted == []


def test_drift_is_reported_whatever_the_search_path_is(conn: psycopg.Connection[Any]) -> None:
    conn.execute("set search_path = public, auth, import_pipeline")
    assert migrations.check(conn).drifted == []


def test_a_later_migration_does_not_make_a_change_by_hand_look_intended(conn: psycopg.Connection[Any]) -> None:
    conn.execute("drop index public.recordings_import_key")
    conn.execute("grant select on import_pipeline.leases to anon")
    conn.commit()
    files = [
        *migrations.load(),
        made_up("20990101000000", "add_more", "alter table public.import_items add column more text;"),
    ]
    migrations.apply(conn, files)
    assert [drift.subject for drift in migrations.check(conn, files).drifted] == [
        "grant on import_pipeline.leases to anon",
        "index public.recordings_import_key",
    ]


def test_another_major_version_of_the_server_is_not_blamed_for_its_spelling(conn: psycopg.Connection[Any]) -> None:
    conn.execute(
        "update import_pipeline.schema_migrations set objects = replace("
        " jsonb_set(objects, '{server}', '14')::text, 'not null', 'NOT  NULL')::jsonb"
    )
    conn.execute("drop index public.recordings_import_key")
    assert [drift.subject for drift in migrations.check(conn).drifted] == ["index public.recordings_import_key"]


# -- Where tests may run ----------------------------------------------------------------------------------------------


def test_a_server_that_nobody_marked_for_tests_is_refused(empty_database_url: str) -> None:
    """Rows of tests and benchmarks were once shown in a customer's library."""
    with pytest.raises(servers.UnmarkedServerError, match="comment on database"):
        servers.require_marker(empty_database_url)
    with psycopg.connect(empty_database_url, autocommit=True) as conn:
        conn.execute(f"comment on database \"{conn.info.dbname}\" is '{servers.MARKER}'")
    servers.require_marker(empty_database_url)


def test_a_copy_of_the_template_costs_little_and_is_independent(
    database_url: str, conn: psycopg.Connection[Any], make_user: Callable[..., Any], server_url: str, template: str
) -> None:
    make_user(conn)
    another = servers.create_database(server_url, template=template)
    try:
        with psycopg.connect(another) as other:
            assert other.execute("select count(*) from auth.users").fetchone() == (0,)
    finally:
        servers.drop_database(server_url, another)


def test_a_server_that_is_not_installed_fails_with_the_command_that_installs_it() -> None:
    with (
        pytest.raises(FileNotFoundError, match="apt-get install postgresql-9 "),
        servers.debian_server(9),
    ):
        pass
