"""What our policies and functions trust belongs to who migrates, or nothing is migrated."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from psycopg import sql

from import_pipeline.database import migrations
from import_pipeline.database.audit import find_findings
from import_pipeline.errors import MigrationError

Connection = psycopg.Connection[Any]


@pytest.fixture
def stranger(empty_database_url: str) -> Iterator[str]:
    """A login of the server who may create what he likes in the database, and owns nothing yet."""
    role = f"stranger_{uuid4().hex[:12]}"
    with psycopg.connect(empty_database_url, autocommit=True) as admin:
        admin.execute(f"create role {role} login")
        admin.execute(sql.SQL("grant create on database {} to {}").format(
            sql.Identifier(admin.info.dbname), sql.Identifier(role)
        ))  # fmt: skip
        admin.execute(f"grant create on schema public to {role}")
    yield role
    with psycopg.connect(empty_database_url, autocommit=True) as admin:
        admin.execute(f"drop owned by {role} cascade")
        admin.execute(f"drop role {role}")


def plant(url: str, role: str, statements: str) -> None:
    with psycopg.connect(url) as conn:
        conn.execute(f"set session authorization {role}")
        conn.execute(statements)


MEMBERSHIPS = "create table public.vault_memberships (vault_id uuid, user_id uuid, role text)"
PLANTED = {
    "memberships of vaults": (MEMBERSHIPS, "table public.vault_memberships"),
    "memberships of vaults that are computed": (
        "create view public.vault_memberships as select null::uuid as vault_id, null::uuid as user_id, 'x' as role",
        "view public.vault_memberships",
    ),
    "banks": ("create table public.banks (id uuid primary key, type text)", "table public.banks"),
    "recordings": (
        "create table public.recordings (id uuid primary key, bank_id uuid, owner_user_id uuid, source_app text,"
        " source_metadata jsonb, created_at timestamptz, title text)",
        "table public.recordings",
    ),
    "who is signed in": (
        "create schema auth; create function auth.uid() returns uuid language sql as 'select null::uuid'",
        "schema auth",
    ),
    "the private schema": ("create schema import_pipeline", "schema import_pipeline"),
    "counts": (
        "create function public.get_import_counts(p_user_id uuid) returns table (source_app text, call_count bigint)"
        " language sql as 'select null::text, 1::bigint'",
        "function public.get_import_counts(uuid)",
    ),
}


@pytest.mark.parametrize("case", PLANTED)
def test_what_a_stranger_made_before_is_not_trusted_and_nothing_is_migrated(
    empty_database_url: str, stranger: str, case: str
) -> None:
    """The migrating role is a superuser, of whom it would be said that he has the rights of everybody."""
    statements, name = PLANTED[case]
    plant(empty_database_url, stranger, statements)
    with psycopg.connect(empty_database_url) as conn:
        with pytest.raises(MigrationError) as refused:
            migrations.apply(conn)
        assert f"{name}: Belongs to {stranger}" in str(refused.value)
        assert "migrate as the role that it belongs to" in str(refused.value)
        assert conn.execute("select to_regclass('import_pipeline.schema_migrations')").fetchone() == (None,)
        conn.rollback()
        assert name in {one.object for one in find_findings(conn, "foreign-owners")} or name == "schema import_pipeline"


def test_the_statement_that_is_proposed_makes_the_migration_possible(empty_database_url: str, stranger: str) -> None:
    plant(
        empty_database_url, stranger, MEMBERSHIPS + "; alter table public.vault_memberships enable row level security"
    )
    with psycopg.connect(empty_database_url) as conn:
        (finding,) = find_findings(conn, "foreign-owners")
        assert finding.remedy is not None
        conn.execute(finding.remedy)
        conn.commit()
        migrations.apply(conn)
        assert find_findings(conn, "foreign-owners") == []


def test_who_deploys_the_files_by_other_means_is_refused_by_the_file_itself(
    empty_database_url: str, stranger: str
) -> None:
    """As with the Supabase CLI, which knows nothing of our own checks."""
    plant(empty_database_url, stranger, MEMBERSHIPS)
    refused = pytest.raises(psycopg.errors.InsufficientPrivilege, match=f"vault_memberships belongs to {stranger}")
    with psycopg.connect(empty_database_url) as conn, refused:
        conn.execute(migrations.load()[0].sql)


def test_a_role_that_the_migrating_one_inherits_from_is_trusted_and_one_that_it_only_made_is_not(
    empty_database_url: str, server_url: str, stranger: str
) -> None:
    owner = f"owner_{uuid4().hex[:12]}"
    with psycopg.connect(empty_database_url, autocommit=True) as admin:
        admin.execute(f"create role {owner} login createrole bypassrls")
        for role in ("import_worker", "anon", "authenticated", "service_role"):
            admin.execute(f"grant {role} to {owner} with admin option")
        admin.execute(sql.SQL("grant create on database {} to {}").format(
            sql.Identifier(admin.info.dbname), sql.Identifier(owner)
        ))  # fmt: skip
        admin.execute(f"grant create on schema public to {owner}")
    plant(empty_database_url, stranger, MEMBERSHIPS)
    with psycopg.connect(empty_database_url) as conn:
        conn.execute(f"set session authorization {owner}")
        conn.commit()
        for granted in (None, f"grant {stranger} to {owner} with inherit false", f"grant {stranger} to {owner}"):
            if granted is not None:
                with psycopg.connect(empty_database_url, autocommit=True) as admin:
                    admin.execute(granted if granted.endswith("false") else f"{granted} with inherit true")
            if granted is None or granted.endswith("false"):
                with pytest.raises(MigrationError, match=f"Belongs to {stranger}"):
                    migrations.apply(conn)
            else:
                migrations.apply(conn)
        conn.execute("reset session authorization")
        conn.execute(f"drop owned by {owner} cascade")
        conn.execute(f"drop role {owner}")
