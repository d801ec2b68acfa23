"""The application's own connections: what a pool and a driver have to do for a database session.

The stores never use these, so a request that holds one cannot starve a store. Whoever waits for a connection waits in
a queue here, never inside a driver's pool: cancelled waiters are what wedges those.
"""

from __future__ import annotations

import asyncio
import contextvars
import threading
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar, Generic, NamedTuple, TypeAlias, TypeVar

import anyio.to_thread
from typing_extensions import override

from .exceptions import UnavailableError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Mapping, Sequence

    from .config import BaseConfig
    from .dialects import Step

    Rows = Sequence[Sequence[Any]]

__all__ = (
    "AsyncConnection",
    "ConnectionPool",
    "Fetched",
    "Parameters",
    "PooledConnection",
    "SyncConnection",
    "SyncConnectionPool",
    "TransactionMode",
)

Parameters: TypeAlias = "Sequence[Any] | Mapping[str, Any]"
T = TypeVar("T")


class Fetched(NamedTuple):
    """Rows, and the names of their columns; no names are known where there is no row."""

    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]


class TransactionMode(NamedTuple):
    """How a transaction begins."""

    isolation_level: str | None = None
    """One of the dialect's; None is the database's default."""
    read_only: bool = False


class PooledConnection(ABC):
    """A connection of the application's, in autocommit mode but for what is between `begin` and its end.

    Its methods raise the driver's own exceptions. The synchronous and the asynchronous ones differ in nothing else.
    """

    turn: Any
    """A lock that is held while a statement runs."""

    def __init__(self, driver_connection: Any) -> None:  # noqa: ANN401 - each driver's own
        """Wrap a connection, which is in autocommit mode."""
        self.driver_connection = driver_connection

    @property
    def writing(self) -> bool:
        """Where a database has one writer: this connection is it."""
        return False

    def undid_transaction(self, error: Exception) -> bool:  # noqa: ARG002 - for databases that do this
        """Return whether the database ended the transaction when a statement failed with *error*."""
        return False

    @abstractmethod
    def kill(self) -> None:
        """Make a statement that runs return soon with an error, and never use the connection again."""


class AsyncConnection(PooledConnection):
    """A connection of an asynchronous driver."""

    def __init__(self, driver_connection: Any) -> None:  # noqa: ANN401 - each driver's own
        """Wrap a connection, which is in autocommit mode."""
        super().__init__(driver_connection)
        self.turn = asyncio.Lock()

    async def in_turn(self, method: Callable[..., Awaitable[Any]], *arguments: object) -> Any:  # noqa: ANN401
        """Call *method* when no statement runs."""
        async with self.turn:
            return await method(*arguments)

    async def lend(self) -> None:
        """Begin what was put off, because the application will use the driver's connection past this object."""

    @abstractmethod
    async def begin(self, mode: TransactionMode) -> None:
        """Begin a transaction."""

    @abstractmethod
    async def commit(self) -> None:
        """Commit it, or raise because the database did not."""

    @abstractmethod
    async def rollback(self) -> None:
        """Undo it."""

    @abstractmethod
    async def fetch(self, sql: str, parameters: Parameters) -> Fetched:
        """Return all rows."""

    @abstractmethod
    async def execute(self, sql: str, parameters: Parameters) -> int:
        """Return how many rows were changed; -1 where the driver does not know."""

    @abstractmethod
    async def execute_many(self, sql: str, parameters: Sequence[Parameters]) -> None:
        """Run *sql* for each of the *parameters*."""

    @abstractmethod
    async def run(self, step: Step) -> Rows:
        """Run a store's *step* in the transaction that is open, and return the rows of its last query."""

    @abstractmethod
    def stream(self, sql: str, parameters: Parameters, size: int) -> AsyncGenerator[Fetched, None]:
        """Return *size* rows at a time; in a transaction."""


class SyncConnection(PooledConnection):
    """A connection of a synchronous driver; any thread may use it, one at a time."""

    def __init__(self, driver_connection: Any) -> None:  # noqa: ANN401 - each driver's own
        """Wrap a connection, which is in autocommit mode."""
        super().__init__(driver_connection)
        self.turn = threading.Lock()

    def in_turn(self, method: Callable[..., Any], *arguments: object) -> Any:  # noqa: ANN401
        """Call *method* when no statement runs.

        The thread goes on when the task that waits for it is cancelled, and who drops the connection waits for its
        turn: a sqlite3 connection that is closed while it works takes the whole process with it.
        """
        with self.turn:
            return method(*arguments)

    def lend(self) -> None:
        """Begin what was put off, because the application will use the driver's connection past this object."""

    @abstractmethod
    def begin(self, mode: TransactionMode) -> None:
        """Begin a transaction."""

    @abstractmethod
    def commit(self) -> None:
        """Commit it, or raise because the database did not."""

    @abstractmethod
    def rollback(self) -> None:
        """Undo it."""

    @abstractmethod
    def fetch(self, sql: str, parameters: Parameters) -> Fetched:
        """Return all rows."""

    @abstractmethod
    def execute(self, sql: str, parameters: Parameters) -> int:
        """Return how many rows were changed; -1 where the driver does not know."""

    @abstractmethod
    def execute_many(self, sql: str, parameters: Sequence[Parameters]) -> None:
        """Run *sql* for each of the *parameters*."""

    @abstractmethod
    def run(self, step: Step) -> Rows:
        """Run a store's *step* in the transaction that is open, and return the rows of its last query."""

    @abstractmethod
    def stream(self, sql: str, parameters: Parameters, size: int) -> Generator[Fetched, None, None]:
        """Return *size* rows at a time; in a transaction."""


ConnectionT = TypeVar("ConnectionT", bound=PooledConnection)


class ConnectionPool(ABC, Generic[ConnectionT]):
    """The connections of one event loop. Opens when the first one is asked for, or by `open`."""

    synchronous: ClassVar[bool] = False
    """Its connections are a `SyncConnection` each."""

    def __init__(self, config: BaseConfig, size: int) -> None:
        """Keep at most *size* connections."""
        self.size = size
        self.in_use = 0
        """How many are taken, or on their way."""
        self._timeout = config.timeout
        self._free = asyncio.Semaphore(size)
        self._opening: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[Any]] = set()
        self._loop = asyncio.get_running_loop()

    # What a driver's pool does

    @abstractmethod
    async def _open(self) -> None:
        """Open the driver's pool."""

    @abstractmethod
    async def _close(self) -> None:
        """Close the driver's pool, in which nothing is in use, unless it is the application's."""

    @abstractmethod
    async def _take(self) -> ConnectionT:
        """Take a connection out of the driver's pool, and bring it into autocommit mode."""

    @abstractmethod
    async def _put(self, connection: ConnectionT) -> None:
        """Give a connection back that may be in a transaction, or broken; raises if it cannot be used again."""

    @abstractmethod
    async def _drop(self, connection: ConnectionT) -> None:
        """Give a killed connection back, so that the driver's pool opens another one instead.

        A statement of it may still be on its way to its end: its `turn` is then held.
        """

    @abstractmethod
    def kill(self) -> None:
        """Let go of everything, because the loop is closed."""

    async def call(self, function: Callable[..., Any], *arguments: object) -> Any:  # noqa: ANN401 - what it returns
        """Call a connection's method."""
        return await function(*arguments)

    # What is the same for all

    async def open(self) -> None:
        """Open now, and see that the database answers.

        Raises:
            UnavailableError: it does not.
        """
        self.release(await self.acquire())

    async def acquire(self) -> ConnectionT:
        """Return a connection, for which this waits at most the config's ``timeout``.

        Raises:
            UnavailableError: none came free in time.
        """
        deadline = self._loop.time() + self._timeout
        try:
            async with asyncio.timeout_at(deadline):
                await self._free.acquire()
        except TimeoutError:
            msg = (
                f"no connection came free within {self._timeout:g} s: all {self.size} of this pool are in use; "
                "hold them for less long, or give the pool more"
            )
            raise UnavailableError(msg) from None
        self.in_use += 1
        # Never cancelled: a driver that is interrupted here may lose count of its connections.
        taking = self._task(self._opened_take())
        try:
            await asyncio.wait([taking], timeout=deadline - self._loop.time())
        except BaseException:
            taking.add_done_callback(self._give_back)
            raise
        if not taking.done():
            taking.add_done_callback(self._give_back)
            msg = f"the database did not answer within {self._timeout:g} s: check pool_config, and that it is running"
            raise UnavailableError(msg)
        try:
            connection: ConnectionT = taking.result()
        except BaseException:
            self._freed()
            raise
        return connection

    def release(self, connection: ConnectionT) -> None:
        """Give *connection* back in good order, in the background."""
        self._task(self._release(connection))

    def discard(self, connection: ConnectionT) -> None:
        """Drop *connection*, in whatever state it is."""
        connection.kill()
        self._task(self._discard(connection))

    async def close(self) -> None:
        """Wait for the connections that are in use, at most the config's ``timeout``, then close.

        The next `acquire` opens again.
        """
        free = 0
        try:
            async with asyncio.timeout(self._timeout):
                while free < self.size:
                    await self._free.acquire()
                    free += 1
                if self._opened():
                    await self._close()
        except TimeoutError:
            if self._opened():
                self.kill()
        finally:
            self._opening = None
            for _ in range(free):
                self._free.release()

    def _opened(self) -> bool:
        return self._opening is not None and self._opening.done() and self._opening.exception() is None

    async def _opened_take(self) -> ConnectionT:
        if self._opening is None or (self._opening.done() and self._opening.exception() is not None):
            self._opening = self._task(self._open())
        await self._opening
        return await self._take()

    def _give_back(self, taking: asyncio.Task[ConnectionT]) -> None:
        if taking.cancelled() or taking.exception() is not None:
            self._freed()
        else:
            self.release(taking.result())

    async def _release(self, connection: ConnectionT) -> None:
        try:
            async with asyncio.timeout(self._timeout):
                await self._put(connection)
        except BaseException as error:
            # Whatever is wrong with it, another one is opened instead; and the end of a loop cancels this.
            connection.kill()
            await self._discard(connection)
            if not isinstance(error, Exception):
                raise
        else:
            self._freed()

    async def _discard(self, connection: ConnectionT) -> None:
        try:
            async with asyncio.timeout(self._timeout):
                await self._drop(connection)
        finally:
            self._freed()

    def _freed(self) -> None:
        self.in_use -= 1
        self._free.release()

    def _task(self, coroutine: Any) -> asyncio.Task[Any]:  # noqa: ANN401 - of any result
        # In an empty context: it may outlive its caller, and must not keep its context variables.
        task = self._loop.create_task(coroutine, context=contextvars.Context())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


SyncConnectionT = TypeVar("SyncConnectionT", bound=SyncConnection)


class SyncConnectionPool(ConnectionPool[SyncConnectionT]):
    """Connections of a synchronous driver, which block a thread."""

    synchronous = True

    def __init__(self, config: BaseConfig, size: int) -> None:
        """Keep at most *size* connections."""
        super().__init__(config, size)
        # A thread for each connection, so that no commit waits until one comes free. The application's worker threads
        # may all be busy with handlers that wait for what a commit would set free.
        self._threads = anyio.CapacityLimiter(size + 1)

    @override
    async def call(self, function: Callable[..., Any], *arguments: object) -> Any:
        return await anyio.to_thread.run_sync(function, *arguments, limiter=self._threads)
