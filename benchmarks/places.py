"""Where a contender keeps its values: in a database or a directory of its own."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import asyncpg

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


async def own_place(name: str, server: str, places: Mapping[str, str], directory: Path) -> str:
    """Return a new database, or a new directory below *directory*; on Redis, which has no tables, the server.

    *places* has the DSN of each server.
    """
    if not server:
        return str(own_directory(name, directory))
    dsn = places[server]
    if server != "postgresql":
        return dsn
    connection = await asyncpg.connect(dsn)
    try:
        await connection.execute(f'CREATE DATABASE "{name}"')
    finally:
        await connection.close()
    return urlsplit(dsn)._replace(path=f"/{name}").geturl()


def own_directory(name: str, directory: Path) -> Path:
    """Return a new directory below *directory*."""
    own = directory / name
    own.mkdir()
    owner = directory.stat()
    os.chown(own, owner.st_uid, owner.st_gid)  # who removes it, and is not root although we may be
    return own
