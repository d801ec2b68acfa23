"""Applications that use the plugin, the same for every adapter: what a handler does is written once, with ``await``.

For a synchronous driver it runs in a thread, over a session that answers at once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from inspect import Parameter, Signature
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

import httpx
from litestar import Litestar, Request, Response, post
from litestar.datastructures import State
from litestar.di import NamedDependency
from litestar.middleware import DefineMiddleware
from litestar.stores.base import Store
from litestar.types import Message, Send

from sqlstore.litestar import DatabaseSession, SyncDatabaseSession

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
    from datetime import timedelta

    from litestar.handlers import HTTPRouteHandler
    from litestar.types import ASGIApp, Receive, Scope

    from ..conftest import Adapter, MakeConfig
    from ..contract.conftest import SQL

AnyRequest: TypeAlias = Request[Any, Any, State]
Sent: TypeAlias = Callable[[Send, Message], Awaitable[None]]
T = TypeVar("T")

BROKEN = 599
"""The status that stands for an exception."""


@dataclass(frozen=True)
class Tables:
    """The test's own tables, and what is done with them in the driver's SQL."""

    item: str
    """With an ``id``, and an ``owner``, which is another item's id or NULL."""
    promise: str
    """With an ``item``, whose id is looked up at COMMIT; empty where the database always does so at once."""
    placeholder: str

    @property
    def insert(self) -> str:
        """Takes an id."""
        return f"INSERT INTO {self.item} (id) VALUES ({self.placeholder.format(1)})"  # noqa: S608

    @property
    def adopt(self) -> str:
        """Takes an id and an owner."""
        return (
            f"INSERT INTO {self.item} (id, owner) VALUES ({self.placeholder.format(1)}, {self.placeholder.format(2)})"  # noqa: S608
        )

    @property
    def find(self) -> str:
        """Takes an id."""
        return f"SELECT id FROM {self.item} WHERE id = {self.placeholder.format(1)}"  # noqa: S608

    @property
    def ids(self) -> str:
        """Takes nothing."""
        return f"SELECT id FROM {self.item} ORDER BY id"  # noqa: S608


class Awaited:
    """A synchronous session with the verbs of the other one, none of which ever waits."""

    def __init__(self, session: SyncDatabaseSession) -> None:
        self.session = session

    async def execute(self, sql: str, parameters: Sequence[Any] = ()) -> int:
        """See `DatabaseSession`."""
        return self.session.execute(sql, parameters)

    async def execute_many(self, sql: str, parameters: Sequence[Sequence[Any]]) -> None:
        """See `DatabaseSession`."""
        self.session.execute_many(sql, parameters)

    async def fetch_all(self, sql: str, parameters: Sequence[Any] = (), **options: Any) -> list[Any]:  # noqa: ANN401
        """See `DatabaseSession`."""
        return self.session.fetch_all(sql, parameters, **options)

    async def fetch_one(self, sql: str, parameters: Sequence[Any] = (), **options: Any) -> Any:  # noqa: ANN401
        """See `DatabaseSession`."""
        return self.session.fetch_one(sql, parameters, **options)

    async def fetch_value(self, sql: str, parameters: Sequence[Any] = (), **default: object) -> Any:  # noqa: ANN401
        """See `DatabaseSession`."""
        return self.session.fetch_value(sql, parameters, **default)

    @asynccontextmanager
    async def transaction(self, **options: Any) -> AsyncGenerator[None, None]:  # noqa: ANN401 - see DatabaseSession
        """See `DatabaseSession`."""
        with self.session.transaction(**options):
            yield

    @asynccontextmanager
    async def stream(self, sql: str, **options: Any) -> AsyncGenerator[AsyncIterator[Any], None]:  # noqa: ANN401
        """See `DatabaseSession`."""
        with self.session.stream(sql, **options) as rows:

            async def awaited() -> AsyncGenerator[Any, None]:
                for row in rows:
                    yield row

            yield awaited()


AnySession: TypeAlias = DatabaseSession | Awaited


@dataclass(frozen=True)
class Call:
    """What a handler is given."""

    site: Site
    db: AnySession
    request: AnyRequest
    others: Mapping[str, Any]
    """What else the route asks for."""

    @property
    def id(self) -> int:
        """The number that the request was sent with."""
        return int(self.request.query_params["id"])

    def session(self, key: str) -> AnySession:
        """Return another session than `db`."""
        return either(self.others[key])

    async def by_driver(self, sql: str) -> None:
        """Run *sql* over the driver's own connection."""
        await self.site.by_driver(self.others["db_connection"], sql)

    async def sleep(self, seconds: float) -> None:
        """Hold up this handler and no other."""
        await self.elsewhere(asyncio.sleep(seconds))

    async def elsewhere(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Return what *coroutine* returns, which has nothing to do with the session."""
        return asyncio.run(coroutine) if isinstance(self.db, Awaited) else await coroutine


Body: TypeAlias = Callable[[Call], Coroutine[Any, Any, Any]]


def either(session: DatabaseSession | SyncDatabaseSession) -> AnySession:
    """Return what has verbs to await."""
    return Awaited(session) if isinstance(session, SyncDatabaseSession) else session


def in_thread(coroutine: Coroutine[Any, Any, Any]) -> Any:  # noqa: ANN401 - what it returns
    """Return what *coroutine* returns, which waits for nothing but `Awaited` sessions."""
    try:
        coroutine.send(None)
    except StopIteration as end:
        return end.value
    msg = "what runs in a thread cannot wait for the event loop"
    raise AssertionError(msg)


@dataclass
class Site:
    """Makes applications over one adapter and the test's tables."""

    adapter: Adapter
    tables: Tables
    config: MakeConfig
    sql: SQL
    emulated: bool = False
    """The database's server only speaks like it."""

    async def ids(self) -> list[int]:
        """Return the ids of all items that have been committed."""
        return [row[0] for row in await self.sql(self.tables.ids)]

    def route(self, path: str, body: Body, *also: str, **options: Any) -> HTTPRouteHandler:  # noqa: ANN401 - Litestar's
        """Return a handler of POST *path* that does what *body* says, with *also* these dependencies."""
        dependency: Any = NamedDependency
        session = dependency[SyncDatabaseSession if self.adapter.threaded else DatabaseSession]

        def call(request: AnyRequest, db_session: Any, **others: Any) -> Coroutine[Any, Any, Any]:  # noqa: ANN401
            return body(Call(self, either(db_session), request, others))

        def in_its_thread(**given: Any) -> Any:  # noqa: ANN401
            return in_thread(call(**given))

        async def in_the_loop(**given: Any) -> Any:  # noqa: ANN401
            return await call(**given)

        handle: Any = in_its_thread if self.adapter.threaded else in_the_loop
        # Litestar reads what a handler takes.
        takes = {"request": AnyRequest, "db_session": session}
        takes |= {key: session if key.endswith("session") else dependency[Any] for key in also}
        parameters = [Parameter(key, Parameter.KEYWORD_ONLY, annotation=kind) for key, kind in takes.items()]
        handle.__signature__ = Signature(parameters, return_annotation=Any)
        handle.__annotations__ = {**takes, "return": Any}
        return post(path, sync_to_thread=True if self.adapter.threaded else None, **options)(handle)

    async def by_driver(self, connection: Any, sql: str) -> None:  # noqa: ANN401 - each driver's own
        """Run *sql* over a *connection* of the driver's own."""
        doing: Any
        if self.adapter.dialect in {"mysql", "oracle"}:
            cursor = connection.cursor()
            doing = cursor.execute(sql)
        else:
            doing = connection.execute(sql)
        if not self.adapter.threaded:
            await doing

    async def finish(self, working: Coroutine[Any, Any, T]) -> T:
        """Return what *working* returns, which works with a session that is not a handler's."""
        return await (asyncio.to_thread(in_thread, working) if self.adapter.threaded else working)

    async def insert(self, call: Call) -> Response[int]:
        """Insert the request's item, and answer with the status that the request asks for; 599 stands for an error."""
        await call.db.execute(self.tables.insert, (call.id,))
        status = int(call.request.query_params.get("status", 201))
        if status == BROKEN:
            raise RuntimeError
        headers = {"Location": "/elsewhere"} if 300 <= status < 400 else {}
        return Response(call.id, status_code=status, headers=headers)


def at_response(action: Callable[[], Awaitable[object]]) -> DefineMiddleware:
    """Return a middleware that does something when a response is about to begin."""

    def middleware(app: ASGIApp) -> ASGIApp:
        async def call(scope: Scope, receive: Receive, send: Send) -> None:
            async def acting_send(message: Message) -> None:
                if message["type"] == "http.response.start":
                    await action()
                await send(message)

            await app(scope, receive, acting_send)

        return call

    return DefineMiddleware(middleware)


class RecordingStore(Store):
    """A store that notes what it writes."""

    def __init__(self, inner: Store, note: Callable[[str], Awaitable[object]]) -> None:
        """Call *note* before and after."""
        self._inner = inner
        self._note = note

    async def set(self, key: str, value: str | bytes, expires_in: int | timedelta | None = None) -> None:
        """See `Store`."""
        await self._note("saving")
        await self._inner.set(key, value, expires_in)
        await self._note("saved")

    async def get(self, key: str, renew_for: int | timedelta | None = None) -> bytes | None:
        """See `Store`."""
        return await self._inner.get(key, renew_for)

    async def delete(self, key: str) -> None:
        """See `Store`."""
        await self._inner.delete(key)

    async def delete_all(self) -> None:
        """See `Store`."""
        await self._inner.delete_all()

    async def exists(self, key: str) -> bool:
        """See `Store`."""
        return await self._inner.exists(key)

    async def expires_in(self, key: str) -> int | None:
        """See `Store`."""
        return await self._inner.expires_in(key)


@asynccontextmanager
async def running(app: Litestar, *, spied: Sent | None = None) -> AsyncGenerator[httpx.AsyncClient, None]:
    """Give a client of *app*, from its start to its end; *spied* gets what its handlers and middleware have sent."""

    async def served(scope: Any, receive: Any, send: Any) -> None:  # noqa: ANN401 - httpx types them loosely
        await app(scope, receive, send if spied is None else partial(spied, send))

    transport = httpx.ASGITransport(served, raise_app_exceptions=False)
    async with app.lifespan(), httpx.AsyncClient(transport=transport, base_url="http://testserver.local") as client:
        yield client
