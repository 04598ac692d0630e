"""What a provider's refusal says: whether it passes, how long to be silent, and why, without secrets.

Reading answers only; what follows from them is decided in `http/`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from urllib.parse import quote

import httpx

from import_pipeline.errors import one_line

_LONGEST_SILENCE_SECONDS = 366 * 86400.0
# Most providers; Zoom; those on AWS; what stands behind Cloudflare, as the last resort.
_REQUEST_ID_HEADERS = ("X-Request-Id", "Request-Id", "X-Zm-Trackingid", "X-Amzn-Requestid", "Cf-Ray")


def may_pass(status: int) -> bool:
    """Say whether a refusal with this status may pass by itself, so that asking again makes sense."""
    return status in (408, 429) or status >= 500


def silence_asked(response: httpx.Response) -> float | None:
    """Return for how many seconds a provider asks for silence, or None.

    `Retry-After` comes as seconds or HTTP date (RFC 9110, section 10.2.3), and at some providers as an ISO 8601 date;
    others send `RateLimit-Reset` in seconds with a 429.
    """
    text = response.headers.get("Retry-After", "").strip()
    if not text and response.status_code == 429:
        text = rate_header(response, "RateLimit-Reset") or ""
    now = _parse_date(response.headers.get("Date", "")) or datetime.now(UTC)  # by the clock that the date is meant in
    if re.fullmatch(r"\d+(\.\d+)?", text):
        seconds = float(text)
        if seconds > 1e9:  # some send the second of the epoch
            seconds -= now.timestamp()
    elif ends_at := _parse_date(text):
        seconds = (ends_at - now).total_seconds()
    else:
        return None
    return min(max(seconds, 0.0), _LONGEST_SILENCE_SECONDS)


def _parse_date(text: str) -> datetime | None:
    for parse in (datetime.fromisoformat, parsedate_to_datetime):
        with suppress(ValueError, TypeError, OverflowError):
            date = parse(text)
            return date if date.tzinfo else date.replace(tzinfo=UTC)
    return None


def describe_body(response: httpx.Response, secrets: Sequence[str] = ()) -> tuple[str | None, str]:
    """Return code and message of an error's body, whatever its shape, without these secrets; of a web page nothing."""
    content = response.content[:100_000]
    try:
        body = json.loads(content)
    except (ValueError, RecursionError):
        is_page = content.lstrip()[:1] == b"<"
        return None, "" if is_page else _told(content.decode(errors="replace"), secrets)
    error = body.get("error", body) if isinstance(body, dict) else None
    if not isinstance(error, dict):
        error = {"message": error or ""}
        if isinstance(body, dict):
            error["message"] = f"{error['message']} {body.get('reason') or body.get('error_description') or ''}".strip()
            error["code"] = body.get("code")
    code, message = error.get("code"), error.get("message") or error.get("errorMessage") or error.get("reason") or ""
    reasons = error.get("errors")
    if isinstance(reasons, list) and reasons and isinstance(reasons[0], dict) and reasons[0].get("reason"):
        code = reasons[0]["reason"]
    return None if code is None else _told(str(code), secrets), _told(str(message), secrets)


def request_id(response: httpx.Response, secrets: Sequence[str] = ()) -> str | None:
    """Return by what the provider's support finds this request, if the answer tells, without these secrets."""
    for name in _REQUEST_ID_HEADERS:
        if value := _told(response.headers.get(name, ""), secrets):
            return value
    return None


def redact(text: str, secrets: Sequence[str]) -> str:
    """Return a text without these secrets, be they as they are or as in an address."""
    for secret in sorted(secrets, key=len, reverse=True):  # one may begin with another
        for written in {secret, quote(secret, safe=""), quote(secret)} - {""}:
            text = text.replace(written, "…")
    return text


def rate_header(response: httpx.Response, name: str) -> str | None:
    """Return a header on limits, by its name or with `X-` in front."""
    value: str | None = response.headers.get(name) or response.headers.get(f"X-{name}")
    return value


def _told(text: str, secrets: Sequence[str]) -> str:
    return one_line(redact(text, secrets)).rstrip(".")  # secrets go before it is cut, or half of one would be left
