"""What an error of PostgreSQL means: whether the database is in trouble or one row is, and in words for people.

Judged by SQLSTATE and by its origin, which no language setting changes. A trigger, policy or constraint of the
owner's may raise any SQLSTATE, and quote in its message whatever it was given: that is told as what it is, an answer
about one row, and its own words go where only the row's owner reads. Nothing here asks the database, and DETAIL and
CONTEXT, which quote rows, are left out everywhere.
"""

from __future__ import annotations

import re

import psycopg

from import_pipeline.database.connections import SilentServerError
from import_pipeline.errors import ErrorClass, ImportPipelineError, one_line

_TROUBLE = ("08", "25", "40", "53", "55", "57", "58", "XX")
"""Classes of errors that have nothing to do with the row in hand: the same row passes once the trouble is over."""

_TROUBLE_WITHIN = ("40", "53", "55P03", "57")
"""Those of them that mean trouble even where a function of the owner's met them: no other code of it will help."""
_CODE = re.compile(r"pl_|plpy|plperl|pltcl|plv8")
"""How the source files of procedural languages begin: an error from there was raised by a function's own words."""
_OF_A_KIND = ("22", "23", "44", "54", "P0")
"""Classes of errors that depend on the row: its values, its neighbours, or what somebody's code thinks of it."""
_CALLED = re.compile(r"function (.{1,200}?) (?:line|statement|during) ")
_OWN_WORDS = "; in its own words: "
_LONGEST_WORDS = 500

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
    state = error.sqlstate or "08000"
    if not _is_from_a_function(error):
        return state.startswith(_TROUBLE)
    return state.startswith(_TROUBLE_WITHIN) and not _CODE.match(error.diag.source_file or "")


def is_about_every_row(error: BaseException) -> bool:
    """Say whether nothing can be written now: in trouble, or when the schema is not what our statements expect."""
    state = error.sqlstate or "" if isinstance(error, psycopg.Error) else ""
    # A column that our own statement misses concerns every row, one that a trigger misses is that trigger's answer.
    return is_trouble(error) or (state.startswith("42") and state != "42501" and not _is_from_a_function(error))


def is_likely_to_recur(error: BaseException) -> bool:
    """Say whether most other rows will meet the same error, though each may be tried: code that is broken, for one."""
    state = error.sqlstate if isinstance(error, psycopg.Error) else None
    return state is not None and not state.startswith(_OF_A_KIND)


def _is_from_a_function(error: BaseException) -> bool:
    """Say whether it was raised within a function: our own statements call none but the owner's, and policies."""
    return isinstance(error, psycopg.Error) and error.diag.context is not None


def is_about_a_value(error: psycopg.Error) -> bool:
    """Tell a value that the driver refused to send, for instance a text with NUL: such an error has no SQLSTATE."""
    return error.sqlstate is None and isinstance(error, psycopg.DataError | psycopg.ProgrammingError)


def classify(error: BaseException) -> ErrorClass:
    """Return the class of the failure of a row that PostgreSQL refused."""
    state = error.sqlstate or "" if isinstance(error, psycopg.Error) else ""
    return "permanent" if state == "42501" else "data"


def explain_refusal(error: BaseException) -> str:
    """Say why the database refused a row, with the words of a function that refused it, which may quote the row.

    Only for readers of the row: the ledger and the caller. For events, logs and alerts: `without_own_words`.
    """
    told = describe_database_error(error)
    if not _is_from_a_function(error) or is_trouble(error):
        return told
    return f"{told}{_OWN_WORDS}{one_line(error.diag.message_primary or '', _LONGEST_WORDS)}"  # type: ignore[attr-defined]


def without_own_words(text: str) -> str:
    """Return what `explain_refusal` said, perhaps within a longer text, without what may quote a row."""
    told, words, _ = text.partition(_OWN_WORDS)
    return f"{told}; `import-pipeline failures` has its words" if words else text


def describe_database_error(error: BaseException) -> str:
    """Say in one line what went wrong, in words that quote no row."""
    if isinstance(error, ImportPipelineError | SilentServerError):
        return str(error)
    if isinstance(error, UnicodeEncodeError):
        return "a text holds characters that PostgreSQL cannot store"
    if not isinstance(error, psycopg.Error):
        return f"{type(error).__name__} in the importer; please report it"
    if is_about_a_value(error):
        return "it holds a value that PostgreSQL cannot store"
    if _is_from_a_function(error) and not is_trouble(error):
        return f"the database refused it: SQLSTATE {error.sqlstate} in {_function_of(error)}"
    if error.sqlstate is None or error.sqlstate.startswith("08"):
        return "the connection to the database was lost"
    if error.sqlstate in _WORDS:
        return f"{_WORDS[error.sqlstate]} (SQLSTATE {error.sqlstate})"
    primary = error.diag.message_primary or type(error).__name__
    if error.sqlstate.startswith("22"):  # the message of a data error quotes the value
        primary = primary.partition(":")[0]
    told = f"{primary} (SQLSTATE {error.sqlstate})"
    return told if is_trouble(error) else f"the database refused it: {told}"


def _function_of(error: psycopg.Error) -> str:
    """Name the function that was called first: the last line of CONTEXT, which nothing that it runs can forge."""
    found = _CALLED.search((error.diag.context or "").rpartition("\n")[2])
    return f"function {found[1]}" if found else "a function"
