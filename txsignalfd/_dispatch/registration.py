# -*- test-case-name: tests.dispatch.test_registration -*-
"""
L{Registration}: one handler of one signal, and what becomes of a signal that
comes while the handler is still busy with the last.

L{Run}: a call of a handler that has returned a Deferred or an awaitable.

Most that do have nothing to wait for: the Deferred has fired, or the coroutine
has come to its end without waiting.  So that is asked first (L{hasSucceeded}),
and what Twisted needs for a callback is made for the others only.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from contextvars import ContextVar
from enum import Enum
from types import CoroutineType
from typing import Any, Final, Protocol

from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from txsignalfd._dispatch.description import HandlerDescription
from txsignalfd._native.names import signalName
from txsignalfd.siginfo import SigInfo

_log: Final = Logger("txsignalfd.dispatcher.SignalDispatcher")

#: What a handler may return to be waited for.  To ask for an C{Awaitable} is
#: dear, so what C{async def} gives is named before it.
AWAITED: Final = (Deferred, CoroutineType, Awaitable)


class Run:
    """
    A call of a handler that is not over.

    @ivar cancelled: It was cancelled for a newer signal.
    @ivar closes: It has closed the dispatcher, and closing must not wait for it.
    """

    __slots__ = ("cancelled", "closes", "deferred", "info")

    def __init__(self, info: SigInfo, closes: bool) -> None:
        self.info = info
        self.closes = closes
        self.cancelled = False
        self.deferred: Deferred[Any] | None = None


#: The run whose coroutine is being executed, for C{SignalDispatcher.close}.
currentRun: Final[ContextVar[Run | None]] = ContextVar("currentRun", default=None)


def hasSucceeded(deferred: Deferred[Any]) -> bool:
    """
    Whether a Deferred has fired, and not with a failure.
    """
    return (
        deferred.called
        and not deferred.paused
        and not isinstance(deferred.result, Failure)
    )


def toDeferred(awaitable: Deferred[Any] | Awaitable[Any]) -> Deferred[Any]:
    """
    Begin to wait for what a handler has returned.
    """
    if isinstance(awaitable, Deferred):
        return awaitable
    if isinstance(awaitable, CoroutineType):
        return Deferred.fromCoroutine(awaitable)
    if asyncio.isfuture(awaitable):
        return Deferred.fromFuture(awaitable)

    async def wait() -> Any:
        return await awaitable

    return Deferred.fromCoroutine(wait())


HandlerResult = Deferred[Any] | Awaitable[Any] | None
Handler = Callable[[SigInfo], HandlerResult]


_CANCELLED: Final = (CancelledError, asyncio.CancelledError)


class Overlap(Enum):
    """
    What becomes of a signal while the Deferred that its handler has returned
    for an earlier one has not fired.
    """

    #: It is kept, and handled after the earlier ones, in order.
    QUEUE = "queue"
    #: It is kept, in place of one that was kept before: however many come,
    #: there is one more run, with the newest.
    MERGE = "merge"
    #: It is dropped, and counted in L{Registration.dropped}.
    DROP = "drop"
    #: It is handled at once, beside the earlier ones.
    CONCURRENT = "concurrent"
    #: The Deferred is cancelled, and then the signal is handled at once.
    RESTART = "restart"


class Owner(Protocol):
    """
    What a L{Registration} needs of its dispatcher.

    @ivar calling: The registration whose handler is on the stack.
    @ivar runs: Every run of its registrations.
    """

    calling: Registration | None
    runs: set[Run]

    def isHeld(self, signo: int) -> bool:
        """
        Whether nothing of this signal may be handled now.
        """

    def isClosedBy(self, registration: Registration) -> bool:
        """
        Whether the last call of this handler has closed the dispatcher.
        """

    def runEnded(self) -> None:
        """
        One of the runs is over.
        """

    def forget(self, registration: Registration) -> None:
        """
        The registration was removed.
        """


class Registration:
    """
    A handler that L{SignalDispatcher.addHandler} has added.

    @ivar signal: The number of its signal.
    @ivar handler: What is called.
    @ivar overlap: What is done while it is busy.
    @ivar handled: How often it was called.
    @ivar dropped: How many signals were dropped (L{Overlap.DROP}).
    @ivar ready: Whether it may be called at once.
    """

    __slots__ = (
        "_advancing",
        "_hasToldOfGenerator",
        "_owner",
        "_removed",
        "_waiting",
        "dropped",
        "handled",
        "handler",
        "overlap",
        "ready",
        "runs",
        "signal",
    )

    def __init__(
        self, owner: Owner, signal: int, handler: Handler, overlap: Overlap
    ) -> None:
        self._owner = owner
        self.signal: int = signal
        self.handler: Handler = handler
        self.overlap: Overlap = overlap
        self.handled: int = 0
        self.dropped: int = 0
        self.ready: bool = True
        self.runs: set[Run] = set()
        self._waiting: deque[SigInfo] = deque()
        self._removed = False
        self._advancing = False
        self._hasToldOfGenerator = False

    def __repr__(self) -> str:
        return (
            f"<Registration of {self.handler!r} for {signalName(self.signal)},"
            f" {self.overlap.name}>"
        )

    @property
    def waiting(self) -> int:
        """
        How many signals are kept for it.
        """
        return len(self._waiting)

    def describe(self) -> HandlerDescription:
        """
        What it is, and has done.
        """
        return HandlerDescription(
            handler=repr(self.handler),
            overlap=self.overlap.name,
            handled=self.handled,
            running=len(self.runs),
            waiting=self.waiting,
            dropped=self.dropped,
        )

    def remove(self) -> None:
        """
        Call the handler no more, also not for signals that were kept for it.
        A run that is out goes on, and the signal stays watched.
        """
        if not self._removed:
            self._removed = True
            self.ready = False
            self._waiting.clear()
            self._owner.forget(self)

    def receive(self, info: SigInfo) -> None:
        """
        Take a signal while the registration is not L{ready}.
        """
        if self._removed:
            return
        if self.overlap is Overlap.DROP:
            self.dropped += 1
        elif self.overlap is Overlap.RESTART:
            self._cancelRuns()
            if not self._removed:  # by what it has cancelled
                self.call(info)
        else:
            if self.overlap is Overlap.MERGE:
                self._waiting.clear()
            self._waiting.append(info)
            self.advance()

    def call(self, info: SigInfo) -> None:
        """
        Call the handler, and log what it raises.
        """
        self.handled += 1
        owner = self._owner
        outer, owner.calling = owner.calling, self
        try:
            result = self.handler(info)
        except BaseException:
            self.logFailure(info, Failure())
            return
        finally:
            owner.calling = outer
        if result is not None:
            self.follow(info, result)

    def follow(self, info: SigInfo, result: object) -> None:
        """
        Wait for what the handler has returned.
        """
        if not isinstance(result, AWAITED):
            if isinstance(result, (Generator, AsyncGenerator)):
                self._tellOfGenerator()
            return
        if isinstance(result, Deferred) and hasSucceeded(result):
            return
        run = Run(info, self._owner.isClosedBy(self))
        self.runs.add(run)
        self._owner.runs.add(run)
        self.ready = self._mayRun()
        token = currentRun.set(run)
        run.deferred = toDeferred(result)
        currentRun.reset(token)
        if hasSucceeded(run.deferred):
            self._ended(None, run)
        else:
            run.deferred.addBoth(self._ended, run)

    def advance(self) -> None:
        """
        Handle what was kept, unless something stands in the way.
        """
        if self._advancing:
            return
        self._advancing = True
        while self._waiting and self._mayRun():
            self.call(self._waiting.popleft())
        self._advancing = False
        self.ready = self._mayRun()

    def isBusy(self) -> bool:
        """
        Whether signals are kept for it that closing must wait for.
        """
        return bool(self._waiting) and not any(run.closes for run in self.runs)

    def logFailure(self, info: SigInfo, failure: Failure) -> None:
        """
        Log a failure, with the signal.
        """
        _log.failure(
            "the handler {handler} failed on {info}",
            failure=failure,
            handler=self.handler,
            info=info,
        )

    def _tellOfGenerator(self) -> None:
        if not self._hasToldOfGenerator:
            self._hasToldOfGenerator = True
            _log.warn(
                "the handler {handler} of {name} is a generator, and nothing in it"
                " is run: decorate it with @inlineCallbacks, or make it a coroutine"
                " function that awaits and does not yield",
                handler=self.handler,
                name=signalName(self.signal),
            )

    def _mayRun(self) -> bool:
        if self._removed or self._owner.isHeld(self.signal):
            return False
        return not self.runs or self.overlap is Overlap.CONCURRENT

    def _cancelRuns(self) -> None:
        for run in list(self.runs):
            assert run.deferred is not None, "no signal comes while a call begins"
            run.cancelled = True
            try:
                run.deferred.cancel()
            except BaseException:
                self.logFailure(run.info, Failure())

    def _ended(self, result: object, run: Run) -> object:
        self.runs.discard(run)
        self._owner.runs.discard(run)
        if isinstance(result, Failure):
            if not (run.cancelled and result.check(*_CANCELLED)):
                self.logFailure(run.info, result)
            result = None
        self.advance()
        self._owner.runEnded()
        return result
