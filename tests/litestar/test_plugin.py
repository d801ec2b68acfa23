"""What an application has by naming the plugin: stores, connections, tables, from its start to its end."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from litestar import Litestar, WebSocket, websocket
from litestar.di import NamedDependency  # noqa: TC002 - Litestar reads a handler's annotations
from litestar.exceptions import ImproperlyConfiguredException, NotAuthorizedException
from litestar.stores.memory import MemoryStore
from litestar.stores.registry import StoreRegistry
from litestar.testing import TestClient

from sqlstore import (
    BaseSQLSpecStore,
    CommitError,
    NotFoundError,
    SQLStoreError,
    TableMissingError,
    UnavailableError,
)
from sqlstore.litestar import DatabaseSession, SQLStorePlugin, SyncDatabaseSession

from ..contract.conftest import until
from ..servers import free_port
from .applications import Awaited, either, running

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from litestar.connection import ASGIConnection
    from litestar.handlers import BaseRouteHandler
    from litestar.types import ASGIApp, Receive, Scope, Send

    from ..conftest import MakeConfig
    from ..servers import Server
    from .applications import AnySession, Call, Site

AnyStore = BaseSQLSpecStore[Any]
NAMES = ("sessions", "response_cache", "rate_limit")


# Stores


@pytest.mark.adapters("aiosqlite")
def test_stores_are_namespaces_of_the_first_config_s_store(make_config: MakeConfig) -> None:
    """Whatever their names, so that nothing falls into a MemoryStore."""
    first = make_config()
    second = make_config(bind_key="second", connection_key="second_connection", session_key="second_session")
    plugin = SQLStorePlugin(first, second)
    stores = Litestar(plugins=[plugin]).stores

    names = (*NAMES, "own")

    assert [getattr(stores.get(name), "namespace", None) for name in names] == [f"LITESTAR/{name}" for name in names]
    assert all(getattr(stores.get(name), "config", None) is first for name in NAMES)
    assert {key: store.config for key, store in plugin.stores.items()} == {"default": first, "second": second}


@pytest.mark.adapters("aiosqlite")
def test_stores_can_be_chosen(make_config: MakeConfig) -> None:
    """A mapping goes before namespaces, what the application has itself goes before both, False is hands off."""
    config = make_config()
    ours, theirs = MemoryStore(), MemoryStore()
    mapped = Litestar(plugins=[SQLStorePlugin(config, stores={"sessions": ours})]).stores
    given = Litestar(plugins=[SQLStorePlugin(config, stores={"sessions": ours})], stores={"sessions": theirs}).stores
    untouched = Litestar(plugins=[SQLStorePlugin(config, stores=False)]).stores

    assert mapped.get("sessions") is ours
    assert isinstance(mapped.get("rate_limit"), BaseSQLSpecStore)
    assert given.get("sessions") is theirs
    assert isinstance(given.get("own"), BaseSQLSpecStore)
    assert isinstance(untouched.get("sessions"), MemoryStore)


@pytest.mark.adapters("aiosqlite")
def test_a_registry_is_kept_and_completed(make_config: MakeConfig) -> None:
    """It is the application's own object still, with its stores and its factory; names that it lacks are added."""
    theirs, made, mapped = MemoryStore(), MemoryStore(), MemoryStore()
    registry = StoreRegistry({"sessions": theirs}, default_factory=lambda _: made)
    app = Litestar(plugins=[SQLStorePlugin(make_config(), stores={"mapped": mapped})], stores=registry)

    assert app.stores is registry
    assert registry.get("sessions") is theirs
    assert registry.get("mapped") is mapped
    assert all(isinstance(registry.get(name), BaseSQLSpecStore) for name in NAMES[1:])
    assert registry.get("other") is made


# Mistakes


@pytest.mark.adapters("aiosqlite", "sqlite")
def test_mistakes_are_found_when_the_application_is_made(site: Site) -> None:
    """Each message names what to change."""

    def app(*configs: Any, opt: Any = None, **options: Any) -> Litestar:  # noqa: ANN401
        return Litestar([site.route("/", site.insert, opt=opt)], plugins=[SQLStorePlugin(*configs)], **options)

    default = site.config()
    keys = {"connection_key": "other_connection", "session_key": "other_session"}
    mistakes: list[tuple[type[Exception], str, Callable[[], object]]] = [
        (ImproperlyConfiguredException, r"needs a config, .*Config\(pool_config=", SQLStorePlugin),
        (
            ImproperlyConfiguredException,
            "same bind_key, default: set others",
            lambda: app(default, site.config(**keys)),
        ),
        (
            ImproperlyConfiguredException,
            "same connection_key or session_key, db_connection, db_session: set others",
            lambda: app(default, site.config(bind_key="other")),
        ),
        (
            ImproperlyConfiguredException,
            "same connection_key or session_key, same: set others",
            lambda: app(site.config(connection_key="same", session_key="same")),
        ),
        (
            ImproperlyConfiguredException,
            "its own dependency 'db_session': choose another connection_key or session_key",
            lambda: app(default, dependencies={"db_session": lambda: None}),
        ),
        (ValueError, "commit_mode must be one of manual, autocommit, ", lambda: site.config(commit_mode="automatic")),
        (ValueError, "create_table must be one of auto, check, off", lambda: site.config(create_table="maybe")),
        (
            ValueError,
            "unknown isolation_level 'chaos': sqlite has SERIALIZABLE",
            lambda: site.config(isolation_level="chaos"),
        ),
        (
            ValueError,
            "either committed or rolled back: 404 are in both",
            lambda: site.config(extra_commit_statuses=[404], extra_rollback_statuses=[404, 405]),
        ),
        (
            TypeError,
            r"unknown option 'commit' in opt\['db_session'\]: use commit_mode",
            lambda: app(default, opt={"db_session": {"commit": "manual"}}),
        ),
        (
            TypeError,
            r"unknown option 'session_table' in opt\['db_session'\]",
            lambda: app(default, opt={"db_session": {"session_table": "other"}}),
        ),
        (
            ValueError,
            "commit_mode must be one of",
            lambda: app(default, opt={"db_session": {"commit_mode": "automatic"}}),
        ),
        (ValueError, "unknown isolation_level", lambda: app(default, opt={"db_session": {"isolation_level": "none"}})),
        (
            ImproperlyConfiguredException,
            "no config has bind_key 'x': there is default",
            lambda: SQLStorePlugin(default).config("x"),
        ),
    ]
    for kind, message, mistake in mistakes:
        with pytest.raises(kind, match=message):
            mistake()


# The stores' table


def _refused(kind: type[Exception], message: str) -> pytest.RaisesGroup[Exception]:
    """Expect that an application does not start."""

    def names_database(error: Exception) -> bool:
        return error.__notes__ == ["The database is that of the config with bind_key 'default'."]

    # Litestar starts in a task group.
    return pytest.RaisesGroup(pytest.RaisesExc(kind, match=message, check=names_database))


async def _start(plugin: SQLStorePlugin) -> None:
    async with Litestar(plugins=[plugin]).lifespan():
        await plugin.stores["default"].set("k", b"v")


async def test_the_table_is_created_checked_or_left_alone(site: Site) -> None:
    """With ``"check"`` a missing table is found at the start, with ``"off"`` on first use."""
    with _refused(TableMissingError, r"create_table\(\)"):
        await _start(SQLStorePlugin(site.config(create_table="check")))
    plugin = SQLStorePlugin(site.config(create_table="off", prune_interval=0))
    async with Litestar(plugins=[plugin]).lifespan():
        with pytest.raises(TableMissingError):
            await plugin.stores["default"].get("k")
    plugin = SQLStorePlugin(site.config())
    await _start(plugin)
    for choice in ("auto", "check", "off"):
        await _start(SQLStorePlugin(site.config(create_table=choice)))
    await plugin.stores["default"].drop_table()


# Start and end


async def test_an_unreachable_server_is_found_at_the_start(server: Server, make_config: MakeConfig) -> None:
    """The message names the setting, and the application does not start."""
    assert server
    plugin = SQLStorePlugin(make_config(port=free_port(), timeout=2))
    async with asyncio.timeout(10):
        with _refused(UnavailableError, "check pool_config, and that (it|the server) is running"):
            await _start(plugin)


@pytest.mark.adapters("aiosqlite", "sqlite")
async def test_a_file_that_cannot_be_opened_is_found_at_the_start(make_config: MakeConfig) -> None:
    """The message names the file and the setting."""
    with _refused(UnavailableError, "cannot open /nonexistent/file: check pool_config"):
        await _start(SQLStorePlugin(make_config(dsn="/nonexistent/file")))


def test_an_application_runs_again_and_again(site: Site, open_connections: Callable[[], Awaitable[int]]) -> None:
    """Under one test client after the other; nothing stays open in between, nor after two runs in one event loop."""
    config = site.config()
    plugin = SQLStorePlugin(config)
    app = Litestar([site.route("/", site.insert)], plugins=[plugin])
    for number in range(3):
        with TestClient(app) as client:
            assert client.post("/", params={"id": number}).status_code == 201
        asyncio.run(until_none(open_connections))

    async def run_twice() -> None:
        for number in (3, 4):
            async with running(app) as client:
                assert (await client.post("/", params={"id": number})).status_code == 201
            await until_none(open_connections)
        await plugin.stores["default"].drop_table()

    asyncio.run(run_twice())

    assert asyncio.run(site.ids()) == [*range(5)]


async def until_none(open_connections: Callable[[], Awaitable[int]]) -> None:
    """Wait until the database has no connections left."""

    async def none() -> bool:
        return not await open_connections()

    await until(none)


# Several databases


async def test_a_request_may_use_two_databases(site: Site, fresh_database: str) -> None:
    """Each has its names, and its transaction; they end in the configs' order, and a failed COMMIT undoes the next."""
    keys = {"bind_key": "other", "connection_key": "other_connection", "session_key": "other_session"}
    table = f"CREATE TABLE {site.tables.item} (id INTEGER PRIMARY KEY)"
    await site.sql(table, at=fresh_database)
    default = site.config(create_table="off")
    other = site.config(dsn=fresh_database, create_table="off", **keys)

    async def insert(call: Call) -> int:
        await call.db.execute(site.tables.insert, (call.id,))
        await call.session("other_session").execute(site.tables.insert, (call.id,))
        if "twice" in call.request.query_params:
            await call.session("other_session").execute(site.tables.insert, (call.id,))
        return call.id

    async def use_other_first(connection: ASGIConnection[Any, Any, Any, Any], _: BaseRouteHandler) -> None:
        other.provide_session(connection.app.state, connection.scope)

    async def promise(call: Call) -> None:
        await call.db.execute(f"INSERT INTO {site.tables.promise} (item) VALUES (-1)")  # noqa: S608
        await call.session("other_session").execute(site.tables.insert, (call.id,))

    routes = [
        site.route("/", insert, "other_session"),
        site.route("/manual", insert, "other_session", opt={"other_session": {"commit_mode": "manual"}}),
        *([site.route("/promise", promise, "other_session", guards=[use_other_first])] if site.tables.promise else []),
    ]
    async with running(Litestar(routes, plugins=[SQLStorePlugin(default, other)])) as client:
        statuses = [
            (await client.post(path)).status_code for path in ("/?id=1", "/?id=2&twice=yes", "/manual?id=3&twice=yes")
        ]
        if site.tables.promise:
            assert (await client.post("/promise", params={"id": 4})).status_code == 500

    assert statuses == [201, 409, 409]
    assert await site.ids() == [1]
    assert [row[0] for row in await site.sql(site.tables.ids, at=fresh_database)] == [1, 3]


# Sessions in guards, in middleware, in sockets, outside requests


async def test_a_request_has_one_connection(site: Site) -> None:
    """Its guard, its middleware and its handler share it, and the transaction; the pool has no other."""
    config = site.config(size=1, timeout=2, create_table="off")

    async def execute(scope: Scope, number: int) -> None:
        session = either(config.provide_session(scope["app"].state, scope))
        await site.finish(session.execute(site.tables.insert, (number,)))

    async def guard(connection: ASGIConnection[Any, Any, Any, Any], _: BaseRouteHandler) -> None:
        await execute(connection.scope, 1)
        if "refuse" in connection.query_params:
            raise NotAuthorizedException

    def middleware(app: ASGIApp) -> ASGIApp:
        async def call(scope: Scope, receive: Receive, send: Send) -> None:
            await execute(scope, 2)
            await app(scope, receive, send)

        return call

    route = site.route("/", site.insert, guards=[guard])
    app = Litestar([route], plugins=[SQLStorePlugin(config)], middleware=[middleware])
    async with running(app) as client:
        refused = await client.post("/", params={"id": 3, "refuse": "yes"})
        before = await site.ids()
        served = await client.post("/", params={"id": 3})

    assert (refused.status_code, before) == (401, [])
    assert (served.status_code, await site.ids()) == (201, [1, 2, 3])


@pytest.mark.adapters("psycopg_sync", "oracle_sync", "sqlite")
async def test_a_synchronous_guard_shares_the_transaction(site: Site) -> None:
    """Litestar runs it in a thread, where a synchronous session may wait for its connection."""
    config = site.config(size=1, timeout=2, create_table="off")

    def guard(connection: ASGIConnection[Any, Any, Any, Any], _: BaseRouteHandler) -> None:
        config.provide_session(connection.app.state, connection.scope).execute(site.tables.insert, (1,))

    app = Litestar([site.route("/", site.insert, guards=[guard])], plugins=[SQLStorePlugin(config)])
    async with running(app) as client:
        statuses = [(await client.post("/", params={"id": number})).status_code for number in (2, 3)]

    assert statuses == [201, 409]
    assert await site.ids() == [1, 2]


async def test_the_driver_s_own_connection_shares_the_transaction(site: Site) -> None:
    """What is done over ``db_connection`` is committed and rolled back with the rest."""

    async def insert(call: Call) -> int:
        await call.db.execute(site.tables.insert, (call.id,))
        await call.by_driver(f"INSERT INTO {site.tables.item} (id) VALUES ({call.id + 1})")  # noqa: S608
        return call.id

    async def fail(call: Call) -> None:
        await insert(call)
        raise NotFoundError

    plugin = SQLStorePlugin(site.config(size=1, create_table="off"))
    routes = [site.route("/", insert, "db_connection"), site.route("/fail", fail, "db_connection")]
    async with running(Litestar(routes, plugins=[plugin])) as client:
        statuses = [
            (await client.post(path, params={"id": number})).status_code
            for path, number in (("/", 1), ("/fail", 3), ("/", 5))
        ]

    assert statuses == [201, 404, 201]
    assert await site.ids() == [1, 2, 5, 6]


async def test_there_are_sessions_outside_requests(site: Site) -> None:
    """A block is one transaction, unless in manual mode; so it is over a connection of the driver's own."""
    config = site.config(size=1, timeout=2, create_table="off")
    plugin = SQLStorePlugin(config)

    async def work(session: AnySession, number: int) -> None:
        await session.execute(site.tables.insert, (number,))
        if number % 2:
            raise ZeroDivisionError

    async def block(number: int) -> None:
        async with config.get_session() as session:
            await site.finish(work(either(session), number))

    async def over_connection(sql: str, error: Exception | None = None) -> None:
        async with plugin.provide_connection() as connection:
            await site.by_driver(connection, sql)
            if error:
                raise error

    async with Litestar(plugins=[plugin]).lifespan():
        await block(2)
        with pytest.raises(ZeroDivisionError):
            await block(3)
        with pytest.raises(ZeroDivisionError):
            await over_connection(f"INSERT INTO {site.tables.item} (id) VALUES (5)", ZeroDivisionError())  # noqa: S608
        await over_connection(f"INSERT INTO {site.tables.item} (id) VALUES (6)")  # noqa: S608
        async with config.get_session() as session:
            kept = either(session)
        with pytest.raises(SQLStoreError, match="ended"):
            await site.finish(kept.fetch_all(site.tables.ids))
        if site.tables.promise:
            with pytest.raises(CommitError):
                await over_connection(f"INSERT INTO {site.tables.promise} (item) VALUES (-1)")  # noqa: S608

    assert await site.ids() == [2, 6]


async def test_a_cancelled_block_is_undone(site: Site) -> None:
    """So is one that is left by a break out of its loop's tasks."""
    config = site.config(size=1, timeout=5, create_table="off")
    inserted = asyncio.Event()

    async def hold() -> None:
        async with config.provide_connection() as connection:
            await site.by_driver(connection, f"INSERT INTO {site.tables.item} (id) VALUES (1)")  # noqa: S608
            inserted.set()
            await asyncio.sleep(60)

    holding = asyncio.create_task(hold())
    await inserted.wait()
    holding.cancel()
    await asyncio.wait([holding])
    async with config.provide_connection() as connection:
        await site.by_driver(connection, f"INSERT INTO {site.tables.item} (id) VALUES (1)")  # noqa: S608

    assert await site.ids() == [1]
    await config.pool().close()


def test_a_socket_keeps_neither_transaction_nor_connection(site: Site) -> None:
    """Each statement commits by itself, and so does each block; between them the pool's only connection is free."""
    config = site.config(size=1, timeout=2, create_table="off")

    async def serve(socket: WebSocket[Any, Any, Any], session: AnySession) -> None:
        await socket.accept()
        async for text in socket.iter_data("text"):
            await site.finish(session.execute(site.tables.insert, (int(text),)))
            await socket.send_text("done")

    handler: Any
    if site.adapter.threaded:

        @websocket("/")
        async def in_thread(socket: WebSocket[Any, Any, Any], db_session: NamedDependency[SyncDatabaseSession]) -> None:
            await serve(socket, Awaited(db_session))

        handler = in_thread
    else:

        @websocket("/")
        async def in_loop(socket: WebSocket[Any, Any, Any], db_session: NamedDependency[DatabaseSession]) -> None:
            await serve(socket, db_session)

        handler = in_loop
    app = Litestar([handler, site.route("/", site.insert)], plugins=[SQLStorePlugin(config)])
    with TestClient(app) as client, client.websocket_connect("/") as first, client.websocket_connect("/") as second:
        for number, socket in enumerate((first, second, first)):
            socket.send_text(str(number))
            assert socket.receive_text() == "done"
            assert client.post("/", params={"id": 10 + number}).status_code == 201

    assert asyncio.run(site.ids()) == [0, 1, 2, 10, 11, 12]
