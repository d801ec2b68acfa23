"""Requests that have one session at once leave what a model says: Hypothesis looks for a program that does not.

The first test goes from step to step, so that a model knows exactly what must be in each session, and which ids are
alive. In the second one the steps run at once, and what must hold in every order is looked at when all have ended.
"""

from __future__ import annotations

import asyncio
from copy import deepcopy
from http.cookies import SimpleCookie
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from litestar import Litestar
from litestar.testing.client.base import fake_asgi_connection
from litestar.types import Empty

from sqlstore import BaseSQLSpecStore
from sqlstore.litestar import SessionConflictError, Sessions, SQLSessionBackend, SQLSessionConfig

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from sqlstore.litestar.sessions.merge import Conflict
    from sqlstore.litestar.sessions.request_session import RequestSession

    from ..contract.conftest import SQL

AnyStore = BaseSQLSpecStore[Any]
Session = dict[str, Any]
MISSING: Any = object()
NOT_GIVEN: Any = object()
SLOTS = 4
"""Requests that may be under way at once; every other one is of the same browser."""
BROWSERS = 2

_slot = st.integers(0, SLOTS - 1)
_key = st.sampled_from(["a", "b", "é"])
VALUES: tuple[Any, ...] = (0, 1, True, 1.0, "", None, {"x": 1}, {"x": 2, "y": {}}, {"y": {"z": 1}}, {"y": {"w": 2}})
_value = st.sampled_from(VALUES)
_principal = st.sampled_from(["ada", "bob", None])
_step = st.one_of(
    st.tuples(st.just("change"), _slot, _key, _value),
    st.tuples(st.just("change"), _slot, _key, _value),
    st.tuples(st.just("drop"), _slot, _key),
    st.tuples(st.just("clear"), _slot),
    st.tuples(st.just("set_principal"), _slot, _principal),
    st.tuples(st.just("rotate"), _slot),
    st.tuples(st.just("save"), _slot),
    st.tuples(st.just("save"), _slot),
    st.tuples(st.just("respond"), _slot, st.sampled_from([200, 200, 200, 302, 404, 500])),
    st.tuples(st.just("respond"), _slot, st.just(200)),
    st.tuples(st.just("revoke"), _slot, st.sampled_from(["ada", "bob"])),
)
_program = st.lists(_step, min_size=15, max_size=40)


def _same(left: object, right: object) -> bool:
    """Return whether both are the same JSON: 1, 1.0 and True are not."""
    if left is MISSING or right is MISSING:
        return left is right
    return msgspec.json.encode(left, order="deterministic") == msgspec.json.encode(right, order="deterministic")


def _changed(base: Session, other: Session) -> set[str]:
    keys = base.keys() | other.keys()
    return {key for key in keys if not _same(base.get(key, MISSING), other.get(key, MISSING))}


def _is_object(value: object) -> bool:
    return isinstance(value, dict)


def _nothing() -> None:
    pass


class _ConflictError(Exception):
    """Two have changed the same."""


def _merged(base: Session, mine: Session, theirs: Session, on_conflict: str) -> Session:
    merged = deepcopy(theirs)
    both = _changed(base, mine) & _changed(base, theirs)
    if on_conflict == "raise" and any(key in mine or key in theirs for key in both):
        raise _ConflictError
    for key in _changed(base, mine):
        inner: list[Any] = [side.get(key) for side in (base, mine, theirs)]
        if key not in mine:
            merged.pop(key, None)
        elif key in both and on_conflict == "merge" and all(map(_is_object, inner[1:])):
            before: Session = inner[0] if _is_object(inner[0]) else {}
            merged[key] = _merged(before, inner[1], inner[2], on_conflict)
        else:
            merged[key] = deepcopy(mine[key])
    return merged


class _Row:
    """What is stored under an id."""

    def __init__(self, data: Session, principal: str | None) -> None:
        self.data = deepcopy(data)
        self.principal = principal
        self.version = object()


class _Application:
    """What all requests share, and what must be stored."""

    def __init__(self, store: AnyStore, config: SQLSessionConfig) -> None:
        self.config = config
        self.backend = SQLSessionBackend(config)
        self.store = store
        self.app = Litestar(stores={"sessions": store})
        self.sessions = Sessions(store, config)
        self.alive: dict[str, _Row] = {}
        self.known: set[str] = set()
        """All ids that there ever were."""
        self.cookies: list[str] = [""] * BROWSERS

    def born(self, session_id: str | None, row: _Row) -> str:
        """Note that *row* is under a new id from now on."""
        assert session_id
        assert len(session_id) == 64
        assert session_id not in self.known, "an id is never used again"
        self.known.add(session_id)
        self.alive[session_id] = row
        return session_id

    async def connect(self, session_id: str) -> tuple[Any, RequestSession]:
        """Return a connection with a cookie, and its session, loaded."""
        connection = fake_asgi_connection(self.app, {self.config.key: session_id} if session_id else {})
        session = self.backend.session_of(connection)
        scope: Any = connection.scope
        scope["session"] = await session.load()
        return scope, session

    async def check(self) -> None:
        """Compare all that is stored, and ask for every id that there ever was."""
        rows = {row.key: row async for row in self.config.rows_in(self.store).all()}
        expected = {self.config.keys_of(session_id)[0]: row for session_id, row in self.alive.items()}
        assert rows.keys() == expected.keys()
        for key, row in expected.items():
            assert _same(msgspec.json.decode(rows[key].data), row.data)
            assert rows[key].principal == row.principal
        for session_id in self.known:
            scope, session = await self.connect(session_id)
            alive = self.alive.get(session_id)
            assert session.id == (session_id if alive else None)
            assert _same(scope["session"], alive.data if alive else {})


class _Request:
    """A request beside what its handler must see of its session."""

    def __init__(self, application: _Application, browser: int) -> None:
        self._application = application
        self._browser = browser
        self._scope: Any = None
        self._session: Any = None
        self._id: str | None = None
        self._row: _Row | None = None
        """What it has loaded, wherever that is now; None for what it has begun itself."""
        self._version: object = None
        self._base: Session = {}
        self._mine: Session | None = {}
        """None where the handler has cleared it."""
        self._principal: str | None = None
        self._given: Any = NOT_GIVEN
        self._rotate = self._lost = False
        self._cookie: bool | None = None
        """Whether the browser is to be told the id, or that there is none."""

    async def begin(self) -> None:
        """Load."""
        cookie = self._application.cookies[self._browser]
        row = self._application.alive.get(cookie)
        if row:
            self._id, self._row = cookie, row
            self._version, self._principal = row.version, row.principal
            self._base, self._mine = deepcopy(row.data), deepcopy(row.data)
        self._scope, self._session = await self._application.connect(cookie)
        self._check()

    def _check(self) -> None:
        session = self._scope["session"]
        assert (session is Empty) is (self._mine is None)
        assert self._mine is None or _same(session, self._mine)
        assert self._session.id == self._id

    def change(self, key: str, value: object) -> None:
        """Write a key."""
        if self._mine is None:
            self._mine = self._scope["session"] = {}
        self._mine[key] = deepcopy(value)
        self._scope["session"][key] = deepcopy(value)

    def drop(self, key: str) -> None:
        """Delete a key."""
        if self._mine is not None:
            self._mine.pop(key, None)
            self._scope["session"].pop(key, None)

    def clear(self) -> None:
        """End the session, as `Request.clear_session` does."""
        self._mine, self._scope["session"] = None, Empty

    def set_principal(self, principal: str | None) -> None:
        """Log in, or out."""
        self._given = principal
        self._session.set_principal(principal)

    def rotate(self) -> None:
        """Ask for a new id."""
        self._rotate = True
        self._session.rotate()

    async def save(self) -> None:
        """Save, as the handler does."""
        try:
            settle = self._saved()
        except _ConflictError:
            with pytest.raises(SessionConflictError):
                await self._session.save_now()
        else:
            await self._session.save_now()
            settle()
        self._check()

    async def respond(self, status: int) -> None:
        """End the request, and tell the browser."""
        message: Any = {"type": "http.response.start", "status": status, "headers": []}
        try:
            settle = self._saved() if status < 500 else _nothing
        except _ConflictError:
            with pytest.raises(SessionConflictError):
                await self._session.settle(message)
            return
        await self._session.settle(message)
        settle()
        self._check()
        cookies = [value.decode() for name, value in message["headers"] if name.lower() == b"set-cookie"]
        assert len(cookies) == (self._cookie is not None)
        for text in cookies:
            cookie = SimpleCookie(text)["session"]
            assert cookie.value == (self._id if self._cookie else "null")
            assert (cookie["max-age"] == "0") is not self._cookie
            self._application.cookies[self._browser] = "" if cookie.value == "null" else cookie.value

    def _saved(self) -> Callable[[], None]:
        """Make the model what a save must make of it; return what notes the new id, once it is known."""
        if self._mine is None:
            if self._id is not None:
                self._cookie = False if self._ended() else None
            self._id, self._base, self._principal, self._lost = None, {}, None, False
            return _nothing
        principal = self._principal if self._given is NOT_GIVEN else self._given
        login = principal != self._principal and not (self._lost and principal is None)
        if self._id is None:
            begins = login or (self._mine and not self._lost)
            return self._begun(self._own() if self._lost else self._mine, principal) if begins else _nothing
        changed = _changed(self._base, self._mine)
        if not (login or self._rotate or changed):
            return _nothing
        if self._id not in self._application.alive:
            self._id, self._lost, self._cookie = None, True, None
            return self._begun(self._own(), principal) if login and principal is not None else _nothing
        return self._replaced(principal, login=login)

    def _own(self) -> Session:
        mine = self._mine or {}
        return {key: mine[key] for key in _changed(self._base, mine) if key in mine}

    def _replaced(self, principal: str | None, *, login: bool) -> Callable[[], None]:
        assert self._id is not None
        assert self._mine is not None
        row = self._application.alive[self._id]
        if row.version is not self._version:
            self._mine = _merged(self._base, self._mine, row.data, self._application.config.on_conflict)
            self._row = row
        row.data, row.version, self._cookie = deepcopy(self._mine), object(), True
        row.principal = self._principal = principal if login else row.principal
        self._base, self._version = deepcopy(self._mine), row.version
        if not (login or self._rotate):
            return _nothing
        self._rotate = False
        del self._application.alive[self._id]
        return lambda: self._named(row)

    def _ended(self) -> bool:
        """End the session, also one that others have given a new id; return whether it lived."""
        alive, session_id = self._application.alive, self._id
        if session_id not in alive and self._principal is not None:
            here = (other for other, row in alive.items() if row is self._row and row.principal == self._principal)
            session_id = next(here, None)
        return bool(session_id and alive.pop(session_id, None))

    def _begun(self, data: Session, principal: str | None) -> Callable[[], None]:
        row = _Row(data, principal)
        self._mine, self._base, self._principal = deepcopy(data), deepcopy(data), principal
        self._row, self._version, self._cookie, self._rotate, self._lost = None, row.version, True, False, False
        return lambda: self._named(row)

    def _named(self, row: _Row) -> None:
        self._id = self._application.born(self._session.id, row)


_settings = settings(
    # The same programs in every run: a test that fails today has not passed by chance yesterday.
    derandomize=True,
    database=None,
    deadline=None,
    max_examples=40,
    phases=[Phase.generate, Phase.shrink],
    report_multiple_bugs=False,
    # The store is emptied for each example.
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


@pytest.mark.adapters("asyncpg", "sqlite")
@pytest.mark.parametrize("on_conflict", ["merge", "last_wins", "raise"])
@_settings
@given(program=_program)
async def test_requests_in_any_order_leave_what_the_model_says(
    store: AnyStore, sql: SQL, on_conflict: Conflict, program: list[tuple[Any, ...]]
) -> None:
    """In every session, in what each handler sees of it, and in the browsers' cookies; what is dead stays dead."""
    await sql(f"DELETE FROM {store.table_name}")  # noqa: S608
    application = _Application(store, SQLSessionConfig(on_conflict=on_conflict))
    for browser in range(BROWSERS):
        first = _Request(application, browser)
        await first.begin()
        first.change("a", {"x": 0})
        await first.respond(200)
    under_way = {slot: _Request(application, slot % BROWSERS) for slot in range(SLOTS)}
    for request in under_way.values():
        await request.begin()
    for verb, slot, *arguments in program:
        if verb == "revoke":
            [principal] = arguments
            theirs = [session_id for session_id, row in application.alive.items() if row.principal == principal]
            assert await application.sessions.revoke_all(principal) == len(theirs)
            for session_id in theirs:
                del application.alive[session_id]
            continue
        if slot not in under_way:
            under_way[slot] = _Request(application, slot % BROWSERS)
            await under_way[slot].begin()
        outcome = getattr(under_way[slot], verb)(*arguments)
        if outcome is not None:
            await outcome
        if verb == "respond":
            del under_way[slot]
    for request in under_way.values():
        await request.respond(200)

    await application.check()


_action = st.sampled_from(["write", "write", "share", "save", "pause", "pause", "rotate", "login"])
_turns = st.sampled_from([0, 0, 1, 2, 3, 5, 10, 30, 100])
_visit = st.tuples(
    _turns,
    st.lists(st.tuples(_action, _turns), min_size=1, max_size=6),
    st.sampled_from(["write", "write", "clear", "fail"]),
)
TAG = "tag"
ACTIONS: dict[str, Callable[[RequestSession], None]] = {
    "pause": lambda _: None,
    "rotate": lambda session: session.rotate(),
    "login": lambda session: session.set_principal("ada"),
}


class _Visits:
    """Requests that begin with one session, and what they were told of it."""

    def __init__(self, application: _Application) -> None:
        self._application = application
        self._first = ""
        self.kept: dict[str, int] = {}
        """What was saved in the session of the beginning, under keys of the request's own."""
        self.others: list[tuple[str, Session]] = []
        """The sessions that requests have begun, as each was when its request ended."""
        self.ended = False
        """Somebody was told that the session of the beginning is no more."""

    async def begin(self) -> None:
        """Begin the session."""
        scope, session = await self._application.connect("")
        scope["session"] = {TAG: True}
        await session.save_now()
        assert session.id
        self._first = session.id

    async def visit(self, number: int, turns: int, actions: list[tuple[str, int]], last: str) -> None:
        """Make one request, in which *number* is its own."""
        await _pass(turns)
        scope, session = await self._application.connect(self._first)
        own: dict[str, int] = {}
        for place, (action, after) in enumerate(actions):
            if action == "write":
                own[f"{number}.{place}"] = scope["session"][f"{number}.{place}"] = place
            elif action == "share":
                scope["session"].setdefault("shared", {})[f"{number}"] = place
            elif action == "save":
                await session.save_now()
                self._note(scope, session, own)
            else:
                ACTIONS[action](session)
            await _pass(after)
        if last == "clear":
            scope["session"] = Empty
        known = session.id, session.stored
        message: Any = {"type": "http.response.start", "status": 500 if last == "fail" else 200, "headers": []}
        await session.settle(message)
        if last == "write":
            self._note(scope, session, own)
            if session.id and TAG not in scope["session"]:
                self.others.append((session.id, deepcopy(scope["session"])))
        elif last == "clear" and known[1] and msgspec.json.decode(known[1].data).get(TAG):
            self.ended |= any(b"session=null" in value for _, value in message["headers"])

    def _note(self, scope: Any, session: RequestSession, own: Mapping[str, int]) -> None:  # noqa: ANN401
        if session.id and TAG in scope["session"]:
            self.kept |= own

    async def check(self) -> None:
        """Look for what was lost, and for what has come back."""
        rows = {
            row.key: msgspec.json.decode(row.data)
            async for row in self._application.config.rows_in(self._application.store).all()
        }
        found = [data for data in rows.values() if TAG in data]
        assert len(found) == (not self.ended)
        for data in found:
            assert data.items() >= self.kept.items()
        for session_id, data in self.others:
            assert rows[self._application.config.keys_of(session_id)[0]] == data


async def _pass(turns: int) -> None:
    for _ in range(turns):
        await asyncio.sleep(0)


@pytest.mark.adapters("asyncpg", "sqlite")
@settings(_settings, max_examples=100)
@given(visits=st.lists(_visit, min_size=2, max_size=8))
async def test_requests_at_once_lose_nothing_that_was_saved(
    store: AnyStore, sql: SQL, visits: list[tuple[int, list[tuple[str, int]], str]]
) -> None:
    """Under a key that nobody else changes, as long as the session is there; once it has ended, nothing is left."""
    await sql(f"DELETE FROM {store.table_name}")  # noqa: S608
    requests = _Visits(_Application(store, SQLSessionConfig()))
    await requests.begin()
    await asyncio.gather(*(requests.visit(number, *visit) for number, visit in enumerate(visits)))

    await requests.check()
