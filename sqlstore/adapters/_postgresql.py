"""What the PostgreSQL drivers have in common: a store connection's settings, poolers, and what errors mean."""

from __future__ import annotations

import asyncio
import weakref
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from typing_extensions import override

from ..connection import StoreConnection
from ..dialects import Step
from ..exceptions import (
    ConnectionLostError,
    ContentionError,
    ForeignKeyViolationError,
    ReadOnlyError,
    SQLStoreError,
    TableMismatchError,
    TableMissingError,
    UnavailableError,
    UniqueViolationError,
    ValueTooLargeError,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    from ..config import BaseConfig

__all__ = ("NOT_COMMITTED", "RESET", "PostgreSQLConnection", "enter", "meaning", "terminate", "violation")

# The server process, and when its transaction began. With a parameter, because a text without one can be several
# statements, and is not expected to answer.
_WHOSE = Step("SELECT pg_backend_pid(), now() WHERE $1::boolean", (True,))
_COMMIT, _ROLLBACK = Step("COMMIT"), Step("ROLLBACK")
NOT_COMMITTED = "a statement had failed before, so that the server answered COMMIT with ROLLBACK"
RESET = "RESET ALL"
"""Takes the settings away."""

# https://www.postgresql.org/docs/current/errcodes-appendix.html; two characters are a class.
_MEANING: dict[str, type[SQLStoreError]] = {
    "08": ConnectionLostError,
    "22001": ValueTooLargeError,  # string_data_right_truncation
    "25006": ReadOnlyError,  # read_only_sql_transaction
    "28": UnavailableError,  # invalid_authorization_specification
    "3D000": UnavailableError,  # invalid_catalog_name
    "3F000": TableMissingError,  # invalid_schema_name
    "40001": ContentionError,  # serialization_failure
    "40P01": ContentionError,  # deadlock_detected
    "42501": ReadOnlyError,  # insufficient_privilege
    "42703": TableMismatchError,  # undefined_column
    "42804": TableMismatchError,  # datatype_mismatch
    "42883": TableMismatchError,  # undefined_function
    "42P01": TableMissingError,  # undefined_table
    "53300": ContentionError,  # too_many_connections
    "54": ValueTooLargeError,  # program_limit_exceeded
    "55P03": ContentionError,  # lock_not_available
    "57014": ContentionError,  # query_canceled: statement_timeout
    "57P01": ConnectionLostError,  # admin_shutdown
    "57P02": ConnectionLostError,  # crash_shutdown
    "57P03": ContentionError,  # cannot_connect_now: starting up
}


def meaning(sqlstate: str | None) -> type[SQLStoreError] | None:
    """Return what an error of the server means; None where nothing better than `SQLStoreError` is known."""
    return _MEANING.get(sqlstate or "", _MEANING.get((sqlstate or "")[:2]))


def violation(sqlstate: str | None) -> type[SQLStoreError] | None:
    """Return which rule of a table an error of the server is about."""
    return {"23503": ForeignKeyViolationError, "23505": UniqueViolationError}.get(sqlstate or "")


def _settings(timeout: float, *, writes: bool) -> dict[str, str]:
    """Return the settings of a store connection, for reads alone or for any statement."""
    return {
        "synchronous_commit": "on",
        "default_transaction_isolation": "read committed",
        # A row that somebody's transaction holds must not hold up this connection, and what shares the statement,
        # for long: the call tries again.
        "lock_timeout": str(round(min(0.2, timeout / 2) * 1000)),
        # A plan may be made while the table is empty, and must still be right when it has grown. That of a read is
        # (see the dialect), and making it anew each time would double what a read costs (49 µs, not 26). A write's
        # is not: made for an empty table, it looks for the namespace in the index, and tries every key there.
        "plan_cache_mode": "force_custom_plan" if writes else "force_generic_plan",
        "enable_seqscan": "off",
        "enable_bitmapscan": "off",
        # What was abandoned with a killed connection does not go on for longer than its caller waited.
        "statement_timeout": str(round(timeout * 1000)),
    }


class PostgreSQLConnection(StoreConnection):
    """A connection to a PostgreSQL server, or to a pooler."""

    server_pid: int
    """The process that the other side named when the connection was made."""
    prepares = False
    """Statements are prepared once, and kept."""


async def enter(config: BaseConfig, connection: PostgreSQLConnection, *, writes: bool) -> StoreConnection:
    """Give a new *connection* the stores' settings, and return it, or what uses it if it is a pooler's.

    Raises the driver's own exceptions.
    """
    settings = _settings(config.timeout, writes=writes)
    timer = asyncio.get_running_loop().call_later(config.timeout, connection.kill)
    try:
        _, [(pid, _)] = await connection.run([_begin(settings, "SESSION"), _WHOSE], atomic=False)
        # A pooler makes a number up, because cancelling needs one: https://www.pgbouncer.org/faq.html
        connection.prepares = pid == connection.server_pid
        await connection.run([_COMMIT if connection.prepares else _ROLLBACK], atomic=False)
    except BaseException:
        connection.kill()
        raise
    finally:
        timer.cancel()
    return connection if connection.prepares else _PooledConnection(config, connection, settings)


def _begin(settings: Mapping[str, str], scope: str) -> Step:
    """Return what begins a transaction with *settings*, for the ``SESSION`` if it commits, or ``LOCAL`` to it."""
    sets = (f"SET {scope} {name} = '{value}'" for name, value in settings.items())
    return Step(";".join(["BEGIN ISOLATION LEVEL READ COMMITTED", *sets]))


class _PooledConnection(StoreConnection):
    """A connection through a pooler such as PgBouncer, which lends it another server process for each transaction.

    So nothing that belongs to a session works: each run is a transaction that brings its settings along, and the
    *connection* prepares no statements. https://www.pgbouncer.org/features.html
    """

    def __init__(self, config: BaseConfig, connection: PostgreSQLConnection, settings: Mapping[str, str]) -> None:
        self._config = weakref.ref(config)
        self._connection = connection
        self._begin = _begin(settings, "LOCAL")
        self._lent: tuple[int, datetime] | None = None
        self._in_transaction = False

    @property
    @override
    def closed(self) -> bool:
        return self._connection.closed

    @override
    async def run(self, steps: Sequence[Step], *, atomic: bool = True) -> list[Sequence[Sequence[Any]]]:
        text = steps[0].text
        if not steps[0].parameters:  # a migration, which begins and ends its own transactions
            self._in_transaction = text not in {_COMMIT.text, _ROLLBACK.text} and (
                self._in_transaction or text.startswith("BEGIN")
            )
        if self._in_transaction or not steps[0].parameters:
            return await self._connection.run(steps, atomic=False)
        try:
            _, [(pid, began)] = await self._connection.run([self._begin, _WHOSE], atomic=False)
            self._lent = (pid, began)
            return (await self._connection.run([*steps, _COMMIT], atomic=False))[:-1]
        except BaseException:
            if not self._connection.closed:
                with suppress(Exception):  # what went wrong before is what the caller has to know
                    await self._connection.run([_ROLLBACK], atomic=False)
            raise

    @override
    async def close(self) -> None:
        await self._connection.close()

    @override
    def kill(self) -> None:
        self._connection.kill()

    @override
    async def bury(self) -> None:
        if self._lent is not None:
            await terminate(self._config(), *self._lent)


# The server may have ended it already, and given its process id to somebody else, who is not of the stores; a pooler
# may have given the process to somebody else's transaction.
_TERMINATE = """
SELECT pg_terminate_backend(pid)
  FROM pg_stat_activity
 WHERE pid = $1
   AND usename = current_user
   AND application_name = current_setting('application_name')
   AND ($2::timestamptz IS NULL OR xact_start = $2)"""


async def terminate(config: BaseConfig | None, server_pid: int, began: datetime | None = None) -> None:
    """Make the server end the process of a connection that was dropped, and wait until it has.

    Not if it is in another transaction than the one that *began* then. Raises the driver's own exceptions if the server
    cannot be asked.
    """
    if config is None:  # nobody is left who could send anything after it
        return
    async with config.spare_connection() as other:
        while (await other.run([Step(_TERMINATE, (server_pid, began))]))[0]:  # noqa: ASYNC110 - no event tells
            await asyncio.sleep(0.01)
