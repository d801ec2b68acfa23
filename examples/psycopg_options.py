"""A PostgreSQL store over psycopg, and one over its synchronous connections."""

import asyncio
import os

from sqlstore.adapters.psycopg import (
    PsycopgAsyncConfig,
    PsycopgAsyncStore,
    PsycopgSyncConfig,
    PsycopgSyncStore,
)

config = PsycopgAsyncConfig(
    pool_config={"conninfo": os.environ["DATABASE_URL"], "kwargs": {"application_name": "shop"}},
    extension_config={"litestar": {"session_table": "public.shop_sessions", "timeout": 5}},
)
same = PsycopgSyncConfig(pool_config=config.pool_config, extension_config=config.extension_config)


async def main() -> None:
    """Write over one, and read over the other."""
    async with PsycopgAsyncStore(config) as store, PsycopgSyncStore(same) as reader:
        await store.create_table()
        await store.set("greeting", "hello", expires_in=60)
        print(await reader.get("greeting"))


if __name__ == "__main__":
    asyncio.run(main())
