"""Several processes that prune one table: one at a time, and nobody who writes meanwhile notices."""

from __future__ import annotations

import asyncio
import random
import time
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import pytest
from typing_extensions import override

from sqlstore import BaseSQLSpecStore
from sqlstore.pruner import Pruner

from .worker import SHARED, Place, loaded_processes

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Coroutine, Generator
    from concurrent.futures import ProcessPoolExecutor

    from ..conftest import Adapter, MakeConfig

Store = BaseSQLSpecStore[Any]
PROCESSES, WRITERS, ROUNDS = 4, 4, 2


class Span(NamedTuple):
    """When a pruning began and ended, by the clock of all processes."""

    began: float
    ended: float


class Log(NamedTuple):
    """What one process did, and the errors that its writers met."""

    spans: list[Span]
    pruned: int
    errors: list[str]


@pytest.fixture(scope="module")
def processes() -> Generator[ProcessPoolExecutor, None, None]:
    """Give processes that have already loaded all they need."""
    with loaded_processes(__name__, PROCESSES) as processes:
        yield processes


class _Logged(BaseSQLSpecStore[Any]):
    """Logs its prunings, and takes its time over each step."""

    spans: list[Span]
    enough: asyncio.Event

    @override
    async def _prune(self, batch_size: int = 1000) -> AsyncGenerator[tuple[int, int], None]:
        began = time.monotonic()
        try:
            async for step in super()._prune(batch_size):
                yield step
                await asyncio.sleep(0.01)
        finally:
            self.spans.append(Span(began, time.monotonic()))
            if len(self.spans) == ROUNDS:
                self.enough.set()


def prune_beside_writers(pruning: Place, writing: Place, process: int) -> Log:
    """Prune a few times, while tasks write until all processes have done so."""
    return asyncio.run(_prune_beside_writers(pruning, writing.open(), process))


async def _prune_beside_writers(pruning: Place, store: Store, process: int) -> Log:
    spans: list[Span] = []
    enough = asyncio.Event()
    logged = type("Logged", (_Logged, cast("type[Store]", pruning.store)), {"spans": spans, "enough": enough})
    pruner = Pruner(pruning._replace(store=logged).open(), 0.05)
    writers = [asyncio.create_task(_write(store, process * WRITERS + number)) for number in range(WRITERS)]
    running = asyncio.create_task(pruner.run())
    async with asyncio.timeout(100):
        await enough.wait()
        running.cancel()  # its lease stays
        await asyncio.wait([running])
        await store.incr("done")
        errors = [repr(error) for error in await asyncio.gather(*writers, return_exceptions=True) if error is not None]
    return Log(spans, pruner.rows_pruned, errors)


async def _write(store: Store, task: int) -> None:
    """Use each verb that writes, on keys that all use, and that expire all the time."""
    rng = random.Random(task)  # noqa: S311 - always the same
    while int(await store.get("done") or 0) < PROCESSES:
        key, *keys = rng.sample(SHARED, 6)
        lifetime = rng.choice([0.001, 0.01, 60])
        verbs: tuple[Callable[[], Coroutine[Any, Any, object]], ...] = (
            lambda: store.set(key, b"v", lifetime),  # noqa: B023 - called at once
            lambda: store.set_many(dict.fromkeys(keys, b"v"), lifetime),  # noqa: B023
            lambda: store.get(key, renew_for=lifetime),  # noqa: B023
            lambda: store.delete_many(keys),  # noqa: B023
            lambda: store.add(key, b"v", lifetime),  # noqa: B023
            lambda: store.pop(key),  # noqa: B023
            lambda: store.incr(f"n{key}", 1, lifetime),  # noqa: B023
        )
        await rng.choice(verbs)()
        await asyncio.sleep(0.01)


async def test_one_process_prunes_at_a_time_and_no_writer_notices(
    adapter: Adapter,
    store: Store,  # noqa: ARG001 - makes the table
    make_config: MakeConfig,
    processes: ProcessPoolExecutor,
) -> None:
    """Each of 4 processes has its turn when the one before it is gone; 16 writers meet no error, no deadlock either."""
    pruning, writing = (
        Place(adapter.store, adapter.config, config.pool_config, config.extension_config)
        for config in (make_config(timeout=adapter.patience), make_config(timeout=60))  # a lease: four times as long
    )
    running = [processes.submit(prune_beside_writers, pruning, writing, number) for number in range(PROCESSES)]
    logs = await asyncio.gather(*map(asyncio.wrap_future, running))
    spans = sorted(span for log in logs for span in log.spans)

    assert [error for log in logs for error in log.errors] == []
    assert [(one, other) for one, other in pairwise(spans) if other.began < one.ended] == []
    assert sum(log.pruned for log in logs) > 0
