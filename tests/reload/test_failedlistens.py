"""
A start in which a port could not be opened, and only the log says so.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from twisted.application.internet import StreamServerEndpointService
from twisted.application.service import MultiService, Service
from twisted.internet.endpoints import TCP4ServerEndpoint
from twisted.internet.error import CannotListenError
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.protocols.policies import WrappingFactory

from tests.support.freeports import freePort
from tests.support.generations import (
    NumberedDatagrams,
    NumberedFactory,
    servedBy,
    serving,
    start,
)
from tests.support.inreactor import inReactor
from txsignalfd import ReloadService

pytestmark = pytest.mark.usefixtures("withoutPause")


@pytest.fixture
def busy() -> Iterator[int]:
    """
    A port of another program.
    """
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def logging(reactor: Any, *ports: int) -> Any:
    """
    Make a service that listens by endpoints, and only logs a failure.
    """
    whole = MultiService()
    for port in ports:
        endpoint = TCP4ServerEndpoint(reactor, port, interface="127.0.0.1")
        factory = NumberedFactory(port)
        StreamServerEndpointService(endpoint, factory).setServiceParent(whole)
    return whole


class Trying(Service):
    """
    A service that tries one port after another until one is free.
    """

    def __init__(self, reactor: Any, *ports: int, **options: Any) -> None:
        self.reactor = reactor
        self.ports = ports
        self.one = NumberedFactory(1) if options.get("sharesFactory") else None
        self.wraps = options.get("wraps", False)
        self.logs = options.get("logs", False)
        self.port: Any = None

    def startService(self) -> None:
        super().startService()
        for number in self.ports:
            factory: Any = self.one or NumberedFactory(1)
            if self.wraps:
                # As TLS does.
                factory = WrappingFactory(factory)
            try:
                self.port = self.reactor.listenTCP(
                    number, factory, interface="127.0.0.1"
                )
            except CannotListenError:
                if self.logs:
                    Logger("test").failure("this port is busy")
            else:
                return

    def stopService(self) -> Any:
        super().stopService()
        return self.port and self.port.stopListening()


@pytest.mark.parametrize("stopFirst", [False, True])
@inReactor
async def test_aReloadThatCannotOpenAPortFails(
    reactor: Any, busy: int, port: int, stopFirst: bool
) -> None:
    """
    With the address and the reason; the old generation goes on.
    """
    ports = [port]
    factory = lambda: logging(reactor, *ports)  # noqa: E731
    async with serving(factory, stopFirst=stopFirst) as (reloads, _):
        for others in ([busy], [busy, port], [port, busy]):
            ports[:] = others
            reason = rf"Couldn't listen on 127.0.0.1:{busy}: .* already in use"
            with pytest.raises(CannotListenError, match=reason):
                await reloads.reload()
            assert await servedBy(port) == b"%d" % port
        ports[:] = [port]
        await reloads.reload()
        assert await servedBy(port) == b"%d" % port


@inReactor
async def test_aReloadWithoutDescriptorsFails(
    reactor: Any, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    ports: list[int] = []
    async with serving(lambda: logging(reactor, *ports)) as (reloads, _):
        ports.append(port)
        with monkeypatch.context() as context:
            context.setattr("os.dup", raisingEMFILE)
            with pytest.raises(CannotListenError, match=f":{port}: .*too many"):
                await reloads.reload()
        await reloads.reload()
        assert await servedBy(port) == b"%d" % port


def raisingEMFILE(fd: int) -> int:
    """
    Fail as when all descriptors are in use.
    """
    raise OSError(24, "too many open files")


@pytest.mark.parametrize("when", ["now", "later", "datagrams"])
@inReactor
async def test_aFirstStartThatListensNowhereFails(
    reactor: Any, busy: int, when: str
) -> None:
    class Later(MultiService):
        def startService(self) -> Any:
            listening = logging(reactor, busy)
            return deferLater(reactor, 0, listening.startService)

    class Datagrams(Service):
        def startService(self) -> None:
            with pytest.raises(CannotListenError):
                reactor.listenUDP(taken.getsockname()[1], NumberedDatagrams(1))

    with socket.socket(type=socket.SOCK_DGRAM) as taken:
        taken.bind(("0.0.0.0", 0))
        factories: dict[str, Callable[[], Any]] = {
            "now": lambda: logging(reactor, busy),
            "later": Later,
            "datagrams": Datagrams,
        }
        reloads = ReloadService(factories[when], reactor=reactor)
        failures: list[Any] = []
        reloads.addObserver(lambda _: None, lambda it: failures.append(it.failure))
        if when == "later":
            start(reloads)
            await deferLater(reactor, 0.01)
            await reloads.stopService()
        else:
            with pytest.raises(CannotListenError):
                start(reloads)
        assert failures[0].check(CannotListenError)


@inReactor
async def test_aFirstStartThatListensSomewhereServes(
    reactor: Any, busy: int, port: int
) -> None:
    """
    So does a reload of a service that could not open the same port before.
    """
    factory = lambda: logging(reactor, busy, port)  # noqa: E731
    async with serving(factory) as (reloads, _):
        assert await servedBy(port) == b"%d" % port
        await reloads.reload()
        assert await servedBy(port) == b"%d" % port


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"sharesFactory": True, "logs": True},
        {"sharesFactory": True, "logs": True, "wraps": True},
    ],
)
@inReactor
async def test_aServiceMayTryOnePortAfterAnother(
    reactor: Any, busy: int, port: int, options: dict[str, bool]
) -> None:
    ports = [port]

    def factory() -> Any:
        return Trying(reactor, *ports, **options)

    async with serving(factory) as (reloads, _):
        free = freePort()
        ports[:] = [busy, free]
        await reloads.reload()
        assert await servedBy(free) == b"1"


@inReactor
async def test_aServiceMayTryAgain(reactor: Any, port: int) -> None:
    """
    With another factory, and although it logs the failure.
    """

    class Again(Trying):
        def startService(self) -> None:
            with socket.create_server(("127.0.0.1", port)):
                super().startService()
            super().startService()

    services = [Service, lambda: Again(reactor, port, logs=True)]
    async with serving(lambda: services.pop(0)()) as (reloads, _):  # noqa: PLW0108
        await reloads.reload()
        assert await servedBy(port) == b"1"


class TryingAnotherKind(Trying):
    """
    A service that uses datagrams if no port is free.
    """

    def startService(self) -> None:
        super().startService()
        if self.port is None:
            self.port = self.reactor.listenUDP(0, NumberedDatagrams(1))


@pytest.mark.parametrize("service", [Trying, TryingAnotherKind])
@inReactor
async def test_aServiceThatFindsNoFreePortFails(
    reactor: Any, busy: int, port: int, service: type[Trying]
) -> None:
    """
    A port of another kind replaces none.
    """
    ports = [port]
    factory = lambda: service(reactor, *ports)  # noqa: E731
    async with serving(factory) as (reloads, _):
        ports[:] = [busy]
        with pytest.raises(CannotListenError, match=str(busy)):
            await reloads.reload()
        assert await servedBy(port) == b"1"


@inReactor
async def test_aFailureAfterTheStartFailsNoReload(
    reactor: Any, busy: int, port: int
) -> None:
    async with serving(lambda: logging(reactor, port)) as (reloads, _):
        reloads.alone = True
        await reloads.stopService()
        start(reloads)
        with pytest.raises(CannotListenError):
            reactor.listenTCP(busy, NumberedFactory(1), interface="127.0.0.1")
        await reloads.reload()
        assert await servedBy(port) == b"%d" % port
