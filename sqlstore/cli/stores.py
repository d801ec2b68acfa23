"""Commands for stores: their table's SQL, what is in it, pruning, and whether the database suits them."""

from __future__ import annotations

import re
from contextlib import aclosing
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TypeVar

import click
from rich.console import Console
from rich.filesize import decimal

from .. import dialects, migrator
from ..dialects import Dialect
from ..doctor import Finding, examine
from ..migration_files import BUNDLED_TABLE
from ..names import validate_table_name
from ..session_rows import namespace_statistics
from .configs import run
from .output import cell, json_option, json_text, show

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from ..store import BaseSQLSpecStore
    from .configs import Databases

    Store = BaseSQLSpecStore[Any]

__all__ = ("COMMANDS", "prune_with_progress", "show_pruned")

T = TypeVar("T")

_DIALECTS = {each.name: each for each in vars(dialects).values() if isinstance(each, Dialect)}
_ROLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_COLOURS = {"ok": "green", "warning": "yellow", "error": "red"}


@click.command("sql")
@click.option("--dialect", "name", type=click.Choice(sorted(_DIALECTS)), help="The config's, if not given.")
@click.option("--table", help="The stores' table; with --dialect, litestar_session if not given.")
@click.option("--role", help="Also grant this role what an application needs.")
@click.pass_obj
def sql(databases: Databases, name: str | None, table: str | None, role: str | None) -> None:
    """Print the SQL that makes the stores' table; no database is asked."""
    if name is None:
        store = _table_of(databases)
        dialect, table = store.config.dialect, table or store.table_name
    else:
        dialect, table = _DIALECTS[name], table or BUNDLED_TABLE
    try:
        validate_table_name(table, dialect)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--table") from error
    if role is not None and not _ROLE.fullmatch(role):
        msg = f"{role!r} would need quotes: use letters, digits and underscores, and change the name in the output"
        raise click.BadParameter(msg, param_hint="--role")
    click.echo(migrator.up_sql(dialect, table), nl=False)
    if role is not None:
        schema = table.rpartition(".")[0] or "public"
        click.echo(dialect.grants.format(table=table, role=role, schema=schema), nl=False)


@click.command("stats")
@json_option
@click.pass_obj
def stats(databases: Databases, *, as_json: bool) -> None:
    """Count what is in the stores' table, by namespace. Sizes are of the values, instants UTC."""
    readable = Console().is_terminal and not as_json
    rows = [
        (
            path.strip("/"),
            found.rows,
            found.rows - found.expired,
            found.expired,
            decimal(found.bytes) if readable else found.bytes,
            None if found.oldest is None else datetime.fromtimestamp(found.oldest, UTC),
        )
        for path, found in _in_table(databases, namespace_statistics).items()
    ]
    show(("namespace", "rows", "live", "expired", "bytes", "oldest"), rows, as_json=as_json)


@click.command("prune")
@json_option
@click.pass_obj
def prune(databases: Databases, *, as_json: bool) -> None:
    """Delete the expired rows of the stores' table, in batches."""
    deleted, left = _in_table(databases, prune_with_progress)
    if as_json:
        click.echo(json_text({"deleted": deleted, "left": left}))
    else:
        show_pruned(deleted, left)


@click.command("doctor")
@json_option
@click.pass_context
def doctor(ctx: click.Context, *, as_json: bool) -> None:
    """Examine the database: what is wrong, what may be, and what to do about it. Nothing is changed."""
    findings = _in_table(ctx.obj, examine)
    if as_json or not Console().is_terminal:
        show(Finding._fields, findings, as_json=as_json)
    else:
        for check, level, found, fix in findings:
            click.echo(f"{click.style(f'{level:8}', _COLOURS[level])}{check}: {cell(found)}")
            if fix is not None:
                click.echo(f"{'':8}fix: {cell(fix)}")
    if any(finding.level == "error" for finding in findings):
        ctx.exit(1)


COMMANDS: tuple[click.Command, ...] = (sql, stats, prune, doctor)


async def prune_with_progress(store: Store) -> tuple[int, int]:
    """Delete what has expired; return how many rows were deleted, and how many left because others held them."""
    rows = backlog = 0
    with Console(stderr=True).status("0 rows deleted") as status:
        # The store's own delete_expired, step by step.
        async with aclosing(store._prune()) as steps:  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]
            async for deleted, left in steps:
                rows += deleted
                backlog += left
                status.update(f"{rows} rows deleted")
    return rows, backlog


def show_pruned(deleted: int, left: int) -> None:
    """Print what `prune_with_progress` returned."""
    click.echo(f"Rows deleted: {deleted}")
    if left:
        click.echo(f"Rows left, because others held them: {left}")


def _table_of(databases: Databases) -> Store:
    """Return a store that covers the whole table."""
    config = databases.config()
    try:
        store: Store = config.new_store()
    except (TypeError, ValueError) as error:  # the table's name
        raise click.ClickException(str(error)) from error
    return type(store)(config, namespace=None)


def _in_table(databases: Databases, work: Callable[[Store], Awaitable[T]]) -> T:
    """Return what *work* returns for the whole table."""
    whole_table = _table_of(databases)

    async def work_in_store() -> T:
        async with whole_table as store:
            return await work(store)

    return run(work_in_store())
