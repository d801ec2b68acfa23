"""Oracle Database through python-oracledb's thin mode, asynchronous or synchronous.

A synchronous store serves the asynchronous protocol, too: each of its connections lives in a thread of its own.
"""

# ruff: noqa: ANN401 - oracledb's types say little

from __future__ import annotations

import asyncio
import gc
import inspect
import socket
import sys
import time
import weakref
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from typing_extensions import override

from ..config import BaseConfig, ExtensionConfig
from ..connection import StoreConnection, ThreadConnection, close_socket, has_news
from ..database_session import STREAMED_ROWS
from ..dbapi import AsyncDBAPIConnection, Cursors, SyncDBAPIConnection
from ..dialects import ORACLE, Step
from ..exceptions import (
    AlreadyThereError,
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
from ..operations import BATCH_ROWS
from ..pool import ConnectionPool, SyncConnectionPool
from ..store import BaseSQLSpecStore
from ._extras import driver_of

with driver_of("oracledb"):
    import oracledb

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from types import FrameType

    from ..pool import TransactionMode

    Rows = Sequence[Sequence[Any]]

__all__ = ("OracleAsyncConfig", "OracleAsyncStore", "OracleSyncConfig", "OracleSyncStore")

_DRIVER: Any = oracledb  # whose types say little

_CONNECT_OPTIONS = frozenset(inspect.signature(oracledb.connect).parameters) - {"conn_class", "pool", "pool_alias"}
_POOL_OPTIONS = frozenset(inspect.signature(oracledb.create_pool).parameters) - {"pool_class"}

LARGEST_RAW = 2000
"""Bytes of a value that is a RAW, which may stand anywhere in a statement. A larger one would be a LONG, which MERGE
may refuse (ORA-01461), and is sent ahead as a temporary LOB."""
_PART = 256 * 1024
"""Bytes of such a value that are sent in one round trip."""
_LARGE = {
    _DRIVER.DB_TYPE_BLOB: _DRIVER.DB_TYPE_LONG_RAW,
    _DRIVER.DB_TYPE_CLOB: _DRIVER.DB_TYPE_LONG,
    _DRIVER.DB_TYPE_NCLOB: _DRIVER.DB_TYPE_LONG_NVARCHAR,
}
_VALUE_TYPES = (_DRIVER.DB_TYPE_BLOB, _DRIVER.DB_TYPE_LONG_RAW)
_MAX_SIZE = 10
"""Of the application's pool if not given; oracledb's own is 2."""
_CACHED_STATEMENTS = 100
"""For each connection; a server's own limit (OPEN_CURSORS) is 300 by default."""
# What a DBA may have set otherwise for all users: keys are compared byte for byte, a commit is on disk before its
# caller goes on, and an upsert never fails because somebody else was first.
_SETTINGS = (
    "ALTER SESSION SET NLS_COMP = BINARY NLS_SORT = BINARY COMMIT_LOGGING = IMMEDIATE COMMIT_WAIT = WAIT",
    "ALTER SESSION SET ISOLATION_LEVEL = READ COMMITTED",
)

# https://docs.oracle.com/error-help/db/ and https://python-oracledb.readthedocs.io/en/latest/user_guide/exception_handling.html
_MEANING: dict[str, type[SQLStoreError]] = {
    "DPY-1001": ContentionError,  # not connected: nothing was sent, and what was not committed is rolled back
    "DPY-4011": ConnectionLostError,  # ORA-03113, ORA-03114, ORA-03135 and the like
    "DPY-6000": UnavailableError,  # the listener refused the connection
    "DPY-6001": UnavailableError,  # unknown service
    "DPY-6003": UnavailableError,  # unknown SID
    "DPY-6005": UnavailableError,  # cannot connect
    "ORA-00001": ContentionError,  # unique constraint: MERGE met a row that was inserted at the same time
    "ORA-00018": ContentionError,  # too many sessions
    "ORA-00020": ContentionError,  # too many processes
    "ORA-00028": ConnectionLostError,  # the session was killed
    "ORA-00054": ContentionError,  # NOWAIT
    "ORA-00060": ContentionError,  # deadlock
    "ORA-00904": TableMismatchError,  # unknown column
    "ORA-00932": TableMismatchError,  # another type
    "ORA-00942": TableMissingError,
    "ORA-00955": AlreadyThereError,  # the name is used
    "ORA-01012": ConnectionLostError,  # not logged on
    "ORA-01013": ContentionError,  # cancelled by an administrator
    "ORA-01017": UnavailableError,  # wrong user or password
    "ORA-01031": ReadOnlyError,  # insufficient privileges
    "ORA-01033": ContentionError,  # starting or shutting down
    "ORA-01045": UnavailableError,  # may not log in
    "ORA-01408": AlreadyThereError,  # an index on these columns
    "ORA-01950": ReadOnlyError,  # no quota on the tablespace
    "ORA-02396": ConnectionLostError,  # idle for too long
    "ORA-03113": ConnectionLostError,
    "ORA-03114": ConnectionLostError,
    "ORA-03135": ConnectionLostError,
    "ORA-04021": ContentionError,  # somebody changes the table
    "ORA-08177": ContentionError,  # serialization failure
    "ORA-12516": ContentionError,  # the listener has no free handler
    "ORA-12519": ContentionError,
    "ORA-12520": ContentionError,
    "ORA-12537": ConnectionLostError,
    "ORA-12899": ValueTooLargeError,
    "ORA-16000": ReadOnlyError,  # the database is open read-only
    "ORA-28000": UnavailableError,  # the account is locked
    "ORA-28001": UnavailableError,  # the password has expired
    "ORA-28194": ReadOnlyError,  # a read-only user
    "ORA-30006": ContentionError,  # NOWAIT met a lock of another kind
    "ORA-41900": ReadOnlyError,  # 23ai's word for a missing privilege
}
_VIOLATIONS: dict[str, type[SQLStoreError]] = {
    "ORA-00001": UniqueViolationError,
    "ORA-02291": ForeignKeyViolationError,  # no such parent
    "ORA-02292": ForeignKeyViolationError,  # a child is left
}
# A step locks its rows first, and does not wait for them. In a store the lanes try again; in the application's
# transaction the connection does, until it is killed because that takes too long.
_ROW_IS_LOCKED = "ORA-00054"
_PAUSE = 0.01
"""Seconds."""
_NO_SUCH_SESSION, _MARKED_FOR_KILL = "ORA-00030", "ORA-00031"


class _OracleConfig(BaseConfig):
    dialect = ORACLE

    def __init__(self, *, pool_config: Mapping[str, Any], extension_config: ExtensionConfig | None = None) -> None:
        """Keep the settings; nothing is opened yet.

        *pool_config* is what `oracledb.create_pool` takes: ``user``, ``password``, ``dsn``, or ``host``, ``port``,
        ``service_name``, and so on.

        Raises:
            TypeError: an option is unknown, or of the wrong type.
            ValueError: an option is out of range.
        """
        super().__init__(pool_config, _CONNECT_OPTIONS | _POOL_OPTIONS, extension_config)

    def connect_options(self) -> dict[str, Any]:
        """Return what a store connection is opened with."""
        options = {name: value for name, value in self.pool_config.items() if name in _CONNECT_OPTIONS}
        options.setdefault("program", "sqlstore")
        options.setdefault("stmtcachesize", _CACHED_STATEMENTS)
        options.setdefault("tcp_connect_timeout", self.timeout)
        return options

    def pool_options(self) -> dict[str, Any]:
        """Return what a pool for the application is made with."""
        options = {"min": 0, "tcp_connect_timeout": self.timeout, **self.pool_config}
        options.setdefault("max", max(_MAX_SIZE, options["min"]))
        return options

    @override
    def violation(self, error: Exception) -> type[SQLStoreError] | None:
        return _VIOLATIONS.get(_code(error)) if isinstance(error, oracledb.Error) else None

    @override
    def classify(self, error: Exception) -> type[SQLStoreError]:
        if isinstance(error, oracledb.Error):
            return _MEANING.get(_code(error), SQLStoreError)
        return ConnectionLostError if isinstance(error, OSError) else SQLStoreError


class OracleAsyncConfig(_OracleConfig):
    """An Oracle database reached through oracledb's asynchronous connections."""

    @override
    async def open_store_connection(self, *, writes: bool = True) -> OracleAsyncConnection:
        async with asyncio.timeout(self.timeout):
            connection = OracleAsyncConnection(self, await oracledb.connect_async(**self.connect_options()))
            try:
                await connection.prepare()
            except BaseException:
                connection.kill()
                raise
        return connection

    @override
    def new_store(self) -> BaseSQLSpecStore[Any]:
        return OracleAsyncStore(self)

    @override
    def new_pool(self) -> OracleAsyncPool:
        return OracleAsyncPool(self)


class OracleSyncConfig(_OracleConfig):
    """An Oracle database reached through oracledb's synchronous connections, each in a thread of its own."""

    @override
    async def open_store_connection(self, *, writes: bool = True) -> OracleSyncConnection:
        connection = OracleSyncConnection(self)
        async with asyncio.timeout(self.timeout):
            await connection.open()
        return connection

    @override
    def new_store(self) -> BaseSQLSpecStore[Any]:
        return OracleSyncStore(self)

    @override
    def new_pool(self) -> OracleSyncPool:
        return OracleSyncPool(self)


class OracleAsyncConnection(StoreConnection):
    """An asynchronous connection of oracledb."""

    def __init__(self, config: OracleAsyncConfig, connection: Any) -> None:
        self._config = weakref.ref(config)
        self._timeout = config.timeout
        self._connection = connection
        self._session = _session(connection)
        self._transport = _transport(connection)
        self._statements = _Statements()
        self._killed = False

    async def prepare(self) -> None:
        """Make the connection one of the stores'.

        Raises the driver's own exceptions.
        """
        await self.run([Step(text) for text in _SETTINGS], atomic=False)

    @property
    @override
    def closed(self) -> bool:
        return self._killed or not self._connection.is_healthy() or _is_lost(self._transport.get_extra_info("socket"))

    @override
    async def run(self, steps: Sequence[Step], *, atomic: bool = True) -> list[Rows]:
        if not atomic:
            self._connection.autocommit = False
            return [await self._execute(_Batch(step.text, (step.parameters,))) for step in steps]
        return [await self._transact(step) for step in steps]

    async def _transact(self, step: Step) -> Rows:
        transaction = _Transaction(step)
        try:
            for batch in transaction:
                self._connection.autocommit = batch.commits
                rows = await self._execute(batch)
                if batch.query:
                    transaction.rows = rows
            if not transaction.committed:
                await self._connection.commit()
        except BaseException:
            try:
                await self._connection.rollback()
            except (oracledb.Error, OSError):
                self.kill()
            raise
        return transaction.rows

    async def _execute(self, batch: _Batch) -> Rows:
        return await _execute_async(self._connection, self._statements, batch)

    @override
    async def close(self) -> None:
        timer = asyncio.get_running_loop().call_later(self._timeout, self.kill)
        try:
            await self._connection.close()
        except (oracledb.Error, OSError):
            self.kill()
        finally:
            timer.cancel()

    @override
    def kill(self) -> None:
        if self._killed:
            return
        self._killed = True
        try:
            self._transport.abort()
        except RuntimeError:  # its loop is closed
            close_socket(self._transport)

    @override
    async def bury(self) -> None:
        await _end_session(self._config(), self._session)


class OracleSyncConnection(ThreadConnection):
    """A synchronous connection of oracledb in its thread."""

    def __init__(self, config: OracleSyncConfig) -> None:
        super().__init__()
        self._config = weakref.ref(config)
        self._options = config.connect_options()
        self._timeout = config.timeout
        self._connection: Any | None = None
        self._socket: socket.socket | None = None
        self._session = ""
        self._statements = _Statements()

    @override
    def _connect(self) -> None:
        # The driver does not show its socket, and waits for the server's part of a login without a bound.
        sys.setprofile(self._look_for_socket)
        try:
            connection = oracledb.connect(**self._options)
        finally:
            sys.setprofile(None)
        self._connection = connection
        if not connection.thin:
            msg = "sqlstore needs oracledb's thin mode: do not call oracledb.init_oracle_client()"
            raise UnavailableError(msg)
        self._session = _session(connection)
        self._run([Step(text) for text in _SETTINGS], atomic=False)

    def _look_for_socket(self, _: FrameType, event: str, result: object) -> None:
        """Note what socket.create_connection returns, or with TLS SSLContext.wrap_socket."""
        if event == "return" and isinstance(result, socket.socket):
            self._socket = result
            if self._killed:
                self._interrupt()

    @override
    def _run(self, steps: Sequence[Step], *, atomic: bool) -> list[Rows]:
        connection = self._connection
        if connection is None:
            msg = "the connection is closed"
            raise ContentionError(msg)
        if not atomic:
            connection.autocommit = False
            return [
                _execute_sync(connection, self._statements, _Batch(step.text, (step.parameters,))) for step in steps
            ]
        return [self._transact(connection, step) for step in steps]

    def _transact(self, connection: Any, step: Step) -> Rows:
        transaction = _Transaction(step)
        try:
            for batch in transaction:
                connection.autocommit = batch.commits
                rows = _execute_sync(connection, self._statements, batch)
                if batch.query:
                    transaction.rows = rows
            if not transaction.committed:
                connection.commit()
        except BaseException:
            with suppress(oracledb.Error, OSError):  # it is lost
                connection.rollback()
            raise
        return transaction.rows

    @property
    @override
    def closed(self) -> bool:
        if super().closed:
            return True
        connection = self._connection
        return connection is not None and (not connection.is_healthy() or _is_lost(self._socket))

    @override
    def _disconnect(self) -> None:
        if self._connection is not None:
            with suppress(oracledb.Error, OSError):
                if self._socket is not None:
                    self._socket.settimeout(self._timeout / 2)  # the driver says goodbye, and waits twice as long
                self._connection.close()
            self._connection = None
        if self._socket is not None:
            self._socket.close()  # the driver lets go of one that the server has reset

    @override
    def _interrupt(self) -> None:
        if self._socket is not None:
            with suppress(OSError):  # closed meanwhile
                socket.socket.shutdown(self._socket, socket.SHUT_RDWR)  # not the TLS socket's own, which may wait

    @override
    async def bury(self) -> None:
        await super().bury()
        await _end_session(self._config(), self._session)


class _OracleCursors(Cursors):
    @override
    def _cursor(self) -> Any:
        cursor = self.driver_connection.cursor()
        cursor.outputtypehandler = _large_values_at_once
        return cursor

    @override
    def _stream_cursor(self) -> Any:
        cursor = self._cursor()
        cursor.arraysize = cursor.prefetchrows = STREAMED_ROWS
        return cursor

    @override
    def _columns(self, cursor: Any, sql: str) -> list[str]:
        # A name that was written without quotes comes back in upper case.
        return [name.lower() if name.isupper() else name for name in super()._columns(cursor, sql)]


class OracleAsyncApplicationConnection(_OracleCursors, AsyncDBAPIConnection):
    """An asynchronous oracledb connection of the application's."""

    def __init__(self, driver_connection: Any) -> None:
        super().__init__(driver_connection, ORACLE)
        self.transport = _transport(driver_connection)

    @override
    async def _run(self, step: Step) -> Rows:
        while True:
            try:
                return await self._attempt(step)
            except oracledb.Error as error:
                if _code(error) != _ROW_IS_LOCKED:
                    raise
            await asyncio.sleep(_PAUSE)

    async def _attempt(self, step: Step) -> Rows:
        transaction, statements = _Transaction(step), _Statements()
        for batch in transaction:
            rows = await _execute_async(self.driver_connection, statements, batch)
            if batch.query:
                transaction.rows = rows
        return transaction.rows

    @override
    async def begin(self, mode: TransactionMode) -> None:
        self.driver_connection.autocommit = False
        await super().begin(mode)

    @override
    async def commit(self) -> None:
        await self.driver_connection.commit()
        self.driver_connection.autocommit = True

    @override
    async def rollback(self) -> None:
        await self.driver_connection.rollback()
        self.driver_connection.autocommit = True

    @override
    def kill(self) -> None:
        self.transport.abort()


class OracleSyncApplicationConnection(_OracleCursors, SyncDBAPIConnection):
    """A synchronous oracledb connection of the application's."""

    def __init__(self, driver_connection: Any) -> None:
        super().__init__(driver_connection, ORACLE)
        self._socket = _socket(driver_connection)

    @override
    def run(self, step: Step) -> Rows:
        while True:
            try:
                return self._attempt(step)
            except oracledb.Error as error:
                if _code(error) != _ROW_IS_LOCKED:
                    raise
            time.sleep(_PAUSE)

    def _attempt(self, step: Step) -> Rows:
        transaction, statements = _Transaction(step), _Statements()
        for batch in transaction:
            rows = _execute_sync(self.driver_connection, statements, batch)
            if batch.query:
                transaction.rows = rows
        return transaction.rows

    @override
    def begin(self, mode: TransactionMode) -> None:
        self.driver_connection.autocommit = False
        super().begin(mode)

    @override
    def commit(self) -> None:
        self.driver_connection.commit()
        self.driver_connection.autocommit = True

    @override
    def rollback(self) -> None:
        self.driver_connection.rollback()
        self.driver_connection.autocommit = True

    @override
    def kill(self) -> None:
        with suppress(OSError):  # closed meanwhile
            socket.socket.shutdown(self._socket, socket.SHUT_RDWR)  # not the TLS socket's own, which may wait

    def close_socket(self) -> None:
        """Close the socket, which the driver lets go of when it finds it shut down."""
        self._socket.close()


class OracleAsyncPool(ConnectionPool[OracleAsyncApplicationConnection]):
    """One of oracledb's asynchronous pools."""

    def __init__(self, config: OracleAsyncConfig) -> None:
        self._options = config.pool_options()
        super().__init__(config, self._options["max"])
        self._pool: Any = None
        self._transports: weakref.WeakSet[asyncio.Transport] = weakref.WeakSet()

    @override
    async def _open(self) -> None:
        self._pool = oracledb.create_pool_async(**self._options)

    @override
    async def _take(self) -> OracleAsyncApplicationConnection:
        driver_connection = await self._pool.acquire()
        driver_connection.autocommit = True
        connection = OracleAsyncApplicationConnection(driver_connection)
        self._transports.add(connection.transport)
        return connection

    @override
    async def _put(self, connection: OracleAsyncApplicationConnection) -> None:
        await self._pool.release(connection.driver_connection)  # which rolls back

    @override
    async def _drop(self, connection: OracleAsyncApplicationConnection) -> None:
        async with connection.turn:
            with suppress(oracledb.Error, OSError):
                await self._pool.drop(connection.driver_connection)

    @override
    async def _close(self) -> None:
        # The end of a loop cancels the pool's task before this, which then closes nothing.
        await asyncio.gather(self._pool.close(force=True), return_exceptions=True)
        for transport in self._transports:
            transport.abort()

    @override
    def kill(self) -> None:
        if self._pool is None:
            return
        for transport in self._transports:
            if self._loop.is_closed():
                close_socket(transport)
            else:
                transport.abort()
        for task in gc.get_referents(self._pool._impl):  # noqa: SLF001 - its close() needs a loop that runs
            if isinstance(task, asyncio.Task) and self._loop.is_closed() and not task.done():
                task._log_destroy_pending = False  # type: ignore[attr-defined]  # noqa: SLF001
                with suppress(RuntimeError):  # from what it waits for
                    task.get_coro().close()


class OracleSyncPool(SyncConnectionPool[OracleSyncApplicationConnection]):
    """One of oracledb's synchronous pools."""

    def __init__(self, config: OracleSyncConfig) -> None:
        self._options = config.pool_options()
        super().__init__(config, self._options["max"])
        self._pool: Any = None

    @override
    async def _open(self) -> None:
        self._pool = oracledb.create_pool(**self._options)

    @override
    async def _take(self) -> OracleSyncApplicationConnection:
        connection: OracleSyncApplicationConnection = await self.call(self._take_connection)
        return connection

    def _take_connection(self) -> OracleSyncApplicationConnection:
        driver_connection = self._pool.acquire()
        driver_connection.autocommit = True
        return OracleSyncApplicationConnection(driver_connection)

    @override
    async def _put(self, connection: OracleSyncApplicationConnection) -> None:
        await self.call(connection.in_turn, self._pool.release, connection.driver_connection)  # which rolls back

    @override
    async def _drop(self, connection: OracleSyncApplicationConnection) -> None:
        await self.call(connection.in_turn, self._drop_connection, connection)

    def _drop_connection(self, connection: OracleSyncApplicationConnection) -> None:
        with suppress(oracledb.Error, OSError):
            self._pool.drop(connection.driver_connection)
        connection.close_socket()

    @override
    async def _close(self) -> None:
        await self.call(partial(self._pool.close, force=True))

    @override
    def kill(self) -> None:
        self._pool.close(force=True)


class OracleAsyncStore(BaseSQLSpecStore[OracleAsyncConfig]):
    """A Litestar store in an Oracle database."""

    @classmethod
    @override
    def config_type(cls) -> type[OracleAsyncConfig]:
        return OracleAsyncConfig


class OracleSyncStore(BaseSQLSpecStore[OracleSyncConfig]):
    """A Litestar store in an Oracle database, over synchronous connections."""

    @classmethod
    @override
    def config_type(cls) -> type[OracleSyncConfig]:
        return OracleSyncConfig


class _Batch(NamedTuple):
    """What one call of the driver runs."""

    text: str
    rows: Sequence[Sequence[Any]]
    many: bool = False
    commits: bool = False

    @property
    def query(self) -> bool:
        return self.text.lstrip().startswith("SELECT")

    def large_values(self) -> Iterator[bytes]:
        """Return the values that are sent ahead, each once."""
        values = {id(value): value for row in self.rows for value in row if _is_large(value)}
        yield from values.values()

    def with_lobs(self, lobs: Mapping[int, object]) -> list[Sequence[Any]]:
        """Return the rows with *lobs* in the place of their values, by these values' ids."""
        return [[lobs.get(id(value), value) for value in row] for row in self.rows] if lobs else list(self.rows)

    def types(self) -> list[Any]:
        """Return the type of each placeholder."""
        return [_type_of(column) for column in zip(*self.rows, strict=True)]


class _Transaction:
    """The batches of a step and of those after it."""

    def __init__(self, step: Step) -> None:
        self._step = step
        self.rows: Rows = ()
        """Those of the last query."""
        self.committed = False

    def __iter__(self) -> Iterator[_Batch]:
        step: Step | None = self._step
        while step is not None:
            batches = _batches(step, self.rows)
            for number, batch in enumerate(batches, start=1):
                # A query does not commit, whatever autocommit says.
                self.committed = step.then is None and number == len(batches) and not batch.query
                yield batch._replace(commits=self.committed)
            step = step.then


def _batches(step: Step, answered: Rows) -> list[_Batch]:
    """Return what runs *step*; many times without values, it takes each row that was *answered* before."""
    if not step.many:
        return [_Batch(step.text, (step.parameters,))]
    rows = step.parameters or answered
    # A placeholder has one type for all rows.
    sizes = (False, True)
    parts = [[row for row in rows if any(map(_is_large, row)) is large] for large in sizes]
    return [_Batch(step.text, part, many=True) for part in parts if part]


def _is_large(value: object) -> bool:
    return isinstance(value, bytes) and len(value) > LARGEST_RAW


def _type_of(column: Sequence[Any]) -> Any:
    kinds: set[object] = {type(value) for value in column}
    if str in kinds:
        return 255
    if bytes in kinds:
        return _DRIVER.DB_TYPE_BLOB if any(map(_is_large, column)) else _DRIVER.DB_TYPE_RAW
    return _DRIVER.DB_TYPE_NUMBER  # also where all are None, as a lifetime or a principal can be


async def _execute_async(connection: Any, statements: _Statements, batch: _Batch) -> Rows:
    lobs: dict[int, object] = {}
    for value in batch.large_values():
        lobs[id(value)] = lob = await connection.createlob(_DRIVER.DB_TYPE_BLOB)
        for start in range(0, len(value), _PART):
            await lob.write(value[start : start + _PART], start + 1)
    with connection.cursor() as cursor:
        _prepare(cursor, batch)
        if batch.many:
            await cursor.executemany(batch.text, batch.with_lobs(lobs))
        else:
            await cursor.execute(batch.text, batch.with_lobs(lobs)[0])
        return statements.values(cursor, batch.text, await cursor.fetchall()) if cursor.description else ()


def _execute_sync(connection: Any, statements: _Statements, batch: _Batch) -> Rows:
    lobs: dict[int, object] = {}
    for value in batch.large_values():
        lobs[id(value)] = lob = connection.createlob(_DRIVER.DB_TYPE_BLOB)
        for start in range(0, len(value), _PART):
            lob.write(value[start : start + _PART], start + 1)
    with connection.cursor() as cursor:
        _prepare(cursor, batch)
        if batch.many:
            cursor.executemany(batch.text, batch.with_lobs(lobs))
        else:
            cursor.execute(batch.text, batch.with_lobs(lobs)[0])
        return statements.values(cursor, batch.text, cursor.fetchall()) if cursor.description else ()


def _prepare(cursor: Any, batch: _Batch) -> None:
    cursor.outputtypehandler = _values_at_once
    # One row more than a batch has, so that the end of the answer comes with it.
    cursor.arraysize = cursor.prefetchrows = BATCH_ROWS + 1
    if types := batch.types():
        cursor.setinputsizes(*types)


def _values_at_once(cursor: Any, metadata: Any) -> object:
    """Fetch a BLOB's bytes together with its row, and not by a locator in further round trips."""
    if metadata.type_code is not _DRIVER.DB_TYPE_BLOB:
        return None
    return cursor.var(_DRIVER.DB_TYPE_LONG_RAW, arraysize=cursor.arraysize)


def _large_values_at_once(cursor: Any, metadata: Any) -> object:
    """Fetch large values as strings and bytes, as other drivers do."""
    kind = _LARGE.get(metadata.type_code)
    return kind and cursor.var(kind, arraysize=cursor.arraysize)


class _Statements:
    """What a connection knows of its cached statements that fetch values."""

    def __init__(self) -> None:
        self._proven: set[str] = set()

    def values(self, cursor: Any, text: str, rows: list[Any]) -> Rows:
        """Return the *rows* that the execution of *text* answered, with b"" for a value that is empty: it is NULL."""
        # Not by the variable's convert_nulls, which oracledb 26.1 forgets when it runs a statement again.
        place = next(
            (at for at, column in enumerate(cursor.description or ()) if column.type_code in _VALUE_TYPES), None
        )
        if place is None:
            return rows
        if rows:
            self._proven.add(text)
        elif text not in self._proven:
            # oracledb 26.1 takes it for settled how a cached statement's values are sent, although without a row it
            # may not have told the server, which then sends something else (DPY-5000).
            cursor.prepare(text.strip(), cache_statement=False)  # as the driver knows it
        return [row if row[place] is not None else (*row[:place], b"", *row[place + 1 :]) for row in rows]


def _code(error: oracledb.Error) -> str:
    return getattr(error.args[0], "full_code", "") if error.args else ""


def _session(connection: Any) -> str:
    """Return what ALTER SYSTEM KILL SESSION takes."""
    return f"{connection.session_id},{connection.serial_num}"


def _transport(connection: Any) -> asyncio.Transport:
    """Return what the driver sends over, which its compiled code shows to nobody but the garbage collector."""
    protocol = next(each for each in gc.get_referents(connection._impl) if isinstance(each, asyncio.Protocol))  # noqa: SLF001
    for part in gc.get_referents(protocol):
        for transport in gc.get_referents(part):
            if hasattr(transport, "abort"):
                return cast("asyncio.Transport", transport)
    msg = f"cannot find the transport of an oracledb {oracledb.__version__} connection"
    raise RuntimeError(msg)


def _socket(connection: Any) -> socket.socket:
    """Return what a synchronous connection sends over; see `_transport`."""
    found = gc.get_referents(connection._impl)  # noqa: SLF001
    for _ in range(3):
        for each in found:
            if isinstance(each, socket.socket):
                return each
        found = [
            part for each in found if type(each).__module__.startswith("oracledb") for part in gc.get_referents(each)
        ]
    msg = f"cannot find the socket of an oracledb {oracledb.__version__} connection"
    raise RuntimeError(msg)


def _is_lost(connection: socket.socket | None) -> bool:
    """Return whether the socket of an idle connection is closed, or the server has said something, that it has gone."""
    if connection is None or connection.fileno() < 0:
        return True
    return has_news(connection)


async def _end_session(config: BaseConfig | None, session: str) -> None:
    """Make the server end a session whose connection was dropped.

    Raises the driver's own exceptions if the server cannot be asked: it takes the privilege ALTER SYSTEM.
    """
    if config is None:  # nobody is left who could send anything after it
        return
    try:
        async with config.spare_connection() as other:
            await other.run([Step(f"ALTER SYSTEM KILL SESSION '{session}' IMMEDIATE")], atomic=False)
    except oracledb.Error as error:
        if _code(error) not in {_NO_SUCH_SESSION, _MARKED_FOR_KILL}:
            raise
