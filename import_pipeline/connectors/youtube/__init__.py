"""YouTube: the videos of channels and playlists, and single videos, with their captions, by the Data API v3.

Imports what has captions. Needs an API key; captions come from the website, which blocks many data centres. Costs 2 of
10,000 units a day per 50 videos, and three requests to the website per new video. Without a date filter channels are
read down to what is older than the window, playlists whole. Cannot see private videos. Read 2026-11.
"""

from collections.abc import Iterator
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

import httpx

from import_pipeline.connectors.base import Connector
from import_pipeline.connectors.youtube.site import find_playlist, is_video_id, parse_address, read_captions
from import_pipeline.errors import HttpError, IgnoredItemError, NotReadyError, ReconnectError
from import_pipeline.providers.authentication import ApiKey
from import_pipeline.providers.error_answers import describe_body
from import_pipeline.providers.fields import get_id, get_list, get_text, iso_duration_seconds, peek
from import_pipeline.providers.http import HttpClient
from import_pipeline.providers.rate_budgets import RateLimit
from import_pipeline.records import Account, ConnectorRecord, ListedItem, Window

_PARTS = "snippet,contentDetails,status,liveStreamingDetails"
_STARTS = ("liveStreamingDetails.actualStartTime", "liveStreamingDetails.scheduledStartTime", "snippet.publishedAt")


class YouTube(Connector):
    """Videos of YouTube channels and playlists."""

    source_app = "youtube"
    title = "YouTube"
    description = "Videos of channels and playlists, and single videos, that have captions."
    documentation_url = "https://developers.google.com/youtube/v3/docs"
    base_url = "https://www.googleapis.com/youtube/v3"
    permissions = "an API key of a Google Cloud project in which the YouTube Data API v3 is enabled"
    authenticates_by = (ApiKey(parameter="key"),)
    addresses = "channels (@handle or /channel/ address), playlists or videos"
    rate_limits = (RateLimit("requests", 10_000, timedelta(days=1)), RateLimit("captions", 600, timedelta(minutes=1)))
    partitioned = False
    polling_interval = timedelta(hours=1)
    look_back = timedelta(days=14)  # videos that were scheduled or premiered stand further down
    transcript_deadline = timedelta(days=2)

    def check_address(self, address: str) -> None:
        """Accept what names a channel, a playlist or a video; a /c/ address cannot be looked up."""
        parse_address(address)

    def list_items(self, account: Account, window: Window, http: HttpClient) -> Iterator[ListedItem]:
        """Yield the videos of every address: of a channel down to the window, of a playlist all."""
        unknown = None
        for kind, value in map(parse_address, account.options["addresses"]):
            try:
                if kind == "video":
                    yield from _describe([value], http)
                else:
                    since = "" if kind == "playlist" else f"{window.start:%Y-%m-%dT%H:%M:%SZ}"
                    yield from _list_playlist(find_playlist(kind, value, http), since, http)
            except HttpError as error:
                if error.status == 400 and "API key" in str(error):
                    raise ReconnectError(f"{error} Run `import-pipeline connect youtube` again.") from None
                if error.status != 404:
                    raise
                unknown = error  # which must not keep the others from being listed
        if unknown:
            raise unknown

    def fetch_record(self, account: Account, item: ListedItem, http: HttpClient) -> ConnectorRecord:
        """Add the captions to a listed video."""
        video = item.details
        if not video:
            raise IgnoredItemError("YouTube shows nothing of it: it is private or deleted.")
        duration = iso_duration_seconds(get_text(video, "contentDetails.duration"))
        is_live = duration == 0 or get_text(video, "snippet.liveBroadcastContent") in ("live", "upcoming")
        if is_live or get_text(video, "status.uploadStatus") == "uploaded":
            raise NotReadyError("It is a live stream that has not ended, or YouTube is still processing it.")
        transcript, captions = read_captions(item.external_id, get_text(video, "snippet.defaultAudioLanguage"), http)
        return ConnectorRecord(
            external_id=item.external_id,
            source_app=self.source_app,
            title=get_text(video, "snippet.title") or "Untitled video",
            full_transcript=transcript,
            recording_start_time=item.started_at or "",
            duration=duration,
            video_url=item.location,
            source_metadata={
                "share_link": item.location,
                **{key: get_text(video, f"snippet.{key}") for key in ("channelId", "channelTitle")},
                "captions": captions,
            },
        )

    def limit_ends_at(self, response: httpx.Response) -> datetime | None:
        """Say when the quota is renewed: it is refused with 403, and renewed at midnight in California."""
        if response.status_code in (403, 429) and describe_body(response)[0] in ("quotaExceeded", "dailyLimitExceeded"):
            return datetime.now(ZoneInfo("America/Los_Angeles")).replace(hour=0, minute=0, second=0) + timedelta(days=1)
        return None


def _list_playlist(playlist: str, since: str, http: HttpClient) -> Iterator[ListedItem]:
    """Yield a playlist, newest first, down to the second page on which everything is older."""
    params, old_pages = {"part": "contentDetails", "playlistId": playlist, "maxResults": 50}, 0
    for page in http.pages("/playlistItems", params, "pageToken", "nextPageToken"):
        entries = get_list(page, "items")
        yield from _describe([get_id(entry, "contentDetails.videoId") for entry in entries], http)
        dates = [str(peek(entry, "contentDetails.videoPublishedAt") or "later") for entry in entries]
        old_pages += max(dates, default="later") < since
        if old_pages > 1:
            return


def _describe(video_ids: list[str], http: HttpClient) -> Iterator[ListedItem]:
    """Yield videos with their details, 50 at a time; those that YouTube leaves out are private or deleted."""
    for batch in (video_ids[first : first + 50] for first in range(0, len(video_ids), 50)):
        answer = http.get_json("/videos", {"part": _PARTS, "id": ",".join(filter(is_video_id, batch))})
        videos = {get_id(video, "id"): video for video in get_list(answer, "items")}
        for video_id in batch:
            video, link = videos.get(video_id, {}), f"https://www.youtube.com/watch?v={video_id}"
            start = next(filter(None, (peek(video, path) for path in _STARTS)), None)
            yield ListedItem(video_id, peek(video, "snippet.title"), start, link, details=video)
