"""Whose turn it is: nobody keeps a connection for longer than a statement."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from .conftest import until

if TYPE_CHECKING:
    from sqlstore import BaseSQLSpecStore

    from ..conftest import MakeStore
    from .conftest import Connections

    Store = BaseSQLSpecStore[Any]

MANY = {f"k{number}": b"v" for number in range(5000)}
"""Twenty pages."""


async def test_others_write_while_everything_is_deleted(store: Store) -> None:
    """They have their turn between two pages, also where there is one writer."""
    full, other = store.with_namespace("full"), store.with_namespace("other")
    await asyncio.gather(full.set_many(MANY), other.set("k", b"old"))
    clearing = asyncio.create_task(full.delete_all())
    await asyncio.sleep(0)
    await other.set("k", b"new")

    assert not clearing.done()
    await clearing
    assert await full.get_many(MANY) == {}
    assert await other.get("k") == b"new"


async def test_the_last_of_many_users_closes(store: Store, make_store: MakeStore, connections: Connections) -> None:
    """Although their calls shared a statement, and their connection may wait for more."""
    await store.close()
    shared = make_store()

    async def use(key: str) -> None:
        async with shared:
            await shared.get(key)

    await asyncio.gather(*map(use, "abcd"))

    async def closed() -> bool:
        return not await connections()

    await until(closed)
