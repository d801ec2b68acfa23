"""PostgreSQL through psycopg 3, asynchronous or synchronous.

Raw cursors take PostgreSQL's own ``$1``, so that the SQL is the same as asyncpg's. A synchronous store serves the
asynchronous protocol, too: each of its connections lives in a thread of its own.
"""

from __future__ import annotations

import asyncio
import math
import os
import socket
import weakref
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeVar

from typing_extensions import override

from ..config import ExtensionConfig, ServerConfig
from ..connection import ThreadConnection, has_news
from ..dbapi import AsyncDBAPIConnection, SyncDBAPIConnection
from ..dialects import POSTGRESQL
from ..exceptions import CommitError, ConnectionLostError, ContentionError, SQLStoreError, UnavailableError
from ..pool import ConnectionPool, SyncConnectionPool
from ..store import BaseSQLSpecStore
from ._extras import driver_of
from ._postgresql import NOT_COMMITTED, RESET, PostgreSQLConnection, enter, meaning, terminate, violation

with driver_of("psycopg"):
    import psycopg
    import psycopg_pool
    from psycopg import errors, pq
    from psycopg.conninfo import conninfo_to_dict
    from psycopg.rows import tuple_row
    from psycopg.types.array import ListBinaryDumper, ListDumper

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from psycopg.abc import AdaptContext

    from ..connection import StoreConnection
    from ..dialects import Step
    from ..pool import TransactionMode

    Rows = Sequence[Sequence[Any]]

__all__ = ("PsycopgAsyncConfig", "PsycopgAsyncStore", "PsycopgSyncConfig", "PsycopgSyncStore")

PoolT = TypeVar("PoolT", bound="psycopg_pool.AsyncConnectionPool[Any] | psycopg_pool.ConnectionPool[Any]")

_CONNECT_OPTIONS = frozenset({"conninfo", *(option.keyword.decode() for option in pq.Conninfo.get_defaults())})
_POOL_OPTIONS = frozenset(
    {"check", "close_returns", "configure", "connection_class", "kwargs", "max_idle", "max_lifetime", "max_size"}
    | {"max_waiting", "min_size", "name", "num_workers", "open", "reconnect_failed", "reconnect_timeout", "reset"}
    | {"timeout"}
)

_MAX_SIZE = 10
"""Of the application's pool if not given; psycopg's own, 4, are always open."""
_RETURNING: set[asyncio.Task[None]] = set()


class _PsycopgConfig(ServerConfig[PoolT]):
    dialect = POSTGRESQL

    def __init__(
        self,
        *,
        pool_config: Mapping[str, Any] | None = None,
        pool_instance: PoolT | None = None,
        extension_config: ExtensionConfig | None = None,
    ) -> None:
        """Keep the settings; nothing is opened yet.

        *pool_config* is what psycopg_pool's pools take, ``conninfo`` and ``kwargs``, or libpq's own ``host``,
        ``port``, ``user``, ``password``, ``dbname``, and so on. Instead, *pool_instance* is the application's own
        pool, of which the stores keep up to 6 connections, and leave at least 2.

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
    def pool_size(pool: PoolT) -> int:
        return pool.max_size

    def connect_options(self, **usual: object) -> dict[str, Any]:
        """Return what a connection is opened with: the application's options, and the *usual* ones beside them."""
        known = {name: value for name, value in self.pool_config.items() if name in _CONNECT_OPTIONS}
        named = conninfo_to_dict(known.pop("conninfo", None) or "")
        usual["connect_timeout"] = math.ceil(self.timeout)
        return {**usual, **named, **(self.pool_config.get("kwargs") or {}), **known}

    def pool_options(self) -> dict[str, Any]:
        """Return what a pool for the application is made with."""
        options = {name: value for name, value in self.pool_config.items() if name in _POOL_OPTIONS}
        # A pool waits longer and longer before it tries again to connect; giving up makes it begin anew.
        usual = {"min_size": 0, "max_size": options.get("min_size", _MAX_SIZE), "reconnect_timeout": self.timeout}
        return {**usual, **options, "kwargs": self.connect_options(), "open": False}

    @override
    def violation(self, error: Exception) -> type[SQLStoreError] | None:
        return violation(getattr(error, "sqlstate", None))

    @override
    def classify(self, error: Exception) -> type[SQLStoreError]:
        if isinstance(error, errors.FeatureNotSupported):  # cached plan must not change result type
            return ContentionError
        if isinstance(error, (errors.ConnectionTimeout, OSError)):
            return UnavailableError
        found = meaning(error.sqlstate) if isinstance(error, psycopg.Error) else None
        if found is None and isinstance(error, (psycopg.OperationalError, psycopg.InterfaceError)):
            return ConnectionLostError
        return found or SQLStoreError


class PsycopgAsyncConfig(_PsycopgConfig["psycopg_pool.AsyncConnectionPool[Any]"]):
    """A PostgreSQL database reached through psycopg's asynchronous connections."""

    @override
    async def open_store_connection(self, *, writes: bool = True) -> StoreConnection:
        connection: psycopg.AsyncConnection[Any]
        if self.pool_instance is None:
            async with asyncio.timeout(self.timeout):
                connection = await psycopg.AsyncConnection.connect(
                    **self.connect_options(application_name="sqlstore"), autocommit=True
                )
        else:
            # It gives up before anybody cancels it, which can cost the pool a connection (psycopg#1345).
            connection = await self.pool_instance.getconn(0.9 * self.timeout)
        return await enter(self, PsycopgAsyncConnection(self, connection), writes=writes)

    @override
    def new_store(self) -> BaseSQLSpecStore[Any]:
        return PsycopgAsyncStore(self)

    @override
    def new_pool(self) -> PsycopgAsyncPool:
        return PsycopgAsyncPool(self)


class PsycopgSyncConfig(_PsycopgConfig["psycopg_pool.ConnectionPool[Any]"]):
    """A PostgreSQL database reached through psycopg's synchronous connections, each in a thread of its own."""

    @override
    async def open_store_connection(self, *, writes: bool = True) -> StoreConnection:
        connection = PsycopgSyncConnection(self)
        async with asyncio.timeout(self.timeout):
            await connection.open()
        return await enter(self, connection, writes=writes)

    @override
    def new_store(self) -> BaseSQLSpecStore[Any]:
        return PsycopgSyncStore(self)

    @override
    def new_pool(self) -> PsycopgSyncPool:
        return PsycopgSyncPool(self)


class PsycopgAsyncConnection(PostgreSQLConnection):
    """An asynchronous connection of psycopg."""

    def __init__(self, config: PsycopgAsyncConfig, connection: psycopg.AsyncConnection[Any]) -> None:
        self._config = weakref.ref(config)
        self._pool = config.pool_instance
        self._loop = asyncio.get_running_loop()
        self._connection = connection
        _send_arrays_in_binary(connection)
        self._usual = connection.autocommit
        self.server_pid = connection.info.backend_pid
        self._running = False
        self._killed = False

    @property
    @override
    def closed(self) -> bool:
        return self._killed or _is_lost(self._connection)

    @override
    async def run(self, steps: Sequence[Step], *, atomic: bool = True) -> list[Rows]:
        self._running = True
        try:
            if not self._connection.autocommit:  # as a pool's connections usually are
                await self._connection.set_autocommit(True)
            return [await self._run(step) for step in steps]
        finally:
            self._running = False
            if self._killed:
                self._drop()

    async def _run(self, step: Step) -> Rows:
        cursor = psycopg.AsyncRawCursor(self._connection)
        try:
            await cursor.execute(step.text.encode(), step.parameters or None, **_how(self, step))
        except errors.FeatureNotSupported:
            self.kill()  # the table was altered, and the statements were prepared for what it was
            raise
        return await cursor.fetchall() if _has_rows(cursor) else ()

    @override
    async def close(self) -> None:
        if self._killed:
            return
        if self._pool is None:
            await self._connection.close()
            return
        try:
            await self._connection.execute(RESET)
            await self._connection.set_autocommit(self._usual)
            self._connection.adapters.register_dumper(list, ListDumper)
        except psycopg.Error:
            self.kill()
        else:
            self._killed = True
            await self._pool.putconn(self._connection)

    @override
    def kill(self) -> None:
        if self._killed:
            return
        self._killed = True
        if self._running:
            _hang_up(self._connection)
        else:
            self._drop()

    def _drop(self) -> None:
        self._connection.pgconn.finish()
        if self._pool is not None and not self._loop.is_closed():
            # The pool opens another one instead.
            returning = self._loop.create_task(self._pool.putconn(self._connection))
            _RETURNING.add(returning)
            returning.add_done_callback(_RETURNING.discard)

    @override
    async def bury(self) -> None:
        await terminate(self._config(), self.server_pid)


class PsycopgSyncConnection(ThreadConnection, PostgreSQLConnection):
    """A synchronous connection of psycopg in its thread."""

    def __init__(self, config: PsycopgSyncConfig) -> None:
        super().__init__()
        self._config = weakref.ref(config)
        self._options = config.connect_options(application_name="sqlstore")
        self._pool = config.pool_instance
        self._patience = config.timeout
        self._connection: psycopg.Connection[Any] | None = None

    @override
    def _connect(self) -> None:
        pool = self._pool
        connection = psycopg.connect(**self._options) if pool is None else pool.getconn(self._patience)
        self._connection = connection
        _send_arrays_in_binary(connection)
        self._usual = connection.autocommit
        connection.autocommit = True
        self.server_pid = connection.info.backend_pid

    @override
    def _run(self, steps: Sequence[Step], *, atomic: bool) -> list[Rows]:
        connection = self._connection
        if connection is None:
            msg = "the connection is closed"
            raise psycopg.OperationalError(msg)
        return [self._execute(connection, step) for step in steps]

    def _execute(self, connection: psycopg.Connection[Any], step: Step) -> Rows:
        cursor = psycopg.RawCursor(connection)
        try:
            cursor.execute(step.text.encode(), step.parameters or None, **_how(self, step))
        except errors.FeatureNotSupported:
            connection.close()  # the table was altered, and the statements were prepared for what it was
            raise
        return cursor.fetchall() if _has_rows(cursor) else ()

    @property
    @override
    def closed(self) -> bool:
        return super().closed or (self._connection is not None and _is_lost(self._connection))

    @override
    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is None:
            return
        if self._pool is None or self._killed:
            connection.close()
        if self._pool is None:
            return
        with suppress(psycopg.Error):  # the pool opens another one instead
            connection.execute(RESET)
            connection.autocommit = self._usual
            connection.adapters.register_dumper(list, ListDumper)
        self._pool.putconn(connection)

    @override
    def _interrupt(self) -> None:
        connection = self._connection
        if connection is not None and not connection.closed:
            _hang_up(connection)

    @override
    async def bury(self) -> None:
        await super().bury()
        await terminate(self._config(), self.server_pid)


class PsycopgAsyncApplicationConnection(AsyncDBAPIConnection):
    """An asynchronous psycopg connection of the application's."""

    def __init__(self, driver_connection: psycopg.AsyncConnection[Any]) -> None:
        super().__init__(driver_connection, POSTGRESQL)
        self.usual = driver_connection.autocommit

    @override
    def _cursor(self) -> psycopg.AsyncCursor[Any]:
        cursor: psycopg.AsyncCursor[Any] = self.driver_connection.cursor(row_factory=tuple_row)
        return cursor

    @override
    def _stream_cursor(self) -> psycopg.AsyncCursor[Any]:
        cursor: psycopg.AsyncCursor[Any] = self.driver_connection.cursor("sqlstore", row_factory=tuple_row)
        return cursor

    @override
    async def _run(self, step: Step) -> Rows:
        cursor = psycopg.AsyncRawCursor(self.driver_connection, row_factory=tuple_row)
        _send_arrays_in_binary(cursor)
        # Not prepared: a plan that is kept may have been made for an empty table, and reads all of one that has grown.
        await cursor.execute(step.text.encode(), step.parameters, prepare=False, binary=True)
        return await cursor.fetchall() if _has_rows(cursor) else ()

    @override
    async def begin(self, mode: TransactionMode) -> None:
        for text in POSTGRESQL.begin(*mode):
            await self._command(text)

    @override
    async def commit(self) -> None:
        if await self._command("COMMIT") != "COMMIT":
            raise CommitError(NOT_COMMITTED)

    @override
    async def rollback(self) -> None:
        await self._command("ROLLBACK")

    async def _command(self, text: str) -> str | None:
        """Return the server's answer to a command, which psycopg would prepare when it comes again and again."""
        async with self._cursor() as cursor:
            await cursor.execute(text.encode(), prepare=False)
            return cursor.statusmessage

    @override
    def kill(self) -> None:
        if not self.driver_connection.closed:
            _hang_up(self.driver_connection)


class PsycopgSyncApplicationConnection(SyncDBAPIConnection):
    """A synchronous psycopg connection of the application's."""

    def __init__(self, driver_connection: psycopg.Connection[Any]) -> None:
        super().__init__(driver_connection, POSTGRESQL)
        self.usual = driver_connection.autocommit

    @override
    def _cursor(self) -> psycopg.Cursor[Any]:
        cursor: psycopg.Cursor[Any] = self.driver_connection.cursor(row_factory=tuple_row)
        return cursor

    @override
    def _stream_cursor(self) -> psycopg.Cursor[Any]:
        cursor: psycopg.Cursor[Any] = self.driver_connection.cursor("sqlstore", row_factory=tuple_row)
        return cursor

    @override
    def run(self, step: Step) -> Rows:
        cursor = psycopg.RawCursor(self.driver_connection, row_factory=tuple_row)
        _send_arrays_in_binary(cursor)
        cursor.execute(step.text.encode(), step.parameters, prepare=False, binary=True)
        return cursor.fetchall() if _has_rows(cursor) else ()

    @override
    def begin(self, mode: TransactionMode) -> None:
        for text in POSTGRESQL.begin(*mode):
            self._command(text)

    @override
    def commit(self) -> None:
        if self._command("COMMIT") != "COMMIT":
            raise CommitError(NOT_COMMITTED)

    @override
    def rollback(self) -> None:
        self._command("ROLLBACK")

    def _command(self, text: str) -> str | None:
        """Return the server's answer to a command, which psycopg would prepare when it comes again and again."""
        with self._cursor() as cursor:
            cursor.execute(text.encode(), prepare=False)
            return cursor.statusmessage

    @override
    def kill(self) -> None:
        if not self.driver_connection.closed:
            _hang_up(self.driver_connection)


class PsycopgAsyncPool(ConnectionPool[PsycopgAsyncApplicationConnection]):
    """One of psycopg's asynchronous pools: its own, or the application's."""

    def __init__(self, config: PsycopgAsyncConfig) -> None:
        self._pool: Any = config.pool_instance
        self._options = config.pool_options() if self._pool is None else None
        super().__init__(config, config.left_in_pool if self._options is None else self._options["max_size"])

    @override
    async def _open(self) -> None:
        if self._options is None:
            return
        # The pool itself would try to connect in the background for long, and tell nobody why it cannot.
        kind = self._options.get("connection_class") or psycopg.AsyncConnection
        await (await kind.connect(**self._options["kwargs"])).close()
        self._pool = psycopg_pool.AsyncConnectionPool(**self._options)
        await self._pool.open()

    @override
    async def _take(self) -> PsycopgAsyncApplicationConnection:
        while _is_lost(driver_connection := await self._pool.getconn(self._timeout)):
            driver_connection.pgconn.finish()
            await self._pool.putconn(driver_connection)
        connection = PsycopgAsyncApplicationConnection(driver_connection)
        await driver_connection.set_autocommit(True)
        return connection

    @override
    async def _put(self, connection: PsycopgAsyncApplicationConnection) -> None:
        driver_connection: psycopg.AsyncConnection[Any] = connection.driver_connection
        if driver_connection.pgconn.transaction_status != pq.TransactionStatus.IDLE:
            await connection.rollback()
        await driver_connection.set_autocommit(connection.usual)
        await self._pool.putconn(driver_connection)

    @override
    async def _drop(self, connection: PsycopgAsyncApplicationConnection) -> None:
        async with connection.turn:
            connection.driver_connection.pgconn.finish()
            await self._pool.putconn(connection.driver_connection)

    @override
    async def _close(self) -> None:
        if self._options is not None:
            idle = list(self._pool._pool)  # noqa: SLF001 - see below
            # The end of a loop cancels the pool's tasks before this, which the pool takes for its own cancellation.
            await asyncio.gather(self._pool.close(), return_exceptions=True)
            for driver_connection in idle:
                driver_connection.pgconn.finish()

    @override
    def kill(self) -> None:
        if self._options is not None and self._pool is not None:
            _let_go(self._pool, self._loop)


class PsycopgSyncPool(SyncConnectionPool[PsycopgSyncApplicationConnection]):
    """One of psycopg's synchronous pools: its own, or the application's."""

    def __init__(self, config: PsycopgSyncConfig) -> None:
        self._pool: Any = config.pool_instance
        self._options = config.pool_options() if self._pool is None else None
        super().__init__(config, config.left_in_pool if self._options is None else self._options["max_size"])

    @override
    async def _open(self) -> None:
        if self._options is not None:
            await self.call(self._open_pool, self._options)

    def _open_pool(self, options: dict[str, Any]) -> None:
        # The pool itself would try to connect in the background for long, and tell nobody why it cannot.
        kind = options.get("connection_class") or psycopg.Connection
        kind.connect(**options["kwargs"]).close()
        self._pool = psycopg_pool.ConnectionPool(**options)
        self._pool.open()

    @override
    async def _take(self) -> PsycopgSyncApplicationConnection:
        connection: PsycopgSyncApplicationConnection = await self.call(self._take_connection)
        return connection

    def _take_connection(self) -> PsycopgSyncApplicationConnection:
        while _is_lost(driver_connection := self._pool.getconn(self._timeout)):
            driver_connection.pgconn.finish()
            self._pool.putconn(driver_connection)
        connection = PsycopgSyncApplicationConnection(driver_connection)
        driver_connection.autocommit = True
        return connection

    @override
    async def _put(self, connection: PsycopgSyncApplicationConnection) -> None:
        await self.call(connection.in_turn, self._put_connection, connection)

    def _put_connection(self, connection: PsycopgSyncApplicationConnection) -> None:
        driver_connection: psycopg.Connection[Any] = connection.driver_connection
        if driver_connection.pgconn.transaction_status != pq.TransactionStatus.IDLE:
            connection.rollback()
        driver_connection.autocommit = connection.usual
        self._pool.putconn(driver_connection)

    @override
    async def _drop(self, connection: PsycopgSyncApplicationConnection) -> None:
        await self.call(connection.in_turn, self._drop_connection, connection)

    def _drop_connection(self, connection: PsycopgSyncApplicationConnection) -> None:
        connection.driver_connection.pgconn.finish()
        self._pool.putconn(connection.driver_connection)

    @override
    async def _close(self) -> None:
        if self._options is not None:
            await self.call(self._pool.close)

    @override
    def kill(self) -> None:
        if self._options is not None and self._pool is not None:
            self._pool.close(timeout=1)


class PsycopgAsyncStore(BaseSQLSpecStore[PsycopgAsyncConfig]):
    """A Litestar store in PostgreSQL."""

    @classmethod
    @override
    def config_type(cls) -> type[PsycopgAsyncConfig]:
        return PsycopgAsyncConfig


class PsycopgSyncStore(BaseSQLSpecStore[PsycopgSyncConfig]):
    """A Litestar store in PostgreSQL, over synchronous connections."""

    @classmethod
    @override
    def config_type(cls) -> type[PsycopgSyncConfig]:
        return PsycopgSyncConfig


def _how(connection: PostgreSQLConnection, step: Step) -> dict[str, bool]:
    # Without parameters the text may be several statements, which can neither be prepared nor answer in binary.
    parameters = bool(step.parameters)
    return {"prepare": connection.prepares and parameters, "binary": parameters}


def _send_arrays_in_binary(context: AdaptContext) -> None:
    # psycopg's choice is text, which doubles the bytes of values: 100 KB took four times as long to write.
    context.adapters.register_dumper(list, ListBinaryDumper)


def _has_rows(cursor: psycopg.AsyncCursor[Any] | psycopg.Cursor[Any]) -> bool:
    # Not cursor.description, which makes an object of each column: 20 µs.
    return cursor.pgresult is not None and cursor.pgresult.nfields > 0


def _is_lost(connection: psycopg.AsyncConnection[Any] | psycopg.Connection[Any]) -> bool:
    """Return whether an idle connection is closed, or the server has something to say, which is that it has gone."""
    return connection.closed or has_news(connection.pgconn.socket)


def _hang_up(connection: psycopg.AsyncConnection[Any] | psycopg.Connection[Any]) -> None:
    """End the conversation: whoever waits for the server's answer is told that it has gone."""
    with socket.socket(fileno=os.dup(connection.pgconn.socket)) as other:
        other.shutdown(socket.SHUT_RDWR)


def _let_go(pool: Any, loop: asyncio.AbstractEventLoop) -> None:  # noqa: ANN401 - its parts are no public names
    """Close the connections of a pool without waiting, and end its tasks, which nobody runs if the *loop* is closed."""
    for task in (*pool._workers, pool._sched_runner):  # noqa: SLF001 - close() waits for them
        if task is None or task.done():
            continue
        if not loop.is_closed():
            task.cancel()
            continue
        task._log_destroy_pending = False  # noqa: SLF001
        with suppress(RuntimeError):  # from what it waits for
            task.get_coro().close()
    for connection in pool._pool:  # noqa: SLF001
        connection.pgconn.finish()
