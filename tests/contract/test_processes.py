"""Several processes over one database."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest

from sqlstore.migrator import Migrator

from . import worker

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Generator
    from concurrent.futures import ProcessPoolExecutor
    from pathlib import Path

    from sqlstore import BaseConfig, BaseSQLSpecStore

    from ..conftest import Adapter, MakeConfig
    from ..servers import Server

    Store = BaseSQLSpecStore[Any]

PROCESSES, ROUNDS = 12, 20


@pytest.fixture(scope="module")
def processes() -> Generator[ProcessPoolExecutor, None, None]:
    """Give processes that have already loaded all they need, and can wait for each other at a barrier."""
    with worker.loaded_processes(worker.__name__, PROCESSES) as processes:
        yield processes


@pytest.fixture
async def fresh_databases(
    adapter: Adapter, tmp_path: Path, request: pytest.FixtureRequest
) -> AsyncGenerator[list[str], None]:
    """Give an empty database for each round."""
    if not adapter.networked:
        yield [str(tmp_path / f"{number}.db") for number in range(ROUNDS)]
        return
    server: Server = request.getfixturevalue("server")
    rounds = 5 if adapter.dialect == "oracle" else ROUNDS  # its emulator is slow
    databases = [await server.create_database() for _ in range(rounds)]
    yield databases
    for database in databases:
        await server.drop_database(database)


def _place(adapter: Adapter, config: BaseConfig) -> worker.Place:
    return worker.Place(adapter.store, adapter.config, config.pool_config, config.extension_config)


async def test_many_processes_create_the_table_at_once(
    adapter: Adapter, make_config: MakeConfig, processes: ProcessPoolExecutor, fresh_databases: list[str]
) -> None:
    """Each finds the table there and works, whichever of them made it; 20 rounds, no error."""
    places = [_place(adapter, make_config(dsn=database)) for database in fresh_databases]
    running = [processes.submit(worker.create_tables, places) for _ in range(PROCESSES)]
    errors = [error for process in running for error in process.result()]
    counted: list[bytes | None] = []
    for place in places:
        async with place.open() as store:
            counted.append(await store.get("processes"))

    assert errors == []
    assert counted == [b"%d" % PROCESSES] * len(fresh_databases)


async def test_each_version_is_applied_by_one_process(
    adapter: Adapter,
    make_config: MakeConfig,
    processes: ProcessPoolExecutor,
    fresh_databases: list[str],
    tmp_path: Path,
) -> None:
    """Of 12 that begin at once, and in order; none of them fails, and all end when all is applied."""
    databases = fresh_databases[:2]
    (tmp_path / "migrations").mkdir()
    labels = ["0001_create_log", *(f"000{number}_log" for number in range(2, 6))]
    for label in labels:
        text = "CREATE TABLE log (id integer);" if label == labels[0] else "INSERT INTO log VALUES (1);"
        (tmp_path / "migrations" / f"{label}.up.sql").write_text(text)
    places: list[worker.Place] = []
    for database in databases:
        place = _place(adapter, make_config(dsn=database))
        options = place.extension_config | {"migrations": {"script_location": str(tmp_path / "migrations")}}
        places.append(place._replace(extension_config=options))
    running = [processes.submit(worker.upgrade, places) for _ in range(PROCESSES)]
    done = Counter(each for process in running for each in process.result())
    configs = [place.config(pool_config=place.pool_config, extension_config=place.extension_config) for place in places]

    assert done == dict.fromkeys(["0001_create_session_table", *labels], len(places))
    assert [await Migrator(config).check() for config in configs] == [[]] * len(places)


async def test_no_write_of_several_processes_is_lost(
    adapter: Adapter, store: Store, make_config: MakeConfig, processes: ProcessPoolExecutor
) -> None:
    """4 processes of 8 tasks write the same keys: none is told of the others, and every increment counts."""
    place = _place(adapter, make_config(timeout=60))  # in the end each gets at a key that all want
    running = [processes.submit(worker.write_beside_others, place, number) for number in range(4)]
    errors = [error for process in running for error in process.result()]

    assert errors == []
    assert await store.get("n") == b"%d" % (4 * worker.TASKS * worker.ROUNDS)
