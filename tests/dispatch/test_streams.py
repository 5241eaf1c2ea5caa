"""
C{dispatcher.whenReceived} and C{dispatcher.stream}: code that waits for signals.
"""

from __future__ import annotations

from itertools import pairwise
from signal import SIGRTMIN, SIGUSR1, SIGUSR2
from typing import Any

import pytest
from twisted.internet.defer import CancelledError, Deferred

from tests.support.handlers import recording
from tests.support.inreactor import inReactor
from tests.support.observers import Logged
from tests.support.reactors import newReactor, spin, turn, until
from tests.support.worlds import dispatcherFor, queue, send
from txsignalfd import DispatcherClosed, SigInfo, SignalDispatcher, SignalStream
from txsignalfd.testing import MemorySignals

pytestmark = pytest.mark.usefixtures("world")


async def collect(stream: SignalStream) -> list[SigInfo]:
    """
    Read a stream to its end.
    """
    return [info async for info in stream]


@inReactor
async def test_whenReceivedFiresWithTheFirstSignal(
    dispatcher: SignalDispatcher,
) -> None:
    """
    It fires once, for any of several signals, which stay watched.
    """
    waiting = dispatcher.whenReceived(SIGUSR1, SIGUSR2)
    send(SIGUSR2)
    assert (await waiting).signal is SIGUSR2
    assert not dispatcher.handlersOf(SIGUSR1)
    assert not dispatcher.handlersOf(SIGUSR2)
    assert dispatcher.watching == {SIGUSR1, SIGUSR2}


@inReactor
async def test_aCancelledWhenReceivedLeavesTheSignalToOthers(
    dispatcher: SignalDispatcher,
) -> None:
    cancelled = dispatcher.whenReceived(SIGUSR1)
    waiting = dispatcher.whenReceived(SIGUSR1)
    cancelled.cancel()
    with pytest.raises(CancelledError):
        await cancelled
    send(SIGUSR1)
    assert (await waiting).signal is SIGUSR1


def test_whenReceivedAndStreamNeedASignal() -> None:
    with newReactor() as reactor:
        dispatcher = dispatcherFor(reactor)
        with pytest.raises(ValueError, match="at least one"):
            dispatcher.whenReceived()
        with pytest.raises(ValueError, match="at least one"), dispatcher.stream():
            raise AssertionError("entered")
        assert not dispatcher.watching


@inReactor
async def test_closeFailsWhenReceived(dispatcher: SignalDispatcher) -> None:
    """
    A handler that waits for another signal finishes by that.
    """
    failed = []

    async def handler(info: SigInfo) -> None:
        try:
            await dispatcher.whenReceived(SIGUSR2)
        except DispatcherClosed:
            failed.append(info.signo)

    registration = dispatcher.addHandler(SIGUSR1, handler)
    send(SIGUSR1)
    await until(lambda: registration.runs)
    waiting = dispatcher.whenReceived(SIGUSR1)
    await dispatcher.close()
    assert failed == [SIGUSR1]
    with pytest.raises(DispatcherClosed):
        await waiting


@inReactor
async def test_whenReceivedFiresWithASignalThatIsPendingAtClose(
    dispatcher: SignalDispatcher,
) -> None:
    waiting = dispatcher.whenReceived(SIGUSR1)
    send(SIGUSR1)
    await dispatcher.close()
    assert (await waiting).signal is SIGUSR1


@inReactor
async def test_aStreamLosesNothingBetweenEnteringAndLeaving(
    dispatcher: SignalDispatcher,
) -> None:
    """
    Neither before the iteration starts, nor between its steps.
    """
    values = []
    with dispatcher.stream(SIGRTMIN, SIGUSR1) as infos:
        queue(*range(100))
        await turn()
        async for info in infos:
            values.append(info.value)
            if info.value == 50:
                queue(*range(100, 200))
                await turn()
            if info.value == 199:
                break
    assert values == list(range(200))
    assert dispatcher.watching == {SIGRTMIN, SIGUSR1}


@inReactor
async def test_everyStreamAndHandlerGetsEachSignal(
    reactor: Any, dispatcher: SignalDispatcher
) -> None:
    got = recording(dispatcher, SIGUSR1)
    with dispatcher.stream(SIGUSR1) as one, dispatcher.stream(SIGUSR1) as two:
        reactor.callLater(0, send, SIGUSR1)
        assert (await one.__anext__()) is (await two.__anext__())
    assert len(got.infos) == 1


@inReactor
async def test_unreadSignalsOfAStreamAreLogged(
    dispatcher: SignalDispatcher, logged: Logged
) -> None:
    with dispatcher.stream(SIGRTMIN) as infos:
        queue(1, 2, 3)
        await turn()
        assert (await infos.__anext__()).value == 1
    (event,) = (event for event in logged if "unread" in event["log_format"])
    assert event["count"] == 2
    assert event["unread"].count("by sigqueue, value") == 2


@inReactor
async def test_aStreamEndsWhenTheDispatcherIsClosed(
    dispatcher: SignalDispatcher,
) -> None:
    """
    It ends after the last signal, for each of its readers.
    """
    with dispatcher.stream(SIGRTMIN) as infos, dispatcher.stream(SIGRTMIN) as later:
        waiting = Deferred.fromCoroutine(collect(infos))
        queue(1, 2)
        await dispatcher.close()
        assert [info.value for info in await waiting] == [1, 2]
        assert [info.value for info in await collect(later)] == [1, 2]
        assert await collect(later) == []


@inReactor
async def test_leavingAStreamEndsIt(dispatcher: SignalDispatcher) -> None:
    """
    Code that still iterates over it finishes.
    """
    with dispatcher.stream(SIGUSR1) as infos:
        waiting = Deferred.fromCoroutine(collect(infos))
        send(SIGUSR1)
        await until(lambda: not infos.unread())
    assert await waiting is not None


@inReactor
async def test_streamsReceiveWhatIsDeferredAtClose(
    dispatcher: SignalDispatcher, logged: Logged
) -> None:
    """
    Closing waits for the end of the hold, and says so.
    """
    waiting = dispatcher.whenReceived(SIGRTMIN)
    with dispatcher.stream(SIGRTMIN) as infos:
        reading = Deferred.fromCoroutine(collect(infos))
        with dispatcher.hold(SIGRTMIN):
            queue(1)
            await turn()
            closed = dispatcher.close()
            assert not waiting.called
        await closed
        assert (await waiting).value == 1
        assert [info.value for info in await reading] == [1]
    assert logged.contains("closing waits")
    assert not logged.failures


#: Signals of a backlog.
BACKLOG = 5000


@inReactor
async def test_theReactorHasItsTurnsWhileABacklogIsRead(reactor: Any) -> None:
    """
    No reader keeps it from other events for long.
    """
    signals = MemorySignals(reactor)
    turns: list[int] = []
    read: list[SigInfo] = []

    def count() -> None:
        turns.append(len(read))
        reactor.callLater(0, count)

    with signals.stream(SIGRTMIN) as infos:
        signals.deliver(*[SigInfo.make(SIGRTMIN)] * BACKLOG)
        count()
        async for info in infos:
            read.append(info)
            if len(read) == BACKLOG:
                break
    reactor.getDelayedCalls()[0].cancel()
    steps = [after - before for before, after in pairwise(turns)]
    assert max(steps) <= 256
    await signals.close()


def test_aBacklogIsReadAtOnceWithoutARunningReactor() -> None:
    """
    A unit test of a reader needs to advance no clock.
    """
    signals = MemorySignals()
    with signals.stream(SIGRTMIN) as infos:
        signals.deliver(*[SigInfo.make(SIGRTMIN)] * BACKLOG)
        reading = Deferred.fromCoroutine(collect(infos))
        assert not infos.unread()
    assert reading.called


def test_aReaderFinishesWhenTheReactorStops() -> None:
    """
    It may be waiting for the next turn, which never comes.
    """
    lengths: list[int] = []

    async def read(infos: SignalStream) -> None:
        lengths.append(len(await collect(infos)))

    async def main(reactor: Any) -> None:
        signals = MemorySignals(reactor)
        stream = signals.stream(SIGRTMIN)
        streams.append(stream)
        infos = stream.__enter__()
        signals.deliver(*[SigInfo.make(SIGRTMIN)] * BACKLOG)
        reading.append(Deferred.fromCoroutine(read(infos)))
        assert infos.unread()

    streams: list[object] = []
    reading: list[Deferred[None]] = []
    spin(main)
    assert reading[0].called
    assert lengths == [BACKLOG]


@inReactor
async def test_aPausedReaderMayBeCancelled(reactor: Any) -> None:
    """
    The other readers of the stream get the signals.
    """
    signals = MemorySignals(reactor)
    with signals.stream(SIGRTMIN) as infos:
        signals.deliver(*[SigInfo.make(SIGRTMIN)] * BACKLOG)
        first, second, third = (
            Deferred.fromCoroutine(collect(infos)) for _ in range(3)
        )
        third.addErrback(lambda failure: failure.trap(CancelledError))
        third.cancel()
        first.addBoth(lambda _: None)
        reactor.callLater(0, first.cancel)
        await until(lambda: not infos.unread())
    assert len(await second) > BACKLOG // 2
    await signals.close()


def test_manyUnreadSignalsAreAShortLogLine(logged: Logged) -> None:
    signals = MemorySignals()
    with signals.stream(SIGRTMIN):
        signals.deliver(*[SigInfo.make(SIGRTMIN)] * BACKLOG)
    (event,) = (event for event in logged if "unread" in event["log_format"])
    assert event["count"] == BACKLOG
    assert event["unread"].endswith("and 4990 more")


def test_aReaderMayCancelAnother() -> None:
    """
    Both wait for a signal when the stream ends.
    """
    signals = MemorySignals()

    async def first() -> None:
        await collect(infos)
        second.cancel()

    with signals.stream(SIGRTMIN) as infos:
        reading = Deferred.fromCoroutine(first())
        second = Deferred.fromCoroutine(collect(infos))
        second.addErrback(lambda failure: failure.trap(CancelledError))
    assert reading.called
    assert second.called
