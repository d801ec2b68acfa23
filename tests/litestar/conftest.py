"""The fixtures of the tests that have an application."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING

import pytest

from ..contract.conftest import connections, sql
from .applications import Site, Tables

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable

    from ..conftest import Adapter, MakeConfig
    from ..contract.conftest import SQL, Connections

__all__ = ("connections", "sql")


@pytest.fixture
async def tables(adapter: Adapter, sql: SQL) -> AsyncGenerator[Tables, None]:
    """Give tables of the test's own."""
    name = f"test_{secrets.token_hex(6)}"
    # MySQL and MariaDB look up a foreign key at once, whatever they are asked.
    promise = "" if adapter.dialect == "mysql" else f"{name}_promise"
    await sql(
        f"CREATE TABLE {name} (id INTEGER PRIMARY KEY, owner INTEGER, FOREIGN KEY (owner) REFERENCES {name} (id))"
    )
    if promise:
        await sql(f"CREATE TABLE {promise} (item INTEGER REFERENCES {name} (id) DEFERRABLE INITIALLY DEFERRED)")
    yield Tables(name, promise, adapter.placeholder)
    if promise:
        await sql(f"DROP TABLE {promise}")
    await sql(f"DROP TABLE {name}")


@pytest.fixture
def site(adapter: Adapter, tables: Tables, make_config: MakeConfig, sql: SQL, request: pytest.FixtureRequest) -> Site:
    """Return what makes applications."""
    emulated = adapter.networked and request.getfixturevalue("server").emulated
    return Site(adapter, tables, make_config, sql, emulated=emulated)


_CONNECTIONS = {
    "oracle": """
        SELECT COUNT(*) FROM v$session
         WHERE username = USER AND sid <> TO_NUMBER(SYS_CONTEXT('USERENV', 'SID'))
    """,
    "postgresql": """
        SELECT COUNT(*) FROM pg_stat_activity
         WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'
    """,
}


@pytest.fixture
def open_connections(adapter: Adapter, connections: Connections, sql: SQL) -> Callable[[], Awaitable[int]]:
    """Return a function that counts all connections to the test's database, whoever opened them."""

    async def count() -> int:
        if adapter.dialect not in _CONNECTIONS:  # where those of the stores cannot be told from others
            return len(await connections())
        [(number,)] = await sql(_CONNECTIONS[adapter.dialect])
        return int(number)

    return count
