"""What the PostgreSQL drivers have in common: the settings of a store connection, and what the server's errors mean."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from ..dialects import Step
from ..exceptions import (
    ConnectionLostError,
    ContentionError,
    ReadOnlyError,
    SQLStoreError,
    TableMismatchError,
    TableMissingError,
    UnavailableError,
    ValueTooLargeError,
)

if TYPE_CHECKING:
    from ..config import BaseConfig

__all__ = ("meaning", "store_settings", "terminate")

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


def store_settings(timeout: float, *, writes: bool) -> dict[str, str]:
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


# The server may have ended it already, and given its process id to somebody else, who is not of the stores.
_TERMINATE = """
SELECT pg_terminate_backend(pid)
  FROM pg_stat_activity
 WHERE pid = $1
   AND usename = current_user
   AND application_name = current_setting('application_name')"""


async def terminate(config: BaseConfig | None, server_pid: int) -> None:
    """Make the server end the process of a connection that was dropped, and wait until it has.

    Raises the driver's own exceptions if the server cannot be asked.
    """
    if config is None:  # nobody is left who could send anything after it
        return
    other = await config.open_store_connection()
    timer = asyncio.get_running_loop().call_later(config.timeout, other.kill)
    try:
        while (await other.run([Step(_TERMINATE, (server_pid,))]))[0]:  # noqa: ASYNC110 - no event tells
            await asyncio.sleep(0.01)
    finally:
        timer.cancel()
        other.kill()
