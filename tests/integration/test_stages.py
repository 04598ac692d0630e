"""Whole import jobs over a source in memory with fault switches, into a real Postgres."""

from __future__ import annotations

import logging
import os
import stat
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import dagster as dg
import psycopg
import pytest
import tenants
from connectors import demo
from connectors.demo import START, Call, ConcurrentDemo, Demo, OtherDemo, UnpartitionedDemo, no_http
from dagster._core.definitions.job_base import InMemoryJob
from dagster._core.execution.api import execute_run_iterator
from proxy import Event, Proxy
from world import World, calls, problem_of, summary_of

from import_pipeline import ConnectorRecord, check_duplicates, run_pipeline
from import_pipeline.database.connections import BoundedConnection, connection_settings
from import_pipeline.database.tenancy import acting_as, is_path_open
from import_pipeline.errors import (
    LONGEST_REASON,
    ErrorClass,
    IgnoredItemError,
    ImportPipelineError,
    ItemError,
    NotReadyError,
    SourceUnavailableError,
    StoppedError,
)
from import_pipeline.library.clients import Storage
from import_pipeline.library.leases import LeaseKeeper, acquire_lease, this_process
from import_pipeline.library.ledger import ledger_key, next_attempt_at, next_look_at, request_retry
from import_pipeline.library.normalise import normalise_record
from import_pipeline.providers.http import HttpClient
from import_pipeline.providers.timeouts import Patience
from import_pipeline.records import Account, Counts, Failed, Ignored, ListedItem, NewItem, Outcome, Ready
from import_pipeline.stages import staging
from import_pipeline.stages.connect import open_accounts
from import_pipeline.stages.dedup import leave_out_known
from import_pipeline.stages.insert import CHUNK_CHARACTERS, CHUNK_ROWS, cut_chunks, write_outcomes
from import_pipeline.stages.postgres import PostgresResource
from import_pipeline.stages.transform import transform_items

CANARY = "CANARY-4b1f: what was said must not leave the database"


def steps(result: dg.ExecuteInProcessResult) -> list[str]:
    """The steps of a run in the order in which they started."""
    return [str(event.step_key) for event in result.all_events if event.event_type_value == "STEP_START"]


# --- the good case ------------------------------------------------------------------------------------------------


def test_a_run_imports_everything_and_a_second_one_only_lists(world: World) -> None:
    """F3 and F24: nothing is inserted again, and no transcript is asked for again."""
    ana = world.account("ana@example.com")
    source = Demo(calls(30))
    first = world.run(source)
    assert first.success
    assert summary_of(first).counts == Counts(listed=30, inserted=30)
    assert len(world.recordings()) == 30
    assert world.rows("select count(*) from vault_entries where vault_id = %s", ana.vault_id) == [(30,)]
    assert set(world.statuses().values()) == {"imported"}
    assert len(source.asked) == 30

    source.look_back = timedelta(days=3650)
    second = world.run(source)
    assert second.success
    assert summary_of(second).counts == Counts(listed=30, skipped=30)
    assert len(source.asked) == 30
    assert len(world.recordings()) == 30


def test_where_nothing_is_new_only_the_listing_asks_the_source(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A client reads the credential and prepares TLS, which a batch without work would do for nothing."""
    world.account("ana@example.com")
    source = Demo(calls(30))
    assert world.run(source).success
    opened: list[str] = []

    def open_http(context: dg.OpExecutionContext, *_: Any) -> HttpClient:
        opened.append(context.op_def.name)
        return no_http()

    for stage in ("fetch", "transform"):
        monkeypatch.setattr(sys.modules[f"import_pipeline.stages.{stage}"], "open_http", open_http)
    source.look_back = timedelta(days=3650)
    again = world.run(source)
    assert summary_of(again).counts == Counts(listed=30, skipped=30)
    assert opened == ["fetch"]


def test_the_cursor_moves_to_the_time_the_run_began_and_the_next_run_looks_back_from_it(world: World) -> None:
    ana = world.account("ana@example.com")
    source = Demo(calls(1))
    world.run(source)
    cursor = world.cursor(ana)
    assert cursor is not None
    assert source.windows[0][1].end == cursor
    assert source.windows[-1][1].start == source.history_start
    source.windows.clear()
    world.run(source)
    ((_, window),) = source.windows
    assert window.start == cursor - source.look_back


def test_a_full_run_lists_the_whole_history_and_the_cursor_still_only_moves_forward(world: World) -> None:
    ana = world.account("ana@example.com")
    source = Demo(calls(3))
    world.run(source)
    world.do("update import_sources set last_sync_at = now() + interval '1 day'")
    cursor = world.cursor(ana)
    source.windows.clear()
    assert summary_of(world.run(source, full=True)).counts == Counts(listed=3, skipped=3)
    assert source.windows[-1][1].start == source.history_start
    assert world.cursor(ana) == cursor


def test_sync_jobs_tells_what_a_run_did(world: World) -> None:
    """F84: every figure is that of the ledger."""
    world.account("ana@example.com")
    source = Demo(calls(3))
    source.calls[None][0].error = ItemError("It is broken.")
    result = world.run(source)
    (job,) = world.jobs()
    assert job["status"] == "completed_with_errors"
    assert (job["progress_current"], job["progress_total"], job["skipped_count"]) == (3, 3, 0)
    assert job["synced_ids"] == ["call-001", "call-002"]
    assert job["failed_ids"] == ["call-000"]
    assert job["error"] == "1 failed"
    assert job["completed_at"] is not None
    assert job["metadata"]["run_id"] == result.run_id
    assert job["metadata"]["counts"] == {
        "listed": 3, "inserted": 2, "skipped": 0, "waiting": 0, "failed": 1, "ignored": 0,
    }  # fmt: skip


def test_on_an_older_installation_only_ids_that_fit_go_into_the_integer_arrays(world: World) -> None:
    world.account("ana@example.com")
    for column in ("recording_ids", "synced_ids", "failed_ids"):
        world.do(f"alter table sync_jobs alter column {column} drop default")
        world.do(f"alter table sync_jobs alter column {column} type integer[] using '{{}}'::integer[]")
        world.do(f"alter table sync_jobs alter column {column} set default '{{}}'")
    source = Demo([Call("17"), Call("99999999999"), Call("abc"), Call("²"), Call("-1")])
    assert world.run(source).success
    ((ids,),) = world.rows("select synced_ids from sync_jobs")
    assert ids == [17]


def test_the_asset_is_materialised_with_the_counts(world: World) -> None:
    world.account("ana@example.com")
    result = world.run(Demo(calls(2)))
    (event,) = result.asset_materializations_for_node("report")
    assert event.asset_key == dg.AssetKey(["recordings", "demo"])
    assert event.metadata["imported"].value == 2
    assert event.description == "2 listed, 2 imported, 0 already there, 0 waiting, 0 failed"


def test_without_accounts_a_run_is_green_and_says_that_there_was_nothing_to_do(world: World) -> None:
    result = world.run(Demo(calls(1)))
    assert result.success
    assert world.recordings() == []


def test_the_same_id_in_two_sources_is_two_calls(world: World) -> None:
    """F5."""
    ana = world.account("ana@example.com")
    world.connect(ana, "demo-other")
    assert world.run(Demo(calls(2))).success
    assert world.run(OtherDemo(calls(2))).success
    assert world.rows("select source_app, count(*) from recordings group by 1 order by 1") == [
        ("demo", 2),
        ("demo-other", 2),
    ]


def test_a_run_of_one_user_leaves_the_others_alone(world: World) -> None:
    ana, ben = world.account("ana@example.com"), world.account("ben@example.com")
    source = Demo(calls(1))
    world.run(source, users=["ANA@example.com", str(ana.id)])
    assert world.rows("select owner_user_id from recordings") == [(ana.id,)]
    assert world.cursor(ben) is None


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"users": ["nobody@example.com"]}, "No user has the e-mail address"),
        ({"users": ["ben@example.com"]}, "has no account at Demo"),
        ({"users": [str(uuid4())]}, "has no account at Demo"),
        ({"options": {"colour": "red"}}, "knows no option colour"),
    ],
    ids=["unknown address", "no account", "unknown id", "unknown option"],
)
def test_a_wrong_configuration_fails_before_anything_is_opened(
    world: World, config: dict[str, Any], message: str
) -> None:
    world.account("ana@example.com")
    tenants.make_user(world.conn, "ben@example.com")
    result = world.run(Demo(calls(1)), **config)
    assert message in problem_of(result, "connect")
    assert world.jobs() == []


def test_batches_go_to_the_database_one_after_the_other(world: World) -> None:
    """The first calls are visible early, and a crash costs one batch."""
    world.account("ana@example.com")
    order = [step for step in steps(world.run(Demo(calls(450)))) if "[" in step]
    assert order == [f"{op}[0_{number:05d}]" for number in range(3) for op in ("dedup", "transform", "insert")]


def test_large_items_come_in_smaller_batches(world: World) -> None:
    """F78."""
    world.account("ana@example.com")
    source = Demo(
        [Call(f"call-{n}", START + n * timedelta(hours=1), values={"size_bytes": 30_000_000}) for n in range(7)]
    )
    result = world.run(source)
    assert result.success
    assert sum(step.startswith("insert[") for step in steps(result)) == 3
    assert len(world.recordings()) == 7


def test_concurrent_requests_stay_within_the_connectors_limit_and_in_order(world: World) -> None:
    world.account("ana@example.com")
    source = ConcurrentDemo(calls(40))
    source.meet = threading.Barrier(4)  # goes on only when four requests have met
    assert world.run(source).success
    assert source.busy == 4
    assert len(world.recordings()) == 40


# --- listings -----------------------------------------------------------------------------------------------------


def test_shifting_pages_and_repeated_items_become_one_recording_each(world: World) -> None:
    """F9 and F22, within one batch and across batches."""
    world.account("ana@example.com")
    source = Demo(calls(250))
    source.shuffle = lambda own: [*own[:120], *own[100:], *own[:130]]
    result = world.run(source)
    assert result.success
    assert summary_of(result).counts == Counts(listed=400, inserted=250, skipped=150)
    assert len(world.recordings()) == 250
    assert len(source.asked) == 250
    (job,) = world.jobs()
    assert (job["progress_current"], job["progress_total"], job["skipped_count"]) == (400, 400, 150)


@pytest.mark.parametrize(
    ("after", "error"),
    [(0, None), (7, RuntimeError("CANARY")), (200, None), (207, ImportPipelineError(" "))],
    ids=["at once", "by a bug", "between two batches", "without a word"],
)
def test_a_listing_that_breaks_off_keeps_what_was_listed_and_the_cursor_stays(
    world: World, after: int, error: BaseException | None
) -> None:
    """F23 and F26: and the run is red, because something is missing."""
    ana = world.account("ana@example.com")
    source = Demo(calls(210))
    source.breaks_after[ana.id] = after
    source.listing_error = error or source.listing_error
    result = world.run(source)
    assert not result.success
    assert "ana@example.com" in problem_of(result)
    assert "CANARY" not in problem_of(result)
    assert len(world.recordings()) == after
    assert world.cursor(ana) is None
    (job,) = world.jobs()
    assert job["status"] == "failed"
    assert job["error"]
    assert world.rows("select error_message is null from import_sources") == [(False,)]

    source.breaks_after.clear()
    assert world.run(source).success
    assert len(world.recordings()) == 210
    assert world.cursor(ana) is not None
    assert world.rows("select error_message is null from import_sources") == [(True,)]


def test_a_broken_listing_of_one_account_does_not_harm_another(world: World) -> None:
    ana, ben = world.account("ana@example.com"), world.account("ben@example.com")
    source = Demo(calls(3))
    source.breaks_after[ana.id] = 1
    result = world.run(source)
    assert not result.success
    assert "503" in problem_of(result)
    assert world.cursor(ana) is None
    assert world.cursor(ben) is not None
    assert world.rows("select count(*) from recordings where owner_user_id = %s", ben.id) == [(3,)]
    assert sorted(job["status"] for job in world.jobs()) == ["completed", "failed"]


BAD_ITEMS: dict[str, tuple[Any, dict[str, Any]]] = {
    "no id": (None, {}),
    "an empty id": ("", {}),
    "a number for an id": (42, {}),
    "an id of 9,000 characters": ("x" * 9000, {}),
    "an id with a lone surrogate": ("a\ud800", {}),
    "an id with NUL": ("a\0", {}),
    "details that are no object": ("ok", {"details": [1]}),
    "details that are not JSON": ("ok", {"details": {"x": b"x"}}),
    "circular details": ("ok", {"details": demo.CIRCULAR}),
    "a naive start": ("ok", {"started_at": datetime(2024, 1, 1)}),  # noqa: DTZ001
    "a number for a title": ("ok", {"title": 5}),
    "a provisional id with a surrogate": ("ok", {"provisional_id": "\udfff"}),
}


def test_items_that_cannot_even_be_staged_fail_alone(world: World) -> None:
    """F4 and F72: their neighbours in the batch are imported."""
    ana = world.account("ana@example.com")
    bad = [
        Call(key if key != "ok" else f"ok-{number}", START + timedelta(hours=number), values=values)
        for number, (key, values) in enumerate(BAD_ITEMS.values())
    ]
    source = UnpartitionedDemo([*calls(2), *bad])
    result = world.run(source)
    assert f"{len(bad)} failed" in problem_of(result)
    assert world.recordings() == ["call-000", "call-001"]
    ledger = {key: row for key, row in world.ledger().items() if row[0] != "imported"}
    assert len(ledger) == len(bad)
    assert {row[:2] for row in ledger.values()} == {("failed", "data")}
    assert all(key.startswith(("ok-", "sha256:")) for key in ledger)
    assert ledger[ledger_key("x" * 9000)][2] == "The external id is 9,000 bytes long; at most 512 are accepted."
    assert world.cursor(ana) is not None
    world.due_now()
    world.run(source)
    assert world.rows("select count(*), min(attempts) from import_items where status = 'failed'") == [(len(bad), 2)]


def test_items_without_an_id_are_failures_of_their_own(world: World) -> None:
    """F4 and F83: the second must not pass for a copy of the first."""
    world.account("ana@example.com")
    result = world.run(Demo([Call(None, START), Call(None, START + timedelta(hours=1))]))
    assert "2 failed" in problem_of(result)
    assert len(world.ledger()) == 2


def test_titles_and_places_with_odd_characters_are_staged_and_stored(world: World) -> None:
    """F69 and F70."""
    world.account("ana@example.com")
    odd = {"title": "a\0\ud800🎉", "location": "/x/\udcff", "details": {"k\0": "\udc00"}}
    assert world.run(Demo([Call("odd", values=odd)])).success
    assert world.rows("select location from import_items") == [("/x/\ufffd",)]


# --- outcomes -----------------------------------------------------------------------------------------------------


CLASSES: list[ErrorClass] = ["auth", "rate", "transient", "data", "permanent", "bug"]


def test_an_item_of_every_class_of_failure_makes_the_run_red_after_all_good_was_committed(world: World) -> None:
    ana = world.account("ana@example.com")
    source = Demo(calls(12))
    for call, error_class in zip(source.calls[None][::2], CLASSES, strict=True):
        call.error = ItemError(f"Something of class {error_class}.", error_class=error_class)
    result = world.run(source)
    assert not result.success
    assert "6 failed" in problem_of(result)
    assert len(world.recordings()) == 6
    ledger = world.ledger()
    assert [ledger[f"call-{number:03d}"] for number in range(0, 12, 2)] == [
        ("failed", error_class, f"Something of class {error_class}.") for error_class in CLASSES
    ]
    assert world.cursor(ana) is not None  # F23: failures are asked for again by the ledger and not by the cursor
    assert world.jobs()[0]["status"] == "completed_with_errors"
    assert world.rows("select count(*) from import_items where status = 'failed' and retry_at > now()") == [(6,)]


def test_failed_items_are_not_tried_before_their_time_and_then_imported(world: World) -> None:
    """F23 and F61."""
    world.account("ana@example.com")
    source = UnpartitionedDemo(calls(2))
    source.calls[None][0].error = ItemError("Not now.", error_class="transient")
    assert not world.run(source).success
    source.calls[None][0].error = None
    source.asked.clear()
    early = world.run(source)
    assert source.asked == []
    assert early.success
    assert summary_of(early).counts == Counts(listed=2, skipped=1, waiting=1)
    world.due_now()
    assert world.run(source).success
    assert source.asked == ["call-000"]
    assert world.ledger()["call-000"] == ("imported", None, None)
    assert world.rows("select attempts from import_items where external_id = 'call-000'") == [(2,)]


def test_a_repeated_failure_counts_its_attempts_and_turns_the_run_red_again(world: World) -> None:
    world.account("ana@example.com")
    source = UnpartitionedDemo(calls(1))
    source.calls[None][0].error = ItemError("Broken.")
    for attempt in (1, 2, 3):
        assert "1 failed" in problem_of(world.run(source))
        assert world.rows("select attempts from import_items") == [(attempt,)]
        world.due_now()


class MuteError(ItemError):
    __doc__ = None


ODD_ENDS: dict[str, tuple[dict[str, Any], str, str, str]] = {
    "a bug": ({"error": RuntimeError(CANARY)}, "failed", "bug", "RuntimeError at demo.py"),
    "a bug that says nothing": ({"error": KeyError()}, "failed", "bug", "KeyError"),
    "running out of an iterator": ({"error": StopIteration()}, "failed", "bug", "StopIteration"),
    "running out of memory": ({"error": MemoryError()}, "failed", "bug", "MemoryError"),
    "too deep a recursion": ({"error": RecursionError(CANARY)}, "failed", "bug", "RecursionError"),
    "the record of another item": ({"fields": {"external_id": "other"}}, "failed", "bug", "record of another item"),
    "the record of another source": ({"fields": {"source_app": "x"}}, "failed", "bug", "record of another item"),
    "something that is no record": ({"answer": {"title": "x"}}, "failed", "bug", "please report it"),
    "an empty transcript": ({"transcript": " "}, "failed", "data", "no transcript"),
    "a naive start": ({"fields": {"recording_start_time": "2024-01-01"}}, "failed", "data", "no time zone"),
    "metadata that are too deep": (
        {"fields": {"source_metadata": demo.CIRCULAR}}, "failed", "data", "nested too deeply",
    ),
    "a reason with odd characters": ({"error": ItemError("a\0b\ud800")}, "failed", "data", "a b"),
    "a reason of a megabyte": ({"error": ItemError("x" * 1_000_000)}, "failed", "data", "x" * LONGEST_REASON + "…"),
    "no reason": ({"error": MuteError()}, "failed", "data", "MuteError"),
    "a class that is none": ({"error": ItemError("x", error_class="odd")}, "failed", "bug", "x"),  # type: ignore[arg-type]
    "ignored": ({"error": IgnoredItemError("A test call.")}, "ignored", "", "A test call."),
    "not ready, of an unknown time": ({"error": NotReadyError("Wait."), "started_at": None}, "waiting", "", "Wait."),
    "not ready, at the end of the calendar": (
        {"error": NotReadyError("Wait."), "values": {"started_at": datetime.max.replace(tzinfo=UTC)}},
        "waiting", "", "Wait.",
    ),
}  # fmt: skip


def test_every_way_an_item_can_end_has_its_reason_and_harms_no_neighbour(world: World) -> None:
    world.account("ana@example.com")
    source = UnpartitionedDemo(calls(200))
    for number, (values, *_) in enumerate(ODD_ENDS.values()):
        call = source.calls[None][number * 3]
        for name, value in values.items():
            if name == "started_at":
                call.values = {"started_at": value}
            else:
                setattr(call, name, value)
    world.run(source)
    ledger = world.ledger()
    for number, (name, (_, status, error_class, message)) in enumerate(ODD_ENDS.items()):
        found = ledger.pop(f"call-{number * 3:03d}")
        assert (found[0], found[1] or "") == (status, error_class), name
        assert message in (found[2] or ""), name
        assert CANARY not in (found[2] or ""), name
    assert {row[0] for row in ledger.values()} == {"imported"}
    assert len(world.recordings()) == len(ledger) == 200 - len(ODD_ENDS)


def test_records_that_the_database_refuses_fail_with_its_reason_and_without_the_row(world: World) -> None:
    """F71 and F88."""
    world.account("ana@example.com")
    world.do("alter table recordings add constraint test_title check (title <> 'forbidden')")
    source = Demo(calls(20))
    source.calls[None][3].fields = {"title": "forbidden", "full_transcript": CANARY}
    assert not world.run(source).success
    status, error_class, message = world.ledger()["call-003"]
    assert (status, error_class) == ("failed", "data")
    assert "23514" in (message or "")
    assert CANARY not in (message or "")
    assert len(world.recordings()) == 19


def test_a_waiting_item_is_not_asked_for_before_its_time_and_imported_when_it_is_ready(world: World) -> None:
    """F31 and F32: a transcript that comes late is neither a failure nor stored empty."""
    ana = world.account("ana@example.com")
    began = datetime.now(UTC) - timedelta(hours=1)
    source = Demo([Call("late", began, error=NotReadyError("The transcript is being made."))])
    source.look_back = timedelta(0)
    first = world.run(source)
    assert first.success  # an item that merely waits is not a failure
    assert summary_of(first).counts == Counts(listed=1, waiting=1)
    assert world.jobs()[0]["status"] == "completed"
    assert world.recordings() == []
    assert world.ledger()["late"] == ("waiting", None, "The transcript is being made.")

    source.calls[None][0].error = None
    source.asked.clear()
    second = world.run(source)
    assert source.asked == []
    # The listing goes back to the oldest waiting item, although the cursor and the look-back are past it.
    assert summary_of(second).counts == Counts(listed=1, waiting=1)
    assert world.cursor(ana) is not None

    world.due_now()
    assert summary_of(world.run(source)).counts == Counts(listed=1, inserted=1)
    assert world.recordings() == ["late"]
    assert world.ledger()["late"] == ("imported", None, None)


def test_a_failed_item_is_listed_again_once_it_is_due_however_long_ago_it_began(world: World) -> None:
    """F23: past the look-back it was never listed again, so that neither time nor a retry could bring it in."""
    world.account("ana@example.com")
    source = Demo([Call("old", datetime.now(UTC) - timedelta(days=90), error=ItemError("Broken."))])
    assert "1 failed" in problem_of(world.run(source))
    source.calls[None][0].error = None
    assert summary_of(world.run(source)).counts == Counts(), "not due, and past the look-back"
    world.due_now()
    assert summary_of(world.run(source)).counts == Counts(listed=1, inserted=1)


def test_an_open_item_that_is_no_longer_listed_is_given_up_after_the_deadline(world: World) -> None:
    """Else every run would list from there for ever, and `status` would show it waiting for ever."""
    world.account("ana@example.com")
    now = datetime.now(UTC)
    waits = NotReadyError("The transcript is being made.")
    source = Demo([Call(name, now - timedelta(days=days), error=waits) for name, days in (("old", 5), ("new", 1))])
    source.look_back = timedelta(0)
    world.run(source)
    source.calls[None].clear()
    world.run(source)
    assert {status for status, *_ in world.ledger().values()} == {"waiting"}, "neither is due yet"
    world.due_now()
    source.transcript_deadline = timedelta(days=3)  # type: ignore[misc]
    world.run(source)
    assert world.ledger()["new"][0] == "waiting"
    assert world.ledger()["old"][:2] == ("failed", "permanent")
    assert "no longer lists it" in str(world.ledger()["old"][2])


def test_after_the_deadline_a_waiting_item_has_failed_with_the_reason(world: World) -> None:
    world.account("ana@example.com")
    now = datetime.now(UTC)
    source = Demo(
        [
            Call("old", now - timedelta(days=7, minutes=1), error=NotReadyError("No transcript yet.")),
            Call("young", now - timedelta(days=6, hours=23), error=NotReadyError("No transcript yet.")),
        ]
    )
    result = world.run(source)
    assert "1 failed" in problem_of(result)
    ledger = world.ledger()
    assert ledger["old"] == (
        "failed",
        "permanent",
        "No transcript yet. (still so 7 days after the call; the limit is 7)",
    )
    assert ledger["young"][0] == "waiting"


def test_without_a_start_the_deadline_counts_from_the_first_listing(world: World) -> None:
    world.account("ana@example.com")
    source = UnpartitionedDemo([Call("x", error=NotReadyError("No."), values={"started_at": None})])
    world.run(source)
    assert world.statuses() == {"x": "waiting"}
    world.do("update import_items set first_seen_at = now() - interval '8 days'")
    world.due_now()
    world.run(source)
    assert world.statuses() == {"x": "failed"}


def test_pauses_grow_up_to_a_limit() -> None:
    now = datetime(2024, 1, 1, tzinfo=UTC)
    looks = [next_look_at(now, attempts) - now for attempts in range(40)]
    assert looks == sorted(looks)
    assert looks[0] == timedelta(minutes=5)
    assert looks[-1] == timedelta(hours=6)
    for error_class in CLASSES:
        pauses = [next_attempt_at(now, error_class, attempts) - now for attempts in range(40)]
        assert pauses == sorted(pauses)
        assert pauses[-1] == timedelta(days=30)


def test_an_ignored_item_is_not_asked_for_again(world: World) -> None:
    world.account("ana@example.com")
    source = UnpartitionedDemo([Call("test-call", error=IgnoredItemError("A test call."))])
    assert world.run(source).success
    assert summary_of(world.runs[0]).counts == Counts(listed=1, ignored=1)
    assert summary_of(world.run(source)).counts == Counts(listed=1, ignored=1)
    assert source.asked == ["test-call"]


# --- what is there already ----------------------------------------------------------------------------------------


def test_a_deleted_recording_stays_deleted_until_it_is_asked_for(world: World) -> None:
    """F14."""
    ana = world.account("ana@example.com")
    source = UnpartitionedDemo(calls(3))
    world.run(source)
    with tenants.as_user(world.conn, ana.id):
        world.conn.execute("delete from recordings where source_metadata ->> 'external_id' = 'call-001'")
    source.asked.clear()
    for _ in range(2):
        result = world.run(source)
        assert result.success
        assert summary_of(result).counts == Counts(listed=3, skipped=2, ignored=1)
        assert "deleted in the library" in (world.ledger()["call-001"][2] or "")
    assert source.asked == []
    assert world.recordings() == ["call-000", "call-002"]

    with acting_as(world.conn, ana.id, writes=("import_items",)):
        asked = request_retry(world.conn, ana.id, "demo", ["call-001"])
    assert [row["external_id"] for row in asked] == ["call-001"]
    assert summary_of(world.run(source)).counts == Counts(listed=3, inserted=1, skipped=2)
    assert world.recordings() == ["call-000", "call-001", "call-002"]


def test_a_recording_deleted_before_the_next_run_can_be_asked_for_at_once(world: World) -> None:
    ana = world.account("ana@example.com")
    source = UnpartitionedDemo(calls(1))
    world.run(source)
    world.do("delete from recordings")
    with acting_as(world.conn, ana.id, writes=("import_items",)):
        assert request_retry(world.conn, ana.id) == []  # not by the sweeping form
        assert len(request_retry(world.conn, ana.id, external_ids=["call-000"])) == 1
    assert summary_of(world.run(source)).counts.inserted == 1


def record_of(external_id: str, **values: Any) -> ConnectorRecord:
    given: dict[str, Any] = {"title": "x", "full_transcript": "x", "recording_start_time": START}
    return ConnectorRecord(external_id, "demo", **(given | values))


def test_a_recording_that_an_explicit_call_brought_back_is_linked_again(world: World) -> None:
    """F14: the tombstone speaks of the old row only."""
    ana = world.account("ana@example.com")
    source = UnpartitionedDemo(calls(1))
    world.run(source)
    for _ in range(2):  # once with the tombstone as the deletion leaves it, once as a run has noted it
        world.do("delete from recordings")
        if _:
            world.run(source)
            assert world.statuses() == {"call-000": "ignored"}
        again = run_pipeline(world.conn, ana.id, record_of("call-000"))
        assert again.success
        source.asked.clear()
        assert summary_of(world.run(source)).counts == Counts(listed=1, skipped=1)
        assert source.asked == []
        assert world.rows("select status, recording_id, error_message from import_items") == [
            ("imported", again.recording_id, None)
        ]


def test_what_dedup_finds_in_the_library_but_not_in_the_ledger_it_adds(world: World) -> None:
    ana = world.account("ana@example.com")
    there = run_pipeline(world.conn, ana.id, record_of("call-000"))
    source = Demo(calls(2))
    assert summary_of(world.run(source)).counts == Counts(listed=2, inserted=1, skipped=1)
    assert source.asked == ["call-001"]
    assert world.rows("select recording_id, attempts, run_id from import_items where external_id = 'call-000'") == [
        (there.recording_id, 0, None)
    ]


def test_a_failed_item_that_somebody_imported_meanwhile_is_not_asked_for_again(world: World) -> None:
    ana = world.account("ana@example.com")
    source = UnpartitionedDemo(calls(1))
    source.calls[None][0].error = ItemError("Broken.")
    world.run(source)
    run_pipeline(world.conn, ana.id, record_of("call-000"))
    source.asked.clear()
    result = world.run(source)
    assert result.success
    assert summary_of(result).counts == Counts(listed=1, skipped=1)
    assert source.asked == []
    assert world.statuses() == {"call-000": "imported"}


def test_when_no_check_works_everything_is_taken_for_new_and_nothing_comes_twice(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    """F2: a broken check costs work and blocks nothing; the unique index decides."""
    ana = world.account("ana@example.com")
    source = Demo(calls(5))
    world.run(source)
    (account,) = opened(world, source, "run-2", ana)
    items = [ListedItem(call.external_id) for call in source.calls[None]]
    world.do("revoke select on recordings, import_items from import_worker")
    with caplog.at_level(logging.WARNING):
        counts, new = leave_out_known(world.conn, account, items, always_attempt=False)
    assert counts == Counts(listed=5)
    assert new == [NewItem(item) for item in items]
    assert "ledger could not be asked" in caplog.text
    assert "duplicate check" in caplog.text
    world.do("grant select on recordings, import_items to import_worker")
    outcomes = list(transform_items(source, account, new, no_http(), account.opened_at))
    assert write_outcomes(world.conn, account, "run-2", outcomes)[0] == Counts(skipped=5)
    assert len(world.recordings()) == 5


def turns_of(world: World, account: Account, run_id: str, outcomes: list[Outcome]) -> tuple[int, Counts]:
    """Write a chunk, and return how often the server was ready for more; it is waited for at most as often."""
    turns = 0

    def count(event: Event) -> None:
        nonlocal turns
        turns += event.sender == "server" and event.kind == "Z"

    with (
        Proxy.before(world.url) as proxy,
        psycopg.connect(proxy.through(world.url), **connection_settings()) as conn,
    ):
        is_path_open(conn)  # asked once per connection
        proxy.rules.append(count)
        counts, _ = write_outcomes(conn, account, run_id, outcomes)
        return turns, counts


def test_new_calls_are_written_in_few_turns_and_a_bad_one_among_them_only_costs_more(world: World) -> None:
    """Over a slow line the turns are what an import takes."""
    ana = world.account("ana@example.com")
    (account,) = opened(world, Demo(), "run-1", ana)
    good = [Ready(ListedItem(f"good {n}"), normalise_record(record_of(f"good {n}"))) for n in range(250)]
    failed = Failed(ListedItem("broken"), "data", "It is broken.")
    few, counts = turns_of(world, account, "run-1", [*good, failed])
    assert counts == Counts(inserted=250, failed=1)
    assert 0 < few <= 10
    world.do(
        "create function public.refuse() returns trigger language plpgsql as"
        " $$ begin if new.title = 'bad' then raise 'no'; end if; return new; end $$"
    )
    world.do("create trigger refuse before insert on public.recordings for each row execute function refuse()")
    more = [Ready(ListedItem(f"more {n}"), normalise_record(record_of(f"more {n}"))) for n in range(9)]
    bad = Ready(ListedItem("bad"), normalise_record(record_of("bad", title="bad")))
    many, counts = turns_of(world, account, "run-1", [*more, bad])
    assert counts == Counts(inserted=9, failed=1)
    assert many > few
    assert len(world.recordings()) == 259
    assert world.rows("select count(*) from vault_entries where vault_id = %s", ana.vault_id) == [(259,)]


def test_of_a_chunk_with_a_bad_record_only_the_failure_is_told(world: World, caplog: pytest.LogCaptureFixture) -> None:
    """The error comes when others are on their way already; the driver would log what it did to them."""
    (account,) = opened(world, Demo(), "run-1", world.account("ana@example.com"))
    world.do(
        "create function public.refuse() returns trigger language plpgsql as"
        " $$ begin if new.title = 'bad' then raise 'no'; end if; return new; end $$"
    )
    world.do("create trigger refuse before insert on public.recordings for each row execute function refuse()")
    text = "x" * 3_000_000  # each is sent by itself, and its end still waits to be sent when the error comes
    chunk = [
        Ready(ListedItem(name), normalise_record(record_of(name, title=name, full_transcript=text)))
        for name in ("bad", "c", "d", "e", "f", "g", "h", "i")
    ]
    with BoundedConnection.connect(world.url, **connection_settings()) as conn:
        conn.longest_statement_seconds = 20
        for number in range(3):
            counts, _ = write_outcomes(conn, account, f"run-{number}", chunk)
            assert (counts.inserted + counts.skipped, counts.failed) == (7, 1)
    assert [each for each in caplog.records if each.name.startswith("psycopg")] == []


def test_what_was_deleted_stays_deleted_when_the_owner_changes_a_column_while_a_run_goes_on(world: World) -> None:
    (account,) = opened(world, Demo(), "run-1", world.account("ana@example.com"))
    items = [ListedItem("deleted"), ListedItem("kept")]
    with BoundedConnection.connect(world.url, **connection_settings()) as conn:
        for item in items:
            write_outcomes(conn, account, "run-1", [Ready(item, normalise_record(record_of(item.external_id)))])
        for _ in range(10):
            assert leave_out_known(conn, account, items, always_attempt=False)[0].skipped == 2
        world.do("delete from public.recordings where source_metadata ->> 'external_id' = 'deleted'")
        world.do("alter table public.import_items alter column error_message type varchar(9000)")
        _, remaining = leave_out_known(conn, account, items, always_attempt=False)
    assert [type(each) for each in remaining] == [Ignored]


def test_statements_larger_than_any_buffer_between_us_and_the_server_get_there(world: World) -> None:
    """Else each side would wait for the other."""
    ana = world.account("ana@example.com")
    (account,) = opened(world, Demo(), "run-1", ana)
    text = "x" * 30_000
    items = [ListedItem(f"{n}" * 80, "t" * 1_000, location="l" * 16_000) for n in range(250)]
    outcomes = [Ready(item, normalise_record(record_of(item.external_id, full_transcript=text))) for item in items]
    assert write_outcomes(world.conn, account, "run-1", outcomes)[0] == Counts(inserted=250)
    asked = [f"{n}" * 80 for n in range(20_000)]
    found = check_duplicates(world.conn, ana.id, "demo", asked)
    assert sum(answer.is_duplicate for answer in found.values()) == 250


def test_a_vault_entry_that_failed_is_repaired_by_the_next_run(world: World) -> None:
    """F12: the recording stays, the failure is noted and told, and nothing is fetched again."""
    ana = world.account("ana@example.com")
    source = UnpartitionedDemo(calls(3))
    world.do("create function public.refuse() returns trigger language plpgsql as $$ begin raise 'no entry'; end $$")
    world.do("create trigger refuse before insert on public.vault_entries for each row execute function refuse()")
    first = world.run(source)
    assert first.success
    assert summary_of(first).accounts[0].without_vault_entry == 3
    assert world.jobs()[0]["metadata"]["without_vault_entry"] == 3
    assert len(world.recordings()) == 3
    assert all("stored without a vault entry" in (row[2] or "") for row in world.ledger().values())
    still = world.run(source)
    assert summary_of(still).accounts[0].without_vault_entry == 3

    world.do("drop function public.refuse() cascade")
    source.asked.clear()
    repaired = world.run(source)
    assert repaired.success
    assert summary_of(repaired).counts == Counts(listed=3, skipped=3)
    assert summary_of(repaired).accounts[0].without_vault_entry == 0
    assert source.asked == []
    assert world.rows("select count(*) from vault_entries where vault_id = %s", ana.vault_id) == [(3,)]
    assert {row[1:] for row in world.ledger().values()} == {(None, None)}


def test_copies_of_one_content_are_one_import_however_the_batch_is_cut(world: World) -> None:
    """F84: a copy beyond the bound of one transaction was counted as a second import."""
    ana = world.account("ana@example.com")
    (account,) = opened(world, Demo(), "run-1", ana)
    text = "x" * CHUNK_CHARACTERS
    outcomes = [
        Ready(ListedItem("same", provisional_id=f"file:///{n}"), record_of("same", full_transcript=text))
        for n in range(3)
    ]
    chunks = list(cut_chunks(outcomes))
    assert len(chunks) == 3
    total = Counts()
    counted: set[str] = set()
    for chunk in chunks:
        total += write_outcomes(world.conn, account, "run-1", chunk, counted)[0]
    assert total == Counts(inserted=1, skipped=2)
    again = Counts()
    counted = set()
    for chunk in chunks:  # as after a crash between commit and answer
        again += write_outcomes(world.conn, account, "run-1", chunk, counted)[0]
    assert again == total


def opened(world: World, connector: Demo, run_id: str, *users: tenants.User) -> list[Account]:
    storage = Storage(PostgresResource(url=world.url).connection, is_embedded=False)
    emails = [user.email for user in users]
    leases = LeaseKeeper(storage.connect, run_id, "live", lambda _: False)
    return open_accounts(connector, storage, emails, {}, leases, wait_seconds=0)


@pytest.mark.parametrize("ends", ["broken", "closed"])
def test_a_batch_that_ends_early_lets_none_of_its_threads_wait_on(ends: str) -> None:
    """F60: one may wait for minutes until its provider allows the next request."""
    patience = Patience()
    http = HttpClient("Demo", "", patience=patience)
    woken: list[str] = []

    class Waiting(ConcurrentDemo):
        def fetch_record(self, account: Account, item: ListedItem, http: HttpClient) -> ConnectorRecord:
            if item.external_id == "call-000":
                return super().fetch_record(account, item, http)
            if item.external_id == "call-001" and ends == "broken":
                raise SourceUnavailableError("It is down.")
            try:
                patience.sleep(200)
            except StoppedError:
                woken.append(item.external_id)
                raise
            raise AssertionError("unreachable")

    source = Waiting(calls(10))
    account = Account(uuid4(), uuid4(), "demo", "ana", START)
    items = [NewItem(ListedItem(f"call-{number:03d}")) for number in range(10)]
    outcomes = transform_items(source, account, items, http, START)
    assert isinstance(next(iter(outcomes)), Ready)
    if ends == "broken":
        with pytest.raises(SourceUnavailableError):
            next(iter(outcomes))
    else:
        outcomes.close()  # type: ignore[attr-defined]
    assert "call-002" in woken


def test_chunks_are_bounded_by_rows_and_by_characters_and_keep_the_order() -> None:
    """F77 and F78."""

    def ready(number: int, length: int) -> Ready:
        return Ready(ListedItem(str(number)), record_of(str(number), full_transcript="x" * length))

    small = [ready(number, 1) for number in range(CHUNK_ROWS + 1)]
    assert [len(chunk) for chunk in cut_chunks(small)] == [CHUNK_ROWS, 1]
    large = [ready(0, 10), ready(1, CHUNK_CHARACTERS), ready(2, CHUNK_CHARACTERS + 5), ready(3, 10), ready(4, 10)]
    assert [[int(one.item.external_id) for one in chunk] for chunk in cut_chunks(large)] == [[0, 1], [2], [3, 4]]
    assert list(cut_chunks([])) == []


# --- broken steps, crashes, re-execution --------------------------------------------------------------------------


def test_a_source_that_is_down_breaks_its_batch_and_the_others_are_committed(world: World) -> None:
    """F85: nothing shows as running for ever, and the figures are those of the ledger."""
    ana = world.account("ana@example.com")
    source = Demo(calls(600))
    source.is_down = {"call-300"}  # in the second of four batches, newest first
    result = world.run(source)
    assert not result.success
    assert "503" in problem_of(result, "transform[0_00001]")
    assert "report" not in steps(result)
    assert len(world.recordings()) == 350
    (job,) = world.jobs()
    assert job["status"] == "processing"
    assert world.settle() == [result.run_id]
    assert world.cursor(ana) is None
    (job,) = world.jobs()
    assert job["status"] == "failed"
    assert "broke off" in job["error"]
    assert (job["progress_current"], job["progress_total"]) == (350, 600)
    assert job["metadata"]["counts"]["inserted"] == 350
    assert len(job["synced_ids"]) == 350

    source.is_down = set()
    source.asked.clear()
    assert world.run(source).success
    assert len(source.asked) == 250
    assert len(world.recordings()) == 600


def test_re_execution_from_failure_repeats_only_the_batch_that_broke(
    conn: psycopg.Connection[Any], database_url: str, tmp_path: Path
) -> None:
    conn.autocommit = True
    with dg.instance_for_test() as instance:
        world = World(conn, database_url, tmp_path / "staging", instance)
        ana = world.account("ana@example.com")
        source = Demo(calls(600))
        source.is_down = {"call-300"}
        job = demo.reconstructable(world.job(source))
        with dg.execute_job(job, instance, raise_on_error=False) as first:
            assert not first.success
        assert world.settle() == [first.run_id]
        assert world.jobs()[0]["status"] == "failed"
        source.is_down = set()
        source.asked.clear()
        options = dg.ReexecutionOptions.from_failure(first.run_id, instance)
        with dg.execute_job(job, instance, reexecution_options=options) as second:
            assert second.success
            started = [event.step_key for event in second.all_events if event.event_type_value == "STEP_START"]
            assert started == ["transform[0_00001]", "insert[0_00001]", "report"]
            assert second.output_for_node("report").counts == Counts(listed=600, inserted=600)
        assert len(source.asked) == 250
        assert len(world.recordings()) == 600
        assert world.cursor(ana) is not None
        (row,) = world.jobs()
        assert row["status"] == "completed"
        assert row["error"] is None
        assert (row["progress_current"], row["progress_total"]) == (600, 600)
        assert len(row["synced_ids"]) == 600
        assert world.rows("select count(*) from import_pipeline.leases") == [(0,)]
        assert transcripts_staged(world) == []


def test_who_re_executes_a_run_asks_for_what_failed_in_it_again(
    conn: psycopg.Connection[Any], database_url: str, tmp_path: Path
) -> None:
    """At once, though its next attempt is not due for a day; what was imported is passed over."""
    conn.autocommit = True
    with dg.instance_for_test() as instance:
        world = World(conn, database_url, tmp_path / "staging", instance)
        world.account("ana@example.com")
        source = Demo(calls(3))
        source.calls[None][1].error = ItemError("It is broken.")
        job = demo.reconstructable(world.job(source))
        with dg.execute_job(job, instance, raise_on_error=False) as first:
            assert "1 failed" in str(first.all_events)
        source.calls[None][1].error = None
        source.asked.clear()
        options = dg.ReexecutionOptions(first.run_id)
        with dg.execute_job(job, instance, reexecution_options=options) as second:
            assert second.success
        assert source.asked == ["call-001"]
        assert len(world.recordings()) == 3


def test_repeating_only_the_report_of_a_red_run_says_what_to_do_instead(
    conn: psycopg.Connection[Any], database_url: str, tmp_path: Path
) -> None:
    conn.autocommit = True
    with dg.instance_for_test() as instance:
        world = World(conn, database_url, tmp_path / "staging", instance)
        ana = world.account("ana@example.com")
        source = Demo(calls(3))
        source.breaks_after[ana.id] = 1
        job = demo.reconstructable(world.job(source))
        with dg.execute_job(job, instance, raise_on_error=False) as first:
            assert not first.success
        source.breaks_after.clear()
        options = dg.ReexecutionOptions.from_failure(first.run_id, instance)
        with dg.execute_job(job, instance, raise_on_error=False, reexecution_options=options) as second:
            (failure,) = [event for event in second.all_events if event.is_step_failure]
            said = failure.step_failure_data.user_failure_data
            assert said is not None
            assert "Re-execute all" in str(said.description)
        with dg.execute_job(job, instance, reexecution_options=dg.ReexecutionOptions(first.run_id)) as third:
            assert third.success
        assert len(world.recordings()) == 3


def test_an_insert_that_broke_is_repeated_without_counting_twice(
    conn: psycopg.Connection[Any], database_url: str, tmp_path: Path
) -> None:
    """F11 and F84: one chunk was committed before the database refused to go on."""
    conn.autocommit = True
    with dg.instance_for_test() as instance:
        world = World(conn, database_url, tmp_path / "staging", instance)
        world.account("ana@example.com")
        source = Demo(calls(3))
        for call in source.calls[None]:
            call.transcript = "x" * (CHUNK_CHARACTERS - 1)
        world.do("create function public.refuse() returns trigger language plpgsql security definer as"
                 " $$ begin if (select count(*) from recordings) >= 2 then"
                 " perform pg_cancel_backend(pg_backend_pid()); end if; return new; end $$")  # fmt: skip
        world.do("create trigger refuse before insert on recordings for each row execute function public.refuse()")
        job = demo.reconstructable(world.job(source))
        with dg.execute_job(job, instance, raise_on_error=False) as first:
            assert not first.success
        assert len(world.recordings()) == 2
        world.settle()
        assert world.jobs()[0]["metadata"]["counts"]["inserted"] == 2
        assert transcripts_staged(world) == ["transform[0_00000]"]
        world.do("drop function public.refuse() cascade")
        options = dg.ReexecutionOptions.from_failure(first.run_id, instance)
        with dg.execute_job(job, instance, reexecution_options=options) as second:
            assert second.output_for_node("report").counts == Counts(listed=3, inserted=3)
        assert len(source.asked) == 3
        assert len(world.recordings()) == 3
        assert (world.jobs()[0]["progress_current"], world.jobs()[0]["progress_total"]) == (3, 3)
        assert transcripts_staged(world) == []


def test_the_row_of_a_run_that_crashed_is_closed_by_the_next_run(world: World) -> None:
    """F85."""
    ana, ben = world.account("ana@example.com"), world.account("ben@example.com")
    assert [account.problem for account in opened(world, Demo(), "crashed", ana, ben)] == [None, None]
    dead = subprocess.run(  # a process that has ended for certain
        [sys.executable, "-c", "import sys, import_pipeline.library.leases as l; sys.stdout.write(l.this_process())"],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    world.do("update import_pipeline.leases set holder_process = %s", dead)
    assert world.run(Demo(calls(1)), users=["ana@example.com"]).success
    crashed, done = [job for job in world.jobs() if job["user_id"] == ana.id]
    assert (crashed["status"], done["status"]) == ("failed", "completed")
    assert "broke off" in crashed["error"]
    assert crashed["completed_at"] is not None


def test_the_row_of_a_run_that_still_works_on_another_account_is_left_alone(world: World) -> None:
    """It did not get this one, and tells so in the end: until then it needs what it has staged."""
    ana, ben = world.account("ana@example.com"), world.account("ben@example.com")
    opened(world, Demo(), "first", ana)
    refused, taken = sorted(opened(world, Demo(), "second", ana, ben), key=lambda account: account.label)
    assert "run first" in (refused.problem or "")
    storage = staging.StreamIOManager(base=str(world.staging))
    staging.write_output(storage._path(("second", "connect", "result")), [refused, taken])
    world.do("delete from import_pipeline.leases where holder = 'first'")
    assert world.run(Demo(calls(1)), users=["ana@example.com"]).success
    assert [(job["metadata"]["run_id"], job["status"]) for job in world.jobs()] == [
        ("first", "failed"),
        ("second", "processing"),
        ("second", "processing"),
        (world.runs[0].run_id, "completed"),
    ]
    assert staging.read_output(storage._path(("second", "connect", "result"))) == [refused, taken]


def test_who_names_somebody_elses_run_as_his_own_crashed_one_removes_nothing_of_it(world: World) -> None:
    """Where users may write `sync_jobs`, the row says what its user wants it to."""
    ana, ben = world.account("ana@example.com"), world.account("ben@example.com")
    bens = opened(world, Demo(), "bens", ben)
    world.do("delete from import_pipeline.leases")  # while a run holds an account, nobody's row says that it crashed
    storage = staging.StreamIOManager(base=str(world.staging))
    staging.write_output(storage._path(("bens", "connect", "result")), bens)
    for run_id in ("crashed", "bens"):
        ((account_id,),) = world.rows("select id from import_sources where user_id = %s", ana.id)
        staged = Account(account_id, ana.id, "demo", "ana@example.com", START)
        if run_id == "crashed":
            staging.write_output(storage._path((run_id, "connect", "result")), [staged])
        world.do(
            "insert into sync_jobs (user_id, status, metadata) values (%s, 'processing',"
            " jsonb_build_object('source_app', 'demo', 'account_id', %s::text, 'run_id', %s::text))",
            ana.id, str(account_id), run_id,
        )  # fmt: skip
    assert world.run(Demo(calls(1)), users=["ana@example.com"]).success
    assert not (world.staging / "crashed").exists()
    assert staging.read_output(storage._path(("bens", "connect", "result"))) == bens


def test_an_account_that_another_run_has_is_left_alone_and_makes_the_run_red(world: World) -> None:
    """Nothing is green unworked."""
    ana, ben = world.account("ana@example.com"), world.account("ben@example.com")
    with world.conn.transaction():
        ((account_id,),) = world.conn.execute("select id from import_sources where user_id = %s", [ana.id]).fetchall()
    assert acquire_lease(world.conn, account_id, "another run", is_run_over=lambda _: False) is None
    first, second = sorted(opened(world, Demo(), "run-1", ana, ben), key=lambda account: account.label)
    assert "another run" in (first.problem or "")
    assert second.problem is None
    assert [job["status"] for job in world.jobs()] == ["processing", "processing"]
    assert world.rows("select holder from import_pipeline.leases where account_id = %s", account_id) == [
        ("another run",)
    ]


def test_a_run_that_lost_its_lease_stops_before_it_writes(world: World) -> None:
    """Two runs must never work on one account: one was silent for too long, another one took over."""
    ana = world.account("ana@example.com")

    class Robbed(Demo):
        def fetch_record(self, account: Account, item: ListedItem, http: HttpClient) -> ConnectorRecord:
            world.do("update import_pipeline.leases set holder = 'thief', holder_process = %s", this_process())
            return super().fetch_record(account, item, http)

    result = world.run(Robbed(calls(1)))
    assert not result.success
    assert "lost its account" in problem_of(result, "insert[0_00000]")
    assert world.recordings() == []
    assert world.cursor(ana) is None
    assert world.rows("select holder from import_pipeline.leases") == [("thief",)]


def test_an_item_that_waits_for_long_does_not_cost_the_account(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A rate limit may hold up a single item for longer than a lease lasts."""
    world.account("ana@example.com")
    monkeypatch.setattr("import_pipeline.library.leases.LEASE_SECONDS", 0.3)
    expiries: list[datetime] = []

    class Slow(Demo):
        def fetch_record(self, account: Account, item: ListedItem, http: HttpClient) -> ConnectorRecord:
            ends_at = time.monotonic() + 20
            while len(set(expiries)) < 3 and time.monotonic() < ends_at:
                expiries.extend(each for (each,) in world.rows("select expires_at from import_pipeline.leases"))
                time.sleep(0.02)
            return super().fetch_record(account, item, http)

    assert world.run(Slow(calls(1))).success
    assert len(set(expiries)) >= 3


@pytest.mark.parametrize(
    ("is_retry", "state"), [(False, "CANCELING"), (False, "CANCELED"), (True, "CANCELING")], ids=str
)
def test_a_run_that_was_cancelled_while_it_was_started_does_nothing(world: World, is_retry: bool, state: str) -> None:
    """F66: its process could not be told then, and the state of the run is overwritten when it starts."""
    world.account("ana@example.com")
    source = Demo(calls(3))
    asked, run_id = str(uuid4()), str(uuid4())
    event = dg.DagsterEvent(f"PIPELINE_{state}", "import_demo")
    world.instance.report_dagster_event(event, asked if is_retry else run_id)
    tags = {"dagster/parent_run_id": asked, "dagster/root_run_id": asked, "dagster/retry_number": "1"}
    retries: dict[str, Any] = {"parent_run_id": asked, "root_run_id": asked, "tags": tags} if is_retry else {}
    job = world.job(source)
    launched = demo.reconstructable(job).get_python_origin()
    run = world.instance.create_run_for_job(job, run_id=run_id, job_code_origin=launched, **retries)
    list(execute_run_iterator(InMemoryJob(job), run, world.instance))
    found = world.instance.get_run_by_id(run_id)
    assert found is not None
    assert found.status == dg.DagsterRunStatus.CANCELED
    assert source.windows == []
    assert world.jobs() == []
    assert world.rows("select count(*) from import_pipeline.leases") == [(0,)]
    assert world.run(source).success


# --- partitions ---------------------------------------------------------------------------------------------------


def test_a_partition_covers_its_month_for_every_account_and_leaves_the_cursor(world: World) -> None:
    ana, ben = world.account("ana@example.com"), world.account("ben@example.com")
    march = datetime(2024, 3, 1, tzinfo=UTC)
    april = datetime(2024, 4, 1, tzinfo=UTC)
    source = Demo(
        [
            Call("before", march - timedelta(microseconds=1)),
            Call("first", march),
            Call("last", april - timedelta(microseconds=1)),
            Call("after", april),
        ]
    )
    result = world.run(source, month="2024-03-01")
    assert result.success
    assert world.recordings() == ["first", "first", "last", "last"]
    assert {user for user, _ in source.windows} == {ana.id, ben.id}
    for user in (ana, ben):
        own = sorted((window.start, window.end) for asked, window in source.windows if asked == user.id)
        assert own[0][0] == march
        assert own[-1][1] == april
        assert all(end - start <= timedelta(days=30) for start, end in own)
        assert world.cursor(user) is None
    (event,) = result.asset_materializations_for_node("report")
    assert event.partition == "2024-03-01"


def test_a_backfill_does_not_move_the_cursor_back(world: World) -> None:
    ana = world.account("ana@example.com")
    source = Demo(calls(1))
    world.run(source)
    cursor = world.cursor(ana)
    world.run(source, month="2024-02-01")
    assert world.cursor(ana) == cursor


# --- what is staged, and what must not leak -----------------------------------------------------------------------


def transcripts_staged(world: World) -> list[str]:
    """The steps whose staged files could hold a transcript."""
    return sorted(path.parent.name for path in world.staging.rglob("*.sealed") if "transform" in path.parent.name)


def test_staged_files_are_private_and_gone_after_insert(world: World) -> None:
    """F88."""
    world.account("ana@example.com")
    seen: dict[str, int] = {}

    class Watching(Demo):
        def fetch_record(self, account: Account, item: ListedItem, http: HttpClient) -> ConnectorRecord:
            for path in (world.staging, *world.staging.rglob("*")):
                seen[path.name] = stat.S_IMODE(path.stat().st_mode)
            return super().fetch_record(account, item, http)

    umask = os.umask(0)
    try:
        assert world.run(Watching(calls(3))).success
    finally:
        os.umask(umask)
    files = {name: mode for name, mode in seen.items() if name.endswith((".sealed", ".partial"))}
    assert len(files) >= 3
    assert any(name.endswith(".partial") for name in files)
    assert set(files.values()) == {0o600}
    assert {mode for name, mode in seen.items() if name not in files} == {0o700}
    assert transcripts_staged(world) == []
    assert not [path for path in world.staging.rglob("*") if path.name.startswith("dedup")]


@pytest.mark.parametrize("fault", ["none", "item", "bug", "database", "batch", "staged"])
def test_what_was_said_appears_in_no_event_and_no_log(
    world: World,
    fault: str,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """F88."""
    world.account("ana@example.com")
    source = Demo([Call("call-1", transcript=CANARY, fields={"summary": CANARY, "source_metadata": {"x": CANARY}})])
    call = source.calls[None][0]
    match fault:
        case "item":
            call.fields["recording_start_time"] = CANARY
        case "bug":
            call.error = ValueError(CANARY)
        case "database":
            world.do("alter table recordings add constraint test_refused check (summary is null)")
        case "batch":
            world.do("alter table recordings drop column summary")
        case "staged":
            damaged = f'{{"kind":"ready","record":"{CANARY}"}}'.encode()
            monkeypatch.setattr(staging._item, "dump_json", lambda _: damaged)
    with caplog.at_level(logging.DEBUG):
        result = world.run(source)
    assert result.success == (fault == "none")
    events = "\n".join(str(entry.to_json()) for entry in world.instance.all_logs(result.run_id))
    run = world.instance.get_run_by_id(result.run_id)
    told = events + str(run) + caplog.text + "".join(capfd.readouterr()) + str(world.jobs()) + str(world.ledger())
    assert result.run_id in told
    assert CANARY not in told
