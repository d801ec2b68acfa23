"""What only the adapters over sqlite3 do."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import threading
import warnings
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest

from sqlstore import ContentionError, ReadOnlyError, UnavailableError
from sqlstore.adapters.aiosqlite import AiosqliteConfig
from sqlstore.adapters.sqlite import SqliteConfig

from ..contract.verbs import EFFECTS, KEY, ONCE, REPEATABLE

if TYPE_CHECKING:
    from pathlib import Path

    from sqlstore import BaseSQLSpecStore

    from ..conftest import Adapter, MakeConfig, MakeStore

    Store = BaseSQLSpecStore[Any]

pytestmark = pytest.mark.adapters("sqlite", "aiosqlite")


# In memory


async def test_stores_over_one_config_share_a_database_in_memory(make_store: MakeStore) -> None:
    """Children, other store objects, readers and the writer see what any of them wrote."""
    store = make_store(dsn=":memory:")
    await store.create_table()
    await store.with_namespace("x").set("k", b"v")

    assert await type(store)(store.config).with_namespace("x").get("k") == b"v"
    await store.delete_all()
    assert await store.with_namespace("x").get("k") is None


async def test_a_database_in_memory_is_of_one_config(make_store: MakeStore) -> None:
    """Another config that says ``:memory:`` has a database of its own."""
    store, other = make_store(dsn=":memory:"), make_store(dsn=":memory:")
    await asyncio.gather(store.create_table(), other.create_table())
    await store.set("k", b"v")

    assert await other.get("k") is None


def test_a_database_in_memory_outlives_event_loops(adapter: Adapter, make_config: MakeConfig) -> None:
    """It ends with its config, not with the connections of a loop."""
    store = adapter.store(make_config(dsn=":memory:"))
    asyncio.run(store.create_table())
    asyncio.run(store.set("k", b"v"))

    assert asyncio.run(store.get("k")) == b"v"


async def test_threads_share_a_database_in_memory(make_store: MakeStore) -> None:
    """Event loops in two threads write beside each other and lose nothing."""
    store = make_store(dsn=":memory:")
    await store.create_table()

    async def count() -> None:
        for _ in range(50):
            await asyncio.gather(store.incr("n"), store.get("n"))

    await asyncio.gather(asyncio.to_thread(asyncio.run, count()), asyncio.to_thread(asyncio.run, count()), count())

    assert await store.get("n") == b"150"


# Files


def test_a_commit_waits_for_the_disk(make_config: MakeConfig) -> None:
    """The journal is WAL, flushed at each commit: what an awaited write stored outlives a power cut."""
    config = make_config()
    assert isinstance(config, SqliteConfig)
    with closing(config.connector()()) as connection:
        (journal,) = connection.execute("PRAGMA journal_mode").fetchone()
        (synchronous,) = connection.execute("PRAGMA synchronous").fetchone()

    assert (journal, synchronous) == ("wal", 2)


async def test_pragmas_are_set_on_every_connection(adapter: Adapter, database: str) -> None:
    """They may change what the config sets by itself."""
    config = _config(adapter, database, pragmas={"journal_mode": "DELETE", "cache_size": -1234})
    store = adapter.store(config)
    await store.create_table()
    await store.close()
    with closing(config.connector()()) as connection:
        (journal,) = connection.execute("PRAGMA journal_mode").fetchone()
        (cache_size,) = connection.execute("PRAGMA cache_size").fetchone()

    assert (journal, cache_size) == ("delete", -1234)


async def test_a_store_keeps_two_threads(make_store: MakeStore) -> None:
    """One for reads and one for writes, however many call; none is left when it is closed."""
    store = make_store()
    await store.create_table()
    await asyncio.gather(*(store.incr("n") for _ in range(50)), *(store.get("n") for _ in range(50)))
    used = _threads()
    await store.close()
    for thread in used:
        thread.join(10)

    assert len(used) == 2
    assert not _threads()


def _threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("sqlstore")]


async def test_nothing_is_left_open_that_keeps_the_wal_from_shrinking(store: Store, database: str) -> None:
    """No read transaction stays open after an answer: another process can reset the whole WAL."""
    await store.set_many({f"k{number}": bytes(1000) for number in range(500)})
    await store.get_many(f"k{number}" for number in range(500))
    await store.exists("k0")
    await store.delete_expired()
    with closing(sqlite3.connect(database, timeout=0)) as other:
        blocked, *_ = other.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()

    assert not blocked


@pytest.mark.parametrize("verb", REPEATABLE | ONCE)
async def test_a_busy_file_is_tried_again(adapter: Adapter, store: Store, database: str, verb: str) -> None:
    """SQLITE_BUSY comes at once here, and often; the call takes effect once when the file is free."""
    effect = EFFECTS[verb]
    await effect.prepare(store)
    options = store.config.extension_config
    busy = adapter.store(_config(adapter, database, pragmas={"busy_timeout": 1}, extension_config=options))
    async with busy:
        with closing(sqlite3.connect(database, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            call = asyncio.create_task(effect.call(busy))
            await asyncio.sleep(0.1)

            assert not call.done()

        assert await call == effect.answer
    assert await store.get(KEY) == effect.left


# The application's own connections


@pytest.mark.adapters("aiosqlite")
@pytest.mark.parametrize("place", ["file", ":memory:"])
async def test_aiosqlite_connections_are_for_the_application(make_store: MakeStore, database: str, place: str) -> None:
    """They see what the stores wrote; what a block does is one transaction, undone if it raises."""
    store = make_store(dsn=database if place == "file" else place)
    await store.create_table()
    await store.set("k", b"v")
    config = store.config
    assert isinstance(config, AiosqliteConfig)
    async with config.provide_connection() as connection:
        await connection.execute("CREATE TABLE mine (x)")
        found = await connection.execute_fetchall(f"SELECT data FROM {store.table_name}")  # noqa: S608 - ours
    async with config.provide_connection() as another:
        mine = await another.execute_fetchall("SELECT * FROM mine")
        await another.execute("INSERT INTO mine VALUES (1)")
    with pytest.raises(ZeroDivisionError):
        await _insert_and_fail(config)
    async with config.provide_connection() as connection:
        left = await connection.execute_fetchall("SELECT x FROM mine")

    assert [tuple(row) for row in found] == [(b"v",)]
    assert list(mine) == []
    assert list(left) == [(1,)]


async def _insert_and_fail(config: AiosqliteConfig) -> None:
    async with config.provide_connection() as connection:
        await connection.execute("INSERT INTO mine VALUES (2)")
        raise ZeroDivisionError


# Bad input


async def test_a_file_that_takes_no_writes_says_so(adapter: Adapter, store: Store, database: str) -> None:
    """Reads go on; a write is an error that names the cure, and changes nothing."""
    await store.set("k", b"v")
    config = _config(adapter, f"file:{database}?mode=ro", uri=True, extension_config=store.config.extension_config)
    async with adapter.store(config) as read_only:
        with pytest.raises(ReadOnlyError, match="file permissions"):
            await read_only.set("k", b"new")

        assert await read_only.get("k") == b"v"


@pytest.mark.parametrize("verb", ["create_table", "delete_all", "delete_expired"])
def test_a_directory_that_is_missing_is_an_error(adapter: Adapter, tmp_path: Path, verb: str) -> None:
    """It is not made, for its name is probably misspelt."""
    store = adapter.store(_config(adapter, str(tmp_path / "missing" / "sqlstore.db")))
    with pytest.raises(UnavailableError, match="check pool_config"):
        asyncio.run(getattr(store, verb)())

    assert not list(tmp_path.iterdir())


def test_a_file_that_is_no_database_says_so(adapter: Adapter, tmp_path: Path) -> None:
    """The file is left as it is."""
    letter = tmp_path / "letter.txt"
    letter.write_text("Dear Sir or Madam, " * 100)
    store = adapter.store(_config(adapter, str(letter)))
    with pytest.raises(UnavailableError, match="not a database"):
        asyncio.run(store.create_table())

    assert letter.read_text() == "Dear Sir or Madam, " * 100


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({}, TypeError, 'needs "database"'),
        ({"database": ""}, TypeError, 'needs "database"'),
        ({"database": 7}, TypeError, 'needs "database"'),
        ({"database": ":memory:", "timout": 1}, TypeError, "unknown option 'timout'"),
        ({"databse": "x.db"}, TypeError, "use database"),
    ],
)
def test_a_misspelt_option_is_refused(
    adapter: Adapter, options: dict[str, object], error: type[Exception], message: str
) -> None:
    """Before anything is opened, naming the option that was probably meant."""
    with pytest.raises(error, match=message):
        adapter.config(pool_config=options)


@pytest.mark.parametrize(
    ("pragmas", "error"),
    [
        ({"journal_mod": "WAL"}, TypeError),
        ({"cache_size": "1; DROP TABLE x"}, ValueError),
        ({"cache_size": 1.5}, ValueError),
    ],
)
def test_a_bad_pragma_is_refused(adapter: Adapter, pragmas: dict[str, str | int], error: type[Exception]) -> None:
    """SQLite would ignore one that it does not know."""
    with pytest.raises(error, match=next(iter(pragmas))):
        _config(adapter, ":memory:", pragmas=pragmas)


def _config(adapter: Adapter, database: str, *, uri: bool = False, **options: object) -> SqliteConfig:
    config = adapter.config(pool_config={"database": database, "uri": uri}, **options)
    assert isinstance(config, SqliteConfig)
    return config


# Fork


async def test_a_write_that_a_fork_meets_is_stored(store: Store, database: str) -> None:
    """The connection closes before the fork, but not before what it is doing is committed."""
    other = sqlite3.connect(database, isolation_level=None, check_same_thread=False)
    other.execute("BEGIN IMMEDIATE")
    release = threading.Timer(0.3, lambda: other.execute("ROLLBACK"))
    release.start()
    write = asyncio.create_task(store.set(KEY, b"v"))
    await asyncio.sleep(0.05)  # it waits for the lock, in its thread
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of forking beside threads
        child = os.fork()
    if child == 0:
        os._exit(0)
    await asyncio.to_thread(os.waitpid, child, 0)
    await write
    release.join()
    other.close()

    assert await store.get(KEY) == b"v"


@pytest.mark.adapters("aiosqlite")
async def test_a_transaction_that_could_not_begin_can_be_tried_again(make_config: MakeConfig, database: str) -> None:
    """It raises what was in its way, and leaves nothing open."""
    config = make_config(timeout=0.2, commit_mode="manual")
    async with config.get_session() as session:
        await session.execute("CREATE TABLE notes (text TEXT)")
        with closing(sqlite3.connect(database, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            with pytest.raises(ContentionError):
                async with session.transaction():
                    await session.execute("INSERT INTO notes VALUES ('first')")
            other.execute("ROLLBACK")
        async with session.transaction():
            await session.execute("INSERT INTO notes VALUES ('second')")

        assert await session.fetch_all("SELECT text FROM notes") == [{"text": "second"}]


@pytest.mark.adapters("aiosqlite")
async def test_a_cancelled_statement_is_not_waited_for(make_config: MakeConfig) -> None:
    """One that would never end is interrupted, and its connection replaced."""
    config = make_config()
    endless = (
        "WITH RECURSIVE numbers (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers) SELECT count(*) FROM numbers"
    )
    for _ in range(config.pool().size + 1):
        with pytest.raises(TimeoutError):
            async with config.get_session() as session, asyncio.timeout(0.01):
                await session.fetch_value(endless)
    async with config.get_session() as session:
        assert await session.fetch_value("SELECT 1") == 1
