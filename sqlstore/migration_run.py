"""Run migrations over connections of one's own: one process at a time, each version once.

Where the database's DDL is transactional, a version and its row of the history are one transaction, which also holds
the lock. Elsewhere, and for a file that must not run in a transaction, a second connection holds the lock, and the row
says where the version is, so that one that stopped half-way is known.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

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
from .migration_files import history_file
from .migration_plan import (
    AppliedVersion,
    HalfWayError,
    MigrationStep,
    SourceStatus,
    as_applied,
    checked,
    how_to_go_on,
    refuse,
    status_of,
    steps_to,
    version_of,
)

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Coroutine, Iterable, Sequence

    from .config import BaseConfig
    from .connection import StoreConnection
    from .dialects import Statement
    from .migration_files import Migration, MigrationSource
    from .migration_plan import Direction

__all__ = ("Applied", "MigrationRun", "MigrationSession", "Progress", "history_values")

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

_tasks: set[asyncio.Task[Any]] = set()


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


class MigrationSession:
    """One connection of a run, and what is read and written over it."""

    def __init__(self, config: BaseConfig, connection: StoreConnection, limit: float) -> None:
        """Give our own statements *limit* seconds at most; see `open`."""
        self._config = config
        self._connection = connection
        self._limit = limit
        self._history: bool | None = None
        self.dialect = config.dialect.for_table(config.version_table)

    @classmethod
    @asynccontextmanager
    async def open(cls, config: BaseConfig, limit: float | None = None) -> AsyncGenerator[MigrationSession, None]:
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
        await self.execute(statement.bind(history_values(source, migration, **values), ()))

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
                rows.get(each.version) or as_applied(each) for each in source.migrations if each.version <= version
            ]
            recorded += [row for row in rows.values() if row.version > version]
        return status_of(source, recorded)

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


class MigrationRun:
    """One call's work."""

    def __init__(
        self,
        config: BaseConfig,
        on_progress: Callable[[Progress], object] | None = None,
        *,
        makes_history: bool = True,
    ) -> None:
        """Make the history if there is none, or else only write to one that is there: as *makes_history* says."""
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
        """See `Migrator.upgrade`."""
        async with MigrationSession.open(self._config) as session:
            states = [await self._settled(await session.state(source)) for source in sources]
            history = await session.has_history()
        plans = [(state, checked(steps_to(state, "up", revision), self._dialect)) for state in states]
        applied: list[Applied] = []
        for state, steps in plans:
            if history and any(each.applied_at is None for each in state.applied):
                await self._adopt(state.source)
            applied += await self._apply_all(steps)
        return applied

    async def downgrade(self, source: MigrationSource, revision: str) -> list[Applied]:
        """See `Migrator.downgrade`."""
        async with MigrationSession.open(self._config) as session:
            state = await self._settled(await session.state(source, "down"))
        return await self._apply_all(checked(steps_to(state, "down", revision), self._dialect))

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
        """See `Migrator.stamp`."""
        async with self._locked() as session:
            recorded = await session.recorded(source.name)
            state = status_of(source, recorded)
            version = version_of(state, revision)
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
        """See `Migrator.drop_history`."""
        # A lock that is a row of it would keep it from being dropped.
        async with MigrationSession.open(self._config) if self._dialect.lock_in_history else self._locked() as session:
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

    async def _apply_all(self, steps: Iterable[MigrationStep]) -> list[Applied]:
        applied: list[Applied] = []
        for step in steps:
            if self._stopped:
                break
            applied += await self._apply(step)
        return applied

    async def _apply(self, step: MigrationStep) -> list[Applied]:
        """Run a step, unless another process has done it while this one waited."""
        began = self._loop.time()
        whole = self._dialect.transactional_ddl and step.file.in_transaction
        while True:
            try:
                return await (self._apply_whole(step) if whole else self._apply_piecemeal(step))
            except HalfWayError:
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

    async def _apply_whole(self, step: MigrationStep) -> list[Applied]:
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

    async def _apply_piecemeal(self, step: MigrationStep) -> list[Applied]:
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

    async def _claim(self, session: MigrationSession, step: MigrationStep) -> bool | None:
        """Return what `_begin` does, with the history saying that the step is being run."""
        history = await self._begin(session, step)
        if history and step.direction == "up":
            await session.write(self._dialect.forget, step.source, step.migration)
            await session.write(self._dialect.record, step.source, step.migration, running=step.file.name)
        elif history:
            await session.write(self._dialect.mark, step.source, step.migration, running=step.file.name)
        return history

    async def _begin(self, session: MigrationSession, step: MigrationStep) -> bool | None:
        """Return whether there is a history to write to, which is made if need be; None if there is nothing to do."""
        if self._dialect.transactional_ddl:  # where nothing else can be asked after an error
            await session.recorded(step.source.name)  # raises here if the role may not see it
        state = await session.state(step.source, step.direction)
        refuse(state, step.direction)
        if (step.migration.version in {row.version for row in state.applied}) is (step.direction == "up"):
            return None
        following = state.pending[0] if step.direction == "up" else step.source.find(max(state.applied).version)
        if following != step.migration:
            msg = f"{step.source.name}: another process has migrated the other way: see sqlstore current, and try again"
            raise MigrationError(msg)
        return await self._has_history(session)

    async def _has_history(self, session: MigrationSession) -> bool:
        """Return whether there is a history to write to, which is made if need be."""
        if await session.has_history():
            return True
        if self._makes_history:
            await session.make_history()
        return self._makes_history

    async def _run_file(self, session: MigrationSession, step: MigrationStep, *, marks: bool = False) -> None:
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
    async def _after(self, step: MigrationStep, *, marks: bool = False) -> AsyncGenerator[None, None]:
        """Say whose file it was if the connection, as the file has left it, cannot write to the history."""
        try:
            yield
        except SQLStoreError as error:
            if isinstance(error, ContentionError) and not marks:
                raise
            at = "at its end, where a role, search path, database or transaction that it has set must not last"
            raise self._failed(step, at, error.__cause__ or error, marks=marks) from error.__cause__

    def _failed(
        self, step: MigrationStep, at: int | str, error: BaseException, *, marks: bool = False
    ) -> MigrationError:
        """Return what says that a step failed *at* a line, or otherwise."""
        name, line = step.file.name, at if isinstance(at, int) else None
        where = at if line is None else f"line {line}"
        msg = f"{name}, {where}: {' '.join(str(error).split())} ({type(error).__name__})"
        if marks:
            msg += f"; {how_to_go_on(step.source, step.migration, name)}"
        elif self._dialect.transactional_ddl:
            msg += "; nothing of this file was kept: correct it, and run the command again"
        return MigrationError(msg, file=name, line=line)

    @asynccontextmanager
    async def _locked(self, *, apart: bool = False) -> AsyncGenerator[MigrationSession, None]:
        """Give a session while this process holds the lock: in a transaction that is committed at the end.

        *apart*, or where DDL would end that transaction, it is one beside the session that holds the lock.
        """
        dialect = self._dialect
        patience = LONG_PATIENCE if self._makes_history else PATIENCE
        deadline = self._loop.time() + patience
        async with MigrationSession.open(self._config) as holder:
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
                async with MigrationSession.open(self._config) as session:
                    yield session
                await holder.execute(Step(dialect.lock_end))
            else:
                yield holder

    async def _can_lock(self, session: MigrationSession, *, apart: bool) -> bool:
        """Return whether there is a lock to take."""
        if self._dialect.lock_in_history:
            if await session.recorded(LOCK):
                return True
            if self._makes_history:
                await session.make_history()
            return self._makes_history
        # Where it is the right to write, nobody else could write beside the one who has it.
        return self._dialect.lock is not None or not apart


def history_values(source: MigrationSource, migration: Migration, **values: object) -> dict[str, object]:
    """Return the values of a migration's row in the history."""
    own = {"source": source.name, "version": migration.version, "name": migration.name}
    more = {"checksum": migration.up.checksum, "now": time.time(), "duration": None, "running": None}
    return {**own, **more, **values}


def _float(value: Any) -> float | None:  # noqa: ANN401 - a database's own number
    return None if value is None else float(value)
