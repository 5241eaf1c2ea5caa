"""
L{SignalService}: signals as a part of an application.
"""

from __future__ import annotations

import signal
from pathlib import Path
from signal import SIGCHLD, SIGHUP, SIGINT, SIGTERM, SIGUSR1
from typing import Any

import pytest
from twisted.application.service import IService, MultiService
from zope.interface.verify import verifyObject

from tests.support.daemons import TWISTD, program, python
from tests.support.handlers import Recorder
from tests.support.processes import spawn
from tests.support.reactors import newReactor, runReactor, spin, until, untilLength
from tests.support.worlds import send
from txsignalfd import (
    SignalAlreadyWatched,
    SignalDispatcher,
    SignalNotWatchable,
    SignalService,
    dispatcherFor,
)


def test_itIsAService() -> None:
    """
    For an application to have.
    """
    assert verifyObject(IService, SignalService())


def test_itsHandlersAreCalledWhileItRuns() -> None:
    """
    And when it stops it gives back what nobody else handles.
    """

    async def main(reactor: Any) -> None:
        got, other = Recorder(), Recorder()
        dispatcher = dispatcherFor(reactor)
        service = SignalService({SIGHUP: got, SIGUSR1: got}, reactor=reactor)
        parent = MultiService()
        service.setServiceParent(parent)
        for expected in (1, 2):
            parent.privilegedStartService()
            parent.startService()
            watched = {SIGHUP, SIGUSR1, SIGINT, SIGTERM, SIGCHLD}
            assert dispatcher.watching == watched
            send(SIGHUP)
            await untilLength(reactor, got.infos, expected)
            parent.stopService()
            parent.stopService()
            assert dispatcher.watching == frozenset()
        # What was watched before, or is handled by others, stays.
        dispatcher.watch(SIGUSR1)
        parent.startService()
        dispatcher.addHandler(SIGHUP, other)
        parent.stopService()
        assert dispatcher.watching == {SIGUSR1, SIGHUP}
        send(SIGHUP)
        await until(reactor, lambda: other.infos)
        assert len(got.infos) == 2
        await dispatcher.close()

    spin(main)


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
@pytest.mark.parametrize("stopOn", [(SIGINT, SIGTERM), ()])
def test_theLastOfTwoServicesGivesBack(
    order: tuple[int, int], stopOn: tuple[int, ...]
) -> None:
    """
    Whichever of them was first: SIGTERM must not be watched for nobody.
    """

    async def main(reactor: Any) -> None:
        dispatcher = dispatcherFor(reactor)
        services = [SignalService(stopOn=stopOn, reactor=reactor) for _ in range(2)]
        for service in services:
            service.startService()
        services[order[0]].stopService()
        assert dispatcher.watching == {SIGCHLD, *stopOn}
        protocol = spawn(reactor, "true")
        await protocol.ended
        services[order[1]].stopService()
        assert dispatcher.watching == frozenset()
        await dispatcher.close()

    spin(main)


def test_whatIsWatchedForItselfSinceStaysWatched() -> None:
    """
    Somebody has unwatched what a service began to watch, and watches it anew.
    """

    async def main(reactor: Any) -> None:
        dispatcher = dispatcherFor(reactor)
        first, second = (SignalService(reactor=reactor) for _ in range(2))
        first.startService()
        dispatcher.unwatch(SIGTERM)
        second.startService()
        dispatcher.unwatch(SIGINT)
        first.stopService()
        assert dispatcher.watching == {SIGCHLD, SIGTERM}
        second.stopService()
        assert dispatcher.watching == frozenset()
        await dispatcher.close()

    spin(main)


def test_signalsStayWatchedWhileTheReactorStops() -> None:
    """
    And are given back when it has.
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


def test_aServiceStopsWhenTheDispatcherIsClosedAlready() -> None:
    """
    There is nothing to give back.
    """
    with newReactor() as reactor:
        service = SignalService({SIGHUP: print}, reactor=reactor)
        service.startService()
        dispatcherFor(reactor).close()
        service.stopService()
        assert not service.running


def test_badArgumentsAreRefusedAtOnce() -> None:
    """
    Not when the daemon has started.
    """
    with pytest.raises(TypeError, match="cannot be called"):
        SignalService({SIGHUP: "reload"})  # type: ignore[dict-item]
    with pytest.raises(SignalNotWatchable, match="SIGKILL"):
        SignalService({signal.SIGKILL: print})
    with pytest.raises(SignalNotWatchable, match="SIGSTOP"):
        SignalService(stopOn=[signal.SIGSTOP])


def test_aServiceThatCannotWatchTakesNothing() -> None:
    """
    The signal is another's.
    """
    with newReactor() as reactor, newReactor() as elsewhere:
        other = SignalDispatcher(elsewhere)
        other.watch(SIGINT)
        service = SignalService({SIGHUP: print}, reactor=reactor)
        with pytest.raises(SignalAlreadyWatched, match="SIGINT"):
            service.startService()
        assert dispatcherFor(reactor).watching == frozenset()
        assert not dispatcherFor(reactor).handlersOf(SIGHUP)
        other.close()


def test_itReapsChildrenUnlessToldNotTo() -> None:
    """
    Processes tell their ends while it runs.
    """

    async def main(reactor: Any) -> None:
        service = SignalService(reactor=reactor)
        service.startService()
        protocol = spawn(reactor, "true")
        await protocol.ended
        service.stopService()
        service = SignalService(reapChildren=False, reactor=reactor)
        service.startService()
        assert dispatcherFor(reactor).watching == {SIGINT, SIGTERM}
        service.stopService()
        await dispatcherFor(reactor).close()

    spin(main)


@pytest.mark.parametrize("reapChildren", [True, False])
def test_aServiceWhoseSignalsAreAnothersTakesNothing(reapChildren: bool) -> None:
    """
    Nor SIGCHLD.
    """
    with newReactor() as reactor, newReactor() as elsewhere:
        other = SignalDispatcher(elsewhere)
        other.watch(SIGHUP)
        service = SignalService(
            {SIGHUP: print}, reapChildren=reapChildren, reactor=reactor
        )
        with pytest.raises(SignalAlreadyWatched, match="SIGHUP"):
            service.startService()
        assert dispatcherFor(reactor).watching == frozenset()
        other.close()


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
def test_aSignalStopsTwistdInOrder(signo: int, tmp_path: Path) -> None:
    """
    A SIGHUP does not kill it while its services stop, a second signal is
    told, the pid file goes, and it ends by the signal as twistd does.
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
        twistd.waitForOutput("SIGHUP is watched, and nothing handles it")
        twistd.kill(signo)
        twistd.waitForOutput("stopping already")
        (tmp_path / "go on").touch()
        assert twistd.wait() == -signo
        assert twistd.output().count("Traceback") == 0, twistd.output()
        assert "stopped" in twistd.output()
        assert not (tmp_path / "twistd.pid").exists()


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


def test_aSecondSignalWhileItStopsIsNoError(tmp_path: Path) -> None:
    """
    Both are read in one turn, and two services have them; the first stops.
    """
    with python(tmp_path, TWICE) as running:
        assert running.wait() == 0
        assert running.output() == "over\n"
