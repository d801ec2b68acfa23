"""A SQLite store with more options."""

import asyncio

from sqlstore.adapters.sqlite import SqliteConfig, SqliteStore

config = SqliteConfig(
    pool_config={"database": "shop.db"},
    pragmas={"synchronous": "NORMAL", "mmap_size": 268_435_456},
    extension_config={"litestar": {"session_table": "shop_sessions", "timeout": 5}},
)


async def main() -> None:
    """Create the table, once for each file."""
    async with SqliteStore(config) as store:
        await store.create_table()
        print(f"{store.table_name} is ready")


if __name__ == "__main__":
    asyncio.run(main())
