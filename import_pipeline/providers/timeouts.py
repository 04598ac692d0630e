"""What httpx lacks: a bound on the whole of a request, and an end to all waiting when a run is stopped.

Its timeouts begin anew with every byte that trickles in, and no other thread can end them. The sockets of a client are
asked to give up when the deadline of the present thread has passed, or its patience was ended. Names are looked up here
too, so that this is bounded as well, and a caller can choose among the addresses before any is connected to.
"""

from __future__ import annotations

import math
import queue
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import httpcore
import httpx

from import_pipeline.errors import StoppedError

_LOOK_SECONDS = 1.0
_SHORTEST_SECONDS = 0.001  # nought would mean not to wait at all, which is another error
_present = threading.local()

Choose = Callable[[str, int, Sequence[str]], Sequence[str]]
"""Given a host, a port and the host's addresses, returns those that may be connected to, in their order."""


class Allowance:
    """How long something may take in all, from now on.

    Args:
        seconds: So long.
        uncounted_seconds: So much of what is waited for somebody's limit does not count.

    Attributes:
        seconds: As given.
        has_failed: Noted by its user: something failed.
        is_over: Noted by its user: it was too short.
    """

    def __init__(self, seconds: float, uncounted_seconds: float = 0.0) -> None:
        self.seconds = seconds
        self.has_failed = self.is_over = False
        self._uncounted_seconds = uncounted_seconds
        self._began_at = time.monotonic()
        self._paused_at: float | None = None

    @property
    def spent(self) -> float:
        """How many seconds have passed that count; another thread may ask."""
        return (self._paused_at or time.monotonic()) - self._began_at

    @property
    def left(self) -> float:
        """How many seconds are left; negative when there are none."""
        return self.seconds - self.spent

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Do not count what happens here."""
        paused_at = self._paused_at = time.monotonic()
        try:
            yield
        finally:
            uncounted = min(time.monotonic() - paused_at, self._uncounted_seconds)
            self._uncounted_seconds -= uncounted
            self._began_at += uncounted
            self._paused_at = None


class Patience:
    """Waits, in any thread, until it is ended from another one."""

    def __init__(self) -> None:
        self._ended = threading.Event()

    def sleep(self, seconds: float) -> None:
        """Wait.

        Raises:
            StoppedError: It was ended, before the call or during it.
        """
        if self._ended.wait(seconds):
            raise StoppedError

    def check(self) -> None:
        """Raise `StoppedError` if it was ended."""
        self.sleep(0)

    def end(self) -> None:
        """Wake all that wait."""
        self._ended.set()


@contextmanager
def deadline(seconds: float, patience: Patience | None = None) -> Iterator[None]:
    """Set a deadline for all requests of this thread; they raise `httpx.TimeoutException` after it.

    Args:
        seconds: From now on.
        patience: When it is ended, waiting for an answer raises `StoppedError`.
    """
    _present.ends_at = time.monotonic() + seconds
    _present.patience = patience
    try:
        yield
    finally:
        _present.ends_at = _present.patience = None


def require_time() -> None:
    """Raise what a request of this thread would raise now: for work between requests that nothing else interrupts."""
    _remaining(None, httpx.ReadTimeout)
    patience: Patience | None = getattr(_present, "patience", None)
    if patience is not None:
        patience.check()


def bound_total_time(client: httpx.Client, choose: Choose | None = None) -> None:
    """Make a client obey `deadline`, also through a proxy of the environment.

    Args:
        client: The client.
        choose: Asked about every connection but those to a proxy.
    """
    for transport in (client._transport, *client._mounts.values()):
        pool = getattr(transport, "_pool", None)
        if pool is not None:
            pool._network_backend = _Backend(pool._network_backend, choose if transport is client._transport else None)


def _remaining(timeout: float | None, exceeded: type[Exception]) -> float | None:
    ends_at = getattr(_present, "ends_at", None)
    if ends_at is None:
        return timeout
    left: float = ends_at - time.monotonic()
    if left <= 0:
        raise exceeded("The deadline of the request has passed.")
    return left if timeout is None else min(timeout, left)


def _look_up(host: str, port: int, timeout: float | None) -> Sequence[str]:
    """Return the addresses of a host. In a thread that is left behind: the system's own call knows no deadline."""
    answer: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def ask() -> None:
        try:
            answer.put([str(entry[4][0]) for entry in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)])
        except (OSError, UnicodeError) as error:
            answer.put(error)

    threading.Thread(target=ask, name="look-up", daemon=True).start()
    found = _wait(answer.get, timeout, queue.Empty, httpcore.ConnectTimeout)
    if isinstance(found, OSError):
        raise httpcore.ConnectError(str(found)) from None
    if isinstance(found, UnicodeError):
        raise found
    return list(dict.fromkeys(found))


def _wait(
    take: Callable[..., Any], timeout: float | None, too_early: type[Exception], exceeded: type[Exception]
) -> Any:
    """Wait in short steps, between which it is looked whether somebody still wants to wait."""
    patience: Patience | None = getattr(_present, "patience", None)
    ends_at = time.monotonic() + (math.inf if timeout is None else timeout)
    while True:
        if patience is not None:
            patience.check()
        left = _remaining(ends_at - time.monotonic(), exceeded) or 0.0
        try:
            return take(timeout=max(_SHORTEST_SECONDS, min(left, _LOOK_SECONDS)))
        except too_early:
            if left <= _LOOK_SECONDS:
                raise exceeded("The deadline of the request has passed.") from None


class _Backend(httpcore.NetworkBackend):
    def __init__(self, inner: httpcore.NetworkBackend, choose: Choose | None) -> None:
        self._inner = inner
        self._choose = choose

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.NetworkStream:
        # The address that was looked at is the one that is connected to; certificates are still checked by the name.
        addresses = self._choose(host, port, _look_up(host, port, timeout)) if self._choose else [host]
        problem: Exception = httpcore.ConnectError("The host has no address.")
        for address in addresses:
            remaining = _remaining(timeout, httpcore.ConnectTimeout)
            try:
                return _Stream(self._inner.connect_tcp(address, port, remaining, local_address, socket_options))
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                problem = error
        raise problem

    def connect_unix_socket(
        self, path: str, timeout: float | None = None, socket_options: Iterable[Any] | None = None
    ) -> httpcore.NetworkStream:
        timeout = _remaining(timeout, httpcore.ConnectTimeout)
        return _Stream(self._inner.connect_unix_socket(path, timeout, socket_options))

    def sleep(self, seconds: float) -> None:
        self._inner.sleep(seconds)


class _Stream(httpcore.NetworkStream):
    def __init__(self, inner: httpcore.NetworkStream) -> None:
        self._inner = inner

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        if getattr(_present, "patience", None) is None:
            return self._inner.read(max_bytes, _remaining(timeout, httpcore.ReadTimeout))
        received: bytes = _wait(
            lambda timeout: self._inner.read(max_bytes, timeout), timeout, httpcore.ReadTimeout, httpcore.ReadTimeout
        )
        return received

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._inner.write(buffer, _remaining(timeout, httpcore.WriteTimeout))

    def close(self) -> None:
        self._inner.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        timeout = _remaining(timeout, httpcore.ConnectTimeout)
        return _Stream(self._inner.start_tls(ssl_context, server_hostname, timeout))

    def get_extra_info(self, info: str) -> Any:
        return self._inner.get_extra_info(info)
