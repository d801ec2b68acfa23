"""Calls that are made at once share statements, and nobody can tell but by the speed."""

from __future__ import annotations

import asyncio
import time
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from sqlstore import CounterError, SQLStoreError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from sqlstore import BaseSQLSpecStore

    from ..conftest import Adapter, MakeStore
    from .conftest import SQL, Hold

    Store = BaseSQLSpecStore[Any]
    CallOn = Callable[[Store, str], Awaitable[object]]

MANY = [f"k{number:02}" for number in range(64)]
LARGE = 300_000
"""Bytes; more than a batch takes."""

# What a database's administrator may add to the table: it refuses the value b"poison".
_REFUSE_POISON = {
    "mysql": "ALTER TABLE {0} ADD CHECK (data <> 'poison')",
    "oracle": "ALTER TABLE {0} ADD CHECK (DBMS_LOB.SUBSTR(data, 6, 1) <> HEXTORAW('706F69736F6E'))",
    "postgresql": "ALTER TABLE {0} ADD CHECK (data <> 'poison')",
    "sqlite": """
        CREATE TRIGGER {0}_poison BEFORE INSERT ON {0} WHEN new.data = CAST('poison' AS BLOB)
        BEGIN SELECT raise(ABORT, 'poison'); END
    """,
}


_CALLS: dict[str, CallOn] = {
    "set": lambda store, key: store.set(key, b"new"),
    "renew": lambda store, key: store.get(key, renew_for=7200),
    "delete": lambda store, key: store.delete(key),
}


@pytest.fixture
async def picky_store(adapter: Adapter, store: Store, sql: SQL) -> Store:
    """Return a store whose database refuses the value ``b"poison"``."""
    await sql(_REFUSE_POISON[adapter.dialect].format(store.table_name))
    return store


# One batch


async def test_each_caller_gets_its_own_answer(store: Store) -> None:
    """Whatever else is asked at the same time: other keys, the same ones, missing ones, another verb."""
    await store.set_many({key: key.encode() for key in MANY[::2]}, 3600)
    keys = MANY + MANY
    values, existing, left, versioned = await asyncio.gather(
        asyncio.gather(*map(store.get, keys)),
        asyncio.gather(*map(store.exists, keys)),
        asyncio.gather(*map(store.expires_in, keys)),
        asyncio.gather(*map(store.get_versioned, keys)),
    )
    renewed = await asyncio.gather(*(store.get(key, renew_for=7200) for key in keys))

    expected = [key.encode() if key in MANY[::2] else None for key in keys]
    assert values == renewed == [found and found.data for found in versioned] == expected
    assert existing == [left_of_one is not None for left_of_one in left] == [value is not None for value in expected]


async def test_the_last_of_many_writes_to_a_key_wins(store: Store) -> None:
    """Beside other keys, whose values are not mixed up with it."""
    writes = [store.set("k", b"%d" % number, 10 + number) for number in range(64)]
    beside = [store.set(key, key.encode()) for key in MANY]
    await asyncio.gather(*(call for pair in zip(writes, beside, strict=True) for call in pair))

    assert await store.get("k") == b"63"
    assert 60 < (await store.expires_in("k") or 0) <= 73
    assert await store.get_many(MANY) == {key: key.encode() for key in MANY}


async def test_each_call_keeps_its_lifetime_and_namespace(store: Store) -> None:
    """Values that are set together do not end together, and the same key may be in each namespace."""
    stores = [store, *(store.with_namespace(name) for name in "abc")]
    lifetimes = [None, 1000, 2000, 3000]
    calls = [
        one.set(key, f"{one.namespace} {key}", lifetimes[(place + number) % 4])
        for number, key in enumerate(MANY)
        for place, one in enumerate(stores)
    ]
    await asyncio.gather(*calls)

    for place, one in enumerate(stores):
        assert await one.get_many(MANY) == {key: f"{one.namespace} {key}".encode() for key in MANY}
        for number, key in enumerate(MANY[:4]):
            lifetime, left = lifetimes[(place + number) % 4], await one.expires_in(key)
            assert left is lifetime is None or 0 <= (lifetime or 0) - (left or 0) < 500


async def test_the_longest_of_many_renewals_counts(store: Store) -> None:
    """In whatever order they come, and each key its own."""
    await store.set_many(dict.fromkeys("abc", b"v"), 60)
    await store.set("eternal", b"v")
    renewals = [("a", 6000), ("a", 2000), ("b", 2000), ("b", 6000), ("c", 2000), ("eternal", 2000), ("missing", 2000)]
    values = await asyncio.gather(*(store.get(key, renew_for=lifetime) for key, lifetime in renewals))

    assert values == [b"v"] * 6 + [None]
    assert [round(await store.expires_in(key) or 0, -3) for key in "abc"] == [6000, 6000, 2000]
    assert await store.expires_in("eternal") is None


async def test_bulk_calls_and_single_ones_mix(store: Store) -> None:
    """A thousand keys in several statements, with single calls on some of them in between."""
    keys = [f"k{number:04}" for number in range(1000)]
    start = asyncio.ensure_future
    calls: list[asyncio.Future[Any]] = [
        start(store.set_many(dict.fromkeys(keys, b"1"))),
        asyncio.gather(*(store.incr(key) for key in keys[::10])),
        start(store.get_many(keys)),
        asyncio.gather(*(store.pop(key) for key in keys[::20])),
        start(store.delete_many(keys[1::2])),
        asyncio.gather(*(store.add(key, b"3") for key in keys[:20])),
        start(store.get_many(keys)),
        start(store.set_many(dict.fromkeys(keys[500:], b"4"))),
        start(store.get(keys[500])),
    ]
    _, sums, first, popped, _, added, second, _, last = await asyncio.gather(*calls)

    assert sums == [2] * 100
    assert first == {key: b"2" if number % 10 == 0 else b"1" for number, key in enumerate(keys)}
    assert popped == [b"2"] * 50
    assert added == [number % 2 == 1 or number == 0 for number in range(20)]
    assert second == {
        key: b"3" if number < 20 and added[number] else first[key]
        for number, key in enumerate(keys)
        if (number < 20 and added[number]) or (number % 2 == 0 and number % 20)
    }
    assert last == b"4"


async def test_a_bulk_call_sees_only_what_its_own_parts_read(store: Store) -> None:
    """A part that waits shares its statement with a later call, which sees what was written since."""
    keys = [f"k{number:03}" for number in range(300)]
    early, late = keys[0], keys[-1]
    await store.set_many(dict.fromkeys(keys, b"1"))
    *_, first, _, second = await asyncio.gather(
        *(store.incr(late) for _ in range(20)),
        # These two take the connections: what comes next waits, and shares.
        store.get(late),
        store.get(late),
        store.get_many(keys),
        store.set(early, b"2"),
        store.get_many([early, late]),
    )

    assert first == {key: b"21" if key == late else b"1" for key in keys}
    assert second == {early: b"2", late: b"21"}


# One that fails


async def test_a_counter_that_is_none_fails_alone(store: Store) -> None:
    """What is written at the same time, also to the same key, is written."""
    await store.set("n", b"no number")
    answers = await asyncio.gather(
        *(store.set(key, b"v") for key in MANY),
        *(store.incr(f"n{number}") for number in range(8)),
        store.incr("n"),
        store.set("n", b"1"),
        store.incr("n"),
        return_exceptions=True,
    )

    assert isinstance(answers[-3], CounterError)
    assert answers[:-3] + answers[-2:] == [None] * 64 + [1] * 8 + [None, 2]
    assert await store.get_many(MANY) == dict.fromkeys(MANY, b"v")


async def test_a_value_that_the_database_refuses_fails_alone(picky_store: Store) -> None:
    """The other values of its batch are stored, and so are those of the next one."""
    store = picky_store
    await store.set("old", b"v")
    calls = [store.set(key, b"poison" if key in MANY[20:22] else b"v") for key in MANY]
    answers = await asyncio.gather(
        *calls, store.delete("old"), store.add("poisoned", b"poison"), store.incr("n"), return_exceptions=True
    )

    assert {position for position, answer in enumerate(answers) if isinstance(answer, SQLStoreError)} == {20, 21, 65}
    assert await store.get_many(MANY) == dict.fromkeys(MANY[:20] + MANY[22:], b"v")
    assert (await store.get("old"), await store.get("n"), await store.get("poisoned")) == (None, b"1", None)
    await store.set(MANY[20], b"v")


async def test_a_refused_value_leaves_what_was_set_before_it(picky_store: Store) -> None:
    """Although both are writes to one key that were made at once."""
    first, refused, other = await asyncio.gather(
        *(picky_store.set("k", b"v"), picky_store.set("k", b"poison"), picky_store.set("other", b"v")),
        return_exceptions=True,
    )

    assert (first, type(refused), other) == (None, SQLStoreError, None)
    assert await picky_store.get_many(["k", "other"]) == {"k": b"v", "other": b"v"}


@pytest.mark.parametrize("place", [0, 1, 100, 250])
async def test_what_runs_again_is_not_overtaken_by_the_next_batch(picky_store: Store, place: int) -> None:
    """A write whose batch failed comes before a later one to its key that was too late for that batch."""
    beside = [picky_store.set(f"beside{number}", b"v") for number in range(300)]
    beside.insert(place, picky_store.set("k", b"first"))
    answers = await asyncio.gather(
        *beside[:2],
        picky_store.set("poisoned", b"poison"),
        *beside[2:],
        picky_store.set("k", b"second"),
        return_exceptions=True,
    )

    assert [type(answer) for answer in answers if answer is not None] == [SQLStoreError]
    assert await picky_store.get("k") == b"second"


async def test_a_bulk_call_with_a_refused_value_fails_as_a_whole(picky_store: Store) -> None:
    """None of its values is stored, all of its neighbours' are."""
    poisoned = dict.fromkeys(MANY[:8], b"v") | {MANY[8]: b"poison"}
    answers = await asyncio.gather(
        picky_store.set_many(dict.fromkeys(MANY[9:20], b"before")),
        picky_store.set_many(poisoned),
        picky_store.set_many(dict.fromkeys(MANY[20:], b"after")),
        return_exceptions=True,
    )

    assert [type(answer) for answer in answers] == [type(None), SQLStoreError, type(None)]
    assert await picky_store.get_many(MANY) == dict.fromkeys(MANY[9:20], b"before") | dict.fromkeys(MANY[20:], b"after")


# One that waits


# Seconds. MySQL's shortest lock timeout is one; Oracle's emulator is slow.
_DONE_WITHIN = {"mysql": 1.3, "oracle": 3.0, "postgresql": 1.0}


@pytest.mark.parametrize(
    ("verb", "seconds", "left"), [("set", 3, b"new"), ("renew", 1, b"old"), ("delete", 1, None)], ids=[*_CALLS]
)
async def test_a_row_that_somebody_holds_delays_its_own_key_only(  # noqa: PLR0913, PLR0917 - one is a mark
    store: Store, adapter: Adapter, server: object, hold: Hold, verb: str, seconds: float, left: bytes | None
) -> None:
    """Its 63 neighbours are done while it is held; it is done afterwards, and before later calls on its key."""
    call = _CALLS[verb]
    assert server, "without row locks all writes wait"
    took = 0.0
    for _ in range(3):  # a busy machine may be slow once
        await store.set_many(dict.fromkeys(MANY, b"old"), 3600)
        held, free = MANY[31], MANY[:31] + MANY[32:]
        async with hold(store.table_name, held):
            started = time.monotonic()
            calls = {key: asyncio.ensure_future(call(store, key)) for key in MANY}
            later = [
                asyncio.ensure_future(one) for one in (store.get(held), store.add(held, b"added"), store.pop(held))
            ]
            await asyncio.gather(*(calls[key] for key in free))
            took = time.monotonic() - started
            print(f"63 of 64 were done after {took * 1000:.0f} ms")  # noqa: T201 - wanted where it is too long
            while time.monotonic() < started + seconds:
                await asyncio.gather(*(call(store, key) for key in free))
                await asyncio.sleep(0.05)

            assert not any(task.done() for task in (calls[held], *later))
        await calls[held]

        assert await asyncio.gather(*later) == [left, left is None, left or b"added"]
        assert await store.get_many(free) == ({} if left is None else dict.fromkeys(free, left))
        if took < _DONE_WITHIN[adapter.dialect]:
            return
    pytest.fail(f"they waited for {took:.1f} s")


async def test_a_bulk_call_waits_for_its_slowest_key_alone(store: Store, server: object, hold: Hold) -> None:
    """Single calls of the same moment, on keys that it does not touch, are done without it."""
    assert server, "without row locks all writes wait"
    await store.set_many(dict.fromkeys(MANY, b"old"))
    async with hold(store.table_name, MANY[0]):
        waiting = asyncio.ensure_future(store.set_many(dict.fromkeys(MANY[:8], b"new")))
        await asyncio.gather(*(store.set(key, b"new") for key in MANY[8:]))

        assert not waiting.done()
    await waiting

    assert await store.get_many(MANY) == dict.fromkeys(MANY, b"new")


# Sizes


async def test_large_values_keep_their_place(store: Store) -> None:
    """They are neither overtaken by small ones nor overtake them, on each of several keys."""
    sizes = [LARGE, 1, LARGE, LARGE, 0, 2, LARGE, 3]
    values = [bytes([number]) * size for number, size in enumerate(sizes)]
    order = [(key, value) for value in values for key in MANY[:8]]
    answers = await asyncio.gather(*(call for key, value in order for call in (store.set(key, value), store.get(key))))

    assert [answer for answer in answers if answer is not None] == [value for _, value in order]
    assert await store.get_many(MANY[:8]) == dict.fromkeys(MANY[:8], values[-1])


async def test_small_values_do_not_wait_for_large_ones(store: Store, server: object) -> None:
    """What is small is done first, although what is large was set first."""
    assert server, "where there is one writer, large values are in its way"
    await asyncio.gather(*(store.set(key, b"v") for key in MANY))  # connects
    await asyncio.gather(*(store.set(key, bytes(LARGE)) for key in MANY[:4]))
    done: list[str] = []

    async def set_and_tell(key: str, value: bytes) -> None:
        await store.set(key, value)
        done.append(key)

    await asyncio.gather(set_and_tell("large", bytes(20_000_000)), *(set_and_tell(key, b"new") for key in MANY))

    assert done[-1] == "large"


# Reads


async def test_a_read_after_a_write_sees_it(store: Store) -> None:
    """Although other reads of the key are under way all the time."""
    await _read_all_the_time(store, partial(_write_and_read, store, store))


async def test_a_read_after_a_write_by_other_means_sees_it(store: Store, make_store: MakeStore) -> None:
    """The write was another config's, or another process's: no read is answered with what was asked before it."""
    await _read_all_the_time(store, partial(_write_and_read, make_store(), store))


async def _write_and_read(writer: Store, reader: Store) -> None:
    for number in range(100):
        value = b"%d" % number
        await writer.set("k", value)

        assert tuple(await asyncio.gather(reader.get("k"), reader.get_many(["k", "l"]))) == (value, {"k": value})


async def _read_all_the_time(store: Store, meanwhile: Callable[[], Awaitable[None]]) -> None:
    async def read() -> None:
        while True:
            await store.get("k")

    readers = [asyncio.create_task(read()) for _ in range(16)]
    try:
        await meanwhile()
        assert not any(reader.done() for reader in readers)
    finally:
        for reader in readers:
            reader.cancel()
        await asyncio.wait(readers)
