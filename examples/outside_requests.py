"""A script that uses the database of an application, without a request."""

import asyncio

from sqlstore.adapters.aiosqlite import AiosqliteConfig

config = AiosqliteConfig(pool_config={"database": "notes.db"})


async def main() -> None:
    """Store some notes, and count them."""
    async with config.get_session() as db_session:  # one transaction, which is committed at the end of the block
        await db_session.execute("CREATE TABLE IF NOT EXISTS notes (id INTEGER PRIMARY KEY, text TEXT NOT NULL)")
        await db_session.execute_many("INSERT INTO notes (text) VALUES (?)", [["one"], ["two"]])
        async with db_session.stream("SELECT id, text FROM notes") as rows:
            async for row in rows:
                print(row)

    async with config.provide_connection() as connection:  # the driver's own
        [[count]] = await connection.execute_fetchall("SELECT count(*) FROM notes")
        print(count)


if __name__ == "__main__":
    asyncio.run(main())
