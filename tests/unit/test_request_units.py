"""A request's units of work, whatever happens while they end."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from sqlstore.litestar.transactions import RequestUnits


class Unit:
    """A unit of work that waits for its database when it ends."""

    def __init__(self) -> None:
        self.config = object()
        self.verdict = False
        self.ended = False
        self.before_commit: list[object] = []

    async def end(self, *, commit: bool) -> None:
        """Wait for an answer that does not come."""
        assert not commit
        await asyncio.Event().wait()

    def abandon(self, _: str) -> None:
        """End without waiting."""
        self.ended = True


async def test_a_request_that_is_cancelled_while_one_unit_ends_keeps_no_other() -> None:
    """Their connections would be lost to their pools for ever."""
    units = [Unit(), Unit()]
    configs: Any = [unit.config for unit in units]
    scope: Any = {}
    requests = RequestUnits(scope, configs)
    requests.units.extend(units)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    ending = asyncio.create_task(requests.end(None))
    await asyncio.sleep(0)
    ending.cancel()
    with pytest.raises(asyncio.CancelledError):
        await ending

    assert all(unit.ended for unit in units)
