"""
L{Daemon} in a reactor of the test; C{test_daemon.py} runs a real twistd.
"""

from __future__ import annotations

import os
import signal
import struct
from collections.abc import Callable, Coroutine
from pathlib import Path
from signal import SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGTTIN, SIGUSR1
from time import monotonic
from typing import Any, cast

import pytest
from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.logger import (
    ILogObserver,
    LogEvent,
    LogLevel,
    formatEvent,
    globalLogPublisher,
)

from tests.support.daemons import childrenOf
from tests.support.generations import ServiceFactory
from tests.support.kernel import forge
from tests.support.observers import Logged
from tests.support.reactors import DEADLINE, currentReactor, newReactor, turn, until
from tests.support.servicemanager import listening
from tests.support.worlds import needsLinux
from txsignalfd import ReloadService, SignalService
from txsignalfd._native.extension import lib
from txsignalfd._native.names import CODES
from txsignalfd._twistd import daemon, startup
from txsignalfd._twistd.actions import DEFAULTS, REPEAT, Action, parseOn
from txsignalfd._twistd.daemon import Daemon
from txsignalfd._twistd.notstarted import NotStarted
from txsignalfd._twistd.startup import StartupSignals
from txsignalfd._twistd.systemd import Notifier
from txsignalfd.siginfo import SigInfo

SI_USER, SI_QUEUE, SI_KERNEL = 0, -1, 0x80

Test = Callable[[Any, Any], Coroutine[Any, Any, None]]


pytestmark = pytest.mark.usefixtures("withoutPause")


def runDaemon(
    test: Test,
    *on: str,
    factory: Callable[[], Any] = ServiceFactory,
    foreground: bool = True,
    environ: dict[str, str] | None = None,
) -> Any:
    """
    Run a coroutine beside a daemon, until a signal stops the daemon.

    The coroutine need not finish.

    @return: The reactor, which has stopped.
    """
    with newReactor() as reactor:
        made = factory()
        reloads = ReloadService(made, reactor=reactor)
        notifier = Notifier(reactor, environ or {})
        actions = dict(map(parseOn, on))
        service = Daemon(reloads, actions, foreground, notifier, reactor)
        service.privilegedStartService()
        service.startService()
        reactor.addSystemEventTrigger("before", "shutdown", service.stopService)
        raised: list[Any] = []

        def begin() -> None:
            Deferred.fromCoroutine(test(made, reloads)).addErrback(failed)

        def failed(failure: Any) -> None:
            raised.append(failure.value)
            if reactor.running:
                reloads.cut()
                reactor.stop()

        def expired() -> None:
            raised.append(AssertionError("the deadline has passed"))
            reloads.cut()
            reactor.stop()

        reactor.callWhenRunning(begin)
        deadline = reactor.callLater(DEADLINE, expired)
        reactor.run(installSignalHandlers=False)
        if deadline.active():
            deadline.cancel()
        # The daemon defers some signals until the end of the process.
        cast(StartupSignals, vars(daemon)["startupSignals"]).restore()
        # This returns if the service has started.
        if not service.failed:
            service.exit()
        if raised:
            raise raised[0]
        return reactor


def me(signo: int) -> None:
    """
    Send a signal to this process.
    """
    os.kill(os.getpid(), signo)


@pytest.mark.parametrize("signals", [(SIGTERM, SIGTERM), (SIGQUIT,), (SIGINT, SIGQUIT)])
def test_aLaterSecondSignalOrSigquitStopsItAtOnce(
    signals: tuple[int, ...], logged: Logged, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(daemon, "REPEAT", 0)

    async def test(made: Any, reloads: Any) -> None:
        client = await made.connect()
        assert await client.line() == b"1"
        for signo in signals:
            me(signo)
            await until(lambda: not reloads.running)
            await turn()
            await turn()
        await until(lambda: client.lost)

    reactor = runDaemon(test)
    assert reactor._exitSignal == signals[0]
    assert logged.contains("stopping at once")


@pytest.mark.parametrize("code", [SI_USER, SI_QUEUE, SI_KERNEL - 256])
@pytest.mark.parametrize("slow", [False, True])
def test_aRepeatedSignalIsTheSameRequest(
    code: int, slow: bool, logged: Logged, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    Within half a second, from any sender, and also if the daemon is busy for longer
    when it begins to stop.
    """

    async def test(made: Any, reloads: Any) -> None:
        client = await made.connect()
        assert await client.line() == b"1"
        stop = reloads.stopService

        def stopService() -> Any:
            if slow:
                forge(SIGTERM, code)
                monkeypatch.setattr(daemon, "monotonic", lambda: monotonic() + 1)
            return stop()

        monkeypatch.setattr(reloads, "stopService", stopService)
        me(SIGTERM)
        await until(lambda: not reloads.running)
        if not slow:
            forge(SIGTERM, code)
        assert await client.ask(b"still") == b"still"
        await client.end()

    assert runDaemon(test)._exitSignal == SIGTERM
    assert logged.contains("already stopping")


def test_theTimeOfARepetitionBeginsBeforeTheLogLine(
    logged: Logged, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    However long it takes to write the line: a second signal that is sent half a second
    after the line stops the daemon at once.
    """

    def slowly(event: LogEvent) -> None:
        if str(formatEvent(event)).endswith(": stopping"):
            monkeypatch.setattr(daemon, "monotonic", lambda: monotonic() + REPEAT)

    async def test(made: Any, reloads: Any) -> None:
        client = await made.connect()
        assert await client.line() == b"1"
        me(SIGTERM)
        await until(lambda: not reloads.running)
        await turn()
        await turn()
        me(SIGTERM)
        await until(lambda: client.lost)

    observer = cast(ILogObserver, slowly)
    globalLogPublisher.addObserver(observer)
    try:
        runDaemon(test)
    finally:
        globalLogPublisher.removeObserver(observer)
    assert any(text.endswith("stopping at once") for text in logged.texts)


def test_theHangupOfAShellAndItsTerminalIsOneRequest(
    monkeypatch: pytest.MonkeyPatch, logged: Logged
) -> None:
    """
    The shell sends SIGHUP, and the kernel does when the shell ends, at any time.
    """
    monkeypatch.setattr(daemon, "REPEAT", 0)
    monkeypatch.setattr(daemon, "hasTerminal", iter([True, False]).__next__)
    monkeypatch.setattr(os, "getsid", lambda pid: os.getpid())

    async def test(made: Any, reloads: Any) -> None:
        client = await made.connect()
        assert await client.line() == b"1"
        me(SIGHUP)
        await until(lambda: not reloads.running)
        await turn()
        await turn()
        forge(SIGHUP, SI_KERNEL)
        assert await client.ask(b"still") == b"still"
        await client.end()

    assert runDaemon(test)._exitSignal == SIGHUP
    assert logged.contains("already stopping")


def test_pressingTwiceStopsItAtOnce() -> None:
    """
    Only the kernel sends such a signal, when ^C is pressed at a terminal.
    """

    async def test(made: Any, reloads: Any) -> None:
        client = await made.connect()
        assert await client.line() == b"1"
        for _ in range(2):
            forge(SIGINT, SI_KERNEL)
            await turn()
        await until(lambda: client.lost)

    assert runDaemon(test)._exitSignal == SIGINT


def test_aSignalEndsAStopThatTheProgramBegan(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(daemon, "REPEAT", 0)

    async def test(made: Any, reloads: Any) -> None:
        client = await made.connect()
        assert await client.line() == b"1"
        currentReactor().stop()
        await until(lambda: not reloads.running)
        await turn()
        await turn()
        me(SIGTERM)
        await until(lambda: client.lost)

    assert runDaemon(test)._exitSignal is None


def test_aCommandEndsWithItsShell(tmp_path: Path, logged: Logged) -> None:
    """
    A process that it leaves in the background does not delay the next command,
    and its output is logged.  A shell that was killed is logged too.
    """
    go = tmp_path / "go"
    left = f"until test -e {go}; do sleep 0.01; done; printf gone"
    line = f"({left}) & echo left: left"
    counts: list[int] = []

    async def test(made: Any, reloads: Any) -> None:
        counts.append(len(currentReactor().getReaders()))
        me(signal.SIGIO)
        me(signal.SIGWINCH)
        try:
            for count in (1, 2):
                me(signal.SIGRTMIN)
                await until(lambda: logged.texts.count(line) == count)  # noqa: B023
        finally:
            go.touch()
            # The background processes have ended, and their pipes are closed.
            await until(lambda: len(currentReactor().getReaders()) == counts[0])
        await until(lambda: "echo out; kill -9 $$ was killed by" in text())
        await until(lambda: "cat: read nothing" in text())
        await until(lambda: not childrenOf(os.getpid()))
        me(SIGTERM)

    def text() -> str:
        return "\n".join(logged.texts)

    runDaemon(
        test,
        f"RTMIN=run:({left}) & echo left",
        "IO=run:echo out; kill -9 $$",
        "WINCH=run:cat; echo cat: read nothing",
    )
    assert text().count(f"({left}) & echo left: gone") == 2
    assert "echo out; kill -9 $$: out" in text()
    assert "echo out; kill -9 $$ was killed by SIGKILL" in text()


def test_theHangupOfATerminalReloadsIfOnSaysSo() -> None:
    """
    The kernel sends this SIGHUP.
    """

    async def test(made: Any, reloads: Any) -> None:
        forge(SIGHUP, SI_KERNEL)
        await until(lambda: len(made.services) == 2)
        me(SIGTERM)

    assert runDaemon(test, "HUP=reload")._exitSignal == SIGTERM


@pytest.mark.parametrize(
    ("terminal", "leader", "stops"),
    [
        ([True, False], True, True),
        ([True, False], False, False),
        ([True, True], True, False),
        ([False], True, False),
    ],
)
def test_theShellOfAClosedTerminalStopsIt(
    terminal: list[bool], leader: bool, stops: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    Another process, or a shell whose terminal is open, reloads it.
    """
    monkeypatch.setattr(daemon, "hasTerminal", iter(terminal).__next__)
    session = os.getpid() if leader else os.getppid()
    monkeypatch.setattr(os, "getsid", lambda pid: session)

    async def test(made: Any, reloads: Any) -> None:
        me(SIGHUP)
        if not stops:
            await until(lambda: len(made.services) == 2)
            me(SIGTERM)

    assert runDaemon(test)._exitSignal == (SIGHUP if stops else SIGTERM)


@pytest.mark.parametrize("code", [SI_QUEUE, SI_KERNEL - 256, -(2**31)])
def test_aForgedHangupReloadsIt(code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    It may claim to come from the shell of a terminal that has closed.
    """
    monkeypatch.setattr(daemon, "hasTerminal", iter([True, False]).__next__)
    monkeypatch.setattr(os, "getsid", lambda pid: os.getpid())

    async def test(made: Any, reloads: Any) -> None:
        forge(SIGHUP, code, struct.pack("=ii", os.getpid(), 0))
        await until(lambda: len(made.services) == 2)
        me(SIGTERM)

    assert runDaemon(test)._exitSignal == SIGTERM


def test_aForgedSigpipeRunsItsCommand(logged: Logged) -> None:
    """
    Only a SIGPIPE that this process has caused does not.
    """

    async def test(made: Any, reloads: Any) -> None:
        forge(signal.SIGPIPE, SI_QUEUE, struct.pack("=ii", os.getpid(), 0))
        await until(lambda: "exit 3 exited with status 3" in logged.texts)
        me(SIGTERM)

    runDaemon(test, "PIPE=run:exit 3")


def test_everyHangupReloadsABackgroundDaemon() -> None:

    async def test(made: Any, reloads: Any) -> None:
        forge(SIGHUP, 0x80)
        await until(lambda: len(made.services) == 2)
        me(SIGTERM)

    runDaemon(test, foreground=False)


@needsLinux
def test_theFirstProcessReapsOrphans(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    C{test_daemon.py} tests it in a real pid namespace.
    """
    monkeypatch.setattr(daemon, "isInit", lambda: True)
    wasSubreaper: list[int] = []

    async def test(made: Any, reloads: ReloadService) -> None:
        wasSubreaper.append(lib.txs_set_subreaper(1))
        me(SIGTERM)

    runDaemon(test)
    assert wasSubreaper == [1]
    assert lib.txs_set_subreaper(0) == 0


def test_aHandlerThatIsInstalledDuringStartupIsRestored(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    signals = StartupSignals()
    signals.defer(DEFAULTS)
    received: list[int] = []
    signal.signal(SIGHUP, lambda signo, frame: received.append(signo))
    monkeypatch.setattr(daemon, "startupSignals", signals)

    async def test(made: Any, reloads: Any) -> None:
        me(SIGHUP)
        await until(lambda: len(made.services) == 2)
        me(SIGTERM)

    try:
        runDaemon(test)
        me(SIGHUP)
    finally:
        signal.signal(SIGHUP, signal.SIG_DFL)
    assert received == [SIGHUP]


def test_aDeferredSignalIsSentWhenItIsRestored() -> None:
    signals = StartupSignals()
    signals.defer({signal.SIGURG: Action("report")})
    me(signal.SIGURG)
    signals.restore()
    signals.restore()
    assert signal.getsignal(signal.SIGURG) is signal.SIG_DFL


@pytest.mark.parametrize("pause", [0, REPEAT + 1])
def test_aStopOfTheFirstProcessIsDeferredOnce(
    pause: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    If it is repeated, after half a second, a start that hangs ends.
    """
    monkeypatch.setattr(startup, "isInit", lambda: True)
    statuses: list[int] = []
    monkeypatch.setattr(os, "_exit", statuses.append)
    signals = StartupSignals()
    signals.defer({signal.SIGURG: Action("stop")})
    me(signal.SIGURG)
    monkeypatch.setattr(startup, "monotonic", lambda: monotonic() + pause)
    me(signal.SIGURG)
    assert statuses == ([128 + signal.SIGURG] if pause else [])
    signals.restore()


@pytest.mark.parametrize("name", ["stop", "quit", "leave"])
def test_aSignalThatStopsIsNotDeferred(name: str) -> None:
    """
    Nor is a signal that is left to the program, or one of children.
    """
    signals = StartupSignals()
    signals.defer({SIGUSR1: Action("report"), signal.SIGCHLD: Action("report")})
    signals.defer({SIGUSR1: Action(name)})
    assert signal.getsignal(SIGUSR1) is signal.SIG_DFL
    assert signal.getsignal(signal.SIGCHLD) is signal.SIG_DFL


def test_signalsAreReleasedIfTheServiceCannotListen() -> None:

    def explode() -> Any:
        raise ZeroDivisionError

    with newReactor() as reactor:
        reloads = ReloadService(explode, reactor=reactor)
        service = Daemon(reloads, {}, True, Notifier(reactor, {}), reactor)
        with pytest.raises(NotStarted, match="ZeroDivisionError"):
            service.privilegedStartService()
        reactor.runUntilCurrent()


@pytest.mark.parametrize("debug", [False, True])
def test_aReasonThatIsLoggedIsNotLoggedAgain(debug: bool, logged: Logged) -> None:
    """
    C{startService} raises, and its failure is known to the L{ReloadService}.
    """

    class Failing(Service):
        def startService(self) -> None:
            raise ZeroDivisionError("no")

    with newReactor() as reactor:
        reloads = ReloadService(Failing, reactor=reactor)
        service = Daemon(reloads, {}, True, Notifier(reactor, {}), reactor)
        service.debug = debug
        service.privilegedStartService()
        with pytest.raises(NotStarted, match="ZeroDivisionError: no") as raised:
            service.startService()
        assert (raised.value.__cause__ is not None) == debug
        service._signals.stopService()
        for call in reactor.getDelayedCalls():
            call.cancel()
    assert logged.texts.count("not started: ZeroDivisionError: no") == 1


def test_aStopDuringAStartIsNoFailure() -> None:
    """
    The daemon ends by the signal.
    """

    class Slow(Service):
        def startService(self) -> Any:
            return Deferred()

    async def test(made: Any, reloads: Any) -> None:
        me(SIGTERM)

    assert runDaemon(test, factory=lambda: Slow)._exitSignal == SIGTERM


def isExtending() -> bool:
    """
    Whether systemd will be asked for more time.
    """
    return any("_extend" in str(call) for call in currentReactor().getDelayedCalls())


def test_aReloadThatStopsFirstHasMoreTime(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    Systemd extends the timeout while connections drain before the new start.
    """
    monkeypatch.setattr(daemon, "EXTEND", 0.01)
    messages: list[dict[str, str]] = []

    async def test(made: Any, reloads: Any) -> None:
        reloads.stopFirst = reloads._generations._stopFirst = True
        client = await made.connect()
        await client.line()
        me(SIGHUP)
        await until(lambda: heads().count("EXTEND_TIMEOUT_USEC") > 1)
        await client.end()
        await until(lambda: heads() and {"READY": "1", "STATUS": second} in messages)
        assert not isExtending()
        me(SIGTERM)

    second = "generation 2 serves"

    def heads() -> list[str]:
        messages.extend(systemd.readAll())
        return [next(iter(message)) for message in messages]

    with listening(str(tmp_path / "notify")) as systemd:
        runDaemon(test, environ=systemd.environ)
        assert heads()[:3] == ["READY", "RELOADING", "EXTEND_TIMEOUT_USEC"]


def test_aServiceThatDoesNotStopIsWaitedFor(
    monkeypatch: pytest.MonkeyPatch, logged: Logged
) -> None:
    """
    The log says so, and the same signal again ends that.
    """
    monkeypatch.setattr(daemon, "REPEAT", 0)
    monkeypatch.setattr(daemon, "FLUSH", 0)
    never: Deferred[None] = Deferred()

    class Unstoppable(Service):
        def stopService(self) -> Any:
            return never

    async def test(made: Any, reloads: ReloadService) -> None:
        reloads.stopTimeout = 0
        me(SIGTERM)
        await until(lambda: logged.contains(waiting))
        # What arrives in the turn after the stop is the same request.
        while not logged.contains("stopping at once"):
            me(SIGTERM)
            await turn()

    waiting = "still waiting for it, after --stop-timeout (0 s); the same signal again"
    assert runDaemon(test, factory=lambda: Unstoppable)._exitSignal == SIGTERM


def test_aServiceThatHandlesSigtermStopsTheReactorOnce(
    logged: Logged,
) -> None:

    async def test(made: Any, reloads: ReloadService) -> None:
        me(SIGTERM)

    runDaemon(test, factory=lambda: lambda: SignalService(reactor=currentReactor()))
    signals = [text for text in logged.texts if text.startswith("SIGTERM from")]
    assert [text.rpartition(": ")[2] for text in signals] == [
        "stopping",
        "already stopping",
    ]
    critical = [event for event in logged if event["log_level"] is LogLevel.critical]
    assert Logged(critical).texts == []


class Stuck(Service):
    """
    A service that never stops.
    """

    def stopService(self) -> Deferred[None]:
        super().stopService()
        return Deferred()


def test_systemdMayEndAServiceThatDoesNotStop(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    No more time is requested after C{--stop-timeout}.
    """
    monkeypatch.setattr(daemon, "EXTEND", 0.01)
    monkeypatch.setattr(daemon, "FLUSH", 0.0)

    async def test(made: Any, reloads: ReloadService) -> None:
        reloads.stopTimeout = 0.1
        me(SIGTERM)
        await until(isExtending)
        await until(lambda: not isExtending())
        reloads.cut()

    runDaemon(test, factory=lambda: Stuck)


@pytest.mark.parametrize(
    ("code", "change"), [("SI_USER", [1]), ("SI_KERNEL", [])], ids=["user", "terminal"]
)
def test_aTerminalDoesNotAddWorkers(code: str, change: list[int]) -> None:
    """
    It sends SIGTTIN to a background job that reads from it.
    """
    changes: list[int] = []

    class Counting:
        def resize(self, change: int) -> None:
            changes.append(change)

    with newReactor() as reactor:
        reloads = ReloadService(Service, reactor=reactor)
        made = Daemon(reloads, {}, True, Notifier(reactor, {}), reactor)
        made.supervisor = cast(Any, Counting())
        made._resize(1, SigInfo.make(SIGTTIN, code=CODES[code]))
    assert changes == change
