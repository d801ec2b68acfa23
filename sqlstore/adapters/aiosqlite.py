"""SQLite for applications that use aiosqlite.

The stores' own connections are those of the sqlite adapter: aiosqlite hops to its thread for each statement, a store
connection once for each call. The application's connections are aiosqlite's.
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from typing_extensions import override

from ..store import BaseSQLSpecStore
from ._extras import driver_of
from .sqlite import SqliteConfig

with driver_of("aiosqlite"):
    import aiosqlite

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

__all__ = ("AiosqliteConfig", "AiosqliteStore")


class AiosqliteConfig(SqliteConfig):
    """A SQLite file, or ``:memory:``, reached through aiosqlite."""

    @asynccontextmanager
    async def provide_connection(self) -> AsyncGenerator[aiosqlite.Connection, None]:
        """Give the application a connection of its own, closed at the end of the block.

        Raises sqlite3's own exceptions.
        """
        async with aiosqlite.Connection(self.connect, iter_chunk_size=64) as connection:
            yield connection


class AiosqliteStore(BaseSQLSpecStore[AiosqliteConfig]):
    """A Litestar store in a SQLite file."""

    @classmethod
    @override
    def config_type(cls) -> type[AiosqliteConfig]:
        return AiosqliteConfig
