"""Whose sessions there are, and an end to them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from typing import TYPE_CHECKING, Any

import msgspec
from litestar.exceptions import ImproperlyConfiguredException

from ...session_rows import NO_KEY
from ...unit_of_work import writing_unit
from .request_session import CLIENT_KEY, RequestSession, stored_principal

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from ...session_rows import SessionStatistics, StoredSession
    from ...store import BaseSQLSpecStore
    from ...unit_of_work import UnitOfWork
    from .config import SQLSessionConfig
    from .request_session import AnyConnection, Principal

__all__ = ("SessionInfo", "Sessions")


class _Client(msgspec.Struct):
    user_agent: str | None = None
    address: str | None = None


class _Data(msgspec.Struct, rename={"client": CLIENT_KEY}):
    client: _Client | None = None


_UNKNOWN = _Client()
_CLIENT_OF = msgspec.json.Decoder(_Data)


@dataclass(frozen=True, kw_only=True, slots=True)
class SessionInfo:
    """A session that lives; instants are UTC, by the database's clock."""

    id: str
    """What tells it from others on a page or a console: it is not the session's id, and logs nobody in."""
    principal: str | None
    """Whose it is; the SHA-256 of what is no plain ASCII, None for nobody's."""
    created_at: datetime
    last_seen: datetime
    """As exact as ``touch_after``; what a websocket saves does not count."""
    expires_at: datetime | None
    """None for one that another hand stored without expiry."""
    user_agent: str | None
    """That of its login, if the config has ``record_client``."""
    address: str | None


class Sessions:
    """The sessions in a store: list and end them. Always those of its own namespace, no child's.

    Where a request has written to a database that has one writer, what it ends is ended in its transaction, because
    nobody else could write. Every method raises what a store's verbs raise.
    """

    def __init__(self, store: BaseSQLSpecStore[Any], config: SQLSessionConfig) -> None:
        """Look after the sessions of *config* in *store*, also outside an application."""
        self._rows = config.rows_in(store)
        self._info = _info_with_client if config.record_client else _info

    async def list_sessions(self, principal: Principal) -> list[SessionInfo]:
        """Return the sessions of *principal*, the one that was seen last first."""
        stored = stored_principal(principal)
        sessions = await self._rows.of_principal(stored) if stored is not None else []
        return [self._info(session) for session in sorted(sessions, key=_last_seen, reverse=True)]

    async def all_sessions(self) -> AsyncGenerator[SessionInfo, None]:
        """Give all sessions, whosever they are, in no order that means anything."""
        async for session in self._rows.all():
            yield self._info(session)

    def current_id(self, connection: AnyConnection) -> str | None:
        """Return which of the sessions is the connection's own, by its `SessionInfo.id`; None if it has none yet.

        Raises:
            ImproperlyConfiguredException: the session is not one of `SQLSessionConfig`.
        """
        stored = RequestSession.of(connection).stored
        return None if stored is None else _handle(stored.key)

    async def revoke(self, session: SessionInfo) -> None:
        """End *session*, if it still lives: whoever has its cookie is nobody from now on."""
        tried = None
        while (key := await self._key_of(session)) is not None and key != tried:
            if await self._rows.delete(key, self._unit()):
                return
            tried = key  # under which it is no more: it may have got a new id meanwhile

    async def _key_of(self, session: SessionInfo) -> str | None:
        # What it is stored under is not in a SessionInfo, which may be shown: with hash_ids=False that logs in.
        if session.principal is None:
            every = self._rows.all()
            key = await anext((other.key async for other in every if _handle(other.key) == session.id), None)
            await every.aclose()
            return key
        found = await self._rows.of_principal(session.principal)
        key = next((other.key for other in found if _handle(other.key) == session.id), None)
        if key is None:  # it may have a new id: the instant of its creation tells it from others
            key = next((other.key for other in found if _instant(other.created_at) == session.created_at), None)
        return key

    async def revoke_all(self, principal: Principal) -> int:
        """End all sessions of *principal*, and return how many there were."""
        stored = stored_principal(principal)
        return await self._rows.delete_principal(stored, via=self._unit()) if stored is not None else 0

    async def revoke_others(self, connection: AnyConnection) -> int:
        """End all sessions of the connection's principal but its own, and return how many there were.

        Raises:
            ImproperlyConfiguredException: the connection's session has no principal.
        """
        session = RequestSession.of(connection)
        if session.principal is None:
            msg = "this session is nobody's: set_principal(connection, user_id) at login, or give the config principal="
            raise ImproperlyConfiguredException(msg)
        kept = NO_KEY if session.stored is None else session.stored.key
        return await self._rows.delete_principal(session.principal, kept, self._unit())

    async def statistics(self) -> SessionStatistics:
        """Return how many sessions there are, and how large they are."""
        return await self._rows.statistics()

    def _unit(self) -> UnitOfWork | None:
        return writing_unit(self._rows.store.config)


def _last_seen(session: StoredSession) -> float:
    return session.updated_at


def _handle(key: str) -> str:
    return sha256(key.encode()).hexdigest()[:32]


def _instant(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


def _info(session: StoredSession, client: _Client = _UNKNOWN) -> SessionInfo:
    return SessionInfo(
        id=_handle(session.key),
        principal=session.principal,
        created_at=_instant(session.created_at),
        last_seen=_instant(session.updated_at),
        expires_at=None if session.expires_at is None else _instant(session.expires_at),
        user_agent=client.user_agent,
        address=client.address,
    )


def _info_with_client(session: StoredSession) -> SessionInfo:
    try:
        client = _CLIENT_OF.decode(session.data).client
    except msgspec.DecodeError:  # another hand's, or from before the setting
        client = None
    return _info(session, client or _UNKNOWN)
