"""Fixtures for every test: a real Postgres, and a migrated database of its own for each test that asks.

The server is the embedded one, started in a folder of this session, or the one that TEST_DATABASE_URL names if that is
marked as a server for tests. Nothing here skips: a server that cannot be had is a failure.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import urlsplit

import fault_table
import psycopg
import pytest
import servers
import tenants

if TYPE_CHECKING:
    from commands import Shell
    from psycopg_pool import ConnectionPool
    from world import World

_OURS = ("IMPORT_PIPELINE_", "PG")


def pytest_configure(config: pytest.Config) -> None:
    """Forget what the developer's shell says about databases, so that no test reaches one by accident."""
    for name in list(os.environ):
        if name.startswith(_OURS) or name in ("DATABASE_URL", "DAGSTER_HOME"):
            del os.environ[name]
    # What is staged is sealed with a key of the home, and that must not be the developer's.
    folder = tempfile.mkdtemp(prefix="import-pipeline-test-home-")
    os.environ["IMPORT_PIPELINE_HOME"] = folder
    config.add_cleanup(lambda: shutil.rmtree(folder, ignore_errors=True))
    if not hasattr(config, "workerinput"):
        fault_table.forget_parts()
    if url := os.environ.get("TEST_DATABASE_URL"):
        try:
            servers.require_marker(url)
        except servers.UnmarkedServerError as error:
            pytest.exit(str(error), returncode=pytest.ExitCode.USAGE_ERROR)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say where the table of faults is, if any were met."""
    if (table := fault_table.join_parts()) is not None:
        terminalreporter.write_line(f"What each fault led to: {table}")


@pytest.fixture(scope="session")
def server_url() -> Iterator[str]:
    """Address of a server where databases may be created and dropped, as superuser."""
    if url := os.environ.get("TEST_DATABASE_URL"):
        yield url
        return
    from import_pipeline.database.embedded import open_server

    with servers.scratch_folder() as home, open_server(home) as server:
        servers.forget_durability(server.url())
        yield server.url()


@pytest.fixture(scope="session")
def postgres15() -> Iterator[str]:
    """Address of a server of the oldest supported version, as superuser."""
    with ExitStack() as stack:
        try:
            url = stack.enter_context(servers.oldest_server())
        except FileNotFoundError as error:
            pytest.fail(str(error), pytrace=False)
        yield url


@pytest.fixture(scope="session")
def template(server_url: str) -> Iterator[str]:
    """Name of a database that was migrated once for the whole session; nobody may connect to it."""
    from import_pipeline.database import migrations

    url = servers.create_database(server_url)
    with psycopg.connect(url) as conn:
        migrations.apply(conn)
    yield urlsplit(url).path.lstrip("/")
    servers.drop_database(server_url, url)


@pytest.fixture
def database_url(server_url: str, template: str) -> Iterator[str]:
    """Address of a migrated database without rows that belongs to this test alone, as superuser."""
    url = servers.create_database(server_url, template=template)
    yield url
    servers.drop_database(server_url, url)


@pytest.fixture
def empty_database_url(server_url: str) -> Iterator[str]:
    """Address of a database without anything that belongs to this test alone, as superuser."""
    url = servers.create_database(server_url)
    yield url
    servers.drop_database(server_url, url)


@pytest.fixture
def conn(database_url: str) -> Iterator[psycopg.Connection[Any]]:
    """A superuser's connection to `database_url`, not in autocommit mode."""
    with psycopg.connect(database_url) as connection:
        yield connection
        connection.rollback()


@pytest.fixture(scope="module")
def pool(server_url: str, template: str) -> Iterator[ConnectionPool[Any]]:
    """Connections to one migrated database for a whole file, each of whose tests has users of its own in it."""
    from psycopg_pool import ConnectionPool

    from import_pipeline.database.connections import connection_settings

    url = servers.create_database(server_url, template=template)
    with ConnectionPool(url, kwargs=connection_settings(), min_size=1, max_size=12, open=True) as pool:
        yield pool
    servers.drop_database(server_url, url)


@pytest.fixture
def world(conn: psycopg.Connection[Any], database_url: str, tmp_path: Path) -> Iterator[World]:
    """What whole import jobs need; see `tests/world.py`."""
    import dagster as dg
    from world import World

    conn.autocommit = True
    with dg.DagsterInstance.ephemeral() as instance:
        yield World(conn, database_url, tmp_path / "staging", instance)


@pytest.fixture
def shell(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Shell:
    """Runs commands in this process."""
    from commands import Shell

    return Shell(monkeypatch, capsys)


class MakeUser(Protocol):
    """The type of the fixture `make_user`."""

    def __call__(self, conn: psycopg.Connection[Any], email: str = ...) -> tenants.User: ...


@pytest.fixture
def make_user() -> MakeUser:
    """`make_user(conn, email)` creates a user with personal bank and vault."""
    return tenants.make_user


@pytest.fixture
def as_user() -> Callable[..., Any]:
    """`with as_user(conn, user_id, role="authenticated"):` is a transaction in that user's name."""
    return tenants.as_user
