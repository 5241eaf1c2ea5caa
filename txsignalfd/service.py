# -*- test-case-name: tests.test_service -*-
"""
L{SignalService}: signal handlers as a part of an application.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from contextlib import ExitStack
from functools import partial
from signal import SIGINT, SIGTERM
from typing import Any, Final

from twisted.application.service import Service
from twisted.logger import Logger

from txsignalfd._children.reaper import ChildReaper
from txsignalfd._dispatch.backends import atShutdown
from txsignalfd._dispatch.dispatcher import (
    HandlerGroup,
    SignalDispatcher,
    dispatcherFor,
)
from txsignalfd._dispatch.runs import Handler
from txsignalfd._dispatch.stopping import (
    isStopping,
    overrideStops,
    staysIgnored,
    stopReactor,
)
from txsignalfd._kernel.callables import checkCallable
from txsignalfd._kernel.mask import checkWatchable
from txsignalfd.siginfo import SigInfo

_log: Final = Logger("txsignalfd.service.SignalService")

#: The default of stopOn, which leaves signals alone that are ignored.
_STOP_ON: Final = (SIGINT, SIGTERM)


class SignalService(Service):
    """
    Calls handlers for signals while it runs, and stops the reactor on some.

    Signals are watched from C{privilegedStartService} on (twistd has forked for
    the last time by then), and also while other services stop.  They are
    restored when the reactor has stopped, or when this service is stopped
    before that and they have no other handler.
    """

    def __init__(
        self,
        handlers: Mapping[int, Handler] | None = None,
        stopOn: Collection[int] = _STOP_ON,
        reapChildren: bool = True,
        reactor: Any = None,
    ) -> None:
        """
        @param handlers: The handler for each signal; see
            L{SignalDispatcher.addHandler}.
        @param stopOn: The signals that stop the reactor.  A process that
            twistd runs is then killed by the signal, after all services have
            stopped.  By default, a C{SIGINT} that is ignored when the service
            starts, as in a background job of a script, stays ignored.
        @param reapChildren: Whether a L{ChildReaper} reports the ends of the
            processes of C{spawnProcess}.
        @param reactor: The reactor; by default the global one.
        @raise TypeError: For a handler that cannot be called.
        @raise SignalNotWatchable: For a signal that cannot be watched.
        """
        self._handlers = dict(handlers or {})
        self._stopOn = checkWatchable(stopOn)
        self._isDefault = stopOn is _STOP_ON
        checkWatchable(self._handlers)
        for handler in self._handlers.values():
            checkCallable(handler, "handler")
        self._reapChildren = reapChildren
        self._reactor = reactor
        self._group: HandlerGroup | None = None
        #: Undoes everything that the start has done.
        self._undo: ExitStack
        self._reactorStops = False

    def privilegedStartService(self) -> None:
        """
        Watch the signals.

        @raise SignalAlreadyWatched: And the other errors of
            L{SignalDispatcher.watch}.  Then no signal is watched.
        """
        if self._group is not None:
            return
        if self._reactor is None:
            from twisted.internet import reactor

            self._reactor = reactor
        dispatcher = dispatcherFor(self._reactor)
        stop = partial(self._stop, dispatcher)
        with ExitStack() as undo:
            # Before the handlers: one of them may reap all children.
            if self._reapChildren:
                undo.callback(ChildReaper(dispatcher).close)
            group = HandlerGroup(dispatcher, self._handlers.items())
            undo.callback(group.restore)
            stops = HandlerGroup(
                dispatcher,
                [
                    (signo, stop)
                    for signo in self._stopOn
                    if not (self._isDefault and staysIgnored(signo))
                ],
            )
            undo.callback(stops.restore)
            signals = {*self._handlers, *self._stopOn}
            undo.callback(overrideStops(dispatcher, signals))
            # Triggers fire in the order in which they were added.  The one of twistd,
            # which calls stopService, is added later.
            undo.callback(atShutdown(self._reactor, "before", self._reactorWillStop))
            self._undo = undo.pop_all()
        self._group = group

    def startService(self) -> None:
        """
        Watch the signals, unless L{privilegedStartService} has done so.
        """
        self.privilegedStartService()
        super().startService()

    def stopService(self) -> None:
        """
        Stop calling the handlers.
        """
        super().stopService()
        group, self._group = self._group, None
        if group is None:
            return
        if self._reactorStops:
            # A signal that arrives while other services stop must not kill the
            # process, and their children still end.  The dispatcher restores
            # all signals when the reactor has stopped.
            group.remove()
            return
        self._undo.close()

    def _reactorWillStop(self) -> None:
        self._reactorStops = True

    def _stop(self, dispatcher: SignalDispatcher, info: SigInfo) -> None:
        if isStopping(dispatcher):
            _log.info("{info}: already stopping", info=info)
            return
        _log.info("{info}: stopping", info=info)
        stopReactor(dispatcher, info.signo)
