"""SQL statements, as the databases themselves count them."""

from __future__ import annotations

import asyncio
import itertools
import sqlite3
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import asyncpg

if TYPE_CHECKING:
    from collections.abc import Callable


def fetch(dsn: str, *statements: str) -> Any:  # noqa: ANN401 - of whatever type the column is
    """Return the first value of the last of *statements*, each a transaction of its own. Not for an event loop."""

    async def fetch_value() -> Any:  # noqa: ANN401
        connection = await asyncpg.connect(dsn)
        try:
            return [await connection.fetchval(sql) for sql in statements][-1]
        finally:
            await connection.close()

    return asyncio.run(fetch_value())


def count_on_postgresql(dsn: str, *, on: bool) -> None:
    """Let pg_stat_statements count from zero; or let it rest, so that what is timed is without it."""
    fetch(
        dsn,
        "CREATE EXTENSION IF NOT EXISTS pg_stat_statements",
        # Not an argument of the server's, which would win over this.
        f"ALTER SYSTEM SET pg_stat_statements.track = {'top' if on else 'none'}",
        "SELECT pg_reload_conf()",
        "SELECT pg_sleep(0.3)",  # until each connection has read it
        *["SELECT pg_stat_statements_reset()"] * on,
    )


def counted_on_postgresql(dsn: str, database: str) -> int:
    """Return how many statements have ended in *database* since counting began."""
    calls: int = fetch(
        dsn,
        "SELECT coalesce(sum(calls), 0)::int FROM pg_stat_statements JOIN pg_database ON oid = dbid "  # noqa: S608
        f"WHERE datname = '{database}'",
    )
    return calls


def count_on_sqlite() -> Callable[[], int]:
    """Count the statements of every connection that is opened from now on, and return how to read the count."""
    counter = itertools.count()  # next() of it is atomic, and SQLite reports from several threads
    readings = itertools.count()
    connect = sqlite3.connect

    def traced(*arguments: Any, **options: Any) -> sqlite3.Connection:  # noqa: ANN401 - whatever the contender gives
        connection: sqlite3.Connection = connect(*arguments, **options)
        connection.set_trace_callback(lambda _: next(counter) and None)
        return connection

    patch.object(sqlite3, "connect", traced).start()
    return lambda: next(counter) - next(readings)
