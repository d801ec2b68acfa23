"""Requests of one browser that overlap: whatever their order, nothing is lost and nobody is logged in by accident."""

from __future__ import annotations

import asyncio
import secrets
from typing import TYPE_CHECKING, Any

import pytest
from litestar import put
from litestar.middleware.session.server_side import ServerSideSessionConfig

from sqlstore.litestar import SessionConflictError, SQLSessionConfig

from .sessions import (
    AnyRequest,
    AnyStore,
    Kind,
    apologise,
    application,
    ours_and_litestars,
    rows,
    serving,
    sessions_of,
)

if TYPE_CHECKING:
    from ..contract.conftest import SQL
    from .sessions import Browser, Place, Served

pytestmark = pytest.mark.adapters("asyncpg", "sqlite")


@ours_and_litestars
async def test_a_slow_reader_undoes_no_write(store: AnyStore, kind: Kind) -> None:
    """What was written while it read is still there when it has answered."""
    async with serving(application(store, sessions_of(kind))) as site:
        browser = await site.browser()
        await browser.put("/", json={"first": 1})
        slow = await browser.hold("GET", "/")
        await browser.put("/", json={"second": 2})
        await slow.release()
        kept = (await browser.get("/")).json()

    assert kept == ({"first": 1, "second": 2} if kind is SQLSessionConfig else {"first": 1})


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        pytest.param(SQLSessionConfig, {"on_conflict": "merge"}, id="merge"),
        pytest.param(SQLSessionConfig, {"on_conflict": "last_wins"}, id="last_wins"),
        pytest.param(SQLSessionConfig, {"on_conflict": "raise"}, id="raise"),
        pytest.param(ServerSideSessionConfig, {}, id="litestar"),
    ],
)
async def test_writers_of_different_keys_all_succeed(store: AnyStore, kind: Kind, options: dict[str, Any]) -> None:
    """Each one's key is kept, whatever is done about those that change the same one."""
    async with serving(application(store, sessions_of(kind, **options))) as site:
        browser = await site.browser()
        await browser.put("/", json={"first": 1, "old": 0})
        slow = await browser.hold("PUT", "/", json={"second": 2})
        await browser.put("/", json={"third": 3, "old": 1})
        answer = await slow.release()
        kept = (await browser.get("/")).json()

    assert answer.status_code == 200
    lost = {"first": 1, "old": 0, "second": 2}
    assert kept == ({"first": 1, "old": 1, "second": 2, "third": 3} if kind is SQLSessionConfig else lost)


@pytest.mark.parametrize(
    ("kind", "options", "status", "cart"),
    [
        pytest.param(SQLSessionConfig, {"on_conflict": "merge"}, 200, {"pear": 2, "fig": 1}, id="merge"),
        pytest.param(SQLSessionConfig, {"on_conflict": "last_wins"}, 200, {"apple": 1, "fig": 1}, id="last_wins"),
        pytest.param(SQLSessionConfig, {"on_conflict": "raise"}, 409, {"pear": 2}, id="raise"),
        pytest.param(ServerSideSessionConfig, {}, 200, {"apple": 1, "fig": 1}, id="litestar"),
    ],
)
async def test_writers_of_the_same_key_follow_on_conflict(
    store: AnyStore, kind: Kind, options: dict[str, Any], status: int, cart: dict[str, int]
) -> None:
    """Objects are merged key by key, or the later one wins, or it is answered by the application's own handler."""
    app = application(
        store,
        sessions_of(kind, **options),
        exception_handlers={SessionConflictError: apologise},
    )
    async with serving(app) as site:
        browser = await site.browser()
        await browser.put("/", json={"cart": {"apple": 1}})
        slow = await browser.hold("PUT", "/", json={"cart": {"apple": 1, "fig": 1}})
        await browser.put("/", json={"cart": {"pear": 2}})  # no apple any more
        answer = await slow.release()
        kept = (await browser.get("/")).json()

    assert answer.status_code == status
    assert (answer.text == "sorry: SessionConflictError") is (status == 409)
    assert kept == {"cart": cart}
    assert site.starts == 4  # one for each request


@ours_and_litestars
async def test_two_hundred_concurrent_increments_end_at_two_hundred(store: AnyStore, kind: Kind) -> None:
    """A client that is told of a conflict tries again, and no increment is lost."""

    @put("/increment")
    async def increment(request: AnyRequest) -> None:
        request.session["count"] += 1

    options = {"on_conflict": "raise"} if kind is SQLSessionConfig else {}
    conflicts = 0
    turn = asyncio.Semaphore(3)  # or two hundred would meet again, and again, and one of them succeed each time

    async def click(browser: Browser) -> None:
        nonlocal conflicts
        answer = await browser.put("/increment")
        while answer.status_code == 409:
            conflicts += 1
            async with turn:
                answer = await browser.put("/increment")
        assert answer.status_code == 200, answer.text

    async with serving(application(store, sessions_of(kind, **options), increment)) as site:
        browser = await site.browser()
        await browser.put("/", json={"count": 0})
        await asyncio.gather(*(click(browser) for _ in range(200)))
        count = (await browser.get("/")).json()["count"]

    if kind is SQLSessionConfig:
        assert (count, conflicts > 0) == (200, True)
    else:
        assert count < 200


IN_FLIGHT = pytest.mark.parametrize(
    "request_", [("GET", "/", {}), ("PUT", "/", {"json": {"page": 7}})], ids=["reading", "writing"]
)


@ours_and_litestars
@IN_FLIGHT
async def test_whoever_has_logged_out_stays_logged_out(
    store: AnyStore, sql: SQL, kind: Kind, request_: tuple[str, str, dict[str, Any]]
) -> None:
    """A request that was in flight brings back neither the row nor the cookie, although it has written."""
    method, url, options = request_
    async with serving(application(store, sessions_of(kind))) as site:
        browser = await site.browser()
        await browser.put("/login", json="Ada")
        slow = await browser.hold(method, url, **options)
        await browser.delete("/")
        answer = await slow.release()
        user = (await browser.get("/")).json().get("user")

    assert answer.status_code == 200
    if kind is SQLSessionConfig:
        assert (user, browser.cookie, await rows(store, sql)) == (None, None, 0)
    else:
        assert (user, browser.cookie is None, await rows(store, sql)) == ("Ada", False, 1)


@IN_FLIGHT
async def test_an_answer_that_comes_after_that_of_a_logout_logs_nobody_in(
    store: AnyStore, sql: SQL, request_: tuple[str, str, dict[str, Any]]
) -> None:
    """It was complete before the logout, and whatever cookie it brings is worth nothing."""
    method, url, options = request_
    async with serving(application(store, SQLSessionConfig())) as site:
        browser = await site.browser()
        await browser.put("/login", json="Ada")
        slow = await browser.hold(method, url, at="answer", **options)
        await browser.delete("/")
        await slow.release()

        assert (await browser.get("/")).json() == {}
        assert await rows(store, sql) == 0


async def test_a_logout_ends_nothing_but_the_session_that_it_was_sent_with(store: AnyStore, sql: SQL) -> None:
    """Neither the session of a login that came first, nor its cookie."""
    async with serving(application(store, sessions_of(SQLSessionConfig))) as site:
        browser = await site.browser()
        await browser.put("/login", json="Bob")
        slow = await browser.hold("DELETE", "/")
        await browser.put("/login", json="Ada")
        answer = await slow.release()

        assert "set-cookie" not in answer.headers
        assert (await browser.get("/")).json() == {"user": "Ada"}
        assert await rows(store, sql) == 1


@ours_and_litestars
async def test_the_cookie_of_a_logout_is_over(store: AnyStore, kind: Kind) -> None:
    """Its Max-Age, which browsers believe before its Expires, is 0."""
    async with serving(application(store, sessions_of(kind))) as site:
        browser = await site.browser()
        await browser.put("/login", json="Ada")
        [cookie] = (await browser.delete("/")).headers.get_list("set-cookie")

    ours = kind is SQLSessionConfig
    assert ("Max-Age=0" in cookie.split("; ")) is ours
    assert (browser.cookie is None) is ours


PLACES: tuple[Place, ...] = ("arrival", "handler", "answer", "handler")


async def with_cookie(site: Served, kind: str) -> Browser:
    """Return a browser that has one of some *kind*."""
    browser = await site.browser(secrets.token_hex(32) if kind == "unknown" else None)
    if kind == "anonymous":
        await browser.put("/", json={"cart": 1})
    elif kind in {"somebody's", "dead"}:
        await browser.put("/login", json="Bob")
    if kind == "dead":
        cookie = browser.cookie
        await browser.delete("/")
        browser = await site.browser(cookie)
    assert browser.cookie
    return browser


@ours_and_litestars
@pytest.mark.parametrize(
    ("login_waits_at", "answered_before"),
    [("answer", 0), ("answer", 10), ("handler", 10), ("handler", 20)],
    ids=["first", "saved first", "between", "last"],
)
@pytest.mark.parametrize("cookie", ["unknown", "dead", "anonymous", "somebody's"])
async def test_a_login_is_not_undone_by_requests_with_the_old_cookie(
    store: AnyStore, kind: Kind, cookie: str, login_waits_at: Place, answered_before: int
) -> None:
    """Twenty of them are in flight, at all places, and answered before it, after it, or while it runs."""
    async with serving(application(store, sessions_of(kind), auth=True)) as site:
        browser = await with_cookie(site, cookie)
        others = [await browser.hold("GET", "/", at=place) for place in PLACES * 5]
        login = await browser.hold("PUT", "/login", json="Ada", at=login_waits_at)
        for other in others[:answered_before]:
            await other.release()
        await login.release()
        for other in others[answered_before:]:
            await other.release()
        answer = await browser.get("/")

    logged_in = answer.status_code == 200 and answer.json()["user"] == "Ada"
    assert logged_in is (kind is SQLSessionConfig or answered_before == 20)
