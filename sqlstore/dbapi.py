"""Connections of drivers that have the cursors of PEP 249, synchronous or with ``await`` in front.

https://peps.python.org/pep-0249/
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from typing_extensions import override

from .pool import AsyncConnection, Fetched, SyncConnection

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Coroutine, Generator, Sequence

    from .dialects import Dialect, Step
    from .pool import Parameters, TransactionMode

    Rows = Sequence[Sequence[Any]]

__all__ = ("AsyncDBAPIConnection", "Cursors", "SyncDBAPIConnection")

T = TypeVar("T")
_MOMENT = 1.0
"""Seconds."""


class Cursors:
    """What does not depend on whether the driver is asynchronous."""

    driver_connection: Any

    def _cursor(self) -> Any:  # noqa: ANN401
        """Return a cursor whose rows are sequences."""
        return self.driver_connection.cursor()

    def _stream_cursor(self) -> Any:  # noqa: ANN401
        """Return a cursor that leaves its rows on the server until they are fetched."""
        return self._cursor()

    def _before(self, sql: str) -> Sequence[str]:  # noqa: ARG002 - for databases that begin late
        """Return what has to run before *sql*."""
        return ()

    def _columns(self, cursor: Any, sql: str) -> list[str]:  # noqa: ANN401
        """Return the names of the columns that *cursor* fetches."""
        if cursor.description is None:
            msg = f"the statement returns no rows, use execute(): {sql.strip()[:80]}"
            raise TypeError(msg)
        return [column[0] for column in cursor.description]


class AsyncDBAPIConnection(Cursors, AsyncConnection):
    """A connection of an asynchronous driver with cursors."""

    def __init__(self, driver_connection: Any, dialect: Dialect) -> None:  # noqa: ANN401 - each driver's own
        """Wrap a connection, which is in autocommit mode, to a database that speaks *dialect*."""
        super().__init__(driver_connection)
        self._dialect = dialect

    async def _execute(self, cursor: Any, sql: str, parameters: Parameters) -> None:  # noqa: ANN401
        for text in self._before(sql):
            await cursor.execute(text)
        # Without parameters, a driver does not look for placeholders, and a % is a %.
        await (cursor.execute(sql, parameters) if parameters else cursor.execute(sql))

    @override
    async def begin(self, mode: TransactionMode) -> None:
        for text in self._dialect.begin(*mode):
            await self.execute(text, ())

    @override
    async def commit(self) -> None:
        await self.execute("COMMIT", ())

    @override
    async def rollback(self) -> None:
        await self.execute("ROLLBACK", ())

    @override
    async def fetch(self, sql: str, parameters: Parameters) -> Fetched:
        return await self._to_its_end(self._fetch(sql, parameters))

    async def _fetch(self, sql: str, parameters: Parameters) -> Fetched:
        async with _entered(self._cursor()) as cursor:
            await self._execute(cursor, sql, parameters)
            return Fetched(self._columns(cursor, sql), await cursor.fetchall())

    @override
    async def execute(self, sql: str, parameters: Parameters) -> int:
        return await self._to_its_end(self._count(sql, parameters))

    async def _count(self, sql: str, parameters: Parameters) -> int:
        async with _entered(self._cursor()) as cursor:
            await self._execute(cursor, sql, parameters)
            count: int = cursor.rowcount
            return count

    @override
    async def execute_many(self, sql: str, parameters: Sequence[Parameters]) -> None:
        await self._to_its_end(self._execute_many(sql, parameters))

    async def _execute_many(self, sql: str, parameters: Sequence[Parameters]) -> None:
        async with _entered(self._cursor()) as cursor:
            for text in self._before(sql):
                await cursor.execute(text)
            await cursor.executemany(sql, parameters)

    @override
    async def run(self, step: Step) -> Rows:
        return await self._to_its_end(self._run(step))

    async def _run(self, step: Step) -> Rows:
        if step.many:
            await self._execute_many(step.text, step.parameters)
            return ()
        async with _entered(self._cursor()) as cursor:
            await self._execute(cursor, step.text, step.parameters)
            rows: Rows = await cursor.fetchall() if cursor.description else ()
            return rows

    @override
    async def stream(self, sql: str, parameters: Parameters, size: int) -> AsyncGenerator[Fetched, None]:
        async with _entered(self._stream_cursor()) as cursor:
            await self._to_its_end(self._execute(cursor, sql, parameters))
            columns = self._columns(cursor, sql)
            while rows := await self._to_its_end(cursor.fetchmany(size)):
                yield Fetched(columns, rows)

    async def _to_its_end(self, call: Coroutine[Any, Any, T]) -> T:
        """Return what *call* does; cancelled, it has a moment to tell the server, and then the connection is killed.

        Drivers wait for the server to confirm: as long as it is frozen, or for a row that somebody else has locked.
        """
        running = asyncio.get_running_loop().create_task(call)
        try:
            return await asyncio.shield(running)
        except asyncio.CancelledError:
            running.cancel()
            if not (await asyncio.wait([running], timeout=_MOMENT))[0]:
                self.kill()
                await asyncio.wait([running], timeout=_MOMENT)
            if running.done() and not running.cancelled():
                running.exception()  # it is nobody's any more
            raise


@asynccontextmanager
async def _entered(manager: Any) -> AsyncGenerator[Any, None]:  # noqa: ANN401 - a cursor, or what gives one
    """Close the cursor after the block, unless that was cancelled.

    The connection is dropped then; closing would wait in the driver until the statement has ended by itself.
    """
    cursor = await manager.__aenter__()
    try:
        yield cursor
    except asyncio.CancelledError:
        raise
    except BaseException as error:
        await manager.__aexit__(type(error), error, error.__traceback__)
        raise
    await manager.__aexit__(None, None, None)


class SyncDBAPIConnection(Cursors, SyncConnection):
    """A connection of a synchronous driver with cursors."""

    def __init__(self, driver_connection: Any, dialect: Dialect) -> None:  # noqa: ANN401 - each driver's own
        """Wrap a connection, which is in autocommit mode, to a database that speaks *dialect*."""
        super().__init__(driver_connection)
        self._dialect = dialect

    def _execute(self, cursor: Any, sql: str, parameters: Parameters) -> None:  # noqa: ANN401
        for text in self._before(sql):
            cursor.execute(text)
        # Without parameters, a driver does not look for placeholders, and a % is a %.
        cursor.execute(*((sql, parameters) if parameters else (sql,)))

    @override
    def begin(self, mode: TransactionMode) -> None:
        for text in self._dialect.begin(*mode):
            self.execute(text, ())

    @override
    def commit(self) -> None:
        self.execute("COMMIT", ())

    @override
    def rollback(self) -> None:
        self.execute("ROLLBACK", ())

    @override
    def fetch(self, sql: str, parameters: Parameters) -> Fetched:
        cursor = self._cursor()
        try:
            self._execute(cursor, sql, parameters)
            return Fetched(self._columns(cursor, sql), cursor.fetchall())
        finally:
            cursor.close()

    @override
    def execute(self, sql: str, parameters: Parameters) -> int:
        cursor = self._cursor()
        try:
            self._execute(cursor, sql, parameters)
            count: int = cursor.rowcount
        finally:
            cursor.close()
        return count

    @override
    def execute_many(self, sql: str, parameters: Sequence[Parameters]) -> None:
        cursor = self._cursor()
        try:
            for text in self._before(sql):
                cursor.execute(text)
            cursor.executemany(sql, parameters)
        finally:
            cursor.close()

    @override
    def run(self, step: Step) -> Rows:
        if step.many:
            self.execute_many(step.text, step.parameters)
            return ()
        cursor = self._cursor()
        try:
            self._execute(cursor, step.text, step.parameters)
            return cursor.fetchall() if cursor.description else ()
        finally:
            cursor.close()

    @override
    def stream(self, sql: str, parameters: Parameters, size: int) -> Generator[Fetched, None, None]:
        cursor = self._stream_cursor()
        try:
            self._execute(cursor, sql, parameters)
            columns = self._columns(cursor, sql)
            while rows := cursor.fetchmany(size):
                yield Fetched(columns, rows)
        finally:
            cursor.close()
