"""Zoom for the conformance suite; see `tests/connectors/README.md`."""

from __future__ import annotations

import base64
import json
import re
from typing import Any, ClassVar
from urllib.parse import quote

from connectors.conformance import Expected, RestSource
from fakes import Call, ZoomServer

from import_pipeline.records import JsonObject


class Fixture(RestSource):
    """Zoom, as a user and as a whole account."""

    kinds = ("oauth", "server-to-server")
    server = ZoomServer
    listing = r"/(me|users/[^/]+)/recordings\?|/users\?"
    list_field = "meetings"
    id_path = "uuid"
    page_parameter = "next_page_token"
    page_size_parameter = "page_size"
    bounds = ("from", "to")
    clamps: ClassVar[JsonObject] = {"clamp_days": 10}  # far less than it says it does
    expires: ClassVar[JsonObject] = {"expired_links": 401}
    fields = (
        "uuid", "id", "topic", "start_time", "duration", "share_url", "host_email", "timezone", "type",
        "recording_count", "recording_files", "recording_files.0", "recording_files.2", "recording_files.*.status",
        "recording_files.*.file_type", "recording_files.*.recording_start", "recording_files.*.download_url",
    )  # fmt: skip

    def take_scope(self, server: Any, kind: str) -> bool:
        scopes = ("list_account_recordings:admin", "list_user_recordings", "list_user_recordings:admin")
        server.missing_scopes = [f"cloud_recording:read:{scope}" for scope in scopes]
        return True

    def content(self, server: Any, call: Call) -> str:
        uuid = server.external_id(call)
        start = json.dumps([uuid])[:-1].encode()
        link = base64.urlsafe_b64encode(start[: len(start) // 3 * 3]).decode()
        return f"/rec/download/{re.escape(link)}|/meetings/{re.escape(quote(quote(uuid, safe=''), safe=''))}/"

    def expect(self, server: Any, call: Call) -> Expected:
        return Expected.of_webvtt(call, seconds=60 * round(call.seconds / 60))

    def requests(self, kind: str, calls: int) -> tuple[int, int]:
        return 1, calls + sum(1 for number in range(calls) if number % 10 == 5)  # one of ten is in two parts
