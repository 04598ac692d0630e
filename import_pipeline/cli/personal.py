"""The commands for all that there is about one user: `export` writes it out, `erase` removes it."""

from __future__ import annotations

import os
import secrets
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING
from uuid import UUID

import click

from import_pipeline.cli.output import plural, print_json, print_table, printable, say
from import_pipeline.cli.session import json_option, open_session, user_option
from import_pipeline.errors import ErasureError

if TYPE_CHECKING:
    from import_pipeline.database.opening import Database
    from import_pipeline.library.personal_data import Erased

_WORDS = {
    "recordings": "calls with their transcripts",
    "vault_entries": "places of these calls in vaults",
    "import_items": "entries of the ledger",
    "sync_jobs": "progress rows of imports",
    "import_sources": "accounts at sources",
    "credentials": "stored credentials",
}


@click.command()
@user_option
@click.option(
    "--output",
    metavar="FILE",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write to FILE, readable by you alone, instead of standard output.",
)
def export(user: str | None, output: Path | None) -> None:
    """Write everything of one user as JSON Lines.

    One object a line: {"table": "recordings", "row": {…}}. Recordings come with their transcripts, credentials without
    their secret.
    """
    from import_pipeline.library.personal_data import export_rows

    written: Counter[str] = Counter()
    with open_session(user) as (_, conn, user_id), _open_output(output) as file:
        for table, line in export_rows(conn, user_id):
            file.write((printable(line) if file.isatty() else line).encode() + b"\n")
            written[table] += 1
    rows = ", ".join(f"{table} {number}" for table, number in written.items())
    say(f"Written{f' to {output}' if output else ''}: {rows}.")


@click.command()
@click.option("--user", metavar="EMAIL", required=True, help="The user; there is no default.")
@click.option("--yes", is_flag=True, help="Do not ask before erasing.")
@json_option
def erase(user: str, yes: bool, as_json: bool) -> None:
    """Erase everything of one user.

    Calls with their transcripts, ledger, accounts, credentials, staged files, and the runs of Dagster that name them.
    It cannot be undone; run `export` first to keep a copy. A user of your own application stays in it, on the embedded
    database the user goes too. Files that were imported are not touched.
    """
    from import_pipeline.database.opening import open_database
    from import_pipeline.library.accounts import find_user
    from import_pipeline.library.personal_data import count_rows

    with open_database() as database, database.connect() as conn:
        user_id = find_user(conn, user)
        if not yes:
            _print_rows(count_rows(conn, user_id))
            _require_agreement(user)
        erased, staged, runs = _erase(database, user_id)
    if as_json:
        print_json({**erased.rows, "staged_runs": staged, "dagster_runs": runs, "users": int(erased.is_user_gone)})
        return
    _print_rows(erased.rows)
    say(f"Erased, with {plural(runs, 'run')} of Dagster and what {plural(staged, 'run')} had staged.")
    if not erased.is_user_gone:
        say("The user and their bank belong to your application and are still there.")
    say("Overviews in Dagster's history that name the user go with the nightly clean-up; backups and files are yours.")


def _require_agreement(user: str) -> None:
    try:
        typed = click.prompt(f"All of it is erased. To confirm, type {user}", err=True, default="", show_default=False)
    except click.Abort:
        typed = ""
        say("\n")
    if typed.strip() != user:
        raise ErasureError("It was not confirmed; nothing was erased.")


def _print_rows(rows: Mapping[str, int]) -> None:
    print_table(["What", "Rows"], [(words, rows[table]) for table, words in _WORDS.items()])


def _erase(database: Database, user_id: UUID) -> tuple[Erased, int, int]:
    """Erase rows, staged files and runs; if anything goes wrong all rows are there still, to begin again by."""
    from dagster import DagsterInstance

    from import_pipeline.database.connections import without_limit
    from import_pipeline.defs.retention import remove_runs
    from import_pipeline.defs.sensors.ended_runs import close_ended_runs
    from import_pipeline.instance.preparing import prepare_instance
    from import_pipeline.library.personal_data import erase_rows
    from import_pipeline.stages.run import runs_of
    from import_pipeline.stages.staging import StreamIOManager

    prepare_instance(database)
    with DagsterInstance.get() as instance, database.connect_as_owner() as conn:
        close_ended_runs(conn, instance)
        with without_limit(conn), conn.transaction():
            erased = erase_rows(conn, user_id, with_user=database.is_embedded)
            runs = {run.run_id for root in erased.run_ids for run in runs_of(instance, root) if run.is_finished}
            staged = StreamIOManager().remove_runs_of(erased.account_ids, runs | erased.run_ids)
            remove_runs(instance, sorted(runs))
    return erased, staged, len(runs)


@contextmanager
def _open_output(path: Path | None) -> Iterator[IO[bytes]]:
    """Open a file that appears only when it is complete, or standard output; JSON is UTF-8 whatever the locale."""
    if path is None:
        yield sys.stdout.buffer
        return
    # In a folder where others may write, a file of a name that can be guessed may be theirs before we open it.
    partial = path.with_name(f".import-pipeline-{secrets.token_hex(16)}.partial")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0)
    try:
        with open(partial, "wb", opener=lambda name, _: os.open(name, flags, 0o600)) as file:
            yield file
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
