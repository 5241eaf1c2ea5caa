"""
L{ChildReaper}: the ends of processes are reported while SIGCHLD is watched.
"""

from __future__ import annotations

import gc
import os
import struct
import subprocess
import sys
import weakref
from contextlib import nullcontext, suppress
from pathlib import Path
from signal import SIGABRT, SIGCHLD, SIGCONT, SIGKILL, SIGSTOP, SIGTERM
from typing import Any

import pytest
from twisted.internet import process
from twisted.internet.defer import Deferred, gatherResults

from tests.support.daemons import program, waitFor
from tests.support.handlers import Recorder, inEachThread, recording
from tests.support.inreactor import inEveryReactor, inReactor
from tests.support.kernel import forge
from tests.support.observers import Logged
from tests.support.processes import (
    ROOT,
    SLEEP,
    Ending,
    ended,
    handleSigchld,
    kill,
    spawn,
    untilZombie,
    zombie,
)
from tests.support.reactors import (
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
from txsignalfd._native.extension import lib


def test_itNeedsADispatcherAndNoReactor() -> None:
    with newReactor() as reactor, pytest.raises(TypeError, match="dispatcherFor"):
        ChildReaper(reactor)


# -- processes of spawnProcess


@pytest.mark.parametrize(
    "options", [{}, {"childFDs": None}, {"usePTY": True}], ids=["none", "pipes", "pty"]
)
@inEveryReactor
async def test_eachEndIsReported(
    dispatcher: SignalDispatcher, options: dict[str, Any]
) -> None:
    """
    An end is reported with its status, for each kind of process and reactor.
    """
    ChildReaper(dispatcher)
    done = spawn("true", **options)
    failed = spawn("sh", "-c", "exit 3", **options)
    killed = spawn(*SLEEP, **options)
    killed.transport.signalProcess("KILL")
    await ended(done, failed, killed)
    assert done.status == (0, None)
    assert failed.status == (3, None)
    assert killed.status == (None, SIGKILL)


@inReactor
async def test_coreDump(tmp_path: Path, dispatcher: SignalDispatcher) -> None:
    """
    It is reported as the kernel reports it, whether it writes one or not.
    """
    reaper = ChildReaper(dispatcher)
    command = "ulimit -c unlimited; read line; kill -ABRT $$"
    options: dict[str, Any] = {"path": str(tmp_path), "childFDs": {0: "w"}}
    aborted = spawn("sh", "-c", command, **options)
    waiting = reaper.whenExited(aborted.pid)
    aborted.transport.write(b"go\n")
    child = await waiting
    await ended(aborted)
    assert aborted.status == (None, SIGABRT)
    end: Any = aborted.reasons[0].value
    assert child is not None
    assert child.signal == SIGABRT
    assert child.coreDumped == os.WCOREDUMP(end.status)


@pytest.mark.parametrize("hidden", [False, True], ids=["", "behind a zombie"])
@pytest.mark.usefixtures("anyKernel")
@inEachThread
@inReactor
async def test_hundredsEndAtOnce(
    inThread: bool, hidden: bool, dispatcher: SignalDispatcher
) -> None:
    """
    One SIGCHLD stands for many, and a foreign zombie hides none of them.
    """
    count = 150
    ChildReaper(dispatcher)
    got = recording(dispatcher, SIGCHLD)
    with zombie() if hidden else nullcontext():
        processes = [spawn(*SLEEP) for _ in range(count)]
        await turn()
        await handleSigchld(dispatcher)  # half of them are known by now
        processes += [spawn(*SLEEP) for _ in range(count)]
        kill(*processes)
        await ended(*processes)
    assert {each.status for each in processes} == {(None, SIGKILL)}
    assert len(got.infos) < count


@inReactor
async def test_childEndsBeforeTwistedRegistersIt(
    reactor: Any, dispatcher: SignalDispatcher
) -> None:
    """
    Twisted reaps it while registering it, and it is reported only once.
    """

    class Late(Ending):
        def connectionMade(self) -> None:
            untilZombie(self.transport.pid)

    ChildReaper(dispatcher)
    protocol = Late()
    reactor.spawnProcess(protocol, "true", ["true"], os.environ, childFDs={})
    assert protocol.status == (0, None)
    await turn()
    assert len(protocol.reasons) == 2


@pytest.mark.parametrize("running", [False, True], ids=["before", "while"])
def test_childEndedBeforeSigchldWasWatched(running: bool) -> None:
    """
    Its end is reported in the reactor's first turn, whether the reaper was made
    before the reactor ran or while it runs.
    """
    with newReactor() as reactor:
        protocol = spawn(*SLEEP)
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


@inReactor
async def test_pipesCloseBeforeSigchld(dispatcher: SignalDispatcher) -> None:
    """
    Twisted reaps such a child, and it is reported once and forgotten.
    """
    reaper = ChildReaper(dispatcher)
    first = spawn(*SLEEP, childFDs=None)
    await handleSigchld(dispatcher)
    with dispatcher.hold(SIGCHLD):
        kill(first)
        await ended(first)
    await until(lambda: first.transport.pid is None)
    await turn()
    assert len(first.reasons) == 2
    assert not reaper._shared._processes.isKnown(first.pid)


@inReactor
async def test_stoppedChild(dispatcher: SignalDispatcher) -> None:
    """
    The SIGCHLD of a child that is stopped or continued is not an end.
    """
    reaper = ChildReaper(dispatcher)
    got = recording(dispatcher, SIGCHLD)
    child = spawn(*SLEEP)
    waiting = reaper.whenExited(child.pid)
    for number, signo in enumerate((SIGSTOP, SIGCONT), 1):
        os.kill(child.pid, signo)
        await untilLength(got.infos, number)
    codes = [info.codeName for info in got.infos]
    assert codes == ["CLD_STOPPED", "CLD_CONTINUED"]
    assert not child.reasons
    assert not waiting.called
    kill(child)
    await ended(child)


#: Attaches to a process as a debugger does, until it reads a line.
TRACER = """
import ctypes, os, signal, sys
PTRACE_SEIZE, WALL = 0x4206, 0x40000000
signal.alarm(60)
pid = int(sys.argv[1])
if ctypes.CDLL(None, use_errno=True).ptrace(PTRACE_SEIZE, pid, 0, 0) == -1:
    sys.exit(os.strerror(ctypes.get_errno()))
print("attached", flush=True)
input()
os.waitpid(pid, WALL)
print("detached", flush=True)
"""


@pytest.mark.usefixtures("anyKernel")
@inReactor
async def test_tracedChild(dispatcher: SignalDispatcher) -> None:
    """
    It is reported when the debugger detaches, even if the SIGCHLD that comes
    then names another child.
    """
    reaper = ChildReaper(dispatcher)
    traced, *others = (spawn(*SLEEP) for _ in range(4))
    waiting = reaper.whenExited(traced.pid)
    with subprocess.Popen(
        [sys.executable, "-c", TRACER, str(traced.pid)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as tracer:
        assert tracer.stdin
        assert tracer.stdout
        assert tracer.stderr
        attached = tracer.stdout.readline()
        os.kill(traced.pid, SIGKILL)
        if attached:
            stat = Path(f"/proc/{traced.pid}/stat")
            waitFor(lambda: ") Z" in stat.read_text(), "the traced child ends")
        for each in others[:2]:
            kill(each)
            if each is others[1] and attached:
                tracer.stdin.write("\n")
                tracer.stdin.flush()
                assert tracer.stdout.readline() == "detached\n"
            await ended(each)
            await turn()
            assert bool(traced.reasons) == (each is others[1] or not attached)
        refusal = tracer.stderr.read()
    await ended(traced)
    assert traced.status == (None, SIGKILL)
    child = await waiting
    assert child is not None
    assert child.signal == SIGKILL
    kill(others[2])
    await ended(others[2])
    if not attached:
        pytest.skip(f"no process may be traced here: {refusal}")


@inReactor
async def test_childReapedByAHandler(dispatcher: SignalDispatcher) -> None:
    """
    A child of Twisted that other code has reaped is not watched any longer.
    """

    def reapAll(info: SigInfo) -> None:
        with suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass

    registration = dispatcher.addHandler(SIGCHLD, reapAll)
    reaper = ChildReaper(dispatcher)
    reaped = [spawn(*SLEEP) for _ in range(4)]
    # The first two are not known when they end, the others are.
    for some in (reaped[:2], reaped[2:]):
        registration.handled = 0
        kill(*some)
        await until(lambda: registration.handled)
    registration.remove()
    for _ in reaped:
        await ended(spawn("true"))
        await turn()
    assert not reaper._shared._watch._pidfds
    assert not reaper._shared._watch._polled
    for each in reaped:
        assert not each.reasons
        assert process.reapProcessHandlers.pop(each.pid) is each.transport


@inReactor
async def test_costDoesNotGrowWithTheLiving(
    monkeypatch: pytest.MonkeyPatch, dispatcher: SignalDispatcher
) -> None:
    """
    With fifty living children and a foreign zombie, one end costs one waitpid(2).
    """
    asked: list[int] = []
    waitpid = os.waitpid

    def countedWaitpid(pid: int, options: int) -> tuple[int, int]:
        asked.append(pid)
        return waitpid(pid, options)

    def refusedWaitid(idtype: int, pid: int, options: int) -> Any:
        raise AssertionError("waitid was called")

    ChildReaper(dispatcher)
    living = [spawn(*SLEEP) for _ in range(50)]
    with zombie(), monkeypatch.context() as patch:
        for each in (living.pop(0), spawn(*SLEEP)):
            await turn()
            kill(each)
            patch.setattr(os, "waitpid", countedWaitpid)
            patch.setattr(os, "waitid", refusedWaitid)
            await ended(each)
            patch.undo()
            assert asked == [each.pid]
            asked.clear()
    kill(*living)
    await ended(*living)


@pytest.mark.parametrize("code", [1, 2, -1])
@inReactor
async def test_forgedSigchld(code: int, dispatcher: SignalDispatcher) -> None:
    """
    The kernel decides whether the child that it names has ended, and how.
    """
    reaper = ChildReaper(dispatcher)
    got = recording(dispatcher, SIGCHLD)
    living = spawn(*SLEEP)
    waiting = reaper.whenExited(living.pid)
    forge(SIGCHLD, code, struct.pack("=iii", living.pid, 0, 7))
    await until(lambda: got.infos)
    assert not waiting.called
    assert not living.reasons
    kill(living)
    child = await waiting
    assert child is not None
    assert (child.exitCode, child.signal) == (None, SIGKILL)
    await ended(living)


# -- user code


@inReactor
async def test_failingHandlers(logged: Logged, dispatcher: SignalDispatcher) -> None:
    """
    Other handlers of SIGCHLD run before and after the reaper, whether they fail
    or are still busy, and receive the SigInfo.
    """

    def bad(info: SigInfo) -> None:
        raise ZeroDivisionError

    before, after = Recorder(busy=True), Recorder()
    dispatcher.addHandler(SIGCHLD, before)
    dispatcher.addHandler(SIGCHLD, bad)
    ChildReaper(dispatcher)
    dispatcher.addHandler(SIGCHLD, bad)
    dispatcher.addHandler(SIGCHLD, after)
    for code in (1, 2):
        protocol = spawn("sh", "-c", f"sleep 0.05; exit {code}")
        await ended(protocol)
        assert protocol.status == (code, None)
        await untilLength(after.infos, code)
        child = after.infos[-1].child
        assert child is not None
        assert (child.pid, child.exitCode) == (protocol.pid, code)
    assert len(before.infos) == 1
    assert len(logged.failures) == 4
    before.busy = False
    before.out[0].callback(None)


@pytest.mark.parametrize("what", ["reaper", "dispatcher"])
@inReactor
async def test_aProcessProtocolClosesEverything(
    what: str, dispatcher: SignalDispatcher
) -> None:
    """
    Twisted can still report the others that have ended at the same time.
    """
    reaper = ChildReaper(dispatcher)
    processes = [spawn(*SLEEP) for _ in range(5)]
    closing: list[Deferred[None]] = []

    def close(_: None) -> None:
        if what == "reaper":
            reaper.close()
        else:
            closing.append(dispatcher.close())

    for each in processes:
        each.ended.addCallback(close)
    kill(*processes)
    await until(lambda: not reaper._shared._group.registrations[0].ready)
    process.reapAllProcesses()
    await ended(*processes)
    await gatherResults(closing)


# -- children of other code

OTHERS = """
import ctypes, multiprocessing, os, subprocess, sys
from concurrent.futures import ProcessPoolExecutor
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread
from tests.support.processes import SLEEP, kill, spawn
from txsignalfd import ChildReaper, dispatcherFor

libc = ctypes.CDLL(None, use_errno=True)
COUNT = 10

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
    while ended < 150 or not all(deferred.called for deferred in waiting):
        protocols = [spawn(*SLEEP) for _ in range(30)]
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
    print("passed", flush=True)

if __name__ == "__main__":
    lazy = subprocess.Popen(["sh", "-c", "exit 5"])
    reactor.callWhenRunning(
        lambda: Deferred.fromCoroutine(main(lazy)).addErrback(
            lambda failure: failure.printTraceback()
        ).addCallback(lambda _: reactor.stop())
    )
    reactor.run(installSignalHandlers=False)
"""


def test_childrenOfOtherCode(tmp_path: Path) -> None:
    """
    subprocess, multiprocessing, concurrent.futures and a C library get every
    status while hundreds of Twisted's processes end, and so does the owner of a
    process that stays a zombie meanwhile.
    """
    source = f"import sys; sys.path.insert(0, {str(ROOT)!r})\n{OTHERS}"
    (tmp_path / "others.py").write_text(source)
    with program(tmp_path, sys.executable, "others.py") as running:
        running.waitForOutput("passed")
        assert running.wait() == 0, running.output()


# -- opening and closing


@pytest.mark.usefixtures("restoredHandlers")
def test_twistedTakesOver() -> None:
    """
    When the reaper is closed, Twisted's own handler of SIGCHLD works again.
    """

    async def main(reactor: Any) -> None:
        reaper = ChildReaper(dispatcherFor(reactor))
        for close in (reaper.close, lambda: None):
            protocol = spawn("true")
            await ended(protocol)
            assert protocol.status == (0, None)
            close()
        await dispatcherFor(reactor).close()

    with newReactor() as reactor:
        runReactor(reactor, main, installSignalHandlers=True)


def test_closedBeforeTheReactorRuns() -> None:
    """
    Pending ends are reported then, and nothing happens when the reactor starts.
    """
    with newReactor() as reactor:
        reaper = ChildReaper(dispatcherFor(reactor))
        protocol = spawn(*SLEEP)
        kill(protocol)
        reaper.close()
        assert len(protocol.reasons) == 2
        runReactor(reactor, lambda _: turn())


def test_sigchldOfAnotherDispatcher() -> None:
    """
    The reaper is refused, and changes nothing.
    """
    with newReactor() as reactor, newReactor() as elsewhere:
        other = SignalDispatcher(elsewhere)
        other.watch(SIGCHLD)
        with pytest.raises(SignalAlreadyWatched, match="SIGCHLD"):
            ChildReaper(dispatcherFor(reactor), subreaper=True)
        other.close()


def test_reactorStopsWithLivingChildren() -> None:
    """
    Nothing stays behind except for the children.
    """
    protocols: list[Ending] = []

    async def main(reactor: Any) -> None:
        ChildReaper(dispatcherFor(reactor))
        protocols.extend(spawn(*SLEEP) for _ in range(3))
        first = protocols.pop()
        kill(first)
        await ended(first)

    spin(main)
    kill(*protocols)
    process.reapAllProcesses()
    assert {each.status for each in protocols} == {(None, SIGKILL)}


@needsLinux
@inReactor
async def test_severalReapersCostOne(dispatcher: SignalDispatcher) -> None:
    """
    They share one handler and one pidfd for each child, whichever is closed
    first.  Only the Deferreds of the closed one fail.
    """
    reapers = [ChildReaper(dispatcher, subreaper=n == 1) for n in range(3)]
    assert len(dispatcher.handlersOf(SIGCHLD)) == 1
    assert lib.txs_set_subreaper(1) == 1
    living = spawn(*SLEEP)
    await ended(spawn("true"))
    await turn()
    waiting = [reaper.whenExited(living.pid) for reaper in reapers]
    for reaper, deferred in zip(reapers[:2], waiting, strict=False):
        assert len(reaper._shared._watch._pidfds) == 1
        reaper.close()
        with pytest.raises(DispatcherClosed, match="the ChildReaper or its dispatcher"):
            await deferred
    assert lib.txs_set_subreaper(0) == 0
    kill(living)
    child = await waiting[2]
    assert child is not None
    assert child.signal == SIGKILL
    await ended(living)
    reapers[2].close()
    assert dispatcher.watching == frozenset()


@inReactor
async def test_closedReapersAreGarbage(dispatcher: SignalDispatcher) -> None:
    """
    A dispatcher that stays open keeps no reference to them.
    """
    dispatcher.watch(SIGTERM)
    closed = []
    for _ in range(3):
        reaper = ChildReaper(dispatcher)
        await ended(spawn("true"))
        reaper.close()
        closed.append(weakref.ref(reaper))
        del reaper
    await turn()
    gc.collect()
    assert [each() for each in closed] == [None] * 3
    assert not dispatcher._whenClosed


@inReactor
async def test_newReaperWhileTheLastOneCloses(dispatcher: SignalDispatcher) -> None:
    """
    A reaper that a process protocol makes at that moment works.
    """
    reapers = [ChildReaper(dispatcher)]
    first = spawn(*SLEEP)
    first.ended.addCallback(lambda _: reapers.append(ChildReaper(dispatcher)))
    kill(first)
    reapers[0].close()
    await ended(spawn("true"))
    reapers[1].close()
    assert dispatcher.watching == frozenset()
