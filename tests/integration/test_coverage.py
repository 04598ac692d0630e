"""Coverage: what a source lists for a month against the library, each difference explained."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import dagster as dg
import psycopg
import pytest
import tenants
from commands import Shell
from connectors.demo import START, Call, Demo, UnpartitionedDemo, no_http
from cryptography.fernet import Fernet
from fakes import FathomServer
from fakes.calls import make_calls

from import_pipeline.connectors.base import Connector
from import_pipeline.connectors.fathom import Fathom
from import_pipeline.definitions import build_defs
from import_pipeline.defs.jobs import build_import_job
from import_pipeline.errors import ConfigurationError, IgnoredItemError, ItemError, NotReadyError
from import_pipeline.library.accounts import ensure_account, find_accounts
from import_pipeline.providers.credentials import store_credential
from import_pipeline.providers.keys import KeyRing, Secrets
from import_pipeline.records import Window
from import_pipeline.stages.coverage import Coverage, compare_month, parse_month, read_account
from import_pipeline.stages.postgres import PostgresResource
from import_pipeline.stages.staging import StreamIOManager

Connection = psycopg.Connection[Any]
FATHOM_KEY = "fathom-test-key"
MARCH = Window(datetime(2024, 3, 1, tzinfo=UTC), datetime(2024, 4, 1, tzinfo=UTC))


@pytest.fixture
def ana(conn: Connection) -> tenants.User:
    conn.autocommit = True
    user = tenants.make_user(conn, "ana@example.com")
    ensure_account(conn, user.id, "demo", user.email)
    return user


@pytest.fixture
def instance() -> Any:
    with dg.DagsterInstance.ephemeral() as found:
        yield found


def import_all(instance: dg.DagsterInstance, database_url: str, folder: Any, connector: Connector) -> None:
    job = build_import_job(
        connector, postgres=PostgresResource(url=database_url), io_manager=StreamIOManager(base=str(folder))
    )
    job.execute_in_process(instance=instance, raise_on_error=False)


def compare(conn: Connection, demo: Demo, month: Window = MARCH) -> Coverage:
    (found,) = find_accounts(conn, "demo", None)
    return compare_month(conn, demo, read_account(conn, found), month, no_http())


def run_check(
    instance: dg.DagsterInstance, database_url: str, connector: Connector, **config: str
) -> dg.ExecuteInProcessResult:
    defs = build_defs(connectors={connector.source_app: connector}, postgres=PostgresResource(url=database_url))
    job = defs.resolve_job_def(f"check_coverage_{connector.source_app}")
    return job.execute_in_process(
        instance=instance,
        run_config={"ops": {f"compare_{connector.source_app}": {"config": config}}},
        raise_on_error=False,
    )


def evaluation_of(result: dg.ExecuteInProcessResult) -> tuple[dg.AssetCheckEvaluation, dict[str, str]]:
    (evaluation,) = result.get_asset_check_evaluations()
    return evaluation, {name: str(value.value) for name, value in evaluation.metadata.items()}


# --- the comparison -----------------------------------------------------------------------------------------------


def test_a_month_that_was_imported_is_complete(
    conn: Connection, database_url: str, ana: tenants.User, instance: dg.DagsterInstance, tmp_path: Any
) -> None:
    demo = Demo([Call(f"call-{day}", START + timedelta(days=day)) for day in range(0, 40)])
    import_all(instance, database_url, tmp_path, demo)
    coverage = compare(conn, demo)
    assert (coverage.label, coverage.month) == ("ana@example.com", "2024-03")
    assert coverage.counts == {"imported": 31}
    assert (coverage.differences, coverage.is_complete) == ([], True)


def test_every_difference_is_explained(
    conn: Connection, database_url: str, ana: tenants.User, instance: dg.DagsterInstance, tmp_path: Any
) -> None:
    demo = Demo(
        [
            Call("imported"),
            Call("waits", error=NotReadyError("No transcript yet.")),
            Call("failed", error=ItemError("It is broken.")),
            Call("ignored", error=IgnoredItemError("A test call.")),
            Call("deleted"),
            Call("gone-at-the-source"),
            Call("forgotten"),
            Call("in-the-library-alone"),
        ]
    )
    demo.transcript_deadline = timedelta(days=100_000)  # type: ignore[misc]
    import_all(instance, database_url, tmp_path, demo)
    conn.execute("delete from recordings where source_metadata ->> 'external_id' in ('deleted', 'forgotten')")
    conn.execute("delete from import_items where external_id in ('forgotten', 'in-the-library-alone')")
    conn.execute("update import_sources set last_sync_at = %s", [datetime(2024, 3, 20, tzinfo=UTC)])
    conn.execute("update import_items set retry_at = '2124-05-06 00:00Z' where external_id = 'waits'")
    demo.calls[None] = [call for call in demo.calls[None] if call.external_id != "gone-at-the-source"]
    demo.calls[None] += [Call("late", datetime(2024, 3, 19, tzinfo=UTC))]

    coverage = compare(conn, demo)
    assert {item.external_id: item.verdict for item in coverage.items} == {
        "imported": "imported",
        "in-the-library-alone": "imported",
        "waits": "waiting",
        "failed": "failed",
        "ignored": "ignored",
        "deleted": "deleted",
        "gone-at-the-source": "no longer listed",
        "forgotten": "missing",
        "late": "new",
    }
    assert not coverage.is_complete
    reasons = {item.external_id: item.reason for item in coverage.differences}
    assert reasons["waits"].startswith("No transcript yet. Asked for again from 6 May 2124")
    assert reasons["failed"].startswith("It is broken. Tried again from")
    assert reasons["ignored"] == "A test call."
    assert "retry" in reasons["deleted"]
    assert "backfill" in reasons["forgotten"]
    assert "the next one imports it" in reasons["late"]
    assert all(reasons.values())


def test_before_the_first_complete_run_nothing_is_missing(conn: Connection, ana: tenants.User) -> None:
    coverage = compare(conn, Demo([Call("one"), Call("two")]))
    assert coverage.counts == {"new": 2}
    assert coverage.is_complete


def test_a_call_that_the_source_files_in_the_neighbouring_month_is_found(
    conn: Connection, database_url: str, ana: tenants.User, instance: dg.DagsterInstance, tmp_path: Any
) -> None:
    """A listing that goes by the time a recording was made, for instance, and not by the time the call began."""
    began = datetime(2024, 3, 31, 23, 30, tzinfo=UTC)
    demo = Demo([Call("night", began + timedelta(hours=1), values={"started_at": began})])
    demo.calls[None][0].fields = {"recording_start_time": began}
    import_all(instance, database_url, tmp_path, demo)
    assert compare(conn, demo).counts == {"imported": 1}
    april = Window(datetime(2024, 4, 1, tzinfo=UTC), datetime(2024, 5, 1, tzinfo=UTC))
    assert compare(conn, demo, april).counts == {}


def test_of_another_user_nothing_is_seen(
    conn: Connection, database_url: str, ana: tenants.User, instance: dg.DagsterInstance, tmp_path: Any
) -> None:
    demo = Demo([Call("one")])
    import_all(instance, database_url, tmp_path, demo)
    ben = tenants.make_user(conn, "ben@example.com")
    ensure_account(conn, ben.id, "demo", ben.email)
    conn.execute("update import_sources set last_sync_at = now()")
    (found,) = find_accounts(conn, "demo", [ben.id])
    assert compare_month(conn, demo, read_account(conn, found), MARCH, no_http()).counts == {"missing": 1}


@pytest.mark.parametrize(("text", "month"), [("2024-12", "2024-12"), (" 2025-01 ", "2025-01"), ("", "2026-07")])
def test_a_month_is_named_as_people_write_it(text: str, month: str) -> None:
    window = parse_month(text, datetime(2026, 7, 31, 23, 59, tzinfo=UTC))
    assert f"{window.start:%Y-%m-%d}" == f"{month}-01"
    assert window.end.day == 1
    assert timedelta(days=28) <= window.end - window.start <= timedelta(days=31)


@pytest.mark.parametrize("text", ["2024", "May 2024", "2024-13", "2024-05-01", "9999-12"])
def test_what_names_no_month_is_refused(text: str) -> None:
    with pytest.raises(ConfigurationError, match="2024-05"):
        parse_month(text, datetime.now(UTC))


# --- the check ----------------------------------------------------------------------------------------------------


def test_the_check_is_green_after_an_import_and_red_when_something_is_missing(
    conn: Connection,
    database_url: str,
    ana: tenants.User,
    instance: dg.DagsterInstance,
    tmp_path: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Against a provider over HTTP, with a stored credential."""
    key = Fernet.generate_key().decode()
    monkeypatch.setenv("IMPORT_PIPELINE_SECRET_KEY", key)
    monkeypatch.setenv("IMPORT_PIPELINE_FATHOM_RATE_LIMITS", "none")
    with FathomServer(calls=12, months=1) as server:
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        account_id = ensure_account(conn, ana.id, "fathom", ana.email)
        store_credential(conn, KeyRing([key]), account_id, ana.id, Secrets("api-key", {"api_key": FATHOM_KEY}), {})
        import_all(instance, database_url, tmp_path, Fathom())
        months = sorted({f"{call.started_at:%Y-%m}" for call in server.calls})
        for month in months:
            evaluation, _ = evaluation_of(run_check(instance, database_url, Fathom(), user=ana.email, month=month))
            assert evaluation.passed, evaluation.description
        gone = server.calls[-1]
        conn.execute("delete from import_items where external_id = %s", [server.external_id(gone)])
        conn.execute("delete from recordings where source_metadata ->> 'external_id' = %s", [server.external_id(gone)])
        server.forget_requests()
        evaluation, shown = evaluation_of(
            run_check(instance, database_url, Fathom(), user=ana.email, month=f"{gone.started_at:%Y-%m}")
        )
        assert {record.kind for record in server.requests} == {"list"}
    assert not evaluation.passed
    assert evaluation.severity == dg.AssetCheckSeverity.ERROR
    assert str(evaluation.description).startswith(f"ana@example.com, {gone.started_at:%B %Y}: ")
    assert "1 missing" in str(evaluation.description)
    assert gone.title.split()[0] in shown["differences"]
    assert "| missing |" in shown["differences"]


def test_an_account_whose_listing_breaks_off_does_not_hide_the_others(
    conn: Connection, database_url: str, ana: tenants.User, instance: dg.DagsterInstance
) -> None:
    ben = tenants.make_user(conn, "ben@example.com")
    ensure_account(conn, ben.id, "demo", ben.email)
    demo = Demo([Call("one")])
    demo.breaks_after = {ana.id: 0}
    evaluation, shown = evaluation_of(run_check(instance, database_url, demo, month="2024-03"))
    assert not evaluation.passed
    assert "could not be compared: 1" in str(evaluation.description)
    assert "503" in shown["not compared"]
    assert "ben@example.com" in shown["accounts"]


def test_of_many_accounts_the_first_are_compared_and_the_check_says_so(
    conn: Connection, database_url: str, ana: tenants.User, instance: dg.DagsterInstance
) -> None:
    for number in range(12):
        user = tenants.make_user(conn, f"user-{number}@example.com")
        ensure_account(conn, user.id, "demo", user.email)
    demo = Demo()
    evaluation, _ = evaluation_of(run_check(instance, database_url, demo, month="2024-03"))
    assert "10 of 13 accounts" in str(evaluation.description)
    assert len(demo.windows) == 20, "ten accounts, and the month with its margin in two windows each"


def test_a_user_without_an_account_is_told_what_to_do(
    conn: Connection, database_url: str, ana: tenants.User, instance: dg.DagsterInstance
) -> None:
    ben = tenants.make_user(conn, "ben@example.com")
    result = run_check(instance, database_url, Demo(), user=ben.email)
    assert not result.success
    failure = result.failure_data_for_node("compare_demo")
    assert failure is not None
    assert failure.user_failure_data is not None
    assert "import-pipeline connect demo" in str(failure.user_failure_data.description)


def test_without_any_account_there_is_nothing_to_compare(
    database_url: str, conn: Connection, instance: dg.DagsterInstance
) -> None:
    evaluation, _ = evaluation_of(run_check(instance, database_url, Demo()))
    assert evaluation.passed
    assert "no active account" in str(evaluation.description)


def test_only_sources_that_can_be_asked_for_a_month_have_it(database_url: str) -> None:
    defs = build_defs(connectors={"demo": UnpartitionedDemo()}, postgres=PostgresResource(url=database_url))
    assert "check_coverage_demo" not in {job.name for job in defs.resolve_all_job_defs()}


def test_it_never_runs_by_itself(
    conn: Connection, database_url: str, ana: tenants.User, instance: dg.DagsterInstance, tmp_path: Any
) -> None:
    """It costs requests."""
    demo = Demo([Call("one")])
    defs = build_defs(connectors={"demo": demo}, postgres=PostgresResource(url=database_url))
    import_all(instance, database_url, tmp_path, demo)
    asked = dg.evaluate_automation_conditions(
        defs, instance, asset_selection=dg.AssetSelection.all() | dg.AssetSelection.all_asset_checks()
    )
    assert asked.total_requested
    assert "coverage" not in {getattr(result.key, "name", None) for result in asked.results}


# --- the command --------------------------------------------------------------------------------------------------


def test_the_command_tells_what_is_missing_and_exits_with_one(
    conn: Connection,
    database_url: str,
    ana: tenants.User,
    tmp_path: Any,
    monkeypatch: pytest.MonkeyPatch,
    shell: Shell,
) -> None:
    key = Fernet.generate_key().decode()
    monkeypatch.setattr("import_pipeline.providers.http.client.MAX_ATTEMPTS", 2)
    shell.unspeakable = {FATHOM_KEY, key}
    shell.set(
        DATABASE_URL=database_url,
        IMPORT_PIPELINE_USER=ana.email,
        IMPORT_PIPELINE_SECRET_KEY=key,
        IMPORT_PIPELINE_HOME=str(tmp_path),
        IMPORT_PIPELINE_FATHOM_RATE_LIMITS="none",
        DAGSTER_HOME="",
    )
    assert "import-pipeline connect fathom" in shell.run("coverage", "fathom").stderr
    assert shell.run("coverage", "youtube").code == 2
    last_month = datetime.now(UTC).replace(day=1) - timedelta(days=10)
    with FathomServer(calls=make_calls(4, months=0.1, until=last_month)) as server:
        shell.set(**server.environment)
        assert shell.run("connect", "fathom", stdin=FATHOM_KEY).code == 0
        month = f"{server.calls[0].started_at:%Y-%m}"
        before = shell.run("coverage", "fathom", "--month", month)
        assert (before.code, "the next sync imports it" in before.stdout) == (0, True)
        assert shell.run("sync", "fathom").code == 0
        after = shell.run("coverage", "fathom", "--month", month)
        assert after.code == 0
        assert "0 differences" in after.stderr
        conn.execute("delete from import_items")
        conn.execute("delete from recordings")
        told = shell.run("coverage", "fathom", "--month", month, "--json")
        assert told.code == 1
        assert told.json["counts"] == {"missing": len(told.json["differences"])}
        assert shell.run("coverage", "fathom", "--month", "May").code == 2
    assert shell.run("coverage", "fathom").code == 3, "the source is gone"
