"""Find a server for each database that the tests need, and leave nothing behind.

The first of these that works: a DSN in ``SQLSTORE_TEST_<DATABASE>_DSN``; a container of pytest-databases, if a Docker
daemon answers; a private throw-away server from this machine's binaries. Tests of a database without a server are
skipped with every reason, or fail if ``SQLSTORE_REQUIRE`` (``sqlite,postgresql`` or ``all``) names the database. The
same goes for the browser.

A new database is one more subclass of `Server` in `SERVERS`.
"""

import asyncio
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
import time
from abc import ABC, abstractmethod
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any, ClassVar, NoReturn, Self
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit

import asyncmy
import asyncpg
import oracledb
import pytest
from asyncmy.constants import FIELD_TYPE
from filelock import FileLock

from .proxy import MYSQL, ORACLE, POSTGRESQL, Wire

ASYNCMY: Any = asyncmy  # its types say little
ORACLEDB: Any = oracledb  # the same

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

    def __init__(self, *, demoted: bool = True, root: Path | None = None) -> None:
        """Make the directory, named with our pid.

        *demoted*, the commands do not run as root. With *root*, the shell has that tree of a system for its own.
        """
        nobody = 65534 if demoted and os.geteuid() == 0 else None
        name = f"sqlstore-{os.getpid()}-{secrets.token_hex(4)}"
        enter: list[str] = []
        if root:
            # Only root may change it; others can as the root of a namespace of their own, where the kernel lets them.
            enter = ["chroot"] if nobody else ["unshare", "--map-current-user", "chroot"]
            enter += [f"--userspec={nobody}:{nobody}", str(root)] if nobody else [str(root)]
        self._process = subprocess.Popen(
            [*enter, "/bin/sh", "-c", self.SCRIPT, "sh", "/tmp" if root else tempfile.gettempdir(), name],  # noqa: S108
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd="/",
            start_new_session=True,  # Ctrl-C is for pytest, which then closes us
            user=None if root else nobody,
            group=None if root else nobody,
            extra_groups=[] if nobody else None,
        )
        assert self._process.stdout
        self.directory = Path(f"{root or ''}{self._process.stdout.readline().strip()}")
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


def free_port() -> int:
    """Return a port of the loopback interface that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
    return port


class Server(ABC):
    """A database server, and what only its administrator can do."""

    database: ClassVar[str]
    service: ClassVar[tuple[str, str]]
    """pytest-databases' plugin and fixture."""
    wire: ClassVar[Wire]
    emulated = False
    """It only speaks like the database."""
    unencrypted: ClassVar[str]
    """The DSN's query that lets a proxy follow the conversation."""
    drop: ClassVar[str]

    # A private server: its executable, also looked for in these places, the last by name first; shell commands, which
    # know $bin, $port and $run, to initialise the directory that follows, to serve the directory data, and to tell
    # whether connections are accepted; its own file of its process; the signal that ends it in good order; the DSN.
    executable: ClassVar[str]
    places: ClassVar[str]
    initialise: ClassVar[str]
    serve: ClassVar[str]
    ready: ClassVar[str]
    pid_file: ClassVar[str]
    stop_signal: ClassVar[str]
    private_dsn: ClassVar[str]
    refuses_root: ClassVar[bool] = False

    def __init__(self, dsn: str, origin: str, shell: Shell | None = None) -> None:
        """Describe the server at *dsn*; *shell* runs it if it is private."""
        self.dsn = self.admin_dsn = dsn
        self.origin = origin
        self._shell = shell

    @classmethod
    def find_executable(cls) -> Path:
        """Return where the executable of a private server is."""
        places = [os.environ.get("PATH", os.defpath), *map(str, sorted(Path("/").glob(cls.places), reverse=True))]
        found = shutil.which(cls.executable, path=os.pathsep.join(places))
        if found is None:
            msg = f"no {cls.executable} in PATH or /{cls.places}"
            raise FileNotFoundError(msg)
        return Path(found).resolve()

    @classmethod
    def how_to_run(cls, executable: Path) -> str:
        """Return the command that runs *executable*."""
        return str(executable)

    @classmethod
    def private(cls) -> Self:
        """Start a throw-away server on a free loopback port."""
        executable = cls.find_executable()
        port = free_port()
        shell = Shell(demoted=cls.refuses_root)
        try:
            shell.run(f"port={port} signal={cls.stop_signal} bin={shlex.quote(str(executable.parent))}")
            shell.run(f"run={shlex.quote(cls.how_to_run(executable))}")
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

    def kill(self) -> None:
        """Kill a private server with all its processes: it has no time to do anything."""
        assert self._shell
        self._shell.run(f"kill -9 $pid $(cat /proc/$pid/task/$pid/children); wait $pid; pid=; rm -f {self.pid_file}")

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

    @abstractmethod
    async def add_user(self, name: str, password: str) -> None:
        """Let a user of a private server create tables, and log in with *password* only."""

    @abstractmethod
    async def connections(self, dsn: str) -> set[int]:
        """Return what tells the stores' connections to the database at *dsn* apart."""

    def qualified(self, dsn: str, table: str) -> str:  # noqa: ARG002 - for those that need it
        """Return what *table* of the database at *dsn* is called by those that `read_only` makes."""
        return table

    @abstractmethod
    async def kill_connections(self, dsn: str) -> None:
        """End every connection to the database at *dsn* by the administrator's command, and wait until it is gone."""

    @classmethod
    def at(cls, service: Any) -> str:  # noqa: ANN401 - pytest-databases' dataclasses
        """Return the DSN of a container's *service*."""
        return f"{cls.database}://{service.user}:{service.password}@{service.host}:{service.port}/{service.database}"


class PostgreSQL(Server):
    """PostgreSQL 14 or later."""

    database = "postgresql"
    service = "pytest_databases.docker.postgres", "postgres_18_service"
    wire = POSTGRESQL
    unencrypted = "sslmode=disable"
    drop = "DROP DATABASE {} WITH (FORCE)"
    executable = "postgres"
    places = "usr/lib/postgresql/*/bin"
    initialise = '"$bin/initdb" -A trust -U postgres -E UTF8 --no-locale -N --wal-segsize=1 -D'
    # Nothing is flushed to disk; shared memory is in its own files, because /dev/shm is everybody's.
    serve = (
        '"$bin/postgres" -D data -p $port -c listen_addresses=127.0.0.1 -c unix_socket_directories= '
        "-F -c full_page_writes=off -c wal_level=minimal -c max_wal_senders=0 "
        "-c max_connections=200 -c shared_buffers=32MB -c dynamic_shared_memory_type=mmap"
    )
    pid_file = "data/postmaster.pid"
    ready = f"grep -qs ^ready {pid_file}"
    stop_signal = "INT"
    private_dsn = "postgresql://postgres@127.0.0.1:{port}/postgres"
    refuses_root = True

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

    async def add_user(self, name: str, password: str) -> None:
        """See `Server.add_user`."""
        await self.fetch(f"CREATE ROLE {name} LOGIN PASSWORD '{password}'")
        await self.fetch(f"GRANT CREATE ON SCHEMA public TO {name}")
        [(rules,)] = await self.fetch("SHOW hba_file")
        await asyncio.to_thread(self._require_password, name, Path(rules))

    def _require_password(self, name: str, rules: Path) -> None:
        self.stop()
        rules.write_text(f"host all {name} all scram-sha-256\nhost all all all trust\n")
        self.start()

    async def connections(self, dsn: str) -> set[int]:
        """See `Server.connections`."""
        sql = "SELECT pid FROM pg_stat_activity WHERE application_name = 'sqlstore' AND datname = current_database()"
        return {row[0] for row in await self.fetch(sql, dsn)}

    async def kill_connections(self, dsn: str) -> None:
        """See `Server.kill_connections`."""
        await self.fetch(
            """
            SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity
             WHERE datname = current_database() AND pid <> pg_backend_pid()
            """,
            dsn,
        )


class PostgreSQLOfTree(PostgreSQL):
    """A newer one, with orafce."""

    @classmethod
    def private(cls) -> Self:
        """See `Server.private`; its programs find each other only where they are installed."""
        tree = TREES / "postgresql"
        found = sorted(tree.glob(cls.places))
        if not found:
            msg = f"no /{cls.places} in {tree}: make services"
            raise FileNotFoundError(msg)
        port = free_port()
        shell = Shell(root=tree)
        try:
            shell.run(f"port={port} signal={cls.stop_signal} bin=/{found[-1].relative_to(tree)}")
            shell.run(f"{cls.initialise} data")
            server = cls(cls.private_dsn.format(port=port), f"private server, {found[-1]}", shell)
            server.start()
        except BaseException:
            shell.close()
            raise
        return server


class MySQLFamily(Server):
    """What MySQL and MariaDB have in common."""

    wire = MYSQL
    unencrypted = ""
    drop = "DROP DATABASE {}"
    places = "usr/sbin"
    # Nothing is flushed to disk. A server that starts deletes the temporary tables in its tmpdir, whosever they are.
    serve = (
        '$run --datadir="$PWD/data" --port=$port --bind-address=127.0.0.1 --socket="$PWD/socket" --pid-file="$PWD/pid" '
        '--tmpdir="$PWD" '
        "--innodb-flush-log-at-trx-commit=0 --innodb-doublewrite=OFF --innodb-use-native-aio=OFF --disable-log-bin "
        "--innodb-buffer-pool-size=32M --max-connections=200 --max-allowed-packet=64M --performance-schema=OFF"
    )
    pid_file = "pid"
    ready = f"[ -s {pid_file} ]"
    stop_signal = "TERM"
    private_dsn = "mysql://root@127.0.0.1:{port}/mysql"

    def __init__(self, dsn: str, origin: str, shell: Shell | None = None) -> None:
        """See `Server`."""
        super().__init__(dsn, origin, shell)
        self._administrators: set[int] = set()

    @classmethod
    def find_executable(cls) -> Path:
        """See `Server.find_executable`; that of a newer release comes first."""
        tree = TREES / cls.database
        reasons = [f"no {cls.executable} in {tree}, PATH or /{cls.places}"]
        for directory in [str(tree / cls.places), *os.get_exec_path(), f"/{cls.places}"]:
            executable = Path(directory, cls.executable).resolve()
            if executable.exists():
                command = [*shlex.split(cls.how_to_run(executable)), "--version"]
                version = subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
                if ("MariaDB" in version) is issubclass(cls, MariaDB):
                    return executable
                reasons.append(f"{executable} is {version}")
        raise FileNotFoundError(", but ".join(dict.fromkeys(reasons)))

    @classmethod
    def how_to_run(cls, executable: Path) -> str:
        """See `Server.how_to_run`; a tree has a loader and libraries of its own."""
        tree = executable.parents[2]
        user = "" if os.geteuid() else " --user=root"
        loaders = [] if tree == Path("/") else [*tree.glob("lib*/ld-*.so.?")]
        if not loaders:
            return f"{executable} --no-defaults{user}"
        [libraries] = tree.glob("usr/lib/*/libc.so.6")
        [messages] = tree.glob("usr/share/m*/english")
        return (
            f"{loaders[0]} --library-path {libraries.parent} {executable} --no-defaults{user} "
            f"--basedir={tree}/usr --lc-messages-dir={messages.parent}"
        )

    @classmethod
    def options(cls, dsn: str) -> dict[str, Any]:
        """Return what asyncmy takes for *dsn*."""
        parts = urlsplit(dsn)
        return {
            "host": parts.hostname,
            "port": parts.port or 3306,
            "user": unquote(parts.username or ""),
            "password": unquote(parts.password or ""),
            "database": parts.path[1:],
            **dict(parse_qsl(parts.query)),
        }

    async def fetch(self, sql: str, dsn: str | None = None) -> list[tuple[Any, ...]]:
        """See `Server.fetch`; keys come as strings."""
        connection = await ASYNCMY.connect(**self.options(dsn or self.admin_dsn), autocommit=True, conv=_CONVERSIONS)
        self._administrators.add(connection.thread_id())
        try:
            await connection.query(sql)  # not a cursor, which warns of what the server warns of
            return [*(connection._result.rows or ())]  # noqa: SLF001
        finally:
            await connection.ensure_closed()

    async def read_only(self, dsn: str) -> str:
        """See `Server.read_only`."""
        return urlsplit(dsn)._replace(query="init_command=SET SESSION TRANSACTION READ ONLY").geturl()

    async def add_user(self, name: str, password: str) -> None:
        """See `Server.add_user`."""
        await self.fetch(f"CREATE USER {name} IDENTIFIED BY '{password}'")
        await self.fetch(f"GRANT ALL ON *.* TO {name}")

    async def connections(self, dsn: str) -> set[int]:
        """See `Server.connections`: of all that are there, where not every server knows the programs' names."""
        name = urlsplit(dsn).path[1:]
        found = await self.fetch(f"SELECT id FROM information_schema.processlist WHERE db = '{name}'")  # noqa: S608
        return {row[0] for row in found} - self._administrators

    async def kill_connections(self, dsn: str) -> None:
        """See `Server.kill_connections`."""
        while found := await self.connections(dsn):
            for connection in found:
                with suppress(asyncmy.OperationalError):  # it has gone meanwhile
                    await self.fetch(f"KILL {connection}")


def _text(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else value


_CONVERSIONS = {**ASYNCMY.converters.conversions, FIELD_TYPE.VAR_STRING: _text}


class MariaDB(MySQLFamily):
    """MariaDB 10.6 or later."""

    database = "mariadb"
    service = "pytest_databases.docker.mariadb", "mariadb_114_service"
    executable = "mariadbd"
    # As MariaDB's own script does, which cannot be told how to run the executable.
    initialise = (
        'bootstrap() { mkdir -p "$1/mysql" && cd "${bin%/sbin}"/share/m*/english/.. && '
        "{ echo 'USE mysql;'; cat m*_system_tables.sql m*_system_tables_data.sql; } | "
        '$run --bootstrap --datadir="$OLDPWD/$1" && cd "$OLDPWD"; }; bootstrap'
    )


class MySQL(MySQLFamily):
    """MySQL 8.0.19 or later."""

    database = "mysql"
    service = "pytest_databases.docker.mysql", "mysql_84_service"
    executable = "mysqld"
    initialise = 'initialise() { $run --initialize-insecure --secure-file-priv=NULL --datadir="$PWD/$1"; }; initialise'
    serve = f"{MySQLFamily.serve} --mysqlx=OFF --secure-file-priv=NULL"


class Oracle(Server):
    """Oracle Database 12.2 or later, or its emulation: seerdb's Mirror over a PostgreSQL with orafce.

    A database is a user, whose schema has the same name.
    """

    database = "oracle"
    wire = ORACLE
    service = "pytest_databases.docker.oracle", os.environ.get("SQLSTORE_TEST_ORACLE_SERVICE", "oracle_23ai_service")
    unencrypted = ""

    def __init__(self, dsn: str, origin: str, backend: Server | None = None) -> None:
        """See `Server`; *backend* is the PostgreSQL of one that is emulated."""
        super().__init__(dsn, origin)
        self.emulated = backend is not None
        self._backend = backend
        self._mirror: subprocess.Popen[bytes] | None = None

    @classmethod
    def private(cls) -> Self:
        """See `Server.private`."""
        backend = PostgreSQLOfTree.private()
        dsn = f"oracle://system:oracle@127.0.0.1:{free_port()}/freepdb1"
        server = cls(dsn, f"(emulated) seerdb {version('seerdb')} over {backend.origin}", backend)
        try:
            server.start()
        except BaseException:
            server.close()
            raise
        return server

    @classmethod
    def at(cls, service: Any) -> str:  # noqa: ANN401 - pytest-databases' dataclasses
        """See `Server.at`; the administrator's account, which makes the others."""
        return f"oracle://system:{service.system_password}@{service.host}:{service.port}/{service.service_name}"

    def start(self) -> None:
        """See `Server.start`."""
        assert self._backend
        place = urlsplit(self.dsn)
        backend = urlsplit(self._backend.dsn)
        conninfo = f"host={backend.hostname} port={backend.port} user={backend.username} dbname=postgres"
        options = [f"--port={place.port}", "--encryption=accepted", "--log-level=ERROR", "--failed-login-attempts=0"]
        options += ["postgres", conninfo, f"--auth-conninfo={conninfo}", "--per-user-roles"]
        self._mirror = subprocess.Popen(
            [sys.executable, "-c", MIRROR, *options],
            env={**os.environ, "MIRROR_USERS": "system:oracle"},
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        while True:
            try:
                socket.create_connection((place.hostname, place.port or 0)).close()
            except ConnectionRefusedError:
                if self._mirror.poll() is not None:
                    msg = f"the Mirror ended with {self._mirror.returncode}"
                    raise RuntimeError(msg) from None
                time.sleep(0.02)
            else:
                return

    def stop(self) -> None:
        """See `Server.stop`."""
        if self._mirror:
            self._mirror.kill()
            self._mirror.communicate()
            self._mirror = None

    def close(self) -> None:
        """See `Server.close`."""
        self.stop()
        if self._backend:
            self._backend.close()

    async def fetch(self, sql: str, dsn: str | None = None) -> list[tuple[Any, ...]]:
        """See `Server.fetch`."""
        async with ORACLEDB.connect_async(**oracle_options(dsn or self.admin_dsn)) as connection:
            connection.autocommit = True
            with connection.cursor() as cursor:
                cursor.outputtypehandler = _bytes_at_once
                await cursor.execute(sql)
                return await cursor.fetchall() if cursor.description else []

    async def create_database(self) -> str:
        """See `Server.create_database`."""
        name = f"sqlstore_{secrets.token_hex(6)}"
        await self.add_user(name, name)  # which ends sessions that it has lost, and looks at them
        return _as_user(self.admin_dsn, name)

    async def drop_database(self, dsn: str) -> None:
        """See `Server.drop_database`."""
        await self.kill_connections(dsn)
        await self.fetch(f"DROP USER {urlsplit(dsn).username} CASCADE")

    async def kill_connections(self, dsn: str) -> None:
        """See `Server.kill_connections`."""
        sessions = """
            SELECT sid || ',' || serial# FROM v$session
             WHERE username = USER AND sid <> TO_NUMBER(SYS_CONTEXT('USERENV', 'SID'))
        """
        killed = await self.fetch(sessions, dsn)
        for (session,) in killed:
            with suppress(oracledb.DatabaseError):  # it has ended meanwhile
                await self.fetch(f"ALTER SYSTEM KILL SESSION '{session}' IMMEDIATE", dsn)
        with suppress(TimeoutError):  # one whose client is busy elsewhere may stay in the list
            async with asyncio.timeout(5):
                while not set(killed).isdisjoint(await self.fetch(sessions, dsn)):  # noqa: ASYNC110 - it can only be asked
                    await asyncio.sleep(0.02)

    async def add_user(self, name: str, password: str) -> None:
        """See `Server.add_user`."""
        await self.fetch(f"CREATE USER {name} IDENTIFIED BY {password}")
        await self.fetch(f"GRANT DBA TO {name}")

    async def connections(self, dsn: str) -> set[int]:
        """See `Server.connections`."""
        sql = "SELECT sid FROM v$session WHERE program = 'sqlstore' AND username = USER"
        return {row[0] for row in await self.fetch(sql, dsn)}

    async def read_only(self, dsn: str) -> str:
        """See `Server.read_only`."""
        name = f"sqlstore_{secrets.token_hex(6)}"
        await self.fetch(f"CREATE USER {name} IDENTIFIED BY {name}")
        await self.fetch(f"GRANT CREATE SESSION TO {name}")
        for (table,) in await self.fetch("SELECT table_name FROM user_tables", dsn):
            await self.fetch(f"GRANT SELECT ON {table} TO {name}", dsn)
        return _as_user(dsn, name)

    def qualified(self, dsn: str, table: str) -> str:
        """See `Server.qualified`."""
        return f"{urlsplit(dsn).username}.{table}"


# The Mirror, until its input ends: this process closed it or died. Oracle has other words for what two at once may
# meet: ORA-00955 for a table's type that the other has made, ORA-00001 for a batch that met a row of the other's,
# ORA-00060 for a deadlock. And Oracle waits for the rest of a message that the network cuts between two rows of values,
# or just before the first. It is not to read its catalogue for how wide a concatenation may be, which nobody asks here.
MIRROR = """
import os, sys, threading
from seerdb.common.exceptions import Truncated
from seerdb.server import session
from seerdb.server.backends import postgres
from seerdb.server.launcher import main

def whole(parse, rows_of):
    def parse_whole(payload, *arguments, **options):
        request = parse(payload, *arguments, **options)
        if len(request.bind_rows) < rows_of(payload, request, options):
            raise Truncated("rows of values")
        return request
    return parse_whole

session.parse_exec = whole(session.parse_exec, lambda payload, request, options: request.bind_count > 0)
session.parse_reexecute = whole(
    session.parse_reexecute,
    lambda payload, request, options: (
        request.fetch if options.get("bind_types") and payload[1] == session.TNS_FUNC_REEXECUTE else 0
    ),
)

def replay(self, sql, rows, original=postgres.PostgresBackend._replay_until_failure):
    error = original(self, sql, rows)
    no_row_fails = str(error) == "the array statement failed"
    return postgres.BackendError(str(error), ora_code=1) if no_row_fails else error

postgres.PostgresBackend._replay_until_failure = replay
postgres.PostgresBackend._operand_types = lambda self, sql: {}
postgres._SQLSTATE_TO_ORA |= {"42710": 955, "40P01": 60}
threading.Thread(target=lambda: (sys.stdin.read(), os._exit(0)), daemon=True).start()
main(sys.argv[1:])
"""


def _bytes_at_once(cursor: Any, column: Any) -> object:  # noqa: ANN401 - the driver's types say little
    if column.type_code is not ORACLEDB.DB_TYPE_BLOB:
        return None
    return cursor.var(ORACLEDB.DB_TYPE_LONG_RAW, arraysize=cursor.arraysize)


def oracle_options(dsn: str) -> dict[str, str | int]:
    """Return what oracledb.connect takes for *dsn*."""
    place = urlsplit(dsn)
    return {
        "user": place.username or "",
        "password": place.password or "",
        "dsn": f"{place.hostname}:{place.port}{place.path}",
    }


def _as_user(dsn: str, name: str) -> str:
    place = urlsplit(dsn)
    return place._replace(netloc=f"{name}:{name}@{place.hostname}:{place.port}").geturl()


SERVERS: dict[str, type[Server]] = {kind.database: kind for kind in (PostgreSQL, MariaDB, MySQL, Oracle)}

BROWSER = "chromium"
"""The browser that tests drive: the system's, as ``make services`` installs it."""


def required() -> set[str]:
    """Return the databases, and the browser, that ``SQLSTORE_REQUIRE`` names."""
    known = {"sqlite", BROWSER, *SERVERS}
    names = set(os.environ.get("SQLSTORE_REQUIRE", "").replace(",", " ").split())
    if unknown := names - known - {"all"}:
        msg = f"SQLSTORE_REQUIRE: unknown database {', '.join(sorted(unknown))}. Use {', '.join(sorted(known))} or all"
        raise pytest.UsageError(msg)
    return known if "all" in names else names


def missing(kind: type[Server], *reasons: str) -> NoReturn:
    """Skip or fail because there is no server of *kind*."""
    skip_or_fail(kind.database, f"no {kind.database} server: {'; '.join(reasons)}")


def skip_or_fail(name: str, msg: str) -> NoReturn:
    """Skip a test that needs *name*, which is not here, or fail if it is required."""
    if name in required():
        pytest.fail(f"{msg} (required by SQLSTORE_REQUIRE)", pytrace=False)
    pytest.skip(msg)


def find_client(database: str) -> list[str]:
    """Return the command that runs the database's own client; else skip or fail."""
    name = {"postgresql": "psql", "sqlite": "sqlite3"}.get(database, database)
    # MariaDB has a client of that name, too.
    if name == "mysql" and (TREES / "mysql/usr/bin/mysql").exists():
        return shlex.split(in_tree("mysql", "usr/bin/mysql"))
    return [shutil.which(name) or skip_or_fail(database, f"no {name} in PATH: make services")]


def find_browser() -> str:
    """Return where Chromium is, and note it; else skip or fail."""
    found = shutil.which(BROWSER)
    reason = f"no {BROWSER} in PATH: make services"
    Path(os.environ[RUN_DIRECTORY], f"{BROWSER}.origin").write_text(found or f"none: {reason}")
    return found or skip_or_fail(BROWSER, reason)


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
    return kind(kind.at(at), f"Docker, {fixture}")


def _from_binaries(kind: type[Server], _: pytest.FixtureRequest) -> Server:
    return kind.private()


def die_with_parent() -> None:
    """Make Linux end this process, and so its shells, when its parent ends: a worker of xdist may linger."""
    if sys.platform == "linux":
        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGTERM)
