"""Windows of time: what a run asks of a source, and the monthly partitions of which a person picks some to backfill.

Windows are planned here and only here: incremental from the cursor, or one partition, cut to what the provider allows,
newest first, with explicit ends.
"""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

import dagster as dg

from import_pipeline.connectors.base import Connector
from import_pipeline.errors import ConfigurationError
from import_pipeline.providers.source_settings import history_start
from import_pipeline.records import Account, Window


def monthly_partitions(connector: Connector) -> dg.MonthlyPartitionsDefinition | None:
    """Return the months a connector can be asked for, the current one included, or None if it knows no windows."""
    if not connector.partitioned:
        return None
    start = connector.history_start.strftime("%Y-%m-01")
    return dg.MonthlyPartitionsDefinition(start_date=start, end_offset=1)


def history_config(
    connector: Connector, partitions: dg.MonthlyPartitionsDefinition
) -> dg.PartitionedConfig[dg.MonthlyPartitionsDefinition]:
    """Return what runs over a month have that others have not: the tags by which the queue keeps them apart.

    Whatever order they are submitted in, live runs go first, then the newest month that waits, one of a source at a
    time (`dagster.yaml`).
    """

    def tags(month: str) -> dict[str, str]:
        priority = -1 - months_ago(date.fromisoformat(month), datetime.now(UTC).date())
        return {"lane": "history", "backfill": connector.source_app, "dagster/priority": str(priority)}

    return dg.PartitionedConfig(
        partitions, run_config_for_partition_key_fn=lambda _: {}, tags_for_partition_key_fn=tags
    )


def months_ago(month: date, today: date) -> int:
    """Return how many months lie between the month of one day and that of a later one."""
    return (today.year - month.year) * 12 + today.month - month.month


def list_months(connector: Connector, now: datetime, first: date | None = None, last: date | None = None) -> list[date]:
    """Return the first days of the months that a backfill covers, newest first.

    Args:
        connector: The source.
        now: The present (aware).
        first: A day of the earliest month; None means where the source's history begins.
        last: A day of the latest month; None means the present one.

    Raises:
        ConfigurationError: The source cannot be asked for months, or these are none that it can be asked for.
    """
    if not connector.partitioned:
        raise ConfigurationError(
            f"{connector.title} cannot be asked for single months. "
            + (
                f"`import-pipeline sync {connector.source_app} --full` imports its whole history."
                if connector.is_polled
                else "`import-pipeline upload` imports files and folders, whenever they are from."
            )
        )
    earliest = max(connector.history_start, history_start(connector.source_app, connector.history_start))
    begins, present = earliest.astimezone(UTC).date().replace(day=1), now.astimezone(UTC).date().replace(day=1)
    month, oldest = (last or present).replace(day=1), (first or begins).replace(day=1)
    if oldest < begins:
        raise ConfigurationError(
            f"The history of {connector.title} begins with {begins:%Y-%m} here, so --from cannot be {oldest:%Y-%m}."
        )
    if month > present:
        raise ConfigurationError(f"{month:%Y-%m} has not begun yet; the last month is {present:%Y-%m}.")
    if oldest > month:
        raise ConfigurationError(f"{oldest:%Y-%m} lies after {month:%Y-%m}; --from is the earlier one.")
    months = []
    while month >= oldest:
        months.append(month)
        month = (month - timedelta(days=1)).replace(day=1)
    return months


def span_of(month: date) -> Window:
    """Return the span of a month (UTC), given its first day."""
    start = datetime(month.year, month.month, 1, tzinfo=UTC)
    return Window(start, (start + timedelta(days=32)).replace(day=1))


def plan_windows(connector: Connector, account: Account, partition: Window | None = None) -> list[Window]:
    """Return the windows to list for an account, newest first, each as long as the provider allows at most.

    Args:
        connector: Says where its history begins, how far to look back and how long a window may be.
        account: `last_sync_at` is the cursor; the windows end when the account was opened.
        partition: The month of a backfill; None means incremental.
    """
    if partition is not None:
        return plan_month(connector, partition, account.opened_at)
    end = account.opened_at
    earliest = history_start(connector.source_app, connector.history_start)
    if account.last_sync_at is None:
        start = earliest
    else:
        start = account.last_sync_at - connector.look_back
        if account.oldest_open_at is not None:
            start = min(start, account.oldest_open_at)
        start = max(start, earliest)
    return cut_window(start, end, connector.longest_window if connector.partitioned else None)


def plan_month(connector: Connector, month: Window, now: datetime) -> list[Window]:
    """Return the windows to list for a month of history, newest first; of the present month there is a part only."""
    earliest = history_start(connector.source_app, connector.history_start)
    return cut_window(
        max(month.start, earliest),
        min(month.end, now),
        connector.longest_window,
    )


def cut_window(start: datetime, end: datetime, longest: timedelta | None) -> list[Window]:
    """Cut a span into windows of at most `longest`, newest first; an empty span gives none."""
    windows = []
    start, end = start.astimezone(UTC), end.astimezone(UTC)  # the database tells the time in its own zone
    while start < end:
        begin = start if longest is None else max(start, end - longest)
        windows.append(Window(begin, end))
        end = begin
    return windows
