"""Fixtures of the tests that run whole import jobs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import psycopg
import pytest
from world import World


@pytest.fixture
def world(conn: psycopg.Connection[Any], database_url: str, tmp_path: Path) -> Iterator[World]:
    conn.autocommit = True
    with dg.DagsterInstance.ephemeral() as instance:
        yield World(conn, database_url, tmp_path / "staging", instance)
