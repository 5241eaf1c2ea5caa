"""
The functions of the signal module and their replacements in a reactor.

Both work in the same program, and the replacements do not have the weaknesses that the
module's documentation describes.
"""

from __future__ import annotations

import ctypes
import errno
import os
import select
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, nullcontext
from signal import (
    ITIMER_PROF,
    ITIMER_REAL,
    ITIMER_VIRTUAL,
    SIGALRM,
    SIGHUP,
    SIGPROF,
    SIGRTMIN,
    SIGUSR1,
    SIGUSR2,
    SIGVTALRM,
)
from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThreadPool

from tests.support.daemons import waitFor
from tests.support.handlers import Handled, Recorder, handling, recording
from tests.support.inreactor import inReactor
from tests.support.reactors import DEADLINE, turn, until
from tests.support.threads import knowingNumbers, waitsIn
from tests.support.worlds import ME, needsSignalfd, queue, send
from txsignalfd import SignalDispatcher, lowlevel

TIMERS = [(ITIMER_REAL, SIGALRM), (ITIMER_VIRTUAL, SIGVTALRM), (ITIMER_PROF, SIGPROF)]

#: The C library, called with and without the GIL.
holdingTheGIL = ctypes.PyDLL(None, use_errno=True)
libc = ctypes.CDLL(None, use_errno=True)


@pytest.fixture(autouse=True)
def timersAreStopped() -> Iterator[None]:
    """
    A timer that a failing test leaves behind does not end the test run.
    """
    with ExitStack() as handlers:
        for _, signo in TIMERS:
            handlers.enter_context(handling(signo, Handled()))
        yield
        for timer, _ in TIMERS:
            signal.setitimer(timer, 0)


def inPool(
    reactor: Any, function: Callable[..., Any], *arguments: Any
) -> Deferred[Any]:
    """
    Call a function in the thread pool of this reactor.
    """
    pool = reactor.getThreadPool()
    return deferToThreadPool(reactor, pool, function, *arguments)


# --- signal.setitimer, signal.getitimer


@pytest.mark.parametrize(("timer", "signo"), TIMERS)
@inReactor
async def test_everyIntervalTimerArrives(
    dispatcher: SignalDispatcher, timer: int, signo: int
) -> None:
    """
    C{getitimer} returns the remaining time.
    """
    got = recording(dispatcher, signo)
    assert signal.setitimer(timer, 100, 0.02) == (0.0, 0.0)
    for left, interval in (
        signal.getitimer(timer),
        signal.setitimer(timer, 0.01, 0.02),
    ):
        # The kernel rounds up, to what its clock can do.
        assert 0 < left <= 100.005
        assert interval == pytest.approx(0.02, abs=0.005)

    def burn() -> bool:
        sum(range(10_000))
        return len(got.infos) >= 3

    await until(burn)
    signal.setitimer(timer, 0)
    assert signal.getitimer(timer) == (0.0, 0.0)
    assert {info.codeName for info in got.infos} == {"SI_KERNEL"}


# --- signal.pause, signal.sigwait


async def interrupting(
    reactor: Any, call: Callable[[], Any], name: str, whenWaiting: Callable[[int], None]
) -> Any:
    """
    Return the result of a call in a thread, and call C{whenWaiting} when it waits.
    """
    ids: list[int] = []

    def run() -> Any:
        ids.append(threading.get_native_id())
        return call()

    result = inPool(reactor, run)
    try:
        await until(lambda: ids and waitsIn(name, ids[0]))
    finally:
        # Also if it waits elsewhere: the reactor waits for the thread in the end.
        whenWaiting(ids[0])
    return await result


@knowingNumbers
@inReactor
async def test_pauseAndSigwaitWorkForOtherSignals(
    reactor: Any, dispatcher: SignalDispatcher
) -> None:
    """
    They work in a thread, while watched signals arrive in the reactor.
    """
    handled = Handled()
    with handling(SIGUSR2, handled):
        got = recording(dispatcher, SIGUSR1)

        def wait() -> int:
            signal.pthread_sigmask(signal.SIG_BLOCK, [SIGHUP])
            return signal.sigwait([SIGHUP])

        def whenWaiting(thread: int) -> None:
            send(SIGUSR1)
            libc.tgkill(ME, thread, SIGHUP)

        assert await interrupting(reactor, wait, "sigwait", whenWaiting) == SIGHUP

        def interrupt(thread: int) -> None:
            libc.tgkill(ME, thread, SIGUSR2)

        assert await interrupting(reactor, signal.pause, "pause", interrupt) is None
        assert handled == [SIGUSR2]
        await until(lambda: got.infos)


# --- signal.siginterrupt, signal.set_wakeup_fd


@pytest.mark.parametrize("flag", [True, False])
@inReactor
async def test_siginterruptDoesNoHarm(dispatcher: SignalDispatcher, flag: bool) -> None:
    got = recording(dispatcher, SIGUSR1)
    signal.siginterrupt(SIGUSR1, flag)
    for expected in (1, 2):
        send(SIGUSR1)
        await until(lambda n=expected: len(got.infos) == n)  # type: ignore[misc]


@inReactor
async def test_wakeupDescriptorServesOtherSignals(dispatcher: SignalDispatcher) -> None:
    """
    C{set_wakeup_fd} does not get watched signals.
    """
    read, write = os.pipe()
    os.set_blocking(write, False)
    before = signal.set_wakeup_fd(write)
    try:
        with handling(SIGUSR2, Handled()):
            got = recording(dispatcher, SIGUSR1)
            send(SIGUSR1, SIGUSR2)
            await until(lambda: got.infos)
            assert os.read(read, 10) == bytes([SIGUSR2])
    finally:
        assert signal.set_wakeup_fd(before) == write
        os.close(read)
        os.close(write)


# --- signal.raise_signal


@needsSignalfd
@inReactor
async def test_otherThreadSendsToTheProcess(
    reactor: Any, dispatcher: SignalDispatcher
) -> None:
    """
    C{os.kill} replaces C{raise_signal} in other threads: only that thread itself could
    read the signal.
    """
    got = recording(dispatcher, SIGUSR1)

    def raiseHere() -> Any:
        signal.raise_signal(SIGUSR1)
        return signal.sigtimedwait([SIGUSR1], 0)

    pending = await inPool(reactor, raiseHere)
    assert (pending.si_signo, pending.si_pid) == (SIGUSR1, ME)
    await turn()
    assert got.infos == []
    await inPool(reactor, os.kill, ME, SIGUSR1)
    await until(lambda: got.infos)


# --- documented weaknesses of the signal module


@inReactor
async def test_criticalSectionIsNotInterrupted(dispatcher: SignalDispatcher) -> None:
    """
    The signal module "has no way to block signals temporarily from critical sections";
    C{hold} does so, even while the section waits.
    """
    account = {"one": 100, "other": 0}
    seen: list[int] = []
    dispatcher.addHandler(SIGRTMIN, lambda info: seen.append(sum(account.values())))
    for holding in (True, False):
        with dispatcher.hold(SIGRTMIN) if holding else nullcontext():
            account["one"] -= 10
            queue(1, 2)
            await turn()
            account["other"] += 10
        await until(lambda: len(seen) == 2)
        # Without it, each was handled in the middle: the test can fail.
        assert seen == ([100, 100] if holding else [90, 90])
        seen.clear()


def sendMany(count: int) -> int:
    """
    Start a process that sends us a realtime signal many times.
    """
    pid = os.fork()
    if pid == 0:
        for value in range(count):
            lowlevel.sigqueue(ME, SIGRTMIN, value)
        os._exit(0)
    return pid


def waitInC(pid: int) -> None:
    """
    Wait for a child in C, while no Python code runs in any thread.
    """
    assert holdingTheGIL.waitpid(pid, None, 0) == pid


@inReactor
async def test_signalsDuringALongCallInCAreNotLost(
    dispatcher: SignalDispatcher,
) -> None:
    """
    "Signals arriving during long calculations implemented in C may be delayed", and
    wait in the kernel's queue.
    """
    count = 1000
    handled, got = Handled(), Recorder()
    with handling(SIGRTMIN, handled):
        dispatcher.addHandler(SIGRTMIN, got)
        waitInC(sendMany(count))
        await until(lambda: len(got.infos) == count)
        assert got.values == list(range(count))
        await dispatcher.close()
        # The signal module stores one bit for all of them, if none interrupts the
        # call: this test can fail.
        signal.siginterrupt(SIGRTMIN, False)
        waitInC(sendMany(count))
    assert 0 < len(handled) < count


@needsSignalfd
@inReactor
async def test_handlerDoesNotInterruptOtherCode(dispatcher: SignalDispatcher) -> None:
    """
    A handler may change data that other code uses.
    """
    table: dict[int, None] = dict.fromkeys(range(10))

    def change(*arguments: object) -> None:
        table[len(table)] = None

    def work() -> None:
        for _ in table:
            send(SIGUSR1)

    with handling(SIGUSR1, change):
        dispatcher.addHandler(SIGUSR1, change)
        work()
        await until(lambda: len(table) == 11)
        await dispatcher.close()
        # A handler of the signal module interrupts it: this test can fail.
        with pytest.raises(RuntimeError, match="changed size during iteration"):
            work()


class Blocking:
    """
    A thread in a system call, which counts interruptions.
    """

    def __init__(self, name: str) -> None:
        self.interruptions = 0
        self._reader, self._writer = os.pipe()
        call = {"read": self._read, "poll": self._poll}[name]
        self._thread = threading.Thread(target=self._run, args=[call], daemon=True)
        self._thread.start()
        self.id = self._thread.native_id or 0
        waitFor(lambda: waitsIn(name, self.id), f"a thread waits in {name}")

    def _read(self) -> int:
        return int(libc.read(self._reader, ctypes.create_string_buffer(1), 1))

    def _poll(self) -> int:
        events = (ctypes.c_int * 2)(self._reader, select.POLLIN)
        return int(libc.poll(ctypes.byref(events), 1, -1))

    def _run(self, call: Callable[[], int]) -> None:
        while call() == -1:
            assert ctypes.get_errno() == errno.EINTR
            self.interruptions += 1

    def end(self) -> int:
        """
        Give it what it waits for.

        @return: How often it was interrupted.
        """
        os.write(self._writer, b"x")
        self._thread.join(DEADLINE)
        assert not self._thread.is_alive()
        os.close(self._reader)
        os.close(self._writer)
        return self.interruptions


@knowingNumbers
@pytest.mark.parametrize(
    ("name", "most"),
    [
        ("read", 0),
        # What no system restarts: once, in a thread that was there before and
        # that the kernel chooses.
        ("poll", 1),
    ],
)
@inReactor
async def test_callsOfOtherThreadsAreNotInterrupted(
    dispatcher: SignalDispatcher, name: str, most: int
) -> None:
    """
    "It is possible that the I/O operation raises an exception": not by a watched
    signal.
    """
    got = Recorder()
    early = [Blocking(name) for _ in range(3)]
    dispatcher.addHandler(SIGUSR1, got)
    late = [Blocking(name) for _ in range(3)]
    for expected in range(1, 51):
        send(SIGUSR1)
        await until(lambda n=expected: len(got.infos) == n)  # type: ignore[misc]
    assert all(thread.end() <= most for thread in early)
    assert [thread.end() for thread in late] == [0, 0, 0]


@knowingNumbers
@pytest.mark.parametrize("name", ["read", "poll"])
def test_signalModuleInterruptsCalls(name: str) -> None:
    """
    This shows that the test before can fail.
    """
    with handling(SIGUSR1, Handled()):
        thread = Blocking(name)
        for expected in (1, 2):
            libc.tgkill(ME, thread.id, SIGUSR1)
            waitFor(lambda n=expected: thread.interruptions == n, "it is interrupted")  # type: ignore[misc]
            waitFor(lambda: waitsIn(name, thread.id), "it waits again")
        assert thread.end() == 2
