"""
Children do not inherit the mask of watched signals, and no signal is lost.
"""

from __future__ import annotations

import errno
import multiprocessing
import os
import signal
import subprocess
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import pairwise
from multiprocessing.connection import Connection
from pathlib import Path
from signal import SIGCHLD, SIGHUP, SIGRTMIN, SIGTERM, SIGUSR1, SIGUSR2
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.process import reapAllProcesses

from tests.support.daemons import python
from tests.support.descriptors import Owner, blockedSignals, descriptorOf, userBlocks
from tests.support.handlers import Handled, Recorder, handling, recording, sender
from tests.support.inreactor import inReactor
from tests.support.kernel import blocked, forge, forked, inChild
from tests.support.observers import Logged
from tests.support.processes import SLEEP, Ending, runProgram
from tests.support.reactors import (
    DEADLINE,
    currentReactor,
    newReactor,
    runReactor,
    spin,
    turn,
    until,
)
from tests.support.threads import otherThread, runIn
from tests.support.worlds import maskWhile, needsLinux, needsSignalfd, queue, send
from txsignalfd import (
    ChildReaper,
    SigInfo,
    SignalDescriptor,
    SignalDispatcher,
    dispatcherFor,
    spawning,
)
from txsignalfd._kernel import mask as _mask
from txsignalfd._kernel import spawn as _spawn
from txsignalfd._kernel.descriptor import RECORDS_PER_READ
from txsignalfd._native.extension import ffi, lib

#: The signals that the tests of children watch.
WATCHED = (SIGHUP, signal.SIGINT, SIGTERM, SIGUSR1, SIGUSR2, SIGRTMIN)
STATUS = ["/bin/cat", "/proc/self/status"]


def signals(status: str) -> list[str]:
    """
    Return the masks in a status file of proc(5), without the C library's signals.
    """
    fields = dict(line.split(":", 1) for line in status.splitlines() if ":" in line)
    ours = ~(3 << 31)
    return [
        f"{name} {int(fields[name], 16) & ours:x}"
        for name in ("SigBlk", "SigIgn", "SigCgt")
    ]


class Ended(Ending):
    """
    Records the output and the end of a process.
    """

    def __init__(self) -> None:
        super().__init__()
        self.output = b""

    def outReceived(self, data: bytes) -> None:
        self.output += data

    async def wait(self) -> None:
        """
        Wait for the end, which a reactor without signal handlers does not notice.
        """
        while not self.ended.called:
            reapAllProcesses()
            await turn()


#: Starts a program, and returns the status that it has.
Start = Callable[[], Awaitable[str]]


def viaSpawnProcess(**how: Any) -> Start:
    async def start() -> str:
        protocol = Ended()
        currentReactor().spawnProcess(protocol, STATUS[0], STATUS, **how)
        await protocol.wait()
        return protocol.output.decode()

    return start


def viaSubprocess(**how: Any) -> Start:
    async def start() -> str:
        run: Any = subprocess.run
        return str(run(STATUS, stdout=subprocess.PIPE, text=True, **how).stdout)

    return start


async def viaFork() -> str:
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.dup2(write, 1)
        os.execv(STATUS[0], STATUS)
    return collected(pid, read, write)


def collected(pid: int, read: int, write: int) -> str:
    """
    Return what a child wrote to a pipe.
    """
    os.close(write)
    with open(read, encoding="ascii", errors="replace") as output:
        text = output.read()
    assert os.waitpid(pid, 0) == (pid, 0)
    return text


async def viaPosixSpawn() -> str:
    read, write = os.pipe()
    toPipe = (os.POSIX_SPAWN_DUP2, write, 1)
    pid = os.posix_spawn(STATUS[0], STATUS, dict(os.environ), file_actions=[toPipe])
    return collected(pid, read, write)


async def viaSpawning() -> str:
    """
    Start the program by C{os.posix_spawn} in a spawn window.
    """
    with spawning():
        return await viaPosixSpawn()


async def viaSystem() -> str:
    with tempfile.NamedTemporaryFile("r") as output, spawning():
        assert os.system(f"exec cat /proc/self/status >{output.name}") == 0
        return output.read()


def shellClearsItsMask() -> bool:
    """
    Return whether C{sh} unblocks all signals when it starts, as dash does.

    A test with such a shell would always pass.
    """
    with blocked(SIGUSR1):
        status = runProgram("sh", "-c", "exec cat /proc/self/status", check=True)
        return signals(status.stdout)[0] == "SigBlk 0"


def report(connection: Connection) -> None:
    """
    Send the status of this process: run by C{multiprocessing}.
    """
    connection.send(Path("/proc/self/status").read_text("ascii", "replace"))


def viaMultiprocessing(method: str) -> Start:
    async def start() -> str:
        context: Any = multiprocessing.get_context(method)
        here, there = context.Pipe()
        process = context.Process(target=report, args=(there,))
        process.start()
        there.close()
        assert here.poll(DEADLINE)
        status = here.recv()
        here.close()
        process.join(DEADLINE)
        process.close()
        return str(status)

    return start


@pytest.fixture
def noServers() -> Iterator[None]:
    """
    Stop the helper processes of C{multiprocessing}.
    """
    yield
    from multiprocessing.forkserver import _forkserver
    from multiprocessing.resource_tracker import _resource_tracker

    _forkserver._stop()  # type: ignore[attr-defined]
    _resource_tracker._stop()  # type: ignore[attr-defined]


asRoot = pytest.mark.skipif(os.geteuid() != 0, reason="only root may change its uid")


@pytest.mark.parametrize(
    "start",
    [
        pytest.param(viaSpawnProcess(), id="spawnProcess"),
        pytest.param(viaSpawnProcess(path="/"), id="spawnProcess-path"),
        pytest.param(
            viaSpawnProcess(uid=65534, gid=65534), id="spawnProcess-uid", marks=asRoot
        ),
        pytest.param(viaSpawnProcess(usePTY=True), id="spawnProcess-pty"),
        pytest.param(viaSpawnProcess(childFDs={1: "r"}), id="spawnProcess-childFDs"),
        pytest.param(viaSubprocess(), id="subprocess"),
        pytest.param(viaSubprocess(close_fds=False), id="subprocess-close_fds"),
        pytest.param(viaSubprocess(preexec_fn=os.getpid), id="subprocess-preexec"),
        pytest.param(viaSubprocess(restore_signals=False), id="subprocess-restore"),
        pytest.param(viaFork, id="os.fork"),
        pytest.param(viaPosixSpawn, id="os.posix_spawn"),
        pytest.param(viaSpawning, id="spawning"),
        pytest.param(
            viaSystem,
            id="os.system",
            marks=pytest.mark.skipif(
                shellClearsItsMask(), reason="sh clears its own mask here"
            ),
        ),
        pytest.param(viaMultiprocessing("fork"), id="multiprocessing-fork"),
        pytest.param(viaMultiprocessing("spawn"), id="multiprocessing-spawn"),
        pytest.param(viaMultiprocessing("forkserver"), id="multiprocessing-forkserver"),
    ],
)
@pytest.mark.usefixtures("noServers")
def test_childHasThePreviousMaskAndDispositions(start: Start) -> None:
    checkInheritance(start)


def checkInheritance(start: Start) -> None:
    """
    Check that a child inherits the same before, while and after signals are watched.
    """

    async def main(reactor: Any) -> None:
        expected = signals(await start())
        mask = blockedSignals()
        dispatcher = dispatcherFor(reactor)
        dispatcher.watch(*WATCHED)
        assert signals(await start()) == expected
        assert blockedSignals() == maskWhile(WATCHED, mask)
        await dispatcher.close()
        assert signals(await start()) == expected

    spin(main)


someWays = pytest.mark.parametrize(
    "start",
    [viaSpawnProcess(), viaSubprocess(), viaFork, viaPosixSpawn],
    ids=["spawnProcess", "subprocess", "os.fork", "os.posix_spawn"],
)


@someWays
def test_aMaskThatTheProcessWasStartedWithIsInherited(start: Start) -> None:
    with userBlocks(SIGUSR2, signal.SIGALRM):
        checkInheritance(start)


@pytest.mark.parametrize("backend", [None, "handler"])
@someWays
def test_childOfAThreadOfTheWatcherIsClean(start: Start, backend: str | None) -> None:
    """
    The reactor's thread inherits the mask of the thread that watches.
    """
    masks: list[list[str]] = []

    async def record(reactor: Any) -> None:
        masks.append(signals(await start()))

    async def main(reactor: Any) -> None:
        await record(reactor)
        await dispatcher.close()

    spin(record)
    with newReactor() as reactor:
        dispatcher = SignalDispatcher(reactor, backend)
        dispatcher.watch(*WATCHED)
        runIn(True, lambda: runReactor(reactor, main))
    assert masks[0] == masks[1]
    assert blockedSignals() == set()


def test_forkedPythonChildHasThePreviousHandlers() -> None:
    with handling(SIGUSR1, Handled()) as python:
        with descriptorOf(SIGUSR1, SIGTERM):
            pid = os.fork()
            if pid == 0:
                os.kill(os.getpid(), SIGUSR1)
                os._exit(0 if python == [SIGUSR1] else 1)
            assert os.waitpid(pid, 0) == (pid, 0)
            pid = os.fork()
            if pid == 0:
                signal.pause()
            os.kill(pid, SIGTERM)
            assert os.WTERMSIG(os.waitpid(pid, 0)[1]) == SIGTERM


@pytest.mark.parametrize("way", ["spawnProcess", "spawning"])
@inReactor
async def test_spawningKeepsAllSignalsInOrder(
    dispatcher: SignalDispatcher, way: str
) -> None:
    """
    200 children start while another process sends 10,000 realtime signals.
    """
    count, children = 10_000, 200
    got = Recorder()
    start = viaSpawnProcess() if way == "spawnProcess" else viaSpawning
    expected = signals(await start())
    dispatcher.addHandler(SIGRTMIN, got)
    statuses: list[list[str]] = []
    with sender(SIGRTMIN, count):
        await until(lambda: got.infos)
        while len(statuses) < children:
            statuses.append(signals(await start()))
        await until(lambda: len(got.infos) >= count)
    assert got.values == list(range(count))
    assert statuses == [expected] * children


@inReactor
async def test_pendingSignalsAreDeferredInOrder(dispatcher: SignalDispatcher) -> None:
    """
    There are more than can be deferred: the others stay in the queue.
    """
    count = lib.TXS_DEFERRED // 16 + 100
    got = recording(dispatcher, SIGRTMIN)
    queue(*range(count))
    with spawning():
        assert blockedSignals() == set()
        assert lib.txs_deferred_count() < count
        queue(*range(count, lib.TXS_DEFERRED + count))
        # It is full, and the rest stays in the queue.
        assert lib.txs_deferred_count() == lib.TXS_DEFERRED
        assert blockedSignals() == {SIGRTMIN}
    queue(lib.TXS_DEFERRED + count)
    assert blockedSignals() == {SIGRTMIN}
    await until(lambda: len(got.infos) > lib.TXS_DEFERRED + count)
    assert got.values == list(range(lib.TXS_DEFERRED + count + 1))


@needsLinux
@inReactor
async def test_unblockingInAFullSpawnWindowLosesNoSignal(
    dispatcher: SignalDispatcher,
) -> None:
    """
    Signals that do not fit are queued again, at the end.
    """
    count = lib.TXS_DEFERRED + 1000
    got = recording(dispatcher, SIGRTMIN)
    with spawning():
        queue(*range(count))
        for _ in range(10):
            assert lib.txs_deferred_count() == lib.TXS_DEFERRED
            signal.pthread_sigmask(signal.SIG_UNBLOCK, [SIGRTMIN])
    await until(lambda: len(got.infos) == count)
    assert sorted(info.int for info in got.infos) == list(range(count))


@inReactor
async def test_deferredSignalWakesTheReactor(reactor: Any) -> None:
    """
    This also holds if another thread starts the child.
    """
    dispatcher = dispatcherFor(reactor)
    got = recording(dispatcher, SIGUSR1)
    with spawning():
        signal.raise_signal(SIGUSR1)
        assert not got.infos
    assert not got.infos  # not before the next turn of the reactor
    await until(lambda: got.infos)

    def elsewhere() -> None:
        with spawning():
            assert blockedSignals() == set()
            signal.raise_signal(SIGUSR1)
        assert blockedSignals() == maskWhile([SIGUSR1])

    runIn(True, elsewhere)
    await until(lambda: len(got.infos) == 2)
    assert {info.codeName for info in got.infos} == {"SI_TKILL"}
    with spawning():
        signal.raise_signal(SIGUSR1)
    await dispatcher.close()
    assert len(got.infos) == 3
    await turn()  # who was woken finds it closed


def test_deferredSignalPrecedesTheNextRead() -> None:
    """
    A descriptor without C{wake} receives it before those in the queue.
    """
    with descriptorOf(SIGRTMIN) as (descriptor, reads):
        with spawning():
            queue(1)
        queue(2)
        descriptor.doRead()
        assert reads.values == [1, 2]
        with spawning():
            queue(3)
            descriptor.drain()
            assert reads.infos[-1].value == 3
            queue(4)
        descriptor.close()
        assert reads.infos[-1].value == 4


@inReactor
async def test_deferredSignalsLeaveTheReactorItsTurns(reactor: Any) -> None:
    """
    No turn handles more of them than a read returns.
    """
    got = Recorder()
    dispatcherFor(reactor).addHandler(SIGRTMIN, got)
    with spawning():
        queue(*range(1000))
    turns = [0]
    while turns[-1] < 1000:
        await turn()
        turns.append(len(got.infos))
    assert [info.int for info in got.infos] == list(range(1000))
    assert max(b - a for a, b in pairwise(turns)) <= 3 * RECORDS_PER_READ


@needsLinux
@forked
def test_deferredSignalsAreLimited(
    monkeypatch: pytest.MonkeyPatch, logged: Logged
) -> None:
    """
    Standard signals that are too many are merged, others are dropped and counted.
    """
    monkeypatch.setattr("txsignalfd._kernel.descriptor.DEFERRED_LIMIT", 10)
    with descriptorOf(SIGRTMIN, SIGUSR1) as (descriptor, reads):
        for _ in range(2):
            with spawning():
                queue(*range(8))
                send(SIGUSR1)
        descriptor.doRead()
        assert reads.signals == [SIGRTMIN] * 8 + [SIGUSR1, SIGRTMIN, SIGUSR1]
    assert [event["dropped"] for event in logged] == [7]


@needsLinux
@pytest.mark.parametrize(
    "receive",
    [SignalDescriptor.doRead, SignalDescriptor.close],
    ids=["doRead", "close"],
)
def test_receiverOfADeferredSignalMayClose(
    receive: Callable[[SignalDescriptor], object],
) -> None:
    """
    The closed descriptor is not read.
    """
    received: list[SigInfo] = []

    def close(infos: list[SigInfo]) -> None:
        received.extend(infos)
        descriptor.close()

    descriptor = SignalDescriptor([SIGUSR1], close)
    with spawning():
        signal.raise_signal(SIGUSR1)
    assert receive(descriptor) is None
    assert descriptor.fileno() == -1
    assert [info.signo for info in received] == [SIGUSR1]


def test_watchAndUnwatchInASpawnWindow() -> None:
    """
    A child's protocol may do both in connectionMade.
    """
    with handling(SIGUSR1, Handled()) as python:
        with descriptorOf(SIGUSR1, SIGUSR2) as (descriptor, reads):
            with spawning(), spawning():
                send(SIGUSR1)
                descriptor.unwatch([SIGUSR1])
                assert reads.signals == [SIGUSR1]
                assert python == []
                descriptor.watch([SIGHUP])
                descriptor.claimForThread()
                # For another child in the same window.
                assert blockedSignals() == set()
                send(SIGHUP)
            assert blockedSignals() == {SIGHUP, SIGUSR2}
            descriptor.doRead()
            assert reads.signals == [SIGUSR1, SIGHUP]
            send(SIGUSR1)
            assert python == [SIGUSR1]


@needsLinux
def test_signalThatTheThreadStillBlocksIsAcquiredInASpawnWindow() -> None:
    """
    Another thread restored the signal, and could not unblock it in this thread.
    """

    def again() -> tuple[set[int], set[int]]:
        assert blockedSignals() == {SIGUSR1}
        with spawning():
            watched.append(SignalDescriptor([SIGUSR1], infos.extend))
            opened = blockedSignals()
        return opened, blockedSignals()

    watched: list[SignalDescriptor] = []
    infos: list[SigInfo] = []
    with otherThread() as call:
        call(lambda: SignalDescriptor([SIGUSR1], infos.extend)).close()
        assert call(again) == (set(), {SIGUSR1})
        call(watched[0].close)


def test_signalRestoredInASpawnWindowHasItsPreviousEffect() -> None:
    """
    The owner does not receive the deferred signal.
    """
    owner = Owner()
    with handling(SIGUSR1, Handled()) as python:
        owner.mask.acquire([SIGUSR1])
        with spawning():
            send(SIGUSR1)
            owner.mask.restore([SIGUSR1])
        assert python == [SIGUSR1]
        assert owner.deferred == []


def canSpawn() -> bool:
    """
    Return whether this thread could open a spawn window.
    """
    free = _mask.windowLock.acquire(blocking=False)
    if free:
        _mask.windowLock.release()
    return free


def failToWake() -> None:
    """
    Fail as the wake of a dispatcher whose asyncio loop was closed.
    """
    raise RuntimeError("Event loop is closed")


@needsLinux
@pytest.mark.parametrize(
    "occasion",
    [lambda _: None, SignalDescriptor.doRead, SignalDescriptor.drain],
    ids=["spawning", "doRead", "drain"],
)
@pytest.mark.parametrize("order", [1, -1])
def test_ownerThatCannotBeWokenIsLogged(
    order: int, occasion: Callable[[SignalDescriptor], object], logged: Logged
) -> None:
    """
    The caller and other owners are not affected, and its signals are received later.
    """
    first, second = (SIGUSR1, SIGUSR2)[::order]
    infos: list[SigInfo] = []
    broken = SignalDescriptor([first], infos.extend, wake=failToWake)
    sound = SignalDescriptor([second], infos.extend)
    with spawning():
        send(SIGUSR1, SIGUSR2)
        assert occasion(sound) is None
    assert runIn(True, canSpawn)
    broken.close()
    sound.close()
    assert {info.signo for info in infos} == {SIGUSR1, SIGUSR2}
    (failure,) = logged.failures
    assert failure.check(RuntimeError)


@needsSignalfd
@forked
@pytest.mark.parametrize("error", [None, KeyboardInterrupt])
def test_openingASpawnWindowMayBeInterrupted(
    error: type[BaseException] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    Otherwise it opens, even if more signals are deferred all the time.
    """

    def assign() -> list[_mask.ProcessMask]:
        assigned.append(None)
        if error is not None and len(assigned) == 1:
            raise error
        return []

    assigned: list[None] = []
    monkeypatch.setattr(_spawn, "_MUCH", -1)
    monkeypatch.setattr(_mask, "assignDeferred", assign)
    with descriptorOf(SIGUSR1):
        with suppress(KeyboardInterrupt), spawning():
            assert error is None
            assert len(assigned) == _spawn._REPEATS
        assert blockedSignals() == {SIGUSR1}
        assert canSpawn()


def test_childForkedInASpawnWindowIsClean() -> None:
    """
    It may watch signals and open spawn windows itself.
    """

    def use() -> None:
        assert blockedSignals() == set()
        with descriptorOf(SIGUSR1, SIGUSR2) as (descriptor, reads):
            with spawning():
                assert blockedSignals() == set()
                signal.raise_signal(SIGUSR1)
            descriptor.drain()
            assert len(reads.infos) == 1

    with descriptorOf(SIGUSR1), spawning():
        inChild(use)


def test_forkedChildMayLeaveTheSpawnWindow() -> None:
    """
    It may open spawn windows after that.
    """
    with descriptorOf(SIGUSR1):
        with spawning(), spawning():
            pid = os.fork()
        if pid == 0:
            status = 1
            try:
                with descriptorOf(SIGUSR1):
                    assert blockedSignals() == {SIGUSR1}
                    with spawning():
                        with spawning():
                            assert blockedSignals() == set()
                        assert blockedSignals() == set()
                    assert blockedSignals() == {SIGUSR1}
                status = 0
            finally:
                os._exit(status)
        assert os.waitpid(pid, 0) == (pid, 0)
        assert blockedSignals() == {SIGUSR1}


def test_drainDoesNotWaitForASpawnWindow() -> None:
    """
    Waiting for another thread's window could deadlock.
    """
    with descriptorOf(SIGUSR1) as (descriptor, _), otherThread() as call:
        window = spawning()
        call(window.__enter__)
        descriptor.drain()
        call(lambda: window.__exit__(None, None, None))


def test_spawnWindowWithoutWatchedSignalsChangesNothing() -> None:
    """
    Signals that the user has blocked stay blocked.
    """
    with userBlocks(SIGUSR1), spawning(), spawning():
        assert blockedSignals() == {SIGUSR1}


@needsLinux
def test_receiverOfADeferredSignalMayDrain() -> None:
    values: list[int | None] = []

    def receive(infos: list[SigInfo]) -> None:
        values.extend(info.value for info in infos)
        descriptor.drain()

    descriptor = SignalDescriptor([SIGRTMIN], receive)
    for value in range(3):
        with spawning():
            queue(value)
    descriptor.drain()
    assert values == [0, 1, 2]
    descriptor.close()


def starters() -> list[object]:
    """
    Return what starts children and is replaced while signals are watched.
    """
    switches = subprocess._USE_VFORK, subprocess._USE_POSIX_SPAWN
    return [*switches, os.posix_spawn, os.posix_spawnp]


def test_functionsThatStartChildrenAreRestored() -> None:
    """
    This happens with the last signal, and in a forked child.
    """
    before = starters()
    with descriptorOf(SIGUSR1):
        with descriptorOf(SIGUSR2):
            assert starters()[:2] == [False, False]
        assert starters()[2] != before[2]
        assert inChild(starters) == before
    assert starters() == before


def test_functionThatOtherCodeHasReplacedIsNotRestored() -> None:
    before = os.posix_spawn
    try:
        with descriptorOf(SIGUSR1):
            # The fixture monkeypatch would restore what is here now.
            vars(os)["posix_spawn"] = print
        assert starters()[2] == print
    finally:
        vars(os)["posix_spawn"] = before


def test_callerMayChooseTheMaskOfAChild() -> None:
    """
    C{os.posix_spawn} passes it on.
    """
    with descriptorOf(SIGUSR1), tempfile.NamedTemporaryFile("r") as output:
        action = (os.POSIX_SPAWN_OPEN, 1, output.name, os.O_WRONLY, 0)
        pid = os.posix_spawn(
            STATUS[0], STATUS, {}, file_actions=[action], setsigmask=[SIGUSR2]
        )
        assert os.waitpid(pid, 0) == (pid, 0)
        assert signals(output.read())[0] == f"SigBlk {1 << SIGUSR2 - 1:x}"


@needsSignalfd
@pytest.mark.parametrize("usePTY", [False, True])
@inReactor
async def test_childStartsQuicklyWhileManySignalsArePending(
    reactor: Any, dispatcher: SignalDispatcher, usePTY: bool
) -> None:
    """
    None of them is delivered for the start, and they stay in order.
    """
    got = Recorder()
    for signo in range(SIGRTMIN, SIGRTMIN + 4):
        dispatcher.addHandler(signo, got)
    for value in range(2000):
        for signo in range(SIGRTMIN, SIGRTMIN + 4):
            queue(value, signo=signo)
    protocol = Ended()
    reactor.spawnProcess(protocol, "true", ["true"], usePTY=usePTY)
    assert lib.txs_deferred_count() == 0
    assert not got.infos
    await until(lambda: len(got.infos) == 8000)
    assert got.values == list(range(2000)) * 4
    await protocol.wait()


def test_spawnWindowThatCannotBeOpenedIsAnError(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """
    The error has the errno, and the body is not run.
    """

    class Refusing:
        def __getattr__(self, name: str) -> object:
            return getattr(lib, name)

        def txs_window_open(self) -> int:
            ffi.errno = 22
            return -1

    with descriptorOf(SIGUSR1):
        with monkeypatch.context() as patched:
            patched.setattr(_spawn, "lib", Refusing())
            with pytest.raises(OSError, match="Errno 22"), spawning():
                raise AssertionError("started")
        with spawning():
            assert blockedSignals() == set()


@given(
    signo=st.sampled_from([SIGUSR1, SIGCHLD, signal.SIGIO, signal.SIGSYS, SIGRTMIN]),
    code=st.integers(-(2**31), 2**31 - 1) | st.integers(-10, 10) | st.just(128),
    rest=st.binary(min_size=112, max_size=112),
)
def test_deferredSignalHasTheKernelsRecord(signo: int, code: int, rest: bytes) -> None:
    """
    All fields are equal, for every kind of siginfo, also forged ones.
    """
    with descriptorOf(signo) as (descriptor, reads):
        try:
            forge(signo, code, rest)
        except OSError as error:
            # The kernel accepts no fields with an unknown code.
            if error.errno != errno.E2BIG:
                raise
            rest = bytes(len(rest))
            forge(signo, code, rest)
        descriptor.drain()
        with spawning():
            forge(signo, code, rest)
        descriptor.drain()
        queued, deferred = reads.infos
        assert deferred == queued


SPAWN_AT_EXIT = """
import os, signal, sys
from txsignalfd import SignalDescriptor, spawning
descriptor = SignalDescriptor([signal.SIGUSR1], print)
with spawning():
    os.kill(os.getpid(), signal.SIGUSR1)
sys.exit(0)
"""


EXEC = f"""
import os, signal
from txsignalfd import SignalDescriptor, spawning
descriptor = SignalDescriptor([signal.SIGTERM], print)
with spawning():
    os.execv({STATUS[0]!r}, {STATUS!r})
"""


@needsLinux
def test_executedProgramIsClean(tmp_path: Path) -> None:
    """
    It has the mask of the spawn window.
    """
    with python(tmp_path, EXEC) as running:
        assert running.wait() == 0
        assert signals(running.output())[0] == "SigBlk 0"


@needsLinux
def test_programMayExitWithDeferredSignals(tmp_path: Path) -> None:
    """
    Nothing is restored, and no error is shown.
    """
    with python(tmp_path, SPAWN_AT_EXIT) as running:
        assert running.wait() == 0
        assert running.output() == ""


@needsLinux
def test_childHasTheMaskOfItsOwnThread() -> None:
    """
    The thread that watches had blocked the signal before.
    """

    def watch() -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        watched.append(SignalDescriptor([SIGUSR1], infos.extend))

    watched: list[SignalDescriptor] = []
    infos: list[SigInfo] = []
    runIn(True, watch)
    signal.raise_signal(SIGUSR1)  # passed on, and blocked here from now on
    assert blockedSignals() == {SIGUSR1}
    assert inChild(blockedSignals) == set()
    with spawning():
        assert blockedSignals() == set()
    watched[0].drain()
    assert len(infos) == 1
    watched[0].close()
    assert blockedSignals() == set()


@inReactor
async def test_storedSpawnProcessStartsCleanChildren(
    reactor: Any, dispatcher: SignalDispatcher
) -> None:
    stored = reactor.spawnProcess
    dispatcher.watch(SIGTERM)
    ChildReaper(dispatcher)
    protocol = Ending()
    stored(protocol, "sleep", SLEEP, os.environ, childFDs={})
    os.kill(protocol.transport.pid, SIGTERM)
    await protocol.ended
    assert protocol.status == (None, SIGTERM)


def test_childrenOfAnotherReactorAreClean() -> None:
    """
    The other reactor watches no signals, and runs in a thread with the mask of the
    first.
    """

    async def other(reactor: Any) -> None:
        ways: list[dict[str, Any]] = [{"childFDs": {}}, {"usePTY": True}]
        for options in ways:
            protocol = Ending()
            reactor.spawnProcess(protocol, "sleep", SLEEP, os.environ, **options)
            os.kill(protocol.transport.pid, SIGTERM)
            await protocol.ended
            assert protocol.status == (None, SIGTERM)

    async def main(reactor: Any) -> None:
        dispatcher = dispatcherFor(reactor)
        ChildReaper(dispatcher)
        dispatcher.watch(SIGTERM)
        assert blockedSignals() & {SIGTERM} == maskWhile([SIGTERM])
        with ThreadPoolExecutor(1) as pool:
            running = pool.submit(spin, other)
            await until(running.done)
            running.result()
        await dispatcher.close()

    spin(main)
