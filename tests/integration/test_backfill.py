"""`import-pipeline backfill`: the plan, the question, one run a month from the newest on, and what stops it."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import dagster as dg
import psycopg
import pytest
import tenants
from commands import CommandLine, Shell, end
from cryptography.fernet import Fernet
from fakes import Call, FathomServer, make_calls

from import_pipeline.library.accounts import ensure_account

FATHOM_KEY = "fathom-test-key"
MONTHS = ["2025-09", "2025-08", "2025-07"]
SPAN = ("--from", "2025-07", "--to", "2025-09")


@pytest.fixture
def settings(database_url: str, home: Path) -> dict[str, str]:
    return {
        "DATABASE_URL": database_url,
        "IMPORT_PIPELINE_SECRET_KEY": Fernet.generate_key().decode(),
        "IMPORT_PIPELINE_HOME": str(home),
        "IMPORT_PIPELINE_FATHOM_RATE_LIMITS": "none",
    }


@pytest.fixture
def shell(shell: Shell, ana: tenants.User, settings: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Shell:
    shell.unspeakable = {FATHOM_KEY, settings["IMPORT_PIPELINE_SECRET_KEY"]}
    shell.set(**settings, DAGSTER_HOME="")  # which the command sets for this process
    monkeypatch.setattr("import_pipeline.providers.http.client.MAX_ATTEMPTS", 2)
    return shell


def calls_of_three_months(number: int = 4) -> list[Call]:
    """As many calls in each of the three months, the newest first."""
    calls = make_calls(3 * number, months=1, until=datetime(2025, 9, 28, tzinfo=UTC))
    for position, call in enumerate(calls):
        month = 9 - position // number
        call.started_at = datetime(2025, month, 10, 9, position % number, tzinfo=UTC)
        call.created_at = datetime(2025, month, 10, 11, position % number, tzinfo=UTC)
    return calls


@pytest.fixture
def fathom(shell: Shell) -> Iterator[FathomServer]:
    """A Fathom that Ana has connected."""
    with FathomServer(calls=calls_of_three_months()) as server:
        shell.set(**server.environment)
        assert shell.run("connect", "fathom", "--user", "ana@example.com", stdin=FATHOM_KEY).code == 0
        server.forget_requests()
        yield server


def history_runs(home: Path) -> list[dg.DagsterRun]:
    """The runs over months, oldest first."""
    (home / "dagster").mkdir(exist_ok=True)
    with dg.DagsterInstance.from_config(str(home / "dagster")) as instance:
        return list(reversed(instance.get_runs(dg.RunsFilter(job_name="import_fathom", tags={"lane": "history"}))))


def statuses(conn: psycopg.Connection[Any]) -> list[str]:
    return [status for (status,) in conn.execute("select status from sync_jobs order by created_at").fetchall()]


def test_months_are_imported_from_the_newest_on_each_by_a_run_of_its_own(
    shell: Shell, fathom: FathomServer, home: Path, conn: psycopg.Connection[Any]
) -> None:
    before = len(history_runs(home))
    outcome = shell.run("backfill", "fathom", *SPAN, "--yes")
    assert outcome.code == 0, outcome.stderr
    assert "Fathom for 1 account (ana@example.com): 3 months, 3 windows to list." in outcome.stderr
    plan, result = outcome.stdout.split("Listed")
    assert [line.split()[:2] for line in plan.splitlines() if line.strip().startswith("2025")] == [
        [month, "1"] for month in MONTHS
    ]
    assert [line.split()[:3] for line in result.splitlines() if line.strip()[:1].isalnum()][-4:] == [
        *([month, "4", "4"] for month in MONTHS),
        ["all", "12", "12"],
    ]
    assert "2025-08 (2 of 3): 4 listed, 4 imported" in outcome.stderr
    assert "Every month is imported." in outcome.stderr

    runs = history_runs(home)[before:]
    assert [run.tags["dagster/partition"] for run in runs] == [f"{month}-01" for month in MONTHS]
    assert {run.status for run in runs} == {dg.DagsterRunStatus.SUCCESS}
    assert {run.tags["dagster/partition_set"] for run in runs} == {"import_fathom_partition_set"}
    assert statuses(conn) == ["completed"] * 3
    assert conn.execute("select last_sync_at from import_sources").fetchone() == (None,), "only a sync moves the cursor"

    fathom.forget_requests()
    again = shell.run("backfill", "fathom", *SPAN, "--yes", "--json")
    assert (again.json["inserted"], again.json["skipped"], again.json["planned"]) == (0, 12, 3)
    assert [(month["month"], month["status"], month["skipped"]) for month in again.json["months"]] == [
        (month, "completed", 4) for month in MONTHS
    ]
    assert {each.kind for each in fathom.requests} == {"list"}


def test_what_was_imported_before_stands_in_the_plan(shell: Shell, fathom: FathomServer, tmp_path: Path) -> None:
    shell.set(IMPORT_PIPELINE_HOME=str(tmp_path))  # an instance that knows of no other test's runs
    shell.run("backfill", "fathom", "--from", "2025-08", "--to", "2025-08", "--yes")
    plan = shell.run("backfill", "fathom", *SPAN, stdin="n\n").stdout
    told = {line.split()[0]: line.split()[2:] for line in plan.splitlines() if line.strip().startswith("2025")}
    assert told["2025-08"]
    assert not told["2025-09"]


@pytest.mark.long
def test_nothing_is_done_before_somebody_agrees(
    shell: Shell, fathom: FathomServer, conn: psycopg.Connection[Any]
) -> None:
    no = shell.run("backfill", "fathom", *SPAN, stdin="n\n")
    assert no.code == 0
    assert "Import 3 months, the newest first?" in no.stderr
    assert "Nothing was done." in no.stderr
    nobody = shell.run("backfill", "fathom", *SPAN)
    assert nobody.code == 2
    assert "--yes" in nobody.stderr
    assert fathom.requests == []
    assert statuses(conn) == []
    assert shell.run("backfill", "fathom", *SPAN, stdin="y\n").code == 0
    assert statuses(conn) == ["completed"] * 3


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("youtube",), "sync youtube --full"),
        (("file-upload",), "import-pipeline upload"),
        (("nothing",), "no source 'nothing'"),
        (("fathom", "--from", "2019-12"), "begins with 2020-01"),
        (("fathom", "--to", "2999-01"), "2999-01 has not begun"),
        (("fathom", "--from", "2025-09", "--to", "2025-07"), "--from is the earlier one"),
        (("fathom", "--from", "2025"), "not a month such as 2025-03"),
        (("fathom", "--from", "2025-13"), "not a month such as 2025-03"),
        (("fathom", "--user", "nobody@example.com"), "nobody@example.com"),
        (("fathom", "--user", "ben@example.com"), "connect fathom"),
        (("fathom", "--user", "cara@example.com"), "connect fathom"),
        (("zoom",), "import-pipeline connect zoom"),
    ],
)
def test_what_cannot_be_done_is_told_before_anything_begins(
    shell: Shell, fathom: FathomServer, conn: psycopg.Connection[Any], arguments: tuple[str, ...], told: str
) -> None:
    tenants.make_user(conn, "ben@example.com")
    ensure_account(conn, tenants.make_user(conn, "cara@example.com").id, "fathom", None)  # without a credential
    outcome = shell.run("backfill", *arguments, "--yes")
    assert outcome.code == 2
    assert told in outcome.stderr
    assert fathom.requests == []
    assert statuses(conn) == []


def test_the_history_begins_where_the_setting_says(shell: Shell, fathom: FathomServer) -> None:
    shell.set(IMPORT_PIPELINE_FATHOM_HISTORY_START="2025-07-15")
    outcome = shell.run("backfill", "fathom", "--to", "2025-08", "--json", "--yes")
    assert [month["month"] for month in outcome.json["months"]] == ["2025-08", "2025-07"]
    assert outcome.json["inserted"] == 4, "the calls of 10 July are older"
    assert shell.run("backfill", "fathom", "--from", "2025-06", "--yes").code == 2


@pytest.mark.long
def test_every_active_account_is_imported_or_those_that_are_named(
    shell: Shell, fathom: FathomServer, conn: psycopg.Connection[Any], ana: tenants.User
) -> None:
    ben = tenants.make_user(conn, "ben@example.com")
    assert shell.run("connect", "fathom", "--user", ben.email, stdin=FATHOM_KEY).code == 0
    owners = "select owner_user_id, count(*) from recordings group by 1"
    assert shell.run("backfill", "fathom", *SPAN, "--user", ben.email, "--yes").code == 0
    assert dict(conn.execute(owners).fetchall()) == {ben.id: 12}
    everybody = shell.run("backfill", "fathom", *SPAN, "--yes", "--json")
    assert dict(conn.execute(owners).fetchall()) == {ben.id: 12, ana.id: 12}
    assert (everybody.json["inserted"], everybody.json["skipped"]) == (12, 12)
    assert "2 accounts" in everybody.stderr


@pytest.mark.long
def test_a_month_in_which_something_failed_does_not_stop_the_others(
    shell: Shell, fathom: FathomServer, conn: psycopg.Connection[Any]
) -> None:
    broken = fathom.external_id(next(call for call in fathom.calls if call.started_at.month == 8))
    for name in ("recording_start_time", "scheduled_start_time", "created_at"):
        fathom.mutate_field(broken, name, "null")
    outcome = shell.run("backfill", "fathom", *SPAN, "--yes", "--json")
    assert outcome.code == 1
    assert (outcome.json["inserted"], outcome.json["failed"]) == (11, 1)
    assert [month["status"] for month in outcome.json["months"]] == ["completed", "completed_with_errors", "completed"]
    assert "2025-08: ana@example.com: 1 failed" in outcome.stderr
    assert "import-pipeline failures" in outcome.stderr


@pytest.mark.parametrize("trouble", ["gone", "revoked"])
def test_when_no_month_could_go_better_the_rest_is_left_and_that_is_said(
    shell: Shell, fathom: FathomServer, conn: psycopg.Connection[Any], trouble: str
) -> None:
    if trouble == "gone":
        fathom.close()
    else:
        fathom.api_keys = {}
    outcome = shell.run("backfill", "fathom", *SPAN, "--yes", "--json")
    assert outcome.code == (3 if trouble == "gone" else 2)
    assert [(month["month"], month["status"]) for month in outcome.json["months"]] == [("2025-09", "failed")]
    assert "2 months not imported; the same command goes on" in outcome.stderr
    assert statuses(conn) == ["failed"]


@pytest.mark.long
def test_the_trouble_of_one_account_does_not_stop_the_months_of_the_others(
    shell: Shell, fathom: FathomServer, conn: psycopg.Connection[Any], ana: tenants.User
) -> None:
    ben = tenants.make_user(conn, "ben@example.com")
    ensure_account(conn, ben.id, "fathom", ben.email)
    outcome = shell.run("backfill", "fathom", *SPAN, "--yes", "--json")
    assert outcome.code == 1
    assert outcome.json["inserted"] == 12
    assert all("ben@example.com" in problem for month in outcome.json["months"] for problem in month["problems"])


@pytest.mark.long
@pytest.mark.parametrize("interruption", [signal.SIGINT, signal.SIGTERM], ids=["Ctrl-C", "a service manager"])
def test_an_interrupted_backfill_stops_asking_and_the_same_command_goes_on(
    shell: Shell,
    fathom: FathomServer,
    settings: dict[str, str],
    home: Path,
    conn: psycopg.Connection[Any],
    interruption: signal.Signals,
) -> None:
    """F60."""
    fathom.faults.retry_after_seconds = 250
    command_line = CommandLine(home, settings | fathom.environment)
    process = command_line.start("backfill", "fathom", *SPAN, "--yes", "--json")
    deadline = time.monotonic() + 60
    while conn.execute("select count(*) from recordings").fetchone() == (0,):
        assert time.monotonic() < deadline, "the import never began"
        time.sleep(0.01)
    fathom.faults.always = {"/meetings": "429-retry-after"}
    while not any(each.fault for each in fathom.requests):
        assert process.poll() is None
        time.sleep(0.01)
    outcome = end(process, interruption)
    assert outcome.code == 130, outcome.stderr
    assert "the same command goes on" in outcome.stderr
    assert statuses(conn)[-1] == "cancelled"
    assert "processing" not in statuses(conn)
    assert conn.execute("select count(*) from import_pipeline.leases").fetchone() == (0,)
    assert history_runs(home)[-1].status == dg.DagsterRunStatus.CANCELED

    fathom.faults.always = {}
    conn.execute("update import_pipeline.rate_budgets set blocked_until = null")
    ((before,),) = conn.execute("select count(*) from recordings").fetchall()
    rest = command_line.run("backfill", "fathom", *SPAN, "--yes", "--json")
    assert rest.code == 0, rest.stderr
    assert (rest.json["inserted"], rest.json["skipped"]) == (12 - before, before)
