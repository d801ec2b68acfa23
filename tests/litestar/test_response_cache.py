"""Litestar's own response cache over the stores."""

import asyncio
from itertools import count
from typing import Any

import pytest
from litestar import Litestar, Response, get
from litestar.config.response_cache import CACHE_FOREVER, ResponseCacheConfig
from litestar.testing import TestClient

from sqlstore import BaseSQLSpecStore

from ..conftest import MakeStore

AnyStore = BaseSQLSpecStore[Any]
Cache = bool | int | type[CACHE_FOREVER]


def application(store: AnyStore, *, cache: Cache = True, first: int = 1) -> Litestar:
    """Return an application that numbers its answers from *first* on, and keeps them in *store*."""
    numbers = count(first)

    @get("/", cache=cache)
    async def number() -> int:
        return next(numbers)

    config = ResponseCacheConfig(default_expiration=1000)
    return Litestar([number], stores={"response_cache": store}, response_cache_config=config)


async def test_a_cached_response_is_not_made_again(store: AnyStore, make_store: MakeStore) -> None:
    """Nor by another application over the same table."""
    with TestClient(application(store)) as client:
        assert [client.get("/").json() for _ in range(3)] == [1, 1, 1]
    with TestClient(application(make_store(), first=100)) as client:
        assert client.get("/").json() == 1


@pytest.mark.parametrize(("one", "other"), [("a", "A"), ("e", "é"), ("a", "a "), ("a", "")])
async def test_queries_that_a_database_might_confuse_have_pages_of_their_own(
    store: AnyStore, one: str, other: str
) -> None:
    """Keys are compared byte for byte: case, accents and spaces count."""
    with TestClient(application(store)) as client:
        answers = [client.get("/", params={"q": query}).json() for query in (one, other, one, other)]

        assert answers == [1, 2, 1, 2]


@pytest.mark.parametrize(
    ("cache", "shortest", "longest"), [(True, 900, 1000), (100, 1, 100)], ids=["default expiration", "the handler's"]
)
async def test_a_cached_response_has_the_lifetime_that_was_asked_for(
    store: AnyStore, cache: Cache, shortest: int, longest: int
) -> None:
    """It is the row's, too."""
    with TestClient(application(store, cache=cache)) as client:
        client.get("/")
        left = await store.expires_in("GET/")

        assert left
        assert shortest <= left <= longest


async def test_a_response_that_is_cached_forever_never_expires(store: AnyStore) -> None:
    """Its row has no expiry."""
    with TestClient(application(store, cache=CACHE_FOREVER)) as client:
        client.get("/")

        assert await store.exists("GET/")
        assert await store.expires_in("GET/") is None


async def test_a_response_is_made_again_when_it_has_expired(store: AnyStore) -> None:
    """The answer of the cache is over after its second."""
    with TestClient(application(store, cache=1)) as client:
        assert client.get("/").json() == 1
        await asyncio.sleep(1.1)

        assert client.get("/").json() == 2


async def test_a_cached_response_comes_back_whole(store: AnyStore) -> None:
    """Status, headers and each byte of the body, also of one that is no text."""
    body = bytes(range(256)) * 300

    @get("/", cache=True, status_code=203)
    async def image() -> Response[bytes]:
        return Response(body, media_type="image/x-test", headers={"X-Made-By": "hand"})

    with TestClient(Litestar([image], stores={"response_cache": store})) as client:
        made, cached = client.get("/"), client.get("/")

        assert await store.exists("GET/")
        assert (cached.status_code, cached.headers, cached.content) == (made.status_code, made.headers, body)
