"""When a session ends: as the database says, to the millisecond, and the cookie says the same."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, NamedTuple

import pytest
from litestar import Response, get, put
from litestar.background_tasks import BackgroundTask

from sqlstore.litestar import SQLSessionConfig, save_session

from .sessions import AnyRequest, AnyStore, Kind, application, ours_and_litestars, serving, sessions_of

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from ..conftest import Adapter
    from ..contract.conftest import SQL

pytestmark = pytest.mark.adapters("asyncpg", "sqlite")

CLOSE = 0.01
"""Seconds: the clock that SQLite's SQL can ask shows milliseconds."""


class Row(NamedTuple):
    """A session's row, in seconds by the database's clock."""

    created: float
    updated: float
    expires: float
    now: float


@pytest.fixture
def look(adapter: Adapter, store: AnyStore, sql: SQL) -> Callable[[], Awaitable[Row]]:
    """Return a function that looks at the only session."""
    seconds = "extract(epoch FROM {})::float8" if adapter.networked else "{}"
    now = "statement_timestamp()" if adapter.networked else "(julianday('now') - 2440587.5) * 86400"
    columns = ", ".join(map(seconds.format, ("created_at", "updated_at", "expires_at", now)))

    async def look() -> Row:
        [row] = await sql(f"SELECT {columns} FROM {store.table_name}")  # noqa: S608
        return Row(*row)

    return look


async def test_an_idle_session_ends_when_its_row_does(store: AnyStore, look: Callable[[], Awaitable[Row]]) -> None:
    """Four tenths of a second are neither none nor a whole one."""
    async with serving(application(store, SQLSessionConfig(max_age=0.4, renew_on_access=False))) as site:
        browser = await site.browser()
        await browser.put("/", json={"page": 1})
        row = await look()
        over = False
        while not over:
            # Not the browser's jar, which may have thrown the cookie away already.
            visitor = await site.browser(browser.cookie)
            before = (await look()).now
            session = (await visitor.get("/")).json()
            after = (await look()).now
            over = before > row.expires + CLOSE
            if over or after < row.expires - CLOSE:
                assert session == ({} if over else {"page": 1})

    assert row.expires - row.created == pytest.approx(0.4, abs=CLOSE)


@pytest.mark.parametrize("writing", [False, True], ids=["reading", "writing"])
async def test_nothing_prolongs_a_session_beyond_its_absolute_timeout(
    store: AnyStore, look: Callable[[], Awaitable[Row]], *, writing: bool
) -> None:
    """It ends that long after its creation, although it is never idle."""

    @put("/use")
    async def use(request: AnyRequest) -> bool:
        if writing and request.session:
            request.session["page"] += 1
        return bool(request.session)

    config = SQLSessionConfig(max_age=0.7, absolute_timeout=0.9, touch_after=0)
    async with serving(application(store, config, use)) as site:
        browser = await site.browser()
        await browser.put("/", json={"page": 0})
        cookie = browser.cookie
        rows = [await look()]
        while (await (await site.browser(cookie)).put("/use")).json():
            rows.append(await look())
        last = rows[-1]
        end = (await look()).now

    for row in rows:
        assert row.expires - row.created < 0.9 + CLOSE
        # Not that the last one's is 0.9: on a busy machine the session may have been idle.
        assert row.expires == pytest.approx(min(row.updated + 0.7, row.created + 0.9), abs=0.1)
    assert end > last.expires - CLOSE


@ours_and_litestars
async def test_reading_moves_no_expiry_if_it_is_asked_not_to(
    store: AnyStore, look: Callable[[], Awaitable[Row]], kind: Kind
) -> None:
    """With ``renew_on_access=False`` only writing does."""
    async with serving(application(store, sessions_of(kind, renew_on_access=False, max_age=1000))) as site:
        browser = await site.browser()
        await browser.put("/", json={"page": 1})
        first = await look()
        await browser.get("/")
        second = await look()
        await browser.put("/", json={"page": 2})
        third = await look()

    assert (second.expires == first.expires) is (kind is SQLSessionConfig)
    assert third.expires > first.expires


@pytest.mark.parametrize(
    ("max_age", "absolute_timeout", "seconds"),
    [(1000, None, 1000), (1000, 100, 100), (99.5, None, 100), (0.4, None, 1)],
)
async def test_the_cookie_ends_when_the_session_does(
    store: AnyStore, look: Callable[[], Awaitable[Row]], max_age: float, absolute_timeout: float | None, seconds: int
) -> None:
    """In whole seconds, rounded up: it must not end before."""
    config = SQLSessionConfig(max_age=max_age, absolute_timeout=absolute_timeout)
    async with serving(application(store, config)) as site:
        browser = await site.browser()
        [cookie] = (await browser.put("/", json={"page": 1})).headers.get_list("set-cookie")
        row = await look()

    assert f"Max-Age={seconds}" in cookie.split("; ")
    assert seconds - 1 < row.expires - row.created - CLOSE < seconds


async def test_what_is_saved_after_the_answers_keeps_no_cookie_from_moving(store: AnyStore) -> None:
    """The browser of an active user is told of the expiry as soon as ``touch_after`` has passed since it was."""

    async def count(request: AnyRequest) -> None:
        request.session["page"] += 1
        await save_session(request)

    @get("/use")
    async def use(request: AnyRequest) -> Response[int]:
        return Response(request.session["page"], background=BackgroundTask(count, request))

    async with serving(application(store, SQLSessionConfig(max_age=1000, touch_after=0.0005), use)) as site:
        browser = await site.browser()
        answer = await browser.put("/", json={"page": 1})
        answers: list[str] = []
        for _ in range(100):
            answer = await browser.get("/use")
            answers += answer.headers.get_list("set-cookie")
            if answers:
                break
            await asyncio.sleep(0.02)

    assert answer.json() > 1
    assert any("Max-Age=1000" in cookie for cookie in answers)
