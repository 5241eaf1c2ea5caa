"""
Clients of HTTP/2 and of WebSockets, for threads: see L{tests.support.clients}.
"""

from __future__ import annotations

import os
import socket
import ssl
import struct
from collections.abc import Iterator

import h2.connection
import h2.events

from tests.support.clients import Connect

#: The bytes before the payload of a frame; three are its length (RFC 9113, 4.1).
_FRAME_HEADER = 9

#: The messages after which a WebSocket is closed and another one opened.
_MESSAGES = 50


def tlsOfHTTP2(connect: Connect, certificate: str) -> Connect:
    """
    Connect by TLS for HTTP/2.
    """
    context = ssl.create_default_context(cafile=certificate)
    context.set_alpn_protocols(["h2"])
    return lambda: context.wrap_socket(connect(), server_hostname="localhost")


class HTTP2:
    """
    A client that sends one request after the other on an HTTP/2 connection.

    A request that the server has not begun when it announces the end is sent again on
    the next connection (RFC 9113, section 6.8).

    @ivar texts: The answers.
    """

    def __init__(self, connect: Connect) -> None:
        self._connect = connect
        self._socket: socket.socket | None = None
        self.texts: list[bytes] = []

    def __call__(self) -> None:
        self.texts.append(self.get())

    def get(self) -> bytes:
        """
        Return the answer to the next request.
        """
        while (text := self._request()) is None:
            self.close()
        return text

    def _request(self) -> bytes | None:
        """
        @return: The answer, or C{None} if the server has not begun the request.
        """
        if self._socket is None:
            self._socket = self._connect()
            self._client = h2.connection.H2Connection()
            self._received = b""
            self._client.initiate_connection()
        stream = self._client.get_next_available_stream_id()
        asked = [(":method", "GET"), (":path", "/"), (":scheme", "https")]
        self._client.send_headers(
            stream, [*asked, (":authority", "localhost")], end_stream=True
        )
        text, hasEnded, isOver, last = b"", False, False, stream
        while not hasEnded and last >= stream:
            self._socket.sendall(self._client.data_to_send())
            data = self._socket.recv(65536)
            if not data:
                raise ConnectionResetError("no answer")
            for event in self._events(data):
                match event:
                    case h2.events.DataReceived():
                        text += event.data
                    case h2.events.StreamEnded():
                        hasEnded = True
                    case h2.events.ConnectionTerminated():
                        isOver, last = True, event.last_stream_id or 0
        if isOver:
            self.close()
        return text if hasEnded else None

    def _events(self, data: bytes) -> Iterator[h2.events.Event]:
        """
        Yield the events of each frame.

        A server may send GOAWAY and then the answer to a request that has crossed it.
        h2 takes every frame after GOAWAY for an error.
        """
        self._received += data
        machine = self._client.state_machine
        while len(self._received) >= (end := self._endOfFrame()):
            frame, self._received = self._received[:end], self._received[end:]
            yield from self._client.receive_data(frame)
            if machine.state is h2.connection.ConnectionState.CLOSED:
                machine.state = h2.connection.ConnectionState.CLIENT_OPEN

    def _endOfFrame(self) -> int:
        return _FRAME_HEADER + int.from_bytes(self._received[:3], "big")

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None


class Messages:
    """
    A client that sends messages to a WebSocket and waits for each answer.

    @ivar texts: The answers.
    """

    def __init__(self, connect: Connect) -> None:
        self._connect = connect
        self._socket: socket.socket | None = None
        self._left = 0
        self.texts: list[bytes] = []

    def __call__(self) -> None:
        if self._socket is None:
            self._open()
        self._send(0x81, b"message")
        self.texts.append(self._receive())
        self._left -= 1
        if not self._left:
            self.close()

    def _open(self) -> None:
        self._socket = self._connect()
        self._left = _MESSAGES
        self._file = self._socket.makefile("rb")
        self._socket.sendall(
            b"GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\n"
            b"Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
            b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        )
        status = self._file.readline()
        assert b" 101 " in status, status
        while self._file.readline().strip():
            pass

    def _send(self, kind: int, payload: bytes) -> None:
        assert self._socket is not None
        mask = os.urandom(4)
        masked = bytes(each ^ mask[i % 4] for i, each in enumerate(payload))
        frame = struct.pack("!BB", kind, 0x80 | len(payload)) + mask + masked
        self._socket.sendall(frame)

    def _receive(self) -> bytes:
        head = self._file.read(2)
        if len(head) < 2 or head[0] != 0x81:
            raise ConnectionResetError(f"no answer, but {head!r}")
        return self._file.read(head[1])

    def close(self) -> None:
        if self._socket is not None:
            self._send(0x88, struct.pack("!H", 1000))
            self._file.close()
            self._socket.close()
            self._socket = None
