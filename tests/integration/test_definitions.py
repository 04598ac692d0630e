"""The definitions, loaded as Dagster's server loads them, and a run of the job as its launcher runs it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import dagster as dg
import psycopg
import pytest
from commands import REPOSITORY, write_calls

from import_pipeline.definitions import build_defs, defs
from import_pipeline.stages.postgres import PostgresResource

DAGSTER = str(Path(sys.executable).parent / "dagster")


def dagster(*arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [DAGSTER, *arguments],
        cwd=REPOSITORY,
        env={**os.environ, **settings},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.mark.long
def test_the_workspace_loads_as_the_server_loads_it(tmp_path: Path) -> None:
    done = dagster("definitions", "validate", "-w", "workspace.yaml", DAGSTER_HOME=str(tmp_path))
    assert done.returncode == 0, done.stderr


def test_every_connector_has_a_job_and_an_asset_and_nothing_else_came_along() -> None:
    jobs = {job.name for job in defs.resolve_all_job_defs() if not job.name.startswith("__")}
    sources = ("fathom", "file-upload", "youtube", "zoom")
    assert jobs == {
        "migrate",
        "clean_up",
        "repair_vault_entries",
        "check_coverage_fathom",
        "check_coverage_zoom",
        *(f"import_{each.replace('-', '_')}" for each in sources),
    }
    assets = {key.to_user_string() for key in defs.resolve_asset_graph().get_all_asset_keys()}
    assert assets == {"import_counts", "import_health", *(f"recordings/{source}" for source in sources)}


def test_the_graph_is_the_five_stages_in_order_and_the_report() -> None:
    job = defs.resolve_job_def("import_file_upload")
    upstream: dict[str, set[str]] = {node.name: set() for node in job.nodes}
    for invocation, inputs in job.graph.dependencies.items():
        for dependency in inputs.values():
            upstream[invocation.name] |= {each.node for each in dependency.get_node_dependencies()}
    assert upstream == {
        "connect": set(),
        "fetch": {"connect"},
        "dedup": {"fetch"},
        "transform": {"dedup"},
        "insert": {"transform"},
        "report": {"fetch", "insert"},
    }


def test_batches_go_depth_first_because_priorities_rise() -> None:
    job = defs.resolve_job_def("import_file_upload")
    priorities = {node.name: int(node.definition.tags["dagster/priority"]) for node in job.nodes}
    assert priorities["fetch"] < priorities["dedup"] < priorities["transform"] < priorities["insert"]


def test_months_of_history_are_tagged_so_that_live_runs_and_then_the_newest_month_go_first() -> None:
    job = defs.resolve_job_def("import_zoom")
    assert job.tags.items() >= {"source": "zoom", "lane": "live"}.items()
    now = datetime.now(UTC)
    months = job.partitions_def.get_partition_keys()
    assert months[-1] == f"{now:%Y-%m-01}", "the present month is one of them"
    tags = [job.get_tags_for_partition_key(month, None) for month in reversed(months)]
    assert [int(each["dagster/priority"]) for each in tags] == [-1 - number for number in range(len(months))]
    for each in tags:
        assert each.items() >= {"lane": "history", "backfill": "zoom"}.items()
    assert defs.resolve_job_def("import_youtube").partitions_def is None


def test_importing_the_definitions_touches_neither_database_nor_home(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", "import import_pipeline.definitions"],
        env={
            **os.environ,
            "IMPORT_PIPELINE_HOME": str(tmp_path / "never"),
            "DATABASE_URL": "postgresql://nobody@127.0.0.1:9/nowhere",
        },
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "never").exists()


def test_the_library_face_does_not_load_dagster() -> None:
    code = "import sys, import_pipeline, import_pipeline.cli; sys.exit('dagster' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=60, check=False).returncode == 0


@pytest.mark.long
def test_the_launched_job_imports_a_folder_and_goes_green(
    tmp_path: Path, database_url: str, conn: psycopg.Connection[Any], make_user: Any
) -> None:
    user = make_user(conn)
    conn.execute("insert into public.import_sources (user_id, source_app) values (%s, 'file-upload')", [user.id])
    conn.commit()
    write_calls(tmp_path / "calls", 3)
    options = {"paths": [str(tmp_path / "calls")]}
    config = {"ops": {"connect": {"config": {"users": [user.email], "options": options}}}}
    (tmp_path / "run.yaml").write_text(json.dumps(config))
    (tmp_path / "instance").mkdir()
    settings = {
        "DAGSTER_HOME": str(tmp_path / "instance"),
        "DATABASE_URL": database_url,
        "IMPORT_PIPELINE_HOME": str(tmp_path / "home"),
        "IMPORT_PIPELINE_UPLOAD_FOLDERS": str(tmp_path / "calls"),
    }
    arguments = ("job", "execute", "-m", "import_pipeline.definitions", "-j", "import_file_upload")
    done = dagster(*arguments, "-c", str(tmp_path / "run.yaml"), **settings)
    assert done.returncode == 0, done.stderr[-2000:]
    assert conn.execute("select count(*) from public.recordings").fetchone() == (3,)

    (tmp_path / "calls" / "broken.vtt").touch()
    done = dagster(*arguments, "-c", str(tmp_path / "run.yaml"), **settings)
    assert done.returncode != 0, "a run in which an item failed is red"
    assert "import-pipeline failures" in done.stderr


def test_the_migrate_job_does_what_the_command_does(empty_database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", empty_database_url)
    job = build_defs(postgres=PostgresResource()).resolve_job_def("migrate")
    check = {"ops": {"apply_migrations": {"config": {"check_only": True}}}}
    with dg.DagsterInstance.ephemeral() as instance:
        before = job.execute_in_process(check, instance=instance, raise_on_error=False)
        assert not before.success
        applied = job.execute_in_process(instance=instance).output_for_node("apply_migrations")
        assert applied
        assert job.execute_in_process(instance=instance).output_for_node("apply_migrations") == []
        assert job.execute_in_process(check, instance=instance).success
