"""PgBouncer in transaction mode for tests: every transaction may meet another of a few server sessions."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import psycopg
import servers

SESSIONS = 3
_CONFIG = """
[databases]
* = host={host} user=postgres
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = any
pool_mode = transaction
default_pool_size = {sessions}
server_round_robin = 1
ignore_startup_parameters = extra_float_digits
"""


@dataclass
class Pooler:
    """A pooler before the server of some database; see `running_pooler`."""

    program: str
    config: Path
    port: int
    process: subprocess.Popen[bytes] | None = None

    def url(self, database_url: str) -> str:
        """Return the address of a database of its server through it."""
        return f"postgresql://postgres@127.0.0.1:{self.port}{urlsplit(database_url).path}"

    def start(self, database_url: str) -> None:
        """Start it and wait until the database can be reached through it."""
        account = servers.unprivileged_account() if os.geteuid() == 0 else None
        self.process = subprocess.Popen(
            [self.program, str(self.config)],
            user=account,
            extra_groups=[] if account else None,
            stderr=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + 20
        while True:
            try:
                psycopg.connect(self.url(database_url), prepare_threshold=None).close()
                return
            except psycopg.OperationalError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.05)

    def kill(self) -> None:
        """End it without a word to anybody."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None


@contextmanager
def running_pooler(database_url: str) -> Iterator[Pooler]:
    """Run a pooler before the server of a database.

    Raises:
        FileNotFoundError: PgBouncer is not installed; the message says how to get it.
    """
    program = shutil.which("pgbouncer", path=os.environ["PATH"] + ":/usr/sbin:/usr/local/sbin")
    if program is None:
        raise FileNotFoundError("This test needs PgBouncer: apt-get install pgbouncer")
    with servers.scratch_folder() as folder:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        config = folder / "pgbouncer.ini"
        host = parse_qs(urlsplit(database_url).query)["host"][0]
        config.write_text(_CONFIG.format(host=host, port=port, sessions=SESSIONS))
        if os.geteuid() == 0:
            shutil.chown(folder, servers.unprivileged_account())
            config.chmod(0o644)
        pooler = Pooler(program, config, port)
        try:
            pooler.start(database_url)
            yield pooler
        finally:
            pooler.kill()
