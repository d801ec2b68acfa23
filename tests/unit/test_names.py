"""Names and lifetimes as pure functions: what stands in the table is the same on every database and for ever."""

from __future__ import annotations

import hashlib
import math
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sqlstore.dialects import POSTGRESQL, SQLITE
from sqlstore.names import (
    child_namespace,
    index_name,
    lifetime_seconds,
    namespace_end,
    stored_key,
    stored_namespace,
    validate_table_name,
)

# The same examples in every run, however busy the machine is.
_repeatably = settings(derandomize=True, database=None, deadline=None)

# With lone surrogates, which are left out otherwise.
_any_text = st.text(st.characters(exclude_categories=()) | st.sampled_from("aA \0é\ud800"))
_plain = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=1, max_size=200)
_name = st.from_regex(r"[A-Za-z0-9_.-]{1,20}", fullmatch=True)
_path = st.lists(_name, min_size=1, max_size=3).map("/".join)
_table = st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,62}", fullmatch=True)


# Keys


@_repeatably
@given(_plain.filter(lambda key: not key.startswith("sha256:")))
def test_a_plain_key_is_stored_as_it_is(key: str) -> None:
    """1 to 200 printable ASCII characters without a space."""
    assert stored_key(key) == key


@pytest.mark.parametrize(
    "key",
    [
        *("", " ", "a b", "a ", "\x7f", "\x1f", "a\n", "\0", "é", "\ud800", "~" * 201, "x" * 10_000),
        *("sha256:", "sha256:a", "sha256:" + "0" * 64),
    ],
    ids=lambda key: ascii(key)[:20],
)
def test_any_other_key_is_stored_as_the_digest_of_its_utf_8(key: str) -> None:
    """With the reserved prefix, which no key of the first kind begins with."""
    assert stored_key(key) == "sha256:" + hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()


def test_stored_keys_never_change() -> None:
    """They are in people's tables."""
    assert stored_key("!~") == "!~"
    assert stored_key("~" * 200) == "~" * 200
    assert stored_key("SHA256:a") == "SHA256:a"
    assert stored_key("") == "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    assert stored_key("é") == "sha256:4a99557e4033c3539de2eb65472017cad5f9557f7a0625a09f1c3f6e2ba69c4c"


@_repeatably
@given(_any_text)
def test_a_stored_key_suits_every_database(key: str) -> None:
    """Printable ASCII without a space, never empty, at most 200 bytes; and it is not stored twice over."""
    stored = stored_key(key)

    assert 1 <= len(stored) <= 200
    assert all("\x21" <= character <= "\x7e" for character in stored)
    assert stored == key or stored_key(stored) != stored


@_repeatably
@given(_any_text, _any_text)
def test_different_keys_are_stored_differently(one: str, other: str) -> None:
    """Whatever they have in common, and whatever one looks like."""
    assert (stored_key(one) == stored_key(other)) is (one == other)
    assert (stored_key(one) == stored_key(stored_key(other))) is (one == stored_key(other))


# Namespaces


@_repeatably
@given(_path)
def test_the_range_of_a_namespace_is_what_begins_with_its_path(path: str) -> None:
    """From the path itself up to, and without, the end."""
    start = stored_namespace(path)
    end = namespace_end(start)

    assert start <= stored_namespace(path) < end
    assert start <= stored_namespace(f"{path}/z") < end
    assert not start <= stored_namespace(f"{path}-x") < end
    assert not start <= stored_namespace(f"{path}.x") < end
    assert not start <= stored_namespace(f"{path}0") < end


@_repeatably
@given(_path, _path)
def test_a_namespace_covers_another_only_as_its_parent(one: str, other: str) -> None:
    """Compared as the databases compare: byte for byte."""
    start = stored_namespace(one)

    assert (start <= stored_namespace(other) < namespace_end(start)) is f"{other}/".startswith(f"{one}/")


@_repeatably
@given(_path)
def test_the_root_covers_every_namespace(path: str) -> None:
    """None is the root, which is not empty either."""
    root = stored_namespace(None)

    assert root == "/"
    assert root < stored_namespace(path) < namespace_end(root)


def test_children_are_paths() -> None:
    """Joined by slashes."""
    assert child_namespace(None, "a") == "a"
    assert child_namespace("a/b", "c.d-e_F0") == "a/b/c.d-e_F0"


@pytest.mark.parametrize("name", ["", "/", "a/b", "a b", "a\n", "é", "\u0661", "*", "\0"], ids=ascii)
def test_a_namespace_is_letters_digits_and_three_signs(name: str) -> None:
    """A slash would make it a path; patterns, quotes and spaces have no place in one."""
    with pytest.raises(ValueError, match=r"invalid namespace .*: use letters, digits, '_', '.' and '-'"):
        child_namespace(None, name)


@pytest.mark.parametrize("parent", [None, "a", "a" * 200])
def test_the_whole_path_has_at_most_255_bytes(parent: str | None) -> None:
    """With its slashes, and with its parents."""
    room = 255 - len(stored_namespace(parent)) - len("/")

    assert len(stored_namespace(child_namespace(parent, "x" * room))) == 255
    with pytest.raises(ValueError, match=r"namespace too long: .* 256 bytes \(max 255\)"):
        child_namespace(parent, "x" * (room + 1))


# Tables and indexes


@_repeatably
@given(_table)
def test_a_plain_identifier_is_a_table_name(name: str) -> None:
    """It is returned as it is; PostgreSQL takes a schema in front."""
    assert validate_table_name(name, SQLITE) == name
    assert validate_table_name(f"{name}.{name}", POSTGRESQL) == f"{name}.{name}"


@_repeatably
@given(_any_text)
def test_a_table_name_that_passes_needs_no_quotes(name: str) -> None:
    """Nothing but ASCII letters, digits and underscores ever reaches the SQL."""
    try:
        validate_table_name(name, POSTGRESQL)
    except ValueError:
        return

    assert name.replace(".", "").isascii()
    assert name.replace(".", "").isidentifier()
    assert name.count(".") <= 1


def test_a_bad_table_name_says_the_fix() -> None:
    """In a message that begins as documented."""
    with pytest.raises(ValueError, match=r"^Table name cannot be empty: leave session_table out"):
        validate_table_name("", SQLITE)
    with pytest.raises(ValueError, match=r"^Table name too long: 64 characters \(max 63\)$"):
        validate_table_name("x" * 64, SQLITE)
    advice = "Use letters, digits and underscores, not starting with a digit"
    with pytest.raises(ValueError, match=rf"^Invalid table name: 'a-b'. {advice} \(optionally schema.table\)$"):
        validate_table_name("a-b", POSTGRESQL)
    with pytest.raises(ValueError, match=rf"^Invalid table name: 's.t'. {advice}, without a schema on sqlite$"):
        validate_table_name("s.t", SQLITE)


@_repeatably
@given(_table, st.sampled_from(["expires_at", "principal"]))
def test_an_index_name_fits_every_database(table: str, suffix: str) -> None:
    """It is an identifier of at most 63 characters, with no schema, and says what it is an index of."""
    name = index_name(f"app.{table}", suffix)

    assert name == index_name(table, suffix)
    assert validate_table_name(name, SQLITE) == name
    assert name.endswith(f"_{suffix}")
    assert name.startswith(table[:40])


@_repeatably
@given(_table, _table)
def test_two_tables_never_share_an_index_name(one: str, other: str) -> None:
    """Also where only the ends of long names differ."""
    longer = f"{(one * 63)[:55]}_first_1"[:63]
    names = {one, other, longer, f"{longer[:-1]}2"}

    assert len({index_name(name, suffix) for name in names for suffix in ("expires_at", "principal")}) == 2 * len(names)


def test_index_names_never_change() -> None:
    """They are in people's databases."""
    assert index_name("litestar_session", "expires_at") == "litestar_session_expires_at"
    assert index_name("app.my_sessions", "principal") == "my_sessions_principal"
    assert index_name("x" * 63, "expires_at") == f"{'x' * 43}_{hashlib.sha256(b'x' * 63).hexdigest()[:8]}_expires_at"


# Lifetimes


@pytest.mark.parametrize(
    ("lifetime", "seconds"),
    [
        (None, None),
        *((nothing, None) for nothing in (0, 0.0, -0.0, timedelta(0))),
        *((number, number) for number in (1, 0.5, 5e-324, 1e-9, 36_525 * 86_400)),
        *((timedelta(milliseconds=300), 0.3), (timedelta(hours=36), 129_600), (timedelta(microseconds=1), 1e-6)),
        *((over, -1) for over in (-1, -2, -1e300, -math.inf, -(10**400), timedelta(days=-1), timedelta.min)),
        *((-0.5, -0.5), (timedelta(microseconds=-1), -1e-6)),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_a_lifetime_is_seconds(lifetime: float | timedelta | None, seconds: float | None) -> None:
    """None and 0 are for ever; a negative one stays negative, but no further away than any clock can say."""
    found = lifetime_seconds(lifetime)

    assert found == seconds
    assert found is None or type(found) is float


@_repeatably
@given(st.floats(allow_nan=False) | st.integers() | st.timedeltas())
def test_every_lifetime_is_kept_or_refused(lifetime: float | timedelta) -> None:
    """None of them turns into for ever but 0, and none loses a microsecond."""
    given_seconds = lifetime.total_seconds() if isinstance(lifetime, timedelta) else lifetime
    if given_seconds > 36_525 * 86_400:
        with pytest.raises(ValueError, match="over 100 years: use None"):
            lifetime_seconds(lifetime)
        return
    seconds = lifetime_seconds(lifetime)

    assert (seconds is None) is (given_seconds == 0)
    assert (seconds or 0) == max(given_seconds, -1)


@pytest.mark.parametrize("lifetime", [True, False, "1", b"1", [], 1j], ids=repr)
def test_what_is_no_number_is_no_lifetime(lifetime: Any) -> None:  # noqa: ANN401
    """A bool is not a number of seconds."""
    with pytest.raises(TypeError, match="lifetime must be a number of seconds, a timedelta or None, not"):
        lifetime_seconds(lifetime)


@pytest.mark.parametrize("lifetime", [math.nan, math.inf, 1e300, 10**400, timedelta.max], ids=lambda it: repr(it)[:20])
def test_an_absurd_lifetime_says_what_to_use(lifetime: float | timedelta) -> None:
    """None, for a value that never expires."""
    with pytest.raises(ValueError, match="use None for a value that never expires"):
        lifetime_seconds(lifetime)
