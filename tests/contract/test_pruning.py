"""Pruning beside others who use the same rows."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from .conftest import until

if TYPE_CHECKING:
    from sqlstore import BaseSQLSpecStore

    from ..conftest import MakeStore
    from .conftest import SQL, Hold

    Store = BaseSQLSpecStore[Any]


async def _expire(store: Store, *keys: str) -> None:
    await store.set_many(dict.fromkeys(keys, b"expired"), 0.001)
    await asyncio.sleep(0.01)


async def test_pruning_leaves_what_a_transaction_holds_for_the_next_round(store: Store, hold: Hold) -> None:
    """A busy row, on SQLite the busy file, is not waited for, and is no error."""
    await _expire(store, "a", "busy", "z")
    async with hold(store.table_name, "busy"):
        async with asyncio.timeout(20):
            in_the_first = await store.delete_expired()

    assert in_the_first + await store.delete_expired() == 3


async def test_a_busy_row_does_not_keep_others_from_being_pruned(store: Store, server: object, hold: Hold) -> None:
    """Of a batch with a row that is held, the rest goes at once."""
    assert server, "without row locks all rows are busy"
    await _expire(store, *(f"k{number}" for number in range(50)))
    async with hold(store.table_name, "k7", "k33"):
        async with asyncio.timeout(20):
            deleted = await store.delete_expired()

    assert deleted == 48
    assert await store.delete_expired(batch_size=1) == 2


async def test_pruning_never_deletes_a_value_that_has_come_alive(store: Store, make_store: MakeStore) -> None:
    """Values that are set while others prune the same keys stay, and nobody is told of that."""
    keys = [f"k{number:03}" for number in range(100)]
    pruners = [make_store() for _ in range(2)]
    for batch_size in (1, 7, 1000):
        await _expire(store, *keys)
        # In the order in which pruning meets them, and in the other.
        await asyncio.gather(
            *(pruner.delete_expired(batch_size) for pruner in pruners),
            *(store.set(key, b"alive") for key in keys[::-2]),
            *(store.add(key, b"alive", 3600) for key in keys[::2]),
        )

        assert await store.get_many(keys) == dict.fromkeys(keys, b"alive")


async def test_pruning_beside_values_that_expire_and_return(store: Store, make_store: MakeStore, sql: SQL) -> None:
    """A writer always finds what it has just stored, however often its former values expired."""
    pruner = make_store()
    keys = [f"k{number}" for number in range(8)]
    done = False

    async def prune() -> int:
        deleted = 0
        while not done:
            deleted += await pruner.delete_expired(10)
        return deleted

    async def live_and_die(key: str) -> None:
        for _ in range(15):
            await store.set(key, b"short", 0.001)
            assert await store.get_many([key]) in ({}, {key: b"short"})
            await store.set(key, b"long", 3600)
            assert await store.get(key) == b"long"

    async def all_are_gone() -> bool:
        return await sql(f"SELECT count(*) FROM {store.table_name}") == [(0,)]  # noqa: S608 - the test's own table

    pruning = asyncio.create_task(prune())
    await asyncio.gather(*map(live_and_die, keys))
    await _expire(store, *keys)
    await until(all_are_gone)
    done = True

    assert await pruning >= len(keys)
