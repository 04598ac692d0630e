"""YouTube for the conformance suite; see `tests/connectors/README.md`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

from connectors.conformance import Expected, RestSource
from fakes import Call, YouTubeServer

from import_pipeline.records import JsonObject


class Fixture(RestSource):
    """One channel of YouTube, by key; captions come from the website, without any credential."""

    kinds = ("api-key",)
    server = YouTubeServer
    listing = r"/channels|/playlistItems|/videos"
    list_field = "items"
    id_path = "contentDetails.videoId"
    page_parameter = "pageToken"
    page_size_parameter = "maxResults"
    listed_by = "created_at"
    blocks: ClassVar[JsonObject] = {"watch": "bot"}
    fields = (
        "contentDetails.videoId", "contentDetails.videoPublishedAt", "contentDetails", "contentDetails.duration",
        "snippet", "snippet.title", "snippet.publishedAt", "snippet.channelId", "snippet.channelTitle",
        "snippet.liveBroadcastContent", "snippet.defaultAudioLanguage", "status", "status.uploadStatus",
        "liveStreamingDetails", "captions",
    )  # fmt: skip
    oddities = frozenset({"data", "permanent", "transient"})  # the website changes without notice, and back
    refusals: ClassVar[dict[int, set[str]]] = {
        403: {"transient"},
        404: {"transient"},
    }  # of the website, which knows no credential of ours

    def switches(self, kind: str | None) -> JsonObject:
        return {"auth": "key"}

    def start(self, kind: str | None, calls: Sequence[Call], folder: Path, **switches: Any) -> Any:
        server: Any = super().start(kind, calls, folder, **switches)
        for call in server.calls[::2]:
            for track in server.video(call).tracks:
                track.repeats_lines = track.is_generated
        return server

    def account_options(self, server: Any) -> JsonObject:
        return {"addresses": [f"@{server.handle}"]}

    def content(self, server: Any, call: Call) -> str:
        return rf"/(watch|timedtext)\?v={re.escape(server.external_id(call))}"

    def expect(self, server: Any, call: Call) -> Expected:
        return Expected.of(call, started_at=call.created_at, speakers=None)

    def requests(self, kind: str, calls: int) -> tuple[int, int]:
        return 2 + 4 * -(-calls // 50), 3 * calls
