"""Running the project's command as a user does, as a process with a home of its own, or faster in this one."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import pytest

from import_pipeline import cli

COMMAND = Path(sys.executable).parent / "import-pipeline"
REPOSITORY = Path(__file__).parents[1]
SAMPLES = REPOSITORY / "samples"
VTT = "WEBVTT\n\n00:00:01.000 --> 00:00:04.000\nDana Reyes: {text}\n\n00:00:05.000 --> 00:00:09.000\nOmar: Yes.\n"


@dataclass(frozen=True)
class Outcome:
    """What a command printed and how it ended."""

    code: int
    stdout: str
    stderr: str

    @property
    def json(self) -> Any:
        """The last line of standard output."""
        return json.loads(self.stdout.strip().splitlines()[-1])


@dataclass(frozen=True)
class CommandLine:
    """The command with a home and settings of its own."""

    home: Path
    settings: dict[str, str] = field(default_factory=dict)

    @property
    def environment(self) -> dict[str, str]:
        return {**os.environ, "IMPORT_PIPELINE_HOME": str(self.home), **self.settings}

    def run(self, *arguments: str | Path, timeout: float = 300) -> Outcome:
        done = subprocess.run(
            [COMMAND, *arguments],
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=timeout,
            stdin=subprocess.DEVNULL,
            check=False,
        )
        return Outcome(done.returncode, done.stdout, done.stderr)

    def start(
        self, *arguments: str | Path, stdout: IO[str] | int = subprocess.PIPE, stderr: IO[str] | int = subprocess.PIPE
    ) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [COMMAND, *arguments],
            env=self.environment,
            stdout=stdout,
            stderr=stderr,
            text=True,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )


@dataclass
class Shell:
    """Runs the command in this process, with settings of a test.

    Attributes:
        unspeakable: What no command may print.
    """

    monkeypatch: pytest.MonkeyPatch
    capsys: pytest.CaptureFixture[str]
    unspeakable: set[str] = field(default_factory=set)

    def set(self, **settings: str) -> None:
        for name, value in settings.items():
            self.monkeypatch.setenv(name, value)

    def run(self, *arguments: str | Path, stdin: str | bytes = "") -> Outcome:
        content = stdin.encode() if isinstance(stdin, str) else stdin
        self.monkeypatch.setattr(sys, "argv", ["import-pipeline", *map(str, arguments)])
        self.monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content), encoding="utf-8"))
        self.capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            cli.main()
        printed = self.capsys.readouterr()
        outcome = Outcome(int(ended.value.code or 0), printed.out, printed.err)
        for secret in self.unspeakable:
            assert secret not in outcome.stdout + outcome.stderr
        return outcome


def end(process: subprocess.Popen[str], with_signal: int = signal.SIGINT, timeout: float = 60) -> Outcome:
    """Send a signal to a started command and wait for its end."""
    process.send_signal(with_signal)
    stdout, stderr = process.communicate(timeout=timeout)
    return Outcome(process.returncode, stdout, stderr)


def start_together(code: str, arguments: list[str], number: int) -> list[subprocess.Popen[str]]:
    """Start processes that say `ready` and wait for a line, and let them all go at once when the last is ready.

    The line is the number of each, counted from 0.
    """
    running = [
        subprocess.Popen(
            [sys.executable, "-c", code, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for _ in range(number)
    ]
    for each in running:
        assert each.stdout is not None
        assert each.stdout.readline() == "ready\n"
    for position, each in enumerate(running):
        assert each.stdin is not None
        each.stdin.write(f"{position}\n")
        each.stdin.flush()
    return running


def write_calls(folder: Path, number: int, *, start: int = 0) -> None:
    """Write so many different transcripts."""
    folder.mkdir(parents=True, exist_ok=True)
    for position in range(start, start + number):
        (folder / f"call {position:04d}.vtt").write_text(VTT.format(text=f"This is call number {position}."))
