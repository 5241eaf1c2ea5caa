"""
Web sites under test, and clients that send any part of a request.
"""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import h2.config
import h2.connection
import h2.events
import pytest
from twisted.internet.ssl import PrivateCertificate
from twisted.protocols.tls import TLSMemoryBIOFactory
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Site

from tests.support.generations import Client, connectTo
from tests.support.ports import running
from tests.support.reactors import sleep, turn, until
from txsignalfd import ReloadService

#: The arguments that Twisted passes to pyOpenSSL are not ours.
overTLS = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning:twisted", "ignore:Passing pyOpenSSL"
)

#: Seconds in which an idle connection is closed by a stop, and much more.
IDLE, LONG = 0.02, 0.2

REQUEST = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"


class Page(Resource):
    """
    A page whose requests the test answers.
    """

    isLeaf = True

    def __init__(self) -> None:
        super().__init__()
        self.requests: list[Any] = []

    def render_GET(self, request: Any) -> Any:
        self.requests.append(request)
        return NOT_DONE_YET

    render_POST = render_GET

    async def answer(self) -> None:
        """
        Wait for the next request, and answer it.
        """
        await until(lambda: self.requests)
        self.requests.pop(0).finish()


def site(page: Page, wrap: Callable[[Any], Any] = lambda factory: factory) -> Any:
    """
    Open a TCP port of a site that has the page.

    @param wrap: Makes the factory of the port from the site.
    """
    return lambda reactor, number: reactor.listenTCP(
        0, wrap(Site(page, reactor=reactor)), interface="127.0.0.1"
    )


def secureSite(page: Page, pem: bytes) -> Any:
    """
    Open a TLS port of a site that has the page.
    """
    options = PrivateCertificate.loadPEM(pem).options()
    return lambda reactor, number: reactor.listenTCP(
        0,
        TLSMemoryBIOFactory(options, False, Site(page, reactor=reactor), reactor),
        interface="127.0.0.1",
    )


@asynccontextmanager
async def browsing(
    wrap: Callable[[Any], Any] = lambda factory: factory, **options: Any
) -> AsyncIterator[tuple[Page, ReloadService, Client]]:
    """
    Run a site with one page, and connect to it.

    @param options: See L{running}.
    """
    page = Page()
    async with running(site(page, wrap), **options) as (reloads, made):
        yield page, reloads, await made.connect()


@asynccontextmanager
async def stopping(reloads: ReloadService) -> AsyncIterator[None]:
    """
    Stop a service, let an idle connection be closed, and wait for the end.
    """
    await turn()
    ended = reloads.stopService()
    await sleep(LONG)
    yield
    await ended


async def lastAnswer(page: Page, client: Client) -> None:
    """
    Answer a request, and check that the client expects no other answer.
    """
    await page.answer()
    assert b"Connection: close" in await response(client)


async def response(client: Client) -> bytes:
    """
    Return a whole response.
    """
    await until(lambda: b"0\r\n\r\n" in client.received or client.lost)
    head, end, client.received = client.received.partition(b"0\r\n\r\n")
    return head + end


class TLSClient:
    """
    A TLS client whose bytes the test sends in parts.
    """

    def __init__(self, client: Client, *protocols: str) -> None:
        self.client = client
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        context.set_alpn_protocols(protocols)
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing)

    def send(self, data: bytes) -> None:
        """
        Send bytes to the server.
        """
        self.client.send(data)

    def hello(self) -> bytes:
        """
        Return the beginning of the handshake.
        """
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            return self._outgoing.read()
        raise AssertionError("the server has sent nothing yet")

    async def connect(self) -> None:
        """
        Do the rest of the handshake.
        """
        while True:
            self._incoming.write(self.client.received)
            self.client.received = b""
            try:
                self._tls.do_handshake()
            except ssl.SSLWantReadError:
                assert not self.client.lost, self.client.lost
                self.send(self._outgoing.read())
                await turn()
            else:
                self.send(self._outgoing.read())
                return

    def encrypt(self, data: bytes) -> bytes:
        """
        Return the record that has the data.
        """
        self._tls.write(data)
        return self._outgoing.read()

    async def read(self) -> bytes:
        """
        Return what the server has sent meanwhile.
        """
        await turn()
        self._incoming.write(self.client.received)
        self.client.received = b""
        received = b""
        with suppress(ssl.SSLWantReadError):
            while data := self._tls.read():
                received += data
            # The server has ended TLS.
            transport: Any = self.client.transport
            transport.loseConnection()
        return received

    async def receive(self, end: bytes) -> bytes:
        """
        Return what the server sends, up to its end.
        """
        received = b""
        while end not in received and not self.client.lost:
            received += await self.read()
        return received


async def secureClient(port: int, *protocols: str) -> TLSClient:
    """
    Connect to a TLS port, and do no handshake yet.
    """
    return TLSClient(await connectTo(port), *protocols)


class HTTP2Client:
    """
    A client of HTTP/2 whose bytes the test sends in parts.
    """

    def __init__(self, tls: TLSClient) -> None:
        self.tls = tls
        config = h2.config.H2Configuration(header_encoding=None)
        self._connection = h2.connection.H2Connection(config)
        self._connection.initiate_connection()
        #: The responses that have begun, and those that have ended.
        self.statuses: dict[int, bytes] = {}
        self.ended: list[int] = []
        #: The last streams of all GOAWAY frames.
        self.lastStreams: list[int | None] = []

    def request(self) -> bytes:
        """
        Return the bytes of the next request, with all that comes before it.
        """
        stream = self._connection.get_next_available_stream_id()
        headers = [
            (":method", "GET"),
            (":scheme", "https"),
            (":authority", "localhost"),
            (":path", "/"),
        ]
        self._connection.send_headers(stream, headers, end_stream=True)
        return self._connection.data_to_send()

    def send(self, data: bytes) -> None:
        """
        Send bytes to the server.
        """
        if data:
            self.tls.send(self.tls.encrypt(data))

    def ping(self) -> None:
        """
        Send a frame that is no request.
        """
        self._connection.ping(b"12345678")
        self.send(self._connection.data_to_send())

    async def receive(self, condition: Callable[[], object]) -> None:
        """
        Receive frames until something is so, or the connection is closed.
        """
        while not (condition() or self.tls.client.lost):
            for event in self._connection.receive_data(await self.tls.read()):
                if isinstance(event, h2.events.ResponseReceived):
                    self.statuses[event.stream_id] = dict(event.headers)[b":status"]
                if isinstance(event, h2.events.StreamEnded):
                    self.ended.append(event.stream_id)
                if isinstance(event, h2.events.ConnectionTerminated):
                    self.lastStreams.append(event.last_stream_id)
            self.send(self._connection.data_to_send())
