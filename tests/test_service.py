"""
L{SignalService}: signal handlers as a part of an application.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path
from signal import SIGCHLD, SIGHUP, SIGINT, SIGTERM, SIGUSR1
from typing import Any

import pytest
from twisted.application.service import IService, MultiService
from zope.interface.verify import verifyObject

from tests.support.daemons import program, python, startedWith
from tests.support.forkserver import TWISTD
from tests.support.handlers import Recorder
from tests.support.inreactor import inReactor
from tests.support.processes import spawn
from tests.support.reactors import newReactor, runReactor, until, untilLength
from tests.support.worlds import send
from txsignalfd import (
    SignalAlreadyWatched,
    SignalDispatcher,
    SignalNotWatchable,
    SignalService,
    dispatcherFor,
)


def test_isAService() -> None:
    """
    An application can have it as a child.
    """
    assert verifyObject(IService, SignalService())


@inReactor
async def test_handlersAreCalledWhileItRuns(
    reactor: Any, dispatcher: SignalDispatcher
) -> None:
    """
    It can be stopped, which restores the signals, and started again.
    """
    got = Recorder()
    service = SignalService({SIGHUP: got, SIGUSR1: got}, reactor=reactor)
    parent = MultiService()
    service.setServiceParent(parent)
    for expected in (1, 2):
        parent.privilegedStartService()
        parent.startService()
        assert dispatcher.watching == {SIGHUP, SIGUSR1, SIGINT, SIGTERM, SIGCHLD}
        send(SIGHUP)
        await untilLength(got.infos, expected)
        parent.stopService()
        parent.stopService()
        assert dispatcher.watching == frozenset()


@inReactor
async def test_signalsOfOtherCodeStayWatched(
    reactor: Any, dispatcher: SignalDispatcher
) -> None:
    """
    Stopping keeps a signal that was watched before or has another handler.
    """
    got, other = Recorder(), Recorder()
    service = SignalService({SIGHUP: got, SIGUSR1: got}, reactor=reactor)
    dispatcher.watch(SIGUSR1)
    service.startService()
    dispatcher.addHandler(SIGHUP, other)
    service.stopService()
    assert dispatcher.watching == {SIGUSR1, SIGHUP}
    send(SIGHUP)
    await until(lambda: other.infos)
    assert not got.infos


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
@pytest.mark.parametrize("stopOn", [(SIGINT, SIGTERM), ()])
@inReactor
async def test_lastOfTwoServicesRestores(
    order: tuple[int, int],
    stopOn: tuple[int, ...],
    reactor: Any,
    dispatcher: SignalDispatcher,
) -> None:
    """
    The signals stay watched until both services have stopped.
    """
    services = [SignalService(stopOn=stopOn, reactor=reactor) for _ in range(2)]
    for service in services:
        service.startService()
    services[order[0]].stopService()
    assert dispatcher.watching == {SIGCHLD, *stopOn}
    await spawn("true").ended
    services[order[1]].stopService()
    assert dispatcher.watching == frozenset()


@inReactor
async def test_signalThatIsWatchedAgain(
    reactor: Any, dispatcher: SignalDispatcher
) -> None:
    """
    A signal that the program unwatched belongs to the service that watches it
    next.
    """
    first, second = (SignalService(reactor=reactor) for _ in range(2))
    first.startService()
    dispatcher.unwatch(SIGTERM)
    second.startService()
    dispatcher.unwatch(SIGINT)
    first.stopService()
    assert dispatcher.watching == {SIGCHLD, SIGTERM}
    second.stopService()
    assert dispatcher.watching == frozenset()


def test_signalsStayWatchedWhileTheReactorStops() -> None:
    """
    They are restored when the reactor has stopped.
    """
    with newReactor() as reactor:
        service = SignalService({SIGHUP: print}, reactor=reactor)
        watched: list[frozenset[int]] = []

        def look() -> None:
            watched.append(dispatcherFor(reactor).watching)

        async def main(reactor: Any) -> None:
            service.startService()
            for function in (service.stopService, look):
                reactor.addSystemEventTrigger("before", "shutdown", function)

        runReactor(reactor, main)
        assert watched == [{SIGHUP, SIGINT, SIGTERM, SIGCHLD}]
        assert dispatcherFor(reactor).watching == frozenset()


def test_dispatcherIsClosedFirst() -> None:
    """
    The service can still be stopped.
    """
    with newReactor() as reactor:
        service = SignalService({SIGHUP: print}, reactor=reactor)
        service.startService()
        dispatcherFor(reactor).close()
        service.stopService()
        assert not service.running


def test_badArguments() -> None:
    """
    They are refused before the daemon has started.
    """
    with pytest.raises(TypeError, match="cannot be called"):
        SignalService({SIGHUP: "reload"})  # type: ignore[dict-item]
    with pytest.raises(SignalNotWatchable, match="SIGKILL"):
        SignalService({signal.SIGKILL: print})
    with pytest.raises(SignalNotWatchable, match="SIGSTOP"):
        SignalService(stopOn=[signal.SIGSTOP])


@pytest.mark.parametrize("signo", [SIGINT, SIGHUP, SIGCHLD])
def test_signalOfAnotherDispatcher(signo: int) -> None:
    """
    The service does not start, and watches no other signal either.
    """
    with newReactor() as reactor, newReactor() as elsewhere:
        other = SignalDispatcher(elsewhere)
        other.watch(signo)
        service = SignalService({SIGHUP: print}, reactor=reactor)
        with pytest.raises(SignalAlreadyWatched, match=signal.Signals(signo).name):
            service.startService()
        assert dispatcherFor(reactor).watching == frozenset()
        assert not dispatcherFor(reactor).handlersOf(SIGHUP)
        other.close()


@inReactor
async def test_reapChildren(reactor: Any, dispatcher: SignalDispatcher) -> None:
    """
    Processes report their ends while it runs, unless that is switched off.
    """
    service = SignalService(reactor=reactor)
    service.startService()
    await spawn("true").ended
    service.stopService()
    service = SignalService(reapChildren=False, reactor=reactor)
    service.startService()
    assert dispatcher.watching == {SIGINT, SIGTERM}
    service.stopService()


APPLICATION = """
import os, signal
from twisted.application.service import Application, Service
from twisted.internet import reactor
from twisted.internet.task import deferLater
from twisted.python import log
from txsignalfd import SignalService

class Slow(Service):
    def startService(self):
        reactor.callWhenRunning(log.msg, "running")

    async def finish(self):
        log.msg("stopping slowly")
        while not os.path.exists("go on"):
            await deferLater(reactor, 0.01)
        log.msg("stopped")

    def stopService(self):
        from twisted.internet.defer import Deferred
        return Deferred.fromCoroutine(self.finish())

async def hangup(info):
    log.msg("handled", str(info))

application = Application("slow")
Slow().setServiceParent(application)
SignalService(
    {signal.SIGHUP: hangup}, stopOn=[signal.SIGTERM, signal.SIGINT, signal.SIGQUIT]
).setServiceParent(application)
"""


@pytest.mark.parametrize("signo", [SIGTERM, SIGINT, signal.SIGQUIT])
def test_signalStopsTwistdInOrder(signo: int, tmp_path: Path) -> None:
    """
    Further signals do not kill twistd while its services stop.  It removes its
    pid file, and ends by the signal.
    """
    (tmp_path / "slow.py").write_text(APPLICATION)
    with program(tmp_path, TWISTD, "-n", "-y", "slow.py") as twistd:
        twistd.waitForOutput("running")
        twistd.kill(SIGHUP)
        twistd.waitForOutput("handled SIGHUP from pid")
        twistd.kill(signo)
        twistd.waitForOutput("stopping slowly")
        assert (tmp_path / "twistd.pid").exists()
        twistd.kill(SIGHUP)
        twistd.waitForOutput("SIGHUP is watched")
        twistd.kill(signo)
        twistd.waitForOutput("already stopping")
        (tmp_path / "go on").touch()
        assert twistd.wait() == -signo
        assert twistd.output().count("Traceback") == 0, twistd.output()
        assert "stopped" in twistd.output()
        assert not (tmp_path / "twistd.pid").exists()


@pytest.mark.parametrize("signo", [SIGTERM, SIGINT, signal.SIGQUIT])
def test_signalThatWasBlockedAtTheStart(signo: int, tmp_path: Path) -> None:
    """
    The process ends by the signal, and not with status 0.
    """
    (tmp_path / "slow.py").write_text(APPLICATION)
    (tmp_path / "go on").touch()
    before = startedWith(blocked=[signo])
    with program(tmp_path, *before, TWISTD, "-n", "-y", "slow.py") as twistd:
        twistd.waitForOutput("running")
        twistd.kill(signo)
        assert twistd.wait() == -signo
        assert not (tmp_path / "twistd.pid").exists()


@pytest.fixture
def ignored() -> Iterator[None]:
    """
    Ignore the signals that stop a service.
    """
    before = {
        signo: signal.signal(signo, signal.SIG_IGN) for signo in (SIGINT, SIGTERM)
    }
    yield
    for signo in (SIGINT, SIGTERM):
        assert signal.signal(signo, before[signo]) is signal.SIG_IGN


@pytest.mark.parametrize(
    ("arguments", "watched"),
    [
        ({}, {SIGTERM}),
        ({"stopOn": (SIGTERM, SIGINT)}, {SIGTERM, SIGINT}),
        ({"handlers": {SIGINT: print}}, {SIGTERM, SIGINT}),
    ],
    ids=["default", "stopOn", "handlers"],
)
@pytest.mark.usefixtures("ignored")
@inReactor
async def test_ignoredSignal(
    arguments: dict[str, Any],
    watched: set[int],
    reactor: Any,
    dispatcher: SignalDispatcher,
) -> None:
    """
    SIGINT stays ignored, unless the arguments of the service name it.  SIGTERM
    stops the service in any case, as it stops Twisted.
    """
    service = SignalService(**arguments, reactor=reactor)
    service.startService()
    assert dispatcher.watching == {SIGCHLD, *watched}
    service.stopService()


TWICE = """
import os, signal
from twisted.internet import reactor
from txsignalfd import SignalService

for service in (SignalService(), SignalService()):
    service.startService()

def twice():
    os.kill(os.getpid(), signal.SIGTERM)
    os.kill(os.getpid(), signal.SIGINT)

reactor.addSystemEventTrigger("after", "shutdown", print, "over")
reactor.callWhenRunning(twice)
reactor.run()
"""


def test_twoSignalsAndTwoServices(tmp_path: Path) -> None:
    """
    The reactor is stopped only once.
    """
    with python(tmp_path, TWICE) as running:
        assert running.wait() == 0
        assert running.output() == "over\n"
