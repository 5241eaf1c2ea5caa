"""
L{Daemon} in a reactor of its own; C{test_daemon.py} has the real twistd.
"""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Callable, Coroutine
from contextlib import suppress
from pathlib import Path
from signal import SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2
from typing import Any, cast

import pytest
from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.logger import LogEvent, LogLevel, formatEvent

from tests.support.generations import ServiceFactory
from tests.support.kernel import forge
from tests.support.reactors import DEADLINE, newReactor, turn, until
from tests.support.worlds import needsLinux
from txsignalfd import ReloadService, SignalService
from txsignalfd._native.extension import lib
from txsignalfd._twistd import daemon
from txsignalfd._twistd.actions import parseOn
from txsignalfd._twistd.daemon import Daemon
from txsignalfd._twistd.startup import StartupSignal
from txsignalfd._twistd.systemd import Notifier

Story = Callable[[Any, Any, Any], Coroutine[Any, Any, None]]


pytestmark = pytest.mark.usefixtures("withoutRest")


def told(
    story: Story,
    *on: str,
    factory: Callable[[Any], Any] = ServiceFactory,
    foreground: bool = True,
    environ: dict[str, str] | None = None,
) -> Any:
    """
    Tell a story of a daemon that a signal ends; the story need not come to its
    own end.

    @return: The reactor, which has stopped.
    """
    with newReactor() as reactor:
        made = factory(reactor)
        reloads = ReloadService(made, reactor=reactor)
        notifier = Notifier(reactor, environ or {})
        actions = dict(map(parseOn, on))
        service = Daemon(reloads, actions, foreground, notifier, reactor)
        service.privilegedStartService()
        service.startService()
        reactor.addSystemEventTrigger("before", "shutdown", service.stopService)
        raised: list[Any] = []

        def begin() -> None:
            telling = Deferred.fromCoroutine(story(reactor, made, reloads))
            telling.addErrback(failed)

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
        # It lets the process come to its end, which ours does not.
        cast(StartupSignal, vars(daemon)["hangup"]).restore()
        # There is nothing to tell, unless it could not start.
        if not service._failed:
            service.exit()
        if raised:
            raise raised[0]
        return reactor


def me(signo: int) -> None:
    """
    Send ourselves a signal.
    """
    os.kill(os.getpid(), signo)


def texts(logged: list[LogEvent]) -> list[str]:
    """
    What the log says.
    """
    return [str(formatEvent(event)) for event in logged]


@pytest.mark.parametrize("signo", [SIGTERM, SIGINT])
def test_aSignalStopsItWhenConnectionsHaveEnded(
    signo: int, logged: list[LogEvent]
) -> None:
    """
    And it is that signal which twistd exits by.
    """

    async def story(reactor: Any, made: Any, reloads: Any) -> None:
        client = await made.connect()
        assert await client.line() == b"1"
        me(signo)
        await until(reactor, lambda: not reloads.running)
        me(SIGTERM if signo == SIGINT else SIGINT)
        assert await client.ask(b"still") == b"still"
        await client.end()

    reactor = told(story)
    assert reactor._exitSignal == signo
    assert any("already stopping" in text for text in texts(logged))
    assert any(text.endswith(": stopping") for text in texts(logged))


@pytest.mark.parametrize("signals", [(SIGTERM, SIGTERM), (SIGQUIT,), (SIGINT, SIGQUIT)])
def test_itStopsAtOnce(signals: tuple[int, ...], logged: list[LogEvent]) -> None:
    """
    For a second signal of the same number, and for SIGQUIT at any time.
    """

    async def story(reactor: Any, made: Any, reloads: Any) -> None:
        client = await made.connect()
        assert await client.line() == b"1"
        for signo in signals:
            me(signo)
            await turn(reactor)
        await until(reactor, lambda: client.lost)

    reactor = told(story)
    assert reactor._exitSignal == signals[0]
    assert any("stopping at once" in text for text in texts(logged))


def test_whatStopsForAnotherReasonASignalStopsAtOnce() -> None:
    """
    When the program itself has stopped the reactor.
    """

    async def story(reactor: Any, made: Any, reloads: Any) -> None:
        client = await made.connect()
        assert await client.line() == b"1"
        reactor.stop()
        await until(reactor, lambda: not reloads.running)
        me(SIGTERM)
        await until(reactor, lambda: client.lost)

    assert told(story)._exitSignal is None


def test_theOtherSignalsDoWhatTheyShould(logged: list[LogEvent]) -> None:
    """
    Reload, rotate, report; and what the user has told them to do.
    """
    calls.clear()

    async def story(reactor: Any, made: Any, reloads: Any) -> None:
        me(SIGHUP)
        await until(reactor, lambda: len(made.services) == 2)
        for signo in (SIGUSR1, SIGUSR2, signal.SIGWINCH, signal.SIGURG, signal.SIGIO):
            me(signo)
        me(signal.SIGALRM)
        await until(reactor, lambda: calls)
        for text in ("exited with status 3", "echo well: well"):
            await until(reactor, lambda: text in "\n".join(texts(logged)))  # noqa: B023
        me(SIGTERM)

    told(
        story,
        "WINCH=ignore",
        f"URG=call:{__name__}.called",
        "IO=run:echo out; echo err >&2; exit 3",
        "ALRM=run:echo well",
    )
    text = "\n".join(texts(logged))
    assert "SIGHUP=reload, SIGINT=stop, SIGQUIT=quit" in text
    assert f"SIGURG=call:{__name__}.called" in text
    assert "rotating the log" in text
    assert "generation 2 serves" in text
    assert "echo out; echo err >&2; exit 3: out" in text
    assert "echo out; echo err >&2; exit 3: err" in text
    assert "SIGWINCH from pid" in text


def test_aCommandIsOverWhenItsShellIs(tmp_path: Path, logged: list[LogEvent]) -> None:
    """
    What it leaves in the background holds back no later one, and its output
    still goes to the log; and so does the end of one that a signal has ended.
    """
    go = tmp_path / "go"
    left = f"until test -e {go}; do sleep 0.01; done; printf gone"
    counts: list[int] = []

    async def story(reactor: Any, made: Any, reloads: Any) -> None:
        counts.append(len(reactor.getReaders()))
        me(signal.SIGIO)
        me(signal.SIGWINCH)
        try:
            for count in (1, 2):
                me(signal.SIGRTMIN)
                await until(
                    reactor,
                    lambda: texts(logged).count(f"({left}) & echo left: left") == count,  # noqa: B023
                )
        finally:
            go.touch()
            # What is left has ended, and its pipes are closed.
            await until(reactor, lambda: len(reactor.getReaders()) == counts[0])
        await until(reactor, lambda: "echo out; kill -9 $$ was killed by" in text())
        await until(reactor, lambda: "cat: read nothing" in text())
        me(SIGTERM)

    def text() -> str:
        return "\n".join(texts(logged))

    told(
        story,
        f"RTMIN=run:({left}) & echo left",
        "IO=run:echo out; kill -9 $$",
        "WINCH=run:cat; echo cat: read nothing",
    )
    assert text().count(f"({left}) & echo left: gone") == 2
    assert "echo out; kill -9 $$: out" in text()
    assert "echo out; kill -9 $$ was killed by SIGKILL" in text()


calls: list[Any] = []


def called(info: Any) -> None:
    """
    What C{call:} calls.
    """
    calls.append(info)


@pytest.mark.parametrize("asked", [False, True])
def test_aTerminalThatClosesStopsIt(asked: bool, logged: list[LogEvent]) -> None:
    """
    For then it is the kernel that sends SIGHUP; unless the user wants another
    thing.
    """

    async def story(reactor: Any, made: Any, reloads: Any) -> None:
        forge(SIGHUP, 0x80)
        if asked:
            await until(reactor, lambda: len(made.services) == 2)
            me(SIGTERM)

    reactor = told(story, *(["HUP=reload"] if asked else []))
    assert reactor._exitSignal == (SIGTERM if asked else SIGHUP)


@pytest.mark.parametrize(
    ("terminal", "leader", "stops"),
    [
        ([True, False], True, True),
        ([True, False], False, False),
        ([True, True], True, False),
        ([False], True, False),
    ],
)
def test_aShellWhoseTerminalHasClosedStopsIt(
    terminal: list[bool], leader: bool, stops: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    And nobody else does, nor a shell that still has one, or never had.
    """
    monkeypatch.setattr(daemon, "hasTerminal", iter(terminal).__next__)
    session = os.getpid() if leader else os.getppid()
    monkeypatch.setattr(os, "getsid", lambda pid: session)

    async def story(reactor: Any, made: Any, reloads: Any) -> None:
        me(SIGHUP)
        if not stops:
            await until(reactor, lambda: len(made.services) == 2)
            me(SIGTERM)

    assert told(story)._exitSignal == (SIGHUP if stops else SIGTERM)


def test_asADaemonItHasNoTerminal() -> None:
    """
    And any SIGHUP asks for a reload.
    """

    async def story(reactor: Any, made: Any, reloads: Any) -> None:
        forge(SIGHUP, 0x80)
        await until(reactor, lambda: len(made.services) == 2)
        me(SIGTERM)

    told(story, foreground=False)


@needsLinux
def test_asTheFirstProcessItReapsOrphans(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    Until it ends.  C{test_daemon.py} has a real one.
    """
    monkeypatch.setattr(daemon, "isInit", lambda: True)
    wasSubreaper: list[int] = []

    async def story(reactor: Any, made: Any, reloads: ReloadService) -> None:
        wasSubreaper.append(lib.txs_set_subreaper(1))
        me(SIGTERM)

    told(story)
    assert wasSubreaper == [1]
    assert lib.txs_set_subreaper(0) == 0


@pytest.mark.parametrize("asked", [False, True])
def test_nohupIsRespected(asked: bool) -> None:
    """
    SIGHUP stays ignored, unless it is asked for.
    """

    async def story(reactor: Any, made: Any, reloads: Any) -> None:
        me(SIGHUP)
        me(SIGUSR2)
        await turn(reactor)
        await turn(reactor)
        assert len(made.services) == (2 if asked else 1)
        me(SIGTERM)

    before = signal.signal(SIGHUP, signal.SIG_IGN)
    try:
        told(story, *(["HUP=reload"] if asked else []))
    finally:
        signal.signal(SIGHUP, before)


def test_aSignalThatCameTooEarlyCounts(
    monkeypatch: pytest.MonkeyPatch, logged: list[LogEvent]
) -> None:
    """
    Once the service is up.
    """
    early = StartupSignal(SIGHUP)
    early.defer()
    early.defer()
    me(SIGHUP)
    monkeypatch.setattr(daemon, "hangup", early)

    async def story(reactor: Any, made: Any, reloads: Any) -> None:
        await until(reactor, lambda: len(made.services) == 2)
        me(SIGTERM)

    told(story)
    assert "SIGHUP arrived during startup: handling it now" in texts(logged)
    assert signal.getsignal(SIGHUP) is signal.SIG_DFL


def test_anEarlySignalIsGivenBack() -> None:
    """
    Where nobody is going to watch it, with one that came.
    """
    early = StartupSignal(signal.SIGURG)
    early.defer()
    me(signal.SIGURG)
    early.restore()
    early.restore()
    assert signal.getsignal(signal.SIGURG) is signal.SIG_DFL


def test_aServiceThatCannotListenLeavesNothing() -> None:
    """
    The signals are as they were.
    """

    def explode() -> Any:
        raise ZeroDivisionError

    with newReactor() as reactor:
        reloads = ReloadService(explode, reactor=reactor)
        service = Daemon(reloads, {}, True, Notifier(reactor, {}), reactor)
        with pytest.raises(ZeroDivisionError):
            service.privilegedStartService()
        reactor.runUntilCurrent()


def test_aDaemonThatCannotStartDoesNotStay(logged: list[LogEvent]) -> None:
    """
    When that turns out after it seemed to have started.
    """

    class Failing(Service):
        def startService(self) -> Any:
            return self.deferred

        deferred: Deferred[None]

    def factory(reactor: Any) -> Any:
        Failing.deferred = Deferred()
        reactor.callWhenRunning(Failing.deferred.errback, ZeroDivisionError("no"))
        return Failing

    async def story(reactor: Any, made: Any, reloads: Any) -> None:
        await until(reactor, lambda: False)

    told(story, factory=factory)
    assert any("the service could not start" in text for text in texts(logged))


def test_whatIsStoppedWhileItStartsHasNotFailed() -> None:
    """
    It ends by the signal.
    """

    class Slow(Service):
        def startService(self) -> Any:
            return Deferred()

    async def story(reactor: Any, made: Any, reloads: Any) -> None:
        me(SIGTERM)

    assert told(story, factory=lambda reactor: Slow)._exitSignal == SIGTERM


def test_systemdIsTold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    Of a start, reloads whatever comes of them, and a stop that takes its time.
    """
    monkeypatch.setattr(daemon, "EXTEND", 0.01)
    path = str(tmp_path / "notify")
    messages: list[str] = []

    async def story(reactor: Any, made: Any, reloads: Any) -> None:
        await reloads.reload()
        reloads._generations._factory = lambda: 1 / 0
        me(SIGHUP)
        await turn(reactor)
        client = await made.connect()
        me(SIGTERM)
        await until(reactor, lambda: not reloads.running)
        await until(reactor, lambda: receive().count("EXTEND_TIMEOUT_USEC") > 1)
        await client.end()

    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(path)
        systemd.setblocking(False)

        def receive() -> str:
            try:
                while True:
                    messages.append(systemd.recv(4096).decode())
            except BlockingIOError:
                return "\n".join(messages)

        told(story, environ={"NOTIFY_SOCKET": path})
        receive()
    heads = [message.partition("=")[0] for message in messages]
    assert heads[:6] == [
        "READY",
        "RELOADING",
        "READY",
        "RELOADING",
        "READY",
        "STOPPING",
    ]
    assert "STATUS=generation 2 serves" in messages[2]
    assert "STATUS=not reloaded" in messages[4]
    assert "division by zero" in messages[4]


def test_systemdIsAskedForTimeWhileAReloadStopsFirst(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    For open connections come to their end before the new service is made.
    """
    monkeypatch.setattr(daemon, "EXTEND", 0.01)
    path = str(tmp_path / "notify")
    messages: list[str] = []

    async def story(reactor: Any, made: Any, reloads: Any) -> None:
        reloads.stopFirst = reloads._generations._stopFirst = True
        client = await made.connect()
        await client.line()
        me(SIGHUP)
        await until(reactor, lambda: receive().count("EXTEND_TIMEOUT_USEC") > 1)
        await client.end()
        await until(reactor, lambda: "STATUS=generation 2 serves" in receive())
        assert not any("_extend" in str(call) for call in reactor.getDelayedCalls())
        me(SIGTERM)

    def receive() -> str:
        with suppress(BlockingIOError):
            while True:
                messages.append(systemd.recv(4096).decode())
        return "\n".join(messages)

    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(path)
        systemd.setblocking(False)
        told(story, environ={"NOTIFY_SOCKET": path})
    heads = [message.partition("=")[0] for message in messages]
    assert heads[:3] == ["READY", "RELOADING", "EXTEND_TIMEOUT_USEC"]


def test_aServiceWithSignalsOfItsOwnStopsWithIt(logged: list[LogEvent]) -> None:
    """
    Which stops on SIGTERM, too: the reactor is told once.
    """

    async def story(reactor: Any, made: Any, reloads: ReloadService) -> None:
        me(SIGTERM)

    told(story, factory=lambda reactor: lambda: SignalService(reactor=reactor))
    lines = texts(logged)
    assert sum(line.endswith("already stopping") for line in lines) == 1
    assert not any(event["log_level"] is LogLevel.critical for event in logged)


class Stuck(Service):
    """
    Never comes to its end.
    """

    def stopService(self) -> Deferred[None]:
        super().stopService()
        return Deferred()


def test_systemdMayEndWhatDoesNotStop(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    No more time is asked for when that of the connections is over.
    """
    monkeypatch.setattr(daemon, "EXTEND", 0.01)
    monkeypatch.setattr(daemon, "FLUSH", 0.0)

    async def story(reactor: Any, made: Any, reloads: ReloadService) -> None:
        def extending() -> bool:
            return any("_extend" in str(call) for call in reactor.getDelayedCalls())

        reloads.stopTimeout = 0.1
        me(SIGTERM)
        await until(reactor, extending)
        await until(reactor, lambda: not extending())
        reloads.cut()

    told(story, factory=lambda _: Stuck)
