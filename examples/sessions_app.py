"""Log in, restart the server, reload: you are still logged in, because the session lives in a database.

Log in with another browser, too: each lists your devices, and can log out the other, or all others.

python examples/sessions_app.py                                            on SQLite, in sessions.db
DATABASE_URL=postgresql://localhost/app python examples/sessions_app.py    on PostgreSQL

PORT is where it listens: 8000 if not given, 0 for any free port.
"""

import asyncio
import os
import socket
import sys
from contextlib import suppress
from datetime import UTC, datetime
from html import escape
from string import Template
from typing import Annotated, Any
from urllib.parse import urlsplit

import uvicorn
from litestar import Litestar, Request, Response, get, post
from litestar.datastructures import CacheControlHeader, State
from litestar.enums import MediaType, RequestEncodingType
from litestar.params import Body
from litestar.response import Redirect

from sqlstore import BaseConfig, SQLStoreError
from sqlstore.adapters.asyncpg import AsyncpgConfig
from sqlstore.adapters.sqlite import SqliteConfig
from sqlstore.litestar import SessionInfo, SQLSessionConfig, SQLStorePlugin, set_principal

# Its share of the 14 days that a session lives unused. "Last seen" is right to the minute, and looking at pages writes
# to the database no more often than that.
MINUTE = 1 / (14 * 24 * 60)

sessions = SQLSessionConfig(record_client=True, touch_after=MINUTE)


def database(url: str) -> tuple[BaseConfig, str]:
    """Return how to reach the database at *url*, and that place without user and password.

    Raises:
        TypeError: *url* names no file.
        ValueError: *url* is malformed, or of a database that this example does not know.
    """
    parts = urlsplit(url)
    scheme, path = parts.scheme, parts.path.removeprefix("/")
    port = f":{parts.port}" if parts.port else ""
    config: BaseConfig
    # region databases
    if scheme == "sqlite":
        config = SqliteConfig(pool_config={"database": path})
    elif scheme == "postgresql":
        config = AsyncpgConfig(pool_config={"dsn": url})
    # endregion
    else:
        raise ValueError(scheme)
    return config, f"{scheme}://{parts.hostname or ''}{port}/{path}"


PAGE = Template("""\
<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="icon" href="data:,">
<title>$title</title>
<style>
  :root { color-scheme: light dark; --page: #e9eef9; --card: #fff; --line: #d5dbe8; --ink: #1b2130; --soft: #5a6376;
          --edge: #7f8aa5; --blue: #3b66f0; --tint: #e8eefe; --on-tint: #2346b8 }
  @media (prefers-color-scheme: dark) {
    :root { --page: #0f131d; --card: #1a2030; --line: #38425a; --ink: #e9ecf3; --soft: #9da7bb;
            --tint: #26345f; --on-tint: #b9caff }
  }
  * { box-sizing: border-box; margin: 0; padding: 0 }
  body { min-height: 100vh; display: grid; place-items: center; padding: 1rem; color: var(--ink);
         background: var(--page); font: 1rem/1.5 system-ui, sans-serif }
  main { width: min(100%, 31rem); padding: clamp(1.25rem, 6vw, 2rem); background: var(--card); border-radius: 1rem;
         display: grid; gap: 1.25rem; overflow-wrap: anywhere; box-shadow: 0 1.2rem 3rem #1020401f }
  h1 { font-size: 1.5rem; line-height: 1.25 }
  h2 { font-size: 1rem }
  p, label { color: var(--soft) }
  form { display: grid; gap: 1rem }
  label { display: grid; gap: .4rem }
  ul { list-style: none; border: 1px solid var(--line); border-radius: .8rem }
  li { display: flex; flex-wrap: wrap; gap: .75rem 1rem; align-items: center; padding: 1rem }
  li + li { border-top: 1px solid var(--line) }
  li div { flex: 1 15rem }
  li p { margin-top: .2rem; font-size: .875rem }
  mark { display: inline-block; padding: .05rem .55rem; border-radius: 1rem; font-size: .75rem; font-weight: 600;
         color: var(--on-tint); background: var(--tint) }
  input, button, .button { min-height: 2.75rem; padding: .5rem 1rem; font: inherit; color: var(--ink);
         background: transparent; border: 1px solid var(--edge); border-radius: .6rem }
  button, .button { text-align: center; text-decoration: none; cursor: pointer }
  button:hover, .button:hover { border-color: var(--blue) }
  .first { color: #fff; background: var(--blue); border-color: transparent; font-weight: 600 }
  a { color: inherit }
  :focus-visible { outline: 3px solid var(--blue); outline-offset: 2px }
</style>
<main>$content</main>
</html>
""")

LOGIN = """
<h1>Who is there?</h1>
<form method="post" action="/login">
  <label>Your name <input name="name" maxlength="40" required autofocus autocomplete="nickname"></label>
  <button class="first">Log in</button>
</form>
<p>This is a demonstration: any name will do, and there is no password.</p>
"""

HOME = Template("""
<h1>Hello, $name</h1>
<form method="post">
  <h2>Your devices</h2>
  <ul role="list">$devices</ul>
  $others
</form>
<p>Your sessions live in $place. Restart the server and <a href="/">reload</a>: you are still logged in.</p>
""")

DEVICE = Template("""
<li>
  <div>
    <strong>$device $mark</strong>
    <p>Logged in $created from $address<br>Last seen $seen</p>
  </div>
  $button
</li>""")

UNAVAILABLE = """
<h1>The database is away</h1>
<p>Nothing is lost. When it is back, so are you.</p>
<a class="button first" href="/">Try again</a>
"""

THIS_ONE = "<mark>This device</mark>"
LOG_OUT = '<button formaction="/logout">Log out</button>'
REVOKE = Template('<button formaction="/revoke" name="device" value="$id" aria-label="Revoke $device">Revoke</button>')
REVOKE_OTHERS = '<button class="first" formaction="/revoke-others">Log out everywhere else</button>'
ALONE = "<p>Log in with the same name in another browser, or in a private window, and it appears here.</p>"

# What tells a user agent, those first that have others in them, too: nearly all of them claim to be Safari.
BROWSERS = {
    "Edg": "Edge",
    "Firefox": "Firefox",
    "FxiOS": "Firefox",
    "Chrome": "Chrome",
    "CriOS": "Chrome",
    "Safari": "Safari",
}
SYSTEMS = ("iPhone", "iPad", "Android", "Windows", "Mac OS", "Linux")

Visit = Request[Any, Any, State]
Form = Annotated[dict[str, str], Body(media_type=RequestEncodingType.URL_ENCODED)]


@get("/", media_type=MediaType.HTML)
async def index(request: Visit) -> str:
    """List the visitor's devices, or ask for a name."""
    name = request.session.get("name")
    if not name:
        return page("Log in", LOGIN)
    logins = sessions.sessions_of(request.app)
    devices = await logins.list_sessions(name)
    return page("Your devices", home(name, devices, logins.current_id(request), request.app.state.place))


@post("/login")
async def login(request: Visit, data: Form) -> Redirect:
    """Begin a session. A real application would check a password here."""
    if name := data.get("name", "").strip()[:40]:
        request.session["name"] = name
        set_principal(request, name)
    return Redirect("/", status_code=303)


@post("/logout")
async def logout(request: Visit) -> Redirect:
    """End this session, and so delete its row."""
    request.clear_session()
    return Redirect("/", status_code=303)


@post("/revoke")
async def revoke(request: Visit, data: Form) -> Redirect:
    """End another session of this visitor; nobody else's is among those that are asked for."""
    if name := request.session.get("name"):
        logins = sessions.sessions_of(request.app)
        for device in await logins.list_sessions(name):
            if device.id == data.get("device"):
                await logins.revoke(device)
    return Redirect("/", status_code=303)


@post("/revoke-others")
async def revoke_others(request: Visit) -> Redirect:
    """End all sessions of this visitor but this one."""
    if request.session:
        await sessions.sessions_of(request.app).revoke_others(request)
    return Redirect("/", status_code=303)


def unavailable(_: Visit, error: SQLStoreError) -> Response[str]:
    """Tell the visitor that the database is away; the store works again as soon as it is back."""
    print(error, file=sys.stderr)
    return Response(page("The database is away", UNAVAILABLE), status_code=503, media_type=MediaType.HTML)


def page(title: str, content: str) -> str:
    """Return a whole page around *content*, which is HTML."""
    return PAGE.substitute(title=title, content=content)


def home(name: str, devices: list[SessionInfo], this: str | None, place: str) -> str:
    """Return what *name* sees, in HTML; *this* is the device that asks, which comes first."""
    rows: list[str] = []
    for session in sorted(devices, key=lambda session: session.id != this):
        here = session.id == this
        device = escape(described(session.user_agent or ""))
        rows.append(
            DEVICE.substitute(
                device=device,
                mark=THIS_ONE if here else "",
                created=ago(session.created_at),
                seen="right now" if here else ago(session.last_seen),
                address=escape(session.address or "an unknown address"),
                button=LOG_OUT if here else REVOKE.substitute(id=escape(session.id), device=device),
            )
        )
    return HOME.substitute(
        name=escape(name),
        devices="".join(rows),
        others=REVOKE_OTHERS if len(devices) > 1 else ALONE,
        place=escape(place),
    )


def described(agent: str) -> str:
    """Return which browser a user agent is, and on what; itself if nobody knows."""
    browser = next((name for sign, name in BROWSERS.items() if sign in agent), "")
    system = next((name for name in SYSTEMS if name in agent), "")
    return f"{browser} on {system}" if browser and system else browser or agent or "Unknown browser"


def ago(moment: datetime) -> str:
    """Return how long ago *moment* was, in HTML; with the moment itself, for those who point at it."""
    seconds = (datetime.now(UTC) - moment).total_seconds()
    text = "just now"
    for unit, length in (("minute", 60), ("hour", 3600), ("day", 86400)):
        if count := int(seconds / length):
            text = f"{count} {unit}{'s' if count > 1 else ''} ago"
    return f'<time datetime="{moment.isoformat()}" title="{moment:%d %B %Y, %H:%M} UTC">{text}</time>'


def main() -> None:
    """Serve until Ctrl+C.

    Raises:
        SystemExit: with what to set right.
    """
    try:
        config, place = database(os.environ.get("DATABASE_URL", "sqlite:///sessions.db"))
    except (TypeError, ValueError):
        sys.exit("DATABASE_URL must be sqlite:///PATH or postgresql://USER:PASSWORD@HOST/DATABASE, percent-encoded")
    try:
        asyncio.run(config.new_store().create_table())  # here, for uvicorn would put the error in a page of traceback
    except SQLStoreError as error:
        sys.exit(f"Cannot use {place}: {error}")
    port = os.environ.get("PORT", "8000")
    try:
        listener = socket.create_server(("127.0.0.1", int(port)))
    except (OSError, OverflowError, ValueError) as error:
        sys.exit(f"Cannot listen on port {port}: {error}. Choose another: PORT=8001")

    app = Litestar(
        [index, login, logout, revoke, revoke_others],
        plugins=[SQLStorePlugin(config)],
        middleware=[sessions.middleware],  # its cookie is HttpOnly and SameSite=Lax, for 14 days
        exception_handlers={SQLStoreError: unavailable},
        cache_control=CacheControlHeader(no_store=True),  # so that nobody goes back to a page after logging out
        state=State({"place": place}),
        openapi_config=None,
    )

    print(f"Sessions live in {place}.")
    print(f"Open http://127.0.0.1:{listener.getsockname()[1]} and log in; Ctrl+C stops the server.", flush=True)
    with suppress(KeyboardInterrupt):
        uvicorn.Server(uvicorn.Config(app, log_level="warning")).run(sockets=[listener])


if __name__ == "__main__":
    main()
