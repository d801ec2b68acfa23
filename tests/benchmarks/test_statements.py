"""Statements are counted by the databases, each one of them."""

from __future__ import annotations

import sqlite3
from contextlib import closing

import pytest

from benchmarks import servers
from benchmarks.statements import count_on_postgresql, count_on_sqlite, counted_on_postgresql, fetch


def test_postgresql_counts_what_one_database_was_asked() -> None:
    """Statements of a transaction count, and BEGIN and COMMIT, too; those while counting was off do not."""
    try:
        with servers.postgresql(slow_disk=False) as server:
            fetch(server.dsn, "CREATE DATABASE counted")
            dsn = f"{server.dsn.rpartition('/')[0]}/counted"
            fetch(dsn, "SELECT 'before'")
            count_on_postgresql(server.dsn, on=True)
            fetch(dsn, "BEGIN", "SELECT 1", "SELECT 2", "COMMIT")
            count_on_postgresql(server.dsn, on=False)
            fetch(dsn, "SELECT 'after'")
            counted = counted_on_postgresql(server.dsn, "counted")
    except (OSError, RuntimeError) as error:
        pytest.skip(str(error))

    assert counted == 4


def test_sqlite_counts_every_statement_of_every_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    """BEGIN and COMMIT count, and each row of an executemany; reading the count does not."""
    monkeypatch.setattr(sqlite3, "connect", sqlite3.connect)  # restored after the test
    counted = count_on_sqlite()
    for _ in range(2):
        with closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
            connection.execute("CREATE TABLE t (i)")
            connection.execute("BEGIN")
            connection.executemany("INSERT INTO t VALUES (?)", [(1,), (2,), (3,)])
            connection.execute("COMMIT")
    readings = [counted(), counted()]

    assert readings == [12, 12]
