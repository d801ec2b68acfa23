"""Pruning in the background: what goes, what stays, whose turn it is, and what does not stop it."""

from __future__ import annotations

import asyncio
import logging
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from typing_extensions import override

from sqlstore import BaseSQLSpecStore
from sqlstore.pruner import LEASE_KEY, LEASE_NAMESPACE, Pruner

from .conftest import until

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable

    import pytest

    from ..conftest import Adapter, MakeStore
    from ..servers import Server
    from .conftest import SQL, Hold

Store = BaseSQLSpecStore[Any]
INTERVAL = 0.05


@asynccontextmanager
async def _running(*pruners: Pruner) -> AsyncGenerator[None, None]:
    tasks = [asyncio.create_task(pruner.run()) for pruner in pruners]
    try:
        yield
        assert not any(task.done() for task in tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _expire(store: Store, *keys: str) -> None:
    await store.set_many(dict.fromkeys(keys, b"expired"), 0.001)
    await asyncio.sleep(0.01)


async def _count(sql: SQL, store: Store) -> int:
    [[count]] = await sql(f"SELECT count(*) FROM {store.table_name}")  # noqa: S608 - the test's own table
    assert isinstance(count, int)
    return count


def _lease(store: Store) -> Store:
    return type(store)(store.config, namespace=LEASE_NAMESPACE)


class _Slow(BaseSQLSpecStore[Any]):
    """Prunes one row at a time, and does something after each step."""

    after_step: Callable[[], Awaitable[object]]

    @override
    async def _prune(self, batch_size: int = 1) -> AsyncGenerator[tuple[int, int], None]:
        async for step in super()._prune(1):
            await self.after_step()
            yield step


def _no_pause(_interval: float, _failures: int) -> float:
    return INTERVAL


def _slow(store: Store, after_step: Callable[[], Awaitable[object]]) -> Store:
    """Return another store over the same table."""
    slow: type[Store] = type("Slow", (_Slow, type(store)), {"after_step": staticmethod(after_step)})
    return slow(store.config)


# What goes


async def test_what_has_expired_goes_by_itself(store: Store, sql: SQL) -> None:
    """In the whole table, whatever the store's namespace; live values stay, and the counters tell."""
    await _expire(store, "a", "b")
    await _expire(store.with_namespace("child"), "a")
    await _expire(type(store)(store.config, namespace="SIBLING"), "a")
    await _expire(type(store)(store.config, namespace=None), "a")
    await store.set("eternal", b"v")
    await store.set("live", b"v", 3600)
    pruner = Pruner(store, INTERVAL)
    before = datetime.now(UTC)

    async def pruned() -> bool:
        return await _count(sql, store) == 2 + 1  # the lease

    async with _running(pruner):
        await until(pruned)
        await until(lambda: pruner.rounds > 1)

    assert await store.get_many(["a", "eternal", "live"]) == {"eternal": b"v", "live": b"v"}
    assert (pruner.rows_pruned, pruner.backlog, pruner.failures) == (5, 0, 0)
    assert pruner.last_round is not None
    assert before < pruner.last_round < datetime.now(UTC)


async def test_an_interval_of_zero_is_never(store: Store, sql: SQL) -> None:
    """There is nothing to run."""
    await _expire(store, "a")
    pruner = Pruner(store, 0)
    async with asyncio.timeout(20):
        await pruner.run()

    assert await _count(sql, store) == 1
    assert (pruner.rounds, pruner.last_round) == (0, None)


async def test_emptying_a_store_leaves_the_lease_alone(store: Store) -> None:
    """It is in no store's namespace."""
    pruner = Pruner(store, INTERVAL)
    async with _running(pruner):
        await until(lambda: pruner.rounds > 0)
    await store.delete_all()

    assert await _lease(store).exists(LEASE_KEY)


async def test_what_others_hold_is_the_backlog(store: Store, server: Server, hold: Hold) -> None:
    """It is counted, and goes when it is free."""
    assert server, "without row locks nobody else could write"
    await _expire(store, "a", "busy", "z")
    pruner = Pruner(store, INTERVAL)
    async with _running(pruner):
        async with hold(store.table_name, "busy"):
            await until(lambda: pruner.rows_pruned == 2)
            await until(lambda: pruner.backlog == 1)
        await until(lambda: pruner.rows_pruned == 3)
        await until(lambda: pruner.backlog == 0)


# What does not stop it


async def test_a_missing_table_is_a_warning(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    """One line for each turn; when the table is back, pruning goes on."""
    pruner = Pruner(store, INTERVAL)
    async with _running(pruner):
        await until(lambda: pruner.rounds > 0)
        await store.drop_table()
        await until(lambda: pruner.failures > 1)
        await store.create_table()
        await _expire(store, "a")
        await until(lambda: pruner.rows_pruned == 1)

    assert pruner.failures == 0
    warnings = [record for record in caplog.records if record.name == "sqlstore"]
    assert {record.levelno for record in warnings} == {logging.WARNING}
    for record in warnings:
        assert record.getMessage().startswith(f"pruning {store.table_name} failed")
        assert "\n" not in record.getMessage()


async def test_a_restart_of_the_server_is_survived(private_server: Server, make_store: MakeStore) -> None:
    """While it is down each turn fails; when it is back, pruning goes on."""
    store = make_store(dsn=private_server.dsn)
    await store.create_table()
    pruner = Pruner(store, INTERVAL)
    async with _running(pruner):
        await until(lambda: pruner.rounds > 0)
        await asyncio.to_thread(private_server.stop)
        await until(lambda: pruner.failures > 1)
        rounds = pruner.rounds
        await asyncio.to_thread(private_server.start)
        await until(lambda: pruner.rounds > rounds)
        await _expire(store, "a")
        await until(lambda: pruner.rows_pruned == 1)


# Whose turn it is


async def test_one_prunes_until_it_dies(adapter: Adapter, store: Store, make_store: MakeStore) -> None:
    """Another one takes over when the lease of the first has expired, and not before."""
    lease = _lease(store)
    first, second = (Pruner(make_store(timeout=adapter.patience), INTERVAL) for _ in range(2))

    async def taken_over() -> bool:
        rounds = second.rounds
        if await lease.get(LEASE_KEY) != held:
            return True
        assert rounds == 0
        return False

    async with _running(first):
        await until(lambda: first.rounds > 0)
        held = await lease.get(LEASE_KEY)
        async with _running(second):
            rounds = first.rounds
            await until(lambda: first.rounds > rounds + 5)
            await taken_over()
    async with _running(second):
        await _expire(store, "a")
        await until(taken_over)
        await until(lambda: second.rows_pruned == 1)


async def test_workers_leave_out_a_turn_soon_after_another_s(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """The lease lasts until half an interval has passed."""
    monkeypatch.setattr("sqlstore.pruner.pause", _no_pause)
    pruner, other = Pruner(store, 900), Pruner(store, 900)
    async with _running(pruner):
        await until(lambda: pruner.rounds > 0)
    async with _running(other):
        await asyncio.sleep(20 * INTERVAL)

    assert (other.rounds, other.failures) == (0, 0)
    assert 400 < (await _lease(store).expires_in(LEASE_KEY) or 0) <= 450


async def test_a_long_pruning_renews_its_lease(
    store: Store, make_store: MakeStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As soon as a statement ends so late that the next one might outlast the lease."""
    monkeypatch.setattr("sqlstore.pruner.pause", _no_pause)
    lease = _lease(store)
    await _expire(store, "a")

    async def take_long() -> None:
        await lease.set(LEASE_KEY, await lease.get(LEASE_KEY) or b"", 100)
        await asyncio.sleep(1)

    pruner = Pruner(_slow(make_store(timeout=1), take_long), 900)
    async with _running(pruner):
        await until(lambda: pruner.rounds > 0)

    assert 400 < (await lease.expires_in(LEASE_KEY) or 0) <= 450


async def test_who_has_lost_the_lease_stops(adapter: Adapter, store: Store, make_store: MakeStore) -> None:
    """It leaves the rest, and the new holder's lease, alone."""
    lease = _lease(store)
    await _expire(store, *map(str, range(20)))
    lost = asyncio.Event()

    async def lose() -> None:
        if pruner.rows_pruned > 1 and not lost.is_set():
            await lease.set(LEASE_KEY, b"theirs", 1000)
            await asyncio.sleep(adapter.patience)
            lost.set()

    pruner = Pruner(_slow(make_store(timeout=adapter.patience), lose), INTERVAL)
    async with _running(pruner):
        await lost.wait()
        await asyncio.sleep(20 * INTERVAL)

    assert (pruner.rounds, pruner.rows_pruned <= 3) == (0, True)
    assert await lease.get(LEASE_KEY) == b"theirs"
    assert (await lease.expires_in(LEASE_KEY) or 0) > 900
