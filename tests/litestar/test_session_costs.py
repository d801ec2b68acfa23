"""What a request costs: the statements that arrive at the database, and the cookies that arrive in the browser."""

from __future__ import annotations

import asyncio
import sqlite3
from collections import Counter
from http.cookiejar import DefaultCookiePolicy
from typing import TYPE_CHECKING, Any, Protocol

import pytest
from litestar.middleware.session.server_side import ServerSideSessionConfig

from sqlstore.litestar import SQLSessionConfig

from .. import servers
from .sessions import AnyStore, Kind, application, ours_and_litestars, rows, serving, sessions_of

if TYPE_CHECKING:
    from collections.abc import Generator
    from pathlib import Path

    from ..conftest import Adapter, MakeStore
    from ..contract.conftest import SQL
    from ..servers import Server
    from .sessions import Served

pytestmark = pytest.mark.adapters("asyncpg", "sqlite")


class Statements(Protocol):
    """Return how many of each kind the database has seen since it was asked before: ``{"SELECT": 1}``."""

    async def __call__(self) -> dict[str, int]:
        """See above."""
        ...


class Counted:
    """A store alone in its database, and the statements that arrive there."""

    def __init__(self, store: AnyStore, dsn: str, statements: Statements) -> None:
        self.store = store
        self.dsn = dsn
        self.statements = statements


@pytest.fixture(scope="module")
def counting_postgresql() -> Generator[Server, None, None]:
    """Give a server that counts its statements."""
    try:
        server = servers.PostgreSQL.private()
    except (OSError, RuntimeError) as error:
        servers.missing(servers.PostgreSQL, str(error))
    try:
        asyncio.run(server.fetch("ALTER SYSTEM SET shared_preload_libraries = pg_stat_statements"))
        server.stop()
        server.start()
        asyncio.run(server.fetch("CREATE EXTENSION pg_stat_statements"))
        yield server
    finally:
        server.close()


@pytest.fixture
def _counting_server(adapter: Adapter, request: pytest.FixtureRequest) -> Server | None:
    return request.getfixturevalue("counting_postgresql") if adapter.networked else None


@pytest.fixture
async def counted(
    _counting_server: Server | None, make_store: MakeStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Counted:
    """Return a store in a database of its own."""
    seen: list[str] = []
    if _counting_server is None:
        connect = sqlite3.connect

        def traced(*arguments: Any, **options: Any) -> sqlite3.Connection:  # noqa: ANN401 - the adapter's own
            connection: sqlite3.Connection = connect(*arguments, **options)
            connection.set_trace_callback(seen.append)
            return connection

        monkeypatch.setattr(sqlite3, "connect", traced)
        dsn = str(tmp_path / "counted.db")
    else:
        dsn = await _counting_server.create_database()
    store = make_store(dsn=dsn)
    await store.create_table()

    async def statements() -> dict[str, int]:
        if _counting_server is None:
            texts = seen[:]
            seen.clear()
            # Where there is a transaction around a single write it costs no round trip.
            return Counter(word for text in texts if (word := text.split()[0]) not in {"BEGIN", "COMMIT"})
        calls = await _counting_server.fetch(
            "SELECT query, calls FROM pg_stat_statements JOIN pg_database ON oid = dbid "  # noqa: S608
            f"WHERE datname = '{dsn.rpartition('/')[2]}'"
        )
        await _counting_server.fetch("SELECT pg_stat_statements_reset()")
        counter: Counter[str] = Counter()
        for text, count in calls:
            counter[text.split()[0]] += count
        return counter

    return Counted(store, dsn, statements)


@ours_and_litestars
async def test_a_thousand_anonymous_visits_leave_nothing(counted: Counted, sql: SQL, kind: Kind) -> None:
    """No row, no cookie, no statement."""
    store = counted.store
    async with serving(application(store, sessions_of(kind))) as site:
        browser = await site.browser()
        browser.cookies.jar.set_policy(DefaultCookiePolicy(allowed_domains=[]))  # it keeps none
        await counted.statements()

        async def visit() -> list[int]:
            answers = [await browser.get("/") for _ in range(50)]
            assert {answer.status_code for answer in answers} == {200}
            return [len(answer.headers.get_list("set-cookie")) for answer in answers]

        cookies = sum(map(sum, await asyncio.gather(*(visit() for _ in range(20)))))
        statements = await counted.statements()

    if kind is SQLSessionConfig:
        assert (cookies, statements, await rows(store, sql, counted.dsn)) == (0, {}, 0)
    else:
        assert (cookies, statements != {}, await rows(store, sql, counted.dsn)) == (1000, True, 1000)


READ, WRITE, CREATE, DELETE = {"SELECT": 1}, {"UPDATE": 1}, {"INSERT": 1}, {"DELETE": 1}
NOTHING: dict[str, int] = {}


@pytest.mark.parametrize(
    ("cookie", "visit", "cost", "cookies"),
    [
        pytest.param("none", ("GET", "/"), NOTHING, 0, id="an anonymous visit"),
        pytest.param("none", ("DELETE", "/"), NOTHING, 0, id="clearing no session"),
        pytest.param("unknown", ("GET", "/"), READ, 0, id="an unknown id"),
        pytest.param("unknown", ("DELETE", "/"), READ, 0, id="clearing what an unknown id stands for"),
        pytest.param("Ada's", ("GET", "/"), READ, 0, id="reading"),
        pytest.param("Ada's", ("PUT", "/", NOTHING), READ, 0, id="writing nothing"),
        pytest.param("Ada's", ("PUT", "/", {"page": 1}), READ, 0, id="writing what is there"),
        pytest.param("Ada's", ("PUT", "/", {"page": 2}), READ | WRITE, 1, id="writing"),
        pytest.param("Ada's", ("PUT", "/login", "Bob"), READ | WRITE, 1, id="a new principal"),
        pytest.param("Ada's", ("DELETE", "/"), READ | DELETE, 1, id="logging out"),
        pytest.param("none", ("PUT", "/", {"page": 1}), CREATE, 1, id="a new session"),
        pytest.param("unknown", ("PUT", "/", {"page": 1}), READ | CREATE, 1, id="a new session after an old one"),
    ],
)
async def test_a_request_costs_no_statement_and_no_cookie_too_many(
    counted: Counted, cookie: str, visit: tuple[Any, ...], cost: dict[str, int], cookies: int
) -> None:
    """One SELECT with a cookie and none without, one write if there is something to write, and then a cookie."""
    statements, headers = await costs(counted, SQLSessionConfig, cookie, visit)

    assert statements == cost
    assert len(headers) == cookies


@pytest.mark.parametrize(("cookie", "cost"), [(None, NOTHING), ("unknown", READ)], ids=["no id", "an unknown id"])
async def test_who_is_not_let_in_costs_no_write_and_gets_no_cookie(
    counted: Counted, cookie: str | None, cost: dict[str, int]
) -> None:
    """SessionAuth clears the session of whoever it refuses; there is none."""
    async with serving(application(counted.store, sessions_of(SQLSessionConfig), auth=True)) as site:
        await warm(site)
        browser = await site.browser(cookie)
        await counted.statements()
        answer = await browser.get("/")
        statements = await counted.statements()

    assert (answer.status_code, "set-cookie" in answer.headers) == (401, False)
    assert statements == cost


@pytest.mark.parametrize(
    ("cookie", "visit", "writes"),
    [
        pytest.param("none", ("GET", "/"), 1, id="an anonymous visit"),
        pytest.param("none", ("DELETE", "/"), 1, id="clearing no session"),
        pytest.param("unknown", ("GET", "/"), 1, id="an unknown id"),
        pytest.param("Ada's", ("GET", "/"), 1, id="reading"),
    ],
)
async def test_litestars_own_middleware_writes_at_each_request(
    counted: Counted, cookie: str, visit: tuple[Any, ...], writes: int
) -> None:
    """That is what the test before is about."""
    statements, headers = await costs(counted, ServerSideSessionConfig, cookie, visit)

    assert sum(statements.values()) - statements.get("SELECT", 0) == writes
    assert len(headers) == 1


async def warm(site: Served) -> None:
    """Let everything be done once: connections are opened, and statements prepared, when they are needed."""
    for _ in range(2):
        browser = await site.browser()
        await browser.put("/", json={"page": 1})
        await browser.put("/login", json="Ada")
        await browser.put("/", json={"page": 2})
        await browser.get("/")
        await browser.delete("/")


async def costs(counted: Counted, kind: Kind, cookie: str, visit: tuple[Any, ...]) -> tuple[dict[str, int], list[str]]:
    """Return the statements and the cookies of one *visit*: its method, its path, and its content if it has any."""
    async with serving(application(counted.store, sessions_of(kind))) as site:
        await warm(site)
        browser = await site.browser("unknown" if cookie == "unknown" else None)
        if cookie == "Ada's":
            await browser.put("/login", json="Ada")
            await browser.put("/", json={"page": 1})
        await counted.statements()
        method, url, *content = visit
        answer = await browser.request(method, url, json=content[0] if content else None)
        assert answer.is_success
        return await counted.statements(), answer.headers.get_list("set-cookie")


@pytest.mark.parametrize(("touch_after", "touches"), [(0, True), (0.5, False)])
async def test_reading_moves_the_expiry_only_when_it_is_time(
    counted: Counted, sql: SQL, touch_after: float, *, touches: bool
) -> None:
    """That is one write more, and a cookie with the new expiry."""
    expiry = f"SELECT expires_at FROM {counted.store.table_name}"  # noqa: S608
    async with serving(application(counted.store, SQLSessionConfig(touch_after=touch_after))) as site:
        await warm(site)
        browser = await site.browser()
        await browser.put("/", json={"page": 1})
        before = await sql(expiry, counted.dsn)
        await counted.statements()
        answer = await browser.get("/")
        statements = await counted.statements()
        after = await sql(expiry, counted.dsn)

    assert statements == (READ | WRITE if touches else READ)
    assert ("set-cookie" in answer.headers, after > before) == (touches, touches)
