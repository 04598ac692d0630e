"""The processes of a server: finding them, stopping them, and the watchdog that stops a server nobody uses any more.

A process that is killed cannot stop the server it used. So a small process of its own looks, twice a second, whether
anybody still holds a share of `use.lock`; if not, it stops the server and ends. It also ends a server whose home was
deleted, and keeps the server's log small. It runs as a script that loads nothing but the standard library and psutil,
because it stays for as long as the server does. It is started before the server, so that a kill at any moment leaves
one, and is handed open files instead of names, so that it knows its own even if the home is deleted the next moment.
Starting servers does not belong here.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import psutil

SOCKET = ".s.PGSQL.5432"

_LOOK_SECONDS = 0.4
_LOG_BYTES = 2 * 1024 * 1024
_FAST_SECONDS = 10.0
_IMMEDIATE_SECONDS = 3.0
_KILL_SECONDS = 5.0


def read_postmaster(data: Path, lock: os.stat_result) -> psutil.Process | None:
    """Return the server process that `postmaster.pid` names, if that process is really one of this server.

    A process id alone proves nothing: after a crash or a reboot it may belong to anybody.

    Args:
        data: The data directory.
        lock: The server's `server.lock`, which all its processes have open.
    """
    import psutil

    try:
        process = psutil.Process(int((data / "postmaster.pid").read_bytes().split(b"\n", 1)[0]))
        return process if _has_open(process, lock) else None
    except (OSError, ValueError, OverflowError, psutil.Error):
        return None


def read_line(data: Path, number: int) -> str:
    """Return a line of `postmaster.pid` (5 is the folder of the socket, 8 the state), empty if there is none yet."""
    with suppress(OSError, IndexError):
        return os.fsdecode((data / "postmaster.pid").read_bytes().split(b"\n")[number - 1].strip())
    return ""


def find_foreign(data: Path) -> int | None:
    """Return the process id of a PostgreSQL that works in the data directory without being one of ours."""
    import psutil

    with suppress(OSError, ValueError, OverflowError, psutil.Error):
        process = psutil.Process(int((data / "postmaster.pid").read_bytes().split(b"\n", 1)[0]))
        if process.name() == "postgres" and os.path.samefile(process.cwd(), data):
            return process.pid
    return None


def processes_of(lock: os.stat_result) -> Iterator[psutil.Process]:
    """Find every PostgreSQL process that has this `server.lock` open."""
    import psutil

    return (process for process in psutil.process_iter() if _has_open(process, lock))


def _has_open(process: psutil.Process, lock: os.stat_result) -> bool:
    import psutil

    try:
        if process.name() != "postgres":
            return False
        if sys.platform == "linux":  # the files themselves, not their names: true for a renamed or deleted home as well
            folder = f"/proc/{process.pid}/fd"
            files = [f"{folder}/{number}" for number in os.listdir(folder)]
        else:
            files = [file.path for file in process.open_files()]
    except (OSError, psutil.Error):
        return False
    for file in files:
        with suppress(OSError):
            if os.path.samestat(os.stat(file), lock):
                return True
    return False


def stop(postmaster: psutil.Process | None, lock: int, sockets: str, *, deaf: bool = False) -> bool:
    """Stop a server without waiting for its clients: what was committed stays.

    Args:
        postmaster: Its first process, if that was found.
        lock: Its `server.lock`, opened by us.
        sockets: The folder of its socket, removed when it is gone.
        deaf: It does not answer, so it is not asked to write everything down first; its next start recovers.

    Returns:
        Whether it is gone.
    """
    import psutil

    status = os.fstat(lock)
    for number, seconds in ((signal.SIGINT, _FAST_SECONDS), (signal.SIGQUIT, _IMMEDIATE_SECONDS))[deaf:]:
        if postmaster is not None and _has_open(postmaster, status):
            with suppress(psutil.Error):
                postmaster.send_signal(number)  # psutil checks that the id is not another process's by now
            _wait(lock, seconds, postmaster)
    if not _wait(lock, 0.5):  # without their postmaster the others end by themselves, unless they are busy
        deadline = time.monotonic() + _KILL_SECONDS
        while not is_free(lock) and time.monotonic() < deadline:
            for process in processes_of(status):
                with suppress(psutil.Error):
                    process.kill()
            _wait(lock, 0.2)
    gone = is_free(lock)
    if gone and sockets:
        with suppress(OSError):
            for name in (SOCKET, f"{SOCKET}.lock"):
                Path(sockets, name).unlink(missing_ok=True)
            os.rmdir(sockets)
    return gone


def is_free(lock: int) -> bool:
    """Tell whether nobody holds the lock of an open file."""
    if not _try_exclusive(lock):
        return False
    fcntl.flock(lock, fcntl.LOCK_UN)
    return True


def _wait(lock: int, seconds: float, postmaster: psutil.Process | None = None) -> bool:
    """Wait until the server's lock is free, but not beyond the end of its postmaster, if that is given."""
    deadline, status = time.monotonic() + seconds, os.fstat(lock)
    while not (free := is_free(lock)) and time.monotonic() < deadline:
        if postmaster is not None and not _has_open(postmaster, status):
            break
        time.sleep(0.005)
    return free


def _try_exclusive(lock: int) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _watch(folder: int, opening: int, using: int, running: int, watching: int) -> None:
    """Wait until nobody uses the server of this folder, then stop it.

    Args:
        folder: The open folder `HOME/postgres`.
        opening: Its `open.lock`.
        using: Its `use.lock`.
        running: Its `server.lock`.
        watching: Its `watch.lock`, locked, so that a server has no more than one watchdog.
    """
    os.fchdir(folder)  # from here on names are relative: the home may be moved while it is in use
    data = Path("data")
    postmaster, sockets = None, ""
    while True:
        time.sleep(_LOOK_SECONDS)
        postmaster = read_postmaster(data, os.fstat(running)) or postmaster
        sockets = read_line(data, 5) or sockets
        if any(os.fstat(lock).st_nlink == 0 for lock in (opening, using, running)):  # the home was deleted
            stop(postmaster, running, sockets)
            return
        _bound_log()
        if not _try_exclusive(opening):
            continue
        if _try_exclusive(using):
            stop(postmaster, running, sockets)
            os.close(watching)  # first, so that the next one to open it finds it free and starts a watchdog
            return  # the other locks go with this process
        fcntl.flock(opening, fcntl.LOCK_UN)


def _bound_log() -> None:
    with suppress(OSError):
        if os.stat("server.log").st_size > _LOG_BYTES:
            shutil.copyfile("server.log", "server.log.1")
            os.truncate("server.log", 0)  # the server appends, so it goes on at the beginning


if __name__ == "__main__":
    sys.path.append(sys.argv[1])  # where psutil is; the next argument says in a list of processes whose watchdog it is
    _watch(*map(int, sys.argv[3:]))
