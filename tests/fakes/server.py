"""The server under every fake: HTTP/1.1 over real sockets, a log of requests, faults, and silence that is watched.

What a provider answers is in its own module; a route is a method marked with `route`.
"""

from __future__ import annotations

import itertools
import json
import math
import re
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import formatdate
from functools import cached_property
from http import HTTPStatus
from http.server import ThreadingHTTPServer
from socketserver import StreamRequestHandler
from typing import Any, ClassVar, Self, TypeVar
from urllib.parse import parse_qs

from .faults import Faults

HTML_PAGE = b"<!DOCTYPE html><html><head><title>Just a moment</title></head><body>Please stand by.</body></html>"

_EARLY_TOLERANCE = 0.005
_F = TypeVar("_F", bound=Callable[..., Any])


@dataclass(slots=True, eq=False)
class Request:
    """One request as it came over the wire.

    Args:
        method: The verb.
        target: Raw path with query, undecoded.
        headers: By lower-case name.
        body: All of it.
        arrived_at: Monotonic time of its first line.
        credential: What the limits and the demanded silence are counted by; set by the provider.
        caller: Whom the credential stands for; set by the provider.
        answer_headers: What the answer to it has beside its own headers.
        connection: A number for the connection that it came over.
    """

    method: str
    target: str
    headers: dict[str, str]
    body: bytes
    arrived_at: float
    credential: str | None = None
    caller: Any = None
    answer_headers: dict[str, str] = field(default_factory=dict)
    connection: int = 0

    @property
    def path(self) -> str:
        """Raw path, undecoded."""
        return self.target.partition("?")[0]

    @property
    def query(self) -> dict[str, list[str]]:
        """Decoded query."""
        return parse_qs(self.target.partition("?")[2], keep_blank_values=True)

    @property
    def form(self) -> dict[str, str]:
        """Decoded form of the body, over that of the query."""
        fields = {name: values[-1] for name, values in self.query.items()}
        fields.update((name, values[-1]) for name, values in parse_qs(self.body.decode("utf-8", "replace")).items())
        return fields

    @property
    def bearer(self) -> str | None:
        """Token of the Authorization header."""
        kind, _, token = self.headers.get("authorization", "").partition(" ")
        return token.strip() if kind.lower() == "bearer" else None

    def parameter(self, name: str, default: str | None = None) -> str | None:
        """Return the last value of a query parameter."""
        return self.query.get(name, [default])[-1]


@dataclass(slots=True)
class Response:
    """One answer. With `is_lost` the connection is closed instead, after everything was carried out."""

    status: int = 200
    body: bytes = b""
    content_type: str = "application/json"
    headers: dict[str, str] = field(default_factory=dict)
    is_lost: bool = False

    @classmethod
    def json(cls, document: Any, status: int = 200, **headers: str) -> Response:
        """Return a JSON answer; an underscore in the name of a header stands for a dash."""
        try:
            body = json.dumps(document, ensure_ascii=False).encode()
        except UnicodeEncodeError:  # half a character can be sent as an escape only
            body = json.dumps(document).encode()
        content_type = "application/json; charset=utf-8"
        return cls(status, body, content_type, {name.replace("_", "-"): value for name, value in headers.items()})

    @classmethod
    def html(cls, page: str | bytes, status: int = 200) -> Response:
        """Return a page."""
        return cls(status, page.encode() if isinstance(page, str) else page, "text/html; charset=utf-8")


@dataclass(slots=True)
class RequestRecord:
    """A line of the log.

    Args:
        number: Counted from 1.
        arrived_at: Monotonic time.
        method: The verb.
        target: Raw path with query, as received.
        path: Raw path.
        query: Decoded query.
        headers: By lower-case name.
        body: As received.
        kind: The provider's name for the route, such as `list`, `transcript` or `token`.
        credential: Who asked, as far as the provider knows them.
        came_early: Whether the server had demanded silence until later.
        fault: The fault that was applied.
        status: What was answered; None before that, and when nothing was.
    """

    number: int
    arrived_at: float
    method: str
    target: str
    path: str
    query: dict[str, list[str]]
    headers: dict[str, str]
    body: bytes
    kind: str
    credential: str | None
    came_early: bool = False
    fault: str | None = None
    status: int | None = None


@dataclass(frozen=True, slots=True)
class Route:
    """Where a method answers: verb, pattern of the raw path, the log's name for it, and what the provider adds."""

    method: str
    pattern: re.Pattern[str]
    kind: str
    options: dict[str, Any]
    function: str


def route(method: str, pattern: str, kind: str, **options: Any) -> Callable[[_F], _F]:
    """Mark a method that answers; it gets the request and the pattern's named groups, undecoded."""

    def mark(function: _F) -> _F:
        marked = Route(method, re.compile(pattern), kind, options, function.__name__)
        function.routes = [*getattr(function, "routes", ()), marked]  # type: ignore[attr-defined]
        return function

    return mark


@dataclass(kw_only=True, eq=False)
class FakeServer:
    """A provider on a port of this machine, as a context manager.

    Args:
        host: Where it listens.
        port: 0 picks one.
        faults: What goes wrong.
        latency: Seconds that every answer takes longer.
        early_grace_seconds: What arrives over another connection so shortly after silence was demanded was on its way,
            and is not early.
    """

    base_path: ClassVar[str] = ""
    """What the provider's documented base address has after its host."""

    host: str = "127.0.0.1"
    port: int = 0
    faults: Faults = field(default_factory=Faults)
    latency: float = 0.0
    early_grace_seconds: float = 0.1

    def __post_init__(self) -> None:
        self.lock = threading.RLock()
        self.stopping = threading.Event()
        self._requests: list[RequestRecord] = []
        self._silence: dict[str, _Silence] = {}
        self._server: _Server | None = None

    # Life

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *exception: object) -> None:
        self.close()

    def start(self) -> Self:
        """Listen, and return at once."""
        self._server = _Server((self.host, self.port), self)
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, args=(0.05,), name=str(self), daemon=True).start()
        return self

    def close(self) -> None:
        """Stop listening and close every connection."""
        self.stopping.set()
        if self._server:
            ending = threading.Thread(target=self._server.shutdown)
            ending.start()
            with suppress(OSError):  # wakes it up, so that it ends at once
                socket.create_connection((self.host, self.port), timeout=1).close()
            ending.join()
            self._server.close_connections()
            self._server.server_close()
            self._server = None

    @property
    def origin(self) -> str:
        """Scheme, host and port."""
        return f"http://{self.host}:{self.port}"

    @property
    def url(self) -> str:
        """What takes the place of the provider's documented base address."""
        return self.origin + self.base_path

    def __str__(self) -> str:
        return f"{type(self).__name__} on port {self.port}"

    # Log

    @property
    def requests(self) -> list[RequestRecord]:
        """What was asked so far, oldest first; a copy."""
        with self.lock:
            return list(self._requests)

    def requests_of(self, kind: str) -> list[RequestRecord]:
        """Return what was asked of one kind."""
        return [record for record in self.requests if record.kind == kind]

    @property
    def early_requests(self) -> list[RequestRecord]:
        """What came although silence had been demanded."""
        return [record for record in self.requests if record.came_early]

    def forget_requests(self) -> None:
        """Empty the log."""
        with self.lock:
            self._requests.clear()

    def summary(self) -> dict[str, Any]:
        """Count the log by kind and status (`none` where nothing was answered)."""
        by_kind: dict[str, dict[str, int]] = {}
        by_fault: dict[str, int] = {}
        records = self.requests
        for record in records:
            counts = by_kind.setdefault(record.kind, {})
            status = str(record.status or "none")
            counts[status] = counts.get(status, 0) + 1
            if record.fault:
                by_fault[record.fault] = by_fault.get(record.fault, 0) + 1
        early = sum(record.came_early for record in records)
        return {"total": len(records), "kinds": by_kind, "faults": by_fault, "came_early": early}

    # What a provider overrides

    def identify(self, request: Request) -> None:
        """Set `credential` and `caller` of a request, if they can be known."""

    def admit(self, request: Request, marked: Route) -> Response | None:
        """Return a refusal, or nothing to let the request in."""
        return None

    def error(self, status: int, message: str) -> Response:
        """Return an error as the provider words it."""
        return Response.json({"error": message}, status)

    # Silence

    def demand_silence(self, request: Request, seconds: float) -> None:
        """Remember that the credential of a request was told to be silent."""
        if request.credential is not None:
            now = time.monotonic()
            with self.lock:
                silence = self._silence.get(request.credential)
                if silence is None or silence.until <= now:
                    silence = self._silence[request.credential] = _Silence(now)
                silence.until = max(silence.until, now + seconds)
                silence.told.add(request.connection)

    def silence_until(self, credential: str) -> float:
        """Return the monotonic time before which a credential should not ask; 0 if there was none."""
        with self.lock:
            return self._silence[credential].until if credential in self._silence else 0.0

    def retry_after(self, seconds: float) -> str:
        """Word a wait in seconds: a whole number of at least 1, unless fractions are wanted."""
        return f"{seconds:.3f}" if self.faults.fractional_retry_after else str(max(1, math.ceil(seconds)))

    def too_many_requests(
        self, request: Request, form: str | None = "seconds", seconds: float | None = None
    ) -> Response:
        """Return 429, and note the silence that it demands.

        Args:
            request: Whom it answers.
            form: Of Retry-After: `seconds`, `date`, `iso`, or None for no such header.
            seconds: The wait; by default that of the fault switches.
        """
        seconds = self.faults.retry_after_seconds if seconds is None else seconds
        response = self.error(429, "Too many requests. Try again later.")
        if form == "seconds":
            response.headers["Retry-After"] = self.retry_after(seconds)
            self.demand_silence(request, float(response.headers["Retry-After"]))
        elif form:
            wall = time.time()
            until = math.ceil(wall + seconds)
            iso = datetime.fromtimestamp(until, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
            response.headers["Retry-After"] = formatdate(until, usegmt=True) if form == "date" else iso
            self.demand_silence(request, until - wall)
        return response

    # Answering

    def record(self, request: Request) -> tuple[RequestRecord, Route | None, re.Match[str] | None]:
        """Write a request into the log, and find what answers it."""
        marked, match = self._find_route(request)
        self.identify(request)
        with self.lock:
            line = RequestRecord(
                len(self._requests) + 1,
                request.arrived_at,
                request.method,
                request.target,
                request.path,
                request.query,
                request.headers,
                request.body,
                marked.kind if marked else "unknown",
                request.credential,
                self._is_early(request),
            )
            self._requests.append(line)
        return line, marked, match

    def answer(self, request: Request, marked: Route | None, match: re.Match[str] | None) -> Response:
        """Answer a request without any fault."""
        if not marked or not match:
            return self.error(404, "There is nothing here.")
        response = self.admit(request, marked)
        if response is None:
            response = getattr(self, marked.function)(request, **match.groupdict())
        response.headers.update(request.answer_headers)
        return response

    def fault_response(self, request: Request, kind: str) -> Response:
        """Return the answer of a fault that is a status."""
        if kind.startswith("429"):
            forms = {"429-retry-after": "seconds", "429-date": "date", "429-iso": "iso"}
            return self.too_many_requests(request, forms.get(kind))
        status = int(kind)
        if status in (502, 503, 504):  # these come from what stands in front of a provider
            title = f"{status} {HTTPStatus(status).phrase}"
            return Response.html(
                f"<html><head><title>{title}</title></head><body><h1>{title}</h1></body></html>", status
            )
        return self.error(status, HTTPStatus(status).phrase)

    def control(self, request: Request) -> Response:
        """Answer another process that steers this server."""
        if request.path == "/_faults":
            if request.method == "POST":
                try:
                    self.faults.change(json.loads(request.body or b"{}"))
                except (ValueError, TypeError) as error:
                    return Response.json({"error": str(error)}, 400)
            return Response.json(self.faults.as_json() | {"served": self.faults.served})
        if request.path == "/_requests":
            if request.method == "DELETE":
                self.forget_requests()
            return Response.json(self.summary())
        return Response.json({"error": "There are /_faults and /_requests."}, 404)

    def _is_early(self, request: Request) -> bool:
        silence = self._silence.get(request.credential or "")
        if silence is None or request.arrived_at >= silence.until - _EARLY_TOLERANCE:
            return False
        knew = request.connection in silence.told
        return knew or request.arrived_at > silence.began + self.early_grace_seconds

    @cached_property
    def _routes(self) -> list[Route]:
        functions = [getattr(type(self), name, None) for name in dir(type(self))]
        return [marked for function in functions for marked in getattr(function, "routes", ())]

    def _find_route(self, request: Request) -> tuple[Route | None, re.Match[str] | None]:
        path = request.path
        for marked in self._routes:
            if marked.method == request.method and (match := marked.pattern.fullmatch(path)):
                return marked, match
        return None, None


@dataclass(slots=True)
class _Silence:
    """When it was demanded, until when, and over which connections."""

    began: float
    until: float = 0.0
    told: set[int] = field(default_factory=set)


class _Server(ThreadingHTTPServer):
    """Listens, and knows its connections so that it can close them."""

    request_queue_size = 256
    daemon_threads = True
    block_on_close = False

    def __init__(self, address: tuple[str, int], fake: FakeServer) -> None:
        self.fake = fake
        self.numbers = itertools.count(1)
        self._connections: set[socket.socket] = set()
        self._lock = threading.Lock()
        super().__init__(address, _Handler)

    def server_bind(self) -> None:
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()

    def process_request(self, request: Any, client_address: Any) -> None:
        with self._lock:
            self._connections.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        with self._lock:
            self._connections.discard(request)
        super().shutdown_request(request)

    def close_connections(self) -> None:
        with self._lock:
            connections = list(self._connections)
        for connection in connections:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)


class _Handler(StreamRequestHandler):
    """One connection. Reads and writes HTTP itself, so that paths stay raw and every fault can be shown."""

    disable_nagle_algorithm = True
    server: _Server

    def handle(self) -> None:
        self._number = next(self.server.numbers)
        try:
            while self._serve():
                pass
        except (ConnectionError, TimeoutError, ValueError, OSError):
            return

    def _serve(self) -> bool:
        """Answer one request; say whether the connection stays open."""
        fake = self.server.fake
        request = self._read()
        if request is None or fake.stopping.is_set():
            return False
        stays_open = request.headers.get("connection", "").lower() != "close"
        if request.path in ("/_faults", "/_requests"):
            self._send(request, fake.control(request))
            return stays_open
        line, marked, match = fake.record(request)
        fault = line.fault = fake.faults.pick(request.target)
        if fake.latency:
            fake.stopping.wait(fake.latency)
        if fault == "disconnect":
            return False
        if fault == "hang":
            fake.stopping.wait(fake.faults.hang_seconds)
            return False
        if fault and fault[0].isdigit():
            response = fake.fault_response(request, fault)
        else:
            response = fake.answer(request, marked, match)
        if response.is_lost:
            return False
        if fault == "html":
            response = Response.html(HTML_PAGE)
        elif fault == "invalid-json":
            is_json = response.content_type.startswith("application/json") and len(response.body) > 2
            body = response.body[: len(response.body) * 2 // 3] if is_json else b'{"items": [{"title": "Wee'
            response = Response(200, body, "application/json; charset=utf-8")
        line.status = response.status
        if fault == "slow":
            self._drip(request, response)
            return False
        if fault == "truncated":
            self._send(request, response, missing=1 + len(response.body) // 3)
            return False
        self._send(request, response)
        return stays_open

    def _read(self) -> Request | None:
        first = self.rfile.readline(65536)
        if not first.strip():
            return None
        arrived_at = time.monotonic()
        method, target, _ = first.decode("latin-1").split()
        if "://" in target.partition("?")[0]:
            target = "/" + target.split("://", 1)[1].partition("/")[2]
        headers: dict[str, str] = {}
        while (line := self.rfile.readline(65536)).strip():
            name, _, value = line.decode("latin-1").partition(":")
            headers[name.strip().lower()] = value.strip()
        if headers.get("expect", "").lower() == "100-continue":
            self.wfile.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        if headers.get("transfer-encoding", "").lower() == "chunked":
            chunks = []
            while size := int(self.rfile.readline(100).split(b";")[0], 16):
                chunks.append(self.rfile.read(size))
                self.rfile.readline(10)
            while self.rfile.readline(65536).strip():
                pass
            body = b"".join(chunks)
        else:
            body = self.rfile.read(int(headers.get("content-length") or 0))
        return Request(method, target, headers, body, arrived_at, connection=self._number)

    def _wire(self, request: Request, response: Response, missing: int = 0) -> bytes:
        lines = [
            f"HTTP/1.1 {response.status} {HTTPStatus(response.status).phrase}",
            f"Date: {formatdate(usegmt=True)}",
            f"Content-Length: {len(response.body)}",
        ]
        if response.body:
            lines.append(f"Content-Type: {response.content_type}")
        lines += [f"{name}: {value}" for name, value in response.headers.items()]
        head = "\r\n".join([*lines, "", ""]).encode("latin-1")
        return head + (b"" if request.method == "HEAD" else response.body[: len(response.body) - missing])

    def _send(self, request: Request, response: Response, missing: int = 0) -> None:
        if missing and not response.body:
            response.body, missing = b"{}", 2
        self.connection.sendall(self._wire(request, response, missing))

    def _drip(self, request: Request, response: Response) -> None:
        """Send bytes one at a time for as long as the switch says, never all of them."""
        fake, wire = self.server.fake, self._wire(request, response)
        until = time.monotonic() + fake.faults.hang_seconds
        pause = min(1.0, max(0.02, fake.faults.hang_seconds / len(wire)))
        for index in range(len(wire) - 1):
            if time.monotonic() >= until or fake.stopping.is_set():
                return
            self.connection.sendall(wire[index : index + 1])
            fake.stopping.wait(pause)
        fake.stopping.wait(max(0.0, until - time.monotonic()))
