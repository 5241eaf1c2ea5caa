# -*- test-case-name: tests.test_stream -*-
"""
L{SignalStream}: signals as an asynchronous iterator.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Final, cast

from twisted.internet.defer import Deferred, DeferredQueue

from txsignalfd.siginfo import SigInfo

#: What ends the iteration, in the queue behind the last signal.
_END: Final = object()


class SignalStream(AsyncIterator[SigInfo]):
    """
    The signals that have come since the stream was entered, in order:
    C{async for info in stream}.  It ends when the dispatcher is closed, after
    the last signal.  Made by C{SignalDispatcher.stream}.
    """

    def __init__(self) -> None:
        self._queue: DeferredQueue[object] = DeferredQueue()

    def receive(self, info: SigInfo) -> None:
        """
        Append a signal.
        """
        self._queue.put(info)

    def end(self) -> None:
        """
        Let the iteration end after what has been received.
        """
        self._queue.put(_END)

    def unread(self) -> list[SigInfo]:
        """
        What was received, and not iterated over.
        """
        return [cast(SigInfo, info) for info in self._queue.pending if info is not _END]

    def __aiter__(self) -> SignalStream:
        return self

    async def __anext__(self) -> SigInfo:
        info = await self._queue.get()
        if info is _END:
            self.end()  # for whoever else asks
            raise StopAsyncIteration
        return cast(SigInfo, info)
