"""What one of several processes does with a store, see ``test_processes``. Imports no pytest, to start fast."""

from __future__ import annotations

import asyncio
import multiprocessing
import random
import sys
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

from sqlstore.migrator import Migrator

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Generator, Sequence
    from multiprocessing.synchronize import Barrier

    from sqlstore import BaseConfig, BaseSQLSpecStore, ExtensionConfig

SHARED = [f"k{number}" for number in range(20)]
TASKS, ROUNDS = 8, 50

_barriers: list[Barrier] = []


class Place(NamedTuple):
    """What a store is made of, in any process."""

    store: Callable[..., BaseSQLSpecStore[Any]]
    config: Callable[..., BaseConfig]
    pool_config: dict[str, Any]
    extension_config: ExtensionConfig

    def open(self) -> BaseSQLSpecStore[Any]:
        """Return a new store over a new config."""
        return self.store(self.config(pool_config=self.pool_config, extension_config=self.extension_config))


@contextmanager
def loaded_processes(module: str, number: int) -> Generator[ProcessPoolExecutor, None, None]:
    """Give processes that have already loaded *module*, a test's, and all that it needs."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([module, "sqlstore.adapters.asyncpg", "sqlstore.adapters.aiosqlite"])
    with ProcessPoolExecutor(
        number, mp_context=context, initializer=start, initargs=(context.Barrier(number),)
    ) as processes:
        yield processes


def start(barrier: Barrier) -> None:
    """Take the barrier that all processes share."""
    _barriers.append(barrier)
    # Litestar imports it if it is there, which takes longer than the rest.
    sys.modules["advanced_alchemy"] = None  # type: ignore[assignment]


def create_tables(places: Sequence[Place]) -> list[str]:
    """Create the table in one place after the other, each time together with the other processes; return errors."""
    errors: list[str] = []
    for place in places:
        store = place.open()
        _barriers[0].wait(60)
        errors += asyncio.run(_create_and_count(store))
    return errors


async def _create_and_count(store: BaseSQLSpecStore[Any]) -> list[str]:
    try:
        await store.create_table()
        await store.incr("processes")
    except Exception as error:  # noqa: BLE001 - the test wants them all
        return [repr(error)]
    return []


def upgrade(places: Sequence[Place]) -> list[str]:
    """Apply what is pending in one place after the other, together with the others; return what was done, or errors."""
    done: list[str] = []
    for place in places:
        config = place.config(pool_config=place.pool_config, extension_config=place.extension_config)
        _barriers[0].wait(60)
        try:
            done += [applied.migration.label for applied in asyncio.run(Migrator(config).upgrade())]
        except Exception as error:  # noqa: BLE001 - the test wants them all
            done.append(repr(error))
    return done


def write_beside_others(place: Place, seed: int) -> list[str]:
    """Run every kind of write on keys that other processes write, too; return errors."""
    return asyncio.run(_write_beside_others(place.open(), seed))


async def _write_beside_others(store: BaseSQLSpecStore[Any], seed: int) -> list[str]:
    async def write(rng: random.Random) -> None:
        for _ in range(ROUNDS):
            await _random_write(rng, store)
            await store.incr("n")

    tasks = (write(random.Random(seed * TASKS + task)) for task in range(TASKS))  # noqa: S311 - always the same
    answers = await asyncio.gather(*tasks, return_exceptions=True)
    return [repr(answer) for answer in answers if answer is not None]


def _random_write(rng: random.Random, store: BaseSQLSpecStore[Any]) -> Coroutine[Any, Any, object]:
    key, *keys = rng.sample(SHARED, 6)
    verbs: tuple[Callable[[], Coroutine[Any, Any, object]], ...] = (
        lambda: store.set(key, bytes(rng.randrange(5000)), rng.choice([None, 0.001, 60])),
        lambda: store.set_many(dict.fromkeys(keys, b"v"), 60),
        lambda: store.get(key, renew_for=60),
        lambda: store.delete(key),
        lambda: store.delete_many(keys),
        lambda: store.add(key, b"v", 60),
        lambda: store.pop(key),
        store.delete_expired,
    )
    return rng.choice(verbs)()
