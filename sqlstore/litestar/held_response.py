"""A response that begins only after something has been done, and not at all if that fails."""

from __future__ import annotations

from typing import TYPE_CHECKING

from litestar.enums import ScopeType
from litestar.exceptions import LitestarException
from litestar.utils.scope.state import ScopeState

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from litestar.types import HTTPResponseStartEvent, Message, Scope, Send

__all__ = ("HeldResponse",)


class HeldResponse:
    """What a middleware has between the application in it and the server.

    If what is to be done before fails, nothing has been sent, and the application's exception handlers answer: outside
    of this middleware.
    """

    def __init__(
        self, scope: Scope, send: Send, before_start: Callable[[HTTPResponseStartEvent], Awaitable[None]]
    ) -> None:
        """Await *before_start* with the message that begins the response, before *send* gets it."""
        self.started = False
        self._scope = scope
        self._send = send
        self._before_start = before_start
        self._failure: Exception | None = None

    async def send(self, message: Message) -> None:
        """Send *message* for the inner application.

        Raises what *before_start* raises, and from then on whenever a response is to begin.
        """
        if message["type"] == "http.response.start":
            if self._failure is not None:  # somebody has caught it, and answers as if nothing had happened
                raise self._failure
            # A copy, because a response cache in the inner application keeps the message to send it to others.
            message = {**message, "headers": [*message.get("headers", ())]}
            try:
                await self._before_start(message)
            except Exception as error:
                self._failure = error
                raise
            self.started = True
        await self._send(message)

    def finish(self, error: Exception | None) -> None:
        """Raise what the middleware has to raise, if anything, when the inner application raised *error* or None."""
        if error is not None:
            if self.started or self._scope["type"] != ScopeType.HTTP:
                raise error
            self._failure = self._failure or _original(error)
        if self._failure is not None and not self.started:
            # Litestar takes the response for started, and would not handle the exception.
            ScopeState.from_scope(self._scope).response_started = False
            raise self._failure


def _original(error: Exception) -> Exception:
    """Return what Litestar found out of place, because it takes the response for started."""
    while type(error) is LitestarException and isinstance(error.__cause__, Exception):
        error = error.__cause__
    return error
