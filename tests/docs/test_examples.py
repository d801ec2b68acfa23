"""Run the examples that the pages include."""

from __future__ import annotations

import asyncio
import re
import runpy
import sqlite3
import subprocess
import sys
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest
from litestar import Litestar
from litestar.testing import TestClient

from ..servers import oracle_options
from .pages import PAGES, ROOT, fences

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from sqlstore.adapters.sqlite import SqliteStore

    Run = Callable[[str], dict[str, Any]]

EXAMPLES = ROOT / "examples"
RUN_HERE = {
    "aiosqlite_connection.py",
    "asyncmy_options.py",
    "asyncpg_options.py",
    "asyncpg_pool.py",
    "asyncpg_store.py",
    "errors.py",
    "one_table.py",
    "oracledb_options.py",
    "prune.py",
    "psycopg_options.py",
    "sqlite_options.py",
    "telemetry.py",
}


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Return a function that runs an example in an empty directory and returns its names."""
    monkeypatch.chdir(tmp_path)
    return lambda name: runpy.run_path(str(EXAMPLES / name))


def printed(name: str, directory: Path) -> str:
    """Return what an example prints that is run in *directory* as a script."""
    return subprocess.run(
        [sys.executable, EXAMPLES / name], cwd=directory, capture_output=True, text=True, check=True
    ).stdout


def test_the_included_examples_are_those_that_run_here() -> None:
    """No page shows one that no test runs."""
    included = {fence.info.split()[1].lstrip("./") for page in PAGES for fence in fences(page, "{literalinclude}")}

    assert included == {f"examples/{name}" for name in RUN_HERE}


def test_one_table_holds_sessions_cache_and_limits(run: Run) -> None:
    """The session counts on after a restart, the report comes from the cache, and each is a namespace."""
    with TestClient[Litestar](run("one_table.py")["app"]) as browser:
        first = browser.get("/").text, browser.get("/report").text
        cookies = browser.cookies
    with TestClient[Litestar](run("one_table.py")["app"], cookies=cookies) as browser:
        second = browser.get("/").text, browser.get("/report").text
        limit = browser.get("/").headers["RateLimit-Remaining"]

    assert (first[0], second[0]) == ("1", "2")
    assert first[1] == second[1]
    assert limit == "95"


@pytest.mark.adapters("asyncpg")
def test_one_table_moves_to_postgresql(
    fresh_database: str, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the import and the store of the other example in the place of its own, and no other change."""
    monkeypatch.setenv("DATABASE_URL", fresh_database)
    app = EXAMPLES.joinpath("one_table.py").read_text("utf-8")
    rest, places = re.subn(r"^(from sqlstore|store =).*\n", "", app, flags=re.MULTILINE)
    moved = tmp_path / "moved.py"
    moved.write_text(EXAMPLES.joinpath("asyncpg_store.py").read_text("utf-8") + rest)
    with TestClient[Litestar](run(str(moved))["app"]) as browser:
        visits = [browser.get("/").text for _ in range(2)]

    assert visits == ["1", "2"]
    assert places == 2


async def test_pruning_deletes_what_has_expired(run: Run) -> None:
    """The row of an expired value goes although nobody asks for its key; the others stay."""
    example = run("prune.py")
    store: SqliteStore = example["store"]
    await store.create_table()
    await store.set("over", b"", expires_in=0.01)
    await store.set("alive", b"", expires_in=100)
    await asyncio.sleep(0.02)
    with closing(sqlite3.connect("app.db")) as connection:
        async with example["app"].lifespan():
            while (keys := connection.execute("SELECT session_id FROM litestar_session").fetchall()) != [("alive",)]:
                assert ("alive",) in keys
                await asyncio.sleep(0.01)

    assert keys == [("alive",)]


@pytest.mark.adapters("asyncpg")
def test_a_script_makes_the_table_in_postgresql(
    fresh_database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With its schema in front."""
    monkeypatch.setenv("DATABASE_URL", fresh_database)

    assert printed("asyncpg_options.py", tmp_path) == "public.shop_sessions is ready\n"


@pytest.mark.adapters("asyncmy_mariadb", "asyncmy_mysql")
def test_a_script_makes_the_table_in_mysql(
    fresh_database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And in MariaDB."""
    monkeypatch.setenv("DATABASE_URL", fresh_database)

    assert printed("asyncmy_options.py", tmp_path) == "shop_sessions is ready\n"


@pytest.mark.adapters("psycopg")
def test_two_drivers_reach_the_same_table(fresh_database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What one connection wrote, one of the other kind reads."""
    monkeypatch.setenv("DATABASE_URL", fresh_database)

    assert printed("psycopg_options.py", tmp_path) == "b'hello'\n"


@pytest.mark.adapters("oracle")
def test_a_script_reads_what_another_oracledb_wrote(
    fresh_database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What one connection wrote, one of the other kind reads."""
    for name, value in oracle_options(fresh_database).items():
        monkeypatch.setenv(f"ORACLE_{name.upper()}", str(value))

    assert printed("oracledb_options.py", tmp_path) == "b'hello'\n"


def test_a_script_makes_the_table_in_sqlite(tmp_path: Path) -> None:
    """In the file that it names."""
    assert printed("sqlite_options.py", tmp_path) == "shop_sessions is ready\n"
    assert tmp_path.joinpath("shop.db").exists()


def test_a_script_counts_through_aiosqlite(tmp_path: Path) -> None:
    """The application's connection sees the row of the store's."""
    assert printed("aiosqlite_connection.py", tmp_path) == "(1,)\n"


@pytest.mark.adapters("asyncpg")
def test_an_application_and_its_store_share_a_pool(
    fresh_database: str, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both work, and both close, as often as the application is started."""
    monkeypatch.setenv("DATABASE_URL", fresh_database)
    app = run("asyncpg_pool.py")["app"]
    with TestClient[Litestar](app) as browser:
        first = browser.get("/").text
        cookies = browser.cookies
    with TestClient[Litestar](app, cookies=cookies) as browser:
        second = browser.get("/").text

    assert first.startswith("visit 1, PostgreSQL ")
    assert second == first.replace("visit 1", "visit 2")


def test_a_database_that_is_away_is_answered_with_503(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """The client learns why, and when to ask again."""
    monkeypatch.setenv("DATABASE_URL", "postgresql://127.0.0.1:1/app")
    with TestClient[Litestar](run("errors.py")["app"]) as browser:
        answer = browser.get("/hits")

    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "5")
    assert "check pool_config" in answer.json()["detail"]


def test_a_script_prints_the_spans_of_its_calls(tmp_path: Path) -> None:
    """Each with its parent, and how it ended."""
    assert printed("telemetry.py", tmp_path).splitlines() == [
        "set litestar_session, in the request: UNSET",
        "get litestar_session, in the request: UNSET",
        "incr litestar_session, in the request: CounterError",
        "request",
    ]
