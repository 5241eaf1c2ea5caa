"""
Services that name their generation to each client, and clients of them.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint, connectProtocol
from twisted.internet.protocol import DatagramProtocol, Factory, Protocol
from twisted.python.failure import Failure

from tests.support.reactors import currentReactor, turn, until
from txsignalfd import ReloadService
from txsignalfd._reload.transaction import Timer


class Numbered(Protocol):
    """
    Sends the number of its generation, and then echoes what it receives.
    """

    factory: NumberedFactory

    def connectionMade(self) -> None:
        assert self.transport is not None
        self.transport.write(b"%d\n" % self.factory.number)

    def dataReceived(self, data: bytes) -> None:
        assert self.transport is not None
        self.transport.write(data)


class NumberedFactory(Factory):
    protocol = Numbered  # type: ignore[assignment]
    noisy = False

    def __init__(self, number: int) -> None:
        self.number = number
        self.stopped = False

    def stopFactory(self) -> None:
        self.stopped = True


class NumberedDatagrams(DatagramProtocol):
    noisy = False

    def __init__(self, number: int) -> None:
        self.number = number

    def datagramReceived(self, datagram: bytes, addr: Any) -> None:
        assert self.transport is not None
        self.transport.write(b"%d\n" % self.number, addr)


class Listening(Service):
    """
    A service that listens by a function, such as a reactor's method.
    """

    def __init__(self, listen: Callable[[], Any]) -> None:
        self._listen = listen
        self.port: Any = None

    def privilegedStartService(self) -> None:
        self.port = self._listen()

    def stopService(self) -> Deferred[None] | None:
        super().stopService()
        port, self.port = self.port, None
        stopped: Deferred[None] | None = port.stopListening() if port else None
        return stopped


class Client(Protocol):
    """
    A client that reads lines and notes the end of its connection.
    """

    def __init__(self) -> None:
        self.received = b""
        self.lost: Failure | None = None
        self.isConnected = False

    def connectionMade(self) -> None:
        self.isConnected = True

    def dataReceived(self, data: bytes) -> None:
        self.received += data

    def connectionLost(self, reason: Failure | None = None) -> None:
        self.lost = reason

    async def line(self) -> bytes:
        """
        Return the next line.
        """
        await until(lambda: b"\n" in self.received or self.lost)
        line, _, self.received = self.received.partition(b"\n")
        return line

    def send(self, data: bytes) -> None:
        """
        Send bytes to the server.
        """
        assert self.transport is not None
        self.transport.write(data)

    async def ask(self, question: bytes) -> bytes:
        """
        Send a line, and return the answer.
        """
        self.send(question + b"\n")
        return await self.line()

    async def end(self) -> None:
        """
        Close the connection.
        """
        assert self.transport is not None
        self.transport.loseConnection()
        await until(lambda: self.lost)


class ServiceFactory:
    """
    A factory of services that listen on one port.
    """

    def __init__(self, port: int = 0) -> None:
        self.reactor = currentReactor()
        self.port = port
        #: Called in place of making a service, if set.
        self.instead: Callable[[], Any] | None = None
        #: Every service that was made, and the protocol factory of each port.
        self.services: list[Any] = []
        self.factories: list[NumberedFactory] = []

    def __call__(self) -> Any:
        if self.instead is not None:
            return self.instead()
        service = Listening(self.listen)
        self.services.append(service)
        return service

    def listen(self) -> Any:
        """
        Listen with the number of the newest service.
        """
        factory = NumberedFactory(len(self.services))
        self.factories.append(factory)
        return self.reactor.listenTCP(self.port, factory, interface="127.0.0.1")

    async def connect(self) -> Client:
        """
        Connect to the port of the newest service.
        """
        return await connectTo(self.address)

    @property
    def address(self) -> int:
        """
        The number of the port of the newest service.
        """
        number: int = self.services[-1].port.getHost().port
        return number

    async def served(self) -> bytes:
        """
        Connect, and return the number of the generation that answers.
        """
        return await servedBy(self.address)


@asynccontextmanager
async def serving(
    factory: Any = None, *, alone: bool = False, **options: Any
) -> AsyncIterator[tuple[ReloadService, Any]]:
    """
    Run a service that can be reloaded, by default one of a L{ServiceFactory}.

    @param alone: Whether nothing else listens, as in C{twistd signalfd PLUGIN}.
    @param options: Arguments of L{ReloadService}.
    """
    factory = factory or ServiceFactory()
    reloads = ReloadService(factory, reactor=currentReactor(), **options)
    reloads.alone = alone
    start(reloads)
    try:
        yield reloads, factory
    finally:
        reloads.cut()
        await reloads.stopService()
        await turn()


async def servedBy(port: int) -> bytes:
    """
    Connect to a port, and return the number of the generation that answers.
    """
    client = await connectTo(port)
    line = await client.line()
    await client.end()
    return line


async def connectTo(port: int) -> Client:
    """
    Connect to a port of this machine.
    """
    endpoint = TCP4ClientEndpoint(currentReactor(), "127.0.0.1", port)
    client: Client = await connectProtocol(endpoint, Client())
    return client


def start(service: Service) -> None:
    """
    Start a service as twistd does.
    """
    service.privilegedStartService()
    service.startService()


def explode() -> Any:
    """
    Fail.
    """
    raise ZeroDivisionError("the configuration is bad")


def makeDue(timer: Timer | None) -> None:
    """
    End the time of a timer now.
    """
    assert timer is not None
    timer.due = 0.0
    timer._call.reset(0)
