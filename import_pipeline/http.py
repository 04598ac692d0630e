"""Asking a provider: one client per account and run, on httpx.

What every request gets here: the credential, a place in the rate budget, deadlines, retries with full jitter, the
provider's demands for silence, a bounded answer, and an error of the right class. A connector only says what to ask.
Nothing here logs: an address may hold a key, an answer a transcript.
"""

from __future__ import annotations

import gzip
import io
import logging
import re
import ssl
import threading
import time
import zlib
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from functools import cache
from types import TracebackType
from typing import Any, Protocol

import httpx
import tenacity

from import_pipeline.deadlines import Patience, bound_total_time, deadline
from import_pipeline.errors import ErrorClass, HttpError, RateLimitedError, ReconnectError, SourceUnavailableError
from import_pipeline.fields import parse_json
from import_pipeline.rate_budgets import LONGEST_WAIT_SECONDS, Permit
from import_pipeline.records import JsonObject
from import_pipeline.refusals import describe_body, may_pass, rate_header, redact, request_id, silence_asked
from import_pipeline.settings import number_setting

# They would tell addresses and headers to whoever listens, and some hold a key. A level could be set by anybody.
for _name in ("httpx", "httpcore.connection", "httpcore.http11", "httpcore.proxy", "httpcore.socks"):
    logging.getLogger(_name).addFilter(lambda _: False)

CONNECT_SECONDS = 10.0
MAX_ATTEMPTS = 10
MAX_REDIRECTS = 5
MAX_RESTARTS = 3
MAX_PAGES_WITHOUT_NEWS = 20
"""So many pages in a row that differ from earlier ones in nothing but their token: the listing has no end."""
FAILED_REQUESTS_UNTIL_DOWN = 3
"""So many requests in a row that fail after all their attempts mean that the provider is down, not an item broken."""
SILENCE_AFTER_GIVING_UP_SECONDS = 900.0
"""After a provider refused a request again and again for its limit; longer than a run waits, so the rest goes fast."""

_PAUSE = tenacity.wait_random_exponential(multiplier=0.5, max=30)
_REMEMBERED = 4


class Credential(Protocol):
    """What puts a secret into requests; `credentials.py` has the one that is kept in the database."""

    @property
    def kind(self) -> str:
        """Return which kind of credential it is; see `authentication.py`."""
        ...

    @property
    def secrets(self) -> Sequence[str]:
        """Return what must not appear in any message."""
        ...

    def sign(self, request: httpx.Request) -> None:
        """Put the secret into a request."""
        ...

    def renew(self, refused: httpx.Request) -> bool:
        """Get another secret than the one that was refused with this request; False where there is none."""
        ...


class Budget(Protocol):
    """Leave to send; `rate_budgets.py` has the one that processes share."""

    def take(self, names: Sequence[str]) -> Permit:
        """Wait for leave to send one request."""
        ...

    def settle(self, permit: Permit) -> None:
        """Note that it was answered."""
        ...

    def block(self, seconds: float, names: Sequence[str]) -> None:
        """Note that the provider asked for silence."""
        ...


class _TryAgain(Exception):
    """An attempt failed in a way that passes."""

    def __init__(self, error: HttpError, pause_seconds: float | None = None) -> None:
        super().__init__(str(error))
        self.error = error
        self.pause_seconds = pause_seconds


class HttpClient:
    """Asks one provider for one account.

    Args:
        title: What people call the source, for messages.
        base_url: What paths are appended to.
        credential: What is put into requests to the provider; None asks without.
        budget: Leave to send; None asks freely.
        trusted_domains: Besides the host of `base_url`, where the credential may be sent (with subdomains).
        limit_ends_at: Says of a refusal that is no 429 whether it is the provider's limit, and when that ends.
        max_attempts: How often a request is sent at most, where what went wrong may pass; `MAX_ATTEMPTS`.
        connect_command: What to run when the credential is no longer accepted.
        patience: What `stop` ends; a budget of this client should wait with the same.
        sleep: For tests.

    Attributes:
        pages_read: How many pages of listings `pages` has read so far.
        memory: For a connector to note what holds for the rest of this batch, since it keeps no state of its own.
    """

    def __init__(
        self,
        title: str,
        base_url: str,
        credential: Credential | None = None,
        budget: Budget | None = None,
        *,
        trusted_domains: Sequence[str] = (),
        limit_ends_at: Callable[[httpx.Response], datetime | None] = lambda _: None,
        max_attempts: int | None = None,
        connect_command: str = "import-pipeline connect",
        patience: Patience | None = None,
        sleep: Callable[[float], None] | None = None,
    ) -> None:
        self.title = title
        self.base_url = base_url
        self.pages_read = 0
        self.memory: dict[str, Any] = {}
        self._credential = credential
        self._budget = budget
        self._trusted_domains = trusted_domains
        self._limit_ends_at = limit_ends_at
        self._max_attempts = max_attempts or MAX_ATTEMPTS
        self._connect_command = connect_command
        self._patience = patience or Patience()
        self._sleep = sleep or self._patience.sleep
        self._failed_in_a_row = 0
        self._silent_until: dict[str, float] = {}
        self._refused: HttpError | None = None
        self._remembered: OrderedDict[str, JsonObject] = OrderedDict()
        self._lock = threading.Lock()
        self._read_seconds = number_setting("IMPORT_PIPELINE_HTTP_TIMEOUT", 20, at_least=0.01)
        self._total_seconds = 6 * self._read_seconds
        self._max_bytes = int(number_setting("IMPORT_PIPELINE_MAX_RESPONSE_MB", 50, at_least=0.01) * 1_000_000)
        self._client = httpx.Client(
            verify=_tls(),
            timeout=httpx.Timeout(self._read_seconds, connect=min(CONNECT_SECONDS, self._read_seconds)),
            headers={"User-Agent": "import-pipeline", "Accept-Encoding": "gzip"},
            follow_redirects=False,
        )
        bound_total_time(self._client)

    def __enter__(self) -> HttpClient:
        """Return it."""
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc_value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Stop it and close its connections."""
        self.stop()
        self._client.close()

    def stop(self) -> None:
        """Let every thread that asks or waits to ask end with `StoppedError`, within a second or so."""
        self._patience.end()

    @property
    def kind(self) -> str | None:
        """Which kind of credential it asks with: `api-key`, `oauth` or `server-to-server`."""
        return self._credential.kind if self._credential else None

    def get_json(
        self,
        path: str,
        params: Mapping[str, Any] | None = None,
        *,
        budgets: Sequence[str] = ("requests",),
        remember: bool = False,
    ) -> JsonObject:
        """Get a JSON object.

        Args:
            path: Appended to the base address; or a whole address.
            params: Query parameters; None values are left out, lists repeated.
            budgets: The rate limits it counts for.
            remember: Keep the last few answers, for items that come from one page and follow each other.

        Raises:
            HttpError: The provider refused; `status` says how. Also if it went on failing after all attempts.
            RateLimitedError: It asks for a silence longer than a run waits.
            ReconnectError: It does not accept the credential.
            SourceUnavailableError: It failed several requests in a row, so it is down.
        """
        key = f"{path} {sorted((params or {}).items())}"
        with self._lock:
            if remember and key in self._remembered:
                return self._remembered[key]
        answer: JsonObject = self._request("GET", path, params, budgets, _parse_json)
        if remember:
            with self._lock:
                self._remembered[key] = answer
                while len(self._remembered) > _REMEMBERED:
                    self._remembered.popitem(last=False)
        return answer

    def get_bytes(
        self, url: str, params: Mapping[str, Any] | None = None, *, budgets: Sequence[str] = ("requests",)
    ) -> bytes:
        """Get the content of a file; see `get_json` for arguments and errors."""
        # A link that has run out is answered like a dead credential, and says nothing about ours.
        content: bytes = self._request(
            "GET", url, params, budgets, lambda response: response.content, proves_credential=False
        )
        return content

    def send(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        content: bytes | None = None,
        budgets: Sequence[str] = ("requests",),
        raises: bool = True,
        signs: bool = True,
        expects_json: bool = False,
    ) -> httpx.Response:
        """Send a request of any kind that may be repeated, and return the whole answer; see `get_json` for errors.

        Args:
            method: The HTTP method.
            url: The whole address.
            headers: Further headers.
            content: The body.
            budgets: The rate limits it counts for.
            raises: Whether a refusal (4xx) is raised; else it is returned.
            signs: Whether the credential is sent along.
            expects_json: Whether a success that is no JSON object counts as a broken answer.
        """

        def read(response: httpx.Response) -> httpx.Response:
            if expects_json and response.is_success:
                _parse_json(response)
            return response

        response: httpx.Response = self._request(
            method,
            url,
            None,
            budgets,
            read,
            headers=headers,
            content=content,
            raises=raises,
            signs=signs,
        )
        return response

    def pages(
        self,
        path: str,
        params: Mapping[str, Any],
        cursor: str,
        next_cursor: str,
        *,
        budgets: Sequence[str] = ("requests",),
    ) -> Iterator[JsonObject]:
        """Yield every page of a listing; when a page token has run out meanwhile, from the beginning again.

        Args:
            path: See `get_json`.
            params: Repeated unchanged with every page.
            cursor: The query parameter that asks for the next page.
            next_cursor: The field of an answer that holds its value; missing, null or empty on the last page.
            budgets: See `get_json`.

        Raises:
            SourceUnavailableError: The listing leads in a circle, or its tokens expire again and again.
        """
        restarts = stale = 0
        token: str | None = None
        seen: set[str] = set()
        contents: set[int] = set()
        while True:
            try:
                page = self.get_json(path, {**params, cursor: token}, budgets=budgets)
            except HttpError as error:
                if token is None or error.status != 400:
                    raise
                if restarts == MAX_RESTARTS:
                    raise SourceUnavailableError(f"The listing expires again and again: {error}") from None
                restarts, token, seen = restarts + 1, None, set()
                continue
            self.pages_read += 1
            content = _digest({name: value for name, value in page.items() if name != next_cursor})
            stale = stale + 1 if content in contents else 0
            contents.add(content)
            yield page
            token = page.get(next_cursor) or None
            if token is None:
                return
            token = str(token)
            if token in seen or stale == MAX_PAGES_WITHOUT_NEWS:
                raise SourceUnavailableError(f"The listing of {self.title} leads in a circle: it repeats itself.")
            seen.add(token)

    def _request(
        self,
        method: str,
        path: str,
        params: Mapping[str, Any] | None,
        budgets: Sequence[str],
        read: Callable[[httpx.Response], Any],
        *,
        headers: Mapping[str, str] | None = None,
        content: bytes | None = None,
        raises: bool = True,
        signs: bool = True,
        proves_credential: bool = True,
    ) -> Any:
        if self._refused is not None:
            raise self._refused.with_traceback(None)
        url = self._address(path, params)
        is_renewed = False

        def attempt() -> Any:
            nonlocal is_renewed
            request = self._client.build_request(method, url, headers=headers, content=content)
            is_signed = signs and self._sign(request)
            what = self._redact(f"{method} {url.raw_path.partition(b'?')[0].decode('ascii')}")
            response, is_signed = self._exchange(request, what, budgets, is_signed)
            is_ours = is_signed and proves_credential
            if response.status_code == 401 and is_ours and self._credential and not is_renewed:
                is_renewed = True
                if self._credential.renew(request):
                    return attempt()
            if response.is_success or (not raises and not may_pass(response.status_code)):
                try:
                    return read(response)
                except ValueError as error:
                    problem = HttpError(f"{self.title} answered {what} with {error}.", error_class="transient")
                    raise _TryAgain(problem) from None
            raise self._refusal(response, what, is_ours, budgets)

        retrying = tenacity.Retrying(
            retry=tenacity.retry_if_exception_type(_TryAgain),
            wait=_pause,
            stop=tenacity.stop_after_attempt(self._max_attempts) | tenacity.stop_after_delay(3 * LONGEST_WAIT_SECONDS),
            sleep=self._sleep,
            reraise=True,
        )
        try:
            result = retrying(attempt)
        except _TryAgain as last:
            raise self._given_up(last.error, budgets) from None
        except HttpError as error:
            self._failed_in_a_row = 0  # it answers
            if isinstance(error, ReconnectError):
                self._refused = error
            raise
        self._failed_in_a_row = 0
        return result

    def _address(self, path: str, params: Mapping[str, Any] | None) -> httpx.URL:
        try:
            url = httpx.URL(path if re.match("https?://", path, re.IGNORECASE) else self.base_url + path)
            given = {name: value for name, value in (params or {}).items() if value is not None}
            if url.host:  # which cannot always be read
                return url.copy_merge_params(given) if given else url
        except (httpx.InvalidURL, ValueError):
            pass
        raise HttpError(f"{self.title} gave an address that is none.", error_class="data")

    def _sign(self, request: httpx.Request) -> bool:
        if self._credential is None or not self._is_trusted(request.url):
            return False
        self._credential.sign(request)
        return True

    def _exchange(
        self, request: httpx.Request, what: str, budgets: Sequence[str], is_signed: bool
    ) -> tuple[httpx.Response, bool]:
        """Send a request and follow redirects; return the answer, and whether it is one to our credential."""
        for _ in range(MAX_REDIRECTS + 1):
            response = self._send_once(request, what, budgets)
            if response.next_request is None:
                return response, is_signed
            origin, request = request, response.next_request
            if _origin(request.url) != _origin(origin.url):
                if request.method not in ("GET", "HEAD"):  # its body holds what is for the origin only
                    raise HttpError(f"{self.title} redirects {what} to another host.", error_class="permanent")
                is_signed = False
                self._take_secrets_from(request)
                budgets = ()  # the provider has answered: it counts no download from where it keeps its files
            elif is_signed:
                self._sign(request)  # the new address lacks what was in the query
        raise HttpError(f"{self.title} redirects {what} again and again.", error_class="permanent")

    def _take_secrets_from(self, request: httpx.Request) -> None:
        for name, value in request.headers.items():
            if name == "authorization" or self._redact(value) != value:
                del request.headers[name]
        params = request.url.params.multi_items()
        kept = [(name, value) for name, value in params if self._redact(value) == value]
        if kept != params:
            request.url = request.url.copy_with(params=kept)

    def _send_once(self, request: httpx.Request, what: str, budgets: Sequence[str]) -> httpx.Response:
        self._patience.check()
        if request.url.scheme != "https" and self.base_url.startswith("https:"):  # what is inside a network mostly is
            message = f"{self.title} leads from https to an address that is none, which is not followed."
            raise HttpError(message, error_class="permanent")
        permit = self._wait_for_leave(budgets)
        try:
            with deadline(self._total_seconds, self._patience):
                response = self._client.send(request, stream=True)
                if may_pass(response.status_code) and (asked := silence_asked(response)):
                    self._silent_until |= dict.fromkeys(budgets, time.monotonic() + asked)
                try:
                    body = self._read(response, what)
                finally:
                    response.close()
        except (httpx.InvalidURL, httpx.UnsupportedProtocol, httpx.LocalProtocolError, UnicodeError):
            problem = HttpError(f"{self.title} cannot be asked {what}: an address or header is malformed.")
            raise problem from None
        except (httpx.TransportError, EOFError, gzip.BadGzipFile, zlib.error) as error:
            kind = "in time" if isinstance(error, httpx.TimeoutException) else f"whole ({type(error).__name__})"
            message = f"{self.title} did not answer {what} {kind}."
            if isinstance(error, httpx.ConnectError):
                message = f"{self.title} could not be reached at {request.url.netloc.decode('ascii', 'replace')}."
            problem = HttpError(message, error_class="transient")
            raise _TryAgain(problem) from None
        finally:
            if self._budget and permit:
                self._budget.settle(permit)
        self._heed_remaining(response, permit)
        headers = [(name, value) for name, value in response.headers.raw if name.lower() not in _OF_THE_WIRE]
        whole = httpx.Response(response.status_code, headers=headers, content=body, request=request)
        whole.next_request = response.next_request
        return whole

    def _wait_for_leave(self, budgets: Sequence[str]) -> Permit | None:
        """Wait until a request may be sent. What one thread was just told holds for the others before it is stored."""
        while True:
            permit = self._budget.take(budgets) if self._budget and budgets else None
            left = max((self._silent_until.get(name, 0.0) for name in budgets), default=0.0) - time.monotonic()
            if left <= 0 or self._budget is None:
                return permit
            if permit:
                self._budget.settle(permit)
            self._sleep(min(left, 1.0))  # a longer silence is in the budget by then

    def _read(self, response: httpx.Response, what: str) -> bytes:
        """Read a body to its end; httpx's own decoders know no limit, and do not notice when one is cut."""
        limit = f"{self._max_bytes / 1e6:.0f} MB (IMPORT_PIPELINE_MAX_RESPONSE_MB)"
        too_large = HttpError(f"{self.title} answered {what} with more than {limit}.")
        body = bytearray()
        for chunk in response.iter_raw():
            body += chunk
            if len(body) > self._max_bytes:
                raise too_large
        encoding = response.headers.get("Content-Encoding", "identity").lower()
        if encoding == "gzip":
            with gzip.GzipFile(fileobj=io.BytesIO(body)) as file:
                body = bytearray(file.read(self._max_bytes + 1))
        elif encoding != "identity":
            raise HttpError(f"{self.title} answered {what} in an encoding that was not asked for.")
        if len(body) > self._max_bytes:
            raise too_large
        return bytes(body)

    def _refusal(self, response: httpx.Response, what: str, is_ours: bool, budgets: Sequence[str]) -> Exception:
        """Return what a refusal is: something to try again, a limit, or an error of its class."""
        status = response.status_code
        code, told = describe_body(response, self._secrets())
        answer: Any = {"status": status, "code": code, "request_id": request_id(response, self._secrets())}
        message = f"{self.title} answered {what} with {status}{f': {told}' if told else ''}."
        asked, until = silence_asked(response), self._limit_ends_at(response)
        if until is not None:
            asked = max(0.0, (until - datetime.now(UTC)).total_seconds())
        if until is not None or may_pass(status):
            if asked and self._budget:
                self._budget.block(asked, budgets)
            if asked and asked > LONGEST_WAIT_SECONDS:
                retry_at = datetime.now(UTC) + timedelta(seconds=asked)
                message = f"{message} It may be asked again from {retry_at:%Y-%m-%d %H:%M} UTC on."
                return RateLimitedError(message, **answer, retry_at=retry_at)
            error_class: ErrorClass = "rate" if status == 429 or until is not None else "transient"
            return _TryAgain(HttpError(message, **answer, error_class=error_class), asked)
        if status == 401 and is_ours:
            message = f"{message} Run `{self._connect_command}` again."
            return ReconnectError(message, **answer)
        return HttpError(message, **answer, error_class="auth" if status in (401, 403) else "permanent")

    def _given_up(self, error: HttpError, budgets: Sequence[str]) -> Exception:
        """Return the error of a request that failed in all its attempts."""
        if error.error_class == "rate":
            if self._budget:
                self._budget.block(SILENCE_AFTER_GIVING_UP_SECONDS, budgets)
            retry_at = datetime.now(UTC) + timedelta(seconds=SILENCE_AFTER_GIVING_UP_SECONDS)
            answer: Any = {"status": error.status, "code": error.code, "request_id": error.request_id}
            return RateLimitedError(str(error), **answer, retry_at=retry_at)
        with self._lock:
            self._failed_in_a_row += 1
            is_down = self._failed_in_a_row >= FAILED_REQUESTS_UNTIL_DOWN
        if is_down:
            return SourceUnavailableError(f"{error} {self._failed_in_a_row} requests in a row failed like that.")
        return error

    def _heed_remaining(self, response: httpx.Response, permit: Permit | None) -> None:
        """Fall silent when the provider has no room left though we think so: others use the account too."""
        remaining, reset = (rate_header(response, name) for name in ("RateLimit-Remaining", "RateLimit-Reset"))
        if remaining is None or reset is None or not self._budget or not permit or not permit.has_room:
            return
        with suppress(ValueError):
            if float(remaining) <= 0 and 0 < float(reset) <= LONGEST_WAIT_SECONDS:
                self._budget.block(float(reset), permit.names)

    def _is_trusted(self, url: httpx.URL) -> bool:
        base = httpx.URL(self.base_url)
        if url.host == base.host:
            return url.scheme == base.scheme
        return url.scheme == "https" and any(
            url.host == domain or url.host.endswith(f".{domain}") for domain in self._trusted_domains
        )

    def _secrets(self) -> Sequence[str]:
        return self._credential.secrets if self._credential else ()

    def _redact(self, text: str) -> str:
        return redact(text, self._secrets())


_OF_THE_WIRE = (b"content-encoding", b"content-length", b"transfer-encoding")


@cache
def _tls() -> ssl.SSLContext:
    """Return what certificates are checked against; reading it takes longer than a request."""
    return httpx.create_ssl_context()


def _parse_json(response: httpx.Response) -> JsonObject:
    try:
        answer = parse_json(response.content)
    except ValueError:
        raise ValueError("something that is not JSON") from None
    if not isinstance(answer, dict):
        raise ValueError(f"a JSON {type(answer).__name__} where an object belongs")
    return answer


def _digest(page: JsonObject) -> int:
    try:
        return hash(repr(page))
    except RecursionError:  # deep enough to be read, and from here just too deep
        return id(page)


def _pause(state: tenacity.RetryCallState) -> float:
    """Return how long to wait before the next attempt: full jitter, but at least what the provider asked for."""
    error = state.outcome.exception() if state.outcome else None
    asked = error.pause_seconds if isinstance(error, _TryAgain) else None
    jitter = _PAUSE(state)
    return asked + min(jitter, 1.0) if asked else jitter


def _origin(url: httpx.URL) -> tuple[str, str, int | None]:
    return url.scheme, url.host, url.port
