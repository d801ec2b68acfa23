"""``dump-data``: tables as files of JSON."""

from __future__ import annotations

import asyncio
import difflib
import math
import re
from contextlib import aclosing
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import click
import msgspec
from rich.console import Console

from ..database_session import STREAMED_ROWS, DatabaseSession, SyncDatabaseSession, session_of
from ..exceptions import SQLStoreError
from ..unit_of_work import UnitOfWork
from .configs import Databases, run
from .output import json_option, show

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Collection, Sequence

    from rich.status import Status

    from ..config import BaseConfig

__all__ = ("dump_data",)

Session = DatabaseSession | SyncDatabaseSession


@click.command("dump-data")
@click.argument("folder", metavar="DIR", type=click.Path(file_okay=False, path_type=Path))
@click.option("--table", "names", multiple=True, help="Only this table; may be given several times.")
@json_option
@click.pass_obj
def dump_data(databases: Databases, folder: Path, names: tuple[str, ...], *, as_json: bool) -> None:
    """Write the tables of the current schema to DIR/TABLE.json.

    Each is an array of objects, one row a line; binary values are in base64, instants as ISO 8601. A file that is
    there is never overwritten.
    """
    config = databases.config()
    with Console(stderr=True).status("connecting") as status:
        dumped = run(_dump(config, folder, names, status))
    show(("table", "rows", "file"), dumped, as_json=as_json)


async def _dump(config: BaseConfig, folder: Path, names: Sequence[str], status: Status) -> list[tuple[str, int, str]]:
    dumped: list[tuple[str, int, str]] = []
    table = "the list of tables"
    # All tables as they were at one instant, and no lock for which a writer would wait: SQLite has one writer.
    level = "REPEATABLE READ" if "REPEATABLE READ" in config.dialect.isolation_levels else None
    unit = UnitOfWork(config, config.transaction_mode(level, read_only=True))
    try:
        await unit.connection()
        session = session_of(unit)
        tables: dict[str, str] = {}
        async for row in _rows(session, config.dialect.tables):
            name, tables[name] = row.values()
        files = _files(folder, names, tables)
        for table, file in files.items():
            dumped.append((table, await _write(session, tables[table], file, status), str(file)))
    except (click.ClickException, SQLStoreError):
        raise
    except Exception as error:
        msg = f"cannot dump {table}: {error}"
        raise click.ClickException(msg) from error
    finally:
        await unit.end(commit=False)
    return dumped


async def _write(session: Session, sql: str, file: Path, status: Status) -> int:
    rows = 0
    # Under its name is only what is complete.
    unfinished = file.with_name(f"{file.name}.part")
    with unfinished.open("wb") as output:
        async with aclosing(_rows(session, sql)) as found:
            async for row in found:
                values = {name: _finite(value) for name, value in row.items()}
                output.write((b",\n" if rows else b"[\n") + msgspec.json.encode(values, enc_hook=str))
                rows += 1
                status.update(f"{file.name}: {rows} rows")
        output.write(b"\n]\n" if rows else b"[]\n")
    unfinished.rename(file)
    return rows


def _finite(value: object) -> object:
    """Return *value*; as text, if it is a number that JSON has not, for which null would stand."""
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


async def _rows(session: Session, sql: str) -> AsyncGenerator[dict[str, Any], None]:
    if isinstance(session, SyncDatabaseSession):
        with session.stream(sql) as rows:
            for number, row in enumerate(rows):
                if number % STREAMED_ROWS == 0:
                    await asyncio.sleep(0)  # Ctrl-C is heard when the loop has its turn
                yield row
    else:
        async with session.stream(sql) as rows_to_come:
            async for row in rows_to_come:
                yield row


def _files(folder: Path, names: Sequence[str], tables: Collection[str]) -> dict[str, Path]:
    if unknown := [name for name in names if name not in tables]:
        nearest = difflib.get_close_matches(unknown[0].lower(), {name.lower() for name in tables}, n=1)
        known = [name for name in tables if name.lower() in nearest] or sorted(tables)
        msg = f"there is no table {unknown[0]!r} in the current schema: is it {' or '.join(known)}?"
        raise click.ClickException(msg)
    # A name of a table may be a path: it has %2F for /, so that its file is in the folder.
    quoted = {name: re.sub(r"[%/\\:]", lambda match: quote(match[0], safe=""), name) for name in names or tables}
    files = {name: folder / f"{file}.json" for name, file in quoted.items()}
    if there := [str(file) for file in files.values() if file.exists()]:
        msg = f"already there: {', '.join(there)}; remove them, or choose another DIR"
        raise click.ClickException(msg)
    folder.mkdir(parents=True, exist_ok=True)
    return files
