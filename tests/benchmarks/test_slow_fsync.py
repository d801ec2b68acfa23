"""A slow disk is slow for programs and for servers, in either of the two calls."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import asyncpg
import pytest

from benchmarks import servers
from benchmarks.disk import slow_environment

if TYPE_CHECKING:
    from collections.abc import Generator

MICROSECONDS = 20_000


@pytest.fixture
def environment() -> Generator[dict[str, str], None, None]:
    """Give the environment of a program whose disk is slow."""
    try:
        with slow_environment(MICROSECONDS) as environment:
            yield environment
    except OSError as error:
        pytest.skip(str(error))


@pytest.mark.parametrize("call", ["fsync", "fdatasync"])
def test_an_fsync_takes_at_least_the_given_time(environment: dict[str, str], call: str) -> None:
    """It waits for the rest of the time after the real call, and returns what that returned."""
    program = f"""
import os, sys, tempfile, time
with tempfile.TemporaryFile() as file:
    begin = time.monotonic()
    os.{call}(file.fileno())
    print(time.monotonic() - begin)
try:
    os.{call}(99)
except OSError as error:
    print(error.strerror)
"""
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    elapsed, error = done.stdout.splitlines()

    assert float(elapsed) >= MICROSECONDS / 1e6
    assert error == "Bad file descriptor"


def test_a_commit_waits_for_the_slow_disk() -> None:
    """PostgreSQL runs with the shim, so each of these commits takes the disk's time at least."""
    try:
        with servers.postgresql(slow_disk=True) as server:
            elapsed = asyncio.run(_commit(server.dsn, times=20))
    except (OSError, RuntimeError) as error:
        pytest.skip(str(error))

    assert elapsed >= 20 * 0.002


async def _commit(dsn: str, times: int) -> float:
    connection = await asyncpg.connect(dsn)
    try:
        await connection.execute("CREATE TABLE written (at timestamptz)")
        begin = time.monotonic()
        for _ in range(times):
            await connection.execute("INSERT INTO written VALUES (now())")
        return time.monotonic() - begin
    finally:
        await connection.close()
