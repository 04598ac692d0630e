"""Files as a source: finding them, telling whether they are complete, and knowing them by their content.

Reads only, never moves or deletes. What a file means is the business of `transcripts/` and of the connector.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import signal
import stat
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from urllib.parse import unquote_to_bytes

SETTLE_SECONDS = 2.0
"""A file changed more recently than this may still be written; `IMPORT_PIPELINE_SETTLE_SECONDS`."""

_UNFINISHED_SUFFIXES = (".part", ".partial", ".crdownload", ".download", ".tmp")
_HIDDEN_PREFIXES = (".", "~$")
_PIECE = 1 << 20


@dataclass(frozen=True, slots=True)
class FoundFile:
    """A file as it was found.

    Attributes:
        path: Absolute.
        sha256: Of its content, in hexadecimal; None when it could not be read or should not be.
        size_bytes: Its length.
        modified_at: Seconds since the epoch.
        waiting: Why it is left alone for now.
        problem: Why it cannot be read at all, for a person.
    """

    path: Path
    sha256: str | None = None
    size_bytes: int = 0
    modified_at: float = 0.0
    waiting: str | None = None
    problem: str | None = None


def find_files(paths: Iterable[Path]) -> Iterator[FoundFile]:
    """Yield the files among and below some paths, in the order of their names; hidden ones in folders are left out.

    What cannot be read is yielded with its problem, never left out: an item that nobody hears of would be lost.
    """
    for path in paths:
        try:
            is_folder = path.is_dir()
        except OSError as error:  # no right to look there, or a path that is too long
            yield FoundFile(path, problem=describe_os_error(error))
            continue
        if is_folder:
            yield from _walk(path)
        else:
            yield FoundFile(path)


def is_unfinished(path: Path) -> bool:
    """Say whether a file has the name that programs give to one that they are still writing."""
    return path.name.lower().endswith(_UNFINISHED_SUFFIXES)


def inspect_file(
    found: FoundFile,
    *,
    size_limit_bytes: int,
    settle_seconds: float = SETTLE_SECONDS,
    within: Path | None = None,
) -> FoundFile:
    """Hash a file once it is complete.

    Args:
        found: From `find_files`.
        size_limit_bytes: Longer files are not read.
        settle_seconds: How long a file must have been left alone; a younger one is given this time.
        within: The folder, itself no link, that the file must lie in whatever links say.
    """
    path = found.path
    if found.problem:
        return found
    if is_unfinished(path):
        return FoundFile(path, waiting="it is being downloaded or copied")
    try:
        before = path.stat()
        if not stat.S_ISREG(before.st_mode):
            return FoundFile(path, problem="is not a regular file")
        age = time.time() - before.st_mtime
        if 0 <= age < settle_seconds:
            time.sleep(settle_seconds - age)
            if _has_changed(before, path.stat()):
                return FoundFile(path, waiting="it is still being written")
        if is_open_for_writing(path):
            return FoundFile(path, waiting="another program has it open for writing")
        if before.st_size > size_limit_bytes:
            return FoundFile(
                path,
                size_bytes=before.st_size,
                modified_at=before.st_mtime,
                problem=f"is {before.st_size / 1e6:,.0f} MB long; at most {size_limit_bytes / 1e6:,.0f} MB are "
                "accepted (IMPORT_PIPELINE_MAX_FILE_MB)",
            )
        digest = _hash(path, before.st_size, within)
        if _has_changed(before, path.stat()):
            return FoundFile(path, waiting="it is still being written")
    except _OutsideError:
        return FoundFile(path, problem="is a link that leads out of the folder")
    except OSError as error:
        return FoundFile(path, problem=describe_os_error(error))
    except ValueError:
        return FoundFile(path, problem="has a name that no file can have")
    return FoundFile(path, digest, before.st_size, before.st_mtime)


def read_file(path: Path, sha256: str, size_bytes: int) -> bytes | None:
    """Return the content of a file, or None if it is no longer what was hashed, however large it has become.

    Raises:
        OSError: It cannot be read.
    """
    with _open_regular(path) as file:
        if os.fstat(file.fileno()).st_size != size_bytes:
            return None
        data = file.read(size_bytes)
    return data if len(data) == size_bytes and hashlib.sha256(data).hexdigest() == sha256 else None


def is_open_for_writing(path: Path) -> bool:
    """Say whether some process has a file open for writing, as far as the system can tell.

    Linux grants a read lease only on a file that nobody writes. Elsewhere, on network file systems and on files of
    others the question has no answer, and the time since the last change must do.
    """
    if not hasattr(fcntl, "F_SETLEASE"):
        return False
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        # Who opens the file while we hold the lease breaks it, and the default signal for that would kill us.
        fcntl.fcntl(descriptor, fcntl.F_SETSIG, signal.SIGURG)
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_RDLCK)
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    except OSError as error:
        return error.errno in (errno.EAGAIN, errno.EBUSY)
    finally:
        os.close(descriptor)
    return False


def ids_of_file(name: str) -> list[str]:
    """Return under what a file may be known to the ledger: its path, its address and its content."""
    path = Path(name).absolute()
    ids = [display_path(path), path_to_uri(path)]
    with suppress(OSError):  # not a file, or gone by now; its path may still be known
        if path.is_file():
            ids.append(_hash(path, path.stat().st_size))
    return ids


def path_to_uri(path: Path) -> str:
    """Return a name for a path that any text column can hold, whatever bytes the path is made of."""
    return path.as_uri()


def uri_to_path(uri: str) -> Path:
    """Return the path that `path_to_uri` named."""
    return Path(os.fsdecode(unquote_to_bytes(uri.removeprefix("file://"))))


def display_path(path: Path) -> str:
    """Return a path as text for people; bytes that are not UTF-8 become replacement characters."""
    return os.fsencode(path).decode("utf-8", "replace")


def path_as_text(path: Path) -> str:
    """Return a path that leads back to its file: as it is or, if its bytes are no text, as an address."""
    shown = display_path(path)
    return shown if shown == str(path) else path_to_uri(path)


def describe_os_error(error: OSError) -> str:
    """Say in words why a file cannot be read."""
    match error.errno:
        case errno.ENOENT | errno.ENOTDIR:
            return "is not there any more; it was moved or deleted"
        case errno.EACCES | errno.EPERM:
            return "may not be read: permission denied"
        case errno.ELOOP:
            return "is a link that leads round in a circle"
        case _:
            return f"cannot be read: {os.strerror(error.errno) if error.errno else type(error).__name__}"


def _walk(folder: Path) -> Iterator[FoundFile]:
    pending: list[tuple[str, bool]] = [
        (str(folder), True)
    ]  # a list and no recursion: folders nest deeper than calls may
    while pending:
        path, is_folder = pending.pop()
        if not is_folder:
            yield FoundFile(Path(path))
            continue
        try:
            with os.scandir(path) as found:
                entries = sorted(found, key=lambda entry: entry.name, reverse=True)
        except OSError as error:
            yield FoundFile(Path(path), problem=f"folder {describe_os_error(error)}")
            continue
        for entry in entries:
            # A link to a folder is not followed: it may lead out of the folder that was named, or round in a circle.
            if not entry.name.startswith(_HIDDEN_PREFIXES) and not _is_link_to_folder(entry):
                pending.append((entry.path, entry.is_dir(follow_symlinks=False)))


def _is_link_to_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_symlink() and entry.is_dir()
    except OSError:  # a link that leads nowhere is found, to be reported
        return False


class _OutsideError(OSError):
    """A file lies elsewhere than its path says."""


def _hash(path: Path, size_bytes: int, within: Path | None = None) -> str:
    """Hash as much of a file as it is said to be long: some grow while they are read, some of the system never end."""
    digest = hashlib.sha256()
    with _open_regular(path) as file:
        if within is not None and not _real_path(file, path).is_relative_to(within.parent.resolve() / within.name):
            raise _OutsideError
        while size_bytes > 0 and (piece := file.read(min(size_bytes, _PIECE))):
            digest.update(piece)
            size_bytes -= len(piece)
    return digest.hexdigest()


def _open_regular(path: Path) -> BufferedReader:
    """Open a file for reading; a pipe that has taken its place meanwhile is an error and nothing to wait at."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "is not a regular file any more")
    return os.fdopen(descriptor, "rb")


def _real_path(file: BufferedReader, path: Path) -> Path:
    """Return where an open file lies; its path may lead elsewhere by now."""
    try:
        return Path(os.readlink(f"/proc/self/fd/{file.fileno()}"))
    except OSError:  # not Linux
        return path.resolve()


def _has_changed(before: os.stat_result, after: os.stat_result) -> bool:
    return (before.st_size, before.st_mtime_ns, before.st_ino) != (after.st_size, after.st_mtime_ns, after.st_ino)
