"""Find a server for each database that the tests need, and leave nothing behind.

The first of these that works: a DSN in ``SQLSTORE_TEST_<DATABASE>_DSN``; a container of pytest-databases, if a Docker
daemon answers; a private throw-away server from this machine's binaries. Tests of a database without a server are
skipped with every reason, or fail if ``SQLSTORE_REQUIRE`` (``sqlite,postgresql`` or ``all``) names the database.

A new database is one more subclass of `Server` in `SERVERS`.
"""

import ctypes
import importlib
import os
import secrets
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, ClassVar, NoReturn, Self
from urllib.parse import quote, urlencode, urlsplit

import asyncpg
import pytest
from filelock import FileLock

RUN_DIRECTORY = "SQLSTORE_TEST_RUN_DIRECTORY"
"""The environment variable with the directory that all processes of a run share."""


TREES = Path("/var/cache/sqlstore")
"""Where ``make services`` puts what is newer than the system's."""


def in_tree(name: str, executable: str) -> str:
    """Return the command that runs *executable* of the tree *name*, with the libraries that are there."""
    tree = TREES / name
    libraries = f"{tree}/usr/lib/x86_64-linux-gnu"
    return f"{tree}/lib64/ld-linux-x86-64.so.2 --library-path {libraries} {tree}/{executable}"


class Shell:
    """A shell that runs commands in a new directory, and at its end stops its background job and removes it all.

    Its end is the end of its input: this process closed it or died, even by kill -9. (A parent death signal would
    leave the directory, and comes too early for a server that a thread has started.)
    """

    SCRIPT = """
        trap : PIPE  # nobody may be left to hear an exit status
        for parent in "$1" /tmp; do cd "$parent" && mkdir -m 755 "$2" && cd "$2" && break; done 2>/dev/null || exit
        directory=$PWD pid= signal=TERM
        pwd
        while read -r command; do eval "$command" </dev/null >>log 2>&1; echo $?; done
        [ -z "$pid" ] || { kill -$signal $pid; wait; }
        cd /
        for attempt in 1 2 3 4 5; do rm -rf "$directory" && break; sleep 1; done  # another one may still write there
    """

    def __init__(self) -> None:
        """Make the directory, named with our pid, where PostgreSQL can use it, which refuses to run as root."""
        nobody = 65534 if os.geteuid() == 0 else None
        name = f"sqlstore-{os.getpid()}-{secrets.token_hex(4)}"
        self._process = subprocess.Popen(
            ["/bin/sh", "-c", self.SCRIPT, "sh", tempfile.gettempdir(), name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd="/",
            start_new_session=True,  # Ctrl-C is for pytest, which then closes us
            user=nobody,
            group=nobody,
            extra_groups=[] if nobody else None,
        )
        assert self._process.stdout
        self.directory = Path(self._process.stdout.readline().strip())
        if not self.directory.name:
            self.close()
            msg = f"user {nobody or os.geteuid()} can make no directory in {tempfile.gettempdir()} or /tmp: set TMPDIR"
            raise RuntimeError(msg)

    def run(self, command: str) -> None:
        """Run *command*; if it fails, raise a RuntimeError with the end of the log."""
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(f"{command}\n")
        self._process.stdin.flush()
        status = self._process.stdout.readline().strip()
        if status != "0":
            log = self.directory / "log"
            msg = f"{command}: {status} {log.read_text(errors='replace')[-1000:] if log.exists() else ''}"
            raise RuntimeError(msg)

    def close(self) -> None:
        """Stop what runs in the background and remove the directory."""
        # The end of input alone would not do: a forked child may hold our end of the pipe open.
        self._process.communicate("break\n", timeout=60)


class Server(ABC):
    """A database server, and what only its administrator can do."""

    database: ClassVar[str]
    service: ClassVar[tuple[str, str]]
    """pytest-databases' plugin and fixture."""
    unencrypted: ClassVar[str]
    """The DSN's query that lets a proxy follow the conversation."""
    drop: ClassVar[str]
    kill: ClassVar[str]

    # A private server: its executable, also looked for in these places, the last by name first; shell commands, which
    # know $bin and $port, to initialise the directory that follows, to serve the directory data, and to tell whether
    # connections are accepted; the signal that ends it in good order; the DSN.
    executable: ClassVar[str]
    places: ClassVar[str]
    initialise: ClassVar[str]
    serve: ClassVar[str]
    ready: ClassVar[str]
    stop_signal: ClassVar[str]
    private_dsn: ClassVar[str]

    def __init__(self, dsn: str, origin: str, shell: Shell | None = None) -> None:
        """Describe the server at *dsn*; *shell* runs it if it is private."""
        self.dsn = self.admin_dsn = dsn
        self.origin = origin
        self._shell = shell

    @classmethod
    def private(cls) -> Self:
        """Start a throw-away server on a free loopback port."""
        places = [os.environ.get("PATH", os.defpath), *map(str, sorted(Path("/").glob(cls.places), reverse=True))]
        found = shutil.which(cls.executable, path=os.pathsep.join(places))
        if found is None:
            msg = f"no {cls.executable} in PATH or /{cls.places}"
            raise FileNotFoundError(msg)
        executable = Path(found).resolve()
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        shell = Shell()
        try:
            shell.run(f"port={port} signal={cls.stop_signal} bin={shlex.quote(str(executable.parent))}")
            template = f"{os.environ[RUN_DIRECTORY]}/{cls.database}"
            with FileLock(f"{template}.lock"):
                shell.run(f"t={shlex.quote(template)}")
                # Not made in place: initdb would make the run's directory anew after its end.
                shell.run(f'[ -d "$t" ] || ({cls.initialise} new && mv new "$t")')
            shell.run('cp -a "$t" data')
            server = cls(cls.private_dsn.format(port=port), f"private server, {executable}", shell)
            server.start()
        except BaseException:
            shell.close()
            raise
        return server

    def start(self) -> None:
        """Start a private server, again on the same port, and wait until it accepts connections."""
        assert self._shell
        self._shell.run(f"{self.serve} & pid=$!")
        self._shell.run(f"until {self.ready} || ! kill -0 $pid; do sleep 0.02; done; kill -0 $pid")

    def stop(self) -> None:
        """Stop a private server as an administrator would: its clients lose their connections."""
        assert self._shell
        self._shell.run("kill -$signal $pid; wait $pid; pid=")

    def close(self) -> None:
        """Stop a private server and remove its files."""
        if self._shell:
            self._shell.close()

    @classmethod
    def through(cls, dsn: str, port: int) -> str:
        """Return *dsn* as it is reached through a proxy on *port* of this machine."""
        parts = urlsplit(dsn)
        user = parts.netloc.rpartition("@")[0]
        return parts._replace(netloc=f"{user}@127.0.0.1:{port}", query=cls.unencrypted).geturl()

    @abstractmethod
    async def fetch(self, sql: str, dsn: str | None = None) -> list[tuple[Any, ...]]:
        """Return the rows of one statement, run in the database at *dsn*; in the administrator's if not given."""

    async def create_database(self) -> str:
        """Return the DSN of a new, empty database."""
        name = f"sqlstore_{secrets.token_hex(6)}"
        await self.fetch(f"CREATE DATABASE {name}")
        return urlsplit(self.admin_dsn)._replace(path=f"/{name}").geturl()

    async def drop_database(self, dsn: str) -> None:
        """Drop the database at *dsn*, although somebody may be connected to it."""
        await self.fetch(self.drop.format(urlsplit(dsn).path[1:]))

    @abstractmethod
    async def read_only(self, dsn: str) -> str:
        """Return the DSN by which the database at *dsn* takes no writes."""

    async def kill_connections(self, dsn: str) -> None:
        """End every connection to the database at *dsn* by the administrator's command."""
        await self.fetch(self.kill, dsn)


class PostgreSQL(Server):
    """PostgreSQL 14 or later."""

    database = "postgresql"
    service = "pytest_databases.docker.postgres", "postgres_18_service"
    unencrypted = "sslmode=disable"
    drop = "DROP DATABASE {} WITH (FORCE)"
    kill = """
        SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity
         WHERE datname = current_database() AND pid <> pg_backend_pid()
    """
    executable = "postgres"
    places = "usr/lib/postgresql/*/bin"
    initialise = '"$bin/initdb" -A trust -U postgres -E UTF8 --no-locale -N --wal-segsize=1 -D'
    # Nothing is flushed to disk; shared memory is in its own files, because /dev/shm is everybody's.
    serve = (
        '"$bin/postgres" -D data -p $port -c listen_addresses=127.0.0.1 -c unix_socket_directories= '
        "-F -c full_page_writes=off -c wal_level=minimal -c max_wal_senders=0 "
        "-c max_connections=200 -c shared_buffers=32MB -c dynamic_shared_memory_type=mmap"
    )
    ready = "grep -qs ^ready data/postmaster.pid"
    stop_signal = "INT"
    private_dsn = "postgresql://postgres@127.0.0.1:{port}/postgres"

    async def fetch(self, sql: str, dsn: str | None = None) -> list[tuple[Any, ...]]:
        """See `Server.fetch`."""
        connection = await asyncpg.connect(dsn or self.admin_dsn)
        try:
            return [tuple(row) for row in await connection.fetch(sql)]
        finally:
            await connection.close()

    async def read_only(self, dsn: str) -> str:
        """See `Server.read_only`."""
        options = urlencode({"options": "-c default_transaction_read_only=on"}, quote_via=quote)
        return urlsplit(dsn)._replace(query=options).geturl()


SERVERS: dict[str, type[Server]] = {kind.database: kind for kind in (PostgreSQL,)}


def required() -> set[str]:
    """Return the databases that ``SQLSTORE_REQUIRE`` names."""
    known = {"sqlite", *SERVERS}
    names = set(os.environ.get("SQLSTORE_REQUIRE", "").replace(",", " ").split())
    if unknown := names - known - {"all"}:
        msg = f"SQLSTORE_REQUIRE: unknown database {', '.join(sorted(unknown))}. Use {', '.join(sorted(known))} or all"
        raise pytest.UsageError(msg)
    return known if "all" in names else names


def missing(kind: type[Server], *reasons: str) -> NoReturn:
    """Skip or fail because there is no server of *kind*."""
    msg = f"no {kind.database} server: {'; '.join(reasons)}"
    if kind.database in required():
        pytest.fail(f"{msg} (required by SQLSTORE_REQUIRE)", pytrace=False)
    pytest.skip(msg)


def find(kind: type[Server], request: pytest.FixtureRequest) -> Server:
    """Return the first server of *kind* that can be had, and note where it came from; else skip or fail."""
    note = Path(os.environ[RUN_DIRECTORY], f"{kind.database}.origin")
    reasons: list[str] = []
    for way in (_from_environment, _from_docker, _from_binaries):
        try:
            server = way(kind, request)
        except Exception as error:  # noqa: BLE001 - whatever is amiss, the next way may work
            reasons.append(str(error))
        else:
            note.write_text(server.origin)
            return server
    note.write_text(f"none: {'; '.join(reasons)}")
    missing(kind, *reasons)


def _from_environment(kind: type[Server], _: pytest.FixtureRequest) -> Server:
    variable = f"SQLSTORE_TEST_{kind.database.upper()}_DSN"
    if variable not in os.environ:
        msg = f"{variable} is not set"
        raise LookupError(msg)
    return kind(os.environ[variable], variable)


def _from_docker(kind: type[Server], request: pytest.FixtureRequest) -> Server:
    plugin, fixture = kind.service
    importlib.import_module(plugin)
    # Not docker_client.ping(): without a daemon its client leaves a socket to the garbage collector.
    ping = subprocess.run(["docker", "version"], capture_output=True, text=True, timeout=10, check=False)  # noqa: S607
    if ping.returncode != 0:
        raise LookupError(ping.stderr.strip())
    at = request.getfixturevalue(fixture)
    dsn = f"{kind.database}://{at.user}:{at.password}@{at.host}:{at.port}/{at.database}"
    return kind(dsn, f"Docker, {fixture}")


def _from_binaries(kind: type[Server], _: pytest.FixtureRequest) -> Server:
    return kind.private()


def die_with_parent() -> None:
    """Make Linux end this process, and so its shells, when its parent ends: a worker of xdist may linger."""
    if sys.platform == "linux":
        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGTERM)
