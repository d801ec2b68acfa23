"""What the PostgreSQL adapters do, or what only PostgreSQL has the means to show."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest

from sqlstore import OutcomeUnknownError, ReadOnlyError, SQLStoreError, UnavailableError
from sqlstore.dialects import Step

from ..contract.conftest import until
from ..contract.verbs import EFFECTS, KEY, ONCE, READS, REPEATABLE, WRITES

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from sqlstore import BaseConfig, BaseSQLSpecStore

    from ..conftest import MakeConfig, MakeStore
    from ..proxy import Proxy
    from ..servers import Server

    Store = BaseSQLSpecStore[Any]

pytestmark = pytest.mark.adapters("asyncpg", "psycopg", "psycopg_sync")


async def _trap(server: Server, store: Store, body: str) -> None:
    """Let each statement that writes to the store's table first run *body*."""
    table = store.table_name
    await server.fetch(f"CREATE SEQUENCE {table}_attempts", server.dsn)
    await server.fetch(
        f"CREATE FUNCTION {table}_trap() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {body}; RETURN NULL; END $$",
        server.dsn,
    )
    await server.fetch(
        f"CREATE TRIGGER trap BEFORE INSERT OR UPDATE OR DELETE ON {table} EXECUTE FUNCTION {table}_trap()", server.dsn
    )


def _fail(store: Store, code: str, times: int) -> str:
    return f"IF nextval('{store.table_name}_attempts') <= {times} THEN RAISE SQLSTATE '{code}'; END IF"


async def _attempts(server: Server, store: Store) -> int:
    ((attempts,),) = await server.fetch(f"SELECT last_value FROM {store.table_name}_attempts", server.dsn)  # noqa: S608
    return int(attempts)


async def _connections(server: Server) -> dict[int, str]:
    """Return what each of the server's processes for the stores is doing."""
    rows = await server.fetch(
        "SELECT pid, state FROM pg_stat_activity WHERE application_name = 'sqlstore' AND datname = current_database()",
        server.dsn,
    )
    return {row[0]: row[1] for row in rows}


async def _is_active(server: Server) -> bool:
    return "active" in (await _connections(server)).values()


# Faults


@pytest.mark.parametrize("verb", REPEATABLE | ONCE)
@pytest.mark.parametrize("code", ["40P01", "40001", "55P03"], ids=["deadlock", "serialization", "lock timeout"])
async def test_a_statement_that_was_rolled_back_is_tried_again(
    server: Server, store: Store, code: str, verb: str
) -> None:
    """Nothing happened, so that any verb may try again; it takes effect once."""
    effect = EFFECTS[verb]
    await effect.prepare(store)
    await _trap(server, store, _fail(store, code, 3))

    assert await effect.call(store) == effect.answer
    assert await store.get(KEY) == effect.left
    assert await _attempts(server, store) > 3


async def test_an_unknown_error_is_not_tried_again(server: Server, store: Store) -> None:
    """It is the caller's, with the driver's exception as its cause, and the next call works."""
    await _trap(server, store, _fail(store, "P0001", 1))
    with pytest.raises(SQLStoreError) as raised:
        await store.set("k", b"v")

    assert getattr(raised.value.__cause__, "sqlstate", None) == "P0001"
    assert await _attempts(server, store) == 1
    assert await store.get("k") is None
    await store.set("k", b"v")


@pytest.mark.parametrize(
    ("change", "undoing"), [("ADD tag text", "DROP tag"), ("ALTER version TYPE numeric", "ALTER version TYPE bigint")]
)
async def test_an_altered_table_is_no_fault(server: Server, store: Store, change: str, undoing: str) -> None:
    """A statement whose plan the server refuses after a migration is prepared again, for any verb."""
    await store.set("k", b"v")
    before = await store.get_versioned("k")
    await store.incr("n")
    await server.fetch(f"ALTER TABLE {store.table_name} {change}", server.dsn)

    assert await store.get_versioned("k") == before
    assert await store.incr("n") == 2
    await server.fetch(f"ALTER TABLE {store.table_name} {undoing}", server.dsn)  # or it is not ours to drop


async def test_a_table_that_was_made_anew_is_no_fault(store: Store, make_store: MakeStore) -> None:
    """The statements prepared for the old one work on the new one."""
    await store.set("k", b"v")
    other = make_store()
    await other.drop_table()
    await other.create_table()

    assert await store.get("k") is None
    await store.set("k", b"v")


async def test_what_was_abandoned_is_not_cancelled_on_the_server(server: Server, store: Store) -> None:
    """A statement under way when its caller goes ends by itself, on the connection that it had."""
    await asyncio.gather(store.get("k"), store.delete("k"))
    await _trap(server, store, "PERFORM pg_sleep(0.5)")
    before = set(await _connections(server))
    call = asyncio.create_task(store.set("k", b"v"))
    await until(lambda: _is_active(server))
    call.cancel()
    await asyncio.wait([call])

    assert await store.get("k") == b"v"
    assert set(await _connections(server)) == before


async def test_the_server_gives_up_what_ran_out_of_time(server: Server, make_store: MakeStore) -> None:
    """No statement goes on for long after its caller was told."""
    store = make_store(timeout=0.5)
    await store.create_table()
    await store.get("k")
    await _trap(server, store, "PERFORM pg_sleep(60)")
    with pytest.raises(OutcomeUnknownError):
        await store.set("k", b"v")

    async def is_idle() -> bool:
        return not await _is_active(server)

    await until(is_idle)

    assert await store.get("k") is None
    await store.drop_table()


async def test_a_write_that_ran_out_of_time_never_lands_after_a_later_delete(
    server: Server, store: Store, make_store: MakeStore
) -> None:
    """The server, which would go on with it, is told to stop before the delete is sent."""
    impatient = make_store(timeout=1)
    await store.set("k", b"old", 1000)
    await _trap(server, store, "IF TG_OP <> 'DELETE' THEN PERFORM pg_sleep(0.4); END IF")  # a set: INSERT, then UPDATE
    first = asyncio.create_task(impatient.get("k", renew_for=2000))
    await asyncio.sleep(0)
    with pytest.raises(SQLStoreError):
        await impatient.set("k", b"late")  # begins when the first one ends
    await impatient.delete("k")
    await asyncio.gather(first, return_exceptions=True)
    await asyncio.sleep(0.7)

    assert await store.get("k") is None


# The stores' connections


@asynccontextmanager
async def settings_of(config: BaseConfig, *names: str) -> AsyncGenerator[list[str], None]:
    """Give what a store connection's settings are."""
    connection = await config.open_store_connection()
    try:
        answers = [await connection.run([Step("SELECT current_setting($1)", (name,))]) for name in names]
        yield [str(rows[0][0]) for [rows] in answers]
    finally:
        await connection.close()


async def test_the_stores_choose_their_session_settings(
    server: Server, fresh_database: str, make_config: MakeConfig
) -> None:
    """Durability and isolation do not depend on what the database sets for its other users."""
    name = urlsplit(fresh_database).path[1:]
    for setting in ("synchronous_commit = off", "default_transaction_isolation = serializable", "lock_timeout = 0"):
        await server.fetch(f"ALTER DATABASE {name} SET {setting}")
    async with settings_of(
        make_config(dsn=fresh_database),
        "synchronous_commit",
        "default_transaction_isolation",
        "lock_timeout",
        "statement_timeout",
        "application_name",
    ) as settings:
        assert settings == ["on", "read committed", "200ms", "10s", "sqlstore"]


async def test_a_statement_is_one_message_without_its_text(store: Store, make_store: MakeStore, proxy: Proxy) -> None:
    """It is prepared once for each connection, and no BEGIN, COMMIT or RESET comes with it."""
    await store.set("k", b"v")
    near = make_store(port=proxy.port)
    sizes: list[int] = []
    for verb in (READS["get"], WRITES["set"], WRITES["delete"]):
        await verb(near)
        before = proxy.bytes_to_server
        for _ in range(10):
            await verb(near)
        sizes.append((proxy.bytes_to_server - before) // 10)

    assert max(sizes) < 250, sizes


# Bad input


@pytest.mark.parametrize(
    ("part", "value"), [("netloc", "postgres@127.0.0.1:1"), ("netloc", "nobody@{host}"), ("path", "/no_such_database")]
)
async def test_a_server_that_cannot_be_used_is_an_error_at_once(
    database: str, make_store: MakeStore, part: str, value: str
) -> None:
    """Nobody listens, an unknown user, an unknown database: the message leads to the settings."""
    place = urlsplit(database)
    store = make_store(dsn=place._replace(**{part: value.format(host=place.netloc.rpartition("@")[2])}).geturl())
    async with asyncio.timeout(15):
        with pytest.raises(UnavailableError, match="check pool_config"):
            await store.get("k")
        with pytest.raises(UnavailableError, match="check pool_config"):
            await store.create_table()


async def test_a_server_that_takes_no_writes_says_so(
    server: Server, fresh_database: str, make_store: MakeStore
) -> None:
    """A replica, say: reads go on, and nobody is told to try again."""
    writable = make_store(dsn=fresh_database)
    await writable.create_table()
    await writable.set("k", b"v")
    await server.fetch(f"ALTER DATABASE {urlsplit(fresh_database).path[1:]} SET default_transaction_read_only = on")
    store = make_store(dsn=fresh_database)
    with pytest.raises(ReadOnlyError, match="primary server"):
        await store.set("k", b"new")

    assert await store.get("k") == b"v"
