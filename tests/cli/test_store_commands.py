"""What an operator does about the stores' table."""

from __future__ import annotations

import asyncio
import json
import re
import secrets
import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest

from sqlstore.migration_files import SQLFile

from ..docs.test_grants import call_every_verb
from .conftest import SCHEMES

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlstore import BaseSQLSpecStore

    from ..conftest import Adapter
    from ..servers import Server
    from .conftest import Program

    RunSQL = Callable[[str], None]


@pytest.fixture
def run_sql(adapter: Adapter, fresh_database: str, request: pytest.FixtureRequest) -> RunSQL:
    """Return a function that runs what the program has printed."""
    server: Server | None = request.getfixturevalue("server") if adapter.networked else None

    def run_sql(text: str) -> None:
        if server is None:
            with closing(sqlite3.connect(fresh_database)) as connection:
                connection.executescript(text)
            return
        for statement in SQLFile("printed.sql", text).statements(adapter.store.config_type().dialect):
            asyncio.run(server.fetch(statement.text, fresh_database))

    return run_sql


@pytest.fixture
def store(adapter: Adapter, fresh_database: str) -> BaseSQLSpecStore[Any]:
    """Return a store over the default table, which is not there."""
    return adapter.store(adapter.config(pool_config=adapter.pool_config(fresh_database)))


# sql


@pytest.mark.adapters(*SCHEMES)
def test_the_printed_sql_makes_the_table(program: Program, adapter: Adapter, url: str, run_sql: RunSQL) -> None:
    """Of the name that the command line gives, or the config."""
    text = program("--url", url, "--table", "mine", "sql").stdout
    assert text == program("sql", "--dialect", adapter.dialect, "--table", "mine").stdout
    run_sql(text)
    found = json.loads(program("--url", url, "--table", "mine", "doctor", "--json").stdout)

    assert ["table", "ok", "mine is as the migrations make it", None] in [list(row.values()) for row in found]


@pytest.mark.adapters("asyncpg", "asyncmy_mariadb", "asyncmy_mysql", "oracle")
def test_a_role_with_the_printed_grants_can_call_every_verb(
    program: Program, adapter: Adapter, server: Server, fresh_database: str, run_sql: RunSQL
) -> None:
    """It finds the table that somebody else has made."""
    role = f"app_{secrets.token_hex(6)}"
    create = {
        "postgresql": [f"CREATE ROLE {role} LOGIN PASSWORD '{role}'"],
        "mysql": [f"CREATE USER {role} IDENTIFIED BY '{role}'"],
        "oracle": [f"CREATE USER {role} IDENTIFIED BY {role}", f"GRANT CREATE SESSION TO {role}"],
    }
    for statement in create[adapter.dialect]:
        asyncio.run(server.fetch(statement))
    run_sql(program("sql", "--dialect", adapter.dialect, "--role", role).stdout)
    place = urlsplit(fresh_database)
    dsn = place._replace(netloc=f"{role}:{role}@{place.netloc.rpartition('@')[2]}").geturl()
    options: Any = {"litestar": {"session_table": server.qualified(fresh_database, "litestar_session")}}
    store = adapter.store(adapter.config(pool_config=adapter.pool_config(dsn), extension_config=options))
    asyncio.run(call_every_verb(store))
    if adapter.dialect == "postgresql":
        asyncio.run(server.fetch(f"DROP OWNED BY {role}", fresh_database))
    asyncio.run(server.fetch(f"DROP {'ROLE' if adapter.dialect == 'postgresql' else 'USER'} {role}"))


def test_the_grants_name_the_schema(program: Program) -> None:
    """That the table is in; a database without roles says so in a comment."""
    text = program("sql", "--dialect", "postgresql", "--table", "shop.sessions", "--role", "web").stdout
    assert "GRANT USAGE ON SCHEMA shop TO web;\n" in text
    assert text.endswith("GRANT SELECT, INSERT, UPDATE, DELETE ON shop.sessions TO web;\n")
    assert "GRANT" not in program("sql", "--dialect", "postgresql").stdout

    text = program("sql", "--dialect", "sqlite", "--role", "web").stdout
    assert text.splitlines()[-1].startswith("-- ")


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ([], "which database? Give --config"),
        (["--dialect", "db2"], "'db2' is not one of 'mysql', 'oracle', 'postgresql', 'sqlite'"),
        (["--dialect", "mysql", "--table", "a-b"], "Invalid value for --table: Invalid table name: 'a-b'. Use letters"),
        (["--dialect", "sqlite", "--table", "a.b"], "without a schema on sqlite"),
        (["--dialect", "mysql", "--role", "a; DROP"], "Invalid value for --role: 'a; DROP' would need quotes"),
    ],
)
def test_a_name_that_cannot_stand_in_sql_is_refused(program: Program, arguments: list[str], complaint: str) -> None:
    """Nothing is printed."""
    failed = program("sql", *arguments, code=2)

    assert complaint in failed.complaint
    assert failed.stdout == ""


# stats and prune


async def _fill(store: BaseSQLSpecStore[Any], value: bytes = b"12") -> None:
    async with store:
        await store.create_table()
        await store.set("a", value)
        await store.set("b", b"345", expires_in=0.001)
        await store.with_namespace("child").set_many({"c": b"6", "d": b"7"}, expires_in=0.001)
        await asyncio.sleep(0.05)


@pytest.mark.adapters(*SCHEMES)
def test_rows_are_counted_by_namespace_and_pruned(program: Program, url: str, store: BaseSQLSpecStore[Any]) -> None:
    """In the whole table; JSON and lines have the same numbers."""
    assert program("--url", url, "stats", code=1).complaint.startswith("table litestar_session does not exist")
    asyncio.run(_fill(store))
    columns = ["namespace", "rows", "live", "expired", "bytes", "oldest"]
    listed = json.loads(program("--url", url, "stats", "--json").stdout)
    assert [list(row.values())[:5] for row in listed] == [["LITESTAR", 2, 1, 1, 5], ["LITESTAR/child", 2, 0, 2, 2]]
    assert all(re.fullmatch(r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?\+00:00", row["oldest"]) for row in listed)
    heading, *lines = program("--url", url, "stats").lines
    assert heading == columns == list(listed[0])
    assert [line[:5] for line in lines] == [[str(cell) for cell in list(row.values())[:5]] for row in listed]

    assert program("--url", url, "prune").stdout == "Rows deleted: 3\n"
    assert json.loads(program("--url", url, "prune", "--json").stdout) == {"deleted": 0, "left": 0}
    assert [line[:4] for line in program("--url", url, "stats").lines[1:]] == [["LITESTAR", "1", "1", "0"]]


@pytest.mark.adapters("sqlite")
def test_a_terminal_shows_sizes_for_people(program: Program, url: str, store: BaseSQLSpecStore[Any]) -> None:
    """A script gets bytes."""
    asyncio.run(_fill(store, b"x" * 1_500_000))

    assert re.search(r"LITESTAR +2 +1 +1 +1.5 MB ", program("--url", url, "stats", FORCE_COLOR="1").stdout)
    assert program("--url", url, "stats").lines[1][4] == "1500003"


# doctor


@pytest.mark.adapters(*SCHEMES)
def test_the_doctor_says_what_is_wrong(program: Program, url: str, store: BaseSQLSpecStore[Any]) -> None:
    """With an exit code for scripts."""
    heading, *lines = program("--url", url, "doctor", code=1).lines
    assert heading == ["check", "level", "found", "fix"]
    assert lines[-1][:2] == ["table", "error"]
    asyncio.run(store.create_table())

    assert program("--url", url, "doctor").lines[-1] == ["expired rows", "ok", "0 of 0 rows have expired", "-"]


@pytest.mark.adapters("sqlite")
def test_a_terminal_shows_what_is_well_and_the_fixes(program: Program, url: str) -> None:
    """One line each."""
    lines = program("--url", url, "doctor", code=1, FORCE_COLOR="1").stdout.splitlines()

    assert re.fullmatch(r"ok      server: SQLite [\d.]+", lines[0])
    assert lines[-2:] == [
        "error   table: table litestar_session does not exist",
        "        fix: sqlstore upgrade, as a role that may create it",
    ]


@pytest.mark.parametrize("scheme", ["postgresql", "mysql", "oracle"])
def test_a_server_that_is_not_there_is_one_error(program: Program, scheme: str) -> None:
    """Without the password."""
    ended = program("--url", f"{scheme}://scott:tiger@127.0.0.1:1/d", "doctor", "--json", code=1)
    [finding] = json.loads(ended.stdout)

    assert (finding["check"], finding["level"]) == ("server", "error")
    assert "tiger" not in ended.stdout
