"""
C{dispatcher.watch} and C{dispatcher.unwatch}: what is acquired and released.
"""

from __future__ import annotations

import errno
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from signal import SIGHUP, SIGRTMIN, SIGUSR1, SIGUSR2
from typing import Any

import pytest
from twisted.internet.selectreactor import SelectReactor

from tests.support.handlers import Recorder, recording
from tests.support.inreactor import inReactor
from tests.support.kernel import inChild, limitOfPendingSignals
from tests.support.reactors import KINDS, newReactor, runReactor, turn, until
from tests.support.worlds import BACKEND, ME, dispatcherFor, kernelOnly, queue, send
from txsignalfd import (
    SigInfo,
    SignalAlreadyWatched,
    SignalDispatcher,
    SignalNotWatchable,
    WatchedByParent,
)

pytestmark = pytest.mark.usefixtures("world")


@pytest.fixture
def python() -> Iterator[list[int]]:
    """
    The calls of a Python handler of SIGUSR1.
    """
    calls: list[int] = []
    saved = signal.signal(SIGUSR1, lambda signo, frame: calls.append(signo))
    yield calls
    signal.signal(SIGUSR1, saved)


@inReactor
async def test_aSignalStaysWatchedWithoutAHandler(dispatcher: SignalDispatcher) -> None:
    """
    SIGHUP does not kill the process after its last handler was removed.
    """
    got = Recorder()
    dispatcher.addHandler(SIGHUP, got).remove()
    assert dispatcher.watching == {SIGHUP}
    send(SIGHUP)
    await turn()
    assert not got.infos


@kernelOnly
@inReactor
async def test_handlersReceivePendingSignalsBeforeUnwatchReturns(
    dispatcher: SignalDispatcher, python: list[int]
) -> None:
    """
    After that the signal has its previous action.  Its handler gets it again when it
    is watched again.
    """
    got = recording(dispatcher, SIGUSR1, SIGRTMIN)
    send(SIGUSR1)
    queue(*range(100))
    dispatcher.unwatch(SIGUSR1, SIGUSR2)  # the other is not watched
    assert [info.signo for info in got.infos] == [SIGUSR1] + [SIGRTMIN] * 100
    assert dispatcher.watching == {SIGRTMIN}
    assert not python
    send(SIGUSR1)
    assert python == [SIGUSR1]
    dispatcher.watch(SIGUSR1)
    send(SIGUSR1)
    await until(lambda: len(got.infos) == 102)


@inReactor
async def test_unwatchInAHandlerKeepsTheOrder(
    reactor: Any, dispatcher: SignalDispatcher
) -> None:
    """
    Signals that unwatch reads are handled after those that were read before.
    """
    got = Recorder()

    def unwatch(info: SigInfo) -> None:
        if info.value == 10:
            queue(*range(200, 300))
            dispatcher.unwatch(SIGRTMIN)
            assert got.values == list(range(11))

    dispatcher.addHandler(SIGRTMIN, got)
    dispatcher.addHandler(SIGRTMIN, unwatch)
    queue(*range(200))
    await until(lambda: len(got.infos) == 300)
    assert got.values == list(range(300))
    assert not dispatcher.watching
    assert not any(hasattr(each, "signals") for each in reactor.getReaders())


@kernelOnly
@inReactor
async def test_aDispatcherThatWatchesNothingHoldsNoResources(
    reactor: Any, dispatcher: SignalDispatcher
) -> None:
    """
    It has neither a descriptor nor a reader.
    """
    descriptors = os.listdir("/proc/self/fd")
    readers = reactor.getReaders()
    dispatcher.unwatch(SIGHUP)
    dispatcher.watch()
    assert reactor.getReaders() == readers
    for _ in range(2):
        dispatcher.watch(SIGHUP, SIGUSR1)
        dispatcher.watch(SIGHUP)
        assert len(reactor.getReaders()) == len(readers) + (
            2 if BACKEND == "signalfd" else 1
        )
        dispatcher.unwatch(*dispatcher.watching)
        assert reactor.getReaders() == readers
        assert len(os.listdir("/proc/self/fd")) == len(descriptors)


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
def test_anUnwatchableSignalIsRefusedWithTheReason(signo: int, why: str) -> None:
    """
    No other signal of the same call is watched.
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
def test_onlyANumberIsASignal(wrong: Any) -> None:
    """
    A name is a TypeError, too.
    """
    with newReactor() as reactor:
        with pytest.raises(TypeError, match="not a signal's number"):
            dispatcherFor(reactor).watch(wrong)


def test_aHandlerThatCannotBeCalledIsRefused() -> None:
    """
    An unknown overlap is refused, too.  Then the signal is not watched.
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
    The message names the backends.
    """
    with newReactor() as reactor:
        with pytest.raises(ValueError, match="'signalfd' and 'handler'"):
            SignalDispatcher(reactor, backend="pigeon")
        for backend in ("signalfd", "handler"):
            assert not SignalDispatcher(reactor, backend).watching


@kernelOnly
def test_aSignalHasOneDispatcher() -> None:
    """
    Another dispatcher may watch it when the first one is closed.
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
    Libraries and applications share it.  After it was closed there is a new one.
    """
    with newReactor() as one, newReactor() as two:
        dispatcher = dispatcherFor(one)
        assert dispatcherFor(one) is dispatcher
        assert dispatcherFor(two) is not dispatcher
        dispatcher.close()
        assert dispatcherFor(one) is not dispatcher
        dispatcherFor(one).close()
        dispatcherFor(two).close()


@kernelOnly
def test_aFailedSetUpIsUndone() -> None:
    """
    Without a free descriptor nothing is acquired.  Later it works.
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
def test_nothingIsWatchedByAReactorThatRefusesReaders(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Refusing(SelectReactor):
        def addReader(self, reader: Any) -> None:
            if hasattr(reader, "signals"):
                raise ZeroDivisionError
            super().addReader(reader)

    monkeypatch.setitem(KINDS, "refusing", Refusing)
    with newReactor("refusing") as reactor:
        dispatcher = dispatcherFor(reactor)
        with pytest.raises(ZeroDivisionError):
            dispatcher.watch(SIGHUP)
        assert not dispatcher.watching


@kernelOnly
@inReactor
async def test_aRemovedReaderIsAddedAgain(
    reactor: Any, dispatcher: SignalDispatcher
) -> None:
    """
    Trial removes the readers of an unclean test.  The next use works all the same.
    """
    dispatcher.watch(SIGHUP)
    reactor.removeAll()
    waiting = dispatcher.whenReceived(SIGHUP)
    send(SIGHUP)
    assert (await waiting).signal is SIGHUP


@kernelOnly
@inReactor
async def test_aForkedChildCannotUseItsParentsDispatcher(
    reactor: Any, dispatcher: SignalDispatcher
) -> None:
    """
    It may have a reactor and a dispatcher of its own.  The parent is undisturbed.
    """
    got = recording(dispatcher, SIGHUP)

    def child() -> None:
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
        with newReactor() as own:
            dispatcherFor(own).watch(SIGHUP)
            dispatcherFor(own).close()

    inChild(child)
    send(SIGHUP)
    await until(lambda: got.infos)


@kernelOnly
def test_aDispatcherMadeBeforeAForkWatchesAfterIt() -> None:
    """
    An application may be made before twistd daemonizes.
    """

    def child() -> None:
        dispatcher.watch(SIGHUP)
        dispatcher.close()

    with newReactor() as reactor:
        dispatcher = dispatcherFor(reactor)
        inChild(child)
        dispatcher.close()


FLOOD = """
import os, sys, time
from txsignalfd.lowlevel import sigqueue
end = time.monotonic() + 120
while time.monotonic() < end and os.getppid() == int(sys.argv[1]):
    try:
        sigqueue(int(sys.argv[1]), int(sys.argv[2]), 0)
    except BlockingIOError:
        pass
"""


@contextmanager
def flood(signo: int) -> Iterator[None]:
    """
    Three processes that send a signal to this one as fast as they can.
    """
    command = [sys.executable, "-c", FLOOD, str(ME), str(int(signo))]
    senders = [subprocess.Popen(command) for _ in range(3)]
    try:
        yield
        assert all(sender.poll() is None for sender in senders)
    finally:
        for sender in senders:
            sender.kill()
            sender.wait()


@kernelOnly
def test_unwatchReturnsDuringAFlood() -> None:
    """
    Signals that are sent later are ignored, as they were before.
    """
    saved = signal.signal(SIGRTMIN, signal.SIG_IGN)
    with newReactor() as reactor, limitOfPendingSignals(10_000):
        dispatcher = dispatcherFor(reactor)
        got = recording(dispatcher, SIGRTMIN)

        async def main(reactor: Any) -> None:
            with flood(SIGRTMIN):
                await until(lambda: len(got.infos) > 1000)
                dispatcher.unwatch(SIGRTMIN)
            await dispatcher.close()

        runReactor(reactor, main)
    signal.signal(SIGRTMIN, saved)


def test_aReactorThatCannotBeWokenIsTriedAgain() -> None:
    """
    With the next signal, as after memory was exhausted.
    """
    calls: list[object] = []

    class Exhausted:
        def callFromThread(self, function: object) -> None:
            calls.append(function)
            raise MemoryError

    backend: Any = SignalDispatcher(Exhausted())._backend
    for count in (1, 2):
        with pytest.raises(MemoryError):
            backend._wake()
        assert len(calls) == count
