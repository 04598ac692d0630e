"""OAuth 2.0 (RFC 6749, RFC 7636): how tokens are obtained, and the consent of a person in a browser.

Keeping and renewing tokens is in `credentials.py`.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
import secrets
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from socketserver import ThreadingTCPServer
from typing import Any, ClassVar
from urllib.parse import parse_qs, urlencode, urlsplit

import httpx

from import_pipeline.errors import ConfigurationError, HttpError, ReconnectError, SourceUnavailableError, one_line
from import_pipeline.providers.authentication import OAuth, ServerToServer
from import_pipeline.providers.error_answers import describe_body
from import_pipeline.providers.http import HttpClient

DEFAULT_PORT = 8765
CONSENT_SECONDS = 300.0
_SECONDS_IF_UNSAID = 3600.0
_LONGEST_TOKEN_ANSWER = 100_000
_MAX_CONNECTIONS = 100
_SECRET = ("client_secret", "access_token", "refresh_token", "code", "code_verifier")


def request_token(
    title: str,
    declared: OAuth | ServerToServer,
    fields: Mapping[str, str],
    *,
    token_url: str,
    sleep: Callable[[float], None] = time.sleep,
) -> dict[str, Any]:
    """Ask for an access token with a refresh token or, server to server, with the app's own credentials.

    Args:
        title: What people call the source.
        declared: How the source does it.
        fields: The secrets; see `needs` of the declaration.
        token_url: Where to ask.
        sleep: For tests.

    Returns:
        What changed in the secrets: `access_token`, `expires_at` (epoch seconds), `lifetime` (seconds), `scope`, and
        `refresh_token` if another one was sent.

    Raises:
        ReconnectError: The refresh token is revoked or was used up (`invalid_grant`).
        HttpError: The provider refused for another reason, for instance because it does not know the app.
        SourceUnavailableError: The provider did not answer; the secrets are as good as before.
    """
    if isinstance(declared, OAuth):
        body = {"grant_type": "refresh_token", "refresh_token": fields["refresh_token"]}
    else:
        body = {"grant_type": declared.grant_type, "account_id": fields["account_id"]}
    return _ask_for_token(title, declared, fields, body, token_url, sleep)


def authorize(
    title: str,
    declared: OAuth,
    client_id: str,
    client_secret: str,
    *,
    authorize_url: str,
    token_url: str,
    show_address: Callable[[str], None],
    port: int = DEFAULT_PORT,
    wait_seconds: float = CONSENT_SECONDS,
) -> dict[str, Any]:
    """Let a person consent in a browser, and return the secrets of an OAuth credential.

    The browser is sent back to `http://127.0.0.1:<port>/callback` (RFC 8252, section 7.3), which must be registered
    with the app.

    Args:
        title: What people call the source.
        declared: How the source does it.
        client_id: The app.
        client_secret: Its secret.
        authorize_url: Where the person consents.
        token_url: Where the code becomes a token.
        show_address: Opens an address in a browser, or shows it.
        port: Where to listen; 0 lets the system choose.
        wait_seconds: How long to wait for the person.

    Raises:
        ConfigurationError: The port is taken, or nobody consented. Answers to other questions are not listened to.
        ReconnectError: The provider refused the code or the app.
    """
    state, verifier = secrets.token_urlsafe(32), secrets.token_urlsafe(64)
    challenge = base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).rstrip(b"=").decode()
    with _listen(port, state) as server:
        redirect_uri = f"http://127.0.0.1:{server.server_address[1]}/callback"
        asked = {
            "response_type": "code",
            "client_id": client_id,
            "redirect_uri": redirect_uri,
            "scope": " ".join(declared.scopes) or None,
            "state": state,
            "code_challenge": challenge,
            "code_challenge_method": "S256",
        }
        query = {name: value for name, value in asked.items() if value}
        show_address(str(httpx.URL(authorize_url).copy_merge_params(query)))
        answer = server.wait(wait_seconds)
    if answer is None:
        others = " A browser brought answers to other questions, which say nothing." if server.others else ""
        raise ConfigurationError(f"Nobody consented at {title} within {wait_seconds:.0f} seconds.{others}")
    if "code" not in answer:
        told = one_line(answer.get("error_description") or answer.get("error") or "no reason").rstrip(".")
        raise ConfigurationError(f"{title} did not consent: {told}.")
    code = answer["code"]
    body = {
        "grant_type": "authorization_code", "code": code, "redirect_uri": redirect_uri, "code_verifier": verifier,
    }  # fmt: skip
    app = {"client_id": client_id, "client_secret": client_secret}
    token = _ask_for_token(
        title, declared, app | {"code": code, "code_verifier": verifier}, body, token_url, time.sleep
    )
    if "refresh_token" not in token:
        raise ConfigurationError(f"{title} sent no refresh token; check the app's registration and scopes.")
    return app | token


@dataclass(frozen=True, slots=True)
class _App:
    """What a request for a token is signed with; see `http.Credential`."""

    header: str | None = field(repr=False)
    secrets: Sequence[str] = field(repr=False)
    kind: ClassVar[str] = "app"

    def sign(self, request: httpx.Request) -> None:
        if self.header:
            request.headers["Authorization"] = self.header

    def renew(self, refused: httpx.Request) -> bool:
        return False


def _ask_for_token(
    title: str,
    declared: OAuth | ServerToServer,
    fields: Mapping[str, str],
    body: Mapping[str, str],
    token_url: str,
    sleep: Callable[[float], None],
) -> dict[str, Any]:
    client_id, client_secret = fields["client_id"], fields["client_secret"]
    basic = base64.b64encode(f"{client_id}:{client_secret}".encode()).decode()
    known = [basic, *(fields[name] for name in _SECRET if name in fields)]
    if declared.client_authentication == "basic":
        app = _App(f"Basic {basic}", known)
    else:
        app = _App(None, known)
        body = {**body, "client_id": client_id, "client_secret": client_secret}
    headers = {"Content-Type": "application/x-www-form-urlencoded", "Accept": "application/json"}
    with HttpClient(title, token_url, app, sleep=sleep) as http:
        try:
            content = urlencode(body).encode()
            response = http.send("POST", token_url, headers=headers, content=content, raises=False, expects_json=True)
        except HttpError as error:  # after all attempts; what we hold may still be good
            raise SourceUnavailableError(f"No access token could be had: {error}") from None
    asked_at = time.time()
    content = response.content[:_LONGEST_TOKEN_ANSWER]
    try:
        answer = json.loads(content)
        problem = answer.get("error")
    except (ValueError, AttributeError, RecursionError):
        answer, problem = {}, None
    if problem or not response.is_success:
        raise _refusal(title, response, problem, known)
    try:
        lifetime = float(answer.get("expires_in") or _SECONDS_IF_UNSAID)
    except (ValueError, TypeError, OverflowError):
        lifetime = math.nan
    scope = answer.get("scope")
    found = {
        "access_token": answer.get("access_token"),
        "refresh_token": answer.get("refresh_token"),
        "scope": " ".join(map(str, scope)) if isinstance(scope, list) else scope,
    }
    new = {name: value for name, value in found.items() if value and isinstance(value, str)}
    if "access_token" not in new or not math.isfinite(lifetime):
        raise SourceUnavailableError(f"{title} sent something that is no token.")
    return {**new, "expires_at": asked_at + lifetime, "lifetime": lifetime}


def _refusal(title: str, response: httpx.Response, problem: Any, known: Sequence[str]) -> Exception:
    """Return what a refused token means: only `invalid_grant` says that the consent is gone."""
    _, told = describe_body(response, known)
    status = response.status_code
    message = f"{title} gave no access token ({status}{f': {told}' if told else ''})."
    if problem == "invalid_grant":
        message = f"{message} Its access has ended: run `import-pipeline connect` for {title} again."
        return ReconnectError(message, status=status, code=problem)
    if problem in ("invalid_client", "unauthorized_client"):
        message = f"{message} The app's id or secret is wrong: run `import-pipeline connect` again."
    elif not isinstance(problem, str):  # not the provider's own words, but of something that stands before it
        return SourceUnavailableError(message)
    return HttpError(message, status=status, code=problem, error_class="auth")


class _Callback(ThreadingTCPServer):
    """Waits on the loopback interface for the browser to come back with the answer to one question.

    Any page and any program of this machine can send something here; only what knows the state is listened to, and
    nothing else ends the waiting. With a thread for each connection: browsers open some ahead, and say nothing on them.

    Args:
        port: Where to listen; 0 lets the system choose.
        state: What the question was asked with.

    Attributes:
        others: How many answers belonged to other questions.
    """

    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = 64

    def __init__(self, port: int, state: str) -> None:
        self.others = 0
        self._state = state.encode()
        self._answered = threading.Event()
        self._answer: dict[str, str] | None = None
        self._open: deque[socket.socket] = deque()
        self._lock = threading.Lock()
        super().__init__(("127.0.0.1", port), _Handler)

    def wait(self, seconds: float) -> dict[str, str] | None:
        threading.Thread(target=self.serve_forever, args=(0.1,), daemon=True).start()
        try:
            self._answered.wait(seconds)
        finally:
            self.shutdown()
        return self._answer

    def read(self, host: str | None, query: str) -> dict[str, str] | None:
        """Return an answer to our question, with a code or an error; of anything else nothing."""
        asked = parse_qs(query, keep_blank_values=True, max_num_fields=20)
        answer = {name: values[0] for name, values in asked.items() if len(values) == 1}
        # A name that means this machine came out of somebody's page. State is compared in constant time.
        port = self.server_address[1]
        is_ours = host == ("127.0.0.1" if port == 80 else f"127.0.0.1:{port}")
        if is_ours and secrets.compare_digest(answer.get("state", "").encode("utf-8", "replace"), self._state):
            kept = {name: answer[name] for name in ("code", "error", "error_description") if answer.get(name)}
            if ("code" in kept) != ("error" in kept):
                return kept
        with self._lock:
            self.others += 1
        return None

    def take(self, answer: dict[str, str]) -> None:
        with self._lock:
            if self._answer is None:
                self._answer = answer
        self._answered.set()

    def process_request(self, request: Any, client_address: Any) -> None:
        """Keep so many connections open at most: a client that opens more and says nothing loses its oldest one."""
        self._open.append(request)
        if len(self._open) > _MAX_CONNECTIONS:
            with suppress(OSError):  # most have ended long ago
                self._open.popleft().shutdown(socket.SHUT_RDWR)
        super().process_request(request, client_address)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: a browser may hang up whenever it likes."""


class _Handler(BaseHTTPRequestHandler):
    server: _Callback
    timeout = 10

    def do_GET(self) -> None:
        address = urlsplit(self.path)
        if address.path != "/callback":  # browsers ask for an icon
            self.send_error(404)
            return
        try:
            answer = self.server.read(self.headers.get("Host"), address.query)
        except ValueError:  # more fields than anybody sends
            answer = None
        if answer is None:
            self._say(400, "This is not the answer to the question that was asked last; nothing was changed by it.")
            return
        try:
            self._say(200, "You may close this window and go back to the terminal.")
        finally:  # afterwards, since the process may end then
            self.server.take(answer)

    def _say(self, status: int, text: str) -> None:
        body = f"<!doctype html><meta charset=utf-8><title>import-pipeline</title><p>{text}</p>".encode()
        self.send_response(status)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.send_header("Referrer-Policy", "no-referrer")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing: the address holds the code."""


def _listen(port: int, state: str) -> _Callback:
    try:
        return _Callback(port, state)
    except OSError as error:
        raise ConfigurationError(
            f"Port {port} of this machine cannot be listened on ({error.strerror}); choose another with --port."
        ) from None
