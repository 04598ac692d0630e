"""The same behaviour of every connector that is found; each test runs for every source to which it can apply.

What is particular to one source is in its fixture, found by the source's name in `tests/connectors/sources/`.
"""

from __future__ import annotations

import ast
import inspect
import itertools
import json
import logging
import os
import re
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import quote

import dagster as dg
import pytest
from connectors.conformance import (
    CONNECTORS,
    FIXTURES,
    REST,
    SECRET_KEY,
    TARGETS,
    RestSource,
    Target,
    World,
    before_answering,
    check_library,
    check_recording,
    edit_listing,
    recent_calls,
    usual,
)
from fakes import Call, FakeServer, NextFault, make_calls
from fakes.server import Request, Response
from psycopg_pool import ConnectionPool

from import_pipeline.connectors.base import Connector, check_declaration
from import_pipeline.defs.jobs import build_import_job
from import_pipeline.errors import HttpError
from import_pipeline.records import Failed, Ignored, Ready, Waiting, Window
from import_pipeline.stages.listing import list_items
from import_pipeline.stages.postgres import PostgresResource
from import_pipeline.stages.staging import StreamIOManager

MOST_LINES = 120
OAUTH = [target for target in REST if target.kind != "api-key"]
WINDOWED = [target for target in REST if target.connector.partitioned]
CLAMPED = [target for target in WINDOWED if target.source.clamps]
FIXTURELESS = "tests/connectors/sources/{}.py is missing; see CONTRIBUTING"


@pytest.fixture
def world(pool: ConnectionPool[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    monkeypatch.setattr("import_pipeline.providers.http.attempts._JITTER", lambda _: 0.001)
    monkeypatch.setenv("IMPORT_PIPELINE_SECRET_KEY", SECRET_KEY)
    monkeypatch.setenv("TZ", "Asia/Kolkata")  # so that who forgets the time zone is found out
    time.tzset()
    world = World(pool.conninfo, pool, tmp_path, monkeypatch)
    with closing(world):
        yield world
    monkeypatch.undo()
    time.tzset()


def each(targets: list[Target]) -> Any:
    """Run a test for each of these sources."""
    return pytest.mark.parametrize("target", targets, ids=str)


each_connector = pytest.mark.parametrize("connector", CONNECTORS, ids=lambda connector: connector.source_app)
each_rest_connector = pytest.mark.parametrize(
    "connector", [each for each in CONNECTORS if each.base_url], ids=lambda connector: connector.source_app
)


# --- what a connector is ------------------------------------------------------------------------------------------


@each_connector
def test_it_has_a_fixture_so_that_its_behaviour_is_tested(connector: Connector) -> None:
    fixture = FIXTURES[connector.source_app]
    assert fixture is not None, FIXTURELESS.format(connector.source_app.replace("-", "_"))
    declared = [each.kind for each in connector.authenticates_by] or [None]
    assert sorted(fixture.kinds, key=str) == sorted(declared, key=str), "Each kind of credentials is to be tested."
    assert isinstance(fixture, RestSource) == bool(connector.base_url)


@each_connector
def test_it_is_no_stub(connector: Connector) -> None:
    tree = ast.parse(inspect.getsource(inspect.getmodule(connector)))  # type: ignore[arg-type]
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            body = [each for each in node.body if not _is_text(each)]
            assert body, f"{node.name} does nothing."
            assert not all(isinstance(each, ast.Pass) for each in body), f"{node.name} does nothing."
        assert not (isinstance(node, ast.Name) and node.id == "NotImplementedError")


@each_connector
def test_it_declares_what_a_person_needs_to_know(connector: Connector) -> None:
    check_declaration(type(connector))
    assert connector.documentation_url.startswith("https://")
    assert connector.title.strip()
    assert connector.description.strip().endswith(".")
    text = inspect.getdoc(inspect.getmodule(connector)) or ""
    assert connector.title in text
    assert "Needs" in text, "The module's docstring says what it needs."
    if connector.authenticates_by:
        assert connector.permissions.strip(), "`permissions` says what the key or app must be allowed to do."


@each_rest_connector
def test_it_declares_where_its_source_is_and_what_it_allows(connector: Connector) -> None:
    assert connector.base_url.startswith("https://")
    assert not connector.base_url.endswith("/")
    assert connector.rate_limits, "`rate_limits` says what the provider allows."
    assert connector.history_start.utcoffset() == timedelta(0)
    assert all("/" not in domain and "." in domain for domain in connector.trusted_domains)
    text = " ".join((inspect.getdoc(inspect.getmodule(connector)) or "").split())
    for word in ("Costs", "read 20"):
        assert word.lower() in text.lower(), f"The module's docstring says nothing under {word!r}."


@each_rest_connector
def test_its_module_is_short_enough_to_be_read_at_once(connector: Connector) -> None:
    assert len(inspect.getsource(inspect.getmodule(connector)).splitlines()) <= MOST_LINES  # type: ignore[arg-type]


@pytest.mark.long
def test_a_fourth_source_needs_one_module_and_its_fixture(tmp_path: Path) -> None:
    """The example of the README, brought by a package of its own: it passes, and without its fixture it is told so."""
    blocks = re.findall(r"```python\n(.*?)```", Path(__file__).with_name("README.md").read_text(), re.DOTALL)
    connector, fixture = blocks
    (tmp_path / "echo_source.py").write_text(connector)
    package = tmp_path / "echo_source-1.0.dist-info"
    package.mkdir()
    (package / "METADATA").write_text("Metadata-Version: 2.1\nName: echo-source\nVersion: 1.0\n")
    (package / "entry_points.txt").write_text("[import_pipeline.connectors]\necho = echo_source:Echo\n")
    command = [sys.executable, "-m", "pytest", "-o", "addopts=", "-m", "not long", "-q", "-k", "echo", __file__]

    def run() -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
        here = Path(__file__).parents[2]
        return subprocess.run(command, cwd=here, env=environment, capture_output=True, text=True, check=False)

    without = run()
    assert without.returncode == 1
    assert FIXTURELESS.format("echo") in without.stdout

    (tmp_path / "connectors" / "sources").mkdir(parents=True)
    (tmp_path / "connectors" / "sources" / "echo.py").write_text(fixture)
    with_it = run()
    assert with_it.returncode == 0, with_it.stdout[-5000:]
    assert int(re.findall(r"(\d+) passed", with_it.stdout)[0]) >= 35


def _is_text(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


# --- the good case ------------------------------------------------------------------------------------------------


@each(TARGETS)
def test_every_call_of_several_pages_is_imported_as_it_was(world: World, target: Target) -> None:
    """Title, start in UTC, duration, turns with time and speaker, the provider's own id, a link."""
    server = _start_with_pages(world, target, 17, 5)
    ana = world.connect(target, server)
    synced = world.sync(ana)
    assert synced.problem is None
    assert (synced.counts.listed, synced.counts.inserted, synced.counts.failed) == (17, 17, 0)
    check_library(world, ana)
    assert world.cursor(ana) is not None
    for item in synced.items:
        assert isinstance(item.external_id, str)
        assert item.external_id
        if target in REST:
            assert item.title, "The ledger shows a title."
            assert item.started_at is not None
    for row in world.recordings(ana).values():
        assert row["full_transcript"].strip()
        assert row["source_app"] == target.connector.source_app
        link = row["source_metadata"].get("share_link")
        assert target not in REST or str(link).startswith("https://"), "`share_link` is in the metadata."


@each(TARGETS)
def test_f03_f24_a_second_sync_inserts_nothing_and_only_lists(world: World, target: Target) -> None:
    server = _start_with_pages(world, target, 12, 5)
    ana = world.connect(target, server)
    assert world.sync(ana).counts.inserted == 12
    before = world.recordings(ana)
    again = world.sync(ana)
    assert again.problem is None
    assert again.counts.inserted == again.counts.failed == 0
    assert world.recordings(ana) == before
    if target in REST:
        assert all(target.source.is_listing(request) for request in again.requests)
        assert len(again.requests) <= 2 * (1 + 2 * 3)  # three pages, of a list and its details, read twice at most


@each(usual(TARGETS))
def test_f05_two_users_with_the_same_calls_each_get_their_own(world: World, target: Target) -> None:
    server = world.start(target, 6)
    ana, ben = world.connect(target, server), world.connect(target, server)
    for user in (ana, ben):
        assert world.sync(user).counts.inserted == 6
    for user in (ana, ben):
        check_library(world, user)


@each(usual(TARGETS))
def test_a_source_without_calls_is_no_problem(world: World, target: Target) -> None:
    server = world.start(target, 0)
    ana = world.connect(target, server)
    synced = world.sync(ana)
    assert synced.problem is None
    assert synced.counts.listed == 0
    assert world.cursor(ana) is not None
    server.add(recent_calls(1, days=0.2)[0])
    assert world.sync(ana).counts.inserted == 1


@each(usual(TARGETS))
def test_one_instance_serves_two_accounts_at_once_and_keeps_nothing(world: World, target: Target) -> None:
    """Listings and items of two users take turns, with different servers behind their credentials' options."""
    server = _start_with_pages(world, target, 9, 4)
    users = [world.connect(target, server), world.connect(target, server)]
    state = dict(vars(target.connector))
    accounts = [world.open(user) for user in users]
    clients = [world.client(user, account) for user, account in zip(users, accounts, strict=True)]
    try:
        listings = [list_items(target.connector, *pair) for pair in zip(accounts, clients, strict=True)]
        turns = list(itertools.zip_longest(*listings))
        assert all(one is not None and other is not None for one, other in turns)
        assert {one.external_id for one, _ in turns} == {server.external_id(call) for call in server.calls}
        for position, (one, other) in enumerate(turns):
            assert one.external_id == other.external_id
            for item, account, client in zip((one, other), accounts, clients, strict=True):
                assert vars(target.connector) == state
                if position < 3:
                    assert target.connector.fetch_record(account, item, client).external_id == item.external_id
    finally:
        for client in clients:
            client.__exit__(None, None, None)
    assert vars(target.connector) == state


@each(usual(TARGETS))
def test_the_real_job_imports_it_and_a_second_run_only_lists(world: World, target: Target) -> None:
    server = _start_with_pages(world, target, 6, 4)
    ana = world.connect(target, server)
    staging = StreamIOManager(base=str(world.folder / "job"))
    job = build_import_job(target.connector, postgres=PostgresResource(url=world.url), io_manager=staging)
    options = target.source.run_options(server)
    config = {"ops": {"connect": {"config": {"users": [str(ana.user.id)], "options": options}}}}
    with dg.DagsterInstance.ephemeral() as instance:
        for inserted in (6, 0):
            result = job.execute_in_process(run_config=config, instance=instance, raise_on_error=False)
            assert result.success
            assert result.output_for_node("report").counts.inserted == inserted
    check_library(world, ana)


def _start_with_pages(world: World, target: Target, calls: int, page_size: int) -> Any:
    return world.start(target, calls, page_size=page_size if target in REST else None)


# --- listing ------------------------------------------------------------------------------------------------------


@each(usual(REST))
def test_f04_items_without_an_id_fail_alone(world: World, target: Target) -> None:
    server = world.start(target, 8)
    nameless = server.calls[2:4]
    for call in nameless:
        server.mutate[server.external_id(call)] = {target.source.id_path: None}
    ana = world.connect(target, server)
    synced = world.sync(ana)
    assert synced.problem is None
    statuses = Counter(world.statuses(ana).values())
    assert statuses["imported"] == 6
    assert 1 <= statuses["failed/data"] <= 2, "They are apart as far as the source tells them apart."
    assert set(statuses) == {"imported", "failed/data"}
    check_library(world, ana, [call for call in server.calls if call not in nameless])


@each(usual(REST))
def test_f09_what_is_listed_twice_is_imported_once(world: World, target: Target) -> None:
    server = world.start(target, 8)
    edit_listing(server, target.source, lambda items: [*items, *items[:3], *items[:1]])
    ana = world.connect(target, server)
    synced = world.sync(ana)
    assert synced.problem is None
    assert synced.counts.inserted == 8
    assert synced.counts.failed == 0
    check_library(world, ana)


@each(REST)
def test_f47_unknown_fields_and_values_are_normal(world: World, target: Target) -> None:
    server = world.start(target, 12, adds_unknown_fields=True)
    ana = world.connect(target, server)
    synced = world.sync(ana)
    assert synced.problem is None
    assert synced.counts.inserted == 12
    check_library(world, ana)


@each(REST)
def test_f47_a_field_of_another_type_fails_its_item_alone_and_never_as_our_mistake(
    world: World, target: Target
) -> None:
    """Each field in turn with each type, each in a call of its own between calls that are as documented."""
    cases = list(itertools.product(target.source.fields, ("int", "str", "list", "dict", "null")))
    server = world.start(target, _in_one_part(recent_calls(len(cases) + 10, days=1)))
    sound, odd = list(server.calls[::6][:10]), []
    for (path, to), call in zip(cases, (call for call in list(server.calls) if call not in sound), strict=False):
        server.mutate_field(server.external_id(call), path, to)
        odd.append((path, to, call))
    assert len(odd) == len(cases)
    ana = world.connect(target, server)
    synced = world.sync(ana)
    assert synced.problem is None, "The listing goes on."
    rows = world.ledger(ana)
    fine = {("imported", None), ("waiting", None), *(("failed", each) for each in target.source.oddities)}

    def is_of_another_id(row: dict[str, Any]) -> bool:
        """Say whether the source does not know the id; then it may say that nothing is to be seen."""
        return row["status"] == "ignored" and server.find(row["external_id"]) is None

    nameless = [path for path, _, _ in odd if target.source.id_path.startswith(path)]
    assert len(rows) >= len(server.calls) - max(0, len(nameless) - 1), "Each call has an outcome of its own."
    for call in sound:
        assert rows[server.external_id(call)]["status"] == "imported"
    wrong = {
        (row["title"], row["status"], row["error_class"], row["error_message"])
        for row in rows.values()
        if (row["status"], row["error_class"]) not in fine and not is_of_another_id(row)
    }
    assert not wrong
    assert all(row["full_transcript"].strip() for row in world.recordings(ana).values())


@each(CLAMPED)
def test_f18_of_thirteen_months_nothing_is_missing_though_the_provider_cuts_windows(
    world: World, target: Target
) -> None:
    history = timedelta(days=396)
    server = world.start(target, make_calls(30, months=13), history=history, **target.source.clamps)
    ana = world.connect(target, server)
    assert world.sync(ana).problem is None
    check_library(world, ana)


@each(usual(REST))
def test_thirteen_months_are_imported_by_one_sync(world: World, target: Target) -> None:
    server = world.start(target, make_calls(20, months=13), page_size=6, history=timedelta(days=396))
    ana = world.connect(target, server)
    assert world.sync(ana).problem is None
    check_library(world, ana)


@each(WINDOWED)
def test_f25_every_listing_request_names_both_ends(world: World, target: Target) -> None:
    server = world.start(target, make_calls(14, months=5), page_size=3, history=timedelta(days=152))
    ana = world.connect(target, server)
    synced = world.sync(ana)
    listings = [request for request in synced.requests if target.source.is_listing(request)]
    assert len(listings) > 3
    for request in listings:
        assert all(request.query.get(name, [""])[0] for name in target.source.bounds)


@each(usual(REST))
def test_f20_many_calls_of_the_same_second_are_all_imported(world: World, target: Target) -> None:
    """In the middle, and on the boundaries of windows."""
    now = datetime.now(UTC).replace(microsecond=0)
    longest = target.connector.longest_window or timedelta(days=3)
    moments = [now - timedelta(hours=5), now - longest, now - 2 * longest]
    calls = [_call_at(target, 10 * row + column, moment) for row, moment in enumerate(moments) for column in range(7)]
    server = world.start(target, calls, page_size=4, history=3 * longest)
    ana = world.connect(target, server)
    synced = world.sync(ana, at=now)
    assert synced.problem is None
    check_library(world, ana)


@each(WINDOWED)
def test_f20_calls_on_the_boundary_of_two_months_are_in_one_of_them(world: World, target: Target) -> None:
    boundary = datetime.now(UTC).replace(day=1, hour=0, minute=0, second=0, microsecond=0) - timedelta(days=1)
    boundary = boundary.replace(day=1)
    second = timedelta(seconds=1)
    moments = [boundary - second, boundary, boundary + second]
    calls = [_call_at(target, 10 * row + column, moment) for row, moment in enumerate(moments) for column in range(3)]
    server = world.start(target, calls, history=timedelta(days=100))
    ana = world.connect(target, server)
    for month in (Window(boundary - timedelta(days=30), boundary), Window(boundary, boundary + timedelta(days=28))):
        assert world.sync(ana, month=month).problem is None
    check_library(world, ana)


@each(usual(REST))
def test_f21_a_call_that_appears_late_with_an_old_date_is_found(world: World, target: Target) -> None:
    server = world.start(target, 10, page_size=4)
    ana = world.connect(target, server)
    world.sync(ana)
    cursor = world.cursor(ana)
    assert cursor is not None
    late = _call_at(target, 500, (cursor - target.connector.look_back + timedelta(hours=1)).replace(microsecond=0))
    server.add(late)
    synced = world.sync(ana)
    assert synced.counts.inserted == 1
    check_library(world, ana)


@each(usual(REST))
@pytest.mark.parametrize("shift", ["insert", "remove"])
def test_f22_pages_that_shift_lose_nothing(world: World, target: Target, shift: str) -> None:
    server = world.start(target, 20, page_size=4, shift_between_pages=shift, shift_times=2)
    ana = world.connect(target, server)
    synced = world.sync(ana)
    assert synced.problem is None
    assert len(server.shifted) == 2
    missing = {server.external_id(call) for call in server.calls} - world.recordings(ana).keys()
    assert not missing - {server.external_id(call) for call in server.shifted}  # who came meanwhile may come later
    world.sync(ana)
    assert {server.external_id(call) for call in server.calls} <= world.recordings(ana).keys()


@each(usual(REST))
def test_f19_a_page_token_that_runs_out_begins_the_listing_again(world: World, target: Target) -> None:
    server = world.start(target, 14, page_size=4)
    server.faults.next_faults = [NextFault("400", target.source.later_pages)]
    ana = world.connect(target, server)
    synced = world.sync(ana)
    assert not server.faults.next_faults
    assert synced.problem is None
    check_library(world, ana)


@each(usual(REST))
def test_f26_an_answer_whose_list_is_something_else_is_a_problem_and_no_empty_listing(
    world: World, target: Target
) -> None:
    server = world.start(target, 5)
    edit_listing(server, target.source, lambda items: "a text instead of a list")
    ana = world.connect(target, server)
    synced = world.sync(ana)
    assert synced.account is not None
    assert synced.account.error_class == "data"
    assert synced.problem
    assert world.cursor(ana) is None


@each(usual(REST))
def test_f83_a_listing_that_breaks_off_keeps_what_was_listed_and_the_cursor_stays(world: World, target: Target) -> None:
    server = world.start(target, 14, page_size=4)
    server.faults.always = {target.source.later_pages: "500"}
    ana = world.connect(target, server)
    broken = world.sync(ana)
    assert broken.account is not None
    assert broken.problem
    assert broken.account.error_class == "transient"
    assert broken.counts.inserted == len(world.recordings(ana)) == 4
    assert world.cursor(ana) is None
    server.faults.always = {}
    assert world.sync(ana).problem is None
    assert world.cursor(ana) is not None
    check_library(world, ana)


@each(usual(REST))
def test_f83_a_source_that_is_down_is_a_problem_and_no_empty_listing(world: World, target: Target) -> None:
    server = world.start(target, 5)
    server.faults.always = {target.source.listing: "503"}
    ana = world.connect(target, server)
    synced = world.sync(ana)
    assert synced.account is not None
    assert synced.problem
    assert synced.account.error_class == "transient"
    assert synced.account.status != "completed"
    assert world.cursor(ana) is None
    assert not world.ledger(ana)


@each(usual(REST))
def test_f83_a_refused_listing_is_a_problem_of_the_credential(world: World, target: Target) -> None:
    server = world.start(target, 5)
    server.faults.always = {target.source.listing: "403"}
    ana = world.connect(target, server)
    synced = world.sync(ana)
    assert synced.account is not None
    assert synced.account.error_class == "auth"
    assert world.cursor(ana) is None


@each(WINDOWED)
def test_a_partition_lists_its_month_only_and_leaves_the_cursor(world: World, target: Target) -> None:
    server = world.start(target, make_calls(24, months=4), history=timedelta(days=130))
    first = (datetime.now(UTC).replace(day=1, hour=0, minute=0, second=0, microsecond=0) - timedelta(days=40)).replace(
        day=1
    )
    month = Window(first, (first + timedelta(days=32)).replace(day=1))
    ana = world.connect(target, server)
    synced = world.sync(ana, month=month)
    assert synced.problem is None
    assert world.cursor(ana) is None
    day = timedelta(days=1)
    imported = world.recordings(ana)
    for call in server.calls:
        moment = getattr(call, target.source.listed_by)
        if month.start <= moment < month.end:
            check_recording(imported.pop(server.external_id(call)), target.source.expect(server, call))
        elif not month.start - day <= moment < month.end + day:
            assert server.external_id(call) not in imported
    for request in synced.requests:
        if target.source.is_listing(request):
            start, end = (datetime.fromisoformat(request.query[name][0]) for name in target.source.bounds)
            assert (start.replace(tzinfo=UTC), end.replace(tzinfo=UTC)) >= (month.start - day, month.start)
            assert end.replace(tzinfo=UTC) <= month.end + day


def _call_at(target: Target, number: int, moment: datetime) -> Call:
    """Make a call that is listed under this moment."""
    if target.source.listed_by == "created_at":
        return Call(number=number, started_at=moment - timedelta(minutes=40), seconds=1800, created_at=moment)
    return Call(number=number, started_at=moment, seconds=1800)


def _in_one_part(calls: list[Call]) -> list[Call]:
    """Let each be in one part: where one of two is missing there is another reason to wait."""
    for call in calls:
        call.parts = 1
    return calls


# --- content ------------------------------------------------------------------------------------------------------


@each(TARGETS)
def test_a_call_that_is_removed_between_listing_and_fetching_harms_nobody(world: World, target: Target) -> None:
    server = world.start(target, 8)
    gone = server.calls[3]
    ana = world.connect(target, server)
    synced = world.sync(ana, between=lambda: server.remove(gone))
    assert synced.problem is None
    assert synced.counts.inserted == 7
    check_library(world, ana)
    (outcome,) = [each for each in synced.outcomes if not isinstance(each, Ready)]
    assert isinstance(outcome, (Failed, Waiting, Ignored))
    assert not (isinstance(outcome, Failed) and outcome.error_class == "bug")


@each(REST)
def test_f31_a_transcript_that_is_late_waits_and_is_imported_when_it_is_there(world: World, target: Target) -> None:
    server = world.start(target, recent_calls(8, days=1))
    late = server.calls[:2]
    for call in late:
        target.source.hold_back(server, call)
    ana = world.connect(target, server)
    synced = world.sync(ana)
    assert synced.problem is None
    assert (synced.counts.inserted, synced.counts.waiting, synced.counts.failed) == (6, 2, 0)
    check_library(world, ana, server.calls[2:])
    for call in late:
        target.source.hand_over(server, call)
    world.due_now(ana)
    assert world.sync(ana).counts.inserted == 2
    check_library(world, ana)


@each(REST)
def test_f31_a_transcript_that_never_comes_fails_with_a_reason_and_is_never_stored_empty(
    world: World, target: Target
) -> None:
    deadline = target.connector.transcript_deadline
    days = deadline.days + 8
    server = world.start(target, recent_calls(12, days=days), history=timedelta(days=days + 2))
    limit = datetime.now(UTC) - deadline - timedelta(hours=1)
    without = [call for call in server.calls if call.created_at < limit][:2]
    assert len(without) == 2
    for call in without:
        call.has_transcript = False
        target.source.hold_back(server, call)
    ana = world.connect(target, server)
    synced = world.sync(ana)
    assert (synced.counts.inserted, synced.counts.failed) == (10, 2)
    rows = world.ledger(ana)
    for call in without:
        row = rows[server.external_id(call)]
        assert (row["status"], row["error_class"]) == ("failed", "permanent")
        assert "still so" in row["error_message"]
    check_library(world, ana, [call for call in server.calls if call not in without])


@each(REST)
def test_f32_content_that_is_answered_with_500_for_ever_fails_alone(world: World, target: Target) -> None:
    server = world.start(target, 8)
    broken = server.calls[4]
    target.source.refuse(server, broken, "500")
    ana = world.connect(target, server)
    synced = world.sync(ana)
    assert synced.broken is None
    assert synced.problem is None
    assert world.statuses(ana)[server.external_id(broken)] == "failed/transient"
    check_library(world, ana, [call for call in server.calls if call is not broken])


@each(REST)
@pytest.mark.parametrize("status", [403, 404])
def test_f32_content_that_is_refused_fails_alone_with_its_class(world: World, target: Target, status: int) -> None:
    server = world.start(target, recent_calls(6, days=1))
    refused = server.calls[3]
    target.source.refuse(server, refused, str(status))
    ana = world.connect(target, server)
    synced = world.sync(ana)
    assert synced.problem is None
    found = world.statuses(ana)[server.external_id(refused)]
    assert found.removeprefix("failed/") in target.source.refusals[status]
    check_library(world, ana, [call for call in server.calls if call is not refused])


@each([target for target in REST if target.source.expires])
def test_f36_links_that_have_run_out_are_asked_for_again(world: World, target: Target) -> None:
    server = world.start(target, 12, **target.source.expires)
    ana = world.connect(target, server)
    synced = world.sync(ana)
    assert synced.problem is None
    check_library(world, ana)


@each([target for target in REST if target.source.blocks])
def test_f33_a_block_is_not_taken_for_the_absence_of_a_transcript(world: World, target: Target) -> None:
    server = world.start(target, recent_calls(6, days=1), **target.source.blocks)
    ana = world.connect(target, server)
    synced = world.sync(ana)
    assert (synced.counts.inserted, synced.counts.waiting, synced.counts.failed) == (0, 0, 6)
    assert {row["error_class"] for row in world.ledger(ana).values()} == {"rate"}
    assert sum(map(target.source.is_content, synced.requests)) <= 6, "It does not go on knocking."


@each(usual(REST))
def test_f23_what_failed_is_due_again_apart_from_the_cursor(world: World, target: Target) -> None:
    """It is older than the look-back, so that only its own row in the ledger brings it back."""
    days = target.connector.look_back.days + 12
    server = world.start(target, recent_calls(10, days=days), history=timedelta(days=days + 5))
    broken = server.calls[-1]
    target.source.refuse(server, broken, "500")
    ana = world.connect(target, server)
    assert world.sync(ana).counts.failed == 1
    assert world.cursor(ana) is not None
    target.source.allow(server, broken)
    assert world.sync(ana).counts.inserted == 0, "It is not due yet."
    world.due_now(ana)
    assert world.sync(ana).counts.inserted == 1
    check_library(world, ana)


@pytest.mark.parametrize("target", [target for target in TARGETS if target not in REST], ids=str)
def test_f23_what_cannot_be_imported_fails_alone_with_a_reason(world: World, target: Target) -> None:
    server = world.start(target, 6)
    broken = server.calls[2]
    target.source.spoil(server, broken)
    ana = world.connect(target, server)
    synced = world.sync(ana)
    assert (synced.counts.inserted, synced.counts.failed) == (5, 1)
    (row,) = [row for row in world.ledger(ana).values() if row["status"] == "failed"]
    assert row["error_class"] == "data"
    assert row["error_message"]


# --- a provider that has a bad day --------------------------------------------------------------------------------


@each(REST)
@pytest.mark.parametrize(
    ("at_first", "then"),
    [
        ("429-retry-after", "429-bare"),
        ("429-bare", "429-retry-after"),
        pytest.param("429-date", "429-iso", marks=pytest.mark.long),  # these know whole seconds only
        pytest.param("429-iso", "429-date", marks=pytest.mark.long),
    ],
)
def test_f45_silence_that_is_asked_for_is_kept_and_everything_imported(
    world: World, target: Target, at_first: str, then: str
) -> None:
    """First on a listing, then on content."""
    server = world.start(target, 5)
    server.faults.fractional_retry_after, server.faults.retry_after_seconds = True, 0.3
    listing = target.source.listing
    server.faults.next_faults = [NextFault(at_first, listing), NextFault(then, rf"^(?!.*({listing}))(?!.*/token$)")]
    ana = world.connect(target, server)
    synced = world.sync(ana)
    assert not server.faults.next_faults
    assert synced.problem is None
    assert not server.early_requests
    check_library(world, ana)


@each(usual(REST))
def test_a_fifth_of_all_requests_goes_wrong_and_everything_is_imported(world: World, target: Target) -> None:
    """500, 502, 503, no answer, half an answer, broken JSON, web pages."""
    server = world.start(target, 14, page_size=5)
    server.faults.kinds = ("500", "502", "503", "truncated", "invalid-json", "html", "disconnect")
    server.faults.share = 0.2
    ana = world.connect(target, server)
    for _ in range(3):  # what is broken where no JSON is expected is no fault of the connection
        world.sync(ana)
        world.due_now(ana)
    assert sum(server.faults.served.values()) >= 2
    check_library(world, ana)


@each(usual(REST))
def test_faults_of_the_connection_cost_no_item(world: World, target: Target) -> None:
    """What the connection or the server says to be broken is asked for again within the same sync."""
    server = world.start(target, 14, page_size=5)
    server.faults.kinds, server.faults.share = ("500", "502", "503", "truncated", "disconnect"), 0.25
    ana = world.connect(target, server)
    synced = world.sync(ana)
    assert synced.problem is None
    assert (synced.counts.inserted, synced.counts.failed) == (14, 0)
    check_library(world, ana)


@pytest.mark.timeout(120)
@each(usual(REST))
def test_f49_a_request_that_hangs_is_given_up_and_repeated(
    world: World, target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("IMPORT_PIPELINE_HTTP_TIMEOUT", "1")
    server = world.start(target, 5)
    server.faults.hang_seconds = 3600
    listing = target.source.listing
    server.faults.next_faults = [NextFault("hang", listing), NextFault("hang", rf"^(?!.*({listing}))(?!.*/token$)")]
    ana = world.connect(target, server)
    assert world.sync(ana).problem is None
    assert not server.faults.next_faults
    check_library(world, ana)


@each(usual(REST))
def test_f45_f46_the_limit_of_the_provider_is_kept_and_nothing_refused(world: World, target: Target) -> None:
    server = world.start(target, 7, page_size=1)
    server.limits.set("requests", "8/0.3s")
    world.set(target.connector, RATE_LIMITS="8/0.3s")
    ana = world.connect(target, server)
    synced = world.sync(ana)
    assert synced.problem is None
    assert len(synced.requests) > 16
    assert not [request for request in synced.requests if request.status == 429]
    check_library(world, ana)


@each(usual(REST))
def test_never_more_requests_are_on_their_way_than_it_declares(world: World, target: Target) -> None:
    server = world.start(target, 12)
    server.latency = 0.01
    lock, busy = threading.Lock(), SimpleNamespace(now=0, most=0)
    answer = server.answer

    def counting(request: Request, marked: Any, match: Any) -> Response:
        with lock:
            busy.now += 1
            busy.most = max(busy.most, busy.now)
        try:
            time.sleep(0.01)
            response: Response = answer(request, marked, match)
            return response
        finally:
            with lock:
                busy.now -= 1

    server.answer = counting
    ana = world.connect(target, server)
    assert world.sync(ana).problem is None
    assert 1 <= busy.most <= target.connector.concurrency


@each(REST)
def test_listing_and_importing_cost_no_more_requests_than_its_docstring_says(world: World, target: Target) -> None:
    number = 40
    server = world.start(target, number)
    ana = world.connect(target, server)
    requests = world.sync(ana).requests
    check_library(world, ana)
    listing, content = target.source.requests(target.kind, number)
    assert sum(map(target.source.is_listing, requests)) <= listing
    assert sum(map(target.source.is_content, requests)) <= content + sum(
        request.kind == "media" for request in requests
    )


# --- credentials --------------------------------------------------------------------------------------------------


@each(REST)
def test_a_revoked_credential_is_named_with_what_to_do_and_not_tried_again(world: World, target: Target) -> None:
    server = world.start(target, 5)
    ana = world.connect(target, server)
    target.source.revoke(server, target.kind)
    synced = world.sync(ana)
    assert synced.account is not None
    assert synced.problem
    assert synced.account.error_class == "auth"
    assert "import-pipeline connect" in synced.problem
    assert len(synced.requests) <= 2  # and where tokens can be renewed, the attempt to do so
    assert not world.ledger(ana)
    assert world.cursor(ana) is None


@each(OAUTH)
def test_f44_a_token_that_ends_in_the_middle_is_renewed(world: World, target: Target) -> None:
    server = world.start(target, 12)
    ana = world.connect(target, server)
    synced = world.sync(ana, between=server.oauth.expire_access_tokens)
    assert synced.problem is None
    check_library(world, ana)
    assert sum(request.kind == "token" for request in synced.requests) <= 2  # the first one of an app, and the renewal


@each(OAUTH)
def test_f42_a_provider_that_ends_the_old_token_with_each_renewal_loses_nobody(world: World, target: Target) -> None:
    """The renewed credential is kept: the next sync begins with it."""
    server = world.start(target, 8)
    server.oauth.invalidates_old_access_token = True
    ana = world.connect(target, server, expires_at=time.time() - 1)
    assert world.sync(ana).problem is None
    check_library(world, ana)
    kept = world.stored_secrets(ana)
    assert kept["access_token"] != ana.secrets.get("access_token")
    server.oauth.expire_access_tokens()
    server.add(_call_at(target, 700, datetime.now(UTC).replace(microsecond=0) - timedelta(hours=1)))
    assert world.sync(ana).counts.inserted == 1
    assert server.oauth.refused_refreshes == 0


@each(OAUTH)
def test_f43_a_token_address_that_fails_at_first_is_asked_again(world: World, target: Target) -> None:
    server = world.start(target, 5)
    server.oauth.fail_next = [429, 500, 503]
    ana = world.connect(target, server, expires_at=time.time() - 1, access_token="")
    assert world.sync(ana).problem is None
    assert not server.oauth.fail_next
    check_library(world, ana)


@each(OAUTH)
def test_f43_a_token_address_that_goes_on_failing_leaves_the_credential_as_it_was(world: World, target: Target) -> None:
    server = world.start(target, 5)
    server.oauth.fail_next = [500] * 40
    ana = world.connect(target, server, expires_at=time.time() - 1, access_token="")
    synced = world.sync(ana)
    assert synced.account is not None
    assert synced.account.error_class == "transient"
    assert "import-pipeline connect" not in str(synced.problem)
    server.oauth.fail_next = []
    assert world.sync(ana).problem is None
    check_library(world, ana)


@each(REST)
def test_the_check_of_a_good_credential_finds_no_problem(world: World, target: Target) -> None:
    server = world.start(target, 5)
    ana = world.connect(target, server)
    account = world.open(ana)
    with world.client(ana, account) as client:
        access = target.connector.check_access(account, client)
    assert access.problems == ()
    assert access.email is None or "@" in access.email
    assert len(server.requests) <= 6


@each(REST)
def test_the_check_of_a_wrong_credential_says_so(world: World, target: Target) -> None:
    server = world.start(target, 5)
    ana = world.connect(target, server)
    account = world.open(ana)
    target.source.revoke(server, target.kind)
    with world.client(ana, account) as client, pytest.raises(HttpError) as raised:
        target.connector.check_access(account, client)
    assert raised.value.error_class == "auth"


@each(REST)
def test_the_check_of_a_credential_that_may_do_too_little_names_what_is_missing(world: World, target: Target) -> None:
    server = world.start(target, 5)
    ana = world.connect(target, server)
    account = world.open(ana)
    if not target.source.take_scope(server, target.kind):
        assert target.kind == "api-key", "A source with apps knows scopes: say in the fixture how to take one."
        return
    with world.client(ana, account) as client:
        try:
            problems = target.connector.check_access(account, client).problems
        except HttpError as error:
            problems = (str(error),) if error.error_class == "auth" else ()
    assert any("scope" in problem for problem in problems)


@each(REST)
def test_f36_f88_no_secret_and_nothing_that_was_said_leaves_its_place(
    world: World, target: Target, caplog: pytest.LogCaptureFixture
) -> None:
    """On a good and on a bad day: in no log of any level, no message, no file between two stages, no row."""
    server = world.start(target, 8)
    ana = world.connect(target, server)
    secrets = set(ana.secrets.values())
    caplog.set_level(logging.DEBUG)
    server.faults.share = 0.2
    server.faults.kinds = ("500", "502", "truncated", "disconnect", "html")
    target.source.refuse(server, server.calls[1], "403")
    messages = [str(world.sync(ana).problem)]
    if target in OAUTH:
        secrets |= set(world.stored_secrets(ana).values())
        server.oauth.expire_access_tokens()
        world.sync(ana)
        secrets |= set(world.stored_secrets(ana).values())
    server.faults.share = 0
    server.faults.always = {"": "500"}
    messages.append(str(world.sync(ana).problem))
    server.faults.always = {}
    target.source.revoke(server, target.kind)
    messages.append(str(world.sync(ana).problem))
    tables = ("recordings", "import_items", "sync_jobs", "import_sources", "vault_entries")
    texts = {
        "logs": caplog.text + "".join(str(record.args) for record in caplog.records),
        "messages": " ".join(messages),
        "staged files": world.staged_text(),
        **{name: json.dumps(world.rows(f"select to_jsonb(t) as row from {name} as t")) for name in tables},
    }
    assert world.recordings(ana)
    for secret in (secret for secret in secrets if isinstance(secret, str) and len(secret) > 6):
        if secret in (ana.secrets.get("client_id"), ana.secrets.get("account_id")):
            continue
        for name, text in texts.items():
            assert secret not in text, name
            assert quote(secret, safe="") not in text, name
    assert "Welcome to call" not in texts["logs"] + texts["messages"] + texts["import_items"] + texts["sync_jobs"]


@each(REST)
def test_f88_no_credential_goes_to_another_host(world: World, target: Target) -> None:
    """Whether the source redirects there, or names an address there."""
    server = world.start(target, 6)
    ana = world.connect(target, server)
    with FakeServer() as stranger:
        elsewhere = f"http://localhost:{stranger.port}"
        moved = [re.compile(target.source.content(server, call)) for call in server.calls[:2]]

        def redirect(request: Request) -> Response | None:
            if any(pattern.search(request.target) for pattern in moved):
                return Response(302, headers={"Location": f"{elsewhere}/moved"})
            return None

        before_answering(server, redirect)
        for call in server.calls[2:4]:
            for path in target.source.fields:
                if "url" in path:
                    server.mutate.setdefault(server.external_id(call), {})[path] = f"{elsewhere}/named"
        if target.source.bounds and target.kind == "api-key":  # one page has them all
            for call in server.calls[:2]:
                server.mutate[server.external_id(call)] = {"transcript": None}
        world.sync(ana)
        secrets = {*ana.secrets.values(), *world.stored_secrets(ana).values()}
        secrets = {secret for secret in secrets if isinstance(secret, str)}
        for request in stranger.requests:
            arrived = f"{request.target} {request.headers} {request.body!r}"
            assert "authorization" not in request.headers
            assert not [secret for secret in secrets if secret in arrived]
        assert stranger.requests, "Nothing went there, so nothing was tested."
