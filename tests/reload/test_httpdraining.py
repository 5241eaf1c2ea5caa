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


async def ask(reactor: Any, client: Client, page: Page) -> bytes:
    """
    Return the response to a request.
    """
    client.send(REQUEST)
    await page.answer(reactor)
    return await response(reactor, client)


@inReactor
async def test_afterAReloadTheNextResponseIsTheLast(reactor: Any) -> None:
    """
    An idle connection stays open until then.
    """
    page = Page()
    async with running(reactor, site(page)) as (reloads, made):
        client = await made.connect()
        assert b"Connection: close" not in await ask(reactor, client, page)
        ended = reloads.reload()
        await sleep(reactor, LONG)
        last = await ask(reactor, client, page)
        assert last.startswith(b"HTTP/1.1 200 OK\r\n")
        assert last.count(b"Connection: close") == 1
        await until(reactor, lambda: client.lost)
        await ended


@inReactor
async def test_aRequestThatIsBeingAnsweredIsTheLast(reactor: Any) -> None:
    page = Page()
    async with running(reactor, site(page)) as (reloads, made):
        client = await made.connect()
        client.send(REQUEST)
        await until(reactor, lambda: page.requests)
        ended = reloads.reload()
        await page.answer(reactor)
        assert b"Connection: close" in await response(reactor, client)
        await ended


@pytest.mark.parametrize("stops", [False, True], ids=["reload", "stop"])
@inReactor
async def test_aResponseThatHasBegunIsFinished(reactor: Any, stops: bool) -> None:
    """
    It cannot say that it is the last: a stop closes the connection after it, and
    after a reload the next one says so.
    """
    page = Page()
    async with running(reactor, site(page)) as (reloads, made):
        client = await made.connect()
        client.send(REQUEST)
        await until(reactor, lambda: page.requests)
        page.requests[0].write(b"It begins")
        ended = reloads.stopService() if stops else reloads.reload()
        await sleep(reactor, LONG)
        await page.answer(reactor)
        first = await response(reactor, client)
        assert b"It begins" in first
        assert b"Connection: close" not in first
        if not stops:
            assert b"Connection: close" in await ask(reactor, client, page)
        await until(reactor, lambda: client.lost)
        await ended


@inReactor
async def test_aClientThatAlwaysPipelinesIsToldInHalfOfTheDrain(reactor: Any) -> None:
    page = Page()
    async with running(reactor, site(page), drain=1000) as (reloads, made):
        client = await made.connect()
        client.send(3 * REQUEST)
        await until(reactor, lambda: page.requests)
        old = current(reloads)
        ended = reloads.reload()
        await page.answer(reactor)
        assert b"Connection: close" not in await response(reactor, client)
        makeDue(old._timers[0])
        await turn(reactor)
        await page.answer(reactor)
        assert b"Connection: close" in await response(reactor, client)
        await ended


@inReactor
async def test_aStopClosesIdleConnections(reactor: Any) -> None:
    page = Page()
    async with running(reactor, site(page)) as (reloads, made):
        port = made.port
        idle, busy = [await connectTo(reactor, port) for _ in range(2)]
        busy.send(REQUEST)
        await until(reactor, lambda: page.requests)
        stopped = reloads.stopService()
        await until(reactor, lambda: idle.lost)
        assert not stopped.called
        await page.answer(reactor)
        assert b"Connection: close" in await response(reactor, busy)
        await stopped


@inReactor
async def test_aStopDuringADrainGivesIdleConnectionsTheirTime(
    reactor: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    A request may be on its way.
    """
    monkeypatch.setattr("txsignalfd._reload.generation.IDLE", 1000)
    page = Page()
    async with running(reactor, site(page)) as (reloads, made):
        client = await made.connect()
        reloads.reload().addErrback(lambda failure: None)
        await sleep(reactor, LONG)
        stopped = reloads.stopService()
        assert b"Connection: close" in await ask(reactor, client, page)
        await stopped


@inReactor
async def test_idleConnectionsAreClosedAfterTheDrain(reactor: Any) -> None:
    async with running(reactor, site(Page()), drain=0.05) as (reloads, made):
        client = await made.connect()
        await turn(reactor)
        await reloads.reload()
        await until(reactor, lambda: client.lost)


#: The last stream of a GOAWAY frame after which requests are still answered.
NOT_YET = 2**31 - 1


@overTLS
@inReactor
async def test_afterAReloadAnIdleHTTP2ConnectionGetsGOAWAY(
    reactor: Any, http2: Any
) -> None:
    page = Page()
    async with running(reactor, http2.listen(page)) as (reloads, made):
        client = await http2(reactor, made)
        client.send(client.request())
        await page.answer(reactor)
        await client.receive(lambda: client.ended)
        ended = reloads.reload()
        await client.receive(lambda: False)
        assert client.lastStreams == [NOT_YET, 1]
        await ended


@overTLS
@inReactor
async def test_afterAReloadABusyHTTP2ConnectionGetsGOAWAY(
    reactor: Any, http2: Any
) -> None:
    """
    All requests that it has sent are answered before.
    """
    page = Page()
    async with running(reactor, http2.listen(page)) as (reloads, made):
        client = await http2(reactor, made)
        client.send(client.request())
        await until(reactor, lambda: page.requests)
        ended = reloads.reload()
        client.send(client.request())
        await sleep(reactor, LONG)
        await page.answer(reactor)
        await page.answer(reactor)
        await client.receive(lambda: client.lastStreams)
        assert client.statuses == {1: b"200", 3: b"200"}
        assert client.lastStreams[0] == NOT_YET
        await client.receive(lambda: False)
        await ended


@overTLS
@inReactor
async def test_aSlowClientOfHTTP2LosesNoResponse(reactor: Any, http2: Any) -> None:
    """
    It is behind the server, and sends frames when the server has said all.
    """
    page = Page()
    async with running(reactor, http2.listen(page)) as (reloads, made):
        client = await http2(reactor, made)
        client.send(client.request())
        await until(reactor, lambda: page.requests)
        transport = client.tls.client.transport
        transport.pauseProducing()
        ended = reloads.reload()
        await page.answer(reactor)
        for _ in range(3):
            await sleep(reactor, LONG)
            client.ping()
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
    page = Page()
    async with running(reactor, http2.listen(page), drain=1000) as (reloads, made):
        client = await http2(reactor, made)
        client.send(client.request())
        await page.answer(reactor)
        await client.receive(lambda: client.ended)
        client.tls.client.transport.pauseProducing()
        old = current(reloads)
        ended = reloads.reload()
        await until(reactor, lambda: old._http._closing)
        makeDue(old._timers[1])
        await ended
        client.tls.client.transport.resumeProducing()
        await until(reactor, lambda: client.tls.client.lost)
        assert "forceAbortClient" not in str(reactor.getDelayedCalls())


@overTLS
@inReactor
async def test_aLongHTTP2RequestGetsGOAWAYInHalfOfTheDrain(
    reactor: Any, http2: Any
) -> None:
    page = Page()
    async with running(reactor, http2.listen(page), drain=1000) as (reloads, made):
        client = await http2(reactor, made)
        client.send(client.request())
        await until(reactor, lambda: page.requests)
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
async def test_aWebSocketIsClosedWithItsReason(
    reactor: Any, server: str, stops: bool
) -> None:
    """
    It goes away with a stop, and with a reload the service restarts.
    """
    listen = webSocket(server)
    async with running(reactor, listen, drain=0.1, stopTimeout=0.1) as (reloads, made):
        client = await made.connect()
        client.send(REQUEST if server == "twisted" else b"")
        await until(reactor, lambda: server == "autobahn" or client.received)
        assert b"Connection: close" not in client.received
        await (reloads.stopService() if stops else reloads.reload())
        await until(reactor, lambda: client.lost)
        assert client.received.endswith(b"closed with %d" % (1001 if stops else 1012))


@pytest.mark.parametrize("server", ["twisted", "autobahn"])
@inReactor
async def test_aWebSocketIsClosedWhenAllIsCut(reactor: Any, server: str) -> None:
    """
    Its client learns that the server goes away, and does not have to answer.
    """
    async with running(reactor, webSocket(server)) as (reloads, made):
        client = await made.connect()
        client.send(REQUEST if server == "twisted" else b"")
        await until(reactor, lambda: server == "autobahn" or client.received)
        reloads.cut()
        await reloads.stopService()
        await until(reactor, lambda: client.lost)
        assert client.received.endswith(b"closed with 1001")


@inReactor
async def test_aWebSocketThatIsNotOpenYetIsClosed(
    reactor: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(AutobahnSocket, "state", AutobahnSocket.STATE_CONNECTING)
    async with running(reactor, webSocket("autobahn"), drain=0.1) as (reloads, made):
        client = await made.connect()
        await turn(reactor)
        await reloads.reload()
        await until(reactor, lambda: client.lost)
        assert client.received == b""


@inReactor
async def test_otherProtocolsGoOnUntilTheLimit(reactor: Any) -> None:
    async with running(reactor, tcp) as (reloads, made):
        client = await made.connect()
        await client.line()
        old = current(reloads)
        stopped = reloads.stopService()
        await sleep(reactor, LONG)
        assert await client.ask(b"still?") == b"still?"
        makeDue(old._timers[1])
        await until(reactor, lambda: client.lost)
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
        reactor,
        lambda reactor, number: reactor.listenSSL(0, silent, options),
        drain=0.1,
    ) as (reloads, made):
        port = made.port
        endpoint = SSL4ClientEndpoint(reactor, "127.0.0.1", port, CertificateOptions())
        client = await connectProtocol(endpoint, Client(reactor))
        await turn(reactor)
        ended = reloads.reload()
        await until(reactor, lambda: client.lost)
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
