# -*- test-case-name: tests.reload.test_idle -*-
"""
Find out whether everything that an HTTP connection has received was answered.

The beginning of a request may be anywhere below the code that answers it: in the
receive buffer of the kernel, in an incomplete TLS record or handshake, in the
line buffer of an HTTP/1.1 channel, in an incomplete frame of HTTP/2.  A
connection is idle only if none of them has anything.  A layer that cannot be
examined may have something, so a connection with such a layer is never idle.
"""

from __future__ import annotations

import select
import sys
from collections.abc import Callable, Iterator
from typing import Any, Final

from twisted.protocols import policies

#: A TLS record begins with its type, its version and its length (RFC 8446, 5.1).
_RECORD_HEADER: Final = 5


class TLSRecords:
    """
    Follows the boundaries of the TLS records that a connection receives.

    It replaces C{dataReceived} of the protocol, because OpenSSL does not tell
    whether it has a part of a record.
    """

    def __init__(self, receive: Callable[[bytes], None]) -> None:
        """
        @param receive: The C{dataReceived} that is replaced.
        """
        self._receive = receive
        self._header = b""
        self._rest = 0
        #: Whether nothing was received yet.
        self.isUnused = True

    def __call__(self, data: bytes) -> None:
        """
        Receive bytes.
        """
        self.isUnused = False
        received = self._header + data
        end = self._rest
        last = len(received) - _RECORD_HEADER
        while end <= last:
            end += _RECORD_HEADER + (received[end + 3] << 8 | received[end + 4])
        self._header = received[end:]
        rest = end - len(received)
        self._rest = max(0, rest)
        self._receive(data)

    @property
    def areComplete(self) -> bool:
        """
        Whether no part of a record was received without its rest.
        """
        return not (self._header or self._rest)


def followRecords(protocol: Any) -> None:
    """
    Follow the TLS records of a connection that is being accepted.

    @param protocol: The protocol of its transport.
    """
    tls = sys.modules.get("twisted.protocols.tls")
    if tls is None:
        return
    for layer in _layers(protocol):
        if isinstance(layer, tls.TLSMemoryBIOProtocol):
            records = TLSRecords(layer.dataReceived)
            layer.dataReceived = records


def _layers(protocol: Any) -> Iterator[Any]:
    yield protocol
    while hasattr(protocol, "wrappedProtocol"):
        protocol = protocol.wrappedProtocol
        yield protocol


def isIdle(connection: Any) -> bool:
    """
    Return whether a connection is an HTTP connection that has answered everything.
    """
    channel = channelOf(connection)
    if isHTTP1(channel):
        isBusy = channel.requests or hasBufferedData(channel)
    elif isHTTP2(channel):
        isBusy = channel.streams or _hasPartOfFrame(channel)
    else:
        return False
    return not (isBusy or hasUnreadData(connection))


def channelOf(connection: Any) -> Any:
    """
    Return the innermost protocol of a connection.
    """
    *_, protocol = _layers(connection.protocol)
    # C{twisted.web} has no public way from the protocol of a connection to the
    # channel that it stands for, of HTTP/1.1 or HTTP/2.
    return getattr(protocol, "_channel", protocol)


def isHTTP1(channel: Any) -> bool:
    """
    Return whether a channel is one of HTTP/1.1.
    """
    return hasattr(channel, "checkPersistence")


def isHTTP2(channel: Any) -> bool:
    """
    Return whether a channel is one of HTTP/2.
    """
    return hasattr(channel, "streams") and hasattr(channel, "timeoutConnection")


def hasBufferedData(channel: Any) -> bool:
    """
    Return whether an HTTP/1.1 channel has received more than it has parsed.
    """
    # Both buffers are private: C{LineReceiver} has the first line of a request
    # until it is complete, and C{HTTPChannel} requests that are pipelined.
    buffered = [channel._buffer, *channel._dataBuffer]  # noqa: SLF001
    # A few clients send an empty line after a request.
    return bool(b"".join(buffered).strip(b"\r\n"))


def _hasPartOfFrame(channel: Any) -> bool:
    buffer = channel.conn.incoming_buffer
    # Private to h2, which called the first one C{data} before release 4.2.
    data = "data" if hasattr(buffer, "data") else "_data"
    parts = (data, "_preamble_len", "_headers_buffer")
    return any(getattr(buffer, part, True) for part in parts)


def hasUnreadData(connection: Any) -> bool:
    """
    Return whether the kernel or a layer below HTTP may have received anything.
    """
    *layers, _ = _layers(connection.protocol)
    if not all(map(_isEmpty, layers)):
        return True
    poller = select.poll()
    poller.register(connection.fileno(), select.POLLIN)
    return bool(poller.poll(0))


def _isEmpty(layer: Any) -> bool:
    records = layer.dataReceived
    if isinstance(records, TLSRecords):
        isConnected = layer.getHandle().get_peer_finished() is not None
        return records.isUnused or (isConnected and records.areComplete)
    if hasattr(layer, "_proxyInfo"):
        # The header of the PROXY protocol; there is no public way to learn of it.
        return layer._proxyInfo is not None or layer._parser is None  # noqa: SLF001
    # The policies of Twisted pass on what they receive.
    return getattr(records, "__module__", None) == policies.__name__
