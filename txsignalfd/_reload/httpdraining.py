# -*- test-case-name: tests.reload.test_httpdraining -*-
"""
The end of a kept-alive HTTP connection that no request is lost in.

A server that closes an idle connection may do so in the very moment in which
the client sends its next request, which then has no answer.  It can tell the
client instead, with its next response, that this was the last on this
connection, and both close: RFC 9112, 9.6.

HTTP/2 has words for it that leave no doubt (RFC 9113, 6.8), but C{h2} can say
them only when it has nothing more to say.
"""

from __future__ import annotations

import select
from collections.abc import Callable
from typing import Any

from zope.interface import directlyProvides, providedBy


def endAfterResponse(connection: Any, written: Callable[[], object]) -> None:
    """
    Have a connection end with the response that is being made, or else with the
    next, and have that say so.

    @param connection: The transport of a connection that a port has accepted.
        One that is no HTTP/1 of C{twisted.web} stays as it is.
    @param written: Called when a response is written that had begun, and so
        cannot say it: if there is no next one, somebody has to end it.
    """
    protocol = _unwrapped(connection.protocol)
    make = getattr(protocol, "requestFactory", None)
    if make is None or getattr(make, "isLast", False):
        return

    def makeLast(channel: Any, *args: Any, **keywords: Any) -> Any:
        request = make(channel, *args, **keywords)
        if _isHTTP1(channel):
            _endWith(request, channel)
        return request

    makeLast.isLast = True  # type: ignore[attr-defined]
    # It says how many arguments it takes by what it provides.
    directlyProvides(makeLast, *providedBy(make))
    protocol.requestFactory = makeLast
    channel = _channelOf(protocol)
    for request in channel.requests if _isHTTP1(channel) else []:
        if request.startedWriting:
            # It fails where the connection is lost before.
            request.notifyFinish().addCallbacks(lambda _: written(), lambda _: None)
        else:
            _endWith(request, channel)


def _isHTTP1(channel: Any) -> bool:
    # HTTP/2 has other words for it, and forbids these.
    return hasattr(channel, "checkPersistence")


def _isHTTP2(channel: Any) -> bool:
    return hasattr(channel, "streams") and hasattr(channel, "timeoutConnection")


def _endWith(request: Any, channel: Any) -> None:
    request.responseHeaders.setRawHeaders(b"connection", [b"close"])
    # Who says so has to close.  It asks this when it has read the headers.
    channel.persistent = False
    channel.checkPersistence = lambda request, version: False


def _unwrapped(protocol: Any) -> Any:
    # TLS wraps a protocol, and policies do.
    while hasattr(protocol, "wrappedProtocol"):
        protocol = protocol.wrappedProtocol
    return protocol


def _channelOf(protocol: Any) -> Any:
    # C{twisted.web} has no public way from the protocol to the channel that it
    # stands for.
    return getattr(protocol, "_channel", protocol)


def isIdle(connection: Any) -> bool:
    """
    Whether a connection is one of HTTP that has no request, not even its first
    line, and has sent nothing that was not read.
    """
    channel = _channelOf(_unwrapped(connection.protocol))
    if _isHTTP1(channel):
        isBusy = channel.requests
    elif _isHTTP2(channel):
        isBusy = channel.streams
    else:
        return False
    if isBusy:
        return False
    poller = select.poll()
    poller.register(connection.fileno(), select.POLLIN)
    return not poller.poll(0)


def closeIfIdle(connection: Any) -> bool:
    """
    Close a connection if it is idle.

    @return: Whether it was.
    """
    if not isIdle(connection):
        return False
    channel = _channelOf(_unwrapped(connection.protocol))
    if _isHTTP1(channel):
        # It produces what is sent, and TLS would wait until it has done so.
        channel.loseConnection()
    else:
        # As when it is idle for too long: it says that it ends.
        channel.timeoutConnection()
    # TLS has said that it ends; whoever does not read need not agree.
    connection.loseConnection()
    return True
