"""
L{ReactorSignals}: what Twisted does with SIGINT, SIGTERM and SIGCHLD.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from signal import SIGCHLD, SIGINT, SIGTERM
from typing import Any

import pytest
from twisted.internet._signals import SignalHandling
from twisted.internet.defer import Deferred

from tests.support.handlers import everyReactor, inEachThread, runIn
from tests.support.processes import spawn
from tests.support.reactors import newReactor, runReactor, spin, turn
from tests.support.twisted_processes import compare
from tests.support.worlds import send
from txsignalfd import (
    ReactorSignals,
    SignalAlreadyWatched,
    SignalDispatcher,
    dispatcherFor,
)


@pytest.fixture
def pythonsHandlers() -> Iterator[None]:
    """
    What Twisted installs is not given back by it.
    """
    saved = {signo: signal.getsignal(signo) for signo in (SIGINT, SIGTERM, SIGCHLD)}
    yield
    for signo, handler in saved.items():
        signal.signal(signo, handler)


def watched(reactor: Any) -> frozenset[int]:
    """
    What its dispatcher watches.
    """
    return dispatcherFor(reactor).watching


@everyReactor
@inEachThread
@pytest.mark.parametrize("signo", [SIGINT, SIGTERM])
def test_itStopsTheReactorAndTellsEnds(kind: str, inThread: bool, signo: int) -> None:
    """
    In any thread, and the reactor keeps the number.
    """
    with newReactor(kind) as reactor:
        signals: SignalHandling = ReactorSignals(reactor)
        signals.install()
        signals.install()

        async def main(reactor: Any) -> None:
            protocol = spawn(reactor, "sh", "-c", "exit 3")
            await protocol.ended
            assert protocol.status == (3, None)
            send(signo)
            while True:
                await turn(reactor)

        stopped: list[object] = []

        def run() -> None:
            reactor.callWhenRunning(
                lambda: stopped.append(Deferred.fromCoroutine(main(reactor)))
            )
            reactor.run(installSignalHandlers=False)

        runIn(inThread, run)
        assert reactor._exitSignal == signo
        signals.uninstall()
        signals.uninstall()
        assert watched(reactor) == frozenset()


@pytest.mark.usefixtures("pythonsHandlers")
def test_itGivesBackWhatItTook() -> None:
    """
    Also where Twisted has installed handlers after it.
    """
    with newReactor() as reactor:
        signals = ReactorSignals(reactor)
        signals.install()

        async def main(reactor: Any) -> None:
            assert watched(reactor) == {SIGINT, SIGTERM, SIGCHLD}
            signals.uninstall()
            assert watched(reactor) == frozenset()
            protocol = spawn(reactor, "true")
            await protocol.ended

        runReactor(reactor, main, installSignalHandlers=True)


def test_itIsInstalledAnewWhenAllWasGivenBack() -> None:
    """
    Without L{ReactorSignals.uninstall}, as when a reactor has stopped.
    """

    async def main(reactor: Any) -> None:
        signals = ReactorSignals(reactor)
        for _ in range(2):
            signals.install()
            assert watched(reactor) == {SIGINT, SIGTERM, SIGCHLD}
            await dispatcherFor(reactor).close()
            assert watched(reactor) == frozenset()
        signals.install()
        protocol = spawn(reactor, "true")
        await protocol.ended
        signals.uninstall()
        assert watched(reactor) == frozenset()

    spin(main)


@pytest.mark.usefixtures("pythonsHandlers")
def test_itLeavesSomebodyElsesHandlerOfSigintAlone() -> None:
    """
    As of a debugger.
    """
    signal.signal(SIGINT, lambda *_: None)
    with newReactor() as reactor:
        signals = ReactorSignals(reactor)
        signals.install()
        assert watched(reactor) == {SIGTERM, SIGCHLD}
        signals.uninstall()


@pytest.mark.parametrize("signo", [SIGTERM, SIGCHLD])
def test_aSignalThatIsAnothersIsNotTaken(signo: int) -> None:
    """
    And nothing else is; it can be installed later.
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


def test_someOfTwistedsOwnTests() -> None:
    """
    C{python -m tests.support.twisted_processes} runs all of them, in CI too.
    """
    suite = "twisted.internet.test.test_process.ProcessTestsBuilder_EPollReactorTests"
    assert compare([f"{suite}.test_timelyProcessExited"]) is None
