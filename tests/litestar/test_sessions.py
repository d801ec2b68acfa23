"""Litestar's own session middleware over the stores."""

import asyncio
from typing import Any

import httpx
import pytest
from litestar import Litestar, Request, delete, get, put
from litestar.connection import ASGIConnection
from litestar.datastructures import State
from litestar.middleware.session.server_side import ServerSideSessionBackend, ServerSideSessionConfig
from litestar.security.session_auth import SessionAuth
from litestar.testing import TestClient

from sqlstore import BaseSQLSpecStore

from ..conftest import MakeStore

AnyStore = BaseSQLSpecStore[Any]


@put("/")
async def remember(request: Request[Any, Any, State]) -> None:
    """Put what was sent into the session."""
    request.session.update(await request.json())


@get("/")
async def recall(request: Request[Any, Any, State]) -> dict[str, str]:
    """Return what is in the session."""
    return dict(request.session)


@delete("/")
async def forget(request: Request[Any, Any, State]) -> None:
    """End the session."""
    request.clear_session()


@get("/lifetime")
async def lifetime(request: Request[Any, Any, State]) -> int | None:
    """Return the seconds that the session has, after it was read and before it is stored again."""
    return await request.app.stores.get("sessions").expires_in(request.cookies["session"])


def application(store: AnyStore, *, max_age: int = 1000, renew_on_access: bool = False) -> Litestar:
    """Return an application whose sessions are in *store*."""
    sessions = ServerSideSessionConfig(max_age=max_age, renew_on_access=renew_on_access)
    return Litestar([remember, recall, forget, lifetime], stores={"sessions": store}, middleware=[sessions.middleware])


async def test_a_session_outlives_the_application(store: AnyStore, make_store: MakeStore) -> None:
    """Another application over the same table knows the visitor."""
    with TestClient(application(store)) as client:
        client.put("/", json={"name": "Ada"})
        cookies = client.cookies
    with TestClient(application(make_store()), cookies=cookies) as client:
        assert client.get("/").json() == {"name": "Ada"}


async def test_clearing_a_session_deletes_its_row(store: AnyStore) -> None:
    """Whoever has kept the cookie meets an empty session."""
    with TestClient(application(store)) as client:
        client.put("/", json={"name": "Ada"})
        key = client.cookies["session"]
        assert await store.exists(key)
        client.delete("/")
        assert not await store.exists(key)

        assert client.get("/", headers={"Cookie": f"session={key}"}).json() == {}


async def test_a_session_has_the_lifetime_of_max_age(store: AnyStore) -> None:
    """It is the row's, too."""
    with TestClient(application(store)) as client:
        client.put("/", json={"name": "Ada"})
        left = await store.expires_in(client.cookies["session"])

        assert left
        assert 900 < left <= 1000


async def test_a_session_ends_after_max_age(store: AnyStore) -> None:
    """The next request meets an empty one, although its cookie came back."""
    with TestClient(application(store, max_age=1)) as client:
        key = client.put("/", json={"name": "Ada"}).cookies["session"]
        await asyncio.sleep(1.1)

        assert client.get("/", headers={"Cookie": f"session={key}"}).json() == {}


@pytest.mark.parametrize(("renew_on_access", "shortest", "longest"), [(True, 900, 1000), (False, 1, 100)])
async def test_reading_renews_a_session_if_asked_to(
    store: AnyStore, *, renew_on_access: bool, shortest: int, longest: int
) -> None:
    """With ``renew_on_access`` the expiry has moved before the handler runs; without, it has not."""
    await store.set("key", b"{}", expires_in=100)
    with TestClient(application(store, renew_on_access=renew_on_access), cookies={"session": "key"}) as client:
        left = client.get("/lifetime").json()

        assert shortest <= left <= longest


async def test_visitors_at_the_same_time_keep_their_own_sessions(store: AnyStore) -> None:
    """A hundred requests in one event loop share the store's few connections, and no answer goes astray."""
    app: Any = application(store)  # httpx types scopes more loosely than Litestar does
    transport = httpx.ASGITransport(app)

    async def visit(name: str) -> dict[str, str]:
        async with httpx.AsyncClient(transport=transport, base_url="http://testserver.local") as browser:
            await browser.put("/", json={"name": name})
            session: dict[str, str] = (await browser.get("/")).json()
            return session

    names = [f"visitor {number}" for number in range(50)]
    async with app.lifespan():
        sessions = await asyncio.gather(*map(visit, names))

    assert [session["name"] for session in sessions] == names


def authenticated(store: AnyStore) -> Litestar:
    """Return an application for which one must log in, at ``PUT /login``."""

    async def find_user(session: dict[str, str], _: ASGIConnection[Any, Any, Any, Any]) -> str | None:
        return session.get("name")

    @put("/login", exclude_from_auth=True)
    async def login(request: Request[Any, Any, State]) -> None:
        request.session.update(await request.json())

    @get("/")
    async def who(request: Request[str, Any, State]) -> str:
        return request.user

    auth = SessionAuth[str, ServerSideSessionBackend](
        retrieve_user_handler=find_user, session_backend_config=ServerSideSessionConfig()
    )
    return Litestar([login, who, forget], stores={"sessions": store}, on_app_init=[auth.on_app_init])


async def test_session_auth_knows_who_has_logged_in(store: AnyStore, make_store: MakeStore) -> None:
    """It admits nobody before the login, and the user after it, also in another application over the same table."""
    with TestClient(authenticated(store)) as client:
        assert client.get("/").status_code == 401
        client.put("/login", json={"name": "Ada"})
        assert client.get("/").text == "Ada"
        cookies = client.cookies
    with TestClient(authenticated(make_store()), cookies=cookies) as client:
        assert client.get("/").text == "Ada"


async def test_session_auth_forgets_who_has_logged_out(store: AnyStore) -> None:
    """A cookie that somebody has kept admits nobody."""
    with TestClient(authenticated(store)) as client:
        key = client.put("/login", json={"name": "Ada"}).cookies["session"]
        client.delete("/")

        assert client.get("/", headers={"Cookie": f"session={key}"}).status_code == 401
