"""
A service manager for tests, which receives what C{sd_notify(3)} sends.
"""

from __future__ import annotations

import select
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager

from tests.support.reactors import DEADLINE

#: The first systemd with C{Type=notify-reload}.
NOTIFY_RELOAD = 253


class ServiceManager:
    """
    Listens on a notify socket as systemd does.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        self.socket.bind(name.replace("@", "\0", 1))
        self.environ = {"NOTIFY_SOCKET": name}

    def hasMessage(self, timeout: float = 0) -> bool:
        return bool(select.select([self.socket], [], [], timeout)[0])

    def read(self) -> dict[str, str]:
        """
        Return a message that has already arrived.
        """
        assert self.hasMessage()
        return self.readFrom()[1]

    def readFrom(self) -> tuple[int, dict[str, str]]:
        """
        Wait for a message, and return the pid of its sender and the message.
        """
        assert self.hasMessage(DEADLINE)
        message, ancillary, flags, _ = self.socket.recvmsg(4096, 64)
        assert not flags & socket.MSG_TRUNC
        (credentials,) = ancillary
        pid = struct.unpack("3i", credentials[2])[0]
        return pid, dict(line.split("=", 1) for line in message.decode().split("\n"))

    def readAll(self) -> list[dict[str, str]]:
        messages = []
        while self.hasMessage():
            messages.append(self.read())
        return messages

    def fill(self) -> None:
        """
        Fill the socket, so that no other datagram fits.
        """
        while True:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other:
                other.setblocking(False)
                other.connect(self.socket.getsockname())
                if self._fillBy(other) == 0:
                    return

    def _fillBy(self, other: socket.socket) -> int:
        sent = 0
        while True:
            try:
                other.send(b"X_FULL=1")
            except BlockingIOError:
                return sent
            sent += 1

    def empty(self) -> None:
        while self.hasMessage():
            assert self.read() == {"X_FULL": "1"}, "a message fitted while it was full"


@contextmanager
def listening(name: str) -> Iterator[ServiceManager]:
    """
    Listen as a service manager, on a path or an abstract name.
    """
    manager = ServiceManager(name)
    with manager.socket:
        yield manager
