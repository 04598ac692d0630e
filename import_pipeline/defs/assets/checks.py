"""The checks of `recordings/<source>`: what must hold for the recordings and accounts of every source.

Derived from the connectors. They run by themselves with the refresh of the assets (`assets.refresh_condition`), all in
one op, so that a refresh stays cheap. A failure names what is wrong and what to do. Coverage is in `coverage.py`.
"""

from collections.abc import Iterable, Iterator, Sequence
from datetime import timedelta
from typing import Any

import dagster as dg
import psycopg
from psycopg.rows import dict_row

from import_pipeline.connectors.base import Connector
from import_pipeline.database.sql import query
from import_pipeline.database.tenancy import acting_as
from import_pipeline.defs.assets import describe_account_problem, recordings_key, refresh_condition
from import_pipeline.defs.assets.figures import name_users
from import_pipeline.defs.tables import show_time, to_markdown
from import_pipeline.stages.postgres import PostgresResource

_MOST_SHOWN = 20
_OVERDUE_AFTER = timedelta(hours=8)
"""Beyond the deadline: an item is given up when it is asked for again, and pauses grow up to six hours."""
_LATE_AFTER = timedelta(minutes=30)
"""Beyond twice the polling interval: a run may have to wait for a slot, and takes its time."""

_DESCRIPTIONS = {
    "no_duplicates": "No call is stored more than once in a bank.",
    "vault_entries": "Every recording is in a vault. The job repair_vault_entries mends it.",
    "nothing_overdue": "No item waits for its transcript past the deadline of the source.",
    "fresh": "Every active account was synced lately.",
}
_Conn = psycopg.Connection[Any]
_Rows = list[dict[str, Any]]


def build_checks(connectors: Iterable[Connector]) -> dg.AssetChecksDefinition:
    """Return the checks of all sources, one op for all of them."""
    known = {connector.source_app: connector for connector in connectors}

    @dg.multi_asset_check(
        name="check_recordings",
        description="Looks for what must not be: duplicates, recordings in no vault, overdue items, late accounts.",
        specs=[
            dg.AssetCheckSpec(
                name,
                asset=recordings_key(connector),
                description=description,
                automation_condition=refresh_condition(),
            )
            for connector in known.values()
            for name, description in _DESCRIPTIONS.items()
            if name != "fresh" or connector.is_polled
        ],
        can_subset=True,
    )
    def check_recordings(
        context: dg.AssetCheckExecutionContext, postgres: PostgresResource
    ) -> Iterator[dg.AssetCheckResult]:
        selected: dict[str, list[Connector]] = {name: [] for name in _DESCRIPTIONS}
        for key in context.op_execution_context.selected_asset_check_keys:
            selected[key.name].append(known[key.asset_key.path[-1]])
        with postgres.connection() as conn:
            yield from check_duplicates(conn, selected["no_duplicates"])
            yield from check_vault_entries(conn, selected["vault_entries"])
            for connector in selected["nothing_overdue"]:
                yield check_overdue(conn, connector)
            for connector in selected["fresh"]:
                yield check_fresh(conn, connector)

    return check_recordings


def check_duplicates(conn: _Conn, connectors: Sequence[Connector]) -> Iterator[dg.AssetCheckResult]:
    """Say of each source whether a call of it is stored more than once."""
    for connector, rows in _ask_by_source(conn, "find_duplicates_by_source", connectors):
        yield _judge(
            "no_duplicates",
            connector,
            rows,
            "Every call is stored once.",
            "Calls that are stored more than once",
            "An older importer stored them, or the index recordings_import_key is missing. "
            "`import-pipeline duplicates` merges them, `import-pipeline migrate --check` says what is missing.",
            ["User", "External id", "Copies"],
            [(row["owner"], row["external_id"], row["copies"]) for row in rows],
        )


def check_vault_entries(conn: _Conn, connectors: Sequence[Connector]) -> Iterator[dg.AssetCheckResult]:
    """Say of each source whether a recording of it is in no vault."""
    for connector, rows in _ask_by_source(conn, "find_unvaulted_by_source", connectors):
        yield _judge(
            "vault_entries",
            connector,
            rows,
            "Every recording is in a vault.",
            "Recordings that are in no vault",
            "Nobody sees them there. Launch the job repair_vault_entries.",
            ["User", "Title", "Recording"],
            [(row["owner"], row["title"], row["recording_id"]) for row in rows],
        )


def check_overdue(conn: _Conn, connector: Connector) -> dg.AssetCheckResult:
    """Say whether an item of a source waits past its deadline."""
    limit = connector.transcript_deadline + _OVERDUE_AFTER
    rows = _ask(conn, "find_overdue_items", source_app=connector.source_app, seconds=limit.total_seconds())
    return _judge(
        "nothing_overdue",
        connector,
        rows,
        f"Nothing waits for more than {_span(limit)}.",
        f"Items that wait for more than {_span(limit)}",
        "A sync of their accounts imports them or says why not; the check fresh and the asset import_health say why "
        "none came.",
        ["Account", "Item", "Waiting since", "Next attempt", "Why"],
        [
            (
                row["label"],
                row["title"] or row["external_id"],
                show_time(row["waiting_since"]),
                show_time(row["retry_at"]),
                row["reason"] or "",
            )
            for row in rows
        ],
    )


def check_fresh(conn: _Conn, connector: Connector) -> dg.AssetCheckResult:
    """Say whether every active account of a source was synced lately; a warning, because nothing is lost by waiting."""
    limit = 2 * connector.polling_interval + _LATE_AFTER
    rows = _ask(conn, "find_late_accounts", source_app=connector.source_app, seconds=limit.total_seconds())
    return _judge(
        "fresh",
        connector,
        rows,
        f"No active account has waited for a sync for more than {_span(limit)}.",
        f"Active accounts that were not synced for {_span(limit)} or more",
        "The reason stands beside each. If no run is started, switch on the sensor or schedule of "
        f"{connector.title} under Automation.",
        ["Account", "Last success", "Why"],
        [
            (
                row["label"],
                show_time(row["last_sync_at"]),
                describe_account_problem(row, connector) or "no run was started for it",
            )
            for row in rows
        ],
        severity=dg.AssetCheckSeverity.WARN,
    )


def _ask_by_source(conn: _Conn, name: str, connectors: Sequence[Connector]) -> Iterator[tuple[Connector, _Rows]]:
    """Ask about all sources at once, because each of these questions reads all recordings; and name the owners."""
    if not connectors:
        return
    rows = _ask(conn, name, source_apps=[connector.source_app for connector in connectors])
    names = name_users(conn, [row["user_id"] for row in rows if row["user_id"] is not None])
    for row in rows:
        row["owner"] = names.get(row["user_id"], "nobody")
    for connector in connectors:
        yield connector, [row for row in rows if row["source_app"] == connector.source_app]


def _ask(conn: _Conn, name: str, **parameters: Any) -> _Rows:
    with acting_as(conn, None), conn.cursor(row_factory=dict_row) as cursor:
        return cursor.execute(query(name), parameters | {"limit": _MOST_SHOWN}).fetchall()


def _judge(
    name: str,
    connector: Connector,
    found: _Rows,
    good: str,
    bad: str,
    advice: str,
    headings: Sequence[str],
    cells: Sequence[Sequence[Any]],
    severity: dg.AssetCheckSeverity = dg.AssetCheckSeverity.ERROR,
) -> dg.AssetCheckResult:
    """Pass if nothing was found, else say how much of what is `bad`, and show it."""
    key = recordings_key(connector)
    if not found:
        return dg.AssetCheckResult(check_name=name, asset_key=key, passed=True, description=good)
    return dg.AssetCheckResult(
        check_name=name,
        asset_key=key,
        passed=False,
        severity=severity,
        description=f"{bad}: {found[0]['total']}. {advice}",
        metadata={"found": dg.MetadataValue.md(to_markdown(headings, cells))},
    )


def _span(span: timedelta) -> str:
    minutes = round(span.total_seconds() / 60)
    if minutes < 120:
        return f"{minutes} minutes"
    return f"{minutes / 60:.0f} hours" if minutes < 48 * 60 else f"{minutes / 1440:.1f} days".replace(".0", "")
