"""The methods that authors of subclasses call and override, under the names they know from SQLSpec."""

# This file is such an author.
# pyright: reportPrivateUsage=false
# ruff: noqa: SLF001

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from importlib.resources import files
from typing import TYPE_CHECKING, Any

import pytest

from sqlstore import TableMissingError

if TYPE_CHECKING:
    from ..conftest import Adapter, MakeStore
    from .conftest import SQL
    from .verbs import Store

LONGEST = "sessions_" * 7


@pytest.mark.parametrize("lifetime", [None, 0, 0.0, timedelta(0)], ids=repr)
def test_calculate_expires_at_is_none_for_ever(make_store: MakeStore, lifetime: float | timedelta | None) -> None:
    """None is for ever, and so is 0."""
    assert make_store()._calculate_expires_at(lifetime) is None


@pytest.mark.parametrize(("lifetime", "seconds"), [(timedelta(hours=36), 129_600), (0.3, 0.3), (60, 60)], ids=str)
def test_calculate_expires_at_is_an_instant_in_utc(
    make_store: MakeStore, lifetime: float | timedelta, seconds: float
) -> None:
    """It counts from now, whole days and fractions included."""
    before = datetime.now(UTC)
    expires_at = make_store()._calculate_expires_at(lifetime)
    after = datetime.now(UTC)
    assert expires_at is not None

    assert expires_at.utcoffset() == timedelta(0)
    assert before <= expires_at - timedelta(seconds=seconds) <= after


def test_calculate_expires_at_is_past_for_a_negative_lifetime(make_store: MakeStore) -> None:
    """It is over already."""
    expires_at = make_store()._calculate_expires_at(-1)
    assert expires_at is not None

    assert expires_at < datetime.now(UTC)


@pytest.mark.parametrize(("value", "stored"), [(b"\xff", b"\xff"), ("é", b"\xc3\xa9"), ("", b"")])
def test_value_to_bytes_is_what_the_verbs_store(make_store: MakeStore, value: str | bytes, stored: bytes) -> None:
    """A string is UTF-8."""
    assert make_store()._value_to_bytes(value) == stored


async def test_value_to_bytes_can_be_overridden(store: Store, adapter: Adapter) -> None:
    """Every verb that stores a value asks it, in a child namespace too."""

    def value_to_bytes(_: Store, value: bytes) -> bytes:
        return b"own " + value

    own = type("Own", (adapter.store,), {"_value_to_bytes": value_to_bytes})
    children: Store = own(store.config).with_namespace("child")
    await children.set("set", b"v")
    await children.set_many({"set_many": b"v"})
    await children.add("add", b"v")
    found = await children.get_versioned("set")
    assert found
    await children.compare_and_set("set", b"w", found.version)

    keys = ("set", "set_many", "add")
    assert await children.get_many(keys) == {"set": b"own w", "set_many": b"own v", "add": b"own v"}


async def test_the_table_s_name_can_be_overridden(store: Store, make_store: MakeStore, adapter: Adapter) -> None:
    """A subclass may take it from elsewhere."""

    def table_name(_: Store) -> str:
        return store.table_name

    other = make_store(session_table="elsewhere")
    own = type("Own", (adapter.store,), {"_get_table_name_from_config": table_name})
    own_store: Store = own(other.config)
    await own_store.set("k", b"v")

    assert other._get_table_name_from_config() == "elsewhere"
    assert await store.get("k") == b"v"


def test_validate_table_name_refuses_a_bad_one(make_store: MakeStore) -> None:
    """And takes a good one."""
    make_store()._validate_table_name("another")
    with pytest.raises(ValueError, match="Invalid table name: 'a-b'"):
        make_store()._validate_table_name("a-b")


def _bundled(adapter: Adapter) -> str:
    folder = files("sqlstore") / "migrations" / adapter.dialect
    names = sorted(path.name for path in folder.iterdir() if path.name.endswith(".up.sql"))
    return "\n".join((folder / name).read_text() for name in names)


@pytest.mark.parametrize("name", ["litestar_session", "my_own"])
def test_get_create_table_sql_is_the_bundled_text(make_store: MakeStore, adapter: Adapter, name: str) -> None:
    """Another name stands in the place of the default one."""
    text = make_store(session_table=name)._get_create_table_sql()

    assert text == _bundled(adapter).replace("litestar_session", name)
    assert "CREATE TABLE" in text


@pytest.mark.parametrize("name", ["my_own", LONGEST])
async def test_the_statements_make_and_drop_the_table(
    make_store: MakeStore, fresh_database: str, sql: SQL, name: str
) -> None:
    """An administrator may run them: `create_table` then finds its work done."""
    store: Any = make_store(dsn=fresh_database, session_table=name)
    for statement in store._get_create_table_sql().split(";\n"):
        if statement:
            await sql(statement, fresh_database)
    await store.create_table()
    await store.set("k", b"v")
    assert await store.get("k") == b"v"
    dropping = store._get_drop_table_sql()
    for statement in dropping:
        await sql(statement, fresh_database)

    assert dropping == [f"DROP TABLE {name}"]
    with pytest.raises(TableMissingError):
        await store.get("k")
