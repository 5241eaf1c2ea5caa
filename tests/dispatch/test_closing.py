"""
How a dispatcher ends: C{close}, the stop of its reactor, a dead descriptor.
"""

from __future__ import annotations

import asyncio
import errno
import os
import signal
from collections.abc import Callable, Iterable
from signal import SIGHUP, SIGRTMIN, SIGUSR1, SIGUSR2
from typing import Any
from unittest.mock import Mock

import pytest
from twisted.internet.defer import AlreadyCalledError, Deferred
from twisted.python.failure import Failure

from tests.support.handlers import Recorder, ignore, recording
from tests.support.inreactor import inReactor
from tests.support.observers import Logged
from tests.support.reactors import newReactor, runReactor, spin, turn, until
from tests.support.worlds import dispatcherFor, kernelOnly, queue, send
from txsignalfd import DispatcherClosed, SigInfo, SignalDispatcher
from txsignalfd.testing import MemorySignals

pytestmark = pytest.mark.usefixtures("world")


@kernelOnly
@inReactor
async def test_closeHandlesPendingSignalsAndWaitsForHandlers(
    dispatcher: SignalDispatcher,
) -> None:
    """
    Signals that are sent after close have their previous action.
    """
    python: list[int] = []
    saved = signal.signal(SIGUSR1, lambda signo, frame: python.append(signo))
    got = recording(dispatcher, SIGRTMIN, busy=True)
    dispatcher.addHandler(SIGUSR1, Recorder())
    queue(1, 2)
    closed = dispatcher.close()
    again = dispatcher.close()
    assert got.values == [1]
    got.out[0].callback(None)
    assert got.values == [1, 2]
    send(SIGUSR1)
    await turn()
    assert not closed.called
    assert not python
    got.out[1].callback(None)
    assert closed.called
    assert again.called
    assert python == [SIGUSR1]
    assert dispatcher.watching == frozenset()
    signal.signal(SIGUSR1, saved)


@inReactor
async def test_closeHandlesMoreThanOneReadReturns(dispatcher: SignalDispatcher) -> None:
    """
    The last pending signal, too, does not cause its default action.
    """
    got = recording(dispatcher, SIGRTMIN)
    queue(*range(200))
    await dispatcher.close()
    assert got.values == list(range(200))


def test_aClosedDispatcherRefusesEveryCall() -> None:
    with newReactor() as reactor:
        dispatcher = dispatcherFor(reactor)
        registration = dispatcher.addHandler(SIGHUP, Recorder())
        dispatcher.close()
        for call in (
            lambda: dispatcher.watch(SIGHUP),
            lambda: dispatcher.unwatch(SIGHUP),
            lambda: dispatcher.addHandler(SIGHUP, Recorder()),
            lambda: dispatcher.whenReceived(SIGHUP),
            lambda: dispatcher.hold(SIGHUP),
        ):
            with pytest.raises(DispatcherClosed, match="the dispatcher was closed, or"):
                call()
        with pytest.raises(DispatcherClosed), dispatcher.stream(SIGHUP):
            raise AssertionError("entered")
        registration.remove()


async def closeAndWait(dispatcher: SignalDispatcher) -> None:
    """
    Close in a coroutine.
    """
    await dispatcher.close()


async def closeLater(dispatcher: SignalDispatcher) -> None:
    """
    Wait for something else before that.
    """
    await turn()
    await dispatcher.close()


#: The results that a handler that closes the dispatcher may return.
CLOSING: dict[str, Callable[[SignalDispatcher], Any]] = {
    "plain": lambda dispatcher: ignore(dispatcher.close()),
    "deferred": lambda dispatcher: dispatcher.close(),
    "coroutine": lambda dispatcher: Deferred.fromCoroutine(closeAndWait(dispatcher)),
    "later": closeLater,
}


@pytest.mark.parametrize("way", CLOSING)
@pytest.mark.parametrize("queued", [False, True])
@inReactor
async def test_aHandlerMayCloseTheDispatcherAndWaitForIt(
    dispatcher: SignalDispatcher, way: str, queued: bool
) -> None:
    """
    Closing waits for other handlers, but not for the handler that closes.
    """
    slow, others = Recorder(busy=True), Recorder()
    closing: list[SigInfo] = []

    def handler(info: SigInfo) -> Any:
        if queued and info.value == 1:
            return first
        if info.value != 2:
            return None
        closing.append(info)
        return CLOSING[way](dispatcher)

    first: Deferred[None] = Deferred()
    dispatcher.addHandler(SIGRTMIN, handler)
    dispatcher.addHandler(SIGRTMIN, others)
    dispatcher.addHandler(SIGRTMIN, slow)
    queue(1, 2, 3)
    await until(lambda: len(others.infos) == 3)
    first.callback(None)
    await until(lambda: closing)
    await turn()
    closed = dispatcher.close()
    for expected in range(1, 4):
        assert not closed.called
        assert slow.values == list(range(1, expected + 1))
        slow.out[-1].callback(None)
    await closed
    assert others.values == [1, 2, 3]
    assert dispatcher.watching == frozenset()


def test_theReactorsStopReleasesEverything(logged: Logged) -> None:
    """
    Without a call of close, pending signals are handled, and whenReceived fails.
    """
    with newReactor() as reactor:
        dispatcher = dispatcherFor(reactor)
        got = Recorder(busy=True)
        waiting: list[Deferred[SigInfo]] = []

        async def main(reactor: Any) -> None:
            dispatcher.addHandler(SIGHUP, got)
            waiting.append(dispatcher.whenReceived(SIGUSR1))
            reactor.addSystemEventTrigger("before", "shutdown", send, SIGHUP)

        runReactor(reactor, main)
        assert len(got.infos) == 1
        assert dispatcher.watching == frozenset()
        assert dispatcher.close().called
        failed: list[Failure] = []
        waiting[0].addErrback(failed.append)
        assert failed[0].check(DispatcherClosed)
        assert dispatcherFor(reactor) is not dispatcher
        dispatcherFor(reactor).close()
    assert not logged.failures


def test_aHandlerOfTheLastSignalMayClose(logged: Logged) -> None:
    """
    The signal is read while the reactor stops and drops the descriptor.
    """
    closed: list[Deferred[None]] = []

    async def main(reactor: Any) -> None:
        dispatcher = dispatcherFor(reactor)
        dispatcher.addHandler(SIGHUP, lambda _: closed.append(dispatcher.close()))
        reactor.addSystemEventTrigger("before", "shutdown", send, SIGHUP)

    spin(main)
    assert closed[0].called
    assert not logged.failures


def test_theReactorsStopEndsAClosingThatWaits() -> None:
    """
    The Deferred of a handler may never fire after that.
    """
    closed: list[Deferred[None]] = []

    async def main(reactor: Any) -> None:
        dispatcher = dispatcherFor(reactor)
        got = recording(dispatcher, SIGHUP, busy=True)
        send(SIGHUP)
        await until(lambda: got.infos)
        closed.append(dispatcher.close())
        assert not closed[0].called

    spin(main)
    assert closed[0].called


@kernelOnly
def test_aHandlerMayCloseTheDispatcherOfAStoppingReactor() -> None:
    """
    All pending signals are handled, and everything is released, once.
    """
    with newReactor() as reactor:
        dispatcher = dispatcherFor(reactor)
        got: list[int | None] = []
        closed: list[Deferred[None]] = []

        def close(info: SigInfo) -> None:
            got.append(info.value)
            closed.append(dispatcher.close())

        async def main(reactor: Any) -> None:
            dispatcher.addHandler(SIGRTMIN, close)
            queue(*range(200))

        runReactor(reactor, main)
        assert got == list(range(200))
        assert all(each.called for each in closed)


@kernelOnly
def test_aHandlerMayCloseForASignalThatAnotherThreadDeferred(
    logged: Logged, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    A thread starts a child while the reactor stops, and a signal arrives there.
    """
    with newReactor() as reactor:
        dispatcher = dispatcherFor(reactor)
        closed: list[Deferred[None]] = []

        async def main(reactor: Any) -> None:
            dispatcher.addHandler(
                SIGUSR1, lambda info: closed.append(dispatcher.close())
            )
            backend: Any = dispatcher._backend
            mask = backend._descriptor._mask
            restore = mask.restore

            def late(signals: Iterable[int]) -> None:
                mask.defer([SigInfo.make(SIGUSR1)])
                restore(signals)

            monkeypatch.setattr(mask, "restore", late)

        runReactor(reactor, main)
        assert [each.called for each in closed] == [True]
        assert dispatcher.watching == frozenset()
    assert logged.failures == []


@kernelOnly
def test_aHoldThatEndsWithTheReactorEndsTheClosing() -> None:
    """
    Code that waits in the hold gets L{DispatcherClosed}, and leaves it.
    """
    fired: list[Deferred[None]] = []

    async def main(reactor: Any) -> None:
        dispatcher = dispatcherFor(reactor)

        async def wait() -> None:
            with dispatcher.hold(SIGUSR1), pytest.raises(DispatcherClosed):
                await dispatcher.whenReceived(SIGUSR2)

        fired.append(Deferred.fromCoroutine(wait()))
        dispatcher.addHandler(SIGRTMIN, lambda info: fired.append(dispatcher.close()))
        queue(0)

    spin(main)
    assert [each.called for each in fired] == [True, True]


def readerOf(reactor: Any) -> Any:
    """
    Return the signal descriptor of a reactor.
    """
    (reader,) = (each for each in reactor.getReaders() if hasattr(each, "signals"))
    return reader


@kernelOnly
@inReactor
async def test_closeFailsWhenSomethingCannotBeReleased(
    reactor: Any, dispatcher: SignalDispatcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    dispatcher.watch(SIGHUP)
    reader = readerOf(reactor)
    close = reader.close

    def failing() -> None:
        close()
        raise BlockingIOError

    monkeypatch.setattr(reader, "close", failing)
    with pytest.raises(BlockingIOError):
        await dispatcher.close()


@pytest.mark.parametrize("kind", ["select", "poll"])
@kernelOnly
@inReactor
async def test_aReplacedDescriptorIsLogged(
    reactor: Any, dispatcher: SignalDispatcher, kind: str, logged: Logged
) -> None:
    """
    Signals have their previous actions, and the other file stays open.  (epoll does
    not look at the number, and so sees nothing of it.)
    """
    dispatcher.watch(SIGHUP)
    reader = readerOf(reactor)
    number = reader.fileno()
    directory = os.open("/", os.O_RDONLY)
    os.dup2(directory, number, inheritable=False)
    os.close(directory)
    await until(lambda: logged.failures)
    assert logged.failures[0].check(IsADirectoryError)
    with pytest.raises(DispatcherClosed):
        dispatcher.watch(SIGHUP)
    assert dispatcher.close().called
    assert reader.fileno() == -1
    os.close(number)


@pytest.mark.parametrize("kind", ["select", "poll"])
@kernelOnly
@inReactor
async def test_aDescriptorThatOtherCodeClosesIsLogged(
    reactor: Any, dispatcher: SignalDispatcher, kind: str, logged: Logged
) -> None:
    """
    The reactor notices it first, as after C{os.closerange}.
    """
    dispatcher.watch(SIGHUP)
    os.close(readerOf(reactor).fileno())
    await dispatcher.whenClosed()
    error = logged.failures[-1].value
    assert isinstance(error, OSError)
    assert error.errno == errno.EBADF
    with pytest.raises(DispatcherClosed):
        dispatcher.watch(SIGHUP)


@pytest.mark.parametrize("kind", ["poll", "epoll", "asyncio"])
@kernelOnly
@inReactor
async def test_aDispatcherWithADeadDescriptorCanBeClosed(
    reactor: Any, dispatcher: SignalDispatcher, kind: str, logged: Logged
) -> None:
    """
    Everything else is released, and the error is logged.
    """
    dispatcher.watch(SIGHUP)
    os.close(readerOf(reactor).fileno())
    await dispatcher.close()
    errors = [failure.value for failure in logged.failures]
    assert errors
    assert all(
        isinstance(error, OSError) and error.errno == errno.EBADF for error in errors
    )


def test_aDeferredThatItsCallerFiresStopsNoOther(logged: Logged) -> None:
    """
    Close ends the other waits and fires the other Deferreds all the same.
    """
    signals = MemorySignals()
    first, *waits = (signals.whenReceived(SIGUSR1) for _ in range(3))
    fired, *closings = (signals.whenClosed() for _ in range(3))
    first.callback(SigInfo.make(SIGUSR1))
    fired.callback(None)
    signals.close()
    for each in waits:
        each.addErrback(lambda failure: failure.trap(DispatcherClosed))
    assert all(each.called for each in waits + closings)
    (failure,) = logged.failures
    assert failure.check(AlreadyCalledError)


@pytest.mark.parametrize("error", [SystemExit, asyncio.CancelledError])
def test_aBackendThatFailsDoesNotKeepTheDispatcherOpen(
    error: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    The Deferred of close fails with the error.
    """
    signals = MemorySignals()
    monkeypatch.setattr(signals._memory, "close", Mock(side_effect=error))
    failed: list[Failure] = []
    signals.close().addErrback(failed.append)
    assert failed[0].check(error)
    assert signals.close().called
