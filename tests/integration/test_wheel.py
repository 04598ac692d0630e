"""The built wheel, installed into an empty environment far from the repository, does what the checkout does."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from commands import REPOSITORY, write_calls

pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]


def run(*command: str | Path, cwd: Path, **settings: str) -> str:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("UV_", "VIRTUAL_ENV"))}
    done = subprocess.run(
        command, cwd=cwd, env={**environment, **settings}, capture_output=True, text=True, timeout=900, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_wheel_imports_a_folder_in_an_empty_environment(tmp_path: Path) -> None:
    run("uv", "build", "--wheel", "--out-dir", tmp_path / "dist", REPOSITORY, cwd=tmp_path)
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    run("uv", "venv", tmp_path / "venv", cwd=tmp_path)
    python = tmp_path / "venv" / "bin" / "python"
    run("uv", "pip", "install", "--python", python, wheel, cwd=tmp_path)
    write_calls(tmp_path / "calls", 3)
    command = tmp_path / "venv" / "bin" / "import-pipeline"
    home = str(tmp_path / "home")
    out = run(command, "upload", tmp_path / "calls", "--json", cwd=tmp_path, IMPORT_PIPELINE_HOME=home)
    assert '"inserted": 3' in out
    assert '"pending": []' in run(command, "migrate", "--check", "--json", cwd=tmp_path, IMPORT_PIPELINE_HOME=home)
