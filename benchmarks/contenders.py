"""Everybody who takes part: sqlstore, the bare drivers, and the stores of SQLSpec, Advanced Alchemy and Litestar.

A bare driver runs what a developer of an application would write by hand: the plainest SQL that is right, and the
driver's pool with its defaults. A peer is set up as its documentation says; where its default would do less work than
the others (SQLSpec does not wait for the disk on SQLite), it runs once as shipped and once on equal terms.
"""

from __future__ import annotations

import asyncio
import sqlite3
from abc import ABC, abstractmethod
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from typing_extensions import override

if TYPE_CHECKING:
    from collections.abc import Sequence

    import aiosqlite
    import asyncpg
    from psycopg_pool import AsyncConnectionPool

LIFETIME = 3600
"""Seconds that every value lives, and that a renewal adds."""

POSTGRESQL = "on disk when set returns: fsync=on, synchronous_commit=on"
SQLITE = "on disk when set returns: journal_mode=WAL, synchronous=FULL"


class Verbs(Protocol):
    """The part of `litestar.stores.base.Store` that is measured."""

    async def get(self, key: str, renew_for: int | None = None) -> bytes | None:
        """See `litestar.stores.base.Store.get`."""

    async def set(self, key: str, value: bytes, expires_in: int | None = None) -> None:
        """See `litestar.stores.base.Store.set`."""

    async def delete(self, key: str) -> None:
        """See `litestar.stores.base.Store.delete`."""


class Contender(ABC):
    """One who takes part, in a database or directory of its own."""

    name: ClassVar[str]
    group: ClassVar[str]
    server: ClassVar[str] = ""  # "postgresql", "redis", "redis-always", or none: files, or memory
    durability: ClassVar[str]

    def __init__(self, place: str) -> None:
        """Take part in *place*: the DSN of a server or its database, or a directory."""
        self.place = place
        self.resources = AsyncExitStack()

    @abstractmethod
    async def open(self) -> Verbs:
        """Connect, make the table, and return what is to be measured.

        Raises what the driver raises, and ImportError if a package is missing.
        """

    async def close(self) -> None:
        """Close what was opened; its place stays."""
        await self.resources.aclose()


class SqlstoreAsyncpg(Contender):
    """Our store on PostgreSQL."""

    name = "sqlstore (asyncpg)"
    group = "PostgreSQL"
    server = "postgresql"
    durability = POSTGRESQL

    @override
    async def open(self) -> Verbs:
        from sqlstore.adapters.asyncpg import AsyncpgConfig, AsyncpgStore

        store = AsyncpgStore(AsyncpgConfig(pool_config={"dsn": self.place}))
        self.resources.push_async_callback(store.close)
        await store.create_table()
        return store


class Bare(Contender):
    """A driver without a store: the SQL, one statement a call."""

    CREATE: ClassVar[str]
    GET: ClassVar[str]
    RENEW: ClassVar[str]
    SET: ClassVar[str]
    DELETE: ClassVar[str]

    @abstractmethod
    async def execute(self, sql: str, *values: object) -> bytes | None:
        """Run and commit one statement; return the first value of its first row, if any."""

    async def get(self, key: str, renew_for: int | None = None) -> bytes | None:
        """See `Verbs.get`."""
        return await (self.execute(self.GET, key) if renew_for is None else self.execute(self.RENEW, renew_for, key))

    async def set(self, key: str, value: bytes, expires_in: int | None = None) -> None:
        """See `Verbs.set`."""
        await self.execute(self.SET, key, value, expires_in)

    async def delete(self, key: str) -> None:
        """See `Verbs.delete`."""
        await self.execute(self.DELETE, key)


class BarePostgresql(Bare):
    """A PostgreSQL driver."""

    group = "PostgreSQL"
    server = "postgresql"
    durability = POSTGRESQL
    CREATE = "CREATE TABLE bare (key text PRIMARY KEY, data bytea NOT NULL, expires_at timestamptz)"
    GET = "SELECT data FROM bare WHERE key = $1 AND (expires_at IS NULL OR expires_at > now())"
    RENEW = """
        UPDATE bare SET expires_at = now() + make_interval(secs => $1)
        WHERE key = $2 AND expires_at > now() RETURNING data
    """
    SET = """
        INSERT INTO bare (key, data, expires_at) VALUES ($1, $2, now() + make_interval(secs => $3))
        ON CONFLICT (key) DO UPDATE SET data = excluded.data, expires_at = excluded.expires_at
    """
    DELETE = "DELETE FROM bare WHERE key = $1"


class RawAsyncpg(BarePostgresql):
    """An asyncpg pool with its defaults, which are 10 connections."""

    name = "raw asyncpg"
    pool: asyncpg.Pool[Any]

    @override
    async def open(self) -> Verbs:
        import asyncpg

        self.pool = await self.resources.enter_async_context(asyncpg.create_pool(self.place))
        await self.execute(self.CREATE)
        return self

    @override
    async def execute(self, sql: str, *values: object) -> bytes | None:
        async with self.pool.acquire() as connection:
            value: bytes | None = await connection.fetchval(sql, *values)
        return value


class RawPsycopg(BarePostgresql):
    """A psycopg pool of 10 connections in autocommit mode, with the cursor that takes the same SQL."""

    name = "raw psycopg"
    pool: AsyncConnectionPool[Any]

    @override
    async def open(self) -> Verbs:
        import psycopg
        from psycopg_pool import AsyncConnectionPool

        options = {"autocommit": True, "cursor_factory": psycopg.AsyncRawCursor}
        self.pool = AsyncConnectionPool(self.place, min_size=10, timeout=60, kwargs=options, open=False)
        await self.resources.enter_async_context(self.pool)
        await self.execute(self.CREATE)
        return self

    @override
    async def execute(self, sql: str, *values: object) -> bytes | None:
        async with self.pool.connection() as connection:
            cursor = await connection.execute(sql.encode(), values)
            row = await cursor.fetchone() if cursor.description else None
        return row[0] if row else None


class SqlspecAsyncpg(Contender):
    """SQLSpec's store over its asyncpg pool."""

    name = "SQLSpec (asyncpg)"
    group = "PostgreSQL"
    server = "postgresql"
    durability = POSTGRESQL

    @override
    async def open(self) -> Verbs:
        from sqlspec.adapters.asyncpg import AsyncpgConfig
        from sqlspec.adapters.asyncpg.litestar import AsyncpgStore

        config = AsyncpgConfig(connection_config={"dsn": self.place})
        self.resources.push_async_callback(config.close_pool)
        store = AsyncpgStore(config)
        await store.create_table()
        return store


class AlchemyAsyncpg(Contender):
    """Advanced Alchemy's store over an SQLAlchemy engine, whose pool keeps 5 connections and opens 10 more."""

    name = "Advanced Alchemy (asyncpg)"
    group = "PostgreSQL"
    server = "postgresql"
    durability = POSTGRESQL

    @override
    async def open(self) -> Verbs:
        return await _open_alchemy(self.place.replace("postgresql://", "postgresql+asyncpg://"), self.resources)


class SqlstoreSqlite(Contender):
    """Our store on SQLite; the aiosqlite adapter's store connections are the same."""

    name = "sqlstore (sqlite3)"
    group = "SQLite"
    durability = SQLITE

    @override
    async def open(self) -> Verbs:
        from sqlstore.adapters.sqlite import SqliteConfig, SqliteStore

        store = SqliteStore(SqliteConfig(pool_config={"database": f"{self.place}/sqlstore.db"}))
        self.resources.push_async_callback(store.close)
        await store.create_table()
        return store


class BareSqlite(Bare):
    """A SQLite driver, each statement a transaction of its own."""

    group = "SQLite"
    durability = SQLITE
    PRAGMAS = ("PRAGMA journal_mode = WAL", "PRAGMA synchronous = FULL")
    # To the millisecond, as with the others: a renewal that leaves a row as it is, SQLite does not write.
    NOW = "(julianday('now') - 2440587.5) * 86400"
    CREATE = "CREATE TABLE bare (key TEXT PRIMARY KEY, data BLOB NOT NULL, expires_at REAL)"
    GET = f"SELECT data FROM bare WHERE key = ? AND (expires_at IS NULL OR expires_at > {NOW})"
    RENEW = f"UPDATE bare SET expires_at = {NOW} + ? WHERE key = ? AND expires_at > {NOW} RETURNING data"
    SET = f"""
        INSERT INTO bare (key, data, expires_at) VALUES (?, ?, {NOW} + ?)
        ON CONFLICT (key) DO UPDATE SET data = excluded.data, expires_at = excluded.expires_at
    """
    DELETE = "DELETE FROM bare WHERE key = ?"


class RawSqlite(BareSqlite):
    """One sqlite3 connection in a thread."""

    name = "raw sqlite3"
    connection: sqlite3.Connection
    thread: ThreadPoolExecutor

    @override
    async def open(self) -> Verbs:
        self.thread = self.resources.enter_context(ThreadPoolExecutor(1))
        self.connection = sqlite3.connect(f"{self.place}/bare.db", isolation_level=None, check_same_thread=False)
        self.resources.callback(self.connection.close)
        for sql in (*self.PRAGMAS, self.CREATE):
            await self.execute(sql)
        return self

    @override
    async def execute(self, sql: str, *values: object) -> bytes | None:
        return await asyncio.get_running_loop().run_in_executor(self.thread, self._execute, sql, values)

    def _execute(self, sql: str, values: tuple[Any, ...]) -> bytes | None:
        rows = self.connection.execute(sql, values).fetchall()
        return rows[0][0] if rows else None


class RawAiosqlite(BareSqlite):
    """One aiosqlite connection, and its call with the fewest hops to its thread: one."""

    name = "raw aiosqlite"
    connection: aiosqlite.Connection

    @override
    async def open(self) -> Verbs:
        import aiosqlite

        database = aiosqlite.connect(f"{self.place}/bare.db", isolation_level=None)
        self.connection = await self.resources.enter_async_context(database)
        for sql in (*self.PRAGMAS, self.CREATE):
            await self.execute(sql)
        return self

    @override
    async def execute(self, sql: str, *values: object) -> bytes | None:
        rows = list(await self.connection.execute_fetchall(sql, values))
        return rows[0][0] if rows else None


class RawAiosqliteCursors(RawAiosqlite):
    """The same, with a cursor for each statement as in aiosqlite's README: two hops a write, three a read."""

    name = "raw aiosqlite (cursors)"

    @override
    async def execute(self, sql: str, *values: object) -> bytes | None:
        async with self.connection.execute(sql, values) as cursor:
            row = await cursor.fetchone() if cursor.description else None
        return row[0] if row else None


class SqlspecAiosqlite(Contender):
    """SQLSpec's store over its pool of 5 aiosqlite connections, made to wait for the disk."""

    name = "SQLSpec (aiosqlite)"
    group = "SQLite"
    durability = f"{SQLITE}, set for this comparison"
    pragmas: ClassVar[dict[str, str | int | bool]] = {"synchronous": "FULL"}

    @override
    async def open(self) -> Verbs:
        from sqlspec.adapters.aiosqlite import AiosqliteConfig
        from sqlspec.adapters.aiosqlite.litestar import AiosqliteStore

        config = AiosqliteConfig(
            connection_config={"database": f"{self.place}/sqlspec.db"},
            driver_features={"pragmas": self.pragmas},
        )
        self.resources.push_async_callback(config.close_pool)
        store = AiosqliteStore(config)
        await store.create_table()
        return store


class SqlspecAiosqliteAsShipped(SqlspecAiosqlite):
    """SQLSpec's store over aiosqlite, with its own pragmas."""

    name = "SQLSpec (aiosqlite, as shipped)"
    durability = "a power failure takes the last commits: its default is synchronous=NORMAL"
    pragmas: ClassVar[dict[str, str | int | bool]] = {}


class AlchemyAiosqlite(Contender):
    """Advanced Alchemy's store over an SQLAlchemy engine, with the others' pragmas on each connection."""

    name = "Advanced Alchemy (aiosqlite)"
    group = "SQLite"
    durability = f"{SQLITE}, set for this comparison"

    @override
    async def open(self) -> Verbs:
        return await _open_alchemy(
            f"sqlite+aiosqlite:///{self.place}/alchemy.db", self.resources, pragmas=BareSqlite.PRAGMAS
        )


class LitestarRedis(Contender):
    """Litestar's RedisStore on a Redis with its own settings."""

    name = "RedisStore"
    group = "Litestar"
    server = "redis"
    durability = "in memory, with a snapshot from time to time: a crash takes everything since the last one"

    @override
    async def open(self) -> Verbs:
        from litestar.stores.redis import RedisStore

        store = RedisStore.with_client(self.place)
        self.resources.push_async_exit(store)
        return store


class LitestarRedisAlways(LitestarRedis):
    """Litestar's RedisStore on a Redis that writes each command to disk before it answers."""

    name = "RedisStore (appendfsync always)"
    server = "redis-always"
    durability = "on disk when set returns: appendonly=yes, appendfsync=always"


class LitestarFile(Contender):
    """Litestar's FileStore."""

    name = "FileStore"
    group = "Litestar"
    durability = "a power failure takes what the kernel has not written: it never calls fsync, and cannot be told to"

    @override
    async def open(self) -> Verbs:
        from litestar.stores.file import FileStore

        return FileStore(Path(self.place), create_directories=True)


class LitestarMemory(Contender):
    """Litestar's MemoryStore."""

    name = "MemoryStore"
    group = "Litestar"
    durability = "none: the values are in this process, and go with it"

    @override
    async def open(self) -> Verbs:
        from litestar.stores.memory import MemoryStore

        return MemoryStore()


CONTENDERS: tuple[type[Contender], ...] = (
    SqlstoreAsyncpg,
    RawAsyncpg,
    RawPsycopg,
    SqlspecAsyncpg,
    AlchemyAsyncpg,
    SqlstoreSqlite,
    RawSqlite,
    RawAiosqlite,
    RawAiosqliteCursors,
    SqlspecAiosqlite,
    SqlspecAiosqliteAsShipped,
    AlchemyAiosqlite,
    LitestarRedis,
    LitestarRedisAlways,
    LitestarFile,
    LitestarMemory,
)


async def _open_alchemy(url: str, resources: AsyncExitStack, *, pragmas: Sequence[str] = ()) -> Verbs:
    from advanced_alchemy.base import UUIDv7Base
    from advanced_alchemy.extensions.litestar import SQLAlchemyAsyncConfig
    from advanced_alchemy.extensions.litestar.store import SQLAlchemyStore, StoreModelMixin
    from sqlalchemy import event

    # A second class of the same name would be another table of the same name: one for all engines.
    model = next((made for made in StoreModelMixin.__subclasses__()), None) or type(
        "AlchemySession", (StoreModelMixin,), {"__tablename__": "alchemy_session"}
    )
    config = SQLAlchemyAsyncConfig(connection_string=url)
    engine = config.get_engine()
    resources.push_async_callback(engine.dispose)

    def set_pragmas(connection: Any, _: object) -> None:  # noqa: ANN401 - SQLAlchemy's adapted connection has no type
        for pragma in pragmas:
            connection.execute(pragma)

    event.listen(engine.sync_engine, "connect", set_pragmas)
    async with engine.begin() as connection:
        await connection.run_sync(UUIDv7Base.metadata.create_all)
    return SQLAlchemyStore(config, model=model)
