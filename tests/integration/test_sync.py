"""`sync` of sources with credentials: what it lists, and that its exit code says whose turn it is."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import psycopg
import pytest
import tenants
from commands import Shell
from cryptography.fernet import Fernet
from fakes import FathomServer

from import_pipeline.connectors.fathom import Fathom
from import_pipeline.defs.jobs import build_import_job
from import_pipeline.library.accounts import ensure_account
from import_pipeline.stages.postgres import PostgresResource
from import_pipeline.stages.staging import StreamIOManager

FATHOM_KEY = "fathom-test-key"
BEGINNING = datetime.now(UTC) - timedelta(days=60)


@pytest.fixture
def shell(shell: Shell, ana: tenants.User, database_url: str, home: Path, monkeypatch: pytest.MonkeyPatch) -> Shell:
    key = Fernet.generate_key().decode()
    shell.unspeakable = {FATHOM_KEY, key}
    shell.set(
        DATABASE_URL=database_url,
        IMPORT_PIPELINE_USER=ana.email,
        IMPORT_PIPELINE_SECRET_KEY=key,
        IMPORT_PIPELINE_HOME=str(home),
        IMPORT_PIPELINE_FATHOM_HISTORY_START=f"{BEGINNING:%Y-%m-%d}",
        IMPORT_PIPELINE_FATHOM_RATE_LIMITS="none",
        DAGSTER_HOME="",  # set for this process by the command, and taken back after the test
    )
    monkeypatch.setattr("import_pipeline.providers.http.client.MAX_ATTEMPTS", 2)
    return shell


@pytest.fixture
def fathom(shell: Shell) -> Iterator[FathomServer]:
    """A Fathom that is connected."""
    with FathomServer(calls=12, months=1) as server:
        shell.set(**server.environment)
        assert shell.run("connect", "fathom", stdin=FATHOM_KEY).code == 0
        server.forget_requests()
        yield server


def earliest_asked(fathom: FathomServer) -> datetime:
    return min(datetime.fromisoformat(each.query["created_after"][0]) for each in fathom.requests_of("list"))


def last_run(conn: psycopg.Connection[Any]) -> tuple[str, str | None]:
    """Status and class of the problem."""
    row = conn.execute(
        "select status, metadata ->> 'error_class' from sync_jobs order by created_at desc limit 1"
    ).fetchone()
    assert row is not None
    return row[0], row[1]


def test_a_sync_imports_what_is_new_and_a_full_one_lists_everything(
    shell: Shell, fathom: FathomServer, conn: psycopg.Connection[Any]
) -> None:
    first = shell.run("sync", "fathom", "--json")
    assert first.code == 0, first.stderr
    assert (first.json["inserted"], first.json["failed"]) == (12, 0)
    assert earliest_asked(fathom) < BEGINNING

    def cursor() -> datetime:
        ((found,),) = conn.execute("select last_sync_at from import_sources").fetchall()
        assert found is not None
        return found  # type: ignore[no-any-return]

    moved_to = cursor()
    fathom.add()
    fathom.forget_requests()
    second = shell.run("sync", "fathom", "--json")
    assert second.json["inserted"] == 1
    assert earliest_asked(fathom) > BEGINNING + timedelta(days=30)
    assert cursor() > moved_to
    assert last_run(conn) == ("completed", None)

    conn.execute("update import_sources set last_sync_at = now() + interval '1 day'")
    moved_to = cursor()
    fathom.forget_requests()
    full = shell.run("sync", "fathom", "--full", "--json")
    assert (full.json["listed"], full.json["inserted"], full.json["skipped"]) == (13, 0, 13)
    assert "everything" in full.stderr
    assert earliest_asked(fathom) < BEGINNING
    assert cursor() == moved_to, "the cursor never moves back"


def test_a_source_that_is_not_connected_says_how_to_connect_it(shell: Shell, fathom: FathomServer) -> None:
    assert shell.run("disconnect", "fathom").code == 0
    for source in ("fathom", "zoom"):
        outcome = shell.run("sync", source)
        assert outcome.code == 2
        assert f"import-pipeline connect {source}" in outcome.stderr
    assert fathom.requests == []


def test_a_key_that_was_revoked_is_a_matter_of_the_credential(
    shell: Shell, fathom: FathomServer, conn: psycopg.Connection[Any]
) -> None:
    fathom.api_keys = {}
    outcome = shell.run("sync", "fathom")
    assert outcome.code == 2
    assert "import-pipeline connect" in outcome.stderr
    assert last_run(conn) == ("failed", "auth")
    (row,) = shell.run("status", "--json").json
    assert "401" in row["error_message"]
    fathom.api_keys = {FATHOM_KEY: None}
    assert shell.run("connect", "fathom", stdin=FATHOM_KEY).code == 0
    assert shell.run("status", "--json").json[0]["error_message"] is None
    assert shell.run("sync", "fathom").code == 0
    assert last_run(conn) == ("completed", None)


def test_a_lost_encryption_key_is_a_matter_of_the_configuration(
    shell: Shell, fathom: FathomServer, conn: psycopg.Connection[Any]
) -> None:
    shell.set(IMPORT_PIPELINE_SECRET_KEY=Fernet.generate_key().decode())
    outcome = shell.run("sync", "fathom")
    assert outcome.code == 2
    assert "IMPORT_PIPELINE_SECRET_KEY" in outcome.stderr
    assert last_run(conn) == ("failed", "auth")
    shell.set(IMPORT_PIPELINE_SECRET_KEY="")
    assert shell.run("sync", "fathom").code == 2
    assert fathom.requests == []


@pytest.mark.parametrize(
    ("fault", "error_class"), [("503", "transient"), ("gone", "transient"), ("429-retry-after", "rate")]
)
def test_a_source_that_cannot_be_asked_is_tried_again_later(
    shell: Shell, fathom: FathomServer, conn: psycopg.Connection[Any], fault: str, error_class: str
) -> None:
    fathom.faults.retry_after_seconds = 3600
    if fault == "gone":
        fathom.close()
    else:
        fathom.faults.always = {"/meetings": fault}
    outcome = shell.run("sync", "fathom", "--json")
    assert outcome.code == 3, outcome.stderr
    assert outcome.json["status"] == "failed"
    assert last_run(conn) == ("failed", error_class)
    assert conn.execute("select last_sync_at from import_sources").fetchall() == [(None,)]


def test_items_that_wait_or_fail_are_told_as_what_they_are(
    shell: Shell, fathom: FathomServer, conn: psycopg.Connection[Any]
) -> None:
    late, broken = (fathom.external_id(call) for call in fathom.calls[:2])
    fathom.calls[0].transcript_ready_after = 100
    outcome = shell.run("sync", "fathom")
    assert outcome.code == 0, outcome.stderr
    assert "1 waiting: the transcript is not there yet; the next sync asks again." in outcome.stderr
    assert shell.run("why", late).stdout.splitlines()[0].endswith("waiting")

    conn.execute("delete from import_items")
    conn.execute("delete from recordings")
    for name in ("recording_start_time", "scheduled_start_time", "created_at"):
        fathom.mutate_field(broken, name, "null")
    outcome = shell.run("sync", "fathom", "--full")
    assert outcome.code == 1, "only items failed"
    assert "import-pipeline retry" in outcome.stderr
    assert "Mend them" not in outcome.stderr
    assert last_run(conn) == ("completed_with_errors", None)


def test_an_account_without_a_credential_does_not_harm_the_others(
    shell: Shell, fathom: FathomServer, database_url: str, conn: psycopg.Connection[Any], tmp_path: Path
) -> None:
    """For everybody, as the UI runs it: nothing is green unworked, and nobody waits for somebody else."""
    ben = tenants.make_user(conn, "ben@example.com")
    ensure_account(conn, ben.id, "fathom")
    job = build_import_job(
        Fathom(), postgres=PostgresResource(url=database_url), io_manager=StreamIOManager(base=str(tmp_path))
    )
    with dg.DagsterInstance.ephemeral() as instance:
        result = job.execute_in_process(instance=instance, raise_on_error=False)
    assert not result.success
    assert conn.execute("select owner_user_id <> %s, count(*) from recordings group by 1", [ben.id]).fetchall() == [
        (True, 12)
    ]
    assert conn.execute(
        "select status, metadata ->> 'error_class' from sync_jobs where user_id = %s", [ben.id]
    ).fetchall() == [("failed", "auth")]
    problem = conn.execute("select error_message from import_sources where user_id = %s", [ben.id]).fetchone()
    assert problem is not None
    assert "import-pipeline connect fathom" in problem[0]
