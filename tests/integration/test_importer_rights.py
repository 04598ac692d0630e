"""A login that is a member of import_worker and nothing else can do all that an import needs, and nothing besides."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attack
import dagster as dg
import psycopg
import pytest
import tenants
from attack import ACCOUNTS, RECORDINGS, id_of
from commands import VTT, Shell
from connectors.demo import Demo
from cryptography.fernet import Fernet
from fakes import FathomServer
from psycopg import errors
from world import World, calls, summary_of

from import_pipeline import ConnectorRecord, run_pipeline
from import_pipeline.database import sql
from import_pipeline.database.audit import find_findings
from import_pipeline.database.tenancy import acting_as
from import_pipeline.definitions import build_defs
from import_pipeline.library.due import request_runs
from import_pipeline.pipeline import insert_recordings
from import_pipeline.stages.postgres import PostgresResource

Connection = psycopg.Connection[Any]
LOGIN = "importer_of_test"
SPEECH = "[00:00:01] Zoe: Hello."

WRITTEN = ("recordings", "vault_entries", "import_items", "sync_jobs")


@pytest.fixture
def login_url(conn: Connection, database_url: str) -> Iterator[str]:
    """Address for a login that inherits nothing and may only become import_worker."""
    conn.execute(f"create role {LOGIN} login noinherit in role import_worker")
    conn.commit()
    yield database_url.replace("//postgres@", f"//{LOGIN}@")
    conn.rollback()
    conn.execute(f"drop role {LOGIN}")
    if not conn.autocommit:
        conn.commit()


# -- All that an import needs -----------------------------------------------------------------------------------------


def test_every_command_that_imports_or_asks_works_with_it(
    ana: tenants.User, login_url: str, tmp_path: Path, shell: Shell
) -> None:
    shell.set(
        DATABASE_URL=login_url,
        IMPORT_PIPELINE_USER=ana.email,
        IMPORT_PIPELINE_SECRET_KEY=Fernet.generate_key().decode(),
        IMPORT_PIPELINE_HOME=str(tmp_path / "home"),
        IMPORT_PIPELINE_FATHOM_RATE_LIMITS="none",
        DAGSTER_HOME="",
    )
    call = tmp_path / "call.vtt"
    call.write_text(VTT.format(text="A call."))

    def done(*arguments: str | Path, stdin: str = "") -> Any:
        outcome = shell.run(*arguments, stdin=stdin)
        assert outcome.code == 0, (arguments, outcome.stderr)
        return outcome

    with FathomServer(calls=3, months=1) as server:
        shell.set(**server.environment)
        done("connect", "fathom", stdin="fathom-test-key")
        assert done("sync", "fathom", "--json").json["inserted"] == 3
        month = f"{server.calls[0].started_at:%Y-%m}"
        assert done("backfill", "fathom", "--from", month, "--to", month, "--yes", "--json").json["failed"] == 0
        done("coverage", "fathom", "--month", month)
    assert done("upload", call, "--json").json["inserted"] == 1
    assert done("counts", "--json").json == {"fathom": 3, "file-upload": 1}
    assert {row["source_app"] for row in done("status", "--json").json} == {"fathom", "file-upload"}
    done("failures")
    done("retry")
    done("why", call)
    done("audit")
    done("disconnect", "fathom")
    assert shell.run("migrate").code == 2, "it imports and nothing else"


def test_jobs_assets_and_sensors_work_with_it(world: World, login_url: str) -> None:
    ana = world.account("ana@example.com")
    as_login = World(world.conn, login_url, world.staging, world.instance)
    assert summary_of(as_login.run(Demo(calls(3)))).counts.inserted == 3
    world.do("delete from vault_entries")
    defs = build_defs(connectors={"demo": Demo()}, postgres=PostgresResource(url=login_url))
    with dg.DagsterInstance.ephemeral() as instance:
        assert defs.resolve_job_def("repair_vault_entries").execute_in_process(instance=instance).success
        assert world.rows("select count(*) from vault_entries") == [(3,)]
        assert defs.resolve_implicit_global_asset_job_def().execute_in_process(
            instance=instance, asset_selection=[dg.AssetKey("import_counts"), dg.AssetKey("import_health")]
        ).success  # fmt: skip
    with psycopg.connect(login_url, autocommit=True) as conn:
        assert request_runs(conn, "demo", (), most=1)[1].accounts == 1
        record = ConnectorRecord("1", "my-recorder", "Weekly", SPEECH, "2026-03-02T10:00:00+01:00")
        assert run_pipeline(conn, ana.id, record).success


# -- Nothing besides --------------------------------------------------------------------------------------------------

NOTHING_BESIDES = (
    "select * from auth.users",
    "select id from auth.users",
    "update auth.users set email = 'x'",
    "delete from auth.users",
    "create schema mine",
    "create table public.mine (id integer)",
    "create table import_pipeline.mine (id integer)",
    "create table auth.mine (id integer)",
    "create function public.mine() returns integer language sql as 'select 1'",
    "create view import_pipeline.mine as select 1",
    "create type public.mine as enum ('a')",
    "drop extension plpgsql",
    "create role mine",
    "create database mine",
    "create policy mine on public.recordings using (true)",
    "create trigger mine before insert on public.recordings for each row execute function suppress_redundant_updates()",
    "create index mine on public.recordings (title)",
    "alter table public.recordings add column mine integer",
    "alter table public.recordings disable row level security",
    "alter table import_pipeline.credentials disable row level security",
    "alter function import_pipeline.claimed_bank_ids() security invoker",
    "alter role import_worker bypassrls",
    "alter database {database} set search_path = mine",
    "alter default privileges for role postgres grant all on tables to import_worker",
    "drop table public.recordings",
    "drop schema import_pipeline cascade",
    'drop policy "Import worker adds only to the claimed user\'s banks" on public.recordings',
    "truncate public.recordings",
    "truncate import_pipeline.credentials",
    "begin; lock table public.recordings in access exclusive mode",
    "update public.recordings set title = 'x'",
    "delete from public.recordings",
    "update public.vault_entries set notes = 'x'",
    "delete from public.vault_entries",
    "delete from public.import_items",
    "delete from public.sync_jobs",
    "insert into public.banks (name) values ('x')",
    "select * from public.vault_memberships",
    "select * from import_pipeline.schema_migrations",
    "grant import_worker to authenticated",
    "set role service_role",
    "set role authenticated",
    "set session authorization postgres",
    "set session_replication_role = replica",
    "copy public.recordings from stdin",
    "copy (select 1) to program 'true'",
    "copy (select 1) to '/tmp/x'",
    "select pg_read_file('/etc/passwd')",
    "select pg_terminate_backend(pid) from pg_stat_activity where usename = 'postgres' and pid <> pg_backend_pid()",
    "select rolpassword from pg_authid",
    "select lo_create(0)",
    "select lo_from_bytea(0, 'x')",
    "comment on table public.recordings is 'x'",
    "reindex table public.recordings",
    "alter system set fsync = off",
)


@pytest.mark.parametrize("as_worker", [True, False], ids=["import_worker", "the login itself"])
def test_it_can_do_nothing_besides(conn: Connection, login_url: str, as_worker: bool) -> None:
    attack.build(conn)
    with psycopg.connect(login_url, autocommit=True) as login:
        login.execute("select set_config('request.jwt.claims', %s, false)", [attack.signed_in("ana").claims])
        if as_worker:
            login.execute("set role import_worker")
        done = []
        for statement in NOTHING_BESIDES:
            try:
                login.execute(statement.format(database=login.info.dbname))
            except errors.InsufficientPrivilege:
                pass
            except errors.FeatureNotSupported:
                # For want of row-level security in `copy … from`.
                done += [] if statement.startswith("copy") else [statement]
            else:
                done.append(statement)
            login.execute("rollback")
        if as_worker:
            login.execute("grant all on public.recordings to public")  # told as a warning only
    assert done == []
    assert find_findings(conn) == []


def test_its_temporary_tables_take_the_place_of_nothing(conn: Connection, login_url: str) -> None:
    """PostgreSQL lets everybody create them. They live in the session that made them, and no statement looks there."""
    user = tenants.make_user(conn)
    with psycopg.connect(login_url, autocommit=True) as login:
        for table in ("recordings", "banks", "bank_memberships", "vaults", "vault_entries"):
            login.execute(f"create temporary table {table} (id uuid)")
            login.execute(f"grant all on {table} to public")
        record = ConnectorRecord("1", "my-recorder", "Weekly", SPEECH, "2026-03-02T10:00:00+01:00")
        result = run_pipeline(login, user.id, record)
    assert result.success, result.error
    assert conn.execute("select id from public.recordings").fetchall() == [(result.recording_id,)]


def test_no_statement_of_the_product_depends_on_the_search_path(conn: Connection) -> None:

    def is_postgresqls_own(name: str) -> bool:
        """Found by its name, and not with the types that nulls have."""
        found = "select from pg_proc where proname = %s and pronamespace = 'pg_catalog'::regnamespace"
        return conn.execute(found, [name]).fetchone() is not None

    conn.execute("set search_path = ''")
    for name, text in sql.queries().items():
        statement = re.sub(r"%\(\w+\)[sb]", "null", text).replace("%%", "%")
        try:
            conn.execute("explain " + re.sub(r"\{\w+\}", "text[]", statement))
        except (errors.UndefinedTable, errors.UndefinedFunction, errors.UndefinedObject) as error:
            conn.rollback()
            missing = re.match(r"function (\w+)\(", str(error))
            if not str(error).startswith("operator") and not (missing and is_postgresqls_own(missing[1])):
                pytest.fail(f"{name}: {error}")
        except psycopg.Error:
            pass  # again such a null
        conn.rollback()
        conn.execute("set search_path = ''")


# -- Somebody without an account, and runs of somebody else ----------------------------------------------------------


def item(user: str, source_app: str = "zoom", external_id: str = "forged", **values: Any) -> dict[str, Any]:
    names = ("recording_id", "title", "location", "started_at", "error_class", "error_message", "retry_at")
    nothing = dict.fromkeys((*names, "http_status", "request_id", "run_id"))
    row = nothing | {"external_id": external_id, "status": "ignored", "attempts": 1} | values
    return sql.columns([row]) | {"user_id": id_of(user), "source_app": source_app}


def test_a_run_for_somebody_without_an_account_writes_nothing_and_an_explicit_call_needs_none(
    conn: Connection, login_url: str
) -> None:
    """A run writes recording and ledger in one transaction, and the ledger takes items of accounts only."""
    attack.build(conn)
    record = ConnectorRecord("1", "zoom", "Weekly", SPEECH, "2026-03-02T10:00:00+01:00")
    with psycopg.connect(login_url, autocommit=True) as login:

        def run() -> None:
            with acting_as(login, id_of("zoe"), writes=WRITTEN):
                (written,) = insert_recordings(login, id_of("zoe"), [record])
                assert written.is_new
                login.execute(sql.query("record_outcomes"), item("zoe", recording_id=written.recording_id))

        with pytest.raises(errors.InsufficientPrivilege, match="items of claimed accounts"):
            run()
        with (
            pytest.raises(errors.InsufficientPrivilege, match="sync jobs of claimed accounts"),
            acting_as(login, id_of("zoe"), writes=WRITTEN),
        ):
            login.execute("insert into public.sync_jobs (user_id) values (%s)", [id_of("zoe")])
        assert conn.execute("select count(*) from recordings").fetchone() == (len(RECORDINGS),)
        conn.commit()
        assert run_pipeline(login, id_of("zoe"), record).success
        assert not run_pipeline(login, id_of("nobody"), record).success


def test_a_run_of_somebody_elses_is_not_told_as_the_last_of_an_account(conn: Connection) -> None:
    """Where users may write sync_jobs themselves, as on some products."""
    attack.build(conn)
    conn.execute(
        "insert into sync_jobs (user_id, status, error, metadata, created_at)"
        " values (%s, 'failed', 'Call 555 to get your calls back', jsonb_build_object('account_id', %s::text),"
        " now() + interval '1 hour')",
        [id_of("eva"), str(id_of("ana at zoom"))],
    )
    told = conn.execute("select last_run_error from import_pipeline.account_health(null, null)").fetchall()
    assert told == [(None,)] * len(ACCOUNTS)
