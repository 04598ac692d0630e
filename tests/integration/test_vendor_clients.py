"""The vendors' own clients, and one that people use for Zoom, read the fakes: so their shapes are the vendors'."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import requests
from dlzoom.exceptions import AuthenticationError
from dlzoom.zoom_client import ZoomAPIError, ZoomClient
from fakes import FathomServer, Track, YouTubeServer, ZoomServer
from fathom_python import Fathom, errors, models
from google.api_core.client_options import ClientOptions
from googleapiclient.discovery import build
from googleapiclient.errors import HttpError
from requests.adapters import HTTPAdapter
from youtube_transcript_api import (
    AgeRestricted,
    CouldNotRetrieveTranscript,
    FailedToCreateConsentCookie,
    IpBlocked,
    PoTokenRequired,
    RequestBlocked,
    TranscriptsDisabled,
    VideoUnavailable,
    VideoUnplayable,
    YouTubeTranscriptApi,
)

# Fathom


def test_fathoms_client_pages_through_all_meetings_with_everything_included() -> None:
    with FathomServer(calls=25, hosts=2) as server:
        client = Fathom(security=models.Security(api_key_auth="fathom-test-key"), server_url=server.url)
        page = client.list_meetings(
            include_transcript=True,
            include_summary=True,
            include_action_items=True,
            include_highlights=True,
            include_crm_matches=True,
            recorded_by=["dana@example.com", "omar@example.com"],
            created_after="2020-01-01T00:00:00Z",
        )
        meetings = []
        while page is not None:
            meetings += page.result.items
            page = page.next()
        assert {str(meeting.recording_id) for meeting in meetings} == server.external_ids
        assert all(meeting.transcript and meeting.transcript[0].text.startswith("Welcome") for meeting in meetings)
        assert all(meeting.recording_end_time > meeting.recording_start_time for meeting in meetings)
        assert any(meeting.default_summary and meeting.default_summary.markdown_formatted for meeting in meetings)


def test_fathoms_client_reads_transcript_and_summary_with_an_access_token() -> None:
    with FathomServer(calls=1) as server:
        client = Fathom(security=models.Security(bearer_auth="fathom-test-access-token"), server_url=server.url)
        number = int(server.external_id(server.calls[0]))
        transcript: Any = client.get_recording_transcript(recording_id=number)
        assert [each.text for each in transcript.transcript] == [each.text for each in server.calls[0].segments]
        summary: Any = client.get_recording_summary(recording_id=number)
        assert summary.summary.markdown_formatted == server.calls[0].summary
        with pytest.raises(errors.APIError) as refused:
            client.list_meetings(include_transcript=True)
        assert refused.value.status_code == 400


def test_fathoms_client_waits_as_long_as_429_demands() -> None:
    with FathomServer(calls=1) as server:
        server.faults.next_faults = ["429-retry-after"]
        client = Fathom(security=models.Security(api_key_auth="fathom-test-key"), server_url=server.url)
        assert client.list_meetings() is not None
        assert [record.status for record in server.requests] == [429, 200]
        assert server.early_requests == []


# Zoom


def test_a_client_of_zoom_lists_pages_and_opens_every_meeting_by_its_id() -> None:
    today = datetime.now(UTC).date()
    span = (str(today - timedelta(days=29)), str(today))
    with ZoomServer(calls=25, months=0.8, hosts=2) as server:
        client = ZoomClient(
            "zoom-test-account", "zoom-test-client", "zoom-test-secret", base_url=server.url, token_url=server.token_url
        )
        meetings, token = [], None
        while token != "":
            page = client.get_account_recordings(*span, page_size=10, next_page_token=token)
            meetings += page["meetings"]
            token = page["next_page_token"]
        assert {meeting["uuid"] for meeting in meetings} == server.external_ids
        assert all(client.get_meeting_recordings(each["uuid"])["uuid"] == each["uuid"] for each in meetings)
        assert client.get_user_recordings("omar@example.com", *span)["total_records"] == 12
        assert client.get_current_user()["email"] == "dana@example.com"
        assert client.get_all_participants(meetings[0]["uuid"])[0]["name"]
        assert server.oauth.account_grants == 1


def test_a_client_of_zoom_understands_its_refusals() -> None:
    with ZoomServer(calls=1, missing_scopes={"user:read:user"}) as server:
        client = ZoomClient(
            "zoom-test-account", "zoom-test-client", "zoom-test-secret", base_url=server.url, token_url=server.token_url
        )
        with pytest.raises(ZoomAPIError) as refused:
            client.get_current_user()
        assert refused.value.zoom_code == 4711
        wrong = ZoomClient("zoom-test-account", "zoom-test-client", "wrong", base_url=server.url,
                           token_url=server.token_url)  # fmt: skip
        with pytest.raises(AuthenticationError):
            wrong.get_current_user()


# YouTube


def google(server: YouTubeServer, key: str = "youtube-test-key") -> Any:
    options = ClientOptions(api_endpoint=server.origin)
    return build("youtube", "v3", developerKey=key, client_options=options, static_discovery=True)


def test_googles_client_goes_from_the_channel_through_all_pages_to_the_videos() -> None:
    with YouTubeServer(calls=70, private_items=1) as server:
        client = google(server)
        channel = client.channels().list(part="contentDetails", forHandle="@example-channel").execute()["items"][0]
        uploads = channel["contentDetails"]["relatedPlaylists"]["uploads"]
        items, listing = [], client.playlistItems()
        request = listing.list(part="snippet,contentDetails", playlistId=uploads, maxResults=50)
        while request is not None:
            page = request.execute()
            items += page["items"]
            request = listing.list_next(request, page)
        ids = [item["contentDetails"]["videoId"] for item in items]
        assert set(ids) == server.external_ids
        videos = client.videos().list(part="snippet,contentDetails", id=",".join(ids[20:])).execute()["items"]
        assert [video["id"] for video in videos] == ids[20:-1]


def test_googles_client_understands_errors() -> None:
    with YouTubeServer(calls=1, quota_units=1) as server:
        assert "items" not in google(server).channels().list(part="id", id="UCunknown").execute()
        with pytest.raises(HttpError) as refused:
            google(server).channels().list(part="id", id="UCunknown").execute()
        assert refused.value.status_code == 403
        assert refused.value.error_details[0]["reason"] == "quotaExceeded"


class ToFake(HTTPAdapter):
    """Sends what is meant for www.youtube.com to a fake."""

    def __init__(self, origin: str) -> None:
        super().__init__()
        self._origin = origin

    def send(self, request: requests.PreparedRequest, *args: Any, **kwargs: Any) -> requests.Response:
        request.url = (request.url or "").replace("https://www.youtube.com", self._origin)
        return super().send(request, *args, **kwargs)


@pytest.fixture
def youtube() -> Iterator[YouTubeServer]:
    with YouTubeServer(calls=9) as server:
        yield server


def captions_of(server: YouTubeServer) -> YouTubeTranscriptApi:
    session = requests.Session()
    session.mount("https://www.youtube.com", ToFake(server.origin))
    return YouTubeTranscriptApi(http_client=session)


def test_the_transcript_client_reads_what_was_said(youtube: YouTubeServer) -> None:
    call = youtube.calls[8]
    name = youtube.external_id(call)
    manual = captions_of(youtube).fetch(name)
    assert not manual.is_generated
    assert [snippet.text for snippet in manual] == [segment.text for segment in call.segments]
    youtube.video(call).tracks = [Track(), Track(language="fr", is_generated=False)]
    found = captions_of(youtube).list(name)
    generated = found.find_generated_transcript(["en"]).fetch()
    assert generated[0].start + generated[0].duration > generated[1].start
    assert found.find_transcript(["fr"]).language == "French"


def test_the_transcript_client_consents(youtube: YouTubeServer) -> None:
    youtube.watch = "consent"
    assert captions_of(youtube).fetch(youtube.external_id(youtube.calls[8]))
    assert [record.kind for record in youtube.requests] == ["watch", "watch", "player", "captions"]


@pytest.mark.parametrize(
    ("watch", "error"),
    [
        ("consent-wall", FailedToCreateConsentCookie),
        ("recaptcha", IpBlocked),
        ("429", IpBlocked),
        ("captions-429", IpBlocked),
        ("bot", RequestBlocked),
        ("age", AgeRestricted),
        ("unavailable", VideoUnavailable),
        ("unplayable", VideoUnplayable),
        ("no-captions", TranscriptsDisabled),
        ("po-token", PoTokenRequired),
    ],
)
def test_the_transcript_client_tells_the_refusals_apart(
    youtube: YouTubeServer, watch: Any, error: type[CouldNotRetrieveTranscript]
) -> None:
    youtube.watch = watch
    with pytest.raises(CouldNotRetrieveTranscript) as refused:
        captions_of(youtube).fetch(youtube.external_id(youtube.calls[8]))
    assert type(refused.value) is error


def test_the_transcript_client_finds_nothing_in_an_empty_track(youtube: YouTubeServer) -> None:
    youtube.watch = "empty-track"
    assert len(captions_of(youtube).fetch(youtube.external_id(youtube.calls[8]))) == 0
