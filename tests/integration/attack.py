"""The world that the attack matrix asks about: users, banks and what lies in them, and everybody who may come to ask.

Ana owns Acme, Ben is a member of it, Finn was one and left recordings behind, Eva is in Umbrella, and Zoe has a bank
but no account with us. Ids are made from names, so that whatever a query shows can be told by name.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from uuid import NAMESPACE_OID, UUID, uuid5

import psycopg
from psycopg import errors, sql

Connection = psycopg.Connection[Any]


def id_of(name: str) -> UUID:
    """The id that goes with a name in this world."""
    return uuid5(NAMESPACE_OID, name)


USERS = ("ana", "ben", "eva", "finn", "zoe")
BANKS = {**{f"{user}'s": (user,) for user in USERS}, "Acme": ("ana", "ben"), "Umbrella": ("eva",)}
"""Bank → its members now. Each has one vault, with the same members."""
VAULTS = {f"vault of {bank}": bank for bank in BANKS}
RECORDINGS = {
    "Ana private": ("ana", "ana's"),
    "Ana at Acme": ("ana", "Acme"),
    "Ben at Acme": ("ben", "Acme"),
    "Finn at Acme": ("finn", "Acme"),
    "Finn private": ("finn", "finn's"),
    "Eva private": ("eva", "eva's"),
    "Eva at Umbrella": ("eva", "Umbrella"),
    "Zoe private": ("zoe", "zoe's"),
}
"""Recording → owner and bank. Each stands in the vault of its bank; all but Zoe's are in the ledger."""
ACCOUNTS = {f"{user} at zoom": user for user in USERS if user != "zoe"}

PRIVATE = ("credentials", "dropped_files", "leases", "polls", "rate_budgets")

LABELS = {
    "auth.users": "id::text",
    "public.banks": "id::text",
    "public.bank_memberships": "user_id || ' in ' || bank_id",
    "public.vaults": "id::text",
    "public.vault_memberships": "user_id || ' in ' || vault_id",
    "public.recordings": "id::text",
    "public.vault_entries": "recording_id || ' in ' || vault_id",
    "public.import_sources": "id::text",
    "public.sync_jobs": "metadata ->> 'account_id'",
    "public.import_items": "external_id",
    **{f"import_pipeline.{table}": "account_id::text" for table in PRIVATE},
    "import_pipeline.schema_migrations": "'history'",
    "import_pipeline.shared_folders": "path",
}
"""Table → what tells its rows apart."""

MARKS = {
    "auth.users": "email = id || '!'",
    "public.banks": "name = '!'",
    "public.bank_memberships": "role = 'bank_admin'",
    "public.vaults": "name = '!'",
    "public.vault_memberships": "role = 'guest'",
    "public.recordings": "title = '!'",
    "public.vault_entries": "notes = '!'",
    "public.import_sources": "error_message = '!'",
    "public.sync_jobs": "error = '!'",
    "public.import_items": "error_message = '!'",
    "import_pipeline.credentials": "secret = '!'",
    "import_pipeline.dropped_files": "request = '!'",
    "import_pipeline.leases": "holder = '!'",
    "import_pipeline.polls": "attempts = 99",
    "import_pipeline.rate_budgets": "name = '!'",
    "import_pipeline.schema_migrations": "name = '!'",
    "import_pipeline.shared_folders": "path = '!'",
}
"""Table → a change by which a row is known afterwards."""

_NAMES = {
    str(id_of(name)): name
    for name in (*USERS, *BANKS, *VAULTS, *RECORDINGS, *ACCOUNTS)
}  # fmt: skip


def named(text: str) -> str:
    """The same text with names for ids."""
    return re.sub(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}", lambda found: _NAMES[found.group()], text)


def build(conn: Connection) -> None:
    """Fill a database with this world, as superuser."""
    many = conn.cursor().executemany
    many("insert into auth.users (id, email) values (%s, %s)", [(id_of(user), f"{user}@example.com") for user in USERS])
    many(
        "insert into banks (id, name, type) values (%s, %s, %s)",
        [(id_of(bank), bank, "personal" if bank.endswith("'s") else "business") for bank in BANKS],
    )
    many(
        "insert into bank_memberships (user_id, bank_id) values (%s, %s)",
        [(id_of(user), id_of(bank)) for bank, users in BANKS.items() for user in users],
    )
    many(
        "insert into vaults (id, bank_id, name, vault_type) values (%s, %s, %s, 'personal')",
        [(id_of(vault), id_of(bank), vault) for vault, bank in VAULTS.items()],
    )
    many(
        "insert into vault_memberships (user_id, vault_id) values (%s, %s)",
        [(id_of(user), id_of(vault)) for vault, bank in VAULTS.items() for user in BANKS[bank]],
    )
    many(
        "insert into recordings (id, owner_user_id, bank_id, title, full_transcript, source_app, source_metadata)"
        " values (%s, %s, %s, %s, %s, 'zoom', %s)",
        [
            (id_of(name), id_of(owner), id_of(bank), name, f"Said: {name}", json.dumps({"external_id": name}))
            for name, (owner, bank) in RECORDINGS.items()
        ],
    )
    many(
        "insert into vault_entries (recording_id, vault_id, notes) values (%s, %s, %s)",
        [(id_of(name), id_of(f"vault of {bank}"), name) for name, (_, bank) in RECORDINGS.items()],
    )
    many(
        "insert into import_sources (id, user_id, source_app) values (%s, %s, 'zoom')",
        [(id_of(account), id_of(user)) for account, user in ACCOUNTS.items()],
    )
    many(
        "insert into sync_jobs (user_id, metadata) values (%s, %s)",
        [(id_of(user), json.dumps({"account_id": str(id_of(account))})) for account, user in ACCOUNTS.items()],
    )
    many(
        "insert into import_items (user_id, source_app, external_id, status, recording_id)"
        " values (%s, 'zoom', %s, 'imported', %s)",
        [(id_of(owner), name, id_of(name)) for name, (owner, _) in RECORDINGS.items() if owner != "zoe"],
    )
    conn.execute("insert into import_pipeline.shared_folders (path, is_dropped) values ('/srv/calls', true)")
    for table in PRIVATE:
        many(insert_private(table), [(id_of(account),) for account in ACCOUNTS])
    conn.commit()


def insert_private(table: str) -> str:
    """The statement that adds a row for an account to a private table."""
    columns, values = {
        "credentials": ("secret", "'sealed'"),
        "dropped_files": ("version, request", "gen_random_uuid(), 'key'"),
        "leases": ("holder, holder_process, expires_at", "'run', 'process', now()"),
        "polls": ("attempts", "0"),
        "rate_budgets": ("name", "'api'"),
    }[table]
    return f"insert into import_pipeline.{table} (account_id, {columns}) values (%s, {values})"


@dataclass(frozen=True)
class Actor:
    """Somebody who asks."""

    role: str
    claims: str = ""


def signed_in(user: str, role: str = "authenticated") -> Actor:
    """A user, or the importer in his name."""
    return Actor(role, json.dumps({"sub": str(id_of(user)), "role": "authenticated"}))


ACTORS = {
    "ana, who owns Acme": signed_in("ana"),
    "ben, a member of Acme": signed_in("ben"),
    "eva, of another bank": signed_in("eva"),
    "finn, who left Acme": signed_in("finn"),
    "a stranger": signed_in("nobody"),
    "anon": Actor("anon", json.dumps({"role": "anon"})),
    "anon with the claims of ana": Actor("anon", signed_in("ana").claims),
    "authenticated without claims": Actor("authenticated"),
    "claims without a user": Actor("authenticated", "{}"),
    "claims of another role": Actor("authenticated", json.dumps({"role": "service_role"})),
    "claims that are no JSON": Actor("authenticated", "{"),
    "claims that are a list": Actor("authenticated", json.dumps([str(id_of("ana"))])),
    "claims of somebody who is no UUID": Actor("authenticated", json.dumps({"sub": "' or true --"})),
    "importer for ana": signed_in("ana", "import_worker"),
    "importer for finn": signed_in("finn", "import_worker"),
    "importer for zoe, who has no account": signed_in("zoe", "import_worker"),
    "importer for a stranger": signed_in("nobody", "import_worker"),
    "importer for nobody": Actor("import_worker"),
    "service_role": Actor("service_role", json.dumps({"role": "service_role"})),
}


class Attempt:
    """Asks as one actor, and puts everything back after each question."""

    def __init__(self, conn: Connection, actor: Actor) -> None:
        self._conn = conn
        conn.execute(sql.SQL("set local role {}").format(sql.Identifier(actor.role)))
        conn.execute("select set_config('request.jwt.claims', %s, true)", [actor.claims])

    @contextmanager
    def _undone(self) -> Iterator[None]:
        with self._conn.transaction(force_rollback=True):
            yield

    def answer(self, statement: str, *parameters: object) -> str:
        """Say `ok`, or how it was refused: `denied` for want of a privilege, `refused` by a policy, else `broken`."""
        try:
            with self._undone():
                self._conn.execute(statement, parameters)
        except psycopg.Error as error:
            return _describe(error)
        return "ok"

    def count(self, statement: str) -> int | str:
        """How many rows a statement changes, or how it was refused."""
        try:
            with self._undone():
                return self._conn.execute(statement).rowcount
        except psycopg.Error as error:
            return _describe(error)

    def rows(self, statement: str, *parameters: object) -> set[str] | str:
        """What a query shows, by name, or how it was refused."""
        try:
            with self._undone():
                return {named(row[0]) for row in self._conn.execute(statement, parameters)}
        except psycopg.Error as error:
            return _describe(error)

    def changed(self, table: str, statement: str) -> set[str] | str:
        """Which rows of a table a statement changed or removed, as a superuser sees it afterwards."""
        label, mark = LABELS[table], MARKS[table]
        try:
            with self._undone():
                self._conn.execute(statement)
                self._conn.execute("reset role")
                column, _, value = mark.partition(" = ")
                left = {row[0] for row in self._conn.execute(
                    f"select {label} from {table} where {column} is distinct from {value}"
                )}  # fmt: skip
        except psycopg.Error as error:
            return _describe(error)
        with self._undone():
            self._conn.execute("reset role")
            return {named(row[0]) for row in self._conn.execute(f"select {label} from {table}") if row[0] not in left}


def _describe(error: psycopg.Error) -> str:
    if isinstance(error, errors.InsufficientPrivilege):
        return "refused" if "row-level security" in str(error) or "only be read by" in str(error) else "denied"
    if isinstance(error, errors.UniqueViolation):
        return "there already"
    return "broken" if isinstance(error, errors.DataError) else f"{type(error).__name__}: {error}"
