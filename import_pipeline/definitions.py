"""What Dagster loads: every job, schedule, sensor and asset, derived from the connectors that are found.

`build_defs` takes overrides, so that tests and special deployments replace a resource or the connectors instead of
patching modules. Importing this needs no environment and touches no database.
"""

from collections.abc import Mapping

import dagster as dg

from import_pipeline.connectors.base import Connector, discover_connectors
from import_pipeline.connectors.file_upload import FileUpload
from import_pipeline.defs.assets import build_assets, build_refresh_sensor
from import_pipeline.defs.assets.checks import build_checks
from import_pipeline.defs.assets.coverage_check import build_coverage
from import_pipeline.defs.jobs import build_import_job, migrate
from import_pipeline.defs.repairs import build_repair_job
from import_pipeline.defs.retention import build_clean_up
from import_pipeline.defs.schedules import build_source_schedule
from import_pipeline.defs.sensors import build_source_sensor
from import_pipeline.defs.sensors.alerts import alert_on_failure
from import_pipeline.defs.sensors.ended_runs import watch_ended_runs
from import_pipeline.defs.sensors.retry_months import build_retry_sensor
from import_pipeline.defs.sensors.watch_drop_folder import build_drop_folder_sensor
from import_pipeline.stages.postgres import PostgresResource
from import_pipeline.stages.staging import StreamIOManager


def build_defs(
    *,
    connectors: Mapping[str, Connector] | None = None,
    postgres: PostgresResource | None = None,
    io_manager: StreamIOManager | None = None,
) -> dg.Definitions:
    """Assemble the definitions.

    Args:
        connectors: Sources by `source_app`; by default all that are found.
        postgres: Where the recordings go; by default `DATABASE_URL` or the embedded server, decided at run time.
        io_manager: Where batches wait; by default a private local folder.
    """
    connectors = discover_connectors() if connectors is None else connectors
    postgres = postgres or PostgresResource()
    io_manager = io_manager or StreamIOManager()
    polled = [each for each in connectors.values() if each.is_polled]
    clean_up, clean_up_every_night = build_clean_up(io_manager)
    coverage_checks, coverage_jobs = build_coverage(connectors.values())
    imports = [build_import_job(each, postgres=postgres, io_manager=io_manager) for each in connectors.values()]
    return dg.Definitions(
        jobs=[
            *imports,
            migrate,
            clean_up,
            build_repair_job(connectors.values()),
            *coverage_jobs,
        ],
        schedules=[*(build_source_schedule(each) for each in polled), clean_up_every_night],
        sensors=[
            *(build_source_sensor(each) for each in polled),
            *(build_drop_folder_sensor(each) for each in connectors.values() if isinstance(each, FileUpload)),
            watch_ended_runs,
            build_retry_sensor(imports),
            alert_on_failure,
            build_refresh_sensor(),
        ],
        assets=build_assets(connectors.values()),
        asset_checks=[build_checks(connectors.values()), *coverage_checks],
        resources={"postgres": postgres},
        executor=dg.in_process_executor,  # of the runs that refresh assets: a process per step costs seconds each
    )


defs = build_defs()
