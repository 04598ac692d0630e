"""Every command that README and `docs/` show with its output is run, in order, in one home, and prints just that.

Commands without an output are looked at by `tests/unit/test_documents.py`.
"""

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

PAGES = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").glob("*.md"))]
BLOCKS = [
    block
    for page in PAGES
    for block in re.findall(r"```console\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
]


def cases() -> list[tuple[str, list[str]]]:
    found: list[tuple[str, list[str]]] = []
    for line in "".join(BLOCKS).splitlines():
        if line.startswith("$ "):
            found.append((line[2:], []))
        else:
            found[-1][1].append(line)
    return found


def as_pattern(shown: list[str]) -> str:
    """Return what a page shows as an expression: `…` stands for anything, space at line ends for nothing."""
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
    """What lasts from one command of the pages to the next: variables, and what was started in the background.

    The port that they show may be taken on this machine, so another one stands for it.
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
def test_the_command_prints_what_the_page_shows(command: str, shown: list[str], home: Path, shell: Shell) -> None:
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
    done = subprocess.run(
        ["bash", "-c", f"exec 2>&1; {ours}"],
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


def test_uv_can_run_the_commands_as_they_are_shown(home: Path) -> None:
    assert shutil.which("uv"), "the commands need uv: pip install uv"
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
