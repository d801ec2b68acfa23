"""A table that somebody else made from the bundled files: taken for what it is, and refused if it is anything else."""

from __future__ import annotations

import asyncio
import os
import re
import secrets
import subprocess
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar
from urllib.parse import urlsplit

import pytest

from sqlstore import SQLStoreError, TableMismatchError, TableMissingError
from sqlstore.catalogue import differences, stored_version, table_parts
from sqlstore.migrator import Migrator, check_table, up_sql

from .. import servers
from ..servers import MySQL

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence

    from sqlstore import BaseConfig
    from sqlstore.catalogue import Execute
    from sqlstore.dialects import Dialect, Step

    from ..conftest import Adapter, MakeStore
    from ..servers import Server
    from .conftest import SQL
    from .verbs import Store

T = TypeVar("T")

# One adapter for each database, where it is the database that is tested.
each_database = pytest.mark.adapters("asyncpg", "asyncmy_mariadb", "asyncmy_mysql", "oracle", "sqlite")

# All that there is in a database, less what differs whenever it is made anew, or when PostgreSQL has counted a table's
# rows meanwhile. (Debian's PostgreSQL writes a number of its own into attoptions.)
OBJECTS = {
    "mysql": ["SELECT table_name, table_type, engine FROM information_schema.tables WHERE table_schema = DATABASE()"],
    "oracle": [
        "SELECT object_name, object_type FROM user_objects WHERE object_type <> 'LOB'",
        """
        SELECT table_name, column_name, data_type, data_length, data_precision, data_scale, char_length, char_used,
               nullable, data_default FROM user_tab_columns
        """,
        "SELECT index_name, index_type, uniqueness, table_name FROM user_indexes WHERE index_type <> 'LOB'",
        "SELECT index_name, column_name, column_position, descend FROM user_ind_columns",
        "SELECT constraint_name, constraint_type, table_name, status FROM user_constraints",
    ],
    "postgresql": [
        """
        SELECT to_jsonb(pg_class) - '{oid,relfilenode,reltype,reltoastrelid,relfrozenxid,relminmxid}'::text[]
               - '{reltuples,relpages,relallvisible}'::text[]
          FROM pg_class WHERE relnamespace = 'public'::regnamespace
        """,
        """
        SELECT attrelid::regclass::text, to_jsonb(pg_attribute) - '{attrelid,attoptions}'::text[]
          FROM pg_attribute JOIN pg_class ON pg_class.oid = attrelid WHERE relnamespace = 'public'::regnamespace
        """,
        "SELECT conname, pg_get_constraintdef(oid) FROM pg_constraint WHERE connamespace = 'public'::regnamespace",
        "SELECT indexdef FROM pg_indexes WHERE schemaname = 'public'",
        "SELECT typname FROM pg_type WHERE typnamespace = 'public'::regnamespace",
        "SELECT proname FROM pg_proc WHERE pronamespace = 'public'::regnamespace",
    ],
    "sqlite": ["SELECT type, name, sql FROM sqlite_master"],
}


class Dump(Protocol):
    """Describe the test's database, or the one *at* a DSN or path, in more words than a dialect does."""

    async def __call__(self, at: str | None = None) -> list[str]:
        """See above."""
        ...


@pytest.fixture
def dump(adapter: Adapter, sql: SQL) -> Dump:
    """Return a function that looks at all that there is."""

    async def dump(at: str | None = None) -> list[str]:
        rows = [row for text in OBJECTS[adapter.dialect] for row in await sql(text, at)]
        if adapter.dialect == "mysql":
            rows += [row for name, *_ in rows for row in await sql(f"SHOW CREATE TABLE {name}", at)]
        return sorted(re.sub(r"SYS_\w+", "SYS", str(row)) for row in rows)

    return dump


async def _ask(store: Store, question: Callable[[Execute, Dialect, str], Awaitable[T]]) -> T:
    config: BaseConfig = store.config
    async with config.spare_connection() as connection:

        async def execute(step: Step) -> Sequence[Sequence[Any]]:
            return (await connection.run([step], atomic=False))[0]

        return await question(execute, config.dialect, store.table_name)


def _bundled(adapter: Adapter, kind: str) -> list[Path]:
    folder = Path(str(files("sqlstore"))) / "migrations" / adapter.dialect
    return sorted(folder.glob(f"*.{kind}"))


# The files


async def test_the_catalogue_file_describes_what_the_migrations_make(store: Store, adapter: Adapter) -> None:
    """In all its lines and no other, over each driver."""
    parts = await _ask(store, table_parts)
    lines = _bundled(adapter, "catalogue")[-1].read_text().replace("litestar_session", store.table_name).splitlines()

    assert sorted(f"{part}: {definition}" for part, definition in parts.items()) == sorted(lines)
    assert await _ask(store, stored_version) == len(_bundled(adapter, "up.sql"))
    assert await _ask(store, differences) == []


async def test_a_table_that_is_not_there_has_no_version(make_store: MakeStore) -> None:
    """And that is the difference."""
    store = make_store()

    assert await _ask(store, stored_version) == 0
    assert await _ask(store, differences) == [f"table {store.table_name} does not exist"]


def _client(database: str, dsn: str, file: Path) -> None:
    """Run *file* as an administrator would, by the database's own client."""
    command = servers.find_client(database)
    environment = dict(os.environ)
    if database == "postgresql":
        command += ["-X", "-q", "-v", "ON_ERROR_STOP=1", "-f", str(file), dsn]
    elif database == "sqlite":
        command += ["-batch", "-bail", dsn]
    else:
        place = MySQL.options(dsn)
        command += ["--no-defaults", f"--host={place['host']}", f"--port={place['port']}", f"--user={place['user']}"]
        command += [place["database"]]
        environment["MYSQL_PWD"] = place["password"]
    with file.open() as text:
        ran = subprocess.run(command, env=environment, stdin=text, capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stderr) == (0, "")


@each_database
async def test_the_databases_own_client_makes_and_drops_the_same_table(
    adapter: Adapter, make_store: MakeStore, fresh_database: str, sql: SQL, dump: Dump
) -> None:
    """From the files as they are: whoever made it, it is the same to the last detail, and nothing stays of it."""
    empty = await dump(fresh_database)
    store = make_store(dsn=fresh_database, session_table="litestar_session")
    await store.create_table()
    made_by_us, parts = await dump(fresh_database), await _ask(store, table_parts)
    await store.drop_table()
    assert await dump(fresh_database) == empty != made_by_us

    async def apply(kind: str) -> None:
        for file in _bundled(adapter, kind)[:: 1 if kind == "up.sql" else -1]:
            if adapter.database != "oracle":
                await asyncio.to_thread(_client, adapter.database, fresh_database, file)
                continue
            for statement in _statements(file.read_text()):  # there is no client of the emulation's
                await sql(statement, fresh_database)

    await apply("up.sql")
    await store.create_table()
    await check_table(store.config, store.table_name)

    assert await _ask(store, table_parts) == parts
    assert await dump(fresh_database) == made_by_us
    await apply("down.sql")
    assert await dump(fresh_database) == empty


# A role without DDL


@pytest.fixture
async def limited(
    adapter: Adapter, server: Server, fresh_database: str, make_store: MakeStore
) -> AsyncGenerator[Store, None]:
    """Give the store of a role that may read and write the rows of a table that somebody else made, and no more."""
    owner = make_store(dsn=fresh_database)
    await owner.create_table()
    role = f"app_{secrets.token_hex(6)}"
    place = urlsplit(fresh_database)
    table = server.qualified(fresh_database, owner.table_name)
    identified = {"mysql": f"IDENTIFIED BY '{role}'", "oracle": f"IDENTIFIED BY {role}"}
    kind, password = ("USER", identified[adapter.dialect]) if adapter.dialect in identified else ("ROLE", "LOGIN")
    await server.fetch(f"CREATE {kind} {role} {password}")
    if adapter.dialect == "postgresql":
        await server.fetch("REVOKE ALL ON SCHEMA public FROM PUBLIC", fresh_database)
        await server.fetch(f"GRANT USAGE ON SCHEMA public TO {role}", fresh_database)
    if adapter.dialect == "oracle":
        await server.fetch(f"GRANT CREATE SESSION TO {role}")
    await server.fetch(f"GRANT SELECT, INSERT, UPDATE, DELETE ON {owner.table_name} TO {role}", fresh_database)
    dsn = place._replace(netloc=f"{role}:{role}@{place.netloc.rpartition('@')[2]}").geturl()
    store = make_store(dsn=dsn, session_table=table)
    yield store
    await store.close()
    if adapter.dialect == "postgresql":
        await server.fetch(f"DROP OWNED BY {role}", fresh_database)
    await server.fetch(f"DROP {kind} {role}")


async def test_a_role_without_ddl_finds_its_table_made(limited: Store, fresh_database: str, dump: Dump) -> None:
    """It sees the whole catalogue, changes nothing, and works."""
    before = await dump(fresh_database)
    await limited.create_table()
    await check_table(limited.config, limited.table_name)
    migrator = Migrator(limited.config)
    assert (await migrator.check(), await migrator.upgrade()) == ([], [])
    await limited.set("k", b"v")

    assert await limited.get("k") == b"v"
    assert await dump(fresh_database) == before
    with pytest.raises(SQLStoreError):
        await limited.drop_table()


# Tables that differ

# What is found, put in its place ({key} is a key column that is not compared byte by byte), and said of it.
ALTERED = {
    "no version": (r"    version .*\n", "", r"column version is missing \((bigint|number|integer)"),
    "another type": (r"(    version +)\w+(\(19\))?", r"\1smallint", "column version is (smallint|number).*, not "),
    "nullable": (r"(created_at +\S+) NOT NULL", r"\1", "column created_at is .*, not .* NOT NULL"),
    "not nullable": (r"(expires_at +\S+)(?=,)", r"\1 NOT NULL", "column expires_at is .* NOT NULL, not "),
    "a default": (r"(principal +[^,\n]+)", r"\1 DEFAULT 'x'", "column principal is .* DEFAULT, not "),
    "another collation": (r"session_id .*(?= NOT)", "session_id {key}", "(column session_id|primary key) is .*, not "),
    "another key": (r"(KEY) \(namespace, session_id\)", r"\1 (session_id, namespace)", "primary key is "),
    "no key": (r",( --.*)?\n +PRIMARY KEY \([^)]*\)", "", "primary key is missing"),
    "no index": (r",\n    INDEX \w+_principal.*|CREATE INDEX \w+_principal.*;", "", r"index \w+_principal is missing"),
    "another index": (r"(_principal.* \()namespace, principal", r"\1principal", r"index \w+_principal is .*, not "),
    "one column too many": ("(?=    PRIMARY)", "    tenant integer NOT NULL,\n", "column tenant is not ours"),
    "a unique column": ("(?=    PRIMARY)", "    UNIQUE (version),\n", r"unique index \w+ is not ours"),
}
NOT_BINARY = {
    "mysql": "varchar(255)",
    "oracle": "varchar2(255 char)",
    "postgresql": "text",
    "sqlite": "text COLLATE NOCASE",
}


def _statements(text: str) -> list[str]:
    return [part for part in text.split(";\n") if re.sub(r"--.*", "", part).strip()]


async def _make(store: Store, sql: SQL, pattern: str, replacement: str) -> None:
    """Make the table from the bundled text with a change."""
    text, changes = re.subn(pattern, replacement, up_sql(store.config.dialect, store.table_name), count=1)
    assert changes
    for statement in _statements(text):
        await sql(statement)


@each_database
@pytest.mark.parametrize("difference", ALTERED)
async def test_a_table_that_differs_is_refused_in_words(
    adapter: Adapter, make_store: MakeStore, sql: SQL, dump: Dump, difference: str
) -> None:
    """By whoever would make, check or drop it, before anything is written."""
    pattern, replacement, message = ALTERED[difference]
    store = make_store()
    await _make(store, sql, pattern, replacement.replace("{key}", NOT_BINARY[adapter.dialect]))
    before = await dump()
    assert re.search(message, "; ".join(await _ask(store, differences)))

    calls = [store.create_table(), check_table(store.config, store.table_name), store.drop_table()]
    for call in calls:
        if adapter.dialect == "oracle" and difference == "no index":
            await call  # which is how far another process may have come
            continue
        with pytest.raises(TableMismatchError, match=f"^table {store.table_name} .*{message}"):
            await call
        assert await dump() == before
    if adapter.dialect != "oracle" or difference != "no index":
        await sql(f"DROP TABLE {store.table_name}")


@pytest.mark.adapters("asyncmy_mariadb", "asyncmy_mysql")
async def test_a_table_in_an_engine_without_transactions_is_refused(make_store: MakeStore, sql: SQL) -> None:
    """Its columns and keys are the same, and nothing that the stores promise would be true."""
    store = make_store()
    await _make(store, sql, "InnoDB", "MyISAM")

    with pytest.raises(TableMismatchError, match=r"primary key is \(namespace, session_id\) ENGINE = MyISAM, not "):
        await store.create_table()
    await sql(f"DROP TABLE {store.table_name}")


@each_database
async def test_what_harms_nobody_may_be_there_besides(
    make_store: MakeStore, sql: SQL, database: str, dump: Dump
) -> None:
    """Columns that take care of themselves, and indexes: the next release may have added them."""
    store = make_store()
    extra = "    tenant integer,\n    revision integer DEFAULT 0 NOT NULL,\n"
    await _make(store, sql, "(?=    PRIMARY)", extra)
    await sql(f"CREATE INDEX {store.table_name}_x ON {store.table_name} (updated_at, tenant)")
    before = await dump(database)
    await store.create_table()
    await check_table(store.config, store.table_name)
    await store.set("k", b"v")

    assert await store.get("k") == b"v"
    assert await _ask(store, stored_version) == 1
    assert await dump(database) == before
    await store.drop_table()
    with pytest.raises(TableMissingError):
        await store.get("k")


@pytest.mark.adapters("asyncpg", "asyncmy_mariadb", "asyncmy_mysql")
async def test_the_table_of_another_schema_is_not_looked_at(
    adapter: Adapter, server: Server, make_store: MakeStore, fresh_database: str, sql: SQL
) -> None:
    """Where a name says which schema it is in."""
    elsewhere = await server.create_database()
    schema = urlsplit(elsewhere).path[1:]
    if adapter.dialect == "postgresql":
        await sql(f"CREATE SCHEMA {schema}", fresh_database)
    store = make_store(dsn=fresh_database)
    other = make_store(dsn=fresh_database, session_table=f"{schema}.{store.table_name}")
    await sql(f"CREATE TABLE {store.table_name} (id integer)", fresh_database)
    await other.create_table()

    assert await _ask(other, differences) == []
    assert await _ask(store, differences) != []
    await other.drop_table()
    assert await _ask(other, stored_version) == 0
    await server.drop_database(elsewhere)
