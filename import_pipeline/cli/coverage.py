"""The command `coverage`: asks a source for a month, and says of every call whether it is in the library."""

from __future__ import annotations

from dataclasses import asdict

import click

from import_pipeline.cli.output import plural, print_json, print_table, say, show_time
from import_pipeline.cli.session import json_option, open_session, user_option
from import_pipeline.connectors.base import get_connector
from import_pipeline.database.tenancy import database_time
from import_pipeline.errors import ConfigurationError, ItemError, SourceUnavailableError, class_of, passes
from import_pipeline.library.accounts import find_accounts


@click.command()
@click.argument("source")
@click.option("--month", default="", metavar="YYYY-MM", help="For instance 2024-05; by default this month.")
@user_option
@json_option
def coverage(source: str, month: str, user: str | None, as_json: bool) -> None:
    """Compare what SOURCE lists for a month with the library, call by call.

    Only the listing is asked for, nothing is imported. Exits with 1 if a call is missing or has failed.
    """
    from import_pipeline.library.clients import Storage
    from import_pipeline.stages.coverage import compare_account, parse_month

    connector = get_connector(source)
    if not connector.partitioned:
        raise ConfigurationError(f"{connector.title} cannot be asked for a month.")
    with open_session(user) as (database, conn, user_id):
        window = parse_month(month, database_time(conn))
        accounts = find_accounts(conn, source, [user_id])
        if not accounts:
            command = f"import-pipeline connect {source}"
            raise ConfigurationError(f"You have no account at {connector.title}; `{command}` opens one.")
        storage = Storage(database.connect, database.is_embedded)
        if not as_json:
            say(f"Asking {connector.title} for {window.start:%B %Y} …")
        try:
            compared = compare_account(conn, connector, accounts[0], window, storage)
        except ItemError as error:  # of a listing it is the whole answer, and no matter of one item
            kind = SourceUnavailableError if passes(class_of(error)) else ConfigurationError
            raise kind(str(error)) from error
    differences = compared.differences
    if as_json:
        counts = {verdict: number for verdict, number in compared.counts.items() if number}
        print_json({"month": compared.month, "counts": counts, "differences": [asdict(item) for item in differences]})
        raise SystemExit(0 if compared.is_complete else 1)
    if differences:
        print_table(
            ["Call", "Began", "What", "Why"],
            [
                (item.title or item.external_id, show_time(item.started_at), item.verdict, item.reason)
                for item in differences
            ],
        )
    listed, imported = plural(compared.listed, "call"), compared.counts["imported"]
    say(f"{listed} listed, {imported} of them imported, {plural(len(differences), 'difference')}.")
    if compared.counts["missing"]:
        say(f"A backfill of this month, or `import-pipeline sync {source} --full`, imports what is missing.")
    raise SystemExit(0 if compared.is_complete else 1)
