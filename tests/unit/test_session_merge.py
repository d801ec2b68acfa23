"""Three states of a session become one: by examples, and for whatever Hypothesis thinks of."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from sqlstore.litestar import SessionConflictError
from sqlstore.litestar.sessions.merge import Conflict, changes, merge

CONFLICT: tuple[Conflict, ...] = ("merge", "last_wins", "raise")
MISSING: Any = object()

_key = st.one_of(st.sampled_from(["a", "b", "c", "é", ""]), st.text(st.characters(codec="utf-8"), max_size=3))
_leaf = st.one_of(
    st.none(),
    st.booleans(),
    st.sampled_from([0, 1, 1.0, 0.0, -0.0, "1", "{", "{}"]),
    st.integers(-(2**63), 2**64 - 1),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(st.characters(codec="utf-8"), max_size=3),
)
_value = st.recursive(
    _leaf, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_key, inner, max_size=3), max_leaves=6
)
_session = st.dictionaries(_key, _value, max_size=5)
_conflict = st.sampled_from(CONFLICT)
# The same sessions in every run: a test that fails today has not passed by chance yesterday.
_same = settings(derandomize=True, database=None, deadline=None, max_examples=100)


def _encoded(session: object) -> bytes:
    return msgspec.json.encode(session)


def _decoded(session: bytes) -> dict[str, Any]:
    decoded: dict[str, Any] = msgspec.json.decode(session)
    return decoded


def _merged(base: object, mine: object, theirs: object, on_conflict: Conflict = "merge") -> dict[str, Any]:
    return _decoded(merge(_encoded(base), _encoded(mine), _encoded(theirs), on_conflict))


def _equal(left: object, right: object) -> bool:
    """Return whether both are the same JSON: 1, 1.0 and True are not; the order of an object's keys is nothing."""
    if left is MISSING or right is MISSING:
        return left is right
    return msgspec.json.encode(left, order="deterministic") == msgspec.json.encode(right, order="deterministic")


def _changed(base: dict[str, Any], other: dict[str, Any]) -> set[str]:
    keys = base.keys() | other.keys()
    return {key for key in keys if not _equal(base.get(key, MISSING), other.get(key, MISSING))}


@pytest.mark.parametrize(
    ("base", "mine", "theirs", "merged"),
    [
        pytest.param({"a": 1}, {"a": 1, "b": 2}, {"a": 1, "c": 3}, {"a": 1, "b": 2, "c": 3}, id="both add"),
        pytest.param({"a": 1}, {"a": 2}, {"a": 3}, {"a": 2}, id="both change a key"),
        pytest.param({"a": 1}, {}, {"a": 3}, {}, id="I delete what they change"),
        pytest.param({"a": 1}, {"a": 3}, {}, {"a": 3}, id="I change what they delete"),
        pytest.param({"a": 1, "b": 2}, {"b": 2}, {"a": 1}, {}, id="each deletes one"),
        pytest.param({"a": 1}, {}, {}, {}, id="both delete"),
        pytest.param({"a": 1}, {"a": None}, {"a": 1, "b": 2}, {"a": None, "b": 2}, id="null is a value"),
        pytest.param(
            {"cart": {"x": 1}},
            {"cart": {"x": 1, "y": 2}},
            {"cart": {"x": 1, "z": 3}},
            {"cart": {"x": 1, "y": 2, "z": 3}},
            id="objects are merged",
        ),
        pytest.param({}, {"cart": {"y": 2}}, {"cart": {"z": 3}}, {"cart": {"y": 2, "z": 3}}, id="also new ones"),
        pytest.param({"a": 1}, {"a": {"y": 2}}, {"a": {"z": 3}}, {"a": {"y": 2, "z": 3}}, id="or what became one"),
        pytest.param(
            {"a": {"b": {"x": 1, "w": 1}}},
            {"a": {"b": {"x": 2, "w": 1}}},
            {"a": {"b": {"x": 1}}},
            {"a": {"b": {"x": 2}}},
            id="at any depth",
        ),
        pytest.param({"a": [1]}, {"a": [1, 2]}, {"a": [1, 3]}, {"a": [1, 2]}, id="lists are not"),
        pytest.param({"a": {"x": 1}}, {}, {"a": {"x": 2}}, {}, id="a deleted object stays deleted"),
        pytest.param({"a": {}}, {"a": {"x": 1}}, {"a": 5}, {"a": {"x": 1}}, id="only one made an object"),
        pytest.param({"é": 1}, {"é": 1, "e\u0301": 2}, {"é": 3}, {"é": 3, "e\u0301": 2}, id="keys are not normalised"),
        pytest.param({"": 1}, {"": 2}, {"": 1, '"': "\\"}, {"": 2, '"': "\\"}, id="keys that need quoting"),
    ],
)
def test_what_two_have_made_of_a_session_becomes_one(
    base: dict[str, Any], mine: dict[str, Any], theirs: dict[str, Any], merged: dict[str, Any]
) -> None:
    """With ``"merge"``."""
    assert _equal(_merged(base, mine, theirs), merged)


@pytest.mark.parametrize("values", [(1, 1.0), (1, True), (0, False), (0.0, -0.0), ("1", 1), (None, 0), ([], {})])
def test_values_that_python_takes_for_equal_differ(values: tuple[object, object]) -> None:
    """A change from one to the other is a change, and a conflict."""
    one, other = values
    assert changes(_encoded({"a": one}), _encoded({"a": other})).keys() == {"a"}
    assert changes(_encoded({"a": [one]}), _encoded({"a": [other]})).keys() == {"a"}
    with pytest.raises(SessionConflictError, match="'a'"):
        _merged({}, {"a": one}, {"a": other}, "raise")


def test_last_wins_takes_an_object_as_a_whole() -> None:
    """Unlike ``"merge"``."""
    cart = {"cart": {"x": 1, "y": 2}}

    assert _merged({"cart": {"x": 1}}, cart, {"cart": {"x": 1, "z": 3}}, "last_wins") == cart


def test_a_conflict_is_in_keys_of_the_session_not_in_its_objects() -> None:
    """With ``"raise"`` two changes within an object are a conflict; the message names the key, whatever it is."""
    with pytest.raises(SessionConflictError, match="'cart'") as raised:
        _merged({"cart": {"x": 1}}, {"cart": {"x": 1, "y": 2}}, {"cart": {"x": 1, "z": 3}}, "raise")
    assert raised.value.status_code == 409


@pytest.mark.parametrize("on_conflict", CONFLICT)
def test_data_of_another_hand_is_merged_as_it_is(on_conflict: Conflict) -> None:
    """With spaces, with escapes, and keys in any order."""
    base = json.dumps({"a": {"x": 1}, "é": 1}, indent=2).encode()
    theirs = json.dumps({"b": [1, 2], "é": 2, "a": {"x": 1}}, indent=2).encode()

    merged = merge(base, b'{"\xc3\xa9":1,"a":{\n    "x": 1\n  },"c":0}', theirs, on_conflict)
    assert _decoded(merged) == {"b": [1, 2], "é": 2, "a": {"x": 1}, "c": 0}


@_same
@given(_session, _session)
def test_changes_are_the_keys_that_differ(base: dict[str, Any], other: dict[str, Any]) -> None:
    """With their new values; None for those that are gone."""
    found = changes(_encoded(base), _encoded(other))
    assert found.keys() >= _changed(base, other)  # an object whose keys are in another order counts as changed
    for key, value in found.items():
        assert (value is None) is (key not in other)
        assert value is None or _equal(msgspec.json.decode(value), other[key])


@_same
@given(_session)
def test_the_order_of_keys_is_no_change(session: dict[str, Any]) -> None:
    """Of the session's own."""
    turned = dict(reversed(session.items()))

    assert changes(_encoded(session), _encoded(turned)) == {}


@_same
@given(_session, _session, _conflict)
def test_whoever_changes_nothing_changes_nothing(
    base: dict[str, Any], other: dict[str, Any], on_conflict: Conflict
) -> None:
    """What the other made of it is what remains."""
    for mine, theirs in ((base, other), (other, base)):
        assert _equal(_merged(base, mine, theirs, on_conflict), other)
    if on_conflict != "raise":
        assert _equal(_merged(base, other, other, on_conflict), other)


@_same
@given(_session, _session, _session, _conflict)
def test_changes_of_different_keys_come_out_the_same_in_either_order(
    base: dict[str, Any], mine: dict[str, Any], theirs: dict[str, Any], on_conflict: Conflict
) -> None:
    """And all of them are there."""
    theirs = {key: value for key, value in theirs.items() if key not in _changed(base, mine)}
    theirs |= {key: value for key, value in base.items() if key in _changed(base, mine)}
    merged = _merged(base, mine, theirs, on_conflict)

    assert _equal(merged, _merged(base, theirs, mine, on_conflict))
    for key in base.keys() | mine.keys() | theirs.keys():
        expected = mine if key in _changed(base, mine) else theirs
        assert _equal(merged.get(key, MISSING), expected.get(key, MISSING))


@_same
@given(_session, _session, _session)
def test_last_wins_keeps_all_that_is_mine(base: dict[str, Any], mine: dict[str, Any], theirs: dict[str, Any]) -> None:
    """And theirs where I changed nothing."""
    merged = _merged(base, mine, theirs, "last_wins")
    for key in base.keys() | mine.keys() | theirs.keys():
        expected = mine if key in _changed(base, mine) else theirs
        assert _equal(merged.get(key, MISSING), expected.get(key, MISSING))


@_same
@given(_session, _session, _session)
def test_a_conflict_is_a_key_that_both_changed(
    base: dict[str, Any], mine: dict[str, Any], theirs: dict[str, Any]
) -> None:
    """Also to the same value, as two that count from the same number, but not if both deleted it."""
    conflicts = {key for key in _changed(base, mine) & _changed(base, theirs) if key in mine or key in theirs}
    if not conflicts:
        _merged(base, mine, theirs, "raise")
        return
    with pytest.raises(SessionConflictError) as raised:
        _merged(base, mine, theirs, "raise")
    assert any(repr(key) in raised.value.detail for key in conflicts)


@_same
@given(_session, _session, _session)
def test_objects_are_merged_by_the_same_rules(
    base: dict[str, Any], mine: dict[str, Any], theirs: dict[str, Any]
) -> None:
    """What is true of a session is true of an object in it."""
    assume(not _equal(base, mine))
    inner = _merged({"a": base}, {"a": mine}, {"a": theirs})

    assert _equal(inner, {"a": _merged(base, mine, theirs)})


@_same
@given(_session, _session, _session, _conflict)
def test_what_is_merged_is_merged(
    base: dict[str, Any], mine: dict[str, Any], theirs: dict[str, Any], on_conflict: Conflict
) -> None:
    """A second time changes nothing, as when a save that succeeded is repeated."""
    try:
        merged = _merged(base, mine, theirs, on_conflict)
    except SessionConflictError:
        return
    assert _equal(_merged(base, mine, merged, "merge"), merged)
