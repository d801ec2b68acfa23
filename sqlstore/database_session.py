"""What a handler does with the database: rows in, rows out, in the driver's own SQL.

A statement's placeholders and the types of its values are the driver's. Its errors are, too, but for those that a
handler has to tell apart whatever the driver: see `BaseConfig.explained`.
"""

from __future__ import annotations

import asyncio
import threading
from contextlib import AbstractAsyncContextManager, AbstractContextManager, asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Any, TypeVar, overload

import msgspec

from .exceptions import CommitError, NotFoundError, SQLStoreError
from .pool import Fetched
from .unit_of_work import not_committed

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Generator, Iterator, Sequence

    from .pool import AsyncConnection, Parameters, SyncConnection, TransactionMode
    from .unit_of_work import UnitOfWork

__all__ = ("DatabaseSession", "SyncDatabaseSession", "session_of")

T = TypeVar("T")
D = TypeVar("D")
Row = dict[str, Any]

_RAISE: Any = object()
STREAMED_ROWS = 500
"""How many rows a stream fetches at a time."""


class _Session:
    def __init__(self, unit: UnitOfWork) -> None:
        """Work in *unit*, whose end is somebody else's business."""
        self._unit = unit
        self._streaming = False

    def _check(self) -> None:
        """Refuse a statement that would do something else than it seems to."""
        if self._streaming:
            msg = "rows are being streamed over this connection: read them to the end, or leave the block, first"
            raise SQLStoreError(msg)
        if self._unit.undone:
            raise SQLStoreError(self._unit.undone)

    def _mode(self, isolation_level: str | None, *, read_only: bool) -> TransactionMode:
        if self._unit.depth and (isolation_level or read_only):
            msg = "a transaction is open, and has its mode: set isolation_level and read_only where it begins"
            raise ValueError(msg)
        return self._unit.config.transaction_mode(isolation_level, read_only=read_only)

    def _savepoint(self) -> tuple[str, str, str]:
        """Return what begins the next one, undoes it and, unless it is empty, releases it."""
        name = f"sqlstore_{self._unit.depth}"
        release = self._unit.config.dialect.release_savepoint
        return f"SAVEPOINT {name}", f"ROLLBACK TO SAVEPOINT {name}", release and f"{release} {name}"

    def _failed(self, error: BaseException) -> BaseException:
        """Return what a failed statement raises."""
        self._unit.statement_failed(error)
        return self._unit.config.explained(error) if isinstance(error, Exception) else error


class DatabaseSession(_Session):
    """One transaction's statements, over an asynchronous driver.

    Rows are dictionaries, or what *schema_type* says: a dataclass, a msgspec struct, a pydantic model, a TypedDict.
    *parameters* is a sequence or, where the driver has named placeholders, a mapping.
    """

    @overload
    async def fetch_all(self, sql: str, parameters: Parameters = ()) -> list[Row]: ...
    @overload
    async def fetch_all(self, sql: str, parameters: Parameters = (), *, schema_type: type[T]) -> list[T]: ...
    async def fetch_all(self, sql: str, parameters: Parameters = (), *, schema_type: Any = None) -> list[Any]:
        """Return all rows."""
        async with self._connection() as connection:
            fetched = await connection.fetch(sql, parameters)
        return _shaped(fetched, schema_type)

    @overload
    async def fetch_one(self, sql: str, parameters: Parameters = ()) -> Row: ...
    @overload
    async def fetch_one(self, sql: str, parameters: Parameters = (), *, default: D) -> Row | D: ...
    @overload
    async def fetch_one(self, sql: str, parameters: Parameters = (), *, schema_type: type[T]) -> T: ...
    @overload
    async def fetch_one(self, sql: str, parameters: Parameters = (), *, schema_type: type[T], default: D) -> T | D: ...
    async def fetch_one(
        self, sql: str, parameters: Parameters = (), *, schema_type: Any = None, default: Any = _RAISE
    ) -> Any:
        """Return the first row.

        Raises:
            NotFoundError: there is none, and no *default*.
        """
        async with self._connection() as connection:
            fetched = await connection.fetch(sql, parameters)
        return _first(fetched, schema_type, default)

    async def fetch_value(self, sql: str, parameters: Parameters = (), *, default: Any = _RAISE) -> Any:  # noqa: ANN401
        """Return the first column of the first row.

        Raises:
            NotFoundError: there is no row, and no *default*.
        """
        async with self._connection() as connection:
            fetched = await connection.fetch(sql, parameters)
        return _value(fetched, default)

    async def execute(self, sql: str, parameters: Parameters = ()) -> int:
        """Return how many rows were changed; -1 where the driver does not know."""
        async with self._connection() as connection:
            return await connection.execute(sql, parameters)

    async def execute_many(self, sql: str, parameters: Sequence[Parameters]) -> None:
        """Run *sql* for each of the *parameters*; all of it takes effect, or nothing."""
        async with self.transaction(), self._connection() as connection:
            if parameters:
                await connection.execute_many(sql, parameters)

    @overload
    def stream(self, sql: str, parameters: Parameters = ()) -> AbstractAsyncContextManager[AsyncIterator[Row]]: ...
    @overload
    def stream(
        self, sql: str, parameters: Parameters = (), *, schema_type: type[T]
    ) -> AbstractAsyncContextManager[AsyncIterator[T]]: ...
    def stream(self, sql: str, parameters: Parameters = (), *, schema_type: Any = None) -> Any:
        """Return a block, in which ``async for`` gets the rows while they come; nothing else may run in it."""
        return self._stream(sql, parameters, schema_type)

    @asynccontextmanager
    async def _stream(self, sql: str, parameters: Parameters, schema_type: Any) -> AsyncGenerator[Any, None]:  # noqa: ANN401
        async with self.transaction(), self._connection() as connection:
            self._streaming = True
            chunks = connection.stream(sql, parameters, STREAMED_ROWS)
            try:
                yield (row async for chunk in chunks for row in _shaped(chunk, schema_type))
            finally:
                self._streaming = False
                await chunks.aclose()

    @asynccontextmanager
    async def transaction(
        self, *, isolation_level: str | None = None, read_only: bool = False
    ) -> AsyncGenerator[None, None]:
        """Commit what the block does, or undo it if the block raises; within a transaction it is a savepoint.

        Raises:
            CommitError: the database did not commit.
            ValueError: the database has no such *isolation_level*, or a transaction is open already.
        """
        unit = self._unit
        async with self._connection() as connection:  # first of all, as the request's own transaction may begin here
            mode = self._mode(isolation_level, read_only=read_only)
            begin, undo, release = self._savepoint()
            outermost = not unit.depth
            await (connection.begin(mode) if outermost else connection.execute(begin, ()))
            unit.depth += 1
        try:
            yield
            async with self._connection() as connection:
                if outermost:
                    await self._commit(connection)
                elif release:
                    await connection.execute(release, ())
        except Exception:
            if outermost and unit.alive:
                unit.undone = ""
                async with self._connection() as connection:
                    await connection.rollback()
            elif unit.alive and not unit.undone:
                async with self._connection() as connection:
                    await connection.execute(undo, ())
            raise
        except BaseException as error:
            unit.statement_failed(error)
            raise
        finally:
            unit.depth -= 1
            unit.statement_ended()

    async def _commit(self, connection: AsyncConnection) -> None:
        try:
            await connection.commit()
        except Exception as error:
            raise CommitError(not_committed(error)) from error

    @asynccontextmanager
    async def _connection(self) -> AsyncGenerator[AsyncConnection, None]:
        self._check()
        unit = self._unit
        while True:
            connection: AsyncConnection = unit.taken() or await unit.connection()
            async with connection.turn:
                if unit.taken() is not connection:  # given back while this waited for its turn
                    continue
                try:
                    yield connection
                except BaseException as error:
                    if (explained := self._failed(error)) is error:
                        raise
                    raise explained from error
                finally:
                    unit.statement_ended()
            return


class SyncDatabaseSession(_Session):
    """The same over a synchronous driver, for handlers that run in a thread."""

    @overload
    def fetch_all(self, sql: str, parameters: Parameters = ()) -> list[Row]: ...
    @overload
    def fetch_all(self, sql: str, parameters: Parameters = (), *, schema_type: type[T]) -> list[T]: ...
    def fetch_all(self, sql: str, parameters: Parameters = (), *, schema_type: Any = None) -> list[Any]:
        """Return all rows."""
        with self._connection() as connection:
            fetched = connection.fetch(sql, parameters)
        return _shaped(fetched, schema_type)

    @overload
    def fetch_one(self, sql: str, parameters: Parameters = ()) -> Row: ...
    @overload
    def fetch_one(self, sql: str, parameters: Parameters = (), *, default: D) -> Row | D: ...
    @overload
    def fetch_one(self, sql: str, parameters: Parameters = (), *, schema_type: type[T]) -> T: ...
    @overload
    def fetch_one(self, sql: str, parameters: Parameters = (), *, schema_type: type[T], default: D) -> T | D: ...
    def fetch_one(
        self, sql: str, parameters: Parameters = (), *, schema_type: Any = None, default: Any = _RAISE
    ) -> Any:
        """Return the first row.

        Raises:
            NotFoundError: there is none, and no *default*.
        """
        with self._connection() as connection:
            fetched = connection.fetch(sql, parameters)
        return _first(fetched, schema_type, default)

    def fetch_value(self, sql: str, parameters: Parameters = (), *, default: Any = _RAISE) -> Any:  # noqa: ANN401
        """Return the first column of the first row.

        Raises:
            NotFoundError: there is no row, and no *default*.
        """
        with self._connection() as connection:
            fetched = connection.fetch(sql, parameters)
        return _value(fetched, default)

    def execute(self, sql: str, parameters: Parameters = ()) -> int:
        """Return how many rows were changed; -1 where the driver does not know."""
        with self._connection() as connection:
            return connection.execute(sql, parameters)

    def execute_many(self, sql: str, parameters: Sequence[Parameters]) -> None:
        """Run *sql* for each of the *parameters*; all of it takes effect, or nothing."""
        with self.transaction(), self._connection() as connection:
            if parameters:
                connection.execute_many(sql, parameters)

    @overload
    def stream(self, sql: str, parameters: Parameters = ()) -> AbstractContextManager[Iterator[Row]]: ...
    @overload
    def stream(
        self, sql: str, parameters: Parameters = (), *, schema_type: type[T]
    ) -> AbstractContextManager[Iterator[T]]: ...
    def stream(self, sql: str, parameters: Parameters = (), *, schema_type: Any = None) -> Any:
        """Return a block, in which ``for`` gets the rows while they come; nothing else may run in it."""
        return self._stream(sql, parameters, schema_type)

    @contextmanager
    def _stream(self, sql: str, parameters: Parameters, schema_type: Any) -> Generator[Any, None, None]:  # noqa: ANN401
        with self.transaction(), self._connection() as connection:
            self._streaming = True
            chunks = connection.stream(sql, parameters, STREAMED_ROWS)
            try:
                yield (row for chunk in chunks for row in _shaped(chunk, schema_type))
            finally:
                self._streaming = False
                chunks.close()

    @contextmanager
    def transaction(
        self, *, isolation_level: str | None = None, read_only: bool = False
    ) -> Generator[None, None, None]:
        """Commit what the block does, or undo it if the block raises; within a transaction it is a savepoint.

        Raises:
            CommitError: the database did not commit.
            ValueError: the database has no such *isolation_level*, or a transaction is open already.
        """
        unit = self._unit
        with self._connection() as connection:  # first of all, as the request's own transaction may begin here
            mode = self._mode(isolation_level, read_only=read_only)
            begin, undo, release = self._savepoint()
            outermost = not unit.depth
            if outermost:
                connection.begin(mode)
            else:
                connection.execute(begin, ())
            unit.depth += 1
        try:
            yield
            with self._connection() as connection:
                if outermost:
                    self._commit(connection)
                elif release:
                    connection.execute(release, ())
        except BaseException:
            if outermost and unit.alive:
                unit.undone = ""
                with self._connection() as connection:
                    connection.rollback()
            elif unit.alive and not unit.undone:
                with self._connection() as connection:
                    connection.execute(undo, ())
            raise
        finally:
            unit.depth -= 1
            unit.statement_ended()

    def _commit(self, connection: SyncConnection) -> None:
        try:
            connection.commit()
        except Exception as error:
            raise CommitError(not_committed(error)) from error

    @contextmanager
    def _connection(self) -> Generator[SyncConnection, None, None]:
        self._check()
        unit = self._unit
        while True:
            connection: SyncConnection = unit.taken() or self._take()
            with connection.turn:
                if unit.taken() is not connection:  # given back while this waited for its turn
                    continue
                try:
                    yield connection
                except BaseException as error:
                    if (explained := self._failed(error)) is error:
                        raise
                    raise explained from error
                finally:
                    unit.statement_ended()
            return

    def _take(self) -> SyncConnection:
        unit = self._unit
        if threading.get_ident() == unit.thread:
            msg = (
                "a synchronous database session cannot wait for a connection in the event loop's thread: inject it, "
                "or use it in a handler with sync_to_thread=True"
            )
            raise RuntimeError(msg)
        connection: SyncConnection = asyncio.run_coroutine_threadsafe(unit.connection(), unit.loop).result()
        return connection


def session_of(unit: UnitOfWork) -> DatabaseSession | SyncDatabaseSession:
    """Return the session of *unit*, of the kind that its driver has."""
    return SyncDatabaseSession(unit) if unit.pool.synchronous else DatabaseSession(unit)


def _shaped(fetched: Fetched, schema_type: Any) -> list[Any]:  # noqa: ANN401
    columns, rows = fetched
    if len(set(columns)) < len(columns):
        msg = f"two columns have the same name, give one of them another with AS: {', '.join(columns)}"
        raise ValueError(msg)
    shaped = [dict(zip(columns, row, strict=True)) for row in rows]
    if schema_type is None:
        return shaped
    # Not strict: a database says 1 for true, and text for a date.
    converted: list[Any] = msgspec.convert(shaped, list[schema_type], strict=False, dec_hook=_model)
    return converted


def _model(schema_type: Any, row: object) -> Any:  # noqa: ANN401
    """Make what msgspec does not know: a pydantic model."""
    if hasattr(schema_type, "model_validate"):
        return schema_type.model_validate(row)
    msg = f"schema_type must be a dataclass, a msgspec struct, a TypedDict or a pydantic model, not {schema_type!r}"
    raise TypeError(msg)


def _first(fetched: Fetched, schema_type: Any, default: Any) -> Any:  # noqa: ANN401
    if fetched.rows:
        return _shaped(Fetched(fetched.columns, fetched.rows[:1]), schema_type)[0]
    return _or_not_found(default)


def _value(fetched: Fetched, default: Any) -> Any:  # noqa: ANN401
    return fetched.rows[0][0] if fetched.rows else _or_not_found(default)


def _or_not_found(default: Any) -> Any:  # noqa: ANN401
    if default is _RAISE:
        msg = "there is no such row"
        raise NotFoundError(msg)
    return default
