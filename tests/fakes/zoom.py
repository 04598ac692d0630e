"""A fake of Zoom's cloud recordings (Meeting API v2), of both kinds of OAuth and of the downloads.

Days in UTC, a span that is silently cut, page tokens that die, ids in paths that must be encoded twice; no webhooks.
"""

from __future__ import annotations

import base64
import json
import re
import time
from collections.abc import Collection
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from operator import attrgetter
from typing import Any, ClassVar, Literal
from urllib.parse import unquote

from . import mutations
from .calls import HOSTS, Call, Person, Segment
from .oauth import Connection, OAuth
from .provider import Provider, environment
from .server import FakeServer, Request, RequestRecord, Response, Route, route

CLIENT_ID = "zoom-test-client"
CLIENT_SECRET = "zoom-test-secret"
ACCOUNT_ID = "zoom-test-account"
ACCESS_TOKEN = "zoom-test-access-token"
REFRESH_TOKEN = "zoom-test-refresh-token"

USER_SCOPE = (
    "cloud_recording:read:list_user_recordings cloud_recording:read:list_recording_files user:read:user "
    "meeting:read:list_past_participants meeting:read:summary"
)
ACCOUNT_SCOPE = (
    "cloud_recording:read:list_user_recordings:admin cloud_recording:read:list_recording_files:admin "
    "cloud_recording:read:list_account_recordings:admin user:read:user:admin user:read:list_users:admin "
    "meeting:read:list_past_participants:admin meeting:read:summary:admin"
)
SIGN_IN_PAGE = "<!DOCTYPE html><html><head><title>Sign In | Zoom</title></head><body>Sign in to Zoom</body></html>"

_BASE = "/v2"


@dataclass(kw_only=True, eq=False)
class MediaServer(FakeServer):
    """Where downloads are redirected to: another port, which needs no token and watches whether one arrives.

    Args:
        files: Signature → content type and bytes.
    """

    files: dict[str, tuple[str, bytes]] = field(default_factory=dict)

    @property
    def leaks(self) -> list[RequestRecord]:
        """The requests that brought a token along."""
        return [
            record
            for record in self.requests
            if "authorization" in record.headers or {"access_token", "token"} & set(record.query)
        ]

    @route("GET", r"/media/(?P<signature>\w+)", "media")
    def _file(self, request: Request, signature: str) -> Response:
        if signature not in self.files:
            return Response(403, b"<Error><Code>AccessDenied</Code></Error>", "application/xml")
        content_type, body = self.files[signature]
        return Response(200, body, content_type)


@dataclass(kw_only=True, eq=False)
class ZoomServer(Provider):
    """Zoom. See `Provider` for the switches that all fakes have.

    An ask for a transcript, as in `Call.transcript_ready_after`, is each time that the meeting is shown.

    Args:
        auth: Which grants the token address knows.
        oauth: Its authorisation server.
        clamp_days: The longest span from `from` to `to`; `from` is moved for longer ones. `month` means one calendar
            month before `to`, None any span.
        to_is_inclusive: Whether the day `to` belongs to the span.
        page_token_seconds: Life of a page token.
        rate_limit: Per second or so, of all requests or by label (`Light`, `Medium`, `Heavy`); 429 then comes without
            Retry-After.
        daily_limit: Of all requests; 429 then has an ISO-8601 date-time in Retry-After.
        missing_scopes: Endpoints that need one of these are answered 400 with code 4711.
        redirects_downloads: Downloads are redirected to `media`.
        media: The server of the downloads; it shares the fault switches.
        expired_links: The status for download links that came from a list, 401 or 404: only those from
            `/meetings/{id}/recordings` work.
        downloads_need_query_token: A token in the header gives the sign-in page; it must be in the query.
    """

    base_path: ClassVar[str] = _BASE

    auth: Literal["any", "oauth", "server-to-server"] = "any"
    oauth: OAuth = field(
        default_factory=lambda: OAuth(
            client_id=CLIENT_ID, client_secret=CLIENT_SECRET, client_authentication="basic", account_id=ACCOUNT_ID,
            user=HOSTS[0].email, scope=USER_SCOPE, account_scope=ACCOUNT_SCOPE, names_errors_with_reason=True,
        )
    )  # fmt: skip
    clamp_days: int | Literal["month"] | None = 30
    to_is_inclusive: bool = True
    page_token_seconds: float = 900.0
    rate_limit: str | dict[str, str] | None = None
    daily_limit: str | None = None
    missing_scopes: Collection[str] = ()
    redirects_downloads: bool = True
    expired_links: Literal[401, 404] | None = None
    downloads_need_query_token: bool = False
    media: MediaServer = field(default_factory=MediaServer)

    def __post_init__(self) -> None:
        super().__post_init__()
        by_label = self.rate_limit if isinstance(self.rate_limit, dict) else {"requests": self.rate_limit}
        for label, limit in by_label.items():
            self.limits.set(label, limit)
        self.limits.set("daily", self.daily_limit)
        self.media.faults = self.faults
        self._page_tokens: dict[str, tuple[Any, int, float]] = {}
        self._download_tokens: set[str] = set()
        self._texts: dict[tuple[bytes, int, bool], tuple[list[Segment], bytes]] = {}
        if self.auth == "oauth":
            self.oauth.account_id = None
        if self.auth != "server-to-server":
            self.oauth.issue(access_token=ACCESS_TOKEN, refresh_token=REFRESH_TOKEN)

    def start(self) -> ZoomServer:
        """See `FakeServer`; the server of the downloads starts too."""
        self.media.start()
        super().start()
        return self

    def close(self) -> None:
        """See `FakeServer`."""
        super().close()
        self.media.close()

    # Addresses and credentials

    @property
    def token_url(self) -> str:
        """Where codes, refresh tokens and accounts become access tokens."""
        return f"{self.origin}/oauth/token"

    @property
    def authorize_url(self) -> str:
        """Where a person consents."""
        return f"{self.origin}/oauth/authorize"

    @property
    def environment(self) -> dict[str, str]:
        """The variables that make the importer ask this server."""
        return environment("ZOOM", {"URL": self.url, "TOKEN_URL": self.token_url, "AUTHORIZE_URL": self.authorize_url})

    @property
    def credentials(self) -> dict[str, str]:
        """The made-up credentials that it accepts."""
        account = {"account id": ACCOUNT_ID} if self.auth != "oauth" else {}
        refresh = {"refresh token": REFRESH_TOKEN} if self.auth != "server-to-server" else {}
        return {"client id": self.oauth.client_id, "client secret": self.oauth.client_secret} | account | refresh

    def external_id(self, call: Call) -> str:
        """Return the uuid of the meeting's instance."""
        return meeting_uuid(call)

    @property
    def users(self) -> list[Person]:
        """Everybody who recorded something, and the one who consents."""
        owner = next((person for person in HOSTS if person.email == self.oauth.user), HOSTS[0])
        return list(({owner.email: owner} | {call.host.email: call.host for call in self.calls}).values())

    # Who may

    def identify(self, request: Request) -> None:
        """See `FakeServer`: all tokens of a connection count as one."""
        if request.path.startswith("/oauth/"):
            request.credential = self.oauth.identify(request)
            return
        token = request.bearer
        if request.path.startswith("/rec/") and not token:
            token = request.parameter("access_token")
        if token in self._download_tokens:
            request.credential = request.caller = "download token"
        elif token:
            connection, state = self.oauth.check(token)
            request.credential = connection.name if connection else None
            request.caller = connection if state == "valid" else state

    def admit(self, request: Request, marked: Route) -> Response | None:
        """See `FakeServer`."""
        if not request.path.startswith(_BASE):
            return None
        request.answer_headers["x-zm-trackingid"] = f"v=2.0;clid=fake;rid=WEB_{time.monotonic_ns():x}"
        if not isinstance(request.caller, Connection):
            message = "Access token is expired." if request.caller == "expired" else "Invalid access token."
            return _error(401, 124, message)
        label = marked.options["label"]
        taken = self.limits.take((label, "requests", "daily"), request.credential)
        if taken:
            name, is_let_in, room = taken
            request.answer_headers.update(
                {
                    "X-RateLimit-Category": label,
                    "X-RateLimit-Type": "Daily-limit" if name == "daily" else "QPS",
                    "X-RateLimit-Limit": str(room.limit.requests),
                    "X-RateLimit-Remaining": str(room.remaining),
                }
            )
            if not is_let_in:
                if name == "daily":
                    return self.too_many_requests(request, "iso", room.reset_seconds)
                return self.too_many_requests(request, None)
        needed = marked.options["scope"]
        granted = request.caller.scope.split()
        wanted = [needed] if needed.endswith(":admin") else [needed, f"{needed}:admin"]
        if not set(wanted) & set(granted) or set(wanted) & set(self.missing_scopes):
            return _error(400, 4711, f"Invalid access token, does not contain scopes:[{', '.join(wanted)}].")
        return None

    def error(self, status: int, message: str) -> Response:
        """See `FakeServer`."""
        if status == 429:
            message = "You have reached the maximum per-second rate limit for this API. Try again later."
        return _error(status, status if status == 429 else 300 if status == 400 else status, message)

    # OAuth

    @route("GET", "/oauth/authorize", "authorize")
    def _authorize(self, request: Request) -> Response:
        return self.oauth.authorize(request)

    @route("POST", "/oauth/token", "token")
    def _token(self, request: Request) -> Response:
        return self.oauth.token(request)

    # Users

    @route("GET", rf"{_BASE}/users", "users", label="Medium", scope="user:read:list_users:admin")
    def _users(self, request: Request) -> Response:
        page = self._page_of(request, ("users",), [_user(person) for person in self.users], 30)
        return page if isinstance(page, Response) else Response.json(page[1] | {"users": page[0]})

    @route("GET", rf"{_BASE}/users/(?P<name>[^/]+)", "user", label="Light", scope="user:read:user")
    def _one_user(self, request: Request, name: str) -> Response:
        user = self._user_called(request, name)
        return Response.json(_user(user)) if user else _no_such_user(name)

    # Recordings

    @route(
        "GET", rf"{_BASE}/users/(?P<name>[^/]+)/recordings", "list",
        label="Medium", scope="cloud_recording:read:list_user_recordings",
    )  # fmt: skip
    def _user_recordings(self, request: Request, name: str) -> Response:
        user = self._user_called(request, name)
        return self._list(request, user) if user else _no_such_user(name)

    @route(
        "GET", rf"{_BASE}/accounts/(?P<name>[^/]+)/recordings", "list",
        label="Medium", scope="cloud_recording:read:list_account_recordings:admin",
    )  # fmt: skip
    def _account_recordings(self, request: Request, name: str) -> Response:
        if unquote(name) not in ("me", ACCOUNT_ID):
            return _error(404, 2001, f"Account does not exist: {unquote(name)}.")
        return self._list(request, None)

    @route(
        "GET", rf"{_BASE}/meetings/(?P<name>[^/]+)/recordings", "meeting",
        label="Light", scope="cloud_recording:read:list_recording_files",
    )  # fmt: skip
    def _meeting_recordings(self, request: Request, name: str) -> Response:
        call = self._call_in_path(name)
        if not call or not self._may_see(request, call):
            return _error(404, 3301, "This recording does not exist.")
        document = self._meeting(call, "meeting")
        document["password"] = "pAsSeXaMpLe"
        document["participant_audio_files"] = []
        if request.parameter("include_fields") == "download_access_token":
            token = f"download-{call.key.hex()[:16]}"
            self._download_tokens.add(token)
            document["download_access_token"] = token
        return Response.json(document)

    @route(
        "GET", rf"{_BASE}/past_meetings/(?P<name>[^/]+)/participants", "participants",
        label="Medium", scope="meeting:read:list_past_participants",
    )  # fmt: skip
    def _participants(self, request: Request, name: str) -> Response:
        call = self._call_in_path(name)
        if not call or not self._may_see(request, call):
            return _error(404, 3001, f"Meeting does not exist: {unquote(unquote(name))}.")
        people = [
            {
                "id": base64.urlsafe_b64encode(person.name.encode()).decode()[:22] if not person.is_external else "",
                "name": person.name,
                "user_email": "" if person.is_external else person.email or "",
                "join_time": _text(call.started_at),
                "leave_time": _text(call.ended_at),
                "duration": call.seconds,
            }
            for person in (*call.people, call.host)  # who drops out and comes back is there twice
        ]
        page = self._page_of(request, ("participants", call.number), people, 30)
        return page if isinstance(page, Response) else Response.json(page[1] | {"participants": page[0]})

    # Downloads

    @route("GET", r"/rec/download/(?P<link>[^/]+)", "download")
    def _download(self, request: Request, link: str) -> Response:
        header, parameter = request.bearer, request.parameter("access_token")
        if not parameter and (not header or self.downloads_need_query_token):
            return Response.html(SIGN_IN_PAGE)
        if not isinstance(request.caller, Connection) and request.caller != "download token":
            return _error(401, 124, "Invalid access token.")
        try:
            uuid, index, source = json.loads(base64.urlsafe_b64decode(unquote(link)))
        except ValueError:
            return _error(404, 3301, "This recording does not exist.")
        if self.expired_links and source == "list":
            return _error(self.expired_links, self.expired_links, "The download link has expired.")
        call = self.find(uuid)
        files = self._files(call) if call else []
        if not call or index >= len(files):
            return _error(404, 3301, "This recording does not exist.")
        content_type, body = files[index]["_content"]
        if not self.redirects_downloads:
            return Response(200, body, content_type)
        signature = f"{call.key.hex()[:24]}{index}"
        self.media.files[signature] = (content_type, body)
        return Response(302, headers={"Location": f"{self.media.origin}/media/{signature}?Expires=600"})

    # Lists and pages

    def _list(self, request: Request, user: Person | None) -> Response:
        today = datetime.now(UTC).date()
        span = []
        for name in ("from", "to"):
            text = request.parameter(name) or today.isoformat()
            if not re.fullmatch(r"\d{4}-\d\d-\d\d", text) or (day := _day(text)) is None:
                return _invalid(name, f"Invalid field: {name}, the format is yyyy-MM-dd.")
            span.append(day)
        start, end = span
        if start > end:
            return _invalid("from", "The start date is later than the end date.")
        start = max(start, self._earliest(end))
        email = user.email if user else None
        last = end if self.to_is_inclusive else end - timedelta(days=1)

        def matches(call: Call) -> bool:
            return start <= call.started_at.date() <= last and (email is None or call.host.email == email)

        asked = ("recordings", user, start, end)
        offset = self._offset(request, asked)
        if isinstance(offset, Response):
            return offset
        found = list(self.listing(matches, attrgetter("started_at"), offset))
        page = self._page_of(request, asked, found, 30)
        if isinstance(page, Response):
            return page
        document = {"from": start.isoformat(), "to": end.isoformat()} | page[1]
        document["meetings"] = [self._meeting(call, "list") for call in page[0]]
        return Response.json(self.enveloped(document))

    def _earliest(self, end: date) -> date:
        if self.clamp_days is None:
            return date.min
        if self.clamp_days != "month":
            return end - timedelta(days=self.clamp_days)
        last_of_previous = end.replace(day=1) - timedelta(days=1)
        return last_of_previous.replace(day=min(end.day, last_of_previous.day))

    def _page_of(
        self, request: Request, asked: tuple[Any, ...], found: list[Any], default_size: int
    ) -> Response | tuple[list[Any], dict[str, Any]]:
        """Return a page of what was found, and what a reply says about it."""
        text = request.parameter("page_size") or str(default_size)
        size = int(text) if text.isdigit() else 0
        if not 1 <= size <= 300:
            return _invalid("page_size", "Invalid field: page_size must be between 1 and 300.")
        offset = self._offset(request, asked)
        if isinstance(offset, Response):
            return offset
        end = offset + size
        token = ""
        if end < len(found):
            token = base64.urlsafe_b64encode(f"{time.monotonic_ns()}-{end}".encode()).decode().rstrip("=")
            with self.lock:
                self._page_tokens[token] = (asked, end, time.monotonic() + self.page_token_seconds)
        pages = -(-len(found) // size)
        return found[offset:end], {
            "page_count": pages, "page_size": size, "total_records": len(found), "next_page_token": token,
        }  # fmt: skip

    def _offset(self, request: Request, asked: tuple[Any, ...]) -> int | Response:
        token = request.parameter("next_page_token")
        if not token:
            return 0
        known = self._page_tokens.get(token)
        if not known or known[0] != asked or time.monotonic() >= known[2]:
            return _error(400, 300, "The next page token is invalid or expired.")
        return known[1]

    # One meeting

    def _user_called(self, request: Request, name: str) -> Person | None:
        connection: Connection = request.caller
        name = unquote(name)
        if name == "me":
            own = connection.user
            return next((user for user in self.users if user.email == own), self.users[0])
        found = next((user for user in self.users if name in (user.email, _host_id(user))), None)
        if found and not connection.acts_for_account and connection.user and found.email != connection.user:
            return None
        return found

    def _may_see(self, request: Request, call: Call) -> bool:
        connection: Connection = request.caller
        return connection.acts_for_account or connection.user is None or call.host.email == connection.user

    def _call_in_path(self, raw: str) -> Call | None:
        once, twice = unquote(raw), unquote(unquote(raw))
        if once.isdigit():
            same = [call for call in self.calls if str(meeting_number(call)) == once]
            return max(same, key=lambda call: call.started_at, default=None)
        call = self.find(twice)
        if call and once == twice and (twice.startswith("/") or "//" in twice):
            return None  # what needs to be encoded twice was encoded once
        return call

    def _meeting(self, call: Call, source: str) -> dict[str, Any]:
        is_ready = self.transcript_is_ready(call)
        files = []
        for index, file in enumerate(self._files(call)):
            if file["file_type"] == "TRANSCRIPT" and not is_ready:
                continue
            link = json.dumps([meeting_uuid(call), index, source])
            file["download_url"] = f"{self.origin}/rec/download/{base64.urlsafe_b64encode(link.encode()).decode()}"
            del file["_content"]
            files.append(file)
        document = {
            "uuid": meeting_uuid(call),
            "id": meeting_number(call),
            "account_id": ACCOUNT_ID,
            "host_id": _host_id(call.host),
            "host_email": call.host.email,
            "topic": call.title,
            "type": self.value("8" if call.series is not None else "2", call),
            "start_time": _text(call.started_at),
            "timezone": "Europe/Paris",
            "duration": round(call.seconds / 60),
            "total_size": sum(file.get("file_size", 0) for file in files),
            "recording_count": len(files),
            "share_url": f"https://example.zoom.us/rec/share/{call.key.hex()[:24]}",
            "recording_play_passcode": "pAsSeXaMpLe",
            "auto_delete": False,
            "recording_files": files,
        }
        if self.adds_unknown_fields:
            unknown = ("file_type", "file_extension", "status", "recording_type")
            files.append({"id": "added-later"} | dict.fromkeys(unknown, mutations.UNKNOWN_VALUE))
        return self.mutated(call, document)

    def _files(self, call: Call) -> list[dict[str, Any]]:
        """Return all files of a meeting, `_content` included, also those that are not shown yet."""
        files: list[dict[str, Any]] = []
        for part, (offset, length) in enumerate(part_spans(call)):
            start = call.started_at + timedelta(seconds=offset)
            common = {
                "meeting_id": meeting_uuid(call),
                "recording_start": _text(start),
                "recording_end": _text(start + timedelta(seconds=length)),
            }

            def add(
                kind: str, extension: str, recording_type: str, content: tuple[str, bytes],
                common: dict[str, Any] = common, part: int = part,
            ) -> None:  # fmt: skip
                file_id = f"{call.key.hex()[:8]}-{part:04}-4000-8000-{len(files):012}"
                file = {"id": file_id} | common | {"file_type": kind, "file_extension": extension}
                file |= {"file_size": len(content[1]), "status": "completed", "recording_type": recording_type}
                file["_content"] = content
                files.append(file)

            def add_bare(
                kind: str, extension: str, content: tuple[str, bytes], common: dict[str, Any] = common
            ) -> None:
                files.append(common | {"file_type": kind, "file_extension": extension, "_content": content})

            add("MP4", "MP4", "shared_screen_with_speaker_view", ("video/mp4", b"\0\0\0\x18ftypmp42 made up"))
            files[-1]["play_url"] = f"https://example.zoom.us/rec/play/{call.key.hex()[:16]}{part}"
            add("M4A", "M4A", "audio_only", ("audio/mp4", b"\0\0\0\x18ftypM4A made up"))
            if call.has_transcript:
                text = self._vtt(call, part, with_speakers=True)
                add("TRANSCRIPT", "VTT", "audio_transcript", ("text/vtt; charset=utf-8", text))
            if call.number % 3 == 0:
                add("CHAT", "TXT", "chat_file", ("text/plain", b"00:00:05\t From Dana Reyes to Everyone:\thi\n"))
            if call.number % 4 == 0:
                add_bare("CC", "VTT", ("text/vtt; charset=utf-8", self._vtt(call, part, with_speakers=False)))
            add_bare("TIMELINE", "JSON", ("application/json", b'{"timeline": []}'))
        return files

    def _vtt(self, call: Call, part: int, with_speakers: bool) -> bytes:
        """Return a transcript file, written only once for what was said."""
        name = (call.key, part, with_speakers)
        said, text = self._texts.get(name, (None, b""))
        if said is not call.segments:
            text = vtt(call, part, with_speakers).encode()
            self._texts[name] = (call.segments, text)
        return text


def meeting_uuid(call: Call) -> str:
    """Return Zoom's id of an instance: some begin with `/`, some contain `//`, `/` or `+`."""
    text = base64.b64encode(call.key[:16]).decode().replace("/", "a").replace("+", "b")
    match call.number % 5:
        case 0:
            return f"/{text[1:8]}//{text[10:]}"
        case 1:
            return f"{text[:8]}//{text[10:]}"
        case 2:
            return f"{text[:6]}/{text[7:12]}+{text[13:]}"
        case _:
            return text


def meeting_number(call: Call) -> int:
    """Return the number of a meeting, which all instances of a series share."""
    if call.series is not None:
        return 81_234_567_890 + call.seed * 1000 + call.series
    return 90_000_000_000 + call.seed * 10_000_000 + call.number


def part_spans(call: Call) -> list[tuple[float, float]]:
    """Return offset and length in seconds of each part of a recording that was stopped and started again."""
    length = call.seconds / call.parts
    return [(length * part, length) for part in range(call.parts)]


def vtt(call: Call, part: int = 0, with_speakers: bool = True) -> str:
    """Return a transcript file: numbered cues, the speaker as prefix where it changes, times from the part's start.

    Args:
        call: The call.
        part: Which of its parts.
        with_speakers: False gives closed captions.
    """
    offset, length = part_spans(call)[part]
    lines, speaker, number = ["WEBVTT", ""], None, 0
    for segment in call.segments:
        if not offset <= segment.start < offset + length:
            continue
        number += 1
        prefix = f"{segment.speaker.name}: " if with_speakers and segment.speaker != speaker else ""
        speaker = segment.speaker
        times = f"{_clock(segment.start - offset)} --> {_clock(segment.end - offset)}"
        lines += [str(number), times, prefix + segment.text, ""]
    return "\n".join(lines)


def _error(status: int, code: int, message: str) -> Response:
    return Response.json({"code": code, "message": message}, status)


def _invalid(name: str, message: str) -> Response:
    errors = [{"field": name, "message": message}]
    return Response.json({"code": 300, "message": "Validation Failed.", "errors": errors}, 400)


def _no_such_user(name: str) -> Response:
    return _error(404, 1001, f"User does not exist: {unquote(name)}.")


def _host_id(person: Person) -> str:
    return "Host" + base64.urlsafe_b64encode((person.email or person.name).encode()).decode().rstrip("=")[:18]


def _user(person: Person) -> dict[str, Any]:
    first, _, last = person.name.partition(" ")
    return {
        "id": _host_id(person),
        "first_name": first,
        "last_name": last,
        "display_name": person.name,
        "email": person.email,
        "type": 2,
        "timezone": "Europe/Paris",
        "account_id": ACCOUNT_ID,
        "status": "active",
    }


def _day(text: str) -> date | None:
    try:
        return date.fromisoformat(text)
    except ValueError:
        return None


def _clock(seconds: float) -> str:
    thousandths = round(max(0.0, seconds) * 1000)
    minutes, rest = divmod(thousandths, 60_000)
    return f"{minutes // 60:02}:{minutes % 60:02}:{rest // 1000:02}.{rest % 1000:03}"


def _text(instant: datetime) -> str:
    return instant.strftime("%Y-%m-%dT%H:%M:%SZ")
