"""Stand between a store and its server, and break their conversation on purpose.

A ``Proxy`` listens on a free loopback port and passes bytes both ways. It runs in a thread with a loop of its own, so
it goes on working while a test blocks, replaces or closes its loop.
"""

import asyncio
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice
from typing import Self


@dataclass(frozen=True)
class Wire:
    """What the proxy must recognise of a database's protocol, in the bytes since the other side last spoke."""

    executes: Callable[[bytearray], bool]  # the client's bytes end in something to execute
    answered: Callable[[bytearray], bool]  # the server's bytes end its answer
    commits: Callable[[bytearray], bool]  # they do, and no transaction is left open
    locks: Callable[[bytearray], bool] = lambda _: False  # the client's bytes begin a transaction by locking rows


# postgresql.org/docs/current/protocol-message-formats.html
def _postgresql_executes(request: bytearray) -> bool:
    # Execute of the unnamed portal and Sync, or a simple Query. Parse, Describe and Sync only prepare a statement.
    if request.endswith(b"S\0\0\0\4"):
        return request.startswith(b"E\0\0\0\t\0", len(request) - 15)
    return request.startswith(b"Q") and int.from_bytes(request[1:5], "big") == len(request) - 1


# ReadyForQuery, which ends every answer, with the transaction's state: none, open or failed.
_READY = tuple(b"Z\0\0\0\5" + state for state in (b"I", b"T", b"E"))
POSTGRESQL = Wire(
    executes=_postgresql_executes,
    answered=lambda reply: reply.endswith(_READY),
    commits=lambda reply: reply.endswith(_READY[0]),
)


# dev.mysql.com/doc/dev/mysql-server/latest/PAGE_PROTOCOL.html; rows end with an OK packet, not with EOF.
def _packets(data: bytearray) -> Iterator[bytes]:
    """Return what is in the packets of *data*, and b"" in the place of an incomplete one."""
    at = 0
    while at < len(data):
        end = at + 4 + int.from_bytes(data[at : at + 3], "little")
        yield bytes(data[at + 4 : end]) if end <= len(data) else b""
        at = end


def _integer(packet: bytes, at: int) -> tuple[int, int]:
    """Return a length-encoded integer, and where it ends."""
    size = {0xFC: 2, 0xFD: 3, 0xFE: 8}.get(packet[at], 0)
    return int.from_bytes(packet[at + 1 : at + 1 + size], "little") if size else packet[at], at + 1 + size


def _mysql_status(reply: bytearray) -> int | None:
    """Return the server's status after a whole answer, 0 if it is an error; None if there is more to come."""
    packets = _packets(reply)
    for packet in packets:
        last = packet
        if packet[:1] not in {b"", b"\0", b"\xff"}:  # the number of columns; their descriptions and the rows follow
            list(islice(packets, _integer(packet, 0)[0]))
            last = next((packet for packet in packets if packet[:1] in {b"\xfe", b"\xff"}), b"")
        if last[:1] == b"\xff":
            return 0
        if not last:
            return None
        at = _integer(last, _integer(last, 1)[1])[1]
        status = int.from_bytes(last[at : at + 2], "little")
        if not status & 8:  # SERVER_MORE_RESULTS_EXISTS
            return status
    return None


MYSQL = Wire(
    # A command begins a sequence of packets, which a login's answer does not.
    executes=lambda request: request.startswith(b"\0\3", 3) and all(_packets(request)),
    answered=lambda reply: _mysql_status(reply) is not None,
    commits=lambda reply: (status := _mysql_status(reply)) is not None and not status & 1,  # SERVER_STATUS_IN_TRANS
)
# Oracle publishes no description; this is what python-oracledb says (impl/thin/constants.pxi and messages) and hears. A
# DATA packet has 8 bytes of header, 2 of flags, and function calls, each a 3 and its number, some behind a piggyback.
_CALLS = re.compile(rb"\x03[\x04\x0e\x4e\x5e]")  # execute again, commit, execute again and fetch, execute
# The last message of an answer: 4, the state of the call as a number with its length in front, a sequence number. 2 in
# the state is an open transaction.
_STATE = re.compile(rb".*\x04(?:\x00|\x01(?P<state>[\x00-\x0f]))(?:\x01.|\x02..)[\x00-\x02]", re.DOTALL)
# The emulator does not count a query that locks rows as a transaction's; its second part says how values are sent.
_LOCKS = re.compile(rb"FOR UPDATE|\x03\x5e.\x00\x02\x80[\x10\x50]", re.DOTALL)
_END_OF_ANSWER = b"\x1d"  # from 23ai on


def _oracle_executes(request: bytearray) -> bool:
    length = 0
    while length + 4 <= len(request) and (size := int.from_bytes(request[length : length + 4], "big")):
        length += size
    return length == len(request) and request.startswith(b"\6", 4) and bool(_CALLS.search(request, 10, 400))


def _oracle_commits(reply: bytearray) -> bool:
    found = _STATE.match(reply)
    return reply.endswith(_END_OF_ANSWER) and found is not None and not ord(found["state"] or b"\0") & 2


ORACLE = Wire(
    executes=_oracle_executes,
    answered=lambda reply: reply.endswith(_END_OF_ANSWER),
    commits=_oracle_commits,
    locks=lambda request: bool(_LOCKS.search(request)),
)


@dataclass
class _Link:
    """One client's connection: both ways out, and what the client has said since the server last spoke."""

    writers: list[asyncio.StreamWriter]
    request: bytearray = field(default_factory=bytearray)
    doomed: bool = False
    held: bytearray | None = None
    """The answer to an execution, until it is known whether to lose it."""


class Proxy:
    """A loopback TCP proxy in front of *host*:*port*, running inside ``with``."""

    port: int
    bytes_to_server = 0
    lost_replies = 0

    def __init__(self, host: str, port: int, wire: Wire) -> None:
        """Open nothing yet."""
        self._target = host, port
        self._wire = wire
        self._marker: bytes | None = None
        self._links: dict[asyncio.Task[None] | None, _Link] = {}
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._listen()), daemon=True)

    def __enter__(self) -> Self:
        """Listen on ``port``."""
        self._thread.start()
        self._ready.wait(10)
        return self

    def __exit__(self, *_: object) -> None:
        """Close every connection and the port."""
        self._in_loop(self._stopped.set)
        self._thread.join()

    @property
    def connections(self) -> int:
        """How many clients are connected."""
        return len(self._links)

    def freeze(self) -> None:
        """Pass nothing in either direction from now on; keep every connection open and accept new ones."""
        self._in_loop(self._flowing.clear)

    def thaw(self) -> None:
        """Pass bytes again, those held back first."""
        self._in_loop(self._flowing.set)

    def drop_reply_after(self, marker: bytes = b"") -> None:
        """Let the next execution that contains *marker* reach the server, then lose its answer and the connection.

        It happens once, when the server has answered and committed (inside a transaction that is the answer to
        COMMIT), and counts in ``lost_replies``. A prepared statement's execution contains its parameters, such as the
        key, but no SQL.
        """
        self._marker = marker

    def close_all(self) -> None:
        """Close every connection; later ones pass as usual."""
        self._in_loop(self._abort)

    def _in_loop(self, action: Callable[[], object]) -> None:
        async def call() -> None:
            action()

        asyncio.run_coroutine_threadsafe(call(), self._loop).result()

    async def _listen(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._stopped = asyncio.Event()
        self._flowing = asyncio.Event()
        self._flowing.set()
        listener = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = listener.sockets[0].getsockname()[1]
        self._ready.set()
        await self._stopped.wait()
        listener.close()
        while tasks := [task for task in self._links if task]:
            self._abort()
            await asyncio.wait(tasks, timeout=0.1)

    def _abort(self) -> None:
        for link in self._links.values():
            for writer in link.writers:
                writer.transport.abort()

    async def _serve(self, from_client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        link = self._links[task] = _Link([to_client])
        with suppress(OSError):  # no server: the client is told by the end of its connection
            from_server, to_server = await asyncio.open_connection(*self._target)
            link.writers.append(to_server)
            pumps = [
                asyncio.create_task(self._to_server(link, from_client, to_server)),
                asyncio.create_task(self._to_client(link, from_server, to_client)),
            ]
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)
        for writer in link.writers:
            writer.close()
        del self._links[task]

    async def _to_server(self, link: _Link, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(1 << 16):
            link.request += data
            if self._wire.executes(link.request):
                if self._marker is not None and self._marker in link.request:
                    self._marker = None
                    link.doomed = True
                link.held = bytearray() if link.doomed and not self._wire.locks(link.request) else None
            await self._pass(data, writer)
            self.bytes_to_server += len(data)

    async def _to_client(self, link: _Link, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(1 << 16):
            link.request.clear()
            if link.held is None:
                await self._pass(data, writer)
                continue
            link.held += data
            if self._wire.commits(link.held):
                self.lost_replies += 1
                return
            if self._wire.answered(link.held):
                held, link.held = link.held, None
                await self._pass(held, writer)

    async def _pass(self, data: bytes | bytearray, writer: asyncio.StreamWriter) -> None:
        await self._flowing.wait()
        writer.write(data)
        await writer.drain()
