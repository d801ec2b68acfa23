"""The queue by itself, over connections to nowhere: what it runs, in which order, how often, and what together."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from itertools import combinations
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from typing_extensions import override

from sqlstore import (
    BaseConfig,
    ConnectionLostError,
    ContentionError,
    OutcomeUnknownError,
    SQLStoreError,
    UnavailableError,
    lanes,
)
from sqlstore.connection import StoreConnection
from sqlstore.dialects import SQLITE, Row, Step
from sqlstore.lanes import LOST_ATTEMPTS, Lanes
from sqlstore.operations import BATCH_BYTES, BATCH_ROWS, Operation, Repeat, Verb

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlstore.operations import Answer


@dataclass(frozen=True)
class Call:
    """What an operation touches, and what becomes of each attempt to run it."""

    keys: frozenset[str] | None
    """None for everything under the namespace."""
    namespace: str = "/"
    kind: str = "set"
    write: bool = True
    shared: bool = True
    repeat: Repeat = Repeat.ALWAYS
    size: int = 0
    """Of each key's value, in bytes."""
    duration: int = 0
    """In turns of the loop."""
    seconds: float = 0
    """Beside its turns."""
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


class CallVerb(Verb):
    """A verb whose steps are the rows themselves."""

    def __init__(self, call: Call) -> None:
        super().__init__(
            "t",
            call.namespace,
            call.kind,
            write=call.write,
            shared=call.shared,
            everything=call.keys is None,
            repeat=call.repeat,
        )

    @override
    def step(self, rows: Sequence[Row]) -> Step:
        return Step("", rows)

    @override
    async def run_part(self, connection: StoreConnection) -> bool:
        await connection.run([Step("")])
        return False


class CompletedVerb(CallVerb):
    """A verb with a second statement, which fails at first."""

    completes = True

    def __init__(self, call: Call, fault: type[SQLStoreError]) -> None:
        super().__init__(call)
        self._faults = [fault]

    @override
    async def complete(self, answer: Answer, rows: Sequence[Row], connection: StoreConnection) -> Answer:
        if self._faults:
            raise self._faults.pop()
        return answer


class Attempt(NamedTuple):
    """Calls that were run at once."""

    calls: list[int]
    rows: Sequence[Row]
    begin: int
    end: int
    fault: type[SQLStoreError] | None


class Connection(StoreConnection):
    """A connection that only knows whether it is there."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._closed = False

    @property
    @override
    def closed(self) -> bool:
        return self._closed

    @override
    async def run(self, steps: Sequence[Step], *, atomic: bool = True) -> list[Sequence[Sequence[Any]]]:
        return await self._config.run.attempt(self, steps)

    @override
    async def close(self) -> None:
        self._closed = True

    @override
    def kill(self) -> None:
        self._closed = True

    @override
    async def bury(self) -> None:
        assert self._closed
        await asyncio.sleep(self._config.burial)
        self._config.run.burials.append(self._config.run.tick())


class Config(BaseConfig):
    """A config whose connections open at once."""

    dialect = SQLITE
    burial = 0.0
    """How long it takes, in seconds."""

    def __init__(self, run: Run, timeout: float = 10) -> None:
        super().__init__({}, (), {"litestar": {"timeout": timeout}})
        self.run = run
        self.opened: list[Connection] = []

    @override
    async def open_store_connection(self, *, writes: bool = True) -> StoreConnection:
        self.opened.append(Connection(self))
        return self.opened[-1]

    @override
    def classify(self, error: Exception) -> type[SQLStoreError]:
        return SQLStoreError

    @override
    def violation(self, error: Exception) -> None:
        return None

    @override
    def new_store(self) -> NoReturn:
        raise NotImplementedError

    @override
    def new_pool(self) -> NoReturn:
        raise NotImplementedError


class OneConnection(Config):
    """A database that takes one writer at a time, and several statements in its transaction."""

    readers = 1
    writers = 1
    transactions = True


class Unreachable(Config):
    """A database to which nobody can connect."""

    @override
    async def open_store_connection(self, *, writes: bool = True) -> StoreConnection:
        await asyncio.sleep(0)
        msg = "nobody listens"
        raise UnavailableError(msg)


class Slow(Config):
    """A database that lets nobody connect until it is told to, one by one."""

    def __init__(self, run: Run, timeout: float) -> None:
        super().__init__(run, timeout)
        self.places = asyncio.Semaphore(0)

    @override
    async def open_store_connection(self, *, writes: bool = True) -> StoreConnection:
        await self.places.acquire()
        return await super().open_store_connection(writes=writes)


class Run:
    """Calls under way, and what was seen of them."""

    def __init__(self, config_type: type[Config] = Config, timeout: float = 10) -> None:
        self.config = config_type(self, timeout)
        self.lanes = Lanes(self.config)
        self.attempts: list[Attempt] = []
        self.calls: list[tuple[Call, Operation]] = []
        self.burials: list[int] = []
        """When each ended."""
        self._time = 0

    def submit(self, call: Call, verb: Verb | None = None) -> asyncio.Future[Any]:
        """Submit *call*, whose rows have its number for a version."""
        number = len(self.calls)
        data = b"x" * call.size if call.size else None
        rows = [Row(key, data, version=number) for key in sorted(call.keys or ())]
        operation = Operation(verb or CallVerb(call), rows)
        self.calls.append((call, operation))
        return self.lanes.submit(operation)

    async def attempt(self, connection: StoreConnection, steps: Sequence[Step]) -> list[Sequence[Sequence[Any]]]:
        """Note what runs, and let it fail as it is to fail."""
        numbers = [number for number, (_, operation) in enumerate(self.calls) if operation.connection is connection]
        members = [self.calls[number][0] for number in numbers]
        tries = [len(self.attempts_of(number)) for number in numbers]
        rows = [row for step in steps for row in step.parameters]
        begin = self.tick()
        for _turn in range(max(call.duration for call in members)):
            await asyncio.sleep(0)
        await asyncio.sleep(max(call.seconds for call in members))
        pairs = zip(members, tries, strict=True)
        fault = next((call.faults[tried] for call, tried in pairs if tried < len(call.faults)), None)
        self.attempts.append(Attempt(numbers, rows, begin, self.tick(), fault))
        if fault is not None:
            raise fault
        return [[(row.key, row.version) for row in step.parameters] for step in steps]

    def attempts_of(self, number: int) -> list[Attempt]:
        """Return the attempts in which a call had a part."""
        return [attempt for attempt in self.attempts if number in attempt.calls]

    def tick(self) -> int:
        """Return the time, which is another one each time."""
        self._time += 1
        return self._time


CALLS = st.builds(
    Call,
    keys=st.frozensets(st.sampled_from("abc"), min_size=1),
    namespace=st.sampled_from(["/", "/x/", "/x/y/"]),
    size=st.sampled_from([0, 0, 0, BATCH_BYTES]),
    duration=st.integers(0, 3),
    faults=st.lists(st.sampled_from([ContentionError, ConnectionLostError]), max_size=2),
    cancelled_after=st.none() | st.integers(0, 5),
)
SHARED = st.tuples(CALLS, st.sampled_from(["set", "delete"])).map(lambda one: replace(one[0], kind=one[1]))
SINGLE = st.tuples(CALLS, st.sampled_from(Repeat)).map(
    lambda one: replace(one[0], kind="incr", shared=False, repeat=one[1])
)
READS = CALLS.map(lambda call: replace(call, kind="get", write=False, size=0))
BARRIERS = CALLS.map(lambda call: replace(call, kind="delete_all", keys=None))
A = frozenset("a")


async def _run_all(config_type: type[Config], calls: list[Call]) -> Run:
    run = Run(config_type)
    futures = [run.submit(call) for call in calls]
    for turn in range(6):
        for future, call in zip(futures, calls, strict=True):
            if call.cancelled_after == turn:
                future.cancel()
        await asyncio.sleep(0)
    await run.lanes.close()
    for number, (call, future) in enumerate(zip(calls, futures, strict=True)):
        if future.cancelled():
            continue
        faults = [attempt.fault for attempt in run.attempts_of(number)]
        lost = faults.count(ConnectionLostError)
        if faults[-1] is None:
            assert set(future.result()) >= (call.keys or set())
            assert lost < LOST_ATTEMPTS
            assert not lost or call.repeat is not Repeat.NEVER
        else:
            assert isinstance(future.exception(), OutcomeUnknownError if call.write else ConnectionLostError)
            assert lost == (1 if call.repeat is Repeat.NEVER else LOST_ATTEMPTS)
    return run


@pytest.mark.parametrize("config_type", [Config, OneConnection])
@settings(deadline=None)  # a fault is followed by a pause
@given(calls=st.lists(SHARED | SHARED | SINGLE | READS | BARRIERS, max_size=20))
# A batch that fails, with one that was abandoned between two others on the same key.
@example(calls=[Call(A, duration=2), Call(A, faults=[ContentionError]), Call(A, cancelled_after=2), Call(A)])
@example(calls=[Call(A), Call(A, size=BATCH_BYTES + 1), Call(A), Call(A, kind="delete"), Call(A)])
def test_calls_that_touch_the_same_key_never_overtake(config_type: type[Config], calls: list[Call]) -> None:
    """The later one begins after the last attempt of the earlier, or has its part in the same one, and wins."""
    run = asyncio.run(_run_all(config_type, calls))

    for attempt in run.attempts:
        keys = [(run.calls[row.version or 0][0].namespace, row.key) for row in attempt.rows]
        assert len(set(keys)) == len(keys)
    for earlier, later in combinations(range(len(calls)), 2):
        if not calls[later].conflicts(calls[earlier]):
            continue
        for attempt in run.attempts_of(later):
            if earlier in attempt.calls:
                assert calls[earlier].kind == calls[later].kind
                assert earlier not in {row.version for row in attempt.rows}
            else:
                assert all(one.end < attempt.begin for one in run.attempts_of(earlier)), (earlier, later)


@pytest.mark.parametrize("config_type", [Config, OneConnection])
async def test_calls_that_wait_share_a_statement(config_type: type[Config]) -> None:
    """All that came while one was under way goes next, in key order."""
    run = Run(config_type)
    keys = [f"{number:03}" for number in range(200)]
    await asyncio.gather(*(run.submit(Call(frozenset([key]), duration=1)) for key in reversed(keys)))
    await run.lanes.close()

    assert len(run.attempts) <= 2
    assert [row.key for row in run.attempts[-1].rows] == keys[: len(run.attempts[-1].rows)]


async def test_a_batch_is_bounded() -> None:
    """In rows and in bytes."""
    run = Run()
    many = [Call(frozenset([str(number)])) for number in range(3 * BATCH_ROWS)]
    large = [Call(frozenset([f"large{number}"]), size=BATCH_BYTES // 10) for number in range(100)]
    await asyncio.gather(*(run.submit(call) for call in many + large))
    await run.lanes.close()

    assert max(len(attempt.rows) for attempt in run.attempts) == BATCH_ROWS
    assert max(sum(len(row.data or b"") for row in attempt.rows) for attempt in run.attempts) <= BATCH_BYTES
    assert len(run.attempts) <= 4 + 11


@pytest.mark.parametrize(("kinds", "statements"), [(["set"] * 40, 2), (["set", "delete"] * 20, 40)])
async def test_only_equal_calls_on_one_key_share_a_statement(kinds: list[str], statements: int) -> None:
    """The last value wins; a delete between two values stays between them."""
    run = Run()
    await asyncio.gather(*(run.submit(Call(A, kind=kind)) for kind in kinds))
    await run.lanes.close()

    assert len(run.attempts) <= statements
    assert [row.version for row in run.attempts[-1].rows] == [len(kinds) - 1]


@pytest.mark.parametrize("config_type", [Config, OneConnection])
async def test_what_fails_in_company_is_tried_alone(config_type: type[Config]) -> None:
    """So that only the one to blame sees the error."""
    run = Run(config_type)
    good = [run.submit(Call(frozenset([key]))) for key in "abcd"]
    bad = run.submit(Call(frozenset("e"), faults=[SQLStoreError] * 99))
    await asyncio.gather(*good)
    with pytest.raises(SQLStoreError):
        await bad
    await run.lanes.close()

    assert all(len(attempt.calls) == 1 for attempt in run.attempts_of(4)[1:])


@pytest.mark.parametrize("fault", [SQLStoreError, ContentionError, ConnectionLostError])
async def test_what_is_committed_does_not_run_again(fault: type[SQLStoreError]) -> None:
    """A renewal whose second statement fails is tried again without those that shared its transaction."""
    run = Run(OneConnection)
    first = run.submit(Call(A, duration=1))
    call = Call(frozenset("b"), kind="renew")
    renewed = run.submit(call, CompletedVerb(call, fault))
    counted = run.submit(Call(frozenset("c"), kind="incr", shared=False, repeat=Repeat.NEVER))
    answers = await asyncio.gather(first, renewed, counted, return_exceptions=True)
    await run.lanes.close()

    assert run.attempts_of(2) == run.attempts_of(1)[:1]
    assert answers[2] == {"c": ("c", 2)}


async def test_a_batch_that_met_a_lock_stays_together() -> None:
    """Where the lock is the database's, and in the way of all, it runs again as one."""
    run = Run(OneConnection)
    calls = [Call(frozenset([str(number)]), seconds=0.01, faults=[ContentionError]) for number in range(50)]
    await asyncio.gather(*map(run.submit, calls))
    await run.lanes.close()

    assert len(run.attempts) < 10


async def test_many_calls_that_wait_for_locks_do_not_hold_up_one_that_does_not() -> None:
    """Each waits on a connection, for a second where that is the server's shortest; the others have their turns."""
    run = Run()
    single = Call(A, kind="incr", shared=False)
    for number in range(30):
        run.submit(replace(single, keys=frozenset([str(number)]), seconds=0.02, faults=[ContentionError] * 5))
    while len(run.attempts) < 30:  # noqa: ASYNC110 - each has its first turn
        await asyncio.sleep(0.01)
    before = len(run.attempts)
    await run.submit(single)

    assert len(run.attempts) - before <= 8
    await run.lanes.close()


async def test_a_large_value_does_not_hold_up_the_others() -> None:
    """It has a connection to itself."""
    run = Run()
    large = run.submit(Call(frozenset("l"), size=BATCH_BYTES + 1, duration=50))
    small = run.submit(Call(frozenset("s")))
    await small

    assert not large.done()
    await large
    await run.lanes.close()


async def test_an_abandoned_call_is_not_tried_again() -> None:
    """Nobody waits for it any more."""
    run = Run()
    future = run.submit(Call(A, duration=3, faults=[ContentionError] * 99))
    await asyncio.sleep(0.05)
    future.cancel()
    attempts = len(run.attempts)
    await run.lanes.close()

    assert 1 <= attempts <= len(run.attempts) <= attempts + 1


@pytest.mark.parametrize(("timeout", "seen"), [(0.05, UnavailableError), (10, asyncio.CancelledError)])
async def test_what_nobody_waits_for_is_not_sent(timeout: float, seen: type[BaseException]) -> None:  # noqa: ASYNC109
    """Its caller was told that the time is over, or went away, while it waited for a connection."""
    run = Run(Slow, timeout)
    future = run.submit(Call(A))
    await asyncio.wait([future], timeout=0.1)
    future.cancel()
    assert isinstance(run.config, Slow)
    run.config.places.release()
    await run.lanes.close()

    assert run.attempts == []
    with pytest.raises(seen):
        await future


async def test_many_abandoned_calls_on_one_key_do_no_harm() -> None:
    """However many: the next call has its turn."""
    run = Run()
    read = run.submit(Call(A, kind="get", write=False, duration=1))
    for number in range(1000):
        run.submit(Call(A, kind=f"{number % 2}")).cancel()
    await read
    await run.submit(Call(A))
    await run.lanes.close()

    assert len(run.attempts) == 2


async def test_a_call_that_kills_its_connections_is_given_up() -> None:
    """A statement that crashes the server must not do so for ever; others are not concerned."""
    run = Run()
    deadly = run.submit(Call(A, kind="get", write=False, faults=[ConnectionLostError] * 99))
    harmless = run.submit(Call(A, kind="get", write=False))
    with pytest.raises(ConnectionLostError):
        await deadly

    assert set(await harmless) >= A
    assert len(run.attempts_of(0)) == LOST_ATTEMPTS
    await run.lanes.close()


async def test_a_lost_write_that_is_given_up_has_an_unknown_outcome() -> None:
    """Also when its time is over while its connection is being buried."""
    run = Run(timeout=0.2)
    run.config.burial = 0.09
    call = Call(A, seconds=0.15, faults=[ConnectionLostError])
    with pytest.raises(OutcomeUnknownError):
        await run.submit(call)
    await run.lanes.close()

    assert len(run.attempts) == 1


async def test_a_lost_write_that_meets_a_lock_has_an_unknown_outcome() -> None:
    """What was lost may have happened, whatever becomes of its repetition."""
    run = Run(timeout=0.1)
    with pytest.raises(OutcomeUnknownError):
        await run.submit(Call(A, faults=[ConnectionLostError, *[ContentionError] * 99]))
    await run.lanes.close()

    assert len(run.attempts) > 1


def test_at_the_loop_s_end_what_is_called_later_comes_later() -> None:
    """A write that the shutdown cuts off is buried before the next one on its key is sent."""

    async def session(run: Run) -> None:
        try:
            await run.submit(Call(A, seconds=60))
        finally:
            await run.submit(Call(A, kind="delete"))

    async def shut_down() -> Run:
        run = Run()
        run.config.burial = 0.01
        leave_behind.append(asyncio.create_task(session(run)))
        for _turn in range(6):
            await asyncio.sleep(0)
        return run

    leave_behind: list[asyncio.Task[None]] = []
    run = asyncio.run(shut_down())

    assert [attempt.calls for attempt in run.attempts] == [[1]]
    assert [ended < run.attempts[0].begin for ended in run.burials] == [True]


async def test_callers_of_a_database_that_cannot_be_reached_share_no_exception() -> None:
    """Each may add notes and a traceback to its own."""
    run = Run(Unreachable)
    errors = await asyncio.gather(*(run.submit(Call(frozenset(key))) for key in "abcd"), return_exceptions=True)

    assert {type(error) for error in errors} == {UnavailableError}
    assert len(set(map(id, errors))) == 4


async def test_attempts_come_ever_more_slowly_until_the_deadline() -> None:
    """A row that is held for long costs the database little."""
    run = Run(timeout=0.6)
    with pytest.raises(SQLStoreError):
        await run.submit(Call(A, faults=[ContentionError] * 999))
    await run.lanes.close()

    assert 3 <= len(run.attempts) <= 20


async def test_calls_that_share_nothing_run_side_by_side() -> None:
    """As many as there are connections for; reads of one key are no conflict."""
    run = Run()
    single = [Call(frozenset(key), kind="incr", shared=False, duration=3) for key in "abcdefgh"]
    reads = [Call(frozenset("z"), kind="get", write=False, shared=False, duration=3)] * 8
    await asyncio.gather(*(run.submit(call) for call in [*single, *reads]))
    await run.lanes.close()

    assert len(run.config.opened) == Config.writers - 1 + Config.readers
    assert all(connection.closed for connection in run.config.opened)


async def test_one_caller_after_the_other_uses_one_connection() -> None:
    """More are opened on demand only."""
    run = Run()
    for _ in range(10):
        await run.submit(Call(A))
    await run.lanes.close()

    assert len(run.config.opened) == 1


async def test_one_connection_for_reads_and_one_for_writes_stay_open(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a burst opened beside them closes when it is idle."""
    monkeypatch.setattr(lanes, "IDLE_SECONDS", 0.01)
    run = Run()
    reads = [Call(A, kind="get", write=False, shared=False, duration=3)] * 3
    single = [Call(frozenset(key), kind="incr", shared=False, duration=3) for key in "bcde"]
    await asyncio.gather(*map(run.submit, [*reads, *single, Call(frozenset("s"))]))
    await asyncio.sleep(0.2)
    kept = [connection for connection in run.config.opened if not connection.closed]
    await asyncio.gather(*map(run.submit, [reads[0], Call(A)]))

    assert len(kept) == 2
    assert [connection for connection in run.config.opened if not connection.closed] == kept


async def test_closing_leaves_no_connection_that_was_being_opened() -> None:
    """Although it was not needed any more when it was open."""
    run = Run(Slow)
    reads = [run.submit(Call(frozenset(key), kind="get", write=False)) for key in "ab"]
    await asyncio.sleep(0)
    assert isinstance(run.config, Slow)
    run.config.places.release()
    asyncio.get_running_loop().call_later(0.02, run.config.places.release)
    await asyncio.gather(*reads)
    await run.lanes.close()
    await asyncio.sleep(0.05)

    assert [connection for connection in run.config.opened if not connection.closed] == []
