"""The application's own connections: the same promises over every driver."""

# ruff: noqa: ANN401 - sessions and connections are of two kinds, and each driver has types of its own
# ruff: noqa: PT012 - what raises is the end of a block, or a statement in one
# ruff: noqa: S608 - the table's name is the test's own

from __future__ import annotations

import asyncio
import secrets
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from asyncmy.cursors import DictCursor
from psycopg.rows import dict_row

from sqlstore.database_session import session_of
from sqlstore.dialects import Row
from sqlstore.exceptions import (
    CommitError,
    ContentionError,
    ForeignKeyViolationError,
    NotFoundError,
    SQLStoreError,
    TableMissingError,
    UnavailableError,
    UniqueViolationError,
)
from sqlstore.names import stored_namespace
from sqlstore.session_rows import SessionRows
from sqlstore.unit_of_work import UnitOfWork
from sqlstore.verbs import Scope, StatementVerb

from ..contract.conftest import until, until_closed
from ..servers import SERVERS, free_port

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
    from contextlib import AbstractAsyncContextManager

    from sqlstore import BaseConfig, BaseSQLSpecStore

    from ..conftest import Adapter
    from ..contract.conftest import Connections, RunScript
    from ..proxy import Proxy
    from ..servers import Server

NAMES: dict[str, dict[str, Any]] = {
    "asyncpg": {"server_settings": {"application_name": "sqlstore"}},
    "oracle": {"program": "sqlstore"},
    "oracle_sync": {"program": "sqlstore"},
    "psycopg": {"application_name": "sqlstore"},
    "psycopg_sync": {"application_name": "sqlstore"},
}
"""What lets `Connections` find the application's."""

POSTGRESQL = ("asyncpg", "psycopg", "psycopg_sync")


class Session:
    """A database session of either kind, whose verbs are awaited."""

    def __init__(self, session: Any, synchronous: bool) -> None:  # noqa: FBT001 - the one thing that differs
        """Use *session*, in threads if it is *synchronous*."""
        self._session = session
        self._synchronous = synchronous

    def __getattr__(self, name: str) -> Callable[..., Awaitable[Any]]:
        """Return a verb."""
        verb = getattr(self._session, name)

        async def call(*arguments: Any, **options: Any) -> Any:
            if self._synchronous:
                return await asyncio.to_thread(verb, *arguments, **options)
            return await verb(*arguments, **options)

        return call

    def transaction(self, **mode: Any) -> AbstractAsyncContextManager[None]:
        """See `DatabaseSession.transaction`."""
        return self._block(self._session.transaction(**mode))

    @asynccontextmanager
    async def stream(self, sql: str, parameters: Sequence[Any] = ()) -> AsyncGenerator[Any, None]:
        """See `DatabaseSession.stream`."""
        async with self._block(self._session.stream(sql, parameters)) as rows:
            yield _in_threads(rows) if self._synchronous else rows

    @asynccontextmanager
    async def _block(self, block: Any) -> AsyncGenerator[Any, None]:
        if not self._synchronous:
            async with block as result:
                yield result
            return
        result = await asyncio.to_thread(block.__enter__)
        try:
            yield result
        except BaseException as error:
            if not await asyncio.to_thread(block.__exit__, type(error), error, error.__traceback__):
                raise
        else:
            await asyncio.to_thread(block.__exit__, None, None, None)


async def _in_threads(rows: Any) -> AsyncGenerator[Any, None]:
    while (row := await asyncio.to_thread(next, rows, None)) is not None:
        yield row


class Application:
    """A config, and a table of its own with ``id`` and ``name``."""

    def __init__(self, adapter: Adapter, config: BaseConfig, table: str) -> None:
        """Use *config*, and *table*, which `create` makes."""
        self.config = config
        self.table = table
        self._placeholder = adapter.placeholder
        self._threaded = adapter.threaded

    @asynccontextmanager
    async def session(self) -> AsyncGenerator[Session, None]:
        """Give a database session, whose transaction ends with the block."""
        async with self.config.get_session() as session:
            yield Session(session, self._threaded)

    async def create(self) -> None:
        """Create the table."""
        async with self.session() as session:
            await session.execute(f"CREATE TABLE {self.table} (id INTEGER PRIMARY KEY, name VARCHAR(100))")

    @property
    def insert(self) -> str:
        """A statement with an ``id`` and a ``name``."""
        return f"INSERT INTO {self.table} (id, name) VALUES ({self.place(1)}, {self.place(2)})"

    def place(self, number: int) -> str:
        """Return a placeholder."""
        return self._placeholder.format(number)

    async def names(self) -> list[Any]:
        """Return all names, as somebody else sees them."""
        async with self.session() as session:
            rows = await session.fetch_all(f"SELECT name FROM {self.table} ORDER BY id")
        return [row["name"] for row in rows]

    async def rename(self, session: Session, number: int, name: str) -> None:
        """Change a name, for which the row must be free."""
        await session.execute(
            f"UPDATE {self.table} SET name = {self.place(1)} WHERE id = {self.place(2)}", [name, number]
        )

    async def all_work(self) -> None:
        """Use every connection of the pool at the same time."""
        async with AsyncExitStack() as stack:
            sessions = [await stack.enter_async_context(self.session()) for _ in range(self.config.pool().size)]
            for session in sessions:
                await session.fetch_all(f"SELECT id FROM {self.table}")


def _make(adapter: Adapter, place: str, size: int, **options: Any) -> Application:
    pool_config = {**adapter.pool_config(place), adapter.size: size, **NAMES.get(adapter.name, {})}
    config = adapter.config(pool_config=pool_config, extension_config={"litestar": options})
    return Application(adapter, config, f"t_{secrets.token_hex(6)}")


@pytest.fixture
async def application(adapter: Adapter, database: str) -> AsyncGenerator[Application, None]:
    """Give an application whose table is empty, with a pool of 3."""
    application = _make(adapter, database, 3)
    await application.create()
    yield application
    await application.config.pool().close()


# Statements


async def test_statements_and_what_they_return(application: Application) -> None:
    """Rows are dictionaries with the names that were written, whatever the driver makes of them."""
    table, place = application.table, application.place
    async with application.session() as session:
        assert await session.execute(application.insert, [1, "one"]) == 1
        await session.execute_many(application.insert, [(2, "two"), (3, None)])
        await session.execute_many(application.insert, [])
        found = await session.fetch_all(f"SELECT id, name FROM {table} WHERE id > {place(1)} ORDER BY id", [1])

        assert found == [{"id": 2, "name": "two"}, {"id": 3, "name": None}]
        assert await session.fetch_one(f"SELECT name FROM {table} WHERE id = {place(1)}", (3,)) == {"name": None}
        assert await session.fetch_value(f"SELECT COUNT(*) FROM {table}") == 3
        assert await session.execute(f"UPDATE {table} SET name = 'all'") == 3
        assert await session.fetch_all(f"SELECT id FROM {table} WHERE id = {place(1)}", [4]) == []
        assert await session.fetch_one(f"SELECT id FROM {table} WHERE id = 4", default=None) is None
        with pytest.raises(NotFoundError):
            await session.fetch_value(f"SELECT id FROM {table} WHERE id = 4")

    assert await application.names() == ["all", "all", "all"]


MODES = {"charset": "gbk", "cursor_cls": DictCursor, "sql_mode": "'ANSI_QUOTES,NO_BACKSLASH_ESCAPES,PIPES_AS_CONCAT'"}
SHAPES: dict[str, dict[str, Any]] = {
    "asyncmy_mariadb": MODES,
    "asyncmy_mysql": MODES,
    "psycopg": {"kwargs": {"row_factory": dict_row}},
    "psycopg_sync": {"kwargs": {"row_factory": dict_row}},
}


@pytest.mark.adapters(*SHAPES)
async def test_rows_do_not_depend_on_how_the_application_has_them(
    adapter: Adapter, application: Application, database: str
) -> None:
    """On connections of its own, it may have set that they are mappings."""
    config = adapter.config(pool_config={**adapter.pool_config(database), **SHAPES[adapter.name]})
    shaped = Application(adapter, config, application.table)
    async with shaped.session() as session:
        await session.execute(application.insert, [1, "one"])
        assert await session.fetch_one(f"SELECT id, name FROM {application.table}") == {"id": 1, "name": "one"}
        async with session.stream(f"SELECT id, name FROM {application.table}") as rows:
            assert [row async for row in rows] == [{"id": 1, "name": "one"}]
    await config.pool().close()


async def test_a_percent_sign_is_one(application: Application) -> None:
    """Where there are no parameters, nothing looks for placeholders."""
    async with application.session() as session:
        await session.execute(f"INSERT INTO {application.table} VALUES (1, '100%s %')")

    assert await application.names() == ["100%s %"]


async def test_a_broken_rule_says_which(application: Application) -> None:
    """A handler can tell it from other errors; nothing of its transaction stays."""
    other = f"o_{secrets.token_hex(6)}"
    async with application.session() as session:
        await session.execute(
            f"CREATE TABLE {other} (id INTEGER, FOREIGN KEY (id) REFERENCES {application.table} (id))"
        )
    with pytest.raises(UniqueViolationError):
        async with application.session() as session:
            await session.execute(application.insert, [1, "one"])
            await session.execute(application.insert, [1, "one"])
    with pytest.raises(ForeignKeyViolationError):
        async with application.session() as session:
            await session.execute(f"INSERT INTO {other} (id) VALUES (7)")
    async with application.session() as session:
        await session.execute(application.insert, [1, "one"])
        await session.execute(f"INSERT INTO {other} (id) VALUES (1)")
    with pytest.raises(ForeignKeyViolationError):
        async with application.session() as session:
            await session.execute(f"DELETE FROM {application.table}")

    assert await application.names() == ["one"]


# What makes a large value, where rows are, by its dialect; Oracle's strings have 4,000 bytes at most.
LARGE = {
    "mysql": (20_000, "RPAD(name, 20000, 'x')"),
    "oracle": (4_000, "RPAD(name, 4000, 'x')"),
    "postgresql": (20_000, "rpad(name, 20000, 'x')"),
    "sqlite": (20_000, "hex(zeroblob(id * 0 + 10000))"),
}


def _resident() -> int:
    """Return how many bytes of memory this process has."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


async def test_a_stream_leaves_its_rows_where_they_are(application: Application, adapter: Adapter) -> None:
    """It begins with a few of them in memory, and goes on to the last; others wait until it ends."""
    count = 2_000
    bytes_each, large = LARGE[adapter.dialect]
    async with application.session() as session:
        await session.execute_many(application.insert, [(number, "n") for number in range(count)])
    numbers: list[int] = []
    async with application.session() as session:
        before = _resident()
        async with session.stream(f"SELECT id, {large} AS large FROM {application.table} ORDER BY id") as rows:
            async for row in rows:
                if not numbers:
                    assert _resident() - before < count * bytes_each * 0.75
                    assert len(row["large"]) == bytes_each
                numbers.append(row["id"])
        assert await session.fetch_value(f"SELECT COUNT(*) FROM {application.table}") == count

    assert numbers == list(range(count))


async def test_a_stream_may_be_left_early(application: Application) -> None:
    """The connection is then as good as before, and so is the transaction."""
    async with application.session() as session:
        await session.execute_many(application.insert, [(number, "n") for number in range(1200)])
        async with session.stream(
            f"SELECT id FROM {application.table} WHERE id >= {application.place(1)}", [0]
        ) as rows:
            first = await anext(aiter(rows))
        await session.execute(f"DELETE FROM {application.table} WHERE id > 1")

    assert first.keys() == {"id"}
    assert await application.names() == ["n", "n"]


# Transactions


async def test_a_savepoint_is_undone_alone(application: Application) -> None:
    """Blocks within blocks: what failed is gone, what was before and after it stays."""
    async with application.session() as session:
        await session.execute(application.insert, [1, "before"])
        with pytest.raises(UniqueViolationError):
            async with session.transaction():
                await session.execute(application.insert, [2, "within"])
                async with session.transaction():
                    await session.execute(application.insert, [3, "further within"])
                await session.execute(application.insert, [1, "again"])
        async with session.transaction():
            await session.execute(application.insert, [4, "after"])

    assert await application.names() == ["before", "after"]


async def test_an_exception_undoes_all_of_it(application: Application) -> None:
    """Of a block of the config's, and of a transaction in manual mode."""
    with pytest.raises(LookupError):
        async with application.session() as session:
            await session.execute(application.insert, [1, "one"])
            raise LookupError

    assert await application.names() == []


async def test_in_manual_mode_a_statement_commits_by_itself(adapter: Adapter, database: str) -> None:
    """But for those of a block, which are one transaction."""
    application = _make(adapter, database, 3, commit_mode="manual")
    await application.create()
    async with application.session() as session:
        await session.execute(application.insert, [1, "one"])
        assert await application.names() == ["one"]
        with pytest.raises(LookupError):
            async with session.transaction():
                await session.execute(application.insert, [2, "two"])
                raise LookupError
        async with session.transaction():
            await session.execute(application.insert, [3, "three"])
            if application.config.dialect.name != "sqlite":  # whose readers would wait
                assert await application.names() == ["one"]
        assert await application.names() == ["one", "three"]
    await application.config.pool().close()


async def test_isolation_levels_and_reading_only(
    adapter: Adapter, database: str, request: pytest.FixtureRequest
) -> None:
    """Each level that the database has; a write is refused where there are to be none, and not later."""
    application = _make(adapter, database, 1, commit_mode="manual")
    await application.create()
    levels = sorted(application.config.dialect.isolation_levels)
    modes: list[dict[str, Any]] = [{"read_only": True}, {"read_only": True, "isolation_level": "serializable"}]
    if adapter.networked and request.getfixturevalue("server").emulated:
        levels, modes = [], []  # Oracle's emulator has one level, and does not know what READ ONLY means
    async with application.session() as session:
        for level in levels:
            async with session.transaction(isolation_level=level.lower().replace(" ", "_")):
                await session.execute(application.insert, [len(level), level])
        for mode in modes:
            with pytest.raises(Exception, match=r"(?i)read.?only"):  # the driver's own
                async with session.transaction(**mode):
                    assert await session.fetch_value(f"SELECT COUNT(*) FROM {application.table}")
                    await session.execute(application.insert, [0, "refused"])
        await session.execute(application.insert, [0, "later"])
        with pytest.raises(ValueError, match="unknown isolation_level 'chaos'"):
            async with session.transaction(isolation_level="chaos"):
                pass

    assert len(await application.names()) == len(levels) + 1
    await application.config.pool().close()


@pytest.mark.adapters("asyncpg", "psycopg")
async def test_a_transaction_of_the_driver_s_own_is_a_savepoint(application: Application) -> None:
    """On the connection that a request's transaction is open on."""
    async with application.config.provide_connection() as connection:
        async with connection.transaction():
            await connection.execute(f"INSERT INTO {application.table} VALUES (1, 'one')")
        with pytest.raises(LookupError):
            async with connection.transaction():
                await connection.execute(f"INSERT INTO {application.table} VALUES (2, 'two')")
                raise LookupError
        assert await application.names() == []

    assert await application.names() == ["one"]


@pytest.mark.adapters("psycopg_sync")
async def test_a_synchronous_transaction_of_the_driver_s_own_is_a_savepoint(application: Application) -> None:
    """See above."""

    def work(connection: Any) -> None:
        with connection.transaction():
            connection.execute(f"INSERT INTO {application.table} VALUES (1, 'one')")
        with pytest.raises(LookupError), connection.transaction():
            connection.execute(f"INSERT INTO {application.table} VALUES (2, 'two')")
            raise LookupError

    async with application.config.provide_connection() as connection:
        await asyncio.to_thread(work, connection)
        assert await application.names() == []

    assert await application.names() == ["one"]


# A commit tells the truth


@pytest.mark.adapters(*POSTGRESQL)
async def test_what_a_failed_transaction_commits_is_nothing(application: Application) -> None:
    """The server answers COMMIT with ROLLBACK, and no error."""
    with pytest.raises(CommitError, match="answered COMMIT with ROLLBACK"):
        async with application.session() as session:
            await session.execute(application.insert, [1, "one"])
            with pytest.raises(UniqueViolationError):
                await session.execute(application.insert, [1, "one"])

    assert await application.names() == []


@pytest.mark.adapters("asyncmy_mariadb", "asyncmy_mysql")
async def test_what_a_deadlock_undid_is_not_committed_piecemeal(application: Application) -> None:
    """The server has ended the transaction: what came after would be committed statement by statement."""
    async with application.session() as session:
        await session.execute_many(application.insert, [(number, "kept") for number in (1, 2)])

    async def swap(first: int, second: int, met: asyncio.Barrier) -> None:
        async with application.session() as session:
            await application.rename(session, first, f"first {first}")
            await met.wait()
            try:
                await application.rename(session, second, f"second {first}")
            except ContentionError:  # a handler that goes on as if nothing had happened
                await session.execute(application.insert, [10, "piecemeal"])

    met = asyncio.Barrier(2)
    results = await asyncio.gather(swap(1, 2, met), swap(2, 1, met), return_exceptions=True)
    [failed] = [result for result in results if result is not None]

    assert isinstance(failed, SQLStoreError)
    assert "undone" in str(failed)
    winner = 1 + results.index(None)
    expected = {winner: f"first {winner}", 3 - winner: f"second {winner}"}
    assert await application.names() == [expected[1], expected[2]]


# A store's statements


class Work:
    """What an application and a store do in one transaction."""

    def __init__(self, unit: UnitOfWork, store: BaseSQLSpecStore[Any], session: Session) -> None:
        """Work in *unit*, of which *session* is, and in the table of *store*."""
        self.unit = unit
        self.session = session
        sql = store.config.dialect.for_table(store.table_name)
        self._scope = Scope(store.table_name, stored_namespace(store.namespace), sql, _expires_at)

    async def run(self, name: str, *rows: Row, **values: object) -> list[tuple[Any, ...]]:
        """Run the statement that the dialect has under *name*."""
        verb = StatementVerb(self._scope, getattr(self._scope.sql, name), values)
        return [tuple(row) for row in await self.unit.run(verb.step(rows), self._scope.table)]


def _expires_at(lifetime: float | None) -> datetime | None:
    return None if lifetime is None else datetime.now(UTC) + timedelta(seconds=lifetime)


class Together:
    """An application, and a store over the same config."""

    def __init__(self, adapter: Adapter, application: Application) -> None:
        """Use the config of *application*."""
        self.application = application
        self.store = adapter.store(application.config)

    @asynccontextmanager
    async def work(self) -> AsyncGenerator[Work, None]:
        """Begin a transaction, which ends with the block."""
        config = self.application.config
        unit = UnitOfWork(config, config.commit_rule.mode)
        try:
            yield Work(unit, self.store, Session(session_of(unit), unit.pool.synchronous))
        except Exception:
            await unit.end(commit=False)
            raise
        except BaseException:
            unit.abandon("the block was cancelled")
            raise
        await unit.end(commit=True)

    async def close(self) -> None:
        """Leave no table of the store's, and no connection."""
        await self.store.drop_table()
        await self.store.close()
        await self.application.config.pool().close()


@pytest.fixture
async def together(adapter: Adapter, database: str) -> AsyncGenerator[Together, None]:
    """Give an application and a store, whose tables are empty."""
    together = Together(adapter, _make(adapter, database, 3, session_table=f"s_{secrets.token_hex(6)}", timeout=3))
    await together.application.create()
    await together.store.create_table()
    yield together
    await together.close()


VALUES = {"a": b"", "b": bytes(range(56, 256)), "c": bytes(range(256)) * 400}
"""Of 0 bytes, 200 bytes and 100 KB."""


@pytest.mark.parametrize("end", ["committed", "rolled back"])
async def test_a_store_s_statements_in_the_application_s_transaction(together: Together, end: str) -> None:
    """Each does what it does for a store, and all of them are committed with the application's rows, or none is."""
    store, application = together.store, together.application
    await store.set("gone", b"before")

    async def work() -> None:
        async with together.work() as work:
            run = work.run
            await run("upsert", *(Row(key, value, None, None, 1) for key, value in VALUES.items()))
            await work.session.execute(application.insert, [1, "one"])
            found = await run("select", *map(Row, ["a", "b", "c", "none"]))
            assert {row[0]: row[1:] for row in found} == {key: (value, 1, None) for key, value in VALUES.items()}

            assert [row[0] for row in await run("add", Row("d", VALUES["b"], 60, None, 2), principal="p")] == ["d"]
            assert await run("add", Row("a", b"is there", None, None, 3), principal=None) == []
            assert [row[0] for row in await run("compare_and_set", Row("b", VALUES["c"], version=4), expected=1)] == [
                "b"
            ]
            assert await run("compare_and_set", Row("b", b"is another", version=5), expected=1) == []
            assert [row[0] for row in await run("compare_and_set", Row("c", b"", version=6), expected=1)] == ["c"]
            assert await run("renew", Row("a", lifetime=600), Row("d", lifetime=600)) == [("d", VALUES["b"], 2)]
            await run("touch", Row("d", lifetime=1200, version=2), Row("none", lifetime=1200, version=2))
            assert [(key, 1100 < left <= 1200) for key, left in await run("select_expiry", Row("d"))] == [("d", True)]
            for number in (1, 2):
                counted = await run("increment", Row("number", b"", 60, None, number), amount=5)
                assert counted == [("number", b"%d" % (number * 5))]
            assert await run("pop", Row("number")) == [("number", b"10")]
            await run("delete", Row("gone"), Row("none"))
            await run("upsert", Row("old", VALUES["c"], -1, None, 7))
            assert [row[0] for row in await run("delete_expired", Row("a"), Row("old"))] == ["old"]

            assert await store.get_many(["a", "gone"]) == {"gone": b"before"}
            if end == "rolled back":
                raise LookupError

    if end == "committed":
        await work()
        assert await application.names() == ["one"]
        expected = {"a": b"", "b": VALUES["c"], "c": b"", "d": VALUES["b"]}
    else:
        with pytest.raises(LookupError):
            await work()
        assert await application.names() == []
        expected = {"gone": b"before"}

    assert await store.get_many([*VALUES, "d", "gone", "number", "old"]) == expected


@pytest.mark.parametrize("end", ["committed", "rolled back"])
async def test_a_store_s_session_is_committed_with_the_application_s_rows(together: Together, end: str) -> None:
    """Whatever becomes of it: it begins, is saved and moved, gets another expiry, or ends."""
    store, application = together.store, together.application
    rows = SessionRows(store, 600, 3600)
    versions = {key: await rows.add(key, b"before", None) for key in ("ended", "saved", "touched")}
    before = await rows.load(*versions)

    async def work() -> None:
        async with together.work() as work:
            via = work.unit
            await work.session.execute(application.insert, [1, "one"])
            assert await rows.add("begun", VALUES["c"], "p", via)
            assert not await rows.add("begun", b"again", "p", via)
            expected = versions["saved"]
            assert await rows.save("saved", VALUES["c"], expected, principal="p", new_key="moved", via=via)
            assert not await rows.save("saved", b"late", expected, principal="p", new_key="lost", via=via)
            seen = (await rows.load("saved", "moved", via=via)).values()
            assert [(one.key, one.data) for one in seen] == [
                ("moved", VALUES["c"]) if together.store.config.dialect.one_writer else ("saved", b"before")
            ]
            assert [await rows.touch(key, via) for key in ("touched", "saved")] == [True, False]
            assert [await rows.delete(key, via) for key in ("ended", "saved")] == [True, False]
            assert await rows.of_principal("p") == []
            if end == "rolled back":
                raise LookupError

    if end == "committed":
        await work()
        expected = {"begun": (VALUES["c"], "p"), "moved": (VALUES["c"], "p"), "touched": (b"before", None)}
    else:
        with pytest.raises(LookupError):
            await work()
        expected = dict.fromkeys(versions, (b"before", None))
    after = await rows.load("begun", "lost", "moved", *versions)

    assert {key: (session.data, session.principal) for key, session in after.items()} == expected
    assert (after["touched"].updated_at > before["touched"].updated_at) is (end == "committed")
    assert await application.names() == ["one"] * (end == "committed")


@pytest.mark.adapters(*POSTGRESQL)
async def test_a_store_s_statement_has_a_plan_for_the_table_as_it_is(
    adapter: Adapter, server: Server, fresh_database: str
) -> None:
    """And not for what it was when the connection ran the statement for the first time: empty."""
    count = 100_000
    together = Together(adapter, _make(adapter, fresh_database, 1))
    table = together.store.table_name
    rows = SessionRows(together.store, 600, None)
    await together.store.create_table()
    await server.fetch(f"ALTER TABLE {table} SET (autovacuum_enabled = off)", fresh_database)

    async def work(key: str) -> int:
        async with together.work() as work:
            version = await rows.add(key, b"", "p", work.unit)
            await rows.touch(key, work.unit)
            await rows.save(key, b"", version, principal="p", new_key=f"{key}+", via=work.unit)
            await rows.delete(f"{key}+", work.unit)
            await work.run("upsert", Row(key, b"", 60, None, 1))
            await work.run("renew", Row(key, lifetime=120))
            await work.run("delete", Row(key))
            read = f"SELECT seq_tup_read + idx_tup_fetch FROM pg_stat_xact_user_tables WHERE relname = '{table}'"
            return int(await work.session.fetch_value(read))

    for number in range(8):  # from the 6th time on, a prepared statement may have a plan for any parameters
        await work(f"before {number}")
    await server.fetch(
        f"""
        INSERT INTO {table} (namespace, session_id, data, version, created_at, updated_at)
        SELECT '/LITESTAR/', 'row' || number, '', number, now(), now()
          FROM generate_series(1, {count}) AS number
        """,
        fresh_database,
    )
    read = await work("after")
    await together.close()

    assert read < 100


@pytest.mark.adapters(*SHAPES)
async def test_a_store_s_statement_does_not_depend_on_how_the_application_s_connection_is_set(
    adapter: Adapter, together: Together, database: str
) -> None:
    """Neither its values nor its rows."""
    pool_config = {**adapter.pool_config(database), **SHAPES[adapter.name]}
    config = adapter.config(pool_config=pool_config, extension_config=together.application.config.extension_config)
    shaped = Together(adapter, Application(adapter, config, together.application.table))
    value = VALUES["c"] + "中\\'".encode()
    async with shaped.work() as work:
        await work.run("upsert", Row("k", value, None, None, 1))
        found = await work.run("select", Row("k"))
        counted = await work.run("increment", Row("number", b"", None, None, 1), amount=-5)
    await config.pool().close()

    assert found == [("k", value, 1, None)]
    assert counted == [("number", b"-5")]
    assert await together.store.get("k") == value


async def test_a_store_s_statement_that_fails_is_the_store_s_error(together: Together) -> None:
    """It says what to do, and leaves a connection that is as good as before."""
    store = together.store
    await store.drop_table()
    with pytest.raises(TableMissingError, match=f"table {store.table_name} does not exist: await"):
        async with together.work() as work:
            await work.run("upsert", Row("k", b"v", None, None, 1))
    await store.create_table()
    await together.application.all_work()
    async with together.work() as work:
        await work.run("upsert", Row("k", b"v", None, None, 1))

    assert await store.get("k") == b"v"


async def test_a_store_s_statement_is_part_of_a_transaction(adapter: Adapter, database: str) -> None:
    """In manual mode of that of a block; by itself it might be committed in part."""
    table = f"s_{secrets.token_hex(6)}"
    together = Together(adapter, _make(adapter, database, 3, session_table=table, commit_mode="manual"))
    await together.store.create_table()
    row = Row("k", b"v", None, None, 1)
    async with together.work() as work:
        with pytest.raises(SQLStoreError, match="manual mode"):
            await work.run("upsert", row)
        with pytest.raises(LookupError):
            async with work.session.transaction():
                await work.run("upsert", row)
                raise LookupError
        async with work.session.transaction():
            await work.run("add", row, principal=None)

    assert await together.store.get("k") == b"v"
    await together.close()


async def test_a_store_s_statement_waits_for_a_row_that_is_held(together: Together) -> None:
    """It takes effect when the other transaction has ended."""
    row = Row("k", b"v", None, None, 2)
    await together.store.set("k", b"before")

    async def wait() -> None:
        async with together.work() as work:
            await work.run("upsert", row)

    async with together.work() as holder:
        await holder.run("upsert", row._replace(data=b"first", version=1))
        waiting = asyncio.create_task(wait())
        await asyncio.sleep(0.3)
        assert not waiting.done()
    await waiting

    assert await together.store.get("k") == b"v"


async def test_a_store_s_statement_waits_no_longer_than_a_store(together: Together) -> None:
    """For a row that another transaction holds; nothing of its own stays, and the pool is as good as new."""
    row = Row("k", b"v", None, None, 1)
    await together.store.set("k", b"before")
    async with together.work() as holder:
        await holder.run("upsert", row)
        async with asyncio.timeout(20):
            with pytest.raises(CommitError):
                async with together.work() as work:
                    if together.application.config.dialect.name != "sqlite":
                        await work.session.execute(together.application.insert, [1, "one"])
                    with pytest.raises((ContentionError, UnavailableError)):
                        await work.run("upsert", row._replace(data=b"too late"))
                    with pytest.raises(SQLStoreError):  # somebody goes on as if nothing had happened
                        await work.run("upsert", row._replace(key="other"))
    await together.application.all_work()

    assert await together.store.get_many(["k", "other"]) == {"k": b"v"}
    assert await together.application.names() == []


async def test_a_cancelled_statement_of_a_store_costs_no_connection(together: Together) -> None:
    """Nor does it take effect, nor anything else of its transaction."""
    row = Row("k", b"v", None, None, 1)

    async def wait(number: int) -> None:
        async with together.work() as work:
            if together.application.config.dialect.name != "sqlite":
                # Another one each time: a server may take a moment to see that a connection has gone.
                await work.session.execute(together.application.insert, [number, "cancelled"])
            await work.unit.connection()
            ready.set()
            with pytest.raises(asyncio.CancelledError):
                await work.run("upsert", row._replace(data=b"cancelled"))
            assert not work.unit.alive
            raise asyncio.CancelledError

    await together.store.set("k", b"before")
    async with together.work() as holder:
        await holder.run("upsert", row)
        for number in range(4):
            ready = asyncio.Event()
            waiting = asyncio.create_task(wait(number))
            await ready.wait()
            await asyncio.sleep(0.1)
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
    await together.application.all_work()

    assert await together.store.get("k") == b"v"
    assert await together.application.names() == []


async def test_a_lost_connection_is_the_store_s_error(together: Together, server: Server, database: str) -> None:
    """And the next transaction has another one."""
    row = Row("k", b"v", None, None, 1)
    with pytest.raises((UnavailableError, ContentionError)):
        async with together.work() as work:
            await work.run("upsert", row)
            await server.kill_connections(database)
            await work.run("upsert", row)
    async with together.work() as work:
        await work.run("upsert", row._replace(key="other"))

    assert await together.store.get_many(["k", "other"]) == {"other": b"v"}


# Trouble


async def test_a_cancelled_statement_costs_no_connection(application: Application) -> None:
    """Nor does it take effect: it waits for a row that is held, and its connection is dropped."""
    async with application.session() as session:
        await session.execute(application.insert, [1, "one"])

    async def wait() -> None:
        async with application.session() as session:
            if application.config.dialect.name != "sqlite":
                await session.execute(application.insert, [2, "two"])
            await application.rename(session, 1, "cancelled")

    async with application.session() as holder:
        await application.rename(holder, 1, "held")
        for _ in range(4):
            waiting = asyncio.create_task(wait())
            await asyncio.sleep(0.1)
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
    await application.all_work()

    assert await application.names() == ["held"]


async def test_a_pool_gives_no_more_than_it_has(adapter: Adapter, database: str) -> None:
    """Who waits for too long is told so, and who gave up waiting costs nothing."""
    application = _make(adapter, database, 2, timeout=0.3)
    await application.create()
    async with AsyncExitStack() as stack:
        for _ in range(2):
            session = await stack.enter_async_context(application.session())
            await session.fetch_all(f"SELECT id FROM {application.table}")
        with pytest.raises(UnavailableError, match="all 2 of this pool are in use"):
            await application.names()
    await application.all_work()
    await application.config.pool().close()


async def test_a_server_that_was_restarted_is_used_again(adapter: Adapter, private_server: Server) -> None:
    """Without an error: what the pool holds is known to be lost."""
    dsn = await private_server.create_database()
    application = _make(adapter, dsn, 2, timeout=3)
    await application.create()
    await application.all_work()
    await asyncio.to_thread(private_server.stop)
    await asyncio.to_thread(private_server.start)

    await application.all_work()

    await asyncio.to_thread(private_server.stop)
    with pytest.raises(UnavailableError):
        await application.names()
    await application.config.pool().close()


async def test_a_lost_connection_is_an_error_of_ours(application: Application, server: Server, database: str) -> None:
    """And the next request has another one."""
    with pytest.raises((UnavailableError, ContentionError)):  # asyncmy: it was noticed before anything was sent
        async with application.session() as session:
            await session.execute(application.insert, [1, "one"])
            await server.kill_connections(database)
            await session.execute(application.insert, [2, "two"])
    await application.all_work()

    assert await application.names() == []


@pytest.mark.adapters(*POSTGRESQL, "asyncmy_mariadb", "asyncmy_mysql")
async def test_a_frozen_server_is_not_waited_for(
    adapter: Adapter, application: Application, database: str, proxy: Proxy
) -> None:
    """Neither by who begins a transaction nor by the end of the pool.

    Oracle's transactions begin with their first statement, whose time is the application's.
    """
    through = _make(adapter, SERVERS[adapter.database].through(database, proxy.port), 2, timeout=0.5)
    through.table = application.table
    await through.all_work()
    proxy.freeze()
    async with asyncio.timeout(20):
        with pytest.raises(UnavailableError):
            await through.names()
        await through.config.pool().close()
    proxy.thaw()


async def test_a_server_that_is_not_there_is_named_at_once(adapter: Adapter, server: Server) -> None:
    """Nothing tries again in the background."""
    application = _make(adapter, SERVERS[adapter.database].through(server.dsn, free_port()), 2)
    before = asyncio.all_tasks()
    async with asyncio.timeout(15):
        with pytest.raises(UnavailableError, match="pool_config"):
            await application.names()

    await application.config.pool().close()
    assert asyncio.all_tasks() == before


# From open to closed


async def test_a_closed_pool_leaves_nothing_and_opens_again(application: Application, connections: Connections) -> None:
    """As often as an application is started."""
    for _ in range(2):
        await application.all_work()
        assert len(await connections()) >= 3
        await application.config.pool().close()
        await until_closed(connections)


async def test_each_event_loop_has_a_pool_of_its_own(application: Application, connections: Connections) -> None:
    """It is closed with its loop, also if nobody does it."""
    await application.config.pool().close()
    for _ in range(3):
        await asyncio.to_thread(asyncio.run, application.all_work())

    await until_closed(connections)


PROGRAMS = {
    "loops that end": """
for _ in range(5):
    asyncio.run(use())
pause()
""",
    "loops that are closed without more ado": """
for _ in range(5):
    loop = asyncio.new_event_loop()
    loop.run_until_complete(use())
    loop.close()
del loop
asyncio.run(use())
gc.collect()
pause()
""",
    "a loop that ends while a connection is in use": """
async def leave():
    holding = asyncio.Event()
    task = asyncio.create_task(hold(holding))
    await holding.wait()

async def hold(holding):
    async with config.provide_connection():
        await use(in_use=1)
        holding.set()
        await asyncio.sleep(60)

for _ in range(3):
    asyncio.run(leave())
pause()
""",
    "a config that is forgotten in a closed loop": """
loop = asyncio.new_event_loop()
loop.run_until_complete(use())
loop.close()
del store, config, use
gc.collect()
pause()
""",
}
USE = """
logging.getLogger("psycopg.pool").setLevel(logging.ERROR)  # it warns of each connection that was dropped
if type(config).__name__ == "PsycopgAsyncConfig":
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)  # which tells of the pool's own tasks in a closed loop

async def use(in_use=0):
    async with config.provide_connection(), config.provide_connection():
        pass
    while config.pool().in_use > in_use:  # given back in the background
        await asyncio.sleep(0.01)

"""


@pytest.mark.parametrize("program", PROGRAMS)
async def test_a_program_leaves_no_warnings_and_no_connections(
    application: Application, connections: Connections, run_script: RunScript, program: str
) -> None:
    """Whatever becomes of its event loops; a connection is closed with its loop, or with the next pool."""
    await application.config.pool().close()
    script = await run_script(USE + PROGRAMS[program], application.config)
    await script.paused()

    async def closed() -> bool:
        return not await connections(script.pid)

    await until(closed)  # a thread that was told to end takes a moment
    await script.go_on()
    await script.succeeds()
