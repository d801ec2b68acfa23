"""What an operator does about sessions on a console, with Litestar's command line."""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner
from litestar import Litestar, Router, post
from litestar.cli._utils import LitestarEnv
from litestar.cli.main import litestar_group
from litestar.middleware.session.server_side import ServerSideSessionConfig
from litestar.security.session_auth import SessionAuth
from litestar.stores.memory import MemoryStore

from sqlstore.litestar import SQLSessionConfig, SQLStorePlugin, set_principal

from ..conftest import ADAPTERS
from ..contract.conftest import until
from ..servers import free_port
from . import served
from .applications import AnyRequest, running

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from click.testing import Result

    from sqlstore import BaseConfig, BaseSQLSpecStore

    from ..conftest import Adapter, MakeConfig

    AnyStore = BaseSQLSpecStore[Any]

pytestmark = pytest.mark.adapters("asyncpg", "sqlite", "psycopg_sync")

COMMANDS = (["list"], ["revoke", "ada", "--no-prompt"], ["stats"], ["prune"])


@post("/", exclude_from_auth=True)
async def log_in(request: AnyRequest) -> None:
    """Begin a session for the user that the request names, if any."""
    request.session["cart"] = ["apples"]
    set_principal(request, request.query_params.get("user"))


async def _no_user(_: dict[str, Any], __: Any) -> None:  # noqa: ANN401
    return None


def application(config: BaseConfig, sessions: Any = None, where: str = "application") -> Litestar:  # noqa: ANN401
    """Return an application with its sessions' middleware *where* it may be."""
    sessions = sessions or SQLSessionConfig()
    plugins = [SQLStorePlugin(config)]
    if where == "router":
        return Litestar([Router("/", route_handlers=[log_in], middleware=[sessions.middleware])], plugins=plugins)
    if where == "authentication":
        auth = SessionAuth[Any, Any](session_backend_config=sessions, retrieve_user_handler=_no_user)
        return Litestar([log_in], plugins=plugins, on_app_init=[auth.on_app_init])
    return Litestar([log_in], plugins=plugins, middleware=[sessions.middleware])


def of_environment() -> Litestar:
    """Return the application over the database that the environment names, for a process of its own."""
    [adapter] = [adapter for adapter in ADAPTERS if adapter.name == os.environ[served.ADAPTER]]
    return application(
        adapter.config(
            pool_config=adapter.pool_config(os.environ[served.DATABASE]),
            extension_config={"litestar": {"session_table": os.environ[served.TABLE]}},
        )
    )


async def visit(app: Litestar, *users: str, user_agent: str = "Firefox") -> None:
    """Let each of *users* log in with a browser of their own; '' is nobody."""
    for user in users:
        async with running(app) as client:
            url = f"/?user={user}" if user else "/"
            answer = await client.post(url, headers={b"User-Agent": user_agent.encode("latin-1")})
            assert answer.status_code == 201


async def run(app: Litestar, *arguments: str, typed: str = "", **environment: str) -> Result:
    """Run ``litestar sessions`` with *arguments*."""
    env = LitestarEnv(app_path="", app=app, cwd=Path())
    # A console has no running loop.
    return await asyncio.to_thread(
        CliRunner().invoke, litestar_group, ["sessions", *arguments], input=typed, obj=env, env=environment
    )


async def said(app: Litestar, *arguments: str, **environment: str) -> str:
    """Return what a command that succeeds says."""
    result = await run(app, *arguments, **environment)
    assert (result.exit_code, result.stderr) == (0, ""), result.output
    return result.stdout


async def principals(app: Litestar) -> list[str | None]:
    """Return whose sessions are alive."""
    return sorted(one["principal"] or "" for one in json.loads(await said(app, "list", "--json")))


def only_line(result: Result) -> str:
    """Return what a command that failed says: one line, in the frame that the command line draws around it."""
    assert result.exit_code == 1, result.output
    assert result.stdout == ""
    return " ".join(re.sub(r"[╭╮╰╯│─]", " ", result.stderr).split()).removeprefix("Error ")


@pytest.fixture(autouse=True)
def _fresh_commands(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(litestar_group, "_prepare_done", False)


# Listing


@pytest.mark.parametrize("where", ["application", "router", "authentication"])
async def test_a_list_has_all_sessions_wherever_their_middleware_is(store: AnyStore, where: str) -> None:
    """Under SessionAuth, which hides it, too; and those of one user alone."""
    app = application(store.config, where=where)
    await visit(app, "ada", "bob", "ada", "")

    lines = [line.split("\t") for line in (await said(app, "list")).splitlines()]
    own = [line.split("\t") for line in (await said(app, "list", "--principal", "ada")).splitlines()]

    assert lines[0] == ["id", "principal", "created_at", "last_seen", "expires_at", "user_agent", "address"]
    assert sorted(line[1] for line in lines[1:]) == ["-", "ada", "ada", "bob"]
    assert [line[1] for line in own] == ["principal", "ada", "ada"]
    assert {line[0] for line in own[1:]} == {line[0] for line in lines[1:] if line[1] == "ada"}


async def test_json_has_what_a_page_may_show_of_a_session_and_nothing_that_logs_in(store: AnyStore) -> None:
    """Instants with their offset; what the config does not record is null."""
    app = application(store.config, SQLSessionConfig(hash_ids=False, max_age=60))
    async with running(app) as client:
        await client.post("/?user=ada", headers={"User-Agent": "Firefox"})
        cookie = client.cookies["session"]

    text = await said(app, "list", "--json")
    [session] = json.loads(text)
    created, seen, expires = (
        datetime.fromisoformat(session[name]) for name in ("created_at", "last_seen", "expires_at")
    )

    assert list(session) == ["id", "principal", "created_at", "last_seen", "expires_at", "user_agent", "address"]
    assert (session["principal"], session["user_agent"], session["address"]) == ("ada", None, None)
    assert created == seen
    assert created.utcoffset() == timedelta()
    assert expires - created == pytest.approx(timedelta(seconds=60), abs=timedelta(seconds=1))
    assert cookie not in text


async def test_a_list_without_sessions_is_empty(store: AnyStore) -> None:
    """In each form."""
    app = application(store.config)

    assert len((await said(app, "list")).splitlines()) == 1
    assert json.loads(await said(app, "list", "--json")) == []
    assert len((await said(app, "list", FORCE_COLOR="1", NO_COLOR="1")).splitlines()) == 1


async def test_a_terminal_gets_a_table_with_those_first_that_were_seen_last(store: AnyStore) -> None:
    """Its ids can be copied on a terminal of 80 columns."""
    app = application(store.config)
    await visit(app, "ada", "bob", "cyd")
    ids = {one["principal"]: one["id"] for one in json.loads(await said(app, "list", "--json"))}

    table = await said(app, "list", FORCE_COLOR="1", NO_COLOR="1", COLUMNS="80")
    words = re.sub(r"\x1b\[\d*m", "", table).split()

    assert [word for word in words if word in ids.values()] == [ids["cyd"], ids["bob"], ids["ada"]]
    assert max(map(len, re.sub(r"\x1b\[\d*m", "", table).splitlines())) <= 80


async def test_a_client_cannot_write_to_the_terminal(store: AnyStore) -> None:
    """A user agent is shown without what moves the cursor, as it is without markup."""
    app = application(store.config, SQLSessionConfig(record_client=True))
    await visit(app, "ada", user_agent="[red]\x1b[2J\x9b2Jx")

    plain = await said(app, "list")
    table = re.sub(r"\x1b\[\d*m", "", await said(app, "list", FORCE_COLOR="1", COLUMNS="300"))
    as_json = await said(app, "list", "--json")

    for text in (plain, table):
        assert "[red]\N{REPLACEMENT CHARACTER}[2J\N{REPLACEMENT CHARACTER}2Jx" in text
    for text in (plain, table, as_json):
        assert not {"\x1b", "\x9b"} & set(text)
    assert json.loads(as_json)[0]["user_agent"] == "[red]\x1b[2J\x9b2Jx"


# Revoking


async def test_all_sessions_of_a_user_can_be_ended(store: AnyStore) -> None:
    """And nobody else's."""
    app = application(store.config)
    await visit(app, "ada", "bob", "ada", "")

    assert await said(app, "revoke", "ada", "--no-prompt") == "Sessions ended: 2\n"
    assert await said(app, "revoke", "ada", "--no-prompt") == "Sessions ended: 0\n"
    assert await principals(app) == ["", "bob"]


async def test_one_session_can_be_ended_by_its_id_in_the_list(store: AnyStore) -> None:
    """Also one that is nobody's."""
    app = application(store.config)
    await visit(app, "ada", "bob", "ada", "")
    ids = {one["id"]: one["principal"] for one in json.loads(await said(app, "list", "--json"))}
    one, nobody = (next(key for key in ids if ids[key] == whose) for whose in ("ada", None))

    for key in (one, nobody):
        assert await said(app, "revoke", "--session", key, "--no-prompt") == "Sessions ended: 1\n"

    gone = await run(app, "revoke", "--session", one, "--no-prompt")
    assert f"there is no session {one}: see litestar sessions list" in only_line(gone)
    assert await principals(app) == ["ada", "bob"]


async def test_ending_sessions_is_confirmed_first(store: AnyStore) -> None:
    """Anything but yes, and no answer at all, ends nothing and is a failure."""
    app = application(store.config)
    await visit(app, "ada")
    [session] = json.loads(await said(app, "list", "--json"))

    for target in (["ada"], ["--session", session["id"]]):
        for typed in ("n\n", "\n", ""):
            refused = await run(app, "revoke", *target, typed=typed)
            assert refused.exit_code == 1
            assert f"End {'all sessions of' if target == ['ada'] else 'session'} " in refused.output
    assert await principals(app) == ["ada"]

    confirmed = await run(app, "revoke", "ada", typed="y\n")
    assert confirmed.exit_code == 0
    assert await principals(app) == []


@pytest.mark.parametrize("arguments", [[], ["ada", "--session", "x"]])
async def test_what_is_to_end_is_said_in_one_way(store: AnyStore, arguments: list[str]) -> None:
    """Neither of the two, or both, is a mistake, and ends nothing."""
    app = application(store.config)
    await visit(app, "ada")

    result = await run(app, "revoke", *arguments, "--no-prompt")

    assert result.exit_code == 2
    assert "name either a PRINCIPAL, or one session with --session ID" in result.stderr
    assert await principals(app) == ["ada"]


# Counting and pruning


async def test_statistics_and_pruning_know_what_has_expired(store: AnyStore) -> None:
    """Its rows are counted until they are pruned."""
    await visit(application(store.config, SQLSessionConfig(max_age=0.001)), "ada", "bob", "cyd")
    app = application(store.config)
    await visit(app, "ada", "")

    async def expired() -> bool:
        return bool(json.loads(await said(app, "stats", "--json"))["expired"] == 3)

    await until(expired)
    before = json.loads(await said(app, "stats", "--json"))
    lines = dict(line.split("\t") for line in (await said(app, "stats")).splitlines())
    pruned = await said(app, "prune")
    after = json.loads(await said(app, "stats", "--json"))

    assert list(before) == list(lines) == ["rows", "live", "expired", "principals", "bytes", "oldest"]
    assert (before["rows"], before["live"], before["expired"]) == (5, 2, 3)
    assert lines["rows"] == "5"
    assert before["bytes"] >= 5 * len('{"cart":["apples"]}')
    assert datetime.fromisoformat(before["oldest"]) < datetime.now(UTC) + timedelta(minutes=1)
    assert pruned == "Rows deleted: 3\n"
    assert (after["rows"], after["live"], after["expired"], after["principals"]) == (2, 2, 0, 1)


async def test_statistics_of_no_sessions(store: AnyStore) -> None:
    """Nothing, and none is the oldest."""
    counted = json.loads(await said(application(store.config), "stats", "--json"))

    assert counted == {"rows": 0, "live": 0, "expired": 0, "principals": 0, "bytes": 0, "oldest": None}


# Litestar's own commands


async def test_litestar_s_own_commands_act_on_the_rows(store: AnyStore) -> None:
    """``delete`` takes the id in the cookie, although only its hash is stored; ``clear`` deletes all."""
    app = application(store.config)
    async with running(app) as client:
        await client.post("/?user=ada")
        cookie = client.cookies["session"]
    await visit(app, "bob", "cyd")

    deleted = await run(app, "delete", cookie, typed="y\n")
    left = await principals(app)
    cleared = await run(app, "clear", typed="y\n")

    assert (deleted.exit_code, cleared.exit_code) == (0, 0)
    assert left == ["bob", "cyd"]
    assert json.loads(await said(app, "stats", "--json"))["rows"] == 0


# Failures


@pytest.mark.parametrize("command", COMMANDS)
async def test_sessions_that_are_not_ours_are_refused(make_config: MakeConfig, command: list[str]) -> None:
    """With what to do about it, and not by an empty list."""
    sessions = ServerSideSessionConfig()
    elsewhere = application(make_config(), sessions)
    auth = application(make_config(), sessions, "authentication")

    for app in (elsewhere, auth):
        line = only_line(await run(app, *command))
        assert line == "the application has no sessions of ours: give it middleware=[SQLSessionConfig().middleware]"


@pytest.mark.parametrize("command", COMMANDS)
async def test_a_store_that_is_not_ours_is_refused(make_config: MakeConfig, command: list[str]) -> None:
    """Here under SessionAuth, which makes the middleware at the first request."""
    auth = SessionAuth[Any, Any](session_backend_config=SQLSessionConfig(), retrieve_user_handler=_no_user)
    plugin = SQLStorePlugin(make_config(), stores=False)
    app = Litestar([], plugins=[plugin], stores={"sessions": MemoryStore()}, on_app_init=[auth.on_app_init])

    assert only_line(await run(app, *command)).startswith("the sessions' store 'sessions' is a MemoryStore: give the")


@pytest.mark.parametrize("command", COMMANDS)
async def test_a_missing_table_is_an_error_that_says_how_to_create_it(
    make_config: MakeConfig, command: list[str]
) -> None:
    """In one line, without a traceback."""
    line = only_line(await run(application(make_config()), *command))

    assert "does not exist: await store.create_table()" in line


@pytest.mark.parametrize("command", COMMANDS)
async def test_a_database_that_is_away_is_an_error(
    adapter: Adapter, make_config: MakeConfig, tmp_path: Path, command: list[str]
) -> None:
    """In one line, without a traceback."""
    away: dict[str, Any] = {"port": free_port()} if adapter.networked else {"dsn": str(tmp_path / "no" / "where.db")}
    line = only_line(await run(application(make_config(timeout=1, **away)), *command))

    assert line


# A process of its own


def test_an_application_that_is_served_needs_no_command_line() -> None:
    """The commands are imported when Litestar's own are asked for them."""
    program = "import sys, sqlstore.litestar; print('sqlstore.litestar.cli' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, check=True)

    assert done.stdout == "False\n"


@pytest.mark.parametrize(
    "arguments",
    [["list"], ["revoke", "ada", "--no-prompt"], ["stats", "--json"], ["prune"], ["delete", "x"], ["clear"]],
)
async def test_a_console_leaves_nothing_open(
    adapter: Adapter,
    store: AnyStore,
    database: str,
    arguments: list[str],
    open_connections: Callable[[], Awaitable[int]],
) -> None:
    """No connection, and no warning of one; Litestar's own commands, too."""
    await visit(application(store.config), "ada")
    await store.close()
    before = await open_connections()
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-X", "dev", "-W", "error", "-m", "litestar"),
        *("--app", f"{__name__}:of_environment", "sessions", *arguments),
        cwd=Path(__file__).parents[2],
        env={
            **os.environ,
            served.ADAPTER: adapter.name,
            served.DATABASE: database,
            served.TABLE: store.table_name,
        },
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await process.communicate(b"y\n")

    assert (process.returncode, err.decode()) == (0, "")
    assert out

    async def closed() -> bool:
        return await open_connections() <= before

    await until(closed)
