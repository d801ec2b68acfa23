"""One call of a store on its way to the database: what it does, to which keys, and who waits for it."""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias, TypedDict, Unpack

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Hashable, Mapping, Sequence

    from .connection import StoreConnection
    from .dialects import Row, Step
    from .exceptions import ContentionError

__all__ = ("BATCH_BYTES", "BATCH_ROWS", "LARGE_BYTES", "Answer", "Operation", "Repeat", "Rows", "Verb", "VerbOptions")

Rows: TypeAlias = "Sequence[Sequence[Any]]"
Answer: TypeAlias = "Mapping[str, Sequence[Any]]"
"""What the database said of each key: of all that shared the statement."""

BATCH_ROWS, BATCH_BYTES = 256, 256 * 1024
"""What one statement holds at most, unless a single value is larger."""
LARGE_BYTES = 64 * 1024
"""What has more is written by itself where there are several connections: the server can then work on some at once."""


class Repeat(enum.Enum):
    """What may be done after a connection was lost while the statement was on its way."""

    ALWAYS = enum.auto()
    """Doing it twice is doing it once."""
    RECOGNISED = enum.auto()
    """The repetition recognises what the first attempt wrote; no answer then proves nothing."""
    NEVER = enum.auto()


class VerbOptions(TypedDict, total=False):
    """What kind of call a `Verb` is."""

    write: bool
    """It runs in a write lane; True if not given."""
    shared: bool
    """It shares its statement with others of its kind; True if not given."""
    last_counts: bool
    """Of two on one key, the later makes the earlier superfluous; True if not given."""
    everything: bool
    """It touches everything under its namespace; False if not given."""
    repeat: Repeat
    """`Repeat.ALWAYS` if not given."""
    patient: bool
    """A `ContentionError` is a reason to try again, not the answer; True if not given."""


class Verb:
    """What operations of one kind run."""

    __slots__ = ("everything", "kind", "last_counts", "namespace", "patient", "repeat", "shared", "table", "write")

    completes: ClassVar[bool] = False
    """The answer may call for another statement, see `complete`."""

    def __init__(self, table: str, namespace: str, kind: Hashable, **options: Unpack[VerbOptions]) -> None:
        """Describe the operations; those of one *kind* can share a statement."""
        self.table = table
        self.namespace = namespace
        self.kind: Hashable = (table, namespace, kind)
        self.write = options.get("write", True)
        self.shared = options.get("shared", True)
        self.last_counts = options.get("last_counts", True)
        self.everything = options.get("everything", False)
        self.repeat = options.get("repeat", Repeat.ALWAYS)
        self.patient = options.get("patient", True)

    def step(self, rows: Sequence[Row]) -> Step:
        """Return what to run for *rows*, which are in key order."""
        raise NotImplementedError

    def answer(self, rows: Rows) -> Answer:
        """Return the *rows* that the step answered, by stored key."""
        return {row[0]: row for row in rows}

    async def complete(self, answer: Answer, rows: Sequence[Row], connection: StoreConnection) -> Answer:
        """Run what depends on the *answer*, and return the whole one."""
        raise NotImplementedError

    async def run_part(self, connection: StoreConnection) -> bool:
        """Do the next part of what a verb that touches everything has to do; return whether there is more."""
        raise NotImplementedError

    def covers(self, other: Verb) -> bool:
        """Return whether this verb, which touches everything, may touch what *other* does."""
        if self.table != other.table:
            return False
        if other.everything and self.namespace.startswith(other.namespace):
            return True
        return other.namespace.startswith(self.namespace)


class Operation:
    """One call of a store."""

    __slots__ = (
        "ahead",
        "ambiguous",
        "companions",
        "connection",
        "deadline",
        "followers",
        "future",
        "hindrance",
        "losses",
        "ordered",
        "pauses",
        "rows",
        "size",
        "slow",
        "turn",
        "verb",
        "waiting_for",
    )

    def __init__(self, verb: Verb, rows: Sequence[Row], *, ordered: bool = True) -> None:
        """Describe a call; *rows* are in key order, each key once. One that is not *ordered* waits for no other."""
        self.verb = verb
        self.rows = rows
        self.ordered = ordered
        self.size = sum([len(row.data) for row in rows if row.data])
        """Bytes."""
        self.slow = verb.everything
        """It shares nothing with others, and must not hold them up."""

        self.future: asyncio.Future[Answer]
        self.deadline = 0.0
        """When its caller is told that there is no answer, by the loop's clock."""

        self.waiting_for = 0
        self.followers: list[Operation] = []
        """They become ready when this one has ended."""
        self.ahead: Operation | None = None
        """The last one on its key, which does the same: this one may share its statement, but not come before it."""
        self.companions: list[Operation] = []
        """Those that this one is ahead of; they become ready when it does."""

        self.turn: object = None
        """The same for all that run in one batch; None while it does not run."""
        self.connection: StoreConnection | None = None
        """Where it runs now: from here on it has been sent."""
        self.ambiguous = False
        """An attempt may have taken effect although its connection was lost."""
        self.hindrance: ContentionError | None = None
        """Why it is trying again."""
        self.losses = 0
        self.pauses = 0

    def follow(self, earlier: Operation) -> None:
        """Become ready when *earlier* has ended, not before."""
        earlier.followers.append(self)
        self.waiting_for += 1

    def come_along(self, earlier: Operation) -> None:
        """Become ready when *earlier* does, to share its statement."""
        self.ahead = earlier
        if earlier.waiting_for:
            earlier.companions.append(self)
            self.waiting_for += 1

    def settle(self, outcome: Answer | Exception) -> None:
        """Tell the caller, unless it has gone away or been told."""
        if self.future.done():
            return
        if isinstance(outcome, Exception):
            self.future.set_exception(outcome)
        else:
            self.future.set_result(outcome)
