"""What the plugin adds to Litestar's commands: ``sqlstore`` and ``database``, and more for its ``sessions``.

They work over the application's databases with connections of their own, which are closed in the end: the application
is made, but not started.
"""

from __future__ import annotations

from contextlib import aclosing
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import click
from litestar.exceptions import ImproperlyConfiguredException
from rich.console import Console

from ..cli import COMMANDS
from ..cli.configs import Databases, run
from ..cli.output import cell, json_text, no_prompt_option, show_table
from ..cli.stores import prune_with_progress, show_pruned
from .plugin import SQLStorePlugin
from .sessions import Sessions
from .sessions.in_application import session_configs

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable

    from litestar import Litestar

    from ..config import BaseConfig
    from ..store import BaseSQLSpecStore
    from .sessions import SessionInfo

__all__ = ("add_commands",)

T = TypeVar("T")

_COLUMNS = ("id", "principal", "created_at", "last_seen", "expires_at", "user_agent", "address")
"""Of a `SessionInfo`: all but what it is stored under, which may be a secret."""
# An id can be copied, and a date is not broken, on a terminal of 80 columns.
_WIDTHS = {"id": None, **dict.fromkeys(("created_at", "last_seen", "expires_at"), len("2026-01-01"))}


def add_commands(cli: click.Group) -> None:
    """Add ours to the group ``sessions`` of Litestar's command line, and the groups ``sqlstore`` and ``database``."""
    group: Any = cli.commands["sessions"]
    for command in (list_sessions, revoke, stats, prune):
        group.add_command(command)
    cli.add_command(_databases("sqlstore"))
    # The name that other plugins use, too: one that comes later takes it.
    if "database" not in cli.commands:
        cli.add_command(_databases("database"))


def _databases(name: str) -> click.Group:
    @click.group(name)
    @click.option("--bind-key", metavar="KEY", help="Which one of several databases.")
    def group(app: Litestar, bind_key: str | None) -> None:
        """Migrate the application's databases by plain SQL files, and look after the stores' tables."""
        click.get_current_context().obj = Databases(partial(_configs, app), bind_key)

    for command in COMMANDS:
        group.add_command(command)
    return group


def _configs(app: Litestar) -> dict[str, BaseConfig]:
    plugins = [plugin for plugin in app.plugins if isinstance(plugin, SQLStorePlugin)]
    return {key: store.config for plugin in plugins for key, store in plugin.stores.items()}


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
                    click.echo(separator + json_text({name: getattr(session, name) for name in _COLUMNS}), nl=False)
                    separator = ",\n"
                click.echo("]" if separator != "[" else "[]")
            elif Console().is_terminal:
                latest = sorted([session async for session in found], key=_last_seen, reverse=True)
                show_table(_COLUMNS, map(_cells, latest), _WIDTHS)
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
@no_prompt_option
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
        click.echo(json_text(counted))
    else:
        for name, value in counted.items():
            click.echo(f"{name}\t{cell(value)}")


@click.command("prune")
def prune(app: Litestar) -> None:
    """Delete the rows of sessions that have expired."""
    show_pruned(*_run(app, lambda _, store: prune_with_progress(store)))


def _run(app: Litestar, work: Callable[[Sessions, BaseSQLSpecStore[Any]], Awaitable[T]]) -> T:
    """Return what *work* returns, which gets the sessions of *app*, and their store."""
    config = next(session_configs(app), None)
    if config is None:
        msg = "the application has no sessions of ours: give it middleware=[SQLSessionConfig().middleware]"
        raise click.ClickException(msg)

    async def work_in_store() -> T:
        async with config.get_store_from_app(app) as store:
            return await work(Sessions(store, config), store)

    try:
        return run(work_in_store())
    except ImproperlyConfiguredException as error:
        raise click.ClickException(error.detail) from error


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
    return [cell(getattr(session, name)) for name in _COLUMNS]
