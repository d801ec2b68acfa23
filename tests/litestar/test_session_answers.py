"""What the client is told has happened: a session is saved before its answer begins, or the answer says why not."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from litestar import Litestar, Request, Response, get, put
from litestar.background_tasks import BackgroundTask
from litestar.exceptions import HTTPException, ImproperlyConfiguredException, NotAuthorizedException
from litestar.middleware import ASGIMiddleware
from litestar.middleware.session.server_side import ServerSideSessionConfig
from litestar.response import Stream

from sqlstore import SQLStoreError
from sqlstore.litestar import (
    SQLSessionConfig,
    SQLStorePlugin,
    TooManySessionsError,
    rotate_session_id,
    save_session,
    set_principal,
)

from .sessions import (
    AnyRequest,
    AnyStore,
    Kind,
    apologise,
    application,
    ours_and_litestars,
    recall,
    rows,
    serving,
    sessions_of,
)

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from litestar.types import ASGIApp, Receive, Scope, Send

    from ..conftest import Adapter, MakeStore
    from ..contract.conftest import SQL
    from ..proxy import Proxy
    from ..servers import Server
    from .applications import Call, Site

pytestmark = pytest.mark.adapters("asyncpg", "sqlite")


class Unsaved:
    """What a session cannot hold."""


def refuse(_: Unsaved) -> str:
    """Raise what an application raises to say which answer there should be."""
    raise HTTPException(status_code=418)


@ours_and_litestars
async def test_an_http_exception_of_a_save_is_answered_by_the_applications_handler(
    store: AnyStore, sql: SQL, kind: Kind
) -> None:
    """The answer is complete, and the only one, and nothing has been saved."""

    @put("/refused")
    async def refused(request: AnyRequest) -> None:
        request.session["thing"] = Unsaved()

    app = application(
        store,
        sessions_of(kind),
        refused,
        type_encoders={Unsaved: refuse},
        exception_handlers={HTTPException: apologise},
    )
    async with serving(app) as site:
        browser = await site.browser()
        answer = await browser.put("/refused")
        stored = await rows(store, sql)

    ours = (418, "sorry: HTTPException")
    assert (answer.status_code, answer.text) == (ours if kind is SQLSessionConfig else (500, "Internal Server Error"))
    assert (site.starts, browser.cookie, stored) == (int(kind is SQLSessionConfig), None, 0)


async def test_a_login_too_many_is_answered_by_the_applications_handler(store: AnyStore, sql: SQL) -> None:
    """The second browser is refused, and has no session; the first one goes on."""
    config = sessions_of(SQLSessionConfig, max_sessions_per_principal=1, too_many_sessions="refuse")
    async with serving(application(store, config, exception_handlers={TooManySessionsError: apologise})) as site:
        first, second = await site.browser(), await site.browser()
        answers = [await browser.put("/login", json="Ada") for browser in (first, second)]

        assert [answer.status_code for answer in answers] == [200, 403]
        assert answers[1].text == "sorry: TooManySessionsError"
        assert (await first.get("/")).json() == {"user": "Ada"}
        assert (second.cookie, await rows(store, sql), site.starts) == (None, 1, 3)


class Outage:
    """A database at *dsn* that can be away for a while."""

    def __init__(self, dsn: str, server: Server | None) -> None:
        self.dsn = dsn
        self._server = server

    async def begin(self, store: AnyStore) -> None:
        """Take it away."""
        if self._server:
            await asyncio.to_thread(self._server.stop)
        else:
            await store.close()  # or it would go on in the file that it has open
            await asyncio.to_thread(self._hide)

    async def end(self) -> None:
        """Bring it back."""
        await asyncio.to_thread(self._server.start if self._server else self._show)

    def _hide(self) -> None:
        Path(self.dsn).rename(f"{self.dsn}.away")
        Path(self.dsn).mkdir()

    def _show(self) -> None:
        Path(self.dsn).rmdir()
        Path(f"{self.dsn}.away").rename(self.dsn)


@pytest.fixture
def outage(adapter: Adapter, request: pytest.FixtureRequest, tmp_path: Path) -> Outage:
    """Return a database of the test's own."""
    server: Server | None = request.getfixturevalue("private_server") if adapter.networked else None
    return Outage(server.dsn if server else str(tmp_path / "away.db"), server)


@pytest.fixture
async def fragile(outage: Outage, make_store: MakeStore) -> AnyStore:
    """Return a store there."""
    store = make_store(dsn=outage.dsn, timeout=2)
    await store.create_table()
    return store


@ours_and_litestars
async def test_a_store_that_is_away_when_a_session_is_saved_is_answered_by_the_applications_handler(
    fragile: AnyStore, outage: Outage, kind: Kind
) -> None:
    """Never by half of what the handler has answered; when the store is back the session is what it was."""
    app = application(fragile, sessions_of(kind), exception_handlers={SQLStoreError: apologise})
    async with serving(app) as site:
        browser = await site.browser()
        await browser.put("/login", json="Ada")
        slow = await browser.hold("PUT", "/", json={"page": 1})
        await outage.begin(fragile)
        answer = await slow.release()
        await outage.end()
        session = (await browser.get("/")).json()

    if kind is SQLSessionConfig:
        assert (answer.status_code, answer.text[:7], "set-cookie" in answer.headers) == (503, "sorry: ", False)
    else:
        assert (answer.status_code, answer.text) == (500, "Internal Server Error")
    assert session == {"user": "Ada"}
    assert site.starts == (3 if kind is SQLSessionConfig else 2)


@ours_and_litestars
async def test_a_store_that_is_away_when_a_session_is_loaded_is_answered_by_the_applications_handler(
    fragile: AnyStore, outage: Outage, kind: Kind
) -> None:
    """Litestar's does so, too."""
    app = application(fragile, sessions_of(kind), exception_handlers={SQLStoreError: apologise})
    async with serving(app) as site:
        browser = await site.browser()
        await browser.put("/login", json="Ada")
        await outage.begin(fragile)
        answer = await browser.get("/")
        await outage.end()
        session = (await browser.get("/")).json()

    assert (answer.status_code, answer.text[:7], "set-cookie" in answer.headers) == (503, "sorry: ", False)
    assert session == {"user": "Ada"}
    assert site.starts == 3


async def test_a_store_that_is_away_can_make_everybody_anonymous(fragile: AnyStore, outage: Outage) -> None:
    """For as long as it is, and no longer: the cookie is left alone."""
    config = SQLSessionConfig(on_store_error="anonymous")
    async with serving(application(fragile, config)) as site:
        browser = await site.browser()
        await browser.put("/login", json="Ada")
        await outage.begin(fragile)
        away = await browser.get("/")
        await outage.end()
        back = await browser.get("/")

    assert (away.status_code, away.json(), "set-cookie" in away.headers) == (200, {}, False)
    assert back.json() == {"user": "Ada"}


@pytest.mark.adapters("asyncpg")
@pytest.mark.usefixtures("store")  # the table
async def test_a_save_whose_reply_is_lost_is_still_answered(make_store: MakeStore, proxy: Proxy) -> None:
    """It is repeated, and finds that it was done already: no conflict with itself."""
    through = make_store(port=proxy.port)
    async with serving(application(through, SQLSessionConfig(on_conflict="raise"))) as site:
        browser = await site.browser()
        await browser.put("/login", json="Ada")
        for page in ("first", "second"):
            proxy.drop_reply_after(page.encode())
            answer = await browser.put("/", json={"page": page})
            assert answer.status_code == 200
        session = (await browser.get("/")).json()

    assert proxy.lost_replies == 2
    assert session == {"user": "Ada", "page": "second"}
    assert site.starts == 4


@ours_and_litestars
@pytest.mark.parametrize(
    ("status", "how"),
    [
        (200, "returned"),
        (303, "returned"),
        (404, "returned"),
        (404, "raised"),
        (500, "returned"),
        (503, "raised"),
        (500, "unhandled"),
    ],
)
async def test_a_session_is_saved_unless_the_request_failed(
    store: AnyStore, sql: SQL, kind: Kind, status: int, how: str
) -> None:
    """With every answer but those from 500 on, which also have no cookie."""

    @get("/answer")
    async def answer(request: AnyRequest) -> Response[None]:
        request.session["page"] = 1
        if how == "raised":
            raise HTTPException(status_code=status)
        if how == "unhandled":
            raise RuntimeError
        return Response(None, status_code=status)

    async with serving(application(store, sessions_of(kind), answer)) as site:
        browser = await site.browser()
        answered = await browser.get("/answer")
        stored = await rows(store, sql)

    saved = kind is not SQLSessionConfig or status < 500
    assert answered.status_code == status
    assert (browser.cookie is not None, stored) == (saved, int(saved))


@ours_and_litestars
@pytest.mark.parametrize("status", [401, 500])
async def test_what_a_middleware_raises_is_an_answer_like_any_other(store: AnyStore, kind: Kind, status: int) -> None:
    """Of one after the session's: attempts are counted, also of whoever does not get as far as a handler."""

    class Bouncer(ASGIMiddleware):
        async def handle(self, scope: Scope, receive: Receive, send: Send, next_app: ASGIApp) -> None:
            if scope["path"] == "/attempt":
                session: dict[str, int] = Request[Any, Any, Any](scope).session
                session["attempts"] = session.get("attempts", 0) + 1
                raise HTTPException(status_code=status)
            await next_app(scope, receive, send)

    @get("/attempt")
    async def attempt() -> None: ...

    app = Litestar([recall, attempt], stores={"sessions": store}, middleware=[sessions_of(kind).middleware, Bouncer()])
    async with serving(app) as site:
        browser = await site.browser()
        statuses = [(await browser.get("/attempt")).status_code for _ in range(3)]
        session = (await browser.get("/")).json()

    assert statuses == [status] * 3
    assert session == ({"attempts": 3} if kind is SQLSessionConfig and status == 401 else {})


@pytest.mark.parametrize("status", [401, 500])
async def test_what_is_saved_by_hand_outlives_the_request(store: AnyStore, status: int) -> None:
    """Also if it fails: attempts are counted, from the first on."""

    @put("/attempt")
    async def attempt(request: AnyRequest) -> None:
        request.session["attempts"] = request.session.get("attempts", 0) + 1
        await save_session(request)
        request.session["unsaved"] = True
        raise NotAuthorizedException if status == 401 else RuntimeError

    async with serving(application(store, SQLSessionConfig(), attempt)) as site:
        browser = await site.browser()
        statuses = [(await browser.put("/attempt")).status_code for _ in range(3)]
        session = (await browser.get("/")).json()

    assert statuses == [status] * 3
    assert session == {"attempts": 3} | ({"unsaved": True} if status == 401 else {})


@pytest.mark.adapters("asyncpg", "aiosqlite")
@pytest.mark.parametrize("same_transaction", [False, True])
async def test_what_is_saved_by_hand_outlives_a_rollback(site: Site, *, same_transaction: bool) -> None:
    """The request's rows are gone; what it has counted before is not."""

    async def attempt(call: Call) -> None:
        session = call.request.session
        session["attempts"] = session.get("attempts", 0) + 1
        await save_session(call.request)
        await call.db.execute(site.tables.insert, (1,))
        raise NotAuthorizedException

    app = Litestar(
        [recall, site.route("/attempt", attempt)],
        plugins=[SQLStorePlugin(site.config())],
        middleware=[SQLSessionConfig(same_transaction=same_transaction).middleware],
        logging_config=None,
    )
    async with serving(app) as served:
        browser = await served.browser()
        statuses = [(await browser.post("/attempt")).status_code for _ in range(3)]
        session = (await browser.get("/")).json()

    assert (statuses, session, await site.ids()) == ([401] * 3, {"attempts": 3}, [])


@ours_and_litestars
@pytest.mark.parametrize("where", ["body", "task", "task that fails"])
async def test_a_change_that_comes_too_late_is_reported(
    store: AnyStore, kind: Kind, where: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A warning is logged for what a streaming body, or a task in the background, does to the session."""

    @get("/late")
    async def late(request: AnyRequest) -> Stream:
        async def task() -> None:
            request.session["task"] = True
            if where == "task that fails":
                raise RuntimeError

        async def body() -> AsyncGenerator[str, None]:
            yield "one "
            if where == "body":
                request.session["body"] = True
            yield "two"

        return Stream(body(), background=BackgroundTask(task) if where != "body" else None)

    async with serving(application(store, sessions_of(kind), late)) as site:
        browser = await site.browser()
        await browser.put("/", json={"page": 1})
        answer = await browser.get("/late")
        session = (await browser.get("/")).json()

    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert (answer.text, session) == ("one two", {"page": 1})
    assert ["session" in warning for warning in warnings] == ([True] if kind is SQLSessionConfig else [])


@ours_and_litestars
async def test_excluded_routes_have_no_session(store: AnyStore, sql: SQL, kind: Kind) -> None:
    """Neither those whose paths match ``exclude``, nor those with ``exclude_opt_key``; Litestar's does so, too."""

    @get("/open/page")
    async def by_path(request: AnyRequest) -> bool:
        return "session" in request.scope

    @get("/free", without_session=True)
    async def by_option(request: AnyRequest) -> bool:
        return "session" in request.scope

    @get("/neither")
    async def neither(request: AnyRequest) -> bool:
        return "session" in request.scope

    config = sessions_of(kind, exclude=["^/open"], exclude_opt_key="without_session")
    async with serving(application(store, config, by_path, by_option, neither)) as site:
        browser = await site.browser()
        await browser.put("/", json={"page": 1})
        answers = [await browser.get(url) for url in ("/open/page", "/free", "/neither")]
        session = (await browser.get("/")).json()

    assert [answer.json() for answer in answers] == [False, False, True]
    assert ["set-cookie" in answer.headers for answer in answers[:2]] == [False, False]
    assert (session, await rows(store, sql)) == ({"page": 1}, 1)


@pytest.mark.parametrize("excluded", [True, False], ids=["excluded", "litestar"])
async def test_what_needs_our_session_says_so_where_there_is_none(store: AnyStore, *, excluded: bool) -> None:
    """Where it is excluded, and where it is Litestar's."""

    @get("/open")
    async def attempts(request: AnyRequest) -> int:
        with pytest.raises(ImproperlyConfiguredException, match="SQLSessionConfig"):
            set_principal(request, "Ada")
        with pytest.raises(ImproperlyConfiguredException, match="SQLSessionConfig"):
            rotate_session_id(request)
        with pytest.raises(ImproperlyConfiguredException, match="SQLSessionConfig"):
            await save_session(request)
        return 3

    config = SQLSessionConfig(exclude="^/open") if excluded else ServerSideSessionConfig()
    async with serving(application(store, config, attempts)) as site:
        answer = await (await site.browser()).get("/open")

    assert answer.text == "3"
