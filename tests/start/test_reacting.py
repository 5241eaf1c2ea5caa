"""
L{react}: a main function that takes the reactor.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from signal import SIGHUP, SIGTERM, SIGUSR1

import pytest

from tests.support.clients import fetch, tcp
from tests.support.daemons import Program, python, reload
from tests.support.freeports import freePort

#: A program whose main function listens, and then does what a file says.
MAIN = """
import asyncio, sys
from pathlib import Path
from twisted.internet.asyncioreactor import install
if "asyncio" in Path("does").read_text():
    install()
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import serverFromString
from twisted.internet.task import deferLater
from twisted.web.server import Site
from twisted.web.static import Data
from txsignalfd import react

def main(reactor, port):
    does = Path("does").read_text()
    if "asyncio" in does:
        return asyncio.ensure_future(serve(reactor, port, does))
    return Deferred.fromCoroutine(serve(reactor, port, does))

async def serve(reactor, port, does):
    if "late" in does:
        await deferLater(reactor, 0.1)
    if "raise" in does:
        raise RuntimeError(does)
    if "exit" in does:
        raise SystemExit(7)
    page = Data(does.encode(), "text/plain")
    page.isLeaf = True
    endpoint = serverFromString(reactor, f"tcp:{port}:interface=127.0.0.1")
    listening = endpoint.listen(Site(page))
    if "asyncio" not in does:
        await listening
    if "stop" in does:
        reactor.stop()
    if "return" in does:
        return
    finished = asyncio.Future() if "asyncio" in does else Deferred()
    finish = finished.set_result if "asyncio" in does else finished.callback
    waiting.append(finish)
    try:
        await finished
    finally:
        print("cleaned up:", does)
        if "fail" in does:
            raise RuntimeError(does)

waiting = []
finishNewest = lambda info: waiting[-1](None)
react({main}, ["{port}"], log=sys.stdout, on={{"USR1": finishNewest}})
"""


@contextmanager
def reacting(
    directory: Path, does: str, port: int = 0, main: str = "main"
) -> Iterator[Program]:
    """
    Run the program.
    """
    (directory / "does").write_text(does)
    with python(directory, MAIN.format(main=main, port=port)) as program:
        yield program


def serves(program: Program) -> None:
    program.waitForOutput(f"pid {program.pid} serves")


@pytest.mark.parametrize("does", ["old", "late old", "old asyncio"])
def test_aReloadCallsTheFunctionBesideItself(does: str, tmp_path: Path) -> None:
    """
    And cancels the old call, also where it listens late or is an asyncio task.
    """
    port = freePort()
    with reacting(tmp_path, does, port) as program:
        serves(program)
        program.waitForOutput("starting on")
        assert fetch(tcp(port)) == does.encode()
        new = does.replace("old", "new")
        (tmp_path / "does").write_text(new)
        reload(program)
        program.waitForOutput(f"cleaned up: {does}\n")
        assert fetch(tcp(port)) == new.encode()
        assert program.stop() == -SIGTERM
        assert f"cleaned up: {new}\n" in program.output()
        assert "main function encountered error" not in program.output()


@pytest.mark.parametrize(
    ("does", "status"),
    [
        ("raise", 1),
        ("exit", 7),
        ("return", 0),
        ("late return", 0),
        ("late stop return", 0),
    ],
)
def test_theResultIsTheExitStatus(does: str, status: int, tmp_path: Path) -> None:
    """
    As of C{task.react}.
    """
    with reacting(tmp_path, does) as program:
        assert program.wait() == status


@pytest.mark.parametrize(("does", "status"), [("raise", 1), ("exit", 7)])
def test_aLaterFailureEndsTheProgram(does: str, status: int, tmp_path: Path) -> None:
    with reacting(tmp_path, f"late {does}") as program:
        assert program.wait() == status
        logged = "main function encountered error" in program.output()
        assert logged == (does == "raise")


@pytest.mark.parametrize("does", ["raise", "exit"])
def test_aCallThatFailsAtOnceFailsTheReload(does: str, tmp_path: Path) -> None:
    with reacting(tmp_path, "old") as program:
        serves(program)
        (tmp_path / "does").write_text(does)
        program.kill(SIGHUP)
        program.waitForOutput("generation 1 serves on: ")
        program.kill(SIGUSR1)
        assert program.wait() == 0


def test_theEndOfTheNewestCallEndsTheProgram(tmp_path: Path) -> None:
    """
    And not that of an old one, whose failure is logged.
    """
    with reacting(tmp_path, "fail") as program:
        serves(program)
        (tmp_path / "does").write_text("new")
        reload(program)
        program.waitForOutput("main function encountered error")
        program.waitForOutput("generation 1 has ended")
        program.kill(SIGUSR1)
        assert program.wait() == 0
        assert "cleaned up: new\n" in program.output()


def test_aReloadMayBeTheEnd(tmp_path: Path) -> None:
    """
    If the new call has nothing to do.
    """
    with reacting(tmp_path, "old") as program:
        serves(program)
        (tmp_path / "does").write_text("return")
        program.kill(SIGHUP)
        assert program.wait() == 0


def test_aFunctionThatReturnsNoDeferredIsRefused(tmp_path: Path) -> None:
    with reacting(tmp_path, "", main="print") as program:
        assert program.wait() == 1
        reason = "TypeError: builtins.print has returned neither a Deferred nor"
        assert f"not started: {reason}" in program.output()
