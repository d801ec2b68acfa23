"""What the pages say about names, options and commands is what there is."""

from __future__ import annotations

import inspect
import re
import tomllib
from dataclasses import fields
from typing import TYPE_CHECKING, Any, get_args

import asyncpg
import pytest
from litestar import Litestar, get
from litestar.middleware.session.server_side import ServerSideSessionConfig
from litestar.testing import TestClient
from opentelemetry import metrics

import sqlstore.litestar
from sqlstore import BaseSQLSpecStore, LitestarOptions, MigrationOptions, exceptions
from sqlstore.adapters.asyncmy import AsyncmyConfig
from sqlstore.adapters.asyncpg import AsyncpgConfig
from sqlstore.adapters.sqlite import SqliteConfig
from sqlstore.config import CommitMode
from sqlstore.dialects import MYSQL, ORACLE, POSTGRESQL, SQLITE, Dialect, Step
from sqlstore.litestar import SQLSessionConfig, SQLStorePlugin
from sqlstore.litestar.exception_handlers import HANDLERS
from sqlstore.litestar.sessions.config import CHOICES

from ..conftest import ADAPTERS
from ..litestar.test_session_lifetime_table import LIFETIMES
from ..servers import ASYNCMY
from ..telemetry import Recorded
from .pages import PAGES, ROOT, codes, fences, table

if TYPE_CHECKING:
    from litestar.handlers import HTTPRouteHandler

    from sqlstore.connection import StoreConnection

    from ..conftest import MakeConfig

PROJECT: dict[str, Any] = tomllib.loads(ROOT.joinpath("pyproject.toml").read_text("utf-8"))
TARGETS: list[str] = re.findall(r"^([a-z]+):.* ## ", ROOT.joinpath("Makefile").read_text("utf-8"), re.MULTILINE)


@pytest.mark.parametrize("page", PAGES)
def test_code_is_a_file_or_runs_in_a_test(page: str) -> None:
    """A block is a directive, or of a kind that another test here runs; each fence is closed."""
    kinds = {fence.info.split()[0] for fence in fences(page)}

    assert kinds <= {"{literalinclude}", "{toctree}", "{eval-rst}", "mysql", "pycon", "shell", "sql"}
    assert PAGES[page].count("```") == 2 * len(fences(page))


@pytest.mark.parametrize("page", PAGES)
def test_a_shell_command_is_a_target_of_the_makefile_or_installs_an_extra(page: str) -> None:
    """Nothing else has to be typed, but for what `test_cli_page` runs."""
    lines = [line for fence in fences(page, "shell") for line in fence.body.splitlines() if page != "migrations.md"]
    extras = PROJECT["project"]["optional-dependencies"]

    assert set(lines) <= {f"make {name}" for name in TARGETS} | {"pip install ."} | {
        f'pip install ".[{name}]"' for name in extras
    }


def test_the_contract_names_every_verb_with_its_arguments() -> None:
    """The table of verbs has the public methods of a store, as they are called."""
    named = {code for row in table("contract.md", "Call") for code in codes(row[0])} - {"async with store"}
    methods = [method for name, method in inspect.getmembers(BaseSQLSpecStore, inspect.isfunction) if name[0] != "_"]

    assert named == {f"{method.__name__}({_arguments(method)})" for method in methods}


def _arguments(method: Any) -> str:  # noqa: ANN401 - a function
    parameters = list(inspect.signature(method).parameters.values())[1:]
    return ", ".join(p.name if p.default is p.empty else f"{p.name}={p.default!r}" for p in parameters)


def test_the_errors_page_names_every_exception_and_its_bases() -> None:
    """The table has all of them."""
    named = {code[0]: code[1:] for code in (codes(row[0]) for row in table("errors.md", "Exception"))}
    classes = [getattr(exceptions, name) for name in exceptions.__all__]

    assert named == {cls.__name__: [base.__name__ for base in cls.__bases__] for cls in classes}


def test_the_reference_has_every_public_name() -> None:
    """Those of the package, and those of each adapter."""
    named = re.findall(r"^\.\. auto\w+:: ([\w.]+)$", PAGES["reference.md"], re.MULTILINE)
    adapters = {
        f"{row.config.__module__}.{name}" for row in ADAPTERS for name in (row.store.__name__, row.config.__name__)
    }

    plugin = {f"sqlstore.litestar.{name}" for name in sqlstore.litestar.__all__}

    assert set(named) == {f"sqlstore.{name}" for name in sqlstore.__all__} | plugin | adapters


def test_the_options_of_every_adapter_are_all_there_are() -> None:
    """The tables of the stores and of the plugin have each option once, with its default."""
    stores, plugin = (
        {row[0].strip("`"): row[1].strip("`") for row in table(page, "Option")}
        for page in ("adapters/index.md", "plugin.md")
    )
    named = {**stores, **plugin}
    config = SqliteConfig(pool_config={"database": ":memory:"})

    assert sorted([*stores, *plugin]) == sorted(LitestarOptions.__annotations__)
    assert float(named["timeout"]) == config.timeout
    assert float(named["prune_interval"]) == config.prune_interval
    assert [named[name] for name in ("bind_key", "session_key", "connection_key", "create_table")] == [
        config.bind_key,
        config.session_key,
        config.connection_key,
        config.create_table,
    ]


def test_the_options_of_migrations_are_all_there_are() -> None:
    """With their defaults."""
    named = {row[0].strip("`"): row[1].strip("`") for row in table("migrations.md", "Option")}
    config = SqliteConfig(pool_config={"database": ":memory:"})

    assert named.keys() == MigrationOptions.__annotations__.keys()
    assert (named["script_location"], named["version_table"]) == (
        "none" if config.script_location is None else "",
        config.version_table,
    )


def test_the_commit_modes_are_all_there_are() -> None:
    """The table names each, and the default is as it says."""
    named = {codes(row[0])[0].strip('"') for row in table("transactions.md", "`commit_mode`")}
    config = SqliteConfig(pool_config={"database": ":memory:"})

    assert named == set(get_args(CommitMode))
    assert config.commit_rule.statuses == set(range(200, 300))


@pytest.mark.parametrize(
    ("database", "dialect"),
    [("PostgreSQL", POSTGRESQL), ("MySQL, MariaDB", MYSQL), ("Oracle", ORACLE), ("SQLite", SQLITE)],
)
def test_the_isolation_levels_are_all_there_are(database: str, dialect: Dialect) -> None:
    """The table has each level of each database."""
    named = {row[0]: {code.upper() for code in codes(row[1])} for row in table("transactions.md", "Database")}

    assert named[database] == dialect.isolation_levels


def test_the_statuses_of_the_exceptions_are_those_of_the_table() -> None:
    """The plugin's handlers answer each exception with the status and the detail that the page gives."""
    named: dict[str, tuple[int, str]] = {}
    for row in table("plugin.md", "Exception"):
        detail = codes(row[2])[0] if codes(row[2]) else named["ContentionError"][1]
        named |= {name: (int(row[1]), detail) for name in codes(row[0])}
    found: dict[str, tuple[int, str]] = {}
    for name in named:
        error: type[exceptions.SQLStoreError] = getattr(exceptions, name)
        with TestClient(Litestar([_raising(error)], plugins=[_plugin()])) as client:
            answer = client.get("/")
        found[name] = (answer.status_code, answer.json()["detail"])

    assert found == named
    assert {error.__name__ for error in HANDLERS} <= named.keys()


def _plugin() -> SQLStorePlugin:
    return SQLStorePlugin(SqliteConfig(pool_config={"database": ":memory:"}))


def _raising(error: type[exceptions.SQLStoreError]) -> HTTPRouteHandler:
    @get("/", sync_to_thread=False)
    def handler() -> None:
        # A session says this of a row that is not there.
        raise error("there is no such row")  # noqa: EM101, TRY003

    return handler


def test_the_options_of_asyncpg_are_all_there_are() -> None:
    """The table of pool_config has each option that asyncpg knows, and AsyncpgConfig takes each of them."""
    named = {code for row in table("adapters/asyncpg.md", "`pool_config`") for code in codes(row[0])}
    parameters = inspect.signature(asyncpg.connect).parameters | inspect.signature(asyncpg.create_pool).parameters

    assert named == set(parameters) - {"connect_kwargs"}
    assert AsyncpgConfig(pool_config=dict.fromkeys(named)).pool_config


def test_the_options_of_sqlite_are_all_there_are() -> None:
    """And no other is taken."""
    named = {code for row in table("adapters/sqlite.md", "`pool_config`") for code in codes(row[0])}

    assert SqliteConfig(pool_config={**dict.fromkeys(named), "database": ":memory:"}).pool_config
    assert named == {"database", "uri", "cached_statements", "max_size"}


async def value(connection: StoreConnection, step: Step) -> object:
    """Return the only value of the only row."""
    [[[found]]] = await connection.run([step], atomic=False)
    return found


@pytest.mark.adapters("asyncpg")
async def test_the_settings_of_a_postgresql_connection_are_those_of_the_table(make_config: MakeConfig) -> None:
    """The server reports each value as the page gives it."""
    named = {row[0].strip("`"): row[1].strip("`") for row in table("adapters/asyncpg.md", "Setting")}
    connection = await make_config().open_store_connection()
    found = {name: await value(connection, Step("SELECT current_setting($1)", (name,))) for name in named}
    await connection.close()

    assert found == named
    assert "lock_timeout" in found


def test_the_options_of_asyncmy_are_all_there_are() -> None:
    """The table has each option that asyncmy knows, but for the one that is refused."""
    named = {code for row in table("adapters/asyncmy.md", "`pool_config`") for code in codes(row[0])}
    parameters: set[str] = set()
    for function in (ASYNCMY.connect, ASYNCMY.create_pool):
        parameters |= inspect.signature(function).parameters.keys()

    assert named == parameters - {"sock", "kwargs"}
    assert AsyncmyConfig(pool_config=dict.fromkeys(named)).pool_config


@pytest.mark.adapters("asyncmy_mariadb", "asyncmy_mysql")
async def test_the_variables_of_a_mysql_connection_are_those_of_the_table(make_config: MakeConfig) -> None:
    """The server reports each value as the page gives it."""
    named = {row[0].strip("`"): row[1].strip("`") for row in table("adapters/asyncmy.md", "Session variable")}
    connection = await make_config().open_store_connection()
    found = {name: str(await value(connection, Step(f"SELECT @@{name}"))) for name in named}
    await connection.close()

    assert found == named
    assert "sql_mode" in found


@pytest.mark.adapters("sqlite", "aiosqlite")
async def test_the_pragmas_of_a_sqlite_connection_are_those_of_the_table(make_config: MakeConfig) -> None:
    """SQLite reports each value as the page gives it."""
    named = {row[0].strip("`"): row[1].strip("`") for row in table("adapters/sqlite.md", "Pragma")}
    connection = await make_config().open_store_connection()
    found = {name: str(await value(connection, Step(f"PRAGMA {name}"))) for name in named}
    await connection.close()

    assert {**found, "synchronous": "FULL" if found["synchronous"] == "2" else found["synchronous"]} == named
    assert "journal_mode" in found


def test_the_metrics_are_those_of_the_table() -> None:
    """The table has each name, with its kind and its unit."""
    named = {tuple(code for cell in row[:3] for code in codes(cell)) for row in table("telemetry.md", "Metric")}
    recorded = Recorded()
    for instrument in vars(recorded.instruments).values():
        if isinstance(instrument, metrics.Histogram):
            instrument.record(1)
        elif isinstance(instrument, metrics.Counter):
            instrument.add(1)
    found = {
        (metric.name, "histogram" if recorded.totals(metric.name)[0].times else "counter", metric.unit)
        for metric in recorded.metrics()
    }
    recorded.close()

    assert named == found


def test_the_table_of_session_lifetimes_is_the_tested_one() -> None:
    """Each combination of settings is there, with what a request of each kind moves."""
    named = {tuple(cell.strip("`") for cell in row) for row in table("sessions.md", "`renew_on_access`")}

    assert named == {(str(renew), *moves) for renew, _, *moves in LIFETIMES}


def test_the_settings_of_sessions_are_all_there() -> None:
    """The page names each that Litestar does not have, and each choice, with the default where a table has one."""
    ours = {field.name for field in fields(SQLSessionConfig)} - {
        field.name for field in fields(ServerSideSessionConfig)
    }
    text = PAGES["sessions.md"]
    defaults = {row[0].strip("`"): row[1].strip("`") for row in table("sessions.md", "Parameter")}
    config = SQLSessionConfig()

    assert [name for name in sorted(ours) if name not in text] == []
    assert [choice for choices in CHOICES.values() for choice in choices if str(choice) not in text] == []
    assert {row[0].strip('`"').partition('"')[0] for row in table("sessions.md", "`on_conflict`")} == {
        "merge",
        "last_wins",
        "raise",
    }
    assert defaults.keys() == {"max_age", "absolute_timeout", "renew_on_access", "touch_after"}
    assert (config.absolute_timeout, str(config.renew_on_access), str(config.touch_after), config.max_age) == (
        None,
        defaults["renew_on_access"],
        defaults["touch_after"],
        14 * 86400,
    )


def test_the_design_says_what_each_dependency_is_for() -> None:
    """The tables have every package that pyproject.toml names, and no other."""
    named = {name for row in table("design.md", "Package") for name in row[0].split(", ")}
    project = PROJECT["project"]
    extras = [name for name in project["optional-dependencies"] if name != "all"]
    required = [*project["dependencies"], *(text for group in PROJECT["dependency-groups"].values() for text in group)]
    required += [text for extra in extras for text in project["optional-dependencies"][extra]]

    assert named == {re.split(r"[\[><=; ]", text)[0] for text in required}
