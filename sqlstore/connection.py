"""The seam to a driver: one connection that belongs to the stores and runs nothing but their statements."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from typing_extensions import override

from .exceptions import ConnectionLostError, ContentionError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from .dialects import Step

    Rows = Sequence[Sequence[Any]]

__all__ = ("StoreConnection", "ThreadConnection")

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


class ThreadConnection(StoreConnection):
    """A connection of a synchronous driver, used by one thread of its own.

    The steps of one `run` are a single hop to that thread. The application's shared worker threads stay free, and
    their being busy never delays a store.
    """

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="sqlstore")
        self._pending: asyncio.Future[Any] | None = None
        self._closed = False
        self._killed = False
        """The caller of what still runs has been told that it has no answer."""
        self._ended: Future[None] | None = None

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
        if not self._closed:
            self._closed = True
            await asyncio.get_running_loop().run_in_executor(self._thread, self._disconnect)
            self._thread.shutdown()  # it has nothing left to do

    @override
    def kill(self) -> None:
        self._killed = True
        if not self._closed:
            self._closed = True
            self._interrupt()
            try:
                self._ended = self._thread.submit(self._disconnect)
            except RuntimeError:  # the program is ending, and its threads have ended
                self._disconnect()
            self._thread.shutdown(wait=False)
        if self._pending is not None and not self._pending.get_loop().is_closed():
            self._pending.cancel()

    @override
    async def bury(self) -> None:
        if self._ended is not None:
            await asyncio.wrap_future(self._ended)

    def close_at_once(self) -> None:
        """Close from any thread, and wait until what runs has ended."""
        if not self._closed:
            self._closed = True
            self._thread.submit(self._disconnect)
            self._thread.shutdown()

    async def _hop(self, function: Callable[[], T]) -> T:
        if self._closed:
            msg = "the connection was closed before the statement was sent"
            raise ContentionError(msg)
        pending = asyncio.get_running_loop().run_in_executor(self._thread, function)
        self._pending = pending
        try:
            return await pending
        except asyncio.CancelledError:
            if self._killed:
                msg = "the connection was dropped while its thread was still busy"
                raise ConnectionLostError(msg) from None
            raise
        finally:
            self._pending = None
