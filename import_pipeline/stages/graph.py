"""The graph that wires the stages; the job of every connector is this graph.

`dagster/priority` rises from dedup to insert, so that the in-process executor takes each batch to the database before
it begins the next: the first calls are visible early, and a crash costs at most the batch in hand.
"""

import dagster as dg

from import_pipeline.stages.connect import connect
from import_pipeline.stages.dedup import dedup
from import_pipeline.stages.fetch import fetch
from import_pipeline.stages.insert import insert
from import_pipeline.stages.report import report
from import_pipeline.stages.transform import transform


@dg.graph(description="Brings every new call of a source into the library, exactly once.")
def import_recordings() -> None:
    """Wire the stages."""
    listed = fetch(connect())
    summaries = listed.batches.map(lambda batch: insert(transform(dedup(batch)))).collect()
    report(listed.listings, summaries)
