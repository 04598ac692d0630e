"""What an operator does in the browser. One file, because all tests share one server that takes long to start.

A backfill takes Dagster two rounds of half a minute, so it is launched first and looked at again in the end.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Protocol

import pytest
from commands import CommandLine
from dev import Dev, wait_until
from fakes import FathomServer
from playwright.sync_api import Browser, Locator, Page, StorageState, expect

pytestmark = pytest.mark.long

MONTHS = ["2026-08-01", "2026-09-01", "2026-10-01"]
STAGES = ("connect", "fetch", "dedup", "transform", "insert", "report")


class Camera(Protocol):
    """The type of the fixture `camera`."""

    def shoot(self, name: str) -> None: ...


def open_job(page: Page, dev: Dev, tab: str = "") -> None:
    location = dev.repository()["location"]["name"]
    page.goto(f"{dev.url}/locations/{location}/jobs/import_fathom{tab}")


def open_automation(page: Page, name: str) -> Locator:
    """Open the page of all schedules and sensors, and return the row of one."""
    page.goto("/automation")
    row = page.locator("[data-index]").filter(has=page.get_by_text(name, exact=True))
    expect(row).to_be_visible()
    return row


def turn(row: Locator, *, on: bool) -> bool:
    """Click the switch of a row unless it is as wanted, and say whether it is."""
    switch = row.locator("input[type=checkbox]").last
    if switch.is_checked() != on:
        row.locator("label").last.click()
        row.page.wait_for_timeout(3000)
    return switch.is_checked() == on


def imported(command_line: CommandLine, *options: str) -> int:
    return int(command_line.run("counts", "--json", *options).json.get("fathom", 0))


def run_of(page: Page) -> str:
    """Return the id of the run whose page is being opened."""
    page.wait_for_url(re.compile(r"/runs/[0-9a-f-]{36}"))
    found = re.search(r"/runs/([0-9a-f-]{36})", page.url)
    assert found is not None
    return found[1]


def launch(page: Page, dev: Dev) -> str:
    """Launch the job from its launchpad, without a month, and return the run."""
    open_job(page, dev, "/playground")
    page.get_by_role("button", name="Launch Run").click()
    page.get_by_role("button", name="Confirm").click()
    return run_of(page)


@pytest.fixture(scope="module", autouse=True)
def backfill(browser: Browser, dev: Dev, signed_in: StorageState) -> str:
    """Launch a backfill of three months in the browser, once, before anything else."""
    page = browser.new_page(viewport={"width": 1440, "height": 900}, storage_state=signed_in)
    open_job(page, dev, "/partitions")
    page.get_by_role("button", name="Launch backfill").click()
    page.get_by_placeholder(re.compile("^ex:")).fill(f"[{MONTHS[0]}...{MONTHS[-1]}]")
    page.get_by_placeholder(re.compile("^ex:")).press("Enter")
    page.get_by_role("button", name="Submit 3 runs").click()
    (launched,) = wait_until(lambda: list(dev.backfills()), "waited for the backfill to be launched")
    page.close()
    return launched


def test_the_graph_of_a_job_shows_the_five_stages_and_the_report_from_top_to_bottom(
    page: Page, dev: Dev, camera: Camera
) -> None:
    open_job(page, dev)
    top: dict[str, float] = {}
    for stage in STAGES:
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
    run = dev.wait_for_run(launch(page, dev))
    assert run["status"] == "SUCCESS"
    assert imported(command_line) == len(fathom.calls)
    expect(page.get_by_text("RUN_SUCCESS")).to_be_visible()
    camera.shoot("run")


def test_the_page_of_automations_lists_the_schedules_and_sensors_of_every_source(page: Page, camera: Camera) -> None:
    open_automation(page, "watch_fathom")
    for source in ("fathom", "zoom", "youtube"):
        for name in (f"sync_{source}", f"watch_{source}"):
            expect(page.get_by_text(name, exact=True)).to_be_visible()
    for name in ("settle_runs", "retry_months", "refresh_assets", "alert_on_failure", "clean_up_every_night"):
        expect(page.get_by_text(name, exact=True)).to_be_visible()
    camera.shoot("automation")


def test_a_sensor_that_is_switched_on_imports_for_somebody_who_has_just_connected(
    page: Page, dev: Dev, camera: Camera, command_line: CommandLine, fathom: FathomServer
) -> None:
    assert command_line.run("connect", "fathom", "--user", "ben@example.com").code == 0
    row = open_automation(page, "watch_fathom")
    switch = row.locator("input[type=checkbox]").last
    expect(switch).not_to_be_checked()
    wait_until(lambda: turn(row, on=True), "waited for the switch")  # a click while the page still loads does nothing
    tag = {"key": "dagster/sensor_name", "value": "watch_fathom"}
    run = wait_until(lambda: dev.runs(tags=[tag]), "waited for the sensor to ask for a run")[0]
    assert dev.wait_for_run(run["runId"])["status"] == "SUCCESS"
    assert imported(command_line, "--user", "ben@example.com") == len(fathom.calls)
    page.get_by_text("watch_fathom", exact=True).click()
    expect(page.get_by_text("Target", exact=True)).to_be_visible()
    camera.shoot("sensor")
    row = open_automation(page, "watch_fathom")
    wait_until(lambda: turn(row, on=False), "waited for the switch")


def test_the_page_of_counts_shows_a_table_of_users_and_sources_and_a_chart(
    page: Page, dev: Dev, camera: Camera, fathom: FathomServer
) -> None:
    page.goto("/assets/import_counts")
    page.get_by_role("button", name=re.compile("Materialize$")).click()
    number = str(len(fathom.calls))
    row = page.get_by_role("row").filter(has_text="ben@example.com").last
    expect(row.get_by_role("cell", name=number, exact=True).first).to_be_visible(timeout=90_000)
    camera.shoot("counts")
    page.get_by_text("[Show Markdown]").click()
    chart = page.get_by_role("dialog").get_by_role("img", name=re.compile("Recordings per month"))
    expect(chart).to_be_visible()
    assert chart.evaluate("image => image.naturalWidth") > 0
    camera.shoot("counts, chart")


@pytest.fixture
def broken_call(fathom: FathomServer) -> Iterator[str]:
    """A new call at the provider that cannot be imported; its title."""
    call = fathom.add()
    fathom.mutate_field(fathom.external_id(call), "transcript", "int")
    yield call.title
    fathom.remove(call)


def test_the_page_of_a_failed_run_says_which_item_failed_and_why_and_what_to_do(
    page: Page, dev: Dev, camera: Camera, broken_call: str
) -> None:
    run = dev.wait_for_run(launch(page, dev))
    assert run["status"] == "FAILURE"
    expect(page.get_by_text("RUN_FAILURE")).to_be_visible()
    camera.shoot("failed run")
    page.get_by_placeholder("Filter…").fill("type:STEP_FAILURE")
    page.get_by_text("View full message").first.click()
    message = page.get_by_role("dialog")
    for told in ("1 failed", broken_call, "The field 'transcript' does not hold a list.", "Mend it at the source"):
        expect(message.get_by_text(told).first).to_be_visible()
    camera.shoot("failed run, full message")


@pytest.mark.parametrize("name", ["import_health", "recordings/fathom", "recordings/fathom?view=checks"])
def test_the_pages_of_assets_and_checks_open(page: Page, camera: Camera, name: str) -> None:
    page.goto(f"/assets/{name}")
    shown = "no_duplicates" if "checks" in name else "Latest materialization"
    expect(page.get_by_text(shown).first).to_be_visible()
    page.wait_for_load_state("networkidle")
    camera.shoot(name.replace("/", " ").replace("?view=", " "))


def test_a_backfill_of_three_months_launched_in_the_browser_completes(
    page: Page, dev: Dev, camera: Camera, backfill: str
) -> None:
    wait_until(lambda: dev.backfills()[backfill] == "COMPLETED_SUCCESS", "waited for the backfill")
    runs = dev.runs(tags=[{"key": "dagster/backfill", "value": backfill}])
    assert sorted(run["tags"]["dagster/partition"] for run in runs) == MONTHS
    open_job(page, dev, "/partitions")
    expect(page.get_by_text("Backfill history")).to_be_visible()
    camera.shoot("months")
    page.goto(f"/runs/b/{backfill}")
    expect(page.get_by_text("Succeeded").first).to_be_visible()
    camera.shoot("backfill")
    page.goto("/runs")
    expect(page.get_by_text(backfill)).to_be_visible()
    camera.shoot("runs")
