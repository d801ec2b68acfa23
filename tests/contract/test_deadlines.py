"""Every call ends within ``timeout``, whatever the network does."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any

import pytest

from sqlstore import OutcomeUnknownError, UnavailableError

from .conftest import until
from .verbs import KEY, PRUNING, READS, VERBS, WRITES

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable

    from sqlstore import BaseSQLSpecStore

    from ..conftest import MakeStore
    from ..proxy import Proxy
    from .conftest import Connections

    Store = BaseSQLSpecStore[Any]

TIMEOUT = 0.5


@asynccontextmanager
async def _ends_in_time() -> AsyncGenerator[None, None]:
    """Without a deadline it would never end; on a busy machine it may end late."""
    async with asyncio.timeout(TIMEOUT + 20):
        yield


@pytest.fixture
async def frozen(store: Store, make_store: MakeStore, proxy: Proxy) -> Store:
    """Return a store whose open connections have just stopped to pass anything."""
    frozen = make_store(port=proxy.port, timeout=TIMEOUT)
    await store.set(KEY, b"1")
    await store.close()
    # All connections: that of reads, of writes, and of what must not hold these up.
    await _patiently(
        lambda: asyncio.gather(frozen.get(KEY), frozen.set("other", b"1"), frozen.with_namespace("other").delete_all())
    )
    proxy.freeze()
    return frozen


async def _works(store: Store) -> None:
    await _patiently(lambda: store.set("works", b"v"))

    assert await _patiently(lambda: store.get("works")) == b"v"


async def _patiently(call: Callable[[], Awaitable[Any]]) -> object:
    """Repeat *call* until a server that is well answers in time: a busy machine may need more to log in."""
    async with asyncio.timeout(20):
        while True:
            with suppress(UnavailableError):
                return await call()


@pytest.mark.parametrize("verb", [*READS, *PRUNING])
async def test_a_read_over_a_frozen_connection_raises(frozen: Store, proxy: Proxy, verb: str) -> None:
    """A read that gets no answer says that the database is unavailable, and the next calls work."""
    async with _ends_in_time():
        with pytest.raises(UnavailableError) as raised:
            await VERBS[verb](frozen)
    proxy.thaw()
    await _works(frozen)

    assert not isinstance(raised.value, OutcomeUnknownError)


@pytest.mark.parametrize("verb", WRITES)
async def test_a_write_over_a_frozen_connection_raises(frozen: Store, proxy: Proxy, verb: str) -> None:
    """A write that was sent and gets no answer may have happened, and the next calls work."""
    async with _ends_in_time():
        with pytest.raises(OutcomeUnknownError):
            await WRITES[verb](frozen)
    proxy.thaw()

    await _works(frozen)


async def test_a_connection_that_did_not_answer_in_time_is_dropped(
    frozen: Store, proxy: Proxy, connections: Connections
) -> None:
    """What it may still say is nobody's answer, so the next calls get connections of their own."""
    before = await connections()
    calls = (frozen.get(KEY), frozen.set("other", b"new"), frozen.with_namespace("other").delete_all())
    await asyncio.gather(*calls, return_exceptions=True)
    proxy.thaw()
    await _works(frozen)

    async def dropped() -> bool:
        return not before & await connections()

    await until(dropped)


async def test_all_callers_of_a_frozen_server_are_told_in_time(frozen: Store, proxy: Proxy) -> None:
    """50 callers do not wait for each other's deadlines, nor do 50 more who come after them."""
    for _ in range(2):
        calls = [verb(frozen) for verb in VERBS.values()] + [frozen.set(f"k{number}", b"v") for number in range(32)]
        async with _ends_in_time():
            answers = await asyncio.gather(*calls, return_exceptions=True)

        assert {type(answer) for answer in answers} <= {UnavailableError, OutcomeUnknownError}
    proxy.thaw()

    await _works(frozen)


@pytest.mark.parametrize("verb", VERBS)
async def test_connecting_to_a_frozen_server_ends_in_time(
    store: Store, make_store: MakeStore, proxy: Proxy, verb: str
) -> None:
    """A server that accepts connections and says nothing is unavailable: the call has not been sent."""
    frozen = make_store(port=proxy.port, timeout=TIMEOUT)
    proxy.freeze()
    async with _ends_in_time():
        with pytest.raises(UnavailableError) as raised:
            await VERBS[verb](frozen)
    proxy.thaw()
    await _works(frozen)

    assert not isinstance(raised.value, OutcomeUnknownError)
    assert await store.get("works") == b"v"


@pytest.mark.parametrize("verb", ["create_table", "drop_table"])
async def test_a_migration_does_not_wait_for_ever_for_a_connection(
    make_store: MakeStore, proxy: Proxy, verb: str
) -> None:
    """Connecting has the deadline of any other call; only a migration's statements may take longer."""
    frozen = make_store(port=proxy.port, timeout=TIMEOUT)
    proxy.freeze()
    async with _ends_in_time():
        with pytest.raises(UnavailableError):
            await (frozen.create_table() if verb == "create_table" else frozen.drop_table())
    proxy.thaw()
    await frozen.create_table()

    await _works(frozen)


async def test_closing_frozen_connections_ends_in_time(frozen: Store, proxy: Proxy) -> None:
    """A server that does not answer a goodbye is left without one."""
    proxy.thaw()
    await asyncio.gather(*(frozen.set(f"k{number}", b"v") for number in range(9)))
    await asyncio.gather(*(frozen.get(f"k{number}") for number in range(9)))
    proxy.freeze()
    async with _ends_in_time():
        await frozen.close()
    proxy.thaw()

    await _works(frozen)


async def test_leaving_a_frozen_store_ends_in_time(frozen: Store, proxy: Proxy) -> None:
    """The end of ``async with`` waits for calls under way until their deadline, then for no longer than its own."""
    async with asyncio.timeout(2 * TIMEOUT + 20):
        async with frozen:
            call = asyncio.create_task(frozen.set("k", b"new"))
            await asyncio.sleep(0)
    proxy.thaw()

    with pytest.raises(OutcomeUnknownError):
        await call
