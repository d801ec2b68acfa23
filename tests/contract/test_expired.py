"""An expired value is absent to every verb, pruned or not; pruning takes the expired ones and nothing else."""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING, Any

import pytest

from sqlstore import SQLStoreError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

    from ..conftest import Adapter, MakeStore
    from .conftest import SQL
    from .verbs import Store


async def _expire(store: Store, keys: Iterable[str], value: bytes = b"5") -> None:
    """Leave expired values in the table."""
    await store.set_many(dict.fromkeys(keys, value), 0.02)
    await asyncio.sleep(0.025)


async def _row(sql: SQL, store: Store, columns: str, key: str = "k") -> tuple[Any, ...]:
    [row] = await sql(f"SELECT {columns} FROM {store.table_name} WHERE session_id = '{key}'")  # noqa: S608
    return row


async def _keys(sql: SQL, store: Store) -> set[str]:
    return {key for (key,) in await sql(f"SELECT session_id FROM {store.table_name}")}  # noqa: S608


async def test_an_expired_value_is_absent_to_every_read(store: Store, sql: SQL) -> None:
    """It still stands in the table, and nobody sees it."""
    await _expire(store, ["k"])
    await store.set("other", b"v")

    assert await store.get("k") is None
    assert not await store.exists("k")
    assert await store.expires_in("k") is None
    assert await store.get_versioned("k") is None
    assert await store.get_many(["k", "other"]) == {"other": b"v"}
    assert await _keys(sql, store) == {"k", "other"}, "nothing has pruned it"


async def test_an_expired_value_cannot_be_renewed(store: Store) -> None:
    """Whoever comes too late does not bring it back."""
    await _expire(store, ["k"])

    assert await store.get("k", renew_for=3600) is None
    assert await store.get("k") is None


async def test_an_expired_value_cannot_be_popped(store: Store) -> None:
    """A one-time token that is over is worth nothing."""
    await _expire(store, ["k"])

    assert await store.pop("k") is None


async def test_an_expired_value_cannot_be_replaced(store: Store, sql: SQL) -> None:
    """`compare_and_set` fails although the version is right."""
    await _expire(store, ["k"])
    (version,) = await _row(sql, store, "version")

    assert not await store.compare_and_set("k", b"new", version)
    assert await store.get("k") is None


async def test_an_expired_value_is_not_in_the_way_of_add(store: Store) -> None:
    """The new value has its own lifetime, here none."""
    await _expire(store, ["k"])

    assert await store.add("k", b"new")
    assert await store.get("k") == b"new"
    assert await store.expires_in("k") is None


@pytest.mark.parametrize("value", [b"5", b"not a number", b"9223372036854775807"])
async def test_an_expired_counter_starts_from_zero(store: Store, value: bytes) -> None:
    """Whatever was there before: the first hit of the new counter gives it its lifetime."""
    await _expire(store, ["k"], value)

    assert await store.incr("k", 2, 3600) == 2
    assert await store.get("k") == b"2"
    assert 3500 < (await store.expires_in("k") or 0) <= 3600


async def test_an_expired_value_can_be_deleted(store: Store, sql: SQL) -> None:
    """Its row goes."""
    await _expire(store, ["k"])
    await store.delete("k")

    assert await _keys(sql, store) == set()


_NEW_LIFE: dict[str, Callable[[Store], Awaitable[object]]] = {
    "set": lambda store: store.set("k", b"6"),
    "set_many": lambda store: store.set_many({"k": b"6"}, 60),
    "add": lambda store: store.add("k", b"6"),
    "incr": lambda store: store.incr("k", 6),
}


@pytest.mark.parametrize("verb", _NEW_LIFE)
async def test_writing_over_an_expired_value_starts_a_new_one(store: Store, sql: SQL, verb: str) -> None:
    """It was created now, and belongs to nobody."""
    await _expire(store, ["k"])
    await sql(f"UPDATE {store.table_name} SET principal = 'somebody' WHERE session_id = 'k'")  # noqa: S608
    _, old_version, before = await _row(sql, store, "principal, version, created_at")
    await _NEW_LIFE[verb](store)
    principal, version, created_at, updated_at = await _row(sql, store, "principal, version, created_at, updated_at")

    assert await store.get("k") == b"6"
    assert principal is None
    assert version != old_version
    assert created_at > before
    assert created_at == updated_at


async def _compare_and_set(store: Store) -> bool:
    found = await store.get_versioned("k")
    assert found
    return await store.compare_and_set("k", b"6", found.version)


_SAME_LIFE: dict[str, Callable[[Store], Awaitable[object]]] = {
    "set": lambda store: store.set("k", b"6"),
    "set_to_expire": lambda store: store.set("k", b"6", 60),
    "set_many": lambda store: store.set_many({"k": b"6"}, 60),
    "incr": lambda store: store.incr("k"),
    "compare_and_set": _compare_and_set,
}


@pytest.mark.parametrize("verb", _SAME_LIFE)
@pytest.mark.parametrize("lifetime", [None, 3600])
async def test_writing_over_a_live_value_keeps_its_creation_and_its_principal(
    store: Store, sql: SQL, verb: str, lifetime: int | None
) -> None:
    """It is the same session, updated now."""
    await store.set("k", b"5", lifetime)
    await sql(f"UPDATE {store.table_name} SET principal = 'somebody' WHERE session_id = 'k'")  # noqa: S608
    old_version, before = await _row(sql, store, "version, created_at")
    await asyncio.sleep(0.002)
    await _SAME_LIFE[verb](store)
    principal, version, created_at, updated_at = await _row(sql, store, "principal, version, created_at, updated_at")

    assert await store.get("k") == b"6"
    assert principal == "somebody"
    assert version != old_version
    assert created_at == before
    assert updated_at > before


async def test_a_renewal_keeps_creation_and_principal(store: Store, sql: SQL) -> None:
    """It moves the expiry and changes nothing else."""
    await store.set("k", b"5", 60)
    await sql(f"UPDATE {store.table_name} SET principal = 'somebody' WHERE session_id = 'k'")  # noqa: S608
    columns = "principal, version, created_at, data"
    before = await _row(sql, store, columns)
    await store.get("k", renew_for=3600)

    assert await _row(sql, store, columns) == before


# delete_expired


async def test_pruning_deletes_what_has_expired_and_returns_how_many(store: Store, sql: SQL) -> None:
    """Live values stay, with or without an expiry."""
    await store.set("eternal", b"v")
    await store.set("live", b"v", 3600)
    await _expire(store, ["a", "é", "\0"])

    assert await store.delete_expired() == 3
    assert await _keys(sql, store) == {"eternal", "live"}
    assert await store.delete_expired() == 0


@pytest.mark.parametrize("batch_size", [1, 7, 100, 1000])
async def test_pruning_goes_through_the_whole_table_in_batches(store: Store, sql: SQL, batch_size: int) -> None:
    """Live values between the expired ones, and a last batch that is not full, end nothing too early."""
    live = {f"{number:03}" for number in range(0, 100, 3)}
    await store.set_many(dict.fromkeys(live, b"v"), 3600)
    await _expire(store, {f"{number:03}" for number in range(100)} - live)

    assert await store.delete_expired(batch_size=batch_size) == 100 - len(live)
    assert await _keys(sql, store) == live


async def test_the_default_batch_is_not_the_end(store: Store, sql: SQL) -> None:
    """More than one batch of expired values goes in one call."""
    await _expire(store, map(str, range(1500)))

    assert await store.delete_expired() == 1500
    assert await _keys(sql, store) == set()


@pytest.mark.adapters("sqlite")  # a statement has as many placeholders as keys
async def test_a_batch_may_be_as_large_as_the_table(store: Store, sql: SQL) -> None:
    """It is at most so large, and never larger than a statement can be."""
    await sql(f"""
        INSERT INTO {store.table_name} (namespace, session_id, data, expires_at, version, created_at, updated_at)
        WITH RECURSIVE numbers (number) AS (SELECT 1 UNION ALL SELECT number + 1 FROM numbers LIMIT 131073)
        SELECT '/LITESTAR/', number, x'', 1, 1, 1, 1
          FROM numbers
    """)  # noqa: S608

    assert await store.delete_expired(sys.maxsize) == 131_073


_REFUSE_TO_DELETE = {
    "mysql": """
        CREATE TRIGGER refuse_{table} BEFORE DELETE ON {table} FOR EACH ROW
        IF old.session_id = 'e' THEN SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'refused'; END IF
    """,
    "oracle": """
        CREATE TRIGGER refuse_{table} BEFORE DELETE ON {table} FOR EACH ROW WHEN (OLD.session_id = 'e')
        BEGIN RAISE_APPLICATION_ERROR(-20001, 'refused'); END;
    """,
    "sqlite": """
        CREATE TRIGGER refuse_{table} BEFORE DELETE ON {table} WHEN old.session_id = 'e'
        BEGIN
            SELECT raise(ABORT, 'refused');
        END
    """,
    "postgresql": """
        DO $do$ BEGIN
            CREATE FUNCTION refuse_{table}() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RAISE ''refused''; END';
            CREATE TRIGGER refuse BEFORE DELETE ON {table}
                FOR EACH ROW WHEN (old.session_id = 'e') EXECUTE FUNCTION refuse_{table}();
        END $do$
    """,
}


async def test_each_batch_of_a_pruning_commits_by_itself(store: Store, adapter: Adapter, sql: SQL) -> None:
    """An error takes nothing back but its own batch, in the order of keys."""
    await _expire(store, "abcdef")
    await sql(_REFUSE_TO_DELETE[adapter.dialect].format(table=store.table_name))
    with pytest.raises(SQLStoreError, match="refused"):
        await store.delete_expired(batch_size=2)

    assert await _keys(sql, store) == {"e", "f"}


async def test_pruning_covers_children_and_not_siblings(store: Store, make_store: MakeStore, sql: SQL) -> None:
    """The parent's pruning reaches what is under it; a store without namespace prunes the whole table."""
    root = type(store)(make_store().config, namespace=None)
    siblings = [type(store)(store.config, namespace=name) for name in ("LITESTAR2", "LITESTAR-x", "LITESTA")]
    for number, each in enumerate([root, *siblings, store, store.with_namespace("a"), store.with_namespace("a.b")]):
        await _expire(each, [str(number)])

    assert await store.delete_expired() == 3
    assert await _keys(sql, store) == {"0", "1", "2", "3"}
    assert await root.delete_expired() == 4
