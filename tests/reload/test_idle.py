"""
Connections that have begun to speak are answered before they are closed.
"""

from __future__ import annotations

import sys
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
from tests.support.reactors import sleep, turn, until
from tests.support.websites import (
    LONG,
    REQUEST,
    browsing,
    lastAnswer,
    overTLS,
    response,
    stopping,
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
    request_: bytes, length: int, stopFirst: bool
) -> None:
    async with browsing(stopFirst=stopFirst) as (page, reloads, client):
        client.send(request_[:length])
        await turn()
        ended = reloads.reload() if stopFirst else reloads.stopService()
        await sleep(LONG)
        client.send(request_[length:])
        await lastAnswer(page, client)
        await ended


@pytest.mark.parametrize("more", [REQUEST, POST, REQUEST[:1]])
@inReactor
async def test_pipelinedRequestsAreAnswered(more: bytes) -> None:
    """
    Only the last response closes the connection.
    """
    async with browsing() as (page, reloads, client):
        client.send(REQUEST + more)
        await until(lambda: page.requests)
        ended = reloads.stopService()
        await page.answer()
        assert b"Connection: close" not in await response(client)
        await sleep(LONG)
        client.send(b"" if more != REQUEST[:1] else REQUEST[1:])
        await lastAnswer(page, client)
        await ended


@inReactor
async def test_anEmptyLineAfterARequestIsNoRequest() -> None:
    async with browsing() as (page, reloads, client):
        client.send(REQUEST + b"\r\n")
        await until(lambda: page.requests)
        ended = reloads.stopService()
        await lastAnswer(page, client)
        await ended


@inReactor
async def test_dataThatWasNotReadYetKeepsAConnectionOpen() -> None:
    async with browsing() as (page, reloads, client):
        assert reloads._generations is not None
        connections = reloads._generations.current.resources.connections
        await until(lambda: connections)
        (connection,) = connections
        connection.stopReading()
        client.send(REQUEST)
        async with stopping(reloads):
            connection.startReading()
            await lastAnswer(page, client)


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
async def test_aLayerThatBuffersKeepsAConnectionOpen(wrap: Any, begin: bytes) -> None:
    async with browsing(wrap) as (page, reloads, client):
        client.send(begin[:20])
        async with stopping(reloads):
            client.send(begin[20:] + (REQUEST if begin == PROXY else b""))
            await page.answer()
            assert b"200 OK" in await response(client)
            reloads.cut()


@pytest.mark.parametrize("wrap", [WrappingFactory, HAProxyWrappingFactory])
@inReactor
async def test_anIdleConnectionWithLayersIsClosed(wrap: Any) -> None:
    async with browsing(wrap) as (_, reloads, client):
        if wrap is HAProxyWrappingFactory:
            client.send(PROXY)
        await turn()
        await reloads.stopService()
        await until(lambda: client.lost)


@overTLS
@pytest.mark.parametrize("length", [1, 4, 5, 50, None])
@inReactor
async def test_anIncompleteHandshakeIsFinished(length: int | None, secure: Any) -> None:
    async with secure() as (page, reloads, client):
        hello = client.hello()
        client.send(hello[:length])
        async with stopping(reloads):
            client.send(hello[len(hello[:length]) :])
            await client.connect()
            client.send(client.encrypt(REQUEST))
            await page.answer()
            assert b"Connection: close" in await client.receive(b"0\r\n\r\n")


@overTLS
@pytest.mark.parametrize("length", [1, 5, 6, -1])
@inReactor
async def test_anIncompleteRecordIsAnswered(length: int, secure: Any) -> None:
    """
    Also after a request that was answered.
    """
    async with secure() as (page, reloads, client):
        await client.connect()
        client.send(client.encrypt(REQUEST))
        await page.answer()
        await client.receive(b"0\r\n\r\n")
        record = client.encrypt(REQUEST)
        client.send(record[:length])
        async with stopping(reloads):
            client.send(record[length:])
            await page.answer()
            assert b"Connection: close" in await client.receive(b"0\r\n\r\n")


@overTLS
@pytest.mark.parametrize("progress", ["nothing", "handshake", "request"])
@inReactor
async def test_anIdleTLSConnectionIsClosed(progress: str, secure: Any) -> None:
    async with secure() as (page, reloads, client):
        if progress != "nothing":
            await client.connect()
        if progress == "request":
            client.send(client.encrypt(REQUEST))
            await page.answer()
            await client.receive(b"0\r\n\r\n")
        await turn()
        await reloads.stopService()
        await until(lambda: client.client.lost)


@overTLS
@pytest.mark.parametrize("part", ["preface", "frame", "headers"])
@inReactor
async def test_anIncompleteHTTP2RequestIsAnswered(part: str, http2: Any) -> None:
    async with http2() as (page, reloads, client):
        request = client.request()
        begin = {
            "preface": request[:5],
            "frame": request[:-3],
            "headers": _withoutEnd(request),
        }[part]
        end = request[len(begin) :] if part != "headers" else CONTINUATION
        client.send(begin)
        async with stopping(reloads):
            client.send(end)
            await page.answer()
            await client.receive(lambda: client.ended)
            assert client.statuses == {1: b"200"}


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
async def test_anIdleHTTP2ConnectionIsClosed(http2: Any) -> None:
    async with http2() as (page, reloads, client):
        client.send(client.request())
        await page.answer()
        await client.receive(lambda: client.ended)
        stopped = reloads.stopService()
        await client.receive(lambda: client.lastStreams)
        assert client.lastStreams == [1]
        await stopped


@inReactor
async def test_aProgramWithoutTLSNeedsNone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "twisted.protocols.tls", raising=False)
    async with browsing() as (_, reloads, client):
        await turn()
        await reloads.stopService()
        await until(lambda: client.lost)


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
