"""Secrets of accounts: encrypted, renewed by one at a time, never lost, never shown; and consent in a browser."""

from __future__ import annotations

import base64
import copy
import json
import logging
import os
import pickle
import socket
import stat
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote, urlencode, urlsplit
from uuid import UUID, uuid4

import httpx
import psycopg
import pytest
import tenants
from commands import start_together
from cryptography.fernet import Fernet
from fakes import FakeServer, OAuth
from fakes.server import Request, Response

from import_pipeline.database.connections import Connect
from import_pipeline.errors import ConfigurationError, HttpError, ReconnectError, SourceUnavailableError
from import_pipeline.library.accounts import ensure_account
from import_pipeline.providers import credentials, oauth
from import_pipeline.providers.authentication import ApiKey, Authentication, ServerToServer
from import_pipeline.providers.authentication import OAuth as DeclaredOAuth
from import_pipeline.providers.credentials import (
    StoredCredential,
    find_options,
    forget_credential,
    rotate_keys,
    store_credential,
)
from import_pipeline.providers.error_answers import redact
from import_pipeline.providers.http import HttpClient
from import_pipeline.providers.keys import (
    KeyRing,
    Secrets,
    open_key_ring,
)

Connection = psycopg.Connection[Any]

CLIENT_SECRET = "client+Canary&secret=="
KEY = "key+Canary&4711=="


@dataclass(kw_only=True, eq=False)
class Site(FakeServer):
    """A provider with an API that wants a bearer token, and where to get one."""

    oauth: OAuth = field(default_factory=lambda: OAuth(client_id="app", client_secret=CLIENT_SECRET, account_id="acme"))
    before_token: Callable[[Request], Response | None] = lambda _: None
    after_token: Callable[[Response], Response] = lambda response: response
    before_call: Callable[[Request], Response | None] = lambda _: None

    def answer(self, request: Request, *_: Any) -> Response:
        if request.path == "/oauth/authorize":
            return self.oauth.authorize(request)
        if request.path == "/oauth/token":
            return self.before_token(request) or self.after_token(self.oauth.token(request))
        if answer := self.before_call(request):
            return answer
        _, state = self.oauth.check(request.bearer or "")
        return Response.json({"state": state}, 200 if state == "valid" else 401)


@pytest.fixture
def site() -> Iterator[Site]:
    with Site() as running:
        yield running


@pytest.fixture
def user(conn: Connection) -> tenants.User:
    conn.autocommit = True
    return tenants.make_user(conn)


@pytest.fixture
def account_id(conn: Connection, user: tenants.User) -> UUID:
    return ensure_account(conn, user.id, "demo")


@pytest.fixture
def ring() -> KeyRing:
    return KeyRing([Fernet.generate_key().decode()])


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """No pauses between attempts, of which there are three."""
    monkeypatch.setattr("import_pipeline.providers.http.attempts._JITTER", lambda _: 0.0)
    monkeypatch.setitem(HttpClient.__init__.__kwdefaults__, "max_attempts", 3)


@dataclass
class Demo:
    """An account at the site, and credentials as several processes would open them."""

    conn: Connection
    connect: Connect
    ring: KeyRing
    site: Site
    user: tenants.User
    account_id: UUID

    @property
    def declared(self) -> tuple[Authentication, ...]:
        token_url = f"{self.site.url}/oauth/token"
        return (
            DeclaredOAuth(f"{self.site.url}/oauth/authorize", token_url, ("read",)),
            ServerToServer(token_url, "account_credentials"),
            ApiKey(header="X-Api-Key"),
        )

    def keep(self, secrets: Secrets, options: dict[str, Any] | None = None) -> None:
        store_credential(self.conn, self.ring, self.account_id, self.user.id, secrets, options or {})

    def keep_oauth(self, expires_in: float = 3600, **changes: Any) -> None:
        tokens = self.site.oauth.issue(expires_in=expires_in)
        fields = {
            "client_id": "app",
            "client_secret": CLIENT_SECRET,
            "access_token": tokens.access_token,
            "refresh_token": tokens.refresh_token,
            "expires_at": time.time() + expires_in,
            "lifetime": 3600,
        }
        self.keep(Secrets("oauth", fields | changes))

    def open(self, *declared: Authentication) -> StoredCredential:
        wanted = declared or self.declared
        return StoredCredential(self.account_id, self.user.id, "demo", "Demo", wanted, self.ring, self.connect)

    def client(self, *declared: Authentication) -> HttpClient:
        return HttpClient("Demo", self.site.url, self.open(*declared))

    @property
    def kept(self) -> dict[str, Any]:
        row = self.conn.execute("select secret from import_pipeline.credentials").fetchone()
        assert row is not None
        return self.ring.decrypt(self.account_id, row[0]).fields


@pytest.fixture
def demo(conn: Connection, connect: Connect, ring: KeyRing, site: Site, user: tenants.User, account_id: UUID) -> Demo:
    return Demo(conn, connect, ring, site, user, account_id)


# At rest


def test_secrets_are_stored_encrypted(demo: Demo) -> None:
    demo.keep(Secrets("api-key", {"api_key": KEY}), {"addresses": ["@channel"]})
    row = demo.conn.execute("select secret, options from import_pipeline.credentials").fetchone()
    assert row is not None
    assert b"Canary" not in bytes(row[0])
    assert b"Canary" not in base64.urlsafe_b64decode(bytes(row[0]))
    assert demo.kept == {"api_key": KEY}
    assert find_options(demo.conn, demo.account_id, demo.user.id) == {"addresses": ["@channel"]}


def test_a_row_that_was_copied_to_another_account_is_refused(demo: Demo) -> None:
    other = tenants.make_user(demo.conn, "eva@example.com")
    stolen = ensure_account(demo.conn, other.id, "demo")
    demo.keep(Secrets("api-key", {"api_key": KEY}))
    demo.conn.execute(
        "insert into import_pipeline.credentials select %s, secret from import_pipeline.credentials", [stolen]
    )
    demo.account_id = stolen
    with pytest.raises(ReconnectError, match="not connected"):
        demo.open().check()  # the database shows it to Eva alone
    demo.user = other
    with pytest.raises(ConfigurationError, match="another account"):
        demo.open().check()


def test_another_key_is_told_from_a_missing_credential(demo: Demo) -> None:
    with pytest.raises(ReconnectError, match="not connected: run `import-pipeline connect demo`"):
        demo.open().check()
    demo.keep(Secrets("api-key", {"api_key": KEY}))
    old = demo.ring.keys
    demo.ring = KeyRing([Fernet.generate_key().decode()])
    with pytest.raises(ConfigurationError, match="IMPORT_PIPELINE_SECRET_KEY holds another key"):
        demo.open().check()
    demo.ring = KeyRing([*demo.ring.keys, *old])
    demo.open().check()


def test_a_kind_that_is_no_longer_declared_wants_a_new_connection(demo: Demo) -> None:
    demo.keep(Secrets("api-key", {"api_key": KEY}))
    with pytest.raises(ReconnectError, match="no longer accepts"):
        demo.open(demo.declared[0]).check()


def test_a_forgotten_credential_is_gone_and_its_account_inactive(demo: Demo) -> None:
    demo.keep(Secrets("api-key", {"api_key": KEY}))
    assert forget_credential(demo.conn, demo.account_id, demo.user.id)
    assert not forget_credential(demo.conn, demo.account_id, demo.user.id)
    assert demo.conn.execute("select is_active from public.import_sources").fetchall() == [(False,)]
    assert find_options(demo.conn, demo.account_id, demo.user.id) is None


# Keys


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("IMPORT_PIPELINE_HOME", str(tmp_path))
    return tmp_path


def test_the_embedded_database_has_a_key_file_that_only_its_owner_may_read(home: Path) -> None:
    before = os.umask(0)
    try:
        ring = open_key_ring(is_embedded=True)
    finally:
        os.umask(before)
    assert [path.name for path in home.iterdir()] == ["secret.key"]
    assert stat.S_IMODE((home / "secret.key").stat().st_mode) == 0o600
    assert open_key_ring(is_embedded=True).keys == ring.keys == (home / "secret.key").read_text().split()


def test_processes_that_make_the_key_file_at_once_agree(home: Path) -> None:
    program = (
        "import sys\nfrom import_pipeline.providers.keys import open_key_ring\nsys.stdin.readline()\n"
        "sys.stdout.write(open_key_ring(is_embedded=True).keys[0])"
    )
    running = [
        subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    assert len({each.communicate("\n")[0] for each in running}) == 1
    assert [path.name for path in home.iterdir()] == ["secret.key"]


def test_threads_that_make_the_key_file_at_once_agree(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "exists", lambda _: False)  # as each of them finds it
    with ThreadPoolExecutor(8) as executor:
        keys = executor.map(lambda _: open_key_ring(is_embedded=True).keys[0], range(8))
    assert len(set(keys)) == 1


def test_the_environment_gives_the_keys(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigurationError, match="IMPORT_PIPELINE_SECRET_KEY holds no key"):
        open_key_ring(is_embedded=False)
    keys = [Fernet.generate_key().decode() for _ in range(2)]
    monkeypatch.setenv("IMPORT_PIPELINE_SECRET_KEY", ", ".join(keys))
    assert open_key_ring(is_embedded=False).keys == open_key_ring(is_embedded=True).keys == keys
    assert list(home.iterdir()) == []
    for wrong in ("Canary", f"{keys[0]},Canary", "ü" * 44):
        monkeypatch.setenv("IMPORT_PIPELINE_SECRET_KEY", wrong)
        with pytest.raises(ConfigurationError, match="does not hold a Fernet key") as caught:
            open_key_ring(is_embedded=False)
        assert redact(_everything(caught.value), ["Canary", keys[0], "üüü"]) == _everything(caught.value)


@pytest.mark.parametrize("content", ["", "Canary"])
def test_a_broken_key_file_is_named(home: Path, content: str) -> None:
    (home / "secret.key").write_text(content)
    with pytest.raises(ConfigurationError, match=r"secret\.key does not hold a Fernet key"):
        open_key_ring(is_embedded=True)


def test_a_key_file_that_cannot_be_read_is_named(home: Path) -> None:
    ring = open_key_ring(is_embedded=True)
    (home / "secret.key").unlink()
    with pytest.raises(ConfigurationError, match="cannot be read: No such file"):
        ring.encrypt(uuid4(), Secrets("api-key", {}))


def _connect_people(demo: Demo, ring: KeyRing) -> list[tuple[UUID, tenants.User]]:
    accounts = []
    for name in ("ben", "eva", "fay"):
        user = tenants.make_user(demo.conn, f"{name}@example.com")
        account_id = ensure_account(demo.conn, user.id, "demo")
        store_credential(demo.conn, ring, account_id, user.id, Secrets("api-key", {"api_key": name}), {})
        accounts.append((account_id, user))
    return accounts


def _read(demo: Demo, ring: KeyRing) -> set[str]:
    rows = demo.conn.execute("select account_id, secret from import_pipeline.credentials").fetchall()
    return {ring.decrypt(account_id, secret).fields["api_key"] for account_id, secret in rows}


def test_keys_of_the_environment_are_rotated(demo: Demo) -> None:
    old, new = (Fernet.generate_key().decode() for _ in range(2))
    _connect_people(demo, KeyRing([old]))
    assert rotate_keys(demo.conn, KeyRing([new, old])) == 3
    assert _read(demo, KeyRing([new])) == {"ben", "eva", "fay"}


def test_the_key_file_is_rotated_under_running_processes(demo: Demo, home: Path) -> None:
    running = demo.ring = open_key_ring(is_embedded=True)
    before = running.keys
    _connect_people(demo, running)
    demo.keep_oauth(expires_in=-1)
    assert rotate_keys(demo.conn, open_key_ring(is_embedded=True)) == 4
    assert len(running.keys) == 1
    assert running.keys != before
    with demo.client() as client:
        assert client.get_json("/calls") == {"state": "valid"}
    demo.conn.execute("delete from import_pipeline.credentials where account_id = %s", [demo.account_id])
    assert _read(demo, open_key_ring(is_embedded=True)) == {"ben", "eva", "fay"}
    assert [path.name for path in home.iterdir()] == ["secret.key"]
    assert stat.S_IMODE((home / "secret.key").stat().st_mode) == 0o600


def test_a_rotation_that_breaks_off_loses_nothing(demo: Demo, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ring = open_key_ring(is_embedded=True)
    accounts = _connect_people(demo, ring)
    encrypt = KeyRing.encrypt

    def break_off(ring: KeyRing, account_id: UUID, secrets: Secrets) -> bytes:
        if secrets.fields["api_key"] == "eva":
            raise KeyboardInterrupt
        return encrypt(ring, account_id, secrets)

    monkeypatch.setattr(KeyRing, "encrypt", break_off)
    with pytest.raises(KeyboardInterrupt):
        rotate_keys(demo.conn, ring)
    monkeypatch.undo()
    assert _read(demo, KeyRing(file=home / "secret.key")) == {"ben", "eva", "fay"}
    stranger = KeyRing([Fernet.generate_key().decode()]).encrypt(accounts[1][0], Secrets("api-key", {}))
    demo.conn.execute(
        "update import_pipeline.credentials set secret = %s where account_id = %s", [stranger, accounts[1][0]]
    )
    with pytest.raises(ConfigurationError, match="cannot be decrypted"):
        rotate_keys(demo.conn, ring)
    demo.conn.execute("delete from import_pipeline.credentials where account_id = %s", [accounts[1][0]])
    assert _read(demo, KeyRing(file=home / "secret.key")) == {"ben", "fay"}
    assert [path.name for path in home.iterdir()] == ["secret.key"]


# Use


def test_a_key_is_sent_as_declared(demo: Demo) -> None:
    demo.keep(Secrets("api-key", {"api_key": KEY}))
    demo.site.before_call = lambda request: Response.json({})
    for declared in (ApiKey(header="X-Api-Key"), ApiKey(parameter="key")):
        with demo.client(declared) as client:
            assert client.kind == "api-key"
            client.get_json("/calls", {"a": "b"})
    header, parameter = demo.site.requests
    assert (header.headers["x-api-key"], header.query) == (KEY, {"a": ["b"]})
    assert parameter.query == {"a": ["b"], "key": [KEY]}


@pytest.mark.parametrize("key", ["two words", "line\nfeed", "schlüssel", "", "nul\x00"])
def test_a_key_that_cannot_be_sent_is_an_error_that_does_not_quote_it(demo: Demo, key: str) -> None:
    demo.keep(Secrets("api-key", {"api_key": key}))
    with demo.client() as client, pytest.raises(ReconnectError, match="cannot be sent") as caught:
        client.get_json("/calls")
    assert not key or key not in _everything(caught.value)


def test_a_fresh_token_is_used_as_it_is(demo: Demo) -> None:
    demo.keep_oauth()
    with demo.client() as client:
        for _ in range(3):
            assert client.get_json("/calls") == {"state": "valid"}
    assert demo.site.oauth.token_requests == 0


@pytest.mark.parametrize("authentication", ["basic", "body"])
def test_a_stale_token_is_renewed_and_stored_before_it_is_used(demo: Demo, authentication: Any) -> None:
    """F42, F44."""
    demo.site.oauth.client_authentication = authentication
    demo.keep_oauth(expires_in=60)  # not yet over, but it would be soon
    first = demo.kept
    used: list[bool] = []
    demo.site.before_call = lambda request: used.append(demo.kept["access_token"] == request.bearer)  # type: ignore[func-returns-value]
    declared = DeclaredOAuth("https://unused.example", f"{demo.site.url}/oauth/token", (), authentication)
    with demo.client(declared) as client:
        assert client.get_json("/calls") == {"state": "valid"}
    assert used == [True]
    assert demo.site.oauth.refreshes == 1
    assert demo.kept["refresh_token"] != first["refresh_token"]
    assert demo.kept["client_secret"] == CLIENT_SECRET
    assert demo.kept["expires_at"] > time.time() + 3000
    demo.open(declared).check()
    assert demo.site.oauth.token_requests == 1


def test_a_token_address_of_the_environment_is_asked(demo: Demo, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IMPORT_PIPELINE_DEMO_TOKEN_URL", f"{demo.site.url}/oauth/token")
    demo.keep_oauth(expires_in=-1)
    demo.open(DeclaredOAuth("https://unused.example", "https://unused.example/token")).check()
    assert demo.site.oauth.refreshes == 1


def test_a_short_lived_token_is_not_renewed_for_every_request(demo: Demo) -> None:
    demo.site.oauth.expires_in = 60
    demo.keep_oauth(expires_in=-1)
    with demo.client() as client:
        for _ in range(3):
            client.get_json("/calls")
    assert demo.site.oauth.token_requests == 1


def test_another_process_finds_the_token_that_one_has_got(demo: Demo) -> None:
    """F44."""
    demo.keep_oauth()
    one, another = demo.open(), demo.open()
    one.check()
    another.check()
    demo.site.oauth.expire_access_tokens()
    for credential in (one, another, one, another):
        with HttpClient("Demo", demo.site.url, credential) as client:
            assert client.get_json("/calls") == {"state": "valid"}
    assert demo.site.oauth.token_requests == 1


def test_a_token_that_was_revoked_early_is_renewed_once(demo: Demo) -> None:
    demo.keep_oauth()
    with demo.client() as client:
        client.get_json("/calls")
        demo.site.oauth.expire_access_tokens()
        assert client.get_json("/calls") == {"state": "valid"}
        demo.site.before_call = lambda _: Response.json({"error": "never"}, 401)
        with pytest.raises(ReconnectError):
            client.get_json("/calls")
    assert demo.site.oauth.token_requests == 2


def test_a_refused_file_does_not_renew_the_token(demo: Demo) -> None:
    demo.keep_oauth()
    demo.site.before_call = lambda request: Response(401) if request.path == "/file" else None
    with demo.client() as client:
        with pytest.raises(HttpError):
            client.get_bytes("/file")
        assert client.get_json("/calls") == {"state": "valid"}
    assert demo.site.oauth.token_requests == 0


def test_a_server_to_server_app_has_no_refresh_token(demo: Demo) -> None:
    demo.keep(Secrets("server-to-server", {"client_id": "app", "client_secret": CLIENT_SECRET, "account_id": "acme"}))
    with demo.client() as client:
        assert client.kind == "server-to-server"
        assert client.get_json("/calls") == {"state": "valid"}
        demo.site.oauth.expire_access_tokens()
        assert client.get_json("/calls") == {"state": "valid"}
    assert demo.site.oauth.account_grants == 2
    assert "refresh_token" not in demo.kept
    demo.open().check()
    assert demo.site.oauth.token_requests == 2


# One at a time


PROCESS = """
import sys, time
from uuid import UUID
from contextlib import contextmanager
import psycopg
from import_pipeline.providers.authentication import OAuth, ServerToServer
from import_pipeline.providers.credentials import StoredCredential
from import_pipeline.providers.keys import open_key_ring
from import_pipeline.providers.http import HttpClient

url, site, account_id, user_id = sys.argv[1:]

@contextmanager
def connect():
    with psycopg.connect(url, autocommit=True) as conn:
        yield conn

token_url = f"{site}/oauth/token"
declared = [OAuth("https://unused.example", token_url), ServerToServer(token_url, "account_credentials")]
ring = open_key_ring(is_embedded=False)
credential = StoredCredential(UUID(account_id), UUID(user_id), "demo", "Demo", declared, ring, connect)
sys.stdout.write("ready\\n")
sys.stdout.flush()
sys.stdin.readline()
with HttpClient("Demo", site, credential) as client:
    sys.stdout.write(str(client.get_json("/calls")["state"]))
"""


@pytest.mark.parametrize(
    ("kind", "number"),
    [
        ("oauth", 2),
        pytest.param("oauth", 8, marks=pytest.mark.long),
        pytest.param("server-to-server", 8, marks=pytest.mark.long),
    ],
)
def test_processes_that_need_a_token_at_once_refresh_it_once(
    demo: Demo, database_url: str, number: int, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """F42."""
    monkeypatch.setenv("IMPORT_PIPELINE_SECRET_KEY", demo.ring.keys[0])
    demo.site.oauth.latency = 0.3
    demo.site.oauth.invalidates_old_access_token = True
    if kind == "oauth":
        demo.keep_oauth(expires_in=-1)
    else:
        demo.keep(Secrets(kind, {"client_id": "app", "client_secret": CLIENT_SECRET, "account_id": "acme"}))
    arguments = [database_url, demo.site.url, str(demo.account_id), str(demo.user.id)]
    running = start_together(PROCESS, arguments, number)
    assert [each.communicate()[0] for each in running] == ["valid"] * number
    assert demo.site.oauth.token_requests == 1


@pytest.mark.parametrize("is_revoked", [False, True])
def test_threads_that_need_a_token_at_once_refresh_it_once(demo: Demo, is_revoked: bool) -> None:
    """F42."""
    demo.site.oauth.latency = 0.2
    demo.site.oauth.invalidates_old_access_token = True
    demo.keep_oauth(expires_in=3600 if is_revoked else -1)
    if is_revoked:
        demo.site.oauth.expire_access_tokens()
    with demo.client() as client, ThreadPoolExecutor(8) as executor:
        answers = executor.map(lambda _: client.get_json("/calls"), range(24))
        assert list(answers) == [{"state": "valid"}] * 24
    assert demo.site.oauth.token_requests == 1


@pytest.mark.usefixtures("hasty")
def test_threads_that_wait_for_a_refresh_share_its_failure(demo: Demo) -> None:
    """F43."""
    demo.site.oauth.latency = 0.2
    demo.keep_oauth(expires_in=-1)
    demo.site.oauth.fail_next = [500] * 100
    credential = demo.open()

    def check(_: int) -> type[Exception]:
        with pytest.raises(SourceUnavailableError) as caught:
            credential.check()
        return type(caught.value)

    with ThreadPoolExecutor(8) as executor:
        list(executor.map(check, range(8)))
    assert demo.site.oauth.token_requests == 3
    demo.site.oauth.fail_next = []
    credential.check()


def test_a_refresher_that_hangs_does_not_stop_others_for_good(
    demo: Demo, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(credentials, "_LOCK_SECONDS", 0.05)
    demo.keep_oauth(expires_in=-1)
    with connect() as hung, hung.transaction():
        hung.execute("select from import_pipeline.credentials for update")
        with pytest.raises(SourceUnavailableError, match="Another process"):
            demo.open().check()
    demo.open().check()


# Trouble


@pytest.mark.usefixtures("hasty")
@pytest.mark.parametrize(
    "fault", ["429-retry-after", "429-bare", "408", "500", "503", "disconnect", "truncated", "html"]
)
def test_a_passing_refusal_of_a_refresh_is_tried_again_and_wipes_nothing(demo: Demo, fault: str) -> None:
    """F43."""
    demo.site.oauth.grace_uses = 5
    demo.keep_oauth(expires_in=-1)
    before = demo.kept
    demo.site.faults.retry_after_seconds = 600  # longer than anybody waits
    demo.site.faults.always = {"/oauth/token": fault}
    if fault in ("truncated", "html"):  # the refresh is carried out, its answer lost
        demo.site.oauth.rotates = False
    with demo.client() as client, pytest.raises(SourceUnavailableError):
        client.get_json("/calls")
    assert demo.kept == before
    demo.site.faults.always = {}
    demo.site.faults.next_faults = [] if fault == "429-retry-after" else [fault]
    with demo.client() as client:
        assert client.get_json("/calls") == {"state": "valid"}


@pytest.mark.usefixtures("hasty")
def test_a_token_server_that_hangs_wipes_nothing(demo: Demo, monkeypatch: pytest.MonkeyPatch) -> None:
    """F43, F49."""
    monkeypatch.setenv("IMPORT_PIPELINE_HTTP_TIMEOUT", "0.1")
    demo.keep_oauth(expires_in=-1)
    before = demo.kept
    demo.site.faults.always = {"/oauth/token": "hang"}
    with pytest.raises(SourceUnavailableError, match="in time"):
        demo.open().check()
    assert demo.kept == before


@pytest.mark.usefixtures("hasty")
def test_an_answer_that_was_lost_is_asked_for_again_with_the_old_token(demo: Demo) -> None:
    demo.site.oauth.grace_uses = 1
    demo.site.oauth.lose_next_answer = 1
    demo.keep_oauth(expires_in=-1)
    with demo.client() as client:
        assert client.get_json("/calls") == {"state": "valid"}
    assert demo.site.oauth.refreshes == 2
    demo.site.oauth.grace_uses = 0
    demo.site.oauth.lose_next_answer = 1
    demo.site.oauth.expire_access_tokens()
    with demo.client() as client, pytest.raises(ReconnectError):
        client.get_json("/calls")


@pytest.mark.parametrize("status", [200, 400, 401])
def test_only_invalid_grant_asks_for_a_new_connection(demo: Demo, status: int) -> None:
    """F43."""
    demo.keep_oauth(expires_in=-1)
    before = demo.kept
    for problem, expected in [
        ({"error": "invalid_grant", "reason": "Invalid Token!"}, ReconnectError),
        ({"error": "invalid_client"}, HttpError),
        ({"error": "invalid_request", "reason": "The app was switched off."}, HttpError),
        ({"error": {"message": "no OAuth"}}, SourceUnavailableError),
        ({"message": "blocked"} if status != 200 else {"access_token": None}, SourceUnavailableError),
        ({"access_token": ["x"]} if status == 200 else {}, SourceUnavailableError),
        ({"access_token": "a", "expires_in": "soon"} if status == 200 else {}, SourceUnavailableError),
    ]:
        demo.site.before_token = lambda _, problem=problem: Response.json(problem, status)  # type: ignore[misc]
        with pytest.raises(expected) as caught:
            demo.open().check()
        assert type(caught.value) is expected
        if isinstance(caught.value, HttpError):
            assert caught.value.error_class == "auth"
    assert demo.kept == before
    demo.site.before_token = lambda _: None
    demo.open().check()


def test_a_new_token_survives_that_the_database_hung_up_meanwhile(demo: Demo) -> None:
    demo.keep_oauth(expires_in=-1)

    def hang_up(response: Response) -> Response:
        demo.conn.execute(
            "select pg_terminate_backend(pid) from pg_stat_activity"
            " where datname = current_database() and pid <> pg_backend_pid() and state = 'idle in transaction'"
        )
        return response

    demo.site.after_token = hang_up
    with demo.client() as client:
        assert client.get_json("/calls") == {"state": "valid"}
    assert demo.site.oauth.check(demo.kept["access_token"])[1] == "valid"
    assert demo.site.oauth.refreshes == 1
    demo.site.after_token = lambda response: response
    demo.site.oauth.expire_access_tokens()
    with demo.client() as client:
        assert client.get_json("/calls") == {"state": "valid"}


def test_a_new_token_survives_an_interruption(demo: Demo, monkeypatch: pytest.MonkeyPatch) -> None:
    demo.keep_oauth(expires_in=-1)
    store = StoredCredential._store
    calls: list[int] = []

    def interrupted(self: StoredCredential, cursor: Any, secrets: Secrets) -> None:
        calls.append(1)
        if len(calls) == 1:
            raise KeyboardInterrupt
        store(self, cursor, secrets)

    monkeypatch.setattr(StoredCredential, "_store", interrupted)
    with pytest.raises(KeyboardInterrupt):
        demo.open().check()
    demo.open().check()
    assert demo.site.oauth.token_requests == 1


def test_a_token_that_cannot_be_stored_is_an_error(demo: Demo, monkeypatch: pytest.MonkeyPatch) -> None:
    demo.keep_oauth(expires_in=-1)

    def fail(*_: Any) -> None:
        raise psycopg.OperationalError("the connection is lost")

    monkeypatch.setattr(StoredCredential, "_store", fail)
    with demo.client() as client, pytest.raises(psycopg.OperationalError):
        client.get_json("/calls")
    assert demo.site.requests_of("unknown")[-1].path == "/oauth/token"


# Consent


@dataclass
class Browser:
    """What a person does with the address that is shown."""

    change: Callable[[str], str] = lambda location: location
    before: Callable[[int], None] = lambda port: None
    addresses: list[str] = field(default_factory=list)
    pages: list[httpx.Response] = field(default_factory=list)

    def show(self, address: str) -> None:
        self.addresses.append(address)
        threading.Thread(target=self._consent, args=(address,)).start()

    def _consent(self, address: str) -> None:
        (redirect_uri,) = parse_qs(urlsplit(address).query)["redirect_uri"]
        self.before(urlsplit(redirect_uri).port or 0)
        with suppress(httpx.HTTPError):  # nobody listens any more
            location = httpx.get(address).headers["Location"]
            self.pages.append(httpx.get(self.change(location)))


def consent(site: Site, browser: Browser, *scopes: str, wait_seconds: float = 30, port: int = 0) -> dict[str, Any]:
    token_url = f"{site.url}/oauth/token"
    authorize_url = f"{site.url}/oauth/authorize?theme=dark"
    return oauth.authorize(
        "Demo",
        DeclaredOAuth(authorize_url, token_url, scopes),
        "app",
        CLIENT_SECRET,
        authorize_url=authorize_url,
        token_url=token_url,
        show_address=browser.show,
        port=port,
        wait_seconds=wait_seconds,
    )


def test_consent_in_a_browser_becomes_a_credential(
    site: Site, demo: Demo, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    browser = Browser()
    fields = consent(site, browser, "read", "write")
    asked = parse_qs(urlsplit(browser.addresses[0]).query)
    assert (asked["theme"], asked["scope"], asked["code_challenge_method"]) == (["dark"], ["read write"], ["S256"])
    assert asked["redirect_uri"][0].startswith("http://127.0.0.1:")
    assert len(asked["state"][0]) >= 43
    verifier = parse_qs(site.requests_of("unknown")[-1].body.decode())["code_verifier"][0]
    assert len(verifier) >= 43
    demo.keep(Secrets("oauth", fields))
    with demo.client() as client:
        assert client.get_json("/calls") == {"state": "valid"}
    assert not {"code", "code_verifier", "state"} & set(fields)
    while not browser.pages:
        time.sleep(0.01)
    assert browser.pages[0].status_code == 200
    assert "close this window" in browser.pages[0].text
    said = caplog.text + "".join(capfd.readouterr())
    code = parse_qs(site.requests_of("unknown")[1].body.decode())["code"]
    for secret in (*fields.values(), *asked["state"], verifier, *code):
        assert not isinstance(secret, str) or secret in ("app", "") or secret not in said


WRONG_ANSWERS: dict[str, Callable[[str], str]] = {
    "another state": lambda location: location.replace("state=", "state=x"),
    "no state": lambda location: location.partition("&state=")[0],
    "an empty state": lambda location: location.partition("&state=")[0] + "&state=",
    "a state in other letters": lambda location: location.partition("&state=")[0] + "&state=%C3%BC%ff",
    "two states": lambda location: f"{location}&state=x",
    "a refusal with another state": lambda location: location.partition("?")[0] + "?error=access_denied&state=x",
    "a refusal without one": lambda location: location.partition("?")[0] + "?error=access_denied",
    "no code": lambda location: f"{location.partition('?')[0]}?state={state_of(location)}",
    "an empty code": lambda location: f"{location.partition('?')[0]}?state={state_of(location)}&code=",
    "two codes": lambda location: f"{location}&code=x",
    "code and refusal": lambda location: f"{location}&error=access_denied",
    "nothing": lambda location: location.partition("?")[0],
    "many fields": lambda location: location + "&a=1" * 5_000,
    "another host": lambda location: location.replace("127.0.0.1", "localhost"),
}


def state_of(location: str) -> str:
    return parse_qs(urlsplit(location).query)["state"][0]


@pytest.mark.parametrize("wrong", WRONG_ANSWERS)
def test_an_answer_to_another_question_is_refused_and_waited_on(site: Site, wrong: str) -> None:
    """Attack A13: any page can send the browser here, and any program of this machine."""
    refused: list[httpx.Response] = []

    def stray_first(location: str) -> str:
        refused.extend(httpx.get(WRONG_ANSWERS[wrong](location)) for _ in range(3))
        return location

    fields = consent(site, Browser(stray_first))
    assert fields["refresh_token"]
    assert [each.status_code for each in refused] == [400] * 3
    assert all("not the answer" in each.text and "alert" not in each.text for each in refused)
    assert site.oauth.token_requests == 1


def test_who_waited_in_vain_is_told_of_answers_to_other_questions(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    arrived = threading.Event()
    wait = oauth._Callback.wait

    def stray(location: str) -> str:
        assert httpx.get(WRONG_ANSWERS["another state"](location)).status_code == 400
        arrived.set()
        return location.partition("?")[0]

    def wait_until_it_came(server: Any, _: float) -> Any:
        monkeypatch.setattr(server._answered, "wait", lambda _: arrived.wait(60))
        return wait(server, 0)

    monkeypatch.setattr(oauth._Callback, "wait", wait_until_it_came)
    with pytest.raises(ConfigurationError, match=r"Nobody consented at Demo .* answers to other questions"):
        consent(site, Browser(stray))
    assert site.oauth.token_requests == 0


def test_the_first_right_answer_counts_and_may_come_again(site: Site) -> None:
    """Attack A13: a page is loaded twice, and a refusal that comes after the consent takes nothing back."""
    browser = Browser()
    answers: list[str] = []

    def twice(location: str) -> str:
        answers.append(location)
        return location

    browser.change = twice
    fields = consent(site, browser)
    assert fields["refresh_token"]
    server = oauth._listen(0, "s")
    with server:
        for query, expected in (
            ("state=s&code=1", {"code": "1"}),
            ("state=s&error=access_denied&error_description=No", {"error": "access_denied", "error_description": "No"}),
        ):
            answer = server.read(f"127.0.0.1:{server.server_address[1]}", query)
            assert answer == expected
            server.take(answer)
        assert server._answer == {"code": "1"}


def test_who_opens_connections_and_says_nothing_keeps_nobody_out(site: Site) -> None:
    """Attack A13."""
    opened: list[socket.socket] = []

    def before(port: int) -> None:
        for number in range(3 * oauth._MAX_CONNECTIONS):
            connection = socket.create_connection(("127.0.0.1", port))
            opened.append(connection)
            with suppress(OSError):
                connection.sendall((b"", b"GET /callback?", b"GET / HTTP/1.1\r\nX: ")[number % 3])
        flood = socket.create_connection(("127.0.0.1", port))
        opened.append(flood)
        with suppress(OSError):
            flood.sendall(b"GET /callback?" + b"x" * 1_000_000)

    fields = consent(site, Browser(before=before))
    assert fields["refresh_token"]
    for each in opened:
        each.close()


def test_a_person_who_does_not_consent_connects_nothing(site: Site) -> None:
    site.oauth.denies_consent = True
    with pytest.raises(ConfigurationError, match="did not consent: access_denied"):
        consent(site, Browser())
    with pytest.raises(ConfigurationError, match="Nobody consented at Demo within 0 seconds"):
        consent(site, Browser(before=lambda _: time.sleep(1)), wait_seconds=0.05)
    assert site.oauth.token_requests == 0


def test_what_else_browsers_send_disturbs_nobody(site: Site, capfd: pytest.CaptureFixture[str]) -> None:
    opened: list[socket.socket] = []

    def before(port: int) -> None:
        opened.extend(socket.create_connection(("127.0.0.1", port)) for _ in range(3))  # ahead, and silent
        opened[0].close()
        opened[1].sendall(b"\x16\x03\x01 this is TLS\r\n\r\n")
        for ask in ("GET /favicon.ico", "GET /", "POST /callback", "HEAD /callback"):
            method, path = ask.split()
            assert httpx.request(method, f"http://127.0.0.1:{port}{path}").status_code in (404, 501)
        with pytest.raises(OSError, match="refused"):
            socket.create_connection(("127.0.0.2", port))

    fields = consent(site, Browser(before=before))
    assert fields["refresh_token"]
    for each in opened:
        each.close()
    assert "".join(capfd.readouterr()) == ""


def test_a_port_that_is_taken_is_named(site: Site) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigurationError, match=f"Port {port} .* --port"):
            consent(site, Browser(), port=port)


def test_a_code_that_is_refused_or_brings_no_refresh_token_connects_nothing(site: Site) -> None:
    with pytest.raises(ReconnectError, match="invalid_grant"):
        consent(site, Browser(lambda location: location.replace("code=", "code=x")))

    def forget(response: Response) -> Response:
        document = json.loads(response.body)
        del document["refresh_token"]
        return Response.json(document)

    site.after_token = forget
    with pytest.raises(ConfigurationError, match="no refresh token"):
        consent(site, Browser())


# What is said


def _everything(error: BaseException) -> str:
    return "".join([*traceback.format_exception(error), repr(error), str(error), str(getattr(error, "code", ""))])


def test_no_message_log_or_repr_holds_a_secret(
    demo: Demo, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """F88."""
    for name in ("", "httpx", "httpcore", "httpcore.connection", "httpcore.http11", "tenacity", "urllib3"):
        caplog.set_level(logging.DEBUG, logger=name)
    monkeypatch.setattr("import_pipeline.providers.http.attempts._JITTER", lambda _: 0.0)
    monkeypatch.setitem(HttpClient.__init__.__kwdefaults__, "max_attempts", 2)
    tokens = {"access_token": "access+Canary==", "refresh_token": "refresh+Canary=="}
    demo.site.oauth.issue(expires_in=3600, **tokens)
    said: list[str] = []

    def ask(**changes: Any) -> None:
        demo.keep(Secrets("oauth", {"client_id": "app", "client_secret": CLIENT_SECRET, **tokens, **changes}))
        credential = demo.open()
        with HttpClient("Demo", demo.site.url, credential) as client:
            try:
                client.get_json("/calls")
            except Exception as error:  # noqa: BLE001 - whatever it is
                said.append(_everything(error))
            said.extend([repr(client), repr(credential), str(credential._present)])

    def echo(status: int, error: Any) -> Callable[[Request], Response]:
        def answer(request: Request) -> Response:
            sent = [request.body.decode(), request.headers["authorization"], CLIENT_SECRET, *tokens.values()]
            document = {
                "error": error,
                "error_description": f"{'x' * 100} {sent[status % 5]}",
                "code": sent[status % 5],
            }
            return Response.json(document, 200 if status < 400 else status)

        return answer

    later, earlier = time.time() + 3600, time.time() - 1
    for status in (200, 201, 202, 203, 204, 400, 401, 402, 403, 404, 500, 501, 502, 503, 504):
        error = ("invalid_grant", "invalid_client", {"message": "canary", "code": CLIENT_SECRET})[status % 3]
        demo.site.before_token = echo(status, error)
        ask(expires_at=earlier)
        demo.site.before_call = echo(status, "no")
        ask(expires_at=later)
        demo.site.before_call = lambda _: None
    for body in (f"no JSON {CLIENT_SECRET}", json.dumps({"access_token": {"a": "access+Canary=="}})):
        demo.site.before_token = lambda _, body=body: Response(200, body.encode())  # type: ignore[misc]
        ask(expires_at=earlier)
    demo.site.before_token = lambda _: Response(307, headers={"Location": f"http://x/?{urlencode(tokens)}"})
    ask(expires_at=earlier)
    demo.site.before_token = lambda _: None
    ask(expires_at=later, access_token="access\nCanary")
    ask(expires_at=earlier, refresh_token="refresh\nCanary")
    said += [record.getMessage() + repr(record.args) for record in caplog.records]
    assert len(said) > 80
    for text in said:
        assert "Canary" not in text, text
        assert base64.b64encode(f"app:{CLIENT_SECRET}".encode()).decode() not in text
        assert quote("+Canary") not in text


def test_objects_that_hold_secrets_are_not_pickled_or_shown(demo: Demo) -> None:
    demo.keep(Secrets("api-key", {"api_key": KEY}))
    credential = demo.open()
    credential.check()
    secrets = Secrets("api-key", {"api_key": KEY})
    for each in (secrets, demo.ring, credential, HttpClient("Demo", demo.site.url, credential)):
        for text in (repr(each), str(each), f"{each}"):
            assert "Canary" not in text
            assert demo.ring.keys[0] not in text
        with pytest.raises(TypeError) as caught:
            pickle.dumps(each)
        with pytest.raises(TypeError):
            copy.deepcopy(each)
        assert "Canary" not in str(caught.value)
    shown: Mapping[str, Any] = {"secrets": secrets}
    assert "Canary" not in repr(shown)
