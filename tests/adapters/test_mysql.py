"""What the adapter of MySQL and MariaDB does, or what only they have the means to show."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest

from sqlstore import (
    ContentionError,
    OutcomeUnknownError,
    ReadOnlyError,
    SQLStoreError,
    TableMissingError,
    UnavailableError,
    ValueTooLargeError,
)
from sqlstore.adapters.asyncmy import AsyncmyConfig, AsyncmyStore
from sqlstore.dialects import Step

from ..contract.conftest import until
from ..contract.verbs import EFFECTS, KEY, ONCE, READS, REPEATABLE, WRITES
from ..servers import ASYNCMY, MySQL

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from sqlstore import BaseSQLSpecStore

    from ..conftest import MakeConfig, MakeStore
    from ..servers import Server

    Store = BaseSQLSpecStore[Any]

pytestmark = pytest.mark.adapters("asyncmy_mariadb", "asyncmy_mysql")

MEGABYTE = 1024 * 1024


async def _trap(server: Server, store: Store, body: str) -> None:
    """Let each row that is written to the store's table first run *body*."""
    for event in ("INSERT", "UPDATE", "DELETE"):
        name = f"{store.table_name}_{event}"
        await server.fetch(
            f"CREATE TRIGGER {name} BEFORE {event} ON {store.table_name} FOR EACH ROW BEGIN {body}; END", server.dsn
        )


async def _fail(server: Server, store: Store, code: int, times: int) -> None:
    """Let that many writes fail."""
    counter = f"{store.table_name}_attempts"
    await server.fetch(f"CREATE TABLE {counter} (number int NOT NULL) ENGINE = MyISAM", server.dsn)  # knows no rollback
    await server.fetch(f"INSERT INTO {counter} VALUES (0)", server.dsn)  # noqa: S608
    await _trap(
        server,
        store,
        f"""
        UPDATE {counter} SET number = number + 1;
        IF (SELECT number FROM {counter}) <= {times} THEN SIGNAL SQLSTATE '45000' SET MYSQL_ERRNO = {code}; END IF
        """,  # noqa: S608
    )


async def _attempts(server: Server, store: Store) -> int:
    ((attempts,),) = await server.fetch(f"SELECT number FROM {store.table_name}_attempts", server.dsn)  # noqa: S608
    return int(attempts)


async def _is_sleeping(server: Server) -> bool:
    sql = "SELECT id FROM information_schema.processlist WHERE state = 'User sleep'"
    return bool(await server.fetch(sql))


def _as_user(dsn: str, user: str) -> dict[str, Any]:
    place = urlsplit(dsn)
    return {"host": place.hostname, "port": place.port, "user": user, "password": user, "database": place.path[1:]}


# Faults


async def test_bytes_in_somebody_s_statement_are_in_nobody_s_way(
    store: Store, make_store: MakeStore, database: str
) -> None:
    """While MySQL runs it, it does not list its connections: error 3854."""
    connection = await ASYNCMY.connect(**MySQL.options(database))
    sleeping = asyncio.create_task(connection.query(b"SELECT SLEEP(1), _binary'\xd5\xfe\xc7\xa0'"))
    await asyncio.sleep(0.2)
    other = make_store()
    await other.set("k", b"v")
    await sleeping
    await connection.ensure_closed()

    assert await store.get("k") == b"v"


async def test_a_lost_statement_with_bytes_is_ended(store: Store) -> None:
    """Although it cannot be listed: it must not take effect after what follows."""
    lost = await store.config.open_store_connection()
    running = asyncio.create_task(lost.run([Step("SELECT SLEEP(60), %s", (b"\xd5\xfe\xc7\xa0",))]))
    await asyncio.sleep(0.2)
    lost.kill()
    await asyncio.gather(running, return_exceptions=True)
    async with asyncio.timeout(20):
        await lost.bury()


@pytest.mark.parametrize("verb", REPEATABLE | ONCE)
@pytest.mark.parametrize("code", [1213, 1205], ids=["deadlock", "lock timeout"])
async def test_a_statement_that_was_rolled_back_is_tried_again(
    server: Server, store: Store, code: int, verb: str
) -> None:
    """Nothing of its transaction happened, so that any verb may try again; it takes effect once."""
    effect = EFFECTS[verb]
    await effect.prepare(store)
    await _fail(server, store, code, 3)

    assert await effect.call(store) == effect.answer
    assert await store.get(KEY) == effect.left
    assert await _attempts(server, store) > 3


async def test_an_unknown_error_is_not_tried_again(server: Server, store: Store) -> None:
    """It is the caller's, with the driver's exception as its cause, and the next call works."""
    await _fail(server, store, 1644, 1)
    with pytest.raises(SQLStoreError) as raised:
        await store.incr("n")

    cause: Any = raised.value.__cause__
    assert cause.args[0] == 1644
    assert await _attempts(server, store) == 1
    assert await store.get("n") is None
    assert await store.incr("n") == 1


async def test_too_many_connections_are_contention(private_server: Server, make_store: MakeStore) -> None:
    """Whoever asks again later may be luckier."""
    store = make_store(dsn=private_server.dsn, timeout=0.5)
    await store.create_table()
    await private_server.fetch("CREATE USER few@localhost IDENTIFIED BY 'few' WITH MAX_USER_CONNECTIONS 1")
    await private_server.fetch("GRANT ALL ON *.* TO few@localhost")
    options = _as_user(private_server.dsn, "few")
    config = AsyncmyConfig(pool_config=options, extension_config=store.config.extension_config)
    async with AsyncmyStore(config) as few:
        await few.get("k")
        with pytest.raises(ContentionError):
            await few.set("k", b"v")


async def test_what_ran_out_of_time_is_stopped_on_the_server(server: Server, make_store: MakeStore) -> None:
    """No write goes on for long after its caller was told."""
    store = make_store(timeout=0.5)
    await store.create_table()
    await store.get("k")
    await _trap(server, store, "DO SLEEP(60)")
    with pytest.raises(OutcomeUnknownError):
        await store.set("k", b"v")

    async def is_over() -> bool:
        return not await _is_sleeping(server)

    await until(is_over)
    assert await store.get("k") is None


async def test_an_unanswered_packet_leaves_no_answer_behind(server: Server, make_store: MakeStore) -> None:
    """The rows of a call that was given up are nobody else's."""
    store = make_store(timeout=0.5)
    await store.create_table()
    await store.set_many({"a": b"a", "b": b"b"})
    connection = await store.config.open_store_connection()
    slow = asyncio.create_task(connection.run([Step("SELECT SLEEP(0.2), 1")]))
    await until(lambda: _is_sleeping(server))
    slow.cancel()
    await asyncio.wait([slow])

    assert connection.closed
    with pytest.raises(Exception, match=r"gone away|Cancelled"):
        await connection.run([Step("SELECT 2")])
    connection.kill()


# Values and their packets


@pytest.mark.parametrize("mode", ["", "NO_BACKSLASH_ESCAPES", "ANSI_QUOTES"])
async def test_any_bytes_are_a_value_in_any_mode_of_the_server(
    private_server: Server, make_store: MakeStore, mode: str
) -> None:
    """A value is bound as the session wants it, and the session is the store's own."""
    await private_server.fetch(f"SET GLOBAL sql_mode = '{mode}'")
    store = make_store(dsn=private_server.dsn)
    await store.create_table()
    values = {"all": bytes(range(256)), "last": b"\\", "quotes": b"''\"\\'%s%%", "format": b"{key*} %b", "empty": b""}
    await store.set_many(values)

    assert await store.get_many(values) == values


async def test_a_value_larger_than_a_packet_is_refused_before_it_is_sent(
    private_server: Server, make_store: MakeStore
) -> None:
    """The error names the server's setting; what is asked beside it, and after it, works."""
    await private_server.fetch(f"SET GLOBAL max_allowed_packet = {16 * MEGABYTE}")
    store = make_store(dsn=private_server.dsn)
    await store.create_table()
    large, *others = await asyncio.gather(
        store.set("large", bytes(16 * MEGABYTE)),
        *(store.set(f"k{number}", b"v") for number in range(10)),
        return_exceptions=True,
    )

    assert isinstance(large, ValueTooLargeError)
    assert "max_allowed_packet is 16,777,216 bytes" in str(large)
    assert others == [None] * 10
    for call in (store.set, store.add):
        with pytest.raises(ValueTooLargeError, match="max_allowed_packet"):
            await call("quotes", b"'" * 9 * MEGABYTE)  # two bytes for each
    await store.set("quotes", b"'" * 7 * MEGABYTE)

    assert await store.get("quotes") == b"'" * 7 * MEGABYTE
    assert await store.get("large") is None


async def test_a_value_may_be_longer_than_a_packet_of_the_protocol(store: Store) -> None:
    """One of 16 MB is sent, and comes, in several."""
    values = {f"k{size}": b"\xff" * size for size in (16 * MEGABYTE - 1000, 16 * MEGABYTE, 33 * MEGABYTE)}
    for key, value in values.items():
        await store.set(key, value)

        assert await store.get(key) == value


# Indexes

CALLS: dict[str, Callable[[Store], Awaitable[object]]] = {
    "get": lambda store: store.get_many(f"k{number}" for number in range(500, 564)),
    "expires_in": lambda store: store.expires_in("k500"),
    "renew": lambda store: store.get("k500", renew_for=7200),
    "set": lambda store: store.set("k501", b"v"),
    "delete": lambda store: store.delete_many(f"k{number}" for number in range(600, 664)),
    "add": lambda store: store.add("k500", b"v"),
    "pop": lambda store: store.pop("k502"),
    "incr": lambda store: store.incr("n"),
    "delete_expired": lambda store: store.delete_expired(),
    "delete_all": lambda store: store.with_namespace("child").delete_all(),
}


async def _rows_read(server: Server) -> int:
    counters = await server.fetch("SHOW GLOBAL STATUS LIKE 'Handler_read%'")
    return sum(int(count) for _, count in counters)


@pytest.mark.parametrize("verb", CALLS)
async def test_a_call_reads_no_more_rows_than_it_asks_for(
    private_server: Server, make_store: MakeStore, verb: str
) -> None:
    """Also while the server believes that the table is as empty as it was when it was made."""
    store = make_store(dsn=private_server.dsn)
    await store.create_table()
    await private_server.fetch(f"ALTER TABLE {store.table_name} STATS_PERSISTENT = 1, STATS_AUTO_RECALC = 0")
    await private_server.fetch(f"ANALYZE TABLE {store.table_name}")
    await store.set_many({f"k{number}": b"v" for number in range(10_000)}, 3600)
    await store.with_namespace("child").set_many({f"k{number}": b"v" for number in range(64)}, 3600)
    await asyncio.gather(store.get("missing"), store.delete("missing"), store.pop("missing"))  # connects
    first, second = await _rows_read(private_server), await _rows_read(private_server)
    await CALLS[verb](store)
    read = await _rows_read(private_server) - second - (second - first)

    assert read < 600


# Privileges and options


@pytest.fixture
async def limited(private_server: Server, make_store: MakeStore) -> Store:
    """Return the store of a user who may only use the table, which somebody else has made."""
    owner = make_store(dsn=private_server.dsn)
    await owner.create_table()
    await owner.set(KEY, b"5", 3600)
    await private_server.fetch("CREATE USER app@localhost IDENTIFIED BY 'app'")
    await private_server.fetch(f"GRANT SELECT, INSERT, UPDATE, DELETE ON {owner.table_name} TO app@localhost")
    options = _as_user(private_server.dsn, "app")
    return AsyncmyStore(AsyncmyConfig(pool_config=options, extension_config=owner.config.extension_config))


@pytest.mark.parametrize("verb", WRITES)
async def test_a_server_that_takes_no_writes_is_read_only(private_server: Server, limited: Store, verb: str) -> None:
    """A replica is read, and says that it is not written."""
    async with limited:
        await private_server.fetch("SET GLOBAL read_only = 1")
        for read in READS.values():
            await read(limited)
        with pytest.raises(ReadOnlyError, match=r"read.only"):
            await WRITES[verb](limited)
        await private_server.fetch("SET GLOBAL read_only = 0")
        await WRITES[verb](limited)


async def test_a_missing_privilege_is_read_only(private_server: Server, limited: Store) -> None:
    """The server's own words are in the message."""
    async with limited:
        await limited.create_table()
        await limited.set("k", b"v")
        await private_server.fetch(f"REVOKE INSERT ON {limited.table_name} FROM app@localhost")
        with pytest.raises(ReadOnlyError, match="INSERT command denied"):
            await limited.set("k", b"v")
        with pytest.raises(ReadOnlyError, match="DROP command denied"):
            await limited.drop_table()


async def test_a_database_without_any_privilege_is_unavailable(limited: Store) -> None:
    """The server does not say whether it exists."""
    limited.config.pool_config["database"] = "no_such_database"
    with pytest.raises(UnavailableError, match=r"check pool_config .*no_such_database"):
        await limited.get("k")


async def test_a_table_in_a_missing_database_is_missing(make_store: MakeStore) -> None:
    """A schema is a database of the server."""
    store = make_store(session_table="nowhere.sessions")
    with pytest.raises(TableMissingError, match=r"nowhere\.sessions.*create_table"):
        await store.get("k")
    with pytest.raises(SQLStoreError, match=r"nowhere\.sessions.*nowhere"):
        await store.create_table()
    await store.drop_table()


async def test_a_table_may_be_in_another_database(server: Server, fresh_database: str, make_store: MakeStore) -> None:
    """Its name has that database's in front."""
    store = make_store(session_table=f"{urlsplit(fresh_database).path[1:]}.sessions")
    await store.create_table()
    await store.set("k", b"v", 60)
    await store.set("k", b"w", 60)
    assert await store.incr("n") == 1
    assert await store.incr("n") == 2
    assert await store.get("k", renew_for=120) == b"w"

    assert await server.fetch("SELECT count(*) FROM sessions", fresh_database) == [(2,)]
    await store.drop_table()


async def test_a_store_works_over_a_unix_socket(private_server: Server) -> None:
    """It needs no host and no port."""
    dsn = await private_server.create_database()
    [(path, user, name)] = await private_server.fetch(
        "SELECT @@socket, SUBSTRING_INDEX(USER(), '@', 1), DATABASE()", dsn
    )
    async with AsyncmyStore(AsyncmyConfig(pool_config={"unix_socket": path, "user": user, "database": name})) as store:
        await store.create_table()
        await store.set("k", b"v")
        await private_server.kill_connections(dsn)

        assert await store.get("k") == b"v"


@pytest.mark.adapters("asyncmy_mysql")
async def test_a_connection_may_be_encrypted(make_config: MakeConfig) -> None:
    """With ``ssl=True``; the server has made itself a certificate."""
    config = make_config()
    config.pool_config["ssl"] = True
    connection = await config.open_store_connection()
    [[[_, cipher]]] = await connection.run([Step("SHOW SESSION STATUS LIKE 'Ssl_cipher'")])
    closed = connection.closed
    await connection.close()

    assert cipher
    assert not closed
    assert connection.closed


@pytest.mark.parametrize("option", ["sock", "dsn"])
def test_an_option_that_cannot_work_is_refused(option: str) -> None:
    """A socket serves one connection, and asyncmy reads no DSN."""
    with pytest.raises(TypeError, match=f"unknown option '{option}' in pool_config"):
        AsyncmyConfig(pool_config={option: None})


async def test_options_that_a_store_relies_on_are_its_own(make_config: MakeConfig) -> None:
    """Those of the application's pool may be others."""
    config = make_config()
    config.pool_config |= {
        "autocommit": False,
        "charset": "latin1",
        "conv": {},
        "init_command": "SET SESSION innodb_lock_wait_timeout = 50, @mine = 1",
        "sql_mode": "'ANSI'",
        "use_unicode": False,
    }
    connection = await config.open_store_connection()
    text = "SELECT @@autocommit, @@character_set_client, @@innodb_lock_wait_timeout, @@sql_mode, @mine"
    [[row]] = await connection.run([Step(text)])
    await connection.close()

    assert row == (1, "utf8mb4", 1, "STRICT_ALL_TABLES", 1)


# Migrations


async def test_a_migration_waits_for_another_process_s(make_store: MakeStore) -> None:
    """Whatever table that is about."""
    store = make_store()
    holder = await make_store().config.open_store_connection()
    await holder.run([Step("DO GET_LOCK('sqlstore', 0)")])
    creating = asyncio.create_task(store.create_table())
    done, _ = await asyncio.wait({creating}, timeout=0.5)
    holder.kill()
    await creating
    await store.set("k", b"v")

    assert not done


async def test_a_failed_migration_holds_nobody_up(server: Server, make_store: MakeStore) -> None:
    """Its lock ends with it."""
    with pytest.raises(SQLStoreError):
        await make_store(session_table="nowhere.sessions").create_table()

    async def is_free() -> bool:
        return await server.fetch("SELECT IS_FREE_LOCK('sqlstore')") == [(1,)]

    await until(is_free)
