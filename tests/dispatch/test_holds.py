"""
C{dispatcher.hold}: critical sections.
"""

from __future__ import annotations

import signal
from signal import SIGHUP, SIGRTMIN, SIGUSR1, SIGUSR2
from typing import Any

import pytest
from twisted.internet.defer import Deferred

from tests.support.handlers import Recorder, ignore, recording
from tests.support.inreactor import inReactor
from tests.support.observers import Logged
from tests.support.reactors import newReactor, runReactor, turn, until
from tests.support.worlds import dispatcherFor, queue, send
from txsignalfd import Overlap, SigInfo, SignalDispatcher, SignalNotWatchable
from txsignalfd.testing import MemorySignals

pytestmark = pytest.mark.usefixtures("world")


@inReactor
async def test_signalsOfAHoldAreHandledAfterItInOrder(
    dispatcher: SignalDispatcher,
) -> None:
    """
    Signals that are not held are handled meanwhile.
    """
    got, other = Recorder(), Recorder()
    dispatcher.addHandler(SIGRTMIN, got)
    dispatcher.addHandler(SIGUSR1, got)
    dispatcher.addHandler(SIGUSR2, other)
    with dispatcher.hold(SIGRTMIN, SIGUSR1):
        queue(1)
        await turn()
        send(SIGUSR1)
        await turn()
        queue(2)
        send(SIGUSR2)
        await until(lambda: other.infos)
        assert got.infos == []
    assert got.values == [1, None, 2]


@inReactor
async def test_aSignalIsHandledAfterItsOutermostHold(
    dispatcher: SignalDispatcher,
) -> None:
    got = recording(dispatcher, SIGRTMIN, SIGUSR1)
    with dispatcher.hold():
        with dispatcher.hold(SIGRTMIN):
            queue(1, 2)
            send(SIGUSR1)
            await turn()
        assert got.infos == []
    assert sorted(info.signo for info in got.infos) == [SIGUSR1, SIGRTMIN, SIGRTMIN]
    assert [value for value in got.values if value] == [1, 2]


@inReactor
async def test_anExceptionEndsAHold(dispatcher: SignalDispatcher) -> None:
    """
    The deferred signals are handled all the same.
    """
    got = recording(dispatcher, SIGHUP)
    with pytest.raises(ZeroDivisionError), dispatcher.hold(SIGHUP):
        send(SIGHUP)
        raise ZeroDivisionError
    await until(lambda: got.infos)


@inReactor
async def test_noQueuedRunStartsDuringAHold(dispatcher: SignalDispatcher) -> None:
    """
    Signals that were queued before the hold are handled after it, and before those
    of the hold.
    """
    got = recording(dispatcher, SIGRTMIN, busy=True)
    queue(1, 2)
    await until(lambda: got.infos)
    with dispatcher.hold(SIGRTMIN):
        got.busy = False
        got.out[0].callback(None)
        queue(3)
        await turn()
        assert got.values == [1]
    assert got.values == [1, 2, 3]


@inReactor
async def test_aHoldThatAHandlerEndsKeepsTheOrder(dispatcher: SignalDispatcher) -> None:
    """
    Deferred signals are handled before signals that were read after them.
    """
    got = recording(dispatcher, SIGRTMIN)
    hold = dispatcher.hold(SIGRTMIN)
    hold.__enter__()
    queue(1)
    await turn()
    dispatcher.addHandler(SIGUSR1, lambda _: ignore(hold.__exit__(None, None, None)))
    send(SIGUSR1)  # a lower number, so it is read before the next
    queue(2)
    await until(lambda: got.infos)
    assert got.values == [1, 2]


def test_holdingAnUnwatchableSignalIsAnError() -> None:
    with newReactor() as reactor:
        with pytest.raises(SignalNotWatchable):
            with dispatcherFor(reactor).hold(signal.SIGKILL):
                raise AssertionError("entered")


@inReactor
async def test_closeWaitsForAHold(dispatcher: SignalDispatcher) -> None:
    """
    The deferred signals are handled before the dispatcher is closed.
    """
    got = recording(dispatcher, SIGHUP)
    with dispatcher.hold(SIGHUP):
        send(SIGHUP)
        closed = dispatcher.close()
        await turn()
        assert not closed.called
        assert not got.infos
    assert closed.called
    assert len(got.infos) == 1


def test_closeWaitsForTheResultOfAHandlerThatEndsTheLastHold() -> None:
    """
    The handler handles a queued signal, and ends the hold before it returns.
    """
    signals, got = MemorySignals(), Recorder(busy=True)
    hold = signals.hold(SIGUSR2)

    def handler(info: SigInfo) -> Deferred[None] | None:
        if got.infos:
            hold.__exit__(None, None, None)
        return got(info)

    signals.addHandler(SIGUSR1, handler)
    signals.deliver(SigInfo.make(SIGUSR1), SigInfo.make(SIGUSR1))
    hold.__enter__()
    closed = signals.close()
    got.out[0].callback(None)
    assert len(got.infos) == 2
    assert not closed.called
    got.out[1].callback(None)
    assert closed.called


def test_deferredSignalsAreLoggedWhenTheReactorStops(logged: Logged) -> None:
    """
    They are not handled when the hold ends after that.
    """
    with newReactor() as reactor:
        dispatcher = dispatcherFor(reactor)
        got = Recorder()
        hold = dispatcher.hold(SIGHUP)

        async def main(reactor: Any) -> None:
            dispatcher.addHandler(SIGHUP, got)
            hold.__enter__()
            send(SIGHUP)
            await turn()

        runReactor(reactor, main)
        (event,) = (event for event in logged if "during hold" in event["log_format"])
        assert event["deferred"].startswith("SIGHUP from pid")
        hold.__exit__(None, None, None)
        assert not got.infos


def test_anIdleHandlerDropsNoSignalWhenAnotherHandlerEndsAHold() -> None:
    """
    It has finished during the outer hold, and the queued signal of the other handler
    is handled before the deferred one.
    """
    signals, got, other = MemorySignals(), Recorder(busy=True), Recorder(busy=True)
    inner, outer = signals.hold(SIGUSR2), signals.hold(SIGUSR1, SIGRTMIN)

    def handler(info: SigInfo) -> Deferred[None] | None:
        if other.infos:
            inner.__exit__(None, None, None)
        return other(info)

    registration = signals.addHandler(SIGRTMIN, got, Overlap.DROP)
    signals.addHandler(SIGUSR1, handler)
    signals.deliver(*map(SigInfo.make, [SIGRTMIN, SIGUSR1, SIGUSR1]))
    inner.__enter__()
    with outer:
        got.out[0].callback(None)
        other.out[0].callback(None)
        signals.deliver(SigInfo.make(SIGRTMIN))
    assert len(got.infos) == 2
    assert registration.dropped == 0
