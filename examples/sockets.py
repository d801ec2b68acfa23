"""A websocket whose messages are stored."""

from litestar import Litestar, websocket_listener
from litestar.di import NamedDependency

from sqlstore.adapters.aiosqlite import AiosqliteConfig
from sqlstore.litestar import DatabaseSession, SQLStorePlugin

config = AiosqliteConfig(pool_config={"database": "chat.db"})


@websocket_listener("/chat")
async def receive(data: str, db_session: NamedDependency[DatabaseSession]) -> int:
    """Store a message, and answer how many there are; the socket may be open for hours, the transaction is short."""
    async with db_session.transaction():
        await db_session.execute("INSERT INTO messages (text) VALUES (?)", [data])
        total: int = await db_session.fetch_value("SELECT count(*) FROM messages")
    return total


async def create_messages() -> None:
    """Make the table, unless it is there."""
    async with config.get_session() as db_session:
        await db_session.execute("CREATE TABLE IF NOT EXISTS messages (id INTEGER PRIMARY KEY, text TEXT NOT NULL)")


app = Litestar([receive], plugins=[SQLStorePlugin(config)], on_startup=[create_messages])
