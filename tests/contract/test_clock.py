"""Lifetimes are measured by one clock, the database's, in whatever time zone it shows it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from sqlstore import BaseSQLSpecStore

    from ..conftest import Adapter, MakeConfig
    from ..servers import Server
    from .conftest import RunScript

    Store = BaseSQLSpecStore[Any]

# By database: let new connections to {database} see the time {hours} hours from UTC.
TIME_ZONE = {
    "mysql": "SET GLOBAL time_zone = '{hours:+03}:00'",
    "postgresql": "ALTER DATABASE {database} SET timezone TO '<local>{hours:+}'",
}
# Oracle's come from the client; its own tests set them.
SESSIONS_HAVE_TIME_ZONES = pytest.mark.adapters(
    "asyncpg", "psycopg", "psycopg_sync", "asyncmy_mariadb", "asyncmy_mysql"
)


@pytest.fixture(params=[5, -5], ids="{:+}h".format)
async def apart(
    adapter: Adapter, server: Server, fresh_database: str, make_config: MakeConfig, request: pytest.FixtureRequest
) -> AsyncGenerator[tuple[Store, Store], None]:
    """Give two stores over one table, whose connections are ten hours apart."""
    stores: list[Store] = []
    for hours in (request.param, -request.param):
        zone = TIME_ZONE[adapter.dialect].format(database=urlsplit(fresh_database).path[1:], hours=hours)
        await server.fetch(zone)
        stores.append(adapter.store(make_config(dsn=fresh_database)))
        await stores[-1].create_table()
        await asyncio.gather(stores[-1].get("k"), stores[-1].delete("k"))  # connects
    yield stores[0], stores[1]
    for store in stores:
        await store.close()


@SESSIONS_HAVE_TIME_ZONES
async def test_a_time_zone_does_not_shorten_a_lifetime(apart: tuple[Store, Store]) -> None:
    """What has an hour to live is alive for an hour, by every verb that looks at its expiry."""
    here, there = apart
    await here.set("k", b"v", 3600)
    await here.incr("n", expires_in=3600)
    await here.add("a", b"v", 3600)
    deleted = await there.delete_expired()

    assert deleted == 0
    assert await there.get("k", renew_for=1800) == b"v"
    assert not await there.add("k", b"other")
    assert await there.incr("n") == 2
    for key in "kna":
        assert 3500 < (await there.expires_in(key) or 0) <= 3600


@SESSIONS_HAVE_TIME_ZONES
async def test_a_time_zone_does_not_lengthen_a_lifetime(apart: tuple[Store, Store]) -> None:
    """What has a moment to live is over after it, and what is renewed lives as long as it was given."""
    here, there = apart
    await here.set("k", b"v", 0.01)
    await here.set("l", b"v", 60)
    await there.get("l", renew_for=3600)
    await asyncio.sleep(0.05)

    assert await there.get("k") is None
    assert await there.delete_expired() == 1
    assert 3500 < (await here.expires_in("l") or 0) <= 3600


LIVE_TOMORROW = """
import time
from datetime import datetime, timedelta

now = time.time
time.time = lambda: now() + 86400

class Tomorrow(datetime):
    @classmethod
    def now(cls, tz=None):
        return datetime.now(tz) + timedelta(days=1)

for name, module in sys.modules.items():
    if name.startswith("sqlstore") and getattr(module, "datetime", None) is datetime:
        module.datetime = Tomorrow

async def use():
    async with store:
        await store.set("set", b"v", 3600)
        await store.incr("incr", expires_in=3600)
        await store.add("add", b"v", 3600)
        assert await store.get("renewed", renew_for=3600) == b"v"
        assert await store.delete_expired() == 1

asyncio.run(use())
"""


async def test_the_clock_of_a_process_does_not_matter(server: Server, store: Store, run_script: RunScript) -> None:
    """A host whose clock is a day ahead neither ends lives too soon nor makes them longer."""
    assert server, "where the database is in the process, its clock is the process's"
    await store.set("renewed", b"v", 60)
    await store.set("expired", b"v", 0.01)
    await asyncio.sleep(0.05)
    script = await run_script(LIVE_TOMORROW, store.config)
    await script.succeeds()

    for key in ("set", "incr", "add", "renewed"):
        assert 3500 < (await store.expires_in(key) or 0) <= 3600
