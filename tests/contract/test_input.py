"""Bad input raises at once, in words that say what to do, before any SQL; so nothing is stored half."""

from __future__ import annotations

import asyncio
import math
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest

from sqlstore import BaseSQLSpecStore, ReadOnlyError, SQLStoreError, UnavailableError
from sqlstore.adapters.asyncpg import AsyncpgConfig
from sqlstore.adapters.sqlite import SqliteConfig

from .verbs import KEY, READS, VERBS, WRITES

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Generator

    from sqlstore import BaseConfig

    from ..conftest import Adapter, MakeConfig, MakeStore
    from ..servers import Server
    from .verbs import Call, Store

    CallWith = Callable[[Store, Any], Awaitable[object]]


@pytest.fixture
def nowhere(make_store: MakeStore, adapter: Adapter, tmp_path: Path) -> Store:
    """Return a store whose database cannot be reached: what it raises otherwise came before any SQL."""
    if adapter.networked:
        return make_store(port=1)
    return make_store(dsn=str(tmp_path / "missing" / "sqlstore.db"))


# Arguments

OVER_64_BITS = (2**63, -(2**63) - 1, 10**400)
_KEYS: dict[str, CallWith] = {
    "get": lambda store, key: store.get(key),
    "get_and_renew": lambda store, key: store.get(key, renew_for=60),
    "exists": lambda store, key: store.exists(key),
    "expires_in": lambda store, key: store.expires_in(key),
    "get_many": lambda store, key: store.get_many(["k", key]),
    "get_versioned": lambda store, key: store.get_versioned(key),
    "set": lambda store, key: store.set(key, b"v"),
    "set_many": lambda store, key: store.set_many({"k": b"v", key: b"v"}),
    "delete": lambda store, key: store.delete(key),
    "delete_many": lambda store, key: store.delete_many(["k", key]),
    "add": lambda store, key: store.add(key, b"v"),
    "pop": lambda store, key: store.pop(key),
    "incr": lambda store, key: store.incr(key),
    "compare_and_set": lambda store, key: store.compare_and_set(key, b"v", 1),
}


@pytest.mark.parametrize("verb", _KEYS)
async def test_a_key_that_is_no_string_is_refused(nowhere: Store, verb: str) -> None:
    """Bytes, too, and in the bulk forms also beside good keys."""
    for key in (b"k", 5, None, ("k",)):
        with pytest.raises(TypeError, match="key must be a string, not"):
            await _KEYS[verb](nowhere, key)


_VALUES: dict[str, CallWith] = {
    "set": lambda store, value: store.set("k", value),
    "set_many": lambda store, value: store.set_many({"j": b"v", "k": value}),
    "add": lambda store, value: store.add("k", value),
    "compare_and_set": lambda store, value: store.compare_and_set("k", value, 1),
}


@pytest.mark.parametrize("verb", _VALUES)
async def test_a_value_that_is_neither_bytes_nor_string_is_refused(nowhere: Store, verb: str) -> None:
    """The message names its type and not the value, which may be a secret."""
    for value in (None, 5, {"user": 1}, ["v"], bytearray(b"v"), memoryview(b"v")):
        with pytest.raises(TypeError, match=f"value must be bytes or a string, not {type(value).__name__}: serialize"):
            await _VALUES[verb](nowhere, value)


@pytest.mark.parametrize("verb", _VALUES)
async def test_a_value_that_utf_8_cannot_say_is_refused(nowhere: Store, verb: str) -> None:
    """A lone surrogate in a value, unlike in a key, would come back as something else."""
    with pytest.raises(ValueError, match="surrogate"):
        await _VALUES[verb](nowhere, "\ud800")


_LIFETIMES: dict[str, CallWith] = {
    "get": lambda store, lifetime: store.get("k", renew_for=lifetime),
    "set": lambda store, lifetime: store.set("k", b"v", lifetime),
    "set_many": lambda store, lifetime: store.set_many({"k": b"v"}, lifetime),
    "add": lambda store, lifetime: store.add("k", b"v", lifetime),
    "incr": lambda store, lifetime: store.incr("k", 1, lifetime),
}


@pytest.mark.parametrize("verb", _LIFETIMES)
async def test_a_lifetime_that_is_no_number_is_refused(nowhere: Store, verb: str) -> None:
    """``True`` is not a second."""
    for lifetime in (True, False, "60", b"60", [60], 1j, Decimal(60)):
        with pytest.raises(TypeError, match="lifetime must be a number of seconds, a timedelta or None"):
            await _LIFETIMES[verb](nowhere, lifetime)


@pytest.mark.parametrize("verb", _LIFETIMES)
@pytest.mark.parametrize(
    "lifetime",
    [1e300, math.inf, math.nan, 36_525 * 86_400 + 1, 10**400, timedelta(days=36_526), timedelta.max],
    ids=["float", "infinite", "nan", "second", "integer", "day", "timedelta"],
)
async def test_an_absurd_lifetime_is_refused(nowhere: Store, verb: str, lifetime: float) -> None:
    """More than 100 years is for ever: the message says how to say that."""
    with pytest.raises(ValueError, match="use None"):
        await _LIFETIMES[verb](nowhere, lifetime)


async def test_an_amount_that_is_no_integer_is_refused(nowhere: Store) -> None:
    """A counter counts."""
    amounts: tuple[Any, ...] = (True, 1.0, "1", None, Decimal(1))
    for amount in amounts:
        with pytest.raises(TypeError, match="amount must be an integer"):
            await nowhere.incr("k", amount)


@pytest.mark.parametrize("amount", OVER_64_BITS, ids=["max", "min", "huge"])
async def test_an_amount_over_64_bits_is_refused(nowhere: Store, amount: int) -> None:
    """It could only overflow."""
    with pytest.raises(ValueError, match="64-bit"):
        await nowhere.incr("k", amount)


async def test_a_version_that_is_no_integer_is_refused(nowhere: Store) -> None:
    """The message says where one comes from."""
    versions: tuple[Any, ...] = (True, 1.0, "1", None, b"1")
    for version in versions:
        with pytest.raises(TypeError, match="get_versioned"):
            await nowhere.compare_and_set("k", b"v", version)


@pytest.mark.parametrize("version", OVER_64_BITS, ids=["max", "min", "huge"])
async def test_a_version_over_64_bits_is_refused(nowhere: Store, version: int) -> None:
    """`get_versioned` never returned it."""
    with pytest.raises(ValueError, match="version"):
        await nowhere.compare_and_set("k", b"v", version)


@pytest.mark.parametrize("batch_size", [0, -1, True, 1.5, "10", None], ids=repr)
async def test_a_bad_batch_size_is_refused(nowhere: Store, batch_size: Any) -> None:  # noqa: ANN401
    """No batch at all would never end."""
    with pytest.raises((TypeError, ValueError), match="batch_size"):
        await nowhere.delete_expired(batch_size)


async def test_keys_that_are_one_string_or_no_iterable_are_refused(nowhere: Store) -> None:
    """``get_many("abc")`` never means the keys a, b and c."""
    several: tuple[Any, ...] = ("abc", b"abc", None, 5)
    for keys in several:
        with pytest.raises(TypeError):
            await nowhere.get_many(keys)
        with pytest.raises(TypeError):
            await nowhere.delete_many(keys)


async def test_values_that_are_no_mapping_are_refused(nowhere: Store) -> None:
    """`set_many` takes keys with their values."""
    several: tuple[Any, ...] = (None, "k", ["k"], [("k", b"v")], 5)
    for values in several:
        with pytest.raises(TypeError):
            await nowhere.set_many(values)


async def test_nothing_of_a_bad_bulk_call_is_stored(store: Store) -> None:
    """The good keys before and after the bad one neither."""
    values: dict[Any, Any] = {**{f"a{number}": b"v" for number in range(600)}, "k": 5, "z": b"v"}
    with pytest.raises(TypeError):
        await store.set_many(values)
    del values["k"]

    assert await store.get_many(values) == {}


# Options


@pytest.mark.parametrize(
    ("extension_config", "message"),
    [
        ({"litestrar": {}}, r"unknown option 'litestrar' in extension_config: use litestar"),
        ({"litestar": {"sesion_table": "s"}}, r"'sesion_table' in extension_config\[\"litestar\"\]: use session_table"),
        ({"litestar": {"time_out": 1}}, "'time_out' in .*: use timeout"),
        ({"litestar": {"TIMEOUT": 1}}, "'TIMEOUT' in .*timeout"),
        ({"litestar": {"nonsense": 1}}, "'nonsense' in .*: use one of .*session_table, timeout"),
        ({"litestar": {5: 1}}, "unknown option 5 in "),
        # SQLSpec's
        ({"litestar": {"create_schema": True}}, "'create_schema' in .*create_table"),
        ({"litestar": {"manage_schema": True}}, "'manage_schema' in .*create_table"),
        ({"litestar": {"migrations_path": "m"}}, "'migrations_path' in .*create_table"),
    ],
    ids=repr,
)
def test_an_unknown_option_is_refused(adapter: Adapter, extension_config: dict[str, Any], message: str) -> None:
    """The message names the option that was meant."""
    with pytest.raises(TypeError, match=message):
        adapter.config(pool_config=adapter.pool_config("nowhere"), extension_config=extension_config)


def test_a_timeout_that_is_no_number_is_refused(make_config: MakeConfig) -> None:
    """It is seconds."""
    for timeout in (True, "10", None, timedelta(seconds=1)):
        with pytest.raises(TypeError, match="timeout must be a number of seconds"):
            make_config(timeout=timeout)


def test_an_absurd_timeout_is_refused(make_config: MakeConfig) -> None:
    """A call that waits for ever is a call that hangs."""
    for timeout in (0, -1, 3601, 1e300, math.inf, math.nan, 10**400):
        with pytest.raises(ValueError, match="timeout must be more than 0 and at most 3600 seconds"):
            make_config(timeout=timeout)


@pytest.mark.parametrize(
    ("share", "error", "message"),
    [
        (True, TypeError, "renew_after must be a number, a share of the lifetime"),
        ("0.1", TypeError, "renew_after must be a number"),
        (1, ValueError, "renew_after must be at least 0 and less than 1"),
        (-0.1, ValueError, "less than 1"),
        (math.nan, ValueError, "less than 1"),
    ],
)
def test_a_share_that_is_none_is_refused(
    make_config: MakeConfig, share: object, error: type[Exception], message: str
) -> None:
    """At construction, like any option."""
    with pytest.raises(error, match=message):
        make_config(renew_after=share)


@pytest.mark.parametrize(
    ("interval", "error", "message"),
    [
        (True, TypeError, "prune_interval must be a number of seconds, 0 for never"),
        ("900", TypeError, "prune_interval must be a number"),
        (-0.1, ValueError, "prune_interval must be at least 0, never, and at most 86400 seconds"),
        (86401, ValueError, "at most 86400"),
        (math.nan, ValueError, "at most 86400"),
    ],
)
def test_an_interval_that_is_none_is_refused(
    make_config: MakeConfig, interval: object, error: type[Exception], message: str
) -> None:
    """At construction, like any option."""
    with pytest.raises(error, match=message):
        make_config(prune_interval=interval)


def test_a_store_over_another_driver_s_config_is_refused(adapter: Adapter, tmp_path: Path) -> None:
    """The message names the right one."""
    foreign: BaseConfig = SqliteConfig(pool_config={"database": tmp_path / "x.db"})
    if adapter.name == "sqlite":
        foreign = AsyncpgConfig(pool_config={"dsn": "postgresql://nowhere"})
    for config in (foreign, "postgresql://nowhere", None, adapter.config):
        with pytest.raises(TypeError, match=f"{adapter.store.__name__} takes an {adapter.config.__name__}, not"):
            adapter.store(config)


def test_the_base_class_cannot_be_instantiated(make_config: MakeConfig) -> None:
    """A store is of a driver."""
    with pytest.raises(TypeError, match="abstract"):
        BaseSQLSpecStore(make_config())  # type: ignore[abstract]


# A database that cannot be used

CHANGES: dict[str, Call] = {
    "create_table": lambda store: store.create_table(),
    "drop_table": lambda store: store.drop_table(),
}


async def _assert_unavailable(store: Store) -> None:
    for call in {**VERBS, **CHANGES}.values():
        async with asyncio.timeout(store.config.timeout / 2):
            with pytest.raises(UnavailableError, match="check pool_config") as raised:
                await call(store)

        assert raised.value.__cause__ is not None, "the driver's exception"


async def test_a_database_that_cannot_be_reached_is_an_error_at_once(nowhere: Store) -> None:
    """Nobody listens, or the directory is missing: no call waits for ``timeout``."""
    await _assert_unavailable(nowhere)


@pytest.mark.adapters("asyncpg", "psycopg", "psycopg_sync", "asyncmy_mariadb", "asyncmy_mysql")  # Oracle has its own
@pytest.mark.parametrize(("part", "value"), [("path", "/no_such_database"), ("netloc", "nobody@{}")])
async def test_a_wrong_database_or_user_is_an_error_at_once(
    make_store: MakeStore, server: Server, part: str, value: str
) -> None:
    """The server's own words are in the message."""
    place = urlsplit(server.dsn)
    dsn = place._replace(**{part: value.format(place.netloc.rpartition("@")[2])}).geturl()
    store = make_store(dsn=dsn)
    await _assert_unavailable(store)

    with pytest.raises(UnavailableError, match=r"""["'](no_such_database|nobody)["']"""):
        await store.get("k")


@pytest.mark.adapters("asyncpg", "psycopg", "psycopg_sync", "asyncmy_mariadb", "asyncmy_mysql")  # Oracle has its own
async def test_a_wrong_password_is_an_error_at_once(make_store: MakeStore, private_server: Server) -> None:
    """The right one works."""
    await private_server.add_user("app", "right")
    place = urlsplit(private_server.dsn)
    for password in ("wrong", ""):
        dsn = place._replace(netloc=f"app:{password}@{place.hostname}:{place.port}").geturl()
        await _assert_unavailable(make_store(dsn=dsn))
    store = make_store(dsn=place._replace(netloc=f"app:right@{place.hostname}:{place.port}").geturl())
    await store.create_table()
    await store.set("k", b"v")

    assert await store.get("k") == b"v"


@pytest.fixture(params=["text", "directory"])
def no_database(request: pytest.FixtureRequest, database: str) -> Generator[None, None, None]:
    """Put something else where the database should be, and see that it is left as it is."""
    place = Path(database)
    if request.param == "directory":
        place.mkdir()
    else:
        place.write_text("not a database " * 1000)
    yield

    assert place.is_dir() or place.read_text() == "not a database " * 1000


@pytest.mark.adapters("aiosqlite", "sqlite")
@pytest.mark.usefixtures("no_database")
async def test_a_file_that_is_no_database_is_an_error_at_once(make_store: MakeStore) -> None:
    """A file is never taken for an empty database."""
    await _assert_unavailable(make_store())


@pytest.fixture
async def reader(
    store: Store, adapter: Adapter, database: str, request: pytest.FixtureRequest
) -> AsyncGenerator[Store, None]:
    """Give a store over the same table, in a database that takes no writes."""
    table = store.table_name
    if adapter.networked:
        server: Server = request.getfixturevalue("server")
        pool_config = adapter.pool_config(await server.read_only(database))
        table = server.qualified(database, table)
    else:
        pool_config = {"database": f"file:{database}?mode=ro", "uri": True}
    config = adapter.config(pool_config=pool_config, extension_config={"litestar": {"session_table": table}})
    async with adapter.store(config) as reader:
        yield reader


@pytest.mark.parametrize("verb", READS)
async def test_a_read_only_database_is_read(store: Store, reader: Store, verb: str) -> None:
    """All that is asked of it is possible."""
    await store.set(KEY, b"v", 3600)

    assert await READS[verb](reader)


@pytest.mark.parametrize("verb", WRITES)
async def test_a_write_to_a_read_only_database_is_an_error_at_once(store: Store, reader: Store, verb: str) -> None:
    """It says so, and nothing is changed."""
    await store.set(KEY, b"5", 3600)
    before = await store.get_versioned(KEY)
    with pytest.raises(ReadOnlyError, match="takes no writes: check grants") as raised:
        await WRITES[verb](reader)

    assert raised.value.__cause__ is not None, "the driver's exception"
    assert await store.get_versioned(KEY) == before


async def test_pruning_a_read_only_database_is_an_error(store: Store, reader: Store) -> None:
    """It does not count what it could not delete."""
    await store.set(KEY, b"5", 0.001)
    await asyncio.sleep(0.01)
    with pytest.raises(ReadOnlyError):
        await reader.delete_expired()

    assert await store.delete_expired() == 1


async def test_a_table_cannot_be_created_in_a_read_only_database(
    adapter: Adapter, store: Store, reader: Store, request: pytest.FixtureRequest
) -> None:
    """One that is there needs no creating; it is not dropped either."""
    await store.set(KEY, b"v")
    await reader.create_table()
    with pytest.raises(ReadOnlyError, match="takes no writes"):
        await reader.drop_table()

    assert await store.get(KEY) == b"v"
    await store.drop_table()
    # Oracle's emulator says that the other user's table is not there.
    emulated = adapter.networked and request.getfixturevalue("server").emulated
    refused = (SQLStoreError, "cannot create") if emulated else (ReadOnlyError, "takes no writes")
    with pytest.raises(refused[0], match=refused[1]):
        await reader.create_table()
