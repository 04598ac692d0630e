"""The commands that only ask: `counts`, `status`, `failures`, `why`, `sources`. None of them loads Dagster."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from import_pipeline.cli.output import answer, plural, print_json, print_table, printable, say, show_time
from import_pipeline.cli.session import json_option, open_session, user_option
from import_pipeline.connectors.base import discover_connectors, get_connector
from import_pipeline.database.tenancy import acting_as
from import_pipeline.errors import ADVICE
from import_pipeline.library.ledger import (
    count_recordings,
    explain_item,
    explain_recording,
    list_failures,
    summarise_accounts,
)

_STATUS_HEADINGS = (
    *("Source", "Account", "Connected", "Last complete run", "Next sync"),
    *("Imported", "Waiting", "Failed", "Ignored", "Last run", "Problem"),
)


@click.command()
@user_option
@json_option
def counts(user: str | None, as_json: bool) -> None:
    """Say how many calls of each source are in the library."""
    with open_session(user) as (_, conn, user_id), acting_as(conn, user_id):
        found = count_recordings(conn, user_id)
    if as_json:
        print_json(found)
    elif not found:
        say("The library is empty. Begin with: import-pipeline upload PATH")
    else:
        print_table(["Source", "Recordings"], [*found.items(), ("all", sum(found.values()))])


@click.command()
@user_option
@json_option
def status(user: str | None, as_json: bool) -> None:
    """Show each account: whether it is connected, last run, what is imported, waiting, failed."""
    with open_session(user) as (_, conn, user_id), acting_as(conn, user_id):
        rows = summarise_accounts(conn, user_id)
    connectors = discover_connectors()
    for row in rows:
        connector = connectors.get(row["source_app"])
        has_credential = row.pop("has_credential")
        row["is_connected"] = has_credential if connector and connector.authenticates_by else None
        if connector is None or not connector.is_polled or row["is_connected"] is False:
            row["next_sync_at"] = None  # nothing but a person brings it about
    if as_json:
        print_json(rows)
        return
    if not rows:
        say("No source is in use yet. Begin with: import-pipeline upload PATH")
        return
    print_table(
        _STATUS_HEADINGS,
        [
            (
                row["source_app"],
                row["account_email"],
                {True: "yes", False: "no", None: ""}[row["is_connected"]],
                show_time(row["last_sync_at"]),
                _describe_next_sync(row["next_sync_at"]),
                row["imported"],
                row["waiting"],
                row["failed"],
                row["ignored"],
                _describe_last_run(row),
                row["error_message"] or row["last_run_error"],
            )
            for row in rows
        ],
    )
    for row in rows:
        if row["is_connected"] is False:
            say(f"{row['source_app']} is not connected; `import-pipeline connect {row['source_app']}` connects it.")
    if any(row["failed"] for row in rows):
        say("`import-pipeline failures` lists what failed and why.")


@click.command()
@click.argument("source", required=False)
@click.option("--limit", type=click.IntRange(min=1), default=1000, show_default=True, help="At most this many.")
@user_option
@json_option
def failures(source: str | None, limit: int, user: str | None, as_json: bool) -> None:
    """List the items that could not be imported, with the reason, newest first."""
    if source is not None:
        get_connector(source)  # a mistyped source is told, and not taken for one without failures
    with open_session(user) as (_, conn, user_id), acting_as(conn, user_id):
        rows = list_failures(conn, user_id, source, limit)
    if as_json:
        print_json(rows)
    elif not rows:
        say("Nothing failed.")
    else:
        print_table(
            ["Source", "Item", "Why", "Class", "Attempts", "Last tried"],
            [
                (
                    row["source_app"],
                    row["location"] or row["title"] or row["external_id"],
                    row["error_message"],
                    row["error_class"],
                    row["attempts"],
                    row["updated_at"],
                )
                for row in rows
            ],
        )
        newest = "newest " if len(rows) == limit else ""
        say(f"{len(rows)} {newest}failed. `import-pipeline retry` tries again, `import-pipeline why ITEM` tells more.")


@click.command(context_settings={"ignore_unknown_options": True})  # an id may begin with a dash
@click.argument("item", metavar="EXTERNAL_ID_OR_PATH")
@user_option
@json_option
def why(item: str, user: str | None, as_json: bool) -> None:
    """Tell what became of one item, by its external id, its path or its link."""
    from import_pipeline.connectors.file_upload.files import ids_of_file
    from import_pipeline.library.drop_folder import reach_of_command

    with open_session(user) as (_, conn, user_id):
        ids = [item, *ids_of_file(item, reach_of_command(conn))]
        with acting_as(conn, user_id):
            rows = explain_item(conn, user_id, ids)
            recordings = [] if rows else explain_recording(conn, user_id, ids)
    if as_json:
        print_json(rows or recordings)
    for row in () if as_json else rows:
        answer(_explain(row))
    for row in () if as_json else recordings:
        answer(
            f"{printable(row['title'] or '')} ({printable(row['source_app'] or '')}): in the library as recording "
            f"{row['recording_id']} since {show_time(row['created_at'])}, but not imported by import_pipeline."
        )
    if not rows and not recordings:
        known = "The file is there, but it was never uploaded" if Path(item).is_file() else "No import ever listed it"
        say(f"Nothing is known about {item!r}. {known}, or it belongs to another user (--user).")
        raise SystemExit(1)


@click.command()
@json_option
def sources(as_json: bool) -> None:
    """List the sources that can be imported from."""
    rows = [
        {
            "source": connector.source_app,
            "title": connector.title,
            "description": connector.description,
            "credentials": [each.kind for each in connector.authenticates_by],
            "documentation": connector.documentation_url,
        }
        for connector in discover_connectors().values()
    ]
    if as_json:
        print_json(rows)
        return
    print_table(
        ["Source", "What it imports", "Credentials", "Documentation"],
        [
            (row["source"], row["description"], ", ".join(row["credentials"]) or "none", row["documentation"])
            for row in rows
        ],
    )


def _describe_next_sync(at: datetime | None) -> str:
    if at is None:
        return ""
    return "due" if at <= datetime.now(UTC) else show_time(at)


def _describe_last_run(row: dict[str, Any]) -> str:
    if row["last_run_status"] is None:
        return "never"
    progress = ""
    if row["last_run_status"] == "processing":
        progress = f", {row['progress_current'] or 0} of {row['progress_total'] or 0}"
    return f"{row['last_run_status'].replace('_', ' ')}{progress}, {show_time(row['last_run_at'])}"


def _explain(row: dict[str, Any]) -> str:
    name = printable(row["title"] or row["location"] or row["external_id"])
    lines = [f"{name} ({row['source_app']}): {row['status']}"]
    match row["status"]:
        case "imported" if row["recording_id"] is None:
            command = f"import-pipeline retry --id {printable(row['external_id'])}"
            lines[0] += f", and later deleted in the library. `{command}` imports it again"
        case "imported":
            lines.append(f"recording      {row['recording_id']}, {printable(row['recording_title'] or '')}")
        case "failed":
            lines.append(f"reason         {printable(row['error_message'] or '')} [{row['error_class']}]")
            lines.append(f"what to do     {ADVICE.get(row['error_class'], '')}")
            if row["request_id"]:
                lines.append(f"request id     {printable(row['request_id'])}")
        case "waiting" | "ignored":
            lines.append(f"reason         {printable(row['error_message'] or '')}")
    if row["status"] == "imported" and row["error_message"]:
        lines.append(f"still to do    {printable(row['error_message'])}")
    lines += [
        f"external id    {printable(row['external_id'])}",
        f"where          {printable(row['location'] or 'unknown')}",
        f"started        {show_time(row['started_at']) if row['started_at'] else 'unknown'}",
        f"first listed   {show_time(row['first_seen_at'])}",
        f"last changed   {show_time(row['updated_at'])}, {plural(row['attempts'], 'attempt')}, run {row['run_id']}",
    ]
    if row["retry_at"] is not None and row["error_class"] not in ("data", "permanent", "bug"):
        lines.append(f"next attempt   {show_time(row['retry_at'])} or later")
    return "\n  ".join(lines)
