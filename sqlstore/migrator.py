"""Migrations of a config's sources: apply them, undo them, say what is applied; and a store's own table by them."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from .exceptions import MigrationError, SQLStoreError, TableMismatchError, TableMissingError
from .migration_files import APPLICATION, SQLFile, bundled_source, history_file, sources_of
from .migration_plan import SourceStatus, as_applied, checked, status_of, steps_to, version_of
from .migration_run import MigrationRun, MigrationSession, history_values

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Sequence

    from .config import BaseConfig
    from .dialects import Dialect, Step
    from .migration_files import MigrationSource
    from .migration_plan import AppliedVersion, Direction
    from .migration_run import Applied, Progress

__all__ = ("Migrator", "check_table", "create_table", "down_statements", "drop_table", "up_sql")

_PLACEHOLDER = re.compile(r"\$\d+|:\d+|\?|%s")


class Migrator:
    """Runs the migrations of a config's sources, over connections of its own."""

    def __init__(self, config: BaseConfig, sources: Sequence[MigrationSource] | None = None) -> None:
        """Take *sources*, or those of the config: the bundled one and the application's folder.

        Raises:
            MigrationError: the folder is not there, or a file has a wrong name.
        """
        self._config = config
        self._sources = sources_of(config) if sources is None else list(sources)

    async def status(self) -> list[SourceStatus]:
        """Return what is applied and what is not, by source. Reads only.

        Raises:
            SQLStoreError: the database refused.
        """
        async with MigrationSession.open(self._config) as session:
            return [await session.status(source) for source in self._sources]

    async def check(self) -> list[str]:
        """Return in words what is not as it should be: nothing if all is applied, and as it was written.

        Raises:
            SQLStoreError: the database refused.
        """
        found: list[str] = []
        for status in await self.status():
            found += status.problems
            found += [f"{status.source.name}: {each.label} is pending: run sqlstore upgrade" for each in status.pending]
        return found

    async def upgrade(
        self,
        revision: str | None = None,
        source: str | None = None,
        *,
        on_progress: Callable[[Progress], object] | None = None,
    ) -> list[Applied]:
        """Apply what is pending up to *revision*, and return what was run by this call.

        Without *revision*, all sources, or the one named *source*, to their newest version. Otherwise ``head``, ``+1``,
        a number, or a label such as ``0002_create_books``, of the application's source if there is one.

        Raises:
            MigrationError: a file was edited, is missing or in the wrong order, or the database refused it.
            TableMismatchError: a table with the name of the stores' is there, and it is not ours.
            SQLStoreError: the database refused.
        """
        run = MigrationRun(self._config, on_progress)
        return await run.finish(run.upgrade(self._chosen(source, revision), revision))

    async def downgrade(
        self,
        revision: str = "-1",
        source: str | None = None,
        *,
        on_progress: Callable[[Progress], object] | None = None,
    ) -> list[Applied]:
        """Undo what is applied after *revision*, the last first, and return what was run by this call.

        *revision* is ``-1``, ``base``, a number or a label, of the application's source if there is one, or of the one
        named *source*.

        Raises:
            MigrationError: a version cannot be undone, or the database refused it.
            TableMismatchError: a table with the name of the stores' is there, and it is not ours.
            SQLStoreError: the database refused.
        """
        [chosen] = self._chosen(source, revision)
        run = MigrationRun(self._config, on_progress)
        return await run.finish(run.downgrade(chosen, revision))

    async def stamp(self, revision: str, source: str | None = None) -> list[AppliedVersion]:
        """Record that all versions up to *revision* are applied as they are written now, and no other; run nothing.

        Return the versions that the history then has.

        Raises:
            MigrationError: there is no such version.
            SQLStoreError: the database refused.
        """
        [chosen] = self._chosen(source, revision)
        run = MigrationRun(self._config)
        return await run.finish(run.stamp(chosen, revision))

    async def drop_history(self) -> bool:
        """Drop the table of the history, unless it has a version of some source; return whether it is gone.

        Raises:
            SQLStoreError: the database refused.
        """
        run = MigrationRun(self._config)
        return await run.finish(run.drop_history())

    async def plan(self, direction: Direction, revision: str | None = None, source: str | None = None) -> list[SQLFile]:
        """Return the files that `upgrade` or `downgrade` would run, in order. Reads only.

        Raises:
            MigrationError: `upgrade` or `downgrade` would refuse to begin.
            SQLStoreError: the database refused.
        """
        if direction == "down" and revision is None:
            revision = "-1"
        found: list[SQLFile] = []
        async with MigrationSession.open(self._config) as session:
            for chosen in self._chosen(source, revision):
                status = await session.state(chosen, direction)
                found += [step.file for step in checked(steps_to(status, direction, revision), self._config.dialect)]
        return found

    def sql(self, direction: Direction, revision: str | None = None, source: str | None = None) -> str:
        """Return what `upgrade` or `downgrade` would run as a script for the database's own client, without asking it.

        It begins with nothing applied, or with everything if it goes down; or else at the first of the two revisions in
        ``0002:0004``. It also writes the history, and makes its table if it begins with nothing.

        Raises:
            MigrationError: there is no such version.
        """
        begin, colon, end = (revision or "").rpartition(":")
        if not colon:
            begin = "base" if direction == "up" else "head"
        parts: list[str] = []
        dialect = self._config.dialect.for_table(self._config.version_table)
        if dialect.script.stop:
            parts.append(f"{dialect.script.stop}\n")
        if direction == "up" and begin == "base":
            parts.append(history_file(dialect.name, self._config.version_table).sql)
        for chosen in self._chosen(source, revision):
            whole = SourceStatus(chosen, [], list(chosen.migrations), [])
            version = version_of(whole, begin)
            applied = [as_applied(each) for each in chosen.migrations if each.version <= version]
            status = status_of(chosen, applied)
            for step in steps_to(status, direction, end or ("base" if direction == "down" else None)):
                recorded = dialect.record if direction == "up" else dialect.forget
                written = _literal(recorded.bind(history_values(chosen, step.migration), ()))
                lines = [f"-- {chosen.name}: {step.file.name}", step.file.script(dialect), f"{written};\n"]
                if dialect.transactional_ddl and step.file.in_transaction:
                    lines[1:] = ["BEGIN;", *lines[1:-1], f"{written};", "COMMIT;\n"]
                parts.append("\n".join(lines))
        return "\n".join(parts)

    def _chosen(self, source: str | None, revision: str | None) -> list[MigrationSource]:
        """Return the sources that a call is about: one if it names a *source* or a *revision*."""
        if source is None and revision is None:
            return self._sources
        names = {each.name.partition(":")[0]: each for each in self._sources}
        if source is None:
            return [names.get(APPLICATION) or self._sources[0]]
        if source not in names:
            msg = f"there is no source {source}: use {' or '.join(names)}"
            if source == APPLICATION:
                msg += ", or name the folder of the application's migrations as script_location"
            raise MigrationError(msg)
        return [names[source]]


async def create_table(config: BaseConfig, table: str) -> None:
    """Apply the bundled migrations for *table*, unless it is there.

    Raises:
        TableMismatchError: a table of that name is there, and it is not ours.
        SQLStoreError: the database refused.
    """
    run = MigrationRun(config, makes_history=False)
    await _of_table(config, table, run, run.upgrade([bundled_source(config.dialect, table)], None))


async def check_table(config: BaseConfig, table: str) -> None:
    """See that *table* is there, and made by the bundled migrations.

    Raises:
        TableMissingError: it is not there.
        TableMismatchError: a table of that name is there, and it is not ours.
        SQLStoreError: the database refused.
    """
    source = bundled_source(config.dialect, table)
    async with MigrationSession.open(config, config.timeout) as session:
        version = await session.stored_version(table)
    if version == 0:
        msg = f"table {table} does not exist: await store.create_table(), or apply the bundled migrations"
        raise TableMissingError(msg)
    if version < source.head:
        msg = f"table {table} is at version {version} of {source.head}: await store.create_table(), or sqlstore upgrade"
        raise TableMismatchError(msg)


async def drop_table(config: BaseConfig, table: str) -> None:
    """Undo the bundled migrations for *table*, if it is there.

    Raises:
        TableMismatchError: a table of that name is there, and it is not ours.
        SQLStoreError: the database refused.
    """
    run = MigrationRun(config, makes_history=False)
    await _of_table(config, table, run, run.downgrade(bundled_source(config.dialect, table), "base"))


def up_sql(dialect: Dialect, table: str) -> str:
    """Return the text of all bundled migrations for *table*, in order."""
    return "\n".join(each.up.sql for each in bundled_source(dialect, table).migrations)


def down_statements(dialect: Dialect, table: str) -> list[str]:
    """Return the statements that undo all bundled migrations for *table*, the last first."""
    files = [each.down for each in reversed(bundled_source(dialect, table).migrations) if each.down is not None]
    return [statement.text for file in files for statement in file.statements(dialect)]


async def _of_table(config: BaseConfig, table: str, run: MigrationRun, work: Coroutine[Any, Any, object]) -> None:
    """Finish what a store wants to be done, whose caller knows nothing of files."""
    try:
        await run.finish(work)
    except MigrationError as error:
        cause = error.__cause__
        translated = config.translated(cause, table) if isinstance(cause, Exception) else error
        # What seems to be missing is the schema; a syntax error is a reserved word for a name.
        if isinstance(translated, (TableMissingError, MigrationError)) or type(translated) is SQLStoreError:
            translated = SQLStoreError(f"cannot create or drop table {table}: {cause or error}")
        raise translated from cause


def _literal(step: Step) -> str:
    """Return a step with its values in the text: numbers, and words of letters, digits, colons and underscores."""
    values = iter(step.parameters)

    def literal(_: re.Match[str]) -> str:
        value = next(values)
        return "NULL" if value is None else f"'{value}'" if isinstance(value, str) else repr(value)

    return _PLACEHOLDER.sub(literal, step.text.strip())
