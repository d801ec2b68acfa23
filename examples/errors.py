"""An application that answers 503 while its database is away."""

import os
from typing import Any

from litestar import Litestar, Request, Response, get

from sqlstore import ContentionError, UnavailableError
from sqlstore.adapters.asyncpg import AsyncpgConfig, AsyncpgStore

store = AsyncpgStore(AsyncpgConfig(pool_config={"dsn": os.environ["DATABASE_URL"]}))


@get("/hits")
async def hits() -> int:
    """Count the calls."""
    return await store.incr("hits")


def try_later(_: Request[Any, Any, Any], error: Exception) -> Response[dict[str, str]]:
    """Tell the client that its request was right, and when to send it again."""
    return Response({"detail": str(error)}, status_code=503, headers={"Retry-After": "5"})


app = Litestar(
    [hits],
    lifespan=[store],
    exception_handlers={UnavailableError: try_later, ContentionError: try_later},
)
