"""Batches that wait in an object store: a real S3 server on this machine, and memory that behaves like one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import boto3
import dagster as dg
import httpx
import psycopg
import pytest
from commands import SAMPLES, CommandLine
from connectors.demo import Demo
from moto.server import ThreadedMotoServer
from upath import UPath
from world import World, calls, summary_of

from import_pipeline.errors import ErasureError
from import_pipeline.records import Counts
from import_pipeline.stages.staging import StreamIOManager

# `[`, `*` and `?` are patterns to fsspec: a step of Dagster has the first in its name, a prefix may have any of them.
BASES = ["s3://bucket/a[b]*c", "memory://store"]


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[ThreadedMotoServer]:
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    _, port = server.get_host_and_port()
    settings = {
        "AWS_ACCESS_KEY_ID": "a",
        "AWS_SECRET_ACCESS_KEY": "b",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "AWS_MAX_ATTEMPTS": "1",
    }
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    httpx.post(f"{settings['AWS_ENDPOINT_URL']}/moto-api/reset")
    boto3.client("s3").create_bucket(Bucket="bucket")
    UPath("s3://bucket").fs.clear_instance_cache()  # of the server before
    yield server
    server.stop()


def staged(base: str) -> list[str]:
    """The steps of which something is there, asked of the store and not of a client's memory."""
    fs = UPath(base).fs
    fs.invalidate_cache()
    return sorted(name.split("/")[-2] for name in fs.find(UPath(base).path))


@pytest.mark.parametrize("base", BASES)
def test_a_run_whose_batches_wait_in_a_store_leaves_no_transcript_there_and_an_erased_user_nothing(
    server: ThreadedMotoServer, conn: psycopg.Connection[Any], database_url: str, base: str
) -> None:
    conn.autocommit = True
    with dg.instance_for_test() as instance:
        world = World(conn, database_url, UPath(base), instance)  # type: ignore[arg-type]
        world.account("ana@example.com")
        result = world.run(Demo(calls(3)))
    assert summary_of(result).counts == Counts(listed=3, inserted=3)
    assert set(staged(base)) == {"connect", "fetch", "insert[0_00000]", "report"}

    (account,) = result.output_for_node("connect")
    manager = StreamIOManager(base=base)
    manager.remove_run(result.run_id, UUID(int=1))
    assert manager.remove_runs_of([UUID(int=1)]) == 0
    assert staged(base)
    assert manager.remove_runs_of([account.id]) == 1
    assert staged(base) == []


def test_an_upload_whose_batches_wait_in_a_bucket_imports_everything(
    server: ThreadedMotoServer, tmp_path: Path, database_url: str, conn: psycopg.Connection[Any], make_user: Any
) -> None:
    make_user(conn, "ana@example.com")
    settings = {
        "DATABASE_URL": database_url,
        "IMPORT_PIPELINE_USER": "ana@example.com",
        "IMPORT_PIPELINE_STAGING": "s3://bucket/staging",
    }
    outcome = CommandLine(tmp_path / "home", settings).run("upload", SAMPLES, "--json")
    assert outcome.code == 0, outcome.stderr
    assert outcome.json["inserted"] == outcome.json["listed"] > 10
    assert not [step for step in staged("s3://bucket/staging") if step.startswith(("dedup", "transform"))]


def test_a_store_that_deletes_nothing_is_told_of(
    server: ThreadedMotoServer, caplog: pytest.LogCaptureFixture, database_url: str
) -> None:
    manager = StreamIOManager(base="s3://bucket/staging")
    server.stop()
    manager.remove_batch("run", "0_00000")
    assert "s3://bucket/staging/run/dedup[0_00000] could not be removed" in caplog.text
    with pytest.raises(ErasureError, match="could not be"):
        manager.remove_runs_of([], ["run"])
    server.start()
