"""
L{OrphanReaper}: orphans are reaped, and children of others are not.
"""

from __future__ import annotations

import os
import signal
import subprocess
from multiprocessing import get_context
from signal import SIGCHLD
from typing import Any

import pytest
from twisted.logger import LogEvent, LogLevel
from txsignalfd._native.extension import lib

from tests.support.handlers import Recorder
from tests.support.processes import foreign, spawn, untilZombie
from tests.support.reactors import newReactor, runReactor, spin, until
from txsignalfd import ChildReaper, dispatcherFor
from txsignalfd._children import orphans


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    Nobody is asked to wait for long.
    """
    monkeypatch.setattr(orphans, "GRACE", 0.3)


def test_orphansAreReaped(logged: list[LogEvent]) -> None:
    """
    And logged; but not children of others that are waited for in time.
    """

    async def main(reactor: Any) -> None:
        dispatcher = dispatcherFor(reactor)
        ChildReaper(dispatcher, subreaper=True)
        protocol = spawn(reactor, "sh", "-c", "sleep 0.1 & exit 0")
        await protocol.ended
        with subprocess.Popen(["sh", "-c", "exit 3"]) as theirs:
            untilZombie(theirs.pid)
            assert theirs.wait() == 3

        def reaped() -> list[LogEvent]:
            return [each for each in logged if "reaped" in str(each["log_format"])]

        await until(reactor, reaped)
        (event,) = reaped()
        assert event["log_level"] is LogLevel.debug
        assert event["pid"] not in (protocol.pid, theirs.pid)
        with pytest.raises(ChildProcessError):
            os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG)
        await dispatcher.close()

    spin(main)
    assert lib.txs_set_subreaper(0) == 0


class Own(subprocess.Popen[bytes]):
    pass


def test_whatAnObjectStandsForIsNoOrphan() -> None:
    """
    It may be asked how its process ended at any time, and knows.  Until then
    nothing is done about it.
    """

    async def main(reactor: Any) -> None:
        dispatcher = dispatcherFor(reactor)
        look = ChildReaper(dispatcher, subreaper=True)._shared._orphans
        assert look is not None
        process = get_context("fork").Process(target=os._exit, args=(5,))
        process.start()
        assert process.pid is not None
        theirs = [kind(["sh", "-c", "exit 3"]) for kind in (subprocess.Popen, Own)]
        for pid in [process.pid, *(each.pid for each in theirs)]:
            untilZombie(pid)
        orphan = os.posix_spawnp("true", ["true"], os.environ)
        await until(reactor, lambda: not os.path.exists(f"/proc/{orphan}"))
        assert look._call is None
        assert [each.wait() for each in theirs] == [3, 3]
        process.join()
        assert process.exitcode == 5
        await dispatcher.close()

    spin(main)


def test_whatNobodyWaitsForBecauseSigchldWasIgnoredIsReaped() -> None:
    """
    The kernel keeps its status while SIGCHLD is watched, and before that it
    did not.  One that ended before the reactor runs is seen when it does.
    """
    saved = signal.signal(SIGCHLD, signal.SIG_IGN)
    pids: list[int] = []

    def start() -> None:
        pids.append(os.posix_spawnp("true", ["true"], os.environ))

    def gone() -> bool:
        return not any(os.path.exists(f"/proc/{pid}") for pid in pids)

    async def main(reactor: Any) -> None:
        await until(reactor, gone)
        start()
        untilZombie(pids[-1])
        await until(reactor, gone)
        await dispatcherFor(reactor).close()

    try:
        with newReactor() as reactor:
            ChildReaper(dispatcherFor(reactor), subreaper=True)
            start()
            untilZombie(pids[-1])
            runReactor(reactor, main)
    finally:
        signal.signal(SIGCHLD, saved)


def test_whatSomebodyWaitsForIsNoOrphan() -> None:
    """
    And one that is taken in the last moment is no error.
    """

    async def main(reactor: Any) -> None:
        dispatcher = dispatcherFor(reactor)
        reaper = ChildReaper(dispatcher, subreaper=True)
        got = Recorder()
        dispatcher.addHandler(SIGCHLD, got)
        look = reaper._shared._orphans
        assert look is not None
        with foreign("sleep", "1000") as living:
            waiting = reaper.whenExited(living)
            assert look._isOwned(living)
            waiting.addErrback(lambda _: None)
            waiting.cancel()
            assert not look._isOwned(living)
        pid = os.posix_spawnp("true", ["true"], os.environ)
        untilZombie(pid)
        await until(reactor, lambda: look._suspects)
        seen = len(got.infos)
        with foreign("sleep", "1000"):
            pass
        await until(reactor, lambda: len(got.infos) > seen)
        find = look._findSuspects

        def tooLate() -> set[int]:
            found = find()
            if pid in found:
                os.waitpid(pid, 0)
            return found

        look._findSuspects = tooLate  # type: ignore[method-assign]
        await until(reactor, lambda: not look._suspects)
        await dispatcher.close()

    spin(main)


def test_whatIsWaitedForMeanwhileIsForgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    By an owner that has taken its time.
    """
    monkeypatch.setattr(orphans, "GRACE", 1000.0)

    async def main(reactor: Any) -> None:
        dispatcher = dispatcherFor(reactor)
        look = ChildReaper(dispatcher, subreaper=True)._shared._orphans
        assert look is not None
        pid = os.posix_spawnp("true", ["true"], os.environ)
        await until(reactor, lambda: look._call)
        assert look._call is not None
        assert look._suspects == {pid}
        os.waitpid(pid, 0)
        look._call.reset(0)
        await until(reactor, lambda: look._call is None)
        assert not look._suspects
        await dispatcher.close()

    spin(main)


def test_whatWasSoBeforeStaysSo() -> None:
    """
    For a process that is a subreaper already; and closing ends the waiting.
    """
    assert lib.txs_set_subreaper(1) == 0

    async def main(reactor: Any) -> None:
        dispatcher = dispatcherFor(reactor)
        reaper = ChildReaper(dispatcher, subreaper=True)
        with foreign("true") as pid:
            untilZombie(pid)
            look = reaper._shared._orphans
            assert look is not None
            await until(reactor, lambda: look._suspects)
            reaper.close()
        assert not reactor.getDelayedCalls()[1:]
        await dispatcher.close()

    spin(main)
    assert lib.txs_set_subreaper(0) == 1


def test_firstProcessIsAnInit(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    Where it can see its children: C{/proc} may be another namespace's, or
    missing.
    """
    assert not orphans.isInit()
    monkeypatch.setattr(os, "getpid", lambda: 1)
    assert not orphans.isInit()
    monkeypatch.setattr(os, "readlink", lambda _: "1")
    assert orphans.isInit()

    def missing(path: str) -> str:
        raise FileNotFoundError(path)

    monkeypatch.setattr(os, "readlink", missing)
    assert not orphans.isInit()


def test_aThreadMayEndMeanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    While its children are looked for.
    """
    monkeypatch.setattr(os, "listdir", lambda _: ["0", str(os.getpid())])
    with foreign("sleep", "1000") as pid:
        assert orphans.childProcesses() == {pid}


def test_whereItCannotBeNothingIsTaken(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    On another system than Linux.
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


def test_aRefusalIsAnError(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    With its errno.
    """

    class Refusing:
        def txs_set_subreaper(self, wanted: int) -> int:
            return -1

    monkeypatch.setattr(orphans, "lib", Refusing())
    with pytest.raises(OSError, match="subreaper"):
        orphans._setSubreaper(True)
