"""Durable sessions, key/value stores, caches and rate limits for Litestar, on the SQL database you already run.

Import the driver's pair from its adapter: ``from sqlstore.adapters.asyncpg import AsyncpgConfig, AsyncpgStore``.
"""

from .config import BaseConfig, ExtensionConfig, LitestarOptions
from .exceptions import (
    CommitError,
    ConnectionLostError,
    ContentionError,
    CounterError,
    ForeignKeyViolationError,
    NotFoundError,
    OutcomeUnknownError,
    ReadOnlyError,
    SQLStoreError,
    TableMismatchError,
    TableMissingError,
    UnavailableError,
    UniqueViolationError,
    ValueTooLargeError,
)
from .store import BaseSQLSpecStore, Versioned

__all__ = (
    "BaseConfig",
    "BaseSQLSpecStore",
    "CommitError",
    "ConnectionLostError",
    "ContentionError",
    "CounterError",
    "ExtensionConfig",
    "ForeignKeyViolationError",
    "LitestarOptions",
    "NotFoundError",
    "OutcomeUnknownError",
    "ReadOnlyError",
    "SQLStoreError",
    "TableMismatchError",
    "TableMissingError",
    "UnavailableError",
    "UniqueViolationError",
    "ValueTooLargeError",
    "Versioned",
)
