"""What commands print: a table on a terminal, lines of columns between tabs elsewhere, JSON where a script asked."""

from __future__ import annotations

import json
import sys
from datetime import datetime
from typing import TYPE_CHECKING

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

__all__ = ("cell", "confirm", "json_option", "json_text", "no_prompt_option", "show", "show_table")

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
no_prompt_option = click.option("--no-prompt", is_flag=True, help="Do not ask first.")


def show(columns: Sequence[str], rows: Sequence[Sequence[object]], *, as_json: bool) -> None:
    """Print *rows*; *as_json*, an array of objects."""
    if as_json:
        click.echo(json_text([dict(zip(columns, row, strict=True)) for row in rows]))
    elif Console().is_terminal:
        show_table(columns, rows)
    else:
        for row in (columns, *rows):
            click.echo("\t".join(map(cell, row)))


def show_table(
    columns: Iterable[str], rows: Iterable[Iterable[object]], widths: Mapping[str, int | None] | None = None
) -> None:
    """Print *rows* for a terminal; *widths* has the least that a column needs, None for one that is never broken."""
    widths = widths or {}
    table = Table(box=None, pad_edge=False)
    for name in columns:
        width = widths.get(name, 0)
        table.add_column(name.partition("_")[0], overflow="fold", no_wrap=width is None, min_width=width)
    for row in rows:
        table.add_row(*(Text(cell(value)) for value in row))  # no markup
    Console().print(table)


def cell(value: object) -> str:
    """Return *value* for a column; None is ``-``."""
    if value is None:
        return "-"
    if isinstance(value, datetime):
        return f"{value:%Y-%m-%d %H:%M:%S}"
    # A user agent is whatever a client has sent, and could move the terminal's cursor.
    return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in str(value))


def json_text(value: object) -> str:
    """Return *value* as JSON, instants as ISO 8601."""
    return json.dumps(value, default=datetime.isoformat)  # in ASCII, for the same reason


def confirm(question: str, *, no_prompt: bool) -> None:
    """Ask *question*, and end the command unless the answer is yes.

    Raises:
        click.UsageError: there is nobody to ask.
    """
    if no_prompt:
        return
    if not sys.stdin.isatty():
        msg = "nobody can be asked, for stdin is no terminal: give --no-prompt"
        raise click.UsageError(msg)
    click.confirm(question, abort=True, err=True)
