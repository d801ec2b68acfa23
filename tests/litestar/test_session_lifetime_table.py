"""When a session expires: for every combination of the settings, and whatever a request does."""

import asyncio
import math
from collections.abc import AsyncGenerator, Callable
from http.cookies import SimpleCookie
from typing import Any, NamedTuple

import httpx
import pytest
from litestar import Litestar, Request, get

from sqlstore import BaseSQLSpecStore
from sqlstore.litestar import SQLSessionConfig, rotate_session_id, save_session
from sqlstore.session_rows import StoredSession

from ..conftest import Adapter
from ..contract.conftest import SQL

AnyStore = BaseSQLSpecStore[Any]
AnyRequest = Request[Any, Any, Any]

STAYS, IDLE, BOUND, SOONER = "stays", "now + max_age", "created + absolute_timeout", "the sooner of both"


class Row(NamedTuple):
    """What a request does to the expiry of its session; if that moves, or the session is saved, it gets a cookie."""

    renew_on_access: bool
    touch_after: float
    """A request that only reads leaves the expiry alone until this share of ``max_age`` has passed."""
    request: str
    unbounded: str
    """Where the expiry moves without ``absolute_timeout``."""
    longer: str
    """... with one that is longer than ``max_age``."""
    shorter: str
    """... with one that is shorter, which is the expiry from the beginning."""


LIFETIMES: tuple[tuple[Any, ...], ...] = (
    # renew_on_access, touch_after, what the request does, without absolute_timeout, with a longer, with a shorter one
    (True, 0.0, "reads", IDLE, SOONER, STAYS),
    (True, 0.0, "changes", IDLE, SOONER, BOUND),
    (True, 0.0, "save_session", IDLE, SOONER, BOUND),
    (True, 0.0, "rotates", IDLE, SOONER, BOUND),
    (True, 0.1, "reads", IDLE, SOONER, STAYS),
    (True, 0.1, "changes", IDLE, SOONER, BOUND),
    (True, 0.1, "save_session", IDLE, SOONER, BOUND),
    (True, 0.1, "rotates", IDLE, SOONER, BOUND),
    (True, 0.9, "reads", IDLE, SOONER, STAYS),
    (True, 0.9, "changes", IDLE, SOONER, BOUND),
    (True, 0.9, "save_session", IDLE, SOONER, BOUND),
    (True, 0.9, "rotates", IDLE, SOONER, BOUND),
    (False, 0.0, "reads", STAYS, STAYS, STAYS),
    (False, 0.0, "changes", IDLE, SOONER, BOUND),
    (False, 0.0, "save_session", IDLE, SOONER, BOUND),
    (False, 0.0, "rotates", IDLE, SOONER, BOUND),
    (False, 0.1, "reads", STAYS, STAYS, STAYS),
    (False, 0.1, "changes", IDLE, SOONER, BOUND),
    (False, 0.1, "save_session", IDLE, SOONER, BOUND),
    (False, 0.1, "rotates", IDLE, SOONER, BOUND),
    (False, 0.9, "reads", STAYS, STAYS, STAYS),
    (False, 0.9, "changes", IDLE, SOONER, BOUND),
    (False, 0.9, "save_session", IDLE, SOONER, BOUND),
    (False, 0.9, "rotates", IDLE, SOONER, BOUND),
)
# The halves keep what is rounded up away from whole numbers, where a moment would be a second.
MAX_AGE = 1000.5
LONGER, SHORTER = 1500.5, 980.5
PASSED = (0.05, 0.5, 0.95)
"""Shares of ``max_age``."""
CLOSE = 0.002
"""Seconds by which two instants differ that are the same."""


@get("/reads")
async def reads(request: AnyRequest) -> dict[str, Any]:
    """Look at the session."""
    return dict(request.session)


@get("/changes")
async def changes(request: AnyRequest) -> None:
    """Count."""
    request.session["number"] = request.session.get("number", 0) + 1


@get("/save_session")
async def saves(request: AnyRequest) -> None:
    """Count, and save at once."""
    request.session["number"] = request.session.get("number", 0) + 1
    await save_session(request)


@get("/saves-unchanged")
async def saves_unchanged(request: AnyRequest) -> None:
    """Save at once what has not changed."""
    await save_session(request)


@get("/rotates")
async def rotates(request: AnyRequest) -> None:
    """Rotate."""
    rotate_session_id(request)


class Browser:
    """One visitor of an application with sessions of *config*."""

    def __init__(self, store: AnyStore, sql: SQL, adapter: Adapter) -> None:
        """Have no session yet."""
        self.store = store
        self._sql = sql
        self._adapter = adapter
        self.id = ""
        self._config: SQLSessionConfig | None = None
        self._app: Any = None

    async def request(self, config: SQLSessionConfig, path: str) -> int | None:
        """Request *path*, and return the Max-Age of the cookie that is set, if one is."""
        if config is not self._config:
            handlers = [reads, changes, saves, saves_unchanged, rotates]
            self._app = Litestar(handlers, stores={"sessions": self.store}, middleware=[config.middleware])
            self._config = config
        transport = httpx.ASGITransport(self._app)
        cookie = {"Cookie": f"session={self.id}"} if self.id else {}
        async with httpx.AsyncClient(transport=transport, base_url="http://testserver.local") as client:
            response = await client.get(f"/{path}", headers=cookie)
        assert response.status_code == 200, response.text
        cookies = response.headers.get_list("set-cookie")
        assert len(cookies) <= 1
        if not cookies:
            return None
        morsel = SimpleCookie(cookies[0])["session"]
        self.id = morsel.value
        return int(morsel["max-age"])

    async def row(self, config: SQLSessionConfig) -> StoredSession | None:
        """Return the session's row, if it lives."""
        keys = config.keys_of(self.id)
        return next(iter((await config.rows_in(self.store).load(*keys)).values()), None)

    async def live(self, config: SQLSessionConfig) -> StoredSession:
        """Return the session's row."""
        row = await self.row(config)
        assert row
        return row

    async def pass_time(self, seconds: float) -> None:
        """Make all that there is so many *seconds* older."""
        earlier = {
            "mysql": "{} - INTERVAL {} MICROSECOND",
            "oracle": "{} - NUMTODSINTERVAL({} / 1000000, 'SECOND')",
            "postgresql": "{} - INTERVAL '{} microseconds'",
            "sqlite": "{} - {} / 1000000.0",
        }[self._adapter.dialect]
        columns = ("created_at", "updated_at", "expires_at")
        changes = ", ".join(f"{column} = {earlier.format(column, round(seconds * 1e6))}" for column in columns)
        await self._sql(f"UPDATE {self.store.table_name} SET {changes}")  # noqa: S608


@pytest.fixture
async def browser(store: AnyStore, sql: SQL, adapter: Adapter) -> AsyncGenerator[Browser, None]:
    """Give a visitor."""
    async with store:
        yield Browser(store, sql, adapter)


def _agrees(max_age: int | None, row: StoredSession) -> bool:
    """Return whether a cookie's Max-Age is the time that *row* had when its expiry was moved, rounded up."""
    assert row.expires_at
    left = row.expires_at - row.updated_at
    # The application tells the time since it has read the row by another clock.
    return max_age is not None and math.ceil(left - 0.3) <= max_age <= math.ceil(left + 0.3)


def _moved(where: str, before: StoredSession, row: StoredSession, absolute: float | None) -> float:
    idle, bound = row.updated_at + MAX_AGE, row.created_at + (absolute or math.inf)
    expires: dict[str, float | None] = {
        STAYS: before.expires_at,
        IDLE: idle,
        BOUND: bound,
        SOONER: min(idle, bound),
    }
    found = expires[where]
    assert found
    return found


@pytest.mark.parametrize(
    "case", [Row(*row) for row in LIFETIMES], ids=lambda row: f"{row.renew_on_access}-{row.touch_after}-{row.request}"
)
@pytest.mark.adapters("asyncpg", "sqlite")
async def test_a_session_expires_as_the_table_says(browser: Browser, case: Row) -> None:
    """By the database's clock; the cookie expires with it."""
    for absolute, where in ((None, case.unbounded), (LONGER, case.longer), (SHORTER, case.shorter)):
        for passed in PASSED:
            config = SQLSessionConfig(
                max_age=MAX_AGE,
                absolute_timeout=absolute,
                renew_on_access=case.renew_on_access,
                touch_after=case.touch_after,
            )
            browser.id = ""
            first = await browser.request(config, "changes")
            assert _agrees(first, await browser.live(config))
            await browser.pass_time(passed * MAX_AGE)
            before, id_before = await browser.live(config), browser.id
            max_age = await browser.request(config, case.request)

            row = await browser.live(config)
            early = case.request == "reads" and passed < case.touch_after
            expected = _moved(STAYS if early else where, before, row, absolute)
            assert row.expires_at == pytest.approx(expected, abs=CLOSE), (absolute, passed)
            assert row.created_at == before.created_at
            assert (browser.id != id_before) is (case.request == "rotates")
            if early or where == STAYS:
                assert max_age is None
                assert row == before._replace(now=row.now)
            else:
                assert _agrees(max_age, row)


@pytest.mark.parametrize("absolute", [None, LONGER, SHORTER])
@pytest.mark.parametrize("request_", ["reads", "changes", "rotates"])
async def test_every_database_moves_the_expiry_alike(browser: Browser, request_: str, absolute: float | None) -> None:
    """After half of ``max_age``, twice."""
    config = SQLSessionConfig(max_age=MAX_AGE, absolute_timeout=absolute)
    await browser.request(config, "changes")
    created = (await browser.live(config)).created_at
    for age in (400, 800):
        await browser.pass_time(400)
        before = await browser.live(config)
        await browser.request(config, request_)

        row = await browser.live(config)
        where = SOONER if request_ != "reads" or absolute != SHORTER else STAYS
        assert row.created_at == pytest.approx(created - age, abs=CLOSE)
        assert row.expires_at == pytest.approx(_moved(where, before, row, absolute), abs=CLOSE)


@pytest.mark.adapters("asyncpg", "sqlite")
async def test_saving_what_has_not_changed_is_reading(browser: Browser) -> None:
    """It moves the expiry with the response, if it is time."""
    config = SQLSessionConfig(max_age=MAX_AGE)
    await browser.request(config, "changes")
    for seconds, moves in ((50.0, False), (100.0, True)):
        await browser.pass_time(seconds)
        before = await browser.live(config)

        assert (await browser.request(config, "saves-unchanged") is not None) is moves
        assert (before.updated_at != (await browser.live(config)).updated_at) is moves
    await browser.pass_time(500)
    config = SQLSessionConfig(max_age=MAX_AGE, renew_on_access=False)
    assert await browser.request(config, "saves-unchanged") is None


@pytest.mark.adapters("asyncpg", "sqlite")
async def test_with_touch_after_nearly_all_that_is_used_lives_as_long_as_it_may(browser: Browser) -> None:
    """The last move before ``absolute_timeout`` is a short one, and it is made nevertheless."""
    config = SQLSessionConfig(max_age=100.5, absolute_timeout=150.5, touch_after=0.9)
    await browser.request(config, "changes")
    await browser.pass_time(95)
    assert await browser.request(config, "reads")

    await browser.pass_time(54)
    assert await browser.row(config)
    assert await browser.request(config, "reads") is None
    await browser.pass_time(2)
    assert await browser.row(config) is None


@pytest.mark.parametrize("request_", ["reads", "changes", "rotates"])
@pytest.mark.parametrize("renew_on_access", [True, False])
@pytest.mark.adapters("asyncpg", "sqlite")
async def test_a_shorter_max_age_shortens_old_sessions_at_their_next_use(
    browser: Browser, *, request_: str, renew_on_access: bool
) -> None:
    """Also by less than ``touch_after`` would move it; where reading moves nothing, saving does."""
    config = SQLSessionConfig(max_age=1000.5)
    await browser.request(config, "changes")
    for shorter in (980.5, 10.5, 9.5, 0.5):
        config = SQLSessionConfig(max_age=shorter, renew_on_access=renew_on_access)
        max_age = await browser.request(config, request_)

        row = await browser.live(config)
        assert row.expires_at
        if request_ == "reads" and not renew_on_access:
            assert max_age is None
            assert row.expires_at - row.created_at == pytest.approx(1000.5, abs=CLOSE)
        else:
            assert row.expires_at - row.updated_at == pytest.approx(shorter, abs=CLOSE)
            assert _agrees(max_age, row)


@pytest.mark.adapters("asyncpg", "sqlite")
async def test_a_longer_max_age_lengthens_old_sessions_at_their_next_use(browser: Browser) -> None:
    """Although little of the new one has passed, when they would end by the old one."""
    await browser.request(SQLSessionConfig(max_age=10), "changes")
    await browser.pass_time(5)
    config = SQLSessionConfig(max_age=1000.5)

    assert await browser.request(config, "reads") == 1001
    assert (await browser.live(config)).expires_at == pytest.approx((await browser.live(config)).now + 1000.5, abs=5)


@pytest.mark.parametrize("absolute", [995.5, 510.5])
@pytest.mark.adapters("asyncpg", "sqlite")
async def test_a_new_absolute_timeout_bounds_old_sessions_at_their_next_use(browser: Browser, absolute: float) -> None:
    """However little it shortens them."""
    await browser.request(SQLSessionConfig(max_age=1000.5), "changes")
    await browser.pass_time(500)
    config = SQLSessionConfig(max_age=1000.5, absolute_timeout=absolute)
    max_age = await browser.request(config, "reads")

    row = await browser.live(config)
    assert row.expires_at == pytest.approx(row.created_at + absolute, abs=CLOSE)
    assert _agrees(max_age, row)


@pytest.mark.parametrize("renew_on_access", [True, False])
@pytest.mark.adapters("asyncpg", "sqlite")
async def test_who_is_older_than_a_new_absolute_timeout_is_nobody(browser: Browser, *, renew_on_access: bool) -> None:
    """At once: nobody asks such a session anything any more, and nothing renews it."""
    await browser.request(SQLSessionConfig(max_age=1000.5), "changes")
    await browser.pass_time(500)
    config = SQLSessionConfig(max_age=1000.5, absolute_timeout=400, renew_on_access=renew_on_access)
    old = browser.id

    await browser.request(config, "changes")
    assert browser.id != old
    row = await browser.live(config)
    assert row.data == b'{"number":1}'


async def _until_gone(browser: Browser, config: SQLSessionConfig, between: Callable[[], Any]) -> list[StoredSession]:
    """Return how the session was, again and again, until it was no more."""
    seen = [await browser.live(config)]
    async with asyncio.timeout(30):
        # What changes a session that is no more begins another.
        while (row := await browser.row(config)) and row.created_at == seen[0].created_at:
            seen.append(row)
            await between()
    return seen


async def test_a_session_ends_a_fraction_of_a_second_after_its_last_use(browser: Browser) -> None:
    """By the database's clock; its cookie lives for the whole second."""
    config = SQLSessionConfig(max_age=0.5)
    assert await browser.request(config, "changes") == 1
    [*_, last] = await _until_gone(browser, config, lambda: asyncio.sleep(0.01))

    assert last.now < last.created_at + 0.5
    assert last.expires_at == pytest.approx(last.created_at + 0.5, abs=CLOSE)
    assert await browser.request(config, "reads") is None


@pytest.mark.parametrize("request_", ["reads", "changes", "rotates"])
async def test_nothing_lives_longer_than_its_absolute_timeout(browser: Browser, request_: str) -> None:
    """However much it is used, by the database's clock."""
    config = SQLSessionConfig(max_age=20, absolute_timeout=0.7, touch_after=0)
    await browser.request(config, "changes")
    seen = await _until_gone(browser, config, lambda: browser.request(config, request_))

    assert all(row.now < row.created_at + 0.7 for row in seen)
    assert seen[-1].expires_at == pytest.approx(seen[0].created_at + 0.7, abs=CLOSE)
