"""The application that each contender serves: visitors who are logged in, and whose visits are counted.

python -m benchmarks.application NAME PLACE [--trace]

Its standard input is the socket to listen on. A request reads the session, and may change it; a middleware may write it
anyway, as Litestar's own does. With ``--trace``, SQLite reports each statement that it runs.
"""

from __future__ import annotations

import gc
import socket
import sys
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any

import uvicorn
import uvloop
from litestar import Litestar, Request, get, post
from litestar.datastructures import State
from litestar.enums import MediaType
from litestar.middleware.session.server_side import ServerSideSessionConfig
from litestar.stores.base import Store

from sqlstore.litestar import SQLSessionConfig
from tests.servers import die_with_parent

from .contenders import NAMED
from .statements import count_on_sqlite

if TYPE_CHECKING:
    from collections.abc import Callable

TEXT = "x" * 170  # makes a session of about 200 bytes


@post("/")
async def begin(request: Request[Any, Any, State]) -> None:
    """Log in."""
    request.session.update(user="user", visits=0, text=TEXT)


@get("/read", media_type=MediaType.TEXT)
async def read(request: Request[Any, Any, State]) -> str:
    """Say who is logged in; without its session, fail."""
    return str(request.session["user"])


@get("/visit", media_type=MediaType.TEXT)
async def visit(request: Request[Any, Any, State]) -> str:
    """Count a visit; without its session, fail."""
    request.session["visits"] += 1
    return str(request.session["visits"])


@get("/statements", exclude_from_session=True)
async def statements(state: State) -> int:
    """Return how many statements SQLite has reported."""
    counted: int = state.counted()
    return counted


async def serve(name: str, place: str, listener: socket.socket, counted: Callable[[], int] | None) -> None:
    """Serve the application over the contender of this *name* until SIGTERM."""
    resources = AsyncExitStack()
    store = await resources.enter_async_context(NAMED[name].open(place))
    if not isinstance(store, Store):
        msg = f"{name} is not a store of Litestar"
        raise TypeError(msg)
    kind = SQLSessionConfig if NAMED[name].own_sessions else ServerSideSessionConfig
    app = Litestar(
        [begin, read, visit, statements],
        stores={"sessions": store},
        middleware=[kind(exclude_opt_key="exclude_from_session").middleware],
        on_shutdown=[resources.aclose],
        openapi_config=None,
        state=State({"counted": counted}),
    )
    config = uvicorn.Config(
        app, http="httptools", lifespan="on", access_log=False, log_level="warning", timeout_graceful_shutdown=1
    )
    # Whatever is there when serving begins stays: looking through it again and again made p99 three times as long.
    gc.collect()
    gc.freeze()
    await uvicorn.Server(config).serve([listener])


if __name__ == "__main__":
    die_with_parent()
    counted = count_on_sqlite() if "--trace" in sys.argv else None
    uvloop.run(serve(sys.argv[1], sys.argv[2], socket.socket(fileno=sys.stdin.fileno()), counted))
