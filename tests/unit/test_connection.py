"""The thread of a synchronous driver's connection, without a driver."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING, Any

from typing_extensions import override

from sqlstore.connection import ThreadConnection

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlstore.dialects import Step


class Connection(ThreadConnection):
    """A connection whose statements take until they may end."""

    def __init__(self) -> None:
        super().__init__()
        self.may_end = threading.Event()
        self.connected = False

    @override
    def _connect(self) -> None:
        self.connected = True

    @override
    def _run(self, steps: Sequence[Step], *, atomic: bool) -> list[Sequence[Sequence[Any]]]:
        self.may_end.wait()
        return []

    @override
    def _disconnect(self) -> None:
        self.connected = False

    @override
    def _interrupt(self) -> None:
        self.may_end.set()


async def test_a_cancelled_close_does_no_harm() -> None:
    """The connection closes all the same, and the next who waits for that is told."""
    connection = Connection()
    await connection.open()
    running = asyncio.create_task(connection.run([]))
    await asyncio.sleep(0)
    closing = asyncio.create_task(connection.close())
    await asyncio.sleep(0)
    closing.cancel()
    await asyncio.wait([closing])
    connection.may_end.set()
    await connection.close()
    await connection.bury()

    assert closing.cancelled()
    assert await running == []
    assert not connection.connected
