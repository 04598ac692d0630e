"""A TCP proxy that goes wrong on purpose: it delays, cuts, resets, stalls and refuses what passes through it.

Between our software and PostgreSQL, or any other server:

    with Proxy("127.0.0.1", 5432, protocol="postgres") as proxy:
        url = proxy.through(database_url)        # the same address, by way of the proxy
        proxy.delay = 0.005                      # seconds added in each direction: 10 ms a round trip
        proxy.refuse(); proxy.accept()           # new connections
        proxy.cut(); proxy.reset(); proxy.stall()  # all that are open: FIN, RST, no byte any more
        proxy.rules.append(lambda event: "reset" if event.number == 40 else None)

A rule is asked about every event, in the order in which they reach the proxy: with `protocol="postgres"` each message
of either side (a message's kind is its first byte; a start-up message has none), else each chunk of bytes. The first
rule that returns an action decides; the event itself is not passed on then. So `reset` at the server's answer to COMMIT
loses the answer to what has been done. `drop` ends the side towards the client only and leaves the server alone with
its open connection, as a lost network does. A rule may also do something of its own, kill a process for instance, and
return None. It runs in the thread of the proxy and holds up everything that passes until it returns.

What was sent is passed on byte by byte as it came; nothing is answered by the proxy itself. TLS would hide the
messages, so `through` switches it off. Not here: what the faults are for.
"""

from __future__ import annotations

import asyncio
import socket
import struct
import threading
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Literal
from urllib.parse import parse_qsl, quote, urlencode, urlsplit

Side = Literal["client", "server"]
Action = Literal["cut", "reset", "stall", "drop"]


@dataclass(frozen=True)
class Event:
    """Something that is about to be passed on.

    Attributes:
        number: Of all events of the proxy, from 1.
        connection: Number of the connection, from 1.
        sender: Who sent it.
        kind: The first byte of a PostgreSQL message, empty for start-up messages and bytes of other protocols.
        data: All of it.
        sent: Bytes that this side of the connection has sent before.
    """

    number: int
    connection: int
    sender: Side
    kind: str
    data: bytes
    sent: int


Rule = Callable[[Event], Action | None]
_Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Proxy:
    """Stands before a server, from `with` on; see the module.

    Args:
        host: Where the server listens; a path beginning with `/` is a Unix socket.
        port: Its port.
        protocol: `postgres` for rules about messages; None for rules about bytes.
    """

    def __init__(self, host: str, port: int = 0, protocol: Literal["postgres"] | None = None) -> None:
        self.upstream: tuple[str, int] = (host, port)
        self.delay = 0.0
        self.delay_to_server: float | None = None
        self.delay_to_client: float | None = None
        self.rules: list[Rule] = []
        self.port = 0
        self.connections = 0
        self._protocol = protocol
        self._events = 0
        self._open: set[_Connection] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)
        self._listener: asyncio.Server | None = None

    @classmethod
    def before(cls, database_url: str) -> Proxy:
        """Return one for the PostgreSQL server of an address, whether it listens on a port or on a Unix socket."""
        return cls(*_find_server(database_url), protocol="postgres")

    def through(self, url: str) -> str:
        """Return an address with the proxy in the server's place."""
        parts = urlsplit(url)
        user = f"{parts.username}{f':{parts.password}' if parts.password else ''}@" if parts.username else ""
        query = parts.query
        if self._protocol == "postgres":
            kept = [(name, value) for name, value in parse_qsl(query) if name not in ("host", "port", "hostaddr")]
            query = urlencode([*kept, ("sslmode", "disable"), ("gssencmode", "disable")], quote_via=quote)
        return parts._replace(netloc=f"{user}127.0.0.1:{self.port}", query=query).geturl()

    def lead_to(self, database_url: str) -> None:
        """Connect to another server from now on, as an address that fails over does."""
        self.upstream = _find_server(database_url)

    def refuse(self) -> None:
        """Refuse new connections."""
        self._call(self._stop_listening())

    def accept(self) -> None:
        """Accept new connections again, at the same port."""
        self._call(self._listen())

    def cut(self) -> None:
        """End all open connections cleanly."""
        self._apply("cut")

    def reset(self) -> None:
        """Reset all open connections."""
        self._apply("reset")

    def stall(self) -> None:
        """Pass nothing on any more, on all open connections; they stay open."""
        self._apply("stall")

    def __enter__(self) -> Proxy:
        """Begin to listen."""
        self._thread.start()
        self._call(self._listen())
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc_value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """End everything."""
        self._call(self._stop_listening())
        self._apply("reset")
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _call(self, work: Coroutine[None, None, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(timeout=30)

    async def _listen(self) -> None:
        if self._listener is None:
            self._listener = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
            self.port = self._listener.sockets[0].getsockname()[1]

    async def _stop_listening(self) -> None:
        if self._listener is not None:
            self._listener.close()  # what is open stays so
            self._listener = None

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        host, port = self.upstream
        try:
            opened = asyncio.open_unix_connection(host) if host.startswith("/") else asyncio.open_connection(host, port)
            upstream = await opened
        except OSError:
            _reset(writer)
            return
        self.connections += 1
        connection = _Connection(self, self.connections, (reader, writer), upstream)
        self._open.add(connection)
        try:
            await connection.run()
        finally:
            self._open.discard(connection)

    def _apply(self, action: Action) -> None:
        async def apply() -> None:
            for connection in list(self._open):
                connection.act(action)
            await asyncio.sleep(0)

        self._call(apply())

    def _judge(self, connection: int, sender: Side, kind: str, data: bytes, sent: int) -> Action | None:
        self._events += 1
        event = Event(self._events, connection, sender, kind, data, sent)
        return next((action for rule in list(self.rules) if (action := rule(event))), None)

    def _delay_of(self, sender: Side) -> float:
        own = self.delay_to_server if sender == "client" else self.delay_to_client
        return self.delay if own is None else own


class _Connection:
    """One connection: two pumps, each with a queue of what is to be delivered when."""

    def __init__(
        self,
        proxy: Proxy,
        number: int,
        client: _Streams,
        server: _Streams,
    ) -> None:
        self._proxy = proxy
        self._number = number
        self._client, self._server = client, server
        self._is_stalled = False
        self._over = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    async def run(self) -> None:
        """Pass on until both sides, or a rule, have ended it."""
        sides: tuple[tuple[Side, _Streams, _Streams], ...] = (
            ("client", self._client, self._server),
            ("server", self._server, self._client),
        )
        for sender, source, target in sides:
            queue: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()
            self._tasks.append(asyncio.create_task(self._read(sender, source[0], queue)))
            self._tasks.append(asyncio.create_task(self._deliver(queue, target[1])))
        await self._over.wait()
        for task in self._tasks:
            task.cancel()
        self._server[1].close()

    def act(self, action: Action) -> None:
        """Do one of the actions to this connection."""
        match action:
            case "stall":
                self._is_stalled = True
            case "drop":
                _reset(self._client[1])
                self._is_stalled = True
            case "reset":
                _reset(self._client[1])
                self._over.set()
            case "cut":
                self._client[1].close()
                self._over.set()

    async def _read(
        self, sender: Side, reader: asyncio.StreamReader, queue: asyncio.Queue[tuple[float, bytes]]
    ) -> None:
        sent = 0
        with suppress(ConnectionError):
            async for kind, data in _split(reader, sender, self._proxy._protocol):
                action = None if self._is_stalled else self._proxy._judge(self._number, sender, kind, data, sent)
                sent += len(data)
                if action:
                    self.act(action)
                if self._is_stalled or action:
                    continue  # read, so that the sender sees nothing of it, and given to nobody
                queue.put_nowait((self._proxy._loop.time() + self._proxy._delay_of(sender), data))
        if not self._is_stalled:
            queue.put_nowait((self._proxy._loop.time() + self._proxy._delay_of(sender), b""))

    async def _deliver(self, queue: asyncio.Queue[tuple[float, bytes]], writer: asyncio.StreamWriter) -> None:
        while True:
            at, data = await queue.get()
            pause = at - self._proxy._loop.time()
            if pause > 0:
                await asyncio.sleep(pause)
            if not data or self._over.is_set():
                break
            try:
                writer.write(data)
                await writer.drain()
            except (ConnectionError, RuntimeError):
                break
        with suppress(ConnectionError, RuntimeError):
            writer.close()
        self._over.set()


async def _split(
    reader: asyncio.StreamReader, sender: Side, protocol: Literal["postgres"] | None
) -> AsyncIterator[tuple[str, bytes]]:
    """Yield messages (or, without a protocol, chunks) with their kind, as they come."""
    is_starting = sender == "client"
    with suppress(asyncio.IncompleteReadError):
        while True:
            if protocol is None:
                data = await reader.read(1 << 16)
                if not data:
                    return
                yield "", data
                continue
            head = await reader.readexactly(4 if is_starting else 5)
            (length,) = struct.unpack("!I", head[-4:])
            data = head + await reader.readexactly(length - 4)
            yield "" if is_starting else chr(head[0]), data
            is_starting = False


def _reset(writer: asyncio.StreamWriter) -> None:
    raw = writer.get_extra_info("socket")
    if raw is not None and raw.fileno() >= 0:
        # Lingering for nought seconds is what makes the kernel send RST instead of FIN.
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


def _find_server(database_url: str) -> tuple[str, int]:
    parts = urlsplit(database_url)
    asked = dict(parse_qsl(parts.query))
    host, port = asked.get("host") or parts.hostname or "127.0.0.1", int(asked.get("port") or parts.port or 5432)
    return (f"{host}/.s.PGSQL.{port}", 0) if host.startswith("/") else (host, port)
