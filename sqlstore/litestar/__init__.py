"""Everything for a Litestar application: see `SQLStorePlugin`."""

from ..database_session import DatabaseSession, SyncDatabaseSession
from .plugin import DatabaseHealth, SQLStorePlugin

__all__ = ("DatabaseHealth", "DatabaseSession", "SQLStorePlugin", "SyncDatabaseSession")
