"""`tests/FAILURES.md` and `SECURITY.md` name only tests that exist, and the table of failures leaves out no number."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
FAILURES = TESTS / "FAILURES.md"
SECURITY = TESTS.parent / "SECURITY.md"


@cache
def functions_of(file: str) -> set[str]:
    path = TESTS / file
    tree = ast.parse(path.read_text(encoding="utf-8")) if path.exists() else ast.Module([], [])
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}


@pytest.mark.parametrize("document", [FAILURES, SECURITY], ids=lambda path: path.name)
def test_every_test_that_a_document_names_exists(document: Path) -> None:
    named = set(re.findall(r"`tests/([\w/]+\.py)::(test_\w+)`", document.read_text(encoding="utf-8")))
    assert len(named) > 15
    missing = [f"{file}::{name}" for file, name in sorted(named) if name not in functions_of(file)]
    assert not missing


def test_every_promise_is_shown_by_a_test() -> None:
    tables = re.findall(r"^\| Promise \|.*\n\|[-|]+\n((?:\|.*\n)+)", SECURITY.read_text(encoding="utf-8"), re.MULTILINE)
    rows = [row for table in tables for row in re.findall(r"^\| (.+?) \| (.*) \|$", table, re.MULTILINE)]
    assert len(rows) > 40
    assert [promise for promise, shown in rows if "::test_" not in shown] == []


def test_every_failure_has_a_row() -> None:
    numbers: set[int] = set()
    for cell in re.findall(r"^\| (F[\dF–, ]+) \|", FAILURES.read_text(encoding="utf-8"), re.MULTILINE):
        for first, last in re.findall(r"F(\d+)(?:–F(\d+))?", cell):
            numbers |= set(range(int(first), int(last or first) + 1))
    assert numbers == set(range(1, 89))
