"""Settings of one database, and what belongs to it in each event loop.

A config opens nothing when it is made. Whatever it opens later belongs to the event loop and the process that asked:
see `PerLoop`.
"""

from __future__ import annotations

import asyncio
import contextlib
import difflib
import os
import threading
import weakref
from abc import ABC, abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Literal, NamedTuple, Protocol, TypedDict, TypeVar, get_args

from .database_session import session_of
from .exceptions import (
    ConnectionLostError,
    ContentionError,
    ForeignKeyViolationError,
    ReadOnlyError,
    SQLStoreError,
    TableMismatchError,
    TableMissingError,
    UnavailableError,
    UniqueViolationError,
    ValueTooLargeError,
)
from .names import validate_table_name
from .pool import TransactionMode
from .unit_of_work import UnitOfWork, entered

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Collection, Iterable, Mapping

    from .connection import StoreConnection
    from .dialects import Dialect
    from .pool import ConnectionPool

__all__ = (
    "BaseConfig",
    "ExtensionConfig",
    "LitestarOptions",
    "MigrationOptions",
    "PerLoop",
    "ServerConfig",
    "refuse_unknown",
    "running_loop",
)


PoolT = TypeVar("PoolT")

DEFAULT_TABLE = "litestar_session"

UNITS = "sqlstore_units"
"""Where a request's state has its units of work."""

_TOLD_APART: dict[type[SQLStoreError], str] = {
    ConnectionLostError: "the connection to the database was lost",
    ContentionError: "another transaction was in the way, and nothing was changed",
    ForeignKeyViolationError: "a row refers to one that is not there, or is still referred to",
    UnavailableError: "cannot use the database: check pool_config, and that the server is running",
    UniqueViolationError: "another row has this value already",
}
_ADVICE: dict[type[SQLStoreError], str] = {
    TableMissingError: "table {table} does not exist: await store.create_table(), or run sqlstore upgrade",
    TableMismatchError: "table {table} was not made by the bundled migrations: choose another session_table",
    ReadOnlyError: (
        "the role lacks a right, or the database takes no writes: check grants and file permissions, or use the "
        "primary server"
    ),
    ContentionError: "other transactions were in the way, and nothing was changed",
    UnavailableError: "cannot use the database: check pool_config, and that the server is running",
    ConnectionLostError: "the connection to the database was lost",
    ValueTooLargeError: "the value is too large for the database",
}


CommitMode = Literal["manual", "autocommit", "autocommit_include_redirects"]


class TransactionOptions(TypedDict, total=False):
    """What a route may have otherwise, in its ``opt`` under the config's ``session_key``."""

    commit_mode: CommitMode
    """``"autocommit"``, if not given: what a request does is one transaction, committed before a response of 200 to
    299 begins, or to 399 with ``"autocommit_include_redirects"``, and undone after any other, and after an exception.
    ``"manual"``: each statement commits by itself, but for those in a block of ``transaction()``."""
    extra_commit_statuses: Collection[int]
    """Also committed."""
    extra_rollback_statuses: Collection[int]
    """Undone although they would be committed."""
    isolation_level: str
    """Of the request's transaction, in the words of the SQL standard; the database's default if not given."""
    read_only: bool
    """The request's transaction cannot write; False if not given."""


class LitestarOptions(TransactionOptions, total=False):
    """All options of ``extension_config["litestar"]``."""

    bind_key: str
    """What tells this database from an application's others; ``default`` if not given."""
    connection_key: str
    """The dependency that is the driver's own connection; ``db_connection`` if not given."""
    session_key: str
    """The dependency that is a database session; ``db_session`` if not given."""
    create_table: Literal["auto", "check", "off"]
    """What an application does with its stores' table when it starts: create it unless it is there (if not given),
    refuse to start without it, or nothing."""

    session_table: str
    """The stores' table; ``litestar_session`` if not given."""
    timeout: float
    """Seconds after which a call that has no answer raises; 10 if not given."""
    renew_after: float
    """The share of its lifetime that must have passed before a value is renewed; 0, always, if not given."""
    prune_interval: float
    """Seconds from one background pruning to the next, on average; 900 if not given, 0 for never."""


class MigrationOptions(TypedDict, total=False):
    """All options of ``extension_config["migrations"]``."""

    script_location: str | os.PathLike[str]
    """The folder of the application's own migrations, relative to the working directory; none if not given."""
    version_table: str
    """The table of the versions that were applied; ``sqlstore_migrations`` if not given."""


class ExtensionConfig(TypedDict, total=False):
    """Options by what they are for."""

    litestar: LitestarOptions
    """See `LitestarOptions`."""
    migrations: MigrationOptions
    """See `MigrationOptions`."""


class BaseConfig(ABC):
    """How to reach a database, and the stores' own connections to it."""

    dialect: ClassVar[Dialect]
    readers: int = 2
    """Store connections for reads, per event loop."""
    writers: int = 4
    """Store connections for writes, per event loop: one for batches, the others for what must not hold them up."""
    transactions: ClassVar[bool] = False
    """Several statements in one transaction cost little more than one."""

    def __init__(
        self, pool_config: Mapping[str, Any], pool_options: Iterable[str], extension_config: ExtensionConfig | None
    ) -> None:
        """Keep the settings.

        *pool_options* are the names that the driver knows.

        Raises:
            TypeError: an option is unknown, or of the wrong type.
            ValueError: an option is out of range.
        """
        refuse_unknown("pool_config", pool_config, pool_options)
        self.pool_config = dict(pool_config)
        self.extension_config: ExtensionConfig = extension_config or {}
        refuse_unknown("extension_config", self.extension_config, ExtensionConfig.__annotations__)
        self.litestar_options: LitestarOptions = self.extension_config.get("litestar", {})
        refuse_unknown('extension_config["litestar"]', self.litestar_options, LitestarOptions.__annotations__)
        self.session_table = self.litestar_options.get("session_table", DEFAULT_TABLE)
        migrations = self.extension_config.get("migrations", {})
        refuse_unknown('extension_config["migrations"]', migrations, MigrationOptions.__annotations__)
        location = migrations.get("script_location")
        self.script_location = None if location is None else Path(location)
        self.version_table = validate_table_name(migrations.get("version_table", "sqlstore_migrations"), self.dialect)
        self.timeout = _timeout(self.litestar_options.get("timeout", 10.0))
        self.renew_after = _renew_after(self.litestar_options.get("renew_after", 0.0))
        self.bind_key = self.litestar_options.get("bind_key", "default")
        self.connection_key = self.litestar_options.get("connection_key", "db_connection")
        self.session_key = self.litestar_options.get("session_key", "db_session")
        self.create_table = self.litestar_options.get("create_table", "auto")
        _check_choice("create_table", self.create_table, ("auto", "check", "off"))
        self.commit_rule = self._commit_rule(self.litestar_options)
        self.prune_interval = _prune_interval(self.litestar_options.get("prune_interval", 900.0))
        self._per_loop: dict[Callable[..., Any], PerLoop[Any]] = {}

    @abstractmethod
    async def open_store_connection(self, *, writes: bool = True) -> StoreConnection:
        """Open one connection for the stores, for reads alone or for any statement; the caller owns it.

        Raises the driver's own exceptions.
        """

    @abstractmethod
    def classify(self, error: Exception) -> type[SQLStoreError]:
        """Return what the driver's *error* means; `SQLStoreError` itself where nothing better is known."""

    @abstractmethod
    def violation(self, error: Exception) -> type[SQLStoreError] | None:
        """Return which rule of a table the driver's *error* is about; None if it is about something else."""

    @abstractmethod
    def new_store(self) -> Any:  # noqa: ANN401 - a BaseSQLSpecStore, which is above this module
        """Return the store that belongs to this config."""

    @abstractmethod
    def new_pool(self) -> ConnectionPool[Any]:
        """Return the application's connections in the running event loop, none of which is open yet."""

    # The application's connections

    def pool(self) -> ConnectionPool[Any]:
        """Return the application's connections in the running event loop.

        Raises:
            RuntimeError: no asyncio event loop is running.
        """
        return self.of_loop(_new_pool)

    def explained(self, error: Exception, *, connecting: bool = False) -> Exception:
        """Return what the application gets for the driver's *error*: ours if a handler must tell it from others.

        These are the children of `SQLStoreError` for what a row violates, for contention, and for a database that
        cannot be reached or went away.
        """
        kind = self.violation(error) or self.classify(error)
        if connecting and kind is not ContentionError:
            kind = UnavailableError
        if isinstance(error, SQLStoreError) or kind not in _TOLD_APART:
            return error
        return kind(f"{_TOLD_APART[kind]} ({type(error).__name__}: {error})")

    def translated(self, error: Exception, table: str, *, connecting: bool = False) -> SQLStoreError:
        """Return what a caller of a store over *table* gets for the driver's *error*, which becomes its cause."""
        if isinstance(error, SQLStoreError):
            return error
        kind = self.classify(error)
        if connecting and kind in {SQLStoreError, ConnectionLostError}:  # whatever the driver calls it
            kind = UnavailableError
        advice = _ADVICE.get(kind, "the database refused the statement").format(table=table)
        translated = kind(f"{advice} ({type(error).__name__}: {error})")
        translated.__cause__ = error
        return translated

    def transaction_mode(self, isolation_level: str | None = None, *, read_only: bool = False) -> TransactionMode:
        """Return how a transaction begins.

        Raises:
            ValueError: the database has no such isolation level.
        """
        level = isolation_level and str(isolation_level).upper().replace("_", " ")
        if level and level not in self.dialect.isolation_levels:
            known = ", ".join(sorted(self.dialect.isolation_levels))
            msg = f"unknown isolation_level {isolation_level!r}: {self.dialect.name} has {known}"
            raise ValueError(msg)
        return TransactionMode(level, read_only)

    def commit_rule_of(self, opt: Mapping[str, Any]) -> CommitRule:
        """Return what ends the transaction of a request to a route with *opt*.

        Raises:
            TypeError: an option is unknown, or of the wrong type.
            ValueError: an option is out of range.
        """
        options = opt.get(self.session_key)
        if not options:
            return self.commit_rule
        refuse_unknown(f"opt[{self.session_key!r}]", options, TransactionOptions.__annotations__)
        return self._commit_rule({**self.litestar_options, **options})

    def _commit_rule(self, options: Mapping[str, Any]) -> CommitRule:
        commit_mode = options.get("commit_mode", "autocommit")
        _check_choice("commit_mode", commit_mode, get_args(CommitMode))
        also, never = (frozenset(options.get(f"extra_{what}_statuses") or ()) for what in ("commit", "rollback"))
        if both := also & never:
            msg = f"a status is either committed or rolled back: {', '.join(map(str, both))} are in both extra statuses"
            raise ValueError(msg)
        mode = self.transaction_mode(options.get("isolation_level"), read_only=options.get("read_only", False))
        usual = {"manual": range(0), "autocommit": range(200, 300), "autocommit_include_redirects": range(200, 400)}
        statuses = (frozenset(usual[commit_mode]) | also) - never
        return CommitRule(None if commit_mode == "manual" else mode, statuses, also)

    def provide_session(self, state: object, scope: Any) -> Any:  # noqa: ANN401, ARG002 - its name in the field
        """Return the database session of a request, for its guards and middleware.

        Raises:
            RuntimeError: the application has no SQLStorePlugin with this config.
        """
        try:
            return scope["state"][UNITS].session(self)
        except KeyError:
            msg = "this request has no database session: give the application plugins=[SQLStorePlugin(config)]"
            raise RuntimeError(msg) from None

    @contextlib.asynccontextmanager
    async def get_session(self) -> AsyncGenerator[Any, None]:
        """Give a database session outside a request; what the block does is one transaction, unless in manual mode.

        Raises:
            CommitError: at the end of the block, the database did not commit.
        """
        async with self._unit_of_work() as unit:
            if unit.pool.synchronous:  # which cannot wait for it here on first use
                await unit.connection()
            yield session_of(unit)

    @contextlib.asynccontextmanager
    async def provide_connection(self) -> AsyncGenerator[Any, None]:
        """Give the driver's own connection outside a request, in a transaction as `get_session` has it.

        Raises:
            CommitError: at the end of the block, the database did not commit.
            UnavailableError: no connection came free in time, or the database cannot be reached.
        """
        async with self._unit_of_work() as unit:
            yield await unit.driver_connection()

    @contextlib.asynccontextmanager
    async def _unit_of_work(self) -> AsyncGenerator[UnitOfWork, None]:
        unit = UnitOfWork(self, self.commit_rule.mode)
        try:
            with entered([unit]):
                yield unit
        except Exception:
            await unit.end(commit=False)
            raise
        except BaseException:
            unit.abandon("the block was cancelled")
            raise
        await unit.end(commit=True)

    # The stores' connections

    @contextlib.asynccontextmanager
    async def spare_connection(self) -> AsyncGenerator[StoreConnection, None]:
        """Give one more connection, for as long as a call may take: to see what has become of a lost one.

        Raises the driver's own exceptions.
        """
        connection = await self.open_store_connection()
        timer = asyncio.get_running_loop().call_later(self.timeout, connection.kill)
        try:
            yield connection
        finally:
            timer.cancel()
            connection.kill()

    def of_loop(self, make: Callable[[BaseConfig], ResourceT]) -> ResourceT:
        """Return what *make* made from this config for the running event loop, making it on the first call.

        Raises:
            RuntimeError: no asyncio event loop is running.
        """
        per_loop: PerLoop[ResourceT] | None = self._per_loop.get(make)
        if per_loop is None:
            per_loop = self._per_loop.setdefault(make, PerLoop(lambda: make(self)))
        return per_loop.get()


class CommitRule(NamedTuple):
    """What ends a request's transaction."""

    mode: TransactionMode | None
    """How it begins; None if each statement commits by itself."""
    statuses: frozenset[int]
    """Those that are committed."""
    always: frozenset[int]
    """Those that are committed even after an exception."""


def _new_pool(config: BaseConfig) -> ConnectionPool[Any]:
    return config.new_pool()


class ServerConfig(BaseConfig, Generic[PoolT]):
    """How to reach a database server, or the application's own pool of connections to one.

    The stores keep up to 6 of the pool's connections, leave at least 2 to the application, and never close the pool.
    Close the stores before it: it may wait for its connections.
    """

    def __init__(
        self,
        pool_options: Iterable[str],
        *,
        pool_config: Mapping[str, Any] | None,
        pool_instance: PoolT | None,
        extension_config: ExtensionConfig | None,
    ) -> None:
        """Keep the settings: either *pool_config* or *pool_instance*.

        Raises:
            TypeError: an option is unknown, or of the wrong type.
            ValueError: an option is out of range, or the pool is too small to share.
        """
        if (pool_config is None) is (pool_instance is None):
            msg = "give either pool_config, the options of the driver, or pool_instance, a pool of yours"
            raise TypeError(msg)
        super().__init__(pool_config or {}, pool_options, extension_config)
        self.pool_instance = pool_instance
        if pool_instance is not None:
            size = self.pool_size(pool_instance)
            kept = min(size - 2, self.readers + self.writers)
            if kept < 2:  # noqa: PLR2004 - one for reads, one for writes
                msg = f"a pool_instance of {size} connections is too small: the stores keep 2 and leave 2, at least 4"
                raise ValueError(msg)
            self.readers, self.writers = kept // 2, kept - kept // 2
            self.left_in_pool = size - kept
            """So many connections of the pool are the application's."""

    @staticmethod
    @abstractmethod
    def pool_size(pool: PoolT) -> int:
        """Return how many connections *pool* has at most."""


class LoopResource(Protocol):
    """Something that is tied to one event loop."""

    async def close(self) -> None:
        """Close in good order."""

    def kill(self) -> None:
        """Let go of it although its loop is closed."""


ResourceT = TypeVar("ResourceT", bound=LoopResource)

# What a forked child inherits is never used, closed or collected there: its sockets are its parent's.
_INHERITED: list[object] = []
_CLOSING: set[asyncio.Task[None]] = set()


Held = dict[asyncio.AbstractEventLoop, tuple[ResourceT, "AsyncGenerator[None, None]"]]


class PerLoop(Generic[ResourceT]):
    """One resource for each running event loop of this process.

    A resource is closed when its loop ends (`asyncio.run`, anyio and uvicorn all shut down a loop's asynchronous
    generators, and this waits in one), and when this object is collected, which a resource must not prevent. A loop
    that was closed without that has its resource killed when the next loop asks for one.
    """

    def __init__(self, make: Callable[[], ResourceT]) -> None:
        self._make = make
        self._forget()

    def _forget(self) -> None:
        self._resources: Held[ResourceT] = {}
        self._pid = os.getpid()
        weakref.finalize(self, _release, self._resources, self._pid)
        self._lock = threading.Lock()

    def get(self) -> ResourceT:
        """Return the running loop's resource.

        Raises:
            RuntimeError: no asyncio event loop is running.
        """
        loop = running_loop()
        if self._pid != os.getpid():
            _INHERITED.append((self._resources, self._lock))
            self._forget()
        held = self._resources.get(loop)
        return held[0] if held is not None else self._new(loop)

    def _new(self, loop: asyncio.AbstractEventLoop) -> ResourceT:
        with self._lock:
            for other in [other for other in self._resources if other.is_closed()]:
                self._resources.pop(other)[0].kill()
            resource = self._make()
            until_loop_ends = _until_loop_ends(loop, self._resources)
            # The first step registers the generator with the loop, and has nothing to wait for.
            with contextlib.suppress(StopIteration):
                until_loop_ends.__anext__().send(None)
            self._resources[loop] = (resource, until_loop_ends)
        return resource


async def _until_loop_ends(loop: asyncio.AbstractEventLoop, resources: Held[ResourceT]) -> AsyncGenerator[None, None]:
    try:
        yield
    finally:
        if loop in resources:
            await resources.pop(loop)[0].close()


def _release(resources: Held[ResourceT], pid: int) -> None:
    """Close what a collected `PerLoop` leaves, in its own loops; at the end of the program all loops are closed."""
    if pid != os.getpid():
        _INHERITED.append(resources)
        return
    while resources:
        loop, (resource, _) = resources.popitem()
        if loop.is_closed():
            resource.kill()
        else:
            loop.call_soon_threadsafe(_close_in, loop, resource)


def _close_in(loop: asyncio.AbstractEventLoop, resource: LoopResource) -> None:
    closing = loop.create_task(resource.close())
    _CLOSING.add(closing)
    closing.add_done_callback(_CLOSING.discard)


def running_loop() -> asyncio.AbstractEventLoop:
    """Return the running event loop.

    Raises:
        RuntimeError: there is none, or it is another library's.
    """
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        msg = "sqlstore needs a running asyncio event loop (uvloop is one, trio is not)"
        raise RuntimeError(msg) from None


# What SQLSpec calls an option, and what to write here.
_SQLSPEC_NAMES = {
    "create_schema": "await store.create_table() instead",
    "manage_schema": "await store.create_table() instead",
    "migrations_path": "await store.create_table(), which applies the bundled migrations",
}

# What one driver calls by the other name.
_OTHERS_NAMES = {"dsn": "conninfo", "conninfo": "dsn", "database": "dbname", "dbname": "database"}


def refuse_unknown(where: str, options: Mapping[str, object], known: Iterable[str]) -> None:
    """Check the names of *options*.

    Raises:
        TypeError: a name is not in *known*; the message names the nearest one.
    """
    known = sorted(known)
    for name in options:
        if name in known:
            continue
        nearest = difflib.get_close_matches(str(name), known, n=1)
        if _OTHERS_NAMES.get(name) in known:
            nearest = [_OTHERS_NAMES[name]]
        advice = _SQLSPEC_NAMES.get(name) or (nearest[0] if nearest else f"one of {', '.join(known)}")
        msg = f"unknown option {name!r} in {where}: use {advice}"
        raise TypeError(msg)


def _check_choice(name: str, value: object, choices: tuple[str, ...]) -> None:
    if value not in choices:
        msg = f"{name} must be one of {', '.join(choices)}, not {value!r}"
        raise ValueError(msg)


def _timeout(timeout: float) -> float:
    if isinstance(timeout, bool) or not isinstance(timeout, (int, float)):
        msg = f"timeout must be a number of seconds, not {timeout!r}"
        raise TypeError(msg)
    if not 0 < timeout <= 3600:  # noqa: PLR2004 - an hour; also refuses NaN
        msg = f"timeout must be more than 0 and at most 3600 seconds, not {timeout!r}"
        raise ValueError(msg)
    return float(timeout)


def _renew_after(share: float) -> float:
    if isinstance(share, bool) or not isinstance(share, (int, float)):
        msg = f"renew_after must be a number, a share of the lifetime, not {share!r}"
        raise TypeError(msg)
    if not 0 <= share < 1:  # also refuses NaN
        msg = f"renew_after must be at least 0 and less than 1, a share of the lifetime, not {share!r}"
        raise ValueError(msg)
    return float(share)


def _prune_interval(interval: float) -> float:
    if isinstance(interval, bool) or not isinstance(interval, (int, float)):
        msg = f"prune_interval must be a number of seconds, 0 for never, not {interval!r}"
        raise TypeError(msg)
    if not 0 <= interval <= 86400:  # noqa: PLR2004 - a day; also refuses NaN
        msg = f"prune_interval must be at least 0, never, and at most 86400 seconds, not {interval!r}"
        raise ValueError(msg)
    return float(interval)
