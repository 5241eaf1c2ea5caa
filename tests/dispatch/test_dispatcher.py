"""
L{SignalDispatcher}: signals reach their handlers.
"""

from __future__ import annotations

import os
import signal
from signal import SIGHUP, SIGRTMIN, SIGTERM, SIGUSR2
from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.logger import LogEvent, formatEvent

from tests.support.handlers import (
    Recorder,
    everyReactor,
    inEachThread,
    recording,
    sender,
)
from tests.support.inreactor import inEveryReactor, inReactor
from tests.support.observers import Logged
from tests.support.reactors import newReactor, runReactor, until
from tests.support.threads import runIn
from tests.support.worlds import ME, dispatcherFor, kernelOnly, queue, send
from txsignalfd import SigInfo, SignalDispatcher

pytestmark = pytest.mark.usefixtures("world")


@inEveryReactor
async def test_aHandlerGetsTheSigInfo(dispatcher: SignalDispatcher) -> None:
    """
    A handler receives the SigInfo in each kind of reactor, in any thread.
    """
    got = recording(dispatcher, SIGHUP)
    send(SIGHUP)
    await until(lambda: got.infos)
    (info,) = got.infos
    assert (info.signal, info.pid, info.uid) == (SIGHUP, ME, os.getuid())


@everyReactor
@inEachThread
@kernelOnly
def test_tenThousandQueuedSignalsAreReceivedInOrder(kind: str, inThread: bool) -> None:
    """
    Each signal of another process is received once, with its value.
    """
    count = 10_000
    with newReactor(kind) as reactor:
        dispatcher = dispatcherFor(reactor)
        got = Recorder()
        # In the main thread, whatever thread the reactor runs in.
        dispatcher.addHandler(SIGRTMIN, got)

        async def main(reactor: Any) -> None:
            with sender(SIGRTMIN, count) as process:
                await until(lambda: process.poll() is not None)
                await until(lambda: len(got.infos) >= count)
            assert process.returncode == 0
            assert got.values == list(range(count))
            assert {info.pid for info in got.infos} == {process.pid}
            await dispatcher.close()

        runIn(inThread, lambda: runReactor(reactor, main))


def test_aSignalSentBeforeTheReactorStartsIsHandled() -> None:
    with newReactor() as reactor:
        got = Recorder()
        dispatcher = dispatcherFor(reactor)
        dispatcher.addHandler(SIGHUP, got)
        send(SIGHUP)

        async def main(reactor: Any) -> None:
            await until(lambda: got.infos)
            await dispatcher.close()

        runReactor(reactor, main)


@pytest.mark.parametrize("first", ["dispatcher", "Twisted"])
@kernelOnly
@pytest.mark.usefixtures("restoredHandlers")
def test_twistedsOwnHandlersGetNoWatchedSignal(first: str, logged: Logged) -> None:
    """
    A starting reactor that installs its handlers before or after ours does not take
    SIGTERM away, and nothing is logged about it.
    """
    with newReactor() as reactor:
        got = Recorder()
        dispatcher = dispatcherFor(reactor)
        if first == "dispatcher":
            dispatcher.addHandler(SIGTERM, got)

        async def main(reactor: Any) -> None:
            if first == "Twisted":
                dispatcher.addHandler(SIGTERM, got)
            send(SIGTERM)
            await until(lambda: got.infos)
            assert reactor.running
            await dispatcher.close()
            assert signal.getsignal(SIGTERM) == reactor.sigTerm
            send(SIGTERM)
            await until(lambda: reactor._exitSignal == SIGTERM)

        runReactor(reactor, main, installSignalHandlers=True)
        assert len(got.infos) == 1
        assert not logged.contains("is watched")


@inReactor
async def test_handlersOfOneSignalRunInTheOrderInWhichTheyWereAdded(
    dispatcher: SignalDispatcher,
) -> None:
    """
    All handlers of a signal receive the same L{SigInfo}.
    """
    calls: list[tuple[int, SigInfo]] = []
    for number in range(5):

        def handler(info: SigInfo, number: int = number) -> None:
            calls.append((number, info))

        dispatcher.addHandler(SIGHUP, handler)
    send(SIGHUP)
    await until(lambda: calls)
    assert [number for number, _ in calls] == [0, 1, 2, 3, 4]
    assert len({id(info) for _, info in calls}) == 1


@kernelOnly
def test_aPlainFunctionCostsNoDeferred(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    No Deferred is made for the signals of a handler that returns C{None}.
    """
    made: list[object] = []
    init = Deferred.__init__

    def counted(self: Deferred[Any], *args: Any) -> None:
        made.append(self)
        init(self, *args)

    with newReactor() as reactor:
        dispatcher = dispatcherFor(reactor)
        got = recording(dispatcher, SIGRTMIN)
        queue(*range(100))
        (reader,) = (each for each in reactor.getReaders() if hasattr(each, "signals"))
        with monkeypatch.context() as patched:
            patched.setattr(Deferred, "__init__", counted)
            reader.drain()
        assert len(got.infos) == 100
        assert not made
        dispatcher.close()


@pytest.mark.parametrize("kind", ["asyncio"])
@inReactor
async def test_anyAwaitableIsAwaited(
    reactor: Any, dispatcher: SignalDispatcher, kind: str
) -> None:
    """
    A handler may return an object with C{__await__}, or a future of asyncio.
    """
    fired: Deferred[None] = Deferred()
    future = reactor._asyncioEventloop.create_future()

    class Awaitable:
        def __await__(self) -> Any:
            return fired.__await__()

    first = dispatcher.addHandler(SIGHUP, lambda _: Awaitable())
    second = dispatcher.addHandler(SIGHUP, lambda _: future)
    send(SIGHUP)
    await until(lambda: second.handled)
    assert [len(first.runs), len(second.runs)] == [1, 1]
    fired.callback(None)
    future.set_result(None)
    await until(lambda: not first.runs and not second.runs)


@inReactor
async def test_aGeneratorFunctionAsHandlerIsLoggedOnce(
    dispatcher: SignalDispatcher, logged: Logged
) -> None:
    """
    The log says what the author has forgotten: C{@inlineCallbacks}, or C{await}.
    """

    def generator(info: SigInfo) -> Any:
        raise AssertionError("it is run")
        yield

    async def asynchronous(info: SigInfo) -> Any:
        raise AssertionError("it is run")
        yield

    for handler in (generator, asynchronous):
        dispatcher.addHandler(SIGHUP, handler)
    last = dispatcher.handlersOf(SIGHUP)[-1]
    for count in (1, 2):
        send(SIGHUP)
        await until(lambda n=count: last.handled == n)  # type: ignore[misc]
    first, second = (formatEvent(event) for event in logged if "handler" in event)
    assert "<locals>.generator of SIGHUP is a generator function" in str(first)
    assert "<locals>.asynchronous of SIGHUP is a generator function" in str(second)


@inReactor
async def test_aHandlerMayRemoveItselfAndAnother(dispatcher: SignalDispatcher) -> None:
    """
    A handler that is removed while a signal is dispatched does not receive it.
    """
    calls: list[str] = []

    def first(info: SigInfo) -> None:
        calls.append("first")
        one.remove()
        one.remove()  # a second call does nothing
        two.remove()

    one = dispatcher.addHandler(SIGHUP, first)
    two = dispatcher.addHandler(SIGHUP, lambda _: calls.append("second"))
    dispatcher.addHandler(SIGHUP, lambda _: calls.append("third"))
    send(SIGHUP)
    await until(lambda: "third" in calls)
    send(SIGHUP)
    await until(lambda: calls.count("third") == 2)
    assert calls == ["first", "third", "third"]


@inReactor
async def test_aHandlerThatAHandlerAddsGetsTheNextSignal(
    dispatcher: SignalDispatcher,
) -> None:
    """
    It does not get the signal that is being dispatched.
    """
    added = Recorder()

    def add(info: SigInfo) -> None:
        adder.remove()
        dispatcher.addHandler(SIGRTMIN, added)

    adder = dispatcher.addHandler(SIGRTMIN, add)
    queue(1, 2)
    await until(lambda: added.infos)
    assert added.values == [2]


@inReactor
async def test_aWatchedSignalWithoutAHandlerIsLoggedOnce(
    dispatcher: SignalDispatcher, logged: Logged
) -> None:
    done = Recorder()
    dispatcher.addHandler(SIGRTMIN, Recorder()).remove()
    dispatcher.addHandler(SIGUSR2, done)

    def warnings() -> list[LogEvent]:
        return [event for event in logged if "has no handler" in event["log_format"]]

    queue(1, 2, 3)
    await until(warnings)
    send(SIGUSR2)
    await until(lambda: done.infos)
    assert len(warnings()) == 1


@kernelOnly
@inReactor
async def test_aDispatcherThatWatchesNothingCanBePaused(
    dispatcher: SignalDispatcher,
) -> None:
    assert dispatcher._pause()
    dispatcher._resume()
