"""Everybody who takes part: sqlstore, the bare drivers, and the stores of SQLSpec, Advanced Alchemy and Litestar.

A bare driver runs what a developer of an application would write by hand: the plainest SQL that is right, and the
driver's pool with its defaults. A peer is set up as its documentation says; where its default would do less work than
the others (SQLSpec does not wait for the disk on SQLite), it runs once as shipped and once on equal terms.
"""

from __future__ import annotations

import asyncio
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, Self
from urllib.parse import urlsplit

from typing_extensions import override

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
    from contextlib import AbstractAsyncContextManager

LIFETIME = 3600
"""Seconds that every value lives, and that a renewal adds."""


class Verbs(Protocol):
    """The part of `litestar.stores.base.Store` that is measured."""

    async def get(self, key: str, renew_for: int | None = None) -> bytes | None:
        """See `litestar.stores.base.Store.get`."""

    async def set(self, key: str, value: bytes, expires_in: int | None = None) -> None:
        """See `litestar.stores.base.Store.set`."""

    async def delete(self, key: str) -> None:
        """See `litestar.stores.base.Store.delete`."""


class Tabular(Verbs, Protocol):
    """What has a table to be made."""

    async def create_table(self) -> None:
        """Make it."""


@dataclass(frozen=True)
class Terms:
    """What those have in common who are compared with each other."""

    group: str
    database: str
    """A server of `servers.SERVERS`, or "sqlite"; "" is none."""
    durability: str


POSTGRESQL = Terms("PostgreSQL", "postgresql", "on disk when set returns: fsync=on, synchronous_commit=on")
PSYCOPG = Terms("PostgreSQL, psycopg", POSTGRESQL.database, POSTGRESQL.durability)
SQLITE = Terms("SQLite", "sqlite", "on disk when set returns: journal_mode=WAL, synchronous=FULL")
MARIADB = Terms("MariaDB", "mariadb", "on disk when set returns: innodb_flush_log_at_trx_commit=1")
MYSQL = Terms("MySQL", "mysql", "on disk when set returns: innodb_flush_log_at_trx_commit=1, sync_binlog=1")
REDIS = Terms(
    "Litestar", "redis", "in memory, with a snapshot from time to time: a crash takes everything since the last one"
)
REDIS_ALWAYS = Terms("Litestar", "redis-always", "on disk when set returns: appendonly=yes, appendfsync=always")
FILES = Terms(
    "Litestar",
    "",
    "a power failure takes what the kernel has not written: it never calls fsync, and cannot be told to",
)
MEMORY = Terms("Litestar", "", "none: the values are in this process, and go with it")


@dataclass(frozen=True)
class Contender:
    """One who takes part."""

    name: str
    terms: Terms
    open: Callable[[str], AbstractAsyncContextManager[Verbs]]
    """Connect, make the table, and give what is to be measured.

    It takes a place of its own: a database's DSN, or a directory. It raises what the driver raises, and ImportError if
    a package is missing.
    """
    exception: str = ""
    """What is different about its durability, if anything is."""
    own_sessions: bool = False
    """End to end, its sessions are those of ``SQLSessionConfig``, and not of Litestar's own middleware."""

    @property
    def durability(self) -> str:
        """What becomes of a value that was set."""
        return self.exception or self.terms.durability


def sqlstore_asyncpg(place: str) -> AbstractAsyncContextManager[Verbs]:
    """Our store on PostgreSQL through asyncpg."""
    from sqlstore.adapters.asyncpg import AsyncpgConfig, AsyncpgStore

    store = AsyncpgStore(AsyncpgConfig(pool_config={"dsn": place}))
    return _with_table(store, store.close)


def sqlstore_psycopg(place: str) -> AbstractAsyncContextManager[Verbs]:
    """Our store on PostgreSQL through psycopg."""
    from sqlstore.adapters.psycopg import PsycopgAsyncConfig, PsycopgAsyncStore

    store = PsycopgAsyncStore(PsycopgAsyncConfig(pool_config={"conninfo": place}))
    return _with_table(store, store.close)


def sqlstore_psycopg_sync(place: str) -> AbstractAsyncContextManager[Verbs]:
    """Our store on PostgreSQL through psycopg's synchronous connections."""
    from sqlstore.adapters.psycopg import PsycopgSyncConfig, PsycopgSyncStore

    store = PsycopgSyncStore(PsycopgSyncConfig(pool_config={"conninfo": place}))
    return _with_table(store, store.close)


def sqlstore_sqlite(place: str) -> AbstractAsyncContextManager[Verbs]:
    """Our store on SQLite; the aiosqlite adapter's store connections are the same."""
    from sqlstore.adapters.sqlite import SqliteConfig, SqliteStore

    store = SqliteStore(SqliteConfig(pool_config={"database": f"{place}/sqlstore.db"}))
    return _with_table(store, store.close)


def sqlstore_asyncmy(place: str) -> AbstractAsyncContextManager[Verbs]:
    """Our store on MariaDB or MySQL."""
    from sqlstore.adapters.asyncmy import AsyncmyConfig, AsyncmyStore

    store = AsyncmyStore(AsyncmyConfig(pool_config=mysql_options(place)))
    return _with_table(store, store.close)


def sqlspec_asyncpg(place: str) -> AbstractAsyncContextManager[Verbs]:
    """SQLSpec's store over its asyncpg pool."""
    from sqlspec.adapters.asyncpg import AsyncpgConfig
    from sqlspec.adapters.asyncpg.litestar import AsyncpgStore

    config = AsyncpgConfig(connection_config={"dsn": place})
    return _with_table(AsyncpgStore(config), config.close_pool)


def sqlspec_psycopg(place: str) -> AbstractAsyncContextManager[Verbs]:
    """SQLSpec's store over its psycopg pool."""
    from sqlspec.adapters.psycopg import PsycopgAsyncConfig
    from sqlspec.adapters.psycopg.litestar import PsycopgAsyncStore

    config = PsycopgAsyncConfig(connection_config={"conninfo": place})
    return _with_table(PsycopgAsyncStore(config), config.close_pool)


def sqlspec_aiosqlite(place: str, pragmas: dict[str, str | int | bool]) -> AbstractAsyncContextManager[Verbs]:
    """SQLSpec's store over its pool of 5 aiosqlite connections, with *pragmas* besides its own."""
    from sqlspec.adapters.aiosqlite import AiosqliteConfig
    from sqlspec.adapters.aiosqlite.litestar import AiosqliteStore

    config = AiosqliteConfig(
        connection_config={"database": f"{place}/sqlspec.db"}, driver_features={"pragmas": pragmas}
    )
    return _with_table(AiosqliteStore(config), config.close_pool)


def sqlspec_asyncmy(place: str) -> AbstractAsyncContextManager[Verbs]:
    """SQLSpec's store over its asyncmy pool."""
    from sqlspec.adapters.asyncmy import AsyncmyConfig
    from sqlspec.adapters.asyncmy.litestar import AsyncmyStore

    config = AsyncmyConfig(connection_config=mysql_options(place))
    return _with_table(AsyncmyStore(config), config.close_pool)


@asynccontextmanager
async def _with_table(store: Tabular, close: Callable[[], Awaitable[None]]) -> AsyncGenerator[Verbs, None]:
    """Give *store* with its table, and *close* it in the end."""
    try:
        await store.create_table()
        yield store
    finally:
        await close()


class Bare:
    """A driver without a store: the SQL, one statement a call."""

    CREATE: ClassVar[Sequence[str]]
    GET: ClassVar[str]
    RENEW: ClassVar[str]
    SET: ClassVar[str]
    DELETE: ClassVar[str]

    def __init__(self, execute: Callable[..., Awaitable[bytes | None]]) -> None:
        """Use *execute*: it runs and commits one statement, and returns the first value of its first row, if any."""
        self.execute = execute

    async def created(self) -> Self:
        """Return this, with its table."""
        for sql in self.CREATE:
            await self.execute(sql)
        return self

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

    CREATE = ("CREATE TABLE bare (key text PRIMARY KEY, data bytea NOT NULL, expires_at timestamptz)",)
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


@asynccontextmanager
async def raw_asyncpg(place: str) -> AsyncGenerator[Verbs, None]:
    """An asyncpg pool with its defaults, which are 10 connections."""
    import asyncpg

    async with asyncpg.create_pool(place) as pool:

        async def execute(sql: str, *values: object) -> bytes | None:
            async with pool.acquire() as connection:
                value: bytes | None = await connection.fetchval(sql, *values)
            return value

        yield await BarePostgresql(execute).created()


@asynccontextmanager
async def raw_psycopg(place: str) -> AsyncGenerator[Verbs, None]:
    """A psycopg pool of 10 connections in autocommit mode, with the cursor that takes the same SQL."""
    import psycopg
    from psycopg_pool import AsyncConnectionPool

    options = {"autocommit": True, "cursor_factory": psycopg.AsyncRawCursor}
    async with AsyncConnectionPool(place, min_size=10, timeout=60, kwargs=options, open=False) as pool:

        async def execute(sql: str, *values: object) -> bytes | None:
            async with pool.connection() as connection:
                cursor = await connection.execute(sql.encode(), values, binary=True)
                row = await cursor.fetchone() if cursor.description else None
            return row[0] if row else None

        yield await BarePostgresql(execute).created()


class BareSqlite(Bare):
    """A SQLite driver, each statement a transaction of its own."""

    PRAGMAS = ("PRAGMA journal_mode = WAL", "PRAGMA synchronous = FULL")
    # To the millisecond, as with the others: a renewal that leaves a row as it is, SQLite does not write.
    NOW = "(julianday('now') - 2440587.5) * 86400"
    CREATE = (*PRAGMAS, "CREATE TABLE bare (key TEXT PRIMARY KEY, data BLOB NOT NULL, expires_at REAL)")
    GET = f"SELECT data FROM bare WHERE key = ? AND (expires_at IS NULL OR expires_at > {NOW})"
    RENEW = f"UPDATE bare SET expires_at = {NOW} + ? WHERE key = ? AND expires_at > {NOW} RETURNING data"
    SET = f"""
        INSERT INTO bare (key, data, expires_at) VALUES (?, ?, {NOW} + ?)
        ON CONFLICT (key) DO UPDATE SET data = excluded.data, expires_at = excluded.expires_at
    """
    DELETE = "DELETE FROM bare WHERE key = ?"


@asynccontextmanager
async def raw_sqlite(place: str) -> AsyncGenerator[Verbs, None]:
    """One sqlite3 connection in a thread."""
    database = sqlite3.connect(f"{place}/bare.db", isolation_level=None, check_same_thread=False)
    with closing(database) as connection, ThreadPoolExecutor(1) as thread:

        def in_thread(sql: str, values: tuple[Any, ...]) -> bytes | None:
            rows = connection.execute(sql, values).fetchall()
            return rows[0][0] if rows else None

        async def execute(sql: str, *values: object) -> bytes | None:
            return await asyncio.get_running_loop().run_in_executor(thread, in_thread, sql, values)

        yield await BareSqlite(execute).created()


@asynccontextmanager
async def raw_aiosqlite(place: str) -> AsyncGenerator[Verbs, None]:
    """One aiosqlite connection, and its call with the fewest hops to its thread: one."""
    import aiosqlite

    async with aiosqlite.connect(f"{place}/bare.db", isolation_level=None) as connection:

        async def execute(sql: str, *values: object) -> bytes | None:
            rows = list(await connection.execute_fetchall(sql, values))
            return rows[0][0] if rows else None

        yield await BareSqlite(execute).created()


@asynccontextmanager
async def raw_aiosqlite_cursors(place: str) -> AsyncGenerator[Verbs, None]:
    """The same, with a cursor for each statement as in aiosqlite's README: two hops a write, three a read."""
    import aiosqlite

    async with aiosqlite.connect(f"{place}/bare.db", isolation_level=None) as connection:

        async def execute(sql: str, *values: object) -> bytes | None:
            async with connection.execute(sql, values) as cursor:
                row = await cursor.fetchone() if cursor.description else None
            return row[0] if row else None

        yield await BareSqlite(execute).created()


class BareMariadb(Bare):
    """A driver of MariaDB, whose UPDATE returns no row: a renewal takes two statements."""

    # Binary, as equal keys are equal byte for byte.
    CREATE = ("CREATE TABLE bare (`key` varbinary(255) PRIMARY KEY, data longblob NOT NULL, expires_at datetime(6))",)
    GET = "SELECT data FROM bare WHERE `key` = %s AND (expires_at IS NULL OR expires_at > UTC_TIMESTAMP(6))"
    RENEW = """
        UPDATE bare SET expires_at = UTC_TIMESTAMP(6) + INTERVAL %s SECOND
        WHERE `key` = %s AND expires_at > UTC_TIMESTAMP(6)
    """
    SET = """
        INSERT INTO bare (`key`, data, expires_at) VALUES (%s, %s, UTC_TIMESTAMP(6) + INTERVAL %s SECOND)
        ON DUPLICATE KEY UPDATE data = VALUES(data), expires_at = VALUES(expires_at)
    """
    DELETE = "DELETE FROM bare WHERE `key` = %s"

    @override
    async def get(self, key: str, renew_for: int | None = None) -> bytes | None:
        if renew_for is not None:
            await self.execute(self.RENEW, renew_for, key)
        return await self.execute(self.GET, key)


class BareMysql(BareMariadb):
    """A driver of MySQL, which warns of VALUES(): asyncmy asks what the warning is, which is one more round trip."""

    SET = """
        INSERT INTO bare (`key`, data, expires_at) VALUES (%s, %s, UTC_TIMESTAMP(6) + INTERVAL %s SECOND) AS new
        ON DUPLICATE KEY UPDATE data = new.data, expires_at = new.expires_at
    """


@asynccontextmanager
async def raw_asyncmy(place: str, bare: type[Bare]) -> AsyncGenerator[Verbs, None]:
    """An asyncmy pool with its defaults, which are 10 connections, in autocommit mode."""
    import asyncmy

    made: Any = asyncmy.create_pool(**mysql_options(place), autocommit=True)  # pyright: ignore[reportUnknownMemberType]
    async with made as pool:

        async def execute(sql: str, *values: object) -> bytes | None:
            async with pool.acquire() as connection, connection.cursor() as cursor:
                await cursor.execute(sql, values)
                row: tuple[bytes] | None = await cursor.fetchone()
            return row[0] if row else None

        yield await bare(execute).created()


def mysql_options(dsn: str) -> dict[str, Any]:
    """Return how asyncmy connects to *dsn*."""
    parts = urlsplit(dsn)
    options = {"host": parts.hostname, "port": parts.port, "user": parts.username, "password": parts.password or ""}
    return {**options, "db": parts.path[1:]}


def alchemy_asyncpg(place: str) -> AbstractAsyncContextManager[Verbs]:
    """Advanced Alchemy's store over an SQLAlchemy engine, whose pool keeps 5 connections and opens 10 more."""
    return _alchemy(place.replace("postgresql:", "postgresql+asyncpg:"))


def alchemy_aiosqlite(place: str) -> AbstractAsyncContextManager[Verbs]:
    """Advanced Alchemy's store over an SQLAlchemy engine, with the others' pragmas on each connection."""
    return _alchemy(f"sqlite+aiosqlite:///{place}/alchemy.db", BareSqlite.PRAGMAS)


def alchemy_asyncmy(place: str) -> AbstractAsyncContextManager[Verbs]:
    """Advanced Alchemy's store over an SQLAlchemy engine, with values of at most 65,535 bytes and times in seconds."""
    return _alchemy(place.replace("mysql:", "mysql+asyncmy:"))


@asynccontextmanager
async def _alchemy(url: str, pragmas: Sequence[str] = ()) -> AsyncGenerator[Verbs, None]:
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

    def set_pragmas(connection: Any, _: object) -> None:  # noqa: ANN401 - SQLAlchemy's adapted connection has no type
        for pragma in pragmas:
            connection.execute(pragma)

    event.listen(engine.sync_engine, "connect", set_pragmas)
    try:
        async with engine.begin() as connection:
            await connection.run_sync(UUIDv7Base.metadata.create_all)
        yield SQLAlchemyStore(config, model=model)
    finally:
        await engine.dispose()


@asynccontextmanager
async def litestar_redis(place: str) -> AsyncGenerator[Verbs, None]:
    """Litestar's RedisStore."""
    from litestar.stores.redis import RedisStore

    store = RedisStore.with_client(place)
    async with store:
        yield store


@asynccontextmanager
async def litestar_file(place: str) -> AsyncGenerator[Verbs, None]:
    """Litestar's FileStore."""
    from litestar.stores.file import FileStore

    yield FileStore(Path(place), create_directories=True)


@asynccontextmanager
async def litestar_memory(_: str) -> AsyncGenerator[Verbs, None]:
    """Litestar's MemoryStore."""
    from litestar.stores.memory import MemoryStore

    yield MemoryStore()


_FULL = f"{SQLITE.durability}, set for this comparison"
_NORMAL = "a power failure takes the last commits: its default is synchronous=NORMAL"

CONTENDERS = (
    Contender("sqlstore (asyncpg)", POSTGRESQL, sqlstore_asyncpg),
    Contender("raw asyncpg", POSTGRESQL, raw_asyncpg),
    Contender("SQLSpec (asyncpg)", POSTGRESQL, sqlspec_asyncpg),
    Contender("Advanced Alchemy (asyncpg)", POSTGRESQL, alchemy_asyncpg),
    Contender("sqlstore (psycopg)", PSYCOPG, sqlstore_psycopg),
    Contender("sqlstore (psycopg, synchronous)", PSYCOPG, sqlstore_psycopg_sync),
    Contender("raw psycopg", PSYCOPG, raw_psycopg),
    Contender("SQLSpec (psycopg)", PSYCOPG, sqlspec_psycopg),
    Contender("sqlstore (sqlite3)", SQLITE, sqlstore_sqlite),
    Contender("raw sqlite3", SQLITE, raw_sqlite),
    Contender("raw aiosqlite", SQLITE, raw_aiosqlite),
    Contender("raw aiosqlite (cursors)", SQLITE, raw_aiosqlite_cursors),
    Contender("SQLSpec (aiosqlite)", SQLITE, partial(sqlspec_aiosqlite, pragmas={"synchronous": "FULL"}), _FULL),
    Contender("SQLSpec (aiosqlite, as shipped)", SQLITE, partial(sqlspec_aiosqlite, pragmas={}), _NORMAL),
    Contender("Advanced Alchemy (aiosqlite)", SQLITE, alchemy_aiosqlite, _FULL),
    Contender("sqlstore (asyncmy, MariaDB)", MARIADB, sqlstore_asyncmy),
    Contender("raw asyncmy (MariaDB)", MARIADB, partial(raw_asyncmy, bare=BareMariadb)),
    Contender("SQLSpec (asyncmy, MariaDB)", MARIADB, sqlspec_asyncmy),
    Contender("Advanced Alchemy (asyncmy, MariaDB)", MARIADB, alchemy_asyncmy),
    Contender("sqlstore (asyncmy, MySQL)", MYSQL, sqlstore_asyncmy),
    Contender("raw asyncmy (MySQL)", MYSQL, partial(raw_asyncmy, bare=BareMysql)),
    Contender("SQLSpec (asyncmy, MySQL)", MYSQL, sqlspec_asyncmy),
    Contender("Advanced Alchemy (asyncmy, MySQL)", MYSQL, alchemy_asyncmy),
    Contender("RedisStore", REDIS, litestar_redis),
    Contender("RedisStore (appendfsync always)", REDIS_ALWAYS, litestar_redis),
    Contender("FileStore", FILES, litestar_file),
    Contender("MemoryStore", MEMORY, litestar_memory),
)
WITH_OWN_SESSIONS = (
    Contender("sqlstore SQLSessionConfig (asyncpg)", POSTGRESQL, sqlstore_asyncpg, own_sessions=True),
    Contender("sqlstore SQLSessionConfig (sqlite3)", SQLITE, sqlstore_sqlite, own_sessions=True),
)
"""For the session middleware alone: their stores are contenders already."""
NAMED = {contender.name: contender for contender in (*WITH_OWN_SESSIONS, *CONTENDERS)}
DATABASES = tuple(dict.fromkeys(contender.terms.database for contender in CONTENDERS if contender.terms.database))
