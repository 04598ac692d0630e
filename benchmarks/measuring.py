"""What every benchmark has in common: sides that take turns, medians, ratios, and the machine they were measured on.

No figure stands alone: each claim is a ratio of two sides that were measured in the same run, in turns, so that
whatever else the machine does meanwhile slows both.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime

import psutil


@dataclass(frozen=True)
class Side:
    """One of the things that are compared.

    Args:
        name: What the table calls it.
        run: What is measured.
        prepare: Brings the world back to where it was; not measured.
    """

    name: str
    run: Callable[[], object]
    prepare: Callable[[], object] = lambda: None


@dataclass(frozen=True)
class Claim:
    """A ratio with its target.

    Attributes:
        text: What is compared with what.
        ratio: As measured; for what must not happen at all, how often it did.
        target: What it must reach; None where nothing is promised.
        at_least: Whether the target is a lower bound; else an upper one.
        seconds: Median of each side, for the curious.
        per: What the seconds are for, `a call` for instance; by default the whole of what was done.
        unit: Of a figure that is no ratio.
    """

    text: str
    ratio: float
    target: float | None
    at_least: bool = True
    seconds: dict[str, float] = field(default_factory=dict)
    per: str = ""
    unit: str = ""

    @property
    def is_met(self) -> bool:
        """Whether the target is reached, if there is one."""
        if self.target is None:
            return True
        return self.ratio >= self.target if self.at_least else self.ratio <= self.target


def take_turns(sides: Sequence[Side], rounds: int) -> dict[str, float]:
    """Run all sides so many times in turns, and return the median seconds of each; the first round warms up."""
    taken: dict[str, list[float]] = {side.name: [] for side in sides}
    for turn in range(rounds + 1):
        for side in sides:
            side.prepare()
            begun = time.perf_counter()
            side.run()
            if turn:
                taken[side.name].append(time.perf_counter() - begun)
    return {name: statistics.median(seconds) for name, seconds in taken.items()}


def describe_machine() -> dict[str, str]:
    """Say where and when something was measured."""
    model = next(
        (line.partition(":")[2].strip() for line in _read("/proc/cpuinfo").splitlines() if "model name" in line), ""
    )
    return {
        "measured at": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        "processor": f"{os.cpu_count()} × {model or platform.processor()}",
        "memory": f"{psutil.virtual_memory().total / 2**30:.0f} GB",
        "system": f"{platform.system()} {platform.release()}, Python {platform.python_version()}",
        "load": f"{os.getloadavg()[0]:.1f}",
    }


def parse_arguments(doc: str | None, **options: tuple[int | str | bool, str]) -> argparse.Namespace:
    """Read the command line: `--json`, and each option, which has a default and a text for `--help`.

    Numbers are 1 or more; what is False by default is a switch.
    """
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print JSON for programs")
    for name, (default, text) in options.items():
        if default is False:
            parser.add_argument(f"--{name}", action="store_true", help=text)
        else:
            kind = _positive if isinstance(default, int) else str
            parser.add_argument(f"--{name}", type=kind, default=default, help=f"{text}; by default {default}")
    return parser.parse_args()


def report(claims: Sequence[Claim], *, as_json: bool) -> None:
    """Print the claims, and leave with 1 if one is not met or nothing was measured."""
    machine = describe_machine()
    if as_json:
        print(json.dumps({"machine": machine, "claims": [asdict(each) | {"is_met": each.is_met} for each in claims]}))
    else:
        print(", ".join(f"{name}: {value}" for name, value in machine.items()))
        for each in claims:
            print(_describe(each))
    if not claims:
        sys.exit("Nothing was measured.")
    sys.exit(0 if all(each.is_met for each in claims) else 1)


def _describe(claim: Claim) -> str:
    figure = f"{claim.ratio:.0f} {claim.unit}" if claim.unit else f"{claim.ratio:.2f}"
    verdict = "nothing promised"
    if claim.target is not None:
        verdict = f"{'≥' if claim.at_least else '≤'} {claim.target:g}, {'met' if claim.is_met else 'NOT MET'}"
    sides = ", ".join(f"{name} {_duration(seconds)}" for name, seconds in claim.seconds.items())
    return f"{claim.text:<74} {figure:>10}  ({verdict})" + (f"\n    {sides} {claim.per}".rstrip() if sides else "")


def _duration(seconds: float) -> str:
    unit, factor = next((each for each in (("s", 1), ("ms", 1e3)) if seconds * each[1] >= 1), ("µs", 1e6))
    return f"{seconds * factor:.3g} {unit}" if seconds * factor < 1000 else f"{seconds * factor:.0f} {unit}"


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise ValueError(text)
    return number


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8") as file:
            return file.read()
    except OSError:
        return ""
