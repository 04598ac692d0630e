"""YouTube: what addresses name, how far lists are read, the quota, and captions, above all those that are refused."""

from __future__ import annotations

import html
import json
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
import requests
from connectors.asking import Site, attempt, import_all, list_all, make_account, open_http, record_of
from fakes import NextFault, Track, YouTubeServer
from fakes.server import Request, Response
from fakes.youtube import AGE_REASON, BOT_REASON

from import_pipeline.connectors.youtube import YouTube
from import_pipeline.connectors.youtube.captions import _Through, find_site
from import_pipeline.connectors.youtube.site import parse_address
from import_pipeline.errors import ConfigurationError, HttpError, RateLimitedError, ReconnectError
from import_pipeline.providers.http import HttpClient
from import_pipeline.records import Failed, Ignored, ListedItem, Ready, Waiting, Window

YOUTUBE = YouTube()
KEY = "youtube-test-key"
ID = "AbCdEfGhIjK"
CHANNEL = "UC" + "exampleexampleexample1"
PLAYLIST = "PL" + "exampleexampleexample1"
XML = (
    '<?xml version="1.0" encoding="utf-8" ?><transcript><text start="0.0" dur="2.4">hello and welcome</text>'
    '<text start="1.9" dur="3.1">to the show</text></transcript>'
)


def open_youtube(server: YouTubeServer) -> HttpClient:
    """Return a client with the key of the fake."""
    return open_http(YOUTUBE, server.url, "api-key", KEY)


def account_of(server: YouTubeServer, *addresses: str, days: float = 30) -> Any:
    """Return an account that imports these addresses; without any the fake's channel."""
    return make_account(YOUTUBE, days=days, addresses=list(addresses) or [server.channel_id])


def watch(
    captions: Any = XML, status: Any = None, tracks: Any = None, page: Any = '"INNERTUBE_API_KEY": "x"', **video: Any
) -> Site:
    """Return a server with one video; `status` is its playability."""
    track = {"baseUrl": "https://www.youtube.com/api/timedtext?v=x&fmt=srv3", "name": {"runs": [{"text": "English"}]}}
    tracks = [track | {"languageCode": "en"}] if tracks is None else tracks
    snippet = {"title": "Story", "publishedAt": "2026-03-01T18:00:00Z"} | video.pop("snippet", {})
    resource = {"id": ID, "snippet": snippet} | video
    player = {
        "playabilityStatus": {"status": "OK"} if status is None else status,
        "captions": {"playerCaptionsTracklistRenderer": {"captionTracks": tracks}},
    }

    def says(request: Request) -> Any:
        if request.path.endswith("/videos"):
            return {"items": [resource]}
        if request.path == "/watch":
            return page
        return captions if request.path == "/api/timedtext" else player

    return Site(says=says)


def outcome_of(site: Site) -> Any:
    """Return what becomes of the one video."""
    with open_http(YOUTUBE, f"{site.url}/youtube/v3", "api-key") as http:
        (outcome,) = import_all(YOUTUBE, http, make_account(YOUTUBE, addresses=[ID])).values()
        return outcome


# Addresses


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        (ID, ("video", ID)),
        ("-_cDeFgHiJk", ("video", "-_cDeFgHiJk")),
        (f" https://www.youtube.com/watch?v={ID}&t=42s&list={PLAYLIST} ", ("video", ID)),
        (f"https://m.youtube.com/watch?app=desktop&v={ID}", ("video", ID)),
        (f"HTTPS://WWW.YOUTUBE.COM/watch?v={ID}", ("video", ID)),
        (f"youtube.com/watch?v={ID}", ("video", ID)),
        (f"https://music.youtube.com/watch?v={ID}", ("video", ID)),
        (f"https://youtu.be/{ID}?si=x", ("video", ID)),
        (f"https://www.youtube.com/embed/{ID}?start=3", ("video", ID)),
        (f"https://www.youtube.com/v/{ID}", ("video", ID)),
        (f"https://www.youtube.com/shorts/{ID}/", ("video", ID)),
        (f"https://www.youtube.com/live/{ID}?feature=share", ("video", ID)),
        (f"https://www.youtube-nocookie.com/embed/{ID}", ("video", ID)),
        (PLAYLIST, ("playlist", PLAYLIST)),
        ("UUexampleexampleexample1", ("playlist", "UUexampleexampleexample1")),
        (f"https://www.youtube.com/playlist?list={PLAYLIST}&si=x", ("playlist", PLAYLIST)),
        (f"https://www.youtube.com/watch?list={PLAYLIST}", ("playlist", PLAYLIST)),
        (f"https://www.youtube.com/embed/videoseries?list={PLAYLIST}", ("playlist", PLAYLIST)),
        (CHANNEL, ("id", CHANNEL)),
        (f"https://www.youtube.com/channel/{CHANNEL}/videos", ("id", CHANNEL)),
        ("@example-channel", ("forHandle", "@example-channel")),
        ("https://www.youtube.com/@example.channel/streams?x=1", ("forHandle", "@example.channel")),
        ("https://www.youtube.com/@%E3%83%86%E3%82%B9%E3%83%88", ("forHandle", "@テスト")),
        ("www.youtube.com/user/Legacy", ("forUsername", "Legacy")),
    ],
)
def test_an_address_names_a_video_a_playlist_or_a_channel(address: str, expected: tuple[str, str]) -> None:
    assert parse_address(address) == expected


@pytest.mark.parametrize(
    "address",
    [
        "", "https://", "https://www.youtube.com/", "https://www.youtube.com/c/Custom", "https://www.youtube.com/Custom",
        "https://vimeo.com/watch?v=AbCdEfGhIjK", "https://evil-youtube.com/@x", "https://youtu.be/short", "Ünïcödé-äö",
        "https://www.youtube.com/channel/UCshort", "https://www.youtube.com/playlist?list=no", "http://[bad", "@",
    ],
)  # fmt: skip
def test_what_names_nothing_is_refused_at_once(address: str) -> None:
    with pytest.raises(ConfigurationError, match="address"):
        YOUTUBE.check_address(address)


def test_every_kind_of_address_is_listed() -> None:
    with YouTubeServer(calls=7, months=0.9) as server, open_youtube(server) as http:
        for address in (f"@{server.handle}", server.channel_id, server.uploads_id, server.playlist_id,
                        f"https://www.youtube.com/user/{server.handle}"):  # fmt: skip
            assert set(list_all(YOUTUBE, http, account_of(server, address))) == server.external_ids
        some = sorted(server.external_ids)[:2]
        assert set(list_all(YOUTUBE, http, account_of(server, *some))) == set(some)


def test_an_unknown_address_is_told_and_keeps_no_other_from_being_listed() -> None:
    gone = ["@nobody", "PLnothingnothingnothing"]
    with YouTubeServer(calls=3, months=0.5) as server, open_youtube(server) as http:
        for address in gone:
            found = []
            with pytest.raises(HttpError, match=r"knows no channel|cannot be found") as raised:
                found += (each.external_id for each in _each(http, account_of(server, address, server.channel_id)))
            assert raised.value.status == 404
        items = _each(http, account_of(server, *gone, server.channel_id))
        assert {next(items).external_id for _ in server.calls} == server.external_ids
        with pytest.raises(HttpError, match="knows no channel"):
            YOUTUBE.check_access(account_of(server, gone[0]), http)


def _each(http: HttpClient, account: Any) -> Any:
    return YOUTUBE.list_items(account, Window(account.opened_at - timedelta(days=60), account.opened_at), http)


# Lists


def test_details_come_fifty_at_a_time_and_a_channel_is_read_a_page_beyond_the_window_f24() -> None:
    with YouTubeServer(calls=400, months=13) as server, open_youtube(server) as http:
        everything = list(_each(http, account_of(server)))
        recent = {name for name in server.external_ids if server.find(name).created_at > _days_ago(60)}  # type: ignore[union-attr]
        assert recent <= {item.external_id for item in everything}
        pages = server.requests_of("list")
        assert len(pages) == 4  # some 60 of 400 are wanted: two pages, and two on which everything is older
        assert {record.query["maxResults"][0] for record in pages} == {"50"}
        assert [len(record.query["id"][0].split(",")) for record in server.requests_of("videos")] == [50] * 4


def _days_ago(days: float) -> datetime:
    return datetime.now(UTC) - timedelta(days=days)


def test_a_playlist_is_read_to_its_end_since_its_newest_may_be_there() -> None:
    def says(request: Request) -> Any:
        if request.path == "/videos":
            return {"items": [{"id": name, "snippet": {}} for name in request.query["id"][0].split(",")]}
        number = int(request.parameter("pageToken") or 0)
        year = 2010 + number * 2
        entry = {
            "id": "x",
            "contentDetails": {"videoId": f"{number:011}", "videoPublishedAt": f"{year}-01-01T00:00:00Z"},
        }
        page = {"items": [entry] if number % 4 else []}  # with an empty page now and then
        return page if number == 8 else page | {"nextPageToken": str(number + 1)}

    with Site(says=says) as site, open_http(YOUTUBE, site.url, "api-key") as http:
        found = list_all(YOUTUBE, http, make_account(YOUTUBE, addresses=[PLAYLIST]))
        assert len(found) == 6


def test_a_channel_without_videos_is_no_error() -> None:
    with YouTubeServer(calls=0) as server, open_youtube(server) as http:
        assert list_all(YOUTUBE, http, account_of(server)) == {}
        assert [record.kind for record in server.requests] == ["channels", "list"]


def test_private_and_omitted_videos_are_ignored_and_others_go_on() -> None:
    with YouTubeServer(calls=8, months=0.9, private_items=2, omitted_items=1) as server, open_youtube(server) as http:
        outcomes = import_all(YOUTUBE, http, account_of(server))
        assert set(outcomes) == server.external_ids
        ignored = [name for name, outcome in outcomes.items() if isinstance(outcome, Ignored)]
        assert set(ignored) == {server.external_id(call) for call in server.calls[-3:]}
        assert sum(isinstance(outcome, Ready) for outcome in outcomes.values()) == 5


def test_announced_and_running_streams_wait_and_are_imported_when_they_have_ended_f31() -> None:
    with YouTubeServer(calls=3, months=0.03, upcoming_items=1, live_items=1) as server, open_youtube(server) as http:
        server.adds_unknown_fields = True  # then liveBroadcastContent may be a word nobody knows
        account = account_of(server)
        kinds = [type(outcome) for outcome in import_all(YOUTUBE, http, account).values()]
        assert kinds == [Waiting, Waiting, Ready]
        for call in server.calls:
            server.video(call).live = "completed"
        records = [record_of(outcome) for outcome in import_all(YOUTUBE, http, account).values()]
        assert [record.recording_start_time for record in records] == [call.started_at for call in server.calls]
        assert [record.duration for record in records] == [call.seconds for call in server.calls]


def test_a_video_that_is_still_processed_waits_f31() -> None:
    with YouTubeServer(calls=1, months=0.03) as server, open_youtube(server) as http:
        server.video(server.calls[0]).upload_status = "uploaded"
        (outcome,) = import_all(YOUTUBE, http, account_of(server)).values()
        assert isinstance(outcome, Waiting)
        assert server.requests_of("watch") == []


@pytest.mark.parametrize("status", [403, 429])
def test_a_used_up_quota_is_a_limit_until_midnight_in_california(status: int) -> None:
    body = {"error": {"code": status, "message": "Exceeded.", "errors": [{"reason": "quotaExceeded"}]}}
    with Site(says=lambda _: Response.json(body, status)) as site, open_http(YOUTUBE, site.url, "api-key") as http:
        with pytest.raises(RateLimitedError) as raised:
            list_all(YOUTUBE, http, make_account(YOUTUBE, addresses=[CHANNEL, "@other"]))
        assert raised.value.error_class == "rate"
        assert raised.value.retry_at is not None
        local = raised.value.retry_at.astimezone(ZoneInfo("America/Los_Angeles")) + timedelta(seconds=1)
        assert (local.hour, local.minute) == (0, 0)
        assert len(site.targets) == 1  # nothing further is asked


@pytest.mark.parametrize("reason", ["forbidden", "accessNotConfigured", None])
def test_another_403_is_no_limit(reason: Any) -> None:
    body = {"error": {"code": 403, "message": "No.", "errors": [{"reason": reason}]}}
    with Site(says=lambda _: Response.json(body, 403)) as site, open_http(YOUTUBE, site.url, "api-key") as http:
        with pytest.raises(HttpError) as raised:
            list_all(YOUTUBE, http, make_account(YOUTUBE, addresses=[CHANNEL]))
        assert raised.value.error_class == "auth"


@pytest.mark.parametrize("secret", ["wrong", ""])
def test_a_wrong_key_is_told_as_one_that_must_be_replaced(secret: str) -> None:
    with YouTubeServer(calls=1) as server, open_http(YOUTUBE, server.url, "api-key", secret) as http:
        with pytest.raises(ReconnectError, match=r"API key not valid.*import-pipeline connect youtube") as raised:
            list_all(YOUTUBE, http, account_of(server, server.channel_id, "@other"))
        assert raised.value.error_class == "auth"
        assert len(server.requests) == 1


# Captions


def test_captions_become_a_transcript_with_its_data() -> None:
    with YouTubeServer(calls=6, months=0.9) as server, open_youtube(server) as http:
        for name, outcome in import_all(YOUTUBE, http, account_of(server)).items():
            call, record = server.find(name), record_of(outcome)
            assert call is not None
            assert (record.title, record.duration) == (call.title, call.seconds)
            assert record.recording_start_time == call.created_at
            assert record.video_url == f"https://www.youtube.com/watch?v={name}"
            assert record.full_transcript.startswith("[00:00:00] ")
            assert f"call {call.number}" in record.full_transcript
            assert record.source_metadata["channelId"] == server.channel_id
        assert all("key" not in record.query for record in server.requests_of("watch"))
        assert not any(KEY in record.target for record in server.requests_of("player"))


@pytest.mark.parametrize("repeats", [True, False])
def test_rolling_captions_say_everything_once_f35(repeats: bool) -> None:
    with YouTubeServer(calls=1, months=0.03) as server, open_youtube(server) as http:
        call = server.calls[0]
        server.video(call).tracks = [Track(repeats_lines=repeats)]
        (outcome,) = import_all(YOUTUBE, http, account_of(server)).values()
        words = [word for turn in record_of(outcome).full_transcript.split("\n\n") for word in turn.split()[1:]]
        spoken = sum(len(_words(segment.text)) for segment in call.segments)
        assert abs(len(words) - spoken) <= 0.02 * spoken


def _words(text: str) -> list[str]:
    return [word for word in text.split() if any(letter.isalnum() for letter in word)]


@pytest.mark.parametrize(
    ("spoken", "languages", "tracks", "expected"),
    [
        pytest.param("de-DE", "en", [("en", False), ("de", True)], ("de", True), id="what is spoken comes first"),
        pytest.param(None, "fr, en", [("en", False), ("fr", True)], ("fr", True), id="then what is set"),
        pytest.param(None, "", [("en", True), ("en-GB", False)], ("en-GB", False), id="people before machines"),
        pytest.param("en-GB", "", [("en-US", False), ("en-GB", False)], ("en-GB", False), id="the very one"),
        pytest.param(None, "en", [("fr", False), ("ja", True)], ("ja", True), id="else what is spoken, by machine"),
        pytest.param(None, "en", [("fr", False)], ("fr", False), id="else any"),
    ],
)
def test_the_language_of_captions(
    spoken: Any, languages: str, tracks: Any, expected: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("IMPORT_PIPELINE_YOUTUBE_LANGUAGES", languages)
    common = {"baseUrl": "https://www.youtube.com/api/timedtext?v=x", "name": {"runs": [{"text": "n"}]}}
    given = [common | {"languageCode": code} | ({"kind": "asr"} if is_asr else {}) for code, is_asr in tracks]
    with watch(tracks=given, snippet={"defaultAudioLanguage": spoken}) as site:
        captions = record_of(outcome_of(site)).source_metadata["captions"]
        assert (captions["language"], captions["automatic"]) == expected


@pytest.mark.parametrize(
    ("captions", "expected"),
    [
        pytest.param(XML, "[00:00:00] hello and welcome to the show", id="as documented"),
        pytest.param(
            "\ufeff" + XML.replace("><", ">\r\n<"), "[00:00:00] hello and welcome to the show", id="BOM, CRLF"
        ),
        pytest.param(
            '<transcript><text start="1">a &amp;amp; b &amp;lt;i&amp;gt;c&amp;lt;/i&amp;gt;</text></transcript>',
            "[00:00:01] a & b c",
            id="escaped twice",
        ),
        pytest.param(
            '<transcript><text start="1">one</text><text start="9"/><text start="3">two</text></transcript>',
            "[00:00:01] one two",
            id="no duration, no text",
        ),
    ],
)
def test_captions_come_in_odd_xml_f34(captions: str, expected: str) -> None:
    with watch(captions) as site:
        assert record_of(outcome_of(site)).full_transcript == expected


@pytest.mark.parametrize("mode", ["429", "recaptcha", "bot", "consent-wall", "captions-429"])
def test_a_blocked_address_is_no_missing_transcript_and_is_not_knocked_at_again_f33(mode: Any) -> None:
    with YouTubeServer(calls=3, months=0.03, watch=mode) as server, open_youtube(server) as http:
        account = account_of(server)
        items = list(list_all(YOUTUBE, http, account).values())
        server.forget_requests()
        first, *others = [attempt(YOUTUBE, http, account, items[0])]
        asked = len(server.requests)
        if "429" not in mode:  # there the rate budget falls silent
            others = [attempt(YOUTUBE, http, account, item) for item in items[1:]]
            assert len(server.requests) == asked
        for outcome in (first, *others):
            assert isinstance(outcome, Failed)
            assert outcome.error_class == "rate"
            assert outcome.retry_at is not None
    server.watch = "ok"


@pytest.mark.parametrize(
    ("mode", "kind", "error_class"),
    [
        ("po-token", Failed, "transient"), ("empty-body", Failed, "transient"), ("age", Failed, "permanent"),
        ("unavailable", Failed, "permanent"), ("unplayable", Failed, "permanent"), ("no-captions", Waiting, None),
        ("empty-track", Waiting, None), ("consent", Ready, None),
    ],
)  # fmt: skip
def test_each_refusal_is_what_it_is_f32_f33(mode: Any, kind: type, error_class: str | None) -> None:
    with YouTubeServer(calls=2, months=0.03) as server, open_youtube(server) as http:
        server.video(server.calls[0]).watch = mode
        first, second = import_all(YOUTUBE, http, account_of(server)).values()
        assert isinstance(first, kind), first
        assert getattr(first, "error_class", None) == error_class
        assert isinstance(second, Ready)  # one video says nothing of another


@pytest.mark.parametrize(
    ("changes", "error_class"),
    [
        pytest.param(
            {"status": {"status": "LOGIN_REQUIRED", "reason": BOT_REASON.replace("’", "'")}}, "rate", id="bot"
        ),
        pytest.param({"status": {"status": "LOGIN_REQUIRED", "reason": AGE_REASON}}, "permanent", id="age"),
        pytest.param({"status": []}, "transient", id="playability of another type"),
        pytest.param({"tracks": {"a": 1}}, "transient", id="tracks of another type"),
        pytest.param({"tracks": [{"languageCode": "en"}]}, "transient", id="a track without address"),
        pytest.param(
            {"tracks": [{"languageCode": "en", "baseUrl": "/api/timedtext", "name": {"runs": [{"text": "x"}]}}]},
            "transient",
            id="an address without host",
        ),
        pytest.param({"captions": "<html><body>Sorry"}, "transient", id="a page as captions"),
        pytest.param({"captions": '<transcript><text start="soon">x</text></transcript>'}, "transient", id="odd time"),
        pytest.param(
            {"captions": '<!DOCTYPE a [<!ENTITY b "c">]><transcript><text start="1">&b;</text></transcript>'},
            "transient",
            id="entities",
        ),
        pytest.param({"captions": Response(404, b"")}, "transient", id="404"),
        pytest.param({"captions": Response(403, b"")}, "transient", id="403"),
        pytest.param({"page": "<html>Please stand by</html>"}, "transient", id="another page"),
    ],
)
def test_an_answer_that_is_not_understood_is_never_no_captions_f33_f47(changes: Any, error_class: str) -> None:
    with watch(**changes) as site:
        outcome = outcome_of(site)
        assert isinstance(outcome, Failed), outcome
        assert outcome.error_class == error_class


def test_a_page_in_place_of_the_players_answer_is_never_no_captions_f33() -> None:
    with YouTubeServer(calls=1, months=0.03) as server, open_youtube(server) as http:
        server.faults.next_faults = [NextFault("html", "/player")]
        (outcome,) = import_all(YOUTUBE, http, account_of(server)).values()
        assert isinstance(outcome, Failed)
        assert outcome.error_class == "transient"


@pytest.mark.parametrize(
    "changes",
    [{"snippet": {"title": 42}}, {"snippet": {"publishedAt": 7}}, {"snippet": {"channelId": []}},
     {"snippet": {"liveBroadcastContent": 1}}, {"contentDetails": "x"}, {"contentDetails": {"duration": 60}}],
    ids=str,
)  # fmt: skip
def test_a_changed_type_is_a_failed_item_of_the_class_data_f47(changes: dict[str, Any]) -> None:
    with watch(**changes) as site:
        outcome = outcome_of(site)
        assert isinstance(outcome, Failed)
        assert outcome.error_class == "data"


# The way to the website


@pytest.mark.parametrize(
    ("api", "site", "expected"),
    [
        ("https://www.googleapis.com/youtube/v3", "", "https://www.youtube.com"),
        ("https://youtube.googleapis.com/youtube/v3", "", "https://www.youtube.com"),
        ("http://127.0.0.1:8080/youtube/v3", "", "http://127.0.0.1:8080"),
        ("http://127.0.0.1:8080/youtube/v3", "https://site.example/x/", "https://site.example/x"),
    ],
)
def test_the_website_stands_beside_the_api(api: str, site: str, expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IMPORT_PIPELINE_YOUTUBE_SITE_URL", site)
    with open_http(YOUTUBE, api, "api-key") as http:
        assert find_site(http) == expected
    monkeypatch.setenv("IMPORT_PIPELINE_YOUTUBE_SITE_URL", "nowhere")
    with open_http(YOUTUBE, api, "api-key") as http, pytest.raises(ConfigurationError, match="SITE_URL"):
        find_site(http)


def test_what_the_library_sends_goes_through_our_client_without_key_and_with_cookies() -> None:
    def says(request: Request) -> Any:
        answer = {"headers": request.headers, "body": request.body.decode()}
        return Response.json(answer, 404 if request.path == "/none" else 200, Set_Cookie="seen=1; Path=/; Secure")

    with Site(says=says) as site, open_http(YOUTUBE, site.url, "api-key", KEY) as http, requests.Session() as session:
        session.mount("https://", _Through(http, site.url, session))
        session.auth = ("somebody", "else")
        first = session.get("https://www.youtube.com/watch?v=1", headers={"Accept-Language": "en-US"})
        second = session.post("https://www.youtube.com/youtubei", json={"a": "ü"}, stream=True)
        assert first.headers["content-type"].startswith("application/json")
        assert (first.ok, first.is_redirect, first.history, first.url) == (
            True,
            False,
            [],
            "https://www.youtube.com/watch?v=1",
        )
        assert first.elapsed >= timedelta(0)
        sent = second.json()
        assert sent["headers"]["cookie"] == "seen=1"
        assert json.loads(sent["body"]) == {"a": "ü"}
        assert not {"authorization", "x-api-key"} & set(sent["headers"])
        assert not any(KEY in target for target in site.targets)
        second.close()
        with session.get("https://www.youtube.com/none") as missing, pytest.raises(requests.HTTPError, match="404"):
            missing.raise_for_status()


def test_listed_items_hold_what_a_person_can_open() -> None:
    with YouTubeServer(calls=1, months=0.03) as server, open_youtube(server) as http:
        (item,) = list_all(YOUTUBE, http, account_of(server)).values()
        assert isinstance(item, ListedItem)
        assert item.location == f"https://www.youtube.com/watch?v={html.escape(item.external_id)}"
