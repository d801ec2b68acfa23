"""The stores' connections belong to the config: who opens them, for which loop and process, and who closes them."""

from __future__ import annotations

import asyncio
import gc
import threading
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

import pytest
import uvloop

from sqlstore import lanes

from .conftest import until, until_closed
from .verbs import VERBS

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from sqlstore import BaseSQLSpecStore

    from ..conftest import Adapter, MakeConfig, MakeStore
    from .conftest import Connections, RunScript

    Store = BaseSQLSpecStore[Any]


@pytest.fixture
async def unused(store: Store, make_store: MakeStore) -> Store:
    """Return a store that has not been used, over a config of its own, whose table is there."""
    await store.close()
    return make_store()


def _threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("sqlstore")]


# In one event loop


async def test_constructing_opens_nothing(unused: Store, connections: Connections) -> None:
    """A config, its stores and their namespaces are names until the first call."""
    unused.with_namespace("x")
    type(unused)(unused.config, namespace=None)
    before = await connections()
    await unused.set("k", b"v")

    assert not before
    assert await connections()


async def test_the_last_user_out_closes(unused: Store, connections: Connections) -> None:
    """``async with`` counts the users of the config, whichever store or namespace they entered."""
    other = type(unused)(unused.config, namespace="other")
    async with unused as entered, unused, other, unused.with_namespace("x") as child:
        await entered.set("k", b"v")
        async with child:
            await child.set("k", b"v")
        opened = await connections()
        async with other:
            pass

        assert await connections() == opened
        assert opened
    await until_closed(connections)
    await until(lambda: not _threads())


async def test_the_stores_work_without_async_with(unused: Store, connections: Connections) -> None:
    """The first call opens, `close` closes, and the next call opens again."""
    for number in range(3):
        assert await unused.incr("n") == number + 1
        assert await connections()
        await unused.close()
        await until_closed(connections)


async def test_a_store_works_after_its_last_exit(unused: Store, connections: Connections) -> None:
    """Litestar's shutdown hooks may still use a store that Litestar has already left."""
    for number in range(3):
        async with unused:
            await unused.set("k", b"v")

        assert await unused.get("k") == b"v"
        assert await unused.incr("n") == number + 1
    await unused.close()
    await until_closed(connections)


async def test_closing_waits_for_what_has_been_called(unused: Store, connections: Connections) -> None:
    """Calls under way are answered before their connections close."""
    calls = [asyncio.create_task(unused.incr("n")) for _ in range(50)]
    await asyncio.sleep(0)
    await unused.close()

    assert [call.result() for call in calls] == [*range(1, 51)]
    await until_closed(connections)


async def test_closing_drains_abandoned_calls(store: Store, unused: Store) -> None:
    """Nothing of a closed store lands later."""
    call = asyncio.create_task(unused.set("k", b"v"))
    await asyncio.sleep(0.001)
    call.cancel()
    await unused.close()
    left = await store.get("k")
    await asyncio.sleep(0.05)

    assert await store.get("k") == left


async def test_a_call_may_come_while_the_store_closes(unused: Store) -> None:
    """It is answered like any other."""
    await unused.set("n", b"0")
    for _ in range(20):
        _, *answers = await asyncio.gather(unused.close(), *(unused.incr("n") for _ in range(5)), unused.close())

        assert None not in answers[:-1]

    assert await unused.get("n") == b"100"


async def test_idle_connections_close(
    adapter: Adapter, unused: Store, connections: Connections, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A burst opens up to 6 connections; one for reads and one for writes stay."""
    monkeypatch.setattr(lanes, "IDLE_SECONDS", 0.5)
    keys = [f"k{number}" for number in range(20)]
    await asyncio.gather(unused.set("small", b"v"), *(unused.set(key, bytes(300_000)) for key in keys))
    await asyncio.gather(*map(unused.get, keys))
    opened = await connections()
    await until(lambda: _at_most(2, connections))
    kept = await connections()
    await asyncio.sleep(0.6)
    await unused.set("n", b"v")
    await unused.get("n")

    if adapter.networked:  # SQLite has one writer, and a reader who waits for nobody
        assert len(opened) > 2, "one slow statement would hold up all others"
    assert len(opened) <= 6
    assert len(kept) == 2
    assert await connections() == kept


async def _at_most(number: int, connections: Connections) -> bool:
    return len(await connections()) <= number


_caller: ContextVar[str] = ContextVar("_caller", default="nobody")


async def test_the_stores_keep_no_caller_s_context(unused: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """What runs for all callers runs in the context of none of them."""
    seen: list[str] = []
    open_store_connection = unused.config.open_store_connection

    async def look_and_open(*, writes: bool = True) -> object:
        seen.append(_caller.get())
        return await open_store_connection(writes=writes)

    monkeypatch.setattr(unused.config, "open_store_connection", look_and_open)
    _caller.set("the first")
    await unused.set("k", b"v")
    await unused.get("k")

    assert seen == ["nobody", "nobody"]


async def test_a_config_that_is_forgotten_closes(
    adapter: Adapter, make_config: MakeConfig, connections: Connections
) -> None:
    """Connections do not outlive the config and stores that nobody has any more."""
    store = adapter.store(make_config())
    await store.create_table()
    await store.set("k", b"v")
    await store.get("k")
    opened = await connections()
    del store

    async def forgotten() -> bool:
        gc.collect()
        return not await connections()

    await until(forgotten)
    await until(lambda: not _threads())

    assert opened


# Event loops and threads


async def _use(store: Store, user: str = "x") -> None:
    child = store.with_namespace(user)
    async with store, child:
        for verb in VERBS.values():
            await verb(child)
        await child.delete_all()
        await child.set("k", b"v")

        assert await child.get("k") == b"v"
    await store.incr("n")


def _in_uvloop(work: Coroutine[Any, Any, None]) -> None:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(work)


@pytest.mark.parametrize("run", [asyncio.run, _in_uvloop], ids=["asyncio", "uvloop"])
async def test_each_event_loop_has_connections_of_its_own(
    unused: Store, connections: Connections, run: Callable[[Coroutine[Any, Any, None]], None]
) -> None:
    """Loops may follow each other, and run beside each other in threads; each closes what it opened."""
    for _ in range(3):
        await asyncio.to_thread(run, _use(unused))
    await asyncio.gather(*(asyncio.to_thread(run, _use(unused, f"x{number}")) for number in range(2)), _use(unused))

    assert await unused.get("n") == b"6"
    await unused.close()
    await until_closed(connections)


@pytest.mark.parametrize("verb", [*VERBS, "create_table", "drop_table", "close", "__aenter__"])
def test_another_kind_of_event_loop_is_refused(adapter: Adapter, make_config: MakeConfig, verb: str) -> None:
    """Under trio, say, a call raises an error that names what is needed, and opens nothing."""
    store = adapter.store(make_config())
    call = VERBS[verb](store) if verb in VERBS else getattr(store, verb)()
    with pytest.raises(RuntimeError, match="needs a running asyncio event loop"):
        call.send(None)


# Programs

USE = """
async def use(key="k"):
    async with store, store.with_namespace("x"):
        await store.set(key, b"v")
        assert await store.get(key) == b"v"
    assert await store.exists(key)
"""

PROGRAMS = {
    "20 times asyncio.run": """
for _ in range(20):
    asyncio.run(use())
pause()
""",
    "20 test clients": """
from litestar import Litestar, get
from litestar.stores.registry import StoreRegistry
from litestar.testing import TestClient

@get("/")
async def visit() -> bytes:
    await use()
    return b"done"

async def say_goodbye():
    await store.set("goodbye", b"v")

stores = StoreRegistry(default_factory=store.with_namespace)
app = Litestar([visit], stores=stores, on_shutdown=[say_goodbye], logging_config=None)
app.stores.register("sessions", store)
app.stores.get("cache")
for _ in range(20):
    with TestClient(app) as client:
        assert client.get("/").text == "done"
pause()
""",
    "loops that are closed without more ado": """
def run():
    loop = asyncio.new_event_loop()
    loop.run_until_complete(use())
    loop.close()

for _ in range(5):
    run()
pause()
""",
    "loops closed, and then another": """
for _ in range(5):
    loop = asyncio.new_event_loop()
    loop.run_until_complete(use())
    loop.close()
    del loop
    asyncio.run(use())
gc.collect()
pause()
""",
    "uvloops that are closed without more ado": """
import uvloop

# From uvloop's own close(), which no store is told of.
warnings.filterwarnings("ignore", "unclosed resource", ResourceWarning)
for _ in range(5):
    loop = uvloop.new_event_loop()
    loop.run_until_complete(use())
    loop.close()
    del loop
    gc.collect()
pause()
""",
    "a loop that ends while calls are under way": """
async def leave():
    # Connects: asyncpg itself complains of a connection that is cancelled while it is made.
    await asyncio.gather(*(store.set(f"k{number}", bytes(100_000)) for number in range(10)))
    calls = [asyncio.create_task(store.set(f"k{number}", bytes(100_000))) for number in range(50)]
    await asyncio.sleep(0.01)

for _ in range(5):
    asyncio.run(leave())
asyncio.run(use())
pause()
""",
    "a config that is forgotten in a closed loop": """
loop = asyncio.new_event_loop()
loop.run_until_complete(use())
loop.close()
del store, config, use
gc.collect()
pause()
""",
    "threads": """
import threading

threads = [threading.Thread(target=lambda: asyncio.run(use())) for _ in range(8)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
pause()
""",
}


@pytest.mark.parametrize("program", PROGRAMS)
async def test_a_program_leaves_no_warnings_and_few_connections(
    unused: Store, connections: Connections, run_script: RunScript, program: str
) -> None:
    """A store at the level of a module serves one loop after the other, with at most one set of connections left."""
    script = await run_script(USE + PROGRAMS[program], unused.config)
    await script.paused()
    left = await connections(script.pid)
    await script.go_on()
    await script.succeeds()

    assert len(left) <= unused.config.readers + unused.config.writers
    await until_closed(connections)


# Processes


FORK = """
warnings.filterwarnings("ignore", "This process .* is multi-threaded", DeprecationWarning)
import signal
signal.alarm(60)  # rather than to hang

def forked(child):
    pid = os.fork()
    if not pid:
        status = 1
        try:
            child()
            status = 0
        except BaseException:
            sys.excepthook(*sys.exc_info())
        finally:
            os._exit(status)
    return lambda: os.waitpid(pid, 0)[1]

here, there = os.pipe(), os.pipe()

def child():
    # An event loop that it inherits is its parent's; a worker of a server makes one of its own.
    with asyncio.Runner() as runner:
        runner.run(use("child's first"))
        os.write(here[1], b"x")
        os.read(there[0], 1)  # until the parent has closed
        runner.run(use("child's second"))
"""


async def test_a_forked_child_has_connections_of_its_own(
    adapter: Adapter, unused: Store, connections: Connections, run_script: RunScript
) -> None:
    """It may use the store while its parent does, and its parent's connections do not notice."""
    program = """
with asyncio.Runner() as runner:
    async def use_and_stay(key):
        await store.set(key, b"v")
        assert await store.get(key) == b"v"
    runner.run(use_and_stay("parent's first"))
    pause()
    wait = forked(child)
    os.read(here[0], 1)
    runner.run(use_and_stay("parent's second"))
    os.write(there[1], b"x")
    assert wait() == 0
    runner.run(use_and_stay("parent's third"))
    pause()
"""
    script = await run_script(USE + FORK + program, unused.config)
    await script.paused()
    before = await connections(script.pid)
    await script.go_on()
    await script.paused()
    after = await connections(script.pid)
    await script.go_on()
    await script.succeeds()

    if adapter.networked:
        assert after == before
    # SQLite's file locks do not survive a fork: the parent's connections may have been closed before it.
    assert len(after) == len(before) == 2
    assert len(await unused.get_many(["parent's first", "parent's second", "parent's third"])) == 3
    assert len(await unused.get_many(["child's first", "child's second"])) == 2


async def test_a_forked_child_that_keeps_the_event_loop_has_connections_of_its_own(
    server: object, unused: Store, connections: Connections, run_script: RunScript
) -> None:
    """Even the same loop object is another loop in another process."""
    assert server, "on SQLite the parent closes before the fork"
    program = """
with asyncio.Runner() as runner:
    runner.run(store.set("parent's first", b"v"))
    pause()
    def child():
        runner.run(store.set("child's first", b"v"))
        pause()
    wait = forked(child)
    assert wait() == 0
    runner.run(store.set("parent's second", b"v"))
    pause()
"""
    script = await run_script(FORK + program, unused.config)
    seen: list[set[int]] = []
    for _ in range(3):
        await script.paused()
        seen.append(await connections())
        await script.go_on()
    await script.succeeds()
    before, beside, after = seen

    assert len(before) == 1
    assert len(beside - before) == 1
    assert after >= before
    assert len(await unused.get_many(["parent's first", "child's first", "parent's second"])) == 3


async def test_what_a_forked_child_writes_outlives_its_parent_s_connections(
    unused: Store, run_script: RunScript
) -> None:
    """A parent that closes, as one does after create_table, takes nothing away from its children."""
    program = """
with asyncio.Runner() as runner:
    runner.run(store.set("parent's first", b"v"))
    wait = forked(child)
    os.read(here[0], 1)
    runner.run(store.set("parent's second", b"v"))
    runner.run(store.close())
    os.write(there[1], b"x")
    assert wait() == 0
"""
    script = await run_script(USE + FORK + program, unused.config)
    await script.succeeds()

    assert len(await unused.get_many(["parent's first", "parent's second"])) == 2
    assert len(await unused.get_many(["child's first", "child's second"])) == 2
