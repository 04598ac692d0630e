"""`import-pipeline dev` and who is not its operator: other users of the machine, colleagues, and who reads along."""

from __future__ import annotations

import json
import os
import pty
import resource
import shutil
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest
import servers
from commands import COMMAND, REPOSITORY, CommandLine, write_calls
from dev import LAUNCH, Dev, free_port, running_dev, wait_until

from import_pipeline.cli.dev.sign_in import LINKS

STRANGER = 65534
"""`nobody`, whom every machine has."""
STRANGERS = ["setpriv", f"--reuid={STRANGER}", f"--regid={STRANGER}", "--clear-groups"]


def as_stranger(*command: str | Path) -> subprocess.CompletedProcess[str]:
    assert os.geteuid() == 0, "only root can become another user"
    return subprocess.run(
        [*STRANGERS, *map(str, command)],
        capture_output=True, text=True, check=False, timeout=60, cwd="/",
    )  # fmt: skip


def test_without_sign_in_no_other_machine_is_let_in(tmp_path: Path) -> None:
    command_line = CommandLine(tmp_path / "home")
    for host in ("0.0.0.0", "::", "0", "192.0.2.1"):  # noqa: S104
        outcome = command_line.run("dev", "--no-sign-in", "--host", host, "--port", str(free_port()))
        assert outcome.code == 2
        assert not (tmp_path / "home" / "postgres").exists(), "it was refused before anything began"
    assert "--no-sign-in" in command_line.run("dev", "--no-sign-in", "--host", "0.0.0.0").stderr  # noqa: S104


def test_a_link_to_a_ui_that_is_not_open_is_refused(tmp_path: Path) -> None:
    outcome = CommandLine(tmp_path / "home").run("dev", "--link")
    assert outcome.code == 2
    assert "import-pipeline dev" in outcome.stderr
    assert not outcome.stdout


@pytest.fixture(scope="module")
def dev() -> Iterator[Dev]:
    with servers.scratch_folder() as folder, running_dev(CommandLine(folder / "home")) as dev:
        yield dev


def family(dev: Dev) -> list[psutil.Process]:
    return [psutil.Process(dev.process.pid), *psutil.Process(dev.process.pid).children(recursive=True)]


@pytest.mark.long
def test_another_user_of_the_machine_gets_nothing_and_starts_nothing(dev: Dev) -> None:
    curl = shutil.which("curl")
    assert curl is not None
    selector = {"repositoryName": "__repository__", "repositoryLocationName": "import_pipeline.definitions"}
    asked = json.dumps({"query": LAUNCH, "variables": {"selector": selector | {"jobName": "migrate"}, "config": {}}})
    before = dev.runs()
    for arguments in (
        ["/"],
        ["/server_info"],
        ["/graphql?query={version}"],
        ["/graphql", "--data", asked, "-H", "Content-Type: application/json"],
        ["/graphql", "--data", asked, "-H", "Content-Type: application/json", "-H", f"Origin: {dev.url}"],
        ["/graphql", "-H", f"Cookie: import_pipeline_{dev.port}=operator"],
        ["/logs/x.out"],
        ["/report_asset_materialization/x", "-X", "POST", "-H", "Content-Type: application/json", "--data", "{}"],
    ):
        path, *rest = arguments
        done = as_stranger(curl, "-sS", "-w", "\n%{http_code}", f"{dev.url}{path}", *rest)
        assert done.stdout.endswith("\n401"), done
        assert "dagster" not in done.stdout.lower()
    assert dev.runs() == before


CROWD = """
import resource, socket, sys
resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
crowd = []
for _ in range(1100):
    crowd.append(socket.create_connection(("127.0.0.1", int(sys.argv[1])), timeout=10))
    crowd[-1].send(b"GET / HTTP/1.1\\r\\nX: ")
print(len(crowd), flush=True)
sys.stdin.read()
"""


@pytest.mark.long
def test_another_user_who_opens_more_connections_than_there_are_files_ends_nothing(tmp_path: Path) -> None:
    """With as many files as most systems let a program open at first."""
    before, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (1024, most))
    try:
        with running_dev(CommandLine(tmp_path / "home")) as dev:
            crowd = subprocess.Popen(
                [*STRANGERS, "/usr/bin/python3", "-c", CROWD, str(dev.port)],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd="/",
            )  # fmt: skip
            with crowd:
                assert crowd.stdout is not None
                assert crowd.stdout.readline() == "1100\n"
                assert dev.repository()
                crowd.communicate("")
            assert dev.repository()
            assert "started again" not in dev.said
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (before, most))


@pytest.mark.long
def test_another_user_reaches_no_socket_and_no_file_of_it(dev: Dev) -> None:
    sockets = set()
    for process in family(dev):
        for each in process.net_connections("inet"):
            if each.status == psutil.CONN_LISTEN:
                assert (each.laddr.ip, each.laddr.port) == ("127.0.0.1", dev.port), process.cmdline()
        sockets |= {each.laddr for each in process.net_connections("unix") if each.laddr}
    # The code server and the process in which it has loaded the code; what is abstract has no rights at all.
    assert len(sockets) >= 2
    connect = "import socket, sys; socket.socket(socket.AF_UNIX).connect(sys.argv[1])"
    for address in sockets:
        assert address.startswith("/"), address
        assert stat.S_IMODE(Path(address).parent.stat().st_mode) == 0o700
        python = Path(sys.executable).resolve()
        python = python if as_stranger(python, "-c", "").returncode == 0 else Path("/usr/bin/python3")
        assert as_stranger(python, "-c", "").returncode == 0, "the stranger has no Python to try with"
        assert "PermissionError" in as_stranger(python, "-c", connect, address).stderr
        subprocess.run([python, "-c", connect, address], check=True, timeout=60)
    desk = dev.command_line.home / "ui"
    for path in (desk, desk / "key", desk / "url"):
        assert as_stranger("cat", path).returncode != 0
        assert path.stat().st_mode & 0o077 == 0


@pytest.mark.long
def test_no_token_and_no_key_is_seen_in_an_argument_an_environment_or_what_was_said(dev: Dev, tmp_path: Path) -> None:
    link = dev.link()
    cookie = next(iter(dev.cookies.jar)).value
    secrets = [link.partition("token=")[2], (dev.command_line.home / "ui" / "key").read_text(), str(cookie)]
    write_calls(tmp_path / "calls", 1)
    assert httpx.get(link, timeout=60).status_code == 303
    for process in family(dev):
        seen = " ".join([*process.cmdline(), *process.environ().values()])
        assert not any(secret in seen for secret in secrets)
    assert "sign-in?token" not in dev.said, "a file has other readers"
    assert "dev --link" in dev.said
    assert not any(secret in dev.said for secret in secrets)


@pytest.mark.long
def test_a_program_signs_in_with_the_line_that_the_documents_show(dev: Dev, tmp_path: Path) -> None:
    line = """printf 'url = "%s"' "$(import-pipeline dev --link)" | curl --cookie-jar session --config -"""
    settings = dev.command_line.environment
    path = f"{COMMAND.parent}{os.pathsep}{settings['PATH']}"
    subprocess.run(["bash", "-c", line], env=settings | {"PATH": path}, cwd=tmp_path, check=True, timeout=60)
    asks = ["curl", "--silent", "--cookie", "session", "--json", '{"query": "{version}"}', f"{dev.url}/graphql"]
    done = subprocess.run(asks, cwd=tmp_path, capture_output=True, text=True, check=True, timeout=60)
    assert "version" in json.loads(done.stdout)["data"]


@pytest.mark.long
def test_a_webserver_that_is_started_again_signs_nobody_out(dev: Dev) -> None:
    viewers = dev.sign_in("--viewer")
    link = dev.link()
    (webserver,) = (process for process in family(dev) if "import_pipeline.cli.dev.webserver" in process.cmdline())
    webserver.kill()
    webserver.wait(60)
    wait_until(dev.repository, "waited for the webserver")
    assert httpx.get(f"{dev.url}/runs", cookies=viewers, timeout=60).status_code == 200
    assert httpx.get(link, timeout=60).status_code == 303
    assert httpx.get(link, timeout=60).status_code == 403, "used is used, also for a webserver that has forgotten it"


@pytest.mark.long
def test_a_colleague_looks_and_launches_nothing(dev: Dev) -> None:
    before = dev.runs()
    own, dev.cookies = dev.cookies, dev.sign_in("--viewer")
    try:
        assert "import_file_upload" in {job["name"] for job in dev.repository()["jobs"]}
        with pytest.raises(httpx.HTTPStatusError, match="403"):
            dev.launch("migrate")
    finally:
        dev.cookies = own
    assert dev.runs() == before


@pytest.mark.long
def test_sessions_end_with_the_ui_and_the_next_one_says_how_to_sign_in(tmp_path: Path) -> None:
    with running_dev(CommandLine(tmp_path / "home")) as dev:
        before, link = dev.cookies, dev.link()
        dev.end()
        assert not (tmp_path / "home" / "ui").exists()
        dev.start()
        answer = httpx.post(f"{dev.url}/graphql", json={"query": "{version}"}, cookies=before, timeout=60)
        assert answer.status_code == 401
        assert "dev --link" in answer.json()["errors"][0]["message"]
        assert httpx.get(link, timeout=60).status_code == 403


@pytest.mark.long
def test_in_a_terminal_it_prints_a_link_and_opens_the_browser_without_naming_the_token(tmp_path: Path) -> None:
    seen = tmp_path / "browser.txt"
    browser = tmp_path / "browser"
    browser.write_text(f'#!/bin/sh\necho "$@" > {seen}.part\nmv {seen}.part {seen}\n')
    browser.chmod(0o755)
    settings = {"BROWSER": str(browser), "DISPLAY": ":99", "IMPORT_PIPELINE_HOME": str(tmp_path / "home")}
    port = free_port()
    terminal, other_end = pty.openpty()
    process = subprocess.Popen(
        [COMMAND, "dev", "--port", str(port), "--viewer"],
        env=os.environ | settings, cwd=REPOSITORY, stdin=other_end, stdout=other_end, stderr=other_end,
        start_new_session=True,
    )  # fmt: skip
    os.close(other_end)
    try:
        said = ""
        while "For colleagues" not in said or not said.endswith("\n"):
            said += os.read(terminal, 4096).decode()
        own, colleagues = (word for word in said.split() if "/sign-in?token=" in word)
        arguments = wait_until(lambda: seen.exists() and seen.read_text(), "waited for the browser")
        assert "token" not in arguments
        page = Path(arguments.strip().removeprefix("file://"))
        assert own in page.read_text()
        assert page.stat().st_mode & 0o077 == 0
        for link, again in ((own, 403), (colleagues, 303)):
            assert link.startswith(f"http://127.0.0.1:{port}/")
            assert [httpx.get(link, timeout=60).status_code for _ in range(2)] == [303, again]
    finally:
        process.terminate()
        process.wait(90)
        os.close(terminal)
    assert str(LINKS["operator"].seconds // 60) in said


@pytest.mark.long
def test_without_sign_in_programs_come_in_and_pages_of_others_do_not(tmp_path: Path) -> None:
    with running_dev(CommandLine(tmp_path / "home"), "--no-sign-in") as dev:
        assert "every user of this machine" in dev.said
        dev.cookies = httpx.Cookies()
        assert dev.repository()["jobs"]
        for headers, status in (
            ({"Host": f"evil.example:{dev.port}"}, 421),
            ({"Origin": "http://evil.example"}, 403),
            ({"Sec-Fetch-Site": "cross-site"}, 403),
        ):
            answer = httpx.post(f"{dev.url}/graphql", json={"query": "{version}"}, headers=headers, timeout=60)
            assert answer.status_code == status


@pytest.mark.long
def test_on_all_addresses_it_warns_of_plain_http_and_asks_everybody_to_sign_in(tmp_path: Path) -> None:
    command_line = CommandLine(tmp_path / "home", {"IMPORT_PIPELINE_UI_URL": "http://calls.example.com"})
    own = socket.gethostbyname(socket.gethostname())
    with running_dev(command_line, "--host", "0.0.0.0") as dev:  # noqa: S104
        assert "The UI is at http://calls.example.com" in dev.said
        assert "can be read on its way" in dev.said
        assert dev.link("--viewer").startswith("http://calls.example.com/sign-in?token=")
        for host in (own, "127.0.0.1"):
            assert httpx.get(f"http://{host}:{dev.port}/", timeout=60).status_code == 401
        named = httpx.get(f"{dev.url}/", headers={"Host": "calls.example.com"}, cookies=dev.cookies, timeout=60)
        assert named.status_code == 200
