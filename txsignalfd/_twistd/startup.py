# -*- test-case-name: tests.twistd.test_daemon -*-
"""
SIGHUP, before there is a service that it could reload, and when there is none
any more.

A signal's handler in Python survives fork(2), by which twistd becomes a daemon,
and is gone in programs that are executed.  It cannot tell who has sent the
signal, but a descriptor that could may not be opened before that fork.
"""

from __future__ import annotations

import os
import signal
from typing import Any, Final

from twisted.logger import Logger

from txsignalfd._kernel.mask import blockAsOurs

_log: Final = Logger("txsignalfd.daemon.Daemon")


class EarlySignal:
    """
    One signal that is not to kill the process, and waits.
    """

    def __init__(self, signo: int) -> None:
        """
        @param signo: Its number.
        """
        self._signo = signo
        self._came = False
        self._held = False
        self._letGo = False

    def hold(self) -> None:
        """
        Keep it, unless it is ignored, as after nohup(1), or has a handler.  In
        the main thread.
        """
        if signal.getsignal(self._signo) is signal.SIG_DFL:
            signal.signal(self._signo, self._note)
            self._held = True

    def _note(self, signo: int, frame: Any) -> None:
        self._came = True

    def restore(self) -> None:
        """
        Keep it no more: nobody will watch it.
        """
        if self._held:
            self._held = False
            signal.signal(self._signo, signal.SIG_DFL)
            self.send()

    def letGo(self) -> None:
        """
        Have it blocked instead, as what is watched is; call this just before it
        is watched, in the main thread.
        """
        if self._held:
            self._held = False
            blockAsOurs([self._signo])
            signal.signal(self._signo, signal.SIG_DFL)
            self._letGo = True

    def holdAgain(self) -> None:
        """
        Keep it once more, if it was let go of: the service has stopped, and what
        is watched will be given back, but the process is to come to its end.
        """
        if self._letGo:
            self._letGo = False
            self.hold()

    def send(self) -> None:
        """
        Send it again if it came, now that it is watched.
        """
        if self._came:
            self._came = False
            _log.info("SIGHUP came before the service was up, and counts now")
            os.kill(os.getpid(), self._signo)


#: What C{twistd signalfd} holds from the moment that it has read its options.
hangup = EarlySignal(signal.SIGHUP)
