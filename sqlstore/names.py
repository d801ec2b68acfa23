"""Names and lifetimes, checked and translated: pure functions that no database sees."""

from __future__ import annotations

import hashlib
import re
from datetime import timedelta
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .dialects import Dialect

__all__ = (
    "child_namespace",
    "digest_key",
    "index_name",
    "lifetime_seconds",
    "namespace_end",
    "stored_key",
    "stored_namespace",
    "validate_table_name",
)

MAX_IDENTIFIER = 63  # PostgreSQL's limit; MySQL's is 64, Oracle's 128
MAX_NAMESPACE = 255  # bytes; MySQL and Oracle store it in 255
MAX_PLAIN_KEY = 200
MAX_LIFETIME = 100 * 365.25 * 24 * 3600
DIGEST_PREFIX = "sha256:"

_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_NAMESPACE = re.compile(r"[A-Za-z0-9_.-]+")
_PLAIN_KEY = re.compile(rf"(?!{DIGEST_PREFIX})[\x21-\x7e]{{1,{MAX_PLAIN_KEY}}}")


def validate_table_name(name: str, dialect: Dialect) -> str:
    """Return *name* if it can stand unquoted in the dialect's SQL.

    Raises:
        TypeError: *name* is not a string.
        ValueError: *name* is empty, too long, or not a plain identifier.
    """
    if not isinstance(name, str):
        msg = f"Table name must be a string, not {name!r}"
        raise TypeError(msg)
    if not name:
        msg = 'Table name cannot be empty: leave session_table out for "litestar_session"'
        raise ValueError(msg)
    parts = name.split(".")
    longest = max(map(len, parts))
    if longest > MAX_IDENTIFIER:
        msg = f"Table name too long: {longest} characters (max {MAX_IDENTIFIER})"
        raise ValueError(msg)
    if len(parts) > 1 + dialect.schemas or not all(map(_IDENTIFIER.fullmatch, parts)):
        schema = " (optionally schema.table)" if dialect.schemas else f", without a schema on {dialect.name}"
        msg = f"Invalid table name: {name!r}. Use letters, digits and underscores, not starting with a digit{schema}"
        raise ValueError(msg)
    return name


def index_name(table: str, suffix: str) -> str:
    """Return the name of *table*'s index, unique and short enough for every database."""
    table = table.rpartition(".")[2]
    name = f"{table}_{suffix}"
    if len(name) <= MAX_IDENTIFIER:
        return name
    digest = hashlib.sha256(table.encode()).hexdigest()[:8]
    return f"{table[: MAX_IDENTIFIER - len(suffix) - 10]}_{digest}_{suffix}"


def stored_namespace(namespace: str | None) -> str:
    """Return the path that stands for *namespace* in the table: never empty, a prefix of its children's.

    None is the root, under which all others are.
    """
    return "/" if namespace is None else f"/{namespace}/"


def namespace_end(path: str) -> str:
    """Return the first string after all that begin with *path*, a stored namespace."""
    return path[:-1] + chr(ord("/") + 1)


def child_namespace(parent: str | None, name: str) -> str:
    """Return the namespace *name* in *parent*; None is the root.

    Raises:
        TypeError: *name* is not a string.
        ValueError: *name* is not a plain name, or the path too long.
    """
    if not isinstance(name, str):
        msg = f"namespace must be a string, not {name!r}"
        raise TypeError(msg)
    if not _NAMESPACE.fullmatch(name):
        msg = f"invalid namespace {name!r}: use letters, digits, '_', '.' and '-'"
        raise ValueError(msg)
    path = name if parent is None else f"{parent}/{name}"
    if len(stored_namespace(path)) > MAX_NAMESPACE:
        msg = f"namespace too long: the whole path /{path}/ has {len(path) + 2} bytes (max {MAX_NAMESPACE})"
        raise ValueError(msg)
    return path


def stored_key(key: str) -> str:
    """Return what stands for *key* in the table: itself, or a digest if a database might compare it loosely.

    Any string is a key, lone surrogates too. A printable ASCII key without spaces means the same to every
    database; any other differs somewhere (case, accents, trailing spaces, NUL, length).

    Raises:
        TypeError: *key* is not a string.
    """
    if not isinstance(key, str):
        msg = f"key must be a string, not {key!r}"
        raise TypeError(msg)
    if _PLAIN_KEY.fullmatch(key):
        return key
    return digest_key(key)


def digest_key(key: str) -> str:
    """Return the digest that stands for *key* in the table where it must not be readable; no key leads to it."""
    return DIGEST_PREFIX + hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()


def lifetime_seconds(lifetime: float | timedelta | None) -> float | None:
    """Return *lifetime* in seconds; None means the value never expires, and so does 0.

    Fractions are kept; a negative lifetime is over already.

    Raises:
        TypeError: *lifetime* is a bool or not a number of seconds.
        ValueError: *lifetime* is NaN or over 100 years; use None.
    """
    if lifetime is None:
        return None
    if isinstance(lifetime, timedelta):
        seconds = lifetime.total_seconds()
    elif isinstance(lifetime, (int, float)) and not isinstance(lifetime, bool):
        if lifetime != lifetime:  # noqa: PLR0124 - NaN; math.isnan cannot take an integer of any size
            msg = "lifetime is NaN: use None for a value that never expires"
            raise ValueError(msg)
        seconds = lifetime
    else:
        msg = f"lifetime must be a number of seconds, a timedelta or None, not {lifetime!r}"
        raise TypeError(msg)
    if seconds > MAX_LIFETIME:
        msg = f"lifetime of {lifetime!r} is over 100 years: use None for a value that never expires"
        raise ValueError(msg)
    return float(max(seconds, -1.0)) or None
