"""What only the psycopg adapters do."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

import psycopg_pool
import pytest

from sqlstore.adapters.psycopg import PsycopgAsyncConfig, PsycopgSyncConfig

from .test_postgresql import settings_of

if TYPE_CHECKING:
    from ..conftest import Adapter

CONFIGS = pytest.mark.parametrize("config", [PsycopgAsyncConfig, PsycopgSyncConfig])


@CONFIGS
@pytest.mark.parametrize("pool", [psycopg_pool.AsyncConnectionPool, psycopg_pool.ConnectionPool])
def test_every_option_of_a_pool_is_taken(config: Any, pool: Any) -> None:  # noqa: ANN401 - classes of a kind
    """So that the same dict can open a pool of the application's, and libpq's keywords beside them."""
    names = [*inspect.signature(pool).parameters, "host", "port", "user", "password", "dbname", "sslmode", "service"]

    assert config(pool_config=dict.fromkeys(names)).pool_config


@CONFIGS
@pytest.mark.parametrize(
    ("name", "meant"),
    [("dsn", "conninfo"), ("coninfo", "conninfo"), ("database", "dbname"), ("min_sise", "min_size")],
)
def test_a_misspelt_option_is_refused(config: Any, name: str, meant: str) -> None:  # noqa: ANN401 - classes of a kind
    """Before anything is opened, naming the option that was probably meant, or what this driver calls it."""
    with pytest.raises(TypeError, match=f"unknown option '{name}' in pool_config: use {meant}$"):
        config(pool_config={name: "x"})


@pytest.mark.adapters("psycopg", "psycopg_sync")
async def test_the_application_may_name_its_connections(database: str, adapter: Adapter) -> None:
    """By ``kwargs``, as for a pool, or by the keyword itself, which wins."""
    named = adapter.config(pool_config={"conninfo": database, "kwargs": {"application_name": "mine"}})
    both = adapter.config(pool_config={**named.pool_config, "application_name": "other"})
    async with settings_of(named, "application_name") as settings:
        assert settings == ["mine"]
    async with settings_of(both, "application_name") as settings:
        assert settings == ["other"]
