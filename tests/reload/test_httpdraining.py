"""
The end of kept-alive HTTP connections, and of those under TLS.
"""

from __future__ import annotations

from pathlib import Path
from time import monotonic
from typing import Any

import pytest
from twisted.internet.endpoints import (
    SSL4ClientEndpoint,
    connectProtocol,
)
from twisted.internet.error import ConnectionDone
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.ssl import CertificateOptions, PrivateCertificate
from twisted.internet.task import Clock
from twisted.protocols.policies import WrappingFactory
from twisted.web.http import HTTPChannel, HTTPFactory
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Site

from tests.support.generations import Client, connectTo, makeDue
from tests.support.inreactor import inReactor
from tests.support.ports import (
    running,
)
from tests.support.reactors import turn, until
from txsignalfd._reload.generation import Generation
from txsignalfd._reload.httpdraining import endAfterResponse, isIdle

REQUEST = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"


class Page(Resource):
    """
    A page that comes when it is told to.
    """

    isLeaf = True

    def __init__(self) -> None:
        super().__init__()
        self.requests: list[Any] = []

    def render_GET(self, request: Any) -> Any:
        self.requests.append(request)
        return NOT_DONE_YET

    def answer(self) -> None:
        self.requests.pop(0).finish()


def pages(page: Page) -> Any:
    """
    Listen with a site that has the page.
    """
    return lambda reactor, number: reactor.listenTCP(0, Site(page, reactor=reactor))


async def answered(reactor: Any, client: Client) -> bytes:
    """
    A whole response.
    """
    await until(reactor, lambda: b"0\r\n\r\n" in client.received or client.lost)
    response, client.received = client.received, b""
    return response


async def firstCall(reactor: Any, generation: Generation) -> None:
    """
    Do what a generation that retires would do first, in its time.
    """
    first = min(generation._timers, key=lambda timer: timer._due)
    makeDue(first)
    await until(reactor, lambda: not first._call.active())


@inReactor
async def test_aKeptConnectionIsToldToEndWithItsNextResponse(reactor: Any) -> None:
    """
    When half of its time is over; no request is without a response.
    """
    page = Page()

    async with running(reactor, pages(page)) as (reloads, made):
        client = await connectTo(reactor, made.ports[0].getHost().port)
        assert client.transport is not None
        for closes in (False, True):
            client.transport.write(REQUEST)
            await until(reactor, lambda: page.requests)
            page.answer()
            response = await answered(reactor, client)
            assert response.startswith(b"HTTP/1.1 200 OK\r\n")
            assert (b"Connection: close" in response) == closes
            if not closes:
                reloads.drain = 0.0
                succession = reloads._generations
                assert succession is not None
                succession._drain = 60.0
                old = succession.current
                ended = reloads.reload()
                # Half of a minute later.
                await firstCall(reactor, old)
        await until(reactor, lambda: client.lost)
        await ended


@inReactor
async def test_whenAllStopsIdleConnectionsAreClosed(reactor: Any) -> None:
    """
    And those that are not are told to end.
    """
    page = Page()

    async with running(reactor, pages(page)) as (reloads, made):
        port = made.ports[0].getHost().port
        idle, busy = [await connectTo(reactor, port) for _ in range(2)]
        assert busy.transport is not None
        busy.transport.write(REQUEST)
        await until(reactor, lambda: page.requests)
        stopped = reloads.stopService()
        await until(reactor, lambda: idle.lost)
        assert not stopped.called
        page.answer()
        assert b"HTTP/1.1 200 OK" in await answered(reactor, busy)
        await until(reactor, lambda: busy.lost)
        await stopped


@pytest.mark.parametrize("reloaded", [False, True])
@inReactor
async def test_aResponseThatHadBegunEndsItsConnectionToo(
    reactor: Any, reloaded: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    Soon after it is written, though it could not say so.  One that is asked
    once more in between says it.
    """
    # However slow the test is, it asks in time.
    monkeypatch.setattr("txsignalfd._reload.generation.IDLE", 100)
    page = Page()

    async with running(reactor, pages(page), stopTimeout=1000, drain=1000) as (
        reloads,
        made,
    ):
        port = made.ports[0].getHost().port
        clients = [await connectTo(reactor, port) for _ in range(4)]
        gone, silent, asking, lost = clients
        for client in clients:
            assert client.transport is not None
            client.transport.write(REQUEST)
        await until(reactor, lambda: len(page.requests) == 4)
        for request in page.requests:
            request.write(b"It begins")
        assert reloads._generations is not None
        generation = reloads._generations.current
        ended: Any = reloads.reload() if reloaded else reloads.stopService()
        await firstCall(reactor, generation)
        # In the order in which they were accepted.
        await lost.end()
        page.requests.pop().notifyFinish().addErrback(lambda failure: None)
        for client in (gone, silent, asking):
            page.answer()
            response = await answered(reactor, client)
            assert b"It begins" in response
            assert b"Connection: close" not in response
        await gone.end()
        assert asking.transport is not None
        asking.transport.write(REQUEST)
        await until(reactor, lambda: page.requests)
        for timer in generation._timers:
            if timer._call.active() and timer._due < monotonic() + 200:
                makeDue(timer)
        await until(reactor, lambda: silent.lost)
        page.answer()
        assert b"Connection: close" in await answered(reactor, asking)
        await until(reactor, lambda: asking.lost)
        await ended


@inReactor
async def test_aRequestOfWhichAPartIsThereIsTheLast(reactor: Any) -> None:
    """
    When its connection is told to end.
    """
    page = Page()

    async with running(reactor, pages(page), stopTimeout=1000) as (reloads, made):
        client = await connectTo(reactor, made.ports[0].getHost().port)
        assert client.transport is not None
        client.transport.write(REQUEST[:20])
        succession = reloads._generations
        assert succession is not None
        await until(reactor, lambda: succession.current.resources.connections)
        (connection,) = succession.current.resources.connections
        await until(reactor, lambda: connection.protocol._channel.requests)
        stopped = reloads.stopService()
        await firstCall(reactor, succession.current)
        client.transport.write(REQUEST[20:])
        await until(reactor, lambda: page.requests)
        page.answer()
        assert b"Connection: close" in await answered(reactor, client)
        await until(reactor, lambda: client.lost)
        await stopped


@inReactor
async def test_idleConnectionsAreClosedWhenTheirTimeIsOver(reactor: Any) -> None:
    """
    In a drain, which leaves them open until then.
    """
    async with running(reactor, pages(Page()), drain=0.05) as (reloads, made):
        client = await connectTo(reactor, made.ports[0].getHost().port)
        await turn(reactor)
        await reloads.reload()
        await until(reactor, lambda: client.lost)


@inReactor
async def test_aProtocolMayBeWrapped(reactor: Any) -> None:
    """
    Policies and TLS do that.
    """
    page = Page()

    async with running(
        reactor,
        lambda reactor, number: reactor.listenTCP(
            0, WrappingFactory(Site(page, reactor=reactor))
        ),
    ) as (reloads, made):
        client = await connectTo(reactor, made.ports[0].getHost().port)
        assert client.transport is not None
        succession = reloads._generations
        assert succession is not None
        await until(reactor, lambda: succession.current.resources.connections)
        (connection,) = succession.current.resources.connections
        assert isIdle(connection)
        endAfterResponse(connection, int)
        endAfterResponse(connection, int)
        client.transport.write(REQUEST)
        await until(reactor, lambda: page.requests)
        assert not isIdle(connection)
        page.answer()
        response = await answered(reactor, client)
        assert response.count(b"Connection: close") == 1
        await until(reactor, lambda: client.lost)


def test_HTTP2HasOtherWordsForIt() -> None:
    """
    Its channels are no HTTP/1, where the header is forbidden.
    """
    made: list[Any] = []
    connection: Any = Other()
    protocol: Any = HTTPFactory(reactor=Clock()).buildProtocol(None)
    protocol.requestFactory = lambda stream, queued: made.append(stream)
    connection.protocol = protocol
    endAfterResponse(connection, int)
    # Nothing is asked of it.
    stream = object()
    assert protocol.requestFactory(stream, queued=None) is None
    assert made == [stream]


def test_whatIsNoHTTPIsLeftAlone() -> None:
    """
    It ends when it wants to, or when its time is over.
    """
    endAfterResponse(Other(), int)
    assert not isIdle(Other())


class Other:
    """
    A connection of another protocol.
    """

    protocol = object()


def test_theChannelIsStillWhereWeLook() -> None:
    """
    A private part of Twisted: C{_GenericHTTPChannelProtocol._channel}, with the
    C{requests} of a connection.  When this fails, a stop waits for idle
    connections.
    """
    protocol: Any = HTTPFactory(reactor=Clock()).buildProtocol(None)
    assert isinstance(protocol._channel, HTTPChannel)
    assert protocol._channel.requests == []


# What Twisted passes to pyOpenSSL is not ours.
@pytest.mark.filterwarnings(
    "ignore::DeprecationWarning:twisted", "ignore:Passing pyOpenSSL"
)
@inReactor
async def test_TLSSaysThatItEnds(reactor: Any, certificate: Path) -> None:
    """
    Which a client can tell from a connection that was cut.
    """
    options = PrivateCertificate.loadPEM(certificate.read_bytes()).options()
    # A server that wrote would need the global reactor: Twisted's TLS has its
    # clock.
    silent = Factory.forProtocol(Protocol)

    async with running(
        reactor,
        lambda reactor, number: reactor.listenSSL(0, silent, options),
        drain=0.1,
    ) as (reloads, made):
        port = made.ports[0].getHost().port
        endpoint = SSL4ClientEndpoint(reactor, "127.0.0.1", port, CertificateOptions())
        client = await connectProtocol(endpoint, Client(reactor))
        await turn(reactor)
        ended = reloads.reload()
        await until(reactor, lambda: client.lost)
        assert client.lost is not None
        assert client.lost.check(ConnectionDone)
        await ended
