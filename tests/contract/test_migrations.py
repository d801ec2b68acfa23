"""Migrations: each version once and in order, and what is written down of it."""

from __future__ import annotations

import asyncio
import re
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from sqlstore import MigrationError, TableMismatchError
from sqlstore.migration_files import SQLFile
from sqlstore.migration_run import MigrationRun
from sqlstore.migrator import Migrator

from .conftest import until
from .test_table import TABLES

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from sqlstore import BaseConfig
    from sqlstore.migration_run import Progress

    from ..conftest import Adapter, MakeConfig
    from .conftest import SQL

    MakeMigrator = Callable[[], Migrator]

STORE = "0001_create_session_table"
ALONE = "-- sqlstore: no-transaction\n"
STEPWISE = {"mysql", "oracle"}
"""Dialects in which each statement of DDL commits by itself."""


@pytest.fixture
def config(adapter: Adapter, make_config: MakeConfig, fresh_database: str, tmp_path: Path) -> BaseConfig:
    """Return a config over an empty database, whose application has migrations."""
    made = make_config(dsn=fresh_database)
    (tmp_path / "migrations").mkdir()
    return adapter.config(
        pool_config=adapter.pool_config(fresh_database),
        extension_config={**made.extension_config, "migrations": {"script_location": tmp_path / "migrations"}},
    )


@pytest.fixture
def make_migrator(config: BaseConfig) -> MakeMigrator:
    """Return a function that makes a migrator of the files as they are then."""
    return lambda: Migrator(config)


class Folder:
    """The application's migrations."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def write(self, label: str, up: str, down: str | None = None) -> None:
        """Write the files of one version."""
        (self.path / f"{label}.up.sql").write_text(up)
        if down is not None:
            (self.path / f"{label}.down.sql").write_text(down)

    def write_three(self) -> None:
        """Write three versions that can be undone."""
        self.write("0001_create_a", "CREATE TABLE a (id integer);\nINSERT INTO a VALUES (1);\n", "DROP TABLE a;")
        self.write("0002_create_b", "CREATE TABLE b (id integer);\n", "DROP TABLE b;")
        self.write("0003_fill_b", "INSERT INTO b VALUES (3);\nINSERT INTO b VALUES (4);", "DELETE FROM b;")


@pytest.fixture
def folder(config: BaseConfig) -> Folder:
    """Return the folder of the application's migrations."""
    assert config.script_location is not None
    return Folder(config.script_location)


class Look:
    """What the database has."""

    def __init__(self, sql: SQL, dialect: str, database: str) -> None:
        self._sql = sql
        self._dialect = dialect
        self._database = database

    async def tables(self) -> set[str]:
        """Return the names of the application's tables."""
        names = {name.lower().removeprefix("public.") for (name,) in await self.rows(TABLES[self._dialect])}
        return {name for name in names if not name.startswith(("test_", "sqlstore_"))}

    async def rows(self, text: str) -> list[tuple[Any, ...]]:
        """Return what a query answers."""
        return await self._sql(text, self._database)


@pytest.fixture
def look(sql: SQL, adapter: Adapter, fresh_database: str) -> Look:
    """Return what looks at the database past the migrator."""
    return Look(sql, adapter.dialect, fresh_database)


async def _applied(migrator: Migrator) -> list[list[int]]:
    return [[row.version for row in status.applied] for status in await migrator.status()]


# Up


async def test_what_is_pending_is_applied_in_order(make_migrator: MakeMigrator, folder: Folder, look: Look) -> None:
    """The stores' table first, then the application's migrations; a second run finds nothing to do."""
    folder.write_three()
    before = await make_migrator().status()
    applied = await make_migrator().upgrade()
    after = await make_migrator().status()

    assert [[each.label for each in status.pending] for status in before] == [
        [STORE],
        ["0001_create_a", "0002_create_b", "0003_fill_b"],
    ]
    assert [(each.source.partition(":")[0], each.migration.label, each.direction) for each in applied] == [
        ("store", STORE, "up"),
        ("application", "0001_create_a", "up"),
        ("application", "0002_create_b", "up"),
        ("application", "0003_fill_b", "up"),
    ]
    assert [[row.version for row in status.applied] for status in after] == [[1], [1, 2, 3]]
    assert not any(status.pending or status.problems for status in after)
    assert await look.rows("SELECT id FROM b ORDER BY id") == [(3,), (4,)]
    assert await make_migrator().upgrade() == []


async def test_the_history_says_what_when_and_how_long(make_migrator: MakeMigrator, folder: Folder) -> None:
    """Names and checksums as the files have them, and instants of the database's clock."""
    folder.write_three()
    await make_migrator().upgrade()
    _, status = await make_migrator().status()

    assert [(row.name, row.checksum, row.running) for row in status.applied] == [
        (each.name, each.up.checksum, None) for each in status.source.migrations
    ]
    for row in status.applied:
        assert row.applied_at is not None
        assert abs(row.applied_at - datetime.now(UTC)) < timedelta(minutes=5)
        assert row.duration is not None
        assert 0 <= row.duration < 60


async def test_looking_changes_nothing(make_migrator: MakeMigrator, folder: Folder, look: Look) -> None:
    """Not even the table of the history is made by it."""
    folder.write_three()
    await make_migrator().status()
    problems = await make_migrator().check()
    planned = await make_migrator().plan("up")

    assert [problem.rpartition(": ")[2] for problem in problems] == ["run sqlstore upgrade"] * 4
    assert [file.name for file in planned] == [
        f"{label}.up.sql" for label in (STORE, "0001_create_a", "0002_create_b", "0003_fill_b")
    ]
    assert await look.rows(TABLES[_dialect(make_migrator)]) == []


def _dialect(make_migrator: MakeMigrator) -> str:
    name: str = make_migrator()._config.dialect.name  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]
    return name


@pytest.mark.parametrize(
    ("revision", "versions"),
    [("head", [1, 2, 3]), ("+1", [1]), ("2", [1, 2]), ("0002", [1, 2]), ("0002_create_b", [1, 2]), ("+0", [])],
)
async def test_a_revision_is_a_number_a_name_or_a_distance(
    make_migrator: MakeMigrator, folder: Folder, revision: str, versions: list[int]
) -> None:
    """It is of the application's migrations; the stores' are left alone."""
    folder.write_three()
    await make_migrator().upgrade(revision)

    assert await _applied(make_migrator()) == [[], versions]


@pytest.mark.parametrize(
    ("revision", "source", "message"),
    [
        ("7", None, r"application: there is no version 7: use head, .* up to 0003_fill_b"),
        ("0001_create_b", None, "there is no version 0001_create_b"),
        ("+4", None, r"\+4 is too far: 3 versions are pending"),
        ("2", "store", "there is no version 2: .* up to 0001_create_session_table"),
        ("head", "stores", "there is no source stores: use store or application"),
    ],
)
@pytest.mark.adapters("sqlite")  # no database is needed to know it
async def test_an_unknown_revision_is_refused(
    make_migrator: MakeMigrator, folder: Folder, revision: str, source: str | None, message: str
) -> None:
    """The error says what there is."""
    folder.write_three()
    with pytest.raises(MigrationError, match=message):
        await make_migrator().upgrade(revision, source)

    assert await _applied(make_migrator()) == [[], []]


@pytest.mark.adapters("asyncpg", "asyncmy_mysql", "sqlite")
async def test_each_statement_is_announced(make_migrator: MakeMigrator, folder: Folder) -> None:
    """Before it runs, for whoever watches."""
    folder.write_three()
    seen: list[Progress] = []
    await make_migrator().upgrade("head", on_progress=seen.append)

    assert [each[1:] for each in seen] == [
        ("0001_create_a.up.sql", 1, 2),
        ("0001_create_a.up.sql", 2, 2),
        ("0002_create_b.up.sql", 1, 1),
        ("0003_fill_b.up.sql", 1, 2),
        ("0003_fill_b.up.sql", 2, 2),
    ]


# What stops a run


async def test_an_edited_file_stops_the_run(make_migrator: MakeMigrator, folder: Folder, look: Look) -> None:
    """It is named, and nothing runs, of no source."""
    folder.write_three()
    await make_migrator().upgrade("2")
    folder.write("0001_create_a", "CREATE TABLE a (id bigint);\n")
    with pytest.raises(MigrationError, match=r"0001_create_a\.up\.sql was edited after it was applied: restore it"):
        await make_migrator().upgrade()

    assert await _applied(make_migrator()) == [[], [1, 2]]
    assert any("0001_create_a.up.sql was edited" in problem for problem in await make_migrator().check())
    assert await look.rows("SELECT id FROM b") == []


@pytest.mark.adapters("asyncpg", "asyncmy_mysql", "sqlite")
async def test_a_file_that_was_applied_must_be_there(make_migrator: MakeMigrator, folder: Folder) -> None:
    """Without it, nobody knows what the database has."""
    folder.write_three()
    await make_migrator().upgrade("2")
    (folder.path / "0002_create_b.up.sql").unlink()
    (folder.path / "0002_create_b.down.sql").unlink()

    with pytest.raises(MigrationError, match=r"0002_create_b is applied, and there is no 0002_create_b\.up\.sql"):
        await make_migrator().upgrade()


@pytest.mark.adapters("asyncpg", "asyncmy_mysql", "sqlite")
async def test_a_version_that_comes_too_late_is_refused(make_migrator: MakeMigrator, folder: Folder) -> None:
    """Two branches have used the numbers: the order in which the versions were tested is the one in which they run."""
    folder.write("0001_create_a", "CREATE TABLE a (id integer);")
    folder.write("0005_create_e", "CREATE TABLE e (id integer);")
    await make_migrator().upgrade()
    folder.write("0003_create_c", "CREATE TABLE c (id integer);")

    with pytest.raises(MigrationError, match="0003_create_c is older than 0005_create_e, which is applied: rename it"):
        await make_migrator().upgrade()


@pytest.mark.adapters("asyncpg", "asyncmy_mysql", "sqlite")
async def test_a_number_that_another_migration_has_used_is_refused(make_migrator: MakeMigrator, folder: Folder) -> None:
    """Two branches have taken it: neither file was edited."""
    folder.write("0001_create_a", "CREATE TABLE a (id integer);")
    await make_migrator().upgrade("head")
    (folder.path / "0001_create_a.up.sql").unlink()
    folder.write("0001_create_b", "CREATE TABLE b (id integer);")

    message = r"0001_create_b\.up\.sql has the number of 0001_create_a, which is applied: rename it"
    with pytest.raises(MigrationError, match=message):
        await make_migrator().upgrade("head")


async def test_a_statement_that_fails_is_named(
    make_migrator: MakeMigrator, folder: Folder, look: Look, adapter: Adapter
) -> None:
    """By file and line, with the driver's own words; where DDL is transactional, nothing of the file is left."""
    folder.write_three()
    folder.write("0002_create_b", "-- two tables\nCREATE TABLE b (id integer);\n\nCREATE TABLE a (id integer);\n")
    with pytest.raises(MigrationError, match=r"^0002_create_b\.up\.sql, line 4: .*(exists|used)") as raised:
        await make_migrator().upgrade()

    assert (raised.value.file, raised.value.line) == ("0002_create_b.up.sql", 4)
    assert raised.value.__cause__ is not None, "the driver's exception"
    if adapter.dialect in STEPWISE:
        assert await look.tables() == {"a", "b"}
    else:
        assert await look.tables() == {"a"}
        folder.write("0002_create_b", "CREATE TABLE b (id integer);\n")
        await make_migrator().upgrade()
        assert await make_migrator().check() == []


@pytest.mark.adapters("asyncmy_mariadb", "asyncmy_mysql", "oracle", "oracle_sync")  # DDL commits by itself
@pytest.mark.parametrize("way", ["finish", "undo"])
async def test_a_version_that_stopped_half_way_is_resumed_by_hand(
    make_migrator: MakeMigrator, folder: Folder, look: Look, way: str
) -> None:
    """The history knows where it stopped, nothing else runs, and a stamp says what was done about it."""
    folder.write_three()
    folder.write("0002_create_b", "CREATE TABLE b (id integer);\n\nCREATE TABLE a (id integer);\n")
    with pytest.raises(MigrationError, match=r"sqlstore stamp 0002.*sqlstore stamp 0001"):
        await make_migrator().upgrade()
    _, status = await make_migrator().status()
    for run in (make_migrator().upgrade, make_migrator().downgrade):
        with pytest.raises(MigrationError, match=r"0002_create_b stopped half-way in 0002_create_b\.up\.sql, line 3"):
            await run()
    folder.write("0002_create_b", "CREATE TABLE b (id integer);")
    if way == "undo":
        await look.rows("DROP TABLE b")
    await make_migrator().stamp("0002" if way == "finish" else "0001")
    await make_migrator().upgrade()

    assert [row.running for row in status.applied] == [None, "0002_create_b.up.sql, line 3"]
    assert await make_migrator().check() == []
    assert await look.rows("SELECT id FROM b ORDER BY id") == [(3,), (4,)]


@pytest.mark.adapters("asyncpg", "psycopg_sync", "aiosqlite", "sqlite")  # where a commit can fail
async def test_an_error_at_the_commit_names_the_file(make_migrator: MakeMigrator, folder: Folder, look: Look) -> None:
    """No line is to blame, and nothing is left of any."""
    folder.write(
        "0001_create_a",
        "CREATE TABLE a (id integer PRIMARY KEY, other integer REFERENCES a DEFERRABLE INITIALLY DEFERRED);\n"
        "INSERT INTO a VALUES (1, 2);",
    )
    with pytest.raises(MigrationError, match=r"^0001_create_a\.up\.sql, at its commit: .*(?i:foreign key)") as raised:
        await make_migrator().upgrade()

    assert (raised.value.file, raised.value.line) == ("0001_create_a.up.sql", None)
    assert await look.tables() == set()


@pytest.mark.adapters("asyncpg", "psycopg_sync")
@pytest.mark.parametrize("first_line", ["", ALONE])
@pytest.mark.parametrize("more", ["", "CREATE TABLE public.b (id integer);\n"])
async def test_a_file_that_hides_the_history_is_named(
    make_migrator: MakeMigrator, folder: Folder, first_line: str, more: str
) -> None:
    """As ``pg_dump`` writes them: what applies to the whole connection has to be undone in the file."""
    text = f"{first_line}CREATE TABLE a (id integer);\nSELECT pg_catalog.set_config('search_path', '', false);\n{more}"
    folder.write("0001_create_a", text)
    message = r"^0001_create_a\.up\.sql, (at its end, where a .*search path|line).*sqlstore_migrations.* does not exist"
    with pytest.raises(MigrationError, match=message) as raised:
        await make_migrator().upgrade("head")
    folder.write("0001_create_a", f"{text}RESET search_path;")

    assert raised.value.file == "0001_create_a.up.sql"
    if not first_line:
        assert [each.migration.version for each in await make_migrator().upgrade("head")] == [1]


@pytest.mark.adapters("asyncpg", "psycopg_sync", "asyncmy_mariadb", "asyncmy_mysql", "aiosqlite", "sqlite")
async def test_a_transaction_that_a_file_leaves_open_is_noticed(
    make_migrator: MakeMigrator, folder: Folder, look: Look, adapter: Adapter
) -> None:
    """Or what is reported as applied would go with the connection, and the entry in the history with it."""
    folder.write("0001_create_a", f"{ALONE}CREATE TABLE a (id integer);\nBEGIN;\nINSERT INTO a VALUES (1);")
    if adapter.dialect == "mysql":
        folder.write("0002_fill_a", "SET autocommit = 0;\nINSERT INTO a VALUES (1);")
    if adapter.dialect == "sqlite":
        with pytest.raises(MigrationError, match=r"0001_create_a\.up\.sql, at its end, .* stamp 0001"):
            await make_migrator().upgrade("head")
        assert await look.rows("SELECT id FROM a") == []
        return
    await make_migrator().upgrade("head")

    assert (await make_migrator().status())[1].problems == []
    assert await look.rows("SELECT id FROM a") == [(1,)] * (2 if adapter.dialect == "mysql" else 1)


@pytest.mark.adapters("asyncmy_mariadb", "asyncmy_mysql")
async def test_the_lock_outlasts_the_servers_patience_with_idle_connections(
    adapter: Adapter, fresh_database: str, folder: Folder
) -> None:
    """Its connection is idle while a migration runs, and the server may close those after a minute."""
    folder.write("0001_create_a", "CREATE TABLE a (id integer);\nDO SLEEP(2.5);\n")
    folder.write("0002_create_b", "CREATE TABLE b (id integer);\n")
    options = adapter.pool_config(fresh_database) | {"init_command": "SET SESSION wait_timeout = 1"}
    migrations = {"script_location": folder.path}
    config = adapter.config(pool_config=options, extension_config={"migrations": migrations})
    applied = await Migrator(config).upgrade("head")

    assert [each.migration.version for each in applied] == [1, 2]


@pytest.mark.adapters("asyncpg", "asyncmy_mysql", "oracle", "sqlite")
async def test_a_wrong_file_is_refused_before_another_runs(
    make_migrator: MakeMigrator, folder: Folder, look: Look
) -> None:
    """One without a statement, which is still to be written, is applied by nobody."""
    folder.write("0001_create_a", "CREATE TABLE a (id integer);")
    folder.write("0002_create_b", "-- to do\n", "-- to do\n")
    with pytest.raises(MigrationError, match=r"0002_create_b\.up\.sql has no statement: write"):
        await make_migrator().upgrade("head")
    assert await look.tables() == set()


@pytest.mark.adapters("asyncpg", "asyncmy_mysql", "sqlite")
async def test_the_code_of_an_earlier_release_goes_on(make_migrator: MakeMigrator, folder: Folder) -> None:
    """It has no file of what a later one has applied; without any file, it is the wrong folder."""
    folder.write_three()
    await make_migrator().upgrade()
    for file in folder.path.glob("0003*"):
        file.unlink()
    problems = await make_migrator().check()
    applied = await make_migrator().upgrade()
    for file in folder.path.iterdir():
        file.unlink()

    assert problems == []
    assert applied == []
    assert len(await make_migrator().check()) == 3


@pytest.mark.adapters("asyncmy_mysql", "sqlite")
async def test_a_later_release_s_version_that_stopped_is_not_called_applied(
    make_migrator: MakeMigrator, folder: Folder
) -> None:
    """Code of an earlier release may start while it runs."""
    folder.write_three()
    folder.write("0003_fill_b", f"{ALONE}INSERT INTO b VALUES (3);\nINSERT INTO missing VALUES (4);")  # noqa: S608
    with pytest.raises(MigrationError, match="line 3"):
        await make_migrator().upgrade("head")
    for file in folder.path.glob("0003*"):
        file.unlink()

    said = r"0003_fill_b stopped half-way in 0003_fill_b\.up\.sql, line 3, unless it runs now, and there is no"
    assert re.search(said, "; ".join(await make_migrator().check()))


# Down


async def test_what_was_applied_is_undone_from_the_last_on(
    make_migrator: MakeMigrator, folder: Folder, look: Look
) -> None:
    """One version if nothing else is said, or down to a revision; what is left can go up again."""
    folder.write_three()
    await make_migrator().upgrade()
    undone = await make_migrator().downgrade()
    assert await look.rows("SELECT id FROM b") == []
    undone += await make_migrator().downgrade("base")
    tables = await look.tables()
    undone += await make_migrator().downgrade("base", "store")
    versions = await _applied(make_migrator())
    await make_migrator().upgrade()

    assert [(each.migration.version, each.direction) for each in undone] == [(n, "down") for n in (3, 2, 1, 1)]
    assert tables == set()
    assert versions == [[], []]
    assert await make_migrator().check() == []


@pytest.mark.adapters("asyncpg", "asyncmy_mysql", "sqlite")
async def test_a_version_without_a_file_down_is_not_undone(make_migrator: MakeMigrator, folder: Folder) -> None:
    """Nor is any after it."""
    folder.write_three()
    (folder.path / "0002_create_b.down.sql").unlink()
    await make_migrator().upgrade()

    with pytest.raises(MigrationError, match=r"0002_create_b cannot be undone: there is no 0002_create_b\.down\.sql"):
        await make_migrator().downgrade("base")
    assert await _applied(make_migrator()) == [[1], [1, 2, 3]]


async def test_a_way_back_that_stopped_half_way_is_resumed_by_hand(make_migrator: MakeMigrator, folder: Folder) -> None:
    """What is finished by hand is then no longer applied."""
    folder.write_three()
    folder.write("0003_fill_b", "INSERT INTO b VALUES (3);", ALONE + "DELETE FROM b;\nDROP TABLE missing;")  # noqa: S608
    await make_migrator().upgrade()
    advice = r"finish the file by hand and run sqlstore stamp 0002, or .* sqlstore stamp 0003"
    with pytest.raises(MigrationError, match=rf"^0003_fill_b\.down\.sql, line 3: .*{advice}"):
        await make_migrator().downgrade()
    [problem] = await make_migrator().check()
    await make_migrator().stamp("0002")
    await make_migrator().downgrade("0001")

    assert "0003_fill_b.down.sql, line 3" in problem
    assert await _applied(make_migrator()) == [[1], [1]]


@pytest.mark.adapters("asyncpg", "asyncmy_mysql", "sqlite")
@pytest.mark.parametrize("way", ["up", "down"])
async def test_two_that_go_in_opposite_directions_leave_no_gap(
    make_migrator: MakeMigrator, folder: Folder, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    """What was undone, or applied, between two steps of another process stops it."""
    for label in ("0001_a", "0002_b", "0003_c"):
        folder.write(label, "SELECT 1;", "SELECT 1;")
    await make_migrator().upgrade("head" if way == "down" else "1")
    apply = MigrationRun._apply  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]

    async def meet(run: Any, step: Any) -> Any:  # noqa: ANN401 - the migrator's own
        done = await apply(run, step)
        if (step.migration.version, step.direction) == (2, way):
            with monkeypatch.context() as context:
                context.setattr(MigrationRun, "_apply", apply)
                await (make_migrator().downgrade("base") if way == "up" else make_migrator().upgrade("head"))
        return done

    monkeypatch.setattr(MigrationRun, "_apply", meet)
    with pytest.raises(MigrationError, match="application: another process has migrated the other way"):
        await (make_migrator().upgrade("head") if way == "up" else make_migrator().downgrade("base"))

    assert (await _applied(make_migrator()))[1] == ([] if way == "up" else [1, 2, 3])


# Stamps and scripts


async def test_a_stamp_records_without_running(make_migrator: MakeMigrator, folder: Folder, look: Look) -> None:
    """All up to that version, and none after it."""
    folder.write_three()
    stamped = await make_migrator().stamp("2")
    again = await make_migrator().stamp("2")
    fewer = await make_migrator().stamp("1")
    tables = await look.tables()

    assert [row.version for row in stamped] == [1, 2]
    assert again == stamped, "what is right already is left as it is"
    assert [row.version for row in fewer] == [1]
    assert tables == set()
    assert await make_migrator().stamp("base") == []


@pytest.mark.adapters("asyncpg", "asyncmy_mysql", "sqlite")
async def test_a_stamp_tells_versions_with_the_same_text_apart(make_migrator: MakeMigrator, folder: Folder) -> None:
    """By their numbers: none that comes after it is kept because an earlier one reads the same."""
    for label in ("0001_add", "0002_add_more", "0003_add_again"):
        folder.write(label, "CREATE TABLE a (id integer);" if label == "0002_add_more" else "SELECT 1;")
    await make_migrator().upgrade("head")
    stamped = await make_migrator().stamp("1")

    assert [row.version for row in stamped] == [1]


async def test_a_script_does_what_an_upgrade_would(
    make_migrator: MakeMigrator, folder: Folder, look: Look, config: BaseConfig
) -> None:
    """It is made without the database, and its history counts."""
    folder.write_three()
    scripts = [make_migrator().sql("up", "2", "application"), make_migrator().sql("up", "2:head")]
    for_the_client = {config.dialect.script.stop, "BEGIN;", "COMMIT;"}
    for script in scripts:
        text = "\n".join(line for line in script.splitlines() if line not in for_the_client)
        for statement in SQLFile("script.sql", text).statements(config.dialect):
            await look.rows(statement.text)
    applied = await make_migrator().upgrade()

    assert [each.migration.label for each in applied] == [STORE]
    assert await make_migrator().check() == []
    assert await look.rows("SELECT id FROM b ORDER BY id") == [(3,), (4,)]


async def test_a_history_is_dropped_when_nothing_is_in_it(
    make_migrator: MakeMigrator, folder: Folder, look: Look
) -> None:
    """Whose versions they are does not matter."""
    folder.write_three()
    gone = [await make_migrator().drop_history()]
    await make_migrator().upgrade("head")
    gone.append(await make_migrator().drop_history())
    versions = await _applied(make_migrator())
    await make_migrator().downgrade("base")
    gone.append(await make_migrator().drop_history())

    assert gone == [True, False, True]
    assert versions == [[], [1, 2, 3]]
    assert await look.rows(TABLES[_dialect(make_migrator)]) == []


# The stores' own table


async def test_a_table_that_a_store_made_is_taken_for_applied(
    adapter: Adapter, make_migrator: MakeMigrator, config: BaseConfig, folder: Folder
) -> None:
    """Without a history, by what the table is; with the next upgrade the history has it, too."""
    store = adapter.store(config)
    await store.create_table()
    status, _ = await make_migrator().status()
    applied = [each.migration.label for each in await make_migrator().upgrade()]
    folder.write("0001_create_a", "CREATE TABLE a (id integer);")
    applied += [each.migration.label for each in await make_migrator().upgrade()]
    await make_migrator().upgrade()
    recorded, _ = await make_migrator().status()
    await store.drop_table()

    assert [(row.version, row.applied_at) for row in status.applied] == [(1, None)]
    assert applied == ["0001_create_a"]
    assert [row.applied_at is None for row in recorded.applied] == [False]
    assert await _applied(make_migrator()) == [[], [1]]
    await store.close()


async def test_a_store_writes_to_the_history_that_is_there(
    adapter: Adapter, make_migrator: MakeMigrator, config: BaseConfig, folder: Folder
) -> None:
    """What it makes is recorded, and what it drops is forgotten."""
    folder.write("0001_create_a", "CREATE TABLE a (id integer);")
    await make_migrator().upgrade("head")
    store = adapter.store(config)
    await store.create_table()
    status, _ = await make_migrator().status()
    await store.drop_table()
    stamped = await make_migrator().stamp("base", "store")

    assert [(row.version, row.applied_at is None) for row in status.applied] == [(1, False)]
    assert stamped == []
    await store.close()


@pytest.mark.adapters("asyncpg", "asyncmy_mysql", "oracle", "sqlite")
async def test_a_whole_table_that_was_not_written_down_is_taken(
    adapter: Adapter, make_migrator: MakeMigrator, config: BaseConfig, look: Look
) -> None:
    """Its maker died just before: what the table is counts."""
    await make_migrator().upgrade()
    await look.rows("UPDATE sqlstore_migrations SET running = '0001_create_session_table.up.sql, line 18'")
    store = adapter.store(config)
    await store.create_table()
    await store.set("k", b"v")
    await store.close()

    assert await make_migrator().check() == []


@pytest.mark.adapters("asyncpg", "asyncmy_mysql", "sqlite")
async def test_a_foreign_table_is_a_problem_that_is_told(
    make_migrator: MakeMigrator, config: BaseConfig, look: Look
) -> None:
    """Looking is no error, and running is."""
    await look.rows(f"CREATE TABLE {config.session_table} (id integer)")
    status, _ = await make_migrator().status()
    with pytest.raises(TableMismatchError, match=config.session_table):
        await make_migrator().upgrade()

    assert [config.session_table in problem for problem in status.problems] == [True]


# Without a transaction, and without a caller


@pytest.mark.adapters("asyncpg", "psycopg", "psycopg_sync")
async def test_an_index_is_made_concurrently_beside_others_who_wait(
    make_migrator: MakeMigrator, folder: Folder, look: Look
) -> None:
    """``CREATE INDEX CONCURRENTLY`` waits for every snapshot: somebody who waits for the lock must have none."""
    folder.write("0001_create_a", "CREATE TABLE a (id integer);\nINSERT INTO a SELECT generate_series(1, 1000);\n")
    folder.write(
        "0002_index_a", "-- sqlstore: no-transaction\nCREATE INDEX CONCURRENTLY a_id ON a (id);\n", "DROP INDEX a_id;"
    )
    folder.write("0003_create_b", "CREATE TABLE b (id integer);\n")
    async with asyncio.timeout(60):
        applied = await asyncio.gather(*(make_migrator().upgrade() for _ in range(4)))

    assert sorted(each.migration.label for run in applied for each in run) == sorted(
        [STORE, "0001_create_a", "0002_index_a", "0003_create_b"]
    )
    assert await look.rows("SELECT indisvalid FROM pg_index WHERE indexrelid = 'a_id'::regclass") == [(True,)]


@pytest.mark.adapters("aiosqlite", "sqlite")
async def test_sqlite_can_do_without_a_transaction(make_migrator: MakeMigrator, folder: Folder) -> None:
    """Some of what a migration needs is refused in one."""
    folder.write("0001_vacuum", "VACUUM;\n")
    with pytest.raises(MigrationError, match=r"0001_vacuum\.up\.sql, line 1: .*transaction"):
        await make_migrator().upgrade()
    folder.write("0001_vacuum", "-- sqlstore: no-transaction\nVACUUM;\n")
    await make_migrator().upgrade()

    assert await make_migrator().check() == []


async def test_without_a_transaction_each_version_is_applied_by_one(
    make_migrator: MakeMigrator, folder: Folder, look: Look
) -> None:
    """Of several at once; the others wait for it."""
    folder.write("0001_create_a", "CREATE TABLE a (id integer);")
    folder.write("0002_fill_a", ALONE + "INSERT INTO a VALUES (1);\nINSERT INTO a VALUES (2);\n")  # noqa: S608
    applied = await asyncio.gather(*(make_migrator().upgrade() for _ in range(6)))

    assert sorted(each.migration.label for run in applied for each in run) == ["0001_create_a", STORE, "0002_fill_a"]
    assert await look.rows("SELECT id FROM a ORDER BY id") == [(1,), (2,)]


@pytest.mark.adapters("asyncpg", "psycopg", "psycopg_sync")
@pytest.mark.parametrize("first_line", ["", ALONE])
async def test_a_migration_has_the_server_s_own_plans(
    make_migrator: MakeMigrator, folder: Folder, look: Look, first_line: str
) -> None:
    """Not those that a store asks for."""
    names = "VALUES ('enable_seqscan'), ('enable_bitmapscan'), ('plan_cache_mode')"
    folder.write(
        "0001_create_a",
        f"{first_line}CREATE TABLE a AS SELECT current_setting(name) AS x FROM ({names}) AS names (name);",  # noqa: S608
    )
    await make_migrator().upgrade()

    assert await look.rows("SELECT x FROM a ORDER BY x") == [("auto",), ("on",), ("on",)]


async def test_a_caller_that_goes_away_leaves_no_version_half_way(make_migrator: MakeMigrator, folder: Folder) -> None:
    """What has begun is brought to its end, and no other version is begun."""
    folder.write_three()
    caller: asyncio.Task[Any] = asyncio.get_running_loop().create_task(asyncio.sleep(0))

    def go_away(progress: Progress) -> None:
        if progress.file == "0001_create_a.up.sql":
            caller.cancel()

    caller = asyncio.get_running_loop().create_task(make_migrator().upgrade("head", on_progress=go_away))
    with pytest.raises(asyncio.CancelledError):
        await caller

    async def is_applied() -> bool:
        return await _applied(make_migrator()) == [[], [1]]

    await until(is_applied)
    await asyncio.sleep(0.2)
    assert await _applied(make_migrator()) == [[], [1]]
    assert not (await make_migrator().status())[1].problems
