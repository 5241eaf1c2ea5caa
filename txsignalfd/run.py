# -*- test-case-name: tests.test_registration -*-
"""
L{Run}: a call of a handler that has returned a Deferred or an awaitable.

Most that do have nothing to wait for: the Deferred has fired, or the coroutine
has come to its end without waiting.  So that is asked first (L{hasSucceeded}),
and what Twisted needs for a callback is made for the others only.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from contextvars import ContextVar
from types import CoroutineType
from typing import Any, Final

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from txsignalfd.siginfo import SigInfo

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
