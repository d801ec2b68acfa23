"""Sessions as rows of a store's table: created, updated where nobody else has, moved to another key, listed.

An expiry is the sooner of two, by the database's clock: so long after the last use, and so long after the creation.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from .dialects import Row
from .names import MAX_LIFETIME, namespace_end
from .operations import BATCH_ROWS, Repeat
from .verbs import PageVerb, StatementVerb

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence

    from .dialects import Statement
    from .operations import Answer
    from .store import BaseSQLSpecStore
    from .unit_of_work import UnitOfWork

__all__ = ("NO_KEY", "SessionRows", "SessionStatistics", "StoredSession", "namespace_statistics")

NO_KEY = " "
"""What no key is: '' would be NULL on Oracle."""


class StoredSession(NamedTuple):
    """A session's row; instants are epoch seconds by the database's clock."""

    key: str
    data: bytes
    version: int
    principal: str | None
    """As it is stored; None for a session that is nobody's."""
    created_at: float
    updated_at: float
    """When it was last saved, or its expiry moved, and the browser was told."""
    expires_at: float | None
    """None for what another hand stored without expiry."""
    now: float
    """When it was read."""


class SessionStatistics(NamedTuple):
    """What a namespace holds."""

    rows: int
    """Expired ones among them, until they are pruned."""
    expired: int
    principals: int
    bytes: int
    """Of data."""
    oldest: float | None
    """When the first one was created, in epoch seconds; None if there is none."""


async def namespace_statistics(store: BaseSQLSpecStore[Any]) -> dict[str, SessionStatistics]:
    """Return what the namespace of *store*, and each below it, holds, by its path in the table, in order.

    Raises what a store's verbs raise.
    """
    scope = store._scope  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]
    read = PageVerb(scope, scope.sql.statistics, {"end": namespace_end(scope.path)}, write=False, shared=False)
    answer = await store._submit(read, (), ordered=False)  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]
    return {
        path: SessionStatistics(int(rows), int(expired), int(principals), int(size), oldest)
        for path, rows, expired, principals, size, oldest in answer.values()
    }


class SessionRows:
    """The sessions in a store's namespace, by stored key.

    With *via*, a statement runs over the connection of that unit of work, as part of its transaction. Every method
    raises what a store's verbs raise.
    """

    def __init__(self, store: BaseSQLSpecStore[Any], max_age: float, longest: float | None) -> None:
        """Work in *store*: sessions live for *max_age* seconds after their last use, and *longest* at most, if any."""
        self.store = store
        self._max_age = max_age
        self._longest = MAX_LIFETIME if longest is None else longest
        scope, sql = store._scope, store._sql  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]
        self._scope = scope
        self._sql = sql
        self._submit = store._submit  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]
        self._row = store._stored_row  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]
        self._load = StatementVerb(scope, sql.load_sessions, write=False)
        self._delete = StatementVerb(scope, sql.pop, shared=False)
        lives = {"longest": self._longest}
        self._touch = StatementVerb(scope, sql.touch_sessions, lives, lifetime=max_age)
        self._replace = sql.save_sessions and StatementVerb(
            *(scope, sql.save_sessions, lives), lifetime=max_age, last_counts=False, repeat=Repeat.RECOGNISED
        )

    async def load(self, *keys: str, via: UnitOfWork | None = None) -> dict[str, StoredSession]:
        """Return those that live, by key.

        With *via* over its connection only where it is the database's one writer: elsewhere its snapshot may be an old
        one. Then it does not wait for writes that were called before: they may wait for a lock that *via* holds, if
        that has found another version than it expected.
        """
        rows = [Row(key) for key in sorted(keys)]
        if via is not None and via.writing:
            answer = await self._run(self._load, rows, via)
        else:
            answer = await self._submit(self._load, rows, ordered=via is None)
        return {row.key: row for row in self._living(answer[key] for key in keys if key in answer)}

    async def add(self, key: str, data: bytes, principal: str | None, via: UnitOfWork | None = None) -> int:
        """Store a new session, and return its version; 0 if there is one with this key."""
        row = self._row(key, data, min(self._max_age, self._longest))
        verb = self._guarded(self._sql.add, principal=principal)
        return row.version or 0 if await self._run(verb, (row,), via) else 0

    async def save(  # noqa: PLR0913 - a row's columns
        self,
        key: str,
        data: bytes,
        expected: int,
        *,
        principal: str | None,
        new_key: str | None = None,
        same: bool = False,
        told: bool = True,
        via: UnitOfWork | None = None,
    ) -> int:
        """Replace what has the version *expected*, and return the new one; 0 if nothing has it.

        It moves to *new_key*, if that is given, and keeps the time of its creation. With *same*, neither key nor
        principal is another than that version has, and the statement may be shared. Without *told*, the browser does
        not hear of the new expiry, and so `StoredSession.updated_at` stays.
        """
        row = self._row(key, data, self._max_age)
        if same and told and via is None and self._replace:
            answer = await self._submit(self._replace, (row._replace(expected=expected),))
            return row.version or 0 if key in answer else 0
        verb = self._guarded(
            self._sql.save_session,
            principal=principal,
            new_key=new_key or key,
            expected=expected,
            longest=self._longest,
            told=int(told),
        )
        return row.version or 0 if await self._run(verb, (row,), via) else 0

    async def touch(self, key: str, via: UnitOfWork | None = None) -> bool:
        """Move the expiry of a session that lives; return whether it does."""
        return key in await self._run(self._touch, (Row(key, lifetime=self._max_age),), via)

    async def delete(self, key: str, via: UnitOfWork | None = None) -> bool:
        """Delete a session; return whether it lived, False also if the connection was lost and it took two attempts."""
        return bool(await self._run(self._delete, (Row(key),), via))

    async def of_principal(self, principal: str) -> list[StoredSession]:
        """Return those of *principal* that live, in no order."""
        return self._living(await self._read(self._sql.principal_sessions, {"principal": principal}))

    async def delete_principal(self, principal: str, kept: str = NO_KEY, via: UnitOfWork | None = None) -> int:
        """Delete those of *principal* but the one whose key is *kept*; return how many lived."""
        # One statement that looks for the principal, because a key may change while one looks for keys.
        values = {"principal": principal, "kept": kept}
        verb = PageVerb(self._scope, self._sql.delete_principal, values, shared=False)
        return len(await self._run(verb, (), via))

    async def all(self) -> AsyncGenerator[StoredSession, None]:
        """Give all that live, in the order of their keys."""
        after: Sequence[str] = (self._scope.path, "")
        while True:
            page = await self._read(self._sql.walk, self._scope.page(after, BATCH_ROWS))
            keys = [row[1] for row in page if row[0] == self._scope.path]  # those of children come after
            if keys:
                for session in (await self.load(*keys)).values():
                    yield session
            if len(keys) < BATCH_ROWS:
                return
            after = page[-1][:2]

    async def statistics(self) -> SessionStatistics:
        """Return what the namespace holds."""
        return (await namespace_statistics(self.store)).get(self._scope.path, SessionStatistics(0, 0, 0, 0, None))

    def _living(self, rows: Iterable[Sequence[Any]]) -> list[StoredSession]:
        """Return the sessions that live; an expiry of before the *longest* of today does not know it."""
        sessions = (StoredSession(*row) for row in rows)
        return [session for session in sessions if session.now < session.created_at + self._longest]

    def _guarded(self, statement: Statement, **values: object) -> StatementVerb:
        return StatementVerb(self._scope, statement, values, shared=False, repeat=Repeat.RECOGNISED)

    async def _read(self, statement: Statement, values: Mapping[str, object]) -> list[Sequence[Any]]:
        read = PageVerb(self._scope, statement, values, write=False, shared=False)
        return [*(await self._submit(read, (), ordered=False)).values()]

    async def _run(self, verb: StatementVerb, rows: Sequence[Row], via: UnitOfWork | None) -> Answer:
        if via is None:
            return await self._submit(verb, rows, ordered=bool(rows))  # without keys there is no order to keep
        return verb.answer(await via.run(verb.step(rows), self._scope.table))
