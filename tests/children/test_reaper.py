"""
L{ChildReaper}: each end is told, to whom it concerns, and at what cost.
"""

from __future__ import annotations

import gc
import os
import shutil
import signal
import subprocess
import sys
import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from signal import SIGABRT, SIGCHLD, SIGCONT, SIGKILL, SIGSTOP, SIGTERM
from typing import Any

import pytest
from twisted.internet import process
from twisted.internet.defer import CancelledError, Deferred, gatherResults
from twisted.logger import LogEvent
from txsignalfd._native.extension import lib

from tests.support.daemons import program, waitFor
from tests.support.handlers import (
    Recorder,
    everyReactor,
    failures,
    inEachThread,
)
from tests.support.processes import (
    SLEEP,
    Ending,
    foreign,
    kill,
    spawn,
    untilZombie,
    zombie,
)
from tests.support.reactors import (
    DEADLINE,
    newReactor,
    runReactor,
    spin,
    turn,
    until,
    untilLength,
)
from tests.support.worlds import needsLinux
from txsignalfd import (
    ChildReaper,
    DispatcherClosed,
    SigInfo,
    SignalAlreadyWatched,
    SignalDispatcher,
    dispatcherFor,
)


@contextmanager
def noPidfds() -> Iterator[None]:
    """
    A kernel without pidfd_open(2).
    """

    def pidfdOpen(pid: int) -> int:
        raise OSError(38, "no such system call")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "pidfd_open", pidfdOpen)
        yield


@pytest.fixture(params=["pidfds", "none"])
def anyKernel(request: pytest.FixtureRequest) -> Iterator[None]:
    """
    With pidfds, and without.
    """
    if request.param == "pidfds":
        yield
    else:
        with noPidfds():
            yield


async def ended(*protocols: Ending) -> None:
    """
    Wait for the ends of processes.
    """
    await gatherResults([protocol.ended for protocol in protocols])


# -- processes of spawnProcess


@everyReactor
@inEachThread
@pytest.mark.parametrize(
    "options", [{}, {"childFDs": None}, {"usePTY": True}], ids=["none", "pipes", "pty"]
)
def test_eachEndIsTold(kind: str, inThread: bool, options: dict[str, Any]) -> None:
    """
    With its status, in each kind of reactor, in any thread, by exit and by
    signal, without pipes, with pipes and with a PTY.
    """

    async def main(reactor: Any) -> None:
        dispatcher = dispatcherFor(reactor)
        ChildReaper(dispatcher)
        done = spawn(reactor, "true", **options)
        failed = spawn(reactor, "sh", "-c", "exit 3", **options)
        killed = spawn(reactor, *SLEEP, **options)
        killed.transport.signalProcess("KILL")
        await ended(done, failed, killed)
        assert [done.status, failed.status, killed.status] == [
            (0, None),
            (3, None),
            (None, SIGKILL),
        ]
        await dispatcher.close()

    spin(main, kind, inThread)


def test_aCoreDumpIsTold(tmp_path: Path) -> None:
    """
    As the kernel tells it; whether one is written is the system's affair.
    """

    async def main(reactor: Any) -> None:
        dispatcher = dispatcherFor(reactor)
        reaper = ChildReaper(dispatcher)
        command = "ulimit -c unlimited; read line; kill -ABRT $$"
        options: dict[str, Any] = {"path": str(tmp_path), "childFDs": {0: "w"}}
        aborted = spawn(reactor, "sh", "-c", command, **options)
        waiting = reaper.whenExited(aborted.pid)
        aborted.transport.write(b"go\n")
        child = await waiting
        await ended(aborted)
        assert aborted.status == (None, SIGABRT)
        assert child is not None
        ends: list[Any] = [reason.value for reason in aborted.reasons]
        status = ends[0].status
        assert child.coreDumped == os.WCOREDUMP(status)
        assert child.signal == SIGABRT
        await dispatcher.close()

    spin(main)


@inEachThread
@pytest.mark.parametrize("lying", [False, True], ids=["alone", "beside a zombie"])
@pytest.mark.usefixtures("anyKernel")
def test_hundredsThatEndInOneInstantAreAllTold(inThread: bool, lying: bool) -> None:
    """
    One SIGCHLD stands for many, and a zombie that another leaves lying hides
    none of them.
    """
    count = 300

    async def main(reactor: Any) -> None:
        dispatcher = dispatcherFor(reactor)
        ChildReaper(dispatcher)
        got = Recorder()
        dispatcher.addHandler(SIGCHLD, got)
        protocols = [spawn(reactor, *SLEEP) for _ in range(count)]
        await turn(reactor)
        # Half of them are known to have been there when one ended.
        with foreign("true"):
            await until(reactor, lambda: got.infos)
            protocols += [spawn(reactor, *SLEEP) for _ in range(count)]
            kill(*protocols)
            await ended(*protocols)
        assert {each.status for each in protocols} == {(None, SIGKILL)}
        assert len(got.infos) < count
        await dispatcher.close()

    def run() -> None:
        spin(main, "epoll", inThread)

    if lying:
        with zombie():
            run()
    else:
        run()


def test_aChildThatEndsBeforeItIsRegisteredIsTold() -> None:
    """
    Twisted itself asks for it when it registers it; that is not done twice.
    """

    class Late(Ending):
        def connectionMade(self) -> None:
            untilZombie(self.transport.pid)

    async def main(reactor: Any) -> None:
        dispatcher = dispatcherFor(reactor)
        ChildReaper(dispatcher)
        protocol = Late()
        reactor.spawnProcess(protocol, "true", ["true"], os.environ, childFDs={})
        assert protocol.status == (0, None)
        await turn(reactor)
        assert len(protocol.reasons) == 2
        await dispatcher.close()

    spin(main)


@pytest.mark.parametrize("running", [False, True], ids=["before", "while"])
def test_aChildThatEndedBeforeSigchldWasWatchedIsTold(running: bool) -> None:
    """
    Nobody else has told its process.  Before the reactor runs nobody is told.
    """
    with newReactor() as reactor:
        protocol = spawn(reactor, *SLEEP)
        kill(protocol)

        async def main(reactor: Any) -> None:
            if running:
                ChildReaper(dispatcherFor(reactor))
            await ended(protocol)
            await dispatcherFor(reactor).close()

        if not running:
            ChildReaper(dispatcherFor(reactor))
            assert not protocol.reasons
        runReactor(reactor, main)
        assert protocol.status == (None, SIGKILL)


def test_aChildWhosePipesCloseFirstIsToldOnce() -> None:
    """
    Then Twisted asks for it before there is a SIGCHLD to be read, and its
    number is free for another.
    """

    async def main(reactor: Any) -> None:
        dispatcher = dispatcherFor(reactor)
        reaper = ChildReaper(dispatcher)
        got = Recorder()
        dispatcher.addHandler(SIGCHLD, got)
        first = spawn(reactor, *SLEEP, childFDs=None)
        with foreign("true"):
            await until(reactor, lambda: got.infos)
        with dispatcher.hold(SIGCHLD):
            kill(first)
            await ended(first)
        await until(reactor, lambda: first.transport.pid is None)
        await turn(reactor)
        assert len(first.reasons) == 2
        assert not reaper._shared._processes._known
        await dispatcher.close()

    spin(main)


def test_aStoppedChildHasNotEnded() -> None:
    """
    Its SIGCHLD tells something else.
    """

    async def main(reactor: Any) -> None:
        dispatcher = dispatcherFor(reactor)
        reaper = ChildReaper(dispatcher)
        got = Recorder()
        dispatcher.addHandler(SIGCHLD, got)
        protocol = spawn(reactor, *SLEEP)
        pid = protocol.transport.pid
        waiting = reaper.whenExited(pid)
        for signo in (SIGSTOP, SIGCONT):
            os.kill(pid, signo)
            await until(reactor, lambda: got.infos)
            (info,) = got.infos
            assert (
                info.codeName
                == {SIGSTOP: "CLD_STOPPED", SIGCONT: "CLD_CONTINUED"}[signo]
            )
            got.infos.clear()
        assert not protocol.reasons
        assert not waiting.called
        kill(protocol)
        await ended(protocol)
        await dispatcher.close()

    spin(main)


#: Takes hold of a process as a debugger does, until it is told to let go.
TRACER = """
import ctypes, os, signal, sys
PTRACE_SEIZE, WALL = 0x4206, 0x40000000
signal.alarm(60)
pid = int(sys.argv[1])
if ctypes.CDLL(None, use_errno=True).ptrace(PTRACE_SEIZE, pid, 0, 0) == -1:
    sys.exit(os.strerror(ctypes.get_errno()))
print("seized", flush=True)
input()
os.waitpid(pid, WALL)
print("let go", flush=True)
"""


@pytest.mark.usefixtures("anyKernel")
def test_oneThatADebuggerHasIsToldWhenThatLetsGo() -> None:
    """
    It has ended before, and its status could not be had.  The C{SIGCHLD} that
    comes then may name another.
    """

    async def main(reactor: Any) -> None:
        dispatcher = dispatcherFor(reactor)
        reaper = ChildReaper(dispatcher)
        traced, *others = (spawn(reactor, *SLEEP) for _ in range(4))
        pid = traced.transport.pid
        waiting = reaper.whenExited(pid)
        with subprocess.Popen(
            [sys.executable, "-c", TRACER, str(pid)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as tracer:
            assert tracer.stdin
            assert tracer.stdout
            assert tracer.stderr
            seized = tracer.stdout.readline()
            os.kill(pid, SIGKILL)
            if seized:
                stat = Path(f"/proc/{pid}/stat")
                waitFor(lambda: ") Z" in stat.read_text(), "it ends")
            for each in others[:2]:
                kill(each)
                if each is others[1] and seized:
                    tracer.stdin.write("\n")
                    tracer.stdin.flush()
                    assert tracer.stdout.readline() == "let go\n"
                await ended(each)
                await turn(reactor)
                assert bool(traced.reasons) == (each is others[1] or not seized)
            refusal = tracer.stderr.read()
        await ended(traced)
        assert traced.status == (None, SIGKILL)
        child = await waiting
        assert child is not None
        assert child.signal == SIGKILL
        kill(others[2])
        await ended(others[2])
        await dispatcher.close()
        if not seized:
            pytest.skip(f"no process may be traced here: {refusal}")

    spin(main)


def test_anEndWhoseStatusAnotherHasTakenIsNotAskedForAgain() -> None:
    """
    As by a handler that waits for whatever there is.  Then nobody can tell it,
    and it costs nothing any more.
    """

    def takeAll(info: SigInfo) -> None:
        with suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass

    async def main(reactor: Any) -> None:
        dispatcher = dispatcherFor(reactor)
        taker = dispatcher.addHandler(SIGCHLD, takeAll)
        reaper = ChildReaper(dispatcher)
        taken = [spawn(reactor, *SLEEP) for _ in range(4)]
        pids = [each.transport.pid for each in taken]
        # Some of them have been met when they end, and some have not.
        for some in (taken[:2], taken[2:]):
            taker.handled = 0
            kill(*some)
            await until(reactor, lambda: taker.handled)
        taker.remove()
        for _ in range(len(taken)):
            await ended(spawn(reactor, "true"))
            await turn(reactor)
        assert not reaper._shared._watch._pidfds
        assert not reaper._shared._watch._polled
        for each, pid in zip(taken, pids, strict=True):
            assert not each.reasons
            assert process.reapProcessHandlers.pop(pid) is each.transport
        await dispatcher.close()

    spin(main)


def test_theCostDoesNotGrowWithTheLiving(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    With fifty living children and a zombie that another leaves lying, the end
    of one costs one waitpid(2): that of its own process.
    """
    asked: list[int] = []
    waitpid, waitid = os.waitpid, os.waitid

    def countedWaitpid(pid: int, options: int) -> tuple[int, int]:
        asked.append(pid)
        return waitpid(pid, options)

    def countedWaitid(idtype: int, pid: int, options: int) -> Any:
        asked.append(pid)
        return waitid(idtype, pid, options)

    async def main(reactor: Any) -> None:
        dispatcher = dispatcherFor(reactor)
        ChildReaper(dispatcher)
        living = [spawn(reactor, *SLEEP) for _ in range(50)]
        with zombie(), monkeypatch.context() as patch:
            for each in (living.pop(0), spawn(reactor, *SLEEP)):
                await turn(reactor)
                pid = each.transport.pid
                kill(each)
                patch.setattr(os, "waitpid", countedWaitpid)
                patch.setattr(os, "waitid", countedWaitid)
                await ended(each)
                patch.undo()
                assert asked == [pid]
                asked.clear()
        kill(*living)
        await ended(*living)
        await dispatcher.close()

    spin(main)


def test_aProcessOfAnotherReactorIsToldInItsThread() -> None:
    """
    There is one SIGCHLD for all reactors of the process.
    """
    threads: list[int] = []

    class Threaded(Ending):
        def processExited(self, reason: Any) -> None:
            threads.append(threading.get_ident())
            super().processExited(reason)

    async def other(reactor: Any) -> None:
        protocols = []
        ways: list[dict[str, Any]] = [{"childFDs": {}}, {"usePTY": True}]
        for options in ways:
            protocols.append(Threaded())
            reactor.spawnProcess(
                protocols[-1], "sleep", ["sleep", "0.1"], os.environ, **options
            )
        await ended(*protocols)
        assert {each.status for each in protocols} == {(0, None)}
        assert threads == [threading.get_ident()] * 2

    async def main(reactor: Any) -> None:
        dispatcher = dispatcherFor(reactor)
        ChildReaper(dispatcher)
        thread = threading.Thread(target=run)
        thread.start()
        await until(reactor, lambda: not thread.is_alive())
        thread.join()
        await dispatcher.close()

    raised: list[BaseException] = []

    def run() -> None:
        try:
            spin(other)
        except BaseException as error:
            raised.append(error)

    spin(main)
    assert not raised


def test_aProcessOfAReactorThatRunsLaterIsToldThenAndOnce() -> None:
    """
    However often it was found to have ended.
    """

    async def main(reactor: Any) -> None:
        dispatcher = dispatcherFor(reactor)
        ChildReaper(dispatcher)
        kill(early)
        for _ in range(2):
            other = spawn(reactor, "true")
            await ended(other)
        assert not early.reasons
        await dispatcher.close()

    async def later(reactor: Any) -> None:
        await ended(early)

    with newReactor() as idle:
        early = spawn(idle, *SLEEP)
        spin(main)
        runReactor(idle, later)
    assert early.status == (None, SIGKILL)


def test_aProcessOfADismantledReactorKeepsNoOtherFromBeingTold(
    logged: list[LogEvent],
) -> None:
    """
    Nothing can be called in it any more; that is logged.
    """
    left: list[Ending] = []

    async def leave(reactor: Any) -> None:
        left.append(spawn(reactor, *SLEEP))

    async def main(reactor: Any) -> None:
        dispatcher = dispatcherFor(reactor)
        ChildReaper(dispatcher)
        protocols = [spawn(reactor, *SLEEP) for _ in range(10)]
        kill(*protocols[:5], *left, *protocols[5:])
        await ended(*protocols)
        assert failures(logged)
        await dispatcher.close()

    spin(leave)
    spin(main)
    left[0].transport.reapProcess()
    assert left[0].status == (None, SIGKILL)


def test_anotherThreadMayStartProcessesMeanwhile(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """
    What Twisted keeps its processes in then changes under our hands.
    """

    class Shared(dict[int, Any]):
        changed = 0

        def items(self) -> Any:
            items = super().items()
            if self.changed or not self:
                return items
            self.changed += 1

            class Changing:
                def __reversed__(self) -> Iterator[tuple[int, Any]]:
                    iterator = reversed(items)
                    shared[another] = object()
                    yield from iterator

            return Changing()

    shared = Shared()
    monkeypatch.setattr(process, "reapProcessHandlers", shared)

    async def main(reactor: Any) -> None:
        dispatcher = dispatcherFor(reactor)
        ChildReaper(dispatcher)
        protocols = [spawn(reactor, *SLEEP) for _ in range(3)]
        kill(*protocols)
        await ended(*protocols)
        assert list(shared) == [another]
        assert shared.changed == 1
        await dispatcher.close()

    with foreign(*SLEEP) as another:
        spin(main)


def test_whatTwistedKeepsItsProcessesInIsWhatWeTakeItFor() -> None:
    """
    The one name of Twisted's that is used, and is not public.
    """

    async def main(reactor: Any) -> None:
        dispatcher = dispatcherFor(reactor)
        ChildReaper(dispatcher)
        protocols = [spawn(reactor, *SLEEP) for _ in range(3)]
        assert list(process.reapProcessHandlers.items()) == [
            (protocol.transport.pid, protocol.transport) for protocol in protocols
        ]
        kill(*protocols)
        await ended(*protocols)
        assert process.reapProcessHandlers == {}
        await dispatcher.close()

    spin(main)


def test_aProcessThatRaisesKeepsNoOtherFromBeingTold(logged: list[LogEvent]) -> None:
    """
    It is logged.
    """

    class Broken:
        def reapProcess(self) -> None:
            del process.reapProcessHandlers[pid]
            raise ZeroDivisionError

    async def main(reactor: Any) -> None:
        dispatcher = dispatcherFor(reactor)
        ChildReaper(dispatcher)
        protocol = spawn(reactor, *SLEEP)
        process.reapProcessHandlers[pid] = Broken()  # type: ignore[assignment]
        os.kill(pid, SIGKILL)
        kill(protocol)
        await ended(protocol)
        await until(reactor, lambda: failures(logged))
        (failure,) = failures(logged)
        assert failure.check(ZeroDivisionError)
        await dispatcher.close()

    with foreign(*SLEEP) as pid:
        spin(main)


# -- handlers of SIGCHLD


def test_reapingGoesOnWhateverAUsersHandlerDoes(logged: list[LogEvent]) -> None:
    """
    Before it was added and after; and it sees who has ended.
    """

    def bad(info: SigInfo) -> None:
        raise ZeroDivisionError

    async def main(reactor: Any) -> None:
        dispatcher = dispatcherFor(reactor)
        before, after = Recorder(busy=True), Recorder()
        dispatcher.addHandler(SIGCHLD, before)
        dispatcher.addHandler(SIGCHLD, bad)
        ChildReaper(dispatcher)
        dispatcher.addHandler(SIGCHLD, bad)
        dispatcher.addHandler(SIGCHLD, after)
        for code in (1, 2):
            protocol = spawn(reactor, "sh", "-c", f"sleep 0.05; exit {code}")
            await ended(protocol)
            assert protocol.status == (code, None)
            await untilLength(reactor, after.infos, code)
            child = after.infos[-1].child
            assert child is not None
            assert (child.pid, child.exitCode) == (protocol.pid, code)
        assert len(before.infos) == 1
        assert len(failures(logged)) == 4
        before.busy = False
        before.out[0].callback(None)
        await dispatcher.close()

    spin(main)


@pytest.mark.parametrize("how", ["reaper", "dispatcher"])
def test_whoIsToldMayCloseEverything(how: str) -> None:
    """
    The others that have ended at the same time are told, or are Twisted's to
    find; nothing is left behind.
    """

    async def main(reactor: Any) -> None:
        dispatcher = dispatcherFor(reactor)
        reaper = ChildReaper(dispatcher)
        protocols = [spawn(reactor, *SLEEP) for _ in range(5)]
        closing: list[Deferred[None]] = []

        def close(_: None) -> None:
            if how == "reaper":
                reaper.close()
            else:
                closing.append(dispatcher.close())

        for each in protocols:
            each.ended.addCallback(close)
        kill(*protocols)
        await until(reactor, lambda: not reaper._shared._group._registrations[0].ready)
        process.reapAllProcesses()
        await ended(*protocols)
        await dispatcher.close()
        await gatherResults(closing)

    spin(main)


# -- children of others

OTHERS = """
import ctypes, multiprocessing, os, subprocess, sys, threading
from concurrent.futures import ProcessPoolExecutor
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread
from tests.support.processes import SLEEP, kill, spawn
from txsignalfd import ChildReaper, dispatcherFor

libc = ctypes.CDLL(None, use_errno=True)
COUNT = 30

def popen():
    return [subprocess.run(["sh", "-c", f"exit {n}"]).returncode for n in range(COUNT)]

def pools():
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, context) as pool:
        pool.submit(abs, 1).result()
        processes = list(pool._processes.values())
    codes = [process.exitcode for process in processes]
    for number in range(2):
        process = context.Process(target=sys.exit, args=(number,))
        process.start()
        process.join()
        codes.append(process.exitcode)
    return codes

def native():
    codes = []
    for number in range(COUNT):
        command = ["sh", "-c", f"exit {number}"]
        pid = os.posix_spawnp("sh", command, os.environ)
        status = ctypes.c_int()
        assert libc.waitpid(pid, ctypes.byref(status), 0) == pid
        codes.append(os.waitstatus_to_exitcode(status.value))
    return codes

async def main(lazy):
    dispatcher = dispatcherFor(reactor)
    ChildReaper(dispatcher)
    waiting = [deferToThread(function) for function in (popen, pools, native)]
    ended = 0
    while ended < 300 or not all(deferred.called for deferred in waiting):
        protocols = [spawn(reactor, *SLEEP) for _ in range(30)]
        kill(*protocols)
        for protocol in protocols:
            await protocol.ended
        ended += len(protocols)
        await deferLater(reactor, 0)
    assert await waiting[0] == list(range(COUNT))
    assert await waiting[1] == [0, 0, 1]
    assert await waiting[2] == list(range(COUNT))
    assert lazy.poll() == 5
    await dispatcher.close()
    print("all is well", flush=True)

if __name__ == "__main__":
    lazy = subprocess.Popen(["sh", "-c", "exit 5"])
    reactor.callWhenRunning(
        lambda: Deferred.fromCoroutine(main(lazy)).addErrback(
            lambda failure: failure.printTraceback()
        ).addCallback(lambda _: reactor.stop())
    )
    reactor.run(installSignalHandlers=False)
"""


def test_childrenOfOthersAreTheirs(tmp_path: Path) -> None:
    """
    Of subprocess, multiprocessing, concurrent.futures and a library in C, while
    hundreds of Twisted's end; and one that its owner leaves lying until then.
    """
    root = str(Path(__file__).parent.parent.parent)
    source = f"import sys; sys.path.insert(0, {root!r})\n{OTHERS}"
    (tmp_path / "others.py").write_text(source)
    with program(tmp_path, sys.executable, "others.py") as running:
        running.waitForOutput("all is well")
        assert running.wait() == 0, running.output()


# -- whenExited


def test_whenExitedTellsOfAnyChild() -> None:
    """
    Of Twisted's and of others', and leaves their statuses to them.
    """

    async def main(reactor: Any) -> None:
        dispatcher = dispatcherFor(reactor)
        reaper = ChildReaper(dispatcher)
        ours = spawn(reactor, *SLEEP)
        pid = ours.transport.pid
        waiting = [reaper.whenExited(pid), reaper.whenExited(pid)]
        kill(ours)
        for each in waiting:
            child = await each
            assert child is not None
            assert (child.pid, child.exitCode, child.signal) == (pid, None, SIGKILL)
        await ended(ours)
        assert ours.status == (None, SIGKILL)
        with subprocess.Popen(["sh", "-c", "exit 3"]) as theirs:
            child = await reaper.whenExited(theirs.pid)
            assert child is not None
            assert (child.pid, child.exitCode, child.signal) == (theirs.pid, 3, None)
            assert not child.coreDumped
            # And once more: it has ended already.
            assert await reaper.whenExited(theirs.pid) == child
            assert theirs.wait() == 3
        await dispatcher.close()

    spin(main)


@needsLinux
def test_whenExitedTellsTheTimeThatWasUsed() -> None:
    """
    As the owner is told it.
    """
    busy = "import time\nwhile time.process_time() < 0.2: pass"

    async def main(reactor: Any) -> None:
        dispatcher = dispatcherFor(reactor)
        reaper = ChildReaper(dispatcher)
        pid = os.posix_spawn(sys.executable, [sys.executable, "-c", busy], os.environ)
        child = await reaper.whenExited(pid)
        _, _, usage = os.wait4(pid, 0)
        assert child is not None
        assert abs(child.userTime - usage.ru_utime) < 0.02
        assert abs(child.systemTime - usage.ru_stime) < 0.02
        assert child.userTime + child.systemTime > 0.1
        await dispatcher.close()

    spin(main)


@pytest.mark.parametrize("named", [True, False], ids=["named", "not named"])
@pytest.mark.usefixtures("anyKernel")
def test_whenExitedFiresWhenTheOwnerWasFaster(named: bool) -> None:
    """
    With what the SIGCHLD says if it names the child, and else with nothing.
    """

    async def main(reactor: Any) -> None:
        dispatcher = dispatcherFor(reactor)
        reaper = ChildReaper(dispatcher)
        got = Recorder()
        dispatcher.addHandler(SIGCHLD, got)
        with foreign(*SLEEP) as other:
            owned = os.posix_spawnp("sleep", SLEEP, os.environ)
            waiting = reaper.whenExited(owned)
            # What is pending names the first of them.
            for pid in (owned, other) if named else (other, owned):
                os.kill(pid, SIGKILL)
                untilZombie(pid)
            os.waitpid(owned, 0)
            child = await waiting
            await until(reactor, lambda: got.infos)
        assert got.infos[0].pid == (owned if named else other)
        assert child == (got.infos[0].child if named else None)
        await dispatcher.close()

    spin(main)


def test_whenExitedFailsForWhatIsNoChild() -> None:
    """
    And for one that was waited for, and for what is no process id.
    """

    async def main(reactor: Any) -> None:
        dispatcher = dispatcherFor(reactor)
        reaper = ChildReaper(dispatcher)
        with foreign("true") as pid:
            pass
        for nobody in (os.getpid(), 1, pid):
            with pytest.raises(ChildProcessError, match=str(nobody)):
                await reaper.whenExited(nobody)
        for nonsense in (0, -1, 2**31, -(2**40)):
            with pytest.raises(OSError, match=str(nonsense)):
                await reaper.whenExited(nonsense)
        await dispatcher.close()

    spin(main)


REUSED = """
import os, subprocess, sys
from tests.support.processes import SLEEP, untilZombie
from tests.support.reactors import spin
from txsignalfd import ChildReaper, dispatcherFor

def start(*command, number=None):
    if number is not None:
        with open("/proc/sys/kernel/ns_last_pid", "w") as last:
            last.write(str(number - 1))
    return subprocess.Popen(command)

async def main(reactor):
    dispatcher = dispatcherFor(reactor)
    reaper = ChildReaper(dispatcher)
    first = start(*SLEEP)
    ofFirst = reaper.whenExited(first.pid)
    first.kill()
    first.wait()
    second = start("sh", "-c", "exit 3", number=first.pid)
    assert second.pid == first.pid
    ofSecond = []
    if sys.argv[1] == "asked for":
        ofSecond.append(reaper.whenExited(second.pid))
        assert await ofFirst is None
    untilZombie(second.pid)
    if not ofSecond:
        assert (await ofFirst).signal == 9
        ofSecond.append(reaper.whenExited(second.pid))
    assert (await ofSecond[0]).exitCode == 3
    assert second.wait() == 3
    await dispatcher.close()
    print("all is well")

spin(main)
"""


@pytest.mark.skipif(shutil.which("unshare") is None, reason="there is no unshare(1)")
@pytest.mark.parametrize("second", ["asked for", "not asked for"])
@needsLinux
def test_whenExitedIsOfThatProcessAndNotOfItsNumber(second: str) -> None:
    """
    The number may be another's before the first end has been told.  In a
    namespace of its own nobody else takes the numbers.
    """
    root = str(Path(__file__).parent.parent.parent)
    unshare = ["unshare", "--user", "--map-root-user", "--pid", "--fork"]
    possible = subprocess.run(
        [*unshare, "true"], capture_output=True, text=True, check=False
    )
    if possible.returncode:
        pytest.skip(f"no namespaces here: {possible.stderr}")
    result = subprocess.run(
        [*unshare, sys.executable, "-c", REUSED, second],
        cwd=root,
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=False,
    )
    assert result.stdout == "all is well\n", result.stderr


@pytest.mark.usefixtures("anyKernel")
def test_whenExitedMayBeCancelled() -> None:
    """
    One of two, or both, also by the other's callback.
    """

    async def main(reactor: Any) -> None:
        dispatcher = dispatcherFor(reactor)
        reaper = ChildReaper(dispatcher)
        got = Recorder()
        dispatcher.addHandler(SIGCHLD, got)
        protocol = spawn(reactor, *SLEEP)
        with foreign("true"):
            await until(reactor, lambda: got.infos)
        with foreign(*SLEEP) as pid:
            for child in (pid, protocol.transport.pid):
                only = reaper.whenExited(child)
                only.cancel()
                with pytest.raises(CancelledError):
                    await only
            first, second = reaper.whenExited(pid), reaper.whenExited(pid)
            reaper.whenExited(pid).addErrback(lambda _: None).cancel()
            first.addCallback(lambda child: second.cancel())
            os.kill(pid, SIGKILL)
            await first
            with pytest.raises(CancelledError):
                await second
        kill(protocol)
        await ended(protocol)
        await dispatcher.close()

    spin(main)


@pytest.mark.parametrize("how", ["reaper", "dispatcher"])
def test_whenExitedFailsWhenNobodyTellsAnyMore(how: str) -> None:
    """
    The reaper was closed, or its dispatcher.
    """

    async def main(reactor: Any) -> None:
        dispatcher = dispatcherFor(reactor)
        reaper = ChildReaper(dispatcher)
        with foreign(*SLEEP) as pid:
            waiting = [reaper.whenExited(pid), reaper.whenExited(pid)]
            if how == "reaper":
                reaper.close()
                reaper.close()
                assert dispatcher.watching == frozenset()
            else:
                await dispatcher.close()
            waiting.append(reaper.whenExited(pid))
            for each in waiting:
                with pytest.raises(DispatcherClosed):
                    await each
        await dispatcher.close()
        reaper.close()

    spin(main)


# -- taking and giving back


def test_whenItIsClosedTwistedTellsEndsAgain() -> None:
    """
    Where Twisted has handlers of its own.
    """
    saved = {signo: signal.getsignal(signo) for signo in signal.Signals}

    async def main(reactor: Any) -> None:
        reaper = ChildReaper(dispatcherFor(reactor))
        for close in (reaper.close, lambda: None):
            protocol = spawn(reactor, "true")
            await ended(protocol)
            assert protocol.status == (0, None)
            close()
        await dispatcherFor(reactor).close()

    try:
        with newReactor() as reactor:
            runReactor(reactor, main, installSignalHandlers=True)
    finally:
        for signo in (signal.SIGINT, signal.SIGTERM, SIGCHLD):
            signal.signal(signo, saved[signo])


def test_whatIsPendingWhenItIsClosedIsTold() -> None:
    """
    A child that has ended before.
    """

    async def main(reactor: Any) -> None:
        reaper = ChildReaper(dispatcherFor(reactor))
        protocol = spawn(reactor, *SLEEP)
        kill(protocol)
        reaper.close()
        assert protocol.status == (None, SIGKILL)
        await dispatcherFor(reactor).close()

    spin(main)


def test_itIsClosedBeforeTheReactorRuns() -> None:
    """
    Then it does nothing when it does.
    """
    with newReactor() as reactor:
        reaper = ChildReaper(dispatcherFor(reactor))
        protocol = spawn(reactor, *SLEEP)
        kill(protocol)
        reaper.close()
        assert len(protocol.reasons) == 2

        async def main(reactor: Any) -> None:
            await turn(reactor)

        runReactor(reactor, main)


def test_aSignalThatIsAnothersIsNotTaken() -> None:
    """
    And nothing else is.
    """
    with newReactor() as reactor, newReactor() as elsewhere:
        other = SignalDispatcher(elsewhere)
        other.watch(SIGCHLD)
        with pytest.raises(SignalAlreadyWatched, match="SIGCHLD"):
            ChildReaper(dispatcherFor(reactor), subreaper=True)
        other.close()


def test_theReactorStopsWithChildrenAlive() -> None:
    """
    Nothing is left behind but the children.
    """
    protocols: list[Ending] = []

    async def main(reactor: Any) -> None:
        ChildReaper(dispatcherFor(reactor))
        protocols.extend(spawn(reactor, *SLEEP) for _ in range(3))
        first = protocols.pop()
        kill(first)
        await ended(first)

    spin(main)
    kill(*protocols)
    process.reapAllProcesses()
    assert {each.status for each in protocols} == {(None, SIGKILL)}


@needsLinux
def test_severalCostNoMoreThanOne() -> None:
    """
    They share what they know of a child, whichever goes first; and what was
    asked of one that is closed fails.
    """

    async def main(reactor: Any) -> None:
        dispatcher = dispatcherFor(reactor)
        reapers = [ChildReaper(dispatcher, subreaper=n == 1) for n in range(3)]
        assert len(dispatcher.handlersOf(SIGCHLD)) == 1
        assert lib.txs_set_subreaper(1) == 1
        living = spawn(reactor, *SLEEP)
        await ended(spawn(reactor, "true"))
        await turn(reactor)
        waiting = [reaper.whenExited(living.transport.pid) for reaper in reapers]
        for reaper, deferred in zip(reapers[:2], waiting, strict=False):
            assert len(reaper._shared._watch._pidfds) == 1
            reaper.close()
            with pytest.raises(
                DispatcherClosed, match="the ChildReaper or its dispatcher is closed"
            ):
                await deferred
        assert lib.txs_set_subreaper(0) == 0
        kill(living)
        child = await waiting[2]
        assert child is not None
        assert child.signal == SIGKILL
        await ended(living)
        reapers[2].close()
        assert dispatcher.watching == frozenset()
        await dispatcher.close()

    spin(main)


def test_nothingIsKeptOfThoseThatAreClosed() -> None:
    """
    In a dispatcher that lives on.
    """

    async def main(reactor: Any) -> None:
        dispatcher = dispatcherFor(reactor)
        dispatcher.watch(SIGTERM)
        gone = []
        for _ in range(3):
            reaper = ChildReaper(dispatcher)
            await ended(spawn(reactor, "true"))
            reaper.close()
            gone.append(weakref.ref(reaper))
            del reaper
        await turn(reactor)
        gc.collect()
        assert [each() for each in gone] == [None] * 3
        assert not dispatcher._whenClosed
        await dispatcher.close()

    spin(main)


def test_whoIsToldAtTheEndMayStartAnew() -> None:
    """
    With a reaper that works.
    """

    async def main(reactor: Any) -> None:
        dispatcher = dispatcherFor(reactor)
        reapers = [ChildReaper(dispatcher)]
        first = spawn(reactor, *SLEEP)
        first.ended.addCallback(lambda _: reapers.append(ChildReaper(dispatcher)))
        kill(first)
        reapers[0].close()
        await ended(spawn(reactor, "true"))
        reapers[1].close()
        assert dispatcher.watching == frozenset()
        await dispatcher.close()

    spin(main)
