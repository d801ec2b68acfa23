"""Use a store by itself, without an application: python examples/verbs.py."""

import asyncio

from sqlstore.adapters.sqlite import SqliteConfig, SqliteStore


async def main() -> None:
    """Print what each verb answers."""
    async with SqliteStore(SqliteConfig(pool_config={"database": ":memory:"})) as store:
        await store.create_table()
        # region verbs
        await store.set("greeting", "hello", expires_in=90)
        print(await store.get("greeting", renew_for=3600))  # b'hello'
        print(await store.expires_in("greeting"))  # 3600

        # Atomic, whoever else is at it: a counter, a lock, a one-time token, a write that notices another.
        print(await store.incr("hits"), await store.incr("hits", 10))  # 1 11
        print(await store.add("lock", "mine", 30), await store.add("lock", "yours", 30))  # True False
        await store.set("token", "for Ada", expires_in=600)
        print(await store.pop("token"), await store.pop("token"))  # b'for Ada' None
        if found := await store.get_versioned("greeting"):
            print(await store.compare_and_set("greeting", "hello again", found.version))  # True

        # A namespace is a store of its own in the same table.
        cache = store.with_namespace("cache")
        await cache.set_many({"a": "1", "b": "2"}, expires_in=60)
        print(await cache.get_many(["a", "b", "c"]))  # {'a': b'1', 'b': b'2'}
        await cache.delete_all()
        print(await cache.exists("a"), await store.exists("greeting"))  # False True
        # endregion


if __name__ == "__main__":
    asyncio.run(main())
