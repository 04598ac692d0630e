"""The drop folder: files that people put into `IMPORT_PIPELINE_DROP_FOLDER/<user e-mail>/…`, and what was asked for.

Reads only: no file is ever changed, moved or deleted, and no link followed. Which files were worked through is kept in
`import_pipeline.dropped_files`, each under a version made of its path, size and time of change. So a file that changes
or comes under another name is asked for again, also in a folder that was moved here as it is, and the order in which
files came does not matter. Not here: runs, which are the business of the sensor. No Dagster.
"""

from __future__ import annotations

import hashlib
import os
import stat
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from uuid import UUID

import psycopg
from psycopg.rows import tuple_row

from import_pipeline.connectors.file_upload.fences import Fence, Reach, is_address, names_of_user, own_fences
from import_pipeline.connectors.file_upload.files import display_path, find_files, is_unfinished, path_as_text, to_path
from import_pipeline.database.sql import query
from import_pipeline.database.tenancy import acting_as
from import_pipeline.errors import AccountLockedError, UnknownUserError
from import_pipeline.library.accounts import create_user, ensure_account, find_account, find_user
from import_pipeline.library.due import note_requests
from import_pipeline.records import SharedFolder

_Connection = psycopg.Connection[Any]


@dataclass(frozen=True, slots=True)
class DroppedFile:
    """A file that is complete, as far as its times tell.

    Attributes:
        path: Where it is.
        version: Tells it from what was or will be under this name.
        changed_at_ns: When it was last written, renamed or moved here, in nanoseconds.
    """

    path: Path
    version: UUID
    changed_at_ns: int


@dataclass(slots=True)
class UserFolder:
    """What lies in the folder of one user.

    Attributes:
        user: The folder's name: an e-mail address.
        path: Where it is.
        files: What could be imported, oldest first.
        young: How many files may still be written.
        links: How many links were left out, hard ones too.
        problems: What could not be looked at, for a person.
    """

    user: str
    path: Path
    files: list[DroppedFile] = field(default_factory=list)
    young: int = 0
    links: int = 0
    problems: list[str] = field(default_factory=list)


@dataclass(slots=True)
class DropAccount:
    """An account into which a folder's files go.

    Attributes:
        id: The account.
        user_id: Its owner.
        is_held: Whether a run works on it now.
        is_paused: Whether it is too early to ask again after a run that came to nothing.
        last_sync_at: When its last good run began, in seconds since the epoch; 0: never.
    """

    id: UUID
    user_id: UUID
    is_held: bool = False
    is_paused: bool = False
    last_sync_at: float = 0.0


def scan_drop_folder(root: Path, settle_seconds: float) -> tuple[list[UserFolder], list[str]]:
    """Look through the whole drop folder.

    Args:
        root: The drop folder.
        settle_seconds: How long a file must have been left alone.

    Returns:
        The users' folders in the order of their names, and what else there is that belongs to nobody, for a person.

    Raises:
        OSError: The drop folder is not there or may not be read.
    """
    folders, strays = [], 0
    everybody = Reach((Fence(root, is_dropped=True, is_permitted=True),), names=None, is_anywhere=True)
    with everybody.open(root) as opened, os.scandir(opened.descriptor) as entries:
        for entry in sorted(entries, key=lambda each: each.name):
            if entry.name.startswith("."):
                continue
            if entry.is_dir(follow_symlinks=False):
                reach = replace(everybody, names=names_of_user(entry.name))
                folders.append(_scan_user(entry.name, root / entry.name, reach, settle_seconds))
            else:
                strays += 1
    problems = [f"{strays} files or links that lie beside the users' folders"] if strays else []
    return folders, problems


def _scan_user(user: str, path: Path, reach: Reach, settle_seconds: float) -> UserFolder:
    folder = UserFolder(display_path(Path(user)), path)
    settled_before = time.time_ns() - int(settle_seconds * 1e9)
    for found in find_files([path], reach):
        status = found.status
        if status is not None and (stat.S_ISLNK(status.st_mode) or (status.st_nlink > 1 and not found.problem)):
            folder.links += 1
        elif found.problem:
            folder.problems.append(f"{display_path(found.path)}: {found.problem}")
        elif status is None:  # it was renamed or taken away between two looks
            continue
        # The time of change is the system's own; that of modification is whatever a program set it to.
        elif is_unfinished(found.path) or status.st_ctime_ns > settled_before:
            folder.young += 1
        else:
            folder.files.append(DroppedFile(found.path, _version(found.path, status), status.st_ctime_ns))
    folder.files.sort(key=lambda file: (file.changed_at_ns, file.path))
    return folder


def _version(path: Path, status: os.stat_result) -> UUID:
    return _digest(f"{status.st_size}/{status.st_mtime_ns}/", path)


def _digest(state: str, path: Path) -> UUID:
    return UUID(bytes=hashlib.blake2b(state.encode() + os.fsencode(path), digest_size=16).digest())


def find_drop_accounts(
    conn: _Connection, source_app: str, users: Iterable[str], *, creates_users: bool
) -> dict[str, DropAccount | str]:
    """Return each user's account, opened on first use, or why there is none, for a person.

    Args:
        conn: An idle connection.
        source_app: The source of files.
        users: Names of folders.
        creates_users: Whether unknown addresses become users, as on the embedded database.
    """
    with acting_as(conn, None), conn.cursor(row_factory=tuple_row) as cursor:
        rows = cursor.execute(query("find_account_states"), {"source_app": source_app}).fetchall()
    accounts = {
        user_id: DropAccount(id_, user_id, is_held, is_paused, last_sync_at.timestamp() if last_sync_at else 0.0)
        for id_, user_id, is_held, is_paused, last_sync_at in rows
    }
    found: dict[str, DropAccount | str] = {}
    folder_of: dict[UUID, str] = {}
    for user in sorted(users, key=lambda name: (name != name.lower(), name)):
        try:
            user_id = _find_user(conn, user, creates_users=creates_users)
            if user_id in folder_of:
                found[user] = f"is the same user as {folder_of[user_id]}"
                continue
            folder_of[user_id] = user
            if user_id not in accounts:
                if find_account(conn, user_id, source_app) is not None:
                    found[user] = "is switched off for this source"
                    continue
                accounts[user_id] = DropAccount(ensure_account(conn, user_id, source_app, user), user_id)
            found[user] = accounts[user_id]
        except UnknownUserError:
            found[user] = "is nobody's e-mail address here"
        except AccountLockedError:
            found[user] = "has an account that another session has locked"
    return found


def _find_user(conn: _Connection, user: str, *, creates_users: bool) -> UUID:
    if not is_address(user):  # nor is an id, which has many spellings
        raise UnknownUserError
    try:
        return find_user(conn, user)
    except UnknownUserError:
        if not creates_users:
            raise
        return create_user(conn, user)


def find_requests(conn: _Connection, account: DropAccount) -> dict[UUID, str | None]:
    """Return the versions that need not be asked for now → their request if that is still open."""
    with acting_as(conn, None), conn.cursor(row_factory=tuple_row) as cursor:
        cursor.execute(query("find_dropped_files"), {"account_id": account.id})
        return {version: None if is_settled else request for version, request, is_settled in cursor}


def settle_request(conn: _Connection, account: DropAccount, request: str, *, is_worked_through: bool) -> None:
    """Note how a request ended: its files are done, or will be asked for again."""
    with acting_as(conn, None, writes=()):
        if is_worked_through:
            conn.execute(query("settle_dropped_files"), {"account_id": account.id, "request": request})
            conn.execute(query("forget_poll"), {"account_id": account.id})
            account.is_paused = False
        else:
            conn.execute(query("forget_dropped_files"), {"account_id": account.id, "request": request, "gone": []})


def forget_files(conn: _Connection, account: DropAccount, versions: Iterable[UUID]) -> None:
    """Forget versions that are no longer in the folder."""
    with acting_as(conn, None, writes=()):
        parameters = {"account_id": account.id, "request": None, "gone": list(versions)}
        conn.execute(query("forget_dropped_files"), parameters)


def find_due_files(
    conn: _Connection, account: DropAccount, source_app: str, folder: Path, limit: int
) -> list[DroppedFile]:
    """Return the files of a folder that wait or failed and are to be tried again by now, whether they are there or not.

    A file that another program kept open when its run came does not change when it is closed, so only this finds it.
    The version of such a file is made of the time when it was due: it is asked for once, whatever comes of it.
    """
    with acting_as(conn, account.user_id), conn.cursor(row_factory=tuple_row) as cursor:
        parameters = {"user_id": account.user_id, "source_app": source_app, "limit": limit}
        rows = cursor.execute(query("find_due_items"), parameters).fetchall()
    found = []
    for place, due_at in rows:
        path = to_path(place)
        if path.is_relative_to(folder):
            found.append(DroppedFile(path, _digest(f"due {due_at.timestamp()}/", path), 0))
    return found


def note_request(conn: _Connection, account: DropAccount, request: str, files: Sequence[DroppedFile]) -> None:
    """Note that files are asked for; if nothing comes of it, the account is not asked for again before a pause.

    Raises:
        AccountLockedError: Somebody else has locked the account's row; nothing is noted.
    """
    with acting_as(conn, None, writes=()):
        if not note_requests(conn, [account.id]):
            raise AccountLockedError
        parameters = {"account_id": account.id, "request": request, "versions": [file.version for file in files]}
        conn.execute(query("request_dropped_files"), parameters)


def note_shared_folders(conn: _Connection) -> tuple[SharedFolder, ...]:
    """Remember the folders that other people fill, as far as this process is told of them, and return all known ones.

    So a command that is told of none, or a later run under another setting, reads there as carefully as this one.
    """
    with acting_as(conn, None, writes=()):
        for fence in own_fences():
            parameters = {"path": path_as_text(fence.folder), "is_dropped": fence.is_dropped}
            conn.execute(query("note_shared_folder"), parameters)
        return _find_shared_folders(conn)


def reach_of_command(conn: _Connection) -> Reach:
    """Return what a command may read that looks for what became of a file."""
    with acting_as(conn, None):
        known = [Fence(to_path(each.path), is_dropped=each.is_dropped) for each in _find_shared_folders(conn)]
    return Reach((*own_fences(), *known), names=None, is_anywhere=True)


def _find_shared_folders(conn: _Connection) -> tuple[SharedFolder, ...]:
    with conn.cursor(row_factory=tuple_row) as cursor:
        return tuple(SharedFolder(*row) for row in cursor.execute(query("find_shared_folders")))
