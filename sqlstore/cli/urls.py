"""A config of a URL, as SQLAlchemy spells them."""

from __future__ import annotations

import re
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import parse_qsl, unquote, urlsplit

import click

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from urllib.parse import SplitResult

    from ..config import BaseConfig

__all__ = ("config_of_url",)


# Drivers quote in their complaints what they cannot decode.
_UNDECODABLE = re.compile(r"\s|%00|%(?![0-9a-fA-F]{2})")


class _Driver(NamedTuple):
    adapter: str
    config: str
    pool_config: Callable[[SplitResult], Mapping[str, object]]


def config_of_url(
    url: str, *, table: str | None = None, script_location: str | None = None, version_table: str | None = None
) -> BaseConfig:
    """Return a config for *url*; no message has its password.

    Raises:
        click.UsageError: there is no such driver, or the URL or an option is wrong.
        click.ClickException: the driver is not installed.
    """
    scheme, separator, _ = url.partition("://")
    if scheme not in _DRIVERS or not separator:
        msg = f"--url begins with {', '.join(f'{name}://' for name in _DRIVERS)}"
        raise click.UsageError(msg)
    driver = _DRIVERS[scheme]
    if scheme in {"postgres", "postgresql"} and find_spec("asyncpg") is None and find_spec("psycopg"):
        driver = _PSYCOPG
    litestar = {"session_table": table} if table else {}
    given = {"script_location": script_location, "version_table": version_table}
    migrations = {name: value for name, value in given.items() if value}
    extension_config = {"litestar": litestar, **({"migrations": migrations} if migrations else {})}
    try:
        config: Any = getattr(import_module(f"sqlstore.adapters.{driver.adapter}"), driver.config)
        made: BaseConfig = config(pool_config=driver.pool_config(_split(url)), extension_config=extension_config)
    except ImportError as error:
        raise click.ClickException(str(error)) from error
    except (TypeError, ValueError) as error:
        msg = f"--url: {error}"
        raise click.UsageError(msg) from error
    return made


def _split(url: str) -> SplitResult:
    # As it was written: urlsplit drops tabs and line ends.
    account = url.partition("://")[2].partition("/")[0].rpartition("@")[0]
    parts: SplitResult | None
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        parts = None
    if parts is None or parts.fragment or re.search("[@?]", account) or _UNDECODABLE.search(account + parts.query):
        msg = (
            "a user name or password has / as %2F, # as %23, ? as %3F, @ as %40, % as %25, a space as %20; "
            "a port is a number"
        )
        raise ValueError(msg)  # outside of the except: that error may have a part of the password
    return parts


def _dsn(name: str) -> Callable[[SplitResult], Mapping[str, object]]:
    # Not geturl(): without a host, as for a socket, it leaves out slashes that libpq needs.
    return lambda parts: {name: f"postgresql://{parts.netloc}{parts.path}{'?' if parts.query else ''}{parts.query}"}


def _options(database: str, port: int) -> Callable[[SplitResult], Mapping[str, object]]:
    def options(parts: SplitResult) -> Mapping[str, object]:
        given = {
            "host": parts.hostname or "localhost",
            "port": parts.port or port,
            "user": unquote(parts.username or ""),
            "password": unquote(parts.password or ""),
            database: unquote(parts.path[1:]),
        }
        return {**{name: value for name, value in given.items() if value}, **_query(parts)}

    return options


def _file(parts: SplitResult) -> Mapping[str, object]:
    if parts.netloc:
        msg = "a file has three slashes before its path, and four if that is absolute: sqlite:///app.db"
        raise ValueError(msg)
    return {"database": unquote(parts.path[1:]) or ":memory:", **_query(parts)}


def _query(parts: SplitResult) -> dict[str, object]:
    return {name: int(value) if value.isdecimal() else value for name, value in parse_qsl(parts.query)}


_ASYNCPG = _Driver("asyncpg", "AsyncpgConfig", _dsn("dsn"))
_PSYCOPG = _Driver("psycopg", "PsycopgAsyncConfig", _dsn("conninfo"))
_ASYNCMY = _Driver("asyncmy", "AsyncmyConfig", _options("database", 3306))
# What follows the slash is the service, as in Oracle's own easy connect strings; ?sid= is for older databases.
_ORACLEDB = _Driver("oracledb", "OracleAsyncConfig", _options("service_name", 1521))
_DRIVERS = {
    "postgresql+asyncpg": _ASYNCPG,
    "postgresql+psycopg": _PSYCOPG,
    "postgresql+psycopg_async": _PSYCOPG,
    "postgresql": _ASYNCPG,
    "postgres": _ASYNCPG,
    "mysql+asyncmy": _ASYNCMY,
    "mysql": _ASYNCMY,
    "mariadb+asyncmy": _ASYNCMY,
    "mariadb": _ASYNCMY,
    "sqlite+aiosqlite": _Driver("aiosqlite", "AiosqliteConfig", _file),
    "sqlite": _Driver("sqlite", "SqliteConfig", _file),
    "oracle+oracledb": _ORACLEDB,
    "oracle+oracledb_async": _ORACLEDB,
    "oracle": _ORACLEDB,
}
