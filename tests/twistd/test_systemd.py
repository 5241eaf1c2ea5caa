"""
L{Notifier} with real sockets.
"""

from __future__ import annotations

import os
import socket
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.interfaces import IWriteDescriptor
from zope.interface.verify import verifyObject

from tests.support.daemons import adoptingOrphans, endOf, program
from tests.support.descriptorstore import descriptorStore
from tests.support.inreactor import inReactor
from tests.support.observers import Logged
from tests.support.reactors import KINDS, newReactor, runReactor, until
from tests.support.servicemanager import ServiceManager, listening
from txsignalfd._twistd.systemd import Notifier, NotifySocket

OURS = "txsignalfd."


@contextmanager
def notifying(
    reactor: Any, environ: Mapping[str, str], **more: str
) -> Iterator[Notifier]:
    """
    Make a notifier, and close it.
    """
    notifier = Notifier(reactor, {**environ, **more})
    try:
        yield notifier
    finally:
        notifier.close()


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[ServiceManager]:
    """
    A service manager that listens on a path.
    """
    with listening(str(tmp_path / "notify")) as manager:
        yield manager


@pytest.fixture
def idle() -> Iterator[Any]:
    """
    A reactor that does not run.
    """
    with newReactor() as made:
        yield made


@pytest.fixture
def notifier(idle: Any, manager: ServiceManager) -> Iterator[Notifier]:
    """
    A notifier of that manager.
    """
    with notifying(idle, manager.environ) as notifier:
        yield notifier


def test_everyStateIsOneDatagram(notifier: Notifier, manager: ServiceManager) -> None:
    assert notifier.enabled
    notifier.ready()
    notifier.ready("serving 3 ports")
    notifier.status("reloaded in 0.2 s")
    notifier.extendTimeout(2.5)
    notifier.stopping()
    assert manager.readAll() == [
        {"READY": "1"},
        {"READY": "1", "STATUS": "serving 3 ports"},
        {"STATUS": "reloaded in 0.2 s"},
        {"EXTEND_TIMEOUT_USEC": "2500000"},
        {"STOPPING": "1"},
    ]


def test_eachReloadHasItsOwnTime(notifier: Notifier, manager: ServiceManager) -> None:
    """
    RELOADING=1 comes with CLOCK_MONOTONIC in microseconds, in one datagram.
    """
    times = [time.clock_gettime(time.CLOCK_MONOTONIC)]
    for _ in range(2):
        notifier.reloading()
        message = manager.read()
        assert list(message) == ["RELOADING", "MONOTONIC_USEC"]
        times.append(int(message["MONOTONIC_USEC"]) / 1e6)
    times.append(time.clock_gettime(time.CLOCK_MONOTONIC))
    # Fractions of a microsecond are cut.
    assert all(earlier < later + 1e-6 for earlier, later in pairwise(times))


def test_theSocketMayHaveAnAbstractName(idle: Any) -> None:
    """
    "@" stands for the null byte, as for a service manager in a container.
    """
    with listening(f"@txsignalfd-test-{os.getpid()}") as manager:
        with notifying(idle, manager.environ) as notifier:
            notifier.ready()
            assert manager.read() == {"READY": "1"}


def test_withoutAServiceManagerNothingHappens(
    idle: Any, monkeypatch: pytest.MonkeyPatch, logged: Logged
) -> None:
    """
    No socket, no delayed call, no line in the log.
    """
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    monkeypatch.setenv("WATCHDOG_USEC", "1000000")
    before = os.listdir("/proc/self/fd")
    with notifying(idle, {}) as empty:
        for silent in (empty, Notifier(idle)):
            assert not silent.enabled
            assert silent.watchdogInterval is None
            silent.startWatchdog()
            silent.ready("up")
            silent.reloading()
            silent.status("")
            silent.extendTimeout(1)
            silent.stopping()
            silent.stopWatchdog()
        assert os.listdir("/proc/self/fd") == before
    assert not idle.getDelayedCalls()
    assert logged.textsOf(OURS) == []


def test_theEnvironmentIsNotChanged(
    manager: ServiceManager, idle: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    A plugin can still find the socket.
    """
    monkeypatch.setenv("NOTIFY_SOCKET", manager.name)
    monkeypatch.setenv("WATCHDOG_USEC", "1000000")
    before = dict(os.environ)
    notifier = Notifier(idle)
    notifier.ready()
    assert manager.read() == {"READY": "1"}
    notifier.close()
    assert dict(os.environ) == before


@pytest.mark.parametrize(
    ("text", "sent"),
    [
        ("one\ntwo\r\nREADY=1", "one two  READY=1"),
        ("null\0byte", "null byte"),
        ("grün\u2028\x85\x1b[1m", "grün   [1m"),
        ("invalid UTF-8: \udcff", "invalid UTF-8:  "),
        ("x" * 10_000, "x" * 3800),
        ("x" + "ü" * 5_000, "x" + "ü" * 1899),
        ("", ""),
    ],
)
def test_everyStatusIsAValidMessage(
    text: str, sent: str, notifier: Notifier, manager: ServiceManager
) -> None:
    """
    A status cannot add an assignment, nor make systemd ignore the message.
    """
    notifier.ready(text)
    assert manager.read() == {"READY": "1", "STATUS": sent}


@pytest.mark.parametrize("kind", KINDS)
@inReactor
async def test_messagesAreQueuedWhileTheSocketIsFull(
    reactor: Any, kind: str, manager: ServiceManager, logged: Logged
) -> None:
    """
    They are sent in order, and of equal kinds only the last.
    """
    with notifying(reactor, manager.environ) as notifier:
        assert verifyObject(IWriteDescriptor, notifier._socket)
        manager.fill()
        notifier.reloading()
        notifier.status("old")
        notifier.ready()
        for text in ("newer", "newest"):
            notifier.status(text)
        manager.empty()
        await until(manager.hasMessage)
        first, *others = manager.readAll()
        assert list(first) == ["RELOADING", "MONOTONIC_USEC"]
        assert others == [{"READY": "1"}, {"STATUS": "newest"}]
        assert reactor.getWriters() == []
        notifier.ready()
        assert manager.read() == {"READY": "1"}
    full, sent = logged.textsOf(OURS)
    assert full.startswith(f"NOTIFY_SOCKET={manager.name!r}: the socket is full; ")
    assert "[b'RELOADING=1\\nMONOTONIC_USEC=" in full
    assert sent == f"NOTIFY_SOCKET={manager.name!r}: all messages are sent"


@inReactor
async def test_storedDescriptorsWaitToo(reactor: Any, tmp_path: Path) -> None:
    """
    A message that is never sent closes its duplicate.
    """
    with descriptorStore(tmp_path) as store, socket.socket() as stored:
        with notifying(reactor, store.manager.environ) as notifier:
            store.manager.fill()
            notifier.store("first", stored.fileno())
            notifier.store("second", stored.fileno())
            notifier.discard("first")
            store.manager.empty()
            await until(store.manager.hasMessage)
            store.receive()
            assert list(store.stored) == ["second"]
            store.manager.fill()
            notifier.store("never", stored.fileno())


def test_onlyAServiceManagerStoresDescriptors(idle: Any) -> None:
    for environ in ({"FDSTORE": "5"}, {"FDSTORE": "x", "NOTIFY_SOCKET": "/none"}):
        with notifying(idle, environ) as notifier:
            assert notifier.stores == 0
    with notifying(idle, {}) as notifier, socket.socket() as stored:
        notifier.store("nowhere", stored.fileno())


@inReactor
async def test_theQueueMayBeLongerThanTheSocket(
    reactor: Any, manager: ServiceManager
) -> None:
    """
    The reactor waits for room several times.
    """
    with notifying(reactor, manager.environ) as notifier:
        manager.fill()
        for number in range(20):
            notifier._notify({b"X_%d" % number: b"1"})
        found: list[dict[str, str]] = []
        while len(found) < 20:
            await until(manager.hasMessage)
            message = manager.read()
            if message != {"X_FULL": "1"}:
                found.append(message)
        assert found == [{f"X_{number}": "1"} for number in range(20)]


@inReactor
async def test_theManagerMayGoWhileItsSocketIsFull(
    reactor: Any, manager: ServiceManager, logged: Logged
) -> None:
    """
    The reactor does not spin, and the next manager receives the queue.
    """
    with notifying(reactor, manager.environ) as notifier:
        manager.fill()
        notifier.ready()
        manager.socket.close()
        await until(lambda: not reactor.getWriters())
        assert notifier._socket is not None
        assert notifier._socket.fileno() == -1
        os.unlink(manager.name)
        with listening(manager.name) as another:
            notifier.status("here")
            assert another.readAll() == [{"READY": "1"}, {"STATUS": "here"}]
    assert len(logged.textsOf(OURS)) == 2


def test_aRestartedManagerReceivesTheNextMessages(
    notifier: Notifier, manager: ServiceManager, logged: Logged
) -> None:
    notifier.ready()
    os.unlink(manager.name)
    manager.socket.close()
    with listening(manager.name) as another:
        notifier.reloading()
        notifier.ready()
        assert [list(each) for each in another.readAll()] == [
            ["RELOADING", "MONOTONIC_USEC"],
            ["READY"],
        ]
    assert logged.textsOf(OURS) == []


def test_aFailureIsLoggedOnce(idle: Any, tmp_path: Path, logged: Logged) -> None:
    """
    The queue is sent when the manager listens again; at the end the log lists the
    messages that were never sent.
    """
    name = str(tmp_path / "notify")
    with notifying(idle, {"NOTIFY_SOCKET": name}) as notifier:
        notifier.ready()
        notifier.status("up")
        (line,) = logged.textsOf(OURS)
        assert line.startswith(f"NOTIFY_SOCKET={name!r}: No such file or directory; ")
        with listening(name) as manager:
            notifier.status("here")
            assert manager.readAll() == [{"READY": "1"}, {"STATUS": "here"}]
        notifier.stopping()
        notifier.status("down")
    _, sent, refused, never = logged.textsOf(OURS)
    assert sent.endswith("all messages are sent")
    assert "Connection refused; these messages are sent later: [b'STOPP" in refused
    assert never.endswith("never sent: [b'STOPPING=1', b'STATUS=down']")


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("vsock:2:1234", "not the name of an AF_UNIX socket"),
        ("notify", "not the name of an AF_UNIX socket"),
        ("/" + "x" * 200, "AF_UNIX path too long"),
    ],
)
def test_anInvalidSocketNameIsLogged(
    name: str, why: str, idle: Any, logged: Logged
) -> None:
    """
    sd_notify(3) also knows sockets of virtual machines, which are not supported.
    """
    with notifying(idle, {"NOTIFY_SOCKET": name}) as notifier:
        (line,) = logged.textsOf(OURS)
        assert line.startswith(f"NOTIFY_SOCKET={name!r}: {why}; ")
        notifier.ready()
    assert len(logged.textsOf(OURS)) == 2


def test_aSocketIsClosedIfConnectingRaises(
    idle: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fsencode", lambda _: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        NotifySocket(idle, "/notify")


@inReactor
async def test_theWatchdogIsFedTwiceInItsTime(
    reactor: Any, manager: ServiceManager
) -> None:
    """
    A blocked reactor sends nothing.
    """
    environ = {"WATCHDOG_USEC": "200000", "WATCHDOG_PID": str(os.getpid())}
    with notifying(reactor, manager.environ, **environ) as notifier:
        assert notifier.watchdogInterval == 0.1
        notifier.stopWatchdog()
        begin = reactor.seconds()
        notifier.startWatchdog()
        notifier.startWatchdog()
        assert manager.readAll() == [{"WATCHDOG": "1"}]
        # The reactor is blocked meanwhile.
        assert not manager.hasMessage(0.25)
        for _ in range(2):
            await until(manager.hasMessage)
            assert manager.readAll() == [{"WATCHDOG": "1"}]
        assert reactor.seconds() - begin >= 0.3
        notifier.stopWatchdog()
        assert len(reactor.getDelayedCalls()) == 1  # the deadline of the test
        notifier.startWatchdog()
    assert manager.readAll() == [{"WATCHDOG": "1"}]
    assert len(reactor.getDelayedCalls()) == 1


@pytest.mark.parametrize(
    ("environ", "interval", "complains"),
    [
        ({}, None, False),
        ({"WATCHDOG_USEC": "30000000"}, 15.0, False),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"}, None, False),
        ({"WATCHDOG_USEC": "0"}, None, True),
        ({"WATCHDOG_USEC": "-1"}, None, True),
        ({"WATCHDOG_USEC": str(2**64 - 1)}, None, True),
    ],
)
def test_theWatchdogIsReadFromTheEnvironment(
    environ: dict[str, str],
    interval: float | None,
    complains: bool,
    manager: ServiceManager,
    idle: Any,
    logged: Logged,
) -> None:
    """
    As by sd_watchdog_enabled(3): half the time, only for this process.
    """
    with notifying(idle, manager.environ, **environ) as notifier:
        assert notifier.watchdogInterval == interval
        notifier.startWatchdog()
        assert manager.hasMessage() == bool(interval)
    usec = environ.get("WATCHDOG_USEC")
    line = f"no watchdog: WATCHDOG_USEC={usec!r} is not a time"
    assert logged.textsOf(OURS) == [line] * complains


#: A service that forks as twistd does to become a daemon, and changes its root.
DAEMON = """
import os, sys
from twisted.internet import reactor
from txsignalfd._twistd.systemd import Notifier

notifier = Notifier(reactor)
if os.fork():
    os._exit(0)
if sys.argv[1:]:
    os.chroot(sys.argv[1])
reactor.callWhenRunning(notifier.startWatchdog)
reactor.callWhenRunning(notifier.ready)
reactor.callWhenRunning(reactor.stop)
reactor.run()
notifier.stopping()
notifier.close()
"""

asRoot = pytest.mark.skipif(os.geteuid() != 0, reason="chroot(2) is root's")


@pytest.mark.parametrize("root", [[], pytest.param(["."], marks=asRoot)])
def test_aDaemonSendsItsOwnPid(
    root: list[str],
    manager: ServiceManager,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """
    After the fork it is the main process, and has the watchdog of its parent;
    also where it cannot reach the path of the socket any more.
    """
    monkeypatch.setenv("NOTIFY_SOCKET", manager.name)
    # So long that the watchdog is fed once.
    monkeypatch.setenv("WATCHDOG_USEC", "600000000")
    directory = tmp_path / "root"
    directory.mkdir()
    with adoptingOrphans():
        with program(directory, sys.executable, "-c", DAEMON, *root) as first:
            assert first.wait() == 0
        pid, message = manager.readFrom()
        assert (pid != first.pid, message) == (True, {"WATCHDOG": "1"})
        assert manager.readFrom() == (pid, {"READY": "1", "MAINPID": str(pid)})
        assert manager.readFrom() == (pid, {"STOPPING": "1"})
        assert endOf(pid) == 0
    # coverage complains in a root without its files.
    assert "NOTIFY_SOCKET" not in first.output()


def test_theQueueIsSentAfterTheReactorHasStopped(manager: ServiceManager) -> None:
    with newReactor() as reactor, notifying(reactor, manager.environ) as notifier:

        async def main(reactor: Any) -> None:
            manager.fill()
            notifier.ready()
            assert reactor.getWriters() == [notifier._socket]

        runReactor(reactor, main)
        assert reactor.getWriters() == []
        manager.empty()
        notifier.stopping()
        assert manager.readAll() == [{"READY": "1"}, {"STOPPING": "1"}]


def test_theWatchdogIsFedOnlyWhileTheServiceIsAlive(
    idle: Any, manager: ServiceManager
) -> None:
    """
    A supervisor is alive while a worker serves.
    """
    with notifying(idle, manager.environ, WATCHDOG_USEC="200000") as notifier:
        notifier.isAlive = lambda: False
        notifier.startWatchdog()
        assert not manager.hasMessage()
