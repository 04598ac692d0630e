"""The sensor `watch_drop_folder`: it asks for runs that import what people put into the drop folder.

Like the sensors of the other sources it keeps nothing in memory or in a cursor: what lies there it reads from the
folder, for whom a run is under way from Dagster, what was asked for from the database (`library/drop_folder.py`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import dagster as dg
import psycopg
from dagster._core.storage.tags import RUN_KEY_TAG
from psycopg.rows import dict_row

from import_pipeline.connectors.base import Connector
from import_pipeline.connectors.file_upload.fences import DROP_FOLDER, drop_folder
from import_pipeline.connectors.file_upload.files import SETTLE_SECONDS, describe_os_error, path_as_text
from import_pipeline.database.errors import describe_database_error
from import_pipeline.database.sql import query
from import_pipeline.database.tenancy import acting_as
from import_pipeline.defs.sensors import INTERVAL_SECONDS, find_busy_users, find_ended_runs, find_outstanding_runs
from import_pipeline.errors import AccountLockedError, ImportPipelineError
from import_pipeline.library.drop_folder import (
    DropAccount,
    DroppedFile,
    UserFolder,
    find_drop_accounts,
    find_due_files,
    find_requests,
    forget_files,
    note_request,
    scan_drop_folder,
    settle_request,
)
from import_pipeline.providers.source_settings import number_setting
from import_pipeline.stages.postgres import PostgresResource

FILES_PER_RUN = 500
"""How many files a run is asked to import at most: their paths are in its configuration."""
OUTSTANDING_RUNS = 10
"""How many runs may be queued or under way before it asks for more; of one user there is never more than one."""
_SHOWN_PROBLEMS = 5


def build_drop_folder_sensor(connector: Connector) -> dg.SensorDefinition:
    """Return the sensor of the drop folder.

    Args:
        connector: The source of files.
    """

    @dg.sensor(
        name="watch_drop_folder",
        job_name=connector.job_name,
        minimum_interval_seconds=INTERVAL_SECONDS,
        default_status=dg.DefaultSensorStatus.STOPPED,
        description="Imports the files that people put into IMPORT_PIPELINE_DROP_FOLDER/<user e-mail>/, once they are "
        "complete. Nothing there is ever changed, moved or deleted.",
    )
    def watch(context: dg.SensorEvaluationContext, postgres: PostgresResource) -> list[dg.RunRequest] | dg.SkipReason:
        return ask_for_files(context.instance, postgres, connector)

    return watch


def ask_for_files(
    instance: dg.DagsterInstance, postgres: PostgresResource, connector: Connector
) -> list[dg.RunRequest] | dg.SkipReason:
    """Return requests for runs that import what is new in the drop folder, or say why there is nothing to request.

    Raises:
        dg.DagsterError: The database cannot be reached or is not migrated; one sentence says so in the UI.
    """
    root = drop_folder()
    if root is None:
        return dg.SkipReason(f"{DROP_FOLDER} is not set, so there is no folder to watch.")
    try:
        settle_seconds = number_setting("IMPORT_PIPELINE_SETTLE_SECONDS", SETTLE_SECONDS)
        folders, problems = scan_drop_folder(root, settle_seconds)
        with postgres.connection() as conn:
            runs = find_outstanding_runs(instance, conn, connector)
            busy = find_busy_users(conn, [*runs, *find_ended_runs(instance, connector)])
            if busy is None:
                return dg.SkipReason("A run that names no user is queued or under way; the folder waits until it ends.")
            users = [folder.user for folder in folders]
            accounts = find_drop_accounts(conn, connector.source_app, users, creates_users=False)
            if postgres.is_embedded and not all(isinstance(account, DropAccount) for account in accounts.values()):
                with postgres.connection_as_owner() as owner:
                    accounts = find_drop_accounts(owner, connector.source_app, users, creates_users=True)
            watch = _Tick(instance, conn, connector, busy, room=OUTSTANDING_RUNS - len(runs))
            requests = watch.ask(folders, accounts)
    except OSError as error:
        return dg.SkipReason(f"The drop folder {root} {describe_os_error(error)}.")
    except ImportPipelineError as error:
        raise dg.DagsterError(str(error)) from None
    except psycopg.Error as error:
        raise dg.DagsterError(f"The database did not do what was asked: {describe_database_error(error)}.") from None
    problems += [f"{user} {account}" for user, account in accounts.items() if isinstance(account, str)]
    return requests or dg.SkipReason(_explain(root, folders, watch, problems))


@dataclass
class _Tick:
    """One look at the drop folder: what is asked for, and what has to wait for the next look.

    Attributes:
        room: How many runs may be asked for.
        working: Users for whom a run is queued or under way.
        pausing: Users whose last run came to nothing a short while ago.
        left: Users for whom there is no room now.
        locked: Users whose account another session has locked.
    """

    instance: dg.DagsterInstance
    conn: psycopg.Connection[Any]
    connector: Connector
    busy: set[UUID]
    room: int
    working: int = 0
    pausing: int = 0
    left: int = 0
    locked: int = 0

    def ask(self, folders: Sequence[UserFolder], accounts: Mapping[str, DropAccount | str]) -> list[dg.RunRequest]:
        """Return what to ask for, first for whom nothing was imported for the longest time."""
        owned = [(folder, account) for folder in folders if isinstance(account := accounts[folder.user], DropAccount)]
        requests: list[dg.RunRequest] = []
        for folder, account in sorted(owned, key=lambda each: each[1].last_sync_at):
            if account.is_held or account.user_id in self.busy:
                self.working += 1
                continue
            new, due = self._find_new(folder, account)
            if not new and not due:
                continue
            if account.is_paused:
                self.pausing += 1
            elif len(requests) >= self.room:
                self.left += 1
            else:
                try:
                    requests.append(self._request(account, new, due))
                except AccountLockedError:
                    self.locked += 1
        return requests

    def _find_new(self, folder: UserFolder, account: DropAccount) -> tuple[list[DroppedFile], list[DroppedFile]]:
        """Note the end of earlier requests, and return the files that are new and those that are to be tried again."""
        known = find_requests(self.conn, account)
        for request in {request for request in known.values() if request is not None}:
            done = self._is_worked_through(account, request)
            settle_request(self.conn, account, request, is_worked_through=done)
            if not done:
                known = {version: open_in for version, open_in in known.items() if open_in != request}
        due = find_due_files(self.conn, account, self.connector.source_app, folder.path, FILES_PER_RUN)
        gone = known.keys() - {file.version for file in (*folder.files, *due)}
        if gone and not folder.problems:
            forget_files(self.conn, account, gone)
        new = [file for file in folder.files if file.version not in known]
        return new[:FILES_PER_RUN], [file for file in due if file.version not in known]

    def _is_worked_through(self, account: DropAccount, request: str) -> bool:
        """Say whether the run of a request came to its end, whatever became of its files."""
        runs = self.instance.get_runs(dg.RunsFilter(tags={RUN_KEY_TAG: request}))
        for run_id in {run.root_run_id or run.run_id for run in runs}:
            with acting_as(self.conn, account.user_id), self.conn.cursor(row_factory=dict_row) as cursor:
                row = cursor.execute(query("find_run"), {"user_id": account.user_id, "run_id": run_id}).fetchone()
            if row is not None and row["status"] in ("completed", "completed_with_errors"):
                return True
        return False

    def _request(self, account: DropAccount, new: list[DroppedFile], due: list[DroppedFile]) -> dg.RunRequest:
        key = f"{self.connector.source_app}/{datetime.now(UTC):%Y-%m-%dT%H:%M:%S.%fZ}/{account.user_id}"
        note_request(self.conn, account, key, [*new, *due])
        options = {
            "dropped": [path_as_text(file.path) for file in new],
            "again": [path_as_text(file.path) for file in due],
        }
        config = {"users": [str(account.user_id)], "options": options}
        return dg.RunRequest(run_key=key, run_config={"ops": {"connect": {"config": config}}}, tags={"lane": "live"})


def _explain(root: Path, folders: Sequence[UserFolder], tick: _Tick, problems: list[str]) -> str:
    """Say why no run is requested."""
    files = sum(len(folder.files) for folder in folders)
    parts = [f"Nothing to import in {root}. Users: {len(folders)}, files: {files}"]
    for number, what in (
        (sum(folder.young for folder in folders), "files that are not complete yet"),
        (tick.working, "users whose files are being imported now"),
        (tick.pausing, "users whose last run came to nothing and is repeated after a pause"),
        (tick.left, "users who wait until other runs end"),
        (tick.locked, "users whose account another session has locked"),
        (sum(folder.links for folder in folders), "links, which are not followed"),
    ):
        if number:
            parts.append(f"{what}: {number}")
    problems = [*problems, *(problem for folder in folders for problem in folder.problems)]
    more = f" … and {len(problems) - _SHOWN_PROBLEMS} more" if len(problems) > _SHOWN_PROBLEMS else ""
    told = f" Left alone: {'; '.join(problems[:_SHOWN_PROBLEMS])}{more}." if problems else ""
    return ", ".join(parts) + "." + told
