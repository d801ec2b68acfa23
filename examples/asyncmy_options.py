"""A MySQL or MariaDB store with more options."""

import asyncio
import os
from urllib.parse import urlsplit

from sqlstore.adapters.asyncmy import AsyncmyConfig, AsyncmyStore

place = urlsplit(os.environ["DATABASE_URL"])  # mysql://app:secret@db.example.com/app
config = AsyncmyConfig(
    pool_config={
        "host": place.hostname,
        "port": place.port or 3306,
        "user": place.username,
        "password": place.password,
        "database": place.path[1:],
        "program_name": "shop",
    },
    extension_config={"litestar": {"session_table": "shop_sessions", "timeout": 5}},
)


async def main() -> None:
    """Create the table, once for each database."""
    async with AsyncmyStore(config) as store:
        await store.create_table()
        print(f"{store.table_name} is ready")


if __name__ == "__main__":
    asyncio.run(main())
