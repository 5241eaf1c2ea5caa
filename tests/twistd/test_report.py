"""
L{report} with real children and threads.
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
from twisted.internet.task import LoopingCall
from twisted.protocols.policies import TimeoutMixin

from tests.support.daemons import caught, program, waitFor
from tests.support.forkserver import TWISTD
from tests.support.handlers import Recorder
from tests.support.inreactor import inReactor
from tests.support.kernel import inChild
from tests.support.processes import SLEEP, foreign, kill, spawn, zombie
from tests.support.reactors import KINDS, newReactor, sleep, until
from tests.support.worlds import send
from txsignalfd import ChildReaper, Overlap, SignalDispatcher
from txsignalfd._twistd.report import report


def partsOf(text: str) -> dict[str, str]:
    """
    Split a report into its parts, by title.
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
    Return the parts of the report about a reactor.
    """
    return partsOf(report(SignalDispatcher(reactor), generations))


@pytest.fixture
def reactor() -> Iterator[Any]:
    """
    A reactor that does not run.
    """
    with newReactor() as made:
        yield made


def test_theReportAlwaysHasAllParts(reactor: Any) -> None:
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


@inReactor
async def test_theReportHasHandlersAndGenerations(dispatcher: SignalDispatcher) -> None:
    got = Recorder()
    dispatcher.addHandler(SIGHUP, got, Overlap.MERGE)
    dispatcher.watch(SIGUSR1)
    send(SIGHUP)
    await until(lambda: got.infos)
    generations = ["1: drains, 2 connections", "2: serves\n   on tcp:8080"]
    parts = partsOf(report(dispatcher, generations))
    assert parts["signals"].startswith(
        "  SIGHUP\n"
        "    tests.support.handlers.Recorder MERGE: 1 handled, 0 running, 0 waiting,"
        " 0 dropped\n"
        "  SIGUSR1: no handler, 0 received\n"
        "  pid "
    )
    assert parts["generations"] == (
        "  1: drains, 2 connections\n  2: serves\n     on tcp:8080\n"
    )


def untilItRuns(pid: int, *command: str) -> None:
    """
    Wait until a child has its command line, which appears just after exec(3).
    """
    expected = "".join(f"{argument}\0" for argument in command)
    cmdline = Path(f"/proc/{pid}/cmdline")
    waitFor(lambda: cmdline.read_text() == expected, f"{pid} runs {command}")


@inReactor
async def test_theReportListsChildren(dispatcher: SignalDispatcher) -> None:
    """
    With their commands, and whether they have ended.
    """
    ChildReaper(dispatcher)
    protocol = spawn(*SLEEP)
    pid = protocol.transport.pid
    untilItRuns(pid, *SLEEP)
    with foreign(*SLEEP) as other, zombie() as ended:
        untilItRuns(other, *SLEEP)
        parts = partsOf(report(dispatcher, []))
    assert parts["children of spawnProcess"] == (
        f"  {pid} sleep 1000, for tests.support.processes.Ending\n"
    )
    assert parts["other children"] == (
        f"  {other} sleep 1000\n  {ended} (true), has ended\n"
    )
    kill(protocol)
    await protocol.ended


def test_aCommandIsCutAndEscaped(reactor: Any) -> None:
    """
    Line breaks and terminal control sequences do not reach the log.
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


def test_aChildMayBeReapedDuringTheReport(
    reactor: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with foreign("true") as pid:
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    gone: dict[int, Any] = {pid: object()}
    monkeypatch.setattr(process, "reapProcessHandlers", gone)
    lines = reported(reactor)["children of spawnProcess"]
    assert lines == f"  {pid} unavailable: No such file or directory\n"


def test_longListsAreCut(reactor: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    many: dict[int, Any] = dict.fromkeys(range(2**30, 2**30 + 1234))
    monkeypatch.setattr(process, "reapProcessHandlers", many)
    lines = reported(reactor)["children of spawnProcess"].splitlines()
    assert len(lines) == 101
    assert lines[-1] == "  and 1134 more"


class Timeout(TimeoutMixin):
    """
    A protocol with a delayed call of its base class.
    """

    def __init__(self, reactor: Any) -> None:
        vars(self)["callLater"] = reactor.callLater


@pytest.mark.parametrize("kind", KINDS)
@inReactor
async def test_theReportListsDelayedCalls(reactor: Any, kind: str) -> None:
    """
    Calls of one function are listed together.
    """
    (deadline,) = reactor.getDelayedCalls()
    deadline.reset(1100)
    repeated = reactor.callLater(1000, LoopingCall(Timeout))
    waiting = [Timeout(reactor) for _ in range(3)]
    for number, timeout in enumerate(waiting):
        timeout.setTimeout(700 + 100 * number)
    called = reactor.callLater(600, partial(partial(sleep, reactor), 1))
    lines = reported(reactor)["delayed calls"]
    called.cancel()
    for timeout in waiting:
        timeout.setTimeout(None)
    repeated.cancel()
    # Some time has passed meanwhile.
    about = re.sub(
        r"\d+\.\d\d", lambda found: f"{round(float(found[0]), -2):.0f}", lines
    )
    assert about == (
        "  in 600 s: tests.support.reactors.sleep\n"
        "  3 in 700 to 900 s: tests.twistd.test_report.Timeout.__timedOut\n"
        "  in 1000 s: tests.twistd.test_report.Timeout\n"
        "  in 1100 s: tests.support.reactors.runReactor.<locals>.expired\n"
    )


@contextmanager
def busy(name: str) -> Iterator[threading.Thread]:
    """
    Run a thread that waits in a function.
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


def test_theReportHasTheStackOfEachThread(
    reactor: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    Also of a thread that L{threading} does not know.
    """

    def threads() -> str:
        return reported(reactor)["threads"]

    with busy("worker") as worker:
        # The thread may have just begun.
        waitsHere = ", in waitsHere\n      done.wait()\n"
        waitFor(lambda: waitsHere in threads(), "the thread waits")
        text = threads()
    assert f"  worker {worker.native_id}\n    File " in text
    assert f"  MainThread {os.getpid()}, which writes this report\n    File " in text
    assert ", in test_theReportHasTheStackOfEachThread\n" in text
    with busy("worker") as worker:
        monkeypatch.setattr(threading, "enumerate", list)
        text = threads()
    assert f"  unnamed {worker.ident:#x}\n    File " in text


def test_aForkedProcessReportsItsOwnThread(reactor: Any) -> None:
    pid, text = inChild(lambda: (os.getpid(), reported(reactor)["threads"]))
    assert f"  MainThread {pid}, which writes this report\n    File " in text


def test_aPartThatFailsGivesTheReason(
    reactor: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    The other parts are complete.
    """

    def generations() -> Iterator[str]:
        yield "1: serves"
        raise ValueError("no more")

    def noDirectory(path: str) -> list[str]:
        raise FileNotFoundError(2, "No such file or directory", path)

    class Broken:
        def __call__(self) -> None:
            pass

        def __getattr__(self, name: str) -> object:
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
    assert re.fullmatch(r"  in \d+\.\d\d s: \(unknown\)\n", parts["delayed calls"])
    assert "MainThread" in parts["threads"]


#: A daemon that logs a report on SIGUSR2.
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


def test_aDaemonLogsTheWholeReport(tmp_path: Path) -> None:
    (tmp_path / "daemon.tac").write_text(DAEMON)
    with program(tmp_path, TWISTD, "-n", "-y", "daemon.tac") as daemon:
        daemon.waitForOutput("reactor class")
        waitFor(lambda: SIGUSR2 in caught(daemon.pid), "SIGUSR2 is watched")
        daemon.kill(SIGUSR2)
        daemon.waitForOutput(f"MainThread {daemon.pid}, which writes this report")
        daemon.waitForOutput("in log\n")
        output = daemon.output()
    assert "#info] signals\n\t  SIGINT" in output
    assert "\t    log QUEUE: 1 handled" in output
    assert "Traceback" not in output
