"""Use the installed package: make a table in a new SQLite file and keep a value in it.

Run by check_wheel.py, in an environment that has the wheel and what it requires, and nothing else.
"""

import asyncio
import sys
from pathlib import Path

import sqlstore
from sqlstore.adapters.sqlite import SqliteConfig, SqliteStore


async def main() -> None:
    """Make a table from the bundled migration, write, read, drop the table."""
    assert Path(sqlstore.__file__).is_relative_to(sys.prefix), f"not the installed package: {sqlstore.__file__}"
    async with SqliteStore(SqliteConfig(pool_config={"database": "wheel.db"})) as store:
        await store.create_table()
        await store.set("key", b"value")
        assert await store.get("key") == b"value"
        await store.drop_table()


asyncio.run(main())
