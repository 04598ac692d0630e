"""The clean-up: what is old goes, with everything that Dagster keeps of it; what is still needed stays."""

import os
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import psycopg
import pytest
import sqlalchemy as sa
from dagster._core.storage.event_log import SqlEventLogStorage
from dagster._core.storage.runs.sql_run_storage import SqlRunStorage
from upath import UPath

from import_pipeline.definitions import build_defs
from import_pipeline.defs.retention import RemovedRuns, remove_old_runs
from import_pipeline.instance.preparing import settings, with_psycopg2
from import_pipeline.stages.staging import StreamIOManager, write_output

pytestmark = pytest.mark.long

LONG_AGO = timedelta(days=40)
LIMIT = datetime.now(UTC) - timedelta(days=30)
ASSET = dg.AssetKey(["recordings", "demo"])
CHECK = dg.AssetCheckKey(ASSET, "complete")


class Config(dg.Config):
    fails: bool = False


@dg.op
def imports(context: dg.OpExecutionContext, config: Config) -> Iterator[Any]:
    yield dg.AssetMaterialization(ASSET)
    yield dg.AssetCheckEvaluation(asset_key=ASSET, check_name="complete", passed=True)
    if config.fails:
        raise dg.Failure("It broke.")
    yield dg.Output(None)


@dg.job(partitions_def=dg.StaticPartitionsDefinition(["2024-01-01", "2024-02-01"]))
def import_demo() -> None:
    imports()


@pytest.fixture(params=["postgres", "sqlite"])
def instance(
    request: pytest.FixtureRequest, tmp_path: Path, empty_database_url: str, monkeypatch: pytest.MonkeyPatch
) -> Iterator[dg.DagsterInstance]:
    """Dagster's storage in a database, and in files as on a server of the owner's without a database for it."""
    monkeypatch.setenv("IMPORT_PIPELINE_DAGSTER_URL", with_psycopg2(empty_database_url))
    monkeypatch.setenv("IMPORT_PIPELINE_HOME", str(tmp_path / "home"))
    storage = "storage: {postgres: {postgres_url: {env: IMPORT_PIPELINE_DAGSTER_URL}}}\n"
    folder = tmp_path / "instance"
    folder.mkdir()
    (folder / "dagster.yaml").write_text(settings() + (storage if request.param == "postgres" else ""))
    with dg.DagsterInstance.from_config(str(folder)) as opened:
        yield opened


def run(instance: dg.DagsterInstance, *, month: str | None = None, fails: bool = False, old: bool = True) -> str:
    """Run the job, and let it have been long ago."""
    config = {"ops": {"imports": {"config": {"fails": fails}}}}
    done = import_demo.execute_in_process(config, instance=instance, partition_key=month, raise_on_error=False)
    assert done.success is not fails
    if old:
        make_old(instance, done.run_id)
    return done.run_id


def make_old(instance: dg.DagsterInstance, run_id: str) -> None:
    storage = instance.run_storage
    assert isinstance(storage, SqlRunStorage)
    with storage.connect() as conn:
        then = datetime.now(UTC).replace(tzinfo=None) - LONG_AGO
        conn.execute(
            sa.text("update runs set update_timestamp = :then where run_id = :id"), {"then": then, "id": run_id}
        )


def check_results(instance: dg.DagsterInstance) -> int:
    storage = instance.event_log_storage
    assert isinstance(storage, SqlEventLogStorage)
    return len(storage.get_asset_check_execution_history(CHECK, limit=100))


def test_old_runs_go_with_their_events_and_the_last_of_an_asset_stays(instance: dg.DagsterInstance) -> None:
    old = [run(instance), run(instance, fails=True), run(instance)]
    last = run(instance)
    queued = instance.create_run_for_job(import_demo)
    make_old(instance, queued.run_id)
    assert check_results(instance) == 4

    assert remove_old_runs(instance, LIMIT) == RemovedRuns(removed=3, kept=1)

    assert {each.run_id for each in instance.get_runs()} == {last, queued.run_id}
    with dg.DagsterInstance.from_ref(instance.get_ref()) as another:  # as another process sees it
        assert not any(another.all_logs(run_id) for run_id in old)
    shown = instance.get_latest_materialization_event(ASSET)
    assert shown is not None
    assert shown.run_id == last
    assert instance.all_logs(last)
    assert check_results(instance) == 1, "the last result of a check is what the UI shows"
    assert remove_old_runs(instance, LIMIT) == RemovedRuns(kept=1)


def test_young_runs_stay(instance: dg.DagsterInstance) -> None:
    run(instance, old=False)
    assert remove_old_runs(instance, LIMIT) == RemovedRuns()
    assert remove_old_runs(instance, LIMIT + LONG_AGO).kept == 1


def test_the_last_good_run_of_each_month_stays_because_the_ui_counts_by_it(instance: dg.DagsterInstance) -> None:
    run(instance, month="2024-01-01")
    january = run(instance, month="2024-01-01")
    february = run(instance, month="2024-02-01")
    run(instance, month="2024-02-01", fails=True)
    last = run(instance, old=False)
    assert remove_old_runs(instance, LIMIT) == RemovedRuns(removed=2, kept=2)
    assert {each.run_id for each in instance.get_runs()} == {january, february, last}


def test_what_an_unfinished_run_goes_on_with_stays(instance: dg.DagsterInstance) -> None:
    broken = run(instance, fails=True)
    again = instance.create_run_for_job(import_demo, parent_run_id=broken, root_run_id=broken)
    run(instance, old=False)
    assert remove_old_runs(instance, LIMIT) == RemovedRuns(kept=1)
    instance.report_run_failed(again)
    assert remove_old_runs(instance, LIMIT) == RemovedRuns(removed=1)


def test_one_clean_up_removes_so_many_and_the_next_goes_on_with_the_oldest(instance: dg.DagsterInstance) -> None:
    old = [run(instance) for _ in range(5)]
    run(instance, old=False)
    assert remove_old_runs(instance, LIMIT, at_most=2) == RemovedRuns(removed=2, left=3)
    assert {each.run_id for each in instance.get_runs()} >= set(old[2:])
    assert remove_old_runs(instance, LIMIT, at_most=2) == RemovedRuns(removed=2, left=1)


def test_with_files_the_file_of_a_run_goes_too(instance: dg.DagsterInstance) -> None:
    old, last = run(instance), run(instance)
    assert remove_old_runs(instance, LIMIT).removed == 1
    files = {path.name for path in Path(instance.root_directory).rglob("*.db")}
    assert f"{old}.db" not in files
    assert not files or f"{last}.db" in files


def test_the_job_says_what_it_removed_and_leaves_the_library_alone(
    instance: dg.DagsterInstance, tmp_path: Path, conn: psycopg.Connection[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    staging = tmp_path / "staging"
    for each in ("young", "old"):
        write_output(UPath(staging) / each / "step" / "result.sealed", [])
    long_ago = time.time() - LONG_AGO.total_seconds()
    for path in (staging / "old" / "step" / "result.sealed", staging / "old" / "step", staging / "old"):
        os.utime(path, (long_ago, long_ago))
    run(instance)
    run(instance)
    defs = build_defs(connectors={}, io_manager=StreamIOManager(base=str(staging)))
    job = defs.resolve_job_def("clean_up")

    def cleaned() -> dict[str, Any]:
        events = job.execute_in_process(instance=instance).all_events
        (output,) = (event for event in events if event.is_successful_output)
        return {name: value.value for name, value in output.step_output_data.metadata.items()}

    monkeypatch.setenv("IMPORT_PIPELINE_KEEP_RUNS_DAYS", "50")
    assert cleaned()["runs removed"] == 0
    assert [path.name for path in staging.iterdir()] == ["young"]
    monkeypatch.delenv("IMPORT_PIPELINE_KEEP_RUNS_DAYS")
    assert cleaned()["runs removed"] == 1
    monkeypatch.setenv("IMPORT_PIPELINE_KEEP_RUNS_DAYS", "0")
    refused = job.execute_in_process(instance=instance, raise_on_error=False)
    assert not refused.success


def test_it_runs_every_night_by_itself() -> None:
    schedule = build_defs(connectors={}).resolve_schedule_def("clean_up_every_night")
    assert schedule.default_status == dg.DefaultScheduleStatus.RUNNING
    assert schedule.execution_timezone == "UTC"
    assert schedule.job_name == "clean_up"
