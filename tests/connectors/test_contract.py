"""What every connector that is found must be, and what the demo shows of the contract."""

from __future__ import annotations

from datetime import timedelta

import dagster as dg
import pytest
from connectors.demo import ConcurrentDemo, Demo, OtherDemo, UnpartitionedDemo

from import_pipeline.connectors.base import Connector, check_declaration, discover_connectors
from import_pipeline.errors import ConfigurationError
from import_pipeline.jobs import build_import_job
from import_pipeline.postgres import PostgresResource
from import_pipeline.staging import StreamIOManager

ALL = [*discover_connectors().values(), Demo(), OtherDemo(), UnpartitionedDemo(), ConcurrentDemo()]


@pytest.fixture(params=ALL, ids=lambda connector: type(connector).__name__)
def connector(request: pytest.FixtureRequest) -> Connector:
    found: Connector = request.param
    return found


def test_it_declares_what_it_is(connector: Connector) -> None:
    check_declaration(type(connector))
    assert connector.documentation_url.startswith("https://")
    assert connector.description.endswith(".")


def test_its_limits_can_be_kept(connector: Connector) -> None:
    assert connector.concurrency >= 1
    assert connector.look_back >= timedelta(0)
    assert connector.polling_interval > timedelta(0)
    assert connector.transcript_deadline > timedelta(0)
    assert connector.longest_window is None or connector.longest_window > timedelta(0)
    assert connector.history_start.utcoffset() == timedelta(0)


def test_it_refuses_an_option_that_it_does_not_know(connector: Connector) -> None:
    with pytest.raises(ConfigurationError):
        connector.check_options({"an option that nobody knows": 1})


def test_it_gets_a_job_with_the_five_stages_and_the_report(connector: Connector) -> None:
    job = build_import_job(connector, postgres=PostgresResource(), io_manager=StreamIOManager())
    assert job.name == "import_" + connector.source_app.replace("-", "_")
    assert {node.name for node in job.nodes} == {"connect", "fetch", "dedup", "transform", "insert", "report"}
    assert (job.partitions_def is not None) == connector.partitioned
    assert job.tags["source"] == connector.source_app
    assert isinstance(job, dg.JobDefinition)
