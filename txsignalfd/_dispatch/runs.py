# -*- test-case-name: tests.dispatch.test_runs -*-
"""
L{Run}: a call of a handler whose result is awaited.

Most handlers that return a Deferred or a coroutine need no waiting: the Deferred
has already fired, or the coroutine returns without suspending.  L{hasSucceeded} and
L{Run.start} recognize these, so that only the others pay for a callback.

The value that a handler returns in the end has no meaning, and it may be an object
with which no Deferred can fire, such as another Deferred.  So it is discarded.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Generator
from contextvars import ContextVar, copy_context
from enum import Enum
from functools import partial
from operator import index
from types import CoroutineType
from typing import Any, Final

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from txsignalfd.siginfo import SigInfo

HandlerResult = Deferred[Any] | Awaitable[Any] | None
Handler = Callable[[SigInfo], HandlerResult]

#: How many signals may wait for a handler, a hold or the reader of a stream, and how
#: many calls of a handler may be unfinished.  100,000 signals take 20 MB of memory.
LIMIT: Final = 100_000

#: The results that are awaited.  C{isinstance} with an abstract class is slow,
#: so the type of C{async def} functions is tested before C{Awaitable}.
AWAITED: Final = (Deferred, CoroutineType, Awaitable)


class Overlap(Enum):
    """
    The treatment of a signal while its handler is busy with an earlier one.

    A handler is busy while a Deferred or awaitable that it has returned has no
    result.
    """

    #: The signal is queued, and handled after the earlier ones, in order.
    QUEUE = "queue"
    #: The signal replaces one that is already queued.  However many signals are
    #: received, the handler is called once more, with the newest.
    MERGE = "merge"
    #: The signal is dropped, and counted in C{Registration.dropped}.
    DROP = "drop"
    #: The handler is called immediately, concurrently with the earlier calls.
    CONCURRENT = "concurrent"
    #: The Deferred is cancelled, and then the handler is called immediately.
    RESTART = "restart"


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

    def start(self, result: Deferred[Any] | Awaitable[Any]) -> Deferred[Any] | None:
        """
        Start to wait for the result of the handler.

        @return: A Deferred that fires when the handler has finished, or C{None} if
            it has finished already.
        """
        if isinstance(result, Deferred):
            self.deferred = result
            return result
        coroutine = result if isinstance(result, CoroutineType) else _wait(result)
        context = copy_context()
        context.run(currentRun.set, self)
        try:
            yielded = context.run(coroutine.send, None)
        except StopIteration:
            return None
        rest = _resume(coroutine, yielded)
        self.deferred = context.run(Deferred.fromCoroutine, rest)
        return self.deferred


def checkLimit(limit: int) -> int:
    """
    Return a limit as a number.

    @raise TypeError: When it is not an integer.
    @raise ValueError: When it is less than 1.
    """
    number = index(limit)
    if number < 1:
        raise ValueError(f"limit: expected 1 or more, got {number}")
    return number


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


async def _wait(awaitable: Awaitable[Any]) -> None:
    if not asyncio.isfuture(awaitable):
        await awaitable
        return

    def cancel(_: object) -> None:
        awaitable.cancel()

    done: Deferred[None] = Deferred(cancel)
    awaitable.add_done_callback(lambda _: done.callback(None))
    await done
    awaitable.result()


def _resume(
    coroutine: Coroutine[Any, Any, Any], yielded: Any
) -> Generator[Any, Any, None]:
    """
    Go on with a coroutine that has yielded once, and discard what it returns.
    """
    while True:
        try:
            sent = yield yielded
        except GeneratorExit:  # of the garbage collector
            coroutine.close()
            raise
        except BaseException as error:
            proceed = partial(coroutine.throw, error)
        else:
            proceed = partial(coroutine.send, sent)
        try:
            yielded = proceed()
        except StopIteration:
            return


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
