"""Behind PgBouncer in transaction mode, where every transaction may meet another server session (F76)."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import dagster as dg
import psycopg
import pytest
import servers
from pooler import running_pooler

from import_pipeline import ConnectorRecord
from import_pipeline.connectors.file_upload import FileUpload
from import_pipeline.database import migrations
from import_pipeline.database.connections import BoundedConnection, connection_settings
from import_pipeline.database.tenancy import acting_as
from import_pipeline.defs.jobs import build_import_job
from import_pipeline.library.accounts import create_user
from import_pipeline.stages.postgres import PostgresResource
from import_pipeline.stages.staging import StreamIOManager

pytestmark = pytest.mark.long


@pytest.fixture
def pooled_url(postgres15: str) -> Iterator[str]:
    """Address of a migrated database through a pooler that gives each transaction the next of three sessions."""
    direct = servers.create_database(postgres15)
    with psycopg.connect(direct) as conn:
        migrations.apply(conn)
    with running_pooler(direct) as pooler:
        yield pooler.url(direct)
    servers.drop_database(postgres15, direct)


def test_a_thousand_mixed_calls_of_the_functions_from_several_threads_meet_no_foreign_session_state(
    pooled_url: str,
) -> None:
    with psycopg.connect(pooled_url, autocommit=True, prepare_threshold=None) as conn:
        users = [create_user(conn, f"{name}@example.com") for name in ("ana", "ben", "eva")]

    def work(user_number: int) -> list[Any]:
        postgres = PostgresResource(url=pooled_url)
        results = []
        with dg.build_init_resource_context() as context, postgres.yield_for_execution(context) as resource:
            for number in range(170):
                record = ConnectorRecord(f"call-{number}", "zoom", "Call", "Dana: hello", "2026-03-02T10:00:00Z")
                results.append(resource.run_pipeline(users[user_number], record))
                results.append(resource.check_duplicate(users[user_number], "zoom", record.external_id))
        return results

    with ThreadPoolExecutor(3) as executor:
        outcomes = list(executor.map(work, range(3)))
    for results in outcomes:
        assert all(result.success for result in results[::2]), [r.error for r in results[::2] if not r.success][:3]
        assert all(result.is_duplicate for result in results[1::2])
    with psycopg.connect(pooled_url, prepare_threshold=None) as conn:
        assert conn.execute(
            "select owner_user_id, count(*), (select count(*) from public.vault_entries)"
            " from public.recordings group by 1 order by 1"
        ).fetchall() == [(user, 170, 510) for user in sorted(users)]


def test_the_whole_job_works_through_the_pooler(pooled_url: str, tmp_path: Path) -> None:
    from commands import write_calls

    write_calls(tmp_path / "calls", 450)
    (tmp_path / "calls" / "broken.vtt").touch()
    with psycopg.connect(pooled_url, autocommit=True, prepare_threshold=None) as conn:
        user = create_user(conn, "ana@example.com")
        conn.execute("insert into public.import_sources (user_id, source_app) values (%s, 'file-upload')", [user])
    job = build_import_job(
        FileUpload(is_of_command=True),
        postgres=PostgresResource(url=pooled_url),
        io_manager=StreamIOManager(base=str(tmp_path / "staged")),
    )
    options = {"paths": [str(tmp_path / "calls")]}
    config = {"ops": {"connect": {"config": {"users": ["ana@example.com"], "options": options}}}}
    with dg.DagsterInstance.ephemeral() as instance:
        for expected in (450, 450):
            result = job.execute_in_process(config, instance=instance, raise_on_error=False)
            assert not result.success, "the broken file makes the run red"
            assert [event.step_key for event in result.all_events if event.is_step_failure] == ["report"]
            with psycopg.connect(pooled_url, prepare_threshold=None) as conn:
                assert conn.execute(
                    "select count(*), (select count(*) from public.vault_entries),"
                    " (select count(*) from public.import_items where status = 'failed') from public.recordings"
                ).fetchone() == (expected, expected, 1)


def test_nothing_is_prepared_in_a_session_that_the_pooler_gives_to_others_too(pooled_url: str) -> None:
    with BoundedConnection.connect(pooled_url, **connection_settings()) as conn:
        for _ in range(20):
            with acting_as(conn, None):
                conn.execute("select 1", prepare=True)
                assert conn.execute("select count(*) from pg_catalog.pg_prepared_statements").fetchone() == (0,)
