"""The order of operations on one key, which is the order of their calls.

Reads wait for the last write on their key, a write for that and for the reads after it. An operation that touches
everything under a namespace waits for all that was called before, and all that is called later waits for it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .operations import Operation

__all__ = ("Order",)


class _Tail:
    """The operations on one key that a new one has to wait for: the last write and the reads after it."""

    __slots__ = ("reads", "write")

    def __init__(self) -> None:
        self.write: Operation | None = None
        self.reads: set[Operation] | None = None


class Order:
    """Who has to wait for whom."""

    def __init__(self) -> None:
        self.unfinished: dict[Operation, None] = {}
        """All that have been called and have not ended, in the order of their deadlines."""
        self._tails: dict[tuple[str, str, str], _Tail] = {}
        self._barriers: list[Operation] = []

    def enter(self, operation: Operation) -> None:
        """Make *operation* wait for what was called before."""
        verb = operation.verb
        for barrier in self._barriers:
            if barrier.verb.covers(verb):
                operation.follow(barrier)
        if verb.everything:
            for other in self.unfinished:
                if verb.covers(other.verb):
                    operation.follow(other)
            self._barriers.append(operation)
            return
        for row in operation.rows:
            self._queue((verb.table, verb.namespace, row.key), operation)

    def _queue(self, place: tuple[str, str, str], operation: Operation) -> None:
        tail = self._tails.get(place)
        if tail is None:
            tail = self._tails[place] = _Tail()
        elif tail.write is not None:
            if _may_share(tail.write, operation) and not tail.reads:
                operation.come_along(tail.write)
            else:
                operation.follow(tail.write)
        if not operation.verb.write:
            if tail.reads is None:
                tail.reads = set()
            tail.reads.add(operation)
            return
        tail.write = operation
        if tail.reads:
            for read in tail.reads:
                operation.follow(read)
            tail.reads = None

    def leave(self, operation: Operation) -> list[Operation]:
        """End *operation*, and return those that waited for nothing else."""
        del self.unfinished[operation]
        operation.ahead = None
        if operation.ordered:
            self._give_up_place(operation)
        ready: list[Operation] = []
        for follower in operation.followers:
            follower.waiting_for -= 1
            if not follower.waiting_for:
                ready.append(follower)
        return ready

    def _give_up_place(self, operation: Operation) -> None:
        verb = operation.verb
        if verb.everything:
            self._barriers.remove(operation)
            return
        for row in operation.rows:
            place = (verb.table, verb.namespace, row.key)
            tail = self._tails[place]
            if tail.write is operation:
                tail.write = None
            elif tail.reads:
                tail.reads.discard(operation)
            if tail.write is None and not tail.reads:
                del self._tails[place]

    def postpone(self, operation: Operation) -> bool:
        """Make *operation*, which was to run now, wait for the one ahead if that is not part of the same batch."""
        ahead = operation.ahead
        if ahead is None or ahead not in self.unfinished:
            return False
        if ahead.turn is operation.turn is not None and not operation.future.done():
            return False
        # Also one whose caller has gone away: what comes next on its key waits for it, and must not overtake.
        operation.follow(ahead)
        return True


def _may_share(earlier: Operation, later: Operation) -> bool:
    """Return whether one statement can do both: the last value counts, or one renewal is as good as two."""
    return (
        earlier.verb.kind == later.verb.kind
        and later.verb.write
        and later.verb.shared
        and later.verb.last_counts
        and len(earlier.rows) == len(later.rows) == 1
        and not (earlier.turn or earlier.pauses or earlier.slow or later.slow)
    )
