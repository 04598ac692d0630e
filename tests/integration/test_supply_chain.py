"""What we depend on and what we hand on: bounds, known vulnerabilities, and the contents of wheel and archive."""

from __future__ import annotations

import json
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from commands import REPOSITORY
from packaging.requirements import Requirement

PROJECT: dict[str, Any] = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))


def declared() -> Iterator[Requirement]:
    """Every requirement: to run it, to develop it, to build it."""
    yield from map(Requirement, PROJECT["project"]["dependencies"])
    yield from map(Requirement, PROJECT["build-system"]["requires"])
    for group in (*PROJECT["dependency-groups"].values(), *PROJECT["project"]["optional-dependencies"].values()):
        yield from map(Requirement, group)


@pytest.mark.parametrize("requirement", list(declared()), ids=str)
def test_every_dependency_has_a_lower_and_an_upper_bound(requirement: Requirement) -> None:
    operators = {each.operator for each in requirement.specifier}
    assert operators & {"<", "<=", "==", "~="}, "a release nobody has tried yet would be installed"
    assert operators & {">=", ">", "==", "~="}


# -- known vulnerabilities --------------------------------------------------------------------------------------------


@pytest.fixture
def advisories() -> Iterator[ThreadingHTTPServer]:
    """A service that knows one vulnerability, of the package `click`."""

    class Advisories(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            name = asked["package"]["name"]
            affected = {"package": {"name": "click", "ecosystem": "PyPI"}, "ranges": [
                {"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": "9000.1"}]}
            ]}  # fmt: skip
            known = {
                "id": "GHSA-test-0001",
                "summary": "Bad.",
                "affected": [affected],
                "published": "2026-01-01T00:00:00Z",
            }
            answer = json.dumps({"vulns": [known]} if name == self.server.vulnerable else {}).encode()  # type: ignore[attr-defined]
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Advisories) as server:
        server.vulnerable = ""  # type: ignore[attr-defined]
        Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def audit(monkeypatch: pytest.MonkeyPatch, server: ThreadingHTTPServer) -> subprocess.CompletedProcess[str]:
    monkeypatch.setenv("PIP_AUDIT_VULNERABILITY_SERVICE", "osv")
    monkeypatch.setenv("PIP_AUDIT_OSV_URL", f"http://127.0.0.1:{server.server_address[1]}/query")
    return subprocess.run(
        [sys.executable, REPOSITORY / ".ci" / "audit"], capture_output=True, text=True, timeout=400, check=False
    )


@pytest.mark.long
def test_a_known_vulnerability_of_an_installed_package_fails_the_build_and_is_named(
    monkeypatch: pytest.MonkeyPatch, advisories: ThreadingHTTPServer
) -> None:
    advisories.vulnerable = "click"  # type: ignore[attr-defined]
    done = audit(monkeypatch, advisories)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "GHSA-test-0001, mended in 9000.1" in done.stdout

    advisories.vulnerable = ""  # type: ignore[attr-defined]
    done = audit(monkeypatch, advisories)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "none is vulnerable" in done.stdout

    advisories.shutdown()
    advisories.server_close()
    done = audit(monkeypatch, advisories)
    assert done.returncode == 0, "without anybody to ask, the build goes on"
    assert "Nobody could be asked" in done.stdout


# -- what we hand on --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    subprocess.run(["uv", "build", "--out-dir", folder, REPOSITORY], capture_output=True, timeout=300, check=True)
    return folder


def tracked(*folders: str) -> set[str]:
    listed = subprocess.run(
        ["git", "ls-files", "-z", *folders], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    return set(listed.stdout.rstrip("\0").split("\0"))


@pytest.mark.long
def test_the_wheel_holds_the_package_its_sql_and_its_licence_and_nothing_else(built: Path) -> None:
    (wheel,) = built.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        (metadata,) = (name for name in names if name.endswith(".dist-info/METADATA"))
        said = archive.read(metadata).decode()
    about = {name for name in names if ".dist-info/" in name}
    ours = {f"import_pipeline/{name}" for name in tracked("sql")}
    assert names - about == tracked("import_pipeline") | ours
    assert {name.partition("/")[2] for name in about} == {
        *("METADATA", "WHEEL", "RECORD", "entry_points.txt", "licenses/LICENSE")
    }
    required = [Requirement(line.partition(": ")[2]) for line in said.splitlines() if line.startswith("Requires-Dist")]
    optional = PROJECT["project"]["optional-dependencies"].items()
    of_extras = (f'{each}; extra == "{extra}"' for extra, group in optional for each in group)
    wanted = {str(Requirement(each)) for each in (*PROJECT["project"]["dependencies"], *of_extras)}
    assert set(map(str, required)) == wanted


@pytest.mark.long
def test_the_source_archive_holds_only_what_is_tracked(built: Path) -> None:
    (archive,) = built.glob("*.tar.gz")
    with tarfile.open(archive) as opened:
        names = {name.partition("/")[2] for name in opened.getnames()}
    assert names - tracked() == {"PKG-INFO"}
    assert {"pyproject.toml", "README.md", "docs/operating.md", "SECURITY.md", "LICENSE"} <= names
    assert "import_pipeline/py.typed" in names
