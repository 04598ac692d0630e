"""The command `import-pipeline`: options, order of commands, exit codes.

What a command does is in the modules beside this one; each imports what is heavy only when it runs, so that a question
to the database does not load Dagster. Results go to standard output, everything else to standard error.

Exit codes: 0 everything imported or already there, 1 some items failed, 2 wrong usage or configuration, 3 the source
or the database could not be reached, 130 interrupted.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
from itertools import chain

import click

from import_pipeline.cli.auditing import audit
from import_pipeline.cli.connecting import connect, disconnect, rotate_key
from import_pipeline.cli.coverage import coverage
from import_pipeline.cli.importing import backfill, retry, sync, upload
from import_pipeline.cli.operating import dev, duplicates, migrate, psql
from import_pipeline.cli.output import complain
from import_pipeline.cli.personal import erase, export
from import_pipeline.cli.reading import counts, failures, sources, status, why
from import_pipeline.cli.session import INTERRUPTED
from import_pipeline.errors import ConfigurationError, DatabaseUnavailableError, ImportPipelineError


class _InOrder(click.Group):
    """Lists the commands in the order in which people need them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)


@click.group(cls=_InOrder, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="import-pipeline")
def cli() -> None:
    """Brings a team's call recordings into one Postgres, exactly once.

    Without DATABASE_URL an embedded PostgreSQL is started for as long as a command runs.
    """


_COMMANDS = (
    (upload, sync, backfill, counts, status, failures, retry),
    (connect, disconnect, why, coverage, sources),
    (export, erase),
    (migrate, audit, rotate_key, duplicates, psql, dev),
)
for command in chain(*_COMMANDS):
    cli.add_command(command)


def main() -> None:
    """Run a command and leave with its exit code."""
    _open_missing_streams()
    # A script's background jobs ignore Ctrl-C from their start; a signal that is sent to us is meant all the same.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    # Why no connection comes is told once, by the error that ends the command, and not at every attempt.
    logging.getLogger("psycopg").setLevel(logging.ERROR)
    # A title may hold any character; a terminal or pipe that cannot show it must not end the command.
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")
    try:
        code = cli.main(standalone_mode=False)
    except click.ClickException as error:
        error.show()
        code = error.exit_code
    except (click.Abort, KeyboardInterrupt):
        complain("Interrupted. What was imported stays; the same command goes on from there.")
        code = INTERRUPTED
    except BrokenPipeError:
        # The reader, `head` for instance, has seen enough; without this Python complains once more at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    except ImportPipelineError as error:
        complain(str(error))
        code = error.exit_code
    except UnicodeEncodeError:
        complain("An argument or a setting holds bytes that are no text.")
        code = ConfigurationError.exit_code
    except OSError as error:
        complain(f"{error.strerror or error}{f': {error.filename}' if error.filename else ''}")
        code = ConfigurationError.exit_code
    except Exception as error:
        told = _tell_of_database(error)
        if told is None:
            raise
        complain(told)
        code = DatabaseUnavailableError.exit_code
    sys.exit(code if isinstance(code, int) else 0)


def _tell_of_database(error: Exception) -> str | None:
    """Return what a driver's error means to a person, or None for any other error."""
    import psycopg

    from import_pipeline.database.errors import describe_database_error

    if not isinstance(error, psycopg.Error):
        return None
    return f"The database did not do what was asked: {describe_database_error(error)}."


def _open_missing_streams() -> None:
    """Open the standard streams that the process lacks, so that no file opened later gets their numbers."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    sys.stdin = sys.stdin or open(0, encoding="utf-8")  # noqa: SIM115 - as long as the process lives
    sys.stdout = sys.stdout or open(1, "w", encoding="utf-8")  # noqa: SIM115
    sys.stderr = sys.stderr or open(2, "w", encoding="utf-8")  # noqa: SIM115
