"""One attempt: signed, sent to where it may go, followed through redirects, and read whole within its time."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Sequence

import httpx

from import_pipeline.errors import HttpError
from import_pipeline.providers.error_answers import may_pass, redact, silence_asked
from import_pipeline.providers.http.addresses import ForbiddenAddressError, Reach, origin
from import_pipeline.providers.http.answers import read_whole
from import_pipeline.providers.http.contract import Credential, TryAgain
from import_pipeline.providers.http.failures import Failures
from import_pipeline.providers.http.leave import Leave
from import_pipeline.providers.timeouts import Allowance, Patience, deadline

MAX_REDIRECTS = 5


class Sender:
    """Sends for one client; see `HttpClient` for what it is given."""

    def __init__(
        self,
        title: str,
        client: httpx.Client,
        credential: Credential | None,
        reach: Reach,
        leave: Leave,
        failures: Failures,
        patience: Patience,
        *,
        total_seconds: float,
        max_bytes: int,
    ) -> None:
        self._title = title
        self._client = client
        self._credential = credential
        self._reach = reach
        self._leave = leave
        self._failures = failures
        self._patience = patience
        self._total_seconds = total_seconds
        self._max_bytes = max_bytes

    def sign(self, request: httpx.Request) -> bool:
        """Put the credential into a request, if it goes to where that may be sent; say whether it does."""
        if self._credential is None or not self._reach.is_trusted(request.url):
            return False
        self._credential.sign(request)
        return True

    def exchange(
        self, request: httpx.Request, what: str, budgets: Sequence[str], is_signed: bool, allowance: Allowance
    ) -> tuple[httpx.Response, bool]:
        """Send a request and follow redirects; return the answer, and whether it is one to our credential."""
        for _ in range(MAX_REDIRECTS + 1):
            response = self._send_once(request, what, self.counted(budgets, request.url), allowance)
            if response.next_request is None:
                return response, is_signed
            earlier, request = request, response.next_request
            if origin(request.url) != origin(earlier.url):
                if request.method not in ("GET", "HEAD"):  # its body holds what is for the origin only
                    raise HttpError(f"{self._title} redirects {what} to another host.", error_class="permanent")
                is_signed = False
                self._take_secrets_from(request)
                budgets = ()  # the provider has answered: it counts no download from where it keeps its files
            elif is_signed:
                self.sign(request)  # the new address lacks what was in the query
        raise HttpError(f"{self._title} redirects {what} again and again.", error_class="permanent")

    def counted(self, budgets: Sequence[str], url: httpx.URL) -> Sequence[str]:
        """Return the budgets of a request: no other host counts it, nor may one ask for silence at the provider."""
        return budgets if self._reach.is_own(url) else ()

    def _take_secrets_from(self, request: httpx.Request) -> None:
        secrets = self._credential.secrets if self._credential else ()
        for name, value in request.headers.items():
            if name == "authorization" or redact(value, secrets) != value:
                del request.headers[name]
        params = request.url.params.multi_items()
        kept = [(name, value) for name, value in params if redact(value, secrets) == value]
        if kept != params:
            request.url = request.url.copy_with(params=kept)

    def _send_once(
        self, request: httpx.Request, what: str, budgets: Sequence[str], allowance: Allowance
    ) -> httpx.Response:
        self._patience.check()
        where = request.url.netloc.decode("ascii", "replace")
        if self._failures.is_dead(request.url):
            message = f"{where}, to which {self._title} leads, did not answer others before, so it was not asked."
            raise HttpError(message, error_class="transient")
        try:
            self._reach.check(request.url)
            with allowance.paused():
                permit = self._leave.wait(budgets)
            try:
                with deadline(min(self._total_seconds, allowance.left), self._patience):
                    response = self._client.send(request, stream=True)
                    if may_pass(response.status_code) and (asked := silence_asked(response)):
                        self._leave.note_silence(asked, budgets)
                    try:
                        whole = read_whole(response, self._max_bytes, f"{self._title} answered {what}")
                    finally:
                        response.close()
            finally:
                self._leave.note_answered(permit)
        except ForbiddenAddressError as error:
            message = f"{self._title} leads {error}, which is not followed."
            raise HttpError(message, error_class="permanent") from None
        except (httpx.InvalidURL, httpx.UnsupportedProtocol, httpx.LocalProtocolError, UnicodeError):
            message = f"{self._title} cannot be asked {what}: an address or header is malformed."
            raise HttpError(message) from None
        except (httpx.TransportError, EOFError, gzip.BadGzipFile, zlib.error) as error:
            kind = "in time" if isinstance(error, httpx.TimeoutException) else f"whole ({type(error).__name__})"
            message = f"{self._title} did not answer {what} {kind}."
            if isinstance(error, httpx.ConnectError):
                message = f"{self._title} could not be reached at {where}."
            raise TryAgain(HttpError(message, error_class="transient"), request.url) from None
        self._leave.heed_remaining(whole, permit)
        return whole
