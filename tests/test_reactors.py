"""
The reactors C{signalfd} and C{signalfd-asyncio}: any reactor with our signal handling.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from signal import SIGCHLD, SIGHUP, SIGINT, SIGTERM
from typing import Any

import pytest
from twisted.application.reactors import getReactorTypes
from twisted.internet import default
from twisted.internet.process import reapAllProcesses
from twisted.internet.threads import deferToThreadPool

from tests.support.clients import fetch, tcp
from tests.support.daemons import program, reload, serving
from tests.support.forkserver import TWISTD
from tests.support.freeports import freePort
from tests.support.handlers import Handled, everyReactor, handling, inEachThread
from tests.support.observers import Logged
from tests.support.processes import runPython, spawn
from tests.support.reactors import newReactor, runReactor, turn, until
from tests.support.threads import runIn
from tests.support.worlds import send
from txsignalfd import SignalService, dispatcherFor
from txsignalfd.reactorsignals import ReactorSignalsMixin
from txsignalfd.signalfdreactor import _best


@contextmanager
def signalfdReactor(kind: str = "epoll") -> Iterator[Any]:
    """
    Make a reactor that uses our signal handling.
    """
    with newReactor(kind) as reactor:
        reactor.__class__ = type("", (ReactorSignalsMixin, type(reactor)), {})
        yield reactor


@everyReactor
@inEachThread
@pytest.mark.parametrize("installing", [True, False])
def test_endsAreReported(kind: str, inThread: bool, installing: bool) -> None:
    """
    In any thread, and whether or not the reactor handles SIGINT and SIGTERM.
    """
    own = {SIGINT, SIGTERM} if installing else set()
    with signalfdReactor(kind) as reactor:

        async def main(reactor: Any) -> None:
            await turn()
            assert dispatcherFor(reactor).watching == {SIGCHLD, *own}
            protocol = spawn("sh", "-c", "exit 3")
            await protocol.ended
            assert protocol.status == (3, None)

        runIn(inThread, lambda: runReactor(reactor, main, installing))
        assert dispatcherFor(reactor).watching == frozenset()


@everyReactor
def test_crashRestores(kind: str) -> None:
    """
    The reactor can run again, as trial runs it for each test.
    """
    with signalfdReactor(kind) as reactor:
        for _ in range(2):
            reactor.callWhenRunning(reactor.callLater, 0, reactor.crash)
            reactor.run()
            assert dispatcherFor(reactor).watching == frozenset()


def test_theDescriptorIsTheReactorsOwn() -> None:
    """
    Trial takes it for no descriptor that a test has left.
    """
    with signalfdReactor() as reactor:

        async def main(reactor: Any) -> None:
            await turn()
            assert reactor.removeAll() == []
            dispatcherFor(reactor).watch(SIGHUP)
            assert reactor.removeAll() == []
            await spawn("true").ended

        runReactor(reactor, main, installSignalHandlers=True)
        assert reactor._internalReaders == {reactor.waker}


def test_shutdownWithoutARun() -> None:
    """
    A test that fires the events itself leaves nothing behind, also a second time.
    """
    with signalfdReactor() as reactor:
        reactor.callWhenRunning(reactor.callLater, 0, reactor.crash)
        reactor.run()
        for _ in range(2):
            reactor.fireSystemEvent("startup")
            assert SIGTERM in dispatcherFor(reactor).watching
            reactor.fireSystemEvent("shutdown")
            assert dispatcherFor(reactor).watching == frozenset()
            reactor.crash()
        assert reactor.removeAll() == []


def test_otherDescriptorsAreNot() -> None:
    """
    Trial reports a handler that a test has left, when the reactor does not run.
    """
    with signalfdReactor() as reactor:
        dispatcherFor(reactor).watch(SIGHUP)
        reactor.callWhenRunning(reactor.callLater, 0, reactor.crash)
        reactor.run()
        assert reactor.removeAll()
        dispatcherFor(reactor).close()


def test_handlersOfTheProgram() -> None:
    """
    Without installSignalHandlers, a handler of SIGCHLD is left alone.
    """
    with signalfdReactor() as reactor, handling(SIGCHLD, Handled()) as arrived:

        async def main(reactor: Any) -> None:
            await turn()
            assert dispatcherFor(reactor).watching == frozenset()
            protocol = spawn("true")
            await until(lambda: arrived)
            reapAllProcesses()
            await protocol.ended

        runReactor(reactor, main)
    assert arrived == [SIGCHLD]


def test_severalReactors() -> None:
    """
    Without installSignalHandlers, the reactor that watches SIGCHLD serves the other.
    """
    with signalfdReactor() as first, signalfdReactor() as second:

        async def main(reactor: Any) -> None:
            pool = reactor.getThreadPool()
            await deferToThreadPool(reactor, pool, runReactor, second, other)

        async def other(reactor: Any) -> None:
            await turn()
            assert dispatcherFor(reactor).watching == frozenset()
            await spawn("true").ended

        runReactor(first, main, installSignalHandlers=True)


def test_aServiceDecidesWhatStops(logged: Logged) -> None:
    """
    The reactor stops once, by the signals of the service.
    """
    received: list[int] = []
    with signalfdReactor() as reactor:
        service = SignalService(
            {SIGTERM: lambda info: received.append(info.signo)},
            stopOn=[SIGINT],
            reactor=reactor,
        )
        service.startService()

        def run() -> None:
            send(SIGTERM)
            reactor.callLater(0.01, send, SIGINT)
            reactor.addSystemEventTrigger("before", "shutdown", received.append, 0)

        reactor.callWhenRunning(run)
        reactor.run()
    assert received == [SIGTERM, 0]
    assert reactor._exitSignal == SIGINT
    assert logged.failures == []


def test_theReactorDecidesAfterTheService() -> None:
    """
    A service that has stopped leaves the signal to the reactor again.
    """
    with signalfdReactor() as reactor:
        service = SignalService(stopOn=(), handlers={SIGTERM: print}, reactor=reactor)
        service.startService()

        def run() -> None:
            service.stopService()
            send(SIGTERM)

        reactor.callWhenRunning(run)
        reactor.run()
        assert reactor._exitSignal == SIGTERM


@pytest.mark.parametrize("name", ["epoll", "poll", "select"])
def test_theBestReactorOfTheSystem(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    It is the one that Twisted installs by default.
    """
    module = f"twisted.internet.{name}reactor"
    monkeypatch.setattr(default, "install", __import__(module, fromlist=["_"]).install)
    assert _best().__module__ == module


def test_theyAreListed() -> None:
    """
    C{--help-reactors} names them.
    """
    names = {each.shortName for each in getReactorTypes()}
    assert {"signalfd", "signalfd-asyncio"} <= names


@pytest.mark.parametrize("name", ["signalfd", "signalfd-asyncio"])
def test_anyPlugin(name: str, tmp_path: Path) -> None:
    """
    C{twistd --reactor} serves, and ends by the signal.
    """
    port = freePort()
    where = f"tcp:{port}:interface=127.0.0.1"
    command = [TWISTD, "-n", f"--reactor={name}", "web", "--listen", where]
    with program(tmp_path, *command) as daemon:
        daemon.waitForOutput("Starting factory")
        assert "reactor class: txsignalfd." in daemon.output()
        assert daemon.stop() == -SIGTERM


def test_withTheDaemon(tmp_path: Path) -> None:
    """
    C{twistd --reactor=signalfd signalfd} reloads, and only the daemon decides.
    """
    port = freePort()
    command = ["--on=TERM=reload", "web", f"--listen=tcp:{port}:interface=127.0.0.1"]
    with serving(tmp_path, *command, twistd=["--reactor=signalfd"]) as daemon:
        daemon.kill(SIGTERM)
        daemon.waitForOutput("generation 1 has ended")
        reload(daemon)
        assert b"Hello" in fetch(tcp(port))
        daemon.kill(SIGINT)
        assert daemon.wait() == -SIGINT
    assert "Traceback" not in daemon.output()


#: Prints the modules that the plugins import.
IMPORTED = """
import sys
from twisted.application import reactors, service
before = {*sys.modules}
import twisted.plugins.txsignalfd_plugin, twisted.plugins.txsignalfd_reactors
print(*sorted({*sys.modules} - before))
"""


def test_theListCostsNoImport() -> None:
    """
    The plugins import nothing that twistd has not imported.
    """
    done = runPython("-c", IMPORTED, check=True)
    assert done.stdout.split() == [
        "twisted.plugins",
        "twisted.plugins.txsignalfd_plugin",
        "twisted.plugins.txsignalfd_reactors",
    ]
