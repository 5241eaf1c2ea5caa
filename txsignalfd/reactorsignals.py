# -*- test-case-name: tests.test_reactorsignals -*-
"""
L{ReactorSignals}: Twisted's own signal handling, on top of a dispatcher.
"""

from __future__ import annotations

import signal
from signal import SIGINT, SIGTERM
from typing import Any

from txsignalfd._children.reaper import ChildReaper
from txsignalfd._dispatch.dispatcher import (
    HandlerGroup,
    SignalDispatcher,
    dispatcherFor,
)
from txsignalfd._dispatch.stopping import stopReactor
from txsignalfd.siginfo import SigInfo


class ReactorSignals:
    """
    Handles C{SIGINT}, C{SIGTERM} and C{SIGCHLD} as Twisted does in a reactor
    that is run with C{installSignalHandlers=True}.

    The first two stop the reactor (C{SIGINT} only if Python's default handler
    is installed).  On C{SIGCHLD}, processes report their ends.  Other handlers
    of the reactor's dispatcher receive these signals too.

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
        self._group: HandlerGroup | None = None
        self._reaper: ChildReaper | None = None

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
        dispatcher = dispatcherFor(
            self._reactor
        )  # a new one if the last one was closed
        if dispatcher is self._dispatcher:
            return
        signals = [SIGTERM]
        if signal.getsignal(SIGINT) is signal.default_int_handler:
            signals.append(SIGINT)

        def stop(info: SigInfo) -> None:
            stopReactor(dispatcher, info.signo)

        reaper = ChildReaper(dispatcher)
        try:
            self._group = HandlerGroup(dispatcher, [(signo, stop) for signo in signals])
        except BaseException:
            reaper.close()
            raise
        self._dispatcher, self._reaper = dispatcher, reaper

    def uninstall(self) -> None:
        """
        Restore the signals that have no other handler.

        A second call does nothing, nor does a call after the reactor has
        stopped, when all signals are restored already.
        """
        self._dispatcher = None
        group, self._group = self._group, None
        reaper, self._reaper = self._reaper, None
        if group is not None and reaper is not None:
            group.restore()
            reaper.close()
