"""What Litestar asks of sessions: a backend without state, since Litestar makes several of one config."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from litestar.middleware.session.server_side import ServerSideSessionBackend
from typing_extensions import override

from ...exceptions import ContentionError
from ...unit_of_work import writing_unit
from .request_session import RequestSession

if TYPE_CHECKING:
    from litestar.stores.base import Store
    from litestar.types import Message

    from .config import SQLSessionConfig
    from .request_session import AnyConnection

__all__ = ("SQLSessionBackend",)

_ATTEMPTS = 100
"""How often others may come first before `SQLSessionBackend.set` gives up."""


class SQLSessionBackend(ServerSideSessionBackend):
    """Sessions by their ids, for what is not in a request: a console, a job, a test.

    The *store* is the one that the sessions are in. In a request that has written to a database that has one writer,
    `get`, `set` and `delete` are part of its transaction: nobody else could write. Every method raises what the verbs
    of a store raise.
    """

    config: SQLSessionConfig

    # By id

    @override
    async def get(self, session_id: str, store: Store) -> bytes | None:
        """Return a session's data, or None; with ``renew_on_access``, move its expiry if it is time."""
        rows = self.config.rows_in(store)
        via = writing_unit(rows.store.config)
        found = await self.config.find(session_id, rows, via)
        if found and self.config.renew_on_access and self.config.is_due(found):
            await rows.touch(found.key, via)
        return found.data if found else None

    @override
    async def set(self, session_id: str, data: bytes, store: Store) -> None:
        """Replace a session's data, whatever it is; one that is not there begins."""
        rows = self.config.rows_in(store)
        via = writing_unit(rows.store.config)
        for _ in range(_ATTEMPTS):
            found = await self.config.find(session_id, rows, via)
            if found is None:
                key = self.config.keys_of(session_id)[0]
                done = await rows.add(key, data, None, via)
                if not done and await self.config.find(session_id, rows, via) is None:
                    await rows.delete(key, via)  # a row from before absolute_timeout, which has outlived it
            else:
                done = await rows.save(found.key, data, found.version, principal=found.principal, same=True, via=via)
            if done:
                return
        msg = "others have changed this session again and again: try again later"
        raise ContentionError(msg)

    @override
    async def delete(self, session_id: str, store: Store) -> None:
        """End a session, if there is one."""
        rows = self.config.rows_in(store)
        for key in self.config.keys_to_end(session_id):
            await rows.delete(key, writing_unit(rows.store.config))

    async def delete_all(self, store: Store) -> None:
        """End all sessions.

        Raises:
            ImproperlyConfiguredException: *store* is in no namespace.
        """
        await self.config.checked(store).delete_all()

    async def delete_expired(self, store: Store) -> int:
        """Delete the rows of sessions that have expired, and return how many."""
        return await self.config.checked(store).delete_expired()

    # By connection

    def session_of(self, connection: AnyConnection) -> RequestSession:
        """Return what is to become the session of *connection*; nothing is loaded yet."""
        store = connection.scope["litestar_app"].stores.get(self.config.store)
        return RequestSession(self, connection, self.config.rows_in(store))

    @override
    async def load_from_connection(self, connection: AnyConnection) -> dict[str, Any]:
        """Return the data of the session that *connection* has a cookie of; {} if there is none."""
        return await self.session_of(connection).load()

    @override
    def get_session_id(self, connection: AnyConnection) -> str:
        """Return the id of the connection's session, or the one that it will have; never one that a client chose."""
        session = RequestSession.in_scope(connection.scope)
        if session is None:
            return connection.get_session_id() or self.generate_session_id()
        return session.id or session.reserved_id()

    @override
    async def store_in_message(self, scope_session: Any, message: Message, connection: AnyConnection) -> None:
        """Make *scope_session* the session of *connection*, with a cookie in *message*; Empty ends it."""
        session = self.session_of(connection)
        await session.load()
        connection.scope["session"] = scope_session
        await session.settle(message)
