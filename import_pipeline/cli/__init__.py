"""The command `import-pipeline`: options, order of commands, exit codes.

What a command does is in the modules beside this one; each imports what is heavy only when it runs, so that a question
to the database does not load Dagster. Results go to standard output, everything else to standard error.

Exit codes: 0 everything imported or already there, 1 some items failed, 2 wrong usage or configuration, 3 the source
or the database could not be reached, 130 interrupted.
"""

from __future__ import annotations

import os
import signal
import sys

import click

from import_pipeline.cli.importing import retry, sync, upload
from import_pipeline.cli.operating import dev, duplicates, migrate, psql
from import_pipeline.cli.output import complain
from import_pipeline.cli.reading import counts, failures, sources, status, why
from import_pipeline.errors import DatabaseUnavailableError, ImportPipelineError

INTERRUPTED = 130


class _InOrder(click.Group):
    """Lists the commands in the order in which a person meets them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)


@click.group(cls=_InOrder, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="import-pipeline")
def cli() -> None:
    """Brings a team's call recordings into one Postgres, exactly once.

    Without DATABASE_URL an embedded PostgreSQL is started for as long as a command runs.
    """


for command in (upload, sync, counts, status, failures, retry, why, sources, migrate, duplicates, psql, dev):
    cli.add_command(command)


def main() -> None:
    """Run a command and leave with its exit code."""
    # A script's background jobs ignore Ctrl-C from their start; whoever sends us the signal means it all the same.
    signal.signal(signal.SIGINT, signal.default_int_handler)
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
    except Exception as error:
        if not _is_from_the_database(error):
            raise
        complain("The database could not do it: the connection was lost or refused. Run the command again.")
        code = DatabaseUnavailableError.exit_code
    sys.exit(code if isinstance(code, int) else 0)


def _is_from_the_database(error: Exception) -> bool:
    import psycopg

    return isinstance(error, psycopg.OperationalError)
