"""The commands for operators: `migrate`, `duplicates`, `dev`."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import click

from import_pipeline.cli.output import answer, print_json, print_table, printable, say
from import_pipeline.cli.session import json_option
from import_pipeline.database import migrations
from import_pipeline.database.audit import find_new_triggers
from import_pipeline.database.embedded.installation import find_program
from import_pipeline.database.opening import Database, database_url
from import_pipeline.errors import ConfigurationError, MigrationError
from import_pipeline.library.duplicates import find_duplicates, merge_duplicates


@click.command()
@click.option(
    "--check", is_flag=True, help="Change nothing; say what is pending or has drifted, and exit 1 if anything is."
)
@click.option(
    "--export",
    "export_to",
    metavar="DIR",
    type=click.Path(path_type=Path, file_okay=False),
    help="Change nothing; write the files to DIR, for those who deploy with the Supabase CLI, which does not ask.",
)
@click.option("--yes", is_flag=True, help="Do not ask before changing what was there before.")
@json_option
def migrate(check: bool, export_to: Path | None, yes: bool, as_json: bool) -> None:
    """Bring the database to this version's schema.

    If the database holds a library already, it first lists all changes and asks. Exits with 1 if somebody changed by
    hand what migrations made; it reports that and repairs nothing.
    """
    if export_to is not None:
        written = [str(path) for path in migrations.export(export_to)]
        if as_json:
            print_json({"written": written})
        else:
            say(f"{len(written)} files are in {export_to}.")
        return
    with Database(database_url()) as database, database.connect_as_owner() as conn:
        if not check and migrations.find_pending(conn):
            for run in migrations.find_working_runs(conn):
                say(f"Run {printable(run)} is working. End it first: the calls of an earlier version will fail.")
            _require_agreement(migrations.find_changes(conn), yes)
        new = [] if check else [finding.object for finding in find_new_triggers(conn)]
        applied = [] if check else [migration.filename for migration in migrations.apply(conn)]
        makes_login = not database.is_embedded and any("create_roles" in name for name in applied)
        status = migrations.check(conn)
    pending = [migration.filename for migration in status.pending]
    if as_json:
        drifted = [asdict(drift) for drift in status.drifted]
        print_json(({"pending": pending} if check else {"applied": applied}) | {"drifted": drifted})
    else:
        for name in applied:
            click.echo(f"applied  {name}")
        for name in pending:
            click.echo(f"pending  {name}")
        for drift in status.drifted:
            answer(f"drifted  {drift}")
        if status.drifted:
            say("The database is not as the migrations left it. Put it back: nothing repairs it by itself.")
        elif status.is_current:
            say("The database is up to date.")
        for trigger in new:
            say(f"New since the database was migrated, and known from now on: {printable(trigger)}")
        if makes_login:
            _advise_login()
    raise SystemExit(0 if status.is_current else 1)


def _require_agreement(changes: Sequence[migrations.Change], yes: bool) -> None:
    """Say what of the owner's will be changed, and go on only if somebody wants that.

    Raises:
        MigrationError: Nobody said so; nothing was changed.
    """
    if not changes:
        return
    say("This database has a library already. Migrating does to it, and beside it:")
    for change in changes:
        say(f"  {change}")
    if yes:
        return
    if not sys.stdin.isatty():
        raise MigrationError("Nothing was changed. If all of this is wanted: import-pipeline migrate --yes")
    if not click.confirm("Go on?", err=True):
        raise MigrationError("Nothing was changed.")


def _advise_login() -> None:
    say("Let the importer log in as import_login, which can do nothing but import. Once, as the owner:")
    say("  alter role import_login password '…';")
    say("and in the environment of what imports:")
    say("  DATABASE_URL=postgresql://import_login:…@host:5432/database")
    say("  IMPORT_PIPELINE_MIGRATION_URL=<the address that migrated now>, only where somebody migrates")


@click.command()
@click.option("--merge", is_flag=True, help="Merge each call into its oldest recording, in one transaction.")
@click.option("--yes", is_flag=True, help="Do not ask before merging.")
@json_option
def duplicates(merge: bool, yes: bool, as_json: bool) -> None:
    """Show calls that a bank holds more than once, from an older importer, and merge them.

    Migrations stop at such calls. Copies that a user has in several banks stay.
    """
    with Database(database_url()) as database, database.connect_as_owner() as conn:
        groups = find_duplicates(conn)
        if not merge or not groups:
            if as_json:
                print_json([asdict(group) for group in groups])
            elif not groups:
                say("No call is stored more than once.")
            else:
                print_table(
                    ["User", "Source", "External id", "Title", "Copies", "Recordings, oldest first"],
                    [
                        (
                            group.user_id,
                            group.source_app,
                            group.external_id,
                            group.titles[0],
                            len(group.recording_ids),
                            " ".join(map(str, group.recording_ids)),
                        )
                        for group in groups
                    ],
                )
                say(f"{len(groups)} calls are stored more than once. `import-pipeline duplicates --merge` merges them.")
            return
        copies = sum(len(group.recording_ids) - 1 for group in groups)
        if not yes:
            click.confirm(f"Merge {len(groups)} calls and delete up to {copies} copies?", abort=True, err=True)
        summary = merge_duplicates(conn)
    if as_json:
        print_json(asdict(summary))
        return
    say(f"{summary.merged_groups} calls merged, {summary.deleted_recordings} copies deleted.")
    for table, rows in summary.moved_references.items():
        say(f"{rows} rows of {table} refer to the recording that was kept.")


@click.command(context_settings={"ignore_unknown_options": True})
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def psql(arguments: tuple[str, ...]) -> None:
    """Open the embedded library in psql, or pass it ARGUMENTS.

    For instance: import-pipeline psql -c 'select title, duration from recordings'
    """
    if database_url() is not None:
        raise ConfigurationError('The library is on a server of yours: psql "$DATABASE_URL" opens it.')
    with Database() as database:
        database.require_migrated()
        command = [str(find_program("psql")), "--no-psqlrc", database.owner_url, *arguments]
        raise SystemExit(subprocess.run(command, check=False).returncode)  # noqa: S603 - the person's own words


@click.command()
@click.option("--port", type=click.IntRange(1, 65535), default=3000, show_default=True, help="The port of the UI.")
@click.option(
    "--host",
    default="127.0.0.1",
    show_default=True,
    metavar="ADDRESS",
    help="The address to listen on; 0.0.0.0 means all, for colleagues on the network.",
)
@click.option("--no-browser", is_flag=True, help="Only print the link.")
@click.option("--link", is_flag=True, help="Print a new link to the UI that is open in another terminal, and end.")
@click.option("--viewer", is_flag=True, help="Print a read-only link for colleagues, valid for a day.")
@click.option("--no-sign-in", is_flag=True, help="Ask nobody to sign in: only for a machine without other users.")
def dev(port: int, host: str, no_browser: bool, link: bool, viewer: bool, no_sign_in: bool) -> None:
    """Open the UI: Dagster's webserver and daemon on this library, until Ctrl-C.

    Nobody but you gets in: sign in with the link that is printed. It works once, in the browser that you open it in;
    --link prints another, --link --viewer a read-only one for colleagues.
    """
    from import_pipeline.cli.dev.serving import make_link, serve

    if link:
        from import_pipeline.cli.dev.sign_in import OPERATOR, VIEWER

        answer(make_link(VIEWER if viewer else OPERATOR))
    else:
        serve(host, port, asks=not no_sign_in, opens_browser=not no_browser, invites=viewer)
