"""How much memory an import needs at most, and how little that grows with what there is to import.

    uv run python -m benchmarks.memory [--json] [--records 100000] [--characters 20000]

The real command imports so many calls from a fake provider, and then twice as many, each time with a new library, and
the highest resident memory of its process is read from the kernel. PostgreSQL is a process of its own and not counted;
the fake is in this process. 100,000 calls of 20 kB are 2 GB and take a quarter of an hour, twice as many half an hour
and 15 GB of disk: each is done once.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

from benchmarks.endless_fathom import EndlessFathom
from benchmarks.measuring import Claim, parse_arguments, report

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

import servers
from commands import CommandLine
from fakes.fathom import API_KEY

TARGET_MB = 350


def import_calls(number: int, characters: int) -> tuple[float, float]:
    """Import so many calls of about so many characters; return megabytes at the peak, and seconds."""
    with (
        EndlessFathom(number=number, characters=characters) as fathom,
        servers.scratch_folder(in_memory=False) as folder,
    ):
        settings = fathom.environment | {
            "IMPORT_PIPELINE_USER": "ana@example.com",
            "IMPORT_PIPELINE_FATHOM_API_KEY": API_KEY,
            "IMPORT_PIPELINE_FATHOM_RATE_LIMITS": "none",
            "IMPORT_PIPELINE_FATHOM_HISTORY_START": f"{fathom.call(number).started_at:%Y-%m-%d}",
        }
        command_line = CommandLine(folder / "home", settings)
        connected = command_line.run("connect", "fathom")
        assert connected.code == 0, connected.stderr
        begun = time.perf_counter()
        told = [folder / "out", folder / "err"]  # pipes would have to be read meanwhile
        with told[0].open("w") as out, told[1].open("w") as err:
            process = command_line.start("sync", "fathom", "--json", stdout=out, stderr=err)
            peak = watch(process)
        seconds = time.perf_counter() - begun
        out_text, err_text = (each.read_text(encoding="utf-8") for each in told)
        assert process.returncode == 0, err_text
        assert json.loads(out_text.splitlines()[-1])["inserted"] == number, out_text
    return peak, seconds


def watch(process: subprocess.Popen[str]) -> float:
    """Wait for a process, and return the most megabytes that it had resident."""
    peak = 0.0
    while process.poll() is None:
        with suppress(OSError):  # it may just have ended
            status = Path(f"/proc/{process.pid}/status").read_text(encoding="ascii")
            if found := re.search(r"VmHWM:\s+(\d+) kB", status):
                peak = int(found[1]) * 1024 / 1e6
        time.sleep(0.2)
    return peak


def main() -> None:
    """Measure and print."""
    arguments = parse_arguments(
        __doc__, records=(100_000, "calls of the first import"), characters=(20_000, "characters of each transcript")
    )
    sizes = [f"{number * arguments.characters / 1e9:g} GB" for number in (arguments.records, 2 * arguments.records)]
    (once, seconds_once), (twice, seconds_twice) = (
        import_calls(number, arguments.characters) for number in (arguments.records, 2 * arguments.records)
    )
    seconds = dict(zip(sizes, (seconds_once, seconds_twice), strict=True))
    report(
        [
            Claim(f"{sizes[0]}: peak", once, TARGET_MB, at_least=False, seconds=seconds, unit="MB"),
            Claim(f"{sizes[1]}: peak", twice, TARGET_MB, at_least=False, unit="MB"),
            Claim(
                f"{sizes[1]} / {sizes[0]}: peak, whichever is more", max(once, twice) / min(once, twice), 1.1,
                at_least=False,
            ),
        ],
        as_json=arguments.json,
    )  # fmt: skip


if __name__ == "__main__":
    main()
