"""A caller that goes away abandons its own answer, and nothing that is on the wire."""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine

    from sqlstore import BaseSQLSpecStore

    from ..conftest import MakeStore
    from .conftest import Connections, Hold

    Store = BaseSQLSpecStore[Any]


def _random_write(rng: random.Random, store: Store, key: str) -> Coroutine[Any, Any, object]:
    verb = rng.randrange(5)
    if verb == 0:
        return store.set(key, b"1", rng.choice([None, 3600]))
    if verb == 1:
        return store.incr(key)
    if verb == 2:
        return store.add(key, b"1")
    if verb == 3:
        return store.set(key, bytes(100_000))
    return store.set_many({f"beside {key}": b"1", key: b"1"})


async def _start_and_abandon(rng: random.Random, call: Coroutine[Any, Any, object]) -> bool:
    """Return whether *call* ended in cancellation; it is cancelled after some turns of the loop, or some time."""
    task = asyncio.create_task(call)
    for _ in range(rng.choice([0, 0, 1, 2, 3, 5, 10, 20])):
        await asyncio.sleep(0)
    if rng.randrange(2):
        await asyncio.sleep(rng.random() * rng.choice([0.004, 0.004, 0.05]))  # the emulator of Oracle is slow
    task.cancel()
    await asyncio.wait([task])
    return task.cancelled()


async def test_an_abandoned_write_never_lands_after_a_later_delete(store: Store) -> None:
    """1,000 random writes are abandoned before, while or after they are sent, then deleted: none comes back."""
    rng = random.Random(7)  # noqa: S311 - always the same sequences
    keys = [f"k{number}" for number in range(1000)]
    found: list[bytes | None] = []
    cancelled: list[bool] = []

    async def abandon_then_delete(some: list[str]) -> None:
        for key in some:
            cancelled.append(await _start_and_abandon(rng, _random_write(rng, store, key)))
            await (store.delete(key) if rng.randrange(2) else store.delete_many([key]))
            found.append(await store.get(key))

    await asyncio.gather(*(abandon_then_delete(keys[first::10]) for first in range(10)))
    await store.close()  # whatever else is under way ends first

    assert found == [None] * 1000
    assert await store.get_many(keys) == {}
    assert 100 < sum(cancelled) < 1000, "the writes were not abandoned at all points"


async def test_an_abandoned_write_never_lands_after_a_later_delete_all(store: Store) -> None:
    """What is true of one key is true of all keys of the namespace."""
    rng = random.Random(7)  # noqa: S311 - always the same sequences
    keys = [f"k{number}" for number in range(20)]
    for _ in range(10):
        await asyncio.gather(*(_start_and_abandon(rng, _random_write(rng, store, key)) for key in keys))
        await store.delete_all()

        assert await store.get_many(keys) == {}


async def test_an_abandoned_call_that_has_not_been_sent_never_runs(store: Store, hold: Hold) -> None:
    """A caller that gives up while its call waits for another one on the same key changes nothing."""
    await store.set("n", b"1")
    async with hold(store.table_name, "n"):
        first = asyncio.create_task(store.incr("n"))
        others = [asyncio.create_task(call) for call in (store.set("n", b"100"), store.incr("n"), store.pop("n"))]
        await asyncio.sleep(0.05)
        for other in others:
            other.cancel()
        await asyncio.wait(others)

    assert await first == 2
    assert await store.get("n") == b"2"


async def test_an_abandoned_call_is_in_nobody_s_way(store: Store, hold: Hold) -> None:
    """Calls behind one that was abandoned before it was sent go on without it."""
    await store.set("n", b"1")
    async with hold(store.table_name, "n"):
        calls = [asyncio.create_task(store.incr("n")) for _ in range(100)]
        await asyncio.sleep(0.05)
        for call in calls[1:-1]:
            call.cancel()

    assert [await calls[0], await calls[-1]] == [2, 3]


async def test_an_abandoned_increment_counts_once_or_not_at_all(store: Store) -> None:
    """A read after it sees which; an increment that was answered has counted."""
    rng = random.Random(7)  # noqa: S311 - always the same sequences
    for _ in range(100):
        before = await store.incr("n")
        abandoned = await _start_and_abandon(rng, store.incr("n"))
        counted = await store.incr("n") - before - 1

        assert counted in ({0, 1} if abandoned else {1})


async def test_cancelled_calls_cost_no_connection(store: Store, connections: Connections) -> None:
    """After 200 cancelled calls the store still has the connections that it had."""
    rng = random.Random(7)  # noqa: S311 - always the same sequences
    await asyncio.gather(*(store.set(f"k{number}", b"v") for number in range(10)))
    await asyncio.gather(*(store.get(f"k{number}") for number in range(10)))
    before = await connections()
    for number in range(200):
        call = store.get("k0") if number % 2 else _random_write(rng, store, f"n{number}")
        await _start_and_abandon(rng, call)
    await store.set("k0", b"new")

    after = await connections()

    assert before
    assert after >= before
    assert len(after) <= store.config.readers + store.config.writers
    assert await store.get("k0") == b"new"


async def _wait_with_timeout(call: Coroutine[Any, Any, object]) -> None:
    async with asyncio.timeout(0.05):
        await call


async def _wait_with_wait_for(call: Coroutine[Any, Any, object]) -> None:
    await asyncio.wait_for(call, 0.05)


@pytest.mark.parametrize("wait", [_wait_with_timeout, _wait_with_wait_for])
async def test_a_caller_can_wait_for_less_time_than_the_store(
    store: Store, hold: Hold, wait: Callable[[Coroutine[Any, Any, object]], Awaitable[None]]
) -> None:
    """The timeouts of asyncio end a call at once, and the store goes on working."""
    await store.set("k", b"v")
    async with hold(store.table_name, "k"):
        waiting = asyncio.create_task(store.set("k", b"first"))
        await asyncio.sleep(0)
        with pytest.raises(TimeoutError):
            await wait(store.delete("k"))

        assert not waiting.done(), "the timeout came late"
    await waiting

    assert await store.get("k") == b"first"


async def test_a_cancelled_create_table_is_completed(make_store: MakeStore) -> None:
    """The table is there soon after its creator was cancelled, or can be created again."""
    store = make_store()
    creating = asyncio.create_task(store.create_table())
    await asyncio.sleep(0)
    creating.cancel()
    await asyncio.wait([creating])
    await store.create_table()
    await store.set("k", b"v")

    assert await store.get("k") == b"v"
