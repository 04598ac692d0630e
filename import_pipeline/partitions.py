"""Windows of time: what a run asks of a source, and the monthly partitions of which a person picks some to backfill.

Windows are planned here and only here: incremental from the cursor, or one partition, cut to what the provider allows,
newest first, with explicit ends.
"""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

import dagster as dg

from import_pipeline.connectors.base import Connector
from import_pipeline.records import Account, Window
from import_pipeline.settings import history_start


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


def plan_windows(connector: Connector, account: Account, partition: Window | None = None) -> list[Window]:
    """Return the windows to list for an account, newest first, each as long as the provider allows at most.

    Args:
        connector: Says where its history begins, how far to look back and how long a window may be.
        account: `last_sync_at` is the cursor; the windows end when the account was opened.
        partition: The month of a backfill; None means incremental.
    """
    end = account.opened_at
    earliest = history_start(connector.source_app, connector.history_start)
    if partition is not None:
        start, end = max(partition.start, earliest), min(partition.end, end)
    elif account.last_sync_at is None:
        start = earliest
    else:
        start = account.last_sync_at - connector.look_back
        if account.oldest_open_at is not None:
            start = min(start, account.oldest_open_at)
        start = max(start, earliest)
    return cut_window(start, end, connector.longest_window if connector.partitioned else None)


def cut_window(start: datetime, end: datetime, longest: timedelta | None) -> list[Window]:
    """Cut a span into windows of at most `longest`, newest first; an empty span gives none."""
    windows = []
    start, end = start.astimezone(UTC), end.astimezone(UTC)  # the database tells the time in its own zone
    while start < end:
        begin = start if longest is None else max(start, end - longest)
        windows.append(Window(begin, end))
        end = begin
    return windows
