"""The guard before Dagster's web application: the real one, over real HTTP, on an instance where a change can be seen.

What an attacker sends is written out byte for byte, since clients tidy up. Everything here is sent with the session of
the operator unless it says otherwise: a browser may hand that along.
"""

from __future__ import annotations

import http.client
import json
import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import dagster as dg
import pytest
import uvicorn
from dev import free_port, wait_until
from starlette.routing import Mount, Route, WebSocketRoute

from import_pipeline.cli.dev.address import Address
from import_pipeline.cli.dev.guard import HEADERS
from import_pipeline.cli.dev.http_connections import Connection
from import_pipeline.cli.dev.sign_in import OPERATOR, VIEWER, SignIn
from import_pipeline.cli.dev.webserver import Workspace, make_application

FORGED = dg.AssetKey("forged")
FORGERY = '{eventType: ASSET_MATERIALIZATION, assetKey: {path: ["forged"]}}'
MUTATION = f"mutation Forge {{ reportRunlessAssetEvents(eventParams: {FORGERY}) {{ __typename }} }}"
QUERY = "{ version }"
JSON = ("Content-Type", "application/json")
ELSEWHERE = ("Origin", "http://evil.example")

Headers = Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Answer:
    status: int
    headers: http.client.HTTPMessage
    body: bytes

    @property
    def cookie(self) -> str:
        return (self.headers["Set-Cookie"] or "").partition(";")[0]

    @property
    def is_dagsters(self) -> bool:
        return "x-dagster-call-counts" in self.headers


class Ui:
    """The guarded application, listening."""

    def __init__(
        self, workspace: Workspace, folder: Path, everybody: str | None = None, http: type[Connection] = Connection
    ) -> None:
        self.instance = workspace.instance
        self.port = free_port()
        self.address = Address("127.0.0.1", self.port, "https://ui.example.com")
        self.sign_in = SignIn(folder)
        self.sign_in.prepare()
        app = make_application(workspace, self.address, self.sign_in, everybody)
        self.routes = app._app.routes  # type: ignore[attr-defined]
        self.server = uvicorn.Server(
            uvicorn.Config(app, "127.0.0.1", self.port, log_level="error", proxy_headers=False, http=http)
        )
        self.cookies = {role: self.cookie_of(role) for role in (OPERATOR, VIEWER)}

    @property
    def host(self) -> tuple[str, str]:
        return ("Host", f"127.0.0.1:{self.port}")

    @property
    def here(self) -> tuple[str, str]:
        return ("Origin", f"http://127.0.0.1:{self.port}")

    def cookie_of(self, role: str) -> str:
        return f"import_pipeline_{self.port}={self.sign_in.make_session(role)}"

    def send(
        self, method: str, target: str, headers: Headers = (), body: bytes = b"", *, role: str | None = OPERATOR
    ) -> Answer:
        """Send a request as it is written; without `Host` among the headers it gets the right one."""
        conn = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        conn.putrequest(method, "/", skip_host=True, skip_accept_encoding=True)
        conn._buffer[0] = f"{method} {target} HTTP/1.1".encode()  # type: ignore[attr-defined]
        names = {name.lower() for name, _ in headers}
        for name, value in [*([] if "host" in names else [self.host]), *headers]:
            conn.putheader(name, value)
        if role is not None and "cookie" not in names:
            conn.putheader("Cookie", self.cookies[role])
        if "transfer-encoding" in names:
            body = f"{len(body):x}\r\n".encode() + body + b"\r\n0\r\n\r\n"
        elif body:
            conn.putheader("Content-Length", str(len(body)))
        conn.endheaders(body or None)
        response = conn.getresponse()
        # The answer to a handshake that succeeds has no end.
        answer = Answer(response.status, response.headers, b"" if response.status == 101 else response.read())
        conn.close()
        return answer

    def shake_hands(self, headers: Headers = (), *, role: str | None = OPERATOR, target: str = "/graphql") -> int:
        """Begin a websocket and return the status."""
        handshake = [
            *(("Upgrade", "websocket"), ("Connection", "Upgrade"), ("Sec-WebSocket-Version", "13")),
            *(("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="), ("Sec-WebSocket-Protocol", "graphql-ws")),
        ]
        return self.send("GET", target, [*handshake, *headers], role=role).status

    def changes(self) -> int:
        return len(self.instance.fetch_materializations(FORGED, limit=1000).records)


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workspace]:
    folder = str(tmp_path_factory.mktemp("dagster"))
    with (
        dg.DagsterInstance.local_temp(folder, {"telemetry": {"enabled": False}}) as instance,
        Workspace(instance, None, read_only=True) as workspace,
    ):
        yield workspace


def running(ui: Ui) -> Iterator[Ui]:
    thread = threading.Thread(target=ui.server.run)
    thread.start()
    wait_until(lambda: ui.server.started, "waited for the server")
    yield ui
    ui.server.should_exit = True
    thread.join()


@pytest.fixture(scope="module")
def ui(workspace: Workspace, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ui]:
    yield from running(Ui(workspace, tmp_path_factory.mktemp("home") / "ui"))


@pytest.fixture(scope="module")
def open_ui(workspace: Workspace, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ui]:
    """One that asks nobody to sign in."""
    yield from running(Ui(workspace, tmp_path_factory.mktemp("home") / "ui", OPERATOR))


def asked(query: str = MUTATION, **more: object) -> bytes:
    return json.dumps({"query": query, **more}).encode()


def fetched(site: str, mode: str = "no-cors", dest: str = "empty") -> Headers:
    """What a browser says about where a request comes from."""
    return (("Sec-Fetch-Site", site), ("Sec-Fetch-Mode", mode), ("Sec-Fetch-Dest", dest))


def test_the_operators_own_page_asks_and_changes(ui: Ui) -> None:
    before = ui.changes()
    for headers in (
        (JSON, ui.here, *fetched("same-origin", "cors")),
        (("Content-Type", "application/json; charset=utf-8"),),
    ):
        answer = ui.send("POST", "/graphql", headers, asked())
        assert answer.status == 200, answer.body
        assert b"errors" not in answer.body
    assert ui.changes() == before + 2, "what the other tests look at is changed by a mutation that is let through"
    assert ui.shake_hands([ui.here]) == 101
    assert ui.shake_hands() == 101, "a program sends no Origin, and a session it has"
    assert ui.send("GET", "/runs").is_dagsters


@pytest.mark.parametrize("through_proxy", [False, True])
def test_at_the_address_that_was_told_the_cookie_is_for_https_where_that_is(ui: Ui, through_proxy: bool) -> None:
    host = [("Host", "ui.example.com")] if through_proxy else []
    link = f"/sign-in?token={ui.sign_in.make_token(OPERATOR)}"
    answer = ui.send("GET", link, host, role=None)
    parts = {part.strip().lower() for part in answer.headers["Set-Cookie"].split(";")[1:]}
    assert {"httponly", "samesite=strict", "path=/"} <= parts
    assert ("secure" in parts) == through_proxy
    origin = ("Origin", "https://ui.example.com") if through_proxy else ui.here
    answer = ui.send("POST", "/graphql", [*host, origin, JSON, ("Cookie", answer.cookie)], asked(QUERY))
    assert answer.status == 200


# -- GraphQL, however it is written -----------------------------------------------------------------------------------

LINK = f"/graphql?query={quote(MUTATION)}"
TARGETS = {
    "a mutation in a link": LINK,
    "a mutation in a link, with a slash": LINK.replace("?", "/?"),
    "a mutation in a link, percent-encoded": LINK.replace("graphql", "%67raphql"),
    "a mutation in a link, after a line feed": LINK.replace("?", "%0a?"),
    "a mutation in a link, in capitals": LINK.replace("graphql", "GraphQL"),
    "a mutation in a link, with two slashes": "/" + LINK,
    "a mutation in a link, by a detour": "/x/.." + LINK,
    "a mutation in a link, with the whole address": "http://127.0.0.1" + LINK,
    "a mutation beside a query in a link": f"{LINK.replace('?', '?query=%7Bversion%7D&')}&operationName=Forge",
    "the playground": "/graphiql?query=" + quote(MUTATION),
}


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS", "PUT", "PATCH", "DELETE", "QUERY"])
@pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS)
def test_no_method_but_post_changes_anything(ui: Ui, method: str, target: str) -> None:
    before = ui.changes()
    for headers, body in (((), b""), ((JSON,), asked())):
        answer = ui.send(method, target, headers, body)
        assert b"reportRunless" not in answer.body
        assert not answer.body.startswith(b'{"data"')
        assert method in ("GET", "HEAD") or answer.status == 405
    assert ui.changes() == before


BODIES: dict[str, tuple[Headers, bytes]] = {
    "as plain text": ([("Content-Type", "text/plain")], asked()),
    "as a form": ([("Content-Type", "application/x-www-form-urlencoded")], asked()),
    "as a form with parts": ([("Content-Type", "multipart/form-data; boundary=application/json")], asked()),
    "as plain text that mentions JSON": ([("Content-Type", "text/plain; application/json")], asked()),
    "as JSON and plain text": ([("Content-Type", "application/json, text/plain")], asked()),
    "as JSON and then plain text": ([JSON, ("Content-Type", "text/plain")], asked()),
    "as plain text and then JSON": ([("Content-Type", "text/plain"), JSON], asked()),
    "as JSON twice": ([JSON, ("content-type", "application/json")], asked()),
    "as nothing": ([], asked()),
    "as an empty type": ([("Content-Type", "")], asked()),
    "as GraphQL": ([("Content-Type", "application/graphql")], MUTATION.encode()),
    "as JSON in capitals": ([("Content-Type", "Application/JSON")], asked()),
    "as something like JSON": ([("Content-Type", "application/json-patch+json")], asked()),
    "as plain text in chunks": ([("Content-Type", "text/plain"), ("Transfer-Encoding", "chunked")], asked()),
}


@pytest.mark.parametrize(("headers", "body"), BODIES.values(), ids=BODIES)
def test_a_post_that_a_form_or_a_simple_request_can_send_changes_nothing(ui: Ui, headers: Headers, body: bytes) -> None:
    before = ui.changes()
    for target in ("/graphql", LINK, "/report_asset_materialization/forged"):
        assert ui.send("POST", target, headers, body).status in (400, 415)
    assert ui.changes() == before


# -- from where -------------------------------------------------------------------------------------------------------

PLACES: dict[str, Headers] = {
    "another site": [ELSEWHERE],
    "another port": [("Origin", "http://127.0.0.1:1")],
    "another scheme": [("Origin", "https://127.0.0.1")],
    "another of our names": [("Origin", "http://localhost:3000")],
    "our name with something behind": [("Origin", "http://127.0.0.1.evil.example")],
    "a file or a sandbox": [("Origin", "null")],
    "an empty origin": [("Origin", "")],
    "another site, without an origin": fetched("cross-site"),
    "another port, without an origin": fetched("same-site"),
    "another site's form": fetched("cross-site", "navigate", "document"),
    "two origins": [ELSEWHERE, ("Origin", "http://127.0.0.1:3000")],
}


@pytest.mark.parametrize("headers", PLACES.values(), ids=PLACES)
@pytest.mark.parametrize("signs_in", [True, False], ids=["signed in", "without sign-in"])
def test_another_place_changes_nothing_and_opens_no_websocket(
    ui: Ui, open_ui: Ui, signs_in: bool, headers: Headers
) -> None:
    ui = ui if signs_in else open_ui
    before = ui.changes()
    # Where a test needs our port, it is this one's.
    headers = [(name, value.replace("3000", str(ui.port))) for name, value in headers]
    assert ui.send("POST", "/graphql", [*headers, JSON], asked()).status in (400, 403)
    assert ui.shake_hands(headers) in (400, 403)
    assert ui.changes() == before


def test_an_origin_of_ours_twice_is_refused(ui: Ui) -> None:
    assert ui.send("POST", "/graphql", [ui.here, ELSEWHERE, JSON], asked(QUERY)).status == 400
    assert ui.shake_hands([ui.here, ELSEWHERE]) in (400, 403)


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
@pytest.mark.parametrize(
    ("mode", "dest"),
    [("no-cors", "image"), ("no-cors", "script"), ("cors", "empty"), ("navigate", "iframe"), ("navigate", "object")],
)
def test_another_site_embeds_nothing_of_ours(open_ui: Ui, site: str, mode: str, dest: str) -> None:
    for target in ("/", "/server_info", "/favicon.png", LINK):
        answer = open_ui.send("GET", target, fetched(site, mode, dest))
        assert answer.status == 403
        assert not answer.is_dagsters


def test_a_link_that_somebody_follows_from_another_site_leads_to_its_page(ui: Ui) -> None:
    assert ui.send("GET", "/runs/4711", fetched("cross-site", "navigate", "document")).is_dagsters


@pytest.mark.parametrize(
    "host",
    ["evil.example", "evil.example:{}", "127.0.0.1", "127.0.0.1:1", "127.0.0.1.evil.example:{}", "localhost.:{}", ""],
)
@pytest.mark.parametrize("signs_in", [True, False], ids=["signed in", "without sign-in"])
def test_a_host_that_was_not_told_gets_nothing(ui: Ui, open_ui: Ui, signs_in: bool, host: str) -> None:
    ui = ui if signs_in else open_ui
    name = ("Host", host.format(ui.port))
    before = ui.changes()
    for headers in ([name], [name, ("Origin", f"http://{name[1]}")], [name, ("X-Forwarded-Host", ui.host[1])]):
        answer = ui.send("POST", "/graphql", [*headers, JSON], asked())
        assert answer.status in (400, 421)
        assert ui.shake_hands(headers) in (400, 403)
        assert not ui.send("GET", "/server_info", headers).is_dagsters
    assert ui.changes() == before


def test_two_hosts_are_none(ui: Ui) -> None:
    for hosts in ([ui.host, ("Host", "evil.example")], [("Host", "evil.example"), ui.host]):
        assert ui.send("POST", "/graphql", [*hosts, JSON], asked(QUERY)).status == 400


# -- who --------------------------------------------------------------------------------------------------------------


def addresses(ui: Ui) -> Iterator[tuple[str, str]]:
    """Every route of Dagster's application, with each of its methods."""
    for route in ui.routes:
        assert isinstance(route, Route | Mount | WebSocketRoute), "a kind of route that nobody has thought about"
        path = (
            route.path.replace("{path:path}", "x.out")
            .replace("{run_id:str}", "x")
            .replace("{asset_key:path}", "forged")
        )
        for method in (getattr(route, "methods", None) or {"GET"}) | {"POST"}:
            yield method, path


def test_a_stranger_sees_nothing_of_dagsters_at_any_address(ui: Ui) -> None:
    before = ui.changes()
    known = list(addresses(ui))
    assert {path for _, path in known} > {"/graphql", "/server_info", "/logs/x.out", "/report_asset_check/forged", "/"}
    for method, path in known:
        answer = ui.send(method, path, [JSON], asked() if method == "POST" else b"", role=None)
        assert answer.status == 401, (method, path)
        assert not answer.is_dagsters
        assert b"dagster" not in answer.body.lower()
    assert ui.shake_hands(role=None) == 403
    assert ui.shake_hands([ui.here], role=None) == 403
    assert ui.changes() == before


@pytest.mark.parametrize(
    "forged", ["", "operator", "b3BlcmF0b3I=", "gAAAAA", "\xe9", "x" * 5000, "a; import_pipeline=b"], ids=range(7)
)
def test_a_session_cannot_be_made_up(ui: Ui, forged: str) -> None:
    assert ui.send("GET", "/", [("Cookie", f"import_pipeline_{ui.port}={forged}")]).status == 401


def test_a_session_of_another_ui_says_nothing_here(ui: Ui, tmp_path: Path) -> None:
    other = SignIn(tmp_path / "ui")
    other.prepare()
    for value in (other.make_session(OPERATOR), ui.sign_in.make_session("owner")):
        assert ui.send("GET", "/", [("Cookie", f"import_pipeline_{ui.port}={value}")]).status == 401


def test_a_link_lets_one_browser_in_and_leads_away_from_its_token(ui: Ui) -> None:
    link = f"/sign-in?token={ui.sign_in.make_token(OPERATOR)}"
    for nobody in (("HEAD", ()), ("POST", (JSON,)), ("GET", fetched("cross-site", "no-cors", "image"))):
        assert not ui.send(nobody[0], link, nobody[1], role=None).cookie, "only who opens it uses it up"
    answer = ui.send("GET", link, fetched("none", "navigate", "document"), role=None)
    assert (answer.status, answer.headers["Location"]) == (303, "/")
    assert answer.headers["Cache-Control"] == "no-store"
    assert ui.send("GET", "/runs", [("Cookie", answer.cookie)]).is_dagsters
    again = ui.send("GET", link, [("Accept", "text/html")], role=None)
    assert again.status == 403
    assert not again.cookie


def test_a_wrong_link_is_answered_like_a_used_or_an_old_one(ui: Ui) -> None:
    used, old = (ui.sign_in.make_token(OPERATOR) for _ in range(2))
    ui.sign_in.redeem(used)
    for token in ("", "x", "../key", "%00", "operator", "a" * 5000):
        answer = ui.send("GET", f"/sign-in?token={token}", role=None)
        assert answer.status == (403 if token else 401)
        assert not answer.cookie
    answers = {ui.send("GET", f"/sign-in?token={token}", role=None).body for token in (used, "x")}
    assert len(answers) == 1
    assert ui.send("GET", f"/sign-in?token={old}", role=None).status == 303


def test_a_browser_that_came_by_a_link_of_another_site_asks_again_with_its_cookie(ui: Ui) -> None:
    page = [("Accept", "text/html")]
    first = ui.send("GET", "/runs/4711", [*page, *fetched("cross-site", "navigate", "document")], role=None)
    assert first.status == 401
    assert b"location.replace" in first.body
    second = ui.send("GET", "/runs/4711", [*page, *fetched("same-origin", "navigate", "document")], role=None)
    assert second.status == 401
    assert b"location.replace" not in second.body, "it would ask for ever"
    assert b"import-pipeline dev --link" in second.body


@pytest.mark.parametrize("role", [OPERATOR, VIEWER, None])
@pytest.mark.parametrize("target", ["/", "/favicon.png", "/graphql", "/sign-in?token=x", "/no/such/page"])
def test_every_answer_keeps_other_sites_from_showing_it(ui: Ui, role: str | None, target: str) -> None:
    answer = ui.send("GET", target, role=role)
    assert {name: answer.headers[name] for name in HEADERS} == HEADERS
    assert any("frame-ancestors 'none'" in policy for policy in answer.headers.get_all("Content-Security-Policy"))


# -- viewers ----------------------------------------------------------------------------------------------------------


def test_a_viewer_looks_and_changes_nothing_by_any_road(ui: Ui) -> None:
    before = ui.changes()
    assert ui.send("GET", "/runs", role=VIEWER).is_dagsters
    assert ui.send("POST", "/graphql", [JSON], asked(QUERY), role=VIEWER).status == 200
    assert ui.shake_hands([ui.here], role=VIEWER) == 101
    for method, path in addresses(ui):
        ui.send(method, path, [JSON], asked() if method == "POST" else b"", role=VIEWER)
    for body in (
        asked(),
        asked(f"query Harmless {QUERY} {MUTATION}", operationName="Forge"),
        asked(f"# {QUERY}\n{MUTATION}"),
        asked('mutation { logTelemetry(action: "x", clientTime: "0", clientId: "x", metadata: "{}") { __typename } }'),
        asked("mutation { setNuxSeen }"),
        b'{"query": "{version}", "query": ' + json.dumps(MUTATION).encode() + b"}",
    ):
        answer = ui.send("POST", "/graphql", [JSON], body, role=VIEWER)
        assert answer.status == 403, answer.body
        assert b"changes nothing" in answer.body
    for path in ("/report_asset_materialization/forged", "/report_asset_observation/forged", "/graphql%0a"):
        assert ui.send("POST", path, [JSON], asked(), role=VIEWER).status == 403
    assert ui.changes() == before


def test_dagster_itself_takes_a_viewer_for_one(ui: Ui) -> None:
    asks = asked("{ permissions { permission value } }")
    told = {}
    for role in (OPERATOR, VIEWER):
        answer = ui.send("POST", "/graphql", [JSON], asks, role=role)
        told[role] = {each["permission"]: each["value"] for each in json.loads(answer.body)["data"]["permissions"]}
    assert told[OPERATOR]["launch_pipeline_execution"]
    assert not any(told[VIEWER].values())


def test_a_link_for_colleagues_lets_several_in_and_leaves_the_operator_who_he_is(ui: Ui) -> None:
    link = f"/sign-in?token={ui.sign_in.make_token(VIEWER)}"
    for _ in range(2):
        cookie = ui.send("GET", link, role=None).cookie
        assert ui.send("POST", "/graphql", [JSON, ("Cookie", cookie)], asked()).status == 403
    assert not ui.send("GET", link, role=OPERATOR).cookie


def test_whoever_does_not_come_through_the_guard_changes_nothing(workspace: Workspace) -> None:
    assert workspace.create_request_context().read_only


# -- people who keep connections open ---------------------------------------------------------------------------------


class Impatient(Connection):
    most = 20
    seconds = 0.5


@pytest.fixture(scope="module")
def impatient_ui(workspace: Workspace, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ui]:
    yield from running(Ui(workspace, tmp_path_factory.mktemp("home") / "ui", http=Impatient))


@contextmanager
def connected(ui: Ui, number: int, *lines: str) -> Iterator[list[socket.socket]]:
    with ExitStack() as stack:
        clients = []
        for _ in range(number):
            client = stack.enter_context(socket.create_connection(("127.0.0.1", ui.port), timeout=60))
            client.sendall("\r\n".join(lines).encode())
            clients.append(client)
        yield clients


def is_closed(client: socket.socket) -> bool:
    """Say whether the server has ended a connection; what it said before is read."""
    client.settimeout(0.01)
    try:
        while client.recv(65536):
            pass
    except TimeoutError:
        return False
    except OSError:
        return True
    return True


HANDSHAKE = (*("Upgrade: websocket", "Connection: Upgrade"), "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==")
POST = ("POST /graphql HTTP/1.1", "Host: 127.0.0.1:{port}", "Content-Type: application/json", "Content-Length: 99999")


@pytest.mark.parametrize(
    "said",
    [
        (),
        ("GET / HTTP/1.1", "X: "),
        (*POST, "", ""),
        ("GET / HTTP/1.1", "Host: 127.0.0.1:{port}", "", "GET /again HTTP/1.1", "X: "),
        ("GET /graphql HTTP/1.1", "Host: 127.0.0.1:{port}", *HANDSHAKE, "Sec-WebSocket-Version: 13", "", ""),
    ],
    ids=["nothing", "half a head", "half a body", "half of a second request", "a handshake"],
)
def test_who_has_no_session_keeps_no_connection_however_slowly_they_speak(impatient_ui: Ui, said: Any) -> None:
    with connected(impatient_ui, 1, *(line.format(port=impatient_ui.port) for line in said)) as (client,):

        def is_over() -> bool:
            if said:
                with suppress(OSError):
                    client.sendall(b"a")
            return is_closed(client)

        wait_until(is_over, "waited for the server to close the connection")


def test_a_head_without_end_is_not_taken(ui: Ui) -> None:
    with connected(ui, 1, "GET / HTTP/1.1", "X: ") as (client,):

        def is_over() -> bool:
            with suppress(OSError):
                client.sendall(b"a" * 4096)
            return is_closed(client)

        wait_until(is_over, "waited for the server to have enough")


def test_a_crowd_that_says_nothing_keeps_nobody_out(ui: Ui, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Connection, "most", 50)
    with connected(ui, 200, "GET / HTTP/1.1", "X: ") as crowd:
        assert ui.send("GET", "/runs").is_dagsters
        assert ui.shake_hands() == 101
        wait_until(lambda: sum(map(is_closed, crowd)) >= 150, "waited for the oldest to go")
        assert not is_closed(crowd[-1])


def test_who_is_served_is_given_the_time_they_need(impatient_ui: Ui) -> None:
    """Longer than a stranger has."""
    ui = impatient_ui
    body = asked(QUERY).ljust(99999)
    head = [line.format(port=ui.port) for line in POST]
    handshake = ["GET /graphql HTTP/1.1", head[1], *HANDSHAKE, "Sec-WebSocket-Version: 13"]
    handshake += ["Sec-WebSocket-Protocol: graphql-ws", f"Cookie: {ui.cookies[OPERATOR]}", "", ""]
    with (
        connected(ui, 1, *head, f"Cookie: {ui.cookies[OPERATOR]}", "", "") as (slow,),
        connected(ui, 1, *handshake) as (websocket,),
        connected(ui, 1) as (stranger,),
    ):
        wait_until(lambda: is_closed(stranger), "waited for a stranger to be sent away")
        with connected(ui, 60):
            slow.sendall(body)
            slow.settimeout(60)
            assert slow.recv(65536).startswith(b"HTTP/1.1 200")
            assert not is_closed(websocket)
