# -*- test-case-name: tests.twistd.test_daemon -*-
"""
Defer a signal that arrives while the daemon starts or ends.

At startup there is no service yet that SIGHUP could reload; at the end there is
none any more.  In both cases SIGHUP must not kill the process.

A Python handler is used, because it survives the fork(2) by which twistd becomes
a daemon, and because executed programs do not inherit it.  It cannot say who sent
the signal.  A signalfd could, but must not be opened before that fork.
"""

from __future__ import annotations

import os
import signal
from typing import Any, Final

from twisted.logger import Logger

from txsignalfd._kernel.mask import blockUntilRestored

_log: Final = Logger("txsignalfd.daemon.Daemon")


class StartupSignal:
    """
    A signal that is deferred until the service has started.

    Call every method in the main thread.
    """

    def __init__(self, signo: int) -> None:
        """
        @param signo: The number of the signal.
        """
        self._signo = signo
        self._arrived = False
        self._deferring = False
        self._blocked = False

    def defer(self) -> None:
        """
        Defer the signal, unless it is ignored (by nohup(1)) or has a handler.
        """
        if signal.getsignal(self._signo) is signal.SIG_DFL:
            signal.signal(self._signo, self._note)
            self._deferring = True

    def _note(self, signo: int, frame: Any) -> None:
        self._arrived = True

    def restore(self) -> None:
        """
        Restore the default action, because the signal will not be watched.

        A deferred signal is sent again, and has its default effect.
        """
        if self._deferring:
            self._deferring = False
            signal.signal(self._signo, signal.SIG_DFL)
            self.resend()

    def block(self) -> None:
        """
        Block the signal in place of deferring it, just before it is watched.
        """
        if self._deferring:
            self._deferring = False
            blockUntilRestored([self._signo])
            signal.signal(self._signo, signal.SIG_DFL)
            self._blocked = True

    def deferAgain(self) -> None:
        """
        Defer the signal until the process ends, if L{block} blocked it.

        The service has stopped, and the signal is about to be released.
        """
        if self._blocked:
            self._blocked = False
            self.defer()

    def resend(self) -> None:
        """
        Send the signal again, if it was deferred.
        """
        if self._arrived:
            self._arrived = False
            _log.info("SIGHUP arrived during startup: handling it now")
            os.kill(os.getpid(), self._signo)


#: SIGHUP, deferred as soon as C{twistd signalfd} parses its options.
hangup = StartupSignal(signal.SIGHUP)
