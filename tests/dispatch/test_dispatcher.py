"""
L{SignalDispatcher}: each sentence of its contract, on real signals.
"""

from __future__ import annotations

import errno
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from signal import SIGHUP, SIGRTMIN, SIGTERM, SIGUSR1, SIGUSR2
from typing import Any

import pytest
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.selectreactor import SelectReactor
from twisted.logger import LogEvent, formatEvent
from twisted.python.failure import Failure

from tests.support.handlers import (
    SENDER,
    Recorder,
    everyReactor,
    failures,
    inEachThread,
    runIn,
)
from tests.support.inreactor import inEveryReactor
from tests.support.reactors import (
    KINDS,
    newReactor,
    runReactor,
    spin,
    turn,
    until,
    untilLength,
)
from tests.support.worlds import ME, dispatcherFor, kernelOnly, queue, send
from txsignalfd import (
    DispatcherClosed,
    SigInfo,
    SignalAlreadyWatched,
    SignalDispatcher,
    SignalNotWatchable,
    WatchedByParent,
)

pytestmark = pytest.mark.usefixtures("world")


# -- signals come


@inEveryReactor
async def test_aHandlerGetsTheSigInfo(
    reactor: Any, dispatcher: SignalDispatcher
) -> None:
    """
    A handler receives the SigInfo in each kind of reactor, in any thread.
    """
    got = Recorder()
    dispatcher.addHandler(SIGHUP, got)
    send(SIGHUP)
    await until(reactor, lambda: got.infos)
    (info,) = got.infos
    assert (info.signal, info.pid, info.uid) == (SIGHUP, ME, os.getuid())


@everyReactor
@inEachThread
@kernelOnly
def test_allOfTenThousandQueuedSignalsComeInOrder(kind: str, inThread: bool) -> None:
    """
    Once each, with their values, from another process.
    """
    count = 10_000
    with newReactor(kind) as reactor:
        dispatcher = dispatcherFor(reactor)
        got = Recorder()
        # Here, in the main thread, whatever thread the reactor runs in.
        dispatcher.addHandler(SIGRTMIN, got)

        async def main(reactor: Any) -> None:
            command = [sys.executable, "-c", SENDER, str(ME), str(int(SIGRTMIN))]
            with subprocess.Popen([*command, str(count)]) as sender:
                await until(reactor, lambda: sender.poll() is not None)
                await until(reactor, lambda: len(got.infos) >= count)
            assert sender.returncode == 0
            assert got.values == list(range(count))
            assert {info.pid for info in got.infos} == {sender.pid}
            await dispatcher.close()

        runIn(inThread, lambda: runReactor(reactor, main))


def test_aSignalThatCameBeforeTheReactorStartedIsHandled() -> None:
    """
    It waits in the kernel.
    """
    with newReactor() as reactor:
        got = Recorder()
        dispatcher = dispatcherFor(reactor)
        dispatcher.addHandler(SIGHUP, got)
        send(SIGHUP)

        async def main(reactor: Any) -> None:
            await until(reactor, lambda: got.infos)
            await dispatcher.close()

        runReactor(reactor, main)


@pytest.mark.parametrize("first", ["we", "Twisted"])
@kernelOnly
def test_twistedsOwnHandlersDoNotTakeASignalAway(
    first: str, logged: list[LogEvent]
) -> None:
    """
    Twisted installs handlers of SIGTERM, SIGINT and SIGCHLD when its reactor
    starts, before or after ours.  That is nothing to be told of.
    """
    saved = {signo: signal.getsignal(signo) for signo in (SIGTERM, signal.SIGINT)}
    try:
        with newReactor() as reactor:
            got = Recorder()
            dispatcher = dispatcherFor(reactor)
            if first == "we":
                dispatcher.addHandler(SIGTERM, got)

            async def main(reactor: Any) -> None:
                if first == "Twisted":
                    dispatcher.addHandler(SIGTERM, got)
                send(SIGTERM)
                await until(reactor, lambda: got.infos)
                assert reactor.running
                await dispatcher.close()
                # Now they are Twisted's.
                assert signal.getsignal(SIGTERM) == reactor.sigTerm
                send(SIGTERM)
                await until(reactor, lambda: reactor._exitSignal == SIGTERM)

            runReactor(reactor, main, installSignalHandlers=True)
            assert len(got.infos) == 1
            assert not any("is watched" in event["log_format"] for event in logged)
    finally:
        for signo, handler in saved.items():
            signal.signal(signo, handler)


# -- handlers


def test_handlersOfOneSignalRunInTheOrderInWhichTheyWereAdded() -> None:
    """
    And each gets the same L{SigInfo}.
    """

    async def main(reactor: Any) -> None:
        dispatcher = dispatcherFor(reactor)
        calls: list[tuple[int, SigInfo]] = []
        for number in range(5):

            def handler(info: SigInfo, number: int = number) -> None:
                calls.append((number, info))

            dispatcher.addHandler(SIGHUP, handler)
        send(SIGHUP)
        await until(reactor, lambda: calls)
        assert [number for number, _ in calls] == [0, 1, 2, 3, 4]
        assert len({id(info) for _, info in calls}) == 1
        await dispatcher.close()

    spin(main)


@kernelOnly
def test_aPlainFunctionCostsNoDeferred(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    However many signals it handles.
    """
    made: list[object] = []
    init = Deferred.__init__

    def counted(self: Deferred[Any], *args: Any) -> None:
        made.append(self)
        init(self, *args)

    with newReactor() as reactor:
        dispatcher = dispatcherFor(reactor)
        got = Recorder()
        dispatcher.addHandler(SIGRTMIN, got)
        queue(*range(100))
        (reader,) = (each for each in reactor.getReaders() if hasattr(each, "signals"))
        with monkeypatch.context() as patched:
            patched.setattr(Deferred, "__init__", counted)
            reader.drain()
        assert len(got.infos) == 100
        assert not made
        dispatcher.close()


def test_aHandlerThatRaisesIsLoggedAndStopsNoOther(logged: list[LogEvent]) -> None:
    """
    With the signal that it got; and it gets the next one too.
    """

    async def main(reactor: Any) -> None:
        dispatcher = dispatcherFor(reactor)
        after = Recorder()

        def bad(info: SigInfo) -> None:
            raise ZeroDivisionError

        dispatcher.addHandler(SIGHUP, bad)
        dispatcher.addHandler(SIGHUP, after)
        for expected in (1, 2):
            send(SIGHUP)
            await untilLength(reactor, after.infos, expected)
        events = [event for event in logged if "log_failure" in event]
        assert [event["info"] for event in events] == after.infos
        assert [type(event["log_failure"].value) for event in events] == [
            ZeroDivisionError
        ] * 2
        await dispatcher.close()

    spin(main)


@pytest.mark.parametrize("way", ["deferred", "coroutine"])
def test_aHandlerThatFailsLaterIsLogged(way: str, logged: list[LogEvent]) -> None:
    """
    Whether its Deferred fails, or its coroutine raises.
    """

    async def main(reactor: Any) -> None:
        dispatcher = dispatcherFor(reactor)
        infos = []

        async def coroutine(info: SigInfo) -> None:
            infos.append(info)
            await turn(reactor)
            raise ZeroDivisionError

        def deferred(info: SigInfo) -> Deferred[None]:
            return Deferred.fromCoroutine(coroutine(info))

        dispatcher.addHandler(
            SIGHUP, {"deferred": deferred, "coroutine": coroutine}[way]
        )
        send(SIGHUP)
        await until(reactor, lambda: failures(logged))
        (event,) = (event for event in logged if "log_failure" in event)
        assert event["log_failure"].check(ZeroDivisionError)
        assert [event["info"]] == infos
        await dispatcher.close()

    spin(main)


def test_anyAwaitableIsWaitedFor() -> None:
    """
    An object with C{__await__}, and a future of asyncio in its reactor.
    """

    async def main(reactor: Any) -> None:
        dispatcher = dispatcherFor(reactor)
        fired: Deferred[None] = Deferred()
        future = reactor._asyncioEventloop.create_future()

        class Awaitable:
            def __await__(self) -> Any:
                return fired.__await__()

        first = dispatcher.addHandler(SIGHUP, lambda _: Awaitable())
        second = dispatcher.addHandler(SIGHUP, lambda _: future)
        send(SIGHUP)
        await until(reactor, lambda: second.handled)
        assert [len(first.runs), len(second.runs)] == [1, 1]
        fired.callback(None)
        future.set_result(None)
        await until(reactor, lambda: not first.runs and not second.runs)
        await dispatcher.close()

    spin(main, "asyncio")


def test_whatElseAHandlerReturnsIsIgnored(logged: list[LogEvent]) -> None:
    """
    As the result of C{list.append} or of a lambda would be.
    """

    async def main(reactor: Any) -> None:
        dispatcher = dispatcherFor(reactor)
        registration = dispatcher.addHandler(SIGHUP, lambda info: info.signo)  # type: ignore[arg-type,return-value]
        send(SIGHUP)
        await until(reactor, lambda: registration.handled)
        assert not registration.runs
        await dispatcher.close()

    spin(main)
    assert not failures(logged)


def test_aHandlerOfWhichNothingIsRunIsTold(logged: list[LogEvent]) -> None:
    """
    Once: its author has forgotten C{@inlineCallbacks}, or yields in a coroutine
    function.
    """

    def generator(info: SigInfo) -> Any:
        raise AssertionError("it is run")
        yield

    async def asynchronous(info: SigInfo) -> Any:
        raise AssertionError("it is run")
        yield

    async def main(reactor: Any) -> None:
        dispatcher = dispatcherFor(reactor)
        for handler in (generator, asynchronous):
            dispatcher.addHandler(SIGHUP, handler)
        last = dispatcher.handlersOf(SIGHUP)[-1]
        send(SIGHUP)
        await until(reactor, lambda: last.handled == 1)
        send(SIGHUP)
        await until(reactor, lambda: last.handled == 2)
        await dispatcher.close()

    spin(main)
    first, second = (formatEvent(event) for event in logged if "handler" in event)
    assert f"{generator} of SIGHUP is a generator function" in str(first)
    assert f"{asynchronous} of SIGHUP is a generator function" in str(second)


def test_aHandlerMayRemoveItselfAndAnother() -> None:
    """
    Who is removed while a signal is handed out does not get it any more.
    """

    async def main(reactor: Any) -> None:
        dispatcher = dispatcherFor(reactor)
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
        await until(reactor, lambda: "third" in calls)
        send(SIGHUP)
        await until(reactor, lambda: calls.count("third") == 2)
        assert calls == ["first", "third", "third"]
        await dispatcher.close()

    spin(main)


def test_aHandlerThatIsAddedByAHandlerGetsTheNextSignal() -> None:
    """
    Not the one that is just being handed out.
    """

    async def main(reactor: Any) -> None:
        dispatcher = dispatcherFor(reactor)
        added = Recorder()

        def add(info: SigInfo) -> None:
            adder.remove()
            dispatcher.addHandler(SIGRTMIN, added)

        adder = dispatcher.addHandler(SIGRTMIN, add)

        queue(1, 2)
        await until(reactor, lambda: added.infos)
        assert added.values == [2]
        await dispatcher.close()

    spin(main)


def test_aWatchedSignalThatNobodyHandlesIsTold(logged: list[LogEvent]) -> None:
    """
    Once, not for each.
    """

    async def main(reactor: Any) -> None:
        dispatcher = dispatcherFor(reactor)
        done = Recorder()
        dispatcher.addHandler(SIGRTMIN, Recorder()).remove()
        dispatcher.addHandler(SIGUSR2, done)
        queue(1, 2, 3)
        await until(reactor, told)
        send(SIGUSR2)
        await until(reactor, lambda: done.infos)
        assert len(told()) == 1
        await dispatcher.close()

    def told() -> list[LogEvent]:
        return [event for event in logged if "nothing handles" in event["log_format"]]

    spin(main)


# -- whenReceived


def test_whenReceivedFiresWithTheFirst() -> None:
    """
    Of several signals, once.
    """

    async def main(reactor: Any) -> None:
        dispatcher = dispatcherFor(reactor)
        waiting = dispatcher.whenReceived(SIGUSR1, SIGUSR2)
        send(SIGUSR2)
        assert (await waiting).signal is SIGUSR2
        assert not dispatcher.handlersOf(SIGUSR1)
        assert not dispatcher.handlersOf(SIGUSR2)
        assert dispatcher.watching == {SIGUSR1, SIGUSR2}
        await dispatcher.close()

    spin(main)


def test_aCancelledWhenReceivedLeavesTheSignalToTheNext() -> None:
    """
    And takes nothing else back.
    """

    async def main(reactor: Any) -> None:
        dispatcher = dispatcherFor(reactor)
        cancelled = dispatcher.whenReceived(SIGUSR1)
        waiting = dispatcher.whenReceived(SIGUSR1)
        cancelled.cancel()
        with pytest.raises(CancelledError):
            await cancelled
        send(SIGUSR1)
        assert (await waiting).signal is SIGUSR1
        await dispatcher.close()

    spin(main)


def test_whenReceivedAndStreamWantASignal() -> None:
    """
    Without one they would wait for ever.
    """
    with newReactor() as reactor:
        dispatcher = dispatcherFor(reactor)
        with pytest.raises(ValueError, match="at least one"):
            dispatcher.whenReceived()
        with pytest.raises(ValueError, match="at least one"), dispatcher.stream():
            raise AssertionError("entered")
        assert not dispatcher.watching


# -- hold


def test_whatComesDuringAHoldIsHandledAfterItInOrder() -> None:
    """
    What is not held is handled meanwhile.
    """

    async def main(reactor: Any) -> None:
        dispatcher = dispatcherFor(reactor)
        got = Recorder()
        other = Recorder()
        dispatcher.addHandler(SIGRTMIN, got)
        dispatcher.addHandler(SIGUSR1, got)
        dispatcher.addHandler(SIGUSR2, other)
        with dispatcher.hold(SIGRTMIN, SIGUSR1):
            queue(1)
            await turn(reactor)
            send(SIGUSR1)
            await turn(reactor)
            queue(2)
            send(SIGUSR2)
            await until(reactor, lambda: other.infos)
            assert got.infos == []
        assert got.values == [1, None, 2]
        await dispatcher.close()

    spin(main)


def test_holdsNest() -> None:
    """
    A signal is handled when the last hold of it ends.
    """

    async def main(reactor: Any) -> None:
        dispatcher = dispatcherFor(reactor)
        got = Recorder()
        dispatcher.addHandler(SIGRTMIN, got)
        dispatcher.addHandler(SIGUSR1, got)
        with dispatcher.hold():
            with dispatcher.hold(SIGRTMIN):
                queue(1, 2)
                send(SIGUSR1)
                await turn(reactor)
            assert got.infos == []
        assert sorted(info.signo for info in got.infos) == [SIGUSR1, SIGRTMIN, SIGRTMIN]
        assert [value for value in got.values if value] == [1, 2]
        await dispatcher.close()

    spin(main)


def test_aHoldIsEndedByAnException() -> None:
    """
    What was held is handled all the same.
    """

    async def main(reactor: Any) -> None:
        dispatcher = dispatcherFor(reactor)
        got = Recorder()
        dispatcher.addHandler(SIGHUP, got)
        with pytest.raises(ZeroDivisionError), dispatcher.hold(SIGHUP):
            send(SIGHUP)
            raise ZeroDivisionError
        await until(reactor, lambda: got.infos)
        await dispatcher.close()

    spin(main)


def test_noQueuedRunStartsDuringAHold() -> None:
    """
    It is a critical section for what came before it, too; and what came
    before is handled before what came in it.
    """

    async def main(reactor: Any) -> None:
        dispatcher = dispatcherFor(reactor)
        got = Recorder(busy=True)
        dispatcher.addHandler(SIGRTMIN, got)
        queue(1, 2)
        await until(reactor, lambda: got.infos)
        with dispatcher.hold(SIGRTMIN):
            got.busy = False
            got.out[0].callback(None)
            queue(3)
            await turn(reactor)
            assert got.values == [1]
        assert got.values == [1, 2, 3]
        await dispatcher.close()

    spin(main)


def test_aHoldThatAHandlerEndsKeepsTheOrder() -> None:
    """
    What was kept comes before what was read after it.
    """

    async def main(reactor: Any) -> None:
        dispatcher = dispatcherFor(reactor)
        got = Recorder()
        dispatcher.addHandler(SIGRTMIN, got)
        hold = dispatcher.hold(SIGRTMIN)
        hold.__enter__()
        queue(1)
        await turn(reactor)
        dispatcher.addHandler(
            SIGUSR1, lambda _: ignore(hold.__exit__(None, None, None))
        )
        send(SIGUSR1)  # a lower number, so it is read before the next
        queue(2)
        await until(reactor, lambda: got.infos)
        assert got.values == [1, 2]
        await dispatcher.close()

    spin(main)


def test_holdingWhatCannotBeWatchedIsAnError() -> None:
    """
    It would promise what it cannot do.
    """
    with newReactor() as reactor:
        with pytest.raises(SignalNotWatchable):
            with dispatcherFor(reactor).hold(signal.SIGKILL):
                raise AssertionError("entered")


# -- watch and unwatch


def test_aSignalStaysWatchedWhenItsLastHandlerGoes() -> None:
    """
    SIGHUP does not kill the process in between.
    """

    async def main(reactor: Any) -> None:
        dispatcher = dispatcherFor(reactor)
        got = Recorder()
        dispatcher.addHandler(SIGHUP, got).remove()
        assert dispatcher.watching == {SIGHUP}
        send(SIGHUP)
        await turn(reactor)
        assert not got.infos
        await dispatcher.close()

    spin(main)


@kernelOnly
def test_unwatchHandsOutFirstWhatIsPending() -> None:
    """
    And then the signal is as it was.
    """
    python: list[int] = []
    saved = signal.signal(SIGUSR1, lambda signo, frame: python.append(signo))
    try:

        async def main(reactor: Any) -> None:
            dispatcher = dispatcherFor(reactor)
            got = Recorder()
            dispatcher.addHandler(SIGUSR1, got)
            dispatcher.addHandler(SIGRTMIN, got)
            send(SIGUSR1)
            queue(*range(100))
            dispatcher.unwatch(SIGUSR1, SIGUSR2)  # the other is not watched
            assert [info.signo for info in got.infos] == [SIGUSR1] + [SIGRTMIN] * 100
            assert dispatcher.watching == {SIGRTMIN}
            assert not python
            send(SIGUSR1)
            assert python == [SIGUSR1]
            # Its handler is still there.
            dispatcher.watch(SIGUSR1)
            send(SIGUSR1)
            await until(reactor, lambda: len(got.infos) == 102)
            await dispatcher.close()

        spin(main)
    finally:
        signal.signal(SIGUSR1, saved)


def test_unwatchInAHandlerKeepsTheOrder() -> None:
    """
    What it reads comes after what was read before.
    """

    async def main(reactor: Any) -> None:
        dispatcher = dispatcherFor(reactor)
        got = Recorder()

        def unwatch(info: SigInfo) -> None:
            if info.value == 10:
                queue(*range(200, 300))
                dispatcher.unwatch(SIGRTMIN)
                assert got.values == list(range(11))

        dispatcher.addHandler(SIGRTMIN, got)
        dispatcher.addHandler(SIGRTMIN, unwatch)
        queue(*range(200))
        await until(reactor, lambda: len(got.infos) == 300)
        assert got.values == list(range(300))
        assert not dispatcher.watching
        assert not any(hasattr(each, "signals") for each in reactor.getReaders())
        await dispatcher.close()

    spin(main)


@kernelOnly
def test_aDispatcherThatWatchesNothingHasNothing() -> None:
    """
    Neither a descriptor nor a reader, before the first and after the last.
    """

    async def main(reactor: Any) -> None:
        descriptors = os.listdir("/proc/self/fd")
        readers = reactor.getReaders()
        dispatcher = dispatcherFor(reactor)
        dispatcher.unwatch(SIGHUP)
        dispatcher.watch()
        assert reactor.getReaders() == readers
        for _ in range(2):
            dispatcher.watch(SIGHUP, SIGUSR1)
            dispatcher.watch(SIGHUP)
            assert len(reactor.getReaders()) == len(readers) + 1
            dispatcher.unwatch(*dispatcher.watching)
            assert reactor.getReaders() == readers
            assert len(os.listdir("/proc/self/fd")) == len(descriptors)
        await dispatcher.close()

    spin(main)


@pytest.mark.parametrize(
    ("signo", "why"),
    [
        (signal.SIGKILL, "the kernel lets no process"),
        (signal.SIGSTOP, "the kernel lets no process"),
        (signal.SIGSEGV, "when the CPU raises it"),
        (signal.SIGBUS, "when the CPU raises it"),
        (signal.SIGFPE, "when the CPU raises it"),
        (signal.SIGILL, "when the CPU raises it"),
        (signal.SIGTRAP, "when the CPU raises it"),
        (32, "the C library"),
        (33, "the C library"),
        (0, "there is no signal 0"),
        (65, "numbered 1 to 64"),
        (-1, "there is no signal -1"),
    ],
)
def test_aSignalThatCannotBeWatchedIsRefusedWithTheReason(signo: int, why: str) -> None:
    """
    Also in the middle of a list; and then nothing is watched.
    """
    with newReactor() as reactor:
        dispatcher = SignalDispatcher(reactor)
        for call in (
            lambda: dispatcher.watch(SIGHUP, signo, SIGUSR1),
            lambda: dispatcher.addHandler(signo, Recorder()),
            lambda: dispatcher.whenReceived(SIGHUP, signo),
        ):
            with pytest.raises(SignalNotWatchable, match=why):
                call()
        assert not dispatcher.watching
        assert not dispatcher.handlersOf(signo)


@pytest.mark.parametrize("wrong", ["SIGHUP", None, 1.0, True])
def test_whatIsNoNumberIsATypeError(wrong: Any) -> None:
    """
    A name too: names are for command lines.
    """
    with newReactor() as reactor:
        with pytest.raises(TypeError, match="not a signal's number"):
            dispatcherFor(reactor).watch(wrong)


def test_aHandlerThatCannotBeCalledIsRefusedAtOnce() -> None:
    """
    And so is an overlap that is none.
    """
    with newReactor() as reactor:
        dispatcher = dispatcherFor(reactor)
        with pytest.raises(TypeError, match="'reload' cannot be called"):
            dispatcher.addHandler(SIGHUP, "reload")  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="sometimes"):
            dispatcher.addHandler(SIGHUP, Recorder(), "sometimes")  # type: ignore[arg-type]
        assert not dispatcher.watching


@kernelOnly
def test_anUnknownBackendIsRefused() -> None:
    """
    The message says which there are.
    """
    with newReactor() as reactor:
        with pytest.raises(ValueError, match="'signalfd' and 'handler'"):
            SignalDispatcher(reactor, backend="pigeon")
        for backend in ("signalfd", "handler"):
            assert not SignalDispatcher(reactor, backend).watching


@kernelOnly
def test_aSignalHasOneDispatcher() -> None:
    """
    The second is refused, with all that it asked for; when the first lets go
    it may.
    """
    with newReactor() as one, newReactor() as two:
        first, second = SignalDispatcher(one), SignalDispatcher(two)
        first.watch(SIGUSR1)
        with pytest.raises(SignalAlreadyWatched, match="SIGUSR1 is watched already"):
            second.watch(SIGHUP, SIGUSR1)
        assert not second.watching
        second.watch(SIGHUP)
        with pytest.raises(SignalAlreadyWatched, match="SIGUSR1"):
            second.watch(SIGUSR1, SIGUSR2)
        assert second.watching == {SIGHUP}
        first.close()
        second.watch(SIGUSR1)
        second.close()


def test_aReactorHasOneDispatcher() -> None:
    """
    So that a library and an application can both listen; a new one after it
    was closed.
    """
    with newReactor() as one, newReactor() as two:
        dispatcher = dispatcherFor(one)
        assert dispatcherFor(one) is dispatcher
        assert dispatcherFor(two) is not dispatcher
        dispatcher.close()
        assert dispatcherFor(one) is not dispatcher
        dispatcherFor(one).close()
        dispatcherFor(two).close()


# -- close


@kernelOnly
def test_closeHandsOnWhatIsPendingAndWaitsForHandlers() -> None:
    """
    What comes after it goes where it would have gone without us.
    """
    python: list[int] = []
    saved = signal.signal(SIGUSR1, lambda signo, frame: python.append(signo))
    try:

        async def main(reactor: Any) -> None:
            dispatcher = dispatcherFor(reactor)
            got = Recorder(busy=True)
            dispatcher.addHandler(SIGRTMIN, got)
            dispatcher.addHandler(SIGUSR1, Recorder())
            queue(1, 2)
            closed = dispatcher.close()
            again = dispatcher.close()
            assert got.values == [1]
            got.out[0].callback(None)
            assert got.values == [1, 2]
            send(SIGUSR1)
            await turn(reactor)
            assert not closed.called
            assert not python
            got.out[1].callback(None)
            assert closed.called
            assert again.called
            assert python == [SIGUSR1]
            assert dispatcher.watching == frozenset()
            await dispatcher.close()

        spin(main)
    finally:
        signal.signal(SIGUSR1, saved)


def test_closeHandsOnMoreThanOneReadGives() -> None:
    """
    The last, too, which would have ended the process.
    """

    async def main(reactor: Any) -> None:
        dispatcher = dispatcherFor(reactor)
        got = Recorder()
        dispatcher.addHandler(SIGRTMIN, got)
        queue(*range(200))
        await dispatcher.close()
        assert got.values == list(range(200))

    spin(main)


def test_afterCloseNothingCanBeAskedOfIt() -> None:
    """
    By a named error.
    """
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


def test_closeFailsWhoWaits() -> None:
    """
    Also when a handler that is out waits: it could not end otherwise.
    """

    async def main(reactor: Any) -> None:
        dispatcher = dispatcherFor(reactor)
        told = []

        async def handler(info: SigInfo) -> None:
            try:
                await dispatcher.whenReceived(SIGUSR2)
            except DispatcherClosed:
                told.append(info.signo)

        registration = dispatcher.addHandler(SIGUSR1, handler)
        send(SIGUSR1)
        await until(reactor, lambda: registration.runs)
        waiting = dispatcher.whenReceived(SIGUSR1)
        await dispatcher.close()
        assert told == [SIGUSR1]
        with pytest.raises(DispatcherClosed):
            await waiting

    spin(main)


def test_whatIsPendingAtCloseIsStillReceived() -> None:
    """
    By who waits for it.
    """

    async def main(reactor: Any) -> None:
        dispatcher = dispatcherFor(reactor)
        waiting = dispatcher.whenReceived(SIGUSR1)
        send(SIGUSR1)
        await dispatcher.close()
        assert (await waiting).signal is SIGUSR1

    spin(main)


def ignore(_: object) -> None:
    """
    Return nothing.
    """


async def closeAndWait(dispatcher: SignalDispatcher, reactor: Any) -> None:
    """
    A handler's coroutine, that waits for something else first.
    """
    await turn(reactor)
    await dispatcher.close()


@pytest.mark.parametrize("way", ["plain", "deferred", "coroutine", "later"])
@pytest.mark.parametrize("queued", [False, True])
def test_aHandlerMayCloseTheDispatcher(way: str, queued: bool) -> None:
    """
    And wait for that, though the closing waits for other handlers.
    """

    async def main(reactor: Any) -> None:
        dispatcher = dispatcherFor(reactor)
        ways: dict[str, Callable[[], Any]] = {
            "plain": lambda: ignore(dispatcher.close()),
            "deferred": dispatcher.close,
            "coroutine": lambda: Deferred.fromCoroutine(later(0)),
            "later": lambda: closeAndWait(dispatcher, reactor),
        }

        async def later(_: int) -> None:
            await dispatcher.close()

        slow = Recorder(busy=True)
        others = Recorder()

        def handler(info: SigInfo) -> Any:
            if queued and info.value == 1:
                return first
            return ways[way]() if info.value == 2 else None

        first: Deferred[None] = Deferred()
        dispatcher.addHandler(SIGRTMIN, handler)
        dispatcher.addHandler(SIGRTMIN, others)
        dispatcher.addHandler(SIGRTMIN, slow)
        queue(1, 2, 3)
        await until(reactor, lambda: len(others.infos) == 3)
        first.callback(None)
        await until(reactor, lambda: dispatcher._state.value != "open")
        closed = dispatcher.close()
        for expected in range(1, 4):
            assert not closed.called
            assert slow.values == list(range(1, expected + 1))
            slow.out[-1].callback(None)
        await closed
        assert others.values == [1, 2, 3]
        assert dispatcher.watching == frozenset()

    spin(main)


def test_closeWaitsForAHold() -> None:
    """
    What is held is handled before.
    """

    async def main(reactor: Any) -> None:
        dispatcher = dispatcherFor(reactor)
        got = Recorder()
        dispatcher.addHandler(SIGHUP, got)
        with dispatcher.hold(SIGHUP):
            send(SIGHUP)
            closed = dispatcher.close()
            await turn(reactor)
            assert not closed.called
            assert not got.infos
        assert closed.called
        assert len(got.infos) == 1

    spin(main)


def test_theReactorsStopGivesEverythingBack(logged: list[LogEvent]) -> None:
    """
    Without a call of close: the fixture looks.  What is pending is handed on,
    who waits is told, and a later close has nothing to do.
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
    assert not failures(logged)


def test_theLastSignalBeforeTheReactorsStopMayCloseIt(logged: list[LogEvent]) -> None:
    """
    While the reactor drops it.
    """
    with newReactor() as reactor:
        dispatcher = dispatcherFor(reactor)
        closed: list[Deferred[None]] = []

        async def main(reactor: Any) -> None:
            dispatcher.addHandler(SIGHUP, lambda _: closed.append(dispatcher.close()))
            reactor.addSystemEventTrigger("before", "shutdown", send, SIGHUP)

        runReactor(reactor, main)
        assert closed[0].called
        assert dispatcher.watching == frozenset()
    assert not failures(logged)


def test_theReactorsStopEndsAClosingThatWaits() -> None:
    """
    For a handler whose Deferred will never fire.
    """
    with newReactor() as reactor:
        dispatcher = dispatcherFor(reactor)
        got = Recorder(busy=True)
        closed: list[Deferred[None]] = []

        async def main(reactor: Any) -> None:
            dispatcher.addHandler(SIGHUP, got)
            send(SIGHUP)
            await until(reactor, lambda: got.infos)
            closed.append(dispatcher.close())
            assert not closed[0].called

        runReactor(reactor, main)
        assert closed[0].called


def test_aHandlerThatEndsWithTheReactorEndsAll() -> None:
    """
    It has waited for another signal.
    """
    with newReactor() as reactor:
        dispatcher = dispatcherFor(reactor)
        told: list[str] = []

        async def handler(info: SigInfo) -> None:
            try:
                await dispatcher.whenReceived(SIGUSR2)
            except DispatcherClosed as error:
                told.append(str(error))

        async def main(reactor: Any) -> None:
            registration = dispatcher.addHandler(SIGUSR1, handler)
            send(SIGUSR1)
            await until(reactor, lambda: registration.runs)

        runReactor(reactor, main)
        assert told == ["the dispatcher was closed"]


@kernelOnly
def test_aHandlerMayCloseTheDispatcherOfAReactorThatStops() -> None:
    """
    All that is pending is handed on, and all is given back, once.
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
def test_aHandlerMayCloseItForWhatAnotherThreadKeptInTheEnd(
    logged: list[LogEvent], monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    A thread starts a child while the reactor stops, and a signal comes to it.
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
    assert failures(logged) == []


@kernelOnly
def test_aHoldThatEndsWithTheReactorEndsTheClosing() -> None:
    """
    Who waits in it is told that nothing comes any more, and leaves it.
    """
    with newReactor() as reactor:
        dispatcher = dispatcherFor(reactor)
        closed: list[Deferred[None]] = []

        async def wait() -> None:
            with dispatcher.hold(SIGUSR1), pytest.raises(DispatcherClosed):
                await dispatcher.whenReceived(SIGUSR2)

        async def main(reactor: Any) -> None:
            waiting.append(Deferred.fromCoroutine(wait()))
            dispatcher.addHandler(
                SIGRTMIN, lambda info: closed.append(dispatcher.close())
            )
            queue(0)

        waiting: list[Deferred[None]] = []
        runReactor(reactor, main)
        assert [each.called for each in waiting + closed] == [True, True]


@kernelOnly
def test_aFailureToGiveBackIsTheClosings(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    What could not be given back is the Deferred's failure.
    """

    async def main(reactor: Any) -> None:
        dispatcher = dispatcherFor(reactor)
        dispatcher.watch(SIGHUP)
        (reader,) = (each for each in reactor.getReaders() if hasattr(each, "signals"))
        close = reader.close

        def failing() -> None:
            close()
            raise BlockingIOError

        monkeypatch.setattr(reader, "close", failing)
        with pytest.raises(BlockingIOError):
            await dispatcher.close()

    spin(main)


@pytest.mark.parametrize("kind", ["select", "poll"])
@kernelOnly
def test_aDescriptorThatDiesIsTold(kind: str, logged: list[LogEvent]) -> None:
    """
    Somebody has put another file in its place.  Signals go where they would
    have gone without us, and that file is left alone.  (epoll does not look at
    the number, and so sees nothing of it.)
    """

    async def main(reactor: Any) -> None:
        dispatcher = dispatcherFor(reactor)
        dispatcher.watch(SIGHUP)
        (reader,) = (each for each in reactor.getReaders() if hasattr(each, "signals"))
        number = reader.fileno()
        directory = os.open("/", os.O_RDONLY)
        os.dup2(directory, number, inheritable=False)
        os.close(directory)
        await until(reactor, lambda: failures(logged))
        assert failures(logged)[0].check(IsADirectoryError)
        with pytest.raises(DispatcherClosed):
            dispatcher.watch(SIGHUP)
        assert dispatcher.close().called
        assert reader.fileno() == -1
        os.close(number)

    spin(main, kind)


@pytest.mark.parametrize("kind", ["select", "poll"])
@kernelOnly
def test_aDescriptorThatSomebodyHasClosedIsTold(
    kind: str, logged: list[LogEvent]
) -> None:
    """
    As C{os.closerange} does: the reactor finds out first, and why is logged.
    """

    async def main(reactor: Any) -> None:
        dispatcher = dispatcherFor(reactor)
        dispatcher.watch(SIGHUP)
        (reader,) = (each for each in reactor.getReaders() if hasattr(each, "signals"))
        os.close(reader.fileno())
        await dispatcher.whenClosed()
        error = failures(logged)[-1].value
        assert isinstance(error, OSError)
        assert error.errno == errno.EBADF
        with pytest.raises(DispatcherClosed):
            dispatcher.watch(SIGHUP)

    spin(main, kind)


@pytest.mark.parametrize("kind", ["poll", "epoll", "asyncio"])
@kernelOnly
def test_aDeadDescriptorCanBeClosed(kind: str, logged: list[LogEvent]) -> None:
    """
    What was taken is given back; that nothing could be read is told.
    """

    async def main(reactor: Any) -> None:
        dispatcher = dispatcherFor(reactor)
        dispatcher.watch(SIGHUP)
        (reader,) = (each for each in reactor.getReaders() if hasattr(each, "signals"))
        os.close(reader.fileno())
        await dispatcher.close()
        errors = [failure.value for failure in failures(logged)]
        assert errors
        assert all(
            isinstance(error, OSError) and error.errno == errno.EBADF
            for error in errors
        )

    spin(main, kind)


@kernelOnly
def test_setUpThatFailsHalfWayIsUndone() -> None:
    """
    No descriptor left: the errno is that of the first failure, and the mask,
    dispositions and readers are as they were.  Then it works.
    """
    with newReactor() as reactor:
        dispatcher = dispatcherFor(reactor)
        limits = resource.getrlimit(resource.RLIMIT_NOFILE)
        used = max(map(int, os.listdir("/proc/self/fd"))) + 1
        filled = [os.open("/", os.O_RDONLY) for _ in range(used)]
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(filled) + 1, limits[1]))
        try:
            with pytest.raises(
                OSError, match=f"Errno {errno.EMFILE}.* (signalfd|pipe)"
            ):
                dispatcher.addHandler(SIGHUP, Recorder())
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
            for fd in filled:
                os.close(fd)
        assert not dispatcher.watching
        assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == set()
        dispatcher.addHandler(SIGHUP, Recorder())
        dispatcher.close()


@kernelOnly
def test_aReactorThatRefusesTheReaderGetsNothing() -> None:
    """
    And keeps nothing: mask, dispositions and descriptor are as they were.
    """

    class Refusing(SelectReactor):
        def addReader(self, reader: Any) -> None:
            if hasattr(reader, "signals"):
                raise ZeroDivisionError
            super().addReader(reader)

    KINDS["refusing"] = Refusing
    try:
        with newReactor("refusing") as reactor:
            dispatcher = dispatcherFor(reactor)
            with pytest.raises(ZeroDivisionError):
                dispatcher.watch(SIGHUP)
            assert not dispatcher.watching
    finally:
        del KINDS["refusing"]


# -- fork


@kernelOnly
def test_aForkedChildIsToldThatTheDispatcherIsItsParents() -> None:
    """
    And the parent is undisturbed.
    """

    async def main(reactor: Any) -> None:
        dispatcher = dispatcherFor(reactor)
        got = Recorder()
        dispatcher.addHandler(SIGHUP, got)
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                for call in (
                    lambda: dispatcherFor(reactor).watch(SIGUSR1),
                    lambda: dispatcher.unwatch(SIGHUP),
                    lambda: dispatcher.addHandler(SIGHUP, got),
                    lambda: dispatcher.whenReceived(SIGHUP),
                    lambda: dispatcher.hold(SIGHUP),
                    lambda: dispatcher.watching,
                    dispatcher.close,
                ):
                    with pytest.raises(WatchedByParent, match=f"process {ME} watches"):
                        call()
                # It may have a reactor and a dispatcher of its own.
                with newReactor() as own:
                    dispatcherFor(own).watch(SIGHUP)
                    dispatcherFor(own).close()
                status = 0
            finally:
                os._exit(status)
        assert os.waitpid(pid, 0) == (pid, 0)
        send(SIGHUP)
        await until(reactor, lambda: got.infos)
        await dispatcher.close()

    spin(main)


@kernelOnly
def test_aDispatcherMadeBeforeAForkWatchesAfterIt() -> None:
    """
    As twistd does, which daemonizes after an application was made.
    """
    with newReactor() as reactor:
        dispatcher = dispatcherFor(reactor)
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                dispatcher.watch(SIGHUP)
                dispatcher.close()
                status = 0
            finally:
                os._exit(status)
        assert os.waitpid(pid, 0) == (pid, 0)
        dispatcher.close()


FLOOD = """
import os, sys, time
from txsignalfd.lowlevel import sigqueue
end = time.monotonic() + 20
while time.monotonic() < end and os.getppid() == int(sys.argv[1]):
    try:
        sigqueue(int(sys.argv[1]), int(sys.argv[2]), 0)
    except BlockingIOError:
        pass
"""


@contextmanager
def limitOfPendingSignals(limit: int) -> Iterator[None]:
    """
    Leave room for others: all processes of a user share it, and each other run
    of the tests would find it used up.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_SIGPENDING)
    resource.setrlimit(resource.RLIMIT_SIGPENDING, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_SIGPENDING, (soft, hard))


@kernelOnly
def test_aFloodDoesNotKeepUnwatchFromItsEnd() -> None:
    """
    Three processes send as fast as they can.  What they send later is ignored,
    as it was before: a handler would have no end of it.
    """
    saved = signal.signal(SIGRTMIN, signal.SIG_IGN)
    command = [sys.executable, "-c", FLOOD, str(ME), str(int(SIGRTMIN))]
    senders: list[subprocess.Popen[bytes]] = []
    try:
        with newReactor() as reactor, limitOfPendingSignals(10_000):
            dispatcher = dispatcherFor(reactor)
            got = Recorder()
            dispatcher.addHandler(SIGRTMIN, got)
            senders += [subprocess.Popen(command) for _ in range(3)]

            async def main(reactor: Any) -> None:
                await until(reactor, lambda: len(got.infos) > 1000)
                dispatcher.unwatch(SIGRTMIN)
                assert all(sender.poll() is None for sender in senders)
                await dispatcher.close()

            runReactor(reactor, main)
    finally:
        for sender in senders:
            sender.kill()
            sender.wait()
        signal.signal(SIGRTMIN, saved)


@kernelOnly
def test_readersThatWereRemovedAreAddedAgain() -> None:
    """
    As trial removes those of a test that did not close: the next use works.
    """

    async def main(reactor: Any) -> None:
        dispatcher = dispatcherFor(reactor)
        dispatcher.watch(SIGHUP)
        reactor.removeAll()
        waiting = dispatcherFor(reactor).whenReceived(SIGHUP)
        send(SIGHUP)
        assert (await waiting).signal is SIGHUP
        await dispatcher.close()

    spin(main)


def test_whatIsHeldWhenTheReactorStopsIsTold(logged: list[LogEvent]) -> None:
    """
    It will not be handled, also when the hold ends.
    """
    with newReactor() as reactor:
        dispatcher = dispatcherFor(reactor)
        got = Recorder()
        hold = dispatcher.hold(SIGHUP)

        async def main(reactor: Any) -> None:
            dispatcher.addHandler(SIGHUP, got)
            hold.__enter__()
            send(SIGHUP)
            await turn(reactor)

        runReactor(reactor, main)
        (event,) = (event for event in logged if "during hold" in event["log_format"])
        assert event["deferred"].startswith("SIGHUP from pid")
        hold.__exit__(None, None, None)
        assert not got.infos
