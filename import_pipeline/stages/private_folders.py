"""Whether a folder of this machine is ours alone: nobody else can put something into it, or another in its place."""

from __future__ import annotations

import grp
import os
import pwd
import stat
from pathlib import Path

from import_pipeline.errors import ConfigurationError


def require_private(folder: Path) -> None:
    """Make sure that nobody else may write into a folder, nor take away or replace it or what leads to it.

    Raises:
        ConfigurationError: Somebody may.
    """
    try:
        folder = folder.absolute()
        folder.resolve(strict=True)
        require_own(folder.resolve(), 0o022)
        _require_own_way(folder)
    except OSError as error:
        raise ConfigurationError(f"The folder {folder} cannot be used: {error.strerror}.") from error


def require_own(path: Path, forbidden: int) -> None:
    """Make sure that a file or folder belongs to the user of this process, and others may not do with it what is named.

    Args:
        path: No link.
        forbidden: Bits of its mode.

    Raises:
        ConfigurationError: It does not, or they may.
    """
    status = os.lstat(path)
    if status.st_uid != os.geteuid():
        raise ConfigurationError(f"{path} is {_name(status.st_uid)}'s and not {_name(os.geteuid())}'s. {_ADVICE}")
    if _open_to_others(status) & forbidden:
        raise ConfigurationError(f"Others may read {path} or change what it holds: `chmod go-rwx {path}`.")


def _require_own_way(path: Path) -> None:
    """Check every folder and link on the way to a folder, and on the ways that the links take."""
    for part in (*reversed(path.parents), path):
        status = os.lstat(part)
        if status.st_uid not in (0, os.geteuid()):
            raise ConfigurationError(f"{part} is {_name(status.st_uid)}'s, who may put another in its place. {_ADVICE}")
        if stat.S_ISLNK(status.st_mode):
            _require_own_way(part.parent.resolve() / os.readlink(part))
        elif not status.st_mode & stat.S_ISVTX and _open_to_others(status) & 0o022:
            raise ConfigurationError(f"Others may replace what lies in {part}: `chmod go-w {part}`. Or: {_ADVICE}")


def _open_to_others(status: os.stat_result) -> int:
    """Return the bits of a mode that let others in; a group with one member counts as that user."""
    mode = stat.S_IMODE(status.st_mode) & 0o077
    return mode & 0o007 if _is_group_of_one(status.st_gid) else mode


def _is_group_of_one(group_id: int) -> bool:
    try:
        user, group = pwd.getpwuid(os.geteuid()), grp.getgrgid(group_id)
    except KeyError:
        return False
    return user.pw_gid == group_id and group.gr_name == user.pw_name and set(group.gr_mem) <= {user.pw_name}


def _name(user_id: int) -> str:
    try:
        return pwd.getpwuid(user_id).pw_name
    except KeyError:
        return f"the user {user_id}"


_ADVICE = "Let IMPORT_PIPELINE_STAGING or IMPORT_PIPELINE_HOME name a folder that is yours alone, below your own."
