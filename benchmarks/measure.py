"""Interleaved rounds: what disturbs the machine for a while disturbs every contender alike.

For each workload, value size and concurrency, every contender works for a slice of a second in each round, and the next
round begins with another one. A slice is so many callers in a closed loop: each asks, waits for the answer, and asks
again. The slice ends when the last answer is there.
"""

from __future__ import annotations

import asyncio
import gc
import itertools
import math
import statistics
from dataclasses import dataclass, field
from time import perf_counter
from typing import TYPE_CHECKING

from .results import Micro
from .workloads import DELETE, MAIN, SET_NEW, WORKLOADS, WrongAnswerError, key

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from .contenders import Contender, Verbs
    from .workloads import Call

SLICE_LIMIT = 60
"""Seconds after which calls without an answer are given up."""


@dataclass(frozen=True)
class Plan:
    """Which cells of the table are measured, and for how long."""

    loop: str
    """The event loop, of `run.LOOPS`."""
    groups: tuple[str, ...]
    """Of contenders, who take turns."""
    workloads: Mapping[int, tuple[str, ...]]
    """By size of the value."""
    rounds: int = 5
    seconds: float = 0.2
    """Of one slice."""
    concurrency: tuple[int, ...] = (1, 16, 64, 256)


_LARGE = ("get-hit", "set-overwrite")
_FIRST = ("PostgreSQL", "SQLite")
_FURTHER = ("PostgreSQL, psycopg", "MariaDB", "MySQL")
FULL = (
    Plan(
        "uvloop",
        (*_FIRST, "Litestar"),
        {200: (*MAIN, "get-miss", SET_NEW, "session"), 4096: (*MAIN, "session"), 102400: _LARGE},
    ),
    Plan("uvloop", _FURTHER, {200: (*MAIN, "session"), 102400: _LARGE}),
    Plan("asyncio", _FIRST, {200: MAIN}, rounds=3),
)
QUICK = (
    Plan("uvloop", _FIRST, {200: MAIN}, rounds=3, seconds=0.08, concurrency=(1, 64, 256)),
    Plan("uvloop", _FURTHER, {200: MAIN}, rounds=3, seconds=0.05, concurrency=(1, 64)),
    Plan("asyncio", _FIRST, {200: MAIN}, rounds=3, seconds=0.08, concurrency=(1, 64, 256)),
)


@dataclass
class Slice:
    """What one contender did in one slice."""

    seconds: float = math.inf
    latencies: list[float] = field(default_factory=list[float])
    """Of the calls that succeeded."""
    errors: int = 0
    error: str = ""
    """The first one."""

    @property
    def operations_per_second(self) -> float:
        """The throughput."""
        return len(self.latencies) / self.seconds

    def percentile(self, share: float) -> float:
        """Return the latency that *share* of the calls did not exceed; 0 if none succeeded."""
        ordered = sorted(self.latencies)
        return ordered[int(len(ordered) * share)] if ordered else 0.0

    def failed(self, error: BaseException) -> None:
        """Count *error*."""
        self.errors += 1
        self.error = self.error or repr(error)


async def checked(store: Verbs) -> Verbs:
    """Return *store* if it does what is going to be measured.

    Raises WrongAnswerError, or what the store raises.
    """
    await store.set("check", b"value", expires_in=60)
    answers = [await store.get("check"), await store.get("check", renew_for=60)]
    await store.delete("check")
    if [*answers, await store.get("check")] != [b"value", b"value", None]:
        raise WrongAnswerError
    return store


async def measure(plan: Plan, stores: Mapping[Contender, Verbs], tell: Callable[[str], None]) -> list[Micro]:
    """Carry out *plan*; *tell* hears what comes next."""
    results: list[Micro] = []
    # What is there already is not looked at again: neither between the slices, nor by a collection within one.
    gc.collect()
    gc.freeze()
    for size, workloads in plan.workloads.items():
        value = bytes(index % 251 for index in range(size))
        keys = [key("old", number) for number in range(1024 if size < 100_000 else 256)]  # noqa: PLR2004 - 25 MB each
        for contender, store in stores.items():
            tell(f"{contender.name}: {len(keys)} values of {size} bytes")
            share = iter(keys)
            await _work([(WORKLOADS[SET_NEW](store, value, 0), share)] * 16, math.inf)  # what fails, is missed later
        for workload, callers in itertools.product(workloads, plan.concurrency):
            rounds: list[Mapping[Contender, Mapping[str, Slice]]] = []
            for number in range(-1, plan.rounds):  # round -1 warms up
                slices: dict[Contender, Mapping[str, Slice]] = {}
                first = number % len(stores)
                order = list(stores.items())
                for contender, store in order[first:] + order[:first]:
                    tell(f"{workload}, {size} bytes, {callers} callers: {contender.name}")
                    seconds = plan.seconds if number >= 0 else plan.seconds / 4
                    calls = [WORKLOADS[workload](store, value, caller) for caller in range(callers)]
                    if workload == SET_NEW:
                        slices[contender] = await _new_then_deleted(store, calls, seconds)
                    else:
                        shares = [itertools.cycle(keys[caller::callers]) for caller in range(callers)]
                        slices[contender] = {workload: await _work(list(zip(calls, shares, strict=True)), seconds)}
                rounds.append(slices)
            results += _medians(rounds[1:], size, callers, plan.loop)
    gc.unfreeze()
    return results


async def _new_then_deleted(store: Verbs, calls: Sequence[Call], seconds: float) -> Mapping[str, Slice]:
    """Let *calls* set new keys, then delete them all, so that the table keeps its size."""
    numbers = itertools.count()
    unused = (key("new", number) for number in numbers)
    made = await _work([(call, unused) for call in calls], seconds)
    used = iter([key("new", number) for number in range(next(numbers))])
    return {SET_NEW: made, DELETE: await _work([(store.delete, used) for _ in calls], math.inf)}


async def _work(callers: Sequence[tuple[Call, Iterator[str]]], seconds: float) -> Slice:
    """Let *callers* call, each with its next key, until *seconds* are over or there is no further key.

    Each calls once at least, however long the machine lets it wait for that.
    """
    result = Slice()
    gc.collect()
    begun = perf_counter()

    async def work(call: Call, keys: Iterator[str]) -> None:
        started = perf_counter()
        for of in keys:
            try:
                await call(of)
            except Exception as error:  # noqa: BLE001 - whatever a contender raises
                result.failed(error)
                started = perf_counter()
            else:
                finished = perf_counter()
                result.latencies.append(finished - started)
                started = finished
            if started >= begun + seconds:
                return

    tasks = [asyncio.create_task(work(call, keys)) for call, keys in callers]
    _, late = await asyncio.wait(tasks, timeout=SLICE_LIMIT)
    result.seconds = perf_counter() - begun
    for task in late:
        task.cancel()
        result.failed(TimeoutError(f"no answer within {SLICE_LIMIT} s"))
    return result


def _medians(
    rounds: Sequence[Mapping[Contender, Mapping[str, Slice]]], size: int, callers: int, loop: str
) -> Iterator[Micro]:
    for contender, slices in rounds[0].items():
        for workload in slices:
            own = [by_contender[contender][workload] for by_contender in rounds]
            ratios: dict[str, float] = {}
            for other in rounds[0]:
                others = [by_contender[other][workload] for by_contender in rounds]
                pairs = zip(own, others, strict=True)
                quotients = [a.operations_per_second / b.operations_per_second for a, b in pairs if b.latencies]
                if other is not contender and quotients:
                    ratios[other.name] = statistics.median(quotients)
            yield Micro(
                contender=contender.name,
                group=contender.terms.group,
                workload=workload,
                size=size,
                concurrency=callers,
                loop=loop,
                operations_per_second=statistics.median(done.operations_per_second for done in own),
                p50=statistics.median(done.percentile(0.5) for done in own),
                p99=statistics.median(done.percentile(0.99) for done in own),
                errors=sum(done.errors for done in own),
                rounds=len(rounds),
                ratios=ratios,
                error=next((done.error for done in own if done.error), ""),
            )
