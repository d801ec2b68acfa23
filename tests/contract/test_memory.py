"""What many callers at once cost in memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .conftest import RunScript
    from .verbs import Store

_PROGRAM = """
def peak():
    # Of this program alone: getrusage's figure begins with that of the process that started it.
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmHWM:")) / 1024

async def once(callers):
    keys = [f"k{number}" for number in range(callers)]
    await asyncio.gather(*(store.set(key, os.urandom(4096), 3600) for key in keys))
    values = await asyncio.gather(*(store.get(key) for key in keys))
    assert [len(value) for value in values] == [4096] * callers
    await asyncio.gather(*(store.get(key, renew_for=7200) for key in keys))

async def main():
    await once(1)
    before = peak()
    for _ in range(4):
        await once(256)
    added = peak() - before
    assert added < 32, f"{added:.1f} MB"

asyncio.run(main())
"""


async def test_many_callers_need_little_memory(store: Store, run_script: RunScript) -> None:
    """256 of them, who write and read 4 KB each time after time, add less than 32 MB to the process."""
    script = await run_script(_PROGRAM, store.config)

    await script.succeeds()
