"""The processes of a server: finding them, stopping them, and the watchdog that stops a server nobody uses any more.

A process that is killed cannot stop the server it used. So a small process of its own looks, twice a second, whether
anybody still holds a share of `use.lock`; if not, it stops the server and ends. It also ends a server whose home was
deleted, and keeps the server's log small. It runs as a script, `python -I -S watchdog.py SITE FOLDER LOCK`, that loads
nothing but the standard library and psutil from SITE, because it stays for as long as the server does; it holds the lock
of `watch.lock` (LOCK, an open file handed to it), so a server has no more than one. Starting servers does not belong here.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import psutil

Identity = tuple[int, int]
"""Device and number of a folder: what it is, wherever it is moved."""

SOCKET = ".s.PGSQL.5432"

_LOOK_SECONDS = 0.4
_LOG_BYTES = 2 * 1024 * 1024
_FAST_SECONDS = 10.0
_IMMEDIATE_SECONDS = 3.0
_KILL_SECONDS = 5.0


def identity(folder: Path | str) -> Identity:
    """Return what identifies a folder; raises OSError if it is missing."""
    status = os.stat(folder)
    return status.st_dev, status.st_ino


def read_postmaster(data: Path) -> psutil.Process | None:
    """Return the server process that `postmaster.pid` names, if that process really works in this data directory.

    A process id alone proves nothing: after a crash or a reboot it may belong to anybody.
    """
    import psutil

    try:
        process = psutil.Process(int((data / "postmaster.pid").read_bytes().split(b"\n", 1)[0]))
        return process if _works_in(process, identity(data)) else None
    except (OSError, ValueError, OverflowError, psutil.Error):
        return None


def read_socket_folder(data: Path) -> Path | None:
    """Return the folder in which the server of this data directory listens, as it wrote down itself."""
    with suppress(OSError, IndexError):
        line = (data / "postmaster.pid").read_bytes().split(b"\n")[4]
        return Path(os.fsdecode(line)) if line.startswith(b"/") else None
    return None


def remove_socket_folder(folder: Path | None) -> None:
    """Remove the socket folder of a server that is gone."""
    if folder is not None:
        with suppress(OSError):
            for name in (SOCKET, f"{SOCKET}.lock"):
                (folder / name).unlink(missing_ok=True)
            folder.rmdir()


def processes_in(where: Identity) -> list[psutil.Process]:
    """Return every PostgreSQL process that works in the data directory."""
    import psutil

    return [process for process in psutil.process_iter() if _works_in(process, where)]


def _works_in(process: psutil.Process, where: Identity) -> bool:
    import psutil

    try:
        if process.name() != "postgres":
            return False
        # The link itself, not its text: it stays true when the folder was renamed or deleted.
        folder = f"/proc/{process.pid}/cwd" if sys.platform == "linux" else process.cwd()
        return identity(folder) == where
    except (OSError, psutil.Error):
        return False


def stop(postmaster: psutil.Process | None, where: Identity, is_gone: Callable[[], bool]) -> bool:
    """Stop a server: politely to its clients' data, not to its clients.

    Args:
        postmaster: Its first process, if that was found.
        where: Its data directory.
        is_gone: Tells whether all its processes have ended.

    Returns:
        Whether it is gone.
    """
    import psutil

    for number, seconds in ((signal.SIGINT, _FAST_SECONDS), (signal.SIGQUIT, _IMMEDIATE_SECONDS)):
        if postmaster is None:
            break
        with suppress(psutil.Error):
            postmaster.send_signal(number)  # checks that the process id was not given to another process meanwhile
        if _wait(is_gone, seconds, lambda: not _works_in(postmaster, where)):
            return True
    deadline = time.monotonic() + _KILL_SECONDS
    while not is_gone() and time.monotonic() < deadline:
        for process in processes_in(where):
            with suppress(psutil.Error):
                process.kill()
        _wait(is_gone, 0.2)
    return is_gone()


def _wait(is_gone: Callable[[], bool], seconds: float, is_orphaned: Callable[[], bool] = lambda: False) -> bool:
    deadline = time.monotonic() + seconds
    while not is_gone():
        if time.monotonic() > deadline:
            return False
        if is_orphaned():  # without their postmaster the rest ends within moments, or never
            return is_gone() or (_wait(is_gone, min(seconds, 1.0)))
        time.sleep(0.005)
    return True


def is_free(descriptor: int) -> bool:
    """Tell whether nobody holds the lock of an open file."""
    if not _try(descriptor, fcntl.LOCK_EX):
        return False
    fcntl.flock(descriptor, fcntl.LOCK_UN)
    return True


def _try(descriptor: int, kind: int) -> bool:
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _watch(folder: Path, own_lock: int) -> None:
    """Wait until nobody uses the server of this folder, then stop it."""
    os.chdir(folder)  # from here on names are relative: the home may be moved while it is in use
    data = Path("data")
    opening, using, running = (os.open(name, os.O_RDWR) for name in ("open.lock", "use.lock", "server.lock"))
    postmaster, where = None, identity(data)
    while True:
        time.sleep(_LOOK_SECONDS)
        postmaster = read_postmaster(data) or postmaster
        if not os.fstat(using).st_nlink or not os.fstat(opening).st_nlink:  # the home was deleted
            stop(postmaster, where, lambda: is_free(running))
            return
        _bound_log()
        if not _try(opening, fcntl.LOCK_EX):
            continue
        if _try(using, fcntl.LOCK_EX):
            sockets = read_socket_folder(data)
            if stop(postmaster, where, lambda: is_free(running)):
                remove_socket_folder(sockets)
            os.close(own_lock)  # first, so that whoever opens next finds it free and starts a watchdog
            return  # the other locks go with this process
        fcntl.flock(opening, fcntl.LOCK_UN)


def _bound_log() -> None:
    with suppress(OSError):
        if os.stat("server.log").st_size > _LOG_BYTES:
            shutil.copyfile("server.log", "server.log.1")
            os.truncate("server.log", 0)  # the server appends, so it goes on at the beginning


if __name__ == "__main__":
    sys.path.append(sys.argv[1])
    with suppress(FileNotFoundError):
        _watch(Path(sys.argv[2]), int(sys.argv[3]))
