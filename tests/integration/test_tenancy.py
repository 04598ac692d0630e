"""Who sees and changes what on our own schema, asked as everybody there is.

The cast: Ana owns a personal bank and shares the bank Acme with Ben; Eva has nothing to do with either. Each question
is put as a plain role: a superuser, and the owner of a table, see everything.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
import tenants
from psycopg import errors, sql
from tenants import User

from import_pipeline import ConnectorRecord, check_duplicate, run_pipeline
from import_pipeline.database.audit import find_findings
from import_pipeline.database.sql import query
from import_pipeline.database.tenancy import acting_as, acting_at_once
from import_pipeline.library.duplicates import find_duplicates
from import_pipeline.library.personal_data import erase_rows

Connection = psycopg.Connection[Any]
Refused = Callable[[], AbstractContextManager[None]]


@dataclass(frozen=True)
class Cast:
    """Who and what is in the database."""

    ana: User
    ben: User
    eva: User
    acme: UUID
    acme_vault: UUID
    recordings: dict[str, UUID]
    """By title: "Ana private", "Ana at Acme", "Ben at Acme", "Eva private"."""


def one(conn: Connection, statement: str, *parameters: object) -> Any:
    row = conn.execute(statement, parameters).fetchone()
    assert row is not None
    return row[0]


@pytest.fixture
def cast(conn: Connection) -> Cast:
    ana, ben, eva = (tenants.make_user(conn, f"{name}@example.com") for name in ("ana", "ben", "eva"))
    acme = one(conn, "insert into banks (name, type) values ('Acme', 'business') returning id")
    acme_vault = one(
        conn, "insert into vaults (bank_id, name, vault_type) values (%s, 'Acme calls', 'team') returning id", acme
    )
    for user, role in ((ana, "bank_owner"), (ben, "bank_member")):
        conn.execute("insert into bank_memberships (bank_id, user_id, role) values (%s, %s, %s)", [acme, user.id, role])
        conn.execute("insert into vault_memberships (vault_id, user_id) values (%s, %s)", [acme_vault, user.id])
    recordings = {}
    for title, owner, bank_id, vault_id in (
        ("Ana private", ana, ana.bank_id, ana.vault_id),
        ("Ana at Acme", ana, acme, acme_vault),
        ("Ben at Acme", ben, acme, acme_vault),
        ("Eva private", eva, eva.bank_id, eva.vault_id),
    ):
        recordings[title] = one(
            conn,
            "insert into recordings (bank_id, owner_user_id, title, full_transcript, source_app, source_metadata)"
            " values (%s, %s, %s, %s, 'zoom', %s) returning id",
            bank_id, owner.id, title, f"Said: {title}", json.dumps({"external_id": title}),
        )  # fmt: skip
        conn.execute(
            "insert into vault_entries (vault_id, recording_id, notes) values (%s, %s, %s)",
            [vault_id, recordings[title], title],
        )
        conn.execute(
            "insert into import_items (user_id, source_app, external_id, status, recording_id)"
            " values (%s, 'zoom', %s, 'imported', %s)",
            [owner.id, title, recordings[title]],
        )
    for user in (ana, ben, eva):
        account_id = one(
            conn,
            "insert into import_sources (user_id, source_app, account_email) values (%s, 'zoom', %s) returning id",
            user.id, user.email,
        )  # fmt: skip
        conn.execute("insert into sync_jobs (user_id, type) values (%s, %s)", [user.id, user.email])
        conn.execute("insert into import_pipeline.credentials (account_id, secret) values (%s, 'secret')", [account_id])
    conn.commit()
    return Cast(ana, ben, eva, acme, acme_vault, recordings)


SEEN = {
    "auth.users": "email",
    "banks": "name",
    "bank_memberships": "(select email from people where people.id = user_id) || ' in ' "
    "|| (select name from bank_names where bank_names.id = bank_id)",
    "vaults": "(select name from bank_names where bank_names.id = bank_id) || ': ' || name",
    "recordings": "full_transcript",
    "vault_entries": "notes",
    "import_sources": "account_email",
    "sync_jobs": "type",
    "import_items": "external_id",
}
"""What to ask of each table, in words that say whose row it is."""


def seen(conn: Connection, table: str) -> set[str] | str:
    """What the current role sees of a table, or "denied"."""
    try:
        with conn.transaction():
            return {row[0] for row in conn.execute(f"select {SEEN[table]} from {table}")}
    except errors.InsufficientPrivilege:
        return "denied"


@pytest.fixture
def names(conn: Connection, cast: Cast) -> None:
    """Readable names for ids, visible to every role."""
    conn.execute("create table people as select id, email from auth.users")
    conn.execute("create table bank_names as select id, name from banks")
    conn.execute("grant select on people, bank_names to public")
    conn.commit()


ANA, BEN, EVA = "ana@example.com", "ben@example.com", "eva@example.com"
NOTHING: set[str] = set()


# -- What is seen -----------------------------------------------------------------------------------------------------

EXPECTED: dict[str, dict[str, set[str] | str]] = {
    "ana": {
        "auth.users": "denied",
        "banks": {ANA, "Acme"},
        "bank_memberships": {f"{ANA} in {ANA}", f"{ANA} in Acme"},
        "vaults": {f"{ANA}: Calls", "Acme: Acme calls"},
        "recordings": {"Said: Ana private", "Said: Ana at Acme", "Said: Ben at Acme"},
        "vault_entries": {"Ana private", "Ana at Acme", "Ben at Acme"},
        "import_sources": {ANA},
        "sync_jobs": {ANA},
        "import_items": {"Ana private", "Ana at Acme"},
    },
    "ben": {
        "auth.users": "denied",
        "banks": {BEN, "Acme"},
        "bank_memberships": {f"{BEN} in {BEN}", f"{BEN} in Acme"},
        "vaults": {f"{BEN}: Calls", "Acme: Acme calls"},
        "recordings": {"Said: Ana at Acme", "Said: Ben at Acme"},
        "vault_entries": {"Ana at Acme", "Ben at Acme"},
        "import_sources": {BEN},
        "sync_jobs": {BEN},
        "import_items": {"Ben at Acme"},
    },
    "eva": {
        "auth.users": "denied",
        "banks": {EVA},
        "bank_memberships": {f"{EVA} in {EVA}"},
        "vaults": {f"{EVA}: Calls"},
        "recordings": {"Said: Eva private"},
        "vault_entries": {"Eva private"},
        "import_sources": {EVA},
        "sync_jobs": {EVA},
        "import_items": {"Eva private"},
    },
    "somebody signed in whom nobody knows": {
        "auth.users": "denied",
        **{table: NOTHING for table in SEEN if table != "auth.users"},
    },
    "anon": dict.fromkeys(SEEN, "denied"),
    "importer in nobody's name": {
        "auth.users": "denied",
        "banks": NOTHING,
        "bank_memberships": NOTHING,
        "vaults": NOTHING,
        "recordings": {"Said: Ana private", "Said: Ana at Acme", "Said: Ben at Acme", "Said: Eva private"},
        "vault_entries": {"Ana private", "Ana at Acme", "Ben at Acme", "Eva private"},
        "import_sources": NOTHING,
        "sync_jobs": NOTHING,
        "import_items": NOTHING,
    },
    "importer in Ben's name": {
        "auth.users": "denied",
        "banks": {BEN, "Acme"},
        "bank_memberships": {f"{BEN} in {BEN}", f"{BEN} in Acme", f"{ANA} in Acme"},
        "vaults": {f"{BEN}: Calls", "Acme: Acme calls"},
        "recordings": {"Said: Ana private", "Said: Ana at Acme", "Said: Ben at Acme", "Said: Eva private"},
        "vault_entries": {"Ana private", "Ana at Acme", "Ben at Acme", "Eva private"},
        "import_sources": {BEN},
        "sync_jobs": {BEN},
        "import_items": {"Ben at Acme"},
    },
    "service_role": {
        "auth.users": {ANA, BEN, EVA},
        "banks": {ANA, BEN, EVA, "Acme"},
        "bank_memberships": {
            f"{ANA} in {ANA}", f"{BEN} in {BEN}", f"{EVA} in {EVA}", f"{ANA} in Acme", f"{BEN} in Acme"
        },
        "vaults": {f"{ANA}: Calls", f"{BEN}: Calls", f"{EVA}: Calls", "Acme: Acme calls"},
        "recordings": {"Said: Ana private", "Said: Ana at Acme", "Said: Ben at Acme", "Said: Eva private"},
        "vault_entries": {"Ana private", "Ana at Acme", "Ben at Acme", "Eva private"},
        "import_sources": {ANA, BEN, EVA},
        "sync_jobs": {ANA, BEN, EVA},
        "import_items": {"Ana private", "Ana at Acme", "Ben at Acme", "Eva private"},
    },
}  # fmt: skip


@pytest.mark.usefixtures("names")
@pytest.mark.parametrize("who", EXPECTED)
def test_everybody_sees_exactly_what_is_his(conn: Connection, cast: Cast, who: str) -> None:
    everybody = {
        "ana": tenants.as_user(conn, cast.ana.id),
        "ben": tenants.as_user(conn, cast.ben.id),
        "eva": tenants.as_user(conn, cast.eva.id),
        "somebody signed in whom nobody knows": tenants.as_user(conn, uuid4()),
        "anon": tenants.as_role(conn, "anon", {"role": "anon"}),
        "importer in nobody's name": tenants.as_role(conn, "import_worker"),
        "importer in Ben's name": tenants.as_user(conn, cast.ben.id, "import_worker"),
        "service_role": tenants.as_role(conn, "service_role", {"role": "service_role"}),
    }
    with everybody[who]:
        assert {table: seen(conn, table) for table in SEEN} == EXPECTED[who]


@pytest.mark.parametrize(
    "table", ["credentials", "dropped_files", "leases", "polls", "rate_budgets", "schema_migrations", "shared_folders"]
)
@pytest.mark.parametrize("role", ["anon", "authenticated", "service_role"])
def test_the_private_schema_is_closed_to_every_role_of_the_api(
    conn: Connection, cast: Cast, role: str, table: str
) -> None:
    with (
        tenants.as_user(conn, cast.ana.id, role),
        pytest.raises(errors.InsufficientPrivilege, match="permission denied for schema import_pipeline"),
        conn.transaction(),
    ):
        conn.execute(f"select * from import_pipeline.{table}")


def test_a_grant_given_by_mistake_still_shows_no_credentials(conn: Connection, cast: Cast) -> None:
    conn.execute("grant usage on schema import_pipeline to authenticated")
    conn.execute("grant select on all tables in schema import_pipeline to authenticated")
    with tenants.as_user(conn, cast.ana.id):
        assert one(conn, "select count(*) from import_pipeline.credentials") == 0
        assert one(conn, "select count(*) from import_pipeline.schema_migrations") == 0


def test_a_member_who_leaves_a_bank_sees_its_recordings_no_more(conn: Connection, cast: Cast) -> None:
    conn.execute("delete from bank_memberships where bank_id = %s and user_id = %s", [cast.acme, cast.ben.id])
    with tenants.as_user(conn, cast.ben.id):
        assert seen(conn, "recordings") == NOTHING


# -- What users change ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("who", "title", "changed"),
    [
        ("ana", "Ana private", 1),
        ("ana", "Ana at Acme", 1),
        ("ana", "Ben at Acme", 0),
        ("ben", "Ana at Acme", 0),
        ("ben", "Ben at Acme", 1),
        ("eva", "Ana at Acme", 0),
    ],
)
@pytest.mark.parametrize("command", ["update recordings set title = 'New'", "delete from recordings"])
def test_only_owners_change_and_delete_recordings(
    conn: Connection, cast: Cast, who: str, title: str, changed: int, command: str
) -> None:
    """An update that policies hide raises nothing, so the rows are looked at."""
    user: User = getattr(cast, who)
    with tenants.as_user(conn, user.id):
        assert conn.execute(f"{command} where id = %s", [cast.recordings[title]]).rowcount == changed
    remaining = {row[0] for row in conn.execute("select title from recordings")}
    assert (title not in remaining) == bool(changed)
    assert remaining >= cast.recordings.keys() - {title}


@pytest.mark.parametrize("change", ["bank_id = %(foreign_bank)s", "owner_user_id = %(stranger)s"])
@pytest.mark.parametrize("which", ["where id = %(id)s", ""], ids=["one", "all, unread"])
def test_an_owner_cannot_push_his_recordings_on_somebody_else(
    conn: Connection, cast: Cast, refused: Refused, change: str, which: str
) -> None:
    """An update that reads no column is not subject to the policies for reading, so its own must hold alone."""
    values = {
        "foreign_bank": cast.eva.bank_id,
        "stranger": cast.eva.id,
        "id": cast.recordings["Ana private"],
    }
    with tenants.as_user(conn, cast.ana.id), refused():
        conn.execute(f"update recordings set {change} {which}", values)


def test_an_owner_can_move_his_recording_between_his_banks(conn: Connection, cast: Cast) -> None:
    with tenants.as_user(conn, cast.ana.id):
        conn.execute("update recordings set bank_id = %s where id = %s", [cast.acme, cast.recordings["Ana private"]])
    with tenants.as_user(conn, cast.ben.id):
        assert "Said: Ana private" in seen(conn, "recordings")


@pytest.mark.parametrize(
    "statement",
    [
        "insert into recordings (bank_id, owner_user_id, title) values (%(bank)s, %(user)s, 'x')",
        "insert into vault_entries (vault_id, recording_id) values (%(vault)s, %(recording)s)",
        "delete from vault_entries",
        "update bank_memberships set role = 'bank_owner'",
        "insert into bank_memberships (bank_id, user_id) values (%(foreign_bank)s, %(user)s)",
        "insert into vault_memberships (vault_id, user_id) values (%(foreign_vault)s, %(user)s)",
        "update banks set name = 'x'",
        "update vaults set name = 'x'",
        "update import_items set status = 'ignored'",
        "insert into import_items (user_id, source_app, external_id, status) values (%(user)s, 'a', 'b', 'failed')",
        "delete from import_items",
        "update sync_jobs set status = 'completed'",
        "insert into sync_jobs (user_id) values (%(user)s)",
    ],
)
@pytest.mark.parametrize("role", ["authenticated", "anon"])
def test_users_change_nothing_else(conn: Connection, cast: Cast, role: str, statement: str) -> None:
    values = {
        "user": cast.ana.id, "bank": cast.ana.bank_id, "vault": cast.ana.vault_id,
        "recording": cast.recordings["Ana at Acme"],
        "foreign_bank": cast.eva.bank_id, "foreign_vault": cast.eva.vault_id,
    }  # fmt: skip
    with (
        tenants.as_user(conn, cast.ana.id, role),
        pytest.raises(errors.InsufficientPrivilege, match="permission denied for table"),
        conn.transaction(),
    ):
        conn.execute(statement, values)


def test_users_keep_their_own_sources_only(conn: Connection, cast: Cast) -> None:
    with tenants.as_user(conn, cast.ana.id):
        assert conn.execute("update import_sources set is_active = false").rowcount == 1
        conn.execute("insert into import_sources (user_id, source_app) values (%s, 'fathom')", [cast.ana.id])
        for foreign in (
            sql.SQL("insert into import_sources (user_id, source_app) values ({}, 'fathom')"),
            sql.SQL("update import_sources set user_id = {} where source_app = 'fathom'"),
        ):
            with pytest.raises(errors.InsufficientPrivilege, match="row-level security"), conn.transaction():
                conn.execute(foreign.format(sql.Literal(cast.eva.id)))
        assert conn.execute("delete from import_sources where source_app = 'zoom'").rowcount == 1
    assert conn.execute("select account_email, source_app, is_active from import_sources order by 1").fetchall() == [
        (BEN, "zoom", True),
        (EVA, "zoom", True),
        (None, "fathom", True),
    ]


# -- What the importer changes ----------------------------------------------------------------------------------------


def insert_recording(conn: Connection, bank_id: UUID, owner_id: UUID, external_id: str = "new") -> UUID:
    row = conn.execute(
        "insert into recordings (bank_id, owner_user_id, title, source_app, source_metadata)"
        " values (%s, %s, 'New', 'zoom', %s)"
        " on conflict do nothing returning id",
        [bank_id, owner_id, json.dumps({"external_id": external_id})],
    ).fetchone()
    assert row is not None
    return UUID(str(row[0]))


@pytest.fixture
def refused(conn: Connection) -> Refused:
    """`with refused():` expects that row-level security refuses a row, and goes on."""

    @contextmanager
    def expect() -> Iterator[None]:
        with pytest.raises(errors.InsufficientPrivilege, match="row-level security"), conn.transaction():
            yield

    return expect


def test_the_importer_adds_recordings_to_banks_of_the_claimed_user_only(
    conn: Connection, cast: Cast, refused: Refused
) -> None:
    with tenants.as_user(conn, cast.ana.id, "import_worker"):
        mine = insert_recording(conn, cast.ana.bank_id, cast.ana.id, "1")
        shared = insert_recording(conn, cast.acme, cast.ana.id, "2")
        with refused():  # into a bank she is no member of
            insert_recording(conn, cast.eva.bank_id, cast.ana.id, "3")
        with refused():  # as the recording of a colleague, into the bank they share
            insert_recording(conn, cast.acme, cast.ben.id, "4")
        with refused():  # as the recording of a stranger, into the stranger's bank
            insert_recording(conn, cast.eva.bank_id, cast.eva.id, "5")
    assert conn.execute(
        "select id, bank_id, owner_user_id from recordings where title = 'New'"
        " order by source_metadata ->> 'external_id'"
    ).fetchall() == [(mine, cast.ana.bank_id, cast.ana.id), (shared, cast.acme, cast.ana.id)]


def test_the_importer_adds_nothing_in_nobodys_name(conn: Connection, cast: Cast, refused: Refused) -> None:
    with tenants.as_role(conn, "import_worker"):
        with refused():
            insert_recording(conn, cast.ana.bank_id, cast.ana.id)
        with refused():
            conn.execute(
                "insert into vault_entries (vault_id, recording_id) values (%s, %s)",
                [cast.ana.vault_id, cast.recordings["Ana private"]],
            )
        with refused():
            conn.execute("insert into sync_jobs (user_id) values (%s)", [cast.ana.id])
        with refused():
            conn.execute(
                "insert into import_items (user_id, source_app, external_id, status)"
                " values (%s, 'zoom', 'x', 'failed')",
                [cast.ana.id],
            )


def test_one_statement_with_a_foreign_row_among_good_ones_adds_none(
    conn: Connection, cast: Cast, refused: Refused
) -> None:
    with tenants.as_user(conn, cast.ana.id, "import_worker"), refused():
        conn.execute(
            "insert into recordings (bank_id, owner_user_id, title)"
            " select unnest(%s::uuid[]), unnest(%s::uuid[]), 'New'",
            [[cast.ana.bank_id, cast.eva.bank_id], [cast.ana.id, cast.eva.id]],
        )
    assert one(conn, "select count(*) from recordings where title = 'New'") == 0


def test_the_importer_enters_recordings_into_vaults_of_their_own_bank_only(
    conn: Connection, cast: Cast, refused: Refused
) -> None:
    insert = "insert into vault_entries (vault_id, recording_id, notes) values (%s, %s, 'New')"
    conn.execute("delete from vault_entries")
    with tenants.as_user(conn, cast.ana.id, "import_worker"):
        conn.execute(insert, [cast.ana.vault_id, cast.recordings["Ana private"]])
        conn.execute(insert, [cast.acme_vault, cast.recordings["Ana at Acme"]])
        with refused():  # a vault of another bank of hers
            conn.execute(insert, [cast.acme_vault, cast.recordings["Ana private"]])
        with refused():  # a vault of a stranger
            conn.execute(insert, [cast.eva.vault_id, cast.recordings["Ana private"]])
        with refused():  # a colleague's recording, in the vault they share
            conn.execute(insert, [cast.acme_vault, cast.recordings["Ben at Acme"]])
        with refused():  # a stranger's recording in the stranger's vault
            conn.execute(insert, [cast.eva.vault_id, cast.recordings["Eva private"]])
    assert set(conn.execute("select vault_id, recording_id from vault_entries")) == {
        (cast.ana.vault_id, cast.recordings["Ana private"]),
        (cast.acme_vault, cast.recordings["Ana at Acme"]),
    }


@pytest.mark.parametrize(
    "statement",
    [
        "update recordings set title = 'x'",
        "delete from recordings",
        "update vault_entries set notes = 'x'",
        "delete from vault_entries",
        "update banks set name = 'x'",
        "insert into banks (name) values ('x')",
        "insert into bank_memberships (bank_id, user_id) select id, id from banks",
        "insert into vaults (bank_id, name) select id, 'x' from banks",
        "select * from vault_memberships",
        "delete from sync_jobs",
        "delete from import_items",
        "select * from auth.users",
        "select * from import_pipeline.schema_migrations",
        "truncate recordings",
        "create table public.mine (id integer)",
    ],
)
def test_the_importer_may_do_nothing_else(conn: Connection, cast: Cast, statement: str) -> None:
    with (
        tenants.as_user(conn, cast.ana.id, "import_worker"),
        pytest.raises(errors.InsufficientPrivilege, match="permission denied"),
        conn.transaction(),
    ):
        conn.execute(statement)


def test_the_importer_keeps_sync_jobs_and_ledger_of_the_claimed_user_only(
    conn: Connection, cast: Cast, refused: Refused
) -> None:
    item = "insert into import_items (user_id, source_app, external_id, status) values (%s, 'zoom', 'new', 'waiting')"
    with tenants.as_user(conn, cast.ana.id, "import_worker"):
        assert conn.execute("update sync_jobs set status = 'completed'").rowcount == 1
        assert conn.execute("update import_items set status = 'ignored'").rowcount == 2
        conn.execute("insert into sync_jobs (user_id) values (%s)", [cast.ana.id])
        conn.execute(item, [cast.ana.id])
        for statement in ("insert into sync_jobs (user_id) values (%s)", item):
            with refused():
                conn.execute(statement, [cast.ben.id])
        for table in ("sync_jobs", "import_items"):
            with refused():  # handing a row over to somebody else
                conn.execute(f"update {table} set user_id = %s", [cast.ben.id])
        # A stranger's ledger row of the same key is neither seen nor overwritten.
        with refused():
            conn.execute(
                "insert into import_items (user_id, source_app, external_id, status)"
                " values (%s, 'zoom', 'Ben at Acme', 'failed')"
                " on conflict (user_id, source_app, external_id) do update set status = 'failed'",
                [cast.ben.id],
            )
    assert set(conn.execute("select user_id, status from sync_jobs")) == {
        (cast.ana.id, "completed"),
        (cast.ana.id, "processing"),
        (cast.ben.id, "processing"),
        (cast.eva.id, "processing"),
    }
    assert conn.execute("select external_id, status from import_items where user_id <> %s order by 1", [
        cast.ana.id
    ]).fetchall() == [("Ben at Acme", "imported"), ("Eva private", "imported")]  # fmt: skip


def test_the_importer_keeps_sources_of_the_claimed_user_only(conn: Connection, cast: Cast, refused: Refused) -> None:
    with tenants.as_user(conn, cast.ana.id, "import_worker"):
        assert conn.execute("update import_sources set last_sync_at = now()").rowcount == 1
        conn.execute("insert into import_sources (user_id, source_app) values (%s, 'fathom')", [cast.ana.id])
        with refused():
            conn.execute("insert into import_sources (user_id, source_app) values (%s, 'fathom')", [cast.ben.id])
    assert set(conn.execute("select user_id from import_sources where last_sync_at is not null")) == {(cast.ana.id,)}


@pytest.mark.parametrize("table", ["credentials", "dropped_files", "leases", "polls", "rate_budgets"])
def test_the_importer_has_the_private_tables_to_itself(conn: Connection, cast: Cast, table: str) -> None:
    account_id = one(conn, "select id from import_sources where user_id = %s", cast.ana.id)
    row = {
        "credentials": "(account_id, secret) values (%s, 'x')",
        "dropped_files": "(account_id, version, request) values (%s, gen_random_uuid(), 'key')",
        "leases": "(account_id, holder, holder_process, expires_at) values (%s, 'run', 'process', now())",
        "polls": "(account_id) values (%s)",
        "rate_budgets": "(account_id, name) values (%s, 'api')",
    }[table]
    with tenants.as_user(conn, cast.ana.id, "import_worker"):
        conn.execute(f"delete from import_pipeline.{table} where account_id = %s", [account_id])
        conn.execute(f"insert into import_pipeline.{table} {row}", [account_id])
        assert conn.execute(f"select count(*) from import_pipeline.{table} where account_id = %s", [
            account_id
        ]).fetchone() == (1,)  # fmt: skip
        assert conn.execute(
            f"update import_pipeline.{table} set account_id = account_id where account_id = %s", [account_id]
        ).rowcount == 1  # fmt: skip


def test_claims_end_with_the_transaction(conn: Connection, cast: Cast) -> None:
    with tenants.as_user(conn, cast.ana.id, "import_worker"):
        assert one(conn, "select uid from public.claimed()") == cast.ana.id
        assert one(conn, "select current_user") == "import_worker"
    assert one(conn, "select uid from public.claimed()") is None
    assert one(conn, "select current_user") != "import_worker"


def test_checking_membership_is_done_once_per_statement(conn: Connection, cast: Cast) -> None:
    """A function called per row made row-level security the most expensive part of a query."""
    with tenants.as_user(conn, cast.ana.id, "import_worker"):
        plan = "\n".join(
            line
            for [line] in conn.execute(
                "explain (analyze, costs off, timing off, summary off)"
                " insert into recordings (bank_id, owner_user_id, title)"
                " select %s::uuid, %s::uuid, 'New' from generate_series(1, 500)",
                [cast.ana.bank_id, cast.ana.id],
            )
        )
    lines = [line.strip() for line in plan.splitlines()]
    initial = [lines[n + 1] for n, line in enumerate(lines) if line.startswith("InitPlan")]
    assert len(initial) >= 2
    assert [line for line in initial if "loops=1)" not in line] == []
    assert "SubPlan" not in plan


# -- What others may have left or planted -----------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def claimed(database_url: str) -> None:
    """What policies are told; the importer itself may not name what is in schema auth."""
    with psycopg.connect(database_url, autocommit=True) as conn:
        conn.execute(
            "create function public.claimed() returns table (uid uuid, role text, jwt jsonb) language sql stable"
            " begin atomic select auth.uid(), auth.role(), auth.jwt(); end"
        )


def whom(conn: Connection) -> tuple[Any, ...] | None:
    return conn.execute(
        "select current_user::text, uid, role, current_setting('search_path') from public.claimed()"
    ).fetchone()  # fmt: skip


def test_claims_that_another_client_of_the_pool_left_say_nothing(conn: Connection, cast: Cast) -> None:
    """The older settings win over the newer one in `auth.uid()`."""
    for name, value in (("sub", str(cast.eva.id)), ("role", "service_role")):
        conn.execute("select set_config(%s, %s, false)", [f"request.jwt.claim.{name}", value])
    conn.commit()
    with acting_as(conn, cast.ana.id):
        assert whom(conn) == ("import_worker", cast.ana.id, "authenticated", '"$user", public')
    with acting_as(conn, None):
        assert whom(conn) == ("import_worker", None, None, '"$user", public')
    left = ("postgres", cast.eva.id, "service_role", '"$user", public')
    assert whom(conn) == left
    with acting_as(conn, cast.ana.id):  # now within a transaction of the caller's, who goes on as he was
        assert whom(conn) == ("import_worker", cast.ana.id, "authenticated", '"$user", public')
    assert whom(conn) == left


def test_role_and_claims_do_not_outlive_the_block_whatever_happens_in_it(conn: Connection, cast: Cast) -> None:
    conn.commit()
    for is_nested in (False, True):
        if is_nested:
            conn.execute("select 1")
        for statement, failure in (("select 1 / 0", errors.DivisionByZero), ("select 1", ValueError)):

            def fail(statement: str = statement) -> None:
                with acting_as(conn, cast.ana.id), acting_as(conn, cast.ben.id):
                    conn.execute(statement)
                    raise ValueError

            with pytest.raises(failure):
                fail()
            assert whom(conn) == ("postgres", None, None, '"$user", public')
            if not is_nested:
                conn.commit()


def test_what_is_sent_at_once_is_one_transaction_in_the_users_name(
    conn: Connection, database_url: str, cast: Cast
) -> None:
    with psycopg.connect(database_url, autocommit=True) as other, other.cursor() as cursor:
        with acting_at_once(other, cast.ana.id):
            cursor.execute("select current_user::text, uid, role, current_setting('search_path') from public.claimed()")
        assert cursor.fetchone() == ("import_worker", cast.ana.id, "authenticated", '"$user", public')
        assert whom(other) == ("postgres", None, None, '"$user", public')
        insert = "insert into import_sources (user_id, source_app) values (%s, 'demo')"

        def fail(statement: str, *parameters: object, error: type[Exception] | None = None) -> None:
            with acting_at_once(other, cast.ana.id):
                other.execute(insert, [cast.ana.id])
                other.execute(statement, parameters)
                if error is not None:
                    raise error

        for expected, failing in (
            (errors.DivisionByZero, lambda: fail("select 1 / 0")),
            (errors.InsufficientPrivilege, lambda: fail(insert, cast.ben.id)),
            (ValueError, lambda: fail("select 1", error=ValueError)),
        ):
            with pytest.raises(expected):
                failing()
            assert whom(other) == ("postgres", None, None, '"$user", public')
        assert other.execute("select count(*) from import_sources where source_app = 'demo'").fetchone() == (0,)
        with acting_at_once(other, cast.ana.id):
            other.execute(insert, [cast.ana.id])
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


def test_operators_that_somebody_planted_in_public_are_not_used(
    conn: Connection, cast: Cast, planter: Connection
) -> None:
    """A better match for the types than PostgreSQL's own is taken from any schema of the search_path."""
    record = ConnectorRecord("new", "zoom", "New", "[00:00:01] Ana: Hello.", "2026-03-02T10:00:00+01:00")
    assert run_pipeline(conn, cast.ana.id, record).success
    assert check_duplicate(conn, cast.ana.id, "zoom", "new").is_duplicate
    account_id = one(conn, "select id from import_sources where user_id = %s", cast.ana.id)
    conn.commit()
    with acting_as(conn, cast.ana.id):
        conn.execute("insert into import_pipeline.polls (account_id, requested_at) values (%s, now())", [account_id])
        conn.execute(query("pause_poll"), {"account_id": account_id, "first_pause": 60, "longest_pause": 600})
        assert "public" not in one(conn, "show search_path")
    conn.commit()
    assert find_duplicates(conn) == []
    with conn.transaction():
        assert erase_rows(conn, cast.ana.id, with_user=True).rows["recordings"]
    assert planter.execute("select who from public.loot").fetchall() == []
    assert "creatable-schemas" in {finding.rule for finding in find_findings(conn)}


def test_what_triggers_of_the_owner_find_without_a_schema_stays_where_only_he_creates(
    conn: Connection, cast: Cast
) -> None:
    conn.execute("create table public.noted (title text)")
    conn.execute(
        "create function public.note() returns trigger language plpgsql security definer as"
        " $$ begin insert into noted values (new.title); return new; end $$"
    )
    conn.execute("create trigger note before insert on recordings for each row execute function public.note()")
    conn.commit()
    record = ConnectorRecord("new", "zoom", "New", "[00:00:01] Ana: Hello.", "2026-03-02T10:00:00+01:00")
    assert run_pipeline(conn, cast.ana.id, record).error is None
    assert conn.execute("select title from noted").fetchall() == [("New",)]


def test_a_schema_that_somebody_named_like_the_role_is_not_used(conn: Connection, cast: Cast) -> None:
    """The path begins with the schema of the current role's name."""
    conn.execute("create role planter_of_test")
    conn.execute("create schema import_worker authorization planter_of_test")
    conn.commit()
    try:
        with acting_as(conn, cast.ana.id):
            assert one(conn, "show search_path") == ""
    finally:
        conn.rollback()
        conn.execute("drop owned by planter_of_test")
        conn.execute("drop role planter_of_test")
        conn.commit()


@pytest.mark.parametrize(
    "name", ["'; drop table recordings; --", '"; set role postgres; --', "%(user_id)s", "{}", "\\', true); --", "a\nb"]
)
def test_names_are_only_ever_names(conn: Connection, cast: Cast, name: str) -> None:
    conn.commit()
    record = ConnectorRecord(name, name, name, "[00:00:01] Ana: Hello.", "2026-03-02T10:00:00+01:00")
    assert run_pipeline(conn, cast.ana.id, record).success
    assert check_duplicate(conn, cast.ana.id, name, name).is_duplicate
    assert not run_pipeline(conn, name, record).success
    with acting_as(conn, name):
        assert one(conn, "select role from public.claimed()") == "authenticated"
        assert one(conn, "select current_user::text") == "import_worker"
        assert one(conn, "select jwt ->> 'sub' from public.claimed()") == name
    assert one(conn, "select count(*) from recordings") == 5
