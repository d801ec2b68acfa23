"""Count each visitor's requests, in a session that outlives the server."""

from typing import Any

from litestar import Litestar, Request, get

from sqlstore.adapters.sqlite import SqliteConfig
from sqlstore.litestar import SQLSessionConfig, SQLStorePlugin

config = SqliteConfig(pool_config={"database": "quickstart.db"})


@get("/")
async def index(request: Request[Any, Any, Any]) -> str:
    """Count this request."""
    visits: int = request.session.get("visits", 0) + 1
    request.session["visits"] = visits
    return f"Visit {visits}"


app = Litestar(
    [index],
    plugins=[SQLStorePlugin(config)],
    middleware=[SQLSessionConfig().middleware],
)
