"""
Clients of real servers, in threads, that send requests without pause and note
each answer that is missing or short.
"""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from typing import Protocol, TypeAlias, runtime_checkable

from tests.support.daemons import waitFor
from tests.support.reactors import DEADLINE

#: Opens a connection.
Connect: TypeAlias = Callable[[], socket.socket]


def tcp(port: int, host: str = "127.0.0.1") -> Connect:
    """
    Connect by TCP.
    """
    return lambda: socket.create_connection((host, port), DEADLINE)


def unix(path: str) -> Connect:
    """
    Connect by a UNIX socket.
    """

    def connect() -> socket.socket:
        connection = socket.socket(socket.AF_UNIX)
        connection.settimeout(DEADLINE)
        try:
            connection.connect(path)
        except BaseException:
            connection.close()
            raise
        return connection

    return connect


def tls(connect: Connect, certificate: str) -> Connect:
    """
    Connect by TLS, to a server with this certificate for C{localhost}.
    """
    context = ssl.create_default_context(cafile=certificate)

    def secured() -> socket.socket:
        raw = connect()
        try:
            return context.wrap_socket(raw, server_hostname="localhost")
        except BaseException:
            raw.close()
            raise

    return secured


def canConnect(connect: Connect) -> bool:
    """
    Whether a server listens.
    """
    try:
        connect().close()
    except (ConnectionRefusedError, FileNotFoundError):
        return False
    except ConnectionResetError:  # the port is being closed
        return False
    return True


class Web:
    """
    An HTTP/1.1 connection.
    """

    def __init__(self, connect: Connect) -> None:
        self.socket = connect()
        self._file = self.socket.makefile("rb")
        #: Whether the last answer had C{Connection: close}.
        self.isOver = False

    def close(self) -> None:
        self._file.close()
        self.socket.close()

    def send(self, path: str = "/", last: bool = False) -> None:
        """
        Send a request.
        """
        wanted = "close" if last else "keep-alive"
        self.socket.sendall(
            f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: {wanted}\r\n\r\n"
            "".encode()
        )

    def receive(self) -> bytes:
        """
        Receive a complete answer.
        """
        status = self._file.readline()
        if not status:
            raise ConnectionResetError("no answer")
        assert status.split()[1] == b"200", status
        headers = dict(self._header(line) for line in iter(self._readline, b""))
        self.isOver = headers.get(b"connection", b"").lower() == b"close"
        if headers.get(b"transfer-encoding") == b"chunked":
            return b"".join(iter(self._chunk, b""))
        return self._read(int(headers[b"content-length"]))

    def _read(self, length: int) -> bytes:
        body = self._file.read(length)
        if len(body) != length:
            raise ConnectionResetError(f"{len(body)} of {length} bytes")
        return body

    def _chunk(self) -> bytes:
        chunk = self._read(int(self._readline(), 16))
        assert self._readline() == b""
        return chunk

    def _readline(self) -> bytes:
        line = self._file.readline()
        if not line.endswith(b"\r\n"):
            raise ConnectionResetError("half an answer")
        return line.rstrip()

    def _header(self, line: bytes) -> tuple[bytes, bytes]:
        name, _, value = line.partition(b":")
        return name.lower(), value.strip()

    def get(self, path: str = "/", last: bool = False) -> bytes:
        """
        Send a request, and receive the answer.
        """
        self.send(path, last)
        return self.receive()

    def isClosed(self) -> bool:
        """
        Wait until the server has closed the connection.
        """
        return self._file.read(1) == b""


def fetch(connect: Connect, path: str = "/") -> bytes:
    """
    Send one request on a new connection.
    """
    with closing(Web(connect)) as web:
        return web.get(path, last=True)


def opening(connect: Connect, path: str = "/") -> Callable[[], None]:
    """
    A client that opens a connection for each request.
    """

    def request() -> None:
        fetch(connect, path)

    return request


class keeping:  # noqa: N801 - beside opening()
    """
    A client that keeps its connection until the server announces the end.
    """

    def __init__(self, connect: Connect, path: str = "/") -> None:
        self._connect = connect
        self._path = path
        self._web: Web | None = None

    def __call__(self) -> None:
        self.get()

    def get(self) -> bytes:
        """
        Return the answer to the next request.
        """
        if self._web is None:
            self._web = Web(self._connect)
        text = self._web.get(self._path)
        if self._web.isOver:
            self.close()
        return text

    def close(self) -> None:
        if self._web is not None:
            self._web.close()
            self._web = None


class echoing:  # noqa: N801 - beside opening()
    """
    A UDP client that expects each datagram to be echoed.
    """

    def __init__(self, port: int, host: str = "127.0.0.1") -> None:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._socket = socket.socket(family, socket.SOCK_DGRAM)
        self._socket.settimeout(DEADLINE)
        self._socket.connect((host, port))
        self._count = 0

    def __call__(self) -> None:
        self._count += 1
        sent = b"datagram %d" % self._count
        self._socket.send(sent)
        assert self._socket.recv(100) == sent

    def close(self) -> None:
        self._socket.close()


@runtime_checkable
class Closeable(Protocol):
    """
    A client that keeps a connection.
    """

    def close(self) -> None:
        """
        Close the connection.
        """


class Load:
    """
    The results of running clients.
    """

    def __init__(self, count: int) -> None:
        #: The number of answers of each client.
        self.answers = [0] * count
        #: Missing and incomplete answers.
        self.failures: list[str] = []
        self.stopping = False

    def run(self, number: int, request: Callable[[], None]) -> None:
        """
        Run a client until the end or its first failure.
        """
        while not self.stopping:
            try:
                request()
            except Exception as error:
                self.failures.append(f"{request}: {error!r}")
                return
            self.answers[number] += 1

    def waitForAnswers(self, more: int = 1) -> None:
        """
        Wait until each client has received some more answers.
        """
        wanted = [count + more for count in self.answers]
        waitFor(
            lambda: (
                self.failures
                or all(map(int.__ge__, self.answers, wanted))  # of each client
            ),
            f"{wanted} answers, of {self.answers}",
        )


@contextmanager
def load(*clients: Callable[[], None]) -> Iterator[Load]:
    """
    Run clients without pause, and check that each request is answered.
    """
    running = Load(len(clients))
    threads = [
        threading.Thread(target=running.run, args=(number, request))
        for number, request in enumerate(clients)
    ]
    for thread in threads:
        thread.start()
    try:
        running.waitForAnswers()
        yield running
        running.waitForAnswers()
    finally:
        running.stopping = True
        for thread in threads:
            thread.join(2 * DEADLINE)
        for request in clients:
            if isinstance(request, Closeable):
                request.close()
    assert running.failures == [], running.failures
