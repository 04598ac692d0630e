"""The commands that import: `upload`, `sync`, `backfill` and `retry`."""

from __future__ import annotations

from datetime import UTC, date, datetime
from itertools import groupby
from pathlib import Path
from typing import Any

import click

from import_pipeline.cli.output import plural, print_json, say
from import_pipeline.cli.session import default_user, json_option, open_session, user_option
from import_pipeline.connectors.base import get_connector
from import_pipeline.database.opening import open_database
from import_pipeline.database.tenancy import acting_as
from import_pipeline.errors import ConfigurationError
from import_pipeline.instance.loading import loading
from import_pipeline.library.accounts import ensure_account, find_account
from import_pipeline.library.ledger import explain_item, request_retry


@click.command()
@click.argument("paths", nargs=-1, required=True, type=click.Path(path_type=Path, exists=True))
@user_option
@json_option
def upload(paths: tuple[Path, ...], user: str | None, as_json: bool) -> None:
    """Import transcripts from files and folders (recursive), each exactly once.

    Formats: .vtt, .srt, .txt, .json and .docx as Zoom, Teams, Meet, Fathom, Otter and Whisper write them. A file that
    is still being written is left alone, a renamed copy is not imported twice. Files in a drop
    folder are read by its rules: without following links, and only from the folder of the user.
    """
    from import_pipeline.connectors.file_upload import FileUpload
    from import_pipeline.connectors.file_upload.files import display_path, path_as_text

    connector = get_connector(FileUpload.source_app)
    who = user or default_user()  # on a database of the owner's, open_session refuses to go on without a name
    with open_session(user, creates_user=True) as (database, conn, user_id):
        say(f"Importing {', '.join(map(display_path, paths[:3]))}{' …' if len(paths) > 3 else ''} for {who} …")
        ensure_account(conn, user_id, connector.source_app, who)
        options = {"paths": [path_as_text(path.absolute()) for path in paths]}
        with loading():  # Dagster, so it comes after the first words
            from import_pipeline.cli.run_import import run_import

        raise SystemExit(run_import(database, connector, user_id, options, as_json=as_json))


@click.command()
@click.argument("source")
@click.option("--full", is_flag=True, help="List the whole history again, not only what came since the last run.")
@user_option
@json_option
def sync(source: str, full: bool, user: str | None, as_json: bool) -> None:
    """Import what is new at a source."""
    from import_pipeline.providers.credentials import find_options

    connector = get_connector(source)
    if not connector.is_polled:
        raise ConfigurationError(f"{connector.title} has nothing to look for by itself; use `import-pipeline upload`.")
    with open_session(user) as (database, conn, user_id):
        if not connector.authenticates_by:
            ensure_account(conn, user_id, source, user or default_user())
        else:
            account_id = find_account(conn, user_id, source)
            if account_id is None or find_options(conn, account_id, user_id) is None:
                raise ConfigurationError(f"{connector.title} is not connected: run `import-pipeline connect {source}`.")
        what = "everything" if full else "what is new"
        say(f"Importing {what} at {connector.title} for {user or default_user()} …")
        with loading():  # Dagster, so it comes after the first words
            from import_pipeline.cli.run_import import run_import

        raise SystemExit(run_import(database, connector, user_id, {}, as_json=as_json, full=full))


class _Month(click.ParamType):  # type: ignore[type-arg] # generic only in newer releases of click
    """A month such as 2025-03."""

    name = "YYYY-MM"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> date:
        """Return its first day."""
        try:
            return datetime.strptime(value, "%Y-%m").replace(tzinfo=UTC).date()
        except ValueError:
            self.fail(f"{value!r} is not a month such as 2025-03.", param, ctx)


@click.command()
@click.argument("source")
@click.option("--from", "first", type=_Month(), help="The earliest month. [default: where the source's history begins]")
@click.option("--to", "last", type=_Month(), help="The latest month. [default: this month]")
@click.option(
    "--user",
    "users",
    metavar="EMAIL",
    multiple=True,
    envvar="IMPORT_PIPELINE_USER",
    show_envvar=True,
    help="The user; may be repeated. [default: every active account]",
)
@click.option("--yes", is_flag=True, help="Do not ask before beginning.")
@json_option
def backfill(
    source: str, first: date | None, last: date | None, users: tuple[str, ...], yes: bool, as_json: bool
) -> None:
    """Import months of history from a source, the newest first.

    Shows what it would do and asks. Each month is a run of its own; imports of what is new go on beside them and come
    first. Repeated, it lists all and imports the rest. The UI launches the same from the page of the source's job:
    Partitions, Launch backfill.
    """
    connector = get_connector(source)
    with open_database() as database:
        with loading():  # Dagster
            from import_pipeline.cli.backfilling import run_backfill

        raise SystemExit(run_backfill(database, connector, users, first, last, yes=yes, as_json=as_json))


@click.command()
@click.argument("source", required=False)
@click.option("--id", "items", multiple=True, metavar="ID_OR_PATH", help="Only this item, whatever its state.")
@user_option
@json_option
def retry(source: str | None, items: tuple[str, ...], user: str | None, as_json: bool) -> None:
    """Try again what failed, or single items; brings back deleted ones."""
    from import_pipeline.connectors.file_upload.files import ids_of_file
    from import_pipeline.library.drop_folder import reach_of_command

    if source is not None:
        get_connector(source)  # a mistyped source is told, and not taken for one without failures
    with open_session(user) as (database, conn, user_id):
        reach = reach_of_command(conn)
        with acting_as(conn, user_id, writes=("import_items",)):
            named = [
                {row["external_id"] for row in explain_item(conn, user_id, [item, *ids_of_file(item, reach)])}
                for item in items
            ]
            unknown = [item for item, ids in zip(items, named, strict=True) if not ids]
            if unknown:
                raise ConfigurationError(
                    f"There is no item {', '.join(map(repr, unknown))}; `import-pipeline failures` lists what failed."
                )
            due = request_retry(conn, user_id, source, sorted(set().union(*named)) or None)
        if not due:
            say(
                "There is nothing to retry." if not items else "These items need no retry; `import-pipeline why` tells."
            )
            if as_json:
                print_json(dict.fromkeys(("listed", "inserted", "skipped", "waiting", "failed", "ignored"), 0))
            return
        say(f"Trying {plural(len(due), 'item')} again …")
        with loading():  # Dagster, so it comes after the first words
            from import_pipeline.cli.run_import import run_import

        due.sort(key=lambda row: row["source_app"])
        code = 0
        for source_app, rows in groupby(due, key=lambda row: row["source_app"]):
            connector = get_connector(source_app)
            options = connector.options_for_retry({row["external_id"]: row["location"] for row in rows})
            code = max(code, run_import(database, connector, user_id, options, as_json=as_json))
        raise SystemExit(code)
