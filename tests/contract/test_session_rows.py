"""Sessions as rows: created, guarded, moved, listed, on every database."""

import asyncio
import time
from typing import Any

import pytest

from sqlstore import BaseSQLSpecStore
from sqlstore.session_rows import SessionRows, SessionStatistics

from ..conftest import MakeStore
from ..proxy import Proxy

AnyStore = BaseSQLSpecStore[Any]


@pytest.fixture
def rows(store: AnyStore) -> SessionRows:
    """Return the sessions of a store."""
    return SessionRows(store, 100, 1000)


async def test_what_was_added_is_loaded(rows: SessionRows) -> None:
    """With its version, its principal, and instants by the database's clock."""
    version = await rows.add("a", b"data", "ada")

    assert set(await rows.load("a", "b")) == {"a"}
    loaded = (await rows.load("a", "b"))["a"]
    assert loaded[:4] == ("a", b"data", version, "ada")
    assert loaded.expires_at is not None
    assert loaded.now - 5 < loaded.created_at == loaded.updated_at <= loaded.now
    assert loaded.expires_at - loaded.created_at == pytest.approx(100, abs=0.001)
    assert loaded.now == pytest.approx(time.time(), abs=5)


async def test_only_the_version_that_was_read_is_replaced(rows: SessionRows) -> None:
    """A save with another version changes nothing."""
    version = await rows.add("a", b"1", None)

    saved = await rows.save("a", b"2", version, principal="ada")
    assert saved not in {0, version}
    assert await rows.save("a", b"3", version, principal=None) == 0
    loaded = (await rows.load("a"))["a"]
    assert loaded[1:4] == (b"2", saved, "ada")


async def test_a_moved_session_keeps_its_birthday(rows: SessionRows) -> None:
    """The old key is dead at once."""
    version = await rows.add("a", b"1", "ada")
    before = (await rows.load("a"))["a"]

    moved = await rows.save("a", b"2", version, principal="ada", new_key="b")
    loaded = await rows.load("a", "b")
    assert set(loaded) == {"b"}
    assert loaded["b"].version == moved
    assert loaded["b"].created_at == before.created_at


async def test_an_expiry_that_the_browser_does_not_hear_of_is_no_visit(rows: SessionRows, store: AnyStore) -> None:
    """Such a save moves it, and leaves the instant from which a page view looks whether it is time."""
    version = await SessionRows(store, 10, None).add("a", b"1", None)

    assert await rows.save("a", b"2", version, principal=None, same=True, told=False)
    loaded = (await rows.load("a"))["a"]
    assert loaded.expires_at is not None
    assert loaded.updated_at == loaded.created_at
    assert 100 <= loaded.expires_at - loaded.created_at <= 100 + loaded.now - loaded.created_at


async def test_a_touch_moves_the_expiry(rows: SessionRows, store: AnyStore) -> None:
    """From another lifetime to this one; a session that is not there is not touched."""
    await SessionRows(store, 10, None).add("a", b"1", None)

    assert list(await asyncio.gather(rows.touch("a"), rows.touch("a"), rows.touch("b"))) == [True, True, False]
    loaded = (await rows.load("a"))["a"]
    assert loaded.expires_at is not None
    assert loaded.expires_at - loaded.updated_at == pytest.approx(100, abs=0.001)
    assert loaded.updated_at > loaded.created_at


async def test_nothing_lives_longer_than_the_longest(store: AnyStore) -> None:
    """Whether it is created, touched or saved."""
    rows = SessionRows(store, 100, 20)
    version = await rows.add("a", b"1", None)
    for action in (rows.load("a"), rows.touch("a"), rows.save("a", b"2", version, principal=None)):
        await action

        loaded = (await rows.load("a"))["a"]
        assert loaded.expires_at is not None
        assert loaded.expires_at - loaded.created_at == pytest.approx(20, abs=0.001)


async def test_a_principal_is_logged_out_everywhere(rows: SessionRows) -> None:
    """Or everywhere else; others are not."""
    for key, principal in (("a", "ada"), ("b", "ada"), ("c", "ada"), ("d", "Ada"), ("e", None)):
        await rows.add(key, b"", principal)

    assert {row.key for row in await rows.of_principal("ada")} == {"a", "b", "c"}
    assert await rows.delete_principal("ada", kept="b") == 2
    assert [row.key for row in await rows.of_principal("ada")] == ["b"]
    assert await rows.delete_principal("ada") == 1
    assert [row.key async for row in rows.all()] == ["d", "e"]


async def test_a_namespace_is_counted_by_itself(rows: SessionRows, store: AnyStore) -> None:
    """Expired rows among it; those of children are not."""
    assert await rows.statistics() == SessionStatistics(0, 0, 0, 0, None)
    await rows.add("a", b"12", "ada")
    await rows.add("b", b"345", "ada")
    await SessionRows(store, 0.01, None).add("c", b"", None)
    await store.with_namespace("child").set("d", b"6")
    await asyncio.sleep(0.05)

    counted = await rows.statistics()
    assert counted[:4] == (3, 1, 1, 5)
    assert counted.oldest == pytest.approx(time.time(), abs=30)


async def test_sessions_are_saved_by_shared_statements(rows: SessionRows) -> None:
    """Each of many at once is replaced where its own version is expected, and told so."""
    keys = [f"key{number}" for number in range(50)]
    versions = dict(zip(keys, await asyncio.gather(*(rows.add(key, b"1", key) for key in keys)), strict=True))
    stale = set(keys[::7])
    saving = [rows.save(key, b"2", versions[key] - (key in stale), principal=key, same=True) for key in keys]
    saved = dict(zip(keys, await asyncio.gather(*saving), strict=True))
    loaded = await rows.load(*keys)

    assert {key for key in keys if not saved[key]} == stale
    for key in keys:
        new = (b"1", versions[key], key) if key in stale else (b"2", saved[key], key)
        assert loaded[key][1:4] == new
        assert loaded[key].expires_at == pytest.approx(loaded[key].updated_at + 100, abs=0.001)


async def test_of_several_saves_at_once_of_one_session_one_wins(rows: SessionRows) -> None:
    """They do not share a statement, in which the last would count and all be told that it was theirs."""
    version = await rows.add("a", b"0", None)
    saving = [rows.save("a", b"%d" % number, version, principal=None, same=True) for number in range(1, 9)]
    saved = await asyncio.gather(*saving)
    [(winner, new)] = [(number, version) for number, version in enumerate(saved, 1) if version]

    assert (await rows.load("a"))["a"][1:3] == (b"%d" % winner, new)


async def test_saves_with_other_bounds_share_no_statement(store: AnyStore) -> None:
    """Nor do touches: of two configs over one store, each has its own longest life."""
    short, long = SessionRows(store, 100, 20), SessionRows(store, 100, None)
    versions = [await short.add(key, b"1", None) for key in "abcd"]
    await asyncio.gather(
        long.save("a", b"2", versions[0], principal=None, same=True),
        short.save("b", b"2", versions[1], principal=None, same=True),
        long.touch("c"),
        short.touch("d"),
    )
    loaded = await long.load(*"abcd")
    left = {key: (one.expires_at or 0) - one.created_at for key, one in loaded.items()}

    assert left == pytest.approx({"a": 100, "b": 20, "c": 100, "d": 20}, abs=2)


async def test_saves_whose_answer_was_lost_recognise_themselves(
    store: AnyStore, make_store: MakeStore, proxy: Proxy
) -> None:
    """They are repeated, and only what somebody else has saved before was not theirs."""
    rows = SessionRows(store, 100, None)
    keys = [f"key{number}" for number in range(5)]
    versions = {key: await rows.add(key, b"1", None) for key in keys}
    unlucky = SessionRows(make_store(port=proxy.port), 100, None)
    await unlucky.load(*keys)
    proxy.drop_reply_after(b"marker")
    saved = await asyncio.gather(
        *(unlucky.save(key, b"marker", version, principal=None, same=True) for key, version in versions.items())
    )
    loaded = await rows.load(*keys)

    assert proxy.lost_replies == 1
    assert [loaded[key].version for key in keys] == saved
    assert {session.data for session in loaded.values()} == {b"marker"}
