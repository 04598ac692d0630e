"""The check `coverage` of every source that can be asked for a month, and the job that a person launches it by.

It costs requests, so it never runs by itself. The comparison is in `stages/coverage.py`; here is how the UI shows it.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import dagster as dg
import psycopg
from pydantic import Field

from import_pipeline.connectors.base import Connector
from import_pipeline.database.tenancy import database_time
from import_pipeline.defs.assets import recordings_key
from import_pipeline.defs.jobs import NOT_TRIED_AGAIN
from import_pipeline.defs.tables import MOST_ROWS, show_time, to_markdown
from import_pipeline.errors import ConfigurationError, ImportPipelineError
from import_pipeline.library.accounts import FoundAccount, find_accounts, find_user
from import_pipeline.library.clients import Storage
from import_pipeline.records import Window
from import_pipeline.stages.coverage import VERDICTS, Coverage, compare_account, parse_month
from import_pipeline.stages.postgres import PostgresResource

CHECK_NAME = "coverage"
_MOST_ACCOUNTS = 10
_URGENCY = ("missing", "failed", "waiting", "new", "no longer listed", "deleted", "ignored", "imported")


class CoverageConfig(dg.Config):
    """What to compare."""

    user: str = Field(
        default="",
        description=f"E-mail address or id of the user; empty means the first {_MOST_ACCOUNTS} active accounts.",
    )
    month: str = Field(default="", description="For instance 2024-05; empty means this month.")


def build_coverage(connectors: Iterable[Connector]) -> tuple[list[dg.AssetChecksDefinition], list[Any]]:
    """Return the check of each source that can be asked for a month, and the jobs that run them."""
    asked = [connector for connector in connectors if connector.partitioned]
    return [_build_check(each) for each in asked], [_build_job(each) for each in asked]


def _build_job(connector: Connector) -> Any:
    return dg.define_asset_job(
        f"check_coverage_{connector.dagster_name}",
        selection=dg.AssetSelection.checks(dg.AssetCheckKey(recordings_key(connector), CHECK_NAME)),
        description=f"Compares what {connector.title} lists for a user and month with what is in the library, call by "
        "call. Choose Launchpad to say for whom and which month.",
        executor_def=dg.in_process_executor,
        tags=NOT_TRIED_AGAIN,
    )


def _build_check(connector: Connector) -> dg.AssetChecksDefinition:
    @dg.multi_asset_check(
        name=f"compare_{connector.dagster_name}",
        description=f"Compares what {connector.title} lists with what is in the library.",
        specs=[
            dg.AssetCheckSpec(
                CHECK_NAME,
                asset=recordings_key(connector),
                description=f"What {connector.title} lists for an account and month is in the library, or it is said "
                f"why not. The job check_coverage_{connector.dagster_name} runs it for any user and month; see the "
                "Execution history for what it found.",
            )
        ],
    )
    def coverage(config: CoverageConfig, postgres: PostgresResource) -> Iterable[dg.AssetCheckResult]:
        storage = Storage(postgres.connection, postgres.is_embedded)
        with postgres.connection() as conn:
            try:
                month = parse_month(config.month, database_time(conn))
                accounts, number = find_compared_accounts(conn, connector, config.user)
            except ConfigurationError as error:
                raise dg.Failure(description=str(error), allow_retries=False) from error
            compared: list[Coverage] = []
            problems: dict[str, str] = {}
            for found in accounts:
                try:
                    compared.append(compare_account(conn, connector, found, month, storage))
                except ImportPipelineError as error:
                    problems[found.label] = str(error)
        yield _judge(connector, compared, problems, number, month)

    return coverage


def find_compared_accounts(
    conn: psycopg.Connection[Any], connector: Connector, user: str
) -> tuple[list[FoundAccount], int]:
    """Return the accounts to compare, bounded, and how many there are.

    Args:
        conn: An idle connection.
        connector: The source.
        user: E-mail address or id; empty means all active accounts.

    Raises:
        ConfigurationError: The user is unknown or has no account at this source.
    """
    user = user.strip()
    found = find_accounts(conn, connector.source_app, [find_user(conn, user)] if user else None)
    if user and not found:
        command = f"import-pipeline connect {connector.source_app}"
        raise ConfigurationError(f"The user {user} has no account at {connector.title}; `{command}` opens one.")
    return found[:_MOST_ACCOUNTS], len(found)


def _judge(
    connector: Connector, compared: Sequence[Coverage], problems: dict[str, str], number: int, month: Window
) -> dg.AssetCheckResult:
    missing = sum(each.counts["missing"] for each in compared)
    failed = sum(each.counts["failed"] for each in compared)
    listed = sum(each.listed for each in compared)
    whose = f"{compared[0].label}, " if len(compared) == number == 1 else ""
    told = [f"{whose}{month.start:%B %Y}: {listed} listed, {missing} missing, {failed} failed."]
    if not number:
        told = [f"{connector.title} has no active account, so there is nothing to compare."]
    if problems:
        told.append(f"Accounts that could not be compared: {len(problems)}.")
    if missing:
        told.append("A backfill of this month imports what is missing.")
    if number > len(compared) + len(problems):
        told.append(
            f"{len(compared) + len(problems)} of {number} accounts were looked at; name a user for another one."
        )
    metadata: dict[str, Any] = {}
    if compared:
        headings = ["Account", "Listed", *(verdict.capitalize() for verdict in VERDICTS)]
        figures = [(each.label, each.listed, *(each.counts[verdict] for verdict in VERDICTS)) for each in compared]
        metadata["accounts"] = dg.MetadataValue.md(to_markdown(headings, figures))
    differences = [(each.label, item) for each in compared for item in each.differences]
    differences.sort(key=lambda pair: _URGENCY.index(pair[1].verdict))
    if differences:
        rows = [
            (label, item.title or item.external_id, show_time(item.started_at), item.verdict, item.reason)
            for label, item in differences[:MOST_ROWS]
        ]
        table = to_markdown(["Account", "Call", "Began", "What", "Why"], rows)
        if len(differences) > MOST_ROWS:
            table += f"\n\nThe first {MOST_ROWS} of {len(differences)} differences, the worst first."
        metadata["differences"] = dg.MetadataValue.md(table)
    if problems:
        metadata["not compared"] = dg.MetadataValue.md(to_markdown(["Account", "Why"], list(problems.items())))
    return dg.AssetCheckResult(
        check_name=CHECK_NAME,
        asset_key=recordings_key(connector),
        passed=not missing and not failed and not problems,
        severity=dg.AssetCheckSeverity.ERROR if missing else dg.AssetCheckSeverity.WARN,
        description=" ".join(told),
        metadata=metadata,
    )
