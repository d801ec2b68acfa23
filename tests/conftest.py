"""The fixtures of the suite: every adapter, over a real database.

A test that asks for any fixture of an adapter runs once for each row of `ADAPTERS`; for those with a server if it asks
for ``server``, ``private_server`` or ``proxy``; only for those that ``@pytest.mark.adapters("asyncpg")`` names.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import sqlite3
from collections import defaultdict
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest

from sqlstore import BaseConfig, BaseSQLSpecStore
from sqlstore.adapters.aiosqlite import AiosqliteConfig, AiosqliteStore
from sqlstore.adapters.asyncmy import AsyncmyConfig, AsyncmyStore
from sqlstore.adapters.asyncpg import AsyncpgConfig, AsyncpgStore
from sqlstore.adapters.oracledb import OracleAsyncConfig, OracleAsyncStore, OracleSyncConfig, OracleSyncStore
from sqlstore.adapters.psycopg import (
    PsycopgAsyncConfig,
    PsycopgAsyncStore,
    PsycopgSyncConfig,
    PsycopgSyncStore,
)
from sqlstore.adapters.sqlite import SqliteConfig, SqliteStore
from sqlstore.dialects import Step

from . import servers
from .proxy import Proxy

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Generator

    from .servers import Server

MakeConfig = Callable[..., BaseConfig]
MakeStore = Callable[..., BaseSQLSpecStore[Any]]


@dataclass(frozen=True)
class Adapter:
    """One adapter, its database, and its ``pool_config`` for the place where that is."""

    name: str
    database: str
    config: Callable[..., BaseConfig]
    store: type[BaseSQLSpecStore[Any]]
    pool_config: Callable[[str], dict[str, Any]]
    placeholder: str
    """Of an application's statements; ``{}`` stands for its number."""
    size: str
    """What its pool calls how many connections it has at most."""
    threaded: bool = False
    """Its application's calls block, so that handlers run in threads."""

    @property
    def dialect(self) -> str:
        """The name of its dialect, which several databases may speak."""
        name: str = self.store.config_type().dialect.name
        return name

    @property
    def networked(self) -> bool:
        """Whether its database is a server."""
        return self.database in servers.SERVERS

    @property
    def patience(self) -> float:
        """Seconds in which it connects and answers on a busy machine, too; the emulated Oracle is slow to log in."""
        return 2 if self.database == "oracle" else 0.5


ADAPTERS = (
    Adapter("asyncpg", "postgresql", AsyncpgConfig, AsyncpgStore, lambda dsn: {"dsn": dsn}, "${}", "max_size"),
    Adapter(
        "psycopg", "postgresql", PsycopgAsyncConfig, PsycopgAsyncStore, lambda dsn: {"conninfo": dsn}, "%s", "max_size"
    ),
    Adapter(
        "psycopg_sync",
        "postgresql",
        PsycopgSyncConfig,
        PsycopgSyncStore,
        lambda dsn: {"conninfo": dsn},
        "%s",
        "max_size",
        threaded=True,
    ),
    Adapter("asyncmy_mariadb", "mariadb", AsyncmyConfig, AsyncmyStore, servers.MariaDB.options, "%s", "maxsize"),
    Adapter("asyncmy_mysql", "mysql", AsyncmyConfig, AsyncmyStore, servers.MySQL.options, "%s", "maxsize"),
    Adapter("oracle", "oracle", OracleAsyncConfig, OracleAsyncStore, servers.oracle_options, ":{}", "max"),
    Adapter(
        "oracle_sync", "oracle", OracleSyncConfig, OracleSyncStore, servers.oracle_options, ":{}", "max", threaded=True
    ),
    Adapter("aiosqlite", "sqlite", AiosqliteConfig, AiosqliteStore, lambda path: {"database": path}, "?", "max_size"),
    Adapter(
        "sqlite", "sqlite", SqliteConfig, SqliteStore, lambda path: {"database": path}, "?", "max_size", threaded=True
    ),
)


def pytest_configure(config: pytest.Config) -> None:
    """Check ``SQLSTORE_REQUIRE``, load pytest-databases, make the directory that all processes of the run share."""
    config.addinivalue_line("markers", "adapters(*names): only for the adapters of these names")
    servers.required()
    for kind in servers.SERVERS.values():
        with suppress(ImportError):  # the search for a server reports it
            config.pluginmanager.import_plugin(kind.service[0])
    if hasattr(config, "workerinput"):  # a worker of xdist, which inherits the directory of its controller
        servers.die_with_parent()
    else:
        shared = servers.Shell(demoted=False)
        shared.run("chmod 1777 .")  # for servers that do not run as root, and those that do
        os.environ[servers.RUN_DIRECTORY] = str(shared.directory)
        config.add_cleanup(shared.close)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say where each database, and the browser, came from."""
    terminalreporter.section("databases and browser")
    terminalreporter.line(f"sqlite: {sqlite3.sqlite_version}, a file for each test")
    for note in sorted(Path(os.environ[servers.RUN_DIRECTORY]).glob("*.origin")):
        terminalreporter.line(f"{note.stem}: {note.read_text()}")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run a test for its adapters, each under its database's mark."""
    if "adapter" not in metafunc.fixturenames:
        return
    marker = metafunc.definition.get_closest_marker("adapters")
    names: tuple[str, ...] = marker.args if marker else tuple(row.name for row in ADAPTERS)
    if unknown := set(names) - {row.name for row in ADAPTERS}:
        pytest.fail(f"{metafunc.definition.nodeid}: no such adapter: {', '.join(sorted(unknown))}")
    networked = not {"server", "private_server", "proxy"}.isdisjoint(metafunc.fixturenames)
    metafunc.parametrize(
        "adapter",
        [
            pytest.param(row, id=row.name, marks=getattr(pytest.mark, row.database))
            for row in ADAPTERS
            if row.name in names and (row.networked or not networked)
        ],
        indirect=True,
    )


@pytest.fixture
def adapter(request: pytest.FixtureRequest) -> Adapter:
    """Return a row of `ADAPTERS`."""
    row: Adapter = request.param
    return row


def _of_worker(kind: type[Server], request: pytest.FixtureRequest) -> Generator[Server, None, None]:
    server = servers.find(kind, request)
    try:
        server.dsn = asyncio.run(server.create_database())
        yield server
        asyncio.run(server.drop_database(server.dsn))
    finally:
        server.close()


@pytest.fixture(scope="session")
def postgresql_server(request: pytest.FixtureRequest) -> Generator[Server, None, None]:
    """Give the worker's PostgreSQL server."""
    yield from _of_worker(servers.PostgreSQL, request)


@pytest.fixture(scope="session")
def mariadb_server(request: pytest.FixtureRequest) -> Generator[Server, None, None]:
    """Give the worker's MariaDB server."""
    yield from _of_worker(servers.MariaDB, request)


@pytest.fixture(scope="session")
def mysql_server(request: pytest.FixtureRequest) -> Generator[Server, None, None]:
    """Give the worker's MySQL server."""
    yield from _of_worker(servers.MySQL, request)


@pytest.fixture(scope="session")
def oracle_server(request: pytest.FixtureRequest) -> Generator[Server, None, None]:
    """Give the worker's Oracle server."""
    yield from _of_worker(servers.Oracle, request)


@pytest.fixture
def server(adapter: Adapter, request: pytest.FixtureRequest) -> Server:
    """Return the adapter's database server, which other tests use too."""
    server: Server = request.getfixturevalue(f"{adapter.database}_server")
    return server


@pytest.fixture
def private_server(adapter: Adapter) -> Generator[Server, None, None]:
    """Give a server that the test may stop and start."""
    kind = servers.SERVERS[adapter.database]
    try:
        server = kind.private()
    except (OSError, RuntimeError) as error:
        servers.missing(kind, str(error))
    yield server
    server.close()


@pytest.fixture
def _server_if_any(adapter: Adapter, request: pytest.FixtureRequest) -> Server | None:
    return request.getfixturevalue("server") if adapter.networked else None


@pytest.fixture
def database(_server_if_any: Server | None, tmp_path: Path) -> str:
    """Return where the adapter's database is: the DSN of one that other tests use too, or the path of a new file."""
    return _server_if_any.dsn if _server_if_any else str(tmp_path / "sqlstore.db")


@pytest.fixture
async def fresh_database(_server_if_any: Server | None, tmp_path: Path) -> AsyncGenerator[str, None]:
    """Give the DSN or path of an empty database for this test alone."""
    if _server_if_any is None:
        yield str(tmp_path / "fresh.db")
        return
    dsn = await _server_if_any.create_database()
    yield dsn
    await _server_if_any.drop_database(dsn)


@pytest.fixture
def proxy(
    server: Server,
    make_store: MakeStore,  # noqa: ARG001 - so that the proxy ends first: a frozen one would hold up a store's end
) -> Generator[Proxy, None, None]:
    """Give a proxy in front of the adapter's server."""
    place = urlsplit(server.dsn)
    assert place.hostname
    assert place.port, "the DSN must name the server's port"
    with Proxy(place.hostname, place.port, server.wire) as proxy:
        yield proxy


def _new_table() -> str:
    return f"test_{secrets.token_hex(6)}"


@pytest.fixture(scope="session")
def kept_tables() -> defaultdict[str, str]:
    """Return the name of the table that a server has for one test after the other: to make one takes longer than most.

    The emulated Oracle takes a second to make it and drop it.
    """
    return defaultdict(_new_table)


@pytest.fixture
def own_table() -> None:
    """Have a table that no test has used before; see `shares_table`."""


@pytest.fixture
def shares_table(adapter: Adapter, request: pytest.FixtureRequest) -> bool:
    """Return whether the test only uses its `store`, and cannot have changed the table itself."""
    names: list[str] = request.node.fixturenames
    return adapter.networked and "store" in names and {"own_table", "server", "sql"}.isdisjoint(names)


@pytest.fixture
def make_config(
    adapter: Adapter,
    database: str,
    kept_tables: defaultdict[str, str],
    shares_table: bool,  # noqa: FBT001 - a fixture
) -> MakeConfig:
    """Return a function that makes a config, with the table of the test's `store`, over the test's database.

    It takes the options of ``extension_config["litestar"]``, *dsn* for another database (or the path of another file),
    *port* for the proxy's, and *size*, how many connections the application's pool has at most.
    """
    own = _new_table()

    def make(*, dsn: str = database, port: int | None = None, size: int | None = None, **options: object) -> BaseConfig:
        place = dsn if port is None else servers.SERVERS[adapter.database].through(dsn, port)
        table = kept_tables[adapter.database] if shares_table else own
        return adapter.config(
            pool_config=adapter.pool_config(place) | ({adapter.size: size} if size else {}),
            extension_config={"litestar": {"session_table": table, **options}},
        )

    return make


@pytest.fixture
async def make_store(adapter: Adapter, make_config: MakeConfig) -> AsyncGenerator[MakeStore, None]:
    """Give a function that makes a store from what `make_config` takes; its table is not created, it is closed."""
    made: list[BaseSQLSpecStore[Any]] = []

    def make(**options: object) -> BaseSQLSpecStore[Any]:
        made.append(adapter.store(make_config(**options)))
        return made[-1]

    yield make
    for store in made:
        await store.close()


@pytest.fixture
async def store(
    adapter: Adapter,
    make_store: MakeStore,
    kept_tables: defaultdict[str, str],
    shares_table: bool,  # noqa: FBT001 - a fixture
) -> AsyncGenerator[BaseSQLSpecStore[Any], None]:
    """Give a store whose table exists and is empty."""
    store = make_store()
    if not shares_table:
        await store.create_table()
        yield store
        await store.drop_table()
        return
    if not await _emptied(store):  # there is none yet, or a test has dropped it, or has left a lock on it
        del kept_tables[adapter.database]
        store = make_store()
        await store.create_table()
    yield store


async def _emptied(store: BaseSQLSpecStore[Any]) -> bool:
    """Return whether the store's table is there, and now empty."""
    connection = await store.config.open_store_connection()
    timer = asyncio.get_running_loop().call_later(10, connection.kill)
    try:
        await connection.run([Step(f"DELETE FROM {store.table_name}")])  # noqa: S608 - the tests' own table
    except Exception:  # noqa: BLE001 - each driver's own
        return False
    finally:
        timer.cancel()
        await connection.close()
    return True
