"""The application that a server of its own runs, in a process of its own."""

from __future__ import annotations

import os
from typing import Any

from litestar import Litestar, Request, Response
from litestar.middleware.session.server_side import ServerSideSessionConfig
from litestar.response import Stream

from sqlstore import CommitError
from sqlstore.litestar import SQLStorePlugin

from ..conftest import ADAPTERS
from .applications import Call, Site, Tables

ADAPTER, DATABASE, TABLE, ITEMS = (
    "SQLSTORE_TEST_ADAPTER",
    "SQLSTORE_TEST_DATABASE",
    "SQLSTORE_TEST_TABLE",
    "SQLSTORE_TEST_ITEMS",
)
"""The environment variables that say over what."""


def application() -> Litestar:
    """Return the application."""
    [adapter] = [adapter for adapter in ADAPTERS if adapter.name == os.environ[ADAPTER]]
    items = os.environ[ITEMS]
    tables = Tables(items, f"{items}_promise", adapter.placeholder)
    options: Any = {"session_table": os.environ[TABLE], "timeout": 2}
    config = adapter.config(
        pool_config=adapter.pool_config(os.environ[DATABASE]), extension_config={"litestar": options}
    )
    nobody: Any = None  # what makes configs, and looks at tables, is in the process of the tests
    site = Site(adapter, tables, nobody, nobody)

    async def visit(call: Call) -> dict[str, int]:
        visits = call.request.session.get("visits", 0) + 1
        call.request.session["visits"] = visits
        await call.db.execute(tables.insert, (call.id,))
        return {"visits": visits, "pid": os.getpid()}

    async def promise(call: Call) -> None:
        await call.db.execute(tables.insert, (call.id,))
        await call.db.execute(f"INSERT INTO {tables.promise} (item) VALUES (-1)")  # noqa: S608

    async def stream(call: Call) -> Stream:
        await call.db.execute(tables.insert, (call.id,))
        return Stream(iter(["one ", "two ", "three"]))

    def apologise(_: Request[Any, Any, Any], error: Exception) -> Response[str]:
        return Response(f"sorry: {type(error).__name__}", status_code=500)

    return Litestar(
        [
            site.route("/", site.insert),
            site.route("/visit", visit),
            site.route("/promise", promise),
            site.route("/stream", stream),
        ],
        plugins=[SQLStorePlugin(config)],
        middleware=[ServerSideSessionConfig().middleware],
        exception_handlers={CommitError: apologise},
    )
