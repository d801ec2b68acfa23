"""``dump-data``: what is in the files, and what is never overwritten."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING

import asyncpg
import pytest

from .conftest import ROOT

if TYPE_CHECKING:
    from collections.abc import Generator
    from pathlib import Path

    from .conftest import Program

MANY = 1100
"""Rows of more than one page."""
LONG = 100_000
"""Rows that take a while."""
PATIENCE = 60
"""Seconds for what takes two."""


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


def test_a_number_that_json_has_not_is_text(program: Program, tmp_path: Path) -> None:
    """And no null, which says that there is none."""
    with closing(sqlite3.connect(tmp_path / "app.db", isolation_level=None)) as connection:
        connection.execute("CREATE TABLE limits (least real, most real)")
        connection.execute("INSERT INTO limits VALUES (-9e999, 9e999)")
    program("--url", "sqlite:///app.db", "dump-data", "all", "--table", "limits")

    assert json.loads((tmp_path / "all" / "limits.json").read_text()) == [{"least": "-inf", "most": "inf"}]


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


HEIRS = """
CREATE TABLE parent (id bigint);
CREATE TABLE heir (name text) INHERITS (parent);
INSERT INTO heir VALUES (1, 'a');
CREATE TABLE whole (id bigint) PARTITION BY LIST (id);
CREATE TABLE part PARTITION OF whole FOR VALUES IN (1);
INSERT INTO whole VALUES (1);
"""


@pytest.mark.adapters("asyncpg")
def test_each_row_is_in_one_file(program: Program, tmp_path: Path, url: str) -> None:
    """PostgreSQL shows one of an heir, or of a partition, in two tables."""
    folder = tmp_path / "heirs"
    folder.mkdir()
    (folder / "0001_heirs.up.sql").write_text(HEIRS)
    program("--url", url, "--script-location", "heirs", "upgrade", "--source", "application")
    said = program("--url", url, "dump-data", "all")

    assert [line[:2] for line in said.lines[1:4]] == [["heir", "1"], ["parent", "0"], ["sqlstore_migrations", "1"]]
    assert [line[:2] for line in said.lines[4:]] == [["whole", "1"]]


# While others work


@contextmanager
def dumping(folder: Path, url: str, begun: str) -> Generator[subprocess.Popen[bytes], None, None]:
    """Give a process that dumps the database at *url* to ``all``, once it has *begun* that file there."""
    # What a shell runs in the background would ignore an interrupt.
    program = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); import sqlstore.__main__"
    process = subprocess.Popen(
        [sys.executable, "-c", program, "--url", url, "dump-data", "all"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stderr=subprocess.PIPE,
    )
    try:
        deadline = time.monotonic() + PATIENCE
        while not (folder / "all" / begun).exists():
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.01)
        yield process
    finally:
        process.kill()
        process.communicate()


@pytest.fixture
def long(tmp_path: Path) -> Path:
    """Return a SQLite file with a table that takes its time."""
    file = tmp_path / "long.db"
    numbers = "WITH RECURSIVE n (id) AS (SELECT 1 UNION ALL SELECT id + 1 FROM n WHERE id < ?) SELECT id FROM n"
    with closing(sqlite3.connect(file, isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("CREATE TABLE long (id integer)")
        connection.execute(f"INSERT INTO long {numbers}", (LONG,))
    return file


@pytest.mark.parametrize("scheme", ["sqlite", "sqlite+aiosqlite"])
def test_a_dump_keeps_no_writer_waiting(tmp_path: Path, long: Path, scheme: str) -> None:
    """Not on SQLite, where there is one: the application's sessions are saved meanwhile."""
    with (
        dumping(tmp_path, f"{scheme}:///{long.name}", "long.json.part") as process,
        closing(sqlite3.connect(long, isolation_level=None, timeout=0)) as connection,
    ):
        connection.execute("INSERT INTO long VALUES (-1)")
        assert process.poll() is None
        assert process.wait(PATIENCE) == 0

    assert len(json.loads((tmp_path / "all" / "long.json").read_text())) == LONG


@pytest.mark.parametrize("scheme", ["sqlite", "sqlite+aiosqlite"])
def test_a_dump_can_be_interrupted(tmp_path: Path, long: Path, scheme: str) -> None:
    """Over a driver of either kind; what is not complete is not under its name."""
    with dumping(tmp_path, f"{scheme}:///{long.name}", "long.json.part") as process:
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=PATIENCE)

    assert (process.returncode, said.split()) == (1, [b"Aborted!"])
    assert not (tmp_path / "all" / "long.json").exists()


@pytest.mark.adapters("asyncpg", "psycopg")
async def test_all_tables_are_of_one_instant(tmp_path: Path, url: str, fresh_database: str) -> None:
    """What is committed between two of them is in neither."""
    connection = await asyncpg.connect(fresh_database)
    try:
        await connection.execute("CREATE TABLE first (id bigint); CREATE TABLE second (id bigint)")
        async with connection.transaction():
            await connection.execute("LOCK TABLE second")
            with dumping(tmp_path, url, "first.json") as process:
                await connection.execute("INSERT INTO first VALUES (1); INSERT INTO second VALUES (1); COMMIT; BEGIN")
                assert process.wait(PATIENCE) == 0
    finally:
        await connection.close()

    assert {file.name: json.loads(file.read_text()) for file in (tmp_path / "all").iterdir()} == {
        "first.json": [],
        "second.json": [],
    }
