"""
HTTP connections and WebSockets end without losing a request.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from twisted.internet.endpoints import SSL4ClientEndpoint, connectProtocol
from twisted.internet.error import ConnectionDone
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.ssl import CertificateOptions, PrivateCertificate
from twisted.internet.testing import StringTransport
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Site

from tests.support.generations import Client, connectTo, makeDue
from tests.support.inreactor import inReactor
from tests.support.ports import running, tcp
from tests.support.reactors import sleep, turn, until
from tests.support.websites import (
    LONG,
    REQUEST,
    Page,
    browsing,
    lastAnswer,
    overTLS,
    response,
    site,
)
from txsignalfd import ReloadService
from txsignalfd._reload.generation import Generation
from txsignalfd._reload.httpdraining import goAway

pytestmark = pytest.mark.usefixtures("closesIdleSoon")


def current(reloads: ReloadService) -> Generation:
    """
    Return the generation that serves.
    """
    assert reloads._generations is not None
    return reloads._generations.current


async def ask(client: Client, page: Page) -> bytes:
    """
    Return the response to a request.
    """
    client.send(REQUEST)
    await page.answer()
    return await response(client)


@inReactor
async def test_afterAReloadTheNextResponseIsTheLast() -> None:
    """
    An idle connection stays open until then.
    """
    async with browsing() as (page, reloads, client):
        assert b"Connection: close" not in await ask(client, page)
        ended = reloads.reload()
        await sleep(LONG)
        last = await ask(client, page)
        assert last.startswith(b"HTTP/1.1 200 OK\r\n")
        assert last.count(b"Connection: close") == 1
        await until(lambda: client.lost)
        await ended


@inReactor
async def test_aRequestThatIsBeingAnsweredIsTheLast() -> None:
    async with browsing() as (page, reloads, client):
        client.send(REQUEST)
        await until(lambda: page.requests)
        ended = reloads.reload()
        await lastAnswer(page, client)
        await ended


@pytest.mark.parametrize("stops", [False, True], ids=["reload", "stop"])
@inReactor
async def test_aResponseThatHasBegunIsFinished(stops: bool) -> None:
    """
    It cannot say that it is the last: a stop closes the connection after it, and
    after a reload the next one says so.
    """
    async with browsing() as (page, reloads, client):
        client.send(REQUEST)
        await until(lambda: page.requests)
        page.requests[0].write(b"It begins")
        ended = reloads.stopService() if stops else reloads.reload()
        await sleep(LONG)
        await page.answer()
        first = await response(client)
        assert b"It begins" in first
        assert b"Connection: close" not in first
        if not stops:
            assert b"Connection: close" in await ask(client, page)
        await until(lambda: client.lost)
        await ended


@inReactor
async def test_aClientThatAlwaysPipelinesIsToldInHalfOfTheDrain() -> None:
    async with browsing(drain=1000) as (page, reloads, client):
        client.send(3 * REQUEST)
        await until(lambda: page.requests)
        old = current(reloads)
        ended = reloads.reload()
        await page.answer()
        assert b"Connection: close" not in await response(client)
        makeDue(old._timers[0])
        await turn()
        await lastAnswer(page, client)
        await ended


@inReactor
async def test_aStopClosesIdleConnections() -> None:
    page = Page()
    async with running(site(page)) as (reloads, made):
        port = made.port
        idle, busy = [await connectTo(port) for _ in range(2)]
        busy.send(REQUEST)
        await until(lambda: page.requests)
        stopped = reloads.stopService()
        await until(lambda: idle.lost)
        assert not stopped.called
        await page.answer()
        assert b"Connection: close" in await response(busy)
        await stopped


@inReactor
async def test_aStopDuringADrainGivesIdleConnectionsTheirTime(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """
    A request may be on its way.
    """
    monkeypatch.setattr("txsignalfd._reload.generation.IDLE", 1000)
    async with browsing() as (page, reloads, client):
        reloads.reload().addErrback(lambda failure: None)
        await sleep(LONG)
        stopped = reloads.stopService()
        assert b"Connection: close" in await ask(client, page)
        await stopped


@inReactor
async def test_idleConnectionsAreClosedAfterTheDrain() -> None:
    async with browsing(drain=0.05) as (_, reloads, client):
        await turn()
        await reloads.reload()
        await until(lambda: client.lost)


#: The last stream of a GOAWAY frame after which requests are still answered.
NOT_YET = 2**31 - 1


@overTLS
@inReactor
async def test_afterAReloadAnIdleHTTP2ConnectionGetsGOAWAY(http2: Any) -> None:
    async with http2() as (page, reloads, client):
        client.send(client.request())
        await page.answer()
        await client.receive(lambda: client.ended)
        ended = reloads.reload()
        await client.receive(lambda: False)
        assert client.lastStreams == [NOT_YET, 1]
        await ended


@overTLS
@inReactor
async def test_afterAReloadABusyHTTP2ConnectionGetsGOAWAY(http2: Any) -> None:
    """
    All requests that it has sent are answered before.
    """
    async with http2() as (page, reloads, client):
        client.send(client.request())
        await until(lambda: page.requests)
        ended = reloads.reload()
        client.send(client.request())
        await until(lambda: len(page.requests) == 2)
        await page.answer()
        await page.answer()
        await client.receive(lambda: client.lastStreams)
        assert client.statuses == {1: b"200", 3: b"200"}
        assert client.lastStreams[0] == NOT_YET
        await client.receive(lambda: False)
        await ended


@overTLS
@inReactor
async def test_aSlowClientOfHTTP2LosesNoResponse(http2: Any) -> None:
    """
    It is behind the server, and sends frames when the server has said all.
    """
    async with http2() as (page, reloads, client):
        client.send(client.request())
        await until(lambda: page.requests)
        transport = client.tls.client.transport
        transport.pauseProducing()
        old = current(reloads)
        ended = reloads.reload()
        await page.answer()
        await until(lambda: old._http._closing)
        for _ in range(3):
            client.ping()
            await sleep(LONG)
        transport.resumeProducing()
        await client.receive(lambda: False)
        assert client.ended == [1]
        assert client.lastStreams == [NOT_YET, 1]
        await ended


@overTLS
@inReactor
async def test_aClientThatNeverEndsTLSIsClosedAtTheLimit(
    reactor: Any, http2: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Twisted's own limit is another one.
    monkeypatch.setattr("twisted.web._http2.H2Connection.abortTimeout", 1000)
    async with http2(drain=1000) as (page, reloads, client):
        client.send(client.request())
        await page.answer()
        await client.receive(lambda: client.ended)
        client.tls.client.transport.pauseProducing()
        old = current(reloads)
        ended = reloads.reload()
        await until(lambda: old._http._closing)
        makeDue(old._timers[1])
        await ended
        client.tls.client.transport.resumeProducing()
        await until(lambda: client.tls.client.lost)
        assert "forceAbortClient" not in str(reactor.getDelayedCalls())


@overTLS
@inReactor
async def test_aLongHTTP2RequestGetsGOAWAYInHalfOfTheDrain(http2: Any) -> None:
    async with http2(drain=1000) as (page, reloads, client):
        client.send(client.request())
        await until(lambda: page.requests)
        old = current(reloads)
        ended = reloads.reload()
        makeDue(old._timers[0])
        await client.receive(lambda: client.lastStreams)
        assert client.lastStreams == [NOT_YET]
        assert not ended.called
        page.requests[0].notifyFinish().addErrback(lambda failure: None)


class AutobahnSocket(Protocol):
    """
    Has what Autobahn's protocols have.
    """

    STATE_CONNECTING, STATE_OPEN = 0, 1
    state = STATE_OPEN

    def sendCloseFrame(self, code: int, isReply: bool) -> None:
        assert self.transport is not None
        self.transport.write(b"closed with %d" % code)


class TwistedSocket(Resource):
    """
    Has what the protocols of C{twisted.web.websocket} have.
    """

    isLeaf = True

    def render_GET(self, request: Any) -> Any:
        request.setResponseCode(101)
        request.write(b"")
        request.notifyFinish().addErrback(lambda failure: None)
        self._transport = request.channel.transport
        request.channel.dataReceived = self.dataReceived
        return NOT_DONE_YET

    def dataReceived(self, data: bytes) -> None:
        raise AssertionError("the client sends nothing")

    sendTextMessage = dataReceived

    def loseConnection(self, code: int) -> None:
        self._transport.write(b"closed with %d" % code)
        self._transport.loseConnection()


def webSocket(server: str) -> Any:
    """
    Open a port of a server of WebSockets.
    """
    return lambda reactor, number: reactor.listenTCP(
        0,
        Site(TwistedSocket(), reactor=reactor)
        if server == "twisted"
        else Factory.forProtocol(AutobahnSocket),
        interface="127.0.0.1",
    )


@pytest.mark.parametrize("server", ["twisted", "autobahn"])
@pytest.mark.parametrize("stops", [False, True], ids=["reload", "stop"])
@inReactor
async def test_aWebSocketIsClosedWithItsReason(server: str, stops: bool) -> None:
    """
    It goes away with a stop, and with a reload the service restarts.
    """
    listen = webSocket(server)
    async with running(listen, drain=0.1, stopTimeout=0.1) as (reloads, made):
        client = await made.connect()
        client.send(REQUEST if server == "twisted" else b"")
        await until(lambda: server == "autobahn" or client.received)
        assert b"Connection: close" not in client.received
        await (reloads.stopService() if stops else reloads.reload())
        await until(lambda: client.lost)
        assert client.received.endswith(b"closed with %d" % (1001 if stops else 1012))


@pytest.mark.parametrize("server", ["twisted", "autobahn"])
@inReactor
async def test_aWebSocketIsClosedWhenAllIsCut(server: str) -> None:
    """
    Its client learns that the server goes away, and does not have to answer.
    """
    async with running(webSocket(server)) as (reloads, made):
        client = await made.connect()
        client.send(REQUEST if server == "twisted" else b"")
        await until(lambda: server == "autobahn" or client.received)
        reloads.cut()
        await reloads.stopService()
        await until(lambda: client.lost)
        assert client.received.endswith(b"closed with 1001")


@inReactor
async def test_aWebSocketThatIsNotOpenYetIsClosed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(AutobahnSocket, "state", AutobahnSocket.STATE_CONNECTING)
    async with running(webSocket("autobahn"), drain=0.1) as (reloads, made):
        client = await made.connect()
        await turn()
        await reloads.reload()
        await until(lambda: client.lost)
        assert client.received == b""


@inReactor
async def test_otherProtocolsGoOnUntilTheLimit() -> None:
    async with running(tcp) as (reloads, made):
        client = await made.connect()
        await client.line()
        old = current(reloads)
        stopped = reloads.stopService()
        await sleep(LONG)
        assert await client.ask(b"still?") == b"still?"
        makeDue(old._timers[1])
        await until(lambda: client.lost)
        await stopped


@overTLS
@inReactor
async def test_aTLSConnectionIsClosedInOrder(reactor: Any, certificate: Path) -> None:
    """
    The client can tell this from a connection that was aborted.
    """
    options = PrivateCertificate.loadPEM(certificate.read_bytes()).options()
    # A server that wrote would need the global reactor, whose clock TLS uses.
    silent = Factory.forProtocol(Protocol)

    async with running(
        lambda reactor, number: reactor.listenSSL(0, silent, options), drain=0.1
    ) as (reloads, made):
        port = made.port
        endpoint = SSL4ClientEndpoint(reactor, "127.0.0.1", port, CertificateOptions())
        client = await connectProtocol(endpoint, Client())
        await until(lambda: current(reloads).resources.connections)
        (connection,) = current(reloads).resources.connections
        # Twisted aborts one whose handshake is not done.
        await until(lambda: connection.protocol._handshakeDone)
        ended = reloads.reload()
        await until(lambda: client.lost)
        assert client.lost is not None
        assert client.lost.check(ConnectionDone)
        await ended


def test_aConnectionThatClosesIsNotToldMore() -> None:
    """
    A WebSocket may have been closed just before the process ends at once.
    """
    transport = StringTransport()
    transport.loseConnection()
    assert goAway(transport) is False
