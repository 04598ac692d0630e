"""Triggers of the owner's that refuse what is imported: each item fails alone and says why, whatever they raise."""

from __future__ import annotations

import logging
from typing import Any

import psycopg
import pytest
import tenants
from connectors.demo import Demo
from world import World, calls, problem_of, summary_of

from import_pipeline import ConnectorRecord, insert_recordings
from import_pipeline.records import Counts

CANARY = "CANARY-5530"

BROKEN = {
    "a column that does not exist": ("new.nothing := 1;", "42703", "has no field"),
    "a table that does not exist": ("insert into public.nowhere values (1);", "42P01", "does not exist"),
    "a function that does not exist": ("perform public.nothing_such();", "42883", "does not exist"),
    "a table that it may not read": ("perform from pg_catalog.pg_authid;", "42501", "permission denied"),
    "text that is no SQL": ("execute 'selekt';", "42601", "syntax error"),
    "its own words": ("raise 'Not on Mondays.';", "P0001", "Not on Mondays."),
    "a state of its own": ("raise 'Not on Mondays.' using errcode = 'AB123';", "AB123", "Not on Mondays."),
    "a lost connection": ("raise 'Queue gone.' using errcode = '08006';", "08006", "Queue gone."),
    "a full disk": ("raise 'No room.' using errcode = 'disk_full';", "53100", "No room."),
    "a shutdown": ("raise 'Closing.' using errcode = 'admin_shutdown';", "57P01", "Closing."),
    "a cancelled statement": ("raise 'Enough.' using errcode = 'query_canceled';", "57014", "Enough."),
    "a conflict": ("raise 'Again.' using errcode = 'serialization_failure';", "40001", "Again."),
    "an error within the server": ("raise 'Oops.' using errcode = 'internal_error';", "XX000", "Oops."),
}


def trigger(world: World, table: str, body: str, *, when: str = "before insert", function: str = "owners_rule") -> None:
    kind, tail = ("constraint trigger", " deferrable initially deferred") if when == "deferred" else ("trigger", "")
    when = "after insert" if when == "deferred" else when
    world.do(
        f"create function public.{function}() returns trigger language plpgsql as $$ begin {body} return new; end $$"
    )
    world.do(
        f"create {kind} {function} {when} on public.{table}{tail} for each row execute function public.{function}()"
    )


@pytest.mark.long
@pytest.mark.parametrize(("body", "state", "words"), BROKEN.values(), ids=BROKEN)
def test_a_trigger_that_refuses_every_recording_is_the_reason_of_every_item(
    world: World, body: str, state: str, words: str
) -> None:
    world.account("ana@example.com")
    trigger(world, "recordings", body)
    result = world.run(Demo(calls(20)))
    assert not result.success
    assert "20 failed" in problem_of(result)
    ledger = world.ledger()
    assert len(ledger) == 20
    for status, _, reason in ledger.values():
        assert status == "failed"
        assert f"SQLSTATE {state} in function owners_rule()" in (reason or "")
        assert words in (reason or "")
    assert world.recordings() == []
    assert world.jobs()[0]["status"] == "completed_with_errors"


@pytest.mark.long
@pytest.mark.parametrize("when", ["before insert", "deferred"])
@pytest.mark.parametrize(("body", "state", "words"), BROKEN.values(), ids=BROKEN)
def test_a_trigger_that_refuses_one_recording_harms_no_neighbour(
    world: World, body: str, state: str, words: str, when: str
) -> None:
    world.account("ana@example.com")
    trigger(world, "recordings", f"if new.title = 'bad' then {body} end if;", when=when)
    source = Demo(calls(20))
    source.calls[None][7].fields = {"title": "bad"}
    result = world.run(source)
    assert not result.success
    assert world.statuses() == {f"call-{n:03d}": "failed" if n == 7 else "imported" for n in range(20)}
    assert f"SQLSTATE {state}" in str(world.ledger()["call-007"])
    assert words in str(world.ledger()["call-007"])
    assert len(world.recordings()) == 19


def test_whatever_every_record_meets_each_is_tried_once_more_and_not_over_and_over(
    conn: psycopg.Connection[Any], make_user: Any
) -> None:
    """Halves of halves would send every text nine times."""
    ana: tenants.User = make_user(conn)
    conn.execute("create sequence public.tries")
    conn.execute("grant usage on public.tries to import_worker")
    conn.execute(
        "create function public.broken() returns trigger language plpgsql as"
        " $$ begin perform nextval('public.tries'); new.nothing := 1; return new; end $$"
    )
    conn.execute(
        "create trigger broken before insert on public.recordings for each row execute function public.broken()"
    )
    conn.commit()
    records = [ConnectorRecord(f"call-{n}", "demo", "Call", "Dana: Hello.", "2026-03-02T10:00:00Z") for n in range(64)]
    results = insert_recordings(conn, ana.id, records)
    assert all("42703" in (result.error or "") for result in results)
    assert conn.execute("select last_value from public.tries").fetchone() == (65,)


def test_an_item_that_the_ledger_refuses_fails_alone_and_leaves_nothing_behind(world: World) -> None:
    world.account("ana@example.com")
    trigger(
        world,
        "import_items",
        "if new.external_id = 'call-003' and new.status = 'imported' then new.nothing := 1; end if;",
        when="before insert or update",
    )
    result = world.run(Demo(calls(6)))
    assert not result.success
    assert world.statuses() == {f"call-{n:03d}": "failed" if n == 3 else "imported" for n in range(6)}
    assert "42703" in str(world.ledger()["call-003"])
    assert len(world.recordings()) == 5


def test_an_item_of_which_the_ledger_keeps_nothing_makes_the_run_red_and_is_named_in_its_log(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    world.account("ana@example.com")
    body = f"if new.external_id = 'call-003' then raise '{CANARY}'; end if;"
    trigger(world, "import_items", body, when="before insert or update")
    with caplog.at_level(logging.ERROR):
        result = world.run(Demo(calls(6)))
    assert not result.success
    assert "1 failed" in problem_of(result)
    assert sorted(world.statuses()) == [f"call-{n:03d}" for n in range(6) if n != 3]
    assert len(world.recordings()) == 5
    assert "the ledger keeps nothing of 'call-003'" in caplog.text
    assert "P0001" in caplog.text
    assert CANARY not in caplog.text


@pytest.mark.long
@pytest.mark.parametrize("when", ["before insert", "before update", "before insert or update"])
def test_progress_that_the_owners_table_refuses_keeps_no_call_from_being_imported(
    world: World, when: str, caplog: pytest.LogCaptureFixture
) -> None:
    """`sync_jobs` is the owner's, and only shows how a run goes."""
    world.account("ana@example.com")
    trigger(world, "sync_jobs", "new.nothing := 1;", when=when)
    source = Demo(calls(5))
    with caplog.at_level(logging.WARNING):
        result = world.run(source)
    assert result.success
    assert summary_of(result).counts == Counts(listed=5, inserted=5)
    assert len(world.recordings()) == 5
    assert "sync_jobs does not show this run: the database refused it: SQLSTATE 42703" in caplog.text
    again = world.run(source)
    assert again.success
    assert len(world.recordings()) == 5


QUOTING = {
    "in its message": "raise 'bad: %%', new.full_transcript;",
    "in its message, as a full disk": "raise 'bad: %%', new.full_transcript using errcode = 'disk_full';",
    "in its detail and hint": "raise 'bad' using detail = new.full_transcript, hint = new.full_transcript;",
    "as names of things": "raise 'bad' using constraint = new.full_transcript, table = new.full_transcript;",
    "in dynamic SQL": "execute 'select ' || quote_literal(new.full_transcript) || '::integer';",
    "in dynamic SQL that looks like a context":
        "execute E'select 1\\nPL/pgSQL function ' || new.full_transcript || '() line 3 at RAISE';",
    "as an assertion": "assert false, new.full_transcript;",
}  # fmt: skip


@pytest.mark.long
@pytest.mark.parametrize("table", ["recordings", "vault_entries", "import_items", "sync_jobs"])
@pytest.mark.parametrize("body", QUOTING.values(), ids=QUOTING)
def test_what_a_trigger_quotes_stands_in_no_event_and_no_log(
    world: World, table: str, body: str, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    """In the ledger its words may stand: that only the owner of the row reads."""
    world.account("ana@example.com")
    if table != "recordings":
        body = body.replace("new.full_transcript", f"'{CANARY}'::text")
    trigger(world, table, body, when="before insert or update")
    source = Demo(calls(3))
    for call in source.calls[None]:
        call.transcript = CANARY
    with caplog.at_level(logging.DEBUG):
        result = world.run(source)
    events = "\n".join(str(entry.to_json()) for entry in world.instance.all_logs(result.run_id))
    told = events + caplog.text + "".join(capfd.readouterr()) + str(world.instance.get_run_by_id(result.run_id))
    assert result.run_id in told
    assert CANARY not in told
    assert CANARY not in str(world.jobs())
    if table == "recordings":
        assert set(world.statuses().values()) == {"failed"}
        assert "SQLSTATE" in told
