"""`import-pipeline dev`: the UI opens on the embedded library, survives a killed server, and ends without a trace."""

from __future__ import annotations

import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from commands import CommandLine, write_calls
from dev import Dev, free_port, running_dev, wait_until
from fakes import FathomServer
from fakes.fathom import API_KEY

from import_pipeline.instance.run_launcher import find_workers


@pytest.fixture
def command_line(tmp_path: Path) -> CommandLine:
    return CommandLine(tmp_path / "home", {"IMPORT_PIPELINE_UPLOAD_FOLDERS": str(tmp_path / "calls")})


def connected(folder: Path, fathom: FathomServer) -> CommandLine:
    """A library whose owner has connected Fathom."""
    settings = {"IMPORT_PIPELINE_FATHOM_API_KEY": API_KEY, "IMPORT_PIPELINE_FATHOM_RATE_LIMITS": "none"}
    command_line = CommandLine(folder / "home", fathom.environment | settings)
    assert command_line.run("connect", "fathom").code == 0
    return command_line


@pytest.fixture
def dev(command_line: CommandLine) -> Iterator[Dev]:
    with running_dev(command_line) as dev:
        yield dev


@pytest.mark.long
def test_the_ui_runs_a_job_survives_a_killed_server_and_ends_without_a_trace(
    dev: Dev, command_line: CommandLine, tmp_path: Path
) -> None:
    assert {"import_file_upload", "migrate"} <= {job["name"] for job in dev.repository()["jobs"]}

    write_calls(tmp_path / "calls", 3)
    user = command_line.run("upload", tmp_path / "calls", "--json")
    assert user.json["inserted"] == 3, "the command line works beside the UI"

    write_calls(tmp_path / "calls", 5)
    (account,) = command_line.run("status", "--json").json
    options = {"paths": [str(tmp_path / "calls")]}
    config = {"ops": {"connect": {"config": {"users": [account["account_email"]], "options": options}}}}
    run = dev.wait_for_run(dev.launch("import_file_upload", config))
    assert run["status"] == "SUCCESS"
    assert {step["stepKey"].split("[")[0] for step in run["stepStats"]} == {
        *("connect", "fetch", "dedup", "transform", "insert", "report")
    }
    assert command_line.run("counts", "--json").json == {"file-upload": 5}

    write_calls(tmp_path / "private", 1, start=10)
    options = {"paths": [str(tmp_path / "private")]}
    config = {"ops": {"connect": {"config": {"users": [account["account_email"]], "options": options}}}}
    run = dev.wait_for_run(dev.launch("import_file_upload", config))
    assert run["status"] == "FAILURE", "the operator allowed no such folder"
    assert command_line.run("upload", tmp_path / "private", "--json").json["inserted"] == 1

    (postmaster,) = dev.postmasters()
    postmaster.kill()
    wait_until(lambda: [run for run in dev.runs() if run["status"] == "SUCCESS"], "waited for the UI to come back")

    family = psutil.Process(dev.process.pid).children(recursive=True)
    assert dev.end(signal.SIGINT) == 0, dev.said
    assert "Stopped." in dev.said
    _, alive = psutil.wait_procs(family, timeout=15)
    assert not alive
    assert not dev.postmasters()


def test_a_taken_port_is_named_before_anything_starts(command_line: CommandLine) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        outcome = command_line.run("dev", "--port", str(taken.getsockname()[1]))
    assert outcome.code == 2
    assert "--port" in outcome.stderr


@pytest.mark.long
def test_a_run_that_ctrl_c_interrupts_goes_on_as_the_same_run_when_the_ui_is_opened_again(tmp_path: Path) -> None:
    with FathomServer(calls=40, latency=5.0) as fathom, running_dev(connected(tmp_path, fathom)) as dev:
        run_id = dev.launch("import_fathom")
        wait_until(lambda: dev.runs(statuses=["STARTED"]), "waited for the run to begin")
        assert dev.end(signal.SIGINT) == 0, dev.said
        assert "Interrupting 1 run" in dev.said
        assert not find_workers(str(dev.command_line.home / "dagster"))
        fathom.latency = 0
        dev.start()
        assert dev.wait_for_run(run_id)["status"] == "SUCCESS"
        assert [run["runId"] for run in dev.runs() if run["jobName"] == "import_fathom"] == [run_id]
        assert dev.command_line.run("counts", "--json").json == {"fathom": len(fathom.calls)}


@pytest.mark.long
def test_a_second_ui_of_the_same_home_is_refused(dev: Dev, command_line: CommandLine) -> None:
    outcome = command_line.run("dev", "--port", str(free_port()))
    assert outcome.code == 2
    assert "open already" in outcome.stderr


@pytest.mark.long
def test_when_the_command_is_killed_dagster_ends_too(dev: Dev) -> None:
    family = psutil.Process(dev.process.pid).children(recursive=True)
    assert family
    dev.process.kill()
    dev.process.wait()
    _, alive = psutil.wait_procs(family, timeout=60)
    assert not alive
