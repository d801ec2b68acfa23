"""The atomic verbs: of all callers, in all processes, each sees what the others did, and one wins."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from sqlstore import CounterError, SQLStoreError, Versioned

if TYPE_CHECKING:
    from ..conftest import MakeStore
    from .verbs import Store

MAX, MIN = 2**63 - 1, -(2**63)


@pytest.fixture
def both(store: Store, make_store: MakeStore) -> tuple[Store, Store]:
    """Return two stores over the same table that share nothing else: as in two processes."""
    return store, make_store()


async def _version(store: Store) -> int:
    found = await store.get_versioned("k")
    assert found
    return found.version


async def _left(store: Store) -> int:
    return await store.expires_in("k") or 0


# add


async def test_add_stores_a_value_only_where_there_is_none(store: Store) -> None:
    """The value that is there stays as it is, its lifetime too."""
    assert await store.add("k", b"first", 60)
    assert not await store.add("k", b"second", 3600)

    assert await store.get("k") == b"first"
    assert 0 < await _left(store) <= 60


async def test_add_works_again_after_a_delete(store: Store) -> None:
    """A lock that was given back can be taken."""
    await store.add("k", b"first")
    await store.delete("k")

    assert await store.add("k", b"second", 60)
    assert await store.get("k") == b"second"
    assert 0 < await _left(store) <= 60


async def test_one_of_many_adding_callers_wins(both: tuple[Store, Store]) -> None:
    """The others are told, and the winner's value is the one that is there."""
    for key in map(str, range(5)):
        added = await asyncio.gather(*(both[caller % 2].add(key, str(caller)) for caller in range(20)))

        assert added.count(True) == 1
        assert await both[0].get(key) == str(added.index(True)).encode()


# pop


async def test_pop_returns_the_value_and_deletes_it(store: Store) -> None:
    """Other keys stay; a second pop finds nothing."""
    await store.set_many({"k": b"v", "other": b"w"}, 60)

    assert await store.pop("k") == b"v"
    assert await store.pop("k") is None
    assert await store.get_many(["k", "other"]) == {"other": b"w"}


async def test_one_of_many_popping_callers_gets_the_value(both: tuple[Store, Store]) -> None:
    """A one-time token is used once."""
    for key in map(str, range(5)):
        await both[0].set(key, b"v")
        popped = await asyncio.gather(*(both[caller % 2].pop(key) for caller in range(20)))

        assert sorted(popped, key=bool) == [None] * 19 + [b"v"]


# incr


async def test_a_counter_is_a_decimal_number(store: Store) -> None:
    """It starts at 0, goes both ways, and `get` reads it."""
    assert await store.incr("k") == 1
    assert await store.incr("k", 41) == 42
    assert await store.get("k") == b"42"
    assert await store.incr("k", -50) == -8
    assert await store.get("k") == b"-8"
    assert await store.incr("k", 0) == -8
    assert await store.incr("k", 8) == 0
    assert await store.get("k") == b"0"


@pytest.mark.parametrize("value", [b"7", "7"])
async def test_a_number_that_was_set_can_be_counted(store: Store, value: str | bytes) -> None:
    """`set` gives a counter its first value."""
    await store.set("k", value)

    assert await store.incr("k", 3) == 10
    assert await store.get("k") == b"10"


@pytest.mark.parametrize("number", [MAX, MIN, MAX - 1, MIN + 1, 10**18, -(10**18)])
async def test_a_counter_has_64_bits(store: Store, number: int) -> None:
    """To the last one, in the first call as in later ones."""
    assert await store.incr("first", number) == number
    await store.set("set", str(number))
    assert await store.incr("set", 0) == number
    await store.incr("steps", number // 2)
    await store.incr("steps", number - number // 2)

    keys = ("first", "set", "steps")
    assert await store.get_many(keys) == dict.fromkeys(keys, str(number).encode())


@pytest.mark.parametrize(
    "value",
    [
        *(b"", b"abc", b"-", b"+", b"1.0", b"1e3", b"0x1", b"1_000", b"1,5", b"NaN", b"NULL", b"5 6"),
        *(b"007", b"00", b"-0", b"-07", b"+5", b" 5", b"5 ", b"5\n", b"\n5", b"5\0", b"\0", b"\0005"),
        *(b"\xff", b"\x05", "\uff15".encode(), "\u0665".encode(), b"5\xff", b"\\005", "\u22125".encode()),
        *(str(MAX + 1).encode(), str(MIN - 1).encode(), b"9" * 19, b"1" * 20, b"1" + b"0" * 60),
    ],
    ids=ascii,
)
async def test_what_is_no_number_cannot_be_counted(store: Store, value: bytes) -> None:
    """A number is what `incr` itself writes; any other value stays as it is."""
    await store.set("k", value, 3600)
    for amount in (1, -1, 0):
        with pytest.raises(CounterError, match="'k'"):
            await store.incr("k", amount, 60)

    assert await store.get("k") == value
    assert await _left(store) > 3500


@pytest.mark.parametrize(("value", "amount"), [(MAX, 1), (MIN, -1), (1, MAX), (-1, MIN), (MAX, MAX), (MIN, MIN)])
async def test_a_counter_does_not_overflow(store: Store, value: int, amount: int) -> None:
    """Too large a sum is an error, and leaves the counter as it is."""
    await store.incr("k", value)
    with pytest.raises(CounterError):
        await store.incr("k", amount)

    assert await store.get("k") == str(value).encode()
    assert await store.incr("k", -1 if value > 0 else 1) == value + (-1 if value > 0 else 1)


def test_a_counter_error_is_a_store_s_error_and_a_value_error() -> None:
    """It may be handled as either."""
    assert issubclass(CounterError, SQLStoreError)
    assert issubclass(CounterError, ValueError)


async def test_a_counter_s_lifetime_starts_at_the_first_hit(store: Store) -> None:
    """Later hits neither move nor end it: that is what a rate limit needs."""
    await store.incr("k", 1, 60)
    await store.incr("k", 1, 3600)
    await store.incr("k", 1)
    await store.incr("k", 1, -1)

    assert await store.get("k") == b"4"
    assert 0 < await _left(store) <= 60


async def test_an_eternal_counter_stays_eternal(store: Store) -> None:
    """It has got its lifetime, too."""
    await store.incr("k")
    await store.incr("k", 1, 60)

    assert await store.get("k") == b"2"
    assert await store.expires_in("k") is None


async def test_no_increment_is_lost(both: tuple[Store, Store]) -> None:
    """Of 200 callers at once each gets a number of its own."""
    counts = await asyncio.gather(*(both[caller % 2].incr("k") for caller in range(200)))

    assert sorted(counts) == list(range(1, 201))
    assert await both[0].get("k") == b"200"


# compare_and_set


async def test_a_version_replaces_just_the_value_it_was_read_with(store: Store) -> None:
    """It is used up with that."""
    await store.set("k", b"old")
    found = await store.get_versioned("k")
    assert isinstance(found, Versioned)
    assert found.data == b"old"
    assert not await store.compare_and_set("k", b"new", found.version ^ 1)
    assert await store.compare_and_set("k", b"new", found.version)
    assert not await store.compare_and_set("k", b"newer", found.version)

    assert await store.get("k") == b"new"
    assert await store.get_versioned("missing") is None


@pytest.mark.parametrize("version", [0, 1, -1, MAX])
async def test_a_missing_value_cannot_be_replaced(store: Store, version: int) -> None:
    """No version is that of a value that is not there; `add` is for those."""
    assert not await store.compare_and_set("k", b"new", version)
    assert not await store.exists("k")


@pytest.mark.parametrize("verb", ["set", "set_many", "incr", "compare_and_set", "delete_and_set", "pop_and_add"])
async def test_every_write_makes_the_version_stale(store: Store, verb: str) -> None:
    """Also one of the same value, and also after the key was deleted and made anew."""
    await store.set("k", b"5")
    stale = await _version(store)
    if verb == "set":
        await store.set("k", b"5")
    elif verb == "set_many":
        await store.set_many({"k": b"5"})
    elif verb == "incr":
        await store.incr("k", 0)
    elif verb == "compare_and_set":
        assert await store.compare_and_set("k", b"5", stale)
    elif verb == "delete_and_set":
        await store.delete("k")
        await store.set("k", b"5")
    else:
        await store.pop("k")
        await store.add("k", b"5")

    assert not await store.compare_and_set("k", b"new", stale)
    assert await store.get("k") == b"5"
    assert await _version(store) != stale


@pytest.mark.parametrize("lifetime", [None, 3600])
async def test_compare_and_set_keeps_the_expiry(store: Store, lifetime: int | None) -> None:
    """It replaces the value and nothing else."""
    await store.set("k", b"old", lifetime)
    await store.compare_and_set("k", b"new", await _version(store))
    left = await store.expires_in("k")

    assert await store.get("k") == b"new"
    assert left is None if lifetime is None else left and 3500 < left <= 3600


async def test_one_of_many_replacing_callers_wins(both: tuple[Store, Store]) -> None:
    """The others are told, and the winner's value is the one that is there."""
    await both[0].set("k", b"old")
    for _ in range(5):
        version = await _version(both[0])
        replaced = await asyncio.gather(
            *(both[caller % 2].compare_and_set("k", str(caller), version) for caller in range(20))
        )

        assert replaced.count(True) == 1
        assert await both[0].get("k") == str(replaced.index(True)).encode()


async def test_a_loop_of_get_versioned_and_compare_and_set_loses_nothing(both: tuple[Store, Store]) -> None:
    """Callers that try again until they win can change any value together."""
    await both[0].set("k", b"")

    async def append(store: Store, letter: bytes) -> None:
        while True:
            found = await store.get_versioned("k")
            assert found
            if await store.compare_and_set("k", found.data + letter, found.version):
                return

    letters = b"abcdefghijklmnop"
    await asyncio.gather(*(append(both[letter % 2], bytes([letter])) for letter in letters))

    assert bytes(sorted(await both[0].get("k") or b"")) == letters
