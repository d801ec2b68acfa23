"""What a store's table looks like, and which of the bundled migrations made it.

Each ``NNNN_name.up.sql`` has a ``NNNN_name.catalogue`` beside it: the columns, the primary key and the indexes that the
table then has, one a line. A table that has them all is of that version, whoever ran the files. What it has besides is
no matter, unless rows would be refused for it: the next release may have added it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from .dialects import Dialect, Step
from .exceptions import TableMismatchError
from .migration_files import renamed

if TYPE_CHECKING:
    from .dialects import Statement

__all__ = ("Execute", "differences", "stored_version", "table_parts")

Execute = Callable[[Step], Awaitable[Sequence[Sequence[Any]]]]
"""Runs a step and returns its rows."""

Parts = Mapping[str, str]
"""Each column, the primary key and each index, with its definition."""


async def stored_version(execute: Execute, dialect: Dialect, table: str) -> int:
    """Return the version of the bundled migrations that *table* is of; 0 if there is no such table.

    If several fit, it is the one that leaves the least unexplained, and the newest of those. Where nothing keeps two
    processes from making the same table, one that has all but its indexes is not yet of its version.

    Raises:
        TableMismatchError: it is of none; the message says how it differs from the one that comes nearest.
    """
    found = await table_parts(execute, dialect, table)
    if not found:
        return 0
    versions = _versions(dialect, table)
    amiss = {version: _differing(parts, found) for version, parts in versions.items()}
    nearest = min(amiss, key=lambda version: (len(amiss[version]), -len(versions[version]), -version))
    if not amiss[nearest]:
        return nearest
    unmade = [part for part in versions[nearest] if part.startswith("index ") and part not in found]
    if dialect.lock_in_history and len(unmade) == len(amiss[nearest]):
        return nearest - 1
    msg = (
        f"table {table} is not as the bundled migrations make it: {'; '.join(amiss[nearest])}. "
        "Put that right, choose another session_table, or rename the table"
    )
    raise TableMismatchError(msg)


async def differences(execute: Execute, dialect: Dialect, table: str) -> list[str]:
    """Return in words how *table* differs from the one that all bundled migrations make; empty if it does not."""
    found = await table_parts(execute, dialect, table)
    versions = _versions(dialect, table)
    return _differing(versions[max(versions)], found) if found else [f"table {table} does not exist"]


async def table_parts(execute: Execute, dialect: Dialect, table: str) -> Parts:
    """Return what is there of *table*, in the words of the ``.catalogue`` files; empty if there is no such table."""

    async def rows(statement: Statement) -> Sequence[Sequence[Any]]:
        return await execute(statement.bind({"table": table}, ()))

    parts = {
        f"column {name}": f"{kind}{' NOT NULL' if required else ''}{' DEFAULT' if default else ''}"
        for name, kind, required, default in await rows(dialect.columns)
    }
    for name, unique, definition in await rows(dialect.indexes) if parts else ():
        parts[f"{'unique ' if unique else ''}index {name}".lower() if name else "primary key"] = definition
    return parts


@cache
def _versions(dialect: Dialect, table: str) -> Mapping[int, Parts]:
    folder = files("sqlstore") / "migrations" / dialect.name
    versions: dict[int, Parts] = {}
    for path in folder.iterdir():
        if path.name.endswith(".catalogue"):
            lines = (line.partition(": ") for line in renamed(path.read_text("utf-8"), table).splitlines())
            versions[int(path.name.partition("_")[0])] = {part.lower(): definition for part, _, definition in lines}
    return versions


def _differing(expected: Parts, found: Parts) -> list[str]:
    words = [
        f"{part} is {found[part]}, not {definition}" if part in found else f"{part} is missing ({definition})"
        for part, definition in expected.items()
        if found.get(part) != definition
    ]
    words += [
        f"{part} is not ours, and may refuse our rows ({definition})"
        for part, definition in found.items()
        if part not in expected and (part.startswith("unique ") or definition.endswith(" NOT NULL"))
    ]
    return words
