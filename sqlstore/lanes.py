"""The queue between the stores and their connections, for one config and event loop: order, sharing, retry, deadlines.

A call becomes an `Operation`. It is ready when every earlier operation on its keys has ended. When a lane has a
connection free, all that is ready and does the same shares one statement and one commit; nobody waits for company. It
runs in a task that belongs to nobody: a caller that goes away abandons its own future, never a statement on the wire.
"""

from __future__ import annotations

import asyncio
import contextvars
import random
import sys
import weakref
from collections import OrderedDict, deque
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING, cast

from . import telemetry
from .exceptions import (
    ConnectionLostError,
    ContentionError,
    OutcomeUnknownError,
    UnavailableError,
)
from .operations import BATCH_BYTES, BATCH_ROWS, LARGE_BYTES, Repeat
from .order import Order

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .config import BaseConfig
    from .connection import StoreConnection
    from .dialects import Row
    from .operations import Answer, Operation

__all__ = ("Lanes",)

IDLE_SECONDS = 60.0
"""How long a connection stays open unused, apart from the first for reads and the first for writes."""
READ_BYTES = 2 * 1024 * 1024
"""What a batch reads at most, once that is known: 64 values of 100 KB came half as fast as 16 at a time (SQLite)."""
LOST_ATTEMPTS = 3
"""How often an operation may lose its connection: a statement that crashes the server must not do it for ever."""
SHORTEST_PAUSE, LONGEST_PAUSE = 0.005, 0.25
"""Seconds between two attempts."""


class _Lane:
    """Operations that are ready, and the connections that serve them."""

    def __init__(self, limit: int, *, transactions: bool, writes: bool = True, keep: int = 1) -> None:
        self.limit = limit
        self.writes = writes
        self.keep = keep
        """So many connections stay open unused."""
        self.transactions = transactions
        """A batch is all that is ready, in one transaction, and not just what shares a statement."""
        self.most_rows = BATCH_ROWS
        """What a batch holds at most, learned from the size of what was read."""
        self.hindered = False
        """The last batch had met somebody's lock before, and may have waited for it again."""
        self.ready: OrderedDict[object, deque[Operation]] = OrderedDict()
        """By what shares a statement; the group whose turn it is comes first."""
        self.workers: set[asyncio.Task[None]] = set()
        self.planned = False
        """A worker will start at the end of this tick."""
        self.busy = False
        """The last batch had more than one operation, so that waiting for the end of the tick pays."""
        self.idle: list[tuple[StoreConnection, float]] = []
        """Open connections and since when they are idle, the longest first."""
        self.closing: asyncio.TimerHandle | None = None

    def add(self, operation: Operation) -> None:
        key = operation.verb.kind if operation.verb.shared and not operation.slow else operation
        group = self.ready.get(key)
        if group is None:
            self.ready[key] = deque((operation,))
        else:
            group.append(operation)

    def learn(self, answer: Answer) -> None:
        """Make batches smaller when they read more than the processor's caches hold, and larger again when less."""
        size = sum([len(row[1]) for row in answer.values() if isinstance(row[1], bytes)])
        if size > READ_BYTES:
            self.most_rows = max(self.most_rows // 2, 1)
        elif size < READ_BYTES // 4:
            self.most_rows = min(self.most_rows * 2, BATCH_ROWS)

    def wanted(self) -> bool:
        """Return whether there is a caller who has not gone away."""
        return any(not operation.future.done() for group in self.ready.values() for operation in group)

    def _prefer_the_unhindered(self) -> None:
        """Let those that wait for nobody's lock have every second turn: with many locked rows they would come last."""
        key = next((key for key, group in self.ready.items() if group[0].hindrance is None), None)
        if key is not None:
            self.ready.move_to_end(key, last=False)

    def take(self) -> list[list[Operation]]:
        """Take the next batch: groups that each share a statement."""
        batch: list[list[Operation]] = []
        turn = object()
        rows = size = 0
        if self.hindered:
            self._prefer_the_unhindered()
        while self.ready:
            key = next(iter(self.ready))
            group = self.ready[key]
            self.hindered = group[0].hindrance is not None
            alone = group[0].slow
            if alone and batch:
                break
            taken: list[Operation] = []
            while group:
                operation = group[0]
                rows += len(operation.rows)
                size += operation.size
                if (rows > self.most_rows or size > BATCH_BYTES) and (taken or batch):
                    break
                operation.turn = turn
                taken.append(group.popleft())
            if taken:
                batch.append(taken)
            if group:
                self.ready.move_to_end(key)  # its next turn comes after the others'
                break
            del self.ready[key]
            if alone or not self.transactions:
                break
        return batch


class Lanes:
    """The lanes of one config in one event loop."""

    def __init__(self, config: BaseConfig) -> None:
        # Weakly, so that a config nobody uses any more can be collected, and its connections closed.
        self._config: BaseConfig = weakref.proxy(config)
        self._loop = asyncio.get_running_loop()
        self._timeout = config.timeout
        self._system = config.dialect.system
        self._order = Order()
        self._unfinished = self._order.unfinished
        self._reads = _Lane(config.readers, transactions=config.transactions, writes=False)
        self._writes = _Lane(1, transactions=config.transactions)
        # What shares no statement, is large, touches everything, or waits for somebody's lock.
        self._single_writes = self._writes
        if config.writers > 1:
            self._single_writes = _Lane(config.writers - 1, transactions=False, keep=0)
        self._largest_shared = BATCH_BYTES if self._single_writes is self._writes else LARGE_BYTES
        self._lanes = {self._reads, self._writes, self._single_writes}
        self._watch: asyncio.TimerHandle | None = None
        self._drained: list[asyncio.Future[None]] = []
        self._closing: set[asyncio.Task[None]] = set()
        self.users = 0
        """How many ``async with`` blocks are open."""

    def submit(self, operation: Operation) -> asyncio.Future[Answer]:
        """Queue *operation* behind what it has to wait for.

        Its place is taken now, not when the future is awaited. Cancelling the future abandons the operation.
        """
        operation.future = self._loop.create_future()
        if operation.size > self._largest_shared:
            operation.slow = True
        if operation.ordered:
            self._order.enter(operation)
        self._start_deadline(operation)
        if not operation.waiting_for:
            self._make_ready(operation)
        return operation.future

    async def close(self) -> None:
        """Wait for what has been submitted, then close the idle connections; the next call opens again."""
        if self._unfinished:
            drained = self._loop.create_future()
            self._drained.append(drained)
            # Each operation ends by its own deadline; this bound is for those that others keep adding.
            await asyncio.wait([drained], timeout=self._timeout)
        if workers := [worker for lane in self._lanes for worker in lane.workers]:
            # One that waits for the end of its tick, or is connecting, has a connection in its hands.
            await asyncio.wait(workers, timeout=self._timeout)
        idle = [connection for lane in self._lanes for connection, _ in lane.idle]
        for lane in self._lanes:
            lane.idle.clear()
        await asyncio.gather(*(connection.close() for connection in idle))

    def kill(self) -> None:
        """Drop all connections without waiting, because the loop is closed."""
        for lane in self._lanes:
            while lane.idle:
                lane.idle.pop()[0].kill()
        for operation in self._unfinished:
            if operation.connection is not None:
                operation.connection.kill()
        self._unfinished.clear()

    # Running

    def _make_ready(self, operation: Operation) -> None:
        operation.turn = None
        if not operation.verb.write:
            lane = self._reads
        elif operation.slow or not operation.verb.shared:
            lane = self._single_writes
        else:
            lane = self._writes
        lane.add(operation)
        if operation.companions:
            self._make_companions_ready(operation)
        if lane.planned or len(lane.workers) >= lane.limit:
            return
        if lane.busy:
            # Others that are woken in the same tick share the batch.
            lane.planned = True
            self._loop.call_soon(self._serve, lane)
        else:
            self._serve(lane)

    def _make_companions_ready(self, operation: Operation) -> None:
        # Not by recursion: there can be thousands, each ahead of the next.
        chain_of = [operation]
        for one in chain_of:
            for companion in one.companions:
                companion.waiting_for -= 1
                if not companion.waiting_for:
                    self._writes.add(companion)
                    chain_of.append(companion)
            one.companions = []

    def _finish(self, operation: Operation) -> None:
        for follower in self._order.leave(operation):
            self._make_ready(follower)
        while self._drained and not self._unfinished:
            drained = self._drained.pop()
            if not drained.done():
                drained.set_result(None)

    def _serve(self, lane: _Lane) -> None:
        lane.planned = False
        if not lane.ready or len(lane.workers) >= lane.limit:
            return
        # In an empty context: a worker outlives its first caller, and must not keep its context variables.
        context = contextvars.Context()
        worker: asyncio.Task[None]
        if sys.version_info >= (3, 12):  # the statement is on its way before the caller's own tick ends
            worker = asyncio.Task(self._work(lane), loop=self._loop, context=context, eager_start=True)
        else:
            worker = self._loop.create_task(self._work(lane), context=context)
        if not worker.done():
            lane.workers.add(worker)  # itself it does so when it begins
            worker.add_done_callback(partial(self._worker_ended, lane))

    def _worker_ended(self, lane: _Lane, worker: asyncio.Task[None]) -> None:
        # One that was cancelled, even before its first step, has left its work to another.
        lane.workers.discard(worker)
        self._serve(lane)

    async def _work(self, lane: _Lane) -> None:
        """Run what is ready, one batch after the other, over one connection."""
        connection: StoreConnection | None = None
        batch: list[list[Operation]] = []
        worker = cast("asyncio.Task[None]", asyncio.current_task())
        # An eager one takes its first step before anybody else knows it, and must not start another for its lane.
        lane.workers.add(worker)
        try:
            while lane.ready:
                connection = await self._connect(lane, connection)
                # Taken only now, so that who came or went away meanwhile is part of it or is not.
                batch = self._still_wanted(lane.take()) if connection is not None else []
                if connection is None or not batch:
                    continue
                await self._attempt(batch, connection)
                lane.busy = len(batch) > 1 or len(batch[0]) > 1
                batch = []
                if lane.busy:
                    await asyncio.sleep(0)  # those who have just been answered may join the next batch
        except asyncio.CancelledError:
            # No caller can cancel this task: the loop is being shut down.
            await self._give_up_batch(batch, connection)
            raise
        finally:
            # Not only in the callback, which comes a tick later: until then nobody would serve the lane.
            lane.workers.discard(worker)
            if connection is not None and _is_open(connection):
                lane.idle.append((connection, self._loop.time()))
                self._plan_closing(lane)

    def _still_wanted(self, batch: list[list[Operation]]) -> list[list[Operation]]:
        """Drop what was abandoned, or is too late, before it was sent, and what must wait for another attempt."""
        wanted: list[list[Operation]] = []
        for group in batch:
            live: list[Operation] = []
            for operation in group:
                if self._order.postpone(operation):
                    operation.turn = None
                elif operation.future.done():
                    self._finish(operation)
                else:
                    live.append(operation)
            if live:
                wanted.append(live)
        return wanted

    async def _connect(self, lane: _Lane, current: StoreConnection | None) -> StoreConnection | None:
        """Return an open connection; None if nobody waits for one, or those who do have been told that it failed."""
        if current is not None and _is_open(current):
            return current
        if not lane.wanted():
            self._still_wanted(lane.take())
            return None
        while lane.idle:
            connection, _ = lane.idle.pop()
            if _is_open(connection):
                return connection
        began = self._loop.time()
        try:
            async with asyncio.timeout(self._timeout):
                return await self._config.open_store_connection(writes=lane.writes)
        except Exception as error:  # noqa: BLE001 - it becomes the callers'
            for operation in chain(*self._still_wanted(lane.take())):
                if operation.deadline <= began + self._timeout:
                    self._failed(operation, error, connecting=True)
                else:  # it came meanwhile, and may have better luck
                    self._make_ready(operation)
            return None

    async def _attempt(self, batch: list[list[Operation]], connection: StoreConnection) -> None:
        for operation in chain(*batch):
            operation.connection = connection
        started = self._loop.time()
        table = batch[0][0].verb.table  # of the config, and so everybody's
        if telemetry.active():
            waits = [started + self._timeout - operation.deadline for operation in chain(*batch)]
            telemetry.sent(self._system, table, waits)
        try:
            answers = await self._run(batch, connection)
        except Exception as error:  # noqa: BLE001 - it becomes the callers'
            await self._attempt_failed([*chain(*batch)], error, connection, started)
            return
        telemetry.answered(self._system, table, self._loop.time() - started)
        failed: list[tuple[list[Operation], Exception]] = []
        for group, answer in zip(batch, answers, strict=True):
            if isinstance(answer, Exception):
                failed.append((group, answer))
                continue
            if answer and not group[0].verb.write:
                self._reads.learn(answer)
            for operation in group:
                operation.connection = None
                self._answered(operation, answer)
        for group, failure in failed:
            await self._attempt_failed(group, failure, connection, started)

    async def _attempt_failed(
        self, members: list[Operation], error: Exception, connection: StoreConnection, started: float
    ) -> None:
        lost = isinstance(self._config.translated(error, members[0].verb.table), ConnectionLostError)
        for operation in members:
            operation.connection = None
            operation.ambiguous |= lost
        if lost:
            telemetry.lost(self._system, members[0].verb.table)
            connection.kill()
            if members[0].verb.write:
                await self._bury(connection)
        took = self._loop.time() - started
        for operation in members:
            self._failed(operation, error, took=took, shared=len(members) > 1)

    async def _run(self, batch: list[list[Operation]], connection: StoreConnection) -> list[Answer | Exception | None]:
        """Run the statement of each group, all in one transaction, and return what each answered.

        None stands for a group that has more to do, an exception for one that failed when the others were done.
        """
        first = batch[0][0].verb
        if first.everything:
            return [None if await first.run_part(connection) else {}]
        merged = [(group[0].verb, _merged(group)) for group in batch]
        results = await connection.run([verb.step(rows) for verb, rows in merged], atomic=first.write)
        answers: list[Answer | Exception | None] = []
        for (verb, rows), result in zip(merged, results, strict=True):
            answer = verb.answer(result)
            try:
                answers.append(await verb.complete(answer, rows, connection) if verb.completes else answer)
            except Exception as error:  # noqa: BLE001 - the others are committed, and must not run again
                answers.append(error)
        return answers

    def _answered(self, operation: Operation, answer: Answer | None) -> None:
        if answer is None:
            # It gets the whole timeout for its next part, before which those have their turn who came meanwhile.
            del self._unfinished[operation]
            self._start_deadline(operation)
            self._make_ready(operation)
            return
        own = answer if not operation.verb.shared else any(row.key in answer for row in operation.rows)
        if operation.ambiguous and operation.verb.repeat is Repeat.RECOGNISED and not own:
            operation.settle(_outcome_unknown("the connection was lost, and another value is there,"))
        else:
            operation.settle(answer)
        self._finish(operation)

    # Faults

    def _failed(
        self,
        operation: Operation,
        cause: Exception,
        *,
        connecting: bool = False,
        took: float = 0.0,
        shared: bool = False,
    ) -> None:
        """Try again later, or hand the error to the caller.

        What failed in a *shared* batch runs again by itself, so that only the one that is to blame sees the error,
        and only the one whose row is locked waits.
        """
        verb = operation.verb
        error = self._config.translated(cause, verb.table)
        # A database that takes all in one transaction has locks that are in the way of all.
        shared &= not (self._config.transactions and isinstance(error, ContentionError))
        pause = min(SHORTEST_PAUSE * 2**operation.pauses, LONGEST_PAUSE) * random.uniform(0.5, 1)  # noqa: S311
        again = shared
        if isinstance(error, ContentionError):
            operation.hindrance = error
            # The same wait once more would be cut short in the middle, where nobody knows what happened.
            again = shared or (verb.patient and self._loop.time() + pause + took < operation.deadline)
        elif isinstance(error, ConnectionLostError):
            operation.losses += 1
            again = operation.losses < LOST_ATTEMPTS
            again &= not (operation.ambiguous and verb.repeat is Repeat.NEVER)
        if connecting:
            error = self._config.translated(cause, verb.table, connecting=True)
        if error is cause:  # each caller gets an exception of its own
            error = type(error)(*error.args)
        if operation.ambiguous and verb.write and (verb.patient or not isinstance(error, ContentionError)):
            error = _outcome_unknown("the connection was lost, and the write could not be repeated,")
        error.__cause__ = cause.__cause__ if type(error) is type(cause) else cause
        if again and not operation.future.done():
            telemetry.retried(self._system, verb.table, error)
        else:
            operation.settle(error)
        operation.turn = None
        operation.slow |= shared
        if self._order.postpone(operation):
            return
        if operation.future.done():
            self._finish(operation)
        elif shared and not operation.losses:
            self._make_ready(operation)
        else:
            operation.pauses = min(operation.pauses + 1, 10)
            self._loop.call_later(pause, self._make_ready, operation)

    async def _bury(self, connection: StoreConnection) -> None:
        """Make sure that a lost write does not land after what follows it, if the database can be asked in time."""
        burial = asyncio.ensure_future(connection.bury())
        self._closing.add(burial)
        burial.add_done_callback(self._buried)
        await asyncio.wait([burial], timeout=self._timeout / 2)

    def _buried(self, burial: asyncio.Task[None]) -> None:
        self._closing.discard(burial)
        if not burial.cancelled():
            burial.exception()  # the database cannot be asked; the caller has been told what is known

    # Deadlines

    def _start_deadline(self, operation: Operation) -> None:
        operation.deadline = self._loop.time() + self._timeout
        self._unfinished[operation] = None
        if self._watch is None:
            self._watch = self._loop.call_at(operation.deadline, self._look_at_deadlines)

    def _look_at_deadlines(self) -> None:
        """Give up what is late, and look again at the next deadline."""
        self._watch = None
        now = self._loop.time()
        late: list[Operation] = []
        for operation in self._unfinished:
            if operation.deadline > now:
                self._watch = self._loop.call_at(operation.deadline, self._look_at_deadlines)
                break
            late.append(operation)
        for operation in late:
            self._give_up(operation, f"no answer came within {self._timeout:g} s")

    def _give_up(self, operation: Operation, why: str) -> None:
        """Tell the caller, and drop the connection on which *operation* is."""
        if operation.verb.write and (operation.connection is not None or operation.ambiguous):
            operation.settle(_outcome_unknown(why))
        else:
            unavailable = UnavailableError(f"{why}: the database is overloaded or unreachable")
            operation.settle(operation.hindrance or unavailable)
        if operation.connection is not None:
            operation.connection.kill()

    async def _give_up_batch(self, batch: list[list[Operation]], connection: StoreConnection | None) -> None:
        members = [operation for operation in chain(*batch) if operation in self._unfinished]
        for operation in members:
            self._give_up(operation, "the event loop is shutting down")
        if connection is not None and members and members[0].verb.write:
            await self._bury(connection)
        for operation in members:
            self._finish(operation)

    # Idle connections

    def _plan_closing(self, lane: _Lane) -> None:
        if len(lane.idle) > lane.keep and lane.closing is None:
            lane.closing = self._loop.call_later(IDLE_SECONDS, self._close_idle, lane)

    def _close_idle(self, lane: _Lane) -> None:
        lane.closing = None
        while len(lane.idle) > lane.keep and lane.idle[0][1] <= self._loop.time() - IDLE_SECONDS:
            closing = self._loop.create_task(lane.idle.pop(0)[0].close(), context=contextvars.Context())
            self._closing.add(closing)
            closing.add_done_callback(self._closing.discard)
        self._plan_closing(lane)


def _is_open(connection: StoreConnection) -> bool:
    if connection.closed:
        connection.kill()  # the server may have closed it, and the driver not yet
        return False
    return True


def _merged(group: list[Operation]) -> Sequence[Row]:
    """Return the rows of all operations, each key's last one, in the order in which every process locks them."""
    if len(group) == 1:
        return group[0].rows
    rows = {row.key: row for operation in group for row in operation.rows}
    return [rows[key] for key in sorted(rows)]


def _outcome_unknown(what: str) -> OutcomeUnknownError:
    return OutcomeUnknownError(f"{what} after the write was sent: read the value to see whether it happened")
