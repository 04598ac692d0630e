"""`tests/FAILURES.md` names only tests that exist, and leaves out no number."""

from __future__ import annotations

import ast
import re
from pathlib import Path

TESTS = Path(__file__).parents[1]
TABLE = (TESTS / "FAILURES.md").read_text(encoding="utf-8")


def test_every_test_that_the_table_names_exists() -> None:
    named = set(re.findall(r"`tests/([\w/]+\.py)::(test_\w+)`", TABLE))
    assert len(named) > 40
    missing = []
    for file, name in sorted(named):
        path = TESTS / file
        tree = ast.parse(path.read_text(encoding="utf-8")) if path.exists() else ast.Module([], [])
        if name not in {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}:
            missing.append(f"{file}::{name}")
    assert not missing


def test_every_failure_has_a_row() -> None:
    numbers: set[int] = set()
    for cell in re.findall(r"^\| (F[\dF–, ]+) \|", TABLE, re.MULTILINE):
        for first, last in re.findall(r"F(\d+)(?:–F(\d+))?", cell):
            numbers |= set(range(int(first), int(last or first) + 1))
    assert numbers == set(range(1, 89))
