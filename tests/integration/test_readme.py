"""Every command in the README is run, in order, in one home, and prints what the README shows."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from commands import COMMAND, REPOSITORY

pytestmark = pytest.mark.long

README = (REPOSITORY / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```console\n(.*?)```", README, re.DOTALL)


def cases() -> list[tuple[str, list[str]]]:
    found: list[tuple[str, list[str]]] = []
    for line in "".join(BLOCKS).splitlines():
        if line.startswith("$ "):
            found.append((line[2:], []))
        else:
            found[-1][1].append(line)
    return found


def as_pattern(shown: list[str]) -> str:
    """Return what the README shows as an expression: `…` stands for anything, space at line ends for nothing."""
    lines = [line.rstrip() for line in shown if line.strip()]
    parts = [r"(?:.*\n)*?" if line == "…" else re.escape(line).replace("…", ".*") + r"\n" for line in lines]
    return "".join(parts)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("readme")


@pytest.fixture(scope="module")
def shell() -> Iterator[Shell]:
    shell = Shell()
    yield shell
    for process in shell.background:
        process.terminate()
        process.wait(timeout=20)


class Shell:
    """What lasts from one command of the README to the next: variables, and what was started in the background.

    The README's port may be taken on this machine, so another one stands for it.
    """

    def __init__(self) -> None:
        self.variables: dict[str, str] = {}
        self.background: list[subprocess.Popen[str]] = []
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = str(free.getsockname()[1])

    def start(self, command: str) -> None:
        process = subprocess.Popen(shlex.split(command), cwd=REPOSITORY, stdout=subprocess.PIPE, text=True)
        self.background.append(process)
        assert process.stdout is not None
        assert any(line.startswith("Ctrl-C") for line in process.stdout), "the server did not start"


@pytest.mark.parametrize(("command", "shown"), cases(), ids=[command for command, _ in cases()])
def test_the_command_prints_what_the_readme_shows(command: str, shown: list[str], home: Path, shell: Shell) -> None:
    # Installing uv is the business of the machine; what follows it is ours.
    ours = command.removeprefix("pip install uv && ").replace("9001", shell.port)
    ours = ours.replace("uv run import-pipeline", str(COMMAND)).replace("uv run python", sys.executable)
    if ours.endswith(" &"):
        shell.start(ours.removesuffix(" &"))
        return
    if ours.startswith("export "):
        name, _, value = ours.removeprefix("export ").partition("=")
        shell.variables[name] = value
        return
    assert str(COMMAND) in ours
    done = subprocess.run(
        ["bash", "-c", ours.replace(str(COMMAND), f"2>&1 {COMMAND}", 1)],
        cwd=REPOSITORY,
        env={**os.environ, **shell.variables, "IMPORT_PIPELINE_HOME": str(home)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    printed = "".join(f"{line.rstrip()}\n" for line in done.stdout.splitlines() if line.strip())
    assert re.fullmatch(as_pattern(shown), printed), f"{ours} printed\n{printed}\nand not\n" + "\n".join(shown)


def test_the_readmes_two_commands_are_there_and_uv_can_run_them(home: Path) -> None:
    assert "pip install uv && uv run import-pipeline upload samples" in README
    assert "\nuv run pytest\n" in README
    assert shutil.which("uv"), "the README's commands need uv: pip install uv"
    done = subprocess.run(
        ["uv", "run", "--no-sync", "import-pipeline", "counts", "--json"],
        cwd=REPOSITORY,
        env={**os.environ, "IMPORT_PIPELINE_HOME": str(home)},
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert done.stdout.startswith("{")


def test_every_setting_that_the_code_reads_stands_in_the_readme() -> None:
    read = set()
    for path in (REPOSITORY / "import_pipeline").rglob("*.py"):
        read |= set(re.findall(r"IMPORT_PIPELINE_[A-Z_]+", path.read_text(encoding="utf-8")))
    assert read <= set(re.findall(r"IMPORT_PIPELINE_[A-Z_]+", README))


def test_every_file_that_the_documents_name_exists() -> None:
    for document in ("README.md", "CONTRIBUTING.md"):
        text = (REPOSITORY / document).read_text(encoding="utf-8")
        for name in re.findall(r"`((?:import_pipeline|sql|tests|samples)/[\w./-]+)`", text):
            assert (REPOSITORY / name).exists() or name.endswith("echo.py"), f"{document} names {name}"
