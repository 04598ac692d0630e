"""File upload for the conformance suite: a folder of WebVTT files; see `tests/connectors/README.md`."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from connectors.conformance import Expected, Source
from fakes import Call
from fakes.zoom import vtt

from import_pipeline.records import JsonObject


class Folder:
    """Calls as files whose time of modification is the start."""

    def __init__(self, path: Path, calls: Sequence[Call]) -> None:
        self.path, self.calls = path, list[Call]()
        path.mkdir(parents=True)
        for call in calls:
            self.add(call)

    def external_id(self, call: Call) -> str:
        return hashlib.sha256(vtt(call).encode()).hexdigest()

    def file(self, call: Call) -> Path:
        return self.path / f"call {call.number}.vtt"

    def add(self, call: Call) -> Call:
        call.parts = 1
        self.calls.append(call)
        self.file(call).write_bytes(vtt(call).encode())
        os.utime(self.file(call), (call.started_at.timestamp(),) * 2)
        return call

    def remove(self, call: Call) -> None:
        self.calls.remove(call)
        self.file(call).unlink()

    def close(self) -> None:
        pass


class Fixture(Source):
    """Files have neither credentials nor windows nor requests."""

    def start(self, kind: str | None, calls: Sequence[Call], folder: Path, **switches: Any) -> Folder:
        return Folder(folder, calls)

    def run_options(self, server: Folder) -> JsonObject:
        return {"paths": [str(server.path)]}

    def expect(self, server: Folder, call: Call) -> Expected:
        return Expected.of_webvtt(call, title=server.file(call).stem, seconds=call.segments[-1].end)

    def spoil(self, server: Folder, call: Call) -> None:
        server.file(call).write_bytes(b"WEBVTT\n\n")
        os.utime(server.file(call), (call.started_at.timestamp(),) * 2)
