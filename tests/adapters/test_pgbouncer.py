"""Stores behind PgBouncer in transaction mode, which lends a server process for one transaction at a time."""

from __future__ import annotations

import asyncio
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import asyncpg
import pytest

from sqlstore.dialects import Step

from .. import servers
from ..contract.conftest import until
from ..contract.verbs import EFFECTS, KEY

if TYPE_CHECKING:
    from collections.abc import Generator

    from sqlstore import BaseSQLSpecStore

    from ..conftest import MakeConfig, MakeStore
    from ..servers import Server

    Store = BaseSQLSpecStore[Any]

pytestmark = pytest.mark.adapters("asyncpg", "psycopg", "psycopg_sync")

EXECUTABLES = {
    "of the system": "/usr/sbin/pgbouncer",  # Debian 12 has 1.18, which knows no prepared statements
    "newest": servers.in_tree("postgresql", "usr/sbin/pgbouncer"),
}
CONFIGURATION = """
[databases]
* = host={server.hostname} port={server.port} user={server.username} {password}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = any
pool_mode = transaction
default_pool_size = 3
"""


@pytest.fixture(params=list(EXECUTABLES.values()), ids=list(EXECUTABLES))
def pooler(server: Server, request: pytest.FixtureRequest) -> Generator[int, None, None]:
    """Give the port of a PgBouncer that shares 3 connections to the adapter's server."""
    command: str = request.param
    if not Path(shlex.split(command)[-1]).exists():
        servers.missing(servers.PostgreSQL, f"no {command}: make services")
    place = urlsplit(server.dsn)
    port = servers.free_port()
    password = f"password={place.password}" if place.password else ""
    shell = servers.Shell()
    try:
        configuration = CONFIGURATION.format(server=place, port=port, password=password)
        shell.run(" ".join(["printf '%s\\n'", *map(shlex.quote, configuration.splitlines()), ">pgbouncer.ini"]))
        shell.run(f"{command} pgbouncer.ini & pid=$! signal=INT")
        shell.run("until grep -qs 'process up' log || ! kill -0 $pid; do sleep 0.02; done; kill -0 $pid")
        yield port
    finally:
        shell.close()


@pytest.fixture
async def pooled(store: Store, make_store: MakeStore, pooler: int) -> Store:  # noqa: ARG001 - makes the table
    """Return a store behind the pooler, over the table of *store*."""
    return make_store(port=pooler)


async def test_every_verb_works_behind_a_pooler(store: Store, pooled: Store) -> None:
    """And has its effect on the same table."""
    for name, effect in EFFECTS.items():
        await effect.prepare(store)

        assert await effect.call(pooled) == effect.answer, name
        assert await store.get(KEY) == effect.left, name


async def test_many_calls_share_the_pooler_s_few_connections(pooled: Store) -> None:
    """None of them finds what another connection has prepared or set, nor misses what its own has."""
    for number in range(5):
        await asyncio.gather(*(pooled.set(f"k{key}", b"%d" % number, 60) for key in range(100)))
        found = await asyncio.gather(*(pooled.get(f"k{key}", renew_for=60) for key in range(100)))
        sums = await asyncio.gather(*(pooled.incr(f"n{key % 10}") for key in range(50)))

        assert found == [b"%d" % number] * 100
        assert max(sums) == 5 * (number + 1)


async def test_the_table_is_made_behind_a_pooler(make_store: MakeStore, pooler: int) -> None:
    """By several at once."""
    stores = [make_store(port=pooler) for _ in range(4)]
    await asyncio.gather(*(one.create_table() for one in stores))
    await stores[0].set("k", b"v")

    assert await make_store().get("k") == b"v"
    await stores[1].drop_table()


async def test_the_stores_settings_are_not_left_to_others(pooled: Store, server: Server, pooler: int) -> None:
    """Who gets the server process next, finds it as it was."""
    await asyncio.gather(*(pooled.incr(f"k{number}") for number in range(30)))
    connection = await asyncpg.connect(server.through(server.dsn, pooler), statement_cache_size=0)
    for _ in range(10):
        async with connection.transaction():
            assert await connection.fetchval("SHOW lock_timeout") == "0"
            assert await connection.fetchval("SHOW enable_seqscan") == "on"
    await connection.close()


SLEEP = Step("SELECT pg_sleep($1::float8)", (60.0,))
SLEEPING = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'SELECT pg_sleep%'"


async def test_what_was_dropped_ends_and_nothing_else(make_config: MakeConfig, server: Server, pooler: int) -> None:
    """The transaction is ended at the server, and not the one that has got the same process since."""
    config = make_config(port=pooler)
    connection = await config.open_store_connection()
    await connection.run([SLEEP._replace(parameters=(0.0,))])
    other = await config.open_store_connection()
    running = asyncio.create_task(other.run([SLEEP]))  # in the process that the first one had
    await until(lambda: _sleeping(server, 1))
    connection.kill()
    await connection.bury()

    assert await _sleeping(server, 1)
    other.kill()
    with pytest.raises(Exception):  # noqa: B017, PT011 - the driver's own
        await running
    await other.bury()
    assert await _sleeping(server, 0)


async def _sleeping(server: Server, count: int) -> bool:
    return await server.fetch(f"{SLEEPING} AND datname = current_database()", server.dsn) == [(count,)]
