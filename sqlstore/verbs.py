"""What the store's verbs run in the lanes: each binds its statement as late as it can, and reads its answer."""

from __future__ import annotations

import time
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Unpack

from typing_extensions import override

from .dialects import Row
from .names import namespace_end
from .operations import BATCH_ROWS, Verb

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from datetime import datetime

    from .connection import StoreConnection
    from .dialects import Dialect, Statement, Step
    from .operations import Answer, Rows, VerbOptions

__all__ = ("DeleteAll", "PageVerb", "Renewal", "Scope", "StatementVerb", "by_namespace")

_NOTHING: Mapping[str, object] = MappingProxyType({})


@dataclass(frozen=True, slots=True, eq=False)
class Scope:
    """A namespace of a table, in the words of its database."""

    table: str
    path: str
    """The stored namespace."""
    sql: Dialect
    expires_at: Callable[[float | None], datetime | None]
    """The instant when a lifetime is over, by the process's clock."""

    def bind(self, statement: Statement, rows: Sequence[Row], values: Mapping[str, object] = _NOTHING) -> Step:
        """Bind *statement* at the last moment, because a database without a clock is told the time."""
        bound = {"namespace": self.path, **values}
        if self.sql.process_clock:
            bound["now"] = time.time()
            rows = [row if row.lifetime is None else row._replace(expires_at=self._epoch(row.lifetime)) for row in rows]
        return statement.bind(bound, rows)

    def page(self, after: Sequence[str], limit: int) -> dict[str, object]:
        """Return the values of a page of at most *limit* rows that begins *after* a namespace and a key."""
        namespace, key = after
        return {"after_namespace": namespace, "after_key": key, "end": namespace_end(self.path), "limit": limit}

    def _epoch(self, lifetime: float | None) -> float | None:
        expires_at = self.expires_at(lifetime)
        return None if expires_at is None else expires_at.timestamp()


class StatementVerb(Verb):
    """Run one statement for the rows."""

    __slots__ = ("_scope", "_statement", "_values")

    def __init__(
        self,
        scope: Scope,
        statement: Statement,
        values: Mapping[str, object] = _NOTHING,
        lifetime: float | None = None,
        **options: Unpack[VerbOptions],
    ) -> None:
        """Describe the operations; those with other *values* share nothing, nor those with another *lifetime*.

        That is given if it is one for the statement.
        """
        super().__init__(scope.table, scope.path, (id(statement), lifetime, *values.values()), **options)
        self._scope = scope
        self._statement = statement
        self._values = values

    @override
    def step(self, rows: Sequence[Row]) -> Step:
        return self._scope.bind(self._statement, rows, self._values)


class PageVerb(StatementVerb):
    """Read a page of rows, which the answer numbers."""

    __slots__ = ()

    @override
    def answer(self, rows: Rows) -> Answer:
        return {str(number): row for number, row in enumerate(rows)}


class Renewal(StatementVerb):
    """Renew the rows that have an expiry, and read the others."""

    __slots__ = ("lifetime",)
    completes = True

    def __init__(self, scope: Scope, lifetime: float) -> None:
        super().__init__(scope, scope.sql.renew, lifetime=lifetime)
        self.lifetime = lifetime

    @override
    async def complete(self, answer: Answer, rows: Sequence[Row], connection: StoreConnection) -> Answer:
        whole = dict(answer)
        while rows := [row for row in rows if row.key not in whole]:
            [found] = await connection.run([self._scope.bind(self._scope.sql.select, rows)], atomic=False)
            whole.update((row[0], row) for row in found if row[3] is None)
            # Values that expire were set between the two statements, and have not been renewed.
            unrenewed = {row[0] for row in found if row[3] is not None}
            rows = [row for row in rows if row.key in unrenewed]
            if rows:
                [renewed] = await connection.run([self.step(rows)])
                whole.update(self.answer(renewed))
        return whole


class DeleteAll(Verb):
    """Delete everything under the namespace, page by page: made anew for each call."""

    __slots__ = ("_after", "_scope")

    def __init__(self, scope: Scope) -> None:
        super().__init__(scope.table, scope.path, None, everything=True)
        self._scope = scope
        self._after: Sequence[str] = (scope.path, "")

    @override
    async def run_part(self, connection: StoreConnection) -> bool:
        values = self._scope.page(self._after, BATCH_ROWS)
        [page] = await connection.run([self._scope.bind(self._scope.sql.walk, (), values)], atomic=False)
        for namespace, rows in by_namespace(page):
            await connection.run([self._scope.bind(self._scope.sql.delete, rows, {"namespace": namespace})])
        if len(page) < BATCH_ROWS:
            return False
        self._after = page[-1][:2]
        return True


def by_namespace(page: Iterable[Sequence[Any]]) -> Iterator[tuple[str, list[Row]]]:
    """Group the rows of a page, which is in key order."""
    for namespace, group in groupby(page, itemgetter(0)):
        yield namespace, [Row(row[1]) for row in group]
