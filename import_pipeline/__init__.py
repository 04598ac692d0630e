"""import_pipeline: every call recording of a team in one Postgres, exactly once.

The library face, usable without Dagster:

    from import_pipeline import ConnectorRecord, run_pipeline

    result = run_pipeline(conn, user_id, ConnectorRecord(...))

`conn` is any psycopg connection to a migrated database whose login may become `import_worker`.
"""

from import_pipeline.pipeline import (
    check_duplicate,
    check_duplicates,
    insert_recording,
    insert_recordings,
    run_pipeline,
)
from import_pipeline.records import ConnectorRecord, DuplicateCheck, InsertResult, PipelineResult

__all__ = [
    "ConnectorRecord",
    "DuplicateCheck",
    "InsertResult",
    "PipelineResult",
    "check_duplicate",
    "check_duplicates",
    "insert_recording",
    "insert_recordings",
    "run_pipeline",
]
