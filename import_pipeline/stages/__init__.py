"""The five stages in their order, one file each, the closing report, and the graph that wires them.

    connect → fetch ⇒ [ dedup → transform → insert ] per batch → report

Ops are thin: the work is in plain functions beside them. `dagster/priority` rises from dedup to insert, so that the
in-process executor takes each batch to the database before it begins the next: the first calls are visible early, and
a crash costs at most the batch in hand.
"""

import dagster as dg

from import_pipeline.stages.connect import connect
from import_pipeline.stages.dedup import dedup
from import_pipeline.stages.fetch import fetch
from import_pipeline.stages.insert import insert
from import_pipeline.stages.report import report
from import_pipeline.stages.transform import transform

__all__ = ["connect", "dedup", "fetch", "import_recordings", "insert", "report", "transform"]


@dg.graph(description="Brings every new call of a source into the library, exactly once.")
def import_recordings() -> None:
    """Wire the stages; every connector's job is this graph."""
    listed = fetch(connect())
    summaries = listed.batches.map(lambda batch: insert(transform(dedup(batch)))).collect()
    report(listed.listings, summaries)
