"""Durable sessions, key/value stores, caches and rate limits for Litestar, on the SQL database you already run.

Import the driver's pair from its adapter: ``from sqlstore.adapters.asyncpg import AsyncpgConfig, AsyncpgStore``.
"""

from .config import BaseConfig, ExtensionConfig, LitestarOptions
from .exceptions import (
    ConnectionLostError,
    ContentionError,
    CounterError,
    OutcomeUnknownError,
    ReadOnlyError,
    SQLStoreError,
    TableMismatchError,
    TableMissingError,
    UnavailableError,
    ValueTooLargeError,
)
from .store import BaseSQLSpecStore, Versioned

__all__ = (
    "BaseConfig",
    "BaseSQLSpecStore",
    "ConnectionLostError",
    "ContentionError",
    "CounterError",
    "ExtensionConfig",
    "LitestarOptions",
    "OutcomeUnknownError",
    "ReadOnlyError",
    "SQLStoreError",
    "TableMismatchError",
    "TableMissingError",
    "UnavailableError",
    "ValueTooLargeError",
    "Versioned",
)
