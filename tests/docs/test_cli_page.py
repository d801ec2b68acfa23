"""The pages of migrations and of the command line: what is to be typed works, and what is named is what there is."""

from __future__ import annotations

import json
import os
import re
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from typing import TYPE_CHECKING, Any

import click
import pytest
import yaml  # type: ignore[import-untyped]  # its stubs would be one more package, for one call
from click.testing import CliRunner

from sqlstore.cli import COMMANDS, main

from .pages import PAGES, ROOT, codes, fences, table

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Asked = Callable[..., Any]

CLIENT = f'sqlstore() {{ "{sys.executable}" -m sqlstore "$@"; }}\n'
"""The program, also where it was not installed as one."""
ROWS = {codes(row[0])[0].split()[0]: row for row in table("cli.md", "Command")}


def options(command: click.Command) -> set[str]:
    """Return the long names of its options."""
    return {max(each.opts, key=len) for each in command.params if isinstance(each, click.Option) and not each.hidden}


def shell(script: str, directory: Path, **environment: str) -> str:
    """Return what *script* prints, which has no terminal; the first command that fails ends it."""
    done = subprocess.run(
        ["/bin/sh", "-e", "-c", CLIENT + script],
        cwd=directory,
        env={**os.environ, **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_commands_are_all_there_are() -> None:
    """With their arguments and options; other tools' names are named elsewhere on the page."""
    shown = {command.name or "": command for command in COMMANDS if not command.hidden}
    arguments = {
        name: [each.make_metavar(click.Context(command)) for each in command.params if isinstance(each, click.Argument)]
        for name, command in shown.items()
    }

    assert {name: codes(row[0])[0].split()[1:] for name, row in ROWS.items()} == arguments
    assert {name: set(codes(row[1])) for name, row in ROWS.items()} == {
        name: options(command) for name, command in shown.items()
    }
    assert [each.name for each in COMMANDS if f"`{each.name}" not in PAGES["cli.md"]] == []


def test_the_options_before_a_command_are_all_there_are() -> None:
    """With the environment variables that stand for them."""
    named = {codes(row[0])[0].split()[0]: codes(row[1]) for row in table("cli.md", "Option")}

    assert named == {
        f"--{each.name}".replace("_", "-"): [each.envvar] if each.envvar else []
        for each in main.params
        if isinstance(each, click.Option)
    }


@pytest.fixture
def examples(tmp_path: Path) -> Path:
    """Return a copy of the folder of examples, with no database in it."""
    ignored = shutil.ignore_patterns("*.db*", "__pycache__")
    return shutil.copytree(ROOT / "examples", tmp_path / "examples", ignore=ignored)


@pytest.mark.timeout(300)  # seven processes
def test_the_migrations_of_the_books_are_applied_and_undone(examples: Path) -> None:
    """Line by line, as the page has it."""
    [script] = fences("migrations.md", "shell")
    printed = shell(script.body, examples)

    assert "application: 0003_add_isbn is pending: run sqlstore upgrade\nnot yet\n" in printed
    assert printed.splitlines()[-1].startswith("application\t0003_add_isbn\tdown\t")


def test_a_table_of_sqlite_is_rebuilt_as_on_the_page(asked: Asked, examples: Path) -> None:
    """With its rows, and those that refer to it."""
    rebuild = next(fence.body for fence in fences("migrations.md", "sql") if "no-transaction" in fence.body)
    (examples / "books/0003_shelves.up.sql").write_text(
        "CREATE TABLE shelves (id INTEGER PRIMARY KEY, room TEXT);\n"
        "CREATE TABLE copies (shelf INTEGER REFERENCES shelves ON DELETE CASCADE);\n"
        "INSERT INTO shelves VALUES (1, 'hall');\nINSERT INTO copies VALUES (1);\n"
    )
    (examples / "books/0004_rooms.up.sql").write_text(rebuild)
    asked("upgrade")
    with closing(sqlite3.connect("books.db")) as connection:
        rows = connection.execute("SELECT id, room, shelf FROM shelves JOIN copies ON shelf = id").fetchall()
        with pytest.raises(sqlite3.IntegrityError, match="NOT NULL"):
            connection.execute("INSERT INTO shelves VALUES (2, NULL)")

    assert rows == [(1, "hall", 1)]
    assert asked("check") == []


def test_the_commands_of_the_readme_work(examples: Path) -> None:
    """With what follows them as a comment."""
    lines = re.findall("^sqlstore --.*", (ROOT / "README.md").read_text(), re.MULTILINE)

    assert len(lines) == 2
    assert "0002_create_books" in shell("\n".join(lines), examples)


@pytest.fixture
def asked(examples: Path, monkeypatch: pytest.MonkeyPatch) -> Asked:
    """Return a function that runs a command for the books with ``--json``, and returns what it prints."""
    monkeypatch.chdir(examples)
    monkeypatch.setattr(sys, "path", [str(examples), *sys.path])
    monkeypatch.delitem(sys.modules, "books_app", raising=False)

    def run(*arguments: str, code: int = 0) -> Any:  # noqa: ANN401 - JSON
        done = CliRunner().invoke(main, ["--config", "books_app:config", *arguments, "--json"])
        assert done.exit_code == code, done.output
        return json.loads(done.stdout)

    return run


@pytest.mark.parametrize(
    ("name", "keys"),
    [(name, codes(keys.partition(":")[0])) for names, keys in table("cli.md", "`--json` of") for name in codes(names)],
)
def test_the_keys_of_json_are_those_of_the_table(asked: Asked, name: str, keys: list[str]) -> None:
    """In their order."""
    if name != "upgrade":
        asked("upgrade")
    if name == "stats":
        with closing(sqlite3.connect("books.db")) as connection, connection:
            connection.execute("INSERT INTO litestar_session VALUES ('/x/', 'key', NULL, 1, NULL, 1, 1, 'value')")
    more = {"stamp": ["head"], "dump-data": ["dump"]}.get(name, [])
    found = asked(name, *more, *(["--no-prompt"] if "--no-prompt" in ROWS[name][1] else []))

    assert found
    assert [list(each) for each in found] == [keys] * len(found)


def test_the_other_shapes_of_json_are_as_described(asked: Asked) -> None:
    """Sentences, files and an object."""
    problems = asked("check", code=1)
    planned = asked("upgrade", "--dry-run")
    asked("upgrade")

    assert len(problems) == 3
    assert all(isinstance(each, str) for each in problems)
    assert planned[-1] == {"file": "0002_create_books.up.sql"}
    assert asked("prune") == {"deleted": 0, "left": 0}


@pytest.mark.adapters("asyncpg")
def test_the_workflow_for_github_passes_and_fails(fresh_database: str, tmp_path: Path) -> None:
    """Its steps, but for those that fetch and install, on a database of the tests."""
    workflow: Any = yaml.safe_load((ROOT / "examples/ci/migrations.yml").read_text())
    steps = [step["run"] for step in workflow["jobs"]["migrations"]["steps"] if "run" in step]
    scripts = [script for script in steps if not script.startswith("pip install")]
    folder = tmp_path / "migrations"
    folder.mkdir()
    (folder / "0001_create_note.up.sql").write_text("CREATE TABLE note (id bigint PRIMARY KEY);\n")
    down = folder / "0001_create_note.down.sql"
    down.write_text("DROP TABLE note;\n")
    for script in scripts:
        shell(script, tmp_path, SQLSTORE_URL=fresh_database)

    assert len(scripts) == len(steps) - 1
    down.write_text("SELECT 1;\n")
    with pytest.raises(AssertionError, match=r'0001_create_note\.up\.sql.*"note" already exists'):
        shell(scripts[-1], tmp_path, SQLSTORE_URL=fresh_database)
