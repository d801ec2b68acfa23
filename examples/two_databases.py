"""An application with two databases."""

from litestar import Litestar, post
from litestar.di import NamedDependency

from sqlstore.adapters.aiosqlite import AiosqliteConfig
from sqlstore.litestar import DatabaseSession, SQLStorePlugin

shop = AiosqliteConfig(pool_config={"database": "shop.db"})
archive = AiosqliteConfig(
    pool_config={"database": "archive.db"},
    extension_config={
        "litestar": {
            "bind_key": "archive",
            "session_key": "archive_session",
            "connection_key": "archive_connection",
            "create_table": "off",  # it has no stores
            "prune_interval": 0,
        }
    },
)


@post("/archive")
async def move_orders(
    db_session: NamedDependency[DatabaseSession], archive_session: NamedDependency[DatabaseSession]
) -> int:
    """Move all orders into the archive; each database has a transaction of its own."""
    orders = await db_session.fetch_all("DELETE FROM orders RETURNING id, item")
    await archive_session.execute_many("INSERT INTO orders (id, item) VALUES (:id, :item)", orders)
    return len(orders)


async def create_orders() -> None:
    """Make the table in both."""
    for config in (shop, archive):
        async with config.get_session() as db_session:
            await db_session.execute("CREATE TABLE IF NOT EXISTS orders (id INTEGER PRIMARY KEY, item TEXT NOT NULL)")


app = Litestar([move_orders], plugins=[SQLStorePlugin(shop, archive)], on_startup=[create_orders])
