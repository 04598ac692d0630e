"""Figures as the UI shows them: tables in Markdown and times. Nothing of what the figures mean."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

MOST_ROWS = 100
"""Of a table in the UI: an event is kept for weeks, and nobody reads on."""
_LONGEST_CELL = 200
_SHOWN = "\N{NO-BREAK SPACE}"


def to_markdown(headings: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Write a table in Markdown; what is in the cells is shown as it is, whatever characters it holds."""
    kept = list(rows)
    are_numbers = [all(isinstance(row[column], int) for row in kept) for column in range(len(headings))]
    lines = [
        [_cell(heading) for heading in headings],
        ["---:" if is_number else "---" for is_number in are_numbers],
        *([_cell(value) for value in row] for row in kept),
    ]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def show_time(value: datetime | None) -> str:
    """Write a time for people who sit in any zone."""
    if value is None:
        return "never"
    return _join(f"{value.astimezone(UTC):%-d %b %Y %H:%M} UTC")


def show_month(month: str) -> str:
    """Write a month ('2026-03')."""
    return _join(f"{datetime.strptime(month, '%Y-%m').replace(tzinfo=UTC):%b %Y}")


def _join(text: str) -> str:
    """Let no line be broken in a text: the columns of the UI are narrow."""
    return text.replace(" ", "\N{NO-BREAK SPACE}")


def _cell(value: Any) -> str:
    text = re.sub(r"[^\S\N{NO-BREAK SPACE}]+", " ", str(value)).strip(" ")
    text = "".join(char if char.isprintable() or char in _SHOWN else "\N{REPLACEMENT CHARACTER}" for char in text)
    if len(text) > _LONGEST_CELL:
        text = f"{text[:_LONGEST_CELL]}…"
    return re.sub(r"([\\`*_{}\[\]<>|~#&])", r"\\\1", text)
