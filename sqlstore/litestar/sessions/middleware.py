"""Sessions around a request or a socket: loaded before it, stored before its response begins."""

from __future__ import annotations

import logging
from functools import partial
from inspect import getclosurevars, isfunction
from typing import TYPE_CHECKING, Any

from litestar import Litestar
from litestar.connection import ASGIConnection
from litestar.enums import ScopeType
from litestar.exceptions import ImproperlyConfiguredException
from litestar.middleware._internal.exceptions import ExceptionHandlerMiddleware
from litestar.middleware.session.base import SessionMiddleware
from litestar.security.session_auth.middleware import SessionAuthMiddleware
from litestar.types import Empty
from litestar.utils.scope.state import ScopeState
from typing_extensions import override

from ...config import UNITS
from ...exceptions import SQLStoreError
from ..held_response import HeldResponse
from .backend import SQLSessionBackend
from .request_session import RequestSession, add_unsent_cookie

if TYPE_CHECKING:
    from litestar.types import ASGIApp, HTTPResponseStartEvent, Message, Receive, Scope, Send

    from ...unit_of_work import UnitOfWork
    from .request_session import AnyConnection

__all__ = ("SQLSessionMiddleware",)

_LOGGER = logging.getLogger("sqlstore")
_FAILED = frozenset({1011, *range(4500, 4600)})
"""With these codes a socket is closed after an exception: Litestar's are 4000 and the HTTP status."""


class SQLSessionMiddleware(SessionMiddleware[SQLSessionBackend]):
    """Litestar's ``SessionMiddleware`` over a `SQLSessionBackend`."""

    def __init__(self, app: ASGIApp, backend: SQLSessionBackend) -> None:
        """Serve *app*.

        Raises:
            ImproperlyConfiguredException: the sessions' store is not one of ours.
        """
        # As Litestar does inside of all middleware: what one after this one raises is answered before the session is
        # saved, not behind its back.
        answering = app if isinstance(app, ExceptionHandlerMiddleware) else ExceptionHandlerMiddleware(app, debug=None)
        super().__init__(answering, backend)
        # Which would end an anonymous session at the first page that it may not see.
        self._authenticates = isinstance(getattr(app, "app", None), SessionAuthMiddleware)
        if (litestar := _application(app)) is not None:
            backend.config.get_store_from_app(litestar)
            if add_unsent_cookie not in litestar.before_send:  # it is, where there is the plugin
                litestar.before_send.append(add_unsent_cookie)

    @override
    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        outer = RequestSession.in_scope(scope)
        if outer is not None and outer.config is self.backend.config:  # in SessionAuth and in middleware=, too
            await self.app(scope, receive, send)
            return
        if self.backend.config.same_transaction and UNITS not in scope["state"]:
            msg = "same_transaction needs plugins=[SQLStorePlugin(config)] in the application"
            raise ImproperlyConfiguredException(msg)
        connection: AnyConnection = ASGIConnection(scope, receive=receive, send=send)  # [...] takes 2 µs
        session = self.backend.session_of(connection)
        scope["session"] = {}
        try:
            scope["session"] = await session.load()
        except SQLStoreError as error:
            if self.backend.config.on_store_error == "raise":
                raise
            _LOGGER.warning("a session could not be read, the request goes on without: %r", error)
        ScopeState.from_scope(scope).session_id = self.backend.get_session_id(connection)
        try:
            if scope["type"] == ScopeType.HTTP:
                await self._serve_request(session, scope, receive, send)
            else:
                await self._serve_socket(session, scope, receive, send)
        except Exception:
            session.hand_over()
            raise
        finally:
            session.forget()

    async def _serve_request(self, session: RequestSession, scope: Scope, receive: Receive, send: Send) -> None:
        async def settle(message: HTTPResponseStartEvent) -> None:
            if self._refused(session, scope):
                return
            unit = self._unit(session, scope, message["status"])
            if unit is None:
                await session.settle(message)
            elif unit.verdict:
                scope["state"][UNITS].before_commit(unit, partial(session.settle, via=unit))
            else:
                session.leave(message)

        held = HeldResponse(scope, send, settle)
        error: Exception | None = None
        try:
            await self.app(scope, receive, held.send)
        except Exception as raised:  # noqa: BLE001 - raised again below
            error = raised
        if held.started:
            session.warn_of_changes()
        held.finish(error)

    async def _serve_socket(self, session: RequestSession, scope: Scope, receive: Receive, send: Send) -> None:
        accepted = ended = left = gone = False
        farewell: int | None = None  # the browser's own, with which Litestar closes, too

        async def receive_and_note() -> Any:  # noqa: ANN401 - of several types
            nonlocal left, farewell
            message: Any = await receive()
            if message["type"] == "websocket.disconnect":
                left, farewell = True, message.get("code")
            return message

        async def send_and_store(message: Message) -> None:
            nonlocal accepted, ended, gone
            if message["type"] == "websocket.accept":
                await session.settle(message)
                accepted = True
            elif message["type"] == "websocket.close" and not ended:
                ended = True
                if gone or message.get("code") not in _FAILED - {farewell}:
                    await session.close(accepted=accepted, left=left or gone)
            try:
                await send(message)
            except OSError:  # the browser is gone, which is how most sockets end, and no fault of the handler's
                gone = True
                raise

        await self.app(scope, receive_and_note, send_and_store)
        if not ended:
            await session.close(accepted=accepted, left=left or gone)
        session.warn_of_changes()

    def _refused(self, session: RequestSession, scope: Scope) -> bool:
        """Return whether an anonymous session was cleared by nothing but Litestar's refusal to authenticate it."""
        if not self._authenticates or scope["session"] is not Empty or "user" in scope:
            return False
        cleared = ScopeState.from_scope(scope).session_id is Empty  # which only a handler's clear_session() does
        return not cleared and session.principal is None

    def _unit(self, session: RequestSession, scope: Scope, status: int) -> UnitOfWork | None:
        """Return the request's transaction that the session is to be part of, after *status* has decided about it.

        Also where it need not, but keeps out all other writers, and is going to be committed.
        """
        requests = scope["state"].get(UNITS)
        if requests is None:
            return None
        requests.decide(status)
        unit = next((unit for unit in requests.units if unit.config is session.database and unit.depth), None)
        if unit is None or (unit.mode and unit.mode.read_only):
            return None
        return unit if self.backend.config.same_transaction or (unit.writing and unit.verdict) else None


def _application(app: Any) -> Litestar | None:  # noqa: ANN401 - whatever comes after this middleware
    """Return the application that *app* leads to; None if another middleware hides it.

    A middleware is not told of its application before the first request, which would be late.
    """
    while (inner := _inside(app)) is not None:
        app = inner
    route = getattr(app, "__self__", None)
    handlers = getattr(route, "route_handlers", None) or [getattr(route, "route_handler", None)]
    layers = getattr(handlers[0], "ownership_layers", ())
    return next((layer for layer in layers if isinstance(layer, Litestar)), None)


def _inside(middleware: Any) -> Any:  # noqa: ANN401
    """Return what *middleware* calls ``app``: an attribute, or in a function, as of ASGIMiddleware, a variable."""
    if isfunction(middleware):
        return getclosurevars(middleware).nonlocals.get("app")
    return getattr(middleware, "app", None)
