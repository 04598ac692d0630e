"""The flat functions on a real Postgres: dedup, insert, tenancy, and content that a database does not like."""

from __future__ import annotations

import contextlib
import json
import logging
import uuid
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import psycopg
import pytest
import tenants
from psycopg import sql
from psycopg.pq import TransactionStatus
from psycopg.rows import dict_row

from import_pipeline import (
    ConnectorRecord,
    PipelineResult,
    check_duplicate,
    check_duplicates,
    insert_recording,
    insert_recordings,
    run_pipeline,
)
from import_pipeline.database.tenancy import acting_as
from import_pipeline.errors import BankError, ConfigurationError, InvalidRecordError, ItemError
from import_pipeline.pipeline import add_missing_vault_entries, add_vault_entries

START = datetime(2024, 5, 6, 7, 8, 9, tzinfo=UTC)
Connection = psycopg.Connection[Any]


def record(external_id: Any = "call-1", **values: Any) -> ConnectorRecord:
    """A record that lacks nothing."""
    given: dict[str, Any] = {
        "source_app": "demo",
        "title": "Weekly",
        "full_transcript": "[00:00:00] Ana: Hello.\n\n[00:00:04] Ben: Hello to you.",
        "recording_start_time": START,
    }
    return ConnectorRecord(external_id=external_id, **(given | values))


@pytest.fixture
def ana(conn: Connection) -> tenants.User:
    return tenants.make_user(conn, "ana@example.com")


def rows(conn: Connection, statement: str, *parameters: object) -> list[tuple[Any, ...]]:
    """Ask as superuser and leave no transaction open."""
    with conn.cursor(row_factory=psycopg.rows.tuple_row) as cursor:
        found = cursor.execute(statement, parameters).fetchall()
    if not conn.autocommit:
        conn.commit()
    return found


def count(conn: Connection, table: str) -> int:
    number: int = rows(conn, f"select count(*) from public.{table}")[0][0]
    return number


@contextlib.contextmanager
def triggered(conn: Connection, table: str, body: str) -> Iterator[None]:
    """Let every insert into a table run some PL/pgSQL first."""
    conn.execute(
        f"create function public.test_trigger() returns trigger language plpgsql as $$ begin {body} return new; end $$"
    )
    conn.execute(
        f"create trigger test_trigger before insert on public.{table} for each row"
        " execute function public.test_trigger()"
    )
    conn.commit()
    yield
    conn.rollback()
    conn.execute("drop function public.test_trigger() cascade")
    conn.commit()


# --- check_duplicate ----------------------------------------------------------------------------------------------


def test_a_call_that_was_never_imported_is_no_duplicate(conn: Connection, ana: tenants.User) -> None:
    answer = check_duplicate(conn, ana.id, "demo", "call-1")
    assert (answer.is_duplicate, answer.existing_recording_id) == (False, None)


def test_an_imported_call_is_a_duplicate_and_is_named(conn: Connection, ana: tenants.User) -> None:
    """F3: a filter that never matches shows as a second import that is not recognised."""
    recording_id = insert_recording(conn, ana.id, record())
    answer = check_duplicate(conn, ana.id, "demo", "call-1")
    assert (answer.is_duplicate, answer.existing_recording_id) == (True, recording_id)


@pytest.mark.parametrize(
    ("owner", "source_app", "external_id"),
    [("ben", "demo", "call-1"), ("ana", "other", "call-1"), ("ana", "demo", "call-2"), ("ana", "demo", "CALL-1")],
    ids=["another owner", "another source", "another id", "another case"],
)
def test_dedup_asks_for_owner_source_and_id_all_three(
    conn: Connection, ana: tenants.User, ben: tenants.User, owner: str, source_app: str, external_id: str
) -> None:
    """F5."""
    insert_recording(conn, ana.id, record())
    user = {"ana": ana, "ben": ben}[owner]
    assert not check_duplicate(conn, user.id, source_app, external_id).is_duplicate
    result = run_pipeline(conn, user.id, record(external_id, source_app=source_app))
    assert result.success
    assert count(conn, "recordings") == 2


def test_the_batch_form_answers_for_every_id_that_was_asked(conn: Connection, ana: tenants.User) -> None:
    first = insert_recording(conn, ana.id, record("a"))
    answers = check_duplicates(conn, ana.id, "demo", ["a", "b", "a"])
    assert {key: answer.existing_recording_id for key, answer in answers.items()} == {"a": first, "b": None}


def test_the_check_of_a_batch_is_one_query(conn: Connection, ana: tenants.User) -> None:
    asked: list[str] = []

    class Listening(psycopg.Cursor[Any]):
        def execute(self, query: Any, *args: Any, **kwargs: Any) -> Any:
            asked.append(str(query))
            return super().execute(query, *args, **kwargs)

    conn.cursor_factory = Listening
    check_duplicates(conn, ana.id, "demo", [f"call-{number}" for number in range(200)])
    assert sum("public.recordings" in query for query in asked) == 1


def test_a_broken_check_says_no_duplicate_and_is_logged(
    conn: Connection, ana: tenants.User, caplog: pytest.LogCaptureFixture
) -> None:
    """F2: an import is never blocked by its duplicate check."""
    insert_recording(conn, ana.id, record())
    conn.execute("revoke select on public.recordings from import_worker")
    conn.commit()
    with caplog.at_level(logging.WARNING):
        answer = check_duplicate(conn, ana.id, "demo", "call-1")
    assert not answer.is_duplicate
    assert "duplicate check" in caplog.text
    assert "demo" in caplog.text


def test_a_broken_check_leaves_the_callers_transaction_usable(conn: Connection, ana: tenants.User) -> None:
    conn.execute("revoke select on public.recordings from import_worker")
    conn.commit()
    with conn.transaction():
        conn.execute("create table public.kept (a int)")
        check_duplicate(conn, ana.id, "demo", "call-1")
        conn.execute("insert into public.kept values (1)")
    assert count(conn, "kept") == 1


@pytest.mark.parametrize("external_id", ["a\0b", "a\ud800b"], ids=["NUL", "lone surrogate"])
def test_an_id_that_cannot_be_asked_for_is_no_duplicate(conn: Connection, ana: tenants.User, external_id: str) -> None:
    assert not check_duplicate(conn, ana.id, "demo", external_id).is_duplicate


def test_the_check_finds_its_row_through_the_unique_index(conn: Connection, ana: tenants.User) -> None:
    """The look-up of one batch must not read the whole library."""
    insert_recordings(conn, ana.id, [record(f"call-{number}") for number in range(500)])
    with acting_as(conn, ana.id):
        plan = "\n".join(
            line
            for (line,) in conn.execute(
                "explain select id from public.recordings where owner_user_id = %s and source_app = 'demo'"
                " and (source_metadata ->> 'external_id') = any(%s::text[])",
                [ana.id, ["call-1", "call-2"]],
            )
        )
    assert "recordings_import_key" in plan


# --- insert_recording ---------------------------------------------------------------------------------------------


def test_a_record_becomes_a_recording_with_every_field(conn: Connection, ana: tenants.User) -> None:
    recording_id = insert_recording(
        conn,
        ana.id,
        record(
            duration=61.5,
            summary="All said.",
            audio_url="https://example.com/a",
            video_url="https://example.com/v",
            recording_end_time=START + timedelta(seconds=90),
            source_metadata={"host": "Ana"},
        ),
    )
    (row,) = rows(
        conn,
        "select id, bank_id, owner_user_id, title, audio_url, video_url, full_transcript, summary, global_tags,"
        " source_app, duration, recording_start_time, recording_end_time, legacy_recording_id, synced_at is not null"
        " from public.recordings",
    )
    assert row == (
        recording_id,
        ana.bank_id,
        ana.id,
        "Weekly",
        "https://example.com/a",
        "https://example.com/v",
        "[00:00:00] Ana: Hello.\n\n[00:00:04] Ben: Hello to you.",
        "All said.",
        [],
        "demo",
        62,
        START,
        START + timedelta(seconds=90),
        None,
        True,
    )


def test_the_vault_entry_stands_in_the_banks_personal_vault(conn: Connection, ana: tenants.User) -> None:
    conn.execute(
        "insert into public.vaults (bank_id, name, vault_type) values (%s, 'Team', 'team')",
        [ana.bank_id],
    )
    conn.commit()
    recording_id = insert_recording(conn, ana.id, record())
    assert rows(conn, "select vault_id, recording_id from public.vault_entries") == [(ana.vault_id, recording_id)]


def test_external_id_is_the_first_key_of_what_is_sent_and_wins(conn: Connection, ana: tenants.User) -> None:
    """`jsonb` keeps no order of its own, so the order is asked of a column of type `json`."""
    conn.execute("alter table public.recordings add column sent json")
    conn.execute(
        "create function public.keep() returns trigger language plpgsql as"
        " $$ begin new.sent := new.source_metadata::text::json; return new; end $$"
    )
    conn.commit()
    insert_recording(conn, ana.id, record(source_metadata={"zz": 1, "external_id": "forged", "a": {"b": [1, None]}}))
    ((metadata,),) = rows(conn, "select source_metadata from public.recordings")
    assert metadata == {"external_id": "call-1", "zz": 1, "a": {"b": [1, None]}}


def test_inserting_twice_gives_the_first_recording_again(conn: Connection, ana: tenants.User) -> None:
    """F10: a conflict returns no row, so the id is read back."""
    first = insert_recording(conn, ana.id, record())
    second = insert_recording(conn, ana.id, record(title="Renamed since"))
    assert first == second
    assert rows(conn, "select title from public.recordings") == [("Weekly",)]
    assert count(conn, "vault_entries") == 1


def test_without_a_personal_bank_the_error_names_the_user(conn: Connection, ana: tenants.User) -> None:
    conn.execute("update public.banks set type = 'business' where id = %s", [ana.bank_id])
    conn.commit()
    with pytest.raises(ItemError, match=f"{ana.id} has no personal bank") as caught:
        insert_recording(conn, ana.id, record())
    assert caught.value.error_class == "permanent"
    assert count(conn, "recordings") == 0


def test_with_two_personal_banks_the_error_names_the_user(conn: Connection, ana: tenants.User, ben: Any) -> None:
    """F13: the first of two is not simply taken."""
    conn.execute("insert into public.bank_memberships (bank_id, user_id) values (%s, %s)", [ben.bank_id, ana.id])
    conn.commit()
    result = run_pipeline(conn, ana.id, record())
    assert not result.success
    assert not result.skipped
    assert str(ana.id) in (result.error or "")
    assert "2 personal banks" in (result.error or "")


def test_bank_trouble_is_a_bank_error_of_the_single_form(conn: Connection, ana: tenants.User, ben: Any) -> None:
    with pytest.raises(BankError):
        insert_recording(conn, ana.id, record(bank_id=ben.bank_id))


def test_an_invalid_record_is_an_invalid_record_error_of_the_single_form(conn: Connection, ana: tenants.User) -> None:
    with pytest.raises(InvalidRecordError):
        insert_recording(conn, ana.id, record(full_transcript=" "))


def test_a_given_bank_and_vault_are_used_where_the_owner_is_a_member(conn: Connection, ana: tenants.User) -> None:
    ((bank_id,),) = rows(conn, "insert into public.banks (name, type) values ('Firm', 'business') returning id")
    ((vault_id,),) = rows(
        conn, "insert into public.vaults (bank_id, name, vault_type) values (%s, 'Team', 'team') returning id", bank_id
    )
    rows(conn, "insert into public.bank_memberships (bank_id, user_id) values (%s, %s) returning id", bank_id, ana.id)
    results = insert_recordings(
        conn,
        ana.id,
        [
            record("both", bank_id=bank_id, vault_id=vault_id),
            record("as text", bank_id=str(bank_id), vault_id=str(vault_id).upper()),
            record("vault only", vault_id=vault_id),
            record("neither"),
        ],
    )
    assert [result.error or result.vault_error for result in results] == [None] * 4
    found = rows(
        conn,
        "select r.source_metadata ->> 'external_id', r.bank_id, e.vault_id from public.recordings r"
        " join public.vault_entries e on e.recording_id = r.id order by 1",
    )
    assert found == [
        ("as text", bank_id, vault_id),
        ("both", bank_id, vault_id),
        ("neither", ana.bank_id, ana.vault_id),
        ("vault only", bank_id, vault_id),
    ]


def test_a_bank_or_vault_of_strangers_is_refused_and_neighbours_pass(
    conn: Connection, ana: tenants.User, ben: tenants.User
) -> None:
    results = insert_recordings(
        conn,
        ana.id,
        [
            record("bank", bank_id=ben.bank_id),
            record("vault", vault_id=ben.vault_id),
            record("mixed", bank_id=ana.bank_id, vault_id=ben.vault_id),
            record("unknown bank", bank_id=uuid.uuid4()),
            record("unknown vault", vault_id=uuid.uuid4()),
            record("good"),
        ],
    )
    assert [result.error_class for result in results] == ["permanent"] * 5 + [None]
    assert "not a member of the bank" in (results[0].error or "")
    assert "not in the bank" in (results[2].error or "")
    assert rows(conn, "select source_metadata ->> 'external_id' from public.recordings") == [("good",)]


def test_where_row_level_security_is_off_our_own_checks_refuse_strangers(
    conn: Connection, ana: tenants.User, ben: tenants.User
) -> None:
    """On an installation that switched it off there is no second line of defence."""
    for table in ("banks", "bank_memberships", "vaults", "recordings", "vault_entries"):
        conn.execute(f"alter table public.{table} disable row level security")
    conn.commit()
    results = insert_recordings(
        conn,
        ana.id,
        [
            record("bank", bank_id=ben.bank_id),
            record("vault", vault_id=ben.vault_id),
            record("mixed", bank_id=ana.bank_id, vault_id=ben.vault_id),
            record("good"),
        ],
    )
    assert [result.error_class for result in results] == ["permanent"] * 3 + [None]
    assert rows(conn, "select bank_id, owner_user_id from public.recordings") == [(ana.bank_id, ana.id)]
    assert rows(conn, "select vault_id from public.vault_entries") == [(ana.vault_id,)]


def test_the_database_refuses_a_forged_bank_by_itself(conn: Connection, ana: tenants.User, ben: tenants.User) -> None:
    with pytest.raises(psycopg.errors.InsufficientPrivilege), acting_as(conn, ana.id, writes=("recordings",)):
        conn.execute(
            "insert into public.recordings (bank_id, owner_user_id, title) values (%s, %s, 'forged')",
            [ben.bank_id, ana.id],
        )
    with pytest.raises(psycopg.errors.InsufficientPrivilege), acting_as(conn, ana.id, writes=("recordings",)):
        conn.execute(
            "insert into public.recordings (bank_id, owner_user_id, title) values (%s, %s, 'forged')",
            [ben.bank_id, ben.id],
        )
    assert count(conn, "recordings") == 0


def test_the_database_refuses_a_forged_vault_by_itself_and_the_recording_stays(
    conn: Connection, ana: tenants.User, ben: tenants.User
) -> None:
    recording_id = insert_recording(conn, ana.id, record())
    errors = add_vault_entries(conn, ana.id, [(recording_id, ben.vault_id)])
    assert "42501" in errors[recording_id]
    stolen = add_vault_entries(conn, ben.id, [(recording_id, ben.vault_id)])
    assert "42501" in stolen[recording_id]
    assert rows(conn, "select vault_id from public.vault_entries") == [(ana.vault_id,)]


def test_a_bank_without_personal_vault_keeps_the_recording_and_says_so(
    conn: Connection, ana: tenants.User, caplog: pytest.LogCaptureFixture
) -> None:
    """F12."""
    conn.execute("delete from public.vaults")
    conn.commit()
    with caplog.at_level(logging.WARNING):
        (result,) = insert_recordings(conn, ana.id, [record()])
    assert result.is_new
    assert "no personal vault" in (result.vault_error or "")
    assert str(result.recording_id) in caplog.text
    assert count(conn, "recordings") == 1


def test_a_failing_vault_entry_is_logged_and_never_loses_a_recording(
    conn: Connection, ana: tenants.User, caplog: pytest.LogCaptureFixture
) -> None:
    """F12."""
    body = "if (select title from public.recordings where id = new.recording_id) = 'bad' then raise 'no entry'; end if;"
    with triggered(conn, "vault_entries", body), caplog.at_level(logging.WARNING):
        results = insert_recordings(
            conn, ana.id, [record("a", title="good"), record("b", title="bad"), record("c", title="good")]
        )
        assert [result.is_new for result in results] == [True] * 3
        assert [result.vault_error is None for result in results] == [True, False, True]
        assert run_pipeline(conn, ana.id, record("d", title="bad")).success
    assert count(conn, "recordings") == 4
    assert count(conn, "vault_entries") == 2
    assert caplog.text.count("has no vault entry") == 2


def test_missing_vault_entries_are_added_later_but_only_where_there_is_none(
    conn: Connection, ana: tenants.User
) -> None:
    with triggered(conn, "vault_entries", "raise 'no entry';"):
        missing = insert_recording(conn, ana.id, record("a"))
    placed = insert_recording(conn, ana.id, record("b"))
    assert add_missing_vault_entries(conn, ana.id, [missing, placed]) == {}
    assert add_missing_vault_entries(conn, ana.id, [missing, placed]) == {}
    assert sorted(rows(conn, "select recording_id from public.vault_entries")) == sorted([(missing,), (placed,)])


# --- run_pipeline -------------------------------------------------------------------------------------------------


def test_the_three_answers_of_run_pipeline(conn: Connection, ana: tenants.User) -> None:
    imported = run_pipeline(conn, ana.id, record())
    again = run_pipeline(conn, ana.id, record())
    broken = run_pipeline(conn, ana.id, record("call-2", full_transcript=""))
    assert imported == PipelineResult(success=True, recording_id=imported.recording_id)
    assert isinstance(imported.recording_id, UUID)
    assert again == PipelineResult(success=False, skipped=True, recording_id=imported.recording_id)
    assert broken == PipelineResult(success=False, error="The record has no transcript.")


def test_a_deleted_recording_can_be_imported_again_by_an_explicit_call(conn: Connection, ana: tenants.User) -> None:
    first = run_pipeline(conn, ana.id, record())
    conn.execute("delete from public.recordings")
    conn.commit()
    second = run_pipeline(conn, ana.id, record())
    assert second.success
    assert second.recording_id != first.recording_id


def test_losing_the_race_to_the_unique_index_is_a_skip_and_no_error(conn: Connection, ana: tenants.User) -> None:
    """F1: the check says new, the index says there already."""
    first = run_pipeline(conn, ana.id, record())
    break_the_check(conn)
    assert not check_duplicate(conn, ana.id, "demo", "call-1").is_duplicate
    second = run_pipeline(conn, ana.id, record())
    assert second == PipelineResult(success=False, skipped=True, recording_id=first.recording_id)


def break_the_check(conn: Connection) -> None:
    """Let every look-up in `recordings` fail, but those of a transaction that has tried to insert."""
    conn.execute(
        "create function public.note_insert() returns trigger language plpgsql as"
        " $$ begin perform set_config('test.inserting', 'on', true); return null; end $$"
    )
    conn.execute(
        "create trigger note_insert before insert on public.recordings for each statement"
        " execute function public.note_insert()"
    )
    conn.execute(
        "create function public.fail_unless_inserting() returns boolean language plpgsql volatile as $$ begin"
        " if coalesce(current_setting('test.inserting', true), '') <> 'on' then raise 'broken'; end if;"
        " return true; end $$"
    )
    conn.execute(
        "create policy broken on public.recordings as restrictive for select to import_worker"
        " using (public.fail_unless_inserting())"
    )
    conn.commit()


DEEP: dict[str, Any] = {}
_inner = DEEP
for _ in range(100_000):
    _inner["deeper"] = {}
    _inner = _inner["deeper"]
CIRCULAR: dict[str, Any] = {}
CIRCULAR["itself"] = CIRCULAR


def nested(depth: int) -> dict[str, Any]:
    """Metadata of a given depth."""
    value: dict[str, Any] = {}
    for _ in range(depth - 1):
        value = {"deeper": value}
    return value


NAIVE = datetime(2024, 1, 1)  # noqa: DTZ001 - that is what is wrong with it
REFUSED: dict[str, Any] = {
    "no id": {"external_id": None},
    "an empty id": {"external_id": ""},
    "a blank id": {"external_id": " \n"},
    "a number for an id": {"external_id": 17},
    "bytes for an id": {"external_id": b"x"},
    "a list for an id": {"external_id": ["x"]},
    "NaN for an id": {"external_id": float("nan")},
    "an id with NUL": {"external_id": "a\0b"},
    "an id with a lone surrogate": {"external_id": "a\udfffb"},
    "an id of 9,000 characters": {"external_id": "x" * 9000},
    "an id of 513 bytes": {"external_id": "é" * 256 + "x"},
    "no source": {"source_app": None},
    "an empty source": {"source_app": " "},
    "a number for a source": {"source_app": 3},
    "a dictionary for a source": {"source_app": {}},
    "a source with NUL": {"source_app": "de\0mo"},
    "a source with a lone surrogate": {"source_app": "de\ud800mo"},
    "a number for a title": {"title": 5},
    "bytes for a title": {"title": b"Weekly"},
    "no transcript": {"full_transcript": None},
    "an empty transcript": {"full_transcript": " \n\t"},
    "bytes for a transcript": {"full_transcript": b"Hello"},
    "a list for a transcript": {"full_transcript": ["Hello"]},
    "no start": {"recording_start_time": None},
    "a naive start": {"recording_start_time": NAIVE},
    "a naive start as text": {"recording_start_time": "2024-01-01T10:00:00"},
    "a start in words": {"recording_start_time": "yesterday"},
    "a number for a start": {"recording_start_time": 1_700_000_000},
    "a start before the calendar": {"recording_start_time": "0001-01-01T00:00:00+14:00"},
    "a naive end": {"recording_end_time": NAIVE},
    "a list for an end": {"recording_end_time": []},
    "no metadata object": {"source_metadata": None},
    "a list for metadata": {"source_metadata": [1]},
    "bytes in metadata": {"source_metadata": {"raw": b"x"}},
    "an object in metadata": {"source_metadata": {"thing": object()}},
    "circular metadata": {"source_metadata": CIRCULAR},
    "metadata nested 100,000 deep": {"source_metadata": DEEP},
    "metadata nested 300 deep": {"source_metadata": nested(300)},
    "a number of 5,000 digits in metadata": {"source_metadata": {"n": 10**5000}},
    "a number of 5,000 digits as a key": {"source_metadata": {10**5000: 1}},
    "a word for a bank": {"bank_id": "mine"},
    "a number for a bank": {"bank_id": 7},
    "dashes for a bank": {"bank_id": "-" * 36},
    "bytes for a vault": {"vault_id": b"\0" * 16},
    "a number for a summary": {"summary": 1},
    "a list for an audio address": {"audio_url": []},
    "a dictionary for a video address": {"video_url": {}},
}


@pytest.mark.parametrize("values", REFUSED.values(), ids=REFUSED)
def test_a_bad_record_gets_a_reason_and_harms_nobody(
    conn: Connection, ana: tenants.User, values: dict[str, Any]
) -> None:
    """F4 and F72 among others."""
    bad = replace(record("bad"), **values)
    result = run_pipeline(conn, ana.id, bad)
    assert not result.success
    assert not result.skipped
    assert result.error
    assert len(result.error) < 300
    results = insert_recordings(conn, ana.id, [record("before"), bad, record("zafter")])
    assert [result.is_new for result in results] == [True, False, True]
    assert results[1].error_class == "data"
    assert count(conn, "recordings") == 2
    assert conn.info.transaction_status == TransactionStatus.IDLE


def test_what_is_no_record_gets_a_reason(conn: Connection, ana: tenants.User) -> None:
    for thing in (None, 1, {"external_id": "x"}, "x"):
        result = run_pipeline(conn, ana.id, thing)  # type: ignore[arg-type]
        assert not result.success
        assert "ConnectorRecord" in (result.error or "")


ACCEPTED: dict[str, tuple[dict[str, Any], str, Any]] = {
    "no title": ({"title": None}, "title", "Untitled"),
    "a blank title": ({"title": "  "}, "title", "Untitled"),
    "a title in emoji": ({"title": "🎉👩‍👩‍👧 Ünïcode"}, "title", "🎉👩‍👩‍👧 Ünïcode"),
    "a title of 10,000 characters": ({"title": "x" * 10_000}, "title", "x" * 1_000),
    "NUL in the title": ({"title": "a\0b"}, "title", "a\ufffdb"),
    "a lone surrogate in the title": ({"title": "a\udc00b"}, "title", "a\ufffdb"),
    "a pair of surrogates swapped": ({"title": "\udc00\ud800"}, "title", "\ufffd\ufffd"),
    "NUL in the transcript": ({"full_transcript": "a\0b"}, "full_transcript", "a\ufffdb"),
    "surrogates in the transcript": ({"full_transcript": "é\ud83dx"}, "full_transcript", "é\ufffdx"),
    "an id of 512 bytes": ({"external_id": "é" * 256}, "source_metadata ->> 'external_id'", "é" * 256),
    "an id with quotes and percent": ({"external_id": "%s'\"\\"}, "source_metadata ->> 'external_id'", "%s'\"\\"),
    "a duration of NaN": ({"duration": float("nan")}, "duration", None),
    "an infinite duration": ({"duration": float("inf")}, "duration", None),
    "a negative duration": ({"duration": -1}, "duration", None),
    "a duration of 49 hours": ({"duration": 49 * 3600}, "duration", None),
    "a duration of 48 hours": ({"duration": 48 * 3600}, "duration", 48 * 3600),
    "a duration of 5,000 digits": ({"duration": 10**5000}, "duration", None),
    "a duration in words": ({"duration": "an hour"}, "duration", None),
    "true as duration": ({"duration": True}, "duration", None),
    "a start as text": ({"recording_start_time": "2024-05-06T09:08:09+02:00"}, "recording_start_time", START),
    "a start as text with Z": ({"recording_start_time": "2024-05-06T07:08:09Z"}, "recording_start_time", START),
    "an end before the start": (
        {"recording_end_time": START - timedelta(hours=1)},
        "recording_end_time",
        None,
    ),
    "an end beyond the calendar": (
        {"recording_start_time": "9999-12-31T23:59:00+00:00", "duration": 3600},
        "recording_end_time",
        None,
    ),
    "NaN in the metadata": ({"source_metadata": {"x": float("nan")}}, "source_metadata -> 'x'", None),
    "NUL in a metadata key": ({"source_metadata": {"a\0": "\0b"}}, "source_metadata ->> 'a\ufffd'", "\ufffdb"),
    "a surrogate in a metadata key": ({"source_metadata": {"\ud800": 1}}, "source_metadata ->> '\ufffd'", "1"),
    "an id and a time in the metadata": (
        {"source_metadata": {"at": START, "who": UUID(int=1), "set": {1}}},
        "source_metadata - 'external_id'",
        {"at": "2024-05-06T07:08:09+00:00", "who": str(UUID(int=1)), "set": [1]},
    ),
}


@pytest.mark.parametrize(("values", "column", "expected"), ACCEPTED.values(), ids=ACCEPTED)
def test_an_odd_record_is_stored(
    conn: Connection, ana: tenants.User, values: dict[str, Any], column: str, expected: Any
) -> None:
    """F69 and F70 among others."""
    odd = replace(record("odd"), **values)
    results = insert_recordings(conn, ana.id, [record("before"), odd, record("zafter")])
    assert [result.error for result in results] == [None] * 3
    ((stored,),) = rows(conn, f"select {column} from public.recordings where id = %s", results[1].recording_id)
    assert stored == expected


def test_what_was_replaced_or_left_out_is_noted(conn: Connection, ana: tenants.User) -> None:
    insert_recording(
        conn,
        ana.id,
        record(title="\0", full_transcript="a\0\ud800b", source_metadata={"k\0": "\0"}, duration=-5),
    )
    ((notes,),) = rows(conn, "select source_metadata -> 'import_notes' from public.recordings")
    assert notes["replaced_characters"] == 5
    assert "48 hours" in notes["duration"]


def test_a_transcript_of_20_megabytes_is_stored_whole(conn: Connection, ana: tenants.User) -> None:
    """F71: plain speech of any length passes."""
    text = "[00:00:00] Ana: something that was said once more. ё\n\n" * 400_000
    assert len(text) > 20_000_000
    results = insert_recordings(conn, ana.id, [record("a"), record("b", full_transcript=text), record("c")])
    assert [result.is_new for result in results] == [True] * 3
    ((length, digest),) = rows(
        conn, "select length(full_transcript), md5(full_transcript) = md5(%s) from public.recordings where id = %s",
        text, results[1].recording_id,
    )  # fmt: skip
    assert (length, digest) == (len(text), True)


def test_a_text_beyond_the_owners_full_text_index_fails_alone(conn: Connection, ana: tenants.User) -> None:
    """F71: on an installation with such an index the database refuses 90,000 distinct words, for this item only."""
    conn.execute("create index on public.recordings using gin (to_tsvector('simple', full_transcript))")
    conn.commit()
    words = " ".join(f"w{number:07d}" for number in range(90_000))
    records = [record(f"call-{number}", full_transcript=words if number == 5 else "Hello") for number in range(10)]
    results = insert_recordings(conn, ana.id, records)
    assert [result.is_new for result in results] == [True] * 5 + [False] + [True] * 4
    assert results[5].error_class == "data"
    assert "54000" in (results[5].error or "")
    assert count(conn, "vault_entries") == 9


def test_a_reason_never_quotes_the_row(conn: Connection, ana: tenants.User) -> None:
    """F88: DETAIL of a refused row holds the whole row, transcript included."""
    conn.execute("alter table public.recordings add constraint no_canary check (title <> 'forbidden')")
    conn.commit()
    result = run_pipeline(conn, ana.id, record(title="forbidden", full_transcript="CANARY-7312"))
    assert "no_canary" in (result.error or "")
    assert "CANARY" not in (result.error or "")


# --- many records -------------------------------------------------------------------------------------------------


def test_results_come_in_the_order_of_the_records(conn: Connection, ana: tenants.User) -> None:
    there = insert_recording(conn, ana.id, record("m"))
    records = [record("z"), record("m"), record(""), record("a", source_app="zebra"), record("b")]
    results = insert_recordings(conn, ana.id, records)
    assert [(result.is_new, bool(result.error)) for result in results] == [
        (True, False),
        (False, False),
        (False, True),
        (True, False),
        (True, False),
    ]
    assert results[1].recording_id == there
    for index in (0, 3, 4):
        ((key, app),) = rows(
            conn,
            "select source_metadata ->> 'external_id', source_app from public.recordings where id = %s",
            results[index].recording_id,
        )
        assert (key, app) == (records[index].external_id, records[index].source_app)


def test_what_only_some_records_of_a_batch_have_stays_with_them(conn: Connection, ana: tenants.User) -> None:
    """Columns travel as arrays, those without any value as an empty one."""
    records = [record("a"), record("b", summary="Short.", duration=60), record("c", audio_url="https://example.com/c")]
    assert all(result.is_new for result in insert_recordings(conn, ana.id, records))
    found = conn.execute(
        "select source_metadata ->> 'external_id', summary, duration, audio_url, video_url"
        " from public.recordings order by 1"
    ).fetchall()
    assert found == [
        ("a", None, None, None, None),
        ("b", "Short.", 60, None, None),
        ("c", None, None, "https://example.com/c", None),
    ]


def test_ids_grow_with_time_so_that_the_indexes_of_a_large_library_grow_at_one_end(
    conn: Connection, ana: tenants.User
) -> None:
    for batch in ("z", "m", "a"):
        insert_recordings(conn, ana.id, [record(f"{batch}{number}") for number in range(9)])
    ids = [f"{name}{number}" for name in ("z", "m", "a") for number in range(9)]
    assert rows(conn, "select array_agg(source_metadata ->> 'external_id' order by id) from recordings") == [(ids,)]


def test_copies_within_one_batch_become_one_recording(conn: Connection, ana: tenants.User) -> None:
    """F9."""
    results = insert_recordings(conn, ana.id, [record(title="first"), record("other"), record(title="second")])
    assert sorted(result.is_new for result in (results[0], results[2])) == [False, True]
    assert results[0].recording_id == results[2].recording_id
    assert count(conn, "recordings") == 2
    assert count(conn, "vault_entries") == 2


def test_an_empty_batch_is_nothing(conn: Connection, ana: tenants.User) -> None:
    assert insert_recordings(conn, ana.id, []) == []
    assert check_duplicates(conn, ana.id, "demo", []) == {}


def test_several_bad_rows_of_a_large_batch_fail_alone(conn: Connection, ana: tenants.User) -> None:
    conn.execute("alter table public.recordings add constraint test_title check (title <> 'forbidden')")
    conn.commit()
    bad = {0, 7, 8, 63, 199}
    results = insert_recordings(
        conn,
        ana.id,
        [record(f"call-{n}", title="forbidden" if n in bad else "fine") for n in range(200)],
    )
    assert {n for n, result in enumerate(results) if result.error} == bad
    assert count(conn, "recordings") == count(conn, "vault_entries") == 195


def test_trouble_of_the_whole_database_is_raised_and_nothing_is_written(conn: Connection, ana: tenants.User) -> None:
    """F77: a timeout says nothing about a record, so no record is called bad for it."""
    with triggered(conn, "recordings", "perform pg_sleep(5);"):
        conn.execute("set statement_timeout = 50")
        conn.commit()
        with pytest.raises(psycopg.errors.QueryCanceled):
            insert_recordings(conn, ana.id, [record("a"), record("b")])
        result = run_pipeline(conn, ana.id, record("c"))
        assert "57014" in (result.error or "")
        conn.execute("reset statement_timeout")
        conn.commit()
    assert count(conn, "recordings") == 0


def test_a_missing_column_is_not_blamed_on_the_records(conn: Connection, ana: tenants.User) -> None:
    conn.execute("alter table public.recordings drop column summary")
    conn.commit()
    with pytest.raises(psycopg.errors.UndefinedColumn):
        insert_recordings(conn, ana.id, [record()])


def test_a_lost_connection_is_an_answer_of_run_pipeline_and_an_error_of_the_batch_form(
    conn: Connection, database_url: str, ana: tenants.User
) -> None:
    with psycopg.connect(database_url, autocommit=True) as mine:
        conn.execute("select pg_terminate_backend(%s)", [mine.info.backend_pid])
        conn.commit()
        result = run_pipeline(mine, ana.id, record())
        assert not result.success
        assert "connection" in (result.error or "") or "57P01" in (result.error or "")
        with pytest.raises(psycopg.OperationalError):
            insert_recordings(mine, ana.id, [record()])


# --- on the caller's connection -----------------------------------------------------------------------------------


@pytest.mark.parametrize("autocommit", [True, False], ids=["autocommit", "no autocommit"])
@pytest.mark.parametrize("row_factory", [psycopg.rows.tuple_row, dict_row], ids=["tuples", "dictionaries"])
@pytest.mark.parametrize("cursor_factory", [psycopg.Cursor, psycopg.ClientCursor], ids=["server", "client"])
def test_any_kind_of_connection_will_do(
    conn: Connection,
    database_url: str,
    ana: tenants.User,
    autocommit: bool,
    row_factory: Any,
    cursor_factory: Any,
) -> None:
    with psycopg.connect(database_url, autocommit=autocommit, row_factory=row_factory) as mine:
        mine.cursor_factory = cursor_factory
        said: list[str | None] = []
        mine.add_notice_handler(lambda notice: said.append(notice.message_primary))
        first = run_pipeline(mine, ana.id, record())
        assert first.success, first.error
        assert mine.info.transaction_status == TransactionStatus.IDLE
        assert run_pipeline(mine, ana.id, record()).skipped
        assert insert_recordings(mine, ana.id, [record(), record("b"), record("c", title=5)])[1].is_new
        assert count(conn, "recordings") == 2
        assert said == []


@pytest.mark.parametrize("autocommit", [True, False], ids=["autocommit", "no autocommit"])
def test_in_a_pipeline_of_the_callers_the_answer_is_what_was_committed(
    conn: Connection, database_url: str, ana: tenants.User, autocommit: bool
) -> None:
    conn.execute(
        "create function public.refuse() returns trigger language plpgsql as"
        " $$ begin if new.title = 'bad' then raise 'no'; end if; return null; end $$"
    )
    conn.execute(
        "create constraint trigger refuse after insert on public.recordings deferrable initially deferred"
        " for each row execute function public.refuse()"
    )
    conn.commit()
    with psycopg.connect(database_url, autocommit=autocommit) as mine, mine.pipeline():
        assert run_pipeline(mine, ana.id, record("a")).success
        assert count(conn, "recordings") == 1
        refused = run_pipeline(mine, ana.id, record("b", title="bad"))
        assert "P0001" in (refused.error or "")
        assert run_pipeline(mine, ana.id, record("c")).success
        assert mine.info.transaction_status == TransactionStatus.IDLE
    assert count(conn, "recordings") == 2


def test_user_ids_may_be_given_as_text(conn: Connection, ana: tenants.User) -> None:
    assert run_pipeline(conn, str(ana.id), record()).success
    assert check_duplicate(conn, str(ana.id), "demo", "call-1").is_duplicate


@pytest.mark.parametrize("user_id", ["nobody", uuid.uuid4(), None, "\ud800"], ids=["word", "unknown", "none", "odd"])
def test_a_wrong_user_is_an_answer(conn: Connection, ana: tenants.User, user_id: Any) -> None:
    result = run_pipeline(conn, user_id, record())
    assert not result.success
    assert result.error
    assert conn.info.transaction_status == TransactionStatus.IDLE


def test_inside_a_transaction_of_the_callers_nothing_is_committed(conn: Connection, ana: tenants.User) -> None:
    with conn.transaction(force_rollback=True):
        assert run_pipeline(conn, ana.id, record()).success
        assert run_pipeline(conn, ana.id, record()).skipped
    assert count(conn, "recordings") == 0


def test_role_and_claims_of_the_caller_are_put_back(conn: Connection, ana: tenants.User, ben: tenants.User) -> None:
    claims = json.dumps({"sub": str(ben.id), "role": "service_role"})

    def who() -> tuple[Any, ...]:
        row = conn.execute("select current_user, current_setting('role'), auth.uid(), auth.role()").fetchone()
        assert row is not None
        return tuple(row)

    before = who()
    run_pipeline(conn, ana.id, record())
    run_pipeline(conn, ana.id, record("bad", title=5))
    assert who() == before
    conn.execute("grant select on public.import_items to service_role")
    conn.execute("set local role service_role")
    conn.execute("select set_config('request.jwt.claims', %s, true)", [claims])
    before = who()
    assert before[1:] == ("service_role", ben.id, "service_role")
    for each in (record("a"), record("a"), record("b", title=5), record("c", bank_id=ben.bank_id)):
        run_pipeline(conn, ana.id, each)
        assert who() == before
    insert_recordings(conn, ana.id, [record("d"), record("e", bank_id=ben.bank_id)])
    assert who() == before
    conn.rollback()


def test_an_error_inside_a_transaction_of_the_callers_leaves_it_usable_and_as_it_was(
    conn: Connection, ana: tenants.User
) -> None:
    with conn.transaction():
        with pytest.raises(psycopg.errors.DivisionByZero), acting_as(conn, ana.id):
            conn.execute("select 1/0")
        row = conn.execute("select current_setting('role'), auth.uid()").fetchone()
        assert row == ("none", None)


def test_after_a_transaction_of_ours_nothing_of_it_is_left_in_the_session(conn: Connection, ana: tenants.User) -> None:
    """A pooler in transaction mode gives the session to somebody else."""
    run_pipeline(conn, ana.id, record())
    row = conn.execute("select current_setting('role'), auth.uid(), current_user = session_user").fetchone()
    assert row == ("none", None, True)


@pytest.fixture
def plain_login(conn: Connection, database_url: str) -> Iterator[str]:
    """Address of the database for a login that has no right of its own."""
    name = f"login_{uuid.uuid4().hex[:12]}"
    conn.execute(sql.SQL("create role {} login password 'secret'").format(sql.Identifier(name)))
    conn.commit()
    yield psycopg.conninfo.make_conninfo(database_url, user=name, password="secret")
    conn.rollback()
    conn.execute(
        "select pg_terminate_backend(pid) from pg_stat_activity where usename = %s",
        [name],
    )
    conn.execute(sql.SQL("drop role {}").format(sql.Identifier(name)))
    conn.commit()


def test_a_plain_login_that_may_become_import_worker_is_enough(
    conn: Connection, ana: tenants.User, ben: tenants.User, plain_login: str
) -> None:
    name = psycopg.conninfo.conninfo_to_dict(plain_login)["user"]
    conn.execute(sql.SQL("grant import_worker to {}").format(sql.Identifier(str(name))))
    conn.commit()
    with psycopg.connect(plain_login) as mine:
        assert run_pipeline(mine, ana.id, record()).success
        assert run_pipeline(mine, ana.id, record()).skipped
        assert run_pipeline(mine, ben.id, record()).success
        assert "not a member" in (run_pipeline(mine, ana.id, record("x", bank_id=ben.bank_id)).error or "")
        with mine.transaction(force_rollback=True):
            assert run_pipeline(mine, ana.id, record("y")).success
    assert count(conn, "recordings") == count(conn, "vault_entries") == 2


def test_a_login_that_may_not_become_import_worker_is_told_what_to_do(
    conn: Connection, ana: tenants.User, plain_login: str
) -> None:
    with psycopg.connect(plain_login) as mine:
        result = run_pipeline(mine, ana.id, record())
        assert "grant import_worker" in (result.error or "")
        with pytest.raises(ConfigurationError, match="grant import_worker"):
            insert_recordings(mine, ana.id, [record()])
