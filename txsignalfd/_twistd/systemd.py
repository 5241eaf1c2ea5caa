# -*- test-case-name: tests.twistd.test_systemd -*-
"""
L{Notifier}: notify systemd of starts, reloads and stops, by sd_notify(3).

Theory
======

The service manager names a socket in C{NOTIFY_SOCKET}.  Each message is one
datagram of assignments, one on each line, and the kernel tells the manager which
process sent it.  In a process that no service manager has started, L{Notifier}
does nothing.

L{NotifySocket} sends the datagrams and never blocks.  It connects when it is
made, because twistd may change its root later.  While the socket is full, the
reactor waits until it is writable, which poll(2) reports only for a connected
datagram socket.  If the listener has gone, the socket connects again, because
another listener may have taken its place.

A message that cannot be sent is queued, so that no READY=1 is lost.  A later
message that assigns the same names replaces it, so the queue stays short.  A
reload is finished when the manager receives the last READY=1, whatever was sent
before.

The environment is not changed, although sd_notify(3) can unset the variables.  A
plugin that notifies systemd itself still finds them.  Messages from child
processes are refused by systemd, where such a service has NotifyAccess=main; an
administrator who wants them sets NotifyAccess=all.

Rejected: sdnotify (last release in 2017, blocks, swallows every error);
systemd-python and cysystemd (need libsystemd, whose sd_notify(3) blocks while the
socket is full); async-sdnotify (needs asyncio's loop) and systemd-watchdog
(blocks), both without RELOADING=1; a new socket for each message, as sd_notify(3)
has it (does not work after chroot(2), and the reactor cannot wait for it).
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Mapping
from typing import Any, Final

from twisted.internet.interfaces import IDelayedCall, IWriteDescriptor
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

_log: Final = Logger("txsignalfd.systemd.Notifier")


@implementer(IWriteDescriptor)
class NotifySocket:
    """
    Sends datagrams to a service manager without blocking.

    No method raises an exception.  A failure is logged once, until sending
    succeeds again.
    """

    def __init__(self, reactor: Any, name: str) -> None:
        """
        @param reactor: The reactor, which waits while the socket is full.
        @param name: A path, or C{"@"} and a name in the abstract namespace:
            unix(7).
        """
        self._reactor = reactor
        self._name = name
        self._socket: socket.socket | None = None
        #: Unsent messages in their order, by the names that they assign.
        self._queue: dict[tuple[bytes, ...], bytes] = {}
        #: Duplicates of the descriptors that go with some of them.
        self._descriptors: dict[tuple[bytes, ...], int] = {}
        self._isWriter = False
        self._failed = False
        try:
            self._connect()
        except OSError as error:
            self._logFailure(error)

    def send(
        self, assignments: Mapping[bytes, bytes], descriptor: int | None = None
    ) -> None:
        """
        Send a message, after the queued ones.

        @param assignments: The values of the message, by name.
        @param descriptor: A file descriptor that goes with the message.
        """
        # Each stored descriptor has messages of its own.
        names = (*assignments, assignments.get(b"FDNAME", b""))
        self._remove(names)
        self._queue[names] = b"\n".join(map(b"=".join, assignments.items()))
        if descriptor is not None:
            self._descriptors[names] = os.dup(descriptor)
        if not self._isWriter:
            self._flush()

    def _remove(self, names: tuple[bytes, ...]) -> None:
        self._queue.pop(names, None)
        descriptor = self._descriptors.pop(names, None)
        if descriptor is not None:
            os.close(descriptor)

    def _flush(self) -> None:
        try:
            while self._queue:
                names, message = next(iter(self._queue.items()))
                self._transmit(message, self._descriptors.get(names))
                self._remove(names)
        except BlockingIOError as error:
            self._logFailure(error)
            if not self._isWriter:
                self._reactor.addWriter(self)
                self._isWriter = True
            return
        except OSError as error:
            self._logFailure(error)
        else:
            self._logSuccess()
        self._stopWriting()

    def _transmit(self, message: bytes, descriptor: int | None) -> None:
        descriptors = [] if descriptor is None else [descriptor]
        if self._socket is not None:
            try:
                socket.send_fds(self._socket, [message], descriptors)
            except BlockingIOError:
                raise
            except OSError:
                self._disconnect()
            else:
                return
        socket.send_fds(self._connect(), [message], descriptors)

    def _connect(self) -> socket.socket:
        address = self._name
        if address.startswith("@"):
            address = "\0" + address[1:]
        elif not address.startswith("/"):
            raise OSError("not the name of an AF_UNIX socket")
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
        # A reactor must not keep a closed descriptor as a writer.
        self._stopWriting()
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _stopWriting(self) -> None:
        if self._isWriter:
            self._isWriter = False
            self._reactor.removeWriter(self)

    def _logFailure(self, error: OSError) -> None:
        if self._failed:
            return
        self._failed = True
        isFull = isinstance(error, BlockingIOError)
        _log.warn(
            "NOTIFY_SOCKET={name!r}: {why}; these messages are sent later: {queue!r}",
            name=self._name,
            why="the socket is full" if isFull else error.strerror or error,
            queue=list(self._queue.values()),
        )

    def _logSuccess(self) -> None:
        if self._failed:
            self._failed = False
            _log.info("NOTIFY_SOCKET={name!r}: all messages are sent", name=self._name)

    def fileno(self) -> int:
        """
        Return the descriptor, or -1 if the socket is not connected.
        """
        return -1 if self._socket is None else self._socket.fileno()

    def doWrite(self) -> None:
        """
        Send the queued messages, now that the socket has room.
        """
        self._flush()

    def connectionLost(self, reason: Failure) -> None:
        """
        Note that the reactor has stopped, and no longer waits for room.

        Messages can still be sent.
        """
        self._isWriter = False

    def logPrefix(self) -> str:
        """
        Return the system of log messages.
        """
        return "systemd"

    def close(self) -> None:
        """
        Send the queued messages if there is room, and close the socket.
        """
        self._flush()
        self._disconnect()
        if self._queue:
            _log.warn(
                "NOTIFY_SOCKET={name!r}: these messages were never sent: {queue!r}",
                name=self._name,
                queue=list(self._queue.values()),
            )
            for names in list(self._queue):
                self._remove(names)


#: The most bytes of a status.  systemd ignores a datagram longer than PIPE_BUF,
#: 4096 bytes, and the other assignments need some of them.
_LONGEST_STATUS: Final = 3800

_SECOND: Final = 1_000_000  #: in microseconds

#: USEC_INFINITY of systemd.
_INFINITY: Final = 2**64 - 1


def _oneLine(text: str) -> bytes:
    # systemd ignores a message with a null byte or invalid UTF-8.
    line = "".join(char if char.isprintable() else " " for char in text)
    return line.encode()[:_LONGEST_STATUS].decode(errors="ignore").encode()


class Notifier:
    """
    Notifies systemd, or another service manager that speaks sd_notify(3).

    Without C{NOTIFY_SOCKET} each method does nothing.  No method blocks or raises
    an exception.  Use it in the reactor's thread.

    Make it before the process daemonizes or changes its root, while the socket is
    reachable and C{WATCHDOG_PID} names this process.  Nothing is sent before the
    first call.

    @ivar enabled: Whether there is a service manager.
    @ivar stores: How many descriptors it stores for the next process of the service,
        0 if it stores none.
    @ivar watchdogInterval: The seconds between two C{WATCHDOG=1}, or C{None} if
        the service manager has no watchdog for this process.
    """

    def __init__(self, reactor: Any, environ: Mapping[str, str] | None = None) -> None:
        """
        @param reactor: Any reactor with C{addWriter} and C{callLater}.
        @param environ: The environment with C{NOTIFY_SOCKET},
            C{WATCHDOG_USEC}, C{WATCHDOG_PID} and C{FDSTORE}, by default
            C{os.environ}.  It is not changed.
        """
        environ = os.environ if environ is None else environ
        name = environ.get("NOTIFY_SOCKET")
        self.enabled = bool(name)
        count = environ.get("FDSTORE", "")
        self.stores = int(count) if name and count.isdecimal() else 0
        self._socket = NotifySocket(reactor, name) if name else None
        self._pid = os.getpid()
        self.watchdogInterval = self._readInterval(environ) if name else None
        self._reactor = reactor
        self._watchdog: IDelayedCall | None = None
        #: Says whether to send WATCHDOG=1.  By default it is always sent.
        self.isAlive: Callable[[], bool] | None = None

    def _readInterval(self, environ: Mapping[str, str]) -> float | None:
        # As in sd_watchdog_enabled(3): without WATCHDOG_PID, every process of
        # the service has the watchdog.
        pid = environ.get("WATCHDOG_PID", str(self._pid))
        text = environ.get("WATCHDOG_USEC")
        if text is None or pid != str(self._pid):
            return None
        if text.isdecimal() and 0 < int(text) < _INFINITY:
            return int(text) / 2 / _SECOND
        _log.warn("no watchdog: WATCHDOG_USEC={text!r} is not a time", text=text)
        return None

    def _notify(self, assignments: Mapping[bytes, bytes]) -> None:
        if self._socket is not None:
            self._socket.send(assignments)

    def ready(self, status: str | None = None) -> None:
        """
        Send READY=1: the service has started, or a reload has ended in any way.

        MAINPID= is added in another process than the one that made this object,
        as after twistd has daemonized.  systemd accepts it only with
        NotifyAccess=all.  C{twistd -n} does not need it.

        @param status: Text for STATUS=, as for L{status}.
        """
        assignments = {b"READY": b"1"}
        if os.getpid() != self._pid:
            assignments[b"MAINPID"] = b"%d" % os.getpid()
        if status is not None:
            assignments[b"STATUS"] = _oneLine(status)
        self._notify(assignments)

    def reloading(self) -> None:
        """
        Send RELOADING=1 and MONOTONIC_USEC=: a reload begins.

        Type=notify-reload needs both.  L{ready} must follow, even if the reload
        fails.
        """
        now = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        self._notify({b"RELOADING": b"1", b"MONOTONIC_USEC": b"%d" % now})

    def status(self, text: str) -> None:
        """
        Send STATUS=, which C{systemctl status} shows.

        @param text: One line.  Unprintable characters are replaced by spaces, and
            a text that is too long for systemd is cut.
        """
        self._notify({b"STATUS": _oneLine(text)})

    def stopping(self) -> None:
        """
        Send STOPPING=1: the service begins to stop.
        """
        self._notify({b"STOPPING": b"1"})

    def extendTimeout(self, seconds: float) -> None:
        """
        Send EXTEND_TIMEOUT_USEC=: this start, reload or stop needs more time.

        @param seconds: The time from now until the next such message or the end.
        """
        usec = b"%d" % round(seconds * _SECOND)
        self._notify({b"EXTEND_TIMEOUT_USEC": usec})

    def store(self, name: str, descriptor: int) -> None:
        """
        Send FDSTORE=1: the next process of the service gets a duplicate.

        @param name: The name that it has there: C{FDNAME} in sd_pid_notify_with_fds(3).
        @param descriptor: The file descriptor.
        """
        if self._socket is not None:
            assignments = {b"FDSTORE": b"1", b"FDNAME": name.encode()}
            self._socket.send(assignments, descriptor)

    def discard(self, name: str) -> None:
        """
        Send FDSTOREREMOVE=1: remove a stored descriptor.

        @param name: Its name.
        """
        self._notify({b"FDSTOREREMOVE": b"1", b"FDNAME": name.encode()})

    def startWatchdog(self) -> None:
        """
        Send WATCHDOG=1 now, and then twice in each C{WATCHDOG_USEC}.

        A blocked reactor sends none, so that systemd notices it.
        """
        if self.watchdogInterval is not None and self._watchdog is None:
            self._feed()

    def _feed(self) -> None:
        # LoopingCall would import the global reactor.
        if self.isAlive is None or self.isAlive():
            self._notify({b"WATCHDOG": b"1"})
        self._watchdog = self._reactor.callLater(self.watchdogInterval, self._feed)

    def stopWatchdog(self) -> None:
        """
        Stop sending WATCHDOG=1.  systemd kills a service that does not end then.
        """
        if self._watchdog is not None:
            self._watchdog.cancel()
            self._watchdog = None

    def close(self) -> None:
        """
        Stop the watchdog, send the queued messages, and close the socket.

        Call this just before the process ends.
        """
        self.stopWatchdog()
        if self._socket is not None:
            self._socket.close()
            self._socket = None
