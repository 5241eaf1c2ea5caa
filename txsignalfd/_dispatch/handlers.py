# -*- test-case-name: tests.dispatch.test_handlers -*-
"""
L{HandlerTable}: calls the handlers of each signal, in order.

The table and its L{Registration}s use neither a descriptor nor a reactor.  Each
signal goes to every handler of its number, in the order in which these were
added, before the next signal is dispatched.  A signal is delayed, without a
change of order, by a handler that is still busy (L{Overlap}), by a hold, and by a
handler on the stack that causes more signals to be read, as C{unwatch} does.

Handlers may change the table while they are called.  The handlers of a signal are a
tuple that is replaced, never changed: a handler that is added while a signal is
dispatched receives the next signal, and a removed handler receives none.

Most signals have one handler.  For a signal that has several, or that is held,
L{HandlerTable} has a handler of its own, so that the others need not be asked.

A batch is dispatched by an iterator.  Code that receives more signals meanwhile
moves the rest of the batch to L{HandlerTable._queue} and appends its own.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Callable, Collection, Generator, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, Final

from twisted.internet.defer import CancelledError, Deferred
from twisted.python.failure import Failure

from txsignalfd._dispatch import handlerlog
from txsignalfd._dispatch.description import HandlerDescription, WatchedSignal
from txsignalfd._dispatch.holds import Hold, Holds
from txsignalfd._dispatch.runs import (
    AWAITED,
    LIMIT,
    Handler,
    Overlap,
    Run,
    currentRun,
    hasSucceeded,
)
from txsignalfd._kernel.callables import nameOf
from txsignalfd._native.names import signalName
from txsignalfd.siginfo import SigInfo

_CANCELLED: Final = (CancelledError, asyncio.CancelledError)


class Registration:
    """
    A handler that L{SignalDispatcher.addHandler} has added.

    @ivar signal: The number of its signal.
    @ivar handler: The function that is called.
    @ivar overlap: What happens to a signal while the handler is busy.
    @ivar handled: How many times the handler was called.
    @ivar limit: How many signals may be queued for the handler, or how many calls
        may be unfinished.
    @ivar dropped: How many signals were dropped, by L{Overlap.DROP} or at a limit.
    @ivar ready: Whether the handler may be called immediately.
    @ivar runs: The calls of this handler that have not finished.  The table has
        them too, because closing waits also for those of removed handlers.
    """

    __slots__ = (
        "_advancing",
        "_hasWarnedOfDrop",
        "_hasWarnedOfGenerator",
        "_removed",
        "_table",
        "_waiting",
        "dropped",
        "handled",
        "handler",
        "limit",
        "overlap",
        "ready",
        "runs",
        "signal",
    )

    def __init__(
        self,
        table: HandlerTable,
        signal: int,
        handler: Handler,
        overlap: Overlap,
        limit: int,
    ) -> None:
        self._table = table
        self.signal: int = signal
        self.handler: Handler = handler
        self.overlap: Overlap = overlap
        self.limit: int = limit
        self.handled: int = 0
        self.dropped: int = 0
        self.ready: bool = True
        self.runs: set[Run] = set()
        self._waiting: deque[SigInfo] = deque()
        self._removed = False
        self._advancing = False
        self._hasWarnedOfDrop = False
        self._hasWarnedOfGenerator = False

    def __repr__(self) -> str:
        return (
            f"<Registration of {nameOf(self.handler)} for {signalName(self.signal)},"
            f" {self.overlap.name}>"
        )

    @property
    def waiting(self) -> int:
        """
        The number of signals that are queued for the handler.
        """
        return len(self._waiting)

    def describe(self) -> HandlerDescription:
        """
        Describe the handler and what it has done.
        """
        return HandlerDescription(
            handler=nameOf(self.handler),
            overlap=self.overlap.name,
            handled=self.handled,
            running=len(self.runs),
            waiting=self.waiting,
            dropped=self.dropped,
        )

    def remove(self) -> None:
        """
        Stop calling the handler, also for signals that are queued for it.

        A call that has not finished goes on, and the signal stays watched.
        """
        if not self._removed:
            self._removed = True
            self.ready = False
            self._waiting.clear()
            self._table.forget(self)

    def receive(self, info: SigInfo) -> None:
        """
        Receive a signal while the registration is not L{ready}.
        """
        if self._removed:
            return
        if self.overlap is Overlap.DROP and not self._mayRun():
            self.dropped += 1
            return
        if self.overlap is Overlap.RESTART:
            self._cancelRuns()
            if self._removed:  # by a canceller
                return
        elif self.overlap is Overlap.MERGE:
            self._waiting.clear()
        queued = self.overlap in (Overlap.QUEUE, Overlap.MERGE)
        if len(self._waiting if queued else self.runs) >= self.limit:
            self.drop(info)
        elif self.overlap is Overlap.RESTART:
            self.call(info)
        else:
            self._waiting.append(info)
            self.advance()

    def drop(self, info: SigInfo) -> None:
        """
        Count a signal for which there is no room, and log the first.
        """
        self.dropped += 1
        if not self._hasWarnedOfDrop:
            self._hasWarnedOfDrop = True
            handlerlog.warnOfDrop(self.handler, info)

    def call(self, info: SigInfo) -> None:
        """
        Call the handler, and log an exception.
        """
        self.handled += 1
        table = self._table
        outer, table.calling = table.calling, self
        try:
            result = self.handler(info)
        except BaseException:
            handlerlog.logFailure(self.handler, info, Failure())
            return
        finally:
            table.calling = outer
        if result is not None:
            self.follow(info, result)

    def follow(self, info: SigInfo, result: object) -> None:
        """
        Wait for the result of the handler, if it can be awaited.
        """
        try:
            if isinstance(result, Deferred):
                if hasSucceeded(result):
                    return
            elif not isinstance(result, AWAITED):
                isGenerator = isinstance(result, (Generator, AsyncGenerator))
                if isGenerator and not self._hasWarnedOfGenerator:
                    self._hasWarnedOfGenerator = True
                    handlerlog.warnOfGenerator(self.handler, self.signal)
                return
        except BaseException:  # of its attributes, such as __class__
            handlerlog.logFailure(self.handler, info, Failure())
            return
        run = Run(info, self._table.isClosedBy(self))
        self.runs.add(run)
        self._table.runs.add(run)
        self.ready = self._mayRun()
        failure = None
        try:
            if deferred := run.start(result):
                deferred.addBoth(self._finished, run)
                return
        except BaseException:
            failure = Failure()
        self._finished(failure, run)

    def advance(self) -> None:
        """
        Handle the queued signals, unless the handler is busy or held.
        """
        if self._advancing:
            return
        self._advancing = True
        try:
            while self._waiting and self._mayRun():
                self.call(self._waiting.popleft())
        finally:
            self._advancing = False
            self.ready = self._mayRun()

    def isBusy(self) -> bool:
        """
        Return whether signals are queued that closing must wait for.
        """
        return bool(self._waiting) and not any(run.closes for run in self.runs)

    def _mayRun(self) -> bool:
        if self._removed or self.signal in self._table.holds.held:
            return False
        limit = self.limit if self.overlap is Overlap.CONCURRENT else 1
        return len(self.runs) < limit

    def _cancelRuns(self) -> None:
        for run in list(self.runs):
            assert run.deferred is not None, "no signal is dispatched before it is set"
            run.cancelled = True
            try:
                run.deferred.cancel()
            except BaseException:
                handlerlog.logFailure(self.handler, run.info, Failure())

    def _finished(self, result: Any, run: Run) -> Any:
        self.runs.discard(run)
        self._table.runs.discard(run)
        # Unlike isinstance, issubclass of the type runs no code of the result.
        if issubclass(type(result), Failure):
            if not (run.cancelled and result.check(*_CANCELLED)):
                handlerlog.logFailure(self.handler, run.info, result)
            result = None
        self.advance()
        self._table.progressed()
        return result


class HandlerTable:
    """
    The handlers of each signal, and the signals that are held.

    @ivar progressed: Called whenever a run has finished, and after L{closing} also
        whenever all received signals have been dispatched.
    @ivar holds: The holds, and the signals that are deferred.
    @ivar runs: The calls of all handlers that have not finished.
    @ivar calling: The registration whose handler is on the stack.
    @ivar receiving: Whether signals are being dispatched.
    """

    def __init__(self, progressed: Callable[[], None]) -> None:
        self.progressed = progressed
        self._handlers: dict[int, tuple[Registration, ...]] = {}
        #: The receiver of each signal: its only handler, or one of the table.
        self._receivers: dict[int, Registration] = {}
        self._deferring = self._own(self._defer)
        self.holds: Holds = Holds()
        self._queue: list[SigInfo] = []
        self._batch: Iterator[SigInfo] = iter([])
        self._unhandled: dict[int, int] = {}
        self.receiving: bool = False
        self._isClosing = False
        self._closedBy: tuple[Registration, int] | None = None
        self.runs: set[Run] = set()
        self.calling: Registration | None = None

    def add(
        self, signo: int, handler: Handler, overlap: Overlap, limit: int
    ) -> Registration:
        """
        Add a handler, after the other handlers of its signal.
        """
        registration = Registration(self, signo, handler, overlap, limit)
        self._handlers[signo] = (*self.handlersOf(signo), registration)
        self._unhandled.pop(signo, None)
        self._update(signo)
        return registration

    def forget(self, registration: Registration) -> None:
        """
        Remove a handler from the table; for L{Registration.remove}.
        """
        signo = registration.signal
        self._handlers[signo] = tuple(
            each for each in self.handlersOf(signo) if each is not registration
        )
        self._update(signo)

    def _update(self, *signals: int) -> None:
        """
        Choose what receives these signals, after handlers or holds have changed.
        """
        for signo in signals:
            registrations = self.handlersOf(signo)
            if signo in self.holds.held:
                self._receivers[signo] = self._deferring
            elif len(registrations) == 1:
                (self._receivers[signo],) = registrations
            elif registrations:
                each = partial(self._receiveAll, registrations)
                self._receivers[signo] = self._own(each)
            else:
                self._receivers.pop(signo, None)

    def _own(self, receive: Callable[[SigInfo], None]) -> Registration:
        return Registration(self, 0, receive, Overlap.QUEUE, LIMIT)

    def handlersOf(self, signo: int) -> tuple[Registration, ...]:
        """
        Return the handlers of a signal, in the order of their calls.
        """
        return self._handlers.get(signo, ())

    def explain(self, signo: int) -> tuple[str, str]:
        """
        Return the names of a signal's handlers, and how to have another one called.
        """
        return handlerlog.explain([each.handler for each in self.handlersOf(signo)])

    def receive(self, infos: list[SigInfo]) -> None:
        """
        Dispatch signals to their handlers.
        """
        if self.receiving or self._queue:
            # A handler that calls this leaves the loop below nothing: the rest of
            # the batch is older than these signals.
            self._queue.extend(self._batch)
            self._queue.extend(infos)
            if self.receiving:
                return
            infos, self._queue = self._queue, []
        self.receiving = True
        outer = self.calling
        try:
            self._dispatch(infos)
            while self._queue:
                infos, self._queue = self._queue, []
                self._dispatch(infos)
        except BaseException:
            self._queue[:0] = self._batch
            raise
        finally:
            self.calling = outer
            self.receiving = False
        if self._isClosing:
            self.progressed()

    def _dispatch(self, infos: list[SigInfo]) -> None:
        # Runs once for each signal: benchmarks/README.rst has the cost of each line.
        receivers = self._receivers
        self._batch = batch = iter(infos)
        for info in batch:
            try:
                registration = receivers[info.signo]
            except KeyError:
                self._receiveUnhandled(info)
                continue
            if not registration.ready:
                registration.receive(info)
                continue
            # The body of Registration.call, without the cost of the call.
            registration.handled += 1
            self.calling = registration
            try:
                result = registration.handler(info)
                if result is None or (
                    # Most handlers that have nothing to wait for return this.
                    isinstance(result, Deferred)
                    and result.called
                    and result.result is None
                    and not result.paused
                ):
                    continue
            except BaseException:
                handlerlog.logFailure(registration.handler, info, Failure())
            else:
                registration.follow(info, result)

    def _receiveAll(self, handlers: tuple[Registration, ...], info: SigInfo) -> None:
        for registration in handlers:
            if registration.ready:
                registration.call(info)
            else:
                registration.receive(info)

    def _receiveUnhandled(self, info: SigInfo) -> None:
        count = self._unhandled[info.signo] = self._unhandled.get(info.signo, 0) + 1
        if count == 1:
            handlerlog.warnOfUnhandled(info)

    def _defer(self, info: SigInfo) -> None:
        if self.holds.defer(info):
            return
        registrations = self.handlersOf(info.signo)
        for registration in registrations:
            registration.dropped += 1
        if not registrations:
            self._receiveUnhandled(info)

    @contextmanager
    def hold(self, signals: Collection[int], limit: int) -> Iterator[None]:
        """
        Defer these signals until the end of the C{with} statement.
        """
        hold = Hold(signals, limit)
        self.holds.add(hold)
        self._update(*signals)
        try:
            yield
        finally:
            self.holds.remove(hold)
            self._update(*signals)
            # Signals that were queued for a busy handler are older than the hold.
            for signo in signals:
                for registration in self.handlersOf(signo):
                    registration.advance()
            self._queue = [*self.holds.release(), *self._batch, *self._queue]
            self.receive([])

    def describe(self, signo: int) -> WatchedSignal:
        """
        Describe a signal and its handlers.
        """
        return WatchedSignal(
            signo=signo,
            handlers=tuple(each.describe() for each in self.handlersOf(signo)),
            isHeld=signo in self.holds.held,
            deferred=self.holds.count(signo),
            unhandled=self._unhandled.get(signo, 0),
        )

    def isIdle(self) -> bool:
        """
        Return whether no handler is busy, except one that closes the dispatcher.
        """
        # A handler on the stack, which has ended a hold, may return a Deferred.
        if self.calling is not None or not all(run.closes for run in self.runs):
            return False
        return not any(
            registration.isBusy()
            for registrations in self._handlers.values()
            for registration in registrations
        )

    def closing(self) -> None:
        """
        Note which handler, if any, closes the dispatcher.

        From now on L{progressed} is also called when signals have been dispatched.
        """
        self._isClosing = True
        run = currentRun.get()
        if run in self.runs:
            run.closes = True
        elif self.calling is not None:
            self._closedBy = self.calling, self.calling.handled

    def isClosedBy(self, registration: Registration) -> bool:
        """
        Return whether the last call of this handler has closed the dispatcher.
        """
        return self._closedBy == (registration, registration.handled)
