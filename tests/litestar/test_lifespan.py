"""The stores' connections begin and end with the application."""

from collections.abc import Awaitable, Callable
from typing import Any

from litestar import Litestar, get
from litestar.testing import TestClient

from sqlstore import BaseSQLSpecStore

from ..contract.conftest import Connections, until_closed

AnyStore = BaseSQLSpecStore[Any]


def application(store: AnyStore, *on_shutdown: Callable[[], Awaitable[None]]) -> Litestar:
    """Return an application that counts in *store* how often it was asked."""

    @get("/")
    async def ask() -> int:
        return await store.incr("asked")

    return Litestar(
        [ask],
        stores={"sessions": store, "response_cache": store.with_namespace("cache")},
        on_startup=[store.create_table],
        on_shutdown=on_shutdown,
    )


async def test_the_applications_end_closes_its_connections(store: AnyStore, connections: Connections) -> None:
    """Litestar enters every registered store and leaves it again; the loop need not end for that."""
    async with application(store).lifespan():
        await store.set("key", b"value")
        assert await connections()

    await until_closed(connections)


async def test_one_application_runs_again_and_again(store: AnyStore, connections: Connections) -> None:
    """Over one store, in one event loop after the other, and nothing stays open in between."""
    app = application(store)
    for asked in (1, 2, 3):
        with TestClient(app) as client:
            assert client.get("/").json() == asked
            assert await connections()

        await until_closed(connections)


async def test_a_hook_after_the_stores_end_can_still_use_them(store: AnyStore, connections: Connections) -> None:
    """Litestar leaves the stores before it runs ``on_shutdown``: they open again, until the loop ends."""

    async def farewell() -> None:
        await store.set("farewell", b"see you")

    with TestClient(application(store, farewell)):
        pass
    await until_closed(connections)

    assert await store.get("farewell") == b"see you"
