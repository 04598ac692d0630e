"""Zoom: whose recordings are listed, days and page tokens, segments, late transcripts, and the ways to a download."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta, timezone
from typing import Any

import httpx
import pytest
from connectors.asking import Site, attempt, import_all, list_all, make_account, open_http, record_of
from fakes import ABSENT, NextFault, ZoomServer
from fakes.server import Request, Response
from fakes.zoom import meeting_number, meeting_uuid

from import_pipeline.connectors.zoom import Zoom
from import_pipeline.errors import HttpError, SourceUnavailableError
from import_pipeline.providers.http import HttpClient
from import_pipeline.records import Failed, ListedItem, Ready, Waiting, Window

ZOOM = Zoom()
VTT = "WEBVTT\n\n1\n00:00:01.000 --> 00:00:03.000\nDana Reyes: Hello.\n\n2\n00:00:04.000 --> 00:00:05.000\nOmar: Hi.\n"
SAID = "[00:00:01] Dana Reyes: Hello.\n\n[00:00:04] Omar: Hi."
DAY_AGO = f"{datetime.now(UTC) - timedelta(days=1):%Y-%m-%dT%H:%M:%SZ}"


def open_zoom(server: ZoomServer, kind: str = "oauth") -> HttpClient:
    """Return a client with a token of the fake."""
    if kind == "oauth":
        return open_http(ZOOM, server.url, kind, server.oauth.issue().access_token)
    app = (server.oauth.client_id, server.oauth.client_secret)
    form = {"grant_type": "account_credentials", "account_id": str(server.oauth.account_id)}
    return open_http(ZOOM, server.url, kind, httpx.post(server.token_url, auth=app, data=form).json()["access_token"])


def a_file(kind: str = "TRANSCRIPT", **changes: Any) -> dict[str, Any]:
    """Return a file of a recording."""
    return {"file_type": kind, "recording_start": DAY_AGO, "download_url": "/rec/1", "status": "completed"} | changes


def zoom(files: Any, download: Callable[[Request], Any] = lambda _: VTT, **changes: Any) -> Site:
    """Return a server with one meeting, recorded a day ago."""
    meeting = {"uuid": "/a//b==", "topic": "Sync", "start_time": DAY_AGO, "recording_files": files} | changes

    def says(request: Request) -> Any:
        if request.path.startswith("/rec/"):
            return download(request)
        return meeting if "/meetings/" in request.path else {"meetings": [meeting]}

    return Site(says=says)


def outcome_of(site: Site) -> Any:
    """Return what becomes of the one meeting."""
    with open_http(ZOOM, f"{site.url}/v2", "oauth") as http:
        (outcome,) = import_all(ZOOM, http, make_account(ZOOM, days=20)).values()
        return outcome


# Whose


@pytest.mark.parametrize("kind", ["oauth", "server-to-server"])
def test_a_user_has_their_own_recordings_and_an_account_those_of_everybody(kind: str) -> None:
    with ZoomServer(calls=24, months=1.5, hosts=3, auth=kind) as server, open_zoom(server, kind) as http:
        outcomes = import_all(ZOOM, http, make_account(ZOOM, days=60))
        own = [call for call in server.calls if kind != "oauth" or call.host.email == "dana@example.com"]
        assert set(outcomes) == {meeting_uuid(call) for call in own}
        assert {record.status for record in server.requests} == {200, 302}
        for call in own:
            record = record_of(outcomes[meeting_uuid(call)])
            assert all(segment.text in record.full_transcript.replace("\n", " ") for segment in call.segments[:1])
            assert record.source_metadata["host_email"] == call.host.email
            assert record.source_metadata["meeting_number"] == str(meeting_number(call))
            assert record.source_metadata["share_link"] == record.video_url
            assert record.source_metadata["segments_without_transcript"] == 0
            assert (record.recording_start_time, record.duration) == (call.started_at, 60 * round(call.seconds / 60))
        assert server.media.leaks == []


def test_an_app_that_may_not_list_the_account_lists_each_user_f26() -> None:
    with ZoomServer(calls=24, months=1.5, hosts=4) as server, open_zoom(server, "server-to-server") as http:
        server.missing_scopes = ["cloud_recording:read:list_account_recordings:admin"]
        account = make_account(ZOOM, days=60)
        assert set(list_all(ZOOM, http, account)) == server.external_ids
        assert ZOOM.check_access(account, http).problems == ()
        server.missing_scopes = [*server.missing_scopes, "user:read:list_users:admin"]
        with pytest.raises(HttpError, match="list_users:admin"):
            list_all(ZOOM, http, account)
        (problem,) = ZOOM.check_access(account, http).problems
        assert "does not contain scopes" in problem


def test_a_users_refusal_is_not_answered_by_listing_others_f26() -> None:
    with ZoomServer(calls=2, months=0.5) as server, open_zoom(server) as http:
        server.missing_scopes = ["cloud_recording:read:list_user_recordings"]
        with pytest.raises(HttpError, match="list_user_recordings"):
            list_all(ZOOM, http, make_account(ZOOM))
        assert {record.kind for record in server.requests} == {"list"}


# When


@pytest.mark.parametrize("clamp", [30, 28, 7, "month", None])
@pytest.mark.parametrize("inclusive", [True, False])
def test_thirteen_months_come_whole_however_zoom_cuts_them_f18(clamp: Any, inclusive: bool) -> None:
    yesterday = datetime.now(UTC) - timedelta(days=1)
    with ZoomServer(calls=40, until=yesterday, clamp_days=clamp, to_is_inclusive=inclusive) as server:
        with open_zoom(server) as http:
            assert set(list_all(ZOOM, http, make_account(ZOOM, days=430))) == server.external_ids
        for record in server.requests_of("list"):  # always explicit (F25), and no longer than any month
            first, last = (date.fromisoformat(record.query[name][0]) for name in ("from", "to"))
            assert timedelta(0) <= last - first <= timedelta(days=28)


def test_days_are_those_of_utc() -> None:
    with Site(says=lambda _: {"meetings": None}) as site, open_http(ZOOM, site.url, "oauth") as http:
        window = Window(datetime(2026, 3, 1, tzinfo=UTC), datetime(2026, 3, 28, 0, tzinfo=UTC))
        assert list(ZOOM.list_items(make_account(ZOOM), window, http)) == []
        assert site.targets == ["/users/me/recordings?from=2026-03-01&to=2026-03-28&page_size=300"]


def test_days_are_those_of_utc_also_where_the_database_has_another_zone() -> None:
    opened_at = datetime(2026, 3, 29, 3, tzinfo=timezone(timedelta(hours=14)))  # in Greenwich it is still the 28th
    account = replace(make_account(ZOOM), opened_at=opened_at, last_sync_at=opened_at - timedelta(days=3))
    with Site(says=lambda _: {}) as site, open_http(ZOOM, site.url, "oauth") as http:
        assert list_all(ZOOM, http, account) == {}
        assert site.targets == ["/users/me/recordings?from=2026-03-23&to=2026-03-28&page_size=300"]


@pytest.mark.parametrize(
    ("begin", "end"),
    [
        pytest.param("2026-03-01T00:00:00Z", "2026-03-28T23:59:59Z", id="with times"),
        pytest.param(None, None, id="null"),
        pytest.param("", "", id="empty"),
        pytest.param("2026-02-20", "2026-03-28", id="more than asked"),
    ],
)
def test_the_span_may_be_echoed_in_other_ways_f18(begin: Any, end: Any) -> None:
    page = {"from": begin, "to": end, "meetings": [{"uuid": "1"}]}  # and no page token at all
    with Site(says=lambda _: page) as site, open_http(ZOOM, site.url, "oauth") as http:
        window = Window(datetime(2026, 3, 1, tzinfo=UTC), datetime(2026, 3, 28, 0, tzinfo=UTC))
        assert [item.external_id for item in ZOOM.list_items(make_account(ZOOM), window, http)] == ["1"]
        assert len(site.targets) == 1


@pytest.mark.parametrize(
    ("begin", "end"),
    [
        pytest.param("2026-03-01", "2026-03-27", id="ends earlier"),
        pytest.param("2026-03-28", "2026-03-28", id="only the last day"),
        pytest.param("2026-04-01", "2026-03-28", id="backwards"),
        pytest.param("03/01/2026", "03/28/2026", id="another notation"),
        pytest.param({"day": 1}, 28, id="another type"),
    ],
)
def test_an_answer_for_another_span_is_no_listing_f18(begin: Any, end: Any) -> None:
    page = {"from": begin, "to": end, "meetings": [{"uuid": "1"}], "next_page_token": ""}
    with Site(says=lambda _: page) as site, open_http(ZOOM, site.url, "oauth") as http:
        window = Window(datetime(2026, 3, 1, tzinfo=UTC), datetime(2026, 3, 28, 0, tzinfo=UTC))
        with pytest.raises(SourceUnavailableError, match="asked for 2026-03-01 to 2026-03-28 and answered for"):
            list(ZOOM.list_items(make_account(ZOOM), window, http))


# Meetings and their segments


def test_three_instances_of_a_series_in_two_segments_each_are_three_recordings_f6() -> None:
    with ZoomServer(calls=0) as server, open_zoom(server) as http:
        start = datetime.now(UTC).replace(microsecond=0) - timedelta(days=3)
        for day in range(3):
            server.add(series=1, parts=2, started_at=start - timedelta(days=7 * day), seconds=3600)
        outcomes = import_all(ZOOM, http, make_account(ZOOM))
        assert set(outcomes) == server.external_ids
        records = [record_of(outcome) for outcome in outcomes.values()]
        assert len({record.source_metadata["meeting_number"] for record in records}) == 1
        for call in server.calls:
            transcript = record_of(outcomes[meeting_uuid(call)]).full_transcript
            times = [60 * int(m) + int(s) for m, s in re.findall(r"^\[00:(\d\d):(\d\d)\]", transcript, re.MULTILINE)]
            assert times == sorted(times)
            assert times[-1] > 2700  # the second segment is moved behind the first
            assert [segment.text for segment in call.segments if segment.text not in transcript] == []


def test_files_are_told_apart_by_kind_not_by_id_f7() -> None:
    bare = [{"file_type": kind, "download_url": "/rec/other"} for kind in ("TIMELINE", "CC")]
    files = [*bare, "nonsense", None, a_file("MP4"), {"file_type": ["x"]}, a_file(recording_type="added_later")]
    with zoom(
        files, lambda request: VTT if request.path == "/rec/1" else "WEBVTT\n\n00:00.000 --> 00:01.000\nCC\n"
    ) as site:
        assert record_of(outcome_of(site)).full_transcript == SAID


@pytest.mark.parametrize(
    "files",
    [
        pytest.param(None, id="null"),
        pytest.param([a_file("MP4")], id="only video"),
        pytest.param([a_file(status="processing")], id="in the making"),
        pytest.param([a_file(download_url=None)], id="without a link"),
        pytest.param([a_file("MP4"), a_file("MP4", recording_start="2026-03-02T12:00:00Z"), a_file()], id="one of two"),
        pytest.param([a_file(), a_file(recording_start="2999-03-02T12:00:00Z", status="processing")], id="first done"),
        pytest.param(
            [a_file(), a_file("MP4", recording_start="2026-03-02T12:00:00Z", status="processing")], id="video to come"
        ),
    ],
)
def test_what_is_not_complete_yet_waits_f31(files: Any) -> None:
    with zoom(files) as site:
        outcome = outcome_of(site)
        assert isinstance(outcome, Waiting), outcome
        assert "no transcript yet" in outcome.reason


def test_a_segment_that_never_gets_a_transcript_does_not_hold_back_the_others_f31() -> None:
    start = datetime.now(UTC) - timedelta(days=2)
    files = [a_file("MP4"), a_file("MP4", recording_start=start.isoformat()), a_file()]
    with zoom(files, start_time=start.isoformat()) as site:
        record = record_of(outcome_of(site))
        assert record.source_metadata["segments_without_transcript"] == 1


@pytest.mark.parametrize("text", ["WEBVTT", "WEBVTT\n\n", "WEBVTT\r\n\r\n1\r\n00:00:01.000 --> 00:00:02.000\r\n\r\n"])
def test_an_empty_transcript_waits_and_is_never_stored_f32(text: str) -> None:
    with zoom([a_file()], lambda _: text) as site:
        outcome = outcome_of(site)
        assert isinstance(outcome, Waiting)
        assert outcome.reason == "Zoom's transcript of it is empty."
    with zoom([a_file()], lambda _: text, start_time="2026-03-02T10:00:00Z") as site:
        outcome = outcome_of(site)  # it will never hold anything
        assert isinstance(outcome, Failed)
        assert outcome.error_class == "permanent"


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("\ufeff" + VTT, id="byte order mark"),
        pytest.param(VTT.replace("\n", "\r\n"), id="CRLF"),
        pytest.param("\n" + VTT.replace("WEBVTT", "WEBVTT - made up\nKind: captions"), id="head"),
        pytest.param(VTT.replace("1\n", "cue-one\n", 1).replace("\n2\n", "\n\n"), id="cue ids of any kind"),
        pytest.param(VTT.replace("00:00:0", "00:0"), id="no hours"),
        pytest.param(VTT + "\nNOTE\nDana Reyes: nothing.\n", id="note"),
    ],
)
def test_transcripts_come_in_dialects_f34(text: str) -> None:
    with zoom([a_file()], lambda _: text) as site:
        assert record_of(outcome_of(site)).full_transcript == SAID


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        pytest.param({"duration": "31", "id": "812"}, {"duration": 1860}, id="numbers as text"),
        pytest.param({"duration": 0, "type": 2}, {"duration": None}, id="no duration"),
        pytest.param({"topic": None}, {"title": "Untitled meeting"}, id="no topic"),
        pytest.param({"topic": "", "share_url": ""}, {"title": "Untitled meeting", "video_url": None}, id="empty"),
        pytest.param({"x_added": {"y": []}, "type": "added_later"}, {"title": "Sync"}, id="unknown"),
    ],
)
def test_meetings_may_lack_what_is_optional_f47(changes: dict[str, Any], expected: dict[str, Any]) -> None:
    with zoom([a_file()], **changes) as site:
        record = record_of(outcome_of(site))
        assert {name: getattr(record, name) for name in expected} == expected


@pytest.mark.parametrize("start", [None, "", DAY_AGO], ids=["null", "empty", "a day ago"])
def test_files_may_not_tell_when_they_begin(start: Any) -> None:
    with zoom([a_file(recording_start=start), a_file("MP4", recording_start=start)]) as site:
        record = record_of(outcome_of(site))
        assert record.full_transcript == SAID
        assert record.recording_start_time == datetime.fromisoformat(DAY_AGO)
    if start:
        with zoom([a_file(recording_start=start)], start_time="") as site:
            assert record_of(outcome_of(site)).recording_start_time == datetime.fromisoformat(DAY_AGO)


@pytest.mark.parametrize(
    "changes",
    [
        {"uuid": None}, {"uuid": 1.5}, {"topic": 42}, {"start_time": 1772445600}, {"start_time": "yesterday"},
        {"duration": "long"}, {"duration": [31]}, {"share_url": {}}, {"host_email": 7}, {"recording_files": {"a": 1}},
        {"recording_files": [a_file(recording_start="soon")]}, {"recording_files": [a_file(download_url=[1])]},
    ],
)  # fmt: skip
def test_a_changed_type_is_a_failed_item_of_the_class_data_f47(changes: dict[str, Any]) -> None:
    with zoom([a_file()], **changes) as site:
        outcome = outcome_of(site)
        assert isinstance(outcome, Failed)
        assert outcome.error_class == "data"


# Downloads


def test_ids_are_encoded_twice_f8() -> None:
    with ZoomServer(calls=10, months=0.9, expired_links=404) as server, open_zoom(server) as http:
        outcomes = import_all(ZOOM, http, make_account(ZOOM))
        assert all(isinstance(outcome, Ready) for outcome in outcomes.values())
        asked = [record.path for record in server.requests_of("meeting")]
        assert any("%252F" in path for path in asked)
        assert {record.status for record in server.requests_of("meeting")} == {200}


@pytest.mark.parametrize(
    "switches",
    [
        {"expired_links": 401},
        {"expired_links": 404},
        {"downloads_need_query_token": True},
        {"redirects_downloads": False},
    ],
    ids=str,
)
def test_links_that_ran_out_or_need_a_token_in_the_address_are_asked_for_again_f36(switches: dict[str, Any]) -> None:
    with ZoomServer(calls=6, months=0.9, **switches) as server, open_zoom(server) as http:
        outcomes = import_all(ZOOM, http, make_account(ZOOM))
        assert all(isinstance(outcome, Ready) for outcome in outcomes.values()), outcomes
        assert server.media.leaks == []
        for record in server.requests:  # the credential itself is never in an address
            assert http._secrets()[0] not in record.target


def test_a_link_may_be_relative_or_to_another_host_f36() -> None:
    tokens: list[Any] = []

    def opens_with_token(request: Request) -> Any:
        tokens.append((request.headers.get("authorization"), request.parameter("access_token")))
        return VTT if request.parameter("access_token") == "of-this-meeting" else Response.html("<html>Sign in</html>")

    with Site(says=opens_with_token) as other:
        link = other.url.replace("127.0.0.1", "localhost") + "/rec/1?x=1"
        with zoom([a_file(download_url=link)], download_access_token="of-this-meeting") as site:
            assert record_of(outcome_of(site)).full_transcript == SAID
    assert tokens == [(None, None), (None, "of-this-meeting")]


@pytest.mark.parametrize(
    ("answer", "error_class"),
    [
        pytest.param(Response.html("<html>Sign in</html>"), "transient", id="a page"),
        pytest.param(b"", "transient", id="nothing"),
        pytest.param({"code": 1}, "transient", id="JSON"),
        pytest.param(Response(403, b"{}"), "auth", id="403"),
        pytest.param(Response(404, b"{}"), "permanent", id="404"),
    ],
)
def test_what_leads_nowhere_twice_is_a_failure_and_no_missing_transcript_f32(answer: Any, error_class: str) -> None:
    with zoom([a_file()], lambda _: answer) as site:
        outcome = outcome_of(site)
        assert isinstance(outcome, Failed)
        assert outcome.error_class == error_class


def test_a_recording_that_is_gone_fails_f29() -> None:
    with ZoomServer(calls=1, months=0.03, expired_links=404) as server, open_zoom(server) as http:
        account = make_account(ZOOM)
        (item,) = list_all(ZOOM, http, account).values()
        server.faults.next_faults = [NextFault("404", "/meetings/")]
        outcome = attempt(ZOOM, http, account, item)
        assert isinstance(outcome, Failed)
        assert outcome.error_class == "permanent"


def test_of_several_segments_each_gets_its_own_new_link_f36() -> None:
    start = datetime.now(UTC) - timedelta(days=1)
    files = [
        a_file(recording_start=(start + timedelta(minutes=n)).isoformat(), download_url=f"/rec/{n}") for n in (9, 0)
    ]

    def download(request: Request) -> Any:
        if not request.parameter("access_token"):
            return Response(401, b"{}")
        return VTT.replace("Hello", f"From {request.path[5:]}")

    with zoom(files, download, download_access_token="t") as site:
        transcript = record_of(outcome_of(site)).full_transcript
    assert transcript.startswith("[00:00:01] Dana Reyes: From 0.")
    assert "[00:09:01] Dana Reyes: From 9." in transcript


def test_a_download_asks_for_nothing_that_the_listing_told() -> None:
    with ZoomServer(calls=3, months=0.5) as server, open_zoom(server) as http:
        server.mutate = {name: {"timezone": ABSENT, "share_url": ABSENT} for name in server.external_ids}
        items: list[ListedItem] = list(list_all(ZOOM, http, make_account(ZOOM)).values())
        server.forget_requests()
        for item in items:
            assert record_of(attempt(ZOOM, http, make_account(ZOOM), item)).video_url is None
        assert {record.kind for record in server.requests} == {"download"}
