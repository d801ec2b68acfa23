"""Servers are found as promised, and nothing of them is left behind."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests import servers


def test_a_killed_process_leaves_neither_server_nor_directory() -> None:
    """The shell of a process that dies by kill -9 stops its background job and removes its directory."""
    program = """
import os, signal
from tests.servers import Shell
shell = Shell()
shell.run("sleep 60 & pid=$!; echo $pid >pid")
print(shell.directory, (shell.directory / "pid").read_text(), flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""
    killed = subprocess.run([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, check=False)
    directory, pid = killed.stdout.split()
    deadline = time.monotonic() + 10
    while (Path(directory).exists() or runs(int(pid))) and time.monotonic() < deadline:
        time.sleep(0.01)

    assert not Path(directory).exists()
    assert not runs(int(pid))


def test_a_failing_command_says_why() -> None:
    """The error ends with what the command said."""
    shell = servers.Shell()
    try:
        with pytest.raises(RuntimeError, match="No such file"):
            shell.run("LC_ALL=C ls /no/such/directory")
    finally:
        shell.close()


def test_a_misspelt_requirement_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """``SQLSTORE_REQUIRE=postgres`` would otherwise require nothing."""
    monkeypatch.setenv("SQLSTORE_REQUIRE", "sqlite,postgres")

    with pytest.raises(pytest.UsageError, match="unknown database postgres"):
        servers.required()


def test_a_missing_server_is_skipped_or_fails_as_required(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both say what was tried."""
    monkeypatch.delenv("SQLSTORE_REQUIRE", raising=False)
    with pytest.raises(pytest.skip.Exception, match="no postgresql server: this; that"):
        servers.missing(servers.PostgreSQL, "this", "that")
    monkeypatch.setenv("SQLSTORE_REQUIRE", "all")
    with pytest.raises(pytest.fail.Exception, match="no postgresql server: this; that"):
        servers.missing(servers.PostgreSQL, "this", "that")


def test_a_missing_browser_is_skipped_or_fails_as_required(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """As a server is."""
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setenv(servers.RUN_DIRECTORY, str(tmp_path))
    monkeypatch.setenv("SQLSTORE_REQUIRE", "sqlite")
    with pytest.raises(pytest.skip.Exception, match="no chromium in PATH: make services"):
        servers.find_browser()
    monkeypatch.setenv("SQLSTORE_REQUIRE", "chromium")
    with pytest.raises(pytest.fail.Exception, match="no chromium in PATH: make services"):
        servers.find_browser()


def test_a_proxied_dsn_keeps_user_and_database() -> None:
    """It leads to this machine, unencrypted, so that the proxy can follow."""
    dsn = "postgresql://me:secret@db.example:6432/app?sslmode=require"

    assert servers.PostgreSQL.through(dsn, 99) == "postgresql://me:secret@127.0.0.1:99/app?sslmode=disable"


def runs(pid: int) -> bool:
    """Return whether a process is alive."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
