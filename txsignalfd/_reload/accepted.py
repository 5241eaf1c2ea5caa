# -*- test-case-name: tests.reload.test_accepted -*-
"""
Connections that the ports of a generation have accepted.

When a generation ends, it closes connections of which a client may send more, such as
the next of several pipelined requests.  The kernel answers that with a reset, and
drops what it has not sent yet: the rest of the last response (RFC 9112, 9.6).  So a
connection of such a generation lingers: the client is told that nothing follows, and
what it sends is read and dropped until it has received everything.
"""

from __future__ import annotations

import fcntl
import socket
import struct
import termios
from contextlib import suppress
from typing import Any, Final

from twisted.internet import tcp, unix
from twisted.internet.main import CONNECTION_DONE
from twisted.python.failure import Failure

from txsignalfd._reload.transaction import Timer

#: Seconds that a connection lingers.  Then it is closed, as without lingering.
LINGER: Final = 5.0

#: Seconds between two checks whether the client has received everything.
INTERVAL: Final = 0.02

#: The most bytes that are dropped in a turn of the reactor.
_MOST: Final = 65536


class Accepted:
    """
    Mixin that lets a connection report its end to the port's generation.
    """

    #: A L{SharedStreamPort <txsignalfd._reload.ports.SharedStreamPort>}.
    server: Any

    def connectionLost(self, reason: Failure) -> None:
        """
        Report the end of the connection.
        """
        try:
            super().connectionLost(reason)  # type: ignore[misc]
        finally:
            self.server.resources.ended(self)


class AcceptedUNIX(Accepted, unix.Server):
    """
    A connection that a shared UNIX socket has accepted.
    """


class AcceptedTCP(Accepted, tcp.Server):
    """
    A TCP connection that a shared port has accepted.
    """

    _timer: Timer | None = None
    _left = LINGER

    # Twisted calls this when everything was written, and offers no public hook.
    def _postLoseConnection(self) -> Any:
        if not self.server.suspended:
            return super()._postLoseConnection()
        with suppress(OSError):
            self.socket.shutdown(socket.SHUT_WR)
        self._wait()
        self.startReading()
        return None

    def _wait(self) -> None:
        self._left -= INTERVAL
        self._timer = Timer(self.reactor, INTERVAL, self._check)

    def _check(self) -> None:
        if self._left > 0 and self._hasUnreceived():
            self._wait()
        else:
            self._end()

    def _hasUnreceived(self) -> bool:
        """
        Return whether the client has not acknowledged everything: tcp(7), SIOCOUTQ.
        """
        try:
            count = fcntl.ioctl(self.fileno(), termios.TIOCOUTQ, b"\0" * 4)
        except OSError:
            return False
        return struct.unpack("i", count) != (0,)

    def _end(self) -> None:
        self.connectionLost(Failure(CONNECTION_DONE))

    def doRead(self) -> Any:
        """
        Receive data, or drop it when the connection lingers.
        """
        if self._timer is None:
            return super().doRead()
        # After an error the next call returns nothing, as at the end.
        with suppress(OSError):
            if not self.socket.recv(_MOST):
                self.stopReading()
                self._left = 0
        return None

    def abortConnection(self) -> None:
        """
        Abort the connection, or end its lingering: the kernel has its last data.
        """
        if self._timer is None:
            super().abortConnection()
        else:
            self._end()

    def connectionLost(self, reason: Failure) -> None:
        """
        Linger no longer.
        """
        if self._timer is not None:
            self._timer.cancel()
        super().connectionLost(reason)
