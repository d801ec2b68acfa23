"""PostgreSQL through asyncpg.

Store connections are plain asyncpg connections, not pooled ones: a pool resets each connection on release with four
statements, and a store's statement leaves nothing behind.
"""

from __future__ import annotations

import inspect
import itertools
import socket
import weakref
from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

from typing_extensions import override

from ..config import ExtensionConfig, ServerConfig
from ..connection import close_socket
from ..dialects import POSTGRESQL, Step
from ..exceptions import (
    CommitError,
    ConnectionLostError,
    ContentionError,
    SQLStoreError,
    UnavailableError,
)
from ..pool import AsyncConnection, ConnectionPool, Fetched
from ..store import BaseSQLSpecStore
from ._extras import driver_of
from ._postgresql import NOT_COMMITTED, PostgreSQLConnection, enter, meaning, terminate, violation

with driver_of("asyncpg"):
    import asyncpg
    from asyncpg import exceptions as pg

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence

    from asyncpg.pool import PoolConnectionProxy
    from asyncpg.prepared_stmt import PreparedStatement

    from ..connection import StoreConnection
    from ..pool import Parameters, TransactionMode

__all__ = ("AsyncpgConfig", "AsyncpgStore")

_CONNECT_OPTIONS = frozenset(inspect.signature(asyncpg.connect).parameters)
_POOL_OPTIONS = frozenset(inspect.signature(asyncpg.create_pool).parameters) - {"connect_kwargs"}
_MAX_SIZE: int = inspect.signature(asyncpg.create_pool).parameters["max_size"].default

_NOT_SENT = "the connection was lost before the statement was sent"
# Of prepared statements; a pool's connection may have some from an earlier time with the stores.
_NAMES = itertools.count()

# What the server did not say; the first that fits.
_MEANING: tuple[tuple[type[Exception] | tuple[type[Exception], ...], type[SQLStoreError]], ...] = (
    (pg.InvalidCachedStatementError, ContentionError),
    (
        (
            pg.ClientConfigurationError,
            pg.TargetServerAttributeNotMatched,
            socket.gaierror,
            ConnectionRefusedError,
            FileNotFoundError,  # a Unix socket's path
            TimeoutError,
        ),
        UnavailableError,
    ),
    (
        (
            OSError,
            pg.PostgresConnectionError,
            pg.InterfaceError,  # the connection is closed
            BufferError,  # the answer is not of the type that it had when the statement was prepared
        ),
        ConnectionLostError,
    ),
)


class AsyncpgConfig(ServerConfig["asyncpg.Pool[Any]"]):
    """A PostgreSQL database reached through asyncpg."""

    dialect = POSTGRESQL

    def __init__(
        self,
        *,
        pool_config: Mapping[str, Any] | None = None,
        pool_instance: asyncpg.Pool[Any] | None = None,
        extension_config: ExtensionConfig | None = None,
    ) -> None:
        """Keep the settings; nothing is opened yet.

        *pool_config* is what `asyncpg.create_pool` takes: ``dsn``, or ``host``, ``port``, ``user``, ``password``,
        ``database``, and so on. Instead, *pool_instance* is the application's own pool, of which the stores keep up
        to 6 connections, and leave at least 2. Close the stores before it: it waits for its connections.

        Raises:
            TypeError: an option is unknown, or of the wrong type.
            ValueError: an option is out of range, or the pool is too small to share.
        """
        super().__init__(
            _CONNECT_OPTIONS | _POOL_OPTIONS,
            pool_config=pool_config,
            pool_instance=pool_instance,
            extension_config=extension_config,
        )

    @staticmethod
    @override
    def pool_size(pool: asyncpg.Pool[Any]) -> int:
        return pool.get_max_size()

    @override
    async def open_store_connection(self, *, writes: bool = True) -> StoreConnection:
        driver_connection: asyncpg.Connection[Any] | PoolConnectionProxy[Any]
        if self.pool_instance is None:
            driver_connection = await self._connect()
            close = partial(driver_connection.close, timeout=self.timeout)
        else:
            driver_connection = await self.pool_instance.acquire(timeout=self.timeout)
            close = partial(self.pool_instance.release, driver_connection, timeout=self.timeout)
        return await enter(self, AsyncpgConnection(self, driver_connection, close), writes=writes)

    async def _connect(self) -> asyncpg.Connection[Any]:
        options = {name: value for name, value in self.pool_config.items() if name in _CONNECT_OPTIONS}
        options["server_settings"] = {"application_name": "sqlstore", **options.get("server_settings", {})}
        options.setdefault("timeout", self.timeout)
        options.pop("command_timeout", None)  # the lanes keep time, and know what was sent
        # Only our own prepared statements are used.
        options["statement_cache_size"] = 0
        connection: asyncpg.Connection[Any] = await asyncpg.connect(**options)
        return connection

    @override
    def new_store(self) -> BaseSQLSpecStore[Any]:
        return AsyncpgStore(self)

    @override
    def new_pool(self) -> AsyncpgPool:
        return AsyncpgPool(self)

    @override
    def violation(self, error: Exception) -> type[SQLStoreError] | None:
        return violation(getattr(error, "sqlstate", None))

    @override
    def classify(self, error: Exception) -> type[SQLStoreError]:
        found = next((kind for kinds, kind in _MEANING if isinstance(error, kinds)), None)
        return found or meaning(getattr(error, "sqlstate", None)) or SQLStoreError


class AsyncpgConnection(PostgreSQLConnection):
    """An asyncpg connection."""

    def __init__(
        self,
        config: AsyncpgConfig,
        connection: asyncpg.Connection[Any] | PoolConnectionProxy[Any],
        close: Callable[[], Awaitable[None]],
    ) -> None:
        self._config = weakref.ref(config)
        self._connection = connection
        self._close = close
        self.server_pid = connection.get_server_pid()
        self._statements: dict[str, PreparedStatement[Any]] = {}

    @property
    @override
    def closed(self) -> bool:
        try:
            return self._connection.is_closed()
        except pg.InterfaceError:  # its pool has it back
            return True

    @override
    async def run(self, steps: Sequence[Step], *, atomic: bool = True) -> list[Sequence[Sequence[Any]]]:
        return [await self._run(step) for step in steps]

    async def _run(self, step: Step) -> Sequence[Sequence[Any]]:
        if not step.parameters:
            await self._connection.execute(step.text)
            return ()
        statement = self._statements.get(step.text)
        if statement is None:
            statement = await self._prepare(step.text)
            if self.prepares:
                self._statements[step.text] = statement
        try:
            return await statement.fetch(*step.parameters)
        except pg.InternalClientError as error:
            # The server has said that it goes, and asyncpg waits for the end of the connection to call it closed.
            self.kill()
            raise ContentionError(_NOT_SENT) from error
        except pg.InvalidCachedStatementError:
            # The table was altered: https://www.postgresql.org/docs/current/sql-prepare.html
            self._statements.clear()
            raise

    async def _prepare(self, text: str) -> PreparedStatement[Any]:
        try:
            # Without a name it would be parsed again for each call.
            name = f"sqlstore_{next(_NAMES)}" if self.prepares else ""
            return await self._connection.prepare(text, name=name)
        except (OSError, pg.PostgresConnectionError) as error:
            # Nothing has been executed yet, so that even what must not run twice may be tried again.
            raise ContentionError(_NOT_SENT) from error

    @override
    async def close(self) -> None:
        try:
            await self._close()
        except (OSError, TimeoutError, pg.InterfaceError, pg.PostgresError):
            self.kill()

    @override
    def kill(self) -> None:
        if self.closed:
            return
        try:
            self._connection.terminate()
        except RuntimeError:  # its loop is closed
            close_socket(getattr(self._connection, "_transport", None))

    @override
    async def bury(self) -> None:
        await terminate(self._config(), self.server_pid)


class AsyncpgApplicationConnection(AsyncConnection):
    """An asyncpg connection of the application's."""

    def __init__(self, driver_connection: PoolConnectionProxy[Any]) -> None:
        super().__init__(driver_connection)
        self._connection: Any = driver_connection

    @override
    async def begin(self, mode: TransactionMode) -> None:
        # By asyncpg's own hand: the connection's transaction() is then a savepoint in this one.
        level: Any = mode.isolation_level and mode.isolation_level.lower().replace(" ", "_")
        await self._connection.transaction(isolation=level, readonly=mode.read_only).start()

    @override
    async def commit(self) -> None:
        await self._end("COMMIT")

    @override
    async def rollback(self) -> None:
        await self._end("ROLLBACK")

    async def _end(self, command: str) -> None:
        # Not by its transaction's commit(), which does not tell that the server answered ROLLBACK.
        answer = await self._connection.execute(command)
        self._connection._con._top_xact = None  # noqa: SLF001
        if answer != command:
            raise CommitError(NOT_COMMITTED)

    @override
    async def fetch(self, sql: str, parameters: Parameters) -> Fetched:
        records = await self._connection.fetch(sql, *_positional(parameters))
        return Fetched(list(records[0].keys()) if records else (), records)

    @override
    async def execute(self, sql: str, parameters: Parameters) -> int:
        answer = await self._connection.execute(sql, *_positional(parameters))
        count = answer.rpartition(" ")[2]
        return int(count) if count.isdigit() else -1

    @override
    async def execute_many(self, sql: str, parameters: Sequence[Parameters]) -> None:
        await self._connection.executemany(sql, [_positional(each) for each in parameters])

    @override
    async def run(self, step: Step) -> Sequence[Sequence[Any]]:
        # Not asyncpg's cached statement, whose plan is kept: one that was made while the table was empty reads all of
        # it when it has grown, 300 ms instead of 1 with 200,000 rows.
        statement = await self._connection.prepare(step.text, name="")
        rows: Sequence[Sequence[Any]] = await statement.fetch(*step.parameters)
        return rows

    @override
    async def stream(self, sql: str, parameters: Parameters, size: int) -> AsyncGenerator[Fetched, None]:
        cursor = await self._connection.cursor(sql, *_positional(parameters))
        while records := await cursor.fetch(size):
            yield Fetched(list(records[0].keys()), records)

    @override
    def kill(self) -> None:
        with suppress(pg.InterfaceError):  # its pool has it back
            self._connection.terminate()


class AsyncpgPool(ConnectionPool[AsyncpgApplicationConnection]):
    """An asyncpg pool: its own, or the application's."""

    def __init__(self, config: AsyncpgConfig) -> None:
        self._own = config.pool_instance is None
        self._options = {"min_size": 0, **config.pool_config}
        size = self._options.get("max_size", _MAX_SIZE) if self._own else config.left_in_pool
        super().__init__(config, size)
        self._pool: Any = config.pool_instance

    @override
    async def _open(self) -> None:
        if self._own:
            create_pool: Any = asyncpg.create_pool  # whose types do not take all options at once
            self._pool = await create_pool(**self._options)

    @override
    async def _take(self) -> AsyncpgApplicationConnection:
        return AsyncpgApplicationConnection(await self._pool.acquire())

    @override
    async def _put(self, connection: AsyncpgApplicationConnection) -> None:
        driver_connection = connection.driver_connection
        if driver_connection.is_in_transaction():
            await connection.rollback()
        await self._pool.release(driver_connection)

    @override
    async def _drop(self, connection: AsyncpgApplicationConnection) -> None:
        await self._pool.release(connection.driver_connection)

    @override
    async def _close(self) -> None:
        if self._own:
            await self._pool.close()

    @override
    def kill(self) -> None:
        if self._own and self._pool is not None:
            for holder in self._pool._holders:  # noqa: SLF001 - terminate() needs a loop that runs
                close_socket(getattr(holder._con, "_transport", None))  # noqa: SLF001


class AsyncpgStore(BaseSQLSpecStore[AsyncpgConfig]):
    """A Litestar store in PostgreSQL."""

    @classmethod
    @override
    def config_type(cls) -> type[AsyncpgConfig]:
        return AsyncpgConfig


def _positional(parameters: Parameters) -> Sequence[Any]:
    if isinstance(parameters, Mapping):
        msg = "asyncpg's placeholders are $1, $2, and so on: give a sequence of parameters, not a mapping"
        raise TypeError(msg)
    return parameters
