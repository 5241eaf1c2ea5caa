# -*- test-case-name: tests.test_ports -*-
"""
UNIX sockets that two generations of a service share: see L{txsignalfd.ports}.
The path, its mode and its lock are the L{Listener}'s.  Where somebody has
removed the path, it is bound anew, to another socket under the same lock, and
the old one goes with its generation.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

from twisted.internet import tcp, unix
from twisted.python.failure import Failure

from txsignalfd.listener import Listener
from txsignalfd.ports import Accepted, SharedPort, SharedStreamPort
from txsignalfd.socketpath import PathLock, SocketPath, pathOf
from txsignalfd.taken import Taken


class _SharedPath(SharedPort):
    """
    What is different where the address is a path.
    """

    connected: Any
    lockFile: Any = None
    mode: int
    socket: Any
    wantPID: int
    #: That of the path, where it was bound before.
    _lock: PathLock | None = None

    def listenAs(self, key: Hashable, listener: Listener | None, taken: Taken) -> None:
        """
        The same as for other ports.  There is nobody to share with at a path
        that leads elsewhere.
        """
        path = None if listener is None else listener.path
        if path is not None and not path.stands:
            self._lock, listener = path.lock, None
        super().listenAs(key, listener, taken)

    def _newListener(self, key: Hashable) -> Listener:
        assert self._made is not None, "it listens"
        listener = Listener(key, self._made.fileno())
        path = pathOf(self._made.getsockname())
        if path is not None:
            if self.lockFile is not None:
                self._lock = PathLock(self.lockFile)
            listener.path = SocketPath(path, self.mode, self._lock)
        return listener

    def _abandon(self) -> None:
        super()._abandon()
        if self.lockFile is not None and self.lockFile.locked:
            self.lockFile.unlock()

    def startListening(self) -> None:
        """
        Bind the path and listen, or listen where it is bound.

        Twisted's own would change the mode of the path in any case, which one
        who has given up root may not.
        """
        if self.listener is None:
            if self._lock is not None:
                self._lock.renew()
                self.wantPID = 0
            super().startListening()  # type: ignore[misc]
            return
        self.socket = self.createInternetSocket()
        self.fileno = self.socket.fileno
        if self.listener.path is not None:
            self.listener.path.changeMode(self.mode)
        self.connected = True
        self._connect()

    def _connect(self) -> None:
        """
        Do what comes when there is a socket: each kind has its own.
        """


class AcceptedUNIX(Accepted, unix.Server):
    """
    A connection by a UNIX socket.
    """


class UNIXPort(_SharedPath, SharedStreamPort, unix.Port):
    """
    A UNIX socket that can be shared.
    """

    accepted = AcceptedUNIX

    def _connect(self) -> None:
        assert self.factory is not None, "who listens has one"
        self.factory.doStart()
        self.socket.listen(self.backlog)
        self.numberAccepts = 100
        self.startReading()

    def connectionLost(self, reason: Failure | None = None) -> None:
        """
        The port has stopped.  The path and the lock go with the last that has
        them, and not, as with C{unix.Port}, with this.
        """
        try:
            tcp.Port.connectionLost(self, reason)
        finally:
            self._stopped()


class UNIXDatagramPort(_SharedPath, unix.DatagramPort):
    """
    A UNIX socket for datagrams that can be shared.
    """

    def _connect(self) -> None:
        self.protocol.makeConnection(self)
        self.startReading()
