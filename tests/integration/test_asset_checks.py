"""The checks of every source: each is shown green, and red on a library in which something is wrong."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any

import dagster as dg
import psycopg
import pytest
import tenants
from connectors.demo import Call, Demo, OtherDemo
from psycopg.types.json import Jsonb

from import_pipeline.connectors.base import Connector
from import_pipeline.definitions import build_defs
from import_pipeline.library.accounts import ensure_account
from import_pipeline.library.ledger import NO_VAULT_ENTRY
from import_pipeline.stages.postgres import PostgresResource
from import_pipeline.stages.staging import StreamIOManager

Connection = psycopg.Connection[Any]
NOW = datetime.now(UTC)
CHECKS = {"no_duplicates", "vault_entries", "nothing_overdue", "fresh"}


class Upload(Demo):
    """A source that imports only what a person names."""

    source_app = "upload"
    title = "Upload"
    is_polled = False


@pytest.fixture
def ana(conn: Connection) -> tenants.User:
    conn.autocommit = True
    user = tenants.make_user(conn, "ana@example.com")
    ensure_account(conn, user.id, "demo", user.email)
    return user


def defs_of(database_url: str, connectors: Iterable[Connector], folder: str = "") -> dg.Definitions:
    return build_defs(
        connectors={each.source_app: each for each in connectors},
        postgres=PostgresResource(url=database_url),
        io_manager=StreamIOManager(base=folder),
    )


def check(
    database_url: str, *connectors: Connector, only: Iterable[dg.AssetCheckKey] | None = None
) -> dict[tuple[str, str], dg.AssetCheckEvaluation]:
    """Run the checks as their run does: (source, name) → what came of it."""
    known = connectors or (Demo(),)
    defs = defs_of(database_url, known)
    of_themselves = (
        dg.AssetCheckKey(dg.AssetKey(["recordings", each.source_app]), name)
        for each in known
        for name in CHECKS
        if name != "fresh" or each.is_polled
    )
    selection = dg.AssetSelection.checks(*(only or of_themselves))
    job = dg.define_asset_job("checks", selection=selection).resolve(asset_graph=defs.resolve_asset_graph())
    with dg.DagsterInstance.ephemeral() as instance:
        result = job.execute_in_process(instance=instance, resources={"postgres": PostgresResource(url=database_url)})
    return {(each.asset_key.path[-1], each.check_name): each for each in result.get_asset_check_evaluations()}


def found(evaluation: dg.AssetCheckEvaluation) -> str:
    assert not evaluation.passed
    return str(evaluation.metadata["found"].value)


def add_recording(
    conn: Connection, owner: tenants.User, external_id: str, *, source_app: str = "demo", is_vaulted: bool = True
) -> Any:
    row = conn.execute(
        "insert into recordings (bank_id, owner_user_id, title, source_app, source_metadata)"
        " values (%s, %s, %s, %s, %s) returning id",
        [owner.bank_id, owner.id, f"Call {external_id}", source_app, Jsonb({"external_id": external_id})],
    ).fetchone()
    assert row is not None
    if is_vaulted:
        conn.execute("insert into vault_entries (vault_id, recording_id) values (%s, %s)", [owner.vault_id, row[0]])
    return row[0]


def test_every_source_has_its_checks_and_a_new_one_gets_them_too(database_url: str, ana: tenants.User) -> None:
    evaluations = check(database_url, Demo(), OtherDemo(), Upload())
    assert set(evaluations) == {(source, name) for source in ("demo", "demo-other") for name in CHECKS} | {
        ("upload", name) for name in CHECKS - {"fresh"}
    }
    assert all(each.passed for each in evaluations.values())
    assert all(each.description for each in evaluations.values())
    keys = {
        key.to_user_string()
        for key in defs_of(database_url, [Demo(), Upload()]).resolve_asset_graph().asset_check_keys
        if key.name != "coverage"
    }
    assert keys == {f"recordings/{source}:{name}" for source in ("demo", "upload") for name in CHECKS} - {
        "recordings/upload:fresh"
    }


def test_a_single_check_runs_alone(database_url: str, ana: tenants.User) -> None:
    key = dg.AssetCheckKey(dg.AssetKey(["recordings", "demo"]), "vault_entries")
    assert set(check(database_url, only=[key])) == {("demo", "vault_entries")}


def test_a_call_that_is_there_twice_is_found_though_the_index_is_gone(
    conn: Connection, database_url: str, ana: tenants.User
) -> None:
    conn.execute("drop index recordings_import_key")
    for source_app in ("demo", "demo", "demo-other", "other"):
        add_recording(conn, ana, "twice", source_app=source_app)
    add_recording(conn, ana, "other", source_app="other")
    evaluations = check(database_url, Demo(), OtherDemo())
    assert found(evaluations["demo", "no_duplicates"]).endswith("| ana@example.com | twice | 2 |")
    assert "more than once: 1." in str(evaluations["demo", "no_duplicates"].description)
    assert "import-pipeline duplicates" in str(evaluations["demo", "no_duplicates"].description)
    assert evaluations["demo-other", "no_duplicates"].passed


def test_of_many_findings_the_first_are_shown_and_all_are_counted(
    conn: Connection, database_url: str, ana: tenants.User
) -> None:
    for number in range(50):
        add_recording(conn, ana, f"call-{number}", is_vaulted=False)
    evaluation = check(database_url)["demo", "vault_entries"]
    assert "in no vault: 50." in str(evaluation.description)
    assert found(evaluation).count("ana@example.com") == 20


def test_an_item_that_waits_past_the_deadline_is_found(conn: Connection, database_url: str, ana: tenants.User) -> None:
    insert = (
        "insert into import_items (user_id, source_app, external_id, status, started_at, first_seen_at, error_message)"
        " values (%s, 'demo', %s, %s, %s, %s, 'No transcript yet.')"
    )
    old, recent = NOW - timedelta(days=8), NOW - timedelta(days=6)
    conn.execute(insert, [ana.id, "too-long", "waiting", old, NOW])
    conn.execute(insert, [ana.id, "too-long-without-date", "waiting", None, old])
    conn.execute(insert, [ana.id, "in-time", "waiting", recent, recent])
    conn.execute(insert, [ana.id, "settled", "failed", old, old])
    evaluation = check(database_url)["demo", "nothing_overdue"]
    assert "7.3 days: 2." in str(evaluation.description)
    table = found(evaluation)
    assert ("too-long |" in table, "too-long-without-date |" in table) == (True, True)
    assert ("in-time" in table, "settled" in table) == (False, False)


def test_accounts_that_no_run_came_to_are_named_with_the_reason(
    conn: Connection, database_url: str, ana: tenants.User
) -> None:
    def account(name: str, hours: float | None, **values: Any) -> None:
        user = tenants.make_user(conn, f"{name}@example.com")
        account_id = ensure_account(conn, user.id, "demo", user.email)
        values |= {"created_at": NOW - timedelta(days=9)}
        values["last_sync_at"] = None if hours is None else NOW - timedelta(hours=hours)
        for column, value in values.items():
            conn.execute(f"update import_sources set {column} = %s where id = %s", [value, account_id])
        if name == "at-work":
            conn.execute(
                "insert into sync_jobs (user_id, status, metadata) values (%s, 'processing', %s)",
                [user.id, Jsonb({"account_id": str(account_id)})],
            )

    assert check(database_url)["demo", "fresh"].passed, "an account is not late when it has just been connected"
    account("in-time", 0.2)
    account("late", 2)
    account("never", None)
    account("broken", 40, error_message="Demo no longer accepts the key.")
    account("switched-off", 40, is_active=False)
    account("at-work", None)
    evaluation = check(database_url)["demo", "fresh"]
    assert evaluation.severity == dg.AssetCheckSeverity.WARN
    assert "60 minutes or more: 3." in str(evaluation.description)
    lines = found(evaluation).splitlines()[2:]
    assert [line.split("|")[1].strip() for line in lines] == [
        "never@example.com",
        "broken@example.com",
        "late@example.com",
    ]
    assert "Demo no longer accepts the key." in lines[1]
    assert "no run was started for it" in lines[2]


# --- mending ------------------------------------------------------------------------------------------------------


def test_the_repair_job_puts_recordings_into_their_vaults(
    conn: Connection, database_url: str, ana: tenants.User, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("import_pipeline.defs.repairs._PAGE", 2)
    ben = tenants.make_user(conn, "ben@example.com")
    recordings = {
        add_recording(conn, owner, f"call-{number}", is_vaulted=False): owner
        for owner in (ana, ben)
        for number in range(3)
    }
    for recording_id, owner in recordings.items():
        conn.execute(
            "insert into import_items (user_id, source_app, external_id, status, recording_id, error_class,"
            " error_message) values (%s, 'demo', %s, 'imported', %s, 'transient', %s)",
            [owner.id, str(recording_id), recording_id, f"{NO_VAULT_ENTRY}: its bank has no personal vault"],
        )
    assert not check(database_url)["demo", "vault_entries"].passed
    with dg.DagsterInstance.ephemeral() as instance:
        job = defs_of(database_url, [Demo()]).resolve_job_def("repair_vault_entries")
        assert job.execute_in_process(instance=instance).output_for_node("add_vault_entries") == 6
        assert job.execute_in_process(instance=instance).output_for_node("add_vault_entries") == 0
    assert check(database_url)["demo", "vault_entries"].passed
    assert dict(conn.execute("select recording_id, vault_id from vault_entries").fetchall()) == {
        recording_id: owner.vault_id for recording_id, owner in recordings.items()
    }
    assert conn.execute("select distinct error_class, error_message from import_items").fetchall() == [(None, None)]


def test_what_cannot_be_repaired_is_told_and_harms_nobody(
    conn: Connection, database_url: str, ana: tenants.User
) -> None:
    ben = tenants.make_user(conn, "ben@example.com")
    hopeless = add_recording(conn, ben, "hopeless", is_vaulted=False)
    conn.execute("delete from vaults where id = %s", [ben.vault_id])
    add_recording(conn, ana, "good", is_vaulted=False)
    with dg.DagsterInstance.ephemeral() as instance:
        job = defs_of(database_url, [Demo()]).resolve_job_def("repair_vault_entries")
        result = job.execute_in_process(instance=instance, raise_on_error=False)
    assert not result.success
    failure = result.failure_data_for_node("add_vault_entries")
    assert failure is not None
    assert failure.user_failure_data is not None
    told = str(failure.user_failure_data.description)
    assert told.startswith(
        "Put into a vault: 1. Still in none: 1, because its bank has no personal vault that its owner"
    )
    assert str(hopeless) in str(failure.user_failure_data.metadata["recordings"].value)
    assert conn.execute("select vault_id from vault_entries").fetchall() == [(ana.vault_id,)]


# --- running by themselves ----------------------------------------------------------------------------------------


def test_the_checks_of_a_source_run_after_its_imports_together_with_the_assets(
    database_url: str, ana: tenants.User, tmp_path: Any
) -> None:
    demo = Demo([Call("one")])
    defs = defs_of(database_url, [demo, OtherDemo()], str(tmp_path))
    everything = dg.AssetSelection.all() | dg.AssetSelection.all_asset_checks()
    with dg.DagsterInstance.ephemeral() as instance:
        before = dg.evaluate_automation_conditions(defs, instance, asset_selection=everything)
        assert defs.resolve_job_def("import_demo").execute_in_process(instance=instance).success
        after = dg.evaluate_automation_conditions(
            defs, instance, asset_selection=everything, cursor=before.cursor, evaluation_time=NOW + timedelta(hours=1)
        )
    assert not before.total_requested
    asked = {result.key for result in after.results if result.true_subset.size}
    recordings = dg.AssetKey(["recordings", "demo"])
    assert asked == {
        dg.AssetKey("import_counts"),
        dg.AssetKey("import_health"),
        *(dg.AssetCheckKey(recordings, name) for name in CHECKS),
    }
