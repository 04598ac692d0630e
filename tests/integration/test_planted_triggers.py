"""A trigger that a user planted runs in no transaction of the importer's and in none of the owner's."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
import tenants
from commands import Shell
from connectors.demo import START
from psycopg.rows import tuple_row

from import_pipeline import ConnectorRecord
from import_pipeline.database import audit, migrations
from import_pipeline.database.planted import TENANCY_TABLES, find_planted_triggers, require_nothing_planted
from import_pipeline.errors import PlantedTriggerError
from import_pipeline.pipeline import insert_recordings

Connection = psycopg.Connection[Any]


def admins(url: str) -> str:
    return re.sub(r"//[^@/]*@", "//postgres@", url)


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
def migrated(installed: str) -> Iterator[str]:
    with psycopg.connect(installed) as conn:
        migrations.apply(conn)
    yield installed


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


@contextmanager
def planted(url: str, when: str, table: str) -> Iterator[None]:
    """A trigger of a user who is logged in, with a function that makes a table with the rights of who writes."""
    with psycopg.connect(admins(url), autocommit=True) as session:
        session.execute("set session authorization authenticated")
        session.execute(TAKE_OVER)
        session.execute(
            f"create trigger steal {when} on {table} for each row execute function pg_temp.take_over()"  # type: ignore[arg-type]
        )
        yield
        session.execute("reset session authorization")
        session.execute(f"drop trigger steal on {table}")  # type: ignore[arg-type]


def everything(conn: Connection) -> list[Any]:
    return [
        conn.execute(f"select md5(string_agg(t::text, '|' order by t::text)) from {table} as t").fetchone()
        for table in ("public.recordings", "public.vault_entries", "public.sync_jobs", "public.activity")
    ]


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
