"""Every benchmark runs, with tiny numbers, and says what it claims; how fast this machine is proves nothing here."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from commands import REPOSITORY

BENCHMARKS = {
    "dedup": "--largest 2000 --rounds 1 --batches 1",
    "insert": "--rounds 1 --rows 4",
    "job": "--rounds 1 --calls 2",
    "memory": "--records 100",
    "provider": "--rounds 1 --seconds 1 --source zoom",
    "scale": "--rounds 1 --calls 20 --most 2",
}
MINUTES = {"insert", "job", "memory", "provider", "scale"}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.long] if name in MINUTES else []) for name in BENCHMARKS]
)
def test_a_benchmark_prints_its_claims_with_their_targets(name: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", f"benchmarks.{name}", "--json", *BENCHMARKS[name].split()],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode in (0, 1), done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    assert set(told["machine"]) >= {"measured at", "processor", "memory"}
    assert told["claims"]
    for claim in told["claims"]:
        assert claim["text"]
        assert isinstance(claim["ratio"], int | float)
        ratio, target = claim["ratio"], claim["target"]
        is_met = target is None or (ratio >= target if claim["at_least"] else ratio <= target)
        assert claim["is_met"] is is_met
