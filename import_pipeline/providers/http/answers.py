"""An answer as it is taken in: bounded, whole, unpacked, and JSON where that was asked for."""

from __future__ import annotations

import gzip
import io
from typing import Any

import httpx

from import_pipeline.errors import HttpError
from import_pipeline.providers.fields import parse_json
from import_pipeline.providers.timeouts import require_time
from import_pipeline.records import JsonObject

_OF_THE_WIRE = (b"content-encoding", b"content-length", b"transfer-encoding")


def read_whole(response: httpx.Response, max_bytes: int, asked: str) -> httpx.Response:
    """Read an answer to its end; httpx's own decoders know no limit, and do not notice when one is cut.

    Args:
        response: As it was opened.
        max_bytes: More is not taken, neither packed nor unpacked.
        asked: The request, for messages: `Zoom answered GET /users/me`.

    Raises:
        HttpError: It is too large, or in an encoding that was not asked for.
        EOFError, gzip.BadGzipFile, zlib.error, httpx.TransportError: It is not whole.
    """
    too_large = HttpError(f"{asked} with more than {max_bytes / 1e6:.0f} MB (IMPORT_PIPELINE_MAX_RESPONSE_MB).")
    body = bytearray()
    for chunk in response.iter_raw():
        body += chunk
        if len(body) > max_bytes:
            raise too_large
    encoding = response.headers.get("Content-Encoding", "identity").lower()
    if encoding == "gzip":
        with gzip.GzipFile(fileobj=_Timed(body)) as file:
            body = bytearray(file.read(max_bytes + 1))
    elif encoding != "identity":
        raise HttpError(f"{asked} in an encoding that was not asked for.")
    if len(body) > max_bytes:
        raise too_large
    headers = [(name, value) for name, value in response.headers.raw if name.lower() not in _OF_THE_WIRE]
    whole = httpx.Response(response.status_code, headers=headers, content=bytes(body), request=response.request)
    whole.next_request = response.next_request
    return whole


class _Timed(io.BytesIO):
    """Asks before each piece whether there is time: millions of empty members unpack to nothing, for a long time."""

    def read(self, size: int | None = -1, /) -> bytes:
        require_time()
        return super().read(size)


def read_object(response: httpx.Response) -> JsonObject:
    """Return the JSON object that an answer holds.

    Raises:
        ValueError: It holds something else; the message says what.
    """
    try:
        answer: Any = parse_json(response.content)
    except ValueError:
        raise ValueError("something that is not JSON, or more than fits into the memory") from None
    if not isinstance(answer, dict):
        raise ValueError(f"a JSON {type(answer).__name__} where an object belongs")
    return answer


def digest(page: JsonObject) -> int:
    """Return a number that tells pages apart."""
    try:
        return hash(repr(page))
    except RecursionError:  # deep enough to be read, and from here just too deep
        return id(page)
