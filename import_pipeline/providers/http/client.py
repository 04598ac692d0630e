"""The client of one account: what a connector asks it for, and what becomes of refusals."""

from __future__ import annotations

import re
import ssl
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import cache
from types import TracebackType
from typing import Any

import httpx

from import_pipeline.errors import ErrorClass, HttpError, RateLimitedError, ReconnectError, SourceUnavailableError
from import_pipeline.providers.error_answers import describe_body, may_pass, redact, request_id, silence_asked
from import_pipeline.providers.http.addresses import Reach
from import_pipeline.providers.http.answers import read_object
from import_pipeline.providers.http.attempts import repeat
from import_pipeline.providers.http.contract import Budget, Credential, TryAgain
from import_pipeline.providers.http.failures import SLOW_ITEMS, Failures
from import_pipeline.providers.http.leave import Leave
from import_pipeline.providers.http.listing import read_pages
from import_pipeline.providers.http.sending import Sender
from import_pipeline.providers.rate_budgets import LONGEST_WAIT_SECONDS
from import_pipeline.providers.source_settings import number_setting
from import_pipeline.providers.timeouts import Allowance, Patience, bound_total_time
from import_pipeline.records import JsonObject

CONNECT_SECONDS = 10.0
MAX_ATTEMPTS = 10
SILENCE_AFTER_GIVING_UP_SECONDS = 900.0
"""After a provider refused a request again and again for its limit; longer than a run waits, so the rest goes fast."""


class HttpClient:
    """Asks one provider for one account.

    Args:
        title: What people call the source, for messages.
        base_url: What paths are appended to.
        credential: What is put into requests to the provider; None asks without.
        budget: Leave to send; None asks freely.
        trusted_domains: Besides the origin of `base_url`, where the credential may be sent (with subdomains).
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
        self._reach = reach = Reach(base_url, trusted_domains)
        self._limit_ends_at = limit_ends_at
        self._max_attempts = max_attempts or MAX_ATTEMPTS
        self._connect_command = connect_command
        self._patience = patience or Patience()
        self._sleep = sleep or self._patience.sleep
        self._leave = Leave(budget, self._sleep)
        self._failures = Failures(reach)
        self._refused: HttpError | None = None
        self._present = threading.local()
        self._read_seconds = number_setting("IMPORT_PIPELINE_HTTP_TIMEOUT", 20, at_least=0.01)
        self._item_seconds = number_setting("IMPORT_PIPELINE_ITEM_TIMEOUT", 15 * self._read_seconds, at_least=0.01)
        max_megabytes = number_setting("IMPORT_PIPELINE_MAX_RESPONSE_MB", 50, at_least=0.01)
        self._client = httpx.Client(
            verify=_tls(),
            timeout=httpx.Timeout(self._read_seconds, connect=min(CONNECT_SECONDS, self._read_seconds)),
            headers={"User-Agent": "import-pipeline", "Accept-Encoding": "gzip"},
            follow_redirects=False,
        )
        bound_total_time(self._client, reach.choose)
        self._sender = Sender(
            title, self._client, credential, reach, self._leave, self._failures, self._patience,
            total_seconds=6 * self._read_seconds, max_bytes=int(max_megabytes * 1_000_000),
        )  # fmt: skip

    def __enter__(self) -> HttpClient:
        """Return it."""
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc_value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Stop it and close its connections."""
        self.stop()
        self.memory.clear()
        self._client.close()

    def stop(self) -> None:
        """Let every thread that asks or waits to ask end with `StoppedError`, within a second or so."""
        self._patience.end()

    @property
    def kind(self) -> str | None:
        """Which kind of credential it asks with: `api-key`, `oauth` or `server-to-server`."""
        return self._credential.kind if self._credential else None

    @property
    def slow_seconds(self) -> float:
        """After how long an item should no longer keep others waiting."""
        return self._read_seconds

    @contextmanager
    def one_item(self) -> Iterator[Allowance]:
        """Limit the requests of this thread in the block to the time of one item: `IMPORT_PIPELINE_ITEM_TIMEOUT`.

        What is waited for the provider's limit does not count. Whatever is asked outside of this may take as long.
        """
        earlier: Allowance | None = getattr(self._present, "allowance", None)
        self._present.allowance = earlier or self._allow(is_item=True)
        try:
            yield self._present.allowance
        finally:
            self._present.allowance = earlier

    def add_base(self, url: str) -> None:
        """Let requests go to a part of the provider that a setting puts elsewhere, without the credential."""
        self._reach.add_base(url)

    def get_json(
        self, path: str, params: Mapping[str, Any] | None = None, *, budgets: Sequence[str] = ("requests",)
    ) -> JsonObject:
        """Get a JSON object.

        Args:
            path: Appended to the base address; or a whole address.
            params: Query parameters; None values are left out, lists repeated.
            budgets: The rate limits it counts for.

        Raises:
            HttpError: The provider refused; `status` says how. Also if it went on failing after all attempts.
            RateLimitedError: It asks for a silence longer than a run waits.
            ReconnectError: It does not accept the credential.
            SourceUnavailableError: It failed several requests in a row, so it is down.
        """
        answer: JsonObject = self._request("GET", path, params, budgets, read_object)
        return answer

    def get_bytes(self, url: str, params: Mapping[str, Any] | None = None) -> bytes:
        """Get the content of a file; see `get_json` for arguments and errors."""
        # A link that has run out is answered like a dead credential, and says nothing about ours.
        content: bytes = self._request(
            "GET", url, params, ("requests",), lambda response: response.content, proves_credential=False
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
            raises: Whether a refusal (4xx) is raised; otherwise it is returned.
            signs: Whether the credential is sent along.
            expects_json: Whether a success that is no JSON object counts as a broken answer.
        """

        def read(response: httpx.Response) -> httpx.Response:
            if expects_json and response.is_success:
                read_object(response)
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

    def pages(self, path: str, params: Mapping[str, Any], cursor: str, next_cursor: str) -> Iterator[JsonObject]:
        """Yield every page of a listing; from the beginning again if a page token has expired.

        Args:
            path: See `get_json`.
            params: Repeated unchanged with every page.
            cursor: The query parameter that asks for the next page.
            next_cursor: The field of an answer that holds its value; missing, null or empty on the last page.

        Raises:
            SourceUnavailableError: The listing leads in a circle, or its tokens expire again and again.
        """

        def get_page(asked: Mapping[str, Any]) -> JsonObject:
            page = self.get_json(path, asked)
            self.pages_read += 1
            return page

        return read_pages(get_page, self.title, params, cursor, next_cursor)

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
        allowance: Allowance = getattr(self._present, "allowance", None) or self._allow()
        if allowance.is_over or allowance.left <= 0:
            self._failures.note_slow(allowance)
            raise self._too_slow(allowance)
        is_renewed, answers_before = False, self._failures.answers

        def attempt() -> Any:
            nonlocal is_renewed
            request = self._client.build_request(method, url, headers=headers, content=content)
            is_signed = signs and self._sender.sign(request)
            what = self._redact(f"{method} {url.raw_path.partition(b'?')[0].decode('ascii')}")
            response, is_signed = self._sender.exchange(request, what, budgets, is_signed, allowance)
            is_ours = is_signed and proves_credential
            if response.status_code == 401 and is_ours and self._credential and not is_renewed:
                is_renewed = True
                if self._credential.renew(request):
                    return attempt()
            if response.is_success or (not raises and not may_pass(response.status_code)):
                try:
                    result = read(response)
                except ValueError as error:
                    problem = HttpError(f"{self.title} answered {what} with {error}.", error_class="transient")
                    raise TryAgain(problem, response.request.url) from None
                self._failures.note_answer(url, response.request.url)
                return result
            raise self._refusal(response, what, is_ours, budgets)

        try:
            return repeat(attempt, self._max_attempts, allowance, self._failures.note_slow, self._sleep)
        except TryAgain as last:
            raise self._given_up(last, budgets, allowance, answers_before) from None
        except HttpError as error:
            if error.status is not None:
                self._failures.note_answer(url)
            if isinstance(error, ReconnectError):
                self._refused = error
            raise

    def _allow(self, *, is_item: bool = False) -> Allowance:
        is_short = is_item and self._failures.are_many_slow
        seconds = min(self._item_seconds, self._read_seconds) if is_short else self._item_seconds
        return Allowance(seconds, LONGEST_WAIT_SECONDS)

    def _too_slow(self, allowance: Allowance, last: str = "") -> HttpError:
        """Return the error of an item or a request for which no time is left, with what went wrong last."""
        many = f" ({SLOW_ITEMS} others had taken too long)" if allowance.seconds < self._item_seconds else ""
        message = (
            f"{last} It took {self.title} longer than {allowance.seconds:g} seconds in all{many}; "
            "IMPORT_PIPELINE_ITEM_TIMEOUT is the limit."
        )
        return HttpError(message.strip(), error_class="transient")

    def _address(self, path: str, params: Mapping[str, Any] | None) -> httpx.URL:
        try:
            url = httpx.URL(path if re.match("https?://", path, re.IGNORECASE) else self.base_url + path)
            given = {name: value for name, value in (params or {}).items() if value is not None}
            if url.host:  # which cannot always be read
                return url.copy_merge_params(given) if given else url
        except (httpx.InvalidURL, ValueError):
            pass
        raise HttpError(f"{self.title} gave an address that is none.", error_class="data")

    def _refusal(self, response: httpx.Response, what: str, is_ours: bool, budgets: Sequence[str]) -> Exception:
        """Return what a refusal is: something to try again, a limit, or an error of its class."""
        status, budgets = response.status_code, self._sender.counted(budgets, response.request.url)
        code, told = describe_body(response, self._secrets())
        answer: Any = {"status": status, "code": code, "request_id": request_id(response, self._secrets())}
        message = f"{self.title} answered {what} with {status}{f': {told}' if told else ''}."
        asked, until = silence_asked(response), self._limit_ends_at(response)
        if until is not None:
            asked = max(0.0, (until - datetime.now(UTC)).total_seconds())
        if until is not None or may_pass(status):
            if asked:
                self._leave.block(asked, budgets)
            if asked and asked > LONGEST_WAIT_SECONDS:
                retry_at = datetime.now(UTC) + timedelta(seconds=asked)
                message = f"{message} It may be asked again from {retry_at:%Y-%m-%d %H:%M} UTC on."
                return RateLimitedError(message, **answer, retry_at=retry_at)
            error_class: ErrorClass = "rate" if status == 429 or until is not None else "transient"
            return TryAgain(HttpError(message, **answer, error_class=error_class), response.request.url, asked)
        if status == 401 and is_ours:
            message = f"{message} Run `{self._connect_command}` again."
            return ReconnectError(message, **answer)
        return HttpError(message, **answer, error_class="auth" if status in (401, 403) else "permanent")

    def _given_up(self, last: TryAgain, budgets: Sequence[str], allowance: Allowance, answers_before: int) -> Exception:
        """Return the error of a request that failed in all its attempts, or for which no time was left."""
        error = last.error
        if error.error_class == "rate":
            self._leave.block(SILENCE_AFTER_GIVING_UP_SECONDS, self._sender.counted(budgets, last.url))
            retry_at = datetime.now(UTC) + timedelta(seconds=SILENCE_AFTER_GIVING_UP_SECONDS)
            answer: Any = {"status": error.status, "code": error.code, "request_id": error.request_id}
            return RateLimitedError(str(error), **answer, retry_at=retry_at)
        failed = self._failures.note_failure(last.url, allowance, answers_before)
        if allowance.is_over:
            error = self._too_slow(allowance, str(error))
        if failed is not None:
            return SourceUnavailableError(f"{error} {failed} requests in a row failed like that.")
        return error

    def _secrets(self) -> Sequence[str]:
        return self._credential.secrets if self._credential else ()

    def _redact(self, text: str) -> str:
        return redact(text, self._secrets())


@cache
def _tls() -> ssl.SSLContext:
    """Return what certificates are checked against; reading it takes longer than a request."""
    return httpx.create_ssl_context()
