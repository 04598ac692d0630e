"""A fake of YouTube: the Data API v3, and on the same port the pages and captions that browsers and apps read.

Every path is answered with and without `/youtube/v3` before it. One channel; no uploads, no captions for owners.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
from collections.abc import Collection
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from operator import attrgetter
from typing import Any, ClassVar, Literal

from .calls import HOSTS, Call
from .oauth import OAuth
from .provider import Provider, environment
from .server import Request, Response, Route, route

API_KEY = "youtube-test-key"
CLIENT_ID = "youtube-test-client"
CLIENT_SECRET = "youtube-test-secret"
ACCESS_TOKEN = "youtube-test-access-token"
REFRESH_TOKEN = "youtube-test-refresh-token"
INNERTUBE_KEY = "made-up-innertube-key"

BOT_REASON = "Sign in to confirm you’re not a bot"
AGE_REASON = "This video may be inappropriate for some users."
UNAVAILABLE_REASON = "This video is unavailable"
LANGUAGES = {"en": "English", "de": "German", "fr": "French", "ja": "Japanese", "es": "Spanish"}

Watch = Literal[
    "ok", "consent", "consent-wall", "recaptcha", "429", "bot", "age", "unavailable", "unplayable", "no-captions",
    "empty-track", "empty-body", "po-token", "captions-429",
]  # fmt: skip
"""What the watch side does: a consent page (for ever with `-wall`), a captcha, 429, a demand to sign in, a refusal, no
captions block, a track without text or without a body, a track that wants a token, 429 for tracks only."""

_BASE = "/youtube/v3"
_ROOT = rf"(?:{_BASE})?"


@dataclass(kw_only=True, eq=False)
class Track:
    """A caption track.

    Args:
        language: Its code.
        is_generated: By speech recognition: lower case, no punctuation, and each line stays until the next but one.
        repeats_lines: Each caption holds the line before it as well, as captions do that roll up.
        name: What people see; by default the language's name.
    """

    language: str = "en"
    is_generated: bool = True
    repeats_lines: bool = False
    name: str | None = None


@dataclass(kw_only=True, eq=False)
class Video:
    """What is special about one video.

    Args:
        call: What is in it.
        privacy: A private one stays in lists without its data, and `videos` omits it.
        live: A stream that is announced or running has no duration yet.
        is_omitted: It is in lists, but `videos` omits it.
        upload_status: As in `status.uploadStatus`.
        tracks: Its captions; none at all: there is no captions block.
        watch: What the watch side does; None: what the server's switch says.
    """

    call: Call
    privacy: Literal["public", "unlisted", "private"] = "public"
    live: Literal["none", "upcoming", "live", "completed"] = "none"
    is_omitted: bool = False
    upload_status: str = "processed"
    tracks: list[Track] = field(default_factory=list)
    watch: Watch | None = None


@dataclass(kw_only=True, eq=False)
class YouTubeServer(Provider):
    """YouTube. See `Provider` for the switches that all fakes have.

    `video(id_or_call)` returns what is special about one video; it may be changed at any time. An ask for a transcript,
    as in `Call.transcript_ready_after`, is a request of the player; before, there is no captions block.

    Args:
        auth: Which credentials are accepted.
        api_keys: Accepted keys.
        oauth: Its authorisation server; refresh tokens do not rotate.
        handle: Of the channel, without `@`.
        quota_units: Of all requests; then 403 `quotaExceeded`. None: no end.
        rate_limit: Of all requests of the Data API, for instance `100/1s`; 429 then comes without Retry-After.
        private_items: So many of the oldest videos are private.
        omitted_items: So many of the next oldest are listed, but omitted by `videos`.
        upcoming_items: So many of the newest are announced streams.
        live_items: So many of the next newest are running streams.
        watch: What the watch side does for every video that says nothing else.
        units_used: Counts the quota.
    """

    base_path: ClassVar[str] = _BASE

    auth: Literal["any", "key", "oauth"] = "any"
    api_keys: Collection[str] = (API_KEY,)
    oauth: OAuth = field(
        default_factory=lambda: OAuth(
            client_id=CLIENT_ID, client_secret=CLIENT_SECRET, client_authentication="body", rotates=False,
            user=HOSTS[0].email, scope="https://www.googleapis.com/auth/youtube.readonly", status_of_invalid_client=401,
        )
    )  # fmt: skip
    handle: str = "example-channel"
    quota_units: int | None = None
    rate_limit: str | None = None
    private_items: int = 0
    omitted_items: int = 0
    upcoming_items: int = 0
    live_items: int = 0
    watch: Watch = "ok"
    units_used: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        self.limits.set("requests", self.rate_limit)
        self._videos: dict[bytes, Video] = {}
        self.oauth.issue(access_token=ACCESS_TOKEN, refresh_token=REFRESH_TOKEN)
        oldest = list(reversed(self.calls))
        for call in oldest[: self.private_items]:
            self.video(call).privacy = "private"
        for call in oldest[self.private_items : self.private_items + self.omitted_items]:
            self.video(call).is_omitted = True
        for call in self.calls[: self.upcoming_items]:
            self.video(call).live = "upcoming"
        for call in self.calls[self.upcoming_items : self.upcoming_items + self.live_items]:
            self.video(call).live = "live"

    # Addresses and credentials

    @property
    def watch_url(self) -> str:
        """What takes the place of `https://www.youtube.com`."""
        return self.origin

    @property
    def token_url(self) -> str:
        """Where codes and refresh tokens become access tokens."""
        return f"{self.origin}/token"

    @property
    def authorize_url(self) -> str:
        """Where a person consents."""
        return f"{self.origin}/o/oauth2/v2/auth"

    @property
    def environment(self) -> dict[str, str]:
        """The variables that make the importer ask this server."""
        return environment("YOUTUBE", {"URL": self.url})

    @property
    def credentials(self) -> dict[str, str]:
        """The made-up credentials that it accepts, and what there is to import."""
        secret = {"api key": next(iter(self.api_keys), "")} if self.auth != "oauth" else {"access token": ACCESS_TOKEN}
        return secret | {
            "channel": self.channel_id,
            "handle": f"@{self.handle}",
            "uploads": self.uploads_id,
            "playlist": self.playlist_id,
        }

    @property
    def channel_id(self) -> str:
        """The one channel there is."""
        return f"UC{self._name}"

    @property
    def uploads_id(self) -> str:
        """The playlist of the channel's uploads, newest first."""
        return f"UU{self._name}"

    @property
    def playlist_id(self) -> str:
        """An ordinary playlist with the same videos, to which they were added 100 days later."""
        return f"PL{self._name}"

    @property
    def _name(self) -> str:
        return hashlib.sha256(f"channel {self.seed}".encode()).hexdigest()[:22]

    def external_id(self, call: Call) -> str:
        """Return the video's id."""
        return video_id(call)

    def video(self, which: Call | str) -> Video:
        """Return what is special about a video.

        Raises:
            KeyError: There is no such video.
        """
        call = self.find(which) if isinstance(which, str) else which
        if call is None:
            raise KeyError(which)
        with self.lock:
            return self._videos.setdefault(call.key, Video(call=call, tracks=_usual_tracks(call)))

    # Who may

    def identify(self, request: Request) -> None:
        """See `FakeServer`: keys count by themselves; the watch side knows only visitors."""
        if self._side(request) == "watch":
            request.credential = request.caller = "visitor"
        elif self._side(request) == "oauth":
            request.credential = self.oauth.identify(request)
        elif request.bearer and self.auth != "key":
            connection, state = self.oauth.check(request.bearer)
            request.credential = connection.name if connection else None
            request.caller = connection if state == "valid" else None
        elif self.auth != "oauth":
            key = request.parameter("key") or request.headers.get("x-goog-api-key")
            request.credential = request.caller = key if key in self.api_keys else None

    def admit(self, request: Request, marked: Route) -> Response | None:
        """See `FakeServer`."""
        if self._side(request) != "data":
            return None
        if request.caller is None:
            if request.bearer:
                return _error(401, "Request had invalid authentication credentials.", "authError", "global")
            if request.parameter("key") is None:
                return _error(403, "The request is missing a valid API key.", "forbidden", "global")
            return _error(400, "API key not valid. Please pass a valid API key.", "badRequest", "global")
        taken = self.limits.take(("requests",), request.credential)
        if taken and not taken[1]:
            return self.too_many_requests(request, None)
        with self.lock:
            self.units_used += 1
            is_used_up = self.quota_units is not None and self.units_used > self.quota_units
        if is_used_up:
            message = "The request cannot be completed because you have exceeded your quota."
            return _error(403, message, "quotaExceeded", "youtube.quota")
        if not request.parameter("part"):
            return _error(400, "No filter selected. Expected a part.", "missingRequiredParameter")
        return None

    def error(self, status: int, message: str) -> Response:
        """See `FakeServer`."""
        reasons = {401: "authError", 403: "forbidden", 404: "notFound", 429: "rateLimitExceeded", 500: "backendError"}
        return _error(status, message, reasons.get(status, "badRequest"))

    def fault_response(self, request: Request, kind: str) -> Response:
        """See `FakeServer`: the watch side answers errors with pages."""
        response = super().fault_response(request, kind)
        if self._side(request) == "watch":
            page = Response.html(f"<html><title>Error {response.status}</title></html>", response.status)
            page.headers = response.headers
            return page
        return response

    def _side(self, request: Request) -> Literal["data", "watch", "oauth"]:
        path = request.path.removeprefix(_BASE)
        if path in ("/token", "/o/oauth2/v2/auth"):
            return "oauth"
        return "watch" if path.startswith(("/watch", "/youtubei/", "/api/")) else "data"

    # OAuth

    @route("GET", "/o/oauth2/v2/auth", "authorize")
    def _authorize(self, request: Request) -> Response:
        return self.oauth.authorize(request)

    @route("POST", "/token", "token")
    def _token(self, request: Request) -> Response:
        return self.oauth.token(request)

    # Data API

    @route("GET", f"{_ROOT}/channels", "channels")
    def _channels(self, request: Request) -> Response:
        selectors = {"id", "forHandle", "forUsername", "mine"} & set(request.query)
        if len(selectors) != 1:
            return _error(400, "No filter selected. Expected one of: id, mine, forHandle.", "missingRequiredParameter")
        selector = selectors.pop()
        value = request.parameter(selector) or ""
        if selector == "mine" and isinstance(request.caller, str):
            return _error(401, "The request uses the mine parameter but is not authorized.", "authorizationRequired")
        is_ours = {
            "id": self.channel_id in value.split(","),
            "forHandle": value.removeprefix("@").lower() == self.handle.lower(),
            "forUsername": value == self.handle,
            "mine": True,
        }[selector]
        document: dict[str, Any] = {
            "kind": "youtube#channelListResponse",
            "pageInfo": {"totalResults": int(is_ours), "resultsPerPage": 5},
        }
        if is_ours:
            resource = {
                "snippet": {
                    "title": "Example Channel",
                    "description": "Made up",
                    "customUrl": f"@{self.handle}",
                    "publishedAt": "2020-01-07T09:00:00Z",
                },
                "contentDetails": {"relatedPlaylists": {"likes": "", "uploads": self.uploads_id}},
                "statistics": {"videoCount": str(len(self.calls)), "hiddenSubscriberCount": False},
            }
            head = {"kind": "youtube#channel", "etag": _etag(self.channel_id), "id": self.channel_id}
            document["items"] = [head | _parts(request, resource)]
        return _json(document)

    @route("GET", f"{_ROOT}/playlistItems", "list")
    def _playlist_items(self, request: Request) -> Response:
        playlist = request.parameter("playlistId")
        if not playlist:
            return _error(400, "No filter selected. Expected one of: id, playlistId.", "missingRequiredParameter")
        if playlist not in (self.uploads_id, self.playlist_id):
            return _error(404, "The playlist identified with the playlistId parameter cannot be found.",
                          "playlistNotFound", "youtube.playlistItem")  # fmt: skip
        page = self._page(request)
        if isinstance(page, Response):
            return page
        offset, calls, document = page
        items = [self._item(request, playlist, offset + index, call) for index, call in enumerate(calls)]
        return _json(self.enveloped({"kind": "youtube#playlistItemListResponse"} | document | {"items": items}))

    @route("GET", f"{_ROOT}/videos", "videos")
    def _video_list(self, request: Request) -> Response:
        ids = [each for value in request.query.get("id", []) for each in value.split(",") if each]
        if not ids:
            return _error(400, "No filter selected. Expected one of: id, chart, myRating.", "missingRequiredParameter")
        if len(ids) > 50:
            return _error(400, "The request specifies an invalid filter parameter: more than 50 ids.", "invalidFilters")
        if "maxResults" in request.query:
            return _error(400, "maxResults is not supported together with id.", "incompatibleParameters")
        found = [call for each in dict.fromkeys(ids) if (call := self.find(each)) and self._is_shown(call)]
        items = [self._resource(request, call) for call in found]
        info = {"totalResults": len(items), "resultsPerPage": len(items)}
        return _json({"kind": "youtube#videoListResponse", "items": items, "pageInfo": info})

    def _page(self, request: Request) -> Response | tuple[int, list[Call], dict[str, Any]]:
        text = request.parameter("maxResults", "5") or ""
        if not text.isdigit() or int(text) > 50:
            message = f"Invalid value '{text}'. Values must be within the range: [0, 50]"
            return _error(400, message, "invalidParameter", "youtube.parameter")
        size, token = int(text), request.parameter("pageToken")
        offset = _offset(token) if token else 0
        if offset is None:
            return _error(400, "The request specifies an invalid page token.", "invalidPageToken")
        found = self.listing(lambda _: True, attrgetter("created_at"), offset)
        end = offset + size
        document: dict[str, Any] = {"etag": _etag(f"{len(found)} {offset}")}
        if end < len(found) and size:
            document["nextPageToken"] = _page_token(end)
        if offset:
            document["prevPageToken"] = _page_token(max(0, offset - size), 1)
        document["pageInfo"] = {"totalResults": len(found), "resultsPerPage": size}
        return offset, list(found[offset:end]), document

    def _item(self, request: Request, playlist: str, position: int, call: Call) -> dict[str, Any]:
        video, name = self.video(call), video_id(call)
        added_at = call.created_at + (timedelta(minutes=3) if playlist == self.uploads_id else timedelta(days=100))
        resource: dict[str, Any] = {
            "snippet": {
                "publishedAt": _text(min(added_at, datetime.now(UTC))),
                "channelId": self.channel_id,
                "title": call.title,
                "description": "Made-up description",
                "thumbnails": {"default": {"url": "https://img.example.com/d.jpg", "width": 120, "height": 90}},
                "channelTitle": "Example Channel",
                "playlistId": playlist,
                "position": position,
                "resourceId": {"kind": "youtube#video", "videoId": name},
                "videoOwnerChannelTitle": "Example Channel",
                "videoOwnerChannelId": self.channel_id,
            },
            "contentDetails": {"videoId": name, "videoPublishedAt": _text(call.created_at)},
            "status": {"privacyStatus": self.value(video.privacy, call)},
        }
        if video.privacy == "private":
            resource["snippet"] |= {
                "title": "Private video", "description": "This video is private.", "thumbnails": {},
            }  # fmt: skip
            del resource["snippet"]["videoOwnerChannelTitle"], resource["snippet"]["videoOwnerChannelId"]
            del resource["contentDetails"]["videoPublishedAt"]
            resource["status"]["privacyStatus"] = "private"
        item_id = base64.urlsafe_b64encode(f"{playlist}.{name}".encode()).decode().rstrip("=")
        head = {"kind": "youtube#playlistItem", "etag": _etag(item_id), "id": item_id}
        return self.mutated(call, head | _parts(request, resource))

    def _resource(self, request: Request, call: Call) -> dict[str, Any]:
        video = self.video(call)
        has_no_end = video.live in ("upcoming", "live")
        resource: dict[str, Any] = {
            "snippet": self._snippet(call),
            "contentDetails": {
                "duration": "P0D" if has_no_end else iso_duration(call.seconds),
                "dimension": "2d",
                "definition": "hd",
                "caption": "true" if any(not track.is_generated for track in video.tracks) else "false",
                "licensedContent": False,
                "contentRating": {},
                "projection": "rectangular",
            },
            "status": {
                "uploadStatus": self.value(video.upload_status, call),
                "privacyStatus": video.privacy,
                "license": "youtube",
                "embeddable": True,
                "publicStatsViewable": True,
                "madeForKids": False,
            },
            "statistics": {"viewCount": str(call.number * 7), "likeCount": "3", "commentCount": "0"},
        }
        if call.number % 3:
            resource["snippet"]["defaultAudioLanguage"] = call.language
        if video.live != "none":
            times = {"scheduledStartTime": _text(call.started_at)}
            if video.live != "upcoming":
                times["actualStartTime"] = _text(call.started_at)
            if video.live == "completed":
                times["actualEndTime"] = _text(call.ended_at)
            resource["liveStreamingDetails"] = times
        head = {"kind": "youtube#video", "etag": _etag(video_id(call)), "id": video_id(call)}
        return self.mutated(call, head | _parts(request, resource))

    def _snippet(self, call: Call) -> dict[str, Any]:
        live = self.video(call).live
        return {
            "publishedAt": _text(call.created_at),
            "channelId": self.channel_id,
            "title": call.title,
            "description": "Made-up description",
            "thumbnails": {"default": {"url": "https://img.example.com/d.jpg", "width": 120, "height": 90}},
            "channelTitle": "Example Channel",
            "categoryId": "22",
            "liveBroadcastContent": self.value("none" if live == "completed" else live, call),
        }

    def _is_shown(self, call: Call) -> bool:
        video = self.video(call)
        return video.privacy != "private" and not video.is_omitted

    # Watch side

    @route("GET", f"{_ROOT}/watch", "watch")
    def _watch(self, request: Request) -> Response:
        mode = self._mode(request.parameter("v"))
        if mode == "429":
            return Response.html(
                "<html><title>Sorry...</title><body>Our systems have detected unusual traffic.</body>", 429
            )
        has_consented = "CONSENT=YES+" in request.headers.get("cookie", "")
        if mode == "consent-wall" or (mode == "consent" and not has_consented):
            return Response.html(
                '<html><body><form action="https://consent.youtube.com/s" method="POST">'
                '<input type="hidden" name="v" value="cb.20260302-00-p0.en+FX+000"></form></body></html>'
            )
        if mode == "recaptcha":
            return Response.html('<html><body><form><div class="g-recaptcha"></div></form></body></html>')
        return Response.html(
            "<!DOCTYPE html><html><head><title>YouTube</title></head><body><script>"
            f'ytcfg.set({{"INNERTUBE_API_KEY":"{INNERTUBE_KEY}","INNERTUBE_CONTEXT":{{}}}});</script></body></html>'
        )

    @route("POST", f"{_ROOT}/youtubei/v1/player", "player")
    def _player(self, request: Request) -> Response:
        try:
            asked = json.loads(request.body)["videoId"]
        except (ValueError, KeyError, TypeError):
            return _error(400, "Request contains an invalid argument.", "badRequest", "global")
        call, mode = self.find(str(asked)), self._mode(str(asked))
        if mode == "429":
            return Response.html("<html><title>Sorry...</title></html>", 429)
        if mode == "bot":
            return _unplayable("LOGIN_REQUIRED", BOT_REASON)
        if call is None or mode == "unavailable":
            return _unplayable("ERROR", UNAVAILABLE_REASON)
        if mode == "age":
            return _unplayable("LOGIN_REQUIRED", AGE_REASON)
        video = self.video(call)
        if mode == "unplayable":
            return _unplayable("UNPLAYABLE", "Video unavailable", "The uploader has not made this video available.")
        if video.privacy == "private":
            return _unplayable("LOGIN_REQUIRED", "This video is private", "Sign in if you may see it.")
        if video.live == "upcoming":
            return _unplayable("LIVE_STREAM_OFFLINE", "This live event will begin in 2 hours.")
        document: dict[str, Any] = {
            "playabilityStatus": {"status": "OK", "playableInEmbed": True},
            "videoDetails": {
                "videoId": video_id(call),
                "title": call.title,
                "lengthSeconds": str(call.seconds),
                "channelId": self.channel_id,
                "author": "Example Channel",
                "isLiveContent": video.live != "none",
            },
        }
        if video.tracks and mode != "no-captions" and video.live != "live" and self.transcript_is_ready(call):
            document["captions"] = {
                "playerCaptionsTracklistRenderer": {
                    "captionTracks": [self._track(call, track, mode) for track in video.tracks],
                    "audioTracks": [{"captionTrackIndices": list(range(len(video.tracks)))}],
                    "translationLanguages": [
                        {"languageCode": code, "languageName": {"runs": [{"text": name}]}}
                        for code, name in LANGUAGES.items()
                    ],
                    "defaultAudioTrackIndex": 0,
                }
            }
        return Response.json(self.mutated(call, document))

    @route("GET", f"{_ROOT}/api/timedtext", "captions")
    def _timed_text(self, request: Request) -> Response:
        asked = request.parameter("v", "") or ""
        call, mode = self.find(asked), self._mode(asked)
        if mode in ("429", "captions-429"):
            return Response.html("<html><title>Sorry...</title></html>", 429)
        if call is None:
            return Response(404)
        if mode == "empty-body" or (request.parameter("exp") == "xpe" and not request.parameter("pot")):
            return Response(200, b"", "text/xml; charset=utf-8")
        is_generated = request.parameter("kind") == "asr"
        track = next(
            (
                track
                for track in self.video(call).tracks
                if track.language == request.parameter("lang") and track.is_generated == is_generated
            ),
            None,
        )
        if track is None:
            return Response(404)
        lines = [] if mode == "empty-track" else captions(call, track)
        write = _srv3 if request.parameter("fmt") == "srv3" else _srv1
        return Response(200, write(lines).encode(), "text/xml; charset=utf-8")

    def _mode(self, asked: str | None) -> Watch:
        call = self.find(asked or "")
        return (self.video(call).watch if call else None) or self.watch

    def _track(self, call: Call, track: Track, mode: Watch) -> dict[str, Any]:
        kind = "&kind=asr" if track.is_generated else ""
        proof = "&exp=xpe" if mode == "po-token" else ""
        name = track.name or LANGUAGES.get(track.language, track.language)
        document: dict[str, Any] = {
            "baseUrl": f"{self.origin}/api/timedtext?v={video_id(call)}&expire=1790000000{proof}"
            f"&lang={track.language}{kind}&fmt=srv3",
            "name": {"runs": [{"text": f"{name} (auto-generated)" if track.is_generated else name}]},
            "vssId": f"{'a' if track.is_generated else ''}.{track.language}",
            "languageCode": track.language,
            "isTranslatable": True,
            "trackName": "",
        }
        return document | ({"kind": "asr"} if track.is_generated else {})


def video_id(call: Call) -> str:
    """Return YouTube's id of a call: 11 characters, now and then with `-` in front."""
    text = base64.urlsafe_b64encode(call.key[:9]).decode()[:11]
    return f"-_{text[2:]}" if call.number % 6 == 2 else text


def captions(call: Call, track: Track) -> list[tuple[float, float, str]]:
    """Return start, length and text of a track's captions, in seconds."""
    lines: list[tuple[float, float, str]] = []
    segments = call.segments
    for index, segment in enumerate(segments):
        text, length = segment.text, segment.end - segment.start
        if track.is_generated:
            text = re.sub(r"[^\w\s']", "", text).lower().strip()
            until = segments[index + 2].start if index + 2 < len(segments) else segment.end
            length = until - segment.start
            if track.repeats_lines and lines:
                text = f"{lines[-1][2].splitlines()[-1]}\n{text}"
        lines.append((segment.start, round(length, 2), text))
    return lines


def iso_duration(seconds: int) -> str:
    """Return a duration as YouTube writes it, without parts that are zero."""
    days, rest = divmod(seconds, 86400)
    parts = ((rest // 3600, "H"), (rest // 60 % 60, "M"), (rest % 60, "S"))
    time_part = "".join(f"{number}{unit}" for number, unit in parts if number)
    return "P" + (f"{days}D" if days else "") + (f"T{time_part}" if time_part else "" if days else "T0S")


def _usual_tracks(call: Call) -> list[Track]:
    tracks = [Track(language=call.language)]
    if call.number % 4 == 0:
        tracks.insert(0, Track(language=call.language, is_generated=False))
    if call.number % 6 == 1:
        tracks += [Track(language="fr", is_generated=False), Track(language="ja", is_generated=False)]
    return tracks


def _srv1(lines: list[tuple[float, float, str]]) -> str:
    # Texts are escaped twice: once as HTML, once as XML.
    texts = (
        f'<text start="{start:g}" dur="{length:g}">{html.escape(html.escape(text), quote=False)}</text>'
        for start, length, text in lines
    )
    return f'<?xml version="1.0" encoding="utf-8" ?><transcript>{"".join(texts)}</transcript>'


def _srv3(lines: list[tuple[float, float, str]]) -> str:
    texts = (
        f'<p t="{round(start * 1000)}" d="{round(length * 1000)}">{html.escape(text)}</p>'
        for start, length, text in lines
    )
    return f'<?xml version="1.0" encoding="utf-8" ?><timedtext format="3"><body>{"".join(texts)}</body></timedtext>'


def _unplayable(status: str, reason: str, detail: str | None = None) -> Response:
    document: dict[str, Any] = {"status": status, "reason": reason}
    if detail:
        document["errorScreen"] = {"playerErrorMessageRenderer": {"subreason": {"runs": [{"text": detail}]}}}
    return Response.json({"playabilityStatus": document})


def _parts(request: Request, resource: dict[str, Any]) -> dict[str, Any]:
    asked = {part for value in request.query.get("part", []) for part in value.split(",")}
    return {name: value for name, value in resource.items() if name in asked}


def _json(document: dict[str, Any]) -> Response:
    return Response.json({"etag": _etag(str(document.get("pageInfo")))} | document)


def _error(status: int, message: str, reason: str, domain: str = "youtube.parameter") -> Response:
    errors = [{"message": message, "domain": domain, "reason": reason}]
    return Response.json({"error": {"code": status, "message": message, "errors": errors}}, status)


def _etag(text: str) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()[:15]).decode()


def _page_token(offset: int, direction: int = 0) -> str:
    number, rest = [], offset
    while rest > 127:
        number.append(rest & 127 | 128)
        rest >>= 7
    return base64.urlsafe_b64encode(bytes([8, *number, rest, 16, direction])).decode().rstrip("=")


def _offset(token: str) -> int | None:
    try:
        raw = base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True)
    except ValueError:
        return None
    if len(raw) < 4 or raw[0] != 8 or raw[-2] != 16:
        return None
    return sum((byte & 127) << 7 * index for index, byte in enumerate(raw[1:-2]))


def _text(instant: datetime) -> str:
    return instant.strftime("%Y-%m-%dT%H:%M:%SZ")
