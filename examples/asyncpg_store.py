"""A store in PostgreSQL; DATABASE_URL says where."""

import os

from sqlstore.adapters.asyncpg import AsyncpgConfig, AsyncpgStore

store = AsyncpgStore(AsyncpgConfig(pool_config={"dsn": os.environ["DATABASE_URL"]}))
