"""What the doctor asks a database about itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ._dialect import Statement

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ("PRIVILEGES", "Examination")

# They change nothing, and are refused to a role without the privilege, and where nothing can be written.
PRIVILEGES: Mapping[str, Statement] = {
    "SELECT": Statement("SELECT session_id FROM {table} WHERE 1 = 0", ()),
    "INSERT": Statement(
        """
INSERT INTO {table} (namespace, session_id, data, version, created_at, updated_at)
SELECT namespace, session_id, data, version, created_at, updated_at
  FROM {table}
 WHERE 1 = 0""",
        (),
    ),
    "UPDATE": Statement("UPDATE {table} SET version = 0 WHERE 1 = 0", ()),
    "DELETE": Statement("DELETE FROM {table} WHERE 1 = 0", ()),
}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Examination:
    """Questions, and what a good answer is. They are asked over a store's connection."""

    server: Statement
    """Its name and version, the time zone, its clock in epoch seconds, and how many connections it takes.

    The clock is NULL if it is the process's, the connections are if there is no limit, or the role cannot see it.
    """
    role: Statement
    """The session's, and whether it is an administrator."""
    comparison: Statement
    """What keys are compared by: the column or setting, and its rule."""
    bytewise: frozenset[str]
    """The rules that compare keys byte for byte."""
    durability: Statement
    """A setting, and its value as text."""
    durable: Mapping[str, tuple[str, ...]]
    """The values of each setting with which a crash loses nothing that was committed; the first is the usual one."""
    durable_fix: str
    """How to set *name* to *value*."""
    bloat: Statement | None = None
    """How much space is waste, how much is used, both in rows or both in bytes, and that in words."""
    bloat_least: int = 10_000_000
    """So much waste is none to speak of."""
    bloat_fix: str = ""
