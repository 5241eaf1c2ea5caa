"""
The listening sockets of workers: every kind, across reloads and under load.
"""

from __future__ import annotations

import json
import os
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from signal import SIGHUP, SIGTERM, SIGUSR2
from typing import Any

import pytest
from twisted.internet.error import CannotListenError
from twisted.internet.testing import MemoryReactorClock

from tests.support.clients import (
    canConnect,
    echoing,
    fetch,
    keeping,
    load,
    opening,
    tcp,
    tls,
    unix,
)
from tests.support.daemons import reload, serving, waitFor
from tests.support.freeports import freePort, local
from tests.support.processes import ask
from tests.support.served import write
from txsignalfd._reload.listener import Listener
from txsignalfd._workers.channel import Channel, socketPair
from txsignalfd._workers.claims import Claims
from txsignalfd._workers.sockets import LATE, Sockets


def test_noConnectionIsLost(tmp_path: Path, certificate: Path) -> None:
    """
    By TCP, TLS, a UNIX socket and UDP, over IPv4 and IPv6, with a changed number of
    ports.
    """
    four, six, secure, udp = (freePort() for _ in range(4))
    options = {
        "listen": [
            local(four),
            rf"tcp:{six}:interface=\:\:1",
            f"ssl:{secure}:privateKey={certificate}:interface=127.0.0.1",
            "unix:socket:mode=600",
        ],
        "udp": [["127.0.0.1", udp]],
    }
    write(tmp_path, **options)
    path = tmp_path / "socket"
    ways = [
        tcp(four),
        tcp(six, "::1"),
        tls(tcp(secure), str(certificate)),
        unix(str(path)),
    ]
    with serving(tmp_path, "--workers=2", "served") as daemon:
        before = path.stat()
        with load(*map(opening, ways), *map(keeping, ways), echoing(udp)):
            reload(daemon)
        after = path.stat()
        assert (after.st_ino, after.st_mode) == (before.st_ino, before.st_mode)
        more = freePort()
        write(tmp_path, listen=[local(four), local(more)])
        reload(daemon)
        waitFor(lambda: not path.exists(), "the path is removed")
        waitFor(lambda: not canConnect(tcp(six, "::1")), "the port closes")
        assert fetch(tcp(more)) == fetch(tcp(four))
        assert daemon.stop() == -SIGTERM


def test_anAddressThatIsInUseIsNamed(tmp_path: Path) -> None:
    """
    With its user, as in one process.  The old workers serve on.
    """
    port, other = freePort(), socket.socket()
    other.bind(("127.0.0.1", 0))
    other.listen()
    taken = other.getsockname()[1]
    write(tmp_path, listen=[local(port)], body="old")
    with other, serving(tmp_path, "--workers=1", "served") as daemon:
        write(tmp_path, listen=[local(port), local(taken)])
        daemon.kill(SIGHUP)
        daemon.waitForOutput(
            "generation 1 serves on: CannotListenError: Couldn't listen on"
            f" 127.0.0.1:{taken}: [Errno 98] Address already in use: used by pid"
            f" {os.getpid()}"
        )
        assert fetch(tcp(port)) == b"old"
        assert daemon.stop() == -SIGTERM


def test_aPortCannotBeOpenedTwice(tmp_path: Path) -> None:
    """
    By one worker, as in one process.
    """
    write(tmp_path, listen=[local(port := freePort()), local(port)])
    with pytest.raises(AssertionError, match="Address already in use"):
        with serving(tmp_path, "--workers=1", "served"):
            pass


def test_aLatePortKeepsItsConnections(tmp_path: Path) -> None:
    """
    They wait until the new worker opens the port, too.
    """
    port = freePort()
    write(tmp_path, late=[local(port)], body="body")
    with serving(tmp_path, "--workers=1", "served") as daemon:
        waitFor(lambda: canConnect(tcp(port)), "it listens")
        with load(opening(tcp(port)), keeping(tcp(port))):
            reload(daemon)
        assert daemon.stop() == -SIGTERM


def test_stopFirstRunsOneGenerationAtATime(tmp_path: Path) -> None:
    """
    New connections wait meanwhile.
    """
    port = freePort()
    write(tmp_path, listen=[local(port)], exclusive=True)
    with serving(tmp_path, "--workers=1", "--stop-first", "served") as daemon:
        with load(opening(tcp(port))):
            reload(daemon)
        assert daemon.stop() == -SIGTERM


def test_aReplacedPathIsBoundAgain(tmp_path: Path) -> None:
    """
    As in one process; the end of the daemon removes it.
    """
    path = tmp_path / "socket"
    write(tmp_path, listen=["unix:socket"], body="body")
    with serving(tmp_path, "--workers=1", "served") as daemon:
        path.unlink()
        reload(daemon)
        assert fetch(unix(str(path))) == b"body"
        assert daemon.stop() == -SIGTERM
    assert not path.exists()
    assert not Path(f"{path}.lock").is_symlink()


@pytest.fixture
def inherited() -> Iterator[socket.socket]:
    """
    A listening socket, as systemd passes one.
    """
    with socket.create_server(("127.0.0.1", 0)) as made:
        yield made


@pytest.mark.fresh
def test_socketsOfSystemdReachTheWorkers(
    tmp_path: Path, inherited: socket.socket
) -> None:
    """
    By index, at each reload.
    """
    fd = inherited.fileno()
    source = (
        "import os, sys\n"
        f"os.dup2({fd}, 3)\n"
        "os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS='1',"
        " LISTEN_FDNAMES='web')\n"
        "os.execvp(sys.argv[1], sys.argv[1:])"
    )
    before = [sys.executable, "-c", source]
    port = inherited.getsockname()[1]
    write(tmp_path, listen=["systemd:domain=INET:index=0"], body="body")
    os.set_inheritable(fd, True)
    with serving(tmp_path, "--workers=1", "served", before=before) as daemon:
        with load(opening(tcp(port))):
            reload(daemon)
        assert daemon.stop() == -SIGTERM


def test_theStatusShowsTheWorkers(tmp_path: Path) -> None:
    """
    Their connections and their memory.
    """
    port = freePort()
    write(tmp_path, listen=[local(port)])
    with serving(tmp_path, "--workers=1", "served") as daemon:
        client = keeping(tcp(port))
        client()

        def worker() -> dict[str, object]:
            _, status, _ = ask("status", "--json", str(daemon.pid))
            (found,) = json.loads(status)["workers"]
            return dict(found)

        waitFor(lambda: worker()["connections"] == 1, "it is counted")
        found = worker()
        assert (found["number"], found["generation"]) == (1, 1)
        assert found["state"] == "serves"
        daemon.kill(SIGUSR2)
        daemon.waitForOutput(f"generation 1 serves: 1 connection, tcp:127.0.0.1:{port}")
        client.close()
        assert daemon.stop() == -SIGTERM


def test_theLastWorkerLeavesItsSockets() -> None:
    """
    To the worker that takes its place.
    """
    sockets = Sockets(MemoryReactorClock())
    key = ("TCP", "127.0.0.1", 0, 1)
    for worker in ("first", "second"):
        sockets.claim(key, {"backlog": 5, "late": False}, "user", worker).close()
    sockets.forget("user", "first")
    sockets.forget("user", "second")
    assert sockets.keys("user") == [key]
    sockets.release(key, "user", "second")
    assert sockets.keys("user") == []


def test_aPortThatIsOpenedDuringAReloadStaysOpen() -> None:
    """
    For a while, in which the new generation may open it, too.
    """
    clock = MemoryReactorClock()
    sockets = Sockets(clock)
    key = ("TCP", "127.0.0.1", 0, 1)
    commit, _ = sockets.prepare()
    options = {"backlog": 5, "late": True}
    with sockets.claim(key, options, "old", "worker") as duplicate:
        port = duplicate.getsockname()[1]
    sockets.release(key, "old", "worker")
    commit()
    assert canConnect(tcp(port))
    clock.advance(LATE)
    assert not canConnect(tcp(port))


class Port:
    """
    The attributes of a port that a claim needs.
    """

    port = 80


def test_aFewPortsAreTheWorkersOwn() -> None:
    """
    The supervisor is not asked for those.
    """
    end, other = socketPair()
    claims = Claims(Channel(end, None, print, print))
    port: Any = Port()
    assert claims.supply(("UDP", "", 0), port) is None
    assert claims.supply(("multicast", "", 8005), port) is None
    other.close()
    with pytest.raises(CannotListenError, match="the supervisor has ended"):
        claims.supply(("TCP", "", 80), port)
    end.close()


OPTIONS = {"backlog": 5, "mode": 0o600, "wantPID": 0, "late": False}


def test_aReplacedSocketIsNotPassedOn(tmp_path: Path) -> None:
    """
    In an upgrade: nothing but the workers that have it needs it.
    """
    sockets = Sockets(MemoryReactorClock())
    key = ("UNIX", "", str(tmp_path / "path"))
    sockets.claim(key, OPTIONS, "old", "worker").close()
    (tmp_path / "path").unlink()
    sockets.claim(key, OPTIONS, "new", "worker").close()
    descriptors: list[int] = []
    (passed,) = sockets.passOn("new", descriptors)
    assert (passed["key"], passed["isUsed"]) == (key, True)
    assert len(descriptors) == 1
    sockets.close()


def test_aSocketThatCannotBeAdoptedIsLogged(logged: list[Any]) -> None:
    """
    In an upgrade: the others are adopted all the same.
    """
    sockets = Sockets(MemoryReactorClock())
    sockets.adopt([{"key": ["TCP", "", 0]}, {}], None, {})
    assert "has failed" in str(logged)
    sockets.close()


class Stored:
    """
    A store with one socket.
    """

    def __init__(self, listener: Listener) -> None:
        self.listener = listener
        self.noted: list[str] = []

    def claim(self) -> list[tuple[Listener, bool]]:
        return [(self.listener, True)]

    def note(self, listener: Listener, name: str) -> None:
        self.noted.append(name)


def test_aStoredSocketThatNobodyHasClaimedIsPassedOn() -> None:
    """
    In an upgrade: a late port may still claim it.
    """
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        listener = Listener(("TCP", "127.0.0.1", port), server.fileno())
        listener.isPassedOn = lambda _: True
    store: Any = Stored(listener)
    sockets = Sockets(MemoryReactorClock())
    sockets.restore(store)
    descriptors: list[int] = []
    (passed,) = sockets.passOn(None, descriptors)
    assert descriptors == [passed["descriptor"]]
    other = Sockets(MemoryReactorClock())
    other.store = store
    other.adopt([{**passed, "descriptor": os.dup(descriptors[0])}], None, {})
    assert store.noted == [f"txsignalfd,late,,TCP,127.0.0.1,{port}"]
    sockets.close()
    other.close()
