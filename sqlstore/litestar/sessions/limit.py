"""How many sessions a principal may have."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from litestar.exceptions import HTTPException
from litestar.status_codes import HTTP_403_FORBIDDEN

if TYPE_CHECKING:
    from ...session_rows import SessionRows
    from ...unit_of_work import UnitOfWork
    from .config import SQLSessionConfig

__all__ = ("SessionLimit", "TooManySessionsError")

_MOMENT, _PATIENCE = 0.01, 5.0
"""Seconds until the second look, each further pause being twice as long, and how long a login looks, whether others at
the same time have been refused. A busy database took over a second to tell ten of them."""


class TooManySessionsError(HTTPException):
    """A principal has as many sessions as ``max_sessions_per_principal`` allows, and the new one is refused."""

    status_code = HTTP_403_FORBIDDEN


class SessionLimit:
    """The bound for the sessions of *principal*, at a login: it is looked at before it, and kept after it."""

    def __init__(self, config: SQLSessionConfig, rows: SessionRows, principal: str | None) -> None:
        """Look at nothing yet."""
        self._most = config.max_sessions_per_principal if principal is not None else None
        self._refuses = config.too_many_sessions == "refuse"
        self._rows = rows
        self._principal = principal or ""
        self._before: set[str] = set()

    async def look(self, key: str | None = None) -> None:
        """Note the sessions that are there before the login; the one with *key* is its own.

        Raises:
            TooManySessionsError: the login would be one too many, and is to be refused.
        """
        if self._most is None:
            return
        self._before = {other.key for other in await self._rows.of_principal(self._principal)} - {key}
        if len(self._before) >= self._most and self._refuses:
            raise self.error()

    async def keep(self, key: str, via: UnitOfWork | None) -> bool:
        """End the sessions beyond the bound, now that the one with *key* is stored; return whether that may stay.

        Each login looks after its own commit, so the last one to look sees all. What was there before it goes first.
        The others are logins at the same time, who may or may not see each other: that they take the same order, of
        rows that nobody has used yet, keeps them from ending each other until nobody is left.
        """
        if self._most is None:
            return True
        clock = asyncio.get_running_loop().time
        refusal = clock() + _PATIENCE
        pause = _MOMENT
        while True:
            sessions = await self._rows.of_principal(self._principal)
            earlier = sorted((other.created_at, other.key) for other in sessions if other.key in self._before)
            rivals = sorted((other.updated_at, other.key) for other in sessions if other.key not in self._before)
            keys = [each for _, each in (*earlier, *rivals)]
            place = keys.index(key) if key in keys else len(keys)  # in a transaction, only this request sees it
            excess = max(len(keys), place + 1) - self._most
            if excess <= 0:
                return True
            if not self._refuses:
                for each in keys[:excess]:
                    await self._rows.delete(each, via)
                return True
            if place >= self._most or clock() > refusal:
                return False
            await asyncio.sleep(pause)  # those that came later are about to find that they are too many
            pause *= 2

    def error(self) -> TooManySessionsError:
        """Return what a refused login raises."""
        return TooManySessionsError(
            f"this user has {self._most} sessions already, which is the most: end one of them first"
        )
