"""Servers that tests may stop, fill and starve, and a library on them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from importlib import import_module
from pathlib import Path
from typing import Protocol

import dagster as dg
import psycopg
import pytest
import servers
import tenants
from commands import write_calls
from cryptography.fernet import Fernet
from fakes import FathomServer
from fault_table import write_row
from faults.library import BATCH, CALLS, EMAIL, FEW, SMALL_BATCH, Library
from world import World

from import_pipeline.database import migrations

TEMPLATE = "migrated"


def as_importer(url: str) -> str:
    """Return an address with the login of the importer."""
    return url.replace("postgres@", "importer@", 1)


@pytest.fixture(scope="module")
def server() -> Iterator[servers.Server]:
    """A server of this module's own, with few connections, a migrated database to copy, and an importer's login."""
    with (
        servers.scratch_folder() as folder,
        servers.Server.created(servers.find_oldest_binaries(), folder, max_connections="20") as server,
    ):
        prepare(server)
        yield server


def prepare(server: servers.Server) -> None:
    """Create the migrated database and the importer's login."""
    with psycopg.connect(server.url, autocommit=True) as conn:
        conn.execute(f"create database {TEMPLATE}")
    with psycopg.connect(servers.with_database(server.url, TEMPLATE), autocommit=True) as conn:
        migrations.apply(conn)
        conn.execute("create role importer login in role import_worker")


@pytest.fixture
def settings(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Batches are small, so that several commits lie before and after a fault, and no test waits for long."""
    fetch = import_module("import_pipeline.stages.fetch")  # as an attribute of the package it is the op
    monkeypatch.setattr(fetch, "FIRST_BATCH_SIZE", BATCH)
    monkeypatch.setattr(fetch, "BATCH_SIZE", BATCH)
    monkeypatch.setattr("import_pipeline.stages.postgres._POOL_TIMEOUT_SECONDS", 3.0)
    monkeypatch.setenv("IMPORT_PIPELINE_SECRET_KEY", Fernet.generate_key().decode())
    monkeypatch.setenv("IMPORT_PIPELINE_FATHOM_RATE_LIMITS", "none")
    return monkeypatch


class OpenLibrary(Protocol):
    """The type of the fixture `open_library`."""

    def __call__(self) -> Library: ...


@pytest.fixture
def open_library(server: servers.Server, tmp_path: Path, settings: pytest.MonkeyPatch) -> Iterator[OpenLibrary]:
    """`open_library()` creates a library of its own on that server."""
    with ExitStack() as stack:
        instance = stack.enter_context(dg.DagsterInstance.ephemeral())

        def create() -> Library:
            url = servers.create_database(server.url, template=TEMPLATE)
            stack.callback(remove, url)
            with psycopg.connect(url, autocommit=True) as conn:
                user = tenants.make_user(conn, EMAIL)
            world = World(conn, as_importer(url), tmp_path / url.rpartition("_")[2][:12] / "staging", instance)
            return Library(url, world, user, write_row)

        def remove(url: str) -> None:
            if not server.is_running:
                server.start()
            servers.drop_database(server.url, url)

        yield create


@pytest.fixture
def library(open_library: OpenLibrary) -> Library:
    """One library."""
    return open_library()


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """A folder of calls."""
    write_calls(tmp_path / "calls", CALLS)
    return tmp_path / "calls"


@pytest.fixture
def fathom(monkeypatch: pytest.MonkeyPatch) -> Iterator[FathomServer]:
    """A Fathom with as many."""
    with FathomServer(calls=CALLS, months=1) as provider:
        for name, value in provider.environment.items():
            monkeypatch.setenv(name, value)
        yield provider


@pytest.fixture
def few_files(tmp_path: Path, settings: pytest.MonkeyPatch) -> Path:
    """A folder of few calls, imported in three batches."""
    fetch = import_module("import_pipeline.stages.fetch")
    settings.setattr(fetch, "FIRST_BATCH_SIZE", SMALL_BATCH)
    settings.setattr(fetch, "BATCH_SIZE", SMALL_BATCH)
    write_calls(tmp_path / "few", FEW)
    return tmp_path / "few"
