"""Migrations as files: their names, their statements, their checksums, and another table's name in them."""

from __future__ import annotations

import hashlib
import tracemalloc
from typing import TYPE_CHECKING

import pytest

from sqlstore import MigrationError
from sqlstore.dialects import MYSQL, ORACLE, POSTGRESQL, SQLITE, Dialect
from sqlstore.migration_files import SQLFile, bundled_source, folder_source

if TYPE_CHECKING:
    from pathlib import Path

DIALECTS = (MYSQL, ORACLE, POSTGRESQL, SQLITE)


def _split(dialect: Dialect, text: str) -> list[str]:
    return [statement.text for statement in SQLFile("0001_a.up.sql", text).statements(dialect)]


# Statements


@pytest.mark.parametrize("dialect", DIALECTS, ids=lambda dialect: dialect.name)
@pytest.mark.parametrize(
    ("text", "statements"),
    [
        ("", []),
        ("-- nothing\n/* at; \n all */\n", []),
        (";\n;\n", []),
        ("INSERT 1", ["INSERT 1"]),
        ("INSERT 1;\nINSERT 2;", ["INSERT 1", "INSERT 2"]),
        ("INSERT 1 ; \t\nINSERT\n2\n;\n", ["INSERT 1", "INSERT\n2"]),
        ("INSERT 1; -- one\nINSERT 2; /* two */\n", ["INSERT 1", "INSERT 2"]),
        ("-- first;\nINSERT 1 -- not yet;\n, 2;", ["INSERT 1 -- not yet;\n, 2"]),
        ("INSERT /* not\nyet;\n*/ 1;\nINSERT 2;", ["INSERT /* not\nyet;\n*/ 1", "INSERT 2"]),
        ("INSERT 'a;\nb', 'it''s;\n';\nINSERT 2;", ["INSERT 'a;\nb', 'it''s;\n'", "INSERT 2"]),
        ('INSERT "a;\n";\nINSERT 2;', ['INSERT "a;\n"', "INSERT 2"]),
        ("INSERT '-- no comment', '/*';\nINSERT 2;", ["INSERT '-- no comment', '/*'", "INSERT 2"]),
        ("INSERT 'never closed;\nINSERT 2;\n", ["INSERT 'never closed;\nINSERT 2;"]),
    ],
)
def test_a_semicolon_that_closes_a_line_ends_a_statement(dialect: Dialect, text: str, statements: list[str]) -> None:
    """Not in quotes, nor in comments, which may come after it; what comes before the statement is not of it."""
    assert _split(dialect, text) == statements


def test_an_error_can_name_the_line_on_which_a_statement_begins() -> None:
    """Comments and empty lines before it count, and are not the statement's."""
    text = "-- first\n\nCREATE TABLE a (\n    id integer\n);\n\n/* second\n*/ CREATE TABLE b (id integer);\n"

    assert [each.line for each in SQLFile("0001_a.up.sql", text).statements(POSTGRESQL)] == [3, 8]


@pytest.mark.parametrize(
    "statement",
    [
        "CREATE FUNCTION f() RETURNS void AS $$\nBEGIN\n  PERFORM 1;\nEND;\n$$ LANGUAGE plpgsql",
        "DO $body$ BEGIN\nEXECUTE $$ SELECT 1;\n$$;\nEND $body$",
        "INSERT INTO a VALUES (E'it\\'s;\n', 'a\\')",
        "INSERT INTO a$b$ VALUES ($1)",
        "INSERT /* a /* b;\n */ c;\n */ INTO a",
    ],
)
def test_postgresql_has_dollar_quotes_and_comments_in_comments(statement: str) -> None:
    """And a backslash means something only after an E."""
    assert _split(POSTGRESQL, f"{statement};\nSELECT 2;\n") == [statement, "SELECT 2"]


def test_sqlite_has_statements_in_a_trigger() -> None:
    """Their ``;`` close lines, too."""
    trigger = "CREATE TRIGGER t AFTER INSERT ON a BEGIN\n  INSERT INTO b VALUES (1);\n  SELECT ';';\nEND"

    assert _split(SQLITE, f"{trigger};\nINSERT INTO [a;\n] VALUES (1);\n") == [trigger, "INSERT INTO [a;\n] VALUES (1)"]


@pytest.mark.parametrize(
    "block",
    [
        "BEGIN\n  NULL;\nEND;",
        "declare\n  x number;\nbegin\n  x := 6 / 2;\n  x := 6\n   / 2;\nend;",
        "CREATE OR REPLACE EDITIONABLE TRIGGER t\nBEFORE INSERT ON a FOR EACH ROW\nBEGIN\n  :new.id := 1;\nEND;",
        "CREATE TYPE names AS TABLE OF varchar2(9);",
    ],
)
def test_oracle_has_blocks_that_a_slash_ends(block: str) -> None:
    """The ``;`` in front of the slash is the block's own. A line ``/`` also ends any other statement."""
    text = f"CALL a();\n{block}\n/\nCALL b(q'[it's;\n]')\n/\nCALL c();\n/\n"

    assert _split(ORACLE, text) == ["CALL a()", block, "CALL b(q'[it's;\n]')", "CALL c()"]


def test_mysql_s_client_has_delimiters() -> None:
    """And comments that are statements, for servers of some versions, and backslashes in strings."""
    procedure = "CREATE PROCEDURE p()\nBEGIN\n  SELECT 1;\n  SELECT 2;\nEND"
    text = (
        f"# it;\n/*!40101 SET NAMES utf8 */;\ndelimiter //\n{procedure} //\nDELIMITER ;\nSELECT 'it\\'s;\n', `a;\n`;\n"
    )
    text += "SELECT 5--1;\n"

    expected = ["/*!40101 SET NAMES utf8 */", procedure, "SELECT 'it\\'s;\n', `a;\n`", "SELECT 5--1"]
    assert _split(MYSQL, text) == expected


@pytest.mark.parametrize("dialect", [POSTGRESQL, SQLITE])
@pytest.mark.parametrize("statement", ["BEGIN", "begin immediate", "COMMIT", "END", "ROLLBACK"])
def test_a_transaction_cannot_be_ended_inside_of_its_file(dialect: Dialect, statement: str) -> None:
    """Half of the file would be kept if the other half failed."""
    file = SQLFile("0001_a.up.sql", f"CREATE TABLE a (id integer);\n{statement};\n")
    with pytest.raises(
        MigrationError, match=rf"0001_a.up.sql, line 2: {statement.split(maxsplit=1)[0]} is not for a file"
    ) as raised:
        file.checked_statements(dialect)

    assert raised.value.line == 2
    assert file._replace(text=f"-- sqlstore: no-transaction\n{file.text}").checked_statements(dialect)
    assert SQLFile("0001_a.up.sql", "ROLLBACK TO a;\nUPDATE begin SET x = 1;").checked_statements(dialect)


@pytest.mark.parametrize(
    "text", ["CREATE TABLE a (id integer); COMMIT; CREATE TABLE b (id integer);", "SELECT 1; /* it */ rollback;"]
)
def test_nor_in_the_middle_of_a_line(text: str) -> None:
    """PostgreSQL runs what is on one line as several statements."""
    with pytest.raises(MigrationError, match=r"line 1: (COMMIT|rollback) is not for a file"):
        SQLFile("0001_a.up.sql", text).checked_statements(POSTGRESQL)


def test_a_body_is_not_a_transaction() -> None:
    """What is between BEGIN ATOMIC and END on one line, and in quotes, ends nothing."""
    texts = ["BEGIN ATOMIC SELECT 1; SELECT 2; END;", "AS $$ BEGIN; COMMIT; END $$;", "AS 'SELECT 1; COMMIT';"]
    files = [SQLFile("0001_a.up.sql", f"CREATE FUNCTION a() RETURNS void LANGUAGE sql {text}") for text in texts]

    assert [len(file.checked_statements(POSTGRESQL)) for file in files] == [1, 1, 1]


def test_sqlite_does_not_look_away_in_a_transaction() -> None:
    """``foreign_keys`` would stay what it is, and dropping a parent would delete its children."""
    with pytest.raises(MigrationError, match=r"line 1: PRAGMA foreign_keys is not for a file .* begin the file with"):
        SQLFile("0001_a.up.sql", "PRAGMA foreign_keys = OFF;").checked_statements(SQLITE)


@pytest.mark.parametrize(
    ("dialect", "text", "end"),
    [
        (SQLITE, "SELECT 1", "\n;"),
        (SQLITE, "SELECT 1 -- one", "\n;"),
        (POSTGRESQL, "SELECT 1; -- one\n", ""),
        (ORACLE, "BEGIN NULL; END;", "\n/"),
        (ORACLE, "SELECT 1 FROM dual;", ""),
        (MYSQL, "SELECT 1", "\n;"),
    ],
)
def test_a_script_ends_its_last_statement(dialect: Dialect, text: str, end: str) -> None:
    """What follows it in the script is another one."""
    assert SQLFile("0001_a.up.sql", text).script(dialect) == text.rstrip() + end


@pytest.mark.parametrize("dialect", DIALECTS, ids=lambda dialect: dialect.name)
def test_a_long_string_takes_no_more_memory_than_a_few_of_it(dialect: Dialect) -> None:
    """A migration may have a value of megabytes in it."""
    text = f"CALL a(E'{'x' * 1_000_000}');\nSELECT 2;"
    tracemalloc.start()
    try:
        assert len(_split(dialect, text)) == 2
        assert tracemalloc.get_traced_memory()[1] < 10 * len(text)
    finally:
        tracemalloc.stop()


# Names


def test_a_folder_has_numbered_pairs(tmp_path: Path) -> None:
    """In the order of their numbers, however many digits they have; a file down may be missing, others may be there."""
    for name in ("0002_b.up.sql", "10000_c.up.sql", "0001_a.up.sql", "0001_a.down.sql", "README.md"):
        (tmp_path / name).write_text(f"-- {name}")
    source = folder_source(tmp_path)

    assert source.name == "application"
    assert [(each.version, each.label) for each in source.migrations] == [
        (1, "0001_a"),
        (2, "0002_b"),
        (10000, "10000_c"),
    ]
    assert [each.down and each.down.text for each in source.migrations] == ["-- 0001_a.down.sql", None, None]
    assert source.head == 10000


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["1_a.up.sql"], "1_a.up.sql is not the name of a migration: use NNNN_name.up.sql"),
        (["0001_a.sql"], "0001_a.sql is not"),
        (["0001_A.up.sql"], "0001_A.up.sql is not"),
        (["0001_a.up.SQL"], "0001_a.up.SQL is not"),
        (["0001_a.up.sql", "0001_b.up.sql"], "0001_b.up.sql has the number of 0001_a.up.sql: give one"),
        (["0001_a.up.sql", "00001_a.up.sql"], "has the number of"),
        (["0001_a.up.sql", "0001_b.down.sql"], "0001_b.down.sql has the number of 0001_a.up.sql"),
        (["0001_a.down.sql"], "0001_a.down.sql undoes nothing: there is no 0001_a.up.sql beside it"),
    ],
    ids=str,
)
def test_other_names_are_refused(tmp_path: Path, names: list[str], message: str) -> None:
    """Before anything runs, with the name that would be right."""
    for name in names:
        (tmp_path / name).touch()

    with pytest.raises(MigrationError, match=message) as raised:
        folder_source(tmp_path)
    assert raised.value.file in names


def test_a_missing_folder_is_an_error_that_says_how_to_make_it(tmp_path: Path) -> None:
    """It is not taken for one without migrations."""
    with pytest.raises(MigrationError, match=f"there is no folder {tmp_path}/m: run sqlstore init {tmp_path}/m"):
        folder_source(tmp_path / "m")


def test_a_file_that_is_not_utf_8_is_refused(tmp_path: Path) -> None:
    """No text is guessed."""
    (tmp_path / "0001_a.up.sql").write_bytes(b"-- caf\xe9")

    with pytest.raises(MigrationError, match=r"0001_a\.up\.sql is not in UTF-8: save it as UTF-8"):
        folder_source(tmp_path)


# Checksums


def test_a_checksum_is_that_of_the_file(tmp_path: Path) -> None:
    """What ``sha256sum`` says; line ends that git has changed are no edit."""
    (tmp_path / "0001_a.up.sql").write_bytes(b"SELECT 1;\nSELECT 2;\n")
    (tmp_path / "0002_b.up.sql").write_bytes(b"SELECT 1;\r\nSELECT 2;\r\n")
    checksums = [each.up.checksum for each in folder_source(tmp_path).migrations]

    assert checksums == [hashlib.sha256(b"SELECT 1;\nSELECT 2;\n").hexdigest()] * 2


@pytest.mark.parametrize("dialect", DIALECTS, ids=lambda dialect: dialect.name)
def test_a_checksum_does_not_depend_on_the_table_s_name(dialect: Dialect) -> None:
    """It is of the file, not of what is made of it."""
    [one], [other] = (bundled_source(dialect, table).migrations for table in ("litestar_session", "sessions"))

    assert one.up.checksum == other.up.checksum
    assert one.up.sql != other.up.sql


# Renaming and transactions


def test_only_whole_names_are_replaced() -> None:
    """The table's, and those that begin with it."""
    text = "ON litestar_session, x_litestar_session, litestar_sessions, litestar_session_principal, litestar_session.a"
    file = SQLFile("0001_a.up.sql", text, "app.mine")

    assert file.sql == "ON app.mine, x_litestar_session, litestar_sessions, mine_principal, app.mine.a"
    assert file._replace(table=None).sql == text


@pytest.mark.parametrize(
    ("text", "in_transaction"),
    [
        ("-- sqlstore: no-transaction\nSELECT 1;", False),
        ("--sqlstore:no-transaction", False),
        ("SELECT 1;\n-- sqlstore: no-transaction\n", True),
        ("-- not sqlstore: no-transaction\n", True),
    ],
)
def test_the_first_line_may_refuse_a_transaction(text: str, in_transaction: bool) -> None:  # noqa: FBT001
    """``CREATE INDEX CONCURRENTLY`` cannot run in one."""
    assert SQLFile("0001_a.up.sql", text).in_transaction is in_transaction
