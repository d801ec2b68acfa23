"""Whose a session is: who has which, how they end, how many there may be, and what a login does to its id."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import TYPE_CHECKING, Any, TypeAlias
from uuid import UUID

import httpx
import pytest
from litestar import Litestar, Request, delete, get, post, put
from litestar.datastructures import State
from litestar.exceptions import ImproperlyConfiguredException
from litestar.status_codes import HTTP_403_FORBIDDEN
from litestar.stores.registry import StoreRegistry

from sqlstore import BaseSQLSpecStore
from sqlstore.litestar import (
    CLIENT_KEY,
    Sessions,
    SQLSessionBackend,
    SQLSessionConfig,
    rotate_session_id,
    save_session,
    set_principal,
)

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from ..conftest import MakeStore
    from ..contract.conftest import SQL

AnyStore: TypeAlias = BaseSQLSpecStore[Any]
AnyRequest: TypeAlias = Request[Any, Any, State]

PRINCIPALS: dict[str, str | int | UUID] = {
    "integer": 7,
    "negative": -7,
    "huge": 10**400,
    "name": "ada",
    "other case": "Ada",
    "accent": "\N{LATIN SMALL LETTER E WITH ACUTE}",
    "two code points": "e\N{COMBINING ACUTE ACCENT}",
    "no accent": "e",
    "space": "ada ",
    "nothing": "",
    "nul": "ada\0",
    "surrogate": "\ud800",
    "emoji": "\N{SNOWMAN}" * 100,
    "long": "x" * 5000,
    "longer": "x" * 5001,
    "digest": "sha256:" + "0" * 64,
    "uuid": UUID(int=7),
}
"""No two of them are the same user."""


@put("/")
async def remember(request: AnyRequest) -> None:
    """Put what was sent into the session."""
    request.session.update(await request.json())


@get("/")
async def recall(request: AnyRequest) -> dict[str, Any]:
    """Return what is in the session, but for what this application puts there by itself."""
    return {key: value for key, value in request.session.items() if key not in {CLIENT_KEY, "login"}}


@delete("/")
async def forget(request: AnyRequest) -> None:
    """End the session."""
    request.clear_session()


@put("/login")
async def login(request: AnyRequest) -> None:
    """Become one of `PRINCIPALS`, or whoever else was sent, or nobody."""
    name = await request.json()
    request.session["login"] = name
    set_principal(request, PRINCIPALS.get(name, name))


@post("/rotate")
async def rotate(request: AnyRequest) -> None:
    """Get a new id, and change something."""
    request.session["rotations"] = request.session.get("rotations", 0) + 1
    rotate_session_id(request)


def user_of(session: dict[str, Any]) -> str | None:
    """Return whose a session is: see `SQLSessionConfig.principal`."""
    return session.get("user")


@dataclass
class Site:
    """An application with sessions, and its browsers."""

    store: AnyStore
    config: SQLSessionConfig
    app: Litestar
    sessions: Sessions
    stack: AsyncExitStack = field(default_factory=AsyncExitStack)

    async def browser(self, cookie: str | None = None, **headers: str) -> httpx.AsyncClient:
        """Return another one, which may have a cookie."""
        app: Any = self.app  # httpx types scopes more loosely than Litestar does
        browser = httpx.AsyncClient(
            transport=httpx.ASGITransport(app), base_url="http://testserver.local", headers=headers
        )
        if cookie is not None:
            browser.cookies.set(self.config.key, cookie, domain="testserver.local")
        return await self.stack.enter_async_context(browser)

    async def logged_in(self, name: str, **headers: str) -> httpx.AsyncClient:
        """Return a browser that has logged in."""
        browser = await self.browser(**headers)
        answer = await browser.put("/login", json=name)
        assert answer.status_code == 200, answer.text
        return browser

    async def alive(self, *browsers: httpx.AsyncClient) -> list[bool]:
        """Return which of them have a session."""
        cookies = [browser.cookies.get(self.config.key) for browser in browsers]
        backend = SQLSessionBackend(config=self.config)
        return [cookie is not None and await backend.get(cookie, self.store) is not None for cookie in cookies]

    async def handles(self, name: str) -> set[str]:
        """Return what tells the sessions of a principal apart."""
        return {session.id for session in await self.sessions.list_sessions(PRINCIPALS.get(name, name))}


@asynccontextmanager
async def serving(
    store: AnyStore,
    name: str = "sessions",
    **options: Any,  # noqa: ANN401 - see SQLSessionConfig
) -> AsyncGenerator[Site, None]:
    """Give an application whose sessions are in *store*, which it knows by that name."""
    config = SQLSessionConfig(store=name, **options)
    sessions = Sessions(store, config)

    @get("/id")
    async def current(request: AnyRequest) -> dict[str, str | None]:
        return {"id": sessions.current_id(request)}

    @post("/others")
    async def revoke_others(request: AnyRequest) -> int:
        return await sessions.revoke_others(request)

    app = Litestar(
        [remember, recall, forget, login, rotate, current, revoke_others],
        stores={config.store: store},
        middleware=[config.middleware],
        logging_config=None,
    )
    site = Site(store, config, app, sessions)
    async with app.lifespan(), site.stack:
        yield site


# Whose


async def test_a_principal_has_its_sessions(store: AnyStore) -> None:
    """Any string, integer or UUID is a principal, and no two are the same."""
    async with serving(store) as site:
        for name in PRINCIPALS:
            await site.logged_in(name)
        anonymous = await site.browser()
        await anonymous.put("/", json={"key": "value"})
        listed = {name: await site.sessions.list_sessions(principal) for name, principal in PRINCIPALS.items()}

        assert [len(sessions) for sessions in listed.values()] == [1] * len(PRINCIPALS)
        assert len({sessions[0].id for sessions in listed.values()}) == len(PRINCIPALS)
        everybodys = [session.principal async for session in site.sessions.all_sessions()]
        assert len(everybodys) == len(PRINCIPALS) + 1
        assert everybodys.count(None) == 1
        for name, principal in PRINCIPALS.items():
            assert await site.sessions.revoke_all(principal) == 1
            assert await site.handles(name) == set()
        assert await site.alive(anonymous) == [True]


@pytest.mark.adapters("sqlite")
@pytest.mark.parametrize("principal", [True, 1.5, b"ada", ["ada"]])
async def test_what_is_no_principal_is_refused(store: AnyStore, principal: Any) -> None:  # noqa: ANN401
    """The message says what is."""

    @put("/")
    async def become(request: AnyRequest) -> None:
        set_principal(request, principal)

    site = Sessions(store, SQLSessionConfig())
    for refused in (site.list_sessions(principal), site.revoke_all(principal)):
        with pytest.raises(TypeError, match="must be a string, an integer, a UUID or None"):
            await refused


async def test_a_session_is_described(store: AnyStore) -> None:
    """By when it began, was seen and expires; the one that was seen last comes first."""
    async with serving(store, max_age=1000, touch_after=0) as site:
        first = await site.logged_in("ada")
        await asyncio.sleep(0.05)
        second = await site.logged_in("ada")
        await asyncio.sleep(0.05)
        before = await site.sessions.list_sessions("ada")
        await first.get("/")
        after = await site.sessions.list_sessions("ada")
        handles = [(await browser.get("/id")).json()["id"] for browser in (first, second)]
        keys = [key for browser in (first, second) for key in site.config.keys_of(browser.cookies["session"])]

    now = datetime.now(UTC)
    assert [session.id for session in before] == handles[::-1]
    assert [session.id for session in after] == handles
    for session in (*before, *after):
        assert session.principal == "ada"
        assert now - timedelta(minutes=1) < session.created_at <= session.last_seen < now + timedelta(minutes=1)
        assert session.expires_at
        assert session.expires_at - session.last_seen == pytest.approx(
            timedelta(seconds=1000), abs=timedelta(seconds=0.01)
        )
        assert (session.user_agent, session.address) == (None, None)
        assert not any(key in repr(session) for key in keys)
    assert after[0].last_seen > before[1].last_seen
    assert after[0].created_at == before[1].created_at


@pytest.mark.parametrize(("touch_after", "moves"), [(0.0, True), (0.5, False)])
async def test_last_seen_is_as_exact_as_touch_after(store: AnyStore, *, touch_after: float, moves: bool) -> None:
    """Reading moves it when that share of the lifetime has passed; a change moves it in any case."""
    async with serving(store, max_age=1000, touch_after=touch_after) as site:
        browser = await site.logged_in("ada")
        [logged_in] = await site.sessions.list_sessions("ada")
        await asyncio.sleep(0.02)
        await browser.get("/")
        [read] = await site.sessions.list_sessions("ada")
        await asyncio.sleep(0.02)
        await browser.put("/", json={"key": "value"})
        [changed] = await site.sessions.list_sessions("ada")

    assert (read.last_seen > logged_in.last_seen) is moves
    assert changed.last_seen > read.last_seen


async def test_the_client_of_a_login_is_recorded(store: AnyStore) -> None:
    """Its user agent, at most 256 characters of it, and its address; the page of another does not change them."""
    async with serving(store, record_client=True) as site:
        browser = await site.logged_in("ada", **{"User-Agent": "Firefox " + "x" * 300})
        [session] = await site.sessions.list_sessions("ada")
        browser.headers["User-Agent"] = "another"
        await browser.put("/", json={"key": "value"})
        [later] = await site.sessions.list_sessions("ada")

        assert session.user_agent == later.user_agent == ("Firefox " + "x" * 300)[:256]
        assert session.address == later.address == "127.0.0.1"
        assert (await browser.get("/")).json() == {"key": "value"}


async def test_a_client_of_another_shape_spoils_no_list(store: AnyStore) -> None:
    """What stands under the key was there before the setting, or the application has put it there."""
    async with serving(store) as site:
        clients: list[Any] = ["text", 1, None, [], {"user_agent": 1}]
        for number, client in enumerate(clients):
            browser = await site.logged_in("ada")
            await browser.put("/", json={"number": number, CLIENT_KEY: client})
    async with serving(store, record_client=True) as site:
        sessions = await site.sessions.list_sessions("ada")

        assert [(session.user_agent, session.address) for session in sessions] == [(None, None)] * 5
        assert len([session async for session in site.sessions.all_sessions()]) == 5


# An end to them


async def test_a_session_is_revoked(store: AnyStore) -> None:
    """Its browser is nobody from now on; the others of the same principal are not."""
    async with serving(store) as site:
        browsers = [await site.logged_in("ada") for _ in range(3)]
        handle = (await browsers[1].get("/id")).json()["id"]
        [session] = [session for session in await site.sessions.list_sessions("ada") if session.id == handle]
        await site.sessions.revoke(session)
        await site.sessions.revoke(session)

        assert await site.alive(*browsers) == [True, False, True]
        assert (await browsers[1].get("/id")).json() == {"id": None}


async def test_a_session_is_revoked_although_its_id_has_changed(store: AnyStore) -> None:
    """Since it was listed, or at that moment; another one of the same principal is not."""
    async with serving(store) as site:
        for number in range(40):
            name = f"user {number}"
            browsers = [await site.logged_in(name) for _ in range(2)]
            handle = (await browsers[0].get("/id")).json()["id"]
            [session] = [session for session in await site.sessions.list_sessions(name) if session.id == handle]
            rotating = asyncio.create_task(browsers[0].post("/rotate"))
            await (asyncio.sleep(number / 10_000) if number else rotating)
            await site.sessions.revoke(session)
            await rotating

            assert await site.alive(*browsers) == [False, True], number


async def test_all_others_are_revoked(store: AnyStore) -> None:
    """The session that asks stays, and so do those of other principals."""
    async with serving(store) as site:
        browsers = [await site.logged_in(name) for name in ("ada", "ada", "ada", "Ada", "grace")]
        revoked = (await browsers[1].post("/others")).json()

        assert revoked == 2
        assert await site.alive(*browsers) == [False, True, False, True, True]
        assert await site.handles("ada") == {(await browsers[1].get("/id")).json()["id"]}


async def test_a_login_can_end_all_others(store: AnyStore) -> None:
    """Also before its own session is stored."""
    async with serving(store) as site:
        earlier = [await site.logged_in("ada") for _ in range(2)]

        @put("/only")
        async def only(request: AnyRequest) -> int:
            set_principal(request, "ada")
            return await site.sessions.revoke_others(request)

        site.app.register(only)
        browsers = [await site.browser() for _ in range(2)]
        await browsers[1].put("/", json={"key": "value"})
        numbers = [(await browser.put("/only")).json() for browser in browsers]

        assert numbers == [2, 1]
        assert await site.alive(*earlier, *browsers) == [False, False, False, True]


async def test_nobody_has_no_others(store: AnyStore) -> None:
    """To end all sessions that are nobody's would be a mistake, and the message says what was forgotten."""
    async with serving(store) as site:
        complaints: list[str] = []

        @post("/mistake")
        async def mistake(request: AnyRequest) -> None:
            with pytest.raises(ImproperlyConfiguredException) as raised:
                await site.sessions.revoke_others(request)
            complaints.append(raised.value.detail)

        site.app.register(mistake)
        browser = await site.browser()
        await browser.put("/", json={"key": "value"})
        await browser.post("/mistake")

        assert "set_principal(connection, user_id) at login" in complaints[0]
        assert await site.alive(browser) == [True]


async def test_all_sessions_of_a_principal_are_revoked(store: AnyStore) -> None:
    """Whoever has their cookies is nobody, until the next login."""
    async with serving(store) as site:
        browsers = [await site.logged_in(name) for name in ("ada", "ada", "grace")]

        assert await site.sessions.revoke_all("ada") == 2
        assert await site.sessions.revoke_all("ada") == 0
        assert await site.alive(*browsers) == [False, False, True]
        await browsers[0].put("/login", json="ada")
        assert await site.alive(*browsers) == [True, False, True]


async def test_nothing_leaves_its_namespace(store: AnyStore) -> None:
    """Of two kinds of sessions in one table, neither is listed, revoked or counted with the other."""
    registry = StoreRegistry(default_factory=store.with_namespace)
    stores: list[Any] = [registry.get(name) for name in ("sessions", "sessions.admin")]
    stores.append(stores[0].with_namespace("child"))
    async with AsyncExitStack() as stack:
        sites = [
            await stack.enter_async_context(serving(each, name, key=name, max_sessions_per_principal=2))
            for name, each in zip(("sessions", "admin", "child"), stores, strict=True)
        ]
        browsers = [[await site.logged_in("ada") for _ in range(2)] for site in sites]
        handles = [await site.handles("ada") for site in sites]
        everybodys = [{session.id async for session in site.sessions.all_sessions()} for site in sites]
        statistics = [await site.sessions.statistics() for site in sites]
        await browsers[0][0].post("/others")

        assert [len(each) for each in handles] == [2, 2, 2]
        assert len({handle for each in handles for handle in each}) == 6
        assert everybodys == handles
        assert [(counted.rows, counted.principals) for counted in statistics] == [(2, 1)] * 3
        assert [await site.alive(*each) for site, each in zip(sites, browsers, strict=True)] == [
            [True, False],
            [True, True],
            [True, True],
        ]
        assert await sites[1].sessions.revoke_all("ada") == 2
        assert [len(await site.handles("ada")) for site in sites] == [1, 0, 2]


# What a login does to an id


@pytest.mark.parametrize("named", [True, False], ids=["set_principal", "principal="])
async def test_the_id_changes_with_the_principal(store: AnyStore, *, named: bool) -> None:
    """When it appears, becomes another and goes away: the old id is dead at once, the time of creation stays."""
    options: dict[str, Any] = {} if named else {"principal": user_of}
    async with serving(store, **options) as site:

        async def become(name: str | None) -> None:
            if named:
                await browser.put("/login", json=name)
            else:
                await browser.put("/", json={"user": name})

        browser = await site.browser()
        await browser.put("/", json={"basket": [1]})
        cookies = [browser.cookies["session"]]
        [born] = [session.created_at async for session in site.sessions.all_sessions()]
        await asyncio.sleep(0.02)
        principals: list[str | None] = []
        for name in ("ada", "ada", "grace", None):
            await become(name)
            cookies.append(browser.cookies["session"])
            [session] = [session async for session in site.sessions.all_sessions()]
            principals.append(session.principal)
            assert session.created_at == born
            assert session.last_seen > born

        assert principals == ["ada", "ada", "grace", None]
        assert [earlier == later for earlier, later in pairwise(cookies)] == [False, True, False, False]
        assert (await browser.get("/")).json()["basket"] == [1]
        for cookie in {*cookies} - {cookies[-1]}:
            assert (await (await site.browser(cookie)).get("/")).json() == {}


async def test_an_id_rotates_on_demand(store: AnyStore) -> None:
    """The same session goes on, of the same principal."""
    async with serving(store) as site:
        browser = await site.logged_in("ada")
        old = browser.cookies["session"]
        [before] = await site.sessions.list_sessions("ada")
        await browser.post("/rotate")
        [after] = await site.sessions.list_sessions("ada")

        assert browser.cookies["session"] != old
        assert after.id != before.id
        assert after.created_at == before.created_at
        assert (await (await site.browser(old)).get("/")).json() == {}
        assert (await browser.get("/")).json() == {"rotations": 1}


async def test_saving_in_between_changes_an_id_once(store: AnyStore) -> None:
    """The id that `save_session` has moved the session to is the one that the browser gets."""
    async with serving(store) as site:

        @put("/steps")
        async def steps(request: AnyRequest) -> list[str | None]:
            set_principal(request, "ada")
            await save_session(request)
            first = site.sessions.current_id(request)
            request.session["more"] = True
            return [first, site.sessions.current_id(request)]

        site.app.register(steps)
        browser = await site.browser()
        await browser.put("/", json={"basket": [1]})
        [first, second] = (await browser.put("/steps")).json()

        assert first == second
        assert await site.handles("ada") == {first}
        assert (await browser.get("/")).json() == {"basket": [1], "more": True}


# How many


async def test_the_oldest_sessions_make_room(store: AnyStore) -> None:
    """At each login beyond the bound one ends; others' logins, and a second one of the same session, end none."""
    async with serving(store, max_sessions_per_principal=3) as site:
        browsers = [await site.logged_in("ada")]
        grace = [await site.logged_in("grace") for _ in range(3)]
        for _ in range(4):
            browsers.append(await site.logged_in("ada"))
            await browsers[-1].put("/login", json="ada")

        assert await site.alive(*browsers) == [False, False, True, True, True]
        assert await site.alive(*grace) == [True, True, True]


async def test_a_session_that_was_nobodys_is_not_the_oldest(store: AnyStore) -> None:
    """Whoever logs in stays, although the session had begun, as nobody's, before the others."""
    async with serving(store, max_sessions_per_principal=2) as site:
        first = await site.browser()
        await first.put("/", json={"basket": [1]})
        others = [await site.logged_in("ada") for _ in range(2)]
        await first.put("/login", json="ada")

        assert await site.alive(*others, first) == [False, True, True]
        assert (await first.get("/")).json() == {"basket": [1]}


async def test_a_session_too_many_is_refused(store: AnyStore) -> None:
    """With a whole 403; what the browser had as nobody it still has, and there is room when another logs out."""
    async with serving(store, max_sessions_per_principal=2, too_many_sessions="refuse") as site:
        browsers = [await site.logged_in("ada") for _ in range(2)]
        fresh, known = await site.browser(), await site.browser()
        await known.put("/", json={"basket": [1]})
        answers = [await browser.put("/login", json="ada") for browser in (fresh, known)]

        for answer in answers:
            assert answer.status_code == HTTP_403_FORBIDDEN
            assert answer.json()["detail"].startswith("this user has 2 sessions already, which is the most")
            assert "set-cookie" not in answer.headers
        assert (await known.get("/")).json() == {"basket": [1]}
        assert await site.alive(*browsers, known, fresh) == [True, True, True, False]
        await browsers[0].put("/login", json="ada")
        await browsers[0].delete("/")
        assert (await known.put("/login", json="ada")).status_code == 200
        assert (await fresh.put("/login", json="grace")).status_code == 200
        assert len(await site.handles("ada")) == 2


ROUNDS = 8


@pytest.mark.parametrize("policy", ["revoke_oldest", "refuse"])
async def test_logins_at_once_keep_the_bound(store: AnyStore, make_store: MakeStore, policy: str) -> None:
    """Also those of two processes: there are never more sessions than allowed when all have been told, and one stays.

    Half of the browsers have a session already, which is nobody's.
    """
    options: dict[str, Any] = {"max_sessions_per_principal": 2, "too_many_sessions": policy}
    async with serving(store, **options) as one, serving(make_store(), **options) as other:
        for number in range(ROUNDS):
            name = f"user {number}"
            sites = [one, other] * 5
            browsers = [await site.browser() for site in sites]
            for browser in browsers[:5]:
                await browser.put("/", json={"basket": [1]})
            answers = await asyncio.gather(*(browser.put("/login", json=name) for browser in browsers))
            statuses = [answer.status_code for answer in answers]
            alive = await one.alive(*browsers)
            sessions = await one.handles(name)

            assert {*statuses} <= ({200} if policy == "revoke_oldest" else {200, HTTP_403_FORBIDDEN}), statuses
            assert 1 <= len(sessions) <= 2, (number, statuses)
            if policy == "refuse":
                assert statuses.count(200) == len(sessions)
                assert [status == 200 for status in statuses[5:]] == alive[5:]


async def test_sessions_in_use_make_room_for_a_login(store: AnyStore, make_store: MakeStore) -> None:
    """The others are saved all the time, by another process: the bound holds, and the login is not the one to go."""
    bound: dict[str, Any] = {"max_sessions_per_principal": 2}
    async with serving(store, **bound) as one, serving(make_store(), **bound) as other:
        for number in range(ROUNDS):
            name = f"user {number}"
            busy = [await one.logged_in(name) for _ in range(2)]
            elsewhere = [await other.browser(browser.cookies["session"]) for browser in busy]
            over = asyncio.Event()

            async def visit(browser: httpx.AsyncClient, over: asyncio.Event) -> None:
                visits = 0
                while not over.is_set():
                    visits += 1
                    await browser.put("/", json={"visits": visits})

            visiting = [asyncio.create_task(visit(browser, over)) for browser in elsewhere]
            await asyncio.sleep(0.01)
            late = await one.logged_in(name)
            over.set()
            await asyncio.gather(*visiting)

            assert len(await one.handles(name)) == 2
            assert await one.alive(late) == [True]


async def test_nothing_survives_while_it_is_in_use(store: AnyStore, make_store: MakeStore, sql: SQL) -> None:
    """A principal's sessions are revoked while other requests, of another process too, save them and change their ids.

    What comes after is nobody's, and knows nothing of before.
    """
    logged_in = f"SELECT data FROM {store.table_name}"  # noqa: S608
    async with serving(store, touch_after=0) as one, serving(make_store(), touch_after=0) as other:
        for number in range(100):
            name = f"user {number}"
            browsers = [await one.logged_in(name) for _ in range(3)]
            elsewhere = [await other.browser(browser.cookies["session"]) for browser in browsers]
            requests = [
                *(browser.post("/rotate") for browser in browsers[:2]),
                *(browser.put("/", json={"key": "value"}) for browser in elsewhere),
                elsewhere[0].post("/rotate"),
                elsewhere[1].get("/"),
            ]
            in_use = [asyncio.create_task(request) for request in requests]
            await asyncio.sleep(number % 10 / 1000)
            await one.sessions.revoke_all(name)
            answers = await asyncio.gather(*in_use)

            assert {answer.status_code for answer in answers} <= {200, 201}
            assert await one.handles(name) == set(), number
            assert not [row for row in await sql(logged_in) if f'"{name}"'.encode() in bytes(row[0])], number
