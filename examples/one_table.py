"""Sessions, cached responses and rate limits in one table."""

from datetime import UTC, datetime
from typing import Any

from litestar import Litestar, Request, get
from litestar.middleware.rate_limit import RateLimitConfig
from litestar.middleware.session.server_side import ServerSideSessionConfig

from sqlstore.adapters.sqlite import SqliteConfig
from sqlstore.litestar import SQLStorePlugin

config = SqliteConfig(pool_config={"database": "app.db"})


@get("/")
async def visits(request: Request[Any, Any, Any]) -> int:
    """Count the visits of this browser; the count is in its session."""
    request.session["visits"] = request.session.get("visits", 0) + 1
    return int(request.session["visits"])


@get("/report", cache=60)
async def report() -> str:
    """Make a report at most once a minute; in between it comes from the cache."""
    return f"made at {datetime.now(UTC)}"


app = Litestar(
    [visits, report],
    plugins=[SQLStorePlugin(config)],
    middleware=[
        ServerSideSessionConfig().middleware,
        RateLimitConfig(("minute", 100)).middleware,
    ],
)
