"""
L{OrphanReaper}: orphans are reaped, and children of other code are not.
"""

from __future__ import annotations

import os
import signal
import struct
import subprocess
import sys
from multiprocessing import get_context
from signal import SIGCHLD
from typing import Any

import pytest
from twisted.logger import LogEvent, LogLevel

from tests.support.handlers import recording
from tests.support.inreactor import inReactor
from tests.support.kernel import forge
from tests.support.observers import Logged
from tests.support.processes import (
    ROOT,
    SLEEP,
    foreign,
    handleSigchld,
    inPidNamespace,
    runProgram,
    spawn,
    untilZombie,
)
from tests.support.reactors import newReactor, runReactor, until, untilLength
from tests.support.worlds import needsLinux
from txsignalfd import ChildReaper, SignalDispatcher, dispatcherFor
from txsignalfd._children import orphans
from txsignalfd._native.extension import lib


@pytest.fixture(autouse=True)
def shortGrace(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    Reap orphans sooner.
    """
    monkeypatch.setattr(orphans, "GRACE", 0.3)


def orphanReaper(
    dispatcher: SignalDispatcher,
) -> tuple[ChildReaper, orphans.OrphanReaper]:
    """
    Make a L{ChildReaper}, and return it with its L{OrphanReaper}.
    """
    reaper = ChildReaper(dispatcher, subreaper=True)
    assert reaper._shared._orphans is not None
    return reaper, reaper._shared._orphans


def exited() -> int:
    """
    Start a child of no owner, and return when it is a zombie.
    """
    pid = os.posix_spawnp("true", ["true"], os.environ)
    untilZombie(pid)
    return pid


def exists(pid: int) -> bool:
    """
    Return whether there is such a process, living or zombie.
    """
    return os.path.exists(f"/proc/{pid}")


@needsLinux
def test_orphan(logged: Logged) -> None:
    """
    An orphan is reaped, and a child that is waited for in time is not.
    """

    @inReactor
    async def main(dispatcher: SignalDispatcher) -> None:
        ChildReaper(dispatcher, subreaper=True)
        parent = spawn("sh", "-c", "sleep 0.1 & exit 0")
        await parent.ended
        with subprocess.Popen(["sh", "-c", "exit 3"]) as other:
            untilZombie(other.pid)
            assert other.wait() == 3

        def reaped() -> list[LogEvent]:
            return [each for each in logged if "reaped" in str(each["log_format"])]

        await until(reaped)
        (event,) = reaped()
        assert event["log_level"] is LogLevel.debug
        assert event["pid"] not in (parent.pid, other.pid)
        with pytest.raises(ChildProcessError):
            os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG)

    main()
    assert lib.txs_set_subreaper(0) == 0


class CustomPopen(subprocess.Popen[bytes]):
    pass


@needsLinux
@inReactor
async def test_processOfAnObject(dispatcher: SignalDispatcher) -> None:
    """
    A zombie whose object may still be asked for its status is not an orphan.
    """
    _, look = orphanReaper(dispatcher)
    process = get_context("fork").Process(target=os._exit, args=(5,))
    process.start()
    assert process.pid is not None
    command = ["sh", "-c", "exit 3"]
    others = [kind(command) for kind in (subprocess.Popen, CustomPopen)]
    for pid in [process.pid, *(each.pid for each in others)]:
        untilZombie(pid)
    orphan = os.posix_spawnp("true", ["true"], os.environ)
    await until(lambda: not exists(orphan))
    assert look._call is None
    assert [each.wait() for each in others] == [3, 3]
    process.join()
    assert process.exitcode == 5


@needsLinux
def test_sigchldWasIgnored() -> None:
    """
    Children that the kernel would have reaped by itself are reaped, also one
    that ended before the reactor ran.
    """
    saved = signal.signal(SIGCHLD, signal.SIG_IGN)
    pids: list[int] = []

    async def main(reactor: Any) -> None:
        for _ in range(2):
            await until(lambda: not any(map(exists, pids)))
            pids.append(exited())
        await until(lambda: not any(map(exists, pids)))
        await dispatcherFor(reactor).close()

    try:
        with newReactor() as reactor:
            ChildReaper(dispatcherFor(reactor), subreaper=True)
            pids.append(exited())
            runReactor(reactor, main)
    finally:
        signal.signal(SIGCHLD, saved)


@needsLinux
@inReactor
async def test_forgedSigchld(dispatcher: SignalDispatcher) -> None:
    """
    A process is not taken for an orphan because a SIGCHLD names it.
    """
    _, look = orphanReaper(dispatcher)
    got = recording(dispatcher, SIGCHLD)
    with foreign(*SLEEP) as living:
        for number, pid in enumerate((living, os.getpid(), 1, 0, -1), 1):
            forge(SIGCHLD, 1, struct.pack("=iii", pid, 0, 0))
            await untilLength(got.infos, number)
        assert not look._named
        assert not look._suspects


@needsLinux
@inReactor
async def test_whenExitedOwns(dispatcher: SignalDispatcher) -> None:
    """
    A child is not an orphan while its end is waited for.
    """
    reaper, look = orphanReaper(dispatcher)
    with foreign(*SLEEP) as living:
        waiting = reaper.whenExited(living)
        assert look._isOwned(living)
        waiting.addErrback(lambda _: None)
        waiting.cancel()
        assert not look._isOwned(living)


@needsLinux
@inReactor
async def test_ownerReapsInTheLastMoment(
    dispatcher: SignalDispatcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    That is not an error.  Another SIGCHLD meanwhile changes nothing.
    """
    _, look = orphanReaper(dispatcher)
    pid = exited()
    await until(lambda: look._suspects)
    await handleSigchld(dispatcher)
    find = look._findSuspects

    def tooLate() -> set[int]:
        found = find()
        if pid in found:
            os.waitpid(pid, 0)
        return found

    monkeypatch.setattr(look, "_findSuspects", tooLate)
    await until(lambda: not look._suspects)


@needsLinux
@inReactor
async def test_ownerReapsLate(
    dispatcher: SignalDispatcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    A zombie that its owner reaps within the grace period is forgotten.
    """
    monkeypatch.setattr(orphans, "GRACE", 1000.0)
    _, look = orphanReaper(dispatcher)
    pid = exited()
    await until(lambda: look._call)
    assert look._call is not None
    assert look._suspects == {pid}
    os.waitpid(pid, 0)
    look._call.reset(0)
    await until(lambda: look._call is None)
    assert not look._suspects


@needsLinux
def test_subreaperBefore() -> None:
    """
    A process that was a subreaper before stays one, and closing ends the grace
    period.
    """
    assert lib.txs_set_subreaper(1) == 0

    @inReactor
    async def main(reactor: Any, dispatcher: SignalDispatcher) -> None:
        reaper, look = orphanReaper(dispatcher)
        with foreign("true") as pid:
            untilZombie(pid)
            await until(lambda: look._suspects)
            reaper.close()
        assert not reactor.getDelayedCalls()[1:]

    main()
    assert lib.txs_set_subreaper(0) == 1


def test_firstProcessIsAnInit(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    The first process of a pid namespace adopts all its orphans.
    """
    assert not orphans.isInit()
    monkeypatch.setattr(os, "getpid", lambda: 1)
    assert orphans.isInit() == bool(lib.TXS_LINUX)


ADOPT = """
import os, sys
from twisted.logger import globalLogBeginner, textFileLogObserver
from tests.support.processes import spawn
from tests.support.reactors import spin, until
from txsignalfd import ChildReaper, dispatcherFor
from txsignalfd._children import orphans

def childless():
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return True

async def main(reactor):
    dispatcher = dispatcherFor(reactor)
    ChildReaper(dispatcher, subreaper=True)
    for _ in range(2):
        await spawn("sh", "-c", "sleep 0.1 & sleep 0.1 & exit 0").ended
        await until(childless)
    await dispatcher.close()
    print("passed", flush=True)

orphans.GRACE = 0.1
globalLogBeginner.beginLoggingTo([textFileLogObserver(sys.stdout)])
spin(main)
"""


@needsLinux
@pytest.mark.parametrize(
    "mount", ["-t tmpfs none /proc", "--bind /proc/self/fd /proc", "--version"]
)
def test_childrenCannotBeListed(mount: str) -> None:
    """
    Orphans are reaped where C{/proc} is missing, is hidden, or shows another pid
    namespace.  That is logged once.
    """
    program = ["sh", "-c", f'mount {mount} && exec "$@"', "sh", sys.executable, "-c"]
    result = runProgram(*inPidNamespace(*program, ADOPT, options=["--mount"]), cwd=ROOT)
    assert "passed\n" in result.stdout, result.stdout + result.stderr
    assert result.stdout.count("children cannot be listed") == 1, result.stdout
    assert "Traceback" not in result.stdout + result.stderr


@needsLinux
@inReactor
async def test_descriptorsAreUsedUp(
    dispatcher: SignalDispatcher, monkeypatch: pytest.MonkeyPatch, logged: Logged
) -> None:
    """
    The orphan that a SIGCHLD names is reaped, although another zombie hides it.
    """

    def refused(path: str) -> str:
        raise OSError(24, "too many open files")

    monkeypatch.setattr(os, "readlink", refused)
    with subprocess.Popen(["sh", "-c", "exit 3"]) as owned:
        untilZombie(owned.pid)
        orphanReaper(dispatcher)
        orphan = exited()
        await until(lambda: not exists(orphan))
        assert owned.wait() == 3
    assert not logged.failures


def test_kernelHasNoListsOfChildren(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    The lists are missing for every thread, not only for one that has ended.
    """
    monkeypatch.setattr("builtins.open", lambda *_: os.stat("/none"))
    with pytest.raises(FileNotFoundError):
        orphans.childProcesses()


def test_threadEndsDuringTheSearch(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    The children of the other threads are found.
    """
    monkeypatch.setattr(os, "listdir", lambda _: ["0", str(os.getpid())])
    with foreign(*SLEEP) as pid:
        assert orphans.childProcesses() == {pid}


def test_noSubreapers(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    On a system without subreapers the reaper is refused and changes nothing.
    """

    def refused(wanted: bool) -> bool:
        raise OSError(38, "no subreapers here")

    monkeypatch.setattr(orphans, "_setSubreaper", refused)
    with newReactor() as reactor:
        dispatcher = dispatcherFor(reactor)
        with pytest.raises(OSError, match="no subreapers"):
            ChildReaper(dispatcher, subreaper=True)
        assert dispatcher.watching == frozenset()
        dispatcher.close()


def test_systemRefuses(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    The error names the attribute.
    """

    class Refusing:
        def txs_set_subreaper(self, wanted: int) -> int:
            return -1

    monkeypatch.setattr(orphans, "lib", Refusing())
    with pytest.raises(OSError, match="subreaper"):
        orphans._setSubreaper(True)
