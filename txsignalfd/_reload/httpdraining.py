# -*- test-case-name: tests.reload.test_httpdraining -*-
"""
End HTTP connections, and WebSockets, without losing a request.

A server that closes an idle connection of HTTP/1.1 may do so at the moment when
the client sends its next request, which then gets no answer.  Instead the server
can say with a response that it is the last one on this connection (RFC 9112,
9.6).

A server of HTTP/2 sends GOAWAY (RFC 9113, 6.8).  The state machine of C{h2} can
send this frame only when the connection is over.  So the first GOAWAY, which
asks the client to send no new requests, bypasses it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Final
from weakref import WeakSet

from twisted.protocols.policies import ProtocolWrapper

from txsignalfd._reload.idle import (
    channelOf,
    hasBufferedData,
    hasUnreadData,
    isHTTP1,
    isHTTP2,
    isIdle,
)
from txsignalfd._reload.transaction import Timer

#: Codes of a WebSocket that the server closes (RFC 6455, 7.4.1, and its registry).
_GOING_AWAY: Final = 1001
_SERVICE_RESTART: Final = 1012


class _LastHeaders:
    """
    Replaces C{writeHeaders} of an HTTP/1.1 channel, to make a response the last.
    """

    def __init__(self, connection: Any, channel: Any) -> None:
        self._connection = connection
        self._channel = channel
        self._writeHeaders = channel.writeHeaders
        #: Whether to announce the end although more requests have arrived.
        self.isUrgent = False

    def __call__(
        self, version: bytes, code: bytes, reason: bytes, headers: Any
    ) -> None:
        """
        Write the headers of a response.

        Unless more requests have arrived, they say that it is the last one.
        """
        channel = self._channel
        # A WebSocket begins with a response, too.
        isUpgrade = code == b"101"
        hasMore = hasBufferedData(channel) or hasUnreadData(self._connection)
        if not isUpgrade and (self.isUrgent or not hasMore):
            headers.setRawHeaders(b"connection", [b"close"])
            channel.persistent = False
        self._writeHeaders(version, code, reason, headers)


class _GoAway:
    """
    Replaces C{_requestDone} of an HTTP/2 channel, to send GOAWAY after a response.

    The method is private to C{twisted.web}, which has no public hook at the end
    of a stream.  Clients need no GOAWAY while they wait for a response, and some
    give up the response then.
    """

    def __init__(self, channel: Any) -> None:
        self._channel = channel
        self._requestDone = channel._requestDone  # noqa: SLF001
        self._isSent = False

    def __call__(self, streamID: int) -> None:
        """
        Forget a stream, and send GOAWAY if it was the last one.
        """
        self._requestDone(streamID)
        if not self._channel.streams:
            self.send()

    def send(self) -> bool:
        """
        Send GOAWAY.

        @return: Whether it was sent before.
        """
        isSent, self._isSent = self._isSent, True
        if not isSent:
            from hyperframe.frame import GoAwayFrame

            # Requests that the client has sent meanwhile are answered.
            frame = GoAwayFrame(last_stream_id=2**31 - 1)
            self._channel.transport.write(frame.serialize())
        return isSent


def announceEnd(connection: Any) -> None:
    """
    Let the next response on a connection say that it is the last one.

    Connections of other protocols than HTTP go on.  May be called repeatedly: a
    new connection is not known to be one of HTTP/2 yet.
    """
    channel = channelOf(connection)
    if isHTTP1(channel):
        if not isinstance(channel.writeHeaders, _LastHeaders):
            channel.writeHeaders = _LastHeaders(connection, channel)
    elif isHTTP2(channel) and not isinstance(
        channel._requestDone,  # noqa: SLF001
        _GoAway,
    ):
        channel._requestDone = _GoAway(channel)  # noqa: SLF001


def urgeEnd(connection: Any) -> None:
    """
    Announce the end of a connection although it is busy.

    A client that always sends more requests than it has responses would learn of
    it too late.
    """
    headers = getattr(channelOf(connection), "writeHeaders", None)
    if isinstance(headers, _LastHeaders):
        headers.isUrgent = True
    sendGoAway(connection)


def sendGoAway(connection: Any) -> bool:
    """
    Send GOAWAY on a connection whose end was announced, if it is one of HTTP/2.

    @return: Whether it was sent before.
    """
    done = getattr(channelOf(connection), "_requestDone", None)
    return isinstance(done, _GoAway) and done.send()


def closeIfIdle(connection: Any) -> bool:
    """
    Close a connection if it is idle.

    @return: Whether it was.
    """
    if not isIdle(connection):
        return False
    channel = channelOf(connection)
    if isHTTP1(channel):
        channel.loseConnection()
    else:
        # It sends GOAWAY with the number of the last request.
        channel.timeoutConnection()
        # TLS does not end before its producer.
        channel.transport.unregisterProducer()
    return True


def goAway(connection: Any) -> bool:
    """
    Close a WebSocket, because the process ends at once.

    @return: Whether the connection is one that was open.
    """
    if connection.disconnecting:
        return False
    return _closeWebSocket(channelOf(connection), _GOING_AWAY)


def _closeWebSocket(channel: Any, code: int) -> bool:
    # Autobahn's protocol replaces the one of HTTP.
    if hasattr(channel, "sendCloseFrame"):
        if channel.state != channel.STATE_OPEN:
            return False
        # C{sendClose} accepts no code of a server.
        channel.sendCloseFrame(code=code, isReply=False)
        return True
    # Twisted's receives the data of the channel in place of it.
    receive = getattr(channel, "dataReceived", None)
    receiver: Any = getattr(receive, "__self__", None)
    if not hasattr(receiver, "sendTextMessage"):
        return False
    receiver.loseConnection(code)
    return True


class HTTPDraining:
    """
    Ends the HTTP connections of one generation.
    """

    def __init__(
        self, reactor: Any, each: Callable[[Callable[[Any], object]], None]
    ) -> None:
        """
        @param reactor: The reactor.
        @param each: Calls a function with each connection of the generation.
        """
        self._reactor = reactor
        self._each = each
        self._mayClose = False
        #: Those that were idle when they were examined the last time, and those
        #: that wait for the client to end TLS, too.
        self._idle: WeakSet[Any] = WeakSet()
        self._closing: WeakSet[Any] = WeakSet()
        self._timer: Timer | None = None

    def begin(self, interval: float, mayClose: bool) -> None:
        """
        Announce the end of each connection, and end those that stay idle.

        @param interval: How long a connection is idle before it is ended.
        @param mayClose: Whether to close idle connections of HTTP/1.1, too,
            although a request may be on its way.
        """
        self.end()
        self._mayClose = mayClose
        self._idle.clear()
        self._examine(interval)

    def end(self) -> None:
        """
        Examine connections no longer.
        """
        if self._timer is not None:
            self._timer.cancel()

    def _examine(self, interval: float) -> None:
        before, self._idle = self._idle, WeakSet()

        def examine(connection: Any) -> None:
            announceEnd(connection)
            if not isIdle(connection):
                return
            self._idle.add(connection)
            if connection not in before:
                return
            if connection in self._closing:
                if self._mayClose:
                    connection.loseConnection()
            elif self._mayClose or sendGoAway(connection):
                self._closing.add(connection)
                closeIfIdle(connection)

        self._each(examine)
        longer = interval if self._mayClose else 2 * interval
        examineAgain = partial(self._examine, longer)
        self._timer = Timer(self._reactor, interval, examineAgain)

    def close(self, connection: Any) -> None:
        """
        Close a connection whose time limit has passed, of any protocol.
        """
        if connection in self._closing:
            connection.loseConnection()
            return
        if closeIfIdle(connection) or connection.disconnecting:
            return
        code = _GOING_AWAY if self._mayClose else _SERVICE_RESTART
        if not _closeWebSocket(channelOf(connection), code):
            protocol = connection.protocol
            # TLS sends a closing message of its own.
            isTLS = isinstance(protocol, ProtocolWrapper)
            (protocol if isTLS else connection).loseConnection()
