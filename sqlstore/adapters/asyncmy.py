"""MySQL and MariaDB through asyncmy.

A call is one packet, and so is a transaction of several statements. The packets are sent past asyncmy's cursors, which
ask the server for its warnings with another one.
"""

from __future__ import annotations

import asyncio
import inspect
import weakref
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from typing_extensions import override

from ..config import BaseConfig, ExtensionConfig
from ..connection import StoreConnection, close_socket, has_news
from ..dbapi import AsyncDBAPIConnection
from ..dialects import MYSQL, Step
from ..exceptions import (
    ConnectionLostError,
    ContentionError,
    ForeignKeyViolationError,
    ReadOnlyError,
    SQLStoreError,
    TableMismatchError,
    TableMissingError,
    UnavailableError,
    UniqueViolationError,
    ValueTooLargeError,
)
from ..pool import ConnectionPool
from ..store import BaseSQLSpecStore
from ._extras import driver_of

with driver_of("asyncmy"):
    import asyncmy
    from asyncmy import errors
    from asyncmy.cursors import Cursor, SSCursor

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    Rows = Sequence[Sequence[Any]]
    Value = bytes | str | float | None

__all__ = ("AsyncmyConfig", "AsyncmyStore")

_DRIVER: Any = asyncmy  # its types say little

# Not sock, which serves one connection only.
_CONNECT_OPTIONS = frozenset(inspect.signature(_DRIVER.connect).parameters) - {"sock"}
_POOL_OPTIONS = frozenset(inspect.signature(_DRIVER.create_pool).parameters) - {"kwargs"}
_MAX_SIZE: int = inspect.signature(_DRIVER.create_pool).parameters["maxsize"].default

# https://dev.mysql.com/doc/mysql-errors/8.4/en/server-error-reference.html
_MEANING: dict[object, type[SQLStoreError]] = {
    1020: ContentionError,  # ER_CHECKREAD: changed since it was read
    1040: ContentionError,  # ER_CON_COUNT_ERROR
    1049: TableMissingError,  # ER_BAD_DB_ERROR: the schema
    1053: ConnectionLostError,  # ER_SERVER_SHUTDOWN
    1054: TableMismatchError,  # ER_BAD_FIELD_ERROR
    1118: ValueTooLargeError,  # ER_TOO_BIG_ROWSIZE: for the redo log
    1142: ReadOnlyError,  # ER_TABLEACCESS_DENIED_ERROR
    1143: ReadOnlyError,  # ER_COLUMNACCESS_DENIED_ERROR
    1146: TableMissingError,  # ER_NO_SUCH_TABLE
    1153: ValueTooLargeError,  # ER_NET_PACKET_TOO_LARGE
    1176: TableMismatchError,  # ER_KEY_DOES_NOT_EXITS
    1203: ContentionError,  # ER_TOO_MANY_USER_CONNECTIONS
    1205: ContentionError,  # ER_LOCK_WAIT_TIMEOUT
    1213: ContentionError,  # ER_LOCK_DEADLOCK
    1226: ContentionError,  # ER_USER_LIMIT_REACHED
    1290: ReadOnlyError,  # ER_OPTION_PREVENTS_STATEMENT: read_only
    1317: ContentionError,  # ER_QUERY_INTERRUPTED
    1364: TableMismatchError,  # ER_NO_DEFAULT_FOR_FIELD
    1412: ContentionError,  # ER_TABLE_DEF_CHANGED
    1792: ReadOnlyError,  # ER_CANT_EXECUTE_IN_READ_ONLY_TRANSACTION
    1836: ReadOnlyError,  # ER_READ_ONLY_MODE
    1927: ConnectionLostError,  # ER_CONNECTION_KILLED, of MariaDB
    2006: ContentionError,  # CR_SERVER_GONE_ERROR: noticed before the whole packet was sent
    2013: ConnectionLostError,  # CR_SERVER_LOST
    4031: ConnectionLostError,  # ER_CLIENT_INTERACTION_TIMEOUT
}
_VIOLATIONS: dict[object, type[SQLStoreError]] = {
    1062: UniqueViolationError,  # ER_DUP_ENTRY
    1216: ForeignKeyViolationError,  # ER_NO_REFERENCED_ROW
    1217: ForeignKeyViolationError,  # ER_ROW_IS_REFERENCED
    1451: ForeignKeyViolationError,  # ER_ROW_IS_REFERENCED_2
    1452: ForeignKeyViolationError,  # ER_NO_REFERENCED_ROW_2
    1586: UniqueViolationError,  # ER_DUP_ENTRY_WITH_KEY_NAME
    1761: UniqueViolationError,  # ER_FOREIGN_DUPLICATE_KEY_WITH_CHILD_INFO
    1762: UniqueViolationError,  # ER_FOREIGN_DUPLICATE_KEY_WITHOUT_CHILD_INFO
}
_DEADLOCK = 1213
# Said of a login, these mean its database, and not a table.
_NO_DATABASE = (1044, 1049)  # ER_DBACCESS_DENIED_ERROR, ER_BAD_DB_ERROR
_NO_SUCH_THREAD = 1094
# MySQL lists no connection while one of them runs a statement with bytes that are no UTF-8, as of a value.
_NOT_LISTED = 3854

# The shortest timeouts there are: a row that somebody's transaction holds must not hold up this connection, and what
# shares the statement, for long: the call tries again. Strict, so that nothing is cut off in silence.
_SETTINGS = b"""\
SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED;
SET SESSION sql_mode = 'STRICT_ALL_TABLES', innodb_lock_wait_timeout = 1, lock_wait_timeout = 1;
SELECT @@max_allowed_packet, id, host
  FROM information_schema.processlist
 WHERE id = CONNECTION_ID()"""
# The host has the port, so that no other connection is meant that has the id after a restart of the server.
_IS_RUNNING = """
SELECT id
  FROM information_schema.processlist
 WHERE id = %s
   AND host = %s"""


class AsyncmyConfig(BaseConfig):
    """A MySQL or MariaDB database reached through asyncmy."""

    dialect = MYSQL

    def __init__(self, *, pool_config: Mapping[str, Any], extension_config: ExtensionConfig | None = None) -> None:
        """Keep the settings; nothing is opened yet.

        *pool_config* is what `asyncmy.create_pool` takes: ``host``, ``port``, ``user``, ``password``, ``database``,
        and so on.

        Raises:
            TypeError: an option is unknown, or of the wrong type.
            ValueError: an option is out of range.
        """
        super().__init__(pool_config, _CONNECT_OPTIONS | _POOL_OPTIONS, extension_config)

    @override
    async def open_store_connection(self, *, writes: bool = True) -> AsyncmyConnection:
        options = {name: value for name, value in self.pool_config.items() if name in _CONNECT_OPTIONS}
        options.setdefault("program_name", "sqlstore")
        options.setdefault("connect_timeout", self.timeout)
        # What the text and the answers rely on; and the lanes keep time, who know what was sent.
        options.update(
            autocommit=True, charset="utf8mb4", conv=None, read_timeout=None, sql_mode=None, use_unicode=True
        )
        async with asyncio.timeout(self.timeout):
            try:
                driver_connection = await _DRIVER.connect(**options)
            except errors.MySQLError as error:
                if error.args[0] in _NO_DATABASE:
                    msg = f"cannot use the database: check pool_config ({error})"
                    raise UnavailableError(msg) from error
                raise
            connection = AsyncmyConnection(self, driver_connection)
            try:
                await connection.prepare()
            except BaseException:
                connection.kill()
                raise
        return connection

    @override
    def new_store(self) -> BaseSQLSpecStore[Any]:
        return AsyncmyStore(self)

    @override
    def new_pool(self) -> AsyncmyPool:
        return AsyncmyPool(self)

    @override
    def violation(self, error: Exception) -> type[SQLStoreError] | None:
        return _VIOLATIONS.get(_code(error))

    @override
    def classify(self, error: Exception) -> type[SQLStoreError]:
        if isinstance(error, (errors.InterfaceError, errors.InternalError)):  # closed, or out of step
            return ConnectionLostError
        return _MEANING.get(_code(error), SQLStoreError)


class AsyncmyConnection(StoreConnection):
    """An asyncmy connection, used without cursors."""

    def __init__(self, config: AsyncmyConfig, connection: Any) -> None:  # noqa: ANN401 - asyncmy.Connection
        self._config = weakref.ref(config)
        self._timeout = config.timeout
        self._connection = connection
        self._transport: asyncio.Transport = connection._transport  # noqa: SLF001 - a closed connection has none
        self._largest_packet = 2**30  # until the server has told
        self._server_id = 0
        self._host = ""

    async def prepare(self) -> None:
        """Make the connection one of the stores'."""
        while True:
            try:
                [[self._largest_packet, self._server_id, self._host]] = await self._send(_SETTINGS)
            except errors.MySQLError as error:
                if error.args[0] != _NOT_LISTED:
                    raise
            else:
                return
            await asyncio.sleep(0.01)

    @property
    @override
    def closed(self) -> bool:
        return self._transport.is_closing() or has_news(self._transport.get_extra_info("socket"))

    @override
    async def run(self, steps: Sequence[Step], *, atomic: bool = True) -> list[Rows]:
        return [await self._run(step) for step in steps]

    async def _run(self, step: Step) -> Rows:
        texts = _bound(step, _literal)
        if len(texts) == 1:
            return await self._send(texts[0])
        try:
            return await self._send(b";".join((b"START TRANSACTION", *texts, b"COMMIT")))
        except errors.MySQLError:
            # Most errors undo the statement, and leave the transaction open; a lost connection undoes it, too.
            if not self.closed:
                with suppress(errors.MySQLError):
                    await self._send(b"ROLLBACK")
            raise

    async def _send(self, packet: bytes) -> Rows:
        if len(packet) + 1 >= self._largest_packet:  # one byte says that it is a query
            msg = (
                f"the value is too large for the server: its max_allowed_packet is {self._largest_packet:,} bytes, "
                f"and the statement has {len(packet):,}"
            )
            raise ValueTooLargeError(msg)
        return await _rows(self, self._connection, packet)

    @override
    async def close(self) -> None:
        with suppress(OSError, TimeoutError, errors.MySQLError):
            async with asyncio.timeout(self._timeout):
                await self._connection.ensure_closed()
        self.kill()

    @override
    def kill(self) -> None:
        try:
            self._transport.abort()
        except RuntimeError:  # its loop is closed
            close_socket(self._transport)

    @override
    async def bury(self) -> None:
        config = self._config()
        if config is None:  # nobody is left who could send anything after it
            return
        async with config.spare_connection() as other:
            while await self._may_run(other):
                try:
                    await other.run([Step("KILL %s", (self._server_id,))])
                except errors.MySQLError as error:
                    if error.args[0] != _NO_SUCH_THREAD:
                        raise
                    return
                await asyncio.sleep(0.01)

    async def _may_run(self, other: StoreConnection) -> bool:
        try:
            return bool((await other.run([Step(_IS_RUNNING, (self._server_id, self._host))]))[0])
        except errors.MySQLError as error:
            if error.args[0] != _NOT_LISTED:
                raise
            return True  # its own statement may be what cannot be shown


class AsyncmyApplicationConnection(AsyncDBAPIConnection):
    """An asyncmy connection of the application's."""

    def __init__(self, driver_connection: Any) -> None:  # noqa: ANN401 - asyncmy.Connection
        super().__init__(driver_connection, MYSQL)
        self._transport: asyncio.Transport = driver_connection._transport  # noqa: SLF001

    @override
    def _cursor(self) -> Any:
        return self.driver_connection.cursor(Cursor)  # not the application's cursor_cls, whose rows may be mappings

    @override
    def _stream_cursor(self) -> Any:
        return self.driver_connection.cursor(SSCursor)

    @override
    async def _run(self, step: Step) -> Rows:
        return await _rows(self, self.driver_connection, b";".join(_bound(step, _hexadecimal)))

    @override
    def undid_transaction(self, error: Exception) -> bool:
        return _code(error) == _DEADLOCK

    @override
    def kill(self) -> None:
        self._transport.abort()


class AsyncmyPool(ConnectionPool[AsyncmyApplicationConnection]):
    """One of asyncmy's pools."""

    def __init__(self, config: AsyncmyConfig) -> None:
        self._options: dict[str, Any] = {"minsize": 0, "connect_timeout": config.timeout, **config.pool_config}
        super().__init__(config, self._options.get("maxsize", _MAX_SIZE))
        self._pool: Any = None

    @override
    async def _open(self) -> None:
        self._pool = await _DRIVER.create_pool(**self._options)

    @override
    async def _take(self) -> AsyncmyApplicationConnection:
        driver_connection = await self._pool.acquire()
        connection = AsyncmyApplicationConnection(driver_connection)
        try:
            if not driver_connection.get_autocommit():
                await driver_connection.autocommit(True)  # noqa: FBT003 - its only argument
        except BaseException:
            await self._drop(connection)
            raise
        return connection

    @override
    async def _put(self, connection: AsyncmyApplicationConnection) -> None:
        if connection.driver_connection.get_transaction_status():
            await connection.rollback()
        self._pool.release(connection.driver_connection)

    @override
    async def _drop(self, connection: AsyncmyApplicationConnection) -> None:
        connection.driver_connection.close()
        self._pool.release(connection.driver_connection)

    @override
    async def _close(self) -> None:
        self._pool.close()
        await self._pool.wait_closed()

    @override
    def kill(self) -> None:
        if self._pool is not None:
            for driver_connection in (*self._pool._free, *self._pool._used):  # noqa: SLF001 - close() needs a loop
                close_socket(driver_connection._transport)  # noqa: SLF001


class AsyncmyStore(BaseSQLSpecStore[AsyncmyConfig]):
    """A Litestar store in MySQL or MariaDB."""

    @classmethod
    @override
    def config_type(cls) -> type[AsyncmyConfig]:
        return AsyncmyConfig


def _code(error: Exception) -> object:
    return error.args[0] if isinstance(error, errors.MySQLError) and error.args else None


async def _rows(
    connection: AsyncmyConnection | AsyncmyApplicationConnection,
    driver_connection: Any,  # noqa: ANN401 - asyncmy.Connection
    packet: bytes,
) -> Rows:
    """Send statements, and return the rows of the last one that is a query."""
    try:
        await driver_connection.query(packet)
        result = driver_connection._result  # noqa: SLF001 - as asyncmy's cursors do
        rows: Rows = result.rows or ()
        while result.has_next:
            await driver_connection.next_result()
            result = driver_connection._result  # noqa: SLF001
            rows = rows if result.rows is None else result.rows
    except BaseException as error:
        if not isinstance(error, errors.MySQLError) or error.sqlstate is None:
            # It is not the server's answer, which may still come, and must be nobody else's.
            connection.kill()
        raise
    return rows


def _bound(first: Step, literal: Callable[[Value], bytes]) -> list[bytes]:
    """Return the statements of a step and of those after it, with a *literal* for each value."""
    texts: list[bytes] = []
    step: Step | None = first
    while step is not None:
        text = step.text.encode()
        texts.append(text % tuple([literal(value) for value in step.parameters]) if step.parameters else text)
        step = step.then
    return texts


def _literal(value: Value) -> bytes:
    # As the sql_mode of a store connection wants it. Not asyncmy's escape, which goes through strings (and, for bytes,
    # is wrong under NO_BACKSLASH_ESCAPES).
    if isinstance(value, bytes):
        return b"_binary'%b'" % value.replace(b"\\", b"\\\\").replace(b"'", b"''")
    if isinstance(value, str):
        return b"'%b'" % value.encode().replace(b"\\", b"\\\\").replace(b"'", b"''")
    return b"NULL" if value is None else repr(value).encode()


def _hexadecimal(value: Value) -> bytes:
    # Whatever the sql_mode and the character set of an application's connection: a backslash, or the second half of a
    # character, means something else in some of them.
    if isinstance(value, (bytes, str)):
        return b"X'%b'" % (value if isinstance(value, bytes) else value.encode()).hex().encode()
    return _literal(value)
