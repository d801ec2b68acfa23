"""What is applied, what is pending, and which files lead from one to the other: no database is asked."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Literal, NamedTuple

from .exceptions import MigrationError

if TYPE_CHECKING:
    from datetime import datetime

    from .dialects import Dialect
    from .migration_files import Migration, MigrationSource, SQLFile

__all__ = (
    "AppliedVersion",
    "Direction",
    "HalfWayError",
    "MigrationStep",
    "SourceStatus",
    "as_applied",
    "checked",
    "how_to_go_on",
    "label_of",
    "refuse",
    "status_of",
    "steps_to",
    "version_of",
)

Direction = Literal["up", "down"]

_OF_STORE = " --source store"


class AppliedVersion(NamedTuple):
    """One version that is applied, or stopped half-way."""

    version: int
    name: str
    checksum: str
    """Of its up file when it was applied."""
    applied_at: datetime | None
    """UTC; None if the history does not say, because the table itself shows that the version was applied."""
    duration: float | None
    """Seconds; None if it was recorded without being run."""
    running: str | None
    """The file and line where it stopped half-way, None if it did not."""


class SourceStatus(NamedTuple):
    """What is applied of one source, and what is not."""

    source: MigrationSource
    applied: list[AppliedVersion]
    pending: list[Migration]
    problems: list[str]
    """In words; an upgrade does not begin while there is any."""


class HalfWayError(MigrationError):
    """A version stopped half-way, or is being run by another process."""


class MigrationStep(NamedTuple):
    """A migration to run."""

    source: MigrationSource
    migration: Migration
    direction: Direction
    file: SQLFile


def steps_to(state: SourceStatus, direction: Direction, revision: str | None) -> list[MigrationStep]:
    """Return what leads from *state* to *revision*; None is the newest version."""
    refuse(state, direction)
    source = state.source
    current = max((row.version for row in state.applied), default=0)
    target = source.head if revision is None else version_of(state, revision)
    if direction == "up":
        if revision is not None and target < current:
            msg = f"{source.name} is at {label_of(source, current)}, after {label_of(source, target)}: use downgrade"
            raise MigrationError(msg)
        return [MigrationStep(source, each, "up", each.up) for each in state.pending if each.version <= target]
    steps: list[MigrationStep] = []
    for row in sorted(state.applied, reverse=True):
        if row.version <= target:
            break
        migration = source.find(row.version)
        if migration is None or migration.down is None:
            label = f"{row.version:04}_{row.name}"
            msg = f"{source.name}: {label} cannot be undone: there is no {label}.down.sql; write it"
            raise MigrationError(msg)
        steps.append(MigrationStep(source, migration, "down", migration.down))
    return steps


def version_of(state: SourceStatus, revision: str) -> int:
    """Return the version that *revision* names, of one that is in *state*; 0 if nothing is to be applied."""
    source = state.source
    if revision == "head":
        return source.head
    if revision == "base":
        return 0
    if re.fullmatch(r"[+-]\d{1,18}", revision):
        count = int(revision[1:])
        ahead = [each.version for each in state.pending]
        behind = [0, *sorted(row.version for row in state.applied)]
        versions = [behind[-1], *ahead] if revision.startswith("+") else behind[::-1]
        if count < len(versions):
            return versions[count]
        what = "pending" if revision.startswith("+") else "applied"
        msg = f"{source.name}: {revision} is too far: {len(versions) - 1} versions are {what}"
        raise MigrationError(msg)
    for each in source.migrations:
        if revision == each.label or (revision.isdecimal() and int(revision) == each.version):
            return each.version
    msg = (
        f"{source.name}: there is no version {revision}: use head, base, +1, -1, or the number or name of a migration, "
        f"up to {label_of(source, source.head)}"
    )
    raise MigrationError(msg)


def status_of(source: MigrationSource, applied: list[AppliedVersion]) -> SourceStatus:
    """Return what is pending of *source* where *applied* is applied, and what is wrong with that."""
    newest = max((row.version for row in applied), default=0)
    versions = {row.version for row in applied}
    pending = [each for each in source.migrations if each.version not in versions]
    problems: list[str] = []
    for row in applied:
        migration = source.find(row.version)
        if migration is None and row.running is None and 0 < source.head < row.version:
            continue  # this is the code of an earlier release, whose tables the newer one still suits
        if migration is None:
            label = f"{row.version:04}_{row.name}"
            state = f"stopped half-way in {row.running}, unless it runs now" if row.running else "is applied"
            problems.append(f"{label} {state}, and there is no {label}.up.sql: restore the file")
        elif row.running is not None:
            where = f"{migration.label} stopped half-way in {row.running}, unless it runs now"
            problems.append(f"{where}: {how_to_go_on(source, migration, row.running)}")
        elif row.checksum != migration.up.checksum and row.name != migration.name:
            other = f"{row.version:04}_{row.name}"
            problems.append(f"{migration.up.name} has the number of {other}, which is applied: rename it to a new one")
        elif row.checksum != migration.up.checksum:
            problems.append(
                f"{migration.up.name} was edited after it was applied: restore it and write a new migration, or, "
                f"if the database has what it says now, run sqlstore stamp"
                f"{_OF_STORE if source.table is not None else ''} {label_of(source, newest)}"
            )
    problems += [
        f"{each.label} is older than {label_of(source, newest)}, which is applied: rename it to a number after that"
        for each in pending
        if each.version < newest
    ]
    return SourceStatus(source, applied, pending, [f"{source.name}: {problem}" for problem in problems])


def refuse(state: SourceStatus, direction: Direction) -> None:
    """Raise what keeps a run from beginning: of an undoing, only what is half-way."""
    half_way = any(row.running for row in state.applied)
    if state.problems and (direction == "up" or half_way):
        raise (HalfWayError if half_way else MigrationError)("; ".join(state.problems))


def checked(steps: list[MigrationStep], dialect: Dialect) -> list[MigrationStep]:
    """Return *steps*, none of which has run, if all files can be run."""
    for step in steps:
        step.file.checked_statements(dialect)
    return steps


def how_to_go_on(source: MigrationSource, migration: Migration, where: str) -> str:
    """Return what to do about a *migration* that stopped *where* its up or down file says."""
    before = max((each.version for each in source.migrations if each.version < migration.version), default=0)
    finished, undone = f"{migration.version:04}", f"{before:04}" if before else "base"
    if ".down.sql" in where:
        finished, undone = undone, finished
    stamp = f"sqlstore stamp{_OF_STORE if source.table is not None else ''}"
    return (
        f"each statement commits by itself: either finish the file by hand and run {stamp} {finished}, "
        f"or undo by hand what it did and run {stamp} {undone}"
    )


def label_of(source: MigrationSource, version: int) -> str:
    """Return what messages call a *version*."""
    migration = source.find(version)
    return migration.label if migration else f"{version:04}" if version else "base"


def as_applied(migration: Migration) -> AppliedVersion:
    """Return a version that is applied as it is written, by whoever."""
    return AppliedVersion(migration.version, migration.name, migration.up.checksum, None, None, None)
