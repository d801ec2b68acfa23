"""The grants that the page of PostgreSQL names are what a role needs."""

from __future__ import annotations

import re
import secrets
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest

from sqlstore import BaseSQLSpecStore, Migrator, ReadOnlyError, SQLStoreError
from sqlstore.adapters.asyncmy import AsyncmyConfig, AsyncmyStore
from sqlstore.adapters.asyncpg import AsyncpgConfig, AsyncpgStore
from sqlstore.dialects import MYSQL, POSTGRESQL

from .pages import fences

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from sqlstore.dialects import Dialect

    from ..servers import Server

pytestmark = pytest.mark.adapters("asyncpg")

GRANTS = [line for fence in fences("adapters/asyncpg.md", "sql") for line in fence.body.splitlines()]


@pytest.fixture
async def role(fresh_database: str, server: Server) -> AsyncGenerator[str, None]:
    """Give a role, also its password, that has the page's grants and no other, on a table that somebody else made."""
    await Migrator(AsyncpgConfig(pool_config={"dsn": fresh_database})).upgrade()
    role = f"app_{secrets.token_hex(6)}"
    await server.fetch(f"CREATE ROLE {role} LOGIN PASSWORD '{role}'")
    await server.fetch("REVOKE ALL ON SCHEMA public FROM PUBLIC", fresh_database)
    for grant in GRANTS:
        await server.fetch(re.sub(r"\bapp\b", role, grant), fresh_database)
    yield role
    await server.fetch(f"DROP OWNED BY {role}", fresh_database)
    await server.fetch(f"DROP ROLE {role}")


@pytest.fixture
async def limited(fresh_database: str, role: str) -> AsyncGenerator[AsyncpgStore, None]:
    """Give the role's store."""
    place = urlsplit(fresh_database)
    dsn = place._replace(netloc=f"{role}:{role}@{place.netloc.rpartition('@')[2]}").geturl()
    async with AsyncpgStore(AsyncpgConfig(pool_config={"dsn": dsn})) as store:
        yield store


async def call_every_verb(store: BaseSQLSpecStore[Any]) -> None:
    """Call them so that each reaches the row it is about."""
    await store.create_table()
    await store.set("k", b"v", expires_in=60)
    await store.get("k", renew_for=120)
    assert await store.exists("k")
    assert await store.expires_in("k")
    await store.set_many({"a": b"1", "b": b"2"})
    assert await store.get_many(["a", "b"]) == {"a": b"1", "b": b"2"}
    await store.delete_many(["a"])
    await store.delete("b")
    assert await store.add("c", b"3")
    assert await store.pop("c") == b"3"
    assert await store.incr("n") == 1
    assert (found := await store.get_versioned("n"))
    assert await store.compare_and_set("n", b"7", found.version)
    await store.delete_expired()
    await store.with_namespace("child").set("k", b"v")
    await store.delete_all()


@pytest.mark.parametrize(
    ("page", "language", "dialect", "table"),
    [("asyncpg", "sql", POSTGRESQL, "litestar_session"), ("asyncmy", "mysql", MYSQL, "app.litestar_session")],
    ids=["postgresql", "mysql"],
)
def test_the_page_has_the_grants_of_the_command(page: str, language: str, dialect: Dialect, table: str) -> None:
    """What ``sqlstore sql --role app`` prints."""
    [grants] = fences(f"adapters/{page}.md", language)

    assert grants.body.strip() == dialect.grants.format(schema="public", table=table, role="app").strip()


async def test_a_role_with_the_grants_can_call_every_verb(
    limited: AsyncpgStore, fresh_database: str, server: Server
) -> None:
    """``create_table`` is one of them, and leaves the table that is there."""
    table = "SELECT oid, xmin FROM pg_class WHERE relname = 'litestar_session'"
    before = await server.fetch(table, fresh_database)
    await call_every_verb(limited)

    assert await server.fetch(table, fresh_database) == before
    with pytest.raises(SQLStoreError):
        await limited.drop_table()


async def test_a_role_with_the_grants_finds_nothing_to_migrate(limited: AsyncpgStore) -> None:
    """Although it may not see the history that another role has made."""
    migrator = Migrator(limited.config)

    assert await migrator.upgrade() == []
    assert await migrator.check() == []


async def test_a_role_that_may_not_see_the_history_cannot_migrate(limited: AsyncpgStore) -> None:
    """And is told so, whatever it wants to do."""
    with pytest.raises(ReadOnlyError, match="permission denied for table sqlstore_migrations"):
        await Migrator(limited.config).downgrade("base")
    with pytest.raises(ReadOnlyError, match="permission denied for table sqlstore_migrations"):
        await limited.drop_table()


@pytest.mark.parametrize("privilege", ["USAGE", "SELECT", "INSERT", "UPDATE", "DELETE"])
async def test_a_role_needs_each_of_the_grants(
    limited: AsyncpgStore, fresh_database: str, server: Server, role: str, privilege: str
) -> None:
    """Without one of them, a verb raises."""
    place = "SCHEMA public" if privilege == "USAGE" else "litestar_session"
    await server.fetch(f"REVOKE {privilege} ON {place} FROM {role}", fresh_database)

    with pytest.raises(SQLStoreError):
        await call_every_verb(limited)


@pytest.mark.adapters("asyncmy_mariadb", "asyncmy_mysql")
async def test_a_mysql_user_with_the_grant_can_call_every_verb(private_server: Server) -> None:
    """It needs no more, and each of the privileges."""
    place = urlsplit(private_server.dsn)
    await private_server.fetch("CREATE DATABASE app")
    await private_server.fetch("CREATE USER app IDENTIFIED BY 'app'")
    server = {"host": place.hostname, "port": place.port, "database": "app"}
    async with AsyncmyStore(AsyncmyConfig(pool_config={**server, "user": place.username})) as owner:
        await owner.create_table()
    [grant] = fences("adapters/asyncmy.md", "mysql")
    await private_server.fetch(grant.body)
    async with AsyncmyStore(AsyncmyConfig(pool_config={**server, "user": "app", "password": "app"})) as store:
        await call_every_verb(store)
        for privilege in ("SELECT", "INSERT", "UPDATE", "DELETE"):
            await private_server.fetch(f"REVOKE {privilege} ON app.litestar_session FROM app")
            with pytest.raises(SQLStoreError):
                await call_every_verb(store)
            await private_server.fetch(f"GRANT {privilege} ON app.litestar_session TO app")
