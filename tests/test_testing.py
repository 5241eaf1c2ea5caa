"""
L{txsignalfd.testing}: unit tests of programs that handle signals.

The dispatcher's own tests also run with it: see L{tests.support.worlds}.
"""

from __future__ import annotations

import os
import re
import signal
import threading
from pathlib import Path
from signal import SIGCHLD, SIGHUP, SIGINT, SIGKILL, SIGTERM, SIGUSR1
from typing import Any, cast

import pytest
from twisted.internet.task import Clock
from twisted.internet.testing import MemoryReactorClock

from tests.support.handlers import Recorder
from tests.support.processes import runPython
from tests.support.reactors import DEADLINE
from txsignalfd import (
    DispatcherClosed,
    SigInfo,
    SignalDispatcher,
    SignalNotWatchable,
    SignalService,
    dispatcherFor,
)
from txsignalfd.testing import MemorySignals, SignalNotWatched

EXAMPLES = Path(__file__).parent.parent / "examples"


def test_aSignalIsHandledBeforeDeliverReturns() -> None:
    """
    It needs no reactor.
    """
    signals, got = MemorySignals(), Recorder()
    signals.addHandler(SIGHUP, got)
    info = SigInfo.make(SIGHUP, pid=4242, uid=1000)
    signals.deliver(info)
    assert got.infos == [info]
    assert isinstance(signals, SignalDispatcher)


def test_signalsCanBePaused() -> None:
    """
    As before execve(2), although none are ever pending here.
    """
    signals = MemorySignals()
    assert signals._pause()
    signals._resume()


def test_deliveringAnUnwatchedSignalIsAnError() -> None:
    """
    No signal of the same call is received.
    """
    signals, got = MemorySignals(), Recorder()
    with pytest.raises(
        SignalNotWatched, match=r"SIGHUP is not watched \(watched: none\)"
    ):
        signals.deliver(SigInfo.make(SIGHUP))
    signals.addHandler(SIGUSR1, got)
    with pytest.raises(SignalNotWatched, match=r"not watched \(watched: SIGUSR1\)"):
        signals.deliver(SigInfo.make(SIGUSR1), SigInfo.make(SIGHUP))
    assert not got.infos
    signals.unwatch(SIGUSR1)
    with pytest.raises(SignalNotWatched):
        signals.deliver(SigInfo.make(SIGUSR1))
    with pytest.raises(SignalNotWatchable, match="SIGKILL cannot be watched"):
        signals.watch(SIGKILL)


def test_onlyASigInfoIsDelivered() -> None:
    signals = MemorySignals()
    signals.watch(SIGHUP)
    with pytest.raises(TypeError, match=r"is not a SigInfo: use SigInfo\.make"):
        signals.deliver(cast(SigInfo, SIGHUP))


def test_closeWaitsForHandlersAndReceivesNothing() -> None:
    signals, got = MemorySignals(), Recorder(busy=True)
    signals.addHandler(SIGHUP, got)
    signals.deliver(SigInfo.make(SIGHUP))
    closed = signals.close()
    with pytest.raises(SignalNotWatched):
        signals.deliver(SigInfo.make(SIGHUP))
    assert signals.watching == {SIGHUP}
    assert not closed.called
    got.out[0].callback(None)
    assert closed.called
    assert not signals.watching
    with pytest.raises(DispatcherClosed):
        signals.watch(SIGHUP)


def test_twoInstancesMayWatchTheSameSignal() -> None:
    first, second = MemorySignals(), MemorySignals()
    got = Recorder(), Recorder()
    first.addHandler(SIGHUP, got[0])
    second.addHandler(SIGHUP, got[1])
    second.deliver(SigInfo.make(SIGHUP))
    assert [len(each.infos) for each in got] == [0, 1]


def test_theProcessStaysAsItIs() -> None:
    """
    It works in any thread, and the kernel watches nothing.
    """

    def state() -> object:
        with open("/proc/self/status", encoding="ascii") as status:
            # SigQ counts the signals of all processes of the user.
            lines = [line for line in status if re.match("Sig(?!Q)|ShdPnd", line)]
        handlers = [signal.getsignal(signo) for signo in signal.Signals]
        return lines, handlers, os.listdir("/proc/self/fd")

    got = Recorder()

    def run() -> None:
        before = state()
        signals = MemorySignals()
        signals.addHandler(SIGTERM, got)
        signals.addHandler(SIGCHLD, got)
        assert state() == before
        with signals.hold():
            signals.deliver(
                SigInfo.make(SIGTERM),
                SigInfo.make(SIGCHLD, "CLD_EXITED", pid=42, status=3),
            )
            assert not got.infos
        signals.close()

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(DEADLINE)
    _, ended = got.infos
    assert ended.child
    assert (ended.child.pid, ended.child.exitCode) == (42, 3)


def test_dispatcherForReturnsIt() -> None:
    """
    A service uses it, and stops its reactor.
    """

    class Reactor(MemoryReactorClock):
        def sigTerm(self, number: int) -> None:
            stopped.append(number)

        sigInt = sigTerm

    stopped: list[int] = []
    reactor = Reactor()
    signals, got = MemorySignals(reactor), Recorder()
    assert dispatcherFor(reactor) is signals
    with pytest.raises(RuntimeError, match=r"has .*MemorySignals.* already"):
        MemorySignals(reactor)
    service = SignalService({SIGHUP: got}, reapChildren=False, reactor=reactor)
    service.startService()
    signals.deliver(SigInfo.make(SIGHUP), SigInfo.make(SIGTERM))
    assert len(got.infos) == 1
    assert stopped == [SIGTERM]
    signals.close()
    assert not signals.watching
    other = dispatcherFor(reactor)
    assert other is not signals
    other.close()


@pytest.mark.parametrize("makeReactor", [Clock, MemoryReactorClock])
def test_aServiceStartsAndStopsWithoutARunningReactor(makeReactor: Any) -> None:
    """
    Its reaper gets the ends of children from the test, too.
    """
    reactor = makeReactor()
    signals, got = MemorySignals(reactor), Recorder()
    service = SignalService({SIGHUP: got}, reactor=reactor)
    service.startService()
    signals.deliver(
        SigInfo.make(SIGHUP), SigInfo.make(SIGCHLD, "CLD_EXITED", pid=2**22)
    )
    assert len(got.infos) == 1
    service.stopService()
    assert not signals.watching
    signals.close()


@pytest.mark.parametrize("signo", [SIGINT, SIGTERM])
def test_aServiceStopsATestReactor(signo: int) -> None:
    """
    Twisted's MemoryReactor has only C{stop}, neither C{sigInt} nor C{sigTerm}.
    """
    reactor = MemoryReactorClock()
    signals = MemorySignals(reactor)
    service = SignalService(reapChildren=False, reactor=reactor)
    service.startService()
    signals.deliver(SigInfo.make(signo))
    assert reactor.hasStopped
    service.stopService()
    signals.close()


def test_itHasAClockOfItsOwn() -> None:
    signals = MemorySignals()
    assert isinstance(signals.reactor, Clock)
    signals.watch(SIGHUP)
    assert str(signals.describe().backend) == "received by the backend memory"
    assert signals.close().called


@pytest.mark.skipif(
    not EXAMPLES.exists(), reason="the tests run without a checkout, and its examples"
)
def test_theExampleOfAUnitTest(tmp_path: Path) -> None:
    """
    It passes, and fails when the program is wrong.
    """
    source = (EXAMPLES / "unit_test.py").read_text()
    for wrong, right in (("", ""), ("Overlap.QUEUE", "Overlap.MERGE")):
        example = tmp_path / "unit_test.py"
        example.write_text(source.replace(right, wrong) if right else source)
        result = runPython("-B", "-m", "unittest", "unit_test", cwd=tmp_path)
        assert "Ran 3 tests" in result.stderr
        assert (result.returncode == 0) == (not wrong), result.stderr
