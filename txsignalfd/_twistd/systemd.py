# -*- test-case-name: tests.twistd.test_systemd -*-
"""
L{Notifier}: telling systemd what becomes of a service, by sd_notify(3).

Theory
======

The service manager names a socket in C{NOTIFY_SOCKET}, and each message is one
datagram of assignments, a line each.  Every process may speak that protocol,
and the kernel tells the manager who did.  In a process that no manager has
started all of this does nothing.  L{txsignalfd._twistd.systemd} does the sending.

The environment is left as it is, where sd_notify(3) could unset the variables.
What children say is refused by systemd itself, which has NotifyAccess=main for
such a service; an administrator who wants their messages says
NotifyAccess=all.  And a plugin that speaks to systemd by itself shall find
what it looks for.

Rejected: sdnotify (its last release is of 2017; it blocks, and swallows every
error), systemd-python and cysystemd (bindings: for one datagram they want
libsystemd, whose sd_notify(3) blocks while the socket is full), async-sdnotify
and systemd-watchdog (the first wants asyncio's loop, the second blocks; neither
has RELOADING=1).

L{NotifySocket}: datagrams to a service manager, sent without ever blocking.

Theory
======

The socket is connected when it is made, which is before twistd changes its
root, and while it is full the reactor waits for it to be writable: poll(2)
tells that only of a datagram socket that is connected.  When whoever listened
there is gone it is connected anew, for another may listen there.

What cannot be sent waits, so that no READY=1 is forgotten; a later message
that assigns the same names takes its place, and so only a few ever wait.  A
reload is over when the manager gets the last READY=1, whatever was before.

Rejected: a new socket for each message, as sd_notify(3) makes it (it is of no
use after chroot(2), and none can be waited for).
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping
from typing import Any, Final

from twisted.internet.interfaces import IDelayedCall, IWriteDescriptor
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

_log: Final = Logger("txsignalfd.systemd.Notifier")


@implementer(IWriteDescriptor)
class NotifySocket:
    """
    A socket on which a service manager listens.  Nothing here blocks, and
    nothing raises: what fails is logged, once until it succeeds again.
    """

    def __init__(self, reactor: Any, name: str) -> None:
        """
        @param reactor: Waits while the socket is full.
        @param name: A path, or a name in the abstract namespace after C{"@"}:
            unix(7).
        """
        self._reactor = reactor
        self._name = name
        self._socket: socket.socket | None = None
        #: By the names that each assigns, the one to be sent first before.
        self._waiting: dict[tuple[bytes, ...], bytes] = {}
        self._isWriter = False
        self._failed = False
        try:
            self._connect()
        except OSError as error:
            self._complain(error)

    def send(self, assignments: Mapping[bytes, bytes]) -> None:
        """
        Send a message, after those that still wait.

        @param assignments: What it says, by name.
        """
        names = tuple(assignments)
        self._waiting.pop(names, None)
        self._waiting[names] = b"\n".join(map(b"=".join, assignments.items()))
        if not self._isWriter:
            self._flush()

    def _flush(self) -> None:
        try:
            while self._waiting:
                names, message = next(iter(self._waiting.items()))
                self._transmit(message)
                del self._waiting[names]
        except BlockingIOError as error:
            self._complain(error)
            if not self._isWriter:
                self._reactor.addWriter(self)
                self._isWriter = True
            return
        except OSError as error:
            self._complain(error)
        else:
            self._succeeded()
        self._waitNoMore()

    def _transmit(self, message: bytes) -> None:
        if self._socket is not None:
            try:
                self._socket.send(message)
            except BlockingIOError:
                raise
            except OSError:
                self._disconnect()
            else:
                return
        self._connect().send(message)

    def _connect(self) -> socket.socket:
        address = self._name
        if address.startswith("@"):
            address = "\0" + address[1:]
        elif not address.startswith("/"):
            raise OSError("this is no name of an AF_UNIX socket")
        connecting = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            connecting.setblocking(False)
            connecting.connect(os.fsencode(address))
        except BaseException:
            connecting.close()
            raise
        self._socket = connecting
        return connecting

    def _disconnect(self) -> None:
        # A closed descriptor is no writer of a reactor.
        self._waitNoMore()
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _waitNoMore(self) -> None:
        if self._isWriter:
            self._isWriter = False
            self._reactor.removeWriter(self)

    def _complain(self, error: OSError) -> None:
        if self._failed:
            return
        self._failed = True
        isFull = isinstance(error, BlockingIOError)
        _log.warn(
            "NOTIFY_SOCKET={name!r}: {why}; systemd will be told later: {waiting!r}",
            name=self._name,
            why="it is full" if isFull else error.strerror or error,
            waiting=list(self._waiting.values()),
        )

    def _succeeded(self) -> None:
        if self._failed:
            self._failed = False
            _log.info("NOTIFY_SOCKET={name!r}: systemd was told", name=self._name)

    def fileno(self) -> int:
        """
        The descriptor, or -1 when it is not connected.
        """
        return -1 if self._socket is None else self._socket.fileno()

    def doWrite(self) -> None:
        """
        The socket has room again.
        """
        self._flush()

    def connectionLost(self, reason: Failure) -> None:
        """
        The reactor has removed us, because it stops.  That is no reason to be
        silent; only nothing waits any more for room.
        """
        self._isWriter = False

    def logPrefix(self) -> str:
        """
        Who wrote in the log.
        """
        return "systemd"

    def close(self) -> None:
        """
        Send what waits, if that can be done at once, and close the socket.
        """
        self._flush()
        self._disconnect()
        if self._waiting:
            _log.warn(
                "NOTIFY_SOCKET={name!r}: systemd was never told: {waiting!r}",
                name=self._name,
                waiting=list(self._waiting.values()),
            )
            self._waiting.clear()


#: systemd ignores a datagram longer than PIPE_BUF, 4096 bytes.  What is not
#: the status needs some of them.
_LONGEST_STATUS: Final = 3800

_SECOND: Final = 1_000_000  #: in microseconds

#: USEC_INFINITY of systemd.
_INFINITY: Final = 2**64 - 1


def _oneLine(text: str) -> bytes:
    # A null byte, or what is no UTF-8, and systemd ignores the whole message.
    line = "".join(char if char.isprintable() else " " for char in text)
    return line.encode()[:_LONGEST_STATUS].decode(errors="ignore").encode()


class Notifier:
    """
    Tells systemd, or another service manager that speaks sd_notify(3), what
    becomes of this service.  Without C{NOTIFY_SOCKET} each method does nothing.

    Nothing here blocks or raises.  Make it before the process daemonizes or
    changes its root, so that it still knows the socket, the watchdog and who
    the main process was; nothing is sent before the first call.  Use it in the
    reactor's thread.

    @ivar enabled: Whether there is a service manager to be told.
    @ivar watchdogInterval: The seconds from one C{WATCHDOG=1} to the next, or
        C{None} where the service manager wants none.
    """

    def __init__(self, reactor: Any, environ: Mapping[str, str] | None = None) -> None:
        """
        @param reactor: Any reactor with C{addWriter} and C{callLater}.
        @param environ: Where C{NOTIFY_SOCKET}, C{WATCHDOG_USEC} and
            C{WATCHDOG_PID} are; C{os.environ} by default.  It is left as it
            is.
        """
        environ = os.environ if environ is None else environ
        name = environ.get("NOTIFY_SOCKET")
        self.enabled = bool(name)
        self._socket = NotifySocket(reactor, name) if name else None
        self._pid = os.getpid()
        self.watchdogInterval = self._readInterval(environ) if name else None
        self._reactor = reactor
        self._watchdog: IDelayedCall | None = None

    def _readInterval(self, environ: Mapping[str, str]) -> float | None:
        # As sd_watchdog_enabled(3): without WATCHDOG_PID it is for everybody.
        pid = environ.get("WATCHDOG_PID", str(self._pid))
        text = environ.get("WATCHDOG_USEC")
        if text is None or pid != str(self._pid):
            return None
        if text.isdecimal() and 0 < int(text) < _INFINITY:
            return int(text) / 2 / _SECOND
        _log.warn("no watchdog: WATCHDOG_USEC={text!r} is no time", text=text)
        return None

    def _notify(self, assignments: Mapping[bytes, bytes]) -> None:
        if self._socket is not None:
            self._socket.send(assignments)

    def ready(self, status: str | None = None) -> None:
        """
        READY=1: the service has started, or a reload is over, whatever came
        of it.

        In another process than the one that made this, as after twistd has
        daemonized, MAINPID= says which it is now.  systemd believes that with
        NotifyAccess=all only; C{twistd -n} needs none of this.

        @param status: What L{status} would say.
        """
        assignments = {b"READY": b"1"}
        if os.getpid() != self._pid:
            assignments[b"MAINPID"] = b"%d" % os.getpid()
        if status is not None:
            assignments[b"STATUS"] = _oneLine(status)
        self._notify(assignments)

    def reloading(self) -> None:
        """
        RELOADING=1, with MONOTONIC_USEC= as Type=notify-reload wants it: a
        reload begins.  L{ready} ends it, also one that has failed.
        """
        now = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        self._notify({b"RELOADING": b"1", b"MONOTONIC_USEC": b"%d" % now})

    def status(self, text: str) -> None:
        """
        STATUS=: what C{systemctl status} shows.

        @param text: One line; what cannot be printed becomes spaces, and what
            is longer than systemd takes is cut off.
        """
        self._notify({b"STATUS": _oneLine(text)})

    def stopping(self) -> None:
        """
        STOPPING=1: the service begins to stop.
        """
        self._notify({b"STOPPING": b"1"})

    def extendTimeout(self, seconds: float) -> None:
        """
        EXTEND_TIMEOUT_USEC=: do not run out of patience with this start, reload
        or stop.

        @param seconds: From now on, until this is said again or it is done.
        """
        usec = b"%d" % round(seconds * _SECOND)
        self._notify({b"EXTEND_TIMEOUT_USEC": usec})

    def startWatchdog(self) -> None:
        """
        Send WATCHDOG=1 now, and twice in each C{WATCHDOG_USEC}, while the
        reactor turns.  One that is stuck sends none, and that is the purpose.
        """
        if self.watchdogInterval is not None and self._watchdog is None:
            self._feed()

    def _feed(self) -> None:
        # No LoopingCall: to make one imports the global reactor.
        self._notify({b"WATCHDOG": b"1"})
        self._watchdog = self._reactor.callLater(self.watchdogInterval, self._feed)

    def stopWatchdog(self) -> None:
        """
        Send no more.  systemd then takes the service for stuck, unless it ends.
        """
        if self._watchdog is not None:
            self._watchdog.cancel()
            self._watchdog = None

    def close(self) -> None:
        """
        The process is about to end: stop the watchdog, send what still waits,
        and close the socket.
        """
        self.stopWatchdog()
        if self._socket is not None:
            self._socket.close()
            self._socket = None
