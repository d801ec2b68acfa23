"""How a command finds its database."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import unquote, urlencode, urlsplit

import pytest

from .conftest import SCHEMES

if TYPE_CHECKING:
    from pathlib import Path

    from .conftest import Program

CONFIGS = """
from sqlstore.adapters.sqlite import SqliteConfig

def of(key):
    return SqliteConfig(pool_config={"database": f"{key}.db"}, extension_config={"litestar": {"bind_key": key}})

one, two = of("one"), of("two")
several = [one, two]
pair = (two, one)
mapping = {"a": one, "b": two}
numbered = {1: one, 2: two}
twice = [one, one]
nothing = []
number = 5
"""


@pytest.fixture(autouse=True)
def _module(tmp_path: Path) -> None:
    tmp_path.joinpath("settings.py").write_text(CONFIGS)


# --url


@pytest.mark.adapters(*SCHEMES)
def test_a_url_names_the_database(program: Program, url: str) -> None:
    """With its driver; each database has one."""
    [_, row] = program("--url", url, "--table", "mine", "current").lines

    assert row == ["store:mine", "-", "-", "1", "0"]


@pytest.mark.adapters("asyncpg", "psycopg")
def test_a_url_without_a_host_names_it_in_its_query(program: Program, url: str) -> None:
    """As for a Unix socket, whose path is no host's name."""
    parts = urlsplit(url)
    account = {"user": parts.username, "password": unquote(parts.password or "")}
    query = urlencode({"host": parts.hostname, "port": parts.port, **account})

    assert program("--url", f"{parts.scheme}://{parts.path}?{query}", "current").lines[1][0] == "store:litestar_session"


@pytest.mark.parametrize(
    ("url", "complaint"),
    [
        ("postgres+pg8000://u:secret@h/d", "--url begins with postgresql+asyncpg://, postgresql+psycopg://"),
        ("app.db", "--url begins with postgresql+asyncpg://"),
        ("postgresql://u:sec/ret@h/d", "a user name or password has / as %2F"),
        ("postgresql://u:sec#ret@h/d", "a user name or password has / as %2F, # as %23"),
        ("postgresql+psycopg://u:100%zzsecret@h/d", "@ as %40, % as %25, a space as %20"),
        ("postgresql+psycopg://u:sec%00ret@h/d", "a user name or password has"),
        ("postgresql+psycopg://u:sec ret@h/d", "a user name or password has"),
        ("postgresql+psycopg://u:sec\tret@h/d", "a user name or password has"),
        ("postgresql+psycopg://u:p@sec.ret@h/d", "a user name or password has"),
        ("postgresql+psycopg://u:1?secret@h/d", "a user name or password has"),
        ("postgresql+psycopg://u:sec\uff0fret@h/d", "a user name or password has"),
        ("postgresql+psycopg://h/d?password=100%zzsecret", "a user name or password has"),
        ("postgresql+asyncpg://u:100%zzsecret@h/d", "a user name or password has"),
        ("mysql://u:secret@h/d?bogus=1", "--url: unknown option 'bogus' in pool_config"),
        ("sqlite:app.db", "--url begins with"),
        ("sqlite://app.db", "--url: a file has three slashes before its path"),
    ],
)
def test_a_url_that_is_none_is_refused_without_its_password(program: Program, url: str, complaint: str) -> None:
    """The message says what to write."""
    failed = program("--url", url, "current", code=2)

    assert complaint in failed.complaint
    assert "sec" not in failed.stdout + failed.stderr


@pytest.mark.parametrize("scheme", ["postgresql+asyncpg", "postgresql+psycopg", "mysql", "oracle"])
def test_a_server_that_is_not_there_is_one_line_without_the_password(program: Program, scheme: str) -> None:
    """The database says no, so the code is 1."""
    failed = program("--url", f"{scheme}://scott:tiger%21%2F@127.0.0.1:1/d", "current", code=1)

    assert failed.complaint.startswith("cannot use the database: check pool_config")
    assert "tiger" not in failed.stderr


@pytest.mark.adapters("asyncmy_mysql")
def test_a_password_has_percent_escapes(program: Program, url: str) -> None:
    """As SQLAlchemy has them."""
    account, _, place = url.partition("://")[2].partition("@")
    refused = program("--url", f"mysql://{account.partition(':')[0]}:p%40%2F:%25@{place}", "current", code=1)

    assert "Access denied" in refused.complaint


def test_a_driver_that_is_not_installed_is_named_with_its_extra(process: Program, tmp_path: Path) -> None:
    """What to type is in the message."""
    tmp_path.joinpath("sitecustomize.py").write_text("import sys; sys.modules['asyncmy'] = None")
    failed = process("--url", "mysql://root@127.0.0.1:1/d", "current", code=1)

    assert failed.complaint.endswith('install the driver with pip install "sqlstore[asyncmy]"')


def test_postgresql_is_reached_through_the_driver_that_is_installed(process: Program, tmp_path: Path) -> None:
    """By asyncpg, or else by psycopg."""
    url = "postgresql://u@127.0.0.1:1/d"
    by_asyncpg = process("--url", url, "current", code=1)
    tmp_path.joinpath("sitecustomize.py").write_text("import sys; sys.modules['asyncpg'] = None")
    by_psycopg = process("--url", url, "current", code=1)

    assert "ConnectionRefusedError" in by_asyncpg.complaint
    assert "OperationalError" in by_psycopg.complaint


# --config


@pytest.mark.parametrize(
    ("arguments", "file"),
    [
        (["settings:one"], "one.db"),
        (["settings:several", "--bind-key", "two"], "two.db"),
        (["settings:pair", "--bind-key", "one"], "one.db"),
        (["settings:mapping", "--bind-key", "b"], "two.db"),
        (["settings:numbered", "--bind-key", "2"], "two.db"),
    ],
)
def test_a_config_is_named_by_its_module_and_its_key(
    program: Program, tmp_path: Path, arguments: list[str], file: str
) -> None:
    """The working directory is importable."""
    program("--config", *arguments, "upgrade")

    assert [path.name for path in tmp_path.glob("*.db")] == [file]


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["settings"], "--config settings: write MODULE:NAME, for instance myapp.database:config"),
        (["nowhere.at.all:x"], "there is no module 'nowhere'"),
        (["settings.at.all:x"], "there is no module 'settings.at'"),
        (["settings:sevral"], "the module settings has no 'sevral'; is it 'several'?"),
        (["settings:config"], "the module settings has no 'config'; is it 'one'?"),
        (["settings:number"], "settings:number is a int: name a config, or a list or mapping of configs"),
        (["settings:nothing"], "settings:nothing is a list: name a config"),
        (["settings:twice"], "two configs have the same bind_key: set others"),
        (["settings:several"], "there are several configs: choose --bind-key one or two"),
        (["settings:several", "--bind-key", "three"], "no config is 'three': choose --bind-key one or two"),
        (["settings:one", "--table", "t"], "--table: only with --url"),
        (["settings:one", "--url", "sqlite:///x.db"], "give either --config or --url"),
    ],
)
def test_a_config_that_is_not_there_is_a_line_with_the_fix(
    program: Program, tmp_path: Path, arguments: list[str], complaint: str
) -> None:
    """The command line is wrong, and nothing was opened."""
    assert complaint in program("--config", *arguments, "current", code=2).complaint
    assert [*tmp_path.glob("*.db")] == []


def test_no_config_says_which_options_name_one(program: Program) -> None:
    """And which environment variables."""
    complaint = program("current", code=2).complaint

    assert complaint.startswith("which database? Give --config MODULE:NAME or --url URL, or set SQLSTORE_CONFIG")


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("import settings\n\n1 / 0", "ZeroDivisionError: division by zero at {file}, line 3"),
        ("import not_there", "ModuleNotFoundError: No module named 'not_there' at {file}, line 1"),
        ("x = = 1", "SyntaxError: invalid syntax"),
        (CONFIGS + "of(key=5)\nSqliteConfig(pool_config={})", "TypeError: pool_config needs"),
    ],
)
def test_a_module_that_fails_is_named_with_the_line(
    program: Program, tmp_path: Path, text: str, complaint: str
) -> None:
    """Without the frames of import machinery."""
    file = tmp_path / "broken.py"
    file.write_text(text)
    failed = program("--config", "broken:config", "current", code=1)

    assert failed.complaint.startswith("--config: the module broken cannot be imported: ")
    assert complaint.format(file=file) in failed.complaint


def test_the_environment_names_a_database_and_the_command_line_another(program: Program, tmp_path: Path) -> None:
    """What is typed goes before what is set."""
    program("upgrade", SQLSTORE_CONFIG="settings:one")
    program("--url", "sqlite:///typed.db", "upgrade", SQLSTORE_CONFIG="settings:one")
    program("upgrade", SQLSTORE_URL="sqlite:///set.db")

    assert sorted(path.name for path in tmp_path.glob("*.db")) == ["one.db", "set.db", "typed.db"]
    assert "give either" in program("current", code=2, SQLSTORE_CONFIG="settings:one", SQLSTORE_URL="x").complaint
