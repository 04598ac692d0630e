"""The assets: `recordings/<source>`, which the jobs materialise, and `import_counts` and `import_health`.

Derived from the connectors. These two say how things are, and refresh by themselves after imports. Their figures come
from `figures.py`; here is how the UI shows them.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import dagster as dg

from import_pipeline.connectors.base import Connector
from import_pipeline.defs.assets.charts import draw_bars, draw_months
from import_pipeline.defs.assets.figures import Health, name_users, read_health, read_import_counts, read_months
from import_pipeline.defs.jobs import NOT_TRIED_AGAIN
from import_pipeline.defs.tables import MOST_ROWS, show_month, show_time, to_markdown
from import_pipeline.stages.postgres import PostgresResource

if TYPE_CHECKING:
    import pandas as pd

_GROUP = "recordings"
_MONTHS = 24
_MONTHS_SHOWN_AT_ONCE = 12
_LONGEST_BAR = 10


def recordings_key(connector: Connector) -> dg.AssetKey:
    """Return the key of the asset that stands for a source's recordings."""
    return dg.AssetKey(["recordings", connector.source_app])


def recordings_asset(connector: Connector) -> dg.AssetSpec:
    """Return the asset that stands for a source's recordings; `report` materialises it."""
    return dg.AssetSpec(
        recordings_key(connector),
        description=f"Recordings imported by the job {connector.job_name}. {connector.description}",
        group_name=_GROUP,
        kinds={"postgres"},
        metadata={"documentation": dg.MetadataValue.url(connector.documentation_url)},
    )


def refresh_condition() -> dg.AutomationCondition[Any]:
    """Return when to look again: after imports, at most every five minutes, and once an hour in any case.

    Each refresh is a run with its events, so one after every import would fill the event log.
    """
    condition = dg.AutomationCondition
    has_imports = condition.any_deps_match(~condition.missing())
    requested = condition.newly_requested()
    # Do not combine this with `&` or `|`: the combined condition forgets when the import happened, and an import that
    # ends just after a refresh was requested would be missed.
    was_imported = condition.any_deps_match(condition.newly_updated()).since(requested)
    # What is late or overdue becomes so without any import.
    hour_passed = (condition.cron_tick_passed("0 * * * *") & has_imports).since(requested)
    # Imports that were made before the daemon was ever started.
    never_looked = (condition.missing() & has_imports).newly_true().since(requested)
    has_news = was_imported | hour_passed | never_looked
    looked_just_now = requested.since(condition.cron_tick_passed("*/5 * * * *"))
    return (has_news & ~looked_just_now & ~condition.in_progress()).with_label(
        "after imports, at most every five minutes, and once an hour"
    )


def build_refresh_sensor() -> dg.AutomationConditionSensorDefinition:
    """Return the sensor that refreshes counts, health and checks by themselves."""
    return dg.AutomationConditionSensorDefinition(
        "refresh_assets",
        target=dg.AssetSelection.all() | dg.AssetSelection.all_asset_checks(),
        default_status=dg.DefaultSensorStatus.RUNNING,
        minimum_interval_seconds=30,
        run_tags=NOT_TRIED_AGAIN,
        description="After imports, and once an hour, refreshes import_counts and import_health and runs the checks.",
    )


def build_assets(connectors: Iterable[Connector]) -> list[dg.AssetSpec | dg.AssetsDefinition]:
    """Return all assets of these sources."""
    known = {connector.source_app: connector for connector in connectors}
    titles = {source_app: connector.title for source_app, connector in known.items()}
    sources = [recordings_key(connector) for connector in known.values()]

    @dg.asset(
        deps=sources,
        group_name=_GROUP,
        kinds={"postgres", "pandas"},
        description="How many calls of which source each user has.",
        automation_condition=refresh_condition(),
    )
    def import_counts(postgres: PostgresResource) -> dg.MaterializeResult[None]:
        with postgres.connection() as conn:
            counts = read_import_counts(conn)
            months, undated = read_months(conn, _first_month(datetime.now(UTC)))
            ranked = counts.sum(axis=1).sort_values(ascending=False, kind="stable").index[:MOST_ROWS]
            names = name_users(conn, list(ranked))
        table = counts.loc[ranked].rename(index=names)
        return dg.MaterializeResult(
            metadata=_describe_counts(counts, table, titles) | _describe_months(months.rename(columns=titles), undated)
        )

    @dg.asset(
        deps=sources,
        group_name=_GROUP,
        kinds={"postgres"},
        description="Each account: its problem, what is new in 24 hours, waiting or failed, last success, next sync.",
        automation_condition=refresh_condition(),
    )
    def import_health(postgres: PostgresResource) -> dg.MaterializeResult[None]:
        with postgres.connection() as conn:
            health = read_health(conn, MOST_ROWS)
        return dg.MaterializeResult(metadata=_describe_health(health, known, datetime.now(UTC)))

    return [*map(recordings_asset, known.values()), import_counts, import_health]


# --- import_counts ------------------------------------------------------------------------------------------------


def _first_month(now: datetime) -> datetime:
    months = now.year * 12 + now.month - 1 - (_MONTHS - 1)
    return datetime(months // 12, months % 12 + 1, 1, tzinfo=UTC)


def _describe_counts(counts: pd.DataFrame, table: pd.DataFrame, titles: dict[str, str]) -> dict[str, Any]:
    totals = counts.rename(columns=titles).sum()
    users = len(counts)
    # Numbers by themselves as well, because the UI draws them over time. A source may be called anything.
    own = {"dagster/row_count": int(totals.sum()), "users": users}
    numbers = own | {str(title): int(number) for title, number in totals.items() if title != "counts"} | own
    if not users:
        return {"counts": dg.MetadataValue.text("No recordings yet."), **numbers}
    table = table.assign(all=table.sum(axis=1))
    rows = [(user, *cells) for user, *cells in table.itertuples(name=None)]
    everything = [*totals.tolist(), int(totals.sum())]
    if users > len(table):
        others = [total - part for total, part in zip(everything, table.sum().tolist(), strict=True)]
        rows.append((f"{users - len(table)} other users", *others))
    rows.append(("all users", *everything))
    headings = ["User", *map(str, totals.index), "All"]
    return {"counts": dg.MetadataValue.md(to_markdown(headings, rows)), **numbers}


def _describe_months(frame: pd.DataFrame, undated: int) -> dict[str, Any]:
    """Return the last year as a table with bars, and the picture.

    The UI shows Markdown of up to a thousand characters at once, and the rest on a click.
    """
    if frame.empty:
        none = "No recordings yet." if not undated else f"No recordings of the last {_MONTHS} months."
        return {"recordings per month": dg.MetadataValue.text(none)}
    title = "Recordings per month and source"
    if undated:
        title += f" (and {undated} that are older or have no date)"
    recent = frame.tail(_MONTHS_SHOWN_AT_ONCE).iloc[::-1]
    totals = recent.sum(axis=1)
    bars = draw_bars(totals.tolist(), _LONGEST_BAR)
    rows = [
        (show_month(month), *numbers, f"{bar}\N{NO-BREAK SPACE}{total}")
        for (month, *numbers), bar, total in zip(recent.itertuples(name=None), bars, totals, strict=True)
    ]
    return {
        "recordings per month": dg.MetadataValue.md(to_markdown(["Month", *map(str, frame.columns), "All"], rows)),
        "chart per month": dg.MetadataValue.md(draw_months(frame, title)),
    }


# --- import_health ------------------------------------------------------------------------------------------------


def _describe_health(health: Health, known: dict[str, Connector], now: datetime) -> dict[str, Any]:
    titles = {source: connector.title for source, connector in known.items()}
    sums = {
        name: sum(int(source[column]) for source in health.sources)
        for name, column in (
            ("accounts", "accounts"),
            ("accounts with a problem", "with_problem"),
            ("new in 24 hours", "new_since_yesterday"),
            ("waiting", "waiting"),
            ("failed", "failed"),
        )
    }
    if not health.sources:
        return {"sources": dg.MetadataValue.text("No source is connected yet."), **sums}
    sources = to_markdown(
        ["Source", "Accounts", "Problems", "New", "Waiting", "Failed", "Last success"],
        [
            (
                titles.get(source["source_app"], source["source_app"]),
                source["accounts"],
                source["with_problem"],
                source["new_since_yesterday"],
                source["waiting"],
                source["failed"],
                show_time(source["last_sync_at"]),
            )
            for source in health.sources
        ],
    )
    accounts = to_markdown(
        ["Account", "Source", "Problem", "New", "Waiting", "Failed", "Last success", "Next sync"],
        [
            (
                row["label"],
                titles.get(row["source_app"], row["source_app"]),
                describe_account_problem(row, known.get(row["source_app"])),
                row["new_since_yesterday"],
                row["waiting"],
                row["failed"],
                show_time(row["last_sync_at"]),
                _describe_next_sync(row, known.get(row["source_app"]), now),
            )
            for row in health.accounts
        ],
    )
    if sums["accounts"] > len(health.accounts):
        accounts += f"\n\nThe first {len(health.accounts)} of {sums['accounts']} accounts, problems first."
    return {"sources": dg.MetadataValue.md(sources), "account list": dg.MetadataValue.md(accounts), **sums}


def describe_account_problem(row: dict[str, Any], connector: Connector | None) -> str:
    """Say what is wrong with an account of `import_pipeline.account_health`, or nothing."""
    if connector is not None and connector.authenticates_by and not row["has_credential"]:
        return f"not connected; `import-pipeline connect {connector.source_app}` connects it"
    return str(row["error_message"] or row["last_run_error"] or "")


def _describe_next_sync(row: dict[str, Any], connector: Connector | None, now: datetime) -> str:
    if connector is None or not connector.is_polled:
        return ""
    if not row["is_active"]:
        return "switched off"
    if connector.authenticates_by and not row["has_credential"]:
        return "once it is connected"
    next_sync_at = row["next_sync_at"]
    return "due now" if next_sync_at is None or next_sync_at <= now else show_time(next_sync_at)
