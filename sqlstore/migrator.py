"""Run migrations: one process at a time, each version once, and what was applied is written down.

Where the database's DDL is transactional, a version and its row of the history are one transaction, which also holds
the lock. Elsewhere, and for a file that must not run in a transaction, a second connection holds the lock, and the row
says where the version is, so that one that stopped half-way is known.
"""

from __future__ import annotations

import asyncio
import re
import time
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeVar

from .catalogue import stored_version
from .config import running_loop
from .dialects import Step
from .exceptions import (
    AlreadyThereError,
    ContentionError,
    MigrationError,
    ReadOnlyError,
    SQLStoreError,
    TableMismatchError,
    TableMissingError,
    UniqueViolationError,
)
from .migration_files import APPLICATION, SQLFile, bundled_source, history_file, sources_of

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Coroutine, Iterable, Sequence

    from .config import BaseConfig
    from .connection import StoreConnection
    from .dialects import Dialect, Statement
    from .migration_files import Migration, MigrationSource

__all__ = (
    "Applied",
    "AppliedVersion",
    "Migrator",
    "Progress",
    "SourceStatus",
    "check_table",
    "create_table",
    "down_statements",
    "drop_table",
    "up_sql",
)

T = TypeVar("T")

PATIENCE = 60.0
"""Seconds that a statement of ours may take, and that a store waits for another process's migration."""
LONG_PATIENCE = 3600.0
"""Seconds that a migration waits for another process's, whose statements may be an application's."""
SETTLING = 10.0
"""Seconds after which a version that is half-way is taken for stopped, where no lock tells."""
LOCK = "sqlstore"
"""What the lock is called."""
_PAUSE = 0.03
"""Seconds between two looks at the lock."""

Direction = Literal["up", "down"]

_OF_STORE = " --source store"
_PLACEHOLDER = re.compile(r"\$\d+|:\d+|\?|%s")
_tasks: set[asyncio.Task[Any]] = set()


class AppliedVersion(NamedTuple):
    """One version that is applied, or stopped half-way."""

    version: int
    name: str
    checksum: str
    """Of its up file when it was applied."""
    applied_at: datetime | None
    """UTC; None if the history does not say, because the table itself shows that the version was applied."""
    duration: float | None
    """Seconds; None if it was recorded without being run."""
    running: str | None
    """The file and line where it stopped half-way, None if it did not."""


class SourceStatus(NamedTuple):
    """What is applied of one source, and what is not."""

    source: MigrationSource
    applied: list[AppliedVersion]
    pending: list[Migration]
    problems: list[str]
    """In words; an upgrade does not begin while there is any."""


class Applied(NamedTuple):
    """A migration that was run."""

    source: str
    migration: Migration
    direction: Direction
    duration: float
    """Seconds."""


class Progress(NamedTuple):
    """A statement that is about to run."""

    source: str
    file: str
    statement: int
    """Its number in the file; 1 is the first."""
    statements: int
    """How many the file has."""


class Migrator:
    """Runs the migrations of a config's sources, over connections of its own."""

    def __init__(self, config: BaseConfig, sources: Sequence[MigrationSource] | None = None) -> None:
        """Take *sources*, or those of the config: the bundled one and the application's folder.

        Raises:
            MigrationError: the folder is not there, or a file has a wrong name.
        """
        self._config = config
        self._sources = sources_of(config) if sources is None else list(sources)

    async def status(self) -> list[SourceStatus]:
        """Return what is applied and what is not, by source. Reads only.

        Raises:
            SQLStoreError: the database refused.
        """
        async with _Session.open(self._config) as session:
            return [await session.status(source) for source in self._sources]

    async def check(self) -> list[str]:
        """Return in words what is not as it should be: nothing if all is applied, and as it was written.

        Raises:
            SQLStoreError: the database refused.
        """
        found: list[str] = []
        for status in await self.status():
            found += status.problems
            found += [f"{status.source.name}: {each.label} is pending: run sqlstore upgrade" for each in status.pending]
        return found

    async def upgrade(
        self,
        revision: str | None = None,
        source: str | None = None,
        *,
        on_progress: Callable[[Progress], object] | None = None,
    ) -> list[Applied]:
        """Apply what is pending up to *revision*, and return what was run by this call.

        Without *revision*, all sources, or the one named *source*, to their newest version. Otherwise ``head``, ``+1``,
        a number, or a label such as ``0002_create_books``, of the application's source if there is one.

        Raises:
            MigrationError: a file was edited, is missing or in the wrong order, or the database refused it.
            TableMismatchError: a table with the name of the stores' is there, and it is not ours.
            SQLStoreError: the database refused.
        """
        run = _Run(self._config, on_progress)
        return await run.finish(run.upgrade(self._chosen(source, revision), revision))

    async def downgrade(
        self,
        revision: str = "-1",
        source: str | None = None,
        *,
        on_progress: Callable[[Progress], object] | None = None,
    ) -> list[Applied]:
        """Undo what is applied after *revision*, the last first, and return what was run by this call.

        *revision* is ``-1``, ``base``, a number or a label, of the application's source if there is one, or of the one
        named *source*.

        Raises:
            MigrationError: a version cannot be undone, or the database refused it.
            TableMismatchError: a table with the name of the stores' is there, and it is not ours.
            SQLStoreError: the database refused.
        """
        [chosen] = self._chosen(source, revision)
        run = _Run(self._config, on_progress)
        return await run.finish(run.downgrade(chosen, revision))

    async def stamp(self, revision: str, source: str | None = None) -> list[AppliedVersion]:
        """Record that all versions up to *revision* are applied as they are written now, and no other; run nothing.

        Return the versions that the history then has.

        Raises:
            MigrationError: there is no such version.
            SQLStoreError: the database refused.
        """
        [chosen] = self._chosen(source, revision)
        run = _Run(self._config)
        return await run.finish(run.stamp(chosen, revision))

    async def drop_history(self) -> bool:
        """Drop the table of the history, unless it has a version of some source; return whether it is gone.

        Raises:
            SQLStoreError: the database refused.
        """
        run = _Run(self._config)
        return await run.finish(run.drop_history())

    async def plan(self, direction: Direction, revision: str | None = None, source: str | None = None) -> list[SQLFile]:
        """Return the files that `upgrade` or `downgrade` would run, in order. Reads only.

        Raises:
            MigrationError: `upgrade` or `downgrade` would refuse to begin.
            SQLStoreError: the database refused.
        """
        if direction == "down" and revision is None:
            revision = "-1"
        found: list[SQLFile] = []
        async with _Session.open(self._config) as session:
            for chosen in self._chosen(source, revision):
                status = await session.state(chosen, direction)
                found += [step.file for step in _checked(_steps(status, direction, revision), self._config.dialect)]
        return found

    def sql(self, direction: Direction, revision: str | None = None, source: str | None = None) -> str:
        """Return what `upgrade` or `downgrade` would run as a script for the database's own client, without asking it.

        It begins with nothing applied, or with everything if it goes down; or else at the first of the two revisions in
        ``0002:0004``. It also writes the history, and makes its table if it begins with nothing.

        Raises:
            MigrationError: there is no such version.
        """
        begin, colon, end = (revision or "").rpartition(":")
        if not colon:
            begin = "base" if direction == "up" else "head"
        parts: list[str] = []
        dialect = self._config.dialect.for_table(self._config.version_table)
        if dialect.script.stop:
            parts.append(f"{dialect.script.stop}\n")
        if direction == "up" and begin == "base":
            parts.append(history_file(dialect.name, self._config.version_table).sql)
        for chosen in self._chosen(source, revision):
            whole = SourceStatus(chosen, [], list(chosen.migrations), [])
            version = _version(whole, begin)
            applied = [_as_applied(each) for each in chosen.migrations if each.version <= version]
            status = _status(chosen, applied)
            for step in _steps(status, direction, end or ("base" if direction == "down" else None)):
                recorded = dialect.record if direction == "up" else dialect.forget
                written = _literal(recorded.bind(_values(chosen, step.migration), ()))
                lines = [f"-- {chosen.name}: {step.file.name}", step.file.script(dialect), f"{written};\n"]
                if dialect.transactional_ddl and step.file.in_transaction:
                    lines[1:] = ["BEGIN;", *lines[1:-1], f"{written};", "COMMIT;\n"]
                parts.append("\n".join(lines))
        return "\n".join(parts)

    def _chosen(self, source: str | None, revision: str | None) -> list[MigrationSource]:
        """Return the sources that a call is about: one if it names a *source* or a *revision*."""
        if source is None and revision is None:
            return self._sources
        names = {each.name.partition(":")[0]: each for each in self._sources}
        if source is None:
            return [names.get(APPLICATION) or self._sources[0]]
        if source not in names:
            msg = f"there is no source {source}: use {' or '.join(names)}"
            if source == APPLICATION:
                msg += ", or name the folder of the application's migrations as script_location"
            raise MigrationError(msg)
        return [names[source]]


async def create_table(config: BaseConfig, table: str) -> None:
    """Apply the bundled migrations for *table*, unless it is there.

    Raises:
        TableMismatchError: a table of that name is there, and it is not ours.
        SQLStoreError: the database refused.
    """
    run = _Run(config, makes_history=False)
    await _of_table(config, table, run, run.upgrade([bundled_source(config.dialect, table)], None))


async def check_table(config: BaseConfig, table: str) -> None:
    """See that *table* is there, and made by the bundled migrations.

    Raises:
        TableMissingError: it is not there.
        TableMismatchError: a table of that name is there, and it is not ours.
        SQLStoreError: the database refused.
    """
    source = bundled_source(config.dialect, table)
    async with _Session.open(config, config.timeout) as session:
        version = await session.stored_version(table)
    if version == 0:
        msg = f"table {table} does not exist: await store.create_table(), or apply the bundled migrations"
        raise TableMissingError(msg)
    if version < source.head:
        msg = f"table {table} is at version {version} of {source.head}: await store.create_table(), or sqlstore upgrade"
        raise TableMismatchError(msg)


async def drop_table(config: BaseConfig, table: str) -> None:
    """Undo the bundled migrations for *table*, if it is there.

    Raises:
        TableMismatchError: a table of that name is there, and it is not ours.
        SQLStoreError: the database refused.
    """
    run = _Run(config, makes_history=False)
    await _of_table(config, table, run, run.downgrade(bundled_source(config.dialect, table), "base"))


def up_sql(dialect: Dialect, table: str) -> str:
    """Return the text of all bundled migrations for *table*, in order."""
    return "\n".join(each.up.sql for each in bundled_source(dialect, table).migrations)


def down_statements(dialect: Dialect, table: str) -> list[str]:
    """Return the statements that undo all bundled migrations for *table*, the last first."""
    files = [each.down for each in reversed(bundled_source(dialect, table).migrations) if each.down is not None]
    return [statement.text for file in files for statement in file.statements(dialect)]


async def _of_table(config: BaseConfig, table: str, run: _Run, work: Coroutine[Any, Any, object]) -> None:
    """Finish what a store wants to be done, whose caller knows nothing of files."""
    try:
        await run.finish(work)
    except MigrationError as error:
        cause = error.__cause__
        translated = config.translated(cause, table) if isinstance(cause, Exception) else error
        # What seems to be missing is the schema; a syntax error is a reserved word for a name.
        if isinstance(translated, (TableMissingError, MigrationError)) or type(translated) is SQLStoreError:
            translated = SQLStoreError(f"cannot create or drop table {table}: {cause or error}")
        raise translated from cause


class _HalfWayError(MigrationError):
    """A version stopped half-way, or is being run by another process."""


class _Step(NamedTuple):
    """A migration to run."""

    source: MigrationSource
    migration: Migration
    direction: Direction
    file: SQLFile


class _Session:
    """One connection of a run, and what is read and written over it."""

    def __init__(self, config: BaseConfig, connection: StoreConnection, limit: float) -> None:
        self._config = config
        self._connection = connection
        self._limit = limit
        self._history: bool | None = None
        self.dialect = config.dialect.for_table(config.version_table)

    @classmethod
    @asynccontextmanager
    async def open(cls, config: BaseConfig, limit: float | None = None) -> AsyncGenerator[_Session, None]:
        """Give a session whose own statements take *limit* seconds at most; with an error it is dropped."""
        try:
            connection = await config.open_store_connection()
        except Exception as error:
            raise config.translated(error, config.session_table, connecting=True) from error
        try:
            yield cls(config, connection, PATIENCE + config.timeout if limit is None else limit)
        except BaseException:
            # Leaves nothing of it, also where the database keeps a failed transaction open.
            connection.kill()
            raise
        finally:
            await connection.close()

    async def run(self, step: Step, *, limited: bool = True, commits: bool = True) -> Sequence[Sequence[Any]]:
        """Run a step, and raise the driver's own exceptions. It *commits* where no transaction of ours is open."""
        timer = limited and asyncio.get_running_loop().call_later(self._limit, self._connection.kill)
        try:
            # Where DDL is transactional, a single statement outside of a transaction commits by itself.
            atomic = commits and not self.dialect.transactional_ddl
            return (await self._connection.run([step], atomic=atomic))[0]
        finally:
            if timer:
                timer.cancel()

    async def execute(self, step: Step) -> Sequence[Sequence[Any]]:
        """Run a step of our own, and raise our own exceptions."""
        try:
            return await self.run(step)
        except Exception as error:  # noqa: BLE001 - raised translated
            translated = self._config.translated(error, self._config.version_table)
            raise translated from translated.__cause__

    async def write(
        self, statement: Statement, source: MigrationSource, migration: Migration, **values: object
    ) -> None:
        """Run one of the statements that change the history."""
        await self.execute(statement.bind(_values(source, migration, **values), ()))

    async def has_table(self, table: str) -> bool:
        """Return whether *table* is there."""
        return bool(await self.execute(self.dialect.columns.bind({"table": table}, ())))

    async def has_history(self) -> bool:
        """Return whether the table of the history is there; it is asked for once."""
        if self._history is None:
            self._history = await self.has_table(self._config.version_table)
        return self._history

    async def make_history(self) -> None:
        """Make the table of the history, which another process may do at the same time where there is no lock yet."""
        for statement in history_file(self.dialect.name, self._config.version_table).statements(self.dialect):
            try:
                await self.run(Step(statement.text))
            except Exception as error:
                kinds = {self._config.classify(error), self._config.violation(error)}
                if self.dialect.transactional_ddl or kinds.isdisjoint({AlreadyThereError, UniqueViolationError}):
                    msg = f"cannot make the table of the history, {self._config.version_table}: {error}"
                    raise MigrationError(msg) from error
        self._history = True

    async def recorded(self, source: str) -> list[AppliedVersion]:
        """Return what the history says of the *source* of that name; nothing if there is no history."""
        if not await self.has_history():
            return []
        rows = await self.execute(self.dialect.history.bind({"source": source}, ()))
        return [
            AppliedVersion(int(version), name, checksum, datetime.fromtimestamp(float(at), UTC), _float(took), running)
            for version, name, checksum, at, took, running in rows
        ]

    async def stored_version(self, table: str) -> int:
        """Return which version of the bundled migrations *table* has; 0 if it is not there."""
        return await stored_version(self.execute, self._config.dialect, table)

    async def state(self, source: MigrationSource, direction: Direction = "up") -> SourceStatus:
        """Return what is applied of *source*; on the way down, also what somebody stopped making before it was whole.

        Raises:
            TableMismatchError: it is the bundled one, and the table is somebody else's.
        """
        try:
            recorded = await self.recorded(source.name)
        except ReadOnlyError:  # an application's role may see its tables, and not the history
            if source.table is None:
                raise
            recorded = []
        if source.table is not None:  # what the table itself says is what counts
            version = await self.stored_version(source.table)
            if version == 0 and direction == "down" and await self.has_table(source.table):
                version = source.migrations[0].version
            rows = {row.version: row for row in recorded if row.version <= version or row.running}
            if direction == "up":  # a version that is there is whole, whatever kept it from being written down
                rows |= {number: row._replace(running=None) for number, row in rows.items() if number <= version}
            recorded = [
                rows.get(each.version) or _as_applied(each) for each in source.migrations if each.version <= version
            ]
            recorded += [row for row in rows.values() if row.version > version]
        return _status(source, recorded)

    async def status(self, source: MigrationSource) -> SourceStatus:
        """Return the same, with a table that is somebody else's as a problem."""
        try:
            return await self.state(source)
        except TableMismatchError as error:
            return SourceStatus(source, [], [], [f"{source.name}: {error}"])

    async def take_lock(self) -> bool:
        """Open the transaction that holds the lock; return False if another process has it."""
        dialect = self.dialect
        try:
            for text in dialect.lock_begin:
                await self.run(Step(text), commits=False)
            if dialect.lock is None:
                return True
            rows = await self.run(dialect.lock.bind({"lock": LOCK}, ()), commits=False)
        except Exception as error:
            if self._config.classify(error) is not ContentionError:
                raise self._config.translated(error, self._config.version_table) from error
            return False
        taken = bool(rows and rows[0][0])
        for text in dialect.lock_settings if taken else (dialect.lock_end,):
            await self.execute(Step(text))
        return taken


class _Run:
    """One call's work."""

    def __init__(
        self,
        config: BaseConfig,
        on_progress: Callable[[Progress], object] | None = None,
        *,
        makes_history: bool = True,
    ) -> None:
        self._config = config
        self._dialect = config.dialect.for_table(config.version_table)
        self._on_progress = on_progress
        self._makes_history = makes_history
        self._loop = running_loop()
        self._stopped = False

    async def finish(self, work: Coroutine[Any, Any, T]) -> T:
        """Do the *work*, also when the caller is cancelled: a cancelled statement can wedge a driver.

        Then no further version is begun.
        """
        task = self._loop.create_task(work)
        _tasks.add(task)
        task.add_done_callback(_tasks.discard)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            self._stopped = True
            raise

    async def upgrade(self, sources: Iterable[MigrationSource], revision: str | None) -> list[Applied]:
        async with _Session.open(self._config) as session:
            states = [await self._settled(await session.state(source)) for source in sources]
            history = await session.has_history()
        plans = [(state, _checked(_steps(state, "up", revision), self._dialect)) for state in states]
        applied: list[Applied] = []
        for state, steps in plans:
            if history and any(each.applied_at is None for each in state.applied):
                await self._adopt(state.source)
            applied += await self._apply_all(steps)
        return applied

    async def downgrade(self, source: MigrationSource, revision: str) -> list[Applied]:
        async with _Session.open(self._config) as session:
            state = await self._settled(await session.state(source, "down"))
        return await self._apply_all(_checked(_steps(state, "down", revision), self._dialect))

    async def _settled(self, state: SourceStatus) -> SourceStatus:
        """Return *state* as it is when nobody migrates: what is half-way may be on its way in another process."""
        deadline = self._loop.time() + SETTLING
        while any(row.running for row in state.applied):
            async with self._locked(apart=True) as session:
                state = await session.state(state.source)
            if self._dialect.lock is not None or self._loop.time() > deadline:
                break
            await asyncio.sleep(_PAUSE)
        return state

    async def stamp(self, source: MigrationSource, revision: str) -> list[AppliedVersion]:
        async with self._locked() as session:
            recorded = await session.recorded(source.name)
            state = _status(source, recorded)
            version = _version(state, revision)
            await self._has_history(session)
            wanted = [each for each in source.migrations if each.version <= version]
            as_written = {(each.version, each.up.checksum, None) for each in wanted}
            kept = {row.version for row in recorded if (row.version, row.checksum, row.running) in as_written}
            for row in recorded:
                if row.version not in kept:
                    await session.execute(
                        self._dialect.forget.bind({"source": source.name, "version": row.version}, ())
                    )
            for each in wanted:
                if each.version not in kept:
                    await session.write(self._dialect.record, source, each)
            return await session.recorded(source.name)

    async def drop_history(self) -> bool:
        # A lock that is a row of it would keep it from being dropped.
        async with _Session.open(self._config) if self._dialect.lock_in_history else self._locked() as session:
            if not await session.has_history():
                return True
            if await session.execute(self._dialect.recorded.bind({"lock": LOCK}, ())):
                return False
            for statement in history_file("drop", self._config.version_table).statements(self._dialect):
                await session.execute(Step(statement.text))
        return True

    async def _adopt(self, source: MigrationSource) -> None:
        """Record what the table shows to be applied, if the role may."""
        try:
            async with self._locked() as session:
                await session.recorded(source.name)  # raises here if the role may not see it
                for each in (await session.state(source)).applied:
                    if each.applied_at is None and (migration := source.find(each.version)):
                        await session.write(self._dialect.record, source, migration)
        except ReadOnlyError:
            pass

    async def _apply_all(self, steps: Iterable[_Step]) -> list[Applied]:
        applied: list[Applied] = []
        for step in steps:
            if self._stopped:
                break
            applied += await self._apply(step)
        return applied

    async def _apply(self, step: _Step) -> list[Applied]:
        """Run a step, unless another process has done it while this one waited."""
        began = self._loop.time()
        whole = self._dialect.transactional_ddl and step.file.in_transaction
        while True:
            try:
                return await (self._apply_whole(step) if whole else self._apply_piecemeal(step))
            except _HalfWayError:
                if self._dialect.lock is not None or self._loop.time() > began + SETTLING:
                    raise
            except SQLStoreError as error:
                # What is written down as half-way, or takes its time, is not tried again.
                again = whole or not self._makes_history
                if not (again and self._was_in_the_way(error, step.source)) or self._loop.time() > began + PATIENCE:
                    raise
            await asyncio.sleep(_PAUSE)

    def _was_in_the_way(self, error: SQLStoreError, source: MigrationSource) -> bool:
        if isinstance(error, MigrationError) and isinstance(error.__cause__, Exception):
            return source.table is not None and self._config.classify(error.__cause__) is ContentionError
        return isinstance(error, ContentionError)

    async def _apply_whole(self, step: _Step) -> list[Applied]:
        """Run a step in one transaction with its row of the history."""
        applied: list[Applied] = []
        try:
            async with self._locked() as session:
                history = await self._begin(session, step)
                if history is None:
                    return []
                began = time.monotonic()
                await self._run_file(session, step)
                duration = time.monotonic() - began
                if history:
                    async with self._after(step):
                        await session.write(self._dialect.forget, step.source, step.migration)
                        if step.direction == "up":
                            await session.write(self._dialect.record, step.source, step.migration, duration=duration)
                applied = [Applied(step.source.name, step.migration, step.direction, duration)]
        except SQLStoreError as error:
            if not applied or isinstance(error, ContentionError):
                raise
            raise self._failed(step, "at its commit", error.__cause__ or error) from error.__cause__
        return applied

    async def _apply_piecemeal(self, step: _Step) -> list[Applied]:
        """Run a step whose statements commit one by one, with where it is in the history."""
        async with self._locked(apart=True) as session:
            if self._dialect.lock is None:  # but a transaction, which cannot be open while the file runs
                async with self._locked() as claim:
                    history = await self._claim(claim, step)
            else:
                history = await self._claim(session, step)
            if history is None:
                return []
            for text in self._dialect.migration_settings:
                await session.execute(Step(text))
            began = time.monotonic()
            await self._run_file(session, step, marks=history)
            applied = Applied(step.source.name, step.migration, step.direction, time.monotonic() - began)
            if history:
                done = self._dialect.mark if step.direction == "up" else self._dialect.forget
                async with self._after(step, marks=True):
                    for text in self._dialect.migration_end:
                        await session.execute(Step(text))
                    await session.write(done, step.source, step.migration, duration=applied.duration)
            return [applied]

    async def _claim(self, session: _Session, step: _Step) -> bool | None:
        """Return what `_begin` does, with the history saying that the step is being run."""
        history = await self._begin(session, step)
        if history and step.direction == "up":
            await session.write(self._dialect.forget, step.source, step.migration)
            await session.write(self._dialect.record, step.source, step.migration, running=step.file.name)
        elif history:
            await session.write(self._dialect.mark, step.source, step.migration, running=step.file.name)
        return history

    async def _begin(self, session: _Session, step: _Step) -> bool | None:
        """Return whether there is a history to write to, which is made if need be; None if there is nothing to do."""
        if self._dialect.transactional_ddl:  # where nothing else can be asked after an error
            await session.recorded(step.source.name)  # raises here if the role may not see it
        state = await session.state(step.source, step.direction)
        _refuse(state, step.direction)
        if (step.migration.version in {row.version for row in state.applied}) is (step.direction == "up"):
            return None
        following = state.pending[0] if step.direction == "up" else step.source.find(max(state.applied).version)
        if following != step.migration:
            msg = f"{step.source.name}: another process has migrated the other way: see sqlstore current, and try again"
            raise MigrationError(msg)
        return await self._has_history(session)

    async def _has_history(self, session: _Session) -> bool:
        """Return whether there is a history to write to, which is made if need be."""
        if await session.has_history():
            return True
        if self._makes_history:
            await session.make_history()
        return self._makes_history

    async def _run_file(self, session: _Session, step: _Step, *, marks: bool = False) -> None:
        statements = step.file.statements(self._dialect)
        # Without a lock, another process may have done the same.
        done = AlreadyThereError if step.direction == "up" else TableMissingError
        tolerated = {done} if self._dialect.lock_in_history and step.source.table is not None else set[type]()
        for number, statement in enumerate(statements, start=1):
            if self._on_progress is not None:
                self._on_progress(Progress(step.source.name, step.file.name, number, len(statements)))
            try:
                if marks:
                    where = f"{step.file.name}, line {statement.line}"
                    await session.write(self._dialect.mark, step.source, step.migration, running=where)
                # What an application's statement does may take any time.
                await session.run(Step(statement.text), limited=step.source.table is not None)
            except Exception as error:
                if self._config.classify(error) not in tolerated:
                    raise self._failed(step, statement.line, error, marks=marks) from error

    @asynccontextmanager
    async def _after(self, step: _Step, *, marks: bool = False) -> AsyncGenerator[None, None]:
        """Say whose file it was if the connection, as the file has left it, cannot write to the history."""
        try:
            yield
        except SQLStoreError as error:
            if isinstance(error, ContentionError) and not marks:
                raise
            at = "at its end, where a role, search path, database or transaction that it has set must not last"
            raise self._failed(step, at, error.__cause__ or error, marks=marks) from error.__cause__

    def _failed(self, step: _Step, at: int | str, error: BaseException, *, marks: bool = False) -> MigrationError:
        """Return what says that a step failed *at* a line, or otherwise."""
        name, line = step.file.name, at if isinstance(at, int) else None
        where = at if line is None else f"line {line}"
        msg = f"{name}, {where}: {' '.join(str(error).split())} ({type(error).__name__})"
        if marks:
            msg += f"; {_how_to_go_on(step.source, step.migration, name)}"
        elif self._dialect.transactional_ddl:
            msg += "; nothing of this file was kept: correct it, and run the command again"
        return MigrationError(msg, file=name, line=line)

    @asynccontextmanager
    async def _locked(self, *, apart: bool = False) -> AsyncGenerator[_Session, None]:
        """Give a session while this process holds the lock: in a transaction that is committed at the end.

        *apart*, or where DDL would end that transaction, it is one beside the session that holds the lock.
        """
        dialect = self._dialect
        patience = LONG_PATIENCE if self._makes_history else PATIENCE
        deadline = self._loop.time() + patience
        async with _Session.open(self._config) as holder:
            if await self._can_lock(holder, apart=apart):
                while not await holder.take_lock():
                    if self._loop.time() > deadline:
                        msg = f"another process has been migrating for {patience:.0f} s: try again when it is done"
                        raise ContentionError(msg)
                    await asyncio.sleep(_PAUSE)
                if dialect.transactional_ddl and not apart:
                    yield holder
                    await holder.execute(Step("COMMIT"))
                    return
                async with _Session.open(self._config) as session:
                    yield session
                await holder.execute(Step(dialect.lock_end))
            else:
                yield holder

    async def _can_lock(self, session: _Session, *, apart: bool) -> bool:
        """Return whether there is a lock to take."""
        if self._dialect.lock_in_history:
            if await session.recorded(LOCK):
                return True
            if self._makes_history:
                await session.make_history()
            return self._makes_history
        # Where it is the right to write, nobody else could write beside the one who has it.
        return self._dialect.lock is not None or not apart


def _steps(state: SourceStatus, direction: Direction, revision: str | None) -> list[_Step]:
    """Return what leads from *state* to *revision*; None is the newest version."""
    _refuse(state, direction)
    source = state.source
    current = max((row.version for row in state.applied), default=0)
    target = source.head if revision is None else _version(state, revision)
    if direction == "up":
        if revision is not None and target < current:
            msg = f"{source.name} is at {_label(source, current)}, after {_label(source, target)}: use downgrade"
            raise MigrationError(msg)
        return [_Step(source, each, "up", each.up) for each in state.pending if each.version <= target]
    steps: list[_Step] = []
    for row in sorted(state.applied, reverse=True):
        if row.version <= target:
            break
        migration = source.find(row.version)
        if migration is None or migration.down is None:
            label = f"{row.version:04}_{row.name}"
            msg = f"{source.name}: {label} cannot be undone: there is no {label}.down.sql; write it"
            raise MigrationError(msg)
        steps.append(_Step(source, migration, "down", migration.down))
    return steps


def _version(state: SourceStatus, revision: str) -> int:
    """Return the version that *revision* names, of one that is in *state*; 0 if nothing is to be applied."""
    source = state.source
    if revision == "head":
        return source.head
    if revision == "base":
        return 0
    if re.fullmatch(r"[+-]\d{1,18}", revision):
        count = int(revision[1:])
        ahead = [each.version for each in state.pending]
        behind = [0, *sorted(row.version for row in state.applied)]
        versions = [behind[-1], *ahead] if revision.startswith("+") else behind[::-1]
        if count < len(versions):
            return versions[count]
        what = "pending" if revision.startswith("+") else "applied"
        msg = f"{source.name}: {revision} is too far: {len(versions) - 1} versions are {what}"
        raise MigrationError(msg)
    for each in source.migrations:
        if revision == each.label or (revision.isdecimal() and int(revision) == each.version):
            return each.version
    msg = (
        f"{source.name}: there is no version {revision}: use head, base, +1, -1, or the number or name of a migration, "
        f"up to {_label(source, source.head)}"
    )
    raise MigrationError(msg)


def _status(source: MigrationSource, applied: list[AppliedVersion]) -> SourceStatus:
    newest = max((row.version for row in applied), default=0)
    versions = {row.version for row in applied}
    pending = [each for each in source.migrations if each.version not in versions]
    problems: list[str] = []
    for row in applied:
        migration = source.find(row.version)
        if migration is None and row.running is None and 0 < source.head < row.version:
            continue  # this is the code of an earlier release, whose tables the newer one still suits
        if migration is None:
            label = f"{row.version:04}_{row.name}"
            state = f"stopped half-way in {row.running}, unless it runs now" if row.running else "is applied"
            problems.append(f"{label} {state}, and there is no {label}.up.sql: restore the file")
        elif row.running is not None:
            where = f"{migration.label} stopped half-way in {row.running}, unless it runs now"
            problems.append(f"{where}: {_how_to_go_on(source, migration, row.running)}")
        elif row.checksum != migration.up.checksum and row.name != migration.name:
            other = f"{row.version:04}_{row.name}"
            problems.append(f"{migration.up.name} has the number of {other}, which is applied: rename it to a new one")
        elif row.checksum != migration.up.checksum:
            problems.append(
                f"{migration.up.name} was edited after it was applied: restore it and write a new migration, or, "
                f"if the database has what it says now, run sqlstore stamp"
                f"{_OF_STORE if source.table is not None else ''} {_label(source, newest)}"
            )
    problems += [
        f"{each.label} is older than {_label(source, newest)}, which is applied: rename it to a number after that"
        for each in pending
        if each.version < newest
    ]
    return SourceStatus(source, applied, pending, [f"{source.name}: {problem}" for problem in problems])


def _refuse(state: SourceStatus, direction: Direction) -> None:
    """Raise what keeps a run from beginning: of an undoing, only what is half-way."""
    half_way = any(row.running for row in state.applied)
    if state.problems and (direction == "up" or half_way):
        raise (_HalfWayError if half_way else MigrationError)("; ".join(state.problems))


def _checked(steps: list[_Step], dialect: Dialect) -> list[_Step]:
    """Return *steps*, none of which has run, if all files can be run."""
    for step in steps:
        step.file.checked_statements(dialect)
    return steps


def _how_to_go_on(source: MigrationSource, migration: Migration, where: str) -> str:
    """Return what to do about a *migration* that stopped *where* its up or down file says."""
    before = max((each.version for each in source.migrations if each.version < migration.version), default=0)
    finished, undone = f"{migration.version:04}", f"{before:04}" if before else "base"
    if ".down.sql" in where:
        finished, undone = undone, finished
    stamp = f"sqlstore stamp{_OF_STORE if source.table is not None else ''}"
    return (
        f"each statement commits by itself: either finish the file by hand and run {stamp} {finished}, "
        f"or undo by hand what it did and run {stamp} {undone}"
    )


def _label(source: MigrationSource, version: int) -> str:
    migration = source.find(version)
    return migration.label if migration else f"{version:04}" if version else "base"


def _as_applied(migration: Migration) -> AppliedVersion:
    return AppliedVersion(migration.version, migration.name, migration.up.checksum, None, None, None)


def _values(source: MigrationSource, migration: Migration, **values: object) -> dict[str, object]:
    own = {"source": source.name, "version": migration.version, "name": migration.name}
    more = {"checksum": migration.up.checksum, "now": time.time(), "duration": None, "running": None}
    return {**own, **more, **values}


def _float(value: Any) -> float | None:  # noqa: ANN401 - a database's own number
    return None if value is None else float(value)


def _literal(step: Step) -> str:
    """Return a step with its values in the text: numbers, and words of letters, digits, colons and underscores."""
    values = iter(step.parameters)

    def literal(_: re.Match[str]) -> str:
        value = next(values)
        return "NULL" if value is None else f"'{value}'" if isinstance(value, str) else repr(value)

    return _PLACEHOLDER.sub(literal, step.text.strip())
