"""What the client is told of has happened, and nothing else has: one transaction a request."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias

import pytest
from litestar import Litestar, Request, Response
from litestar.background_tasks import BackgroundTask
from litestar.datastructures import MutableScopeHeaders
from litestar.exceptions import ClientException, HTTPException
from litestar.middleware import DefineMiddleware
from litestar.middleware.session.server_side import ServerSideSessionConfig
from litestar.response import Stream
from litestar.stores.memory import MemoryStore
from litestar.types import HTTPResponseStartEvent

from sqlstore import CommitError, ContentionError, SQLStoreError, UnavailableError, UniqueViolationError, verbs
from sqlstore.config import UNITS
from sqlstore.dialects import Row
from sqlstore.litestar import SQLStorePlugin
from sqlstore.names import stored_namespace
from sqlstore.unit_of_work import UnitOfWork

from ..contract.conftest import until
from .applications import BROKEN, RecordingStore, at_response, running

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from litestar.stores.base import Store
    from litestar.types import ASGIApp, Message, Receive, Scope, Send

    from sqlstore import BaseConfig, BaseSQLSpecStore
    from sqlstore.dialects import Step

    from ..servers import Server
    from .applications import Call, Site


async def test_a_status_decides(site: Site) -> None:
    """201 means one row; 400, 500 and an exception mean none."""
    config = site.config(create_table="off")
    routes = [
        site.route("/", site.insert),
        site.route("/redirects", site.insert, opt={"db_session": {"commit_mode": "autocommit_include_redirects"}}),
        site.route("/also", site.insert, opt={"db_session": {"extra_commit_statuses": {409, 500}}}),
        site.route("/never", site.insert, opt={"db_session": {"extra_rollback_statuses": [202]}}),
        site.route("/manual", site.insert, opt={"db_session": {"commit_mode": "manual"}}),
    ]
    decisions = {
        "/": {200: True, 201: True, 302: False, 307: False, 400: False, 404: False, 500: False, BROKEN: False},
        "/redirects": {201: True, 302: True, 307: True, 400: False, BROKEN: False},
        "/also": {201: True, 302: False, 409: True, 410: False, 500: True, BROKEN: True},
        "/never": {201: True, 202: False},
        "/manual": {201: True, 302: True, 400: True, BROKEN: True},
    }
    requests = [(path, status, kept) for path, statuses in decisions.items() for status, kept in statuses.items()]
    async with running(Litestar(routes, plugins=[SQLStorePlugin(config)])) as client:
        for number, (path, status, _) in enumerate(requests):
            answer = await client.post(path, params={"id": number, "status": status})
            assert answer.status_code == (500 if status == BROKEN else status)

        assert await site.ids() == [number for number, (_, _, kept) in enumerate(requests) if kept]


async def test_a_config_has_its_own_rule(site: Site) -> None:
    """The options of a route come on top of the config's."""
    options: dict[str, Any] = {
        "commit_mode": "autocommit_include_redirects",
        "extra_commit_statuses": [404],
        "extra_rollback_statuses": [202],
    }
    routes = [
        site.route("/", site.insert),
        site.route("/own", site.insert, opt={"db_session": {"extra_rollback_statuses": []}}),
    ]
    decisions = {"/": {201: True, 302: True, 404: True, 202: False}, "/own": {302: True, 404: True, 202: True}}
    requests = [(path, status, kept) for path, statuses in decisions.items() for status, kept in statuses.items()]
    plugin = SQLStorePlugin(site.config(create_table="off", **options))
    async with running(Litestar(routes, plugins=[plugin])) as client:
        for number, (path, status, _) in enumerate(requests):
            await client.post(path, params={"id": number, "status": status})

        assert await site.ids() == [number for number, (_, _, kept) in enumerate(requests) if kept]


FRESH: dict[str, dict[str, Any]] = {
    "mysql": {"isolation_level": "read committed"},
    "oracle": {"isolation_level": "read_committed"},
    "postgresql": {"isolation_level": "READ COMMITTED"},
    "sqlite": {},
}
SNAPSHOT: dict[str, dict[str, Any]] = {
    "mysql": {"isolation_level": "repeatable_read"},
    "oracle": {"isolation_level": "serializable"},
    "postgresql": {"isolation_level": "repeatable read"},
    "sqlite": {"read_only": True},
}


async def test_a_route_has_its_isolation_level(site: Site) -> None:
    """It is that of this route's transaction, and not of the connection's next one."""

    async def look_twice(call: Call) -> list[int]:
        before = len(await call.db.fetch_all(site.tables.ids))
        await call.elsewhere(site.sql(f"INSERT INTO {site.tables.item} (id) VALUES ({call.id})"))  # noqa: S608
        return [before, len(await call.db.fetch_all(site.tables.ids))]

    dialect = site.adapter.dialect
    routes = [
        site.route("/fresh", look_twice, opt={"db_session": FRESH[dialect]}),
        site.route("/snapshot", look_twice, opt={"db_session": SNAPSHOT[dialect]}),
    ]
    seen: list[list[int]] = []
    plugin = SQLStorePlugin(site.config(size=1, create_table="off"))
    async with running(Litestar(routes, plugins=[plugin])) as client:
        for number, path in enumerate(("/fresh", "/snapshot", "/fresh")):
            seen.append((await client.post(path, params={"id": number})).json())

    if site.emulated:  # Oracle's emulator has one level, and an error for the other
        assert seen[0] == [0, 1]
    else:
        assert seen == [[0, 1], [1, 1], [2, 3]]


async def test_a_route_may_only_read(site: Site) -> None:
    """What writes fails, and the next route on the same connection may write again."""

    async def read(call: Call) -> int:
        return len(await call.db.fetch_all(site.tables.ids))

    readonly = {"db_session": {"read_only": True}}
    routes = [
        site.route("/", site.insert),
        site.route("/read", read, opt=readonly),
        site.route("/write", site.insert, opt=readonly),
    ]
    plugin = SQLStorePlugin(site.config(size=1, create_table="off"))
    async with running(Litestar(routes, plugins=[plugin])) as client:
        statuses = [
            (await client.post(path, params={"id": number})).status_code
            for number, path in enumerate(("/", "/read", "/write", "/", "/read", "/"))
        ]

    written = 201 if site.emulated else 500  # Oracle's emulator does not know what SET TRANSACTION READ ONLY means
    assert statuses == [201, 201, written, 201, 201, 201]
    assert await site.ids() == ([0, 2, 3, 5] if site.emulated else [0, 3, 5])


class _OutOfHereError(Exception):
    pass


async def _insert_and_leave(call: Call, insert: str, number: int, *inner: int) -> None:
    async with call.db.transaction():
        await call.db.execute(insert, (number,))
        for each in inner:
            async with call.db.transaction():
                await call.db.execute(insert, (each,))
        raise _OutOfHereError


async def _blocks(site: Site, call: Call) -> None:
    """Insert 1 to 10, of which 3 and 5 are undone."""
    insert = site.tables.insert
    await call.db.execute(insert, (1,))
    async with call.db.transaction():
        await call.db.execute(insert, (2,))
    with pytest.raises(_OutOfHereError):
        await _insert_and_leave(call, insert, 3)
    async with call.db.transaction():
        await call.db.execute(insert, (4,))
        with pytest.raises(_OutOfHereError):
            await _insert_and_leave(call, insert, 5)
        await call.db.execute(insert, (6,))
    async with call.db.transaction():
        await call.db.execute(insert, (7,))
        async with call.db.transaction():
            await call.db.execute(insert, (8,))
    async with call.db.transaction():
        await call.db.execute(insert, (9,))
        with pytest.raises(UniqueViolationError):
            async with call.db.transaction():
                await call.db.execute(insert, (9,))
        await call.db.execute(insert, (10,))


@pytest.mark.parametrize("status", [201, 400])
async def test_blocks_are_transactions_in_manual_mode(site: Site, status: int) -> None:
    """Each commits by itself, whatever the response is; within another it is a savepoint."""
    seen: list[int] = []

    async def body(call: Call) -> Response[None]:
        await _blocks(site, call)
        with pytest.raises(_OutOfHereError):
            await _insert_and_leave(call, site.tables.insert, 11, 12)
        seen.extend(await call.elsewhere(site.ids()))
        return Response(None, status_code=status)

    plugin = SQLStorePlugin(site.config(commit_mode="manual", create_table="off"))
    async with running(Litestar([site.route("/", body)], plugins=[plugin])) as client:
        assert (await client.post("/")).status_code == status

    assert seen == await site.ids() == [1, 2, 4, 6, 7, 8, 9, 10]


@pytest.mark.parametrize("status", [201, 400])
async def test_blocks_are_savepoints_in_a_request_s_transaction(site: Site, status: int) -> None:
    """Nothing of them is committed before the request's response begins, and nothing at all if it is an error."""
    seen: list[int] = []

    async def body(call: Call) -> Response[None]:
        await _blocks(site, call)
        seen.extend(await call.elsewhere(site.ids()))
        return Response(None, status_code=status)

    plugin = SQLStorePlugin(site.config(create_table="off"))
    async with running(Litestar([site.route("/", body)], plugins=[plugin])) as client:
        assert (await client.post("/")).status_code == status

    assert seen == []
    assert await site.ids() == ([1, 2, 4, 6, 7, 8, 9, 10] if status == 201 else [])


async def test_an_exception_that_is_answered_with_200_rolls_back(site: Site) -> None:
    """What the user's exception handler answers is another matter than what became of the request."""

    def forgive(_: Request[Any, Any, Any], __: Exception) -> Response[str]:
        return Response("never mind", status_code=200)

    async def raise_after(call: Call) -> None:
        await call.db.execute(site.tables.insert, (call.id,))
        raise _OutOfHereError

    routes = [site.route("/app", raise_after), site.route("/route", raise_after, exception_handlers={500: forgive})]
    plugin = SQLStorePlugin(site.config(create_table="off"))
    app = Litestar(routes, plugins=[plugin], exception_handlers={_OutOfHereError: forgive})
    async with running(app) as client:
        answers = [await client.post(path, params={"id": 1}) for path in ("/app", "/route")]

        assert [(answer.status_code, answer.text) for answer in answers] == [(200, "never mind")] * 2
    assert await site.ids() == []


async def test_an_error_that_the_handler_swallows(site: Site) -> None:
    """Where the database has given the transaction up, this is no 201; where it has not, what else was done counts."""

    async def swallow(call: Call) -> None:
        await call.db.execute(site.tables.insert, (call.id,))
        with pytest.raises(UniqueViolationError):
            await call.db.execute(site.tables.insert, (call.id,))

    plugin = SQLStorePlugin(site.config(create_table="off"))
    async with running(Litestar([site.route("/", swallow)], plugins=[plugin])) as client:
        answer = await client.post("/", params={"id": 1})

    if site.adapter.dialect == "postgresql":
        assert (answer.status_code, await site.ids()) == (500, [])
    else:
        assert (answer.status_code, await site.ids()) == (201, [1])


# COMMIT fails


# MySQL and MariaDB look up a foreign key with each statement, and nothing when they commit: there a COMMIT fails that
# has lost its connection, as in another test.
_LOOKS_AT_COMMIT = pytest.mark.adapters(
    "asyncpg", "psycopg", "psycopg_sync", "oracle", "oracle_sync", "aiosqlite", "sqlite"
)


def _apologise(_: Request[Any, Any, Any], error: Exception) -> Response[str]:
    return Response(f"sorry: {type(error).__name__}", status_code=500)


@_LOOKS_AT_COMMIT
async def test_a_commit_that_fails_is_a_500(site: Site) -> None:
    """It is one complete response, from the application's exception handler, and nothing is stored."""
    starts: Counter[int] = Counter()

    async def count(send: Send, message: Message) -> None:
        if message["type"] == "http.response.start":
            starts[message["status"]] += 1
        await send(message)

    async def promise(call: Call) -> None:
        await call.db.execute(site.tables.insert, (call.id,))
        await call.db.execute(f"INSERT INTO {site.tables.promise} (item) VALUES (-1)")  # noqa: S608

    routes = [
        site.route("/", promise),
        site.route("/handled", promise, exception_handlers={CommitError: _apologise}),
        site.route("/insert", site.insert),
    ]
    plugin = SQLStorePlugin(site.config(size=1))
    sessions = ServerSideSessionConfig()
    app = Litestar(routes, plugins=[plugin], middleware=[sessions.middleware])
    async with running(app, spied=count) as client:
        by_default = await client.post("/", params={"id": 1})
        handled = await client.post("/handled", params={"id": 2})
        then = await client.post("/insert", params={"id": 3})

    assert by_default.status_code == 500
    assert by_default.json() == {"status_code": 500, "detail": "Internal Server Error"}
    assert (handled.status_code, handled.text) == (500, "sorry: CommitError")
    assert then.status_code == 201
    assert starts == {500: 2, 201: 1}
    assert await site.ids() == [3]


async def test_a_connection_that_is_lost_before_the_commit_is_a_500(site: Site, server: Server, database: str) -> None:
    """The same where the server ends the connection in the last moment."""
    kills = iter([True, False])

    async def kill() -> None:
        if next(kills):
            await server.kill_connections(database)

    plugin = SQLStorePlugin(site.config(create_table="off"))
    app = Litestar(
        [site.route("/", site.insert)],
        plugins=[plugin],
        middleware=[at_response(kill)],
        exception_handlers={CommitError: _apologise},
    )
    async with running(app) as client:
        lost = await client.post("/", params={"id": 1})
        then = await client.post("/", params={"id": 2})

    assert (lost.status_code, lost.text) == (500, "sorry: CommitError")
    assert then.status_code == 201
    assert await site.ids() == [2]


async def test_a_connection_that_is_lost_in_the_handler_is_a_503(site: Site, server: Server, database: str) -> None:
    """There is nothing left to roll back, which is no other error."""

    async def lose(call: Call) -> None:
        await call.db.execute(site.tables.insert, (call.id,))
        await call.elsewhere(server.kill_connections(database))
        await call.db.execute(site.tables.insert, (call.id + 1,))

    async def raise_after(call: Call) -> None:
        await call.db.execute(site.tables.insert, (call.id,))
        await call.elsewhere(server.kill_connections(database))
        raise ClientException

    plugin = SQLStorePlugin(site.config(size=1, create_table="off"))
    routes = [site.route("/", site.insert), site.route("/lose", lose), site.route("/raise", raise_after)]
    async with running(Litestar(routes, plugins=[plugin])) as client:
        lost = await client.post("/lose", params={"id": 1})
        raised = await client.post("/raise", params={"id": 2})
        then = await client.post("/", params={"id": 3})

    assert [answer.status_code for answer in (lost, raised, then)] == [503, 400, 201]
    assert await site.ids() == [3]


# Order


@pytest.mark.parametrize("place", ["elsewhere", "in the same database"])
async def test_the_session_is_saved_before_the_commit_and_that_is_before_the_response(site: Site, place: str) -> None:
    """Each happens once, also if an error response follows.

    In a SQLite file a session is saved after the COMMIT, for which it would otherwise wait.
    """
    happened: list[tuple[str, int]] = []

    async def insert(call: Call) -> None:
        await call.db.execute(site.tables.insert, (call.id,))
        call.request.session["visits"] = 1
        if "fail" in call.request.query_params:
            raise ClientException

    async def note(what: str) -> None:
        happened.append((what, len(await site.ids())))

    async def note_start(send: Send, message: Message) -> None:
        if message["type"] == "http.response.start":
            await note(str(message["status"]))
        await send(message)

    config = site.config()
    store: Store = MemoryStore() if place == "elsewhere" else site.adapter.store(config)
    plugin = SQLStorePlugin(config, stores={"sessions": RecordingStore(store, note)})
    app = Litestar([site.route("/", insert)], plugins=[plugin], middleware=[ServerSideSessionConfig().middleware])
    async with running(app, spied=note_start) as client:
        await client.post("/", params={"id": 1})
        await client.post("/", params={"id": 2, "fail": "yes"})

    saved = int(site.adapter.dialect == "sqlite" and place != "elsewhere")
    assert happened == [("saving", 0), ("saved", saved), ("201", 1), ("saving", 1), ("saved", 1), ("400", 1)]
    if place != "elsewhere":
        await site.adapter.store(config).drop_table()


@pytest.mark.parametrize(("failure", "status"), [(RuntimeError, 500), (UnavailableError, 503)])
async def test_a_session_that_cannot_be_saved_is_an_error(site: Site, failure: type[Exception], status: int) -> None:
    """The response is complete, through the application's handlers, and nothing is stored."""
    fails = True

    async def fail(_: str) -> None:
        if fails:
            raise failure

    plugin = SQLStorePlugin(
        site.config(size=1, create_table="off"), stores={"sessions": RecordingStore(MemoryStore(), fail)}
    )
    routes = [
        site.route("/", site.insert),
        site.route("/handled", site.insert, exception_handlers={failure: _apologise}),
    ]
    app = Litestar(routes, plugins=[plugin], middleware=[ServerSideSessionConfig().middleware])
    async with running(app) as client:
        by_default = await client.post("/", params={"id": 1})
        handled = await client.post("/handled", params={"id": 2})
        fails = False
        then = await client.post("/", params={"id": 3})

    assert by_default.status_code == by_default.json()["status_code"] == status
    assert (handled.status_code, handled.text) == (500, f"sorry: {failure.__name__}")
    assert then.status_code == 201
    assert await site.ids() == [3]


async def test_litestar_s_sessions_are_in_the_application_s_stores(site: Site) -> None:
    """A request may write to the session and to tables, whatever becomes of either."""

    async def visit(call: Call) -> Response[int]:
        visits = call.request.session.get("visits", 0) + 1
        call.request.session["visits"] = visits
        await call.db.execute(site.tables.insert, (call.id,))
        return Response(visits, status_code=int(call.request.query_params["status"]))

    plugin = SQLStorePlugin(site.config())
    app = Litestar([site.route("/", visit)], plugins=[plugin], middleware=[ServerSideSessionConfig().middleware])
    async with running(app) as client:
        visits = [
            (await client.post("/", params={"id": number, "status": status})).json()
            for number, status in enumerate((201, 400, 201))
        ]

        assert visits == [1, 2, 3]
        assert await plugin.stores["default"].with_namespace("sessions").exists(client.cookies["session"])
    assert await site.ids() == [0, 2]
    await plugin.stores["default"].drop_table()


@pytest.mark.adapters("aiosqlite", "sqlite")
async def test_a_store_s_write_does_not_wait_for_its_own_request(site: Site) -> None:
    """SQLite has one writer. What would wait for the request's own transaction is an error at once instead."""
    config = site.config(prune_interval=0)
    plugin = SQLStorePlugin(config)
    store = plugin.stores["default"]
    seen: list[bytes | None] = []

    async def write_after(call: Call) -> None:
        await call.db.execute(site.tables.insert, (call.id,))
        seen.append(await call.elsewhere(store.get("k")))
        loop = loops[0]
        coroutine = store.set("k", b"too late")
        if site.adapter.threaded:
            asyncio.run_coroutine_threadsafe(coroutine, loop).result()
        else:
            await coroutine

    loops = [asyncio.get_running_loop()]
    app = Litestar([site.route("/", write_after)], plugins=[plugin])
    async with running(app) as client, asyncio.timeout(config.timeout / 2):
        await store.set("k", b"before")
        refused = await client.post("/", params={"id": 1})
        after = await store.get("k")
        async with config.provide_connection() as connection:
            result = connection.execute(f"INSERT INTO {site.tables.item} (id) VALUES (2)")  # noqa: S608
            if not site.adapter.threaded:
                await result
            with pytest.raises(ContentionError, match="one writer at a time"):
                await store.set("k", b"too late")
            async with config.provide_connection():  # which writes nothing itself
                with pytest.raises(ContentionError, match="one writer at a time"):
                    await store.set("k", b"too late")

    assert refused.status_code == 503
    assert after == b"before"
    assert seen == [b"before"]
    assert await site.ids() == [2]


@_LOOKS_AT_COMMIT
async def test_a_page_that_was_not_committed_is_not_cached(site: Site) -> None:
    """One that was is the same until it expires, and its handler does not run again."""
    promised = iter([-1, 1])

    async def promise(call: Call) -> int:
        await call.db.execute(site.tables.insert, (call.id,))
        await call.db.execute(f"INSERT INTO {site.tables.promise} (item) VALUES ({next(promised)})")  # noqa: S608
        return call.id

    plugin = SQLStorePlugin(site.config())
    async with running(Litestar([site.route("/", promise, cache=60)], plugins=[plugin])) as client:
        answers = [await client.post("/", params={"id": 1}) for _ in range(4)]

    assert [(answer.status_code, answer.text) for answer in answers[1:]] == [(201, "1")] * 3
    assert answers[0].status_code == 500
    assert await site.ids() == [1]
    await plugin.stores["default"].drop_table()
    await plugin.stores["default"].close()


# Before a commit

LastAction: TypeAlias = Callable[[UnitOfWork, HTTPResponseStartEvent], Awaitable[object]]


def _before_commit(config: BaseConfig, action: LastAction) -> DefineMiddleware:
    """Return a middleware that has something done at the end of a request's transaction."""

    def middleware(app: ASGIApp) -> ASGIApp:
        async def call(scope: Scope, receive: Receive, send: Send) -> None:
            async def registering_send(message: Message) -> None:
                if message["type"] == "http.response.start":
                    requests = scope["state"][UNITS]
                    unit = requests.unit(config)
                    requests.before_commit(unit, partial(action, unit))
                await send(message)

            await app(scope, receive, registering_send)

        return call

    return DefineMiddleware(middleware)


def _store_value(store: BaseSQLSpecStore[Any], key: str) -> Step:
    """Return what stores *key*, for ever."""
    sql = store.config.dialect.for_table(store.table_name)
    scope = verbs.Scope(store.table_name, stored_namespace(store.namespace), sql, lambda _: None)
    return scope.bind(sql.upsert, [Row(key, b"v", None, None, 1)])


async def _idle(_: Call) -> None:
    """Use no database."""


async def test_what_is_done_before_a_commit_is_committed_with_it(site: Site) -> None:
    """It comes last, and only if there is a commit; it may add headers to the response, which begins afterwards."""
    config = site.config()
    plugin = SQLStorePlugin(config)
    store = plugin.stores["default"]
    happened: list[object] = []

    async def save(unit: UnitOfWork, start: HTTPResponseStartEvent) -> None:
        happened.append(len(await site.ids()))
        await unit.run(_store_value(store, f"k{len(happened)}"), store.table_name)
        MutableScopeHeaders.from_message(start)["X-Saved"] = "yes"

    async def note_start(send: Send, message: Message) -> None:
        if message["type"] == "http.response.start":
            happened.append((message["status"], (b"x-saved", b"yes") in message["headers"], len(await site.ids())))
        await send(message)

    async def note_response() -> None:
        happened.append("response")

    app = Litestar(
        [site.route("/", site.insert), site.route("/idle", _idle)],
        plugins=[plugin],
        middleware=[at_response(note_response), _before_commit(config, save)],
    )
    async with running(app, spied=note_start) as client:
        for path in ("/?id=1", "/?id=2&status=400", f"/?id=3&status={BROKEN}", "/idle"):
            await client.post(path)
        kept = await store.get_many([f"k{number}" for number in range(12)])

    assert happened == [
        *("response", 0, (201, True, 1)),
        *("response", (400, False, 1)),
        *("response", (500, False, 1)),
        *("response", 1, (201, True, 1)),
    ]
    assert kept == {"k2": b"v", "k9": b"v"}
    assert await site.ids() == [1]
    await store.drop_table()


async def test_what_fails_before_a_commit_undoes_it(site: Site, fresh_database: str) -> None:
    """In all databases; the response is complete, and from the application's handlers, whoever catches the error."""
    await site.sql(f"CREATE TABLE {site.tables.item} (id INTEGER PRIMARY KEY)", at=fresh_database)
    config = site.config(size=1, create_table="off")
    keys = {"bind_key": "other", "connection_key": "other_connection", "session_key": "other_session"}
    other = site.config(dsn=fresh_database, size=1, create_table="off", **keys)
    fails = True
    starts: Counter[int] = Counter()

    async def refuse(_: UnitOfWork, __: HTTPResponseStartEvent) -> None:
        if fails:
            raise _RefusedError(status_code=409)

    async def insert(call: Call) -> None:
        await call.db.execute(site.tables.insert, (call.id,))
        await call.session("other_session").execute(site.tables.insert, (call.id,))

    def forgiving(app: ASGIApp) -> ASGIApp:
        async def call(scope: Scope, receive: Receive, send: Send) -> None:
            try:
                await app(scope, receive, send)
            except Exception:
                if b"forgive" in scope["query_string"]:
                    await send({"type": "http.response.start", "status": 200, "headers": []})
                raise

        return call

    async def count(send: Send, message: Message) -> None:
        if message["type"] == "http.response.start":
            starts[message["status"]] += 1
        await send(message)

    app = Litestar(
        [
            site.route("/", insert, "other_session"),
            site.route("/handled", insert, "other_session", exception_handlers={_RefusedError: _apologise}),
        ],
        plugins=[SQLStorePlugin(config, other)],
        middleware=[DefineMiddleware(forgiving), _before_commit(other, refuse)],
    )
    async with running(app, spied=count) as client:
        refused = [await client.post(path) for path in ("/?id=1", "/handled?id=2", "/handled?id=3&forgive=yes")]
        fails = False
        then = await client.post("/?id=4")

    assert [answer.status_code for answer in refused] == [409, 500, 500]
    assert [answer.text for answer in refused[1:]] == ["sorry: _RefusedError"] * 2
    assert then.status_code == 201
    assert starts == {409: 1, 500: 2, 201: 1}
    assert await site.ids() == [4]
    assert [row[0] for row in await site.sql(site.tables.ids, at=fresh_database)] == [4]


class _RefusedError(HTTPException):
    """What somebody raises before a commit."""


@pytest.mark.adapters("aiosqlite", "sqlite")
async def test_nobody_commits_while_there_is_something_to_be_done_before(site: Site) -> None:
    """A store's write when the response begins is otherwise a reason to commit early, where there is one writer."""
    config = site.config()
    plugin = SQLStorePlugin(config)
    store = plugin.stores["default"]

    async def save(unit: UnitOfWork, _: HTTPResponseStartEvent) -> None:
        await unit.run(_store_value(store, "saved"), store.table_name)

    app = Litestar(
        [site.route("/", site.insert), site.route("/idle", _idle)],
        plugins=[plugin],
        middleware=[at_response(lambda: store.set("k", b"v")), _before_commit(config, save)],
    )
    async with running(app) as client:
        refused = await client.post("/", params={"id": 1})
        before = await store.get_many(["k", "saved"])
        idle = await client.post("/idle")
        after = await store.get_many(["k", "saved"])

    assert (refused.status_code, before) == (503, {})
    assert (idle.status_code, after) == (201, {"k": b"v", "saved": b"v"})
    assert await site.ids() == []


# After the response has begun


async def test_the_connection_is_free_while_the_body_is_streamed(site: Site) -> None:
    """The transaction has ended by then, and its session says what to use instead."""
    config = site.config(size=1, timeout=2, create_table="off")
    complaints: list[str] = []

    async def complain(call: Call) -> None:
        try:
            await call.db.fetch_all(site.tables.ids)
        except SQLStoreError as error:
            complaints.append(str(error))

    async def stream(call: Call) -> Stream:
        await call.db.execute(site.tables.insert, (call.id,))

        async def chunks() -> AsyncGenerator[str, None]:
            yield "free: "
            async with config.provide_connection():
                yield str(await site.ids())
            await complain(call)

        background = BackgroundTask(complain, call)
        return Stream(chunks(), background=background)

    async with running(Litestar([site.route("/", stream)], plugins=[SQLStorePlugin(config)])) as client:
        answer = await client.post("/", params={"id": 1})

    assert (answer.status_code, answer.text) == (201, "free: [1]")
    assert len(complaints) == 2
    assert all("use config.get_session()" in complaint for complaint in complaints)


# Cancelled requests


async def test_a_cancelled_request_leaves_nothing_behind(site: Site) -> None:
    """Whatever it was about to do: what it did is undone or committed as a whole, and the pool is as good as new."""
    moments = random.Random(1)  # noqa: S311 - no secrets
    begun: list[int] = []

    async def insert(call: Call) -> None:
        begun.append(call.id)
        await call.db.execute(site.tables.insert, (call.id,))
        await call.sleep(0.002)
        await call.db.execute(site.tables.adopt, (call.id + 1, call.id))

    config = site.config(size=2, timeout=5, create_table="off")
    async with running(Litestar([site.route("/", insert)], plugins=[SQLStorePlugin(config)])) as client:
        begun_at = time.monotonic()
        await client.post("/", params={"id": 0})
        duration = time.monotonic() - begun_at
        for first in range(2, 98, 8):
            requests = {
                number: asyncio.create_task(client.post("/", params={"id": number}))
                for number in range(first, first + 8, 2)
            }
            for request in requests.values():
                await asyncio.sleep(moments.uniform(0, duration))
                request.cancel()
            answers = await asyncio.gather(*requests.values(), return_exceptions=True)
            for number, answer in zip(requests, answers, strict=True):
                if not isinstance(answer, BaseException):
                    assert answer.status_code == 201
                    assert number in await site.ids()
        cancelled = [*begun]
        again = await asyncio.gather(*(client.post("/", params={"id": number}) for number in range(2, 98, 2)))
        await until(lambda: not config.pool().in_use)

    kept = Counter(answer.status_code for answer in again)
    assert set(kept) <= {201, 409}
    assert len(cancelled) > 10, "it was too early to see anything"
    assert await site.ids() == [*range(98)]
