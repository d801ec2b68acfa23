"""The table: which name it may have, how it is made and dropped, and what its absence says."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from sqlstore import SQLStoreError, TableMismatchError, TableMissingError

from .verbs import VERBS

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from ..conftest import Adapter, MakeStore
    from .conftest import SQL, Hold
    from .verbs import Store

LONGEST = "sessions_" * 7
assert len(LONGEST) == 63
INDEXES = {
    "mysql": """
        SELECT DISTINCT index_name FROM information_schema.statistics
         WHERE table_schema = DATABASE() AND table_name = '{}' AND index_name <> 'PRIMARY'
    """,
    "oracle": "SELECT index_name FROM user_indexes WHERE table_name = upper('{}') AND index_name NOT LIKE 'SYS%'",
    "postgresql": "SELECT indexname FROM pg_indexes WHERE lower(tablename) = lower('{}')",
    "sqlite": "SELECT name FROM sqlite_master WHERE type = 'index' AND sql > '' AND lower(tbl_name) = lower('{}')",
}
TABLES = {
    "mysql": "SELECT table_name FROM information_schema.tables WHERE table_schema = DATABASE()",
    "oracle": "SELECT table_name FROM user_tables",
    "postgresql": "SELECT schemaname || '.' || tablename FROM pg_tables WHERE schemaname !~ '^(pg_|information_)'",
    "sqlite": "SELECT name FROM sqlite_master WHERE type = 'table'",
}


@pytest.fixture
async def _no_table_left(adapter: Adapter, fresh_database: str, sql: SQL) -> AsyncGenerator[None, None]:
    """See that the test leaves no table in its new database."""
    yield

    assert await sql(TABLES[adapter.dialect], fresh_database) == []


async def _use(store: Store) -> None:
    """Create the table, use it with every kind of statement, and drop it."""
    await store.create_table()
    await store.set_many({"k": b"1", "é": b"2"}, 60)
    assert await store.incr("k") == 2
    assert await store.get("k", renew_for=120) == b"2"
    assert not await store.add("k", b"v")
    assert await store.pop("é") == b"2"
    assert await store.delete_expired() == 0
    await store.delete_all()
    assert not await store.exists("k")
    await store.drop_table()
    with pytest.raises(TableMissingError):
        await store.get("k")


# Names


@pytest.mark.parametrize("litestar", [{}, {"session_table": "litestar_session"}], ids=["default", "named"])
@pytest.mark.usefixtures("_no_table_left")
async def test_the_default_table_is_litestar_session(
    adapter: Adapter, fresh_database: str, litestar: dict[str, Any]
) -> None:
    """It is that of SQLSpec and of the bundled files."""
    extension_config = {"litestar": litestar} if litestar else None
    config = adapter.config(pool_config=adapter.pool_config(fresh_database), extension_config=extension_config)
    async with adapter.store(config) as store:
        await _use(store)

    assert store.table_name == "litestar_session"


@pytest.mark.parametrize("name", ["s", "my_sessions", "_1", "MySessions", "litestar_session_expires_at", LONGEST])
@pytest.mark.usefixtures("_no_table_left")
async def test_a_table_may_have_a_name_of_its_own(make_store: MakeStore, fresh_database: str, name: str) -> None:
    """Up to 63 letters, digits and underscores, whatever the database's own limit for indexes."""
    store = make_store(dsn=fresh_database, session_table=name)
    await _use(store)

    assert store.table_name == name


async def test_long_names_that_begin_alike_are_two_tables(
    make_store: MakeStore, adapter: Adapter, fresh_database: str, sql: SQL
) -> None:
    """The names of their indexes are short enough for every database, and differ."""
    names = [f"{'x' * 55}_first1", f"{'x' * 55}_second"]
    stores = [make_store(dsn=fresh_database, session_table=name) for name in names]
    indexes: list[set[str]] = []
    for name, store in zip(names, stores, strict=True):
        await store.create_table()
        await store.set("k", name)
        indexes.append({index for (index,) in await sql(INDEXES[adapter.dialect].format(name), fresh_database)})

    assert [await store.get("k") for store in stores] == [name.encode() for name in names]
    assert len(indexes[0]) == len(indexes[1]) > 1
    assert not indexes[0] & indexes[1]
    assert max(map(len, indexes[0] | indexes[1])) <= 63


async def test_tables_in_one_database_are_independent(make_store: MakeStore, fresh_database: str) -> None:
    """Also where one's name is the beginning of the other's, or that of its index."""
    names = ["sessions", "sessions_2", "sessions_principal2"]
    stores = [make_store(dsn=fresh_database, session_table=name) for name in names]
    for store in stores:
        await store.create_table()
        await store.set("k", store.table_name)
    await stores[0].delete_all()
    await stores[1].drop_table()

    assert await stores[0].get("k") is None
    assert await stores[2].get("k") == b"sessions_principal2"


@pytest.mark.adapters("asyncpg")  # databases with schemas
@pytest.mark.parametrize("table", ["sessions", LONGEST])
async def test_a_table_may_be_in_a_schema(make_store: MakeStore, fresh_database: str, sql: SQL, table: str) -> None:
    """It is another one than the table of that name in the default schema."""
    await sql("CREATE SCHEMA app", fresh_database)
    store = make_store(dsn=fresh_database, session_table=f"app.{table}")
    other = make_store(dsn=fresh_database, session_table=table)
    await other.create_table()
    await other.set("k", b"other")
    await store.create_table()
    names = {name for (name,) in await sql(TABLES["postgresql"], fresh_database)}
    await store.drop_table()
    await _use(store)

    assert names == {f"app.{table}", f"public.{table}"}
    assert await other.get("k") == b"other"


@pytest.mark.adapters("asyncpg")
async def test_a_missing_schema_is_an_error(make_store: MakeStore, fresh_database: str) -> None:
    """A schema is the administrator's to create."""
    store = make_store(dsn=fresh_database, session_table="nowhere.sessions")
    with pytest.raises(TableMissingError, match=r"nowhere\.sessions.*create_table"):
        await store.get("k")
    with pytest.raises(SQLStoreError, match=r"nowhere\.sessions.*schema"):
        await store.create_table()
    await store.drop_table()


@pytest.mark.adapters("aiosqlite", "sqlite")
def test_sqlite_takes_no_schema(make_store: MakeStore, database: str) -> None:
    """It has none but its attached files."""
    with pytest.raises(ValueError, match=r"Invalid table name: 'main\.sessions'.*without a schema"):
        make_store(session_table="main.sessions")

    assert not Path(database).exists()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("", "Table name cannot be empty: "),
        ("x" * 64, r"Table name too long: 64 characters \(max 63\)"),
        ("a-b", "Invalid table name: 'a-b'. Use letters, digits and underscores, not starting with a digit"),
        ("1a", "Invalid table name: '1a'. Use"),
        *((bad, "Invalid table name: .*Use letters") for bad in ("a b", " a", "a\n", "a;b", 'a"b', '"a"', "a'b", "a$")),
        *((bad, "Invalid table name: .*Use letters") for bad in ("ä", "\uff41", "a\0", "{table}", "a--", "a.b.c")),
        *((bad, "Invalid table name: .*Use letters") for bad in (".", ".a", "a.", "a..b", "1.a", "a.1", "a. b")),
    ],
    ids=ascii,
)
def test_a_bad_table_name_is_refused_before_any_sql(
    make_store: MakeStore, adapter: Adapter, database: str, name: str, message: str
) -> None:
    """The store cannot be made, and nothing has been opened."""
    with pytest.raises(ValueError, match=f"^{message}"):
        make_store(port=1 if adapter.networked else None, session_table=name)

    assert not Path(database).exists()


@pytest.mark.adapters("asyncpg")
@pytest.mark.parametrize("name", ["x" * 64 + ".a", "a." + "x" * 64])
def test_a_schema_is_no_longer_than_a_table(make_store: MakeStore, name: str) -> None:
    """Each part has its 63 characters."""
    with pytest.raises(ValueError, match=r"^Table name too long: 64 "):
        make_store(session_table=name)


@pytest.mark.parametrize("name", [None, 5, b"sessions", True], ids=repr)
def test_a_table_name_that_is_no_string_is_refused(make_store: MakeStore, name: object) -> None:
    """SQLSpec's ``True`` for the default name, too."""
    with pytest.raises(TypeError, match="Table name must be a string"):
        make_store(session_table=name)


# A missing table


@pytest.mark.parametrize("verb", VERBS)
async def test_a_missing_table_is_an_error_that_says_how_to_create_it(make_store: MakeStore, verb: str) -> None:
    """It is never taken for a value that is not there."""
    store = make_store()
    with pytest.raises(TableMissingError, match=rf"{store.table_name} .*create_table\(\)") as raised:
        await VERBS[verb](store)

    assert raised.value.__cause__ is not None, "the driver's exception"


async def test_a_store_works_as_soon_as_its_table_is_there(make_store: MakeStore) -> None:
    """Earlier errors leave nothing behind, nor does a table that was dropped and made anew by somebody else."""
    store, other = make_store(), make_store()
    for value in (b"first", b"second"):
        with pytest.raises(TableMissingError):
            await store.set("k", value)
        await other.create_table()
        assert await store.get("k") is None
        await store.set("k", value)
        assert await store.get("k") == value
        await other.drop_table()


# Creating and dropping


async def test_creating_the_table_twice_keeps_its_values(store: Store, make_store: MakeStore) -> None:
    """An application may do it at each start."""
    await store.set("k", b"v")
    await store.create_table()
    await make_store().create_table()

    assert await store.get("k") == b"v"


async def test_creating_a_table_that_is_there_waits_for_nobody(store: Store, hold: Hold) -> None:
    """It reads first: somebody else's transaction is not in the way of an application's start."""
    async with hold(store.table_name), asyncio.timeout(20):
        await store.create_table()


async def test_dropping_a_missing_table_is_no_error(store: Store) -> None:
    """It is gone, which was asked for."""
    await store.drop_table()
    await store.drop_table()

    with pytest.raises(TableMissingError):
        await store.get("k")


FOREIGN = {
    "other": ("id integer", "created_at, data, expires_at, namespace, principal, session_id, updated_at, version"),
    "sqlspec": (
        "session_id text, data text, expires_at text, created_at text",
        "namespace, principal, updated_at, version",
    ),
}


@pytest.mark.parametrize("kind", FOREIGN)
async def test_a_foreign_table_of_that_name_is_left_alone(make_store: MakeStore, sql: SQL, kind: str) -> None:
    """Neither `create_table` nor `drop_table` touches it: the error names the columns that it has not."""
    columns, missing = FOREIGN[kind]
    store = make_store()
    await sql(f"CREATE TABLE {store.table_name} ({columns})")
    for change in (store.create_table, store.drop_table):
        with pytest.raises(TableMismatchError) as raised:
            await change()
        assert sorted(re.findall(r"column (\w+) is missing", str(raised.value))) == missing.split(", ")

    assert await sql(f"SELECT * FROM {store.table_name}") == []  # noqa: S608
    await sql(f"DROP TABLE {store.table_name}")


@pytest.mark.parametrize("verb", VERBS)
async def test_a_foreign_table_is_no_store(make_store: MakeStore, sql: SQL, verb: str) -> None:
    """Each call says that the table is somebody else's."""
    store = make_store()
    await sql(f"CREATE TABLE {store.table_name} (id integer)")
    with pytest.raises(TableMismatchError, match=store.table_name):
        await VERBS[verb](store)
    await sql(f"DROP TABLE {store.table_name}")
