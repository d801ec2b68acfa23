"""The queue by itself, over connections to nowhere: what it runs, in which order, how often, and what at once."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from itertools import combinations, pairwise
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typing_extensions import override

from sqlstore import BaseConfig, ConnectionLostError, ContentionError, OutcomeUnknownError, SQLStoreError
from sqlstore.connection import StoreConnection
from sqlstore.dialects import SQLITE
from sqlstore.lanes import LOST_ATTEMPTS, Lanes, Operation, Repeat

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlstore.dialects import Step


class Connection(StoreConnection):
    """A connection that only knows whether it is there."""

    def __init__(self) -> None:
        self._closed = False

    @property
    @override
    def closed(self) -> bool:
        return self._closed

    @override
    async def run(self, steps: Sequence[Step], *, atomic: bool = True) -> list[Sequence[Sequence[Any]]]:
        raise NotImplementedError

    @override
    async def close(self) -> None:
        self._closed = True

    @override
    def kill(self) -> None:
        self._closed = True

    @override
    async def bury(self) -> None:
        assert self._closed


class Config(BaseConfig):
    """A config whose connections open at once."""

    dialect = SQLITE

    def __init__(self, timeout: float = 10) -> None:
        super().__init__({}, (), {"litestar": {"timeout": timeout}})
        self.opened: list[Connection] = []

    @override
    async def open_store_connection(self) -> StoreConnection:
        self.opened.append(Connection())
        return self.opened[-1]

    @override
    def classify(self, error: Exception) -> type[SQLStoreError]:
        return SQLStoreError


@dataclass
class Call:
    """What an operation touches, and what becomes of each attempt to run it."""

    keys: frozenset[str] | None
    """None for everything under the namespace."""
    namespace: str = "/"
    write: bool = True
    repeat: Repeat = Repeat.ALWAYS
    duration: int = 0
    """In turns of the loop."""
    faults: Sequence[type[SQLStoreError]] = ()
    cancelled_after: int | None = None
    """In turns of the loop."""

    def conflicts(self, other: Call) -> bool:
        """Whether the order of the two can be told from the outside."""
        if self.keys is not None and other.keys is not None:
            return self.namespace == other.namespace and bool(self.keys & other.keys) and (self.write or other.write)
        return any(
            barrier.keys is None and touched.namespace.startswith(barrier.namespace)
            for barrier, touched in ((self, other), (other, self))
        )


@dataclass
class Span:
    """When an attempt began and ended."""

    begin: int
    end: int = -1


class Run:
    """Calls under way, and what was seen of them."""

    def __init__(self, config: Config | None = None) -> None:
        self.config = config or Config()
        self.lanes = Lanes(self.config)
        self.attempts: dict[int, list[Span]] = {}
        self.busy = {True: 0, False: 0}
        self.busiest = {True: 0, False: 0}
        self._time = 0

    def submit(self, number: int, call: Call) -> asyncio.Future[list[int]]:
        """Submit *call*, which answers [*number*]."""
        attempts = self.attempts[number] = []

        async def work(_: StoreConnection) -> list[int]:
            attempts.append(Span(self._tick()))
            self.busy[call.write] += 1
            self.busiest[call.write] = max(self.busiest[call.write], self.busy[call.write])
            for _turn in range(call.duration):
                await asyncio.sleep(0)
            self.busy[call.write] -= 1
            attempts[-1].end = self._tick()
            if len(attempts) <= len(call.faults):
                raise call.faults[len(attempts) - 1]
            return [number]

        keys = None if call.keys is None else sorted(call.keys)
        return self.lanes.submit(Operation(work, "t", call.namespace, keys, write=call.write, repeat=call.repeat))

    def _tick(self) -> int:
        self._time += 1
        return self._time


WRITES = st.builds(
    Call,
    keys=st.frozensets(st.sampled_from("abc"), min_size=1),
    namespace=st.sampled_from(["/", "/x/", "/x/y/"]),
    repeat=st.sampled_from(Repeat),
    duration=st.integers(0, 3),
    faults=st.lists(st.sampled_from([ContentionError, ConnectionLostError]), max_size=2),
    cancelled_after=st.none() | st.integers(0, 5),
)
READS = WRITES.map(lambda call: replace(call, write=False, repeat=Repeat.ALWAYS))
BARRIERS = WRITES.map(lambda call: replace(call, keys=None, repeat=Repeat.ALWAYS))


async def _run_all(calls: list[Call]) -> Run:
    run = Run()
    futures = [run.submit(number, call) for number, call in enumerate(calls)]
    for turn in range(6):
        for future, call in zip(futures, calls, strict=True):
            if call.cancelled_after == turn:
                future.cancel()
        await asyncio.sleep(0)
    await run.lanes.close()
    for number, future in enumerate(futures):
        if calls[number].repeat is Repeat.NEVER and ConnectionLostError in calls[number].faults:
            assert future.cancelled() or isinstance(future.exception(), OutcomeUnknownError)
        else:
            assert future.cancelled() or future.result() == [number]
    return run


@settings(deadline=None)  # a fault is followed by a pause
@given(st.lists(WRITES | READS | BARRIERS, max_size=20))
def test_calls_that_touch_the_same_key_never_overlap_or_overtake(calls: list[Call]) -> None:
    """Whatever their kind, length, faults or abandoned callers: the later one begins after the last of the earlier."""
    run = asyncio.run(_run_all(calls))

    assert run.busiest[True] <= Config.writers
    assert run.busiest[False] <= Config.readers
    for earlier, later in combinations(range(len(calls)), 2):
        if calls[later].conflicts(calls[earlier]):
            spans = [*run.attempts[earlier], *run.attempts[later]]
            assert all(one.end < other.begin for one, other in pairwise(spans)), (earlier, later)


async def test_an_abandoned_call_is_not_tried_again() -> None:
    """Nobody waits for it any more."""
    run = Run()
    future = run.submit(0, Call(frozenset("a"), duration=3, faults=[ContentionError] * 99))
    await asyncio.sleep(0.05)
    future.cancel()
    attempts = len(run.attempts[0])
    await run.lanes.close()

    assert 1 <= attempts <= len(run.attempts[0]) <= attempts + 1


async def test_a_call_that_kills_its_connections_is_given_up() -> None:
    """A statement that crashes the server must not do so for ever; others are not concerned."""
    run = Run()
    deadly = run.submit(0, Call(frozenset("a"), write=False, faults=[ConnectionLostError] * 99))
    harmless = run.submit(1, Call(frozenset("a"), write=False))
    with pytest.raises(ConnectionLostError):
        await deadly

    assert await harmless == [1]
    assert len(run.attempts[0]) == LOST_ATTEMPTS
    await run.lanes.close()


async def test_attempts_come_ever_more_slowly_until_the_deadline() -> None:
    """A row that is held for long costs the database little."""
    run = Run(Config(timeout=0.6))
    with pytest.raises(SQLStoreError):
        await run.submit(0, Call(frozenset("a"), faults=[ContentionError] * 999))
    await run.lanes.close()

    assert 3 <= len(run.attempts[0]) <= 20


async def test_calls_without_conflict_run_side_by_side() -> None:
    """As many as there are connections for; reads of one key are no conflict."""
    run = Run()
    keys = "abcdefgh"
    calls = [Call(frozenset(key), duration=3) for key in keys] + [Call(frozenset("z"), write=False, duration=3)] * 8
    await asyncio.gather(*(run.submit(number, call) for number, call in enumerate(calls)))
    await run.lanes.close()

    assert run.busiest == {True: Config.writers, False: Config.readers}
    assert len(run.config.opened) == Config.writers + Config.readers
    assert all(connection.closed for connection in run.config.opened)


async def test_one_caller_after_the_other_uses_one_connection() -> None:
    """More are opened on demand only."""
    run = Run()
    for number in range(10):
        await run.submit(number, Call(frozenset("a")))
    await run.lanes.close()

    assert len(run.config.opened) == 1
