"""Private servers that keep what they acknowledge, on loopback, started and stopped by the program.

They are the tests' throw-away servers, but with fsync on. When the program ends, even by kill -9, the shell that runs a
server stops it and removes its files.
"""

from __future__ import annotations

import asyncio
import os
import shlex
import shutil
import socket
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

from tests.servers import RUN_DIRECTORY, MariaDB, MySQL, PostgreSQL, Server, Shell

from .disk import slow_environment
from .statements import count_on_postgresql

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Generator


@dataclass(frozen=True)
class Running:
    """A server that accepts connections."""

    dsn: str
    version: str
    settings: dict[str, str]
    """What its durability depends on, as the server itself says."""
    run: Callable[[str], Awaitable[object]] | None = None
    """How to run a statement of SQL on it, if it has any."""


class DurablePostgreSQL(PostgreSQL):
    """PostgreSQL with the settings that initdb makes, which are durable."""

    initialise = '"$bin/initdb" -A trust -U postgres -E UTF8 --no-locale -N -D'
    serve = (
        '"$bin/postgres" -D data -p $port -c listen_addresses=127.0.0.1 -c unix_socket_directories= '
        "-c dynamic_shared_memory_type=mmap -c shared_preload_libraries=pg_stat_statements"
    )


class DurableMariaDB(MariaDB):
    """MariaDB with durable settings, which are its own; it writes no binlog unless it is asked to."""

    serve = (
        '$run --datadir="$PWD/data" --port=$port --bind-address=127.0.0.1 --socket="$PWD/socket" --pid-file="$PWD/pid" '
        "--innodb-flush-log-at-trx-commit=1 --innodb-doublewrite=ON --sync-binlog=1 --max-allowed-packet=64M"
    )


class DurableMySQL(MySQL):
    """MySQL with durable settings, which are its own, a binlog among them."""

    serve = f"{DurableMariaDB.serve} --mysqlx=OFF --secure-file-priv=NULL"


@contextmanager
def postgresql(*, slow_disk: bool) -> Generator[Running, None, None]:
    """Start PostgreSQL. Not for use in an event loop.

    Raises:
        OSError: there is none on this machine, or no compiler for the slow disk.
        RuntimeError: it does not start; with the end of its log.
    """
    ask = (
        "SELECT name, current_setting(name) FROM unnest('{server_version, fsync, synchronous_commit, full_page_writes, "
        "wal_level, wal_sync_method, commit_delay, shared_buffers, max_connections}'::text[]) AS name"
    )
    with _private(DurablePostgreSQL, ask, slow_disk=slow_disk) as running:
        count_on_postgresql(running.dsn, on=False)
        yield running


@contextmanager
def mysql(kind: type[MariaDB | MySQL], *, slow_disk: bool) -> Generator[Running, None, None]:
    """Start MariaDB or MySQL. Not for use in an event loop.

    Raises the same as `postgresql`.
    """
    ask = (
        "SHOW GLOBAL VARIABLES WHERE variable_name IN ('version', 'innodb_flush_log_at_trx_commit', 'sync_binlog', "
        "'log_bin', 'innodb_doublewrite', 'innodb_flush_method', 'innodb_buffer_pool_size', 'max_connections')"
    )
    with _private(kind, ask, slow_disk=slow_disk) as running:
        yield running


@contextmanager
def _private(kind: type[Server], ask: str, *, slow_disk: bool) -> Generator[Running, None, None]:
    with ExitStack() as stack:
        shared = stack.enter_context(closing(Shell(demoted=kind.refuses_root)))
        with _disk(stack, slow=slow_disk), patch.dict(os.environ, {RUN_DIRECTORY: str(shared.directory)}):
            server = kind.private()
        stack.callback(server.close)
        settings = {str(name): str(value) for name, value in asyncio.run(server.fetch(ask))}
        version = settings.pop("server_version", "") or settings.pop("version")
        yield Running(server.dsn, version, settings, server.fetch)


@contextmanager
def redis(*, always: bool, slow_disk: bool) -> Generator[Running, None, None]:
    """Start Redis as it is shipped; *always*, with each write on disk before it is acknowledged.

    Raises:
        ImportError: its driver is not installed.
        OSError: there is no Redis on this machine, or no compiler for the slow disk.
        RuntimeError: it does not start; with the end of its log.
    """
    from redis import Redis  # noqa: PLC0415 - a contender's driver, which may be missing

    executable = shutil.which("redis-server")
    if executable is None:
        msg = "no redis-server in PATH"
        raise FileNotFoundError(msg)
    with ExitStack() as stack:
        with _disk(stack, slow=slow_disk):
            shell = stack.enter_context(closing(Shell()))
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        durable = "--appendonly yes --appendfsync always" if always else ""
        shell.run(f"{shlex.quote(executable)} --port {port} --bind 127.0.0.1 {durable} & pid=$!")
        shell.run(
            "until grep -qs 'Ready to accept connections' log || ! kill -0 $pid; do sleep 0.02; done; kill -0 $pid"
        )
        client: Any  # its types are partly unknown
        with Redis(port=port, decode_responses=True) as client:
            version: str = client.info("server")["redis_version"]
            settings: dict[str, str] = client.config_get("appendonly", "appendfsync", "save")
        yield Running(f"redis://127.0.0.1:{port}/0", version, settings)


def _disk(stack: ExitStack, *, slow: bool) -> AbstractContextManager[object]:
    """Return the context in which to start the shell of a server; *stack* keeps the shim for as long as that runs."""
    return patch.dict(os.environ, stack.enter_context(slow_environment()) if slow else {})


SERVERS: dict[str, Callable[..., AbstractContextManager[Running]]] = {
    "postgresql": postgresql,
    "mariadb": partial(mysql, DurableMariaDB),
    "mysql": partial(mysql, DurableMySQL),
    "redis": partial(redis, always=False),
    "redis-always": partial(redis, always=True),
}
"""Each takes ``slow_disk``."""
