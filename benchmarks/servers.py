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
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

from tests.servers import RUN_DIRECTORY, PostgreSQL, Shell

from .disk import slow_environment
from .statements import count_on_postgresql

if TYPE_CHECKING:
    from collections.abc import Generator


@dataclass(frozen=True)
class Running:
    """A server that accepts connections."""

    dsn: str
    version: str
    settings: dict[str, str]
    """What its durability depends on, as the server itself says."""


class DurablePostgreSQL(PostgreSQL):
    """PostgreSQL with the settings that initdb makes, which are durable."""

    initialise = '"$bin/initdb" -A trust -U postgres -E UTF8 --no-locale -N -D'
    serve = (
        '"$bin/postgres" -D data -p $port -c listen_addresses=127.0.0.1 -c unix_socket_directories= '
        "-c dynamic_shared_memory_type=mmap -c shared_preload_libraries=pg_stat_statements"
    )


@contextmanager
def postgresql(*, slow_disk: bool) -> Generator[Running, None, None]:
    """Start PostgreSQL. Not for use in an event loop.

    Raises:
        OSError: there is none on this machine, or no compiler for the slow disk.
        RuntimeError: it does not start; with the end of its log.
    """
    with ExitStack() as stack:
        shared = stack.enter_context(closing(Shell()))
        with _disk(stack, slow=slow_disk), patch.dict(os.environ, {RUN_DIRECTORY: str(shared.directory)}):
            server = DurablePostgreSQL.private()
        stack.callback(server.close)
        count_on_postgresql(server.dsn, on=False)
        names = (
            "fsync, synchronous_commit, full_page_writes, wal_level, wal_sync_method, commit_delay, shared_buffers, "
            "max_connections"
        )
        setting = "SELECT name, current_setting(name) FROM unnest(string_to_array('{}', ', ')) AS name"
        rows = asyncio.run(server.fetch(setting.format(f"server_version, {names}")))
        settings = {str(name): str(value) for name, value in rows}
        yield Running(server.dsn, settings.pop("server_version"), settings)


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
