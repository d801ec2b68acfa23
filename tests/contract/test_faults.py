"""What the database can do to a call: which fault is tried again, and what the caller is told otherwise."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from sqlstore import ContentionError, OutcomeUnknownError, SQLStoreError, UnavailableError

from .conftest import until
from .verbs import EFFECTS, KEY, ONCE, READABLE, REPEATABLE, VERBS, Effect

if TYPE_CHECKING:
    from sqlstore import BaseSQLSpecStore

    from ..conftest import MakeConfig, MakeStore
    from ..proxy import Proxy
    from ..servers import Server
    from .conftest import Hold

    Store = BaseSQLSpecStore[Any]


# Somebody else's transaction is in the way


@pytest.mark.parametrize("verb", REPEATABLE | ONCE)
async def test_a_call_waits_for_a_transaction_to_end(store: Store, hold: Hold, verb: str) -> None:
    """A call tries again until the row is free, and takes effect once."""
    effect = EFFECTS[verb]
    await effect.prepare(store)
    async with hold(store.table_name, KEY):
        call = asyncio.create_task(effect.call(store))
        await asyncio.sleep(0.3)  # PostgreSQL's lock timeout is over

        assert not call.done()

    assert await call == effect.answer
    assert await store.get(KEY) == effect.left


async def test_reads_do_not_wait_for_a_transaction(store: Store, hold: Hold) -> None:
    """They see what was there before it."""
    await store.set(KEY, b"5", 3600)
    async with hold(store.table_name, KEY):
        answers = [await effect.call(store) for effect in READABLE.values()]

    assert answers == [effect.answer for effect in READABLE.values()]


async def test_a_transaction_that_does_not_end_is_an_error_and_changes_nothing(
    store: Store, make_store: MakeStore, hold: Hold
) -> None:
    """What waited in vain until ``timeout`` has not happened, and does not happen later."""
    impatient = make_store(timeout=0.6)
    keys = {verb: f"k-{verb}" for verb in ("set", "delete", "incr", "pop", "add", "renew")}
    await store.set_many(dict.fromkeys(keys.values(), b"5"), 3600)
    async with hold(store.table_name, *keys.values()):
        async with asyncio.timeout(20):
            answers = await asyncio.gather(
                impatient.set(keys["set"], b"new"),
                impatient.delete(keys["delete"]),
                impatient.incr(keys["incr"]),
                impatient.pop(keys["pop"]),
                impatient.add(keys["add"], b"new"),
                impatient.get(keys["renew"], renew_for=7200),
                return_exceptions=True,
            )
        await asyncio.sleep(0.6)

    assert all(isinstance(answer, (ContentionError, UnavailableError)) for answer in answers), answers
    assert await store.get_many(keys.values()) == dict.fromkeys(keys.values(), b"5")
    assert (await store.expires_in(keys["renew"]) or 0) <= 3600


async def test_a_write_that_ran_out_of_time_never_lands_after_a_later_delete(
    store: Store, make_store: MakeStore, hold: Hold
) -> None:
    """A call made after the error takes effect after the failed one, whenever the row becomes free."""
    impatient = make_store(timeout=1)
    await store.set_many(dict.fromkeys("ijk", b"old"))
    async with hold(store.table_name, *"ijk"):
        # SQLite's one writer tries each for half a second, so that the deadline of the third cuts its wait short.
        first = asyncio.create_task(impatient.set("i", b"new"))
        await asyncio.sleep(0.25)
        second = asyncio.create_task(impatient.set("j", b"new"))
        await asyncio.sleep(0.15)
        with pytest.raises(SQLStoreError):
            await impatient.set("k", b"late")
        deleting = asyncio.create_task(impatient.delete("k"))
        await asyncio.sleep(0.05)
    await asyncio.gather(first, second, return_exceptions=True)
    await deleting
    await asyncio.sleep(0.3)

    assert await store.get("k") is None


# The connection is lost


@pytest.mark.parametrize("verb", READABLE | REPEATABLE)
async def test_a_lost_reply_goes_unnoticed(store: Store, make_store: MakeStore, proxy: Proxy, verb: str) -> None:
    """A call whose answer was lost after the commit is repeated, and answers as if nothing had happened."""
    effect = EFFECTS[verb]
    await effect.prepare(store)
    unlucky = make_store(port=proxy.port)
    proxy.drop_reply_after(effect.marker.encode())
    answer = await effect.call(unlucky)

    assert proxy.lost_replies == 1
    assert answer == effect.answer
    assert await store.get(KEY) == effect.left


async def test_a_lost_reply_does_not_disturb_pruning(store: Store, make_store: MakeStore, proxy: Proxy) -> None:
    """The expired value goes, the others stay."""
    await store.set(KEY, b"v", 0.01)
    await store.set("other", b"v", 3600)
    await asyncio.sleep(0.02)
    proxy.drop_reply_after(KEY.encode())
    await make_store(port=proxy.port).delete_expired()

    assert proxy.lost_replies == 1
    assert await store.delete_expired() == 0
    assert await store.get("other") == b"v"


@pytest.mark.parametrize("verb", ONCE)
async def test_what_must_not_happen_twice_is_not_repeated(
    store: Store, make_store: MakeStore, proxy: Proxy, verb: str
) -> None:
    """`incr` and `pop` say that they do not know, have happened once, and the next call works."""
    effect = ONCE[verb]
    await store.set(KEY, b"5", 3600)
    unlucky = make_store(port=proxy.port)
    proxy.drop_reply_after(KEY.encode())
    with pytest.raises(OutcomeUnknownError) as raised:
        await effect.call(unlucky)

    assert proxy.lost_replies == 1
    assert raised.value.__cause__, "the driver's exception"
    assert await unlucky.get(KEY) == effect.left


@dataclass
class Interruption:
    """Lose the reply to a call, and let the store not connect again until it is told."""

    store: Store
    unlucky: Store
    proxy: Proxy
    allowed: asyncio.Event

    async def of(self, effect: Effect) -> asyncio.Task[object]:
        """Make the call, and return it when its reply is lost."""
        await effect.prepare(self.store)
        other = self.unlucky.with_namespace("other")
        await asyncio.gather(other.get("other"), other.delete("other"))  # connects,
        await other.delete_all()  # and here for what must not hold up the others
        self.allowed.clear()
        self.proxy.drop_reply_after(effect.marker.encode())
        call = asyncio.create_task(effect.call(self.unlucky))
        await until(lambda: self.proxy.lost_replies == 1)
        return call


@pytest.fixture
def interruption(store: Store, make_store: MakeStore, proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> Interruption:
    """Return the means to do something between a call and its repetition."""
    unlucky = make_store(port=proxy.port)
    open_store_connection = unlucky.config.open_store_connection
    allowed = asyncio.Event()
    allowed.set()

    async def wait_and_open(*, writes: bool = True) -> object:
        await allowed.wait()
        return await open_store_connection(writes=writes)

    monkeypatch.setattr(unlucky.config, "open_store_connection", wait_and_open)
    return Interruption(store, unlucky, proxy, allowed)


@pytest.mark.parametrize("verb", ["add", "compare_and_set"])
async def test_a_repetition_that_finds_somebody_else_s_value_says_that_it_does_not_know(
    store: Store, interruption: Interruption, verb: str
) -> None:
    """The write may have come before somebody else's, or not at all; somebody else's stays."""
    call = await interruption.of(EFFECTS[verb])
    await store.set(KEY, b"theirs")
    interruption.allowed.set()
    with pytest.raises(OutcomeUnknownError):
        await call

    assert await store.get(KEY) == b"theirs"


@pytest.mark.parametrize("verb", READABLE | REPEATABLE)
async def test_a_repetition_that_does_not_reach_the_server_is_an_error(
    interruption: Interruption, make_config: MakeConfig, verb: str
) -> None:
    """Of a write it is not known whether it happened: it was sent, and the answer never came."""
    call = await interruption.of(EFFECTS[verb])
    interruption.unlucky.config.pool_config = make_config(port=1).pool_config  # nobody listens there
    interruption.allowed.set()
    with pytest.raises(UnavailableError) as raised:
        await call

    assert isinstance(raised.value, OutcomeUnknownError) is (verb in REPEATABLE)


# The server goes away


@pytest.mark.parametrize("verb", EFFECTS)
async def test_idle_connections_that_the_server_closed_go_unnoticed(store: Store, server: Server, verb: str) -> None:
    """Nothing had been sent, so that any call takes a new connection and works, `incr` included."""
    effect = EFFECTS[verb]
    await effect.prepare(store)
    await store.get(KEY)
    await server.kill_connections(server.dsn)

    assert await effect.call(store) == effect.answer
    assert await store.get(KEY) == effect.left


async def test_a_store_survives_a_restart_of_its_server(private_server: Server, make_store: MakeStore) -> None:
    """While the server is down each call says so at once; when it is back everything works by itself."""
    store = make_store(dsn=private_server.dsn, timeout=30)
    await store.create_table()
    await asyncio.gather(store.incr(KEY), store.get(KEY))
    for first in ("incr", "get", "delete_expired"):
        await asyncio.to_thread(private_server.stop)
        for verb in (*VERBS.values(), *VERBS.values()):
            async with asyncio.timeout(20):
                with pytest.raises(UnavailableError) as raised:
                    await verb(store)

            assert not isinstance(raised.value, OutcomeUnknownError), "nothing was sent"
        with pytest.raises(UnavailableError):
            await store.create_table()
        await asyncio.to_thread(private_server.start)
        await VERBS[first](store)

    assert await store.incr(KEY) == 3
