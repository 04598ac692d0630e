"""A trigger that a user planted runs in no transaction of the importer's and in none of the owner's."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg
import pytest
import tenants
from commands import Shell
from connectors.demo import START, Demo
from psycopg.pq import TransactionStatus
from psycopg.rows import tuple_row
from world import World, calls, problem_of

from import_pipeline import ConnectorRecord, insert_recording, run_pipeline
from import_pipeline.database import audit, migrations
from import_pipeline.database.planted import TENANCY_TABLES, find_planted_triggers, require_nothing_planted
from import_pipeline.database.tenancy import acting_as, acting_at_once
from import_pipeline.errors import PlantedTriggerError
from import_pipeline.library.accounts import activate_account, ensure_account, move_cursor
from import_pipeline.library.sync_jobs import close_sync_job
from import_pipeline.pipeline import add_missing_vault_entries, add_vault_entries, insert_recordings
from import_pipeline.providers.credentials import forget_credential
from import_pipeline.records import Account, Counts, Ignored, Known, ListedItem, Ready
from import_pipeline.stages import insert
from import_pipeline.stages.insert import write_outcomes

Connection = psycopg.Connection[Any]


RECORD = ConnectorRecord("1", "demo", "Weekly", "[00:00:01] Ana: Hello.", START)


def admins(url: str) -> str:
    return re.sub(r"//[^@/]*@", "//postgres@", url)


def login_of(url: str) -> str:
    return re.sub(r"//[^@/]*@", "//import_login@", url)


BODY = "() returns trigger language plpgsql as $$ begin return new; end $$;"
BY_A_USER = f"set local role authenticated; create function pg_temp.steal{BODY}"
OF_CARL = (
    "create role carl_of_test login noinherit in role authenticated; create schema carl authorization carl_of_test;"
    f" set local role carl_of_test; create function carl.steal{BODY} reset role; grant usage on schema carl to public;"
)

PLANTED = {
    "a function of a user's session": (
        f"{BY_A_USER} create trigger steal before insert on public.recordings for each row execute function"
        " pg_temp.steal()",
        "public.recordings",
    ),
    "one that waits for the end of a transaction": (
        f"{BY_A_USER} create constraint trigger steal after insert on public.vault_entries deferrable initially"
        " deferred for each row execute function pg_temp.steal()",
        "public.vault_entries",
    ),
    "a function of a login that is a member of the API's role": (
        f"{OF_CARL} set local role authenticated;"
        " create trigger steal after insert on public.vault_entries for each row execute function carl.steal()",
        "public.vault_entries",
    ),
    "a function of a login that is nobody's member": (
        f"{OF_CARL} revoke authenticated from carl_of_test; grant trigger on public.sync_jobs to carl_of_test;"
        " set local role carl_of_test;"
        " create trigger steal after update on public.sync_jobs for each statement execute function carl.steal()",
        "public.sync_jobs",
    ),
    "a function of a session, on a table that a trigger of the owner's writes": (
        f"{BY_A_USER} create trigger steal before insert on public.activity for each row execute function"
        " pg_temp.steal()",
        "public.activity",
    ),
    "a function of a login that comes through the API, on such a table": (
        f"{OF_CARL} set local role authenticated;"
        " create trigger steal before insert on public.activity for each row execute function carl.steal()",
        "public.activity",
    ),
}
HARMLESS = {
    "a function of the owner's on the owner's table": (
        f"set local role {{owner}}; create function public.tidy{BODY}"
        " create trigger tidy before insert on public.recordings for each row execute function public.tidy()"
    ),
    "a webhook of Supabase's": (
        "create role supabase_functions_of_test login noinherit; create schema hooks;"
        f" create function hooks.request{BODY} alter function hooks.request() owner to supabase_functions_of_test;"
        " grant usage on schema hooks to public; set local role {owner};"
        " create trigger hook after insert on public.recordings for each row execute function hooks.request()"
    ),
    "a function of a role whose rights the owner has": (
        "create role builder_of_test; grant builder_of_test to {owner}; create schema building authorization"
        f" builder_of_test; set local role builder_of_test; create function building.f{BODY} reset role;"
        " create trigger f after insert on public.vault_entries for each row execute function building.f()"
    ),
    "temporary tables of a session": (
        f"{BY_A_USER} create temporary table mine (id integer);"
        " create trigger mine before insert on mine for each row execute function pg_temp.steal()"
    ),
    "a login's function on its own table": (
        f"{OF_CARL} set local role carl_of_test; create table carl.notes (id integer);"
        " create trigger mine before insert on carl.notes for each row execute function carl.steal()"
    ),
}


@pytest.fixture
def migrated(installed: str) -> str:
    with psycopg.connect(installed) as conn:
        migrations.apply(conn)
    return installed


def test_whose_code_a_trigger_runs_is_judged_alike_for_runs_and_for_the_audit(migrated: str) -> None:
    owner = psycopg.conninfo.conninfo_to_dict(migrated)["user"]
    with psycopg.connect(admins(migrated), row_factory=tuple_row) as conn:
        for case, (statements, table) in PLANTED.items():
            conn.execute(statements)
            conn.execute("reset role")
            found = [each.object for each in audit.find_findings(conn, "foreign-triggers")]
            assert f"trigger steal on {table}" in found, case
            for path in ("", "public"):  # as in the importer's sessions
                conn.execute("select set_config('search_path', %s, true)", [path])
                with pytest.raises(PlantedTriggerError, match=f"the trigger steal on {table} is there"):
                    require_nothing_planted(conn)
            conn.rollback()
        for case, statements in HARMLESS.items():
            conn.execute(statements.format(owner=owner))
            conn.execute("reset role")
            assert find_planted_triggers(conn.cursor(), TENANCY_TABLES).fetchall() == [], case
            conn.rollback()


# -- What is done with the owner's login ------------------------------------------------------------------------------

TAKE_OVER = """
create function pg_temp.take_over() returns trigger language plpgsql as $$
begin
    execute 'reset role';
    execute 'create table public.taken_over as select current_user';
    return coalesce(new, old);
end
$$
"""


def plant(session: Connection, when: str, table: str) -> None:
    session.execute(
        f"create trigger steal {when} on {table} for each row execute function pg_temp.take_over()"  # type: ignore[arg-type]
    )


@contextmanager
def planted(url: str, when: str, table: str) -> Iterator[None]:
    """A trigger of a user who is logged in, with a function that makes a table with the rights of who writes."""
    with psycopg.connect(admins(url), autocommit=True) as session:
        session.execute("set session authorization authenticated")
        session.execute(TAKE_OVER)
        plant(session, when, table)
        yield
        session.execute("reset session authorization")
        session.execute(f"drop trigger steal on {table}")  # type: ignore[arg-type]


def everything(conn: Connection) -> list[Any]:
    return [
        conn.execute(f"select md5(string_agg(t::text, '|' order by t::text)) from {table} as t").fetchone()
        for table in ("public.recordings", "public.vault_entries", "public.sync_jobs", "public.activity")
    ]


# -- What is planted when the run has begun ---------------------------------------------------------------------------


class Planting(Demo):
    """A source at whose nth call a user who is logged in plants their trigger."""

    def __init__(self, number: int, session: Connection, table: str) -> None:
        super().__init__(calls(3))
        self.number, self.session, self.table = number, session, table

    def fetch_record(self, account: Account, item: ListedItem, http: Any) -> ConnectorRecord:
        if len(self.asked) == self.number:
            plant(self.session, "before insert or update", self.table)
        return super().fetch_record(account, item, http)


@pytest.mark.parametrize("table", ["recordings", "vault_entries", "import_items", "sync_jobs"])
@pytest.mark.parametrize("is_fast", [True, False])
def test_a_trigger_that_is_planted_after_a_run_began_never_runs_and_the_run_fails_for_it(
    world: World, table: str, is_fast: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not is_fast:
        monkeypatch.setattr(insert, "write_new", lambda *_: None)
    world.account("ana@example.com")
    world.do(f"grant trigger on {table} to authenticated")
    with psycopg.connect(admins(world.url), autocommit=True) as session:
        session.execute("set session authorization authenticated")
        session.execute(TAKE_OVER)
        run = world.run(Planting(1, session, f"public.{table}"))
        assert not run.success
        failed = next(event.step_key for event in run.all_events if event.is_step_failure)
        assert f"the trigger steal on public.{table} is there" in problem_of(run, failed)
        assert world.rows("select count(*), to_regclass('public.taken_over') from recordings") == [(0, None)]
    assert world.run(Demo(calls(3))).success
    assert len(world.recordings()) == 3


@pytest.mark.parametrize("act", [acting_as, acting_at_once])
def test_nobody_can_plant_a_trigger_while_a_transaction_writes(world: World, act: Any) -> None:
    ana = world.account("ana@example.com")
    with (
        psycopg.connect(world.url, autocommit=True) as conn,
        psycopg.connect(admins(world.url), autocommit=True) as session,
    ):
        session.execute(TAKE_OVER)
        session.execute("set lock_timeout = '100ms'")
        with act(conn, ana.id, writes=("recordings",)) as pending:
            if pending is not None:
                pending.sync()
            with pytest.raises(psycopg.errors.LockNotAvailable):
                plant(session, "before insert", "public.recordings")
        plant(session, "before insert", "public.recordings")


@pytest.mark.parametrize("act", [acting_as, acting_at_once])
def test_a_transaction_that_says_nothing_of_tables_that_it_writes_can_write_none(world: World, act: Any) -> None:
    ana = world.account("ana@example.com")
    with psycopg.connect(world.url, autocommit=True) as conn:
        with pytest.raises(psycopg.errors.ReadOnlySqlTransaction), act(conn, ana.id):
            conn.execute("update public.import_sources set is_active = false")
        with act(conn, ana.id, writes=("import_sources",)):
            conn.execute("update public.import_sources set is_active = false")


@pytest.mark.parametrize(
    ("when", "table"),
    [
        ("before delete or update", "public.recordings"),
        ("after delete or update", "public.vault_entries"),
        ("before insert", "public.activity"),
    ],
)
def test_erase_and_merge_refuse_to_run_a_strangers_code_with_the_owners_login_and_change_nothing(
    migrated: str, when: str, table: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    shell = Shell(monkeypatch, capsys)
    shell.set(
        DATABASE_URL=migrated, IMPORT_PIPELINE_HOME=str(tmp_path), DAGSTER_HOME="", IMPORT_PIPELINE_DAGSTER_URL=""
    )
    with psycopg.connect(admins(migrated), autocommit=True) as conn:
        ana = tenants.make_user(conn, "ana2@example.com")
        insert_recordings(
            conn,
            ana.id,
            [ConnectorRecord(f"{each}", "demo", "Weekly", "[00:00:01] Ana: Hello.", START) for each in "ab"],
        )
        conn.execute("delete from vault_entries")
        # What an older importer left: the same call once more.
        conn.execute(
            'update recordings set id = gen_random_uuid(), source_metadata = \'{"external_id": "a"}\''
            " where source_metadata ->> 'external_id' = 'b'"
        )
        before = everything(conn)
        with planted(migrated, when, table):
            for command in (("erase", "--user", "ana2@example.com", "--yes"), ("duplicates", "--merge", "--yes")):
                outcome = shell.run(*command)
                assert outcome.code == 2, outcome
                assert f"Nothing is written while the trigger steal on {table} is there" in outcome.stderr
        assert everything(conn) == before
        assert conn.execute("select to_regclass('public.taken_over')").fetchone() == (None,)
        assert shell.run("duplicates", "--merge", "--yes").code == 0
        assert shell.run("erase", "--user", "ana2@example.com", "--yes").code == 0


# -- What the importer does -------------------------------------------------------------------------------------------

COPY_ALL = """
create function pg_temp.copy_all() returns trigger language plpgsql as $$
begin
    raise warning 'a stranger''s code ran';
    perform set_config('test.stolen', 'yes', false);
    return coalesce(new, old);
end
$$
"""
STEAL = "create trigger steal before insert or update on {} for each row execute function pg_temp.copy_all()"


@contextmanager
def attacker(conn: Connection, url: str) -> Iterator[Connection]:
    """A user who is logged in to SQL, with the right to put triggers on tables that Supabase gives by default."""
    conn.execute("grant trigger on all tables in schema public to authenticated")
    conn.commit()
    with psycopg.connect(url, autocommit=True) as session:
        session.execute("set session authorization authenticated")
        session.execute(COPY_ALL)
        session.execute("set lock_timeout = '200ms'")
        yield session


def test_every_function_that_writes_refuses_while_a_trigger_is_planted(conn: Connection, database_url: str) -> None:
    ana = tenants.make_user(conn)
    conn.commit()
    with psycopg.connect(database_url, autocommit=True) as ours:
        account_id = ensure_account(ours, ana.id, "demo", ana.email)
        account = Account(account_id, ana.id, "demo", "Ana", START, sync_job_id=uuid4())
        ready = Ready(ListedItem("1", "Weekly", START, None), RECORD)
        recording = insert_recording(ours, ana.id, replace(RECORD, external_id="2"))
        doings: dict[str, dict[str, Callable[[], object]]] = {
            "recordings": {
                "insert_recording": lambda: insert_recording(ours, ana.id, RECORD),
                "insert_recordings": lambda: insert_recordings(ours, ana.id, [RECORD]),
                "write_outcomes": lambda: write_outcomes(ours, account, "run", [ready]),
            },
            "vault_entries": {
                "add_vault_entries": lambda: add_vault_entries(ours, ana.id, [(recording, ana.vault_id)]),
                "add_missing_vault_entries": lambda: add_missing_vault_entries(ours, ana.id, [recording]),
                "write_outcomes": lambda: write_outcomes(ours, account, "run", [Known(ready.item, recording)]),
            },
            "import_items": {
                "write_outcomes": lambda: write_outcomes(ours, account, "run", [Ignored(ready.item, "A test.")]),
                "activate_account": lambda: activate_account(ours, account_id, ana.id, "demo", None, None),
            },
            "sync_jobs": {
                "close_sync_job": lambda: close_sync_job(ours, account, "run", Counts()),
                "write_outcomes": lambda: write_outcomes(ours, account, "run", [ready]),
            },
            "import_sources": {
                "ensure_account": lambda: ensure_account(ours, ana.id, "demo", ana.email),
                "move_cursor": lambda: move_cursor(ours, account_id, ana.id, START, None),
                "forget_credential": lambda: forget_credential(ours, account_id, ana.id),
            },
        }
        with attacker(conn, database_url) as session:
            for table, functions in doings.items():
                session.execute("set session authorization authenticated")
                session.execute(STEAL.format(f"public.{table}"))
                for name, function in functions.items():
                    with pytest.raises(PlantedTriggerError, match=f"the trigger steal on public.{table} is there"):
                        function()
                    assert ours.info.transaction_status == TransactionStatus.IDLE, name
                told = run_pipeline(ours, ana.id, RECORD)
                assert "the trigger steal" in str(told.error)
                session.execute("reset session authorization")
                session.execute(f"drop trigger steal on {table}")  # type: ignore[arg-type]
        assert ours.execute("select current_setting('test.stolen', true)").fetchone() in ((None,), ("",))
        assert write_outcomes(ours, account, "run", [ready])[0].inserted == 1


# -- What was not there -----------------------------------------------------------------------------------------------


def test_audit_names_a_trigger_that_was_not_there_and_migrating_takes_note_of_it(
    migrated: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A built-in function that refuses what it is not made for would stop every import, and belongs to no stranger."""
    shell = Shell(monkeypatch, capsys)
    shell.set(DATABASE_URL=migrated)
    with psycopg.connect(admins(migrated), autocommit=True) as conn:
        importer = psycopg.connect(login_of(migrated), autocommit=True)
        assert [each for each in audit.find_findings(importer, "foreign-triggers") if "trigger" in each.object] == []
        conn.execute("set role authenticated")
        conn.execute(
            "create trigger slow before insert on public.recordings for each row"
            " execute function suppress_redundant_updates_trigger()"
        )
        conn.execute("reset role")
        for session in (importer, conn):
            (found,) = [each for each in audit.find_findings(session, "foreign-triggers") if "trigger" in each.object]
            assert (found.severity, found.object) == ("warning", "trigger slow on public.recordings")
            assert "Was not there when the database was migrated" in found.problem
        outcome = shell.run("migrate")
        assert outcome.code == 0
        assert "trigger slow on public.recordings" in outcome.stderr
        assert [each for each in audit.find_findings(importer, "foreign-triggers") if "trigger" in each.object] == []
        assert "trigger slow" not in shell.run("migrate").stderr
        importer.close()
