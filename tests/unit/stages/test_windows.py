"""Windows of time: complete, without overlap, newest first, and no longer than a source allows."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import pairwise
from uuid import UUID

import dagster as dg
import pytest
from connectors.demo import Demo, UnpartitionedDemo
from hypothesis import given
from hypothesis import strategies as st

from import_pipeline.definitions import defs
from import_pipeline.records import Account, Window
from import_pipeline.stages.windows import cut_window, monthly_partitions, plan_windows

NOW = datetime(2024, 8, 15, 12, tzinfo=UTC)
instants = st.datetimes(datetime(2018, 1, 1), datetime(2030, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001


def account(
    last_sync_at: datetime | None = None, oldest_open_at: datetime | None = None, opened_at: datetime = NOW
) -> Account:
    return Account(UUID(int=1), UUID(int=2), "demo", "ana", opened_at, last_sync_at, oldest_open_at)


@given(instants, instants, st.none() | st.timedeltas(timedelta(days=20), timedelta(days=90)))
def test_windows_cover_a_span_without_gap_or_overlap_newest_first(
    start: datetime, end: datetime, longest: timedelta | None
) -> None:
    """F18."""
    windows = cut_window(start, end, longest)
    if start >= end:
        assert windows == []
        return
    assert windows[0].end == end
    assert windows[-1].start == start
    assert all(later.start == earlier.end for later, earlier in pairwise(windows))
    assert all(window.start < window.end for window in windows)
    assert longest is None or all(window.end - window.start <= longest for window in windows)


def test_the_first_run_goes_back_to_the_beginning_of_history() -> None:
    windows = plan_windows(Demo(), account())
    assert windows[-1].start == Demo.history_start
    assert windows[0].end == NOW  # F25: always sent explicitly
    assert all(window.end - window.start <= timedelta(days=30) for window in windows)


@pytest.mark.parametrize(
    ("last_sync_at", "oldest_open_at", "start"),
    [
        (NOW - timedelta(hours=1), None, NOW - timedelta(days=2, hours=1)),
        (NOW - timedelta(hours=1), NOW - timedelta(days=5), NOW - timedelta(days=5)),
        (NOW - timedelta(hours=1), NOW, NOW - timedelta(days=2, hours=1)),
        (NOW - timedelta(hours=1), datetime(1990, 1, 1, tzinfo=UTC), Demo.history_start),
        (None, NOW, Demo.history_start),
    ],
    ids=["look-back", "older waiting item", "younger waiting item", "not before history", "first run"],
)
def test_an_incremental_run_looks_back_from_the_cursor_and_to_the_oldest_open_item(
    last_sync_at: datetime | None, oldest_open_at: datetime | None, start: datetime
) -> None:
    windows = plan_windows(Demo(), account(last_sync_at, oldest_open_at))
    assert (windows[-1].start, windows[0].end) == (start, NOW)


def test_a_cursor_ahead_of_the_clock_asks_for_the_look_back_and_does_no_harm() -> None:
    """F82."""
    (window,) = plan_windows(Demo(), account(NOW + timedelta(hours=1)))
    assert (window.start, window.end) == (NOW - timedelta(days=2) + timedelta(hours=1), NOW)


def test_a_source_without_windows_gets_the_same_span_in_one_piece() -> None:
    """It stops reading where the span begins; cutting it would have it read everything for each piece."""
    (window,) = plan_windows(UnpartitionedDemo(), account(NOW - timedelta(days=100)))
    assert window == Window(NOW - timedelta(days=102), NOW)
    (window,) = plan_windows(UnpartitionedDemo(), account())
    assert window == Window(UnpartitionedDemo.history_start, NOW)


def month(year: int, number: int) -> Window:
    following = datetime(year + number // 12, number % 12 + 1, 1, tzinfo=UTC)
    return Window(datetime(year, number, 1, tzinfo=UTC), following)


def test_a_partition_covers_its_month_whatever_the_cursor_says() -> None:
    for cursor in (None, NOW):
        windows = plan_windows(Demo(), account(cursor), month(2024, 5))
        assert (windows[-1].start, windows[0].end) == (month(2024, 5).start, month(2024, 5).end)
        assert len(windows) == 2  # 31 days at a source that allows 30


def test_the_present_month_ends_now_and_a_future_one_is_empty() -> None:
    assert plan_windows(Demo(), account(), month(2024, 8))[0].end == NOW
    assert plan_windows(Demo(), account(), month(2024, 9)) == []


def test_the_first_month_begins_with_history() -> None:
    """Nothing older than that is asked for."""
    source = Demo()
    source.history_start = datetime(2024, 1, 10, tzinfo=UTC)  # type: ignore[misc]
    assert plan_windows(source, account(), month(2024, 1))[-1].start == source.history_start


def test_the_months_of_a_connector_reach_from_its_history_to_the_present_one() -> None:
    partitions = monthly_partitions(Demo())
    assert partitions is not None
    keys = partitions.get_partition_keys(current_time=NOW)
    assert keys[0] == Demo.history_start.strftime("%Y-%m-01")
    assert keys[-1] == "2024-08-01"
    assert partitions.timezone == "UTC"  # F68


def test_a_source_without_windows_has_no_partitions() -> None:
    assert monthly_partitions(UnpartitionedDemo()) is None


def test_f59_partitions_are_months_of_a_source_and_not_its_items_or_accounts() -> None:
    """Tens of thousands of keys slow the UI down; whatever is imported, there are twelve a year."""
    for job in defs.resolve_all_job_defs():
        partitions = job.partitions_def
        if partitions is None:
            continue
        assert isinstance(partitions, dg.MonthlyPartitionsDefinition)
        keys = partitions.get_partition_keys(current_time=datetime(2040, 1, 15, tzinfo=UTC))
        assert len(keys) <= 12 * 30
        assert keys[-1] == "2040-01-01"
