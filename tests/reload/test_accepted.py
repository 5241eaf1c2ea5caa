"""
A connection of an old generation is closed without losing its last data.
"""

from __future__ import annotations

import fcntl
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from twisted.internet.error import ConnectionDone

from tests.support.generations import Client, serving
from tests.support.inreactor import inReactor
from tests.support.reactors import turn, until
from txsignalfd._reload import accepted

#: More than a client receives that does not read, but not more than the kernel keeps.
MUCH = b"x" * 250_000


@asynccontextmanager
async def closing(data: bytes) -> AsyncIterator[tuple[Client, Any]]:
    """
    A client that does not read, and a connection of an old generation that is closed
    after it has sent some data.
    """
    async with serving() as (reloads, factory):
        client = await factory.connect()
        await client.line()
        (connection,) = reloads.generations[0].resources.connections
        connection.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2 * len(MUCH))
        reloads.reload()
        await until(lambda: len(factory.services) == 2)
        assert client.transport is not None
        client.transport.pauseProducing()
        connection.write(data)
        connection.loseConnection()
        yield client, connection
        client.transport.abortConnection()
        await until(lambda: not connection.connected)


def resume(client: Client) -> None:
    """
    Let a client read.
    """
    assert client.transport is not None
    client.transport.resumeProducing()  # type: ignore[attr-defined]


@inReactor
async def test_aClientThatSendsMoreReceivesEverything() -> None:
    async with closing(MUCH) as (client, connection):
        client.send(b"more")
        await until(lambda: connection._timer)
        client.send(b"and more")
        resume(client)
        await until(lambda: client.lost)
        assert client.received == MUCH
        assert client.lost is not None
        assert client.lost.check(ConnectionDone)


@inReactor
async def test_aClientThatReadsNothingIsNotWaitedForForEver(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(accepted.AcceptedTCP, "_left", 2 * accepted.INTERVAL)
    async with closing(MUCH) as (_, connection):
        await until(lambda: not connection.connected)


@inReactor
async def test_anAbortEndsTheWait() -> None:
    """
    The kernel still sends what was written, unless that has not begun.
    """
    async with closing(b"last") as (client, connection):
        await until(lambda: connection._timer)
        connection.abortConnection()
        resume(client)
        await until(lambda: client.lost)
        assert client.received == b"last"
    async with closing(100 * MUCH) as (client, connection):
        connection.abortConnection()
        resume(client)
        await until(lambda: client.lost)
        assert client.lost is not None
        assert not client.lost.check(ConnectionDone)


@inReactor
async def test_aClientThatHasGoneIsNotWaitedFor() -> None:
    async with closing(MUCH) as (client, connection):
        await until(lambda: connection._timer)
        assert client.transport is not None
        client.transport.loseWriteConnection()  # type: ignore[attr-defined]
        await until(lambda: not connection.connected)


@inReactor
async def test_aSystemThatDoesNotTellIsNotAsked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def ioctl(*_: Any) -> bytes:
        raise OSError("unsupported")

    monkeypatch.setattr(fcntl, "ioctl", ioctl)
    async with closing(b"last") as (client, connection):
        await until(lambda: not connection.connected)
        resume(client)
        await until(lambda: client.lost)
        assert client.received == b"last"
        await turn()
