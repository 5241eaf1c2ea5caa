"""
L{ChildReaper.whenExited}: wait for the end of any child.
"""

from __future__ import annotations

import os
import struct
import subprocess
import sys
from signal import SIGCHLD, SIGKILL

import pytest
from twisted.internet.defer import CancelledError

from tests.support.handlers import recording
from tests.support.inreactor import inReactor
from tests.support.kernel import forge
from tests.support.processes import (
    ROOT,
    SLEEP,
    ended,
    foreign,
    handleSigchld,
    inPidNamespace,
    kill,
    runProgram,
    spawn,
    untilZombie,
)
from tests.support.reactors import until
from tests.support.worlds import needsLinux
from txsignalfd import ChildReaper, DispatcherClosed, SignalDispatcher


@inReactor
async def test_twistedsProcess(dispatcher: SignalDispatcher) -> None:
    """
    Each caller learns how it ended, and Twisted still gets the status.
    """
    reaper = ChildReaper(dispatcher)
    process = spawn(*SLEEP)
    waiting = [reaper.whenExited(process.pid), reaper.whenExited(process.pid)]
    kill(process)
    for each in waiting:
        child = await each
        assert child is not None
        assert (child.pid, child.exitCode, child.signal) == (process.pid, None, SIGKILL)
    await ended(process)
    assert process.status == (None, SIGKILL)


@inReactor
async def test_processOfOtherCode(dispatcher: SignalDispatcher) -> None:
    """
    Its status is left to its owner, also when it has ended already.
    """
    reaper = ChildReaper(dispatcher)
    with subprocess.Popen(["sh", "-c", "exit 3"]) as other:
        child = await reaper.whenExited(other.pid)
        assert child is not None
        assert (child.pid, child.exitCode, child.signal) == (other.pid, 3, None)
        assert not child.coreDumped
        assert await reaper.whenExited(other.pid) == child
        assert other.wait() == 3


@needsLinux
@inReactor
async def test_usedTime(dispatcher: SignalDispatcher) -> None:
    """
    The CPU time of the child is that which its owner gets.
    """
    busy = "import time\nwhile time.process_time() < 0.2: pass"
    reaper = ChildReaper(dispatcher)
    pid = os.posix_spawn(sys.executable, [sys.executable, "-c", busy], os.environ)
    child = await reaper.whenExited(pid)
    _, _, usage = os.wait4(pid, 0)
    assert child is not None
    assert abs(child.userTime - usage.ru_utime) < 0.02
    assert abs(child.systemTime - usage.ru_stime) < 0.02
    assert child.userTime + child.systemTime > 0.1


@pytest.mark.parametrize("named", [True, False], ids=["named", "not named"])
@pytest.mark.usefixtures("anyKernel")
@inReactor
async def test_ownerReapsFirst(named: bool, dispatcher: SignalDispatcher) -> None:
    """
    The result is that of the SIGCHLD if it names the child, and otherwise None.
    """
    reaper = ChildReaper(dispatcher)
    got = recording(dispatcher, SIGCHLD)
    with foreign(*SLEEP) as other:
        owned = os.posix_spawnp("sleep", SLEEP, os.environ)
        waiting = reaper.whenExited(owned)
        # The pending SIGCHLD names the first of them.
        for pid in (owned, other) if named else (other, owned):
            os.kill(pid, SIGKILL)
            untilZombie(pid)
        os.waitpid(owned, 0)
        child = await waiting
        await until(lambda: got.infos)
    assert got.infos[0].pid == (owned if named else other)
    assert child == (got.infos[0].child if named else None)


@inReactor
async def test_forgedSigchldOfAReapedChild(dispatcher: SignalDispatcher) -> None:
    """
    Other processes cannot forge the codes of an end, so the result is None.
    """
    reaper = ChildReaper(dispatcher)
    with foreign(*SLEEP) as pid:
        waiting = reaper.whenExited(pid)
        # It is pending, so that the SIGCHLD of the kernel is merged with it.
        forge(SIGCHLD, -1, struct.pack("=iii", pid, 0, 7))
    assert await waiting is None


@inReactor
async def test_notAChild(dispatcher: SignalDispatcher) -> None:
    """
    Other processes and reaped children are refused.
    """
    reaper = ChildReaper(dispatcher)
    with foreign("true") as reaped:
        pass
    for pid in (os.getpid(), 1, reaped):
        with pytest.raises(ChildProcessError, match=str(pid)):
            await reaper.whenExited(pid)


@pytest.mark.parametrize("number", [0, -1, 2**31, -(2**40)])
@inReactor
async def test_notAProcessId(number: int, dispatcher: SignalDispatcher) -> None:
    """
    The error names the number.
    """
    with pytest.raises(OSError, match=str(number)):
        await ChildReaper(dispatcher).whenExited(number)


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
    if sys.argv[1] == "waited for":
        ofSecond.append(reaper.whenExited(second.pid))
        assert await ofFirst is None
    untilZombie(second.pid)
    if not ofSecond:
        assert (await ofFirst).signal == 9
        ofSecond.append(reaper.whenExited(second.pid))
    assert (await ofSecond[0]).exitCode == 3
    assert second.wait() == 3
    await dispatcher.close()
    print("passed")

spin(main)
"""


@pytest.mark.parametrize("second", ["waited for", "not waited for"])
@needsLinux
def test_processIdIsUsedAgain(second: str) -> None:
    """
    A new process with the same id is not confused with the first one.  In a
    new pid namespace no other process uses that id.
    """
    result = runProgram(*inPidNamespace(sys.executable, "-c", REUSED, second), cwd=ROOT)
    assert result.stdout == "passed\n", result.stderr


@pytest.mark.usefixtures("anyKernel")
@inReactor
async def test_cancelling(dispatcher: SignalDispatcher) -> None:
    """
    Cancelling one Deferred leaves the others of the same child alone.
    """
    reaper = ChildReaper(dispatcher)
    process = spawn(*SLEEP)
    await handleSigchld(dispatcher)
    with foreign(*SLEEP) as pid:
        for child in (pid, process.pid):
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
    kill(process)
    await ended(process)


@pytest.mark.parametrize("what", ["reaper", "dispatcher"])
@inReactor
async def test_closed(what: str, dispatcher: SignalDispatcher) -> None:
    """
    Deferreds fail when the reaper or its dispatcher is closed, and afterwards.
    """
    reaper = ChildReaper(dispatcher)
    with foreign(*SLEEP) as pid:
        waiting = [reaper.whenExited(pid), reaper.whenExited(pid)]
        if what == "reaper":
            reaper.close()
            assert dispatcher.watching == frozenset()
        else:
            await dispatcher.close()
        reaper.close()
        waiting.append(reaper.whenExited(pid))
        for each in waiting:
            with pytest.raises(DispatcherClosed):
                await each


@inReactor
async def test_closedByACallback(dispatcher: SignalDispatcher) -> None:
    """
    A Deferred of the same child still fires, and one that is cancelled while
    others fail is left alone.
    """
    reaper = ChildReaper(dispatcher)
    with foreign(*SLEEP) as pid, foreign(*SLEEP) as living:
        first, second = reaper.whenExited(pid), reaper.whenExited(pid)
        third, fourth = reaper.whenExited(living), reaper.whenExited(living)
        first.addCallback(lambda _: reaper.close())
        third.addErrback(lambda _: fourth.cancel())
        os.kill(pid, SIGKILL)
        assert await second is not None
        await third
        with pytest.raises(CancelledError):
            await fourth
