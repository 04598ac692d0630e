"""A process that uses the embedded server, to be killed, forked and disguised by test_embedded.py.

`embedded_abuse.py WHAT HOME [USER_ID]`; with a user id it becomes that user first. Speaks in lines: "open <url>" when
it has a server, "done" at its end, "refused <message>" for an error of ours. It ends when its input does.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

import psycopg

import import_pipeline.database.embedded.cluster  # noqa: F401 - loaded before the user changes, who may not be able to
from import_pipeline.database.embedded import open_server
from import_pipeline.errors import EmbeddedServerError


def say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def hold(home: Path) -> None:
    """Use the server until the input ends, then give it back."""
    with open_server(home) as server:
        say(f"open {server.url()}")
        sys.stdin.read()
    say("done")


def forget(home: Path) -> None:
    """Never close."""
    say(f"open {open_server(home).url()}")
    sys.stdin.read()


def obey(home: Path) -> None:
    """End normally on SIGTERM, without closing."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    say(f"open {open_server(home).url()}")
    while True:
        time.sleep(0.05)


def loop(home: Path) -> None:
    """Open, write, close, again and again: whoever closes last meets whoever opens next."""
    for _ in range(8):
        with open_server(home) as server, psycopg.connect(server.url(), connect_timeout=10) as connection:
            connection.execute("insert into visits values (%s)", [os.getpid()])
    say("done")


def fork(home: Path) -> None:
    """Fork a child that uses the handle, closes it and ends the way a whole interpreter does."""
    server = open_server(home)
    child = os.fork()
    if child == 0:
        with psycopg.connect(server.url()) as connection:
            connection.execute("select 1")
        server.ensure_running()
        server.close()
        sys.exit(0)
    os.waitpid(child, 0)
    say(f"open {server.url()}")
    sys.stdin.read()
    with psycopg.connect(server.url()) as connection:
        connection.execute("select 1")
    server.close()
    say("done")


def orphan(home: Path) -> None:
    """Fork a child that outlives us and never heard of the server."""
    server = open_server(home)
    child = os.fork()
    if child == 0:
        time.sleep(30)
        os._exit(0)
    say(f"open {server.url()}")
    say(f"child {child}")
    sys.stdin.read()


def idle_in_transaction(home: Path) -> None:
    """Leave a transaction open, without using the server in the sense of a lock."""
    with psycopg.connect(home.read_text()) as connection:
        connection.execute("create table half_done (n int)")
        say("open")
        sys.stdin.read()


def connect(address: Path) -> None:
    """Try to get in by the address in a file."""
    try:
        with psycopg.connect(address.read_text(), connect_timeout=5) as connection:
            say(f"open {connection.execute('select current_user').fetchone()}")
    except psycopg.OperationalError as error:
        say(f"refused {' '.join(str(error).split())}")


if __name__ == "__main__":
    action = globals()[sys.argv[1]]
    if len(sys.argv) > 3:
        os.setgroups([])
        os.setgid(int(sys.argv[3]))
        os.setuid(int(sys.argv[3]))
    try:
        action(Path(sys.argv[2]))
    except EmbeddedServerError as error:
        say(f"refused {' '.join(str(error).split())}")
