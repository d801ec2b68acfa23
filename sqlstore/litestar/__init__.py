"""Everything for a Litestar application: see `SQLStorePlugin`."""

from ..database_session import DatabaseSession, SyncDatabaseSession
from .plugin import DatabaseHealth, SQLStorePlugin
from .sessions import (
    CLIENT_KEY,
    LateSessionError,
    SessionConflictError,
    SessionInfo,
    Sessions,
    SQLSessionBackend,
    SQLSessionConfig,
    TooManySessionsError,
    rotate_session_id,
    save_session,
    set_principal,
)

__all__ = (
    "CLIENT_KEY",
    "DatabaseHealth",
    "DatabaseSession",
    "LateSessionError",
    "SQLSessionBackend",
    "SQLSessionConfig",
    "SQLStorePlugin",
    "SessionConflictError",
    "SessionInfo",
    "Sessions",
    "SyncDatabaseSession",
    "TooManySessionsError",
    "rotate_session_id",
    "save_session",
    "set_principal",
)
