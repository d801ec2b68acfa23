"""What only the asyncpg adapter does."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import asyncpg
import pytest

from sqlstore import UnavailableError
from sqlstore.adapters.asyncpg import AsyncpgConfig, AsyncpgStore

from .test_postgresql import settings_of

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from sqlstore import BaseSQLSpecStore, LitestarOptions

    from ..conftest import MakeConfig
    from ..proxy import Proxy

    Store = BaseSQLSpecStore[Any]

pytestmark = pytest.mark.adapters("asyncpg")


async def test_the_application_may_add_session_settings(database: str) -> None:
    """``server_settings`` are passed on, but for those that the stores rely on."""
    config = AsyncpgConfig(
        pool_config={
            "dsn": database,
            "server_settings": {"application_name": "mine", "work_mem": "123kB", "synchronous_commit": "off"},
        }
    )
    async with settings_of(config, "application_name", "work_mem", "synchronous_commit") as settings:
        assert settings == ["mine", "123kB", "on"]


# The application's pool


@asynccontextmanager
async def _pooled(
    dsn: str, store: Store, size: int, patience: float = 10
) -> AsyncGenerator[tuple[asyncpg.Pool[Any], Store], None]:
    """Give a pool, and a store over it that uses the table of *store*."""
    table: LitestarOptions = {"session_table": store.table_name, "timeout": patience}
    async with asyncpg.create_pool(dsn, min_size=0, max_size=size) as pool:
        pooled = AsyncpgStore(AsyncpgConfig(pool_instance=pool, extension_config={"litestar": table}))
        try:
            yield pool, pooled
            await pooled.close()
        finally:
            pool.terminate()  # or it would wait for a connection that a failing test has not given back


@pytest.mark.parametrize("size", [4, 7, 20])
async def test_a_pool_is_shared_with_its_application(store: Store, database: str, size: int) -> None:
    """The stores keep at most 6 of its connections, at least 2 are left, and none is taken twice."""
    async with _pooled(database, store, size) as (pool, pooled):
        for _ in range(2):
            await asyncio.gather(*(pooled.incr(f"k{number}") for number in range(30)))
            await asyncio.gather(*(pooled.get(f"k{number}") for number in range(30)))
        free = size - (pool.get_size() - pool.get_idle_size())
        taken = [await pool.acquire(timeout=5) for _ in range(free)]  # the application's turn
        await asyncio.gather(*(pooled.incr(f"k{number}") for number in range(30)))
        for connection in taken:
            await pool.release(connection)

        assert max(2, size - 5) <= free < size
        assert await pooled.get_many(["k0", "k29"]) == {"k0": b"3", "k29": b"3"}


async def test_a_pool_gets_its_connections_back_as_they_were(store: Store, database: str) -> None:
    """`close` returns them, without the stores' settings, and leaves the pool open; the next call takes them again."""
    async with _pooled(database, store, 4) as (pool, pooled):
        await pooled.set("k", b"v")
        await pooled.get("k")
        await pooled.close()
        connections = [await pool.acquire(timeout=5) for _ in range(4)]
        timeouts = [await connection.fetchval("SHOW lock_timeout") for connection in connections]
        for connection in connections:
            await pool.release(connection)

        assert timeouts == ["0"] * 4
        assert await pooled.get("k") == b"v"


async def test_a_pool_that_cannot_be_shared_is_refused(database: str) -> None:
    """The message says how large it has to be."""
    async with asyncpg.create_pool(database, min_size=0, max_size=3) as pool:
        with pytest.raises(ValueError, match=r"max_size=3.*at least 4"):
            AsyncpgConfig(pool_instance=pool)
        with pytest.raises(TypeError, match="either pool_config"):
            AsyncpgConfig(pool_instance=pool, pool_config={"dsn": database})
    with pytest.raises(TypeError, match="either pool_config"):
        AsyncpgConfig()


async def test_a_pool_survives_connections_that_were_dropped(
    store: Store, make_config: MakeConfig, proxy: Proxy
) -> None:
    """What a deadline cost the pool, it opens anew, for the stores and for the application."""
    dsn = make_config(port=proxy.port).pool_config["dsn"]
    async with _pooled(dsn, store, 4, patience=0.5) as (pool, pooled):
        await asyncio.gather(pooled.set("k", b"v"), pooled.get("l"))
        proxy.freeze()
        calls = (pooled.set("k", b"new"), pooled.get("l"), pooled.set("l", b"new"))
        async with asyncio.timeout(1.5):
            answers = await asyncio.gather(*calls, return_exceptions=True)
        proxy.thaw()
        await pooled.set("k", b"newer")
        used = [await pool.acquire(timeout=5) for _ in range(2)]
        for connection in used:
            await pool.release(connection)

        assert all(isinstance(answer, UnavailableError) for answer in answers)
        assert await pooled.get("k") == b"newer"


async def test_taking_a_frozen_connection_from_a_pool_ends_in_time(
    store: Store, make_config: MakeConfig, proxy: Proxy
) -> None:
    """Otherwise the connections that the stores may have would be used up by waiting for ever."""
    dsn = make_config(port=proxy.port).pool_config["dsn"]
    async with _pooled(dsn, store, 4, patience=0.5) as (pool, pooled):
        async with pool.acquire() as connection:
            await connection.fetchval("SELECT 1")
        proxy.freeze()
        async with asyncio.timeout(1.5):
            with pytest.raises((OSError, asyncpg.PostgresError, asyncpg.InterfaceError)):
                await pooled.config.open_store_connection()
        proxy.thaw()

        await pooled.set("k", b"v")


# Bad input


@pytest.mark.parametrize("name", ["dns", "connection_config", "min_sise"])
def test_a_misspelt_option_is_refused(name: str) -> None:
    """Before anything is opened, naming the option that was probably meant."""
    with pytest.raises(TypeError, match=f"unknown option '{name}'"):
        AsyncpgConfig(pool_config={name: "x"})
