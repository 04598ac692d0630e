"""Behind PgBouncer in transaction mode, where every transaction may meet another server session (F76)."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import dagster as dg
import psycopg
import pytest
import servers

from import_pipeline import ConnectorRecord, migrations
from import_pipeline.accounts import create_user
from import_pipeline.connectors.file_upload import FileUpload
from import_pipeline.jobs import build_import_job
from import_pipeline.postgres import PostgresResource
from import_pipeline.staging import StreamIOManager

pytestmark = pytest.mark.long

SESSIONS = 3
CONFIG = """
[databases]
* = host={host} user=postgres
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = any
pool_mode = transaction
default_pool_size = {sessions}
server_round_robin = 1
ignore_startup_parameters = extra_float_digits
"""


@pytest.fixture
def pooled_url(postgres15: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of a migrated database through a pooler that gives each transaction the next of three sessions."""
    pgbouncer = shutil.which("pgbouncer", path=os.environ["PATH"] + ":/usr/sbin:/usr/local/sbin")
    if pgbouncer is None:
        pytest.fail("This test needs PgBouncer: apt-get install pgbouncer", pytrace=False)
    direct = servers.create_database(postgres15)
    with psycopg.connect(direct) as conn:
        migrations.apply(conn)
    account = servers.unprivileged_account() if os.geteuid() == 0 else None
    with servers.scratch_folder() as folder:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        parts = urlsplit(direct)
        config = folder / "pgbouncer.ini"
        config.write_text(CONFIG.format(host=parse_qs(parts.query)["host"][0], port=port, sessions=SESSIONS))
        if account is not None:
            shutil.chown(folder, account)
            config.chmod(0o644)
        with subprocess.Popen(
            [pgbouncer, str(config)], user=account, extra_groups=[] if account else None, stderr=subprocess.DEVNULL
        ) as process:
            try:
                url = f"postgresql://postgres@127.0.0.1:{port}{parts.path}"
                wait_for(url)
                yield url
            finally:
                process.terminate()
    servers.drop_database(postgres15, direct)


def wait_for(url: str) -> None:
    deadline = time.monotonic() + 20
    while True:
        try:
            psycopg.connect(url, prepare_threshold=None).close()
            return
        except psycopg.OperationalError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)


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
        FileUpload(),
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
