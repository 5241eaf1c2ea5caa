"""
Reloads and stops when the user's code or the system fails.

Before the new generation serves, every failure is rolled back.  From then on no
failure keeps the old generation alive.  Every Deferred fires.
"""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
from twisted.application.service import Service
from twisted.internet.defer import Deferred, fail, maybeDeferred
from twisted.logger import LogEvent

from tests.support.generations import (
    Listening,
    NumberedDatagrams,
    NumberedFactory,
    ServiceFactory,
    serving,
    texts,
)
from tests.support.inreactor import inReactor
from tests.support.reactors import turn, until
from txsignalfd import NotServing
from txsignalfd._reload import generations
from txsignalfd._reload.listener import SharedSocket
from txsignalfd._reload.ports import SharedPort

pytestmark = pytest.mark.usefixtures("withoutPause")

#: Exceptions that C{except Exception} does not catch, and one that it does.
ERRORS = [asyncio.CancelledError, SystemExit, KeyboardInterrupt, RuntimeError]

everyError = pytest.mark.parametrize("error", ERRORS)


def raising(error: type[BaseException]) -> Callable[..., Any]:
    """
    Make a function that raises an error.
    """

    def function(*args: Any) -> Any:
        raise error("it fails")

    return function


def failing(error: type[BaseException]) -> Callable[..., Any]:
    """
    Make a function that returns a Deferred that has failed.
    """
    return lambda *args: fail(error("it fails"))


WAYS = {"raise": raising, "fail": failing}

everyWay = pytest.mark.parametrize("way", list(WAYS))


async def untilOneGeneration(reactor: Any, reloads: Any) -> None:
    """
    Wait until only one generation has not stopped.
    """
    await until(reactor, lambda: len(reloads.describe()) == 1)


@everyError
@everyWay
@inReactor
async def test_aServiceThatFailsToStopHasEnded(
    reactor: Any, error: type[BaseException], way: str
) -> None:
    async with serving(reactor) as (reloads, factory):
        factory.services[0].stopService = WAYS[way](error)
        await reloads.reload()
        assert await factory.served() == b"2"
        factory.services[1].stopService = WAYS[way](error)
        await reloads.stopService()


@inReactor
async def test_aServiceNeedNotWaitForItsPorts(
    reactor: Any, logged: list[LogEvent]
) -> None:
    """
    Many services do not return the Deferred of C{stopListening}.
    """

    class Careless(Service):
        def __init__(self) -> None:
            self.ports = [
                reactor.listenTCP(0, NumberedFactory(1)),
                reactor.listenUDP(0, NumberedDatagrams(1)),
            ]

        def stopService(self) -> None:
            super().stopService()
            for port in self.ports:
                port.stopListening()

    async with serving(reactor, Careless) as (reloads, _):
        await reloads.reload()
        await turn(reactor)
    assert not any("log_failure" in event for event in logged)


@everyError
@everyWay
@inReactor
async def test_aCommitThatFailsKeepsNoGeneration(
    reactor: Any, error: type[BaseException], way: str
) -> None:
    """
    And the other participants commit.
    """
    committed: list[int] = []
    async with serving(reactor) as (reloads, factory):
        reloads.addParticipant(lambda: (WAYS[way](error), int))
        reloads.addParticipant(lambda: (lambda: committed.append(1), int))
        await reloads.reload()
        assert committed == [1]
        assert len(reloads.describe()) == 1
        assert await factory.served() == b"2"


@inReactor
async def test_aCommitThatNeverEndsKeepsNoGeneration(
    reactor: Any, monkeypatch: pytest.MonkeyPatch, logged: list[LogEvent]
) -> None:
    monkeypatch.setattr(generations, "LATE", 0.01)
    async with serving(reactor, drain=0.01) as (reloads, factory):
        reloads.addParticipant(lambda: (Deferred, int))
        await reloads.reload()
        assert await factory.served() == b"2"
    assert any("no longer waiting for it" in text for text in texts(logged))


@everyError
@inReactor
async def test_anObserverThatFailsEndsNoReload(
    reactor: Any, error: type[BaseException]
) -> None:
    async with serving(reactor) as (reloads, factory):
        reloads.addObserver(raising(error), raising(error))
        await reloads.reload()
        factory.instead = raising(ZeroDivisionError)
        with pytest.raises(ZeroDivisionError):
            await reloads.reload()
        assert await factory.served() == b"2"


class Faulty(Listening):
    """
    A service with a port that fails to start.
    """

    def __init__(self, factory: ServiceFactory, start: Callable[..., Any]) -> None:
        super().__init__(
            lambda: factory.reactor.listenTCP(
                0, NumberedFactory(0), interface="127.0.0.1"
            )
        )
        self.startService = start  # type: ignore[method-assign]


@everyError
@everyWay
@pytest.mark.parametrize("where", ["prepare", "factory", "start"])
@pytest.mark.parametrize("stopFirst", [False, True])
@inReactor
async def test_aFailureBeforeTheNewServiceServesIsRolledBack(
    reactor: Any, error: type[BaseException], way: str, where: str, stopFirst: bool
) -> None:
    """
    Also when a rollback fails.
    """
    bad = WAYS[way](error)
    rolledBack: list[int] = []
    async with serving(reactor, stopFirst=stopFirst) as (reloads, factory):
        reloads.addParticipant(lambda: (int, lambda: rolledBack.append(1)))
        reloads.addParticipant(lambda: (int, bad))
        port = factory.address
        if where == "prepare":
            reloads.addParticipant(bad)
        else:
            makers = {"factory": bad, "start": lambda: Faulty(factory, bad)}
            factory.instead = makers[where]
        with pytest.raises(error):
            await reloads.reload()
        assert rolledBack == [1]
        assert len(reloads.describe()) == 1
        assert factory.address == port
        assert await factory.served() == b"1"


@everyError
@everyWay
@inReactor
async def test_aTriggerThatFailsKeepsNoGeneration(
    reactor: Any, error: type[BaseException], way: str
) -> None:
    made = ServiceFactory(reactor)

    def factory() -> Any:
        if len(made.services) == 1:
            reactor.addSystemEventTrigger("during", "shutdown", WAYS[way](error))
        return made()

    async with serving(reactor, factory) as (reloads, _):
        await reloads.reload()
        await reloads.reload()
        assert len(reloads.describe()) == 1
        assert await made.served() == b"3"


@everyError
@everyWay
@inReactor
async def test_anOldServiceThatCannotStartAgainIsReloaded(
    reactor: Any, error: type[BaseException], way: str
) -> None:
    """
    The reload fails with the reason of the new service.
    """
    async with serving(reactor, stopFirst=True) as (reloads, factory):
        factory.services[0].startService = WAYS[way](error)
        factory.instead = raising(ZeroDivisionError)
        with pytest.raises(ZeroDivisionError):
            await reloads.reload()
        factory.instead = None
        await reloads.reload()
        assert await factory.served() == b"2"


@everyError
@inReactor
async def test_aProtocolOrFactoryThatFailsKeepsNoGeneration(
    reactor: Any, error: type[BaseException]
) -> None:
    async with serving(reactor, drain=0.05) as (reloads, factory):
        client = await factory.connect()
        await client.line()
        assert reloads._generations is not None
        (connection,) = reloads._generations.current.resources.connections
        connection.protocol.connectionLost = raising(error)
        connection.loseConnection = raising(error)
        factory.factories[0].stopFactory = raising(error)
        await reloads.reload()
        await until(reactor, lambda: client.lost)
        assert await factory.served() == b"2"


@pytest.mark.parametrize("where", ["prepare", "factory", "start"])
@everyError
@inReactor
async def test_aCancellerThatFailsDelaysNoStop(
    reactor: Any, where: str, error: type[BaseException]
) -> None:
    def hang(*args: Any) -> Any:
        return Deferred(raising(error))

    async with serving(reactor) as (reloads, factory):
        if where == "prepare":
            reloads.addParticipant(hang)
        else:
            makers = {"factory": hang, "start": lambda: Faulty(factory, hang)}
            factory.instead = makers[where]
        reloaded = reloads.reload()
        await reloads.stopService()
        with pytest.raises(NotServing):
            await reloaded


@inReactor
async def test_aReloadEndsWithAStopThatDoesNotWait(reactor: Any) -> None:
    """
    Also when the old service never stops.
    """

    class Stuck(Service):
        def stopService(self) -> Deferred[None]:
            super().stopService()
            return Deferred()

    async with serving(reactor, Stuck) as (reloads, _):
        reloaded = reloads.reload()
        assert not reloaded.called
        reloads.cut()
        await reloads.stopService()
        await reloaded


def failingSocket(name: str) -> Callable[..., Any]:
    """
    Make a method of a socket that does its work, and then reports an error.
    """
    original = getattr(SharedSocket, name)

    def method(self: Any, *args: Any) -> Any:
        original(self, *args)
        raise OSError(errno.EIO, "it fails")

    return method


class FailingPoller:
    """
    An epoll object that unregisters descriptors, and then reports an error.
    """

    def __init__(self, poller: Any) -> None:
        self._poller = poller

    def __getattr__(self, name: str) -> Any:
        return getattr(self._poller, name)

    def unregister(self, fd: int) -> None:
        self._poller.unregister(fd)
        raise OSError(errno.ENOENT, "it fails")


def test_aPortThatStaysInTheReactorAcceptsNothing(logged: list[LogEvent]) -> None:
    class BadPort:
        reactor = None

        def stopReading(self) -> None:
            raise OSError(errno.EBADF, "it fails")

        def doRead(self) -> None:
            raise AssertionError

    class Port(SharedPort, BadPort):
        pass

    port = Port()
    port.suspended = True
    port.stopReading()
    port.doRead()
    assert any("could not be removed" in text for text in texts(logged))


@pytest.mark.parametrize("call", ["close", "listen", "getsockname", "epoll_ctl"])
@pytest.mark.parametrize("stopFirst", [False, True])
@inReactor
async def test_aSystemErrorKeepsNoGeneration(
    reactor: Any, call: str, stopFirst: bool
) -> None:
    """
    While the old generation retires.
    """

    def inject() -> None:
        if call == "epoll_ctl":
            faults.setattr(reactor, "_poller", FailingPoller(reactor._poller))
        else:
            faults.setattr(SharedSocket, call, failingSocket(call))

    faults = pytest.MonkeyPatch()
    async with serving(reactor, stopFirst=stopFirst) as (reloads, factory):
        old = factory.services[0]

        async def stopService() -> None:
            inject()
            await maybeDeferred(Listening.stopService, old)
            faults.undo()

        if stopFirst:
            old.stopService = stopService
        else:
            reloads.addParticipant(lambda: (inject, int))
        reloaded = reloads.reload()
        await untilOneGeneration(reactor, reloads)
        await reloaded
        faults.undo()
        for _ in range(5):
            assert await factory.served() == b"2"


@pytest.mark.parametrize("call", ["listen", "getsockname"])
@inReactor
async def test_aSystemErrorBeforeTheOldServiceStopsFailsNoReload(
    reactor: Any, call: str
) -> None:
    faults = pytest.MonkeyPatch()
    async with serving(reactor, stopFirst=True) as (reloads, factory):
        old = factory.services[0]

        def stopService() -> Any:
            faults.undo()
            return Listening.stopService(old)

        old.stopService = stopService
        faults.setattr(SharedSocket, call, failingSocket(call))
        await reloads.reload()
        assert await factory.served() == b"2"


@inReactor
async def test_withStopFirstAServiceThatDoesNotStopDelaysNoReloadForEver(
    reactor: Any, monkeypatch: pytest.MonkeyPatch, logged: list[LogEvent]
) -> None:
    monkeypatch.setattr(generations, "LATE", 0.01)
    async with serving(reactor, stopFirst=True, drain=0.01) as (reloads, factory):
        old = factory.services[0]
        # A Deferred without a reference would be collected, and end the coroutine.
        never: Deferred[None] = Deferred()

        async def stopService() -> None:
            await maybeDeferred(Listening.stopService, old)
            await never

        old.stopService = stopService
        reloaded = reloads.reload()
        await until(reactor, lambda: len(factory.services) == 2)
        assert await factory.served() == b"2"
        assert not reloaded.called
        reloaded.addErrback(lambda _: None)
    assert "generation 1 does not stop: no longer waiting for it" in texts(logged)


@pytest.mark.parametrize("call", ["close", "epoll_ctl"])
@inReactor
async def test_aSystemErrorDelaysNoStop(
    reactor: Any, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    async with serving(reactor) as (reloads, factory):
        port = factory.services[0].port
        if call == "epoll_ctl":
            port.stopReading = raising(OSError)
        else:
            monkeypatch.setattr(SharedSocket, call, failingSocket(call))
        await reloads.stopService()
        monkeypatch.undo()
        with suppress(AttributeError):
            del port.stopReading
        await turn(reactor)
