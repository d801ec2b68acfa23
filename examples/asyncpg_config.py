"""A PostgreSQL database; DATABASE_URL says where."""

import os

from sqlstore.adapters.asyncpg import AsyncpgConfig

config = AsyncpgConfig(pool_config={"dsn": os.environ["DATABASE_URL"]})
