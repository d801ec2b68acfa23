"""What the doctor finds, on every database."""

from __future__ import annotations

import asyncio
import re
import secrets
import time
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import asyncpg
import pytest

from sqlstore import BaseSQLSpecStore
from sqlstore.adapters.asyncpg import AsyncpgConfig, AsyncpgStore
from sqlstore.adapters.sqlite import SqliteConfig, SqliteStore
from sqlstore.doctor import EXPIRED_LEAST, examine
from sqlstore.migration_files import bundled_source
from sqlstore.names import index_name

from ..servers import free_port
from .conftest import until

if TYPE_CHECKING:
    from sqlstore.doctor import Finding

    from ..conftest import Adapter, MakeConfig, MakeStore
    from ..servers import Server
    from .conftest import SQL

Store = BaseSQLSpecStore[Any]

pytestmark = pytest.mark.usefixtures("own_table")  # another is bloated by other tests

CHECKS = [
    *("server", "clock", "durability", "pool", "table"),
    *("comparison", "privileges", "bloat", "expired rows"),
]
# One for each database, where drivers make no difference.
DATABASES = ("asyncpg", "asyncmy_mariadb", "asyncmy_mysql", "sqlite")


async def found(store: Store, check: str) -> Finding:
    """Return what a check finds."""
    [finding] = [each for each in await examine(store) if each.check == check]
    assert (finding.fix is None) == (finding.level == "ok"), "what is not well has a fix, and nothing else"
    return finding


async def test_a_healthy_database_has_no_error(store: Store, adapter: Adapter) -> None:
    """Every check is made; the tests' servers are not durable, and their user is an administrator."""
    await store.set("k", b"v")
    findings = await examine(store)

    assert [each.check for each in findings] == CHECKS
    allowed = ("durability", "privileges") if adapter.networked else ()
    assert [each.check for each in findings if each.level != "ok" and each.check not in allowed] == []
    assert not [each for each in findings if each.level == "error"]
    server = {"asyncmy_mariadb": "MariaDB", "asyncmy_mysql": "MySQL", "sqlite": "SQLite"}.get(adapter.name)
    assert (server or "") in findings[0].found
    assert await store.get("k") == b"v"


async def test_what_cannot_be_reached_is_one_error(make_store: MakeStore, server: Server) -> None:
    """Which says where to look."""
    assert server
    [finding] = await examine(make_store(port=free_port()))

    assert finding[:2] == ("server", "error")
    assert finding.fix is not None
    assert "pool_config" in finding.fix


async def test_a_missing_table_is_an_error(make_store: MakeStore) -> None:
    """Nothing is said of what is not there."""
    findings = await examine(make_store())

    assert [each.check for each in findings] == CHECKS[: CHECKS.index("table") + 1]
    assert [each.check for each in findings if each.level == "error"] == ["table"]


async def test_a_foreign_table_is_an_error(make_store: MakeStore, sql: SQL) -> None:
    """The message says what it lacks."""
    store = make_store()
    await sql(f"CREATE TABLE {store.table_name} (namespace varchar(9), session_id varchar(9))")
    finding = await found(store, "table")
    await sql(f"DROP TABLE {store.table_name}")

    assert finding.level == "error"
    assert "expires_at" in finding.found


async def test_an_index_that_is_missing_is_an_error(make_store: MakeStore, adapter: Adapter, sql: SQL) -> None:
    """It is named."""
    store = make_store()
    await store.create_table()
    index = index_name(store.table_name, "principal")
    await sql(f"DROP INDEX {index}" + (f" ON {store.table_name}" if adapter.dialect == "mysql" else ""))
    finding = await found(store, "table")
    await sql(f"DROP TABLE {store.table_name}")

    assert finding.level == "error"
    assert f"index {index} is missing" in finding.found


@pytest.mark.adapters(*DATABASES)
async def test_a_key_that_is_not_compared_byte_for_byte_is_an_error(
    make_store: MakeStore, adapter: Adapter, sql: SQL
) -> None:
    """Oracle's rule is the session's, which the store sets."""
    store = make_store()
    loose = {
        "postgresql": ('text COLLATE "C"', "text"),
        "mysql": ("varbinary(255)", "varchar(255) CHARACTER SET utf8mb4"),
        "sqlite": ("session_id text", "session_id text COLLATE NOCASE"),
    }
    dialect = store.config.dialect
    for migration in bundled_source(dialect, store.table_name).migrations:
        for statement in migration.up.statements(dialect):
            await sql(statement.text.replace(*loose[adapter.dialect]))
    finding = await found(store, "comparison")
    await sql(f"DROP TABLE {store.table_name}")

    assert finding.level == "error"
    assert re.search("session_id: (default|utf8mb4_|NOCASE)", finding.found)


@pytest.mark.parametrize("hours", [1, -1])
async def test_a_clock_that_differs_is_a_warning(
    store: Store, adapter: Adapter, monkeypatch: pytest.MonkeyPatch, hours: int
) -> None:
    """Here this machine's is wrong; SQLite's is this machine's."""
    right = time.time
    monkeypatch.setattr(time, "time", lambda: right() + hours * 3600)
    finding = await found(store, "clock")

    assert finding.level == ("warning" if adapter.networked else "ok")
    if adapter.networked:
        assert re.match(rf"(3600|3599)\.\d+ s {'behind' if hours > 0 else 'ahead of'} this machine's", finding.found)


async def test_a_database_that_takes_no_writes_is_an_error(
    store: Store, adapter: Adapter, database: str, request: pytest.FixtureRequest
) -> None:
    """The privileges that are missing are named, and those that are there are not."""
    table, pool_config = store.table_name, {"database": f"file:{database}?mode=ro", "uri": True}
    if adapter.networked:
        server: Server = request.getfixturevalue("server")
        pool_config = adapter.pool_config(await server.read_only(database))
        table = server.qualified(database, table)
    config = adapter.config(pool_config=pool_config, extension_config={"litestar": {"session_table": table}})
    async with adapter.store(config) as readonly:
        finding = await found(readonly, "privileges")

    assert finding.level == "error"
    assert "may not INSERT, UPDATE, DELETE: " in finding.found


@pytest.mark.adapters("asyncpg", "asyncmy_mariadb", "asyncmy_mysql")
@pytest.mark.parametrize("missing", ["INSERT", "UPDATE", "DELETE"])
async def test_a_missing_privilege_is_an_error(
    adapter: Adapter, fresh_database: str, server: Server, missing: str
) -> None:
    """It is named; a role that has all of them, and no more, is well."""
    async with adapter.store(adapter.config(pool_config=adapter.pool_config(fresh_database))) as owner:
        await owner.create_table()
    role = f"app_{secrets.token_hex(6)}"
    postgresql = adapter.dialect == "postgresql"
    await server.fetch(
        f"CREATE {f'ROLE {role} LOGIN PASSWORD' if postgresql else f'USER {role} IDENTIFIED BY'} '{role}'"
    )
    await server.fetch(f"GRANT SELECT, INSERT, UPDATE, DELETE ON litestar_session TO {role}", fresh_database)
    place = urlsplit(fresh_database)
    dsn = place._replace(netloc=f"{role}:{role}@{place.netloc.rpartition('@')[2]}").geturl()
    async with adapter.store(adapter.config(pool_config=adapter.pool_config(dsn))) as limited:
        assert (await found(limited, "privileges")).level == "ok"
        await server.fetch(f"REVOKE {missing} ON litestar_session FROM {role}", fresh_database)
        finding = await found(limited, "privileges")
    if postgresql:
        await server.fetch(f"DROP OWNED BY {role}", fresh_database)
    await server.fetch(f"DROP {'ROLE' if postgresql else 'USER'} {role}")

    assert finding.level == "error"
    assert re.match(rf"{role}(@%)? may not {missing}: ", finding.found)
    assert f"GRANT {missing} ON litestar_session" in (finding.fix or "")


@pytest.mark.adapters("asyncpg")
async def test_a_commit_that_does_not_wait_for_the_disk_is_a_warning(
    make_store: MakeStore, fresh_database: str, server: Server
) -> None:
    """Although the store sets it otherwise, for the application's transactions have the default."""
    store = make_store(dsn=fresh_database)
    await store.create_table()
    assert "synchronous_commit = on" in (await found(store, "durability")).found
    await server.fetch(f"ALTER DATABASE {urlsplit(fresh_database).path[1:]} SET synchronous_commit = off")
    finding = await found(store, "durability")
    await store.close()

    assert finding.level == "warning"
    assert "synchronous_commit = off" in finding.found
    assert "SET synchronous_commit = on" in (finding.fix or "")


@pytest.mark.adapters("asyncmy_mariadb", "asyncmy_mysql")
async def test_a_log_that_is_not_flushed_is_a_warning(adapter: Adapter, private_server: Server) -> None:
    """One that is flushed at each commit is none, of the settings that a server is started with."""
    store = adapter.store(adapter.config(pool_config=adapter.pool_config(private_server.dsn)))
    async with store:
        await store.create_table()
        for value, weak in ((1, False), (2, True)):
            await private_server.fetch(f"SET GLOBAL innodb_flush_log_at_trx_commit = {value}")
            finding = await found(store, "durability")

            assert f"innodb_flush_log_at_trx_commit = {value}" in finding.found
            assert ("set innodb_flush_log_at_trx_commit = 1" in (finding.fix or "")) is weak
            assert "innodb_doublewrite = OFF" in finding.found


@pytest.mark.adapters("sqlite")
async def test_a_file_that_is_not_synced_is_a_warning(database: str) -> None:
    """The fix is what to write in the code."""
    async with SqliteStore(SqliteConfig(pool_config={"database": database}, pragmas={"synchronous": "OFF"})) as store:
        await store.create_table()
        finding = await found(store, "durability")

    assert finding.level == "warning"
    assert "synchronous = 0" in finding.found
    assert finding.fix == "give the config pragmas={'synchronous': '2'}"


@pytest.mark.adapters("oracle", "oracle_sync")
async def test_what_the_role_cannot_see_is_a_warning(
    store: Store, database: str, adapter: Adapter, server: Server
) -> None:
    """Parameters of the instance are for administrators."""
    dsn, table = await server.read_only(database), server.qualified(database, store.table_name)
    options: Any = {"litestar": {"session_table": table}}
    async with adapter.store(adapter.config(pool_config=adapter.pool_config(dsn), extension_config=options)) as limited:
        finding = await found(limited, "durability")

    assert finding.level == "warning"
    assert "cannot be checked: ORA-" in finding.found


@pytest.mark.adapters("asyncpg", "psycopg_sync", "asyncmy_mariadb", "asyncmy_mysql")
async def test_a_pool_that_is_larger_than_the_server_is_a_warning(make_store: MakeStore, store: Store) -> None:
    """Nothing is opened to find out."""
    assert (await found(store, "pool")).level == "ok"
    finding = await found(make_store(size=1000), "pool")

    assert finding.level == "warning"
    assert "up to 1000 connections for requests, and 6 for stores" in finding.found


@pytest.mark.adapters("asyncpg")
@pytest.mark.parametrize(("size", "stores", "level"), [(4, 2, "warning"), (10, 6, "ok")])
async def test_a_shared_pool_that_leaves_little_to_requests_is_a_warning(
    make_config: MakeConfig, database: str, size: int, stores: int, level: str
) -> None:
    """The numbers of both are told."""
    async with asyncpg.create_pool(database, min_size=0, max_size=size) as pool:
        options = make_config().extension_config
        async with AsyncpgStore(AsyncpgConfig(pool_instance=pool, extension_config=options)) as store:
            await store.create_table()
            finding = await found(store, "pool")
            await store.drop_table()

    assert finding.level == level
    assert f"{size} connections up to {stores} are the stores', {size - stores} the requests'" in finding.found


@pytest.mark.adapters(*DATABASES)
async def test_space_that_is_not_used_again_is_a_warning(
    store: Store, adapter: Adapter, sql: SQL, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is rows in PostgreSQL, and bytes elsewhere."""
    table = store.table_name
    monkeypatch.setattr("sqlstore.doctor.EXPIRED_LEAST", 10**9)
    if adapter.dialect == "postgresql":
        await sql(f"ALTER TABLE {table} SET (autovacuum_enabled = off)")
        await store.set_many({f"k{number}": b"v" for number in range(2000)})
    else:
        await store.set_many({f"k{number}": b"v" * 1_000_000 for number in range(20)})
    assert (await found(store, "bloat")).level == "ok"
    await store.delete_all()

    async def warned() -> bool:
        if adapter.dialect == "mysql":  # MySQL would remember the last answer for a day
            await sql(f"ANALYZE TABLE {table}")
        return (await found(store, "bloat")).level == "warning"

    await until(warned)  # PostgreSQL counts a moment later, MySQL frees
    fix = (await found(store, "bloat")).fix
    assert fix
    assert re.match(rf"VACUUM {table}|OPTIMIZE TABLE {table}|VACUUM the file", fix)


async def test_expired_rows_that_nobody_prunes_are_a_warning(store: Store) -> None:
    """Until they are pruned."""
    child = store.with_namespace("child")
    await child.set_many({f"k{number}": b"v" for number in range(EXPIRED_LEAST + 1)}, expires_in=0.01)
    await asyncio.sleep(0.05)
    finding = await found(store, "expired rows")
    await store.delete_expired()

    assert finding.level == "warning"
    assert finding.found.startswith(f"{EXPIRED_LEAST + 1} of {EXPIRED_LEAST + 1} rows")
    assert (await found(store, "expired rows")).level == "ok"
