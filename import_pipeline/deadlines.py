"""What httpx lacks: a bound on the whole of a request, and an end to all waiting when a run is stopped.

Its timeouts begin anew with every byte that trickles in, and no other thread can end them. The sockets of a client are
asked to give up when the deadline of the present thread has passed, or its patience was ended.
"""

from __future__ import annotations

import math
import ssl
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import httpcore
import httpx

from import_pipeline.errors import StoppedError

_LOOK_SECONDS = 1.0
_SHORTEST_SECONDS = 0.001  # nought would mean not to wait at all, which is another error
_present = threading.local()


class Patience:
    """Waits, in any thread, until it is ended from another one."""

    def __init__(self) -> None:
        self._ended = threading.Event()

    def sleep(self, seconds: float) -> None:
        """Wait.

        Raises:
            StoppedError: It was ended before or meanwhile.
        """
        if self._ended.wait(seconds):
            raise StoppedError

    def check(self) -> None:
        """Raise `StoppedError` if it was ended."""
        self.sleep(0)

    def end(self) -> None:
        """Wake whoever waits."""
        self._ended.set()


@contextmanager
def deadline(seconds: float, patience: Patience | None = None) -> Iterator[None]:
    """Let whatever this thread does with a bounded client raise `httpx.TimeoutException` after so many seconds.

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


def bound_total_time(client: httpx.Client) -> None:
    """Make a client heed `deadline`, through whatever proxy its environment demands."""
    for transport in (client._transport, *client._mounts.values()):
        pool = getattr(transport, "_pool", None)
        if pool is not None:
            pool._network_backend = _Backend(pool._network_backend)


def _remaining(timeout: float | None, exceeded: type[Exception]) -> float | None:
    ends_at = getattr(_present, "ends_at", None)
    if ends_at is None:
        return timeout
    left: float = ends_at - time.monotonic()
    if left <= 0:
        raise exceeded("The deadline of the request has passed.")
    return left if timeout is None else min(timeout, left)


class _Backend(httpcore.NetworkBackend):
    def __init__(self, inner: httpcore.NetworkBackend) -> None:
        self._inner = inner

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.NetworkStream:
        timeout = _remaining(timeout, httpcore.ConnectTimeout)
        return _Stream(self._inner.connect_tcp(host, port, timeout, local_address, socket_options))

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
        patience: Patience | None = getattr(_present, "patience", None)
        if patience is None:
            return self._inner.read(max_bytes, _remaining(timeout, httpcore.ReadTimeout))
        ends_at = time.monotonic() + (math.inf if timeout is None else timeout)
        while True:
            patience.check()
            left = _remaining(ends_at - time.monotonic(), httpcore.ReadTimeout) or 0.0
            try:
                return self._inner.read(max_bytes, max(_SHORTEST_SECONDS, min(left, _LOOK_SECONDS)))
            except httpcore.ReadTimeout:
                if left <= _LOOK_SECONDS:
                    raise

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
