"""Durable sessions, key/value stores, caches and rate limits for Litestar, on the SQL database you already run.

Import the driver's pair from its adapter: ``from sqlstore.adapters.asyncpg import AsyncpgConfig, AsyncpgStore``.
"""

from .config import BaseConfig, ExtensionConfig, LitestarOptions, MigrationOptions
from .exceptions import (
    CommitError,
    ConnectionLostError,
    ContentionError,
    CounterError,
    ForeignKeyViolationError,
    MigrationError,
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
from .migrator import Migrator
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
    "MigrationError",
    "MigrationOptions",
    "Migrator",
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
