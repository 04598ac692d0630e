"""Fathom for the conformance suite; see `tests/connectors/README.md`."""

from __future__ import annotations

import re
from typing import Any, ClassVar

from connectors.conformance import RestSource
from fakes import Call, FathomServer


class Fixture(RestSource):
    """Fathom: by key it reads transcripts from the pages of the list, by OAuth each from its own address."""

    kinds = ("api-key", "oauth")
    server = FathomServer
    listing = r"/meetings(?!.*include_transcript)"
    list_field = "items"
    id_path = "recording_id"
    page_parameter = "cursor"
    bounds = ("created_after", "created_before")
    listed_by = "created_at"
    fields = (
        "recording_id", "title", "meeting_title", "created_at", "recording_start_time", "recording_end_time",
        "scheduled_start_time", "share_url", "url", "calendar_invitees", "recorded_by", "recorded_by.email",
        "transcript", "transcript.0", "transcript.0.speaker", "transcript.0.speaker.display_name",
        "transcript.0.text", "transcript.0.timestamp", "default_summary", "default_summary.markdown_formatted",
        "summary",
    )  # fmt: skip
    refusals: ClassVar[dict[int, set[str]]] = {403: {"auth"}, 404: {"waiting"}}  # as for one not there yet

    def take_scope(self, server: Any, kind: str) -> bool:
        server.lacks_scope = True
        return True

    def content(self, server: Any, call: Call) -> str:
        return f"/recordings/{re.escape(server.external_id(call))}/"

    def refuse(self, server: Any, call: Call, fault: str) -> None:
        server.mutate[server.external_id(call)] = {"transcript": None}  # or the page has it
        super().refuse(server, call, fault)

    def allow(self, server: Any, call: Call) -> None:
        server.mutate.clear()
        super().allow(server, call)

    def requests(self, kind: str, calls: int) -> tuple[int, int]:
        pages = -(-calls // 10)
        return 2 * pages, pages if kind == "api-key" else 2 * calls
