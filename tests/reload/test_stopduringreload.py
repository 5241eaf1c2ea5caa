"""
A stop while a reload has stopped the old service first: no connection is reset.
"""

from __future__ import annotations

import socket
from contextlib import ExitStack, suppress
from typing import Any

import pytest
from twisted.internet.defer import Deferred

from tests.support.clients import tcp
from tests.support.freeports import freePort
from tests.support.generations import ServiceFactory, serving
from tests.support.inreactor import inReactor
from tests.support.reactors import turn, until
from txsignalfd import NotServing


async def received(client: socket.socket) -> bytes:
    """
    Return what a client receives.
    """
    client.setblocking(False)
    while True:
        await turn()
        with suppress(BlockingIOError):
            return client.recv(100)


@inReactor
async def test_pendingConnectionsAreServedWhileTheOldServiceDrains() -> None:
    """
    New ones are refused.
    """
    factory = ServiceFactory(freePort())
    async with serving(factory, stopFirst=True) as (reloads, _):
        busy = await factory.connect()
        assert await busy.line() == b"1"
        reloaded = reloads.reload()
        with ExitStack() as stack:
            pending = [stack.enter_context(tcp(factory.port)()) for _ in range(20)]
            await turn()
            stopped = reloads.stopService()
            for client in pending:
                assert await received(client) == b"1\n"
            with pytest.raises(ConnectionRefusedError):
                tcp(factory.port)()
            assert await busy.ask(b"still") == b"still"
            assert not stopped.called
        await busy.end()
        await stopped
        with pytest.raises(NotServing):
            await reloaded


@pytest.mark.parametrize("where", ["old service", "new service"])
@inReactor
async def test_pendingConnectionsAreClosedWhenNoServiceRuns(where: str) -> None:
    """
    In order, also when they have sent a request already.
    """
    factory = ServiceFactory(freePort())
    async with serving(factory, stopFirst=True) as (reloads, _):
        stopping: Deferred[None] = Deferred()
        factory.instead = Deferred
        if where == "old service":
            old = factory.services[0]
            old.stopService = lambda: stopping
        reloads.reload().addErrback(lambda _: None)
        await until(lambda: where == "old service" or not isOldRunning(reloads))
        with tcp(factory.port)() as client:
            client.sendall(b"a request\n" * 1000)
            await turn()
            stopped = reloads.stopService()
            assert await received(client) == b""
        if where == "old service":
            stopping.callback(None)
        await stopped


@inReactor
async def test_aFloodOfPendingConnectionsDelaysNoStop(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """
    A limited number of them is closed in order.
    """
    monkeypatch.setattr("txsignalfd._reload.listener.MAX_BACKLOG", 1)
    factory = ServiceFactory(freePort())
    async with serving(factory, stopFirst=True) as (reloads, _):
        factory.instead = Deferred
        reloads.reload().addErrback(lambda _: None)
        await until(lambda: not isOldRunning(reloads))
        with tcp(factory.port)() as first, tcp(factory.port)() as second:
            await reloads.stopService()
            assert await received(first) == b""
            with pytest.raises(ConnectionResetError):
                await received(second)


def isOldRunning(reloads: Any) -> bool:
    """
    Whether the first generation has not stopped.
    """
    return any("generation 1 " in text for text in reloads.describe())
