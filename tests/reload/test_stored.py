"""
Listening sockets that outlive the daemon.
"""

from __future__ import annotations

import socket
from contextlib import closing
from pathlib import Path
from signal import SIGKILL, SIGTERM

import pytest

from tests.support.clients import Web, canConnect, fetch, tcp, unix
from tests.support.daemons import reload, waitFor
from tests.support.descriptorstore import DescriptorStore, descriptorStore
from tests.support.freeports import freePort, local
from tests.support.observers import Logged
from tests.support.reactors import DEADLINE
from tests.support.served import write
from txsignalfd._reload.listener import Listener
from txsignalfd._reload.stored import SocketStore, Stored, parseName


def _unwanted(*arguments: object) -> None:
    raise AssertionError(arguments)


def _name(port: int, late: str = "") -> str:
    return f"txsignalfd,{late},,TCP,127.0.0.1,{port}"


def _waitForNames(store: DescriptorStore, *names: str) -> None:
    def hasAll() -> bool:
        store.receive()
        return sorted(store.stored) == sorted(names)

    waitFor(hasAll, f"{names} are stored, not {list(store.stored)}")


@pytest.mark.parametrize(
    ("signo", "lock", "options"),
    [
        (SIGTERM, 1, []),
        (SIGKILL, 0, []),
        (SIGTERM, 0, ["--workers=1"]),
        (SIGKILL, 1, ["--workers=1"]),
    ],
)
def test_aRestartRefusesNobody(
    tmp_path: Path, signo: int, lock: int, options: list[str]
) -> None:
    """
    New connections wait in the store, also when the daemon was killed.
    """
    port, path = freePort(), str(tmp_path / "socket")
    connects = [tcp(port), unix(path)]
    write(tmp_path, listen=[local(port), f"unix:{path}:lockfile={lock}"])
    with descriptorStore(tmp_path) as store:
        with store.serving(*options, "served") as daemon:
            daemon.kill(signo)
            assert daemon.wait() == -signo
        assert len(store.stored) == 2
        clients = [Web(connect) for connect in connects]
        for web in clients:
            web.send("/")
        with store.serving(*options, "served"):
            for web in clients:
                with closing(web):
                    assert web.receive().startswith(b"body")


def test_aReloadUpdatesTheStore(tmp_path: Path) -> None:
    """
    New ports are stored, and those that are gone are removed.
    """
    first, second, third = freePort(), freePort(), freePort()
    write(tmp_path, listen=[local(first), local(second)])
    with descriptorStore(tmp_path) as store, store.serving("served") as daemon:
        _waitForNames(store, _name(first), _name(second))
        write(tmp_path, listen=[local(second), local(third), local(0)])
        reload(daemon)
        _waitForNames(store, _name(second), _name(third))
        daemon.stop()


@pytest.mark.parametrize("options", [[], ["--workers=1"]], ids=["", "workers"])
def test_aPortThatTheNextProcessDoesNotOpenIsClosed(
    tmp_path: Path, options: list[str]
) -> None:
    """
    New connections are refused there, as soon as the service serves.
    """
    port, path, other = freePort(), tmp_path / "socket", freePort()
    write(tmp_path, listen=[local(port), f"unix:{path}"])
    with descriptorStore(tmp_path) as store:
        with store.serving(*options, "served") as daemon:
            daemon.stop()
        write(tmp_path, listen=[local(other)])
        with store.serving(*options, "served"):
            waitFor(lambda: not canConnect(tcp(port)), "it is closed")
            _waitForNames(store, _name(other))
            assert [each.name for each in tmp_path.glob("socket*")] == []


@pytest.mark.parametrize("options", [[], ["--workers=1"]], ids=["", "workers"])
def test_aLatePortIsOpenMeanwhile(tmp_path: Path, options: list[str]) -> None:
    """
    A port that the service opens after its start keeps its socket until then.
    """
    port = freePort()
    write(tmp_path, late=[local(port)])
    with descriptorStore(tmp_path) as store:
        with store.serving(*options, "served") as daemon:
            _waitForNames(store, _name(port, "late"))
            daemon.stop()
        with closing(Web(tcp(port))) as web:
            web.send()
            with store.serving(*options, "served"):
                assert web.receive()


def test_datagramsWaitToo(tmp_path: Path) -> None:
    """
    A datagram that is sent during a restart is answered.
    """
    port = freePort(socket.SOCK_DGRAM)
    write(tmp_path, udp=[("127.0.0.1", port)])
    with (
        descriptorStore(tmp_path) as store,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client,
    ):
        client.settimeout(DEADLINE)
        client.connect(("127.0.0.1", port))
        with store.serving("served") as daemon:
            daemon.stop()
        client.send(b"during")
        with store.serving("served"):
            assert client.recv(100) == b"during"


def test_aPathThatLeadsElsewhereIsNotUsed(tmp_path: Path) -> None:
    """
    Another program may have bound the path since.
    """
    path = tmp_path / "socket"
    write(tmp_path, listen=[f"unix:{path}:lockfile=0"])
    with descriptorStore(tmp_path) as store:
        with store.serving("served") as daemon:
            daemon.stop()
        path.unlink()
        with store.serving("served") as daemon:
            assert "does not lead to the stored socket" in daemon.output()
            assert fetch(unix(str(path)))


def test_aDaemonThatCannotStartKeepsTheSockets(tmp_path: Path) -> None:
    """
    The service manager may start it again.
    """
    port = freePort()
    write(tmp_path, listen=[local(port)])
    with descriptorStore(tmp_path) as store:
        with store.serving("served") as daemon:
            daemon.kill(SIGKILL)
            daemon.wait()
        write(tmp_path, listen=[local(port)], start="raise")
        with store.starting("served") as daemon:
            assert daemon.wait() == 1
        assert list(store.stored) == [_name(port)]
        with closing(Web(tcp(port))) as web:
            web.send()
            write(tmp_path, listen=[local(port)])
            with store.serving("served"):
                assert web.receive()


def test_theStoreMayBeTooSmall(tmp_path: Path) -> None:
    """
    The log names the ports that a restart will refuse.
    """
    first, second = freePort(), freePort()
    write(tmp_path, listen=[local(first), local(second)])
    with descriptorStore(tmp_path, limit=1) as store:
        with store.serving("served") as daemon:
            _waitForNames(store, _name(first))
            assert (
                f"the socket of {second} is not stored, and a restart refuses new"
                " connections there: FileDescriptorStoreMax=1 is too small"
            ) in daemon.output()


def test_aNameMayBeTooLong(logged: Logged) -> None:
    """
    Systemd accepts 255 characters.
    """
    with socket.socket() as socket_:
        listener = Listener(("UNIX", "\0" + "\t" * 100), socket_.fileno())
        SocketStore(1, _unwanted, _unwanted).add(listener, False)
        listener.close()
    assert logged.textsOf("txsignalfd.")[0].endswith("its address is too long")


def test_namesOfOthersAreIgnored() -> None:
    for name in ("web", "txsignalfd,", "txsignalfd,,,TCP,::1,x", "txsignalfd,,,X,1"):
        assert parseName(name) is None
    for key in (("TCP", "::1", 80), ("UNIX", "/a,b:c"), ("UDP", "0.0.0.0", 53)):
        parsed = parseName(str(Stored(key, True)))
        assert parsed is not None
        assert parsed[:2] == (key, True)
