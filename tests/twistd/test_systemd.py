"""
L{Notifier}: what systemd is told, on real sockets.
"""

from __future__ import annotations

import os
import select
import socket
import struct
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.interfaces import IWriteDescriptor
from twisted.logger import LogEvent, formatEvent
from zope.interface.verify import verifyObject

from tests.support.daemons import adoptingOrphans, endOf, program
from tests.support.reactors import DEADLINE, KINDS, newReactor, runReactor, spin, until
from txsignalfd._twistd.systemd import Notifier, NotifySocket


class ServiceManager:
    """
    Listens as systemd does, and tells what it was told.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        self.socket.bind(name.replace("@", "\0", 1))
        self.environ = {"NOTIFY_SOCKET": name}

    def isTold(self, timeout: float = 0) -> bool:
        return bool(select.select([self.socket], [], [], timeout)[0])

    def read(self) -> dict[str, str]:
        """
        One message, which must have come already.
        """
        assert self.isTold()
        return self.readFrom()[1]

    def readFrom(self) -> tuple[int, dict[str, str]]:
        """
        The process that the kernel says has sent a message, and the message.
        """
        assert self.isTold(DEADLINE)
        message, ancillary, flags, _ = self.socket.recvmsg(4096, 64)
        assert not flags & socket.MSG_TRUNC
        (credentials,) = ancillary
        pid = struct.unpack("3i", credentials[2])[0]
        return pid, dict(line.split("=", 1) for line in message.decode().split("\n"))

    def readAll(self) -> list[dict[str, str]]:
        messages = []
        while self.isTold():
            messages.append(self.read())
        return messages

    def fill(self) -> None:
        """
        Let no more datagram in.
        """
        while True:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other:
                other.setblocking(False)
                other.connect(self.socket.getsockname())
                if self._fillBy(other) == 0:
                    return

    def _fillBy(self, other: socket.socket) -> int:
        sent = 0
        while True:
            try:
                other.send(b"X_FULL=1")
            except BlockingIOError:
                return sent
            sent += 1

    def empty(self) -> None:
        while self.isTold():
            assert self.read() == {"X_FULL": "1"}, "it was told while it was full"


@contextmanager
def listening(name: str) -> Iterator[ServiceManager]:
    """
    Be a service manager.
    """
    manager = ServiceManager(name)
    with manager.socket:
        yield manager


@contextmanager
def notifying(
    reactor: Any, environ: Mapping[str, str], **more: str
) -> Iterator[Notifier]:
    """
    Be a service, until it ends.
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
    with listening(str(tmp_path / "notify")) as listens:
        yield listens


@pytest.fixture
def reactor() -> Iterator[Any]:
    """
    A reactor that does not run.
    """
    with newReactor() as made:
        yield made


@pytest.fixture
def notifier(reactor: Any, manager: ServiceManager) -> Iterator[Notifier]:
    """
    A service of that manager.
    """
    with notifying(reactor, manager.environ) as notifies:
        yield notifies


def textsOf(logged: list[LogEvent]) -> list[str]:
    """
    What it has said in the log.
    """
    return [
        formatEvent(event)
        for event in logged
        if event["log_namespace"].startswith("txsignalfd.")
    ]


def test_itIsToldOfALife(notifier: Notifier, manager: ServiceManager) -> None:
    """
    Each by the assignments of sd_notify(3), in one datagram.
    """
    assert notifier.enabled
    notifier.ready()
    assert manager.read() == {"READY": "1"}
    notifier.ready("serving 3 ports")
    assert manager.read() == {"READY": "1", "STATUS": "serving 3 ports"}
    notifier.status("reloaded in 0.2 s")
    assert manager.read() == {"STATUS": "reloaded in 0.2 s"}
    notifier.extendTimeout(2.5)
    assert manager.read() == {"EXTEND_TIMEOUT_USEC": "2500000"}
    notifier.stopping()
    assert manager.read() == {"STOPPING": "1"}


def test_eachReloadHasItsTime(notifier: Notifier, manager: ServiceManager) -> None:
    """
    CLOCK_MONOTONIC in microseconds, in the datagram of RELOADING=1.
    """
    times = [time.clock_gettime(time.CLOCK_MONOTONIC)]
    for _ in range(2):
        notifier.reloading()
        message = manager.read()
        assert list(message) == ["RELOADING", "MONOTONIC_USEC"]
        assert message["RELOADING"] == "1"
        times.append(int(message["MONOTONIC_USEC"]) / 1e6)
    times.append(time.clock_gettime(time.CLOCK_MONOTONIC))
    # Of what is below a microsecond nothing is told.
    assert all(now < then + 1e-6 for now, then in pairwise(times))


def test_aNameMayBeAbstract(reactor: Any) -> None:
    """
    "@" stands for the null byte, as for a service manager in a container.
    """
    with listening(f"@txsignalfd-test-{os.getpid()}") as manager:
        with notifying(reactor, manager.environ) as notifier:
            notifier.ready()
            assert manager.read() == {"READY": "1"}


def test_withoutAServiceManagerNothingIsSaid(
    reactor: Any, monkeypatch: pytest.MonkeyPatch, logged: list[LogEvent]
) -> None:
    """
    No socket, no delayed call, no line in the log; C{os.environ} is asked.
    """
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    monkeypatch.setenv("WATCHDOG_USEC", "1000000")
    before = os.listdir("/proc/self/fd")
    with notifying(reactor, {}) as empty:
        notifier = Notifier(reactor)
        assert os.listdir("/proc/self/fd") == before
        for silent in (empty, notifier):
            assert not silent.enabled
            assert silent.watchdogInterval is None
            silent.startWatchdog()
            silent.ready("up")
            silent.reloading()
            silent.status("")
            silent.extendTimeout(1)
            silent.stopping()
            silent.stopWatchdog()
    assert not reactor.getDelayedCalls()
    assert textsOf(logged) == []


def test_environmentIsLeftForOthers(
    manager: ServiceManager, reactor: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    A plugin may speak to systemd by itself, and a child if the administrator
    allows that.
    """
    monkeypatch.setenv("NOTIFY_SOCKET", manager.name)
    monkeypatch.setenv("WATCHDOG_USEC", "1000000")
    before = dict(os.environ)
    notifier = Notifier(reactor)
    notifier.ready()
    assert manager.read() == {"READY": "1"}
    notifier.close()
    assert dict(os.environ) == before


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("one\ntwo\r\nREADY=1", "one two  READY=1"),
        ("null\0byte", "null byte"),
        ("grün\u2028\x85\x1b[1m", "grün   [1m"),
        ("no UTF-8: \udcff", "no UTF-8:  "),
        ("x" * 10_000, "x" * 3800),
        ("x" + "ü" * 5_000, "x" + "ü" * 1899),
        ("", ""),
    ],
)
def test_noTextBreaksTheProtocol(
    text: str, told: str, notifier: Notifier, manager: ServiceManager
) -> None:
    """
    What systemd would take for another assignment, or ignore, is not sent.
    """
    notifier.ready(text)
    assert manager.read() == {"READY": "1", "STATUS": told}


@pytest.mark.parametrize("kind", KINDS)
def test_whatFindsItFullIsToldLater(
    kind: str, manager: ServiceManager, logged: list[LogEvent]
) -> None:
    """
    By the reactor, in order, without a turn of waiting in vain; of messages
    that assign the same only the last.
    """

    async def main(reactor: Any) -> None:
        with notifying(reactor, manager.environ) as notifier:
            assert verifyObject(IWriteDescriptor, notifier._socket)
            manager.fill()
            notifier.reloading()
            notifier.status("old")
            notifier.ready()
            for text in ("newer", "newest"):
                notifier.status(text)
            manager.empty()
            await until(reactor, manager.isTold)
            first, *others = manager.readAll()
            assert list(first) == ["RELOADING", "MONOTONIC_USEC"]
            assert others == [{"READY": "1"}, {"STATUS": "newest"}]
            assert reactor.getWriters() == []
            notifier.ready()
            assert manager.read() == {"READY": "1"}

    spin(main, kind)
    full, told = textsOf(logged)
    assert full.startswith(
        f"NOTIFY_SOCKET={manager.name!r}: the socket is full; these messages"
    )
    assert "[b'RELOADING=1\\nMONOTONIC_USEC=" in full
    assert told == f"NOTIFY_SOCKET={manager.name!r}: all messages are sent"


def test_aReactorWithoutRoomStillWaits(manager: ServiceManager) -> None:
    """
    Where there is room for fewer messages than wait.
    """

    async def main(reactor: Any) -> None:
        with notifying(reactor, manager.environ) as notifier:
            manager.fill()
            for number in range(20):
                notifier._notify({b"X_%d" % number: b"1"})
            found: list[dict[str, str]] = []
            while len(found) < 20:
                await until(reactor, manager.isTold)
                message = manager.read()
                if message != {"X_FULL": "1"}:
                    found.append(message)
            assert found == [{f"X_{number}": "1"} for number in range(20)]

    spin(main)


def test_aManagerThatGoesWhileItIsFullIsNoTrouble(
    manager: ServiceManager, logged: list[LogEvent]
) -> None:
    """
    The reactor does not spin, and the next manager is told what waits.
    """

    async def main(reactor: Any) -> None:
        with notifying(reactor, manager.environ) as notifier:
            manager.fill()
            notifier.ready()
            manager.socket.close()
            await until(reactor, lambda: not reactor.getWriters())
            assert notifier._socket is not None
            assert notifier._socket.fileno() == -1
            os.unlink(manager.name)
            with listening(manager.name) as another:
                notifier.status("here")
                assert another.readAll() == [{"READY": "1"}, {"STATUS": "here"}]

    spin(main)
    assert len(textsOf(logged)) == 2


def test_anotherThatListensThereIsTold(
    notifier: Notifier, manager: ServiceManager, logged: list[LogEvent]
) -> None:
    """
    Without a word in the log when the service manager was started anew.
    """
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
    assert textsOf(logged) == []


def test_whatIsGoneIsNamedOnce(
    reactor: Any, tmp_path: Path, logged: list[LogEvent]
) -> None:
    """
    And told when it is there; at the end the log tells what never was.
    """
    name = str(tmp_path / "notify")
    with notifying(reactor, {"NOTIFY_SOCKET": name}) as notifier:
        notifier.ready()
        notifier.status("up")
        (line,) = textsOf(logged)
        assert line.startswith(f"NOTIFY_SOCKET={name!r}: No such file or directory; ")
        with listening(name) as manager:
            notifier.status("here")
            assert manager.readAll() == [{"READY": "1"}, {"STATUS": "here"}]
        notifier.stopping()
        notifier.status("down")
    _, told, refused, never = textsOf(logged)
    assert told.endswith("all messages are sent")
    assert (
        "Connection refused; these messages are sent later: [b'STOPPING=1']" in refused
    )
    assert never.endswith(
        "these messages were never sent: [b'STOPPING=1', b'STATUS=down']"
    )


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("vsock:2:1234", "not the name of an AF_UNIX socket"),
        ("notify", "not the name of an AF_UNIX socket"),
        ("/" + "x" * 200, "AF_UNIX path too long"),
    ],
)
def test_whatIsNoSocketIsSaid(
    name: str, why: str, reactor: Any, logged: list[LogEvent]
) -> None:
    """
    sd_notify(3) knows sockets of virtual machines too; twistd is not run so.
    """
    with notifying(reactor, {"NOTIFY_SOCKET": name}) as notifier:
        (line,) = textsOf(logged)
        assert line.startswith(f"NOTIFY_SOCKET={name!r}: {why}; ")
        notifier.ready()
    assert len(textsOf(logged)) == 2


def test_nothingElseIsTakenForItsOwnError(
    reactor: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    Whatever comes between, the socket is closed.
    """
    monkeypatch.setattr(os, "fsencode", lambda _: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        NotifySocket(reactor, "/notify")


def test_watchdogIsFedTwiceInItsTime(manager: ServiceManager) -> None:
    """
    From the reactor's clock, so that a reactor that is stuck is noticed.
    """

    async def main(reactor: Any) -> None:
        environ = {"WATCHDOG_USEC": "200000", "WATCHDOG_PID": str(os.getpid())}
        with notifying(reactor, manager.environ, **environ) as notifier:
            assert notifier.watchdogInterval == 0.1
            notifier.stopWatchdog()
            begin = reactor.seconds()
            notifier.startWatchdog()
            notifier.startWatchdog()
            assert manager.readAll() == [{"WATCHDOG": "1"}]
            # Stuck.
            assert not manager.isTold(0.25)
            for _ in range(2):
                await until(reactor, manager.isTold)
                assert manager.readAll() == [{"WATCHDOG": "1"}]
            assert reactor.seconds() - begin >= 0.3
            notifier.stopWatchdog()
            assert len(reactor.getDelayedCalls()) == 1  # the test's deadline
            notifier.startWatchdog()
        assert manager.readAll() == [{"WATCHDOG": "1"}]
        assert len(reactor.getDelayedCalls()) == 1

    spin(main)


@pytest.mark.parametrize(
    ("environ", "interval", "said"),
    [
        ({}, None, ""),
        ({"WATCHDOG_USEC": "30000000"}, 15.0, ""),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"}, None, ""),
        ({"WATCHDOG_USEC": "0"}, None, "no watchdog: WATCHDOG_USEC='0' is not a time"),
        (
            {"WATCHDOG_USEC": "-1"},
            None,
            "no watchdog: WATCHDOG_USEC='-1' is not a time",
        ),
        (
            {"WATCHDOG_USEC": str(2**64 - 1)},
            None,
            f"no watchdog: WATCHDOG_USEC='{2**64 - 1}' is not a time",
        ),
    ],
)
def test_watchdogIsAsTheManagerSays(
    environ: dict[str, str],
    interval: float | None,
    said: str,
    manager: ServiceManager,
    reactor: Any,
    logged: list[LogEvent],
) -> None:
    """
    As sd_watchdog_enabled(3) reads it: half of it, and not if it is for
    another process.
    """
    with notifying(reactor, manager.environ, **environ) as notifier:
        assert notifier.watchdogInterval == interval
        notifier.startWatchdog()
        assert manager.isTold() == bool(interval)
    assert textsOf(logged) == [said] * bool(said)


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
def test_aDaemonTellsWhoItIs(
    root: list[str],
    manager: ServiceManager,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """
    After its fork it is the main process that the socket, and the watchdog,
    were meant for; also where the socket's path cannot be seen any more.
    """
    monkeypatch.setenv("NOTIFY_SOCKET", manager.name)
    # It is told that it lives once, however slow it is.
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
    # Coverage has something to say of a root without its files.
    assert "NOTIFY_SOCKET" not in first.output()


def test_aReactorThatStopsIsNoReasonToBeSilent(manager: ServiceManager) -> None:
    """
    What waited when the reactor let go is sent as soon as there is room.
    """
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
