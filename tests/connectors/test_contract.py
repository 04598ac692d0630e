"""What every connector that is found must be, and what the demo shows of the contract."""

from __future__ import annotations

from datetime import timedelta

import dagster as dg
import pytest
from connectors.demo import ConcurrentDemo, Demo, OtherDemo, UnpartitionedDemo

from import_pipeline.connectors.base import Connector, check_declaration, discover_connectors
from import_pipeline.defs.jobs import build_import_job
from import_pipeline.errors import ConfigurationError
from import_pipeline.providers.authentication import ApiKey
from import_pipeline.stages.postgres import PostgresResource
from import_pipeline.stages.staging import StreamIOManager

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


def test_a_run_that_names_no_options_leaves_an_account_its_own(connector: Connector) -> None:
    if not connector.is_polled:
        with pytest.raises(ConfigurationError):
            connector.check_options({})
    else:
        assert connector.check_options({}) == {}


def test_a_source_with_credentials_says_where_it_is_and_what_it_needs(connector: Connector) -> None:
    kinds = [each.kind for each in connector.authenticates_by]
    assert len(set(kinds)) == len(kinds)
    assert bool(kinds) == bool(connector.permissions)
    if kinds:
        assert connector.base_url.startswith("https://")
        assert not connector.base_url.endswith("/")
    for each in connector.authenticates_by:
        if isinstance(each, ApiKey):
            assert bool(each.header) != bool(each.parameter)
        else:
            assert each.token_url.startswith("https://")


def test_its_rate_limits_have_names_of_their_own(connector: Connector) -> None:
    names = [limit.name for limit in connector.rate_limits]
    assert len(set(names)) == len(names)
    assert all(limit.requests >= 1 and limit.per > timedelta(0) for limit in connector.rate_limits)


def test_it_gets_a_job_with_the_five_stages_and_the_report(connector: Connector) -> None:
    job = build_import_job(connector, postgres=PostgresResource(), io_manager=StreamIOManager())
    assert job.name == "import_" + connector.source_app.replace("-", "_")
    assert {node.name for node in job.nodes} == {"connect", "fetch", "dedup", "transform", "insert", "report"}
    assert (job.partitions_def is not None) == connector.partitioned
    assert job.tags["source"] == connector.source_app
    assert isinstance(job, dg.JobDefinition)
