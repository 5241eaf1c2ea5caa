# -*- test-case-name: tests.dispatch.test_streams -*-
"""
L{SignalStream}: signals as an asynchronous iterator.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Final, cast

from twisted.internet.defer import DeferredQueue

from txsignalfd.siginfo import SigInfo

#: The item behind the last signal in the queue of a stream that has ended.
_END: Final = object()


class SignalStream(AsyncIterator[SigInfo]):
    """
    The signals received since the stream was entered, in order.

    Read it by C{async for info in stream}.  The iteration ends after the last
    signal when the dispatcher is closed.  Made by C{SignalDispatcher.stream}.
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
        End the iteration after the signals that were received.
        """
        self._queue.put(_END)

    def unread(self) -> list[SigInfo]:
        """
        Return the signals that were received and not read.
        """
        return [cast(SigInfo, info) for info in self._queue.pending if info is not _END]

    def __aiter__(self) -> SignalStream:
        return self

    async def __anext__(self) -> SigInfo:
        info = await self._queue.get()
        if info is _END:
            self.end()  # for other readers of the same stream
            raise StopAsyncIteration
        return cast(SigInfo, info)
