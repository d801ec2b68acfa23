"""Operations on one key take effect in the order of their calls, in one event loop."""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine

    from sqlstore import BaseSQLSpecStore

    from .conftest import Hold

    Store = BaseSQLSpecStore[Any]

KEYS = ("a", "b", "c")
MAYBE_A_NUMBER = (b"1", b"20", b"-300")


class _Model:
    """What a store would answer that runs each call before it looks at the next."""

    def __init__(self) -> None:
        self.values: dict[str, bytes] = {}
        self.untouched: set[str] = set()
        """Keys whose data is still that of the beginning, with the version that the test knows."""

    def set(self, key: str, value: bytes) -> None:
        self.values[key] = value
        self.untouched.discard(key)

    def get(self, key: str) -> bytes | None:
        return self.values.get(key)

    def exists(self, key: str) -> bool:
        return key in self.values

    def set_many(self, values: dict[str, bytes]) -> None:
        for key, value in values.items():
            self.set(key, value)

    def get_many(self, keys: tuple[str, ...]) -> dict[str, bytes]:
        return {key: self.values[key] for key in keys if key in self.values}

    def pop(self, key: str) -> bytes | None:
        self.untouched.discard(key)
        return self.values.pop(key, None)

    def delete(self, key: str) -> None:
        self.pop(key)

    def delete_many(self, keys: tuple[str, ...]) -> None:
        for key in keys:
            self.pop(key)

    def delete_all(self) -> None:
        self.delete_many(KEYS)

    def add(self, key: str, value: bytes) -> bool:
        if key in self.values:
            return False
        self.set(key, value)
        return True

    def incr(self, key: str, amount: int) -> int:
        value = int(self.values.get(key, b"0")) + amount
        self.set(key, str(value).encode())
        return value

    def replace_untouched(self, key: str, value: bytes) -> bool:
        replaced = key in self.untouched
        if replaced:
            self.set(key, value)
        return replaced


def _random_call(
    rng: random.Random, store: Store, model: _Model, versions: dict[str, int]
) -> tuple[Callable[[], Coroutine[Any, Any, object]], Callable[[], object]]:
    key = rng.choice(KEYS)
    keys = tuple(rng.sample(KEYS, 2))
    value = rng.choice(MAYBE_A_NUMBER)
    amount = rng.randrange(-9, 10)
    parent = type(store)(store.config)
    return rng.choice(
        (
            (lambda: store.set(key, value), lambda: model.set(key, value)),
            (lambda: store.set(key, value, 3600), lambda: model.set(key, value)),
            (lambda: store.set(key, value, -1), lambda: model.delete(key)),
            (lambda: store.get(key), lambda: model.get(key)),
            (lambda: store.get(key, renew_for=7200), lambda: model.get(key)),
            (lambda: store.exists(key), lambda: model.exists(key)),
            (lambda: store.delete(key), lambda: model.delete(key)),
            (lambda: store.pop(key), lambda: model.pop(key)),
            (lambda: store.add(key, value), lambda: model.add(key, value)),
            (lambda: store.incr(key, amount), lambda: model.incr(key, amount)),
            (lambda: store.get_many(keys), lambda: model.get_many(keys)),
            (
                lambda: store.set_many(dict.fromkeys(keys, value)),
                lambda: model.set_many(dict.fromkeys(keys, value)),
            ),
            (lambda: store.delete_many(keys), lambda: model.delete_many(keys)),
            (store.delete_all, model.delete_all),
            (parent.delete_all, model.delete_all),
            (
                lambda: store.compare_and_set(key, value, versions[key]),
                lambda: model.replace_untouched(key, value),
            ),
        )
    )


async def test_calls_on_one_key_take_effect_in_call_order(store: Store) -> None:
    """Calls of any verb that are made at once answer and leave what they would one after the other."""
    store = store.with_namespace("x")
    rng = random.Random(7)  # noqa: S311 - always the same programs
    for _ in range(15):
        model = _Model()
        await store.delete_all()
        for key in KEYS[:2]:
            await store.set(key, b"0")
            model.set(key, b"0")
        model.untouched = set(KEYS[:2])
        versions = {key: found.version if (found := await store.get_versioned(key)) else 0 for key in KEYS}

        calls = [_random_call(rng, store, model, versions) for _ in range(40)]
        expected = [modelled() for _, modelled in calls]
        answers = await asyncio.gather(*(made() for made, _ in calls))

        assert answers == expected
        assert await store.get_many(KEYS) == model.values


@pytest.mark.parametrize("in_between", [1, 5_000_000])
async def test_the_size_of_a_value_does_not_change_the_order(store: Store, in_between: int) -> None:
    """A small value that is set after a large one is not overtaken by it, nor is a read."""
    large = bytes(in_between)
    _, read, _, last = await asyncio.gather(
        store.set("k", large), store.get("k"), store.set("k", b"small"), store.get("k")
    )

    assert (read, last) == (large, b"small")


async def test_a_bulk_call_keeps_its_place_with_all_its_batches(store: Store) -> None:
    """A call on a key of the last batch of a `set_many` waits for it, and `get_many` sees all batches before it."""
    keys = [f"k{number:04}" for number in range(600)]
    _, _, found, _, left = await asyncio.gather(
        store.set_many(dict.fromkeys(keys, b"v")),
        store.delete(keys[-1]),
        store.get_many(keys),
        store.delete_many(keys[:-2]),
        store.get_many(keys),
    )

    assert (list(found), list(left)) == (keys[:-1], [keys[-2]])


async def test_all_stores_of_a_config_share_the_order(store: Store) -> None:
    """It is the key that counts, not the store object that was called."""
    one, other = store.with_namespace("x"), type(store)(store.config).with_namespace("x")
    _, first, _, second, _, third = await asyncio.gather(
        one.set("k", b"one"),
        other.get("k"),
        other.set("k", b"other"),
        one.pop("k"),
        store.delete_all(),
        one.get("k"),
    )

    assert (first, second, third) == (b"one", b"other", None)


async def test_delete_all_of_a_parent_comes_between_the_calls_on_its_children(store: Store) -> None:
    """What was set before it is gone, what is set after it stays, and siblings are not concerned."""
    child, sibling = store.with_namespace("x"), store.with_namespace("y")
    await sibling.set("k", b"v")
    await asyncio.gather(
        child.set("before", b"v"), store.set("before", b"v"), store.delete_all(), child.set("after", b"v")
    )
    await asyncio.gather(sibling.set("k", b"v"), child.delete_all(), sibling.set("l", b"v"))

    assert (await sibling.get("k"), await sibling.get("l")) == (b"v", b"v")
    assert (await child.get("before"), await store.get("before"), await child.get("after")) == (None, None, None)


async def test_a_key_is_another_one_in_another_namespace(store: Store, hold: Hold) -> None:
    """A call that waits is in the way of its own key only, although others are called the same."""
    await store.set("k", b"v")
    async with hold(store.table_name, "k"):
        waiting = asyncio.create_task(store.set("k", b"new"))
        await asyncio.sleep(0)
        found = await store.with_namespace("x").get("k")

        assert not waiting.done()
    await waiting

    assert found is None


async def test_a_call_that_is_tried_again_keeps_its_place(store: Store, hold: Hold) -> None:
    """Later calls on a key wait for one that somebody else's transaction is in the way of."""
    await store.set("k", b"old")
    async with hold(store.table_name, "k"):
        calls: list[Awaitable[object]] = [
            asyncio.ensure_future(call)
            for call in (store.set("k", b"new"), store.get("k"), store.delete("k"), store.get("k"))
        ]
        await asyncio.sleep(0.4)  # longer than PostgreSQL's lock timeout

    assert await asyncio.gather(*calls) == [None, b"new", None, None]


@pytest.mark.parametrize("held", [1, 8])
async def test_other_keys_are_not_held_up_by_a_slow_one(store: Store, server: object, hold: Hold, held: int) -> None:
    """A row that a transaction holds delays its own key until the end of that transaction, and nobody else."""
    assert server, "without row locks all writes wait"
    slow = [f"slow{number}" for number in range(held)]
    await store.set_many(dict.fromkeys(slow, b"old"))
    async with hold(store.table_name, *slow):
        waiting = [asyncio.create_task(store.set(key, b"new")) for key in slow]
        await asyncio.sleep(0.1)
        for number in range(4):
            await asyncio.gather(store.set(f"k{number}", b"v"), store.incr("n"), store.get("other"))
        await asyncio.sleep(0.6)

        assert not any(task.done() for task in waiting)
    await asyncio.gather(*waiting)

    assert await store.get_many(slow) == dict.fromkeys(slow, b"new")
    assert await store.incr("n") == 5
