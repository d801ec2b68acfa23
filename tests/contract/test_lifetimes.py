"""Lifetimes: seconds or a timedelta, fractions kept; None and 0 are for ever, a negative one is over."""

from __future__ import annotations

import asyncio
import time
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from ..conftest import Adapter, MakeStore
    from .conftest import SQL
    from .verbs import Store

    Lifetime = float | timedelta | None

_GIVEN: dict[str, Callable[[Store, str, Lifetime], Awaitable[object]]] = {
    "set": lambda store, key, lifetime: store.set(key, b"1", lifetime),
    "set_many": lambda store, key, lifetime: store.set_many({key: b"1"}, lifetime),
    "add": lambda store, key, lifetime: store.add(key, b"1", lifetime),
    "incr": lambda store, key, lifetime: store.incr(key, 1, lifetime),
}
"""The verbs that give a value its lifetime."""
_SECONDS: dict[timedelta | float, float] = {
    timedelta(milliseconds=300): 0.3,
    timedelta(hours=36): 129_600,
    timedelta(days=14, microseconds=1): 1_209_600.000001,
    0.001: 0.001,
    1.5: 1.5,
    60: 60,
    36_525 * 86_400: 36_525 * 86_400,
}
_STORED_LIFETIME = {
    "oracle": """
        EXTRACT(DAY FROM expires_at - updated_at) * 86400 + EXTRACT(HOUR FROM expires_at - updated_at) * 3600
        + EXTRACT(MINUTE FROM expires_at - updated_at) * 60 + EXTRACT(SECOND FROM expires_at - updated_at)
    """,
    "mysql": "TIMESTAMPDIFF(MICROSECOND, updated_at, expires_at) / 1e6",
    "postgresql": "extract(epoch FROM expires_at - updated_at)::float8",
    "sqlite": "expires_at - updated_at",
}


async def _give(store: Store, lifetime: Lifetime) -> None:
    """Let each verb make a value of this lifetime, under its own name."""
    for verb, give in _GIVEN.items():
        await give(store, verb, lifetime)


@pytest.mark.parametrize("lifetime", _SECONDS, ids=str)
async def test_a_lifetime_is_kept_exactly(
    store: Store, adapter: Adapter, sql: SQL, lifetime: timedelta | float
) -> None:
    """Neither fractions of a second nor whole days are lost."""
    await _give(store, lifetime)
    seconds = _STORED_LIFETIME[adapter.dialect]
    stored = dict(await sql(f"SELECT session_id, {seconds} FROM {store.table_name}"))  # noqa: S608

    # Where the process's clock is the database's it is read twice.
    assert stored == {verb: pytest.approx(_SECONDS[lifetime] + 0.1, abs=0.101) for verb in _GIVEN}


async def test_a_value_is_gone_when_its_lifetime_is_over(store: Store) -> None:
    """Half a second is a lifetime, and not for ever."""
    await _give(store, timedelta(milliseconds=300))
    await asyncio.sleep(0.35)

    assert await store.get_many(_GIVEN) == {}


async def test_a_value_is_there_until_its_lifetime_is_over(store: Store) -> None:
    """A lifetime of some seconds has not ended at once."""
    await _give(store, 30)

    assert await store.get_many(_GIVEN) == dict.fromkeys(_GIVEN, b"1")


@pytest.mark.parametrize("lifetime", [None, 0, 0.0, timedelta(0)], ids=repr)
async def test_no_lifetime_and_zero_are_for_ever(store: Store, sql: SQL, lifetime: Lifetime) -> None:
    """The value is there and has no expiry, in the table either."""
    await _give(store, lifetime)

    assert await store.get_many(_GIVEN) == dict.fromkeys(_GIVEN, b"1")
    assert [await store.expires_in(verb) for verb in _GIVEN] == [None] * 4
    assert await sql(f"SELECT DISTINCT expires_at FROM {store.table_name}") == [(None,)]  # noqa: S608


@pytest.mark.parametrize("lifetime", [-1, -1e-9, -1e300, timedelta(microseconds=-1), timedelta.min], ids=str)
async def test_a_negative_lifetime_is_over(store: Store, sql: SQL, lifetime: Lifetime) -> None:
    """`set` and `set_many` remove what was there, and no verb makes a value of it, least of all an eternal one."""
    await store.set_many({"set": b"old", "set_many": b"old"})
    await _give(store, lifetime)
    stored = {key for (key,) in await sql(f"SELECT session_id FROM {store.table_name}")}  # noqa: S608

    assert await store.get_many(_GIVEN) == {}
    assert stored.isdisjoint({"set", "set_many"})


async def test_a_set_decides_the_lifetime_anew(store: Store) -> None:
    """It may shorten it, end it, or make the value eternal."""
    await store.set("shorter", b"v", 3600)
    await store.set("shorter", b"v", 60)
    await store.set("eternal", b"v", 60)
    await store.set("eternal", b"v")
    await store.set("mortal", b"v")
    await store.set("mortal", b"v", 60)

    assert 0 < (await store.expires_in("shorter") or 0) <= 60
    assert await store.expires_in("eternal") is None
    assert 0 < (await store.expires_in("mortal") or 0) <= 60


# expires_in


@pytest.mark.parametrize("lifetime", [3600, 36_525 * 86_400])
async def test_expires_in_is_whole_seconds_rounded_up(store: Store, lifetime: int) -> None:
    """It never says less than what is left."""
    before = time.monotonic()
    await store.set("k", b"v", lifetime)
    left = await store.expires_in("k")
    assert left is not None
    elapsed = time.monotonic() - before

    assert type(left) is int
    assert lifetime - elapsed <= left <= lifetime


async def test_expires_in_of_less_than_a_second_is_one(store: Store) -> None:
    """A live value never has 0 seconds left."""
    answers: set[int | None] = set()
    deadline = time.monotonic() + 10
    while answers != {1, None} and time.monotonic() < deadline:
        await store.set("k", b"v", 0.3)
        for _ in range(20):
            answers.add(await store.expires_in("k"))
            await asyncio.sleep(0.02)

    assert answers == {1, None}


async def test_expires_in_is_none_without_a_value_or_without_an_expiry(store: Store) -> None:
    """The store protocol documents it so."""
    await store.set("eternal", b"v")

    assert await store.expires_in("missing") is None
    assert await store.expires_in("eternal") is None


# Renewal


async def _left(store: Store) -> float:
    left = await store.expires_in("k")
    assert left is not None
    return left


@pytest.mark.parametrize("lifetime", [7200, 7200.5, timedelta(hours=2), timedelta(days=14)], ids=str)
async def test_a_renewal_moves_the_expiry(store: Store, lifetime: float | timedelta) -> None:
    """The value comes with it, and the new lifetime counts from now."""
    seconds = lifetime.total_seconds() if isinstance(lifetime, timedelta) else lifetime
    await store.set("k", b"v", 60)

    assert await store.get("k", renew_for=lifetime) == b"v"
    assert seconds - 30 < await _left(store) <= seconds + 1


@pytest.mark.parametrize("lifetime", [None, 0, -1, 0.1, 1, timedelta(hours=1)], ids=str)
async def test_a_renewal_never_brings_an_expiry_closer(store: Store, lifetime: Lifetime) -> None:
    """Nor does it take it away."""
    await store.set("k", b"v", 7200)

    assert await store.get("k", renew_for=lifetime) == b"v"
    assert 7100 < await _left(store) <= 7200


async def test_a_renewed_value_outlives_its_first_lifetime(store: Store) -> None:
    """The renewal is in the database, not only in its answer."""
    await store.set("k", b"v", 1.5)
    await store.get("k", renew_for=60)
    await asyncio.sleep(1.6)

    assert await store.get("k") == b"v"


async def test_renewing_leaves_an_eternal_value_eternal(store: Store) -> None:
    """``renew_for`` is a no-op for a value that was set without a lifetime."""
    await store.set("k", b"v")

    assert await store.get("k", renew_for=1) == b"v"
    assert await store.expires_in("k") is None


async def test_renewing_a_missing_value_makes_none(store: Store) -> None:
    """There is nothing to renew."""
    assert await store.get("k", renew_for=60) is None
    assert not await store.exists("k")


async def test_a_renewal_is_not_a_write_of_the_value(store: Store) -> None:
    """Whoever read the value before may still replace it."""
    await store.set("k", b"v", 60)
    before = await store.get_versioned("k")
    await store.get("k", renew_for=3600)

    assert await store.get_versioned("k") == before


@pytest.mark.parametrize("lifetime", [None, 10_000])
async def test_a_renewal_racing_a_set_neither_loses_the_value_nor_its_lifetime(
    store: Store, make_store: MakeStore, lifetime: int | None
) -> None:
    """Whichever the database takes first, the value is there, and what the set said holds."""
    other = make_store()
    for _ in range(60):
        await store.set("k", b"old", 100)
        renewed, _ = await asyncio.gather(other.get("k", renew_for=200), store.set("k", b"new", lifetime))

        assert renewed in {b"old", b"new"}
        assert await store.get("k") == b"new"
        left = await store.expires_in("k")
        assert left is None if lifetime is None else left and left > 9_000


async def test_a_renewal_racing_a_set_that_ends_eternity_finds_the_value(store: Store, make_store: MakeStore) -> None:
    """The value is there before and after, so the renewal returns it; if it returns the new one, it has renewed it."""
    other = make_store()
    for _ in range(60):
        await store.set("k", b"old")
        renewed, _ = await asyncio.gather(other.get("k", renew_for=200), store.set("k", b"new", 100))

        assert renewed in {b"old", b"new"}
        assert (await _left(store) > 100) is (renewed == b"new")


# renew_after


@pytest.mark.parametrize(("left", "then"), [(90, 90), (40, 100)])
async def test_a_renewal_writes_when_enough_has_passed(
    store: Store, make_store: MakeStore, sql: SQL, left: int, then: int
) -> None:
    """``renew_after=0.5`` leaves alone what still has half of its lifetime before it."""
    lazy = make_store(renew_after=0.5)
    await store.set("k", b"v", left)
    await store.set("eternal", b"v")
    before = await sql(f"SELECT * FROM {store.table_name} ORDER BY session_id")  # noqa: S608

    assert await lazy.get("k", renew_for=100) == b"v"
    assert await lazy.get("eternal", renew_for=100) == b"v"
    assert await lazy.get("missing", renew_for=100) is None
    assert (await sql(f"SELECT * FROM {store.table_name} ORDER BY session_id") != before) is (then != left)  # noqa: S608
    assert await store.expires_in("k") == then


async def test_a_renewal_that_reads_first_leaves_a_new_value_its_lifetime(make_store: MakeStore) -> None:
    """What is set between the read and the write is not what was to be renewed."""
    lazy = make_store(renew_after=0.9)
    await lazy.create_table()
    await lazy.set("k", b"old", 1)
    got, _ = await asyncio.gather(lazy.get("k", renew_for=100), lazy.set("k", b"new", 5))

    assert got == b"old"
    assert await lazy.get("k") == b"new"
    assert await lazy.expires_in("k") == 5
    await lazy.drop_table()
