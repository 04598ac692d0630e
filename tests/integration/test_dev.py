"""`import-pipeline dev`: the UI opens on the embedded library, survives a killed server, and ends without a trace."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import psutil
import pytest
from commands import REPOSITORY, CommandLine, end, write_calls

from import_pipeline.embedded import open_server

REPOSITORIES = "{ repositoriesOrError { ... on RepositoryConnection { nodes { jobs { name } location { name } } } } }"
LAUNCH = """
mutation ($location: String!, $config: RunConfigData!) {
  launchRun(executionParams: {
    selector: {repositoryName: "__repository__", repositoryLocationName: $location, jobName: "import_file_upload"},
    runConfigData: $config
  }) { __typename ... on LaunchRunSuccess { run { runId } } ... on PythonError { message } }
}
"""
RUN = "query ($id: ID!) { runOrError(runId: $id) { ... on Run { status stepStats { stepKey status } } } }"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Ui:
    """The running UI, asked through its own interface."""

    def __init__(self, process: subprocess.Popen[str], port: int) -> None:
        self.process = process
        self.port = port

    def ask(self, query: str, **variables: Any) -> Any:
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}/graphql",
            data=json.dumps({"query": query, "variables": variables}).encode(),
            headers={"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310 - our own address
            return json.load(answer)["data"]


@pytest.fixture
def command_line(tmp_path: Path) -> CommandLine:
    return CommandLine(tmp_path / "home")


@pytest.fixture
def ui(command_line: CommandLine, monkeypatch: pytest.MonkeyPatch) -> Iterator[Ui]:
    monkeypatch.chdir(REPOSITORY)
    port = free_port()
    process = command_line.start("dev", "--port", str(port))
    assert process.stderr is not None
    said = []
    for line in process.stderr:
        said.append(line)
        if "The UI is at" in line:
            break
    else:
        pytest.fail("".join(said))
    assert f"http://127.0.0.1:{port}" in said[-1]
    try:
        yield Ui(process, port)
    finally:
        if process.poll() is None:
            end(process)


@pytest.mark.long
def test_the_ui_runs_a_job_survives_a_killed_server_and_ends_without_a_trace(
    ui: Ui, command_line: CommandLine, tmp_path: Path
) -> None:
    (repository,) = ui.ask(REPOSITORIES)["repositoriesOrError"]["nodes"]
    assert {"import_file_upload", "migrate"} <= {job["name"] for job in repository["jobs"]}

    write_calls(tmp_path / "calls", 3)
    user = command_line.run("upload", tmp_path / "calls", "--json")
    assert user.json["inserted"] == 3, "the command line works beside the UI"

    write_calls(tmp_path / "calls", 5)
    (account,) = command_line.run("status", "--json").json
    options = {"paths": [str(tmp_path / "calls")]}
    config = {"ops": {"connect": {"config": {"users": [account["account_email"]], "options": options}}}}
    launched = ui.ask(LAUNCH, location=repository["location"]["name"], config=config)["launchRun"]
    assert launched["__typename"] == "LaunchRunSuccess", launched
    run = wait_for_run(ui, launched["run"]["runId"])
    assert run["status"] == "SUCCESS"
    assert {step["stepKey"].split("[")[0] for step in run["stepStats"]} == {
        *("connect", "fetch", "dedup", "transform", "insert", "report")
    }
    assert command_line.run("counts", "--json").json == {"file-upload": 5}

    with open_server(command_line.home) as server:
        socket_folder = parse_qs(urlsplit(server.url()).query)["host"][0]
    (postmaster,) = server_processes(socket_folder)
    postmaster.kill()
    deadline = time.monotonic() + 60
    while True:
        try:
            assert ui.ask(RUN, id=launched["run"]["runId"])["runOrError"]["status"] == "SUCCESS"
            break
        except (OSError, TypeError, KeyError):
            assert time.monotonic() < deadline, "the UI did not come back"
            time.sleep(0.5)

    family = psutil.Process(ui.process.pid).children(recursive=True)
    stopped = end(ui.process, signal.SIGINT)
    assert stopped.code == 0, stopped.stderr
    assert "Stopped." in stopped.stderr
    _, alive = psutil.wait_procs(family, timeout=15)
    assert not alive
    assert not server_processes(socket_folder)


def test_a_taken_port_is_named_before_anything_starts(command_line: CommandLine) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        outcome = command_line.run("dev", "--port", str(taken.getsockname()[1]))
    assert outcome.code == 2
    assert "--port" in outcome.stderr


def wait_for_run(ui: Ui, run_id: str) -> dict[str, Any]:
    deadline = time.monotonic() + 120
    while True:
        run: dict[str, Any] = ui.ask(RUN, id=run_id)["runOrError"]
        if run["status"] in ("SUCCESS", "FAILURE", "CANCELED"):
            return run
        assert time.monotonic() < deadline, run
        time.sleep(0.5)


def server_processes(socket_folder: str) -> list[psutil.Process]:
    """Return the PostgreSQL servers that listen in a folder."""
    setting = f"unix_socket_directories={socket_folder}"
    return [process for process in psutil.process_iter(["cmdline"]) if setting in (process.info["cmdline"] or [])]


@pytest.mark.long
def test_a_second_ui_of_the_same_home_is_refused(ui: Ui, command_line: CommandLine) -> None:
    outcome = command_line.run("dev", "--port", str(free_port()))
    assert outcome.code == 2
    assert "open already" in outcome.stderr


@pytest.mark.long
def test_when_the_command_is_killed_dagster_ends_too(ui: Ui) -> None:
    family = psutil.Process(ui.process.pid).children(recursive=True)
    assert family
    ui.process.kill()
    ui.process.wait()
    _, alive = psutil.wait_procs(family, timeout=60)
    assert not alive
