"""Namespaces: a path whose bulk operations cover what is under it and nothing else."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from litestar.exceptions import ImproperlyConfiguredException

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ..conftest import MakeStore
    from .conftest import SQL
    from .verbs import Store

SIBLINGS = ("LITESTAR2", "LITESTAR-x", "LITESTAR.x", "LITESTAR_x", "LITESTA", "litestar", "A", "z")
"""What a pattern, a case-insensitive or a prefix comparison would take for a child of LITESTAR."""


def _named(store: Store, namespace: str | None) -> Store:
    return type(store)(store.config, namespace=namespace)


async def _fill(stores: Iterable[Store]) -> None:
    for each in stores:
        await each.set("k", str(each.namespace))


async def _filled(stores: Iterable[Store]) -> list[str | None]:
    """Return the namespaces that still hold their own value."""
    return [each.namespace for each in stores if await each.get("k") == str(each.namespace).encode()]


async def test_a_key_is_another_one_in_each_namespace(store: Store) -> None:
    """Parents, children, siblings, and the store without a namespace do not see each other's values."""
    stores = [_named(store, name) for name in SIBLINGS]
    stores += [_named(store, None), store, store.with_namespace("a"), store.with_namespace("a").with_namespace("a")]
    await _fill(stores)

    assert await _filled(stores) == [each.namespace for each in stores]


async def test_delete_all_deletes_the_namespace_and_its_children(store: Store) -> None:
    """Siblings stay, however much their names look like it, and so does what is in no namespace."""
    others = [_named(store, None), *(_named(store, name) for name in SIBLINGS)]
    covered = [store, store.with_namespace("a"), store.with_namespace("a").with_namespace("b")]
    await _fill([*others, *covered])
    await store.delete_all()

    assert await _filled(covered) == []
    assert await _filled(others) == [None, *SIBLINGS]


async def test_delete_all_of_a_child_leaves_its_parent_and_its_siblings(store: Store) -> None:
    """Only what is under it goes."""
    child = store.with_namespace("a")
    others = [store, *(store.with_namespace(name) for name in ("a2", "a-x", "a.x", "A", "b")), _named(store, "a")]
    await _fill([child, child.with_namespace("c"), *others])
    await child.delete_all()

    assert await _filled([child, child.with_namespace("c")]) == []
    assert await _filled(others) == [each.namespace for each in others]


async def test_delete_all_deletes_thousands_of_values_of_all_kinds(store: Store, sql: SQL) -> None:
    """However many batches that takes, whatever the keys, expired ones too; those of a sibling stay."""
    sibling = _named(store, "LITESTAR2")
    values = {**{str(number): b"v" for number in range(1000)}, "": b"v", "\0": b"v", "é": b"v", "~" * 200: b"v"}
    await sibling.set_many(values)
    for each in (store, store.with_namespace("a"), store.with_namespace("b")):
        await each.set_many(values)
    await store.set("expired", b"v", 0.001)
    await store.delete_all()

    assert await sql(f"SELECT DISTINCT namespace FROM {store.table_name}") == [("/LITESTAR2/",)]  # noqa: S608
    assert await sibling.get_many(values) == values


async def test_delete_all_of_nothing_is_no_error(store: Store) -> None:
    """An empty namespace is one that has no values."""
    await store.delete_all()

    assert not await store.exists("k")


async def test_a_store_without_namespace_refuses_delete_all(store: Store) -> None:
    """It would delete everybody's values."""
    root = _named(store, None)
    await _fill([root, store])
    with pytest.raises(ImproperlyConfiguredException, match="namespace"):
        await root.delete_all()

    assert await _filled([root, store]) == [None, "LITESTAR"]


async def test_bulk_verbs_stay_in_their_namespace(store: Store) -> None:
    """`delete_many` and `pop` of a parent do not reach a child's key of the same name."""
    child = store.with_namespace("a")
    await _fill([store, child])
    await store.delete_many(["k"])
    await store.pop("k")

    assert await _filled([store, child]) == [child.namespace]


def test_the_default_namespace_is_litestar(make_store: MakeStore) -> None:
    """Litestar's own stores have the same."""
    assert make_store().namespace == "LITESTAR"


def test_namespaces_nest(make_store: MakeStore) -> None:
    """A child is of the same class, over the same config and table; its parent stays what it was."""
    store = make_store()
    child = store.with_namespace("cache").with_namespace("pages")

    assert type(child) is type(store)
    assert (child.config, child.table_name) == (store.config, store.table_name)
    assert child.namespace == "LITESTAR/cache/pages"
    assert store.namespace == "LITESTAR"
    assert _named(store, None).with_namespace("cache").namespace == "cache"


@pytest.mark.parametrize("name", ["", " ", "a b", "a/b", "/", "a\n", "\0", "é", "*", "%", "a:b", "\ud800"], ids=ascii)
def test_a_bad_namespace_is_refused(make_store: MakeStore, name: str) -> None:
    """The message says what may be in one."""
    store = make_store()
    with pytest.raises(ValueError, match="letters, digits"):
        store.with_namespace(name)
    with pytest.raises(ValueError, match="letters, digits"):
        _named(store, name)


@pytest.mark.parametrize("name", [5, b"cache", ["a"]], ids=repr)
def test_a_namespace_that_is_no_string_is_refused(make_store: MakeStore, name: str) -> None:
    """Bytes included."""
    store = make_store()
    with pytest.raises(TypeError, match="namespace must be a string"):
        store.with_namespace(name)
    with pytest.raises(TypeError, match="namespace must be a string"):
        _named(store, name)


async def test_a_namespace_path_may_have_255_bytes(store: Store) -> None:
    """With the slashes around it, and with its parents; such a one works."""
    longest = store.with_namespace("x" * 100).with_namespace("y" * 143)
    assert len(f"/{longest.namespace}/") == 255
    others = [store, store.with_namespace("x" * 100), store.with_namespace("x" * 100).with_namespace("y" * 142)]
    await _fill([longest, *others])
    await longest.delete_all()

    assert await _filled([longest, *others]) == [each.namespace for each in others]


def test_a_namespace_path_of_256_bytes_is_refused(make_store: MakeStore) -> None:
    """Whether in one piece or nested."""
    store = make_store()
    with pytest.raises(ValueError, match=r"namespace too long.*256 bytes.*max 255"):
        store.with_namespace("x" * 100).with_namespace("y" * 144)
    with pytest.raises(ValueError, match="namespace too long"):
        _named(store, "x" * 254)

    assert _named(store, "x" * 253).namespace == "x" * 253
