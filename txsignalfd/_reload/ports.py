# -*- test-case-name: tests.reload.test_ports -*-
"""
Ports that two generations of a service share.

A new generation opens its ports while the old one still listens.  Both have a
duplicate of the same socket, so at every moment one of them listens: connections
that the old generation no longer accepts are accepted by the new one.  Three
properties of Twisted's own ports are in the way, and are changed here:

  - A port binds its socket.  L{SharedSocket} ignores that in a duplicate.
  - A port that stops calls shutdown(2), which stops all duplicates, and a UNIX
    port removes its path and its lock.  Here the L{Listener} does that when the
    last port has stopped.
  - A port that stops tells its factory, and some factories then close what
    open connections need: C{twisted.web} closes its log.  So a port can first
    be suspended: it accepts no more, and everything else goes on.

Only what Twisted's classes offer to subclasses is overridden:
C{createInternetSocket}, C{transport}, C{startReading} and C{connectionLost}.

The path of a UNIX socket may be removed while the socket is open.  The next
generation then binds a new socket to the path, under the same lock, and the old
socket closes with its generation.

Rejected: SO_REUSEPORT, because the kernel gives each socket a queue of its own,
and resets the connections in the queue of a socket that is closed; and
C{reactor.adoptStreamPort}, because for a UNIX socket it changes the mode of the
path, and removes the path at the end.
"""

from __future__ import annotations

import socket
from collections.abc import Hashable
from contextlib import suppress
from time import monotonic
from typing import Any, Final

from twisted.internet import tcp, udp, unix
from twisted.logger import Logger
from twisted.python.failure import Failure

from txsignalfd._reload.accepted import AcceptedTCP, AcceptedUNIX
from txsignalfd._reload.generation import Resources
from txsignalfd._reload.idle import followRecords
from txsignalfd._reload.listener import (
    MAX_BACKLOG,
    Listener,
    PathLock,
    SharedSocket,
    SocketPath,
    pathOf,
    removeStaleLock,
)
from txsignalfd._reload.transaction import OneShotEvent, attempt

_log: Final = Logger("txsignalfd.reload.ReloadService")

#: Seconds in which a port that has just accepted a connection accepts no other one.
_PAUSE: Final = 0.0005

#: A port pauses only while its number of open connections grows: beyond the most of the
#: last _PERIOD seconds, or of the time since the number was lower by _VARIATION.
_PERIOD: Final = 0.25
_VARIATION: Final = 16

#: The most connections that a port accepts in one turn of the reactor while other
#: processes accept from the same socket.
_AT_ONCE: Final = 8


class SharedPort:
    """
    Mixin that lets a Twisted port share its socket with another generation.
    """

    listener: Listener | None = None
    suspended = False
    #: Whether the port was opened after its generation had started.
    late = False
    #: Whether a suspended port still occupies its address.
    staysBound = False
    #: The resources of its generation.
    resources: Resources
    _made: SharedSocket | None = None
    #: Fires when the port has stopped.
    _ended: OneShotEvent | None = None

    def listenAs(
        self, key: Hashable, listener: Listener | None, resources: Resources
    ) -> None:
        """
        Start to listen.

        @param key: The kind of port and the address that were asked for.
        @param listener: The listener of another generation at this address.
        @param resources: Where to record the port.
        @raise twisted.internet.error.CannotListenError: Nothing is left open.
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
                # There is no free descriptor: stop as Twisted's own port would.
                super().connectionLost(None)  # type: ignore[misc]
                raise
        self.listener.acquire(self)
        self.resources.listens(self)

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
        Return a new socket, or a duplicate of the listener's.
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
        Start to accept, unless the port is suspended or its generation still starts.

        A generation that starts may fail, and would then close the connections that
        it has accepted.  So until it serves, only the old generation accepts.
        """
        isStarting = self.resources.starting and self.listener is not None
        if not (isStarting or self.suspended):
            super().startReading()  # type: ignore[misc]

    def suspend(self) -> None:
        """
        Stop accepting.

        If no other port accepts from the socket, pending connections are still
        accepted, and new ones are refused.
        """
        if self.suspended or self.listener is None:
            return
        isLast = self.listener.isLast(self)
        if isLast:
            attempt(self.acceptPending)
        self.suspended = True
        self.stopReading()
        if isLast:
            assert self._made is not None, "it listens"
            attempt(self._made.leave)
        if self.staysBound:
            self.listener.acquire(self._made)
        attempt(self.listener.release, self)
        self.resources.suspended()

    def stopListening(self, *args: Any, **keywords: Any) -> Any:
        """
        Stop the port.  A second call waits for the first one.

        A service may stop its port, and not wait for that.
        """
        if self._ended is not None:
            return self._ended.wait()
        ended = self._ended = OneShotEvent()
        try:
            stopped = super().stopListening(*args, **keywords)  # type: ignore[misc]
        except BaseException:
            self._ended = None
            raise
        # The Deferred of a datagram port fires while the port is still being closed.
        return stopped and stopped.addCallback(lambda _: ended.wait())

    def stopReading(self) -> None:
        """
        Stop accepting, also when the system reports an error.
        """
        try:
            super().stopReading()  # type: ignore[misc]
        except Exception:
            _log.failure("{port!r} could not be removed from the reactor", port=self)
            # An epoll reactor still has the number, and would not register the
            # next descriptor that gets it.
            reads = getattr(self.reactor, "_reads", None)  # type: ignore[attr-defined]
            if isinstance(reads, set):
                reads.discard(self.fileno())  # type: ignore[attr-defined]

    def doRead(self) -> None:
        """
        Accept connections, unless the port is suspended.

        After an error the reactor may still call this.
        """
        if not self.suspended:
            super().doRead()  # type: ignore[misc]

    @property
    def isTemporary(self) -> bool:
        """
        Whether the port serves one open connection, as FTP's data ports do.
        """
        return self.late and self.listener is not None and self.listener.isAny

    @property
    def awaitsSuccessor(self) -> bool:
        """
        Whether a new generation may still open a port here, as late as this one.
        """
        return (
            not self.suspended
            and self.late
            and self.listener is not None
            and not self.listener.isAny
            and self.listener.isLast(self)
        )

    def acceptPending(self) -> None:
        """
        Accept the connections in the listen queue, also when suspended.
        """
        super().doRead()  # type: ignore[misc]

    def connectionLost(self, reason: Failure | None = None) -> None:
        """
        Release the listener: the port has stopped.
        """
        try:
            super().connectionLost(reason)  # type: ignore[misc]
        finally:
            self._stopped()

    def _stopped(self) -> None:
        assert self.listener is not None, "it has listened"
        for holder in (self, self._made):
            attempt(self.listener.release, holder)
        with suppress(ValueError):
            self.resources.ports.remove(self)
        self.resources.suspended()
        self._ended = self._ended or OneShotEvent()
        self._ended.fire()


class SharedStreamPort(SharedPort):
    """
    A shared port that accepts connections.
    """

    accepted: type[Any] = AcceptedTCP
    #: The most connections that were open at once since some time.
    _most = 0
    _since = 0.0
    #: Whether it accepts the pending connections as the last ones.
    _isEnding = False

    def doRead(self) -> None:
        """
        Accept connections, but only a few if other processes accept, too.
        """
        if self.listener is not None and self.listener.isContended:
            self.numberAccepts = _AT_ONCE
        super().doRead()
        if self._made is not None and self._made.isShutDown:
            # It would stay readable.
            self.stopReading()

    def acceptPending(self) -> None:
        """
        Accept all pending connections, and not only as many as the last time.
        """
        self._pause(False)
        self._isEnding = True
        self.numberAccepts = MAX_BACKLOG
        super().acceptPending()

    def _accept(self, socket: Any, protocol: Any, *args: Any) -> Any:
        followRecords(protocol)
        connection = self.accepted(socket, protocol, *args)
        self.resources.opened(connection)
        if not self._isEnding and self.listener and self.listener.isContended:
            self._giveWay(len(self.resources.connections))
        return connection

    def _giveWay(self, count: int) -> None:
        """
        Let another process accept the next connection, if one is idle.

        Otherwise the first one to wake up, which may always be the same, would get
        most of the connections.  Where connections end as fast as others begin, the
        port gives no way, which takes time.

        @param count: The number of open connections.
        """
        if monotonic() - self._since > _PERIOD or count < self._most - _VARIATION:
            self._since, self._most = monotonic(), count - 1
        if count > self._most:
            self._most = count
            self._pause(True)
            self.stopReading()
            self.reactor.callLater(_PAUSE, self._goOn)  # type: ignore[attr-defined]

    def _goOn(self) -> None:
        self._pause(False)
        if self.connected and not self.disconnecting:  # type: ignore[attr-defined]
            self.startReading()

    def _pause(self, isPaused: bool) -> None:
        assert self._made is not None, "it has listened"
        self._made.isPaused = isPaused

    #: Twisted calls this to make the transport of a connection.
    transport: Any = _accept


class TCPPort(SharedStreamPort, tcp.Port):
    """
    A shared TCP port, also under TLS.
    """


class UDPPort(SharedPort, udp.Port):
    """
    A shared UDP port.
    """

    staysBound = True


class MulticastPort(SharedPort, udp.MulticastPort):
    """
    A shared UDP port for multicast groups.
    """

    staysBound = True


class _SharedPath(SharedPort):
    """
    A shared port whose address is a path.
    """

    connected: Any
    lockFile: Any = None
    mode: int
    socket: Any
    wantPID = 0
    #: The lock of the path, if a socket was bound there before.
    _lock: PathLock | None = None

    def listenAs(
        self, key: Hashable, listener: Listener | None, resources: Resources
    ) -> None:
        """
        Start to listen, with a new socket if the path was removed or replaced.
        """
        path = None if listener is None else listener.path
        if path is not None and not path.isOurs:
            self._lock, listener = path.lock, None
        elif listener is None and self.wantPID:
            assert isinstance(key, tuple), "it has the path"
            removeStaleLock(key[-1])
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
        Bind the path and listen, or listen with a duplicate.

        Twisted's own method would change the mode of the path in any case,
        which a process that has given up root may not do.
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
        Start the protocol or the factory, and read.
        """


class UNIXPort(_SharedPath, SharedStreamPort, unix.Port):
    """
    A shared UNIX socket for connections.
    """

    accepted = AcceptedUNIX

    def _connect(self) -> None:
        assert self.factory is not None, "a port that listens has a factory"
        self.factory.doStart()
        self.socket.listen(self.backlog)
        self.numberAccepts = 100
        self.startReading()

    def connectionLost(self, reason: Failure | None = None) -> None:
        """
        Release the listener, which removes the path and the lock with its last
        port, where C{unix.Port} would remove them now.
        """
        try:
            tcp.Port.connectionLost(self, reason)
        finally:
            self._stopped()


class UNIXDatagramPort(_SharedPath, unix.DatagramPort):
    """
    A shared UNIX socket for datagrams.
    """

    def _connect(self) -> None:
        self.protocol.makeConnection(self)
        self.startReading()
