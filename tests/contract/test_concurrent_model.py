"""Calls that run at once, end or are abandoned, answer as if one came after the other: Hypothesis looks for others.

The calls run first, then a model goes through them in call order. It keeps every state that a key may be in: an
abandoned write has happened or has not, and what ends at about the time of a call has ended or has not. An answer that
no state explains is a failure, any other leaves the states that explain it.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from sqlstore import CounterError

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterable, Iterator

    from .conftest import SQL
    from .verbs import Store

NAMESPACES = ("LITESTAR", "LITESTAR/a", "LITESTAR/a/b", "LITESTAR2")
KEYS = ("k", "é", "l")
MAX, MIN = 2**63 - 1, -(2**63)
BUSIEST = ("LITESTAR/a", ("k",))
BRIEF = 0.02
"""Seconds, of a lifetime that ends while the calls run."""
UNCERTAINTY = 0.005
"""Seconds by which the database's clock may seem to go wrong."""

# Most calls meet on the busiest key.
_namespace = st.sampled_from([*NAMESPACES, "LITESTAR/a", "LITESTAR/a", "LITESTAR/a"])
_key = st.sampled_from([*KEYS, "k", "k", "k"])
_keys = st.lists(_key, unique=True).map(tuple)
_value = st.sampled_from(["own", "own", "large", "", "07", "7", "7", str(MAX), str(MIN)])
_lifetime = st.sampled_from([None, 2000, 4000, BRIEF, -1])
_amount = st.sampled_from([1, 1, -1, 0, MAX])


def _verb(
    name: str, *options: st.SearchStrategy[Any], keys: st.SearchStrategy[Any] | None = None
) -> st.SearchStrategy[tuple[Any, ...]]:
    return st.tuples(st.just(name), _namespace, _key.map(lambda key: (key,)) if keys is None else keys, *options)


_call = st.one_of(
    _verb("get"),
    _verb("exists"),
    _verb("expires_in"),
    _verb("get_versioned"),
    _verb("get_versioned"),
    _verb("get_many", keys=_keys),
    _verb("renew", st.sampled_from([None, 0, 1, 3000, 6000, BRIEF, -1])),
    _verb("set", _value, _lifetime),
    _verb("set_many", _value, _lifetime, keys=_keys),
    _verb("add", _value, _lifetime),
    _verb("incr", _amount, _lifetime),
    _verb("incr", _amount, _lifetime),
    _verb("pop"),
    _verb("compare_and_set", _value),
    _verb("compare_and_set", _value),
    _verb("delete"),
    _verb("delete_many", keys=_keys),
    _verb("delete_all", keys=st.just(())),
    _verb("delete_expired", keys=st.just(())),
)
_turns = st.sampled_from([*[None] * 18, 0, 1, 2, 3, 5, 10, 30, 100])
"""Of the loop, after which a call is abandoned."""
_pause = st.sampled_from([*[None] * 24, 1, 1, 3, 3, 10, *["until all have ended"] * 4, "until brief ends"])
_program = st.lists(st.tuples(_pause, _call, _turns), min_size=20, max_size=50)

_ANY: Any = object()


@dataclass(eq=False)
class _Call:
    """One call, and what became of it."""

    number: int
    verb: str
    namespace: str
    keys: tuple[str, ...]
    options: tuple[Any, ...]
    started: float = math.inf
    ended: float = math.inf
    answer: Any = _ANY
    """`_ANY` if it was abandoned."""
    version: int = 0
    """What `compare_and_set` was given."""
    ended_on: dict[tuple[str, str], float] = field(default_factory=dict[tuple[str, str], float])
    """When at the latest it had taken effect, on each key."""

    @property
    def is_write(self) -> bool:
        """Whether others on its keys wait for it."""
        if self.verb == "renew":
            return (self.options[0] or 0) > 0
        return self.verb not in {"get", "exists", "expires_in", "get_versioned", "get_many", "delete_expired"}

    @property
    def data(self) -> bytes:
        """What it writes."""
        value: str = self.options[0]
        own = b"%d" % (self.number * 1000)  # which can be counted on
        return {"own": own, "large": own + bytes(300_000)}.get(value, value.encode())  # 256 KB fit a batch

    def places(self) -> Iterable[tuple[str, str]]:
        """Return namespace and key of everything that it touches."""
        if self.verb == "delete_all":
            below = (name for name in NAMESPACES if f"{name}/".startswith(f"{self.namespace}/"))
            return [(name, key) for name in below for key in KEYS]
        return [(self.namespace, key) for key in self.keys]


class _State(NamedTuple):
    """What may be under a key."""

    data: bytes
    write: int
    """The number of the call that wrote it."""
    ends: tuple[float, float] | None
    """Not before, and not after."""


_Outcome = tuple[object, _State | None]
"""An answer, and what it leaves."""


class _Model:
    """Every state that each key may be in."""

    def __init__(self) -> None:
        self._states: dict[tuple[str, str], set[_State | None]] = defaultdict(lambda: {None})
        self._writes: dict[tuple[str, str, int], set[int]] = {}
        """Which calls may have written what had a version."""

    def follow(self, call: _Call) -> None:
        """Leave the states that explain what *call* answered."""
        for place in call.places():
            answer = call.answer.get(place[1]) if call.verb == "get_many" else call.answer
            before = self._states[place]
            after: set[_State | None] = set(before) if answer is _ANY else set()
            for state in before:
                for expected, left in self._outcomes(call, place, state):
                    if answer is _ANY or self._fits(place, expected, answer):
                        after.add(left)
            assert after, f"{call} on {place} answered {str(answer)[:50]}, though there was one of {_short(before)}"
            self._states[place] = after
            if call.verb == "get_versioned" and answer is not None:
                self._writes[(*place, answer.version)] = {state.write for state in after if state}

    def _outcomes(self, call: _Call, place: tuple[str, str], state: _State | None) -> Iterator[_Outcome]:
        """Yield what *call* may answer and leave, in view of the time that it ran."""
        start, end = call.started - UNCERTAINTY, call.ended_on[place] + UNCERTAINTY
        if state is None or state.ends is None:
            yield from self._on(call, place, state, (start, end))
            return
        not_before, not_after = state.ends
        if start < not_after:
            alive = state._replace(ends=(max(not_before, start), not_after))
            yield from self._on(call, place, alive, (start, end))
        if not_before <= end:
            for answer, left in self._on(call, place, None, (start, end)):
                # Reads do not wait for each other: the next one may have run earlier.
                yield answer, left if call.is_write else state._replace(ends=(not_before, min(not_after, end)))

    def _on(
        self, call: _Call, place: tuple[str, str], state: _State | None, span: tuple[float, float]
    ) -> Iterator[_Outcome]:
        """Yield what *call* answers and leaves if it finds just that, alive."""
        if call.verb == "compare_and_set":
            writes = self._writes.get((*place, call.version), set[int]())
            if state and state.write in writes:
                yield True, state._replace(data=call.data, write=call.number)
            if not state or writes != {state.write}:
                yield False, state
        elif call.is_write:
            yield _written(call, state, span)
        else:
            yield _read(call, state, span), state

    def _fits(self, place: tuple[str, str], expected: object, answer: Any) -> bool:  # noqa: ANN401
        if isinstance(expected, range):
            return answer in expected
        if not isinstance(expected, _State) or answer is None:
            return bool(answer == expected)
        others = [writes for known, writes in self._writes.items() if known[:2] == place and known[2] != answer.version]
        writes = self._writes.get((*place, answer.version), {expected.write})
        return answer.data == expected.data and expected.write in writes and {expected.write} not in others


def _read(call: _Call, state: _State | None, span: tuple[float, float]) -> object:
    if call.verb == "exists":
        return state is not None
    if call.verb == "get_versioned":
        return state
    if call.verb == "expires_in" and state and state.ends:
        not_before, not_after = state.ends
        return range(max(1, math.ceil(not_before - span[1])), math.ceil(not_after - span[0]) + 1)
    return state.data if state and call.verb != "expires_in" else None


def _written(call: _Call, state: _State | None, span: tuple[float, float]) -> _Outcome:
    match call.verb:
        case "set" | "set_many":
            return None, _new(call, call.data, span)
        case "add":
            return state is None, state or _new(call, call.data, span)
        case "incr":
            return _incremented(call, state, span)
        case "renew":
            return state and state.data, state and _renewed(state, call.options[0], span)
        case "pop":
            return state and state.data, None
        case _:
            return None, None


def _new(call: _Call, data: bytes, span: tuple[float, float]) -> _State | None:
    lifetime = call.options[1]
    if lifetime is not None and lifetime < 0:
        return None
    return _State(data, call.number, lifetime and (span[0] + lifetime, span[1] + lifetime))


def _renewed(state: _State, lifetime: float, span: tuple[float, float]) -> _State:
    if state.ends is None:
        return state
    not_before, not_after = state.ends
    return state._replace(ends=(max(not_before, span[0] + lifetime), max(not_after, span[1] + lifetime)))


def _incremented(call: _Call, state: _State | None, span: tuple[float, float]) -> _Outcome:
    text, amount = state.data if state else b"0", call.options[0]
    number = int(text) if text.removeprefix(b"-").isdigit() else MAX + MAX
    if str(number).encode() != text or not MIN <= number <= MAX or not MIN <= number + amount <= MAX:
        return CounterError, state
    data = str(number + amount).encode()
    return number + amount, state._replace(data=data, write=call.number) if state else _new(call, data, span)


def _short(states: Iterable[_State | None]) -> list[_State | None]:
    return [state and state._replace(data=state.data[:20]) for state in states]


class _Run:
    """Stores, and the calls that were made."""

    def __init__(self, store: Store) -> None:
        self.calls: list[_Call] = []
        self._stores = {"LITESTAR": store, "LITESTAR2": type(store)(store.config, namespace="LITESTAR2")}
        self._stores["LITESTAR/a"] = store.with_namespace("a")
        self._stores["LITESTAR/a/b"] = self._stores["LITESTAR/a"].with_namespace("b")
        self._versions: dict[tuple[str, tuple[str, ...]], int] = {}
        self._tasks: list[asyncio.Task[None]] = []

    def start(self, verb: str, namespace: str, keys: tuple[str, ...], *options: object) -> asyncio.Task[None]:
        """Start a call; its place is behind all that were started before."""
        self.calls.append(_Call(len(self.calls), verb, namespace, keys, options))
        self._tasks.append(asyncio.create_task(self._make(self.calls[-1])))
        return self._tasks[-1]

    async def end(self) -> None:
        """Wait until all calls have ended."""
        for answer in await asyncio.gather(*self._tasks, return_exceptions=True):
            if isinstance(answer, Exception):
                raise answer

    async def _make(self, call: _Call) -> None:
        place = call.namespace, call.keys
        call.version = self._versions.get(place, 0)
        call.started = time.monotonic()
        try:
            call.answer = await self._verb(call)
        except CounterError:
            call.answer = CounterError
        call.ended = time.monotonic()
        if call.verb == "get_versioned" and call.answer:
            self._versions[place] = call.answer.version

    def _verb(self, call: _Call) -> Coroutine[Any, Any, object]:
        store, (key, *_) = self._stores[call.namespace], (*call.keys, "")
        verbs: dict[str, Callable[[], Coroutine[Any, Any, object]]] = {
            "get": lambda: store.get(key),
            "exists": lambda: store.exists(key),
            "expires_in": lambda: store.expires_in(key),
            "get_versioned": lambda: store.get_versioned(key),
            "get_many": lambda: store.get_many(call.keys),
            "renew": lambda: store.get(key, renew_for=call.options[0]),
            "set": lambda: store.set(key, call.data, call.options[1]),
            "set_many": lambda: store.set_many(dict.fromkeys(call.keys, call.data), call.options[1]),
            "add": lambda: store.add(key, call.data, call.options[1]),
            "incr": lambda: store.incr(key, *call.options),
            "compare_and_set": lambda: store.compare_and_set(key, call.data, call.version),
            "pop": lambda: store.pop(key),
            "delete": lambda: store.delete(key),
            "delete_many": lambda: store.delete_many(call.keys),
            "delete_all": store.delete_all,
            "delete_expired": store.delete_expired,
        }
        return verbs[call.verb]()

    def explain(self) -> None:
        """Let the model go through all calls."""
        # A call has taken effect, if ever, when a later one on its key has answered.
        ended: dict[tuple[str, str], float] = {}
        for call in reversed(self.calls):
            for place in call.places():
                call.ended_on[place] = min(call.ended, ended.get(place, math.inf)) if call.is_write else call.ended
                ended[place] = min(call.ended, ended.get(place, math.inf))
        model = _Model()
        for call in self.calls:
            if call.started < math.inf and (call.is_write or call.answer is not _ANY):
                model.follow(call)


async def _turn(turns: int, then: Callable[[], object] = lambda: None) -> None:
    for _ in range(turns):
        await asyncio.sleep(0)
    then()


@settings(
    # The same calls in every run: a test that fails today has not passed by chance yesterday.
    derandomize=True,
    database=None,
    deadline=None,
    max_examples=60,
    phases=[Phase.generate, Phase.shrink],
    report_multiple_bugs=False,
    # The store is emptied for each example.
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(program=_program)
async def test_concurrent_calls_answer_as_if_one_came_after_the_other(
    store: Store, sql: SQL, program: list[tuple[Any, tuple[Any, ...], int | None]]
) -> None:
    """Whatever ends, is abandoned, is too large for a batch, or concerns several keys and namespaces."""
    await sql(f"DELETE FROM {store.table_name}")  # noqa: S608
    run = _Run(store)
    abandoning: list[asyncio.Task[None]] = []
    for namespace in NAMESPACES:
        run.start("set_many", namespace, KEYS, "7", 3000)
    for pause, call, turns in program:
        if isinstance(pause, int):
            await _turn(pause)
        elif pause:
            run.start("get_versioned", *BUSIEST)
            await run.end()
            await asyncio.sleep(BRIEF + 2 * UNCERTAINTY if pause == "until brief ends" else 0)
        task = run.start(*call)
        if turns == 0:
            task.cancel()  # before its first step
        elif turns:
            abandoning.append(asyncio.create_task(_turn(turns, task.cancel)))
    await asyncio.gather(*abandoning)
    for namespace in NAMESPACES:
        for key in KEYS:
            run.start("get_versioned", namespace, (key,))
            run.start("expires_in", namespace, (key,))
    await run.end()

    run.explain()
