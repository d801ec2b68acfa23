"""The sessions' backend and config: by id, hashed or not, in tests and under SessionAuth, and refused at the start."""

import asyncio
import logging
import math
from collections.abc import Awaitable, Callable, Iterator
from datetime import timedelta
from itertools import product
from typing import Any, Literal

import httpx
import pytest
from litestar import Litestar, Request, Router, delete, get, put, websocket
from litestar.connection import ASGIConnection, WebSocket
from litestar.exceptions import ImproperlyConfiguredException
from litestar.middleware import ASGIMiddleware, DefineMiddleware
from litestar.middleware.rate_limit import RateLimitConfig
from litestar.middleware.session.server_side import ServerSideSessionBackend, ServerSideSessionConfig
from litestar.security.session_auth import SessionAuth
from litestar.stores.memory import MemoryStore
from litestar.testing import AsyncTestClient, TestClient
from litestar.testing.client.base import fake_asgi_connection
from litestar.types import ASGIApp, Receive, Scope, Send

from sqlstore import BaseSQLSpecStore
from sqlstore.litestar import SQLSessionBackend, SQLSessionConfig, SQLStorePlugin, set_principal
from sqlstore.names import digest_key
from sqlstore.session_rows import SessionRows, StoredSession

from ..conftest import MakeConfig
from ..contract.conftest import SQL

AnyStore = BaseSQLSpecStore[Any]
AnyRequest = Request[Any, Any, Any]
Hashing = bool | Literal["migrate"]
MODES: tuple[Hashing, ...] = (True, False, "migrate")


@put("/")
async def remember(request: AnyRequest) -> None:
    """Put what was sent into the session."""
    request.session.update(await request.json())


@get("/")
async def recall(request: AnyRequest) -> dict[str, Any]:
    """Return what is in the session."""
    return dict(request.session)


@delete("/")
async def forget(request: AnyRequest) -> None:
    """End the session."""
    request.clear_session()


@put("/login", exclude_from_auth=True)
async def login(request: AnyRequest) -> None:
    """Begin somebody's session."""
    request.session["name"] = name = (await request.json())["name"]
    set_principal(request, name)


def application(store: Any, config: SQLSessionConfig, **options: Any) -> Litestar:  # noqa: ANN401
    """Return an application whose sessions are in *store*."""
    options = {"stores": {"sessions": store}, "middleware": [config.middleware], **options}
    return Litestar([remember, recall, forget, login], **options)


class Browser:
    """One visitor, of one application or another."""

    def __init__(self) -> None:
        """Have no cookie yet."""
        self.id: str | bytes = ""

    async def request(self, app: Any, method: str = "GET", path: str = "/", json: Any = None) -> Any:  # noqa: ANN401
        """Return what a request answers, with the one cookie that there is."""
        name = b"session=" if isinstance(self.id, bytes) else "session="
        headers: Any = {b"Cookie": name + self.id} if self.id else {}  # type: ignore[operator]
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://testserver.local") as client:
            response = await client.request(method, path, json=json, headers=headers)
        assert response.status_code < 300, response.text
        if (cookie := response.cookies.get("session")) is not None:
            self.id = "" if cookie == "null" else cookie
        return response.json() if response.text else None


async def keys(store: AnyStore, sql: SQL) -> list[str]:
    """Return the keys that are in the table."""
    found = await sql(f"SELECT session_id FROM {store.table_name} ORDER BY session_id")  # noqa: S608
    return [key.decode() if isinstance(key, bytes) else key for (key,) in found]


# By id


@pytest.mark.parametrize("hash_ids", MODES)
async def test_a_session_can_be_read_written_and_ended_by_its_id(store: AnyStore, hash_ids: Hashing) -> None:
    """As a console does it; whoever has the id as a cookie meets the same."""
    config = SQLSessionConfig(hash_ids=hash_ids)
    backend, browser = SQLSessionBackend(config), Browser()
    app = application(store, config)
    browser.id = session_id = backend.generate_session_id()
    await backend.delete(session_id, store)
    assert await backend.get(session_id, store) is None

    await backend.set(session_id, b'{"name":"Ada"}', store)
    assert await backend.get(session_id, store) == b'{"name":"Ada"}'
    assert await browser.request(app) == {"name": "Ada"}
    await backend.set(session_id, b'{"name":"Bob"}', store)
    assert await browser.request(app) == {"name": "Bob"}
    await browser.request(app, "PUT", json={"visits": 1})
    assert await backend.get(session_id, store) == b'{"name":"Bob","visits":1}'

    await backend.delete(session_id, store)
    assert await backend.get(session_id, store) is None
    assert await browser.request(app) == {}


async def test_what_is_set_by_id_keeps_whose_it_is(store: AnyStore) -> None:
    """And when it was created."""
    config = SQLSessionConfig()
    backend, browser = SQLSessionBackend(config), Browser()
    await browser.request(application(store, config), "PUT", "/login", json={"name": "Ada"})
    [before] = await config.rows_in(store).of_principal("Ada")
    assert isinstance(browser.id, str)
    await backend.set(browser.id, b"{}", store)

    [after] = await config.rows_in(store).of_principal("Ada")
    assert after.data == b"{}"
    assert (after.key, after.created_at) == (before.key, before.created_at)


async def test_writers_by_id_do_not_disturb_each_other(store: AnyStore) -> None:
    """One comes last."""
    backend = SQLSessionBackend(SQLSessionConfig())
    written = [b'{"number":%d}' % number for number in range(20)]
    await asyncio.gather(*(backend.set("a", data, store) for data in written))

    assert await backend.get("a", store) in written


@pytest.mark.parametrize("renew_on_access", [True, False])
async def test_reading_by_id_moves_the_expiry_as_a_request_does(store: AnyStore, *, renew_on_access: bool) -> None:
    """If it is time, with ``renew_on_access``."""
    key = digest_key("a")
    await SessionRows(store, 500, None).add(key, b"{}", None)
    config = SQLSessionConfig(max_age=1000, renew_on_access=renew_on_access)
    await SQLSessionBackend(config).get("a", store)

    row = (await config.rows_in(store).load(key))[key]
    assert row.expires_at
    assert row.expires_at - row.updated_at == pytest.approx(1000 if renew_on_access else 500, abs=0.002)


@pytest.mark.adapters("asyncpg", "sqlite")
async def test_a_session_that_has_outlived_a_later_absolute_timeout_can_be_set_by_id(store: AnyStore) -> None:
    """It is none any more, although its row says that it lives, and another begins in its place."""
    await SessionRows(store, 1000, None).add(digest_key("a"), b'{"old":1}', None)
    await asyncio.sleep(2.1)
    backend = SQLSessionBackend(SQLSessionConfig(absolute_timeout=2))
    assert await backend.get("a", store) is None
    await backend.set("a", b"{}", store)

    assert await backend.get("a", store) == b"{}"


async def test_all_sessions_are_ended_and_nothing_else(store: AnyStore) -> None:
    """Of the namespace that they are in."""
    config = SQLSessionConfig()
    backend = SQLSessionBackend(config)
    sessions, others = store.with_namespace("sessions"), store.with_namespace("others")
    for place in (sessions, others):
        await backend.set("a", b"{}", place)
    await backend.delete_all(sessions)

    assert await backend.get("a", sessions) is None
    assert await backend.get("a", others) == b"{}"


async def test_rows_of_expired_sessions_are_deleted(store: AnyStore, sql: SQL) -> None:
    """And counted; whatever lives stays."""
    brief, lasting = (SQLSessionBackend(SQLSessionConfig(max_age=max_age)) for max_age in (0.01, 1000))
    for session_id in "abc":
        await brief.set(session_id, b"{}", store)
    await lasting.set("d", b"{}", store)
    await asyncio.sleep(0.1)

    assert await brief.get("a", store) is None
    assert await lasting.delete_expired(store) == 3
    assert await keys(store, sql) == [digest_key("d")]


@pytest.mark.adapters("sqlite")
async def test_a_backend_refuses_a_store_that_is_not_ours(make_config: MakeConfig) -> None:
    """Whatever it is asked; and to end all sessions where nobody knows which those are."""
    backend, memory = SQLSessionBackend(SQLSessionConfig()), MemoryStore()
    calls: tuple[Callable[[], Awaitable[object]], ...] = (
        lambda: backend.get("a", memory),
        lambda: backend.set("a", b"{}", memory),
        lambda: backend.delete("a", memory),
        lambda: backend.delete_all(memory),
        lambda: backend.delete_expired(memory),
    )
    for call in calls:
        with pytest.raises(ImproperlyConfiguredException, match="the sessions' store 'sessions' is a MemoryStore"):
            await call()
    config: Any = make_config()
    root = type(config.new_store())(config, namespace=None)
    with pytest.raises(ImproperlyConfiguredException, match="namespace"):
        await backend.delete_all(root)


# Litestar's test client


@pytest.mark.parametrize("hash_ids", MODES)
def test_a_test_can_put_data_into_a_session_and_look_at_it(
    store: AnyStore, hash_ids: Hashing, caplog: pytest.LogCaptureFixture
) -> None:
    """Before there is one, when a request has begun it, and when it has ended."""
    config = SQLSessionConfig(hash_ids=hash_ids)
    with TestClient(application(store, config), session_config=config) as client:
        assert client.get_session_data() == {}
        client.set_session_data({})
        assert not client.cookies
        client.set_session_data({"name": "Ada", "cart": {"tea": 1}})
        assert client.get("/").json() == {"name": "Ada", "cart": {"tea": 1}}

        client.put("/", json={"visits": 1})
        assert client.get_session_data() == {"name": "Ada", "cart": {"tea": 1}, "visits": 1}
        client.set_session_data({"cart": {"milk": 1}})
        assert client.get("/").json() == {"cart": {"milk": 1}}
        client.set_session_data({})
        assert client.get("/").json() == client.get_session_data() == {}

        client.set_session_data({"name": "Ada"})
        client.delete("/")
        assert client.get_session_data() == {}
        client.set_session_data({"name": "Bob"})
        assert client.get("/").json() == {"name": "Bob"}
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


@pytest.mark.adapters("asyncpg", "sqlite")
async def test_an_asynchronous_test_can_do_so_too(store: AnyStore) -> None:
    """With an application that has begun a session, and one that has not."""
    config = SQLSessionConfig()
    async with AsyncTestClient(application(store, config), session_config=config) as client:
        await client.put("/", json={"name": "Ada"})
        assert await client.get_session_data() == {"name": "Ada"}
        await client.set_session_data({"name": "Bob"})
        assert (await client.get("/")).json() == {"name": "Bob"}

        client.cookies.clear()
        await client.set_session_data({"name": "Eve"})
        assert (await client.get("/")).json() == {"name": "Eve"}


@pytest.mark.adapters("asyncpg", "sqlite")
def test_data_put_into_somebodys_session_stays_theirs(store: AnyStore) -> None:
    """And the id stays, unless the data say that somebody else has it now."""
    config = SQLSessionConfig()
    with TestClient(application(store, config), session_config=config) as client:
        client.put("/login", json={"name": "Ada"})
        cookie = client.cookies["session"]
        client.set_session_data({"cart": {}})
        assert client.cookies["session"] == cookie
        assert client.get("/").json() == {"cart": {}}
    config = SQLSessionConfig(principal=lambda session: session.get("name"))
    with TestClient(application(store, config), session_config=config, cookies={"session": cookie}) as client:
        client.set_session_data({"name": "Bob"})
        assert client.get("/").json() == {"name": "Bob"}
        assert client.get("/", headers={"Cookie": f"session={cookie}"}).json() == {}


# Hashed ids


@pytest.mark.parametrize("hash_ids", [True, "migrate"])
async def test_a_leaked_table_logs_nobody_in(store: AnyStore, sql: SQL, hash_ids: Hashing) -> None:
    """No key in it, presented as a cookie, finds anything, in any mode."""
    for length in (32, 110, 4500):  # of the last two, the id is longer than what is stored as it is, or than a cookie
        await Browser().request(
            application(store, SQLSessionConfig(hash_ids=hash_ids, session_id_bytes=length)), "PUT", json={"a": 1}
        )
    leaked = await keys(store, sql)
    assert len(leaked) == 3
    thief = Browser()
    for mode, key in product(MODES, leaked):
        for thief.id in (key, key.removeprefix("sha256:"), digest_key(key)):
            assert await thief.request(application(store, SQLSessionConfig(hash_ids=mode))) == {}


async def test_plain_ids_are_no_key_to_who_stores_only_hashes(store: AnyStore) -> None:
    """What an application stored under plain ids before is nobody's to one with ``hash_ids=True``."""
    browser = Browser()
    await browser.request(application(store, SQLSessionConfig(hash_ids=False)), "PUT", json={"name": "Ada"})

    assert await browser.request(application(store, SQLSessionConfig())) == {}


@pytest.mark.parametrize("hash_ids", MODES)
@pytest.mark.parametrize(
    "cookie",
    [
        "null",
        "x",
        "sha256:" + "0" * 64,
        digest_key("x"),
        "x" * 200,
        "x" * 201,
        "x" * 9000,
        b"\xc3\xa9",
        b"\xff\xfe",
        '"quoted"',
        "a=b",
        "%00",
        "' OR 1=1 --",
    ],
    ids=lambda cookie: repr(cookie[:10]),
)
@pytest.mark.adapters("asyncpg", "asyncmy_mariadb", "oracle", "sqlite")
async def test_an_id_that_the_store_does_not_know_is_never_adopted(
    store: AnyStore, sql: SQL, hash_ids: Hashing, cookie: str | bytes
) -> None:
    """Whatever it looks like, it is replaced when a session begins; nothing but that session is stored."""
    config = SQLSessionConfig(hash_ids=hash_ids)
    app, browser = application(store, config), Browser()
    browser.id = cookie
    assert await browser.request(app) == {}
    await browser.request(app, "DELETE")
    assert await keys(store, sql) == []
    await browser.request(app, "PUT", json={"name": "Ada"})

    assert isinstance(browser.id, str)
    assert browser.id != cookie
    assert len(browser.id) == 64
    assert await keys(store, sql) == [config.keys_of(browser.id)[0]]
    assert await browser.request(app) == {"name": "Ada"}


@pytest.mark.parametrize("hash_ids", MODES)
async def test_strange_ids_that_a_console_has_chosen_are_found_by_the_same_cookie_only(
    store: AnyStore, hash_ids: Hashing
) -> None:
    """No two of them share a session."""
    backend = SQLSessionBackend(SQLSessionConfig(hash_ids=hash_ids))
    strange = ["x", digest_key("x"), digest_key(digest_key("x")), "x" * 201, "é", "e\u0301", "X", "x ", "x" * 200]
    for number, session_id in enumerate(strange):
        await backend.set(session_id, b"%d" % number, store)

    for number, session_id in enumerate(strange):
        assert await backend.get(session_id, store) == b"%d" % number
        await backend.set(session_id, b"again %d" % number, store)
    for number, session_id in enumerate(strange):
        assert await backend.get(session_id, store) == b"again %d" % number
        await backend.delete(session_id, store)
        assert await backend.get(session_id, store) is None


async def test_sessions_of_litestars_own_are_taken_over(store: AnyStore, sql: SQL) -> None:
    """From `ServerSideSessionConfig` without hashes, back, and to hashes: the cookie stays the same all the way."""
    browser = Browser()
    litestars: Any = ServerSideSessionConfig()
    await browser.request(application(store, litestars), "PUT", json={"name": "Ada"})
    session_id = browser.id
    plain = application(store, SQLSessionConfig(hash_ids=False))
    assert await browser.request(plain) == {"name": "Ada"}
    await browser.request(plain, "PUT", json={"visits": 1})
    assert await browser.request(application(store, litestars)) == {"name": "Ada", "visits": 1}

    assert await browser.request(application(store, SQLSessionConfig(hash_ids="migrate"))) == {
        "name": "Ada",
        "visits": 1,
    }
    assert browser.id == session_id
    assert await keys(store, sql) == [digest_key(str(session_id))]
    assert await browser.request(application(store, SQLSessionConfig())) == {"name": "Ada", "visits": 1}


@pytest.mark.parametrize(("old", "new"), [(False, "migrate"), ("migrate", True)])
async def test_old_and_new_workers_serve_the_same_sessions(
    store: AnyStore, sql: SQL, old: Hashing, new: Hashing
) -> None:
    """At once, while one mode is left for the next: nobody loses anything, and a logout at either holds for both."""
    apps = [application(store, SQLSessionConfig(hash_ids=mode)) for mode in (old, new)]
    browsers = [Browser() for _ in range(8)]
    for number, browser in enumerate(browsers):
        await browser.request(apps[0 if new == "migrate" else number % 2], "PUT", json={"number": number})
    ids = [browser.id for browser in browsers]
    for turn in range(4):
        await asyncio.gather(
            *(
                browser.request(apps[(number + turn + worker) % 2], "PUT", json={f"key-{turn}-{worker}": turn})
                for number, browser in enumerate(browsers)
                for worker in range(2)
            )
        )

    expected = {f"key-{turn}-{worker}": turn for turn in range(4) for worker in range(2)}
    assert [browser.id for browser in browsers] == ids
    for (number, browser), app in product(enumerate(browsers), apps):
        assert await browser.request(app) == {"number": number, **expected}
    assert await keys(store, sql) == sorted(digest_key(str(session_id)) for session_id in ids)
    for number, browser in enumerate(browsers):
        await browser.request(apps[number % 2], "DELETE")
        for app in apps:
            browser.id = ids[number]
            assert await browser.request(app) == {}
    assert await keys(store, sql) == []


async def test_reading_moves_a_session_to_its_hash_once(store: AnyStore, sql: SQL) -> None:
    """In many requests at once, and in each of them it is found."""
    browser = Browser()
    await browser.request(application(store, SQLSessionConfig(hash_ids=False)), "PUT", json={"name": "Ada"})
    app = application(store, SQLSessionConfig(hash_ids="migrate"))

    answers = await asyncio.gather(*(browser.request(app) for _ in range(20)))
    assert answers == [{"name": "Ada"}] * 20
    assert await keys(store, sql) == [digest_key(str(browser.id))]


@pytest.mark.adapters("asyncpg", "sqlite")
@pytest.mark.parametrize("hash_ids", [False, "migrate"])
async def test_what_others_have_done_already_is_not_done_again(store: AnyStore, hash_ids: Hashing) -> None:
    """Of requests at once that change the same, or move it to its hash, one writes and the others look."""
    session_id = "0" * 64
    await SQLSessionBackend(SQLSessionConfig(hash_ids=False)).set(session_id, b'{"a":1,"b":2}', store)
    config = SQLSessionConfig(hash_ids=hash_ids)
    app = Litestar(stores={"sessions": store})
    connections = [fake_asgi_connection(app, {"session": session_id}) for _ in range(3)]
    sessions = [SQLSessionBackend(config).session_of(connection) for connection in connections]
    for connection, session in zip(connections, sessions, strict=True):
        data = await session.load()
        del data["a"]
        connection.scope["session"] = data
    rows: list[StoredSession] = []
    for session in sessions:
        message: Any = {"type": "http.response.start", "status": 200, "headers": []}
        await session.settle(message)
        rows += (await config.rows_in(store).load(*config.keys_of(session_id))).values()

    assert len(rows) == 3
    assert {(row.version, row.data) for row in rows} == {(rows[0].version, b'{"b":2}')}
    assert [session.stored and session.stored.key for session in sessions] == [row.key for row in rows]


# Settings


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_age": 0}, "max_age must be more than 0 seconds, not 0"),
        ({"max_age": -1}, "max_age must be more than 0 seconds, not -1"),
        ({"max_age": timedelta(0)}, "max_age must be more than 0 seconds"),
        ({"max_age": timedelta(seconds=-1)}, "max_age must be more than 0 seconds"),
        ({"max_age": None}, "max_age must be more than 0 seconds, not None"),
        ({"max_age": math.nan}, "max_age: lifetime is NaN"),
        ({"max_age": math.inf}, "max_age: lifetime of inf is over 100 years"),
        ({"max_age": True}, "max_age: lifetime must be a number of seconds"),
        ({"max_age": "60"}, "max_age: lifetime must be a number of seconds"),
        ({"absolute_timeout": 0}, "absolute_timeout must be more than 0 seconds, not 0"),
        ({"absolute_timeout": -0.5}, "absolute_timeout must be more than 0 seconds"),
        ({"absolute_timeout": math.nan}, "absolute_timeout: lifetime is NaN"),
        ({"touch_after": 1}, "touch_after must be a share of max_age"),
        ({"touch_after": -0.1}, "touch_after must be a share of max_age"),
        ({"touch_after": math.nan}, "touch_after must be a share of max_age"),
        ({"touch_after": "0.1"}, "touch_after must be a share of max_age"),
        ({"touch_after": None}, "touch_after must be a share of max_age"),
        ({"touch_after": True}, "touch_after must be a share of max_age"),
        ({"on_conflict": "first_wins"}, "on_conflict must be one of 'merge', 'last_wins', 'raise'"),
        ({"on_conflict": None}, "on_conflict must be one of"),
        ({"hash_ids": "always"}, "hash_ids must be one of True, False, 'migrate', not 'always'"),
        ({"hash_ids": None}, "hash_ids must be one of"),
        ({"hash_ids": 1}, "hash_ids must be one of"),
        ({"hash_ids": 0}, "hash_ids must be one of"),
        ({"hash_ids": []}, "hash_ids must be one of"),
        ({"too_many_sessions": "forget"}, "too_many_sessions must be one of"),
        ({"on_store_error": "ignore"}, "on_store_error must be one of"),
        ({"max_sessions_per_principal": 0}, "max_sessions_per_principal must be at least 1, or None, not 0"),
        ({"max_sessions_per_principal": 1.5}, "max_sessions_per_principal must be at least 1, or None"),
        ({"max_sessions_per_principal": "3"}, "max_sessions_per_principal must be at least 1, or None"),
        ({"max_sessions_per_principal": True}, "max_sessions_per_principal must be at least 1, or None"),
        ({"session_id_bytes": 16}, "session_id_bytes must be at least 32, not 16"),
        ({"session_id_bytes": None}, "session_id_bytes must be at least 32"),
        ({"key": ""}, "key must be 1 to 256 characters that the name of a cookie may have, not ''"),
        ({"key": "x" * 257}, "key must be 1 to 256 characters that the name of a cookie may have"),
        ({"key": None}, "key must be 1 to 256 characters that the name of a cookie may have"),
    ],
    ids=repr,
)
def test_a_setting_out_of_range_is_refused_when_it_is_made(options: dict[str, Any], message: str) -> None:
    """With what it must be."""
    with pytest.raises(ImproperlyConfiguredException) as raised:
        SQLSessionConfig(**options)
    assert message in raised.value.detail


def test_litestars_own_settings_have_their_names() -> None:
    """And their defaults, but for ``renew_on_access``."""
    ours, litestars = SQLSessionConfig(), ServerSideSessionConfig()
    names = [name for name in vars(litestars) if not name.startswith("_")]
    differ = {name for name in names if getattr(ours, name) != getattr(litestars, name)}

    assert differ == {"renew_on_access"}


# At the start


class Hiding:
    """A middleware that keeps what it wraps under a name of its own."""

    def __init__(self, app: ASGIApp) -> None:
        """Serve *app*."""
        self._hidden = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on."""
        await self._hidden(scope, receive, send)


def factory(app: ASGIApp) -> ASGIApp:
    """Return a middleware that is a function."""

    async def middleware(scope: Scope, receive: Receive, send: Send) -> None:
        await app(scope, receive, send)

    return middleware


class Modern(ASGIMiddleware):
    """A middleware of the newer kind."""

    async def handle(self, scope: Scope, receive: Receive, send: Send, next_app: ASGIApp) -> None:
        """Pass on."""
        await next_app(scope, receive, send)


@websocket("/socket")
async def converse(socket: WebSocket[Any, Any, Any]) -> None:
    """Accept."""
    await socket.accept()
    await socket.close()


@pytest.mark.parametrize("options", [{}, {"stores": {"sessions": MemoryStore()}}, {"stores": {"other": MemoryStore()}}])
def test_an_application_whose_sessions_would_be_elsewhere_is_not_made(options: dict[str, Any]) -> None:
    """Litestar would fall back to a store in memory."""
    with pytest.raises(ImproperlyConfiguredException, match=r"the sessions' store 'sessions' is a MemoryStore: give"):
        Litestar([recall], middleware=[SQLSessionConfig().middleware], **options)


@pytest.mark.parametrize(
    "handler",
    [recall, converse, Router("/router", route_handlers=[recall])],
    ids=["http", "websocket", "router"],
)
@pytest.mark.parametrize(
    "after",
    [[], [factory], [Modern()], [DefineMiddleware(factory)], [RateLimitConfig(("hour", 9)).middleware, Modern()]],
    ids=["nothing", "function", "ASGIMiddleware", "DefineMiddleware", "two"],
)
def test_it_is_not_made_behind_other_middlewares_either(handler: Any, after: list[Any]) -> None:  # noqa: ANN401
    """Of whatever kind, before and after that of the session."""
    for middleware in ([Modern(), factory, *after], after):
        with pytest.raises(ImproperlyConfiguredException, match="store 'sessions' is a MemoryStore"):
            Litestar([handler], middleware=[*middleware, SQLSessionConfig().middleware, *after])


def test_where_another_middleware_hides_the_application_no_request_is_answered() -> None:
    """Unless there is the plugin, which then does not start."""
    app = Litestar([recall], middleware=[SQLSessionConfig().middleware, Hiding])
    with TestClient(app, raise_server_exceptions=False) as client:
        assert client.get("/").status_code == 500


@pytest.mark.parametrize("layer", ["router", "handler"])
def test_a_session_of_one_route_is_checked_too(layer: str) -> None:
    """Where it stands."""
    middleware = [SQLSessionConfig().middleware]

    @get("/", middleware=middleware if layer == "handler" else None)
    async def visit(request: AnyRequest) -> dict[str, Any]:
        return dict(request.session)

    router = Router("/router", route_handlers=[visit], middleware=middleware if layer == "router" else None)
    with pytest.raises(ImproperlyConfiguredException, match="store 'sessions' is a MemoryStore"):
        Litestar([router])


async def find_user(session: dict[str, Any], _: ASGIConnection[Any, Any, Any, Any]) -> str | None:
    """Return who has logged in."""
    return session.get("name")


@get("/who")
async def who(request: AnyRequest) -> str:
    """Return who has logged in."""
    user: str = request.user
    return user


def authenticated(config: SQLSessionConfig, **options: Any) -> Litestar:  # noqa: ANN401
    """Return an application for which one must log in."""
    auth = SessionAuth[str, ServerSideSessionBackend](retrieve_user_handler=find_user, session_backend_config=config)
    return Litestar([login, who, forget], on_app_init=[auth.on_app_init], **options)


@pytest.mark.adapters("asyncpg", "sqlite")
def test_the_plugin_starts_no_application_whose_sessions_would_be_elsewhere(make_config: MakeConfig) -> None:
    """Where another middleware makes that of the session, or hides the application from it."""
    memory = {"sessions": MemoryStore()}
    hidden = Litestar(
        [recall],
        plugins=[SQLStorePlugin(make_config(create_table="auto"))],
        stores=dict(memory),
        middleware=[SQLSessionConfig().middleware, Hiding],
    )
    under_auth = authenticated(
        SQLSessionConfig(), plugins=[SQLStorePlugin(make_config(create_table="auto"))], stores=dict(memory)
    )
    without = authenticated(
        SQLSessionConfig(), plugins=[SQLStorePlugin(make_config(create_table="auto"), stores=False)]
    )
    for app in (hidden, under_auth, without):
        refused = pytest.RaisesExc(ImproperlyConfiguredException, match="store 'sessions' is a MemoryStore")
        with pytest.RaisesGroup(refused), TestClient(app):
            pass  # pragma: no cover


def _with_plugin(make: Callable[..., Litestar], make_config: MakeConfig) -> Iterator[Litestar]:
    for _ in range(2):
        yield make(SQLSessionConfig(), plugins=[SQLStorePlugin(make_config(create_table="auto"))])


def test_session_auth_makes_a_backend_of_its_own(make_config: MakeConfig) -> None:
    """Which shares nothing with the first but the config; a login at one application is known at another."""
    first, second = _with_plugin(authenticated, make_config)
    with TestClient(first) as client:
        assert client.get("/who").status_code == 401
        client.put("/login", json={"name": "Ada"})
        assert client.get("/who").text == "Ada"
        cookies = client.cookies
        key = cookies["session"]
        with TestClient(second, cookies=cookies) as other:
            assert other.get("/who").text == "Ada"
            other.delete("/")
            assert other.get("/who").status_code == 401
        assert client.get("/who", headers={"Cookie": f"session={key}"}).status_code == 401


async def test_one_config_serves_two_applications(store: AnyStore) -> None:
    """Each with a store of its own."""
    config = SQLSessionConfig()
    apps = [application(store.with_namespace(name), config) for name in ("one", "two")]
    browsers = [Browser(), Browser()]
    for _ in range(3):
        await asyncio.gather(
            *(
                browser.request(app, "PUT", json={"number": number})
                for number, (browser, app) in enumerate(zip(browsers, apps, strict=True))
            )
        )
    for number, browser in enumerate(browsers):
        assert await browser.request(apps[number]) == {"number": number}
        assert await browser.request(apps[1 - number]) == {}
