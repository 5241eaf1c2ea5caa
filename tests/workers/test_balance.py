"""
Workers accept from one socket, and leave connections to each other.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, closing
from time import monotonic
from typing import Any

import pytest
from twisted.internet.defer import maybeDeferred
from twisted.internet.protocol import Factory, Protocol

from tests.support.clients import Connect, tcp
from tests.support.inreactor import inReactor
from tests.support.reactors import until, untilLength
from txsignalfd._reload import ports
from txsignalfd._reload.generation import Resources
from txsignalfd._reload.listener import Listener
from txsignalfd._reload.ports import TCPPort


class Quiet(Factory):
    protocol = Protocol
    noisy = False


def contended(reactor: Any) -> tuple[TCPPort, Connect]:
    """
    Open a port from which other processes accept, too.
    """
    port = TCPPort(0, Quiet(), interface="127.0.0.1", reactor=reactor)
    port.listenAs(("TCP", "127.0.0.1", 0), None, Resources())
    port.resources.started()
    return port, tcp(port.getHost().port)


@pytest.fixture(autouse=True)
def _isContended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Listener, "isContended", True)
    monkeypatch.setattr(ports, "_PERIOD", 1000.0)


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as made:
        yield made


@inReactor
async def test_aPortThatHasAcceptedLeavesTheNextConnection(
    reactor: Any, stack: ExitStack
) -> None:
    """
    For a moment; then it accepts, too.
    """
    port, connect = contended(reactor)
    for _ in range(3):
        stack.enter_context(closing(connect()))
    port.doRead()
    assert len(port.resources.connections) == 1
    assert port not in reactor.getReaders()
    await untilLength(port.resources.connections, 3)
    await maybeDeferred(port.stopListening)


@inReactor
async def test_aPortWhoseConnectionsDoNotBecomeMoreLeavesNone(
    reactor: Any, monkeypatch: pytest.MonkeyPatch, stack: ExitStack
) -> None:
    """
    Unless they have become much fewer before.
    """
    port, connect = contended(reactor)
    connections = port.resources.connections
    first = connect()
    second = stack.enter_context(closing(connect()))
    await untilLength(connections, 2)
    await until(lambda: port in reactor.getReaders())
    first.close()
    await untilLength(connections, 1)
    third = connect()
    port.doRead()
    assert len(connections) == 2
    assert port in reactor.getReaders()
    monkeypatch.setattr(ports, "_VARIATION", 0)
    for each in (second, third):
        each.close()
    await untilLength(connections, 0)
    stack.enter_context(closing(connect()))
    port.doRead()
    assert port not in reactor.getReaders()
    await maybeDeferred(port.stopListening)


@inReactor
async def test_aPortThatLeavesNoneAcceptsSeveralAtOnce(
    reactor: Any, stack: ExitStack
) -> None:
    """
    A turn of the reactor for each connection takes a third of the time of a request.
    """
    port, connect = contended(reactor)
    port._since, port._most = monotonic(), ports._VARIATION
    for _ in range(ports._AT_ONCE + 1):
        stack.enter_context(closing(connect()))
    port.doRead()
    assert len(port.resources.connections) == ports._AT_ONCE
    await maybeDeferred(port.stopListening)


@inReactor
async def test_aPortThatEndsLeavesNone(reactor: Any, stack: ExitStack) -> None:
    """
    Nobody else may accept them.
    """
    port, connect = contended(reactor)
    for _ in range(3):
        stack.enter_context(closing(connect()))
    port.doRead()
    assert len(port.resources.connections) == 1
    port.acceptPending()
    assert len(port.resources.connections) == 3
    await maybeDeferred(port.stopListening)


@inReactor
async def test_aPortThatStopsMeanwhileStaysStopped(
    reactor: Any, stack: ExitStack
) -> None:
    port, connect = contended(reactor)
    stack.enter_context(closing(connect()))
    port.doRead()
    await maybeDeferred(port.stopListening)
    port._goOn()
    assert port not in reactor.getReaders()
