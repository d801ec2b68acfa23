"""An application's own answers where the plugin has others."""

from typing import Any

from litestar import Litestar, Request, Response, post
from litestar.di import NamedDependency
from litestar.params import FromPath

from sqlstore import ContentionError, UnavailableError, UniqueViolationError
from sqlstore.adapters.aiosqlite import AiosqliteConfig
from sqlstore.litestar import DatabaseSession, SQLStorePlugin

config = AiosqliteConfig(
    pool_config={"database": "names.db"},
    extension_config={"litestar": {"timeout": 1}},  # seconds that a client waits while somebody else writes
)


def taken(_: Request[Any, Any, Any], __: UniqueViolationError) -> Response[dict[str, str]]:
    """Say what is there already."""
    return Response({"error": "this name is taken"}, status_code=409)


def try_later(_: Request[Any, Any, Any], __: Exception) -> Response[dict[str, str]]:
    """Say when to ask again."""
    return Response({"error": "try again"}, status_code=503, headers={"Retry-After": "5"})


@post("/names/{name:str}", exception_handlers={UniqueViolationError: taken})
async def take(db_session: NamedDependency[DatabaseSession], name: FromPath[str]) -> None:
    """Take a name that nobody has."""
    await db_session.execute("INSERT INTO names (name) VALUES (?)", [name])


async def create_names() -> None:
    """Make the table, unless it is there."""
    async with config.get_session() as db_session:
        await db_session.execute("CREATE TABLE IF NOT EXISTS names (name TEXT PRIMARY KEY)")


app = Litestar(
    [take],
    plugins=[SQLStorePlugin(config)],
    exception_handlers={UnavailableError: try_later, ContentionError: try_later},
    on_startup=[create_names],
)
