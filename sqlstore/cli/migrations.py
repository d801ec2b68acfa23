"""Commands for migrations: what `Migrator` does, and new files for it."""

from __future__ import annotations

import copy
import re
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.console import Console

from ..migration_files import folder_source
from ..migrator import Migrator
from .configs import Databases, explained, run
from .output import confirm, json_option, json_text, no_prompt_option, show

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Sequence

    from ..migration_files import SQLFile
    from ..migration_plan import AppliedVersion
    from ..migration_run import Applied, Progress

__all__ = ("COMMANDS",)

_source_option = click.option(
    "--source",
    type=click.Choice(["application", "store"]),
    help="Only the application's migrations, or those of the stores' table.",
)
_sql_option = click.option(
    "--sql", "as_sql", is_flag=True, help="Print a script for the database's own client; the database is not asked."
)
# So that -1 is a revision.
_SIGNED = {"ignore_unknown_options": True}


@click.command("init")
@click.argument("folder", metavar="DIR", type=click.Path(file_okay=False, path_type=Path))
def init(folder: Path) -> None:
    """Make the folder DIR for the application's own migrations."""
    with _written():
        folder.mkdir(parents=True, exist_ok=True)
    click.echo(
        f'Made {folder}. Name it in the config: extension_config={{"migrations": {{"script_location": "{folder}"}}}}'
    )


@click.command("make-migration")
@click.argument("name")
@click.pass_obj
def make_migration(databases: Databases, name: str) -> None:
    """Make the two files of the next migration, NNNN_NAME.up.sql and NNNN_NAME.down.sql, and print their paths."""
    if not re.fullmatch("[a-z0-9_]{1,100}", name):
        nearest = re.sub("[^a-z0-9]+", "_", name.lower()).strip("_")
        msg = f"{name!r} names no migration: use 1 to 100 of a-z, 0-9 and _, for instance {nearest or 'add_books'}"
        raise click.UsageError(msg)
    folder = databases.config().script_location
    if folder is None:
        msg = (
            "the config has no folder for migrations: run sqlstore init migrations, and give the config "
            'extension_config={"migrations": {"script_location": "migrations"}}'
        )
        raise click.ClickException(msg)
    with explained():
        label = f"{folder_source(folder).head + 1:04}_{name}"
    texts = {"up": f"-- {label}: what changes, each statement with a ; at the end of a line.\n"}
    texts["down"] = f"-- Undoes {label}.\n"
    for direction, text in texts.items():
        file = folder / f"{label}.{direction}.sql"
        with _written(), file.open("x", encoding="utf-8") as output:
            output.write(text)
        click.echo(file)


@click.command("upgrade")
@click.argument("revision", required=False)
@_source_option
@_sql_option
@click.option("--dry-run", is_flag=True, help="Print the files that would run.")
@click.option("--no-prompt", is_flag=True, hidden=True, expose_value=False)  # of other tools, which ask first
@json_option
@click.pass_obj
def upgrade(  # noqa: PLR0913 - the command's options
    databases: Databases,
    revision: str | None,
    source: str | None,
    *,
    as_sql: bool,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Apply what is pending: everything, or up to REVISION.

    REVISION is head, +1, a number, or a label such as 0002_add_books; of the application's migrations, if it has any.
    """
    migrator = _migrator(databases)
    if as_sql:
        _script(lambda: migrator.sql("up", revision, source), as_json=as_json)
    elif dry_run:
        _show_files(run(migrator.plan("up", revision, source)), as_json=as_json)
    else:
        with _Progress() as progress:
            applied = run(migrator.upgrade(revision, source, on_progress=progress))
        _show_applied(applied, as_json=as_json)


@click.command("downgrade", context_settings=_SIGNED)
@click.argument("revision", default="-1")
@_source_option
@_sql_option
@no_prompt_option
@json_option
@click.pass_obj
def downgrade(  # noqa: PLR0913 - the command's options
    databases: Databases, revision: str, source: str | None, *, as_sql: bool, no_prompt: bool, as_json: bool
) -> None:
    """Undo what was applied last, or all that was applied after REVISION.

    REVISION is -1, base, a number, or a label such as 0002_add_books; of the application's migrations, if it has any.
    """
    _refuse_option(revision)
    migrator = _migrator(databases)
    if as_sql:
        _script(lambda: migrator.sql("down", revision, source), as_json=as_json)
        return
    applied: list[Applied] = []
    if files := run(migrator.plan("down", revision, source)):
        confirm(f"Run {_listed(files)}?", no_prompt=no_prompt)
        with _Progress() as progress:
            applied = run(migrator.downgrade(revision, source, on_progress=progress))
    _show_applied(applied, as_json=as_json)


@click.command("current")
@json_option
@click.pass_obj
def current(databases: Databases, *, as_json: bool) -> None:
    """Print the newest version that is applied, and how many are pending, of the stores and of the application."""
    rows: list[tuple[object, ...]] = []
    for each in run(_migrator(databases).status()):
        newest = next((version for version in reversed(each.applied) if version.running is None), None)
        applied = (_label(newest), newest.applied_at) if newest else (None, None)
        rows.append((each.source.name, *applied, len(each.pending), len(each.problems)))
    show(("source", "migration", "applied_at", "pending", "problems"), rows, as_json=as_json)


@click.command("history")
@json_option
@click.pass_obj
def history(databases: Databases, *, as_json: bool) -> None:
    """Print all versions: what is applied, when and in how many seconds, what stopped half-way, what is pending."""
    rows: list[tuple[object, ...]] = []
    for each in run(_migrator(databases).status()):
        for version in each.applied:
            state = f"stopped at {version.running}" if version.running else "applied"
            seconds = None if version.duration is None else round(version.duration, 6)
            rows.append((each.source.name, _label(version), state, version.applied_at, seconds))
        rows += [(each.source.name, migration.label, "pending", None, None) for migration in each.pending]
    show(("source", "migration", "state", "applied_at", "seconds"), rows, as_json=as_json)


@click.command("check")
@json_option
@click.pass_context
def check(ctx: click.Context, *, as_json: bool) -> None:
    """Print what is pending, edited, missing, half applied or different from what it should be; then exit with 1."""
    problems = run(_migrator(ctx.obj).check())
    if as_json:
        click.echo(json_text(problems))
    else:
        click.echo("\n".join(problems or ["All migrations are applied, as they were written."]))
    ctx.exit(1 if problems else 0)


@click.command("stamp", context_settings=_SIGNED)
@click.argument("revision")
@_source_option
@json_option
@click.pass_obj
def stamp(databases: Databases, revision: str, source: str | None, *, as_json: bool) -> None:
    """Record that all versions up to REVISION are applied, and no other, and run nothing.

    For what was done by hand: a version that stopped half-way, or a database that is older than this tool.
    """
    _refuse_option(revision)
    recorded = run(_migrator(databases).stamp(revision, source))
    rows = [(_label(version), version.applied_at) for version in recorded]
    show(("migration", "applied_at"), rows, as_json=as_json)


@click.command("drop-all")
@no_prompt_option
@json_option
@click.pass_obj
def drop_all(databases: Databases, *, no_prompt: bool, as_json: bool) -> None:
    """Undo all migrations, of the application and of the stores' table, and drop their history.

    Other tables are left alone.
    """
    migrator = _migrator(databases)

    async def files_of(kinds: list[str]) -> list[SQLFile]:
        return [file for kind in kinds for file in await migrator.plan("down", "base", kind)]

    async def undo(kinds: list[str], progress: Callable[[Progress], object]) -> list[Applied]:
        applied = [each for kind in kinds for each in await migrator.downgrade("base", kind, on_progress=progress)]
        await migrator.drop_history()
        return applied

    # The application's tables first, which may refer to the stores'.
    kinds = [each.source.name.partition(":")[0] for each in reversed(run(migrator.status()))]
    files = run(files_of(kinds))
    confirm(f"Run {_listed(files) or 'no file'}, and drop the history?", no_prompt=no_prompt)
    with _Progress() as progress:
        applied = run(undo(kinds, progress))
    _show_applied(applied, as_json=as_json)


@click.command("merge-migrations", hidden=True, context_settings=_SIGNED)
@click.argument("arguments", nargs=-1)
def merge_migrations(arguments: tuple[str, ...]) -> None:  # noqa: ARG001 - other tools take some
    """Say why there is nothing to merge."""
    click.echo(
        "A numbered history has no branches to merge: of two files with one number, rename one to the next number."
    )


class _Progress:
    """Says on a terminal which statement runs."""

    def __init__(self) -> None:
        self._status = Console(stderr=True).status("connecting")

    def __enter__(self) -> Callable[[Progress], object]:
        self._status.start()
        return self._update

    def __exit__(self, *_: object) -> None:
        self._status.stop()

    def _update(self, at: Progress) -> None:
        self._status.update(f"{at.source}: {at.file}, statement {at.statement} of {at.statements}")


@contextmanager
def _written() -> Generator[None, None, None]:
    try:
        yield
    except OSError as error:
        raise click.ClickException(str(error)) from error


def _refuse_option(revision: str) -> None:
    if revision.startswith("--"):
        raise click.NoSuchOption(revision)


def _migrator(databases: Databases) -> Migrator:
    config = databases.config()
    try:
        with explained():
            return Migrator(config)
    except (TypeError, ValueError) as error:  # the name of the stores' table
        raise click.ClickException(str(error)) from error


def _script(make: Callable[[], str], *, as_json: bool) -> None:
    if as_json:
        msg = "--sql prints SQL: leave out --json"
        raise click.UsageError(msg)
    with explained():
        click.echo(make(), nl=False)


def _show_files(files: Sequence[SQLFile], *, as_json: bool) -> None:
    show(("file",), [(file.name,) for file in files], as_json=as_json)


def _show_applied(applied: Sequence[Applied], *, as_json: bool) -> None:
    rows = [(each.source, each.migration.label, each.direction, round(each.duration, 6)) for each in applied]
    if not (rows or as_json):
        click.echo("Nothing to do.", err=True)
    show(("source", "migration", "direction", "seconds"), rows, as_json=as_json)


def _listed(files: Sequence[SQLFile]) -> str:
    return ", ".join(file.name for file in files)


def _label(version: AppliedVersion) -> str:
    return f"{version.version:04}_{version.name}"


def _alias(command: click.Command, name: str) -> click.Command:
    """Return *command* under the name that Advanced Alchemy gives it."""
    alias = copy.copy(command)
    alias.name, alias.hidden = name, True
    return alias


COMMANDS: tuple[click.Command, ...] = (
    init,
    make_migration,
    upgrade,
    downgrade,
    current,
    history,
    check,
    stamp,
    drop_all,
    merge_migrations,
    _alias(make_migration, "make-migrations"),
    _alias(current, "show-current-revision"),
    _alias(stamp, "stamp-migration"),
)
