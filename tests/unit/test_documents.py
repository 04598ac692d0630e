"""README and `docs/`: short, true to the code, and no command in them that no test runs.

What the blocks marked `console` show is run by `tests/integration/test_readme.py`.
"""

from __future__ import annotations

import ast
import re
import shlex
from functools import cache
from pathlib import Path

import click
import pytest
from commands import REPOSITORY

from import_pipeline.cli import cli

README = REPOSITORY / "README.md"
PAGES = [README, *sorted((REPOSITORY / "docs").glob("*.md"))]
DOCUMENTS = [*PAGES, *(REPOSITORY / name for name in ("CONTRIBUTING.md", "SECURITY.md"))]
OTHER_TESTS = [path for path in (REPOSITORY / "tests").rglob("*.py") if path != Path(__file__)]


def name_of(path: Path) -> str:
    return str(path.relative_to(REPOSITORY))


def commands_in(page: Path) -> list[str]:
    """Return every line of a `sh` block."""
    blocks = re.findall(r"```sh\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    return [line for block in blocks for line in block.splitlines() if line.strip()]


def named_in(page: Path) -> list[tuple[str, set[str]]]:
    """Return every command of ours with its options, in `sh` blocks and in code within the text."""
    text = re.sub(r"```(?!sh\n)\w+\n.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    spans = commands_in(page) + re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL))
    found = []
    for span in spans:
        for name, rest in re.findall(r"import-pipeline ([a-z][a-z-]*)([^)|#]*)", span):
            found.append((name, {word for word in shlex.split(rest.replace('"', "")) if word.startswith("--")}))
    return found


@cache
def calls_in_tests() -> list[set[str]]:
    """Return the words of each call in the tests: its strings and the names of the function, as `--name` too."""
    found = []
    for path in OTHER_TESTS:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        named = {ast.unparse(each.targets[0]): each.value for each in tree.body if isinstance(each, ast.Assign)}
        for node in ast.walk(tree):
            if isinstance(node, ast.Call | ast.List | ast.Tuple):
                inner = list(node.args if isinstance(node, ast.Call) else node.elts)
                for spread in (ast.unparse(each.value) for each in inner if isinstance(each, ast.Starred)):
                    inner += named[spread].elts if isinstance(named.get(spread), ast.List | ast.Tuple) else []
                texts = [each.value for each in inner if isinstance(each, ast.Constant)]
                words = {word for text in texts if isinstance(text, str) for word in text.split()}
                function = ast.unparse(node.func) if isinstance(node, ast.Call) else ""
                if re.fullmatch(r"[\w.]+", function):
                    names = re.split(r"[._]", function)
                    words |= {*names, *(f"--{name}" for name in names)}
                found.append(words)
    return found


def is_run(name: str, options: set[str]) -> bool:
    return any({name, *options} <= words for words in calls_in_tests())


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_a_command_that_a_page_names_exists_and_is_run_by_a_test_with_the_same_options(page: Path) -> None:
    for name, options in named_in(page):
        assert name in cli.commands, f"{name_of(page)} names {name}"
        known = {text for each in cli.commands[name].params if isinstance(each, click.Option) for text in each.opts}
        assert options <= known, f"{name} knows no {options - known}"
        assert is_run(name, options), f"no test runs import-pipeline {name} {' '.join(sorted(options))}"


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_other_command_that_a_page_shows_is_one_of_the_build_or_of_a_test(page: Path) -> None:
    build = REPOSITORY / ".ci" / "run"
    elsewhere = "".join(path.read_text(encoding="utf-8") for path in [build, *OTHER_TESTS])
    for line in commands_in(page):
        if not line.startswith(("uv run import-pipeline ", "export ")):
            assert line in elsewhere, f"{name_of(page)} shows {line}"
    text = re.sub(r"```\w+\n.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    hidden = re.findall(r"^ {4}.*\b(?:import-pipeline|uv run|python|pip|curl)\b.*", text, re.MULTILINE)
    assert not hidden, "commands stand in blocks marked sh or console"


def test_no_command_counts_as_run_that_no_test_runs() -> None:
    assert not is_run("backfill", {"--no-such-option"})
    assert not is_run("no-such-command", set())


def test_every_command_and_every_setting_that_the_code_reads_stands_in_its_page() -> None:
    page = (REPOSITORY / "docs" / "commands-and-settings.md").read_text(encoding="utf-8")
    assert [name for name in cli.commands if f"| `import-pipeline {name}" not in page] == []
    read = {"DATABASE_URL", "DAGSTER_HOME"}
    for path in (REPOSITORY / "import_pipeline").rglob("*.py"):
        read |= set(re.findall(r"IMPORT_PIPELINE_[A-Z_]+", path.read_text(encoding="utf-8")))
    assert read <= set(re.findall(r"IMPORT_PIPELINE_[A-Z_]+|DATABASE_URL|DAGSTER_HOME", page))


def test_the_readme_is_read_in_ten_minutes_and_leads_to_every_page() -> None:
    text = README.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 200
    assert [page.name for page in PAGES[1:] if f"](docs/{page.name})" not in text] == []
    assert "pip install uv && uv run import-pipeline upload samples" in text
    assert "\nuv run pytest\n" in text


def anchors_of(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", DOCUMENTS, ids=name_of)
def test_every_file_and_heading_that_a_document_names_exists(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for name in re.findall(r"`((?:import_pipeline|sql|tests|samples|docs)/[\w./-]+)`", text):
        assert (REPOSITORY / name).exists() or name.endswith("echo.py"), name
    for link in re.findall(r"\]\((?!https?:)([^)\s]+)\)", text):
        target, _, anchor = link.partition("#")
        path = (page.parent / target).resolve() if target else page
        assert path.exists(), link
        assert not anchor or anchor in anchors_of(path), link
