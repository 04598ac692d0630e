"""Importing months of history from the command line: the plan, one run after the other, and what came of them."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Any
from uuid import UUID

import click
import dagster as dg
import psycopg

from import_pipeline.cli.output import complain, plural, print_json, print_table, say
from import_pipeline.cli.run_import import KINDS
from import_pipeline.cli.run_job import Ended, Execution, find_run, open_instance
from import_pipeline.connectors.base import Connector
from import_pipeline.database.opening import Database
from import_pipeline.database.tenancy import database_time
from import_pipeline.errors import ConfigurationError
from import_pipeline.library.accounts import FoundAccount, find_run_accounts
from import_pipeline.providers.credentials import find_options
from import_pipeline.records import Counts
from import_pipeline.stages.run import PARTITION_TAG
from import_pipeline.stages.windows import list_months, plan_month, span_of

_SHOWN_ACCOUNTS = 5
_SHOWN_MONTHS = 36
_REMEMBERED_RUNS = 1000


@dataclass(frozen=True)
class PlannedMonth:
    """A month to import.

    Attributes:
        start: Its first day.
        windows: How many spans each account's listing is asked for.
        imported_at: When a run for the same accounts or for all has last imported it without a failure.
    """

    start: date
    windows: int
    imported_at: datetime | None

    @property
    def name(self) -> str:
        """What people call it."""
        return f"{self.start:%Y-%m}"


@dataclass(frozen=True)
class Plan:
    """What a backfill would do.

    Attributes:
        connector: The source.
        users: What each run is told of them; empty means every active account.
        accounts: For whom.
        months: Newest first.
    """

    connector: Connector
    users: list[str]
    accounts: list[FoundAccount]
    months: list[PlannedMonth]


@dataclass(frozen=True)
class MonthResult:
    """What became of a month, all accounts together."""

    month: PlannedMonth
    run_id: str
    code: int
    status: str
    counts: dict[str, int]
    problems: list[str]


def run_backfill(
    database: Database,
    connector: Connector,
    users: Sequence[str],
    first: date | None,
    last: date | None,
    *,
    yes: bool,
    as_json: bool,
) -> int:
    """Show the plan, ask, and run it month after month.

    A month that fails does not stop the others, unless the source or the database cannot be reached or no credential
    is accepted: then the others would fail too.

    Args:
        database: Where the recordings go.
        connector: The source.
        users: Addresses or ids; empty means every active account.
        first: The earliest month; None means where the source's history begins.
        last: The latest month; None means the present one.
        yes: Do not ask.
        as_json: Print JSON for programs.

    Returns:
        The exit code.

    Raises:
        ConfigurationError: The months or the users are wrong.
        KeyboardInterrupt: The person interrupted it; the run is closed as cancelled.
        DatabaseUnavailableError: The database, or the one that keeps Dagster's runs, went away.
    """
    with database.connect() as conn:
        months = list_months(connector, database_time(conn), first, last)
    with open_instance(database) as instance:
        with database.connect() as conn:
            plan = _make_plan(conn, instance, connector, users, months)
        _show(plan, as_json=as_json)
        if not yes and not _confirm(plan):
            say("Nothing was done.")
            return 0
        execution = Execution(database, connector, instance)
        results: list[MonthResult] = []
        try:
            for position, month in enumerate(plan.months, start=1):
                label = f"{month.name} ({position} of {len(plan.months)})"
                watched = [account.user_id for account in plan.accounts]
                ended = execution.run({"users": plan.users}, watched, label=label, month=f"{month.start:%Y-%m-01}")
                with database.connect() as conn:
                    result = _read_result(conn, plan, month, ended)
                results.append(result)
                if not sys.stderr.isatty():
                    say(f"{label}: {Counts(**result.counts).in_words()}")
                if result.code > 1:
                    break
        finally:  # whatever ended it, what was done is told
            _tell(plan, results, as_json=as_json)
    return max(result.code for result in results)


def _make_plan(
    conn: psycopg.Connection[Any],
    instance: dg.DagsterInstance,
    connector: Connector,
    users: Sequence[str],
    months: Sequence[date],
) -> Plan:
    accounts = find_run_accounts(conn, connector, users)
    connect = f"`import-pipeline connect {connector.source_app}`"
    if not accounts:
        raise ConfigurationError(f"{connector.title} has no active account; {connect} opens one.")
    for account in accounts if users and connector.authenticates_by else ():
        if find_options(conn, account.id, account.user_id) is None:
            raise ConfigurationError(f"{connector.title} is not connected for {account.label}: run {connect}.")
    user_ids = {account.user_id for account in accounts}
    before = _imported_before(instance, connector, user_ids)
    now = database_time(conn)
    planned = [
        PlannedMonth(month, len(plan_month(connector, span_of(month), now)), before.get(f"{month:%Y-%m-01}"))
        for month in months
    ]
    return Plan(connector, [str(user_id) for user_id in user_ids] if users else [], accounts, planned)


def _imported_before(instance: dg.DagsterInstance, connector: Connector, user_ids: set[UUID]) -> dict[str, datetime]:
    """Return when each month was last imported for all of these users, as far as Dagster remembers."""
    found: dict[str, datetime] = {}
    ours = {str(user_id) for user_id in user_ids}
    records = instance.get_run_records(
        dg.RunsFilter(
            job_name=connector.job_name, statuses=[dg.DagsterRunStatus.SUCCESS], tags={"backfill": connector.source_app}
        ),
        limit=_REMEMBERED_RUNS,
    )
    for record in records:
        month = record.dagster_run.tags.get(PARTITION_TAG)
        config: Any = record.dagster_run.run_config
        users = set(config.get("ops", {}).get("connect", {}).get("config", {}).get("users", []))
        if month is not None and record.end_time is not None and (not users or ours <= users):
            found.setdefault(month, datetime.fromtimestamp(record.end_time, UTC))
    return found


def _show(plan: Plan, *, as_json: bool) -> None:
    labels = [account.label for account in plan.accounts]
    more = len(labels) - _SHOWN_ACCOUNTS
    shown = ", ".join(labels[:_SHOWN_ACCOUNTS]) + (f" and {more} more" if more > 0 else "")
    listings = sum(month.windows for month in plan.months) * len(labels)
    say(
        f"{plan.connector.title} for {plural(len(labels), 'account')} ({shown}): {plural(len(plan.months), 'month')}, "
        f"{plural(listings, 'window')} to list."
    )
    if as_json:
        return
    rows = [(month.name, month.windows, month.imported_at or "") for month in plan.months[:_SHOWN_MONTHS]]
    print_table(["Month", "Windows", "Imported before"], rows)
    if len(plan.months) > len(rows):
        say(f"… and {plural(len(plan.months) - len(rows), 'month')} more, back to {plan.months[-1].name}.")


def _confirm(plan: Plan) -> bool:
    try:
        return click.confirm(f"Import {plural(len(plan.months), 'month')}, the newest first?", err=True)
    except click.Abort:
        if sys.stdin.isatty():
            raise
        raise ConfigurationError("Nobody is there to answer; --yes begins without asking.") from None


def _read_result(conn: psycopg.Connection[Any], plan: Plan, month: PlannedMonth, ended: Ended) -> MonthResult:
    rows = {account.label: find_run(conn, account.user_id, ended.run_id) or {} for account in plan.accounts}
    counts = {kind: sum((row.get("counts") or {}).get(kind, 0) for row in rows.values()) for kind in KINDS}
    failed = [row for row in rows.values() if row.get("status") in ("failed", None)]
    # A problem that all accounts have is the source's; one of a single account must not stop the others.
    classes = {row.get("error_class") for row in failed} if len(failed) == len(rows) else set()
    problems = [f"{label}: {row['error']}" for label, row in rows.items() if row.get("error")]
    if not ended.success and not problems:
        problems = [ended.causes[-1][1] if ended.causes else "The run failed; Dagster's log says why."]
    code = ended.exit_code(classes.pop() if len(classes) == 1 else None)
    status = "completed" if ended.success else "failed" if len(failed) == len(rows) else "completed_with_errors"
    return MonthResult(month, ended.run_id, code, status, counts, problems)


def _tell(plan: Plan, results: Sequence[MonthResult], *, as_json: bool) -> None:
    totals = {kind: sum(result.counts[kind] for result in results) for kind in KINDS}
    if as_json:
        months = [
            {"month": result.month.name, "status": result.status, "run_id": result.run_id, **result.counts}
            | {"problems": result.problems}
            for result in results
        ]
        print_json({"source": plan.connector.source_app, "planned": len(plan.months), **totals, "months": months})
    elif results:
        kinds = [kind for kind in KINDS if kind != "ignored" or totals[kind]]
        rows = [(result.month.name, *(result.counts[kind] for kind in kinds)) for result in results]
        print_table(["Month", *(KINDS[kind] for kind in kinds)], [*rows, ("all", *(totals[kind] for kind in kinds))])
    for result in results:
        for problem in result.problems:
            complain(f"{result.month.name}: {problem}")
    if totals["waiting"]:
        say(f"{totals['waiting']} waiting: the transcript is not there yet; the next sync asks again.")
    if totals["failed"]:
        say("`import-pipeline failures` lists what failed and why; `import-pipeline retry` tries it again.")
    left = len(plan.months) - len(results)
    if left:
        say(f"{plural(left, 'month')} not imported; the same command goes on, and what is done it only lists.")
    elif all(result.code == 0 for result in results):
        say("Every month is imported.")
