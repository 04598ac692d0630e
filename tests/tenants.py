"""People for tests: users with their bank and vault, and asking the database as one of them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import psycopg
from psycopg import sql
from psycopg.pq import TransactionStatus
from psycopg.rows import tuple_row

Connection = psycopg.Connection[Any]


@dataclass(frozen=True)
class User:
    """A user with a personal bank and, in it, a personal vault."""

    id: UUID
    email: str
    bank_id: UUID
    vault_id: UUID


def make_user(conn: Connection, email: str = "ana@example.com") -> User:
    """Create a user who owns a personal bank and vault, and commit, so that every connection sees him."""
    with conn.cursor(row_factory=tuple_row) as cursor:

        def insert(statement: str, *parameters: object) -> UUID:
            row = cursor.execute(statement, parameters).fetchone()
            assert row is not None
            return UUID(str(row[0]))

        user_id = insert("insert into auth.users (id, email) values (gen_random_uuid(), %s) returning id", email)
        bank_id = insert("insert into public.banks (name, type) values (%s, 'personal') returning id", email)
        vault_id = insert(
            "insert into public.vaults (bank_id, name, vault_type) values (%s, 'Calls', 'personal') returning id",
            bank_id,
        )
        cursor.execute(
            "insert into public.bank_memberships (bank_id, user_id, role) values (%s, %s, 'bank_owner')",
            [bank_id, user_id],
        )
        cursor.execute(
            "insert into public.vault_memberships (vault_id, user_id, role) values (%s, %s, 'vault_owner')",
            [vault_id, user_id],
        )
    if not conn.autocommit:
        conn.commit()
    return User(user_id, email, bank_id, vault_id)


@contextmanager
def as_role(conn: Connection, role: str, claims: dict[str, str] | None = None) -> Iterator[Connection]:
    """Run one transaction as a role, with exactly these claims; what it did is committed.

    Whatever transaction the connection is in is committed first, because `set local` would outlive a savepoint.
    """
    if conn.info.transaction_status != TransactionStatus.IDLE:
        conn.commit()
    with conn.transaction():
        conn.execute(sql.SQL("set local role {}").format(sql.Identifier(role)))
        conn.execute(
            "select set_config('request.jwt.claims', %s, true)", ["" if claims is None else json.dumps(claims)]
        )
        yield conn


@contextmanager
def as_user(conn: Connection, user_id: UUID, role: str = "authenticated") -> Iterator[Connection]:
    """Run one transaction as the API would for a signed-in user, or as `import_worker` in a user's name."""
    with as_role(conn, role, {"sub": str(user_id), "role": role}):
        yield conn
