"""A guard and a middleware that use the request's database session, and so its transaction."""

from typing import Any

from litestar import Litestar, post
from litestar.connection import ASGIConnection
from litestar.enums import ScopeType
from litestar.exceptions import NotAuthorizedException
from litestar.handlers import BaseRouteHandler
from litestar.middleware import ASGIMiddleware
from litestar.types import ASGIApp, Receive, Scope, Send

from sqlstore.adapters.aiosqlite import AiosqliteConfig
from sqlstore.litestar import SQLStorePlugin

config = AiosqliteConfig(pool_config={"database": "jobs.db"})


async def has_key(connection: ASGIConnection[Any, Any, Any, Any], _: BaseRouteHandler) -> None:
    """Let only those in whose key is in the table."""
    db_session = config.provide_session(connection.app.state, connection.scope)
    key = connection.headers.get("X-API-Key")
    if not await db_session.fetch_value("SELECT count(*) FROM api_keys WHERE key = ?", [key]):
        raise NotAuthorizedException


class Log(ASGIMiddleware):
    """Stores what was asked for. As this belongs to the request's transaction, failed requests are not in the table."""

    scopes = (ScopeType.HTTP,)

    async def handle(self, scope: Scope, receive: Receive, send: Send, next_app: ASGIApp) -> None:
        """Store it, and go on."""
        db_session = config.provide_session(scope["app"].state, scope)
        await db_session.execute("INSERT INTO log (path) VALUES (?)", [scope["path"]])
        await next_app(scope, receive, send)


@post("/jobs", guards=[has_key])
async def start_job() -> str:
    """Do something that not everybody may do."""
    return "started"


async def create_tables() -> None:
    """Make the tables, and one key."""
    async with config.get_session() as db_session:
        await db_session.execute("CREATE TABLE IF NOT EXISTS api_keys (key TEXT PRIMARY KEY)")
        await db_session.execute("CREATE TABLE IF NOT EXISTS log (path TEXT NOT NULL)")
        await db_session.execute("INSERT INTO api_keys VALUES ('for-example') ON CONFLICT DO NOTHING")


app = Litestar([start_job], plugins=[SQLStorePlugin(config)], middleware=[Log()], on_startup=[create_tables])
