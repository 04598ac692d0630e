"""One database, one instance of Dagster and the runs in it: what tests of whole import jobs begin with."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import psycopg
import tenants
from connectors.demo import START, Call, Demo

from import_pipeline.defs.jobs import build_import_job
from import_pipeline.defs.sensors.ended_runs import close_ended_runs
from import_pipeline.library.accounts import ensure_account
from import_pipeline.records import ImportSummary
from import_pipeline.stages.postgres import PostgresResource
from import_pipeline.stages.staging import StreamIOManager


@dataclass
class World:
    """One database, one instance, one staging folder, and the runs in it."""

    conn: psycopg.Connection[Any]
    url: str
    staging: Path
    instance: dg.DagsterInstance
    runs: list[dg.ExecuteInProcessResult] = field(default_factory=list)

    def job(self, connector: Demo) -> dg.JobDefinition:
        return build_import_job(
            connector, postgres=PostgresResource(url=self.url), io_manager=StreamIOManager(base=str(self.staging))
        )

    def run(self, connector: Demo, *, month: str | None = None, **config: Any) -> dg.ExecuteInProcessResult:
        """Run the job; a red run is returned like a green one."""
        result = self.job(connector).execute_in_process(
            run_config={"ops": {"connect": {"config": config}}} if config else None,
            instance=self.instance,
            partition_key=month,
            raise_on_error=False,
        )
        self.runs.append(result)
        return result

    def account(self, email: str, source_app: str = "demo") -> tenants.User:
        """A user with an account at the source."""
        user = tenants.make_user(self.conn, email)
        self.connect(user, source_app)
        return user

    def connect(self, user: tenants.User, source_app: str) -> None:
        ensure_account(self.conn, user.id, source_app, user.email)

    def rows(self, statement: str, *parameters: object) -> list[tuple[Any, ...]]:
        with self.conn.transaction():
            return self.conn.execute(statement, parameters).fetchall()

    def do(self, statement: str, *parameters: object) -> None:
        with self.conn.transaction():
            self.conn.execute(statement, parameters)

    def recordings(self) -> list[str]:
        """External ids in the library, sorted."""
        return [key for (key,) in self.rows("select source_metadata ->> 'external_id' from recordings order by 1")]

    def ledger(self) -> dict[str, tuple[str, str | None, str | None]]:
        """External id → status, class, message."""
        found = self.rows("select external_id, status, error_class, error_message from import_items order by 1")
        return {key: (status, error_class, message) for key, status, error_class, message in found}

    def statuses(self) -> dict[str, str]:
        return {key: row[0] for key, row in self.ledger().items()}

    def cursor(self, user: tenants.User, source_app: str = "demo") -> datetime | None:
        ((cursor,),) = self.rows(
            "select last_sync_at from import_sources where user_id = %s and source_app = %s", user.id, source_app
        )
        return cursor  # type: ignore[no-any-return]

    def jobs(self) -> list[dict[str, Any]]:
        """The rows of `sync_jobs`, oldest first."""
        with self.conn.cursor(row_factory=psycopg.rows.dict_row) as cursor:
            found = cursor.execute("select * from sync_jobs order by created_at").fetchall()
        return found

    def settle(self) -> list[str]:
        """Look for runs that ended without a report, as the sensor does."""
        with psycopg.connect(self.url, autocommit=True) as conn:
            return close_ended_runs(conn, self.instance)

    def due_now(self) -> None:
        """Let every pause be over."""
        self.do("update import_items set retry_at = now() - interval '1 second' where retry_at is not null")


def calls(number: int, *, prefix: str = "call", apart: timedelta = timedelta(minutes=1)) -> list[Call]:
    """Calls that began one after the other, newest last in the list and first in the listing."""
    return [Call(f"{prefix}-{each:03d}", START + each * apart) for each in range(number)]


def summary_of(result: dg.ExecuteInProcessResult) -> ImportSummary:
    summary: ImportSummary = result.output_for_node("report")
    return summary


def problem_of(result: dg.ExecuteInProcessResult, step: str = "report") -> str:
    """The description under which a step failed."""
    for event in result.all_events:
        if event.is_step_failure and event.step_key == step:
            failure = event.step_failure_data
            if failure.user_failure_data is not None:
                return str(failure.user_failure_data.description)
            return failure.error.to_string() if failure.error else ""
    raise AssertionError(f"The step {step} did not fail.")
