"""What a request, or a block of ``async with``, does with at most one connection: the transaction around it all.

The connection is taken on first use. It goes back when the unit ends, which commits or rolls back; one whose statement
was cancelled is dropped instead, because nobody knows what it is doing.
"""

from __future__ import annotations

import asyncio
import threading
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from .exceptions import CommitError, ContentionError, SQLStoreError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Generator, Sequence

    from .config import BaseConfig
    from .dialects import Step
    from .pool import ConnectionPool, PooledConnection, TransactionMode

__all__ = ("UnitOfWork", "entered", "not_committed", "writing_unit")

_ENDED = "the transaction has ended: for what comes after the response has begun, use config.get_session()"
_UNITS: ContextVar[tuple[Sequence[UnitOfWork], ...]] = ContextVar("sqlstore_units", default=())


class UnitOfWork:
    """At most one connection, and the transaction that is open on it.

    Without a *mode* each statement commits by itself, but for those in a ``transaction()``.
    """

    def __init__(self, config: BaseConfig, mode: TransactionMode | None, *, sparing: bool = False) -> None:
        """Take nothing yet; *sparing*, give the connection back after each statement that is in no transaction.

        Raises:
            RuntimeError: no asyncio event loop is running.
        """
        self.config = config
        self.mode = mode
        self._sparing = sparing
        self.pool: ConnectionPool[Any] = config.pool()
        self.loop = asyncio.get_running_loop()
        self.thread = threading.get_ident()
        self.verdict: bool | None = None
        """Whether it will be committed, once that is known."""
        self.before_commit: list[Callable[[Any], Awaitable[None]]] = []
        """What is still to be done in it, if it will be committed."""
        self.depth = 0
        """How many transactions are open, each in the one before."""
        self.undone = ""
        """Why the transaction that seems open is not: the database has ended it."""
        self._opening = asyncio.Lock()
        self._connection: Any = None
        self._ended = self._failure = ""

    @property
    def writing(self) -> bool:
        """Where a database has one writer: it is this unit."""
        return self._connection is not None and self._connection.writing

    @property
    def alive(self) -> bool:
        """Neither ended nor abandoned."""
        return not self._ended

    def taken(self) -> Any:  # noqa: ANN401 - a PooledConnection, of the kind that the pool has
        """Return the connection; None if it has not been taken.

        Raises:
            SQLStoreError: the unit has ended.
        """
        if self._ended:
            raise SQLStoreError(self._ended)
        return self._connection

    async def connection(self) -> Any:  # noqa: ANN401 - a PooledConnection, of the kind that the pool has
        """Return the connection, taking it on the first call.

        Raises:
            SQLStoreError: the unit has ended.
            UnavailableError: no connection came free in time, or the database cannot be reached.
        """
        async with self._opening:
            connection = self.taken()
            if connection is None:
                connection = await self._take()
                if self._ended:  # while it was waiting
                    self.pool.discard(connection)
                    raise SQLStoreError(self._ended)
                self._connection = connection
            return connection

    async def driver_connection(self) -> Any:  # noqa: ANN401
        """Return the driver's own connection, taking it on the first call.

        Raises:
            SQLStoreError: the unit has ended.
            UnavailableError: no connection came free in time, or the database cannot be reached.
        """
        self._sparing = False
        connection = await self.connection()
        await self.pool.call(connection.in_turn, connection.lend)
        return connection.driver_connection

    async def run(self, step: Step, table: str) -> Sequence[Sequence[Any]]:
        """Run a store's *step* in the transaction, taking the connection on the first call; see `PooledConnection`.

        *table* is the store's, for the messages of errors.

        Raises:
            SQLStoreError: one of the children that a store would raise, or the transaction is over, or there is none,
                because each statement commits by itself.
        """
        connection = await self.connection()
        if self.undone:
            raise SQLStoreError(self.undone)
        if not self.depth:
            msg = "a store's statements can be part of a transaction only: none is open in manual mode"
            raise SQLStoreError(msg)
        try:
            with self._in_time(connection):
                rows: Sequence[Sequence[Any]] = await self.pool.call(connection.in_turn, connection.run, step)
        except BaseException as error:
            self.statement_failed(error)
            if isinstance(error, Exception):
                raise self.config.translated(error, table) from error
            raise
        return rows

    async def _take(self) -> Any:  # noqa: ANN401
        try:
            connection = await self.pool.acquire()
        except SQLStoreError:
            raise
        except Exception as error:
            raise self.config.explained(error, connecting=True) from error
        if self.mode is None:
            return connection
        try:
            with self._in_time(connection):
                await self.pool.call(connection.in_turn, connection.begin, self.mode)
        except BaseException as error:
            self.pool.discard(connection)
            if isinstance(error, Exception):
                raise self.config.explained(error) from error
            raise
        self.depth = 1
        return connection

    @contextmanager
    def _in_time(self, connection: Any) -> Generator[None, None, None]:  # noqa: ANN401
        """Kill *connection*, which may lead nowhere, unless the block ends in time."""
        timer = self.loop.call_later(self.config.timeout, connection.kill)
        try:
            yield
        finally:
            timer.cancel()

    def statement_ended(self) -> None:
        """Give the connection back, if nothing keeps it."""
        if self._sparing and not self.depth and self._connection is not None:
            connection, self._connection = self._connection, None
            self._in_loop(self.pool.release, connection)

    def statement_failed(self, error: BaseException) -> None:
        """Note how a statement ended that did not succeed."""
        if not isinstance(error, Exception):
            self.abandon("a statement was cancelled, so its connection was dropped and its transaction undone")
        elif self.depth and self._connection is not None and self._connection.undid_transaction(error):
            self.undone = f"the database has undone the transaction ({error})"

    async def end(self, *, commit: bool) -> None:
        """Commit or roll back, and give the connection back. Does nothing the second time.

        Raises:
            CommitError: the database did not commit, or the transaction had been undone before.
        """
        failure, self._failure = self._failure, ""
        if failure and commit and self.mode:
            raise CommitError(failure)
        connection, self._connection = self._connection, None
        self._ended = self._ended or _ENDED
        if connection is None:
            return
        if connection.turn.locked():
            self.undone = "a statement was still running when its transaction was to end, which was undone"
        if self.undone:
            self.pool.discard(connection)
            if commit and self.mode:
                raise CommitError(self.undone)
            return
        if self.mode is None or await self._end_transaction(connection, commit=commit):
            self.pool.release(connection)

    async def _end_transaction(self, connection: Any, *, commit: bool) -> bool:  # noqa: ANN401
        """Return whether the connection can be used again."""
        try:
            with self._in_time(connection):
                await self.pool.call(connection.in_turn, connection.commit if commit else connection.rollback)
        except BaseException as error:
            self.pool.discard(connection)
            if commit and isinstance(error, Exception):
                raise CommitError(not_committed(error)) from error
            if not isinstance(error, Exception):
                raise
            return False  # what cannot be rolled back, because its connection is lost, is undone with it
        return True

    def abandon(self, why: str) -> None:
        """Drop the connection, and with it the transaction."""
        if not self._ended:
            self._ended = self._failure = why
            connection, self._connection = self._connection, None
            if connection is not None:
                self._drop(connection)

    def _drop(self, connection: PooledConnection) -> None:
        self._in_loop(self.pool.discard, connection)

    def _in_loop(self, function: Callable[[Any], None], connection: PooledConnection) -> None:
        if threading.get_ident() == self.thread:
            function(connection)
        else:
            self.loop.call_soon_threadsafe(function, connection)

    async def give_way(self) -> None:
        """Let the database's one writer be somebody else, who would wait for this unit, which waits for them.

        Raises:
            CommitError: it was time to commit, and the database did not.
            ContentionError: it was not time yet.
        """
        if self.verdict is None or self.before_commit:
            msg = (
                "this transaction has written to the database, which has one writer at a time: write to the store "
                "before that, or in a database file of its own"
            )
            raise ContentionError(msg)
        await self.end(commit=self.verdict)


def not_committed(error: Exception) -> str:
    """Return what a `CommitError` says."""
    return f"the transaction was not committed ({type(error).__name__}: {error})"


def writing_unit(config: BaseConfig) -> UnitOfWork | None:
    """Return the unit in which the caller is that has written to *config*'s database, where that has one writer."""
    return next((unit for units in _UNITS.get() for unit in units if unit.config is config and unit.writing), None)


@contextmanager
def entered(units: Sequence[UnitOfWork]) -> Generator[None, None, None]:
    """Make *units* the current ones, also those that are added later."""
    token = _UNITS.set((units, *_UNITS.get()))
    try:
        yield
    finally:
        _UNITS.reset(token)
