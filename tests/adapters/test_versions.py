"""Other releases of the servers than those that all the tests run on: every verb, in company and alone."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from sqlstore.adapters.asyncmy import AsyncmyConfig, AsyncmyStore
from sqlstore.adapters.asyncpg import AsyncpgConfig, AsyncpgStore
from sqlstore.adapters.psycopg import PsycopgSyncConfig, PsycopgSyncStore

from .. import servers
from ..contract.verbs import EFFECTS, KEY

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable

    from sqlstore import BaseSQLSpecStore

    Store = BaseSQLSpecStore[Any]


class MariaDBOfSystem(servers.MariaDB):
    """10.11 on Debian 12."""

    @classmethod
    def find_executable(cls) -> Path:
        """See `Server.find_executable`."""
        executable = Path("/usr/sbin/mariadbd")
        if not executable.exists():
            msg = f"no {executable}"
            raise FileNotFoundError(msg)
        return executable


STORES: dict[str, tuple[type[servers.Server], Callable[[str], Store]]] = {
    "postgresql, asyncpg": (
        servers.PostgreSQLOfTree,
        lambda dsn: AsyncpgStore(AsyncpgConfig(pool_config={"dsn": dsn})),
    ),
    "postgresql, psycopg": (
        servers.PostgreSQLOfTree,
        lambda dsn: PsycopgSyncStore(PsycopgSyncConfig(pool_config={"conninfo": dsn})),
    ),
    "mariadb, asyncmy": (
        MariaDBOfSystem,
        lambda dsn: AsyncmyStore(AsyncmyConfig(pool_config=servers.MariaDB.options(dsn))),
    ),
}


@pytest.fixture(params=STORES)
async def other(request: pytest.FixtureRequest) -> AsyncGenerator[Store, None]:
    """Give a store on a server of another release."""
    kind, make = STORES[request.param]
    try:
        server = kind.private()
    except (OSError, RuntimeError) as error:
        servers.missing(kind, str(error))
    try:
        async with make(await server.create_database()) as store:
            await store.create_table()
            yield store
            await store.drop_table()
    finally:
        server.close()


async def test_every_verb_works_on_another_release(other: Store) -> None:
    """Alone, and many at a time."""
    for name, effect in EFFECTS.items():
        await effect.prepare(other)

        assert await effect.call(other) == effect.answer, name
        assert await other.get(KEY) == effect.left, name
    await asyncio.gather(*(other.set(f"k{number}", b"v", 60 if number % 2 else 0.001) for number in range(600)))
    await asyncio.gather(*(other.get(f"k{number}", renew_for=90) for number in range(600)))

    assert await other.delete_expired() == 300
    assert len(await other.get_many([f"k{number}" for number in range(600)])) == 300
    assert sum(await asyncio.gather(*(other.incr("n") for _ in range(20)))) == 210
