"""The file locks that say who uses a server: thin functions over `flock`.

The operating system drops such a lock when its holder dies, however it dies; no list of process ids in a file does
that. (Why not `filelock`: it has no shared locks that can be made exclusive, and a lock of ours is handed on to the
server's own processes.) A lock belongs to the *open file*, which a forked child shares: the files opened here are
closed in it, so that a child neither keeps a server running nor gives its parent's lock away.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_open_files: set[int] = set()


def open_file(path: Path) -> int:
    """Open (or create, for its owner only) a file to lock; to be closed with `close_file`."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    _open_files.add(descriptor)
    return descriptor


def close_file(descriptor: int) -> None:
    """Close a file; its lock goes too, unless another process was given the open file."""
    _open_files.discard(descriptor)
    os.close(descriptor)


def try_exclusive(descriptor: int) -> bool:
    """Take the lock for us alone, or turn our share into that; when it fails a share we had is gone as well."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def share(descriptor: int) -> None:
    """Take the lock together with others; waits while somebody has it alone."""
    fcntl.flock(descriptor, fcntl.LOCK_SH)


def unlock(descriptor: int) -> None:
    """Give the lock back for every process that was given this open file."""
    fcntl.flock(descriptor, fcntl.LOCK_UN)


def is_at(descriptor: int, path: Path) -> bool:
    """Tell whether an open file is still the one at a path, and not one that was deleted."""
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except FileNotFoundError:
        return False


@contextmanager
def alone(path: Path, seconds: float) -> Iterator[None]:
    """Hold the lock of a file exclusively, waiting for it.

    Raises:
        TimeoutError: Somebody else held it all the time.
    """
    deadline = time.monotonic() + seconds
    while True:
        descriptor = open_file(path)
        try:
            while not try_exclusive(descriptor):
                if time.monotonic() > deadline:
                    raise TimeoutError(f"{path} was locked for {seconds:.0f} seconds")
                time.sleep(0.01)
            if not is_at(descriptor, path):  # the folder was deleted and made anew while we waited
                continue
            yield
            return
        finally:
            # Unlocked and not only closed: a child forked by another thread just now may have a copy of it.
            with suppress(OSError):
                unlock(descriptor)
            close_file(descriptor)


def _close_in_child() -> None:
    for descriptor in _open_files:
        with suppress(OSError):
            os.close(descriptor)
    _open_files.clear()


os.register_at_fork(after_in_child=_close_in_child)
