# -*- test-case-name: tests.test_reactorsignals -*-
"""
L{ReactorSignals}: what Twisted does with signals, by a dispatcher.
"""

from __future__ import annotations

import signal
from collections.abc import Callable
from signal import SIGINT, SIGTERM
from typing import Any

from txsignalfd._children.reaper import ChildReaper
from txsignalfd._dispatch.dispatcher import (
    HandlerGroup,
    SignalDispatcher,
    dispatcherFor,
)
from txsignalfd._dispatch.runs import Handler
from txsignalfd.siginfo import SigInfo


class ReactorSignals:
    """
    Treats C{SIGINT}, C{SIGTERM} and C{SIGCHLD} as Twisted does when a reactor
    is run with C{installSignalHandlers=True}: the first two stop the reactor,
    C{SIGINT} only where Python's default handler stands, and the third has
    processes report their ends.  Other handlers of the reactor's dispatcher
    get these signals too.

    It has the shape of C{twisted.internet._signals.SignalHandling}.  A program
    calls L{install} before it runs the reactor, in any thread and with
    C{installSignalHandlers} true or false.
    """

    def __init__(self, reactor: Any) -> None:
        """
        Nothing is taken before L{install}.

        @param reactor: The reactor; its dispatcher is that of
            L{dispatcherFor}.
        """
        self._reactor = reactor
        self._dispatcher: SignalDispatcher | None = None
        self._group: HandlerGroup | None = None
        self._reaper: ChildReaper | None = None

    def install(self) -> None:
        """
        Watch the signals.  Call it before the reactor runs, or in the thread
        in which it does.  A second call does nothing, unless all has been
        given back since, as when the reactor has stopped.

        @raise SignalAlreadyWatched: And the other errors of
            L{SignalDispatcher.watch <txsignalfd.SignalDispatcher.watch>}.
            Then nothing has been taken.
        """
        reactor = self._reactor
        dispatcher = dispatcherFor(reactor)  # a new one if the last was closed
        if dispatcher is self._dispatcher:
            return
        handlers = [(SIGTERM, _withNumber(reactor.sigTerm))]
        if signal.getsignal(SIGINT) is signal.default_int_handler:
            handlers.append((SIGINT, _withNumber(reactor.sigInt)))
        reaper = ChildReaper(dispatcher)
        try:
            self._group = HandlerGroup(dispatcher, handlers)
        except BaseException:
            reaper.close()
            raise
        self._dispatcher, self._reaper = dispatcher, reaper

    def uninstall(self) -> None:
        """
        Give back the signals that nobody else handles.  A second call does
        nothing, nor does one that comes when the reactor has stopped and all
        has been given back.
        """
        self._dispatcher = None
        group, self._group = self._group, None
        reaper, self._reaper = self._reaper, None
        if group is not None and reaper is not None:
            group.restore()
            reaper.close()


def _withNumber(function: Callable[[int], object]) -> Handler:
    """
    A handler that calls one of Twisted's, which take the signal's number.
    """

    def handle(info: SigInfo) -> None:
        function(info.signo)

    return handle
