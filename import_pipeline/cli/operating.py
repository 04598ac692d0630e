"""The commands of whoever runs it: `migrate`, `duplicates`, `dev`."""

from __future__ import annotations

from pathlib import Path

import click

from import_pipeline.cli.output import print_json, say
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
    with Database(database_url()) as database, database.connect() as conn:
        if not check:
            applied = [migration.filename for migration in migrations.apply(conn)]
            if as_json:
                print_json({"applied": applied})
            else:
                for name in applied:
                    click.echo(f"applied  {name}")
                say("The database is up to date.")
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
            click.echo(f"drifted  {drift}")
        if status.is_current:
            say("The database is up to date.")
    raise SystemExit(0 if status.is_current else 1)


@click.command()
@click.option("--port", default=3000, show_default=True, help="Where the UI listens, on 127.0.0.1.")
def dev(port: int) -> None:
    """Open the UI: Dagster's webserver and daemon on this library, until Ctrl-C."""
    from import_pipeline.dev import serve

    serve(port)
