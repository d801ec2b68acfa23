"""What is asked of every contender.

Each answer is checked, so that nobody gains by a wrong one. The concurrent callers of a slice share no key: otherwise
a store that answers two callers of one key by one read would have an advantage that sessions do not give it.
"""

from __future__ import annotations

import itertools
from hashlib import sha256
from typing import TYPE_CHECKING

from .contenders import LIFETIME

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from .contenders import Verbs

    Call = Callable[[str], Awaitable[None]]

SET_NEW = "set-new"
DELETE = "delete"
"""Deletes what `SET_NEW` made, and is measured together with it."""


class WrongAnswerError(Exception):
    """A contender lost a value, or found one that was never set."""


def key(kind: str, number: int) -> str:
    """Return a key that looks like the session ids of Litestar: 64 hexadecimal digits in no order."""
    return sha256(f"{kind} {number}".encode()).hexdigest()


def _get_hit(store: Verbs, value: bytes, _: int) -> Call:
    async def call(key: str) -> None:
        _check(await store.get(key), value)

    return call


def _get_miss(store: Verbs, _value: bytes, _caller: int) -> Call:
    async def call(key: str) -> None:
        if await store.get(f"no-{key}") is not None:
            raise WrongAnswerError

    return call


def _set(store: Verbs, value: bytes, _: int) -> Call:
    rest = value[8:]

    async def call(key: str) -> None:
        await store.set(key, _changed(rest), expires_in=LIFETIME)

    return call


def _get_and_renew(store: Verbs, value: bytes, _: int) -> Call:
    async def call(key: str) -> None:
        _check(await store.get(key, renew_for=LIFETIME), value)

    return call


def _mixed(store: Verbs, value: bytes, caller: int) -> Call:
    turns = itertools.count(caller)  # not from 0: the callers must not write all at once
    rest = value[8:]

    async def call(key: str) -> None:
        if next(turns) % 10:
            _check(await store.get(key), value)
        else:
            await store.set(key, _changed(rest), expires_in=LIFETIME)

    return call


def _session(store: Verbs, value: bytes, _: int) -> Call:
    """Do what Litestar's session middleware does in a request."""
    rest = value[8:]

    async def call(key: str) -> None:
        _check(await store.get(key, renew_for=LIFETIME), value)
        await store.set(key, _changed(rest), expires_in=LIFETIME)

    return call


WORKLOADS: dict[str, Callable[[Verbs, bytes, int], Call]] = {
    "get-hit": _get_hit,
    "get-miss": _get_miss,
    SET_NEW: _set,
    "set-overwrite": _set,
    "get+renew": _get_and_renew,
    "mixed 90/10": _mixed,
    "session": _session,
}
"""Each gives the call of one caller, by its number."""

MAIN = ("get-hit", "set-overwrite", "get+renew", "mixed 90/10")
"""Those that the quick run measures."""


_serial = itertools.count()


def _changed(rest: bytes) -> bytes:
    """Return a value that was never set before.

    SQLite leaves out the write, and with it the fsync, of a row that stays as it is: the bare drivers then "wrote"
    35,000 values per second on a disk that can make 24,000 writes durable.
    """
    return next(_serial).to_bytes(8, "big") + rest


def _check(answer: bytes | None, expected: bytes) -> None:
    if answer is None or len(answer) != len(expected):
        raise WrongAnswerError
