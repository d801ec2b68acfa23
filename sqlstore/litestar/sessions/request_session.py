"""What one request, or one socket, does with its session: loaded once, compared, saved where it has changed."""

from __future__ import annotations

import asyncio
import logging
import math
from contextlib import suppress
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal, TypeAlias
from uuid import UUID

import msgspec
from litestar.datastructures import Cookie, MutableScopeHeaders
from litestar.exceptions import (
    ImproperlyConfiguredException,
    LitestarException,
    SerializationException,
)
from litestar.status_codes import HTTP_500_INTERNAL_SERVER_ERROR
from litestar.types import Empty
from litestar.utils.scope.state import ScopeState

from ...exceptions import ContentionError
from ...names import stored_key
from ...session_rows import StoredSession
from ...unit_of_work import writing_unit
from .limit import SessionLimit
from .merge import changes, merge

if TYPE_CHECKING:
    from collections.abc import Iterable

    from litestar.connection import ASGIConnection
    from litestar.types import Scope

    from ...config import BaseConfig
    from ...session_rows import SessionRows
    from ...unit_of_work import UnitOfWork
    from .backend import SQLSessionBackend

__all__ = (
    "CLIENT_KEY",
    "LateSessionError",
    "Principal",
    "RequestSession",
    "add_unsent_cookie",
    "rotate_session_id",
    "save_session",
    "set_principal",
    "stored_principal",
)

AnyConnection: TypeAlias = "ASGIConnection[Any, Any, Any, Any]"
Principal: TypeAlias = str | int | UUID
"""Who a session belongs to: a user's id, in the application's own terms."""

CLIENT_KEY = "_client"
"""Where a session has the user agent and the address of its login."""
_STATE, _UNSENT = "sqlstore_session", "sqlstore_cookie"
"""Where a request's state has its `RequestSession`, and a cookie that the browser has not been told of."""
_LONGEST_USER_AGENT = 256
_NOT_GIVEN: Any = object()
_NOTHING = b"{}"
_ENCODER = msgspec.json.Encoder()
_DECODER = msgspec.json.Decoder(dict[str, msgspec.Raw])
_LOGGER = logging.getLogger("sqlstore")


class LateSessionError(LitestarException):
    """A session would need a cookie, and the response has begun, or the websocket was accepted, without it."""

    def __init__(self) -> None:  # short, because it becomes the reason why a websocket is closed: 123 bytes
        super().__init__(detail="too late for a session's cookie: begin or rotate it before the response or accept()")


class RequestSession:
    """The session of one request or socket.

    What is compared is encoded: the row's data, or what was saved last, with what the handler has made of it.
    """

    def __init__(self, backend: SQLSessionBackend, connection: AnyConnection, rows: SessionRows) -> None:
        """Know nothing of a session yet; see `load`."""
        self._backend = backend
        self.config = backend.config
        self._connection = connection
        self._rows = rows
        self._loop = asyncio.get_running_loop()
        self.id: str | None = None
        """The id of the session that is stored; None if none is."""
        self.stored: StoredSession | None = None
        self._stored_since = 0.0
        """When `stored` was read or written, by the loop's clock."""
        self._base = _NOTHING
        self._saving = asyncio.Lock()
        """Of two tasks of the request that save it, the later goes on from what the earlier has stored."""
        self._given: Any = _NOT_GIVEN
        """What `set_principal` was given, as it is stored."""
        self._rotate = False
        self._reserved: str | None = None
        self._lost: StoredSession | None = None
        """What has ended while the request had it."""
        self._unread: str | None = None
        """The id of the session that the store could not be asked for."""
        self._cookie: str | None = None
        """The cookie to send; None for no cookie."""
        self._kept_cookie: str | None = None
        """The one that is to be sent also if the request's transaction is undone."""
        self._late = False
        """No cookie can be sent any more."""
        self._settled: bytes | None = None
        """What the handler had made of the session when that was stored, or dropped; None before."""

    def forget(self) -> None:
        """Leave the connection, and with it a circle of references that only a garbage collector would find."""
        self._connection.scope["state"].pop(_STATE, None)

    @property
    def database(self) -> BaseConfig:
        """The config of the database that it is in."""
        config: BaseConfig = self._rows.store.config
        return config

    @staticmethod
    def in_scope(scope: Scope) -> RequestSession | None:
        """Return the session that was loaded for the connection with *scope*; None if there is none of ours."""
        found: RequestSession | None = scope["state"].get(_STATE)
        return found

    @staticmethod
    def of(connection: AnyConnection) -> RequestSession:
        """Return the session of *connection*.

        Raises:
            ImproperlyConfiguredException: it has none of ours.
        """
        if (found := RequestSession.in_scope(connection.scope)) is None:
            msg = "there is no session of ours here: give the application middleware=[SQLSessionConfig().middleware]"
            raise ImproperlyConfiguredException(msg)
        return found

    async def load(self) -> dict[str, Any]:
        """Return what is stored for the connection's cookie: nothing, if the store does not know its id.

        Raises:
            SQLStoreError: the store could not.
        """
        self._connection.scope["state"][_STATE] = self
        session_id = self._connection.cookies.get(self.config.key)
        if not session_id or session_id == "null":  # which Litestar's own backend leaves behind
            return {}
        self._unread = session_id
        stored = await self._find(session_id)
        self._unread = None
        data = None if stored is None else self._decoded(stored)
        if stored is None or data is None:
            return {}
        self.stored = stored
        self.id = session_id
        ScopeState.from_scope(self._connection.scope).session_id = session_id
        self._base = stored.data
        return data

    def _decoded(self, stored: StoredSession) -> dict[str, Any] | None:
        """Return what is stored; None if that is no session, which would end all requests that have its cookie."""
        data: Any = None
        with suppress(SerializationException):
            data = self._backend.deserialize_data(stored.data)
        if isinstance(data, dict):
            return data  # pyright: ignore[reportUnknownVariableType]
        _LOGGER.warning("a session of %d bytes is not the JSON of an object, and left alone", len(stored.data))
        return None

    async def _find(self, session_id: str, via: UnitOfWork | None = None) -> StoredSession | None:
        found = await self.config.find(session_id, self._rows, via)
        self._stored_since = self._loop.time()
        return found

    # What a handler asks for

    def set_principal(self, principal: Principal | None) -> None:
        """See the function of this name."""
        given = stored_principal(principal)
        if self._late and given != (self.stored and self.stored.principal):
            raise LateSessionError
        self._given = given

    def rotate(self) -> None:
        """See `rotate_session_id`."""
        if self._late:
            raise LateSessionError
        self._rotate = True

    @property
    def principal(self) -> str | None:
        """Whose the session is now, as it is stored."""
        if self._given is not _NOT_GIVEN:
            return self._given  # type: ignore[no-any-return]
        session = _session_in(self._connection.scope)
        if self.config.principal is not None and session is not Empty and session is not None:
            if not isinstance(session, dict):
                session = self._backend.deserialize_data(self._encoded(session))
            return stored_principal(self.config.principal(session))  # pyright: ignore[reportUnknownArgumentType]
        return self.stored.principal if self.stored else None

    def reserved_id(self) -> str:
        """Return the id that the session will have when it begins."""
        if self._reserved is None:
            self._reserved = self._backend.generate_session_id()
        return self._reserved

    # What becomes of it

    async def settle(self, message: Any, via: UnitOfWork | None = None) -> None:  # noqa: ANN401 - of several types
        """Store what the session has become, unless *message* says 5xx, and tell the browser in *message*.

        Raises:
            SessionConflictError: another request has changed the same, and ``on_conflict`` is ``"raise"``.
            SQLStoreError: the store could not.
            TooManySessionsError: the principal has too many.
        """
        if message.get("status", 0) < HTTP_500_INTERNAL_SERVER_ERROR:
            await self.save(via, renew=self.config.renew_on_access)
        else:
            self._settled = None
        self._late = True
        _add_cookie(message, self._cookie)
        self._cookie = None

    def leave(self, message: Any) -> None:  # noqa: ANN401 - of several types
        """Store nothing, because the request's transaction will be undone; tell the browser what `save_now` has."""
        self._settled = None
        self._late = True
        _add_cookie(message, self._kept_cookie)

    def hand_over(self) -> None:
        """Leave the cookie of what is stored to `add_unsent_cookie`, because another answer comes instead."""
        if self._kept_cookie is not None:
            self._connection.scope["state"][_UNSENT] = self._kept_cookie

    async def save_now(self) -> None:
        """See `save_session`."""
        await self.save(writing_unit(self.database) if self.config.same_transaction else None)

    async def save(self, via: UnitOfWork | None = None, *, renew: bool = False) -> None:
        """Store what the session has become; *renew* moves the expiry of one that has not changed.

        Raises:
            LateSessionError: it begins, or gets another id, and the browser cannot be told.
            SessionConflictError: another request has changed the same, and ``on_conflict`` is ``"raise"``.
            SQLStoreError: the store could not.
            TooManySessionsError: the principal has too many.
        """
        async with self._saving:
            await self._save(via, renew=renew)
        if via is None:
            self._kept_cookie = self._cookie

    async def _save(self, via: UnitOfWork | None, *, renew: bool) -> None:
        session = _session_in(self._connection.scope)
        if session is Empty or session is None:
            self._settled = b""
            await self._end(via)
            return
        if ScopeState.from_scope(self._connection.scope).session_id is Empty:  # clear_session() came before it
            await self._end(via)
        principal = self.principal
        login = self._is_login(principal)
        stored = self.stored
        data = self._encoded(session)
        dropped, self._settled = self._settled, data
        if self._lost:
            if login or data != dropped:
                await self._restart(data, principal, login=login, via=via)
        elif stored is None:
            if login or session:
                await self._begin(data, data, principal, via)
        elif login or self._rotate or self._has_changed(stored, data, principal):
            await self._replace(stored, data, principal, login=login, via=via)
        elif renew and self.config.is_due(stored) and await self._rows.touch(stored.key, via):
            remaining = self.config.remaining(stored, self._loop.time() - self._stored_since)
            self._cookie = self._cookie_of(self.id, remaining)

    def _is_login(self, principal: str | None) -> bool:
        """Return whether *principal*, whose the session is now, was not so before this request."""
        if principal is None and self._lost:
            return False
        known = self.stored or self._lost  # whoever had what has ended must not get it back by having had it
        before = known.principal if known else None
        whose = self.config.principal
        if principal != before and known and whose is not None and self._given is _NOT_GIVEN:
            # A session of before it was known whose it is, has not changed.
            before = stored_principal(whose(self._backend.deserialize_data(self._base)))
        return principal != before

    def _has_changed(self, stored: StoredSession, data: bytes, principal: str | None) -> bool:
        if principal != stored.principal or self._moves(stored):
            return True
        return data != self._base and bool(changes(self._base, data))

    def _moves(self, stored: StoredSession) -> bool:
        """Return whether *stored* is still under its plain id, and should not be."""
        return self.config.hash_ids == "migrate" and stored.key != self.config.keys_of(self.id or "")[0]

    async def _begin(self, data: bytes, mine: bytes, principal: str | None, via: UnitOfWork | None) -> None:
        if self._late:
            raise LateSessionError
        data = self._with_client(data, principal)
        limit = SessionLimit(self.config, self._rows, principal)
        await limit.look()
        session_id, self._reserved = self.reserved_id(), None
        [key, *_] = self.config.keys_of(session_id)
        version = await self._rows.add(key, data, principal, via)
        self._stored_since = self._loop.time()
        self._has_stored(session_id, StoredSession(key, data, version, principal, 0.0, 0.0, None, 0.0), mine)
        await self._keep_limit(limit, key, via)

    async def _replace(
        self, stored: StoredSession, mine: bytes, principal: str | None, *, login: bool, via: UnitOfWork | None
    ) -> None:
        rotates = login or self._rotate
        if rotates and self._late:
            raise LateSessionError
        limit = SessionLimit(self.config, self._rows, principal if login else None)
        await limit.look(stored.key)
        known = self.id or ""
        session_id = self._backend.generate_session_id() if rotates else known
        data = mine
        if self._base != stored.data:  # others' changes, of which an object does not know
            data = merge(self._base, mine, stored.data, self.config.on_conflict)
        deadline = self._loop.time() + self.database.timeout
        while True:
            if login:
                data = self._with_client(data, principal)
            key = self.config.keys_of(session_id)[0] if rotates or self._moves(stored) else stored.key
            same = key == stored.key and principal == stored.principal
            version = await self._rows.save(
                *(stored.key, data, stored.version),
                principal=principal,
                new_key=key,
                same=same,
                told=not self._late,  # or a page view would find that it is not time yet for another cookie
                via=via,
            )
            if version:
                break
            found = await self._find(known, via)
            if found is None:
                await self._restart(mine, principal, login=login, via=via)
                return
            stored = found
            data = merge(self._base, mine, stored.data, self.config.on_conflict)
            principal = principal if login else stored.principal
            if not rotates and not self._moves(stored) and not changes(stored.data, data):
                key, version = stored.key, stored.version  # others have done the same, and nothing remains to be done
                break
            if self._loop.time() > deadline:
                msg = "other requests have changed this session again and again: try again later"
                raise ContentionError(msg)
        self._has_stored(session_id, stored._replace(key=key, data=data, version=version, principal=principal), mine)
        await self._keep_limit(limit, key, via)

    async def _restart(self, mine: bytes, principal: str | None, *, login: bool, via: UnitOfWork | None) -> None:
        """Deal with a session that has ended meanwhile: what is gone stays gone."""
        self._lost = self.stored or self._lost
        self.stored = self.id = self._cookie = None
        own = {key: value for key, value in changes(self._base, mine).items() if value is not None}
        if login and principal is not None:
            await self._begin(msgspec.json.encode(own), mine, principal, via)
        elif own:
            _LOGGER.warning("a session has ended while a request changed it: the changes of %s are lost", sorted(own))

    def _has_stored(self, session_id: str, stored: StoredSession, mine: bytes) -> None:
        """Go on from *stored*, which holds what the handler has made, *mine*, and perhaps what others have."""
        now = self._loop.time()
        elapsed, self._stored_since = now - self._stored_since, now
        remaining = self.config.remaining(stored, elapsed)
        self._cookie = self._cookie_of(session_id, remaining)
        self.stored = stored._replace(now=stored.now + elapsed, expires_at=stored.now + elapsed + remaining)
        self.id = session_id
        self._rotate, self._lost = False, None
        ScopeState.from_scope(self._connection.scope).session_id = session_id
        session: dict[str, Any] = _session_in(self._connection.scope)
        if not isinstance(session, dict):
            self._base = self._settled = mine
            return
        self._base = self._settled = stored.data
        for key, value in changes(mine, stored.data).items():
            if value is None:
                session.pop(key, None)
            else:
                session[key] = msgspec.json.decode(value)

    async def _end(self, via: UnitOfWork | None) -> None:
        """Delete the session; the cookie, too, but not one of a session that others have ended."""
        self._base, self._lost = _NOTHING, None
        if self.stored is None and self._unread is None:
            return
        self._cookie = None  # which may say what is no more true
        keys = self.config.keys_to_end(self.id or self._unread or "")
        if self.stored is not None:
            keys = keys[keys.index(self.stored.key) :]
        if await self._delete_one(keys, via) or await self._delete_one(await self._keys_of_moved(), via):
            self._cookie = self._cookie_of(None, 0)
        self.stored = self.id = self._unread = None

    async def _delete_one(self, keys: Iterable[str], via: UnitOfWork | None) -> bool:
        """Return whether one of the *keys* had a session, which is deleted."""
        for key in keys:
            if await self._rows.delete(key, via):
                return True
        return False

    async def _keys_of_moved(self) -> list[str]:
        """Return where the session is if another request has given it a new id meanwhile: whose it is has not changed.

        The instant of its creation tells it from others; there is no telling one that is nobody's.
        """
        stored = self.stored
        if stored is None or stored.principal is None:
            return []
        sessions = await self._rows.of_principal(stored.principal)
        return [other.key for other in sessions if other.created_at == stored.created_at]

    async def close(self, *, accepted: bool, left: bool) -> None:
        """Store what the session of a socket has become, at its end; nothing can begin any more.

        Raises what `save` raises; that it is too late is logged instead where the browser has *left*, and nobody can be
        told.
        """
        self._late = True
        try:
            if accepted or self.stored is not None:
                await self.save()
        except LateSessionError as error:
            if not left:
                raise
            _LOGGER.warning("a websocket's session is not saved: %s", error.detail)

    async def _keep_limit(self, limit: SessionLimit, key: str, via: UnitOfWork | None) -> None:
        if not await limit.keep(key, via):
            await self._end(via)
            self._cookie = None
            raise limit.error()

    # Words

    def _encoded(self, session: Any) -> bytes:  # noqa: ANN401
        try:
            return _ENCODER.encode(session)
        except TypeError:  # what only the application's type_encoders know
            backend: Any = self._backend
            encoded: bytes = backend.serialize_data(session, self._connection.scope)
            return encoded

    def _with_client(self, data: bytes, principal: str | None) -> bytes:
        """Return the *data* of a login with those of its client, if they are to be kept."""
        if principal is None or not self.config.record_client:
            return data
        client = self._connection.client
        user_agent = self._connection.headers.get("user-agent")
        known = {
            "user_agent": user_agent and user_agent[:_LONGEST_USER_AGENT],
            "address": client.host if client else None,
        }
        return msgspec.json.encode({**_DECODER.decode(data), CLIENT_KEY: known})

    def _cookie_of(self, session_id: str | None, lifetime: float) -> str:
        """Return the cookie of an id for *lifetime* seconds; one that deletes it if they are over, or it is None."""
        config = self.config
        value, max_age = "null", 0
        if session_id is not None and lifetime > 0:
            value, max_age = session_id, math.ceil(lifetime)
        simple = value.isascii() and value.isalnum()  # as all ids are that are ours; another may need quotes
        cookie = _cookie(
            config.key,
            "0" if simple else value,
            max_age,
            None if max_age else 0,
            config.path,
            config.domain,
            config.secure,
            config.httponly,
            config.samesite,
        )
        return cookie.replace("=0", f"={value}", 1) if simple else cookie

    def warn_of_changes(self) -> None:
        """Log that the session was changed after it had been stored."""
        session = _session_in(self._connection.scope)
        if self._settled is None:
            return
        try:
            now = b"" if session is Empty or session is None else self._encoded(session)
        except Exception:  # noqa: BLE001 - it cannot be stored, and so has changed; the response is on its way
            now = b""
        if now != self._settled and not (now and self._settled and not changes(self._settled, now)):
            _LOGGER.warning(
                "a session was changed after the response had begun, and not saved: change it before, or "
                "await save_session(connection)"
            )


def _session_in(scope: Any) -> Any:  # noqa: ANN401 - a dictionary, Empty, or what an application has made of it
    return scope["session"]


async def add_unsent_cookie(message: Any, scope: Scope) -> None:  # noqa: ANN401 - of several types
    """Add, as an application's ``before_send`` hook, the cookie of a session whose request has come to an error.

    What answers it is outside of all middleware; without the cookie, a new id would be lost with all that is under it.
    """
    if message["type"] == "http.response.start":
        _add_cookie(message, scope["state"].pop(_UNSENT, None))


def _add_cookie(message: Any, cookie: str | None) -> None:  # noqa: ANN401 - of several types
    if cookie is not None:
        message.setdefault("headers", [])
        MutableScopeHeaders.from_message(message).add("Set-Cookie", cookie)


@lru_cache(maxsize=256)  # making a header takes 50 µs; an expiry of 0 becomes an instant, which stays in the past
def _cookie(  # noqa: PLR0913, PLR0917 - a cookie's attributes
    key: str,
    value: str,
    max_age: int,
    expires: int | None,
    path: str,
    domain: str | None,
    secure: bool,  # noqa: FBT001
    httponly: bool | None,  # noqa: FBT001
    samesite: Literal["lax", "strict", "none"],
) -> str:
    cookie = Cookie(
        key=key,
        value=value,
        max_age=max_age,
        expires=expires,
        path=path,
        domain=domain,
        secure=secure,
        httponly=httponly,
        samesite=samesite,
    )
    return cookie.to_header(header="")


def stored_principal(principal: Principal | None) -> str | None:
    """Return what stands for *principal* in the table; None for nobody.

    Raises:
        TypeError: it is neither a string, an integer nor a UUID.
    """
    if principal is None:
        return None
    if isinstance(principal, bool) or not isinstance(principal, (str, int, UUID)):
        msg = f"a principal must be a string, an integer, a UUID or None, not {principal!r}: use the user's id"
        raise TypeError(msg)
    return stored_key(str(principal))


def set_principal(connection: AnyConnection, principal: Principal | None) -> None:
    """Say whose the session is, at login; None for nobody any more.

    Takes effect when the session is saved, which then gets a new id if that changes anything: the old one is dead.

    Raises:
        ImproperlyConfiguredException: the session is not one of `SQLSessionConfig`.
        LateSessionError: it would change, and the browser cannot be told of the new id any more.
        TypeError: *principal* is neither a string, an integer nor a UUID.
    """
    RequestSession.of(connection).set_principal(principal)


def rotate_session_id(connection: AnyConnection) -> None:
    """Give the session a new id when it is saved; the old one is dead from then on.

    Raises:
        ImproperlyConfiguredException: the session is not one of `SQLSessionConfig`.
        LateSessionError: the browser cannot be told of the new id any more.
    """
    RequestSession.of(connection).rotate()


async def save_session(connection: AnyConnection) -> None:
    """Save the session now, in a transaction of its own, whatever becomes of the request.

    Where the request has written to a database that has one writer, and ``same_transaction`` is set, it is part of the
    request's transaction: nobody else could write.

    Raises:
        ImproperlyConfiguredException: the session is not one of `SQLSessionConfig`.
        LateSessionError: it begins, or gets another id, and the browser cannot be told any more.
        SessionConflictError: another request has changed the same, and ``on_conflict`` is ``"raise"``.
        SQLStoreError: the store could not.
        TooManySessionsError: the principal has too many.
    """
    await RequestSession.of(connection).save_now()
