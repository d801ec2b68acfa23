"""What a visitor feels: requests per second through Litestar's session middleware, and what SQL each of them costs.

Every contender's application is up all the time, one uvicorn process each; wrk drives one after the other, in an order
that rotates from round to round.
"""

from __future__ import annotations

import asyncio
import shutil
import socket
import subprocess
import sys
import time
from contextlib import ExitStack, contextmanager
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

import msgspec

from . import results
from .contenders import NAMED, Contender
from .places import own_directory, own_name, own_place
from .statements import count_on_postgresql, counted_on_postgresql

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Mapping, Sequence

    from .servers import Running

ENTRANTS = tuple(
    NAMED[name]
    for name in (
        "sqlstore SQLSessionConfig (asyncpg)",
        "sqlstore SQLSessionConfig (sqlite3)",
        "sqlstore (asyncpg)",
        "sqlstore (sqlite3)",
        "MemoryStore",
        "RedisStore",
        "RedisStore (appendfsync always)",
        "FileStore",
        "SQLSpec (asyncpg)",
        "SQLSpec (aiosqlite)",
        "Advanced Alchemy (asyncpg)",
    )
)
PART = "end to end"
WORKLOADS = {
    "read": "A page for somebody who is logged in: the handler reads the session, and changes nothing",
    "visit": "A visit is counted: the handler changes the session",
}
"""What a visitor asks for, which is the path, too."""
CONNECTIONS = 64
SESSIONS = 4 * CONNECTIONS
SETTLE = 1
"""Seconds until requests that wrk left in flight have ended."""
COUNTED = (
    "On PostgreSQL: the calls that pg_stat_statements reports for the contender's own database, which are all its "
    "statements, BEGIN, COMMIT and those that reset a pool's connection among them. On SQLite: what "
    "sqlite3.Connection.set_trace_callback reports on every connection, BEGIN, COMMIT and each row of an executemany "
    "among them. Counted in a run of their own, which is not timed, and divided by the requests that wrk saw answered "
    "or left in flight."
)


class Sample(msgspec.Struct, frozen=True):
    """What wrk reports of one run; latencies in microseconds."""

    requests: int
    microseconds: int
    p50: int
    p99: int
    errors: int

    @property
    def requests_per_second(self) -> float:
        """The throughput."""
        return self.requests / self.microseconds * 1e6


class Application:
    """A contender's application, in a process of its own."""

    def __init__(self, port: int, directory: Path) -> None:
        """Know the application on *port* of this machine, whose files are in *directory*."""
        self._port = port
        self._cookies = directory / "cookies"
        self._log = directory / "log"

    def begin_sessions(self) -> None:
        """Wait until it is up, and let `SESSIONS` visitors come for the first time.

        Raises:
            RuntimeError: it does not answer; with the end of its log.
        """
        try:
            made = [self.ask("POST", "/")[1].partition(";")[0] for _ in range(SESSIONS)]
        except (OSError, HTTPException) as error:
            said = self._log.read_text(errors="replace").strip().rpartition("\n")[2]
            raise RuntimeError(said or str(error)) from error
        self._cookies.write_text("\n".join(made))

    def ask(self, method: str, path: str) -> tuple[str, str]:
        """Return the body and the cookie of one request's answer."""
        connection = HTTPConnection("127.0.0.1", self._port, timeout=30)
        try:
            connection.request(method, path)
            response = connection.getresponse()
            body = response.read().decode()
            if response.status >= 400:  # noqa: PLR2004 - HTTP's first error
                raise HTTPException(body)
            return body, response.getheader("set-cookie", "")
        finally:
            connection.close()

    def drive(self, workload: str, seconds: int) -> Sample:
        """Let wrk send the requests of a workload for so long."""
        script = Path(__file__).with_name("sessions.lua")
        command = ["wrk", "-t1", f"-c{CONNECTIONS}", f"-d{seconds}s", "-s", str(script)]
        command += [f"http://127.0.0.1:{self._port}/", "--", str(self._cookies), f"/{workload}"]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        return msgspec.json.decode(done.stdout.splitlines()[-1], type=Sample)


def measure(  # noqa: PLR0913 - who, what is up, where to write, how long, and whom to tell
    kinds: Sequence[Contender],
    up: Mapping[str, Running],
    missing: Mapping[str, str],
    directory: Path,
    *,
    rounds: int,
    seconds: int,
    progress: Callable[[str], None],
) -> tuple[list[results.EndToEnd], dict[Contender, str]]:
    """Return what was measured, and why some of *kinds* were left out. Not for use in an event loop.

    *up* has the servers by their names, *missing* the reason for each that is not. Files are made below
    *directory*. A round takes *seconds* for each contender.
    """
    skipped = {kind: missing[kind.terms.database] for kind in kinds if kind.terms.database in missing}
    if not shutil.which("wrk"):
        skipped = dict.fromkeys(kinds, "no wrk in PATH")
    with ExitStack() as stack:
        progress("end to end: the applications start")
        running = {
            kind: stack.enter_context(_application(kind, up, directory)) for kind in kinds if kind not in skipped
        }
        for kind, application in list(running.items()):
            progress(f"end to end: {kind.name} warms up")
            try:
                application.begin_sessions()
                application.drive("visit", 1)
            except RuntimeError as error:
                skipped[kind] = str(error)
                del running[kind]
        samples = {workload: {kind: list[Sample]() for kind in running} for workload in WORKLOADS}
        for turn in range(rounds if running else 0):
            order = list(running.items())
            first = turn % len(order)
            for workload in WORKLOADS:
                for kind, application in order[first:] + order[:first]:
                    progress(f"end to end: round {turn + 1} of {rounds}, {workload}, {kind.name}")
                    samples[workload][kind].append(application.drive(workload, seconds))
        progress("end to end: statements are counted")
        counted = {
            kind: _statements_per_request(kind, application, up, directory) for kind, application in running.items()
        }
        rows = [
            _summary(kind, workload, samples[workload], counted[kind].get(workload))
            for workload in WORKLOADS
            for kind in running
        ]
    return rows, skipped


@contextmanager
def _application(
    kind: Contender, up: Mapping[str, Running], directory: Path, *, trace: bool = False
) -> Generator[Application, None, None]:
    part = "traced" if trace else PART
    own = own_directory(own_name(kind, f"{part} files"), directory)
    place = asyncio.run(own_place(kind, part, up, directory))
    command = [sys.executable, "-m", "benchmarks.application", kind.name, place, *["--trace"] * trace]
    with socket.create_server(("127.0.0.1", 0)) as listener, (own / "log").open("wb") as log:
        port = listener.getsockname()[1]
        process = subprocess.Popen(
            command,
            cwd=Path(__file__).parents[1],
            stdin=listener.fileno(),
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        yield Application(port, own)
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _statements_per_request(
    kind: Contender, application: Application, up: Mapping[str, Running], directory: Path
) -> dict[str, float]:
    """Return the numbers that `COUNTED` describes, by workload; none if the contender has no SQL."""
    found: dict[str, float] = {}
    if kind.terms.database == "postgresql":
        dsn = up["postgresql"].dsn
        for workload in WORKLOADS:
            count_on_postgresql(dsn, on=True)
            requests = application.drive(workload, 1).requests
            time.sleep(SETTLE)
            found[workload] = _share(counted_on_postgresql(dsn, own_name(kind, PART)), requests)
            count_on_postgresql(dsn, on=False)
    elif kind.terms.database == "sqlite":
        with _application(kind, up, directory, trace=True) as traced:
            traced.begin_sessions()
            for workload in WORKLOADS:
                before = int(traced.ask("GET", "/statements")[0])
                requests = traced.drive(workload, 1).requests
                time.sleep(SETTLE)
                found[workload] = _share(int(traced.ask("GET", "/statements")[0]) - before, requests)
    return found


def _share(statements: int, requests: int) -> float:
    return statements / (requests + CONNECTIONS)  # each connection leaves one request in flight, which ends as well


def _summary(
    kind: Contender, workload: str, samples: Mapping[Contender, list[Sample]], statements: float | None
) -> results.EndToEnd:
    own = samples[kind]
    return results.EndToEnd(
        contender=kind.name,
        workload=workload,
        connections=CONNECTIONS,
        requests_per_second=median(sample.requests_per_second for sample in own),
        p50=median(sample.p50 for sample in own) / 1e6,
        p99=median(sample.p99 for sample in own) / 1e6,
        errors=sum(sample.errors for sample in own),
        rounds=len(own),
        ratios={
            other.name: median(
                mine.requests_per_second / theirs.requests_per_second
                for mine, theirs in zip(own, samples[other], strict=True)
            )
            for other in samples
            if other is not kind
        },
        statements_per_request=statements,
    )
