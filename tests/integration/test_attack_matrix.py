"""Everybody asks for everything that the catalogue knows, and gets exactly what is written down here.

What is written down follows from the design: members see their bank's recordings and their vaults' entries, owners
change and delete their own recordings, nobody else anything; the importer adds what belongs to the user it works for. A
table, view, sequence or function that is not written down here fails by itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import attack
import psycopg
import pytest
from attack import ACCOUNTS, ACTORS, BANKS, LABELS, MARKS, PRIVATE, RECORDINGS, USERS, VAULTS, Attempt, id_of

Connection = psycopg.Connection[Any]

SCHEMAS = ["public", "auth", "import_pipeline"]
ROLES = ("anon", "authenticated", "service_role", "import_worker")


@pytest.fixture
def filled(conn: Connection) -> Iterator[Connection]:
    attack.build(conn)
    yield conn
    conn.rollback()


# -- Privileges -------------------------------------------------------------------------------------------------------

ALL = "select insert update delete"
PRIVILEGES: dict[str, dict[str, str]] = {
    "auth.users": {"service_role": ALL},
    "public.banks": {"authenticated": "select", "service_role": ALL, "import_worker": "select"},
    "public.bank_memberships": {"authenticated": "select", "service_role": ALL, "import_worker": "select"},
    "public.vaults": {"authenticated": "select", "service_role": ALL, "import_worker": "select"},
    "public.vault_memberships": {"authenticated": "select", "service_role": ALL},
    "public.recordings": {
        "authenticated": "select update delete",
        "service_role": ALL,
        "import_worker": "select insert",
    },
    "public.vault_entries": {"authenticated": "select", "service_role": ALL, "import_worker": "select insert"},
    "public.import_sources": {"authenticated": ALL, "service_role": ALL, "import_worker": ALL},
    "public.sync_jobs": {"authenticated": "select", "service_role": ALL, "import_worker": "select insert update"},
    "public.import_items": {"authenticated": "select", "service_role": ALL, "import_worker": "select insert update"},
    **{f"import_pipeline.{table}": {"import_worker": ALL} for table in PRIVATE},
    "import_pipeline.schema_migrations": {},
    "import_pipeline.shared_folders": {"import_worker": "select insert"},
}
EVERYBODY, IMPORTER = set(ROLES), {"import_worker"}
FUNCTIONS: dict[str, set[str]] = {
    "auth.uid()": EVERYBODY,
    "auth.role()": EVERYBODY,
    "auth.jwt()": EVERYBODY,
    "get_import_counts(uuid)": EVERYBODY - {"anon"},
    "import_pipeline.account_health(text,uuid[])": IMPORTER,
    "import_pipeline.accounts_with_credentials()": IMPORTER,
    "import_pipeline.claimed_account_ids()": IMPORTER,
    "import_pipeline.claimed_bank_ids()": IMPORTER,
    "import_pipeline.claimed_sources()": IMPORTER,
    "import_pipeline.count_request(uuid,text,double precision,double precision,integer)": IMPORTER,
    "import_pipeline.default_vaults()": IMPORTER,
    "import_pipeline.due_accounts(text)": IMPORTER,
    "import_pipeline.enterable_vault_ids()": IMPORTER,
    "import_pipeline.find_accounts(text,uuid[])": IMPORTER,
    "import_pipeline.find_user(text)": IMPORTER,
    "import_pipeline.known_cursor(timestamp with time zone)": IMPORTER,
    "import_pipeline.known_time(timestamp with time zone)": IMPORTER,
    "import_pipeline.known_triggers()": IMPORTER,
    "import_pipeline.may_enter(uuid,uuid)": IMPORTER,
    "import_pipeline.name_users(uuid[])": IMPORTER,
    "import_pipeline.overdue_items(text,timestamp with time zone,integer)": IMPORTER,
    "import_pipeline.request_polls(uuid[],double precision,double precision)": IMPORTER,
    "import_pipeline.settle_rate_budgets(uuid,text[],double precision[],double precision,double precision)": IMPORTER,
    "import_pipeline.silent_sync_jobs(integer)": IMPORTER,
    "import_pipeline.take_rate_budgets(uuid,text[],integer[],double precision[],text)": IMPORTER,
    "import_pipeline.unknown_vault_roles()": IMPORTER,
}
SCHEMA_PRIVILEGES = {
    "public": dict.fromkeys(ROLES, "usage"),
    "auth": dict.fromkeys((role for role in ROLES if role != "import_worker"), "usage"),
    "import_pipeline": {"import_worker": "usage"},
}


def test_every_table_view_and_sequence_is_open_to_whom_it_should_be_and_nobody_else(conn: Connection) -> None:
    kinds = ["select", "insert", "update", "delete", "truncate", "references", "trigger"]
    rows = conn.execute(
        "select n.nspname || '.' || c.relname, r.rolname, array("
        "     select p from unnest(%s::text[]) with ordinality as k (p, o)"
        "     where has_table_privilege(r.oid, c.oid, p) or (p = any('{select,insert,update,references}')"
        "         and has_any_column_privilege(r.oid, c.oid, p))"
        "     order by o)"
        " from pg_class as c join pg_namespace as n on n.oid = c.relnamespace cross join pg_roles as r"
        " where n.nspname = any(%s) and c.relkind in ('r', 'p', 'v', 'm', 'f', 'S') and r.rolname = any(%s)",
        [kinds, SCHEMAS, list(ROLES)],
    ).fetchall()
    found: dict[str, dict[str, str]] = {}
    for table, role, privileges in rows:
        found.setdefault(table, {})
        if privileges:
            found[table][role] = " ".join(privileges)
    assert found == PRIVILEGES
    assert found.keys() == LABELS.keys() == MARKS.keys()


def test_every_function_may_be_executed_by_whom_it_should_be_and_nobody_else(conn: Connection) -> None:
    rows = conn.execute(
        "select p.oid::regprocedure::text, array("
        "     select r.rolname::text from pg_roles as r"
        "     where r.rolname = any(%s) and has_function_privilege(r.oid, p.oid, 'execute'))"
        " from pg_proc as p join pg_namespace as n on n.oid = p.pronamespace where n.nspname = any(%s)",
        [list(ROLES), SCHEMAS],
    ).fetchall()
    assert {name: set(roles) for name, roles in rows} == FUNCTIONS


def test_nobody_creates_anything_and_the_private_schema_is_the_importers(conn: Connection) -> None:
    rows = conn.execute(
        "select n.nspname, r.rolname, array(select p from unnest('{usage,create}'::text[]) as p"
        "     where has_schema_privilege(r.oid, n.oid, p))"
        " from pg_namespace as n cross join pg_roles as r where n.nspname = any(%s) and r.rolname = any(%s)",
        [SCHEMAS, list(ROLES)],
    ).fetchall()
    found: dict[str, dict[str, str]] = {}
    for schema, role, privileges in rows:
        if privileges:
            found.setdefault(schema, {})[role] = " ".join(privileges)
    assert found == SCHEMA_PRIVILEGES


# -- What each sees ---------------------------------------------------------------------------------------------------

Seen = dict[str, set[str]]
EVERY_RECORDING = set(RECORDINGS)
EVERY_ENTRY = {f"{name} in vault of {bank}" for name, (_, bank) in RECORDINGS.items()}
AT_ACME = {"Ana at Acme", "Ben at Acme", "Finn at Acme"}
IN_ACME = {f"{name} in vault of Acme" for name in AT_ACME}
NOTHING: set[str] = set()
NOTHING_OF_ALL: Seen = {table: NOTHING for table, who in PRIVILEGES.items() if "authenticated" in who}
EVERYBODYS = set(ACCOUNTS)


def private_rows(accounts: set[str]) -> Seen:
    """What the importer reaches of the private tables: in a user's name his, in nobody's all but the credentials."""
    return {
        **{
            f"import_pipeline.{table}": NOTHING if accounts is EVERYBODYS and table == "credentials" else accounts
            for table in PRIVATE
        },
        "import_pipeline.shared_folders": {"/srv/calls"},
    }


def as_importer(accounts: set[str] = NOTHING, **tables: set[str]) -> Seen:
    """What the importer sees: all recordings and entries, and otherwise only what is the user's."""
    own = ("banks", "bank_memberships", "vaults", "import_sources", "sync_jobs", "import_items")
    return {
        "public.recordings": EVERY_RECORDING,
        "public.vault_entries": EVERY_ENTRY,
        **private_rows(accounts),
        **{f"public.{table}": tables.get(table, NOTHING) for table in own},
    }


SEES: dict[str, Seen] = {
    "ana, who owns Acme": {
        "public.banks": {"ana's", "Acme"},
        "public.bank_memberships": {"ana in ana's", "ana in Acme"},
        "public.vaults": {"vault of ana's", "vault of Acme"},
        "public.vault_memberships": {"ana in vault of ana's", "ana in vault of Acme"},
        "public.recordings": {"Ana private"} | AT_ACME,
        "public.vault_entries": {"Ana private in vault of ana's"} | IN_ACME,
        "public.import_sources": {"ana at zoom"},
        "public.sync_jobs": {"ana at zoom"},
        "public.import_items": {"Ana private", "Ana at Acme"},
    },
    "ben, a member of Acme": {
        "public.banks": {"ben's", "Acme"},
        "public.bank_memberships": {"ben in ben's", "ben in Acme"},
        "public.vaults": {"vault of ben's", "vault of Acme"},
        "public.vault_memberships": {"ben in vault of ben's", "ben in vault of Acme"},
        "public.recordings": AT_ACME,
        "public.vault_entries": IN_ACME,
        "public.import_sources": {"ben at zoom"},
        "public.sync_jobs": {"ben at zoom"},
        "public.import_items": {"Ben at Acme"},
    },
    "eva, of another bank": {
        "public.banks": {"eva's", "Umbrella"},
        "public.bank_memberships": {"eva in eva's", "eva in Umbrella"},
        "public.vaults": {"vault of eva's", "vault of Umbrella"},
        "public.vault_memberships": {"eva in vault of eva's", "eva in vault of Umbrella"},
        "public.recordings": {"Eva private", "Eva at Umbrella"},
        "public.vault_entries": {"Eva private in vault of eva's", "Eva at Umbrella in vault of Umbrella"},
        "public.import_sources": {"eva at zoom"},
        "public.sync_jobs": {"eva at zoom"},
        "public.import_items": {"Eva private", "Eva at Umbrella"},
    },
    "finn, who left Acme": {
        "public.banks": {"finn's"},
        "public.bank_memberships": {"finn in finn's"},
        "public.vaults": {"vault of finn's"},
        "public.vault_memberships": {"finn in vault of finn's"},
        "public.recordings": {"Finn private"},
        "public.vault_entries": {"Finn private in vault of finn's"},
        "public.import_sources": {"finn at zoom"},
        "public.sync_jobs": {"finn at zoom"},
        # What became of his items he may know: it is his history, and holds no word of what was said.
        "public.import_items": {"Finn private", "Finn at Acme"},
    },
    "a stranger": NOTHING_OF_ALL,
    "anon": {},
    "anon with the claims of ana": {},
    "authenticated without claims": NOTHING_OF_ALL,
    "claims without a user": NOTHING_OF_ALL,
    "claims of another role": NOTHING_OF_ALL,
    "claims that are a list": NOTHING_OF_ALL,
    "importer for ana": as_importer(
        {"ana at zoom"},
        banks={"ana's", "Acme"},
        bank_memberships={"ana in ana's", "ana in Acme", "ben in Acme"},
        vaults={"vault of ana's", "vault of Acme"},
        import_sources={"ana at zoom"},
        sync_jobs={"ana at zoom"},
        import_items={"Ana private", "Ana at Acme"},
    ),
    "importer for finn": as_importer(
        {"finn at zoom"},
        banks={"finn's"},
        bank_memberships={"finn in finn's"},
        vaults={"vault of finn's"},
        import_sources={"finn at zoom"},
        sync_jobs={"finn at zoom"},
        import_items={"Finn private", "Finn at Acme"},
    ),
    "importer for zoe, who has no account": as_importer(
        banks={"zoe's"}, bank_memberships={"zoe in zoe's"}, vaults={"vault of zoe's"}
    ),
    "importer for a stranger": as_importer(),
    "importer for nobody": as_importer(EVERYBODYS),
    "service_role": {
        "auth.users": set(USERS),
        "public.banks": set(BANKS),
        "public.bank_memberships": {f"{user} in {bank}" for bank, users in BANKS.items() for user in users},
        "public.vaults": set(VAULTS),
        "public.vault_memberships": {f"{user} in {vault}" for vault, bank in VAULTS.items() for user in BANKS[bank]},
        "public.recordings": EVERY_RECORDING,
        "public.vault_entries": EVERY_ENTRY,
        "public.import_sources": set(ACCOUNTS),
        "public.sync_jobs": set(ACCOUNTS),
        "public.import_items": EVERY_RECORDING - {"Zoe private"},
    },
}
BROKEN_CLAIMS = ("claims that are no JSON", "claims of somebody who is no UUID")


def test_every_actor_is_written_down() -> None:
    assert ACTORS.keys() == SEES.keys() | set(BROKEN_CLAIMS)


@pytest.mark.parametrize("who", SEES)
def test_everybody_sees_exactly_this(filled: Connection, who: str) -> None:
    attempt = Attempt(filled, ACTORS[who])
    found = {table: attempt.rows(f"select {label} from {table}") for table, label in LABELS.items()}
    assert {table: rows for table, rows in found.items() if rows != "denied"} == SEES[who]
    if "public.recordings" in SEES[who]:
        assert attempt.rows("select full_transcript from public.recordings") == {
            f"Said: {name}" for name in SEES[who]["public.recordings"]
        }


@pytest.mark.parametrize("who", BROKEN_CLAIMS)
def test_claims_that_cannot_be_read_open_nothing(filled: Connection, who: str) -> None:
    attempt = Attempt(filled, ACTORS[who])
    for table, label in LABELS.items():
        expected = "broken" if table in NOTHING_OF_ALL else "denied"
        assert attempt.rows(f"select {label} from {table}") == expected, table
        for statement in (f"update {table} set {MARKS[table]}", f"delete from {table}"):
            assert attempt.changed(table, statement) in ("broken", "denied"), statement


# -- What each changes ------------------------------------------------------------------------------------------------

CHANGES: dict[str, dict[str, tuple[set[str], set[str]]]] = {
    # Table → what an update, and what a delete, reaches. What is not named is denied.
    "ana, who owns Acme": {
        "public.recordings": ({"Ana private", "Ana at Acme"}, {"Ana private", "Ana at Acme"}),
        "public.import_sources": ({"ana at zoom"}, {"ana at zoom"}),
    },
    "ben, a member of Acme": {
        "public.recordings": ({"Ben at Acme"}, {"Ben at Acme"}),
        "public.import_sources": ({"ben at zoom"}, {"ben at zoom"}),
    },
    "eva, of another bank": {
        "public.recordings": ({"Eva private", "Eva at Umbrella"}, {"Eva private", "Eva at Umbrella"}),
        "public.import_sources": ({"eva at zoom"}, {"eva at zoom"}),
    },
    "finn, who left Acme": {
        "public.recordings": ({"Finn private"}, {"Finn private"}),
        "public.import_sources": ({"finn at zoom"}, {"finn at zoom"}),
    },
    **{
        who: {"public.recordings": (NOTHING, NOTHING), "public.import_sources": (NOTHING, NOTHING)}
        for who in (
            *("a stranger", "authenticated without claims", "claims without a user", "claims of another role"),
            "claims that are a list",
        )
    },
    "anon": {},
    "anon with the claims of ana": {},
    **{
        f"importer for {who}": {
            "public.import_sources": (accounts, accounts),
            "public.sync_jobs": (accounts, NOTHING),
            "public.import_items": (items, NOTHING),
            **{
                table: (rows, rows) for table, rows in private_rows(EVERYBODYS if who == "nobody" else accounts).items()
            },
        }
        for who, accounts, items in (
            ("ana", {"ana at zoom"}, {"Ana private", "Ana at Acme"}),
            ("finn", {"finn at zoom"}, {"Finn private", "Finn at Acme"}),
            ("zoe, who has no account", NOTHING, NOTHING),
            ("a stranger", NOTHING, NOTHING),
            ("nobody", NOTHING, NOTHING),
        )
    },
    "service_role": {table: (rows, rows) for table, rows in SEES["service_role"].items()},
}
NOT_DELETED = {"public.sync_jobs", "public.import_items"}
"""Of these the importer's delete is denied, not merely without effect."""


@pytest.mark.parametrize("who", CHANGES)
def test_everybody_changes_and_deletes_exactly_this(filled: Connection, who: str) -> None:
    """Asked twice: a statement that reads no column is not subject to the policies for reading."""
    attempt = Attempt(filled, ACTORS[who])
    for table, label in LABELS.items():
        expected = CHANGES[who].get(table)
        for condition in ("", f" where {label} <> ''"):
            updated = attempt.changed(table, f"update {table} set {MARKS[table]}{condition}")
            deleted = attempt.changed(table, f"delete from {table}{condition}")
            if expected is None:
                assert (updated, deleted) == ("denied", "denied"), table
                continue
            if "importer" in who and table == "import_pipeline.shared_folders":
                assert (updated, deleted) == ("denied", "denied")
                continue
            assert updated == expected[0], (table, condition)
            if "importer" in who and table in NOT_DELETED:
                assert deleted == "denied", table
            else:
                assert deleted == expected[1], (table, condition)
    assert {attempt.answer(f"truncate {table} cascade") for table in LABELS} == {"denied"}


def test_every_actor_changes_what_is_written_down() -> None:
    assert ACTORS.keys() == CHANGES.keys() | set(BROKEN_CLAIMS)


# -- Forged rows ------------------------------------------------------------------------------------------------------

ADD_RECORDING = "insert into public.recordings (owner_user_id, bank_id, title) values (%s, %s, 'Forged')"
ADD_ENTRY = "insert into public.vault_entries (recording_id, vault_id) values (%s, %s) on conflict do nothing"
ADD_ITEM = (
    "insert into public.import_items (user_id, source_app, external_id, status) values (%s, %s, 'forged', 'failed')"
)
ADD_JOB = "insert into public.sync_jobs (user_id, metadata) values (%s, jsonb_build_object('account_id', %s::text))"
ADD_SOURCE = "insert into public.import_sources (user_id, source_app) values (%s, 'forged')"
MEMBERSHIPS = {user: {bank for bank, users in BANKS.items() if user in users} for user in USERS}
WORKS_FOR = {
    "importer for ana": "ana",
    "importer for finn": "finn",
    "importer for zoe, who has no account": "zoe",
    "importer for a stranger": None,
    "importer for nobody": None,
}


@pytest.mark.parametrize("who", ACTORS)
def test_nobody_adds_a_row_that_is_not_his(filled: Connection, who: str) -> None:
    """Every owner with every bank, every recording with every vault, every user with every account."""
    attempt = Attempt(filled, ACTORS[who])

    def accepted(statement: str, *pairs: tuple[str, ...]) -> set[tuple[str, ...]]:
        answers = {
            names: attempt.answer(statement, *(name if name == "zoom" else id_of(name) for name in names))
            for names in pairs
        }
        assert set(answers.values()) <= {"ok", "refused", "denied", "broken"}, answers
        return {names for names, answer in answers.items() if answer == "ok"}

    by_bank = [(user, bank) for user in USERS for bank in BANKS]
    by_vault = [(recording, vault) for recording in RECORDINGS for vault in VAULTS]
    by_account = [(user, account) for user in USERS for account in ACCOUNTS]
    found = {
        "recordings": accepted(ADD_RECORDING, *by_bank),
        "entries": accepted(ADD_ENTRY, *by_vault),
        "items": accepted(ADD_ITEM, *((user, "zoom") for user in USERS)),
        "jobs": accepted(ADD_JOB, *by_account),
        "sources": accepted(ADD_SOURCE, *((user,) for user in USERS)),
        "members": accepted("insert into public.bank_memberships (user_id, bank_id) values (%s, %s) "
                            "on conflict do nothing", *by_bank),
        "banks": accepted("insert into public.banks (id, name) values (%s, 'Forged')", ("forged",)),
        "vaults": accepted("insert into public.vaults (bank_id, name) values (%s, 'Forged')", *((b,) for b in BANKS)),
        "users": accepted("insert into auth.users (id) values (%s)", ("forged",)),
    }  # fmt: skip
    if who == "service_role":
        expected = {
            "recordings": set(by_bank),
            "entries": set(by_vault),
            "items": {(user, "zoom") for user in USERS},
            "jobs": set(by_account),
            "sources": {(user,) for user in USERS},
            "members": set(by_bank),
            "banks": {("forged",)},
            "vaults": {(bank,) for bank in BANKS},
            "users": {("forged",)},
        }
    else:
        signed_in_as = who.partition(",")[0] if who.partition(",")[0] in USERS else None
        user = WORKS_FOR.get(who, signed_in_as)
        expected = {name: set() for name in found}
        if user is not None:
            expected["sources"] = {(user,)}
        if user is not None and who in WORKS_FOR:
            expected["recordings"] = {(user, bank) for bank in MEMBERSHIPS[user]}
            expected["entries"] = {
                (name, f"vault of {bank}")
                for name, (owner, bank) in RECORDINGS.items()
                if owner == user and bank in MEMBERSHIPS[user]
            }
            expected["items"] = {(user, "zoom")} if user in ACCOUNTS.values() else set()
            expected["jobs"] = {(user, account) for account, owner in ACCOUNTS.items() if owner == user}
    assert found == expected


@pytest.mark.parametrize("who", ACTORS)
def test_nobody_moves_a_row_to_where_it_does_not_belong(filled: Connection, who: str) -> None:
    """To another bank, another owner, another user: one row at a time, and all at once without reading any."""
    attempt = Attempt(filled, ACTORS[who])
    moved: set[tuple[str, str, str]] = set()

    def move(table: str, column: str, name: str, target: str, condition: str = "") -> None:
        answer = attempt.count(f"update {table} set {column} = '{id_of(target)}'{condition}")
        assert isinstance(answer, int) or answer in ("refused", "denied", "broken", "there already")
        if isinstance(answer, int) and answer > 0:
            moved.add((name, column, target))
            if who == "finn, who left Acme":
                assert answer == 1, "what lies at Acme stays there"

    for name in RECORDINGS:
        for bank in BANKS:
            move("public.recordings", "bank_id", name, bank, f" where id = '{id_of(name)}'")
        for user in USERS:
            move("public.recordings", "owner_user_id", name, user, f" where id = '{id_of(name)}'")
    for table in ("public.import_items", "public.import_sources", "public.sync_jobs"):
        for user in USERS:
            move(table, "user_id", table, user)
    for user in USERS:
        move("public.recordings", "owner_user_id", "all", user)
    for bank in BANKS:
        move("public.recordings", "bank_id", "all", bank)
    if who == "service_role":
        assert len([move for move in moved if move[0] in RECORDINGS]) == len(RECORDINGS) * (len(BANKS) + len(USERS))
        return
    signed_in_as = who.partition(",")[0] if who.partition(",")[0] in USERS else None
    user = WORKS_FOR.get(who, signed_in_as)
    expected: set[tuple[str, str, str]] = set()
    if user is not None and user in ACCOUNTS.values():
        expected.add(("public.import_sources", "user_id", user))  # to himself, where it is
        if who in WORKS_FOR:
            expected |= {(table, "user_id", user) for table in ("public.import_items", "public.sync_jobs")}
    if user is not None and who not in WORKS_FOR:
        mine = {name for name, (owner, bank) in RECORDINGS.items() if owner == user and bank in MEMBERSHIPS[user]}
        expected |= {(name, "bank_id", bank) for name in mine for bank in MEMBERSHIPS[user]}
        expected |= {(name, "owner_user_id", user) for name in mine}
        expected |= {("all", "bank_id", bank) for bank in MEMBERSHIPS[user]}
        expected.add(("all", "owner_user_id", user))
    assert moved == expected


# -- Functions --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("who", ACTORS)
def test_counts_and_claims_are_told_to_whom_they_concern(filled: Connection, who: str) -> None:
    attempt = Attempt(filled, ACTORS[who])
    answers = {user: attempt.answer("select public.get_import_counts(%s)", id_of(user)) for user in USERS}
    signed_in_as = who.partition(",")[0] if who.partition(",")[0] in USERS else None
    user = WORKS_FOR.get(who, signed_in_as)
    if ACTORS[who].role == "anon":
        expected = dict.fromkeys(USERS, "denied")
    elif who in BROKEN_CLAIMS:
        expected = dict.fromkeys(USERS, "broken")
    elif who in ("service_role", "claims of another role") or ACTORS[who].claims in ("", "{}"):
        # A login that comes past the API and claims nothing is trusted with counts, and so is who claims to be
        # service_role: who can set claims can set any. Through the API nobody can do either.
        expected = dict.fromkeys(USERS, "ok")
    else:
        expected = {name: "ok" if name == user else "refused" for name in USERS}
    assert answers == expected


@pytest.mark.parametrize("who", WORKS_FOR)
def test_the_importer_is_told_the_banks_and_accounts_of_the_claimed_user(filled: Connection, who: str) -> None:
    attempt, user = Attempt(filled, ACTORS[who]), WORKS_FOR[who]
    assert attempt.rows("select unnest(import_pipeline.claimed_bank_ids())::text") == (
        MEMBERSHIPS[user] if user else set()
    )
    accounts = {account for account, owner in ACCOUNTS.items() if owner == user}
    assert attempt.rows("select unnest(import_pipeline.claimed_account_ids())") == accounts
    assert attempt.rows("select unnest(import_pipeline.claimed_sources())") == ({"zoom"} if accounts else set())
    entered = {
        (name, vault)
        for name in RECORDINGS
        for vault in VAULTS
        if attempt.rows(
            "select import_pipeline.may_enter(%s, %s)::text", id_of(name), id_of(vault)
        ) == {"true"}
    }  # fmt: skip
    assert entered == {(name, f"vault of {bank}") for name, (owner, bank) in RECORDINGS.items() if owner == user}
