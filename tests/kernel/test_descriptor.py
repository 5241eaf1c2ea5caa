"""
L{SignalDescriptor}: a signalfd for every reactor.
"""

from __future__ import annotations

import fcntl
import os
import resource
import signal
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from signal import SIGHUP, SIGRTMIN, SIGUSR1, SIGUSR2
from typing import Any

import pytest
from twisted.internet.interfaces import ILoggingContext, IReadDescriptor
from twisted.logger import formatEvent
from twisted.python.failure import Failure
from zope.interface.verify import verifyObject

from tests.support.descriptors import Reads, descriptorOf
from tests.support.handlers import handling
from tests.support.inreactor import inReactor
from tests.support.kernel import inChild
from tests.support.observers import Logged
from tests.support.reactors import KINDS, spin, turn, until, untilLength
from tests.support.worlds import queue, send
from txsignalfd import (
    SigInfo,
    SignalAlreadyWatched,
    SignalDescriptor,
    SignalNotWatchable,
    WatchedByParent,
    spawning,
)
from txsignalfd._kernel.callables import nameOf
from txsignalfd._kernel.descriptor import maximumReads


@pytest.fixture
def reads() -> Reads:
    return Reads()


@pytest.fixture
def descriptor(reads: Reads) -> Iterator[SignalDescriptor]:
    descriptor = SignalDescriptor([SIGUSR1, SIGRTMIN], reads.append)
    yield descriptor
    descriptor.close()


def test_descriptorImplementsTheReactorsInterfaces(
    descriptor: SignalDescriptor,
) -> None:
    """
    The descriptor is non-blocking, and closed on exec.
    """
    assert verifyObject(IReadDescriptor, descriptor)
    assert verifyObject(ILoggingContext, descriptor)
    assert descriptor.logPrefix() == "SignalDescriptor"
    assert repr(descriptor).endswith(" of SIGUSR1 SIGRTMIN>")
    assert fcntl.fcntl(descriptor, fcntl.F_GETFD) & fcntl.FD_CLOEXEC
    assert not os.get_blocking(descriptor.fileno())
    assert descriptor.signals == {SIGUSR1, SIGRTMIN}


@pytest.mark.parametrize("kind", list(KINDS))
@inReactor
async def test_everyReactorReadsTheDescriptor(
    reactor: Any, kind: str, reads: Reads
) -> None:
    """
    C{addReader} is all that a reactor needs.
    """
    descriptor = SignalDescriptor([SIGUSR1], reads.append)
    reactor.addReader(descriptor)
    send(SIGUSR1)
    await until(lambda: reads)
    assert [info.signal for info in reads.infos] == [SIGUSR1]
    reactor.removeReader(descriptor)
    descriptor.close()


def test_readReceivesAtMost64Signals(
    descriptor: SignalDescriptor, reads: Reads
) -> None:
    """
    The reactor can serve its other descriptors between two reads.
    """
    queue(*range(150))
    for expected in (64, 64, 22):
        assert descriptor.doRead() is None
        assert len(reads[-1]) == expected
    assert descriptor.doRead() is None  # EAGAIN is no error
    assert [info.value for info in reads.infos] == list(range(150))
    assert len(reads) == 3


def test_drainReceivesAllThatIsPending(
    descriptor: SignalDescriptor, reads: Reads
) -> None:
    for count in (0, 1, 63, 64, 65, 128):
        queue(*range(count))
        descriptor.drain()
        assert [info.value for info in reads.infos] == list(range(count))
        reads.clear()


def test_deferredSignalsAreReceivedBeforeAPause() -> None:
    """
    They would not outlive execve(2), as those in the kernel's queue do.
    """
    with descriptorOf(SIGRTMIN) as (descriptor, reads):
        with spawning():
            queue(1)
        queue(2)
        assert descriptor.pause() == 1
        assert reads.values == [1]
        descriptor.resume()
        descriptor.drain()
        assert reads.values == [1, 2]


def test_drainReadsNoMoreThanCanBePending(
    descriptor: SignalDescriptor, reads: Reads, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    It returns even if senders are faster than the reader.
    """
    assert maximumReads() >= resource.getrlimit(resource.RLIMIT_SIGPENDING)[0] // 64
    with monkeypatch.context() as patched:
        unlimited = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
        patched.setattr(resource, "getrlimit", lambda _: unlimited)
        assert maximumReads() > sys.maxsize // 64
    with monkeypatch.context() as patched:
        patched.setattr("txsignalfd._kernel.descriptor.maximumReads", lambda: 2)
        queue(*range(200))
        descriptor.drain()
        assert len(reads.infos) == 128
    descriptor.drain()
    assert len(reads.infos) == 200


def test_exceptionOfAReceiverIsLogged(logged: Logged) -> None:
    received = []

    def receive(infos: list[SigInfo]) -> None:
        received.append(infos)
        raise ZeroDivisionError

    async def main(reactor: Any) -> None:
        descriptor = SignalDescriptor([SIGUSR1], receive)
        reactor.addReader(descriptor)
        for expected in (1, 2):
            send(SIGUSR1)
            await untilLength(received, expected)
        reactor.removeReader(descriptor)
        descriptor.close()

    spin(main)
    assert [event["infos"] for event in logged if "infos" in event] == received
    assert all(failure.check(ZeroDivisionError) for failure in logged.failures)


def test_replacedHandlerIsReportedOnce(
    descriptor: SignalDescriptor, reads: Reads, logged: Logged
) -> None:
    """
    The log names the handler and the receiver; C{signal.getsignal} returns the handler.
    """

    def theirs(signo: int, frame: object) -> None:
        raise AssertionError("called")

    with handling(SIGUSR1, theirs):
        for _ in range(3):
            send(SIGUSR1)
            descriptor.doRead()
        assert len(reads.infos) == 3
        (event,) = logged
        text = formatEvent(event)
        assert text == (
            "SIGUSR1 is watched by txsignalfd (tests.support.descriptors.Reads.append);"
            f" the handler {nameOf(theirs)}, installed since, is not called:"
            " call it from there, or unwatch the signal first"
        )
        assert signal.getsignal(SIGUSR1) is theirs
    descriptor.claimForThread()


def test_replacementUnknownToPythonIsReported(
    descriptor: SignalDescriptor, logged: Logged
) -> None:
    """
    C code may replace the handler, too.
    """
    signal.signal(SIGUSR1, signal.SIG_DFL)
    send(SIGUSR1)
    descriptor.doRead()
    (event,) = logged
    assert "the handler (unknown to Python), installed" in str(formatEvent(event))


def test_signalDeferredDuringCloseIsReceived(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    Another thread may start a child while the descriptor is closed.
    """
    reads = Reads()
    descriptor = SignalDescriptor([SIGUSR1], reads.append)
    mask = descriptor._mask
    restore = mask.restore
    late = SigInfo.make(SIGUSR1, pid=1)

    def keptBefore(signals: Any) -> None:
        mask.defer([late])
        restore(signals)

    monkeypatch.setattr(mask, "restore", keptBefore)
    descriptor.close()
    assert reads.infos == [late]


def test_replacedHandlerIsReportedForEverySignalOfARead(
    descriptor: SignalDescriptor, reads: Reads, logged: Logged
) -> None:
    """
    The read may begin with another signal.
    """
    descriptor.watch([SIGHUP])
    with handling(SIGUSR1, print):
        send(SIGUSR1)
        send(SIGHUP)
        descriptor.doRead()
        assert [info.signal for info in reads.infos] == [SIGHUP, SIGUSR1]
        (event,) = logged
        assert event["name"] == "SIGUSR1"
    descriptor.claimForThread()


def test_handlersAreCheckedAtMostAHundredTimesASecond(
    descriptor: SignalDescriptor, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[float] = []
    now = 0.0
    monkeypatch.setattr(descriptor._mask, "reinstall", lambda signo: looks.append(now))
    monkeypatch.setattr("txsignalfd._kernel.descriptor.monotonic", lambda: now)
    for after in (1, 0, 0.009, 0.002, 0.009, 0.002):
        now += after
        send(SIGUSR1)
        descriptor.doRead()
    assert looks == pytest.approx([1.0, 1.011, 1.022])


def test_signalsAreAddedAndRestored(descriptor: SignalDescriptor, reads: Reads) -> None:
    """
    Pending signals are received before they are restored.
    """
    descriptor.watch([SIGUSR2, SIGUSR1])
    assert descriptor.signals == {SIGUSR1, SIGUSR2, SIGRTMIN}
    send(SIGUSR2)
    descriptor.unwatch([SIGUSR2, SIGHUP])
    assert [info.signal for info in reads.infos] == [SIGUSR2]
    assert descriptor.signals == {SIGUSR1, SIGRTMIN}
    assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == {SIGUSR1, SIGRTMIN}


def test_failedWatchChangesNothing(descriptor: SignalDescriptor) -> None:
    with pytest.raises(SignalNotWatchable, match="SIGKILL"):
        descriptor.watch([SIGUSR2, signal.SIGKILL])
    other = SignalDescriptor([SIGHUP], print)
    with pytest.raises(SignalAlreadyWatched, match="SIGHUP"):
        descriptor.watch([SIGUSR2, SIGHUP])
    other.close()
    assert descriptor.signals == {SIGUSR1, SIGRTMIN}


def test_watchRefusedByTheKernelChangesNothing(descriptor: SignalDescriptor) -> None:
    """
    The kernel refuses because another file has the descriptor's number.
    """
    saved = os.dup(descriptor.fileno())
    with open("/dev/null", "rb") as null:
        os.dup2(null.fileno(), descriptor.fileno(), inheritable=False)
    with pytest.raises(OSError, match="signalfd: Invalid argument"):
        descriptor.watch([SIGUSR2])
    os.dup2(saved, descriptor.fileno(), inheritable=False)
    os.close(saved)
    assert descriptor.signals == {SIGUSR1, SIGRTMIN}
    assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == {SIGUSR1, SIGRTMIN}


def test_closedDescriptorRefusesToWatch(reads: Reads) -> None:
    """
    Closing it again does nothing.
    """
    descriptor = SignalDescriptor([SIGUSR1], reads.append)
    descriptor.close()
    descriptor.close()
    assert descriptor.fileno() == -1
    assert descriptor.signals == frozenset()
    with pytest.raises(ValueError, match="closed"):
        descriptor.watch([SIGUSR1])
    with pytest.raises(ValueError, match="closed"):
        descriptor.unwatch([SIGUSR1])
    descriptor.connectionLost(Failure(ZeroDivisionError()))
    # A reactor may call this once more when another reader has closed it.
    assert descriptor.doRead() is None


def test_receiverMayCloseDuringUnwatch() -> None:
    def close(infos: list[SigInfo]) -> None:
        closing.close()

    before = len(os.listdir("/proc/self/fd"))
    closing = SignalDescriptor([SIGUSR1, SIGUSR2], close)
    send(SIGUSR1)
    closing.unwatch([SIGUSR2])
    assert closing.signals == frozenset()
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize("kind", list(KINDS))
@inReactor
async def test_receiverMayCloseDuringARead(reactor: Any, kind: str) -> None:
    """
    The reactor reports no lost descriptor.
    """

    def close(infos: list[SigInfo]) -> None:
        reactor.removeReader(closing)
        closing.close()

    lost: list[Failure] = []
    closing = SignalDescriptor([SIGUSR1], close, lost.append)
    reactor.addReader(closing)
    send(SIGUSR1)
    await until(lambda: closing.fileno() == -1)
    await turn()
    assert not lost


def test_receiverMayCloseWhenTheReactorStops() -> None:
    """
    C{lost} is not called then.
    """

    def close(infos: list[SigInfo]) -> None:
        received.extend(infos)
        closing.close()

    received: list[SigInfo] = []
    lost: list[Failure] = []
    closing = SignalDescriptor([SIGUSR1], close, lost.append)
    send(SIGUSR1)
    closing.connectionLost(Failure(ZeroDivisionError()))
    assert len(received) == 1
    assert not lost


def test_lostIsCalledOnceWithTheReason(reads: Reads) -> None:
    """
    Pending signals are received, and all signals restored, before C{lost} is called.
    """
    lost: list[Failure] = []
    reason = Failure(ZeroDivisionError())
    descriptor = SignalDescriptor([SIGUSR1], reads.append, lost.append)
    send(SIGUSR1)
    descriptor.connectionLost(reason)
    descriptor.connectionLost(reason)
    assert lost == [reason]
    assert [info.signal for info in reads.infos] == [SIGUSR1]
    assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == set()
    unheard = SignalDescriptor([SIGUSR1], reads.append)
    unheard.connectionLost(reason)


@pytest.mark.parametrize("content", [b"", b"text", bytes(129)])
def test_fileWithTheDescriptorsNumberIsNotClosed(
    reads: Reads, tmp_path: Path, content: bytes
) -> None:
    """
    Reading it is an error, which C{lost} gets.
    """
    lost: list[Failure] = []
    descriptor = SignalDescriptor([SIGUSR1], reads.append, lost.append)
    number = descriptor.fileno()
    (tmp_path / "file").write_bytes(content)
    with open(tmp_path / "file", "rb") as file:
        os.dup2(file.fileno(), number, inheritable=False)
    error = descriptor.doRead()
    assert isinstance(error, OSError)
    descriptor.connectionLost(Failure(error))
    assert [reason.value for reason in lost] == [error]
    os.close(number)
    assert not reads


def test_forkedChildCannotUseTheDescriptor(descriptor: SignalDescriptor) -> None:
    def use() -> None:
        for call in (
            lambda: descriptor.watch([SIGUSR2]),
            lambda: descriptor.unwatch([SIGUSR1]),
            descriptor.claimForThread,
            descriptor.close,
        ):
            with pytest.raises(WatchedByParent, match="twistd forks"):
                call()

    inChild(use)


def test_unclosedDescriptorIsAResourceWarning() -> None:
    """
    Its signals stay acquired, and are dropped.
    """
    left = [SignalDescriptor([SIGUSR1], print)]
    fd, mask = left[0].fileno(), left[0]._mask
    with pytest.warns(ResourceWarning, match=r"unclosed <SignalDescriptor \d+ of SIGU"):
        left.clear()
    os.fstat(fd)
    assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == {SIGUSR1}
    with spawning():
        send(SIGUSR1)
    os.close(fd)
    mask.restore([SIGUSR1])


def test_unclosedDescriptorOfTheParentIsNoWarning() -> None:
    """
    A forked child must leave it open.
    """

    def forget() -> list[str]:
        with warnings.catch_warnings(record=True) as caught:
            left.clear()
        return [str(warning.message) for warning in caught]

    left = [SignalDescriptor([SIGUSR1], print)]
    assert inChild(forget) == []
    left.pop().close()
