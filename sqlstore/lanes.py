"""The queue between the stores and their connections: order, retry and deadlines, for one config and event loop.

A call becomes an `Operation`. It becomes ready when every earlier operation on its keys has ended, waits in its lane
(reads or writes) for a connection, and runs there in a task that belongs to nobody: a caller that goes away abandons
its own future, never a statement on the wire.
"""

from __future__ import annotations

import asyncio
import contextvars
import enum
import random
import weakref
from collections import deque
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, TypedDict, TypeVar, Unpack

from .exceptions import (
    ConnectionLostError,
    ContentionError,
    OutcomeUnknownError,
    ReadOnlyError,
    SQLStoreError,
    TableMismatchError,
    TableMissingError,
    UnavailableError,
    ValueTooLargeError,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from .config import BaseConfig
    from .connection import StoreConnection

__all__ = ("Lanes", "Operation", "OperationOptions", "Repeat", "translate")

T = TypeVar("T")

IDLE_SECONDS = 60.0
"""How long a connection beyond a lane's first stays open unused."""
LOST_ATTEMPTS = 3
"""How often an operation may lose its connection: a statement that crashes the server must not do it for ever."""
SHORTEST_PAUSE, LONGEST_PAUSE = 0.005, 0.25
"""Seconds between two attempts."""


class Repeat(enum.Enum):
    """What may be done after a connection was lost while the statement was on its way."""

    ALWAYS = enum.auto()
    """Doing it twice is doing it once."""
    RECOGNISED = enum.auto()
    """The repetition recognises what the first attempt wrote; a negative answer then proves nothing."""
    NEVER = enum.auto()


class OperationOptions(TypedDict, total=False):
    """What kind of call an `Operation` is."""

    write: bool
    """It runs in the write lane; True if not given."""
    repeat: Repeat
    """`Repeat.ALWAYS` if not given."""
    patient: bool
    """A `ContentionError` is a reason to try again, not the answer; True if not given."""


class Operation(Generic[T]):
    """One call of a store: what it runs, which keys it touches, and who waits for it."""

    def __init__(
        self,
        work: Callable[[StoreConnection], Awaitable[T]],
        table: str,
        namespace: str,
        keys: Sequence[str] | None = (),
        **options: Unpack[OperationOptions],
    ) -> None:
        """Describe a call.

        *keys* are the stored keys it touches, None for everything under *namespace*; empty needs no order.
        """
        self.work = work
        self.table = table
        self.namespace = namespace
        self.keys = keys
        self.write = options.get("write", True)
        self.repeat = options.get("repeat", Repeat.ALWAYS)
        self.patient = options.get("patient", True)
        self.future: asyncio.Future[T]
        self.timer: asyncio.TimerHandle
        self.waiting_for = 0
        self.followers: list[Operation[Any]] = []
        self.connection: StoreConnection | None = None
        """Where it runs now: from here on it has been sent."""
        self.ambiguous = False
        """An attempt may have taken effect although its connection was lost."""
        self.hindrance: ContentionError | None = None
        """Why it is trying again."""
        self.losses = 0
        self.pauses = 0

    def covers(self, other: Operation[Any]) -> bool:
        """Whether *other* touches something under this one's namespace."""
        return self.table == other.table and other.namespace.startswith(self.namespace)


class _Tail:
    """The operations on one key that a new one has to wait for: the last write and the reads after it."""

    __slots__ = ("reads", "write")

    def __init__(self) -> None:
        self.write: Operation[Any] | None = None
        self.reads: set[Operation[Any]] = set()


class _Lane:
    """Operations that are ready, and the connections that serve them."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.ready: deque[Operation[Any]] = deque()
        self.workers: set[asyncio.Task[None]] = set()
        self.idle: list[tuple[StoreConnection, float]] = []
        """Open connections and since when they are idle, the longest first."""
        self.closing: asyncio.TimerHandle | None = None


class Lanes:
    """The lanes of one config in one event loop."""

    def __init__(self, config: BaseConfig) -> None:
        # Weakly, so that a config nobody uses any more can be collected, and its connections closed.
        self._config: BaseConfig = weakref.proxy(config)
        self._loop = asyncio.get_running_loop()
        self._reads = _Lane(config.readers)
        self._writes = _Lane(config.writers)
        self._unfinished: set[Operation[Any]] = set()
        self._tails: dict[tuple[str, str, str], _Tail] = {}
        self._barriers: list[Operation[Any]] = []
        self._drained: list[asyncio.Future[None]] = []
        self._closing: set[asyncio.Task[None]] = set()
        self.users = 0
        """How many ``async with`` blocks are open."""

    def submit(self, operation: Operation[T]) -> asyncio.Future[T]:
        """Queue *operation* behind what it has to wait for.

        Its place is taken now, not when the future is awaited. Cancelling the future abandons the operation.
        """
        operation.future = self._loop.create_future()
        self.restart_deadline(operation)
        for earlier in self._must_wait_for(operation):
            earlier.followers.append(operation)
            operation.waiting_for += 1
        self._unfinished.add(operation)
        if not operation.waiting_for:
            self._make_ready(operation)
        return operation.future

    def restart_deadline(self, operation: Operation[Any]) -> None:
        """Give *operation* the whole timeout again: it works in steps, and has just finished one."""
        if operation in self._unfinished:
            operation.timer.cancel()
        operation.timer = self._loop.call_later(self._config.timeout, self._expire, operation)

    async def close(self) -> None:
        """Wait for what has been submitted, then close the idle connections; the next call opens again."""
        if self._unfinished:
            drained = self._loop.create_future()
            self._drained.append(drained)
            # Each operation ends by its own deadline; this bound is for those that others keep adding.
            await asyncio.wait([drained], timeout=self._config.timeout)
        idle = self._reads.idle + self._writes.idle
        self._reads.idle.clear()
        self._writes.idle.clear()
        await asyncio.gather(*(connection.close() for connection, _ in idle))

    def kill(self) -> None:
        """Drop all connections without waiting, because the loop is closed."""
        for lane in (self._reads, self._writes):
            while lane.idle:
                lane.idle.pop()[0].kill()
        for operation in self._unfinished:
            if operation.connection is not None:
                operation.connection.kill()
        self._unfinished.clear()

    # Order

    def _must_wait_for(self, operation: Operation[Any]) -> set[Operation[Any]]:
        if operation.keys is None:
            earlier = {other for other in self._unfinished if operation.covers(other)}
            earlier.update(barrier for barrier in self._barriers if barrier.covers(operation))
            self._barriers.append(operation)
            return earlier
        earlier = {barrier for barrier in self._barriers if barrier.covers(operation)}
        for key in operation.keys:
            tail = self._tails.setdefault((operation.table, operation.namespace, key), _Tail())
            if tail.write is not None:
                earlier.add(tail.write)
            if operation.write:
                earlier |= tail.reads
                tail.write = operation
                tail.reads = set()
            else:
                tail.reads.add(operation)
        return earlier

    def _finish(self, operation: Operation[Any]) -> None:
        operation.timer.cancel()
        self._unfinished.discard(operation)
        self._leave(operation)
        for follower in operation.followers:
            follower.waiting_for -= 1
            if not follower.waiting_for:
                self._make_ready(follower)
        if not self._unfinished:
            while self._drained:
                drained = self._drained.pop()
                if not drained.done():
                    drained.set_result(None)

    def _leave(self, operation: Operation[Any]) -> None:
        if operation.keys is None:
            self._barriers.remove(operation)
            return
        for key in operation.keys:
            place = (operation.table, operation.namespace, key)
            tail = self._tails[place]
            if tail.write is operation:
                tail.write = None
            tail.reads.discard(operation)
            if tail.write is None and not tail.reads:
                del self._tails[place]

    # Running

    def _make_ready(self, operation: Operation[Any]) -> None:
        lane = self._writes if operation.write else self._reads
        lane.ready.append(operation)
        self._serve(lane)

    def _serve(self, lane: _Lane) -> None:
        if lane.ready and len(lane.workers) < lane.limit:
            # In an empty context: a worker outlives its first caller, and must not keep its context variables.
            worker = self._loop.create_task(self._work(lane), context=contextvars.Context())
            lane.workers.add(worker)
            worker.add_done_callback(partial(self._worker_ended, lane))

    def _worker_ended(self, lane: _Lane, worker: asyncio.Task[None]) -> None:
        # One that was cancelled, even before its first step, has left its work to another.
        lane.workers.discard(worker)
        self._serve(lane)

    async def _work(self, lane: _Lane) -> None:
        """Run what is ready, one operation after the other, over one connection."""
        connection: StoreConnection | None = None
        operation: Operation[Any] | None = None
        try:
            while lane.ready:
                operation = lane.ready.popleft()
                if not operation.future.done() and (connection is None or connection.closed):
                    connection = await self._connect(lane, operation)
                    if connection is None:
                        continue
                if operation.future.done():  # abandoned, or too late, before it was sent
                    self._finish(operation)
                elif connection is not None:
                    await self._attempt(operation, connection)
        except asyncio.CancelledError:
            # No caller can cancel this task: the loop is being shut down.
            if operation is not None and operation in self._unfinished:
                self._give_up(operation, "the event loop is shutting down")
                self._finish(operation)
            raise
        finally:
            if (worker := asyncio.current_task()) is not None:
                # Not only in the callback, which comes a tick later: until then nobody would serve the lane.
                lane.workers.discard(worker)
            if connection is not None and not connection.closed:
                lane.idle.append((connection, self._loop.time()))
                self._plan_closing(lane)

    async def _connect(self, lane: _Lane, operation: Operation[Any]) -> StoreConnection | None:
        while lane.idle:
            connection, _ = lane.idle.pop()
            if not connection.closed:
                return connection
            connection.kill()
        try:
            return await self._config.open_store_connection()
        except Exception as error:  # noqa: BLE001 - it becomes the caller's
            self._failed(operation, error, sent=False)
            return None

    async def _attempt(self, operation: Operation[Any], connection: StoreConnection) -> None:
        operation.connection = connection
        started = self._loop.time()
        try:
            result = await operation.work(connection)
        except Exception as error:  # noqa: BLE001 - it becomes the caller's
            operation.connection = None
            if isinstance(translate(error, self._config, operation.table), ConnectionLostError):
                connection.kill()
                if operation.write:
                    await self._bury(connection)
            self._failed(operation, error, sent=True, took=self._loop.time() - started)
            return
        operation.connection = None
        if operation.ambiguous and operation.repeat is Repeat.RECOGNISED and not result:
            _settle(operation, _outcome_unknown("the connection was lost, and another value is there,"))
        else:
            _settle(operation, result)
        self._finish(operation)

    async def _bury(self, connection: StoreConnection) -> None:
        """Make sure that a lost write does not land after what follows it, if the database can be asked in time."""
        burial = asyncio.ensure_future(connection.bury())
        self._closing.add(burial)
        burial.add_done_callback(self._buried)
        await asyncio.wait([burial], timeout=self._config.timeout / 2)

    def _buried(self, burial: asyncio.Task[None]) -> None:
        self._closing.discard(burial)
        if not burial.cancelled():
            burial.exception()  # the database cannot be asked; the caller has been told what is known

    def _failed(self, operation: Operation[Any], cause: Exception, *, sent: bool, took: float = 0.0) -> None:
        """Try again later, or hand the error to the caller."""
        error = translate(cause, self._config, operation.table)
        pause = min(SHORTEST_PAUSE * 2**operation.pauses, LONGEST_PAUSE) * random.uniform(0.5, 1)  # noqa: S311
        again = False
        if isinstance(error, ContentionError):
            operation.hindrance = error
            # The same wait once more would be cut short in the middle, where nobody knows what happened.
            again = operation.patient and self._loop.time() + pause + took < operation.timer.when()
        elif isinstance(error, ConnectionLostError):
            operation.losses += 1
            operation.ambiguous |= sent
            again = operation.losses < LOST_ATTEMPTS
            again &= not (operation.ambiguous and operation.repeat is Repeat.NEVER)
        if not sent and type(error) in {SQLStoreError, ConnectionLostError}:  # it is the connecting that failed
            error = UnavailableError(f"{_ADVICE[UnavailableError]} ({type(cause).__name__}: {cause})")
        if operation.ambiguous and operation.write and not isinstance(error, ContentionError):
            error = _outcome_unknown("the connection was lost, and the write could not be repeated,")
        error.__cause__ = cause if cause is not error else cause.__cause__
        if again and not operation.future.done():
            operation.pauses = min(operation.pauses + 1, 10)
            self._loop.call_later(pause, self._make_ready, operation)
        else:
            _settle(operation, error)
            self._finish(operation)

    def _expire(self, operation: Operation[Any]) -> None:
        self._give_up(operation, f"no answer came within {self._config.timeout:g} s")

    def _give_up(self, operation: Operation[Any], why: str) -> None:
        """Tell the caller, and drop the connection on which *operation* is."""
        if operation.write and (operation.connection is not None or operation.ambiguous):
            _settle(operation, _outcome_unknown(why))
        else:
            unavailable = UnavailableError(f"{why}: the database is overloaded or unreachable")
            _settle(operation, operation.hindrance or unavailable)
        if operation.connection is not None:
            operation.connection.kill()

    # Idle connections

    def _plan_closing(self, lane: _Lane) -> None:
        if len(lane.idle) > 1 and lane.closing is None:
            lane.closing = self._loop.call_later(IDLE_SECONDS, self._close_idle, lane)

    def _close_idle(self, lane: _Lane) -> None:
        lane.closing = None
        while len(lane.idle) > 1 and lane.idle[0][1] <= self._loop.time() - IDLE_SECONDS:
            closing = self._loop.create_task(lane.idle.pop(0)[0].close(), context=contextvars.Context())
            self._closing.add(closing)
            closing.add_done_callback(self._closing.discard)
        self._plan_closing(lane)


def _settle(operation: Operation[Any], outcome: object) -> None:
    if operation.future.done():  # abandoned, or out of time
        return
    if isinstance(outcome, Exception):
        operation.future.set_exception(outcome)
    else:
        operation.future.set_result(outcome)


def _outcome_unknown(what: str) -> OutcomeUnknownError:
    return OutcomeUnknownError(f"{what} after the write was sent: read the value to see whether it happened")


_ADVICE: dict[type[SQLStoreError], str] = {
    TableMissingError: "table {table} does not exist: await store.create_table()",
    TableMismatchError: "table {table} was not made by the bundled migrations: choose another session_table",
    ReadOnlyError: "the database takes no writes: check file permissions and grants, or use the primary server",
    ContentionError: "other transactions were in the way, and nothing was changed",
    UnavailableError: "cannot use the database: check pool_config, and that the server is running",
    ConnectionLostError: "the connection to the database was lost",
    ValueTooLargeError: "the value is too large for the database",
}


def translate(error: Exception, config: BaseConfig, table: str) -> SQLStoreError:
    """Return our exception for the driver's *error*, which becomes its cause."""
    if isinstance(error, SQLStoreError):
        return error
    kind = config.classify(error)
    advice = _ADVICE.get(kind, "the database refused the statement").format(table=table)
    translated = kind(f"{advice} ({type(error).__name__}: {error})")
    translated.__cause__ = error
    return translated
