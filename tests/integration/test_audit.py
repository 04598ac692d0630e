"""The detector finds what it is meant to find, and nothing else; on our own schema it finds nothing."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
import servers
from commands import CommandLine, Shell

from import_pipeline.database import migrations
from import_pipeline.database.audit import RULES, Finding, find_findings

Connection = psycopg.Connection[Any]


def found(conn: Connection) -> set[tuple[str, str, str]]:
    """Rule, severity and object of every finding."""
    return {(one.rule, one.severity, one.object) for one in find_findings(conn)}


@pytest.fixture(params=["18", "15"])
def migrated(request: pytest.FixtureRequest) -> Iterator[Connection]:
    """A database with our schema, on the newest and on the oldest PostgreSQL."""
    if request.param == "18":
        yield request.getfixturevalue("conn")
        return
    server_url: str = request.getfixturevalue("postgres15")
    url = servers.create_database(server_url)
    with psycopg.connect(url) as conn:
        migrations.apply(conn)
        yield conn
    servers.drop_database(server_url, url)


def test_a_freshly_migrated_database_has_no_findings(migrated: Connection) -> None:
    """What a later migration leaves open fails here, with the statement that closes it."""
    assert find_findings(migrated) == []


def test_a_database_without_anything_has_no_findings(empty_database_url: str) -> None:
    with psycopg.connect(empty_database_url) as conn:
        assert find_findings(conn) == []


# -- Each rule --------------------------------------------------------------------------------------------------------

LEFT_OPEN: dict[str, tuple[str, tuple[str, str, str]]] = {
    "a table that whoever is signed in reaches": (
        "create table public.notes (id integer); grant select on public.notes to authenticated",
        ("tables-without-row-security", "danger", "table public.notes"),
    ),
    "a table that anon reaches by one column": (
        "create table public.notes (id integer, body text); grant select (body) on public.notes to anon",
        ("tables-without-row-security", "danger", "table public.notes"),
    ),
    "a table that nobody reaches yet": (
        "create table public.notes (id integer)",
        ("tables-without-row-security", "warning", "table public.notes"),
    ),
    "policies that sleep": (
        "alter table public.recordings disable row level security",
        ("tables-without-row-security", "danger", "table public.recordings"),
    ),
    "a private table without policies switched on": (
        "alter table import_pipeline.credentials disable row level security",
        ("tables-without-row-security", "warning", "table import_pipeline.credentials"),
    ),
    "a schema of the owner's that the API reaches": (
        "create schema crm; grant usage on schema crm to authenticated; create table crm.deals (id integer);"
        " grant select on crm.deals to authenticated",
        ("tables-without-row-security", "danger", "table crm.deals"),
    ),
    "partitions, which can be asked by themselves": (
        "create table public.logs (id integer) partition by list (id);"
        " alter table public.logs enable row level security;"
        " create table public.logs_1 partition of public.logs for values in (1)",
        ("tables-without-row-security", "warning", "table public.logs_1"),
    ),
    "anybody writes": (
        "create table public.notes (id integer); alter table public.notes enable row level security;"
        ' grant insert on public.notes to anon; create policy "all in" on public.notes for insert with check (true)',
        ("open-policies", "danger", 'policy "all in" on public.notes'),
    ),
    "whoever is signed in deletes": (
        "grant delete on public.vault_entries to authenticated;"
        " create policy tidy on public.vault_entries for delete to authenticated using (true)",
        ("open-policies", "warning", "policy tidy on public.vault_entries"),
    ),
    "a view with its owner's rights": (
        "create view public.titles as select title from public.recordings; grant select on public.titles to anon",
        ("views", "danger", "view public.titles"),
    ),
    "a view that says it has them": (
        "create view public.titles with (security_invoker = off) as select title from public.recordings;"
        " grant select (title) on public.titles to authenticated",
        ("views", "danger", "view public.titles"),
    ),
    "a materialised view": (
        "create materialized view public.titles as select title from public.recordings;"
        " grant select on public.titles to authenticated",
        ("views", "danger", "materialized view public.titles"),
    ),
    "a foreign table": (
        "create foreign data wrapper nothing; create server elsewhere foreign data wrapper nothing;"
        " create foreign table public.titles (title text) server elsewhere; grant select on public.titles to anon",
        ("views", "danger", "foreign table public.titles"),
    ),
    "a function of its owner's rights without a path": (
        "create function public.f() returns integer language sql security definer as 'select 1';"
        " revoke execute on function public.f() from public",
        ("definer-paths", "danger", "function public.f()"),
    ),
    "a function of its owner's rights with a path to public": (
        "create function public.f() returns integer language sql security definer set search_path = public, pg_temp"
        " as 'select 1'; revoke execute on function public.f() from public",
        ("definer-paths", "warning", "function public.f()"),
    ),
    "a trigger of its owner's rights without a path": (
        "create function public.f() returns trigger language plpgsql security definer as 'begin return new; end'",
        ("definer-paths", "danger", "function public.f()"),
    ),
    "a function of ours that does not put temporary objects last": (
        "alter function import_pipeline.find_user(text) set search_path = ''",
        ("definer-paths", "warning", "function import_pipeline.find_user(text)"),
    ),
    "a function of its owner's rights for everybody": (
        "create function public.f() returns integer language sql security definer set search_path = '' as 'select 1'",
        ("definer-callers", "danger", "function public.f()"),
    ),
    "a function of its owner's rights for anon": (
        "grant execute on function public.get_import_counts(uuid) to anon",
        ("definer-callers", "danger", "function public.get_import_counts(uuid)"),
    ),
    "a schema where anybody signed in creates": (
        "grant create on schema public to authenticated",
        ("creatable-schemas", "warning", "schema public"),
    ),
    "use of the private schema": (
        "grant usage on schema import_pipeline to service_role",
        ("private-schema", "danger", "schema import_pipeline"),
    ),
    "a private table": (
        "grant select on import_pipeline.credentials to service_role",
        ("private-schema", "danger", "table import_pipeline.credentials"),
    ),
    "a column of a private table": (
        "grant select (secret) on import_pipeline.credentials to service_role",
        ("private-schema", "danger", "table import_pipeline.credentials"),
    ),
    "a private sequence": (
        "create sequence import_pipeline.numbers; grant usage on sequence import_pipeline.numbers to service_role",
        ("private-schema", "danger", "sequence import_pipeline.numbers"),
    ),
    "a private function": (
        "grant execute on function import_pipeline.find_user(text) to authenticated",
        ("private-schema", "danger", "function import_pipeline.find_user(text)"),
    ),
    "private tables of the future": (
        "alter default privileges in schema import_pipeline grant select on tables to authenticated",
        ("private-schema", "warning", "default privileges of postgres for tables"),
    ),
    "all tables of the future": (
        "alter default privileges grant select on tables to authenticated",
        ("private-schema", "warning", "default privileges of postgres for tables"),
    ),
    "an importer that bypasses policies": (
        "alter role import_worker bypassrls",
        ("worker-role", "danger", "role import_worker"),
    ),
    "an importer that creates roles": (
        "alter role import_worker createrole",
        ("worker-role", "danger", "role import_worker"),
    ),
    "an importer that may become somebody else": (
        "grant service_role to import_worker",
        ("worker-role", "danger", "role import_worker"),
    ),
    "users who may become the importer": (
        "grant import_worker to authenticated",
        ("worker-role", "danger", "role authenticated"),
    ),
    "an importer that owns a function": (
        "create function public.f() returns integer language sql as 'select 1';"
        " alter function public.f() owner to import_worker",
        ("worker-role", "danger", "function public.f()"),
    ),
    "an importer that deletes recordings": (
        "grant delete on public.recordings to import_worker",
        ("worker-privileges", "danger", "table public.recordings"),
    ),
    "an importer that empties the ledger": (
        "grant truncate on public.import_items to import_worker",
        ("worker-privileges", "danger", "table public.import_items"),
    ),
    "an importer that hands on": (
        "grant select on public.recordings to import_worker with grant option",
        ("worker-privileges", "danger", "table public.recordings"),
    ),
    "an importer that reads addresses": (
        "grant select (email) on auth.users to import_worker",
        ("worker-privileges", "danger", "table auth.users"),
    ),
    "an importer that reads the history": (
        "grant select on import_pipeline.schema_migrations to import_worker",
        ("worker-privileges", "danger", "table import_pipeline.schema_migrations"),
    ),
    "an importer that gets what everybody gets": (
        "grant update on public.vaults to public",
        ("worker-privileges", "danger", "table public.vaults"),
    ),
    "an importer with a sequence": (
        "create sequence public.numbers; grant usage on sequence public.numbers to import_worker",
        ("worker-privileges", "danger", "sequence public.numbers"),
    ),
    "an importer that creates": (
        "grant create on schema auth to import_worker",
        ("worker-privileges", "danger", "schema auth"),
    ),
    "an importer that calls what is the owner's": (
        "create function public.f() returns integer language sql as 'select 1';"
        " grant execute on function public.f() to import_worker",
        ("worker-privileges", "danger", "function public.f()"),
    ),
    "a stranger's table that policies read": (
        "create role stranger_of_test login; alter table public.vault_memberships owner to stranger_of_test",
        ("foreign-owners", "danger", "table public.vault_memberships"),
    ),
    "a stranger's function that policies call": (
        "create role stranger_of_test login; grant usage on schema auth to stranger_of_test;"
        " alter function auth.uid() owner to stranger_of_test",
        ("foreign-owners", "danger", "function auth.uid()"),
    ),
    "a table that one of the API's roles owns": (
        "grant create on schema public to service_role; alter table public.vaults owner to service_role;"
        " revoke create on schema public from service_role",
        ("foreign-owners", "danger", "table public.vaults"),
    ),
    "a trigger that was not there when the database was migrated": (
        "create trigger slow before insert on public.recordings for each row"
        " execute function suppress_redundant_updates_trigger()",
        ("foreign-triggers", "warning", "trigger slow on public.recordings"),
    ),
    "a role in vaults that the importer does not know": (
        "alter table vault_memberships drop constraint vault_memberships_role_check;"
        " insert into auth.users (email) values ('ana@example.com');"
        " insert into banks (name, type) values ('Acme', 'business');"
        " insert into vaults (bank_id, name, vault_type) select id, 'Calls', 'personal' from banks limit 1;"
        " insert into vault_memberships (vault_id, user_id, role)"
        " select v.id, u.id, 'reader' from vaults as v, auth.users as u limit 1",
        ("vault-roles", "warning", "role 'reader' in vaults"),
    ),
    "a trigger of somebody else's session": (
        "create role stranger_of_test login;"
        " create function pg_temp.f() returns trigger language plpgsql as 'begin return new; end';"
        " create trigger steal before insert on public.recordings for each row execute function pg_temp.f()",
        ("foreign-triggers", "danger", "trigger steal on public.recordings"),
    ),
    "a trigger that runs somebody else's function": (
        "create role stranger_of_test login;"
        " create function public.f() returns trigger language plpgsql as 'begin return new; end';"
        " alter function public.f() owner to stranger_of_test;"
        " create trigger steal before insert on public.vault_entries for each row execute function public.f()",
        ("foreign-triggers", "danger", "trigger steal on public.vault_entries"),
    ),
    "a trigger on a table of ours": (
        "create function public.f() returns trigger language plpgsql as 'begin return new; end';"
        " create trigger note after update on public.import_items for each row execute function public.f()",
        ("foreign-triggers", "danger", "trigger note on public.import_items"),
    ),
    "a rule": (
        "create rule gone as on insert to public.sync_jobs do instead nothing",
        ("foreign-triggers", "danger", "rule gone on public.sync_jobs"),
    ),
    "an event trigger that runs somebody else's function": (
        "create role stranger_of_test login;"
        " create function public.f() returns event_trigger language plpgsql as 'begin end';"
        " alter function public.f() owner to stranger_of_test;"
        " create event trigger lurk on ddl_command_end execute function public.f()",
        ("foreign-triggers", "warning", "event trigger lurk"),
    ),
    "an API whose users may create triggers": (
        "grant trigger, references on public.recordings to authenticated, anon",
        ("foreign-triggers", "danger", "table public.recordings"),
    ),
    "a login that is more than a login": (
        "alter role import_login createrole",
        ("login-role", "danger", "role import_login"),
    ),
    "a login that may become somebody else": (
        "grant service_role to import_login",
        ("login-role", "danger", "role import_login"),
    ),
    "a login that reads by itself": (
        "grant select on public.recordings to import_login",
        ("login-role", "danger", "table public.recordings"),
    ),
    "large objects for everybody": (
        "grant execute on function pg_catalog.lo_create(oid) to public",
        ("worker-privileges", "warning", "function lo_create(oid)"),
    ),
    "a bare claim": (
        "create policy mine on public.vaults for select to anon using (auth.uid() is not null)",
        ("policies-per-row", "warning", "policy mine on public.vaults"),
    ),
    "a bare claim inside of a subquery": (
        "create policy mine on public.vaults for select to anon using"
        " (exists (select from public.vault_memberships as m where m.vault_id = vaults.id and m.user_id = auth.uid()))",
        ("policies-per-row", "warning", "policy mine on public.vaults"),
    ),
    "a bare claim beside one that is not": (
        "create policy mine on public.vaults for select to anon"
        " using ((select auth.role()) = 'x' and (auth.jwt() ->> 'aal') = 'aal2')",
        ("policies-per-row", "warning", "policy mine on public.vaults"),
    ),
    "a bare function of ours": (
        "create policy mine on public.vaults for select to anon using (id = any (import_pipeline.claimed_bank_ids()))",
        ("policies-per-row", "warning", "policy mine on public.vaults"),
    ),
    "a bare setting": (
        "create policy mine on public.vaults for select to anon using (current_setting('app.vault', true) = name)",
        ("policies-per-row", "warning", "policy mine on public.vaults"),
    ),
}


@pytest.mark.parametrize("case", LEFT_OPEN)
def test_what_is_left_open_is_found_and_nothing_else_and_the_remedy_closes_it(conn: Connection, case: str) -> None:
    statements, expected = LEFT_OPEN[case]
    conn.execute(statements)  # roles belong to the server: everything here is rolled back
    findings = find_findings(conn)
    assert [(one.rule, one.severity, one.object) for one in findings] == [expected]
    assert findings[0].problem.endswith(".")
    if findings[0].remedy is not None:
        conn.execute(findings[0].remedy)
        assert find_findings(conn) == []


def test_policies_that_blind_our_functions_are_found(conn: Connection) -> None:
    """As on Supabase, where the owner of the tables is no superuser."""
    conn.execute("create role product_owner_of_test")
    conn.execute("grant usage on schema public, auth, import_pipeline to product_owner_of_test")
    conn.execute("alter function import_pipeline.may_enter(uuid, uuid) owner to product_owner_of_test")
    conn.execute("grant execute on function import_pipeline.may_enter(uuid, uuid) to import_worker")
    for table in ("auth.users", "public.recordings"):
        conn.execute(f"alter table {table} owner to product_owner_of_test")
    conn.execute("alter table public.recordings force row level security")
    blinded = {one.object: one.remedy for one in find_findings(conn, "blinded-functions")}
    assert blinded["table public.recordings"] == "alter table public.recordings no force row level security;"
    assert blinded["table public.vaults"] == "alter role product_owner_of_test bypassrls;"
    assert "table auth.users" not in blinded, "it owns that, and nothing forces it"
    conn.execute("alter role product_owner_of_test bypassrls")
    assert find_findings(conn, "blinded-functions") == []


def test_every_rule_is_broken_by_a_test() -> None:
    broken = {rule for _, (rule, _, _) in LEFT_OPEN.values()} | {"blinded-functions"}
    assert broken == RULES.keys()


CLOSED = {
    "a table without policies: nobody": "create table public.notes (id integer);"
    " alter table public.notes enable row level security; grant all on public.notes to anon",
    "a policy that is open to those who lack the privilege": "create policy p on public.banks for all using (true)",
    "a strict policy beside it": "grant insert on public.vaults to authenticated;"
    " create policy p on public.vaults for insert with check (true);"
    " create policy q on public.vaults as restrictive for insert with check (id is null)",
    "reading for everybody is a decision": "create policy p on public.banks for select using (true)",
    "a view with the rights of who asks": "create view public.titles with (security_invoker) as"
    " select title from public.recordings; grant select on public.titles to anon",
    "a view that nobody reaches": "create view public.titles as select title from public.recordings",
    "a function with an empty path": "create function public.f() returns integer language sql security definer"
    " set search_path = '' as 'select 1'; revoke execute on function public.f() from public",
    "a function with nothing but PostgreSQL's own": "create function public.f() returns integer language sql"
    " security definer set search_path = pg_catalog, pg_temp as 'select 1';"
    " revoke execute on function public.f() from public",
    "a trigger, which nobody can call": "create function public.f() returns trigger language plpgsql security definer"
    " set search_path = '' as 'begin return new; end'",
    "claims that are asked once": "create policy p on public.banks for select to anon"
    " using ((select auth.jwt() ->> 'aal') = 'aal2' or (select auth.uid()) is null"
    " or (select nullif(current_setting('x', true), '')) is null)",
    "a function of the row": "create function public.is_mine(uuid) returns boolean language sql stable as"
    " 'select true'; create policy p on public.banks for select to anon using (public.is_mine(id))",
    "default privileges of another schema": "alter default privileges in schema public grant all on tables to anon",
    "a function that answers otherwise each time": "create function public.toss() returns boolean language sql volatile"
    " as 'select random() < 0.5'; create policy p on public.banks for select to anon using (public.toss())",
    "objects of an extension": "create table public.notes (id integer); grant select on public.notes to public;"
    " alter extension plpgsql add table public.notes; create view public.more as select 1 as one;"
    " grant select on public.more to anon; alter extension plpgsql add view public.more;"
    " create function public.f() returns integer language sql security definer as 'select 1';"
    " alter extension plpgsql add function public.f()",
}


@pytest.mark.parametrize("case", CLOSED)
def test_what_is_no_hole_is_not_reported(conn: Connection, case: str) -> None:
    conn.execute(CLOSED[case])
    assert find_findings(conn) == []


def test_looking_changes_nothing_and_ends_with_nothing_set(conn: Connection) -> None:
    ask = "select current_setting('search_path'), current_setting('transaction_read_only')"
    before = conn.execute(ask).fetchone()
    find_findings(conn)
    assert conn.execute(ask).fetchone() == before
    conn.execute("create table public.still_writable ()")


def test_any_login_can_look(conn: Connection, database_url: str) -> None:
    """The catalogue is open to all; a login that may nothing sees the same."""
    conn.execute("create table public.notes (id integer)")
    conn.execute("create role onlooker_of_test login")
    conn.commit()
    try:
        expected = find_findings(conn)
        assert expected
        with psycopg.connect(re.sub(r"//[^@/]*@", "//onlooker_of_test@", database_url)) as onlooker:
            assert find_findings(onlooker) == expected
    finally:
        conn.rollback()
        conn.execute("drop role onlooker_of_test")
        conn.commit()


# -- A product's database ---------------------------------------------------------------------------------------------

BARE = (
    ("own memberships", "bank_memberships"),
    ("own vault memberships", "vault_memberships"),
    ("recordings of own vaults", "recordings"),
    ("own recordings", "recordings"),
    ("anybody adds his recordings", "recordings"),
    ("entries of own vaults", "vault_entries"),
    ("own jobs", "sync_jobs"),
)
TABLES = (*("banks", "bank_memberships", "vaults", "vault_memberships", "recordings", "vault_entries", "sync_jobs"),)
THEIRS = {
    # A product's default privileges let whoever is signed in create triggers on all of its tables.
    *(("foreign-triggers", "danger", f"table public.{table}") for table in TABLES),
    ("tables-without-row-security", "danger", "table public.activity"),
    ("open-policies", "danger", 'policy "all comments" on public.comments'),
    ("views", "danger", "view public.latest_recordings"),
    ("definer-callers", "danger", "function public.is_member(uuid)"),
    ("definer-callers", "danger", "function public.get_import_counts(uuid)"),
    ("definer-paths", "warning", "function public.is_member(uuid)"),
    ("definer-paths", "warning", "function public.copy_recording_to_organization(uuid,uuid,uuid)"),
    ("definer-paths", "danger", "function public.get_import_counts(uuid)"),
    ("definer-paths", "danger", "function public.note_recording()"),
    *(("policies-per-row", "warning", f'policy "{name}" on public.{table}') for name, table in BARE),
}


def test_on_a_products_database_it_finds_the_known_answers_and_migrating_adds_none(installed: str) -> None:
    """The same kinds of holes that the product which first built this pipeline had, each once or more."""
    with psycopg.connect(installed) as conn:
        assert found(conn) == THEIRS
        conn.rollback()
        migrations.apply(conn)
        assert found(conn) == THEIRS


def test_the_statements_it_proposes_mend_a_products_database(installed: str) -> None:
    with psycopg.connect(installed) as conn:
        for finding in find_findings(conn):
            if "note_recording" not in finding.object and "get_import_counts" not in finding.object:
                assert finding.remedy is not None
                conn.execute(finding.remedy)
        # Policies go on meaning the same: Ana sees what she saw, now asked once per statement.
        conn.execute("grant usage on schema auth to authenticated")
        assert {one.object for one in find_findings(conn)} == {
            "function public.note_recording()",
            "function public.get_import_counts(uuid)",
        }


# -- The command ------------------------------------------------------------------------------------------------------


def test_the_command_exits_with_1_if_there_are_findings_and_0_if_not(
    shell: Shell, database_url: str, conn: Connection
) -> None:
    shell.set(DATABASE_URL=as_login(database_url))
    outcome = shell.run("audit")
    assert (outcome.code, outcome.stdout, outcome.stderr) == (0, "", "Nothing found.\n")
    assert shell.run("audit", "--json").json == []

    for number in range(7):
        conn.execute(f"create table public.notes_{number} (id integer)")
    conn.execute('create view public."bad\x1b[31m" as select 1 as one; grant select on public."bad\x1b[31m" to public')
    conn.commit()
    outcome = shell.run("audit")
    assert outcome.code == 1
    assert "tables-without-row-security: 7 findings." in outcome.stdout
    assert "alter table public.notes_4 enable row level security;" in outcome.stdout
    assert "notes_5" not in outcome.stdout
    assert "… and 2 more: import-pipeline audit --rule tables-without-row-security" in outcome.stdout
    assert "\x1b" not in outcome.stdout
    assert "9 findings: 2 dangerous, 7 to look at." in outcome.stderr  # import_worker may reach the view too
    one = shell.run("audit", "--rule", "tables-without-row-security")
    assert one.code == 1
    assert one.stdout.count("enable row level security;") == 7
    listed = shell.run("audit", "--json")
    assert listed.code == 1
    assert [Finding(**each).object for each in listed.json if each["rule"] == "tables-without-row-security"] == [
        f"table public.notes_{number}" for number in range(7)
    ]


def as_login(url: str) -> str:
    return re.sub(r"//[^@/]*@", "//import_login@", url)


def test_one_address_for_owner_and_importer_is_told_once_and_two_are_no_finding(
    shell: Shell, database_url: str, conn: Connection
) -> None:
    shell.set(DATABASE_URL=database_url)
    (told,) = shell.run("audit", "--json").json
    assert (told["rule"], told["severity"], told["object"]) == ("login-role", "warning", f"role {conn.info.user}")
    assert "alter role import_login password" in told["remedy"]
    assert "IMPORT_PIPELINE_MIGRATION_URL" in told["remedy"]
    shell.set(DATABASE_URL=as_login(database_url), IMPORT_PIPELINE_MIGRATION_URL=database_url)
    assert shell.run("audit").code == 0
    assert shell.run("migrate", "--check").code == 0


def test_temporary_objects_of_any_session_are_no_findings_and_no_drift_and_steer_nothing(
    conn: Connection, database_url: str
) -> None:
    """As sessions of a pool have them, from whoever used them before."""
    with psycopg.connect(as_login(database_url)) as other:
        other.execute("set role import_worker")
        other.execute("create temporary table kept (id serial, said text)")
        other.execute("create type pg_temp.uuid as (x text)")
        other.commit()
        for name in ("uuid", "text", "jsonb", "timestamptz", "bool", "int4", "_text", "regprocedure"):
            conn.execute(f"create domain pg_temp.{name} as pg_catalog.int8 check (1 / (value - value) > 0)")
        conn.execute("create temporary table pg_class (oid pg_catalog.int4, relname pg_catalog.text)")
        conn.execute("create temporary sequence numbers")
        conn.execute("grant all on pg_temp.pg_class to import_worker")
        conn.execute("create function pg_temp.f() returns pg_catalog.int4 language sql as 'select 1'")
        conn.execute("grant execute on function pg_temp.f() to import_worker")
        conn.commit()
        assert find_findings(conn) == []
        assert find_findings(other) == []
        conn.commit()
        assert migrations.check(conn).drifted == []
        conn.commit()


def test_the_command_looks_at_a_database_that_was_never_migrated_and_leaves_it_so(
    shell: Shell, empty_database_url: str
) -> None:
    shell.set(DATABASE_URL=empty_database_url)
    assert shell.run("audit").code == 0
    with psycopg.connect(empty_database_url) as conn:
        assert conn.execute("select to_regnamespace('import_pipeline')::text").fetchone() == (None,)


def test_the_command_exits_with_3_if_nobody_answers_and_with_2_if_the_rule_is_unknown(
    tmp_path: Path, shell: Shell, database_url: str
) -> None:
    nowhere = CommandLine(tmp_path / "home", {"DATABASE_URL": "postgresql://u:s3cr3t@127.0.0.1:9/x"})
    outcome = nowhere.run("audit", "--json")
    assert outcome.code == 3
    assert "s3cr3t" not in outcome.stderr
    shell.set(DATABASE_URL=database_url)
    outcome = shell.run("audit", "--rule", "viewz")
    assert outcome.code == 2
    assert "The rules are: tables-without-row-security" in outcome.stderr


def test_findings_are_json_that_programs_can_read(conn: Connection) -> None:
    from dataclasses import asdict

    conn.execute("create table public.notes (id integer)")
    assert json.loads(json.dumps([asdict(one) for one in find_findings(conn)])) == [
        {
            "rule": "tables-without-row-security",
            "severity": "warning",
            "object": "table public.notes",
            "problem": "Row-level security is off, so the first grant opens all of it.",
            "remedy": "alter table public.notes enable row level security;",
        }
    ]
