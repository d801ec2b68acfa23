"""Every verb that goes to the database: as a call, and with what it does to a value."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

from sqlstore import BaseSQLSpecStore

Store = BaseSQLSpecStore[Any]
Call = Callable[[Store], Coroutine[Any, Any, object]]

KEY = "the-key"
"""Known to the proxy, which finds it in what is executed."""

READS: dict[str, Call] = {
    "get": lambda store: store.get(KEY),
    "exists": lambda store: store.exists(KEY),
    "expires_in": lambda store: store.expires_in(KEY),
    "get_many": lambda store: store.get_many([KEY, "other"]),
    "get_versioned": lambda store: store.get_versioned(KEY),
}
WRITES: dict[str, Call] = {
    "get_and_renew": lambda store: store.get(KEY, renew_for=7200),
    "set": lambda store: store.set(KEY, b"new"),
    "set_to_expire": lambda store: store.set(KEY, b"new", 60),
    "set_expired": lambda store: store.set(KEY, b"new", -1),
    "delete": lambda store: store.delete(KEY),
    "delete_all": lambda store: store.delete_all(),
    "set_many": lambda store: store.set_many({KEY: b"new", "other": b"new"}),
    "delete_many": lambda store: store.delete_many([KEY, "other"]),
    "add": lambda store: store.add(KEY, b"new"),
    "pop": lambda store: store.pop(KEY),
    "incr": lambda store: store.incr(KEY),
    "compare_and_set": lambda store: store.compare_and_set(KEY, b"new", 1),
}
PRUNING: dict[str, Call] = {"delete_expired": lambda store: store.delete_expired()}
"""Reads a page of keys first."""
VERBS: dict[str, Call] = {**READS, **WRITES, **PRUNING}


@dataclass(frozen=True)
class Effect:
    """A call on `KEY`, what it answers, and the value that it leaves there."""

    call: Call
    answer: object
    left: bytes | None = b"5"
    before: bytes | None = b"5"
    """The value before, which expires in an hour; None for one that has expired, but is not pruned."""
    marker: str = KEY
    """What the proxy knows the call's statement by."""

    async def prepare(self, store: Store) -> None:
        """Bring about *before*."""
        await store.set(KEY, self.before or b"expired", 3600 if self.before else 0.001)
        if not self.before:
            await asyncio.sleep(0.01)


async def _expires_in_an_hour(store: Store) -> bool:
    return 3000 < (await store.expires_in(KEY) or 0) <= 3600


async def _renewed(store: Store) -> tuple[bytes | None, bool]:
    value = await store.get(KEY, renew_for=7200)
    return value, 7000 < (await store.expires_in(KEY) or 0) <= 7200


async def _data_and_version(store: Store) -> tuple[bytes, bool]:
    found = await store.get_versioned(KEY)
    assert found
    return found.data, found == await store.get_versioned(KEY)


async def _replaced(store: Store) -> bool:
    found = await store.get_versioned(KEY)
    assert found
    return await store.compare_and_set(KEY, b"new", found.version)


READABLE: dict[str, Effect] = {
    "get": Effect(lambda store: store.get(KEY), b"5"),
    "exists": Effect(lambda store: store.exists(KEY), answer=True),
    "expires_in": Effect(_expires_in_an_hour, answer=True),
    "get_many": Effect(lambda store: store.get_many([KEY, "other"]), {KEY: b"5"}),
    "get_versioned": Effect(_data_and_version, (b"5", True)),
}
REPEATABLE: dict[str, Effect] = {
    "get_and_renew": Effect(_renewed, (b"5", True)),
    "set": Effect(lambda store: store.set(KEY, b"new"), None, b"new"),
    "set_expired": Effect(lambda store: store.set(KEY, b"new", -1), None, None),
    "set_many": Effect(lambda store: store.set_many({KEY: b"new", "other": b"new"}), None, b"new"),
    "delete": Effect(lambda store: store.delete(KEY), None, None),
    "delete_many": Effect(lambda store: store.delete_many([KEY, "other"]), None, None),
    "delete_all": Effect(lambda store: store.delete_all(), None, None),
    "add": Effect(lambda store: store.add(KEY, b"new"), answer=True, left=b"new", before=None),
    # Not the read of the version.
    "compare_and_set": Effect(_replaced, answer=True, left=b"new", marker="new"),
}
ONCE: dict[str, Effect] = {
    "incr": Effect(lambda store: store.incr(KEY), 6, b"6"),
    "pop": Effect(lambda store: store.pop(KEY), b"5", None),
}
EFFECTS: dict[str, Effect] = {**READABLE, **REPEATABLE, **ONCE}
