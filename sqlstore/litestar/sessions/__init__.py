"""Sessions that are right: see `SQLSessionConfig`."""

from .backend import SQLSessionBackend
from .config import SQLSessionConfig
from .limit import TooManySessionsError
from .merge import SessionConflictError
from .registry import SessionInfo, Sessions
from .request_session import (
    CLIENT_KEY,
    LateSessionError,
    rotate_session_id,
    save_session,
    set_principal,
)

__all__ = (
    "CLIENT_KEY",
    "LateSessionError",
    "SQLSessionBackend",
    "SQLSessionConfig",
    "SessionConflictError",
    "SessionInfo",
    "Sessions",
    "TooManySessionsError",
    "rotate_session_id",
    "save_session",
    "set_principal",
)
