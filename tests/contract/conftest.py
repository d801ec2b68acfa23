"""What the contract's tests need besides stores: somebody else's transactions, processes, a look at connections."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import sys
from contextlib import asynccontextmanager, closing, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import asyncpg
import pytest

from ..servers import ASYNCMY, ORACLEDB, MySQL, oracle_options

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
    from contextlib import AbstractAsyncContextManager

    from sqlstore.config import BaseConfig

    from ..conftest import Adapter
    from ..servers import Server


class Hold(Protocol):
    """Hold the rows of *keys* in a transaction of somebody else's: on SQLite, which has no row locks, the file."""

    def __call__(self, table: str, *keys: str) -> AbstractAsyncContextManager[None]:
        """See above."""
        ...


@asynccontextmanager
async def _hold_in_postgresql(dsn: str, table: str, keys: Sequence[str]) -> AsyncGenerator[None, None]:
    connection = await asyncpg.connect(dsn)
    try:
        async with connection.transaction():
            held = await connection.fetch(f"SELECT FROM {table} WHERE session_id = ANY($1) FOR UPDATE", keys)
            assert len(held) == len(keys)
            yield
    finally:
        await connection.close()


@asynccontextmanager
async def _hold_in_mysql(dsn: str, table: str, keys: Sequence[str]) -> AsyncGenerator[None, None]:
    connection = await ASYNCMY.connect(**MySQL.options(dsn))
    try:
        async with connection.cursor() as cursor:
            if keys:
                await cursor.execute(f"SELECT namespace, session_id FROM {table} WHERE session_id IN %s", (keys,))  # noqa: S608
                rows = await cursor.fetchall()
                assert len(rows) == len(keys)
                for row in rows:  # by their primary key, or all rows would be held that are looked at
                    sql = f"SELECT 1 FROM {table} WHERE namespace = %s AND session_id = %s FOR UPDATE"  # noqa: S608
                    await cursor.execute(sql, row)
            yield
    finally:
        await connection.ensure_closed()


@asynccontextmanager
async def _hold_in_sqlite(path: str, _table: str, _keys: Sequence[str]) -> AsyncGenerator[None, None]:
    connection = sqlite3.connect(path, isolation_level=None)
    try:
        connection.execute("BEGIN IMMEDIATE")
        yield
    finally:
        connection.close()


@asynccontextmanager
async def _hold_in_oracle(dsn: str, table: str, keys: Sequence[str]) -> AsyncGenerator[None, None]:
    async with ORACLEDB.connect_async(**oracle_options(dsn)) as connection:
        wanted = ", ".join(f"'{key}'" for key in keys) or "NULL"
        held = await connection.fetchall(
            f"SELECT session_id FROM {table} WHERE session_id IN ({wanted}) FOR UPDATE"  # noqa: S608
        )
        assert len(held) == len(keys)
        yield


_HOLD: dict[str, Callable[[str, str, Sequence[str]], AbstractAsyncContextManager[None]]] = {
    "mysql": _hold_in_mysql,
    "oracle": _hold_in_oracle,
    "postgresql": _hold_in_postgresql,
    "sqlite": _hold_in_sqlite,
}


@pytest.fixture
def hold(adapter: Adapter, database: str) -> Hold:
    """Return a context manager that is in the way of writes."""

    def hold(table: str, *keys: str) -> AbstractAsyncContextManager[None]:
        return _HOLD[adapter.dialect](database, table, keys)

    return hold


class SQL(Protocol):
    """Run one statement past the stores, over a connection of the driver's own, and return its rows."""

    async def __call__(self, text: str, at: str | None = None) -> list[tuple[Any, ...]]:
        """Run *text* in the test's database, or in the one *at* a DSN or path."""
        ...


@pytest.fixture
def sql(adapter: Adapter, database: str, request: pytest.FixtureRequest) -> SQL:
    """Return a function that looks at the tables, or changes them."""
    server: Server | None = request.getfixturevalue("server") if adapter.networked else None

    async def sql(text: str, at: str | None = None) -> list[tuple[Any, ...]]:
        if server is not None:
            return await server.fetch(text, at or database)
        with closing(sqlite3.connect(at or database, isolation_level=None)) as connection:
            return connection.execute(text).fetchall()

    return sql


class Connections(Protocol):
    """Return what tells the stores' open connections apart: server processes, or the file descriptors of *pid*."""

    async def __call__(self, pid: int | None = None) -> set[int]:
        """See above."""
        ...


def _descriptors(path: str, pid: int | None) -> set[int]:
    found: set[int] = set()
    for link in Path(f"/proc/{pid or os.getpid()}/fd").iterdir():
        with suppress(OSError):  # closed meanwhile
            if link.readlink() == Path(path):
                found.add(int(link.name))
    return found


@pytest.fixture
def connections(adapter: Adapter, database: str, request: pytest.FixtureRequest) -> Connections:
    """Return a function that looks at the stores' connections to the test's database."""
    server: Server | None = request.getfixturevalue("server") if adapter.networked else None

    async def connections(pid: int | None = None) -> set[int]:
        if server is None:
            return _descriptors(database, pid)
        return await server.connections(database)

    return connections


async def until(condition: Callable[[], bool | Awaitable[bool]]) -> None:
    """Wait until *condition* holds: what happens soon, but not at once."""
    async with asyncio.timeout(60):
        while True:
            holds = condition()
            if holds if isinstance(holds, bool) else await holds:
                return
            await asyncio.sleep(0.01)


async def until_closed(connections: Connections) -> None:
    """Wait until no connection is open, which a server may notice a moment later."""

    async def closed() -> bool:
        return not await connections()

    await until(closed)


class Script:
    """A Python process that stops at each ``pause()`` of its program."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        """Talk to *process*."""
        self._process = process
        self.pid = process.pid

    async def paused(self) -> None:
        """Wait until it stops at a ``pause()``."""
        assert self._process.stdout
        if await self._process.stdout.readline() != b"paused\n":
            await self.succeeds()

    async def go_on(self) -> None:
        """Let it go on from there."""
        assert self._process.stdin
        self._process.stdin.write(b"\n")
        await self._process.stdin.drain()

    async def succeeds(self) -> None:
        """Wait for its end, and fail if it complained, or warned of anything."""
        _, complaints = await self._process.communicate()
        if complaints or self._process.returncode:
            pytest.fail(f"exit status {self._process.returncode}: {complaints.decode()}")


class RunScript(Protocol):
    """Start *program* in a Python process that takes each warning for an error.

    It finds ``config``, ``Store`` and ``store``, over the same database and table as *config*.
    """

    async def __call__(self, program: str, config: BaseConfig) -> Script:
        """See above."""
        ...


_PRELUDE = """
import asyncio, gc, logging, os, sys, warnings
sys.modules["advanced_alchemy"] = None  # Litestar imports it if it is there, for longer than most programs run
# The development mode also reports callbacks that took long, which on a busy machine means nothing.
logging.getLogger("asyncio").addFilter(lambda record: not str(record.msg).startswith("Executing"))
from {module} import {config} as Config, {store} as Store

config = Config(pool_config={pool_config!r}, extension_config={extension_config!r})
store = Store(config)

def pause():
    print("paused", flush=True)
    sys.stdin.readline()

"""


@pytest.fixture
async def run_script(adapter: Adapter) -> AsyncGenerator[RunScript, None]:
    """Give a function that starts a Python process; what still runs after the test is killed."""
    started: list[asyncio.subprocess.Process] = []

    async def run_script(program: str, config: BaseConfig) -> Script:
        prelude = _PRELUDE.format(
            module=adapter.store.__module__,
            config=type(config).__name__,
            store=adapter.store.__name__,
            pool_config=config.pool_config,
            extension_config=config.extension_config,
        )
        pipe = asyncio.subprocess.PIPE
        started.append(
            await asyncio.create_subprocess_exec(
                *(sys.executable, "-X", "dev", "-W", "error", "-c", prelude + program),
                stdin=pipe,
                stdout=pipe,
                stderr=pipe,
            )
        )
        return Script(started[-1])

    yield run_script
    for process in started:
        if process.returncode is None:
            process.kill()
        await process.communicate()
