"""Migrations as numbered pairs of plain SQL files, the bundled ones and an application's: no database is asked.

The bundled files name the table ``litestar_session``, so that a database's own client runs them unchanged; here that
identifier, and those derived from it, are replaced by the configured table's.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, NamedTuple

from .exceptions import MigrationError
from .names import index_name, validate_table_name

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from importlib.resources.abc import Traversable
    from pathlib import Path

    from .config import BaseConfig
    from .dialects import Dialect, Script

__all__ = (
    "APPLICATION",
    "Migration",
    "MigrationSource",
    "SQLFile",
    "SQLStatement",
    "bundled_source",
    "folder_source",
    "history_file",
    "renamed",
    "sources_of",
)

APPLICATION = "application"
"""The name of the source that is an application's folder."""
BUNDLED_TABLE = "litestar_session"
_BUNDLED_NAME = re.compile(rf"\b{BUNDLED_TABLE}(?:_(\w+))?\b")
_HISTORY_TABLE = re.compile(r"\bsqlstore_migrations\b")

# The longest name that a database's column takes together with a line number.
_FILE_NAME = re.compile(r"(?P<version>\d{4,18})_(?P<name>[a-z0-9_]{1,100})\.(?P<direction>up|down)\.sql")
_NO_TRANSACTION = re.compile(r"\s*--[ \t]*sqlstore:[ \t]*no-transaction[ \t]*$", re.MULTILINE)


class SQLStatement(NamedTuple):
    """One statement of a file, without the ``;`` that ends it."""

    text: str
    line: int
    """The line on which it begins; 1 is the first."""


class SQLFile(NamedTuple):
    """One file of a migration."""

    name: str
    """As messages call it: ``0001_create_books.up.sql``."""
    text: str
    """As it was written, with LF line ends."""
    table: str | None = None
    """Instead of ``litestar_session``; None if it is to stay what it is."""

    @property
    def checksum(self) -> str:
        """The SHA-256 of the text, before any renaming, in hexadecimal digits: what ``sha256sum`` says of the file.

        CRLF line ends, which git may make of others, and a byte order mark do not count.
        """
        return hashlib.sha256(self.text.encode()).hexdigest()

    @property
    def sql(self) -> str:
        """The text that is run."""
        return self.text if self.table is None else renamed(self.text, self.table)

    @property
    def in_transaction(self) -> bool:
        """Whether it may run in a transaction: its first line is not ``-- sqlstore: no-transaction``."""
        return _NO_TRANSACTION.match(self.text) is None

    def statements(self, dialect: Dialect) -> list[SQLStatement]:
        """Return the statements that are run, as the database's own client would tell them apart."""
        return list(_split(self.sql, dialect.script))

    def checked_statements(self, dialect: Dialect) -> list[SQLStatement]:
        """Return the same.

        Raises:
            MigrationError: there is none, or one that would end the transaction in which the file runs.
        """
        statements = self.statements(dialect)
        if not statements:
            msg = f"{self.name} has no statement: write what it does, each with a ; at the end of a line"
            raise MigrationError(msg, file=self.name)
        refused = dialect.script.not_in_transaction
        for text, line in statements if refused and self.in_transaction else ():
            found = (re.match(refused, each, re.IGNORECASE) for each in _commands(text, dialect.script))
            if match := next(filter(None, found), None):
                msg = (
                    f"{self.name}, line {line}: {match[0]} is not for a file that runs in a transaction: leave it out, "
                    "or begin the file with -- sqlstore: no-transaction"
                )
                raise MigrationError(msg, file=self.name, line=line)
        return statements

    def script(self, dialect: Dialect) -> str:
        """Return the text for the database's own client, whose last statement is ended, too.

        Raises:
            MigrationError: see `checked_statements`.
        """
        text = self.sql.rstrip()
        ended = not text.endswith(self.checked_statements(dialect)[-1].text)
        return text if ended else f"{text}\n{'/' if dialect.script.block else ';'}"


class Migration(NamedTuple):
    """One version."""

    version: int
    name: str
    up: SQLFile
    down: SQLFile | None

    @property
    def label(self) -> str:
        """What its files' names begin with: ``0001_create_books``."""
        return self.up.name.removesuffix(".up.sql")


@dataclass(frozen=True)
class MigrationSource:
    """Migrations with a history of their own."""

    name: str
    """In the history: ``application``, or ``store:litestar_session`` for the bundled ones and that table."""
    migrations: tuple[Migration, ...]
    """In the order of their numbers."""
    table: str | None = None
    """The stores' table if they are the bundled ones: it tells itself which versions are there."""

    @property
    def head(self) -> int:
        """The newest version; 0 if there is none."""
        return self.migrations[-1].version if self.migrations else 0

    def find(self, version: int) -> Migration | None:
        """Return the migration of that number, None if there is none."""
        return next((each for each in self.migrations if each.version == version), None)


def sources_of(config: BaseConfig) -> list[MigrationSource]:
    """Return the bundled migrations for the config's table, and then those of the application's folder if it has one.

    Raises:
        MigrationError: the folder is not there, or a file has a wrong name.
        ValueError: the table's name is none.
    """
    sources = [bundled_source(config.dialect, config.session_table)]
    if config.script_location is not None:
        sources.append(folder_source(config.script_location))
    return sources


@cache
def bundled_source(dialect: Dialect, table: str) -> MigrationSource:
    """Return the bundled migrations for *table*.

    Raises:
        TypeError: *table* is not a string.
        ValueError: *table* is not a plain identifier.
    """
    folder = files("sqlstore") / "migrations" / dialect.name
    return MigrationSource(f"store:{validate_table_name(table, dialect)}", _migrations(folder.iterdir(), table), table)


def folder_source(folder: Path) -> MigrationSource:
    """Return the migrations in an application's *folder*.

    Raises:
        MigrationError: the folder is not there, or a file has a wrong name, or cannot be read.
    """
    if not folder.is_dir():
        msg = f"there is no folder {folder}: run sqlstore init {folder}, or correct script_location"
        raise MigrationError(msg)
    return MigrationSource(APPLICATION, _migrations(folder.iterdir(), None))


def history_file(what: str, version_table: str) -> SQLFile:
    """Return the file that makes the table of applied versions in the dialect called *what*, or the file ``drop``."""
    name = f"{what}.sql"
    text = (files("sqlstore") / "migrations" / "history" / name).read_text("utf-8")
    return SQLFile(f"history/{name}", _HISTORY_TABLE.sub(version_table, text))


def renamed(text: str, table: str) -> str:
    """Return a bundled *text* with *table* for ``litestar_session``, and its names for those that derive from it."""
    return _BUNDLED_NAME.sub(lambda match: index_name(table, match[1]) if match[1] else table, text)


def _migrations(paths: Iterable[Path] | Iterable[Traversable], table: str | None) -> tuple[Migration, ...]:
    found: dict[int, dict[str, tuple[str, SQLFile]]] = {}
    for path in sorted(paths, key=lambda path: path.name):
        if not path.name.lower().endswith(".sql"):
            continue
        match = _FILE_NAME.fullmatch(path.name)
        if match is None:
            msg = (
                f"{path.name} is not the name of a migration: use NNNN_name.up.sql or NNNN_name.down.sql, with at "
                "least 4 digits, and up to 100 lower-case letters, digits and underscores"
            )
            raise MigrationError(msg, file=path.name)
        pair = found.setdefault(int(match["version"]), {})
        other = next(iter(pair.values()), None)
        if other is not None and (match["direction"] in pair or other[0] != match["name"]):
            msg = f"{path.name} has the number of {other[1].name}: give one of them, and its pair, another"
            raise MigrationError(msg, file=path.name)
        pair[match["direction"]] = (match["name"], SQLFile(path.name, _text(path), table))
    return tuple(_migration(version, pair) for version, pair in sorted(found.items()))


def _migration(version: int, pair: dict[str, tuple[str, SQLFile]]) -> Migration:
    name, down = pair.get("down", ("", None))
    if "up" not in pair:
        missing = down.name.replace(".down.", ".up.") if down else ""
        msg = f"{down and down.name} undoes nothing: there is no {missing} beside it"
        raise MigrationError(msg, file=down and down.name)
    name, up = pair["up"]
    return Migration(version, name, up, down)


def _text(path: Path | Traversable) -> str:
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        msg = f"{path.name} is not in UTF-8: save it as UTF-8 ({error})"
        raise MigrationError(msg, file=path.name) from error
    except OSError as error:
        msg = f"{path.name} cannot be read: {error}"
        raise MigrationError(msg, file=path.name) from error
    return text.replace("\r\n", "\n")


def _split(text: str, script: Script) -> Iterator[SQLStatement]:
    begin: int | None = None
    line, counted = 1, 0
    delimiter = ";"
    block: object = None
    position = 0
    while match := _tokens(script, delimiter).search(text, position):
        position = match.end()
        kind = match.lastgroup
        if begin is None:
            if kind == "directive":
                delimiter = match[0].split()[1]
            if kind in {"directive", "comment", "end", "slash"}:
                continue
            begin = match.start()
            line, counted = line + text.count("\n", counted, begin), begin
            block = script.block and re.compile(script.block, re.IGNORECASE).match(text, begin)
        if kind == "slash" or (kind == "end" and not block and script.is_complete(text[begin:position])):
            yield SQLStatement(text[begin : match.start()].rstrip(), line)
            begin = None
    if begin is not None:
        yield SQLStatement(text[begin:].rstrip(), line)


def _commands(text: str, script: Script) -> Iterator[str]:
    """Give a statement, and what may be others on its line, each behind a ``;``."""
    begins = True
    for match in _tokens(script, ";").finditer(text):
        if begins and match.lastgroup != "comment":
            begins = False
            if match.start() == 0 or match[0].upper() != "END":  # which ends the body of a function or trigger
                yield text[match.start() :]
        begins = begins or match[0] == ";"


@cache
def _tokens(script: Script, delimiter: str) -> re.Pattern[str]:
    parts = {
        "directive": script.directive,
        "slash": r"^[ \t]*/[ \t]*$" if script.block else "",
        "comment": script.comment,
        "quoted": script.quoted,
        # One that closes its line, where a comment may follow.
        "end": rf"{re.escape(delimiter)}(?=[ \t]*(?:{script.comment})?[ \t]*$)",
        "other": r"\w+|\S",
    }
    return re.compile("|".join(f"(?P<{kind}>{part})" for kind, part in parts.items() if part), re.MULTILINE | re.DOTALL)
