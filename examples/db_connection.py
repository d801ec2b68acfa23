"""A handler that works with the driver's own connection."""

import aiosqlite
from litestar import Litestar, get
from litestar.di import NamedDependency

from sqlstore.adapters.aiosqlite import AiosqliteConfig
from sqlstore.litestar import SQLStorePlugin


@get("/tables")
async def tables(db_connection: NamedDependency[aiosqlite.Connection]) -> list[str]:
    """Return the names of all tables, by a method that only aiosqlite has."""
    rows = await db_connection.execute_fetchall("SELECT name FROM sqlite_schema WHERE type = 'table' ORDER BY name")
    return [name for (name,) in rows]


app = Litestar([tables], plugins=[SQLStorePlugin(AiosqliteConfig(pool_config={"database": "notes.db"}))])
