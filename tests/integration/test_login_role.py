"""The importer logs in as a role that only becomes import_worker, whatever its sessions are made to run."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
import servers
import tenants
from commands import VTT, CommandLine, Shell
from connectors.demo import START, Demo
from cryptography.fernet import Fernet
from world import World, calls

from import_pipeline import ConnectorRecord
from import_pipeline.database import migrations
from import_pipeline.database.embedded import open_server
from import_pipeline.database.planted import require_nothing_planted
from import_pipeline.database.tenancy import acting_as
from import_pipeline.errors import PlantedTriggerError
from import_pipeline.library.destinations import Destinations
from import_pipeline.pipeline import write_recordings

Connection = psycopg.Connection[Any]


def login_url(url: str) -> str:
    return re.sub(r"//[^@/]*@", "//import_login@", url)


# -- What it is -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("server", ["server_url", pytest.param("postgres15", marks=pytest.mark.long)])
def test_migrating_an_empty_database_makes_a_login_that_can_do_nothing_but_become_the_importer(
    server: str, request: pytest.FixtureRequest
) -> None:
    server_url: str = request.getfixturevalue(server)
    url = servers.create_database(server_url)
    try:
        with psycopg.connect(url) as conn:
            migrations.apply(conn)
            assert conn.execute(
                "select rolcanlogin, rolinherit, rolsuper, rolbypassrls, rolcreaterole, rolcreatedb, rolreplication,"
                " rolpassword is null from pg_authid where rolname = 'import_login'"
            ).fetchone() == (True, False, False, False, False, False, False, True)
            assert conn.execute(
                "select array_agg(g.rolname::text), bool_or(m.admin_option) from pg_auth_members as m"
                " join pg_roles as g on g.oid = m.roleid where m.member = 'import_login'::regrole"
            ).fetchone() == (["import_worker"], False)
        with psycopg.connect(login_url(url), autocommit=True) as login:
            for statement in ("select from public.recordings", "select from import_pipeline.leases"):
                with pytest.raises(psycopg.errors.InsufficientPrivilege):
                    login.execute(statement)
            login.execute("set role import_worker")
            login.execute("select from public.recordings")
    finally:
        servers.drop_database(server_url, url)


def test_a_role_of_its_name_that_is_more_stops_the_migration(empty_database_url: str) -> None:
    """Whichever way the files are deployed: the first of them refuses."""
    first = migrations.load()[0]
    with psycopg.connect(empty_database_url) as conn:
        # Roles belong to the server, which other tests use: nothing of this is committed.
        conn.execute("drop role if exists import_login; create role import_login login createrole")
        with pytest.raises(psycopg.errors.InvalidRoleSpecification, match="more than a login: createrole"):
            conn.execute(first.sql)
        conn.rollback()


# -- What its sessions can be made to run -----------------------------------------------------------------------------

ATTEMPTS = (
    "set role postgres",
    "set role service_role",
    "set role authenticated",
    "reset role; select from import_pipeline.credentials",
    "reset role; select from public.recordings",
    "reset role; alter role import_login superuser",
    "reset role; grant import_worker to authenticated",
    "set session authorization postgres",
    "set session authorization default; select from public.recordings",
    "set session_replication_role = replica",
    "select pg_read_file('/etc/hostname')",
    "select pg_ls_dir('/')",
    "copy public.banks from program 'true'",
    "copy (select 1) to program 'true'",
    "copy (select 1) to '/tmp/x'",
    "select lo_from_bytea(0, 'x')",
    "select lo_import('/etc/hostname')",
    "create extension dblink",
    "create server here foreign data wrapper postgres_fdw",
    "create function public.f() returns integer language sql security definer as 'select 1'",
    "select from auth.users",
    "select from import_pipeline.schema_migrations",
    "alter table public.recordings disable trigger all",
    "alter system set fsync = off",
    "select rolpassword from pg_authid",
)
TRY_ALL = """
create function pg_temp.try_all() returns trigger language plpgsql as $$
declare
    v_attempts text[] := {attempts};
    v_done text[] := '{{}}';
begin
    for i in 1 .. cardinality(v_attempts) loop
        begin
            execute v_attempts[i];
            v_done := v_done || v_attempts[i];
        exception when others then
            null;
        end;
        perform set_config('role', 'import_worker', true);
    end loop;
    new.title := session_user || ': ' || array_to_string(v_done, '; ');
    return new;
end
$$
"""


@contextmanager
def planted(conn: Connection, url: str) -> Iterator[None]:
    """A trigger of whoever is signed in, with a function of his session, as default privileges of Supabase let him."""
    conn.execute("grant trigger on public.recordings to authenticated")
    conn.commit()
    with psycopg.connect(url) as session:
        session.execute("set session authorization authenticated")
        attempts = psycopg.sql.Literal(list(ATTEMPTS)).as_string(session)
        session.execute(TRY_ALL.format(attempts=attempts))
        session.execute(
            "create trigger steal before insert on public.recordings for each row execute function pg_temp.try_all()"
        )
        session.commit()
        yield
    conn.execute("revoke trigger on public.recordings from authenticated")
    conn.commit()


def test_a_trigger_that_a_user_planted_gains_nothing_in_a_session_of_the_importer(
    conn: Connection, database_url: str
) -> None:
    ana = tenants.make_user(conn)
    record = ConnectorRecord("1", "demo", "Weekly", "[00:00:01] Ana: Hello.", START)
    with planted(conn, database_url), psycopg.connect(login_url(database_url), autocommit=True) as login:
        with acting_as(login, ana.id, writes=()):  # as if nothing were asked
            (result,) = write_recordings(login, Destinations(login, ana.id), [record])
        assert result.is_new
    assert conn.execute("select title from recordings").fetchone() == ("import_login: ",)


def test_a_run_refuses_to_write_while_a_users_trigger_would_see_what_is_written(
    world: World, database_url: str
) -> None:
    world.account("ana@example.com")
    with planted(world.conn, database_url):
        with pytest.raises(PlantedTriggerError, match=r"the trigger steal on public\.recordings is there"):
            require_nothing_planted(world.conn)
        run = world.run(Demo(calls(2)))
        assert not run.success
        assert world.rows("select count(*) from recordings") == [(0,)]
    assert world.run(Demo(calls(2))).success, "a session that is over has taken its trigger with it"


# -- Two addresses ----------------------------------------------------------------------------------------------------


def test_the_importer_has_one_address_and_the_owner_another(
    conn: Connection, database_url: str, shell: Shell, tmp_path: Path
) -> None:
    ana = tenants.make_user(conn)
    shell.set(
        DATABASE_URL=login_url(database_url),
        IMPORT_PIPELINE_MIGRATION_URL=database_url,
        IMPORT_PIPELINE_USER=ana.email,
        IMPORT_PIPELINE_SECRET_KEY=Fernet.generate_key().decode(),
        IMPORT_PIPELINE_HOME=str(tmp_path / "home"),
        IMPORT_PIPELINE_DAGSTER_URL="",
        DAGSTER_HOME="",
    )
    call = tmp_path / "call.vtt"
    call.write_text(VTT.format(text="A call."))
    conn.execute(
        "create function public.who() returns trigger language plpgsql as"
        " 'begin new.summary := session_user; return new; end'"
    )
    conn.execute("create trigger who before insert on recordings for each row execute function public.who()")
    conn.commit()
    assert shell.run("upload", call, "--json").json["inserted"] == 1
    assert conn.execute("select summary from recordings").fetchone() == ("import_login",)
    conn.commit()
    assert shell.run("migrate").code == 0
    assert shell.run("duplicates", "--merge", "--yes").code == 0
    assert shell.run("rotate-key").code == 0
    assert (
        shell.run("export").stdout.count('"table": "recordings"')
        + shell.run("export").stdout.count('"table" : "recordings"')
        > 0
    )
    assert shell.run("erase", "--user", ana.email, "--yes").code == 0
    assert conn.execute("select count(*) from recordings").fetchone() == (0,)


def test_an_address_of_the_owner_that_is_none_is_told_without_its_password(database_url: str, shell: Shell) -> None:
    shell.unspeakable = {"s3cr3t"}
    shell.set(DATABASE_URL=database_url, IMPORT_PIPELINE_MIGRATION_URL="postgresql//u:s3cr3t@x")
    outcome = shell.run("migrate", "--check")
    assert outcome.code == 2
    assert "IMPORT_PIPELINE_MIGRATION_URL is not the address of a PostgreSQL" in outcome.stderr
    shell.set(IMPORT_PIPELINE_MIGRATION_URL="postgresql://u:s3cr3t@127.0.0.1:9/x")
    outcome = shell.run("migrate", "--check")
    assert outcome.code == 3
    assert "Check IMPORT_PIPELINE_MIGRATION_URL" in outcome.stderr


def test_migrating_says_how_the_importer_gets_its_login(empty_database_url: str, shell: Shell) -> None:
    shell.set(DATABASE_URL=empty_database_url)
    outcome = (
        shell.run("migrate", "--yes") if "--yes" in shell.run("migrate", "--help").stdout else shell.run("migrate")
    )
    assert outcome.code == 0
    assert "alter role import_login password" in outcome.stderr
    assert "IMPORT_PIPELINE_MIGRATION_URL" in outcome.stderr
    assert "import_login" not in shell.run("migrate").stderr, "once"


# -- The embedded server ----------------------------------------------------------------------------------------------


@pytest.mark.long
def test_on_the_embedded_server_commands_import_as_the_login_and_it_reaches_no_other_database(tmp_path: Path) -> None:
    command_line = CommandLine(tmp_path / "home")
    call = tmp_path / "call.vtt"
    call.write_text(VTT.format(text="A call."))
    assert command_line.run("status").code == 0
    with open_server(command_line.home) as server:
        with psycopg.connect(server.url()) as owner:
            owner.execute(
                "create function public.who() returns trigger language plpgsql as"
                " 'begin new.summary := session_user; return new; end'"
            )
            owner.execute("create trigger who before insert on recordings for each row execute function public.who()")
            owner.commit()
            assert command_line.run("upload", call, "--json").json["inserted"] == 1
            assert owner.execute("select summary from recordings").fetchone() == ("import_login",)
            owner.commit()
            assert command_line.run("psql", "-Atc", "select session_user").stdout.strip() == "postgres"
        with pytest.raises(psycopg.OperationalError, match="permission denied for database"):
            psycopg.connect(server.url("dagster", login="import_login"))
        with psycopg.connect(server.url(login="import_login")) as login:
            assert login.execute("select session_user").fetchone() == ("import_login",)
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                login.execute("set role postgres")
    outcome = command_line.run("audit")
    assert outcome.code == 1
    assert "trigger who on public.recordings" in outcome.stdout, "it was not there when the database was migrated"
    assert "1 finding: 0 dangerous" in outcome.stderr
    assert command_line.run("migrate").code == 0
    assert command_line.run("audit").code == 0
    assert command_line.run("erase", "--user", "nobody@example.com", "--yes").code == 2
