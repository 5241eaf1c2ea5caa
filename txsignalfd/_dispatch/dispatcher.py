# -*- test-case-name: tests.dispatch.test_dispatcher -*-
"""
L{SignalDispatcher}: the signals of the process as events of a reactor.

Theory
======

The kernel's queue is the only queue: records are read in the reactor's turn, and
dispatched immediately by a L{HandlerTable}.

Before a signal is released, the handlers receive what the kernel has pending, and
only then are dispositions and masks restored.  So no signal that was sent while it
was watched causes its default action.  A reactor that stops removes its readers,
which also releases everything.

L{HandlerGroup} adds several handlers and removes them together.  L{whenReceived
<SignalDispatcher.whenReceived>} and streams use it, and so do services.

Rejected: a shutdown trigger to release signals (it would run before the triggers of
services, which may still use signals while they stop).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from enum import Enum
from typing import Any, Final
from weakref import WeakKeyDictionary

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
from txsignalfd._dispatch.description import Description, describe, someOf
from txsignalfd._dispatch.handlers import HandlerTable, Registration
from txsignalfd._dispatch.runs import LIMIT, Handler, Overlap, checkLimit
from txsignalfd._dispatch.streams import SignalStream
from txsignalfd._kernel.callables import checkCallable
from txsignalfd._kernel.mask import checkWatchable
from txsignalfd._native.extension import lib
from txsignalfd.siginfo import SigInfo

_log: Final = Logger("txsignalfd.dispatcher.SignalDispatcher")


class DispatcherClosed(RuntimeError):
    """
    The dispatcher was closed, or its reactor has stopped.
    """


class _State(Enum):
    """
    The life of a dispatcher: it passes through these states in this order.
    """

    OPEN = "open"
    #: The pending signals are read for the last time.
    DRAINING = "draining"
    #: All signals have been read, and handlers and holds are still active.
    FINISHING = "finishing"
    #: Everything has been released.
    CLOSED = "closed"


class SignalDispatcher:
    """
    Dispatches the signals of the process to handlers, in the turns of a reactor.

    Applications and libraries share the dispatcher that L{dispatcherFor} returns.
    Call its methods in the thread in which C{reactor} runs, or will run.  That may
    be any thread of the process.
    """

    def __init__(self, reactor: Any, backend: str | None = None) -> None:
        """
        Acquire nothing until the first signal is watched.

        @param reactor: Any reactor with C{addReader}.
        @param backend: C{"signalfd"} or C{"handler"}; by default the value of the
            environment variable C{TXSIGNALFD_BACKEND}, or the best backend of this
            system.
        @raise ValueError: For an unknown backend.
        """
        self.reactor: Any = reactor
        self._state = _State.OPEN
        self._table = HandlerTable(self._finishIfIdle)
        self._backend = self._makeBackend(backend)
        #: The groups that wait for signals, and what ends the wait.
        self._waits: dict[HandlerGroup, Callable[[], object]] = {}
        self._forgetShutdown: Callable[[], None] | None = None
        self._whenClosed: list[Deferred[None]] = []

    def _makeBackend(self, name: str | None) -> Backend:
        name = checkBackend(name)
        return ReactorBackend(
            name, self.reactor, self._table.receive, self._lost, self._table.explain
        )

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
        Acquire more signals in the whole process, all or none.

        @param signals: Their numbers.
        @raise SignalNotWatchable: For a signal that cannot be watched.
        @raise SignalAlreadyWatched: For a signal that another dispatcher watches.
        @raise SignalfdUnavailable: When the backend C{"signalfd"} was requested and
            the system has no signalfd(2).
        @raise OSError: When a system call fails.
        @raise DispatcherClosed: After L{close}.
        @raise WatchedByParent: In a forked child.
        """
        self._check()
        self._backend.watch(signals)

    def unwatch(self, *signals: int) -> None:
        """
        Release signals, after their handlers have received the pending ones.

        A handler that calls this receives the pending signals after it returns.
        The handlers stay, and are called again when the signals are watched again.

        @param signals: Their numbers.  Signals that are not watched are ignored.
        @raise SignalNotWatchable: And the other errors of L{watch}.
        """
        self._check()
        self._backend.unwatch(checkWatchable(signals))

    def handlersOf(self, signal: int) -> tuple[Registration, ...]:
        """
        Return the registrations for a signal, in the order of their calls.

        @param signal: Its number.
        """
        return self._table.handlersOf(signal)

    def describe(self) -> Description:
        """
        Describe the watched signals, their handlers, and the whole process.

        C{print} shows the description as text.
        """
        watched = tuple(map(self._table.describe, sorted(self.watching)))
        return describe(watched, self._backend.describe())

    def _setInternal(self, internal: bool) -> None:
        """
        Choose whether the reactor counts the descriptors as its own.
        """
        self._backend.setInternal(internal)

    def _check(self) -> None:
        if self._state is not _State.OPEN:
            raise DispatcherClosed(
                "the dispatcher was closed, or its reactor has stopped"
            )
        self._backend.checkProcess()

    def addHandler(
        self,
        signal: int,
        handler: Handler,
        overlap: Overlap = Overlap.QUEUE,
        limit: int = LIMIT,
    ) -> Registration:
        """
        Call a handler for each signal that is received from now on.

        This watches the signal, which stays watched when its last handler is
        removed.

        @param signal: Its number.
        @param handler: Called in the reactor's thread with the L{SigInfo}.  Its
            exceptions, and failures of its Deferred, are logged.  It may close the
            dispatcher.  A handler that also waits for the result of L{close} must
            be a coroutine function, or call L{close} before it returns.
        @param overlap: What happens to a signal that is received while the
            Deferred or awaitable that the handler has returned has no result.
        @param limit: How many signals may be queued for the handler, or how many of
            its calls may be unfinished.  Further signals are dropped and counted in
            L{Registration.dropped}, and the first of them is logged.
        @return: The registration, which removes the handler.
        @raise TypeError: For a handler that cannot be called.
        @raise ValueError: For an unknown overlap, or a limit below 1.
        @raise SignalNotWatchable: And the other errors of L{watch}.
        """
        checkCallable(handler, "handler")
        how, most = Overlap(overlap), checkLimit(limit)
        self.watch(signal)
        return self._table.add(signal, handler, how, most)

    def whenReceived(self, *signals: int) -> Deferred[SigInfo]:
        """
        Wait for the next of these signals.

        @param signals: Their numbers, at least one.
        @return: A Deferred that fires with the first signal that is received, or
            fails with L{DispatcherClosed}.  It can be cancelled; the signals stay
            watched.
        @raise ValueError: Without a signal.
        @raise SignalNotWatchable: And the other errors of L{watch}.
        """

        def received(info: SigInfo) -> None:
            self._endWait(group)
            deferred.callback(info)

        def closed() -> None:
            deferred.errback(DispatcherClosed("the dispatcher was closed"))

        deferred: Deferred[SigInfo] = Deferred(lambda _: self._endWait(group))
        group = self._wait(signals, received, closed)
        return deferred

    @contextmanager
    def stream(self, *signals: int, limit: int = LIMIT) -> Iterator[SignalStream]:
        """
        Iterate over signals: C{with dispatcher.stream(SIGHUP) as infos} and then
        C{async for info in infos}.

        The stream contains every signal that is received between entering and
        leaving the C{with} statement.  Signals that are unread at the end are
        logged.  A reader gets a long backlog in several turns of the reactor.

        @param signals: Their numbers, at least one.
        @param limit: How many signals may be unread.  Further signals are dropped,
            counted and logged as those of a handler: see L{addHandler}.
        @raise ValueError: Without a signal, or for a limit below 1, when it is
            entered.
        @raise SignalNotWatchable: And the other errors of L{watch}.
        """

        def drop(info: SigInfo) -> None:
            for registration in group.registrations:
                if registration.signal == info.signo:
                    registration.drop(info)

        stream = SignalStream(self.reactor, checkLimit(limit), drop)
        group = self._wait(signals, stream.receive, stream.end)
        try:
            yield stream
        finally:
            self._endWait(group)
            if unread := stream.unread():
                _log.info(
                    "{count} signals were left unread in a stream: {unread}",
                    count=len(unread),
                    unread=someOf(unread),
                )
            stream.end()

    def _wait(
        self, signals: Iterable[int], handler: Handler, closed: Callable[[], object]
    ) -> HandlerGroup:
        numbers = checkWatchable(signals)
        if not numbers:
            raise ValueError("name at least one signal")
        group = HandlerGroup(self, [(signo, handler) for signo in numbers], False)
        self._waits[group] = closed
        return group

    def _endWait(self, group: HandlerGroup) -> None:
        self._waits.pop(group, None)
        group.remove()

    def _endWaits(self) -> None:
        while self._waits:
            group, closed = self._waits.popitem()
            group.remove()
            try:
                closed()
            except BaseException:  # as when the caller has fired the Deferred
                _log.failure("a wait for signals cannot be ended")

    def hold(self, *signals: int, limit: int = LIMIT) -> AbstractContextManager[None]:
        """
        Defer signals during a critical section.

        The signals that are received in the C{with} statement are handled at its
        end, in order.  Holds may be nested.  L{close} waits for their end.

        @param signals: Their numbers; none for every signal.
        @param limit: How many signals may be deferred.  Further signals are dropped
            and counted in L{Registration.dropped} of their handlers, and the first
            of them is logged.
        @raise ValueError: For a limit below 1.
        @raise SignalNotWatchable: And the other errors of L{watch}.
        """
        self._check()
        held = checkWatchable(signals) or range(1, lib.TXS_NSIG)
        return self._table.hold(held, checkLimit(limit))

    def _pause(self) -> bool:
        """
        Leave signals pending until L{_resume}: execve(2) follows.

        @return: Whether no signal is still being handled.
        """
        table = self._table
        return table.isIdle() and not (table.holds.held or self._backend.pause())

    def _resume(self) -> None:
        """
        Undo L{_pause}, whatever it has returned.
        """
        self._backend.resume()

    def close(self) -> Deferred[None]:
        """
        Release everything: mask, dispositions and descriptor.

        The handlers receive the signals that are pending now, and closing waits
        for their results and for the end of each L{hold}.  Signals that are sent
        after this call have the effect that they had before they were watched.
        Streams end, and L{whenReceived} fails.

        @return: A Deferred that fires when everything is released.  A further call
            returns another, for the same closing.
        @raise WatchedByParent: In a forked child.
        """
        if self._state is _State.CLOSED:
            return self.whenClosed()
        self._backend.checkProcess()
        deferred = self.whenClosed()
        self._table.closing()
        if self._state is _State.OPEN:
            self._state = _State.DRAINING
            # When the reactor has stopped, no Deferred that needs it can fire.
            self._forgetShutdown = atShutdown(self.reactor, "after", self._finish)
            try:
                self._backend.stop()  # in several reads: handlers run in between
            finally:
                self._state = _State.FINISHING
            if self._table.holds.held:
                _log.info("closing waits for the end of hold()")
        self._finishIfIdle()
        return deferred

    def whenClosed(self) -> Deferred[None]:
        """
        Wait until the dispatcher is closed, without closing it.
        """
        if self._state is _State.CLOSED:
            return succeed(None)
        self._whenClosed.append(Deferred(self._whenClosed.remove))
        return self._whenClosed[-1]

    def _finishIfIdle(self) -> None:
        if self._state is not _State.FINISHING or self._table.receiving:
            return
        if self._table.holds.held:  # streams receive what is deferred
            return
        self._endWaits()
        # The end of a wait may finish the last handler, or a hold, and so the closing.
        if self._table.isIdle():
            self._finish()

    def _finish(self) -> None:
        if self._state is _State.CLOSED:
            return
        self._state = _State.CLOSED
        self._table.holds.discard()
        if self._forgetShutdown is not None:
            self._forgetShutdown()
        if dispatchers.get(self.reactor) is self:
            del dispatchers[self.reactor]
        result: Failure | None = None
        try:
            self._backend.close()
        except BaseException:
            result = Failure()
        while self._whenClosed:
            deferred = self._whenClosed.pop(0)
            if not deferred.called:  # by the caller
                deferred.callback(result)

    def _lost(self, reason: Failure) -> None:
        # The reactor has stopped, or the descriptor has failed: all is released.
        if self._state is _State.OPEN:
            self._state = _State.DRAINING
        if not reason.check(ConnectionLost):
            _log.failure("no more signals are received", failure=reason)
        self._endWaits()
        self._finish()


#: The dispatchers of reactors, for L{dispatcherFor}.
dispatchers: dict[Any, SignalDispatcher] = {}


def dispatcherFor(reactor: Any) -> SignalDispatcher:
    """
    Return the dispatcher that all users of a reactor share.

    It is made at the first call, and again at the first call after it was closed.

    @param reactor: Any reactor with C{addReader}.
    """
    if reactor not in dispatchers:
        dispatchers[reactor] = SignalDispatcher(reactor)
    return dispatchers[reactor]


#: The signals that groups have begun to watch, by dispatcher.  The last group that
#: handles such a signal releases it.
_borrowed: Final[WeakKeyDictionary[SignalDispatcher, set[int]]] = WeakKeyDictionary()


class HandlerGroup:
    """
    Handlers of several signals that are added and removed together.

    Use it in the reactor's thread.

    @ivar registrations: Its handlers.
    """

    def __init__(
        self,
        dispatcher: SignalDispatcher,
        handlers: Iterable[tuple[int, Handler]],
        borrow: bool = True,
    ) -> None:
        """
        Watch the signals and add the handlers, in their order.

        @param dispatcher: The dispatcher of the handlers.
        @param handlers: Pairs of a signal's number and a handler.
        @param borrow: Whether L{restore} may release the signals.
        @raise SignalAlreadyWatched: And the other errors of
            L{SignalDispatcher.watch}.  Then nothing is watched.
        """
        wanted = list(handlers)
        signals = {signo for signo, _ in wanted}
        self._dispatcher = dispatcher
        before = dispatcher.watching
        dispatcher.watch(*signals)
        if borrow:
            borrowed = _borrowed.setdefault(dispatcher, set())
            # A signal may have been unwatched since an earlier group borrowed it.
            borrowed.intersection_update(before)
            borrowed.update(signals - before)
        self.registrations: list[Registration] = [
            dispatcher.addHandler(signo, handler) for signo, handler in wanted
        ]

    def remove(self) -> None:
        """
        Remove the handlers.  Their signals stay watched.
        """
        for registration in self.registrations:
            registration.remove()

    def restore(self) -> None:
        """
        Remove the handlers when they have received what is pending, and release
        the signals that have no other handler and that a group began to watch.
        """
        with suppress(DispatcherClosed):  # which has released everything
            # First receive what is pending: a handler may add handlers.
            self._dispatcher.unwatch()
            idle = self._idle()
            borrowed = _borrowed[self._dispatcher]
            self._dispatcher.unwatch(*(idle & borrowed))
            borrowed -= idle
        self.remove()

    def _idle(self) -> set[int]:
        """
        Return the signals that have no handlers but those of this group.
        """
        own = set(self.registrations)
        return {
            registration.signal
            for registration in own
            if own.issuperset(self._dispatcher.handlersOf(registration.signal))
        }
