"""What takes more than a request to YouTube's Data API: what an address names, and the captions of a video.

Captions come through youtube-transcript-api, which asks the website as a browser would; its requests go through our
HTTP client, for deadlines, retries and the rate budget. The connector is `youtube.py`.
"""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit
from xml.etree.ElementTree import ParseError

import requests
import requests.adapters
from youtube_transcript_api import (
    AgeRestricted,
    CouldNotRetrieveTranscript,
    FailedToCreateConsentCookie,
    FetchedTranscriptSnippet,
    InvalidVideoId,
    IpBlocked,
    RequestBlocked,
    Transcript,
    TranscriptsDisabled,
    VideoUnavailable,
    VideoUnplayable,
    YouTubeTranscriptApi,
)

from import_pipeline.errors import ConfigurationError, HttpError, ItemError, NotReadyError, RateLimitedError
from import_pipeline.fields import get_list, get_text
from import_pipeline.http import HttpClient
from import_pipeline.settings import source_setting, source_url
from import_pipeline.transcripts import deroll, render, turns_from_segments

SITE = "https://www.youtube.com"

_BLOCKED = (RequestBlocked, IpBlocked, FailedToCreateConsentCookie)
_NEVER = (AgeRestricted, InvalidVideoId, VideoUnavailable, VideoUnplayable)
_UNFORESEEN = (
    # What the library does not expect comes as whatever Python raises; pages instead of JSON as ValueError.
    CouldNotRetrieveTranscript, requests.RequestException,
    ParseError, AttributeError, LookupError, TypeError, ValueError,
)  # fmt: skip
_LONGEST_CAPTION = 20_000
"""Bytes; the library takes time with the square of one caption's length where an uploader filled it with `<`."""
_IDS = {
    "video": re.compile(r"[\w-]{11}", re.ASCII),
    "id": re.compile(r"UC[\w-]{22}", re.ASCII),
    "playlist": re.compile(r"(PL|UU|OL|FL|LL|RD)[\w-]{10,}", re.ASCII),
    "forHandle": re.compile(r"@[^\s/]+"),
}


def parse_address(address: str) -> tuple[str, str]:
    """Return what an address names: `video`, `playlist`, `id`, `forHandle` or `forUsername`, and its value.

    Raises:
        ConfigurationError: It is no address of a video, a playlist or a channel.
    """
    text = address.strip()
    for kind, pattern in _IDS.items():
        if pattern.fullmatch(text):
            return kind, text
    try:
        url = urlsplit(text if "://" in text else f"https://{text}")
        host = (url.hostname or "").removeprefix("www.").removeprefix("m.").removeprefix("music.")
    except ValueError:
        host = ""
    if host not in ("youtu.be", "youtube.com", "youtube-nocookie.com"):
        raise ConfigurationError(f"{address!r} is not an address of YouTube.")
    asked, (first, second, *_) = parse_qs(url.query), [*filter(None, unquote(url.path).split("/")), "", ""]
    found = [
        ("video", asked.get("v", [""])[0] if first == "watch" else ""),
        ("video", first if host == "youtu.be" else second if first in ("embed", "v", "shorts", "live") else ""),
        ("playlist", asked.get("list", [""])[0]),
        ("id", second if first == "channel" else ""),
        ("forHandle", first if first.startswith("@") else ""),
    ]
    for kind, value in found:
        if _IDS[kind].fullmatch(value) and value != "videoseries":  # which stands for the playlist
            return kind, value
    if first == "user" and second:
        return "forUsername", second
    raise ConfigurationError(
        f"{address!r} is not the address of a YouTube video, playlist or channel. Of a channel take the one with @ or "
        "/channel/; a /c/ address cannot be looked up."
    )


def is_video_id(text: str) -> bool:
    """Say whether this can be asked for with others at once; an odd one would spoil the question."""
    return re.fullmatch(r"[\w-]{1,64}", text, re.ASCII) is not None


def find_playlist(kind: str, value: str, http: HttpClient) -> str:
    """Return a playlist itself, of a channel that of its uploads; an unknown channel is an answer without items.

    Raises:
        HttpError: There is no such channel.
    """
    if kind == "playlist":
        return value
    for channel in get_list(http.get_json("/channels", {"part": "contentDetails", kind: value}), "items"):
        if uploads := get_text(channel, "contentDetails.relatedPlaylists.uploads"):
            return uploads
    raise HttpError(f"YouTube knows no channel {value!r}.", status=404)


def read_captions(video_id: str, spoken: str | None, http: HttpClient) -> tuple[str, dict[str, Any]]:
    """Return the captions of a video as a transcript, and which they are.

    Args:
        video_id: The video.
        spoken: Code of the language that is spoken, if known; preferred to `IMPORT_PIPELINE_YOUTUBE_LANGUAGES`.
        http: Sends the requests.

    Raises:
        NotReadyError: It has no captions, for now.
        RateLimitedError: YouTube blocks this machine's address; that says nothing about captions.
        ItemError: They cannot be had, or YouTube answered something unforeseen.
    """
    if blocked := http.memory.get("blocked"):  # do not go on knocking
        raise blocked
    languages = [spoken] if spoken else []
    languages += source_setting("youtube", "LANGUAGES", "en").replace(",", " ").split()
    chosen, snippets = _read_track(video_id, languages, http)
    starts = [snippet.start for snippet in snippets[1:]] + [float("inf")]
    turns = turns_from_segments(
        # A line stays on the screen while the next one is spoken.
        (None, each.text, each.start, min(each.start + each.duration, following) if each.duration else None)
        for each, following in zip(snippets, starts, strict=False)
    )
    transcript = render(deroll(turns) if chosen.is_generated else turns)
    if not transcript:
        raise NotReadyError("YouTube's captions of it are empty.")
    return transcript, {"language": chosen.language_code, "automatic": chosen.is_generated}


def _read_track(
    video_id: str, languages: list[str], http: HttpClient
) -> tuple[Transcript, list[FetchedTranscriptSnippet]]:
    """Return the best track; only an answer without any says that there are no captions."""
    session = requests.Session()
    for scheme in ("https://", "http://"):
        session.mount(scheme, _Through(http, find_site(http), session))
    try:
        tracks = list(YouTubeTranscriptApi(http_client=session).list(video_id))
        if not tracks:
            raise TranscriptsDisabled(video_id)
        chosen = min(tracks, key=lambda track: _rank(track, languages))
        return chosen, chosen.fetch().snippets
    except TranscriptsDisabled:
        raise NotReadyError("YouTube shows no captions of it; automatic ones come hours after the upload.") from None
    except _NEVER as error:
        if "not a bot" not in str(getattr(error, "reason", "")):  # worded otherwise than the library knows it
            raise ItemError(f"YouTube does not play it ({type(error).__name__}).", error_class="permanent") from None
        problem: Exception = error
    except _BLOCKED as error:
        problem = error
    except _UNFORESEEN as error:
        raise ItemError(
            f"YouTube's captions could not be read ({type(error).__name__}).", error_class="transient"
        ) from None
    http.memory["blocked"] = RateLimitedError(
        f"YouTube refuses this machine's address ({type(problem).__name__}), as it does with data centres; captions "
        "are asked for again later. From another network it may work."
    )
    raise http.memory["blocked"] from None


def find_site(http: HttpClient) -> str:
    """Return where YouTube's website is: what is set, else beside an API that is set, else YouTube's own.

    Raises:
        ConfigurationError: What is set is no address.
    """
    api = urlsplit(http.base_url)
    beside = SITE if (api.hostname or "").endswith("googleapis.com") else f"{api.scheme}://{api.netloc}"
    return source_url("youtube", beside, "SITE_URL")


def _rank(track: Transcript, languages: list[str]) -> tuple[int, bool, bool]:
    """Order tracks by preferred language, there people's own before automatic ones; the rest by what is spoken."""
    for position, language in enumerate(languages):
        if track.language_code.split("-")[0] == language.split("-")[0]:
            return position, track.is_generated, track.language_code != language
    return len(languages), not track.is_generated, False


class _Through(requests.adapters.BaseAdapter):
    """Sends what a `requests` session wants to send through our HTTP client, to the site that is set."""

    def __init__(self, http: HttpClient, site: str, session: requests.Session) -> None:
        super().__init__()
        self._http = http
        self._site = site
        self._session = session

    def send(self, request: requests.PreparedRequest, *args: Any, **kwargs: Any) -> requests.Response:
        """Send a request; what its answer means is the caller's business, but a limit is one for us."""
        url = (request.url or "").replace(SITE, self._site, 1)
        kept = ("accept-language", "content-type", "cookie")
        answer = self._http.send(
            request.method or "GET",
            url,
            headers={name: value for name, value in request.headers.items() if name.lower() in kept},
            content=request.body.encode() if isinstance(request.body, str) else request.body,
            budgets=("captions",),
            raises=False,
            signs=False,
        )
        _refuse_endless_captions(answer.content)
        for cookie in answer.cookies.jar:  # they come back, whatever host stands in for the site
            self._session.cookies.set(cookie.name, cookie.value or "", domain=".youtube.com")
        response = requests.Response()
        response.status_code = answer.status_code
        response.reason = answer.reason_phrase
        response.headers.update(answer.headers)
        response.encoding = "utf-8"
        response.url = request.url or ""
        response.request = request
        response._content = answer.content
        response._content_consumed = True  # type: ignore[attr-defined]  # so that closing it needs no socket
        return response

    def close(self) -> None:
        """Leave the HTTP client open; it is not ours."""


def _refuse_endless_captions(content: bytes) -> None:
    if content[:100].lstrip().startswith((b"<?xml", b"<transcript")) and (
        b"<![CDATA[" in content or re.search(rb">[^<>]{%d}" % _LONGEST_CAPTION, content)
    ):
        raise ValueError("A caption is far too long.")
