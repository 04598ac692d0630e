"""A fake of Fathom's external API v1, of its OAuth included.

Pages of ten, a filter on creation, and one-time refresh tokens; no webhooks and no media.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from operator import attrgetter
from typing import Any, ClassVar, Literal
from urllib.parse import unquote

from .calls import Call, Person
from .oauth import Connection, OAuth
from .provider import Provider, environment
from .server import Request, Response, Route, route

API_KEY = "fathom-test-key"
CLIENT_ID = "fathom-test-client"
CLIENT_SECRET = "fathom-test-secret"
ACCESS_TOKEN = "fathom-test-access-token"
REFRESH_TOKEN = "fathom-test-refresh-token"

_BASE = "/external/v1"
_TEAM = "Sales"
_NO_MATCHES: dict[str, Any] = {"contacts": [], "companies": [], "deals": []}
_MEETING_TYPES = ("Customer call", "Internal", "Demo 🎬")


@dataclass(kw_only=True, eq=False)
class FathomServer(Provider):
    """Fathom. See `Provider` for the switches that all fakes have.

    Args:
        auth: Which credentials are accepted.
        api_keys: Accepted keys → the e-mail address whose calls they see, or None for all calls.
        oauth: Its authorisation server.
        page_size: Calls on a page; there is no parameter for it.
        rate_limit: Of all requests, for instance `60/60s`; sets the `RateLimit-*` headers.
        heavy_rate_limit: Of requests for transcripts and summaries, for instance `30/60s`.
        late_form: What a transcript that is not there yet looks like: null, an empty list, or 404 at its own address
            (and null in the list).
        lacks_scope: Everything is answered 403.
        strict_filters: Unknown query parameters are refused with 400 instead of passed over.
    """

    base_path: ClassVar[str] = _BASE

    auth: Literal["any", "api-key", "oauth"] = "any"
    api_keys: Mapping[str, str | None] = field(default_factory=lambda: {API_KEY: None})
    oauth: OAuth = field(
        default_factory=lambda: OAuth(
            client_id=CLIENT_ID, client_secret=CLIENT_SECRET, client_authentication="body",
            scope="public_api", status_of_invalid_client=401,
        )
    )  # fmt: skip
    page_size: int = 10
    rate_limit: str | None = None
    heavy_rate_limit: str | None = None
    late_form: Literal["null", "empty", "404"] = "null"
    lacks_scope: bool = False
    strict_filters: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        self.limits.set("requests", self.rate_limit)
        self.limits.set("heavy", self.heavy_rate_limit)
        self.oauth.issue(access_token=ACCESS_TOKEN, refresh_token=REFRESH_TOKEN)

    # Addresses and credentials

    @property
    def token_url(self) -> str:
        """Where codes and refresh tokens become access tokens."""
        return f"{self.url}/oauth2/token"

    @property
    def authorize_url(self) -> str:
        """Where a person consents."""
        return f"{self.url}/oauth2/authorize"

    @property
    def environment(self) -> dict[str, str]:
        """The variables that make the importer ask this server."""
        return environment(
            "FATHOM", {"URL": self.url, "TOKEN_URL": self.token_url, "AUTHORIZE_URL": self.authorize_url}
        )

    @property
    def credentials(self) -> dict[str, str]:
        """The made-up credentials that it accepts."""
        keys = {"api key": next(iter(self.api_keys), "")} if self.auth != "oauth" else {}
        if self.auth == "api-key":
            return keys
        return keys | {
            "client id": self.oauth.client_id,
            "client secret": self.oauth.client_secret,
            "refresh token": REFRESH_TOKEN,
        }

    def external_id(self, call: Call) -> str:
        """Return the recording's id as text."""
        return str(recording_id(call))

    # Who may

    def identify(self, request: Request) -> None:
        """See `FakeServer`: a key is counted by itself, an OAuth connection through all its tokens."""
        if "/oauth2/" in request.path:
            request.credential = self.oauth.identify(request)
        elif key := request.headers.get("x-api-key"):
            request.credential = key if key in self.api_keys and self.auth != "oauth" else None
        elif request.bearer and self.auth != "api-key":
            connection, state = self.oauth.check(request.bearer)
            request.credential = connection.name if connection else None
            request.caller = connection if state == "valid" else None

    def admit(self, request: Request, marked: Route) -> Response | None:
        """See `FakeServer`."""
        if marked.kind in ("token", "authorize"):
            return None
        if not (request.caller or (request.headers.get("x-api-key") and request.credential)):
            return self.error(401, "Unauthorized")
        if self.lacks_scope:
            return self.error(403, "Forbidden: the credential lacks the scope public_api.")
        names = ("requests", "heavy") if marked.options.get("heavy") or _wants_much(request) else ("requests",)
        taken = self.limits.take(names, request.credential)
        if taken is None:
            return None
        _, is_let_in, room = taken
        headers = {
            "RateLimit-Limit": str(room.limit.requests),
            "RateLimit-Remaining": str(room.remaining),
            "RateLimit-Reset": self.retry_after(room.reset_seconds),
        }
        request.answer_headers.update(headers)
        return None if is_let_in else self.too_many_requests(request, "seconds", room.reset_seconds)

    # OAuth

    @route("GET", f"{_BASE}/oauth2/authorize", "authorize")
    def _authorize(self, request: Request) -> Response:
        return self.oauth.authorize(request)

    @route("POST", f"{_BASE}/oauth2/token", "token")
    def _token(self, request: Request) -> Response:
        return self.oauth.token(request)

    # Meetings

    @route("GET", f"{_BASE}/meetings", "list")
    def _meetings(self, request: Request) -> Response:
        query = request.query
        includes = {name for name, values in query.items() if name.startswith("include_") and values[-1] == "true"}
        if isinstance(request.caller, Connection) and includes & {"include_transcript", "include_summary"}:
            return self.error(400, "include_transcript and include_summary are not available to OAuth apps.")
        if self.strict_filters and (unknown := set(query) - _PARAMETERS):
            return self.error(400, f"Unknown parameter: {sorted(unknown)[0]}")
        try:
            after, before = _instant(query, "created_after"), _instant(query, "created_before")
            offset = _offset(query.get("cursor", [""])[-1])
        except ValueError as error:
            return self.error(400, str(error))

        user = self._user_of(request)

        def matches(call: Call) -> bool:
            return (
                (after is None or call.created_at > after)
                and (before is None or call.created_at < before)
                and (user is None or call.host.email == user)
            )

        found = list(self.listing(matches, attrgetter("created_at"), offset))
        page = found[offset : offset + self.page_size]
        end = offset + len(page)
        document = {
            "limit": self.page_size,
            "next_cursor": _cursor(end) if end < len(found) else None,
            "items": [self._meeting(call, includes) for call in page],
        }
        return Response.json(self.enveloped(document))

    @route("GET", rf"{_BASE}/recordings/(?P<name>[^/]+)/transcript", "transcript", heavy=True)
    def _transcript(self, request: Request, name: str) -> Response:
        call = self._visible_call(request, name)
        if not call:
            return self.error(404, "Recording not found")
        if not self.transcript_is_ready(call):
            if self.late_form == "404":
                return self.error(404, "Transcript not found")
            return Response.json({"transcript": [] if self.late_form == "empty" else None})
        return Response.json(self.mutated(call, {"transcript": transcript(call)}))

    @route("GET", rf"{_BASE}/recordings/(?P<name>[^/]+)/summary", "summary", heavy=True)
    def _summary(self, request: Request, name: str) -> Response:
        call = self._visible_call(request, name)
        if not call:
            return self.error(404, "Recording not found")
        return Response.json(self.mutated(call, {"summary": summary(call)}))

    def _user_of(self, request: Request) -> str | None:
        if isinstance(request.caller, Connection):
            return request.caller.user
        return self.api_keys.get(request.headers.get("x-api-key", ""))

    def _visible_call(self, request: Request, name: str) -> Call | None:
        call, user = self.find(unquote(name)), self._user_of(request)
        return call if call and user in (None, call.host.email) else None

    def _meeting(self, call: Call, includes: set[str]) -> dict[str, Any]:
        number = recording_id(call)
        scheduled = call.started_at.replace(minute=call.started_at.minute // 30 * 30, second=0)
        is_external = any(person.is_external for person in call.guests)
        document = {
            "title": call.title,
            "meeting_title": None if call.is_impromptu else f"{call.title} (calendar)",
            "meeting_type": None if call.is_impromptu else _MEETING_TYPES[call.number % len(_MEETING_TYPES)],
            "meeting_url": None if call.is_impromptu else f"https://meet.example.com/{call.key.hex()[:10]}",
            "recording_id": number,
            "url": f"https://fathom.video/calls/{number}",
            "share_url": f"https://fathom.video/share/{call.key.hex()[:20]}",
            "created_at": _text(call.created_at),
            "scheduled_start_time": _text(scheduled),
            "scheduled_end_time": _text(scheduled + timedelta(minutes=30)),
            "recording_start_time": _text(call.started_at),
            "recording_end_time": _text(call.ended_at),
            "calendar_invitees_domains_type": self.value(
                "one_or_more_external" if is_external else "only_internal", call
            ),
            "shared_with": self.value("single_team" if call.number % 2 else "no_teams", call),
            "transcript_language": call.language,
            "calendar_invitees": [_invitee(person, call) for person in call.people],
            "recorded_by": {
                "name": call.host.name,
                "email": call.host.email,
                "email_domain": call.host.domain,
                "team": _TEAM if call.number % 2 else None,
            },
            "transcript": None,
            "default_summary": summary(call) if "include_summary" in includes else None,
            "action_items": _action_items(call) if "include_action_items" in includes else None,
            "highlights": _highlights(call) if "include_highlights" in includes else None,
            "crm_matches": dict(_NO_MATCHES) if "include_crm_matches" in includes else None,
        }
        if "include_transcript" in includes:
            if self.transcript_is_ready(call):
                document["transcript"] = transcript(call)
            else:
                document["transcript"] = [] if self.late_form == "empty" else None
        return self.mutated(call, document)


def recording_id(call: Call) -> int:
    """Return Fathom's id of a call; every tenth does not fit into 32 bits."""
    return 800_000_000 + call.seed * 10_000_000 + call.number * 1009 + (4_000_000_000 if call.number % 10 == 9 else 0)


def transcript(call: Call) -> list[dict[str, Any]]:
    """Return a call's segments: starts only, without ends."""
    return [
        {
            "speaker": {
                "display_name": segment.speaker.name,
                "matched_calendar_invitee_email": segment.speaker.email if call.number % 2 else None,
            },
            "text": segment.text,
            "timestamp": _clock(segment.start),
        }
        for segment in call.segments
    ]


def summary(call: Call) -> dict[str, Any] | None:
    """Return a call's summary; some have none."""
    return {"template_name": "general", "markdown_formatted": call.summary} if call.summary else None


_PARAMETERS = {
    "created_after", "created_before", "cursor", "include_transcript", "include_summary", "include_action_items",
    "include_highlights", "include_crm_matches",
}  # fmt: skip


def _wants_much(request: Request) -> bool:
    return any(request.parameter(name) == "true" for name in ("include_transcript", "include_summary"))


def _instant(query: dict[str, list[str]], name: str) -> datetime | None:
    if name not in query:
        return None
    text = query[name][-1]
    try:
        value = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(f"{name} is not an ISO-8601 date: {text}") from None
    return value if value.tzinfo else value.replace(tzinfo=UTC)


def _cursor(offset: int) -> str:
    return base64.urlsafe_b64encode(json.dumps({"o": offset, "v": 1}).encode()).decode().rstrip("=")


def _offset(cursor: str) -> int:
    if not cursor:
        return 0
    try:
        return int(json.loads(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))["o"])
    except (ValueError, KeyError, TypeError):
        raise ValueError("Invalid cursor") from None


def _invitee(person: Person, call: Call) -> dict[str, Any]:
    return {
        "name": None if person.is_external and person.email and call.number % 4 == 2 else person.name,
        "email": person.email,
        "email_domain": person.domain,
        "is_external": person.is_external,
        "matched_speaker_display_name": person.name if person.email else None,
    }


def _action_items(call: Call) -> list[dict[str, Any]]:
    return [
        {
            "description": "Send the notes around.",
            "user_generated": False,
            "completed": call.number % 2 == 0,
            "recording_timestamp": _clock(call.segments[-1].start),
            "recording_playback_url": f"https://fathom.video/calls/{recording_id(call)}?t=60",
            "assignee": {"name": call.host.name, "email": call.host.email, "team": None},
        }
    ]


def _highlights(call: Call) -> list[dict[str, Any]]:
    said = call.segments[0]
    return [{"type": "Highlight", "summary": None, "start_time": said.start, "end_time": said.end, "text": said.text}]


def _clock(seconds: float) -> str:
    whole = int(seconds)
    return f"{whole // 3600:02}:{whole // 60 % 60:02}:{whole % 60:02}"


def _text(instant: datetime) -> str:
    return instant.strftime("%Y-%m-%dT%H:%M:%SZ")
