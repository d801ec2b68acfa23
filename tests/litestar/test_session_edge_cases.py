"""What sessions promise, where nobody would look."""

from __future__ import annotations

import asyncio
import gc
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import msgspec
import pytest
from litestar import Litestar, Request, Response, WebSocket, asgi, get, head, post, websocket
from litestar.background_tasks import BackgroundTask
from litestar.config.compression import CompressionConfig
from litestar.config.csrf import CSRFConfig
from litestar.config.response_cache import ResponseCacheConfig
from litestar.datastructures import State
from litestar.di import NamedDependency  # noqa: TC002 - Litestar reads the handlers' annotations
from litestar.exceptions import ImproperlyConfiguredException, WebSocketDisconnect
from litestar.security.session_auth import SessionAuth
from litestar.testing import TestClient

from sqlstore import BaseSQLSpecStore
from sqlstore.litestar import (
    SQLSessionBackend,
    SQLSessionConfig,
    SQLStorePlugin,
    rotate_session_id,
    save_session,
    set_principal,
)
from sqlstore.litestar.sessions.request_session import RequestSession
from sqlstore.names import digest_key
from sqlstore.session_rows import SessionRows

from .applications import running
from .sessions import rows

if TYPE_CHECKING:
    from litestar.types import Receive, Scope, Send

    from sqlstore.unit_of_work import UnitOfWork

    from ..contract.conftest import SQL
    from .applications import Call, Site

AnyStore: TypeAlias = BaseSQLSpecStore[Any]
AnyRequest: TypeAlias = Request[Any, Any, State]

pytestmark = pytest.mark.adapters("asyncpg", "sqlite")


def application(store: AnyStore, *handlers: Any, config: SQLSessionConfig | None = None, **options: Any) -> Litestar:  # noqa: ANN401
    """Return an application whose sessions are in *store*."""
    sessions = config or SQLSessionConfig()
    return Litestar(
        [remember, recall, forget, *handlers],
        stores={"sessions": store, **options.pop("stores", {})},
        middleware=[sessions.middleware],
        **options,
    )


@post("/", status_code=200)
async def remember(request: AnyRequest) -> None:
    """Put what was sent into the session."""
    request.session.update(await request.json())


@get("/")
async def recall(request: AnyRequest) -> dict[str, Any]:
    """Return what is in the session."""
    return dict(request.session)


@get("/forget")
async def forget(request: AnyRequest) -> None:
    """End the session."""
    request.clear_session()


# Ids


@pytest.mark.parametrize("hash_ids", [True, False, "migrate"])
@pytest.mark.parametrize("planted", ["x" * 300, "sha256:" + "0" * 64, "%C3%A9", "a%20b", '"quoted"', "%00"])
async def test_any_cookie_is_answered(store: AnyStore, hash_ids: Any, planted: str) -> None:  # noqa: ANN401
    """Also one whose id is stored under the same key with and without ``hash_ids``; and it does not stay."""
    app = application(store, config=SQLSessionConfig(hash_ids=hash_ids))
    async with running(app) as client:
        for _ in range(2):
            async with asyncio.timeout(20):
                assert (await client.get("/", headers={"Cookie": f"session={planted}"})).json() == {}
        answers = await asyncio.gather(*(client.get("/", headers={"Cookie": f"session={planted}"}) for _ in range(5)))
        assert {answer.status_code for answer in answers} == {200}
        answer = await client.post("/", json={"a": 1}, headers={"Cookie": f"session={planted}"})
        assert planted not in answer.headers["set-cookie"]


async def test_long_ids_are_found_without_hashes(store: AnyStore) -> None:
    """An id of more bytes than a plain key has is stored as a digest in any case."""
    app = application(store, config=SQLSessionConfig(hash_ids=False, session_id_bytes=150))
    async with running(app) as client:
        await client.post("/", json={"a": 1})
        assert (await client.get("/")).json() == {"a": 1}
        await client.post("/", json={"a": 2})
        assert (await client.get("/")).json() == {"a": 2}
        await client.get("/forget")
        assert (await client.get("/")).json() == {}


def test_a_key_that_no_cookie_can_have_is_refused() -> None:
    """At once, instead of at the first login."""
    for key in ("my session", "sitzung-\N{LATIN SMALL LETTER A WITH DIAERESIS}", "a;b", "a=b"):
        with pytest.raises(ImproperlyConfiguredException, match="key"):
            SQLSessionConfig(key=key)


async def test_what_lists_sessions_can_be_answered_as_it_is(store: AnyStore) -> None:
    """As JSON it has no secret: with ``hash_ids=False`` the stored key is one."""
    config = SQLSessionConfig(hash_ids=False)

    @get("/login")
    async def login(request: AnyRequest) -> None:
        set_principal(request, 1)

    @get("/devices")
    async def devices(request: AnyRequest) -> Any:  # noqa: ANN401
        return await config.sessions_of(request.app).list_sessions(1)

    async with running(application(store, login, devices, config=config)) as client:
        await client.get("/login")
        [device] = (await client.get("/devices")).json()
        assert client.cookies["session"] not in device.values()
        [device] = await config.sessions_of(application(store, config=config)).list_sessions(1)
        assert client.cookies["session"] not in repr(device)
        await config.sessions_of(application(store, config=config)).revoke(device)
        assert await config.sessions_of(application(store, config=config)).list_sessions(1) == []


# Logging out


async def test_a_logout_that_overlaps_a_rotation_logs_out(store: AnyStore) -> None:
    """What the browser has after both is nobody's: a new id for a session that is to end ends, too."""
    loaded, rotated = asyncio.Event(), asyncio.Event()

    @get("/login")
    async def login(request: AnyRequest) -> None:
        request.session["user"] = 1
        set_principal(request, 1)

    @get("/rotate")
    async def rotate(request: AnyRequest) -> None:
        rotate_session_id(request)

    @get("/logout")
    async def logout(request: AnyRequest) -> None:
        loaded.set()
        await rotated.wait()
        request.clear_session()

    async with running(application(store, login, rotate, logout)) as client:
        await client.get("/login")
        leaving = asyncio.create_task(client.get("/logout"))
        await loaded.wait()
        moved = await client.get("/rotate", headers={"Cookie": f"session={client.cookies['session']}"})
        rotated.set()
        await leaving

        newest = moved.cookies["session"]
        assert (await client.get("/", headers={"Cookie": f"session={newest}"})).json() == {}


@pytest.mark.parametrize("by", ["request", "id"])
async def test_a_logout_that_overlaps_a_move_to_the_hash_logs_out(
    store: AnyStore, monkeypatch: pytest.MonkeyPatch, by: str
) -> None:
    """Another request may use the session between any two statements."""
    before, config = SQLSessionBackend(SQLSessionConfig(hash_ids=False)), SQLSessionConfig(hash_ids="migrate")
    key = "a" * 64
    cookie = {"Cookie": f"session={key}"}
    await before.set(key, b'{"cart":1}', store)
    async with running(application(store, config=config)) as client:
        delete, moved = SessionRows.delete, asyncio.Event()

        async def delete_before_a_move(rows: SessionRows, key: str, via: UnitOfWork | None = None) -> bool:
            deleted = await delete(rows, key, via)
            if not moved.is_set():
                moved.set()
                await client.get("/", headers=cookie)
            return deleted

        monkeypatch.setattr(SessionRows, "delete", delete_before_a_move)
        if by == "request":
            await client.get("/forget", headers=cookie)
        else:
            await SQLSessionBackend(config).delete(key, store)

        assert moved.is_set()
        assert (await client.get("/", headers=cookie)).json() == {}


async def _whoever(session: dict[str, Any], _: Any) -> str | None:  # noqa: ANN401
    return session.get("user")


def authenticated(store: AnyStore, *handlers: Any, **options: Any) -> Litestar:  # noqa: ANN401
    """Return an application under ``SessionAuth``, whose sessions have no principals."""

    @get("/login")
    async def login(request: AnyRequest) -> None:
        request.session["user"] = "Ada"

    @get("/cart")
    async def cart(request: AnyRequest) -> None:
        request.session["cart"] = 1

    @get("/logout")
    async def logout(request: AnyRequest) -> None:
        request.clear_session()

    auth: SessionAuth[Any, Any] = SessionAuth(
        retrieve_user_handler=_whoever,
        session_backend_config=SQLSessionConfig(),
        exclude=["^/login", "^/logout", "^/cart", "^/open", "^/schema"],
    )
    return Litestar(
        [recall, login, logout, cart, *handlers], stores={"sessions": store}, on_app_init=[auth.on_app_init], **options
    )


async def test_a_logout_that_needs_no_login_logs_out(store: AnyStore) -> None:
    """A route that ``SessionAuth`` leaves alone may clear a session whose principal nobody has set."""
    async with running(authenticated(store)) as client:
        await client.get("/login")
        key = client.cookies["session"]
        assert (await client.get("/")).status_code == 200
        await client.get("/logout")

        assert (await client.get("/", headers={"Cookie": f"session={key}"})).status_code == 401
        assert not await store.exists(digest_key(key))


async def test_a_session_in_two_middlewares_is_one(store: AnyStore, sql: SQL) -> None:
    """``SessionAuth`` brings its own, and whoever has listed it besides gets no second row at a login."""
    config = SQLSessionConfig()
    auth: SessionAuth[Any, Any] = SessionAuth(
        retrieve_user_handler=_whoever, session_backend_config=config, exclude=["^/write"]
    )

    @get("/write")
    async def write(request: AnyRequest) -> None:
        request.session["user"] = "Ada"

    app = Litestar(
        [recall, write], stores={"sessions": store}, on_app_init=[auth.on_app_init], middleware=[config.middleware]
    )
    async with running(app) as client:
        assert len((await client.get("/write")).headers.get_list("set-cookie")) == 1
        assert (await client.get("/")).json() == {"user": "Ada"}

    assert await rows(store, sql) == 1


async def test_a_refused_request_leaves_an_anonymous_session(store: AnyStore) -> None:
    """Whether it is one for a page or for a socket."""

    @get("/open")
    async def look(request: AnyRequest) -> dict[str, Any]:
        return dict(request.session)

    @websocket("/socket")
    async def talk(socket: WebSocket[Any, Any, Any]) -> None:
        await socket.accept()
        await socket.close()

    app = authenticated(store, look, talk)
    with TestClient(app) as client:
        client.get("/cart")
        assert client.get("/").status_code == 401
        assert client.get("/open").json() == {"cart": 1}
        with pytest.raises(WebSocketDisconnect), client.websocket_connect("/socket"):
            pass
        assert client.get("/open").json() == {"cart": 1}


async def test_a_logout_while_the_store_is_away_is_not_one(store: AnyStore) -> None:
    """Without a session the request goes on, but says nothing that is not true; nor is anything saved or cleared."""
    config = SQLSessionConfig(on_store_error="anonymous")
    async with running(application(store, config=config)) as client:
        await client.post("/", json={"a": 1})
        await store.drop_table()
        try:
            assert (await client.get("/")).json() == {}
            answer = await client.get("/forget")
            assert answer.status_code >= 500
            assert "set-cookie" not in answer.headers
        finally:
            await store.create_table()
        answer = await client.get("/forget")
        assert answer.status_code == 200


@pytest.mark.parametrize("by_hand", [False, True])
async def test_a_logout_is_one_again_when_the_store_is_back(store: AnyStore, *, by_hand: bool) -> None:
    """What could not be read when the request began is deleted at its end."""
    config = SQLSessionConfig(on_store_error="anonymous")
    away, back = asyncio.Event(), asyncio.Event()

    @get("/logout")
    async def logout(request: AnyRequest) -> None:
        away.set()
        await back.wait()
        request.clear_session()
        if by_hand:
            await save_session(request)

    async with running(application(store, logout, config=config)) as client:
        await store.drop_table()
        key = "a" * 64
        leaving = asyncio.create_task(client.get("/logout", headers={"Cookie": f"session={key}"}))
        await away.wait()
        await store.create_table()
        await config.rows_in(store).add(digest_key(key), b"{}", None)
        back.set()

        assert "Max-Age=0" in (await leaving).headers["set-cookie"]
        assert not await config.rows_in(store).load(digest_key(key))


async def test_a_new_session_gets_one_id(store: AnyStore) -> None:
    """There is nothing to rotate in one that has just begun."""

    @get("/begin")
    async def begin(request: AnyRequest) -> str:
        request.session["a"] = 1
        rotate_session_id(request)
        await save_session(request)
        return request.get_session_id() or ""

    async with running(application(store, begin)) as client:
        answer = await client.get("/begin")
        assert answer.text == answer.cookies["session"]


# Response cache


async def test_a_cached_response_hands_nobody_the_session_of_another(store: AnyStore) -> None:
    """The cookie of who came first is not in what Litestar's response cache keeps."""

    @get("/page", cache=60)
    async def page(request: AnyRequest) -> str:
        request.session["seen"] = 1
        return "page"

    app = application(
        store,
        page,
        stores={"response_cache": store.with_namespace("cache")},
        response_cache_config=ResponseCacheConfig(default_expiration=60),
    )
    async with running(app) as first:
        assert "set-cookie" in (await first.get("/page")).headers
        first.cookies.clear()
        other = await first.get("/page")

        assert other.text == "page"
        assert "set-cookie" not in other.headers


@pytest.mark.adapters("asyncpg", "sqlite")
async def test_a_cached_response_has_no_cookie_of_a_transaction(site: Site) -> None:
    """Nor is it there when the session was saved in the request's transaction."""
    config = site.config(create_table="auto")

    async def page(call: Call) -> str:
        await call.db.execute(site.tables.insert, (call.id,))
        call.request.session["seen"] = 1
        return "page"

    route = site.route("/page", page)

    @get("/cached", cache=60)
    async def cached(request: AnyRequest) -> str:
        request.session["seen"] = 1
        return "page"

    app = Litestar(
        [route, cached],
        plugins=[SQLStorePlugin(config)],
        middleware=[SQLSessionConfig(same_transaction=True).middleware],
    )
    async with running(app) as client:
        assert "set-cookie" in (await client.post("/page", params={"id": 1})).headers
        client.cookies.clear()
        assert "set-cookie" in (await client.get("/cached")).headers
        client.cookies.clear()
        assert "set-cookie" not in (await client.get("/cached")).headers


# In the request's transaction


@pytest.mark.adapters("asyncpg", "aiosqlite")  # a handler in a thread cannot await save_session
async def test_what_save_session_stored_keeps_its_cookie_when_the_transaction_is_undone(site: Site) -> None:
    """A session that has begun, or has got a new id, by itself: its browser knows."""
    config = site.config(create_table="auto")
    sessions = SQLSessionConfig(same_transaction=True)

    async def fail(call: Call) -> Response[None]:
        call.request.session["failures"] = call.request.session.get("failures", 0) + 1
        rotate_session_id(call.request)
        await call.elsewhere(asyncio.sleep(0))
        await save_session(call.request)
        await call.db.execute(site.tables.insert, (call.id,))
        return Response(None, status_code=401)

    app = Litestar(
        [recall, site.route("/fail", fail)], plugins=[SQLStorePlugin(config)], middleware=[sessions.middleware]
    )
    async with running(app) as client:
        for number in range(3):
            assert (await client.post("/fail", params={"id": number})).status_code == 401
            assert (await client.get("/")).json() == {"failures": number + 1}
        assert await site.ids() == []


@pytest.mark.adapters("asyncpg", "aiosqlite")
async def test_save_session_keeps_its_promise_or_is_refused(site: Site) -> None:
    """It outlives the request's transaction; where that has written and is the one writer, nothing could."""
    config = site.config(create_table="auto")

    async def write_and_save(call: Call) -> Response[None]:
        await call.db.execute(site.tables.insert, (call.id,))
        call.request.session["saved"] = 1
        await save_session(call.request)
        return Response(None, status_code=401)

    app = Litestar(
        [recall, site.route("/write", write_and_save)],
        plugins=[SQLStorePlugin(config)],
        middleware=[SQLSessionConfig().middleware],
    )
    alone = config.dialect.one_writer
    async with running(app) as client:
        assert (await client.post("/write", params={"id": 1})).status_code == (503 if alone else 401)
        assert (await client.get("/")).json() == ({} if alone else {"saved": 1})
        assert await site.ids() == []


@pytest.mark.adapters("asyncpg", "psycopg")
async def test_a_new_id_reaches_its_browser_although_the_transaction_is_not_committed(site: Site) -> None:
    """It was stored before COMMIT, and the old one is dead: whoever had it would have lost all."""
    config = site.config(create_table="auto")

    async def fail(call: Call) -> None:
        rotate_session_id(call.request)
        await call.db.execute(f"INSERT INTO {site.tables.promise} (item) VALUES (-1)")  # noqa: S608

    app = Litestar(
        [remember, recall, site.route("/fail", fail)],
        plugins=[SQLStorePlugin(config)],
        middleware=[SQLSessionConfig().middleware],
    )
    async with running(app) as client:
        await client.post("/", json={"cart": 1})
        assert (await client.post("/fail")).status_code == 500
        assert (await client.get("/")).json() == {"cart": 1}


@pytest.mark.adapters("asyncpg", "sqlite", "aiosqlite")
async def test_sessions_are_revoked_after_the_request_has_written(site: Site) -> None:
    """The most common reason to end the other sessions is a new password, which has just been stored."""
    config = site.config(create_table="auto")
    sessions = SQLSessionConfig()

    @post("/login")
    async def login(request: AnyRequest) -> None:
        set_principal(request, 1)

    @post("/revoke")
    async def revoke(request: AnyRequest, db_connection: NamedDependency[Any]) -> int:
        await site.by_driver(db_connection, f"INSERT INTO {site.tables.item} (id) VALUES (1)")  # noqa: S608
        return await sessions.sessions_of(request.app).revoke_others(request)

    app = Litestar([login, revoke], plugins=[SQLStorePlugin(config)], middleware=[sessions.middleware])
    async with running(app) as client:
        for _ in range(3):
            client.cookies.clear()
            await client.post("/login")
        answer = await client.post("/revoke")

        assert (answer.status_code, answer.text) == (201, "2")
        assert await site.ids() == [1]


async def test_a_new_id_reaches_its_browser_without_the_plugin_too(store: AnyStore) -> None:
    """Also if what answers is the application's handler of an error that came after it."""
    config = SQLSessionConfig(on_conflict="raise")

    @get("/move")
    async def move(request: AnyRequest) -> None:
        rotate_session_id(request)
        await save_session(request)
        await SQLSessionBackend(config).set(request.get_session_id() or "", b'{"a":2}', store)
        request.session["a"] = 3

    async with running(application(store, move, config=config)) as client:
        await client.post("/", json={"a": 1})
        assert (await client.get("/move")).status_code == 409
        assert (await client.get("/")).json() == {"a": 2}


# Mounted applications


async def test_a_mounted_application_shares_the_session(site: Site) -> None:
    """It has stores of its own, and the session's is that of the outer one."""
    config = site.config(create_table="auto")

    @get("/")
    async def inner(request: AnyRequest) -> str:
        request.session["inner"] = 1
        return "inner"

    mounted = Litestar([inner])

    @asgi("/mounted", is_mount=True, copy_scope=False)
    async def mount(scope: Scope, receive: Receive, send: Send) -> None:
        await mounted(scope, receive, send)

    app = Litestar([recall, mount], plugins=[SQLStorePlugin(config)], middleware=[SQLSessionConfig().middleware])
    async with running(app) as client:
        answer = await client.get("/mounted")
        assert (answer.status_code, answer.text) == (200, "inner")
        assert (await client.get("/")).json() == {"inner": 1}


# What a session is made of


class Basket(msgspec.Struct):
    """A session of a type of its own."""

    things: list[str]
    owner: str | None = None


@dataclass
class Drawer:
    """Another."""

    things: list[str]


@pytest.mark.parametrize("record_client", [False, True])
@pytest.mark.parametrize("kind", [Basket, Drawer])
async def test_a_session_may_be_an_object(store: AnyStore, kind: Any, *, record_client: bool) -> None:  # noqa: ANN401
    """What ``set_session`` takes is stored, at a login, too."""
    config = SQLSessionConfig(record_client=record_client)

    @get("/set")
    async def begin(request: AnyRequest) -> None:
        request.scope["session"] = kind(things=["a"])  # as set_session does
        set_principal(request, 1)

    async with running(application(store, begin, config=config)) as client:
        assert (await client.get("/set")).status_code == 200
        assert (await client.get("/")).json()["things"] == ["a"]
        [session] = await config.sessions_of(application(store, config=config)).list_sessions(1)
        assert (session.user_agent is not None) is record_client


async def test_the_data_of_an_object_say_whose_it_is(store: AnyStore) -> None:
    """As they do in the next request, which reads them as a dictionary."""
    config = SQLSessionConfig(principal=lambda session: session.get("owner"))

    @get("/set")
    async def begin(request: AnyRequest) -> None:
        request.scope["session"] = Basket(["a"], owner="Ada")

    app = application(store, begin, config=config)
    async with running(app) as client:
        assert (await client.get("/set")).status_code == 200
        assert len(await config.sessions_of(app).list_sessions("Ada")) == 1


async def test_an_object_loses_nothing_that_others_have_changed(
    store: AnyStore, caplog: pytest.LogCaptureFixture
) -> None:
    """It is merged with the session when it is saved, and again when the response begins."""
    saved, changed = asyncio.Event(), asyncio.Event()

    @get("/set")
    async def begin(request: AnyRequest) -> None:
        request.scope["session"] = Basket(["a"])
        saved.set()
        await changed.wait()
        await save_session(request)

    async with running(application(store, begin, logging_config=None)) as client:
        await client.post("/", json={"things": []})
        setting = asyncio.create_task(client.get("/set"))
        await saved.wait()
        await client.post("/", json={"other": 1})
        changed.set()
        await setting

        assert (await client.get("/")).json() == {"things": ["a"], "owner": None, "other": 1}
        assert not [record for record in caplog.records if record.name == "sqlstore"]


@pytest.mark.parametrize("login", [False, True])
async def test_what_is_lost_is_told_each_time(
    store: AnyStore, caplog: pytest.LogCaptureFixture, *, login: bool
) -> None:
    """And a login after that has nothing of the session that has ended."""
    loaded, ended = asyncio.Event(), asyncio.Event()

    @get("/change")
    async def change(request: AnyRequest) -> None:
        loaded.set()
        await ended.wait()
        request.session["first"] = 1
        await save_session(request)
        await save_session(request)
        request.session["second"] = 1
        if login:
            set_principal(request, 1)

    async with running(application(store, change, logging_config=None)) as client:
        await client.post("/", json={"secret": 1})
        key = client.cookies["session"]
        changing = asyncio.create_task(client.get("/change"))
        await loaded.wait()
        await client.get("/forget", headers={"Cookie": f"session={key}"})
        ended.set()
        await changing

        lost = [record.args for record in caplog.records if record.name == "sqlstore"]
        assert lost == [(["first"],), (["first", "second"],)][: 1 if login else 2]
        assert (await client.get("/")).json() == ({"first": 1, "second": 1} if login else {})


@pytest.mark.parametrize("by", ["data", "hand"])
async def test_who_had_a_session_that_has_ended_does_not_get_it_back(store: AnyStore, by: str) -> None:
    """However often the request saves it: that it is theirs, as before, is no login."""
    config = SQLSessionConfig(principal=(lambda session: session.get("user")) if by == "data" else None)
    loaded, ended = asyncio.Event(), asyncio.Event()

    @get("/login")
    async def login(request: AnyRequest) -> None:
        request.session["user"] = "Ada"
        if by == "hand":
            set_principal(request, "Ada")

    @get("/change")
    async def change(request: AnyRequest) -> None:
        loaded.set()
        await ended.wait()
        if by == "hand":
            set_principal(request, "Ada")
        for page in range(3):
            request.session["page"] = page
            await save_session(request)

    app = application(store, login, change, config=config)
    async with running(app) as client:
        await client.get("/login")
        changing = asyncio.create_task(client.get("/change"))
        await loaded.wait()
        assert await config.sessions_of(app).revoke_all("Ada") == 1
        ended.set()

        assert "set-cookie" not in (await changing).headers
        assert await config.sessions_of(app).list_sessions("Ada") == []


async def test_what_comes_after_clear_session_is_another_session(store: AnyStore) -> None:
    """With an id of its own, and it is nobody's until somebody says so."""
    config = SQLSessionConfig()

    @get("/login")
    async def login(request: AnyRequest) -> None:
        request.session["user"] = 1
        set_principal(request, 1)

    @get("/other")
    async def other(request: AnyRequest) -> None:
        request.clear_session()
        request.scope["session"] = {"user": 2}

    async with running(application(store, login, other, config=config)) as client:
        await client.get("/login")
        key = client.cookies["session"]
        await client.get("/other")
        assert client.cookies["session"] != key
        assert (await client.get("/")).json() == {"user": 2}
        assert await config.sessions_of(application(store, config=config)).list_sessions(1) == []
        assert not await store.exists(digest_key(key))


async def test_a_login_after_the_end_of_a_session_has_nothing_of_it(store: AnyStore) -> None:
    """Neither what is saved at once, nor what is saved when the response begins."""
    loaded, ended = asyncio.Event(), asyncio.Event()

    @get("/login")
    async def login(request: AnyRequest) -> None:
        loaded.set()
        await ended.wait()
        request.session["mine"] = 1
        set_principal(request, 1)
        await save_session(request)
        assert request.session == {"mine": 1}
        request.session["more"] = 1

    async with running(application(store, login)) as client:
        await client.post("/", json={"secret": 1})
        key = client.cookies["session"]
        entering = asyncio.create_task(client.get("/login"))
        await loaded.wait()
        await client.get("/forget", headers={"Cookie": f"session={key}"})
        ended.set()
        new = (await entering).cookies["session"]

        assert new != key
        assert (await client.get("/", headers={"Cookie": f"session={new}"})).json() == {"mine": 1, "more": 1}


@pytest.mark.parametrize("broken", [b"\xff\xfe", b"{", b"[1]", b"1", b"null", b""])
async def test_a_row_that_is_no_session_is_none(store: AnyStore, broken: bytes) -> None:
    """Whoever has its cookie gets a page, and a session of a new id when there is something to keep."""
    async with running(application(store)) as client:
        cookie = {"Cookie": "session=broken"}
        assert await SQLSessionConfig().rows_in(store).add(digest_key("broken"), broken, None)
        assert (await client.get("/", headers=cookie)).json() == {}
        answer = await client.post("/", json={"a": 1}, headers=cookie)
        assert answer.status_code == 200
        client.cookies.clear()
        new = {"Cookie": f"session={answer.cookies['session']}"}
        assert (await client.get("/", headers=new)).json() == {"a": 1}


async def test_a_session_that_cannot_be_stored_is_a_complete_answer(store: AnyStore) -> None:
    """Whatever is in it, also when it gets there only after the response."""

    @get("/unknown")
    async def unknown(request: AnyRequest) -> None:
        request.session["a"] = object()

    @get("/surrogate")
    async def surrogate(request: AnyRequest) -> None:
        request.session["a"] = "\ud800"

    @get("/later")
    async def later(request: AnyRequest) -> Response[str]:
        return Response("well", background=BackgroundTask(request.session.update, {"a": object()}))

    async with running(application(store, unknown, surrogate, later)) as client:
        for path in ("/unknown", "/surrogate"):
            answer = await client.get(path)
            assert answer.status_code == 500
            assert answer.json()["status_code"] == 500
            assert "set-cookie" not in answer.headers
    app = application(store, later)
    with TestClient(app, raise_server_exceptions=True) as served:
        assert served.get("/later").text == "well"


async def test_the_others_end_where_the_data_say_whose_it_is(store: AnyStore) -> None:
    """Also in the request that logs in, and in the first one after ``principal=`` was introduced."""
    config = SQLSessionConfig(principal=lambda session: session.get("user"))

    @get("/revoke")
    async def revoke(request: AnyRequest) -> int:
        request.session["user"] = 1
        return await config.sessions_of(request.app).revoke_others(request)

    old, new = application(store), application(store, revoke, config=config)
    async with running(new) as client:
        await client.post("/", json={"user": 1})
        client.cookies.clear()
        assert (await client.get("/revoke")).text == "1"
    async with running(old) as client:
        await client.post("/", json={"user": 1})
        cookies = dict(client.cookies)
    async with running(new) as client:
        client.cookies.update(cookies)
        assert (await client.get("/revoke")).text == "1"


# The process


async def test_a_request_leaves_nothing_to_collect(store: AnyStore) -> None:
    """Its session is gone with it."""
    async with running(application(store)) as client:
        await client.post("/", json={"a": 1})
        await client.get("/")
        gc.collect()
        gc.disable()
        try:
            for _ in range(20):
                await client.get("/")
            left = sum(isinstance(each, RequestSession) for each in gc.get_objects())
        finally:
            gc.enable()
        assert left <= 1


async def test_sessions_of_other_lifetimes_share_no_statement(store: AnyStore) -> None:
    """Two configs over one store whose ``max_age`` is the same, and ``absolute_timeout`` is not."""
    short = SQLSessionConfig(max_age=1000, touch_after=0, absolute_timeout=50).rows_in(store)
    long = SQLSessionConfig(max_age=1000, touch_after=0).rows_in(store)
    keys = [f"key{number}" for number in range(20)]
    await asyncio.gather(*(long.add(key, b"{}", None) for key in keys))
    for _ in range(5):
        await asyncio.gather(*((short if number % 2 else long).touch(key) for number, key in enumerate(keys)))
        found = await long.load(*keys)
        left = [(found[key].expires_at or 0.0) - found[key].now for key in keys]
        assert [seconds < 100 for seconds in left] == [bool(number % 2) for number in range(20)]


# Many at once, in their transactions

EVERYWHERE = pytest.mark.adapters(
    "asyncpg", "psycopg", "asyncmy_mariadb", "asyncmy_mysql", "oracle", "oracle_sync", "aiosqlite", "sqlite"
)


@EVERYWHERE
async def test_many_sessions_get_new_ids_in_their_transactions(site: Site) -> None:
    """Nobody is in the way of another, and nobody is lost: each has its own row."""
    config = site.config(create_table="auto", size=8)

    async def move(call: Call) -> None:
        await call.db.execute(site.tables.insert, (call.id,))
        call.request.session["moves"] = call.request.session.get("moves", 0) + 1
        rotate_session_id(call.request)

    app = Litestar(
        [recall, site.route("/move", move)],
        plugins=[SQLStorePlugin(config)],
        middleware=[SQLSessionConfig(same_transaction=True).middleware],
    )
    async with running(app) as client:

        async def browse(browser: int) -> list[int]:
            cookies: dict[str, str] = {}
            statuses: list[int] = []
            for number in range(10):
                headers = {"Cookie": f"session={cookies['session']}"} if cookies else {}
                answer = await client.post("/move", params={"id": browser * 100 + number}, headers=headers)
                statuses.append(answer.status_code)
                cookies.update(answer.cookies)
                client.cookies.clear()
            answer = await client.get("/", headers={"Cookie": f"session={cookies['session']}"})
            return [*statuses, answer.json().get("moves")]

        answers = await asyncio.gather(*map(browse, range(8)))
        assert answers == [[201] * 10 + [10]] * 8


@EVERYWHERE
async def test_one_session_is_changed_by_many_transactions(site: Site) -> None:
    """Each has its own key, and each is there in the end."""
    config = site.config(create_table="auto", size=8)

    async def note(call: Call) -> None:
        await call.db.execute(site.tables.insert, (call.id,))
        call.request.session[f"key{call.id}"] = call.id

    app = Litestar(
        [remember, recall, site.route("/note", note)],
        plugins=[SQLStorePlugin(config)],
        middleware=[SQLSessionConfig(same_transaction=True).middleware],
    )
    async with running(app) as client:
        await client.post("/", json={"a": 1})
        for first in range(0, 40, 8):
            answers = await asyncio.gather(
                *(client.post("/note", params={"id": number}) for number in range(first, first + 8))
            )
            assert [answer.status_code for answer in answers] == [201] * 8
        assert (await client.get("/")).json() == {"a": 1, **{f"key{number}": number for number in range(40)}}


async def test_litestars_own_middleware_does_not_mind(site: Site) -> None:
    """Compression holds the start of a response back, CSRF adds a cookie of its own, HEAD has no body."""
    config = site.config(create_table="auto")

    async def write(call: Call) -> str:
        await call.db.execute(site.tables.insert, (call.id,))
        call.request.session["written"] = call.id
        return "x" * 5000

    @head("/")
    async def look(request: AnyRequest) -> None:
        request.session["looked"] = 1

    app = Litestar(
        [recall, look, site.route("/write", write)],
        plugins=[SQLStorePlugin(config)],
        middleware=[SQLSessionConfig(same_transaction=True).middleware],
        compression_config=CompressionConfig("gzip"),
        csrf_config=CSRFConfig("secret"),
    )
    for _ in range(2):  # an application may be started again
        async with running(app) as client:
            await client.get("/")
            token = {"x-csrftoken": client.cookies["csrftoken"]}
            number = len(await site.ids())
            answer = await client.post("/write", params={"id": number}, headers=token)
            assert (answer.status_code, answer.text, answer.headers["content-encoding"]) == (201, "x" * 5000, "gzip")
            assert [cookie.split("=")[0] for cookie in answer.headers.get_list("set-cookie")] == ["session"]
            assert (await client.head("/")).status_code == 200
            assert (await client.get("/")).json() == {"written": number, "looked": 1}
