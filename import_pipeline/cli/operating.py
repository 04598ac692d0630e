"""The commands of whoever runs it: `migrate`, `duplicates`, `dev`."""

from __future__ import annotations

from pathlib import Path

import click

from import_pipeline.cli.output import answer, print_json, print_table, say
from import_pipeline.cli.session import json_option


@click.command()
@click.option(
    "--check", is_flag=True, help="Change nothing; say what is pending or has drifted, and exit 1 if anything is."
)
@click.option(
    "--export",
    "export_to",
    metavar="DIR",
    type=click.Path(path_type=Path, file_okay=False),
    help="Change nothing; write the files to DIR, for those who deploy with the Supabase CLI.",
)
@json_option
def migrate(check: bool, export_to: Path | None, as_json: bool) -> None:
    """Bring the database to this version's schema."""
    from import_pipeline import migrations
    from import_pipeline.database import Database, database_url

    if export_to is not None:
        written = [str(path) for path in migrations.export(export_to)]
        if as_json:
            print_json({"written": written})
        else:
            say(f"{len(written)} files are in {export_to}.")
        return
    with Database(database_url()) as database, database.connect_as_owner() as conn:
        if not check:
            applied = [migration.filename for migration in migrations.apply(conn)]
            if as_json:
                print_json({"applied": applied})
            else:
                for name in applied:
                    click.echo(f"applied  {name}")
                say("The database is up to date.")
                if not database.is_embedded and any("create_import_login" in name for name in applied):
                    _advise_login()
            return
        status = migrations.check(conn)
    pending = [migration.filename for migration in status.pending]
    drifted = [{"kind": drift.kind, "subject": drift.subject, "detail": drift.detail} for drift in status.drifted]
    if as_json:
        print_json({"pending": pending, "drifted": drifted})
    else:
        for name in pending:
            click.echo(f"pending  {name}")
        for drift in status.drifted:
            answer(f"drifted  {drift}")
        if status.is_current:
            say("The database is up to date.")
    raise SystemExit(0 if status.is_current else 1)


def _advise_login() -> None:
    say("Let the importer log in as import_login, which can do nothing but import. Once, as the owner:")
    say("  alter role import_login password '…';")
    say("and in the environment of what imports:")
    say("  DATABASE_URL=postgresql://import_login:…@host:5432/database")
    say("  IMPORT_PIPELINE_MIGRATION_URL=<the address that migrated now>, only where somebody migrates")


@click.command()
@click.option("--merge", is_flag=True, help="Merge each call into its oldest recording, in one transaction.")
@click.option("--across-banks", is_flag=True, help="Also merge calls whose copies lie in different banks.")
@click.option("--yes", is_flag=True, help="Do not ask before merging.")
@json_option
def duplicates(merge: bool, across_banks: bool, yes: bool, as_json: bool) -> None:
    """Show calls that an older importer stored more than once, and merge them.

    Migrations stop at such calls, because the unique import key cannot stand beside them.
    """
    from dataclasses import asdict

    from import_pipeline.database import Database, database_url
    from import_pipeline.duplicates import find_duplicates, merge_duplicates

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
        summary = merge_duplicates(conn, across_banks=across_banks)
    if as_json:
        print_json(asdict(summary))
        return
    say(f"{summary.merged_groups} calls merged, {summary.deleted_recordings} copies deleted.")
    for table, rows in summary.moved_references.items():
        say(f"{rows} rows of {table} refer to the recording that was kept.")
    if summary.left_alone:
        say(
            f"{len(summary.left_alone)} calls lie in several banks and were left alone; "
            "--across-banks merges them into the bank of the oldest."
        )


@click.command(context_settings={"ignore_unknown_options": True})
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def psql(arguments: tuple[str, ...]) -> None:
    """Open the embedded library in psql, or pass it ARGUMENTS.

    For instance: import-pipeline psql -c 'select title, duration from recordings'
    """
    import subprocess

    from import_pipeline.database import Database, database_url
    from import_pipeline.embedded.installation import find_program
    from import_pipeline.errors import ConfigurationError

    if database_url() is not None:
        raise ConfigurationError('The library is on a server of yours: psql "$DATABASE_URL" opens it.')
    with Database() as database:
        database.require_migrated()
        command = [str(find_program("psql")), "--no-psqlrc", database.owner_url, *arguments]
        raise SystemExit(subprocess.run(command, check=False).returncode)  # noqa: S603 - the person's own words


@click.command()
@click.option(
    "--port", type=click.IntRange(1, 65535), default=3000, show_default=True, help="Where the UI listens, on 127.0.0.1."
)
def dev(port: int) -> None:
    """Open the UI: Dagster's webserver and daemon on this library, until Ctrl-C."""
    from import_pipeline.cli.serving import serve

    serve(port)
