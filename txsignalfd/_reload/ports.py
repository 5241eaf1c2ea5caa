# -*- test-case-name: tests.reload.test_ports -*-
"""
Ports that two generations of a service share.

A new generation is to listen where the old one still does.  Both have
duplicates of one socket, so no connection finds nobody there: what the old
generation does not accept any more the new one does.  Three things of Twisted's
own ports stand against that, and are mended here:

  - a port binds its socket.  L{SharedSocket} is bound once, and then passes
    over it;
  - a port calls shutdown(2) when it stops, which stops all the duplicates, and
    a UNIX port removes its path and its lock.  Here L{Listener}, which knows
    who else accepts there, does that with the last of them;
  - a port that stops tells its factory so, and C{twisted.web}, for one, then
    closes its log, while its connections are still being served.  So a port can
    be suspended first: it accepts no more, and all else stands.

Only what Twisted's classes offer to be replaced is replaced:
C{createInternetSocket}, C{transport}, C{startReading} and C{connectionLost}.

Rejected: SO_REUSEPORT, with which the kernel gives each socket a queue of its
own, and resets what is in that of the one that closes; and
C{reactor.adoptStreamPort}, which for a UNIX socket changes the mode of the path,
and removes it at the end.

UNIX sockets that two generations of a service share: see L{txsignalfd._reload.ports}.
The path, its mode and its lock are the L{Listener}'s.  Where somebody has
removed the path, it is bound anew, to another socket under the same lock, and
the old one goes with its generation.
"""

from __future__ import annotations

import socket
from collections.abc import Hashable
from contextlib import suppress
from typing import Any

from twisted.internet import tcp, udp, unix
from twisted.python.failure import Failure

from txsignalfd._reload.listener import (
    MOST_WAITING,
    Listener,
    PathLock,
    SharedSocket,
    SocketPath,
    pathOf,
)
from txsignalfd._reload.resources import Resources


class SharedPort:
    """
    What makes a port of Twisted's one whose socket is shared.  Mixed in
    before it.
    """

    listener: Listener | None = None
    suspended = False
    #: Whether it was opened when its generation had started.
    late = False
    #: Whose it is.
    resources: Resources
    _made: SharedSocket | None = None

    def listenAs(
        self, key: Hashable, listener: Listener | None, resources: Resources
    ) -> None:
        """
        Start to listen.

        @param key: What was asked for.
        @param listener: Where others listen already.
        @param resources: Where it is noted.
        @raise twisted.internet.error.CannotListenError: Then nothing stays.
        """
        self.listener, self.resources = listener, resources
        self.late = not resources.starting
        try:
            self.startListening()  # type: ignore[attr-defined]
        except BaseException:
            self._abandon()
            raise
        if self.listener is None:
            try:
                self.listener = self._newListener(key)
            except BaseException:
                # No descriptor was left: stop as Twisted's own would.
                super().connectionLost(None)  # type: ignore[misc]
                raise
        self.listener.hold(self)
        self.resources.ports.append(self)

    def _abandon(self) -> None:
        if self._made is not None:
            self._made.close()

    def _newListener(self, key: Hashable) -> Listener:
        assert self._made is not None, "it listens"
        listener = Listener(key, self._made.fileno())
        listener.groups = self._made.groups
        return listener

    def createInternetSocket(self) -> SharedSocket:
        """
        Make a socket, or take a duplicate of the one that there is.
        """
        if self.listener is not None:
            self._made = self.listener.newSocket()
        else:
            new: socket.socket = super().createInternetSocket()  # type: ignore[misc]
            self._made = SharedSocket(fileno=new.detach())
            self._made.setblocking(False)
        return self._made

    def startReading(self) -> None:
        """
        Accept, unless that is another generation's: not while this one may
        still fail to start, for who was accepted would be cut, and not when it
        is suspended.
        """
        isOthers = self.resources.starting and self.listener is not None
        if not (isOthers or self.suspended):
            super().startReading()  # type: ignore[misc]

    def suspend(self) -> None:
        """
        Accept no more.  Where nobody else does, who connects is refused from
        now on; who was waiting already is still accepted.
        """
        if self.suspended or self.listener is None:
            return
        isLast = self.listener.isLast(self)
        if isLast:
            self.acceptWaiting()
        self.suspended = True
        self.stopReading()  # type: ignore[attr-defined]
        if isLast:
            assert self._made is not None, "it listens"
            self._made.leave()
        self.listener.release(self)
        self.resources.suspended()

    @property
    def isPassing(self) -> bool:
        """
        Whether it was opened for somebody who is being served, as for FTP.
        """
        return self.late and self.listener is not None and self.listener.isAny

    @property
    def lingers(self) -> bool:
        """
        Whether a new generation may not have got so far as to listen here.
        """
        return (
            not self.suspended
            and self.late
            and self.listener is not None
            and not self.listener.isAny
            and self.listener.isLast(self)
        )

    def acceptWaiting(self) -> None:
        """
        Accept who was waiting already.
        """
        self.doRead()  # type: ignore[attr-defined]

    def connectionLost(self, reason: Failure | None = None) -> None:
        """
        The port has stopped.
        """
        try:
            super().connectionLost(reason)  # type: ignore[misc]
        finally:
            self._stopped()

    def _stopped(self) -> None:
        assert self.listener is not None, "it has listened"
        self.listener.release(self)
        with suppress(ValueError):
            self.resources.ports.remove(self)
        self.resources.suspended()


class Accepted:
    """
    A connection that its port knows of.
    """

    #: A L{SharedStreamPort}.
    server: Any

    def connectionLost(self, reason: Failure) -> None:
        """
        The connection has ended.
        """
        try:
            super().connectionLost(reason)  # type: ignore[misc]
        finally:
            self.server.resources.ended(self)


class AcceptedTCP(Accepted, tcp.Server):
    """
    A connection by TCP.
    """


class SharedStreamPort(SharedPort):
    """
    A port that accepts connections.
    """

    accepted: type[Any] = AcceptedTCP

    def acceptWaiting(self) -> None:
        """
        Accept all, where Twisted would take as many as came the last time.
        """
        self.numberAccepts = MOST_WAITING
        super().acceptWaiting()

    def _accept(self, *args: Any) -> Any:
        connection = self.accepted(*args)
        self.resources.opened(connection)
        return connection

    #: What makes the transport of a connection.
    transport: Any = _accept


class TCPPort(SharedStreamPort, tcp.Port):
    """
    A TCP port that can be shared, also under TLS.
    """


class UDPPort(SharedPort, udp.Port):
    """
    A UDP port that can be shared.
    """


class MulticastPort(SharedPort, udp.MulticastPort):
    """
    A UDP port for groups that can be shared.
    """


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

    def listenAs(
        self, key: Hashable, listener: Listener | None, resources: Resources
    ) -> None:
        """
        The same as for other ports.  There is nobody to share with at a path
        that leads elsewhere.
        """
        path = None if listener is None else listener.path
        if path is not None and not path.stands:
            self._lock, listener = path.lock, None
        super().listenAs(key, listener, resources)

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
