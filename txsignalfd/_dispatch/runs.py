# -*- test-case-name: tests.dispatch.test_overlap -*-
"""
L{Run}: a call of a handler whose result is awaited.

Most handlers that return a Deferred or a coroutine need no waiting: the Deferred
has already fired, or the coroutine returns without suspending.  L{hasSucceeded}
recognizes these first, so that only the others pay for a callback.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from types import CoroutineType
from typing import Any, Final

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from txsignalfd.siginfo import SigInfo

HandlerResult = Deferred[Any] | Awaitable[Any] | None
Handler = Callable[[SigInfo], HandlerResult]

#: The results that are awaited.  C{isinstance} with an abstract class is slow,
#: so the type of C{async def} functions is tested before C{Awaitable}.
AWAITED: Final = (Deferred, CoroutineType, Awaitable)


class Run:
    """
    A call of a handler that has not finished.

    @ivar cancelled: Whether it was cancelled in favor of a newer signal.
    @ivar closes: Whether it has closed the dispatcher.  Closing must not wait
        for such a run, which may itself wait for the dispatcher to be closed.
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
    Return whether a Deferred has fired, and not with a failure.
    """
    return (
        deferred.called
        and not deferred.paused
        and not isinstance(deferred.result, Failure)
    )


def toDeferred(awaitable: Deferred[Any] | Awaitable[Any]) -> Deferred[Any]:
    """
    Return a Deferred for the result of an awaitable, and start a coroutine.
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
