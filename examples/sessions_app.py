"""Log in, restart the server, reload: you are still logged in, because the session lives in a database.

python examples/sessions_app.py                                            on SQLite, in sessions.db
DATABASE_URL=postgresql://localhost/app python examples/sessions_app.py    on PostgreSQL

PORT is where it listens: 8000 if not given, 0 for any free port.
"""

import asyncio
import os
import socket
import sys
from contextlib import suppress
from html import escape
from string import Template
from typing import Annotated, Any
from urllib.parse import urlsplit

import uvicorn
from litestar import Litestar, Request, Response, get, post
from litestar.datastructures import State
from litestar.enums import MediaType, RequestEncodingType
from litestar.middleware.session.server_side import ServerSideSessionConfig
from litestar.params import Body
from litestar.response import Redirect

from sqlstore import BaseSQLSpecStore, SQLStoreError
from sqlstore.adapters.asyncpg import AsyncpgConfig, AsyncpgStore
from sqlstore.adapters.sqlite import SqliteConfig, SqliteStore


def open_store(url: str) -> tuple[BaseSQLSpecStore[Any], str]:
    """Return a store in the database at *url*, and that place without user and password.

    Raises:
        TypeError: *url* names no file.
        ValueError: *url* is malformed, or of a database that this example does not know.
    """
    parts = urlsplit(url)
    scheme, path = parts.scheme, parts.path.removeprefix("/")
    port = f":{parts.port}" if parts.port else ""
    store: BaseSQLSpecStore[Any]
    # region databases
    if scheme == "sqlite":
        store = SqliteStore(SqliteConfig(pool_config={"database": path}))
    elif scheme == "postgresql":
        store = AsyncpgStore(AsyncpgConfig(pool_config={"dsn": url}))
    # endregion
    else:
        raise ValueError(scheme)
    return store, f"{scheme}://{parts.hostname or ''}{port}/{path}"


PAGE = Template("""\
<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="icon" href="data:,">
<title>Visits</title>
<style>
  :root { color-scheme: light dark; --page: #e9eef9; --card: #fff; --line: #d5dbe8; --ink: #1b2130; --soft: #5a6376 }
  @media (prefers-color-scheme: dark) {
    :root { --page: #0f131d; --card: #1a2030; --line: #38425a; --ink: #e9ecf3; --soft: #9da7bb }
  }
  * { box-sizing: border-box; margin: 0 }
  body { min-height: 100vh; display: grid; place-items: center; padding: 1.25rem; color: var(--ink);
         background: var(--page); font: 1rem/1.55 system-ui, sans-serif }
  main { width: min(100%, 25rem); padding: 2rem; background: var(--card); border-radius: 1rem;
         display: grid; gap: 1.25rem; overflow-wrap: anywhere; box-shadow: 0 1.2rem 3rem #1020401f }
  h1 { font-size: 1.4rem; line-height: 1.25 }
  p, label { color: var(--soft) }
  form, label { display: grid; gap: 1rem }
  label { gap: .4rem }
  input, button, a { font: inherit; padding: .7rem 1rem; border-radius: .6rem; border: 1px solid var(--line) }
  input { color: var(--ink); background: transparent }
  button, a { color: var(--ink); background: transparent; text-align: center; text-decoration: none; cursor: pointer }
  .first { color: #fff; background: #3b66f0; border-color: transparent; font-weight: 600 }
  strong { display: block; font-size: 4.5rem; line-height: 1.2; letter-spacing: -.03em; color: #3b66f0 }
</style>
<main>$content</main>
</html>
""")

LOGIN = """
<h1>Who is visiting?</h1>
<form method="post" action="/login">
  <label>Your name <input name="name" maxlength="40" required autofocus autocomplete="nickname"></label>
  <button class="first">Log in</button>
</form>
<p>This is a demonstration: any name will do, and there is no password.</p>
"""

VISITS = Template("""
<h1>Hello, $name</h1>
<p>Visits in this session <strong>$visits</strong></p>
<p>Your session lives in $place. Restart the server and reload: you are still logged in.</p>
<a class="first" href="/">Reload</a>
<form method="post" action="/logout"><button>Log out</button></form>
""")

UNAVAILABLE = """
<h1>The database is away</h1>
<p>Nothing is lost. When it is back, so are you.</p>
<a class="first" href="/">Try again</a>
"""


@get("/", media_type=MediaType.HTML)
async def index(request: Request[Any, Any, State]) -> str:
    """Count a visit, or ask for a name."""
    session = request.session
    if not session:
        return page(LOGIN)
    session["visits"] += 1
    place = request.app.state.place
    return page(VISITS.substitute(name=escape(session["name"]), visits=session["visits"], place=escape(place)))


@post("/login")
async def login(
    request: Request[Any, Any, State],
    data: Annotated[dict[str, str], Body(media_type=RequestEncodingType.URL_ENCODED)],
) -> Redirect:
    """Begin a session. A real application would check a password here."""
    if name := data.get("name", "").strip():
        request.session.update(name=name[:40], visits=0)
    return Redirect("/", status_code=303)


@post("/logout")
async def logout(request: Request[Any, Any, State]) -> Redirect:
    """End the session, and so delete its row."""
    request.clear_session()
    return Redirect("/", status_code=303)


def unavailable(_: Request[Any, Any, State], error: SQLStoreError) -> Response[str]:
    """Tell the visitor that the database is away; the store works again as soon as it is back."""
    print(error, file=sys.stderr)
    return Response(page(UNAVAILABLE), status_code=503, media_type=MediaType.HTML)


def page(content: str) -> str:
    """Return a whole page around *content*, which is HTML."""
    return PAGE.substitute(content=content)


def main() -> None:
    """Serve until Ctrl+C.

    Raises:
        SystemExit: with what to set right.
    """
    try:
        store, place = open_store(os.environ.get("DATABASE_URL", "sqlite:///sessions.db"))
    except (TypeError, ValueError):
        sys.exit("DATABASE_URL must be sqlite:///PATH or postgresql://USER:PASSWORD@HOST/DATABASE, percent-encoded")
    try:
        asyncio.run(store.create_table())  # here, because uvicorn would wrap the error in a page of traceback
    except SQLStoreError as error:
        sys.exit(f"Cannot use {place}: {error}")
    port = os.environ.get("PORT", "8000")
    try:
        listener = socket.create_server(("127.0.0.1", int(port)))
    except (OSError, OverflowError, ValueError) as error:
        sys.exit(f"Cannot listen on port {port}: {error}. Choose another: PORT=8001")

    app = Litestar(
        [index, login, logout],
        stores={"sessions": store},
        middleware=[ServerSideSessionConfig().middleware],  # its cookie is HttpOnly and SameSite=Lax, for 14 days
        exception_handlers={SQLStoreError: unavailable},
        on_startup=[store.create_table],
        state=State({"place": place}),
        openapi_config=None,
    )

    print(f"Sessions live in {place}.")
    print(f"Open http://127.0.0.1:{listener.getsockname()[1]} and log in; Ctrl+C stops the server.", flush=True)
    with suppress(KeyboardInterrupt):
        uvicorn.Server(uvicorn.Config(app, log_level="warning")).run(sockets=[listener])


if __name__ == "__main__":
    main()
