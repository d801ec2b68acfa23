"""The store contract, written once for every database."""

from __future__ import annotations

import asyncio
import math
import os
from abc import abstractmethod
from collections.abc import Mapping
from contextlib import suppress
from copy import copy
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, Self, TypeVar

from litestar.exceptions import ImproperlyConfiguredException
from litestar.stores.base import NamespacedStore

from . import migrator, telemetry
from .config import BaseConfig
from .dialects import Row
from .exceptions import ContentionError, CounterError, ValueTooLargeError
from .lanes import Lanes
from .names import (
    child_namespace,
    lifetime_seconds,
    stored_key,
    stored_namespace,
    validate_table_name,
)
from .operations import BATCH_BYTES, BATCH_ROWS, Operation, Repeat
from .unit_of_work import writing_unit
from .verbs import DeleteAll, PageVerb, Renewal, Scope, StatementVerb, by_namespace

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Iterable, Iterator, Sequence
    from types import TracebackType

    from .operations import Answer, Verb
    from .unit_of_work import UnitOfWork


__all__ = ("BaseSQLSpecStore", "Versioned")

ConfigT = TypeVar("ConfigT", bound=BaseConfig)


LARGEST_BATCH = 10_000
"""What `BaseSQLSpecStore.delete_expired` deletes at once, at most: SQLite takes 32,766 parameters a statement."""


class Versioned(NamedTuple):
    """A value, and the token that `BaseSQLSpecStore.compare_and_set` takes to replace just this one."""

    data: bytes
    version: int


class BaseSQLSpecStore(NamespacedStore, Generic[ConfigT]):
    """A Litestar store in a table.

    Every verb raises `TypeError` or `ValueError` for bad input before any SQL runs, and an `SQLStoreError` when the
    database cannot do what is asked: `UnavailableError` within ``timeout`` seconds if it does not answer,
    `OutcomeUnknownError` if a write was sent and its answer never came, `TableMissingError` before `create_table`.

    Operations on one key take effect in the order of their calls. Lifetimes (``expires_in``, ``renew_for``) are
    seconds or a timedelta, fractions included; None and 0 mean that the value never expires, a negative lifetime
    that it is over already. An expired value is absent to every verb.
    """

    __slots__ = (
        "_config",
        "_delete",
        "_renewal",
        "_scope",
        "_select",
        "_select_expiry",
        "_sql",
        "_table_name",
        "_upsert",
    )
    _renewal: Renewal

    def __init__(self, config: ConfigT, *, namespace: str | None = "LITESTAR") -> None:
        """Make a store over *config*; nothing is opened yet.

        *namespace* None makes a store that is in no namespace, and refuses `delete_all`.

        Raises:
            TypeError: *config* is another driver's.
            ValueError: the table name or the namespace is invalid.
        """
        if not isinstance(config, self.config_type()):
            msg = f"{type(self).__name__} takes an {self.config_type().__name__}, not {config!r}"
            raise TypeError(msg)
        self._config = config
        self._table_name = self._get_table_name_from_config()
        self._sql = config.dialect.for_table(self._table_name)
        self._enter(None if namespace is None else child_namespace(None, namespace))

    @classmethod
    @abstractmethod
    def config_type(cls) -> type[ConfigT]:
        """Return the class of this store's config."""

    @property
    def config(self) -> ConfigT:
        """The config that this store was made over."""
        return self._config

    @property
    def table_name(self) -> str:
        """The table, with its schema if one was given."""
        return self._table_name

    def with_namespace(self, namespace: str) -> Self:
        """Return a store in the child *namespace*; bulk operations on this one cover it.

        Raises:
            ValueError: *namespace* is not made of letters, digits, ``_``, ``.`` and ``-``, or the path is too long.
        """
        child = copy(self)
        child._enter(child_namespace(self.namespace, namespace))  # noqa: SLF001 - of the same class
        return child

    # Reading

    @telemetry.traced
    async def get(self, key: str, renew_for: float | timedelta | None = None) -> bytes | None:
        """Return the value, or None; with *renew_for*, move its expiry there in the same step.

        A value without expiry keeps none, and a renewal never brings an expiry closer. With the option
        ``renew_after`` it reads first, and leaves out the renewals of what still has most of *renew_for* before it.
        """
        stored = stored_key(key)
        lifetime = lifetime_seconds(renew_for)
        row = Row(stored, lifetime=lifetime)
        share = self._config.renew_after
        if lifetime is None or lifetime < 0:
            found = await self._call(self._select, row)
        elif not share:
            if self._renewal.lifetime != lifetime:  # nearly always the same one
                self._renewal = Renewal(self._scope, lifetime)
            found = await self._call(self._renewal, row)
        else:
            found = await self._call(self._select, row)
            if found and found[3] is not None and found[3] < lifetime * (1 - share):
                # Only what was read: a value that was set meanwhile keeps its own lifetime.
                touch = StatementVerb(self._scope, self._sql.touch, lifetime=lifetime)
                await self._call(touch, row._replace(version=found[2]))
        return found[1] if found else None

    @telemetry.traced
    async def exists(self, key: str) -> bool:
        """Return whether there is a value."""
        return await self._call(self._select_expiry, Row(stored_key(key))) is not None

    @telemetry.traced
    async def expires_in(self, key: str) -> int | None:
        """Return the seconds until the value expires, rounded up; None if there is no value or no expiry."""
        found = await self._call(self._select_expiry, Row(stored_key(key)))
        return math.ceil(found[1]) if found and found[1] is not None else None

    @telemetry.traced
    async def get_many(self, keys: Iterable[str]) -> dict[str, bytes]:
        """Return the values that exist, by key, in the order of *keys*."""
        by_stored = {stored_key(key): key for key in _listed(keys)}
        rows = [Row(stored) for stored in sorted(by_stored)]
        found = await self._call_in_batches(self._select, rows)
        return {key: found[stored][1] for stored, key in by_stored.items() if stored in found}

    @telemetry.traced
    async def get_versioned(self, key: str) -> Versioned | None:
        """Return the value with its version, or None."""
        found = await self._call(self._select, Row(stored_key(key)))
        return Versioned(found[1], found[2]) if found else None

    # Writing

    @telemetry.traced
    async def set(self, key: str, value: str | bytes, expires_in: float | timedelta | None = None) -> None:
        """Store *value*; a string as UTF-8. A negative lifetime removes the key."""
        lifetime = lifetime_seconds(expires_in)
        await self._submit(self._write(lifetime), (self._row(key, value, lifetime),))

    @telemetry.traced
    async def set_many(self, values: Mapping[str, str | bytes], expires_in: float | timedelta | None = None) -> None:
        """Store *values*, all with the same lifetime, in batches that each take effect as a whole."""
        if not isinstance(values, Mapping):
            msg = f"values must be a mapping of keys to values, not {values!r}"
            raise TypeError(msg)
        lifetime = lifetime_seconds(expires_in)
        rows = sorted(self._row(key, value, lifetime) for key, value in values.items())
        await self._call_in_batches(self._write(lifetime), rows)

    @telemetry.traced
    async def delete(self, key: str) -> None:
        """Delete the value; no error if there is none."""
        await self._submit(self._delete, (Row(stored_key(key)),))

    @telemetry.traced
    async def delete_many(self, keys: Iterable[str]) -> None:
        """Delete the values of *keys*, in batches that each take effect as a whole."""
        stored = sorted({stored_key(key) for key in _listed(keys)})
        await self._call_in_batches(self._delete, [Row(key) for key in stored])

    @telemetry.traced
    async def delete_all(self) -> None:
        """Delete all values of this namespace and its children, in batches.

        Raises:
            ImproperlyConfiguredException: this store is in no namespace.
        """
        if self.namespace is None:
            msg = "delete_all needs a namespace, this store has none: use store.with_namespace(...), or drop_table()"
            raise ImproperlyConfiguredException(msg)

        await self._submit(DeleteAll(self._scope), ())

    @telemetry.traced
    async def delete_expired(self, batch_size: int = 1000) -> int:
        """Delete the expired values of this namespace and its children; return how many.

        Each batch of at most *batch_size* commits by itself. What another transaction holds is left for the next
        round. A store without namespace prunes the whole table.

        Raises:
            ValueError: *batch_size* is not a positive integer.
        """
        if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
            msg = f"batch_size must be a positive integer, not {batch_size!r}"
            raise ValueError(msg)
        return sum([deleted async for deleted, _ in self._prune(min(batch_size, LARGEST_BATCH))])

    # Atomic verbs

    @telemetry.traced
    async def add(self, key: str, value: str | bytes, expires_in: float | timedelta | None = None) -> bool:
        """Store *value* if there is none; return whether it was stored.

        Raises:
            OutcomeUnknownError: the connection was lost, and meanwhile somebody else's value is there.
        """
        row = self._row(key, value, lifetime_seconds(expires_in))
        values = {"principal": None}
        verb = StatementVerb(self._scope, self._sql.add, values, shared=False, repeat=Repeat.RECOGNISED)
        return bool(await self._call(verb, row))

    @telemetry.traced
    async def pop(self, key: str) -> bytes | None:
        """Delete the value and return it, or None: of several callers one gets it.

        Raises:
            OutcomeUnknownError: the connection was lost; a repetition would lose the value.
        """
        verb = StatementVerb(self._scope, self._sql.pop, shared=False, repeat=Repeat.NEVER)
        found = await self._call(verb, Row(stored_key(key)))
        return found[1] if found else None

    @telemetry.traced
    async def incr(self, key: str, amount: int = 1, expires_in: float | timedelta | None = None) -> int:
        """Add *amount* to a counter and return the sum.

        A missing counter starts at 0, with the lifetime *expires_in*; later calls leave the lifetime alone. The
        value is the decimal number in ASCII, signed 64-bit.

        Raises:
            CounterError: the value is not such a number, or the sum would not be.
            OutcomeUnknownError: the connection was lost; a repetition might count twice.
        """
        _check_integer("amount", amount)
        row = self._row(key, b"", lifetime_seconds(expires_in))
        values = {"amount": amount}
        verb = StatementVerb(self._scope, self._sql.increment, values, shared=False, repeat=Repeat.NEVER)
        found = await self._call(verb, row)
        if not found:
            msg = f"the value of {key!r} is not a 64-bit decimal number, or adding {amount} would make it too large"
            raise CounterError(msg)
        return int(found[1])

    @telemetry.traced
    async def compare_and_set(self, key: str, value: str | bytes, version: int) -> bool:
        """Replace the value if it still has *version*, see `get_versioned`; return whether it was replaced.

        The value keeps its expiry.

        Raises:
            OutcomeUnknownError: the connection was lost, and the value now has another version.
        """
        _check_integer("version, which get_versioned returns,", version)
        row = self._row(key, value, None)
        values = {"expected": version}
        verb = StatementVerb(self._scope, self._sql.compare_and_set, values, shared=False, repeat=Repeat.RECOGNISED)
        return bool(await self._call(verb, row))

    # Table

    async def create_table(self) -> None:
        """Create the table with the bundled migrations, unless it is there.

        Safe in several processes at once: waits up to a minute for another one that does the same. Needs no DDL
        right when the table is there.

        Raises:
            TableMismatchError: a table of that name is there, and it is not ours.
        """
        await migrator.create_table(self._config, self._table_name)

    async def check_table(self) -> None:
        """See that the table is there, and ours.

        Raises:
            TableMissingError: it is not there.
            TableMismatchError: a table of that name is there, and it is not ours.
        """
        await migrator.check_table(self._config, self._table_name)

    async def drop_table(self) -> None:
        """Drop the table with all its values, if it is there."""
        await migrator.drop_table(self._config, self._table_name)

    # Lifespan

    async def close(self) -> None:
        """Finish what is under way and close the config's store connections in this event loop.

        The next call opens them again.
        """
        await self._lanes().close()

    # Litestar types it "-> None", which leaves `async with store as s` without a store.
    async def __aenter__(self) -> Self:  # type: ignore[override]
        self._lanes().users += 1
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc_val: BaseException | None, exc_tb: TracebackType | None
    ) -> None:
        lanes = self._lanes()
        lanes.users -= 1
        if not lanes.users:
            await lanes.close()

    # How a verb reaches the database

    async def _prune(self, batch_size: int = 1000) -> AsyncGenerator[tuple[int, int], None]:
        """Delete what has expired; after each statement, tell how many rows it has deleted, and how many it has left.

        What it has left had expired, and was somebody else's when it was to be deleted.
        """
        after: Sequence[str] = (self._scope.path, "")
        while True:
            values = self._scope.page(after, batch_size)
            read = PageVerb(self._scope, self._sql.walk_expired, values, write=False, shared=False)
            page = [*(await self._submit(read, (), ordered=False)).values()]
            yield 0, 0
            for namespace, rows in by_namespace(row for row in page if row[2]):
                values = {"namespace": namespace}
                delete = StatementVerb(self._scope, self._sql.delete_expired, values, shared=False, patient=False)
                deleted = 0
                with suppress(ContentionError):
                    deleted = len(await self._submit(delete, rows, ordered=False))
                    telemetry.pruned(self._sql.system, self._table_name, deleted)
                yield deleted, len(rows) - deleted
            if len(page) < batch_size:
                return
            after = page[-1][:2]

    def _enter(self, namespace: str | None) -> None:
        self.namespace = namespace
        self._scope = Scope(self._table_name, stored_namespace(namespace), self._sql, self._calculate_expires_at)
        self._select = StatementVerb(self._scope, self._sql.select, write=False)
        self._select_expiry = StatementVerb(self._scope, self._sql.select_expiry, write=False)
        self._upsert = StatementVerb(self._scope, self._sql.upsert)
        self._delete = StatementVerb(self._scope, self._sql.delete)
        self._renewal = Renewal(self._scope, 0)

    def _lanes(self) -> Lanes:
        return self._config.of_loop(Lanes)

    def _write(self, lifetime: float | None) -> Verb:
        return self._delete if lifetime is not None and lifetime < 0 else self._upsert

    def _row(self, key: str, value: str | bytes, lifetime: float | None) -> Row:
        return self._stored_row(stored_key(key), self._value_to_bytes(value), lifetime)

    def _stored_row(self, stored: str, data: bytes, lifetime: float | None) -> Row:
        if len(data) > self._sql.largest_value:
            msg = f"a value of {len(data):,} bytes is too large: {self._sql.name} takes {self._sql.largest_value:,}"
            raise ValueTooLargeError(msg)
        # The version is drawn by the client and random: a counter would start again when a key is deleted and made
        # anew, and a repeated write could not recognise itself.
        return Row(stored, data, lifetime, None, int.from_bytes(os.urandom(8), "big") >> 1)

    def _submit(self, verb: Verb, rows: Sequence[Row], *, ordered: bool = True) -> asyncio.Future[Answer]:
        if self._sql.one_writer and (unit := writing_unit(self._config)):
            if verb.write:
                return asyncio.ensure_future(self._submit_after(unit, verb, rows, ordered=ordered))
            ordered = False  # the writes before it may wait for the unit, which would wait for it
        return self._lanes().submit(Operation(verb, rows, ordered=ordered))

    async def _submit_after(self, unit: UnitOfWork, verb: Verb, rows: Sequence[Row], *, ordered: bool) -> Answer:
        await unit.give_way()
        return await self._lanes().submit(Operation(verb, rows, ordered=ordered))

    async def _call(self, verb: Verb, row: Row) -> Sequence[Any] | None:
        """Run *verb* for one key and return its row."""
        return (await self._submit(verb, (row,))).get(row.key)

    async def _call_in_batches(self, verb: Verb, rows: Sequence[Row]) -> Answer:
        """Run *verb* for all *rows* and return what it answered, by stored key."""
        # All take their places at once, so that no later call comes between them.
        batches = list(_batches(rows))
        futures = [self._submit(verb, batch) for batch in batches]
        if len(futures) == 1:
            return await futures[0]
        whole: dict[str, Sequence[Any]] = {}
        for batch, answer in zip(batches, await asyncio.gather(*futures, return_exceptions=True), strict=True):
            if isinstance(answer, BaseException):
                raise answer
            # Not all of it: a later call may have shared the statement, and seen newer values of the other batches.
            whole.update((row.key, answer[row.key]) for row in batch if row.key in answer)
        return whole

    # For authors of subclasses

    def _get_table_name_from_config(self) -> str:
        name = self._config.session_table
        self._validate_table_name(name)
        return name

    def _validate_table_name(self, table_name: str) -> None:
        validate_table_name(table_name, self._config.dialect)

    def _calculate_expires_at(self, expires_in: float | timedelta | None) -> datetime | None:
        """Return the instant, UTC, by the process's clock; None means never."""
        lifetime = lifetime_seconds(expires_in)
        return None if lifetime is None else datetime.now(UTC) + timedelta(seconds=lifetime)

    def _value_to_bytes(self, value: str | bytes) -> bytes:
        """Return *value* as bytes, a string as UTF-8.

        Raises:
            TypeError: *value* is neither bytes nor a string.
            ValueError: *value* has lone surrogates, which UTF-8 cannot say.
        """
        if isinstance(value, bytes):
            return value
        if isinstance(value, str):
            return value.encode("utf-8")
        msg = f"value must be bytes or a string, not {type(value).__name__}: serialize it first"
        raise TypeError(msg)

    def _get_create_table_sql(self) -> str:
        """Return the bundled migrations' text for this table."""
        return migrator.up_sql(self._config.dialect, self._table_name)

    def _get_drop_table_sql(self) -> list[str]:
        """Return the statements that undo the bundled migrations."""
        return migrator.down_statements(self._config.dialect, self._table_name)


def _check_integer(what: str, value: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        msg = f"{what} must be an integer, not {value!r}"
        raise TypeError(msg)
    if not -(2**63) <= value < 2**63:
        msg = f"{what} must be a signed 64-bit integer"
        raise ValueError(msg)


def _listed(keys: Iterable[str]) -> Iterable[str]:
    if isinstance(keys, str):
        msg = f"keys must be several strings, not the string {keys!r}: use [key]"
        raise TypeError(msg)
    return keys


def _batches(rows: Sequence[Row]) -> Iterator[Sequence[Row]]:
    """Cut *rows* where a statement would hold too many, or too much."""
    start = size = 0
    for position, row in enumerate(rows):
        length = len(row.data or b"")
        if position > start and (position - start == BATCH_ROWS or size + length > BATCH_BYTES):
            yield rows[start:position]
            start, size = position, 0
        size += length
    if rows:
        yield rows[start:]
