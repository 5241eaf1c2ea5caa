# -*- test-case-name: tests.test_systemd -*-
"""
L{Notifier}: telling systemd what becomes of a service, by sd_notify(3).

Theory
======

The service manager names a socket in C{NOTIFY_SOCKET}, and each message is one
datagram of assignments, a line each.  Every process may speak that protocol,
and the kernel tells the manager who did.  In a process that no manager has
started all of this does nothing.  L{txsignalfd.notifysocket} does the sending.

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
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from typing import Any, Final

from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger

from txsignalfd.notifysocket import NotifySocket

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

    _log = Logger()

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
        self._log.warn("no watchdog: WATCHDOG_USEC={text!r} is no time", text=text)
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
