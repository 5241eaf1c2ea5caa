"""
Sockets of systemd across reloads.
"""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from twisted.application.internet import StreamServerEndpointService
from twisted.application.service import Service
from twisted.application.strports import service
from twisted.internet import endpoints
from twisted.internet.endpoints import UNIXClientEndpoint, serverFromString
from twisted.python.systemd import ListenFDs

from tests.support.generations import NumberedFactory, explode, servedBy, start
from tests.support.inreactor import inReactor
from tests.support.observers import Logged
from tests.support.ports import numberAt
from tests.support.reactors import turn
from txsignalfd import ReloadService
from txsignalfd._reload.sharing import (
    claimInherited,
    inherited,
    shareInherited,
    unshareInherited,
)

pytestmark = pytest.mark.usefixtures("withoutPause")


@pytest.fixture
def given(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """
    Return the descriptors that the parser takes for systemd's.
    """
    descriptors: list[int] = []
    listenFDs = ListenFDs(descriptors, ["web", "control"])
    monkeypatch.setattr(endpoints._SystemdParser, "_sddaemon", listenFDs)
    yield descriptors
    assert endpoints._SystemdParser._sddaemon is listenFDs


def test_theParserReadsItsDescriptorsFromSddaemon() -> None:
    """
    C{_SystemdParser._sddaemon} is private to Twisted.  Without it C{systemd:}
    endpoints do not survive a reload.
    """
    assert isinstance(endpoints._SystemdParser._sddaemon, ListenFDs)
    duplicates: set[int] = set()
    shareInherited(duplicates)
    try:
        with pytest.raises(IndexError):
            serverFromString(None, "systemd:domain=INET:index=0")
        with pytest.raises(KeyError):
            serverFromString(None, "systemd:domain=INET:name=web")
    finally:
        unshareInherited()
    assert isinstance(endpoints._SystemdParser._sddaemon, ListenFDs)


@pytest.mark.parametrize("which", ["index=0", "name=web"])
@inReactor
async def test_systemdsSocketsSurviveReloads(
    reactor: Any, which: str, given: list[int]
) -> None:
    """
    Each generation has a duplicate, which is closed with it.
    """
    with socket.create_server(("127.0.0.1", 0)) as ours:
        given[:] = [ours.fileno(), ours.fileno()]
        count = 0

        def factory() -> Any:
            nonlocal count
            count += 1
            description = f"systemd:domain=INET:{which}"
            # An endpoint that never listens.
            serverFromString(reactor, description)
            endpoint = serverFromString(reactor, description)
            return StreamServerEndpointService(endpoint, NumberedFactory(count))

        # Options are parsed before there is a service.
        shareInherited()
        serverFromString(reactor, f"systemd:domain=INET:{which}")
        reloads = ReloadService(factory, reactor=reactor)
        start(reloads)
        await reloads.reload()
        before = len(os.listdir("/proc/self/fd"))
        for _ in range(5):
            await reloads.reload()
        assert len(os.listdir("/proc/self/fd")) == before
        assert await servedBy(ours.getsockname()[1]) == b"7"
        await reloads.stopService()
        await turn()
        # systemd's own socket still listens, for the next start.
        assert ours.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)


@inReactor
async def test_aStoppedServiceThatCannotListenAgainIsReported(
    reactor: Any, given: list[int], logged: Logged
) -> None:
    """
    A C{systemd:} endpoint listens only once.  A reload after it succeeds.
    """
    with socket.create_server(("127.0.0.1", 0)) as ours:
        given[:] = [ours.fileno(), ours.fileno()]

        def make() -> Any:
            endpoint = serverFromString(reactor, "systemd:domain=INET:index=0")
            return StreamServerEndpointService(endpoint, NumberedFactory(3))

        makers: list[Callable[[], Any]] = [make, explode, explode, make]
        reloads = ReloadService(
            lambda: makers.pop()(),  # noqa: PLW0108
            stopFirst=True,
            reactor=reactor,
        )
        start(reloads)
        for _ in range(2):
            with pytest.raises(ZeroDivisionError):
                await reloads.reload()
        await reloads.reload()
        port = ours.getsockname()[1]
        assert await servedBy(port) == b"3"
        await reloads.stopService()
        lines = logged.texts
        told = f"generation 1 no longer listens on tcp:127.0.0.1:{port}"
        assert lines.count(told) == 2
        failed = [line for line in lines if "not reloaded" in line]
        assert len(failed) == 2
        for line in failed:
            assert "generation 1 does not serve any more: " in line


@inReactor
async def test_systemdsUNIXSocketsKeepPathAndMode(
    reactor: Any, tmp_path: Path, given: list[int]
) -> None:
    path = str(tmp_path / "socket")

    with socket.socket(socket.AF_UNIX) as ours:
        ours.bind(path)
        os.chmod(path, 0o620)
        ours.listen()
        given[:] = [ours.fileno(), ours.fileno()]
        count = 0

        def factory() -> Any:
            nonlocal count
            count += 1
            endpoint = serverFromString(reactor, "systemd:domain=UNIX:index=1")
            return StreamServerEndpointService(endpoint, NumberedFactory(count))

        reloads = ReloadService(factory, reactor=reactor)
        start(reloads)
        await reloads.reload()
        endpoint = UNIXClientEndpoint(reactor, path)
        assert await numberAt(endpoint) == b"2"
        await reloads.stopService()
        await turn()
        assert stat.S_IMODE(os.stat(path).st_mode) == 0o620


@inReactor
async def test_lateSystemdPortsAcceptUntilTheyAreOpenedAgain(
    reactor: Any, given: list[int]
) -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as first,
        socket.create_server(("127.0.0.1", 0)) as second,
    ):
        given[:] = [first.fileno(), second.fileno()]
        reloads = ReloadService(Service, drain=20, reactor=reactor)
        reloads.alone = True
        start(reloads)

        def listen(number: int, index: int) -> None:
            endpoint = serverFromString(reactor, f"systemd:domain=INET:index={index}")
            endpoint.listen(NumberedFactory(number))

        async def numbers() -> list[bytes]:
            return [await servedBy(each.getsockname()[1]) for each in (first, second)]

        for number in (1, 2, 3):
            listen(number, 0)
            listen(number, 1)
            for _ in range(10):
                assert await numbers() == [b"%d" % number] * 2
            reloads.reload()
            await turn()
            # The old generation accepts until the new one listens.
            assert await numbers() == [b"%d" % number] * 2
        reloads.cut()
        await reloads.stopService()
        await turn()


@inReactor
async def test_aDuplicateThatIsNotAdoptedIsClosed(
    reactor: Any, given: list[int]
) -> None:
    """
    The endpoint leaves it open when the factory fails.
    """
    bad: list[bool] = []

    class Bad(NumberedFactory):
        def startFactory(self) -> None:
            if bad:
                raise ZeroDivisionError("no log file")

    with socket.create_server(("127.0.0.1", 0)) as ours:
        given[:] = [ours.fileno()]

        def factory() -> Any:
            return service("systemd:domain=INET:index=0", Bad(1), reactor)

        reloads = ReloadService(factory, reactor=reactor)
        start(reloads)
        await reloads.reload()
        before = len(os.listdir("/proc/self/fd"))
        bad.append(True)
        for _ in range(3):
            with pytest.raises(ZeroDivisionError):
                await reloads.reload()
            await turn()
        assert len(os.listdir("/proc/self/fd")) == before
        bad.clear()
        await reloads.stopService()
        await turn()


@pytest.mark.parametrize("isShared", [False, True])
def test_descriptorsAreTakenByTheBeginningOfTheirNames(
    monkeypatch: pytest.MonkeyPatch, isShared: bool
) -> None:
    """
    Endpoints do not see these any more.
    """
    listenFDs = ListenFDs([7, 8], ["web", "control"])
    monkeypatch.setattr(endpoints._SystemdParser, "_sddaemon", listenFDs)
    if isShared:
        shareInherited()
    assert claimInherited("control") == [("control", 8)]
    assert claimInherited("control") == []
    assert inherited() == ([7], ["web"])
