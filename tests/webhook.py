"""What a chat program has for messages from outside: an address that takes JSON."""

from __future__ import annotations

import json
from typing import Any

from fakes.server import FakeServer, Request, Response, route

SECRET = "B04CANARY/xoxq-4711"


class Webhook(FakeServer):
    """The program. Whoever knows its address may write there."""

    @route("POST", r"/services/.*", "alert")
    def _receive(self, request: Request) -> Response:
        return Response(200, b"ok", "text/plain")

    @property
    def address(self) -> str:
        return f"{self.origin}/services/{SECRET}"

    @property
    def messages(self) -> list[Any]:
        return [json.loads(record.body) for record in self.requests_of("alert") if record.status == 200]
