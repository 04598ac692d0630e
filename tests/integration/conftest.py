"""Fixtures of the tests that run whole import jobs, and of those on a database that was here before."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
import servers
import tenants
from commands import CommandLine, write_calls
from psycopg import errors

from import_pipeline.library.accounts import ensure_account

INSTALLATION = Path(__file__).with_name("existing_installation.sql").read_text(encoding="utf-8")


@pytest.fixture
def ana(conn: psycopg.Connection[Any]) -> tenants.User:
    conn.autocommit = True
    return tenants.make_user(conn, "ana@example.com")


@pytest.fixture
def ben(conn: psycopg.Connection[Any]) -> tenants.User:
    return tenants.make_user(conn, "ben@example.com")


@pytest.fixture
def account_id(conn: psycopg.Connection[Any], ana: tenants.User) -> UUID:
    """An account of Ana's."""
    return ensure_account(conn, ana.id, "demo", None)


@pytest.fixture
def connect(database_url: str) -> Callable[[], AbstractContextManager[psycopg.Connection[Any]]]:
    """Lends connections, each for one block."""

    @contextmanager
    def lend() -> Iterator[psycopg.Connection[Any]]:
        with psycopg.connect(database_url, autocommit=True) as lent:
            yield lent

    return lend


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One for a whole file: a new one takes Dagster a second."""
    return tmp_path_factory.mktemp("home")


@pytest.fixture
def command_line(tmp_path: Path, database_url: str, ana: tenants.User) -> CommandLine:
    """Runs commands as processes, for Ana."""
    return CommandLine(tmp_path / "home", {"DATABASE_URL": database_url, "IMPORT_PIPELINE_USER": ana.email})


@pytest.fixture
def calls(tmp_path: Path) -> Path:
    """A folder with three transcripts."""
    folder = tmp_path / "calls"
    write_calls(folder, 3)
    return folder


@pytest.fixture(params=["18", "15"])
def installed(request: pytest.FixtureRequest) -> Iterator[str]:
    """Address of a database with the product's tables, for its owner, who has what Supabase's `postgres` has.

    No superuser, but CREATEROLE and BYPASSRLS. Schema `auth` and what is in it belong to others, who let him use them
    and not hand that on. What he makes in `public` is open to the API's roles by default.
    """
    server_url: str = request.getfixturevalue("server_url" if request.param == "18" else "postgres15")
    role = f"owner_{uuid4().hex[:12]}"  # roles belong to the server, which others may use for tests at the same time
    with psycopg.connect(server_url, autocommit=True) as admin:
        for statement in (
            f"create role {role} login createrole createdb replication bypassrls",
            "create role anon nologin noinherit",
            "create role authenticated nologin noinherit",
            "create role service_role nologin noinherit bypassrls",
            "create role authenticator login noinherit",
            "create role supabase_admin superuser createdb createrole replication bypassrls",
            "create role supabase_auth_admin noinherit createrole",
            "create role dashboard_user nologin createdb createrole replication",
            "create role import_worker nologin noinherit",
            "create role import_login login noinherit",
        ):
            with suppress(errors.DuplicateObject):
                admin.execute(statement)
        admin.execute("grant anon, authenticated, service_role to authenticator")
        admin.execute("grant import_worker to import_login")
        admin.execute(f"grant import_worker, anon, authenticated, service_role to {role}")
    url = servers.create_database(server_url, owner=role)
    with psycopg.connect(url, autocommit=True) as admin:
        admin.execute("create schema auth authorization supabase_admin")
        admin.execute("grant all on schema auth to supabase_auth_admin, dashboard_user")
        admin.execute("set role supabase_auth_admin")
        admin.execute("create table auth.users (id uuid primary key, email varchar(255), encrypted_password text)")
        admin.execute("alter table auth.users enable row level security")
        for name, result, expression in (
            ("uid", "uuid", "(nullif(current_setting('request.jwt.claims', true), '')::jsonb ->> 'sub')::uuid"),
            ("role", "text", "nullif(current_setting('request.jwt.claims', true), '')::jsonb ->> 'role'"),
            ("jwt", "jsonb", "nullif(current_setting('request.jwt.claims', true), '')::jsonb"),
        ):
            admin.execute(
                f"create function auth.{name}() returns {result} language sql stable as $$ select {expression} $$"
            )
        admin.execute(f"grant all on auth.users to {role}")
        admin.execute("reset role")
        admin.execute(f"grant usage on schema auth to {role}, anon, authenticated, service_role")
        for kind in ("tables", "functions", "sequences"):
            admin.execute(
                f"alter default privileges for role supabase_admin in schema public grant all on {kind}"
                f" to {role}, anon, authenticated, service_role"
            )
    owners_url = re.sub(r"//[^@/]*@", f"//{role}@", url)
    with psycopg.connect(owners_url) as conn:
        conn.execute(INSTALLATION)
    yield owners_url
    servers.drop_database(server_url, url)
    with psycopg.connect(server_url, autocommit=True) as admin:
        admin.execute(f"drop role {role}")
