"""Stage 2, fetch: what the source lists, in batches of one account each.

Pages through the listing and downloads nothing else. A listing that breaks off is a problem of its account, kept for
the report; what was listed before that is worked on all the same.
"""

from collections.abc import Iterator
from itertools import count
from typing import Any

import dagster as dg
import psycopg

from import_pipeline.connectors.base import Connector
from import_pipeline.database.sql import query
from import_pipeline.database.tenancy import acting_as
from import_pipeline.errors import (
    DatabaseUnavailableError,
    ErrorClass,
    ImportPipelineError,
    class_of,
    describe_bug,
    describe_problem,
)
from import_pipeline.library.leases import LeaseKeeper, LeaseLostError
from import_pipeline.library.sync_jobs import progress_of
from import_pipeline.records import Account, Batch, Counts, ListedItem, Listing, Stream, Window
from import_pipeline.stages.listing import list_items
from import_pipeline.stages.postgres import PostgresResource
from import_pipeline.stages.run import ListedItems, open_http
from import_pipeline.stages.windows import plan_windows

FIRST_BATCH_SIZE = 50
"""The first calls of an account should not wait for a whole batch, which takes minutes where requests are rationed."""
BATCH_SIZE = 250
"""Each batch costs 21 events of Dagster's log; a crash costs what was fetched of the batch in hand."""
BATCH_BYTES = 64_000_000
"""Large items come in smaller batches: a batch is what a crash costs, and what is staged at a time."""


@dg.op(
    out={
        "batches": dg.DynamicOut(ListedItems, description="At most 250 listed items of one account each."),
        "listings": dg.Out(list[Listing], description="How far the listing of each account came."),
    },
    tags={"dagster/priority": "0"},
    description="Pages through what each account lists and cuts it into batches.",
)
def fetch(
    context: dg.OpExecutionContext,
    accounts: list[Account],
    postgres: PostgresResource,
    leases: dg.ResourceParam[LeaseKeeper],
    connector: dg.ResourceParam[Connector],
) -> Iterator[Any]:
    """Yield every batch of every account, then how far each listing came."""
    partition = None
    if context.has_partition_key:
        span = context.partition_time_window
        partition = Window(span.start, span.end)

    def list_account(account: Account) -> Iterator[ListedItem]:
        # Opened with the first item: what keeps it from opening is a problem of this account's listing.
        with open_http(context, postgres, connector, account) as http:
            yield from list_items(connector, account, http, partition)

    listings = []
    for position, account in enumerate(accounts):
        if account.problem:
            listings.append(
                Listing(account, 0, complete=False, problem=account.problem, error_class=account.problem_class)
            )
            continue
        listed, is_complete = 0, False
        problem: str | None = None
        error_class: ErrorClass | None = None
        items = leases.hold(account.id, list_account(account))
        for number in count():
            batch: list[ListedItem] = []
            size = BATCH_SIZE if number else FIRST_BATCH_SIZE
            try:
                # A listing that breaks off in the middle of a batch has still listed what came before.
                for item in items:
                    batch.append(item)
                    if len(batch) == size or sum(each.size_bytes for each in batch) >= BATCH_BYTES:
                        break
                else:
                    is_complete = True
            except LeaseLostError as error:
                batch.clear()  # the run that has the account now lists it too, and this one may write nothing for it
                problem, error_class = describe_problem(error), class_of(error)
            except (DatabaseUnavailableError, psycopg.Error):
                raise  # which is not the source's fault
            except ImportPipelineError as error:
                problem, error_class = describe_problem(error), class_of(error)
            except Exception as error:  # noqa: BLE001 - a mistake in one connector's listing must not stop other accounts
                problem, error_class = describe_bug(error), "bug"
            if batch:
                listed += len(batch)
                _extend(postgres, account, len(batch))
                # An iterator lets go of its list when it is used up: a long history is not kept in memory.
                yield dg.DynamicOutput(
                    Stream(Batch(account, number, Counts(listed=len(batch))), iter(batch)),
                    mapping_key=f"{position}_{number:05d}",
                    output_name="batches",
                )
            if problem or is_complete:
                break
        if problem:
            context.log.error(f"The listing of {account.label} broke off after {listed} items: {problem}")
        windows = plan_windows(connector, account, partition)
        since, until = (windows[-1].start, windows[0].end) if windows else (None, None)
        listings.append(Listing(account, listed, is_complete, problem, error_class, since, until))
    yield dg.Output(listings, "listings")


def _extend(postgres: PostgresResource, account: Account, listed: int) -> None:
    with (
        postgres.connection() as conn,
        acting_as(conn, account.user_id, writes=("sync_jobs",)),
        progress_of(account, conn),
    ):
        conn.execute(
            query("extend_sync_job"), {"id": account.sync_job_id, "user_id": account.user_id, "listed": listed}
        )
