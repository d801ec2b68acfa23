"""The proxy breaks a conversation exactly where it is told to."""

from __future__ import annotations

import socket
import threading
from typing import TYPE_CHECKING

import pytest

from tests.proxy import MYSQL, POSTGRESQL, Proxy, Wire

if TYPE_CHECKING:
    from collections.abc import Generator

LINES = Wire(
    executes=lambda request: request.endswith(b"\n"),
    answered=lambda reply: reply.endswith(b"\n"),
    commits=lambda reply: reply.endswith(b"DONE\n"),
)


@pytest.fixture
def heard() -> list[bytes]:
    """Return what the server has heard."""
    return []


@pytest.fixture
def proxy(heard: list[bytes]) -> Generator[Proxy, None, None]:
    """Give a proxy in front of a server that answers each line with itself in upper case."""

    def converse(connection: socket.socket) -> None:
        with connection:
            while data := connection.recv(100):
                heard.append(data)
                connection.sendall(data.upper())

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=converse, args=(connection,), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve)
        thread.start()
        with Proxy("127.0.0.1", listener.getsockname()[1], LINES) as proxy:
            yield proxy
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()


def test_bytes_pass_both_ways(proxy: Proxy) -> None:
    """A proxy that was told nothing is not noticed."""
    with connect(proxy) as client:
        client.sendall(b"hello\n")

        assert client.recv(100) == b"HELLO\n"
        assert proxy.connections == 1
        assert proxy.bytes_to_server == 6


def test_a_frozen_proxy_holds_bytes_back_until_it_thaws(proxy: Proxy, heard: list[bytes]) -> None:
    """Connections stay open, new ones are accepted, and nothing passes."""
    with connect(proxy) as old:
        proxy.freeze()
        with connect(proxy) as new:
            old.sendall(b"old\n")
            new.sendall(b"new\n")
            for client in (old, new):
                client.settimeout(0.05)
                with pytest.raises(TimeoutError):
                    client.recv(100)
                client.settimeout(5)

            assert heard == []
            proxy.thaw()

            assert old.recv(100) == b"OLD\n"
            assert new.recv(100) == b"NEW\n"


def test_a_dropped_reply_has_been_given(proxy: Proxy, heard: list[bytes]) -> None:
    """The server hears and answers the marked line; the client hears the end of its connection, once."""
    proxy.drop_reply_after(b"marked")
    with connect(proxy) as client:
        client.sendall(b"other done\n")

        assert client.recv(100) == b"OTHER DONE\n"
        client.sendall(b"marked done\n")

        assert client.recv(100) == b""
        assert heard[-1] == b"marked done\n"
        assert proxy.lost_replies == 1
    with connect(proxy) as client:
        client.sendall(b"marked done\n")

        assert client.recv(100) == b"MARKED DONE\n"


def test_in_a_transaction_the_answer_to_the_commit_is_dropped(proxy: Proxy) -> None:
    """Answers before it pass, or the client would never come to its COMMIT."""
    proxy.drop_reply_after(b"marked")
    with connect(proxy) as client:
        client.sendall(b"marked\n")

        assert client.recv(100) == b"MARKED\n"
        client.sendall(b"commit done\n")

        assert client.recv(100) == b""
        assert proxy.lost_replies == 1


def test_close_all_closes_only_what_is_open(proxy: Proxy) -> None:
    """A client that comes later is served."""
    with connect(proxy) as client:
        client.sendall(b"hello\n")
        client.recv(100)
        proxy.close_all()

        assert client.recv(100) == b""
    with connect(proxy) as client:
        client.sendall(b"again\n")

        assert client.recv(100) == b"AGAIN\n"


@pytest.mark.parametrize(
    ("request_", "executes"),
    [
        (b"Q\0\0\0\x0bBEGIN;\0", True),
        (b"B\0\0\0\x0c\0s\0\0\0\0\0\0" + b"E\0\0\0\t\0\0\0\0\0" + b"S\0\0\0\4", True),
        (b"P\0\0\0\x0bs\0SQL\0\0\0" + b"D\0\0\0\7Ss\0" + b"S\0\0\0\4", False),
        (b"X\0\0\0\4", False),
    ],
    ids=["query", "bind-execute", "prepare", "terminate"],
)
def test_executions_are_told_from_preparations(request_: bytes, executes: bool) -> None:  # noqa: FBT001
    """Preparing a PostgreSQL statement changes nothing, so losing its reply would test nothing."""
    assert POSTGRESQL.executes(bytearray(request_)) is executes


def packet(payload: bytes, number: int = 0) -> bytes:
    """Return a packet of MySQL's protocol."""
    return len(payload).to_bytes(3, "little") + bytes([number]) + payload


DONE, MORE, OPEN = (b"\0\0" + status.to_bytes(2, "little") + b"\0\0" for status in (2, 10, 3))
"""What ends an answer, after the byte that tells an OK packet from the end of rows."""
ROWS = packet(b"\2") + packet(b"name") + packet(b"other") + packet(b"\1a\0") + packet(b"\0\1b")


@pytest.mark.parametrize(
    ("reply", "answered", "commits"),
    [
        (packet(b"\0" + DONE), True, True),
        (packet(b"\0" + OPEN), True, False),
        (packet(b"\0" + MORE), False, False),
        (packet(b"\xff error"), True, True),
        (ROWS, False, False),
        (ROWS + packet(b"\xfe" + DONE), True, True),
        (ROWS + packet(b"\xfe" + MORE) + packet(b"\0" + DONE), True, True),
        (ROWS + packet(b"\xfe" + MORE) + packet(b"\xff error"), True, True),
        (ROWS + packet(b"\xfe" + DONE)[:-1], False, False),
        (b"", False, False),
    ],
)
def test_the_end_of_an_answer_of_mysql_is_recognised(reply: bytes, answered: bool, commits: bool) -> None:  # noqa: FBT001
    """One packet may have asked for several answers, of which the last counts."""
    assert MYSQL.answered(bytearray(reply)) is answered
    assert MYSQL.commits(bytearray(reply)) is commits


@pytest.mark.parametrize(
    ("request_", "executes"),
    [
        (packet(b"\3SELECT 1"), True),
        (packet(b"\3SELECT 1")[:-1], False),
        (packet(b"\1"), False),
        (packet(b"\3", 1), False),
    ],
    ids=["query", "half a query", "quit", "login"],
)
def test_queries_of_mysql_are_executions(request_: bytes, executes: bool) -> None:  # noqa: FBT001
    """What belongs to a login, or to its end, changes nothing."""
    assert MYSQL.executes(bytearray(request_)) is executes


def connect(proxy: Proxy) -> socket.socket:
    """Return a client's connection."""
    return socket.create_connection(("127.0.0.1", proxy.port), timeout=5)
