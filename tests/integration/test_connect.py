"""`connect`, `disconnect` and `rotate-key` against fakes of the providers, on a real Postgres."""

from __future__ import annotations

import json
import os
import pty
import select
import socket
import stat
import subprocess
import time
import webbrowser
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit
from uuid import UUID

import httpx
import psycopg
import pytest
import tenants
from commands import COMMAND, CommandLine, Shell
from cryptography.fernet import Fernet, InvalidToken
from fakes import FathomServer, YouTubeServer, ZoomServer
from fakes.calls import HOSTS

from import_pipeline.connectors.fathom import Fathom
from import_pipeline.database.opening import Database
from import_pipeline.providers import credentials
from import_pipeline.providers.keys import KeyRing, Secrets

EMAIL = "ana@example.com"
FATHOM_KEY = "fathom-test-key"
OAUTH_APP = {"client_id": "fathom-test-client", "client_secret": "fathom-test-secret"}
OAUTH = OAUTH_APP | {"refresh_token": "fathom-test-refresh-token"}
SECRETS = {
    "fathom-test-key", "fathom-test-secret", "fathom-test-refresh-token", "fathom-test-access-token",
    "zoom-test-secret", "zoom-test-refresh-token", "zoom-test-access-token", "youtube-test-key", "wrong-key-canary",
}  # fmt: skip


@pytest.fixture
def key() -> str:
    return Fernet.generate_key().decode()


@pytest.fixture
def shell(
    shell: Shell, ana: tenants.User, database_url: str, key: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Shell:
    shell.unspeakable = {*SECRETS, key}
    shell.set(
        DATABASE_URL=database_url,
        IMPORT_PIPELINE_USER=ana.email,
        IMPORT_PIPELINE_SECRET_KEY=key,
        IMPORT_PIPELINE_HOME=str(tmp_path),
    )
    # A provider that is down is asked ten times otherwise, for a minute.
    monkeypatch.setattr("import_pipeline.providers.http.client.MAX_ATTEMPTS", 2)
    return shell


@pytest.fixture
def fathom(shell: Shell) -> Iterator[FathomServer]:
    with FathomServer(calls=3) as server:
        shell.set(**server.environment)
        yield server


@pytest.fixture
def zoom(shell: Shell) -> Iterator[ZoomServer]:
    with ZoomServer(calls=3) as server:
        shell.set(**server.environment)
        yield server


@pytest.fixture
def stored(conn: psycopg.Connection[Any], key: str) -> Callable[[], dict[str, Secrets]]:
    """`stored()` are the secrets in the database, by source."""

    def read() -> dict[str, Secrets]:
        rows = conn.execute(
            "select source_app, id, secret from import_pipeline.credentials join import_sources on id = account_id"
        ).fetchall()
        return {source_app: KeyRing([key]).decrypt(account_id, secret) for source_app, account_id, secret in rows}

    return read


Stored = Callable[[], dict[str, Secrets]]


def account_of(conn: psycopg.Connection[Any]) -> tuple[Any, ...]:
    """The one account: whether it is active, whose it is, its problem."""
    (row,) = conn.execute("select is_active, account_email, error_message from import_sources").fetchall()
    return tuple(row)


def cursor_of(conn: psycopg.Connection[Any]) -> datetime | None:
    ((cursor,),) = conn.execute("select last_sync_at from import_sources").fetchall()
    return cursor  # type: ignore[no-any-return]


# --- where a credential comes from --------------------------------------------------------------------------------


def test_a_key_from_the_environment_is_checked_and_kept_encrypted(
    shell: Shell, fathom: FathomServer, stored: Stored, conn: psycopg.Connection[Any]
) -> None:
    shell.set(IMPORT_PIPELINE_FATHOM_API_KEY=FATHOM_KEY)
    outcome = shell.run("connect", "fathom")
    assert outcome.code == 0, outcome.stderr
    assert "Connected Fathom as dana@example.com." in outcome.stderr
    assert "IMPORT_PIPELINE_FATHOM_API_KEY" in outcome.stderr
    assert "import-pipeline sync fathom" in outcome.stderr
    assert stored()["fathom"] == Secrets("api-key", {"api_key": FATHOM_KEY})
    ((secret,),) = conn.execute("select secret from import_pipeline.credentials").fetchall()
    assert FATHOM_KEY.encode() not in secret
    assert account_of(conn) == (True, "dana@example.com", None)
    again = shell.run("connect", "fathom", "--json")
    assert again.json == {
        "source": "fathom", "account_email": "dana@example.com", "problems": [], "kind": "api-key",
    }  # fmt: skip


@pytest.mark.parametrize(
    "stdin",
    [
        FATHOM_KEY,
        f"\ufeff{FATHOM_KEY}\r\n",
        f"api_key={FATHOM_KEY}\n",
        f"\n  API-Key = {FATHOM_KEY}  \n\n",
        json.dumps({"api_key": FATHOM_KEY}),
        json.dumps({"api_key": f" {FATHOM_KEY}\n", "refresh_token": None}, indent=2),
    ],
    ids=["the key alone", "from Windows", "a line", "an untidy line", "JSON", "untidy JSON"],
)
def test_a_key_is_read_from_standard_input(shell: Shell, fathom: FathomServer, stored: Stored, stdin: str) -> None:
    outcome = shell.run("connect", "fathom", stdin=stdin)
    assert outcome.code == 0, outcome.stderr
    assert stored()["fathom"] == Secrets("api-key", {"api_key": FATHOM_KEY})


def test_the_kind_follows_from_what_is_given(shell: Shell, fathom: FathomServer, stored: Stored) -> None:
    lines = "".join(f"{name}={value}\n" for name, value in OAUTH.items())
    assert (
        shell.run(
            "connect",
            "fathom",
            stdin=lines,
        ).code
        == 0
    )
    kept = stored()["fathom"]
    assert kept.kind == "oauth"
    assert kept.fields["refresh_token"] != OAUTH["refresh_token"], "the check used it up; its successor must be kept"
    fathom.oauth.expire_access_tokens()
    assert fathom.oauth.refused_refreshes == 0


def test_a_single_value_is_the_one_that_the_environment_lacks(
    shell: Shell, fathom: FathomServer, stored: Stored
) -> None:
    shell.set(**{f"IMPORT_PIPELINE_FATHOM_{name.upper()}": value for name, value in OAUTH_APP.items()})
    outcome = shell.run("connect", "fathom", "--kind", "oauth", stdin=OAUTH["refresh_token"])
    assert outcome.code == 0, outcome.stderr
    assert stored()["fathom"].kind == "oauth"


@pytest.mark.parametrize(
    "expires_at", [time.time() + 3000, (datetime.now(UTC) + timedelta(hours=1)).isoformat()], ids=["epoch", "ISO 8601"]
)
def test_an_access_token_that_still_lives_is_used_and_not_renewed(
    shell: Shell, fathom: FathomServer, stored: Stored, expires_at: float | str
) -> None:
    tokens = {"access_token": "fathom-test-access-token", "expires_at": expires_at}
    assert shell.run("connect", "fathom", stdin=json.dumps(OAUTH | tokens)).code == 0
    assert fathom.oauth.token_requests == 0
    assert stored()["fathom"].fields["refresh_token"] == OAUTH["refresh_token"]


def test_a_server_to_server_app_is_connected_and_named_kinds_come_first(
    shell: Shell, zoom: ZoomServer, stored: Stored
) -> None:
    shell.set(
        IMPORT_PIPELINE_ZOOM_ACCOUNT_ID="zoom-test-account",
        IMPORT_PIPELINE_ZOOM_CLIENT_ID="zoom-test-client",
        IMPORT_PIPELINE_ZOOM_CLIENT_SECRET="zoom-test-secret",
        IMPORT_PIPELINE_ZOOM_REFRESH_TOKEN="zoom-test-refresh-token",
    )
    outcome = shell.run("connect", "zoom")
    assert outcome.code == 0, outcome.stderr
    assert stored()["zoom"].kind == "server-to-server"
    assert shell.run("connect", "zoom", "--kind", "oauth").code == 0
    assert stored()["zoom"].kind == "oauth"


@pytest.mark.parametrize(
    ("stdin", "said"),
    [
        ("", "IMPORT_PIPELINE_FATHOM_API_KEY; or IMPORT_PIPELINE_FATHOM_CLIENT_ID"),
        ("client_id=x", "IMPORT_PIPELINE_FATHOM_CLIENT_SECRET"),
        ('{"api_key": "wrong-key-canary"', "none"),
        ('{"apikey": "wrong-key-canary"}', "api_key"),
        ('{"api_key": ["wrong-key-canary"]}', "api_key"),
        ("wrong-key-canary\nwrong-key-canary", "name=value"),
        ("api_key=wrong-key-canary\nwrong-key-canary", "name=value"),
        ("“wrong-key-canary”", "api_key"),
        ("wrong-key-canary wrong-key-canary", "api_key"),
        (json.dumps({"api_key": "wrong-key-canary\nX-Injected: 1"}), "api_key"),
        (b"\xff\xfewrong-key-canary", "no text"),
        ("wrong-key-canary" * 10_000, "more than a credential"),
        (json.dumps(OAUTH | {"expires_at": "tomorrow"}), "expires_at"),
        (json.dumps(OAUTH | {"expires_at": "NaN"}), "expires_at"),
    ],
    ids=[
        "nothing", "half of it", "broken JSON", "an unknown field", "a list", "two values", "a line without a name",
        "a word processor's quotes", "a blank", "a line break", "no text", "a whole file", "no time", "no number",
    ],
)  # fmt: skip
def test_what_cannot_be_a_credential_is_told_without_repeating_it_and_nobody_is_asked(
    shell: Shell, fathom: FathomServer, stored: Stored, stdin: str | bytes, said: str
) -> None:
    outcome = shell.run("connect", "fathom", stdin=stdin)
    assert outcome.code == 2
    assert said in outcome.stderr
    assert stored() == {}
    assert fathom.requests == []


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["connect", "file-upload"], "needs no credential"),
        (["disconnect", "file-upload"], "needs no credential"),
        (["connect", "nowhere"], "no source"),
        (["connect", "fathom", "wrong-key-canary"], "needs no address"),
        (["connect", "fathom", "--kind", "password"], "api-key, oauth"),
        (["connect", "fathom", "--oauth", "--kind", "api-key"], "exclude each other"),
        (["connect", "youtube", "--oauth"], "does not accept"),
        (["connect", "youtube", "https://example.com/x"], "example.com"),
        (["connect", "youtube"], "ADDRESS"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_usage_is_told(shell: Shell, arguments: list[str], said: str) -> None:
    outcome = shell.run(*arguments, stdin=FATHOM_KEY)
    assert outcome.code == 2
    assert said in outcome.stderr


def test_the_sources_say_which_credentials_they_accept_without_a_database(shell: Shell) -> None:
    shell.set(DATABASE_URL="postgresql://nobody@127.0.0.1:9/nowhere")
    outcome = shell.run("sources", "--json")
    kinds = {row["source"]: row["credentials"] for row in outcome.json}
    assert kinds["fathom"] == ["api-key", "oauth"]
    assert kinds["file-upload"] == []


def test_a_person_at_the_terminal_is_asked_and_the_key_is_not_shown(
    shell: Shell, fathom: FathomServer, stored: Stored
) -> None:
    leader, follower = pty.openpty()
    process = subprocess.Popen(
        [COMMAND, "connect", "fathom"],
        stdin=follower, stdout=follower, stderr=follower, start_new_session=True, env=os.environ,
    )  # fmt: skip
    os.close(follower)
    shown = ""
    ends_at = time.monotonic() + 60
    while time.monotonic() < ends_at:
        if not select.select([leader], [], [], 1)[0]:
            continue
        try:
            more = os.read(leader, 4096).decode()
        except OSError:  # the other end is closed
            break
        shown += more
        if "API key: " in shown and FATHOM_KEY not in shown and shown.endswith(": "):
            os.write(leader, f"{FATHOM_KEY}\n".encode())
    os.close(leader)
    assert process.wait(timeout=30) == 0, shown
    assert "Settings → API Access" in shown
    assert "https://developers.fathom.ai" in shown
    assert "Connected Fathom" in shown
    assert FATHOM_KEY not in shown
    assert stored()["fathom"].fields == {"api_key": FATHOM_KEY}


# --- addresses ----------------------------------------------------------------------------------------------------


def test_addresses_are_kept_with_the_account_until_others_are_named(
    shell: Shell, stored: Stored, conn: psycopg.Connection[Any]
) -> None:
    with YouTubeServer(calls=2) as server:
        shell.set(**server.environment, IMPORT_PIPELINE_YOUTUBE_API_KEY="youtube-test-key")

        def addresses() -> list[str]:
            ((options,),) = conn.execute("select options from import_pipeline.credentials").fetchall()
            found: list[str] = options["addresses"]
            return found

        outcome = shell.run("connect", "youtube", f"@{server.handle}", server.playlist_id)
        assert outcome.code == 0, outcome.stderr
        assert addresses() == [f"@{server.handle}", server.playlist_id]
        conn.execute("update import_sources set last_sync_at = now()")
        assert shell.run("connect", "youtube").code == 0, "a new key for the same channels"
        assert addresses() == [f"@{server.handle}", server.playlist_id]
        assert cursor_of(conn) is not None
        other = shell.run("connect", "youtube", server.playlist_id)
        assert other.code == 0
        assert addresses() == [server.playlist_id]
        assert "whole history" in other.stderr
        assert cursor_of(conn) is None, "or what is older there would never be listed"
        unknown = shell.run("connect", "youtube", "@nobody-has-this-handle")
        assert unknown.code == 2
        assert "nobody-has-this-handle" in unknown.stderr
        assert addresses() == [server.playlist_id]


# --- what the provider says ---------------------------------------------------------------------------------------


def test_a_key_that_the_provider_refuses_changes_nothing(
    shell: Shell, fathom: FathomServer, stored: Stored, conn: psycopg.Connection[Any]
) -> None:
    outcome = shell.run("connect", "fathom", stdin="wrong-key-canary")
    assert outcome.code == 2
    assert "does not accept" in outcome.stderr
    assert "401" in outcome.stderr
    assert "Nothing was changed" in outcome.stderr
    assert stored() == {}
    assert account_of(conn)[0] is False, "or every run for all accounts would fail for it"

    assert shell.run("connect", "fathom", stdin=FATHOM_KEY).code == 0
    before = conn.execute("select * from import_pipeline.credentials").fetchall()
    assert shell.run("connect", "fathom", stdin="wrong-key-canary").code == 2
    assert conn.execute("select * from import_pipeline.credentials").fetchall() == before
    assert account_of(conn) == (True, "dana@example.com", None)


def test_a_wrong_client_or_refresh_token_is_refused_as_what_it_is(
    shell: Shell, zoom: ZoomServer, stored: Stored
) -> None:
    app = {"account_id": "zoom-test-account", "client_id": "zoom-test-client", "client_secret": "wrong-key-canary"}
    outcome = shell.run("connect", "zoom", stdin=json.dumps(app))
    assert outcome.code == 2
    assert "id or secret is wrong" in outcome.stderr
    tokens = {"client_id": "zoom-test-client", "client_secret": "zoom-test-secret", "refresh_token": "wrong-key-canary"}
    outcome = shell.run("connect", "zoom", stdin=json.dumps(tokens))
    assert outcome.code == 2
    assert stored() == {}


def test_somebody_elses_history_is_listed_from_its_beginning(
    shell: Shell, fathom: FathomServer, conn: psycopg.Connection[Any]
) -> None:
    fathom.add(host=HOSTS[1])
    fathom.api_keys = {FATHOM_KEY: "dana@example.com", "fathom-other-key": "omar@example.com"}
    assert shell.run("connect", "fathom", stdin=FATHOM_KEY).code == 0
    conn.execute("update import_sources set last_sync_at = now()")
    assert "history" not in shell.run("connect", "fathom", stdin=FATHOM_KEY).stderr
    assert cursor_of(conn) is not None
    outcome = shell.run("connect", "fathom", stdin="fathom-other-key")
    assert "as omar@example.com" in outcome.stderr
    assert "whole history" in outcome.stderr
    assert account_of(conn) == (True, "omar@example.com", None)
    assert cursor_of(conn) is None


@pytest.mark.parametrize("fault", ["503", "disconnect", "429-bare", "gone"])
def test_a_provider_that_does_not_answer_is_no_reason_to_lose_the_earlier_credential(
    shell: Shell, fathom: FathomServer, stored: Stored, fault: str
) -> None:
    assert shell.run("connect", "fathom", stdin=FATHOM_KEY).code == 0
    before = stored()
    if fault == "gone":
        fathom.close()
    else:
        fathom.faults.always = {"/meetings": fault}
    outcome = shell.run("connect", "fathom", stdin="wrong-key-canary")
    assert outcome.code == 3
    assert "try again later" in outcome.stderr
    assert stored() == before


def test_what_a_credential_may_not_do_is_told_and_shown(
    shell: Shell, zoom: ZoomServer, stored: Stored, conn: psycopg.Connection[Any]
) -> None:
    zoom.missing_scopes = ("cloud_recording:read:list_user_recordings",)
    app = {
        "client_id": "zoom-test-client", "client_secret": "zoom-test-secret",
        "refresh_token": "zoom-test-refresh-token", "access_token": "zoom-test-access-token",
        "expires_at": time.time() + 3000,
    }  # fmt: skip
    outcome = shell.run("connect", "zoom", stdin=json.dumps(app))
    assert outcome.code == 1
    assert "Connected Zoom" in outcome.stderr
    assert "Warning: " in outcome.stderr
    assert "list_user_recordings" in outcome.stderr
    assert set(stored()) == {"zoom"}
    assert "list_user_recordings" in account_of(conn)[2]
    (row,) = shell.run("status", "--json").json
    assert (row["is_connected"], row["is_active"]) == (True, True)
    assert "list_user_recordings" in row["error_message"]
    assert "list_user_recordings" in shell.run("status").stdout
    assert "list_user_recordings" in shell.run("connect", "zoom", "--json", stdin=json.dumps(app)).stdout


def test_who_breaks_it_off_loses_nothing(
    shell: Shell, fathom: FathomServer, stored: Stored, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert shell.run("connect", "fathom", stdin=FATHOM_KEY).code == 0

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Fathom, "check_access", interrupt)
    outcome = shell.run("connect", "fathom", stdin="wrong-key-canary")
    assert outcome.code == 130
    assert "nothing was stored" in outcome.stderr
    assert stored()["fathom"].fields == {"api_key": FATHOM_KEY}


@pytest.mark.long
def test_a_check_that_is_killed_leaves_the_earlier_credential(
    shell: Shell, fathom: FathomServer, stored: Stored
) -> None:
    assert shell.run("connect", "fathom", stdin=FATHOM_KEY).code == 0
    fathom.forget_requests()
    fathom.faults.always = {"/meetings": "hang"}
    process = subprocess.Popen([COMMAND, "connect", "fathom"], stdin=subprocess.PIPE, env=os.environ, text=True)
    assert process.stdin is not None
    process.stdin.write("wrong-key-canary")
    process.stdin.close()
    ends_at = time.monotonic() + 60
    while not fathom.requests and time.monotonic() < ends_at:
        time.sleep(0.05)
    process.kill()
    process.wait(timeout=30)
    fathom.faults.always = {}
    assert stored()["fathom"].fields == {"api_key": FATHOM_KEY}
    assert shell.run("connect", "fathom", stdin=FATHOM_KEY).code == 0, "and nothing is locked"


def test_what_failed_for_the_old_credential_is_due_again(
    shell: Shell, fathom: FathomServer, ana: tenants.User, conn: psycopg.Connection[Any]
) -> None:
    assert shell.run("connect", "fathom", stdin=FATHOM_KEY).code == 0
    for external_id, source_app, error_class in [
        ("1", "fathom", "auth"), ("2", "fathom", "data"), ("3", "zoom", "auth"),
    ]:  # fmt: skip
        conn.execute(
            "insert into import_items (user_id, source_app, external_id, status, error_class, retry_at)"
            " values (%s, %s, %s, 'failed', %s, now() + interval '20 days')",
            [ana.id, source_app, external_id, error_class],
        )
    assert shell.run("connect", "fathom", stdin="wrong-key-canary").code == 2
    due = "select external_id from import_items where retry_at <= now() order by 1"
    assert conn.execute(due).fetchall() == []
    assert shell.run("connect", "fathom", stdin=FATHOM_KEY).code == 0
    assert conn.execute(due).fetchall() == [("1",)]


# --- consent in the browser ---------------------------------------------------------------------------------------


class Browser:
    """Plays the person: opens the address that `webbrowser` is given, and does what a test wants with the answer."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.addresses: list[str] = []
        self.pages: list[httpx.Response] = []
        self.tampers: Callable[[httpx.URL], httpx.URL] = lambda address: address
        monkeypatch.setattr(webbrowser, "open", self.open)

    def open(self, address: str) -> bool:
        self.addresses.append(address)
        answer = httpx.get(address)
        back = self.tampers(httpx.URL(answer.headers["location"]))
        httpx.get(back.copy_with(raw_path=b"/favicon.ico"))  # a browser asks for it too
        self.pages.append(httpx.get(back))
        return True


@pytest.fixture
def browser(monkeypatch: pytest.MonkeyPatch) -> Browser:
    return Browser(monkeypatch)


APP_LINES = "".join(f"{name}={value}\n" for name, value in OAUTH_APP.items())


def test_a_person_consents_in_the_browser(shell: Shell, fathom: FathomServer, stored: Stored, browser: Browser) -> None:
    fathom.oauth.user = "dana@example.com"
    outcome = shell.run("connect", "fathom", "--oauth", "--port", "0", stdin=APP_LINES)
    assert outcome.code == 0, outcome.stderr
    assert "Connected Fathom as dana@example.com." in outcome.stderr
    (address,) = browser.addresses
    assert address in outcome.stderr.splitlines(), "for who has no browser here"
    assert parse_qs(urlsplit(address).query)["scope"] == ["public_api"]
    (page,) = browser.pages
    assert page.status_code == 200
    assert "close this window" in page.text
    kept = stored()["fathom"]
    assert kept.kind == "oauth"
    assert set(kept.fields) >= {"client_id", "client_secret", "access_token", "refresh_token", "expires_at"}
    for token in (kept.fields["access_token"], kept.fields["refresh_token"]):
        assert token not in outcome.stderr + outcome.stdout


def test_a_stray_answer_does_not_abort_the_command(
    shell: Shell, fathom: FathomServer, stored: Stored, browser: Browser
) -> None:
    """Attack A13."""

    def stray_first(back: httpx.URL) -> httpx.URL:
        for stray in (back.copy_set_param("state", "made-up"), back.copy_with(query=b"error=access_denied")):
            browser.pages.append(httpx.get(stray))
        return back

    browser.tampers = stray_first
    outcome = shell.run("connect", "fathom", "--oauth", "--port", "0", stdin=APP_LINES)
    assert outcome.code == 0, outcome.stderr
    assert [page.status_code for page in browser.pages[:2]] == [400, 400]
    assert stored()["fathom"].kind == "oauth"
    assert fathom.oauth.exchanges == 1


@pytest.mark.parametrize("fault", ["consent", "secret"])
def test_without_a_consent_that_is_ours_nothing_is_connected(
    shell: Shell, fathom: FathomServer, stored: Stored, browser: Browser, fault: str
) -> None:
    stdin, said = APP_LINES, "did not consent: access_denied"
    if fault == "secret":
        stdin, said = APP_LINES.replace("fathom-test-secret", "wrong-key-canary"), "id or secret is wrong"
    fathom.oauth.denies_consent = fault == "consent"
    outcome = shell.run("connect", "fathom", "--oauth", "--port", "0", stdin=stdin)
    assert outcome.code == 2, outcome.stderr
    assert said in outcome.stderr
    assert stored() == {}
    assert fathom.oauth.exchanges == 0


def test_a_port_that_is_taken_is_told_before_a_browser_opens(
    shell: Shell, fathom: FathomServer, browser: Browser
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        outcome = shell.run("connect", "fathom", "--oauth", "--port", port, stdin=APP_LINES)
    assert outcome.code == 2
    assert port in outcome.stderr
    assert "--port" in outcome.stderr
    assert browser.addresses == []


# --- disconnect ---------------------------------------------------------------------------------------------------


def test_disconnecting_deletes_the_credential_and_keeps_the_recordings(
    shell: Shell, fathom: FathomServer, stored: Stored, ana: tenants.User, conn: psycopg.Connection[Any]
) -> None:
    assert shell.run("connect", "fathom", stdin=FATHOM_KEY).code == 0
    conn.execute(
        "insert into recordings (bank_id, owner_user_id, title, source_app, source_metadata)"
        " values (%s, %s, 'Call', 'fathom', '{\"external_id\": \"1\"}')",
        [ana.bank_id, ana.id],
    )
    outcome = shell.run("disconnect", "fathom")
    assert outcome.code == 0
    assert "1 recording" in outcome.stderr
    assert stored() == {}
    assert account_of(conn)[0] is False
    assert conn.execute("select count(*) from recordings").fetchone() == (1,)
    assert "fathom is not connected" in shell.run("status").stderr
    again = shell.run("disconnect", "fathom", "--json")
    assert again.code == 1
    assert again.json == {"source": "fathom", "disconnected": False, "recordings": 1}


def test_one_users_credential_is_not_anothers(
    shell: Shell, fathom: FathomServer, stored: Stored, conn: psycopg.Connection[Any]
) -> None:
    ben = tenants.make_user(conn, "ben@example.com")
    assert shell.run("connect", "fathom", stdin=FATHOM_KEY).code == 0
    assert shell.run("disconnect", "fathom", "--user", ben.email).code == 1
    assert shell.run("status", "--user", ben.email, "--json").json == []
    assert set(stored()) == {"fathom"}


# --- the key that encrypts ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "said"), [("", "holds no key"), ("wrong-key-canary", "Fernet")], ids=["missing", "no key"]
)
def test_without_a_key_to_encrypt_with_nobody_is_asked_for_a_secret(
    shell: Shell, fathom: FathomServer, value: str, said: str
) -> None:
    shell.set(IMPORT_PIPELINE_SECRET_KEY=value)
    for arguments in (["connect", "fathom"], ["rotate-key"]):
        outcome = shell.run(*arguments, stdin=FATHOM_KEY)
        assert outcome.code == 2
        assert "IMPORT_PIPELINE_SECRET_KEY" in outcome.stderr
        assert said in outcome.stderr
    assert fathom.requests == []


def test_keys_of_the_environment_are_changed_one_after_the_other(
    shell: Shell, fathom: FathomServer, key: str, conn: psycopg.Connection[Any]
) -> None:
    new = Fernet.generate_key().decode()
    shell.unspeakable.add(new)
    assert shell.run("connect", "fathom", stdin=FATHOM_KEY).code == 0
    outcome = shell.run("rotate-key")
    assert outcome.code == 0
    assert "put a new one in front" in outcome.stderr

    shell.set(IMPORT_PIPELINE_SECRET_KEY=new)
    outcome = shell.run("rotate-key")
    assert outcome.code == 2
    assert "old one" in outcome.stderr

    shell.set(IMPORT_PIPELINE_SECRET_KEY=f"{new},{key}")
    outcome = shell.run("rotate-key")
    assert outcome.code == 0
    assert "1 credential is encrypted with the first key" in outcome.stderr
    ((account_id, secret),) = conn.execute("select account_id, secret from import_pipeline.credentials").fetchall()
    assert KeyRing([new]).decrypt(account_id, secret).fields == {"api_key": FATHOM_KEY}
    with pytest.raises(InvalidToken):
        Fernet(key).decrypt(bytes(secret))


@pytest.fixture
def embedded_shell(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> Shell:
    """As on the embedded database, without the seconds that its server takes to start."""
    monkeypatch.setattr(Database, "is_embedded", property(lambda _: True))
    monkeypatch.delenv("IMPORT_PIPELINE_SECRET_KEY")
    return shell


def read_with(path: Path, conn: psycopg.Connection[Any]) -> Secrets:
    ((account_id, secret),) = conn.execute("select account_id, secret from import_pipeline.credentials").fetchall()
    return KeyRing(path.read_text().split()).decrypt(UUID(str(account_id)), secret)


def test_the_embedded_library_has_a_key_file_of_its_owners_and_makes_a_new_one_when_told(
    embedded_shell: Shell, fathom: FathomServer, tmp_path: Path, conn: psycopg.Connection[Any]
) -> None:
    outcome = embedded_shell.run("connect", "fathom", stdin=FATHOM_KEY)
    assert outcome.code == 0, outcome.stderr
    assert "secret.key" in outcome.stderr
    path = tmp_path / "secret.key"
    before = path.read_text()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert read_with(path, conn).fields == {"api_key": FATHOM_KEY}

    outcome = embedded_shell.run("rotate-key", "--json")
    assert outcome.json == {"credentials": 1}
    after = path.read_text()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert len(after.split()) == 1
    assert before not in after
    assert read_with(path, conn).fields == {"api_key": FATHOM_KEY}
    for text in (before, after):
        assert text.strip() not in outcome.stderr + outcome.stdout
    assert [each.name for each in tmp_path.iterdir() if each.name.startswith("secret")] == ["secret.key"]


@pytest.mark.parametrize("files_written", [1, 2])
def test_a_change_of_keys_that_breaks_off_half_way_leaves_everything_readable(
    embedded_shell: Shell,
    fathom: FathomServer,
    tmp_path: Path,
    conn: psycopg.Connection[Any],
    monkeypatch: pytest.MonkeyPatch,
    files_written: int,
) -> None:
    assert embedded_shell.run("connect", "fathom", stdin=FATHOM_KEY).code == 0
    replace_keys, calls = credentials.replace_keys, 0

    def break_off(*arguments: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == files_written:
            raise KeyboardInterrupt
        replace_keys(*arguments)

    monkeypatch.setattr(credentials, "replace_keys", break_off)
    assert embedded_shell.run("rotate-key").code == 130
    assert read_with(tmp_path / "secret.key", conn).fields == {"api_key": FATHOM_KEY}
    monkeypatch.setattr(credentials, "replace_keys", replace_keys)
    assert embedded_shell.run("rotate-key").code == 0
    assert len((tmp_path / "secret.key").read_text().split()) == 1
    assert read_with(tmp_path / "secret.key", conn).fields == {"api_key": FATHOM_KEY}


@pytest.mark.long
def test_a_source_is_connected_to_the_embedded_library_and_its_key_is_changed(tmp_path: Path) -> None:
    with FathomServer(calls=3) as server:
        command_line = CommandLine(
            tmp_path / "home", {**server.environment, "IMPORT_PIPELINE_FATHOM_API_KEY": FATHOM_KEY}
        )
        outcome = command_line.run("connect", "fathom", "--json")
        assert outcome.code == 0, outcome.stderr
        assert command_line.run("sync", "fathom", "--json").json["inserted"] == 3
        assert command_line.run("rotate-key", "--json").json == {"credentials": 1}
        assert command_line.run("sync", "fathom", "--json").code == 0
        assert command_line.run("disconnect", "fathom").code == 0
        assert command_line.run("counts", "--json").json == {"fathom": 3}
        assert command_line.run("sync", "fathom").code == 2
