"""The commands for migrations, from the first file to the last table."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from .conftest import ROOT, SCHEMES

if TYPE_CHECKING:
    from pathlib import Path

    from .conftest import Program

STORE = ["store:litestar_session", "0001_create_session_table"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return the folder of two migrations."""
    folder = tmp_path / "migrations"
    folder.mkdir()
    for version, table in (("0001_books", "books"), ("0002_authors", "authors")):
        folder.joinpath(f"{version}.up.sql").write_text(f"CREATE TABLE {table} (id integer);\n")
        folder.joinpath(f"{version}.down.sql").write_text(f"DROP TABLE {table};\n")
    return folder


@pytest.fixture
def options(folder: Path, tmp_path: Path) -> list[str]:
    """Return the options of a database with that folder."""
    return ["--url", f"sqlite:///{tmp_path}/app.db", "--script-location", str(folder)]


# The files


def test_a_project_begins_with_a_folder_and_a_pair_of_files(program: Program, tmp_path: Path) -> None:
    """What they print can be pasted, and the files run as they are."""
    said = program("init", "db/migrations").stdout
    options = ["--url", "sqlite:///app.db", "--script-location", "db/migrations"]
    files = program(*options, "make-migration", "add_books").stdout.split()
    more = program(*options, "make-migrations", "add_authors").stdout.split()
    program("init", "db/migrations")

    assert 'extension_config={"migrations": {"script_location": "db/migrations"}}' in said
    assert files == [f"db/migrations/0001_add_books.{direction}.sql" for direction in ("up", "down")]
    assert more == [f"db/migrations/0002_add_authors.{direction}.sql" for direction in ("up", "down")]
    assert all(tmp_path.joinpath(file).read_text().startswith("-- ") for file in files + more)
    assert "0001_add_books.up.sql has no statement" in program(*options, "upgrade", code=1).stderr
    for file in files + more:
        tmp_path.joinpath(file).write_text("SELECT 1;\n")
    assert len(program(*options, "upgrade").lines) == 4
    assert len(program(*options, "downgrade", "base", "--no-prompt").lines) == 3


@pytest.mark.parametrize("name", ["Add Books", "../add_books", "add-books", "", "x" * 101])
def test_a_migration_has_a_plain_name(program: Program, options: list[str], folder: Path, name: str) -> None:
    """Any other is refused, with one that is."""
    before = {*folder.iterdir()}
    complaint = program(*options, "make-migration", "--", name, code=2).complaint

    assert re.search(r"use 1 to 100 of a-z, 0-9 and _, for instance [a-z_]+$", complaint)
    assert {*folder.iterdir()} == before


def test_a_folder_that_cannot_be_made_is_one_line(program: Program, tmp_path: Path) -> None:
    """With what the system says, and of which path."""
    (tmp_path / "file").touch()

    assert program("init", "file/migrations", code=1).complaint.endswith("Not a directory: 'file/migrations'")


def test_a_config_without_a_folder_gets_no_migration(program: Program) -> None:
    """The message says how to have one."""
    complaint = program("--url", "sqlite:///app.db", "make-migration", "x", code=1).complaint

    assert "run sqlstore init migrations" in complaint
    assert 'extension_config={"migrations": {"script_location": "migrations"}}' in complaint


# Up and down


@pytest.mark.adapters(*SCHEMES)
def test_the_commands_work_on_every_database(
    program: Program, process: Program, url: str, folder: Path, tmp_path: Path
) -> None:
    """From nothing to all tables, and back to nothing; where it is a process of its own, without a warning."""
    options = ["--url", url, "--script-location", str(folder)]
    assert "pending" in program(*options, "check", code=1).stdout

    up = process(*options, "upgrade").lines
    assert [line[:3] for line in up[1:]] == [
        [*STORE, "up"],
        ["application", "0001_books", "up"],
        ["application", "0002_authors", "up"],
    ]
    assert program(*options, "check").stdout == "All migrations are applied, as they were written.\n"
    assert program(*options, "downgrade", "-1", "--no-prompt").lines[1][:3] == ["application", "0002_authors", "down"]

    dumped = process(*options, "dump-data", "dump").lines[1:]
    assert [line[0].lower() for line in dumped] == ["books", "litestar_session", "sqlstore_migrations"]
    [history] = tmp_path.joinpath("dump").glob("[sS][qQ][lL]*.json")
    assert {(row.get("source") or row["SOURCE"]) for row in json.loads(history.read_text())} >= {
        STORE[0],
        "application",
    }

    down = program(*options, "drop-all", "--no-prompt").lines
    assert [line[:3] for line in down[1:]] == [["application", "0001_books", "down"], [*STORE, "down"]]
    assert program(*options, "dump-data", "empty").lines == [["table", "rows", "file"]]


def test_a_revision_says_how_far(program: Program, options: list[str]) -> None:
    """By its number, by its label or by steps; of the application, or of the source that is named."""
    assert len(program(*options, "upgrade", "--source", "store").lines) == 2
    assert [line[1] for line in program(*options, "upgrade", "+1").lines[1:]] == ["0001_books"]
    assert [line[1] for line in program(*options, "upgrade", "0002_authors").lines[1:]] == ["0002_authors"]
    assert len(program(*options, "downgrade", "1", "--no-prompt").lines) == 2
    assert "0009" in program(*options, "upgrade", "0009", code=1).complaint


def test_what_is_done_is_done_once(program: Program, options: list[str]) -> None:
    """The second time there is nothing to do; another tool's --no-prompt is no error."""
    program(*options, "upgrade", "--no-prompt")
    again = program(*options, "upgrade", "--no-prompt")

    assert (again.stdout.count("\n"), again.stderr) == (1, "Nothing to do.\n")


def test_a_dry_run_names_the_files_and_runs_none(program: Program, options: list[str]) -> None:
    """In their order."""
    lines = program(*options, "upgrade", "--dry-run").lines

    assert lines == [["file"], ["0001_create_session_table.up.sql"], ["0001_books.up.sql"], ["0002_authors.up.sql"]]
    assert json.loads(program(*options, "upgrade", "1", "--dry-run", "--json").stdout) == [
        {"file": "0001_books.up.sql"}
    ]
    assert len(program(*options, "upgrade").lines) == 4


def test_a_script_does_what_the_command_does(program: Program, options: list[str], tmp_path: Path) -> None:
    """For those who may not let a program at their database: it asks nothing, and its history is the same."""
    script = program(*options, "upgrade", "--sql").stdout
    assert not tmp_path.joinpath("app.db").exists()

    subprocess.run(["sqlite3", tmp_path / "app.db"], input=script, text=True, check=True)  # noqa: S607
    assert program(*options, "check").stdout.startswith("All migrations are applied")

    undo = program(*options, "downgrade", "base", "--sql").stdout
    subprocess.run(["sqlite3", tmp_path / "app.db"], input=undo, text=True, check=True)  # noqa: S607
    assert [row["pending"] for row in json.loads(program(*options, "current", "--json").stdout)] == [0, 2]


@pytest.mark.parametrize("command", ["upgrade", "downgrade"])
def test_a_script_is_no_json(program: Program, options: list[str], command: str) -> None:
    """Whoever parses the output is told before it is something else."""
    said = program(*options, command, "--sql", "--json", code=2)

    assert (said.stdout, said.complaint) == ("", "--sql prints SQL: leave out --json")


def test_a_script_stops_at_an_error(program: Program, options: list[str], folder: Path, tmp_path: Path) -> None:
    """What failed is not in its history, and nothing of its file is kept."""
    folder.joinpath("0002_authors.up.sql").write_text("CREATE TABLE other (id integer);\nCREATE TALBE authors;\n")
    script = program(*options, "upgrade", "--sql").stdout
    client = ["sqlite3", str(tmp_path / "app.db")]
    run = subprocess.run(client, input=script, text=True, stderr=subprocess.PIPE, check=False)

    assert (run.returncode, "TALBE" in run.stderr) == (1, True)
    assert [row["pending"] for row in json.loads(program(*options, "current", "--json").stdout)] == [0, 1]
    assert subprocess.check_output([*client, "SELECT count(*) FROM sqlite_schema WHERE name = 'other'"]) == b"0\n"


def test_a_failure_names_the_file_and_the_line(program: Program, options: list[str], folder: Path) -> None:
    """The code is 1, and what went before it is kept."""
    folder.joinpath("0002_authors.up.sql").write_text("-- a comment\n\nCREATE TALBE authors (id integer);\n")
    failed = program(*options, "upgrade", code=1)

    assert failed.complaint.startswith('0002_authors.up.sql, line 3: near "TALBE": syntax error')
    assert [row["pending"] for row in json.loads(program(*options, "current", "--json").stdout)] == [0, 1]


def test_an_edited_file_is_found_by_check_and_stops_an_upgrade(
    program: Program, options: list[str], folder: Path
) -> None:
    """Both name it."""
    program(*options, "upgrade", "1")
    program(*options, "upgrade", "--source", "store")
    folder.joinpath("0001_books.up.sql").write_text("CREATE TABLE books (id integer, title text);\n")

    assert "0001_books.up.sql" in program(*options, "upgrade", code=1).complaint
    problems = json.loads(program(*options, "check", "--json", code=1).stdout)
    assert [("0001_books.up.sql" in problem, "0002_authors is pending" in problem) for problem in problems] == [
        (True, False),
        (False, True),
    ]


def test_a_wrong_file_is_refused_before_any_sql(
    program: Program, options: list[str], folder: Path, tmp_path: Path
) -> None:
    """Its name is in the message."""
    folder.joinpath("0003_Nobody.sql").write_text("")

    assert "0003_Nobody.sql is not the name of a migration" in program(*options, "upgrade", code=1).complaint
    assert not tmp_path.joinpath("app.db").exists()


@pytest.mark.parametrize(
    "command", [["upgrade"], ["current"], ["stamp", "head"], ["sql"], ["stats"], ["prune"], ["doctor"]]
)
def test_a_table_name_that_is_none_is_one_line(program: Program, command: list[str]) -> None:
    """With --config, too, where the config does not check it."""
    complaint = program("--url", "sqlite:///a.db", "--table", "a-b", *command, code=1).complaint

    assert complaint.startswith("Invalid table name: 'a-b'. Use letters")


# What there is


def test_current_and_history_say_what_is_applied(program: Program, options: list[str]) -> None:
    """In columns and as JSON; Advanced Alchemy's name for the first is an alias."""
    program(*options, "upgrade", "1")
    program(*options, "stamp", "2")
    current = program(*options, "show-current-revision").lines
    history = json.loads(program(*options, "history", "--json").stdout)

    assert current[0] == ["source", "migration", "applied_at", "pending", "problems"]
    assert current[1] == [STORE[0], "-", "-", "1", "0"]
    assert current[2][:2] == ["application", "0002_authors"]
    assert [(row["migration"], row["state"], row["seconds"] is None) for row in history] == [
        (STORE[1], "pending", True),
        ("0001_books", "applied", False),
        ("0002_authors", "applied", True),
    ]
    assert history[1]["applied_at"].endswith("+00:00")


def test_what_stopped_half_way_is_not_the_newest(program: Program, options: list[str], folder: Path) -> None:
    """For ``current``, which counts it as a problem; ``history`` says where it stopped."""
    half = "-- sqlstore: no-transaction\nCREATE TABLE authors (id integer);\nCREATE TALBE more (id integer);\n"
    folder.joinpath("0002_authors.up.sql").write_text(half)
    program(*options, "upgrade", code=1)

    assert program(*options, "current").lines[2][1::2] == ["0001_books", "0"]
    assert program(*options, "current").lines[2][4] == "1"
    assert program(*options, "history").lines[3][1:3] == ["0002_authors", "stopped at 0002_authors.up.sql, line 3"]


def test_a_stamp_records_what_was_done_by_hand(program: Program, options: list[str]) -> None:
    """And forgets what is newer; it runs nothing, so that the tables are not there."""
    program(*options, "upgrade", "--source", "store")
    assert [row[0] for row in program(*options, "stamp", "head").lines] == ["migration", "0001_books", "0002_authors"]
    assert [row[0] for row in program(*options, "stamp-migration", "1").lines] == ["migration", "0001_books"]

    assert "no such table: books" in program(*options, "downgrade", "--no-prompt", code=1).complaint
    assert [row[0] for row in program(*options, "stamp", "-1").lines] == ["migration"]


def test_there_is_nothing_to_merge(program: Program) -> None:
    """Whatever other tools are given, one line says why."""
    said = program("merge-migrations", "heads", "-m", "merge").stdout

    assert said.startswith("A numbered history has no branches to merge")
    assert said.count("\n") == 1


# Asking first


@pytest.mark.parametrize("command", ["downgrade", "drop-all"])
def test_nothing_is_undone_without_a_yes(process: Program, options: list[str], command: str) -> None:
    """Where nobody can be asked, the command is refused at once."""
    process(*options, "upgrade")

    assert process(*options, command, code=2).complaint.endswith("give --no-prompt")
    assert process(*options, "check").stdout.startswith("All")


@pytest.mark.parametrize(("answer", "code"), [("n", 1), ("y", 0)])
def test_on_a_terminal_there_is_a_question(
    program: Program, options: list[str], tmp_path: Path, answer: str, code: int
) -> None:
    """It names the files; progress and tables are drawn, and no tabs."""
    program(*options, "upgrade")
    terminal, end = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "sqlstore", *options, "drop-all"],
        stdin=end,
        stdout=end,
        stderr=end,
        env={**os.environ, "PYTHONPATH": str(ROOT), "TERM": "xterm", "COLUMNS": "200"},
        cwd=tmp_path,
    )
    os.close(end)
    os.write(terminal, f"{answer}\n".encode())
    said = b""
    while chunk := _read(terminal):
        said += chunk
    os.close(terminal)

    assert process.wait(60) == code
    question = (
        "Run 0002_authors.down.sql, 0001_books.down.sql, 0001_create_session_table.down.sql, and drop the history?"
    )
    assert question in said.decode()
    assert ("\x1b[" in said.decode(), "\t" in said.decode()) == (answer == "y", False)
    assert bool(re.search("application +0002_authors +down", said.decode())) is (answer == "y")


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 4096)
    except OSError:  # everybody has closed the other end
        return b""


@pytest.mark.parametrize("command", ["downgrade", "stamp"])
def test_an_unknown_option_is_no_revision(program: Program, options: list[str], command: str) -> None:
    """Although -1 is one."""
    assert "No such option '--no-promt'" in program(*options, command, "--no-promt", code=2).complaint


def test_help_needs_no_database(program: Program) -> None:
    """Nor do names of other tools crowd it."""
    said = program("--help").stdout

    assert {"check", "downgrade", "make-migration"} <= {*re.findall(r"^  (\S+)  ", said, re.MULTILINE)}
    assert "make-migrations " not in said
    assert "Exit codes" in said
