"""Where a contender keeps its values: in a database or a directory of its own."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from .contenders import Contender
    from .servers import Running


def own_name(contender: Contender, part: str) -> str:
    """Return a name for the place of *contender* in a *part* of the benchmark: a database's, or a directory's."""
    return re.sub(r"\W+", "_", f"{contender.name} {part}").lower()


async def own_place(contender: Contender, part: str, up: Mapping[str, Running], directory: Path) -> str:
    """Return a new database on the contender's server, or a new directory; on Redis, which has no SQL, the server.

    *up* has the servers by their names. The directory is below *directory*.
    """
    name = own_name(contender, part)
    server = up.get(contender.terms.database)
    if server is None:
        return str(own_directory(name, directory))
    if server.run is None:
        return server.dsn
    await server.run(f"CREATE DATABASE {name}")
    return urlsplit(server.dsn)._replace(path=f"/{name}").geturl()


def own_directory(name: str, directory: Path) -> Path:
    """Return a new directory below *directory*."""
    own = directory / name
    own.mkdir()
    owner = directory.stat()
    os.chown(own, owner.st_uid, owner.st_gid)  # who removes it, and is not root although we may be
    return own
