"""What only the asyncpg adapter does."""

from __future__ import annotations

import pytest

from sqlstore.adapters.asyncpg import AsyncpgConfig

from .test_postgresql import settings_of

pytestmark = pytest.mark.adapters("asyncpg")


async def test_the_application_may_add_session_settings(database: str) -> None:
    """``server_settings`` are passed on, but for those that the stores rely on."""
    config = AsyncpgConfig(
        pool_config={
            "dsn": database,
            "server_settings": {"application_name": "mine", "work_mem": "123kB", "synchronous_commit": "off"},
        }
    )
    async with settings_of(config, "application_name", "work_mem", "synchronous_commit") as settings:
        assert settings == ["mine", "123kB", "on"]


# Bad input


@pytest.mark.parametrize("name", ["dns", "connection_config", "min_sise"])
def test_a_misspelt_option_is_refused(name: str) -> None:
    """Before anything is opened, naming the option that was probably meant."""
    with pytest.raises(TypeError, match=f"unknown option '{name}'"):
        AsyncpgConfig(pool_config={name: "x"})
