"""Fathom: the calls that a person recorded or that were shared with them, by Fathom's external API v1.

Imports transcript, summary, share link, invitees and recorder. Needs an API key, or an OAuth app with `public_api`.
Costs one request per ten calls to list; then one per ten new calls with a key, two per new call without. Cannot see
other people's private calls, nor can an admin's key. By developers.fathom.ai and fathom-python 0.0.43, read 2026-11.
"""

from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from functools import lru_cache, partial
from typing import Any
from urllib.parse import quote

from import_pipeline.connectors.base import Connector
from import_pipeline.errors import HttpError, NotReadyError
from import_pipeline.providers.authentication import ApiKey, OAuth
from import_pipeline.providers.fields import clock_seconds, get_id, get_instant, get_list, get_object, get_text, peek
from import_pipeline.providers.http import HttpClient
from import_pipeline.providers.rate_budgets import RateLimit
from import_pipeline.records import Access, Account, ConnectorRecord, JsonObject, ListedItem, Window
from import_pipeline.transcripts import render, turns_from_segments

_KEPT = ("created_at", "meeting_title", "meeting_type", "meeting_url", "shared_with", "transcript_language")
_OAUTH = "https://fathom.video/external/v1/oauth2"


class Fathom(Connector):
    """Calls recorded with Fathom."""

    source_app = "fathom"
    title = "Fathom"
    description = "Calls recorded with Fathom that you may see: transcript, summary, invitees."
    documentation_url = "https://developers.fathom.ai"
    base_url = "https://api.fathom.ai/external/v1"
    permissions = "an API key of yours (Settings → API Access), or an OAuth app with the scope public_api"
    authenticates_by = (
        ApiKey(header="X-Api-Key"),
        OAuth(f"{_OAUTH}/authorize", f"{_OAUTH}/token", ("public_api",), client_authentication="body"),
    )
    rate_limits = (RateLimit("requests", 60, timedelta(minutes=1)), RateLimit("heavy", 30, timedelta(minutes=1)))
    history_start = datetime(2020, 1, 1, tzinfo=UTC)
    longest_window = timedelta(days=366)  # Fathom knows no limit; a listing that breaks off is begun again by window
    transcript_deadline = timedelta(days=2)

    def list_items(self, account: Account, window: Window, http: HttpClient) -> Iterator[ListedItem]:
        """Yield what was created in the window: the filter is on creation, which is minutes after the call."""
        params: dict[str, Any] = {
            # Whether the ends belong to the span is not documented, and times are cut to seconds.
            "created_after": f"{window.start - timedelta(minutes=1):%Y-%m-%dT%H:%M:%SZ}",
            "created_before": f"{window.end + timedelta(minutes=1):%Y-%m-%dT%H:%M:%SZ}",
        }
        cursor = None
        for page in http.pages("/meetings", params, "cursor", "next_cursor"):
            for meeting in get_list(page, "items"):
                title = peek(meeting, "title") or peek(meeting, "meeting_title") or None
                start = peek(meeting, "recording_start_time") or peek(meeting, "created_at") or None
                link, details = peek(meeting, "share_url"), {"meeting": meeting, "page": {**params, "cursor": cursor}}
                yield ListedItem(get_id(meeting, "recording_id"), title, start, link or None, details=details)
            cursor = page.get("next_cursor")

    def fetch_record(self, account: Account, item: ListedItem, http: HttpClient) -> ConnectorRecord:
        """Add transcript and summary to a listed meeting."""
        meeting = item.details["meeting"]
        segments, summary = self._read_content(item, http)
        if not (transcript := render(turns_from_segments(_read_segment(segment) for segment in segments))):
            raise NotReadyError("Fathom has no transcript of it yet.")
        started_at, ended_at = (get_instant(meeting, f"recording_{end}_time") for end in ("start", "end"))
        planned_at = get_instant(meeting, "scheduled_start_time") or get_instant(meeting, "created_at")
        link = get_text(meeting, "share_url") or get_text(meeting, "url")
        return ConnectorRecord(
            external_id=item.external_id,
            source_app=self.source_app,
            title=get_text(meeting, "title") or get_text(meeting, "meeting_title") or "Untitled call",
            full_transcript=transcript,
            recording_start_time=started_at or planned_at or "",
            duration=(ended_at - started_at).total_seconds() if started_at and ended_at else None,
            recording_end_time=ended_at,
            summary=get_text(summary, "markdown_formatted"),
            video_url=link,
            source_metadata={
                "share_link": link,
                "invitees": get_list(meeting, "calendar_invitees"),
                "recorder": get_object(meeting, "recorded_by"),
                **{key: meeting.get(key) for key in _KEPT},
            },
        )

    def check_access(self, account: Account, http: HttpClient) -> Access:
        """Ask for one page, too; Fathom does not say whose key it is, but all calls of one recorder tell."""
        access = super().check_access(account, http)
        meetings = [] if access.problems else get_list(http.get_json("/meetings"), "items")
        emails = {str(peek(meeting, "recorded_by.email") or "") for meeting in meetings}
        return Access(emails.pop() or None) if len(emails) == 1 else access

    def _read_content(self, item: ListedItem, http: HttpClient) -> tuple[list[Any], JsonObject]:
        """Return segments and summary: with a key from the page that listed it, without from two addresses."""
        if http.kind == "api-key":  # an OAuth app may not ask for them inline
            params = {**item.details["page"], "include_transcript": "true", "include_summary": "true"}
            ask = http.memory.setdefault("pages", lru_cache(4)(partial(_ask, http, "/meetings")))
            for meeting in get_list(ask(tuple(params.items())), "items"):
                if get_id(meeting, "recording_id") == item.external_id and get_list(meeting, "transcript"):
                    return get_list(meeting, "transcript"), get_object(meeting, "default_summary")
        path = f"/recordings/{quote(item.external_id, safe='')}"
        segments = get_list(_ask(http, f"{path}/transcript"), "transcript")
        return segments, get_object(_ask(http, f"{path}/summary") if segments else {}, "summary")


def _ask(http: HttpClient, path: str, params: Iterable[tuple[str, Any]] = ()) -> JsonObject:
    """Return what Fathom has; nothing if it does not have it yet, or if a page has moved on."""
    try:
        return http.get_json(path, dict(params), budgets=("requests", "heavy"))
    except HttpError as error:
        if error.status == 404 or (error.status == 400 and params):
            return {}
        raise


def _read_segment(segment: Any) -> tuple[str | None, str, float | None, None]:
    start = clock_seconds(get_text(segment, "timestamp"))
    return get_text(segment, "speaker.display_name"), get_text(segment, "text") or "", start, None
