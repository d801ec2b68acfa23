"""A PostgreSQL store with more options."""

import asyncio
import os

from sqlstore.adapters.asyncpg import AsyncpgConfig, AsyncpgStore

config = AsyncpgConfig(
    pool_config={
        "dsn": os.environ["DATABASE_URL"],
        "server_settings": {"application_name": "shop"},
    },
    extension_config={"litestar": {"session_table": "public.shop_sessions", "timeout": 5}},
)


async def main() -> None:
    """Create the table, once for each database."""
    async with AsyncpgStore(config) as store:
        await store.create_table()
        print(f"{store.table_name} is ready")


if __name__ == "__main__":
    asyncio.run(main())
