"""Everything about one user: what `export` writes out, and that `erase` leaves nothing of it anywhere."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
import tenants
from commands import Shell, write_calls
from connectors.demo import Call, Demo
from cryptography.fernet import Fernet
from psycopg import sql
from upath import UPath
from world import World

from import_pipeline.errors import ErasureError, ItemError, UnknownUserError
from import_pipeline.library.accounts import ensure_account
from import_pipeline.library.leases import LeaseLostError, acquire_lease
from import_pipeline.library.personal_data import count_rows, erase_rows, export_rows
from import_pipeline.providers.credentials import store_credential
from import_pipeline.providers.keys import KeyRing, Secrets
from import_pipeline.providers.rate_budgets import Lane
from import_pipeline.records import Account, ConnectorRecord, ListedItem, Ready
from import_pipeline.stages.insert import write_outcomes
from import_pipeline.stages.staging import _read_lines

Connection = psycopg.Connection[Any]
SAID = "canary-4d1e was said"
SECRET = "canary-4d1e-secret"
MARKS = ("canary-4d1e", "ana@example.com")


def personal(name: str) -> list[Call]:
    """Calls of one user: two that are imported and one that fails, every one with words to be recognised."""
    return [
        Call(f"{name}-1", transcript=f"[00:00:00] {name}: {SAID}."),
        Call(f"{name}-2", transcript=f"[00:00:00] {name}: {SAID} again.", fields={"title": f"canary-4d1e of {name}"}),
        Call(f"{name}-3", error=ItemError("It is broken."), values={"title": f"canary-4d1e of {name}, broken"}),
    ]


@pytest.fixture
def users(world: World) -> tuple[tenants.User, tenants.User]:
    """Two users, each with calls of every outcome and a credential; what the first has can be recognised."""
    ana, ben = world.account("ana@example.com"), world.account("ben@example.com")
    demo = Demo()
    demo.calls |= {ana.id: personal("ana"), ben.id: [Call("ben-1"), Call("ben-2", error=ItemError("It is broken."))]}
    assert not world.run(demo).success
    keys = KeyRing([Fernet.generate_key().decode()])
    with psycopg.connect(world.url, autocommit=True) as conn:
        for user in (ana, ben):
            secrets = Secrets("api-key", {"api_key": SECRET})
            store_credential(conn, keys, ensure_account(conn, user.id, "demo"), user.id, secrets, {})
    return ana, ben


def exported(conn: Connection, user: tenants.User) -> list[tuple[str, dict[str, Any]]]:
    lines = [(table, json.loads(line)) for table, line in export_rows(conn, user.id)]
    assert all(table == value["table"] for table, value in lines)
    return [(table, value["row"]) for table, value in lines]


def rows_of(lines: list[tuple[str, dict[str, Any]]], table: str) -> list[dict[str, Any]]:
    return [row for name, row in lines if name == table]


def dump(conn: Connection) -> dict[str, str]:
    """All rows of all tables as text, by table."""
    tables = conn.execute(
        "select schemaname, tablename from pg_tables where schemaname in ('public', 'auth', 'import_pipeline')"
    ).fetchall()
    texts = {}
    for schema, table in tables:
        statement = sql.SQL("select coalesce(string_agg(t::text, e'\\n'), '') from {} as t")
        texts[f"{schema}.{table}"] = str(conn.execute(statement.format(sql.Identifier(schema, table))).fetchone()[0])  # type: ignore[index]
    return texts


# -- What belongs to a user -------------------------------------------------------------------------------------------


def test_every_table_with_rows_about_a_user_is_known(conn: Connection) -> None:
    """A new table is in the list, or it is said here why not."""
    about_users = {
        f"{schema}.{table}"
        for schema, table in conn.execute(
            "select distinct table_schema, table_name from information_schema.columns"
            " where table_schema in ('public', 'auth', 'import_pipeline')"
            " and column_name in ('user_id', 'owner_user_id', 'account_id', 'recording_id', 'email')"
        )
    }
    of_the_application = {"auth.users", "public.bank_memberships", "public.vault_memberships"}
    known = {name.split(".")[1] for name in about_users - of_the_application}
    assert set(count_rows(conn, uuid4())) == known


# -- export -----------------------------------------------------------------------------------------------------------


def test_an_export_holds_every_row_of_the_user_and_no_other(
    world: World, users: tuple[tenants.User, tenants.User]
) -> None:
    ana, ben = users
    world.do("alter table recordings add column mood text")
    world.do("update recordings set mood = 'cheerful' where owner_user_id = %s", ana.id)
    with psycopg.connect(world.url, autocommit=True) as conn:
        lines = exported(conn, ana)
        counts = count_rows(conn, ana.id)
    assert {table: len(rows_of(lines, table)) for table in counts} == counts
    assert lines[0] == ("users", {"id": str(ana.id), "email": ana.email})
    recordings = {row["source_metadata"]["external_id"]: row for row in rows_of(lines, "recordings")}
    assert set(recordings) == {"ana-1", "ana-2"}
    assert recordings["ana-1"]["full_transcript"] == f"[00:00:00] ana: {SAID}."
    assert recordings["ana-2"]["mood"] == "cheerful"
    assert {row["external_id"]: row["status"] for row in rows_of(lines, "import_items")} == {
        "ana-1": "imported",
        "ana-2": "imported",
        "ana-3": "failed",
    }
    text = json.dumps(lines)
    assert str(ben.id) not in text
    assert "ben" not in text


def test_an_export_has_no_secret_in_it(world: World, users: tuple[tenants.User, tenants.User]) -> None:
    with psycopg.connect(world.url, autocommit=True) as conn:
        (credential,) = rows_of(exported(conn, users[0]), "credentials")
    assert set(credential) >= {"account_id", "options"}
    assert "secret" not in credential


def test_an_export_shows_one_moment_and_bounds_its_memory_by_a_cursor(
    world: World, users: tuple[tenants.User, tenants.User]
) -> None:
    with psycopg.connect(world.url, autocommit=True) as conn:
        lines = export_rows(conn, users[0].id)
        assert next(lines)[0] == "users"
        world.do("delete from recordings")
        assert [table for table, _ in lines].count("recordings") == 2
        assert conn.execute("select count(*) from pg_cursors").fetchone() == (0,)
        assert conn.execute("select current_user, current_setting('transaction_isolation')").fetchone() == (
            "postgres",
            "read committed",
        )


def test_a_login_that_is_only_an_importer_can_export(
    world: World, users: tuple[tenants.User, tenants.User], importer_url: str
) -> None:
    with psycopg.connect(importer_url, autocommit=True) as conn:
        assert len(rows_of(exported(conn, users[0]), "recordings")) == 2
        with pytest.raises(UnknownUserError):
            list(export_rows(conn, uuid4()))


@pytest.fixture
def importer_url(world: World) -> Iterator[str]:
    """Address of the same database for a login that may only work as import_worker."""
    name = f"importer_{uuid4().hex[:8]}"
    world.do(f"create role {name} login noinherit")
    world.do(f"grant import_worker to {name}")
    yield world.url.replace("postgres@", f"{name}@", 1)
    with psycopg.connect(world.url, autocommit=True) as conn:
        conn.execute(f"drop role {name}")


# -- erase ------------------------------------------------------------------------------------------------------------


def test_erasing_leaves_no_row_of_the_user_and_every_row_of_others(
    world: World, users: tuple[tenants.User, tenants.User]
) -> None:
    ana, ben = users
    with psycopg.connect(world.url, autocommit=True) as conn:
        found, of_ben, lines_of_ben = count_rows(conn, ana.id), count_rows(conn, ben.id), exported(conn, ben)
        with conn.transaction():
            erased = erase_rows(conn, ana.id)
        assert erased.rows == found
        assert {"recordings": 2, "import_items": 3, "credentials": 1}.items() <= found.items()
        assert erased.run_ids == {world.runs[0].run_id}
        assert set(count_rows(conn, ana.id).values()) == {0}
        assert (count_rows(conn, ben.id), exported(conn, ben)) == (of_ben, lines_of_ben)
        left = dump(conn)
    users_tables = {"auth.users", "public.banks", "public.bank_memberships", "public.vault_memberships"}
    for table, text in left.items():
        assert "canary-4d1e" not in text, table
        if table not in users_tables:
            assert ana.email not in text, table
            assert str(ana.id) not in text, table


def test_erasing_with_the_user_takes_the_bank_that_nobody_else_is_in(
    world: World, users: tuple[tenants.User, tenants.User]
) -> None:
    ana, ben = users
    ((shared,),) = world.rows("insert into banks (name, type) values ('Both', 'business') returning id")
    for user in users:
        world.do("insert into bank_memberships (bank_id, user_id) values (%s, %s)", shared, user.id)
    with psycopg.connect(world.url, autocommit=True) as conn, conn.transaction():
        assert erase_rows(conn, ana.id, with_user=True).is_user_gone
    assert world.rows("select id from banks order by name = 'Both'") == [(ben.bank_id,), (shared,)]
    assert world.rows("select email::text from auth.users") == [(ben.email,)]
    with psycopg.connect(world.url, autocommit=True) as conn:
        assert all(str(ana.id) not in text and ana.email not in text for text in dump(conn).values())


@pytest.mark.parametrize("lane", ["live", "history"])
def test_nothing_is_erased_while_an_import_is_running(
    world: World, users: tuple[tenants.User, tenants.User], lane: Lane
) -> None:
    ana, _ = users
    with psycopg.connect(world.url, autocommit=True) as conn:
        found = count_rows(conn, ana.id)
        account_id = ensure_account(conn, ana.id, "demo")
        assert acquire_lease(conn, account_id, "busy-run", lane=lane, is_run_over=lambda _: False) is None
        with pytest.raises(ErasureError, match="busy-run is importing"), conn.transaction():
            erase_rows(conn, ana.id)
        assert count_rows(conn, ana.id) == {**found, "leases": 1}
        conn.execute("update import_pipeline.leases set expires_at = now() - interval '1 second'")
        with conn.transaction():
            assert erase_rows(conn, ana.id).rows["leases"] == 1


def outcome_of(user: tenants.User, account_id: UUID, world: World) -> tuple[Account, Ready]:
    ((opened_at,),) = world.rows("select now()")
    record = ConnectorRecord("late", "demo", "Late", "[00:00:00] ana: Late.", opened_at)
    return Account(account_id, user.id, "demo", user.email, opened_at), Ready(ListedItem("late"), record)


def test_a_run_that_was_asleep_meanwhile_writes_nothing_any_more(
    world: World, users: tuple[tenants.User, tenants.User]
) -> None:
    ana, _ = users
    with psycopg.connect(world.url, autocommit=True) as conn:
        account, late = outcome_of(ana, ensure_account(conn, ana.id, "demo"), world)
        with conn.transaction():
            erase_rows(conn, ana.id)
        with pytest.raises(LeaseLostError, match="account was removed"):
            write_outcomes(conn, account, "asleep", [late])
        assert set(count_rows(conn, ana.id).values()) == {0}


def test_what_a_run_writes_at_the_very_moment_is_waited_for_and_erased(
    world: World, users: tuple[tenants.User, tenants.User], monkeypatch: pytest.MonkeyPatch
) -> None:
    ana, _ = users
    writes, goes_on = threading.Event(), threading.Event()

    def insert_slowly(*arguments: Any) -> Any:
        from import_pipeline.library.ledger import send_outcomes

        results = send_outcomes(*arguments)
        writes.set()
        assert goes_on.wait(30)
        return results

    monkeypatch.setattr(sys.modules["import_pipeline.stages.new_calls"], "send_outcomes", insert_slowly)
    with psycopg.connect(world.url, autocommit=True) as conn, psycopg.connect(world.url, autocommit=True) as other:
        account, late = outcome_of(ana, ensure_account(conn, ana.id, "demo"), world)
        writer = threading.Thread(target=write_outcomes, args=(other, account, "awake", [late]))
        writer.start()
        assert writes.wait(30)
        threading.Timer(0.5, goes_on.set).start()
        with conn.transaction():
            assert erase_rows(conn, ana.id).rows["recordings"] == 3
        writer.join()
        assert set(count_rows(conn, ana.id).values()) == {0}


def test_a_table_of_the_owners_that_refers_to_a_call_is_named_and_nothing_is_erased(
    world: World, users: tuple[tenants.User, tenants.User]
) -> None:
    ana, _ = users
    world.do("create table coaching_notes (recording_id uuid references recordings)")
    world.do("insert into coaching_notes select id from recordings where owner_user_id = %s", ana.id)
    with psycopg.connect(world.url, autocommit=True) as conn:
        found = count_rows(conn, ana.id)
        with pytest.raises(ErasureError, match="coaching_notes"), conn.transaction():
            erase_rows(conn, ana.id)
        assert count_rows(conn, ana.id) == found


def test_a_login_that_may_not_erase_is_told_and_erases_nothing(
    world: World, users: tuple[tenants.User, tenants.User], importer_url: str
) -> None:
    ana, _ = users
    with psycopg.connect(importer_url, autocommit=True) as conn:
        with pytest.raises(ErasureError, match="owns the tables"), conn.transaction():
            erase_rows(conn, ana.id)
        assert count_rows(conn, ana.id)["recordings"] == 2


# -- the commands -----------------------------------------------------------------------------------------------------


@pytest.fixture
def shell(shell: Shell, world: World, tmp_path: Path) -> Shell:
    shell.set(DATABASE_URL=world.url, IMPORT_PIPELINE_HOME=str(tmp_path / "home"), DAGSTER_HOME="")
    return shell


def test_export_writes_a_private_file_that_appears_only_when_it_is_complete(
    world: World,
    users: tuple[tenants.User, tenants.User],
    shell: Shell,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = tmp_path / "ana.jsonl"
    told = shell.run("export", "--user", "ana@example.com", "--output", path)
    assert (told.code, told.stdout) == (0, "")
    assert "recordings 2" in told.stderr
    assert SAID not in told.stderr
    assert path.stat().st_mode & 0o777 == 0o600
    lines = path.read_text(encoding="utf-8")
    assert shell.run("export", "--user", "ana@example.com").stdout == lines
    assert [json.loads(line)["table"] for line in lines.splitlines()].count("recordings") == 2

    def break_off(*_: Any) -> Iterator[tuple[str, str]]:
        yield "users", "{}"
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("import_pipeline.library.personal_data.export_rows", break_off)
    assert shell.run("export", "--user", "ana@example.com", "--output", path).code == 2
    assert path.read_text(encoding="utf-8") == lines
    assert sorted(tmp_path.glob("ana*")) == [path]
    assert list(tmp_path.glob("*.partial")) == []


def test_export_writes_into_no_file_that_somebody_else_laid_in_its_way(
    users: tuple[tenants.User, tenants.User], shell: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "open"
    folder.mkdir()
    theirs, path = tmp_path / "theirs", folder / "ana.jsonl"
    theirs.write_text("")
    theirs.chmod(0o666)
    (folder / "ana.jsonl.partial").hardlink_to(theirs)
    path.symlink_to(theirs)
    asked = ("export", "--user", "ana@example.com", "--output", path)
    assert shell.run(*asked).code == 0
    assert (path.is_symlink(), path.stat().st_mode & 0o777) == (False, 0o600)
    assert SAID in path.read_text(encoding="utf-8")

    monkeypatch.setattr("secrets.token_hex", lambda _: "guessed")
    for lay in (Path.hardlink_to, Path.symlink_to):
        lay(folder / ".import-pipeline-guessed.partial", theirs)
        assert shell.run(*asked).code == 2
        (folder / ".import-pipeline-guessed.partial").unlink(missing_ok=True)
    assert theirs.read_text() == ""


def test_an_unknown_user_has_nothing_to_export_or_erase(world: World, shell: Shell) -> None:
    for command in ("export", "erase"):
        told = shell.run(command, "--user", "nobody@example.com")
        assert told.code == 2
        assert "nobody@example.com" in told.stderr


@pytest.mark.parametrize("answer", ["", "yes\n", "ben@example.com\n"])
def test_erase_wants_the_address_typed_and_else_does_nothing(
    world: World, users: tuple[tenants.User, tenants.User], shell: Shell, answer: str
) -> None:
    told = shell.run("erase", "--user", "ana@example.com", stdin=answer)
    assert told.code == 2
    assert "nothing was erased" in told.stderr
    assert len(world.recordings()) == 3


def test_erase_must_be_told_whom(world: World, shell: Shell) -> None:
    shell.set(IMPORT_PIPELINE_USER="ana@example.com")
    assert shell.run("erase", "--yes").code == 2


def everything_below(folder: Path) -> Iterator[tuple[str, bytes]]:
    """Name and content of every file, unsealed."""
    for path in folder.rglob("*"):
        if path.is_file() and not path.is_socket():
            is_staged = path.name.endswith(".sealed")
            data = b"".join(_read_lines(UPath(path))) if is_staged else path.read_bytes()
            yield str(path.relative_to(folder)), data


@pytest.mark.long
def test_after_erase_no_row_file_or_run_names_what_the_user_had(world: World, shell: Shell, tmp_path: Path) -> None:
    """The runs and staged files of others stay, those of a run that was killed go too."""
    for email, title in (("ana@example.com", "canary-4d1e"), ("ben@example.com", "weekly")):
        tenants.make_user(world.conn, email)
        write_calls(tmp_path / email, 2)
        (tmp_path / email / "call 0000.vtt").rename(tmp_path / email / f"{title}.vtt")
        (tmp_path / email / f"{title} is broken.vtt").touch()
        assert shell.run("upload", tmp_path / email, "--user", email).code == 1
    home = tmp_path / "home"
    assert any(b"canary-4d1e" in data for _, data in everything_below(home)), "nothing to be erased was there"

    told = shell.run("erase", "--user", "ana@example.com", stdin="ana@example.com\n")
    assert told.code == 0, told.stderr
    assert "1 run of Dagster" in told.stderr
    with psycopg.connect(world.url, autocommit=True) as conn:
        assert not [table for table, text in dump(conn).items() if "canary-4d1e" in text]
    assert not [name for name, data in everything_below(home) if b"canary-4d1e" in data]
    assert any(b"weekly" in data for _, data in everything_below(home))
    assert shell.run("counts", "--user", "ben@example.com", "--json").json == {"file-upload": 2}
    # Begun again it is a user without calls, whose files can be imported anew.
    assert (
        shell.run("upload", tmp_path / "ana@example.com", "--user", "ana@example.com", "--json").json["inserted"] == 2
    )
