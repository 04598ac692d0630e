"""Zoom: cloud recordings with their transcripts, by the Meeting API v2 (read 2026-11).

Imports cloud recordings with an audio transcript. Needs a user's OAuth app (own recordings) or a server app (all of an
account), plan Pro or higher. Costs a request per 27 days and one per new segment; cannot see local recordings.
"""

from collections.abc import Iterator
from contextlib import suppress
from datetime import timedelta
from urllib.parse import quote, urljoin

from import_pipeline.connectors.base import Connector
from import_pipeline.errors import HttpError, ItemError, NotReadyError, SourceUnavailableError
from import_pipeline.providers.authentication import OAuth, ServerToServer
from import_pipeline.providers.fields import get_id, get_instant, get_list, get_number, get_text, peek
from import_pipeline.providers.http import HttpClient
from import_pipeline.providers.rate_budgets import RateLimit
from import_pipeline.records import Account, ConnectorRecord, JsonObject, ListedItem, Window
from import_pipeline.transcripts import Turn, join, render, turns_from_vtt

_GRANT = "https://zoom.us/oauth/token"


class Zoom(Connector):
    """Cloud recordings of Zoom meetings."""

    source_app = "zoom"
    title = "Zoom"
    description = "Cloud recordings of Zoom meetings that have an audio transcript."
    documentation_url = "https://developers.zoom.us/docs/api/meetings/"
    base_url = "https://api.zoom.us/v2"
    trusted_domains = ("zoom.us",)
    permissions = "cloud_recording:read:list_user_recordings and list_recording_files, list_account_recordings:admin"
    authenticates_by = (ServerToServer(_GRANT, "account_credentials"), OAuth("https://zoom.us/oauth/authorize", _GRANT))
    identity = ("/users/me", "email")
    rate_limits = (RateLimit("requests", 20, timedelta(seconds=1)),)  # medium requests on the plan Pro
    longest_window = timedelta(days=27)  # with a shared day at each end still no longer than any month
    look_back = timedelta(days=2)
    transcript_deadline = timedelta(days=3)
    concurrency = 8

    def list_items(self, account: Account, window: Window, http: HttpClient) -> Iterator[ListedItem]:
        """Yield recordings of the user or the account; of each user, where an app may not list the account's."""
        own = "/accounts/me" if http.kind == "server-to-server" else "/users/me"
        try:
            yield from _list_recordings(own, window, http)
        except HttpError as error:
            if own == "/users/me" or error.status not in (400, 403, 404):
                raise
            for page in http.pages("/users", {"page_size": 300}, "next_page_token", "next_page_token"):
                for who in get_list(page, "users"):
                    yield from _list_recordings(f"/users/{quote(get_id(who, 'id'), '', None, 'replace')}", window, http)

    def fetch_record(self, account: Account, item: ListedItem, http: HttpClient) -> ConnectorRecord:
        """Download the transcript of each segment of a meeting and put them together."""
        meeting, started_at = item.details, get_instant(item.details, "start_time")
        segments = {str(file.get("recording_start")) for file in _files(meeting, "TRANSCRIPT", "MP4", "M4A")}
        files = [f for f in _files(meeting, "TRANSCRIPT") if f.get("status") != "processing" and f.get("download_url")]
        missing = max(0, len(segments - {"None"}) - len(files))
        if not files or (missing and started_at and account.opened_at - started_at <= self.transcript_deadline / 2):
            raise NotReadyError("Zoom has no transcript yet; 'audio transcript' must be on before a meeting begins.")
        turns = join((get_instant(f, "recording_start"), _read_turns(item.external_id, f, http)) for f in files)
        if not turns:
            raise NotReadyError("Zoom's transcript of it is empty.")
        return ConnectorRecord(
            external_id=item.external_id,
            source_app=self.source_app,
            title=get_text(meeting, "topic") or "Untitled meeting",
            full_transcript=render(turns),
            recording_start_time=started_at or get_instant(files[0], "recording_start") or "",
            duration=60 * (get_number(meeting, "duration") or 0) or None,
            video_url=get_text(meeting, "share_url"),
            source_metadata={
                "meeting_number": get_id(meeting, "id"),
                "segments_without_transcript": missing,
                "share_link": get_text(meeting, "share_url"),
                **{key: get_text(meeting, key) for key in ("host_email", "timezone")},
            },
        )


def _list_recordings(owner: str, window: Window, http: HttpClient) -> Iterator[ListedItem]:
    """Yield the recordings of the window's days (UTC); of too long a span Zoom lists only the end."""
    begin, (first, last) = "later", (f"{end:%Y-%m-%d}" for end in (window.start, window.end))
    while begin > first:
        params = {"from": first, "to": last, "page_size": 300}
        for page in http.pages(f"{owner}/recordings", params, "next_page_token", "next_page_token"):
            begin, end = (str(peek(page, name) or params[name])[:10] for name in ("from", "to"))
            if end != last or begin > last or begin == last > first:
                raise SourceUnavailableError(f"Zoom was asked for {first} to {last} and answered for {begin} to {end}.")
            for meeting in get_list(page, "meetings"):
                topic, start, link = (peek(meeting, key) or None for key in ("topic", "start_time", "share_url"))
                yield ListedItem(get_id(meeting, "uuid"), topic, start, link, details=meeting)
        last = begin


def _read_turns(uuid: str, file: JsonObject, http: HttpClient) -> list[Turn]:
    """Read a transcript. Links run out, and some need a token in the address: then the meeting is asked for both."""
    path, token = f"/meetings/{quote(quote(uuid, safe=''), safe='')}/recordings", None  # `/` would be a path's
    for _ in range(5):  # a page in its place may also be a passing fault
        with suppress(ItemError):
            return _download(file, token, http)
        fresh, start = http.get_json(path, {"include_fields": "download_access_token"}), file.get("recording_start")
        token = get_text(fresh, "download_access_token")
        file = next((new for new in _files(fresh, "TRANSCRIPT") if new.get("recording_start") == start), file)
    return _download(file, token, http)


def _download(file: JsonObject, token: str | None, http: HttpClient) -> list[Turn]:
    link = urljoin(f"{http.base_url}/", quote(get_text(file, "download_url") or "", ":/?&=%;~+,@", errors="replace"))
    text = http.get_bytes(link, {"access_token": token}).decode("utf-8-sig", "replace").lstrip()
    if not text.startswith("WEBVTT"):
        raise ItemError("Zoom's link to the transcript leads to a page, not to WebVTT.", error_class="transient")
    return turns_from_vtt(text)


def _files(meeting: JsonObject, *kinds: str) -> list[JsonObject]:
    """Return the files of these kinds in order of their segments; some kinds come without id and status."""
    files = [file for file in get_list(meeting, "recording_files") if peek(file, "file_type") in kinds]
    return sorted(files, key=lambda file: str(file.get("recording_start")))
