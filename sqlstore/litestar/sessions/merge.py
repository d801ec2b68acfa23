"""Merge what a request made of a session into what others have meanwhile made of it, key by key."""

from __future__ import annotations

from typing import Literal, TypeAlias

import msgspec
from litestar.exceptions import HTTPException
from litestar.status_codes import HTTP_409_CONFLICT

__all__ = ("Conflict", "SessionConflictError", "changes", "merge")

Conflict: TypeAlias = Literal["merge", "last_wins", "raise"]

# Values stay as they are encoded: 1, 1.0 and True would be equal once they are decoded.
_DECODER = msgspec.json.Decoder(dict[str, msgspec.Raw])
_EMPTY: dict[str, msgspec.Raw] = {}


class SessionConflictError(HTTPException):
    """Two requests changed the same key of a session, and ``on_conflict`` is ``"raise"``: the later may try again."""

    status_code = HTTP_409_CONFLICT


def changes(base: bytes, mine: bytes) -> dict[str, msgspec.Raw | None]:
    """Return the keys that differ, with their new values; None for those that are gone."""
    return _changes(_DECODER.decode(base), _DECODER.decode(mine))


def merge(base: bytes, mine: bytes, theirs: bytes, on_conflict: Conflict) -> bytes:
    """Return *theirs* with what changed from *base* to *mine*.

    What both have changed is mine, the later save; with ``"merge"``, what is an object for both is merged likewise.

    Raises:
        SessionConflictError: with ``"raise"``, both have changed a key, and not both deleted it.
    """
    decode = _DECODER.decode
    return msgspec.json.encode(_merge(decode(base), decode(mine), decode(theirs), on_conflict))


def _changes(base: dict[str, msgspec.Raw], mine: dict[str, msgspec.Raw]) -> dict[str, msgspec.Raw | None]:
    changed: dict[str, msgspec.Raw | None] = {
        key: value for key, value in mine.items() if key not in base or bytes(base[key]) != bytes(value)
    }
    changed.update(dict.fromkeys(base.keys() - mine.keys()))
    return changed


def _merge(
    base: dict[str, msgspec.Raw],
    mine: dict[str, msgspec.Raw],
    theirs: dict[str, msgspec.Raw],
    on_conflict: Conflict,
) -> dict[str, msgspec.Raw]:
    merged = dict(theirs)
    others = _changes(base, theirs)
    for key, value in _changes(base, mine).items():
        other = others.get(key)
        new = value
        if key in others:
            # Also if both made the same of it: of two increments one would be lost.
            if on_conflict == "raise" and not (value is None and other is None):
                msg = f"another request has changed {key!r} in this session at the same time: try again"
                raise SessionConflictError(msg)
            if on_conflict == "merge" and _is_object(value) and _is_object(other):
                inner = _merge(_object(base.get(key)), _object(value), _object(other), on_conflict)
                new = msgspec.Raw(msgspec.json.encode(inner))
        if new is None:
            merged.pop(key, None)
        else:
            merged[key] = new
    return merged


def _is_object(value: msgspec.Raw | None) -> bool:
    return value is not None and bytes(value).lstrip().startswith(b"{")


def _object(value: msgspec.Raw | None) -> dict[str, msgspec.Raw]:
    return _DECODER.decode(value) if value is not None and _is_object(value) else _EMPTY
