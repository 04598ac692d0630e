"""The jobs: one import job per connector, and `migrate`.

Derived, never written by hand: a connector that is found has its job. What the ops do is in `stages/`.
"""

import dagster as dg
from pydantic import Field

from import_pipeline.connectors.base import Connector
from import_pipeline.database import migrations
from import_pipeline.database.migrations import find_changes
from import_pipeline.stages.graph import import_recordings
from import_pipeline.stages.postgres import PostgresResource
from import_pipeline.stages.report import RETRY_TAG
from import_pipeline.stages.run import lease_keeper
from import_pipeline.stages.staging import StreamIOManager
from import_pipeline.stages.windows import history_config, monthly_partitions

NOT_TRIED_AGAIN = {"dagster/max_retries": "0"}
"""Tags of runs that a person launches, or that come again by themselves: what broke them is not repaired by retries."""


def build_import_job(
    connector: Connector, *, postgres: PostgresResource, io_manager: StreamIOManager
) -> dg.JobDefinition:
    """Return the job `import_<source>` of a connector.

    Args:
        connector: The source.
        postgres: Where the recordings go.
        io_manager: Where batches wait between the ops.
    """
    partitions = monthly_partitions(connector)
    description = connector.description
    if partitions is not None:
        description += " Without a partition it imports what is new; with one, that month for every active account."
    return import_recordings.to_job(
        name=connector.job_name,
        description=description,
        resource_defs={
            "connector": dg.ResourceDefinition.hardcoded_resource(connector),
            "postgres": postgres,
            "leases": lease_keeper,
            "io_manager": io_manager,
        },
        partitions_def=partitions,
        config=None if partitions is None else history_config(connector, partitions),
        executor_def=dg.in_process_executor,
        # A step breaks only when the database, the source or the machine did: what it had not done is tried again.
        tags={"source": connector.source_app, "lane": "live", RETRY_TAG: "true"},
    )


class MigrateConfig(dg.Config):
    """What to do about pending migrations."""

    check_only: bool = Field(default=False, description="Say what is pending or has drifted, change nothing.")
    agreed: bool = Field(
        default=False, description="Change what was in the database before us, as the run before said."
    )


@dg.op(description="Applies the pending migrations of `sql/migrations/`; fails if somebody changed what they made.")
def apply_migrations(context: dg.OpExecutionContext, config: MigrateConfig, postgres: PostgresResource) -> list[str]:
    """Return the versions that were applied now."""
    with postgres.connection_as_owner() as conn:
        pending = [] if config.check_only or config.agreed else migrations.find_pending(conn)
        for run in migrations.find_working_runs(conn) if pending else ():
            context.log.warning(f"Run {run} is working. If it is of an earlier version, its calls will fail.")
        if pending and (changes := find_changes(conn)):
            raise dg.Failure(
                description="Nothing was changed yet. To do this to the library that is there, run it again with "
                f"`agreed: true`, or `import-pipeline migrate`: {'; '.join(map(str, changes))}",
                allow_retries=False,
            )
        done = [] if config.check_only else migrations.apply(conn)
        status = migrations.check(conn)
    applied = [f"{migration.version}_{migration.name}" for migration in done]
    context.log.info(f"Applied: {', '.join(applied)}" if applied else "Nothing was applied.")
    if not status.is_current:
        lines = [f"{migration.filename} is pending" for migration in status.pending]
        raise dg.Failure(description="; ".join(lines + [str(drift) for drift in status.drifted]), allow_retries=False)
    context.add_output_metadata({"applied": applied or "nothing was pending"})
    return applied


@dg.job(description="Brings the database to this version of import_pipeline.", executor_def=dg.in_process_executor)
def migrate() -> None:
    """Apply the migrations from the UI; `import-pipeline migrate` does the same."""
    apply_migrations()
