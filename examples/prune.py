"""An application that deletes expired values every ten minutes."""

import asyncio
import logging
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress

from litestar import Litestar

from sqlstore import SQLStoreError
from sqlstore.adapters.sqlite import SqliteConfig, SqliteStore

store = SqliteStore(SqliteConfig(pool_config={"database": "app.db"}))


async def prune() -> None:
    """Delete what has expired, again and again."""
    while True:
        try:
            await store.delete_expired()
        except SQLStoreError:  # the database is away: the next round will do it
            logging.getLogger(__name__).exception("pruning failed")
        await asyncio.sleep(600)


@asynccontextmanager
async def pruning(_: Litestar) -> AsyncGenerator[None, None]:
    """Prune in the background while the application runs."""
    await store.create_table()
    task = asyncio.create_task(prune())
    yield
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


app = Litestar([], lifespan=[store, pruning])
