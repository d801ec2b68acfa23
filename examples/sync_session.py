"""Synchronous handlers, in worker threads, over a synchronous driver."""

from litestar import Litestar, get, post
from litestar.di import NamedDependency

from sqlstore.adapters.sqlite import SqliteConfig
from sqlstore.litestar import SQLStorePlugin, SyncDatabaseSession

config = SqliteConfig(pool_config={"database": "visits.db"})


@post("/visits", sync_to_thread=True)
def visit(db_session: NamedDependency[SyncDatabaseSession]) -> int:
    """Store a visit, and return its number."""
    number: int = db_session.fetch_value("INSERT INTO visits DEFAULT VALUES RETURNING id")
    return number


@get("/visits", sync_to_thread=True)
def visits(db_session: NamedDependency[SyncDatabaseSession]) -> list[str]:
    """Return when each was."""
    return [row["at"] for row in db_session.fetch_all("SELECT at FROM visits ORDER BY id")]


def create_visits() -> None:
    """Make the table, unless it is there: with a connection of the driver's own, as nothing else runs yet."""
    connection = config.connector()()
    connection.execute("CREATE TABLE IF NOT EXISTS visits (id INTEGER PRIMARY KEY, at TEXT DEFAULT CURRENT_TIMESTAMP)")
    connection.close()


app = Litestar([visit, visits], plugins=[SQLStorePlugin(config)], on_startup=[create_visits])
