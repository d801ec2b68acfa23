"""Keys: any string, compared byte for byte, never truncated."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from ..conftest import MakeStore
    from .conftest import SQL
    from .verbs import Store

PREFIX = "sha256:"
# What stands in the table for "é".
E_ACUTE_STORED = f"{PREFIX}4a99557e4033c3539de2eb65472017cad5f9557f7a0625a09f1c3f6e2ba69c4c"

# Each line is what some database, collation or client takes for the same.
CONFUSABLE = (
    *("?q=a", "?q=A"),
    *("e", "é", "E", "É"),
    *("\u00e9t\u00e9", "e\u0301te\u0301"),  # composed, decomposed
    *("ss", "ß", "ẞ", "fi", "\ufb01", "i", "I", "\u0131", "\u0130", "\uff41"),
    *("a", "a ", " a", "a\t", "a\n", "a\u00a0", "a\u200b", "a\u00ad"),
    *("", " ", "\0", "\0\0", "a\0", "a\0b", "null", "None"),
    *("\ud800", "\udfff", "\ud800\udfff", "\ufffd", "?"),
    *("😀", "😁", "\U0010ffff"),
    *("%", "_", "*", "\\", "'", '"', "`", "$1", ":1", "%s", "{}", "\\x41", "/", "a/b", "//"),
    *("x" * 200, "x" * 201, "x" * 255, "x" * 256, "x" * 10_000, "x" * 9_999 + "y"),
    *(PREFIX, E_ACUTE_STORED, PREFIX + E_ACUTE_STORED, PREFIX.upper()),
    *("1", "01", "1.0", "1e0"),
)


async def test_keys_are_compared_byte_for_byte(store: Store) -> None:
    """No two different strings are the same key."""
    values = {key: str(number).encode() for number, key in enumerate(CONFUSABLE)}
    for key, value in values.items():
        await store.set(key, value)

    assert {key: await store.get(key) for key in CONFUSABLE} == values


async def test_deleting_a_key_leaves_its_lookalikes(store: Store) -> None:
    """A delete is as exact as a read."""
    left = dict.fromkeys(CONFUSABLE, b"v")
    await store.set_many(left)
    for key in CONFUSABLE[::2]:
        await store.delete(key)
        del left[key]

    assert await store.get_many(CONFUSABLE) == left


@pytest.mark.parametrize(
    "key",
    ["", "\0", "\ud800", "a ", "é", "x" * 10_000, f"{PREFIX}a", E_ACUTE_STORED],
    ids=["empty", "nul", "surrogate", "space", "accent", "long", "prefix", "digest"],
)
async def test_every_verb_takes_every_key(store: Store, key: str) -> None:
    """Keys are the same to all verbs, and come back from the bulk forms as they were given."""
    assert await store.add(key, b"5", 3600)
    assert await store.incr(key) == 6
    found = await store.get_versioned(key)
    assert found
    assert await store.compare_and_set(key, b"v", found.version)
    assert await store.get(key, renew_for=7200) == b"v"
    assert (await store.expires_in(key) or 0) > 3600
    assert await store.exists(key)
    assert await store.get_many([key, "other"]) == {key: b"v"}
    assert await store.pop(key) == b"v"
    await store.set(key, b"w")
    await store.delete(key)
    assert await store.get(key) is None
    await store.set_many({key: b"w"})
    await store.delete_many([key])

    assert not await store.exists(key)


@pytest.mark.parametrize(
    ("key", "stored"),
    [
        ("Az09!~", "Az09!~"),
        ("x" * 200, "x" * 200),
        ("é", E_ACUTE_STORED),
        ("", f"{PREFIX}e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"),
    ],
    ids=["ascii", "longest", "accent", "empty"],
)
async def test_a_plain_key_is_stored_as_it_is_and_any_other_as_its_digest(
    store: Store, sql: SQL, key: str, stored: str
) -> None:
    """An administrator finds a session by its id, and no key is too much for a database."""
    await store.set(key, b"v")

    assert await sql(f"SELECT session_id FROM {store.table_name}") == [(stored,)]  # noqa: S608


async def test_a_key_that_looks_like_a_digest_is_not_the_key_behind_it(store: Store) -> None:
    """Whoever may choose a key cannot reach another one through what stands in the table."""
    await store.set("é", b"secret")

    assert await store.get(E_ACUTE_STORED) is None


async def test_keys_outlive_the_store(store: Store, make_store: MakeStore) -> None:
    """Another process finds them: nothing of a key depends on the store that wrote it."""
    await store.set_many(dict.fromkeys(CONFUSABLE, b"v"))

    assert await make_store().get_many(CONFUSABLE) == dict.fromkeys(CONFUSABLE, b"v")
