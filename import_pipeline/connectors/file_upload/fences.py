"""Who may read which file of this machine: every file of a source is opened here and nowhere else.

A fence is a folder that others fill: the drop folder, and the folders that the operator allows for uploads. Below one,
files are opened name by name, each relative to the folder before: no link is followed, no other mount entered, no
second name (hard link) of a file accepted. What must not be opened is told by its path alone, never by what it is. A
fence is known by its inode, so that no other spelling of its path leads around it. No database and no Dagster here.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from import_pipeline.errors import ConfigurationError, ItemError

DROP_FOLDER = "IMPORT_PIPELINE_DROP_FOLDER"
UPLOAD_FOLDERS = "IMPORT_PIPELINE_UPLOAD_FOLDERS"

IS_LINK = "is a link or lies behind one, and links are not followed here"
_LONGEST_PATH = 4096
_LONGEST_ADDRESS = 200
_MOST_LINKS = 40
_READ = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY


class RefusedError(OSError):
    """A file must not be opened; the text says why and nothing of what it is."""


class NotPermittedError(ItemError):
    """A path lies in no folder that this process may read; whether anything is there is not said."""

    error_class = "permanent"

    def __init__(self, path: Path) -> None:
        super().__init__(
            f"{os.fsencode(path).decode('utf-8', 'replace')} lies in no folder that uploads may be read from, or "
            f"that folder is not there; {UPLOAD_FOLDERS} names them where the UI is started. "
            "`import-pipeline upload` reads what its user may."
        )


@dataclass(frozen=True, slots=True)
class Fence:
    """A folder that others fill.

    Args:
        folder: Absolute; it may be reached by links, since it is the operator who names it.
        is_dropped: It is the drop folder, or was: each folder in it belongs to the user whose address is its name.
        is_permitted: The process may read below it.
    """

    folder: Path
    is_dropped: bool = False
    is_permitted: bool = False


@dataclass(slots=True)
class Opened:
    """A file or folder that is open, and what is known of it by its descriptor.

    Attributes:
        descriptor: Open for reading.
        path: Below a fence by the path of that fence, otherwise as it was named.
        status: Asked of the descriptor.
        fence: The fence it lies in.
        mount: The mount of that fence.
        is_permitted: Whether it lies in a fence below which the process may read.
    """

    descriptor: int
    path: Path
    status: os.stat_result
    fence: Fence | None = None
    mount: object = None
    is_permitted: bool = False

    @property
    def is_folder(self) -> bool:
        """Whether it is a folder."""
        return stat.S_ISDIR(self.status.st_mode)

    def close(self) -> None:
        """Let go of it."""
        os.close(self.descriptor)


@dataclass(frozen=True, slots=True)
class Reach:
    """Which files may be opened, for whom.

    Args:
        fences: Known folders that others fill.
        names: What the folder of the user may be called in a drop folder; None means every user's.
        is_anywhere: Whether the process may also read what lies in no fence, as a command may for the user who runs it.
    """

    fences: tuple[Fence, ...] = ()
    names: frozenset[str] | None = field(default=frozenset())
    is_anywhere: bool = False

    @contextmanager
    def open(self, path: Path) -> Iterator[Opened]:
        """Open a file or folder.

        Raises:
            NotPermittedError: The process may not read there; whether anything is there is not looked at any further.
            OSError: It cannot be opened; `RefusedError` if it must not be.
        """
        opened = self.enter(path)
        try:
            yield opened
        finally:
            opened.close()

    def step(self, folder: Opened, name: str) -> Opened:
        """Open what a folder that is open holds under a name, without following a link.

        Raises:
            OSError: As `open`.
        """
        if len(os.fsencode(folder.path)) + len(os.fsencode(name)) + 1 >= _LONGEST_PATH:
            raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG))
        found = self._step(folder, name, self._identities(), is_last=True)
        if isinstance(found, str):
            raise RefusedError(IS_LINK)
        try:
            self._arrive(found)
        except BaseException:
            found.close()
            raise
        return found

    def permits(self, path: Path) -> bool:
        """Say whether the process may read at a path, which need not be there."""
        try:
            with self.open(path):
                return True
        except NotPermittedError:
            return False
        except (OSError, ValueError):
            return True

    def enter(self, path: Path) -> Opened:
        """As `open`; the caller closes it."""
        if len(os.fsencode(path)) >= _LONGEST_PATH:
            raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG))
        identities = self._identities()
        names, links = deque(path.parts[1:]), 0
        here = self._enter(_open_folder("/"), Path("/"), None, identities)
        try:
            while names:
                found = self._step(here, name := names.popleft(), identities, is_last=not names)
                if isinstance(found, str):  # the target of a link that lies in no fence
                    links += 1
                    if links > _MOST_LINKS:
                        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
                    target = Path(found)
                    names.extendleft(reversed([part for part in target.parts if part.strip("/")]))
                    found = self._enter(
                        _open_folder("/" if target.is_absolute() else ".", here.descriptor),
                        here.path, None, identities,
                    )  # fmt: skip
                elif found.fence is None:
                    found.path = here.path / name
                here.close()
                here = found
            if not (self.is_anywhere or here.is_permitted):
                raise NotPermittedError(path)
            if here.fence is None:
                here.path = path
            self._arrive(here)
            return here
        except OSError:
            here.close()
            if not (self.is_anywhere or here.is_permitted):
                raise NotPermittedError(path) from None
            raise
        except BaseException:
            here.close()
            raise

    def _step(
        self, folder: Opened, name: str, identities: dict[tuple[int, int], Fence], *, is_last: bool
    ) -> Opened | str:
        """Open what lies in a folder; of a link that may be followed, return where it leads."""
        fence = folder.fence
        if fence is not None:
            if name == "..":
                raise RefusedError("names what lies above it, which is not followed here")
            if fence.is_dropped and folder.path == fence.folder and not self._is_own(name):
                raise RefusedError("lies in the drop folder, but not in the folder of this user")
        kind = os.stat(name, dir_fd=folder.descriptor, follow_symlinks=False).st_mode
        if stat.S_ISLNK(kind):
            if fence is not None:
                raise RefusedError(IS_LINK)
            return os.readlink(name, dir_fd=folder.descriptor)
        if not stat.S_ISDIR(kind) and not stat.S_ISREG(kind):
            raise RefusedError("is not a regular file")  # and is not opened: some wait for somebody, others act
        if stat.S_ISREG(kind) and not (self.is_anywhere or folder.is_permitted):
            raise RefusedError("may not be read by this process")
        try:
            if stat.S_ISDIR(kind):
                descriptor = _open_folder(name, folder.descriptor, passes_only=not is_last)
            else:
                descriptor = os.open(name, _READ, dir_fd=folder.descriptor)
        except OSError as error:
            if fence is not None and error.errno in (errno.ELOOP, errno.EMLINK, errno.ENOTDIR):
                raise RefusedError(IS_LINK) from None  # it has become one since
            raise
        return self._enter(descriptor, folder.path / name, folder, identities)

    def _enter(
        self, descriptor: int, path: Path, folder: Opened | None, identities: dict[tuple[int, int], Fence]
    ) -> Opened:
        """Say of what is open now in which fence it lies, and refuse what does not belong there."""
        try:
            opened = Opened(descriptor, path, os.fstat(descriptor))
            if folder is not None:
                opened.fence, opened.mount, opened.is_permitted = folder.fence, folder.mount, folder.is_permitted
            own = identities.get((opened.status.st_dev, opened.status.st_ino)) if opened.is_folder else None
            if own is not None and (opened.fence is None or not opened.fence.is_dropped):
                opened.fence, opened.mount, opened.path = own, _mount_of(descriptor), own.folder
                opened.is_permitted = opened.is_permitted or own.is_permitted
            elif not opened.is_folder and not stat.S_ISREG(opened.status.st_mode):
                raise RefusedError("is not a regular file")
            elif opened.fence is not None and _mount_of(descriptor) != opened.mount:
                raise RefusedError("lies behind a mount, and none is entered here")
            elif opened.fence is not None and not opened.is_folder and opened.status.st_nlink > 1:
                raise RefusedError("has a second name elsewhere (a hard link), and such files are not read here")
        except BaseException:
            os.close(descriptor)
            raise
        return opened

    def _arrive(self, opened: Opened) -> None:
        fence = opened.fence
        if fence is not None and fence.is_dropped and opened.path == fence.folder and self.names is not None:
            raise RefusedError("is the drop folder of all users; name the folder of this one")

    def _is_own(self, name: str) -> bool:
        return self.names is None or _ascii_lower(name) in self.names

    def _identities(self) -> dict[tuple[int, int], Fence]:
        """Find out anew where the fences are; a folder that is several takes the strictest rule."""
        found: dict[tuple[int, int], Fence] = {}
        for fence in self.fences:
            with suppress(OSError, ValueError):  # one that is not there holds nothing
                status = os.stat(fence.folder)
                key = (status.st_dev, status.st_ino)
                same = found.get(key, fence)
                found[key] = Fence(
                    same.folder, same.is_dropped or fence.is_dropped, same.is_permitted or fence.is_permitted
                )
        return found


ANYWHERE = Reach(is_anywhere=True)
"""What the user of this process may read, where nobody else fills folders."""


def names_of_user(*names: str) -> frozenset[str]:
    """Return what the folder of a user may be called, given their address and id; case does not matter."""
    return frozenset(map(_ascii_lower, names))


def is_address(text: str) -> bool:
    """Say whether a text is an e-mail address that looks like what it is: only such a one names a user's folder."""
    return (
        re.fullmatch(r"[^@\s]+@[^@\s]*[^@\s.]", text) is not None
        and text.isprintable()
        and "\ufffd" not in text  # which stands for bytes that are no text
        and len(text) <= _LONGEST_ADDRESS
    )


def drop_folder() -> Path | None:
    """Return the folder into which people drop files, or None if there is none."""
    name = os.environ.get(DROP_FOLDER, "").strip()
    return Path(name).expanduser().absolute() if name else None


def upload_folders() -> list[Path]:
    """Return the folders below which the UI may read.

    Raises:
        ConfigurationError: One is not absolute; a run may start in another folder.
    """
    names = [name.strip() for name in os.environ.get(UPLOAD_FOLDERS, "").split(os.pathsep) if name.strip()]
    folders = [Path(name).expanduser() for name in names]
    for folder in folders:
        if not folder.is_absolute():
            raise ConfigurationError(f"{UPLOAD_FOLDERS} names {str(folder)!r}, which is not absolute.")
    return folders


def own_fences(*, with_uploads: bool = True) -> Iterable[Fence]:
    """Yield the fences that this process was told of."""
    dropped = drop_folder()
    if dropped is not None:
        yield Fence(dropped, is_dropped=True, is_permitted=True)
    if with_uploads:
        for folder in upload_folders():
            yield Fence(folder, is_permitted=True)


def _ascii_lower(name: str) -> str:
    return "".join(char.lower() if char.isascii() else char for char in name)


def _open_folder(name: str, folder: int | None = None, *, passes_only: bool = True) -> int:
    try:
        return os.open(name, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_DIRECTORY, dir_fd=folder)
    except PermissionError:
        if not passes_only or not hasattr(os, "O_PATH"):
            raise
        # A folder that may be passed and not listed.
        return os.open(name, os.O_PATH | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_DIRECTORY, dir_fd=folder)


def _mount_of(descriptor: int) -> object:
    """Say in which mount something open lies: a folder that is mounted a second time is the same device."""
    try:
        with open(f"/proc/self/fdinfo/{descriptor}", encoding="ascii") as lines:
            for line in lines:
                if line.startswith("mnt_id:"):
                    return line
    except OSError:  # not Linux
        pass
    return os.fstat(descriptor).st_dev
