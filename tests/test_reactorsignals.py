"""
L{ReactorSignals}: Twisted's own signal handling, on top of a dispatcher.
"""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from signal import SIGCHLD, SIGINT, SIGTERM
from typing import Any

import pytest
from twisted.internet._signals import SignalHandling
from twisted.internet.defer import Deferred

from tests.support.daemons import program, startedWith
from tests.support.handlers import everyReactor, inEachThread
from tests.support.inreactor import inReactor
from tests.support.processes import spawn
from tests.support.reactors import newReactor, runReactor, turn
from tests.support.threads import runIn
from tests.support.twisted_suite import EVERYWHERE, compare
from tests.support.worlds import send
from txsignalfd import (
    ReactorSignals,
    SignalAlreadyWatched,
    SignalDispatcher,
    dispatcherFor,
)


def watched(reactor: Any) -> frozenset[int]:
    """
    Return what the reactor's dispatcher watches.
    """
    return dispatcherFor(reactor).watching


@everyReactor
@inEachThread
@pytest.mark.parametrize("signo", [SIGINT, SIGTERM])
def test_stopsTheReactorAndReportsEnds(kind: str, inThread: bool, signo: int) -> None:
    """
    It works in any thread, and the reactor records the signal's number.
    """
    with newReactor(kind) as reactor:
        signals: SignalHandling = ReactorSignals(reactor)
        signals.install()
        signals.install()

        async def main(reactor: Any) -> None:
            protocol = spawn("sh", "-c", "exit 3")
            await protocol.ended
            assert protocol.status == (3, None)
            send(signo)
            while True:
                await turn()

        failed: list[object] = []

        def start() -> None:
            ended = Deferred.fromCoroutine(main(reactor))
            ended.addErrback(failed.append).addCallback(lambda _: reactor.stop())

        def run() -> None:
            reactor.callWhenRunning(start)
            reactor.run(installSignalHandlers=False)

        runIn(inThread, run)
        assert not failed
        assert reactor._exitSignal == signo
        signals.uninstall()
        signals.uninstall()
        assert watched(reactor) == frozenset()


@pytest.mark.usefixtures("restoredHandlers")
def test_uninstallRestores() -> None:
    """
    Twisted's handlers, which were installed later, work again.
    """
    with newReactor() as reactor:
        signals = ReactorSignals(reactor)
        signals.install()

        async def main(reactor: Any) -> None:
            assert watched(reactor) == {SIGINT, SIGTERM, SIGCHLD}
            signals.uninstall()
            assert watched(reactor) == frozenset()
            await spawn("true").ended

        runReactor(reactor, main, installSignalHandlers=True)


@inReactor
async def test_installAfterTheDispatcherWasClosed(reactor: Any) -> None:
    """
    A program need not call L{ReactorSignals.uninstall} before.
    """
    signals = ReactorSignals(reactor)
    for _ in range(2):
        signals.install()
        assert watched(reactor) == {SIGINT, SIGTERM, SIGCHLD}
        await dispatcherFor(reactor).close()
        assert watched(reactor) == frozenset()
    signals.install()
    await spawn("true").ended
    signals.uninstall()
    assert watched(reactor) == frozenset()


@pytest.mark.usefixtures("restoredHandlers")
def test_handlerOfSigint() -> None:
    """
    A handler of the program, such as a debugger's, is left alone.
    """
    signal.signal(SIGINT, lambda *_: None)
    with newReactor() as reactor:
        signals = ReactorSignals(reactor)
        signals.install()
        assert watched(reactor) == {SIGTERM, SIGCHLD}
        signals.uninstall()


@pytest.mark.parametrize("signo", [SIGTERM, SIGCHLD])
def test_signalOfAnotherDispatcher(signo: int) -> None:
    """
    Installing is refused and watches no other signal.  It works later.
    """
    with newReactor() as reactor, newReactor() as elsewhere:
        other = SignalDispatcher(elsewhere)
        other.watch(signo)
        signals = ReactorSignals(reactor)
        with pytest.raises(SignalAlreadyWatched):
            signals.install()
        assert watched(reactor) == frozenset()
        other.close()
        signals.install()
        signals.uninstall()


PROGRAM = """
from twisted.application.app import _exitWithSignal
from twisted.internet import reactor
from txsignalfd import ReactorSignals

ReactorSignals(reactor).install()
reactor.callWhenRunning(print, "running")
reactor.run(installSignalHandlers=False)
_exitWithSignal(reactor._exitSignal)
"""


def test_signalThatWasBlockedAtTheStart(tmp_path: Path) -> None:
    """
    The program can end by it.
    """
    before = startedWith(blocked=[SIGTERM])
    command = [*before, sys.executable, "-u", "-c", PROGRAM]
    with program(tmp_path, *command) as running:
        running.waitForOutput("running")
        assert running.stop() == -SIGTERM


def test_someOfTwistedsTests() -> None:
    """
    C{python -m tests.support.twisted_suite} runs all of them.
    """
    suite = "twisted.internet.test.test_process.ProcessTestsBuilder_EPollReactorTests"
    assert compare([f"{suite}.test_timelyProcessExited"], EVERYWHERE) is None
