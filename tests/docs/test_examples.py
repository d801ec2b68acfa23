"""Run the examples that the pages include."""

from __future__ import annotations

import asyncio
import re
import runpy
import sqlite3
import subprocess
import sys
import threading
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest
from litestar import Litestar
from litestar.testing import TestClient

from ..servers import oracle_options
from .pages import PAGES, ROOT, codes, fences, table

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from sqlstore.adapters.sqlite import SqliteStore

    Run = Callable[[str], dict[str, Any]]

EXAMPLES = ROOT / "examples"
RUN_HERE = {
    "aiosqlite_connection.py",
    "asyncmy_options.py",
    "asyncpg_config.py",
    "asyncpg_options.py",
    "asyncpg_pool.py",
    "db_connection.py",
    "error_answers.py",
    "errors.py",
    "guards.py",
    "health.py",
    "logins.py",
    "one_table.py",
    "oracledb_options.py",
    "outside_requests.py",
    "plugin.py",
    "prune.py",
    "psycopg_options.py",
    "sockets.py",
    "sqlite_options.py",
    "sync_session.py",
    "telemetry.py",
    "transactions.py",
    "two_databases.py",
}


RUN_ELSEWHERE = {"alembic_env.py", "books_app.py", "ci/migrations.yml", "quickstart.py"}
"""In tests/examples/ and test_cli_page.py; and the files in docs/import/ in test_import.py."""


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

    assert included == {f"examples/{name}" for name in RUN_HERE | RUN_ELSEWHERE} | {
        f"import/{dialect}.sql" for dialect in ("mysql", "oracle", "postgresql", "sqlite")
    }


def test_the_page_of_examples_has_each() -> None:
    """The files of the folder are those of its tables."""
    named = {codes(row[0])[0] for row in table("examples.md", "Example")}

    assert named == {
        path.relative_to(EXAMPLES).as_posix() for path in EXAMPLES.rglob("*") if path.suffix in {".py", ".yml"}
    }


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


def test_logins_are_listed_and_revoked(run: Run) -> None:
    """A failed login is counted, a successful one is listed, and ends when it is revoked from elsewhere."""
    right = {"name": "ada", "password": "for-example"}
    logins = run("logins.py")
    with TestClient[Litestar](logins["app"], session_config=logins["sessions"]) as browser:
        assert browser.post("/login", json=right).status_code == 201
        phone = browser.cookies["session"]
        browser.cookies.clear()
        assert browser.post("/login", json=right | {"password": "wrong"}).status_code == 401
        assert browser.get_session_data() == {"failures": 1}
        assert browser.post("/login", json=right).status_code == 201
        [there] = [device["id"] for device in browser.get("/devices").json() if not device["here"]]
        assert [browser.delete(f"/devices/{there}").status_code for _ in range(2)] == [204, 404]
        assert browser.get("/devices", headers={"Cookie": f"session={phone}"}).status_code == 401
        assert browser.post("/password", json={"password": "new"}).json() == {"logged_out": 0}

        assert [device["here"] for device in browser.get("/devices").json()] == [True]


@pytest.mark.adapters("asyncpg")
def test_one_table_moves_to_postgresql(
    fresh_database: str, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the import and the config of the other example in the place of its own, and no other change."""
    monkeypatch.setenv("DATABASE_URL", fresh_database)
    app = EXAMPLES.joinpath("one_table.py").read_text("utf-8")
    rest, places = re.subn(r"^(from sqlstore\.adapters|config =).*\n", "", app, flags=re.MULTILINE)
    moved = tmp_path / "moved.py"
    moved.write_text(EXAMPLES.joinpath("asyncpg_config.py").read_text("utf-8") + rest)
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


def test_a_handler_is_given_a_session(run: Run) -> None:
    """What it returns are rows in the type that it asked for; what is not there is a 404."""
    with TestClient[Litestar](run("plugin.py")["app"]) as client:
        added = [client.post("/notes", json={"text": text}) for text in ("one", "two")]
        notes = client.get("/notes").json()
        answers = client.get("/notes/2"), client.get("/notes/3")

    assert [answer.status_code for answer in added] == [201, 201]
    assert notes == [{"id": 1, "text": "one"}, {"id": 2, "text": "two"}]
    assert [answer.status_code for answer in answers] == [200, 404]
    assert answers[0].json() == notes[1]


def test_a_handler_is_given_the_drivers_connection(run: Run) -> None:
    """It sees the table of the stores, which is there when the application has started."""
    with TestClient[Litestar](run("db_connection.py")["app"]) as client:
        assert client.get("/tables").json() == ["litestar_session"]


def test_a_synchronous_handler_is_given_a_synchronous_session(run: Run) -> None:
    """What one request stores, the next one reads."""
    with TestClient[Litestar](run("sync_session.py")["app"]) as client:
        numbers = [client.post("/visits").json() for _ in range(2)]
        times = client.get("/visits").json()

    assert numbers == [1, 2]
    assert len(times) == 2


def test_guards_and_middleware_share_the_requests_transaction(run: Run) -> None:
    """A request that the guard refuses has not been logged by the middleware."""
    with TestClient[Litestar](run("guards.py")["app"]) as client:
        refused = client.post("/jobs", headers={"X-API-Key": "none"})
        passed = client.post("/jobs", headers={"X-API-Key": "for-example"})
    with closing(sqlite3.connect("jobs.db")) as connection:
        logged = connection.execute("SELECT path FROM log").fetchall()

    assert (refused.status_code, passed.status_code) == (401, 201)
    assert logged == [("/jobs",)]


def test_a_script_needs_no_request(tmp_path: Path) -> None:
    """It streams what it has not committed yet, and sees it in its next transaction."""
    assert printed("outside_requests.py", tmp_path).splitlines() == [
        "{'id': 1, 'text': 'one'}",
        "{'id': 2, 'text': 'two'}",
        "2",
    ]


def test_an_application_has_two_databases(run: Run) -> None:
    """A handler uses both, and only one has the table of the stores."""
    example = run("two_databases.py")
    with TestClient[Litestar](example["app"]) as client:
        with closing(sqlite3.connect("shop.db")) as shop:
            shop.execute("INSERT INTO orders (item) VALUES ('pen')")
            shop.commit()
        moved = client.post("/archive").json()
    with closing(sqlite3.connect("shop.db")) as shop, closing(sqlite3.connect("archive.db")) as archive:
        left = [connection.execute("SELECT * FROM orders").fetchall() for connection in (shop, archive)]
        tables = [
            connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table' ORDER BY 1").fetchall()
            for connection in (shop, archive)
        ]

    assert moved == 1
    assert left == [[], [(1, "pen")]]
    assert tables == [[("litestar_session",), ("orders",)], [("orders",)]]


def test_a_load_balancer_is_told_how_a_database_is(run: Run) -> None:
    """A database that lacks its table is not well."""
    with TestClient[Litestar](run("health.py")["app"]) as client, closing(sqlite3.connect("app.db")) as connection:
        answers = [client.get("/health")]
        connection.execute("DROP TABLE litestar_session")
        answers.append(client.get("/health"))

    assert [(answer.status_code, answer.json()) for answer in answers] == [
        (200, {"default": "well"}),
        (503, {"default": "not available"}),
    ]


def test_messages_of_a_socket_are_stored_one_by_one(run: Run) -> None:
    """Each has been committed when its answer comes, while the socket is open."""
    with TestClient[Litestar](run("sockets.py")["app"]) as client, client.websocket_connect("/chat") as socket:
        counts: list[object] = []
        for number in (1, 2):
            socket.send_text("hello")
            counts.append(socket.receive_json())
            with closing(sqlite3.connect("chat.db")) as connection:
                counts.append(*connection.execute("SELECT count(*) FROM messages").fetchone())

            assert counts[-2:] == [number, number]


def test_an_application_answers_in_its_own_way(run: Run) -> None:
    """Its handlers go before the plugin's, on a route and on the whole."""
    with (
        TestClient[Litestar](run("error_answers.py")["app"]) as client,
        closing(sqlite3.connect("names.db", isolation_level=None)) as other,
    ):
        answers = [client.post("/names/ada") for _ in range(2)]
        other.execute("BEGIN IMMEDIATE")
        answers.append(client.post("/names/bob"))

    assert [answer.status_code for answer in answers] == [201, 409, 503]
    assert answers[1].json() == {"error": "this name is taken"}
    assert answers[2].headers["Retry-After"] == "5"


def test_a_route_chooses_how_it_commits(run: Run) -> None:
    """All or nothing; all but some; one moment; again and again."""
    with (
        TestClient[Litestar](run("transactions.py")["app"]) as client,
        closing(sqlite3.connect("accounts.db", check_same_thread=False)) as other,
    ):
        opened = [client.post("/accounts", json=names).json() for names in (["ada", "bob"], ["bob", "eve"])]
        openings = other.execute("SELECT name FROM openings").fetchall()
        transfers = [
            client.post("/transfers", json={"source": "ada", "target": "bob", "cents": cents}).status_code
            for cents in (9000, 1001)
        ]
        balances = other.execute("SELECT cents FROM accounts ORDER BY name").fetchall()
        sums = client.get("/total").json()
        other.execute("BEGIN IMMEDIATE")
        threading.Timer(1.2, other.rollback).start()
        paid = client.post("/interest/10")

    assert opened == [["ada", "bob"], ["eve"]]
    assert openings == [("ada",), ("bob",), ("eve",)]
    assert transfers == [201, 400]
    assert balances == [(1000,), (19000,), (10000,)]
    assert sums == {"accounts": 3, "cents": 30000}
    assert (paid.status_code, paid.json()) == (201, 3)
