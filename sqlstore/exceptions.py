"""What a caller may have to handle.

Bad input is a `ValueError` or `TypeError`, raised before any SQL runs. Everything the database can do to us is an
`SQLStoreError`, with the driver's own exception as ``__cause__``.
"""

from __future__ import annotations

__all__ = (
    "CommitError",
    "ConnectionLostError",
    "ContentionError",
    "CounterError",
    "ForeignKeyViolationError",
    "MigrationError",
    "NotFoundError",
    "OutcomeUnknownError",
    "ReadOnlyError",
    "SQLStoreError",
    "TableMismatchError",
    "TableMissingError",
    "UnavailableError",
    "UniqueViolationError",
    "ValueTooLargeError",
)


class SQLStoreError(Exception):
    """The database could not do what was asked, and asking again will not help."""


class UnavailableError(SQLStoreError):
    """The database cannot be reached, refused the login, went away, or did not answer within ``timeout``."""


class ConnectionLostError(UnavailableError):
    """The connection broke, also when it was made again; nothing was written."""


class OutcomeUnknownError(UnavailableError):
    """A write was sent and its answer never came, or not in time: it may or may not have happened.

    `incr` and `pop` are never repeated by themselves, because a repetition would count twice or lose the value.
    """


class ContentionError(SQLStoreError):
    """Another transaction was in the way until ``timeout``: nothing happened, asking again later is safe."""


class ReadOnlyError(SQLStoreError):
    """The database file or server takes no writes, or the role lacks a privilege."""


class TableMissingError(SQLStoreError):
    """The table does not exist yet."""


class TableMismatchError(SQLStoreError):
    """A table of that name exists and is not the one that the bundled migrations make."""


class MigrationError(SQLStoreError):
    """A migration cannot be run, or was refused by the database; the message says how to go on."""

    def __init__(self, message: str, *, file: str | None = None, line: int | None = None) -> None:
        """Describe what is wrong in *file*, in the statement that begins on *line*; None if it is about none."""
        super().__init__(message)
        self.file = file
        self.line = line


class ValueTooLargeError(SQLStoreError, ValueError):
    """The value is larger than the database takes."""


class CounterError(SQLStoreError, ValueError):
    """`incr` met a value that is not a decimal 64-bit integer, or the sum would leave that range."""


class NotFoundError(SQLStoreError):
    """A row was asked for that is not there."""


class UniqueViolationError(SQLStoreError):
    """A row has a value that another row has, where the table allows it once."""


class ForeignKeyViolationError(SQLStoreError):
    """A row refers to one that is not there, or is still referred to."""


class CommitError(SQLStoreError):
    """The transaction was not committed, or the database did not say so: nobody may be told that it was."""


class AlreadyThereError(SQLStoreError):
    """What was to be created exists: another process, or an earlier attempt, has done it. No caller sees it."""
