# -*- test-case-name: tests.dispatch.test_dispatcher -*-
"""
L{SignalDispatcher}: the signals of the process, in the turns of a reactor.

Theory
======

The kernel's queue is the only queue: a record is read in the reactor's turn,
and handed at once to a L{HandlerTable}.

Giving back hands out first what the kernel had pending, and only then restores
dispositions and masks, so that no signal that came while it was watched gets
the default action.  A reactor that stops removes its readers, and that gives
everything back too.

Rejected: a shutdown trigger (it would run before those of services, which may
still want signals while they stop).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from typing import Any, Final

from twisted.internet.defer import Deferred, succeed
from twisted.internet.error import ConnectionLost
from twisted.logger import Logger
from twisted.python.failure import Failure

from txsignalfd._dispatch.backends import (
    Backend,
    ReactorBackend,
    atShutdown,
    checkBackend,
)
from txsignalfd._dispatch.description import Description, describe
from txsignalfd._dispatch.handlers import HandlerTable
from txsignalfd._dispatch.registration import Handler, Overlap, Registration
from txsignalfd._dispatch.waiting import SignalStream, Waiters
from txsignalfd._kernel.mask import checkWatchable
from txsignalfd._native.extension import lib
from txsignalfd.siginfo import SigInfo

_log: Final = Logger("txsignalfd.dispatcher.SignalDispatcher")


class DispatcherClosed(RuntimeError):
    """
    The dispatcher was closed, or its reactor has stopped.
    """


class SignalDispatcher:
    """
    Hands the signals of the process to handlers, in the turns of a reactor.

    Applications and libraries share the one that L{dispatcherFor} gives.  Call
    it from the thread in which C{reactor} runs, or will run; that may be any
    thread of the process.
    """

    def __init__(self, reactor: Any, backend: str | None = None) -> None:
        """
        Nothing is taken from the system before the first signal is watched.

        @param reactor: Any reactor with C{addReader}.
        @param backend: C{"signalfd"} or C{"handler"}; by default what the
            environment's C{TXSIGNALFD_BACKEND} names, or the best there is.
        @raise ValueError: For an unknown backend.
        """
        self.reactor = reactor
        self._table = HandlerTable(self._finishIfIdle)
        self._backend = self._makeBackend(backend)
        self._waiters = Waiters(self._addHandlers)
        self._closing = self._stopped = self._closed = False
        self._forgetShutdown: Callable[[], None] | None = None
        self._whenClosed: list[Deferred[None]] = []

    def _makeBackend(self, name: str | None) -> Backend:
        name = checkBackend(name)
        return ReactorBackend(name, self.reactor, self._table.receive, self._lost)

    @property
    def watching(self) -> frozenset[int]:
        """
        The numbers of the signals that are watched.

        @raise WatchedByParent: In a forked child.
        """
        self._backend.checkProcess()
        return self._backend.signals

    def watch(self, *signals: int) -> None:
        """
        Take hold of these signals too in the whole process, all or none.

        @param signals: Their numbers.
        @raise SignalNotWatchable: For one that cannot be read.
        @raise SignalAlreadyWatched: For one that another dispatcher has.
        @raise SignalfdUnavailable: Where signalfd(2) was asked for, and is not.
        @raise OSError: When the system refuses.
        @raise DispatcherClosed: After L{close}.
        @raise WatchedByParent: In a forked child.
        """
        self._check()
        self._backend.watch(signals)

    def unwatch(self, *signals: int) -> None:
        """
        Give signals back, after what is pending has been handed to handlers
        (or, in a handler, has been read; it is handed on when that returns).
        Their handlers stay, and are called again if they are watched again.

        @param signals: Their numbers.  What is not watched is passed over.
        @raise SignalNotWatchable: And the other errors of L{watch}.
        """
        self._check()
        self._backend.unwatch(checkWatchable(signals))

    def handlersOf(self, signal: int) -> tuple[Registration, ...]:
        """
        The registrations for a signal, in the order of their calls.

        @param signal: Its number.
        """
        return self._table.handlersOf(signal)

    def describe(self) -> Description:
        """
        What is watched, by which handlers and how often, what is held and what
        was dropped; and what the process does.  C{print} shows it as text.
        """
        watched = tuple(map(self._table.describe, sorted(self.watching)))
        return describe(watched, self._backend.describe())

    def _check(self) -> None:
        if self._closing:
            raise DispatcherClosed(
                "the dispatcher was closed, or its reactor has stopped"
            )
        self._backend.checkProcess()

    def addHandler(
        self, signal: int, handler: Handler, overlap: Overlap = Overlap.QUEUE
    ) -> Registration:
        """
        Call a handler for each signal that comes from now on.  The signal is
        watched by this, and stays so when its last handler goes.

        @param signal: Its number.
        @param handler: Called in the reactor's thread with the L{SigInfo}.
            What it raises, or its Deferred fails with, is logged; of a
            generator it is told that nothing in it is run.  It may close the
            dispatcher; if it then waits for that, it must be a coroutine
            function, or have called L{close} before it returned.
        @param overlap: What is done with a signal that comes while the
            Deferred or awaitable that the handler has returned is not done.
        @return: What removes it again.
        @raise TypeError: For a handler that cannot be called.
        @raise ValueError: For an overlap that is none.
        @raise SignalNotWatchable: And the other errors of L{watch}.
        """
        if not callable(handler):
            raise TypeError(f"the handler {handler!r} cannot be called")
        how = Overlap(overlap)
        self.watch(signal)
        return self._table.add(signal, handler, how)

    def _addHandlers(
        self, signals: Iterable[int], handler: Handler
    ) -> list[Registration]:
        numbers = checkWatchable(signals)
        if not numbers:
            raise ValueError("name at least one signal")
        self.watch(*numbers)
        return [self._table.add(signo, handler, Overlap.QUEUE) for signo in numbers]

    def whenReceived(self, *signals: int) -> Deferred[SigInfo]:
        """
        Wait for the next of these signals.

        @param signals: Their numbers, at least one.
        @return: A Deferred that fires with the first that comes, or fails with
            L{DispatcherClosed}.  Cancelling it takes nothing else back.
        @raise ValueError: Without a signal.
        @raise SignalNotWatchable: And the other errors of L{watch}.
        """
        return self._waiters.whenReceived(signals)

    def stream(self, *signals: int) -> AbstractContextManager[SignalStream]:
        """
        Iterate over these signals: C{with dispatcher.stream(SIGHUP) as infos}
        and then C{async for info in infos}.  Nothing that comes between
        entering and leaving is lost; what was not read by then is logged.

        @param signals: Their numbers, at least one.
        @raise ValueError: Without a signal, when it is entered.
        @raise SignalNotWatchable: And the other errors of L{watch}.
        """
        return self._waiters.stream(signals)

    def hold(self, *signals: int) -> AbstractContextManager[None]:
        """
        A critical section: no signal of these is handed out in it.  What comes
        meanwhile is handled after it, in order.  May be nested.  L{close}
        waits for its end.

        @param signals: Their numbers; none for every signal.
        @raise SignalNotWatchable: And the other errors of L{watch}.
        """
        self._check()
        return self._table.hold(checkWatchable(signals) or range(1, lib.TXS_NSIG))

    def close(self) -> Deferred[None]:
        """
        Hand on what is pending now, wait for handlers that are out and for
        L{hold}s, and give back all that was taken: mask, dispositions and
        descriptor.  What comes after this call goes where it would have gone
        without us.  Streams end, and L{whenReceived} fails.

        @return: A Deferred that fires when all is given back.  A further call
            gives another, for the same closing.
        @raise WatchedByParent: In a forked child.
        """
        if self._closed:
            return self.whenClosed()
        self._backend.checkProcess()
        deferred = self.whenClosed()
        self._table.closing()
        if not self._closing:
            self._closing = True
            # Then no Deferred that needs the reactor will fire.
            self._forgetShutdown = atShutdown(self.reactor, "after", self._finish)
            self._backend.stop()  # in several reads, perhaps: not done before the last
            self._stopped = True
            if self._table.isHolding:
                _log.info("closing waits until the signals that are held are not")
        self._finishIfIdle()
        return deferred

    def whenClosed(self) -> Deferred[None]:
        """
        Do not close, and wait as L{close} does.
        """
        if self._closed:
            return succeed(None)
        self._whenClosed.append(Deferred(self._whenClosed.remove))
        return self._whenClosed[-1]

    def _finishIfIdle(self) -> None:
        if not self._stopped or self._closed or self._table.receiving:
            return
        if self._table.isHolding:  # who waits shall have what is held
            return
        self._endWaiters()
        # Ending those may have ended a handler, and so all.
        if self._table.isIdle() and not self._closed:
            self._finish()

    def _endWaiters(self) -> None:
        self._waiters.end(DispatcherClosed("the dispatcher was closed"))

    def _finish(self) -> None:
        self._closed = True
        self._table.abandon()
        if self._forgetShutdown is not None:
            self._forgetShutdown()
        if dispatchers.get(self.reactor) is self:
            del dispatchers[self.reactor]
        result: Failure | None = None
        try:
            self._backend.close()
        except OSError:
            result = Failure()
        while self._whenClosed:
            self._whenClosed.pop(0).callback(result)

    def _lost(self, reason: Failure) -> None:
        # The reactor stops, or the descriptor is dead; all was given back.
        self._closing = True
        if not reason.check(ConnectionLost):
            _log.failure("signals are received no more", failure=reason)
        self._endWaiters()
        if not self._closed:  # by one of those, who has left a hold
            self._finish()


#: The dispatchers of reactors, for L{dispatcherFor}.
dispatchers: dict[Any, SignalDispatcher] = {}


def dispatcherFor(reactor: Any) -> SignalDispatcher:
    """
    The one dispatcher of a reactor, which its libraries and its application
    share.  Made at first use, and anew after it was closed.

    @param reactor: Any reactor with C{addReader}.
    """
    if reactor not in dispatchers:
        dispatchers[reactor] = SignalDispatcher(reactor)
    return dispatchers[reactor]
