"""Many requests, few connections: all are answered, or told in time that they cannot be."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
from litestar import Litestar
from litestar.middleware.session.server_side import ServerSideSessionConfig

from sqlstore.litestar import SQLStorePlugin

from ..adapters.test_pools import POOLS
from ..contract.conftest import until
from .applications import at_response, running

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from sqlstore import BaseConfig

    from ..proxy import Proxy
    from .applications import Call, Site

CROWD = 50


async def _serve_a_crowd(site: Site, config: BaseConfig) -> None:
    """Send 50 requests at once that each hold a connection while they use a session."""

    async def hold(call: Call) -> int:
        call.request.session["id"] = call.id
        await call.db.execute(site.tables.insert, (call.id,))
        await call.sleep(0.005)
        return len(await call.db.fetch_all(site.tables.find, (call.id,)))

    plugin = SQLStorePlugin(config)
    app = Litestar([site.route("/", hold)], plugins=[plugin], middleware=[ServerSideSessionConfig().middleware])
    if site.adapter.threaded:
        # Far fewer than wait for a connection: whoever has one must not need a thread that they have.
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(2))
    async with running(app) as client:
        requests = (client.post("/", params={"id": number}) for number in range(CROWD))
        answers = await asyncio.gather(*requests)
        await until(lambda: not config.pool().in_use)
    await plugin.stores["default"].drop_table()
    await plugin.stores["default"].close()

    assert {(answer.status_code, answer.text) for answer in answers} == {(201, "1")}
    assert await site.ids() == [*range(CROWD)]


async def test_a_crowd_shares_a_small_pool(site: Site) -> None:
    """The sessions have connections of their own."""
    await _serve_a_crowd(site, site.config(size=5))


@pytest.mark.adapters(*POOLS)
@pytest.mark.parametrize("size", [5, 11])
async def test_a_crowd_shares_a_pool_of_the_application_s(site: Site, database: str, size: int) -> None:
    """The stores have taken theirs, and leave the requests the others."""
    pool = await POOLS[site.adapter.name].open(database, size)
    options = site.config().extension_config
    try:
        await _serve_a_crowd(site, site.adapter.config(pool_instance=pool.of_driver, extension_config=options))
    finally:
        await pool.end()


@asynccontextmanager
async def _held(site: Site, config: BaseConfig) -> AsyncGenerator[Any, None]:
    """Give a client of an application whose only connection is in a request's hands until the block ends."""
    holding, released = threading.Event(), threading.Event()

    async def hold(call: Call) -> None:
        await call.db.execute(site.tables.insert, (call.id,))
        holding.set()
        while not released.is_set():
            await call.sleep(0.01)

    plugin = SQLStorePlugin(config)
    app = Litestar(
        [site.route("/", site.insert), site.route("/hold", hold)],
        plugins=[plugin],
        middleware=[ServerSideSessionConfig().middleware],
    )
    async with running(app) as client:
        held = asyncio.create_task(client.post("/hold", params={"id": 0}))
        await until(holding.is_set)
        try:
            yield client
        finally:
            released.set()
        assert (await held).status_code == 201
        assert (await client.post("/", params={"id": 1})).status_code == 201
    await plugin.stores["default"].drop_table()
    await plugin.stores["default"].close()


async def test_waiting_in_vain_ends_in_a_503(site: Site) -> None:
    """Within the config's timeout; the requests that waited hold nothing up afterwards."""
    config = site.config(size=1, timeout=1)
    async with _held(site, config) as client, asyncio.timeout(20):
        waiting = (client.post("/", params={"id": number}) for number in range(2, 8))
        answers = await asyncio.gather(*waiting)

    assert {answer.status_code for answer in answers} == {503}
    assert answers[0].json()["detail"] == "the database is not available, try again later"
    assert await site.ids() == [0, 1]


async def test_a_frozen_server_ends_in_a_503(site: Site, proxy: Proxy) -> None:
    """A request that is to begin, on a connection that the pool has or on a new one, is told in time."""
    # Without a level, Oracle's transaction begins with the application's own statement, which may take its time.
    mode = {"isolation_level": "read committed"}
    config = site.config(size=2, timeout=1, port=proxy.port, create_table="off", prune_interval=0, **mode)
    async with running(Litestar([site.route("/", site.insert)], plugins=[SQLStorePlugin(config)])) as client:
        await client.post("/", params={"id": 4})
        await asyncio.sleep(0.1)  # until its connection has come back
        proxy.freeze()
        async with asyncio.timeout(20):
            answers = await asyncio.gather(*(client.post("/", params={"id": number}) for number in range(3)))
        proxy.thaw()

        async def served() -> bool:
            return (await client.post("/", params={"id": 3})).status_code == 201

        await until(served)  # connections that were tried in vain are closed

    assert {answer.status_code for answer in answers} == {503}
    assert await site.ids() == [3, 4]


async def test_a_server_that_freezes_before_the_commit_ends_in_a_500(site: Site, proxy: Proxy) -> None:
    """Nobody knows what became of the transaction, and the client is not told that it was committed."""

    async def freeze() -> None:
        proxy.freeze()

    config = site.config(size=2, timeout=1, port=proxy.port, create_table="off", prune_interval=0)
    app = Litestar([site.route("/", site.insert)], plugins=[SQLStorePlugin(config)], middleware=[at_response(freeze)])
    async with running(app) as client, asyncio.timeout(10):
        answer = await client.post("/", params={"id": 1})
        proxy.thaw()
        # A COMMIT that was sent may still arrive: its server process holds the row until it has ended.
        await until(lambda: not config.pool().in_use)

    assert answer.status_code == 500
