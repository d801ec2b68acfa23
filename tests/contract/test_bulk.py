"""The bulk verbs: many keys, and much, in one call."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from .verbs import Store

_COUNTS = pytest.mark.parametrize("count", [0, 1, 257, 3000])
STRANGE = ("", "\0", "a", "A", "a ", "é", "e\u0301", "\ud800", "x" * 10_000, "sha256:a")


def _values(count: int) -> dict[str, bytes]:
    return {f"k{number}": str(number).encode() for number in range(count)}


@_COUNTS
async def test_many_values_are_set_and_got(store: Store, count: int) -> None:
    """All of them, with their own values; what was there under other keys stays."""
    await store.set("other", b"v")
    await store.set_many(_values(count))

    assert await store.get_many(_values(count)) == _values(count)
    assert await store.get_many(_values(count + 1)) == _values(count)
    assert await store.get("other") == b"v"


@_COUNTS
async def test_many_values_are_overwritten(store: Store, count: int) -> None:
    """New values and old ones may be mixed."""
    await store.set_many(dict.fromkeys(list(_values(count))[::2], b"old"), 3600)
    await store.set_many(_values(count))

    assert await store.get_many(_values(count)) == _values(count)


@_COUNTS
async def test_many_values_are_deleted(store: Store, count: int) -> None:
    """Missing keys are no error, and other keys stay."""
    await store.set_many({**_values(count), "other": b"v"})
    await store.delete_many([*_values(count), "missing"])

    assert await store.get_many([*_values(count), "other"]) == {"other": b"v"}


@pytest.mark.parametrize("sizes", [(70_000,) * 10, (300_000, 1, 300_000), (262_144, 1), (262_145,)], ids=str)
async def test_values_may_be_large_together(store: Store, sizes: tuple[int, ...]) -> None:
    """More than one statement holds is stored all the same."""
    values = {f"k{number}": bytes([number]) * size for number, size in enumerate(sizes)}
    await store.set_many(values)

    assert await store.get_many(values) == values


async def test_strange_keys_come_back_as_they_were_given(store: Store) -> None:
    """Not as what stands for them in the table."""
    values = {key: str(number).encode() for number, key in enumerate(STRANGE)}
    await store.set_many(values)

    assert await store.get_many(STRANGE) == values
    await store.delete_many(STRANGE[::2])
    assert list(await store.get_many(STRANGE)) == list(STRANGE[1::2])


async def test_values_come_in_the_order_of_the_keys(store: Store) -> None:
    """Missing ones are left out, and a key that is given twice is there once."""
    await store.set_many({"a": b"1", "b": b"2", "c": b"3"})

    assert list((await store.get_many(["c", "a", "missing", "b", "c"])).items()) == [
        ("c", b"3"),
        ("a", b"1"),
        ("b", b"2"),
    ]


async def test_keys_may_be_any_iterable(store: Store) -> None:
    """It is read once."""
    await store.set_many({"a": b"1", "b": b"2"})

    assert await store.get_many(key for key in "ab") == {"a": b"1", "b": b"2"}
    await store.delete_many(key for key in "ab")
    assert await store.get_many(["a", "b"]) == {}


async def test_all_values_get_the_same_lifetime(store: Store) -> None:
    """In whichever batch they are."""
    await store.set_many(_values(300), 3600)

    assert {3500 < (await store.expires_in(key) or 0) <= 3600 for key in _values(300)} == {True}


async def test_setting_with_a_negative_lifetime_deletes(store: Store) -> None:
    """Of these keys whatever was there; other keys stay."""
    await store.set_many({**_values(300), "other": b"v"})
    await store.set_many({**_values(300), "missing": b"v"}, -1)

    assert await store.get_many([*_values(300), "missing", "other"]) == {"other": b"v"}
