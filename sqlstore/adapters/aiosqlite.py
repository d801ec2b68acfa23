"""SQLite for applications that use aiosqlite.

The stores' own connections are those of the sqlite adapter: aiosqlite hops to its thread for each statement, a store
connection once for each call. The application's connections are aiosqlite's.
"""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from typing_extensions import override

from ..dbapi import AsyncDBAPIConnection
from ..dialects import SQLITE
from ..pool import ConnectionPool
from ..store import BaseSQLSpecStore
from ._extras import driver_of
from .sqlite import LateTransaction, SqliteConfig

with driver_of("aiosqlite"):
    import aiosqlite

if TYPE_CHECKING:
    from ..pool import TransactionMode

__all__ = ("AiosqliteConfig", "AiosqliteStore")


class AiosqliteConfig(SqliteConfig):
    """A SQLite file, or ``:memory:``, reached through aiosqlite."""

    @override
    def new_store(self) -> BaseSQLSpecStore[Any]:
        return AiosqliteStore(self)

    @override
    def new_pool(self) -> ConnectionPool[Any]:
        return AiosqlitePool(self)


class AiosqliteApplicationConnection(LateTransaction, AsyncDBAPIConnection):
    """An aiosqlite connection of the application's."""

    @override
    async def begin(self, mode: TransactionMode) -> None:
        self._mode = mode

    @override
    async def lend(self) -> None:
        for text in self._lend():
            await self.driver_connection.execute(text)

    @override
    async def commit(self) -> None:
        for text in self._end("COMMIT"):
            await self.driver_connection.execute(text)

    @override
    async def rollback(self) -> None:
        for text in self._end("ROLLBACK"):
            await self.driver_connection.execute(text)

    @override
    def kill(self) -> None:
        with suppress(ValueError, sqlite3.ProgrammingError):  # closed
            self.driver_connection._conn.interrupt()  # noqa: SLF001 - its own interrupt() has to be awaited


class AiosqlitePool(ConnectionPool[AiosqliteApplicationConnection]):
    """Connections that are opened when they are needed, and kept."""

    def __init__(self, config: AiosqliteConfig) -> None:
        super().__init__(config, config.max_size)
        self._connect = config.connector()
        self._idle: list[AiosqliteApplicationConnection] = []

    @override
    async def _open(self) -> None:
        pass

    @override
    async def _take(self) -> AiosqliteApplicationConnection:
        if self._idle:
            return self._idle.pop()
        driver_connection = aiosqlite.Connection(self._connect, iter_chunk_size=64)
        try:
            await driver_connection
        except BaseException:
            # Its thread has one more thing to tell the loop, which may be closed next.
            thread: Any = getattr(driver_connection, "_thread", driver_connection)  # itself before aiosqlite 0.22
            while thread.is_alive():  # noqa: ASYNC110 - a thread sets no event
                await asyncio.sleep(0.001)
            raise
        return AiosqliteApplicationConnection(driver_connection, SQLITE)

    @override
    async def _put(self, connection: AiosqliteApplicationConnection) -> None:
        await connection.rollback()
        if connection.driver_connection.in_transaction:
            await connection.driver_connection.execute("ROLLBACK")
        self._idle.append(connection)

    @override
    async def _drop(self, connection: AiosqliteApplicationConnection) -> None:
        await connection.driver_connection.close()

    @override
    async def _close(self) -> None:
        while self._idle:
            await self._idle.pop().driver_connection.close()

    @override
    def kill(self) -> None:
        while self._idle:
            self._idle.pop().driver_connection.stop()


class AiosqliteStore(BaseSQLSpecStore[AiosqliteConfig]):
    """A Litestar store in a SQLite file."""

    @classmethod
    @override
    def config_type(cls) -> type[AiosqliteConfig]:
        return AiosqliteConfig
