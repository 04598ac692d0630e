"""What PostgreSQL stands on and behind goes wrong while an import runs: its disk, its primary, the pooler before it."""

from __future__ import annotations

import random
import string
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import psycopg
import pytest
import servers
from commands import VTT
from faults.conftest import prepare
from faults.library import CALLS, MOMENTS, Library, at, check_told
from pooler import running_pooler
from proxy import Proxy

from import_pipeline.connectors.file_upload import FileUpload

pytestmark = pytest.mark.long

FETCHING, WRITING, SENDING = MOMENTS
MB = 1 << 20
BLOCK = 8192


@pytest.fixture(scope="module")
def server() -> Iterator[servers.Server]:
    """A server whose log is written in small files, so that a limit on files can spare it."""
    with (
        servers.scratch_folder() as folder,
        servers.Server.created(
            servers.find_oldest_binaries(), folder, "--wal-segsize=1", max_connections="20", restart_after_crash="off"
        ) as server,
    ):
        prepare(server)
        yield server


def meet(
    library: Library,
    name: str,
    moment: str,
    files: Path,
    begin: Callable[[], object],
    end: Callable[[], object],
    words: str,
    monkeypatch: pytest.MonkeyPatch,
) -> str:
    """Let a run meet a fault in its second or third batch, and after the end of the fault run once more."""
    library.connect("file-upload")
    has_come = at(monkeypatch, moment, begin, call={FETCHING: 8, WRITING: 2, SENDING: 3}[moment])
    try:
        broken = library.run(FileUpload(is_of_command=True), paths=[str(files)])
    finally:
        end()
    assert has_come()
    said = check_told(library, broken, words, CALLS)
    library.check(name, moment, said, FileUpload(is_of_command=True), CALLS, paths=[str(files)])
    return said


def limit_files(server: servers.Server, size: int | str) -> None:
    """Let no file of a server's processes grow beyond a size.

    To PostgreSQL this is what a full disk is: the kernel writes less of a block than it was given. It needs no right to
    mount a small disk, only that of the server's own account.
    """
    postmaster = psutil.Process(server.pid)
    server.run("/usr/bin/prlimit", "--pid", str(server.pid), f"--fsize={size}:unlimited")
    for process in postmaster.children():
        with suppress(RuntimeError):  # it has ended meanwhile
            server.run("/usr/bin/prlimit", "--pid", str(process.pid), f"--fsize={size}:unlimited")


@pytest.fixture
def large_files(tmp_path: Path) -> Path:
    """Calls that take more room than the limit leaves, of words that cannot be compressed away."""
    folder = tmp_path / "large"
    folder.mkdir()
    letters = random.Random(1)  # noqa: S311 - no secret
    for number in range(CALLS):
        text = " ".join("".join(letters.choices(string.ascii_letters, k=9)) for _ in range(20_000))
        (folder / f"call {number:04d}.vtt").write_text(VTT.format(text=f"{number} {text}"))
    return folder


def test_a_full_disk_is_told_as_such_and_no_item_is_blamed_for_it(
    library: Library, server: servers.Server, large_files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fill() -> None:
        with psycopg.connect(library.owner_url) as conn:
            (size,) = conn.execute(
                "select pg_relation_size(reltoastrelid) from pg_class where oid = 'public.recordings'::regclass"
            ).fetchone() or (0,)
        assert size > MB, "else the limit would meet the log first"
        limit_files(server, size + 3 * BLOCK + BLOCK // 2)

    said = meet(
        library,
        "disk full: tables cannot grow",
        SENDING,
        large_files,
        fill,
        lambda: limit_files(server, "unlimited"),
        "its disk is full; free some space there",
        monkeypatch,
    )
    assert "53100" in said


def test_a_disk_on_which_not_even_the_log_can_be_written_stops_the_server_and_loses_nothing(
    library: Library, server: servers.Server, files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def free() -> None:
        if server.is_running:
            server.stop("immediate")
        server.start()

    meet(
        library,
        "disk full: the server crashes",
        WRITING,
        files,
        lambda: limit_files(server, 4096),
        free,
        "connection to the database was lost|could not be reached",
        monkeypatch,
    )


@contextmanager
def standby_of(server: servers.Server) -> Iterator[servers.Server]:
    """Run a hot standby of a server."""
    with servers.scratch_folder() as folder:
        standby = servers.Server(server.binaries, folder, dict(server.options))
        standby.give_to_account()
        source = ["-h", str(server.folder), "-U", "postgres"]
        standby.run("pg_basebackup", *source, "-D", str(standby.data), "-R", "-c", "fast", "--no-sync")
        standby.start()
        try:
            yield standby
        finally:
            standby.stop("immediate")


def test_a_primary_that_is_lost_is_followed_by_its_standby_once_that_is_promoted(
    library: Library, server: servers.Server, files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with standby_of(server) as standby, Proxy.before(server.url) as proxy:
        library.world.url = proxy.through(library.world.url)
        primary_url = library.owner_url
        library.owner_url = servers.with_database(standby.url, primary_url.rpartition("/")[2].partition("?")[0])

        def fail_over() -> None:
            server.stop("immediate")
            proxy.lead_to(standby.url)

        def promote() -> None:
            with psycopg.connect(standby.url, autocommit=True) as conn:
                conn.execute("select pg_promote()")

        library.connect = lambda source_app: None  # type: ignore[method-assign] # the standby takes no writes yet
        with psycopg.connect(primary_url, autocommit=True) as conn:
            conn.execute(
                "insert into public.import_sources (user_id, source_app) values (%s, 'file-upload')", [library.user.id]
            )
        words = "read only at present"
        meet(library, "primary lost, standby", FETCHING, files, fail_over, promote, words, monkeypatch)
    server.start()


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_pooler_that_is_killed_and_started_again_costs_the_batch_in_hand_at_most(
    moment: str, library: Library, files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with running_pooler(library.owner_url) as pooler:
        library.world.url = pooler.url(library.owner_url)

        def kill() -> None:
            pooler.kill()
            pooler.start(library.owner_url)

        words = "connection to the database was lost"
        meet(library, "PgBouncer killed and started", moment, files, kill, lambda: None, words, monkeypatch)


def test_a_pooler_that_is_gone_is_told_as_a_database_that_cannot_be_reached(
    library: Library, files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with running_pooler(library.owner_url) as pooler:
        library.world.url = pooler.url(library.owner_url)
        words = "could not be reached.*refused"
        meet(
            library,
            "PgBouncer gone until the run is over",
            WRITING,
            files,
            pooler.kill,
            lambda: pooler.start(library.owner_url),
            words,
            monkeypatch,
        )
