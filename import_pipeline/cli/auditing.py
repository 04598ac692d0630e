"""The command `audit`."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict
from itertools import groupby

import click

from import_pipeline.cli.output import plural, print_json, printable, say
from import_pipeline.cli.session import json_option
from import_pipeline.database.audit import RULES, find_findings, judge_login
from import_pipeline.database.opening import Database, database_url

_SHOWN = 5


@click.command()
@click.option("--rule", metavar="RULE", help="Look for one rule only, and show all that breaks it.")
@json_option
def audit(rule: str | None, as_json: bool) -> None:
    """Look for what the database leaves open; change nothing.

    Works on any database that DATABASE_URL names, migrated or not. Exits with 1 if anything is found.
    """
    # On the embedded server the role of the importer's login may be missing still.
    with (
        Database(database_url()) as database,
        database.connect_as_owner() if database.is_embedded else database.connect() as conn,
    ):
        findings = find_findings(conn, rule)
        if not database.is_embedded and rule in (None, "login-role"):
            findings += judge_login(conn)
    if as_json:
        print_json([asdict(finding) for finding in findings])
    for name, group in groupby(() if as_json else findings, lambda finding: finding.rule):
        members = list(group)
        shown = members if rule else members[:_SHOWN]
        click.echo(f"\n{name}: {plural(len(members), 'finding')}. {RULES[name]}")
        for finding in shown:
            click.echo(f"  {finding.severity:<7}  {printable(finding.object)}")
            click.echo(f"           {printable(finding.problem)}")
            if finding.remedy:
                click.echo(f"           {printable(finding.remedy)}")
        if len(members) > len(shown):
            click.echo(f"  … and {len(members) - len(shown)} more: import-pipeline audit --rule {name}")
    if findings:
        counts = Counter(finding.severity for finding in findings)
        say(f"{plural(len(findings), 'finding')}: {counts['danger']} dangerous, {counts['warning']} to look at.")
        raise SystemExit(1)
    say("Nothing found.")
