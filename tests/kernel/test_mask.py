"""
What is watched is held in the whole process, and given back as it was.
"""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from signal import SIGHUP, SIGRTMIN, SIGTERM, SIGUSR1, SIGUSR2
from typing import Any, TypeVar

import pytest

from tests.support.daemons import waitFor
from tests.support.descriptors import (
    Owner,
    Reads,
    blockedSignals,
    descriptorOf,
    drained,
    maskIn,
)
from tests.support.handlers import runIn
from tests.support.kernel import inChild
from tests.support.reactors import DEADLINE
from tests.support.worlds import queue, send
from txsignalfd import SignalDescriptor, lowlevel, spawning
from txsignalfd._kernel import mask as _mask
from txsignalfd._kernel.mask import ProcessMask
from txsignalfd._native.extension import ffi, lib

T = TypeVar("T")


def here(function: Callable[[], None]) -> None:
    """
    In this process.
    """
    function()


class Thread(threading.Thread):
    """
    A thread that blocks nothing, and goes on until it is told to end.
    """

    def __init__(self) -> None:
        super().__init__()
        self.end = threading.Event()
        self.start()

    def run(self) -> None:
        """
        Wait.
        """
        assert self.end.wait(DEADLINE)


@pytest.fixture
def threads() -> Iterator[list[Thread]]:
    """
    Eight threads that run before a signal is watched.
    """
    threads = [Thread() for _ in range(8)]
    yield threads
    for thread in threads:
        thread.end.set()
        thread.join()


def test_threadsThatRunBeforeStealNothing(threads: list[Thread]) -> None:
    """
    Each takes a signal once at most, and hands it on with all that it says.
    """
    with descriptorOf(SIGUSR1, SIGRTMIN) as (descriptor, reads):
        for value in range(1000):
            queue(value)
        for count in range(100):
            send(SIGUSR1)
            drained(descriptor, reads, 1001 + count)
        infos = reads.infos
        assert sorted(info.value for info in infos if info.value is not None) == list(
            range(1000)
        )
        assert {(info.pid, info.uid) for info in infos} == {(os.getpid(), os.getuid())}
        assert {info.codeName for info in infos if info.signo == SIGUSR1} == {"SI_USER"}


def test_aSignalForOneThreadIsHandedOnByIt(threads: list[Thread]) -> None:
    """
    The code tells that it was for a thread, which blocks it from then on.
    """
    with descriptorOf(SIGUSR1, SIGUSR2) as (descriptor, reads):
        thread = threads[0]
        assert thread.ident is not None
        signal.pthread_kill(thread.ident, SIGUSR1)
        (info,) = drained(descriptor, reads, 1).infos
        assert info.codeName == "SI_TKILL"
        # While the handler runs, the thread blocks all signals.
        waitFor(
            lambda: blockedSignals(thread.native_id) == {SIGUSR1}, "it blocks SIGUSR1"
        )


def test_theHandlerKeepsErrno(threads: list[Thread]) -> None:
    """
    Of the thread that it interrupts: a system call does not fail by it.
    """
    read, write = os.pipe()
    got: list[bytes] = []
    reader = threading.Thread(target=lambda: got.append(os.read(read, 1)))
    reader.start()
    with descriptorOf(SIGUSR1) as (descriptor, reads):
        assert reader.ident is not None
        signal.pthread_kill(reader.ident, SIGUSR1)
        drained(descriptor, reads, 1)
        os.write(write, b"x")
        reader.join()
    assert got == [b"x"]
    os.close(read)
    os.close(write)


@pytest.mark.parametrize("where", [here, inChild])
def test_watchingDoesNotDependOnTheThread(
    where: Callable[[Callable[[], None]], None],
) -> None:
    """
    The main thread has done nothing, and takes nothing; when all is given back
    it blocks what it blocked before.  In a forked child, as a daemon is one, its
    C{native_id} is that of the parent's.
    """
    where(watchInAnotherThread)


def watchInAnotherThread() -> None:
    """
    And see to the main thread, which this is.
    """

    def watch() -> None:
        with descriptorOf(SIGTERM, SIGUSR1) as (descriptor, reads):

            def both() -> bool:
                for signo in (SIGTERM, SIGUSR1):
                    os.kill(os.getpid(), signo)
                return blockedSignals(os.getpid()) == {SIGTERM, SIGUSR1, SIGUSR2}

            # The kernel offers each to the main thread, if we do not read it
            # before that has run.
            waitFor(both, "the main thread hands both on")
            descriptor.drain()
            assert {info.signo for info in reads.infos} == {SIGTERM, SIGUSR1}

    signal.pthread_sigmask(signal.SIG_BLOCK, [SIGUSR2])
    try:
        runIn(True, watch)
        assert blockedSignals() == {SIGUSR2}
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [SIGUSR2])


def test_aMaskThatWasNotEmptyIsGivenBackAsItWas() -> None:
    """
    What the user has blocked stays blocked.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, [SIGUSR1])
    try:
        with descriptorOf(SIGUSR1, SIGUSR2) as (descriptor, _):
            assert blockedSignals() == {SIGUSR1, SIGUSR2}
            descriptor.claimForThread()
            descriptor.unwatch([SIGUSR1])
            assert blockedSignals() == {SIGUSR1, SIGUSR2}
            descriptor.watch([SIGUSR1])
        assert blockedSignals() == {SIGUSR1}
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [SIGUSR1])


def test_settleTakesHoldInAnotherThread() -> None:
    """
    As in that of a reactor which was started elsewhere; and there too what
    was blocked is given back.
    """
    reads = Reads()
    descriptor = SignalDescriptor([SIGUSR1, SIGRTMIN], reads.append)

    def other() -> None:
        signal.pthread_sigmask(signal.SIG_SETMASK, [SIGUSR2])
        assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == {SIGUSR2}
        signal.pthread_kill(threading.get_ident(), SIGRTMIN)  # before it is settled
        assert blockedSignals() == {SIGUSR2, SIGRTMIN}
        descriptor.claimForThread()
        assert blockedSignals() == {SIGUSR1, SIGUSR2, SIGRTMIN}
        drained(descriptor, reads, 1)
        descriptor.close()
        assert blockedSignals() == {SIGUSR2}

    runIn(True, other)
    assert blockedSignals() == set()


def test_whatAnotherThreadGivesBackIsNotPassedOn() -> None:
    """
    A thread that was interrupted blocks the signal also when another thread
    has given it back.  Its children do not, and it does not itself from when
    it opens its mask, or gives back a signal of its own.
    """
    with ThreadPoolExecutor(1) as pool:

        def call(function: Callable[[], T]) -> T:
            return pool.submit(function).result(DEADLINE)

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

        call(int)
        interrupted(SIGUSR1, SIGRTMIN)
        assert call(partial(inChild, blockedSignals)) == set()
        assert call(opened) == set()
        assert call(blockedSignals) == set()
        interrupted(SIGUSR1, SIGRTMIN)
        assert call(acquires) == {SIGUSR2}
        assert call(blockedSignals) == set()


def test_dispositionsAreGivenBackAsTheyWere() -> None:
    """
    C{signal.getsignal} answers as ever meanwhile.
    """
    python: list[int] = []
    saved = signal.signal(SIGUSR1, lambda signo, _: python.append(signo))
    signal.signal(SIGUSR2, signal.SIG_IGN)
    ours = signal.getsignal(SIGUSR1)
    try:
        with descriptorOf(SIGUSR1, SIGUSR2, SIGHUP):
            assert signal.getsignal(SIGUSR1) is ours
            assert signal.getsignal(SIGUSR2) == signal.SIG_IGN
            assert signal.getsignal(SIGHUP) == signal.SIG_DFL
            assert {SIGUSR1, SIGUSR2, SIGHUP} <= maskIn(
                Path("/proc/self/status"), "SigCgt"
            )
        send(SIGUSR1, SIGUSR2)
        assert python == [SIGUSR1]
        assert SIGUSR2 in maskIn(Path("/proc/self/status"), "SigIgn")
    finally:
        signal.signal(SIGUSR1, saved)
        signal.signal(SIGUSR2, signal.SIG_DFL)


def test_aHandlerInstalledOverOursIsTheirs() -> None:
    """
    It is left there; and after C{claimForThread} it is what is given back.
    """
    python: list[int] = []
    saved = signal.getsignal(SIGUSR1)
    try:
        for settled in (False, True):
            with descriptorOf(SIGUSR1) as (descriptor, reads):
                signal.signal(SIGUSR1, lambda signo, _: python.append(signo))
                if settled:
                    descriptor.claimForThread()
                send(SIGUSR1)
                drained(descriptor, reads, 1)
            assert python == []
            send(SIGUSR1)
            assert python == [SIGUSR1]
            python.clear()
            signal.signal(SIGUSR1, saved)
    finally:
        signal.signal(SIGUSR1, saved)


def test_aForkedChildStartsAsTheProcessWas() -> None:
    """
    Mask and dispositions, before any code of the child runs.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, [SIGUSR2])
    signal.signal(SIGHUP, signal.SIG_IGN)
    before = [
        maskIn(Path("/proc/self/status"), field)
        for field in ("SigBlk", "SigIgn", "SigCgt")
    ]
    try:
        with descriptorOf(SIGUSR1, SIGUSR2, SIGHUP, SIGTERM, SIGRTMIN):
            pid = os.fork()
            if pid == 0:
                after = [
                    maskIn(Path("/proc/self/status"), field)
                    for field in ("SigBlk", "SigIgn", "SigCgt")
                ]
                os._exit(0 if after == before and not _mask._owners else 1)
            assert os.waitpid(pid, 0) == (pid, 0)
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [SIGUSR2])
        signal.signal(SIGHUP, signal.SIG_DFL)


def test_aRefusalInTheMiddleOfAListUndoesTheRest(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """
    With the errno of the first failure.
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


def test_aMainThreadThatCannotBeAskedIsTold(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    By an error, after all else has been given back.
    """

    class Full:
        def __getattr__(self, name: str) -> object:
            return getattr(real, name)

        def txs_unblock_in_main(self, signals: Any) -> int:
            real.txs_unblock_in_main(signals)  # nor must this test leave it
            ffi.errno = errno.EAGAIN
            return -1

    real = lib
    owner = Owner()
    mask = ProcessMask(owner.defer, owner.wake)
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
# Pending for good, and nothing may be queued beside it.
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


def test_aSignalIsStillHeardWhenNothingCanBeQueued() -> None:
    """
    Without a siginfo, as the kernel does it.  RLIMIT_SIGPENDING is per user, so
    root's own processes may be over it already.
    """
    result = subprocess.run(
        [sys.executable, "-c", FULL],
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=False,
    )
    assert (result.stdout, result.stderr) == ("[('SIGUSR1', 0, 0)]\n", "")


@pytest.mark.parametrize("how", [lowlevel.SIG_UNBLOCK, lowlevel.SIG_SETMASK])
def test_aThreadThatUnblocksASignalLosesNone(how: int) -> None:
    """
    As multiprocessing's resource tracker does with SIGTERM.
    """
    with descriptorOf(SIGTERM) as (descriptor, reads):
        lowlevel.sigprocmask(how, [SIGTERM] if how == lowlevel.SIG_UNBLOCK else [])
        send(SIGTERM)
        drained(descriptor, reads, 1)
        assert blockedSignals() == {SIGTERM}


def interruptThreads(count: int) -> None:
    """
    Have the handler note threads, of which each has ended when the next starts.
    """
    with descriptorOf(SIGUSR1) as (descriptor, reads):

        def one() -> None:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, [SIGUSR1])
            signal.pthread_kill(threading.get_ident(), SIGUSR1)

        for number in range(count):
            thread = threading.Thread(target=one)
            thread.start()
            thread.join()
            drained(descriptor, reads, number + 1)
        assert len(reads.infos) == count


def test_moreThreadsThanCanBeNotedAreServedAllTheSame() -> None:
    """
    That they were interrupted is forgotten; their signal is not.
    """
    interruptThreads(520)


def test_threadsThatHaveEndedLeaveRoomForOthers() -> None:
    """
    However many there were: what was blocked in a later one is given back.
    """
    # In another thread, so that there is no note of the main thread meanwhile.
    thread = threading.Thread(target=interruptThreads, args=[520])
    thread.start()
    thread.join()
    with descriptorOf(SIGUSR2):
        assert blockedSignals() == {SIGUSR2}
    assert blockedSignals() == set()
