"""The seam to a driver: one connection that belongs to the stores and runs nothing but their statements."""

from __future__ import annotations

import asyncio
import atexit
import select
import sys
import weakref
from abc import ABC, abstractmethod
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from queue import SimpleQueue
from threading import Lock, Thread
from typing import TYPE_CHECKING, Any, TypeVar

from typing_extensions import override

from .exceptions import ConnectionLostError, ContentionError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from socket import socket

    from .dialects import Step

    Rows = Sequence[Sequence[Any]]

__all__ = ("StoreConnection", "ThreadConnection", "close_socket", "has_news", "started_threads")

T = TypeVar("T")


class StoreConnection(ABC):
    """An open connection in autocommit mode. One caller uses it at a time."""

    @property
    @abstractmethod
    def closed(self) -> bool:
        """The connection is known to be gone, so nothing must be sent over it."""

    @abstractmethod
    async def run(self, steps: Sequence[Step], *, atomic: bool = True) -> list[Rows]:
        """Run *steps* and return the rows of each; *atomic*, they are one transaction.

        Several atomic steps come only where the config has `transactions`.
        Raises the driver's own exceptions, which the config's `classify` tells apart.
        """

    @abstractmethod
    async def close(self) -> None:
        """Say goodbye to the server and close. Never raises because the server is already gone."""

    @abstractmethod
    def kill(self) -> None:
        """Drop the connection without waiting; a pending `run` raises at once. Works when its loop is closed."""

    @abstractmethod
    async def bury(self) -> None:
        """After `kill`: wait until no statement of it can take effect any more.

        A server goes on with a statement whose client has gone, so that it could undo what comes after. Raises the
        driver's own exceptions if the server cannot be asked.
        """


def has_news(connection: int | socket) -> bool:
    """Return whether the server of an idle connection, a socket, has sent something: that it has gone."""
    if sys.platform == "win32":
        return bool(select.select([connection], [], [], 0)[0])
    poll = select.poll()  # select.select refuses large file descriptors, but on Windows
    poll.register(connection, select.POLLIN)
    return bool(poll.poll(0))


def close_socket(transport: object) -> None:
    """Close the socket of an asyncio transport that cannot be aborted, because its loop is closed.

    It is left with an open socket that only its last callback closes (uvloop has closed it with the loop).
    """
    last_callback: Callable[[None], None] | None = getattr(transport, "_call_connection_lost", None)
    if last_callback is not None:
        with suppress(RuntimeError):  # somebody still waits for an answer, and cannot be told in a closed loop
            last_callback(None)


class ThreadConnection(StoreConnection):
    """A connection of a synchronous driver, used by one thread of its own.

    The steps of one `run` are a single hop to that thread and a single wake-up of the loop, 15 µs where a
    ThreadPoolExecutor takes 38 (uvloop). The application's shared worker threads stay free, and their being busy never
    delays a store.
    """

    def __init__(self) -> None:
        self._jobs: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        # A daemon, because other threads are joined before anything can tell this one to end; `_close_all` does.
        self._thread = Thread(target=_work, args=(self._jobs,), name="sqlstore", daemon=True)
        self._pending: asyncio.Future[Any] | None = None
        self._closed = False
        self._killed = False
        """The caller of what still runs has been told that it has no answer."""
        self._ended: Future[None] = Future()
        """The driver's connection has been closed."""
        self._ended.set_running_or_notify_cancel()  # a waiter that is cancelled cannot cancel it
        self._lock = Lock()

    @abstractmethod
    def _connect(self) -> None:
        """Open the driver's connection; in the thread."""

    @abstractmethod
    def _run(self, steps: Sequence[Step], *, atomic: bool) -> list[Rows]:
        """Do the work of `run`; in the thread."""

    @abstractmethod
    def _disconnect(self) -> None:
        """Close the driver's connection if it is open; in the thread, after whatever still runs there."""

    @abstractmethod
    def _interrupt(self) -> None:
        """Make the thread's current call return soon; from another thread."""

    @property
    @override
    def closed(self) -> bool:
        return self._closed

    async def open(self) -> None:
        """Open the driver's connection.

        Raises the driver's own exceptions.
        """
        self._thread.start()
        _THREADS[id(self)] = self
        try:
            await self._hop(self._connect)
        except BaseException:
            self.kill()
            raise

    @override
    async def run(self, steps: Sequence[Step], *, atomic: bool = True) -> list[Rows]:
        return await self._hop(partial(self._run, steps, atomic=atomic))

    @override
    async def close(self) -> None:
        self._end()
        await asyncio.wrap_future(self._ended)

    @override
    def kill(self) -> None:
        self._killed = True
        if not self._closed:
            self._interrupt()
            self._end()
        if self._pending is not None and not self._pending.get_loop().is_closed():
            self._pending.cancel()

    @override
    async def bury(self) -> None:
        await asyncio.wrap_future(self._ended)

    def close_at_once(self) -> None:
        """Close from any thread, and wait until what runs has ended."""
        self._end()
        self._thread.join()

    def _end(self) -> None:
        if self._closed:  # before the lock, which a forked child may have inherited locked
            return
        with self._lock:
            if not self._closed:
                self._closed = True
                self._jobs.put(partial(_do, self._disconnect, self._disconnected))
                self._jobs.put(None)

    def _disconnected(self, _: None, error: BaseException | None) -> None:
        if error is None:
            self._ended.set_result(None)
        else:
            self._ended.set_exception(error)

    async def _hop(self, function: Callable[[], T]) -> T:
        loop = asyncio.get_running_loop()
        pending: asyncio.Future[T] = loop.create_future()
        with self._lock:  # the end may come from any thread
            if self._closed:
                msg = "the connection was closed before the statement was sent"
                raise ContentionError(msg)
            self._pending = pending
            self._jobs.put(partial(_do, function, partial(_answer, loop, pending)))
        try:
            return await pending
        except asyncio.CancelledError:
            if self._killed:
                msg = "the connection was dropped while its thread was still busy"
                raise ConnectionLostError(msg) from None
            raise
        finally:
            self._pending = None


def _work(jobs: SimpleQueue[Callable[[], None] | None]) -> None:
    """Do the *jobs* of a connection until there is None."""
    while (job := jobs.get()) is not None:
        job()
        del job  # it would keep its connection while there is nothing to do


def _do(function: Callable[[], T], then: Callable[[Any, BaseException | None], None]) -> None:
    try:
        result = function()
    except BaseException as error:  # noqa: BLE001 - it becomes the caller's
        then(None, error)
    else:
        then(result, None)


def _answer(
    loop: asyncio.AbstractEventLoop, pending: asyncio.Future[Any], result: object, error: BaseException | None
) -> None:
    with suppress(RuntimeError):  # the loop is closed
        loop.call_soon_threadsafe(_settle, pending, result, error)


def _settle(pending: asyncio.Future[Any], result: object, error: BaseException | None) -> None:
    if pending.done():  # its connection was killed
        return
    if error is None:
        pending.set_result(result)
    else:
        pending.set_exception(error)


_THREADS: weakref.WeakValueDictionary[int, ThreadConnection] = weakref.WeakValueDictionary()
"""Those whose thread was started."""


def started_threads() -> list[ThreadConnection]:
    """Return the connections whose thread was started, by any thread."""
    # One step of the interpreter, where iterating would meet what another thread adds.
    return [connection for reference in _THREADS.valuerefs() if (connection := reference()) is not None]


def _close_all() -> None:
    """Commit or roll back what runs, before the program ends and cuts it off."""
    for connection in started_threads():
        connection.close_at_once()


atexit.register(_close_all)
