"""How many connections a run opens, how often it asks whether they live, and that it notices when one does not."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import psycopg
import pytest
from connectors.demo import Demo
from proxy import Proxy
from world import World, calls, summary_of

from import_pipeline.cli.run_job import Execution
from import_pipeline.database import connections
from import_pipeline.database.connections import BoundedConnection, connection_settings, pipeline_of
from import_pipeline.database.opening import Database
from import_pipeline.database.tenancy import acting_as
from import_pipeline.records import Counts
from import_pipeline.stages.postgres import PostgresResource


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The addresses at which connections were opened."""
    addresses: list[str] = []
    connect = BoundedConnection.connect

    def remember(url: str, **settings: Any) -> BoundedConnection:
        addresses.append(url)
        return connect(url, **settings)

    monkeypatch.setattr(BoundedConnection, "connect", remember)
    return addresses


@pytest.fixture
def questions(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The empty statements that were sent only to see whether somebody answers."""
    sent: list[str] = []
    execute = BoundedConnection.execute

    def remember(self: BoundedConnection, query: Any, *arguments: Any, **settings: Any) -> Any:
        sent.extend([query] if query == "" else [])
        return execute(self, query, *arguments, **settings)

    monkeypatch.setattr(BoundedConnection, "execute", remember)
    return sent


@pytest.fixture
def postgres(database_url: str) -> Iterator[PostgresResource]:
    """The resource as a run has it."""
    with dg.build_resources({"postgres": PostgresResource(url=database_url)}) as resources:
        yield resources.postgres


def test_a_run_without_news_opens_two_connections_and_asks_neither_whether_it_lives(
    world: World, opened: list[str], questions: list[str]
) -> None:
    """One sees whether the database is migrated, the other does all the work; each costs several round trips."""
    world.account("ana@example.com")
    source = Demo(calls(30))
    assert world.run(source).success
    source.look_back = timedelta(days=3650)
    opened.clear()
    again = world.run(source)
    assert summary_of(again).counts == Counts(listed=30, skipped=30)
    assert opened == [world.url] * 2
    assert questions == []


def test_on_no_terminal_nobody_asks_how_far_a_short_run_is(
    world: World, opened: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A schedule of the system's, or a script, would pay for a line that is not printed."""
    monkeypatch.setenv("DATABASE_URL", world.url)
    monkeypatch.setenv("IMPORT_PIPELINE_HOME", str(tmp_path / "home"))
    monkeypatch.setattr("import_pipeline.cli.run_job._LINE_SECONDS", 60)  # short is what ends before
    ana = world.account("ana@example.com")
    with Database(world.url) as database:
        ended = Execution(database, Demo(calls(3)), world.instance).run({"users": [str(ana.id)]}, [ana.id])
    assert ended.success
    assert len(world.recordings()) == 3
    assert opened == [world.url], "one for all the work"


def test_a_connection_that_its_server_closed_meanwhile_is_replaced(
    conn: psycopg.Connection[Any], postgres: PostgresResource
) -> None:
    with postgres.connection() as first:
        pid = first.info.backend_pid
    conn.execute("select pg_terminate_backend(%s, 5000)", [pid])
    with postgres.connection() as second:
        assert second.execute("select 1").fetchone() == (1,)
        assert second.info.backend_pid != pid


def test_a_connection_that_was_silent_for_long_is_asked_before_it_is_used(
    postgres: PostgresResource, questions: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(3):
        with postgres.connection() as borrowed:
            borrowed.execute("select 1")
    assert questions == []
    monkeypatch.setattr(connections, "_TRUSTED_SECONDS", 0)
    with postgres.connection() as borrowed:
        borrowed.execute("select 1")
    assert questions == [""]


def is_prepared(url: str) -> bool:
    """Whether a statement that asks for it is prepared in the server's session."""
    with BoundedConnection.connect(url, **connection_settings()) as conn, acting_as(conn, None):
        conn.execute("select 1", prepare=True)
        found = conn.execute("select count(*) from pg_prepared_statements where statement = 'select 1'").fetchall()
        assert found[0][0] in (0, 1)
        return bool(found[0][0])


def test_what_asks_for_it_is_prepared_where_the_session_is_ours_alone(world: World) -> None:
    assert is_prepared(world.url)
    with Proxy.before(world.url) as somebody_between:
        assert not is_prepared(somebody_between.through(world.url))


@pytest.mark.parametrize("is_waited_for", [True, False], ids=["in it", "at its end"])
def test_an_error_in_a_pipeline_is_raised_and_nothing_is_logged_and_the_connection_goes_on(
    is_waited_for: bool, world: World, caplog: pytest.LogCaptureFixture
) -> None:
    with BoundedConnection.connect(world.url, **connection_settings()) as conn:

        def work() -> None:
            with conn.transaction(), pipeline_of(conn):
                failing = conn.execute("select 1 / 0")
                conn.execute("select 1")
                if is_waited_for:
                    failing.fetchall()

        with pytest.raises(psycopg.errors.DivisionByZero):
            work()
        assert conn.execute("select 2").fetchone() == (2,)
    assert not caplog.records


class Interrupted(BaseException):
    """As what Dagster raises in a run that is cancelled, wherever it is."""


def test_what_interrupts_the_end_of_a_pipeline_is_raised_as_it_is(world: World) -> None:
    def interrupt(*_: object) -> None:
        raise Interrupted

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        with BoundedConnection.connect(world.url, **connection_settings()) as conn:
            world.conn.execute("select pg_advisory_lock(1)")
            signal.setitimer(signal.ITIMER_REAL, 0.3)
            with pytest.raises(Interrupted), pipeline_of(conn):
                conn.execute("select pg_advisory_xact_lock(1)")
            assert conn.closed
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        world.conn.execute("select pg_advisory_unlock(1)")
