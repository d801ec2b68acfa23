"""Whose id a session has, who gets a cookie, and what a visitor costs."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import pytest
from litestar import post, put
from litestar.middleware.session.server_side import ServerSideSessionConfig

from sqlstore.litestar import SQLSessionConfig, rotate_session_id, set_principal

from .sessions import (
    AnyRequest,
    AnyStore,
    Kind,
    application,
    ours_and_litestars,
    rows,
    serving,
    sessions_of,
)

if TYPE_CHECKING:
    from ..contract.conftest import SQL

pytestmark = pytest.mark.adapters("asyncpg", "sqlite")


async def ids(store: AnyStore, sql: SQL) -> set[str]:
    """Return all that the table has."""
    return {row[0] for row in await sql(f"SELECT session_id FROM {store.table_name}")}  # noqa: S608


@ours_and_litestars
@pytest.mark.parametrize("visit", [("/", {"page": 1}), ("/login", "Eve")], ids=["visiting", "logging in"])
async def test_an_id_that_the_client_chose_is_never_stored(
    store: AnyStore, sql: SQL, kind: Kind, visit: tuple[str, Any]
) -> None:
    """What is written with it goes under another one, so that whoever planted it meets an empty session."""
    url, content = visit
    async with serving(application(store, sessions_of(kind))) as site:
        victim = await site.browser("chosen")
        await victim.put(url, json=content)
        planter = await site.browser("chosen")
        met = (await planter.get("/")).json()
        stored = await ids(store, sql)

    if kind is SQLSessionConfig:
        assert met == {}
        assert len(stored) == 1
        assert stored.isdisjoint({"chosen", hashlib.sha256(b"chosen").hexdigest()})
        assert victim.cookie != "chosen"
    else:
        assert met == ({"user": "Eve"} if url == "/login" else content)
        assert (stored, victim.cookie) == ({"chosen"}, "chosen")


@pytest.mark.parametrize(
    ("kind", "options", "hashed"),
    [
        pytest.param(SQLSessionConfig, {}, True, id="hashed"),
        pytest.param(SQLSessionConfig, {"hash_ids": False}, False, id="plain"),
        pytest.param(ServerSideSessionConfig, {}, False, id="litestar"),
    ],
)
async def test_a_leaked_table_logs_nobody_in(
    store: AnyStore, sql: SQL, kind: Kind, options: dict[str, Any], *, hashed: bool
) -> None:
    """It holds the SHA-256 of the cookie, unless one has asked for plain ids."""
    async with serving(application(store, sessions_of(kind, **options))) as site:
        browser = await site.browser()
        await browser.put("/login", json="Ada")
        [leaked] = await ids(store, sql)
        thief = await site.browser(leaked)
        met = (await thief.get("/")).json()

    assert met == ({} if hashed else {"user": "Ada"})
    assert (leaked == browser.cookie) is not hashed


@ours_and_litestars
async def test_the_id_changes_with_the_principal(store: AnyStore, sql: SQL, kind: Kind) -> None:
    """When somebody logs in, and again when it is somebody else; at once the id before leads to nothing."""
    async with serving(application(store, sessions_of(kind))) as site:
        browser = await site.browser()
        await browser.put("/", json={"cart": 1})
        cookies = [browser.cookie]
        met: list[str | None] = []
        for name in ("Ada", "Ada", "Bob"):
            slow = await browser.hold("PUT", "/login", json=name, at="answer")
            met.append((await (await site.browser(browser.cookie)).get("/")).json().get("user"))
            await slow.release()
            cookies.append(browser.cookie)
        data = (await browser.get("/")).json()

    assert data == {"cart": 1, "user": "Bob"}
    assert await rows(store, sql) == 1
    if kind is SQLSessionConfig:
        assert len(set(cookies)) == 3
        assert cookies[1] == cookies[2]
        assert met == [None, "Ada", None]
    else:
        assert len(set(cookies)) == 1
        assert met == ["Ada", "Ada", "Bob"]


async def test_the_principal_can_be_set_by_hand(store: AnyStore, sql: SQL) -> None:
    """Whatever is in the session: the row names it, and the id changes with it, and stays with it."""

    @put("/become")
    async def become(request: AnyRequest) -> None:
        set_principal(request, await request.json())

    async with serving(application(store, SQLSessionConfig(), become)) as site:
        browser = await site.browser()
        await browser.put("/", json={"cart": 1})
        cookies = [browser.cookie]
        for name in ("ada", "ada", "bob"):
            await browser.put("/become", json=name)
            cookies.append(browser.cookie)
        data = (await browser.get("/")).json()
        principals = await sql(f"SELECT principal FROM {store.table_name}")  # noqa: S608

    assert len(set(cookies)) == 3
    assert cookies[1] == cookies[2]
    assert (data, principals) == ({"cart": 1}, [("bob",)])


async def test_an_id_can_be_changed_at_any_time(store: AnyStore, sql: SQL) -> None:
    """The session goes on under the new one, with the same ``created_at``; the old one is dead before the answer."""

    @post("/rotate", status_code=200)
    async def rotate(request: AnyRequest) -> None:
        rotate_session_id(request)

    created = f"SELECT created_at FROM {store.table_name}"  # noqa: S608
    async with serving(application(store, SQLSessionConfig(), rotate)) as site:
        browser = await site.browser()
        await browser.put("/", json={"cart": 1})
        thief = await site.browser(browser.cookie)
        before = await sql(created)
        slow = await browser.hold("POST", "/rotate", at="answer")
        met = (await thief.get("/")).json()
        await slow.release()

        assert met == {}
        assert browser.cookie != thief.cookie
        assert (await browser.get("/")).json() == {"cart": 1}
        assert await sql(created) == before
