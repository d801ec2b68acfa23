"""What the Oracle adapters do, or what only Oracle has the means to show."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import oracledb
import pytest

from sqlstore import SQLStoreError, TableMissingError, UnavailableError
from sqlstore.dialects import Row, Step
from sqlstore.exceptions import AlreadyThereError
from sqlstore.migrator import up_sql

from ..contract.verbs import KEY

if TYPE_CHECKING:
    from sqlstore import BaseSQLSpecStore

    from ..conftest import MakeConfig, MakeStore
    from ..servers import Server

    Store = BaseSQLSpecStore[Any]

pytestmark = pytest.mark.adapters("oracle", "oracle_sync")


@pytest.mark.parametrize("size", [0, 1, 2000, 2001, 32_767, 32_768, 300_000, 16 * 2**20])
async def test_a_value_comes_back_whole(store: Store, size: int) -> None:
    """Whether it is bound as a RAW or sent ahead as a LOB, and written over one of the other kind."""
    value = bytes(range(256)) * (size // 256 + 1)
    for one in (value[:size], b"small", value[:size]):
        await store.set(KEY, one)

        assert await store.get(KEY) == one


@pytest.mark.parametrize("zone", ["+05:00", "-05:00"])
async def test_a_session_s_time_zone_does_not_matter(store: Store, zone: str) -> None:
    """Instants are UTC, in whatever zone the client says it is."""
    connection = await store.config.open_store_connection()
    await connection.run([Step(f"ALTER SESSION SET TIME_ZONE = '{zone}'")], atomic=False)
    row = Row(KEY, b"v", 3600.0, version=1)
    sql = store.config.dialect.for_table(store.table_name)
    await connection.run([sql.upsert.bind({"namespace": "/LITESTAR/"}, [row])])
    await connection.close()

    assert 3590 < (await store.expires_in(KEY) or 0) <= 3600


async def test_small_and_large_values_share_a_batch(store: Store) -> None:
    """A placeholder has one type for all rows, so that they are sent in two parts, of one transaction."""
    values = {f"k{number}": bytes([number]) * number * 150 for number in range(40)}
    await store.set_many(values)

    assert await store.get_many(values) == values


async def test_a_value_is_read_after_a_miss(store: Store) -> None:
    """The driver prepares a statement that finds nothing at first for a value all the same."""
    for number in range(3):
        assert await store.get(KEY) is None
        await store.set(KEY, f"{number}")
        assert await store.get(KEY) == b"%d" % number
        await store.delete(KEY)


@pytest.mark.parametrize("done", [1, 2])
async def test_a_table_that_was_half_made_is_finished(server: Server, make_store: MakeStore, done: int) -> None:
    """Each statement commits by itself, and the process may have ended after any."""
    store = make_store()
    statements = up_sql(store.config.dialect, store.table_name).split(";")
    for statement in statements[:done]:
        await server.fetch(statement[statement.index("CREATE") :], server.dsn)
    await store.create_table()
    indexes = f"SELECT index_name FROM user_indexes WHERE table_name = upper('{store.table_name}')"  # noqa: S608

    assert len(await server.fetch(indexes, server.dsn)) == 3, "and the primary key's"
    await store.drop_table()


async def test_a_half_made_table_is_dropped(server: Server, make_store: MakeStore) -> None:
    """It is there."""
    store = make_store()
    statement = up_sql(store.config.dialect, store.table_name).split(";")[0]
    await server.fetch(statement[statement.index("CREATE") :], server.dsn)
    await store.drop_table()

    with pytest.raises(TableMissingError):
        await store.get(KEY)


async def test_a_transaction_that_fails_leaves_no_lock(store: Store, make_config: MakeConfig) -> None:
    """What its first statement locked, somebody else may have at once."""
    await store.set(KEY, b"v")
    config = make_config()
    connection = await config.open_store_connection()
    lock = f"SELECT session_id FROM {store.table_name} FOR UPDATE NOWAIT"  # noqa: S608
    with pytest.raises(oracledb.DatabaseError, match="ORA-00942"):
        await connection.run([Step(lock, then=Step("DELETE FROM nowhere"))])
    await store.delete(KEY)

    assert not await store.exists(KEY)
    assert not connection.closed
    await connection.close()


@pytest.mark.parametrize("wrong", [{"password": "wrong"}, {"user": "nobody"}, {"dsn": "127.0.0.1:1/nowhere"}], ids=str)
async def test_a_server_that_cannot_be_used_is_an_error_at_once(make_store: MakeStore, wrong: dict[str, str]) -> None:
    """The message leads to the settings."""
    store = make_store()
    store.config.pool_config.update(wrong)
    async with asyncio.timeout(15):
        with pytest.raises(UnavailableError, match="check pool_config"):
            await store.get(KEY)
        with pytest.raises(UnavailableError, match="check pool_config"):
            await store.create_table()


@pytest.mark.parametrize(
    ("code", "kind"), [("ORA-00955", AlreadyThereError), ("ORA-00942", TableMissingError), ("ORA-99999", SQLStoreError)]
)
def test_an_error_is_known_by_its_number(make_config: MakeConfig, code: str, kind: type[SQLStoreError]) -> None:
    """Any other is the database's refusal."""

    class Details:
        full_code = code

    assert make_config().classify(oracledb.DatabaseError(Details())) is kind
