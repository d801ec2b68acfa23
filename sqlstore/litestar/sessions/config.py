"""The settings of an application's sessions."""

from __future__ import annotations

from dataclasses import dataclass, field
from http.cookies import CookieError, SimpleCookie
from typing import TYPE_CHECKING, Any, Literal, NoReturn

from litestar.exceptions import ImproperlyConfiguredException
from litestar.middleware import DefineMiddleware
from litestar.middleware.session.base import ONE_DAY_IN_SECONDS
from litestar.middleware.session.server_side import ServerSideSessionConfig
from typing_extensions import override

from ...names import digest_key, lifetime_seconds, stored_key
from ...session_rows import SessionRows
from ...store import BaseSQLSpecStore
from .backend import SQLSessionBackend
from .middleware import SQLSessionMiddleware
from .registry import Sessions

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from datetime import timedelta

    from litestar import Litestar
    from litestar.stores.base import Store

    from ...session_rows import StoredSession
    from ...unit_of_work import UnitOfWork
    from .merge import Conflict
    from .request_session import Principal

__all__ = ("CHOICES", "SQLSessionConfig")

_LEAST_ID_BYTES = 32
_LONGEST_KEY = 256  # Litestar's own bound
_MOMENT = 0.001
"""Seconds: instants that were computed in different ways differ by less."""
CHOICES: Mapping[str, tuple[Any, ...]] = {
    "hash_ids": (True, False, "migrate"),
    "on_conflict": ("merge", "last_wins", "raise"),
    "on_store_error": ("raise", "anonymous"),
    "too_many_sessions": ("revoke_oldest", "refuse"),
}


@dataclass
class SQLSessionConfig(ServerSideSessionConfig):
    """Litestar's ``ServerSideSessionConfig``, for sessions that nothing overwrites, resurrects or hands to another.

    Raises:
        ImproperlyConfiguredException: a value is out of range.
    """

    _backend_class = SQLSessionBackend

    max_age: float | timedelta = field(default=ONE_DAY_IN_SECONDS * 14)  # type: ignore[assignment]
    """Seconds after the last use when a session expires, fractions included; also of the cookie."""
    renew_on_access: bool = True
    """Reading a session moves its expiry; if not, only saving does."""
    touch_after: float = 0.1
    """The share of ``max_age`` that must have passed before reading moves the expiry; 0: each time."""
    absolute_timeout: float | timedelta | None = None
    """Seconds after its creation when a session expires, however much it is used; None: no bound."""
    on_conflict: Conflict = "merge"
    """When two requests change the same key: ``"last_wins"`` keeps the value that is saved later, ``"merge"`` does so,
    too, but merges objects key by key, and ``"raise"`` answers the later one with 409."""
    hash_ids: bool | Literal["migrate"] = True
    """The store holds only the SHA-256 of an id. With False it holds the id, as Litestar's own sessions do, and finds
    both; ``"migrate"`` finds both, and moves what it finds under an id to its hash."""
    principal: Callable[[dict[str, Any]], Principal | None] | None = None
    """Whose a session is, by its data: in place of `set_principal`."""
    max_sessions_per_principal: int | None = None
    """None: no bound."""
    too_many_sessions: Literal["revoke_oldest", "refuse"] = "revoke_oldest"
    """What happens at a login beyond that bound: the oldest session ends, or the new one is refused with 403."""
    record_client: bool = False
    """Keep the user agent and the address of each login in the session, under the key ``_client``."""
    same_transaction: bool = False
    """Save in the request's own transaction, if it has one in the sessions' database, as its last statement."""
    on_store_error: Literal["raise", "anonymous"] = "raise"
    """What becomes of a request whose session cannot be read: an error, or one without session."""

    @override
    def __post_init__(self) -> None:
        self.idle = self._seconds("max_age", self.max_age)
        longest = self.absolute_timeout
        self.longest = None if longest is None else self._seconds("absolute_timeout", longest)
        for name, choices in CHOICES.items():
            if repr(getattr(self, name)) not in map(repr, choices):  # 1 is not True here
                self._refuse(name, f"one of {', '.join(map(repr, choices))}")
        if not isinstance(self.key, str) or len(self.key) > _LONGEST_KEY or not _can_be_a_cookie(self.key):
            self._refuse("key", f"1 to {_LONGEST_KEY} characters that the name of a cookie may have")
        if type(self.session_id_bytes) is not int or self.session_id_bytes < _LEAST_ID_BYTES:
            self._refuse("session_id_bytes", f"at least {_LEAST_ID_BYTES}")
        if not isinstance(self.touch_after, (int, float)) or not 0 <= self.touch_after < 1:
            self._refuse("touch_after", "a share of max_age: at least 0 and less than 1")
        most = self.max_sessions_per_principal
        if most is not None and (type(most) is not int or most < 1):
            self._refuse("max_sessions_per_principal", "at least 1, or None")
        self._rows: SessionRows | None = None

    def _seconds(self, name: str, lifetime: float | timedelta) -> float:
        try:
            seconds = lifetime_seconds(lifetime)
        except (TypeError, ValueError) as error:
            msg = f"{name}: {error}"
            raise ImproperlyConfiguredException(msg) from error
        if seconds is None or seconds < 0:
            self._refuse(name, "more than 0 seconds")
        return seconds

    def _refuse(self, name: str, what: str) -> NoReturn:
        msg = f"{name} must be {what}, not {getattr(self, name)!r}"
        raise ImproperlyConfiguredException(msg)

    @property
    @override
    def middleware(self) -> DefineMiddleware:
        """What an application's ``middleware`` takes."""
        return DefineMiddleware(SQLSessionMiddleware, backend=self._backend_class(config=self))

    @override
    def get_store_from_app(self, app: Litestar) -> BaseSQLSpecStore[Any]:
        """Return the store.

        Raises:
            ImproperlyConfiguredException: it is not one of ours.
        """
        return self.checked(app.stores.get(self.store))

    def checked(self, store: Store) -> BaseSQLSpecStore[Any]:
        """Return *store*.

        Raises:
            ImproperlyConfiguredException: it is not one of ours.
        """
        ours: Any = store
        if isinstance(ours, BaseSQLSpecStore):
            return ours  # pyright: ignore[reportUnknownVariableType]
        msg = (
            f"the sessions' store {self.store!r} is a {type(store).__name__}: give the application "
            f"plugins=[SQLStorePlugin(config)], or stores={{{self.store!r}: AsyncpgStore(config)}}, or another of ours"
        )
        raise ImproperlyConfiguredException(msg)

    def sessions_of(self, app: Litestar) -> Sessions:
        """Return what lists and revokes the application's sessions.

        Raises:
            ImproperlyConfiguredException: the sessions' store is not one of ours.
        """
        return Sessions(self.get_store_from_app(app), self)

    def rows_in(self, store: Store) -> SessionRows:
        """Return the sessions in *store*, with these lifetimes.

        Raises:
            ImproperlyConfiguredException: it is not one of ours.
        """
        rows = self._rows
        if rows is None or rows.store is not store:  # nearly always the same one
            rows = self._rows = SessionRows(self.checked(store), self.idle, self.longest)
        return rows

    def keys_of(self, session_id: str) -> list[str]:
        """Return the stored keys under which a session may be, the one for a new session first."""
        digest = digest_key(session_id)
        if self.hash_ids is True:
            return [digest]
        plain = stored_key(session_id)
        if plain == digest:  # no plain key: a client may send anything
            return [digest]
        return [digest, plain] if self.hash_ids else [plain, digest]

    def keys_to_end(self, session_id: str) -> list[str]:
        """Return the same keys in the order in which to delete them: a session moves to its hash, never back."""
        return sorted(self.keys_of(session_id), key=digest_key(session_id).__eq__)

    async def find(self, session_id: str, rows: SessionRows, via: UnitOfWork | None = None) -> StoredSession | None:
        """Return the session with that id, if it lives; see `SessionRows.load`. Raises what a store's verbs raise."""
        keys = self.keys_of(session_id)
        found = await rows.load(*keys, via=via)
        return next((found[key] for key in keys if key in found), None)

    def remaining(self, stored: StoredSession, elapsed: float = 0.0) -> float:
        """Return for how many seconds a session lives if its expiry is moved *elapsed* seconds after it was read."""
        if self.longest is None:
            return self.idle
        return min(self.idle, self.longest - (stored.now - stored.created_at) - elapsed)

    def is_due(self, stored: StoredSession) -> bool:
        """Return whether it is time to move the expiry; it is, where it must come closer: settings may change."""
        if stored.expires_at is None:
            return True
        moves = self.remaining(stored) - (stored.expires_at - stored.now)
        if moves < _MOMENT:
            return moves <= -_MOMENT
        return max(moves, stored.now - stored.updated_at) >= self.touch_after * self.idle


def _can_be_a_cookie(name: str) -> bool:
    try:
        SimpleCookie()[name] = ""
    except CookieError:
        return False
    return True
