"""The bundled migrations: plain SQL files, one folder a database, applied by one process at a time.

The files name the table ``litestar_session``, so that a database's own client runs them unchanged; here that
identifier, and those derived from it, are replaced by the configured table's.
"""

from __future__ import annotations

import asyncio
import re
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from .config import running_loop
from .dialects import Step
from .exceptions import AlreadyThereError, ContentionError, SQLStoreError, TableMismatchError, TableMissingError
from .names import index_name

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .config import BaseConfig
    from .dialects import Dialect, Statement

__all__ = ("check_table", "create_table", "down_statements", "drop_table", "up_sql", "up_statements")

COLUMNS = frozenset(
    {"namespace", "session_id", "data", "expires_at", "version", "principal", "created_at", "updated_at"}
)
PATIENCE = 60.0
"""Seconds that a statement of a migration may take or wait for another process's."""

_BUNDLED_TABLE = "litestar_session"
_BUNDLED_NAME = re.compile(rf"\b{_BUNDLED_TABLE}(?:_(\w+))?\b")
_tasks: set[asyncio.Task[None]] = set()


async def create_table(config: BaseConfig, table: str) -> None:
    """Apply the bundled migrations for *table*, unless it is there.

    Raises:
        TableMismatchError: a table of that name is there, and it is not ours.
        SQLStoreError: the database refused.
    """
    await _migrate(config, table, up_statements(config.dialect, table), creates=True)


async def check_table(config: BaseConfig, table: str) -> None:
    """See that *table* is there, and made by the bundled migrations.

    Raises:
        TableMissingError: it is not there.
        TableMismatchError: a table of that name is there, and it is not ours.
        SQLStoreError: the database refused.
    """
    if not await _Migration(config, table, creates=True).is_done():
        msg = f"table {table} does not exist: await store.create_table(), or apply the bundled migrations"
        raise TableMissingError(msg)


async def drop_table(config: BaseConfig, table: str) -> None:
    """Undo the bundled migrations for *table*, if it is there.

    Raises:
        TableMismatchError: a table of that name is there, and it is not ours.
        SQLStoreError: the database refused.
    """
    await _migrate(config, table, down_statements(config.dialect, table), creates=False)


def up_sql(dialect: Dialect, table: str) -> str:
    """Return the text of all bundled migrations for *table*, in order."""
    return "\n".join(_texts(dialect, table, "up"))


def up_statements(dialect: Dialect, table: str) -> list[str]:
    """Return the statements of `up_sql`."""
    return [statement for text in _texts(dialect, table, "up") for statement in _split(text)]


def down_statements(dialect: Dialect, table: str) -> list[str]:
    """Return the statements that undo all bundled migrations for *table*, the last first."""
    return [statement for text in reversed(_texts(dialect, table, "down")) for statement in _split(text)]


def _texts(dialect: Dialect, table: str, direction: str) -> list[str]:
    folder = files("sqlstore") / "migrations" / dialect.name
    names = sorted(path.name for path in folder.iterdir() if path.name.endswith(f".{direction}.sql"))
    return [_rename((folder / name).read_text("utf-8"), table) for name in names]


def _rename(text: str, table: str) -> str:
    return _BUNDLED_NAME.sub(lambda match: index_name(table, match[1]) if match[1] else table, text)


def _split(text: str) -> list[str]:
    """Split at each ``;`` that closes a line; a line of comment belongs to no statement."""
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("--")]
    return [part.strip() for part in re.split(r";\s*$", "\n".join(lines), flags=re.MULTILINE) if part.strip()]


def _index_names(dialect: Dialect, table: str) -> set[str]:
    suffixes = {match[1] for match in _BUNDLED_NAME.finditer(up_sql(dialect, _BUNDLED_TABLE)) if match[1]}
    return {index_name(table, suffix).lower() for suffix in suffixes}


async def _migrate(config: BaseConfig, table: str, statements: Sequence[str], *, creates: bool) -> None:
    task = running_loop().create_task(_Migration(config, table, creates=creates).run(statements))
    _tasks.add(task)
    task.add_done_callback(_tasks.discard)
    # A caller that is cancelled leaves the migration to end by itself: a cancelled statement can wedge a driver.
    await asyncio.shield(task)


class _Migration:
    """One run over a connection of its own."""

    def __init__(self, config: BaseConfig, table: str, *, creates: bool) -> None:
        self._config = config
        self._dialect = config.dialect
        self._table = table
        self._creates = creates

    async def is_done(self) -> bool:
        """Return whether there is nothing to do."""
        try:
            async with self._config.spare_connection() as self._connection:
                return await self._is_done()
        except Exception as error:  # noqa: BLE001 - raised translated
            translated = self._config.translated(error, self._table, connecting=True)
            raise translated from translated.__cause__

    async def run(self, statements: Sequence[str]) -> None:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + PATIENCE
        while True:
            try:
                return await self._attempt(statements)
            except Exception as error:  # noqa: BLE001 - raised translated
                translated = self._explained(error)
                if not isinstance(translated, ContentionError) or loop.time() > deadline:
                    raise translated from translated.__cause__
            await asyncio.sleep(0.02)

    async def _attempt(self, statements: Sequence[str]) -> None:
        try:
            self._connection = await self._config.open_store_connection()
        except Exception as error:
            raise self._config.translated(error, self._table, connecting=True) from error
        try:
            if not await self._is_done():
                await self._apply(statements)
        finally:
            await self._connection.close()

    async def _apply(self, statements: Sequence[str]) -> None:
        for text in self._dialect.migration_begin:
            await self._execute(Step(text))
        try:
            # Another process may have done it while this one waited.
            if not await self._is_done():
                for text in statements:
                    await self._execute_once(text)
            await self._execute(Step(self._dialect.migration_commit))
        except BaseException:
            # Leaves nothing of it, also where the database keeps a failed transaction open.
            self._connection.kill()
            raise

    async def _execute_once(self, text: str) -> None:
        """Execute a statement, which another process may have executed where there is no lock that keeps it out."""
        try:
            await self._execute(Step(text))
        except Exception as error:
            done = AlreadyThereError if self._creates else TableMissingError
            if self._dialect.indexes is None or self._config.classify(error) is not done:
                raise

    async def _is_done(self) -> bool:
        columns = await self._names(self._dialect.columns)
        if columns and not columns >= COLUMNS:
            msg = (
                f"table {self._table} exists without the columns {', '.join(sorted(COLUMNS - columns))}: it was not "
                "made by the bundled migrations; choose another session_table, or rename the old table"
            )
            raise TableMismatchError(msg)
        if not self._creates:
            return not columns
        if not columns or self._dialect.indexes is None:
            return bool(columns)
        return await self._names(self._dialect.indexes) >= _index_names(self._dialect, self._table)

    async def _names(self, statement: Statement) -> set[str]:
        return {row[0] for row in await self._execute(statement.bind({"table": self._table}, ()))}

    async def _execute(self, step: Step) -> Sequence[Sequence[Any]]:
        timer = asyncio.get_running_loop().call_later(PATIENCE + self._config.timeout, self._connection.kill)
        try:
            return (await self._connection.run([step], atomic=False))[0]
        finally:
            timer.cancel()

    def _explained(self, error: Exception) -> SQLStoreError:
        translated = self._config.translated(error, self._table)
        # What seems to be missing is the schema; a syntax error is a reserved word for a name.
        if isinstance(translated, TableMissingError) or type(translated) is SQLStoreError:
            translated = SQLStoreError(f"cannot create or drop table {self._table}: {error}")
            translated.__cause__ = error
        return translated
