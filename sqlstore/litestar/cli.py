"""What an operator does about sessions: ``litestar sessions list|revoke|stats|prune``.

They join Litestar's own commands, and work over the application's store with connections of their own, which are
closed in the end: the application is made, but not started.
"""

from __future__ import annotations

import asyncio
import json
from contextlib import aclosing
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TypeVar

import click
from litestar.exceptions import ImproperlyConfiguredException
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ..exceptions import SQLStoreError
from .sessions import Sessions
from .sessions.in_application import session_configs

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping

    from litestar import Litestar

    from ..store import BaseSQLSpecStore
    from .sessions import SessionInfo

__all__ = ("add_commands",)

T = TypeVar("T")

_COLUMNS = ("id", "principal", "created_at", "last_seen", "expires_at", "user_agent", "address")
"""Of a `SessionInfo`: all but what it is stored under, which may be a secret."""
_WIDTHS: Mapping[str, int] = dict.fromkeys(("created_at", "last_seen", "expires_at"), len("2026-01-01"))


def add_commands(cli: click.Group) -> None:
    """Add the commands to the group ``sessions`` of Litestar's command line."""
    group: Any = cli.commands["sessions"]
    for command in (list_sessions, revoke, stats, prune):
        group.add_command(command)


@click.command("list")
@click.option("--principal", help="Only the sessions of this user.")
@click.option("--json", "as_json", is_flag=True, help="An array of objects.")
def list_sessions(app: Litestar, principal: str | None, *, as_json: bool) -> None:
    """List the sessions that live.

    On a terminal a table, with those first that were seen last; elsewhere lines of columns between tabs. Instants are
    UTC.
    """

    async def show(sessions: Sessions, _: object) -> None:
        async with aclosing(_sessions_of(sessions, principal)) as found:
            if as_json:
                separator = "["
                async for session in found:
                    click.echo(separator + _json({name: getattr(session, name) for name in _COLUMNS}), nl=False)
                    separator = ",\n"
                click.echo("]" if separator != "[" else "[]")
            elif Console().is_terminal:
                latest = sorted([session async for session in found], key=_last_seen, reverse=True)
                _show_table(latest)
            else:
                header = "\t".join(_COLUMNS) + "\n"
                async for session in found:
                    click.echo(header + "\t".join(_cells(session)))
                    header = ""
                click.echo(header, nl=False)

    _run(app, show)


@click.command("revoke")
@click.argument("principal", required=False)
@click.option("--session", "session_id", metavar="ID", help="Only this session, by its id in the list.")
@click.option("--no-prompt", is_flag=True, help="Do not ask first.")
def revoke(app: Litestar, principal: str | None, session_id: str | None, *, no_prompt: bool) -> None:
    """End all sessions of the user PRINCIPAL, or one session: whoever has its cookie has to log in again."""
    if (principal is None) == (session_id is None):
        msg = "name either a PRINCIPAL, or one session with --session ID"
        raise click.UsageError(msg)

    async def revoke_all(sessions: Sessions, _: object) -> int:
        return await sessions.revoke_all(principal or "")

    async def revoke_one(sessions: Sessions, _: object) -> int:
        async with aclosing(sessions.all_sessions()) as found:
            async for session in found:
                if session.id == session_id:
                    await sessions.revoke(session)
                    return 1
        msg = f"there is no session {session_id}: see litestar sessions list"
        raise click.ClickException(msg)

    if not no_prompt:
        which = f"session {session_id}" if principal is None else f"all sessions of {principal!r}"
        click.confirm(f"End {which}?", abort=True)
    click.echo(f"Sessions ended: {_run(app, revoke_one if principal is None else revoke_all)}")


@click.command("stats")
@click.option("--json", "as_json", is_flag=True, help="An object.")
def stats(app: Litestar, *, as_json: bool) -> None:
    """Count the sessions."""

    async def count(sessions: Sessions, _: object) -> dict[str, Any]:
        found = await sessions.statistics()
        return {
            "rows": found.rows,
            "live": found.rows - found.expired,
            "expired": found.expired,
            "principals": found.principals,
            "bytes": found.bytes,
            "oldest": None if found.oldest is None else datetime.fromtimestamp(found.oldest, UTC),
        }

    counted = _run(app, count)
    if as_json:
        click.echo(_json(counted))
    else:
        for name, value in counted.items():
            click.echo(f"{name}\t{_cell(value)}")


@click.command("prune")
def prune(app: Litestar) -> None:
    """Delete the rows of sessions that have expired."""

    async def delete_expired(_: object, store: BaseSQLSpecStore[Any]) -> tuple[int, int]:
        rows = backlog = 0
        with Console(stderr=True).status("0 rows deleted") as status:
            # The store's own delete_expired, step by step.
            async with aclosing(store._prune()) as steps:  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]
                async for deleted, left in steps:
                    rows += deleted
                    backlog += left
                    status.update(f"{rows} rows deleted")
        return rows, backlog

    deleted, left = _run(app, delete_expired)
    click.echo(f"Rows deleted: {deleted}")
    if left:
        click.echo(f"Rows left, because others held them: {left}")


def _run(app: Litestar, work: Callable[[Sessions, BaseSQLSpecStore[Any]], Awaitable[T]]) -> T:
    """Return what *work* returns, which gets the sessions of *app*, and their store."""
    config = next(session_configs(app), None)
    if config is None:
        msg = "the application has no sessions of ours: give it middleware=[SQLSessionConfig().middleware]"
        raise click.ClickException(msg)

    async def run() -> T:
        async with config.get_store_from_app(app) as store:
            return await work(Sessions(store, config), store)

    try:
        return asyncio.run(run())
    except ImproperlyConfiguredException as error:
        raise click.ClickException(error.detail) from error
    except SQLStoreError as error:
        raise click.ClickException(" ".join(str(error).split())) from error


async def _sessions_of(sessions: Sessions, principal: str | None) -> AsyncGenerator[SessionInfo, None]:
    if principal is not None:
        for session in await sessions.list_sessions(principal):
            yield session
        return
    async with aclosing(sessions.all_sessions()) as found:
        async for session in found:
            yield session


def _last_seen(session: SessionInfo) -> datetime:
    return session.last_seen


def _cells(session: SessionInfo) -> list[str]:
    return [_cell(getattr(session, name)) for name in _COLUMNS]


def _cell(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, datetime):
        return f"{value:%Y-%m-%d %H:%M:%S}"
    # A user agent is whatever a client has sent, and could move the terminal's cursor.
    return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in str(value))


def _json(value: object) -> str:
    return json.dumps(value, default=datetime.isoformat)  # in ASCII, for the same reason


def _show_table(sessions: Iterable[SessionInfo]) -> None:
    table = Table(box=None, pad_edge=False)
    for name in _COLUMNS:
        # An id can be copied, and a date is not broken, on a terminal of 80 columns.
        table.add_column(name.partition("_")[0], overflow="fold", no_wrap=name == "id", min_width=_WIDTHS.get(name))
    for session in sessions:
        table.add_row(*map(Text, _cells(session)))  # no markup
    Console().print(table)
