"""
Connections that have begun to speak are answered before they are closed.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import h2.config
import h2.connection
import pytest
from hyperframe.frame import ContinuationFrame
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import Clock
from twisted.protocols.basic import LineReceiver
from twisted.protocols.haproxy._wrapper import HAProxyWrappingFactory
from twisted.protocols.policies import ProtocolWrapper, WrappingFactory
from twisted.web.http import HTTPChannel, HTTPFactory

from tests.support.inreactor import inReactor
from tests.support.ports import running
from tests.support.reactors import sleep, turn, until
from tests.support.websites import (
    LONG,
    REQUEST,
    Page,
    overTLS,
    response,
    secureClient,
    secureSite,
    site,
)

POST = b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4\r\n\r\nbody"


pytestmark = pytest.mark.usefixtures("closesIdleSoon")


@pytest.mark.parametrize("stopFirst", [False, True], ids=["stop", "stop-first"])
@pytest.mark.parametrize(
    ("request_", "length"),
    [(REQUEST, 1), (REQUEST, 16), (REQUEST, 20), (POST, len(POST) - 1)],
    ids=["one byte", "no headers", "part of headers", "part of body"],
)
@inReactor
async def test_anIncompleteRequestIsAnswered(
    reactor: Any, request_: bytes, length: int, stopFirst: bool
) -> None:
    page = Page()
    async with running(reactor, site(page), stopFirst=stopFirst) as (reloads, made):
        client = await made.connect()
        client.send(request_[:length])
        await turn(reactor)
        ended = reloads.reload() if stopFirst else reloads.stopService()
        await sleep(reactor, LONG)
        client.send(request_[length:])
        await page.answer(reactor)
        assert b"Connection: close" in await response(reactor, client)
        await ended


@pytest.mark.parametrize("more", [REQUEST, POST, REQUEST[:1]])
@inReactor
async def test_pipelinedRequestsAreAnswered(reactor: Any, more: bytes) -> None:
    """
    Only the last response closes the connection.
    """
    page = Page()
    async with running(reactor, site(page)) as (reloads, made):
        client = await made.connect()
        client.send(REQUEST + more)
        await until(reactor, lambda: page.requests)
        ended = reloads.stopService()
        await page.answer(reactor)
        assert b"Connection: close" not in await response(reactor, client)
        await sleep(reactor, LONG)
        client.send(b"" if more != REQUEST[:1] else REQUEST[1:])
        await page.answer(reactor)
        assert b"Connection: close" in await response(reactor, client)
        await ended


@inReactor
async def test_anEmptyLineAfterARequestIsNoRequest(reactor: Any) -> None:
    page = Page()
    async with running(reactor, site(page)) as (reloads, made):
        client = await made.connect()
        client.send(REQUEST + b"\r\n")
        await until(reactor, lambda: page.requests)
        ended = reloads.stopService()
        await page.answer(reactor)
        assert b"Connection: close" in await response(reactor, client)
        await ended


@inReactor
async def test_dataThatWasNotReadYetKeepsAConnectionOpen(reactor: Any) -> None:
    page = Page()
    async with running(reactor, site(page)) as (reloads, made):
        client = await made.connect()
        assert reloads._generations is not None
        connections = reloads._generations.current.resources.connections
        await until(reactor, lambda: connections)
        (connection,) = connections
        connection.stopReading()
        client.send(REQUEST)
        await turn(reactor)
        ended = reloads.stopService()
        await sleep(reactor, LONG)
        connection.startReading()
        await page.answer(reactor)
        assert b"Connection: close" in await response(reactor, client)
        await ended


PROXY = b"PROXY TCP4 127.0.0.1 127.0.0.1 1 2\r\n"


class Hiding(ProtocolWrapper):
    """
    A layer that has a buffer of its own.
    """

    received = b""

    def dataReceived(self, data: bytes) -> None:
        self.received += data
        if self.received.endswith(b"\r\n\r\n"):
            super().dataReceived(self.received)


def hiding(wrapped: Factory) -> WrappingFactory:
    """
    Wrap a factory in a layer that cannot be examined.
    """
    factory = WrappingFactory(wrapped)
    factory.protocol = Hiding
    return factory


@pytest.mark.parametrize(
    ("wrap", "begin"), [(HAProxyWrappingFactory, PROXY), (hiding, REQUEST)]
)
@inReactor
async def test_aLayerThatBuffersKeepsAConnectionOpen(
    reactor: Any, wrap: Any, begin: bytes
) -> None:
    page = Page()
    async with running(reactor, site(page, wrap)) as (reloads, made):
        client = await made.connect()
        client.send(begin[:20])
        await turn(reactor)
        ended = reloads.stopService()
        await sleep(reactor, LONG)
        client.send(begin[20:] + (REQUEST if begin == PROXY else b""))
        await page.answer(reactor)
        assert b"200 OK" in await response(reactor, client)
        reloads.cut()
        await ended


@pytest.mark.parametrize("wrap", [WrappingFactory, HAProxyWrappingFactory])
@inReactor
async def test_anIdleConnectionWithLayersIsClosed(reactor: Any, wrap: Any) -> None:
    async with running(reactor, site(Page(), wrap)) as (reloads, made):
        client = await made.connect()
        if wrap is HAProxyWrappingFactory:
            client.send(PROXY)
        await turn(reactor)
        await reloads.stopService()
        await until(reactor, lambda: client.lost)


@overTLS
@pytest.mark.parametrize("length", [1, 4, 5, 50, None])
@inReactor
async def test_anIncompleteHandshakeIsFinished(
    reactor: Any, length: int | None, certificate: Path
) -> None:
    page = Page()
    listen = secureSite(page, certificate.read_bytes())
    async with running(reactor, listen) as (reloads, made):
        client = await secureClient(reactor, made.port)
        hello = client.hello()
        client.send(hello[:length])
        await turn(reactor)
        ended = reloads.stopService()
        await sleep(reactor, LONG)
        client.send(hello[len(hello[:length]) :])
        await client.connect()
        client.send(client.encrypt(REQUEST))
        await page.answer(reactor)
        assert b"Connection: close" in await client.receive(b"0\r\n\r\n")
        await ended


@overTLS
@pytest.mark.parametrize("length", [1, 5, 6, -1])
@inReactor
async def test_anIncompleteRecordIsAnswered(
    reactor: Any, length: int, certificate: Path
) -> None:
    """
    Also after a request that was answered.
    """
    page = Page()
    listen = secureSite(page, certificate.read_bytes())
    async with running(reactor, listen) as (reloads, made):
        client = await secureClient(reactor, made.port)
        await client.connect()
        client.send(client.encrypt(REQUEST))
        await page.answer(reactor)
        await client.receive(b"0\r\n\r\n")
        record = client.encrypt(REQUEST)
        client.send(record[:length])
        await turn(reactor)
        ended = reloads.stopService()
        await sleep(reactor, LONG)
        client.send(record[length:])
        await page.answer(reactor)
        assert b"Connection: close" in await client.receive(b"0\r\n\r\n")
        await ended


@overTLS
@pytest.mark.parametrize("progress", ["nothing", "handshake", "request"])
@inReactor
async def test_anIdleTLSConnectionIsClosed(
    reactor: Any, progress: str, certificate: Path
) -> None:
    page = Page()
    listen = secureSite(page, certificate.read_bytes())
    async with running(reactor, listen) as (reloads, made):
        client = await secureClient(reactor, made.port)
        if progress != "nothing":
            await client.connect()
        if progress == "request":
            client.send(client.encrypt(REQUEST))
            await page.answer(reactor)
            await client.receive(b"0\r\n\r\n")
        await turn(reactor)
        await reloads.stopService()
        await until(reactor, lambda: client.client.lost)


@overTLS
@pytest.mark.parametrize("part", ["preface", "frame", "headers"])
@inReactor
async def test_anIncompleteHTTP2RequestIsAnswered(
    reactor: Any, part: str, http2: Any
) -> None:
    page = Page()
    async with running(reactor, http2.listen(page)) as (reloads, made):
        client = await http2(reactor, made)
        request = client.request()
        begin = {
            "preface": request[:5],
            "frame": request[:-3],
            "headers": _withoutEnd(request),
        }[part]
        end = request[len(begin) :] if part != "headers" else CONTINUATION
        client.send(begin)
        await turn(reactor)
        ended = reloads.stopService()
        await sleep(reactor, LONG)
        client.send(end)
        await page.answer(reactor)
        await client.receive(lambda: client.ended)
        assert client.statuses == {1: b"200"}
        await ended


#: The end of the headers of the first stream, without any more of them.
CONTINUATION = ContinuationFrame(1, flags=["END_HEADERS"]).serialize()


def _withoutEnd(request: bytes) -> bytes:
    # The flags are five bytes before the headers.
    at = request.rindex(b"\x00\x00\x00\x01") - 1
    assert request[at] & END_HEADERS
    return request[:at] + bytes([request[at] & ~END_HEADERS]) + request[at + 1 :]


END_HEADERS = 4


@overTLS
@inReactor
async def test_anIdleHTTP2ConnectionIsClosed(reactor: Any, http2: Any) -> None:
    page = Page()
    async with running(reactor, http2.listen(page)) as (reloads, made):
        client = await http2(reactor, made)
        client.send(client.request())
        await page.answer(reactor)
        await client.receive(lambda: client.ended)
        stopped = reloads.stopService()
        await client.receive(lambda: client.lastStreams)
        assert client.lastStreams == [1]
        await stopped


@inReactor
async def test_aProgramWithoutTLSNeedsNone(
    reactor: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "twisted.protocols.tls", raising=False)
    async with running(reactor, site(Page())) as (reloads, made):
        client = await made.connect()
        await turn(reactor)
        await reloads.stopService()
        await until(reactor, lambda: client.lost)


def test_privatePartsOfTwistedAreWhereTheyAreLookedFor() -> None:
    """
    Without them, a stop waits for idle connections, or closes those that are not.
    """
    protocol: Any = HTTPFactory(reactor=Clock()).buildProtocol(None)
    assert isinstance(protocol._channel, HTTPChannel)
    assert (protocol._channel.requests, protocol._channel._dataBuffer) == ([], [])
    assert LineReceiver()._buffer == b""
    wrapped = Factory.forProtocol(Protocol)
    layer: Any = HAProxyWrappingFactory(wrapped).buildProtocol(None)
    assert (layer._proxyInfo, layer._parser) == (None, None)
    connection = h2.connection.H2Connection(h2.config.H2Configuration(False))
    buffer: Any = connection.incoming_buffer
    assert buffer._preamble_len == 24
    assert [buffer._headers_buffer, vars(buffer).get("_data", b"")] == [[], b""]
