"""How fast the disk makes a write durable, and how to make it slower than it is.

Group commit matters most where an fsync takes long, so the slow mode preloads `slow_fsync.c` into the servers and, for
SQLite, into the program itself.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from tests.servers import Shell

if TYPE_CHECKING:
    from collections.abc import Generator

SLOW_MICROSECONDS = 2000
_VARIABLE = "SLOW_FSYNC_MICROSECONDS"


@contextmanager
def slow_environment(microseconds: int = SLOW_MICROSECONDS) -> Generator[dict[str, str], None, None]:
    """Give the environment for programs whose fsync shall take *microseconds*, while the shim exists.

    Raises:
        OSError: there is no C compiler, or no such shim on this system.
    """
    compiler = shutil.which("cc")
    if compiler is None or sys.platform != "linux":
        msg = "a slow disk needs Linux and a C compiler named cc: make services"
        raise OSError(msg)
    with closing(Shell()) as shell:  # whose directory any user can read, and which goes when we are killed
        library = shell.directory / "slow_fsync.so"
        source = Path(__file__).with_name("slow_fsync.c")
        made = subprocess.run(
            [compiler, "-shared", "-fPIC", "-O2", "-o", library, source, "-ldl"],
            capture_output=True,
            text=True,
            check=False,
        )
        if made.returncode != 0:
            raise OSError(made.stderr)
        library.chmod(0o755)  # whatever the umask is
        yield {**os.environ, "LD_PRELOAD": str(library), _VARIABLE: str(microseconds)}


def is_slow() -> bool:
    """Return whether this process was started in a `slow_environment`."""
    return _VARIABLE in os.environ


def run_again_slowly() -> int:
    """Run this very program again in a `slow_environment`, and return its exit status."""
    with slow_environment() as environment:
        command = [sys.executable, "-m", "benchmarks", *sys.argv[1:]]
        again = subprocess.Popen(command, env=environment, start_new_session=True)  # we hand it one Ctrl-C
        try:
            return again.wait()
        except KeyboardInterrupt:
            again.terminate()
            return again.wait()


def fsyncs_per_second(directory: Path, seconds: float = 0.5) -> float:
    """Return how often a second a page can be written in *directory* and made durable, one after the other."""
    with (directory / "fsyncs").open("wb", buffering=0) as file:
        count, begin = 0, time.perf_counter()
        while (elapsed := time.perf_counter() - begin) < seconds:
            os.pwrite(file.fileno(), bytes(8192), 8192 * (count % 64))
            os.fdatasync(file.fileno())
            count += 1
    Path(file.name).unlink()
    return count / elapsed
