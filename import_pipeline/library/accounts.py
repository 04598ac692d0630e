"""Users and their accounts: finding them for a run, opening them, and moving their cursor.

An account is a row of `import_sources`. Users belong to the owner's application; only on the embedded database, where
there is no application, are they created here, with a personal bank and vault.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import psycopg
from psycopg.rows import tuple_row

from import_pipeline.connectors.base import Connector
from import_pipeline.database.planted import TENANCY_TABLES, lock_for_writing, require_nothing_planted
from import_pipeline.database.sql import query
from import_pipeline.database.tenancy import ACCOUNT_LOCK_SECONDS, acting_as
from import_pipeline.errors import AccountLockedError, ConfigurationError, UnknownUserError

_Connection = psycopg.Connection[Any]


@dataclass(frozen=True, slots=True)
class FoundAccount:
    """An account as it is found for a run."""

    id: UUID
    user_id: UUID
    source_app: str
    label: str
    last_sync_at: datetime | None


def find_user(conn: _Connection, user: str) -> UUID:
    """Return the id of a user named by e-mail address (in any case of ASCII letters) or by id.

    Raises:
        UnknownUserError: Nobody has this address.
    """
    try:
        return UUID(user)
    except ValueError:
        pass
    with acting_as(conn, None), conn.cursor(row_factory=tuple_row) as cursor:
        row = cursor.execute(query("find_user"), {"email": user}).fetchone()
    if row is None or row[0] is None:
        raise UnknownUserError(f"No user has the e-mail address {user!r} in this database.")
    found: UUID = row[0]
    return found


def create_user(conn: _Connection, email: str) -> UUID:
    """Create a user with personal bank and vault if nobody has the address; for the embedded database only.

    Args:
        conn: Of the owner's: the importer creates no users.
        email: The address.

    Returns:
        Id of the user.
    """
    with conn.transaction(), conn.cursor(row_factory=tuple_row) as cursor:
        # Two first commands at once must not make two users of one address.
        cursor.execute(query("lock_new_users"))
        try:
            return find_user(conn, email)
        except UnknownUserError:
            tables = ("auth.users", *TENANCY_TABLES)
            lock_for_writing(conn, tables)
            require_nothing_planted(conn, tables)
            cursor.execute(query("create_user"), {"email": email})
            return cursor.fetchone()[0]  # type: ignore[index,no-any-return]


def ensure_account(
    conn: _Connection, user_id: UUID, source_app: str, email: str | None = None, *, is_active: bool = True
) -> UUID:
    """Return the user's account at a source, opening it on first use.

    Args:
        conn: An idle connection.
        user_id: The user.
        source_app: The source.
        email: Who the user is there.
        is_active: Whether runs for everybody include an account that is opened now.

    Raises:
        UnknownUserError: There is no such user.
        AccountLockedError: Somebody else has locked its row, or is opening it.
    """
    parameters = {"user_id": user_id, "source_app": source_app, "email": email, "is_active": is_active}
    try:
        with (
            acting_as(conn, user_id, writes=("import_sources",), lock_seconds=ACCOUNT_LOCK_SECONDS),
            conn.cursor(row_factory=tuple_row) as cursor,
        ):
            cursor.execute(query("open_account"), parameters)
            return cursor.fetchone()[0]  # type: ignore[index,no-any-return]
    except psycopg.errors.ForeignKeyViolation as error:
        raise UnknownUserError(f"There is no user {user_id} in this database.") from error
    except psycopg.errors.LockNotAvailable:
        raise AccountLockedError from None


def find_account(conn: _Connection, user_id: UUID, source_app: str) -> UUID | None:
    """Return the user's account at a source, active or not, or None."""
    with acting_as(conn, user_id), conn.cursor(row_factory=tuple_row) as cursor:
        row = cursor.execute(query("find_account"), {"user_id": user_id, "source_app": source_app}).fetchone()
    return None if row is None else row[0]


def activate_account(
    conn: _Connection,
    account_id: UUID,
    user_id: UUID,
    source_app: str,
    email: str | None,
    problem: str | None,
    *,
    is_another: bool = False,
) -> bool:
    """Note that an account was connected: it is due at once, and with it what failed for its old credential.

    Args:
        conn: A connection.
        account_id: The account.
        user_id: Its owner.
        source_app: Its source.
        email: Who the user is there, if the source tells.
        problem: What the credential may not do.
        is_another: It imports something else than before, so its cursor says nothing any more.

    Returns:
        Whether its cursor was taken back, for that reason or because it is somebody else at the source.
    """
    written = ("import_sources", "import_items")
    with acting_as(conn, user_id, writes=written), conn.cursor(row_factory=tuple_row) as cursor:
        parameters = {"id": account_id, "user_id": user_id, "account_email": email, "problem": problem}
        cursor.execute(query("connect_account"), parameters | {"is_another": is_another})
        begins_anew: bool = cursor.fetchone()[0]  # type: ignore[index]
        cursor.execute(query("make_auth_failures_due"), {"user_id": user_id, "source_app": source_app})
        cursor.execute(query("forget_poll"), {"account_id": account_id})
    return begins_anew


def find_accounts(conn: _Connection, source_app: str, user_ids: list[UUID] | None) -> list[FoundAccount]:
    """Return the accounts of the given users at a source or, with None, all active ones."""
    with acting_as(conn, None), conn.cursor(row_factory=tuple_row) as cursor:
        cursor.execute(query("find_accounts"), {"source_app": source_app, "user_ids": user_ids})
        return [FoundAccount(*row) for row in cursor]


def move_cursor(conn: _Connection, account_id: UUID, user_id: UUID, to: datetime | None, problem: str | None) -> None:
    """Note how the last run of an account ended: its cursor (None leaves it) and its problem (None clears it).

    Raises:
        AccountLockedError: Somebody else has locked its row.
    """
    try:
        with acting_as(conn, user_id, writes=("import_sources",), lock_seconds=ACCOUNT_LOCK_SECONDS):
            conn.execute(
                query("move_cursor"), {"id": account_id, "user_id": user_id, "last_sync_at": to, "problem": problem}
            )
    except psycopg.errors.LockNotAvailable:
        raise AccountLockedError from None


def find_run_accounts(conn: _Connection, connector: Connector, users: Sequence[str]) -> list[FoundAccount]:
    """Return the accounts that a run for some users works on.

    Args:
        conn: An idle connection.
        connector: The source.
        users: Addresses or ids; empty means every active account.

    Raises:
        ConfigurationError: A user is unknown or has no account at this source.
    """
    user_ids = [find_user(conn, user) for user in dict.fromkeys(users)] or None
    found = find_accounts(conn, connector.source_app, user_ids)
    for name, user_id in zip(dict.fromkeys(users), user_ids or [], strict=True):
        if all(account.user_id != user_id for account in found):
            command = f"sync {connector.source_app}" if connector.is_polled else "upload"
            command = f"connect {connector.source_app}" if connector.authenticates_by else command
            raise ConfigurationError(
                f"The user {name} has no account at {connector.title}; `import-pipeline {command}` opens it."
            )
    return found
