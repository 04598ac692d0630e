"""What most commands begin with: the database, and the user whose calls it is about."""

from __future__ import annotations

import getpass
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar
from uuid import UUID

import click

from import_pipeline.errors import ConfigurationError

if TYPE_CHECKING:
    import psycopg

    from import_pipeline.database import Database

_Command = TypeVar("_Command", bound=Callable[..., Any])

user_option = click.option(
    "--user",
    "user",
    metavar="EMAIL",
    envvar="IMPORT_PIPELINE_USER",
    show_envvar=True,
    help="Whose calls. On the embedded database the default is you, created on first use.",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON for programs.")


@contextmanager
def open_session(user: str | None) -> Iterator[tuple[Database, psycopg.Connection[Any], UUID]]:
    """Open the database, ready to work with, and find the user.

    Raises:
        ConfigurationError: No user is named, or nobody has this address.
        DatabaseUnavailableError: The database cannot be reached.
    """
    from import_pipeline.accounts import create_user, find_user
    from import_pipeline.database import open_database

    with open_database() as database, database.connect() as conn:
        if database.is_embedded:
            user_id = create_user(conn, user or default_user())
        elif user is None:
            raise ConfigurationError("Say whose calls: --user EMAIL, or IMPORT_PIPELINE_USER.")
        else:
            user_id = find_user(conn, user)
        yield database, conn, user_id


def default_user() -> str:
    """Return the address of the person at the keyboard, for a library that only he uses."""
    try:
        name = getpass.getuser()
    except (KeyError, OSError):  # an account without a name, in some containers
        name = f"user{os.getuid()}"
    return f"{name}@localhost"
