# -*- test-case-name: tests.dispatch.test_streams -*-
"""
L{SignalStream}: signals as an asynchronous iterator.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Callable
from typing import Any, Final

from twisted.internet.defer import Deferred

from txsignalfd._kernel.descriptor import RECORDS_PER_READ
from txsignalfd.siginfo import SigInfo

#: How many signals a reader gets in one turn of the reactor.  It is more than the
#: reactor reads in a turn, so that a backlog shrinks also while signals arrive.
_PER_TURN: Final = 2 * RECORDS_PER_READ


class SignalStream(AsyncIterator[SigInfo]):
    """
    The signals received since the stream was entered, in order.

    Read it by C{async for info in stream}.  The iteration ends after the last
    signal when the dispatcher is closed.  Made by C{SignalDispatcher.stream}.
    """

    def __init__(
        self, reactor: Any, limit: int, drop: Callable[[SigInfo], object]
    ) -> None:
        """
        @param reactor: Gets a turn in between when a reader reads a long backlog.
        @param limit: How many signals may be unread.
        @param drop: Called with each further signal.
        """
        self._reactor = reactor
        self._limit = limit
        self._drop = drop
        self._unread: deque[SigInfo] = deque()
        self._ended = False
        self._readInTurn = 0
        self._isTurnScheduled = False
        #: The readers that wait for a signal, and for the next turn of the reactor.
        self._waiting: deque[Deferred[None]] = deque()
        self._pausing: deque[Deferred[None]] = deque()

    def receive(self, info: SigInfo) -> None:
        """
        Append a signal, and resume a reader.
        """
        if len(self._unread) >= self._limit:
            self._drop(info)
            return
        self._unread.append(info)
        if self._waiting:
            self._waiting.popleft().callback(None)

    def end(self) -> None:
        """
        End the iteration after the signals that were received.
        """
        self._ended = True
        # A reactor that has stopped has no next turn.
        _resumeAll(self._pausing)
        _resumeAll(self._waiting)

    def unread(self) -> list[SigInfo]:
        """
        Return the signals that were received and not read.
        """
        return list(self._unread)

    def __aiter__(self) -> SignalStream:
        return self

    async def __anext__(self) -> SigInfo:
        if self._readInTurn >= _PER_TURN and getattr(self._reactor, "running", False):
            if not self._isTurnScheduled:
                self._isTurnScheduled = True
                self._reactor.callLater(0, self._nextTurn)
            await _wait(self._pausing)
        while not self._unread:
            if self._ended:
                raise StopAsyncIteration
            self._readInTurn = 0
            await _wait(self._waiting)
        self._readInTurn += 1
        return self._unread.popleft()

    def _nextTurn(self) -> None:
        self._isTurnScheduled = False
        self._readInTurn = 0
        _resumeAll(self._pausing)


def _wait(readers: deque[Deferred[None]]) -> Deferred[None]:
    readers.append(Deferred(readers.remove))
    return readers[-1]


def _resumeAll(readers: deque[Deferred[None]]) -> None:
    for _ in range(len(readers)):
        if readers:  # a reader that is resumed may cancel others
            readers.popleft().callback(None)
