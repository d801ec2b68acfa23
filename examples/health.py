"""An application that a load balancer can ask how it is."""

from typing import Any

from litestar import Litestar, Response, get

from sqlstore.adapters.sqlite import SqliteConfig
from sqlstore.litestar import SQLStorePlugin

plugin = SQLStorePlugin(SqliteConfig(pool_config={"database": "app.db"}))


@get("/health")
async def health() -> Response[dict[str, Any]]:
    """Answer 503 while a database does not answer."""
    databases = await plugin.health()
    well = all(database.error is None for database in databases.values())
    content = {name: "well" if database.error is None else "not available" for name, database in databases.items()}
    return Response(content, status_code=200 if well else 503)


app = Litestar([health], plugins=[plugin])
