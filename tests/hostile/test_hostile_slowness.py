"""A provider that answers drop by drop, and links that lead nowhere: what is slow fails by itself, and nobody waits."""

from __future__ import annotations

import re
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import pytest
from connectors.conformance import REST, Target, World, before_answering, usual
from fakes.server import FakeServer, Request, Response
from hostile.test_hostile_payloads import world  # noqa: F401 - a fixture

from import_pipeline.errors import HttpError, SourceUnavailableError
from import_pipeline.providers.http import HttpClient
from import_pipeline.providers.http.failures import FAILURES_UNTIL_DOWN, SLOW_ITEMS

CALLS = 16
BY_CALL = [target for target in REST if (target.connector.source_app, target.kind) != ("fathom", "api-key")]
"""Fathom's keys get the content of ten calls at once."""
GENEROUS = 100.0


class Site(FakeServer):
    """Answers everything, but what lies below `/slow` drop by drop, and below `/broken` not at all."""

    def answer(self, request: Request, *_: Any) -> Response:
        if request.path.startswith("/broken"):
            return Response.json({}, 500)
        return Response.json({"path": request.path})


@pytest.fixture
def site() -> Iterator[Site]:
    with Site() as server:
        server.faults.always = {"/slow": "slow"}
        server.faults.hang_seconds = GENEROUS
        yield server


@pytest.fixture
def closed_port() -> Iterator[int]:
    """A port of this machine at which nobody listens."""
    with closing(socket.socket()) as taken:
        taken.bind(("127.0.0.1", 0))
        yield taken.getsockname()[1]


def error_of(ask: Callable[[], Any]) -> HttpError:
    with pytest.raises(HttpError) as caught:
        ask()
    return caught.value


# --- one client ---------------------------------------------------------------------------------------------------


def test_an_item_has_so_long_in_all_however_many_requests_it_takes(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Attack A14: retries and requests do not each begin anew."""
    monkeypatch.setenv("IMPORT_PIPELINE_ITEM_TIMEOUT", "1.5")
    with HttpClient("Demo", site.url) as client:
        with client.one_item():
            first = error_of(lambda: client.get_json("/slow"))
            asked = len(site.requests)
            second = error_of(lambda: client.get_json("/quick"))
        assert "took Demo longer than 1.5 seconds in all; IMPORT_PIPELINE_ITEM_TIMEOUT" in str(first)
        assert "did not answer GET /slow in time" in str(first)
        assert {first.error_class, second.error_class} == {"transient"}
        assert len(site.requests) == asked, "Nothing is asked for an item whose time is up."
        assert client.get_json("/quick") == {"path": "/quick"}, "The next item has its own time."


def test_a_page_of_a_listing_has_so_long_in_all(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Attack A14."""
    monkeypatch.setenv("IMPORT_PIPELINE_ITEM_TIMEOUT", "1.5")
    with HttpClient("Demo", site.url) as client:
        error = error_of(lambda: list(client.pages("/slow", {}, "cursor", "next")))
    assert "longer than 1.5 seconds in all" in str(error)


@pytest.mark.parametrize(("fault", "counts"), [("429-retry-after", False), ("500", True)])
def test_what_is_waited_for_a_limit_does_not_count(site: Site, fault: str, counts: bool) -> None:
    counted: list[bool] = []

    def sleep(_: float) -> None:
        before = allowance.spent
        threading.Event().wait(0.02)
        counted.append(allowance.spent > before)

    site.faults.next_faults = [fault]
    with HttpClient("Demo", site.url, sleep=sleep) as client, client.one_item() as allowance:
        assert client.get_json("/quick") == {"path": "/quick"}
    assert counted == [counts]


def test_one_item_that_fails_again_and_again_does_not_mean_that_the_provider_is_down(site: Site) -> None:
    """Attack A14: a link that broke was asked for anew three times, and the whole batch was given up."""
    with HttpClient("Demo", site.url, max_attempts=1) as client:
        with client.one_item():
            for _ in range(3 * FAILURES_UNTIL_DOWN):
                assert "answered GET /broken with 500" in str(error_of(lambda: client.get_json("/broken")))
        with client.one_item():
            error_of(lambda: client.get_json("/broken"))
        with client.one_item(), pytest.raises(SourceUnavailableError, match="3 requests in a row"):
            client.get_json("/broken")


def test_failures_among_which_others_got_answers_do_not_mean_that_the_provider_is_down(site: Site) -> None:
    begun, answered = threading.Barrier(FAILURES_UNTIL_DOWN + 1), threading.Event()
    errors: list[Exception] = []
    answer = site.answer

    def late(request: Request, *rest: Any) -> Response:
        if request.path.startswith("/broken"):
            begun.wait(GENEROUS)
            answered.wait(GENEROUS)
        return answer(request, *rest)

    site.answer = late  # type: ignore[method-assign]
    with HttpClient("Demo", site.url, max_attempts=1) as client:

        def fail() -> None:
            with client.one_item():
                errors.append(error_of(lambda: client.get_json("/broken")))

        threads = [threading.Thread(target=fail) for _ in range(FAILURES_UNTIL_DOWN)]
        for thread in threads:
            thread.start()
        begun.wait(GENEROUS)
        assert client.get_json("/quick")
        answered.set()
        for thread in threads:
            thread.join(GENEROUS)
    assert len(errors) == FAILURES_UNTIL_DOWN


def test_a_host_that_links_lead_to_may_be_dead_without_the_provider_being_down(site: Site, closed_port: int) -> None:
    """Attack A14: after a few, nothing more is asked of it."""
    dead = f"http://127.0.0.1:{closed_port}"
    with HttpClient("Demo", site.url, max_attempts=1) as client:
        told = []
        for number in range(FAILURES_UNTIL_DOWN + 2):
            with client.one_item():
                told.append(str(error_of(lambda number=number: client.get_bytes(f"{dead}/{number}"))))  # type: ignore[misc]
        assert ["could not be reached" in each for each in told] == [True] * FAILURES_UNTIL_DOWN + [False] * 2
        assert f"127.0.0.1:{closed_port}, to which Demo leads, did not answer others before" in told[-1]
        assert client.get_json("/quick") == {"path": "/quick"}


def test_a_burst_of_slow_items_does_not_use_up_the_run(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Attack A14: after some of them the others have no longer than one silent answer."""
    monkeypatch.setenv("IMPORT_PIPELINE_ITEM_TIMEOUT", "0.06")
    monkeypatch.setenv("IMPORT_PIPELINE_HTTP_TIMEOUT", "0.05")
    with HttpClient("Demo", site.url, max_attempts=1) as client:
        for number in range(SLOW_ITEMS + 1):
            with client.one_item() as allowance:
                assert allowance.seconds == (0.06 if number < SLOW_ITEMS else 0.05)
                assert allowance.left <= allowance.seconds
                while allowance.left > 0:
                    threading.Event().wait(0.02)
                told = str(error_of(lambda: client.get_json("/slow")))
    assert told.startswith("It took Demo longer than 0.05 seconds in all (10 others had taken too long)")


def test_looking_up_a_name_ends_with_the_time_of_the_item(monkeypatch: pytest.MonkeyPatch) -> None:
    """Attack A14: the system's own look-up knows no deadline."""
    over = threading.Event()

    def getaddrinfo(*_: Any, **__: Any) -> Any:
        over.wait(GENEROUS)
        raise socket.gaierror("at last")

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    monkeypatch.setenv("IMPORT_PIPELINE_ITEM_TIMEOUT", "0.3")
    with HttpClient("Demo", "http://api.example.test") as client:
        assert "longer than 0.3 seconds in all" in str(error_of(lambda: client.get_json("/calls")))
    over.set()


# --- a whole import -----------------------------------------------------------------------------------------------


def slow_ones(server: Any, target: Target, number: int = 2) -> tuple[list[Any], re.Pattern[str]]:
    """Return the newest calls, which are listed first, and the pattern of the requests for their content."""
    odd = sorted(server.calls, key=lambda call: call.started_at, reverse=True)[:number]
    return odd, re.compile("|".join(target.source.content(server, call) for call in odd))


@pytest.mark.parametrize("target", BY_CALL, ids=str)
def test_neighbours_go_on_while_a_call_is_slow(
    world: World,  # noqa: F811
    target: Target,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Attack A14: the slow ones are answered only when everything else was asked for, also where one is at a time."""
    monkeypatch.setenv("IMPORT_PIPELINE_HTTP_TIMEOUT", "0.4")
    monkeypatch.setenv("IMPORT_PIPELINE_ITEM_TIMEOUT", str(GENEROUS))
    monkeypatch.setattr("import_pipeline.providers.http.client.MAX_ATTEMPTS", 1_000)
    server = world.start(target, CALLS)
    odd, slow = slow_ones(server, target)
    patterns = {server.external_id(call): re.compile(target.source.content(server, call)) for call in server.calls}
    others, seen = patterns.keys() - {server.external_id(call) for call in odd}, set[str]()
    everybody = threading.Event()

    def answer_late(request: Request) -> Response | None:
        if re.search(target.source.listing, request.target):
            return None
        if slow.search(request.target):
            return None if everybody.wait(0.2) else Response.json({}, 503)
        seen.update(key for key in others if patterns[key].search(request.target))
        if seen >= others:
            everybody.set()
        return None

    before_answering(server, answer_late)
    ana = world.connect(target, server)
    synced = world.sync(ana)
    assert synced.broken is None
    assert sorted(world.statuses(ana).values()) == ["imported"] * CALLS


@pytest.mark.long
@pytest.mark.parametrize("number", [2, 4])
@pytest.mark.parametrize("target", BY_CALL, ids=str)
def test_a_call_that_is_answered_drop_by_drop_fails_by_itself(
    world: World,  # noqa: F811
    target: Target,
    number: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Attack A14: also if there are as many of them as would mean that the provider is down."""
    monkeypatch.setenv("IMPORT_PIPELINE_HTTP_TIMEOUT", "1")
    monkeypatch.setenv("IMPORT_PIPELINE_ITEM_TIMEOUT", "5")
    monkeypatch.setattr("import_pipeline.providers.http.client.MAX_ATTEMPTS", 1_000)
    server = world.start(target, CALLS)
    odd, slow = slow_ones(server, target, number)
    server.faults.always[slow.pattern] = "slow"
    server.faults.hang_seconds = 600
    ana = world.connect(target, server)
    synced = world.sync(ana)
    assert synced.broken is None
    names = {server.external_id(call) for call in odd}
    statuses = world.statuses(ana)
    assert {key: statuses.pop(key) for key in names} == dict.fromkeys(names, "failed/transient")
    assert sorted(statuses.values()) == ["imported"] * (CALLS - number)
    for row in world.rows("select * from import_items where user_id = %s and status = 'failed'", ana.user.id):
        assert "longer than 5 seconds in all; IMPORT_PIPELINE_ITEM_TIMEOUT is the limit" in row["error_message"]
        assert row["retry_at"] is not None
    server.faults.always.clear()
    world.due_now(ana)
    world.sync(ana)
    assert sorted(world.statuses(ana).values()) == ["imported"] * CALLS, "They come with a later run."


@pytest.mark.parametrize("target", [each for each in BY_CALL if each.connector.source_app == "zoom"], ids=str)
def test_a_burst_of_links_that_lead_nowhere_harms_no_neighbour(
    world: World,  # noqa: F811
    target: Target,
    closed_port: int,
) -> None:
    """Attack A14."""
    server = world.start(target, 3 * CALLS)
    odd, _ = slow_ones(server, target, 2 * CALLS)
    for number, call in enumerate(odd):
        link = f"http://127.0.0.1:{closed_port}/{number}"
        server.mutate[server.external_id(call)] = {"recording_files.*.download_url": link}
    ana = world.connect(target, server)
    assert world.sync(ana).broken is None
    names = {server.external_id(call) for call in odd}
    statuses = world.statuses(ana)
    assert {statuses.pop(key) for key in names} == {"failed/transient"}
    assert sorted(statuses.values()) == ["imported"] * CALLS


@pytest.mark.long
@pytest.mark.parametrize("target", usual(REST), ids=str)
def test_a_listing_that_is_answered_drop_by_drop_breaks_off_and_what_was_listed_is_imported(
    world: World,  # noqa: F811
    target: Target,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Attack A14: the cursor stays where it was."""
    monkeypatch.setenv("IMPORT_PIPELINE_ITEM_TIMEOUT", "5")
    server = world.start(target, CALLS, page_size=4)
    server.faults.always[target.source.later_pages] = "slow"
    server.faults.hang_seconds = 600
    ana = world.connect(target, server)
    synced = world.sync(ana)
    assert synced.problem is not None
    assert "longer than 5 seconds in all" in synced.problem
    statuses = world.statuses(ana)
    assert statuses
    assert set(statuses.values()) == {"imported"}
    (row,) = world.rows("select last_sync_at from import_sources where id = %s", ana.account_id)
    assert row["last_sync_at"] is None
