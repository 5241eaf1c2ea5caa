# -*- test-case-name: tests.test_reactorsignals -*-
"""
L{ReactorSignals}: Twisted's own signal handling, on top of a dispatcher.
"""

from __future__ import annotations

import signal
from contextlib import ExitStack, suppress
from functools import partial
from signal import SIG_DFL, SIGCHLD, SIGINT, SIGTERM
from typing import Any

from txsignalfd._children.reaper import ChildReaper
from txsignalfd._dispatch.backends import atShutdown
from txsignalfd._dispatch.dispatcher import (
    HandlerGroup,
    SignalDispatcher,
    dispatcherFor,
)
from txsignalfd._dispatch.stopping import isOverridden, isStopping, stopReactor
from txsignalfd._kernel.mask import SignalAlreadyWatched
from txsignalfd.siginfo import SigInfo


class ReactorSignals:
    """
    Handles C{SIGINT}, C{SIGTERM} and C{SIGCHLD} as Twisted does in a reactor
    that is run with C{installSignalHandlers=True}.

    The first two stop the reactor (C{SIGINT} only if Python's default handler
    is installed), unless a L{SignalService} handles the signal, which decides
    itself.  On C{SIGCHLD}, processes report their ends.  Other handlers of the
    reactor's dispatcher receive these signals too.

    This class provides the interface of
    C{twisted.internet._signals.SignalHandling}.  A program calls L{install}
    before it runs the reactor, in any thread and with
    C{installSignalHandlers} true or false.
    """

    def __init__(self, reactor: Any) -> None:
        """
        Do nothing before L{install}.

        @param reactor: The reactor, whose dispatcher (L{dispatcherFor}) is used.
        """
        self._reactor = reactor
        self._dispatcher: SignalDispatcher | None = None
        #: Undoes everything that L{install} has done.
        self._undo: ExitStack

    def _stopSignals(self) -> list[int]:
        if signal.getsignal(SIGINT) is signal.default_int_handler:
            return [SIGTERM, SIGINT]
        return [SIGTERM]

    def install(self) -> None:
        """
        Watch the signals.

        Call it before the reactor runs, or in the thread in which it runs.  A
        second call does nothing, unless the dispatcher was closed meanwhile, as
        it is when the reactor stops.

        @raise SignalAlreadyWatched: And the other errors of
            L{SignalDispatcher.watch <txsignalfd.SignalDispatcher.watch>}.
            Then no signal is watched.
        """
        # A new one, if the last one was closed.
        dispatcher = dispatcherFor(self._reactor)
        if dispatcher is self._dispatcher:
            return
        self.uninstall()

        def stop(info: SigInfo) -> None:
            if not (isStopping(dispatcher) or isOverridden(dispatcher, info.signo)):
                stopReactor(dispatcher, info.signo)

        with ExitStack() as undo:
            undo.callback(ChildReaper(dispatcher).close)
            handlers = [(signo, stop) for signo in self._stopSignals()]
            undo.callback(HandlerGroup(dispatcher, handlers).restore)
            shutdown = partial(self._shutdown, dispatcher)
            undo.callback(atShutdown(self._reactor, "during", shutdown))
            dispatcher._setInternal(True)  # noqa: SLF001
            undo.callback(dispatcher._setInternal, False)  # noqa: SLF001
            self._undo = undo.pop_all()
        self._dispatcher = dispatcher

    def _shutdown(self, dispatcher: SignalDispatcher) -> None:
        # Only now: this closes the dispatcher, with the handlers of other code.
        dispatcher._setInternal(False)  # noqa: SLF001
        self._reactor.disconnectAll()

    def uninstall(self) -> None:
        """
        Restore the signals that have no other handler.

        A second call does nothing, nor does a call after the reactor has
        stopped, when all signals are restored already.
        """
        dispatcher, self._dispatcher = self._dispatcher, None
        if dispatcher is not None:
            self._undo.close()


class ChildSignals(ReactorSignals):
    """
    The signal handling of a reactor that is run with C{installSignalHandlers=False}.

    Processes report their ends, in contrast to Twisted's reactors.  The program
    handles the other signals, and C{SIGCHLD} too if it has a handler.
    """

    def _stopSignals(self) -> list[int]:
        return []

    def install(self) -> None:
        """
        Watch C{SIGCHLD}, unless the program or another dispatcher handles it.
        """
        if signal.getsignal(SIGCHLD) is SIG_DFL:
            # The reaper of that dispatcher serves all reactors of the process.
            with suppress(SignalAlreadyWatched):
                super().install()


class ReactorSignalsMixin:
    """
    Mixin that lets a Twisted reactor use L{ReactorSignals} when it runs.

    Put it before the reactor's class in the bases of a subclass.  The module of the
    subclass has to have a function C{install}, because other code looks for it there.
    """

    # Twisted makes the signal handling of each run by this method, which is not public.
    # It is the only place where Twisted's can be replaced.
    def _makeSignalHandling(self, installSignalHandlers: bool) -> ReactorSignals:
        if installSignalHandlers:
            return ReactorSignals(self)
        reactor: Any = self
        signals = ChildSignals(self)
        reactor.callWhenRunning(signals.install)  # which Twisted does not call
        return signals

    def run(self, installSignalHandlers: bool = True) -> None:
        """
        Run the reactor, and restore the signals in the end.
        """
        reactor: Any = super()
        try:
            reactor.run(installSignalHandlers)
        finally:
            # Twisted's reactor for asyncio does not do that.
            self._signals.uninstall()  # type: ignore[attr-defined]
