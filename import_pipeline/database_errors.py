"""What an error of PostgreSQL means: whether the database is in trouble or one row is, and in words for people.

Judged by SQLSTATE, which no language setting changes. Nothing here asks the database, and nothing returned quotes a
row: DETAIL and CONTEXT are left out.
"""

from __future__ import annotations

import psycopg

from import_pipeline.connections import SilentServerError
from import_pipeline.errors import ErrorClass, ImportPipelineError

_TROUBLE = ("08", "25", "40", "53", "55", "57", "58", "XX")
"""Classes of errors that have nothing to do with the row in hand: the same row passes once the trouble is over."""

_WORDS = {
    "25006": "it is read only at present (a standby, or `default_transaction_read_only`); "
    "DATABASE_URL must lead to the server that takes writes",
    "25P03": "it ended a connection that had been idle in a transaction",
    "53100": "its disk is full; free some space there",
    "53200": "it ran out of memory",
    "53300": "it has no connection left; close some, or let it or this login have more",
    "55P03": "another session has locked what was asked for, longer than `lock_timeout` allows",
    "57014": "a statement was cancelled, by hand or because it took longer than `statement_timeout` allows",
    "57P01": "it is being shut down or restarted, or somebody ended the connection",
    "57P02": "it is starting anew after one of its processes crashed",
    "57P03": "it is starting up or shutting down",
}


def is_trouble(error: BaseException) -> bool:
    """Tell trouble of the database (connection, resources, shutdown, conflict, timeout) from trouble with a row."""
    if not isinstance(error, psycopg.Error) or is_about_a_value(error):
        return False
    return (error.sqlstate or "08000").startswith(_TROUBLE)


def is_about_every_row(error: BaseException) -> bool:
    """Say whether any other row would meet the same error: in trouble, or when the schema is not what we expect."""
    state = error.sqlstate or "" if isinstance(error, psycopg.Error) else ""
    # A missing column, table or index concerns every row; a policy's refusal only this one.
    return is_trouble(error) or (state.startswith("42") and state != "42501")


def is_about_a_value(error: psycopg.Error) -> bool:
    """Tell a value that the driver refused to send, for instance a text with NUL: such an error has no SQLSTATE."""
    return error.sqlstate is None and isinstance(error, psycopg.DataError | psycopg.ProgrammingError)


def classify(error: BaseException) -> ErrorClass:
    """Return the class of the failure of a row that PostgreSQL refused."""
    state = error.sqlstate or "" if isinstance(error, psycopg.Error) else ""
    return "permanent" if state == "42501" else "data"


def describe_database_error(error: BaseException) -> str:
    """Say in one line what went wrong, without DETAIL or CONTEXT: those quote the contents of rows."""
    if isinstance(error, ImportPipelineError | SilentServerError):
        return str(error)
    if isinstance(error, UnicodeEncodeError):
        return "a text holds characters that PostgreSQL cannot store"
    if not isinstance(error, psycopg.Error):
        return f"{type(error).__name__} in the importer; please report it"
    if is_about_a_value(error):
        return "it holds a value that PostgreSQL cannot store"
    if error.sqlstate is None or error.sqlstate.startswith("08"):
        return "the connection to the database was lost"
    if error.sqlstate in _WORDS:
        return f"{_WORDS[error.sqlstate]} (SQLSTATE {error.sqlstate})"
    primary = error.diag.message_primary or type(error).__name__
    if error.sqlstate.startswith("22"):  # the message of a data error quotes the value
        primary = primary.partition(":")[0]
    told = f"{primary} (SQLSTATE {error.sqlstate})"
    return told if is_trouble(error) else f"the database refused it: {told}"
