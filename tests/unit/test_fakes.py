"""The fakes behave as the vendors' notes say, every fault looks as it should, and the log tells what came when."""

from __future__ import annotations

import base64
import hashlib
import http.client
import json
import re
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote, urlencode, urlsplit
from xml.etree import ElementTree

import pytest
from fakes import (
    ALL_KINDS,
    Call,
    FakeServer,
    FathomServer,
    Faults,
    NextFault,
    Track,
    YouTubeServer,
    ZoomServer,
    make_calls,
)
from fakes.limits import Limiter

KEY = {"X-Api-Key": "fathom-test-key"}
OAUTH = {"Authorization": "Bearer fathom-test-access-token"}
ZOOM = {"Authorization": "Bearer zoom-test-access-token"}
UNTIL = datetime(2026, 3, 20, 12, tzinfo=UTC)


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


def ask(
    server: FakeServer, target: str, headers: dict[str, str] | None = None, form: Any = None, **query: Any
) -> Answer:
    """Ask for a target exactly as it is written, without following redirects."""
    if query:
        target += "?" + urlencode(query)
    connection = http.client.HTTPConnection(server.host, server.port, timeout=5)
    try:
        body = urlencode(form) if isinstance(form, dict) else form
        connection.request("GET" if form is None else "POST", target, body, headers or {})
        response = connection.getresponse()
        return Answer(response.status, dict(response.getheaders()), response.read())
    finally:
        connection.close()


def basic(client_id: str, secret: str) -> dict[str, str]:
    return {"Authorization": "Basic " + base64.b64encode(f"{client_id}:{secret}".encode()).decode()}


# Calls


def test_the_same_seed_makes_up_the_same_calls_and_another_one_others() -> None:
    first, again, other = (make_calls(40, seed=seed, until=UNTIL) for seed in (1, 1, 2))
    assert [(c.title, c.started_at, c.text) for c in first] == [(c.title, c.started_at, c.text) for c in again]
    ids = [server.external_ids for kind in (FathomServer, ZoomServer, YouTubeServer) for server in (
        kind(calls=first, seed=1), kind(calls=other, seed=2))]  # fmt: skip
    assert all(len(each) == 40 for each in ids)
    assert len(set().union(*ids)) == 6 * 40


def test_calls_are_spread_over_months_and_have_several_speakers() -> None:
    calls = make_calls(200, months=13, until=UNTIL)
    assert [c.created_at for c in calls] == sorted((c.created_at for c in calls), reverse=True)
    assert max(c.created_at for c in calls) <= UNTIL
    assert timedelta(days=380) < calls[0].started_at - calls[-1].started_at < timedelta(days=400)
    assert all(10 <= len(c.segments) <= 40 for c in calls)
    assert any(len({s.speaker for s in c.segments}) > 2 for c in calls)
    assert any(not c.title.isascii() for c in calls)


# The server


def test_requests_are_answered_over_one_connection() -> None:
    with FathomServer(calls=5) as server:
        connection = http.client.HTTPConnection(server.host, server.port)
        connection.request("GET", "/external/v1/meetings", headers=KEY)
        connection.getresponse().read()
        used = connection.sock
        for _ in range(100):
            connection.request("GET", "/external/v1/meetings", headers=KEY)
            assert connection.getresponse().read()
        assert connection.sock is used


def test_the_log_keeps_the_raw_path_the_decoded_query_and_what_was_answered() -> None:
    with FathomServer(calls=3) as server:
        ask(server, "/external/v1/meetings?recorded_by%5B%5D=a%40b&recorded_by[]=c&x=", KEY | {"X-Own": "ä"})
        ask(server, "/external/v1/recordings/a%2Fb/transcript", KEY)
        ask(server, "/elsewhere")
        first, second, third = server.requests
        assert (first.kind, first.status, first.credential, first.fault) == ("list", 200, "fathom-test-key", None)
        assert first.query == {"recorded_by[]": ["a@b", "c"], "x": [""]}
        assert first.headers["x-own"] == "ä"
        assert first.target == "/external/v1/meetings?recorded_by%5B%5D=a%40b&recorded_by[]=c&x="
        assert (second.path, second.status) == ("/external/v1/recordings/a%2Fb/transcript", 404)
        assert (third.kind, third.status) == ("unknown", 404)
        assert first.arrived_at < second.arrived_at < third.arrived_at
        counted = ask(server, "/_requests").json
        assert counted["kinds"] == {"list": {"200": 1}, "transcript": {"404": 1}, "unknown": {"404": 1}}


def test_bodies_may_come_in_chunks() -> None:
    with ZoomServer(calls=1) as server:
        connection = http.client.HTTPConnection(server.host, server.port)
        body = iter([b"grant_type=account_credentials", b"&account_id=zoom-test-account"])
        headers = basic("zoom-test-client", "zoom-test-secret") | {"Transfer-Encoding": "chunked"}
        connection.request("POST", "/oauth/token", body, headers, encode_chunked=True)
        assert connection.getresponse().status == 200
        connection.close()


@pytest.mark.timeout(120)
def test_closing_ends_open_connections_and_hanging_answers() -> None:
    server = FathomServer(calls=1, faults=Faults(always={"": "hang"}, hang_seconds=3600)).start()
    with socket.create_connection((server.host, server.port)) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\n\r\n")
        time.sleep(0.05)
        server.close()
        assert connection.recv(10) == b""


# Faults


@pytest.mark.parametrize("kind", ["500", "502", "503", "404", "408"])
def test_a_fault_can_be_any_status(kind: str) -> None:
    with FathomServer(calls=1, faults=Faults(next_faults=[kind])) as server:
        assert ask(server, "/external/v1/meetings", KEY).status == int(kind)
        assert ask(server, "/external/v1/meetings", KEY).status == 200
        assert [record.fault for record in server.requests] == [kind, None]


@pytest.mark.parametrize(
    ("kind", "pattern"),
    [
        ("429-retry-after", r"3"),
        ("429-bare", None),
        ("429-date", r"\w{3}, \d\d \w{3} \d{4} \d\d:\d\d:\d\d GMT"),
        ("429-iso", r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ"),
    ],
)
def test_too_many_requests_says_in_four_ways_how_long_to_wait(kind: str, pattern: str | None) -> None:
    with FathomServer(calls=1, faults=Faults(always={"meetings$": kind}, retry_after_seconds=2.2)) as server:
        asked_at = time.monotonic()
        answer = ask(server, "/external/v1/meetings", KEY)
        answered_at = time.monotonic()
        assert answer.status == 429
        text = answer.headers.get("Retry-After")
        assert (text is None) if pattern is None else re.fullmatch(pattern, text or "")
        silent_until = server.silence_until("fathom-test-key")
        if pattern is None:
            assert silent_until < answered_at
        else:
            assert asked_at + 2 < silent_until < answered_at + 3.3
        if text and "GMT" in text:
            assert parsedate_to_datetime(text) > datetime.now(UTC) + timedelta(seconds=2)


def test_what_comes_before_the_demanded_silence_is_over_came_early() -> None:
    with FathomServer(calls=1, early_grace_seconds=0) as server:
        server.faults.next_faults = ["429-retry-after"]
        server.faults.retry_after_seconds, server.faults.fractional_retry_after = 1.5, True
        assert ask(server, "/external/v1/meetings", KEY).headers["Retry-After"] == "1.500"
        ask(server, "/external/v1/meetings", KEY)
        ask(server, "/external/v1/meetings", OAUTH)  # somebody else
        time.sleep(1.6)
        ask(server, "/external/v1/meetings", KEY)
        assert [record.came_early for record in server.requests] == [False, True, False, False]
        assert len(server.early_requests) == server.summary()["came_early"] == 1


@pytest.mark.parametrize("kind", ["disconnect", "hang"])
def test_a_connection_can_end_without_an_answer(kind: str) -> None:
    with FathomServer(calls=1, faults=Faults(next_faults=[kind], hang_seconds=0.2)) as server:
        began = time.monotonic()
        with pytest.raises(http.client.RemoteDisconnected):
            ask(server, "/external/v1/meetings", KEY)
        assert kind == "disconnect" or time.monotonic() - began >= 0.2
        assert server.requests[0].status is None


def test_an_answer_can_be_cut_off_before_its_announced_length() -> None:
    with FathomServer(calls=3, faults=Faults(next_faults=["truncated"])) as server:
        with pytest.raises(http.client.IncompleteRead):
            ask(server, "/external/v1/meetings", KEY)
        assert server.requests[0].status == 200


def test_an_answer_can_drip_and_never_end() -> None:
    with FathomServer(calls=3, faults=Faults(next_faults=["slow"], hang_seconds=2)) as server:
        with socket.create_connection((server.host, server.port)) as connection:
            connection.sendall(b"GET /external/v1/meetings HTTP/1.1\r\nX-Api-Key: fathom-test-key\r\n\r\n")
            pieces = []
            while piece := connection.recv(4096):
                pieces.append(piece)
        assert len(pieces) > 1
        assert b"".join(pieces).startswith(b"HTTP/1.1 200")


def test_an_answer_can_be_half_a_document_or_a_page() -> None:
    with FathomServer(calls=3, faults=Faults(next_faults=["invalid-json", "html"])) as server:
        half, page = ask(server, "/external/v1/meetings", KEY), ask(server, "/external/v1/meetings", KEY)
        assert half.status == page.status == 200
        assert int(half.headers["Content-Length"]) == len(half.body)
        with pytest.raises(ValueError, match=r"Expecting|Unterminated"):
            json.loads(half.body)
        assert page.headers["Content-Type"].startswith("text/html")


def test_random_faults_are_the_same_for_a_seed_and_spare_oauth() -> None:
    def run(seed: int) -> list[str | None]:
        with FathomServer(calls=1, faults=Faults(share=0.5, kinds=["500", "429-bare"], seed=seed)) as server:
            for _ in range(30):
                ask(server, "/external/v1/meetings", KEY)
            ask(server, "/external/v1/oauth2/token", form={})
            return [record.fault for record in server.requests]

    first = run(1)
    assert first == run(1) != run(2)
    assert 5 < sum(fault is not None for fault in first) < 25
    assert {*first} == {None, "500", "429-bare"}
    assert first[-1] is None


def test_faults_can_be_scripted_by_path_and_made_permanent() -> None:
    faults = Faults(next_faults=[NextFault("503", "transcript"), None, "500"], always={"summary": "404"})
    with FathomServer(calls=1, faults=faults) as server:
        number = server.external_id(server.calls[0])
        assert ask(server, "/external/v1/meetings", KEY).status == 200
        assert ask(server, f"/external/v1/recordings/{number}/transcript", KEY).status == 503
        assert ask(server, f"/external/v1/recordings/{number}/summary", KEY).status == 500
        assert ask(server, f"/external/v1/recordings/{number}/summary", KEY).status == 404
        assert ask(server, f"/external/v1/recordings/{number}/summary", KEY).status == 404
        assert faults.served == {"503": 1, "500": 1, "404": 2}


def test_another_process_can_steer_the_faults() -> None:
    with FathomServer(calls=1) as server:
        change = {"always": {"meetings": "500"}, "next_faults": [{"kind": "503", "path": "meetings"}]}
        assert ask(server, "/_faults", form=json.dumps(change)).json["always"] == {"meetings": "500"}
        assert [ask(server, "/external/v1/meetings", KEY).status for _ in range(2)] == [503, 500]
        assert ask(server, "/_faults", form=json.dumps({"always": {}, "share": 1, "kinds": ["502"]})).status == 200
        assert ask(server, "/external/v1/meetings", KEY).status == 502
        for wrong in ({"no_such": 1}, {"kinds": ["no-such"]}):
            assert ask(server, "/_faults", form=json.dumps(wrong)).status == 400
        assert ask(server, "/_faults").json["kinds"] == ["502"]
        assert server.summary()["total"] == 3


def test_every_kind_of_fault_is_survived_by_the_server() -> None:
    with FathomServer(calls=12, faults=Faults(share=1, kinds=ALL_KINDS, hang_seconds=0.05)) as server:

        def once(_: int) -> None:
            try:
                ask(server, "/external/v1/meetings", KEY)
            except (OSError, http.client.HTTPException):
                return

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(once, range(150)))
        assert set(server.summary()["faults"]) == set(ALL_KINDS)
        server.faults.share = 0
        assert ask(server, "/external/v1/meetings", KEY).status == 200


# Rate limits


def test_fathom_counts_all_requests_and_heavy_ones_and_says_when_to_come_back() -> None:
    with FathomServer(calls=1, rate_limit="6/60s", heavy_rate_limit="2/60s", early_grace_seconds=0) as server:
        number = server.external_id(server.calls[0])
        first = ask(server, "/external/v1/meetings", KEY)
        assert (first.headers["RateLimit-Limit"], first.headers["RateLimit-Remaining"]) == ("6", "5")
        assert int(first.headers["RateLimit-Reset"]) == 60
        heavy = [ask(server, f"/external/v1/recordings/{number}/transcript", KEY).status for _ in range(3)]
        assert heavy == [200, 200, 429]
        assert ask(server, "/external/v1/meetings", KEY, include_transcript="true").status == 429
        assert [ask(server, "/external/v1/meetings", KEY).status for _ in range(4)] == [200, 200, 200, 429]
        refused = ask(server, "/external/v1/meetings", KEY)
        assert 55 <= int(refused.headers["Retry-After"]) <= 60
        assert refused.headers["RateLimit-Remaining"] == "0"
        assert server.requests[-1].came_early
        assert ask(server, "/external/v1/meetings", OAUTH).status == 200  # limits are per account


@pytest.mark.parametrize(
    ("is_fixed", "expected"),
    [(False, [True, True, False, False, True, False]), (True, [True, True, False, True, True, False])],
    ids=["last span", "fixed windows"],
)
def test_a_limit_counts_the_last_span_or_windows_that_begin_anew(is_fixed: bool, expected: list[bool]) -> None:
    limiter, let_in = Limiter("2/10s", is_fixed), []
    for now in (100.0, 107.0, 108.0, 110.0 if is_fixed else 109.9, 110.1, 110.2):
        let_in.append(limiter.room("ana", now).remaining > 0)
        if let_in[-1]:
            limiter.take("ana", now)
    assert let_in == expected
    assert limiter.room("omar", 110.2).remaining == 2
    assert limiter.room("ana", 110.2).reset_seconds == pytest.approx(9.8 if is_fixed else 6.8)


def test_zoom_limits_by_second_without_retry_after_and_by_day_with_a_date() -> None:
    with ZoomServer(calls=1, rate_limit={"Light": "2/60s"}, daily_limit="5/60s") as server:
        statuses = [ask(server, "/v2/users/me", ZOOM).status for _ in range(3)]
        assert statuses == [200, 200, 429]
        refused = ask(server, "/v2/users/me", ZOOM)
        assert refused.json["code"] == 429
        assert "Retry-After" not in refused.headers
        assert refused.headers["X-RateLimit-Category"] == "Light"
        assert refused.headers["X-RateLimit-Type"] == "QPS"
        answers = [ask(server, "/v2/users/me/recordings", ZOOM) for _ in range(4)]
        assert [each.status for each in answers] == [200, 200, 200, 429]
        assert answers[0].headers["X-RateLimit-Remaining"] == "2"
        assert answers[-1].headers["X-RateLimit-Type"] == "Daily-limit"
        assert datetime.fromisoformat(answers[-1].headers["Retry-After"]) > datetime.now(UTC)
        assert answers[-1].headers["x-zm-trackingid"]


# OAuth


def token(server: ZoomServer | FathomServer, in_query: bool = False, **form: str) -> Answer:
    path = urlsplit(server.token_url).path
    if isinstance(server, FathomServer):
        return ask(server, path, form={"client_id": "fathom-test-client", "client_secret": "fathom-test-secret"} | form)
    headers = basic("zoom-test-client", "zoom-test-secret")
    return ask(server, f"{path}?{urlencode(form)}", headers, "") if in_query else ask(server, path, headers, form)


def refresh(server: ZoomServer | FathomServer, refresh_token: str) -> Answer:
    return token(server, grant_type="refresh_token", refresh_token=refresh_token)


@pytest.mark.parametrize("kind", [FathomServer, ZoomServer])
def test_a_refresh_token_works_once(kind: Any) -> None:
    with kind(calls=1) as server:
        old = server.credentials["refresh token"]
        answer = refresh(server, old).json
        assert {"access_token", "refresh_token", "expires_in", "scope"} <= set(answer)
        second = refresh(server, old)
        assert (second.status, second.json["error"]) == (400, "invalid_grant")
        assert refresh(server, answer["refresh_token"]).status == 200
        assert (server.oauth.refreshes, server.oauth.refused_refreshes) == (2, 1)


def test_of_many_refreshes_at_once_exactly_one_works() -> None:
    with ZoomServer(calls=1) as server:
        server.oauth.latency = 0.05
        with ThreadPoolExecutor(8) as pool:
            statuses = list(pool.map(lambda _: refresh(server, "zoom-test-refresh-token").status, range(8)))
        assert sorted(statuses) == [200] + [400] * 7


def test_access_tokens_end_and_may_end_with_a_refresh() -> None:
    with ZoomServer(calls=1) as server:
        server.oauth.invalidates_old_access_token = True
        assert ask(server, "/v2/users/me", ZOOM).status == 200
        fresh = refresh(server, "zoom-test-refresh-token").json
        replaced = ask(server, "/v2/users/me", ZOOM)
        assert (replaced.status, replaced.json) == (401, {"code": 124, "message": "Invalid access token."})
        bearer = {"Authorization": f"Bearer {fresh['access_token']}"}
        assert ask(server, "/v2/users/me", bearer).status == 200
        server.oauth.expire_access_tokens()
        assert ask(server, "/v2/users/me", bearer).json["message"] == "Access token is expired."
        assert {record.credential for record in server.requests_of("user")} == {"connection-1"}


def test_the_client_must_prove_itself_in_the_form_that_the_vendor_wants() -> None:
    form = {"grant_type": "refresh_token", "refresh_token": "zoom-test-refresh-token"}
    with ZoomServer(calls=1) as server:
        in_body = {"client_id": "zoom-test-client", "client_secret": "zoom-test-secret"}
        for headers, extra in (({}, in_body), (basic("zoom-test-client", "wrong"), {})):
            answer = ask(server, "/oauth/token", headers, form | extra)
            assert answer.status == 400
            assert answer.json == {"reason": "Invalid client_id or client_secret", "error": "invalid_client"}
    with FathomServer(calls=1) as server:
        headers = basic("fathom-test-client", "fathom-test-secret")
        answer = ask(server, "/external/v1/oauth2/token", headers, form)
        assert (answer.status, answer.json) == (401, {"error": "invalid_client"})


def test_consent_gives_a_code_that_works_once_with_its_verifier() -> None:
    verifier, back = "v" * 50, "http://127.0.0.1:5555/callback"
    challenge = base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).decode().rstrip("=")
    asked = {"response_type": "code", "client_id": "zoom-test-client", "redirect_uri": back, "state": "s/1",
             "code_challenge": challenge, "code_challenge_method": "S256"}  # fmt: skip
    with ZoomServer(calls=1) as server:

        def consent(**changes: str) -> tuple[int, dict[str, list[str]]]:
            answer = ask(server, "/oauth/authorize", **asked | changes)
            return answer.status, parse_qs(urlsplit(answer.headers.get("Location", "")).query)

        def exchange(code: str, **changes: str) -> Answer:
            return token(server, **{"grant_type": "authorization_code", "code": code, "redirect_uri": back,
                                    "code_verifier": verifier} | changes)  # fmt: skip

        status, answer = consent()
        assert (status, answer["state"]) == (302, ["s/1"])
        tokens = exchange(answer["code"][0])
        assert tokens.json["token_type"] == "bearer"
        assert exchange(answer["code"][0]).json["error"] == "invalid_grant"
        assert exchange(consent()[1]["code"][0], code_verifier="other").status == 400
        assert exchange(consent()[1]["code"][0], redirect_uri=f"{back}2").status == 400
        assert consent(client_id="other")[0] == 400
        assert consent(redirect_uri="https://elsewhere.example.com/")[0] == 400
        assert consent(response_type="token")[1]["error"] == ["unsupported_response_type"]
        server.oauth.denies_consent = True
        assert consent()[1] == {"error": ["access_denied"], "state": ["s/1"]}


@pytest.mark.parametrize("in_query", [False, True])
def test_zoom_gives_an_account_a_token_without_refresh_token(in_query: bool) -> None:
    with ZoomServer(calls=1) as server:
        grant = {"grant_type": "account_credentials"}
        answer = token(server, in_query, account_id="zoom-test-account", **grant)
        assert "refresh_token" not in answer.json
        bearer = {"Authorization": f"Bearer {answer.json['access_token']}"}
        assert ask(server, "/v2/accounts/me/recordings", bearer).status == 200
        assert token(server, in_query, account_id="other", **grant).status == 400
        assert ask(server, "/v2/accounts/me/recordings", ZOOM).json["code"] == 4711  # a person may not
    with ZoomServer(calls=1, auth="oauth") as server:
        assert token(server, in_query, account_id="zoom-test-account", **grant).status == 400


def test_token_requests_can_fail_for_a_while_without_harm() -> None:
    with FathomServer(calls=1) as server:
        server.oauth.fail_next = [500, 429, 408]
        statuses = [refresh(server, "fathom-test-refresh-token").status for _ in range(4)]
        assert statuses == [500, 429, 408, 200]
        assert server.oauth.refreshes == 1


@pytest.mark.parametrize("grace", [0, 1])
def test_rotated_tokens_can_be_lost_on_their_way_with_or_without_grace(grace: int) -> None:
    with FathomServer(calls=1) as server:
        server.oauth.lose_next_answer, server.oauth.grace_uses = 1, grace
        with pytest.raises(http.client.RemoteDisconnected):
            refresh(server, "fathom-test-refresh-token")
        statuses = [refresh(server, "fathom-test-refresh-token").status for _ in range(2)]
        assert statuses == ([200, 400] if grace else [400, 400])


def test_everything_can_be_revoked() -> None:
    with ZoomServer(calls=1) as server:
        server.oauth.revoke()
        assert refresh(server, "zoom-test-refresh-token").json["error"] == "invalid_grant"
        assert ask(server, "/v2/users/me", ZOOM).status == 401


# Fathom: where it is stricter than our connector needs on most days


def test_fathom_takes_each_kind_of_credential_only_where_it_should() -> None:
    with FathomServer(calls=1, auth="oauth") as server:
        assert [ask(server, "/external/v1/meetings", each).status for each in (KEY, OAUTH)] == [401, 200]
        inline = {"include_transcript": "true"}
        assert ask(server, "/external/v1/meetings", OAUTH, **inline).status == 400


def test_keys_and_connections_see_only_the_calls_of_their_owner() -> None:
    with FathomServer(calls=20, hosts=2, api_keys={"one": "dana@example.com", "two": "omar@example.com"}) as server:
        tokens = server.oauth.issue("omar@example.com")
        seen = {}
        for name, headers in (("one", {"X-Api-Key": "one"}), ("two", {"X-Api-Key": "two"}),
                              ("oauth", {"Authorization": f"Bearer {tokens.access_token}"})):  # fmt: skip
            items = ask(server, "/external/v1/meetings", headers).json["items"]
            seen[name] = {item["recording_id"] for item in items}
        assert len(seen["one"]) == 10
        assert not seen["one"] & seen["two"]
        assert seen["two"] == seen["oauth"]


def test_fathom_leaves_out_what_was_created_at_the_very_ends_of_the_window() -> None:
    with FathomServer(calls=9) as server:
        middle = server.calls[4].created_at.strftime("%Y-%m-%dT%H:%M:%SZ")
        newer, older = (
            ask(server, "/external/v1/meetings", KEY, **{name: middle}).json["items"]
            for name in ("created_after", "created_before")
        )
        assert len(newer) + len(older) == 8
        assert ask(server, "/external/v1/meetings", KEY, created_after="yesterday").status == 400
        assert ask(server, "/external/v1/meetings", KEY, cursor="nonsense").status == 400


@pytest.mark.parametrize(("form", "first"), [("null", None), ("empty", []), ("404", 404)])
def test_a_transcript_can_be_late(form: Any, first: Any) -> None:
    with FathomServer(calls=2, late_transcripts=1, late_form=form) as server:
        path = f"/external/v1/recordings/{server.external_id(server.calls[0])}/transcript"
        early, later = ask(server, path, KEY), ask(server, path, KEY)
        assert (early.status if form == "404" else early.json["transcript"]) == first
        assert len(later.json["transcript"]) >= 10
        server.calls[1].transcript_ready_at = datetime.now(UTC) + timedelta(hours=1)
        item = ask(server, "/external/v1/meetings", KEY, include_transcript="true").json["items"][1]
        assert item["transcript"] == ([] if form == "empty" else None)


def test_fathom_leaves_out_what_impromptu_calls_and_unknown_people_lack() -> None:
    with FathomServer(calls=60, page_size=60) as server:
        items = ask(server, "/external/v1/meetings", KEY).json["items"]
        bare = [item for item in items if item["meeting_title"] is None]
        assert bare
        assert all(item["meeting_type"] is None and len(item["calendar_invitees"]) == 1 for item in bare)
        people = [person for item in items for person in item["calendar_invitees"]]
        assert {"name", "email"} <= {name for person in people for name, value in person.items() if value is None}
        assert any(item["recording_id"] > 2**32 for item in items)


def test_answers_can_hold_fields_and_values_that_nobody_knows() -> None:
    with FathomServer(calls=3, adds_unknown_fields=True) as server:
        page = ask(server, "/external/v1/meetings", KEY).json
        item = page["items"][0]
        assert "x_added_later" in page
        assert "x_added_later" in item["calendar_invitees"][0]
        assert item["shared_with"] == "added_later"


# Zoom, likewise


def zoom_list(server: ZoomServer, path: str = "/v2/users/me/recordings", **query: Any) -> Any:
    return ask(server, path, ZOOM, **query).json


def zoom_span(server: ZoomServer, days: int = 29, **query: Any) -> Any:
    today = datetime.now(UTC).date()
    return zoom_list(server, **{"from": today - timedelta(days=days), "to": today} | query)


def target_of(url: str) -> str:
    parts = urlsplit(url)
    return parts.path + (f"?{parts.query}" if parts.query else "")


def test_a_zoom_page_token_dies_and_belongs_to_one_question() -> None:
    with ZoomServer(calls=5, months=0.5) as server:
        token = zoom_span(server, page_size=2)["next_page_token"]
        assert zoom_span(server, page_size=2, next_page_token=token)["meetings"]
        refusal = {"code": 300, "message": "The next page token is invalid or expired."}
        assert zoom_span(server, days=28, page_size=2, next_page_token=token) == refusal
        server.page_token_seconds = -1
        token = zoom_span(server, page_size=2)["next_page_token"]
        assert zoom_span(server, page_size=2, next_page_token=token) == refusal


def test_zoom_cuts_a_span_that_is_too_long_and_says_so_only_in_its_echo() -> None:
    calls = [Call(number=n, started_at=datetime(2026, 3, day, 10, tzinfo=UTC)) for n, day in enumerate((1, 16, 31))]
    with ZoomServer(calls=calls) as server:
        page = zoom_list(server, **{"from": "2025-12-01", "to": "2026-03-31"})
        assert (page["from"], page["to"], page["total_records"]) == ("2026-03-01", "2026-03-31", 3)
        server.clamp_days = 20
        assert zoom_list(server, **{"from": "2026-03-01", "to": "2026-03-31"})["from"] == "2026-03-11"
        server.clamp_days = "month"
        assert zoom_list(server, **{"from": "2025-12-01", "to": "2026-03-31"})["from"] == "2026-02-28"
        server.clamp_days, server.to_is_inclusive = None, False
        page = zoom_list(server, **{"from": "2025-12-01", "to": "2026-03-31"})
        assert (page["from"], page["total_records"]) == ("2025-12-01", 2)


def test_zoom_ids_with_slashes_must_be_encoded_twice_and_those_of_others_are_unknown() -> None:
    with ZoomServer(calls=5) as server:
        once = [quote(server.external_id(call), safe="") for call in server.calls]
        for encoded, statuses in (
            (once, [404, 404, 200, 200, 200]),
            ([quote(each, safe="") for each in once], [200] * 5),
        ):
            assert [ask(server, f"/v2/meetings/{each}/recordings", ZOOM).status for each in encoded] == statuses
    with ZoomServer(calls=2, hosts=2) as server:
        foreign = quote(quote(server.external_id(server.calls[1]), safe=""), safe="")
        assert ask(server, f"/v2/meetings/{foreign}/recordings", ZOOM).status == 404


def test_zoom_files_may_lack_ids_and_come_in_parts() -> None:
    with ZoomServer(calls=12, months=0.5) as server:
        meetings = {meeting["uuid"]: meeting for meeting in zoom_span(server)["meetings"]}
        files = meetings[server.external_id(server.calls[0])]["recording_files"]
        for file in files:
            if file["file_type"] in ("CC", "TIMELINE"):
                assert not {"id", "status", "file_size", "recording_type", "play_url"} & set(file)
        assert {"MP4", "TRANSCRIPT", "CC", "TIMELINE", "CHAT"} <= {file["file_type"] for file in files}
        parts = meetings[server.external_id(server.calls[5])]["recording_files"]
        starts = [file["recording_start"] for file in parts if file["file_type"] == "TRANSCRIPT"]
        assert len(set(starts)) == 2


def test_downloads_redirect_to_another_port_that_watches_for_tokens() -> None:
    with ZoomServer(calls=1, months=0.1) as server:
        files = zoom_span(server)["meetings"][0]["recording_files"]
        link = target_of(next(file for file in files if file["file_type"] == "TRANSCRIPT")["download_url"])
        place = urlsplit(ask(server, link, ZOOM).headers["Location"])
        assert place.port == server.media.port != server.port
        assert ask(server.media, place.path).body.startswith(b"WEBVTT")
        assert server.media.leaks == []
        ask(server.media, place.path, ZOOM)
        ask(server.media, f"{place.path}?access_token=x")
        assert len(server.media.leaks) == 2
        server.redirects_downloads = False
        assert ask(server, link, ZOOM).body.startswith(b"WEBVTT")
        server.downloads_need_query_token = True
        assert b"Sign in" in ask(server, link, ZOOM).body
        assert ask(server, link, access_token="zoom-test-access-token").body.startswith(b"WEBVTT")


# YouTube, likewise


def youtube(server: YouTubeServer, path: str, **query: Any) -> Answer:
    return ask(server, f"/youtube/v3/{path}", **{"key": "youtube-test-key", "part": "snippet,contentDetails"} | query)


def test_youtube_answers_for_fifty_at_most_and_dates_an_entry_by_when_it_was_added() -> None:
    with YouTubeServer(calls=3, private_items=1) as server:
        for query in ({"maxResults": 51}, {"pageToken": "nonsense"}):
            assert youtube(server, "playlistItems", playlistId=server.playlist_id, **query).status == 400
        assert youtube(server, "videos", id=",".join(["unknown-id0"] * 51)).status == 400
        assert youtube(server, "videos", id="unknown-id0", maxResults=5).status == 400
        items = youtube(server, "playlistItems", playlistId=server.playlist_id).json["items"]
        assert items[1]["snippet"]["publishedAt"] > items[1]["contentDetails"]["videoPublishedAt"]
        assert (items[-1]["snippet"]["title"], set(items[-1]["contentDetails"])) == ("Private video", {"videoId"})


def test_the_quota_ends_with_403() -> None:
    with YouTubeServer(calls=1, quota_units=2) as server:
        assert [youtube(server, "channels", mine="true").status for _ in range(3)] == [401, 401, 403]
        answer = youtube(server, "channels", id=server.channel_id)  # what is refused costs as well
        assert answer.json["error"]["errors"][0]["reason"] == "quotaExceeded"
        assert "Retry-After" not in answer.headers


def test_captions_come_in_languages_escaped_twice_overlap_and_can_repeat_lines() -> None:
    with YouTubeServer(calls=9) as server:

        def tracks_of(call: Call) -> Any:
            body = json.dumps({"videoId": server.external_id(call)})
            player = ask(server, "/youtubei/v1/player", form=body).json
            return player["captions"]["playerCaptionsTracklistRenderer"]["captionTracks"]

        def captions_of(call: Call) -> list[ElementTree.Element]:
            link = target_of(tracks_of(call)[0]["baseUrl"]).replace("&fmt=srv3", "")
            return list(ElementTree.fromstring(ask(server, link).body))  # noqa: S314

        assert [track["languageCode"] for track in tracks_of(server.calls[1])] == ["en", "fr", "ja"]
        written = captions_of(server.calls[8])
        assert [float(each.attrib["start"]) for each in written] == [each.start for each in server.calls[8].segments]
        assert any("&amp;" in (each.text or "") or "&#" in (each.text or "") for each in written)
        server.video(server.calls[0]).tracks = [Track(repeats_lines=True)]
        first, second, *_ = captions_of(server.calls[0])
        assert float(first.attrib["start"]) + float(first.attrib["dur"]) > float(second.attrib["start"])
        assert (second.text or "").startswith(f"{first.text}\n")


# By hand


@pytest.mark.parametrize(
    ("provider", "number"), [("fathom", signal.SIGINT), ("zoom", signal.SIGTERM), ("youtube", signal.SIGINT)]
)
def test_a_fake_can_be_started_by_hand_and_ended(provider: str, number: int) -> None:
    command = [sys.executable, "-m", "tests.fakes", provider, "--port", "0", "--calls", "7", "--rate-limit", "5/1s"]
    root = Path(__file__).parents[2]
    with subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE, text=True) as fake:
        assert fake.stdout
        lines = []
        for line in fake.stdout:
            lines.append(line)
            if line.startswith("Ctrl-C"):
                break
        text = "".join(lines)
        address = re.search(rf"export IMPORT_PIPELINE_{provider.upper()}_URL=http://127.0.0.1:(\d+)", text)
        assert address
        assert f"{provider}-test-" in text
        connection = http.client.HTTPConnection("127.0.0.1", int(address[1]))
        connection.request("GET", "/_requests")
        assert json.loads(connection.getresponse().read())["total"] == 0
        connection.close()
        fake.send_signal(number)
        assert fake.wait(10) == 0
