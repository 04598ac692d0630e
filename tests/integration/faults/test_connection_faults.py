"""The connection to PostgreSQL goes wrong while a batch is inserted: at every turn of the conversation."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest
import servers
from faults.conftest import OpenLibrary
from faults.library import FEW, Library, check_told
from faults.transactions import Point, Transactions, turns
from proxy import Action, Proxy

from import_pipeline.connectors.file_upload import FileUpload
from import_pipeline.database.opening import Database
from import_pipeline.database.tenancy import acting_as

LOST = "connection to the database was lost"
BATCH_IN_HAND = 2
FILES = FileUpload(is_of_command=True)
STRIDE = int(os.environ.get("FAULT_STRIDE", "2"))
"""Of how many points one is tried; 1 tries all."""


@pytest.fixture(scope="module")
def proxy(server: servers.Server) -> Iterator[Proxy]:
    with Proxy.before(server.url) as proxy:
        yield proxy


@contextmanager
def by_way_of(proxy: Proxy, library: Library) -> Iterator[Transactions]:
    """Let a library's runs go through the proxy."""
    direct = library.world.url
    library.world.url = proxy.through(direct)
    rule = Transactions()
    proxy.rules.append(rule)
    try:
        yield rule
    finally:
        proxy.rules.remove(rule)
        library.world.url = direct


def watch(proxy: Proxy, library: Library, files: Path) -> tuple[int, list[Point]]:
    """Import without a fault, and return which transaction inserted the second batch, with its messages."""
    library.connect("file-upload")
    with by_way_of(proxy, library) as rule:
        assert library.run(FILES, paths=[str(files)]).success
    return rule.find_insert(BATCH_IN_HAND)


def meet(proxy: Proxy, library: Library, files: Path, number: int, point: Point, action: Action) -> str | None:
    """Let a connection go wrong at one message, and run once more; None if that message was not sent this time."""
    library.connect("file-upload")
    met = []

    def act(each: Point) -> Action | None:
        if not each.is_same(point):
            return None
        met.append(each)
        return action

    with by_way_of(proxy, library) as rule:
        rule.watched, rule.act = number, act
        broken = library.run(FILES, paths=[str(files)])
    if not met:
        assert broken.success
        return None
    said = check_told(library, broken, f"{LOST}|has not answered", FEW)
    library.check(f"connection: {action}", str(point), said, FILES, FEW, paths=[str(files)])
    return said


@pytest.mark.long
def test_the_lost_answer_to_a_commit_makes_nothing_twice(
    open_library: OpenLibrary, proxy: Proxy, few_files: Path
) -> None:
    number, points = watch(proxy, open_library(), few_files)
    answer = next(point for point in points if point.sender == "server" and point.is_commit)
    assert LOST in (meet(proxy, open_library(), few_files, number, answer, "reset") or "")


@pytest.mark.long
@pytest.mark.parametrize("action", ["reset", "cut"])
def test_a_connection_that_ends_at_any_turn_of_an_insert_costs_nothing(
    action: Action, open_library: OpenLibrary, proxy: Proxy, few_files: Path
) -> None:
    number, points = watch(proxy, open_library(), few_files)
    sender = {"reset": "client", "cut": "server"}[action]
    chosen = [point for point in turns(points) if point.sender == sender]
    assert len(chosen) > 5
    tried = [*chosen[:-1:STRIDE], chosen[-1]]
    met = [meet(proxy, open_library(), few_files, number, point, action) for point in tried]
    assert met.count(None) <= 2, "the messages are not those of the run that was watched"


@pytest.mark.long
def test_a_connection_that_says_nothing_any_more_is_given_up(
    open_library: OpenLibrary, proxy: Proxy, few_files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """F49: nobody hangs up, and nothing comes."""
    number, points = watch(proxy, open_library(), few_files)
    monkeypatch.setattr("import_pipeline.database.connections.LONGEST_STATEMENT_SECONDS", 5.0)
    monkeypatch.setattr(
        "import_pipeline.database.tenancy.IDLE_IN_TRANSACTION_SECONDS", 1
    )  # the server does not notice either
    chosen = [point for point in turns(points) if point.sender == "server"]
    for point in chosen:  # wherever it is, the server must end the transaction and let its locks go
        said = meet(proxy, open_library(), few_files, number, point, "stall")
        assert said is None or "has not answered for 5 seconds" in said


@pytest.mark.long
def test_the_locks_of_a_run_that_the_network_cut_off_do_not_hold_up_the_next_one_for_hours(
    open_library: OpenLibrary, proxy: Proxy, few_files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server does not learn that its client is gone, and keeps the ids of the batch locked."""
    number, points = watch(proxy, open_library(), few_files)
    monkeypatch.setattr("import_pipeline.database.tenancy.IDLE_IN_TRANSACTION_SECONDS", 2)
    commit = next(point for point in points if point.sender == "client" and point.is_commit)  # it never arrives
    assert meet(proxy, open_library(), few_files, number, commit, "drop")


def test_a_server_that_says_nothing_from_the_start_is_told_in_bounded_time(
    library: Library, proxy: Proxy, few_files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("import_pipeline.database.connections.CONNECT_TIMEOUT_SECONDS", 1)
    library.connect("file-upload")
    with by_way_of(proxy, library):
        proxy.rules.insert(0, lambda _: "stall")
        try:
            broken = library.run(FILES, paths=[str(few_files)])
        finally:
            proxy.rules.pop(0)
            proxy.reset()
    said = check_told(library, broken, "could not be reached: connection timeout expired", FEW)
    library.check("connection: stalls at once", "before anything", said, FILES, FEW, paths=[str(few_files)])


def test_a_delay_makes_a_round_trip_longer_and_loses_nothing(server: servers.Server, proxy: Proxy) -> None:
    with psycopg.connect(proxy.through(server.url), autocommit=True) as conn:
        proxy.delay = 0.05
        began_at = time.monotonic()
        for _ in range(4):
            assert conn.execute("select 1").fetchone() == (1,)
        proxy.delay = 0.0
        assert time.monotonic() - began_at >= 0.4
        large = "x" * 3_000_000
        assert conn.execute("select %s::text", [large]).fetchone() == (large,)


def test_refusing_and_cutting_are_seen_by_the_client(server: servers.Server, proxy: Proxy) -> None:
    conn = psycopg.connect(proxy.through(server.url))
    proxy.refuse()
    with pytest.raises(psycopg.OperationalError, match="refused"):
        psycopg.connect(proxy.through(server.url))
    assert conn.execute("select 1").fetchone() == (1,), "what was open stays so"
    proxy.accept()
    proxy.cut()
    with pytest.raises(psycopg.OperationalError):
        conn.execute("select 1")
    psycopg.connect(proxy.through(server.url)).close()


def test_every_connection_of_ours_notices_a_peer_that_is_gone(server: servers.Server, proxy: Proxy) -> None:
    """F49: without these the kernel waits a quarter of an hour for an answer, and for ever where none is due."""
    with Database(proxy.through(server.url)).connect() as conn, socket.socket(fileno=os.dup(conn.fileno())) as raw:
        assert raw.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        if hasattr(socket, "TCP_KEEPIDLE"):
            idle, every = (raw.getsockopt(socket.IPPROTO_TCP, o) for o in (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL))
            assert idle + 3 * every <= 60
        if hasattr(socket, "TCP_USER_TIMEOUT"):
            assert raw.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 60_000


def test_the_server_notices_within_a_minute_that_the_client_of_a_transaction_is_cut_off() -> None:
    """Its timeout counts between statements only, not while it waits for the rest of one; the locks would stay."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with (
        servers.scratch_folder() as folder,
        servers.Server.created(
            servers.find_oldest_binaries(), folder, listen_addresses="127.0.0.1", port=str(port)
        ) as server,
        psycopg.connect(f"postgresql://postgres@127.0.0.1:{port}/postgres", autocommit=True) as conn,
    ):
        assert server.is_running
        conn.execute("create role import_worker")
        with acting_as(conn, None):
            idle, every, count = (
                int(
                    conn.execute(f"select setting from pg_settings where name = 'tcp_keepalives_{name}'").fetchall()[0][
                        0
                    ]
                )
                for name in ("idle", "interval", "count")
            )
    assert 0 < idle + every * count <= 60
