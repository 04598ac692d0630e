"""What a database leaves open: findings read from its catalogue, on any database and without changing it.

Each rule is one query `audit_<rule>` that returns what breaks it. A rule concerns the owner's objects
as much as ours, where it does not name ours. Whether our own objects are still as our migrations left them is the
business of `migrations.check`, and whether policies do what they are meant to that of the tests.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import psycopg
from psycopg.rows import scalar_row, tuple_row

from import_pipeline.database.planted import (
    LIBRARY_TABLES,
    TENANCY_TABLES,
    find_planted_triggers,
    identify,
    list_triggers,
)
from import_pipeline.database.sql import query
from import_pipeline.database.tenancy import acting_as
from import_pipeline.errors import ConfigurationError

Severity = Literal["danger", "warning"]
_Connection = psycopg.Connection[Any]

RULES: dict[str, str] = {
    "tables-without-row-security": "Rows of these tables are guarded by no policy.",
    "open-policies": "These policies let everybody write every row.",
    "views": "These show rows past the policies of the tables they read.",
    "definer-callers": "Anybody may execute these functions, which see what their owner sees.",
    "definer-paths": (
        "These functions run with their owner's rights, and the caller can have a say in what they run. Only an empty "
        "search_path names no place where somebody else could put a function, operator, table or type."
    ),
    "creatable-schemas": "In these schemas everybody may plant functions and operators.",
    "private-schema": "Only import_worker may use the schema import_pipeline: it holds the credentials.",
    "foreign-owners": "The owners of these can change what our policies and functions trust.",
    "foreign-triggers": "These run code of others in the importer's sessions, or let others have it run there.",
    "vault-roles": "The importer does not know what these roles allow, and takes them for those of guests.",
    "worker-role": "The role import_worker must be bound by every policy.",
    "login-role": "The importer's login import_login must be able to become import_worker, and nothing else.",
    "worker-privileges": "The role import_worker has other rights than it needs.",
    "blinded-functions": "Our functions must see these tables whole.",
    "policies-per-row": "These policies are slow: the more rows, the more.",
}
"""Name of each rule → what it means when something breaks it, the gravest first."""


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that breaks a rule.

    Args:
        rule: A key of `RULES`.
        severity: `danger`: rows or rights are open now, or one call away. `warning`: one more mistake opens them, or it
            costs time.
        object: What it is about, with its kind and schema: `view public.totals`.
        problem: What is wrong with it.
        remedy: The SQL statement that mends it, to be read before it is run; None where there is no single one.
    """

    rule: str
    severity: Severity
    object: str
    problem: str
    remedy: str | None


def find_findings(conn: _Connection, rule: str | None = None) -> list[Finding]:
    """Read the catalogue and return what breaks a rule, rule by rule; migrated or not, ours or not.

    Args:
        conn: Any connection to PostgreSQL 15 or newer, of any login: the catalogue is open to all.
        rule: The only rule to look for.

    Raises:
        ConfigurationError: There is no such rule.
    """
    if rule is not None and rule not in RULES:
        raise ConfigurationError(f"There is no rule {rule!r}. The rules are: {', '.join(RULES)}.")
    findings: list[Finding] = []
    # In a transaction of the caller's it is a savepoint; rolling back ends the settings with it.
    with conn.transaction(force_rollback=True):
        conn.execute("set transaction read only")
        # So that every name is spelt out, and none is looked up elsewhere, temporary objects last.
        conn.execute("set local search_path = '', pg_temp")
        with conn.cursor(row_factory=scalar_row) as cursor:
            schemas = cursor.execute(query("audit_schemas")).fetchall()
        with conn.cursor(row_factory=tuple_row) as cursor:
            for name in RULES if rule is None else [rule]:
                if name == "vault-roles":
                    findings += find_unknown_roles(conn)
                    continue
                found: list[Finding] = []
                if name == "foreign-triggers":
                    found += [Finding(name, *row) for row in find_planted_triggers(cursor, TENANCY_TABLES)]
                told = {finding.object for finding in found}
                cursor.execute(
                    query(f"audit_{name.replace('-', '_')}"),
                    {"schemas": schemas, "migrates": False, "tables": list(LIBRARY_TABLES)},
                )
                found += [finding for row in cursor if (finding := Finding(name, *row)).object not in told]
                if name == "foreign-triggers":  # last, as the least that is said of a trigger
                    told = {finding.object for finding in found}
                    found += [finding for finding in find_new_triggers(conn) if finding.object not in told]
                findings += found
    return findings


def find_new_triggers(conn: _Connection) -> list[Finding]:
    """Return the triggers on the library's tables that were not there when the database was migrated.

    A trigger of the owner's is no danger, but it need not be the owner who made it: a function that refuses what it is
    not meant for stops every import.
    """
    known = _ask_functions(conn)[0]
    return [
        Finding(
            "foreign-triggers",
            "warning",
            trigger,
            f"Was not there when the database was migrated. It runs {function}.",
            f"drop {trigger};  -- if it is not yours; if it is, `import-pipeline migrate` takes note of it",
        )
        for trigger, function in ({} if known is None else list_triggers(conn)).items()
        if identify(trigger, function) not in (known or ())
    ]


def find_unknown_roles(conn: _Connection) -> list[Finding]:
    """Return the roles in vaults that the importer does not know."""
    return [
        Finding(
            "vault-roles",
            "warning",
            f"role {role!r} in vaults" if role else "members of vaults without a role",
            "Whoever has it puts calls into vaults of their own banks only; elsewhere that takes the role vault_owner, "
            "vault_admin, manager or member.",
            None,
        )
        for role in _ask_functions(conn)[1]
    ]


def _ask_functions(conn: _Connection) -> tuple[list[str] | None, list[str]]:
    """Return the known triggers (None: not known) and the unknown roles, as far as this login may ask for them."""
    with conn.cursor(row_factory=tuple_row) as cursor:
        if cursor.execute(query("has_functions")).fetchone() != (True,):
            return None, []
        try:
            with acting_as(conn, None):
                known, roles = cursor.execute(query("find_known")).fetchone() or (None, [])
        except ConfigurationError:
            return None, []
    return known, roles


def judge_login(conn: _Connection) -> list[Finding]:
    """Say whether the login of a connection, meant to be the importer's, can do more than importing.

    Nothing is said before the first migration: there is no importer yet.
    """
    with conn.transaction(force_rollback=True), conn.cursor(row_factory=tuple_row) as cursor:
        conn.execute("set local search_path = '', pg_temp")
        return [Finding("login-role", *row) for row in cursor.execute(query("judge_login"))]
