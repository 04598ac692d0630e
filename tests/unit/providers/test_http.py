"""Asking a provider: what is tried again and what is not, silence, deadlines, bounds, and where the credential goes."""

from __future__ import annotations

import gzip
import json
import logging
import socket
import threading
import time
import traceback
import tracemalloc
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from fakes import QUICK_KINDS, FakeServer
from fakes.server import Request, Response
from hypothesis import given
from hypothesis import strategies as st

from import_pipeline.errors import HttpError, RateLimitedError, ReconnectError, SourceUnavailableError, StoppedError
from import_pipeline.providers.error_answers import describe_body, redact, silence_asked
from import_pipeline.providers.http import HttpClient
from import_pipeline.providers.rate_budgets import Permit

KEY = "key+Canary&4711=="


@dataclass(kw_only=True, eq=False)
class Site(FakeServer):
    """Answers as a test says: the answers for a path in their order, of which the last one stays."""

    answers: dict[str, list[Any]] = field(default_factory=dict)

    def identify(self, request: Request) -> None:
        request.credential = "somebody"

    def answer(self, request: Request, *_: Any) -> Response:
        with self.lock:
            waiting = self.answers.get(request.path) or self.answers.get("*") or [Response.json({"path": request.path})]
            answer = waiting.pop(0) if len(waiting) > 1 else waiting[0]
        return answer(request) if callable(answer) else answer  # type: ignore[no-any-return]

    @property
    def targets(self) -> list[str]:
        return [record.target for record in self.requests]


@dataclass(eq=False)
class Key:
    """A credential: a header or a query parameter, and what replaces it when it is refused."""

    header: str | None = "X-Api-Key"
    parameter: str | None = None
    present: str = KEY
    others: list[str] = field(default_factory=list)
    kind: str = "api-key"
    renewals: int = 0

    @property
    def secrets(self) -> Sequence[str]:
        return [self.present]

    def sign(self, request: httpx.Request) -> None:
        if self.header:
            request.headers[self.header] = self.present
        if self.parameter:
            request.url = request.url.copy_set_param(self.parameter, self.present)

    def renew(self, refused: httpx.Request) -> bool:
        self.renewals += 1
        if self.others:
            self.present = self.others.pop(0)
            return True
        return False


@dataclass(eq=False)
class Ledger:
    """A budget that lets everything through and notes what it is told."""

    has_room: bool = True
    taken: list[Sequence[str]] = field(default_factory=list)
    settled: int = 0
    blocked: list[float] = field(default_factory=list)

    def take(self, names: Sequence[str]) -> Permit:
        self.taken.append(names)
        return Permit(tuple(names), 0.0, 0.0, 0.0, self.has_room)

    def note_answered(self, permit: Permit) -> None:
        self.settled += 1

    def block(self, seconds: float, names: Sequence[str]) -> None:
        self.blocked.append(seconds)


@pytest.fixture
def site() -> Iterator[Site]:
    with Site() as running:
        yield running


@pytest.fixture
def other() -> Iterator[Site]:
    with Site() as running:
        yield running


@pytest.fixture
def pauses() -> list[float]:
    return []


@pytest.fixture
def client(site: Site, pauses: list[float]) -> Iterator[HttpClient]:
    """Asks the site with a key, and notes its pauses instead of making them."""
    with HttpClient("Demo", site.url, Key(), sleep=pauses.append) as opened:
        yield opened


@contextmanager
def raw_server(*scripts: Callable[[socket.socket], None]) -> Iterator[str]:
    """Give each connection the next script (the last one stays), and close it afterwards."""
    waiting = list(scripts)
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                script = waiting.pop(0) if len(waiting) > 1 else waiting[0]
                threading.Thread(target=run, args=(script, connection), daemon=True).start()

        def run(script: Callable[[socket.socket], None], connection: socket.socket) -> None:
            with connection:
                try:
                    script(connection)
                except OSError:
                    return

        threading.Thread(target=serve, daemon=True).start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        listener.shutdown(socket.SHUT_RDWR)


def read_request(connection: socket.socket) -> bytes:
    data = b""
    while b"\r\n\r\n" not in data:
        chunk = connection.recv(65536)
        if not chunk:
            raise OSError("hung up")
        data += chunk
    return data


def saying(*parts: bytes, pause: float = 0.0) -> Callable[[socket.socket], None]:
    """Read a request, and say these bytes."""

    def script(connection: socket.socket) -> None:
        read_request(connection)
        for part in parts:
            connection.sendall(part)
            time.sleep(pause)

    return script


def ok(body: bytes, *headers: str) -> bytes:
    return "\r\n".join(["HTTP/1.1 200 OK", f"Content-Length: {len(body)}", *headers, "", ""]).encode() + body


def errors_of(call: Callable[[], object]) -> HttpError:
    with pytest.raises(HttpError) as caught:
        call()
    return caught.value


# What is tried again


@pytest.mark.parametrize("kind", [*QUICK_KINDS, "408", "504", "521"])
def test_what_passes_by_itself_is_tried_again(site: Site, client: HttpClient, pauses: list[float], kind: str) -> None:
    """F45."""
    site.faults.next_faults = [kind]
    assert client.get_json("/calls") == {"path": "/calls"}
    assert len(site.requests) == 2
    assert len(pauses) == 1


@pytest.mark.parametrize(
    ("status", "error_class"), [(400, "permanent"), (403, "auth"), (404, "permanent"), (410, "permanent")]
)
def test_what_is_refused_for_good_is_asked_once(site: Site, client: HttpClient, status: int, error_class: str) -> None:
    site.answers["*"] = [
        Response.json({"error": {"code": "no_such_call", "message": "There is no such call."}}, status)
    ]
    error = errors_of(lambda: client.get_json("/calls/1"))
    assert (error.status, error.code, error.error_class) == (status, "no_such_call", error_class)
    assert str(error) == f"Demo answered GET /calls/1 with {status}: There is no such call."
    assert len(site.requests) == 1


def test_pauses_grow_with_full_jitter_and_end(site: Site, client: HttpClient, pauses: list[float]) -> None:
    """F45."""
    site.answers["*"] = [Response.json({}, 500)]
    for _ in range(40):
        with pytest.raises((HttpError, SourceUnavailableError)):
            client.get_json("/")
    rounds = [pauses[start : start + 9] for start in range(0, len(pauses), 9)]
    assert len(site.requests) == 400
    for number, of_this_attempt in enumerate(zip(*rounds, strict=True)):
        longest = min(30.0, 0.5 * 2**number)
        assert max(of_this_attempt) <= longest
        assert min(of_this_attempt) < 0.3 * longest
        assert max(of_this_attempt) > 0.7 * longest


def test_requests_that_fail_in_a_row_mean_that_the_source_is_down(site: Site, client: HttpClient) -> None:
    site.answers |= {"/gone": [Response.json({}, 404)], "/down": [Response.json({}, 503)]}
    for path in ("/down", "/down", "/gone", "/down", "/down", "/up", "/down", "/down"):
        if path == "/up":
            client.get_json(path)
        else:
            error = errors_of(lambda path=path: client.get_json(path))  # type: ignore[misc]
            assert error.error_class == ("permanent" if path == "/gone" else "transient")
    with pytest.raises(SourceUnavailableError, match="3 requests in a row"):
        client.get_json("/down")


BROKEN = {
    "gzip cut": ok(gzip.compress(b'{"a": 1}')[:-6], "Content-Encoding: gzip"),
    "gzip cut, no length": b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Encoding: gzip\r\n\r\n"
    + gzip.compress(b'{"a": 1}' * 99)[:-12],
    "no gzip": ok(b"not gzip at all", "Content-Encoding: gzip"),
    "last chunk missing": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n8\r\n" + b'{"a": 1}\r\n',
    "cut, no length": b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" + b'{"a": ',
    "cut": b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{}",
    "no HTTP": b"this is no HTTP\r\n\r\n",
    "list": ok(b"[1, 2]"),
    "null": ok(b"null"),
    "nothing": ok(b""),
    "no text": ok(b"\xff\xfe\xff"),
    "too deep": ok(b"[" * 100_000),
}


@pytest.mark.parametrize("answer", BROKEN.values(), ids=BROKEN)
def test_a_cut_or_invalid_body_counts_as_broken(answer: bytes, pauses: list[float]) -> None:
    with (
        raw_server(saying(answer), saying(ok(b'{"whole": true}'))) as url,
        HttpClient("Demo", url, sleep=pauses.append) as client,
    ):
        assert client.get_json("/") == {"whole": True}
        assert pauses  # twice, where the client came upon the old connection before its end arrived


def test_a_cut_file_is_not_taken_for_a_whole_one() -> None:
    whole = b"WEBVTT\n\n" + b"00:00:01.000 --> 00:00:02.000\nHello.\n\n" * 50
    packed = gzip.compress(whole)
    head = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Encoding: gzip\r\n\r\n"
    with (
        raw_server(saying(head + packed[: len(packed) // 2]), saying(head + packed)) as url,
        HttpClient("Demo", url, sleep=lambda _: None) as client,
    ):
        assert client.get_bytes("/file.vtt") == whole


def test_a_connection_that_went_stale_is_survived(pauses: list[float]) -> None:
    def once_and_away(connection: socket.socket) -> None:
        read_request(connection)
        connection.sendall(ok(b'{"n": 1}'))
        if len(pauses) == 0:
            read_request(connection)  # the next request arrives and the connection is closed without an answer

    with (
        raw_server(once_and_away, saying(ok(b'{"n": 2}')), saying(ok(b'{"n": 3}'))) as url,
        HttpClient("Demo", url, sleep=pauses.append) as client,
    ):
        assert client.get_json("/") == {"n": 1}
        assert client.get_json("/") == {"n": 2}
        assert len(pauses) == 1
        time.sleep(0.2)  # the server has closed meanwhile, which is seen before anything is sent
        assert client.get_json("/") == {"n": 3}
        assert len(pauses) == 1


# Silence


def retry_after(text: str, **headers: str) -> float | None:
    return silence_asked(httpx.Response(429, headers={"Retry-After": text, **headers}))


def test_silence_is_understood_in_every_form() -> None:
    """F45."""
    now = datetime.now(UTC)
    their_now = now + timedelta(days=3)  # their clock may be wrong, or ours
    date = {"Date": format_datetime(their_now, usegmt=True)}
    assert retry_after("7") == 7
    assert retry_after(" 0.25 ") == 0.25
    assert retry_after(format_datetime(their_now + timedelta(seconds=30), usegmt=True), **date) == 30
    iso = f"{their_now + timedelta(seconds=30):%Y-%m-%dT%H:%M:%SZ}"
    assert retry_after(iso, **date) == 30
    assert retry_after(iso.replace("Z", "+00:00"), **date) == 30
    assert retry_after(str(int(their_now.timestamp()) + 30), **date) == pytest.approx(30, abs=1)
    assert retry_after(f"{now + timedelta(hours=1):%Y-%m-%dT%H:%M:%SZ}") == pytest.approx(3600, abs=5)
    assert retry_after(format_datetime(now - timedelta(days=1), usegmt=True)) == 0
    assert silence_asked(httpx.Response(429, headers={"RateLimit-Reset": "12"})) == 12
    assert silence_asked(httpx.Response(429, headers={"X-RateLimit-Reset": "12"})) == 12
    assert silence_asked(httpx.Response(200, headers={"RateLimit-Reset": "12"})) is None
    assert silence_asked(httpx.Response(503, headers={"Retry-After": "3"})) == 3
    assert retry_after("soon") is None
    assert silence_asked(httpx.Response(429)) is None


@given(
    st.one_of(
        st.text(st.characters(max_codepoint=255, exclude_characters="\r\n"), max_size=40),
        st.integers(min_value=-(10**40), max_value=10**40).map(str),
        st.datetimes().map(datetime.isoformat),
        st.datetimes(timezones=st.just(UTC)).map(lambda when: format_datetime(when, usegmt=True)),
        st.sampled_from(["Fri, 31 Dec 99999999999999999999 23:59:59 GMT", "0001-01-01T00:00:00+23:59", "9" * 400]),
    ),
    st.sampled_from(["", "nonsense", "Fri, 31 Dec 9999 23:59:59 GMT", "Sun, 22 Nov 2026 10:00:00 GMT"]),
)
def test_no_retry_after_breaks_the_client(text: str, date: str) -> None:
    headers = [(b"Retry-After", text.encode("latin-1")), (b"Date", date.encode())]
    seconds = silence_asked(httpx.Response(429, headers=headers))
    assert seconds is None or 0 <= seconds <= 366 * 86400


def test_nothing_is_sent_before_retry_after_has_passed() -> None:
    """F45."""

    def ask(kind: str) -> list[bool]:
        with Site() as site, HttpClient("Demo", site.url) as client:
            site.faults.next_faults = [kind]
            client.get_json("/")
            assert [record.status for record in site.requests] == [429, 200]
            return [record.came_early for record in site.requests]

    with ThreadPoolExecutor(3) as executor:
        assert [*executor.map(ask, ["429-retry-after", "429-date", "429-iso"])] == [[False, False]] * 3


def test_silence_holds_for_other_threads_before_it_is_stored(site: Site) -> None:
    """F45."""
    site.faults.retry_after_seconds, site.faults.fractional_retry_after = 0.5, True
    site.faults.next_faults = ["429-retry-after"]
    with HttpClient("Demo", site.url, budget=Ledger()) as client, ThreadPoolExecutor(2) as executor:
        refused = executor.submit(client.get_json, "/refused")
        while not client._leave.silent_until:
            time.sleep(0.001)
        executor.submit(client.get_json, "/other").result()
        refused.result()
    assert len(site.requests) == 3
    assert site.early_requests == []


def test_a_long_silence_is_not_waited_for(site: Site, pauses: list[float]) -> None:
    """F45, F46."""
    budget = Ledger()
    site.answers["*"] = [Response.json({"error": "Daily limit"}, 429, Retry_After="7200")]
    with HttpClient("Demo", site.url, budget=budget, sleep=pauses.append) as client:
        error = errors_of(lambda: client.get_json("/"))
    assert isinstance(error, RateLimitedError)
    assert error.retry_at is not None
    assert abs(error.retry_at - datetime.now(UTC) - timedelta(hours=2)) < timedelta(minutes=1)
    assert budget.blocked == [7200]
    assert len(site.requests) == 1
    assert pauses == []


def test_a_limit_that_is_no_429_is_recognised(site: Site) -> None:
    """F45."""
    tomorrow = datetime.now(UTC) + timedelta(hours=20)
    budget = Ledger()
    site.answers["*"] = [Response.json({"error": {"errors": [{"reason": "quotaExceeded"}]}}, 403)]
    with HttpClient(
        "Demo",
        site.url,
        budget=budget,
        limit_ends_at=lambda response: tomorrow if describe_body(response)[0] == "quotaExceeded" else None,
    ) as client:
        error = errors_of(lambda: client.get_json("/"))
    assert (type(error), error.error_class, error.code) == (RateLimitedError, "rate", "quotaExceeded")
    assert budget.blocked == [pytest.approx(20 * 3600, abs=60)]


def test_after_being_refused_again_and_again_everybody_is_silent_for_a_while(site: Site, pauses: list[float]) -> None:
    budget = Ledger()
    site.answers["*"] = [Response.json({}, 429)]
    with HttpClient("Demo", site.url, budget=budget, sleep=pauses.append) as client:
        error = errors_of(lambda: client.get_json("/"))
    assert isinstance(error, RateLimitedError)
    assert budget.blocked == [900]
    assert (len(budget.taken), budget.settled) == (10, 10)


def test_a_provider_without_room_is_believed_if_we_think_there_is(site: Site) -> None:
    full = Response.json({}, RateLimit_Limit="60", RateLimit_Remaining="0", RateLimit_Reset="17")
    site.answers["*"] = [full]
    for has_room, blocked in ((True, [17.0]), (False, [])):
        budget = Ledger(has_room)
        with HttpClient("Demo", site.url, budget=budget) as client:
            client.get_json("/")
        assert budget.blocked == blocked
    for headers in ({"RateLimit_Remaining": "3", "RateLimit_Reset": "17"}, {"RateLimit_Remaining": "none"}, {}):
        site.answers["*"] = [Response.json({}, **headers)]
        budget = Ledger()
        with HttpClient("Demo", site.url, budget=budget) as client:
            client.get_json("/")
        assert budget.blocked == []


def test_every_request_is_counted_and_settled_whatever_becomes_of_it(site: Site, client: HttpClient) -> None:
    budget = Ledger()
    site.answers |= {"/gone": [Response.json({}, 404)], "/away": [Response(302, headers={"Location": "/calls"})]}
    site.faults.next_faults = ["500", "disconnect", "truncated"]
    with HttpClient("Demo", site.url, budget=budget, sleep=lambda _: None) as asking:
        asking.get_json("/calls", budgets=("requests", "heavy"))
        errors_of(lambda: asking.get_json("/gone"))
        asking.get_json("/away")
    assert len(site.requests) == len(budget.taken) == budget.settled == 7
    assert budget.taken[0] == ("requests", "heavy")


# Deadlines


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IMPORT_PIPELINE_HTTP_TIMEOUT", "0.1")
    monkeypatch.setitem(HttpClient.__init__.__kwdefaults__, "max_attempts", 1)


def drip(first: bytes, rest: bytes) -> Callable[[socket.socket], None]:
    def script(connection: socket.socket) -> None:
        read_request(connection)
        connection.sendall(first)
        for index in range(len(rest)):
            connection.sendall(rest[index : index + 1])
            time.sleep(0.05)

    return script


SLOW = {
    "header": drip(b"", b"HTTP/1.1 200 OK\r\nX-Slow: " + b"a" * 200),
    "body": drip(b"HTTP/1.1 200 OK\r\nContent-Length: 200\r\n\r\n", b" " * 199),
    "chunks": drip(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\n \r\n" * 40),
    "hung": saying(b"", pause=10.0),
    "packs of nothing": saying(ok(gzip.compress(b"") * 2_000_000, "Content-Encoding: gzip")),
}


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("slow", SLOW)
def test_an_answer_that_never_ends_is_given_up(slow: str) -> None:
    """F49."""
    with raw_server(SLOW[slow]) as url, HttpClient("Demo", url) as client:
        assert str(errors_of(lambda: client.get_json("/"))) == "Demo did not answer GET / in time."


@pytest.mark.parametrize("waits_for", ["an answer", "the rest of an answer", "the end of a silence"])
def test_whatever_it_waits_for_ends_when_the_run_is_stopped(waits_for: str) -> None:
    """F60."""
    arrived = threading.Event()

    def script(connection: socket.socket) -> None:
        read_request(connection)
        said = {
            "an answer": b"",
            "the rest of an answer": b"HTTP/1.1 200 OK\r\nContent-Length: 200\r\n\r\n",
            "the end of a silence": b"HTTP/1.1 503 Busy\r\nRetry-After: 200\r\nContent-Length: 0\r\n\r\n",
        }
        connection.sendall(said[waits_for])
        arrived.set()
        over.wait(20)

    over = threading.Event()
    with raw_server(script) as url, HttpClient("Demo", url) as client, ThreadPoolExecutor(1) as executor:
        asked = executor.submit(client.get_json, "/")
        assert arrived.wait(20)
        client.stop()
        assert isinstance(asked.exception(timeout=10), StoppedError)
        with pytest.raises(StoppedError):
            client.get_json("/")
        over.set()


@pytest.mark.usefixtures("impatient")
def test_an_answer_that_never_ends_is_given_up_behind_a_proxy_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """F49."""
    with raw_server(SLOW["body"]) as url:
        monkeypatch.setenv("HTTP_PROXY", url)
        with HttpClient("Demo", "http://api.example.test") as client:
            assert "in time" in str(errors_of(lambda: client.get_json("/")))


@pytest.mark.usefixtures("impatient")
def test_a_server_that_accepts_no_connection_is_given_up() -> None:
    """F49."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as listener:
        full = []
        for _ in range(4):  # the queue is full, and further attempts are not answered
            connection = socket.socket()
            connection.setblocking(False)
            connection.connect_ex(listener.getsockname())
            full.append(connection)
        with HttpClient("Demo", f"http://127.0.0.1:{listener.getsockname()[1]}") as client:
            assert "in time" in str(errors_of(lambda: client.get_json("/")))
        for connection in full:
            connection.close()


def test_a_proxy_of_the_environment_is_used(site: Site, other: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", site.origin)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with HttpClient("Demo", "http://api.example.test/v1") as client:
        client.get_json("/calls")
    with HttpClient("Demo", other.url) as client:
        client.get_json("/direct")
    assert [record.headers["host"] for record in site.requests] == ["api.example.test"]
    assert other.targets == ["/direct"]


# Size


def test_too_large_an_answer_is_refused(site: Site, client: HttpClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IMPORT_PIPELINE_MAX_RESPONSE_MB", "1")
    bomb = gzip.compress(bytes(200_000_000))
    site.answers |= {
        "/plain": [Response(200, bytes(1_000_001))],
        "/bomb": [Response(200, bomb, headers={"Content-Encoding": "gzip"})],
        "/twice": [Response(200, gzip.compress(bomb), headers={"Content-Encoding": "gzip, gzip"})],
        "/other": [Response(200, zlib.compress(bytes(1000)), headers={"Content-Encoding": "deflate"})],
        "/zstd": [Response(200, bytes(1000), headers={"Content-Encoding": "zstd"})],
        "/fits": [Response(200, gzip.compress(bytes(1_000_000)), headers={"Content-Encoding": "GZIP"})],
    }
    with HttpClient("Demo", site.url) as small:
        tracemalloc.start()
        try:
            for path in ("/plain", "/bomb", "/twice", "/other", "/zstd"):
                error = errors_of(lambda path=path: small.get_bytes(path))  # type: ignore[misc]
                assert error.error_class == "data"
                assert ("more than 1 MB" in str(error)) == (path in ("/plain", "/bomb"))
            assert tracemalloc.get_traced_memory()[1] < 20_000_000
        finally:
            tracemalloc.stop()
        assert small.get_bytes("/fits") == bytes(1_000_000)
    assert len(site.requests) == 6


@pytest.mark.parametrize("encoding", ["identity", "gzip"])
def test_an_endless_answer_is_left(encoding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IMPORT_PIPELINE_MAX_RESPONSE_MB", "1")
    monkeypatch.setitem(HttpClient.__init__.__kwdefaults__, "max_attempts", 1)

    def pour(connection: socket.socket) -> None:
        read_request(connection)
        connection.sendall(f"HTTP/1.1 200 OK\r\nContent-Encoding: {encoding}\r\n\r\n".encode())
        packer = zlib.compressobj(0, wbits=31)
        while True:
            connection.sendall(bytes(100_000) if encoding == "identity" else packer.compress(bytes(100_000)))

    with raw_server(pour) as url, HttpClient("Demo", url) as client:
        assert "more than 1 MB" in str(errors_of(lambda: client.get_bytes("/")))


# Where the credential goes


@pytest.mark.parametrize("key", [Key(), Key("Authorization", present=f"Bearer {KEY}"), Key(None, "key")])
def test_a_redirect_to_another_host_does_not_carry_the_credential(site: Site, other: Site, key: Key) -> None:
    def away(request: Request) -> Response:
        return Response(302, headers={"Location": f"{other.url}/file?{request.target.partition('?')[2]}&size=1"})

    site.answers["/file"] = [away]
    with HttpClient("Demo", site.url, key) as client:
        assert client.get_json("/file", {"part": "a b"}) == {"path": "/file"}
    (asked,), (followed,) = site.requests, other.requests
    assert KEY in (
        asked.headers.get("x-api-key"),
        asked.headers.get("authorization", "")[7:],
        asked.query.get("key", [""])[0],
    )
    assert followed.query == {"part": ["a b"], "size": ["1"]}
    assert all(redact(value, [KEY]) == value for value in (*followed.headers.values(), followed.target))
    assert "authorization" not in followed.headers


@pytest.mark.parametrize("key", [Key(), Key(None, "key")])
def test_a_redirect_within_the_host_carries_the_credential(site: Site, key: Key) -> None:
    site.answers["/old"] = [Response(307, headers={"Location": "/new?part=a"})]
    with HttpClient("Demo", site.url, key) as client:
        client.get_json("/old")
    assert site.requests[1].path == "/new"
    assert KEY in (site.requests[1].headers.get("x-api-key"), site.requests[1].query.get("key", [""])[0])


def test_only_requests_to_the_source_itself_draw_on_its_budget(site: Site, other: Site) -> None:
    """Where it keeps its files, it counts no requests; its own host may count each."""
    site.answers["/old"] = [Response(307, headers={"Location": "/file"})]
    site.answers["/file"] = [Response(302, headers={"Location": f"{other.url}/kept"})]
    budget = Ledger()
    with HttpClient("Demo", site.url, budget=budget) as client:
        client.get_json("/old")
    assert (len(site.requests), len(other.requests)) == (2, 1)
    assert (budget.taken, budget.settled) == ([("requests",)] * 2, 2)


def test_no_redirect_takes_a_body_to_another_host(site: Site, other: Site) -> None:
    site.answers["*"] = [Response(307, headers={"Location": f"{other.url}/token"})]
    with HttpClient("Demo", site.url) as client, pytest.raises(HttpError, match="redirects"):
        client.send("POST", f"{site.url}/token", content=b"client_secret=Canary")
    assert other.requests == []


def test_redirects_that_never_end_are_given_up(site: Site, client: HttpClient) -> None:
    site.answers["*"] = [Response(302, headers={"Location": "/again"})]
    assert errors_of(lambda: client.get_json("/")).error_class == "permanent"
    assert len(site.requests) == 6
    site.answers["*"] = [Response(302, headers={"Location": "ftp://example.test/file"})]
    assert errors_of(lambda: client.get_json("/")).error_class == "data"
    site.answers["*"] = [Response(304)]
    assert errors_of(lambda: client.get_json("/")).status == 304


@pytest.mark.parametrize(
    ("base", "address", "trusted"),
    [
        ("https://api.example.com/v2", "https://api.example.com/other", True),
        ("https://api.example.com/v2", "https://API.example.com:443/other", True),
        ("https://api.example.com:443/v2", "https://api.example.com./other", True),
        ("https://api.example.com/v2", "https://API.example.com:8443/other", False),
        ("https://api.example.com:8443/v2", "https://api.example.com/other", False),
        ("https://api.example.com/v2", "https://api.example.com../other", False),
        ("https://api.example.com/v2", "https://v2.api.example.com/other", False),
        ("https://bücher.example", "https://xn--bcher-kva.example/other", True),
        ("https://bücher.example", "https://bucher.example/other", False),
        ("https://api.example.com/v2", "http://api.example.com/v2", False),
        ("https://api.example.com", "https://example.com/file", False),
        ("https://api.example.com", "https://zoom.us/file", True),
        ("https://api.example.com", "https://us02web.zoom.us/file", True),
        ("https://api.example.com", "https://ZOOM.us.:443/file", True),
        ("https://api.example.com", "https://zoom.us:8443/file", False),
        ("https://api.example.com", "https://us02web.zoom.us:444/file", False),
        ("https://api.example.com", "http://us02web.zoom.us/file", False),
        ("https://api.example.com", "http://zoom.us:443/file", False),
        ("https://api.example.com", "https://evilzoom.us/file", False),
        ("https://api.example.com", "https://zoom.us.evil.example/file", False),
        ("https://api.example.com", "https://zoom.us@evil.example/file", False),
        ("https://api.example.com", "https://evil.example/?zoom.us", False),
        ("http://127.0.0.1:8000", "http://127.0.0.1:8000/file", True),
        ("http://127.0.0.1:8000", "https://127.0.0.1:8000/file", False),
        ("http://127.0.0.1:8000", "http://127.0.0.1:9000/file", False),
        ("http://127.0.0.1:8000", "http://localhost:8000/file", False),
        ("http://[::1]:8000", "http://[0:0:0:0:0:0:0:1]:8000/file", False),
        ("http://[::1]:8000", "http://[::1]:9000/file", False),
        ("", "https://evil.example", False),
    ],
)
def test_the_credential_goes_to_the_provider_only(base: str, address: str, trusted: bool) -> None:
    client = HttpClient("Demo", base, Key(), trusted_domains=["zoom.us"])
    try:
        request = httpx.Request("GET", client._address(address, None))
    except HttpError:
        assert not trusted
        return
    assert client._sender.sign(request) == trusted
    assert ("x-api-key" in request.headers) == trusted


def test_another_port_of_the_same_host_is_a_stranger(site: Site, other: Site) -> None:
    """Attack A10."""
    site.answers["/moved"] = [Response(302, headers={"Location": f"{other.url}/file"})]
    for key in (Key(), Key("Authorization", present=f"Bearer {KEY}"), Key(None, "key")):
        with HttpClient("Demo", site.url, key) as client:
            client.get_json(f"{other.url}/named")
            client.get_json("/moved")
    assert [record.path for record in other.requests] == ["/named", "/file"] * 3
    for record in other.requests:
        assert "authorization" not in record.headers
        assert all(redact(value, [KEY]) == value for value in (*record.headers.values(), record.target))


def test_a_refused_credential_is_renewed_once_and_the_request_repeated(site: Site) -> None:
    key = Key("Authorization", present="Bearer old", others=["Bearer new", "Bearer newer"])

    def check(request: Request) -> Response:
        return Response.json({}, 200 if request.bearer == "new" and request.path == "/calls" else 401)

    site.answers["*"] = [check]
    with HttpClient("Demo", site.url, key) as client:
        client.get_json("/calls")
        assert [record.status for record in site.requests] == [401, 200]
        error = errors_of(lambda: client.get_json("/never"))
        assert isinstance(error, ReconnectError)
        assert (error.error_class, error.status) == ("auth", 401)
        asked = len(site.requests)
        assert isinstance(errors_of(lambda: client.get_json("/calls")), ReconnectError)
        assert len(site.requests) == asked


def test_a_dead_credential_costs_no_memory_however_often_it_is_used(site: Site, client: HttpClient) -> None:
    site.answers["*"] = [Response.json({}, 401)]
    depths = [len(traceback.extract_tb(errors_of(lambda: client.get_json("/")).__traceback__)) for _ in range(20)]
    assert depths[-1] == depths[1]
    assert len(site.requests) == 1


def test_a_401_on_a_file_says_nothing_about_the_credential(site: Site, other: Site) -> None:
    key = Key(others=["another"])
    refusal = Response.json({"error": "expired link"}, 401)
    site.answers |= {"/file": [refusal], "/away": [Response(302, headers={"Location": f"{other.url}/file"})]}
    other.answers["*"] = [refusal]
    with HttpClient("Demo", site.url, key) as client:
        for ask in (
            lambda: client.get_bytes("/file"),
            lambda: client.get_json("/away"),
            lambda: client.get_json(f"http://localhost:{other.port}/elsewhere"),
        ):
            error = errors_of(ask)
            assert not isinstance(error, ReconnectError)
            assert (error.status, error.error_class) == (401, "auth")
        assert client.get_json("/calls") == {"path": "/calls"}
    assert key.renewals == 0
    with HttpClient("Demo", site.url) as client:
        assert not isinstance(errors_of(lambda: client.get_json("/file")), ReconnectError)


# Addresses


def test_addresses_arrive_as_they_are_meant(site: Site) -> None:
    with HttpClient("Demo", f"{site.url}/base/v2") as client:
        for path, params in [
            ("/meetings/%252Fabc%253D%253D/recordings", None),
            ("/meetings/a%20b;c/ü", None),
            ("/calls?a=1&b=%2F", None),
            ("/calls?a=1&b=%2F", {"c": "x y"}),
            ("/calls", {"ids": [1, "ä&b"], "none": None, "yes": True, "plus": "+"}),
            ("/calls", {"none": None}),
            (f"{site.url}/whole?sig=a%2Bb", None),
            (f"{site.url.upper()}/upper", None),
        ]:
            client.get_json(path, params)
    assert site.targets == [
        "/base/v2/meetings/%252Fabc%253D%253D/recordings",
        "/base/v2/meetings/a%20b;c/%C3%BC",
        "/base/v2/calls?a=1&b=%2F",
        "/base/v2/calls?a=1&b=%2F&c=x+y",
        "/base/v2/calls?ids=1&ids=%C3%A4%26b&yes=true&plus=%2B",
        "/base/v2/calls",
        "/whole?sig=a%2Bb",
        "/upper",
    ]


@pytest.mark.parametrize(
    "address",
    [
        "http://[::1/x",
        "http://example.test:port/x",
        "http://",
        "https:///path",
        "http://example.test/\x00",
        "/\ud800",
        "http://xn--\u00fc.example/",
        "http://xn--a.example/",
    ],
)
def test_what_is_no_address_is_an_error_of_its_own(site: Site, client: HttpClient, address: str) -> None:
    error = errors_of(lambda: client.get_bytes(address))
    assert error.error_class == "data"
    site.answers["*"] = [Response(302, headers={"Location": address.encode("utf-8", "replace").decode("latin-1")})]
    with pytest.raises((HttpError, SourceUnavailableError)):
        client.get_bytes("/file")


def test_headers_of_any_encoding_are_survived(site: Site, client: HttpClient) -> None:
    name = "attachment; filename=Gespräch.vtt"
    site.answers["*"] = [
        Response(200, b"{}", headers={"Content-Disposition": name, "X-Utf": "ü".encode().decode("latin-1")})
    ]
    assert client.get_bytes("/file") == b"{}"
    assert client.send("GET", f"{site.url}/file").headers["Content-Disposition"]


# Listings


def listing(site: Site, *pages: dict[str, Any]) -> None:
    site.answers["/calls"] = [Response.json(page) for page in pages]


def read(client: HttpClient) -> list[int]:
    return [page["n"] for page in client.pages("/calls", {"since": "x", "tags": ["a", "b"]}, "cursor", "next")]


def test_a_listing_is_read_to_its_last_page(site: Site, client: HttpClient) -> None:
    listing(site, {"n": 1, "next": "a+b"}, {"n": 2, "next": 17}, {"n": 3, "next": ""})
    assert read(client) == [1, 2, 3]
    assert client.pages_read == 3
    assert site.targets == [
        "/calls?since=x&tags=a&tags=b",
        "/calls?since=x&tags=a&tags=b&cursor=a%2Bb",
        "/calls?since=x&tags=a&tags=b&cursor=17",
    ]


def test_a_listing_whose_token_has_run_out_is_begun_anew(site: Site, client: HttpClient) -> None:
    refusal = Response.json({"error": "The page token is invalid."}, 400)
    first = Response.json({"n": 1, "next": "a"})
    site.answers["/calls"] = [first, refusal, first, Response.json({"n": 2})]
    assert read(client) == [1, 1, 2]
    assert client.pages_read == 3
    site.answers["/calls"] = [*[first, refusal] * 3, first, refusal]
    with pytest.raises(SourceUnavailableError, match="again and again"):
        read(client)
    site.answers["/calls"] = [refusal]
    assert errors_of(lambda: read(client)).status == 400


def test_a_listing_in_a_circle_ends(site: Site, client: HttpClient) -> None:
    listing(site, {"n": 1, "next": "a"}, {"n": 2, "next": "b"}, {"n": 3, "next": "a"})
    with pytest.raises(SourceUnavailableError, match="circle"):
        read(client)


# Threads


def test_threads_share_a_client(site: Site) -> None:
    site.faults.share, site.faults.kinds = 0.2, ("500", "disconnect", "truncated", "invalid-json")
    with HttpClient("Demo", site.url, Key(), sleep=lambda _: None) as client, ThreadPoolExecutor(8) as executor:
        paths = [f"/calls/{number}" for number in range(160)]
        answers = executor.map(lambda path: client.get_json(path, {"n": path[-1]}), paths)
        assert [answer["path"] for answer in answers] == paths


# What is said


@pytest.mark.parametrize(
    ("body", "code", "message"),
    [
        (b'{"error": "Not found"}', None, "Not found"),
        (b'{"error": {"code": 403, "message": "No.", "errors": [{"reason": "quotaExceeded"}]}}', "quotaExceeded", "No"),
        (b'{"code": 300, "message": "Validation Failed."}', "300", "Validation Failed"),
        (b'{"reason": "Invalid Token!", "error": "invalid_grant"}', None, "invalid_grant Invalid Token!"),
        (b'{"error": "invalid_client", "error_description": "Who?"}', None, "invalid_client Who?"),
        (b'{"error": null}', None, ""),
        (b'{"error": []}', None, ""),
        (b'{"error": {"errors": [null]}}', None, ""),
        (b'{"errorMessage": "Broken"}', None, "Broken"),
        (b'["a", "b"]', None, ""),
        (b"null", None, ""),
        (b"", None, ""),
        (b"  <html><body>Oops", None, ""),
        (b"plain\n text\x00 \x1b[31mred", None, "plain text [31mred"),
        (b"\xff\xfe", None, "��"),
        (b'{"message": "' + b"x" * 5000 + b'"}', None, "x" * 200 + "…"),
        (b"[" * 100_000, None, "[" * 200 + "…"),
    ],
)
def test_an_error_is_described_whatever_its_shape(body: bytes, code: str | None, message: str) -> None:
    assert describe_body(httpx.Response(400, content=body)) == (code, message)


def test_a_secret_is_not_told_by_another_that_it_begins_with() -> None:
    assert redact("key abcdef, then abc", ["abc", "abcdef", ""]) == "key …, then …"


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["error", "errors", "message", "code", "reason"]) | st.text(), inner, max_size=4
        )
    ),
)


@given(JSON.map(lambda document: json.dumps(document).encode()) | st.binary())
def test_no_body_breaks_the_description(body: bytes) -> None:
    code, message = describe_body(httpx.Response(400, content=body), [KEY])
    assert len(message) <= 201
    assert f"{code}{message}".isprintable()


def test_no_message_log_or_repr_holds_a_secret(
    site: Site, other: Site, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """F88."""
    for name in ("", "httpx", "httpcore", "httpcore.connection", "httpcore.http11", "httpcore.proxy", "tenacity"):
        caplog.set_level(logging.DEBUG, logger=name)
    monkeypatch.setitem(HttpClient.__init__.__kwdefaults__, "max_attempts", 2)
    key = Key(header="X-Api-Key", parameter="key")

    def echo(status: int, **headers: str) -> Callable[[Request], Response]:
        def answer(request: Request) -> Response:
            said = f"{'x' * 190} {request.target} {request.headers.get('x-api-key')} {KEY}"
            document = {"error": {"message": said, "code": request.headers.get("x-api-key")}}
            return Response.json(document, status, **headers, Set_Cookie=f"k={KEY}", X_Echo=KEY)

        return answer

    site.answers |= {
        **{f"/{status}": [echo(status)] for status in (200, 400, 401, 403, 404, 408, 410, 500)},
        "/429": [echo(429, Retry_After="9999")],
        "/text": [lambda request: Response(404, f"no {request.target}".encode(), "text/plain")],
        "/redirect": [lambda _: Response(302, headers={"Location": f"{other.url}/a?key={quote(KEY)}"})],
        "/loop": [lambda _: Response(302, headers={"Location": f"/loop?key={quote(KEY)}"})],
        "/nowhere": [lambda _: Response(302, headers={"Location": f"http://{KEY}:x/"})],
        f"/{KEY}": [echo(404)],
        "/broken": [lambda _: Response(200, KEY.encode())],
    }
    said: list[str] = []
    for path in (
        *site.answers,
        f"http://{KEY}:{KEY}@127.0.0.1:1/",
        "http://127.0.0.1:1/closed",
        "/drop",
        f"/\x00{KEY}",
    ):
        for ask in ("get_json", "get_bytes"):
            with HttpClient("Demo", site.url, key, sleep=lambda _: None) as asking:
                site.faults.always = {"/drop": "disconnect"}
                said.append(repr(asking))
                try:
                    getattr(asking, ask)(path)
                except Exception as error:  # noqa: BLE001 - whatever it is
                    code = getattr(error, "code", None)
                    said += [repr(error), str(error), str(code), "".join(traceback.format_exception(error))]
    said += [record.getMessage() + repr(record.args) for record in caplog.records]
    assert len(said) > 50
    for text in said:
        assert redact(text, [KEY, KEY[:9], "Canary"]) == text


def test_requests_say_who_asks(site: Site, client: HttpClient) -> None:
    client.get_json("/")
    assert site.requests[0].headers["user-agent"] == "import-pipeline"
    assert site.requests[0].headers["accept-encoding"] == "gzip"
