"""How commands speak: tables and JSON on standard output, progress and complaints on standard error.

Nothing from a source reaches the terminal without passing `printable`: a title may hold escape sequences.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from datetime import datetime
from typing import Any

import click

_WIDTH_OF_A_PIPE = 1000


def print_json(value: Any) -> None:
    """Print one JSON value on one line: every script as it is, and as an escape what could steer a terminal."""
    text = json.dumps(value, default=_to_json, ensure_ascii=False)
    click.echo("".join(char if char.isprintable() else json.dumps(char)[1:-1] for char in text))


def print_table(headings: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Print a table; on a pipe it is as wide as its contents."""
    from rich import box
    from rich.console import Console
    from rich.measure import Measurement
    from rich.table import Table
    from rich.text import Text

    console = Console(soft_wrap=False) if sys.stdout.isatty() else Console(width=_WIDTH_OF_A_PIPE)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for position, heading in enumerate(headings):
        is_number = bool(rows) and all(isinstance(row[position], int) for row in rows)
        table.add_column(heading, justify="right" if is_number else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(_show(value)) for value in row))
    if sys.stdout.isatty() and Measurement.get(console, console.options, table).maximum > console.width:
        _print_blocks(headings, rows)  # a table squeezed into a narrow terminal breaks words apart
    else:
        console.print(table)


def _print_blocks(headings: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    width = max(map(len, headings))
    for row in rows:
        click.echo()
        for heading, value in zip(headings, row, strict=True):
            click.echo(f"{heading:<{width}}  {_show(value)}")


def answer(text: str) -> None:
    """Print lines on standard output."""
    click.echo("\n".join(map(printable, text.splitlines())))


def say(text: str) -> None:
    """Tell on standard error what is going on."""
    click.echo("\n".join(map(printable, text.splitlines())), err=True)


def complain(text: str) -> None:
    """Tell on standard error what went wrong."""
    click.echo(click.style("Error: ", fg="red", bold=True), nl=False, err=True)
    say(text)


def printable(text: str) -> str:
    """Replace what could steer a terminal or break a line."""
    return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text)


def plural(number: int, word: str) -> str:
    """Return a number with its noun."""
    return f"{number} {word}" if number == 1 else f"{number} {word}s"


def show_time(value: datetime | None) -> str:
    """Return a time as people of this machine's zone read it."""
    return "never" if value is None else value.astimezone().strftime("%Y-%m-%d %H:%M")


def _show(value: Any) -> str:
    if isinstance(value, datetime):
        return show_time(value)
    return "" if value is None else printable(str(value))


def _to_json(value: Any) -> str:
    return value.isoformat() if isinstance(value, datetime) else str(value)
