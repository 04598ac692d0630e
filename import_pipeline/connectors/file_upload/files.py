"""Files as a source: finding them, telling whether they are complete, and knowing them by their content.

Reads only, never moves or deletes. What may be opened is the business of `fences.py`, what a file means that of
`transcripts/` and of the connector.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import signal
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote_to_bytes

from import_pipeline.connectors.file_upload.fences import ANYWHERE, IS_LINK, Opened, Reach, RefusedError

SETTLE_SECONDS = 2.0
"""A file changed more recently than this may still be written; `IMPORT_PIPELINE_SETTLE_SECONDS`."""

_UNFINISHED_SUFFIXES = (".part", ".partial", ".crdownload", ".download", ".tmp")
_HIDDEN_PREFIXES = (".", "~$")
_PIECE = 1 << 20
_NO_NAME = "has a name that no file can have"


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
        status: What its folder says of it, of a link that of the link itself; None where it was named.
    """

    path: Path
    sha256: str | None = None
    size_bytes: int = 0
    modified_at: float = 0.0
    waiting: str | None = None
    problem: str | None = None
    status: os.stat_result | None = None


def find_files(
    paths: Iterable[Path], reach: Reach = ANYWHERE, *, leaves_out_missing: bool = False
) -> Iterator[FoundFile]:
    """Yield the files among and below some paths, in the order of their names; hidden ones in folders are left out.

    What cannot be read is yielded with its problem, never left out: an item that nobody hears of would be lost.

    Args:
        paths: Absolute.
        reach: What may be opened.
        leaves_out_missing: Files that were named and are not there are no matter.

    Raises:
        NotPermittedError: This process may not read at one of the paths.
    """
    for path in paths:
        try:
            with reach.open(path) as opened:
                if opened.is_folder:
                    yield from _walk(opened, reach)
                else:
                    yield FoundFile(opened.path)
        except FileNotFoundError as error:
            if not leaves_out_missing:
                yield FoundFile(path, problem=describe_os_error(error))
        except OSError as error:  # no right to look there, or a path that is too long
            yield FoundFile(path, problem=describe_os_error(error))
        except ValueError:
            yield FoundFile(path, problem=_NO_NAME)


def is_unfinished(path: Path) -> bool:
    """Say whether a file has the name that programs give to one that they are still writing."""
    return path.name.lower().endswith(_UNFINISHED_SUFFIXES)


def inspect_file(
    found: FoundFile, *, size_limit_bytes: int, settle_seconds: float = SETTLE_SECONDS, reach: Reach = ANYWHERE
) -> FoundFile:
    """Hash a file once it is complete; whatever is said of it is asked of the file that is open.

    Args:
        found: From `find_files`.
        size_limit_bytes: Longer files are not read.
        settle_seconds: How long a file must have been left alone; a younger one is given this time.
        reach: What may be opened.

    Raises:
        NotPermittedError: This process may not read there.
    """
    path = found.path
    if found.problem:
        return found
    try:
        with reach.open(path) as opened:
            file = _inspect(opened, size_limit_bytes, settle_seconds)
        if file.sha256 is None:
            return file
        with reach.open(path) as again:  # another one may have taken its place
            if _has_changed(opened.status, again.status):
                return FoundFile(path, waiting="it is still being written")
    except OSError as error:
        return FoundFile(path, problem=describe_os_error(error))
    except ValueError:
        return FoundFile(path, problem=_NO_NAME)
    return file


def _inspect(opened: Opened, size_limit_bytes: int, settle_seconds: float) -> FoundFile:
    path, status = opened.path, opened.status
    if opened.is_folder:
        return FoundFile(path, problem="is not a regular file")
    if is_unfinished(path):
        return FoundFile(path, waiting="it is being downloaded or copied")
    age = time.time() - status.st_mtime
    if 0 <= age < settle_seconds:
        time.sleep(settle_seconds - age)
        if _has_changed(status, os.fstat(opened.descriptor)):
            return FoundFile(path, waiting="it is still being written")
    if is_open_for_writing(opened.descriptor):
        return FoundFile(path, waiting="another program has it open for writing")
    if status.st_size > size_limit_bytes:
        return FoundFile(
            path,
            size_bytes=status.st_size,
            modified_at=status.st_mtime,
            problem=f"is {status.st_size / 1e6:,.0f} MB long; at most {size_limit_bytes / 1e6:,.0f} MB are "
            "accepted (IMPORT_PIPELINE_MAX_FILE_MB)",
        )
    digest = _hash(opened)
    if _has_changed(status, os.fstat(opened.descriptor)):
        return FoundFile(path, waiting="it is still being written")
    return FoundFile(path, digest, status.st_size, status.st_mtime)


def read_file(path: Path, sha256: str, size_bytes: int, reach: Reach = ANYWHERE) -> bytes | None:
    """Return the content of a file, or None if it is no longer what was hashed, however large it has become.

    Raises:
        NotPermittedError: This process may not read there.
        OSError: It cannot be read.
    """
    with reach.open(path) as opened:
        if opened.is_folder:
            raise RefusedError("is not a regular file any more")
        if opened.status.st_size != size_bytes:
            return None
        with os.fdopen(opened.descriptor, "rb", closefd=False) as file:
            data = file.read(size_bytes)
    return data if len(data) == size_bytes and hashlib.sha256(data).hexdigest() == sha256 else None


def is_open_for_writing(descriptor: int) -> bool:
    """Say whether some process has a file that is open here for reading open for writing, as far as the system tells.

    Linux grants a read lease only on a file that nobody writes. Elsewhere, on network file systems and on files of
    others the question has no answer, and the time since the last change must do.
    """
    if not hasattr(fcntl, "F_SETLEASE"):
        return False
    try:
        # Who opens the file while we hold the lease breaks it, and the default signal for that would kill us.
        fcntl.fcntl(descriptor, fcntl.F_SETSIG, signal.SIGURG)
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_RDLCK)
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    except OSError as error:
        return error.errno in (errno.EAGAIN, errno.EBUSY)
    return False


def ids_of_file(name: str, reach: Reach = ANYWHERE) -> list[str]:
    """Return under what a file may be known to the ledger: path, address and, if it may be read, content."""
    path = Path(name).absolute()
    ids = [display_path(path), path_to_uri(path)]
    with suppress(OSError, ValueError), reach.open(path) as opened:  # not a file, or gone; its path may still be known
        if opened.path != path:
            ids += [display_path(opened.path), path_to_uri(opened.path)]
        if not opened.is_folder:
            ids.append(_hash(opened))
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


def to_path(text: str) -> Path:
    """Return the path that `path_as_text` wrote."""
    return uri_to_path(text) if text.startswith("file://") else Path(text)


def describe_os_error(error: OSError) -> str:
    """Say in words why a file cannot be read."""
    if isinstance(error, RefusedError):
        return str(error)
    match error.errno:
        case errno.ENOENT | errno.ENOTDIR:
            return "is not there any more; it was moved or deleted"
        case errno.EACCES | errno.EPERM:
            return "may not be read: permission denied"
        case errno.ELOOP:
            return "is a link that leads round in a circle"
        case _:
            return f"cannot be read: {os.strerror(error.errno) if error.errno else type(error).__name__}"


def _walk(top: Opened, reach: Reach) -> Iterator[FoundFile]:
    """Yield what lies in and below a folder, each folder opened from the one before it.

    A list and no recursion, and one folder open at a time: folders nest deeper than calls and descriptors may.
    """
    pending: list[FoundFile | Path] = []  # files, and paths of folders
    folder = top
    try:
        while True:
            try:
                pending += _list(folder)
            except OSError as error:
                yield FoundFile(folder.path, problem=f"folder {describe_os_error(error)}")
            while pending:
                found = pending.pop()
                if isinstance(found, FoundFile):
                    yield found
                    continue
                try:
                    is_next = found.parent == folder.path
                    inner = reach.step(folder, found.name) if is_next else reach.enter(found)
                except OSError as error:
                    yield FoundFile(found, problem=f"folder {describe_os_error(error)}")
                    continue
                if not inner.is_folder:  # it has become a file
                    inner.close()
                    yield FoundFile(found)
                    continue
                if folder is not top:
                    folder.close()
                folder = inner
                break
            else:
                return
    finally:
        if folder is not top:
            folder.close()


def _list(folder: Opened) -> list[FoundFile | Path]:
    """Return what lies in a folder, last name first; of links below a fence not where they lead."""
    found: list[FoundFile | Path] = []
    with os.scandir(folder.descriptor) as entries:
        for entry in sorted(entries, key=lambda each: each.name, reverse=True):
            if entry.name.startswith(_HIDDEN_PREFIXES):
                continue
            path = folder.path / entry.name
            try:
                if entry.is_dir(follow_symlinks=False):
                    found.append(path)
                elif not entry.is_symlink():
                    found.append(FoundFile(path, status=entry.stat(follow_symlinks=False)))
                elif folder.fence is not None:
                    found.append(FoundFile(path, problem=IS_LINK, status=entry.stat(follow_symlinks=False)))
                # A link to a folder is not followed: it may lead out of the folder that was named, or in a circle.
                elif not _is_link_to_folder(entry):
                    found.append(FoundFile(path))
            except FileNotFoundError:  # taken away between two looks, which is told when it is opened
                found.append(FoundFile(path))
    return found


def _is_link_to_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that leads nowhere is found, to be reported
        return False


def _hash(opened: Opened) -> str:
    """Hash as much of a file as it is said to be long: some grow while they are read, some of the system never end."""
    digest, left = hashlib.sha256(), opened.status.st_size
    with os.fdopen(opened.descriptor, "rb", closefd=False) as file:
        while left > 0 and (piece := file.read(min(left, _PIECE))):
            digest.update(piece)
            left -= len(piece)
    return digest.hexdigest()


def _has_changed(before: os.stat_result, after: os.stat_result) -> bool:
    return (before.st_size, before.st_mtime_ns, before.st_ino) != (after.st_size, after.st_mtime_ns, after.st_ino)
