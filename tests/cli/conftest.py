"""The program, and databases for it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol

import pytest
from click.testing import CliRunner

from sqlstore.cli import main

if TYPE_CHECKING:
    from collections.abc import Generator

    from ..conftest import Adapter

ROOT = Path(__file__).parents[2]
SCHEMES = {
    "asyncpg": "postgresql+asyncpg",
    "psycopg": "postgresql+psycopg",
    "asyncmy_mariadb": "mariadb+asyncmy",
    "asyncmy_mysql": "mysql+asyncmy",
    "oracle": "oracle+oracledb",
    "aiosqlite": "sqlite+aiosqlite",
    "sqlite": "sqlite",
}
"""Of the adapters that a URL can name."""


class Said(NamedTuple):
    """What a command has said."""

    stdout: str
    stderr: str

    @property
    def lines(self) -> list[list[str]]:
        """The columns of each line of its output."""
        return [line.split("\t") for line in self.stdout.splitlines()]

    @property
    def complaint(self) -> str:
        """What it complains of, in one line."""
        [line] = [line for line in self.stderr.splitlines() if line.startswith("Error: ")]
        return line.removeprefix("Error: ")


class Program(Protocol):
    """Run ``sqlstore`` with *arguments* in the test's directory, which ends with *code*."""

    def __call__(self, *arguments: str, code: int = 0, **environment: str) -> Said:
        """See above."""
        ...


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Generator[Program, None, None]:
    """Give a function that runs the program in this process, where nothing of its modules is left."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])

    def program(*arguments: str, code: int = 0, **environment: str) -> Said:
        ended = CliRunner().invoke(main, arguments, env=environment)
        assert ended.exit_code == code, ended.output
        assert ended.exception is None or isinstance(ended.exception, SystemExit)
        return Said(ended.stdout, ended.stderr)

    yield program
    for name, module in [*sys.modules.items()]:
        if str(getattr(module, "__file__", "")).startswith(str(tmp_path)):
            del sys.modules[name]


@pytest.fixture
def process(tmp_path: Path) -> Program:
    """Return a function that runs the program in a process of its own, as a shell does; a warning is an error."""

    def process(*arguments: str, code: int = 0, **environment: str) -> Said:
        ended = subprocess.run(
            [sys.executable, "-X", "dev", "-W", "error", "-m", "sqlstore", *arguments],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}", **environment},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        assert ended.returncode == code, ended.stderr or ended.stdout
        assert "Traceback" not in ended.stderr
        return Said(ended.stdout, ended.stderr)

    return process


@pytest.fixture
def url(adapter: Adapter, fresh_database: str) -> str:
    """Return the URL of an empty database."""
    scheme = SCHEMES[adapter.name]
    return f"{scheme}://{fresh_database.partition('://')[2]}" if adapter.networked else f"{scheme}:///{fresh_database}"
