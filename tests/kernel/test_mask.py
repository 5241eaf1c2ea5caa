"""
L{ProcessMask}: signals are acquired in the whole process, and restored.
"""

from __future__ import annotations

import ctypes
import errno
import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from signal import SIGHUP, SIGRTMIN, SIGTERM, SIGUSR1, SIGUSR2
from typing import Any

import pytest

from tests.support.daemons import waitFor
from tests.support.descriptors import (
    Owner,
    Reads,
    blockedSignals,
    descriptorOf,
    drained,
    maskIn,
    userBlocks,
)
from tests.support.handlers import Handled, handling
from tests.support.kernel import forked, inChild, libc
from tests.support.processes import runPython
from tests.support.threads import (
    busyThreads,
    knowingNumbers,
    otherThread,
    runIn,
    waitsIn,
)
from tests.support.worlds import needsLinux, queue, send
from txsignalfd import SigInfo, SignalDescriptor, lowlevel, spawning
from txsignalfd._kernel import mask as _mask
from txsignalfd._kernel.mask import ProcessMask
from txsignalfd._native.extension import ffi, lib


@pytest.fixture
def threads() -> Iterator[list[threading.Thread]]:
    """
    Eight threads that run before a signal is watched, and block none.
    """
    with busyThreads() as threads:
        yield threads


def test_earlierThreadsTakeNoSignals(threads: list[threading.Thread]) -> None:
    """
    Each receives a signal at most once, and passes it on unchanged.
    """
    with descriptorOf(SIGUSR1, SIGRTMIN) as (descriptor, reads):
        for value in range(1000):
            queue(value)
        for count in range(100):
            send(SIGUSR1)
            drained(descriptor, reads, 1001 + count)
        infos = reads.infos
        values = [value for value in reads.values if value is not None]
        assert sorted(values) == list(range(1000))
        assert {(info.pid, info.uid) for info in infos} == {(os.getpid(), os.getuid())}
        assert {info.codeName for info in infos if info.signo == SIGUSR1} == {"SI_USER"}


@knowingNumbers
def test_handlerPreservesErrno(threads: list[threading.Thread]) -> None:
    read, write = os.pipe()
    got: list[bytes] = []
    reader = threading.Thread(target=lambda: got.append(os.read(read, 1)), daemon=True)
    reader.start()
    with descriptorOf(SIGUSR1) as (descriptor, reads):
        assert reader.ident is not None
        assert reader.native_id is not None
        waitFor(partial(waitsIn, "read", reader.native_id), "it waits in read(2)")
        signal.pthread_kill(reader.ident, SIGUSR1)
        drained(descriptor, reads, 1)
        os.write(write, b"x")
        reader.join()
    assert got == [b"x"]
    os.close(read)
    os.close(write)


@pytest.mark.parametrize("where", [lambda function: function(), inChild])
def test_anyThreadMayWatch(where: Callable[[Callable[[], None]], None]) -> None:
    """
    The main thread passes signals on, and its mask is restored in the end, also in a
    forked child.
    """

    def watch() -> None:
        with descriptorOf(SIGTERM, SIGUSR1) as (descriptor, reads):

            def both() -> bool:
                for signo in (SIGTERM, SIGUSR1):
                    os.kill(os.getpid(), signo)
                return blockedSignals(os.getpid()) == {SIGTERM, SIGUSR1, SIGUSR2}

            # The kernel prefers the main thread, unless the signal is read before that
            # thread runs.
            waitFor(both, "the main thread passes both on")
            descriptor.drain()
            assert {info.signo for info in reads.infos} == {SIGTERM, SIGUSR1}

    def inMainThread() -> None:
        with userBlocks(SIGUSR2):
            runIn(True, watch)

    where(inMainThread)


def test_signalsBlockedByTheUserStayBlocked() -> None:
    with userBlocks(SIGUSR1), descriptorOf(SIGUSR1, SIGUSR2) as (descriptor, _):
        assert blockedSignals() == {SIGUSR1, SIGUSR2}
        descriptor.claimForThread()
        descriptor.unwatch([SIGUSR1])
        assert blockedSignals() == {SIGUSR1, SIGUSR2}
        descriptor.watch([SIGUSR1])


def test_claimForThreadBlocksInThatThread() -> None:
    """
    The signals are unblocked there when the descriptor is closed.
    """
    reads = Reads()
    descriptor = SignalDescriptor([SIGUSR1, SIGRTMIN], reads.append)

    def other() -> None:
        signal.pthread_sigmask(signal.SIG_SETMASK, [SIGUSR2])
        assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == {SIGUSR2}
        signal.pthread_kill(threading.get_ident(), SIGRTMIN)
        assert blockedSignals() == {SIGUSR2, SIGRTMIN}
        descriptor.claimForThread()
        assert blockedSignals() == {SIGUSR1, SIGUSR2, SIGRTMIN}
        drained(descriptor, reads, 1)
        descriptor.close()
        assert blockedSignals() == {SIGUSR2}

    runIn(True, other)
    assert blockedSignals() == set()


def test_interruptedThreadUnblocksRestoredSignals() -> None:
    """
    Its children start with the signals unblocked. The thread itself unblocks them when
    it opens a spawn window or acquires a signal.
    """

    def interrupted(*signals: int) -> None:
        with descriptorOf(*signals) as (descriptor, reads):
            for signo in signals:
                call(partial(signal.raise_signal, signo))
            assert call(blockedSignals) == set(signals)
            drained(descriptor, reads, len(signals))

    def opened() -> set[int]:
        with spawning():
            return blockedSignals()

    def acquires() -> set[int]:
        with descriptorOf(SIGUSR2):
            return blockedSignals()

    with otherThread() as call:
        interrupted(SIGUSR1, SIGHUP)
        assert call(partial(inChild, blockedSignals)) == set()
        assert call(opened) == set()
        assert call(blockedSignals) == set()
        interrupted(SIGUSR1, SIGHUP)
        assert call(acquires) == {SIGUSR2}
        assert call(blockedSignals) == set()


def test_dispositionsAreRestored() -> None:
    ours = Handled()
    with handling(SIGUSR1, ours), handling(SIGUSR2, signal.SIG_IGN):
        with descriptorOf(SIGUSR1, SIGUSR2, SIGHUP):
            assert id(signal.getsignal(SIGUSR1)) == id(ours)
            assert signal.getsignal(SIGUSR2) == signal.SIG_IGN
            assert signal.getsignal(SIGHUP) == signal.SIG_DFL
            assert {SIGUSR1, SIGUSR2, SIGHUP} <= maskIn(
                Path("/proc/self/status"), "SigCgt"
            )
        send(SIGUSR1, SIGUSR2)
        assert ours == [SIGUSR1]
        assert SIGUSR2 in maskIn(Path("/proc/self/status"), "SigIgn")


def test_handlerInstalledMeanwhileStays() -> None:
    """
    It is the one in effect after close, with and without C{claimForThread}.
    """
    saved = signal.getsignal(SIGUSR1)
    for claims in (False, True):
        python = Handled()
        with descriptorOf(SIGUSR1) as (descriptor, reads):
            signal.signal(SIGUSR1, python)
            if claims:
                descriptor.claimForThread()
            send(SIGUSR1)
            drained(descriptor, reads, 1)
        assert python == []
        send(SIGUSR1)
        assert python == [SIGUSR1]
        signal.signal(SIGUSR1, saved)


def test_forkedChildHasThePreviousMaskAndDispositions() -> None:
    """
    They are restored before any code of the child runs.
    """

    def masks() -> list[object]:
        status = Path("/proc/self/status")
        fields = ("SigBlk", "SigIgn", "SigCgt")
        return [*(maskIn(status, field) for field in fields), len(_mask._owners)]

    with userBlocks(SIGUSR2), handling(SIGHUP, signal.SIG_IGN):
        before = masks()
        with descriptorOf(SIGUSR1, SIGUSR2, SIGHUP, SIGTERM, SIGRTMIN):
            assert inChild(masks) == before


def test_failedAcquireRestoresTheOtherSignals(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    The error has the errno of the first failure.
    """

    class Refusing:
        def __getattr__(self, name: str) -> object:
            return getattr(real, name)

        def txs_acquire(self, signo: int, *arguments: int) -> int:
            if signo == SIGUSR2:
                ffi.errno = errno.EPERM
                return -1
            return int(real.txs_acquire(signo, *arguments))

    real = lib
    monkeypatch.setattr(_mask, "lib", Refusing())
    with pytest.raises(PermissionError, match="SIGUSR2"):
        SignalDescriptor([SIGHUP, SIGUSR1, SIGUSR2], print)
    assert not _mask._owners


def test_fullQueueOfPendingCallsIsAnError(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    Everything else is restored before it is raised.
    """

    class Full:
        def __getattr__(self, name: str) -> object:
            return getattr(real, name)

        def txs_unblock_in_main(self, signals: Any) -> int:
            real.txs_unblock_in_main(signals)  # for the tests that follow
            ffi.errno = errno.EAGAIN
            return -1

    real = lib
    mask = Owner().mask
    mask.acquire([SIGUSR1])
    monkeypatch.setattr(_mask, "lib", Full())

    def restore() -> None:
        with pytest.raises(BlockingIOError, match="main thread"):
            mask.restore([SIGUSR1])

    runIn(True, restore)
    assert not _mask._owners
    assert blockedSignals() == set()


FULL = """
import os, resource, signal, threading
from txsignalfd import SignalDescriptor, lowlevel

got = []
end = threading.Event()
threading.Thread(target=end.wait).start()
descriptor = SignalDescriptor([signal.SIGRTMIN, signal.SIGUSR1], got.extend)
other = [thread for thread in threading.enumerate() if thread.native_id != os.getpid()]
# The limit is used up, and no siginfo can be queued.
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR2])
resource.setrlimit(resource.RLIMIT_SIGPENDING, (0, 0))
signal.pthread_kill(other[0].ident, signal.SIGUSR1)
import select
assert select.select([descriptor], [], [], 30)[0]
descriptor.drain()
end.set()
descriptor.close()
print([(info.name, info.code, info.pid) for info in got])
"""


def test_signalOverTheLimitIsReceivedWithoutSiginfo() -> None:
    """
    RLIMIT_SIGPENDING counts per user, so root's own processes may exceed it already.
    """
    result = runPython("-c", FULL)
    assert (result.stdout, result.stderr) == ("[('SIGUSR1', 0, 0)]\n", "")


@pytest.mark.parametrize("how", [lowlevel.SIG_UNBLOCK, lowlevel.SIG_SETMASK])
def test_unblockedSignalIsStillReceived(how: int) -> None:
    """
    The resource tracker of multiprocessing unblocks SIGTERM.
    """
    with descriptorOf(SIGTERM) as (descriptor, reads):
        lowlevel.sigprocmask(how, [SIGTERM] if how == lowlevel.SIG_UNBLOCK else [])
        send(SIGTERM)
        drained(descriptor, reads, 1)
        assert blockedSignals() == {SIGTERM}


def interruptThreads(count: int) -> None:
    """
    Interrupt threads, one after another, each of which then ends.
    """

    def one() -> None:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [SIGUSR1])
        signal.pthread_kill(threading.get_ident(), SIGUSR1)

    with descriptorOf(SIGUSR1) as (descriptor, reads):
        for number in range(count):
            runIn(True, one)
            drained(descriptor, reads, number + 1)
        assert len(reads.infos) == count


# In another thread, so that the main thread has no entry meanwhile.
@pytest.mark.parametrize("inThread", [False, True])
def test_threadsBeyondTheTableLoseNoSignal(inThread: bool) -> None:
    """
    More threads than the table has entries are interrupted, and when they have ended
    their entries are free.
    """
    runIn(inThread, lambda: interruptThreads(520))
    with descriptorOf(SIGUSR2):
        assert blockedSignals() == {SIGUSR2}
    assert blockedSignals() == set()


def fillPendingCalls() -> None:
    """
    Fill the queue of calls that the main thread makes when it next runs Python code.
    """
    add = ctypes.pythonapi.Py_AddPendingCall
    doNothing = ctypes.cast(libc.abs, ctypes.c_void_p)
    while add(doNothing, None) == 0:
        pass


@pytest.mark.parametrize(
    "occasion",
    [
        lambda mask: mask.restore([]),
        lambda mask: mask.claimForThread(),
        lambda mask: mask.acquire([]),
    ],
    ids=["restore", "claim", "acquire"],
)
@knowingNumbers
@forked
def test_mainThreadIsAskedAgain(occasion: Callable[[ProcessMask], None]) -> None:
    """
    Its mask is restored later, if the queue of pending calls was full before.
    """
    mask = Owner().mask

    def restore() -> None:
        main = os.getpid()
        try:
            mask.acquire([SIGUSR1])
            os.kill(main, SIGUSR1)
            waitFor(lambda: SIGUSR1 in blockedSignals(main), "it is interrupted")
            # In C, the main thread makes no pending calls, even if it is interrupted.
            waitFor(lambda: waitsIn("read", main), "it runs no Python code")
            fillPendingCalls()
            with pytest.raises(BlockingIOError, match="main thread"):
                mask.restore([SIGUSR1])
        finally:
            os.write(writer, b"x")

    signal.signal(SIGUSR1, signal.SIG_IGN)
    reader, writer = os.pipe()
    with ThreadPoolExecutor(1) as pool:
        restored = pool.submit(restore)
        assert libc.read(reader, ctypes.create_string_buffer(1), 1) == 1
        restored.result()
    assert blockedSignals() == {SIGUSR1}
    runIn(True, lambda: occasion(mask))
    assert blockedSignals() == set()


@forked
@needsLinux
def test_finalizerMayRestoreWhileASignalIsAcquired(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """
    The garbage collector, or a handler of the signal module, runs code at any moment.
    """

    class Interrupted:
        def __getattr__(self, name: str) -> object:
            return getattr(real, name)

        def txs_acquire(self, *arguments: int) -> int:
            first.close()
            return int(real.txs_acquire(*arguments))

    real = lib
    first = SignalDescriptor([SIGUSR1], print)
    monkeypatch.setattr(_mask, "lib", Interrupted())
    with descriptorOf(SIGUSR2) as (second, reads):
        send(SIGUSR2)
        drained(second, reads, 1)
        assert set(_mask._owners) == {SIGUSR2}
    assert blockedSignals() == set()


@forked
@needsLinux
def test_wakeMayUseTheDescriptorAndAnotherThread() -> None:
    """
    No lock is held when C{wake} is called.
    """

    def useMask() -> None:
        with spawning(), descriptorOf(SIGHUP):
            pass

    def wake() -> None:
        woken.append(None)
        descriptor.claimForThread()
        descriptor.watch([SIGUSR2])
        runIn(True, useMask)

    woken: list[None] = []
    infos: list[SigInfo] = []
    descriptor = SignalDescriptor([SIGUSR1], infos.extend, wake=wake)
    with spawning():
        send(SIGUSR1)
    assert len(woken) == 1
    descriptor.close()
    assert [info.signo for info in infos] == [SIGUSR1]


def test_reservedSignalStaysBlockedUntilItIsAcquired() -> None:
    """
    Acquiring and restoring other signals does not unblock a reserved one.
    """

    def reserved() -> set[int]:
        _mask.reserve([SIGHUP])
        with descriptorOf(SIGUSR1):
            during = SIGHUP in blockedSignals()
        after = SIGHUP in blockedSignals()
        with descriptorOf(SIGHUP):
            pass
        assert during
        assert after
        return blockedSignals()

    assert SIGHUP not in inChild(reserved)
