"""Any sequence of calls answers as a dict would: Hypothesis looks for one that does not."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from sqlstore import CounterError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from .conftest import SQL
    from .verbs import Store

NAMESPACES = ("LITESTAR", "LITESTAR/a", "LITESTAR2")
KEYS = ("k", "é")
MAX, MIN = 2**63 - 1, -(2**63)

_namespace = st.sampled_from(NAMESPACES)
_key = st.sampled_from(KEYS)
_value = st.sampled_from([b"", b"v", b"\0\xff", b"07", b"7", b"-1", str(MAX).encode(), str(MIN).encode()])
_lifetime = st.sampled_from([None, 2000, 4000, -1])
_amount = st.sampled_from([1, -1, 0, MAX, MIN])
_values = st.dictionaries(_key, _value)
_keys = st.lists(_key)
_call = st.one_of(
    st.tuples(st.just("get"), _namespace, _key),
    st.tuples(st.just("renew"), _namespace, _key, st.sampled_from([None, 0, 1, 3000, 6000, -1])),
    st.tuples(st.just("set"), _namespace, _key, _value, _lifetime),
    st.tuples(st.just("set_many"), _namespace, _values, _lifetime),
    st.tuples(st.just("add"), _namespace, _key, _value, _lifetime),
    st.tuples(st.just("incr"), _namespace, _key, _amount, _lifetime),
    st.tuples(st.just("pop"), _namespace, _key),
    st.tuples(st.just("remember_version"), _namespace, _key),
    st.tuples(st.just("compare_and_set"), _namespace, _key, _value),
    st.tuples(st.just("delete"), _namespace, _key),
    st.tuples(st.just("delete_many"), _namespace, _keys),
    st.tuples(st.just("delete_all"), _namespace),
    st.tuples(st.just("delete_expired"), _namespace),
)


class Value(NamedTuple):
    """What should be there."""

    data: bytes
    lifetime: int | None
    write: object
    """One for each write of the data."""


class Model:
    """Stores beside the dict that says what they should do: each method makes the call and compares the answers."""

    def __init__(self, store: Store) -> None:
        """Start empty."""
        self._stores = {"LITESTAR": store, "LITESTAR2": type(store)(store.config, namespace="LITESTAR2")}
        self._stores["LITESTAR/a"] = store.with_namespace("a")
        self._values: dict[tuple[str, str], Value] = {}
        self._versions: dict[tuple[str, str], tuple[int, object]] = {}

    async def check(self) -> None:
        """Compare everything that is there."""
        for namespace, store in self._stores.items():
            expected = {key: value for (place, key), value in self._values.items() if place == namespace}
            found = await store.get_many(KEYS)
            assert found == {key: value.data for key, value in expected.items()}
            for key, value in expected.items():
                left = await store.expires_in(key)
                if value.lifetime is None:
                    assert left is None
                else:
                    assert left
                    assert value.lifetime - 900 < left <= value.lifetime

    def _put(self, namespace: str, key: str, data: bytes, lifetime: int | None) -> None:
        if lifetime is not None and lifetime < 0:
            self._values.pop((namespace, key), None)
        else:
            self._values[namespace, key] = Value(data, lifetime, object())

    async def get(self, namespace: str, key: str) -> None:
        """Read in three ways."""
        expected = self._values.get((namespace, key))
        store = self._stores[namespace]

        assert await store.get(key) == (expected.data if expected else None)
        assert await store.exists(key) is (expected is not None)

    async def renew(self, namespace: str, key: str, lifetime: int | None) -> None:
        """Read and renew."""
        expected = self._values.get((namespace, key))
        if expected and expected.lifetime is not None and lifetime:
            self._values[namespace, key] = expected._replace(lifetime=max(expected.lifetime, lifetime))

        assert await self._stores[namespace].get(key, lifetime) == (expected.data if expected else None)

    async def set(self, namespace: str, key: str, data: bytes, lifetime: int | None) -> None:
        """Write."""
        self._put(namespace, key, data, lifetime)
        await self._stores[namespace].set(key, data, lifetime)

    async def set_many(self, namespace: str, values: Mapping[str, bytes], lifetime: int | None) -> None:
        """Write several."""
        for key, data in values.items():
            self._put(namespace, key, data, lifetime)
        await self._stores[namespace].set_many(values, lifetime)

    async def add(self, namespace: str, key: str, data: bytes, lifetime: int | None) -> None:
        """Write where nothing is."""
        missing = (namespace, key) not in self._values
        if missing:
            self._put(namespace, key, data, lifetime)

        assert await self._stores[namespace].add(key, data, lifetime) is missing

    async def incr(self, namespace: str, key: str, amount: int, lifetime: int | None) -> None:
        """Count."""
        before = self._values.get((namespace, key)) or Value(b"0", lifetime, None)
        try:
            number = int(before.data.decode("ascii"))
        except ValueError:
            number = MAX + MAX
        if str(number).encode() != before.data or not MIN <= number <= MAX or not MIN <= number + amount <= MAX:
            with pytest.raises(CounterError):
                await self._stores[namespace].incr(key, amount, lifetime)
            return
        self._put(namespace, key, str(number + amount).encode(), before.lifetime)

        assert await self._stores[namespace].incr(key, amount, lifetime) == number + amount

    async def pop(self, namespace: str, key: str) -> None:
        """Take."""
        expected = self._values.pop((namespace, key), None)

        assert await self._stores[namespace].pop(key) == (expected.data if expected else None)

    async def remember_version(self, namespace: str, key: str) -> None:
        """Read with the version, for a later `compare_and_set`."""
        expected = self._values.get((namespace, key))
        found = await self._stores[namespace].get_versioned(key)
        assert (found and found.data) == (expected and expected.data)
        if found and expected:
            self._versions[namespace, key] = found.version, expected.write

    async def compare_and_set(self, namespace: str, key: str, data: bytes) -> None:
        """Write over what was read before."""
        before = self._values.get((namespace, key))
        version, write = self._versions.get((namespace, key), (0, None))
        fresh = before is not None and before.write is write
        if before and fresh:
            self._put(namespace, key, data, before.lifetime)

        assert await self._stores[namespace].compare_and_set(key, data, version) is fresh

    async def delete(self, namespace: str, key: str) -> None:
        """Delete."""
        self._values.pop((namespace, key), None)
        await self._stores[namespace].delete(key)

    async def delete_many(self, namespace: str, keys: Sequence[str]) -> None:
        """Delete several."""
        for key in keys:
            self._values.pop((namespace, key), None)
        await self._stores[namespace].delete_many(keys)

    async def delete_all(self, namespace: str) -> None:
        """Delete a namespace and its children."""
        for place, key in list(self._values):
            if f"{place}/".startswith(f"{namespace}/"):
                del self._values[place, key]
        await self._stores[namespace].delete_all()

    async def delete_expired(self, namespace: str) -> None:
        """Delete nothing that is there."""
        await self._stores[namespace].delete_expired()


@settings(
    # The same calls in every run: a test that fails today has not passed by chance yesterday.
    derandomize=True,
    database=None,
    deadline=None,
    max_examples=60,
    phases=[Phase.generate, Phase.shrink],
    report_multiple_bugs=False,
    # The store is emptied for each example.
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(calls=st.lists(_call, min_size=10, max_size=30))
async def test_any_sequence_of_calls_answers_as_a_dict_would(
    store: Store, sql: SQL, calls: list[tuple[Any, ...]]
) -> None:
    """With lifetimes, versions and nested namespaces."""
    await sql(f"DELETE FROM {store.table_name}")  # noqa: S608
    model = Model(store)
    for verb, *arguments in calls:
        await getattr(model, verb)(*arguments)

    await model.check()
