"""Answers of a provider that want too much: more room or time than there is, another address, another reader."""

from __future__ import annotations

import json
import math
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from typing import Any

import httpx
import pytest
from fakes.server import FakeServer, Request, Response
from hostile.attacks import CLOCKS, INSTANTS, NASTY, is_harmless, nasty_text, odd_fields, odd_values, spoilt_json
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from import_pipeline.connectors.youtube import site as _youtube_site
from import_pipeline.errors import HttpError, ImportPipelineError, ItemError, SourceUnavailableError
from import_pipeline.providers import fields
from import_pipeline.providers.authentication import OAuth
from import_pipeline.providers.error_answers import describe_body, request_id, silence_asked
from import_pipeline.providers.fields import DEEPEST, parse_json
from import_pipeline.providers.http import MAX_PAGES_WITHOUT_NEWS, HttpClient
from import_pipeline.providers.oauth import request_token

QUICK = settings(max_examples=150, deadline=None)


def outcome(call: Callable[[], Any]) -> Any:
    """Return what a call returns, or the error of ours that it raises."""
    try:
        return call()
    except ImportPipelineError as error:
        return error


class Site(FakeServer):
    """Answers every request as a test says."""

    say: Callable[[Request], Response] = staticmethod(lambda _: Response.json({}))

    def answer(self, request: Request, *_: Any) -> Response:
        return self.say(request)


@pytest.fixture
def site() -> Iterator[Site]:
    with Site() as running:
        yield running


@pytest.fixture
def client(site: Site, monkeypatch: pytest.MonkeyPatch) -> Iterator[HttpClient]:
    monkeypatch.setattr("import_pipeline.providers.http.attempts._JITTER", lambda _: 0.0)
    with HttpClient("Demo", site.url, max_attempts=2) as opened:
        yield opened


# --- JSON ---------------------------------------------------------------------------------------------------------


def nesting(value: Any) -> int:
    level, depth = [value], 0
    while level := [
        inner
        for each in level
        if isinstance(each, dict | list)
        for inner in (each.values() if isinstance(each, dict) else each)
    ]:
        depth += 1
    return depth


@QUICK
@given(st.lists(odd_values, max_size=5).flatmap(spoilt_json))
def test_json_is_read_as_python_reads_it(value: Any) -> None:
    content = json.dumps(value, ensure_ascii=True).encode()
    assert json.dumps(parse_json(content)) == json.dumps(json.loads(content))


@pytest.mark.parametrize(("opening", "closing"), [("[", "]"), ('{"a":', "}"), ('[{"]":[', "]}]")])
def test_what_is_nested_too_deeply_is_left_out_and_the_rest_is_read(opening: str, closing: str) -> None:
    deep = opening * 60_000 + "1" + closing * 60_000
    text = r'{"first": "[{\"", "deep": DEEP, "last": ["\\", "]}", DEEP, "é"]}'.replace("DEEP", deep)
    value = parse_json(text.encode())
    assert value["first"] == '[{"'
    assert (value["last"][:2], value["last"][3]) == (["\\", "]}"], "é")
    assert 3 < nesting(value) <= DEEPEST


@pytest.mark.parametrize(
    "text",
    ["[" * 100_000, '{"a":' * 100_000, "]" * 9, "[" * 2_000 + '"' + '\\"' * 200_000, "[" * 2_000 + "]" * 1_999],
    ids=["arrays", "objects", "ends", "quotes", "one short"],
)
def test_what_is_no_json_stays_an_error(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_json(text.encode())


@pytest.mark.parametrize("item", ["[]", "{}", "1", '"ā"', '{"a":{}}', "[1,{}]", '"}"', r'"\""'])
def test_json_of_more_values_than_fit_into_the_memory_is_refused_before_it_is_parsed(
    item: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = f'{{"items":[{",".join([item] * 3_000_000)}]}}'
    monkeypatch.setattr(fields.json, "loads", lambda *_, **__: pytest.fail("it was parsed"))
    for content in (text.encode(), text.encode("utf-16")):
        with pytest.raises(ValueError, match="too many"):
            parse_json(content)


def test_twenty_megabytes_of_what_people_say_are_read() -> None:
    said = {
        "speaker": {"display_name": "Ana", "email": None},
        "text": 'Well, "yes", {no}, [maybe]. ' * 5,
        "at": "00:00",
    }
    assert len(parse_json(json.dumps([said] * 100_000).encode())) == 100_000


def test_numbers_without_end_are_infinite() -> None:
    digits = "9" * 5_000
    value = parse_json(f'{{"a": {digits}, "b": -{digits}, "c": 1e400, "d": {digits}.5, "e": {"9" * 4_000}}}'.encode())
    assert [value[name] for name in "abcd"] == [math.inf, -math.inf, math.inf, math.inf]
    assert value["e"] == 10**4_000 - 1


@QUICK
@given(odd_fields | st.dictionaries(st.sampled_from(["a", "b"]), odd_fields))
@example("9" * 5_000 + ":00:00")
@example("9" * 400 + ":00:00.5")
def test_whatever_a_field_holds_is_a_value_or_an_item_error(value: Any) -> None:
    for read in (fields.get_text, fields.get_number, fields.get_instant, fields.get_list, fields.get_object):
        for holder in (value, {"a": value}, {"a": {"b": value}}):
            for path in ("a", "a.b"):
                found = outcome(lambda read=read, holder=holder, path=path: read(holder, path))
                assert not isinstance(found, ImportPipelineError) or isinstance(found, ItemError)
                fields.get_id(holder, path)
                fields.peek(holder, path)
    if isinstance(value, str):
        fields.clock_seconds(value)
        fields.iso_duration_seconds(value)
        fields.iso_duration_seconds(f"PT{value}S")


# --- refusals and tokens ------------------------------------------------------------------------------------------

headers = st.dictionaries(
    st.sampled_from(["Retry-After", "RateLimit-Reset", "X-RateLimit-Reset", "Date", "X-Request-Id", "Cf-Ray"]),
    st.sampled_from((*INSTANTS, *CLOCKS, "9" * 5_000, "1e400", "-1", "٣", "NaN", "Infinity", "Mon, 99 Foo 99999"))
    | st.text(max_size=30),
)


@QUICK
@given(headers, odd_fields | st.dictionaries(st.sampled_from(["error", "message", "code", "errors"]), odd_fields))
def test_a_refusal_is_told_in_one_harmless_line(given_headers: dict[str, str], body: Any) -> None:
    raw = [(name.encode(), value.encode("utf-8", "replace")) for name, value in given_headers.items()]
    response = httpx.Response(429, headers=raw, content=json.dumps(body).encode())
    silence = silence_asked(response)
    assert silence is None or 0 <= silence <= 366 * 86_400
    for told in (*describe_body(response), request_id(response)):
        assert told is None or (is_harmless(told) and "\n" not in told and len(told) <= 201)


TOKENS = (
    '{"access_token":"x","expires_in":1e400}',
    '{"access_token":"x","expires_in":%s}' % ("9" * 400),
    '{"access_token":"x","expires_in":%s}' % ("9" * 5_000),
    '{"access_token":"x","expires_in":NaN,"scope":{"a":1}}',
    '{"access_token":"x","expires_in":-1,"scope":[1,null]}',
    '{"access_token":["x"],"refresh_token":{}}',
    '{"access_token":"' + "x" * 1_000_000 + '"}',
    '{"access_token":"x\\r\\nEvil: 1","token_type":[],"refresh_token":5}',
    '{"error":{"a":[]},"error_description":"\\u001b]0;owned"}',
    '{"error":"invalid_grant\\u0000","error_description":' + "[" * 5_000 + "]" * 5_000 + "}",
    "[" * 100_000,
    "null",
)
OAUTH = OAuth("https://a.example", "https://b.example", (), client_authentication="body")
APP = {"client_id": "c", "client_secret": "s", "refresh_token": "r"}


@pytest.mark.parametrize("answer", TOKENS, ids=range(len(TOKENS)))
@pytest.mark.parametrize("status", [200, 400])
def test_an_odd_answer_for_a_token_is_a_token_or_an_error_of_ours(
    site: Site, answer: str, status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("import_pipeline.providers.http.attempts._JITTER", lambda _: 0.0)
    site.say = lambda _: Response(status, answer.encode())  # type: ignore[method-assign]
    token = outcome(lambda: request_token("Demo", OAUTH, APP, token_url=site.url, sleep=lambda _: None))
    if isinstance(token, ImportPipelineError):
        assert is_harmless(str(token))
        assert len(str(token)) < 600
    else:
        assert isinstance(token["access_token"], str)
        json.dumps(token, allow_nan=False)


@given(st.fixed_dictionaries({"access_token": st.just("x") | odd_fields}, optional={
    "expires_in": odd_fields, "scope": odd_fields, "refresh_token": odd_fields, "error": odd_fields,
}))  # fmt: skip
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_answer_for_a_token_is_a_token_or_an_error_of_ours(site: Site, answer: dict[str, Any]) -> None:
    body = json.dumps(answer).encode()
    site.say = lambda _: Response(200, body)  # type: ignore[method-assign]
    token = outcome(lambda: request_token("Demo", OAUTH, APP, token_url=site.url, sleep=lambda _: None))
    assert is_harmless(str(token)) if isinstance(token, ImportPipelineError) else isinstance(token["access_token"], str)


# --- listings without end -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("items", [[], [{"id": 1}]], ids=["nothing", "the same"])
def test_a_listing_that_goes_on_for_ever_without_news_is_left(site: Site, client: HttpClient, items: list[Any]) -> None:
    site.say = lambda _: Response.json({"items": items, "next": f"token-{len(site.requests)}"})  # type: ignore[method-assign]
    with pytest.raises(SourceUnavailableError, match="in a circle"):
        for _ in client.pages("/calls", {}, "after", "next"):
            pass
    assert len(site.requests) <= MAX_PAGES_WITHOUT_NEWS + 2


def test_empty_pages_now_and_then_are_no_circle(site: Site, client: HttpClient) -> None:
    last = 6 * MAX_PAGES_WITHOUT_NEWS

    def say(_: Request) -> Response:
        number = len(site.requests)
        page: dict[str, Any] = {"items": [] if number % MAX_PAGES_WITHOUT_NEWS else [number]}
        return Response.json(page | ({"next": f"token-{number}"} if number < last else {}))

    site.say = say  # type: ignore[method-assign]
    assert sum(len(page["items"]) for page in client.pages("/calls", {}, "after", "next")) == 6


@pytest.mark.parametrize(
    "token",
    ["x" * 1_000_000, "\ud800", ["a"], {"a": 1}, 10**400, True, "a\r\nEvil: 1", "&x=1#", *NASTY[:3]],
    ids=lambda token: type(token).__name__,
)
def test_a_page_token_of_any_shape_is_sent_as_one_or_ends_the_listing(
    site: Site, client: HttpClient, token: Any
) -> None:
    body = json.dumps({"items": [], "next": token}).encode()
    site.say = lambda request: Response(200, b"{}" if "after=" in request.target else body)  # type: ignore[method-assign]
    pages = outcome(lambda: list(client.pages("/calls", {}, "after", "next")))
    if isinstance(pages, HttpError):
        assert pages.error_class == "data"
        assert len(str(pages)) < 200
    else:
        assert len(pages) == 2
        assert list(site.requests[-1].query) == ["after"]
        assert "evil" not in site.requests[-1].headers


# --- other addresses ----------------------------------------------------------------------------------------------

ELSEWHERE = [
    "file:///etc/passwd",
    "ftp://127.0.0.1/x",
    "gopher://127.0.0.1:9/x",
    "data:text/plain,WEBVTT",
    "//[",
    "http://[::1",
    "http://a\r\nEvil: 1/",
    "\\\\server\\share",
    "javascript:alert(1)",
    "http://user:pass@/",
    "",
    "http://\ud800/",
]


@pytest.mark.parametrize("address", ELSEWHERE, ids=range(len(ELSEWHERE)))
def test_a_redirect_to_something_else_is_an_error_of_the_item(site: Site, client: HttpClient, address: str) -> None:
    location = address.encode("utf-8", "replace").decode("latin-1").replace("\r\n", "%0d%0a")
    site.say = lambda _: Response(302, headers={"Location": location})  # type: ignore[method-assign]
    with pytest.raises((HttpError, SourceUnavailableError)) as caught:
        client.get_bytes("/file")
    assert is_harmless(str(caught.value))
    assert all("evil" not in record.headers for record in site.requests)


@pytest.mark.parametrize("address", ELSEWHERE, ids=range(len(ELSEWHERE)))
def test_a_link_to_something_else_is_an_error_of_the_item(client: HttpClient, address: str) -> None:
    answer = outcome(lambda: client.get_bytes(address))
    assert is_harmless(str(answer)) if isinstance(answer, HttpError) else answer == b"{}", "A path of the site's own."


def test_who_is_asked_over_https_is_never_followed_to_http(site: Site) -> None:
    """Where a machine keeps its cloud's credentials, and most of what is inside a network, speaks http."""
    with HttpClient("Demo", "https://demo.invalid/v1", max_attempts=1) as client:
        with pytest.raises(HttpError, match="from https to an address that is none") as caught:
            client.get_bytes(f"{site.url}/latest/meta-data/")
        assert caught.value.error_class == "permanent"
        location = {"Location": f"{site.url}/latest/meta-data/"}
        client._client._transport = httpx.MockTransport(
            lambda _: httpx.Response(302, headers=location, stream=httpx.ByteStream(b""))
        )
        client._client._mounts.clear()
        with pytest.raises(HttpError, match="from https to an address that is none"):
            client.get_bytes("/file")
    assert not site.requests


# --- more than there is room or time for --------------------------------------------------------------------------


def flood(connection: socket.socket) -> None:
    connection.recv(65_536)
    connection.sendall(b"HTTP/1.1 200 OK\r\n")
    line = b"X-Flood: " + b"a" * 1_000 + b"\r\n"
    for _ in range(200_000):
        connection.sendall(line)


def hints(connection: socket.socket) -> None:
    connection.recv(65_536)
    for _ in range(2_000_000):
        connection.sendall(b"HTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\n")


def chunks(connection: socket.socket) -> None:
    connection.recv(65_536)
    connection.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    for _ in range(100_000_000):
        connection.sendall(b"1\r\na\r\n" * 10_000)


def extension(connection: socket.socket) -> None:
    connection.recv(65_536)
    connection.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1;")
    for _ in range(100_000):
        connection.sendall(b"a" * 10_000)


@pytest.mark.parametrize("attack", [flood, hints, chunks, extension], ids=lambda attack: attack.__name__)
def test_an_answer_without_end_is_left(
    attack: Callable[[socket.socket], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("IMPORT_PIPELINE_MAX_RESPONSE_MB", "1")
    monkeypatch.setenv("IMPORT_PIPELINE_HTTP_TIMEOUT", "0.5")
    with ExitStack() as stack:
        listener = stack.enter_context(closing(socket.create_server(("127.0.0.1", 0))))

        def serve() -> None:
            try:
                connection, _ = listener.accept()
                with connection:
                    attack(connection)
            except OSError:
                pass

        threading.Thread(target=serve, daemon=True).start()
        client = stack.enter_context(
            HttpClient("Demo", f"http://127.0.0.1:{listener.getsockname()[1]}", max_attempts=1)
        )
        with pytest.raises(HttpError) as caught:
            client.get_json("/x")
    assert is_harmless(str(caught.value))


@pytest.mark.timeout(120)  # it would be hours
def test_captions_full_of_signs_take_no_time(site: Site, client: HttpClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever uploads a video writes its captions, and the library looks for tags with the square of their length."""
    monkeypatch.setenv("IMPORT_PIPELINE_YOUTUBE_SITE_URL", site.url)
    pages = {
        "many": b"".join(b'<text start="1" dur="1">%b</text>' % (b"&lt;" * 4_000) for _ in range(5)),
        "long": b'<text start="1" dur="1">%b</text>' % (b"&lt;" * 200_000),
        "plain": b'<text start="1"><![CDATA[%b]]></text>' % (b"<" * 200_000),
        "entities": b"&a;",
        "odd times": b'<text start="nan" dur="inf">a</text><text start="1e400" dur="-1">b</text>',
        "no times": b"<text>a</text>",
    }
    prologue = b'<!DOCTYPE x [<!ENTITY a "aaaaaaaaaa">]>'
    for name, texts in pages.items():
        content = (
            b'<?xml version="1.0"?>' + prologue * (name == "entities") + b"<transcript>" + texts + b"</transcript>"
        )
        listed = {
            "playabilityStatus": {"status": "OK"},
            "captions": {
                "playerCaptionsTracklistRenderer": {
                    "captionTracks": [
                        {
                            "baseUrl": f"{site.url}/captions",
                            "name": {"runs": [{"text": "English"}]},
                            "languageCode": "en",
                        }
                    ]
                }
            },
        }

        def say(request: Request, content: bytes = content, listed: Any = listed) -> Response:
            if request.path == "/captions":
                return Response(200, content, "text/xml")
            if request.path == "/watch":
                return Response.html('<html>"INNERTUBE_API_KEY": "key"</html>')
            return Response.json(listed)

        site.say = say  # type: ignore[method-assign]
        captions = outcome(lambda: _youtube_site.read_captions("aaaaaaaaaaa", "en", client))
        assert isinstance(captions, ItemError if name in ("long", "plain", "entities", "no times") else tuple), name


@QUICK
@given(nasty_text)
def test_no_address_of_a_video_breaks_its_check(text: str) -> None:
    named = outcome(lambda: _youtube_site.parse_address(text))
    assert isinstance(named, ImportPipelineError) or all(named)
