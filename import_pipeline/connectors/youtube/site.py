"""What takes more than a request to YouTube's Data API: what an address names, and the captions of a video as a record.

How the website is asked for captions is in `captions.py`; the connector is the folder's `__init__`.
"""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from import_pipeline.errors import ConfigurationError, HttpError, NotReadyError
from import_pipeline.providers.fields import get_list, get_text
from import_pipeline.providers.http import HttpClient
from import_pipeline.providers.source_settings import source_setting
from import_pipeline.transcripts import deroll, render, turns_from_segments

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
    from import_pipeline.connectors.youtube.captions import read_track  # loads requests, which nothing else needs

    if blocked := http.memory.get("blocked"):  # do not go on knocking
        raise blocked
    languages = [spoken] if spoken else []
    languages += source_setting("youtube", "LANGUAGES", "en").replace(",", " ").split()
    chosen, snippets = read_track(video_id, languages, http)
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
