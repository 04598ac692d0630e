"""What stands before Dagster's web application: nobody but who signed in, from no page but its own.

By default everything is refused, whatever Dagster serves at an address: a request passes if it names a host we were
told of, comes from a page of ours (or is a link that somebody follows), changes things only by POST with JSON, and
brings a session. So a page of another origin, a name that was pointed at this machine (DNS rebinding), and another user
of the machine get an answer of ours and nothing of Dagster's. Two things are left to Dagster's application, which knows
what it was asked, however that was written (`webserver.py`): of GraphQL it takes only POST, and viewers change nothing.

Starlette's `TrustedHostMiddleware` compares the name only. Here the port and the origin that belongs to it count too,
which makes it one look into a table.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping
from hashlib import sha256
from html import escape
from importlib import resources

from starlette.datastructures import MutableHeaders
from starlette.requests import HTTPConnection
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from starlette.websockets import WebSocketClose

from import_pipeline.cli.dev.sign_in import OPERATOR, SESSION_SECONDS, VIEWER, SignIn

ROLE = "import_pipeline.role"
"""The key of a request's scope under which the guard says who asks."""
SIGN_IN_PATH = "/sign-in"

HEADERS = {
    "X-Frame-Options": "DENY",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
}
_ONCE = ("host", "origin", "content-type", "sec-fetch-site")
_ASK_AGAIN = "location.replace(location.pathname + location.search)"
_PAGE_POLICY = (
    "default-src 'none'; base-uri 'none'; form-action 'none'; style-src 'unsafe-inline'; "
    f"script-src 'sha256-{b64encode(sha256(_ASK_AGAIN.encode()).digest()).decode()}'"
)


class Guard:
    """An ASGI application around another.

    Args:
        app: What is guarded.
        origins: The hosts that may be named, and the origin of each.
        sign_in: Links and sessions.
        cookie: The name of the session's cookie: of its own for every port, since cookies know none.
        everybody: The role of people without a session, if they may enter all the same.
    """

    def __init__(
        self, app: ASGIApp, origins: Mapping[str, str], sign_in: SignIn, cookie: str, everybody: str | None = None
    ) -> None:
        self._app = app
        self._origins = origins
        self._sign_in = sign_in
        self._cookie = cookie
        self._everybody = everybody

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, or let Dagster answer."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        refusal = self._refuse(scope)
        if refusal is None:
            await self._app(scope, receive, _with_headers(send))
        elif scope["type"] == "http":
            await refusal(scope, receive, _with_headers(send))
        else:
            await WebSocketClose(1008)(scope, receive, send)

    def _refuse(self, scope: Scope) -> Response | None:
        """Return our own answer, or None where Dagster's is due."""
        conn = HTTPConnection(scope)
        if any(len(conn.headers.getlist(name)) > 1 for name in _ONCE):
            return _tell(400, "A header came twice.")
        origin = self._origins.get(conn.headers.get("host", "").lower())
        if origin is None:
            return _tell(
                421,
                "The UI was not told of this address. Open it at the one that `import-pipeline dev` shows; "
                "if a proxy stands before it, set IMPORT_PIPELINE_UI_URL and let the proxy hand on the header Host.",
            )
        method = scope.get("method", "GET")  # a websocket begins with GET
        if not _is_from(conn, origin, method):
            return _tell(403, "Another website asked for this.")
        if method not in ("GET", "HEAD", "POST"):
            return _tell(405, "Only GET, HEAD and POST are answered.")
        if method == "POST" and not _is_json(conn):
            return _tell(415, "Only JSON is taken: content-type application/json.")
        role = self._sign_in.read_session(conn.cookies.get(self._cookie, "")) or self._everybody
        if scope["path"] == SIGN_IN_PATH and method == "GET":
            return self._enter(conn, role, origin)
        if role is None:
            return _ask_to_sign_in(conn, method)
        if role != OPERATOR and method == "POST" and scope["path"] != "/graphql":
            return _tell(403, "A read-only link changes nothing.")
        scope[ROLE] = role
        return None

    def _enter(self, conn: HTTPConnection, role: str | None, origin: str) -> Response:
        """Exchange a link's token for a session, and lead to where the token is not."""
        token = conn.query_params.get("token", "")
        given = self._sign_in.redeem(token) if token else None
        if given is None and role is None:
            return _ask_to_sign_in(conn, "GET", *((403, "This link does not work any more") if token else ()))
        answer = RedirectResponse("/", status_code=303, headers={"Cache-Control": "no-store"})
        is_himself = (given, role) == (VIEWER, OPERATOR)  # who looks at a link for colleagues stays the operator
        if given is not None and not is_himself:
            answer.set_cookie(
                self._cookie,
                self._sign_in.make_session(given),
                max_age=SESSION_SECONDS,
                secure=origin.startswith("https:"),
                httponly=True,
                samesite="strict",
            )
        return answer


def _is_from(conn: HTTPConnection, origin: str, method: str) -> bool:
    """Say whether a page of ours asks, a program, or somebody who follows a link or types."""
    if conn.headers.get("origin", origin) != origin:
        return False
    is_followed = (
        conn.scope["type"] == "http"
        and method == "GET"
        and conn.headers.get("sec-fetch-mode") == "navigate"
        and conn.headers.get("sec-fetch-dest") == "document"
    )
    return is_followed or conn.headers.get("sec-fetch-site", "none") in ("same-origin", "none")


def _is_json(conn: HTTPConnection) -> bool:
    # As every client writes it: Dagster looks for these letters, and without them into the address.
    return conn.headers.get("content-type", "").partition(";")[0].rstrip() == "application/json"


def _ask_to_sign_in(conn: HTTPConnection, method: str, status: int = 401, heading: str = "Sign in") -> Response:
    """Say how to get in, as a page where a person looks.

    A browser withholds the session's cookie when another website leads here, as a chat does with an alert's link. Then
    the page asks once more, by itself; the cookie comes with that.
    """
    if method == "GET" and "text/html" in conn.headers.get("accept", ""):
        asks_again = status == 401 and conn.headers.get("sec-fetch-site") in ("cross-site", "same-site")
        return _page(status, heading, asks_again=asks_again)
    return _tell(status, f"{heading}: `import-pipeline dev --link` prints a link.")


def _tell(status: int, message: str) -> Response:
    """Refuse, in the shape in which the UI expects errors."""
    headers = {"Cache-Control": "no-store"} | ({"Allow": "GET, HEAD, POST"} if status == 405 else {})
    return JSONResponse({"errors": [{"message": message}]}, status, headers)


def _page(status: int, heading: str, *, asks_again: bool = False) -> Response:
    page = resources.files(__package__).joinpath("sign_in.html").read_text(encoding="utf-8")
    script = f"<script>{_ASK_AGAIN}</script>" if asks_again else ""
    return HTMLResponse(
        page.replace("{heading}", escape(heading)).replace("{script}", script),
        status,
        {"Cache-Control": "no-store", "Content-Security-Policy": _PAGE_POLICY},
    )


def _with_headers(send: Send) -> Send:
    async def send_with_headers(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            headers.update(HEADERS)
            headers.append("Content-Security-Policy", "frame-ancestors 'none'")
        await send(message)

    return send_with_headers
