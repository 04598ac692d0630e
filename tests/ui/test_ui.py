"""What an operator does in the browser. One file, because all tests share one server that takes long to start.

The order counts: what takes Dagster half a minute is begun early and looked at last.
"""

from __future__ import annotations

import re
from typing import Protocol

import pytest
from commands import CommandLine
from dev import Dev, wait_until
from fakes import FathomServer
from playwright.sync_api import Page, expect

pytestmark = pytest.mark.long


class Camera(Protocol):
    """The type of the fixture `camera`."""

    def shoot(self, name: str) -> None: ...


def open_job(page: Page, dev: Dev, tab: str = "") -> None:
    location = dev.repository()["location"]["name"]
    page.goto(f"/locations/{location}/jobs/import_fathom{tab}")


def imported(command_line: CommandLine) -> int:
    return int(command_line.run("counts", "--json").json.get("fathom", 0))


def run_of(page: Page) -> str:
    """Return the id of the run whose page is open, or is being opened."""
    page.wait_for_url(re.compile(r"/runs/[0-9a-f-]{36}"))
    found = re.search(r"/runs/([0-9a-f-]{36})", page.url)
    assert found is not None
    return found[1]


def test_the_graph_of_a_job_shows_the_five_stages_and_the_report_from_top_to_bottom(
    page: Page, dev: Dev, camera: Camera
) -> None:
    open_job(page, dev)
    top: dict[str, float] = {}
    for stage in ("connect", "fetch", "dedup", "transform", "insert", "report"):
        label = page.locator("foreignObject").get_by_text(stage, exact=True)
        expect(label).to_be_visible()
        box = label.bounding_box()
        assert box is not None
        top[stage] = box["y"]
    assert sorted(top, key=lambda stage: top[stage]) == list(top), top
    camera.shoot("job graph")


def test_a_run_launched_from_the_launchpad_without_a_month_imports_everything_new(
    page: Page, dev: Dev, camera: Camera, command_line: CommandLine, fathom: FathomServer
) -> None:
    open_job(page, dev, "/playground")
    page.get_by_role("button", name="Launch Run").click()
    camera.shoot("launchpad without a month")
    page.get_by_role("button", name="Confirm").click()
    run = dev.wait_for_run(run_of(page))
    assert run["status"] == "SUCCESS"
    assert imported(command_line) == len(fathom.calls)
    expect(page.get_by_text("RUN_SUCCESS")).to_be_visible()
    camera.shoot("run from the launchpad")


def test_a_backfill_of_three_months_launched_in_the_browser_completes(
    page: Page, dev: Dev, camera: Camera, command_line: CommandLine, fathom: FathomServer
) -> None:
    open_job(page, dev, "/partitions")
    page.get_by_role("button", name="Launch backfill").click()
    page.get_by_placeholder(re.compile("^ex:")).fill("[2026-08-01...2026-10-01]")
    page.get_by_placeholder(re.compile("^ex:")).press("Enter")
    camera.shoot("backfill being launched")
    page.get_by_role("button", name="Submit 3 runs").click()

    wait_until(lambda: "COMPLETED_SUCCESS" in dev.backfills().values(), "waited for the backfill")
    months = {run["tags"]["dagster/partition"] for run in dev.runs() if "dagster/backfill" in run["tags"]}
    assert months == {"2026-08-01", "2026-09-01", "2026-10-01"}
    assert imported(command_line) == len(fathom.calls)
    open_job(page, dev, "/partitions")
    expect(page.get_by_text("Failed partitions")).to_be_visible()
    camera.shoot("months of a job")
