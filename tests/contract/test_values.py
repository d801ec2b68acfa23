"""Values: any bytes, up to what the database takes; strings as UTF-8."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from sqlstore import ValueTooLargeError

if TYPE_CHECKING:
    from .verbs import Store

ALL_BYTES = bytes(range(256))
VALUES = {
    "empty": b"",
    "nul": b"\0",
    "all_bytes": ALL_BYTES,
    "not_utf8": b"\xff\xfe\xc3",
    "70000": b"\0'\\\xff" * 17_500,
    "16MiB": ALL_BYTES * (16 * 2**20 // 256),
}


@pytest.mark.parametrize("value", VALUES.values(), ids=VALUES)
async def test_a_value_comes_back_as_it_was(store: Store, value: bytes) -> None:
    """Every verb that stores a value stores all of it, and every verb that returns one returns ``bytes``."""
    await store.set("set", value)
    await store.set_many({"set_many": value})
    await store.add("add", value)
    await store.set("replaced", b"old")
    version = await store.get_versioned("replaced")
    assert version
    await store.compare_and_set("replaced", value, version.version)
    versioned = await store.get_versioned("set")
    assert versioned
    await store.set("expiring", value, 3600)

    assert {
        "set": versioned.data,
        "set_many": await store.get("set_many"),
        "add": await store.pop("add"),
        "expiring": await store.get("expiring", renew_for=7200),
        **await store.get_many(["replaced"]),
    } == {"set": value, "set_many": value, "add": value, "expiring": value, "replaced": value}


@pytest.mark.parametrize("text", ["", "naïve 😀 \0", "[1, 2]"])
async def test_a_string_is_stored_as_utf_8(store: Store, text: str) -> None:
    """What comes back is bytes."""
    await store.set("set", text)
    await store.set_many({"set_many": text})
    await store.add("add", text)
    await store.set("replaced", b"old")
    version = await store.get_versioned("replaced")
    assert version
    await store.compare_and_set("replaced", text, version.version)

    keys = ("set", "set_many", "add", "replaced")
    assert await store.get_many(keys) == dict.fromkeys(keys, text.encode())


async def test_an_empty_value_is_there(store: Store) -> None:
    """``b""`` is a value, not the absence of one."""
    await store.set("k", b"")

    assert await store.exists("k")
    assert not await store.add("k", b"v")
    assert await store.pop("k") == b""


async def test_the_last_value_counts(store: Store) -> None:
    """A shorter value leaves nothing of the longer one before it."""
    await store.set("k", b"longer")
    await store.set("k", b"new")

    assert await store.get("k") == b"new"


async def test_a_value_over_the_database_s_limit_is_refused(store: Store) -> None:
    """The error says so, nothing is changed, and the next call works."""
    await store.set("k", b"old")
    with pytest.raises(ValueTooLargeError):
        await store.set("k", bytes(2**30))

    assert await store.get("k") == b"old"
