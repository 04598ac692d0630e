"""Stage 1, connect: which accounts this run works on.

Finds them, takes the lease of each, checks and refreshes its credential, and opens its `sync_jobs` row. What it hands
on holds references only, no secret.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any
from uuid import UUID

import dagster as dg
from psycopg.rows import tuple_row
from psycopg.types.json import Jsonb
from pydantic import Field

from import_pipeline.connectors.base import Connector
from import_pipeline.database.planted import require_nothing_planted
from import_pipeline.database.sql import query
from import_pipeline.database.tenancy import ACCOUNT_LOCK_SECONDS, acting_as
from import_pipeline.errors import (
    ConfigurationError,
    ErrorClass,
    ImportPipelineError,
    class_of,
    describe_problem,
    one_line,
)
from import_pipeline.library.accounts import FoundAccount, find_run_accounts
from import_pipeline.library.clients import Storage, open_credential
from import_pipeline.library.drop_folder import note_shared_folders
from import_pipeline.library.leases import LOCKED, WAIT_SECONDS, LeaseKeeper
from import_pipeline.library.ledger import retry_failures
from import_pipeline.library.sync_jobs import close_abandoned_runs, progress_of
from import_pipeline.providers.credentials import find_options
from import_pipeline.records import Account, JsonObject
from import_pipeline.stages.postgres import PostgresResource
from import_pipeline.stages.run import heed_cancellation, is_repeated_by_a_person
from import_pipeline.stages.staging import StreamIOManager


class ConnectConfig(dg.Config):
    """Which accounts to work on, and what the source needs to know beyond them. Never a secret: it is stored."""

    users: list[str] = Field(
        default=[], description="E-mail addresses or ids of the users to import for; empty means every active account."
    )
    options: dict[str, Any] = Field(
        default={},
        description="What this source needs to know beyond its accounts, such as the paths of an upload. Here it takes "
        "only paths below the folders of IMPORT_PIPELINE_UPLOAD_FOLDERS; if that is not set, it takes none.",
    )
    full: bool = Field(
        default=False, description="List the whole history again, not only what came since the last complete run."
    )


@dg.op(
    tags={"dagster/priority": "0"}, description="Finds the accounts of this run, takes their lease, opens sync_jobs."
)
def connect(
    context: dg.OpExecutionContext,
    config: ConnectConfig,
    postgres: PostgresResource,
    leases: dg.ResourceParam[LeaseKeeper],
    connector: dg.ResourceParam[Connector],
    io_manager: dg.ResourceParam[StreamIOManager],
) -> list[Account]:
    """Return the accounts of this run; those that could not be taken carry their problem."""
    heed_cancellation(context)
    io_manager.private_base()  # before anything is done that would have to wait there
    accounts = open_accounts(
        connector,
        Storage(postgres.connection, postgres.is_embedded),
        config.users,
        config.options,
        leases,
        forget_run=io_manager.remove_run,
        full=config.full,
        retries_failed=is_repeated_by_a_person(context),
    )
    if not accounts:
        context.log.warning(f"{connector.title} has no active account, so there is nothing to import.")
    for account in accounts:
        if account.problem:
            context.log.error(f"{account.label}: {account.problem}")
    return accounts


def open_accounts(
    connector: Connector,
    storage: Storage,
    users: Sequence[str],
    options: JsonObject,
    leases: LeaseKeeper,
    wait_seconds: float = WAIT_SECONDS,
    forget_run: Callable[[str, UUID], None] = lambda _, __: None,
    *,
    full: bool = False,
    retries_failed: bool = False,
) -> list[Account]:
    """Find the accounts of a run and open each; no connection is kept while other runs or the source are waited for.

    Args:
        connector: The source.
        storage: The database.
        users: Addresses or ids; empty means every active account.
        options: See `Connector.check_options`.
        leases: Takes the accounts' leases for the run.
        wait_seconds: How long to wait for accounts that other runs have, all of them together.
        forget_run: Removes what a crashed run had staged, if it had opened the account.
        full: Take the accounts for new ones; the cursor in the database still only moves forward.
        retries_failed: Make what failed in this run before due at once: somebody asks for it by repeating the run.

    Raises:
        ConfigurationError: A user is unknown or has no account at this source, or an option is wrong.
    """
    checked = connector.check_options(dict(options))
    if not connector.is_polled and len(set(users)) != 1:
        raise ConfigurationError(f"{connector.title} is for one person: name exactly one user in 'users'.")
    with storage.connect() as conn:
        with acting_as(conn, None):
            require_nothing_planted(conn)
        found = find_run_accounts(conn, connector, users)
        shared = note_shared_folders(conn) if connector.reads_files else ()
    if full:
        found = [replace(account, last_sync_at=None) for account in found]
    run_id = leases.holder
    try:
        refused = leases.take([account.id for account in found], wait_seconds)
        if retries_failed:
            for account in found:
                with storage.connect() as conn, acting_as(conn, account.user_id, writes=("import_items",)):
                    retry_failures(conn, account.user_id, account.source_app, run_id)
        return [
            replace(
                _open_account(connector, account, storage, checked, run_id, refused.get(account.id), forget_run),
                shared_folders=shared,
            )
            for account in found
        ]
    except BaseException:  # an interrupt too: no row may say yet that this run has them
        leases.release()
        raise


def _open_account(
    connector: Connector,
    found: FoundAccount,
    storage: Storage,
    options: JsonObject,
    run_id: str,
    taken: str | None,
    forget_run: Callable[[str, UUID], None],
) -> Account:
    problem: ImportPipelineError | None = None
    if taken is None and connector.authenticates_by:
        with storage.connect() as conn:
            options = (find_options(conn, found.id, found.user_id) or {}) | options
        problem = _check_credential(connector, found, storage)
        if problem is None and connector.addresses and not options.get("addresses"):
            command = f"import-pipeline connect {connector.source_app}"
            problem = ConfigurationError(f"Nothing says what to import: give `{command}` {connector.addresses}.")
    metadata = {"source_app": found.source_app, "account_id": str(found.id), "run_id": run_id, "options": options}
    shown = one_line(found.label)
    with (
        storage.connect() as conn,
        acting_as(conn, found.user_id, writes=("sync_jobs",), lock_seconds=ACCOUNT_LOCK_SECONDS),
        conn.cursor(row_factory=tuple_row) as cursor,
    ):
        cursor.execute(query("find_oldest_open"), {"user_id": found.user_id, "source_app": found.source_app})
        opened_at, oldest_open_at = cursor.fetchone()  # type: ignore[misc]
        account = Account(
            id=found.id,
            user_id=found.user_id,
            source_app=found.source_app,
            label=shown if shown == found.label else f"{shown} ({found.user_id})",
            opened_at=opened_at,
            last_sync_at=found.last_sync_at,
            options=options,
            oldest_open_at=oldest_open_at,
        )
        with progress_of(account, conn):
            cursor.execute(
                query("open_sync_job"),
                {
                    "user_id": found.user_id,
                    "run_id": run_id,
                    "account_id": str(found.id),
                    "metadata": Jsonb(metadata),
                },
            )
            (job_id,) = cursor.fetchone()  # type: ignore[misc]
            account = replace(account, sync_job_id=job_id)
    if not taken:
        with storage.connect() as conn:
            abandoned = close_abandoned_runs(conn, account, run_id)
        for run in abandoned:  # nobody will go on with it, and what it staged holds transcripts
            forget_run(run, found.id)
    if taken:
        # Who has taken the account will tell how it went; who has locked its row will not.
        problem_class: ErrorClass | None = "transient" if taken == LOCKED else None
        return replace(account, problem=f"{taken}; this account was left for the next run", problem_class=problem_class)
    if problem is not None:
        return replace(account, problem=describe_problem(problem), problem_class=class_of(problem))
    return account


def _check_credential(connector: Connector, found: FoundAccount, storage: Storage) -> ImportPipelineError | None:
    try:
        credential = open_credential(connector, found.id, found.user_id, storage)
        if credential is not None:
            credential.check()
    except ImportPipelineError as error:
        return error
    return None
