"""How connectors are found, and what is said about one that does not declare what it must."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from connectors.demo import Demo

from import_pipeline.connectors.base import (
    ENTRY_POINT_GROUP,
    Connector,
    check_declaration,
    discover_connectors,
    get_connector,
)
from import_pipeline.errors import ConfigurationError, UnknownSourceError


@pytest.fixture
def fresh(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Discovery that has seen nothing, and forgets what it sees."""
    discover_connectors.cache_clear()
    yield
    monkeypatch.undo()
    discover_connectors.cache_clear()


def install(folder: Path, monkeypatch: pytest.MonkeyPatch, *targets: str) -> None:
    """Put a distribution on the path that announces connectors, as an installed package does."""
    metadata = folder / "their_package-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: their-package\nVersion: 1.0\n")
    lines = "\n".join(f"c{number} = {target}" for number, target in enumerate(targets))
    (metadata / "entry_points.txt").write_text(f"[{ENTRY_POINT_GROUP}]\n{lines}\n")
    monkeypatch.syspath_prepend(str(folder))


def test_the_modules_beside_the_contract_are_found() -> None:
    assert "file-upload" in discover_connectors()
    assert list(discover_connectors()) == sorted(discover_connectors())
    assert get_connector("file-upload").job_name == "import_file_upload"


def test_an_unknown_source_is_answered_with_the_known_ones() -> None:
    with pytest.raises(UnknownSourceError, match=r"no source 'fathon'; known are .*file-upload"):
        get_connector("fathon")


@pytest.mark.usefixtures("fresh")
def test_a_connector_of_another_package_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, monkeypatch, "connectors.demo:Demo")
    assert type(get_connector("demo")) is Demo


@pytest.mark.usefixtures("fresh")
def test_two_connectors_for_one_source_are_an_error_that_names_both(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(tmp_path, monkeypatch, "connectors.demo:Demo", "connectors.demo:UnpartitionedDemo")
    with pytest.raises(ConfigurationError, match=r"'demo': connectors\.demo and connectors\.demo"):
        discover_connectors()


def declare(**values: object) -> type[Connector]:
    """A connector class like the demo, with something else about it."""
    return type("Odd", (Demo,), values)


@pytest.mark.parametrize("name", ["source_app", "title", "description", "documentation_url"])
def test_a_missing_declaration_is_named(name: str) -> None:
    with pytest.raises(ConfigurationError, match=f"does not declare '{name}'"):
        check_declaration(declare(**{name: None}))


@pytest.mark.parametrize("source_app", ["Zoom", "zoom_us", "zoom us", "", "-", "zoom/x", "zoom--x", "-zoom", "zöom"])
def test_an_identifier_that_dagster_or_a_path_cannot_take_is_refused(source_app: str) -> None:
    with pytest.raises(ConfigurationError, match="lower-case words"):
        check_declaration(declare(source_app=source_app))


@pytest.mark.parametrize("source_app", ["zoom", "google-meet", "file-upload", "s3", "3cx"])
def test_good_identifiers_pass(source_app: str) -> None:
    check_declaration(declare(source_app=source_app))


def test_what_is_not_defined_is_named() -> None:
    class Half(Connector):
        source_app = "half"
        title = "Half"
        description = "Lists, but fetches nothing."
        documentation_url = "https://example.com"

        def list_items(self, account: object, window: object, http: object) -> Iterator[object]:  # type: ignore[override]
            yield from ()

    with pytest.raises(ConfigurationError, match="does not define fetch_record"):
        check_declaration(Half)


def test_finding_connectors_needs_no_database_and_no_dagster() -> None:
    """Definitions are loaded again and again, so finding them must stay light."""
    program = (
        "import sys; from import_pipeline.connectors.base import discover_connectors; discover_connectors();"
        " sys.stdout.write(' '.join(name for name in ('dagster', 'pandas') if name in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == ""
