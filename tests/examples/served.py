"""Serve the sessions example as a reader does: in a process of its own."""

import os
import re
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

EXAMPLE = Path(__file__).parents[2] / "examples" / "sessions_app.py"


def start(directory: Path, **settings: str) -> "subprocess.Popen[str]":
    """Start the example in *directory*, with nobody's settings but these."""
    others = {name: value for name, value in os.environ.items() if name not in {"DATABASE_URL", "PORT"}}
    return subprocess.Popen(
        [sys.executable, EXAMPLE],
        cwd=directory,
        env=others | settings,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def address_of(process: "subprocess.Popen[str]") -> str:
    """Wait until *process* says where it serves."""
    assert process.stdout
    said = ""
    while not (found := re.search(r"http://[\w.:]+", said)):
        line = process.stdout.readline()
        assert line, f"it ended: {said}"
        said += line
    return found[0]


@contextmanager
def served(directory: Path, **settings: str) -> Generator[str, None, None]:
    """Serve the example on a free port, give its address, and kill it without warning."""
    with start(directory, PORT="0", **settings) as process:
        try:
            yield address_of(process)
        finally:
            process.kill()
