"""The table of what every fault led to: tests write rows, the end of the test run joins them into one file.

With several workers each writes a part of its own. `tests/integration/FAULTS.md` explains how to read it.
"""

from __future__ import annotations

import json
import os
from dataclasses import astuple
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from faults.library import Numbers

FOLDER = Path(__file__).parents[1] / "reports"
TABLE = FOLDER / "faults.md"
_TEXTS = ["Fault", "Moment", "What the broken run said"]
_NUMBERS = ["Expected", "Found", "Twice", "Unvaulted", "Unledgered", "Open_jobs", "Leases", "Staged", "Seconds"]
_HEAD = [*_TEXTS, *(name.replace("_", " ") for name in _NUMBERS)]


def forget_parts() -> None:
    """Remove what an earlier test run wrote."""
    for part in FOLDER.glob("faults-*.jsonl"):
        part.unlink(missing_ok=True)


def write_row(fault: str, moment: str, said: str, numbers: Numbers, seconds: float) -> None:
    """Add a row to this worker's part."""
    FOLDER.mkdir(exist_ok=True)
    worker = os.environ.get("PYTEST_XDIST_WORKER", "main")
    row = [fault, moment, said, *astuple(numbers), f"{seconds:.1f}"]
    with (FOLDER / f"faults-{worker}.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")


def join_parts() -> Path | None:
    """Write the table from all parts and return where it is, or None if no test met a fault."""
    rows = [
        json.loads(line)
        for part in sorted(FOLDER.glob("faults-*.jsonl"))
        for line in part.read_text(encoding="utf-8").splitlines()
    ]
    if not rows:
        return None
    lines = ["| " + " | ".join(_HEAD) + " |", "|" + "---|" * len(_TEXTS) + "--:|" * len(_NUMBERS)]
    lines += ["| " + " | ".join(str(cell).replace("|", "\\|") for cell in row) + " |" for row in sorted(rows)]
    TABLE.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return TABLE
