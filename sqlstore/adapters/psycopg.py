"""PostgreSQL through psycopg 3, asynchronous or synchronous.

Raw cursors take PostgreSQL's own ``$1``, so that the SQL is the same as asyncpg's. A synchronous store serves the
asynchronous protocol, too: each of its connections lives in a thread of its own.
"""

from __future__ import annotations

import asyncio
import math
import os
import select
import socket
import weakref
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg import errors, pq
from typing_extensions import override

from ..config import BaseConfig, ExtensionConfig
from ..connection import StoreConnection, ThreadConnection
from ..dialects import POSTGRESQL
from ..exceptions import ConnectionLostError, ContentionError, SQLStoreError, UnavailableError
from ..store import BaseSQLSpecStore
from ._postgresql import meaning, store_settings, terminate

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ..dialects import Step

    Rows = Sequence[Sequence[Any]]

__all__ = ("PsycopgAsyncConfig", "PsycopgAsyncStore", "PsycopgSyncConfig", "PsycopgSyncStore")

_CONNECT_OPTIONS = frozenset({"conninfo", *(option.keyword.decode() for option in pq.Conninfo.get_defaults())})
# Of psycopg_pool's pools: accepted, so that the same dict can open a pool of the application's.
_POOL_OPTIONS = frozenset(
    {"check", "close_returns", "configure", "connection_class", "kwargs", "max_idle", "max_lifetime", "max_size"}
    | {"max_waiting", "min_size", "name", "num_workers", "open", "reconnect_failed", "reconnect_timeout", "reset"}
    | {"timeout"}
)


class _PsycopgConfig(BaseConfig):
    dialect = POSTGRESQL

    def __init__(self, *, pool_config: Mapping[str, Any], extension_config: ExtensionConfig | None = None) -> None:
        """Keep the settings; nothing is opened yet.

        *pool_config* is what psycopg_pool's pools take, ``conninfo`` and ``kwargs``, or libpq's own ``host``,
        ``port``, ``user``, ``password``, ``dbname``, and so on.

        Raises:
            TypeError: an option is unknown, or of the wrong type.
            ValueError: an option is out of range.
        """
        super().__init__(pool_config, _CONNECT_OPTIONS | _POOL_OPTIONS, extension_config)

    def connect_options(self) -> dict[str, Any]:
        """Return what a store connection is opened with."""
        options = {name: value for name, value in self.pool_config.items() if name in _CONNECT_OPTIONS}
        options = {**self.pool_config.get("kwargs", {}), **options, "autocommit": True}
        options.setdefault("application_name", "sqlstore")
        options.setdefault("connect_timeout", math.ceil(self.timeout))
        return options

    def settings(self, *, writes: bool) -> bytes:
        """Return the statements that make a connection one of the stores'."""
        settings = store_settings(self.timeout, writes=writes)
        return ";".join(f"SET {name} = '{value}'" for name, value in settings.items()).encode()

    @override
    def classify(self, error: Exception) -> type[SQLStoreError]:
        if isinstance(error, errors.FeatureNotSupported):  # cached plan must not change result type
            return ContentionError
        if isinstance(error, (errors.ConnectionTimeout, OSError)):
            return UnavailableError
        found = meaning(error.sqlstate) if isinstance(error, psycopg.Error) else None
        if found is None and isinstance(error, (psycopg.OperationalError, psycopg.InterfaceError)):
            return ConnectionLostError
        return found or SQLStoreError


class PsycopgAsyncConfig(_PsycopgConfig):
    """A PostgreSQL database reached through psycopg's asynchronous connections."""

    @override
    async def open_store_connection(self, *, writes: bool = True) -> PsycopgAsyncConnection:
        async with asyncio.timeout(self.timeout):
            connection = await psycopg.AsyncConnection.connect(
                **self.connect_options(), cursor_factory=psycopg.AsyncRawCursor
            )
            try:
                await connection.execute(self.settings(writes=writes))
            except BaseException:
                connection.pgconn.finish()
                raise
        return PsycopgAsyncConnection(self, connection)


class PsycopgSyncConfig(_PsycopgConfig):
    """A PostgreSQL database reached through psycopg's synchronous connections, each in a thread of its own."""

    @override
    async def open_store_connection(self, *, writes: bool = True) -> PsycopgSyncConnection:
        connection = PsycopgSyncConnection(self, writes=writes)
        async with asyncio.timeout(self.timeout):
            await connection.open()
        return connection


class PsycopgAsyncConnection(StoreConnection):
    """An asynchronous connection of psycopg, whose statements are prepared once."""

    def __init__(self, config: PsycopgAsyncConfig, connection: psycopg.AsyncConnection[Any]) -> None:
        self._config = weakref.ref(config)
        self._connection = connection
        self._server_pid = connection.info.backend_pid
        self._running = False
        self._killed = False

    @property
    @override
    def closed(self) -> bool:
        return self._killed or _is_lost(self._connection)

    @override
    async def run(self, steps: Sequence[Step], *, atomic: bool = True) -> list[Rows]:
        self._running = True
        try:
            return [await self._run(step) for step in steps]
        finally:
            self._running = False
            if self._killed:
                self._connection.pgconn.finish()

    async def _run(self, step: Step) -> Rows:
        try:
            cursor = await self._connection.execute(*_arguments(step), prepare=_prepare(step), binary=True)
        except errors.FeatureNotSupported:
            self.kill()  # the table was altered, and the statements were prepared for what it was
            raise
        return await cursor.fetchall() if cursor.description else ()

    @override
    async def close(self) -> None:
        await self._connection.close()

    @override
    def kill(self) -> None:
        if self._killed or self._connection.closed:
            return
        self._killed = True
        if self._running:
            _hang_up(self._connection)
        else:
            self._connection.pgconn.finish()

    @override
    async def bury(self) -> None:
        await terminate(self._config(), self._server_pid)


class PsycopgSyncConnection(ThreadConnection):
    """A synchronous connection of psycopg in its thread, whose statements are prepared once."""

    def __init__(self, config: PsycopgSyncConfig, *, writes: bool) -> None:
        super().__init__()
        self._config = weakref.ref(config)
        self._options = config.connect_options()
        self._settings = config.settings(writes=writes)
        self._connection: psycopg.Connection[Any] | None = None
        self._server_pid = 0

    @override
    def _connect(self) -> None:
        self._connection = psycopg.connect(**self._options, cursor_factory=psycopg.RawCursor)
        self._server_pid = self._connection.info.backend_pid
        self._connection.execute(self._settings)

    @override
    def _run(self, steps: Sequence[Step], *, atomic: bool) -> list[Rows]:
        connection = self._connection
        if connection is None:
            msg = "the connection is closed"
            raise psycopg.OperationalError(msg)
        return [self._execute(connection, step) for step in steps]

    def _execute(self, connection: psycopg.Connection[Any], step: Step) -> Rows:
        try:
            cursor = connection.execute(*_arguments(step), prepare=_prepare(step), binary=True)
        except errors.FeatureNotSupported:
            connection.close()  # the table was altered, and the statements were prepared for what it was
            raise
        return cursor.fetchall() if cursor.description else ()

    @property
    @override
    def closed(self) -> bool:
        return super().closed or (self._connection is not None and _is_lost(self._connection))

    @override
    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    @override
    def _interrupt(self) -> None:
        if self._connection is not None and not self._connection.closed:
            _hang_up(self._connection)

    @override
    async def bury(self) -> None:
        await super().bury()
        await terminate(self._config(), self._server_pid)


class PsycopgAsyncStore(BaseSQLSpecStore[PsycopgAsyncConfig]):
    """A Litestar store in PostgreSQL."""

    @classmethod
    @override
    def config_type(cls) -> type[PsycopgAsyncConfig]:
        return PsycopgAsyncConfig


class PsycopgSyncStore(BaseSQLSpecStore[PsycopgSyncConfig]):
    """A Litestar store in PostgreSQL, over synchronous connections."""

    @classmethod
    @override
    def config_type(cls) -> type[PsycopgSyncConfig]:
        return PsycopgSyncConfig


def _arguments(step: Step) -> tuple[bytes, Sequence[Any] | None]:
    return step.text.encode(), step.parameters or None


def _prepare(step: Step) -> bool | None:
    # Without parameters there may be several statements in the text, which cannot be prepared.
    return True if step.parameters else None


def _is_lost(connection: psycopg.AsyncConnection[Any] | psycopg.Connection[Any]) -> bool:
    """Return whether an idle connection is closed, or the server has something to say, which is that it has gone."""
    if connection.closed:
        return True
    poll = select.poll()  # not select.select, which refuses large file descriptors
    poll.register(connection.pgconn.socket, select.POLLIN)
    return bool(poll.poll(0))


def _hang_up(connection: psycopg.AsyncConnection[Any] | psycopg.Connection[Any]) -> None:
    """End the conversation: whoever waits for the server's answer is told that it has gone."""
    with socket.socket(fileno=os.dup(connection.pgconn.socket)) as other:
        other.shutdown(socket.SHUT_RDWR)
