"""Sessions and the request's transaction: with ``same_transaction`` they are one, without it one comes first."""

from __future__ import annotations

import asyncio
import contextvars
import random
import sqlite3
import threading
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

import httpx
import pytest
from litestar import Litestar, Response
from litestar.middleware import DefineMiddleware

from sqlstore.config import UNITS
from sqlstore.litestar import (
    Sessions,
    SQLSessionBackend,
    SQLSessionConfig,
    SQLStorePlugin,
    rotate_session_id,
    save_session,
    set_principal,
)

from .applications import BROKEN, Call, Site, running

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Sequence

    from litestar.types import ASGIApp, Message, Receive, Scope, Send

    from sqlstore import BaseSQLSpecStore

    from ..servers import Server

    AtCommit: TypeAlias = Callable[[Message], Awaitable[None]]

T = TypeVar("T")

# MySQL and MariaDB look up a foreign key with each statement, and nothing when they commit.
LOOKS_AT_COMMIT = pytest.mark.adapters(
    "asyncpg", "psycopg", "psycopg_sync", "oracle", "oracle_sync", "aiosqlite", "sqlite"
)


class Shop:
    """An application whose sessions and rows are in one database, and its browsers."""

    def __init__(
        self, app: Litestar, sessions: SQLSessionConfig, plugin: SQLStorePlugin, client: httpx.AsyncClient
    ) -> None:
        self.app = app
        self.sessions = sessions
        self.plugin = plugin
        self.client = client
        """One browser."""

    @property
    def store(self) -> BaseSQLSpecStore[Any]:
        """Where the sessions are."""
        return self.sessions.get_store_from_app(self.app)

    @property
    def listed(self) -> Sessions:
        """What lists and revokes them."""
        return self.sessions.sessions_of(self.app)

    def browser(self, cookies: httpx.Cookies | None = None) -> httpx.AsyncClient:
        """Return another one, which may have the same cookies."""
        app: Any = self.app  # httpx types scopes more loosely than Litestar does
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        return httpx.AsyncClient(transport=transport, base_url="http://testserver.local", cookies=cookies)

    async def session(self, client: httpx.AsyncClient | None = None) -> dict[str, Any]:
        """Return what is stored for a browser's cookie."""
        answer = await self.browser((client or self.client).cookies).post("/look")
        session: dict[str, Any] = answer.json()
        return session


async def _look(call: Call) -> dict[str, Any]:
    return dict(call.request.session)


async def _remember(call: Call) -> None:
    call.request.session.update({key: call.request.query_params[key] for key in call.request.query_params})


async def _visit(call: Call) -> Response[int]:
    call.request.session["visits"] = call.request.session.get("visits", 0) + 1
    return await call.site.insert(call)


async def _log_in(call: Call) -> Response[int]:
    set_principal(call.request, "ada")
    return await _visit(call)


def last_of_all(action: AtCommit) -> DefineMiddleware:
    """Return a middleware that does something between the session's statement, if that is part of it, and COMMIT."""

    def middleware(app: ASGIApp) -> ASGIApp:
        async def call(scope: Scope, receive: Receive, send: Send) -> None:
            async def acting_send(message: Message) -> None:
                if message["type"] == "http.response.start":
                    units = scope["state"][UNITS]
                    for unit in units.units:
                        units.before_commit(unit, action)
                await send(message)

            await app(scope, receive, acting_send)

        return call

    return DefineMiddleware(middleware)


@asynccontextmanager
async def selling(
    site: Site,
    *routes: Any,  # noqa: ANN401 - handlers
    same: bool = True,
    options: dict[str, Any] | None = None,
    outside: Sequence[DefineMiddleware] = (),
    spied: Any = None,  # noqa: ANN401 - see `running`
    **session_options: Any,  # noqa: ANN401 - see SQLSessionConfig
) -> AsyncGenerator[Shop, None]:
    """Give the application; *options* are the database's."""
    plugin = SQLStorePlugin(site.config(**{"prune_interval": 0, **(options or {})}))
    sessions = SQLSessionConfig(same_transaction=same, **session_options)
    app = Litestar(
        [
            site.route("/look", _look),
            site.route("/remember", _remember),
            site.route("/visit", _visit),
            site.route("/login", _log_in),
            *routes,
        ],
        plugins=[plugin],
        middleware=[*outside, sessions.middleware],
        logging_config=None,
    )
    async with running(app, spied=spied) as client:
        yield Shop(app, sessions, plugin, client)
    await plugin.stores["default"].drop_table()
    await plugin.stores["default"].close()


async def in_loop(call: Call, loop: asyncio.AbstractEventLoop, coroutine: Coroutine[Any, Any, T]) -> T:
    """Return what *coroutine* returns, which needs the application's event loop, also for a handler in a thread."""
    if call.site.adapter.threaded:
        return asyncio.run_coroutine_threadsafe(coroutine, loop).result()
    return await coroutine


# Together


@pytest.mark.parametrize("path", ["/visit", "/login"])
async def test_rows_and_session_are_stored_together_or_not_at_all(site: Site, path: str) -> None:
    """The status decides, for a new session and one that is there; the cookie says what has been stored."""
    async with selling(site) as shop:
        fresh = await shop.client.post(path, params={"id": 1, "status": 404})
        assert (fresh.status_code, "set-cookie" in fresh.headers) == (404, False)
        assert [session async for session in shop.listed.all_sessions()] == []
        expected: list[int] = []
        for number, status in enumerate((201, 404, 302, BROKEN, 201), 2):
            before = shop.client.cookies.get("session")
            answer = await shop.client.post(path, params={"id": number, "status": status})
            assert answer.status_code == (500 if status == BROKEN else status)
            expected += [number] if status == 201 else []
            assert ("set-cookie" in answer.headers) == (status == 201)
            assert (shop.client.cookies.get("session") != before) == (number == 2)
            assert (await shop.session())["visits"] == len(expected)
            assert await site.ids() == expected


@LOOKS_AT_COMMIT
async def test_a_commit_that_fails_stores_neither(site: Site) -> None:
    """The answer is complete, and sets no cookie of a session that there is not."""

    async def promise(call: Call) -> None:
        call.request.session["promised"] = True
        await call.db.execute(site.tables.insert, (call.id,))
        await call.db.execute(f"INSERT INTO {site.tables.promise} (item) VALUES (-1)")  # noqa: S608

    async with selling(site, site.route("/promise", promise)) as shop:
        fresh = await shop.client.post("/promise", params={"id": 1})
        assert (fresh.status_code, "set-cookie" in fresh.headers) == (500, False)
        assert [session async for session in shop.listed.all_sessions()] == []
        await shop.client.post("/visit", params={"id": 2})
        known = await shop.client.post("/promise", params={"id": 3})

        assert (known.status_code, "set-cookie" in known.headers) == (500, False)
        assert await shop.session() == {"visits": 1}
    assert await site.ids() == [2]


async def test_a_session_that_cannot_be_saved_undoes_the_rows(site: Site) -> None:
    """As with a login that is refused: the 403 is complete."""
    async with selling(site, max_sessions_per_principal=1, too_many_sessions="refuse") as shop:
        assert (await shop.client.post("/login", params={"id": 1})).status_code == 201
        async with shop.browser() as other:
            refused = await other.post("/login", params={"id": 2})

        assert refused.status_code == 403
        assert refused.json()["detail"].startswith("this user has 1 sessions already")
        assert "set-cookie" not in refused.headers
        assert len(await shop.listed.list_sessions("ada")) == 1
    assert await site.ids() == [1]


async def test_a_login_ends_the_oldest_session_with_its_own_transaction(site: Site) -> None:
    """What makes room is back if the login is undone."""
    async with selling(site, max_sessions_per_principal=1) as shop:
        await shop.client.post("/login", params={"id": 1})
        async with shop.browser() as other:
            await other.post("/login", params={"id": 2, "status": 404})
            assert await shop.session() == {"visits": 1}
            await other.post("/login", params={"id": 3})

            assert await shop.session() == {}
            assert await shop.session(other) == {"visits": 1}
    assert await site.ids() == [1, 3]


async def test_clearing_a_session_is_part_of_the_transaction(site: Site) -> None:
    """It is there again, cookie and all, if that is undone."""

    async def log_out(call: Call) -> Response[int]:
        call.request.clear_session()
        return await site.insert(call)

    async with selling(site, site.route("/logout", log_out)) as shop:
        await shop.client.post("/visit", params={"id": 1})
        undone = await shop.client.post("/logout", params={"id": 2, "status": 404})
        assert "set-cookie" not in undone.headers
        assert await shop.session() == {"visits": 1}
        done = await shop.client.post("/logout", params={"id": 3})

        assert "Max-Age=0" in done.headers["set-cookie"]
        assert [session async for session in shop.listed.all_sessions()] == []
    assert await site.ids() == [1, 3]


async def test_renewing_is_part_of_the_transaction(site: Site) -> None:
    """A request that only reads its session moves the expiry with its rows, or not at all."""
    async with selling(site, site.route("/insert", site.insert), touch_after=0) as shop:
        await shop.client.post("/login", params={"id": 1})
        seen = [(await shop.listed.list_sessions("ada"))[0].last_seen]
        for number, status in enumerate((404, 201), 2):
            answer = await shop.client.post("/insert", params={"id": number, "status": status})
            assert ("set-cookie" in answer.headers) == (status == 201)
            seen.append((await shop.listed.list_sessions("ada"))[0].last_seen)

        assert seen[0] == seen[1] < seen[2]
    assert await site.ids() == [1, 3]


# The last statement


@pytest.mark.adapters("asyncpg", "psycopg", "psycopg_sync")
async def test_postgresql_s_session_is_written_last(site: Site) -> None:
    """When COMMIT is about to come, the request's own connection has last written the session."""
    activity = """
        SELECT query FROM pg_stat_activity
         WHERE datname = current_database() AND pid <> pg_backend_pid() AND state = 'idle in transaction'
    """
    last: list[str] = []

    async def look(_: Message) -> None:
        last.extend(query for (query,) in await site.sql(activity))

    async with selling(site, outside=[last_of_all(look)]) as shop:
        for number in (1, 2):
            assert (await shop.client.post("/visit", params={"id": number})).status_code == 201

        begin, change = (" ".join(text.split()) for text in last)
        assert begin.startswith(f"INSERT INTO {shop.store.table_name} ")
        assert change.startswith(f"UPDATE {shop.store.table_name} ")


@pytest.mark.adapters("sqlite", "aiosqlite")
@pytest.mark.parametrize("same", [True, False])
async def test_sqlite_s_session_is_written_last(site: Site, monkeypatch: pytest.MonkeyPatch, *, same: bool) -> None:
    """Also without ``same_transaction``, because there nobody else can write before COMMIT."""
    texts: list[str] = []
    connect = sqlite3.connect

    def traced(*arguments: Any, **options: Any) -> sqlite3.Connection:  # noqa: ANN401 - whatever the adapter gives
        connection: sqlite3.Connection = connect(*arguments, **options)
        connection.set_trace_callback(texts.append)
        return connection

    monkeypatch.setattr(sqlite3, "connect", traced)
    async with selling(site, same=same) as shop:
        await shop.client.post("/visit", params={"id": 1})
        texts.clear()
        assert (await shop.client.post("/visit", params={"id": 2})).status_code == 201
        statements = [" ".join(text.split()) for text in texts]

        insert = next(n for n, text in enumerate(statements) if text.startswith(f"INSERT INTO {site.tables.item}"))
        assert [text.partition(" ")[0] for text in statements[insert:]] == ["INSERT", "UPDATE", "COMMIT"]
        assert shop.store.table_name in statements[insert + 1]


# Waiting


async def test_a_request_never_waits_for_itself(site: Site) -> None:
    """Whatever its handler does with its own session in the middle of its transaction."""
    loop = asyncio.get_running_loop()
    found: list[object] = []

    async def everything(call: Call) -> None:
        request = call.request
        backend, own = SQLSessionBackend(config=shop.sessions), request.cookies["session"]
        await call.db.execute(site.tables.insert, (call.id,))
        for name in ("first", "second"):
            request.session[name] = True
            await in_loop(call, loop, save_session(request))
            await in_loop(call, loop, backend.set(own, b'{"by":"backend"}', shop.store))
            found.append(await in_loop(call, loop, backend.get(own, shop.store)))  # which moves the expiry
            await in_loop(call, loop, shop.listed.revoke_others(request))
        rotate_session_id(request)
        request.session["third"] = True
        await in_loop(call, loop, save_session(request))
        request.session["fourth"] = True
        await call.db.execute(site.tables.insert, (call.id + 1,))

    options = {"timeout": 10}
    async with selling(site, site.route("/everything", everything), options=options, touch_after=0) as shop:
        await shop.client.post("/login", params={"id": 1})
        async with shop.browser() as other:
            await other.post("/login", params={"id": 2})
        old = shop.client.cookies["session"]
        async with asyncio.timeout(9):
            answer = await shop.client.post("/everything", params={"id": 3})

        assert answer.status_code == 201, answer.text
        assert shop.client.cookies["session"] != old
        assert found == [b'{"by":"backend"}'] * 2
        assert await shop.session() == {"by": "backend", "third": True, "fourth": True}
        assert len(await shop.listed.list_sessions("ada")) == 1
    assert await site.ids() == [1, 2, 3, 4]


async def test_sessions_of_others_do_not_wait(site: Site) -> None:
    """While a handler is in the middle of its transaction, 100 others' are saved.

    SQLite has one writer: a handler that has written there is waited for, one that has only read is not.
    """
    begun, released = threading.Event(), threading.Event()

    async def slow(call: Call) -> None:
        if "write" in call.request.query_params:
            await call.db.execute(site.tables.insert, (call.id,))
        else:
            await call.db.fetch_all(site.tables.ids)
        call.request.session["slow"] = True
        begun.set()
        await call.elsewhere(asyncio.to_thread(released.wait, 30))

    one_writer = site.adapter.dialect == "sqlite"
    options = {"timeout": 30}
    async with selling(site, site.route("/slow", slow), options=options) as shop:
        for number, mode in enumerate(("read", "write")):
            begun.clear()
            released.clear()
            slowly = asyncio.create_task(shop.client.post("/slow", params={"id": number, mode: "yes"}))
            await asyncio.to_thread(begun.wait, 30)
            backend = SQLSessionBackend(config=shop.sessions)
            saves = [asyncio.create_task(backend.set(f"{mode} {each}", b"{}", shop.store)) for each in range(100)]
            waits = one_writer and mode == "write"
            done, _ = await asyncio.wait(saves, timeout=0.5 if waits else 20)
            assert len(done) == (0 if waits else 100)
            assert not slowly.done()
            released.set()

            assert (await slowly).status_code == 201
            await asyncio.gather(*saves)
            assert (await shop.session())["slow"]
    assert await site.ids() == [1]


# At the same time


SNAPSHOT = {"mysql": "repeatable read", "oracle": "serializable", "postgresql": "repeatable read"}
"""The level at which a transaction sees one moment; SQLite's sees it as the one writer, from its first write on."""


async def _refuses_what_is_newer(site: Site) -> bool:
    """Return whether a transaction cannot write to what others have written since the moment that it sees.

    PostgreSQL's cannot, MySQL's can, and MariaDB's can as ``innodb_snapshot_isolation`` says: on from 11.6.2 on.
    """
    if site.adapter.dialect == "mysql":
        return ("innodb_snapshot_isolation", "ON") in await site.sql("SHOW VARIABLES LIKE 'innodb_snapshot_isolation'")
    return site.adapter.dialect in {"oracle", "postgresql"}


@pytest.mark.parametrize("snapshot", [False, True])
async def test_requests_of_one_session_merge_their_changes(site: Site, *, snapshot: bool) -> None:
    """Each waits for the other's COMMIT only; where a snapshot is too old for that, the whole request is refused."""
    if snapshot and site.emulated:
        pytest.skip("Oracle's emulator has one isolation level")
    isolation = SNAPSHOT.get(site.adapter.dialect, "") if snapshot else "read committed"
    if site.adapter.dialect == "sqlite":  # its only level lets requests wait for each other from the start
        isolation = ""
    arrived = 0
    ready = asyncio.Event()

    async def change(call: Call) -> None:
        nonlocal arrived
        call.request.session[f"key {call.id}"] = call.id
        await call.db.fetch_all(site.tables.ids)
        arrived += 1
        if arrived == 5:
            loop.call_soon_threadsafe(ready.set)
        await in_loop(call, loop, ready.wait())
        await call.db.execute(site.tables.insert, (call.id,))

    loop = asyncio.get_running_loop()
    opt = {"db_session": {"isolation_level": isolation}} if isolation else {}
    async with selling(site, site.route("/change", change, opt=opt), options={"timeout": 30}) as shop:
        await shop.client.post("/login", params={"id": 100})
        async with asyncio.timeout(30):
            answers = await asyncio.gather(
                *(shop.browser(shop.client.cookies).post("/change", params={"id": number}) for number in range(5))
            )
        statuses = [answer.status_code for answer in answers]
        stored = [number for number, status in enumerate(statuses) if status == 201]
        session = await shop.session()

        assert sorted(key for key in session if key != "visits") == [f"key {number}" for number in stored]
        assert await site.ids() == [*stored, 100]
        assert set(statuses) <= {201, 503}
        refused = snapshot and await _refuses_what_is_newer(site)
        assert len(stored) == (1 if refused else 5), statuses


async def test_a_conflict_undoes_the_rows(site: Site) -> None:
    """With ``on_conflict="raise"`` the later request is a complete 409, and can simply be sent again."""
    loop = asyncio.get_running_loop()

    async def change(call: Call) -> None:
        if "wait" in call.request.query_params:
            await in_loop(call, loop, somebody_else(shop))
        call.request.session["key"] = call.id
        await call.db.execute(site.tables.insert, (call.id,))

    async def somebody_else(shop: Shop) -> None:
        async with shop.browser(shop.client.cookies) as other:
            assert (await other.post("/remember", params={"key": "other"})).status_code == 201

    async with selling(site, site.route("/change", change), on_conflict="raise", options={"size": 4}) as shop:
        await shop.client.post("/login", params={"id": 1})
        refused = await shop.client.post("/change", params={"id": 2, "wait": "yes"})
        assert refused.status_code == 409
        assert "another request has changed 'key'" in refused.json()["detail"]
        assert await site.ids() == [1]
        assert (await shop.session())["key"] == "other"
        again = await shop.client.post("/change", params={"id": 2})

        assert again.status_code == 201
        assert (await shop.session())["key"] == 2
    assert await site.ids() == [1, 2]


async def test_a_conflict_waits_for_nobody_who_waits_for_it(site: Site) -> None:
    """A session is merged although others wait, as on SQLite, for the transaction to end before they renew it."""
    loop = asyncio.get_running_loop()
    waiting: list[asyncio.Task[bytes | None]] = []

    async def change(call: Call) -> None:
        await in_loop(call, loop, somebody_else())
        await call.db.execute(site.tables.insert, (call.id,))
        await in_loop(call, loop, begin_to_renew())
        call.request.session["key"] = call.id

    async def somebody_else() -> None:
        async with shop.browser(shop.client.cookies) as other:
            assert (await other.post("/remember", params={"other": "yes"})).status_code == 201

    async def begin_to_renew() -> None:
        backend, own = SQLSessionBackend(config=shop.sessions), shop.client.cookies["session"]
        # In a context of its own, as that of another request.
        waiting.append(asyncio.create_task(backend.get(own, shop.store), context=contextvars.Context()))
        await asyncio.wait(waiting, timeout=0.5)

    options = {"size": 4, "timeout": 30}
    async with selling(site, site.route("/change", change), options=options, touch_after=0) as shop:
        await shop.client.post("/login", params={"id": 1})
        async with asyncio.timeout(15):
            answer = await shop.client.post("/change", params={"id": 2})
            await asyncio.gather(*waiting)

        assert answer.status_code == 201
        assert await shop.session() == {"visits": 1, "other": "yes", "key": 2}
    assert await site.ids() == [1, 2]


@pytest.mark.adapters("asyncpg", "asyncmy_mysql", "aiosqlite")
async def test_no_merge_waits_for_a_save_that_waits_for_it(site: Site) -> None:
    """A transaction that finds another version than it expected holds the row's lock nevertheless, until it ends."""
    turn = asyncio.Semaphore(12)

    async def visit(number: int) -> int:
        path, params = ("/visit", {"id": number}) if number % 2 else ("/remember", {f"key {number}": "yes"})
        async with turn, shop.browser(shop.client.cookies) as browser:
            return (await browser.post(path, params=params)).status_code

    async with selling(site, options={"timeout": 4}) as shop:
        await shop.client.post("/login", params={"id": 100})
        statuses = await asyncio.gather(*(visit(number) for number in range(80)))

        assert set(statuses) == {201}
        assert len([key for key in await shop.session() if key.startswith("key")]) == 40


async def test_a_session_that_others_have_ended_stays_so(site: Site) -> None:
    """The rows are committed nevertheless; what was written into the session is dropped."""
    loop = asyncio.get_running_loop()

    async def change(call: Call) -> None:
        await in_loop(call, loop, shop.listed.revoke_all("ada"))
        call.request.session["key"] = call.id
        await call.db.execute(site.tables.insert, (call.id,))

    async with selling(site, site.route("/change", change)) as shop:
        await shop.client.post("/login", params={"id": 1})
        answer = await shop.client.post("/change", params={"id": 2})

        assert (answer.status_code, "set-cookie" in answer.headers) == (201, False)
        assert [session async for session in shop.listed.all_sessions()] == []
    assert await site.ids() == [1, 2]


# What is saved by itself


@pytest.mark.parametrize("status", [404, 500])
async def test_what_is_saved_by_itself_stays(site: Site, status: int) -> None:
    """`save_session` survives the rollback; where SQLite's one writer has written, it is undone with the rest."""
    loop = asyncio.get_running_loop()

    async def save(call: Call) -> Response[int]:
        call.request.session["before"] = True
        await in_loop(call, loop, save_session(call.request))
        answer = await site.insert(call)
        call.request.session["after"] = True
        await in_loop(call, loop, save_session(call.request))
        call.request.session["never"] = True
        return answer

    async with selling(site, site.route("/save", save)) as shop:
        await shop.client.post("/login", params={"id": 1})
        await shop.client.post("/save", params={"id": 2, "status": status})
        kept = {"before"} if site.adapter.dialect == "sqlite" else {"before", "after"}

        assert {*await shop.session()} == {"visits", *kept}
    assert await site.ids() == [1]


async def test_manual_mode_has_no_transaction_to_be_in(site: Site) -> None:
    """The session is saved by itself, whatever the status below 500; so it is where no connection was used."""
    manual = {"db_session": {"commit_mode": "manual"}}
    async with selling(site, site.route("/manual", _visit, opt=manual)) as shop:
        for number, status in enumerate((201, 404, BROKEN)):
            await shop.client.post("/manual", params={"id": number, "status": status})

        assert await shop.session() == {"visits": 2}
    assert await site.ids() == [0, 1, 2]


@pytest.mark.parametrize("same", [True, False])
async def test_a_transaction_that_may_only_read_has_no_session_in_it(site: Site, *, same: bool) -> None:
    """What its request makes of the session is saved by itself, and so is its expiry."""

    async def read(call: Call) -> Response[int]:
        number = len(await call.db.fetch_all(site.tables.ids))
        if "change" in call.request.query_params:
            call.request.session["number"] = number
        return Response(number, status_code=int(call.request.query_params["status"]))

    opt = {"db_session": {"read_only": True}}
    async with selling(site, site.route("/read", read, opt=opt), same=same, touch_after=0) as shop:
        await shop.client.post("/login", params={"id": 1})
        [before] = await shop.listed.list_sessions("ada")
        renewed = await shop.client.post("/read", params={"status": 201})
        [after] = await shop.listed.list_sessions("ada")
        changed = await shop.client.post("/read", params={"status": 404, "change": "yes"})

        assert (renewed.status_code, changed.status_code) == (201, 404)
        assert after.last_seen > before.last_seen
        assert await shop.session() == {"visits": 1, "number": 1}


@pytest.mark.parametrize("same", [True, False])
async def test_the_order_at_the_end_of_a_request(site: Site, *, same: bool) -> None:
    """The session is saved, the transaction committed, the response begun: each once.

    With ``same_transaction``, and on SQLite, nobody sees the session before the rows.
    """
    happened: list[tuple[str, int, list[int]]] = []

    async def note(what: str) -> None:
        stored = [session async for session in shop.listed.all_sessions()]
        happened.append((what, len(stored), await site.ids()))

    async def before_commit(_: Message) -> None:
        await note("before COMMIT")

    async def note_start(send: Send, message: Message) -> None:
        if message["type"] == "http.response.start":
            await note(str(message["status"]))
        await send(message)

    async with selling(site, same=same, outside=[last_of_all(before_commit)], spied=note_start) as shop:
        await shop.client.post("/visit", params={"id": 1})
        async with shop.browser() as other:
            await other.post("/visit", params={"id": 2, "status": 404})
        after = [session async for session in shop.listed.all_sessions()]

    together = same or site.adapter.dialect == "sqlite"
    assert happened == [("before COMMIT", 0 if together else 1, []), ("201", 1, [1])]
    assert len(after) == (1 if same else 2)
    assert await site.ids() == [1]


# The server dies


@pytest.mark.adapters("asyncpg", "asyncmy_mariadb", "asyncmy_mysql")
async def test_a_server_that_dies_stores_both_or_neither(site: Site, private_server: Server) -> None:
    """Killed between the session's statement and COMMIT, it has stored neither; at any other moment both or neither."""
    moments = random.Random(1)  # noqa: S311 - no secrets
    kills = False

    async def kill(_: Message) -> None:
        if kills:
            await asyncio.to_thread(private_server.kill)

    async def start(*, again: bool = True) -> None:
        if again:
            await asyncio.to_thread(private_server.start)
        if site.adapter.dialect == "mysql":  # else it would lose what it has committed in the last second
            await private_server.fetch("SET GLOBAL innodb_flush_log_at_trx_commit = 2", private_server.dsn)

    async def ids() -> list[int]:
        return [row[0] for row in await private_server.fetch(site.tables.ids, private_server.dsn)]

    await start(again=False)
    create = f"CREATE TABLE {site.tables.item} (id INTEGER PRIMARY KEY)"
    await private_server.fetch(create, private_server.dsn)
    options = {"dsn": private_server.dsn, "timeout": 5}
    async with selling(site, outside=[last_of_all(kill)], options=options) as shop:
        assert (await shop.client.post("/visit", params={"id": 1})).status_code == 201
        kills = True
        killed = await shop.client.post("/visit", params={"id": 2})
        kills = False
        await start()
        assert killed.status_code in {500, 503}
        assert (await shop.session(), await ids()) == ({"visits": 1}, [1])
        for number in range(3, 7):
            visiting = asyncio.create_task(shop.client.post("/visit", params={"id": number}))
            await asyncio.sleep(moments.uniform(0, 0.02))
            await asyncio.to_thread(private_server.kill)
            answer = await visiting
            await start()
            visits, stored = (await shop.session())["visits"], await ids()

            assert visits == len(stored)
            assert answer.status_code != 201 or number in stored
