"""Stores over the application's own pool: they share it, and leave it as it was."""

# ruff: noqa: ANN401 - each driver has types of its own

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, ClassVar

import asyncpg
import psycopg_pool
import pytest
from typing_extensions import override

from sqlstore import UnavailableError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from sqlstore import BaseConfig, BaseSQLSpecStore

    from ..conftest import Adapter, MakeConfig
    from ..proxy import Proxy

    Store = BaseSQLSpecStore[Any]


class Pool(ABC):
    """A driver's pool, as an application uses it."""

    of_driver: Any
    show: ClassVar[str] = "SHOW lock_timeout"
    """A setting of the session that a store changes."""

    @classmethod
    @abstractmethod
    async def open(cls, dsn: str, size: int) -> Pool:
        """Open a pool of at most *size* connections."""

    @abstractmethod
    async def take(self) -> Any:
        """Take a connection."""

    @abstractmethod
    async def give_back(self, connection: Any) -> None:
        """Give it back."""

    @abstractmethod
    async def fetch(self, connection: Any, sql: str) -> Any:
        """Return the value that *sql* asks for."""

    @abstractmethod
    async def end(self) -> None:
        """Close the pool without waiting for what a failing test has not given back."""


class AsyncpgPool(Pool):
    """asyncpg's."""

    def __init__(self, of_driver: asyncpg.Pool[Any]) -> None:
        self.of_driver = of_driver

    @classmethod
    @override
    async def open(cls, dsn: str, size: int) -> Pool:
        return cls(await asyncpg.create_pool(dsn, min_size=0, max_size=size))

    @override
    async def take(self) -> Any:
        return await self.of_driver.acquire(timeout=5)

    @override
    async def give_back(self, connection: Any) -> None:
        await self.of_driver.release(connection)

    @override
    async def fetch(self, connection: Any, sql: str) -> Any:
        return await connection.fetchval(sql)

    @override
    async def end(self) -> None:
        self.of_driver.terminate()


class PsycopgPool(Pool):
    """psycopg's."""

    def __init__(self, of_driver: psycopg_pool.AsyncConnectionPool[Any]) -> None:
        self.of_driver = of_driver

    @classmethod
    @override
    async def open(cls, dsn: str, size: int) -> Pool:
        pool = cls(psycopg_pool.AsyncConnectionPool(dsn, min_size=0, max_size=size, open=False))
        await pool.of_driver.open()
        return pool

    @override
    async def take(self) -> Any:
        return await self.of_driver.getconn(5)

    @override
    async def give_back(self, connection: Any) -> None:
        await self.of_driver.putconn(connection)

    @override
    async def fetch(self, connection: Any, sql: str) -> Any:
        assert not connection.autocommit, "as the pool had opened it"
        row = await (await connection.execute(sql)).fetchone()
        return row[0]

    @override
    async def end(self) -> None:
        await self.of_driver.close(timeout=0.1)


class PsycopgSyncPool(Pool):
    """psycopg's synchronous one."""

    def __init__(self, of_driver: psycopg_pool.ConnectionPool[Any]) -> None:
        self.of_driver = of_driver

    @classmethod
    @override
    async def open(cls, dsn: str, size: int) -> Pool:
        return cls(psycopg_pool.ConnectionPool(dsn, min_size=0, max_size=size, open=True))

    @override
    async def take(self) -> Any:
        return await asyncio.to_thread(self.of_driver.getconn, 5)

    @override
    async def give_back(self, connection: Any) -> None:
        await asyncio.to_thread(self.of_driver.putconn, connection)

    @override
    async def fetch(self, connection: Any, sql: str) -> Any:
        assert not connection.autocommit, "as the pool had opened it"
        return connection.execute(sql).fetchone()[0]

    @override
    async def end(self) -> None:
        await asyncio.to_thread(self.of_driver.close, 1)


POOLS: dict[str, type[Pool]] = {"asyncpg": AsyncpgPool, "psycopg": PsycopgPool, "psycopg_sync": PsycopgSyncPool}

pytestmark = pytest.mark.adapters(*POOLS)


@asynccontextmanager
async def _pooled(
    adapter: Adapter, dsn: str, store: Store, size: int, patience: float = 10
) -> AsyncGenerator[tuple[Pool, Store], None]:
    """Give a pool, and a store over it that uses the table of *store*."""
    pool = await POOLS[adapter.name].open(dsn, size)
    options = {"session_table": store.table_name, "timeout": patience}
    try:
        pooled = adapter.store(adapter.config(pool_instance=pool.of_driver, extension_config={"litestar": options}))
        yield pool, pooled
        await pooled.close()
    finally:
        await pool.end()


@pytest.mark.parametrize("size", [4, 7, 20])
async def test_a_pool_is_shared_with_its_application(adapter: Adapter, store: Store, database: str, size: int) -> None:
    """The stores keep at most 6 of its connections, at least 2 are left, and none is taken twice."""
    async with _pooled(adapter, database, store, size) as (pool, pooled):
        for _ in range(2):
            await asyncio.gather(*(pooled.incr(f"k{number}") for number in range(30)))
            await asyncio.gather(*(pooled.get(f"k{number}") for number in range(30)))
        kept = min(6, size - 2)
        taken = [await pool.take() for _ in range(size - kept)]  # the application's turn
        await asyncio.gather(*(pooled.incr(f"k{number}") for number in range(30)))
        for connection in taken:
            await pool.give_back(connection)

        assert await pooled.get_many(["k0", "k29"]) == {"k0": b"3", "k29": b"3"}


async def test_a_pool_gets_its_connections_back_as_they_were(adapter: Adapter, store: Store, database: str) -> None:
    """`close` returns them, without the stores' settings, and leaves the pool open; the next call takes them again."""
    async with _pooled(adapter, database, store, 4) as (pool, pooled):
        fresh = await pool.take()
        usual = await pool.fetch(fresh, pool.show)
        await pool.give_back(fresh)
        await pooled.set("k", b"v")
        await pooled.get("k")
        await pooled.close()
        connections = [await pool.take() for _ in range(4)]
        settings = [await pool.fetch(connection, pool.show) for connection in connections]
        for connection in connections:
            await pool.give_back(connection)

        assert settings == [usual] * 4
        assert await pooled.get("k") == b"v"


async def test_a_pool_that_cannot_be_shared_is_refused(adapter: Adapter, database: str) -> None:
    """The message says how large it has to be."""
    pool = await POOLS[adapter.name].open(database, 3)
    with pytest.raises(ValueError, match=r"of 3 connections .*at least 4"):
        adapter.config(pool_instance=pool.of_driver)
    with pytest.raises(TypeError, match="either pool_config"):
        adapter.config(pool_instance=pool.of_driver, pool_config=adapter.pool_config(database))
    await pool.end()
    with pytest.raises(TypeError, match="either pool_config"):
        adapter.config()


async def test_a_pool_survives_connections_that_were_dropped(
    adapter: Adapter, store: Store, make_config: MakeConfig, proxy: Proxy
) -> None:
    """What a deadline cost the pool, it opens anew, for the stores and for the application."""
    async with _pooled(adapter, _dsn(make_config(port=proxy.port)), store, 4, patience=0.5) as (pool, pooled):
        await asyncio.gather(pooled.set("k", b"v"), pooled.get("l"))
        proxy.freeze()
        calls = (pooled.set("k", b"new"), pooled.get("l"), pooled.set("l", b"new"))
        async with asyncio.timeout(20):
            answers = await asyncio.gather(*calls, return_exceptions=True)
        proxy.thaw()
        await pooled.set("k", b"newer")
        used = [await pool.take() for _ in range(2)]
        for connection in used:
            await pool.give_back(connection)

        assert all(isinstance(answer, UnavailableError) for answer in answers)
        assert await pooled.get("k") == b"newer"


async def test_taking_a_frozen_connection_from_a_pool_ends_in_time(
    adapter: Adapter, store: Store, make_config: MakeConfig, proxy: Proxy
) -> None:
    """Otherwise the connections that the stores may have would be used up by waiting for ever."""
    async with _pooled(adapter, _dsn(make_config(port=proxy.port)), store, 4, patience=0.5) as (pool, pooled):
        await pool.give_back(await pool.take())
        proxy.freeze()
        async with asyncio.timeout(20):
            with pytest.raises(Exception):  # noqa: B017, PT011 - the driver's own
                await pooled.config.open_store_connection()
        proxy.thaw()

        await pooled.set("k", b"v")


def _dsn(config: BaseConfig) -> str:
    [dsn] = (str(value) for name, value in config.pool_config.items() if name in {"dsn", "conninfo"})
    return dsn
