"""A running `import-pipeline dev` for tests: starting it, asking it through the UI's own interface, ending it."""

from __future__ import annotations

import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import parse_qs, urlsplit

import httpx
import psutil
from commands import COMMAND, REPOSITORY, CommandLine

from import_pipeline.database.embedded import open_server

Found = TypeVar("Found")

FINISHED = ("SUCCESS", "FAILURE", "CANCELED")
REPOSITORIES = """
{ repositoriesOrError { ... on RepositoryConnection { nodes { name location { name } jobs { name } } } } }
"""
LAUNCH = """
mutation ($selector: JobOrPipelineSelector!, $config: RunConfigData!) {
  launchRun(executionParams: {selector: $selector, runConfigData: $config}) {
    __typename ... on LaunchRunSuccess { run { runId } } ... on PythonError { message }
  }
}
"""
BACKFILL = """
mutation ($selector: PartitionSetSelector!, $months: [String!]!) {
  launchPartitionBackfill(backfillParams: {selector: $selector, partitionNames: $months}) {
    __typename ... on LaunchBackfillSuccess { backfillId } ... on PythonError { message }
  }
}
"""
TERMINATE = """
mutation ($id: String!, $policy: TerminateRunPolicy) {
  terminateRun(runId: $id, terminatePolicy: $policy) { __typename ... on TerminateRunFailure { message } }
}
"""
CANCEL_BACKFILL = "mutation ($id: String!) { cancelPartitionBackfill(backfillId: $id) { __typename } }"
RUN = "query ($id: ID!) { runOrError(runId: $id) { ... on Run { status stepStats { stepKey status } } } }"
RUNS = """
query ($filter: RunsFilter, $limit: Int) {
  runsOrError(filter: $filter, limit: $limit) {
    ... on Runs { results { runId rootRunId status jobName tags { key value } } }
  }
}
"""
BACKFILLS = """
{ partitionBackfillsOrError { ... on PartitionBackfills { results { id status partitionSetName numPartitions } } } }
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_until(
    look: Callable[[], Found | None], what: str, timeout: float = 300, explain: Callable[[], str] = lambda: ""
) -> Found:
    """Look twice a second until something is found; what cannot be reached meanwhile is looked for again."""
    deadline = time.monotonic() + timeout
    while True:
        try:
            found = look()
            if found:
                return found
        except (httpx.HTTPError, TypeError, KeyError, ValueError):  # it is just being restarted
            found = None
        assert time.monotonic() < deadline, f"{what}, in vain for {timeout:.0f} seconds {explain()}"
        time.sleep(0.5)


class Dev:
    """The UI of a home, asked through its own interface.

    Args:
        command_line: Whose home and settings it has.
        port: Where it listens.
        log: The file for everything it says.
        options: More options of the command.
    """

    def __init__(self, command_line: CommandLine, port: int, log: Path, *options: str) -> None:
        self.command_line = command_line
        self.options = options
        self.port = port
        self.log = log
        self.cookies = httpx.Cookies()
        self.process = self.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def said(self) -> str:
        """What it has said so far, in all its lives."""
        return self.log.read_text(encoding="utf-8", errors="replace")

    def start(self) -> subprocess.Popen[bytes]:
        """Start it, wait until it is open, and sign in."""
        known = len(self.said) if self.log.exists() else 0
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [COMMAND, "dev", "--port", str(self.port), *self.options],
                env=self.command_line.environment,
                cwd=REPOSITORY,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

        def is_open() -> bool:
            assert self.process.poll() is None, self.said
            return "The UI is at " in self.said[known:]

        wait_until(is_open, "waited for the UI to open")
        self.cookies = self.sign_in()
        return self.process

    def link(self, *options: str) -> str:
        """Return a new link to sign in with; `--viewer` for one of a colleague's."""
        outcome = self.command_line.run("dev", "--link", *options)
        assert outcome.code == 0, outcome.stderr
        return outcome.stdout.strip()

    def sign_in(self, *options: str) -> httpx.Cookies:
        """Return the cookies of a session that such a link begins, from whatever address it leads to."""
        link = self.link(*options)
        answer = httpx.get(self.url + link[link.index("/sign-in") :], timeout=60)
        assert answer.status_code == httpx.codes.SEE_OTHER, answer.text
        return answer.cookies

    def end(self, with_signal: int = signal.SIGINT, timeout: float = 90) -> int:
        """Send a signal, unless it has ended, and return its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(with_signal)
        return self.process.wait(timeout=timeout)

    @cached_property
    def _socket_folder(self) -> str:
        with open_server(self.command_line.home) as server:
            return parse_qs(urlsplit(server.url()).query)["host"][0]

    def postmasters(self) -> list[psutil.Process]:
        """Return the first process of the embedded server, of which there is one or none."""
        setting = f"unix_socket_directories={self._socket_folder}"
        return [process for process in psutil.process_iter(["cmdline"]) if setting in (process.info["cmdline"] or [])]

    def ask(self, query: str, **variables: Any) -> Any:
        """Return the answer's data; `httpx.HTTPError` when nobody answers."""
        asked = {"query": query, "variables": variables}
        answer = httpx.post(f"{self.url}/graphql", json=asked, cookies=self.cookies, timeout=60)
        answer.raise_for_status()
        return answer.json()["data"]

    def repository(self) -> dict[str, Any]:
        (found,) = self.ask(REPOSITORIES)["repositoriesOrError"]["nodes"]
        return dict(found)

    def launch(self, job: str, config: dict[str, Any] | None = None) -> str:
        """Launch a job as the launchpad does, and return the run's id."""
        selector = self._selector() | {"jobName": job}
        launched = self.ask(LAUNCH, selector=selector, config=config or {})["launchRun"]
        assert launched["__typename"] == "LaunchRunSuccess", launched
        return str(launched["run"]["runId"])

    def launch_backfill(self, job: str, months: Sequence[str]) -> str:
        """Launch a job's partitions as the UI does, and return the backfill's id."""
        selector = {"partitionSetName": f"{job}_partition_set", "repositorySelector": self._selector()}
        launched = self.ask(BACKFILL, selector=selector, months=months)["launchPartitionBackfill"]
        assert launched["__typename"] == "LaunchBackfillSuccess", launched
        return str(launched["backfillId"])

    def terminate(self, run_id: str, *, is_forced: bool = False) -> str:
        """Cancel a run as its page does, and return how that was answered."""
        policy = "MARK_AS_CANCELED_IMMEDIATELY" if is_forced else "SAFE_TERMINATE"
        return str(self.ask(TERMINATE, id=run_id, policy=policy)["terminateRun"]["__typename"])

    def cancel_backfill(self, backfill_id: str) -> str:
        """Cancel a backfill as its page does, and return how that was answered."""
        return str(self.ask(CANCEL_BACKFILL, id=backfill_id)["cancelPartitionBackfill"]["__typename"])

    def wait_for_run(self, run_id: str, timeout: float = 300) -> dict[str, Any]:
        """Return a run when it has ended, with the statistics of its steps."""

        def look() -> dict[str, Any] | None:
            run: dict[str, Any] = self.ask(RUN, id=run_id)["runOrError"]
            return run if run["status"] in FINISHED else None

        return wait_until(look, f"waited for the end of run {run_id}", timeout)

    def runs(self, limit: int = 500, **filters: Any) -> list[dict[str, Any]]:
        """Return runs, the newest first; their tags as a dictionary."""
        found = self.ask(RUNS, filter=filters, limit=limit)["runsOrError"]["results"]
        return [run | {"tags": {tag["key"]: tag["value"] for tag in run["tags"]}} for run in found]

    def backfills(self) -> dict[str, str]:
        """Return the status of every backfill by its id."""
        return {each["id"]: each["status"] for each in self.ask(BACKFILLS)["partitionBackfillsOrError"]["results"]}

    def _selector(self) -> dict[str, str]:
        repository = self.repository()
        return {"repositoryName": repository["name"], "repositoryLocationName": repository["location"]["name"]}


@contextmanager
def running_dev(command_line: CommandLine, *options: str) -> Iterator[Dev]:
    """Run it on a free port; what it says is in `dev.log` beside the home."""
    dev = Dev(command_line, free_port(), command_line.home.parent / "dev.log", *options)
    try:
        yield dev
    finally:
        dev.end()
