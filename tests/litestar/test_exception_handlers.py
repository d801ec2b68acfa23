"""What a client is told of our exceptions, and who may say something else."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from litestar import Litestar, Request, Response, Router
from litestar.exceptions import HTTPException

from sqlstore import (
    ContentionError,
    ForeignKeyViolationError,
    NotFoundError,
    SQLStoreError,
    UnavailableError,
    UniqueViolationError,
)
from sqlstore.litestar import SQLStorePlugin

from .applications import running

if TYPE_CHECKING:
    from litestar.handlers import HTTPRouteHandler

    from .applications import Call, Site


def _routes(site: Site) -> list[HTTPRouteHandler]:
    tables = site.tables

    async def missing_row(call: Call) -> Any:  # noqa: ANN401
        return await call.db.fetch_one(tables.find, (call.id,))

    async def missing_value(call: Call) -> Any:  # noqa: ANN401
        return await call.db.fetch_value(tables.find, (call.id,))

    async def twice(call: Call) -> None:
        await call.db.execute(tables.insert, (call.id,))
        await call.db.execute(tables.insert, (call.id,))

    async def of_nobody(call: Call) -> None:
        await call.db.execute(tables.adopt, (call.id, -1))

    async def leave_orphans(call: Call) -> None:
        await call.db.execute(tables.insert, (call.id,))
        await call.db.execute(tables.adopt, (call.id + 1, call.id))
        await call.db.execute(f"DELETE FROM {tables.item} WHERE id = {call.id}")  # noqa: S608

    async def contend(_: Call) -> None:
        raise ContentionError

    async def misspell(call: Call) -> None:
        await call.db.execute(tables.insert, (call.id,))
        await call.db.execute("INSERT OUT OF nothing")

    bodies = [missing_row, missing_value, twice, of_nobody, leave_orphans, contend, misspell]
    return [site.route(f"/{body.__name__}", body) for body in bodies]


async def test_our_exceptions_have_statuses(site: Site) -> None:
    """404 for what is not there, 409 for what a row violates, 503 for a database that is busy; 500 for all others.

    The client sees none of the database's words, nor is anything stored.
    """
    no_row = (404, "there is no such row")
    no_reference = (409, "this refers to something that does not exist, or something refers to it")
    expected = {
        "missing_row": no_row,
        "missing_value": no_row,
        "twice": (409, "this already exists"),
        "of_nobody": no_reference,
        "leave_orphans": no_reference,
        "contend": (503, "the database is not available, try again later"),
        "misspell": (500, "Internal Server Error"),
    }
    plugin = SQLStorePlugin(site.config(size=1, create_table="off"))
    answers: dict[str, tuple[int, str]] = {}
    async with running(Litestar(_routes(site), plugins=[plugin])) as client:
        for path in expected:
            answer = (await client.post(f"/{path}", params={"id": 1})).json()
            answers[path] = (answer["status_code"], answer["detail"])

    assert answers == expected
    assert await site.ids() == []


def _say(request: Request[Any, Any, Any], error: Exception) -> Response[str]:
    return Response(f"{type(error).__name__} at {request.url.path}", status_code=418)


CASES = {
    "missing_row": (404, NotFoundError),
    "twice": (409, UniqueViolationError),
    "of_nobody": (409, ForeignKeyViolationError),
    "contend": (503, ContentionError),
}


@pytest.mark.adapters("aiosqlite")
@pytest.mark.parametrize("layer", ["app", "router", "handler"])
async def test_registered_handlers_are_used(site: Site, layer: str) -> None:
    """For our type, for what it is translated to, or its status, whichever Litestar would take first."""
    answers: dict[str, list[str]] = {}
    for path, (status, ours) in CASES.items():
        for key in (status, ours, SQLStoreError, HTTPException, Exception, 500):
            registered: dict[str, Any] = {layer: {key: _say}}
            [route] = [route for route in _routes(site) if route.paths == {f"/{path}"}]
            route.exception_handlers = registered.get("handler", {})
            router = Router("/", route_handlers=[route], exception_handlers=registered.get("router"))
            app = Litestar(
                [router],
                plugins=[SQLStorePlugin(site.config(create_table="off"))],
                exception_handlers=registered.get("app"),
            )
            async with running(app) as client:
                answer = await client.post(f"/{path}", params={"id": 1})
            text = answer.text if answer.status_code == 418 else str(answer.status_code)
            answers.setdefault(path, []).append(text.partition(" ")[0])

    translated = {404: "NotFoundException", 409: "HTTPException", 503: "ServiceUnavailableException"}
    assert answers == {
        path: [
            translated[status],
            ours.__name__,
            ours.__name__,
            translated[status],
            translated[status],
            str(status),
        ]
        for path, (status, ours) in CASES.items()
    }


@pytest.mark.adapters("aiosqlite")
async def test_the_nearest_of_several_handlers_is_used(site: Site) -> None:
    """Ours before the translated one, and the route's before the application's."""

    def say(what: str) -> Any:  # noqa: ANN401
        def handler(_: Request[Any, Any, Any], __: Exception) -> Response[str]:
            return Response(what, status_code=418)

        return handler

    async def unavailable(_: Call) -> None:
        raise UnavailableError

    route = site.route("/", unavailable, exception_handlers={UnavailableError: say("route")})
    other = site.route("/other", unavailable, exception_handlers={HTTPException: say("route's HTTPException")})
    app = Litestar(
        [route, other],
        plugins=[SQLStorePlugin(site.config(create_table="off"))],
        exception_handlers={UnavailableError: say("app"), 503: say("status"), Exception: say("exception")},
    )
    async with running(app) as client:
        texts = [(await client.post(path)).text for path in ("/", "/other")]

    assert texts == ["route", "app"]
