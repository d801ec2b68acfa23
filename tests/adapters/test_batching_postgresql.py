"""What calls that share statements cost PostgreSQL: how many statements, which plans, which updates."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest

from sqlstore.session_rows import SessionRows

from ..contract.conftest import until
from ..proxy import POSTGRESQL, Proxy

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Generator

    from sqlstore import BaseSQLSpecStore

    from ..conftest import MakeStore
    from ..servers import Server

    Store = BaseSQLSpecStore[Any]
    CallOn = Callable[[Store, str], Awaitable[object]]

pytestmark = pytest.mark.adapters("asyncpg", "psycopg", "psycopg_sync")

MANY = [f"k{number:02}" for number in range(64)]

CALLS: dict[str, CallOn] = {
    "get": lambda store, key: store.get(key),
    "exists": lambda store, key: store.exists(key),
    "renew": lambda store, key: store.get(key, renew_for=7200),
    "set": lambda store, key: store.set(key, b"v", 3600),
    "delete": lambda store, key: store.delete(key),
}


async def _save_sessions(store: Store, *keys: str) -> None:
    """Load, touch and save sessions of the default lifetime."""
    rows = SessionRows(store, 3600, None)
    loaded = await rows.load(*keys)
    await asyncio.gather(*(rows.touch(key) for key in keys))
    saving = [rows.save(key, bytes(200), one.version, principal=None, same=True) for key, one in loaded.items()]
    assert all(await asyncio.gather(*saving))


# Statements


class _Counter(Proxy):
    """A proxy that counts what its clients have executed."""

    statements = 0

    def __init__(self, host: str, port: int) -> None:
        super().__init__(host, port, replace(POSTGRESQL, executes=self._executes))

    def _executes(self, request: bytearray) -> bool:
        executes = POSTGRESQL.executes(request)
        self.statements += executes
        return executes


@pytest.fixture
def counter(server: Server, make_store: MakeStore) -> Generator[_Counter, None, None]:  # noqa: ARG001 - ends after it
    """Give a proxy in front of the server that counts."""
    place = urlsplit(server.dsn)
    assert place.hostname
    assert place.port, "the DSN must name the server's port"
    with _Counter(place.hostname, place.port) as counter:
        yield counter


@pytest.mark.parametrize("verb", CALLS)
async def test_calls_made_at_once_share_statements(
    store: Store, make_store: MakeStore, counter: _Counter, verb: str
) -> None:
    """64 of them cost a few, and one by itself costs one."""
    call = CALLS[verb]
    await store.set_many(dict.fromkeys(MANY, b"v"), 3600)
    near = make_store(port=counter.port)
    for _ in range(3):  # the connections open
        await asyncio.gather(*(call(near, key) for key in MANY))
        await store.set_many(dict.fromkeys(MANY, b"v"), 3600)
    before = counter.statements
    await asyncio.gather(*(call(near, key) for key in MANY))
    many = counter.statements - before
    costs: set[int] = set()
    for _ in range(5):  # a connection that has not run it before prepares it first
        await store.set("k00", b"v", 3600)
        before = counter.statements
        await call(near, "k00")
        costs.add(counter.statements - before)

    assert 1 <= many <= 4
    assert min(costs) == 1


# Plans


async def _statistics(server: Server, dsn: str, sql: str) -> list[int]:
    """Return a row of the server's statistics when the stores' connections have ended, and handed in theirs."""

    async def have_ended() -> bool:
        still_open = await server.fetch(
            "SELECT FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'sqlstore'",
            dsn,
        )
        return not still_open

    await until(have_ended)
    [row] = await server.fetch(sql, dsn)
    return [int(column) for column in row]


async def _every_verb(store: Store, key: str) -> None:
    """Use every statement of *store*, alone and for many keys."""
    child = store.with_namespace("x")
    await store.set(key, b"1", 3600)
    found = await store.get_versioned(key)
    assert found
    await store.compare_and_set(key, b"1", found.version)
    await store.add(key, b"1")
    await store.incr(key)
    await store.get(key)
    await store.get(key, renew_for=7200)
    await store.get(f"missing {key}", renew_for=7200)
    await store.exists(key)
    await store.expires_in(key)
    await store.get_many(MANY)
    await asyncio.gather(*(store.get(one) for one in MANY))
    await asyncio.gather(*(store.get(one, renew_for=7200) for one in MANY))
    await store.set_many(dict.fromkeys(MANY, b"v"), 3600)
    await _save_sessions(store, key)
    await _save_sessions(store, *MANY)
    await asyncio.gather(*(store.delete(one) for one in MANY))
    await store.pop(key)
    await asyncio.gather(child.set("a", b"v", 0.001), child.set("b", b"v", 0.001), child.set("c", b"v", 3600))
    await asyncio.sleep(0.005)
    await child.delete_expired()
    await child.delete_all()


@pytest.mark.parametrize("prepared", ["new", "emptied"])
async def test_a_plan_made_for_an_empty_table_serves_a_large_one(
    server: Server, fresh_database: str, make_store: MakeStore, prepared: str
) -> None:
    """No statement reads all rows or index entries, although there were none when it was prepared."""
    rows = 200_000
    store = make_store(dsn=fresh_database)
    table = store.table_name
    await store.create_table()
    await server.fetch(f"ALTER TABLE {table} SET (autovacuum_enabled = off)", fresh_database)
    if prepared == "emptied":  # the planner has been told that there are no rows; otherwise it assumes some
        await server.fetch(f"VACUUM ANALYZE {table}", fresh_database)
    for _ in range(8):  # from the 6th time on, a prepared statement may have a plan for any parameters
        await _every_verb(store, "k")
    await server.fetch(
        f"""
        INSERT INTO {table} (namespace, session_id, data, expires_at, version, created_at, updated_at)
        SELECT '/LITESTAR/', 'row' || number, decode(repeat('00', 100), 'hex'), now() + '1 hour', number, now(), now()
          FROM generate_series(1, {rows}) AS number
        """,  # noqa: S608
        fresh_database,
    )
    for number in range(6):
        await _every_verb(store, f"row{number}")
    await store.close()
    sequential, by_index, index_scans = await _statistics(
        server,
        fresh_database,
        f"""
        SELECT seq_tup_read, idx_tup_read, indexes.idx_scan
          FROM pg_stat_user_tables
          JOIN pg_stat_user_indexes AS indexes USING (relid)
         WHERE indexes.indexrelname = '{table}_pkey'
        """,  # noqa: S608
    )

    # A plan can scan an index and yet read all of it, where it uses the first column only.
    assert sequential + by_index < rows / 20, f"{sequential:,} rows and {by_index:,} index entries"
    assert index_scans > 100


# Updates


@pytest.mark.parametrize("verb", ["set", "renew", "save"])
async def test_an_overwritten_row_stays_on_its_page(
    server: Server, fresh_database: str, make_store: MakeStore, verb: str
) -> None:
    """No index is written, as long as the pages have room for what one batch overwrites."""
    store = make_store(dsn=fresh_database)
    await store.create_table()
    rows = {f"k{number:04}": bytes(200) for number in range(64 * 25)}
    await store.set_many(rows, 3600)
    for number in range(50):
        keys = list(rows)[number % 25 :: 25]  # about one a page
        if verb == "save":
            await _save_sessions(store, *keys)
            continue
        await asyncio.gather(
            *(
                store.set(key, bytes(200), 3600) if verb == "set" else store.get(key, renew_for=4000 + number)
                for key in keys
            )
        )
    await store.close()
    updated, hot = await _statistics(
        server, fresh_database, "SELECT n_tup_upd, n_tup_hot_upd FROM pg_stat_user_tables WHERE n_tup_upd > 0"
    )

    assert updated >= 50 * 64
    assert hot == updated
