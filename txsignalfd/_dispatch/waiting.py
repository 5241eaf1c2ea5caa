# -*- test-case-name: tests.dispatch.test_waiting -*-
"""
Waiting for signals: for the next one, or for each in a loop.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Final, cast

from twisted.internet.defer import Deferred, DeferredQueue
from twisted.logger import Logger

from txsignalfd._dispatch.registration import Handler, Registration
from txsignalfd.siginfo import SigInfo

_log: Final = Logger("txsignalfd.dispatcher.SignalDispatcher")

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


class Waiters:
    """
    Who waits on a dispatcher.
    """

    def __init__(
        self, addHandlers: Callable[[Iterable[int], Handler], list[Registration]]
    ) -> None:
        """
        @param addHandlers: Adds one handler for several signals, or for none
            of them and raises.
        """
        self._addHandlers = addHandlers
        self._pending: dict[Deferred[SigInfo], list[Registration]] = {}
        self._streams: dict[SignalStream, list[Registration]] = {}

    def whenReceived(self, signals: Iterable[int]) -> Deferred[SigInfo]:
        """
        See L{SignalDispatcher.whenReceived
        <txsignalfd.SignalDispatcher.whenReceived>}.
        """

        def stop(_: object) -> None:
            _remove(self._pending.pop(deferred, []))

        def received(info: SigInfo) -> None:
            stop(None)
            deferred.callback(info)

        deferred: Deferred[SigInfo] = Deferred(stop)
        self._pending[deferred] = self._addHandlers(signals, received)
        return deferred

    @contextmanager
    def stream(self, signals: Iterable[int]) -> Iterator[SignalStream]:
        """
        See L{SignalDispatcher.stream <txsignalfd.SignalDispatcher.stream>}.
        """
        stream = SignalStream()
        self._streams[stream] = self._addHandlers(signals, stream.receive)
        try:
            yield stream
        finally:
            _remove(self._streams.pop(stream, []))
            if unread := stream.unread():
                _log.info(
                    "{count} signals were left unread in a stream: {unread}",
                    count=len(unread),
                    unread=", ".join(map(str, unread)),
                )
            stream.end()

    def end(self, error: Exception) -> None:
        """
        Fail who waits for the next signal, and end each stream after what it
        has received.  So a handler that waits for another signal ends.
        """
        while self._pending:
            deferred, registrations = self._pending.popitem()
            _remove(registrations)
            deferred.errback(error)
        while self._streams:
            stream, registrations = self._streams.popitem()
            _remove(registrations)
            stream.end()


def _remove(registrations: list[Registration]) -> None:
    for registration in registrations:
        registration.remove()
