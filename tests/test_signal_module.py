"""
What the signal module does, in a reactor: what to use in place of each of its
functions, that the original works beside us, and that its weaknesses are gone.
"""

from __future__ import annotations

import ctypes
import errno
import os
import select
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from signal import (
    ITIMER_PROF,
    ITIMER_REAL,
    ITIMER_VIRTUAL,
    SIG_DFL,
    SIG_IGN,
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
from twisted.internet.defer import TimeoutError as DeferredTimeout
from twisted.internet.threads import deferToThreadPool

from tests.support.daemons import waitFor
from tests.support.handlers import Recorder
from tests.support.kernel import posixTimer
from tests.support.reactors import DEADLINE, sleep, spin, turn, until
from tests.support.worlds import ME, needsSignalfd, queue, send
from txsignalfd import SignalDispatcher, dispatcherFor, lowlevel

TIMERS = [
    (ITIMER_REAL, SIGALRM),
    (ITIMER_VIRTUAL, SIGVTALRM),
    (ITIMER_PROF, SIGPROF),
]

#: A C library that keeps the GIL, and one that lets it go.
holdingTheGIL = ctypes.PyDLL(None, use_errno=True)
libc = ctypes.CDLL(None, use_errno=True)


class Handled(list[int]):
    """
    A handler of the signal module's kind, that keeps the numbers it gets.
    """

    def __call__(self, signo: int, frame: object) -> None:
        self.append(signo)


@contextmanager
def handling(signo: int, handler: Any) -> Iterator[None]:
    """
    A handler of the signal module, for a time.
    """
    before = signal.signal(signo, handler)
    try:
        yield
    finally:
        signal.signal(signo, before)


def inReactor(main: Callable[[Any, SignalDispatcher], Any], **how: Any) -> None:
    """
    Run C{main} with a reactor and its dispatcher, and close that.
    """

    async def run(reactor: Any) -> None:
        dispatcher = dispatcherFor(reactor)
        await main(reactor, dispatcher)
        await dispatcher.close()

    spin(run, **how)


def inPool(
    reactor: Any, function: Callable[..., Any], *arguments: Any
) -> Deferred[Any]:
    """
    C{deferToThread}, of a reactor that is not the global one.
    """
    pool = reactor.getThreadPool()
    return deferToThreadPool(reactor, pool, function, *arguments)


# -- signal.signal, signal.getsignal


@pytest.mark.parametrize("installed", [SIG_DFL, SIG_IGN, Handled()])
def test_whatWasInstalledBeforeIsInstalledAgainAfterwards(installed: Any) -> None:
    """
    C{getsignal} tells it all the while; meanwhile the signal is ours.
    """

    async def main(reactor: Any, dispatcher: SignalDispatcher) -> None:
        got = Recorder()
        dispatcher.addHandler(SIGUSR1, got)
        assert signal.getsignal(SIGUSR1) == installed
        send(SIGUSR1)
        await until(reactor, lambda: got.infos)

    with handling(SIGUSR1, installed):
        inReactor(main)
        assert signal.getsignal(SIGUSR1) == installed
        if installed is not SIG_DFL:  # which would end the tests
            send(SIGUSR1)
        if isinstance(installed, Handled):
            assert installed == [SIGUSR1]


@needsSignalfd
@pytest.mark.parametrize("installed", [SIG_DFL, SIG_IGN, Handled()])
def test_whatIsInstalledMeanwhileIsInstalledAfterwards(installed: Any) -> None:
    """
    C{signal.signal} of a watched signal is for the time after; until then the
    signal is ours, and is lost in no case.
    """

    async def main(reactor: Any, dispatcher: SignalDispatcher) -> None:
        got = Recorder()
        dispatcher.addHandler(SIGUSR1, got)
        signal.signal(SIGUSR1, installed)
        assert signal.getsignal(SIGUSR1) == installed
        for expected in (1, 2):
            send(SIGUSR1)
            await until(reactor, lambda n=expected: len(got.infos) == n)  # type: ignore[misc]

    before = signal.getsignal(SIGUSR1)
    try:
        inReactor(main)
        assert signal.getsignal(SIGUSR1) == installed
    finally:
        signal.signal(SIGUSR1, before)
    assert not isinstance(installed, Handled) or installed == []


def test_handlersOfOtherSignalsAreCalledAsEver() -> None:
    """
    By the signal module, with a frame, at once.
    """
    handled = Handled()

    async def main(reactor: Any, dispatcher: SignalDispatcher) -> None:
        dispatcher.watch(SIGUSR1)
        send(SIGUSR2)
        assert handled == [SIGUSR2]

    with handling(SIGUSR2, handled):
        inReactor(main)


# -- signal.alarm, signal.setitimer, signal.getitimer


def test_anAlarmIsASignalLikeOthers() -> None:
    """
    C{alarm} answers as ever, and its signal comes from the kernel.
    """

    async def main(reactor: Any, dispatcher: SignalDispatcher) -> None:
        alarm = dispatcher.whenReceived(SIGALRM)
        assert signal.alarm(100) == 0
        # Some of it may have passed since.
        assert 0 < signal.alarm(1) <= 100
        info = await alarm
        assert str(info) == "SIGALRM from the kernel"
        assert info.sender is None
        assert signal.alarm(0) == 0

    inReactor(main)


@pytest.mark.parametrize(("timer", "signo"), TIMERS)
def test_eachTimerOfSetitimerTellsTheHandler(timer: int, signo: int) -> None:
    """
    The two that count CPU time too; C{getitimer} answers as ever.
    """

    async def main(reactor: Any, dispatcher: SignalDispatcher) -> None:
        got = Recorder()
        dispatcher.addHandler(signo, got)
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

        await until(reactor, burn)
        signal.setitimer(timer, 0)
        assert signal.getitimer(timer) == (0.0, 0.0)
        assert {info.codeName for info in got.infos} == {"SI_KERNEL"}

    inReactor(main)


@pytest.mark.parametrize(("timer", "signo"), TIMERS)
def test_timersOfTheSignalModuleWorkBesideUs(timer: int, signo: int) -> None:
    """
    With its own handler, while other signals are watched.
    """
    handled = Handled()

    async def main(reactor: Any, dispatcher: SignalDispatcher) -> None:
        dispatcher.watch(SIGUSR1)
        signal.setitimer(timer, 0.01)
        await until(reactor, lambda: sum(range(10_000)) and handled)
        assert handled == [signo]

    with handling(signo, handled):
        inReactor(main)


@needsSignalfd
def test_aPosixTimerTellsItsOverrun() -> None:
    """
    How often it ran out while the reactor did something else.
    """

    async def main(reactor: Any, dispatcher: SignalDispatcher) -> None:
        got = Recorder()
        dispatcher.addHandler(SIGRTMIN, got)
        with posixTimer(SIGRTMIN, 4711, 0.005) as number:
            # The reactor is held up for twenty of its periods.
            select.select([], [], [], 0.1)
            await until(reactor, lambda: got.infos)
        first = got.infos[0]
        assert (first.codeName, first.tid, first.int) == ("SI_TIMER", number, 4711)
        assert first.overrun >= 10
        assert str(first) == (
            f"SIGRTMIN from POSIX timer {number}, overrun {first.overrun}, value 4711"
        )

    inReactor(main)


# -- signal.pause, signal.sigwait, signal.sigtimedwait


def test_waitingDoesNotHoldTheReactorUp() -> None:
    """
    In place of C{pause} and C{sigwait}: C{whenReceived}.
    """

    async def main(reactor: Any, dispatcher: SignalDispatcher) -> None:
        turns = []
        received = dispatcher.whenReceived(SIGUSR1, SIGUSR2)
        for _ in range(3):
            await turn(reactor)
            turns.append(received.called)
        send(SIGUSR2)
        assert (await received).signal == SIGUSR2
        assert turns == [False] * 3

    inReactor(main)


def test_waitingMayHaveATimeout() -> None:
    """
    In place of C{sigtimedwait}: C{addTimeout}, of any Deferred.
    """

    async def main(reactor: Any, dispatcher: SignalDispatcher) -> None:
        with pytest.raises(DeferredTimeout):
            await dispatcher.whenReceived(SIGUSR1).addTimeout(0.01, reactor)
        received = dispatcher.whenReceived(SIGUSR1).addTimeout(DEADLINE, reactor)
        send(SIGUSR1)
        assert (await received).signal == SIGUSR1

    inReactor(main)


def isIn(name: str, thread: int) -> bool:
    """
    Whether a thread of ours waits in a system call.
    """
    with open(f"/proc/self/task/{thread}/syscall", encoding="ascii") as told:
        number = told.read().split()[0]
    return number != "running" and int(number) in NUMBERS[os.uname().machine][name]


#: By machine: the numbers of the calls in which the tests' threads wait.
NUMBERS = {
    "x86_64": {"pause": [34], "sigwait": [128], "read": [0], "poll": [7, 271]},
    "aarch64": {"pause": [73], "sigwait": [137], "read": [63], "poll": [73]},
}

knowingNumbers = pytest.mark.skipif(
    os.uname().machine not in NUMBERS,
    reason="the numbers of this machine's system calls are not known here",
)


async def interrupting(
    reactor: Any, call: Callable[[], Any], name: str, whenWaiting: Callable[[int], None]
) -> Any:
    """
    What a call gives in a thread, in which something is done as soon as the
    thread waits in it.
    """
    ids: list[int] = []

    def run() -> Any:
        ids.append(threading.get_native_id())
        return call()

    result = inPool(reactor, run)
    await until(reactor, lambda: ids and isIn(name, ids[0]))
    whenWaiting(ids[0])
    return await result


@knowingNumbers
def test_pauseAndSigwaitWorkBesideUs() -> None:
    """
    In a thread, for signals that are not watched; watched ones come to us.
    """
    handled = Handled()

    async def main(reactor: Any, dispatcher: SignalDispatcher) -> None:
        got = Recorder()
        dispatcher.addHandler(SIGUSR1, got)

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
        await until(reactor, lambda: got.infos)

    with handling(SIGUSR2, handled):
        inReactor(main)


# -- signal.siginterrupt, signal.set_wakeup_fd


@pytest.mark.parametrize("flag", [True, False])
def test_siginterruptDoesNoHarm(flag: bool) -> None:
    """
    There is nothing that it could interrupt: a watched signal stays ours.
    """

    async def main(reactor: Any, dispatcher: SignalDispatcher) -> None:
        got = Recorder()
        dispatcher.addHandler(SIGUSR1, got)
        signal.siginterrupt(SIGUSR1, flag)
        for expected in (1, 2):
            send(SIGUSR1)
            await until(reactor, lambda n=expected: len(got.infos) == n)  # type: ignore[misc]

    inReactor(main)


def test_theWakeupDescriptorIsWrittenForOtherSignals() -> None:
    """
    C{set_wakeup_fd} is for signals of the signal module, and goes on with
    them; ours are no business of it.
    """
    read, write = os.pipe()
    os.set_blocking(write, False)

    async def main(reactor: Any, dispatcher: SignalDispatcher) -> None:
        got = Recorder()
        dispatcher.addHandler(SIGUSR1, got)
        send(SIGUSR1, SIGUSR2)
        await until(reactor, lambda: got.infos)
        assert os.read(read, 10) == bytes([SIGUSR2])

    before = signal.set_wakeup_fd(write)
    try:
        with handling(SIGUSR2, Handled()):
            inReactor(main)
    finally:
        assert signal.set_wakeup_fd(before) == write
        os.close(read)
        os.close(write)


# -- signal.raise_signal, signal.pthread_kill


def test_whatTheReactorsThreadRaisesIsReceived() -> None:
    """
    By C{raise_signal}, or C{pthread_kill} of another thread.
    """

    async def main(reactor: Any, dispatcher: SignalDispatcher) -> None:
        got = Recorder()
        dispatcher.addHandler(SIGUSR1, got)
        signal.raise_signal(SIGUSR1)
        await until(reactor, lambda: len(got.infos) == 1)
        thread = threading.get_ident()
        await inPool(reactor, signal.pthread_kill, thread, SIGUSR1)
        await until(reactor, lambda: len(got.infos) == 2)
        assert {info.codeName for info in got.infos} == {"SI_TKILL"}
        assert {info.pid for info in got.infos} == {ME}

    inReactor(main)


@needsSignalfd
def test_whatAnotherThreadRaisesIsReceivedIfItIsForTheProcess() -> None:
    """
    In place of C{raise_signal} in another thread: C{os.kill}.  Only a thread
    itself could read what was raised in it.
    """

    async def main(reactor: Any, dispatcher: SignalDispatcher) -> None:
        got = Recorder()
        dispatcher.addHandler(SIGUSR1, got)

        def raiseHere() -> Any:
            signal.raise_signal(SIGUSR1)
            return signal.sigtimedwait([SIGUSR1], 0)

        kept = await inPool(reactor, raiseHere)
        assert (kept.si_signo, kept.si_pid) == (SIGUSR1, ME)
        await turn(reactor)
        assert got.infos == []
        await inPool(reactor, os.kill, ME, SIGUSR1)
        await until(reactor, lambda: got.infos)

    inReactor(main)


# -- the weaknesses that its documentation has told of


def test_aCriticalSectionIsNotInterrupted() -> None:
    """
    "There is no way to block signals temporarily from critical sections": a
    handler never sees the half of what is done in one, not even one that
    waits meanwhile.
    """
    account = {"one": 100, "other": 0}
    seen: list[int] = []

    async def main(reactor: Any, dispatcher: SignalDispatcher) -> None:
        dispatcher.addHandler(SIGRTMIN, lambda info: seen.append(sum(account.values())))
        for holding in (True, False):
            with dispatcher.hold(SIGRTMIN) if holding else nullcontext():
                account["one"] -= 10
                queue(1, 2)
                await turn(reactor)
                account["other"] += 10
            await until(reactor, lambda: len(seen) == 2)
            # Without it, each was handled in the middle: the test can fail.
            assert seen == ([100, 100] if holding else [90, 90])
            seen.clear()

    inReactor(main)


def sendMany(count: int) -> int:
    """
    Start a process that sends us a realtime signal, many times.
    """
    pid = os.fork()
    if pid == 0:
        for value in range(count):
            lowlevel.sigqueue(ME, SIGRTMIN, value)
        os._exit(0)
    return pid


def waitInC(pid: int) -> None:
    """
    Wait for a child in C: no Python runs before its end, in any thread.
    """
    assert holdingTheGIL.waitpid(pid, None, 0) == pid


def test_whatComesDuringALongCallOfCIsNotLost() -> None:
    """
    "Signals arriving during long calculations implemented in C may be
    delayed": they are, and wait in the kernel's queue.
    """
    count = 1000

    async def main(reactor: Any, dispatcher: SignalDispatcher) -> None:
        got = Recorder()
        dispatcher.addHandler(SIGRTMIN, got)
        waitInC(sendMany(count))
        await until(reactor, lambda: len(got.infos) == count)
        assert got.values == list(range(count))

    handled = Handled()
    with handling(SIGRTMIN, handled):
        inReactor(main)
        # The signal module keeps one bit for all of them, if none interrupts
        # the call: the test can fail.
        signal.siginterrupt(SIGRTMIN, False)
        waitInC(sendMany(count))
    assert 0 < len(handled) < count


@needsSignalfd
def test_noHandlerRunsInTheMiddleOfOtherCode() -> None:
    """
    However late it is: it changes nothing under the hands of who is at work.
    """
    table: dict[int, None] = dict.fromkeys(range(10))

    def change(*arguments: object) -> None:
        table[len(table)] = None

    def work() -> None:
        for _ in table:
            send(SIGUSR1)

    async def main(reactor: Any, dispatcher: SignalDispatcher) -> None:
        dispatcher.addHandler(SIGUSR1, change)
        work()
        await until(reactor, lambda: len(table) == 11)

    with handling(SIGUSR1, change):
        inReactor(main)
        # A handler of the signal module does: the test can fail.
        with pytest.raises(RuntimeError, match="changed size during iteration"):
            work()


class Blocking:
    """
    A thread in a system call of the C library, which tells of each that was
    interrupted.
    """

    def __init__(self, name: str) -> None:
        self.interruptions = 0
        self._reader, self._writer = os.pipe()
        call = {"read": self._read, "poll": self._poll}[name]
        self._thread = threading.Thread(target=self._run, args=[call])
        self._thread.start()
        self.id = self._thread.native_id or 0
        waitFor(lambda: isIn(name, self.id), f"a thread waits in {name}")

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
def test_noCallOfAnotherThreadIsInterrupted(name: str, most: int) -> None:
    """
    "It is possible that the I/O operation raises an exception": by no watched
    signal.
    """

    async def main(reactor: Any, dispatcher: SignalDispatcher) -> None:
        got = Recorder()
        early = [Blocking(name) for _ in range(3)]
        dispatcher.addHandler(SIGUSR1, got)
        late = [Blocking(name) for _ in range(3)]
        for expected in range(1, 51):
            send(SIGUSR1)
            await until(reactor, lambda n=expected: len(got.infos) == n)  # type: ignore[misc]
        assert all(thread.end() <= most for thread in early)
        assert [thread.end() for thread in late] == [0, 0, 0]

    inReactor(main)


@knowingNumbers
@pytest.mark.parametrize("name", ["read", "poll"])
def test_callsAreInterruptedByTheSignalModule(name: str) -> None:
    """
    So that the test before can fail.
    """
    with handling(SIGUSR1, Handled()):
        thread = Blocking(name)
        for expected in (1, 2):
            libc.tgkill(ME, thread.id, SIGUSR1)
            waitFor(lambda n=expected: thread.interruptions == n, "it is interrupted")  # type: ignore[misc]
            waitFor(lambda: isIn(name, thread.id), "it waits again")
        assert thread.end() == 2


def test_aPythonThreadIsNotHeldUp() -> None:
    """
    Python goes on with what was interrupted: it sleeps as long as it should.
    """

    async def main(reactor: Any, dispatcher: SignalDispatcher) -> None:
        got = Recorder()
        read, write = os.pipe()
        waiting = inPool(reactor, os.read, read, 1)
        dispatcher.addHandler(SIGUSR1, got)
        for expected in range(1, 11):
            send(SIGUSR1)
            await until(reactor, lambda n=expected: len(got.infos) == n)  # type: ignore[misc]
        assert not waiting.called
        os.write(write, b"x")
        assert await waiting == b"x"
        os.close(read)
        os.close(write)

    inReactor(main)


def test_handlersMayBeSetInAnyThread() -> None:
    """
    "Only the main thread can set a new signal handler": in ours, it is the
    reactor's, which any thread may be.
    """

    async def main(reactor: Any, dispatcher: SignalDispatcher) -> None:
        assert threading.current_thread() is not threading.main_thread()
        with pytest.raises(ValueError, match="main thread"):
            signal.signal(SIGUSR1, SIG_DFL)
        got = Recorder()
        dispatcher.addHandler(SIGUSR1, got)
        send(SIGUSR1)
        await until(reactor, lambda: got.infos)

    inReactor(main, inThread=True)


def test_handlersMayBeSetFromAnyThread() -> None:
    """
    By C{callFromThread}.
    """

    async def main(reactor: Any, dispatcher: SignalDispatcher) -> None:
        got = Recorder()
        add = reactor.callFromThread
        await inPool(reactor, add, dispatcher.addHandler, SIGUSR1, got)
        await until(reactor, lambda: SIGUSR1 in dispatcher.watching)
        send(SIGUSR1)
        await until(reactor, lambda: got.infos)
        await sleep(reactor)

    inReactor(main)
