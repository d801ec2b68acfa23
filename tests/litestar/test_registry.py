"""One store for a whole application: each of its stores is a namespace in one table."""

from itertools import count
from typing import Any

import pytest
from litestar import Litestar, Request, get
from litestar.datastructures import State
from litestar.middleware.rate_limit import RateLimitConfig
from litestar.middleware.session.server_side import ServerSideSessionConfig
from litestar.stores.registry import StoreRegistry
from litestar.testing import TestClient

from sqlstore import BaseSQLSpecStore

AnyStore = BaseSQLSpecStore[Any]


async def test_each_name_of_a_registry_is_a_store_of_its_own(store: AnyStore) -> None:
    """The same key in two of them is two keys; asking for a name again gives the same store."""
    stores = StoreRegistry(default_factory=store.with_namespace)
    names = ["sessions", "response_cache", "rate_limit", "Sessions", "my.own-store_2"]
    for name in names:
        await stores.get(name).set("key", name)

    assert [await stores.get(name).get("key") for name in names] == [name.encode() for name in names]


async def test_a_name_that_is_no_namespace_is_refused(store: AnyStore) -> None:
    """The message shows it and says which letters there are."""
    stores = StoreRegistry(default_factory=store.with_namespace)
    with pytest.raises(ValueError, match=r"invalid namespace 'my store': use letters, digits"):
        stores.get("my store")


@pytest.mark.parametrize(
    ("cleared", "then"),
    [
        ("sessions", {"visit": 1, "page": 1, "left": 8}),
        ("response_cache", {"visit": 2, "page": 2, "left": 8}),
        ("rate_limit", {"visit": 2, "page": 1, "left": 9}),
    ],
)
async def test_clearing_one_store_leaves_the_others(store: AnyStore, cleared: str, then: dict[str, int]) -> None:
    """Of a session, a cached page and a rate limit, only the one in the cleared store begins anew."""
    pages = count(1)

    @get("/visit")
    async def visit(request: Request[Any, Any, State]) -> int:
        visits: int = request.session.get("visits", 0) + 1
        request.session["visits"] = visits
        return visits

    @get("/page", cache=True, skip_session=True, unlimited=True)
    async def page() -> int:
        return next(pages)

    app = Litestar(
        [visit, page],
        stores=StoreRegistry(default_factory=store.with_namespace),
        middleware=[
            RateLimitConfig(("hour", 10), exclude_opt_key="unlimited").middleware,
            ServerSideSessionConfig().middleware,
        ],
    )
    with TestClient(app) as client:

        def look() -> dict[str, int]:
            answer = client.get("/visit")
            left = int(answer.headers["RateLimit-Remaining"])
            return {"visit": answer.json(), "page": client.get("/page").json(), "left": left}

        assert look() == {"visit": 1, "page": 1, "left": 9}
        await store.with_namespace(cleared).delete_all()

        assert look() == then
