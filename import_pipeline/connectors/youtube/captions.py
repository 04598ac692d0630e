"""The captions of a video from YouTube's website.

They come through youtube-transcript-api, which asks the website as a browser would; its requests go through our HTTP
client, for deadlines, retries and the rate budget.
"""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import urlsplit
from xml.etree.ElementTree import ParseError  # nosec B405

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

from import_pipeline.errors import ItemError, NotReadyError, RateLimitedError
from import_pipeline.providers.http import HttpClient
from import_pipeline.providers.source_settings import source_url

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


def read_track(
    video_id: str, languages: list[str], http: HttpClient
) -> tuple[Transcript, list[FetchedTranscriptSnippet]]:
    """Return the best track; only an answer without any says that there are no captions.

    Args:
        video_id: The video.
        languages: Codes, the preferred one first.
        http: Sends the requests; in its memory stays that YouTube blocks this machine.

    Raises:
        NotReadyError, RateLimitedError, ItemError: See `read_captions`.
    """
    session, site = requests.Session(), find_site(http)
    http.add_base(site)
    for scheme in ("https://", "http://"):
        session.mount(scheme, _Through(http, site, session))
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
    """Return where YouTube's website is: what is set, or beside an API that is set, or YouTube's own.

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
        url = request.url or ""
        if url.startswith(f"{SITE}/"):
            url = self._site + url.removeprefix(SITE)
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
