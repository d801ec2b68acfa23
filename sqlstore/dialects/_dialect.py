"""What a database has to be able to say, and how values reach its placeholders."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from ._examination import Examination

__all__ = ("Dialect", "Row", "Script", "Statement", "Step")


class Row(NamedTuple):
    """One key's share of a statement. None where the statement does not use the field."""

    key: str
    data: bytes | None = None
    lifetime: float | None = None
    """Seconds from the database's now; None means the value never expires."""
    expires_at: float | None = None
    """Epoch seconds, for a database whose clock is the process's own."""
    version: int | None = None
    expected: int | None = None
    """The version that is there, where it has to be the one that was read."""


class Step(NamedTuple):
    """A text with its values, ready for a driver."""

    text: str
    parameters: Sequence[Any] = ()
    many: bool = False
    """*parameters* holds one sequence a row, and the text runs once for each."""
    then: Step | None = None
    """Runs next, in the same transaction; the rows are those of the last step that is a query.

    With *many* and no parameters, it takes the rows that were answered before.
    """


@dataclass(frozen=True, slots=True)
class Statement:
    """A text and the names of its values, in the order of its placeholders.

    A name is looked up in the call's values, else it is a `Row` field. ``key[]`` is that field of all rows as one
    array; ``key*`` is one placeholder a row, standing where the text says ``{key*}``, and so is ``version*``.
    """

    text: str
    parameters: tuple[str, ...]
    many: bool = False
    """Runs once a row: the driver's ``executemany``. Without *parameters* the rows are those answered before it."""
    placeholder: str = "?"
    row: str = ""
    """What stands for a row, once each, where the text says ``{rows}``; the *parameters* are then those of a row."""
    then: Statement | None = None
    """Runs next, in the same transaction, where the database has no RETURNING."""

    def bind(self, values: Mapping[str, object], rows: Sequence[Row]) -> Step:
        """Return the step that runs this statement for *rows*."""
        then = None if self.then is None else self.then.bind(values, rows)
        if self.many:
            parameters = [self._parameters(values, (row,)) for row in rows] if self.parameters else ()
            return Step(self.text, parameters, many=True, then=then)
        text = self.text
        if self.row:
            text = text.replace("{rows}", ", ".join([self.row] * len(rows)))
            return Step(text, [value for row in rows for value in self._parameters(values, (row,))], then=then)
        if "{key*}" in text:
            text = _with_list(text, self.placeholder, 1 << (len(rows) - 1).bit_length())
        return Step(text, self._parameters(values, rows), then=then)

    def for_table(self, table: str) -> Statement:
        """Return this statement with *table*, a validated name."""
        then = None if self.then is None else self.then.for_table(table)
        return replace(self, text=self.text.replace("{table}", table), then=then)

    def _parameters(self, values: Mapping[str, object], rows: Sequence[Row]) -> list[object]:
        parameters: list[object] = []
        for name, field, shape in _fields(self.parameters):
            if name in values:
                parameters.append(values[name])
            elif shape == "[]":
                parameters.append([row[field] for row in rows])
            elif shape == "*":
                # Padded to a power of two with the last row, so that a server sees few different texts.
                listed = [row[field] for row in rows]
                listed += listed[-1:] * ((1 << (len(listed) - 1).bit_length()) - len(listed))
                parameters += listed
            else:
                parameters.append(rows[0][field])
        return parameters


def _always(_: str) -> bool:
    return True


@dataclass(frozen=True, slots=True, kw_only=True)
class Script:
    """How the database's own client tells the statements of a file apart: regular expressions, empty for nothing."""

    comment: str
    quoted: str
    """What a ``;`` ends no statement in: strings, quoted names. One that is never closed goes on to the end."""
    block: str = ""
    """What begins a statement that has ``;`` inside, and that only a line ``/`` ends, as it ends any other."""
    directive: str = ""
    """A line that says what ends a statement from here on, in its second word."""
    is_complete: Callable[[str], bool] = _always
    """Whether what ends with a ``;`` is a whole statement."""
    not_in_transaction: str = ""
    """What begins a statement that would end the transaction of its file, or does nothing in it."""
    stop: str = ""
    """The line that makes the client stop at the first error, where it does not do that by itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Dialect:
    """The SQL of one database. ``{table}`` stands for the table, see `for_table`.

    Every verb's answer has the session_id in its first column. *Live* is a row that has not expired.
    """

    name: str
    """Also the folder of its migrations."""
    system: str
    """What OpenTelemetry calls the database."""
    schemas: bool
    """A table name may have one schema in front."""
    process_clock: bool
    """The database has no clock of its own: ``now`` and ``expires_at`` come from the process."""

    largest_value: int
    """Bytes."""

    select: Statement
    """Live rows: session_id, data, version, seconds left or NULL."""
    select_expiry: Statement
    """Live rows: session_id, seconds left or NULL."""
    renew: Statement
    """Move the expiry of live rows that have one, never closer: session_id, data, version."""
    touch: Statement
    """The same for rows that still have the version that was read, and without an answer."""
    upsert: Statement
    """Store rows; an expired row starts a new life."""
    delete: Statement
    add: Statement
    """Store a row, with its *principal*, unless a live one is there, or is this call's own: session_id if stored."""
    pop: Statement
    """Delete a live row: session_id, data."""
    increment: Statement
    """Add to a live counter or start one: session_id, data; no row if it is not a number or would overflow."""
    compare_and_set: Statement
    """Replace data where the version is *expected*, or this call's own: returns session_id if replaced."""
    walk: Statement
    """One page in key order: namespace, session_id, whether it has expired."""
    walk_expired: Statement
    """The same where only expired rows are wanted; may return live rows, for they are marked."""
    delete_expired: Statement
    """Delete those of the rows that have expired: session_id."""

    load_sessions: Statement
    """Live rows: session_id, data, version, principal; epoch seconds of created_at, updated_at, expires_at, now."""
    principal_sessions: Statement
    """The same for the live rows of a *principal*."""
    save_session: Statement
    """Replace a live row where the version is *expected*, or this call's own: session_id if replaced.

    It moves to *new_key*, which may be the same, and expires *lifetime* seconds from now, or *longest* from its
    creation if that is sooner.
    """
    save_sessions: Statement | None = None
    """The same for rows that keep their keys and principals, where one statement can do it for several."""
    touch_sessions: Statement
    """Move the expiry of live rows in the same way, and updated_at: session_id."""
    delete_principal: Statement
    """Delete the live rows of a *principal*, but not *kept*: session_id."""
    statistics: Statement
    """By namespace: that, its rows, those that have expired, its principals, bytes of data, first created_at."""

    tables: str
    """The tables of the current schema, in order: name, and the statement that reads all of it."""
    columns: Statement
    """Of *table*, its columns: name, type, whether NULL is refused, whether there is a default. None: no such table."""
    indexes: Statement
    """And its indexes: name (NULL for the primary key's), whether unique, definition."""

    script: Script
    transactional_ddl: bool
    """A migration is one transaction; otherwise each of its statements commits by itself."""
    migration_settings: tuple[str, ...] = ()
    """For the connection, outside of a transaction: a migration waits for locks for longer than a store."""
    lock_begin: tuple[str, ...] = ()
    """Open the transaction that holds the lock, which only one process at a time has."""
    lock: Statement | None = None
    """Answers something true if the lock is free and taken, and does not wait for it; None if *lock_begin* takes it."""
    lock_settings: tuple[str, ...] = ()
    """For the rest of the transaction that holds the lock."""
    migration_end: tuple[str, ...] = ("COMMIT",)
    """After a file without a transaction: ends one that it has left open, or fails."""
    lock_in_history: bool = False
    """It is a row of the history, so that there is none as long as there is no history."""
    lock_end: str
    """Gives it back; where DDL is transactional, and undoes all since *lock_begin*. ``COMMIT`` keeps it instead."""
    history: Statement
    """By version: that, name, checksum, epoch seconds of when it was applied, seconds that it took or NULL, and where
    it stopped or NULL. The *table* of this and the next ones is that of the history."""
    record: Statement
    """Add a version to the history."""
    mark: Statement
    """Change when and for how long a version was applied, and where it is."""
    forget: Statement
    recorded: Statement
    """Rows of it that are not the *lock*: one is enough."""

    one_writer: bool = False
    """A connection that has written keeps all others from writing until its transaction ends."""
    isolation_levels: frozenset[str]
    """Those that a transaction of the application's may have."""
    begin: Callable[[str | None, bool], Sequence[str]]
    """What begins one: with that isolation level (None is the database's default), and only for reads."""
    release_savepoint: str = "RELEASE SAVEPOINT"
    """Empty where there is no such statement."""

    grants: str
    """SQL that gives a *role* what it needs of *table*, in the *schema*, and nothing else."""
    examination: Examination
    """What the doctor asks."""

    def for_table(self, table: str) -> Dialect:
        """Return this dialect with *table*, a validated name, in every statement."""
        return _for_table(self, table)


@cache
def _for_table(dialect: Dialect, table: str) -> Dialect:
    changes: dict[str, Any] = {}
    for field in fields(dialect):
        statement = getattr(dialect, field.name)
        if isinstance(statement, Statement):
            changes[field.name] = statement.for_table(table)
    return replace(dialect, **changes)


@cache
def _fields(parameters: tuple[str, ...]) -> tuple[tuple[str, int, str], ...]:
    """Return each parameter's name, the place in a `Row` that it would be taken from, and its shape."""
    found: list[tuple[str, int, str]] = []
    for parameter in parameters:
        name = parameter.removesuffix("[]").removesuffix("*")
        place = Row._fields.index(name) if name in Row._fields else len(Row._fields)  # where nothing is
        found.append((name, place, parameter.removeprefix(name)))
    return tuple(found)


@cache
def _with_list(text: str, placeholder: str, size: int) -> str:
    listed = ", ".join([placeholder] * size)
    return text.replace("{key*}", listed).replace("{version*}", listed)
