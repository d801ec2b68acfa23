"""Litestar's own rate limit over the stores."""

from typing import Any, Literal

from litestar import Litestar, Request, get
from litestar.datastructures import State
from litestar.middleware.rate_limit import RateLimitConfig
from litestar.testing import TestClient

from sqlstore import BaseSQLSpecStore

from ..conftest import MakeStore

AnyStore = BaseSQLSpecStore[Any]


@get("/")
async def work() -> None:
    """Do what may be done only so often."""


def visitor(request: Request[Any, Any, State]) -> str:
    """Return who asks."""
    return request.headers["X-Who"]


def application(store: AnyStore, unit: Literal["second", "hour"], requests: int) -> Litestar:
    """Return an application that takes so many *requests* in a *unit*, and counts them in *store*."""
    limit = RateLimitConfig((unit, requests), identifier_for_request=visitor)
    return Litestar([work], stores={"rate_limit": store}, middleware=[limit.middleware])


def client_of(store: AnyStore, unit: Literal["second", "hour"], requests: int) -> TestClient[Litestar]:
    """Return Ada's client of an `application`."""
    client = TestClient(application(store, unit, requests))
    client.headers["X-Who"] = "Ada"
    return client


async def test_the_headers_count_down_to_a_refusal(store: AnyStore) -> None:
    """Each answer says how many requests are left; the one too many is a 429."""
    with client_of(store, "hour", 3) as client:
        answers = [client.get("/") for _ in range(4)]

        assert [answer.headers["RateLimit-Remaining"] for answer in answers] == ["2", "1", "0", "0"]
        assert [answer.status_code for answer in answers] == [200, 200, 200, 429]


async def test_the_next_request_is_accepted_when_the_time_is_over(store: AnyStore) -> None:
    """A visitor who was refused has only to wait."""
    with client_of(store, "second", 1) as client:
        while client.get("/").status_code == 200:
            pass
        while (status := client.get("/").status_code) == 429:
            pass

        assert status == 200


async def test_applications_over_one_table_share_the_limit(store: AnyStore, make_store: MakeStore) -> None:
    """What a visitor asked of one process counts in the other."""
    with client_of(store, "hour", 3) as one, client_of(make_store(), "hour", 3) as other:
        answers = [client.get("/").status_code for client in (one, other, one, other)]

        assert answers == [200, 200, 200, 429]


async def test_each_visitor_has_a_limit_of_their_own(store: AnyStore) -> None:
    """Who differ in nothing but an upper-case letter are two visitors."""
    with client_of(store, "hour", 1) as client:
        answers = [client.get("/", headers={"X-Who": who}).status_code for who in ("ada", "Ada", "ada", "Ada")]

        assert answers == [200, 200, 429, 429]


async def test_a_count_is_kept_no_longer_than_its_time(store: AnyStore) -> None:
    """The row expires with the limit's unit."""
    with client_of(store, "hour", 1) as client:
        client.get("/")
        left = await store.expires_in("RateLimitMiddleware::Ada")

        assert left
        assert 3500 < left <= 3600
