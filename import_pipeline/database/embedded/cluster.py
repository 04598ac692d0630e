"""One server as this process sees it: joining it, starting it, proving that it answers, stopping it as its last user.

Three locks in `HOME/postgres`, beside the data directory:
- `open.lock`, held alone by a process that changes anything: starts, repairs, stops;
- `use.lock`, shared by every process for as long as it uses the server. A process that gets it
  exclusively (it must hold `open.lock`) is the last user and stops the server;
- `server.lock`, held alone by the server's own processes, to which it is handed when they start. Free means that none
  of them lives, whatever `postmaster.pid` says; taken by nobody we can see means that another container uses this home.

How handles are counted belongs to `__init__`, how processes are found and stopped to `watchdog`.
"""

from __future__ import annotations

import logging
import os
import shutil
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from enum import Enum
from pathlib import Path
from urllib.parse import quote

import psutil
import psycopg
from psycopg import sql

from import_pipeline.database.embedded import installation, locks, watchdog
from import_pipeline.database.embedded.installation import INSTEAD
from import_pipeline.database.embedded.server_settings import SETTINGS
from import_pipeline.database.embedded.sockets import make_socket_folder
from import_pipeline.errors import EmbeddedServerError

_log = logging.getLogger(__name__)

_DATABASE = "import_pipeline"
_IS_OPEN = "select has_database_privilege('public', oid, 'connect') from pg_catalog.pg_database where datname = %s"
_OPEN_SECONDS = 600.0
"""How long to wait for another process that opens or stops the server."""
_CLOSE_SECONDS = 30.0
"""How long the end of a process may wait for that; then the watchdog stops the server."""
_RECOVERY_SECONDS = 600.0
"""How long a server may take that says it is starting: it may have much to recover."""
_SILENCE_SECONDS = 10.0
"""How long a server may say nothing at all before it is taken for dead."""
_ORPHAN_SECONDS = 1.0
"""How long to wait while a server has processes but no postmaster: it may be starting, or have been killed."""


class _Answer(Enum):
    YES = "it answered a query"
    LATER = "it says that it is starting or stopping"
    NONE = "nobody answers"


class Cluster:
    """The server of one home, as one process uses it.

    Args:
        home: The home, with links resolved.
    """

    def __init__(self, home: Path) -> None:
        self.home = home
        self._folder = home / "postgres"
        self._data = self._folder / "data"
        self._log_file = self._folder / "server.log"
        self._sockets: Path | None = None
        self._use: int | None = None
        self._owner = os.getpid()

    def url(self, database: str, login: str = "postgres") -> str:
        """Return the address of a database."""
        # The port is said because a PGPORT in the environment would otherwise count.
        return f"postgresql://{login}@/{quote(database, safe='')}?host={quote(str(self._sockets))}&port=5432"

    def join(self) -> None:
        """Become a user of the server, which is started if need be."""
        with self._alone():
            use = locks.open_file(self._folder / "use.lock")
            try:
                locks.share(use)
                self._ensure_watchdog()
                self._bring_up()
            except BaseException:  # Ctrl-C too: what we started we stop
                self._give_back(use)
                raise
            self._use, self._owner = use, os.getpid()

    def leave(self) -> None:
        """Stop being a user of the server, and stop it if nobody else is one; never raises."""
        if (use := self._own_use()) is None:
            return
        self._use = None
        if not locks.is_at(use, self._folder / "use.lock"):  # the home was deleted: the watchdog sees to the rest
            locks.close_file(use)
            return
        try:
            with self._alone(_CLOSE_SECONDS):
                self._give_back(use)
        except EmbeddedServerError as error:
            _log.warning("the embedded server is left to its watchdog: %s", error)
            locks.close_file(use)

    def ensure_running(self) -> None:
        """Prove that the server answers, or start it again."""
        with _explained(self._folder):
            use = self._own_use()
            if use is not None and not locks.is_at(use, self._folder / "use.lock"):  # the home was deleted
                locks.close_file(use)
                self._use = None
                self.home.mkdir(mode=0o700, parents=True, exist_ok=True)
                self.join()
                return
            self._ensure_watchdog()
            if self._ask() is not _Answer.YES:
                with self._alone():
                    self._bring_up()

    def ensure_database(self, name: str) -> None:
        """Create a database if it is missing; but for our own, only its owner may enter it."""
        try:
            with psycopg.connect(self.url("postgres"), autocommit=True, connect_timeout=10) as connection:
                found = connection.execute(_IS_OPEN, [name]).fetchone()
                if found is None:
                    # template0 has no connections that could be in the way.
                    with suppress(psycopg.errors.DuplicateDatabase, psycopg.errors.UniqueViolation):
                        connection.execute(
                            sql.SQL("create database {} template template0").format(sql.Identifier(name))
                        )
                if name != _DATABASE and (found is None or found[0]):
                    with suppress(psycopg.errors.InternalError_):  # another process does the same
                        connection.execute(
                            sql.SQL("revoke all on database {} from public").format(sql.Identifier(name))
                        )
        except psycopg.Error as error:
            raise EmbeddedServerError(
                f"The database {name} could not be created on the embedded server: {error}"
            ) from error

    @contextmanager
    def _alone(self, seconds: float = _OPEN_SECONDS) -> Iterator[None]:
        """Be the only process that changes anything."""
        with _explained(self._folder):
            self._folder.mkdir(mode=0o700, exist_ok=True)
            for folder in (self.home, self._folder):
                if (owner := folder.stat().st_uid) != os.geteuid():
                    raise EmbeddedServerError(
                        f"{folder} belongs to another user (id {owner}, we are {os.geteuid()}). Run as that user, "
                        f"change its owner, or set IMPORT_PIPELINE_HOME to a folder of your own. {INSTEAD}"
                    )
            if stat.S_IMODE(self._folder.stat().st_mode) != 0o700:
                self._folder.chmod(0o700)
            with locks.alone(self._folder / "open.lock", seconds):
                yield

    def _own_use(self) -> int | None:
        """Our open `use.lock`; in a forked child that number means something else or nothing."""
        return self._use if self._owner == os.getpid() else None

    def _give_back(self, use: int) -> None:
        """Stop the server if nobody else uses it; call it holding `open.lock`."""
        try:
            if locks.try_exclusive(use):
                self._stop()
        finally:
            locks.close_file(use)

    def _bring_up(self) -> None:
        """Have a server that answered a query; call it holding `open.lock` and a share of `use.lock`."""
        installation.check_version(self._data)
        if (self._postmaster() is None and self._is_gone()) or not self._wait_for_answer():
            self._clear()
            self._start()
        self.ensure_database(_DATABASE)

    def _start(self) -> None:
        account = installation.find_account()
        binaries = installation.find_binaries(account)
        for half_made in self._folder.glob("data.new-*"):
            shutil.rmtree(half_made, ignore_errors=True)
        if not self._data.exists():
            installation.initialise(self._data, binaries, account)
        installation.prepare(self._data, account)
        self._sockets = make_socket_folder(self.home, account, self._sockets)
        settings = SETTINGS | {"unix_socket_directories": str(self._sockets)}
        arguments = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        lock = locks.open_file(self._folder / "server.lock")
        log = os.open(self._log_file, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            if not locks.try_exclusive(lock):
                raise EmbeddedServerError(f"{self._folder} is in use by a server that cannot be seen from here.")
            process = installation.start(
                binaries / "postgres",
                arguments,
                data=self._data,
                account=account,
                pass_fds=(lock,),
                stdout=log,
                stderr=log,
            )
        finally:
            locks.close_file(lock)  # the server has it now
            os.close(log)
        _children.append(process)
        if not self._wait_for_answer():
            raise EmbeddedServerError(
                f"The embedded PostgreSQL did not start. The last lines of {self._log_file}:\n{self._log_tail()}\n"
                f"{INSTEAD}"
            )

    def _wait_for_answer(self) -> bool:
        """Wait until the server answers; False when it ended, or says nothing for too long."""
        begin = heard = time.monotonic()
        while time.monotonic() - begin < _RECOVERY_SECONDS:
            postmaster = self._postmaster()
            if postmaster is not None:
                self._sockets = Path(watchdog.read_line(self._data, 5) or self._sockets or "/nonexistent")
                answer = self._ask()
                if answer is _Answer.YES:
                    return True
                if answer is _Answer.LATER:
                    heard = time.monotonic()
                elif watchdog.read_line(self._data, 8) == "ready" and not (self._sockets / watchdog.SOCKET).exists():
                    return False  # somebody cleaned the temporary folder
            if self._is_gone() or time.monotonic() - heard > (_SILENCE_SECONDS if postmaster else _ORPHAN_SECONDS):
                return False
            time.sleep(0.005)
        raise EmbeddedServerError(
            f"The embedded PostgreSQL has been recovering for {_RECOVERY_SECONDS:.0f} seconds; try again later. The "
            f"last lines of {self._log_file}:\n{self._log_tail()}"
        )

    def _ask(self) -> _Answer:
        if self._sockets is None or not (self._sockets / watchdog.SOCKET).exists():
            return _Answer.NONE
        try:
            with psycopg.connect(self.url("postgres"), autocommit=True, connect_timeout=5) as connection:
                connection.execute("select 1")
            return _Answer.YES
        except psycopg.OperationalError as error:
            # libpq gives no code for a refused connection, but the language of our server is always C.
            text = str(error)
            if "the database system is" in text:
                return _Answer.LATER
            if "too many clients" in text or "connection slots are reserved" in text:
                return _Answer.YES
            if "FATAL:" in text:
                raise EmbeddedServerError(f"The embedded PostgreSQL runs but refuses us: {error}") from error
            return _Answer.NONE

    def _postmaster(self) -> psutil.Process | None:
        with self._server_lock() as lock:
            return watchdog.read_postmaster(self._data, os.fstat(lock))

    def _is_gone(self) -> bool:
        """Tell whether no process of the server lives any more."""
        with self._server_lock() as lock:
            return watchdog.is_free(lock)

    def _stop(self, *, deaf: bool = False) -> bool:
        with self._server_lock() as lock:
            # A server that failed at once wrote nothing down.
            sockets = watchdog.read_line(self._data, 5) or str(self._sockets or "")
            gone = watchdog.stop(self._postmaster(), lock, sockets, deaf=deaf)
        _reap()
        return gone

    def _clear(self) -> None:
        """Clear what is left of a server that does not answer: its processes, its `postmaster.pid`."""
        if not self._is_gone() and not self._stop(deaf=True):
            raise EmbeddedServerError(
                f"A server that cannot be seen from here uses {self._data}: perhaps in another container. Give each "
                f"container a home of its own. {INSTEAD}"
            )
        if (foreign := watchdog.find_foreign(self._data)) is not None:
            raise EmbeddedServerError(
                f"A PostgreSQL that import_pipeline did not start (process {foreign}) runs on {self._data}. Stop it."
            )
        (self._data / "postmaster.pid").unlink(missing_ok=True)

    @contextmanager
    def _server_lock(self) -> Iterator[int]:
        lock = locks.open_file(self._folder / "server.lock")
        try:
            yield lock
        finally:
            locks.close_file(lock)

    def _ensure_watchdog(self) -> None:
        """Start the process that stops the server should all its users be killed, unless it runs."""
        with ExitStack() as opened:

            def open_file(name: str) -> int:
                descriptor = locks.open_file(self._folder / name)
                opened.callback(locks.close_file, descriptor)
                return descriptor

            watching = open_file("watch.lock")
            if not sys.executable or not locks.try_exclusive(watching):
                return
            folder = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY)
            opened.callback(os.close, folder)
            files = [folder, *map(open_file, ("open.lock", "use.lock", "server.lock")), watching]
            site = str(Path(psutil.__file__).parent.parent)
            null = subprocess.DEVNULL
            try:
                process = subprocess.Popen(  # noqa: S603 - our own script
                    [sys.executable, "-I", "-S", watchdog.__file__, site, str(self._folder), *map(str, files)],
                    pass_fds=files,
                    start_new_session=True,
                    stdin=null,
                    stdout=null,
                    stderr=null,
                    text=True,
                    cwd="/",
                )
            except (
                OSError
            ) as error:  # the server works without it: a killed last user would leave it running, that is all
                _log.warning("the embedded server has no watchdog: %s", error)
                return
            _children.append(process)

    def _log_tail(self) -> str:
        with suppress(OSError):
            return "\n".join(self._log_file.read_text(errors="replace").splitlines()[-12:])
        return "(there is none)"


_children: list[subprocess.Popen[str]] = []
"""What this process started, so that it can be reaped when it ends."""


def _reap() -> None:
    _children[:] = [child for child in _children if child.poll() is None]


@contextmanager
def _explained(folder: Path) -> Iterator[None]:
    """Say what to do about a problem of the file system."""
    try:
        yield
    except TimeoutError as error:
        raise EmbeddedServerError(
            f"Another process has been opening the embedded PostgreSQL for too long: {error}."
        ) from error
    except (OSError, subprocess.SubprocessError) as error:
        raise EmbeddedServerError(
            f"The embedded PostgreSQL in {folder} could not be used: {error}. Check that its disk has room and "
            f"that you may write there, or set IMPORT_PIPELINE_HOME to another folder. {INSTEAD}"
        ) from error
