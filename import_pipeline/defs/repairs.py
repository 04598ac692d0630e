"""Repairing what a check found: the job `repair_vault_entries`, and the plain function that does the work."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import dagster as dg
import psycopg
from psycopg.rows import tuple_row

from import_pipeline.connectors.base import Connector
from import_pipeline.database.errors import without_own_words
from import_pipeline.database.sql import query
from import_pipeline.database.tenancy import acting_as
from import_pipeline.defs.jobs import NOT_TRIED_AGAIN
from import_pipeline.defs.tables import MOST_ROWS, to_markdown
from import_pipeline.library.ledger import NO_VAULT_ENTRY
from import_pipeline.pipeline import add_missing_vault_entries
from import_pipeline.stages.postgres import PostgresResource

_PAGE = 500
_MOST_REASONS = 5
_FIRST = UUID(int=0)


@dataclass
class VaultRepair:
    """What a repair did.

    Attributes:
        repaired: How many recordings were put into a vault.
        still_missing: Recording → why it is still in none.
    """

    repaired: int = 0
    still_missing: dict[UUID, str] = field(default_factory=dict)


def repair_vault_entries(conn: psycopg.Connection[Any], source_apps: Sequence[str]) -> VaultRepair:
    """Put every recording of these sources that is in no vault into the personal vault of its bank.

    In the name of each owner, a page at a time; what cannot be repaired does not keep the others from it.

    Args:
        conn: An idle connection.
        source_apps: Identifiers of sources.
    """
    repair, after = VaultRepair(), _FIRST
    while True:
        with acting_as(conn, None), conn.cursor(row_factory=tuple_row) as cursor:
            parameters = {"source_apps": list(source_apps), "after": after, "limit": _PAGE}
            page = cursor.execute(query("page_unvaulted"), parameters).fetchall()
        if not page:
            return repair
        after = page[-1][1]
        by_owner: dict[UUID | None, list[UUID]] = defaultdict(list)
        for user_id, recording_id in page:
            by_owner[user_id].append(recording_id)
        for owner, recording_ids in by_owner.items():
            _repair_of_owner(conn, owner, recording_ids, repair)


def _repair_of_owner(
    conn: psycopg.Connection[Any], user_id: UUID | None, recording_ids: list[UUID], repair: VaultRepair
) -> None:
    if user_id is None:
        repair.still_missing |= dict.fromkeys(recording_ids, "it has no owner")
        return
    with acting_as(conn, user_id, writes=("vault_entries", "import_items")):
        errors = add_missing_vault_entries(conn, user_id, recording_ids)
        repaired = [recording_id for recording_id in recording_ids if recording_id not in errors]
        conn.execute(
            query("clear_vault_problems"),
            {"user_id": user_id, "recording_ids": repaired, "prefix": NO_VAULT_ENTRY},
        )
    repair.repaired += len(repaired)
    repair.still_missing |= errors


def build_repair_job(connectors: Iterable[Connector]) -> dg.JobDefinition:
    """Return the job `repair_vault_entries`, for the recordings of these sources."""
    source_apps = [connector.source_app for connector in connectors]

    @dg.op(
        name="add_vault_entries",
        description="Puts every recording that is in no vault into the personal vault of its bank.",
    )
    def add_vault_entries(context: dg.OpExecutionContext, postgres: PostgresResource) -> int:
        with postgres.connection() as conn:
            repair = repair_vault_entries(conn, source_apps)
        metadata: dict[str, Any] = {"repaired": repair.repaired, "still in no vault": len(repair.still_missing)}
        if repair.still_missing:
            reasons = Counter(map(without_own_words, repair.still_missing.values())).most_common(_MOST_REASONS)
            some = [(each, without_own_words(why)) for each, why in repair.still_missing.items()][:MOST_ROWS]
            metadata["recordings"] = dg.MetadataValue.md(to_markdown(["Recording", "Why"], some))
            raise dg.Failure(
                description=f"Put into a vault: {repair.repaired}. Still in none: {len(repair.still_missing)}, because "
                f"{'; '.join(f'{reason} ({number})' for reason, number in reasons)}",
                metadata=metadata,
                allow_retries=False,
            )
        context.add_output_metadata(metadata)
        return repair.repaired

    @dg.job(
        name="repair_vault_entries",
        description="Puts every recording that is in no vault into the personal vault of its bank; the check "
        "vault_entries says whether there are any.",
        executor_def=dg.in_process_executor,
        tags=NOT_TRIED_AGAIN,
    )
    def repair_job() -> None:
        add_vault_entries()

    return repair_job
