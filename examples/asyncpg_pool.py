"""An application and its store, both with connections from one asyncpg pool."""

import os
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
from litestar import Litestar, Request, get
from litestar.datastructures import State
from litestar.middleware.session.server_side import ServerSideSessionConfig

from sqlstore.adapters.asyncpg import AsyncpgConfig, AsyncpgStore


@asynccontextmanager
async def database(app: Litestar) -> AsyncGenerator[None, None]:
    """Open the pool, then the store over it; close them in the other order."""
    async with (
        asyncpg.create_pool(os.environ["DATABASE_URL"], max_size=10) as pool,
        AsyncpgStore(AsyncpgConfig(pool_instance=pool)) as store,
    ):
        await store.create_table()
        app.stores.register("sessions", store, allow_override=True)
        app.state.pool = pool
        yield


@get("/")
async def visits(request: Request[Any, Any, State]) -> str:
    """Use both: the session, and a query of the application's own."""
    request.session["visits"] = request.session.get("visits", 0) + 1
    version = await request.app.state.pool.fetchval("SHOW server_version")
    return f"visit {request.session['visits']}, PostgreSQL {version}"


app = Litestar(
    [visits],
    lifespan=[database],
    middleware=[ServerSideSessionConfig().middleware],
)
