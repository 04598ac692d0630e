"""An OAuth 2.0 server for the fakes: consent by redirect, tokens that end and rotate, and ways to lose them.

Where it is mounted and what a refusal looks like beyond its `error` is up to the provider.
"""

from __future__ import annotations

import base64
import hashlib
import secrets
import threading
import time
from dataclasses import dataclass, field, replace
from typing import Any, Literal
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from .server import Request, Response

REASONS = {
    "invalid_client": "Invalid client_id or client_secret",
    "invalid_grant": "Invalid Token!",
    "invalid_request": "Bad request",
    "unsupported_grant_type": "Unsupported grant type",
}


@dataclass(eq=False)
class Connection:
    """What one consent gave: it lives on through every rotation.

    Args:
        name: What the log and the limits call it.
        user: Whose it is.
        scope: What was allowed.
        acts_for_account: It came from a server-to-server grant.
        is_revoked: Nothing of it works any more.
    """

    name: str
    user: str | None = None
    scope: str = ""
    acts_for_account: bool = False
    is_revoked: bool = False


@dataclass(frozen=True, slots=True)
class Tokens:
    """What the token address hands out."""

    access_token: str
    refresh_token: str | None
    expires_in: int
    connection: Connection


@dataclass(eq=False, slots=True)
class _AccessToken:
    connection: Connection
    expires_at: float
    is_replaced: bool = False


@dataclass(eq=False, slots=True)
class _RefreshToken:
    connection: Connection
    access_token: str
    uses_left: int = 1


@dataclass(kw_only=True, eq=False)
class OAuth:
    """The authorisation server of a fake. Every field is a switch that may be changed while it runs.

    Args:
        client_id: The one client there is.
        client_secret: Its secret.
        client_authentication: How the client must prove itself: only this form is accepted.
        account_id: For the grant `account_credentials`; None: there is no such grant.
        user: Who consents.
        scope: What consent allows.
        account_scope: What `account_credentials` allows.
        expires_in: Life of an access token in seconds.
        rotates: Each refresh returns a new refresh token, and the old one is dead. Otherwise it returns none.
        invalidates_old_access_token: A refresh also ends the access token from before.
        redirect_uris: Allowed ones; None: any on this machine.
        names_errors_with_reason: Refusals have a `reason` beside `error`.
        status_of_invalid_client: 400 or 401.
        denies_consent: The person says no.
        fail_next: Statuses with which the next token requests are answered, in order, without doing anything.
        lose_next_answer: How many of the next refreshes are carried out but not answered.
        grace_uses: How often an old refresh token works once more when the answer with its successor was lost.
        latency: Seconds that a token request takes longer, while it holds no lock.
        token_requests: Counts all of them.
        exchanges: Counts codes that became tokens.
        refreshes: Counts refreshes that were carried out.
        refused_refreshes: Counts refreshes with a token that did not work any more.
        account_grants: Counts `account_credentials`.
    """

    client_id: str
    client_secret: str
    client_authentication: Literal["basic", "body"] = "basic"
    account_id: str | None = None
    user: str | None = None
    scope: str = ""
    account_scope: str = ""
    expires_in: int = 3600
    rotates: bool = True
    invalidates_old_access_token: bool = False
    redirect_uris: tuple[str, ...] | None = None
    names_errors_with_reason: bool = False
    status_of_invalid_client: int = 400
    denies_consent: bool = False
    fail_next: list[int] = field(default_factory=list)
    lose_next_answer: int = 0
    grace_uses: int = 0
    latency: float = 0.0
    token_requests: int = 0
    exchanges: int = 0
    refreshes: int = 0
    refused_refreshes: int = 0
    account_grants: int = 0

    def __post_init__(self) -> None:
        self._lock = threading.RLock()
        self._codes: dict[str, dict[str, Any]] = {}
        self._access: dict[str, _AccessToken] = {}
        self._refresh: dict[str, _RefreshToken] = {}
        self.connections: list[Connection] = []

    # By hand

    def issue(
        self,
        user: str | None = None,
        *,
        scope: str | None = None,
        expires_in: float | None = None,
        access_token: str | None = None,
        refresh_token: str | None = None,
    ) -> Tokens:
        """Open a connection as if somebody had consented.

        Args:
            user: Whose; by default that of the switch.
            scope: What is allowed; by default that of the switch.
            expires_in: Life of this access token; 0 or less: it has ended already.
            access_token: What it shall be called.
            refresh_token: What that shall be called.
        """
        with self._lock:
            connection = self._open(user or self.user, self.scope if scope is None else scope)
            return self._issue(connection, expires_in, access_token, refresh_token)

    def revoke(self, connection: Connection | None = None) -> None:
        """End a connection, or all of them: its access and refresh tokens are dead."""
        with self._lock:
            for each in [connection] if connection else self.connections:
                each.is_revoked = True

    def expire_access_tokens(self) -> None:
        """End all access tokens; refresh tokens still work."""
        with self._lock:
            for token in self._access.values():
                token.expires_at = 0.0

    def check(self, access_token: str) -> tuple[Connection | None, Literal["valid", "expired", "invalid"]]:
        """Return whom an access token stands for, and whether it works."""
        with self._lock:
            token = self._access.get(access_token)
            if token is None:
                return None, "invalid"
            if token.is_replaced or token.connection.is_revoked:
                return token.connection, "invalid"
            return token.connection, "valid" if time.monotonic() < token.expires_at else "expired"

    def identify(self, request: Request) -> str:
        """Return the client that a token request names, for the log."""
        basic = _basic(request)
        return f"client:{basic[0] if basic else request.form.get('client_id', '')}"

    # Over HTTP

    def authorize(self, request: Request) -> Response:
        """Answer the consent page: a redirect with code and state."""
        asked = {name: values[-1] for name, values in request.query.items()}
        redirect_uri = asked.get("redirect_uri", "")
        if asked.get("client_id") != self.client_id:
            return Response.html("<h1>Invalid client_id (4,702)</h1>", 400)
        if not self._allows(redirect_uri):
            return Response.html("<h1>Invalid redirect (4,709)</h1>", 400)
        answer = {"state": asked["state"]} if "state" in asked else {}
        if asked.get("response_type") != "code":
            return _redirect(redirect_uri, {"error": "unsupported_response_type"} | answer)
        if self.denies_consent:
            return _redirect(redirect_uri, {"error": "access_denied"} | answer)
        if "code_challenge" in asked and asked.get("code_challenge_method") != "S256":
            return _redirect(redirect_uri, {"error": "invalid_request"} | answer)
        code = secrets.token_urlsafe(16)
        with self._lock:
            self._codes[code] = {
                "redirect_uri": redirect_uri,
                "challenge": asked.get("code_challenge"),
                "until": time.monotonic() + 300,
            }
        return _redirect(redirect_uri, {"code": code} | answer)

    def token(self, request: Request) -> Response:
        """Answer the token address."""
        with self._lock:
            self.token_requests += 1
            failure = self.fail_next.pop(0) if self.fail_next else None
        if self.latency:
            time.sleep(self.latency)
        if failure:
            return Response.json({"error": "temporarily_unavailable"}, failure)
        if not self._knows(request):
            return self._refuse("invalid_client", self.status_of_invalid_client)
        form = request.form
        with self._lock:
            match form.get("grant_type"):
                case "authorization_code":
                    return self._exchange(form)
                case "refresh_token":
                    return self._rotate(form.get("refresh_token", ""))
                case "account_credentials" if self.account_id is not None:
                    return self._grant_account(form.get("account_id"))
                case _:
                    return self._refuse("unsupported_grant_type")

    def _exchange(self, form: dict[str, str]) -> Response:
        code = self._codes.pop(form.get("code", ""), None)  # any attempt uses it up
        if not code or time.monotonic() > code["until"] or form.get("redirect_uri") != code["redirect_uri"]:
            return self._refuse("invalid_grant")
        if code["challenge"] is not None and _challenge(form.get("code_verifier", "")) != code["challenge"]:
            return self._refuse("invalid_grant")
        self.exchanges += 1
        return self._hand_out(self._issue(self._open(self.user, self.scope)))

    def _rotate(self, refresh_token: str) -> Response:
        known = self._refresh.get(refresh_token)
        if not known or known.uses_left < 1 or known.connection.is_revoked:
            self.refused_refreshes += 1
            return self._refuse("invalid_grant")
        is_lost = self.lose_next_answer > 0
        if is_lost:
            self.lose_next_answer -= 1
        if self.rotates:
            known.uses_left = self.grace_uses if is_lost else 0
        if self.invalidates_old_access_token and known.access_token in self._access:
            self._access[known.access_token].is_replaced = True
        self.refreshes += 1
        tokens = self._issue(known.connection, refresh_token=None if self.rotates else refresh_token)
        response = self._hand_out(tokens if self.rotates else replace(tokens, refresh_token=None))
        response.is_lost = is_lost
        return response

    def _grant_account(self, account_id: str | None) -> Response:
        if account_id != self.account_id:
            return self._refuse("invalid_request")
        self.account_grants += 1
        connection = next((each for each in self.connections if each.acts_for_account and not each.is_revoked), None)
        connection = connection or self._open(None, self.account_scope, acts_for_account=True)
        access_token = secrets.token_urlsafe(24)
        self._access[access_token] = _AccessToken(connection, time.monotonic() + self.expires_in)
        return self._hand_out(Tokens(access_token, None, self.expires_in, connection))

    def _open(self, user: str | None, scope: str, acts_for_account: bool = False) -> Connection:
        name = f"connection-{len(self.connections) + 1}"
        self.connections.append(Connection(name, user, scope, acts_for_account))
        return self.connections[-1]

    def _issue(
        self,
        connection: Connection,
        expires_in: float | None = None,
        access_token: str | None = None,
        refresh_token: str | None = None,
    ) -> Tokens:
        life = self.expires_in if expires_in is None else expires_in
        access_token = access_token or secrets.token_urlsafe(24)
        refresh_token = refresh_token or secrets.token_urlsafe(24)
        self._access[access_token] = _AccessToken(connection, time.monotonic() + life)
        self._refresh[refresh_token] = _RefreshToken(connection, access_token)
        return Tokens(access_token, refresh_token, int(life), connection)

    def _hand_out(self, tokens: Tokens) -> Response:
        document = {
            "access_token": tokens.access_token,
            "token_type": "bearer",
            "refresh_token": tokens.refresh_token,
            "expires_in": tokens.expires_in,
            "scope": tokens.connection.scope,
        }
        if tokens.refresh_token is None:
            del document["refresh_token"]
        return Response.json(document, Cache_Control="no-store")

    def _knows(self, request: Request) -> bool:
        basic, form = _basic(request), request.form
        if self.client_authentication == "basic":
            return basic == (self.client_id, self.client_secret)
        return not basic and (form.get("client_id"), form.get("client_secret")) == (self.client_id, self.client_secret)

    def _allows(self, redirect_uri: str) -> bool:
        if self.redirect_uris is not None:
            return redirect_uri in self.redirect_uris
        return urlsplit(redirect_uri).hostname in ("127.0.0.1", "localhost", "::1")

    def _refuse(self, error: str, status: int = 400) -> Response:
        reason = {"reason": REASONS[error]} if self.names_errors_with_reason else {}
        return Response.json(reason | {"error": error}, status)


def _basic(request: Request) -> tuple[str, str] | None:
    kind, _, value = request.headers.get("authorization", "").partition(" ")
    if kind.lower() != "basic":
        return None
    try:
        client_id, _, secret = base64.b64decode(value).decode().partition(":")
    except ValueError:
        return ("", "")
    return client_id, secret


def _challenge(verifier: str) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).decode().rstrip("=")


def _redirect(uri: str, parameters: dict[str, str]) -> Response:
    parts = urlsplit(uri)
    query = urlencode([*parse_qsl(parts.query, keep_blank_values=True), *parameters.items()])
    return Response(302, headers={"Location": urlunsplit(parts._replace(query=query))})
