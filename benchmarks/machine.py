"""What the figures depend on besides the code: the machine, and the versions of everything."""

from __future__ import annotations

import os
import platform
import re
import sqlite3
from importlib import metadata
from pathlib import Path

PACKAGES = (
    *("sqlstore", "litestar", "asyncpg", "psycopg", "psycopg-pool", "aiosqlite", "asyncmy", "sqlspec"),
    *("advanced-alchemy", "sqlalchemy", "redis", "uvloop", "uvicorn", "httptools"),
)


def describe(directory: Path) -> dict[str, str]:
    """Return what this machine is, and the file system that *directory* is on."""
    processor = re.search(r"model name\s*: (.*)", _read("/proc/cpuinfo"))
    memory = re.search(r"MemTotal: *(\d+)", _read("/proc/meminfo"))
    return {
        "Processor": processor[1] if processor else platform.processor(),
        "CPUs": str(os.cpu_count()),
        "Memory": f"{int(memory[1]) / 2**20:.0f} GiB" if memory else "unknown",
        "System": f"{platform.system()} {platform.release()}",
        "File system": _file_system(directory),
        "Python": f"{platform.python_implementation()} {platform.python_version()}",
    }


def versions() -> dict[str, str]:
    """Return the versions of the packages that are installed, and of SQLite."""
    found = {"SQLite": sqlite3.sqlite_version}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found


def _file_system(directory: Path) -> str:
    mounts = [line.split() for line in _read("/proc/mounts").splitlines()]
    around = [mount for mount in mounts if directory.resolve().is_relative_to(mount[1])]
    return max(around, key=lambda mount: len(mount[1]))[2] if around else "unknown"


def _read(file: str) -> str:
    path = Path(file)
    return path.read_text() if path.exists() else ""
