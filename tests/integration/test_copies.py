"""Once per owner, source and external id, whatever the bank; and beside it the copies that a user makes of a call."""

from __future__ import annotations

import threading
import time
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
import tenants
from connectors.demo import Demo
from world import World, calls, summary_of

from import_pipeline import ConnectorRecord, check_duplicate, insert_recording, insert_recordings, run_pipeline
from import_pipeline.pipeline import new_recording_id, uuid7
from import_pipeline.records import Counts

Connection = psycopg.Connection[Any]


@pytest.fixture
def ana(conn: Connection) -> tenants.User:
    return tenants.make_user(conn)


@pytest.fixture
def acme(conn: Connection, ana: tenants.User) -> UUID:
    """A bank that Ana belongs to besides her own."""
    bank_id = uuid4()
    conn.execute("insert into banks (id, name, type) values (%s, 'Acme', 'business')", [bank_id])
    conn.execute("insert into bank_memberships (bank_id, user_id) values (%s, %s)", [bank_id, ana.id])
    conn.commit()
    return bank_id


def record(external_id: str = "call-1", **values: Any) -> ConnectorRecord:
    return ConnectorRecord(external_id, "demo", "Weekly", "Dana: Hello.", "2026-03-02T10:00:00Z", **values)


def copy(conn: Connection, bank_id: UUID, recording_id: UUID | None = None) -> UUID:
    """What an application does: the same row with another id in another bank; without an id, of every recording."""
    copy_id = uuid4()
    conn.execute(
        "insert into recordings (id, bank_id, owner_user_id, title, full_transcript, source_app, source_metadata,"
        " created_at) select %s, %s, owner_user_id, title, full_transcript, source_app, source_metadata, created_at"
        " from recordings where id = coalesce(%s, id)",
        [copy_id, bank_id, recording_id],
    )
    conn.commit()
    return copy_id


def ids(conn: Connection) -> set[UUID]:
    found = {UUID(str(recording_id)) for (recording_id,) in conn.execute("select id from recordings")}
    conn.rollback()
    return found


def test_a_copy_in_another_bank_is_possible_and_importing_again_adds_nothing(
    conn: Connection, ana: tenants.User, acme: UUID
) -> None:
    imported = insert_recording(conn, ana.id, record())
    copied = copy(conn, acme, imported)
    assert insert_recording(conn, ana.id, record()) == imported
    assert insert_recording(conn, ana.id, record(bank_id=acme)) == imported
    assert run_pipeline(conn, ana.id, record(bank_id=acme)).recording_id == imported
    assert check_duplicate(conn, ana.id, "demo", "call-1").existing_recording_id == imported
    assert ids(conn) == {imported, copied}


def test_of_several_rows_the_imported_one_is_named_and_else_the_oldest(conn: Connection, ana: tenants.User) -> None:
    def add(recording_id: UUID, created_at: str) -> UUID:
        conn.execute(
            "insert into recordings (id, bank_id, owner_user_id, title, source_app, source_metadata, created_at)"
            " values (%s, %s, %s, 't', 'demo', '{\"external_id\": \"call-1\"}', %s)",
            [recording_id, ana.bank_id, ana.id, created_at],
        )
        conn.commit()
        return recording_id

    add(uuid4(), "2025-02-01")
    oldest = add(uuid4(), "2025-01-01")
    add(uuid4(), "2025-03-01")
    assert check_duplicate(conn, ana.id, "demo", "call-1").existing_recording_id == oldest
    assert insert_recording(conn, ana.id, record()) == oldest
    imported = add(new_recording_id(), "2025-04-01")
    assert check_duplicate(conn, ana.id, "demo", "call-1").existing_recording_id == imported


@pytest.mark.parametrize("new_id", [uuid4, uuid7], ids=["of an older importer", "of an earlier version of ours"])
def test_what_was_there_before_imports_had_ids_of_their_own_is_not_imported_again(
    conn: Connection, ana: tenants.User, acme: UUID, new_id: Any
) -> None:
    """Even where nobody asked: the statement that inserts looks."""
    before = UUID(int=new_id().int)
    conn.execute(
        "insert into recordings (id, bank_id, owner_user_id, title, source_app, source_metadata)"
        " values (%s, %s, %s, 't', 'demo', '{\"external_id\": \"call-1\"}')",
        [before, ana.bank_id, ana.id],
    )
    conn.commit()
    records = [record(), record("call-2"), record(bank_id=acme)]
    results = insert_recordings(conn, ana.id, records)
    assert [(result.is_new, result.recording_id == before) for result in results] == [
        (False, True),
        (True, False),
        (False, True),
    ]
    assert len(ids(conn)) == 2


@pytest.mark.parametrize("stored_before", [False, True], ids=["new to all", "stored by an older importer"])
def test_imports_of_one_call_into_several_banks_at_the_same_time_are_one_recording(
    conn: Connection, database_url: str, ana: tenants.User, acme: UUID, stored_before: bool
) -> None:
    if stored_before:
        conn.execute(
            "insert into recordings (bank_id, owner_user_id, title, source_app, source_metadata)"
            " values (%s, %s, 't', 'demo', '{\"external_id\": \"call-1\"}')",
            [ana.bank_id, ana.id],
        )
        conn.commit()
    begin = threading.Barrier(8)
    answers: list[UUID] = []

    def import_into(bank_id: UUID) -> None:
        with psycopg.connect(database_url) as mine:
            begin.wait()
            answers.append(insert_recording(mine, ana.id, record(bank_id=bank_id)))

    threads = [threading.Thread(target=import_into, args=[bank]) for bank in [ana.bank_id, acme] * 4]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(answers) == 8
    assert ids(conn) == set(answers)
    assert len(ids(conn)) == 1


def test_an_import_that_is_not_committed_yet_is_waited_for_in_whatever_bank(
    conn: Connection, database_url: str, ana: tenants.User, acme: UUID
) -> None:
    """It cannot be seen yet, so only the index can know of it."""
    answers: list[UUID] = []

    def import_it() -> None:
        with psycopg.connect(database_url) as second:
            answers.append(insert_recording(second, ana.id, record(bank_id=acme)))

    thread = threading.Thread(target=import_it)
    with psycopg.connect(database_url) as first, psycopg.connect(database_url, autocommit=True) as watcher:
        with first.transaction():
            imported = insert_recording(first, ana.id, record())
            thread.start()
            while not watcher.execute("select from pg_stat_activity where wait_event = 'transactionid'").fetchall():
                assert thread.is_alive()
                time.sleep(0.01)
        thread.join()
    assert answers == [imported]
    assert ids(conn) == {imported}


# --- in a library that is synced ----------------------------------------------------------------------------------


def test_after_a_sync_copies_are_left_alone_and_the_next_sync_adds_nothing(world: World) -> None:
    ana = world.account("ana@example.com")
    source = Demo(calls(5))
    assert world.run(source).success
    acme = tenants.make_user(world.conn, "acme@example.com").bank_id
    world.do(
        "insert into recordings (bank_id, owner_user_id, title, source_app, source_metadata, created_at)"
        " select %s, owner_user_id, title, source_app, source_metadata, created_at from recordings",
        acme,
    )
    assert len(world.recordings()) == 10
    again = world.run(source, full=True)
    assert again.success
    assert summary_of(again).counts == Counts(listed=5, skipped=5)
    # With the ledger gone, the calls are found where they are.
    world.do("delete from import_items")
    assert summary_of(world.run(source, full=True)).counts == Counts(listed=5, skipped=5)
    assert world.rows(
        "select count(*) from import_items as i join recordings as r on r.id = i.recording_id where r.bank_id = %s",
        ana.bank_id,
    ) == [(5,)]
    assert len(world.recordings()) == 10


def test_a_call_whose_copy_is_all_that_is_left_is_not_imported_again(world: World) -> None:
    """The ledger follows the copy; when that is deleted too, the call is, and stays so."""
    world.account("ana@example.com")
    source = Demo(calls(1))
    assert world.run(source).success
    world.do(
        "with copy as (insert into recordings (bank_id, owner_user_id, title, source_app, source_metadata)"
        " select bank_id, owner_user_id, 'Copy', source_app, source_metadata from recordings returning id)"
        " select from copy"
    )
    world.do("delete from recordings where title <> 'Copy'")
    assert summary_of(world.run(source, full=True)).counts.inserted == 0
    assert world.rows("select r.title from import_items as i join recordings as r on r.id = i.recording_id") == [
        ("Copy",)
    ]
    world.do("delete from recordings")
    assert summary_of(world.run(source, full=True)).counts.inserted == 0
    assert world.recordings() == []
