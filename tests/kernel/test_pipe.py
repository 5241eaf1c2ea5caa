"""
L{SignalPipe}, and dispatchers that use it where there is no signalfd(2).

All tests of dispatchers also run with C{TXSIGNALFD_BACKEND=handler}.  These tests are
about what only the pipe does.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import select
import signal
from collections.abc import Callable, Collection
from signal import SIGCHLD, SIGHUP, SIGRTMIN, SIGUSR1, SIGUSR2, sigpending
from typing import Any

import pytest
from twisted.internet.error import ConnectionLost
from twisted.python.failure import Failure

from tests.support.descriptors import (
    Reads,
    blockedSignals,
    deferredFull,
    descriptorOf,
    fill,
    pipeOf,
    userBlocks,
)
from tests.support.handlers import Handled, Recorder, handling, recording
from tests.support.inreactor import inEveryReactor, inReactor
from tests.support.kernel import inChild, refuse, systemCall
from tests.support.observers import Logged
from tests.support.processes import ROOT, runPython
from tests.support.reactors import DEADLINE, spin, until
from tests.support.threads import otherThread
from tests.support.worlds import ME, needsLinux, queue, send
from txsignalfd import (
    SigInfo,
    SignalDescriptor,
    SignalDispatcher,
    WatchedByParent,
    spawning,
)
from txsignalfd._kernel.pipe import SignalPipe
from txsignalfd._native.extension import ffi, lib

#: The pipe has two pages of 32 records each.  It counts as full as soon as the second
#: page is in use.
ROOM = 33


# --- the choice of the backend


WITHOUT_SIGNALFD = """
import os, sys
from signal import SIGRTMIN
from tests.support.kernel import refuseSignalfd
from tests.support.reactors import spin, until
from txsignalfd import SignalDispatcher, SignalfdUnavailable
from txsignalfd.lowlevel import sigqueue

if int(sys.argv[1]):
    refuseSignalfd(int(sys.argv[1]))

async def main(reactor):
    dispatcher = SignalDispatcher(reactor)
    print(dispatcher.describe().backend.name)
    got = []
    dispatcher.addHandler(SIGRTMIN, got.append)
    for value in range(3):
        sigqueue(os.getpid(), SIGRTMIN, value)
    await until(lambda: len(got) == 3)
    print([info.value for info in got], dispatcher.describe().backend)
    await dispatcher.close()
    dispatcher = SignalDispatcher(reactor, backend="signalfd")
    try:
        dispatcher.watch(SIGRTMIN)
    except SignalfdUnavailable as error:
        print(error.errno)
    await dispatcher.close()

spin(main)
"""


def outputWithoutSignalfd(error: int, **environment: str) -> str:
    """
    Run the program, whose system refuses signalfd(2) with an errno, or 0.
    """
    added = {"TXSIGNALFD_BACKEND": "", **environment}
    result = runPython("-c", WITHOUT_SIGNALFD, str(error), cwd=ROOT, added=added)
    return result.stdout + result.stderr


@needsLinux
@pytest.mark.parametrize("error", [errno.ENOSYS, errno.EPERM])
def test_handlerIsTheBackendWithoutSignalfd(error: int) -> None:
    """
    A filter of seccomp(2) refuses the call; asking for signalfd is an error.
    """
    systemCall("signalfd4")
    assert outputWithoutSignalfd(error) == (
        "handler\n"
        "[0, 1, 2] received by the backend handler, 0 without a siginfo\n"
        f"{error}\n"
    )


def test_environmentChoosesTheBackend() -> None:
    """
    An empty variable means the best backend, and an unknown name is an error.
    """
    assert outputWithoutSignalfd(0, TXSIGNALFD_BACKEND="handler").startswith(
        "handler\n"
    )
    refused = outputWithoutSignalfd(0, TXSIGNALFD_BACKEND="pigeon")
    assert "ValueError: TXSIGNALFD_BACKEND 'pigeon' is unknown" in refused
    if lib.TXS_LINUX:
        assert outputWithoutSignalfd(0).startswith("signalfd\n[0, 1, 2]")


@inEveryReactor
async def test_handlerGetsTheSigInfo(reactor: Any) -> None:
    dispatcher = SignalDispatcher(reactor, backend="handler")
    got = recording(dispatcher, SIGHUP, SIGCHLD)
    os.kill(ME, SIGHUP)
    await until(lambda: got.infos)
    child = os.posix_spawnp("false", ["false"], os.environ)
    await until(lambda: len(got.infos) == 2)
    os.waitpid(child, 0)
    first, second = got.infos
    assert (first.signal, first.pid, first.uid) == (SIGHUP, ME, os.getuid())
    assert second.child
    assert (second.child.pid, second.child.exitCode) == (child, 1)
    await dispatcher.close()


ELSEWHERE = """
import os, resource, select, signal, sys
from tests.support.processes import spawn
from tests.support.reactors import spin, until

# Names that only Linux has.
for module, names in (
    (os, "pidfd_open eventfd eventfd_read eventfd_write EFD_CLOEXEC EFD_NONBLOCK"),
    (os, "EFD_SEMAPHORE pipe2 P_PIDFD waitid P_ALL P_PID WEXITED WNOWAIT"),
    (select, "epoll EPOLLIN EPOLLONESHOT"),
    (resource, "RLIMIT_SIGPENDING prlimit"),
    (signal, "SIGRTMIN SIGRTMAX SIGPOLL SIGPWR SIGSTKFLT sigtimedwait sigwaitinfo"),
    (signal, "pidfd_send_signal"),
):
    for name in names.split():
        vars(module).pop(name, None)

from pkgutil import walk_packages
import txsignalfd
for module in walk_packages(txsignalfd.__path__, "txsignalfd."):
    if module.name not in ("txsignalfd.__main__", "txsignalfd._native.build"):
        __import__(module.name)

from twisted.application.service import MultiService
from txsignalfd import (
    ChildReaper, EventDescriptor, EventfdUnavailable, ReloadService, SignalService,
    dispatcherFor,
)
from txsignalfd._proc import status
status.PROC = "/nowhere"

async def main(reactor):
    try:
        EventDescriptor(print)
    except EventfdUnavailable as error:
        print(error)
    made = []

    def make():
        made.append(MultiService())
        return made[-1]

    reloads = ReloadService(make, reactor=reactor)
    signals = SignalService({signal.SIGHUP: reloads.reload}, reactor=reactor)
    for service in (reloads, signals):
        service.privilegedStartService()
        service.startService()
    dispatcher = dispatcherFor(reactor)
    with dispatcher.stream(signal.SIGUSR1) as infos:
        os.kill(os.getpid(), signal.SIGUSR1)
        os.kill(os.getpid(), signal.SIGHUP)
        print(await infos.__anext__())
    await until(lambda: len(made) == 2)
    ending, other = spawn("false"), spawn("true")
    await other.ended
    await ending.ended
    print(ending.status)
    reaper = ChildReaper(dispatcher)
    pid = os.posix_spawnp("false", ["false"], os.environ)
    print((await reaper.whenExited(pid)).exitCode, os.waitpid(pid, 0)[0] == pid)
    print(dispatcher.describe())
    signals.stopService()
    await reloads.stopService()
    await dispatcher.close()

spin(main, "poll")
"""


def test_packageWorksOnOtherSystems() -> None:
    """
    Handlers, streams, children and services work, and eventfd(2) raises a clear error.
    """
    added = {"TXSIGNALFD_BACKEND": "handler"}
    result = runPython("-c", ELSEWHERE, cwd=ROOT, added=added)
    assert result.stderr == ""
    refused, first, second, third, *description = result.stdout.splitlines()
    assert "there is no eventfd(2)" in refused
    assert re.match(r"SIGUSR1 from pid \d+ \(uid \d+\) by kill$", first)
    assert second == "(1, None)"
    assert third == "1 True"
    assert description[0] == "SIGHUP"
    assert description[-1] == "received by the backend handler, 0 without a siginfo"


# --- a full pipe


@pytest.mark.parametrize("count", [1, 32, 33, 34, 64, 5000])
def test_fullPipeLosesNoSignal(count: int) -> None:
    """
    Signals that do not fit wait in the kernel, in order.
    """
    with pipeOf(SIGRTMIN) as (pipe, reads):
        queue(*range(count))
        assert (SIGRTMIN in blockedSignals()) == (count >= ROOM)
        while len(reads.infos) < count:
            pipe.doRead()
        assert reads.values == list(range(count))
        assert pipe.withoutSiginfo == 0
        assert blockedSignals() == set()
        queue(count)
        pipe.doRead()
        assert reads.infos[-1].value == count


@pytest.mark.parametrize("limit", [None, 100])
def test_drainReceivesAllThatIsPending(
    limit: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    if limit is not None:
        monkeypatch.setattr("resource.getrlimit", lambda _: (limit, limit))
    with pipeOf(SIGRTMIN) as (pipe, reads):
        if limit is not None:
            fcntl.fcntl(pipe.fileno(), fcntl.F_SETPIPE_SZ, 65536)
        for count in (1, ROOM, 64, 600):
            queue(*range(count))
            pipe.drain(last=True)
            assert reads.values == list(range(count))
            reads.clear()
            pipe.claimForThread()


@pytest.mark.parametrize(
    "change", [lambda pipe: pipe.watch([SIGHUP]), SignalPipe.claimForThread]
)
def test_fullPipeStaysBlockedWhenMoreIsWatched(
    change: Callable[[SignalPipe], None],
) -> None:
    """
    Otherwise later signals would overtake those that wait in the kernel.
    """
    with pipeOf(SIGRTMIN) as (pipe, reads):
        queue(*range(100))
        for _ in range(ROOM):  # the last page is not full yet
            change(pipe)
            assert blockedSignals() == pipe.signals
        while len(reads.infos) < 100:
            pipe.doRead()
        assert reads.values == list(range(100))
        assert blockedSignals() == set()


def test_spawnWindowWithAFullPipeKeepsTheOrder() -> None:
    """
    The child starts with an empty mask, and signals that do not fit are deferred.
    """
    with pipeOf(SIGRTMIN) as (pipe, reads):
        queue(*range(100))
        for begin in range(100, 1000, 100):
            with spawning():
                assert blockedSignals() == set()
                queue(*range(begin, begin + 100))
            assert SIGRTMIN in blockedSignals()
        queue(*range(1000, 1100))
        while len(reads.infos) < 1100:
            pipe.doRead()
        assert reads.values == list(range(1100))
        assert blockedSignals() == set()


@pytest.mark.parametrize(
    ("opened", "ends"),
    [
        (pipeOf, SignalPipe.drain),
        (pipeOf, SignalPipe.unwatch),
        (descriptorOf, SignalDescriptor.drain),
    ],
)
def test_drainKeepsTheOrderIfAReceiverStartsAChild(
    opened: Any, ends: Callable[..., None]
) -> None:
    """
    Signals that are deferred meanwhile are older than later ones in the pipe, or in
    the queue of a descriptor.
    """
    with opened(SIGRTMIN) as (pipe, reads):

        def receive(infos: list[SigInfo]) -> None:
            reads.append(infos)
            if len(reads) == 1:
                with spawning():
                    pass
                queue(*range(100, 300))

        pipe._receive = receive
        queue(*range(100))
        ends(pipe, *[[]] * (ends is SignalPipe.unwatch))
        assert reads.values == list(range(300))


def test_pausedSignalsStayPending() -> None:
    """
    So that they outlive execve(2).  Those that have arrived are received before.
    """
    with pipeOf(SIGRTMIN) as (pipe, reads):
        pipe.claimForThread()
        queue(1)
        assert pipe.pause() == 1
        queue(2)
        assert pipe.pause() == 0
        assert SIGRTMIN in sigpending()
        pipe.resume()
        pipe.doRead()
        assert reads.values == [1, 2]


def test_signalsInASpawnWindowAfterTheLastDrainAreDeferred() -> None:
    """
    In the pipe they would lose their siginfo on close.
    """
    with pipeOf(SIGRTMIN) as (pipe, reads):
        pipe.drain(last=True)  # as a dispatcher does before it waits for handlers
        with spawning():
            queue(1, 2)
        assert not list(pipe._inPipe())
    assert reads.values == [1, 2]


@pytest.mark.parametrize("before", [set(), {SIGHUP, SIGUSR1, SIGUSR2}], ids=str)
def test_changesInASpawnWindowTakeEffect(before: set[int]) -> None:
    """
    A child's protocol may make them in connectionMade; the user's mask is restored in
    the end.
    """
    with userBlocks(*before), pipeOf(SIGUSR1, SIGUSR2) as (pipe, reads):
        for change in (
            lambda: pipe.watch([SIGHUP]),
            lambda: pipe.unwatch([SIGUSR2]),
            lambda: send(SIGUSR1),
            pipe.drain,
            pipe.claimForThread,
        ):
            with spawning():
                change()
                # For another child in the same window.
                assert blockedSignals() == before
            pipe.doRead()
            reads.clear()
            assert blockedSignals() == before - pipe.signals
            for _ in range(2):
                send(SIGUSR1)
                pipe.doRead()
            assert reads.signals == [SIGUSR1] * 2
        with spawning():
            pipe.drain(last=True)  # as closing does
            assert blockedSignals() == before
        assert blockedSignals() == before | pipe.signals


def test_unwatchReceivesWhatAnotherThreadWrites(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """
    The signal arrives after the last read, and before it is restored.
    """
    with otherThread() as call, pipeOf(SIGUSR1, SIGUSR2) as (pipe, reads):
        update = pipe._update

        def late(signals: Collection[int]) -> None:
            call(lambda: signal.raise_signal(SIGUSR1))
            update(signals)

        monkeypatch.setattr(pipe, "_update", late)
        pipe.unwatch([SIGUSR1])
        assert reads.signals == [SIGUSR1]
        assert pipe.signals == {SIGUSR2}


def test_twoThreadsMayReadThePipe(monkeypatch: pytest.MonkeyPatch) -> None:
    class Between:
        def __getattr__(self, name: str) -> Any:
            return getattr(ffi, name)

        def buffer(self, *args: Any) -> Any:
            monkeypatch.undo()
            call(flood)
            return ffi.buffer(*args)

    def flood() -> None:
        with spawning():
            queue(*range(10, 200))

    with otherThread() as call, pipeOf(SIGRTMIN) as (pipe, reads):
        queue(*range(10))
        monkeypatch.setattr("txsignalfd._kernel.pipe.ffi", Between())
        whole: list[int] = []
        while len(whole) < 200:
            pipe.doRead()
            whole = [info.int for info in reads.infos if info.value is not None]
        assert sorted(whole) == list(range(200))
        assert pipe.withoutSiginfo == 0


def refuseToQueueAgain() -> None:
    """
    Simulate a system that cannot queue a siginfo again.
    """
    if lib.TXS_LINUX:
        refuse("rt_sigqueueinfo", errno.EPERM)


def receivedWithoutSiginfo() -> list[object]:
    """
    Receive signals of which four neither fit into the pipe nor can be deferred.
    """
    refuseToQueueAgain()
    with deferredFull(), otherThread() as call, otherThread() as callElsewhere:
        with pipeOf(SIGUSR1, SIGUSR2) as (pipe, reads):
            fill(pipe)
            os.kill(os.getpid(), SIGUSR1)
            call(lambda: signal.raise_signal(SIGUSR2))
            callElsewhere(lambda: signal.raise_signal(SIGUSR1))
            call(lambda: signal.raise_signal(SIGUSR1))
            # Every thread blocks it by now, so it stays pending in the kernel.
            os.kill(os.getpid(), SIGUSR1)
            while len(reads.infos) < 3:
                pipe.doRead()
            *bare, last = reads.infos
            return [
                [(info.signo, info.code) for info in bare],
                str(bare[0]),
                pipe.withoutSiginfo,
                (last.signo, last.pid == os.getpid()),
            ]


def test_signalWithoutSpaceIsCountedOnOtherSystems() -> None:
    """
    Signals of one number are received as one, without siginfo.
    """
    systemCall("rt_sigqueueinfo")
    assert inChild(receivedWithoutSiginfo) == [
        [(SIGUSR1, 0), (SIGUSR2, 0)],
        "SIGUSR1 from a process unknown here (uid 0) by kill",
        4,
        (SIGUSR1, True),
    ]


@pytest.mark.parametrize("closes", [True, False], ids=["closed", "stopped"])
def test_descriptionCountsSignalsWithoutSiginfo(closes: bool) -> None:
    """
    The count stays after the dispatcher is closed, or its reactor has stopped.
    """
    systemCall("rt_sigqueueinfo")

    def tell() -> list[str]:
        texts: list[str] = []
        dispatchers: list[SignalDispatcher] = []

        async def main(reactor: Any) -> None:
            dispatcher = SignalDispatcher(reactor, backend="handler")
            dispatchers.append(dispatcher)
            got = Recorder()
            refuseToQueueAgain()
            with deferredFull(), otherThread() as call:
                dispatcher.addHandler(SIGUSR1, got)
                (pipe,) = (
                    each for each in reactor.getReaders() if hasattr(each, "signals")
                )
                fill(pipe)
                call(lambda: signal.raise_signal(SIGUSR1))
                await until(lambda: got.infos)
            texts.append(str(dispatcher.describe().backend))
            if closes:
                await dispatcher.close()

        spin(main)
        return [*texts, str(dispatchers[0].describe().backend)]

    expected = "received by the backend handler, 1 without a siginfo"
    assert inChild(tell) == [expected] * 2


# --- threads and children


def test_threadsHaveAnEntryHoweverManyHaveEnded() -> None:
    """
    Their masks can be restored, even on systems that cannot detect ended threads.
    """

    def note() -> None:
        for thread in range(10**8, 10**8 + 2000):  # numbers that no thread has
            lib.txs_note(thread, SIGUSR1)
            assert lib.txs_noted(thread) == 1 << (SIGUSR1 - 1)

    inChild(note)


def test_signalsBlockedByTheUserAreBlockedInChildrenWithAFullPipe() -> None:
    """
    This also holds if another signal is watched in the spawn window.
    """
    with userBlocks(SIGRTMIN), pipeOf(SIGRTMIN, SIGUSR1) as (pipe, reads):
        for value in range(ROOM + 1):  # one more than there is room for
            queue(value)
        assert blockedSignals() == {SIGRTMIN, SIGUSR1}
        with spawning():
            assert blockedSignals() == {SIGRTMIN}
            pipe.watch([SIGUSR2])
            assert blockedSignals() == {SIGRTMIN}
        while len(reads.infos) < ROOM + 1:
            pipe.doRead()
        assert reads.values == list(range(ROOM + 1))
        assert blockedSignals() == set()


def test_signalsBlockedByTheUserAreRestoredAfterChangesInASpawnWindow() -> None:
    """
    A child's protocol may unwatch signals one after another.
    """
    with userBlocks(SIGUSR1), pipeOf(SIGUSR1, SIGUSR2) as (pipe, _):
        with spawning():
            pipe.unwatch([])
            pipe.unwatch([SIGUSR2])
            assert blockedSignals() == {SIGUSR1}
        assert blockedSignals() == set()


def test_signalsBlockedByTheUserAreBlockedInChildrenOfEveryThread() -> None:
    """
    Threads that the reactor's thread starts do not block them themselves.
    """

    def openedAndAfter() -> tuple[set[int], set[int]]:
        with spawning():
            return blockedSignals(), inChild(blockedSignals)

    with userBlocks(SIGUSR1), pipeOf(SIGUSR1) as (pipe, reads):
        with otherThread() as call:
            assert call(blockedSignals) == set()
            assert call(lambda: inChild(blockedSignals)) == {SIGUSR1}
            assert call(openedAndAfter) == ({SIGUSR1}, {SIGUSR1})
        with otherThread() as call:
            call(lambda: signal.raise_signal(SIGUSR1))
            assert call(lambda: inChild(blockedSignals)) == {SIGUSR1}
            assert call(openedAndAfter) == ({SIGUSR1}, {SIGUSR1})
        pipe.drain()
        assert len(reads.infos) == 1


def test_forkedChildCannotReadThePipe() -> None:
    """
    It raises WatchedByParent; the child may make its own pipe.
    """

    def child() -> int:
        with pytest.raises(WatchedByParent):
            pipe.doRead()
        with pipeOf(SIGUSR1) as (own, ownReads):
            os.kill(os.getpid(), SIGUSR1)
            own.doRead()
            return len(ownReads.infos)

    with pipeOf(SIGUSR1) as (pipe, reads):
        send(SIGUSR1)
        assert inChild(child) == 1
        pipe.doRead()
        assert len(reads.infos) == 1


# --- restoring


def test_signalsInThePipeAtCloseHaveTheirPreviousEffect() -> None:
    """
    Another thread wrote them, and nothing has read them.
    """
    with handling(SIGUSR1, Handled()) as python:
        with otherThread() as call:
            with pipeOf(SIGUSR1, claims=False) as (_, reads):
                call(lambda: signal.raise_signal(SIGUSR1))
                assert not python
            assert python == [SIGUSR1]
            assert not reads.infos


def test_unwatchReceivesPendingSignals() -> None:
    """
    Signals in the kernel and in the pipe are received, before and after a claim.
    """
    for claims in (False, True):
        with pipeOf(SIGRTMIN, SIGUSR1, claims=claims) as (pipe, reads):
            queue(1, 2, 3)
            pipe.unwatch([SIGRTMIN])
            assert reads.values == [1, 2, 3]
            assert pipe.signals == {SIGUSR1}
            assert blockedSignals() == (set() if claims else {SIGUSR1})
            pipe.watch([SIGRTMIN])
            queue(4)
            pipe.drain()
            assert reads.values == [1, 2, 3, 4]


def test_unwatchReceivesWhatAnotherThreadWritesMeanwhile() -> None:
    """
    The signal is written between the last read and the release.
    """

    def receive(infos: list[SigInfo]) -> None:
        received.extend(info.signo for info in infos)
        if len(received) == 1:
            call(lambda: signal.raise_signal(SIGUSR1))

    received: list[int] = []
    with otherThread() as call:
        pipe = SignalPipe([SIGUSR1, SIGUSR2], receive)
        send(SIGUSR2)
        # The other thread takes it when it is scheduled.
        assert select.select([pipe], [], [], DEADLINE)[0] == [pipe]
        pipe.unwatch([SIGUSR1])
        pipe.close()
    assert received == [SIGUSR2, SIGUSR1]


def test_pipeThatCannotBeMadeIsAnError(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    No signal is acquired, and the error names the pipe.
    """

    def refuse() -> tuple[int, int]:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    with monkeypatch.context() as patched:
        patched.setattr(os, "pipe", refuse)
        with pytest.raises(
            OSError, match=f"Errno {errno.EMFILE}. cannot open a pipe: "
        ):
            SignalPipe([SIGUSR1], print)


def test_closedReadingEndIsAnErrorAndNoSIGPIPE() -> None:
    """
    The reactor gets the error, and signals have their previous effect.
    """
    pipe = SignalPipe([SIGUSR1], print)
    pipe.claimForThread()
    os.close(pipe.fileno())
    send(SIGUSR1)
    assert isinstance(pipe.doRead(), OSError)
    saved = signal.signal(SIGUSR1, signal.SIG_IGN)
    pipe.close()
    signal.signal(SIGUSR1, saved)


@pytest.mark.parametrize("number", ["_fd", "_writer", "_spare"])
def test_fileWithTheNumberOfAnEndIsNotClosed(number: str) -> None:
    """
    Reading is an error, whichever end was replaced.
    """
    lost: list[Failure] = []
    pipe = SignalPipe([SIGUSR1], print, lost.append)
    ends = [pipe.fileno(), pipe._writer, pipe._spare]
    taken = ends if number == "_fd" else [getattr(pipe, number), pipe._writer]
    with open("/dev/null", "rb") as null:
        for end in taken:
            os.dup2(null.fileno(), end, inheritable=False)
    error = pipe.doRead()
    assert isinstance(error, OSError)
    pipe.connectionLost(Failure(error))
    assert [reason.value for reason in lost] == [error]
    for end in set(taken):
        os.close(end)


def test_lostGetsTheErrorOfAClosedPipe() -> None:
    """
    The reactor does not know the reason.
    """
    lost: list[Failure] = []
    pipe = SignalPipe([SIGUSR1], print, lost.append)
    for end in (pipe.fileno(), pipe._writer, pipe._spare):
        os.close(end)
    pipe.connectionLost(Failure(ConnectionLost()))
    (reason,) = lost
    assert isinstance(reason.value, OSError)
    assert reason.value.errno == errno.EBADF


@pytest.mark.parametrize("ending", [SignalPipe.drain, SignalPipe.close])
def test_receiverMayCloseDuringDrainAndClose(ending: Callable[..., None]) -> None:
    """
    Deferred signals are received before the pipe is closed.
    """

    def close(infos: list[SigInfo]) -> None:
        received.append(len(infos))
        pipe.close()

    received: list[int] = []
    pipe = SignalPipe([SIGUSR1], close)
    with spawning():
        for _ in range(1000):
            send(SIGUSR1)
    ending(pipe)
    assert sum(received) == 1000
    assert pipe.fileno() == -1


def test_receiverMayCloseDuringUnwatch() -> None:
    """
    New files with the same numbers are not read.
    """
    reads = Reads()

    def receive(infos: list[SigInfo]) -> None:
        reads.append(infos)
        pipe.close()
        # They get the numbers that were just closed.
        ends.extend(end for _ in range(2) for end in os.pipe())
        for end in ends:
            os.set_blocking(end, False)
        for writer in ends[1::2]:
            os.write(writer, bytes(128))

    ends: list[int] = []
    pipe = SignalPipe([SIGUSR1], receive)
    pipe.claimForThread()
    send(SIGUSR1)
    pipe.unwatch([SIGUSR1])
    assert len(reads.infos) == 1
    assert select.select(ends[::2], [], [], 0)[0] == ends[::2]
    for end in ends:
        os.close(end)


def test_replacedHandlerIsReported(logged: Logged) -> None:
    """
    It is noticed by the next read, and the signal is received again from then on.
    """
    saved = signal.getsignal(SIGUSR1)
    with pipeOf(SIGUSR1) as (pipe, reads):
        send(SIGUSR1)
        signal.signal(SIGUSR1, signal.SIG_IGN)
        pipe.doRead()
        assert logged.contains("is watched by txsignalfd")
        send(SIGUSR1)
        pipe.doRead()
        assert len(reads.infos) == 2
    signal.signal(SIGUSR1, saved)


@inReactor
async def test_replacedHandlerReceivesTheSignal(reactor: Any, logged: Logged) -> None:
    """
    This ends when a signal is watched; with a signalfd it does not happen.
    """
    dispatcher = SignalDispatcher(reactor, backend="handler")
    got, python = Recorder(), []
    dispatcher.addHandler(SIGUSR1, got)
    saved = signal.signal(SIGUSR1, lambda signo, frame: python.append(signo))
    send(SIGUSR1)
    await until(lambda: python)
    dispatcher.watch(SIGUSR1)
    send(SIGUSR1)
    await until(lambda: got.infos)
    assert python == [SIGUSR1]
    await dispatcher.close()
    signal.signal(SIGUSR1, saved)
