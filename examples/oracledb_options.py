"""An Oracle store over oracledb, and one over its synchronous connections."""

import asyncio
import os

from sqlstore.adapters.oracledb import (
    OracleAsyncConfig,
    OracleAsyncStore,
    OracleSyncConfig,
    OracleSyncStore,
)

config = OracleAsyncConfig(
    pool_config={
        "user": os.environ["ORACLE_USER"],
        "password": os.environ["ORACLE_PASSWORD"],
        "dsn": os.environ["ORACLE_DSN"],  # db.example.com:1521/app
    },
    extension_config={"litestar": {"session_table": "shop_sessions", "timeout": 5}},
)
same = OracleSyncConfig(pool_config=config.pool_config, extension_config=config.extension_config)


async def main() -> None:
    """Write over one, and read over the other."""
    async with OracleAsyncStore(config) as store, OracleSyncStore(same) as reader:
        await store.create_table()
        await store.set("greeting", "hello", expires_in=60)
        print(await reader.get("greeting"))


if __name__ == "__main__":
    asyncio.run(main())
