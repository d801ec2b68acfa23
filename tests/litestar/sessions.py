"""Applications with sessions, and browsers that visit them over real sockets in an order that the test decides."""

from __future__ import annotations

import asyncio
import socket
from contextlib import AsyncExitStack, asynccontextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Literal, Self, TypeAlias

import httpx
import pytest
import uvicorn
from litestar import Litestar, Request, Response, delete, get, put
from litestar.datastructures import State
from litestar.middleware.session.server_side import ServerSideSessionBackend, ServerSideSessionConfig
from litestar.security.session_auth import SessionAuth

from sqlstore import BaseSQLSpecStore
from sqlstore.litestar import SQLSessionConfig

from ..contract.conftest import until

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from litestar.connection import ASGIConnection
    from litestar.types import ControllerRouterHandler, Message, Scope

    from ..contract.conftest import SQL

AnyRequest: TypeAlias = Request[Any, Any, State]
AnyStore: TypeAlias = BaseSQLSpecStore[Any]
Kind: TypeAlias = type[ServerSideSessionConfig]
Place: TypeAlias = Literal["arrival", "handler", "answer"]

ours_and_litestars = pytest.mark.parametrize(
    "kind", [SQLSessionConfig, ServerSideSessionConfig], ids=["ours", "litestar"]
)
"""For a fault that Litestar's own sessions have: the same steps, with both."""


class Held:
    """A request that waits at a *place* until the test lets it go on.

    At "arrival" nothing has been done for it; at "handler" its session has been loaded, and its handler comes next, or
    what answers that it was not authenticated; at "answer" its session has been saved, and nothing has been sent.
    """

    def __init__(self, place: Place) -> None:
        self.place = place
        self._here = asyncio.Event()
        self._open = asyncio.Event()
        self._answer: asyncio.Task[httpx.Response]

    async def wait(self) -> None:
        """Wait, as the request."""
        self._here.set()
        await self._open.wait()

    async def begin(self, browser: Browser, request: httpx.Request) -> Self:
        """Send *request*, and return when it waits."""
        self._answer = asyncio.create_task(browser.send(request))
        await until(lambda: self._here.is_set() or self._answer.done())
        assert self._here.is_set(), f"it did not get there: {self._answer.result().text}"
        return self

    async def release(self) -> httpx.Response:
        """Let it go on, and return its answer."""
        self._open.set()
        return await self._answer

    @property
    def over(self) -> bool:
        """Whether it has been answered."""
        return self._answer.done()


_HELD: ContextVar[Held | None] = ContextVar("_HELD", default=None)
_HEADER = "X-Held"


async def _pause(place: Place) -> None:
    if (held := _HELD.get()) is not None and held.place == place:
        await held.wait()


async def _before_handler(_: AnyRequest) -> None:
    await _pause("handler")


async def _after_exception(_: Exception, __: Scope) -> None:
    await _pause("handler")


class Browser(httpx.AsyncClient):
    """One cookie jar, into which each answer's cookies go as it arrives."""

    def __init__(self, site: Served) -> None:
        # A busy machine may take its time; 200 at once are what one test is about; there is no TLS to prepare for.
        super().__init__(base_url=site.url, timeout=60, limits=httpx.Limits(max_connections=None), verify=False)
        self._site = site

    @property
    def cookie(self) -> str | None:
        """The session's cookie, which the browser has now."""
        return self.cookies.get("session")

    async def hold(self, method: str, url: str, *, at: Place = "handler", **options: Any) -> Held:  # noqa: ANN401 - see httpx
        """Send a request with the cookie of now, and return when it waits there."""
        held = Held(at)
        number = str(len(self._site.held))
        self._site.held[number] = held
        request = self.build_request(method, url, **options)
        request.headers[_HEADER] = number
        return await held.begin(self, request)


class Served:
    """An application behind a server, in the event loop of the test."""

    def __init__(self, app: Litestar, stack: AsyncExitStack) -> None:
        self._app = app
        self._stack = stack
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        self.held: dict[str, Held] = {}
        """By the number that is sent along."""
        self.starts = 0
        """How many responses have begun."""

    async def browser(self, cookie: str | None = None) -> Browser:
        """Return another browser, which may have a cookie already."""
        browser = await self._stack.enter_async_context(Browser(self))
        if cookie is not None:
            browser.cookies.set("session", cookie, domain="127.0.0.1")
        return browser

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:  # noqa: ANN401 - uvicorn's types differ
        """Serve a request, which may wait outside of everything that the application does."""

        async def held_send(message: Message) -> None:
            if message["type"] == "http.response.start":
                self.starts += 1
                await _pause("answer")
            await send(message)

        number = next(
            (value.decode() for key, value in scope.get("headers", ()) if key == _HEADER.lower().encode()), ""
        )
        _HELD.set(self.held.get(number))
        await _pause("arrival")
        await self._app(scope, receive, held_send)

    async def serve(self) -> None:
        """Start, and let the stack end it."""
        config = uvicorn.Config(
            self,
            log_config=None,  # it goes where the test's own does
            access_log=False,
            ws="none",
            timeout_keep_alive=600,  # or it may close a connection that a browser is about to use
            timeout_graceful_shutdown=1,
        )
        server = uvicorn.Server(config)
        task = asyncio.create_task(server.serve(sockets=[self._socket]))

        async def end() -> None:
            server.should_exit = True
            await task

        self._stack.push_async_callback(end)
        await until(lambda: server.started or task.done())


@asynccontextmanager
async def serving(app: Litestar) -> AsyncGenerator[Served, None]:
    """Give *app* behind a server, from its start to its end."""
    async with AsyncExitStack() as stack:
        site = Served(app, stack)
        await site.serve()
        yield site


async def rows(store: AnyStore, sql: SQL, at: str | None = None) -> int:
    """Return how many *store* has, in the test's database or in the one *at* a DSN or path."""
    [(count,)] = await sql(f"SELECT COUNT(*) FROM {store.table_name}", at)  # noqa: S608
    return int(count)


@put("/", exclude_from_auth=True)
async def remember(request: AnyRequest) -> None:
    """Put what was sent into the session."""
    request.session.update(await request.json())


@get("/")
async def recall(request: AnyRequest) -> dict[str, Any]:
    """Return what is in the session."""
    return {key: value for key, value in request.session.items() if not key.startswith("_")}


@delete("/")
async def forget(request: AnyRequest) -> None:
    """Log out."""
    request.clear_session()


@put("/login", exclude_from_auth=True)
async def login(request: AnyRequest) -> None:
    """Become the user that was sent."""
    request.session["user"] = await request.json()


def apologise(_: AnyRequest, error: Exception) -> Response[str]:
    """Answer as the application's own exception handler."""
    return Response(f"sorry: {type(error).__name__}", status_code=getattr(error, "status_code", 503))


def user_of(session: dict[str, Any]) -> str | None:
    """Return who has logged in: see `SQLSessionConfig.principal`."""
    return session.get("user")


def sessions_of(kind: Kind, **options: Any) -> ServerSideSessionConfig:  # noqa: ANN401 - see the configs
    """Return a config of either kind."""
    return SQLSessionConfig(principal=user_of, **options) if kind is SQLSessionConfig else kind(**options)


def application(
    store: AnyStore,
    sessions: ServerSideSessionConfig,
    *handlers: ControllerRouterHandler,
    auth: bool = False,
    **options: Any,  # noqa: ANN401 - see Litestar
) -> Litestar:
    """Return an application whose sessions are in *store*, where with *auth* only users are let in."""
    if auth:
        session_auth = SessionAuth[str, ServerSideSessionBackend](
            retrieve_user_handler=_user, session_backend_config=sessions
        )
        options["on_app_init"] = [session_auth.on_app_init]
    else:
        options["middleware"] = [sessions.middleware]
    return Litestar(
        [remember, recall, forget, login, *handlers],
        stores={"sessions": store},
        before_request=_before_handler,
        after_exception=[_after_exception],
        logging_config=None,  # what is logged goes where pytest looks for it
        **options,
    )


async def _user(session: dict[str, Any], _: ASGIConnection[Any, Any, Any, Any]) -> str | None:
    return user_of(session)
