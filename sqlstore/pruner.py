"""Delete expired rows in the background, in one process at a time.

Who prunes holds a lease: a value in a namespace of its own, which only one can `add` and only its holder renews. It is
never given back, it expires: half an interval after the last renewal, so that several workers with the same interval
prune not much more often than one, and as soon when its holder has died. It never expires while a statement runs: it
outlasts the deadlines of all that comes between two renewals. With an interval so short that this is the longer time,
one worker goes on holding the lease, and the others stand by.

No data depends on the lease. Who was suspended for longer, and prunes beside the next holder until it looks again,
deletes rows that have expired, as the other does.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
from contextlib import aclosing
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .store import BaseSQLSpecStore

__all__ = ("LEASE_KEY", "LEASE_NAMESPACE", "Pruner", "pause")

LEASE_NAMESPACE, LEASE_KEY = "SQLSTORE", "pruner"
"""Beside the stores' default namespace, so that no `delete_all` of theirs reaches it."""
FIRST_RETRY = 5.0
"""Seconds until the first turn after a failed one; doubled for each further failure, up to the interval."""

_LOGGER = logging.getLogger("sqlstore")


class Pruner:
    """Prune a table again and again; see `run`."""

    def __init__(self, store: BaseSQLSpecStore[Any], interval: float) -> None:
        """Prepare to prune the whole table of *store*, every *interval* seconds on average; 0 means never."""
        self.interval = interval
        self.rows_pruned = 0
        """Rows that this pruner has deleted."""
        self.rounds = 0
        """How often it has gone through the whole table; what other workers do is not counted."""
        self.last_round: datetime | None = None
        """When its last round ended, UTC, by the process's clock; None before the first."""
        self.backlog = 0
        """Expired rows that its last round left behind, because others held them: at most so many."""
        self.failures = 0
        """Turns that have failed since the last one that did not."""

        config = store.config
        self._table = type(store)(config, namespace=None)
        self._lease = self._table.with_namespace(LEASE_NAMESPACE)
        self._renewal = config.timeout
        """Seconds after which the lease is renewed, as soon as the statement that runs has ended."""
        # Four deadlines: this pause, the end of that statement, the two calls of a renewal. With `renew_after`, a
        # renewal that finds so much left writes nothing.
        self._lifetime = max(interval / 2, 4 * config.timeout / (1 - config.renew_after))
        self._token = b""

    async def run(self) -> None:
        """Prune until cancelled; return at once if the interval is 0.

        A turn that fails is logged and tried again, whatever the reason.
        """
        self._token = os.urandom(16)  # not before: a forked process is another holder
        while self.interval:
            await asyncio.sleep(pause(self.interval, self.failures))
            try:
                await self._turn()
                self.failures = 0
            except Exception as error:  # noqa: BLE001 - nobody is there to handle it
                self.failures += 1
                _LOGGER.warning("pruning %s failed, will try again: %r", self._table.table_name, error)

    async def _turn(self) -> None:
        """Go through the whole table, unless somebody else has the lease."""
        clock = asyncio.get_running_loop().time
        renewed = clock()
        # It is still there, and ours, after a turn that failed, and where turns follow each other quickly.
        if not (await self._lease.add(LEASE_KEY, self._token, self._lifetime) or await self._renew()):
            return
        backlog = 0
        # The store's own delete_expired, step by step.
        steps = self._table._prune()  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]
        async with aclosing(steps):
            async for deleted, left in steps:
                self.rows_pruned += deleted
                backlog += left
                if clock() - renewed >= self._renewal:
                    renewed = clock()
                    if not await self._renew():
                        return
        self.rounds += 1
        self.last_round = datetime.now(UTC)
        self.backlog = backlog

    async def _renew(self) -> bool:
        """Prolong the lease; return whether it is this pruner's."""
        # Two calls, because a renewal alone would prolong somebody else's, too.
        if await self._lease.get(LEASE_KEY) != self._token:
            return False
        return await self._lease.get(LEASE_KEY, renew_for=self._lifetime) == self._token


def pause(interval: float, failures: int) -> float:
    """Return the seconds until the next turn: *interval*, or less after *failures*, times 0.5 to 1.5 at random."""
    seconds = min(interval, FIRST_RETRY * 2 ** min(failures - 1, 20)) if failures else interval
    # So that workers which were started together do not stay together.
    return seconds * random.uniform(0.5, 1.5)  # noqa: S311
