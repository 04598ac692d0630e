"""What the tests of the UI share: one `import-pipeline dev` with a connected fake provider, and a browser.

The browser is the system's Chromium. Every test leaves screenshots for a person to look at, in the folder that
`UI_SCREENSHOTS` names, else in `screenshots/` of the checkout, which git ignores.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import servers
from commands import REPOSITORY, CommandLine
from dev import Dev, running_dev
from fakes import FathomServer, make_calls
from fakes.fathom import API_KEY
from playwright.sync_api import Browser, BrowserContext, Page, StorageState, sync_playwright

EMAIL = "ana@example.com"
CALLS = 24


def find_chromium() -> str:
    """Return where the system's Chromium is; nothing is skipped for want of it."""
    for name in ("chromium", "chromium-browser", "google-chrome"):
        if found := shutil.which(name):
            return found
    pytest.fail("These tests need Chromium. Install it: apt-get install chromium.", pytrace=False)


@pytest.fixture(scope="module")
def fathom() -> Iterator[FathomServer]:
    """Fathom with calls of the last four months."""
    with FathomServer(calls=make_calls(CALLS, months=4)) as server:
        yield server


@pytest.fixture(scope="module")
def command_line(fathom: FathomServer) -> Iterator[CommandLine]:
    """A library in which one person has connected Fathom."""
    with servers.scratch_folder() as folder:
        settings = fathom.environment | {
            "IMPORT_PIPELINE_USER": EMAIL,
            "IMPORT_PIPELINE_FATHOM_API_KEY": API_KEY,
            "IMPORT_PIPELINE_FATHOM_RATE_LIMITS": "none",
        }
        command_line = CommandLine(folder / "home", settings)
        assert command_line.run("connect", "fathom").code == 0
        yield command_line


@pytest.fixture(scope="module")
def dev(command_line: CommandLine) -> Iterator[Dev]:
    """The UI, started once for all tests."""
    with running_dev(command_line) as dev:
        yield dev


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        # Chromium refuses to run as root in its sandbox, and small containers have little shared memory.
        chromium = playwright.chromium.launch(
            executable_path=find_chromium(), args=["--no-sandbox", "--disable-dev-shm-usage"]
        )
        yield chromium
        chromium.close()


@pytest.fixture(scope="module")
def signed_in(browser: Browser, dev: Dev) -> StorageState:
    """What a browser keeps of having signed in with a link."""
    page = browser.new_page()
    page.goto(dev.link())
    state = page.context.storage_state()
    page.context.close()
    return state


@pytest.fixture
def context(browser: Browser, dev: Dev, signed_in: StorageState) -> Iterator[BrowserContext]:
    context = browser.new_context(
        base_url=dev.url, viewport={"width": 1440, "height": 900}, locale="en-GB", storage_state=signed_in
    )
    context.set_default_timeout(30_000)
    yield context
    context.close()


class Camera:
    """Takes screenshots of the page of one test."""

    def __init__(self, page: Page) -> None:
        self._page = page

    def shoot(self, name: str) -> None:
        """Write `name.png`."""
        shoot(self._page, name)


def shoot(page: Page, name: str) -> None:
    folder = Path(os.environ.get("UI_SCREENSHOTS") or REPOSITORY / "screenshots")
    folder.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=folder / f"{name}.png")


@pytest.fixture
def pictures() -> Callable[[Page, str], None]:
    """`pictures(page, name)` writes `name.png`, of any page."""
    return shoot


@pytest.fixture
def page(context: BrowserContext) -> Page:
    return context.new_page()


@pytest.fixture
def camera(page: Page) -> Camera:
    return Camera(page)
