"""Sessions that other packages have stored go on with ours: by the files in docs/import/."""

from __future__ import annotations

import re
import sqlite3
from contextlib import asynccontextmanager, closing
from typing import TYPE_CHECKING, Any, TypeAlias

import pytest
from advanced_alchemy.extensions.litestar import SQLAlchemyAsyncConfig
from advanced_alchemy.extensions.litestar.session import SessionModelMixin, SQLAlchemyAsyncSessionBackend
from litestar import Litestar, Request, get, post
from litestar.middleware import DefineMiddleware
from litestar.middleware.session import SessionMiddleware
from litestar.middleware.session.server_side import ServerSideSessionConfig
from litestar.params import FromQuery
from sqlspec.adapters import aiosqlite, asyncmy, asyncpg, oracledb
from sqlspec.adapters.aiosqlite.litestar import AiosqliteStore
from sqlspec.adapters.asyncmy.litestar import AsyncmyStore
from sqlspec.adapters.asyncpg.litestar import AsyncpgStore
from sqlspec.adapters.oracledb.litestar import OracleAsyncStore

from sqlstore import Migrator
from sqlstore.litestar import SQLSessionConfig, SQLStorePlugin

from ..litestar.applications import running
from .pages import DOCS, fences

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable

    from ..conftest import Adapter
    from ..servers import Server

AnyRequest: TypeAlias = Request[Any, Any, Any]
User: TypeAlias = FromQuery[str]
Execute: TypeAlias = "Callable[[str], Awaitable[list[tuple[Any, ...]]]]"

LIFETIME = 3600
DEFAULT_TABLE = "litestar_session"
PAST = {"oracle": "TIMESTAMP '2020-01-01 00:00:00 +00:00'", "sqlite": "'2020-01-01 00:00:00.000000'"}
JULIAN_PAST = "julianday('2020-01-01')"
STORES: dict[str, tuple[Any, Any]] = {
    "asyncpg": (asyncpg.AsyncpgConfig, AsyncpgStore),
    "asyncmy_mysql": (asyncmy.AsyncmyConfig, AsyncmyStore),
    "aiosqlite": (aiosqlite.AiosqliteConfig, AiosqliteStore),
    "oracle": (oracledb.OracleAsyncConfig, OracleAsyncStore),
}
"""SQLSpec's. Its statements for MySQL are syntax errors on MariaDB."""
DRIVERS = {
    "asyncpg": ("postgresql:", "postgresql+asyncpg:"),
    "asyncmy_mariadb": ("mysql:", "mysql+asyncmy:"),
    "asyncmy_mysql": ("mysql:", "mysql+asyncmy:"),
    "aiosqlite": ("/", "sqlite+aiosqlite:////"),
}
"""SQLAlchemy's."""


class OldSession(SessionModelMixin):
    """Advanced Alchemy's sessions."""

    __tablename__ = "old_session"


@post("/login", status_code=204)
async def login(request: AnyRequest, user: User) -> None:
    """Begin a session."""
    request.session["user"] = user


@post("/logout", status_code=204)
async def logout(request: AnyRequest) -> None:
    """End the session."""
    request.clear_session()


@get("/")
async def whose(request: AnyRequest) -> str:
    """Return whose session it is."""
    user: str = request.session.get("user", "")
    return user


HANDLERS = [login, logout, whose]


@asynccontextmanager
async def sqlspec(adapter: Adapter, dsn: str, execute: Execute) -> AsyncGenerator[Litestar, None]:
    """Give an application with SQLSpec's store."""
    make_config, make_store = STORES[adapter.name]
    config = make_config(connection_config=adapter.pool_config(dsn))
    store = make_store(config)
    if adapter.database == "oracle":  # whose emulator does not run the block around it
        for ddl in re.findall(r"EXECUTE IMMEDIATE '(.*?)'", store._table_ddl(), re.DOTALL):  # noqa: SLF001
            await execute(ddl)
    else:
        await store.create_table()
    try:
        sessions = ServerSideSessionConfig(max_age=LIFETIME)
        yield Litestar(HANDLERS, middleware=[sessions.middleware], stores={"sessions": store})
    finally:
        await config.close_pool()


@asynccontextmanager
async def alchemy(adapter: Adapter, dsn: str) -> AsyncGenerator[Litestar, None]:
    """Give an application with Advanced Alchemy's session backend."""
    config = SQLAlchemyAsyncConfig(connection_string=dsn.replace(*DRIVERS[adapter.name], 1))
    async with config.get_engine().begin() as connection:
        await connection.run_sync(OldSession.metadata.create_all)
    try:
        sessions = ServerSideSessionConfig(max_age=LIFETIME)
        backend = SQLAlchemyAsyncSessionBackend(sessions, config, OldSession)
        yield Litestar(HANDLERS, middleware=[DefineMiddleware(SessionMiddleware, backend=backend)])
    finally:
        await config.get_engine().dispose()


@pytest.fixture
def execute(adapter: Adapter, fresh_database: str, request: pytest.FixtureRequest) -> Execute:
    """Return a function that runs one statement in the test's database, and returns its rows."""

    async def run(sql: str) -> list[tuple[Any, ...]]:
        if not adapter.networked:
            with closing(sqlite3.connect(fresh_database)) as connection, connection:
                return connection.execute(sql).fetchall()
        server: Server = request.getfixturevalue("server")
        return await server.fetch(sql, fresh_database)

    return run


async def check_import(adapter: Adapter, database: str, execute: Execute, old: Litestar, table: str) -> None:
    """See that the sessions of *old* go on: those that are alive and Litestar's own, and each but once."""
    cookies: dict[str, str] = {}
    async with running(old) as client:
        for user in ("ada", "bob", "late", "planted"):
            client.cookies.clear()
            chosen = {"Cookie": "session=planted"} if user == "planted" else {}
            answer = await client.post("/login", params={"user": user}, headers=chosen)
            cookies[user] = answer.cookies["session"]
    if table == DEFAULT_TABLE:
        *_, rename = fences("migrations.md", "sql")
        await execute(rename.body.strip().rstrip(";"))
    past = PAST.get(adapter.database, "'2020-01-01'") if table != DEFAULT_TABLE or adapter.networked else JULIAN_PAST
    await execute(f"UPDATE old_session SET expires_at = {past} WHERE session_id = '{cookies['late']}'")  # noqa: S608
    config = adapter.config(pool_config=adapter.pool_config(database))
    store = adapter.store(config)
    await Migrator(config).upgrade()
    assert await Migrator(config).check() == []
    statements = [part.strip() for part in (DOCS / f"import/{adapter.dialect}.sql").read_text().split(";\n")]
    async with store:

        async def copy() -> set[str]:
            for statement in filter(None, statements):
                await execute(statement)
            return {row[0] for row in await execute("SELECT session_id FROM litestar_session")}

        assert await copy() == {cookies["ada"], cookies["bob"]}
        remaining = await store.with_namespace("sessions").expires_in(cookies["ada"])

    assert remaining == pytest.approx(LIFETIME, abs=60)
    sessions = SQLSessionConfig(hash_ids="migrate")
    new = Litestar(HANDLERS, middleware=[sessions.middleware], plugins=[SQLStorePlugin(config)])
    async with running(new) as client:

        async def ask(method: str, path: str, user: str) -> str:
            client.cookies.clear()
            return (await client.request(method, path, headers={"Cookie": f"session={cookies[user]}"})).text

        assert [await ask("GET", "/", user) for user in cookies] == ["ada", "bob", "", ""]
        await ask("POST", "/logout", "bob")
        await copy()

        assert [await ask("GET", "/", user) for user in cookies] == ["ada", "", "", ""]


@pytest.mark.adapters(*STORES)
async def test_sessions_of_sqlspec_go_on(adapter: Adapter, fresh_database: str, execute: Execute) -> None:
    """Its table has the name of ours, and is renamed first."""
    async with sqlspec(adapter, fresh_database, execute) as old:
        await check_import(adapter, fresh_database, execute, old, DEFAULT_TABLE)


@pytest.mark.adapters(*DRIVERS)
async def test_sessions_of_advanced_alchemy_go_on(adapter: Adapter, fresh_database: str, execute: Execute) -> None:
    """Its table has the name that the application gives it."""
    async with alchemy(adapter, fresh_database) as old:
        await check_import(adapter, fresh_database, execute, old, "old_session")
