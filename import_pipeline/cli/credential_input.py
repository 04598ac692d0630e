"""Where `connect` takes a credential from: the environment, standard input, a person at the terminal.

Never from an argument: those stand in the shell's history and in the list of processes. No message repeats a value.
"""

from __future__ import annotations

import json
import math
import re
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from typing import Any

import click

from import_pipeline.cli.output import say
from import_pipeline.connectors.base import Connector
from import_pipeline.errors import ConfigurationError
from import_pipeline.providers.authentication import ApiKey, Authentication, OAuth
from import_pipeline.providers.source_settings import setting_name, source_setting

_SHOWN_WHILE_TYPED = ("account_id", "client_id")
_LABELS = {"api_key": "API key"}
_TOKEN_FIELDS = ("access_token", "expires_at")
_MAX_BYTES = 100_000


_Needs = Mapping[Authentication, Sequence[str]]
"""Kinds of credentials, each with the fields that it needs."""


def find_kinds(connector: Connector, kind: str | None) -> list[Authentication]:
    """Return the kinds of credentials that a source accepts, or the one that a person named.

    Raises:
        ConfigurationError: The source does not accept it.
    """
    declared = [each for each in connector.authenticates_by if kind in (None, each.kind)]
    if not declared:
        known = ", ".join(each.kind for each in connector.authenticates_by)
        raise ConfigurationError(f"{connector.title} does not accept a credential of the kind {kind!r}, but: {known}.")
    return declared


def read_credential(
    connector: Connector, declared: Sequence[Authentication], *, for_consent: bool = False
) -> tuple[Authentication, dict[str, Any]]:
    """Return the kind of credential that was given, with the values of its fields.

    Args:
        connector: The source.
        declared: The kinds that it may be; at a terminal the first one is asked for.
        for_consent: Only what a person's consent in a browser needs of the app.

    Raises:
        ConfigurationError: Something is missing or cannot be a secret.
    """
    needs = {each: _needs(each, for_consent) for each in declared}
    names = list(dict.fromkeys(name for each in needs.values() for name in each))
    fields: dict[str, Any] = {name: value for name in names if (value := source_setting(connector.source_app, name))}
    from_environment = set(fields)
    chosen = _find_satisfied(needs, fields)
    if chosen is None and not sys.stdin.isatty():
        given = _parse_input(_read_input(), connector, (*names, *_TOKEN_FIELDS))
        if isinstance(given, str):
            fields[_find_only_missing(connector, needs, fields)] = given
        else:
            fields = given | fields
        chosen = _find_satisfied(needs, fields)
        if chosen is None:
            raise ConfigurationError(_tell_missing(connector, needs, fields))
    chosen = chosen or declared[0]
    if used := [setting_name(connector.source_app, name) for name in needs[chosen] if name in from_environment]:
        say(f"From the environment: {', '.join(used)}.")
    missing = [name for name in needs[chosen] if name not in fields]
    if missing:
        if connector.permissions:
            say(f"{connector.title} needs {connector.permissions}.")
        say(f"How to get it: {connector.documentation_url}")
    for name in missing:
        fields[name] = click.prompt(_label(name), hide_input=name not in _SHOWN_WHILE_TYPED, err=True).strip()
    own = (*needs[chosen], *(() if for_consent or isinstance(chosen, ApiKey) else _TOKEN_FIELDS))
    checked = {name: _check(name, fields[name]) for name in own if fields.get(name)}
    return chosen, checked


def _needs(declared: Authentication, for_consent: bool) -> tuple[str, ...]:
    if for_consent and isinstance(declared, OAuth):
        return tuple(name for name in declared.needs if name != "refresh_token")
    return declared.needs


def _missing(names: Sequence[str], fields: Mapping[str, Any]) -> list[str]:
    return [name for name in names if not fields.get(name)]


def _find_satisfied(needs: _Needs, fields: Mapping[str, Any]) -> Authentication | None:
    return next((each for each, names in needs.items() if not _missing(names, fields)), None)


def _find_only_missing(connector: Connector, needs: _Needs, fields: Mapping[str, Any]) -> str:
    """Return the field that a nameless value must be."""
    for names in needs.values():
        missing = _missing(names, fields)
        if len(missing) == 1:
            return missing[0]
    raise ConfigurationError(
        f"Standard input holds a value without a name, which could be any of several. "
        f"{_tell_missing(connector, needs, fields)}"
    )


def _tell_missing(connector: Connector, needs: _Needs, fields: Mapping[str, Any]) -> str:
    ways = [
        ", ".join(setting_name(connector.source_app, name) for name in _missing(names, fields))
        for names in needs.values()
    ]
    return (
        f"To connect {connector.title}, set {'; or '.join(ways)}. Or give the same on standard input: "
        f"`name=value` lines with the names {', '.join(dict.fromkeys(n for each in needs.values() for n in each))}."
    )


def _read_input() -> str:
    stream = getattr(sys.stdin, "buffer", None)
    content = stream.read(_MAX_BYTES + 1) if stream is not None else sys.stdin.read(_MAX_BYTES + 1).encode()
    if len(content) > _MAX_BYTES:
        raise ConfigurationError("Standard input holds far more than a credential; give only that.")
    try:
        return content.decode("utf-8-sig").strip()
    except UnicodeDecodeError:
        raise ConfigurationError("Standard input holds something that is no text; give the credential only.") from None


def _parse_input(text: str, connector: Connector, names: Sequence[str]) -> dict[str, str] | str:
    """Read a JSON object or lines with names; or a single value, which does not say what it is."""
    if text.startswith("{"):
        return _parse_json(text, connector, names)
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    fields = {}
    for line in lines:
        name, _, value = line.partition("=")
        name = name.strip().lower().replace("-", "_")
        if name not in names:
            break
        if value.strip():
            fields[name] = value.strip()
    else:
        return fields
    if len(lines) > 1:
        raise ConfigurationError(f"Standard input must be `name=value` lines with the names {', '.join(names)}.")
    return lines[0]


def _parse_json(text: str, connector: Connector, names: Sequence[str]) -> dict[str, str]:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        raise ConfigurationError("Standard input begins like a JSON object but is none.") from None
    if not set(found) <= set(names):
        raise ConfigurationError(
            f"The JSON object on standard input has fields that {connector.title} does not know; "
            f"it knows {', '.join(names)}."
        )
    for name, value in found.items():
        if isinstance(value, bool) or not isinstance(value, str | int | float | None):
            raise ConfigurationError(f"The field {name} on standard input must be a text.")
    return {name: str(value).strip() for name, value in found.items() if value is not None and str(value).strip()}


def _check(name: str, value: str) -> Any:
    """Return a value as it is kept; a stray character in it would otherwise break every request."""
    if name == "expires_at":
        return _check_time(value)
    if not re.fullmatch(r"[!-~]+", value):
        raise ConfigurationError(
            f"The field {name} holds a blank, a line break or something that is not ASCII, as none does; copy it again."
        )
    return value


def _check_time(value: str) -> float:
    seconds = math.nan
    with suppress(ValueError):
        seconds = float(value)
    with suppress(ValueError):
        moment = datetime.fromisoformat(value)
        seconds = moment.timestamp() if moment.tzinfo else seconds
    if not math.isfinite(seconds):
        raise ConfigurationError("expires_at must be seconds of the epoch, or a time with its offset (ISO 8601).")
    return seconds


def _label(name: str) -> str:
    return _LABELS.get(name, name.replace("_", " ").capitalize())
