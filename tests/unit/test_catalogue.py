"""Which version a table is of, where there are several."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from sqlstore import TableMismatchError, catalogue
from sqlstore.catalogue import differences, stored_version
from sqlstore.dialects import SQLITE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlstore.dialects import Step

# Each adds a column; the second has another index than the first, and the fourth changes data only.
OLD = {"column a": "text NOT NULL", "index x": "(a)"}
MIDDLE = {"column a": "text NOT NULL", "column b": "text", "index y": "(b)"}
NEW = {**MIDDLE, "column c": "text"}
VERSIONS = {1: OLD, 2: MIDDLE, 3: NEW, 4: NEW}

A, B, C, D = ("a", "text", True, None), ("b", "text", False, None), ("c", "text", False, None), ("d", "int", True, "0")
X, Y = ("x", False, "(a)"), ("y", False, "(b)")


async def _version(monkeypatch: pytest.MonkeyPatch, rows: Sequence[Any], *, unlocked: bool = False) -> int:
    def versions(*_: object) -> dict[int, dict[str, str]]:
        return VERSIONS

    monkeypatch.setattr(catalogue, "_versions", versions)
    columns = [row for row in rows if len(row) == 4]
    dialect = replace(SQLITE, lock_in_history=unlocked)

    async def execute(step: Step) -> Sequence[Any]:
        return columns if step.text == SQLITE.columns.text else [row for row in rows if row not in columns]

    assert await differences(execute, dialect, "t") or {A, B, C, Y} <= set(rows)
    return await stored_version(execute, dialect, "t")


@pytest.mark.parametrize(
    ("rows", "version"),
    [
        ([], 0),
        ([A, X], 1),
        ([A, X, D], 1),
        ([A, B, Y], 2),
        ([A, B, X, Y], 2),
        ([A, B, C, Y], 4),
        ([A, B, C, D, Y], 4),
    ],
)
async def test_the_version_is_the_newest_that_leaves_the_least_unexplained(
    monkeypatch: pytest.MonkeyPatch, rows: Sequence[Any], version: int
) -> None:
    """What the next release has added is no matter."""
    assert await _version(monkeypatch, rows) == version


async def test_a_mismatch_is_told_against_what_comes_nearest(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not against the newest version, of which more is missing."""
    with pytest.raises(TableMismatchError, match=r"it: index x is missing \(\(a\)\)\. Put"):
        await _version(monkeypatch, [A])


async def test_a_table_that_lacks_its_indexes_only_may_just_be_made(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no lock keeps two processes from it."""
    assert await _version(monkeypatch, [A], unlocked=True) == 0
    with pytest.raises(TableMismatchError, match="column a is text, not text NOT NULL"):
        await _version(monkeypatch, [("a", "text", False, None), X], unlocked=True)
