"""Answers that are not as documented: fields of another type, fields that are missing, fields nobody knows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final


class _Absent:
    def __repr__(self) -> str:
        return "ABSENT"


ABSENT: Final = _Absent()
"""As a value: the field is left out."""

WRONG_VALUES: Final[dict[str, Any]] = {
    "int": 42,
    "str": "not what you expected",
    "list": [{"unexpected": True}],
    "null": None,
    "dict": {"unexpected": [1, 2, 3]},
    "bool": True,
    "float": -1.5,
    "empty": "",
    "absent": ABSENT,
}
"""Name of a type → a value of that type."""

UNKNOWN_FIELDS: Final[dict[str, Any]] = {"x_added_later": {"nested": [1, "two", None]}, "x_flag": True}
UNKNOWN_VALUE: Final = "added_later"
"""In place of an enumeration's value."""


def apply(document: Any, changes: Mapping[str, Any]) -> Any:
    """Set fields of a document, given by dotted path such as `recorded_by.email` or `recording_files.0.file_type`.

    `*` means every element of a list. A path that the document does not have is passed over.
    """
    for path, value in changes.items():
        _set(document, path.split("."), value)
    return document


def add_unknown_fields(document: Any) -> Any:
    """Add fields that nobody knows to every object of a document."""
    if isinstance(document, dict):
        for value in document.values():
            add_unknown_fields(value)
        document.update(UNKNOWN_FIELDS)
    elif isinstance(document, list):
        for value in document:
            add_unknown_fields(value)
    return document


def _set(node: Any, path: list[str], value: Any) -> None:
    name, rest = path[0], path[1:]
    if isinstance(node, list):
        if name == "*":
            keys: list[Any] = list(range(len(node)))
        else:
            keys = [int(name)] if name.lstrip("-").isdigit() and -len(node) <= int(name) < len(node) else []
    else:
        keys = [name] if isinstance(node, dict) and (name in node or not rest) else []
    for key in keys:
        if rest:
            _set(node[key], rest, value)
        elif value is ABSENT:
            del node[key]
        else:
            node[key] = value
