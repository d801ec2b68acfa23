"""``dump-data``: what is in the files, and what is never overwritten."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

    from .conftest import Program

MANY = 1100
"""Rows of more than one page."""


@pytest.fixture(autouse=True)
def _tables(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "app.db", isolation_level=None)) as connection:
        connection.execute('CREATE TABLE "od""d name" (value blob, word text, share real, missing text)')
        connection.execute('INSERT INTO "od""d name" VALUES (?, ?, 0.5, NULL)', (b"\x00\xff", "é"))
        connection.execute("CREATE TABLE many (id integer)")
        connection.executemany("INSERT INTO many VALUES (?)", [(number,) for number in range(MANY)])


@pytest.mark.parametrize("scheme", ["sqlite", "sqlite+aiosqlite"])
def test_each_table_is_a_file_of_json(program: Program, tmp_path: Path, scheme: str) -> None:
    """Whatever its name is, over a driver of either kind; a row is a line."""
    said = json.loads(program("--url", f"{scheme}:///app.db", "dump-data", "all", "--json").stdout)
    rows = json.loads((tmp_path / "all" / 'od"d name.json').read_text())

    assert [(each["table"], each["rows"]) for each in said] == [("many", MANY), ('od"d name', 1)]
    assert rows == [{"value": "AP8=", "word": "é", "share": 0.5, "missing": None}]
    assert len((tmp_path / "all" / "many.json").read_text().splitlines()) == MANY + 2
    assert len(json.loads((tmp_path / "all" / "many.json").read_text())) == MANY


def test_a_file_is_in_the_folder_whatever_the_table_is_called(program: Program, tmp_path: Path) -> None:
    """What makes a path of a name is written as in a URL."""
    names = ["../evil", "..%2Fevil", f"{tmp_path}/evil"]
    with closing(sqlite3.connect(tmp_path / "app.db", isolation_level=None)) as connection:
        for name in names:
            connection.execute(f'CREATE TABLE "{name}" (id integer)')
    program("--url", "sqlite:///app.db", "dump-data", "all", *(f"--table={name}" for name in names))

    assert {path.name for path in (tmp_path / "all").iterdir()} == {
        "..%2Fevil.json",
        "..%252Fevil.json",
        f"{tmp_path}/evil.json".replace("/", "%2F"),
    }
    assert [*tmp_path.glob("*.json")] == []


def test_a_file_is_never_overwritten(program: Program, tmp_path: Path) -> None:
    """Nothing is written if one of them is there."""
    (tmp_path / "many.json").write_text("mine")
    complaint = program("--url", "sqlite:///app.db", "dump-data", ".", code=1).complaint

    assert complaint.startswith("already there: many.json;")
    assert [path.name for path in tmp_path.glob("*.json*")] == ["many.json"]
    assert (tmp_path / "many.json").read_text() == "mine"


def test_tables_are_chosen_by_their_names(program: Program, tmp_path: Path) -> None:
    """A name that there is not is refused with one that there is."""
    unknown = program("--url", "sqlite:///app.db", "dump-data", "some", "--table", "Mny", code=1).complaint
    program("--url", "sqlite:///app.db", "dump-data", "some", "--table", "many")

    assert unknown == "there is no table 'Mny' in the current schema: is it many?"
    assert [path.name for path in (tmp_path / "some").iterdir()] == ["many.json"]
