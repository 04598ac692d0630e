"""Fathom: both kinds of credentials, what is asked, and what its answers may look like."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from connectors.asking import Site, attempt, import_all, list_all, make_account, open_http, record_of
from fakes import FathomServer
from fakes.server import Request, Response

from import_pipeline.connectors.fathom import Fathom
from import_pipeline.errors import HttpError
from import_pipeline.records import Failed, Ready, Waiting

FATHOM = Fathom()
SECRETS = {"api-key": "fathom-test-key", "oauth": "fathom-test-access-token"}
SEGMENTS = [
    {"speaker": {"display_name": "Dana"}, "text": "Hello.", "timestamp": "00:00:01"},
    {"speaker": {"display_name": "Omar"}, "text": "Hi.", "timestamp": "00:00:05"},
]


def meeting(**changes: Any) -> dict[str, Any]:
    """Return the least that Fathom tells of a meeting, recorded a day ago."""
    start = datetime.now(UTC) - timedelta(days=1)
    return {
        "recording_id": 812345678,
        "title": "Review",
        "created_at": f"{start + timedelta(hours=1):%Y-%m-%dT%H:%M:%SZ}",
        "recording_start_time": f"{start:%Y-%m-%dT%H:%M:%SZ}",
        "recording_end_time": f"{start + timedelta(minutes=30):%Y-%m-%dT%H:%M:%SZ}",
    } | changes


def fathom(**changes: Any) -> Site:
    """Return a server with one meeting; `transcript` and `summary` are those of their own addresses."""
    transcript, summary = changes.pop("transcript", SEGMENTS), changes.pop("summary", None)

    def says(request: Request) -> Any:
        if request.path.endswith("/transcript"):
            return transcript if isinstance(transcript, Response) else {"transcript": transcript}
        if request.path.endswith("/summary"):
            return summary if isinstance(summary, Response) else {"summary": summary}
        return {"items": [meeting(**changes)]}

    return Site(says=says)


@pytest.mark.parametrize("kind", ["api-key", "oauth"])
def test_each_kind_of_credential_asks_only_for_what_it_may_f48(kind: str) -> None:
    with FathomServer(calls=23, months=0.9, auth=kind, strict_filters=True) as server:
        with open_http(FATHOM, server.url, kind, SECRETS[kind]) as http:
            outcomes = import_all(FATHOM, http, make_account(FATHOM))
        assert set(outcomes) == server.external_ids
        assert {record.status for record in server.requests} == {200}
        heavy = [record for record in server.requests if record.kind != "list" or "include_transcript" in record.query]
        assert len(heavy) == (3 if kind == "api-key" else 46)
        for call in server.calls:
            record = record_of(outcomes[server.external_id(call)])
            assert record.summary == call.summary
            assert all(segment.text in record.full_transcript for segment in call.segments)
            assert record.full_transcript.startswith(f"[00:00:00] {call.host.name}: Welcome to call {call.number}.")
            assert (record.recording_start_time, record.duration) == (call.started_at, call.seconds)
            assert record.video_url == record.source_metadata["share_link"]
            assert str(record.video_url).startswith("https://fathom.video/share/")
            assert record.source_metadata["recorder"]["email"] == call.host.email
            assert [each["email"] for each in record.source_metadata["invitees"]] == [p.email for p in call.people]


def test_the_window_is_one_of_creation_and_reaches_beyond_its_ends_f20_f25() -> None:
    with FathomServer(calls=0) as server:
        with open_http(FATHOM, server.url, "api-key", SECRETS["api-key"]) as http:
            account = make_account(FATHOM, days=200)
            edge = account.opened_at.replace(microsecond=0) - timedelta(days=92)
            # Fathom leaves out what was created at the very instants that are asked for.
            calls = [server.add(created_at=edge + timedelta(seconds=n), started_at=edge) for n in (-1, 0, 1)]
            late = server.add(created_at=account.opened_at, started_at=account.opened_at - timedelta(days=900))
            assert set(list_all(FATHOM, http, account)) == {server.external_id(call) for call in (*calls, late)}
        assert all({"created_after", "created_before"} <= set(record.query) for record in server.requests)


def test_the_window_is_told_in_utc_also_where_the_database_has_another_zone() -> None:
    opened_at = datetime(2026, 3, 29, 3, tzinfo=timezone(timedelta(hours=14)))
    account = replace(make_account(FATHOM), opened_at=opened_at, last_sync_at=opened_at)
    with Site(says=lambda _: {}) as site, open_http(FATHOM, site.url, "oauth") as http:
        assert list_all(FATHOM, http, account) == {}
        assert site.requests[0].query == {
            "created_after": ["2026-03-27T12:59:00Z"], "created_before": ["2026-03-28T13:01:00Z"],
        }  # fmt: skip


@pytest.mark.parametrize("kind", ["api-key", "oauth"])
@pytest.mark.parametrize("form", ["null", "empty", "404"])
def test_a_late_transcript_waits_and_is_imported_when_it_comes_f31_f32(kind: str, form: Any) -> None:
    with FathomServer(calls=1, months=0.03, late_form=form) as server:
        server.calls[0].transcript_ready_after = 2
        with open_http(FATHOM, server.url, kind, SECRETS[kind]) as http:
            account = make_account(FATHOM)
            (first,) = import_all(FATHOM, http, account).values()
            assert isinstance(first, Waiting)
            assert first.reason == "Fathom has no transcript of it yet."
        outcomes: list[Any] = []
        for _ in range(2):  # a key looks twice in each run
            with open_http(FATHOM, server.url, kind, SECRETS[kind]) as http:
                outcomes += import_all(FATHOM, http, account).values()
        assert isinstance(outcomes[-1], Ready)


def test_a_page_that_has_moved_on_costs_a_request_more_and_loses_nothing_f22() -> None:
    key = SECRETS["api-key"]
    with FathomServer(calls=12, months=0.9) as server, open_http(FATHOM, server.url, "api-key", key) as http:
        account = make_account(FATHOM)
        items = list_all(FATHOM, http, account)
        for call in [server.add(started_at=account.opened_at - timedelta(days=1)) for _ in range(10)]:
            assert server.external_id(call) not in items
        assert all(isinstance(attempt(FATHOM, http, account, item), Ready) for item in items.values())


@pytest.mark.parametrize(
    ("segments", "expected"),
    [
        pytest.param([{"text": "Hello.", "timestamp": "00:01"}], "[00:00:01] Hello.", id="no speaker, no hours"),
        pytest.param([{"speaker": None, "text": "Hello."}], "Hello.", id="null speaker, no time"),
        pytest.param(
            [{"speaker": {"display_name": None, "x": 1}, "text": " Hello. ", "timestamp": " 01:02:03.75 "}],
            "[01:02:03] Hello.",
            id="fractions and blanks",
        ),
        pytest.param(
            [{"text": None, "timestamp": "00:00:01"}, {"text": "Hello.", "timestamp": "soon"}], "Hello.", id="no text"
        ),
    ],
)
def test_segments_may_lack_what_is_optional_f47(segments: Any, expected: str) -> None:
    with fathom(transcript=segments) as site, open_http(FATHOM, site.url, "oauth") as http:
        (outcome,) = import_all(FATHOM, http, make_account(FATHOM)).values()
        assert record_of(outcome).full_transcript == expected


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        pytest.param({"recording_id": "812345678"}, {"external_id": "812345678"}, id="id as text"),
        pytest.param({"title": None, "meeting_title": "QBR"}, {"title": "QBR"}, id="only the calendar's title"),
        pytest.param({"title": "", "meeting_title": None}, {"title": "Untitled call"}, id="no title"),
        pytest.param({"recording_end_time": None}, {"duration": None}, id="no end"),
        pytest.param({"url": "https://a.example/1"}, {"video_url": "https://a.example/1"}, id="no share link"),
        pytest.param({"calendar_invitees": None, "recorded_by": None}, {}, id="nobody"),
        pytest.param({"shared_with": "added_later", "x": {"y": [1]}}, {}, id="unknown value and field"),
        pytest.param({"summary": {"markdown_formatted": None}}, {"summary": None}, id="empty summary"),
        pytest.param({"summary": Response(404, b"{}")}, {"summary": None}, id="no summary"),
        pytest.param({"summary": {"markdown_formatted": "## S"}}, {"summary": "## S"}, id="summary"),
    ],
)
def test_meetings_may_lack_what_is_optional_f47(changes: dict[str, Any], expected: dict[str, Any]) -> None:
    with fathom(**changes) as site, open_http(FATHOM, site.url, "oauth") as http:
        (outcome,) = import_all(FATHOM, http, make_account(FATHOM)).values()
        record = record_of(outcome)
        assert {name: getattr(record, name) for name in expected} == expected


def test_without_a_recording_time_the_plan_or_the_creation_is_the_start() -> None:
    planned, created = datetime(2026, 3, 2, 10, tzinfo=UTC), datetime(2026, 3, 2, 12, tzinfo=UTC)
    times = {"recording_start_time": None, "recording_end_time": None, "created_at": "2026-03-02T14:00:00+02:00"}
    for plan, expected in ((planned.isoformat(), planned), (None, created)):
        with fathom(**times, scheduled_start_time=plan) as site, open_http(FATHOM, site.url, "oauth") as http:
            (outcome,) = import_all(FATHOM, http, make_account(FATHOM)).values()
            assert record_of(outcome).recording_start_time == expected


@pytest.mark.parametrize(
    "changes",
    [
        {"recording_id": None}, {"recording_id": [1]}, {"recording_id": True}, {"title": 42}, {"share_url": ["x"]},
        {"recording_start_time": 1772445600}, {"recording_start_time": "yesterday"}, {"recording_end_time": "2026"},
        {"calendar_invitees": {}}, {"recorded_by": "Dana"}, {"transcript": "Hello"}, {"transcript": [7]},
        {"transcript": [{"speaker": "Dana", "text": "Hello"}]}, {"transcript": [{"text": 1}]}, {"summary": "short"},
    ],
    ids=str,
)  # fmt: skip
def test_a_changed_type_is_a_failed_item_of_the_class_data_f47(changes: dict[str, Any]) -> None:
    with fathom(**changes) as site, open_http(FATHOM, site.url, "oauth") as http:
        (outcome,) = import_all(FATHOM, http, make_account(FATHOM)).values()
        assert isinstance(outcome, Failed)
        assert outcome.error_class == "data"


@pytest.mark.parametrize(
    ("first", "cursor"), [("abc=+/&", "abc=+/&"), (7, "7"), ("https://x.example/?p=2", "https://x.example/?p=2")]
)
def test_a_cursor_is_passed_back_as_it_came_whatever_it_looks_like(first: Any, cursor: str) -> None:
    def says(request: Request) -> Any:
        if "cursor" not in request.query:
            return {"limit": None, "next_cursor": first, "items": [meeting()], "x_total": "2"}
        assert request.query["cursor"] == [cursor]
        return {"items": [meeting(recording_id=2, transcript=SEGMENTS)], "next_cursor": ""}

    with Site(says=says) as site, open_http(FATHOM, site.url, "api-key") as http:
        account = make_account(FATHOM)
        items = list_all(FATHOM, http, account)
        assert set(items) == {"812345678", "2"}
        assert isinstance(attempt(FATHOM, http, account, items["2"]), Ready)
        assert not any("/recordings/" in target for target in site.targets)


@pytest.mark.parametrize("items", [None, []])
def test_a_page_may_be_empty(items: Any) -> None:
    with Site(says=lambda _: {"items": items}) as site, open_http(FATHOM, site.url, "oauth") as http:
        assert list_all(FATHOM, http, make_account(FATHOM)) == {}


def test_access_names_the_one_who_recorded_everything_and_nobody_else() -> None:
    with FathomServer(calls=6, hosts=2) as server:
        with open_http(FATHOM, server.url, "api-key", SECRETS["api-key"]) as http:
            assert FATHOM.check_access(make_account(FATHOM), http).email is None
            server.calls = [call for call in server.calls if call.host.email == "dana@example.com"]
            assert FATHOM.check_access(make_account(FATHOM), http).email == "dana@example.com"
            server.lacks_scope = True
            (problem,) = FATHOM.check_access(make_account(FATHOM), http).problems
            assert "public_api" in problem
        with open_http(FATHOM, server.url, "api-key", "wrong") as http, pytest.raises(HttpError):
            FATHOM.check_access(make_account(FATHOM), http)
