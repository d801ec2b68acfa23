"""The same through a server, in a process of its own: status, whole body, the user's exception handler."""

from __future__ import annotations

import asyncio
import os
import secrets
import sys
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from ..servers import SERVERS, free_port
from . import served
from .test_plugin import until_none

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable

    from ..conftest import Adapter
    from .applications import Site, Tables

pytestmark = pytest.mark.adapters("asyncpg", "psycopg_sync", "sqlite")

ROOT = Path(__file__).parents[2]


class Uvicorn:
    """Starts uvicorn over the test's database."""

    def __init__(self, adapter: Adapter, database: str, tables: Tables) -> None:
        """Start nothing yet."""
        self._environment = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            served.ADAPTER: adapter.name,
            served.DATABASE: database,
            served.TABLE: f"test_{secrets.token_hex(6)}",
            served.ITEMS: tables.item,
        }

    async def start(self, *options: str, database: str = "", module: str = "tests.litestar.served") -> Any:  # noqa: ANN401
        """Return its process."""
        environment = {**self._environment, **({served.DATABASE: database} if database else {})}
        return await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "uvicorn", "--factory", f"{module}:application", *options),
            env=environment,
            cwd=ROOT,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )

    @asynccontextmanager
    async def serving(
        self, *options: str, module: str = "tests.litestar.served"
    ) -> AsyncGenerator[httpx.AsyncClient, None]:
        """Give a client of the application, and end it in good order."""
        port = free_port()
        process = await self.start("--port", str(port), *options, module=module)
        try:
            async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client:
                for _ in range(800):  # on a busy machine it takes as long as many imports do
                    if process.returncode is not None or await _answers(client):
                        break
                    await asyncio.sleep(0.1)
                assert process.returncode is None
                yield client
        finally:
            if process.returncode is None:
                process.terminate()
            output, _ = await process.communicate()
        assert b"Traceback" not in output, output.decode()


async def _answers(client: httpx.AsyncClient) -> bool:
    try:
        return (await client.get("/")).status_code == 405
    except httpx.TransportError:
        return False


@pytest.fixture
def uvicorn(adapter: Adapter, database: str, tables: Tables) -> Uvicorn:
    """Return what starts it."""
    return Uvicorn(adapter, database, tables)


async def test_what_the_client_is_told_has_happened(
    uvicorn: Uvicorn, site: Site, open_connections: Callable[[], Awaitable[int]]
) -> None:
    """Of a COMMIT that fails it is told by the application's exception handler; the end leaves no connection."""
    async with uvicorn.serving() as client:
        statuses = [
            (await client.post("/", params={"id": number, "status": status})).status_code
            for number, status in enumerate((201, 400, 599, 201))
        ]
        refused = await client.post("/promise", params={"id": 4})
        streamed = await client.post("/stream", params={"id": 5})
        visits = [(await client.post("/visit", params={"id": number})).json()["visits"] for number in (6, 7)]

    assert statuses == [201, 400, 500, 201]
    assert (refused.status_code, refused.text) == (500, "sorry: CommitError")
    assert (streamed.status_code, streamed.text) == (201, "one two three")
    assert visits == [1, 2]
    assert await site.ids() == [0, 3, 5, 6, 7]
    await until_none(open_connections)


@pytest.mark.adapters("asyncpg", "sqlite")
async def test_workers_share_the_database(
    uvicorn: Uvicorn, site: Site, open_connections: Callable[[], Awaitable[int]]
) -> None:
    """They create the table at the same time, and a visitor's session is the same in each."""
    async with uvicorn.serving("--workers", "2") as client:
        for number in range(30):  # one connection each, so that both workers get some
            async with httpx.AsyncClient(base_url=client.base_url, cookies=client.cookies) as visitor:
                answer = await visitor.post("/visit", params={"id": number})
                client.cookies.update(answer.cookies)
                assert (answer.status_code, answer.json()["visits"]) == (201, number + 1)

    assert await site.ids() == [*range(30)]
    await until_none(open_connections)


@pytest.mark.adapters("asyncpg")
async def test_a_server_that_reloads_starts_again(
    uvicorn: Uvicorn, tmp_path: Path, open_connections: Callable[[], Awaitable[int]]
) -> None:
    """What the process before had open is closed."""
    source = "from tests.litestar.served import application\n"
    module = tmp_path / "reloaded" / "reloaded_application.py"
    module.parent.mkdir()
    module.write_text(source)
    options = ("--reload", "--reload-dir", str(module.parent), "--app-dir", str(module.parent))
    async with uvicorn.serving(*options, module=module.stem) as client:
        before = (await client.post("/visit", params={"id": 0})).json()
        module.write_text(f"{source}# changed\n")
        pid, visits, number = before["pid"], [before["visits"]], 1
        async with asyncio.timeout(80):
            while pid == before["pid"]:
                await asyncio.sleep(0.1)
                if await _answers(client):
                    after = (await client.post("/visit", params={"id": number})).json()
                    number += 1
                    pid = after["pid"]
                    visits.append(after["visits"])

    assert visits == [*range(1, number + 1)]
    await until_none(open_connections)


async def test_an_unreachable_database_keeps_the_server_from_starting(
    uvicorn: Uvicorn, adapter: Adapter, database: str
) -> None:
    """What it prints says which setting to check."""
    port = free_port()
    nowhere = SERVERS[adapter.database].through(database, port) if adapter.networked else "/nonexistent/file"
    process = await uvicorn.start("--port", str(free_port()), database=nowhere)
    output, _ = await process.communicate()

    assert process.returncode == 3
    assert "check pool_config" in output.decode()
    assert "Application startup failed" in output.decode()
