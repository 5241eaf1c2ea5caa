# -*- test-case-name: tests.test_dispatcher -*-
"""
L{SignalDispatcher}: who wants which signal.

Theory
======

The kernel's queue is the only queue.  A record is read in the reactor's turn,
and handed at once to every handler of its signal, in the order in which they
were added; the next record comes after.  Only four things keep a signal
here, each in order: a handler that is still busy (L{Overlap}), a L{stream
<SignalDispatcher.stream>} that is not read, a L{hold <SignalDispatcher.hold>},
and a handler that has had more signals read by giving some back.

So a handler may do what it likes with the dispatcher.  The table's entries are
tuples that are replaced, never changed: a handler that is added while a signal
is handed out gets the next one.

Giving back hands out first what the kernel had pending, and only then restores
dispositions and masks, so that no signal that came while it was watched gets
the default action.  A reactor that stops removes its readers, and that gives
everything back too: no shutdown trigger is needed.

Rejected: a shutdown trigger (it would run before the services' own, which may
still want signals); to mask a held signal in the kernel (what is pending of
several signals comes in the order of their numbers, and a standard signal
that comes twice is one).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.logger import Logger
from twisted.python.failure import Failure

from txsignalfd._mask import checkWatchable
from txsignalfd._native import lib
from txsignalfd.descriptor import SignalDescriptor
from txsignalfd.registration import (
    Handler,
    Overlap,
    Registration,
    Run,
    currentRun,
)
from txsignalfd.siginfo import SigInfo
from txsignalfd.stream import SignalStream


class DispatcherClosed(RuntimeError):
    """
    The dispatcher was closed, or its reactor has stopped.
    """


class SignalDispatcher:
    """
    Hands the signals of the process to handlers, in the turns of a reactor.

    Applications and libraries share the one that L{dispatcherFor} gives.  Call
    it from the thread in which the reactor runs, or will run; that may be any
    thread of the process.
    """

    _log = Logger()

    def __init__(self, reactor: Any, backend: str | None = None) -> None:
        """
        Nothing is taken from the system before the first signal is watched.

        @param reactor: Any reactor with C{addReader}.
        @param backend: How to receive signals: C{"signalfd"}, or C{None} for
            the best that the system has.
        @raise ValueError: For an unknown backend.
        """
        if backend not in (None, "signalfd"):
            raise ValueError(f"unknown backend {backend!r}: there is 'signalfd'")
        self._reactor = reactor
        self._descriptor: SignalDescriptor | None = None
        self._startTrigger: Any = None
        self._table: dict[int, tuple[Registration, ...]] = {}
        self._held: dict[int, int] = {}
        self._kept: list[SigInfo] = []
        self._dispatching = False
        self._backlog: list[SigInfo] = []
        self._unhandled: dict[int, int] = {}
        self._pending: set[Deferred[SigInfo]] = set()
        self._streams: set[SignalStream] = set()
        self.runs: set[Run] = set()
        self.calling: Registration | None = None
        self._closedBy: tuple[Registration, int] | None = None
        self._closing = False
        self._closed = False
        self._whenClosed: list[Deferred[None]] = []

    # -- what is watched

    @property
    def watching(self) -> frozenset[int]:
        """
        The numbers of the signals that are watched.
        """
        descriptor = self._descriptor
        return frozenset() if descriptor is None else descriptor.signals

    def watch(self, *signals: int) -> None:
        """
        Take hold of signals in the whole process, all or none.  What is
        watched already stays so.

        @param signals: Their numbers.
        @raise SignalNotWatchable: For one that cannot be read.
        @raise SignalAlreadyWatched: For one that another dispatcher has.
        @raise SignalfdUnavailable: On a system without signalfd(2).
        @raise OSError: When the system refuses.
        @raise DispatcherClosed: After L{close}.
        @raise WatchedByParent: In a forked child.
        """
        self._check()
        if self._descriptor is not None:
            self._descriptor.watch(signals)
            return
        descriptor = SignalDescriptor(signals, self._receive, self._descriptorLost)
        try:
            self._reactor.addReader(descriptor)
        except BaseException:
            descriptor.close()
            raise
        self._descriptor = descriptor
        # The reactor may start in another thread than this, and Twisted
        # installs handlers of its own when it does.
        self._startTrigger = self._reactor.callWhenRunning(self._settle)

    def unwatch(self, *signals: int) -> None:
        """
        Give signals back, after what is pending has been handed to handlers.
        Their handlers stay, and are called again if they are watched again.

        @param signals: Their numbers.  What is not watched is passed over.
        @raise DispatcherClosed: After L{close}.
        @raise WatchedByParent: In a forked child.
        """
        self._check()
        if self._descriptor is not None:
            self._descriptor.unwatch(signals)
            if not self._descriptor.signals:
                self._letGo()

    def handlersOf(self, signal: int) -> tuple[Registration, ...]:
        """
        The registrations for a signal, in the order of their calls.

        @param signal: Its number.
        """
        return self._table.get(signal, ())

    def _letGo(self) -> None:
        """
        Leave the reactor and the descriptor, if there is one.
        """
        trigger, self._startTrigger = self._startTrigger, None
        if trigger is not None:
            self._reactor.removeSystemEventTrigger(trigger)
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            self._reactor.removeReader(descriptor)
            descriptor.close()

    def _settle(self) -> None:
        self._startTrigger = None
        if self._descriptor is not None:
            self._descriptor.settle()

    def _check(self) -> None:
        if self._closing:
            raise DispatcherClosed(
                "this dispatcher was closed, or its reactor has stopped"
            )
        if self._descriptor is not None:
            self._descriptor.checkProcess()

    # -- who wants it

    def addHandler(
        self, signal: int, handler: Handler, overlap: Overlap = Overlap.QUEUE
    ) -> Registration:
        """
        Call a handler for each signal that comes from now on.  The signal is
        watched by this, and stays so when its last handler goes.

        @param signal: Its number.
        @param handler: Called in the reactor's thread with the L{SigInfo}.
            What it raises, or its Deferred fails with, is logged.  It may
            close the dispatcher; if it then waits for that, it must be a
            coroutine function, or have called L{close} before it returned.
        @param overlap: What is done with a signal that comes while the
            Deferred or awaitable that the handler has returned is not done.
        @return: What removes it again.
        @raise TypeError: For a handler that cannot be called.
        @raise ValueError: For an overlap that is none.
        @raise SignalNotWatchable: And the other errors of L{watch}.
        """
        if not callable(handler):
            raise TypeError(f"the handler {handler!r} cannot be called")
        registration = Registration(self, signal, handler, Overlap(overlap))
        self.watch(signal)
        registration.ready = not self.isHeld(signal)
        self._table[signal] = (*self.handlersOf(signal), registration)
        self._unhandled.pop(signal, None)
        return registration

    def _addHandlers(
        self, signals: Iterable[int], handler: Handler
    ) -> list[Registration]:
        numbers = checkWatchable(signals)
        if not numbers:
            raise ValueError("name at least one signal")
        self.watch(*numbers)
        return [self.addHandler(signo, handler) for signo in numbers]

    def whenReceived(self, *signals: int) -> Deferred[SigInfo]:
        """
        Wait for the next of these signals.

        @param signals: Their numbers, at least one.
        @return: A Deferred that fires with the first that comes, or fails with
            L{DispatcherClosed}.  Cancelling it takes nothing else back.
        @raise ValueError: Without a signal.
        @raise SignalNotWatchable: And the other errors of L{watch}.
        """

        def stop(_: object) -> None:
            self._pending.discard(deferred)
            for registration in registrations:
                registration.remove()

        def received(info: SigInfo) -> None:
            stop(None)
            deferred.callback(info)

        deferred: Deferred[SigInfo] = Deferred(stop)
        registrations = self._addHandlers(signals, received)
        self._pending.add(deferred)
        return deferred

    @contextmanager
    def stream(self, *signals: int) -> Iterator[SignalStream]:
        """
        Iterate over these signals: C{with dispatcher.stream(SIGHUP) as infos}
        and then C{async for info in infos}.  Nothing that comes between
        entering and leaving is lost; what was not read by then is logged.

        @param signals: Their numbers, at least one.
        @raise ValueError: Without a signal.
        @raise SignalNotWatchable: And the other errors of L{watch}.
        """
        stream = SignalStream()
        registrations = self._addHandlers(signals, stream.receive)
        self._streams.add(stream)
        try:
            yield stream
        finally:
            self._streams.discard(stream)
            for registration in registrations:
                registration.remove()
            if unread := stream.unread():
                self._log.info(
                    "{count} signals were left unread in a stream: {unread}",
                    count=len(unread),
                    unread=", ".join(map(str, unread)),
                )
            stream.end()

    def forget(self, registration: Registration) -> None:
        """
        For L{Registration.remove} only.
        """
        left = tuple(
            each for each in self.handlersOf(registration.signal)
            if each is not registration
        )
        self._table[registration.signal] = left

    # -- when

    def isHeld(self, signo: int) -> bool:
        """
        Whether L{hold} keeps this signal back now.
        """
        return signo in self._held

    @contextmanager
    def hold(self, *signals: int) -> Iterator[None]:
        """
        A critical section: no handler of these signals is called in it.  What
        comes meanwhile is handled after it, in order.  May be nested.

        @param signals: Their numbers; none for every signal.
        @raise SignalNotWatchable: For a number that cannot be watched.
        """
        numbers = checkWatchable(signals) or range(1, lib.TXS_NSIG)
        for signo in numbers:
            self._held[signo] = self._held.get(signo, 0) + 1
        try:
            yield
        finally:
            released = []
            for signo in numbers:
                self._held[signo] -= 1
                if not self._held[signo]:
                    del self._held[signo]
                    released.append(signo)
            self._release(released)

    def _release(self, signals: Iterable[int]) -> None:
        for signo in signals:
            for registration in self.handlersOf(signo):
                registration.advance()
        # What is still held is kept again, in its order.
        kept, self._kept = self._kept, []
        self._receive(kept)

    # -- a record's way

    def _receive(self, infos: list[SigInfo]) -> None:
        if self._dispatching:
            self._backlog.extend(infos)
            return
        self._dispatching = True
        try:
            self._dispatch(infos)
            while self._backlog:
                infos, self._backlog = self._backlog, []
                self._dispatch(infos)
        finally:
            self._dispatching = False
        if self._closing:
            self._finishIfIdle()

    def _dispatch(self, infos: list[SigInfo]) -> None:
        table, held = self._table, self._held
        for info in infos:
            signo = info.signo
            if held and signo in held:
                self._kept.append(info)
                continue
            registrations = table.get(signo)
            if not registrations:
                self._receiveUnhandled(info)
                continue
            for registration in registrations:
                if registration.ready:
                    registration.call(info)
                else:
                    registration.receive(info)

    def _receiveUnhandled(self, info: SigInfo) -> None:
        count = self._unhandled[info.signo] = self._unhandled.get(info.signo, 0) + 1
        if count == 1:
            self._log.warn(
                "{info}: {name} is watched, and nothing handles it"
                " (further ones are counted, and not logged)",
                info=info,
                name=info.name,
            )

    # -- the end

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
        deferred: Deferred[None] = Deferred()
        if self._closed:
            deferred.callback(None)
            return deferred
        if self._descriptor is not None:
            self._descriptor.checkProcess()
        self._whenClosed.append(deferred)
        run = currentRun.get()
        if run in self.runs:
            run.closes = True
        elif self.calling is not None:
            self._closedBy = self.calling, self.calling.handled
        if not self._closing:
            self._closing = True
            if self._descriptor is not None:
                self._descriptor.drain()
                self._reactor.removeReader(self._descriptor)
        self._finishIfIdle()
        return deferred

    def isClosedBy(self, registration: Registration) -> bool:
        """
        For L{Registration.follow} only.
        """
        return self._closedBy == (registration, registration.handled)

    def runEnded(self) -> None:
        """
        For L{Registration} only.
        """
        if self._closing:
            self._finishIfIdle()

    def _finishIfIdle(self) -> None:
        if self._closed or self._dispatching:
            return
        self._endWaiters()
        if self._held or not all(run.closes for run in self.runs):
            return
        if any(each.isBusy() for entry in self._table.values() for each in entry):
            return
        self._finish()

    def _endWaiters(self) -> None:
        """
        So that a handler which waits for another signal ends.
        """
        while self._pending:
            self._pending.pop().errback(DispatcherClosed("the dispatcher was closed"))
        while self._streams:
            self._streams.pop().end()

    def _finish(self) -> None:
        self._closed = True
        if _dispatchers.get(self._reactor) is self:
            del _dispatchers[self._reactor]
        result: Failure | None = None
        try:
            self._letGo()
        except OSError:
            result = Failure()
        for deferred in self._whenClosed:
            deferred.callback(result)

    def _descriptorLost(self, reason: Failure) -> None:
        self._closing = True
        if not reason.check(ConnectionLost, ConnectionDone):
            self._log.failure(
                "signals are received no more: {signals}", failure=reason, signals="all"
            )
        self._descriptor = None
        self._endWaiters()
        if not self._closed:
            self._finish()


_dispatchers: dict[Any, SignalDispatcher] = {}


def dispatcherFor(reactor: Any) -> SignalDispatcher:
    """
    The one dispatcher of a reactor, which its libraries and its application
    share.  Made at first use, and anew after it was closed.

    @param reactor: Any reactor with C{addReader}.
    """
    if reactor not in _dispatchers:
        _dispatchers[reactor] = SignalDispatcher(reactor)
    return _dispatchers[reactor]
