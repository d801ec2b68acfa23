"""A store, and the application's own aiosqlite connections to the same file."""

import asyncio

from sqlstore.adapters.aiosqlite import AiosqliteConfig, AiosqliteStore

config = AiosqliteConfig(pool_config={"database": "shop.db"})
store = AiosqliteStore(config)


async def main() -> None:
    """Count the rows of the store's table with a query of the application's."""
    async with store:
        await store.create_table()
        await store.set("greeting", "hello")
        async with config.provide_connection() as connection:
            query = "SELECT count(*) FROM litestar_session"
            print(*await connection.execute_fetchall(query))


if __name__ == "__main__":
    asyncio.run(main())
