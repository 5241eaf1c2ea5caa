# -*- test-case-name: tests.twistd.test_startup -*-
"""
Defer signals that arrive while the daemon starts or ends.

At startup there is no service yet that a signal could reload; at the end there is
none any more.  In both cases the signal must be neither lost nor fatal.  It is
handled as soon as the service has started.

A signal that stops the daemon is different: it ends the process immediately, by
its default action.  There is nothing to drain yet, and a start that hangs can be
stopped.  But the first process of a pid namespace has no default actions, and
would lose the signal, so there it is deferred too.

A Python handler is used, because it survives the fork(2) by which twistd becomes
a daemon, and because executed programs do not inherit it.  It cannot say who sent
the signal.  A signalfd could, but must not be opened before that fork.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterable, Mapping
from signal import SIG_DFL, SIGCHLD, default_int_handler
from time import monotonic
from typing import Any, Final

from twisted.logger import Logger

from txsignalfd._children.orphans import isInit
from txsignalfd._kernel.mask import reserve, unreserve
from txsignalfd._native.names import signalName
from txsignalfd._twistd.actions import REPEAT, Action

_log: Final = Logger("txsignalfd.daemon.Daemon")


def _isDeferred(signo: int, action: Action) -> bool:
    if action.isStop:
        return isInit()
    # SIGCHLD comes from the children of the start itself.
    return action.name != "leave" and signo != SIGCHLD


def removeOwnPidfile(path: str) -> None:
    """
    Remove a pidfile that names this process, and was left by one that was killed.

    twistd would refuse to start: the pid seems to be that of another daemon.  The
    first process of a container has the same pid after each start.

    @param path: The pidfile, or an empty string if there is none.
    """
    try:
        with open(path, encoding="ascii") as pidfile:
            isOwn = int(pidfile.read()) == os.getpid()
        if isOwn:
            os.remove(path)
            _log.info("removed the pidfile {path!r} of this pid", path=path)
    except (OSError, ValueError):
        # twistd reports a pidfile that it cannot read.
        return


class StartupSignals:
    """
    The signals that are deferred until the service has started.

    Call every method in the main thread.
    """

    def __init__(self) -> None:
        #: The deferred signals, and the handlers that they had before.
        self._before: dict[int, Any] = {}
        #: The deferred signals that have arrived, and when each was the first time.
        self._arrived: dict[int, float] = {}
        self._stops: set[int] = set()
        self._blocked: set[int] = set()

    def defer(self, actions: Mapping[int, Action]) -> None:
        """
        Defer signals that have an action, as far as that action can wait.

        A signal that is ignored, as by nohup(1), or has a handler is left alone.
        """
        for signo, action in actions.items():
            if _isDeferred(signo, action):
                self._defer(signo)
            else:
                self.restore([signo])
            (self._stops.add if action.isStop else self._stops.discard)(signo)

    def _defer(self, signo: int) -> None:
        if signal.getsignal(signo) in (SIG_DFL, default_int_handler):
            self._before[signo] = signal.signal(signo, self._note)

    def _note(self, signo: int, frame: Any) -> None:
        first = self._arrived.setdefault(signo, monotonic())
        if signo in self._stops and monotonic() - first > REPEAT:
            # The start hangs, and the first process is not killed by a signal.
            os._exit(128 + signo)

    def restore(self, signals: Iterable[int] | None = None) -> None:
        """
        Restore the handlers of signals that will not be watched.

        A signal that has arrived is sent again, and has its usual effect.

        @param signals: Their numbers; by default all.
        """
        for signo in list(self._before) if signals is None else signals:
            self._restore(signo)
            if self._arrived.pop(signo, None) is not None:
                os.kill(os.getpid(), signo)

    def giveUp(self) -> None:
        """
        Restore all handlers, and forget what has arrived: the start has failed.
        """
        self._arrived.clear()
        self.restore()

    def _restore(self, signo: int) -> None:
        before = self._before.pop(signo, None)
        # The program may have installed a handler of its own.
        if before is not None and signal.getsignal(signo) == self._note:
            signal.signal(signo, before)

    def block(self) -> None:
        """
        Block the signals in place of deferring them, just before they are watched.
        """
        for signo in list(self._before):
            if signal.getsignal(signo) == self._note:
                reserve([signo])
                self._blocked.add(signo)
            self._restore(signo)

    def deferAgain(self) -> None:
        """
        Defer the signals until the process ends, if L{block} blocked them.

        The service has stopped, and the signals are about to be released.
        """
        for signo in self._blocked:
            self._defer(signo)
        unreserve(self._blocked)
        self._blocked.clear()

    def resend(self) -> None:
        """
        Send the signals that have arrived again.
        """
        arrived, self._arrived = self._arrived, {}
        for signo in arrived:
            _log.info(
                "{name} arrived during startup: handling it now",
                name=signalName(signo),
            )
            os.kill(os.getpid(), signo)


#: The signals that are deferred as soon as C{twistd signalfd} parses its options.
startupSignals: Final = StartupSignals()
