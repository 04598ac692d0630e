"""What most commands begin with: the database, and the user whose calls it is about."""

from __future__ import annotations

import getpass
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from uuid import UUID

import click
import psycopg

from import_pipeline.cli.output import say
from import_pipeline.database.opening import Database, open_database
from import_pipeline.errors import ConfigurationError, UnknownUserError
from import_pipeline.library.accounts import create_user, find_user

user_option = click.option(
    "--user",
    "user",
    metavar="EMAIL",
    envvar="IMPORT_PIPELINE_USER",
    show_envvar=True,
    help="The user. On the embedded database the default is you, created on first use.",
)
INTERRUPTED = 130
"""Exit code of a command that a person broke off."""

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON for programs.")


@contextmanager
def open_session(
    user: str | None, *, creates_user: bool = False
) -> Iterator[tuple[Database, psycopg.Connection[Any], UUID]]:
    """Open the database, ready to work with, and find the user.

    On the embedded database the person at the keyboard is created on first use; anybody else only by a command that
    imports, so that a mistyped address is told and not obeyed.

    Raises:
        ConfigurationError: No user is named, or nobody has this address.
        DatabaseUnavailableError: The database cannot be reached.
    """
    with open_database() as database, database.connect() as conn:
        if database.is_embedded and (user is None or creates_user):
            user_id = _find_or_create(database, conn, user)
        elif user is None:
            raise ConfigurationError("Say whose calls: --user EMAIL, or IMPORT_PIPELINE_USER.")
        else:
            user_id = find_user(conn, user)
        yield database, conn, user_id


def _find_or_create(database: Database, conn: psycopg.Connection[Any], user: str | None) -> UUID:
    email = user or default_user()
    try:
        return find_user(conn, email)
    except UnknownUserError:
        from import_pipeline.connectors.file_upload.fences import is_address  # loads the HTTP client

        if not is_address(email):
            raise ConfigurationError(f"{email!r} is not an e-mail address.") from None
        with database.connect_as_owner() as owner:
            user_id = create_user(owner, email)
        if user is not None:
            say(f"Created the user {user} in the embedded library.")
        return user_id


def default_user() -> str:
    """Return the address of the person at the keyboard, for a library that only they use."""
    try:
        name = getpass.getuser()
    except (KeyError, OSError):  # an account without a name, in some containers
        name = f"user{os.getuid()}"
    return f"{name}@localhost"
