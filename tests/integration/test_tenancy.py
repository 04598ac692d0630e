"""What holds beside the policies: a claim ends with its transaction, and nothing that others planted is used.

Who sees and changes which rows is asked in `test_attack_matrix.py`; its world is used here, too.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import attack
import psycopg
import pytest
import tenants
from attack import RECORDINGS, id_of
from psycopg import errors

from import_pipeline import ConnectorRecord, check_duplicate, run_pipeline
from import_pipeline.database.audit import find_findings
from import_pipeline.database.sql import query
from import_pipeline.database.tenancy import acting_as, acting_at_once
from import_pipeline.library.duplicates import find_duplicates
from import_pipeline.library.personal_data import erase_rows

Connection = psycopg.Connection[Any]


@pytest.fixture(autouse=True)
def filled(conn: Connection) -> None:
    """The world of the matrix, and what policies are told; the importer itself may not name what is in schema auth."""
    attack.build(conn)
    conn.execute(
        "create function public.claimed() returns table (uid uuid, role text, jwt jsonb) language sql stable"
        " begin atomic select auth.uid(), auth.role(), auth.jwt(); end"
    )
    conn.commit()


def one(conn: Connection, statement: str, *parameters: object) -> Any:
    row = conn.execute(statement, parameters).fetchone()
    assert row is not None
    return row[0]


def test_a_grant_given_by_mistake_still_shows_no_credentials(conn: Connection) -> None:
    conn.execute("grant usage on schema import_pipeline to authenticated")
    conn.execute("grant select on all tables in schema import_pipeline to authenticated")
    with tenants.as_user(conn, id_of("ana")):
        assert one(conn, "select count(*) from import_pipeline.credentials") == 0
        assert one(conn, "select count(*) from import_pipeline.schema_migrations") == 0


def test_checking_membership_is_done_once_per_statement(conn: Connection) -> None:
    """A function called per row made row-level security the most expensive part of a query."""
    with tenants.as_user(conn, id_of("ana"), "import_worker"):
        plan = "\n".join(
            line
            for [line] in conn.execute(
                "explain (analyze, costs off, timing off, summary off)"
                " insert into recordings (bank_id, owner_user_id, title)"
                " select %s::uuid, %s::uuid, 'New' from generate_series(1, 500)",
                [id_of("ana's"), id_of("ana")],
            )
        )
    lines = [line.strip() for line in plan.splitlines()]
    initial = [lines[n + 1] for n, line in enumerate(lines) if line.startswith("InitPlan")]
    assert len(initial) >= 2
    assert [line for line in initial if "loops=1)" not in line] == []
    assert "SubPlan" not in plan


# -- What others may have left or planted -----------------------------------------------------------------------------


def whom(conn: Connection) -> tuple[Any, ...] | None:
    return conn.execute(
        "select current_user::text, uid, role, current_setting('search_path') from public.claimed()"
    ).fetchone()  # fmt: skip


def test_claims_that_another_client_of_the_pool_left_say_nothing(conn: Connection) -> None:
    """The older settings win over the newer one in `auth.uid()`."""
    for name, value in (("sub", str(id_of("eva"))), ("role", "service_role")):
        conn.execute("select set_config(%s, %s, false)", [f"request.jwt.claim.{name}", value])
    conn.commit()
    with acting_as(conn, id_of("ana")):
        assert whom(conn) == ("import_worker", id_of("ana"), "authenticated", '"$user", public')
    with acting_as(conn, None):
        assert whom(conn) == ("import_worker", None, None, '"$user", public')
    left = ("postgres", id_of("eva"), "service_role", '"$user", public')
    assert whom(conn) == left
    with acting_as(conn, id_of("ana")):  # now within a transaction of the caller's, who goes on as he was
        assert whom(conn) == ("import_worker", id_of("ana"), "authenticated", '"$user", public')
    assert whom(conn) == left


def test_role_and_claims_do_not_outlive_the_block_whatever_happens_in_it(conn: Connection) -> None:
    conn.commit()
    for is_nested in (False, True):
        if is_nested:
            conn.execute("select 1")
        for statement, failure in (("select 1 / 0", errors.DivisionByZero), ("select 1", ValueError)):

            def fail(statement: str = statement) -> None:
                with acting_as(conn, id_of("ana")), acting_as(conn, id_of("ben")):
                    conn.execute(statement)
                    raise ValueError

            with pytest.raises(failure):
                fail()
            assert whom(conn) == ("postgres", None, None, '"$user", public')
            if not is_nested:
                conn.commit()


def test_what_is_sent_at_once_is_one_transaction_in_the_users_name(conn: Connection, database_url: str) -> None:
    with psycopg.connect(database_url, autocommit=True) as other, other.cursor() as cursor:
        with acting_at_once(other, id_of("ana")):
            cursor.execute("select current_user::text, uid, role, current_setting('search_path') from public.claimed()")
        assert cursor.fetchone() == ("import_worker", id_of("ana"), "authenticated", '"$user", public')
        assert whom(other) == ("postgres", None, None, '"$user", public')
        insert = "insert into import_sources (user_id, source_app) values (%s, 'demo')"

        def fail(statement: str, *parameters: object, error: type[Exception] | None = None) -> None:
            with acting_at_once(other, id_of("ana"), writes=("import_sources",)):
                other.execute(insert, [id_of("ana")])
                other.execute(statement, parameters)
                if error is not None:
                    raise error

        for expected, failing in (
            (errors.DivisionByZero, lambda: fail("select 1 / 0")),
            (errors.InsufficientPrivilege, lambda: fail(insert, id_of("ben"))),
            (ValueError, lambda: fail("select 1", error=ValueError)),
        ):
            with pytest.raises(expected):
                failing()
            assert whom(other) == ("postgres", None, None, '"$user", public')
        assert other.execute("select count(*) from import_sources where source_app = 'demo'").fetchone() == (0,)
        with acting_at_once(other, id_of("ana"), writes=("import_sources",)):
            other.execute(insert, [id_of("ana")])
    assert one(conn, "select count(*) from import_sources where source_app = 'demo'") == 1


@pytest.fixture
def planter(conn: Connection, database_url: str) -> Iterator[Connection]:
    """Somebody who may create in public, as everybody may on databases that began before PostgreSQL 15."""
    conn.execute("create role planter_of_test login")
    conn.execute("grant create on schema public to public")
    conn.commit()
    with psycopg.connect(database_url.replace("//postgres@", "//planter_of_test@"), autocommit=True) as planter:
        planter.execute("create table public.loot (who text)")
        planter.execute("grant insert on public.loot to public")
        for sign, left, right, result in (
            ("^", "integer", "integer", "double precision"),
            ("->>", "jsonb", "jsonb", "text"),
            ("=", "character varying", "text", "boolean"),
        ):
            name = f"planted_{len(sign)}_{left.split()[0]}_{right}"
            planter.execute(
                f"create function public.{name}({left}, {right}) returns {result} language plpgsql as"
                " $$ begin insert into public.loot values (current_user); return null; end $$"
            )
            planter.execute(
                f"create operator public.{sign} (function = public.{name}, leftarg = {left}, rightarg = {right})"
            )
        yield planter
    conn.rollback()
    conn.execute("drop owned by planter_of_test")
    conn.execute("drop role planter_of_test")
    conn.commit()


def test_operators_that_somebody_planted_in_public_are_not_used(conn: Connection, planter: Connection) -> None:
    """A better match for the types than PostgreSQL's own is taken from any schema of the search_path."""
    record = ConnectorRecord("new", "zoom", "New", "[00:00:01] Ana: Hello.", "2026-03-02T10:00:00+01:00")
    assert run_pipeline(conn, id_of("ana"), record).success
    assert check_duplicate(conn, id_of("ana"), "zoom", "new").is_duplicate
    account_id = one(conn, "select id from import_sources where user_id = %s", id_of("ana"))
    conn.commit()
    with acting_as(conn, id_of("ana"), writes=()):
        conn.execute("update import_pipeline.polls set requested_at = now() where account_id = %s", [account_id])
        conn.execute(query("pause_poll"), {"account_id": account_id, "first_pause": 60, "longest_pause": 600})
        assert "public" not in one(conn, "show search_path")
    conn.commit()
    assert find_duplicates(conn) == []
    with conn.transaction():
        assert erase_rows(conn, id_of("ana"), with_user=True).rows["recordings"]
    assert planter.execute("select who from public.loot").fetchall() == []
    assert "creatable-schemas" in {finding.rule for finding in find_findings(conn)}


def test_what_triggers_of_the_owner_find_without_a_schema_stays_where_only_he_creates(conn: Connection) -> None:
    conn.execute("create table public.noted (title text)")
    conn.execute(
        "create function public.note() returns trigger language plpgsql security definer as"
        " $$ begin insert into noted values (new.title); return new; end $$"
    )
    conn.execute("create trigger note before insert on recordings for each row execute function public.note()")
    conn.commit()
    record = ConnectorRecord("new", "zoom", "New", "[00:00:01] Ana: Hello.", "2026-03-02T10:00:00+01:00")
    assert run_pipeline(conn, id_of("ana"), record).error is None
    assert conn.execute("select title from noted").fetchall() == [("New",)]


def test_a_schema_that_somebody_named_like_the_role_is_not_used(conn: Connection) -> None:
    """The path begins with the schema of the current role's name."""
    conn.execute("create role planter_of_test")
    conn.execute("create schema import_worker authorization planter_of_test")
    conn.commit()
    try:
        with acting_as(conn, id_of("ana")):
            assert one(conn, "show search_path") == ""
    finally:
        conn.rollback()
        conn.execute("drop owned by planter_of_test")
        conn.execute("drop role planter_of_test")
        conn.commit()


@pytest.mark.parametrize(
    "name", ["'; drop table recordings; --", '"; set role postgres; --', "%(user_id)s", "{}", "\\', true); --", "a\nb"]
)
def test_names_are_only_ever_names(conn: Connection, name: str) -> None:
    conn.commit()
    record = ConnectorRecord(name, name, name, "[00:00:01] Ana: Hello.", "2026-03-02T10:00:00+01:00")
    assert run_pipeline(conn, id_of("ana"), record).success
    assert check_duplicate(conn, id_of("ana"), name, name).is_duplicate
    assert not run_pipeline(conn, name, record).success
    with acting_as(conn, name):
        assert one(conn, "select role from public.claimed()") == "authenticated"
        assert one(conn, "select current_user::text") == "import_worker"
        assert one(conn, "select jwt ->> 'sub' from public.claimed()") == name
    assert one(conn, "select count(*) from recordings") == len(RECORDINGS) + 1
