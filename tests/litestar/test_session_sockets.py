"""Sessions of websockets: what is saved when, which cookies are sent, and what comes too late."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, TypeAlias

import pytest
from litestar import Litestar, Request, WebSocket, get, put, websocket
from litestar.connection import ASGIConnection  # noqa: TC002 - Litestar reads annotations
from litestar.datastructures import State
from litestar.exceptions import WebSocketDisconnect
from litestar.handlers import (
    WebsocketListener,
    send_websocket_stream,  # pyright: ignore[reportUnknownVariableType] - which Litestar has not typed to the end
    websocket_listener,
)
from litestar.middleware.session.server_side import ServerSideSessionBackend
from litestar.security.session_auth import SessionAuth

from sqlstore import BaseSQLSpecStore
from sqlstore.litestar import (
    LateSessionError,
    SQLSessionConfig,
    rotate_session_id,
    save_session,
    set_principal,
)

from .applications import running
from .sessions import Kind, ours_and_litestars

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Coroutine

    import httpx
    from litestar.types import ControllerRouterHandler

    from ..contract.conftest import SQL

    Body: TypeAlias = Callable[["AnySocket"], Coroutine[Any, Any, None]]

AnyRequest: TypeAlias = Request[Any, Any, State]
AnySocket: TypeAlias = WebSocket[Any, Any, State]
AnyStore: TypeAlias = BaseSQLSpecStore[Any]

pytestmark = pytest.mark.adapters("asyncpg", "sqlite")

TOO_LATE = "too late for a session's cookie"


class Client:
    """A browser's socket, and the server's part of it, which complains of what a server complains of."""

    def __init__(self, app: Litestar, path: str, cookie: str | None) -> None:
        headers = [] if cookie is None else [(b"cookie", f"session={cookie}".encode())]
        self._scope: Any = {
            "type": "websocket",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "scheme": "ws",
            "path": path,
            "raw_path": path.encode(),
            "query_string": b"",
            "root_path": "",
            "headers": headers,
            "client": ("127.0.0.1", 1),
            "server": ("testserver.local", 80),
            "subprotocols": [],
            "extensions": {},
        }
        self._app: Any = app
        self._to_app: asyncio.Queue[Any] = asyncio.Queue()
        self._from_app: asyncio.Queue[Any] = asyncio.Queue()
        self._state = "connecting"
        self.complaints: list[str] = []
        """What a server logs as the application's faults."""
        self.cookies: list[str] = []
        """What the handshake sets."""
        self.code: int | None = None
        """With what the application closed."""
        self.reason = ""
        self._to_app.put_nowait({"type": "websocket.connect"})
        self._task = asyncio.create_task(self._serve())

    async def _serve(self) -> None:
        try:
            await self._app(self._scope, self._receive, self._send)
        except Exception as error:  # noqa: BLE001 - a server logs it
            self.complaints.append(repr(error))
        self._from_app.put_nowait(None)

    async def _receive(self) -> Any:  # noqa: ANN401 - ASGI's messages
        message = await self._to_app.get()
        if message["type"] == "websocket.disconnect":
            self._state = "closed"
        return message

    async def _send(self, message: Any) -> None:  # noqa: ANN401 - ASGI's messages
        if self._state == "gone":
            raise BrokenPipeError
        kind = message["type"].removeprefix("websocket.")
        if (
            kind
            not in {"connecting": {"accept", "close"}, "open": {"send", "close"}, "closed": set[str]()}[self._state]
        ):
            complaint = f"unexpected {kind}: {self._state}"
            self.complaints.append(complaint)
            raise RuntimeError(complaint)
        if kind == "accept":
            self._state = "open"
            self.cookies = [value.decode() for name, value in message["headers"] if name.lower() == b"set-cookie"]
        elif kind == "close":
            self._state = "closed"
            self.code, self.reason = message["code"], message["reason"]
            self._to_app.put_nowait({"type": "websocket.disconnect", "code": self.code})
        self._from_app.put_nowait(message)

    @property
    def cookie(self) -> str | None:
        """The session's id that the handshake sets."""
        return next((each.split(";")[0].removeprefix("session=") for each in self.cookies), None)

    async def hears(self) -> str | None:
        """Return what the application says next; "" for accepting, None for no more."""
        message = await self._from_app.get()
        return None if message is None or message["type"] == "websocket.close" else message.get("text", "")

    def says(self, text: str) -> None:
        """Send *text*."""
        self._to_app.put_nowait({"type": "websocket.receive", "text": text})

    async def leaves(self, code: int = 1001) -> None:
        """Close, and wait until the application has ended."""
        self._to_app.put_nowait({"type": "websocket.disconnect", "code": code})
        await self._task

    def vanishes(self) -> None:
        """Be gone without a word, so that nothing can be sent any more."""
        self._state = "gone"

    async def ends(self) -> None:
        """Wait until the application has ended."""
        await self._task


@put("/", exclude_from_auth=True)
async def remember(request: AnyRequest) -> None:
    """Put what was sent into the session."""
    request.session.update(await request.json())


@get("/", exclude_from_auth=True)
async def recall(request: AnyRequest) -> dict[str, Any]:
    """Return what is in the session."""
    return dict(request.session)


@put("/forget", exclude_from_auth=True)
async def forget(request: AnyRequest) -> None:
    """End the session."""
    request.clear_session()


class Site:
    """An application with sockets, and one browser."""

    def __init__(self, app: Litestar, browser: httpx.AsyncClient) -> None:
        self._app = app
        self.browser = browser

    @property
    def cookie(self) -> str | None:
        """The browser's."""
        return self.browser.cookies.get("session")

    def socket(self, path: str = "/socket") -> Client:
        """Return a socket that the browser opens."""
        return Client(self._app, path, self.cookie)

    async def session(self, cookie: str | None = None) -> dict[str, Any]:
        """Return what is in the browser's session, or in that of a *cookie*."""
        if cookie is not None:
            self.browser.cookies.clear()
            self.browser.cookies.set("session", cookie, domain="testserver.local")
        session: dict[str, Any] = (await self.browser.get("/")).json()
        return session


@asynccontextmanager
async def serving(
    store: AnyStore,
    *handlers: ControllerRouterHandler,
    kind: Kind = SQLSessionConfig,
    **options: Any,  # noqa: ANN401 - see the configs
) -> AsyncGenerator[Site, None]:
    """Give an application whose sessions are in *store*."""
    config = kind(**options)
    app = Litestar(
        [remember, recall, forget, *handlers],
        stores={"sessions": store},
        middleware=[config.middleware],
        logging_config=None,
    )
    async with running(app) as browser:
        yield Site(app, browser)


def handler(body: Body, path: str = "/socket") -> ControllerRouterHandler:
    """Return a handler of a socket that does what *body* says."""

    @websocket(path)
    async def handle(socket: AnySocket) -> None:
        await body(socket)

    return handle


async def count(store: AnyStore, sql: SQL) -> int:
    """Return how many rows *store* has."""
    [(number,)] = await sql(f"SELECT COUNT(*) FROM {store.table_name}")  # noqa: S608
    return int(number)


# When it is saved


async def _listen(socket: AnySocket) -> None:
    await socket.accept()
    async for text in socket.iter_data("text"):
        socket.session["said"] = text


async def _listen_until_it_raises(socket: AnySocket) -> None:
    await socket.accept()
    while True:
        socket.session["said"] = await socket.receive_text()


async def _listen_once_and_close(socket: AnySocket) -> None:
    await socket.accept()
    socket.session["said"] = await socket.receive_text()
    await socket.close()


async def _listen_once_and_return(socket: AnySocket) -> None:
    await socket.accept()
    socket.session["said"] = await socket.receive_text()


async def _hello_of_ada(site: Site) -> Client:
    """Return a socket of a session that there is, to which the browser has said something."""
    await site.browser.put("/", json={"user": "ada"})
    socket = site.socket()
    assert await socket.hears() == ""
    socket.says("hello")
    return socket


@pytest.mark.parametrize("body", [_listen, _listen_until_it_raises, _listen_once_and_close, _listen_once_and_return])
async def test_a_socket_s_session_is_saved_when_it_closes(store: AnyStore, body: Body) -> None:
    """Whoever closes it: the browser, the handler, or its end."""
    async with serving(store, handler(body)) as site:
        socket = await _hello_of_ada(site)
        if body in {_listen, _listen_until_it_raises}:
            await socket.leaves()
        await socket.ends()

        assert socket.cookies == []
        assert await site.session() == {"user": "ada", "said": "hello"}
        # Litestar answers a browser that has left before its handler noticed, with sessions and without.
        assert socket.complaints[:1] == (["unexpected close: closed"] if body is _listen_until_it_raises else [])


@ours_and_litestars
async def test_what_a_socket_changes_is_not_lost(store: AnyStore, kind: Kind) -> None:
    """As all of it is with Litestar's own middleware, which saves with a response only."""
    async with serving(store, handler(_listen_once_and_close), kind=kind) as site:
        socket = await _hello_of_ada(site)
        await socket.ends()

        assert await site.session() == {"user": "ada"} | ({"said": "hello"} if kind is SQLSessionConfig else {})


@pytest.mark.parametrize("code", [1011, 4500])
async def test_a_browser_cannot_choose_that_nothing_is_saved(store: AnyStore, code: int) -> None:
    """By leaving with a code that Litestar closes a socket with after an exception."""
    async with serving(store, handler(_listen_until_it_raises)) as site:
        socket = await _hello_of_ada(site)
        await socket.leaves(code)

        assert await site.session() == {"user": "ada", "said": "hello"}


async def test_a_session_is_saved_if_the_browser_is_gone(store: AnyStore) -> None:
    """The handler may notice when it sends something, which raises: that is no fault of its own."""

    async def count_on(socket: AnySocket) -> None:
        await socket.accept()
        while True:
            await socket.receive_text()
            socket.session["counted"] = socket.session.get("counted", 0) + 1
            await socket.send_text("counted")

    async with serving(store, handler(count_on)) as site:
        await site.browser.put("/", json={"user": "ada"})
        socket = site.socket()
        assert await socket.hears() == ""
        socket.says("count")
        assert await socket.hears() == "counted"
        socket.vanishes()
        socket.says("count")
        await socket.ends()

        assert await site.session() == {"user": "ada", "counted": 2}


async def test_a_socket_s_session_is_saved_at_once_if_asked(store: AnyStore) -> None:
    """Again and again, while it is open, and whatever becomes of it."""

    async def save(socket: AnySocket) -> None:
        await socket.accept()
        while True:
            socket.session["said"] = await socket.receive_text()
            await save_session(socket)
            await socket.send_text("saved")
            if socket.session["said"] == "2":
                raise ValueError

    async with serving(store, handler(save)) as site:
        await site.browser.put("/", json={"user": "ada"})
        socket = site.socket()
        assert await socket.hears() == ""
        for text in ("1", "2"):
            socket.says(text)
            assert await socket.hears() == "saved"
            assert await site.session() == {"user": "ada", "said": text}
        await socket.ends()

        assert socket.code == 4500
        assert await site.session() == {"user": "ada", "said": "2"}


@pytest.mark.parametrize("accepts", [True, False])
async def test_nothing_is_saved_after_an_exception(store: AnyStore, sql: SQL, *, accepts: bool) -> None:
    """The socket is closed with 4500, as Litestar does; neither an old session nor a new one has been saved."""

    async def fail(socket: AnySocket) -> None:
        if accepts:
            await socket.accept()
        socket.session["said"] = "hello"
        raise ValueError

    async with serving(store, handler(fail)) as site:
        socket = site.socket()
        await socket.ends()
        assert socket.code == 4500
        assert await count(store, sql) == 0
        await site.browser.put("/", json={"user": "ada"})
        socket = site.socket()
        await socket.ends()

        assert (socket.code, socket.complaints) == (4500, [])
        assert await site.session() == {"user": "ada"}


async def test_a_quiet_socket_costs_nothing(store: AnyStore, sql: SQL) -> None:
    """It leaves no row, sets no cookie, and writes to no session that it only reads."""

    async def look(socket: AnySocket) -> None:
        await socket.accept()
        await socket.send_json(dict(socket.session))

    async with serving(store, handler(look)) as site:
        socket = site.socket()
        await socket.ends()
        assert (socket.cookies, socket.complaints, await count(store, sql)) == ([], [], 0)
        await site.browser.put("/", json={"user": "ada"})
        before = await sql(f"SELECT * FROM {store.table_name}")  # noqa: S608
        socket = site.socket()
        await socket.ends()

        assert (socket.cookies, socket.complaints) == ([], [])
        assert await sql(f"SELECT * FROM {store.table_name}") == before  # noqa: S608


async def test_a_handshake_renews(store: AnyStore) -> None:
    """It is the last moment for the cookie whose expiry moves with the row's."""
    async with serving(store, handler(_listen), touch_after=0, max_age=1000) as site:
        await site.browser.put("/", json={"user": "ada"})
        socket = site.socket()
        assert await socket.hears() == ""
        await socket.leaves()

        assert socket.cookie == site.cookie
        assert "Max-Age=1000" in socket.cookies[0]


# The handshake's cookie


async def test_a_session_that_begins_before_the_handshake_gets_its_cookie(store: AnyStore) -> None:
    """With the config's attributes; what comes later is saved, too."""

    async def begin(socket: AnySocket) -> None:
        socket.session["user"] = "ada"
        await socket.accept(headers={"X-Own": "header"})
        socket.session["said"] = await socket.receive_text()
        await save_session(socket)
        await socket.send_text("saved")
        socket.session["more"] = True

    async with serving(store, handler(begin), samesite="strict", max_age=1000) as site:
        socket = site.socket()
        assert await socket.hears() == ""
        assert len(socket.cookies) == 1
        assert "Max-Age=1000" in socket.cookies[0]
        assert "SameSite=strict" in socket.cookies[0]
        assert await site.session(socket.cookie) == {"user": "ada"}
        socket.says("hello")
        assert await socket.hears() == "saved"
        await socket.ends()

        assert socket.complaints == []
        assert await site.session() == {"user": "ada", "said": "hello", "more": True}


async def test_a_login_before_the_handshake_gets_a_new_id(store: AnyStore) -> None:
    """Also one that was saved before it; the old id is dead at once."""

    async def become(socket: AnySocket) -> None:
        set_principal(socket, "ada")
        await save_session(socket)
        socket.session["user"] = "ada"
        await socket.accept()
        set_principal(socket, "ada")

    async with serving(store, handler(become)) as site:
        await site.browser.put("/", json={"basket": [1]})
        old = site.cookie
        socket = site.socket()
        await socket.ends()

        assert (socket.code, socket.complaints) == (None, [])
        assert socket.cookie not in {old, None}
        assert await site.session(old) == {}
        assert await site.session(socket.cookie) == {"basket": [1], "user": "ada"}


async def _and_return(_: AnySocket) -> None:
    pass


async def _and_close(socket: AnySocket) -> None:
    await socket.close()


async def _and_save(socket: AnySocket) -> None:
    await save_session(socket)


async def _and_wait(socket: AnySocket) -> None:
    async for _ in socket.iter_data("text"):
        pass


@pytest.mark.parametrize("then", [_and_return, _and_close, _and_save])
async def test_a_session_that_begins_later_is_too_late(store: AnyStore, sql: SQL, then: Body) -> None:
    """The reason stands in what closes the socket, and is short enough for that; the server has nothing to log."""

    async def begin(socket: AnySocket) -> None:
        await socket.accept()
        socket.session["user"] = "ada"
        await then(socket)

    async with serving(store, handler(begin)) as site:
        socket = site.socket()
        await socket.ends()

        assert (socket.code, socket.complaints) == (4500, [])
        assert socket.reason.startswith(TOO_LATE)
        assert len(socket.reason.encode()) <= 123
        assert await count(store, sql) == 0


async def test_too_late_for_a_browser_that_has_left(
    store: AnyStore, sql: SQL, caplog: pytest.LogCaptureFixture
) -> None:
    """Nobody can be told, so it is logged; the server, whose socket is closed, is told nothing."""

    async def begin(socket: AnySocket) -> None:
        await socket.accept()
        socket.session["user"] = "ada"
        await _and_wait(socket)

    async with serving(store, handler(begin)) as site:
        socket = site.socket()
        assert await socket.hears() == ""
        await socket.leaves()

        assert (socket.code, socket.complaints) == (None, [])
        assert any(TOO_LATE in record.getMessage() for record in caplog.records if record.name == "sqlstore")
        assert await count(store, sql) == 0


async def test_a_handler_may_answer_that_it_is_too_late(store: AnyStore, sql: SQL) -> None:
    """`save_session` says so where the handler can do something about it."""

    async def begin(socket: AnySocket) -> None:
        await socket.accept()
        socket.session["user"] = "ada"
        with pytest.raises(LateSessionError, match=TOO_LATE):
            await save_session(socket)
        socket.clear_session()
        await socket.send_text("never mind")

    async with serving(store, handler(begin)) as site:
        socket = site.socket()
        assert [await socket.hears(), await socket.hears()] == ["", "never mind"]
        await socket.ends()

        assert (socket.code, socket.complaints) == (None, [])
        assert await count(store, sql) == 0


async def test_an_id_cannot_change_later(store: AnyStore) -> None:
    """Who would become another principal, or rotate, is told at once, and the session stays as it was."""

    async def change(socket: AnySocket) -> None:
        set_principal(socket, "ada")
        await socket.accept()
        set_principal(socket, "ada")
        for late in ("grace", None):
            with pytest.raises(LateSessionError, match=TOO_LATE):
                set_principal(socket, late)
        with pytest.raises(LateSessionError, match=TOO_LATE):
            rotate_session_id(socket)
        socket.session["said"] = "hello"

    async with serving(store, handler(change)) as site:
        await site.browser.put("/", json={"user": "ada"})
        socket = site.socket()
        await socket.ends()

        assert (socket.code, socket.complaints) == (None, [])
        assert await site.session(socket.cookie) == {"user": "ada", "said": "hello"}


async def test_a_computed_principal_cannot_change_later(store: AnyStore) -> None:
    """With ``principal=`` it is found out when the session is saved."""

    def user_of(session: dict[str, Any]) -> str | None:
        return session.get("user")

    async def change(socket: AnySocket) -> None:
        await socket.accept()
        socket.session["user"] = "grace"

    async with serving(store, handler(change), principal=user_of) as site:
        await site.browser.put("/", json={"user": "ada"})
        socket = site.socket()
        await socket.ends()

        assert (socket.code, socket.complaints) == (4500, [])
        assert socket.reason.startswith(TOO_LATE)
        assert await site.session() == {"user": "ada"}


async def test_a_session_that_ends_before_the_handshake_loses_its_cookie(store: AnyStore, sql: SQL) -> None:
    """And one that ends later ends nevertheless."""

    async def end(socket: AnySocket) -> None:
        socket.clear_session()
        await socket.accept()

    async def end_later(socket: AnySocket) -> None:
        await socket.accept()
        socket.clear_session()

    async with serving(store, handler(end), handler(end_later, "/later")) as site:
        for path, cookies in (("/socket", 1), ("/later", 0)):
            await site.browser.put("/", json={"user": "ada"})
            assert await count(store, sql) == 1
            socket = site.socket(path)
            await socket.ends()

            assert (len(socket.cookies), socket.complaints) == (cookies, [])
            assert all("Max-Age=0" in cookie for cookie in socket.cookies)
            assert await count(store, sql) == 0


# What others do meanwhile


async def test_a_socket_and_requests_keep_each_other_s_changes(store: AnyStore) -> None:
    """A socket has its session for a long time; what it sees of it is as of its last save."""

    async def talk(socket: AnySocket) -> None:
        await socket.accept()
        async for text in socket.iter_data("text"):
            socket.session["said"] = text
            await save_session(socket)
            await socket.send_json(dict(socket.session))

    async with serving(store, handler(talk)) as site:
        await site.browser.put("/", json={"user": "ada", "page": 0})
        socket = site.socket()
        assert await socket.hears() == ""
        for page in (1, 2):
            await site.browser.put("/", json={"page": page})
            socket.says(str(page))
            assert await socket.hears() == f'{{"user":"ada","page":{page},"said":"{page}"}}'
        await site.browser.put("/", json={"page": 3})
        await socket.leaves()

        assert socket.complaints == []
        assert await site.session() == {"user": "ada", "page": 3, "said": "2"}


async def test_a_session_that_others_have_ended_stays_so(
    store: AnyStore, sql: SQL, caplog: pytest.LogCaptureFixture
) -> None:
    """What the socket writes into it is dropped, which is logged; it is no reason to close the socket."""

    async def talk(socket: AnySocket) -> None:
        await socket.accept()
        async for text in socket.iter_data("text"):
            socket.session["said"] = text
            await save_session(socket)
            await socket.send_text("saved")
            socket.session["more"] = text

    async with serving(store, handler(talk)) as site:
        await site.browser.put("/", json={"user": "ada"})
        socket = site.socket()
        assert await socket.hears() == ""
        await site.browser.put("/forget")
        for _ in range(2):
            socket.says("hello")
            assert await socket.hears() == "saved"
        await socket.leaves()

        assert (socket.code, socket.complaints) == (None, [])
        assert await count(store, sql) == 0
        assert "a session has ended while a request changed it" in caplog.text


# Sockets that are refused


async def test_a_refused_socket_begins_no_session(store: AnyStore, sql: SQL) -> None:
    """Its browser could not be told; one that it has is saved."""

    async def refuse(socket: AnySocket) -> None:
        socket.session["said"] = "hello"
        await socket.close(code=4003, reason="no")

    async with serving(store, handler(refuse)) as site:
        socket = site.socket()
        await socket.ends()
        assert (socket.code, socket.reason, socket.complaints) == (4003, "no", [])
        assert await count(store, sql) == 0
        await site.browser.put("/", json={"user": "ada"})
        socket = site.socket()
        await socket.ends()

        assert (socket.code, socket.complaints) == (4003, [])
        assert await site.session() == {"user": "ada", "said": "hello"}


# Litestar's other handlers of sockets


async def test_a_listener_s_session_is_saved(store: AnyStore) -> None:
    """A function's and a class's, when the browser leaves."""

    @websocket_listener("/function")
    async def listen(data: str, socket: AnySocket) -> str:
        socket.session["function"] = data
        return data

    class Listener(WebsocketListener):
        path = "/class"

        def on_accept(self, socket: AnySocket) -> None:
            socket.session["accepted"] = True

        def on_disconnect(self, socket: AnySocket) -> None:
            socket.session["left"] = True

        def on_receive(self, data: str, socket: AnySocket) -> str:
            socket.session["class"] = data
            return data

    async with serving(store, listen, Listener) as site:
        await site.browser.put("/", json={"user": "ada"})
        for path in ("/function", "/class"):
            socket = site.socket(path)
            assert await socket.hears() == ""
            socket.says("hello")
            assert await socket.hears() == "hello"
            await socket.leaves()
            assert (socket.code, socket.complaints) == (None, [])

        assert await site.session() == {
            "user": "ada",
            "function": "hello",
            "class": "hello",
            "accepted": True,
            "left": True,
        }


async def test_a_listener_can_begin_a_session(store: AnyStore) -> None:
    """In what accepts its socket."""

    async def accept(socket: AnySocket) -> None:
        socket.session["user"] = "ada"
        await socket.accept()

    @websocket_listener("/socket", connection_accept_handler=accept)
    async def listen(data: str, socket: AnySocket) -> None:
        socket.session["said"] = data

    async with serving(store, listen) as site:
        socket = site.socket()
        assert await socket.hears() == ""
        socket.says("hello")
        await socket.leaves()

        assert socket.complaints == []
        assert await site.session(socket.cookie) == {"user": "ada", "said": "hello"}


async def test_a_stream_s_session_is_saved(store: AnyStore) -> None:
    """When it has come to its end, or the browser has left."""

    async def stream(socket: AnySocket) -> None:
        async def parts() -> AsyncGenerator[str, None]:
            yield "1"
            socket.session["streamed"] = 1
            yield "2"

        await socket.accept()
        await send_websocket_stream(socket, parts())

    async def endless(socket: AnySocket) -> None:
        async def parts() -> AsyncGenerator[str, None]:
            socket.session["endless"] = True
            yield "1"
            await asyncio.Event().wait()

        await socket.accept()
        await send_websocket_stream(socket, parts(), listen_for_disconnect=True)

    async with serving(store, handler(stream, "/stream"), handler(endless, "/endless")) as site:
        await site.browser.put("/", json={"user": "ada"})
        socket = site.socket("/stream")
        assert [await socket.hears() for _ in range(4)] == ["", "1", "2", None]
        await socket.ends()
        assert (socket.code, socket.complaints) == (1000, [])
        socket = site.socket("/endless")
        assert [await socket.hears() for _ in range(2)] == ["", "1"]
        await socket.leaves()

        assert (socket.code, socket.complaints) == (None, [])
        assert await site.session() == {"user": "ada", "streamed": 1, "endless": True}


# SessionAuth


async def test_session_auth_lets_a_socket_in(store: AnyStore, sql: SQL) -> None:
    """Whoever has logged in; who has not keeps the session that he has."""

    async def find_user(session: dict[str, Any], _: ASGIConnection[Any, Any, Any, Any]) -> str | None:
        return session.get("user")

    @websocket("/socket")
    async def greet(socket: AnySocket) -> None:
        await socket.accept()
        await socket.send_text(f"hello {socket.user}")
        socket.session["greeted"] = True
        with pytest.raises(WebSocketDisconnect):
            await socket.receive_text()

    auth = SessionAuth[str, ServerSideSessionBackend](
        retrieve_user_handler=find_user, session_backend_config=SQLSessionConfig()
    )
    app = Litestar(
        [remember, recall, forget, greet],
        stores={"sessions": store},
        on_app_init=[auth.on_app_init],
        logging_config=None,
    )
    async with running(app) as browser:
        site = Site(app, browser)
        socket = site.socket()
        await socket.ends()
        assert (socket.code, socket.complaints, await count(store, sql)) == (4500, [], 0)
        await browser.put("/", json={"basket": [1]})
        socket = site.socket()
        await socket.ends()
        assert (socket.code, socket.complaints) == (4500, [])
        assert await site.session() == {"basket": [1]}
        await browser.put("/", json={"user": "ada"})
        socket = site.socket()
        assert [await socket.hears() for _ in range(2)] == ["", "hello ada"]
        await socket.leaves()

        assert (socket.code, socket.complaints) == (None, [])
        assert await site.session() == {"basket": [1], "user": "ada", "greeted": True}
