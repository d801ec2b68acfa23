"""A request's transactions, which have ended before its response begins.

The outer middleware comes before all others of the application. What they do when the response begins, such as saving
a session, has been done when the message that begins it gets there: only then is the transaction committed, and the
message sent on. If that fails nothing has been sent, and the application's exception handlers answer.
"""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING, Any

from litestar.enums import ScopeType

from ..config import UNITS
from ..database_session import session_of
from ..unit_of_work import UnitOfWork, entered
from .held_response import HeldResponse

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from litestar.types import ASGIApp, HTTPResponseStartEvent, Message, Receive, Scope, Send

    from ..config import BaseConfig, CommitRule

    BeforeCommit = Callable[[HTTPResponseStartEvent], Awaitable[None]]

__all__ = ("TransactionMiddleware", "VerdictMiddleware", "note_exception")


class RequestUnits:
    """The units of work of one request, one for each config that it uses."""

    def __init__(self, scope: Scope, configs: Sequence[BaseConfig]) -> None:
        self._scope = scope
        self._configs = configs
        self._loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()
        self._sessions: dict[BaseConfig, Any] = {}
        self._rules: dict[UnitOfWork, CommitRule] = {}
        self.units: list[UnitOfWork] = []
        self.raised = False
        """A handler, or what it needs, ended with an exception."""

    def session(self, config: BaseConfig) -> Any:  # noqa: ANN401 - of either kind
        """Return the database session of *config*; in any thread, as guards may have one of their own."""
        if config not in self._sessions and threading.get_ident() != self._thread:
            return asyncio.run_coroutine_threadsafe(self._session(config), self._loop).result()
        if config not in self._sessions:
            rule = config.commit_rule_of(self._scope["route_handler"].opt)
            # A socket stays open for longer than any transaction should, or a connection be kept.
            http = self._scope["type"] == ScopeType.HTTP
            unit = UnitOfWork(config, rule.mode if http else None, sparing=not http)
            self._rules[unit] = rule
            self.units.append(unit)
            self._sessions[config] = session_of(unit)
        return self._sessions[config]

    async def _session(self, config: BaseConfig) -> Any:  # noqa: ANN401
        return self.session(config)

    def unit(self, config: BaseConfig) -> UnitOfWork:
        """Return the unit of work of *config*."""
        self.session(config)
        return next(unit for unit in self.units if unit.config is config)

    def decide(self, status: int) -> None:
        """Note what will become of each transaction, now that the response's *status* is known."""
        for unit in self.units:
            rule = self._rules[unit]
            unit.verdict = status in (rule.always if self.raised else rule.statuses)

    def before_commit(self, unit: UnitOfWork, callback: BeforeCommit) -> None:
        """Await *callback* last of all in the transaction of *unit*, if that is going to be committed.

        It gets the message that begins the response, and may add to its headers. What it raises rolls everything back,
        and the application's exception handlers answer.
        """
        unit.before_commit.append(callback)

    async def end(self, start: HTTPResponseStartEvent | None) -> None:
        """End all transactions as *start*, which begins the response, says; None is no response.

        They end in the order of the configs, when what was to be done before a commit has been done for all of them.

        Raises:
            CommitError: one was not committed; those after it have been rolled back.
        """
        failure: Exception | None = None
        if start is not None:
            self.decide(start["status"])
            try:
                for unit in self._in_order():
                    for callback in unit.before_commit if unit.verdict else ():
                        await callback(start)
            except Exception as error:  # noqa: BLE001 - raised below, when all have been rolled back
                failure = error
        for unit in self._in_order():
            unit.before_commit.clear()
            try:
                await unit.end(commit=start is not None and bool(unit.verdict) and failure is None)
            except Exception as error:  # noqa: BLE001 - raised below, when the others have ended
                failure = failure or error
            except BaseException:
                self.abandon()
                raise
        if failure is not None:
            raise failure

    def _in_order(self) -> list[UnitOfWork]:
        return sorted(self.units, key=lambda unit: self._configs.index(unit.config))

    def abandon(self) -> None:
        """Drop all connections, because the request was cancelled."""
        for unit in self.units:
            unit.abandon("the request was cancelled")


class TransactionMiddleware:
    """Ends the transactions when the response begins: the outermost middleware."""

    def __init__(self, app: ASGIApp, configs: Sequence[BaseConfig]) -> None:
        self._app = app
        self._configs = configs

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request."""
        requests = RequestUnits(scope, self._configs)
        scope["state"][UNITS] = requests
        held = HeldResponse(scope, send, requests.end)
        failure: Exception | None = None
        try:
            with entered(requests.units):
                await self._app(scope, receive, held.send)
        except Exception as error:  # noqa: BLE001 - see HeldResponse
            failure = error
        except BaseException:
            requests.abandon()
            raise
        await requests.end(None)
        held.finish(failure)


class VerdictMiddleware:
    """Tells the transactions what will become of them, before other middleware does anything about the response.

    The innermost one, where a database has one writer: a session that is saved there would wait for the request's
    transaction, which waits for the session to be saved.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request."""

        async def send_with_verdict(message: Message) -> None:
            if message["type"] == "http.response.start":
                scope["state"][UNITS].decide(message["status"])
            await send(message)

        await self._app(scope, receive, send_with_verdict)


async def note_exception(_: Exception, scope: Scope) -> None:
    """Note, as an application's ``after_exception`` hook, that a request ended with an exception."""
    if (requests := scope["state"].get(UNITS)) is not None:  # None where there is no route
        requests.raised = True
