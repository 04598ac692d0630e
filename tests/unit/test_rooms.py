"""The house: what stands at the root, how full rooms are, where SQL stands. Who may know whom: `lint-imports`."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import import_pipeline

PACKAGE = Path(import_pipeline.__file__).parent
REPOSITORY = PACKAGE.parent
MODULES = sorted(PACKAGE.rglob("*.py"))
ROOMS = sorted(path.parent for path in PACKAGE.glob("*/__init__.py"))
# `set` begins sentences as well, so what follows it has to be a word of SQL.
STATEMENT = re.compile(
    r"\n?(select|insert into|update|delete from|with \w+ as|create (table|index|database|function|temporary|schema)|"
    r"grant|revoke|alter|drop|lock table|truncate|call|begin|commit|rollback|savepoint|"
    r"set (local|session|transaction|constraints|role)) \S",
    re.IGNORECASE,
)


def texts_of(module: Path) -> Iterator[tuple[int, str]]:
    """Texts of a module that are no docstrings, with their lines."""
    tree = ast.parse(module.read_text(encoding="utf-8"))
    docstrings = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
            yield node.lineno, node.value


def test_at_the_root_stands_only_what_a_stranger_meets() -> None:
    assert len(list(PACKAGE.glob("*.py"))) <= 6
    assert len(ROOMS) <= 10
    assert {path.name for path in PACKAGE.iterdir() if path.is_dir() and path.name != "__pycache__"} - {"sql"} == {
        room.name for room in ROOMS
    }


@pytest.mark.parametrize("room", ROOMS, ids=lambda room: room.name)
def test_a_room_says_what_belongs_there(room: Path) -> None:
    docstring = ast.get_docstring(ast.parse((room / "__init__.py").read_text(encoding="utf-8"))) or ""
    assert 2 <= len([line for line in docstring.splitlines() if line]) <= 7


def test_no_module_has_more_than_400_lines() -> None:
    assert not [path.name for path in MODULES if len(path.read_text(encoding="utf-8").splitlines()) > 400]


def test_sql_stands_in_its_files_and_in_the_room_of_the_database() -> None:
    found = [
        f"{module.relative_to(PACKAGE)}:{line}: {text.strip()[:60]}"
        for module in MODULES
        if not module.is_relative_to(PACKAGE / "database")
        for line, text in texts_of(module)
        if STATEMENT.match(text)
    ]
    assert not found


def test_no_room_leads_back_to_one_that_it_stands_on() -> None:
    linter = Path(sys.executable).with_name("lint-imports")
    told = subprocess.run([linter, "--no-cache"], cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert told.returncode == 0, told.stdout
