"""SQLite through the standard library's sqlite3.

Each store connection lives in a thread of its own. The file is in WAL mode, so readers and the writer do not wait for
each other, and synchronous=FULL: a write is on disk before its caller goes on.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import sqlite3
import time
import weakref
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from typing_extensions import override

from ..config import BaseConfig, ExtensionConfig, refuse_unknown
from ..connection import ThreadConnection, started_threads
from ..dbapi import SyncDBAPIConnection
from ..dialects import SQLITE
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
from ..pool import SyncConnectionPool
from ..store import BaseSQLSpecStore

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from ..dialects import Step
    from ..pool import ConnectionPool, TransactionMode

__all__ = ("SqliteConfig", "SqliteStore")

PAUSE, CONTINUOUS = 0.001, 0.05
"""Seconds that a writer leaves to those of other processes, and that it may write without leaving any."""
_POOL_OPTIONS = ("cached_statements", "database", "max_size", "uri")
_MAX_SIZE = 8
_MEANING: dict[int, type[SQLStoreError]] = {
    sqlite3.SQLITE_BUSY: ContentionError,
    sqlite3.SQLITE_LOCKED: ContentionError,
    sqlite3.SQLITE_PROTOCOL: ContentionError,
    sqlite3.SQLITE_INTERRUPT: ContentionError,
    sqlite3.SQLITE_READONLY: ReadOnlyError,
    sqlite3.SQLITE_PERM: ReadOnlyError,
    sqlite3.SQLITE_CANTOPEN: UnavailableError,
    sqlite3.SQLITE_NOTADB: UnavailableError,
    sqlite3.SQLITE_TOOBIG: ValueTooLargeError,
}


# What never writes, and so needs no transaction to be undone in.
_READS = re.compile(r"(?:\s|--[^\n]*\n|/\*.*?\*/)*(?:SELECT|VALUES|EXPLAIN|PRAGMA)\b", re.IGNORECASE | re.DOTALL)
_VIOLATIONS: dict[int, type[SQLStoreError]] = {
    sqlite3.SQLITE_CONSTRAINT_FOREIGNKEY: ForeignKeyViolationError,
    sqlite3.SQLITE_CONSTRAINT_PRIMARYKEY: UniqueViolationError,
    sqlite3.SQLITE_CONSTRAINT_ROWID: UniqueViolationError,
    sqlite3.SQLITE_CONSTRAINT_UNIQUE: UniqueViolationError,
}


class SqliteConfig(BaseConfig):
    """A SQLite file, or ``:memory:``, which lives as long as its config."""

    dialect = SQLITE
    readers = 1
    writers = 1
    transactions = True

    def __init__(
        self,
        *,
        pool_config: Mapping[str, Any],
        pragmas: Mapping[str, str | int] | None = None,
        extension_config: ExtensionConfig | None = None,
    ) -> None:
        """Keep the settings; nothing is opened yet.

        *pool_config* takes ``database`` (a path, or ``:memory:``), ``uri`` and ``cached_statements`` as
        `sqlite3.connect` does, and ``max_size``, how many connections the application's requests share (8 if not
        given). *pragmas* are set on each connection, after ``journal_mode=WAL``, ``synchronous=FULL`` and
        ``foreign_keys=1``, which they may change.

        Raises:
            TypeError: an option is unknown, or of the wrong type.
            ValueError: an option is out of range.
        """
        super().__init__(pool_config, _POOL_OPTIONS, extension_config)
        usual: dict[str, str | int] = {"journal_mode": "WAL", "synchronous": "FULL", "foreign_keys": 1}
        self.pragmas = {**usual, **_checked(pragmas or {})}
        self.max_size: int = self.pool_config.pop("max_size", _MAX_SIZE)
        self._anchor: sqlite3.Connection | None = None
        database: str | os.PathLike[str] | None = self.pool_config.get("database")
        if not isinstance(database, (str, os.PathLike)) or not str(database):
            msg = f'pool_config needs "database", the path of a file or ":memory:", not {database!r}'
            raise TypeError(msg)
        if database == ":memory:":
            # A name of its own lets several connections share it, in any thread and event loop.
            self.pool_config.update(database=f"file:/sqlstore-{secrets.token_hex(8)}?vfs=memdb", uri=True)
        elif not self.pool_config.get("uri"):
            self.pool_config["database"] = str(Path(database).absolute())

    @override
    async def open_store_connection(self, *, writes: bool = True) -> SqliteConnection:
        # Longer waits are the lanes' business, which can tell their callers.
        connection = SqliteConnection(self.connector(min(1.0, self.timeout / 2)))
        await connection.open()
        return connection

    def connector(self, patience: float | None = None) -> Callable[[], sqlite3.Connection]:
        """Return what opens a connection in autocommit mode with the config's pragmas, for any thread.

        The connection waits for *patience* seconds when the file is busy; None stands for the config's ``timeout``.
        It raises sqlite3's own exceptions.
        """
        self._hold_memory()
        patience = self.timeout if patience is None else patience
        return partial(_connect, self.pool_config, self.pragmas, self.timeout, patience)

    def _hold_memory(self) -> None:
        """Keep a ``:memory:`` database, which goes with its last connection."""
        if self._anchor is None and "vfs=memdb" in str(self.pool_config["database"]):
            self._anchor = sqlite3.connect(**self.pool_config, check_same_thread=False)
            weakref.finalize(self, self._anchor.close)

    @override
    def new_store(self) -> BaseSQLSpecStore[Any]:
        return SqliteStore(self)

    @override
    def new_pool(self) -> ConnectionPool[Any]:
        return SqlitePool(self)

    @override
    def violation(self, error: Exception) -> type[SQLStoreError] | None:
        return _VIOLATIONS.get(getattr(error, "sqlite_errorcode", 0))

    @override
    def classify(self, error: Exception) -> type[SQLStoreError]:
        message = str(error)
        if message.startswith("no such table"):
            return TableMissingError
        if "no such column" in message or "has no column" in message:
            return TableMismatchError
        if isinstance(error, OverflowError):
            return ValueTooLargeError
        if isinstance(error, sqlite3.ProgrammingError) and "closed" in message:
            return ConnectionLostError
        # The low byte is the primary code: https://www.sqlite.org/rescode.html
        return _MEANING.get(getattr(error, "sqlite_errorcode", 0) & 0xFF, SQLStoreError)


class SqliteConnection(ThreadConnection):
    """A sqlite3 connection in its thread."""

    def __init__(self, connect: Callable[[], sqlite3.Connection]) -> None:
        super().__init__()
        self._connect_driver = connect
        self._connection: sqlite3.Connection | None = None
        self._must_pause = False
        self._busy_since = self._last_write = 0.0

    @override
    def _connect(self) -> None:
        self._connection = self._connect_driver()

    @override
    def _run(self, steps: Sequence[Step], *, atomic: bool) -> list[Sequence[Sequence[Any]]]:
        if self._connection is None:
            msg = "the connection is closed"
            raise sqlite3.ProgrammingError(msg)
        if not atomic:
            return [_execute(self._connection, step) for step in steps]
        self._let_others_write()
        began = time.monotonic()
        # IMMEDIATE, because a transaction that begins with a read may find at its first write that it is too late.
        self._connection.execute("BEGIN IMMEDIATE")
        self._must_pause = time.monotonic() - began > PAUSE
        try:
            rows = [_execute(self._connection, step) for step in steps]
            # A dropped connection's caller has been told that its time is over, and may be deleting what this wrote.
            self._connection.execute("ROLLBACK" if self._killed else "COMMIT")
        except BaseException:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            raise
        self._last_write = time.monotonic()
        return rows

    def _let_others_write(self) -> None:
        """Pause after a write that had to wait, and now and then while there is one write after the other.

        SQLite has no queue of writers: one that waits looks again after up to 100 ms, and finds the lock free only if
        it happens to look between two transactions. Of 8 processes, one waited for 11.7 s of 12 without the pauses.
        """
        now = time.monotonic()
        if now - self._last_write > PAUSE:
            self._busy_since = now
        if self._must_pause or now - self._busy_since > CONTINUOUS:
            time.sleep(PAUSE)
            self._busy_since = time.monotonic()

    @override
    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    @override
    def _interrupt(self) -> None:
        connection = self._connection
        if connection is not None:
            with contextlib.suppress(sqlite3.ProgrammingError):  # closed meanwhile
                connection.interrupt()


class LateTransaction:
    """A transaction that begins with its first statement that may write, unless it was asked for as a whole.

    A request that only reads holds no lock, and none upgrades a read to a write, which fails when another has written
    in between.
    """

    driver_connection: Any
    _mode: TransactionMode | None = None
    _begun = False

    @property
    def writing(self) -> bool:
        return self._mode is not None and not self._mode.read_only and bool(self.driver_connection.in_transaction)

    def undid_transaction(self, error: Exception) -> bool:  # noqa: ARG002 - the connection itself tells
        return self._begun and not self.driver_connection.in_transaction

    def _before(self, sql: str) -> Sequence[str]:
        if self._mode is None or self._begun or (self._mode == (None, False) and _READS.match(sql)):
            return ()
        self._begun = True
        return SQLITE.begin(*self._mode)

    def _lend(self) -> Sequence[str]:
        if self._mode is None or self._begun:
            return ()
        self._begun = True
        # Its statements are not seen here. Not IMMEDIATE, which would keep others from writing for as long as a
        # request lasts that may only read.
        return ("BEGIN",) if self._mode == (None, False) else SQLITE.begin(*self._mode)

    def _end(self, command: str) -> Sequence[str]:
        mode, self._mode = self._mode, None
        begun, self._begun = self._begun, False
        if not begun:
            return ()
        # A BEGIN that found the file busy, and errors for which SQLite itself undoes all of it, leave nothing to undo.
        over = command == "ROLLBACK" and not self.driver_connection.in_transaction
        commands = () if over else (command,)
        return (*commands, "PRAGMA query_only = 0") if mode is not None and mode.read_only else commands


class SqliteApplicationConnection(LateTransaction, SyncDBAPIConnection):
    """A sqlite3 connection of the application's."""

    @override
    def begin(self, mode: TransactionMode) -> None:
        self._mode = mode

    @override
    def lend(self) -> None:
        for text in self._lend():
            self.driver_connection.execute(text)

    @override
    def commit(self) -> None:
        for text in self._end("COMMIT"):
            self.driver_connection.execute(text)

    @override
    def rollback(self) -> None:
        for text in self._end("ROLLBACK"):
            self.driver_connection.execute(text)

    @override
    def kill(self) -> None:
        with contextlib.suppress(sqlite3.ProgrammingError):  # closed
            self.driver_connection.interrupt()


class SqlitePool(SyncConnectionPool[SqliteApplicationConnection]):
    """Connections that are opened when they are needed, and kept."""

    def __init__(self, config: SqliteConfig) -> None:
        super().__init__(config, config.max_size)
        self._connect = config.connector()
        self._idle: list[SqliteApplicationConnection] = []

    @override
    async def _open(self) -> None:
        pass

    @override
    async def _take(self) -> SqliteApplicationConnection:
        if self._idle:
            return self._idle.pop()
        return SqliteApplicationConnection(await self.call(self._connect), SQLITE)

    @override
    async def _put(self, connection: SqliteApplicationConnection) -> None:
        await self.call(connection.in_turn, _reset, connection)
        self._idle.append(connection)

    @override
    async def _drop(self, connection: SqliteApplicationConnection) -> None:
        await self.call(_close, connection)

    @override
    async def _close(self) -> None:
        while self._idle:
            await self.call(_close, self._idle.pop())

    @override
    def kill(self) -> None:
        while self._idle:
            _close(self._idle.pop())


def _reset(connection: SqliteApplicationConnection) -> None:
    connection.rollback()
    if connection.driver_connection.in_transaction:
        connection.driver_connection.execute("ROLLBACK")


def _close(connection: SqliteApplicationConnection) -> None:
    with connection.turn:
        connection.driver_connection.close()


# SQLite keeps a file's locks in the memory of the process, which fork copies and the operating system's locks do not
# follow: a child that opens the file again would believe to hold a lock that only its parent has, and either could
# delete the other's WAL (https://www.sqlite.org/howtocorrupt.html#_carrying_an_open_database_connection_across_a_fork_).
def _close_before_fork() -> None:
    for connection in started_threads():
        if isinstance(connection, SqliteConnection):
            connection.close_at_once()


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(before=_close_before_fork)


class SqliteStore(BaseSQLSpecStore[SqliteConfig]):
    """A Litestar store in a SQLite file."""

    @classmethod
    @override
    def config_type(cls) -> type[SqliteConfig]:
        return SqliteConfig


def _connect(
    pool_config: Mapping[str, Any], pragmas: Mapping[str, str | int], timeout: float, patience: float
) -> sqlite3.Connection:
    try:
        connection: sqlite3.Connection = sqlite3.connect(
            **pool_config, timeout=patience, isolation_level=None, check_same_thread=False
        )
    except sqlite3.OperationalError as error:
        database = pool_config["database"]
        msg = f"cannot open {database}: check pool_config, that its directory exists, and may be written ({error})"
        raise UnavailableError(msg) from error
    try:
        for name, value in pragmas.items():
            _set_pragma(connection, name, value, time.monotonic() + timeout / 2)
    except BaseException:
        connection.close()
        raise
    return connection


def _execute(connection: sqlite3.Connection, step: Step) -> Sequence[Sequence[Any]]:
    if step.many:
        connection.executemany(step.text, step.parameters)
        return ()
    # All rows at once: an open read cursor would keep the WAL from being reset.
    return connection.execute(step.text, step.parameters).fetchall()


def _set_pragma(connection: sqlite3.Connection, name: str, value: str | int, deadline: float) -> None:
    """Set a pragma unless it has the value already, which needs no lock."""
    while True:
        try:
            current = connection.execute(f"PRAGMA {name}").fetchone()
            if current is None or str(current[0]).lower() != str(value).lower():
                connection.execute(f"PRAGMA {name} = {value}").fetchall()
        except sqlite3.OperationalError as error:
            # Changing to WAL does not wait for other processes that do the same: https://www.sqlite.org/wal.html
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
            time.sleep(0.01)
        else:
            return


def _checked(pragmas: Mapping[str, str | int]) -> Mapping[str, str | int]:
    if pragmas:
        # SQLite itself ignores a pragma that it does not know.
        with contextlib.closing(sqlite3.connect(":memory:")) as connection:
            refuse_unknown("pragmas", pragmas, [name for (name,) in connection.execute("PRAGMA pragma_list")])
    for name, value in pragmas.items():
        if not isinstance(value, (int, str)) or not str(value).lstrip("-").isalnum():
            msg = f"pragma {name} must be a word or a number, not {value!r}"
            raise ValueError(msg)
    return pragmas
