"""
L{report}: what a daemon is doing, with real children and threads.
"""

from __future__ import annotations

import os
import re
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from signal import SIGHUP, SIGUSR1, SIGUSR2
from typing import Any

import pytest
from twisted.internet import process
from twisted.protocols.policies import TimeoutMixin

from tests.support.daemons import TWISTD, program, waitFor
from tests.support.handlers import Recorder
from tests.support.kernel import inChild
from tests.support.processes import SLEEP, foreign, kill, spawn, zombie
from tests.support.reactors import KINDS, newReactor, sleep, spin, until
from tests.support.worlds import send
from txsignalfd import ChildReaper, Overlap, SignalDispatcher, dispatcherFor
from txsignalfd._twistd.report import report


def partsOf(text: str) -> dict[str, str]:
    """
    The parts of a report, by title.
    """
    parts: dict[str, str] = {}
    for line in text.splitlines():
        if not line.startswith(" "):
            title = line
            parts[title] = ""
        else:
            parts[title] += line + "\n"
    return parts


def reported(reactor: Any, *generations: str) -> dict[str, str]:
    """
    What is told of a reactor.
    """
    return partsOf(report(SignalDispatcher(reactor), generations))


@pytest.fixture
def reactor() -> Iterator[Any]:
    """
    A reactor that does not run.
    """
    with newReactor() as made:
        yield made


def test_itHasAPartForEach(reactor: Any) -> None:
    """
    In this order, also where there is nothing to be told.
    """
    parts = reported(reactor)
    assert list(parts) == [
        "signals",
        "generations",
        "children of spawnProcess",
        "other children",
        "delayed calls",
        "threads",
    ]
    assert parts["signals"].startswith(f"  pid {os.getpid()} (")
    for title in list(parts)[1:-1]:
        assert parts[title] == "  none\n"


def test_itTellsOfHandlersAndTheirCounts() -> None:
    """
    As describe() does, and of the generations what it is given.
    """

    async def main(reactor: Any) -> None:
        dispatcher = dispatcherFor(reactor)
        got = Recorder()
        dispatcher.addHandler(SIGHUP, got, Overlap.MERGE)
        dispatcher.watch(SIGUSR1)
        send(SIGHUP)
        await until(reactor, lambda: got.infos)
        generations = ["1: drains, 2 connections", "2: serves\n   on tcp:8080"]
        parts = partsOf(report(dispatcher, generations))
        assert parts["signals"].startswith(
            "  SIGHUP\n"
            f"    {got!r} MERGE: 1 handled, 0 running, 0 waiting, 0 dropped\n"
            "  SIGUSR1: nothing handles it, 0 came\n"
            "  pid "
        )
        assert parts["generations"] == (
            "  1: drains, 2 connections\n  2: serves\n     on tcp:8080\n"
        )
        await dispatcher.close()

    spin(main)


def untilItRuns(pid: int, *command: str) -> None:
    """
    Wait until a child is the program that it was started for: till a moment
    after exec(3) has returned it has no command line.
    """
    expected = "".join(f"{argument}\0" for argument in command)
    told = Path(f"/proc/{pid}/cmdline")
    waitFor(lambda: told.read_text() == expected, f"{pid} runs {command}")


def test_itTellsOfChildren() -> None:
    """
    Of spawnProcess and of others, what they run and whether they have ended.
    """

    async def main(reactor: Any) -> None:
        dispatcher = dispatcherFor(reactor)
        ChildReaper(dispatcher)
        protocol = spawn(reactor, *SLEEP)
        pid = protocol.transport.pid
        untilItRuns(pid, *SLEEP)
        with foreign(*SLEEP) as other, zombie() as ended:
            untilItRuns(other, *SLEEP)
            parts = partsOf(report(dispatcher, []))
        assert parts["children of spawnProcess"] == (
            f"  {pid} sleep 1000, for tests.support.processes.Ending\n"
        )
        told = [f"  {other} sleep 1000\n", f"  {ended} (true), has ended\n"]
        assert parts["other children"] == "".join(told)
        kill(protocol)
        await protocol.ended
        await dispatcher.close()

    spin(main)


def test_whatAChildIsCalledBreaksNoLog(reactor: Any) -> None:
    """
    A command is cut, and has neither lines nor what a terminal obeys.
    """
    argument = "\x1b[31m\nREADY " + "x" * 1000
    command = [sys.executable, "-c", "import signal; signal.pause()", argument]
    with foreign(*command) as pid:
        untilItRuns(pid, *command)
        line = reported(reactor)["other children"]
    assert line.startswith(f"  {pid} ")
    assert " -c import signal; signal.pause() \\x1b[31m\\nREADY xxx" in line
    assert len(line) < 220
    assert line.count("\n") == 1


def test_aChildThatIsGoneIsNoTrouble(
    reactor: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    One that is reaped while it is written of; and one whose protocol is gone.
    """
    with foreign("true") as pid:
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    gone: dict[int, Any] = {pid: object()}
    monkeypatch.setattr(process, "reapProcessHandlers", gone)
    lines = reported(reactor)["children of spawnProcess"]
    assert lines == f"  {pid} unavailable: No such file or directory\n"


def test_whatThereIsMuchOfIsCutShort(
    reactor: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    After the first hundred there is their number.
    """
    many: dict[int, Any] = dict.fromkeys(range(2**30, 2**30 + 1234))
    monkeypatch.setattr(process, "reapProcessHandlers", many)
    lines = reported(reactor)["children of spawnProcess"].splitlines()
    assert len(lines) == 101
    assert lines[-1] == "  and 1134 more"


class Timeout(TimeoutMixin):
    """
    A protocol that waits, with a method of its base.
    """

    def __init__(self, reactor: Any) -> None:
        vars(self)["callLater"] = reactor.callLater


class Repeating:
    """
    What has no name but its repr, as a LoopingCall.
    """

    def __call__(self) -> None:
        pass

    def __repr__(self) -> str:
        return "Repeating\n"


@pytest.mark.parametrize("kind", KINDS)
def test_itTellsOfDelayedCalls(kind: str) -> None:
    """
    When, and whose; those of one function together.
    """

    async def main(reactor: Any) -> None:
        (deadline,) = reactor.getDelayedCalls()
        deadline.reset(1100)
        repeated = reactor.callLater(1000, Repeating())
        waiting = [Timeout(reactor) for _ in range(3)]
        for number, timeout in enumerate(waiting):
            timeout.setTimeout(700 + 100 * number)
        called = reactor.callLater(600, partial(partial(sleep, reactor), 1))
        lines = reported(reactor)["delayed calls"]
        called.cancel()
        for timeout in waiting:
            timeout.setTimeout(None)
        repeated.cancel()
        # Some time has passed since.
        about = re.sub(
            r"\d+\.\d\d", lambda found: f"{round(float(found[0]), -2):.0f}", lines
        )
        assert about == (
            "  in 600 s: tests.support.reactors.sleep\n"
            "  3 in 700 to 900 s: tests.twistd.test_report.Timeout.__timedOut\n"
            "  in 1000 s: Repeating\\n\n"
            "  in 1100 s: tests.support.reactors.runReactor.<locals>.expired\n"
        )

    spin(main, kind)


@contextmanager
def busy(name: str) -> Iterator[threading.Thread]:
    """
    A thread that waits in a function.
    """
    done = threading.Event()

    def waitsHere() -> None:
        done.wait()

    thread = threading.Thread(target=waitsHere, name=name)
    thread.start()
    try:
        yield thread
    finally:
        done.set()
        thread.join()


def test_itTellsWhatEachThreadIsAt(
    reactor: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    By name and by what top(1) shows, with the source; also of a thread that
    Python's threading does not know.
    """

    def threads() -> str:
        return reported(reactor)["threads"]

    with busy("worker") as worker:
        # It may have only begun.
        waitsHere = ", in waitsHere\n      done.wait()\n"
        waitFor(lambda: waitsHere in threads(), "it is told where the thread waits")
        text = threads()
    assert f"  worker {worker.native_id}\n    File " in text
    assert f"  MainThread {os.getpid()}, which writes this report\n    File " in text
    assert ", in test_itTellsWhatEachThreadIsAt\n" in text
    with busy("worker") as worker:
        monkeypatch.setattr(threading, "enumerate", list)
        text = threads()
    assert f"  unnamed {worker.ident:#x}\n    File " in text


def test_aForkedProcessTellsTheNumberOfItsOwnThread(reactor: Any) -> None:
    """
    As a daemon does, and not that of the process that has forked.
    """
    pid, text = inChild(lambda: (os.getpid(), reported(reactor)["threads"]))
    assert f"  MainThread {pid}, which writes this report\n    File " in text


def test_aPartThatCannotBeToldSaysWhy(
    reactor: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    And the others are told.
    """

    def generations() -> Iterator[str]:
        yield "1: serves"
        raise ValueError("no more")

    def noDirectory(path: str) -> list[str]:
        raise FileNotFoundError(2, "No such file or directory", path)

    class Broken:
        def __init__(self) -> None:
            self.__qualname__ = None

        def __call__(self) -> None:
            pass

        def __repr__(self) -> str:
            raise ZeroDivisionError

    monkeypatch.setattr(os, "listdir", noDirectory)
    call = reactor.callLater(10, Broken())
    dispatcher = SignalDispatcher(reactor)
    parts = partsOf(report(dispatcher, generations()))  # type: ignore[arg-type]
    call.cancel()
    assert parts["generations"] == "  unavailable: ValueError: no more\n"
    assert parts["signals"].startswith("  unavailable: ")
    why = "FileNotFoundError: [Errno 2] No such file or directory: '/proc/self/task'"
    assert parts["other children"] == f"  unavailable: {why}\n"
    assert ": <Broken instance at " in parts["delayed calls"]
    assert parts["delayed calls"].endswith("\\nZeroDivisionError\\n>\n")
    assert "MainThread" in parts["threads"]


#: A daemon that has a report in its log.
DAEMON = """
from signal import SIGUSR2
from twisted.application.service import Application
from twisted.logger import Logger
from twisted.internet import reactor
from txsignalfd import SignalService, dispatcherFor
from txsignalfd._twistd.report import report

def log(info):
    text = report(dispatcherFor(reactor), ["1: serves"])
    Logger("report").info("{text}", text=text)

application = Application("report")
SignalService({SIGUSR2: log}).setServiceParent(application)
"""


def catches(status: str, signo: int) -> bool:
    """
    Whether a process catches a signal.
    """
    found = re.search("SigCgt:\t([0-9a-f]+)", Path(status).read_text())
    assert found
    return bool(int(found[1], 16) >> (signo - 1) & 1)


def test_aDaemonHasItInItsLog(tmp_path: Path) -> None:
    """
    All of it, by SIGUSR2.
    """
    (tmp_path / "daemon.tac").write_text(DAEMON)
    with program(tmp_path, TWISTD, "-n", "-y", "daemon.tac") as daemon:
        status = f"/proc/{daemon.pid}/status"
        daemon.waitForOutput("reactor class")
        waitFor(lambda: catches(status, SIGUSR2), "SIGUSR2 is watched")
        daemon.kill(SIGUSR2)
        daemon.waitForOutput(f"MainThread {daemon.pid}, which writes this report")
        daemon.waitForOutput("in log\n")
        output = daemon.output()
    assert "#info] signals\n\t  SIGINT" in output
    assert "<function log at " in output
    assert "Traceback" not in output
