"""Saves of one session by one request at the same time, responses that are begun twice, and what cookies say."""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from litestar import Litestar, post
from litestar.datastructures import Cookie, State
from litestar.middleware import DefineMiddleware

from sqlstore import BaseSQLSpecStore, UnavailableError
from sqlstore.litestar import SQLSessionBackend, SQLSessionConfig, save_session
from sqlstore.session_rows import SessionRows

from .applications import AnyRequest, running

if TYPE_CHECKING:
    from litestar.types import ASGIApp, Message, Receive, Scope, Send

AnyStore = BaseSQLSpecStore[Any]

pytestmark = pytest.mark.adapters("asyncpg", "sqlite")


@post("/begin")
async def begin(request: AnyRequest) -> None:
    """Begin a session, saved by two tasks at once."""
    request.session["mine"] = 1
    await asyncio.gather(save_session(request), save_session(request))


@post("/change")
async def change(request: AnyRequest, state: State) -> Any:  # noqa: ANN401 - what is in the session
    """Change a session that another request changes meanwhile, saved by two tasks at once; return what is stored."""
    await state.meanwhile(request.get_session_id())
    request.session["mine"] = 2
    await asyncio.gather(save_session(request), save_session(request))
    return await state.stored(request.get_session_id())


async def test_a_session_begins_once(store: AnyStore) -> None:
    """However many tasks of the request save it: one that nobody has the cookie of would be left behind."""
    config = SQLSessionConfig()
    app = Litestar([begin], stores={"sessions": store}, middleware=[config.middleware])
    async with running(app) as client:
        answer = await client.post("/begin")
        found = await SQLSessionBackend(config).get(client.cookies["session"], store)

    assert answer.status_code == 201
    assert found == b'{"mine":1}'
    assert (await config.sessions_of(app).statistics()).rows == 1


async def test_tasks_of_one_request_lose_nothing_of_another(store: AnyStore) -> None:
    """What the first of them has merged is no deletion by the second, which began before."""
    config = SQLSessionConfig()
    backend = SQLSessionBackend(config)

    async def meanwhile(session_id: str) -> None:
        await backend.set(session_id, b'{"mine":1,"theirs":1}', store)

    async def stored(session_id: str) -> Any:  # noqa: ANN401
        return msgspec.json.decode(await backend.get(session_id, store) or b"")

    app = Litestar(
        [begin, change],
        stores={"sessions": store},
        middleware=[config.middleware],
        state=State({"meanwhile": meanwhile, "stored": stored}),
    )
    async with running(app) as client:
        await client.post("/begin")
        answer = await client.post("/change")

    assert answer.json() == {"mine": 2, "theirs": 1}


async def test_a_save_that_failed_is_not_made_up_for_by_the_answer_that_says_so(
    store: AnyStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A middleware that catches the exception and answers by itself does not get its response through, nor a save."""
    config = SQLSessionConfig()
    add, failures = SessionRows.add, [UnavailableError("away")]

    async def add_later(rows: SessionRows, *arguments: Any, **options: Any) -> int:  # noqa: ANN401
        if failures:
            raise failures.pop()
        return await add(rows, *arguments, **options)

    def catching(app: ASGIApp) -> ASGIApp:
        async def call(scope: Scope, receive: Receive, send: Send) -> None:
            async def sent(message: Message) -> None:
                try:
                    await send(message)
                except UnavailableError:
                    await send({"type": "http.response.start", "status": 400, "headers": []})
                    await send({"type": "http.response.body", "body": b"caught", "more_body": False})

            await app(scope, receive, sent)

        return call

    @post("/")
    async def write(request: AnyRequest) -> None:
        request.session["a"] = 1

    monkeypatch.setattr(SessionRows, "add", add_later)
    app = Litestar([write], stores={"sessions": store}, middleware=[config.middleware, DefineMiddleware(catching)])
    async with running(app) as client:
        answer = await client.post("/")

    assert answer.status_code == 500
    assert "session" not in answer.cookies
    assert (await config.sessions_of(app).statistics()).rows == 0


@pytest.mark.parametrize("session_id", ["", "0", "a=0; b"], ids=["ours", "zero", "quoted"])
async def test_a_cookie_is_what_litestar_makes_of_the_settings(store: AnyStore, session_id: str) -> None:
    """Also of an id that another hand has chosen, and at the end."""
    config = SQLSessionConfig(
        key="a-0", max_age=100.5, path="/x", domain="testserver.local", secure=True, samesite="strict", hash_ids=False
    )

    @post("/x", status_code=200)
    async def write(request: AnyRequest) -> None:
        request.session["visits"] = request.session.get("visits", 0) + 1

    @post("/x/end", status_code=200)
    async def end(request: AnyRequest) -> None:
        request.clear_session()

    def expected(value: str, max_age: int, expires: int | None = None) -> str:
        options: Any = {"path": "/x", "domain": "testserver.local", "secure": True, "httponly": True}
        cookie = Cookie("a-0", value=value, max_age=max_age, expires=expires, samesite="strict", **options)
        return cookie.to_header(header="")

    if session_id:
        await SQLSessionBackend(config).set(session_id, b"{}", store)
    app = Litestar([write, end], stores={"sessions": store}, middleware=[config.middleware])
    async with running(app) as client:
        quoted = Cookie("a-0", value=session_id).to_header(header="").partition(";")[0]
        sent = {"Cookie": quoted} if session_id else {}
        saved = await client.post("/x", headers=sent)
        own = session_id or saved.headers["set-cookie"].partition(";")[0].removeprefix("a-0=")
        ended = await client.post("/x/end", headers=sent or {"Cookie": f"a-0={own}"})

    assert saved.headers["set-cookie"] == expected(own, 101)
    assert _undated(ended.headers["set-cookie"]) == _undated(expected("null", 0, 0))
    assert "GMT" not in _undated(ended.headers["set-cookie"])


def _undated(header: str) -> str:
    return re.sub(r"expires=[^;]* GMT", "expires", header)
