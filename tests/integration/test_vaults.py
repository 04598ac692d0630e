"""A vault is entered only by who may write there; a recording that names none goes into its owner's own."""

from __future__ import annotations

from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
import tenants
from connectors.demo import START

from import_pipeline import ConnectorRecord, insert_recording
from import_pipeline.database.audit import find_findings
from import_pipeline.defs.repairs import repair_vault_entries
from import_pipeline.errors import BankError
from import_pipeline.pipeline import add_missing_vault_entries, add_vault_entries, insert_recordings

Connection = psycopg.Connection[Any]
WRITING = ("vault_owner", "vault_admin", "manager", "member")


class Acme:
    """A business bank of Ana's, in which Ben is a plain member; each has a private vault there."""

    def __init__(self, conn: Connection) -> None:
        self.conn = conn
        self.ana, self.ben = (tenants.make_user(conn, f"{name}@example.com") for name in ("ana", "ben"))
        self.bank = self.one("insert into banks (name, type) values ('Acme', 'business') returning id")
        self.join(self.ana, "bank_owner")
        self.join(self.ben, "bank_member")
        self.anas = self.vault("personal", {self.ana: "vault_owner"})
        self.bens = self.vault("personal", {self.ben: "vault_owner"})

    def one(self, statement: str, *parameters: object) -> UUID:
        row = self.conn.execute(statement, parameters).fetchone()
        assert row is not None
        return UUID(str(row[0]))

    def join(self, user: tenants.User, role: str) -> None:
        self.conn.execute(
            "insert into bank_memberships (bank_id, user_id, role) values (%s, %s, %s)", [self.bank, user.id, role]
        )

    def vault(self, kind: str, members: dict[tenants.User, str], bank: UUID | None = None) -> UUID:
        vault = self.one(
            "insert into vaults (bank_id, name, vault_type) values (%s, 'Calls', %s) returning id",
            bank or self.bank,
            kind,
        )
        for user, role in members.items():
            self.conn.execute(
                "insert into vault_memberships (vault_id, user_id, role) values (%s, %s, %s)", [vault, user.id, role]
            )
        return vault

    def put(self, user: tenants.User, **fields: Any) -> UUID | str | None:
        """Import a call: the vault in which it is then, or why not; None: it is in no vault."""
        record = ConnectorRecord(str(uuid4()), "demo", "Weekly", "[00:00:01] Ana: Hello.", START, **fields)
        (result,) = insert_recordings(self.conn, user.id, [record])
        if result.recording_id is None:
            return result.error
        return self.vault_of(result.recording_id)

    def vault_of(self, recording: UUID) -> UUID | None:
        row = self.conn.execute("select vault_id from vault_entries where recording_id = %s", [recording]).fetchone()
        return None if row is None else row[0]

    def forge(self, user: tenants.User, vault: UUID, bank: UUID | None = None) -> str | None:
        """Put a call of his into a vault past our own checks: what the database says."""
        recording = self.one(
            "insert into recordings (owner_user_id, bank_id, title) values (%s, %s, 'x') returning id",
            user.id,
            bank or self.bank,
        )
        return add_vault_entries(self.conn, user.id, [(recording, vault)]).get(recording)


@pytest.fixture
def acme(conn: Connection) -> Acme:
    conn.autocommit = True
    return Acme(conn)


# -- A vault that is named --------------------------------------------------------------------------------------------


def test_a_colleagues_private_vault_takes_nothing_and_says_why(acme: Acme) -> None:
    for user, vault in ((acme.ben, acme.anas), (acme.ana, acme.bens)):  # the owner of the bank neither
        for fields in ({"vault_id": vault}, {"bank_id": acme.bank, "vault_id": vault}):
            told = acme.put(user, **fields)
            assert isinstance(told, str)
            assert f"may not put recordings into the vault {vault}" in told
            assert "vault_owner, vault_admin, manager or member" in told
        assert "enters only vaults its user may write to" in str(acme.forge(user, vault))
    record = ConnectorRecord("1", "demo", "Weekly", "[00:00:01] Ana: Hello.", START, vault_id=acme.anas)
    with pytest.raises(BankError, match="may not put recordings"):
        insert_recording(acme.conn, acme.ben.id, record)


@pytest.mark.parametrize("role", [*WRITING, "guest", "reader", None])
def test_the_role_in_a_vault_says_who_may_write_there_and_guests_only_read(acme: Acme, role: str | None) -> None:
    acme.conn.execute("alter table vault_memberships drop constraint vault_memberships_role_check")
    acme.conn.execute("alter table vault_memberships alter role drop not null")
    vault = acme.vault("team", {acme.ana: "vault_owner", acme.ben: role})  # type: ignore[dict-item]
    if role in WRITING:
        assert acme.put(acme.ben, vault_id=vault) == vault
        assert acme.forge(acme.ben, vault) is None
    else:
        assert "may not put recordings" in str(acme.put(acme.ben, vault_id=vault))
        assert "enters only vaults its user may write to" in str(acme.forge(acme.ben, vault))


def test_a_guest_in_a_vault_of_another_bank_puts_nothing_there(acme: Acme) -> None:
    zoe = tenants.make_user(acme.conn, "zoe@example.com")
    vault = acme.vault("client", {acme.ana: "vault_owner", zoe: "member"})
    assert "is not a member of the bank" in str(acme.put(zoe, vault_id=vault))
    assert acme.forge(zoe, vault, zoe.bank_id) is not None
    assert acme.forge(zoe, vault) is not None


def test_who_has_left_the_bank_puts_nothing_into_its_vaults_any_more(acme: Acme) -> None:
    acme.conn.execute("delete from bank_memberships where user_id = %s and bank_id = %s", [acme.ben.id, acme.bank])
    assert "is not a member of the bank" in str(acme.put(acme.ben, vault_id=acme.bens))
    assert "enters only vaults" in str(acme.forge(acme.ben, acme.bens))


# -- A vault that is not named ----------------------------------------------------------------------------------------


def test_in_a_bank_of_several_it_is_his_own_and_never_a_colleagues(acme: Acme) -> None:
    """The oldest, or the first by its id, would be anybody's."""
    for _ in range(8):
        acme.vault("personal", {acme.ana: "vault_owner"})
        acme.vault("personal", {acme.ana: "vault_owner", acme.ben: "member"})
    assert acme.put(acme.ben, bank_id=acme.bank) == acme.bens
    acme.conn.execute("delete from vaults where id = %s", [acme.bens])
    assert acme.put(acme.ben, bank_id=acme.bank) is None, "what Ana shares is still hers"
    shared = acme.vault("personal", {acme.ana: "member", acme.ben: "member"})
    assert acme.put(acme.ben, bank_id=acme.bank) == shared, "it is nobody's more than his"


def test_what_is_in_no_vault_is_put_into_its_owners_own_and_else_the_reason_is_told(acme: Acme) -> None:
    record = ConnectorRecord("1", "demo", "Weekly", "[00:00:01] Ana: Hello.", START, bank_id=acme.bank)
    (result,) = insert_recordings(acme.conn, acme.ben.id, [record])
    assert result.recording_id is not None
    acme.conn.execute("delete from vault_entries")
    repaired = repair_vault_entries(acme.conn, ["demo"])
    assert (repaired.repaired, acme.vault_of(result.recording_id)) == (1, acme.bens)
    acme.conn.execute("delete from vaults where id = %s", [acme.bens])
    told = add_missing_vault_entries(acme.conn, acme.ben.id, [result.recording_id])
    assert "no personal vault that its owner may write to" in told[result.recording_id]
    assert repair_vault_entries(acme.conn, ["demo"]).still_missing.keys() == {result.recording_id}


# -- Where nobody keeps memberships of vaults -------------------------------------------------------------------------


def test_who_is_alone_in_a_bank_may_write_to_all_of_it_but_where_he_is_a_guest(acme: Acme) -> None:
    zoe = tenants.make_user(acme.conn, "zoe@example.com")
    acme.conn.execute("delete from vault_memberships where user_id = %s", [zoe.id])
    team = acme.vault("team", {}, zoe.bank_id)
    shared = acme.vault("client", {acme.ana: "guest"}, zoe.bank_id)
    assert acme.put(zoe) == zoe.vault_id
    assert acme.put(zoe, vault_id=team) == team
    assert acme.put(zoe, vault_id=shared) == shared
    guest = acme.vault("coach", {acme.ana: "vault_owner", zoe: "guest"}, zoe.bank_id)
    assert "may not put recordings" in str(acme.put(zoe, vault_id=guest))


@pytest.mark.parametrize("role", ["owner", "", None])
def test_who_is_alone_in_a_bank_has_it_whatever_the_roles_of_an_application_are_called_and_audit_names_these(
    acme: Acme, role: str | None
) -> None:
    acme.conn.execute("alter table vault_memberships drop constraint vault_memberships_role_check")
    acme.conn.execute("alter table vault_memberships alter role drop not null")
    acme.conn.execute("update vault_memberships set role = %s where user_id = %s", [role, acme.ben.id])
    assert acme.put(acme.ben) == acme.ben.vault_id
    assert acme.put(acme.ben, bank_id=acme.bank) is None, "elsewhere nobody has said that this role may"
    (finding,) = find_findings(acme.conn, "vault-roles")
    assert finding.object == (f"role {role!r} in vaults" if role else "members of vaults without a role")
    acme.conn.execute("update vault_memberships set role = 'guest' where role is distinct from 'vault_owner'")
    assert find_findings(acme.conn, "vault-roles") == []


def test_a_vault_that_has_no_members_is_for_who_runs_the_bank(acme: Acme) -> None:
    team = acme.vault("team", {})
    assert acme.put(acme.ana, vault_id=team) == team
    assert "may not put recordings" in str(acme.put(acme.ben, vault_id=team))
    acme.conn.execute("update bank_memberships set role = 'bank_admin' where user_id = %s", [acme.ben.id])
    assert acme.put(acme.ben, vault_id=team) == team
    assert "may not put recordings" in str(acme.put(acme.ben, vault_id=acme.anas)), "that one is Ana's"


def test_where_no_memberships_of_vaults_are_kept_at_all_imports_land_as_before(acme: Acme) -> None:
    acme.conn.execute("delete from vault_memberships")
    assert acme.put(acme.ben) == acme.ben.vault_id
    assert acme.put(acme.ben, bank_id=acme.bank) == min(acme.anas, acme.bens)
    assert acme.put(acme.ben, vault_id=acme.anas) == acme.anas
    assert acme.forge(acme.ben, acme.ana.vault_id) is not None, "but in no bank that is not his"


def test_entries_that_are_there_already_stay(acme: Acme) -> None:
    recording = acme.put(acme.ben, vault_id=acme.bens)
    assert recording == acme.bens
    acme.conn.execute("update vault_memberships set role = 'guest' where user_id = %s", [acme.ben.id])
    assert acme.conn.execute("select count(*) from vault_entries where vault_id = %s", [acme.bens]).fetchone() == (1,)
