"""What a run found out, as plain records: written as JSON, and read again to rewrite the report.

Times are in seconds. A ratio is the median over the rounds of this contender's throughput divided by the other's in
the same round, so that a machine that slows down between two rounds slows both.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from pathlib import Path
    from typing import Self


class Micro(msgspec.Struct, frozen=True, kw_only=True):
    """One contender in one workload, size and concurrency: medians over the rounds."""

    contender: str
    group: str  # contenders are compared within a group, for example "PostgreSQL"
    workload: str
    size: int  # bytes of a value
    concurrency: int
    loop: str  # "uvloop" or "asyncio"
    operations_per_second: float
    p50: float
    p99: float
    errors: int
    rounds: int
    ratios: dict[str, float]  # to each other contender of the group, by its name
    error: str = ""  # the first one, if there were any


class EndToEnd(msgspec.Struct, frozen=True, kw_only=True):
    """One contender behind the session middleware, in one workload over HTTP: medians over the rounds."""

    contender: str
    workload: str  # of `end_to_end.WORKLOADS`
    connections: int
    requests_per_second: float
    p50: float
    p99: float
    errors: int
    rounds: int
    ratios: dict[str, float]  # to each other contender, by its name
    statements_per_request: float | None = None  # None where there is no SQL to count
    error: str = ""


class Contender(msgspec.Struct, frozen=True, kw_only=True):
    """Who took part, how durable it was, and what it ran on; or why it did not take part."""

    name: str
    group: str
    part: str  # "micro" or "end to end"
    durability: str
    settings: dict[str, str] = {}  # of its server or database
    skipped: str = ""  # the reason


class Disk(msgspec.Struct, frozen=True, kw_only=True):
    """How many times a second one thread can make a small write durable on the disk that was used."""

    fsyncs_per_second: float
    slow_fsyncs_per_second: float | None = None  # under the slow-disk shim; None when it was not used


class Results(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that a report says."""

    date: str
    command: str
    machine: dict[str, str]
    versions: dict[str, str]
    disk: Disk | None
    contenders: list[Contender]
    micro: list[Micro]
    end_to_end: list[EndToEnd]
    counted: str = ""  # what counts as a statement in the end-to-end table

    def write(self, path: Path) -> None:
        """Keep the results in *path*, as JSON that a person can read."""
        path.write_bytes(msgspec.json.format(msgspec.json.encode(self), indent=1) + b"\n")

    @classmethod
    def read(cls, path: Path) -> Self:
        """Return what ``write`` kept in *path*."""
        return msgspec.json.decode(path.read_bytes(), type=cls)
