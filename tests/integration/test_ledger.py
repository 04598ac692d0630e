"""The ledger: what is written about items, and that everything said about them is counted from it."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import psycopg
import pytest
import tenants
from hypothesis import given
from hypothesis import strategies as st
from psycopg.types.json import Jsonb

from import_pipeline import ConnectorRecord, insert_recording
from import_pipeline.database.tenancy import acting_as
from import_pipeline.library.accounts import ensure_account, move_cursor
from import_pipeline.library.ledger import (
    NO_VAULT_ENTRY,
    Written,
    count_recordings,
    count_run,
    explain_item,
    explain_recording,
    find_items,
    judge_run,
    ledger_key,
    list_failures,
    record_outcomes,
    request_retry,
    summarise_accounts,
)
from import_pipeline.records import Account, Counts, Failed, Ignored, Known, ListedItem, Ready, Waiting

NOW = datetime(2024, 5, 6, 7, 8, 9, tzinfo=UTC)
LATER = datetime(2124, 5, 6, tzinfo=UTC)
Connection = psycopg.Connection[Any]


@pytest.fixture
def account(conn: Connection) -> Account:
    conn.autocommit = True
    return account_of(conn, tenants.make_user(conn))


def account_of(conn: Connection, user: tenants.User) -> Account:
    account_id = ensure_account(conn, user.id, "demo", user.email)
    return Account(account_id, user.id, "demo", user.email, NOW)


def record(external_id: str) -> ConnectorRecord:
    return ConnectorRecord(external_id, "demo", f"Call {external_id}", "Ana: Hello.", NOW)


def imported(conn: Connection, account: Account, key: str, provisional: str | None = None) -> Written:
    """An item whose recording has just been written."""
    recording_id = insert_recording(conn, account.user_id, record(key))
    return Written(Ready(ListedItem(key, provisional_id=provisional), record(key)), recording_id)


def failed(key: str, provisional: str | None = None, **values: Any) -> Written:
    item = ListedItem(key, title="Listed", location=f"/calls/{ascii(key)[1:-1]}", provisional_id=provisional)
    return Written(Failed(item, values.pop("error_class", "data"), "It is broken.", LATER + timedelta(days=1)))


def waiting(key: str, **values: Any) -> Written:
    return Written(Waiting(ListedItem(key, started_at=NOW, **values), "No transcript yet.", LATER))


def ignored(key: str) -> Written:
    return Written(Ignored(ListedItem(key), "A test call."))


def write(conn: Connection, account: Account, written: Sequence[Written], run_id: str = "run-1") -> Counts:
    with acting_as(conn, account.user_id, writes=("import_items",)):
        return record_outcomes(conn, account, run_id, written)


def rows(conn: Connection, columns: str, where: str = "true") -> list[tuple[Any, ...]]:
    return conn.execute(f"select {columns} from import_items where {where} order by external_id").fetchall()


# --- judge_run ----------------------------------------------------------------------------------------------------


@given(st.builds(Counts, *[st.integers(0, 3)] * 6), st.none() | st.text())
def test_a_run_is_completed_only_if_it_came_to_its_end_and_nothing_it_attempted_failed(
    counts: Counts, problem: str | None
) -> None:
    """F83: one function decides, for every combination of outcomes."""
    expected = "failed" if problem is not None else "completed_with_errors" if counts.failed else "completed"
    assert judge_run(counts, problem) == expected


# --- keys ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("external_id", ["x", "é" * 256, " kept ", "%s", "sha256:abc"])
def test_the_key_of_a_good_id_is_the_id(external_id: str) -> None:
    assert ledger_key(external_id) == external_id


@pytest.mark.parametrize(
    "external_id", [None, "", " ", 17, "x" * 513, "é" * 300, "a\0", "\ud800", b"x", (None, "t")], ids=ascii
)
def test_the_key_of_what_is_no_id_is_its_digest(external_id: Any) -> None:
    """F4 and F72."""
    digest = hashlib.sha256(str(external_id).encode("utf-8", "surrogatepass")).hexdigest()
    assert ledger_key(external_id) == f"sha256:{digest}"
    assert ledger_key(ledger_key(external_id)) == ledger_key(external_id)


@pytest.mark.parametrize("external_id", [None, "x" * 9000, "a\0b", "\udfff"], ids=ascii)
def test_an_item_without_a_usable_id_is_kept_under_its_digest(
    conn: Connection, account: Account, external_id: Any
) -> None:
    assert write(conn, account, [failed(external_id), failed("good")]) == Counts(failed=2)
    assert {key for (key,) in rows(conn, "external_id")} == {"good", ledger_key(external_id)}


# --- record_outcomes ----------------------------------------------------------------------------------------------


def test_every_outcome_is_written_and_counted(conn: Connection, account: Account) -> None:
    counts = write(
        conn,
        account,
        [imported(conn, account, "a"), waiting("b"), failed("c", error_class="auth"), ignored("d")],
    )
    assert counts == Counts(inserted=1, waiting=1, failed=1, ignored=1)
    columns = "external_id, status, title, started_at, attempts, error_class, error_message, retry_at, run_id"
    assert rows(conn, columns) == [
        ("a", "imported", "Call a", NOW, 1, None, None, None, "run-1"),
        ("b", "waiting", None, NOW, 1, None, "No transcript yet.", LATER, "run-1"),
        ("c", "failed", "Listed", None, 1, "auth", "It is broken.", LATER + timedelta(days=1), "run-1"),
        ("d", "ignored", None, None, 0, None, "A test call.", None, "run-1"),
    ]


def test_nothing_is_nothing(conn: Connection, account: Account) -> None:
    assert write(conn, account, []) == Counts()


def test_writing_the_same_outcomes_again_changes_no_count(conn: Connection, account: Account) -> None:
    """F11 and F84: a crash between commit and answer repeats them."""
    written = [imported(conn, account, "a"), imported(conn, account, "b"), waiting("c"), failed("d"), ignored("e")]
    first = write(conn, account, written)
    known = [Written(Known(one.outcome.item, one.recording_id), one.recording_id) for one in written[:2]]  # type: ignore[arg-type]
    assert write(conn, account, written) == first
    assert write(conn, account, known + written[2:]) == first
    with acting_as(conn, account.user_id):
        assert count_run(conn, account.user_id, account.source_app, "run-1") == first


def test_a_later_run_that_finds_an_item_there_counts_it_as_skipped_and_takes_no_credit(
    conn: Connection, account: Account
) -> None:
    one = imported(conn, account, "a")
    write(conn, account, [one])
    known = Written(Known(ListedItem("a"), one.recording_id), one.recording_id)  # type: ignore[arg-type]
    assert write(conn, account, [known], "run-2") == Counts(skipped=1)
    assert rows(conn, "run_id, attempts") == [("run-1", 1)]


def test_what_is_imported_is_never_overwritten_by_a_later_failure(conn: Connection, account: Account) -> None:
    """A slow run must not undo what a quick one has done meanwhile."""
    one = imported(conn, account, "a")
    write(conn, account, [one])
    for less in (failed("a"), waiting("a"), ignored("a")):
        assert write(conn, account, [less], "run-2") == Counts(skipped=1)
        assert rows(conn, "status, recording_id, run_id, error_message") == [
            ("imported", one.recording_id, "run-1", None)
        ]


def test_a_failure_becomes_an_import_and_keeps_when_it_was_first_seen(conn: Connection, account: Account) -> None:
    write(conn, account, [failed("a")])
    ((first_seen,),) = rows(conn, "first_seen_at")
    assert write(conn, account, [imported(conn, account, "a")], "run-2") == Counts(inserted=1)
    assert rows(conn, "status, attempts, error_class, error_message, retry_at, run_id, first_seen_at, location") == [
        ("imported", 2, None, None, None, "run-2", first_seen, "/calls/a")
    ]


def test_copies_in_one_batch_are_one_import_and_the_rest_are_skipped(conn: Connection, account: Account) -> None:
    """F9: two rows with one key in one statement would be SQLSTATE 21000."""
    one = imported(conn, account, "a")
    assert write(conn, account, [one, one, one, failed("b"), failed("b")]) == Counts(inserted=1, failed=1, skipped=3)


def test_a_provisional_failure_is_settled_when_the_item_is_imported(conn: Connection, account: Account) -> None:
    """A broken file is known by its path; repaired, it is known by its content, and the failure is over."""
    assert write(conn, account, [failed("hash-1", "file:///a"), failed("hash-1", "file:///b")]) == Counts(failed=2)
    assert write(conn, account, [imported(conn, account, "hash-2", "file:///a")], "run-2") == Counts(inserted=1)
    assert rows(conn, "external_id, status, error_class, retry_at, run_id") == [
        ("file:///a", "ignored", None, None, "run-2"),
        ("file:///b", "failed", "data", LATER + timedelta(days=1), "run-1"),
        ("hash-2", "imported", None, None, "run-2"),
    ]


def test_a_missing_vault_entry_is_noted_on_an_imported_item(conn: Connection, account: Account) -> None:
    """F12."""
    one = imported(conn, account, "a")
    assert write(conn, account, [Written(one.outcome, one.recording_id, "no vault")]) == Counts(inserted=1)
    assert rows(conn, "status, error_class, error_message") == [
        ("imported", "transient", f"{NO_VAULT_ENTRY}: no vault")
    ]


def test_a_record_without_recording_is_not_called_imported(conn: Connection, account: Account) -> None:
    with pytest.raises(ValueError, match="handed over as Failed"):
        write(conn, account, [Written(Ready(ListedItem("a"), record("a")))])
    assert rows(conn, "*") == []


def test_when_its_owner_deletes_a_recording_a_tombstone_is_left(conn: Connection, account: Account) -> None:
    """F14."""
    write(conn, account, [imported(conn, account, "a"), imported(conn, account, "b")])
    with tenants.as_user(conn, account.user_id):
        conn.execute("delete from recordings where source_metadata ->> 'external_id' = 'a'")
    assert [(key, recording is None) for key, recording in rows(conn, "external_id, recording_id")] == [
        ("a", True),
        ("b", False),
    ]
    assert rows(conn, "status", "external_id = 'a'") == [("imported",)]


def test_items_are_found_by_key_and_only_those_of_the_account(conn: Connection, account: Account) -> None:
    other = account_of(conn, tenants.make_user(conn, "ben@example.com"))
    write(conn, account, [failed("a")])
    write(conn, other, [waiting("a")])
    for whose, status in ((account, "failed"), (other, "waiting")):
        found = find_items(conn, whose, ["a", "b"])
        assert {key: row.status for key, row in found.items()} == {"a": status}


def test_items_of_another_user_cannot_be_written(conn: Connection, account: Account) -> None:
    other = account_of(conn, tenants.make_user(conn, "ben@example.com"))
    with (
        pytest.raises(psycopg.errors.InsufficientPrivilege),
        acting_as(conn, account.user_id, writes=("import_items",)),
    ):
        record_outcomes(conn, other, "run-1", [failed("a")])


# --- request_retry ------------------------------------------------------------------------------------------------


@pytest.fixture
def mixed(conn: Connection, account: Account) -> Account:
    """An account with an item of every kind, and a tombstone."""
    outcomes = [imported(conn, account, "imported"), imported(conn, account, "deleted")]
    write(conn, account, [*outcomes, waiting("waiting"), failed("failed"), ignored("ignored")])
    conn.execute("delete from recordings where source_metadata ->> 'external_id' = 'deleted'")
    return account


def retry(conn: Connection, account: Account, *names: Any) -> set[str]:
    with acting_as(conn, account.user_id, writes=("import_items",)):
        return {row["external_id"] for row in request_retry(conn, account.user_id, *names)}


def test_unnamed_only_failures_become_due(conn: Connection, mixed: Account) -> None:
    before = dict(rows(conn, "external_id, status"))
    assert retry(conn, mixed) == {"failed"}
    assert dict(rows(conn, "external_id, status")) == before
    assert rows(conn, "external_id", "retry_at <= now()") == [("failed",)]


def test_named_items_become_due_whatever_they_are_unless_they_are_there(conn: Connection, mixed: Account) -> None:
    names = ["imported", "deleted", "waiting", "failed", "ignored", "unknown"]
    assert retry(conn, mixed, "demo", names) == {"deleted", "waiting", "failed", "ignored"}
    assert dict(rows(conn, "external_id, status")) == {
        "imported": "imported", "deleted": "waiting", "waiting": "waiting", "failed": "failed", "ignored": "waiting",
    }  # fmt: skip
    assert len(rows(conn, "external_id", "retry_at <= now()")) == 4


def test_retry_can_be_limited_to_a_source_and_never_reaches_another_user(conn: Connection, mixed: Account) -> None:
    other = account_of(conn, tenants.make_user(conn, "ben@example.com"))
    write(conn, other, [failed("failed")])
    assert retry(conn, mixed, "another") == set()
    assert retry(conn, mixed, "demo", []) == set()
    assert retry(conn, mixed, "demo") == {"failed"}
    assert rows(conn, "user_id", "retry_at <= now()") == [(mixed.user_id,)]
    with acting_as(conn, mixed.user_id, writes=("import_items",)):
        assert request_retry(conn, other.user_id) == []


# --- what is said -------------------------------------------------------------------------------------------------


def test_the_summary_of_an_account_agrees_with_sql(conn: Connection, mixed: Account) -> None:
    """F84."""
    move_cursor(conn, mixed.id, mixed.user_id, NOW, None)
    with acting_as(conn, mixed.user_id):
        (row,) = summarise_accounts(conn, mixed.user_id)
    by_status = dict(conn.execute("select status, count(*) from import_items group by status").fetchall())
    assert {status: row[status] for status in by_status} == by_status
    assert by_status == {"imported": 2, "waiting": 1, "failed": 1, "ignored": 1}
    assert (row["source_app"], row["is_active"], row["last_sync_at"]) == ("demo", True, NOW)
    assert row["next_retry_at"] == LATER
    assert row["last_run_status"] is None


def test_an_account_without_items_is_summarised_with_zeros(conn: Connection, account: Account) -> None:
    with acting_as(conn, account.user_id):
        (row,) = summarise_accounts(conn, account.user_id)
    assert [row[status] for status in ("imported", "waiting", "failed", "ignored")] == [0] * 4


def test_the_summary_tells_the_last_run_and_the_next_one(conn: Connection, account: Account) -> None:
    def next_sync() -> Any:
        with acting_as(conn, account.user_id):
            (row,) = summarise_accounts(conn, account.user_id)
        assert row["last_run_status"] == "failed"
        return row["next_sync_at"]

    metadata = Jsonb({"account_id": str(account.id)})
    for days, status in ((3, "completed"), (1, "failed"), (2, "cancelled")):
        conn.execute(
            "insert into sync_jobs (user_id, status, metadata, created_at)"
            " values (%s, %s, %s, now() - make_interval(days => %s))",
            [account.user_id, status, metadata, days],
        )
    conn.execute("insert into sync_jobs (user_id, status) values (%s, 'processing')", [account.user_id])
    assert next_sync() <= datetime.now(UTC), "an account that was never polled is due"
    conn.execute("insert into import_pipeline.polls (account_id, due_at) values (%s, %s)", [account.id, LATER])
    assert next_sync() == LATER
    with acting_as(conn, account.user_id, writes=("import_items",)):
        record_outcomes(conn, account, "run-1", [waiting("b")])
    sooner = LATER - timedelta(days=2)
    conn.execute("update import_items set retry_at = %s", [sooner])
    assert next_sync() == sooner
    conn.execute("update import_pipeline.polls set not_before = %s", [LATER + timedelta(days=1)])
    assert next_sync() == LATER + timedelta(days=1)
    conn.execute("update import_sources set is_active = false")
    assert next_sync() is None


def test_the_figures_of_two_users_are_kept_apart(conn: Connection, mixed: Account) -> None:
    other = account_of(conn, tenants.make_user(conn, "ben@example.com"))
    write(conn, other, [failed("x"), failed("y")])
    with acting_as(conn, other.user_id):
        (row,) = summarise_accounts(conn, other.user_id)
        assert (row["failed"], row["imported"]) == (2, 0)
        assert summarise_accounts(conn, mixed.user_id) == []
        assert {each["external_id"] for each in list_failures(conn, other.user_id)} == {"x", "y"}
        assert list_failures(conn, mixed.user_id) == []


def test_more_failures_than_an_api_layer_returns_are_all_listed(conn: Connection, account: Account) -> None:
    """F27."""
    write(conn, account, [failed(f"call-{number:04d}") for number in range(2500)])
    with acting_as(conn, account.user_id):
        assert len(list_failures(conn, account.user_id, limit=5000)) == 2500
        assert len(list_failures(conn, account.user_id, "demo", limit=10)) == 10
        assert list_failures(conn, account.user_id, "another") == []
        assert summarise_accounts(conn, account.user_id)[0]["failed"] == 2500


def test_counts_of_recordings_are_those_of_the_library(conn: Connection, mixed: Account) -> None:
    with acting_as(conn, mixed.user_id):
        assert count_recordings(conn, mixed.user_id) == {"demo": 1}


def test_an_item_is_explained_by_id_or_by_place(conn: Connection, mixed: Account) -> None:
    with acting_as(conn, mixed.user_id):
        (by_id,) = explain_item(conn, mixed.user_id, ["imported"])
        (by_place,) = explain_item(conn, mixed.user_id, ["/calls/failed"])
        (in_library,) = explain_recording(conn, mixed.user_id, ["imported"])
        assert explain_item(conn, mixed.user_id, ["unknown"]) == []
    assert isinstance(by_id["recording_id"], UUID)
    assert by_id["recording_title"] == "Call imported"
    assert (by_place["external_id"], by_place["error_message"]) == ("failed", "It is broken.")
    assert in_library["recording_id"] == by_id["recording_id"]


def test_the_cursor_never_moves_back_and_the_last_problem_is_cleared(conn: Connection, account: Account) -> None:
    """F82: only times of the database are compared."""

    def state() -> tuple[Any, ...]:
        row = conn.execute("select last_sync_at, error_message from import_sources").fetchone()
        assert row is not None
        return tuple(row)

    move_cursor(conn, account.id, account.user_id, None, "It broke.")
    assert state() == (None, "It broke.")
    move_cursor(conn, account.id, account.user_id, NOW, None)
    move_cursor(conn, account.id, account.user_id, NOW - timedelta(days=1), None)
    assert state() == (NOW, None)
